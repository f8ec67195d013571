"""Edges that people draw: read as they were drawn, and met as the definition says."""

import numpy as np
import pytest
from faster_coco_eval.core import mask as rle
from PIL import Image

from icm_helpers import edges
from icm_helpers.data import DataError, bsds, datasets


def test_people_s_maps_are_read_with_their_photograph(real_data):
    first, second = list(bsds.photos(real_data / "bsds500_test", every=100))
    assert first.image.shape == (3, *first.maps[0].shape) and 4 <= len(first.maps) <= 8
    assert all(drawn.min() == 0 and drawn.max() > 0 for drawn in first.maps + second.maps)


def test_a_photograph_without_a_map_of_its_size_is_an_error(tmp_path):
    for folder, name, size in (("images", "1.jpg", (8, 6)), ("segments", "1_0.png", (6, 8))):
        (tmp_path / folder).mkdir()
        Image.fromarray(np.zeros(size, np.uint8)).save(tmp_path / folder / name)
    with pytest.raises(DataError, match=r"1\.jpg is \(8, 6\), its maps are {\(6, 8\)}"):
        next(bsds.photos(tmp_path))
    with pytest.raises(DataError, match="set ICM_REAL_DATA"):
        next(bsds.photos(tmp_path / "images"))


def test_an_edge_is_met_within_the_tolerance_and_by_anybody():
    drawn = np.zeros((20, 20), bool)
    drawn[10] = True
    near, far = np.roll(drawn, 4, axis=0), np.roll(drawn, 5, axis=0)
    assert edges.matches(drawn, [near]) == (20, 20, 20, 20)
    assert edges.matches(drawn, [far]) == (0, 20, 0, 20)
    assert edges.matches(drawn, [far, near]) == (20, 20, 20, 40)  # recall is of each person


def whole(image):
    """A mask of the whole picture, as an automatic pass returns it."""
    counts = rle.encode(np.ones(image.shape[1:], np.uint8, order="F"))["counts"].decode()
    return [{"rle": {"size": [*image.shape[1:]], "counts": counts}, "predicted_iou": 0.5, "stability_score": 0.5}]


def test_two_pictures_are_measured_with_all_their_kinds_of_edges(real_data, monkeypatch):
    monkeypatch.setenv("ICM_REAL_DATA", str(real_data))
    people = edges.scores([*edges.of_people(datasets.real_data() / "bsds500_test", 150, {"sam": lambda image: []})])
    maps = edges.scores([*edges.of_maps(datasets.real_data(), 2, {"sam": lambda image: []})])
    assert people["people"]["f"] > people["canny"]["f"] > people["sam"]["f"] == 0
    best = edges.best_masks(datasets.load("photos", "val"), 2, {"sam": lambda image: [], "whole": whole})
    assert best["sam"] == {"iou": 0, "masks": 0} and 0 < best["whole"]["iou"] < 1 and best["whole"]["masks"] == 1
    assert set(maps) == {"outlines", "sam", "canny"} and maps["outlines"]["precision"] > maps["canny"]["precision"]


def test_the_committed_numbers_are_a_table_of_both_truths():
    table = edges.table()
    assert len(table) == 8 and (table.astype(float) <= 1).all(axis=None)
    found = edges.best().astype(float)
    assert set(found.index) == {name for key, name in edges.NAMES.items() if key.startswith(("sam", "further"))}
    for name in ("sam", "further"):
        assert found.loc[edges.NAMES[f"{name}, all"], "masks"] > found.loc[edges.NAMES[name], "masks"]
