"""The registry of recognition models by name, here, in a recipe and on the command line; :func:`register` adds your own.

What reads a model's weights is imported when it is loaded, so this module needs neither torch nor the models' own packages.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

from icm_helpers import files
from icm_helpers.data import datasets

WEIGHTS = files.WEIGHTS
ABILITIES = ("detect", "panoptic", "semantic", "teach", "task-loss", "train", "segment", "stages")


@dataclass(frozen=True)
class Model:
    """One recognition model: a detector, as `evaluate.Detector` describes it, or a Segment Anything.

    What it can do is out of `detect` (boxes, perhaps masks), `panoptic` and `semantic` (maps), `teach` (as `tasks.teacher.Teacher`,
    by `features_and_objectness`), `task-loss` (`task_loss`), `train` (be built for a data set's categories, trained and saved) and
    `segment` (a Segment Anything, which `tasks.sam` loads); or it is a backbone that no task taught, and gives its `stages`.
    Weights that nobody publishes are made by the command `made`.

    Raises:
        ValueError: no such ability.
    """

    name: str
    adapter: str | Callable[..., Any]  # a class, or "package.module:Class"; its from_weights(path) gives a frozen model
    file: Callable[[], Path]  # where its weights lie
    can: frozenset[str]
    fingerprint: str = (
        ""  # of the weights that recipes name; "" where those that lie there are meant, whatever they are
    )
    made: str = ""

    def __post_init__(self) -> None:
        if unknown := set(self.can) - set(ABILITIES):
            raise ValueError(f"{self.name} can {', '.join(sorted(unknown))}: abilities are {', '.join(ABILITIES)}")

    def kind(self) -> Any:
        """Its class, imported now."""
        return resolve_name(self.adapter) if isinstance(self.adapter, str) else self.adapter


MODELS: dict[str, Model] = {}


def register(model: Model) -> Model:
    """Make a model known by its name.

    Raises:
        ValueError: the name is taken.
    """
    if model.name in MODELS:
        raise ValueError(f"a model is called {model.name!r} already: choose another name")
    return MODELS.setdefault(model.name, model)


def names(*abilities: str) -> tuple[str, ...]:
    """The models that can do all of these.

    >>> names("detect", "panoptic")
    ('panoptic-deeplab-scenes', 'panoptic-deeplab-d2')
    """
    return tuple(name for name, model in MODELS.items() if model.can.issuperset(abilities))


def _own(name: str) -> str:
    """A model's name; `mask-rcnn-small=judge.safetensors`, one of that kind with your own weights, is registered now."""
    kind, is_own, file = name.partition("=")
    if is_own and name not in MODELS:
        if kind not in names("train"):
            raise ValueError(f"{name}: weights of your own may be those of {', '.join(names('train'))}")
        register(replace(MODELS[kind], name=name, file=lambda: Path(file), fingerprint=""))
    return name


def load(name: str) -> Any:
    """A judge or backbone by `name` or `name@fingerprint`, frozen; `mask-rcnn-small=judge.safetensors` has your own weights.

    Raises:
        ValueError: unknown name, or its weights are not the ones the fingerprint says.
        FileNotFoundError, DataError: its weights, or the folder that has them, are missing.
        ImportError: a package that it needs is not installed.
    """
    name, wanted = files.unmarked(name)
    judging = names("detect") + names("semantic")
    if _own(name) not in (*judging, *names("stages")):
        raise ValueError(f"no detector is called {name!r}; known: {', '.join(judging)}")
    path = MODELS[name].file()
    if MODELS[name].made and not path.is_file():
        raise FileNotFoundError(f"{path} is missing, and nobody publishes it: make it with `{MODELS[name].made}`")
    # Where the file is missing, its reader says what to do.
    found = files.fingerprint(path) if path.is_file() else wanted
    if wanted and found != wanted:
        raise ValueError(
            f"{path} has fingerprint {found}, the recipe asks for {wanted}: these are other weights. "
            "Restore the file, or write the new fingerprint into tasks/models.py and measure again"
        )
    return MODELS[name].kind().from_weights(path)


def segmenter(name: str) -> str:
    """What `tasks.sam` calls a Segment Anything that is named with the fingerprint of its weights: `vit_b` for `sam-vit-b@...`.

    Raises:
        ValueError: unknown name, or other weights lie where its own belong. Where none lie, whoever loads them says what to do.
    """
    name, wanted = files.unmarked(name)
    if name not in names("segment"):
        raise ValueError(f"no Segment Anything is called {name!r}; known: {', '.join(names('segment'))}")
    path = MODELS[name].file()
    if wanted and path.exists() and (found := files.fingerprint(path)) != wanted:
        raise ValueError(f"{path} has fingerprint {found}, the edges are those of {name}@{wanted}: other weights")
    return name.removeprefix("sam-").removesuffix("-sam").replace("-", "_")


def fingerprinted(model: str) -> str:
    """The name of a model, which may be one with your own weights, with the fingerprint of its weights; without, where nobody
    has stated it and they are not here.

    Raises:
        ValueError: no such model, or none with your own weights.
        FileNotFoundError: your own weights are missing.

    >>> fingerprinted("yolov5n")
    'yolov5n@ff6f13e9'
    """
    if _own(model) not in MODELS:
        raise ValueError(f"no model is called {model!r}; known: {', '.join(MODELS)}")
    if stated := _own_fingerprints(WEIGHTS).get(model, MODELS[model].fingerprint):
        return f"{model}@{stated}"
    path = MODELS[model].file()
    if "=" not in model and not path.is_file():
        return model
    return f"{model}@{files.fingerprint(present(path))}"


@cache
def _own_fingerprints(folder: Path) -> dict[str, str]:
    """Those of weights in a folder that are not the published ones, by model: what `tasks.random_weights` has written."""
    path = folder / "fingerprints.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def present(path: Path | str, asset: str = "") -> Path:
    """The path of a file of published weights that is there.

    Raises:
        FileNotFoundError: it is not; the message says what fetches an asset, or a file of that name.
    """
    from icm_helpers.data import downloads

    path = Path(path)
    if not path.is_file():
        known = [
            name for name, listed in downloads.assets().items() if path.name in {file.name for file in listed.files}
        ]
        fetch = next(
            (f"`icm datasets fetch {name}`" for name in [asset, *known] if name), "a name of `icm datasets list`"
        )
        raise FileNotFoundError(f"weight file {path} is missing: fetch it with {fetch}, or correct the path")
    return path


# --- what there is -------------------------------------------------------------------------------------------------------


def _yolov5n() -> Path:
    return datasets.fetched_or_real(WEIGHTS / "yolov5n.pt", "weights_yolov5n/yolov5n.safetensors")


def _yolox() -> Path:
    return datasets.real_data() / "weights_yolox_nano" / "yolox_nano.onnx"


def _small(file: str) -> Callable[[], Path]:
    return lambda: datasets.real_data() / "weights_small" / file


def _model(
    name: str, adapter: str, fingerprint: str, can: str, file: str | Callable[[], Path] = "", made: str = ""
) -> None:
    """Register a model of this package, whose file is shipped under its name, fetched, or found."""

    def place() -> Path:
        return WEIGHTS / file if file else files.CHECKPOINTS / f"{name}.safetensors"

    find = file if callable(file) else place
    register(Model(name, f"icm_helpers.tasks.{adapter}", find, frozenset(can.split()), fingerprint, made))


_model("mask-rcnn-small", "mask_rcnn:SmallMaskRCNN", "9fd0ed3f", "detect teach task-loss train")
_model("faster-rcnn-small", "mask_rcnn:SmallFasterRCNN", "113c7d16", "detect teach task-loss train")
_model("yolov5n-scenes", "yolo:YOLO", "6829cfdf", "detect train")
_model("panoptic-deeplab-scenes", "panoptic_deeplab:PanopticDeepLab", "767bb814", "detect panoptic train")
_TRAINABLE = "detect teach task-loss train"
_model("yolov5n", "yolov5:YOLOv5", "ff6f13e9", _TRAINABLE, _yolov5n)
_model("yolov5s", "yolov5:YOLOv5", "8b3b748c", _TRAINABLE, "yolov5s.pt")
_model("yolov5m", "yolov5:YOLOv5", "61d93336", _TRAINABLE, "yolov5m.pt")
_model("yolov5l", "yolov5:YOLOv5", "", _TRAINABLE, "yolov5l.pt")  # nobody has stated its SHA-256, nor that of the next
_model("yolov5x", "yolov5:YOLOv5", "", _TRAINABLE, "yolov5x.pt")
_AERIAL = "yolov5m-visdrone.safetensors"  # nobody publishes it: ours sees each picture thirty times
_MADE = "icm detector --model yolov5m --data visdrone --steps 12000 --batch 16 --lr 3e-4 --precision bf16-mixed --out"
_model("yolov5m-visdrone", "yolov5:YOLOv5", "", _TRAINABLE, _AERIAL, f"{_MADE} {WEIGHTS / _AERIAL}")
_model("yolox-nano", "onnx:YOLOX", "e8af0749", "detect", _yolox)
_model("nanodet-m", "onnx:NanoDet", "4b82da99", "detect", _small("nanodet_m_416.onnx"))
_model("fastestdet", "onnx:FastestDet", "31cb14c0", "detect", _small("fastestdet.onnx"))
_model("deeplab-v3-voc", "deeplab:DeepLab", "48a46b34", "semantic", _small("deeplab_v3_mobilenetv2_257.onnx"))
_model("yolov7", "onnx:YOLOv7", "", "detect", "yolov7.onnx")  # nobody has stated it: everybody exports their own
_R50 = "rcnn:COCORCNN"
_model("faster-rcnn-r50", _R50, "258fb6c6", "detect teach train", "fasterrcnn_resnet50_fpn_coco-258fb6c6.pth")
_model("mask-rcnn-r50", _R50, "bf2d0c1e", "detect teach train", "maskrcnn_resnet50_fpn_coco-bf2d0c1e.pth")
_D2 = "detectron2:Detectron2"
_model("faster-rcnn-d2", _D2, "3c25caca", "detect teach", "faster_rcnn_R_50_FPN_3x-280758.pkl")
_model("mask-rcnn-d2", _D2, "9a737e29", "detect teach", "mask_rcnn_R_50_FPN_3x-f10217.pkl")
_CITYSCAPES, _FILE = "CityscapesPanopticDeepLab", "panoptic_deeplab_R_52_os16_mg124_poly_90k_bs32-bd324a.pkl"
_model(
    "panoptic-deeplab-d2", f"detectron2:{_CITYSCAPES}", "", "detect panoptic", _FILE
)  # nobody has stated its SHA-256
_model("contrastive-scenes", "contrastive:Backbone", "60da74f4", "stages", made="icm contrastive")
_model("nano-sam", "sam:load", "d7519e8d", "segment")
_model("sam-vit-b", "sam:load", "ec2df627", "segment", "sam_vit_b_01ec64.pth")
_model("sam-vit-l", "sam:load", "3adcc431", "segment", "sam_vit_l_0b3195.pth")
_model("sam-vit-h", "sam:load", "a7bf3b02", "segment", "sam_vit_h_4b8939.pth")
