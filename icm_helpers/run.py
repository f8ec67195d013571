"""One run of a recipe: what it names, what it trains, and what is measured on it."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from icm_helpers import bit_allocation, clips, evaluate, judges, latents, losses, masks, presets, probe, train
from icm_helpers.codecs import container, networks, zoo
from icm_helpers.data import coco, datasets, formats
from icm_helpers.data.crops import Crops
from icm_helpers.ledger import results
from icm_helpers.ledger.results import ROOT, Recipe, Record
from icm_helpers.tasks.teacher import STRIDE, Remembered, Teacher

CHECKPOINTS = zoo.CHECKPOINTS
RUNS = ROOT / "runs"


# --- what a recipe names -------------------------------------------------------------------------------------------------


def data(recipe: Recipe, split: str, limit: int | None = None) -> coco.CocoDataset:
    """A recipe's images."""
    return datasets.load(recipe.data, split, size=recipe.size, limit=limit)


def codec(recipe: Recipe) -> Any:
    """A recipe's codec as it starts: classical, from its start weights, or random.

    Raises:
        ValueError: no such codec, or other start weights than the recipe's.
    """
    entry, _ = zoo.find(recipe.codec)
    if not entry.network:
        return zoo.load(recipe.codec, int(recipe.lmbda) if entry.setting else None)
    build = partial(zoo.load, recipe.codec)
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


def scale(recipe: Recipe, crops: int = 200, device: torch.device | None = None) -> float:
    """What makes a recipe's distortion equal that of MSE at its start, in the mean over the first training crops of seed 0.

    Multiplied by it, one ladder of lambdas serves all losses. Measured once, on the codec that all trainings start from, and told
    to two digits, on which devices agree.
    """
    alike = replace(recipe, lmbda=1.0, scale=1.0, seed=0)  # whatever its lambda and seed
    return float(f"{_scale(alike, crops, device or torch.device('cpu')):.2g}")


@cache
@torch.no_grad()
def _scale(recipe: Recipe, crops: int, device: torch.device) -> float:
    model, found = codec(recipe).to(device), torch.zeros(2)
    objectives = objective("mse", 1.0), recipe_objective(recipe, device)
    items = training_crops(recipe, data(recipe, "train", recipe.train_images), crops)
    for i in range(crops):
        x, *rest = collate([items[i]])
        out = model(x.to(device))
        for k, terms in enumerate(objectives):
            found[k] += terms(lambda _, out=out: out, (x.to(device), *rest))["distortion"].item()
    return (found[0] / found[1]).item()


def training_crops(recipe: Recipe, images: coco.CocoDataset, length: int) -> Crops:
    """The crops that a recipe trains on: the same pictures for all losses, each with the mask that the loss asks for."""
    region = true_edges(images) if recipe.loss == "true-edges" else None
    if recipe.loss == "sa-icm":
        how = (getattr(recipe, name) for name in ("data", "size", "edges", "alpha", *results.DRAWN))
        region = edges(images, *how)
    return Crops(
        images,
        recipe.patch,
        recipe.seed,
        length,
        recipe.augment,
        region=region,
        objects=needs_objects(recipe.loss),
    )


def workers(device: str) -> int:
    """Processes that cut crops and read their masks: none beside a training on a CPU, some so that a GPU need not wait."""
    return 0 if train.fabric(device).device.type == "cpu" else 4


def edges(
    images: coco.CocoDataset,
    data: str,
    size: int,
    segmenter: str,
    alpha: float,
    drawing: str = "largest-first",
    canny_low: float = 50.0,
    canny_high: float = 100.0,
    dilate: int = 0,
    shift: int = 0,
    device: str = "auto",
) -> Callable[[coco.Sample], Tensor]:
    r"""What gives the edges of a training picture, :math:`\mathrm{sam}_x(\alpha)`, as `Crops` takes a region.

    The masks lie in data/cache. Those that lack are made now, which with nano SAM takes one core four seconds a picture.

    Args:
        images, data, size: training pictures, and how `datasets.load` was asked for them.
        segmenter: the name of a Segment Anything with the fingerprint of its weights.
        alpha, drawing, canny_low, canny_high, dilate, shift: as in `masks.sam_edges`.

    Raises:
        ValueError: other weights lie where those of the segmenter belong, or alpha is below `masks.LEAST`.
    """
    masks.require_stored(alpha)
    folder = masks.stored(data, size=size, limit=len(images), model=judges.segmenter(segmenter), device=device)
    how = {"order": drawing, "low": canny_low, "high": canny_high, "dilate": dilate, "shift": shift}
    return lambda sample: masks.sam_edges(masks.read(folder, sample.image_id), alpha, **how)


def true_edges(images: coco.CocoDataset) -> Callable[[coco.Sample], Tensor]:
    """What gives the edges of a picture's own panoptic map, as `Crops` takes a region.

    Raises:
        DataError: the data set has no panoptic maps.
    """
    if images.panoptic is None:
        raise formats.DataError(f"{images.annotations} brings no panoptic maps, whose edges these are: fetch them too")

    def drawn(sample: coco.Sample) -> Tensor:
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
            return zoo.load(recipe.codec, weights=path)
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
        workers=workers(device),
        collate=collate,
        progress=progress,
        describe=recipe.codec_id,
        identity=recipe.codec_id if recipe.scale else f"{recipe.codec_id}, scale {found:.6g}",
    )
    model.cpu()
    if keep:
        # The loss curve travels with the weights, and so does a scale that was found at the start.
        told = {"codec_id": recipe.codec_id, "scale": f"{found:.6g}", "curve": json.dumps(curve)}
        networks.save(model, folder / "codec.safetensors", told)
        (folder / "training.ckpt").unlink(missing_ok=True)
    else:
        networks.update_tables(model, force=True)
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
        result, bootstrap = bit_allocation.spending(model, dataset, clean, progress=progress)
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


def refined_bytes(recipe: Recipe, model: Any, sample: coco.Sample) -> bytes:
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
