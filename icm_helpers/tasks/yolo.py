"""YOLOv5n as the package `ultralytics` builds it (backbone and pyramid of YOLOv5, an anchor-free head), trained on scenes.

The network, the assignment of boxes to cells and the losses are the package's; training, weight files and post-processing are the
book's, as for every other detector. https://docs.ultralytics.com/models/yolov5
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import cache
from typing import Any

import cv2
import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional
from torchvision.ops import batched_nms, box_convert

from icm_helpers.tasks.detector import Detector, reported, resized_to
from icm_helpers.tasks.weights import Own


@cache
def _ultralytics() -> tuple[Any, Any]:
    """The package's network and settings. Its import changes much that is everybody's, all of which is put back."""
    environment, printing, threads = dict(os.environ), np.get_printoptions(), cv2.getNumThreads()
    functions = Image.open, torch.save, cv2.imread, cv2.imwrite, cv2.imshow
    os.environ.setdefault("YOLO_VERBOSE", "false")  # else every import and every network prints
    try:
        from ultralytics.cfg import get_cfg
        from ultralytics.nn.tasks import DetectionModel
    except ImportError as error:
        raise ImportError(
            f"YOLOv5n on scenes needs the package ultralytics ({error}): install the extra `yolo`, "
            "as in `pip install 'icm-book[yolo]'`"
        ) from error
    finally:
        # Its Image.open would install packages when it meets a broken picture, its torch.save try a full disk again and again,
        # and its OMP_NUM_THREADS make child processes compute other last bits.
        Image.open, torch.save, cv2.imread, cv2.imwrite, cv2.imshow = functions
        os.environ.clear()
        os.environ.update(environment)
        np.set_printoptions(**printing)
        torch.set_printoptions(profile="default")
        cv2.setNumThreads(threads)
    return DetectionModel, get_cfg


class YOLO(Own, Detector):
    """A YOLOv5n of 2.5 million parameters for any set of categories; labels are the data set's own category ids.

    The longer side of images is resized to `size` pixels inside, a multiple of 32.

    Raises:
        ImportError: the package ultralytics is not installed.
        ValueError: no category, or a size that is not a positive multiple of 32.

    >>> YOLO({3: "car", 18: "dog"}, size=64).eval().detect([torch.rand(3, 48, 60)])[0]["boxes"].shape[1]
    4
    """

    name = "yolov5n-scenes"

    def __init__(self, categories: Mapping[int, str], size: int = 192) -> None:
        super().__init__()
        if not categories or size < 32 or size % 32:
            raise ValueError(f"{len(categories)} categories, size {size}: YOLO takes one or more, and a multiple of 32")
        network, settings = _ultralytics()
        self.categories, self.size = dict(categories), size
        self.model = network("yolov5n.yaml", ch=3, nc=len(self.categories), verbose=False)
        self.model.args = settings()  # the weights of the three losses
        # The network counts classes 0..K-1; the data set has ids of its own.
        self._ids = sorted(self.categories)

    def forward(self, images: list[Tensor], targets: list[dict[str, Tensor]]) -> dict[str, Tensor]:
        """The training losses of a batch: `box` (CIoU), `cls` (cross-entropy), `dfl` (distribution of the box's sides).

        Differentiable in the images; targets have `boxes` (n, 4) x1 y1 x2 y2 in pixels and `labels` (n,) category ids. Images of
        one size, multiples of 32, go in as they are; others as :meth:`detect` sees them, continued by grey to squares.

        Raises:
            ValueError: a label that is not among the categories.
        """
        if len({image.shape for image in images}) != 1 or any(side % 32 for side in images[0].shape[1:]):
            seen = [resized_to(image, self.size) for image in images]
            targets = [{**t, "boxes": t["boxes"] * scale} for t, (_, scale) in zip(targets, seen, strict=True)]
            sides = [(self.size - x.shape[3], self.size - x.shape[2]) for x, _ in seen]
            images = [functional.pad(x[0], (0, w, 0, h), value=0.5) for (x, _), (w, h) in zip(seen, sides, strict=True)]
        lookup = {category: i for i, category in enumerate(self._ids)}
        unknown = {label for t in targets for label in t["labels"].tolist()} - set(lookup)
        if unknown:
            raise ValueError(f"labels {sorted(unknown)} are not among the categories {self._ids}")
        x = torch.stack(images)  # (N, 3, H, W)
        height, width = x.shape[2:]
        size = x.new_tensor([width, height, width, height])
        boxes = [box_convert(t["boxes"], "xyxy", "cxcywh").to(x) / size for t in targets]
        batch = {
            "img": x,
            "batch_idx": torch.cat([x.new_full((len(b),), float(i)) for i, b in enumerate(boxes)]),
            "cls": torch.tensor([[lookup[c]] for t in targets for c in t["labels"].tolist()], device=x.device).float(),
            "bboxes": torch.cat(boxes),
        }
        batch["cls"] = batch["cls"].view(-1, 1)  # of a batch without objects too
        total, _ = self.model.loss(batch)  # three values, times the batch size
        return dict(zip(("box", "cls", "dfl"), total / len(images), strict=True))

    def _detect_one(
        self, image: Tensor, *, conf: float = 0.001, iou: float = 0.6, max_det: int = 100
    ) -> dict[str, Tensor]:
        x, scale = resized_to(image, self.size)
        x = functional.pad(x, (0, -x.shape[3] % 32, 0, -x.shape[2] % 32), value=0.5)
        raw = self.model(x)[0][0]  # (4 + K, cells): centre x, centre y, width, height in pixels, K probabilities
        probabilities = raw[4:].T  # (cells, K)
        at, classes = (probabilities > conf).nonzero(as_tuple=True)
        scores, order = probabilities[at, classes].sort(descending=True)
        at, classes = at[order], classes[order]
        boxes = box_convert(raw[:4].T[at], "cxcywh", "xyxy")
        keep = batched_nms(boxes, scores, classes, iou)[:max_det]
        ids = torch.tensor(self._ids, device=boxes.device)
        return reported(boxes[keep] / scale, scores[keep], ids[classes[keep]], image)
