"""Every method on one footing, with the two baselines that the papers compare with: regions of interest, omnipotent features."""

from __future__ import annotations

from dataclasses import replace

from icm_helpers.chapters import object_region_mse, objectness_distillation, sa_icm
from icm_helpers.chapters.object_region_mse import COCO_MINI, SCENES, beside, judges
from icm_helpers.ledger.chapter import Advice, Chapter, Claim, Short
from icm_helpers.ledger.recipe import Recipe
from icm_helpers.ledger.study import Study, runs_of
from icm_helpers.objectives import MSE, ObjectRegion, Omnipotent, Regional
from icm_helpers.tasks.models import fingerprinted

NAME = "compare"
JUDGES = ("mask-rcnn-small", "yolov5n-scenes", "panoptic-deeplab-scenes")
FINDER, PHOTO_FINDER = fingerprinted("yolov5n-scenes"), fingerprinted("yolov5n")


def told_by(study: Study, finder: str) -> tuple[Recipe, ...]:
    """The runs of a study whose encoders are told a region of interest, by this finder."""
    return tuple(r for r in replace(study, roi=finder).recipes() if getattr(r.codec, "roi", "none") == finder)


def distilled(*studies: Study) -> tuple[Recipe, ...]:
    """The codecs of studies that learned by distillation, and what judges them."""
    return tuple(r for r in runs_of(*studies) if r.kind == "trained" and "distill" in r.method)


# fmt: off
# In what follows, fields that belong together share a line.

# The settings were chosen for rates that overlap with the codec's own, before anything was judged. Of `hevc-roi` the QP is that of
# the background.
HEVC_ROI = (("hevc", (42, 37, 32)), ("hevc-roi", (50, 44, 38)))
LOW_PASSED = (
    ("avif-lowpass", (15, 35, 60)), ("hevc-lowpass", (40, 33, 26)), ("jpeg-lowpass", (10, 25, 50)),
    ("vvc-lowpass", (45, 39, 33)))

# Steps, batch, crops, start and learning rate are those of the runs beside, and so are the judges of most.
FEATURES = replace(
    SCENES, chapter=NAME, name="omnipotent features", measured=replace(judges(*JUDGES), divided=FINDER), roi=FINDER,
    losses=((Omnipotent(fingerprinted("contrastive-scenes")), 2400.0),), seeds=(0,), anchors=(*HEVC_ROI, *LOW_PASSED))

# Learned, at two lambdas and two weights of the background; the scales are what `run.scale` finds.
LEARNED = replace(
    FEATURES, name="learned ROI", codec="mean-scale-roi", losses=((Regional(0.1), 2.0), (Regional(0.01), 2.3)),
    lmbdas=(0.001, 0.004), anchors=())

# The bound: the encoder is told the true masks.
LEARNED_BOUND = replace(LEARNED, name="learned ROI, true masks", roi="truth")
BOUND = (*told_by(replace(FEATURES, anchors=HEVC_ROI), "truth"), *LEARNED_BOUND.recipes())
SEEDS = tuple(
    replace(study, name=f"{study.name}, seed {seed}", lmbdas=(0.001, 0.004), seeds=(seed,), anchors=())
    for study in (LEARNED, FEATURES) for seed in (1, 2))

# Feng et al. fine-tune each task's network on their features: what comes nearest is a detector fine-tuned on decoded pictures.
FEATURES_TUNED = replace(
    FEATURES, name="omnipotent features, fine-tuned", lmbdas=(0.001, 0.004), anchors=(),
    measured=replace(judges(*JUDGES, finetuned=("yolov5n-scenes",), finetune_steps=150), divided=FINDER))

# The papers' own codecs, and what they compare with, as their chapters trained and judged them.
PAPERS = (
    *(r for r in sa_icm.SA_MAIN.recipes() if r.kind in ("trained", "classical") and r.method != "hevc"),
    *(r for r in object_region_mse.MAIN.recipes() if r.loss and r.loss.name == "task"),
    *distilled(objectness_distillation.DISTILL_SCENES, *objectness_distillation.DISTILL_SEEDS))
MAIN = replace(FEATURES, name="scenes", beside=(*runs_of(LEARNED, *SEEDS, FEATURES_TUNED), *BOUND, *PAPERS))

# Photographs: the losses as their chapters trained and judged them; then, on fewer of them, regions for the standards, beside MSE.
PHOTOS = replace(
    object_region_mse.PHOTOS, chapter=NAME, losses=(), lmbdas=(), anchors=(),
    beside=(
        *runs_of(sa_icm.SA_PHOTOS_MAIN, *object_region_mse.PHOTO_TASK),
        *distilled(objectness_distillation.DISTILL_PHOTOS)))
REGIONS = replace(
    COCO_MINI, chapter=NAME, losses=(), lmbdas=(), microscope=None, roi=PHOTO_FINDER, anchors=FEATURES.anchors,
    measured=replace(COCO_MINI.measured, divided=PHOTO_FINDER), beside=beside(replace(COCO_MINI, losses=COCO_MINI.losses[:1])))

# What scenes taught, on photographs: two more trainings, at two lambdas. The size is that of the scenes that they learned from.
ELSEWHERE = "codecs of scenes, on photographs"
STRANGE = replace(
    COCO_MINI, chapter=NAME, name=ELSEWHERE, losses=(), lmbdas=(), microscope=None, anchors=(),
    pictures=replace(COCO_MINI.pictures, size=SCENES.pictures.size),
    beside=tuple(
        replace(
            r, chapter=NAME, pictures=replace(COCO_MINI.pictures, size=r.pictures.size), measured=COCO_MINI.measured,
            codec=replace(r.codec, training=replace(r.codec.training, train_data=r.pictures.data)))
        for r in runs_of(*object_region_mse.SEEDS)))

# The papers' data. Li et al. train Swin transformers, Feng et al. a ResNet-50 without labels: see the gaps.
PAPER = replace(
    object_region_mse.PAPER, chapter=NAME, codec="mean-scale-roi", losses=((Regional(0.1), 1.0), (Regional(0.01), 1.0)),
    ladders=(), anchors=(*HEVC_ROI[::-1], *LOW_PASSED), roi=fingerprinted(object_region_mse.YOLO),
    measured=judges(object_region_mse.YOLO, "mask-rcnn-r50"))
GAPS = (
    "Li et al.'s codec of Swin transformers is not here: a small convolutional one replaces it",
    "no backbone of preset `paper` is trained without labels, so that omnipotent features are measured only on scenes",
    "Feng et al. code features and fine-tune each task's network on them; here pictures are coded, and models stay as they are",
)

SMOKE = replace(
    object_region_mse.SMOKE, chapter=NAME, losses=((MSE(), 1.0), (ObjectRegion(), 5.0)), roi="truth",
    measured=judges("mask-rcnn-small"), anchors=(("hevc", (40, 30)), ("hevc-roi", (45, 35))))
SMOKE_ROI = replace(SMOKE, name="smoke, learned ROI", codec="mean-scale-roi", losses=((Regional(0.1), 4.0),), anchors=())

_STATED = "on 2026-11-28, before any run"
_OURS = "our own question, which the papers do not ask"
_ROI = Claim(
    id="compare/1a", stated=_STATED, where="Li et al., ICASSP 2023, abstract",
    quote="When tested on models pre-trained with original images, it has superior object detection and instance segmentation "
    "performance",
    test="learned ROI (the background weighs .1), told by the encoder's own detector, against MSE: BD-rate below zero",
    sign=-1, measure="bd_rate", metrics=("box_ap", "mask_ap"), anchor="mse", method="roi-0.1")
_ADDROI = Claim(
    id="compare/2a", stated=_STATED, where=_OURS,
    quote="An HEVC encoder that spends its bits where a detector finds something needs fewer of them.",
    test="HEVC with a region of interest (QP 10 lower inside the boxes of YOLOv5n) against HEVC: BD-rate below zero",
    sign=-1, measure="bd_rate", metrics=("box_ap", "mask_ap"), anchor="hevc", method="hevc-roi")
_OMNIPOTENT = Claim(
    id="compare/4a", stated=_STATED, where="Feng et al., ECCV 2022, abstract", universal=True,
    quote="Omni-ICM significantly outperforms existing traditional and learning-based codecs on multiple fundamental vision tasks",
    test="omnipotent features against MSE, by every model and every measure of it as it is: BD-rate below zero",
    sign=-1, measure="bd_rate", metrics=("box_ap", "mask_ap", "pq"), anchor="mse", method="omnipotent")
_ORDER = Claim(
    id="compare/5a", where=_OURS, stated="on 2026-11-28, when its records were known",
    quote="Edges are worth more than the detector's own loss.",
    test="SA-ICM (alpha .93) against the task loss, by every model that judged both: BD-rate below zero",
    sign=-1, measure="bd_rate", metrics=("box_ap", "mask_ap"), anchor="task", method=sa_icm.NANO.method)

_ROBUST = Claim(
    id="", quote="", test="", stated="on 2026-11-28, when the curves of each paper were known, and these intervals were not",
    where=_OURS, sign=-1, measure="bd_rate", metrics=("box_ap", "mask_ap", "pq"), anchor="mse", method="object-region",
    universal=True)

CLAIMS = (
    _ROI,
    replace(
        _ROI, id="compare/1b", anchor="object-region", where=_OURS, quote="To tell the encoder where objects are is better than to "
        "let it learn that.", test="learned ROI (.1), told by the detector, against object region: BD-rate below zero"),
    replace(
        _ROI, id="compare/1c", quote="our model achieves higher ROI PSNR than other methods", sign=+1, measure="bd_metric",
        metrics=("psnr_inside",), test="learned ROI (.1), told by the detector, against MSE: at equal rate, PSNR inside "
        "objects higher"),
    replace(
        _ROI, id="compare/1d", anchor="roi-0.1", method="roi-0.1-truth", where=_OURS, quote="The true masks are a better region "
        "than the encoder's own detector finds.", test="learned ROI (.1), told the true masks, against told by the detector: "
        "BD-rate below zero"),
    _ADDROI,
    replace(
        _ADDROI, id="compare/2b", anchor="hevc-roi-truth", metrics=("missed_ap",), measure="bd_metric",
        quote="What the encoder's detector misses, its user misses too.",
        test="HEVC told by the detector, against HEVC told the true masks: at equal rate, AP of the objects that the detector "
        "misses in uncompressed pictures lower"),
    replace(
        _ADDROI, id="compare/2c", metrics=("missed_ap",), measure="bd_metric",
        quote="An object that the encoder's detector misses is worse off than without a region of interest.",
        test="HEVC told by the detector, against HEVC: at equal rate, AP of the objects that the detector misses in "
        "uncompressed pictures lower"),
    *(
        replace(
            _ADDROI, id=f"compare/3{letter}", anchor=name, method=f"{name}-lowpass", metrics=("box_ap",),
            quote=f"{label} needs fewer bits for a background without details.",
            test=f"{label} of pictures that are low-passed outside the boxes of YOLOv5n, against {label}: BD-rate below zero")
        for letter, name, label in (("a", "hevc", "HEVC"), ("b", "vvc", "VVC"), ("c", "avif", "AVIF"), ("d", "jpeg", "JPEG"))),
    _OMNIPOTENT,
    replace(
        _OMNIPOTENT, id="compare/4b", judged="fine-tuned", metrics=("box_ap",), universal=False,
        stated="on 2026-11-28, before its runs, but when one of claim 4a was known",
        test="the same, by a detector fine-tuned on what each codec decodes: BD-rate below zero"),
    _ORDER,
    replace(
        _ORDER, id="compare/5b", anchor="object-region", method="distill-objectness",
        quote="Features weighted by objectness are worth more than object masks.",
        test="distillation weighted by objectness against object region, by every model that judged both: BD-rate below zero"),
    replace(
        _ROBUST, id="compare/6a", quote="What a detector's own loss teaches is of use to other models.",
        test="task loss against MSE, by box AP of every model but the teacher: BD-rate below zero",
        metrics=("box_ap",), judged="strangers", method="task"),
    replace(
        _ROBUST, id="compare/6b", quote="What a detector's features teach is of use to other models.",
        test="distillation weighted by objectness against MSE, by box AP of every model but the teacher: BD-rate below zero",
        metrics=("box_ap",), judged="strangers", method="distill-objectness"),
    replace(
        _ROBUST, id="compare/7", quote="Object masks serve every task.",
        test="object region against MSE, by box AP, mask AP and PQ of every model: BD-rate below zero"),
    replace(
        _ROBUST, id="compare/8", quote="What object masks taught on scenes holds on photographs.", metrics=("box_ap",),
        test="object region against MSE, both trained on scenes, on photographs by every model: BD-rate below zero",
        study=ELSEWHERE))

IN_SHORT = Short(
    claim=_ADDROI.id,
    idea="Tell the encoder where objects are, and let it spend its bits there: here HEVC, inside the boxes of a detector.",
    against="HEVC without a region of interest",
    caveat="The encoder must run a detector first. On photographs the region's own detector gives the number; by another "
    "it is {compare/2a yolox-nano box_ap coco-mini}. On scenes a model that must name every pixel loses by it. A learned "
    "region, against MSE on scenes: {compare/1a}.",
    advice={"for":
        "If your encoder can afford a detector, a region of interest is the first thing to try: with a standard codec, the decoder "
        "stays as it is."})

_WAIT = "The trainings here do not decide it."
ADVICE = (
    Advice("Can you train the detector further?", "object-region/1c", {
        "for": "Do that first: fine-tune it on thousands of pictures that your codec decodes. It needs no new codec.",
        "against": "Leave it as it is: fine-tuning on decoded pictures costs bits here.",
        "both": "Try it on your data: it helps on scenes, and harms on photographs; we do not know why.",
        "open": f"It is not a sure gain. {_WAIT}"}),
    Advice("Must the detector stay as it is, and do you have object masks?", "object-region/1a", {
        "for": "Train the codec with object-region MSE, which needs no teacher. On photographs, measure first.",
        "against": "Train with plain MSE: object-region MSE costs bits here.",
        "both": "Test object-region MSE with your own detector: it helps some here and harms others.",
        "open": f"Object-region MSE is not a sure gain. {_WAIT}"}),
    Advice("Does that loss still pay once the detector is fine-tuned?", "object-region/1b", {
        "for": "Yes: do both.", "against": "No: then plain MSE is better.", "both": "It depends on the detector.",
        "open": f"Do not count on it. {_WAIT}"}),
    Advice("Do you have the detector itself?", "compare/5b", {
        "for": "Distil its features, weighted by objectness: on scenes that beats object masks. On photographs measure first.",
        "against": "Object masks are enough: features weighted by objectness save less.",
        "both": "By some models features weighted by objectness are better than object masks, by others worse.",
        "open": f"Features weighted by objectness are not a sure gain over object masks. {_WAIT}"}),
    Advice("Do you know the objects in advance?", "sa-icm/1a", {
        "for": "If not, train on edges: SA-ICM needs fewer bits than object masks do, and no labels.",
        "against": "If so, use their masks: SA-ICM's edges of the surer segments (alpha .93) cost more bits by some models. "
        "Otherwise, or to name every pixel, try more edges (alpha .48).",
        "both": "Edges from Segment Anything are better than object masks for some models, and worse for others.",
        "open": f"Edges and object masks cannot be distinguished. {_WAIT}"}),
    Advice("Will models that you do not know yet look at the pictures?", "sa-icm/5", {
        "for": "SA-ICM saves bits by every model here.",
        "against": "Do not use edges then: by at least one model here SA-ICM needs more bits than MSE.",
        "both": "Use HEVC or VVC, or measure first: at alpha .93 SA-ICM is better than MSE by some measures here, and worse by "
        "others; at .48 it saves bits by all models as they are, on scenes.",
        "open": f"SA-ICM is not a sure gain over MSE. {_WAIT}"}),
    Advice("Can the encoder run a detector, and must the decoder be a standard one?", "compare/2a", {
        "for": "Use HEVC with a region of interest, unless a model must name every pixel: nothing changes at the decoder.",
        "against": "Leave HEVC as it is: a region of interest costs bits here.",
        "both": "Test HEVC with a region of interest on your data: here it helps in some cases and harms in others.",
        "open": f"HEVC with a region of interest is not a sure gain. {_WAIT}"}),
    Advice("Can it run a detector, and may the codec be learned?", "compare/1a", {
        "for": "On scenes the learned region saves bits against MSE by boxes and masks, not pixel by pixel; HEVC with a region "
        "saves more.",
        "against": "Do not tell it: the learned region of interest costs bits against MSE.",
        "both": "A learned region of interest saves bits by some measures here, and costs bits by others.",
        "open": f"A learned region of interest is not a sure gain. {_WAIT}"}),
    Advice("Must nothing be missed?", "compare/2c", {
        "for": "Then use no region of interest: objects that the encoder's detector misses suffer.",
        "against": "Then rely on no region yet: no harm is seen, but most tests are open, some at an AP near zero.",
        "both": "Objects that the encoder's detector misses suffer in some cases.",
        "open": f"Be careful with a region of interest: what the encoder's detector misses may suffer. {_WAIT}"}),
    Advice("Do you have neither labels nor a teacher?", "compare/4a", {
        "for": "Train for features that were learned without labels: they save bits by every model here.",
        "against": "Train with MSE: features learned without labels cost bits by at least one model.",
        "both": "Train with MSE: features learned without labels save bits by some models, and cost bits by others.",
        "open": "Train with MSE: our features learned without labels are far behind it."}))

CHAPTER = Chapter(
    NAME, "Compare", CLAIMS, {
        "smoke": (SMOKE, SMOKE_ROI),
        "book": (MAIN, PHOTOS, REGIONS, STRANGE),
        "paper": (PAPER,)}, IN_SHORT, GAPS)
