"""What runs will cost: a few steps and pictures of each kind are timed here, and the rest is scaled up."""

from __future__ import annotations

import resource
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from icm_helpers import run
from icm_helpers.ledger.recipe import Accuracy, Classical, Clip, Overfitted, Recipe, Trained
from icm_helpers.tasks import training


@dataclass(frozen=True)
class Cost:
    """Of one run: hours of training its codec, of fine-tuning a detector on it, and of coding and judging; in GB the most memory
    so far, of the GPU or else of the process, and what lies on disk while it trains: weights, a checkpoint with Adam's moments, and
    the decoded pictures that a detector is fine-tuned on."""

    training: float = 0.0
    tuning: float = 0.0
    judging: float = 0.0
    memory: float = 0.0
    disk: float = 0.0


_FREE = {"lmbda": 1.0, "scale": 1.0, "seed": 0}  # what of a codec costs nothing


def kinds(recipes: Sequence[Recipe]) -> list[list[Recipe]]:
    """Runs that cost the same, together: those that differ in lambda, scale, seed, quality or clip alone."""
    found: dict[Recipe, list[Recipe]] = {}
    for recipe in recipes:
        codec, pictures = recipe.codec, recipe.pictures
        if isinstance(codec, Classical):
            codec = codec.codec, codec.roi
        else:
            codec = replace(codec, **{name: value for name, value in _FREE.items() if hasattr(codec, name)})
        if isinstance(pictures, Clip):
            pictures = replace(pictures, clip="")
        found.setdefault(replace(recipe, codec=codec, pictures=pictures), []).append(recipe)
    return list(found.values())


def estimate(
    recipe: Recipe, *, steps: int = 4, images: int = 2, device: str = "auto", workers: int | None = None
) -> Cost:
    """The cost of one run, by so many steps of its trainings and so many pictures, or more where they take no time, or by so
    many frames of its video.

    Time is taken to grow in proportion to them: what happens once, such as reading annotations, is left out, and so are Segment
    Anything's masks, which belong to no run; those of the pictures that are looked at are made first.

    Raises:
        DataError, FileNotFoundError, ImportError, ValueError: data, weights or a package are missing, or do not fit.
        torch.OutOfMemoryError: the run does not fit into the GPU.
    """
    how = {"device": device, "keep": False, "workers": workers, "progress": False}
    cuda = run.How(**how).place.type == "cuda"
    if cuda:
        torch.cuda.reset_peak_memory_stats()
    codec, pictures, wanted = recipe.codec, recipe.pictures, recipe.measured
    model, seconds, disk = None, 0.0, 0.0
    if isinstance(codec, Overfitted):
        frames = min(images, pictures.frames)
        few = replace(recipe, pictures=replace(pictures, frames=frames))
        video = run.clip(few)

        def train(epochs: int) -> Any:
            fewer = replace(codec, steps=epochs * frames // codec.batch, tune_steps=0)
            return run.overfitted(replace(few, codec=fewer), video, None, **how)

        model, of_epoch = _slope(train, steps)
        seconds = of_epoch * (codec.steps + codec.tune_steps) * codec.batch / frames
        disk = 4 * _bytes(run.start(few, video))
    elif isinstance(codec, Trained):
        plan = replace(codec.training, train_images=(steps + 1) * codec.training.batch)
        known = codec.scale or 1.0  # to look for it costs next to nothing
        few = replace(recipe, codec=replace(codec, training=plan, scale=known))

        def train(count: int) -> Any:
            fewer = replace(few.codec, training=replace(plan, steps=count))
            return run.train_codec(replace(recipe, codec=fewer), None, **how)

        model, of_step = _slope(train, steps)
        seconds, disk = of_step * codec.training.steps, 4 * _bytes(model)
    else:
        few = recipe
        model = None if isinstance(pictures, Clip) else run.trained_codec(recipe, **how)

    def judge(count: int) -> Any:
        plain = replace(wanted, finetuned=()) if isinstance(wanted, Accuracy) else wanted
        if isinstance(pictures, Clip):
            made = model if isinstance(codec, Overfitted) else run.coded(few, **how)
            return run.measured(replace(few, measured=plain), made, **how)
        return run.measured(replace(few, pictures=replace(pictures, images=count), measured=plain), model, **how)

    if isinstance(pictures, Clip):
        judging = _timed(judge, 0)[1] * pictures.frames / few.pictures.frames
    else:
        of_picture = _slope(judge, images)[1]
        judging = of_picture * pictures.images
    tuning = 0.0
    if isinstance(wanted, Accuracy) and wanted.finetuned:

        def tune(count: int) -> Any:
            return run.finetuned(replace(few, measured=replace(wanted, finetune_steps=count)), model, run.How(**how))

        coded = min(codec.training.train_images, wanted.finetune_images)
        tuning = _slope(tune, steps)[1] * wanted.finetune_steps + of_picture * coded  # judging them would cost more
        lessons = run.images(few, "train", few.codec.training.train_images)
        disk += training.PNG * lessons.pixels / len(lessons) * coded / 1e9
    peak = torch.cuda.max_memory_allocated() if cuda else 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return Cost(seconds / 3600, tuning / 3600, judging / 3600, peak / 1e9, disk)


def _bytes(model: torch.nn.Module) -> float:
    return sum(p.nbytes for p in model.parameters()) / 1e9


def _timed(work: Callable[[int], Any], count: int) -> tuple[Any, float]:
    begun = time.monotonic()
    made = work(count)
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return made, time.monotonic() - begun


def _slope(work: Callable[[int], Any], count: int) -> tuple[Any, float]:
    """What `work` makes, and its seconds for each of `count` more after a first that warms up; twice as many, and again, until
    they take long enough to be told from the noise of a machine that does other things."""
    work(1)
    one = _timed(work, 1)[1]
    while True:
        made, more = _timed(work, 1 + count)
        if more - one > max(3.0, 0.1 * one) or count >= 64:
            return made, max(more - one, 0.0) / count
        count *= 2


def table(recipes: Sequence[Recipe], **how: Any) -> Iterator[str]:
    """Lines of a table, each when it was measured: kinds of runs with their cost, and all of them; a codec that several runs share
    is trained once."""
    columns = ("runs", "codecs", "training", "tuning", "judging", "all", "memory", "disk")
    yield f"{'hours a run, hours of all; GB':60}" + "".join(f"{name:>10}" for name in columns)
    total, disk, trained = 0.0, 0.0, set()
    for same in kinds(recipes):
        one, count = estimate(same[0], **how), len(same)
        fresh = {r.codec_id for r in same} - trained
        trained |= fresh
        hours = len(fresh) * one.training + count * (one.tuning + one.judging)
        total, disk = total + hours, max(disk, one.disk)
        numbers = (one.training, one.tuning, one.judging, hours, one.memory, one.disk)
        yield f"{_name(same[0]):60}{count:10}{len(fresh):10}" + "".join(f"{number:10.3g}" for number in numbers)
    yield f"{len(recipes)} runs: {total:.3g} hours, one after the other; weights and one checkpoint at a time {disk:.3g} GB"


def _name(recipe: Recipe) -> str:
    return f"{recipe.pictures.data}: {recipe.codec.codec}, {recipe.method}"
