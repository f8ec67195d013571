"""Recipes: parts that say only what they mean, and names that never change."""

import hashlib
import json
import subprocess
import sys
from dataclasses import dataclass, fields, is_dataclass, replace

import pytest

from icm_helpers import chapters, objectives
from icm_helpers.files import ROOT, unmarked
from icm_helpers.ledger import results
from icm_helpers.ledger.recipe import (
    Accuracy,
    BitAllocation,
    Classical,
    Clip,
    Overfitted,
    Pictures,
    Probe,
    Recipe,
    Refined,
    Trained,
    Training,
    flat,
    nested,
)
from icm_helpers.objectives import MSE, SAICM, Distill, DistillObjectness, Regional, SANeRV, Task
from icm_helpers.tasks import models

COMMITTED = sorted(path for path in (ROOT / "data" / "results").rglob("*.json") if path.parent.name != "codecs")
TRAINING = Training("none", 3, 2, 64, 1e-4, "none", "32-true", 4)
JUDGED = Accuracy(("judge@01234567",), ("judge@01234567",), 5)


SCENES = Pictures("scenes", 4, 64)


def recipe(codec, measured=JUDGED, pictures=SCENES) -> Recipe:
    return Recipe("chapter", pictures, codec, measured)


RECIPES = [
    *(
        recipe(Trained("codec", loss, 0.01, TRAINING))
        for loss in (MSE(), SAICM("sam@01234567", 0.9), Task("t@01234567", 8.0))
    ),
    recipe(Trained("codec", DistillObjectness("t@01234567"), 0.01, TRAINING), BitAllocation(("t@01234567",))),
    recipe(Classical("jpeg", quality=35)),
    recipe(Classical("hevc", qp=32), Probe(("judge@01234567",), 9)),
    recipe(Classical("png")),
    recipe(Classical("hevc-roi", qp=42, roi="judge@01234567"), Accuracy(("judge@01234567",), divided="judge@01234567")),
    recipe(Trained("mean-scale-roi", Regional(0.1), 0.01, TRAINING, roi="truth")),
    recipe(Refined("codec", Distill("t@01234567"), 0.01, "start@01234567", 15, 0.1)),
    recipe(
        Overfitted(
            "nerv-s", SANeRV(segmenter="sam@01234567", alpha=0.9), 8, 50, 1, 5e-3, density=0.6, tune_steps=8, bits=6
        ),
        Accuracy(("judge@01234567",)),
        Clip("scenes-video", "3000006", 12, 64),
    ),
]
each_recipe = pytest.mark.parametrize("recipe", RECIPES, ids=lambda r: f"{r.kind}-{r.method}")


def variants(part):
    """(field, part with another value of it), down through nested parts."""
    for f in fields(part):
        value = getattr(part, f.name)
        if is_dataclass(value):
            yield from ((name, replace(part, **{f.name: other})) for name, other in variants(value))
        elif isinstance(value, tuple):
            yield f.name, replace(part, **{f.name: ("other@89abcdef",)})
        elif isinstance(value, str) and f.name not in ("codec", "objectness") and (f.name, value) != ("roi", "none"):
            yield f.name, replace(part, **{f.name: "other"})
        elif isinstance(value, int | float):
            yield f.name, replace(part, **{f.name: value * 2 or type(value)(1)})


@each_recipe
def test_every_field_of_a_recipe_changes_its_name_and_flat_is_undone_by_nested(recipe):
    others = list(variants(recipe))
    assert len({recipe.run_id, *(other.run_id for _, other in others)}) == len(others) + 1
    for same in (recipe, *(other for _, other in others)):
        assert nested(json.loads(json.dumps(flat(same)))) == same


@each_recipe
def test_a_codec_keeps_its_name_under_other_judges_only(recipe):
    kept = {name for name, other in variants(recipe) if other.codec_id == recipe.codec_id}
    judging = {"chapter", "images", "roi", *(f.name for f in fields(Accuracy))}
    assert kept == judging & {name for name, _ in variants(recipe)}


def test_a_codec_has_the_name_of_the_recipe_that_only_judges_it():
    trained = recipe(Trained("codec", Distill("t@01234567"), 0.01, TRAINING))
    spent = replace(trained, measured=BitAllocation(("t@01234567",)))
    assert (trained.codec_id, trained.method) == (spent.codec_id, "distill") and spent.method == "spent-distill"


def test_a_new_field_of_one_loss_changes_no_name_at_its_default_and_of_no_other_loss():
    @dataclass(frozen=True)
    class Later(SAICM):
        strength: float = 1.0

    def name(loss):
        return recipe(Trained("codec", loss, 0.01, TRAINING)).run_id

    assert name(Later("sam@01234567", 0.9)) == name(SAICM("sam@01234567", 0.9))
    assert name(Later("sam@01234567", 0.9, strength=2.0)) != name(SAICM("sam@01234567", 0.9))


def test_every_recipe_of_the_book_has_the_name_that_it_had_when_names_were_flat():
    """A digest of all names of runs and codecs, those of commit 1b771be among them: with another, records and checkpoints are lost.

    Whoever adds studies sees first that every name that was there is still there, and then writes the new digest.
    """
    studies = [s for name in chapters.NAMES for p in chapters.named(name).presets.values() for s in p]
    unstated = {
        name for name, model in models.MODELS.items() if not model.fingerprint
    }  # named by the file that lies here
    static = [s for s in studies if not unstated & {unmarked(judge)[0] for judge in s.measured.detectors}]
    names = sorted({(r.run_id, r.codec_id) for study in static for r in study.recipes()})
    digest = hashlib.sha256("\n".join(" ".join(pair) for pair in names).encode()).hexdigest()
    assert (len(names), digest[:16]) == (1322, "b86f2a45badb9a41")


def test_every_committed_record_is_read_and_belongs_to_its_name():
    assert len(COMMITTED) >= 503
    for path in COMMITTED:
        assert results.load(path).recipe.path == path


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"codec": "jpeg", "qp": 32}, "jpeg takes quality, not qp"),
        ({"codec": "hevc"}, "hevc takes qp, not none"),
        ({"codec": "png", "quality": 3}, "png takes no setting, not quality"),
        ({"codec": "hevc-roi", "qp": 42}, "hevc-roi needs a region of interest: say whose"),
        ({"codec": "hevc", "qp": 42, "roi": "truth"}, "hevc takes no region of interest"),
    ],
)
def test_a_classical_codec_refuses_a_setting_that_it_does_not_have(wrong, message):
    with pytest.raises(ValueError, match=message):
        Classical(**wrong)


def test_configuration_loads_without_torch():
    modules = "icm_helpers.chapters, icm_helpers.tasks.models, icm_helpers.data.datasets, icm_helpers.cli"
    code = f"import sys, {modules}; [icm_helpers.chapters.named(n) for n in icm_helpers.chapters.NAMES]; "
    code += "print(sorted({'torch', 'cv2', 'compressai', 'pandas', 'matplotlib'} & sys.modules.keys()))"
    told = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert told.strip() == "[]"


def test_losses_are_found_by_name_and_no_name_is_taken_twice():
    assert {"mse", "object-region", "sa-icm"} <= set(objectives.names()) and "nerv" in objectives.names(video=True)
    with pytest.raises(ValueError, match="no loss is called 'mae'; known: mse, object-region"):
        objectives.named("mae")
    with pytest.raises(ValueError, match="a loss is called 'mse' already"):
        objectives.register(type("Another", (MSE,), {}))
