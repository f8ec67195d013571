"""A study: one data set's part of a chapter, as the runs that it makes. A preset of a chapter is a tuple of studies."""

from __future__ import annotations

from dataclasses import dataclass, fields, is_dataclass, replace
from functools import cached_property
from typing import Any, ClassVar

from icm_helpers import files
from icm_helpers.codecs import zoo
from icm_helpers.ledger.recipe import (
    Accuracy,
    BitAllocation,
    Classical,
    Clip,
    Overfitted,
    Pictures,
    Probe,
    Recipe,
    Refined,
    Trained,
    Training,
)
from icm_helpers.objectives import Distill, Loss

ROLES = ("main", "replaced", "ablation", "slower", "longer", "microscope", "codec", "demonstration")
"""What a study is for: the chapter's comparison on a data set; the same before a claim's test was changed; one thing changed; only
the learning rate or the steps; latents refined, nothing trained; the codec itself, beside others; too short to judge."""
Anchors = tuple[tuple[str, tuple[int, ...]], ...]
Scaled = tuple[tuple[Loss, float], ...]


@dataclass(frozen=True)
class Microscope:
    """Latents of the common start, refined under each loss, and judged by the first so many detectors."""

    lmbdas: tuple[float, ...]
    steps: int
    losses: Scaled = ()  # the study's own where empty
    lr: float = 0.1  # of the latents, in rounding intervals
    precision: str = "32-true"  # 32-true | bf16-mixed
    judges: int = 1


class _Runs:
    """What studies of pictures and of videos have in common."""

    def __post_init__(self) -> None:
        if self.role not in ROLES:
            raise ValueError(f"no role of a study is called {self.role!r}; known: {', '.join(ROLES)}")

    def recipes(self) -> list[Recipe]:
        """Every run: trained codecs, where they spend their bits, what they give away, refined latents, classical codecs,
        uncompressed pictures, and the runs beside."""
        return list(self._recipes)

    def settings(self) -> dict[str, Any]:
        """What decides it, for a reader: one entry a field, parts unpacked, without what is empty."""
        return _settings(self) | {"seeds": tuple(sorted({r.seed for r in self.recipes() if r.loss}))}


@dataclass(frozen=True)
class Study(_Runs):
    """Which runs are made on one data set of pictures, how codecs are trained, and what judges them."""

    chapter: str
    name: str  # one of its own within the chapter's preset
    pictures: Pictures
    codec: str  # a name in codecs.zoo
    training: Training
    losses: Scaled  # and what multiplies lmbda so that rates overlap; 0: run.scale, at the start
    lmbdas: tuple[float, ...]  # of the losses that `ladders` does not name
    measured: Accuracy  # of the first seed; the others have its first detector alone, unless `all_judge`
    seeds: tuple[int, ...] = (0,)  # the first has every lambda and loss, the others none that is costly
    seed_lmbdas: tuple[float, ...] = ()  # those of the other seeds; all where empty
    all_judge: bool = False  # whether the other seeds are judged as the first is
    ladders: tuple[tuple[str, tuple[float, ...]], ...] = ()  # losses by name, each with lambdas of its own
    anchors: Anchors = ()  # classical codecs and their qualities or QPs
    bit_allocation: bool = False  # whether distilled codecs' bits are located; the other seeds' only with `all_judge`
    probed: tuple[str, ...] = ()  # losses, of the first seed, and classical codecs: what textures do they give away?
    microscope: Microscope | None = None
    roi: str = "none"  # who tells encoders that take a region of interest where it is: a detector, or `truth`
    beside: tuple[Recipe, ...] = ()  # runs of other studies that belong to this one: rivals, and what was trained again
    role: str = "main"
    ledger: bool = True  # False: measured on the spot and written nowhere

    @property
    def data(self) -> str:
        """The name of its data set."""
        return self.pictures.data

    @cached_property
    def _recipes(self) -> tuple[Recipe, ...]:
        judged, detectors, first = self.measured, self.measured.detectors, self.seeds[0]
        alone = Accuracy(detectors[:1], divided=judged.divided)

        def recipe(codec: Any, measured: Any) -> Recipe:
            return Recipe(self.chapter, self.pictures, codec, measured)

        def rungs(losses: Scaled, usual: tuple[float, ...]) -> list[tuple[Loss, float, float]]:
            own = {loss: dict(self.ladders).get(loss.name, usual) for loss, _ in losses}
            lmbdas = dict.fromkeys(lmbda for some in own.values() for lmbda in some)
            return [(loss, scale, lmbda) for lmbda in lmbdas for loss, scale in losses if lmbda in own[loss]]

        trained = [
            recipe(
                Trained(self.codec, loss, lmbda, self.training, scale, seed, _roi_of(self.codec, self.roi)),
                judged if seed == first or self.all_judge else alone,
            )
            for seed in self.seeds
            for loss, scale, lmbda in rungs(self.losses, (self.seed_lmbdas if seed != first else ()) or self.lmbdas)
            if seed == first or not loss.costly
        ]
        spent = [
            replace(r, measured=BitAllocation((r.loss.teacher,)))
            for r in trained
            if self.bit_allocation and isinstance(r.loss, Distill) and (r.seed == first or self.all_judge)
        ]
        anchors = [
            recipe(codec, Accuracy(detectors, divided=judged.divided)) for codec in classical(self.anchors, self.roi)
        ]
        probed = [
            replace(r, measured=Probe(detectors[:1], self.training.train_images))
            for r in (*trained, *anchors)
            if (r.loss.name if r.loss else r.codec.codec) in self.probed and (r.loss is None or r.seed == first)
        ]
        m, some = self.microscope, self.microscope and Accuracy(detectors[: self.microscope.judges])
        refined = [
            recipe(Refined(self.codec, loss, lmbda, self.training.start, m.steps, m.lr, scale, m.precision), some)
            for loss, scale, lmbda in (rungs(m.losses or self.losses, m.lmbdas) if m else ())
            if loss.refinable
        ]
        return (*trained, *spent, *probed, *refined, *anchors, *self.beside)


@dataclass(frozen=True)
class VideoStudy(_Runs):
    """Some videos' part of a chapter: networks of several sizes trained to each clip with each loss, HEVC and VVC, and what judges.

    A network's file is its clip; what a NeRV is trained with decides its rate only a little, so that the ladder is one of sizes.
    """

    chapter: str
    name: str
    data: str  # a name in data.datasets
    clips: tuple[str, ...]  # seeds of moving scenes; clips of DAVIS 2016, at half size; or sequences of SFU-HW-Objects
    frames: int  # the first so many of each
    networks: tuple[tuple[str, int], ...]  # names in nerv.SIZES, and their channels
    losses: tuple[Loss, ...]
    epochs: int
    lr: float
    measured: Accuracy
    size: int = 0  # side of scenes in pixels; 0: the clip's own
    seeds: tuple[int, ...] = (0,)
    tune_epochs: int = 0  # after pruning
    density: float = 1.0  # of the weights, after pruning
    bits: int = 8  # of a weight
    batch: int = 1  # frames
    precision: str = "32-true"
    anchors: Anchors = ()  # hevc-inter, vvc-inter: QPs
    role: str = "main"
    ledger: bool = True  # False: measured on the spot and written nowhere
    beside: ClassVar[tuple[Recipe, ...]] = ()

    @cached_property
    def _recipes(self) -> tuple[Recipe, ...]:
        steps, tune_steps = (epochs * self.frames // self.batch for epochs in (self.epochs, self.tune_epochs))
        how = {"steps": steps, "tune_steps": tune_steps, "batch": self.batch, "lr": self.lr}
        how |= {"precision": self.precision, "density": self.density, "bits": self.bits}
        networks = [
            (clip, Overfitted(f"nerv-{name}", loss, channels, seed=seed, **how))
            for clip in self.clips
            for name, channels in self.networks
            for loss in self.losses
            for seed in self.seeds
        ]
        *anchors, png = classical(self.anchors) or [None]
        coded = [(clip, codec) for clip in self.clips for codec in anchors]
        uncompressed = [(clip, png) for clip in self.clips if png]
        return tuple(
            Recipe(self.chapter, Clip(self.data, clip, self.frames, self.size), codec, self.measured)
            for clip, codec in (*networks, *coded, *uncompressed)
        )


def runs_of(*studies: Study | VideoStudy) -> tuple[Recipe, ...]:
    """The recipes of several studies, to stand beside those of another."""
    return tuple(recipe for study in studies for recipe in study.recipes())


def classical(anchors: Anchors, roi: str = "none") -> list[Classical]:
    """Classical codecs at each of their settings, and with any of them the uncompressed picture."""
    coded = [
        Classical(name, **{zoo.find(name)[0].setting: value}, roi=_roi_of(name, roi))
        for name, values in anchors
        for value in values
    ]
    return [*coded, Classical("png")] if coded else []


def _roi_of(codec: str, roi: str) -> str:
    return roi if zoo.find(codec)[0].roi else "none"


def _settings(part: Any) -> dict[str, Any]:
    shown: dict[str, Any] = {}
    for f in fields(part):
        value = getattr(part, f.name)
        if f.name in ("chapter", "name", "role", "ledger", "beside"):
            continue
        if f.name == "losses":
            scaled = not isinstance(part, VideoStudy)  # a video's losses come without scales
            asked = [loss for loss, _ in value] if scaled else value
            named = [(loss.method, scale) for loss, scale in value] if scaled else [loss.method for loss in value]
            shown["scales" if scaled else "losses"] = tuple(named)
            for name in dict.fromkeys(own.name for loss in asked for own in fields(loss)):
                told = dict.fromkeys(getattr(loss, name) for loss in asked if hasattr(loss, name))
                shown[name] = _unmarked(next(iter(told)) if len(told) == 1 else tuple(told))
        elif is_dataclass(value):
            shown |= {f"{f.name} {k}" if f.name == "microscope" else k: v for k, v in _settings(value).items()}
        elif f.name == "networks":
            shown[f.name] = tuple(name for name, _ in value)
        elif value not in ((), None, "none", "same"):
            shown[f.name] = _unmarked(value) if f.name in ("detectors", "finetuned", "divided", "roi") else value
    return shown


def _unmarked(value: Any) -> Any:
    """The names of models without the fingerprints of their weights."""
    if isinstance(value, tuple):
        return tuple(map(_unmarked, value))
    return files.unmarked(value)[0] if isinstance(value, str) else value
