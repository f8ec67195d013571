"""The command line: `python -m icm_helpers --help`."""

from __future__ import annotations

import argparse
import hashlib
import json
import logging
import math
import os
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from torch.utils.data import Subset

from icm_helpers import bd, claims, clips, evaluate, files, judges, losses, masks, overfit, presets, run, train
from icm_helpers.codecs import container, nerv, networks, zoo
from icm_helpers.data import coco, datasets, video
from icm_helpers.data.crops import Crops
from icm_helpers.ledger import grid, results
from icm_helpers.ledger.results import Recipe
from icm_helpers.tasks import sam
from icm_helpers.tasks.teacher import Remembered


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
        collate=judges.collate,
        describe=args.model,
        **_training(args),
    )
    if train.rank():
        return  # the first process writes
    model.cpu().save(args.out)
    _written(args.out)
    _judge(type(model).from_weights(args.out), datasets.load(args.data, "val", size=args.size), args.out.stem)


def _judge(
    model: evaluate.Detector,
    dataset: coco.CocoDataset,
    name: str,
    pictures: judges.Decoded | coco.CocoDataset | None = None,
) -> None:
    """Print a detector's AP on a data set, or on coded `pictures` of it, and its PQ where both know panoptic maps."""
    pictures = dataset if pictures is None else pictures
    found = evaluate.clean_detections(pictures, model)
    for task, iou_type in (("box", "bbox"), ("mask", "segm")):
        if task == "box" or (dataset.outlined and any("segmentation" in entry for entry in found)):
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
        describe=args.out.stem,
        **_training(args),
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
        (run.RUNS / out.stem / str(leg) / "training.ckpt").unlink(missing_ok=True)
    print(f"wrote {out} (fingerprint {results.fingerprint(out)})")


def _identity(args: argparse.Namespace) -> str:
    """What a command trains: its arguments, but for where and how fast it computes, and what it writes and says.

    Of a file of weights its fingerprint, since another one may come to lie there; of a model by name that of its weights.
    """
    incidental = ("action", "compile", "device", "judged", "out", "remember")
    told = {k: v for k, v in vars(args).items() if k not in incidental}
    for name in {"weights", "teacher", "edges", "detector"} & told.keys():
        value = told[name]
        if value is not None:
            told[name] = results.fingerprint(value) if name == "weights" else presets.fingerprinted(value)
    return ", ".join(f"{k} {v}" for k, v in told.items())


def _training(args: argparse.Namespace, leg: str = "") -> dict[str, Any]:
    """What every training of a command is told: where its checkpoint lies, seed, device, arithmetic, and what it trains."""
    if args.out.is_dir():
        raise ValueError(f"--out {args.out} is a folder: name a file in it")
    return {
        "folder": run.RUNS / args.out.stem / leg,
        "seed": args.seed,
        "device": args.device,
        "precision": args.precision,
        "identity": _identity(args),
    }


def _sam(args: argparse.Namespace) -> None:
    torch.manual_seed(args.seed)
    # Small pictures first, where a step costs least; then, on larger ones, steps down that follow a cosine.
    fast = train.Schedule(steps=0, batch=args.batch, lr=args.lr, warmup=300, milestones=(), save_every=200)
    fine = replace(fast, lr=0.4 * args.lr, warmup=50, milestones=(0.4, 0.7, 0.88), gamma=0.4, save_every=100)
    model, legs, seen = sam.nano(sam.LEGS[0]), [], Counter()
    for leg, (size, steps) in enumerate(zip(sam.LEGS, args.steps, strict=True)):
        model = sam.enlarged(model, size)
        items = range(seen[size], seen[size] + steps * args.batch)  # none twice, where legs are of one size
        seen[size] = items.stop
        legs.append(f"{leg}-{size}")
        train.fit(
            sam.Prompted(model),
            Subset(sam.Prompts(args.seed, items.stop, args.images, size=size), items),
            sam.prompt_loss,
            replace(fine if leg else fast, steps=steps),
            workers=1,  # scenes are drawn meanwhile
            describe=f"{args.out.stem}, {size} px",
            **_training(args, legs[-1]),
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
    model = zoo.load(args.codec, args.quality, weights=None)
    if args.patch % model.downsampling_factor:
        raise ValueError(f"--patch {args.patch}: {args.codec} takes multiples of {model.downsampling_factor}")
    dataset = datasets.load(args.data, "train", size=args.size, limit=args.images)
    teacher = None
    if args.loss == "task" or args.loss in presets.DISTILLED:
        teacher = judges.load(args.teacher).to(train.fabric(args.device).device)
        if not hasattr(teacher, "task_loss" if args.loss == "task" else "features_and_objectness"):
            raise ValueError(
                f"{args.teacher} cannot teach --loss {args.loss}: take mask-rcnn-small, or on photographs yolov5n"
            )
    if args.loss == "task":
        coco.require_categories(dataset, teacher.categories, args.teacher)
    length = args.steps * args.batch
    objects = run.needs_objects(args.loss)
    if args.remember and args.loss in presets.DISTILLED:
        teacher = Remembered(teacher, run.RUNS / "teachers" / presets.fingerprinted(args.teacher))
    region = run.true_edges(dataset) if args.loss == "true-edges" else None
    if args.loss == "sa-icm":
        who = presets.fingerprinted(args.edges or "nano-sam")
        region = run.edges(dataset, args.data, args.size, who, args.alpha, device=args.device)
    crops = Crops(dataset, args.patch, args.seed, length, args.augment, region=region, objects=objects)
    plan = train.Schedule(steps=args.steps, batch=args.batch, lr=args.lr)
    curve = train.fit(
        model,
        crops,
        run.objective(args.loss, args.lmbda, teacher, args.task_weight),
        plan,
        compiled=args.compile,
        workers=run.workers(args.device),
        collate=run.collate,
        describe=args.out.stem,
        **_training(args),
    )
    if train.rank():
        return  # the first process writes
    networks.save(
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
        costly = [recipe for recipe in recipes if recipe.method != "classical"] or recipes
        hours_of |= dict.fromkeys(recipes, 0.0) | dict.fromkeys(costly, study.hours / len(costly))
    wanted = [recipe for recipe in hours_of if args.only is None or args.only in recipe.run_id]
    if not wanted:
        given = " ".join(f"--{name} {getattr(args, name)}" for name in ("data", "only") if getattr(args, name))
        there = ", ".join(dict.fromkeys(study.data for study in studies))
        raise ValueError(f"no run matches {given}: there is data {there}, and --list without {given} shows every id")
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
            return recipe.method != "trained" or any(path.exists() for path in run.places(recipe))
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
        run.trained_codec(recipe, **how)
        return
    scores = results.table([run.measure(recipe, **how)])[0].items()
    print(", ".join(f"{k} {v:.4g}" for k, v in scores if isinstance(v, float)), flush=True)


def _alone(args: argparse.Namespace, recipe: Recipe) -> list[str]:
    """The command that does one run of a grid in another process, for which this one holds the claim."""
    command = [sys.executable, "-m", "icm_helpers", "grid", args.chapter, "--only", recipe.run_id, "--claimed"]
    command += ["--preset", args.preset, "--device", args.device]
    flags = ("train_only", "compile", "remember")
    return command + [f"--{flag.replace('_', '-')}" for flag in flags if getattr(args, flag)]


def _named_codec(name: str, quality: int | None, weights: Path | None, device: str) -> Any:
    """The codec that --codec, --quality and --weights name, ready to code."""
    model = zoo.load(name, quality, weights=weights or "default")
    return model.to(train.fabric(device).device) if isinstance(model, torch.nn.Module) else model


def _draw(path: Path, x: torch.Tensor) -> None:
    """Write a picture, (3, H, W) in [0, 1], as PNG."""
    with files.atomically(path) as temporary:
        Image.fromarray((x * 255).round().byte().permute(1, 2, 0).numpy()).save(temporary, "PNG")  # -> (H, W, 3)


def _code(args: argparse.Namespace) -> None:
    model = _named_codec(args.codec, args.quality, args.weights, args.device)
    twice = [name for name, count in Counter(path.stem for path in args.images).items() if count > 1]
    if twice:
        raise ValueError(f"several images are called {', '.join(twice)}: give them --out folders of their own")
    for path in args.images:
        if path.suffix == ".icm":
            back = args.out / f"{path.stem.removesuffix('.coded')}.decoded.png"
            _draw(back, container.decode(model, path.read_bytes()).cpu())
            print(f"{path}: decoded to {back}")
            continue
        try:
            with Image.open(path) as picture:
                pixels = coco.rgb(ImageOps.exif_transpose(picture))
        except (OSError, SyntaxError, Image.DecompressionBombError) as error:  # Pillow's errors seldom name the file
            raise ValueError(f"{path} cannot be read as an image ({error}): give a whole image file") from error
        x = torch.from_numpy(pixels).permute(2, 0, 1).float() / 255  # (H, W, 3) -> (3, H, W)
        coded = container.encode(model, x)
        x_hat = container.decode(model, coded).cpu()
        # `coded` in the name: in the folder of the pictures, photo.jpg must not overwrite photo.jpg.
        with files.atomically(args.out / f"{path.stem}.coded.{zoo.find(args.codec)[0].suffix}") as temporary:
            temporary.write_bytes(coded)
        _draw(args.out / f"{path.stem}.decoded.png", x_hat)
        psnr = evaluate.psnr((x - x_hat).square().mean().item())
        print(f"{path}: {len(coded)} bytes, {8 * len(coded) / (x.shape[1] * x.shape[2]):.3f} bpp, {psnr:.2f} dB")


def _video(args: argparse.Namespace) -> None:
    coder, inter = zoo.load(args.codec, args.quality), args.codec != "nerv"
    if inter and args.edges:
        raise ValueError(f"{args.codec} knows no edges: leave --edges out")
    name, coded, suffix = args.video.name.rpartition(".coded.")
    if coded and (written := [codec for codec in zoo.CODECS.values() if codec.video and codec.suffix == suffix]):
        coder = zoo.load(written[0].name, 32 if written[0].setting else None)  # any QP decodes
        x_hat, decoded = coder.decode_video(args.video.read_bytes()), args.out / f"{name}.decoded"
        _draw_all(decoded, x_hat)
        print(f"{args.video}: {len(x_hat)} frames decoded to {decoded}")
        return
    clip, n = video.read(args.video, args.frames + 1, args.height), args.frames  # one more tells whether it goes on
    if len(clip) > n:
        clip = replace(clip, frames=clip.frames[:n], boxes=clip.boxes[:n], labels=clip.labels[:n])
        print(f"only the first {args.frames} frames of {args.video}: --frames says how many")
    decoded = args.out / f"{clip.name}.decoded"
    decoded.mkdir(parents=True, exist_ok=True)  # before any work: a wrong --out shows at once
    path = args.out / f"{clip.name}.coded.{zoo.CODECS[args.codec].suffix}"
    data, folder = (coder.encode_video(clip.frames), None) if inter else _overfitted(args, clip)
    with files.atomically(path, hint="the training is kept: the same command goes on") as temporary:
        temporary.write_bytes(data)
    if folder:
        clips.forget(folder)
    x_hat = coder.decode_video(path.read_bytes())
    _draw_all(decoded, x_hat)
    count, _, height, width = clip.frames.shape
    bpp, scores = 8 * len(data) / (count * height * width), overfit.quality(clip.frames, x_hat)
    similar = "" if math.isnan(scores["ms_ssim"]) else f", MS-SSIM {scores['ms_ssim']:.4f}"
    print(f"{args.video}: {count} frames of {height} x {width}, {len(data)} bytes, ", end="")
    print(f"{bpp:.4f} bpp, {scores['psnr']:.2f} dB{similar}")


def _draw_all(folder: Path, frames: torch.Tensor) -> None:
    """Write frames, (T, 3, H, W) in [0, 1], as PNG into a folder, in the place of those of another run."""
    for frame in folder.glob("[0-9]*.png"):
        frame.unlink()
    for k, frame in enumerate(frames):
        _draw(folder / f"{k:05d}.png", frame)


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
        folder=run.RUNS / "video" / name,
        name=name,
        lr=args.lr,
        seed=args.seed,
        device=args.device,
    )
    return data, run.RUNS / "video" / name


def _judged(args: argparse.Namespace) -> None:
    named = args.detector or ["mask-rcnn-small" if args.data == "scenes" else "yolov5n"]
    rates = max(len(args.weights or [None]), len(args.quality or [None]))
    pairs = [v if len(v) == rates else v * rates for v in (args.weights or [None], args.quality or [None])]
    if any(len(v) != rates for v in pairs):
        raise ValueError(
            f"{len(args.weights)} --weights and {len(args.quality)} --quality: give one of each for every rate, or one for all"
        )
    absent = [path for path in args.weights or [] if not path.is_file()]
    if absent:
        raise ValueError(f"no weights at {', '.join(map(str, absent))}: correct the path")
    dataset = datasets.load(args.data, "val", size=args.size, limit=args.images)
    place = train.fabric(args.device).device
    panel = {name: _detector_named(name).to(place) for name in named}
    for name, detector in panel.items():
        coco.require_categories(dataset, detector.categories, name)
    kept = _kept(args.out)
    judged = {"data": results.fingerprint(dataset.annotations), "size": args.size, "ids": list(map(int, dataset.ids))}
    judged["detectors"] = list(map(_fingerprinted, named))
    clean: dict[str, list[dict[str, Any]]] = {}
    records = []
    for k, (weights, quality) in enumerate(zip(*pairs, strict=True)):
        told = " ".join(str(word) for word in (args.codec, weights, quality) if word is not None)
        model = _named_codec(args.codec, quality, weights, args.device)
        learned = networks.fingerprint(model).hex() if isinstance(model, torch.nn.Module) else None
        asked = {"codec": args.codec, "weights": learned, "quality": quality, **judged}
        found = next((record for record in kept if record["asked"] == asked), None)
        if found is None:
            clean = clean or {name: evaluate.clean_detections(dataset, detector) for name, detector in panel.items()}
            result, bootstrap = evaluate.evaluate(model, dataset, panel, clean)
            found = {"asked": asked, "result": result, "bootstrap": bootstrap}
            if args.out:
                with files.atomically(args.out) as temporary:  # with what another process has written meanwhile
                    temporary.write_text(json.dumps([*_kept(args.out), found]), encoding="utf-8")
        records.append({**found, "recipe": {"lmbda": k}})
        result, bootstrap = found["result"], found["bootstrap"]
        print(f"{told}: {result['bpp']:.4f} bpp, {result['psnr']:.2f} dB, {len(dataset)} pictures of {args.data}")
        for metric, name in _accuracies([found]):
            low, high = np.percentile(bootstrap[metric][name], [2.5, 97.5])
            print(f"  {claims.NAMES[metric]} of {name} {result[metric][name]:.3f} [{low:.3f}, {high:.3f}]", flush=True)
    for name, detections in clean.items():
        summary, _ = evaluate.average_precision(dataset.ground_truth(), detections)
        told = f"{summary['ap']:.3f}" if summary else "is not defined: no object is annotated"
        print(f"uncompressed: box AP of {name} {told}")
    if rates == 1:
        print("give two rates or more, such as several --weights, for a BD-rate against the codecs of the book")
        return
    if rates < 4:
        print(f"between {rates} rates a curve is cut short, and BD-rates come out too high: give four or more")
    alike = claims.measured_alike(args.data, args.size, dataset.ids)
    for metric, name in _accuracies(records):
        mine, known = bd.curve(records, metric, name), alike if name in presets.DETECTORS else []
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
        if isinstance(kept, list) and all({"asked", "result", "bootstrap"} <= set(record) for record in kept):
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
    parser = argparse.ArgumentParser(prog="python -m icm_helpers", description="Train, code and measure.")
    commands = parser.add_subparsers(dest="command", required=True)

    class Help(argparse.ArgumentDefaultsHelpFormatter):
        """Tells defaults, but not that there is none, which the words say where it matters."""

        def _get_help_string(self, action: argparse.Action) -> str | None:
            return action.help if action.default is None else super()._get_help_string(action)

    def command(name: str, action: Callable, text: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=text, description=text, formatter_class=Help)
        sub.set_defaults(action=action)
        sub.add_argument("--device", default="auto", choices=["auto", "cpu", "cuda"], help="where to compute")
        return sub

    def training(sub: argparse.ArgumentParser, steps: int, batch: int, lr: float, images: int | None = None) -> None:
        sub.add_argument("--data", default="scenes", choices=["scenes", "coco-mini", "coco2017"], help="data set")
        sub.add_argument("--size", type=int, default=192, help="side of scenes, pixels")
        several = "" if images else "; all where left out"
        sub.add_argument("--images", type=positive, default=images, help=f"training images{several}")
        sub.add_argument("--steps", type=positive, default=steps, help="optimiser steps")
        sub.add_argument("--batch", type=positive, default=batch, help="images or crops a step")
        sub.add_argument("--lr", type=float, default=lr, help="Adam's learning rate after warm-up")
        sub.add_argument("--seed", type=int, default=0, help="seed")
        sub.add_argument("--precision", default="32-true", choices=["32-true", "bf16-mixed"], help="arithmetic")
        sub.add_argument("--out", type=Path, required=True, help="where the weights go (.safetensors)")

    def number(convert: Callable, holds: Callable, what: str) -> Callable:
        """A type of arguments: numbers for which `holds`, or else an error that says `what` is asked for."""

        def parsed(text: str) -> Any:
            try:
                if holds(value := convert(text)):
                    return value
            except ValueError:
                pass
            raise argparse.ArgumentTypeError(f"{text} is no {what}")

        return parsed

    sure = number(
        float, lambda v: masks.LEAST <= v < 1, f"number from {masks.LEAST}, where masks are stored from, to 1"
    )
    whole = number(int, lambda v: v >= 0, "whole number")
    positive = number(int, lambda v: v > 0, "whole number above zero")
    share = number(float, lambda v: 0 < v <= 1, "number above 0 and up to 1")

    def naming(sub: argparse.ArgumentParser, many: str | None = None) -> None:
        several = "; several are rates of one codec, which make a curve" if many else ""
        names = f"a codec of the zoo: {', '.join(c.name for c in zoo.CODECS.values() if not c.video)}"
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
    sub.add_argument(
        "--steps",
        type=int,
        nargs=len(sam.LEGS),
        default=[6000, 2400, 1500, 2400, 1200],
        help=f"optimiser steps on scenes of {', '.join(map(str, sam.LEGS))} pixels (default: %(default)s)",
    )
    sub.add_argument("--batch", type=int, default=8, help="scenes a step, 12 points on each")
    sub.add_argument("--lr", type=float, default=7e-4, help="Adam's learning rate after warm-up")
    sub.add_argument("--seed", type=int, default=0, help="seed")
    sub.add_argument("--precision", default="bf16-mixed", choices=["32-true", "bf16-mixed"], help="arithmetic")
    sub.add_argument("--judged", type=int, default=40, help="held-out scenes to judge it on")
    sub.add_argument("--out", type=Path, default=sam.NANO, help="where the weights go (.safetensors)")
    sub = command("codec", _codec, "Train a codec from a random start.")
    training(sub, steps=6000, batch=4, lr=1e-3)
    sub.add_argument(
        "--codec",
        default="mean-scale-small",
        help=f"architecture: {', '.join(c.name for c in zoo.CODECS.values() if c.network)}",
    )
    sub.add_argument("--quality", type=int, help="a CompressAI model's size, 1 to 8")
    named = ["mse", *presets.MASKED, "task", *presets.DISTILLED]
    sub.add_argument("--loss", default="mse", choices=named, help="what distortion means")
    sub.add_argument(
        "--lmbda",
        type=float,
        default=0.01,
        help="weight of the distortion; distillation needs hundreds: see scales in presets.py",
    )
    sub.add_argument(
        "--teacher",
        default="mask-rcnn-small",
        choices=judges.NAMES,
        help="detector whose loss --loss task adds, or whose features distill: an R-CNN or yolov5n",
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
    sub.add_argument("video", type=Path, help="video file, or one that this command has coded, to decode it")
    sub.add_argument(
        "--codec",
        default="nerv",
        choices=[c.name for c in zoo.CODECS.values() if c.video],
        help="NeRV, or a classical codec",
    )
    sub.add_argument("--quality", type=int, help="QP of a classical codec")
    sub.add_argument("--frames", type=positive, default=100, help="only the first so many")
    sub.add_argument("--height", type=positive, help="scale frames to so many rows; as they are where left out")
    sub.add_argument(
        "--edges", choices=sorted(presets.SEGMENTERS), help="SA-NeRV: whose masks have the edges that count twice"
    )
    sub.add_argument("--alpha", type=sure, default=0.93, help="how sure of a mask it must be")
    sub.add_argument(
        "--channels", type=positive, default=12, help="width of the network, which decides the size of the file"
    )
    sub.add_argument("--epochs", type=positive, default=100, help="how often each frame is seen")
    sub.add_argument("--tune-epochs", type=whole, default=15, help="how often after pruning")
    sub.add_argument("--density", type=share, default=0.6, help="part of the weights that pruning leaves")
    sub.add_argument("--bits", type=int, default=6, choices=range(2, 9), help="of a weight")
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
    sub.add_argument(
        "images", nargs="+", type=Path, help="image files; of .icm ones, coded by the same codec, the pictures"
    )
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
