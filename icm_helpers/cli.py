"""The command line: `icm --help`. A command is a dataclass; its options are its fields, and those of a recipe's parts.

`--loss module:name` first imports your module, which registers it; likewise for a codec, a data set or a model. Heavy packages
are imported when a command runs.
"""

from __future__ import annotations

import importlib
import json
import logging
import os
import re
import shutil
import sys
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

from icm_helpers import chapters, files, objectives
from icm_helpers.codecs import zoo
from icm_helpers.data import datasets, own
from icm_helpers.files import atomically
from icm_helpers.later import later
from icm_helpers.ledger.recipe import Accuracy, Clip, Overfitted, Recipe, Trained, Training
from icm_helpers.ledger.study import Study, VideoStudy
from icm_helpers.options import (
    TRAINING,
    Coder,
    Coding,
    Command,
    Lessons,
    Precision,
    Pupil,
    check,
    coder,
    loss_of,
    maybe,
    one_of,
    options_of,
    pictures_named,
    pictures_of,
    positional,
    share,
)
from icm_helpers.tasks import models

coding, complexity, cost, judged, known = later(".coding", ".complexity", ".cost", ".judged", ".known")
edges, masks, preflight, run = later(".edges", ".masks", ".preflight", ".run")
downloads, grid, sam, training = later(".data.downloads", ".ledger.grid", ".tasks.sam", ".tasks.training")
contrastive, train, torch, tyro = later(".tasks.contrastive", ".train", "torch", "tyro")

# --- training, of one model or of many -----------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Detector(Pupil):
    """Train a detector on a data set, and state its AP."""

    model: one_of(models.names("train")) = (
        "mask-rcnn-small"  # which detector; starts from published weights if any exist
    )

    def __call__(self) -> None:
        told, dataset = self.told(), datasets.load(self.data, "train", size=self.size, limit=self.images)
        plan = train.Schedule(
            self.steps, self.batch, self.lr, warmup=min(200, self.steps // 4), milestones=(0.75, 0.92), clip=5.0
        )
        model = training.trained(self.model, dataset, plan, **told)
        if not train.rank():  # the first process writes
            model.cpu().save(self.out)
            written = self.written(type(model).from_weights)
            held_out = datasets.load(self.data, "val", size=self.size)
            print(training.stated(written, held_out, self.out.stem))


@dataclass(frozen=True, kw_only=True)
class Finetune(Pupil, Coder):
    """Train a detector further on what a codec decodes, and state its AP before and after."""

    detector: str = "yolov5n-scenes"  # which detector, or KIND=FILE with weights of your own
    images: maybe(int) = 400  # how many training images, from the first
    steps: int = 200  # optimiser steps
    batch: int = 16  # images per step
    lr: float = 3e-4  # Adam's learning rate after warm-up

    def __call__(self) -> None:
        if self.detector.partition("=")[0] not in models.names("train"):
            raise ValueError(f"{self.detector} cannot be trained here; {', '.join(models.names('train'))} can")
        told, held_out = self.told(), datasets.load(self.data, "val", size=self.size)
        codec, base = self.coder(), models.load(self.detector).to(self.place)
        dataset = datasets.load(self.data, "train", size=self.size, limit=self.images)
        plan = replace(training.FINETUNE, steps=self.steps, batch=self.batch, lr=self.lr)
        # Other pictures, or those of another codec, belong into another folder.
        lessons, coded = (told["folder"] / f"{zlib.crc32(told['identity'].encode()):08x}-{k}" for k in ("train", "val"))
        model = training.finetune(base, codec, dataset, lessons, plan, describe=self.out.stem, **told)
        if not train.rank():
            model.cpu().save(self.out)
            own, decoded = self.written(type(base).from_weights), training.Decoded(held_out, codec, coded, shared=False)
            for name, judge in ((self.detector, base), (self.out.stem, own)):
                print(training.stated(judge, held_out, name, decoded))
            for folder in (lessons, coded):
                shutil.rmtree(folder)


@dataclass(frozen=True, kw_only=True)
class Contrastive(Lessons):
    """Train a small backbone on scenes, without labels, and state how well it tells them apart."""

    out: Path = files.CHECKPOINTS / "contrastive-scenes.safetensors"  # where the weights go
    images: int = 3000  # training scenes
    steps: int = 1500  # optimiser steps
    batch: int = 64  # pictures per step, two views of each

    def __call__(self) -> None:
        told, dataset = self.told(), datasets.load("scenes", "train", size=192, limit=self.images)
        model = contrastive.trained(
            dataset, train.Schedule(self.steps, self.batch, self.lr, milestones=(0.7, 0.9)), **told
        )
        if not train.rank():
            model.cpu().save(self.out)
            self.written(type(model).from_weights)


@dataclass(frozen=True, kw_only=True)
class Sam(Lessons):
    """Train the nano Segment Anything on scenes, or further on photographs, and state how well it finds objects."""

    out: Path = files.ROOT / "data" / "checkpoints" / "nano-sam.safetensors"  # where the weights go
    data: Literal["scenes", "photos"] = "scenes"  # photos: COCO's small folders, and half of BSDS500's
    start: maybe(Path) = None  # train these weights further, on the last sides; default: from random ones
    images: int = 5000  # training scenes, none of which codecs see
    # optimiser steps on pictures of 128, 192, 256, 256 and 320 pixels, or of the last of these
    steps: tuple[int, ...] = (6000, 2400, 1500, 2400, 1200)
    batch: int = 8  # pictures per step, 12 points on each
    lr: float = 7e-4  # Adam's learning rate after warm-up
    precision: Precision = "bf16-mixed"  # arithmetic
    judged: int = 40  # held-out pictures to judge it on

    def __call__(self) -> None:
        if not 0 < len(self.steps) <= len(sam.LEGS):
            raise ValueError(
                f"--steps has {len(self.steps)} numbers, use one for each of {len(sam.LEGS)} sides, or fewer"
            )
        lessons = partial(sam.Prompts, scenes=self.images)
        if self.data == "photos":
            lessons = partial(sam.PhotoPrompts, lessons=[*sam.photo_lessons(datasets.real_data())])
        start = None if self.start is None else sam.load("nano", self.start).requires_grad_(True)
        model = sam.trained(self.steps, self.batch, self.lr, lessons, start=start, name=self.out.stem, **self.told())
        if train.rank():
            return
        sam.save_nano(model, self.out)
        model = self.written(partial(sam.load, "nano"))
        if self.judged:
            segments = {"sam": partial(sam.every_mask, model)}
            # Scenes all have outlines, so only those that are judged need be drawn.
            held_out = datasets.load(self.data, "val", limit=self.judged if self.data == "scenes" else None)
            iou = edges.best_masks(held_out, self.judged, segments)["sam"]["iou"]
            print(f"{self.out.stem}, {self.judged} held-out {self.data}: mean IoU {iou:.3f} of an object's best mask")


@dataclass(frozen=True, kw_only=True)
class Codec(Command):
    """Train a codec."""

    out: Path  # where the weights go (.safetensors)
    codec: coder("architecture", network=True) = "mean-scale-small"
    quality: maybe(int) = None  # a CompressAI model's size, 1 to 8
    loss: one_of(objectives.names()) = "mse"  # what the distortion measures
    options: options_of(objectives.names())
    lmbda: float = 0.01  # weight of the distortion; mask-rcnn-small as a teacher needs 0.4, with objectness 10
    scale: float = 1.0  # factor on the distortion, besides lmbda; 0: make it as large as MSE's at the start
    data: pictures_named() = "scenes"
    size: int = 192  # side of scenes, pixels
    training: Training = TRAINING
    seed: int = 0  # seed of everything random
    compile: bool = False  # use torch.compile
    workers: maybe(int) = None  # processes that cut crops; default: 4 with a GPU, otherwise none
    # keep a distilling teacher's features of the original crops in runs/teachers (0.6 MB a crop of 128 pixels with
    # mask-rcnn-small), so that other trainings with the same seed need not compute them
    remember: bool = False

    def __call__(self) -> None:
        if not zoo.find(self.codec)[0].network:
            raise ValueError(f"{self.codec} has no weights to train: name a network such as mean-scale-small")
        loss, how = loss_of(self.loss, self.options, self.data), self.training
        if how.start not in ("none", "published") and not files.unmarked(how.start)[1]:
            weights = models.present(run.start_file(how.start))
            how = replace(how, start=f"{how.start}@{files.fingerprint(weights)}")
        codec = Trained(zoo.named(self.codec, self.quality), loss, self.lmbda, how, self.scale, self.seed)
        recipe = Recipe("mine", pictures_of(self.data, 0, self.size), codec, Accuracy(()))
        run.train_codec(
            recipe, self.out, device=self.device, compiled=self.compile, workers=self.workers, remember=self.remember
        )
        if not train.rank():
            print(f"wrote {self.out} (fingerprint {files.fingerprint(self.out)})")


@dataclass(frozen=True, kw_only=True)
class Grid(Command):
    """Measure the runs of a chapter that the ledger lacks."""

    chapter: positional(one_of(chapters.NAMES))  # which chapter
    preset: Literal["book", "pending", "paper"] = "book"  # which of its presets
    data: maybe(str) = None  # only the runs on this data set
    only: maybe(str) = None  # only runs whose id contains this
    part: str = "1/1"  # K/N: the K-th of N shares, to use several machines
    list: bool = False  # list the runs and measure nothing
    train_only: bool = False  # train the codecs, measure later
    jobs: maybe(int) = None  # runs at a time; default: 1 here, all on Slurm
    retries: int = 1  # how often a run that fails is tried again
    launcher: Literal["local", "slurm"] = "local"  # processes here, or one job for each run
    slurm_partition: maybe(str) = None  # partition of the jobs; default: the cluster's own
    slurm_timeout_min: int = 1440  # time limit of a job; a retry continues from there
    gpus_per_job: int = 1  # GPUs that each job asks for
    compile: bool = False  # use torch.compile in training
    workers: maybe(int) = None  # as in `icm codec`
    remember: bool = False  # as in `icm codec`

    def __call__(self) -> None:
        k, n = share(self.part)
        studies = chapters.named(self.chapter).studies(self.preset)
        wanted = [recipe for recipe in _runs(studies, self.data) if self.only is None or self.only in recipe.run_id]
        if not wanted:
            raise ValueError(f"no run matches --only {self.only}: --list without it shows every id")
        if int(os.environ.get("WORLD_SIZE", 1)) > 1:
            raise ValueError("grid starts its own processes: leave torchrun out, and use --jobs")
        missing = [recipe for recipe in wanted if not recipe.path.exists()]
        for recipe in wanted if self.list else []:
            state = "missing " if recipe in missing else "measured"
            print(f"{state} {recipe.pictures.data:10} {recipe.kind:9} {recipe.run_id}")
        print(f"{len(wanted)} runs, {len(wanted) - len(missing)} in the ledger, {len(missing)} to measure")
        if self.list:
            return
        if missing:
            print(f"`icm cost {self.chapter} --preset {self.preset}` estimates what these cost on this machine")
        how = {"device": self.device, "compiled": self.compile, "workers": self.workers, "remember": self.remember}
        job = grid.Job(
            partial(measure, train_only=self.train_only, **how), partial(finished, train_only=self.train_only)
        )
        # Shares are of the runs, not of those that are missing: they never overlap.
        todo = [recipe for recipe in wanted[k - 1 :: n] if recipe in missing and not job.finished(recipe)]
        if not todo:
            return
        if self.preset == "paper":
            preflight.check(todo, self.device)
        jobs = self.jobs or (len(todo) if self.launcher == "slurm" else 1)
        if self.launcher == "slurm":
            launcher = grid.Cluster(self.slurm_partition, self.slurm_timeout_min, self.gpus_per_job)
        else:
            launcher = grid.Here() if jobs == 1 else grid.Processes(jobs, () if self.device == "cpu" else grid.gpus())
        grid.sweep(todo, launcher, job, jobs=jobs, retries=self.retries)


@dataclass(frozen=True, kw_only=True)
class Cost(Command):
    """Estimate what a chapter's runs will cost on this machine, from a few steps of each kind."""

    chapter: positional(one_of(chapters.NAMES))  # which chapter
    preset: Literal["book", "pending", "paper"] = "paper"  # which of its presets
    data: maybe(str) = None  # only the runs on this data set
    steps: int = 4  # steps of each training
    images: int = 2  # images that are coded and judged
    workers: maybe(int) = None  # as in `icm codec`

    def __call__(self) -> None:
        recipes = _runs(chapters.named(self.chapter).studies(self.preset), self.data)
        how = {"steps": self.steps, "images": self.images, "device": self.device, "workers": self.workers}
        for line in cost.table(recipes, **how):
            print(line, flush=True)


def _runs(studies: Sequence[Study | VideoStudy], data: str | None) -> list[Recipe]:
    """The runs of studies, those on one data set or all; each once, though two studies may hold it."""
    of_data = [study for study in studies if data in (None, study.data)]
    if not of_data:
        there = ", ".join(dict.fromkeys(study.data for study in studies))
        raise ValueError(f"no run matches --data {data}: there is data {there}")
    return list(dict.fromkeys(recipe for study in of_data for recipe in study.recipes()))


def measure(recipe: Recipe, train_only: bool, **how: Any) -> None:
    """One run of a grid."""
    if train_only:
        run.trained_codec(recipe, **how)
        return
    result = run.measure(recipe, **how).result
    scores = {f"{k} ({by})": v for k, d in result.items() if isinstance(d, dict) for by, v in d.items()} | result
    print(", ".join(f"{k} {v:.4g}" for k, v in scores.items() if isinstance(v, float)), flush=True)


def finished(recipe: Recipe, train_only: bool) -> bool:
    """Whether a run needs no more of this."""
    return run.made(recipe) if train_only else recipe.path.exists()


# --- coding and judging --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Code(Coding):
    """Code your images to real bytes and back."""

    images: positional(tuple[Path, ...])  # image files; coded files name their codec, and are decoded
    out: Path = Path("coded")  # folder for the bytes and the decoded pictures

    def __call__(self) -> None:
        coding.code(self, self.images, self.out)


def _film_losses() -> list[str]:
    return [name for name in objectives.names(video=True) if not objectives.named(name).needs_objects]


@dataclass(frozen=True, kw_only=True)
class Video(Command):
    """Code your video to one real file and back, with a network that is trained to draw it."""

    video: positional(Path)  # video file; a file that this command has coded is decoded
    codec: one_of(c.name for c in zoo.CODECS.values() if c.video) = "nerv"  # a network, or a classical codec
    quality: maybe(int) = None  # QP of a classical codec
    frames: int = 100  # how many frames, from the first
    height: maybe(int) = None  # scale frames to this many rows; default: as they are
    loss: one_of(_film_losses()) = "nerv"  # loss of the network; sa-nerv counts edges twice
    options: options_of(_film_losses())
    channels: int = 12  # width of the network, which decides the size of the file
    epochs: int = 100  # how often each frame is seen
    tune_epochs: int = 15  # how often each frame is seen after pruning
    density: float = 0.6  # share of the weights that pruning keeps
    bits: int = 6  # bits of each weight
    lr: float = 5e-3  # Adam's learning rate; large networks take 5e-4
    seed: int = 0  # seed of everything random
    out: Path = Path("coded")  # folder for the file and the decoded frames

    def __call__(self) -> None:
        if coding.decode_video(self.video, self.out):
            return
        coder, fitted = zoo.load(self.codec, self.quality), self.codec == "nerv"
        if not fitted and (self.loss != "nerv" or any(value is not None for value in vars(self.options).values())):
            raise ValueError(f"{self.codec} is trained for no loss: leave --loss and its options out")
        loss = loss_of(self.loss, self.options, "a film")

        def write(clip: Any, path: Path) -> None:
            if not fitted:
                with atomically(path) as temporary:
                    temporary.write_bytes(coder.encode_video(clip.frames))
                return
            n, how = len(clip), {"lr": self.lr, "density": self.density, "bits": self.bits, "seed": self.seed}
            how |= {"steps": self.epochs * n, "tune_steps": self.tune_epochs * n, "batch": 1}
            source = Clip("film", files.fingerprint(self.video), n, self.height or 0)
            recipe = Recipe("mine", source, Overfitted("nerv-fitting", loss, self.channels, **how), Accuracy(()))
            run.overfitted(recipe, clip, path, device=self.device)

        coding.code_video(coder, self.video, self.out, zoo.find(self.codec)[0].suffix, write, self.frames, self.height)


@dataclass(frozen=True, kw_only=True)
class Judge(Command):
    """Code a data set with a codec, the book's or yours, and state rate, PSNR and AP, with intervals."""

    codec: coder("a codec of the zoo") = "mean-scale-small"
    # a CompressAI model's size, 1 to 8; a classical codec's quality or QP; several values make a curve
    quality: maybe(tuple[int, ...]) = None
    weights: maybe(tuple[Path, ...]) = None  # weights file; default: the shipped one; several files make a curve
    data: pictures_named() = "scenes"
    # the detector's name for a category of the data set, as in walker=person; equal names match, other categories are left out
    map: maybe(tuple[str, ...]) = None
    size: int = 192  # side of scenes, pixels
    images: int = 200  # how many of its evaluation pictures, at most
    # which models judge, by name, or KIND=FILE with your own weights; default: the one that knows the data set
    detector: maybe(tuple[str, ...]) = None
    roi: maybe(str) = (
        None  # which detector finds the region of interest for an encoder that takes one; `truth`: true masks
    )
    # JSON file for all measurements, which the chapter `compare` can show; what it has already is not measured again
    out: maybe(Path, also="--record") = None

    def __call__(self) -> None:
        shared = {"codec": self.codec, "roi": self.roi, "device": self.device}
        made = [Coding(**how, **shared) for how in judged.rates(self.quality, self.weights)]
        detectors = self.detector or (datasets.DATASETS[self.data].detector,)
        judged.judge(
            made, pictures_of(self.data, self.images, self.size), detectors, self.out, self.device, self.map or ()
        )


@dataclass(frozen=True, kw_only=True)
class Compare:
    """Compare what `judge --out` has written: a table, BD-rates against the first file by every measure, and a figure."""

    files: positional(
        tuple[Path, ...]
    )  # one file per codec, all measured on the same pictures; the first is the anchor
    out: maybe(Path) = None  # the figure, .png, .pdf or .svg; default: none

    def __call__(self) -> None:
        judged.compare(self.files, self.out)


@dataclass(frozen=True, kw_only=True)
class Known(Command):
    """Judge the SA-ICM authors' published weights on COCO 2017, and print the result beside their own table."""

    weights: tuple[Path, ...]  # their files of LIC-TCM, such as sa-icm_0.05.pth.tar
    lmbda: tuple[float, ...]  # the lambda of each file
    detector: Path  # their YOLOv5m, .pt
    images: int = 5000  # how many images, from the first; fewer than all are not comparable

    def __call__(self) -> None:
        for line in known.answers(self.weights, self.lmbda, self.detector, self.images, self.device):
            print(line, flush=True)


# --- what is on disk -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class List:
    """Show data sets, and what can be fetched: size, state on this machine, purpose, licence."""

    def __call__(self) -> None:
        print(datasets.listing(), downloads.listing(), sep="\n\n")


@dataclass(frozen=True, kw_only=True)
class Fetch:
    """Download, verify and unpack what is missing; an interrupted download continues where it stopped."""

    names: positional(tuple[str, ...])  # from the list, or NAME/FILE for one file of it
    folder: maybe(Path) = None  # where the files go, instead of data/NAME, data/weights, or what ICM_COCO names

    def __call__(self) -> None:
        for name in self.names:
            print(f"{name}: {downloads.fetch(name, self.folder)}")


@dataclass(frozen=True, kw_only=True)
class Check(Fetch):
    """Compare what is on disk with the manifest and with what was recorded; say what is missing or damaged."""

    def __call__(self) -> None:
        faults = {name: downloads.check(name, self.folder) for name in self.names}
        print("\n".join(f"{name}: {fault}" for name, wrong in faults.items() for fault in wrong or ["all is well"]))
        if any(faults.values()):
            sys.exit(1)


@dataclass(frozen=True, kw_only=True)
class Make(Command):
    """Segment the pictures of a data set that have no masks yet. Start it again to continue."""

    data: pictures_named() = "scenes"
    split: Literal["train", "val"] = "train"  # which pictures
    size: int = 192  # side of scenes, pixels
    images: maybe(int) = None  # how many pictures, from the first; default: all
    model: Literal["nano", "vit_b", "vit_l", "vit_h"] = "nano"  # Segment Anything's size
    weights: maybe(Path) = None  # weights file; default: the model's own
    alpha: float = 0.48  # lowest predicted IoU that is stored
    points: maybe(int) = None  # points on each side of the grid; default: 16 for nano, otherwise 32
    stability: maybe(float) = None  # lowest stability score; default: .15 for nano, otherwise .95
    points_per_batch: maybe(int) = None  # points decoded at once; default: 64 on a GPU, 8 on a CPU
    bf16: bool = False  # compute the image encoder in bfloat16
    part: str = "1/1"  # K/N: the K-th of N shares, for several GPUs or machines
    out: maybe(Path) = None  # folder; default: one in data/cache

    def __call__(self) -> None:
        how = {k: v for k, v in vars(self).items() if k not in ("data", "images", "part")}
        print(f"masks in {masks.stored(self.data, limit=self.images, part=share(self.part), **how)}")


@dataclass(frozen=True, kw_only=True)
class Info:
    """Print what a folder of masks holds."""

    folder: positional(Path)  # a folder that `make` filled

    def __call__(self) -> None:
        print(json.dumps(masks.info(self.folder), indent=1))


@dataclass(frozen=True, kw_only=True)
class Complexity:
    """Measure what codecs cost; existing rows are kept."""

    list: bool = False  # say what the table has and lacks, and stop
    only: maybe(tuple[str, ...]) = None  # measure these rows of --list, even if they exist
    codec: maybe(str) = None  # add a codec with trained weights
    quality: maybe(int) = None  # its quality, where CompressAI has several
    weights: maybe(Path) = None  # its weights file; default: the shipped or published ones
    kodak: maybe(Path) = None  # folder of kodim01.png ...; default: data/kodak, or ICM_REAL_DATA's
    out: maybe(Path) = None  # the table; default: the committed one

    def __call__(self) -> None:
        out = self.out or complexity.TABLE
        if self.list:
            for key, there in complexity.listed(out).items():
                print(f"{'measured' if there else 'missing ':10}{key}")
            return
        one = {"codec": self.codec, "quality": self.quality, "weights": self.weights, "folder": self.kodak}
        print(f"{complexity.report(self.only or (), **one, out=out)} measured into {out}")


# --- all commands --------------------------------------------------------------------------------------------------------

COMMANDS: dict[str, Any] = {
    **{
        c.__name__.lower(): c
        for c in (Detector, Finetune, Contrastive, Sam, Codec, Video, Judge, Compare, Known, Grid, Cost, Code)
    },
    "datasets": {"list": List, "fetch": Fetch, "check": Check},
    "masks": {"make": Make, "info": Info},
    "complexity": Complexity,
}


def parsed(arguments: list[str]) -> Any:
    """The command that arguments name, with its options."""
    command, words = COMMANDS, 0
    while isinstance(command, dict) and arguments[words : words + 1] and arguments[words] in command:
        command, words = command[arguments[words]], words + 1
    name, rest = " ".join(["icm", *arguments[:words]]), arguments[words:]
    if isinstance(command, dict):  # that of a command is still missing
        docs = {k: ", ".join(v) + ": see --help" if isinstance(v, dict) else v.__doc__ for k, v in command.items()}
        empty = {k: type(k, (), {"__doc__": doc}) for k, doc in docs.items()}
        tyro.extras.subcommand_cli_from_dict(empty, prog=name, args=rest, description="Train, code and measure.")
    found = tyro.cli(command, prog=name, args=rest, config=(tyro.conf.OmitArgPrefixes, tyro.conf.FlagCreatePairsOff))
    check(found)
    return found


def ready(command: Any) -> Any:
    """The command, after checks that need no work: its device exists, and its output can be
    written; a path of pictures in place of a data set's name has become a name.

    Raises:
        ValueError, OSError, RuntimeError: it is not.
    """
    if isinstance(command, Lessons | Codec | Judge | Complexity | Compare) and command.out:
        files.claim(command.out)
    if isinstance(command, Make) and command.out:
        files.claim(command.out / "masks.json")
    if isinstance(command, Lessons | Codec) and command.out.suffix != ".safetensors":
        raise ValueError(
            f"--out {command.out}: weights are written as .safetensors, so name it {command.out.with_suffix('.safetensors')}"
        )
    if getattr(command, "device", "") == "cuda" and not torch.cuda.is_available():
        raise RuntimeError("--device cuda, but this machine shows no CUDA device: use auto or cpu")
    if isinstance(command, Pupil | Codec | Judge | Make):
        return replace(command, data=own.named(command.data))
    return command


NAMED = ("--codec", "--loss", "--data", "--model", "--detector", "--teacher", "--segmenter", "--roi")


def imported(arguments: list[str]) -> list[str]:
    """Arguments in which `--loss module:name` and the like have become names, after importing the modules."""
    sys.path.append(os.getcwd())  # where a console script does not look
    option = ""
    for k, argument in enumerate(arguments):
        option = argument.partition("=")[0] if argument.startswith("--") else option  # which may take several values
        own = re.fullmatch(r"(--\w+=)?([A-Za-z_][\w.]*):([\w-]+)", argument)
        if own and option in NAMED:
            importlib.import_module(own[2])
            arguments[k] = (own[1] or "") + own[3]
    return arguments


def main(arguments: list[str] | None = None) -> None:
    """Run one command."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")  # a terminal that shows ASCII alone
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        ready(parsed(imported([*(sys.argv[1:] if arguments is None else arguments)])))()
    except BrokenPipeError:  # `icm ... | head` has read what it wanted
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit("stopped; everything written is kept, and the same command continues from the last checkpoint or file")
    except (ValueError, OSError, RuntimeError, ImportError, MemoryError) as error:
        sys.exit(f"error: {str(error) or type(error).__name__}")
