"""The presets: fair comparisons, unique runs, weights that exist, and overrides that are checked."""

from collections import defaultdict
from dataclasses import asdict

import pytest
from compressai.zoo.image import model_urls

from icm_helpers import __main__ as icm
from icm_helpers import presets, run
from icm_helpers.ledger import results

EVERY = [(c, p, s) for c, found in presets.CHAPTERS.items() for p, studies in found.items() for s in studies]
ALL = [(c, p, s) for c, p, s in EVERY if isinstance(s, presets.Study)]  # those of pictures
OF_THE_LOSS = {"loss", "scale", "teacher", "task_weight", "levels", "reduction", "temperature", "objectness"}
OF_THE_LOSS |= {"edges", "alpha", "drawing", "canny_low", "canny_high", "dilate", "shift"}
each_study = pytest.mark.parametrize("study", [s for _, _, s in ALL], ids=[f"{c}-{p}-{s.data}" for c, p, s in ALL])


@each_study
def test_every_run_has_a_name_of_its_own(study):
    recipes = study.recipes()
    assert len({r.run_id for r in recipes}) == len(recipes)


@pytest.mark.parametrize("chapter", presets.CHAPTERS)
def test_a_grid_lists_a_run_once_whatever_studies_hold_it(chapter, capsys):
    icm.main(["grid", chapter, "--list"])
    *runs, total = capsys.readouterr().out.splitlines()
    wanted = {r for study in presets.studies(chapter) for r in study.recipes()}
    assert len(runs) == len(set(runs)) == len(wanted) and total.startswith(f"{len(wanted)} runs, ")


@each_study
def test_losses_are_compared_under_equal_conditions(study):
    conditions = defaultdict(list)
    for recipe in study.recipes():
        if recipe.loss != "none" and recipe.chapter == study.chapter:
            same = {k: v for k, v in asdict(recipe).items() if k not in OF_THE_LOSS}
            conditions[str(same)].append(recipe.loss)
    losses, refined = (
        [loss for loss, _ in scales for _ in (study.alphas if loss == "sa-icm" else [0])]
        for scales in (study.scales, study.refine_scales)
    )
    assert losses in conditions.values() or not study.lmbdas
    distilled = [v for v in losses if v in presets.DISTILLED]  # whose spending is measured
    fair = losses, [v for v in losses if v != "task"], refined, distilled
    assert all(found in fair for found in conditions.values())


@each_study
def test_runs_beside_it_are_trained_and_measured_alike(study):
    mine, other = (
        [r for r in study.recipes() if (r in study.beside) == beside and r.method == "trained"]
        for beside in (False, True)
    )
    judging = {"chapter", "finetuned", "finetune_steps", "detectors"}
    if "true-edges" in dict(study.scales) and study.data == "coco-mini":
        judging.add("train_images")  # COCO's panoptic maps cover a hundred of the pictures; the chapter says so
    if study in (presets.DISTILL_SCENES, presets.DISTILL_FASTER, presets.DISTILL_COCO_MINI):
        judging.add("lr")  # the paper's, or what YOLOv5n's features bear; the presets say so
    for recipe in other:
        found = {k: v for k, v in asdict(recipe).items() if k not in OF_THE_LOSS | judging}
        twins = [r for r in mine if (r.lmbda, r.seed) == (recipe.lmbda, recipe.seed)]
        assert recipe.seed != study.seeds[0] or twins or recipe.lmbda not in study.lmbdas
        for twin in twins:
            assert found == {k: v for k, v in asdict(twin).items() if k not in OF_THE_LOSS | judging}
            assert recipe.detectors == twin.detectors


def test_an_ablation_changes_one_thing_about_distillation():
    grid, high_lr = presets.DISTILL_SCENES, presets.DISTILL_HIGH_LR
    trained = {r for study in (grid, *high_lr) for r in study.recipes() if r.method == "trained"}
    for studies in (high_lr, presets.ABLATIONS):
        for recipe in (r for study in studies for r in study.recipes()):
            like = (recipe.loss, recipe.lmbda, recipe.seed, grid.lr if studies is high_lr else recipe.lr)
            (twin,) = (r for r in trained if (r.loss, r.lmbda, r.seed, r.lr) == like)
            changed = {k for k, v in asdict(recipe).items() if v != getattr(twin, k)} - {"scale"}
            assert len(changed) == 1 and changed < OF_THE_LOSS | {"lr"}


def test_the_paper_trains_for_fifty_epochs():
    for study in presets.studies("objectness_distillation", "paper"):
        assert 49.9 < study.steps * study.batch / study.train_images <= 50


@pytest.mark.parametrize("name", sorted({(s.codec, s.start) for _, _, s in ALL if s.start.startswith("published")}))
def test_published_weights_are_those_of_their_fingerprint(name):
    (architecture, _, quality), start = name[0].rpartition("-q"), name[1]
    assert start.partition("@")[2] in model_urls[architecture]["mse"][int(quality)]


SHIPPED_STARTS = {s.start: s for _, _, s in ALL if s.start[:4] not in ("none", "publ")}


@pytest.mark.parametrize("study", SHIPPED_STARTS.values(), ids=SHIPPED_STARTS.keys())
def test_a_start_is_the_file_that_its_fingerprint_says(study):
    run.codec(next(r for r in study.recipes() if r.start == study.start))  # which refuses other weights


@pytest.mark.parametrize("name", ["mask-rcnn-small", "faster-rcnn-small", "yolov5n-scenes"])
def test_a_shipped_detector_is_the_file_that_its_fingerprint_says(name):
    assert presets.DETECTORS[name] == results.fingerprint(run.CHECKPOINTS / f"{name}.safetensors")


@pytest.mark.parametrize(
    ("name", "path"),
    [("yolov5n", "weights_yolov5n/yolov5n.safetensors"), ("yolox-nano", "weights_yolox_nano/yolox_nano.onnx")],
)
def test_a_real_detector_is_the_file_that_its_fingerprint_says(name, path, real_data):
    assert presets.DETECTORS[name] == results.fingerprint(real_data / path)


def test_an_override_reaches_every_study():
    assert [s.images for s in presets.studies("object_region_mse", images=3)] == [3, 3, 3]


@pytest.mark.parametrize(
    ("arguments", "overrides", "message"),
    [
        (("no_such",), {}, "no chapter is called 'no_such'; there is object_region_mse"),
        (("object_region_mse", "huge"), {}, "a preset of object_region_mse is one of smoke, book, paper, not 'huge'"),
        (("object_region_mse",), {"step": 3}, "no field 'step'; it has chapter, data"),
        (("object_region_mse",), {"steps": "3"}, "steps must be of type int"),
        (("object_region_mse",), {"seeds": 3}, "seeds must be of type tuple"),
        (("object_region_mse",), {"steps": True}, "steps must be of type int"),
    ],
)
def test_a_wrong_name_or_type_is_an_error_that_lists_what_there_is(arguments, overrides, message):
    with pytest.raises(ValueError, match=message):
        presets.studies(*arguments, **overrides)
