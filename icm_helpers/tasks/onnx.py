"""Detectors that come as ONNX files, run by onnxruntime: YOLOX, https://github.com/Megvii-BaseDetection/YOLOX, and YOLOv7,
https://github.com/WongKinYiu/yolov7.

They judge codecs that were trained and chosen without them; no gradient passes through them.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import batched_nms, box_convert

from icm_helpers.tasks.coco import CATEGORIES
from icm_helpers.tasks.detector import reported, require_picture, resized_to

STRIDES = (8, 16, 32)


class _Exported:
    """A network for COCO's 80 classes that takes one square of `size` pixels; `session` is an `onnxruntime.InferenceSession`. It
    runs on one thread of the CPU wherever the caller computes, so that its numbers hang on no device."""

    def __init__(self, session: Any, size: int) -> None:
        self.categories = dict(CATEGORIES)
        self.session, self.size = session, size
        self._ids = torch.tensor(list(self.categories))

    @classmethod
    def _loaded(cls, path: Path | str, fits: Callable[[int, list], bool], form: str) -> Any:
        """The network in a file whose output, for pictures of so many pixels, `fits`; a ValueError tells its right `form`."""
        session = _open(Path(path))
        takes = [(end.type, end.shape) for end in session.get_inputs()]
        gives = [(end.type, end.shape) for end in session.get_outputs()]
        match takes, gives:
            case [("tensor(float)", [1, 3, int(height), int(width)])], [("tensor(float)", shape)] if (
                height == width and height % 32 == 0 and fits(height, shape)
            ):
                return cls(session, height)
        raise ValueError(
            f"{path} takes {takes} and gives {gives}, which is no {cls.__name__} for COCO's 80 classes: that takes floats "
            f"(1, 3, S, S), S a multiple of 32, and gives {form}"
        )

    def to(self, device: Any) -> Any:
        """Itself, whatever the device: it stays on the CPU."""
        return self

    @torch.no_grad()
    def detect(self, images: list[Tensor], **limits: Any) -> list[dict[str, Tensor]]:
        """Find objects as :meth:`icm_helpers.tasks.detector.Detector.detect` says; a box is reported once, as its best class.

        Images may be on any device; what is found is on the CPU. `limits`: least score `conf`, `iou` from which boxes of a class
        are one, `max_det`.
        """
        for image in images:
            require_picture(image)
        return [self._detect_one(image.cpu(), **limits) for image in images]

    def _output(self, x: Tensor) -> Tensor:
        (output,) = self.session.run(None, {self.session.get_inputs()[0].name: x.numpy()})
        if not np.isfinite(output).all():
            raise ValueError(
                f"{type(self).__name__} gives values that are not finite: its weights are damaged, fetch them again"
            )
        return torch.from_numpy(output)


class YOLOX(_Exported):
    """YOLOX of any size (nano, tiny, s, m, ...) as its repository exports it: one image, fixed size, boxes not decoded.

    Ge et al., "YOLOX: Exceeding YOLO Series in 2021", arXiv:2107.08430. A network of release 0.1.1 or later, which takes BGR
    in 0..255.
    """

    def __init__(self, session: Any, size: int) -> None:
        super().__init__(session, size)
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
        form = (
            "(1, n, 85), n the cells of strides 8, 16 and 32. "
            "Export one with YOLOX's tools/export_onnx.py, without --dynamic and --decode_in_inference"
        )
        return cls._loaded(path, lambda size, shape: shape == [1, _cells(size), 85], form)

    def _detect_one(
        self, image: Tensor, conf: float = 0.01, iou: float = 0.65, max_det: int = 100
    ) -> dict[str, Tensor]:
        x = _letterbox(image, self.size).flip(1).mul(255)  # RGB in [0, 1] -> BGR in 0..255
        # A cell's offset of the centre, log of width and height, all in strides; objectness, and 80 probabilities.
        offset, extent, objectness, classes = self._output(x)[0].split((2, 2, 1, 80), dim=1)
        scores, best = (objectness * classes).max(dim=1)
        kept = scores >= conf
        boxes = torch.cat((offset + self._cells, extent.exp()), dim=1) * self._strides  # in the network's pixels
        boxes = box_convert(boxes, "cxcywh", "xyxy") * (max(image.shape[1:]) / self.size)
        boxes, scores, best = boxes[kept], scores[kept], best[kept]
        keep = batched_nms(boxes, scores, best, iou)[:max_det]
        return reported(boxes[keep], scores[keep], self._ids[best[keep]], image)


class YOLOv7(_Exported):
    """YOLOv7 as its repository exports it, in either of two forms: with `--grid` boxes, objectness and classes of every anchor;
    with `--grid --end2end --max-wh 640` what its own suppression leaves, at the thresholds that it was exported with.

    Wang et al., "YOLOv7: Trainable bag-of-freebies sets new state-of-the-art for real-time object detectors", CVPR 2023. For an AP
    export with `--conf-thres 0.001`, or in the first form: what the thresholds leave out no score brings back.
    """

    @classmethod
    def from_weights(cls, path: Path | str) -> YOLOv7:
        """Load an exported network; errors are those of :meth:`YOLOX.from_weights`."""
        form = (
            "(1, n, 85), n three anchors in the cells of strides 8, 16 and 32, or (k, 7). "
            "Export one with YOLOv7's export.py --grid --img-size 640 640"
        )
        return cls._loaded(
            path, lambda size, shape: shape == [1, 3 * _cells(size), 85] or (len(shape) == 2 and shape[1] == 7), form
        )

    def _detect_one(
        self, image: Tensor, conf: float = 0.001, iou: float = 0.65, max_det: int = 300
    ) -> dict[str, Tensor]:
        resized, scale = resized_to(image.float(), self.size)
        short = [self.size - n for n in resized.shape[2:]]
        top, left = (n // 2 for n in short)
        output = self._output(F.pad(resized, (left, short[1] - left, top, short[0] - top), value=114 / 255))
        if output.ndim == 2:  # picture, x1 y1 x2 y2, class, score
            boxes, best, scores = output[:, 1:5], output[:, 5].long(), output[:, 6]
        else:
            boxes = box_convert(output[0, :, :4], "cxcywh", "xyxy")
            scores, best = (output[0, :, 4:5] * output[0, :, 5:]).max(dim=1)
        kept = scores >= conf
        boxes = (boxes[kept] - boxes.new_tensor([left, top, left, top])) / scale
        scores, best = scores[kept], best[kept]
        keep = batched_nms(boxes, scores, best, iou)[:max_det]
        return reported(boxes[keep], scores[keep], self._ids[best[keep]], image)


def _cells(size: int) -> int:
    return sum((size // stride) ** 2 for stride in STRIDES)


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
