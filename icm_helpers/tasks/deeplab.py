"""DeepLabV3 on MobileNetV2 as an ONNX file: what each pixel of a photograph shows, out of the classes of Pascal VOC.

Chen et al., "Rethinking Atrous Convolution for Semantic Image Segmentation", https://arxiv.org/abs/1706.05587; a network of
https://github.com/tensorflow/models/tree/master/research/deeplab for pictures that are stretched to 257 x 257 pixels.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from icm_helpers.tasks.coco import CATEGORIES
from icm_helpers.tasks.detector import require_picture
from icm_helpers.tasks.onnx import open_session

SIDE = 257
# VOC's names in the order of its classes from 1, as COCO calls them.
_VOC = [
    "airplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "dining table", "dog", "horse",
    "motorcycle", "person", "potted plant", "sheep", "couch", "train", "tv",
]  # fmt: skip


class DeepLab:
    """The network, on one thread of the CPU wherever the caller computes; it sees what VOC does not name as background."""

    def __init__(self, session: Any) -> None:
        numbers = {name: i for i, name in CATEGORIES.items()}
        self.session, self.categories = session, dict(CATEGORIES)
        self.classes = {numbers[name]: k for k, name in enumerate(_VOC, start=1)}  # of category ids; 0 is background

    @classmethod
    def from_weights(cls, path: Path | str) -> DeepLab:
        """Load an exported network.

        Raises:
            ImportError: the package onnxruntime is not installed.
            FileNotFoundError: there is no such file.
            ValueError: it is damaged, or holds another network.
        """
        session = open_session(Path(path))
        ends = [[end.shape for end in ends] for ends in (session.get_inputs(), session.get_outputs())]
        wanted = [[1, SIDE, SIDE, 3]], [[1, SIDE, SIDE, len(_VOC) + 1]]
        if ends != [*wanted]:
            raise ValueError(f"{path} takes and gives {ends}, not {[*wanted]}: it is not a DeepLab for VOC's classes")
        return cls(session)

    def to(self, device: Any) -> DeepLab:
        """Return itself, whatever the device: it stays on the CPU."""
        return self

    @torch.no_grad()
    def semantic(self, images: list[Tensor]) -> list[np.ndarray]:
        """The class of each pixel of images (3, H, W) in [0, 1], each (H, W) int64, from 0, background; ValueError for others."""
        return [self._one(image.cpu()) for image in images]

    def _one(self, image: Tensor) -> np.ndarray:
        require_picture(image)
        x = functional.interpolate(image[None].float(), (SIDE, SIDE), mode="bilinear")  # as trained: without a filter
        name = self.session.get_inputs()[0].name
        (logits,) = self.session.run(None, {name: (2 * x - 1).permute(0, 2, 3, 1).contiguous().numpy()})
        logits = torch.from_numpy(logits).permute(0, 3, 1, 2)  # (1, 21, 257, 257)
        return functional.interpolate(logits, image.shape[1:], mode="bilinear")[0].argmax(dim=0).numpy()
