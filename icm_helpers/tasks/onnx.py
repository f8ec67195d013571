"""Detectors that come as ONNX files, run by onnxruntime: YOLOX, https://github.com/Megvii-BaseDetection/YOLOX, YOLOv7,
https://github.com/WongKinYiu/yolov7, NanoDet, https://github.com/RangiLyu/nanodet, and FastestDet,
https://github.com/dog-qiuqiu/FastestDet.

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

from icm_helpers.tasks import models
from icm_helpers.tasks.coco import CATEGORIES
from icm_helpers.tasks.detector import letterboxed, reported, require_picture

STRIDES = (8, 16, 32)


class _Exported:
    """A network for COCO's 80 classes that takes one square of `size` pixels; `session` is an `onnxruntime.InferenceSession`. It
    runs on one thread of the CPU wherever the caller computes, so that its numbers do not depend on the device."""

    def __init__(self, session: Any, size: int) -> None:
        self.categories = dict(CATEGORIES)
        self.session, self.size = session, size
        self._ids = torch.tensor(list(self.categories))

    @classmethod
    def _loaded(cls, path: Path | str, fits: Callable[[int, list], bool], form: str) -> Any:
        """The network in a file whose outputs have shapes that `fits`, given its side; a ValueError tells its right `form`."""
        session = open_session(Path(path))
        takes = [(end.type, end.shape) for end in session.get_inputs()]
        gives = [(end.type, end.shape) for end in session.get_outputs()]
        match takes, gives:
            case [("tensor(float)", [1, 3, int(height), int(width)])], [("tensor(float)", _), *_] if (
                height == width and height % 32 == 0 and fits(height, [shape for _, shape in gives])
            ):
                return cls(session, height)
        raise ValueError(
            f"{path} takes {takes} and gives {gives}, which is not a {cls.__name__} for COCO's 80 classes: that takes floats "
            f"(1, 3, S, S), S a multiple of 32, and gives {form}"
        )

    def to(self, device: Any) -> Any:
        """Return itself, whatever the device: it stays on the CPU."""
        return self

    @torch.no_grad()
    def detect(self, images: list[Tensor], **limits: Any) -> list[dict[str, Tensor]]:
        """Find objects as :meth:`icm_helpers.tasks.detector.Detector.detect` says.

        Images may be on any device; what is found is on the CPU. `limits`: least score `conf`, `iou` from which boxes of a class
        are one, `max_det`.
        """
        for image in images:
            require_picture(image)
        return [self._detect_one(image.cpu(), **limits) for image in images]

    def _outputs(self, x: Tensor) -> list[Tensor]:
        outputs = self.session.run(None, {self.session.get_inputs()[0].name: x.numpy()})
        if not all(np.isfinite(output).all() for output in outputs):
            raise ValueError(
                f"{type(self).__name__} gives values that are not finite: its weights are damaged, fetch them again"
            )
        return [torch.from_numpy(output) for output in outputs]

    def _reported(
        self, boxes: Tensor, scores: Tensor, best: Tensor, image: Tensor, conf: float, iou: float, max_det: int
    ) -> dict[str, Tensor]:
        """The boxes (n, 4) in pixels of `image` that score enough and that no better one of their class covers."""
        kept = scores >= conf
        boxes, scores, best = boxes[kept], scores[kept], best[kept]
        keep = batched_nms(boxes, scores, best, iou)[:max_det]
        return reported(boxes[keep], scores[keep], self._ids[best[keep]], image)

    def _of_each_class(
        self, boxes: Tensor, scores: Tensor, image: Tensor, conf: float, *limits: Any
    ) -> dict[str, Tensor]:
        """:meth:`_reported` for scores (n, 80): a box counts once for each class that it scores enough in."""
        at, best = (scores >= conf).nonzero(as_tuple=True)
        return self._reported(boxes[at], scores[at, best], best, image, conf, *limits)


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
        return cls._loaded(path, lambda size, shapes: shapes == [[1, _cells(size), 85]], form)

    def _detect_one(
        self, image: Tensor, conf: float = 0.01, iou: float = 0.65, max_det: int = 100
    ) -> dict[str, Tensor]:
        x = _letterbox(image, self.size).flip(1).mul(255)  # RGB in [0, 1] -> BGR in 0..255
        # A cell's offset of the centre, log of width and height, all in strides; objectness, and 80 probabilities.
        offset, extent, objectness, classes = self._outputs(x)[0][0].split((2, 2, 1, 80), dim=1)
        scores, best = (objectness * classes).max(dim=1)
        boxes = torch.cat((offset + self._cells, extent.exp()), dim=1) * self._strides  # in the network's pixels
        boxes = box_convert(boxes, "cxcywh", "xyxy") * (max(image.shape[1:]) / self.size)
        return self._reported(boxes, scores, best, image, conf, iou, max_det)


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
            path, lambda size, shapes: shapes == [[1, 3 * _cells(size), 85]] or [s[1:] for s in shapes] == [[7]], form
        )

    def _detect_one(
        self, image: Tensor, conf: float = 0.001, iou: float = 0.65, max_det: int = 300
    ) -> dict[str, Tensor]:
        x, scale, left, top = letterboxed(image.float(), self.size, self.size)
        (output,) = self._outputs(x)
        if output.ndim == 2:  # picture, x1 y1 x2 y2, class, score
            boxes, best, scores = output[:, 1:5], output[:, 5].long(), output[:, 6]
        else:
            boxes = box_convert(output[0, :, :4], "cxcywh", "xyxy")
            scores, best = (output[0, :, 4:5] * output[0, :, 5:]).max(dim=1)
        boxes = (boxes - boxes.new_tensor([left, top, left, top])) / scale
        return self._reported(boxes, scores, best, image, conf, iou, max_det)


class NanoDet(_Exported):
    """NanoDet of any size (m, for 320 or 416 pixels) as OpenCV's examples export it: for strides 8, 16 and 32 first the classes'
    probabilities, then distributions of the distances from a cell to the sides of its box.

    After Li et al., "Generalized Focal Loss", NeurIPS 2020, https://arxiv.org/abs/2006.04388.
    """

    mean, std = (103.53, 116.28, 123.675), (57.375, 57.12, 58.395)  # of blue, green and red

    @classmethod
    def from_weights(cls, path: Path | str) -> NanoDet:
        """Load an exported network; errors are those of :meth:`YOLOX.from_weights`."""

        def fits(size: int, shapes: list) -> bool:
            cells = [(size // stride) ** 2 for stride in STRIDES]
            return shapes == [[1, n, 80] for n in cells] + [[1, n, 32] for n in cells]

        return cls._loaded(path, fits, "three outputs (1, n, 80), then three (1, n, 32), for strides 8, 16 and 32")

    def _detect_one(self, image: Tensor, conf: float = 0.02, iou: float = 0.6, max_det: int = 100) -> dict[str, Tensor]:
        scale = self.size / max(image.shape[1:])
        inner = [max(round(n * scale), 1) for n in image.shape[1:]]
        resized = F.interpolate(image[None].float(), inner, mode="bilinear")
        top, left = ((self.size - n) // 2 for n in inner)
        x = F.pad(resized, (left, self.size - inner[1] - left, top, self.size - inner[0] - top)).flip(1).mul(255)
        mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (self.mean, self.std))
        outputs, boxes = self._outputs((x - mean) / std), []
        for stride, distribution in zip(STRIDES, outputs[3:], strict=True):
            cells = torch.cartesian_prod(*[torch.arange(self.size // stride)] * 2).flip(-1)  # (n, 2) x y
            distance = (distribution[0].view(-1, 4, 8).softmax(dim=2) @ torch.arange(8.0)) * stride
            centre = (cells + 0.5) * stride - 0.5
            boxes.append(torch.cat((centre - distance[:, :2], centre + distance[:, 2:]), dim=1))
        boxes = (torch.cat(boxes) - torch.tensor([left, top, left, top])) / scale
        return self._of_each_class(boxes, torch.cat([output[0] for output in outputs[:3]]), image, conf, iou, max_det)


class FastestDet(_Exported):
    """FastestDet as its repository exports it: one level of stride 16, for pictures that are stretched to a square."""

    @classmethod
    def from_weights(cls, path: Path | str) -> FastestDet:
        """Load an exported network; errors are those of :meth:`YOLOX.from_weights`."""
        return cls._loaded(
            path,
            lambda size, shapes: shapes == [[1, 85, size // 16, size // 16]],
            "(1, 85, n, n), n the cells of stride 16",
        )

    def _detect_one(
        self, image: Tensor, conf: float = 0.001, iou: float = 0.45, max_det: int = 100
    ) -> dict[str, Tensor]:
        x = F.interpolate(image[None].float(), (self.size, self.size), mode="bilinear").flip(1)  # BGR in [0, 1]
        (output,) = self._outputs(x)
        side = output.shape[-1]
        objectness, offset, extent, classes = output[0].flatten(1).T.split((1, 2, 2, 80), dim=1)  # each (n, ...)
        cells = torch.cartesian_prod(*[torch.arange(side)] * 2).flip(-1)  # (n, 2) x y
        boxes = torch.cat(((cells + offset.tanh()) / side, extent.sigmoid()), dim=1)  # in parts of the picture
        height, width = image.shape[1:]
        boxes = box_convert(boxes, "cxcywh", "xyxy") * torch.tensor([width, height, width, height])
        return self._of_each_class(boxes, objectness**0.6 * classes**0.4, image, conf, iou, max_det)


def _cells(size: int) -> int:
    return sum((size // stride) ** 2 for stride in STRIDES)


def open_session(path: Path) -> Any:
    """A session on one thread: its sums always run in the same order."""
    try:
        import onnxruntime
    except ImportError as error:
        raise ImportError(
            f"ONNX files need the package onnxruntime ({error}): install the extra `onnx`, as in `pip install 'icm-book[onnx]'`"
        ) from error
    models.present(path)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.use_deterministic_compute = True
    options.log_severity_level = 3  # of errors: older exporters name their weights as inputs, which hurts nobody
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's errors have no base class of their own
        raise ValueError(f"{path} is not a readable ONNX file ({error}): it is damaged, fetch it again") from error


def _letterbox(image: Tensor, size: int) -> Tensor:
    """(3, H, W) -> (1, 3, size, size): as large as fits, at the top left, the rest grey.

    As in the network's training, sides are rounded down and nothing is filtered against aliasing.
    """
    height, width = (max(side * size // max(image.shape[1:]), 1) for side in image.shape[1:])
    resized = F.interpolate(image[None].float(), (height, width), mode="bilinear")
    return F.pad(resized, (0, size - width, 0, size - height), value=114 / 255)
