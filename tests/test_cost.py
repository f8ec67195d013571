"""What runs will cost, told before they are made."""

from dataclasses import replace

import pytest

from icm_helpers import chapters, cost, run
from icm_helpers.chapters.object_region_mse import SMOKE
from icm_helpers.codecs import zoo
from icm_helpers.tasks import training


def test_runs_that_differ_in_what_costs_nothing_are_told_together():
    recipes = [r for s in chapters.named("sa_nerv").studies("smoke") for r in s.recipes()]
    kinds = cost.kinds(recipes)
    assert sum(map(len, kinds)) == len(recipes) and len(kinds) == len({(r.codec.codec, r.method) for r in recipes})
    for same in kinds:
        assert len({r.method for r in same}) == 1


def test_a_codec_that_several_runs_share_is_trained_once(monkeypatch):
    trained = next(r for r in SMOKE.recipes() if r.method == "mse")
    judged_again = replace(trained, measured=replace(trained.measured, finetuned=(), finetune_steps=0))
    monkeypatch.setattr(cost, "estimate", lambda recipe, **how: cost.Cost(training=2.0, judging=1.0))
    *kinds, last = cost.table([trained, judged_again, replace(trained, codec=replace(trained.codec, seed=7))])
    assert len(kinds) == 3 and last.startswith("3 runs: 7 hours")


def test_the_cost_of_a_run_grows_with_its_steps_and_pictures(monkeypatch):
    recipe = next(r for r in SMOKE.recipes() if r.method == "mse")
    clock, codec = [0.0], zoo.load("mean-scale-small", weights=None)
    monkeypatch.setattr(cost.time, "monotonic", lambda: clock[0])

    def takes(seconds, made=None):
        def work(recipe, *rest, **how):
            clock[0] += 10 + seconds(recipe)  # ten seconds happen once
            return made

        return work

    monkeypatch.setattr(run, "train_codec", takes(lambda r: 2.0 * r.codec.training.steps, codec))
    monkeypatch.setattr(run, "finetuned", takes(lambda r: 3.0 * r.measured.finetune_steps))
    monkeypatch.setattr(run, "measured", takes(lambda r: 5.0 * r.pictures.images))
    long = replace(recipe, codec=replace(recipe.codec, training=replace(recipe.codec.training, steps=1800)))
    found = cost.estimate(replace(long, pictures=replace(long.pictures, images=720)), steps=2, device="cpu")
    assert found.training == pytest.approx(2 * 1800 / 3600) and found.judging == pytest.approx(5 * 720 / 3600)
    tuning = 3 * long.measured.finetune_steps + 5 * long.codec.training.train_images  # and these are coded
    assert found.tuning == pytest.approx(tuning / 3600)
    decoded = 4 * training.PNG * 128 * 128  # four pictures
    assert found.memory > 0.1 and found.disk == pytest.approx((4 * 4 * 444_875 + decoded) / 1e9)
