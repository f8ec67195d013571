"""Measure and train from the command line: `python -m icm_helpers.run --help`."""

from __future__ import annotations

import argparse
import json
import logging
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from icm_helpers import datasets, evaluate, latents, losses, presets, results, train
from icm_helpers.codecs import classical, container, zoo
from icm_helpers.results import ROOT, Recipe, Record
from icm_helpers.tasks.mask_rcnn import SmallMaskRCNN

CHECKPOINTS = zoo.CHECKPOINTS
RUNS = ROOT / "runs"


# --- what a recipe names -------------------------------------------------------------------------------------------------


def detector(name: str) -> evaluate.Detector:
    """A recognition model by `name` or `name@fingerprint`, frozen.

    Raises:
        ValueError: unknown name, or its weights are not the ones the fingerprint says.
        FileNotFoundError: its weights are missing.
    """
    name, _, wanted = name.partition("@")
    if name not in presets.DETECTORS:
        raise ValueError(f"no detector is called {name!r}; there is {', '.join(presets.DETECTORS)}")
    if name == "mask-rcnn-small":
        path, load = CHECKPOINTS / "mask-rcnn-small.safetensors", SmallMaskRCNN.from_weights
    else:
        from icm_helpers.tasks.yolov5 import YOLOv5

        path, load = datasets.real_data() / "weights_yolov5n" / "yolov5n.safetensors", YOLOv5.from_weights
    model, found = load(path), results.fingerprint(path)
    if wanted and found != wanted:
        raise ValueError(
            f"{path} has fingerprint {found}, the recipe asks for {wanted}: these are other weights. "
            "Restore the file, or write the new fingerprint into presets.DETECTORS and measure again"
        )
    return model


def data(recipe: Recipe, split: str, limit: int | None = None) -> datasets.CocoDataset:
    """A recipe's images."""
    return datasets.load(recipe.data, split, size=recipe.size, limit=limit)


def codec(recipe: Recipe) -> Any:
    """A recipe's codec as it starts: classical, from its start weights, or random."""
    if recipe.method == "classical":
        return classical.Png() if recipe.codec == "png" else classical.Jpeg(int(recipe.lmbda))
    build = _architecture(recipe)
    if recipe.start == "none":
        torch.manual_seed(recipe.seed)
        return build(weights=None)
    start, _, wanted = recipe.start.partition("@")
    path = CHECKPOINTS / f"{start}.safetensors"
    model, found = build(weights=path), results.fingerprint(path)
    if found != wanted:
        raise ValueError(f"{path} has fingerprint {found}, the recipe starts from {wanted}: other weights")
    return model


def _architecture(recipe: Recipe) -> Callable[..., torch.nn.Module]:
    """zoo.load for a recipe's codec: `mbt2018-mean-q5` is CompressAI's mbt2018-mean of quality 5."""
    name, _, quality = recipe.codec.partition("-q")
    return partial(zoo.load, name, int(quality) if quality else None)


def objective(loss: str, lmbda: float) -> train.Objective:
    """What a codec is trained for: `mse` or `object-region`, on batches of (image, mask)."""
    if loss not in ("mse", "object-region"):
        raise ValueError(f"no loss is called {loss!r}; there is mse, object-region")

    def terms(model: Callable, batch: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
        x, mask = batch
        return losses.rate_distortion(model(x), x, lmbda, mask if loss == "object-region" else None)

    return terms


# --- one run -------------------------------------------------------------------------------------------------------------


def places(recipe: Recipe) -> tuple[Path, Path]:
    """Where a trained codec may lie: shipped with the book, or finished by an earlier run here."""
    return CHECKPOINTS / f"{recipe.codec_id}.safetensors", RUNS / recipe.codec_id / "codec.safetensors"


def trained_codec(
    recipe: Recipe,
    *,
    keep: bool = True,
    device: str = "auto",
    compiled: bool = False,
    progress: bool = True,
) -> Any:
    """The codec of a recipe: shipped in data/checkpoints, finished in runs/, or trained now (resuming where it was stopped).

    With `keep=False` a codec that has to be trained leaves no file behind.
    """
    if recipe.method != "trained":
        return codec(recipe)
    for path in places(recipe):
        if path.exists():
            return _architecture(recipe)(weights=path)
    model, folder = codec(recipe), RUNS / recipe.codec_id
    images = data(recipe, "train", recipe.train_images)
    length = recipe.steps * recipe.batch
    crops = datasets.Crops(images, recipe.patch, recipe.seed, length, recipe.augment, cache=len(images) < 10_000)
    curve = train.fit(
        model,
        crops,
        objective(recipe.loss, recipe.lmbda * recipe.scale),
        train.Schedule(steps=recipe.steps, batch=recipe.batch, lr=recipe.lr),
        folder=folder if keep else None,
        seed=recipe.seed,
        device=device,
        precision=recipe.precision,
        compiled=compiled,
        progress=progress,
        describe=recipe.codec_id,
    )
    model.cpu()
    if keep:
        # The loss curve travels with the weights.
        zoo.save(model, folder / "codec.safetensors", {"codec_id": recipe.codec_id, "curve": json.dumps(curve)})
        (folder / "training.ckpt").unlink(missing_ok=True)
    else:
        model.update(force=True)
    return model


def measure(
    recipe: Recipe,
    *,
    ledger: bool = True,
    device: str = "auto",
    compiled: bool = False,
    progress: bool = True,
) -> Record:
    """Train or load a recipe's codec, evaluate it, and write the record to the ledger (with `ledger=False`, nowhere)."""
    model = trained_codec(recipe, keep=ledger, device=device, compiled=compiled, progress=progress)
    begun = time.monotonic()
    place = train.fabric(device).device
    if isinstance(model, torch.nn.Module):
        model = model.to(place).eval()
    dataset = data(recipe, "val", recipe.images)
    judges = {name.partition("@")[0]: detector(name).to(place) for name in recipe.detectors}
    clean = {
        name: _clean(recipe.data, recipe.images, recipe.size, full, place)
        for name, full in zip(judges, recipe.detectors, strict=True)
    }
    encode = partial(refined_bytes, recipe) if recipe.method == "refined" else None
    result, bootstrap = evaluate.evaluate(model, dataset, judges, clean, encode=encode, progress=progress)
    where = torch.cuda.get_device_name() if place.type == "cuda" else "cpu"
    if not ledger:
        return {
            "recipe": asdict(recipe),
            "result": result,
            "bootstrap": bootstrap,
            "provenance": results.provenance(where),
        }
    return results.write(recipe, result, bootstrap, device=where, seconds=time.monotonic() - begun)


def records(study: presets.Study, *, rerun: bool = False, device: str = "auto") -> list[Record]:
    """A study's records: from the ledger; missing ones measured first with `rerun`; or measured on the spot where it has no ledger.

    Raises:
        LedgerError: a record is missing and `rerun` is off.
    """
    if not study.ledger:
        return [measure(r, ledger=False, device=device, progress=False) for r in study.recipes()]
    return results.load_or_run(study.recipes(), partial(measure, device=device), rerun=rerun)


def refined_bytes(recipe: Recipe, model: Any, sample: datasets.Sample) -> bytes:
    """One image coded with latents refined under a recipe's loss."""
    terms = objective(recipe.loss, recipe.lmbda * recipe.scale)
    device = next(model.parameters()).device
    batch = sample.image[None].to(device), sample.object_mask[None].to(device)
    y, z = latents.refine(
        model,
        sample.image,
        lambda out: terms(lambda _: out, batch)["loss"],
        steps=recipe.steps,
        lr=recipe.lr,
        seed=recipe.seed,
    )
    with latents.latents(model, y, z):
        return container.encode(model, sample.image)


@cache
def _clean(name: str, images: int, size: int, judge: str, place: torch.device) -> list[dict[str, Any]]:
    return evaluate.clean_detections(datasets.load(name, "val", size=size, limit=images), detector(judge).to(place))


class Pictures(Dataset):
    """A data set's whole images with their objects, shuffled and mirrored, for training a detector: item i depends on (seed, i)."""

    def __init__(self, dataset: datasets.CocoDataset, seed: int, length: int) -> None:
        self.dataset, self.seed, self.length = dataset, seed, length

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> tuple[Tensor, dict[str, Tensor]]:
        epoch, place = divmod(index, len(self.dataset))
        sample = self._sample(index)
        image, boxes, masks = sample.image, sample.boxes, sample.masks
        if np.random.default_rng((self.seed, epoch, place)).random() < 0.5:
            image, masks = image.flip(-1), masks.flip(-1)
            boxes = torch.stack(
                [image.shape[2] - boxes[:, 2], boxes[:, 1], image.shape[2] - boxes[:, 0], boxes[:, 3]], dim=1
            )
        return image, {"boxes": boxes, "labels": sample.labels, "masks": masks.to(torch.uint8)}

    def source(self, index: int) -> str:
        """The file that item `index` shows, for messages about it."""
        return self._sample(index).name

    def _sample(self, index: int) -> datasets.Sample:
        epoch, place = divmod(index, len(self.dataset))
        order = np.random.default_rng((self.seed, epoch)).permutation(len(self.dataset))
        return self.dataset[int(order[place])]


# --- the commands --------------------------------------------------------------------------------------------------------


def _detector(args: argparse.Namespace) -> None:
    dataset = datasets.load(args.data, "train", size=args.size, limit=args.images)
    torch.manual_seed(args.seed)
    model = SmallMaskRCNN(dataset.used_categories())
    plan = train.Schedule(steps=args.steps, batch=args.batch, lr=args.lr, warmup=200, milestones=(0.75, 0.92), clip=5.0)

    def terms(network: Callable, batch: tuple[list[Tensor], list[dict[str, Tensor]]]) -> dict[str, Tensor]:
        parts = network(*batch)
        return {"loss": sum(parts.values()), **parts}

    train.fit(
        model,
        Pictures(dataset, args.seed, args.steps * args.batch),
        terms,
        plan,
        folder=RUNS / args.out.stem,
        seed=args.seed,
        device=args.device,
        precision=args.precision,
        collate=lambda items: tuple(map(list, zip(*items, strict=True))),
        describe="mask-rcnn-small",
    )
    model.cpu().save(args.out)
    # Else another training of this name would find itself done.
    (RUNS / args.out.stem / "training.ckpt").unlink(missing_ok=True)
    print(f"wrote {args.out} (fingerprint {results.fingerprint(args.out)})")
    _judge(SmallMaskRCNN.from_weights(args.out), datasets.load(args.data, "val", size=args.size), args.out.stem)


def _judge(model: evaluate.Detector, dataset: datasets.CocoDataset, name: str) -> None:
    found = evaluate.clean_detections(dataset, model)
    for task, iou_type in (("box", "bbox"), ("mask", "segm")):
        if task == "box" or any("segmentation" in entry for entry in found):
            summary, _ = evaluate.average_precision(dataset.ground_truth(), found, iou_type)
            print(f"{name}, {len(dataset)} images, {task}: " + ", ".join(f"{k} {v:.3f}" for k, v in summary.items()))


def _codec(args: argparse.Namespace) -> None:
    torch.manual_seed(args.seed)
    model = zoo.load(args.codec, weights=None)
    dataset = datasets.load(args.data, "train", size=args.size, limit=args.images)
    crops = datasets.Crops(dataset, args.patch, args.seed, args.steps * args.batch, args.augment)
    plan = train.Schedule(steps=args.steps, batch=args.batch, lr=args.lr)
    curve = train.fit(
        model,
        crops,
        objective(args.loss, args.lmbda),
        plan,
        folder=RUNS / args.out.stem,
        seed=args.seed,
        device=args.device,
        precision=args.precision,
        compiled=args.compile,
        describe=args.out.stem,
    )
    zoo.save(
        model.cpu(),
        args.out,
        {k: str(getattr(args, k)) for k in ("data", "loss", "lmbda", "steps")} | {"curve": json.dumps(curve)},
    )
    # Else another training of this name would find itself done.
    (RUNS / args.out.stem / "training.ckpt").unlink(missing_ok=True)
    print(f"wrote {args.out} (fingerprint {results.fingerprint(args.out)})")


def _grid(args: argparse.Namespace) -> None:
    studies = presets.studies(args.chapter, args.preset)
    wanted = [recipe for study in studies if args.data in (None, study.data) for recipe in study.recipes()]
    wanted = [recipe for recipe in wanted if args.only is None or args.only in recipe.run_id]
    if not wanted:
        raise ValueError(f"no run matches --data {args.data} --only {args.only}: see --list")
    missing = [recipe for recipe in wanted if not recipe.path.exists()]
    for recipe in wanted if args.list else []:
        print(f"{'missing ' if recipe in missing else 'measured'} {recipe.data:10} {recipe.method:9} {recipe.run_id}")
    print(f"{len(wanted)} runs, {len(wanted) - len(missing)} in the ledger, {len(missing)} to measure")
    if args.list:
        return
    hours = sum(study.hours for study in studies) * len(missing) / sum(len(study.recipes()) for study in studies)
    print(f"estimated cost of these: {hours:.1f} hours on {'one GPU' if args.preset == 'paper' else 'two CPU cores'}")
    share, shares = args.part
    begun = time.monotonic()
    todo = [recipe for recipe in wanted[share - 1 :: shares] if recipe in missing]  # shares never overlap
    for i, recipe in enumerate(todo):
        left = f", about {(time.monotonic() - begun) / i * (len(todo) - i) / 60:.0f} minutes left" if i else ""
        print(f"run {i + 1} of {len(todo)}{left}: {recipe.run_id}", flush=True)
        if args.train_only:
            trained_codec(recipe, device=args.device, compiled=args.compile)
        elif not recipe.path.exists():  # another process may have been faster
            record = measure(recipe, device=args.device, compiled=args.compile)
            scores = results.table([record])[0].items()
            print(", ".join(f"{k} {v:.4g}" for k, v in scores if isinstance(v, float)), flush=True)


def _code(args: argparse.Namespace) -> None:
    weights = args.weights or "default"
    model = classical.Jpeg(args.jpeg) if args.jpeg is not None else zoo.load(args.codec, args.quality, weights=weights)
    if isinstance(model, torch.nn.Module):
        model = model.to(train.fabric(args.device).device)
    args.out.mkdir(parents=True, exist_ok=True)
    for path in args.images:
        try:
            with Image.open(path) as picture:
                pixels = np.array(picture.convert("RGB"))
        except (OSError, SyntaxError, Image.DecompressionBombError) as error:  # Pillow's errors seldom name the file
            raise ValueError(f"{path} cannot be read as an image ({error}): give a whole image file") from error
        x = torch.from_numpy(pixels).permute(2, 0, 1).float() / 255  # (H, W, 3) -> (3, H, W)
        coded = container.encode(model, x)
        x_hat = container.decode(model, coded).cpu()
        # `coded` in the name: in the folder of the pictures, photo.jpg must not overwrite photo.jpg.
        (args.out / f"{path.stem}.coded.{'icm' if args.jpeg is None else 'jpg'}").write_bytes(coded)
        Image.fromarray((x_hat * 255).round().byte().permute(1, 2, 0).numpy()).save(
            args.out / f"{path.stem}.decoded.png"
        )
        psnr = -10 * (x - x_hat).square().mean().clamp(min=1e-12).log10().item()
        print(f"{path}: {len(coded)} bytes, {8 * len(coded) / (x.shape[1] * x.shape[2]):.3f} bpp, {psnr:.2f} dB")


def _part(text: str) -> tuple[int, int]:
    part, _, parts = text.partition("/")
    if not (part.isdigit() and parts.isdigit() and 1 <= int(part) <= int(parts)):
        raise argparse.ArgumentTypeError(f"{text!r} is no part: write 1/2 for the first of two")
    return int(part), int(parts)


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

    def training(sub: argparse.ArgumentParser, steps: int, batch: int, lr: float) -> None:
        sub.add_argument("--data", default="scenes", choices=["scenes", "coco-mini", "coco2017"], help="data set")
        sub.add_argument("--size", type=int, default=192, help="side of scenes, pixels")
        sub.add_argument("--images", type=int, default=None, help="training images; all where left out")
        sub.add_argument("--steps", type=int, default=steps, help="optimiser steps")
        sub.add_argument("--batch", type=int, default=batch, help="images or crops a step")
        sub.add_argument("--lr", type=float, default=lr, help="Adam's learning rate after warm-up")
        sub.add_argument("--seed", type=int, default=0, help="seed")
        sub.add_argument("--precision", default="32-true", choices=["32-true", "bf16-mixed"], help="arithmetic")
        sub.add_argument("--out", type=Path, required=True, help="where the weights go (.safetensors)")

    sub = command("detector", _detector, "Train the small Mask R-CNN on a data set, and state its AP.")
    training(sub, steps=1600, batch=8, lr=1e-3)
    sub = command("codec", _codec, "Train a codec from a random start.")
    training(sub, steps=6000, batch=4, lr=1e-3)
    sub.add_argument("--codec", default="mean-scale-small", help="architecture, by the zoo's name")
    sub.add_argument("--loss", default="mse", choices=["mse", "object-region"], help="what distortion means")
    sub.add_argument("--lmbda", type=float, default=0.01, help="weight of the distortion")
    sub.add_argument("--patch", type=int, default=128, help="side of the training crops, pixels")
    sub.add_argument("--augment", default="none", choices=["none", "heavy"], help="augmentation of the crops")
    sub.add_argument("--compile", action="store_true", help="use torch.compile")
    sub = command("grid", _grid, "Measure the runs of a chapter that the ledger lacks.")
    sub.add_argument("chapter", choices=sorted(presets.CHAPTERS), help="chapter")
    sub.add_argument("--preset", default="book", choices=["book", "paper"], help="which preset's runs")
    sub.add_argument("--data", default=None, help="only the runs on this data set")
    sub.add_argument("--only", default=None, help="only runs whose id contains this")
    sub.add_argument(
        "--part", type=_part, default=(1, 1), metavar="K/N", help="the K-th of N shares, to use several processes"
    )
    sub.add_argument("--list", action="store_true", help="list the runs and measure nothing")
    sub.add_argument("--train-only", action="store_true", help="train the codecs, measure later")
    sub.add_argument("--compile", action="store_true", help="use torch.compile in training")
    sub = command("code", _code, "Code images of yours to real bytes and back.")
    sub.add_argument("images", nargs="+", type=Path, help="image files")
    sub.add_argument("--codec", default="mean-scale-small", help="architecture, by the zoo's name")
    sub.add_argument("--quality", type=int, default=None, help="size of a CompressAI model, 1 to 8")
    sub.add_argument("--weights", type=Path, default=None, help="weights file; the shipped ones where left out")
    sub.add_argument("--jpeg", type=int, default=None, metavar="Q", help="code with JPEG of this quality instead")
    sub.add_argument("--out", type=Path, default=Path("coded"), help="folder for the bytes and the decoded pictures")
    return parser


def main(arguments: list[str] | None = None) -> None:
    """Run one command."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    args = _parser().parse_args(arguments)
    try:
        args.action(args)
    except KeyboardInterrupt:
        sys.exit("stopped; what was finished is kept, and the same command goes on from the last checkpoint")
    except (ValueError, OSError, RuntimeError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
