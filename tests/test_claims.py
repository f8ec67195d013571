"""Verdicts follow from intervals, and the ledger holds what a fresh measurement finds."""

import math
from dataclasses import replace

import pytest

from icm_helpers import claims, presets, run
from icm_helpers.bd import Interval
from icm_helpers.claims import describe, overall, verdict
from icm_helpers.evaluate import THIRDS
from icm_helpers.ledger import results


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
    ],
)
def test_the_verdict_follows_from_the_interval(interval, sign, word):
    assert verdict(interval, sign) == word


@pytest.mark.parametrize(
    ("words", "word"),
    [
        (["reproduced", "reproduced"], "reproduced"),
        (["reproduced", "contradicted"], "partly"),
        (["not decided", "contradicted"], "contradicted"),
        (["not decided", "not testable"], "not decided"),
        (["not testable"], "not testable"),
    ],
)
def test_several_findings_make_one_word(words, word):
    assert overall(words) == word


@pytest.fixture(scope="module")
def board() -> list[claims.Finding]:
    return claims.scoreboard()


def record(method: str, lmbda: float, bpp: float, **aps: float) -> dict:
    """A record of one codec whose replicates all equal its value, with the box AP of each detector, on all thirds alike."""
    measured = {"bpp": bpp, "box_ap": aps}
    spread = {"bpp": [bpp] * 3, "box_ap": {name: [ap] * 3 for name, ap in aps.items()}}
    parts = {
        part: {**v, "by_cover": dict.fromkeys(THIRDS, v)} for part, v in (("result", measured), ("bootstrap", spread))
    }
    return {"recipe": {"method": "trained", "codec": "small", "loss": method, "lmbda": lmbda}, **parts}


def test_claims_about_fine_tuning_compare_the_right_curves():
    ladder = ((0.01, 0.1, 0.2), (0.02, 0.2, 0.3), (0.04, 0.4, 0.4))
    records = [
        record(method, lmbda, bpp * rate, judge=ap, **{"judge-finetuned": ap if method == "mse" else ap + 0.05})
        for method, rate in (("mse", 1.0), ("object-region", 0.5), ("task", 2.0))
        for lmbda, bpp, ap in ladder
    ]
    found = {(f.claim.id, f.judge): f.interval.value for f in claims.findings("object_region_mse", "scenes", records)}
    assert found["object-region/1a", "judge"] == pytest.approx(-50)
    assert found["object-region/3", "judge"] == pytest.approx(-75)
    assert found["object-region/4", "judge"] == pytest.approx(0)
    # Half the rate, and .05 AP more than that: fine-tuning adds to the loss, and alone it is the gain of the same curve.
    assert found["object-region/1b", "judge-finetuned"] < -60
    assert -50 < found["object-region/1c", "judge-finetuned"] < -20
    assert not {("object-region/1a", "judge-finetuned"), ("object-region/1b", "judge")} & found.keys()


def test_a_claim_about_teachers_or_strangers_hears_only_these():
    ladder = ((0.01, 0.1, 0.2), (0.02, 0.2, 0.3), (0.04, 0.4, 0.4))
    rates = {"mse": (1.0, 1.0), "distill": (0.8, 0.9), "distill-boxes": (0.5, 0.9), "distill-objectness": (0.4, 0.8)}
    records = []
    for method, (taught, strange) in rates.items():
        for lmbda, bpp, ap in ladder:
            found = record(method, lmbda, bpp * taught, teacher=ap, stranger=ap * taught / strange)
            found["recipe"]["teacher"] = "none" if method == "mse" else "teacher@12345678"
            records.append(found)
    found = {(f.claim.id, f.judge): f.interval.value for f in claims.findings("objectness_distillation", "s", records)}
    assert found.keys() == {("objectness/1", "teacher"), ("objectness/2", "teacher"), ("objectness/4", "stranger")}
    assert found["objectness/1", "teacher"] == pytest.approx(-50)
    assert found["objectness/2", "teacher"] == pytest.approx(-20)
    assert found["objectness/4", "stranger"] > 0


def test_what_is_probed_is_named_by_its_loss_or_its_codec():
    recipes = presets.SA_SCENES.recipes()
    probed = claims.methods([{"recipe": vars(recipe)} for recipe in recipes if recipe.method == "probed"])
    edges = [f"probed-sa-icm-{alpha:g}" for alpha in presets.SA_SCENES.alphas]
    assert sorted(probed) == sorted(["probed-mse", "probed-object-region", "probed-hevc", "probed-png", *edges])


def test_alpha_names_the_curve_and_its_rate_is_compared_at_equal_lambdas():
    records = []
    for alpha, rate in ((0.98, 1.0), (0.93, 1.5), (0.48, 2.0)):
        for lmbda, bpp in ((0.01, 0.1), (0.02, 0.3)):
            found = record("sa-icm", lmbda, bpp * rate, judge=0.5)
            found["recipe"]["alpha"] = alpha
            records.append(found)
    assert claims.methods(records).keys() == {"sa-icm-0.98", "sa-icm-0.93", "sa-icm-0.48"}
    (found,) = (f for f in claims.findings("sa_icm", "scenes", records) if f.claim.id == "sa-icm/3")
    assert found.interval.value == pytest.approx(100) and found.verdict == "reproduced"
    assert describe(found) == "scenes: +100 % rate [+100, +100], **reproduced**"


def test_every_claim_has_a_finding_on_every_data_set_of_the_book(board):
    for chapter, listed in claims.CLAIMS.items():
        tested, found = set(), {(f.data, f.claim.id) for f in board if f.claim in listed}
        for study in presets.studies(chapter, "book"):
            methods = claims.methods([{"recipe": vars(recipe)} for recipe in study.recipes()])
            tested |= {
                (study.data, c.id)
                for c in listed
                if {c.anchor, c.method} <= methods.keys()
                and ("fine-tuned" not in c.judged or study.finetune != "none")
                and (c.metrics != ("pq",) or any("panoptic" in judge for judge in study.detectors))
            }
        assert tested == found


def test_the_scoreboard_is_what_the_ledger_says(board):
    """Golden verdicts: a change here is news, and belongs into the commit's message."""
    golden = {
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
        ("object-region/3", "scenes", "box_ap", "yolov5n-scenes"): "reproduced",
        ("object-region/4", "scenes", "box_ap", "mask-rcnn-small"): "not decided",
        ("object-region/4", "scenes", "box_ap", "yolov5n-scenes"): "not decided",
        ("object-region/1a", "coco-mini", "box_ap", "yolov5n"): "not decided",
        ("object-region/1a", "coco-mini", "box_ap", "yolox-nano"): "not decided",
        ("object-region/1a", "coco-mini", "agreement", "yolov5n"): "not decided",
        ("object-region/1a", "coco-mini", "agreement", "yolox-nano"): "not decided",
        ("object-region/2a", "coco-mini", "psnr_inside", "none"): "contradicted",
        ("object-region/2b", "coco-mini", "psnr_outside", "none"): "reproduced",
        ("object-region/3", "coco-mini", "box_ap", "yolov5n"): "contradicted",
        ("object-region/3", "coco-mini", "box_ap", "yolox-nano"): "not decided",
        ("object-region/4", "coco-mini", "box_ap", "yolov5n"): "not decided",
        ("object-region/4", "coco-mini", "box_ap", "yolox-nano"): "not decided",
        ("objectness/1", "scenes", "box_ap", "mask-rcnn-small"): "reproduced",
        ("objectness/1", "scenes", "mask_ap", "mask-rcnn-small"): "reproduced",
        ("objectness/1", "scenes", "agreement", "mask-rcnn-small"): "reproduced",
        ("objectness/2", "scenes", "box_ap", "mask-rcnn-small"): "reproduced",
        ("objectness/2", "scenes", "mask_ap", "mask-rcnn-small"): "not decided",
        ("objectness/2", "scenes", "agreement", "mask-rcnn-small"): "not decided",
        ("objectness/3", "scenes", "missed_to_found", "mask-rcnn-small"): "not decided",
        ("objectness/4", "scenes", "box_ap", "yolov5n-scenes"): "reproduced",
        ("objectness/1", "scenes", "box_ap", "faster-rcnn-small"): "reproduced",
        ("objectness/1", "scenes", "agreement", "faster-rcnn-small"): "reproduced",
        ("objectness/2", "scenes", "box_ap", "faster-rcnn-small"): "reproduced",
        ("objectness/2", "scenes", "agreement", "faster-rcnn-small"): "reproduced",
        ("objectness/4", "scenes", "box_ap", "mask-rcnn-small"): "contradicted",
        ("objectness/1", "coco-mini", "box_ap", "yolov5n"): "not decided",
        ("objectness/1", "coco-mini", "agreement", "yolov5n"): "not decided",
        ("objectness/2", "coco-mini", "box_ap", "yolov5n"): "not decided",
        ("objectness/2", "coco-mini", "agreement", "yolov5n"): "not decided",
        ("objectness/3", "coco-mini", "missed_to_found", "yolov5n"): "not decided",
        ("objectness/4", "coco-mini", "box_ap", "yolox-nano"): "not decided",
        ("sa-icm/1a", "scenes", "box_ap", "mask-rcnn-small"): "contradicted",
        ("sa-icm/1a", "scenes", "box_ap", "panoptic-deeplab-scenes"): "not decided",
        ("sa-icm/1a", "scenes", "box_ap", "yolov5n-scenes"): "contradicted",
        ("sa-icm/1a", "scenes", "mask_ap", "mask-rcnn-small"): "contradicted",
        ("sa-icm/1a", "scenes", "mask_ap", "panoptic-deeplab-scenes"): "contradicted",
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
        ("sa-icm/5", "scenes", "mask_ap", "panoptic-deeplab-scenes"): "reproduced",
        ("sa-icm/5", "scenes", "pq", "panoptic-deeplab-scenes"): "not decided",
        ("sa-nerv/1a", "scenes-video", "box_ap", "mask-rcnn-small"): "not decided",
        ("sa-nerv/1a", "scenes-video", "box_ap", "yolov5n-scenes"): "not decided",
        ("sa-nerv/1b", "scenes-video", "box_ap", "mask-rcnn-small"): "not decided",
        ("sa-nerv/1b", "scenes-video", "box_ap", "yolov5n-scenes"): "not decided",
        ("sa-nerv/2", "scenes-video", "boundary_f", "none"): "contradicted",
        ("sa-nerv/3", "scenes-video", "psnr", "none"): "not decided",
        ("sa-nerv/4", "scenes-video", "box_ap", "mask-rcnn-small"): "not decided",
        ("sa-nerv/4", "scenes-video", "box_ap", "yolov5n-scenes"): "not decided",
        ("sa-nerv/1a", "davis", "box_ap", "yolov5n"): "not decided",
        ("sa-nerv/1b", "davis", "box_ap", "yolov5n"): "not decided",
        ("sa-nerv/2", "davis", "boundary_f", "none"): "not decided",
        ("sa-nerv/3", "davis", "psnr", "none"): "not decided",
        ("sa-nerv/4", "davis", "box_ap", "yolov5n"): "not decided",
    }
    assert {(f.claim.id, f.data, f.metric, f.judge): f.verdict for f in board} == golden


def test_a_panel_has_the_curves_that_are_asked_for_and_what_uncompressed_pictures_reach():
    found = results.load_or_run(presets.SCENES.recipes())
    label, drawn, clean = claims.panel(found, "box_ap", "mask-rcnn-small", ("mse", "jpeg", "nobody"))
    assert (label, set(drawn)) == ("box AP of mask-rcnn-small", {"mse", "jpeg"})
    assert clean == claims.methods(found)["png"][0]["result"]["box_ap"]["mask-rcnn-small"]
    label, drawn, clean = claims.panel(found, "psnr_inside")
    assert (label, clean) == ("PSNR inside objects [dB]", None)
    assert {"mse", "hevc"} <= drawn.keys()
    everybody, as_they_are = (claims.judges(found, "box_ap", finetuned=also) for also in (True, False))
    assert set(everybody) - set(as_they_are) == {f"yolov5n-scenes{presets.FINETUNED}"}


def test_a_description_names_data_judge_interval_and_verdict(board):
    for finding in board:
        text = describe(finding)
        assert finding.data in text and finding.verdict in text


@pytest.mark.parametrize("chapter", claims.CLAIMS)
def test_a_table_has_every_finding_claim_by_claim(board, chapter):
    mine = [f for f in board if f.claim in claims.CLAIMS[chapter]]
    rows = claims.verdicts(chapter, mine[::-1])  # in whatever order studies come
    assert list(dict.fromkeys(row["claim"] for row in rows)) == [claim.id for claim in claims.CLAIMS[chapter]]
    assert sorted(row["value"] for row in rows) == sorted(f.interval.value for f in mine)
    told = claims.unreproduced(chapter, mine)
    assert all((describe(f) in told) == (f.verdict != "reproduced") for f in mine)


def _shipped(chapter: str, data: str) -> results.Recipe:
    """The last recipe of a chapter of its own on a data set, whose codec is in data/checkpoints."""
    recipes = [r for study in presets.studies(chapter, "book") if study.data == data for r in study.recipes()]
    *_, last = (r for r in recipes if r.method == "trained" and r.chapter == chapter and run.places(r)[0].exists())
    return last


SHIPPED = [
    ("object_region_mse", "scenes"),
    ("object_region_mse", "coco-mini"),
    ("objectness_distillation", "scenes"),
    ("sa_icm", "scenes"),
]


@pytest.mark.parametrize(("chapter", "data"), SHIPPED)
def test_a_record_is_what_its_checkpoint_gives_today(chapter, data, request):
    if data == "coco-mini":
        request.getfixturevalue("real_data")
    recipe = _shipped(chapter, data)
    record = results.read(recipe)
    # A detector is not fine-tuned again for this: that takes minutes.
    again = run.measure(replace(recipe, finetuned="none", finetune_steps=0), ledger=False, progress=False)
    assert again["result"]["bpp"] == pytest.approx(record["result"]["bpp"], rel=2e-3)
    assert again["result"]["psnr_inside"] == pytest.approx(record["result"]["psnr_inside"], abs=0.02)
    for judge in again["result"]["box_ap"]:
        value = record["result"]["box_ap"][judge]
        assert again["result"]["box_ap"][judge] == pytest.approx(value, abs=0.005)
        low, high = min(record["bootstrap"]["box_ap"][judge]), max(record["bootstrap"]["box_ap"][judge])
        assert low < value < high


def test_two_runs_measured_together_are_paired():
    """The resampling depends on the data set alone: equal bytes resample to equal rates."""
    study = presets.studies("object_region_mse", "book")[0]
    first, second = (results.read(r) for r in study.recipes() if r.codec == "jpeg" and r.lmbda in (10, 25))
    a, b = first["bootstrap"]["bpp"], second["bootstrap"]["bpp"]
    assert len(a) == len(b) == 200
    assert sum((x - sum(a) / 200) * (y - sum(b) / 200) for x, y in zip(a, b, strict=True)) > 0
