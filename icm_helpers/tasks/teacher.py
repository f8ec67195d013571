"""What a detector offers to be distilled from: its pyramid of features, and where in it there may be objects."""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.functional import interpolate

from icm_helpers import files

STRIDE = 32
"""Pictures come with sides that are multiples of it, so that every level of the pyramid covers the whole picture, and no more."""


@runtime_checkable
class Teacher(Protocol):
    """A frozen detector, differentiable in the images (N, 3, H, W), RGB in [0, 1], sides multiples of :data:`STRIDE`.

    Maps are level -> (N, C, h, w), levels from fine to coarse, `p2` to `p5` (of YOLOv5 `p3` to `p5`); objectness
    has the anchors of a cell in place of C, logits, and the same h and w as the features.
    """

    categories: dict[int, str]

    def features(self, images: Tensor) -> dict[str, Tensor]:
        """What enters the region proposal network and the heads."""
        ...

    def features_and_objectness(self, images: Tensor) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Features and objectness in one pass; objectness is a logit for each anchor of each cell."""
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


def magnified(images: Tensor, scale: float) -> Tensor:
    """Images resized (bilinear) by about `scale`, each side to the nearest multiple of :data:`STRIDE`.

    Padding instead would leave cells at the border that show no picture; and the scale at which a detector sees a crop
    differs by less than the sizes of its objects do.

    >>> import torch
    >>> magnified(torch.rand(1, 3, 128, 192), 4 / 3).shape
    torch.Size([1, 3, 160, 256])
    """
    size = [max(round(side * scale / STRIDE), 1) * STRIDE for side in images.shape[2:]]
    return images if size == list(images.shape[2:]) else interpolate(images, size, mode="bilinear", align_corners=False)


class Remembered:
    """A teacher that looks at each picture once: what it says of it without gradients is kept in a folder, and read from there.

    Trainings with one seed see the same crops, whatever their loss and lambda, and so share the pass of the originals. For small
    data: `SmallMaskRCNN` leaves 0.6 MB of each crop of 128 pixels. A folder is that of one teacher; several processes may use it.

    Raises:
        OSError: the disk is full, or may not be written to.
    """

    def __init__(self, teacher: Teacher, folder: Path | str) -> None:
        self.teacher, self.folder = teacher, Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.teacher, name)

    def features(self, images: Tensor) -> dict[str, Tensor]:
        """As the teacher's."""
        return self.teacher.features(images) if torch.is_grad_enabled() else self._remembered(images)["features"]

    def features_and_objectness(self, images: Tensor) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """As the teacher's."""
        if torch.is_grad_enabled():
            return self.teacher.features_and_objectness(images)
        found = self._remembered(images)
        return found["features"], found["objectness"]

    def _remembered(self, images: Tensor) -> dict[str, dict[str, Tensor]]:
        paths = [self.folder / f"{_digest(image)}.safetensors" for image in images]
        maps = [_read(path, images.device) for path in paths]
        if not all(maps):
            answers = dict(zip(("features", "objectness"), self.teacher.features_and_objectness(images), strict=True))
            for i, path in enumerate(paths):
                maps[i] = {f"{kind} {k}": v[i : i + 1] for kind, found in answers.items() for k, v in found.items()}
                with files.atomically(path, hint="train again, if need be without --remember") as temporary:
                    save_file({name: found.contiguous() for name, found in maps[i].items()}, temporary)
        kinds: dict[str, dict[str, Tensor]] = {"features": {}, "objectness": {}}
        for name in maps[0]:
            kind, level = name.split()
            kinds[kind][level] = torch.cat([found[name] for found in maps])
        return {kind: dict(sorted(levels.items())) for kind, levels in kinds.items()}  # p2 first: files keep no order


def _digest(image: Tensor) -> str:
    content = image.detach().cpu().contiguous()
    told = f"{content.dtype} {tuple(content.shape)}".encode() + content.numpy().tobytes()
    return hashlib.blake2b(told).hexdigest()[:32]


def _read(path: Path, device: torch.device) -> dict[str, Tensor] | None:
    try:
        return load_file(path, str(device))
    except FileNotFoundError:
        return None
    except SafetensorError as error:
        logging.warning("%s is damaged (%s): the teacher looks again", path, error)
        return None


class RCNNTeacher(nn.Module):
    """The teacher's side of R-CNNs with a feature pyramid: backbone and proposal head, nothing else is computed.

    `model` is the network, by default torchvision's, and `scale` the magnification at which it sees pictures: crops keep it.
    """

    model: nn.Module
    scale: float

    def features(self, images: Tensor) -> dict[str, Tensor]:
        """The pyramid p2..p5 of images (N, 3, H, W): level -> (N, C, h, w), strides 4, 8, 16 and 32 in the magnified image.

        Raises:
            ValueError: another shape, or values that are not finite.
        """
        require_pictures(images)
        self.eval()
        # Resized to what the backbone divides by, so nothing has to be padded.
        maps = self.model.backbone(self._normalised(magnified(images, self.scale)))
        return dict(zip(("p2", "p3", "p4", "p5"), maps.values(), strict=False))  # there may be a pooled sixth

    def features_and_objectness(self, images: Tensor) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Features and objectness in one pass; objectness is the proposal head's logits, (N, 3 anchors, h, w)."""
        features = self.features(images)
        logits, _ = self._proposing()(list(features.values()))
        return features, dict(zip(features, logits, strict=True))

    def _normalised(self, x: Tensor) -> Tensor:
        prepare = self.model.transform
        mean, std = (x.new_tensor(v)[:, None, None] for v in (prepare.image_mean, prepare.image_std))
        return (x - mean) / std

    def _proposing(self) -> nn.Module:
        return self.model.rpn.head
