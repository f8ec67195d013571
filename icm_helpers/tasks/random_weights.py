"""Networks of the papers at their full size with random weights, in files like the published ones: for a rehearsal without these.

    python -m icm_helpers.tasks.random_weights FOLDER

What such a network says of a picture means nothing. What is exercised is reading the file, its size in memory, and its time.
"""

from __future__ import annotations

import json
import pickle
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from icm_helpers import files
from icm_helpers.codecs import zoo
from icm_helpers.data.formats import VISDRONE
from icm_helpers.tasks import models, sam
from icm_helpers.tasks.coco import CATEGORIES
from icm_helpers.tasks.detectron2 import CONFIGS, CityscapesPanopticDeepLab
from icm_helpers.tasks.rcnn import COCORCNN
from icm_helpers.tasks.yolov5 import YOLOv5


def write(folder: Path, names: Sequence[str] = ()) -> dict[str, str]:
    """Every file that a folder lacks, or those of some networks: by name `written`, or why it is not. `ICM_WEIGHTS` may name the
    folder."""
    told, known = {}, _files()
    for name in names or known:
        file, make = known[name]
        path = folder / file
        try:
            if not path.is_file():
                torch.manual_seed(0)
                with files.atomically(path) as temporary:
                    make(temporary)
            told[name] = "written"
        except ImportError as error:
            told[name] = f"not installed: {error.name}"
    there = {name: folder / known[name][0] for name in _MODELS if (folder / known[name][0]).is_file()}
    with files.atomically(folder / "fingerprints.json") as temporary:
        temporary.write_text(json.dumps({name: files.fingerprint(path) for name, path in there.items()}))
    return told


def _files() -> dict[str, tuple[str, Callable[[Path], None]]]:
    listed = {name: (models.MODELS[name].file().name, make) for name, make in _MODELS.items()}
    listed["tcm"] = ("tcm-n128-l0.05.pth.tar", lambda path: _save({"state_dict": _codec("tcm")}, path))
    return listed | {
        "cheng2020-attn-q4": (
            "cheng2020_attn-mse-4-f7b0ccf2.pth.tar",
            lambda path: _save(_codec("cheng2020-attn-q4"), path),
        ),
        "yolov7, end to end": ("end2end/yolov7.onnx", lambda path: _onnx(path, suppressed=True)),
    }


def _save(content: Any, path: Path) -> None:
    with path.open("wb") as file:  # torch refuses the names of hidden files, which unfinished ones have
        torch.save(content, file)


def _codec(name: str) -> dict[str, Tensor]:
    return zoo.load(name, weights=None).state_dict()


def _rcnn(path: Path, masks: bool) -> None:
    network = COCORCNN(masks).model
    nn.init.normal_(network.roi_heads.box_predictor.cls_score.weight, std=0.5)  # else no class is likelier than another
    _save(network.state_dict(), path)


def _yolov5(path: Path, categories: Mapping[int, str] = CATEGORIES) -> None:
    """As in the official files a module is pickled, whose class is not asked for when it is read; with other categories as the book
    writes them."""
    network = YOLOv5(48, 2, categories)
    head = network.model["24"]
    sizes = [[10, 13, 16, 30, 33, 23], [30, 61, 62, 45, 59, 119], [116, 90, 156, 198, 373, 326]]
    head.anchors.copy_(torch.tensor(sizes).view(3, 3, 2) / torch.tensor([8, 16, 32]).view(3, 1, 1))
    for conv in head.m:
        conv.bias.data.view(3, -1)[:, 4:] -= 6  # few anchors think that they see something
        conv.weight.data *= 3
    if categories == CATEGORIES:
        _save({"model": network.half(), "ema": None}, path)
    else:
        network.save(path)


def _sam(path: Path) -> None:
    network = sam._package().sam_model_registry["vit_b"]()
    network.mask_decoder.iou_prediction_head.layers[-1].bias.data += 0.9  # some masks are kept at every alpha
    for head in network.mask_decoder.output_hypernetworks_mlps:
        head.layers[-1].weight.data *= 1000  # and have a stable outline
    _save(network.state_dict(), path)


def _detectron2(path: Path, name: str) -> None:
    from detectron2 import model_zoo
    from detectron2.modeling import build_model

    config = model_zoo.get_config(name) if name else CityscapesPanopticDeepLab.settings()
    config.MODEL.DEVICE = "cpu"
    state = {k: v.numpy() for k, v in build_model(config).state_dict().items()}
    path.write_bytes(pickle.dumps({"model": state}, protocol=2))


_MODELS: dict[str, Callable[[Path], None]] = {
    "yolov5m": _yolov5,
    "yolov5m-visdrone": lambda path: _yolov5(path, dict(enumerate(VISDRONE, start=1))),
    "faster-rcnn-r50": lambda path: _rcnn(path, masks=False),
    "mask-rcnn-r50": lambda path: _rcnn(path, masks=True),
    "faster-rcnn-d2": lambda path: _detectron2(path, CONFIGS["faster_rcnn_R_50_FPN_3x"]),
    "mask-rcnn-d2": lambda path: _detectron2(path, CONFIGS["mask_rcnn_R_50_FPN_3x"]),
    "panoptic-deeplab-d2": lambda path: _detectron2(path, ""),
    "sam-vit-b": _sam,
    "yolov7": lambda path: _onnx(path, suppressed=False),
}


# --- YOLOv7 --------------------------------------------------------------------------------------------------------------


def _onnx(path: Path, *, suppressed: bool) -> None:
    if find_spec("onnx") is None:
        raise ModuleNotFoundError("writing YOLOv7 needs the package onnx", name="onnx")
    network = YOLOv7(suppressed).eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's newer exporter needs a package more
        names = {"input_names": ["images"], "output_names": ["output"]}
        how = {"dynamic_axes": {"output": {0: "found"}}} if suppressed else {}
        torch.onnx.export(network, (torch.rand(1, 3, 640, 640),), path, dynamo=False, **names, **how)


def _conv(before: int, after: int, kernel: int = 1, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(before, after, kernel, stride, kernel // 2), nn.SiLU())


class _Elan(nn.Module):
    """Two branches, one of them four convolutions deep; `every` of their outputs counts, or every other."""

    def __init__(self, before: int, branch: int, deep: int, after: int, every: bool) -> None:
        super().__init__()
        self.branches = nn.ModuleList([_conv(before, branch), _conv(before, branch)])
        self.chain = nn.ModuleList(_conv(branch if i == 0 else deep, deep, 3) for i in range(4))
        self.step = 1 if every else 2
        self.last = _conv(2 * branch + 4 // self.step * deep, after)

    def forward(self, x: Tensor) -> Tensor:
        found = [branch(x) for branch in self.branches]
        for layer in self.chain:
            found.append(layer(found[-1]))
        return self.last(torch.cat([*found[:2], *found[self.step + 1 :: self.step]], 1))


class _Down(nn.Module):
    """Half the height and width, by a maximum and by a convolution."""

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.pooled = nn.Sequential(nn.MaxPool2d(2), _conv(before, after))
        self.strided = nn.Sequential(_conv(before, after), _conv(after, after, 3, 2))

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.pooled(x), self.strided(x)], 1)


class _Pyramid(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(_conv(1024, 512), _conv(512, 512, 3), _conv(512, 512))
        self.past, self.last = _conv(1024, 512), _conv(1024, 512)
        self.joined = nn.Sequential(_conv(2048, 512), _conv(512, 512, 3))

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x)
        pooled = [nn.functional.max_pool2d(y, size, 1, size // 2) for size in (5, 9, 13)]
        return self.last(torch.cat([self.joined(torch.cat([y, *pooled], 1)), self.past(x)], 1))


class YOLOv7(nn.Module):
    """Wang et al., CVPR 2023: the network that is deployed, 37 million parameters; output (1, n, 85), or what a suppression leaves
    of it, (k, 7)."""

    def __init__(self, suppressed: bool) -> None:
        super().__init__()
        stem = [_conv(3, 32, 3), _conv(32, 64, 3, 2), _conv(64, 64, 3), _conv(64, 128, 3, 2)]
        self.stem = nn.Sequential(*stem, _Elan(128, 64, 64, 256, False))
        sizes = ((256, 128, 512), (512, 256, 1024), (1024, 256, 1024))
        self.stages = nn.ModuleList(
            nn.Sequential(_Down(before, before // 2), _Elan(before, deep, deep, after, False))
            for before, deep, after in sizes
        )
        self.top = _Pyramid()
        self.up = nn.ModuleList([_conv(512, 256), _conv(256, 128)])
        self.side = nn.ModuleList([_conv(1024, 256), _conv(512, 128)])
        self.merged = nn.ModuleList([_Elan(512, 256, 128, 256, True), _Elan(256, 128, 64, 128, True)])
        self.down = nn.ModuleList([_Down(128, 128), _Down(256, 256)])
        self.again = nn.ModuleList([_Elan(512, 256, 128, 256, True), _Elan(1024, 512, 256, 512, True)])
        self.heads = nn.ModuleList(nn.Sequential(_conv(c, 2 * c, 3), nn.Conv2d(2 * c, 255, 1)) for c in (128, 256, 512))
        self.suppressed = suppressed
        for head in self.heads:
            head[1].bias.data.view(3, -1)[:, 4:] -= 4

    def forward(self, x: Tensor) -> Tensor:
        c3 = self.stages[0](self.stem(x))
        c4 = self.stages[1](c3)
        p5 = self.top(self.stages[2](c4))
        p4 = self.merged[0](torch.cat([self.side[0](c4), _double(self.up[0](p5))], 1))
        p3 = self.merged[1](torch.cat([self.side[1](c3), _double(self.up[1](p4))], 1))
        p4 = self.again[0](torch.cat([self.down[0](p3), p4], 1))
        p5 = self.again[1](torch.cat([self.down[1](p4), p5], 1))
        raw = [
            head(p).unflatten(1, (3, 85)).permute(0, 1, 3, 4, 2)
            for head, p in zip(self.heads, (p3, p4, p5), strict=True)
        ]
        decoded = torch.cat([_boxes(level.sigmoid(), 8 * 2**i) for i, level in enumerate(raw)], 1)  # (1, n, 85)
        return _suppressed(decoded[0]) if self.suppressed else decoded


def _double(x: Tensor) -> Tensor:
    return nn.functional.interpolate(x, scale_factor=2.0, mode="nearest")


def _boxes(level: Tensor, stride: int) -> Tensor:
    """Centre and size in pixels of a level's (1, 3, h, w, 85), flattened."""
    height, width = level.shape[2:4]
    grid = torch.stack(torch.meshgrid(torch.arange(width), torch.arange(height), indexing="xy"), -1)
    centre = (level[..., :2] * 2 - 0.5 + grid) * stride
    return torch.cat([centre, (level[..., 2:4] * 2) ** 2 * 4 * stride, level[..., 4:]], -1).flatten(1, 3)


def _suppressed(found: Tensor) -> Tensor:
    """Picture, x1 y1 x2 y2, class and score of the 100 best, of which no two of a class overlap."""
    from torchvision.ops import box_convert, nms

    scores, best = (found[:, 4:5] * found[:, 5:]).max(1)
    boxes = box_convert(found[:, :4], "cxcywh", "xyxy")
    kept = nms(boxes + 640 * best[:, None], scores, 0.65)[:100]
    columns = [torch.zeros_like(scores)[kept, None], boxes[kept], best[kept, None].float(), scores[kept, None]]
    return torch.cat(columns, 1)


def main(argv: list[str]) -> Any:
    """The command line; see the top of this file."""
    for name, what in write(Path(argv[0])).items():
        print(f"{name:20} {what}")


if __name__ == "__main__":
    main(sys.argv[1:])
