"""Options of the command line: their types, those of losses, those that commands share, and the range of each number.

A command's annotations are evaluated when it is parsed, so choices are what the registries know by then.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import MISSING, dataclass, fields, is_dataclass, make_dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, get_type_hints

from icm_helpers import files, objectives
from icm_helpers.codecs import zoo
from icm_helpers.data import datasets
from icm_helpers.files import RUNS
from icm_helpers.later import later
from icm_helpers.ledger.recipe import Pictures, Training
from icm_helpers.tasks import models

docstring_parser, tyro, torch, masks, train = later("docstring_parser", "tyro", "torch", ".masks", ".train")

Precision = Literal["32-true", "bf16-mixed"]


def one_of(names: Iterable[str]) -> Any:
    """The type of an option that takes one of these."""
    return Literal[tuple(names)]


def maybe(kind: Any, help: str | None = None, also: str | None = None) -> Any:
    """The type of an option that may be left out, and is None then; `also` is another name of it."""
    name = getattr(kind, "__args__", [kind])[0].__name__.upper()
    many = f"{name} [{name} ...]" if kind.__name__ == "tuple" else name
    how = {"metavar": many, "help": help, "help_behavior_hint": "", "aliases": [also] if also else None}
    return Annotated[kind | None, tyro.conf.arg(**how)]


def positional(kind: Any) -> Any:
    """The type of an argument without a name."""
    return tyro.conf.Positional[kind]


def coder(what: str, *, network: bool = False) -> Any:
    """The type of an option that names a codec of pictures."""
    known = (c.name for c in zoo.CODECS.values() if (c.network if network else not c.video))
    return Annotated[str, tyro.conf.arg(help=f"{what}: {', '.join(known)}")]


def pictures_named() -> Any:
    """The type of an option that names a data set of pictures, or says where one's own are."""
    known = f"data set: {', '.join(datasets.names())}; or a folder with annotations in COCO's format, or their file"
    return Annotated[str, tyro.conf.arg(help=known, metavar="NAME|PATH")]


def options_of(losses: Iterable[str]) -> type:
    """A class of the options of some losses: the fields of all, each None where it is left out."""
    by_option: dict[str, list[type[objectives.Loss]]] = {}
    for loss in map(objectives.named, losses):
        for f in fields(loss):
            by_option.setdefault(f.name, []).append(loss)
    entries = []
    for option, by in by_option.items():
        params = docstring_parser.parse(by[0].__doc__).params
        said = [": " + p.description for p in params if option in p.arg_name.split(", ")]
        help = f"of {', '.join(loss.name for loss in by)}{''.join(said)}"
        entries.append((option, maybe(get_type_hints(by[0])[option], help), None))
    return make_dataclass("Options", entries)


def loss_of(name: str, options: Any, data: str) -> objectives.Loss:
    """A loss with the options that are given, and for some that are left out what the book takes; a ValueError says that an option
    is none of this loss, or that one which it needs is left out."""
    loss, given = objectives.named(name), {k: v for k, v in vars(options).items() if v is not None}
    known, source = {f.name: f for f in fields(loss)}, datasets.DATASETS.get(data)
    if wrong := ", ".join(flag(option) for option in given if option not in known):
        raise ValueError(f"--loss {name} has no {wrong}; it takes {', '.join(map(flag, known)) or 'no options'}")
    usual = {"teacher": source and source.detector, "segmenter": source and source.segmenter}
    values = {k: v for k, v in (usual | {"alpha": 0.93, "task_weight": 20.0}).items() if k in known} | given
    if "segmenter" in known and values["segmenter"] is None:
        raise ValueError(f"--loss {name} on {data} needs --segmenter, such as sam-vit-b: nano-sam has seen only scenes")
    if wrong := ", ".join(flag(k) for k, f in known.items() if k not in values and f.default is MISSING):
        raise ValueError(f"--loss {name} needs {wrong}")
    if "alpha" in known:
        masks.require_stored(values["alpha"])
    return loss(**{k: models.fingerprinted(v) if k in ("teacher", "segmenter") else v for k, v in values.items()})


_WHOLE = (
    *("steps", "batch", "patch", "images", "train_images", "frames", "size", "height", "channels", "epochs", "jobs"),
    *("points", "points_per_batch"),
)
_RANGES: dict[str, tuple[Callable[[Any], bool], str]] = {
    **dict.fromkeys(_WHOLE, (lambda v: v > 0, "a whole number above zero")),
    **dict.fromkeys(("lr", "lmbda"), (lambda v: v > 0, "a number above zero")),
    "scale": (lambda v: v >= 0, "a number, 0 or more"),
    **dict.fromkeys(("tune_epochs", "retries", "judged", "workers"), (lambda v: v >= 0, "a whole number, 0 or more")),
    "alpha": (lambda v: 0 < v < 1, "a number between 0 and 1"),
    **dict.fromkeys(("density", "stability"), (lambda v: 0 < v <= 1, "above 0 and at most 1")),
    "bits": (lambda v: 2 <= v <= 8, "a whole number from 2 to 8"),
}


def flag(option: str) -> str:
    """A field as it is written on a command line."""
    return "--" + option.replace("_", "-")


def check(options: Any) -> None:
    """Refuse, with a ValueError, numbers out of range."""
    for name, value in vars(options).items():
        if is_dataclass(value):
            check(value)
        for number in value if isinstance(value, tuple) else [value]:
            if name in _RANGES and isinstance(number, int | float) and not _RANGES[name][0](number):
                raise ValueError(f"{flag(name)} {number}: must be {_RANGES[name][1]}")


def share(text: str) -> tuple[int, int]:
    """A share of the work: (1, 2), the first of two, from `1/2`; a ValueError if it names none."""
    k, _, n = text.partition("/")
    if not (k.isdigit() and n.isdigit() and 1 <= int(k) <= int(n)):
        raise ValueError(f"--part {text!r} is not a part: write 1/2 for the first of two")
    return int(k), int(n)


# --- what commands share -------------------------------------------------------------------------------------------------


TRAINING = Training("none", 6000, 4, 128, 1e-3, "none", "32-true", None)


@dataclass(frozen=True, kw_only=True)
class Command:
    """Options of most commands."""

    device: Literal["auto", "cpu", "cuda"] = "auto"  # where to compute

    @property
    def place(self) -> torch.device:
        """The device itself."""
        return train.fabric(self.device).device


@dataclass(frozen=True, kw_only=True)
class Coder(Command):
    """A codec that is ready to code whole pictures."""

    codec: coder("a codec of the zoo") = "mean-scale-small"
    quality: maybe(int) = None  # a CompressAI model's size, 1 to 8; a classical codec's quality or QP
    weights: maybe(Path) = None  # weights file; default: the shipped one

    def coder(self) -> Any:
        """The codec; ValueError where it codes videos alone."""
        if zoo.find(self.codec)[0].video:
            raise ValueError(f"{self.codec} codes videos, not pictures: use `icm video`")
        model = zoo.load(self.codec, self.quality, weights=self.weights or "default")
        return model.to(self.place) if isinstance(model, torch.nn.Module) else model


@dataclass(frozen=True, kw_only=True)
class Coding(Coder):
    """A codec that is ready to code."""

    roi: maybe(str) = (
        None  # which detector finds the region of interest for an encoder that takes one; default: the whole picture
    )


@dataclass(frozen=True, kw_only=True)
class Lessons(Command):
    """How a recognition model is trained."""

    out: Path  # where the weights go (.safetensors)
    images: maybe(int) = None  # how many training images, from the first; default: all
    steps: int = 1600  # optimiser steps
    batch: int = 8  # images per step
    lr: float = 1e-3  # Adam's learning rate after warm-up
    seed: int = 0  # seed of everything random
    precision: Precision = "32-true"  # arithmetic
    workers: maybe(int) = None  # processes that load pictures; default: 4 with a GPU, otherwise none

    def told(self) -> dict[str, Any]:
        """What the training is told: where its checkpoint lies, seed, device, arithmetic, and what it trains."""
        what = {k: v for k, v in vars(self).items() if k not in ("device", "judged", "out", "workers")}
        if what.get("weights"):  # another file may come to lie there
            what["weights"] = files.fingerprint(what["weights"])
        if "detector" in what:
            what["detector"] = models.fingerprinted(what["detector"])
        how = {"seed": self.seed, "device": self.device, "precision": self.precision, "identity": f"{what}"}
        return {"folder": RUNS / self.out.stem, "workers": self.workers, **how}

    def written(self, read: Callable[[Path], Any]) -> Any:
        """The model in the file that was written. Now that it was read back, the training's checkpoints are deleted, or another
        of this name would find itself done."""
        model, folder = read(self.out), RUNS / self.out.stem
        for checkpoint in (folder / "training.ckpt", *folder.glob("[0-9]-*/training.ckpt")):
            checkpoint.unlink(missing_ok=True)
        print(f"wrote {self.out} (fingerprint {files.fingerprint(self.out)})")
        return model.to(self.place)


@dataclass(frozen=True, kw_only=True)
class Pupil(Lessons):
    """What a detector is trained on."""

    data: pictures_named() = "scenes"
    size: int = 192  # side of scenes, pixels


def pictures_of(data: str, images: int, size: int) -> Pictures:
    """Those of a data set, which have a size where they are drawn."""
    return Pictures(data, images, size if datasets.DATASETS[data].drawn else 0)
