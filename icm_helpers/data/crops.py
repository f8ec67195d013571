"""Training crops of a data set, each a function of (seed, i) alone."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from icm_helpers.data.coco import CocoDataset, Sample
from icm_helpers.data.formats import extent

# Category id, first row, first column, and the mask (0 or 255) within its extent, (h, w) uint8: whole ones would fill the memory.
_Instance = tuple[int, int, int, np.ndarray]


def _instances(sample: Sample) -> Iterator[_Instance]:
    """The objects of a picture, but for crowd regions and empty masks."""
    for label, mask in zip(sample.labels[~sample.crowd].tolist(), sample.masks[~sample.crowd].numpy(), strict=True):
        if mask.any():
            x, y, w, h = extent(mask)
            yield label, y, x, mask[y : y + h, x : x + w].astype(np.uint8) * 255


class Crops(Dataset):
    """Training crops of a data set, each a function of (seed, i) alone; ValueError where an argument is out of range.

    Item i is (image (3, P, P) float32 in [0, 1], mask (1, P, P) float32 in {0, 1}: union of objects, or `region`), and with
    `objects` a third: a dictionary of `boxes` (n, 4) float32, x1 y1 x2 y2 in pixels of the crop, the extents of what is visible,
    `labels` (n,) int64, category ids, and `masks` (n, P, P) uint8 in {0, 1}, without crowd regions and without objects of which
    fewer than 8 pixels, or less than 2 pixels of width or height, are visible. Every crop is placed at random and mirrored half
    of the time; a picture smaller than the crop is continued by reflection.

    Args:
        patch: side P in pixels.
        length: number of crops, as many as the training will draw.
        augment: "none", or "heavy", which also scales by 0.5 to 1.25 (with a filter against aliasing, and never so far that a
            picture larger than the patch must be padded) and shifts brightness, contrast and hue a little.
        object_prob: probability that a crop is placed over a pixel of some object, where the picture has one.
        cache: keep decoded pictures in memory (4 bytes a pixel, in each worker process); None: if there are fewer than 10,000.
        region: gives the mask of a picture, (1, H, W) in {0, 1}, where it is not the union of its objects; crops stay where they
        are.
        objects: items bring their objects, for a detector's loss; a loader needs a `collate_fn` that leaves them a list.
    """

    def __init__(
        self,
        dataset: CocoDataset,
        patch: int,
        seed: int,
        length: int,
        augment: str = "heavy",
        *,
        object_prob: float = 0.5,
        cache: bool | None = None,
        region: Callable[[Sample], Tensor] | None = None,
        objects: bool = False,
    ) -> None:
        if augment not in ("none", "heavy"):
            raise ValueError(f"augment is {augment!r}: use 'none' or 'heavy'")
        if patch < 1 or length < 1 or seed < 0 or not 0 <= object_prob <= 1 or len(dataset) == 0:
            told = f"{patch=}, {length=}, {seed=}, {object_prob=}, {len(dataset)} pictures: patch, length and pictures"
            raise ValueError(f"{told} must be at least 1, seed not negative, object_prob within [0, 1]")
        self.dataset, self.patch, self.seed, self.length = dataset, patch, seed, length
        self.augment, self.object_prob, self.region, self.objects = augment, object_prob, region, objects
        kept = len(dataset) < 10_000 if cache is None else cache
        self._kept: dict[int, tuple[np.ndarray, np.ndarray | None, list[_Instance]]] | None = {} if kept else None

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor] | tuple[Tensor, Tensor, dict[str, Tensor]]:
        if not 0 <= index < self.length:
            raise IndexError(f"crop {index} of {self.length}")
        rng = np.random.default_rng((self.seed, index))
        rgbm, region, instances = self._picture(int(rng.integers(len(self.dataset))))
        height, width = rgbm.shape[:2]
        # A window of `side` pixels is cut out, then resized to the patch.
        smallest = np.clip(self.patch / min(height, width), 0.5, 1)
        scale = rng.uniform(smallest, 1.25) if self.augment == "heavy" else 1.0
        side = max(round(self.patch / scale), 1)
        inside = np.flatnonzero(rgbm[..., 3]) if rng.random() < self.object_prob else ()
        y, x = divmod(int(rng.choice(inside)), width) if len(inside) else (None, None)
        top, left = self._start(rng, height, side, y), self._start(rng, width, side, x)
        mirrored = rng.random() < 0.5
        window = self._cut(rgbm, top, left, side, mirrored)

        crop = torch.from_numpy(np.ascontiguousarray(window.transpose(2, 0, 1)))  # (P, P, 4) -> (4, P, P)
        image, mask = crop[:3].float() / 255, (crop[3:] >= 128).float()
        if region is not None:
            # A line one pixel wide must survive a picture's shrinking: a quarter of a pixel counts.
            mask = torch.from_numpy(self._cut(region, top, left, side, mirrored) >= 64)[None].float()
        if self.augment == "heavy":
            image = _jitter(image, rng)
        if not self.objects:
            return image, mask

        boxes, labels, masks = [], [], []
        for label, y0, x0, shape in instances:
            y1, x1 = y0 + shape.shape[0], x0 + shape.shape[1]
            if y0 >= top + side or x0 >= left + side or y1 <= top or x1 <= left:
                continue
            canvas = np.zeros((height, width), np.uint8)
            canvas[y0:y1, x0:x1] = shape
            visible = self._cut(canvas, top, left, side, mirrored) >= 128
            x, y, w, h = extent(visible) if visible.sum() >= 8 else (0, 0, 0, 0)
            if min(w, h) >= 2:
                boxes.append([x, y, x + w, y + h])
                labels.append(label)
                masks.append(visible)
        found = {"boxes": torch.tensor(np.array(boxes, np.float32).reshape(-1, 4))}
        found["labels"] = torch.tensor(labels, dtype=torch.int64)
        found["masks"] = torch.tensor(np.array(masks, np.uint8).reshape(-1, self.patch, self.patch))
        return image, mask, found

    @property
    def identity(self) -> str:
        """The data set's identity, which distinguishes it from another."""
        return getattr(self.dataset, "identity", "")

    def source(self, index: int) -> str:
        """The file that crop `index` is cut from, for messages about it."""
        # The first draw of the crop's generator, as in __getitem__.
        return self.dataset[int(np.random.default_rng((self.seed, index)).integers(len(self.dataset)))].name

    def _cut(self, whole: np.ndarray, top: int, left: int, side: int, mirrored: bool) -> np.ndarray:
        """A window of `side` pixels of a picture or a mask, (H, W, ...) uint8, as a patch, (P, P, ...)."""
        window = whole[top : top + side, left : left + side]
        if window.shape[:2] != (side, side):
            short = [(0, side - n) for n in window.shape[:2]]
            window = np.pad(window, (*short, (0, 0))[: window.ndim], mode="reflect")
        if side != self.patch:
            shrink = side > self.patch
            window = cv2.resize(window, (self.patch,) * 2, interpolation=cv2.INTER_AREA if shrink else cv2.INTER_LINEAR)
        return window[:, ::-1] if mirrored else window

    def _picture(self, index: int) -> tuple[np.ndarray, np.ndarray | None, list[_Instance]]:
        """Picture and object mask (0 or 255) side by side, (H, W, 4) uint8; the region, (H, W), and instances where asked for."""
        if self._kept is not None and index in self._kept:
            return self._kept[index]
        sample = self.dataset[index]
        both = torch.cat((sample.image, sample.object_mask)).mul(255).round().byte()  # (4, H, W)
        rgbm = both.permute(1, 2, 0).contiguous().numpy()
        region = (self.region(sample)[0] > 0).byte().mul(255).numpy() if self.region else None
        instances = list(_instances(sample)) if self.objects else []
        if self._kept is not None:
            self._kept[index] = rgbm, region, instances
        return rgbm, region, instances

    @staticmethod
    def _start(rng: np.random.Generator, extent: int, side: int, at: int | None) -> int:
        """Start of a window of `side` pixels, of `extent`: uniform over those that show pixel `at`, if any."""
        first, last = 0, max(extent - side, 0)
        if at is not None:
            first, last = max(first, at - side + 1), min(last, at)
        return int(rng.integers(first, last + 1))


def _jitter(image: Tensor, rng: np.random.Generator) -> Tensor:
    """Small change of brightness (0.8 to 1.2), contrast (0.8 to 1.2, about the mean) and hue (up to 15 degrees)."""
    brightness, contrast = rng.uniform(0.8, 1.2, size=2)
    # A turn about the grey axis (Rodrigues' formula) changes hue by one 3 x 3 matrix, much faster than through HSV.
    angle = math.radians(rng.uniform(-15, 15))
    cross = torch.tensor([[0.0, -1, 1], [1, 0, -1], [-1, 1, 0]]) / math.sqrt(3)
    turn = math.cos(angle) * torch.eye(3) + math.sin(angle) * cross + (1 - math.cos(angle)) / 3
    turned = torch.einsum("ij,jhw->ihw", brightness * contrast * turn, image)
    return (turned + brightness * (1 - contrast) * image.mean()).clamp(0, 1)
