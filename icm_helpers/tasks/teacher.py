"""What a detector offers to be distilled from: its pyramid of features, and where in it there may be objects."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol, runtime_checkable

from torch import Tensor, nn
from torch.nn.functional import interpolate

STRIDE = 32
"""Pictures come with sides that are multiples of it, so that every level of the pyramid covers the whole picture, and no more."""


@runtime_checkable
class Teacher(Protocol):
    """A frozen detector, differentiable in the images (N, 3, H, W), RGB in [0, 1], sides multiples of :data:`STRIDE`.

    Maps are level -> (N, C, h, w), levels from fine to coarse, `p2` to `p5` (of YOLOv5 `p3` to `p5`); objectness
    has the anchors of a cell in place of C, logits, and the same h and w as the features.
    """

    categories: dict[int, str]

    @classmethod
    def from_weights(cls, path: Path | str) -> Teacher:
        """A frozen model from its file."""
        ...

    def detect(self, images: list[Tensor]) -> list[dict[str, Tensor]]:
        """For each image `boxes` (n, 4) xyxy in pixels, `scores`, `labels` (category ids), perhaps `masks` (n, H, W)."""
        ...

    def features(self, images: Tensor) -> dict[str, Tensor]:
        """What enters the region proposal network and the heads."""
        ...

    def objectness(self, images: Tensor) -> dict[str, Tensor]:
        """A logit for each anchor of each cell that it holds an object."""
        ...

    def features_and_objectness(self, images: Tensor) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Both, in one pass."""
        ...


def require_pictures(images: Tensor) -> None:
    """Refuse what no teacher takes.

    Raises:
        ValueError: not (N, 3, H, W), sides no multiples of 32, or values that are not finite.
    """
    if images.ndim != 4 or images.shape[1] != 3 or images.shape[2] % STRIDE or images.shape[3] % STRIDE:
        raise ValueError(
            f"images of shape {tuple(images.shape)}: a teacher takes (N, 3, H, W), sides multiples of {STRIDE}"
        )
    if not images.isfinite().all():
        raise ValueError("images hold NaN or infinity: what made them, perhaps a diverged codec, is broken")


def magnified(images: Tensor, scale: float, multiple: int = STRIDE) -> Tensor:
    """Images resized (bilinear) by about `scale`, each side to the nearest multiple of `multiple`.

    Padding instead would leave cells at the border that show no picture; and the scale at which a detector sees a crop
    differs by less than the sizes of its objects do.

    >>> import torch
    >>> magnified(torch.rand(1, 3, 128, 192), 4 / 3).shape
    torch.Size([1, 3, 160, 256])
    """
    size = [max(round(side * scale / multiple), 1) * multiple for side in images.shape[2:]]
    return images if size == list(images.shape[2:]) else interpolate(images, size, mode="bilinear", align_corners=False)


class RCNNTeacher(nn.Module):
    """The teacher's side of torchvision's R-CNNs with a feature pyramid: backbone and proposal head, nothing else is computed.

    `model` is torchvision's network, and `scale` the magnification at which it sees pictures: crops keep it.
    """

    model: nn.Module
    scale: float

    def features(self, images: Tensor) -> dict[str, Tensor]:
        """The pyramid p2..p5: level -> (N, C, h, w), strides 4, 8, 16 and 32 in the magnified image.

        Args:
            images: (N, 3, H, W) RGB in [0, 1], sides multiples of 32.

        Raises:
            ValueError: another shape, or values that are not finite.
        """
        require_pictures(images)
        self.eval()
        prepare = self.model.transform
        mean, std = (images.new_tensor(v)[:, None, None] for v in (prepare.image_mean, prepare.image_std))
        maps = self.model.backbone((magnified(images, self.scale) - mean) / std)
        return dict(zip(("p2", "p3", "p4", "p5"), maps.values(), strict=False))  # torchvision may add a pooled sixth

    def objectness(self, images: Tensor) -> dict[str, Tensor]:
        """The proposal head's logits: level -> (N, 3 anchors, h, w), aligned with :meth:`features`."""
        return self.features_and_objectness(images)[1]

    def features_and_objectness(self, images: Tensor) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Both, in one pass of the backbone."""
        features = self.features(images)
        logits, _ = self.model.rpn.head(list(features.values()))
        return features, dict(zip(features, logits, strict=True))
