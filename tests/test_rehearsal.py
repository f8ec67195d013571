"""Paper scale, rehearsed: the studies are the paper's with fewer of everything, and rows of the table say what happened."""

from dataclasses import replace

import pytest

from icm_helpers import chapters, rehearsal
from icm_helpers.ledger import rehearsed
from icm_helpers.tasks import models

FEWER = {"images", "steps", "batch", "patch", "train_images", "lmbdas", "ladders", "anchors"}
FEWER |= {"finetune_steps", "finetune_batch", "finetune_images", "frames", "epochs", "tune_epochs", "clips", "points"}
OTHER_WEIGHTS = {"start", "detectors", "teacher", "segmenter"}


@pytest.mark.parametrize("name", chapters.NAMES)
def test_a_rehearsal_is_the_paper_with_fewer_of_everything(name, tmp_path, monkeypatch):
    (tmp_path / "cheng2020_attn-mse-4-f7b0ccf2.pth.tar").write_bytes(b"weights")
    (tmp_path / "fingerprints.json").write_text('{"sam-vit-b": "01234567"}')
    monkeypatch.setattr(models, "WEIGHTS", tmp_path)
    chapter = chapters.named(name)
    for study, small in zip(chapter.studies("paper"), chapter.studies("rehearsal"), strict=True):
        asked, told = study.settings(), small.settings()
        assert {k for k in asked if asked[k] != told.get(k)} <= FEWER | OTHER_WEIGHTS
        assert not small.ledger and len(small.recipes()) < len(study.recipes())
        stand_ins = rehearsed.SMALLER | rehearsed.WITHOUT_DETECTRON2
        usual = {detector: {detector, stand_ins.get(detector)} - {None} for detector in asked.get("detectors", ())}
        assert all(any(told_by in names for names in usual.values()) for told_by in told.get("detectors", ()))
        segmenters = {getattr(recipe.loss, "segmenter", None) for recipe in small.recipes()}
        assert segmenters <= {None, "sam-vit-b@01234567"}  # with the rehearsal's own fingerprint


def test_parts_of_a_rehearsal_run_and_what_cannot_is_said(tmp_path):
    named, written = rehearsal.prepared(tmp_path, ["yolov5m", "mask-rcnn-d2"], images=2, size=96, frames=1)
    rows = {row.ingredient: row for row in rehearsal.ROWS}

    def done(row):
        return rehearsal.done(row, named, written)

    for name in ("VisDrone-DET, its cars", "Cityscapes, its cars"):
        row = done(rows[name])
        assert (row.status, row.seconds > 0, row.memory > 0.1) == ("runs", True, True), row.status
    if written["mask-rcnn-d2"] != "written":
        row = done(rows["Mask R-CNN R50-FPN of detectron2"])
        assert row.status == "not installed: detectron2" and "not installed" in rehearsal.table([row])
    absent = replace(rows["VisDrone-DET, its cars"], command="env ICM_VISDRONE=/nowhere icm judge --data visdrone")
    assert done(absent).status.startswith("fails: ")
