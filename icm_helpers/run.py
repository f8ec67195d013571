"""One run of a recipe: its codec is trained, or found; it codes to real bytes; what is measured goes into the ledger."""

from __future__ import annotations

import json
import shutil
import tempfile
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from lightning_fabric.utilities import move_data_to_device

from icm_helpers import bit_allocation, evaluate, evaluate_video, files, latents, overfit, probe, regions, train
from icm_helpers.codecs import container, nerv, networks, zoo
from icm_helpers.data import datasets
from icm_helpers.data.coco import CocoDataset, Sample
from icm_helpers.data.crops import Crops
from icm_helpers.data.video import Video
from icm_helpers.files import CHECKPOINTS, RUNS
from icm_helpers.ledger import results
from icm_helpers.ledger.queries import FINETUNED
from icm_helpers.ledger.recipe import (
    Accuracy,
    Classical,
    Clip,
    Overfitted,
    Pictures,
    Recipe,
    Refined,
    Trained,
)
from icm_helpers.ledger.results import Record
from icm_helpers.ledger.study import Study, VideoStudy
from icm_helpers.objectives import MSE, Objective
from icm_helpers.tasks import models, training


@dataclass(frozen=True)
class How:
    """How runs are made, which decides nothing of what comes out: the options of most functions here."""

    device: str = "auto"
    keep: bool = True  # False: what has to be trained leaves no file behind
    compiled: bool = False  # train with torch.compile
    workers: int | None = None  # processes that load what a training sees, as in `train.fit`
    remember: bool = False  # keep what a distilling teacher has seen, in runs/teachers
    progress: bool = True

    @property
    def place(self) -> torch.device:
        """The device itself."""
        return train.fabric(self.device).device

    @property
    def fitting(self) -> dict[str, Any]:
        """What `train.fit` is told of it."""
        return {"device": self.device, "compiled": self.compiled, "progress": self.progress}


# --- what a recipe names -------------------------------------------------------------------------------------------------


def images(recipe: Recipe, split: str, limit: int | None = None) -> CocoDataset:
    """A recipe's images."""
    return datasets.load(recipe.pictures.data, split, size=recipe.pictures.size, limit=limit)


def learnt(recipe: Recipe) -> Recipe:
    """A recipe with the pictures that its codec learns from, where it is judged on those of another data set."""
    other = recipe.codec.training.train_data
    return recipe if other == "same" else replace(recipe, pictures=replace(recipe.pictures, data=other))


def clip(recipe: Recipe) -> Video:
    """A recipe's video."""
    source = recipe.pictures
    return datasets.clip(source.data, source.clip, source.frames, source.size)


def start(recipe: Recipe, video: Video | None = None) -> Any:
    """A recipe's codec as it starts: classical, from its start weights, or random; a network of a video as `video` asks for, by
    default the recipe's own.

    A ValueError says that there is no such codec, or that the start weights are others than the recipe's.
    """
    codec = recipe.codec
    if isinstance(codec, Classical):
        return zoo.load(codec.codec, codec.setting)
    if isinstance(codec, Overfitted):
        torch.manual_seed(codec.seed)
        if codec.codec == "nerv-fitting":
            return nerv.fitting(*video.frames.shape[2:], codec.channels)
        return nerv.sized(codec.codec.removeprefix("nerv-"), lambda: (video or clip(recipe)).frames.shape[2])
    name, wanted = files.unmarked(codec.start if isinstance(codec, Refined) else codec.training.start)
    torch.manual_seed(recipe.seed)  # of weights that no file brings
    if name == "none":
        return zoo.load(codec.codec, weights=None)
    if name == "published":
        return zoo.load(codec.codec)  # CompressAI's own, whose loader checks their fingerprint
    path = start_file(name)
    model, fingerprint = zoo.load(codec.codec, weights=path), files.fingerprint(path)
    if fingerprint != wanted:
        raise ValueError(f"{path} has fingerprint {fingerprint}, the recipe starts from {wanted}: other weights")
    return model


def start_file(name: str) -> Path:
    """The weights that a recipe calls so: those shipped, or your own file."""
    shipped = CHECKPOINTS / f"{name}.safetensors"
    return shipped if shipped.is_file() or not Path(name).is_file() else Path(name)


def objective(recipe: Recipe, device: torch.device, remember: bool = False) -> Objective:
    """What a recipe's codec is trained, or its latents are refined, for; a distilling teacher may `remember` what it has seen."""
    codec = recipe.codec
    return Objective(codec.loss.bind(device, remember), codec.lmbda, codec.scale or scale(recipe, device=device))


def scale(recipe: Recipe, crops: int = 200, device: torch.device | None = None) -> float:
    """What makes a recipe's distortion equal that of MSE at its start, in the mean over the first training crops of seed 0, so many
    or, where that is less, all.

    Multiplied by it, one ladder of lambdas serves all losses. Measured once, on the codec that all trainings start from, and told
    to two digits, on which devices agree.
    """
    crops = min(crops, recipe.codec.training.steps * recipe.codec.training.batch)
    alike = replace(recipe, codec=replace(recipe.codec, lmbda=1.0, scale=1.0, seed=0))  # whatever its lambda and seed
    return float(f"{_scale(alike, crops, device or torch.device('cpu')):.2g}")


@cache
@torch.no_grad()
def _scale(recipe: Recipe, crops: int, device: torch.device) -> float:
    model, sums = start(recipe).to(device), torch.zeros(2)
    objectives = Objective(MSE(), 1.0), objective(recipe, device)
    items = training_crops(recipe, crops, device.type)
    for i in range(crops):
        x, mask, *rest = move_data_to_device(collate([items[i]]), device)
        out = model(*recipe.loss.shown(x, mask))
        for k, terms in enumerate(objectives):
            sums[k] += terms(lambda *_, out=out: out, (x, mask, *rest))["distortion"].item()
    return (sums[0] / sums[1]).item()


def training_crops(recipe: Recipe, length: int, device: str = "auto", pictures: CocoDataset | None = None) -> Crops:
    """The crops that a recipe trains on: the same pictures for all losses, each with the mask that the loss asks for."""
    codec, how = recipe.codec, recipe.codec.training
    if pictures is None:
        pictures = images(learnt(recipe), "train", how.train_images)
    region = codec.loss.region(pictures, learnt(recipe).pictures, device)
    asked = {"region": region, "objects": codec.loss.needs_objects}
    return Crops(pictures, how.patch, codec.seed, length, how.augment, **asked)


def collate(items: list[tuple]) -> tuple:
    """A batch of crops: pictures (N, 3, P, P), masks (N, 1, P, P), and a list of each crop's objects, where it brings them."""
    pictures, masks, *objects = zip(*items, strict=True)
    return torch.stack(pictures), torch.stack(masks), *map(list, objects)


# --- what codes it -------------------------------------------------------------------------------------------------------


def places(recipe: Recipe) -> tuple[Path, Path]:
    """Where a trained codec may lie: shipped with the book, or finished by an earlier run here."""
    suffix = "nrv" if isinstance(recipe.codec, Overfitted) else "safetensors"
    return CHECKPOINTS / f"{recipe.codec_id}.{suffix}", RUNS / recipe.codec_id / f"codec.{suffix}"


def made(recipe: Recipe) -> bool:
    """Whether nothing has to be trained for a recipe's codec."""
    return not isinstance(recipe.codec, Trained | Overfitted) or any(path.exists() for path in places(recipe))


def trained_codec(recipe: Recipe, **options: Any) -> Any:
    """The codec of a recipe: shipped in data/checkpoints, finished in runs/, or trained now (resuming where it was stopped).

    That of a video is its file, in bytes. With `keep=False` it is trained once in a process. For `options` see :class:`How`.
    """
    codec = recipe.codec
    if isinstance(recipe.pictures, Clip):
        return coded(recipe, **options)
    if not isinstance(codec, Trained):
        return start(recipe)
    for path in places(recipe):
        if path.exists():
            return zoo.load(codec.codec, weights=path)
    return _kept(recipe, lambda out: train_codec(recipe, out, **options), How(**options).keep)


_FLEETING: dict[str, Any] = {}  # codecs of a few steps, which demonstrations train and nobody keeps


def _kept(recipe: Recipe, make: Callable[[Path | None], Any], keep: bool) -> Any:
    if keep:
        return make(places(recipe)[1])
    if recipe.codec_id not in _FLEETING:
        _FLEETING[recipe.codec_id] = make(None)
    return _FLEETING[recipe.codec_id]


def train_codec(recipe: Recipe, out: Path | None, **options: Any) -> Any:
    """The codec of a recipe, trained now, resuming in runs/ where it was stopped, and written to `out`; with None nowhere.

    A ValueError says that pictures, crops or teacher are none that this codec and loss can be trained with.
    """
    how, codec, plan, model = How(**options), recipe.codec, recipe.codec.training, start(recipe)
    place, folder = how.place, RUNS / recipe.codec_id
    if plan.patch % model.downsampling_factor:
        raise ValueError(f"--patch {plan.patch}: {codec.codec} takes multiples of {model.downsampling_factor}")
    found = codec.scale or scale(recipe, device=place)
    terms = objective(replace(recipe, codec=replace(codec, scale=found)), place, how.remember)
    pictures = images(learnt(recipe), "train", plan.train_images)
    terms.loss.check(pictures)
    told = {"folder": folder if out else None, "seed": codec.seed, "precision": plan.precision, "collate": collate}
    told |= {"workers": how.workers, "describe": recipe.codec_id}
    told["identity"] = recipe.codec_id if codec.scale else f"{recipe.codec_id}, scale {found:.6g}"
    crops = training_crops(recipe, plan.steps * plan.batch, how.device, pictures)
    schedule = train.Schedule(steps=plan.steps, batch=plan.batch, lr=plan.lr)
    curve = train.fit(model, crops, terms, schedule, **told, **how.fitting)
    model.cpu().zero_grad()  # gradients take as much memory as weights
    if not out:
        networks.update_tables(model, force=True)
    elif not train.rank():  # of several processes the first writes
        # The loss curve travels with the weights, and so does a scale that was found at the start.
        networks.save(model, out, {"codec_id": recipe.codec_id, "scale": f"{found:.6g}", "curve": json.dumps(curve)})
        zoo.load(codec.codec, weights=out)  # read back before what it cost is deleted
        (folder / "training.ckpt").unlink(missing_ok=True)
    return model


def coded(recipe: Recipe, **options: Any) -> bytes:
    """The file of a recipe's video: HEVC's or VVC's; or a network's, as :func:`trained_codec` finds one."""
    codec = recipe.codec
    if isinstance(codec, Classical):
        coder, frames = start(recipe), clip(recipe).frames
        if not zoo.find(codec.codec)[0].video:  # png: what "uncompressed" costs
            return b"".join(container.encode(coder, frame) for frame in frames)
        return coder.encode_video(frames)
    for path in places(recipe):
        if path.exists():
            return path.read_bytes()
    return _kept(recipe, lambda out: overfitted(recipe, clip(recipe), out, **options), How(**options).keep)


def overfitted(recipe: Recipe, video: Video, out: Path | None, **options: Any) -> bytes:
    """The file of a recipe's video: a network trained to be it, as :func:`train_codec` trains one, and written to `out`."""
    how, codec, folder, network = How(**options), recipe.codec, RUNS / recipe.codec_id, start(recipe, video)
    epochs = tuple(round(steps * codec.batch / len(video)) for steps in (codec.steps, codec.tune_steps))
    told = {"masks": codec.loss.frames_region(video, recipe.pictures, how.device, how.progress), "epochs": epochs}
    told |= {name: getattr(codec, name) for name in ("density", "bits", "batch", "lr", "seed", "precision")}
    told |= {"folder": folder if out else None, "name": recipe.codec_id}
    data = overfit.file_of(network, video.frames, codec.loss.frames_loss(), **told, **how.fitting)
    if out:
        with files.atomically(out, hint="the training is kept: the same command continues") as temporary:
            temporary.write_bytes(data)
        nerv.decode_video(out.read_bytes(), [0])  # read back before what it cost is deleted
        overfit.forget(folder)
    return data


def decoded(recipe: Recipe, data: bytes) -> torch.Tensor:
    """The frames (T, 3, H, W) in a file of :func:`coded`."""
    if isinstance(recipe.codec, Overfitted):
        return nerv.decode_video(data)
    return start(recipe).decode_video(data) if zoo.find(recipe.codec.codec)[0].video else clip(recipe).frames


def refined_bytes(recipe: Recipe, model: Any, sample: Sample, folder: Path | None = None) -> bytes:
    """One image coded with latents refined under a recipe's loss, once if there is a `folder` to keep it in; a ValueError if the
    loss asks for what only training crops bring."""
    codec, device = recipe.codec, next(model.parameters()).device
    path = folder / f"{sample.image_id}.icm" if folder else None
    if path and path.exists():
        return path.read_bytes()
    if not codec.loss.refinable:
        raise ValueError(f"latents cannot be refined under {codec.loss.name}: it asks for more than a picture brings")
    terms, x = objective(recipe, device), sample.image[None].to(device)
    with train.autocast(device.type, codec.precision == "bf16-mixed"):
        boxes = [{"boxes": sample.boxes[~sample.crowd]}]
        clean = terms.loss.clean(x, sample.object_mask[None].to(device), boxes)  # once an image, not once a step
        score = lambda out: terms.terms(out, x, clean)["loss"]  # noqa: E731
        y, z = latents.refine(model, sample.image, score, steps=codec.steps, lr=codec.lr, seed=recipe.seed)
    with latents.latents(model, y, z):
        data = container.encode(model, sample.image)
    if path:
        with files.atomically(path, hint="what is refined is kept: the same command continues") as temporary:
            temporary.write_bytes(data)
    return data


# --- what is measured ----------------------------------------------------------------------------------------------------


def measure(recipe: Recipe, *, ledger: bool = True, **options: Any) -> Record:
    """Train or load a recipe's codec, code, judge, and write the record to the ledger (with `ledger=False`, nowhere); errors are
    those of `results.write`."""
    options = {"keep": ledger, **options}
    if ledger and isinstance(recipe.pictures, Pictures):  # before hours of training
        results.require_pictures(recipe, images(recipe, "val", recipe.pictures.images).ids)
    begun, ready = time.monotonic(), made(recipe)
    model = trained_codec(recipe, **options)
    begun = begun if ready else time.monotonic()
    result, bootstrap = measured(recipe, model, **options)
    where = torch.cuda.get_device_name() if How(**options).place.type == "cuda" else "cpu"
    record = results.write(recipe, result, bootstrap, device=where, seconds=time.monotonic() - begun, ledger=ledger)
    if options["keep"]:
        shutil.rmtree(RUNS / recipe.run_id, ignore_errors=True)  # pictures refined, of which all is told
    return record


def measured(recipe: Recipe, model: Any, **options: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """Code with a recipe's codec, or its file of a video, and judge: result and bootstrap of a record."""
    how, wanted = How(**options), recipe.measured
    place, progress = how.place, how.progress
    panel = {files.unmarked(name)[0]: models.load(name).to(place) for name in wanted.detectors}
    if isinstance(recipe.pictures, Clip):
        return _measured_video(recipe, model, panel)
    if isinstance(model, torch.nn.Module):
        model = model.to(place).eval()
    dataset = images(recipe, "val", recipe.pictures.images)
    found = {name: clean(recipe.pictures, full, place) for name, full in zip(panel, wanted.detectors, strict=True)}
    if recipe.kind == "spent":
        return bit_allocation.spending(model, dataset, found, progress=progress)
    if recipe.kind == "probed":
        lessons = images(recipe, "train", wanted.train_images)
        return probe.evaluate(model, lessons, dataset, panel, progress=progress)
    panel |= {name: tuned.to(place) for name, tuned in finetuned(recipe, model, how).items()}
    divided = None if wanted.divided == "none" else clean(recipe.pictures, wanted.divided, place)
    encode, finder = None, getattr(recipe.codec, "roi", "none")
    if isinstance(recipe.codec, Refined):
        train.keep_freed_memory()
        encode = partial(refined_bytes, recipe, folder=RUNS / recipe.run_id if how.keep else None)
    elif finder != "none":
        encode = regions.Encoder(finder, place)
    told = {"encode": encode, "divided": divided, "progress": progress}
    result, bootstrap = evaluate.evaluate(model, dataset, panel, found, **told)
    return result | (encode.told() if isinstance(encode, regions.Encoder) else {}), bootstrap


@cache
def clean(pictures: Pictures, judge: str, place: torch.device) -> list[dict[str, Any]]:
    """What a detector finds in uncompressed pictures; nothing where it does not detect."""
    if "detect" not in models.MODELS[files.unmarked(judge)[0]].can:
        return []
    dataset = datasets.load(pictures.data, "val", size=pictures.size, limit=pictures.images)
    return evaluate.clean_detections(dataset, models.load(judge).to(place))


def _measured_video(recipe: Recipe, data: bytes, panel: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    video = clip(recipe)
    result, bootstrap = evaluate_video.evaluate(video, decoded(recipe, data), panel)
    pixels = result["frames"] * result.pop("pixels")
    result = {"bytes": len(data), "bpp": 8 * len(data) / pixels, **result}
    if isinstance(recipe.codec, Overfitted):  # as the papers count: weights that pruning leaves, times bits
        network = start(recipe, video)
        nerv.prune(network, recipe.codec.density)
        for parameter in network.parameters():
            if parameter.ndim == 1:
                torch.nn.init.ones_(parameter)  # biases are not pruned, and no zero once they are trained
        result["bpp_counted"] = nerv.counted_bits(network, recipe.codec.bits) / pixels
    return result, bootstrap


def finetuned(recipe: Recipe, codec: Any, how: How) -> dict[str, Any]:
    """The detectors that a recipe asks for, as records call them, trained further on what its codec decodes: finished in runs/, or
    trained now, from pictures that lie in runs/ until all are done."""
    who, made = recipe.measured, {}
    if not who.finetuned:
        return made
    lessons = images(recipe, "train", min(recipe.codec.training.train_images, who.finetune_images))
    with tempfile.TemporaryDirectory() if not how.keep else nullcontext(RUNS / recipe.codec_id) as place:
        decoded = Path(place, f"decoded-{lessons.identity}")
        for full in who.finetuned:
            made[files.unmarked(full)[0] + FINETUNED] = _finetuned(recipe, full, codec, lessons, decoded, how)
        shutil.rmtree(decoded, ignore_errors=True)
    return made


def _finetuned(recipe: Recipe, full: str, codec: Any, lessons: CocoDataset, decoded: Path, how: How) -> Any:
    who, plan, folder = recipe.measured, recipe.codec.training, RUNS / recipe.codec_id
    base, name = models.load(full), full.replace("@", "-")  # other weights make another detector
    name += "" if plan.train_data == "same" else f"-{recipe.pictures.data}"  # and so do other pictures
    usual, asked = Accuracy(()), {key: getattr(who, f"finetune_{key}") for key in ("batch", "lr", "images")}
    unlike = [f"-{key}{value:g}" for key, value in asked.items() if value != getattr(usual, f"finetune_{key}")]
    path = folder / f"{name}-{who.finetune_steps}{''.join(unlike)}.safetensors"
    if not path.exists():
        how_long = {"steps": who.finetune_steps, "batch": who.finetune_batch, "lr": who.finetune_lr}
        schedule = replace(training.FINETUNE, **how_long)
        told = {"folder": folder / path.stem if how.keep else None, "seed": recipe.seed, "precision": plan.precision}
        told |= {"describe": f"{name} on {recipe.codec_id}", "identity": f"{full} on {recipe.codec_id}"}
        told |= {"workers": how.workers, "device": how.device, "progress": how.progress}
        model = training.finetune(base, codec, lessons, decoded, schedule, **told).cpu()
        if not how.keep:
            return model
        model.save(path)
    tuned = type(base).from_weights(path)  # read back before what it cost is deleted
    shutil.rmtree(folder / path.stem, ignore_errors=True)
    return tuned


def records(study: Study | VideoStudy, *, rerun: bool = False, device: str = "auto") -> list[Record]:
    """A study's records: from the ledger, where missing ones are measured with `rerun`, and are a LedgerError without; or, where it
    has no ledger, measured on the spot."""
    if not study.ledger:
        return [measure(r, ledger=False, device=device, progress=False) for r in study.recipes()]
    return results.load_or_run(study.recipes(), partial(measure, device=device), rerun=rerun)
