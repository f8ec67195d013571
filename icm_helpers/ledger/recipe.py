"""Everything that decides the outcome of one run, in typed parts: what is coded, what codes it, what is measured.

A field exists only where it means something. :func:`flat` writes a recipe as one dictionary, which names its record.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import MISSING, dataclass, fields, is_dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from icm_helpers import objectives
from icm_helpers.codecs import zoo
from icm_helpers.files import ROOT
from icm_helpers.objectives import Loss

LEDGER = ROOT / "data" / "results"

# --- what is coded -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Pictures:
    """The first so many evaluation images of a data set."""

    data: str  # a name in data.datasets
    images: int
    size: int = 0  # side of scenes in pixels; 0: photographs at their own size


@dataclass(frozen=True)
class Clip:
    """The first so many frames of one video of a data set, coded together."""

    data: str
    clip: str
    frames: int
    size: int = 0


# --- what codes it -------------------------------------------------------------------------------------------------------


def require_roi(codec: str, roi: str) -> None:
    """Raise ValueError where a codec's encoder takes no region of interest and is given one, or the other way round."""
    if zoo.find(codec)[0].roi != (roi != "none"):
        told = "needs a region of interest: say whose" if roi == "none" else "takes no region of interest"
        raise ValueError(f"{codec} {told}")


@dataclass(frozen=True)
class Classical:
    """A codec that nobody trains, at the one setting that it takes: a quality, or a quantisation parameter (smaller is better)."""

    codec: str  # a name in codecs.zoo
    quality: int | None = None
    qp: int | None = None
    roi: str = "none"  # who tells its encoder where bits go: a detector with its fingerprint, or `truth`

    def __post_init__(self) -> None:
        require_roi(self.codec, self.roi)
        given = [name for name in ("quality", "qp") if getattr(self, name) is not None]
        wanted = zoo.find(self.codec)[0].setting
        if given != [wanted] * (wanted is not None):
            raise ValueError(f"{self.codec} takes {wanted or 'no setting'}, not {' and '.join(given) or 'none'}")

    @property
    def setting(self) -> int | None:
        """Its quality or QP; None where it has neither."""
        return self.quality if self.qp is None else self.qp


@dataclass(frozen=True)
class Training:
    """How a codec is trained, the same for all losses that are compared."""

    start: str  # weights: a file in data/checkpoints or of one's own, with its fingerprint; published (CompressAI's); or none
    steps: int  # of the optimiser
    batch: int  # crops a step
    patch: int  # side of a crop in pixels
    lr: float  # Adam's learning rate after warm-up
    augment: Literal["none", "heavy"]  # augmentation of the crops
    precision: Literal["32-true", "bf16-mixed"]  # arithmetic
    train_images: int | None  # the first so many training images; None: all
    train_data: str = "same"  # the data set that they are of, where it is not the one that is judged


@dataclass(frozen=True)
class Trained:
    """A network trained with a loss, its distortion times `scale` so that rates overlap; 0: what `run.scale` finds at the start."""

    codec: str
    loss: Loss
    lmbda: float
    training: Training
    scale: float = 1.0
    seed: int = 0
    roi: str = "none"  # as of a classical codec; it is trained with the true masks

    def __post_init__(self) -> None:
        if self.roi != "none" or self.loss.tells:
            require_roi(self.codec, "training")


@dataclass(frozen=True)
class Refined:
    """A network as it starts, whose latents are optimised under a loss, picture by picture: the loss microscope."""

    codec: str
    loss: Loss
    lmbda: float
    start: str
    steps: int
    lr: float  # in rounding intervals
    scale: float = 1.0
    precision: str = "32-true"


@dataclass(frozen=True)
class Given:
    """A network with weights of somebody's own: who trained it, and how, is not known."""

    codec: str  # with its quality, if it has one: mbt2018-mean-q5
    weights: str  # their fingerprint
    roi: str = "none"  # as of a classical codec


@dataclass(frozen=True)
class Overfitted:
    """A network that is trained to be one video, pruned, trained on, quantised and written to a file."""

    codec: str  # nerv- and a name in nerv.SIZES
    loss: Loss
    channels: int  # of the network, which decide the size of its file
    steps: int
    batch: int  # frames
    lr: float
    precision: str = "32-true"
    density: float = 1.0  # of the weights, after pruning
    tune_steps: int = 0  # after pruning
    bits: int = 0  # of a weight
    seed: int = 0


# --- what is measured ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Accuracy:
    """Rate, PSNR, and what recognition models make of the decoded pictures; some may also be trained on such pictures first."""

    detectors: tuple[str, ...]  # each with the fingerprint of its weights
    finetuned: tuple[str, ...] = ()  # likewise
    finetune_steps: int = 0
    finetune_batch: int = 16
    finetune_lr: float = 3e-4
    finetune_images: int = 400  # the first so many training pictures
    divided: str = "none"  # by a detector: AP also of the objects that it finds in uncompressed pictures, and of others


@dataclass(frozen=True)
class BitAllocation:
    """Where a trained codec spends its bits: on objects that the detectors find, on those they miss, and elsewhere."""

    detectors: tuple[str, ...]


@dataclass(frozen=True)
class Probe:
    """What textures decoded pictures give away to a probe that learns on the first training pictures."""

    detectors: tuple[str, ...]
    train_images: int


# --- all of it -----------------------------------------------------------------------------------------------------------

_MEASURED = {"spent": BitAllocation, "probed": Probe}
_CODED = {"classical": Classical, "trained": Trained, "refined": Refined}


@dataclass(frozen=True)
class Recipe:
    """One run. Two runs with equal recipes are the same run."""

    chapter: str
    pictures: Pictures | Clip
    codec: Classical | Trained | Refined | Given | Overfitted
    measured: Accuracy | BitAllocation | Probe

    @property
    def loss(self) -> Loss | None:
        """What its codec is made for; None for a classical one."""
        return getattr(self.codec, "loss", None)

    @property
    def seed(self) -> int:
        """The seed of its training; 0 if there is none."""
        return getattr(self.codec, "seed", 0)

    @property
    def setting(self) -> float:
        """What decides its rate, and orders a curve: lambda, quality, QP or channels; 0 where there is nothing to set."""
        settings = (getattr(self.codec, name, None) for name in ("lmbda", "setting", "channels"))
        return float(next((value for value in settings if value is not None), 0))

    @property
    def kind(self) -> str:
        """`classical`, `trained` (or overfitted), `refined`, `spent` (bit allocation) or `probed`."""
        coded = next((name for name, cls in _CODED.items() if isinstance(self.codec, cls)), "trained")
        return next((name for name, cls in _MEASURED.items() if isinstance(self.measured, cls)), coded)

    @property
    def method(self) -> str:
        """What its curve is called: `mse`, `jpeg`, `sa-icm-0.93`, `refined-mse`, `spent-distill`, `probed-hevc`, ..."""
        name = self.loss.method if self.loss else self.codec.codec
        name += "-truth" if getattr(self.codec, "roi", "none") == "truth" else ""
        return name if self.kind in ("classical", "trained") else f"{self.kind}-{name}"

    @cached_property
    def run_id(self) -> str:
        """`<codec>-<loss>-l<lmbda>-s<seed>-<hash8>`, the name of the record; the hash is of the whole recipe."""
        return _name(flat(self))

    @cached_property
    def codec_id(self) -> str:
        """The name of the trained codec: as :attr:`run_id`, but hashed without what judges it, or shows it where to look: new
        ones need no training."""
        judging = {"chapter", "method", "images", "roi", *(f.name for f in fields(Accuracy))}
        content = {k: v for k, v in flat(self).items() if k not in judging}
        content["data"] = content.pop("train_data", content["data"])
        return _name(content)

    @property
    def path(self) -> Path:
        """Where its record lies in the ledger."""
        return LEDGER / self.chapter / f"{self.run_id}.json"


def _name(content: dict[str, Any]) -> str:
    hash8 = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:8]
    return f"{content['codec']}-{content['loss']}-l{content['lmbda']:g}-s{content['seed']}-{hash8}"


# The first records had these fields, whatever they coded, so they stay in every name; others only where not at their default.
_ALWAYS = {
    **dict.fromkeys(("chapter", "data", "images", "codec", "method", "detectors")),
    **{"size": 0, "loss": "none", "lmbda": 0.0, "scale": 1.0, "seed": 0, "start": "none", "steps": 0, "batch": 0},
    **{"patch": 0, "lr": 0.0, "augment": "none", "precision": "32-true", "train_images": 0},
}
# One key for what decides the rate, and two that are older than their fields' names.
_KEYS = {"quality": "lmbda", "qp": "lmbda", "channels": "lmbda", "frames": "images", "segmenter": "edges"}


def flat(recipe: Recipe) -> dict[str, Any]:
    """A recipe as one dictionary: what its record keeps, and what names it. :func:`nested` is its inverse."""
    content = _ALWAYS | {"method": recipe.kind} | dict(_entries(recipe))
    content["lmbda"] = float(content["lmbda"])
    if isinstance(recipe.pictures, Clip) and recipe.loss:
        content["train_images"] = recipe.pictures.frames
    return content


def _entries(part: Any) -> Iterator[tuple[str, Any]]:
    for f in fields(part):
        value = getattr(part, f.name)
        if is_dataclass(value):
            if isinstance(value, Loss):
                yield "loss", value.name
            yield from _entries(value)
        elif f.default is MISSING or value != f.default:
            # The first records had one that was fine-tuned at the most, as a text.
            yield _KEYS.get(f.name, f.name), value[0] if f.name == "finetuned" and len(value) == 1 else value


def nested(content: dict[str, Any]) -> Recipe:
    """The recipe that :func:`flat` wrote; a ValueError or KeyError where it is none."""
    content = _ALWAYS | content
    loss = None if content["loss"] == "none" else _part(objectives.named(content["loss"]), content)
    pictures = _part(Clip if content.get("clip", "none") != "none" else Pictures, content)
    without = Given if "weights" in content else Classical
    coded = without if loss is None else Overfitted if loss.video else Trained
    measured = _MEASURED.get(content["method"], Accuracy)
    parts = {"loss": loss, "training": _part(Training, content) if coded is Trained else None}
    if coded is Classical and (setting := zoo.find(content["codec"])[0].setting):
        parts[setting] = int(content["lmbda"])
    codec = _part(Refined if content["method"] == "refined" else coded, content, **parts)
    return Recipe(content["chapter"], pictures, codec, _part(measured, content))


def _part(cls: type, content: dict[str, Any], **parts: Any) -> Any:
    values = {}
    for f in fields(cls):
        key = _KEYS.get(f.name, f.name)
        if f.name in parts:
            values[f.name] = parts[f.name]
        elif cls is not Classical or key != "lmbda":
            values[f.name] = content.get(key, f.default) if f.default is not MISSING else content[key]
    for name, kind in (("channels", int), ("detectors", tuple), ("finetuned", _all)):
        if name in values:
            values[name] = kind(values[name])
    return cls(**values)


def _all(names: str | Sequence[str]) -> tuple[str, ...]:
    return () if names == "none" else (names,) if isinstance(names, str) else tuple(names)
