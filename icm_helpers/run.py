"""Measure and train from the command line: `python -m icm_helpers.run --help`."""

from __future__ import annotations

import argparse
import hashlib
import json
import logging
import math
import os
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from icm_helpers import (
    claims,
    clips,
    datasets,
    evaluate,
    files,
    grid,
    judges,
    latents,
    losses,
    masks,
    overfit,
    presets,
    probe,
    results,
    train,
    video,
)
from icm_helpers.codecs import classical, container, ffmpeg, nerv, zoo
from icm_helpers.results import ROOT, Recipe, Record
from icm_helpers.tasks import sam
from icm_helpers.tasks.teacher import STRIDE, Remembered, Teacher

CHECKPOINTS = zoo.CHECKPOINTS
RUNS = ROOT / "runs"
CLASSICAL: dict[str, Callable[[int], container.FileCodec]] = {
    "jpeg": classical.Jpeg,
    "webp": classical.Webp,
    "avif": classical.Avif,
    "hevc": ffmpeg.Hevc,
    "vvc": ffmpeg.Vvc,
}
"""Classical codecs that take one whole number: a quality, or for HEVC and VVC a quantisation parameter (smaller is better)."""


# --- what a recipe names -------------------------------------------------------------------------------------------------


def data(recipe: Recipe, split: str, limit: int | None = None) -> datasets.CocoDataset:
    """A recipe's images."""
    return datasets.load(recipe.data, split, size=recipe.size, limit=limit)


def codec(recipe: Recipe) -> Any:
    """A recipe's codec as it starts: classical, from its start weights, or random."""
    if recipe.codec == "png":
        return classical.Png()
    if recipe.codec in CLASSICAL:
        return CLASSICAL[recipe.codec](int(recipe.lmbda))
    build = _architecture(recipe)
    if recipe.start == "none":
        torch.manual_seed(recipe.seed)
        return build(weights=None)
    start, _, wanted = recipe.start.partition("@")
    if start == "published":
        return build()  # CompressAI's own, whose loader checks their fingerprint
    path = CHECKPOINTS / f"{start}.safetensors"
    model, found = build(weights=path), results.fingerprint(path)
    if found != wanted:
        raise ValueError(f"{path} has fingerprint {found}, the recipe starts from {wanted}: other weights")
    return model


def _architecture(recipe: Recipe) -> Callable[..., torch.nn.Module]:
    """zoo.load for a recipe's codec: `mbt2018-mean-q5` is CompressAI's mbt2018-mean of quality 5."""
    name, _, quality = recipe.codec.partition("-q")
    return partial(zoo.load, name, int(quality) if quality else None)


def objective(
    loss: str, lmbda: float, teacher: Any = None, task_weight: float = 0.0, **distilled: Any
) -> train.Objective:
    r"""What a codec is trained for, on batches of (images, masks), and where :func:`needs_objects` says so, objects.

    Args:
        loss: `mse`, `object-region`, `sa-icm`, `true-edges` (all three on masks), `task`, eq. 2 of Shindo et al. (CCNC 2024):
            :math:`\mathcal R + \lambda_1 255^2\,\mathrm{MSE} + \lambda_2 \mathcal M(\hat x)`, or `distill`,
            `distill-boxes`, `distill-objectness`: see :class:`Distillation`.
        lmbda: weight of the distortion; :math:`\lambda_1`.
        teacher: a frozen detector with a `task_loss(images, objects)`, for `task`; a `Teacher`, for distillation.
        task_weight: of its loss; :math:`\lambda_2`.
        distilled: the fields of :class:`Distillation` that are not to keep their defaults.

    Raises:
        ValueError: unknown loss, or one without the teacher that it needs, or with one that it does not.
    """
    known = ("mse", *presets.MASKED, "task", *presets.DISTILLED)
    if loss not in known:
        raise ValueError(f"no loss is called {loss!r}; there is {', '.join(known)}")
    if (loss == "task" or loss in presets.DISTILLED) != (teacher is not None):
        need = "needs a teacher" if teacher is None else "takes no teacher"
        raise ValueError(f"the loss `{loss}` {need}: a teacher is for task, {', '.join(presets.DISTILLED)}")
    if loss in presets.DISTILLED:
        return Distillation(loss, lmbda, teacher, **distilled)

    def terms(model: Callable, batch: tuple) -> dict[str, Tensor]:
        x, mask, *objects = batch
        out = model(x)
        found = losses.rate_distortion(out, x, lmbda, mask if loss in presets.MASKED else None)
        if teacher is None:
            return found
        task = teacher.task_loss(list(out["x_hat"].float()), *objects)
        return {**found, "loss": found["loss"] + task_weight * task, "task": task}

    return terms


@dataclass(frozen=True)
class Distillation:
    r"""Train a codec so that a frozen detector's features stay: :math:`\mathcal R + \lambda \mathcal D`, Iino et al.

    The loss names the weights of :math:`\mathcal D`: `distill` has none (eq. 2), `distill-boxes` the true boxes (eq. 3),
    `distill-objectness` the teacher's objectness (eq. 4). Pictures that the teacher cannot take are continued to multiples of 32
    pixels by their last row and column, original and decoded alike.

    Args:
        levels: of the pyramid: `all`, or some, such as `p2+p3`.
        reduction, temperature: as in :func:`icm_helpers.losses.objectness_weights`.
        objectness: seen in the `original` picture, as we read the paper, or in the `decoded` one.

    Raises:
        ValueError: `objectness` is neither; or the teacher lacks a level.
    """

    loss: str
    lmbda: float
    teacher: Teacher
    levels: str = "all"
    reduction: str = "max"
    temperature: float = 1.0
    objectness: str = "original"

    def __post_init__(self) -> None:
        if self.objectness not in ("original", "decoded"):
            raise ValueError(f"objectness must be of the original or the decoded picture, not {self.objectness!r}")

    def __call__(self, model: Callable, batch: tuple) -> dict[str, Tensor]:
        """The training objective, on batches of (images, masks), with `distill-boxes` also objects."""
        x, _, *objects = batch
        clean = self.clean(x, *objects)
        return self.terms(model(x), *clean)

    @torch.no_grad()
    def clean(
        self, x: Tensor, objects: list[dict[str, Tensor]] | None = None
    ) -> tuple[dict[str, Tensor], dict[str, Tensor] | None]:
        """The original pictures' features and the weights, where these do not depend on the codec: one pass of the teacher."""
        x, weights = _continued(x), None
        if self.loss == "distill-objectness" and self.objectness == "original":
            feats, logits = self.teacher.features_and_objectness(x)
            feats = self._chosen(feats)
            weights = self._weights(logits, feats)
        else:
            feats = self._chosen(self.teacher.features(x))
        if self.loss == "distill-boxes":
            boxes = [found["boxes"].to(x.device) for found in objects]
            weights = losses.box_weights(boxes, _sizes(feats), tuple(x.shape[2:]))
        return feats, weights

    def terms(
        self, out: dict[str, Any], feats: dict[str, Tensor], weights: dict[str, Tensor] | None
    ) -> dict[str, Tensor]:
        """Loss, rate and distortion of a codec's answer, given what :meth:`clean` found."""
        x_hat = out["x_hat"].float()
        bpp = losses.rate(out["likelihoods"], x_hat.shape[0] * x_hat.shape[2] * x_hat.shape[3])
        x_hat = _continued(x_hat)
        if self.loss == "distill-objectness" and weights is None:
            feats_hat, logits = self.teacher.features_and_objectness(x_hat)
            weights = self._weights(logits, feats)
        else:
            feats_hat = self.teacher.features(x_hat)
        distortion = losses.feature_distillation(feats, self._chosen(feats_hat), weights)
        return {"loss": bpp + self.lmbda * distortion, "bpp": bpp, "distortion": distortion}

    def _weights(self, logits: dict[str, Tensor], feats: dict[str, Tensor]) -> dict[str, Tensor]:
        return losses.objectness_weights(logits, _sizes(feats), self.reduction, self.temperature)

    def _chosen(self, feats: dict[str, Tensor]) -> dict[str, Tensor]:
        if self.levels == "all":
            return feats
        if missing := set(self.levels.split("+")) - feats.keys():
            raise ValueError(f"the teacher has no level {', '.join(sorted(missing))}; it has {', '.join(feats)}")
        return {level: feats[level] for level in self.levels.split("+")}


def _continued(x: Tensor) -> Tensor:
    return container.pad(x, STRIDE) if x.shape[2] % STRIDE or x.shape[3] % STRIDE else x


def _sizes(feats: dict[str, Tensor]) -> dict[str, tuple[int, int]]:
    return {level: tuple(f.shape[2:]) for level, f in feats.items()}


def needs_objects(loss: str) -> bool:
    """Whether a loss is given the objects of each picture, not only their masks' union."""
    return loss in ("task", "distill-boxes")


def recipe_objective(recipe: Recipe, device: torch.device, remember: bool = False) -> train.Objective:
    """What a recipe's codec is trained, or its latents are refined, for; a distilling teacher may `remember` what it has seen."""
    teacher = None if recipe.teacher == "none" else _teacher(recipe.teacher, device)
    if remember and recipe.loss in presets.DISTILLED:
        teacher = Remembered(teacher, RUNS / "teachers" / recipe.teacher)
    names = ("levels", "reduction", "temperature", "objectness")
    return objective(
        recipe.loss,
        recipe.lmbda * (recipe.scale or scale(recipe, device=device)),
        teacher,
        recipe.lmbda * recipe.task_weight,
        **({name: getattr(recipe, name) for name in names} if recipe.loss in presets.DISTILLED else {}),
    )


@cache
def _teacher(name: str, device: torch.device) -> Any:
    return judges.load(name).to(device)


@cache
@torch.no_grad()
def scale(recipe: Recipe, crops: int = 200, device: torch.device | None = None) -> float:
    """What makes a recipe's distortion equal that of MSE at its start, in the mean over the first training crops of seed 0.

    Multiplied by it, one ladder of lambdas serves all losses. Measured once, on the codec that all trainings start from.
    """
    device = device or torch.device("cpu")
    recipe = replace(recipe, lmbda=1.0, scale=1.0, seed=0)
    model, found = codec(recipe).to(device), torch.zeros(2)
    objectives = objective("mse", 1.0), recipe_objective(recipe, device)
    items = training_crops(recipe, data(recipe, "train", recipe.train_images), crops)
    for i in range(crops):
        x, *rest = collate([items[i]])
        out = model(x.to(device))
        for k, terms in enumerate(objectives):
            found[k] += terms(lambda _, out=out: out, (x.to(device), *rest))["distortion"].item()
    return (found[0] / found[1]).item()


def training_crops(recipe: Recipe, images: datasets.CocoDataset, length: int) -> datasets.Crops:
    """The crops that a recipe trains on: the same pictures for all losses, each with the mask that the loss asks for."""
    region = true_edges(images) if recipe.loss == "true-edges" else None
    if recipe.loss == "sa-icm":
        how = (
            getattr(recipe, name)
            for name in ("data", "size", "edges", "alpha", "drawing", "canny_low", "canny_high", "dilate")
        )
        region = edges(images, *how)
    return datasets.Crops(
        images,
        recipe.patch,
        recipe.seed,
        length,
        recipe.augment,
        region=region,
        objects=needs_objects(recipe.loss),
    )


def _workers(device: str) -> int:
    """Processes that cut crops and read their masks: none beside a training on a CPU, some so that a GPU need not wait."""
    return 0 if train.fabric(device).device.type == "cpu" else 4


def edges(
    images: datasets.CocoDataset,
    data: str,
    size: int,
    segmenter: str,
    alpha: float,
    drawing: str = "largest-first",
    canny_low: float = 50.0,
    canny_high: float = 100.0,
    dilate: int = 0,
    device: str = "auto",
) -> Callable[[datasets.Sample], Tensor]:
    r"""What gives the edges of a training picture, :math:`\mathrm{sam}_x(\alpha)`, as `datasets.Crops` takes a region.

    The masks lie in data/cache. Those that lack are made now, which with nano SAM takes most of a second a picture.

    Args:
        images, data, size: training pictures, and how `datasets.load` was asked for them.
        segmenter: the name of a Segment Anything with the fingerprint of its weights.
        alpha, drawing, canny_low, canny_high, dilate: as in `masks.sam_edges`.

    Raises:
        ValueError: other weights lie where those of the segmenter belong.
    """
    folder = masks.stored(data, size=size, limit=len(images), model=judges.segmenter(segmenter), device=device)
    how = {"order": drawing, "low": canny_low, "high": canny_high, "dilate": dilate}
    return lambda sample: masks.sam_edges(masks.read(folder, sample.image_id), alpha, **how)


def true_edges(images: datasets.CocoDataset) -> Callable[[datasets.Sample], Tensor]:
    """What gives the edges of a picture's own panoptic map, as `datasets.Crops` takes a region.

    Raises:
        DataError: the data set has no panoptic maps.
    """
    if images.panoptic is None:
        raise datasets.DataError(f"{images.annotations} brings no panoptic maps, whose edges these are: fetch them too")

    def drawn(sample: datasets.Sample) -> Tensor:
        ids = images.panoptic[sample.image_id].ids
        labels = np.unique(ids, return_inverse=True)[1].reshape(ids.shape)  # (H, W), from 0
        return torch.from_numpy(masks.edges(labels))[None].float()

    return drawn


def collate(items: list[tuple]) -> tuple:
    """A batch of crops: pictures (N, 3, P, P), masks (N, 1, P, P), and a list of each crop's objects, where it brings them."""
    images, masks, *objects = zip(*items, strict=True)
    return torch.stack(images), torch.stack(masks), *map(list, objects)


# --- one run -------------------------------------------------------------------------------------------------------------


def places(recipe: Recipe) -> tuple[Path, Path]:
    """Where a trained codec may lie: shipped with the book, or finished by an earlier run here."""
    if recipe.clip != "none":
        return clips.places(recipe)
    return CHECKPOINTS / f"{recipe.codec_id}.safetensors", RUNS / recipe.codec_id / "codec.safetensors"


def trained_codec(
    recipe: Recipe,
    *,
    keep: bool = True,
    device: str = "auto",
    compiled: bool = False,
    remember: bool = False,
    progress: bool = True,
) -> Any:
    """The codec of a recipe: shipped in data/checkpoints, finished in runs/, or trained now (resuming where it was stopped).

    With `keep=False` a codec that has to be trained leaves no file behind, and is trained once in a process. That of a video is its
    file, in bytes.
    """
    if recipe.clip != "none":
        return clips.coded(recipe, keep=keep, device=device, compiled=compiled, progress=progress)
    if recipe.loss == "none" or recipe.method not in ("trained", "spent", "probed"):
        return codec(recipe)
    for path in places(recipe):
        if path.exists():
            return _architecture(recipe)(weights=path)
    if not keep and recipe.codec_id in _FLEETING:
        return _FLEETING[recipe.codec_id]
    model, folder, place = codec(recipe), RUNS / recipe.codec_id, train.fabric(device).device
    images = data(recipe, "train", recipe.train_images)
    found = recipe.scale or scale(recipe, device=place)
    curve = train.fit(
        model,
        training_crops(recipe, images, recipe.steps * recipe.batch),
        recipe_objective(replace(recipe, scale=found), place, remember),
        train.Schedule(steps=recipe.steps, batch=recipe.batch, lr=recipe.lr),
        folder=folder if keep else None,
        seed=recipe.seed,
        device=device,
        precision=recipe.precision,
        compiled=compiled,
        workers=_workers(device),
        collate=collate,
        progress=progress,
        describe=recipe.codec_id,
        identity=recipe.codec_id if recipe.scale else f"{recipe.codec_id}, scale {found:.6g}",
    )
    model.cpu()
    if keep:
        # The loss curve travels with the weights, and so does a scale that was found at the start.
        told = {"codec_id": recipe.codec_id, "scale": f"{found:.6g}", "curve": json.dumps(curve)}
        zoo.save(model, folder / "codec.safetensors", told)
        (folder / "training.ckpt").unlink(missing_ok=True)
    else:
        zoo.update_tables(model, force=True)
        _FLEETING[recipe.codec_id] = model
    return model


_FLEETING: dict[str, Any] = {}  # codecs of a few steps, which demonstrations train and nobody keeps


def measure(
    recipe: Recipe,
    *,
    ledger: bool = True,
    device: str = "auto",
    compiled: bool = False,
    remember: bool = False,
    progress: bool = True,
) -> Record:
    """Train or load a recipe's codec, evaluate it, and write the record to the ledger (with `ledger=False`, nowhere)."""
    if recipe.clip != "none":
        return clips.measure(recipe, ledger=ledger, device=device, compiled=compiled, progress=progress)
    model = trained_codec(recipe, keep=ledger, device=device, compiled=compiled, remember=remember, progress=progress)
    begun = time.monotonic()
    place = train.fabric(device).device
    if isinstance(model, torch.nn.Module):
        model = model.to(place).eval()
    dataset = data(recipe, "val", recipe.images)
    panel = {name.partition("@")[0]: judges.load(name).to(place) for name in recipe.detectors}
    clean = {
        name: _clean(recipe.data, recipe.images, recipe.size, full, place)
        for name, full in zip(panel, recipe.detectors, strict=True)
    }
    if recipe.finetuned != "none":
        name = recipe.finetuned.partition("@")[0] + presets.FINETUNED
        panel[name] = finetuned(recipe, model, keep=ledger, device=device, progress=progress).to(place)
    if recipe.method == "spent":
        result, bootstrap = evaluate.spending(model, dataset, clean, progress=progress)
    elif recipe.method == "probed":
        lessons = data(recipe, "train", recipe.train_images)
        result, bootstrap = probe.evaluate(model, lessons, dataset, panel, progress=progress)
    else:
        encode = partial(refined_bytes, recipe) if recipe.method == "refined" else None
        result, bootstrap = evaluate.evaluate(model, dataset, panel, clean, encode=encode, progress=progress)
    where = torch.cuda.get_device_name() if place.type == "cuda" else "cpu"
    return results.write(recipe, result, bootstrap, device=where, seconds=time.monotonic() - begun, ledger=ledger)


def finetuned(recipe: Recipe, codec: Any, *, keep: bool = True, device: str = "auto", progress: bool = True) -> Any:
    """The detector `recipe.finetuned`, trained further on what the recipe's codec decodes: finished in runs/, or trained now."""
    base, folder = judges.load(recipe.finetuned), RUNS / recipe.codec_id
    name = recipe.finetuned.replace("@", "-")  # other weights to begin with make another detector
    path = folder / f"{name}-{recipe.finetune_steps}.safetensors"
    if not path.exists():
        model = judges.finetune(
            base,
            codec,
            data(recipe, "train", min(recipe.train_images, judges.FINETUNE_IMAGES)),
            replace(judges.FINETUNE, steps=recipe.finetune_steps),
            folder=folder / name if keep else None,
            seed=recipe.seed,
            device=device,
            precision=recipe.precision,
            progress=progress,
            describe=f"{name} on {recipe.codec_id}",
            identity=f"{recipe.finetuned} on {recipe.codec_id}",
        ).cpu()
        if not keep:
            return model
        model.save(path)
        (folder / name / "training.ckpt").unlink(missing_ok=True)
    return type(base).from_weights(path)


def records(study: presets.Study | presets.VideoStudy, *, rerun: bool = False, device: str = "auto") -> list[Record]:
    """A study's records: from the ledger; missing ones measured first with `rerun`; or measured on the spot where it has no ledger.

    Raises:
        LedgerError: a record is missing and `rerun` is off.
    """
    if not study.ledger:
        return [measure(r, ledger=False, device=device, progress=False) for r in study.recipes()]
    return results.load_or_run(study.recipes(), partial(measure, device=device), rerun=rerun)


def refined_bytes(recipe: Recipe, model: Any, sample: datasets.Sample) -> bytes:
    """One image coded with latents refined under a recipe's loss.

    Raises:
        ValueError: the loss asks for what only training crops bring.
    """
    if recipe.loss not in presets.REFINABLE:
        raise ValueError(f"latents are refined under {', '.join(presets.REFINABLE)}; not under {recipe.loss}")
    device = next(model.parameters()).device
    terms = recipe_objective(recipe, device)
    batch = sample.image[None].to(device), sample.object_mask[None].to(device)
    with torch.autocast(device.type, torch.bfloat16, enabled=recipe.precision == "bf16-mixed"):
        if isinstance(terms, Distillation):
            boxes = sample.boxes[~sample.crowd]
            clean = terms.clean(batch[0], [{"boxes": boxes}])  # once an image, not once a step
            score = lambda out: terms.terms(out, *clean)["loss"]  # noqa: E731
        else:
            score = lambda out: terms(lambda _: out, batch)["loss"]  # noqa: E731
        y, z = latents.refine(model, sample.image, score, steps=recipe.steps, lr=recipe.lr, seed=recipe.seed)
    with latents.latents(model, y, z):
        return container.encode(model, sample.image)


@cache
def _clean(name: str, images: int, size: int, judge: str, place: torch.device) -> list[dict[str, Any]]:
    return evaluate.clean_detections(datasets.load(name, "val", size=size, limit=images), judges.load(judge).to(place))


# --- the commands --------------------------------------------------------------------------------------------------------


def _detector(args: argparse.Namespace) -> None:
    dataset = datasets.load(args.data, "train", size=args.size, limit=args.images)
    torch.manual_seed(args.seed)
    model = judges.untrained(args.model, dataset)
    plan = train.Schedule(steps=args.steps, batch=args.batch, lr=args.lr, warmup=200, milestones=(0.75, 0.92), clip=5.0)
    train.fit(
        model,
        judges.Pictures(dataset, args.seed, args.steps * args.batch, semantic=hasattr(model, "panoptic")),
        judges.detection_loss,
        plan,
        folder=RUNS / args.out.stem,
        seed=args.seed,
        device=args.device,
        precision=args.precision,
        collate=judges.collate,
        describe=args.model,
        identity=_identity(args),
    )
    if train.rank():
        return  # the first process writes
    model.cpu().save(args.out)
    _written(args.out)
    _judge(type(model).from_weights(args.out), datasets.load(args.data, "val", size=args.size), args.out.stem)


def _judge(
    model: evaluate.Detector,
    dataset: datasets.CocoDataset,
    name: str,
    pictures: judges.Decoded | datasets.CocoDataset | None = None,
) -> None:
    """Print a detector's AP on a data set, or on coded `pictures` of it, and its PQ where both know panoptic maps."""
    pictures = dataset if pictures is None else pictures
    found = evaluate.clean_detections(pictures, model)
    for task, iou_type in (("box", "bbox"), ("mask", "segm")):
        if task == "box" or any("segmentation" in entry for entry in found):
            summary, _ = evaluate.average_precision(dataset.ground_truth(), found, iou_type)
            print(f"{name}, {len(dataset)} images, {task}: " + ", ".join(f"{k} {v:.3f}" for k, v in summary.items()))
    if dataset.panoptic and hasattr(model, "panoptic"):
        guesses = ((s.image_id, model.panoptic([s.image])[0]) for s in (pictures[i] for i in range(len(pictures))))
        tallies = [evaluate.panoptic_tally(dataset.panoptic, i, guess) for i, guess in guesses]
        summary, _ = evaluate.panoptic_scores(dataset.panoptic, tallies, evaluate.resamplings(dataset.ids, 1))
        print(f"{name}, {len(dataset)} images, panoptic: " + ", ".join(f"{k} {v:.3f}" for k, v in summary.items()))


def _finetune(args: argparse.Namespace) -> None:
    held_out = datasets.load(args.data, "val", size=args.size)
    codec = _named_codec(args.codec, args.quality, args.weights, args.device)
    dataset = datasets.load(args.data, "train", size=args.size, limit=args.images)
    base = judges.load(args.detector)
    if not isinstance(base, tuple(judges.TRAINABLE.values())):
        raise ValueError(f"{args.detector} cannot be trained here; {', '.join(judges.TRAINABLE)} can")
    model = judges.finetune(
        base,
        codec,
        dataset,
        replace(judges.FINETUNE, steps=args.steps, batch=args.batch, lr=args.lr),
        folder=RUNS / args.out.stem,
        seed=args.seed,
        device=args.device,
        precision=args.precision,
        describe=args.out.stem,
        identity=_identity(args),
    )
    if train.rank():
        return  # the first process writes
    model.cpu().save(args.out)
    _written(args.out)
    coded = judges.Decoded(held_out, codec)
    for name, judge in ((args.detector, base), (args.out.stem, type(base).from_weights(args.out))):
        _judge(judge, held_out, name, coded)


def _written(out: Path, *legs: object) -> None:
    """Forget a training's checkpoints, or another of this name would find itself done; say what was written."""
    for leg in legs or [""]:
        (RUNS / out.stem / str(leg) / "training.ckpt").unlink(missing_ok=True)
    print(f"wrote {out} (fingerprint {results.fingerprint(out)})")


def _identity(args: argparse.Namespace) -> str:
    """What a command trains: its arguments, but for where and how fast it computes, and what it writes and says."""
    incidental = ("action", "compile", "device", "judged", "out", "remember")
    return ", ".join(f"{k} {v}" for k, v in vars(args).items() if k not in incidental)


def _sam(args: argparse.Namespace) -> None:
    torch.manual_seed(args.seed)
    # Small pictures first, where a step costs less than half; then at full size steps down that follow a cosine.
    legs = {
        sam.COARSE: train.Schedule(
            steps=args.steps, batch=args.batch, lr=args.lr, warmup=300, milestones=(), save_every=200
        ),
        sam.SIZE: train.Schedule(
            steps=args.fine_steps,
            batch=args.batch,
            lr=0.4 * args.lr,
            warmup=50,
            milestones=(0.4, 0.7, 0.88),
            gamma=0.4,
            save_every=100,
        ),
    }
    model = sam.nano(sam.COARSE)
    for size, schedule in legs.items():
        model = sam.enlarged(model, size)
        train.fit(
            sam.Prompted(model),
            sam.Prompts(args.seed, schedule.steps * args.batch, args.images, size=size),
            sam.prompt_loss,
            schedule,
            folder=RUNS / args.out.stem / str(size),
            seed=args.seed,
            device=args.device,
            precision=args.precision,
            workers=1,  # scenes are drawn meanwhile
            describe=f"{args.out.stem}, {size} px",
            identity=_identity(args),
        )
        model.cpu()
    if train.rank():
        return  # the first process writes
    sam.save_nano(model, args.out)
    _written(args.out, *legs)
    if args.judged:
        held_out, model = datasets.load("scenes", "val", limit=args.judged), sam.load("nano", args.out)
        found = [masks.ious(masks.MaskSet.of(s.image, sam.every_mask(model, s.image)), s.masks) for s in held_out]
        best = [iou.max(0, initial=0) for iou in found]
        print(
            f"{args.out.stem}, {args.judged} held-out scenes: mean IoU {np.concatenate(best).mean():.3f} of an object's best mask"
        )


def _codec(args: argparse.Namespace) -> None:
    if args.loss == "sa-icm" and args.edges is None and args.data != "scenes":
        raise ValueError(
            f"--loss sa-icm on {args.data} needs --edges, such as sam-vit-b: nano-sam, the default, has seen scenes only"
        )
    torch.manual_seed(args.seed)
    model = zoo.load(args.codec, weights=None)
    dataset = datasets.load(args.data, "train", size=args.size, limit=args.images)
    taught = args.loss == "task" or args.loss in presets.DISTILLED
    teacher = judges.load(args.teacher).to(train.fabric(args.device).device) if taught else None
    if args.loss == "task":
        datasets.require_categories(dataset, teacher.categories, args.teacher)
    length = args.steps * args.batch
    objects = needs_objects(args.loss)
    if args.remember and args.loss in presets.DISTILLED:
        teacher = Remembered(teacher, RUNS / "teachers" / presets.fingerprinted(args.teacher))
    region = true_edges(dataset) if args.loss == "true-edges" else None
    if args.loss == "sa-icm":
        who = presets.fingerprinted(args.edges or "nano-sam")
        region = edges(dataset, args.data, args.size, who, args.alpha, device=args.device)
    crops = datasets.Crops(dataset, args.patch, args.seed, length, args.augment, region=region, objects=objects)
    plan = train.Schedule(steps=args.steps, batch=args.batch, lr=args.lr)
    curve = train.fit(
        model,
        crops,
        objective(args.loss, args.lmbda, teacher, args.task_weight),
        plan,
        folder=RUNS / args.out.stem,
        seed=args.seed,
        device=args.device,
        precision=args.precision,
        compiled=args.compile,
        workers=_workers(args.device),
        collate=collate,
        describe=args.out.stem,
        identity=_identity(args),
    )
    if train.rank():
        return  # the first process writes
    zoo.save(
        model.cpu(),
        args.out,
        {k: str(getattr(args, k)) for k in ("data", "loss", "lmbda", "steps")} | {"curve": json.dumps(curve)},
    )
    _written(args.out)


def _grid(args: argparse.Namespace) -> None:
    studies = presets.studies(args.chapter, args.preset)
    hours_of: dict[Recipe, float] = {}  # two studies may hold the same run
    for study in studies if args.data is None else [s for s in studies if s.data == args.data]:
        recipes = study.recipes()
        hours_of |= dict.fromkeys(recipes, study.hours / len(recipes))
    wanted = [recipe for recipe in hours_of if args.only is None or args.only in recipe.run_id]
    if not wanted:
        raise ValueError(f"no run matches --data {args.data} --only {args.only}: see --list")
    if train.world() > 1:
        raise ValueError("grid starts its own processes: leave torchrun out, and take --jobs")
    if args.claimed:
        (recipe,) = wanted
        _do(args, recipe)
        return
    missing = [recipe for recipe in wanted if not recipe.path.exists()]
    for recipe in wanted if args.list else []:
        print(f"{'missing ' if recipe in missing else 'measured'} {recipe.data:10} {recipe.method:9} {recipe.run_id}")
    print(f"{len(wanted)} runs, {len(wanted) - len(missing)} in the ledger, {len(missing)} to measure")
    if args.list:
        return
    hours = sum(hours_of[recipe] for recipe in missing)
    print(f"estimated cost of these: {hours:.1f} hours on {'one GPU' if args.preset == 'paper' else 'two CPU cores'}")
    share, shares = args.part

    def finished(recipe: Recipe) -> bool:
        if args.train_only:
            return recipe.method != "trained" or any(path.exists() for path in places(recipe))
        return recipe.path.exists()

    # Shares are of the runs, not of those that are missing: they never overlap.
    todo = [recipe for recipe in wanted[share - 1 :: shares] if recipe in missing and not finished(recipe)]
    if not todo:
        return
    jobs = args.jobs if args.jobs is not None else len(todo) if args.launcher == "slurm" else 1
    if args.launcher == "slurm":
        executor = grid.slurm(
            partition=args.slurm_partition, timeout_min=args.slurm_timeout_min, gpus=args.gpus_per_job
        )
        launcher: grid.Launcher = grid.Jobs(partial(_alone, args), executor)
    elif jobs > 1:
        visible = os.environ.get("CUDA_VISIBLE_DEVICES") or ",".join(map(str, range(torch.cuda.device_count())))
        launcher = grid.Processes(partial(_alone, args), jobs, visible.split(",") if visible else [])
    else:
        launcher = grid.Here(partial(_do, args))
    grid.sweep(todo, launcher, finished, jobs=jobs, retries=args.retries)


def _do(args: argparse.Namespace, recipe: Recipe) -> None:
    how = {"device": args.device, "compiled": args.compile, "remember": args.remember}
    if args.train_only:
        trained_codec(recipe, **how)
        return
    scores = results.table([measure(recipe, **how)])[0].items()
    print(", ".join(f"{k} {v:.4g}" for k, v in scores if isinstance(v, float)), flush=True)


def _alone(args: argparse.Namespace, recipe: Recipe) -> list[str]:
    """The command that does one run of a grid in another process, for which this one holds the claim."""
    command = [sys.executable, "-m", "icm_helpers.run", "grid", args.chapter, "--only", recipe.run_id, "--claimed"]
    command += ["--preset", args.preset, "--device", args.device]
    flags = ("train_only", "compile", "remember")
    return command + [f"--{flag.replace('_', '-')}" for flag in flags if getattr(args, flag)]


_SUFFIXES = {"png": "png", "jpeg": "jpg", "webp": "webp", "avif": "avif"}
_SUFFIXES |= {"nerv": "nrv", "hevc-inter": "hevc", "vvc-inter": "vvc"}


def _named_codec(name: str, quality: int | None, weights: Path | None, device: str) -> Any:
    """The codec that --codec, --quality and --weights name, ready to code."""
    if weights and (name == "png" or name in CLASSICAL):
        raise ValueError(f"{name} has no weights: leave --weights out, or name a learned --codec")
    if name == "png":
        if quality is not None:
            raise ValueError("png loses nothing: leave --quality out")
        return classical.Png()
    if name in CLASSICAL:
        if quality is None:
            raise ValueError(f"{name} needs --quality: from 1 (smallest) to 100, or for hevc and vvc a QP such as 32")
        return CLASSICAL[name](quality)
    return zoo.load(name, quality, weights=weights or "default").to(train.fabric(device).device)


def _code(args: argparse.Namespace) -> None:
    model = _named_codec(args.codec, args.quality, args.weights, args.device)
    twice = [name for name, count in Counter(path.stem for path in args.images).items() if count > 1]
    if twice:
        raise ValueError(f"several images are called {', '.join(twice)}: give them --out folders of their own")
    args.out.mkdir(parents=True, exist_ok=True)
    for path in args.images:
        try:
            with Image.open(path) as picture:
                pixels = datasets.rgb(ImageOps.exif_transpose(picture))
        except (OSError, SyntaxError, Image.DecompressionBombError) as error:  # Pillow's errors seldom name the file
            raise ValueError(f"{path} cannot be read as an image ({error}): give a whole image file") from error
        x = torch.from_numpy(pixels).permute(2, 0, 1).float() / 255  # (H, W, 3) -> (3, H, W)
        coded = container.encode(model, x)
        x_hat = container.decode(model, coded).cpu()
        # `coded` in the name: in the folder of the pictures, photo.jpg must not overwrite photo.jpg.
        (args.out / f"{path.stem}.coded.{_SUFFIXES.get(args.codec, 'icm')}").write_bytes(coded)
        Image.fromarray((x_hat * 255).round().byte().permute(1, 2, 0).numpy()).save(
            args.out / f"{path.stem}.decoded.png"
        )
        psnr = evaluate.psnr((x - x_hat).square().mean().item())
        print(f"{path}: {len(coded)} bytes, {8 * len(coded) / (x.shape[1] * x.shape[2]):.3f} bpp, {psnr:.2f} dB")


def _video(args: argparse.Namespace) -> None:
    inter = clips.INTER.get(args.codec)
    if inter and args.quality is None:
        raise ValueError(f"{args.codec} needs --quality, a QP such as 37")
    if inter and args.edges:
        raise ValueError(f"{args.codec} knows no edges: leave --edges out")
    if not inter and args.quality is not None:
        raise ValueError("--quality is a QP of hevc-inter or vvc-inter: name one by --codec, or leave it out")
    clip = video.read(args.video, args.frames, args.height)
    decoded = args.out / f"{clip.name}.decoded"
    decoded.mkdir(parents=True, exist_ok=True)  # before any work: a wrong --out shows at once
    path = args.out / f"{clip.name}.coded.{_SUFFIXES[args.codec]}"
    coder = inter(args.quality) if inter else nerv
    data, folder = (coder.encode_video(clip.frames), None) if inter else _overfitted(args, clip)
    with files.atomically(path, hint="the training is kept: the same command goes on") as temporary:
        temporary.write_bytes(data)
    if folder:
        clips.forget(folder)
    x_hat = coder.decode_video(path.read_bytes())
    for frame in decoded.glob("[0-9]*.png"):  # of another run
        frame.unlink()
    for k, frame in enumerate(x_hat):
        Image.fromarray((frame * 255).round().byte().permute(1, 2, 0).numpy()).save(decoded / f"{k:05d}.png")
    count, _, height, width = clip.frames.shape
    bpp, scores = 8 * len(data) / (count * height * width), overfit.quality(clip.frames, x_hat)
    similar = "" if math.isnan(scores["ms_ssim"]) else f", MS-SSIM {scores['ms_ssim']:.4f}"
    print(f"{args.video}: {count} frames of {height} x {width}, {len(data)} bytes, ", end="")
    print(f"{bpp:.4f} bpp, {scores['psnr']:.2f} dB{similar}")


def _overfitted(args: argparse.Namespace, clip: video.Video) -> tuple[bytes, Path]:
    """The file of a NeRV of a video or, with edges, of an SA-NeRV, and where its training is kept until that is written."""
    film, (height, width) = results.fingerprint(args.video), clip.frames.shape[2:]
    asked = f"{film}, {_identity(args)}"
    name = f"{clip.name}-{hashlib.sha256(asked.encode()).hexdigest()[:8]}"
    twice = None
    if args.edges:
        # Whatever is trained with them: the masks of a film are made once.
        made, place = {"film": film, "frames": len(clip), "height": height}, f"masks-film-{film}-{len(clip)}-{height}"
        stored = clips.segmented(clip, presets.fingerprinted(args.edges), place, made, device=args.device)
        twice = torch.stack([masks.sam_edges(masks.read(stored, k), args.alpha) for k in clip.ids])
    torch.manual_seed(args.seed)
    data = clips.overfitted(
        nerv.fitting(height, width, args.channels),
        clip.frames,
        losses.sa_nerv_loss if args.edges else losses.nerv_loss,
        masks=twice,
        epochs=(args.epochs, args.tune_epochs),
        density=args.density,
        bits=args.bits,
        folder=RUNS / "video" / name,
        name=name,
        lr=args.lr,
        seed=args.seed,
        device=args.device,
    )
    return data, RUNS / "video" / name


def _judged(args: argparse.Namespace) -> None:
    named = args.detector or ["mask-rcnn-small" if args.data == "scenes" else "yolov5n"]
    rates = max(len(args.weights or [None]), len(args.quality or [None]))
    pairs = [v if len(v) == rates else v * rates for v in (args.weights or [None], args.quality or [None])]
    if any(len(v) != rates for v in pairs):
        raise ValueError(
            f"{len(args.weights)} --weights and {len(args.quality)} --quality: give one of each for every rate, or one for all"
        )
    dataset = datasets.load(args.data, "val", size=args.size, limit=args.images)
    place = train.fabric(args.device).device
    panel = {name: _detector_named(name).to(place) for name in named}
    for name, detector in panel.items():
        datasets.require_categories(dataset, detector.categories, name)
    kept = _kept(args.out)
    judged = {"data": args.data, "size": args.size, "ids": list(map(int, dataset.ids))}
    judged["detectors"] = list(map(_fingerprinted, named))
    clean: dict[str, list[dict[str, Any]]] = {}
    records = []
    for k, (weights, quality) in enumerate(zip(*pairs, strict=True)):
        told = " ".join(str(word) for word in (args.codec, weights, quality) if word is not None)
        model = _named_codec(args.codec, quality, weights, args.device)
        asked = {"codec": args.codec, "weights": weights and results.fingerprint(weights), "quality": quality, **judged}
        found = next((record for record in kept if record["asked"] == asked), None)
        if found is None:
            clean = clean or {name: evaluate.clean_detections(dataset, detector) for name, detector in panel.items()}
            result, bootstrap = evaluate.evaluate(model, dataset, panel, clean)
            found = {"asked": asked, "result": result, "bootstrap": bootstrap}
            if args.out:
                kept.append(found)
                with files.atomically(args.out) as temporary:
                    temporary.write_text(json.dumps(kept), encoding="utf-8")
        records.append({**found, "recipe": {"lmbda": k}})
        result, bootstrap = found["result"], found["bootstrap"]
        print(f"{told}: {result['bpp']:.4f} bpp, {result['psnr']:.2f} dB, {len(dataset)} pictures of {args.data}")
        for metric, name in _accuracies([found]):
            low, high = np.percentile(bootstrap[metric][name], [2.5, 97.5])
            print(f"  {claims.NAMES[metric]} of {name} {result[metric][name]:.3f} [{low:.3f}, {high:.3f}]", flush=True)
    for name, detections in clean.items():
        summary, _ = evaluate.average_precision(dataset.ground_truth(), detections)
        print(f"uncompressed: box AP of {name} {summary['ap']:.3f}")
    if rates == 1:
        print("give two rates or more, such as several --weights, for a BD-rate against the codecs of the book")
        return
    if rates < 4:
        print(f"between {rates} rates a curve is cut short, and BD-rates come out too high: give four or more")
    alike = claims.measured_alike(args.data, args.size, dataset.ids)
    for metric, name in _accuracies(records):
        mine, known = evaluate.curve(records, metric, name), alike if name in presets.DETECTORS else []
        found = claims.rivals(mine, known, metric, name)
        print(f"BD-rate [%] by {claims.NAMES[metric]} of {name}, below zero where yours needs fewer bits:")
        for rival, change in found.items():
            print(f"  {rival:20} {change if change.defined >= claims.DEFINED else 'no common range of accuracy'}")
        if not found:
            print(f"  the book measured nothing on these {len(dataset)} pictures with this detector")


def _kept(out: Path | None) -> list[dict[str, Any]]:
    """What an earlier `judge` wrote."""
    if out is None or not out.exists():
        return []
    try:
        kept = json.loads(out.read_text(encoding="utf-8"))
        if all({"asked", "result", "bootstrap"} <= set(record) for record in kept):
            return kept
    except (TypeError, ValueError):
        pass
    raise ValueError(f"{out} was not written by `judge`, or is damaged: name another --out, or delete it")


def _detector_named(text: str) -> Any:
    """A judge by its name, or one of that kind with weights of one's own: `mask-rcnn-small=judge.safetensors`."""
    kind, _, file = text.partition("=")
    if file and kind not in judges.TRAINABLE:
        raise ValueError(f"{text}: weights of your own may be those of {', '.join(judges.TRAINABLE)}")
    return judges.TRAINABLE[kind].from_weights(file) if file else judges.load(_fingerprinted(text))


def _fingerprinted(text: str) -> str:
    """What `_detector_named` takes, with the fingerprint of its weights where it is known."""
    if file := text.partition("=")[2]:
        return f"{text}@{results.fingerprint(file)}"
    return presets.fingerprinted(text) if text in presets.DETECTORS else text


def _accuracies(records: list[dict[str, Any]]) -> list[tuple[str, str]]:
    """(metric, detector) of the accuracies that all records have."""
    of = [
        {(m, name) for m in ("box_ap", "mask_ap", "agreement", "pq") for name in record["result"].get(m, {})}
        for record in records
    ]
    return sorted(set.intersection(*of))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m icm_helpers.run", description="Train, code and measure.")
    commands = parser.add_subparsers(dest="command", required=True)

    def command(name: str, action: Callable, text: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(
            name, help=text, description=text, formatter_class=argparse.ArgumentDefaultsHelpFormatter
        )
        sub.set_defaults(action=action)
        sub.add_argument("--device", default="auto", choices=["auto", "cpu", "cuda"], help="where to compute")
        return sub

    def training(sub: argparse.ArgumentParser, steps: int, batch: int, lr: float, images: int | None = None) -> None:
        sub.add_argument("--data", default="scenes", choices=["scenes", "coco-mini", "coco2017"], help="data set")
        sub.add_argument("--size", type=int, default=192, help="side of scenes, pixels")
        sub.add_argument("--images", type=int, default=images, help="training images; all where None")
        sub.add_argument("--steps", type=int, default=steps, help="optimiser steps")
        sub.add_argument("--batch", type=int, default=batch, help="images or crops a step")
        sub.add_argument("--lr", type=float, default=lr, help="Adam's learning rate after warm-up")
        sub.add_argument("--seed", type=int, default=0, help="seed")
        sub.add_argument("--precision", default="32-true", choices=["32-true", "bf16-mixed"], help="arithmetic")
        sub.add_argument("--out", type=Path, required=True, help="where the weights go (.safetensors)")

    def sure(text: str) -> float:
        if not masks.LEAST <= float(text) < 1:
            raise argparse.ArgumentTypeError(
                f"{text} is no number from {masks.LEAST}, where masks are stored from, to 1"
            )
        return float(text)

    def positive(text: str) -> int:
        if int(text) < 1:
            raise argparse.ArgumentTypeError(f"{text} is not above zero")
        return int(text)

    def naming(sub: argparse.ArgumentParser, many: str | None = None) -> None:
        several = "; several are rates of one codec, which make a curve" if many else ""
        names = f"a learned codec by the zoo's name, or png, {', '.join(CLASSICAL)}"
        sub.add_argument("--codec", default="mean-scale-small", help=names)
        sub.add_argument(
            "--quality",
            type=int,
            default=None,
            nargs=many,
            help=f"a CompressAI model's size, 1 to 8; a classical codec's quality or QP{several}",
        )
        sub.add_argument(
            "--weights",
            type=Path,
            default=None,
            nargs=many,
            help=f"weights file; the shipped ones where left out{several}",
        )

    remember = (
        "keep a distilling teacher's features of the original crops in runs/teachers (0.6 MB a crop of 128 pixels with "
    )
    remember += "mask-rcnn-small), so that other trainings with the same seed need not compute them"
    sub = command("detector", _detector, "Train a small detector on a data set, and state its AP.")
    training(sub, steps=1600, batch=8, lr=1e-3)
    sub.add_argument("--model", default="mask-rcnn-small", choices=sorted(judges.TRAINABLE), help="which detector")
    sub = command(
        "finetune", _finetune, "Train a detector further on what a codec decodes, and state its AP before and after."
    )
    training(
        sub,
        steps=judges.FINETUNE.steps,
        batch=judges.FINETUNE.batch,
        lr=judges.FINETUNE.lr,
        images=judges.FINETUNE_IMAGES,
    )
    sub.add_argument("--detector", default="yolov5n-scenes", choices=sorted(judges.TRAINABLE), help="which detector")
    naming(sub)
    sub = command("sam", _sam, "Train the nano Segment Anything on scenes, and state how well it finds their objects.")
    sub.add_argument("--images", type=int, default=5000, help="training scenes, none of those that codecs see")
    sub.add_argument("--steps", type=int, default=6000, help="optimiser steps on scenes of 128 pixels")
    sub.add_argument("--fine-steps", type=int, default=2400, help="then steps on scenes of 192 pixels")
    sub.add_argument("--batch", type=int, default=8, help="scenes a step, 12 points on each")
    sub.add_argument("--lr", type=float, default=7e-4, help="Adam's learning rate after warm-up")
    sub.add_argument("--seed", type=int, default=0, help="seed")
    sub.add_argument("--precision", default="bf16-mixed", choices=["32-true", "bf16-mixed"], help="arithmetic")
    sub.add_argument("--judged", type=int, default=40, help="held-out scenes to judge it on")
    sub.add_argument("--out", type=Path, default=sam.NANO, help="where the weights go (.safetensors)")
    sub = command("codec", _codec, "Train a codec from a random start.")
    training(sub, steps=6000, batch=4, lr=1e-3)
    sub.add_argument("--codec", default="mean-scale-small", help="architecture, by the zoo's name")
    named = ["mse", *presets.MASKED, "task", *presets.DISTILLED]
    sub.add_argument("--loss", default="mse", choices=named, help="what distortion means")
    sub.add_argument(
        "--lmbda",
        type=float,
        default=0.01,
        help="weight of the distortion; distillation needs hundreds: see scales in presets.py",
    )
    sub.add_argument(
        "--teacher", default="mask-rcnn-small", help="detector whose loss --loss task adds, or whose features distill"
    )
    sub.add_argument(
        "--task-weight", type=float, default=0.2, help="weight of that loss as it is; a preset's is multiplied by lmbda"
    )
    sub.add_argument(
        "--edges",
        default=None,
        choices=sorted(presets.SEGMENTERS),
        help="whose masks give --loss sa-icm its edges; on scenes nano-sam where left out",
    )
    sub.add_argument("--alpha", type=sure, default=0.93, help="how sure of a mask it must be")
    sub.add_argument("--patch", type=int, default=128, help="side of the training crops, pixels")
    sub.add_argument("--augment", default="none", choices=["none", "heavy"], help="augmentation of the crops")
    sub.add_argument("--compile", action="store_true", help="use torch.compile")
    sub.add_argument("--remember", action="store_true", help=remember)
    sub = command(
        "video", _video, "Code a video of yours to one real file and back, with a network that is trained to be it."
    )
    sub.add_argument("video", type=Path, help="video file")
    sub.add_argument("--codec", default="nerv", choices=["nerv", *clips.INTER], help="NeRV, or a classical codec")
    sub.add_argument("--quality", type=int, help="QP of a classical codec")
    sub.add_argument("--frames", type=positive, default=100, help="only the first so many")
    sub.add_argument("--height", type=positive, help="scale frames to so many rows; as they are where left out")
    sub.add_argument(
        "--edges", choices=sorted(presets.SEGMENTERS), help="SA-NeRV: whose masks have the edges that count twice"
    )
    sub.add_argument("--alpha", type=sure, default=0.93, help="how sure of a mask it must be")
    sub.add_argument(
        "--channels", type=int, default=12, help="width of the network, which decides the size of the file"
    )
    sub.add_argument("--epochs", type=int, default=100, help="how often each frame is seen")
    sub.add_argument("--tune-epochs", type=int, default=15, help="how often after pruning")
    sub.add_argument("--density", type=float, default=0.6, help="part of the weights that pruning leaves")
    sub.add_argument("--bits", type=int, default=6, help="of a weight, 2 to 8")
    sub.add_argument("--lr", type=float, default=5e-3, help="Adam's learning rate; large networks take 5e-4")
    sub.add_argument("--seed", type=int, default=0, help="seed")
    sub.add_argument("--out", type=Path, default=Path("coded"), help="folder for the file and the decoded frames")
    sub = command(
        "judge",
        _judged,
        "Code a data set with a codec, of yours or not, and state rate, PSNR and AP, with intervals.",
    )
    naming(sub, many="+")
    sub.add_argument(
        "--data",
        default="scenes",
        choices=["scenes", "coco-mini", "coco2017", "visdrone", "cityscapes"],
        help="data set; coco2017 may be pictures of your own, with COCO's layout and categories, in the folder that ICM_COCO names",
    )
    sub.add_argument("--size", type=positive, default=192, help="side of scenes, pixels")
    sub.add_argument("--images", type=positive, default=200, help="how many of its evaluation pictures, at most")
    sub.add_argument(
        "--detector",
        nargs="+",
        help="who judges, mask-rcnn-small on scenes and yolov5n elsewhere where left out: "
        f"{', '.join(judges.NAMES)}; or KIND=FILE with weights of your own, of {', '.join(judges.TRAINABLE)}",
    )
    sub.add_argument(
        "--out", type=Path, help="JSON file for all that is measured; what it holds already is not measured again"
    )
    sub = command("grid", _grid, "Measure the runs of a chapter that the ledger lacks.")
    sub.add_argument("chapter", choices=sorted(presets.CHAPTERS), help="chapter")
    sub.add_argument("--preset", default="book", choices=["book", "pending", "paper"], help="which preset's runs")
    sub.add_argument("--data", default=None, help="only the runs on this data set")
    sub.add_argument("--only", default=None, help="only runs whose id contains this")
    sub.add_argument(
        "--part", type=grid.part, default=(1, 1), metavar="K/N", help="the K-th of N shares, to use several machines"
    )
    sub.add_argument("--list", action="store_true", help="list the runs and measure nothing")
    sub.add_argument("--train-only", action="store_true", help="train the codecs, measure later")
    sub.add_argument("--jobs", type=int, help="runs at a time: here 1 where left out, on Slurm all")
    sub.add_argument("--retries", type=int, default=1, help="how often a run that fails is tried again")
    sub.add_argument("--launcher", default="local", choices=["local", "slurm"], help="processes here, or a job a run")
    sub.add_argument("--slurm-partition", help="partition of the jobs; the cluster's own where left out")
    sub.add_argument(
        "--slurm-timeout-min", type=int, default=1440, help="time limit of a job; a retry goes on from there"
    )
    sub.add_argument("--gpus-per-job", type=int, default=1, help="GPUs that a job asks Slurm for")
    sub.add_argument("--claimed", action="store_true", help=argparse.SUPPRESS)  # for `_alone`
    sub.add_argument("--compile", action="store_true", help="use torch.compile in training")
    sub.add_argument("--remember", action="store_true", help=remember)
    sub = command("code", _code, "Code images of yours to real bytes and back.")
    sub.add_argument("images", nargs="+", type=Path, help="image files")
    naming(sub)
    sub.add_argument("--out", type=Path, default=Path("coded"), help="folder for the bytes and the decoded pictures")
    return parser


def main(arguments: list[str] | None = None) -> None:
    """Run one command."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    args = _parser().parse_args(arguments)
    try:
        args.action(args)
    except KeyboardInterrupt:
        sys.exit(
            "stopped; what was written is kept, and with a training the same command goes on from the last checkpoint"
        )
    except (ValueError, OSError, RuntimeError, ImportError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
