"""The presets: fair comparisons, unique runs, weights that exist, and overrides that are checked."""

from collections import defaultdict
from dataclasses import asdict

import pytest

from icm_helpers import presets, results, run

ALL = [(c, p, s) for c, found in presets.CHAPTERS.items() for p, studies in found.items() for s in studies]
each_study = pytest.mark.parametrize("study", [s for _, _, s in ALL], ids=[f"{c}-{p}-{s.data}" for c, p, s in ALL])


@each_study
def test_every_run_has_a_name_of_its_own(study):
    recipes = study.recipes()
    assert len({r.run_id for r in recipes}) == len(recipes)


@each_study
def test_losses_are_compared_under_equal_conditions(study):
    conditions = defaultdict(list)
    for recipe in study.recipes():
        if recipe.method != "classical":
            same = {k: v for k, v in asdict(recipe).items() if k not in ("loss", "scale", "teacher", "task_weight")}
            conditions[str(same)].append(recipe.loss)
    losses = [loss for loss, _ in study.scales]
    assert losses in conditions.values()
    assert all(found in (losses, [loss for loss in losses if loss != "task"]) for found in conditions.values())


@pytest.mark.parametrize("name", sorted({s.start for _, _, s in ALL} - {"none"}))
def test_a_start_is_the_file_that_its_fingerprint_says(name):
    stem, _, wanted = name.partition("@")
    assert results.fingerprint(run.CHECKPOINTS / f"{stem}.safetensors") == wanted


@pytest.mark.parametrize("name", ["mask-rcnn-small", "yolov5n-scenes"])
def test_a_shipped_detector_is_the_file_that_its_fingerprint_says(name):
    assert presets.DETECTORS[name] == results.fingerprint(run.CHECKPOINTS / f"{name}.safetensors")


@pytest.mark.parametrize(
    ("name", "path"),
    [("yolov5n", "weights_yolov5n/yolov5n.safetensors"), ("yolox-nano", "weights_yolox_nano/yolox_nano.onnx")],
)
def test_a_real_detector_is_the_file_that_its_fingerprint_says(name, path, real_data):
    assert presets.DETECTORS[name] == results.fingerprint(real_data / path)


def test_an_override_reaches_every_study():
    assert [s.images for s in presets.studies("object_region_mse", images=3)] == [3, 3]


@pytest.mark.parametrize(
    ("arguments", "overrides", "message"),
    [
        (("no_such",), {}, "no chapter is called 'no_such'; there is object_region_mse"),
        (("object_region_mse", "huge"), {}, "preset must be one of smoke, book, paper, not 'huge'"),
        (("object_region_mse",), {"step": 3}, "no field 'step'; it has chapter, data"),
        (("object_region_mse",), {"steps": "3"}, "steps must be of type int"),
        (("object_region_mse",), {"seeds": 3}, "seeds must be of type tuple"),
        (("object_region_mse",), {"steps": True}, "steps must be of type int"),
    ],
)
def test_a_wrong_name_or_type_is_an_error_that_lists_what_there_is(arguments, overrides, message):
    with pytest.raises(ValueError, match=message):
        presets.studies(*arguments, **overrides)
