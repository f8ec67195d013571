"""YOLOv5 (release 6 and 7) with its official COCO weights: https://github.com/ultralytics/yolov5.

The package `ultralytics` cannot read those weights, pickles that ask for their repository's own classes. So the network
is built here, under the official parameter names, and the pickle is read without running anything that it names.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import batched_nms, complete_box_iou_loss

from icm_helpers.tasks import weights
from icm_helpers.tasks.coco import CATEGORIES
from icm_helpers.tasks.detector import Detector, letterboxed, reported
from icm_helpers.tasks.teacher import require_pictures

STRIDES = {"p3": 8, "p4": 16, "p5": 32}


class _Conv(nn.Sequential):
    def __init__(self, c_in: int, c_out: int, kernel: int = 1, stride: int = 1, padding: int | None = None) -> None:
        super().__init__()
        self.conv = nn.Conv2d(c_in, c_out, kernel, stride, kernel // 2 if padding is None else padding, bias=False)
        self.bn = nn.BatchNorm2d(c_out, eps=1e-3, momentum=0.03)
        self.act = nn.SiLU()


class _Bottleneck(nn.Module):
    def __init__(self, channels: int, shortcut: bool) -> None:
        super().__init__()
        self.cv1, self.cv2 = _Conv(channels, channels), _Conv(channels, channels, 3)
        self.shortcut = shortcut

    def forward(self, x: Tensor) -> Tensor:
        y = self.cv2(self.cv1(x))
        return x + y if self.shortcut else y


class _C3(nn.Module):
    """Cross-stage partial block: half of the channels pass `depth` bottlenecks, half pass by."""

    def __init__(self, c_in: int, c_out: int, depth: int, shortcut: bool = True) -> None:
        super().__init__()
        self.cv1, self.cv2, self.cv3 = _Conv(c_in, c_out // 2), _Conv(c_in, c_out // 2), _Conv(c_out, c_out)
        self.m = nn.Sequential(*(_Bottleneck(c_out // 2, shortcut) for _ in range(depth)))

    def forward(self, x: Tensor) -> Tensor:
        return self.cv3(torch.cat((self.m(self.cv1(x)), self.cv2(x)), dim=1))


class _SPPF(nn.Module):
    """Spatial pyramid pooling: maxima over 5, 9 and 13 pixels, as one pooling of 5 applied thrice."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.cv1, self.cv2 = _Conv(channels, channels // 2), _Conv(channels * 2, channels)

    def forward(self, x: Tensor) -> Tensor:
        pooled = [self.cv1(x)]
        for _ in range(3):
            pooled.append(F.max_pool2d(pooled[-1], 5, stride=1, padding=2))
        return self.cv2(torch.cat(pooled, dim=1))


class _Detect(nn.Module):
    """One 1 x 1 convolution a level: per anchor x, y, w, h, objectness and one logit a class."""

    def __init__(self, channels: tuple[int, ...], classes: int) -> None:
        super().__init__()
        self.m = nn.ModuleList(nn.Conv2d(c, 3 * (5 + classes), 1) for c in channels)
        self.register_buffer("anchors", torch.zeros(3, 3, 2))  # (level, anchor, w and h), in strides of the level


class YOLOv5(Detector):
    """YOLOv5 n, s, m, l or x: a CSP backbone, a path-aggregation pyramid p3..p5, an anchor-based head.

    Args:
        width: channels of the first layer (16, 32, 48, 64, 80 in n, s, m, l, x).
        depth: bottlenecks of the first stage (1, 1, 2, 3, 4).
        categories: ids -> names, in the order of the network's K classes; COCO's 80 where left out.

    >>> YOLOv5(width=16, depth=1).features(torch.rand(1, 3, 64, 96))["p4"].shape
    torch.Size([1, 128, 4, 6])
    """

    name, size = "yolov5", 640

    def __init__(self, width: int = 16, depth: int = 1, categories: Mapping[int, str] = CATEGORIES) -> None:
        super().__init__()
        self.categories = dict(categories)
        c1, c2, c3, c4, c5 = (width * 2**i for i in range(5))
        # Numbered as in the official network, where 11, 12, 15, 16, 19 and 22 are resizing and concatenation.
        layers = {0: _Conv(3, c1, 6, 2, 2), 1: _Conv(c1, c2, 3, 2), 2: _C3(c2, c2, depth), 3: _Conv(c2, c3, 3, 2)}
        layers |= {4: _C3(c3, c3, 2 * depth), 5: _Conv(c3, c4, 3, 2), 6: _C3(c4, c4, 3 * depth)}
        layers |= {7: _Conv(c4, c5, 3, 2), 8: _C3(c5, c5, depth), 9: _SPPF(c5), 10: _Conv(c5, c4)}
        layers |= {13: _C3(2 * c4, c4, depth, shortcut=False), 14: _Conv(c4, c3)}
        layers |= {17: _C3(2 * c3, c3, depth, shortcut=False), 18: _Conv(c3, c3, 3, 2)}
        layers |= {20: _C3(2 * c3, c4, depth, shortcut=False), 21: _Conv(c4, c4, 3, 2)}
        layers |= {23: _C3(2 * c4, c5, depth, shortcut=False), 24: _Detect((c3, c4, c5), len(self.categories))}
        self.model = nn.ModuleDict({str(i): layer for i, layer in layers.items()})

    @classmethod
    def from_weights(cls, path: Path | str) -> YOLOv5:
        """Load `.safetensors`, or an official `.pt`, frozen. The size (n, s, m, ...) follows from the weights, and the categories
        are those that :meth:`save` wrote, or COCO's.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: it is damaged, or holds another network.
        """
        state = weights.published(path, _official) if Path(path).suffix != ".safetensors" else weights.published(path)
        categories = weights.categories(path) or CATEGORIES
        what = f"a YOLOv5 of release 6 or 7, for {len(categories)} classes and {cls.size} pixels"
        with weights.fitting(path, what):
            depth = sum(name.startswith("model.2.m.") and name.endswith("cv1.conv.weight") for name in state)
            with torch.device("meta"):  # shapes only; the file's tensors take their places
                model = cls(state["model.0.conv.weight"].shape[0], depth, categories)
            model.load_state_dict(state, assign=True)
        return model.float().eval().requires_grad_(False)

    @classmethod
    def adapted(cls, path: Path | str, categories: Mapping[int, str]) -> YOLOv5:
        """The network of a file, to be trained for other categories: their classes begin unlikely, all else as it is there."""
        model = cls.from_weights(path).requires_grad_(True)
        if any(model.categories.get(i) != name for i, name in categories.items()):
            model.categories = dict(categories)
            head = model.model["24"]
            for k, old in enumerate(head.m):
                head.m[k] = new = nn.Conv2d(old.in_channels, 3 * (5 + len(categories)), 1)
                for before, after in ((old.weight, new.weight), (old.bias, new.bias)):
                    after.data.unflatten(0, (3, -1))[:, :5] = before.data.unflatten(0, (3, -1))[:, :5]
                new.bias.data.view(3, -1)[:, 5:] = -4.6  # a probability of a hundredth
        return model

    def save(self, path: Path | str) -> None:
        """Write the weights with their categories to a safetensors file."""
        weights.save(path, self.name, self.state_dict(), self.categories, self.size, half=False)

    def features(self, images: Tensor) -> dict[str, Tensor]:
        """What enters the detection head for images (N, 3, H, W): p3 (N, C, H/8, W/8), p4 (N, 2C, H/16, W/16), and p5.

        Raises:
            ValueError: another shape, or values that are not finite.
        """
        require_pictures(images)

        def through(x: Tensor, *layers: int) -> Tensor:
            for i in layers:
                x = self.model[str(i)](x)
            return x

        c3 = through(images, 0, 1, 2, 3, 4)
        c4 = through(c3, 5, 6)
        top = through(c4, 7, 8, 9, 10)
        middle = through(torch.cat((_double(top), c4), dim=1), 13, 14)
        p3 = through(torch.cat((_double(middle), c3), dim=1), 17)
        p4 = through(torch.cat((through(p3, 18), middle), dim=1), 20)
        p5 = through(torch.cat((through(p4, 21), top), dim=1), 23)
        return {"p3": p3, "p4": p4, "p5": p5}

    def forward(self, images: list[Tensor], targets: list[dict[str, Tensor]]) -> dict[str, Tensor]:
        """The training losses of a batch, the parts of :meth:`task_loss`: `box`, `class`, `objectness`.

        Images (3, H, W) of any size go in as :meth:`detect` sees them, and are continued by grey to squares of `size`; targets have
        `boxes` (n, 4) x1 y1 x2 y2 in pixels and `labels` (n,) category ids.
        """
        seen, moved = [], []
        for image, target in zip(images, targets, strict=True):
            x, scale, left, top = letterboxed(image, self.size)
            seen.append(F.pad(x[0], (0, self.size - x.shape[3], 0, self.size - x.shape[2]), value=114 / 255))
            moved.append({**target, "boxes": target["boxes"] * scale + image.new_tensor([left, top, left, top])})
        return self._losses(torch.stack(seen), moved)

    def raw(self, images: Tensor) -> dict[str, Tensor]:
        """The head's output for images (N, 3, H, W): a level's is (N, 3 anchors, 5 + K, H/stride, W/stride), of which the third
        dimension holds x, y, w, h, objectness, then the classes, all before their sigmoid."""
        return self._head(self.features(images))

    def _head(self, features: dict[str, Tensor]) -> dict[str, Tensor]:
        levels = zip(self.model["24"].m, features.items(), strict=True)
        # (N, 3 * (5 + K), h, w) -> (N, 3, 5 + K, h, w)
        return {level: conv(f).unflatten(1, (3, -1)) for conv, (level, f) in levels}

    def features_and_objectness(self, images: Tensor) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Features and objectness in one pass; objectness is the logits of a level's anchors, (N, 3, H/stride, W/stride)."""
        features = self.features(images)
        return features, {level: raw[:, :, 4] for level, raw in self._head(features).items()}

    def task_loss(self, images: Tensor | list[Tensor], targets: list[dict[str, Tensor]]) -> Tensor:
        r"""The frozen detector's own training loss on images, :math:`\mathcal M(\hat x)` in eq. 2 of Shindo et al. (CCNC 2024).

        With the weights of the official `hyp.scratch-low`, for three levels, 640 pixels and K classes, 80 of COCO:

        .. math:: \mathcal M = \sum_{l \in p_3, p_4, p_5}
            0.05 \,\overline{1 - \mathrm{CIoU}} + 0.5\, \tfrac{K}{80}\, \overline{\mathrm{BCE}}_{class}
            + (4, 1, 0.4)_l\, \overline{\mathrm{BCE}}_{objectness}

        Box and class are means over the (box, anchor, cell) that :func:`_assign` pairs, objectness is one over all anchors of the
        level, and wants the CIoU, held constant and at least 0, where a box is assigned and 0 elsewhere. The official training
        multiplies this by the batch size, and objectness by (side / 640)²; here a loss is a mean, and crops of pictures of 640
        pixels show objects at the size that the network knows, so that nothing is resized either.

        Images are (N, 3, H, W) RGB, about [0, 1], or a list of N; each target has `boxes` (n, 4) x1 y1 x2 y2 in pixels, inside
        the image, and `labels` (n,), COCO category ids; n may be 0.

        Raises:
            ValueError: another shape, values that are not finite, or not one target an image.
        """
        if len(images) != len(targets):
            raise ValueError(
                f"{len(images)} images, {len(targets)} targets: each needs its own, if need be without boxes"
            )
        return sum(self._losses(images if isinstance(images, Tensor) else torch.stack(images), targets).values())

    def _losses(self, images: Tensor, targets: list[dict[str, Tensor]]) -> dict[str, Tensor]:
        levels = self.raw(images)
        index = {category: i for i, category in enumerate(self.categories)}
        boxes = torch.cat([t["boxes"] for t in targets])
        picture = torch.cat([torch.full_like(t["labels"], i) for i, t in enumerate(targets)])
        classes = picture.new_tensor([index[c] for t in targets for c in t["labels"].tolist()])
        wanted_classes = F.one_hot(classes, len(index)).to(boxes)

        loss = dict.fromkeys(("box", "class", "objectness"), boxes.new_zeros(()))
        for (level, raw), anchors, weight in zip(levels.items(), self.model["24"].anchors, (4, 1, 0.4), strict=True):
            raw = raw.float().permute(0, 1, 3, 4, 2)  # (N, 3, 85, h, w) -> (N, 3, h, w, 85)
            scaled = boxes / STRIDES[level]
            box, anchor, y, x = _assign(scaled, anchors, *raw.shape[2:4])
            objectness = torch.zeros_like(raw[..., 4])
            if len(box):
                p = raw[picture[box], anchor, y, x]  # (K, 85)
                centre = p[:, 0:2].sigmoid() * 2 - 0.5 + torch.stack((x, y), dim=-1)
                # A side of zero would make the box loss NaN; this is a hundredth of a pixel.
                half = ((p[:, 2:4].sigmoid() * 2) ** 2 * anchors[anchor]).clamp_min(1e-3) / 2
                distance = complete_box_iou_loss(torch.cat((centre - half, centre + half), dim=-1), scaled[box])
                agreement = F.binary_cross_entropy_with_logits(p[:, 5:], wanted_classes[box])
                loss["box"] = loss["box"] + 0.05 * distance.mean()
                loss["class"] = loss["class"] + 0.5 * len(index) / 80 * agreement
                # Where two boxes meet in a cell the better counts; the official code leaves it to their order.
                flat = ((picture[box] * 3 + anchor) * raw.shape[2] + y) * raw.shape[3] + x
                ciou = (1 - distance).detach().clamp_min(0)
                objectness.view(-1).scatter_reduce_(0, flat, ciou, "amax")
            wanted = F.binary_cross_entropy_with_logits(raw[..., 4], objectness)
            loss["objectness"] = loss["objectness"] + weight * wanted
        return loss

    def _detect_one(
        self, image: Tensor, *, conf: float = 0.001, iou: float = 0.6, max_det: int = 300
    ) -> dict[str, Tensor]:
        """A box is reported once for every class that reaches `conf`; the longer side of the picture is resized to `size`."""
        boxed, scale, left, top = letterboxed(image, self.size)
        boxes, probabilities = self._decode(self.raw(boxed), conf)

        at, classes = (probabilities > conf).nonzero(as_tuple=True)
        scores = probabilities[at, classes]
        # At most 30 000 enter, as in the official validation: it bounds the time.
        scores, best = scores.topk(min(30_000, len(scores)))
        at, classes = at[best], classes[best]
        keep = batched_nms(boxes[at], scores, classes, iou)[:max_det]
        found = (boxes[at[keep]] - boxes.new_tensor([left, top, left, top])) / scale
        ids = torch.tensor(list(self.categories), device=classes.device)
        return reported(found, scores[keep], ids[classes[keep]], image)

    def _decode(self, raw: dict[str, Tensor], conf: float) -> tuple[Tensor, Tensor]:
        """Boxes (n, 4) x1 y1 x2 y2 in the network's pixels and class scores (n, K), of objectness above `conf`."""
        boxes, scores = [], []
        for (level, output), anchors in zip(raw.items(), self.model["24"].anchors, strict=True):
            output = output[0].permute(0, 2, 3, 1)  # (3, 85, h, w) -> (3, h, w, 85)
            anchor, y, x = (output[..., 4].sigmoid() > conf).nonzero(as_tuple=True)
            p = output[anchor, y, x].sigmoid()  # (K, 85)
            centre = (p[:, 0:2] * 2 - 0.5 + torch.stack((x, y), dim=-1)) * STRIDES[level]
            half = (p[:, 2:4] * 2) ** 2 * anchors[anchor] * STRIDES[level] / 2
            boxes.append(torch.cat((centre - half, centre + half), dim=-1))
            scores.append(p[:, 5:] * p[:, 4:5])
        return torch.cat(boxes), torch.cat(scores)


def _assign(boxes: Tensor, anchors: Tensor, height: int, width: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Which anchors of which cells of a level answer for which boxes: K of (box, anchor, y, x), each (K,) int64.

    An anchor takes a box that is less than 4 times wider, narrower, higher and lower than itself. It does so in the cell of the
    box's centre and in those next to it across the nearer vertical and the nearer horizontal side, where the level has them.
    Boxes (n, 4) x1 y1 x2 y2 and anchors (3, 2), width and height, are in strides of the level, which has so many cells.

    One box in the lower left of cell (1, 1), too large for the first anchor and too narrow for the last:

    >>> box, anchors = torch.tensor([[0.2, 0.7, 2.2, 2.7]]), torch.tensor([[0.5, 2.0], [2.0, 2.0], [9.0, 2.0]])
    >>> torch.stack(_assign(box, anchors, 4, 4)).T.tolist()
    [[0, 1, 1, 1], [0, 1, 1, 0], [0, 1, 2, 1]]
    """
    ratio = (boxes[:, None, 2:] - boxes[:, None, :2]) / anchors  # (n, 3, 2)
    box, anchor = (torch.maximum(ratio, 1 / ratio).amax(dim=-1) < 4).nonzero(as_tuple=True)
    centre = (boxes[box, :2] + boxes[box, 2:]) / 2
    before = (centre % 1 < 0.5) & (centre > 1)
    after = (centre % 1 > 0.5) & (centre < centre.new_tensor([width, height]) - 1)
    own = torch.ones_like(before[:, :1])
    pair, side = torch.cat((own, before, after), dim=1).nonzero(as_tuple=True)
    steps = box.new_tensor([[0, 0], [-1, 0], [0, -1], [1, 0], [0, 1]])  # x, y
    x, y = (centre[pair].long() + steps[side]).T
    return box[pair], anchor[pair], y, x


_double = partial(F.interpolate, scale_factor=2, mode="nearest")


class _Inert:
    """Replaces any class or function that a pickle names: keeps its state and does nothing."""

    def __init__(self, *_: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        if isinstance(state, dict):
            self.__dict__.update(state)


def _official(path: Path) -> dict[str, Tensor]:
    """Parameters and buffers of the network in an official `.pt` file, under their official names.

    Nothing that the file names is imported or called, so that a malicious file can do nothing.
    """
    named = torch.serialization.get_unsafe_globals_in_checkpoint(path)
    with torch.serialization.safe_globals([(type(name, (_Inert,), {}), name) for name in named]):
        checkpoint = torch.load(path, "cpu", weights_only=True)
    return dict(_tensors(checkpoint.get("ema") or checkpoint["model"]))


def _tensors(module: Any, prefix: str = "") -> Iterator[tuple[str, Tensor]]:
    state = vars(module)
    for name, tensor in {**state["_parameters"], **state["_buffers"]}.items():
        if tensor is not None and name not in state.get("_non_persistent_buffers_set", ()):
            yield prefix + name, tensor
    for name, child in state["_modules"].items():
        yield from _tensors(child, f"{prefix}{name}.")
