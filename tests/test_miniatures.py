"""Miniatures of the papers' data sets are read by the readers of the real ones, which are not told."""

import numpy as np
import pytest

from icm_helpers import files
from icm_helpers.chapters.sa_nerv import VIDEOS_PAPER
from icm_helpers.data import datasets, downloads, miniatures
from icm_helpers.tasks import models


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    return miniatures.write(tmp_path_factory.mktemp("miniatures"), images=2, size=96, frames=2)


@pytest.fixture(autouse=True)
def _here(written, tmp_path, monkeypatch):
    monkeypatch.setattr(files, "CACHE", tmp_path)
    for name, folder in written.items():
        monkeypatch.setenv(name, str(folder))


@pytest.mark.parametrize("split", miniatures.SPLITS)
@pytest.mark.parametrize(("name", "kinds"), [("coco2017", 80), ("visdrone", 10), ("cityscapes", 8)])
def test_pictures_come_with_their_objects_and_their_panoptic_maps(name, kinds, split):
    dataset = datasets.load(name, split)
    assert len(dataset) == 2 and len(dataset.categories) == kinds and not dataset.skipped
    sample = dataset[0]
    assert max(sample.image.shape[1:]) == 96 and len(sample.boxes) > 0 < sample.object_mask.mean() < 1
    if name != "visdrone":
        truth = dataset.panoptic[dataset.ids[0]]
        assert {s["id"] for s in truth.segments} == set(np.unique(truth.ids)) and len(
            dataset.panoptic.categories
        ) > kinds


def test_a_polygon_of_coco_covers_what_its_panoptic_map_shows():
    dataset = datasets.load("coco2017", "val")
    sample, truth = dataset[0], dataset.panoptic[dataset.ids[0]]
    things = np.isin(truth.ids, [s["id"] for s in truth.segments if s["category_id"] in dataset.panoptic.things])
    assert (sample.object_mask[0].numpy() == things).mean() > 0.97


@pytest.mark.parametrize("clip", VIDEOS_PAPER.clips)
def test_sequences_have_their_own_size_and_their_objects(clip):
    video = datasets.clip("sfu", clip, VIDEOS_PAPER.frames)
    assert video.frames.shape == (2, 3, *((480, 832) if "832x480" in clip else (240, 416)))
    assert len(video.boxes[0]) > 0 and 0.1 < video.frames.mean() < 0.9 and video.frames[0].ne(video.frames[1]).any()


def test_what_the_manifest_says_is_unpacked_is_what_the_readers_read(written):
    """Readers open the miniatures, every file of them; a layout that agrees with these is one that readers can read."""
    for variable, folder in written.items():
        files = [file for asset in downloads.assets().values() if asset.variable == variable for file in asset.files]
        patterns = [pattern for file in files for pattern in (file.layout or [file.name])]
        matched = {pattern: set(folder.glob(pattern)) for pattern in patterns}
        assert all(matched.values()), f"{variable}: {[p for p, found in matched.items() if not found]}"
        assert set.union(*matched.values()) == {path for path in folder.rglob("*") if path.is_file()}


def test_every_weight_file_that_a_model_reads_is_listed_or_made_or_shipped():
    listed = {file.name for asset in downloads.assets().values() for file in asset.files}
    for name, model in models.MODELS.items():
        if str(model.adapter).startswith("icm_helpers.") and name != "yolox-nano":  # which no program may fetch
            path = model.file()
            assert path.name in listed or model.made or path.is_file(), f"nothing says where {name}'s {path} comes from"


def test_yolov7_is_exported_in_a_form_that_its_reader_takes():
    assert "--grid --img-size 640 640" in downloads.assets()["yolov7"].ask
