"""What detectors share: one picture after the other goes in, boxes in its pixels and category ids come out."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate


class Detector(nn.Module):
    """A frozen network that finds objects in pictures, each by itself, so that what is found in one hangs on no other."""

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
            ValueError: of published networks, where an image is not (3, H, W), or holds values that are not finite.
        """
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


def reported(boxes: Tensor, scores: Tensor, labels: Tensor, image: Tensor) -> dict[str, Tensor]:
    """Boxes (n, 4) cut at the border of their image (3, H, W), with their scores and category ids."""
    height, width = image.shape[1:]
    limits = boxes.new_tensor([width, height, width, height])
    return {"boxes": boxes.clamp_min(0).minimum(limits), "scores": scores, "labels": labels}


def require_picture(image: Tensor) -> None:
    """Refuse what no detector takes.

    Raises:
        ValueError: not floats (3, H, W), or values that are not finite.
    """
    if image.ndim != 3 or image.shape[0] != 3 or not image.is_floating_point():
        raise ValueError(f"image is {image.dtype} of shape {tuple(image.shape)}: a detector takes floats (3, H, W)")
    if not image.isfinite().all():
        raise ValueError("image holds NaN or infinity: what made it, perhaps a diverged codec, is broken")
