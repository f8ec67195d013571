"""Everything that can be turned up or down, in one readable place: what `smoke`, `book` and `paper` mean for each chapter.

A preset is a tuple of studies, one for each data set. The code path is the same in all of them; only these values differ.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar

from icm_helpers.codecs import nerv
from icm_helpers.ledger.results import DRAWN, Recipe

DETECTORS = {
    "mask-rcnn-small": "9fd0ed3f",
    "faster-rcnn-small": "113c7d16",
    "yolov5n-scenes": "6829cfdf",
    "panoptic-deeplab-scenes": "767bb814",
    "yolov5n": "ff6f13e9",
    "faster-rcnn-r50": "258fb6c6",
    "mask-rcnn-r50": "bf2d0c1e",
    "faster-rcnn-d2": "3c25caca",
    "mask-rcnn-d2": "9a737e29",
    "yolox-nano": "e8af0749",
}
"""Recognition models and the first digits of the SHA-256 of their weights: measured with other weights, a record is another one."""

SEGMENTERS = {
    "nano-sam": "d7519e8d",
    "sam-vit-b": "ec2df627",
    "sam-vit-l": "3adcc431",
    "sam-vit-h": "a7bf3b02",
}
"""Segment Anything, whose masks some losses are made with, and the same digits of its weights."""

DISTILLED = ("distill", "distill-boxes", "distill-objectness")
"""Losses that compare a teacher's features: with equal weights, the true boxes', or objectness'."""

MASKED = ("object-region", "sa-icm", "true-edges")
"""Losses that count distortion on a mask: of the objects, of the edges of Segment Anything's masks, or of those of the data set's
own panoptic maps: an upper bound, or a stand-in, and always called so."""

REFINABLE = ("mse", "object-region", *DISTILLED)
"""Losses that latents can be refined under: a picture alone brings what they ask for."""

FINETUNED = "-finetuned"
"""Ends the name, in a record, of a detector that was trained further on what the record's codec decodes."""


@dataclass(frozen=True)
class Study:
    """One data set's part of a chapter: which runs are made, how they are trained, what judges them."""

    chapter: str
    data: str  # scenes | coco-mini | coco2017
    images: int  # evaluation images
    train_images: int
    size: int  # side of scenes in pixels; 0: photographs at their own size
    codec: str  # a name that codecs.zoo knows
    start: str  # the weights every run starts from: file in data/checkpoints, or published (CompressAI's), @ fingerprint; or none
    scales: tuple[
        tuple[str, float], ...
    ]  # losses, and what multiplies lmbda so that rates overlap; 0: run.scale, at the start
    lmbdas: tuple[float, ...]
    seeds: tuple[
        int, ...
    ]  # the first has every lambda, loss and judge; the others the cheap losses and the first judge
    steps: int
    batch: int
    patch: int  # pixels
    lr: float
    augment: str  # none | heavy
    precision: str  # 32-true | bf16-mixed
    detectors: tuple[str, ...]
    anchors: tuple[
        tuple[str, tuple[int, ...]], ...
    ]  # classical codecs and their qualities (JPEG, WebP, AVIF) or QPs (HEVC, VVC)
    seed_lmbdas: tuple[float, ...] = ()  # those of the other seeds; all where empty
    teacher: str = "none"  # the detector whose own loss the loss `task` adds, or whose features distillation compares
    task_weight: float = 0.0  # of that loss, times lmbda
    finetune: str = "none"  # the detector that is also judged after training on what each trained codec decodes
    finetune_steps: int = 0
    levels: str = "all"  # of the teacher's pyramid, such as p2+p3
    reduction: str = "max"  # max | mean: of objectness over anchors
    temperature: float = 1.0  # of objectness
    objectness: str = "original"  # original | decoded: in which picture it is seen
    edges: str = "none"  # whose masks the loss sa-icm takes edges of: a Segment Anything
    alphas: tuple[float, ...] = ()  # how sure it must be, a recipe each
    drawing: str = "largest-first"  # as masks.segmentation_map paints
    canny_low: float = 50.0
    canny_high: float = 100.0
    dilate: int = 0  # pixels
    shift: int = 0  # pixels to the right, off the edges
    again: bool = False  # whether it trains codecs of the chapter's first study anew, with which verdicts take the mean
    spent: bool = False  # whether it is measured where the first seed's distilled codecs spend their bits
    probed: tuple[
        str, ...
    ] = ()  # losses (of the first seed) and classical codecs that are asked what textures they give away
    refine_scales: tuple[tuple[str, float], ...] = ()  # the loss microscope's losses; `scales` where empty
    refine_judges: int = 1  # how many of the detectors judge what it refined
    refine_lmbdas: tuple[float, ...] = ()  # its ladder
    refine_steps: int = 0
    refine_lr: float = 0.1  # of the latents, in rounding intervals
    refine_precision: str = "32-true"  # 32-true | bf16-mixed
    ledger: bool = True  # False: measured on the spot and written nowhere
    beside: tuple[Recipe, ...] = ()  # runs of another chapter that this one's are compared with
    hours: float = 0.0  # estimated cost of the whole grid on the hardware the preset is meant for

    def recipes(self) -> list[Recipe]:
        """Every run of the study: trained codecs, what they spend and what they give away, refined latents, classical anchors,
        uncompressed images, and those beside.

        Raises:
            ValueError: a detector is unknown.
        """
        base = Recipe(
            chapter=self.chapter,
            data=self.data,
            images=self.images,
            size=self.size,
            codec=self.codec,
            method="trained",
            detectors=tuple(map(fingerprinted, self.detectors)),
        )
        finetuned = self.finetune if self.finetune == "none" else fingerprinted(self.finetune)
        first = self.seeds[0]
        whole = {"detectors": base.detectors, "finetuned": finetuned, "finetune_steps": self.finetune_steps}
        trained = [
            replace(
                base,
                loss=loss,
                lmbda=lmbda,
                scale=scale,
                seed=seed,
                start=self.start,
                steps=self.steps,
                batch=self.batch,
                patch=self.patch,
                lr=self.lr,
                augment=self.augment,
                precision=self.precision,
                train_images=self.train_images,
                **(whole if seed == first else {"detectors": base.detectors[:1]}),
                **self._taught(loss),
                **seen,
            )
            for seed in self.seeds
            for lmbda in (self.lmbdas if seed == first else self.seed_lmbdas or self.lmbdas)
            for loss, scale in self.scales
            for seen in self._seen(loss)
            if loss != "task" or seed == first  # the dearest training by far
        ]
        spent = [
            replace(r, method="spent", detectors=(r.teacher,), finetuned="none", finetune_steps=0)
            for r in trained
            if self.spent and r.seed == first and r.loss in DISTILLED
        ]
        refined = [
            replace(
                base,
                method="refined",
                detectors=base.detectors[: self.refine_judges],
                loss=loss,
                lmbda=lmbda,
                scale=scale,
                start=self.start,
                steps=self.refine_steps,
                lr=self.refine_lr,
                precision=self.refine_precision,
                **self._taught(loss),
            )
            for lmbda in self.refine_lmbdas
            for loss, scale in self.refine_scales or self.scales
            if loss in REFINABLE
        ]
        classical = [
            replace(base, method="classical", codec=name, lmbda=float(quality))
            for name, qualities in self.anchors
            for quality in qualities
        ]
        uncompressed = [replace(base, method="classical", codec="png")] if classical else []
        probed = [
            replace(
                r,
                method="probed",
                detectors=base.detectors[:1],
                finetuned="none",
                finetune_steps=0,
                train_images=self.train_images,  # of which the first teach the probe, whatever codes them
            )
            for r in (*trained, *classical, *uncompressed)
            if (r.codec in self.probed if r.loss == "none" else r.seed == first and r.loss in self.probed)
        ]
        return [*trained, *spent, *probed, *refined, *classical, *uncompressed, *self.beside]

    def _seen(self, loss: str) -> list[dict[str, Any]]:
        """The fields of a loss's recipes that concern edges, a dictionary for each alpha."""
        if loss != "sa-icm":
            return [{}]
        drawn = {"edges": fingerprinted(self.edges)} | {k: getattr(self, k) for k in DRAWN}
        return [drawn | {"alpha": alpha} for alpha in self.alphas]

    def _taught(self, loss: str) -> dict[str, Any]:
        """The fields of a recipe that concern the teacher."""
        if loss != "task" and loss not in DISTILLED:
            return {}
        taught: dict[str, Any] = {"teacher": fingerprinted(self.teacher)}
        if loss == "task":
            return taught | {"task_weight": self.task_weight}
        taught["levels"] = self.levels
        if loss == "distill-objectness":
            taught |= {k: getattr(self, k) for k in ("reduction", "temperature", "objectness")}
        return taught


def fingerprinted(model: str) -> str:
    """The name of a detector or a Segment Anything with the fingerprint of its weights.

    Raises:
        ValueError: no such model.

    >>> fingerprinted("yolov5n")
    'yolov5n@ff6f13e9'
    """
    known = DETECTORS | SEGMENTERS
    if model not in known:
        raise ValueError(f"no model is called {model!r}; there is {', '.join(known)}")
    return f"{model}@{known[model]}"


SCENES = Study(
    chapter="object_region_mse",
    data="scenes",
    images=200,
    train_images=3000,
    size=192,
    codec="mean-scale-small",
    start="start-scenes@aa2ff663",
    scales=(("mse", 1.0), ("object-region", 5.0), ("task", 0.5)),
    lmbdas=(0.001, 0.002, 0.004, 0.008),
    seeds=(0, 1),
    steps=4000,
    batch=2,
    patch=128,
    lr=5e-4,
    augment="none",
    precision="bf16-mixed",
    detectors=("mask-rcnn-small", "yolov5n-scenes"),
    anchors=(
        ("jpeg", (10, 25, 50, 80)),
        ("webp", (5, 30, 75)),
        ("avif", (15, 35, 60)),
        ("hevc", (42, 37, 32)),
        ("vvc", (47, 42, 37)),
    ),
    teacher="mask-rcnn-small",
    task_weight=8.0,  # at the common start its gradient on the decoded picture is as strong as that of the whole MSE
    finetune="yolov5n-scenes",
    finetune_steps=150,
    hours=3.0,
)

COCO_MINI = replace(
    SCENES,
    data="coco-mini",
    images=127,
    train_images=180,
    size=0,
    start="start-coco-mini@edbb1b8d",
    steps=5000,
    scales=(("mse", 1.0), ("object-region", 2.5), ("task", 0.5)),  # objects cover twice as much here as on scenes
    lmbdas=(0.002, 0.005, 0.01, 0.02),
    seeds=(0,),
    augment="heavy",
    detectors=("yolov5n", "yolox-nano"),
    anchors=(
        ("jpeg", (10, 20, 40, 70)),
        ("webp", (5, 30, 75)),
        ("avif", (15, 35, 60)),
        ("hevc", (42, 37, 32)),
        ("vvc", (47, 42, 37)),
    ),
    teacher="yolov5n",
    task_weight=26.0,  # as on scenes: its gradient on the decoded picture as strong as that of the whole MSE
    finetune="none",
    finetune_steps=0,
    refine_lmbdas=(0.01,),
    refine_steps=15,
    hours=2.0,
)

# The paper codes with LIC-TCM and states neither steps, batch nor learning rate: these are what a few GPU days allow. Its lambdas
# are {.05, .02, .01, .005} for object-region and {.01, .005, .002, .001} for MSE, five times apart but for one rung (ours: .025).
PAPER = replace(
    SCENES,
    data="coco2017",
    images=5000,
    train_images=118_287,
    size=0,
    codec="mbt2018-mean-q5",
    start="none",
    lmbdas=(0.001, 0.002, 0.005, 0.01),
    seeds=(0,),
    steps=500_000,
    batch=16,
    patch=256,
    lr=1e-4,
    detectors=("yolov5n", "mask-rcnn-r50"),
    teacher="yolov5n",
    task_weight=26.0,  # as on scenes, by gradients on COCO-mini
    finetune="none",
    finetune_steps=0,
    hours=800.0,
)

SMOKE = replace(
    SCENES,
    images=4,
    train_images=4,
    size=128,
    lmbdas=(0.002, 0.008),
    seeds=(0,),
    steps=3,
    patch=64,
    anchors=(("jpeg", (20, 60)), ("hevc", (40, 30))),
    precision="32-true",
    finetune_steps=2,
    ledger=False,
    hours=0.01,
)

# A detector's loss has a noisier gradient than a distance of pixels: does it suffer from the learning rate?
TASK_LOW_LR = replace(
    SCENES,
    scales=(SCENES.scales[-1],),
    lmbdas=(0.001, 0.004),
    seeds=(0,),
    lr=1e-4,
    anchors=(),
    finetune="none",
    finetune_steps=0,
    hours=0.2,
)

OBJECT_REGION_MSE: dict[str, tuple[Study, ...]] = {
    "smoke": (SMOKE,),
    "book": (SCENES, COCO_MINI, TASK_LOW_LR),
    "paper": (PAPER,),
}


def _beside(study: Study) -> tuple[Recipe, ...]:
    """The runs of the chapter on object regions that others compare with: MSE, its own loss, classical codecs, no compression."""
    return tuple(
        r
        for r in study.recipes()
        if r.method == "classical" or (r.method == "trained" and r.loss in ("mse", "object-region"))
    )


# Steps, batch, crops and start are those of the runs beside. The learning rate is the paper's, a fifth of theirs, which would
# change them little (the chapter on SA-ICM asks). The scales are what `run.scale` finds: they make each distortion
# equal that of MSE, in the mean over 200 training crops, on the codec that all runs start from.
DISTILL_SCENES = replace(
    SCENES,
    chapter="objectness_distillation",
    scales=(("distill", 180.0), ("distill-boxes", 580.0), ("distill-objectness", 5100.0)),
    seeds=(0, 1, 2),
    seed_lmbdas=(0.001, 0.004),
    lr=1e-4,
    anchors=(),
    teacher="mask-rcnn-small",
    task_weight=0.0,
    finetune="none",
    finetune_steps=0,
    spent=True,
    beside=_beside(SCENES),
    hours=1.2,
)

# A Faster R-CNN as the teacher, as the paper has for boxes, and our Mask R-CNN as the stranger; the runs beside are judged by both.
DISTILL_FASTER = replace(
    DISTILL_SCENES,
    scales=(("distill", 220.0), ("distill-boxes", 690.0), ("distill-objectness", 6300.0)),
    detectors=("faster-rcnn-small", "mask-rcnn-small"),
    teacher="faster-rcnn-small",
    spent=False,
    beside=_beside(
        replace(
            SCENES,
            seeds=(0,),
            detectors=("faster-rcnn-small", "mask-rcnn-small"),
            finetune="none",
            finetune_steps=0,
            anchors=(("hevc", (42, 37, 32)),),
        )
    ),
    hours=1.8,
)

# The same grid at the learning rate of the runs beside: better for equal weights and true boxes, worse for objectness. A study for
# each of the losses, since no claim is tested on them.
DISTILL_HIGH_LR = tuple(
    replace(DISTILL_SCENES, scales=(loss,), lr=SCENES.lr, spent=False, beside=(), hours=0.4)
    for loss in DISTILL_SCENES.scales
)

# One change each, against objectness of DISTILL_HIGH_LR, at two lambdas, then some at the paper's learning rate. Scales as above.
ABLATIONS = tuple(
    replace(
        DISTILL_HIGH_LR[-1],
        lmbdas=DISTILL_SCENES.seed_lmbdas,
        seeds=(0,),
        seed_lmbdas=(),
        scales=(("distill-objectness", scale),),
        hours=0.12,
        **change,
    )
    for scale, change in (
        (5600.0, {"temperature": 0.5}),
        (3600.0, {"temperature": 2.0}),
        (6100.0, {"levels": "p2"}),
        (13000.0, {"levels": "p5"}),
        (7900.0, {"reduction": "mean"}),
        (5500.0, {"objectness": "decoded"}),
    )
)
ABLATIONS += tuple(replace(study, lr=DISTILL_SCENES.lr) for study in ABLATIONS[:3])

# Features of YOLOv5n in crops of photographs give a noisy gradient: at the learning rate of the runs beside the loss grows. This
# one was chosen by the training loss of equal weights and of objectness, before anything was judged; with it rates move less far.
DISTILL_COCO_MINI = replace(
    COCO_MINI,
    chapter="objectness_distillation",
    scales=(("distill", 150.0), ("distill-boxes", 240.0), ("distill-objectness", 2500.0)),
    lmbdas=(0.001, 0.002, 0.005, 0.01),
    lr=5e-5,
    anchors=(),
    teacher="yolov5n",
    spent=True,
    refine_lmbdas=(),
    refine_steps=0,
    beside=_beside(COCO_MINI),
    hours=2.5,
)

# MSE at that learning rate, or nobody could tell the loss from its pace.
COCO_MINI_MSE_LOW_LR = replace(
    DISTILL_COCO_MINI, scales=(("mse", 1.0),), lmbdas=(0.002, 0.005), spent=False, beside=(), hours=0.2
)

# The loss microscope: latents of the common start, refined picture by picture, judged by the teacher and by a stranger.
MICROSCOPE = replace(
    DISTILL_COCO_MINI,
    lmbdas=(),
    spent=False,
    refine_scales=(("mse", 1.0), *DISTILL_COCO_MINI.scales),
    refine_judges=2,
    refine_lmbdas=(0.002, 0.005, 0.01, 0.02),
    refine_steps=15,
    refine_precision="bf16-mixed",
    beside=(),
    hours=1.0,
)

# The paper's codec in this pipeline: from random weights, as the published ones ask for a network, and so far too short to judge.
DISTILL_CHENG = replace(
    DISTILL_SCENES,
    codec="cheng2020-attn-q1",
    images=30,
    start="none",
    scales=(("mse", 1.0), ("distill-objectness", 5100.0)),
    lmbdas=(0.008,),
    seeds=(0,),
    seed_lmbdas=(),
    steps=400,
    spent=False,
    beside=(),
    hours=0.4,
)

# The paper: cheng2020-attn as CompressAI publishes it, 50 epochs of COCO 2017, Adam at 1e-4, from the 40th epoch at a tenth of it
# (as train.Schedule does after 80 % of the steps), and for each task one detector, which is teacher and judge. It gives neither
# batch nor crop nor lambdas, nor which of the six published codecs: 16 crops of 256 pixels from the fourth are ours.
DISTILL_PAPER = tuple(
    replace(
        PAPER,
        chapter="objectness_distillation",
        codec="cheng2020-attn-q4",
        start="published@f7b0ccf2",
        scales=(("mse", 1.0), ("distill", 0.0), ("distill-boxes", 0.0), ("distill-objectness", 0.0)),
        steps=50 * 118_287 // 16,
        batch=16,
        patch=256,
        lr=1e-4,
        precision="32-true",
        detectors=(detector, "yolov5n"),
        teacher=detector,
        task_weight=0.0,
        hours=1500.0,
    )
    for detector in ("faster-rcnn-d2", "mask-rcnn-d2")
)

DISTILL_SMOKE = replace(
    SMOKE,
    chapter="objectness_distillation",
    scales=(("mse", 1.0), *DISTILL_SCENES.scales),
    anchors=(("jpeg", (20, 60)),),
    task_weight=0.0,
    finetune="none",
    finetune_steps=0,
    spent=True,
    refine_scales=(("mse", 1.0), *DISTILL_SCENES.scales),
    refine_lmbdas=(0.002, 0.008),
    refine_steps=2,
)

OBJECTNESS_DISTILLATION: dict[str, tuple[Study, ...]] = {
    "smoke": (DISTILL_SMOKE,),
    "book": (
        *(DISTILL_SCENES, DISTILL_FASTER, DISTILL_COCO_MINI, MICROSCOPE),
        *(*DISTILL_HIGH_LR, COCO_MINI_MSE_LOW_LR, *ABLATIONS, DISTILL_CHENG),
    ),
    "paper": DISTILL_PAPER,
}

# One scale for all alphas, or they would not share a lambda, which is what the paper changes them at. It is the one of the middle.
SA_SCENES = replace(
    SCENES,
    chapter="sa_icm",
    scales=(("mse", 1.0), ("object-region", 5.0), ("sa-icm", 10.0)),
    edges="nano-sam",
    alphas=(0.98, 0.93, 0.48),
    seeds=(0,),
    detectors=("mask-rcnn-small", "yolov5n-scenes", "panoptic-deeplab-scenes"),
    teacher="none",
    task_weight=0.0,
    probed=("mse", "object-region", "sa-icm", "hevc", "png"),
    hours=3.5,
)

# What the paper leaves open, a change each, at two lambdas and the middle alpha; and in the place of SAM's edges the true ones, or
# something as thin beside them.
SA_ABLATIONS = tuple(
    replace(
        SA_SCENES,
        scales=((loss, scale),),
        alphas=(0.93,),
        lmbdas=(0.002, 0.008),
        finetune="none",
        finetune_steps=0,
        anchors=(),
        probed=(),
        hours=0.15,
        **change,
    )
    for loss, scale, change in (
        ("true-edges", 8.0, {}),
        ("sa-icm", 3.5, {"dilate": 1}),
        ("sa-icm", 10.0, {"drawing": "smallest-first"}),
        ("sa-icm", 10.0, {"canny_low": 100.0, "canny_high": 200.0}),
        ("sa-icm", 18.0, {"shift": 8}),
        ("sa-icm", 25.0, {"shift": 96}),
    )
)

# And the learning rate: is it too high for a distortion that counts on few pixels? A fifth of it, for three losses.
SA_LOW_LR = tuple(
    replace(SA_ABLATIONS[0], scales=(loss,), lr=1e-4)
    for loss in (("mse", 1.0), ("object-region", 5.0), ("sa-icm", 10.0))
)

# Two more trainings of each, a study each, since every model judges a study's first seed: would the same claims be decided?
SA_SEEDS = tuple(
    replace(
        SA_SCENES,
        alphas=(0.93,),
        seeds=(seed,),
        again=True,
        finetune="none",
        finetune_steps=0,
        anchors=(),
        probed=(),
        hours=0.8,
    )
    for seed in (1, 2)
)

# Photographs: Segment Anything's weights cannot be shipped, and COCO annotates things and stuff of a hundred of these pictures.
SA_COCO_MINI = replace(
    COCO_MINI,
    chapter="sa_icm",
    scales=(("true-edges", 18.0),),
    train_images=100,
    anchors=(),
    teacher="none",
    task_weight=0.0,
    refine_lmbdas=(),
    refine_steps=0,
    beside=_beside(COCO_MINI),
    hours=0.7,
)

# The same with Segment Anything itself, which needs no annotation, for those who have its weights.
SA_COCO_SAM = replace(
    SA_COCO_MINI,
    scales=(("sa-icm", 18.0),),
    train_images=COCO_MINI.train_images,
    edges="sam-vit-b",
    alphas=(0.98, 0.93, 0.48),
    hours=2.0,
)

# The paper's codec in this pipeline, from random weights and far too short to judge.
SA_TCM = replace(
    SA_SCENES,
    codec="tcm",
    images=10,
    start="none",
    scales=(("sa-icm", 10.0),),
    alphas=(0.93,),
    lmbdas=(0.008,),
    steps=100,
    batch=1,
    lr=1e-4,
    detectors=("mask-rcnn-small",),
    finetune="none",
    finetune_steps=0,
    anchors=(),
    probed=(),
    hours=0.5,
)

# The paper: one lambda, .05, three alphas, LIC-TCM, COCO. It states neither steps, batch and learning rate nor SAM's backbone.
SA_PAPER = replace(
    PAPER,
    chapter="sa_icm",
    codec="tcm",
    scales=(("mse", 0.2), ("object-region", 1.0), ("sa-icm", 1.0)),
    lmbdas=(0.02, 0.03, 0.05),
    edges="sam-vit-h",
    alphas=(0.98, 0.93, 0.48),
    teacher="none",
    task_weight=0.0,
    hours=4000.0,
)

SA_SMOKE = replace(
    SMOKE,
    chapter="sa_icm",
    scales=(("mse", 1.0), ("object-region", 5.0), ("sa-icm", 10.0), ("true-edges", 8.0)),
    anchors=(("jpeg", (20, 60)),),
    edges="nano-sam",
    alphas=(0.98, 0.93, 0.48),
    detectors=("mask-rcnn-small",),
    teacher="none",
    task_weight=0.0,
    finetune="none",
    finetune_steps=0,
)

SA_ICM: dict[str, tuple[Study, ...]] = {
    "smoke": (SA_SMOKE,),
    "book": (SA_SCENES, SA_COCO_MINI, *SA_SEEDS, *SA_ABLATIONS, *SA_LOW_LR, SA_TCM),
    "pending": (SA_COCO_SAM,),
    "paper": (SA_PAPER,),
}


# --- videos --------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class VideoStudy:
    """Some videos' part of a chapter: networks of several sizes trained to each clip with each loss, HEVC and VVC, and what judges.

    A network's file is its clip; what a NeRV is trained with decides its rate only a little, so that the ladder is one of sizes.
    """

    chapter: str
    data: str  # scenes-video | davis | sfu
    clips: tuple[str, ...]  # seeds of moving scenes; clips of DAVIS 2016, at half size; or sequences of SFU-HW-Objects
    frames: int  # the first so many of each
    size: int  # side of scenes in pixels; 0: the clip's own
    networks: tuple[str, ...]  # names in nerv.SIZES
    losses: tuple[str, ...]  # nerv | sa-nerv | sa-nerv-truth
    seeds: tuple[int, ...]
    epochs: int
    tune_epochs: int  # after pruning
    density: float  # of the weights, after pruning
    bits: int  # of a weight
    batch: int  # frames
    lr: float
    precision: str
    detectors: tuple[str, ...]
    anchors: tuple[tuple[str, tuple[int, ...]], ...]  # hevc-inter, vvc-inter: QPs
    beta: float = 0.7  # of L1; the rest of SSIM
    mask_weight: float = 1.0  # of the masked frames' loss
    edges: str = "nano-sam"  # whose masks the loss sa-nerv takes edges of
    alpha: float = 0.93  # how sure it must be
    ledger: bool = True  # False: measured on the spot and written nowhere
    hours: float = 0.0  # estimated cost, on the hardware the preset is meant for
    again: ClassVar[bool] = False

    def recipes(self) -> list[Recipe]:
        """Every run of the study: networks, anchors, and with these the uncompressed clips.

        Raises:
            ValueError: a detector or a segmenter is unknown.
        """
        base = Recipe(
            chapter=self.chapter,
            data=self.data,
            images=self.frames,
            size=self.size,
            codec="png",
            method="classical",
            detectors=tuple(map(fingerprinted, self.detectors)),
        )
        trained = replace(
            base,
            method="trained",
            steps=self.epochs * self.frames // self.batch,
            batch=self.batch,
            lr=self.lr,
            precision=self.precision,
            train_images=self.frames,
            beta=self.beta,
            density=self.density,
            tune_steps=self.tune_epochs * self.frames // self.batch,
            bits=self.bits,
        )
        networks = [
            replace(
                trained,
                clip=clip,
                codec=f"nerv-{network}",
                lmbda=float(nerv.SIZES[network]["fc_hw_dim"][2]),
                loss=loss,
                seed=seed,
                **self._masked(loss),
            )
            for clip in self.clips
            for network in self.networks
            for loss in self.losses
            for seed in self.seeds
        ]
        anchors = [
            replace(base, clip=clip, codec=name, lmbda=float(qp))
            for clip in self.clips
            for name, qps in self.anchors
            for qp in qps
        ]
        uncompressed = [replace(base, clip=clip) for clip in self.clips if anchors]
        return [*networks, *anchors, *uncompressed]

    def _masked(self, loss: str) -> dict[str, Any]:
        """The fields of a recipe that concern edges."""
        if loss == "nerv":
            return {}
        found: dict[str, Any] = {"mask_weight": self.mask_weight}
        return found | ({"edges": fingerprinted(self.edges), "alpha": self.alpha} if loss == "sa-nerv" else {})


# Six moving scenes of five objects or more, from one that hardly moves (0.3 pixels a frame) to one that does (1.8). What was tried
# first, on scene 3000100 alone and with NeRV's loss: 16 frames, network m, 2400 steps at a rate of 5e-4 gave 25.7 dB, at 2e-3 28.4;
# 900 steps at 5e-3 27.8, in a third of the time, and there detectors lost nothing (AP .66, .65 uncompressed). 12 frames, 600 steps:
# xs 23.9 dB and AP .57, m 27.2 dB and .65, of .67 uncompressed, in about 20 s on one core. So the ladder is xs, s, m.
VIDEOS = VideoStudy(
    chapter="sa_nerv",
    data="scenes-video",
    clips=("3000006", "3000021", "3000009", "3000016", "3000002", "3000023"),
    frames=12,
    size=192,
    networks=("scenes-xs", "scenes-s", "scenes-m"),
    losses=("nerv", "sa-nerv"),
    seeds=(0, 1),
    epochs=50,
    tune_epochs=8,
    density=0.6,
    bits=6,
    batch=1,
    lr=5e-3,
    precision="32-true",
    detectors=("mask-rcnn-small", "yolov5n-scenes"),
    anchors=(("hevc-inter", (48, 43, 38)), ("vvc-inter", (50, 45, 40))),  # of PSNR like the networks'
    hours=0.8,
)

# What a perfect segmenter of objects would bring: half of the clips, slow, middle and fast, one seed.
VIDEOS_TRUTH = replace(
    VIDEOS,
    clips=("3000006", "3000016", "3000023"),
    losses=("nerv", "sa-nerv-truth"),
    seeds=(0,),
    anchors=(),
    hours=0.2,
)

# One change each, on one clip and one size.
_VIDEO_ABLATION = replace(
    VIDEOS_TRUTH, clips=("3000016",), networks=("scenes-s",), losses=("nerv",), anchors=(), hours=0.01
)
VIDEO_ABLATIONS = (
    replace(_VIDEO_ABLATION, beta=1.0),
    replace(_VIDEO_ABLATION, beta=0.3),
    replace(_VIDEO_ABLATION, losses=("sa-nerv-truth",), mask_weight=4.0),
    replace(_VIDEO_ABLATION, losses=("sa-nerv-truth",), mask_weight=16.0),
    replace(_VIDEO_ABLATION, losses=("sa-nerv",), alpha=0.98),
    replace(_VIDEO_ABLATION, losses=("sa-nerv",), alpha=0.48),
)

# Real videos at half their size, with a real detector; every frame shows one dog, or one car. Their masks, one object a frame, are
# the true outlines; nano SAM, which has seen nothing but scenes, is out of its depth here, and is tried all the same.
VIDEOS_DAVIS = replace(
    VIDEOS,
    data="davis",
    clips=("dog", "car-shadow"),
    frames=24,
    size=0,
    networks=("davis-half-s", "davis-half-m"),
    losses=("nerv", "sa-nerv", "sa-nerv-truth"),
    seeds=(0,),
    detectors=("yolov5n",),
    hours=0.5,
)

# The paper states the sequences and YOLOv7; beta, 300 epochs, 50 after pruning, and 8 bits are NeRV's own. It states neither the
# network's size, nor the rate, nor which Segment Anything and alpha: these are ours, as YOLOv5n is, and 65 frames, which all have.
_SFU = replace(
    VIDEOS,
    data="sfu",
    frames=65,
    size=0,
    epochs=300,
    tune_epochs=50,
    bits=8,
    lr=5e-4,
    seeds=(0,),
    detectors=("yolov5n",),
    edges="sam-vit-h",
    anchors=(("hevc-inter", (37, 32, 27)), ("vvc-inter", (42, 37, 32))),
    hours=10.0,
)
VIDEOS_PAPER = (
    replace(
        _SFU,
        clips=("BQMall_832x480_60", "BasketballDrill_832x480_50", "PartyScene_832x480_50", "RaceHorses_832x480_30"),
        networks=("sfu-c-s", "sfu-c"),
    ),
    replace(
        _SFU,
        clips=(
            "BQSquare_416x240_60",
            "BasketballPass_416x240_50",
            "BlowingBubbles_416x240_50",
            "RaceHorses_416x240_30",
        ),
        networks=("sfu-d-s", "sfu-d"),
        hours=4.0,
    ),
)

SA_NERV: dict[str, tuple[VideoStudy, ...]] = {
    "smoke": (
        replace(
            VIDEOS,
            clips=("3000016",),
            frames=2,
            size=64,
            losses=("nerv", "sa-nerv", "sa-nerv-truth"),
            seeds=(0,),
            epochs=2,
            tune_epochs=1,
            anchors=(("hevc-inter", (40, 30)),),
            ledger=False,
            hours=0.01,
        ),
    ),
    "book": (VIDEOS, VIDEOS_TRUTH, VIDEOS_DAVIS, *VIDEO_ABLATIONS),
    "paper": VIDEOS_PAPER,
}

CHAPTERS: dict[str, dict[str, tuple[Study, ...] | tuple[VideoStudy, ...]]] = {
    "object_region_mse": OBJECT_REGION_MSE,
    "objectness_distillation": OBJECTNESS_DISTILLATION,
    "sa_icm": SA_ICM,
    "sa_nerv": SA_NERV,
}


def studies(chapter: str, preset: str = "book", **overrides: Any) -> tuple[Study, ...] | tuple[VideoStudy, ...]:
    """The studies of a chapter under a preset, with fields overridden.

    Raises:
        ValueError: unknown chapter or preset, or an override that names no field or has another type than the preset's value.

    >>> [s.data for s in studies("object_region_mse", "paper")]
    ['coco2017']
    >>> studies("object_region_mse", "smoke", steps=1.5)
    Traceback (most recent call last):
    ...
    ValueError: steps must be of type int, as the preset's 3 is, not float (1.5)
    """
    if chapter not in CHAPTERS:
        raise ValueError(f"no chapter is called {chapter!r}; there is {', '.join(CHAPTERS)}")
    if preset not in CHAPTERS[chapter]:
        raise ValueError(f"a preset of {chapter} is one of {', '.join(CHAPTERS[chapter])}, not {preset!r}")
    found = CHAPTERS[chapter][preset]
    names = [f.name for f in fields(found[0])] if found else []
    for name, value in overrides.items():
        if name not in names:
            raise ValueError(f"a study has no field {name!r}; it has {', '.join(names)}")
        default = getattr(found[0], name)
        if type(value) is not type(default):
            raise ValueError(
                f"{name} must be of type {type(default).__name__}, as the preset's {default!r} is, "
                f"not {type(value).__name__} ({value!r})"
            )
    return tuple(replace(study, **overrides) for study in found)
