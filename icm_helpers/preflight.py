"""Find what would stop long runs after their first hour, before they start: data, weights, packages, disk, memory of the GPU."""

from __future__ import annotations

import gc
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch

from icm_helpers import cost, files, objectives, run
from icm_helpers.codecs import zoo
from icm_helpers.data import datasets
from icm_helpers.ledger.recipe import Accuracy, Clip, Recipe, Trained
from icm_helpers.tasks import models, training


class PreflightError(RuntimeError):
    """Runs cannot end well here; the message says all that is wrong, a line each."""


def check(recipes: Sequence[Recipe], device: str = "auto") -> None:
    """Refuse runs with a :class:`PreflightError` where something that they need is missing, incomplete, another or too small."""
    if wrong := list(dict.fromkeys(faults(recipes, device))):
        raise PreflightError("\n  ".join([f"{len(recipes)} runs were not begun:", *wrong]))


def faults(recipes: Sequence[Recipe], device: str = "auto") -> Iterator[str]:
    """All that is wrong, a sentence each, with what to do. What Segment Anything's masks take on disk is not counted."""
    found: dict[Any, Any] = {}
    for (name, split, size), count in _pictures(recipes).items():
        opened = found[name, split] = yield from _tried(name, datasets.load, name, split, size=size, limit=count)
        if opened and len(opened) < count:
            told = f"{name}: {len(opened)} of {count} pictures are there of {split}"
            yield f"{told}: unpack it whole; `icm datasets check {name}` tells more"
    for clip in dict.fromkeys(r.pictures for r in recipes if isinstance(r.pictures, Clip)):
        video = yield from _tried(clip.clip, datasets.clip, clip.data, clip.clip, clip.frames, clip.size)
        if video and len(video) < clip.frames:
            yield f"{clip.clip}: {len(video)} of {clip.frames} frames are there: fetch the whole sequence"
    loaded = []
    for name in _networks(recipes):
        model = models.MODELS.get(files.unmarked(name)[0])
        reading = _segmenter if model and "segment" in model.can else models.load
        loaded.append((yield from _tried(name, reading, name)) is not None)
    for one in _codecs(recipes):
        loaded.append((yield from _tried(one.codec.training.start, run.start, one)) is not None)
    yield from _disk(recipes, found)
    if all(loaded) and all(found.values()) and run.How(device).place.type == "cuda":
        yield from _memory(recipes, device)


def _segmenter(name: str) -> str:
    """Its weights are large, and only looked at: their fingerprint identifies them."""
    models.present(models.MODELS[files.unmarked(name)[0]].file())
    return models.segmenter(name)


def _tried(what: str, work: Callable[..., Any], *arguments: Any, **more: Any) -> Iterator[str]:
    """What `work` gives; where it fails, None, and why."""
    try:
        return work(*arguments, **more)
    except (OSError, ValueError, RuntimeError, ImportError) as error:
        yield f"{what.partition('@')[0]}: {error}"
        return None


def _pictures(recipes: Iterable[Recipe]) -> dict[tuple[str, str, int], int]:
    """How many pictures of which data sets and splits are asked for."""
    asked: dict[tuple[str, str, int], int] = {}

    def ask(recipe: Recipe, split: str, count: int) -> None:
        key = recipe.pictures.data, split, recipe.pictures.size
        asked[key] = max(asked.get(key, 0), count)

    for recipe in (r for r in recipes if not isinstance(r.pictures, Clip)):
        ask(recipe, "val", recipe.pictures.images)
        if isinstance(recipe.codec, Trained) and not run.made(recipe):
            ask(run.learnt(recipe), "train", recipe.codec.training.train_images)
        if _tuned(recipe):
            ask(recipe, "train", min(recipe.measured.finetune_images, recipe.codec.training.train_images))
    return asked


def _tuned(recipe: Recipe) -> tuple[str, ...]:
    return recipe.measured.finetuned if isinstance(recipe.measured, Accuracy) else ()


def _networks(recipes: Iterable[Recipe]) -> list[str]:
    """Every recognition model that judges, is fine-tuned, teaches, draws masks or says where to look."""
    names = [name for r in recipes for name in (*r.measured.detectors, *_tuned(r))]
    roles = [(r.loss, role) for r in recipes for role in ("teacher", "segmenter")]
    roles += [(r.codec, "roi") for r in recipes] + [(r.measured, "divided") for r in recipes]
    names += [getattr(part, role) for part, role in roles if getattr(part, role, "none") not in ("none", "truth")]
    return list(dict.fromkeys(names))


def _codecs(recipes: Iterable[Recipe]) -> list[Recipe]:
    """One run of each kind of codec that is still to be trained."""
    missing = [r for r in recipes if isinstance(r.codec, Trained) and not run.made(r)]
    return list({(r.codec.codec, r.codec.training.start): r for r in missing}.values())


def _disk(recipes: Sequence[Recipe], found: dict[Any, Any]) -> Iterator[str]:
    """Weights of all codecs that are trained, one checkpoint with Adam's moments, fine-tuned detectors, and the decoded pictures of
    one codec."""
    missing = {r.codec_id: r.codec.codec for r in recipes if isinstance(r.codec, Trained) and not run.made(r)}
    sizes = {name: sum(p.nbytes for p in zoo.load(name, weights=None).parameters()) for name in set(missing.values())}
    tuners = [models.MODELS[files.unmarked(name)[0]].file() for r in recipes for name in _tuned(r)]
    tuned = sum(path.stat().st_size for path in tuners if path.is_file())
    lessons = [found.get((r.pictures.data, "train")) for r in recipes if _tuned(r)]
    decoded = max((training.PNG * some.pixels for some in lessons if some), default=0)
    needed = sum(sizes[name] for name in missing.values()) + 3 * max(sizes.values(), default=0) + 2 * tuned + decoded
    place = next(folder for folder in (files.RUNS, *files.RUNS.parents) if folder.is_dir())
    if needed > (free := shutil.disk_usage(place).free):
        yield f"disk of {place}: {free / 1e9:.1f} GB are free, about {needed / 1e9:.1f} are needed: make room there"


def _memory(recipes: Sequence[Recipe], device: str) -> Iterator[str]:
    """One step of each kind of training, with batch and crop as they are."""
    how = {"device": device, "keep": False, "progress": False}
    for recipe, *_ in cost.kinds([r for r in recipes if isinstance(r.codec, Trained) and not run.made(r)]):
        plan, wanted = recipe.codec.training, recipe.measured
        images = max(plan.batch, getattr(wanted, "finetune_batch", 0))
        few = replace(recipe, codec=replace(recipe.codec, training=replace(plan, steps=1, train_images=images)))
        try:
            model = run.train_codec(few, None, **how)
            if _tuned(recipe):
                run.finetuned(replace(few, measured=replace(wanted, finetune_steps=1)), model, run.How(**how))
        except torch.OutOfMemoryError as error:
            cure = "use a GPU with more memory, or a smaller batch in the chapter's study, which is then no longer the paper's"
            yield f"GPU: {recipe.codec.codec} by {recipe.method}, or a detector fine-tuned on it, does not fit ({error}): {cure}"
    objectives.forget_teachers()
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()  # for the runs, which are other processes
