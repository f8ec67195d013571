"""What long runs need is looked for before their first hour."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from icm_helpers import chapters, cli, preflight, run
from icm_helpers.chapters.object_region_mse import PAPER, PAPER_VISDRONE, SMOKE
from icm_helpers.data import miniatures
from icm_helpers.ledger import report
from icm_helpers.tasks import models


@pytest.fixture
def smoke(monkeypatch):
    """Runs that need nothing but what is here."""
    return [r for r in SMOKE.recipes() if r.loss and r.loss.name == "mse"]


def test_runs_that_have_all_they_need_are_let_through(smoke):
    preflight.check(smoke, "cpu")


def test_an_absent_data_set_and_absent_weights_are_named_together_with_what_fetches_them(tmp_path, monkeypatch):
    monkeypatch.setenv("ICM_COCO", str(tmp_path))
    monkeypatch.setattr(models, "WEIGHTS", tmp_path)
    told = "\n".join(preflight.faults(PAPER.recipes()[:1], "cpu"))
    for wanted in ("coco2017 needs val2017/", "coco2017 needs train2017/", "icm datasets fetch coco2017"):
        assert wanted in told
    assert "icm datasets fetch yolov5m" in told and "icm datasets fetch mask-rcnn-r50" in told
    told = "\n".join(preflight.faults(chapters.named("sa_icm").studies("paper")[0].recipes(), "cpu"))
    assert "icm datasets fetch sam-vit-h" in told


def test_a_half_unpacked_data_set_is_found(tmp_path, monkeypatch):
    monkeypatch.setattr("icm_helpers.files.CACHE", tmp_path / "cache")
    named = miniatures.write(tmp_path, images=2, size=64, frames=1)
    monkeypatch.setenv("ICM_VISDRONE", str(named["ICM_VISDRONE"]))
    monkeypatch.setenv("ICM_SFU", str(named["ICM_SFU"]))
    told = "\n".join(preflight.faults(PAPER_VISDRONE.recipes()[:1], "cpu"))
    assert "visdrone: 2 of 548 pictures are there of val" in told and "visdrone: 2 of 6471" in told
    video = [r for r in chapters.named("sa_nerv").studies("paper")[0].recipes() if r.loss]
    told = "\n".join(preflight.faults(video[:1], "cpu"))
    assert "BQMall_832x480_60: 1 of 65 frames are there" in told


def test_other_weights_than_the_recipes_are_found(smoke):
    other = [replace(r, measured=replace(r.measured, detectors=("mask-rcnn-small@01234567",))) for r in smoke]
    (told,) = preflight.faults(other[:1], "cpu")
    assert "mask-rcnn-small: " in told and "the recipe asks for 01234567: these are other weights" in told


def test_too_small_a_disk_is_found(smoke, monkeypatch):
    monkeypatch.setattr(preflight.shutil, "disk_usage", lambda folder: SimpleNamespace(free=10_000))
    monkeypatch.setattr(run, "made", lambda recipe: False)
    with pytest.raises(preflight.PreflightError, match=r"0\.0 GB are free, about 0\.0 are needed: make room there"):
        preflight.check(smoke, "cpu")


def test_too_little_memory_of_the_gpu_is_found_by_one_step_of_each_kind(smoke, monkeypatch):
    def full(recipe, out, **how):
        assert (recipe.codec.training.steps, recipe.codec.training.batch) == (1, smoke[0].codec.training.batch)
        raise torch.OutOfMemoryError("tried to allocate 9 GB")

    monkeypatch.setattr(run.How, "place", torch.device("cuda"))
    monkeypatch.setattr(run, "train_codec", full)
    monkeypatch.setattr(run, "made", lambda recipe: False)
    (told,) = preflight.faults(smoke)
    assert "does not fit (tried to allocate 9 GB): use a GPU with more memory" in told


def test_a_grid_and_a_chapter_of_preset_paper_begin_with_it(tmp_path, monkeypatch):
    monkeypatch.setattr(preflight, "faults", lambda recipes, device: ["nothing is here"])
    with pytest.raises(SystemExit, match="54 runs were not begun:\n  nothing is here"):
        cli.main(["grid", "object_region_mse", "--preset", "paper"])
    with pytest.raises(preflight.PreflightError, match="nothing is here"):
        report.open("object_region_mse", "paper", rerun=True)
