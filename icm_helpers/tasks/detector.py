"""What detectors share: one picture after the other goes in, boxes in its pixels and category ids come out."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate, pad
from torchvision.models.detection.transform import GeneralizedRCNNTransform


class Detector(nn.Module):
    """A frozen network that finds objects in pictures, each by itself, so that what is found in one depends on no other."""

    categories: dict[int, str]

    @torch.no_grad()
    def detect(self, images: list[Tensor], **settings: Any) -> list[dict[str, Tensor]]:
        """Find objects.

        Args:
            images: RGB in [0, 1], each (3, H, W) of its own size.
            settings: those that its `_detect_one` names, with those of the official validation as defaults: `conf`, the least
                score; `iou`, by how much a box may overlap a better one of its class; `max_det`, most boxes an image.

        Returns:
            For each image {"boxes": (n, 4) x1 y1 x2 y2 in its pixels, "scores": (n,), "labels": (n,) category ids}, best
            first, and where it outlines objects also {"masks": (n, H, W) bool}.

        Raises:
            ValueError: an image is not (3, H, W), or holds values that are not finite.
        """
        for image in images:
            require_picture(image)
        self.eval()
        return [self._detect_one(image.to(self.device), **settings) for image in images]

    @property
    def device(self) -> torch.device:
        """Where its weights are."""
        return next(self.parameters()).device


def resized_to(image: Tensor, size: int) -> tuple[Tensor, float]:
    """(3, H, W) -> (1, 3, h, w) whose longer side is `size`, and what its sides were multiplied by."""
    scale = size / max(image.shape[1:])
    inner = [max(round(n * scale), 1) for n in image.shape[1:]]
    if list(image.shape[1:]) == inner:
        return image[None], scale
    return interpolate(image[None], inner, mode="bilinear", antialias=scale < 1).clamp(0, 1), scale


def letterboxed(image: Tensor, size: int, multiple: int = 32) -> tuple[Tensor, float, int, int]:
    """(3, H, W) -> (1, 3, h, w): longer side `size`, in the middle of grey borders to multiples of `multiple`; scale, left and top
    border."""
    resized, scale = resized_to(image, size)
    short = [-n % multiple for n in resized.shape[2:]]
    top, left = (n // 2 for n in short)
    return pad(resized, (left, short[1] - left, top, short[0] - top), value=114 / 255), scale, left, top


class Resize(GeneralizedRCNNTransform):
    """torchvision's way to resize pictures for an R-CNN, which leaves at least one pixel of a side: the rows or columns of a very
    long picture are repeated first."""

    @classmethod
    def of(cls, other: GeneralizedRCNNTransform) -> Resize:
        """With the settings of another."""
        return cls(other.min_size, other.max_size, other.image_mean, other.image_std, other.size_divisible)

    def resize(self, image: Tensor, target: dict[str, Tensor] | None = None) -> tuple[Tensor, dict[str, Tensor] | None]:
        """The picture (3, h, w) with the boxes and masks of `target`, where there are any."""
        short, times = min(image.shape[1:]), repeats(image, self.max_size)
        if times > 1:
            side = 1 + list(image.shape[1:]).index(short)
            image = image.repeat_interleave(times, side)
            if target is not None:
                scale = target["boxes"].new_tensor([times if side == 2 else 1, times if side == 1 else 1] * 2)
                target = {**target, "boxes": target["boxes"] * scale}
                if "masks" in target:
                    target["masks"] = target["masks"].repeat_interleave(times, side)
        return super().resize(image, target)


def repeats(image: Tensor, longest: int) -> int:
    """How often the shorter side of an image (3, H, W) is repeated, so that a pixel of it is left where the longer becomes
    `longest`: once in most.

    >>> repeats(torch.rand(3, 480, 640), 512), repeats(torch.rand(3, 1, 2000), 512)
    (1, 4)
    """
    short, long = sorted(image.shape[1:])
    return 1 if short * longest >= long else long // (short * longest) + 1


def reported(boxes: Tensor, scores: Tensor, labels: Tensor, image: Tensor) -> dict[str, Tensor]:
    """Boxes (n, 4) cut at the border of their image (3, H, W), with their scores and category ids."""
    height, width = image.shape[1:]
    limits = boxes.new_tensor([width, height, width, height])
    return {"boxes": boxes.clamp_min(0).minimum(limits), "scores": scores, "labels": labels}


def require_picture(image: Tensor) -> None:
    """Refuse what no detector takes.

    Raises:
        ValueError: not floats (3, H, W), no pixel, or values that are not finite.
    """
    if image.ndim != 3 or image.shape[0] != 3 or not image.is_floating_point():
        raise ValueError(f"image is {image.dtype} of shape {tuple(image.shape)}: a detector takes floats (3, H, W)")
    if not image.numel():
        raise ValueError(f"image of shape {tuple(image.shape)} has no pixel")
    if not image.isfinite().all():
        raise ValueError("image holds NaN or infinity: what made it, perhaps a diverged codec, is broken")
