"""Verdicts follow from intervals, and the ledger holds what a fresh measurement finds."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from icm_helpers import chapters, evaluate, run
from icm_helpers.evaluate import THIRDS
from icm_helpers.intervals import Interval
from icm_helpers.ledger import queries, results, summary, verdicts
from icm_helpers.ledger.chapter import Change
from icm_helpers.ledger.recipe import Accuracy, Classical, Pictures, Recipe, Trained, Training
from icm_helpers.ledger.results import Record
from icm_helpers.ledger.verdicts import describe, overall, verdict
from icm_helpers.objectives import MSE, SAICM, Distill, DistillBoxes, DistillObjectness, ObjectRegion, Task

CHAPTERS = [chapters.named(name) for name in chapters.NAMES]
CLAIMS = {chapter.name: chapter.claims for chapter in CHAPTERS}
BORROWING = "compare"  # whose studies hold records of the other chapters
SCENES, SA_SCENES = (chapters.named(name).studies()[0] for name in ("object_region_mse", "sa_icm"))


@pytest.mark.parametrize(
    ("interval", "sign", "word"),
    [
        (Interval(-17, -24, -9), -1, "reproduced"),
        (Interval(12, 3, 20), -1, "contradicted"),
        (Interval(-3, -13, 8), -1, "not decided"),
        (Interval(-3, -13, 0), -1, "not decided"),
        (Interval(0.8, 0.2, 1.1), +1, "reproduced"),
        (Interval(-0.8, -1.1, -0.2), +1, "contradicted"),
        (Interval(math.nan, math.nan, math.nan, 0.0), -1, "not testable"),
        (Interval(-17, -24, -9, defined=0.6), -1, "not testable"),
        (Interval(-1, -2.9, 2.9), -1, "no difference"),
        (Interval(-2, -2.9, -1), -1, "no difference"),  # sure, and too little to matter
        (Interval(-1, -3.1, 2.9), -1, "not decided"),
    ],
)
def test_the_verdict_follows_from_the_interval(interval, sign, word):
    assert verdict(interval, sign, margin=3.0 if abs(interval.value) >= 1 else 0.1) == word


@pytest.mark.parametrize(
    ("words", "universal", "word"),
    [
        (["reproduced", "reproduced"], False, "reproduced"),
        (["reproduced", "contradicted"], False, "mixed (1 for, 1 against)"),
        (["reproduced", "contradicted"], True, "contradicted"),
        (["reproduced", "not decided"], True, "mixed (1 for, 1 open)"),
        (["not decided", "contradicted", "no difference"], False, "mixed (1 against, 1 no difference, 1 open)"),
        (["not decided", "not testable"], False, "not decided"),
        (["not testable"], False, "not testable"),
        ([], True, "not measured"),
    ],
)
def test_several_findings_make_one_word_or_are_counted(words, universal, word):
    assert overall(words, universal) == word
    assert verdicts.symbol(word).endswith(word) and verdicts.symbol(word) != word


@pytest.fixture(scope="module")
def board() -> dict[str, list[verdicts.Finding]]:
    return verdicts.scoreboard()


def test_a_chapter_that_is_not_measured_leaves_the_others_their_verdicts(board, monkeypatch, caplog):
    study, *_ = chapters.named("sa_icm").studies()
    absent = {recipe.path for recipe in study.recipes()}
    exists = Path.exists
    monkeypatch.setattr(Path, "exists", lambda path: path not in absent and exists(path))
    words = lambda of: {name: [f.verdict for f in found] for name, found in of.items() if name != BORROWING}  # noqa: E731
    assert words(verdicts.scoreboard()) == words(board) | {"sa_icm": []}
    assert "sa_icm is not measured whole" in caplog.text
    records = queries.measured_alike(study.data, 192, results.load(study.recipes()[0].path).result["per_image"]["id"])
    assert any(records) and not any(r.recipe.path in absent for group in records for r in group)


LADDER = ((0.01, 0.1, 0.2), (0.02, 0.2, 0.3), (0.04, 0.4, 0.4))  # lambda, bpp, AP
TRAINING = Training("none", 1, 1, 64, 1e-4, "none", "32-true", 1)


def record(loss, lmbda: float, bpp: float, seed: int = 0, **aps: float) -> Record:
    """A record of one codec whose replicates all equal its value, with the box AP of each detector, on all thirds alike."""
    codec = Trained("small", loss, lmbda, TRAINING, seed=seed)
    recipe = Recipe("chapter", Pictures("scenes", 4, 64), codec, Accuracy(tuple(aps)))
    measured = {"bpp": bpp, "box_ap": aps}
    spread = {"bpp": [bpp] * 3, "box_ap": {name: [ap] * 3 for name, ap in aps.items()}}
    return Record(recipe, *({**v, "by_cover": dict.fromkeys(THIRDS, v)} for v in (measured, spread)), {})


def values(chapter: str, records: list[Record]) -> dict[tuple[str, str], float]:
    return {(f.claim.id, f.judge): f.interval.value for f in verdicts.findings(CLAIMS[chapter], "scenes", records)}


def test_claims_about_fine_tuning_compare_the_right_curves():
    records = [
        record(loss, lmbda, bpp * rate, judge=ap, **{"judge-finetuned": ap if loss == MSE() else ap + 0.05})
        for loss, rate in ((MSE(), 1.0), (ObjectRegion(), 0.5), (Task("teacher"), 2.0))
        for lmbda, bpp, ap in LADDER
    ]
    found = values("object_region_mse", records)
    assert found["object-region/1a", "judge"] == pytest.approx(-50)
    assert found["object-region/3", "judge"] == pytest.approx(-75)
    assert found["object-region/4", "judge"] == pytest.approx(0)
    # Half the rate, and .05 AP more than that: fine-tuning adds to the loss, and alone it is the gain of the same curve.
    assert found["object-region/1b", "judge-finetuned"] < -60
    assert -50 < found["object-region/1c", "judge-finetuned"] < -20
    assert not {("object-region/1a", "judge-finetuned"), ("object-region/1b", "judge")} & found.keys()


def test_a_detector_that_was_fine_tuned_in_another_way_is_another_judge():
    def fine_tuned(lr: float, worse: float) -> list[Record]:
        made = [
            record(loss, lmbda, bpp * rate, **{"judge-finetuned": ap - worse})
            for loss, rate in ((MSE(), 1.0), (ObjectRegion(), 0.5))
            for lmbda, bpp, ap in LADDER[worse == 0 :]
        ]
        return [replace(r, recipe=replace(r.recipe, measured=Accuracy((), ("judge",), 75, 16, lr))) for r in made]

    first, anew = fine_tuned(3e-4, 0.1), fine_tuned(3e-5, 0.0)  # the first at one more lambda
    for one, other in ((first, anew), (anew, first)):
        both, last = (queries.curves(some, "box_ap", "judge-finetuned")["mse"] for some in (one + other, other))
        assert both.bpp.tolist() == last.bpp.tolist() and both.metric.tolist() == last.metric.tolist()
        assert [r.result for r in queries.tuned(one + other)] == [r.result for r in queries.tuned(other)]


def test_a_claim_about_teachers_or_strangers_hears_only_these():
    rates = {MSE(): (1.0, 1.0)}
    rates |= {cls("teacher@12345678"): rate for cls, rate in ((Distill, (0.8, 0.9)), (DistillBoxes, (0.5, 0.9)))}
    rates[DistillObjectness("teacher@12345678")] = 0.4, 0.8
    records = [
        record(loss, lmbda, bpp * taught, teacher=ap, stranger=ap * taught / strange)
        for loss, (taught, strange) in rates.items()
        for lmbda, bpp, ap in LADDER
    ]
    found = values("objectness_distillation", records)
    assert found.keys() == {("objectness/1", "teacher"), ("objectness/2", "teacher"), ("objectness/4", "stranger")}
    assert found["objectness/1", "teacher"] == pytest.approx(-50)
    assert found["objectness/2", "teacher"] == pytest.approx(-20)
    assert found["objectness/4", "stranger"] > 0


def test_what_is_probed_is_named_by_its_loss_or_its_codec():
    probed = {recipe.method for recipe in SA_SCENES.recipes() if recipe.kind == "probed"}
    edges = {f"probed-sa-icm-{alpha:g}" for alpha in (0.98, 0.93, 0.48)}
    assert probed == {"probed-mse", "probed-object-region", "probed-hevc", "probed-png", *edges}


def test_alpha_names_the_curve_and_its_rate_is_compared_at_equal_lambdas():
    records = [
        record(SAICM("sam", alpha), lmbda, bpp * rate, judge=0.5)
        for alpha, rate in ((0.98, 1.0), (0.93, 1.5), (0.48, 2.0))
        for lmbda, bpp in ((0.01, 0.1), (0.02, 0.3))
    ]
    assert queries.methods(records).keys() == {"sa-icm-0.98", "sa-icm-0.93", "sa-icm-0.48"}
    (found,) = (f for f in verdicts.findings(CLAIMS["sa_icm"], "scenes", records) if f.claim.id == "sa-icm/3")
    assert found.interval.value == pytest.approx(100)
    assert (
        describe(found)
        == "scenes: +100 % [+100, +100] of the rate, one training, over the pictures alone, **? not decided**"
    )


def compared(*savings: float, data: str = "scenes") -> list[verdicts.Finding]:
    """Findings of the first claim of object region on codecs of so many trainings, each with its saving."""
    records = [
        record(loss, lmbda, bpp * (1 if loss == MSE() else 1 - saving), seed, judge=ap)
        for seed, saving in enumerate(savings)
        for loss in (MSE(), ObjectRegion())
        for lmbda, bpp, ap in LADDER
    ]
    return verdicts.findings(CLAIMS["object_region_mse"][:1], data, records)


def test_a_finding_rests_on_the_mean_of_trainings_and_on_how_much_they_differ():
    (alike,), (apart,) = compared(0.2, 0.2, 0.2), compared(0.1, 0.3)
    assert (alike.verdict, alike.interval.trainings) == ("reproduced", 3)
    assert (apart.interval.value, apart.verdict) == (pytest.approx(-20), "not decided")
    assert apart.interval.spread == pytest.approx(100 * 0.2 / 2**0.5)


def test_one_training_decides_nothing_unless_others_lend_it_their_spread():
    one, several, wild = compared(0.5, data="photos"), compared(0.2, 0.21, 0.22), compared(0.1, 0.3)
    assert one[0].verdict == "not decided" and "one training" in describe(one[0])
    (_, lent), (_, shaken) = (verdicts.lent(some + one) for some in (several, wild))
    assert lent.verdict == "reproduced" and shaken.verdict == "not decided"
    assert lent.interval.spread == several[0].interval.spread
    assert verdicts.lent(several) == several


def test_what_is_corrected_for_many_findings_is_counted_and_shown():
    (sure,), (open_one,) = compared(0.2, 0.21, 0.22), compared(0.1, 0.3)
    told = "Reproduced or contradicted: 1 of 2 findings; with Holm's correction for all that were tested: 1"
    assert verdicts.surviving([sure, open_one]) == f"{told} (1 of 2 of claim 1a on scenes)."
    assert "do not overlap in every training" in describe(
        replace(sure, interval=Interval(0.1, math.nan, math.nan, trainings=3))
    )
    assert verdicts.surviving([open_one]) == "Reproduced or contradicted: none of 1 findings."
    row, other = verdicts.rows(CLAIMS["object_region_mse"][:1], [sure, open_one])
    assert row["p, Holm"] == pytest.approx(2 * sure.interval.p) and other["p, Holm"] == open_one.interval.p


def test_a_text_takes_what_was_measured_by_names():
    told = verdicts.told(CLAIMS["object_region_mse"][:2], compared(0.2, 0.2, 0.2))
    assert told["object-region/1a"] == "reproduced" and told["object-region/1b"] == "not measured"
    assert told["object-region/1a judge box_ap"] == told["object-region/1a judge box_ap scenes"] == "-20 % [-20, -20]"
    assert told["object-region/1a judge box_ap size"] == "20 %"


def test_a_card_says_when_its_test_was_written_and_what_it_said_before_it_was_changed():
    changed = Change(when="2026-01-02, abcdef0", why="the mean of all trainings counts, not the first", seeds=(0,))
    claim = replace(CLAIMS["object_region_mse"][0], stated="on 2026-01-01", changed=changed)
    records = [
        record(loss, lmbda, bpp * (1 - saving * (loss != MSE())), seed, judge=ap)
        for seed, saving in enumerate((0.5, 0.1))
        for loss in (MSE(), ObjectRegion())
        for lmbda, bpp, ap in LADDER
    ]
    told = verdicts.before([claim], [(SCENES, records)])
    card = verdicts.cards([claim], verdicts.findings([claim], "scenes", records), told)
    assert [f.interval.value for f in told] == [pytest.approx(-50)]
    for words in (
        "on 2026-01-01",
        "2026-01-02, abcdef0",
        "the mean of all",
        "- before: scenes, judge box AP: -50 % [",
    ):
        assert words in card


@pytest.mark.parametrize("chapter", CHAPTERS, ids=lambda chapter: chapter.name)
def test_every_claim_has_a_finding_on_every_data_set_of_the_book(chapter, board):
    def drawn(study, metrics):
        """The methods with two points at least; whether objects were missed is not told of all."""
        settings = {}
        for recipe in study.recipes():
            if metrics != ("missed_ap",) or recipe.measured.divided != "none":
                settings.setdefault(recipe.method, set()).add(recipe.setting)
        return {method for method, several in settings.items() if len(several) > 1}

    tested, alone = set(), {c.study for c in chapter.claims}
    for study in (s for s in chapter.studies() if s.role == "main"):
        tuned = {r.method for r in study.recipes() if getattr(r.measured, "finetuned", ())}
        tested |= {
            (study.data, c.id)
            for c in chapter.claims
            if {c.anchor, c.method} <= drawn(study, c.metrics)
            and c.study == (study.name if study.name in alone else "")
            and ("fine-tuned" not in c.judged or {c.anchor, c.method} <= tuned)
            and (c.metrics != ("pq",) or any("panoptic" in judge for judge in study.measured.detectors))
            and (c.metrics != ("miou",) or any("deeplab-v3" in judge for judge in study.measured.detectors))
        }
    assert tested == {(f.data, f.claim.id) for f in board[chapter.name]}


def test_the_scoreboard_is_what_the_ledger_says(board):
    """Golden verdicts: a change here is news, and belongs into the commit's message."""
    golden = {
        ("compare/1a", "scenes", "box_ap", "mask-rcnn-small"): "reproduced",
        ("compare/1a", "scenes", "box_ap", "panoptic-deeplab-scenes"): "reproduced",
        ("compare/1a", "scenes", "box_ap", "yolov5n-scenes"): "reproduced",
        ("compare/1a", "scenes", "mask_ap", "mask-rcnn-small"): "reproduced",
        ("compare/1a", "scenes", "mask_ap", "panoptic-deeplab-scenes"): "reproduced",
        ("compare/1b", "scenes", "box_ap", "mask-rcnn-small"): "reproduced",
        ("compare/1b", "scenes", "box_ap", "panoptic-deeplab-scenes"): "reproduced",
        ("compare/1b", "scenes", "box_ap", "yolov5n-scenes"): "reproduced",
        ("compare/1b", "scenes", "mask_ap", "mask-rcnn-small"): "reproduced",
        ("compare/1b", "scenes", "mask_ap", "panoptic-deeplab-scenes"): "reproduced",
        ("compare/1c", "scenes", "psnr_inside", "none"): "reproduced",
        ("compare/1d", "scenes", "box_ap", "mask-rcnn-small"): "not decided",
        ("compare/1d", "scenes", "box_ap", "panoptic-deeplab-scenes"): "not decided",
        ("compare/1d", "scenes", "box_ap", "yolov5n-scenes"): "not decided",
        ("compare/1d", "scenes", "mask_ap", "mask-rcnn-small"): "not decided",
        ("compare/1d", "scenes", "mask_ap", "panoptic-deeplab-scenes"): "not decided",
        ("compare/2a", "coco-mini", "box_ap", "yolov5n"): "reproduced",
        ("compare/2a", "coco-mini", "box_ap", "yolox-nano"): "not decided",
        ("compare/2a", "scenes", "box_ap", "mask-rcnn-small"): "reproduced",
        ("compare/2a", "scenes", "box_ap", "panoptic-deeplab-scenes"): "reproduced",
        ("compare/2a", "scenes", "box_ap", "yolov5n-scenes"): "reproduced",
        ("compare/2a", "scenes", "mask_ap", "mask-rcnn-small"): "reproduced",
        ("compare/2a", "scenes", "mask_ap", "panoptic-deeplab-scenes"): "reproduced",
        ("compare/2b", "scenes", "missed_ap", "mask-rcnn-small"): "not decided",
        ("compare/2b", "scenes", "missed_ap", "panoptic-deeplab-scenes"): "no difference",
        ("compare/2b", "scenes", "missed_ap", "yolov5n-scenes"): "not decided",
        ("compare/2c", "coco-mini", "missed_ap", "yolov5n"): "not decided",
        ("compare/2c", "coco-mini", "missed_ap", "yolox-nano"): "not decided",
        ("compare/2c", "scenes", "missed_ap", "mask-rcnn-small"): "contradicted",
        ("compare/2c", "scenes", "missed_ap", "panoptic-deeplab-scenes"): "not decided",
        ("compare/2c", "scenes", "missed_ap", "yolov5n-scenes"): "not decided",
        ("compare/3a", "coco-mini", "box_ap", "yolov5n"): "not decided",
        ("compare/3a", "coco-mini", "box_ap", "yolox-nano"): "not decided",
        ("compare/3a", "scenes", "box_ap", "mask-rcnn-small"): "not decided",
        ("compare/3a", "scenes", "box_ap", "panoptic-deeplab-scenes"): "not decided",
        ("compare/3a", "scenes", "box_ap", "yolov5n-scenes"): "not decided",
        ("compare/3b", "coco-mini", "box_ap", "yolov5n"): "reproduced",
        ("compare/3b", "coco-mini", "box_ap", "yolox-nano"): "not decided",
        ("compare/3b", "scenes", "box_ap", "mask-rcnn-small"): "reproduced",
        ("compare/3b", "scenes", "box_ap", "panoptic-deeplab-scenes"): "reproduced",
        ("compare/3b", "scenes", "box_ap", "yolov5n-scenes"): "reproduced",
        ("compare/3c", "coco-mini", "box_ap", "yolov5n"): "not decided",
        ("compare/3c", "coco-mini", "box_ap", "yolox-nano"): "not testable",
        ("compare/3c", "scenes", "box_ap", "mask-rcnn-small"): "not decided",
        ("compare/3c", "scenes", "box_ap", "panoptic-deeplab-scenes"): "not decided",
        ("compare/3c", "scenes", "box_ap", "yolov5n-scenes"): "not decided",
        ("compare/3d", "coco-mini", "box_ap", "yolov5n"): "reproduced",
        ("compare/3d", "coco-mini", "box_ap", "yolox-nano"): "not decided",
        ("compare/3d", "scenes", "box_ap", "mask-rcnn-small"): "not decided",
        ("compare/3d", "scenes", "box_ap", "panoptic-deeplab-scenes"): "not decided",
        ("compare/3d", "scenes", "box_ap", "yolov5n-scenes"): "not decided",
        ("compare/4a", "scenes", "box_ap", "mask-rcnn-small"): "not testable",
        ("compare/4a", "scenes", "box_ap", "panoptic-deeplab-scenes"): "not testable",
        ("compare/4a", "scenes", "box_ap", "yolov5n-scenes"): "not testable",
        ("compare/4a", "scenes", "mask_ap", "mask-rcnn-small"): "not testable",
        ("compare/4a", "scenes", "mask_ap", "panoptic-deeplab-scenes"): "not testable",
        ("compare/4a", "scenes", "pq", "panoptic-deeplab-scenes"): "not testable",
        ("compare/4b", "scenes", "box_ap", "yolov5n-scenes-finetuned"): "not decided",
        ("compare/5a", "scenes", "box_ap", "mask-rcnn-small"): "contradicted",
        ("compare/5a", "scenes", "box_ap", "yolov5n-scenes"): "contradicted",
        ("compare/5a", "scenes", "mask_ap", "mask-rcnn-small"): "contradicted",
        ("compare/5b", "scenes", "box_ap", "mask-rcnn-small"): "reproduced",
        ("compare/5b", "scenes", "box_ap", "yolov5n-scenes"): "reproduced",
        ("compare/5b", "scenes", "mask_ap", "mask-rcnn-small"): "reproduced",
        ("compare/5b", "photos", "box_ap", "yolov5n"): "not testable",
        ("compare/5b", "photos", "box_ap", "yolox-nano"): "not decided",
        ("compare/5b", "photos", "box_ap", "nanodet-m"): "not decided",
        ("compare/5b", "photos", "box_ap", "fastestdet"): "not decided",
        ("compare/6a", "scenes", "box_ap", "yolov5n-scenes"): "reproduced",
        ("compare/6a", "photos", "box_ap", "yolox-nano"): "not decided",
        ("compare/6a", "photos", "box_ap", "nanodet-m"): "not decided",
        ("compare/6a", "photos", "box_ap", "fastestdet"): "not decided",
        ("compare/6b", "scenes", "box_ap", "yolov5n-scenes"): "reproduced",
        ("compare/6b", "photos", "box_ap", "yolox-nano"): "not decided",
        ("compare/6b", "photos", "box_ap", "nanodet-m"): "not decided",
        ("compare/6b", "photos", "box_ap", "fastestdet"): "not decided",
        ("compare/7", "photos", "box_ap", "fastestdet"): "not decided",
        ("compare/7", "photos", "box_ap", "nanodet-m"): "not decided",
        ("compare/7", "photos", "box_ap", "yolov5n"): "not decided",
        ("compare/7", "photos", "box_ap", "yolox-nano"): "not decided",
        ("compare/7", "scenes", "box_ap", "mask-rcnn-small"): "reproduced",
        ("compare/7", "scenes", "box_ap", "panoptic-deeplab-scenes"): "not decided",
        ("compare/7", "scenes", "box_ap", "yolov5n-scenes"): "reproduced",
        ("compare/7", "scenes", "mask_ap", "mask-rcnn-small"): "reproduced",
        ("compare/7", "scenes", "mask_ap", "panoptic-deeplab-scenes"): "reproduced",
        ("compare/7", "scenes", "pq", "panoptic-deeplab-scenes"): "not decided",
        ("compare/8", "coco-mini", "box_ap", "yolov5n"): "not decided",
        ("compare/8", "coco-mini", "box_ap", "yolox-nano"): "not decided",
        ("object-region/1a", "scenes", "box_ap", "mask-rcnn-small"): "reproduced",
        ("object-region/1a", "scenes", "box_ap", "yolov5n-scenes"): "reproduced",
        ("object-region/1a", "scenes", "mask_ap", "mask-rcnn-small"): "reproduced",
        ("object-region/1a", "scenes", "agreement", "mask-rcnn-small"): "reproduced",
        ("object-region/1a", "scenes", "agreement", "yolov5n-scenes"): "reproduced",
        ("object-region/1b", "scenes", "box_ap", "yolov5n-scenes-finetuned"): "not decided",
        ("object-region/1c", "scenes", "box_ap", "yolov5n-scenes-finetuned"): "reproduced",
        ("object-region/2a", "scenes", "psnr_inside", "none"): "reproduced",
        ("object-region/2b", "scenes", "psnr_outside", "none"): "reproduced",
        ("object-region/3", "scenes", "box_ap", "mask-rcnn-small"): "reproduced",
        ("object-region/3", "scenes", "box_ap", "yolov5n-scenes"): "not decided",
        ("object-region/3", "photos", "box_ap", "yolov5n"): "not decided",
        ("object-region/3", "photos", "box_ap", "yolox-nano"): "not decided",
        ("object-region/3", "photos", "box_ap", "nanodet-m"): "not decided",
        ("object-region/3", "photos", "box_ap", "fastestdet"): "not decided",
        ("object-region/4", "scenes", "box_ap", "mask-rcnn-small"): "not decided",
        ("object-region/4", "scenes", "box_ap", "yolov5n-scenes"): "not decided",
        ("object-region/1a", "photos", "box_ap", "fastestdet"): "not decided",
        ("object-region/1a", "photos", "box_ap", "nanodet-m"): "not decided",
        ("object-region/1a", "photos", "box_ap", "yolov5n"): "not decided",
        ("object-region/1a", "photos", "box_ap", "yolox-nano"): "not decided",
        ("object-region/1a", "photos", "agreement", "fastestdet"): "no difference",
        ("object-region/1a", "photos", "agreement", "nanodet-m"): "not decided",
        ("object-region/1a", "photos", "agreement", "yolov5n"): "not decided",
        ("object-region/1a", "photos", "agreement", "yolox-nano"): "not decided",
        ("object-region/1b", "photos", "box_ap", "yolov5n-finetuned"): "not decided",
        ("object-region/1c", "photos", "box_ap", "yolov5n-finetuned"): "contradicted",
        ("object-region/2a", "photos", "psnr_inside", "none"): "no difference",
        ("object-region/2b", "photos", "psnr_outside", "none"): "no difference",
        ("object-region/4", "photos", "box_ap", "fastestdet"): "not decided",
        ("object-region/4", "photos", "box_ap", "nanodet-m"): "not decided",
        ("object-region/4", "photos", "box_ap", "yolov5n"): "not decided",
        ("object-region/4", "photos", "box_ap", "yolox-nano"): "not testable",
        ("object-region/5", "photos", "miou", "deeplab-v3-voc"): "not decided",
        ("objectness/1", "scenes", "box_ap", "mask-rcnn-small"): "reproduced",
        ("objectness/1", "scenes", "mask_ap", "mask-rcnn-small"): "reproduced",
        ("objectness/1", "scenes", "agreement", "mask-rcnn-small"): "reproduced",
        ("objectness/2", "scenes", "box_ap", "mask-rcnn-small"): "reproduced",
        ("objectness/2", "scenes", "mask_ap", "mask-rcnn-small"): "not decided",
        ("objectness/2", "scenes", "agreement", "mask-rcnn-small"): "not decided",
        ("objectness/3", "scenes", "missed_to_found", "mask-rcnn-small"): "not decided",
        ("objectness/3", "photos", "missed_to_found", "yolov5n"): "no difference",
        ("objectness/4", "scenes", "box_ap", "yolov5n-scenes"): "reproduced",
        ("objectness/1", "scenes", "box_ap", "faster-rcnn-small"): "reproduced",
        ("objectness/1", "scenes", "agreement", "faster-rcnn-small"): "reproduced",
        ("objectness/1", "photos", "box_ap", "yolov5n"): "not testable",
        ("objectness/1", "photos", "agreement", "yolov5n"): "not decided",
        ("objectness/2", "scenes", "box_ap", "faster-rcnn-small"): "not decided",
        ("objectness/2", "scenes", "agreement", "faster-rcnn-small"): "reproduced",
        ("objectness/2", "photos", "box_ap", "yolov5n"): "not testable",
        ("objectness/2", "photos", "agreement", "yolov5n"): "not decided",
        ("objectness/4", "scenes", "box_ap", "mask-rcnn-small"): "contradicted",
        ("objectness/4", "photos", "box_ap", "yolox-nano"): "not testable",
        ("objectness/4", "photos", "box_ap", "nanodet-m"): "not testable",
        ("objectness/4", "photos", "box_ap", "fastestdet"): "not testable",
        ("objectness/5", "scenes", "box_ap", "yolov5n-scenes-finetuned"): "not decided",
        ("objectness/5", "photos", "box_ap", "yolov5n-finetuned"): "not decided",
        ("sa-icm/1a", "scenes", "box_ap", "mask-rcnn-small"): "contradicted",
        ("sa-icm/1a", "scenes", "box_ap", "panoptic-deeplab-scenes"): "not decided",
        ("sa-icm/1a", "scenes", "box_ap", "yolov5n-scenes"): "contradicted",
        ("sa-icm/1a", "scenes", "mask_ap", "mask-rcnn-small"): "contradicted",
        ("sa-icm/1a", "scenes", "mask_ap", "panoptic-deeplab-scenes"): "not decided",
        ("sa-icm/1b", "scenes", "box_ap", "yolov5n-scenes-finetuned"): "contradicted",
        ("sa-icm/2a", "scenes", "pq", "panoptic-deeplab-scenes"): "not decided",
        ("sa-icm/2b", "scenes", "pq", "panoptic-deeplab-scenes"): "not decided",
        ("sa-icm/2c", "scenes", "pq", "panoptic-deeplab-scenes"): "not decided",
        ("sa-icm/3", "scenes", "bpp", "none"): "reproduced",
        ("sa-icm/4a", "scenes", "texture_auc", "none"): "not decided",
        ("sa-icm/4b", "scenes", "shape_ap", "mask-rcnn-small"): "reproduced",
        ("sa-icm/4c", "scenes", "texture_auc", "none"): "not decided",
        ("sa-icm/5", "scenes", "box_ap", "mask-rcnn-small"): "not decided",
        ("sa-icm/5", "scenes", "box_ap", "panoptic-deeplab-scenes"): "reproduced",
        ("sa-icm/5", "scenes", "box_ap", "yolov5n-scenes"): "not decided",
        ("sa-icm/5", "scenes", "mask_ap", "mask-rcnn-small"): "contradicted",
        ("sa-icm/5", "scenes", "mask_ap", "panoptic-deeplab-scenes"): "not decided",
        ("sa-icm/5", "scenes", "pq", "panoptic-deeplab-scenes"): "not decided",
        ("sa-icm/6a", "photos", "box_ap", "fastestdet"): "not decided",
        ("sa-icm/6a", "photos", "box_ap", "nanodet-m"): "not decided",
        ("sa-icm/6a", "photos", "box_ap", "yolov5n"): "contradicted",
        ("sa-icm/6a", "photos", "box_ap", "yolox-nano"): "not decided",
        ("sa-icm/6b", "photos", "box_ap", "yolov5n-finetuned"): "not decided",
        ("sa-icm/6c", "photos", "miou", "deeplab-v3-voc"): "not decided",
        ("sa-icm/6d", "photos", "miou", "deeplab-v3-voc"): "not decided",
        ("sa-icm/6e", "photos", "miou", "deeplab-v3-voc"): "not decided",
        ("sa-icm/6f", "photos", "box_ap", "fastestdet"): "not decided",
        ("sa-icm/6f", "photos", "box_ap", "nanodet-m"): "not decided",
        ("sa-icm/6f", "photos", "box_ap", "yolov5n"): "not decided",
        ("sa-icm/6f", "photos", "box_ap", "yolox-nano"): "not decided",
        ("sa-icm/6f", "photos", "miou", "deeplab-v3-voc"): "not decided",
        ("sa-nerv/1a", "scenes-video", "box_ap", "mask-rcnn-small"): "not decided",
        ("sa-nerv/1a", "scenes-video", "box_ap", "yolov5n-scenes"): "not decided",
        ("sa-nerv/1b", "scenes-video", "box_ap", "mask-rcnn-small"): "not decided",
        ("sa-nerv/1b", "scenes-video", "box_ap", "yolov5n-scenes"): "not decided",
        ("sa-nerv/2", "scenes-video", "boundary_f", "none"): "not decided",
        ("sa-nerv/3", "scenes-video", "psnr", "none"): "not decided",
        ("sa-nerv/4", "scenes-video", "box_ap", "mask-rcnn-small"): "not decided",
        ("sa-nerv/4", "scenes-video", "box_ap", "yolov5n-scenes"): "not decided",
        ("sa-nerv/1a", "davis", "box_ap", "yolov5n"): "not decided",
        ("sa-nerv/1a", "davis", "box_ap50", "yolov5n"): "not decided",
        ("sa-nerv/1b", "davis", "box_ap", "yolov5n"): "not decided",
        ("sa-nerv/1b", "davis", "box_ap50", "yolov5n"): "not decided",
        ("sa-nerv/2", "davis", "boundary_f", "none"): "no difference",
        ("sa-nerv/3", "davis", "psnr", "none"): "no difference",
        ("sa-nerv/4", "davis", "box_ap", "yolov5n"): "not decided",
        ("sa-nerv/4", "davis", "box_ap50", "yolov5n"): "reproduced",
        ("sa-nerv/5", "scenes-video", "boundary_f", "none"): "contradicted",
        ("sa-nerv/5", "davis", "boundary_f", "none"): "no difference",
    }
    found = [f for listed in board.values() for f in listed]
    assert {(f.claim.id, f.data, f.metric, f.judge): f.verdict for f in found} == golden


def test_a_panel_has_the_curves_that_are_asked_for_and_what_uncompressed_pictures_reach():
    found = results.load_or_run(SCENES.recipes())
    label, drawn, clean = queries.panel(found, "box_ap", "mask-rcnn-small", ("mse", "jpeg", "nobody"))
    assert (label, set(drawn)) == ("box AP of mask-rcnn-small", {"mse", "jpeg"})
    assert clean == queries.methods(found)["png"][0].result["box_ap"]["mask-rcnn-small"]
    label, drawn, clean = queries.panel(found, "psnr_inside")
    assert (label, clean) == ("PSNR inside objects [dB]", None)
    assert {"mse", "hevc"} <= drawn.keys()
    everybody, as_they_are = (queries.judges(found, "box_ap", finetuned=also) for also in (True, False))
    assert set(everybody) - set(as_they_are) == {f"yolov5n-scenes{queries.FINETUNED}"}


@pytest.mark.parametrize("chapter", CLAIMS)
def test_a_table_has_every_finding_claim_by_claim_and_each_is_described(board, chapter):
    claims, mine = CLAIMS[chapter], board[chapter]
    rows = verdicts.rows(claims, mine[::-1])  # in whatever order studies come
    assert list(dict.fromkeys(row["claim"] for row in rows)) == [claim.id for claim in claims]
    assert np.sort([row["value"] for row in rows if row["data"]]) == pytest.approx(
        np.sort([f.interval.value for f in mine]), nan_ok=True
    )
    told, cards = verdicts.unreproduced(claims, mine), verdicts.cards(claims, mine)
    for f in mine:
        assert f.data in describe(f) and f.verdict in describe(f) and describe(f) in cards
        assert (describe(f) in told) == (f.verdict != "reproduced")


def _shipped(chapter: str, data: str) -> Recipe:
    """The last recipe of a chapter of its own on a data set, whose codec is in data/checkpoints."""
    recipes = [r for study in chapters.named(chapter).studies() if study.data == data for r in study.recipes()]
    *_, last = (r for r in recipes if r.kind == "trained" and r.chapter == chapter and run.places(r)[0].exists())
    return last


def test_a_record_is_what_its_checkpoint_gives_today():
    """Bytes, pictures and, of the faster detector, AP with its spread, on all 200 scenes."""
    recipe = _shipped("object_region_mse", "scenes")
    (judge,) = (name for name in recipe.measured.detectors if name.startswith("yolov5n-scenes"))
    record = results.read(recipe)
    again = run.measure(replace(recipe, measured=Accuracy((judge,))), ledger=False, progress=False)
    assert again.result["bpp"] == pytest.approx(record.result["bpp"], rel=2e-3)
    assert again.result["psnr_inside"] == pytest.approx(record.result["psnr_inside"], abs=0.02)
    value = record.result["box_ap"]["yolov5n-scenes"]
    assert again.result["box_ap"]["yolov5n-scenes"] == pytest.approx(value, abs=0.005)
    low, high = (pick(record.bootstrap["box_ap"]["yolov5n-scenes"]) for pick in (min, max))
    assert low < value < high


SHIPPED = [("object_region_mse", "coco-mini"), ("objectness_distillation", "scenes"), ("sa_icm", "scenes")]


@pytest.mark.parametrize(("chapter", "data"), SHIPPED)
def test_the_first_pictures_of_a_record_take_as_many_bytes_today(chapter, data, request):
    if data == "coco-mini":
        request.getfixturevalue("real_data")
    recipe = _shipped(chapter, data)
    sizes = results.read(recipe).result["per_image"]["bytes"][:10]
    dataset = run.images(recipe, "val", 10)
    again = [len(coded) for _, coded, _ in evaluate.coded(run.trained_codec(recipe, device="cpu"), dataset)]
    assert again == pytest.approx(sizes, rel=5e-3) and sum(again) == pytest.approx(sum(sizes), rel=2e-3)


def test_two_runs_measured_together_are_paired():
    """The resampling depends on the data set alone: equal bytes resample to equal rates."""
    wanted = [Classical("jpeg", quality=10), Classical("jpeg", quality=25)]
    first, second = (results.read(r) for r in SCENES.recipes() if r.codec in wanted)
    a, b = first.bootstrap["bpp"], second.bootstrap["bpp"]
    assert len(a) == len(b) == 200
    assert sum((x - sum(a) / 200) * (y - sum(b) / 200) for x, y in zip(a, b, strict=True)) > 0


def test_a_study_that_a_claim_names_tests_this_claim_and_no_other():
    chapter = chapters.named("compare")
    claim = next(claim for claim in chapter.claims if claim.study)
    main = chapter.studies()[0]
    records = results.load_or_run(r for r in main.recipes() if r.method in (claim.anchor, claim.method))
    found = verdicts.of_studies(chapter.claims, [(replace(main, name=claim.study), records)])
    assert {f.claim for f in found} == {claim}
    assert claim not in {f.claim for f in verdicts.of_studies(chapter.claims, [(main, records)])}


def test_every_papers_summary_names_claims_of_its_own_and_has_advice_for_what_came_out(board):
    """Advice is written for a verdict; where that changes, somebody must think again."""
    for chapter in map(chapters.named, chapters.NAMES):
        assert summary.claims(chapter) <= {claim.id for claim in chapter.claims}
        lines = summary.lines(chapter, board[chapter.name])
        assert "not measured" not in lines["on scenes"] + lines["caveat"] + lines["advice"]
        assert "another verdict" not in lines["advice"], f"{chapter.name}: write advice for what came out"


def test_a_summary_without_findings_says_so():
    lines = summary.lines(chapters.named("sa_nerv"), [])
    assert "not measured" in lines["on scenes"] and "another verdict" in lines["advice"]


def test_a_codec_that_was_judged_twice_has_one_psnr():
    once = [record(MSE(), lmbda, bpp, seed, judge=ap) for lmbda, bpp, ap in LADDER for seed in (0, 1)]
    for r in once:
        r.result["psnr"], r.bootstrap["psnr"] = 30 + r.recipe.seed, [30 + r.recipe.seed] * 3
    again = [replace(r, recipe=replace(r.recipe, measured=Accuracy((), ("judge",)))) for r in once if r.recipe.seed]
    assert list(queries.curves(once + again, "psnr")["mse"].metric) == pytest.approx([30.5] * 3)


def test_alphas_at_one_lambda_are_one_curve_and_stand_for_the_middle_one():
    """As in preset `paper`, where the paper's own curve of SA-ICM runs through its alphas."""

    def of(loss, lmbda, bpp, ap):
        recipe = Recipe("sa_icm", Pictures("coco2017", 9), Trained("tcm", loss, lmbda, TRAINING), Accuracy(("judge",)))
        return Record(
            recipe, {"bpp": bpp, "box_ap": {"judge": ap}}, {"bpp": [bpp] * 200, "box_ap": {"judge": [ap] * 200}}, {}
        )

    rungs = (0.1, 0.2), (0.2, 0.3), (0.4, 0.4)
    edges = [of(SAICM("sam", alpha), 0.05, *at) for alpha, at in zip((0.98, 0.93, 0.48), rungs, strict=True)]
    rival = [of(ObjectRegion(), 0.01 * n, 2 * bpp, ap) for n, (bpp, ap) in enumerate(rungs, start=1)]
    drawn = queries.curves([*edges, *rival], "box_ap", "judge")
    assert drawn.keys() == {"sa-icm", "object-region"} and drawn["sa-icm"].bpp.tolist() == [0.1, 0.2, 0.4]
    (found,) = verdicts.findings(chapters.named("sa_icm").claims[:1], "coco2017", [*edges, *rival])
    assert found.claim.id == "sa-icm/1a" and found.interval.value == pytest.approx(-50)
    more = [of(SAICM("sam", 0.93), 0.02, 0.1, 0.2)]
    assert "sa-icm" not in queries.curves([*edges, *more, *rival], "box_ap", "judge")
