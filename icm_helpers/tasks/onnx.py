"""Detectors that come as ONNX files, run by onnxruntime: YOLOX, https://github.com/Megvii-BaseDetection/YOLOX.

They judge codecs that were trained and chosen without them; no gradient passes through them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import batched_nms, box_convert

from icm_helpers.tasks.coco import CATEGORIES
from icm_helpers.tasks.detector import reported, require_picture

STRIDES = (8, 16, 32)


class YOLOX:
    """YOLOX of any size (nano, tiny, s, m, ...) as its repository exports it: one image, fixed size, boxes not decoded.

    Ge et al., "YOLOX: Exceeding YOLO Series in 2021", arXiv:2107.08430. A network of release 0.1.1 or later, which takes BGR
    in 0..255. `session` is an `onnxruntime.InferenceSession`, and takes squares of `size` pixels; it runs on one thread of the CPU
    wherever the caller computes, so that its numbers hang on no device.
    """

    def __init__(self, session: Any, size: int) -> None:
        self.categories = dict(CATEGORIES)
        self.session, self.size = session, size
        self._ids = torch.tensor(list(self.categories))
        cells = [torch.cartesian_prod(*[torch.arange(size // stride)] * 2).flip(-1) for stride in STRIDES]
        self._cells = torch.cat(cells)  # (n, 2) x y, row by row, the finest level first
        self._strides = torch.cat([torch.full((len(c), 1), s) for c, s in zip(cells, STRIDES, strict=True)])  # (n, 1)

    @classmethod
    def from_weights(cls, path: Path | str) -> YOLOX:
        """Load an exported network.

        Raises:
            ImportError: the package onnxruntime is not installed.
            FileNotFoundError: there is no such file.
            ValueError: it is damaged, or holds another network.
        """
        session = _open(Path(path))
        takes = [(end.type, end.shape) for end in session.get_inputs()]
        gives = [(end.type, end.shape) for end in session.get_outputs()]
        match takes, gives:
            case [("tensor(float)", [1, 3, int(height), int(width)])], [("tensor(float)", [1, int(cells), 85])] if (
                height == width and height % 32 == 0 and cells == sum((height // stride) ** 2 for stride in STRIDES)
            ):
                return cls(session, height)
        raise ValueError(
            f"{path} takes {takes} and gives {gives}, which is no YOLOX for COCO's 80 classes: that takes floats "
            "(1, 3, S, S), S a multiple of 32, and gives (1, n, 85), n the cells of strides 8, 16 and 32. "
            "Export one with YOLOX's tools/export_onnx.py, without --dynamic and --decode_in_inference"
        )

    def to(self, device: Any) -> YOLOX:
        """Itself, whatever the device: it stays on the CPU."""
        return self

    @torch.no_grad()
    def detect(
        self, images: list[Tensor], *, conf: float = 0.01, iou: float = 0.65, max_det: int = 100
    ) -> list[dict[str, Tensor]]:
        """Find objects as :meth:`icm_helpers.tasks.detector.Detector.detect` says; a box is reported once, as its best class.

        Images may be on any device; what is found is on the CPU.
        """
        return [self._detect_one(image.cpu(), conf, iou, max_det) for image in images]

    def _detect_one(self, image: Tensor, conf: float, iou: float, max_det: int) -> dict[str, Tensor]:
        require_picture(image)
        x = _letterbox(image, self.size).flip(1).mul(255)  # RGB in [0, 1] -> BGR in 0..255
        (output,) = self.session.run(None, {self.session.get_inputs()[0].name: x.numpy()})
        if not np.isfinite(output).all():
            raise ValueError("YOLOX gives values that are not finite: its weights are damaged, fetch them again")
        # A cell's offset of the centre, log of width and height, all in strides; objectness, and 80 probabilities.
        offset, extent, objectness, classes = torch.from_numpy(output[0]).split((2, 2, 1, 80), dim=1)
        scores, best = (objectness * classes).max(dim=1)
        kept = scores >= conf
        boxes = torch.cat((offset + self._cells, extent.exp()), dim=1) * self._strides  # in the network's pixels
        boxes = box_convert(boxes, "cxcywh", "xyxy") * (max(image.shape[1:]) / self.size)
        boxes, scores, best = boxes[kept], scores[kept], best[kept]
        keep = batched_nms(boxes, scores, best, iou)[:max_det]
        return reported(boxes[keep], scores[keep], self._ids[best[keep]], image)


def _open(path: Path) -> Any:
    """A session on one thread: its sums always run in the same order."""
    try:
        import onnxruntime
    except ImportError as error:
        raise ImportError(
            f"ONNX files need the package onnxruntime ({error}): install the extra `onnx`, as in `pip install 'icm-book[onnx]'`"
        ) from error
    if not path.is_file():
        raise FileNotFoundError(f"weight file {path} is missing: fetch it, or correct the path")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.use_deterministic_compute = True
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's errors have no base class of their own
        raise ValueError(f"{path} is no readable ONNX file ({error}): it is damaged, fetch it again") from error


def _letterbox(image: Tensor, size: int) -> Tensor:
    """(3, H, W) -> (1, 3, size, size): as large as fits, at the top left, the rest grey.

    As in the network's training, sides are rounded down and nothing is filtered against aliasing.
    """
    height, width = (max(side * size // max(image.shape[1:]), 1) for side in image.shape[1:])
    resized = F.interpolate(image[None].float(), (height, width), mode="bilinear")
    return F.pad(resized, (0, size - width, 0, size - height), value=114 / 255)
