"""VisDrone and Cityscapes, from files in their own formats: what counts, what is ignored, what is void."""

from collections import Counter

import numpy as np
import pytest

from icm_helpers import files
from icm_helpers.data import coco, datasets, formats, miniatures
from icm_helpers.evaluate import average_precision
from icm_helpers.panoptic import Panoptic, quality, tally

HEIGHT, WIDTH = 40, 80
BLACK = np.zeros((HEIGHT, WIDTH, 3), np.uint8)


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    """Conversions are kept below the test's own folder."""
    monkeypatch.setattr(files, "CACHE", tmp_path / "cache")


# --- VisDrone ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def drone(tmp_path):
    """Writes rows of annotations for one picture, and opens it."""

    def write(*rows: str) -> coco.CocoDataset:
        miniatures.visdrone_picture(tmp_path / "visdrone", "val", "0000001", BLACK, [row.split(",") for row in rows])
        return datasets.load("visdrone", "val", root=tmp_path / "visdrone")

    return write


def found(x: int, y: int, w: int, h: int, category: int, score: float = 0.9) -> dict:
    return {"image_id": 1, "category_id": category, "bbox": [x, y, w, h], "score": score}


def test_the_sample_of_visdrone_reads_as_its_rows_say(real_data, tmp_path):
    (tmp_path / "VisDrone2019-DET-val").symlink_to(real_data / "visdrone_sample")
    dataset = datasets.load("visdrone", "val", root=tmp_path)
    rows = [
        [int(v) for v in line.rstrip(",").split(",")]
        for path in sorted((real_data / "visdrone_sample" / "annotations").glob("*.txt"))
        for line in path.read_text().splitlines()
    ]
    ignored = [row for row in rows if row[5] == 0]
    truth = dataset.ground_truth()["annotations"]
    assert len(dataset) == 2 and dataset.categories[4] == "car" and len(dataset.categories) == 10
    assert sum(a["iscrowd"] for a in truth) == 10 * len(ignored) > 0
    counted = Counter(a["category_id"] for a in truth if not a["iscrowd"])
    assert (
        set(counted) == {row[5] for row in rows} - {0} and 0 <= sum(row[5] > 0 for row in rows) - counted.total() < 10
    )
    boxes = {tuple(a["bbox"]) for a in truth}
    assert (871, 572, 54, 92) in boxes and dataset[0].image.shape == (3, 1080, 1920)


def test_detections_in_ignored_regions_and_on_rows_of_score_0_are_no_errors(drone):
    dataset = drone("2,2,10,10,1,4,0,0", "20,2,10,10,0,4,0,0", "40,0,40,40,0,0,0,0", "50,5,8,8,1,1,0,0")
    car = found(2, 2, 10, 10, 4, score=0.1)
    # Better scored than the car: were one of them wrong, the precision would fall. The pedestrian at 50, 5 does not count.
    excused = [found(20, 2, 10, 10, 4), found(50, 20, 10, 10, 4), found(60, 5, 10, 10, 1)]
    assert average_precision(dataset.ground_truth(), [car, *excused])[0]["ap"] == pytest.approx(1)
    wrong = found(2, 20, 10, 10, 4)
    assert average_precision(dataset.ground_truth(), [car, wrong])[0]["ap"] == pytest.approx(0.5)


def test_others_are_left_out_and_a_comma_at_the_end_is_none_of_ours(drone):
    dataset = drone("2,2,10,10,1,11,0,0,", "20,2,10,10,1,10,0,0,")
    assert [a["category_id"] for a in dataset.ground_truth()["annotations"]] == [10]


def test_a_damaged_row_and_missing_files_are_named(drone, tmp_path):
    with pytest.raises(formats.DataError, match=r"0000001.txt or .* is damaged .row '1,2,3' is not x,y,width,height"):
        drone("1,2,3")
    (tmp_path / "visdrone" / "VisDrone2019-DET-val" / "annotations" / "0000001.txt").unlink()
    with pytest.raises(formats.DataError, match=r"0000001.jpg has no annotations .*0000001.txt"):
        datasets.load("visdrone", "val", root=tmp_path / "visdrone")
    for name in ("visdrone", "cityscapes"):
        with pytest.raises(formats.DataError, match=rf"{name} needs .*datasets fetch {name}` gets it, or says how"):
            datasets.load(name, "val", root=tmp_path / "nowhere")


def test_a_changed_annotation_is_read_again_and_an_unchanged_one_is_not(drone, monkeypatch):
    assert len(drone("2,2,10,10,1,4,0,0").ground_truth()["annotations"]) == 1
    assert len(drone("2,2,10,10,1,4,0,0", "20,2,10,10,1,4,0,0").ground_truth()["annotations"]) == 2
    folder = formats.converted("x", [], lambda: {"instances": {}}, files.CACHE)
    assert formats.converted("x", [], lambda: pytest.fail("read again"), files.CACHE) == folder


# --- Cityscapes ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def street(tmp_path):
    """Two columns each of road, two cars, a group of cars, a caravan, unlabelled pixels, and sky."""
    ids = np.repeat([7, 26000, 26001, 26, 29000, 0, 23, 23], WIDTH // 8).astype(np.uint16)
    for city in ("frankfurt", "lindau"):
        shown = BLACK, np.tile(ids, (HEIGHT, 1))
        miniatures.cityscapes_picture(tmp_path, "val", city, f"{city}_000000_000019", *shown)
    return tmp_path


def test_cityscapes_has_its_things_its_stuff_and_its_groups(street):
    dataset = datasets.load("cityscapes", "val", root=street)
    sample, truth = dataset[1], dataset.panoptic[dataset.ids[1]]
    assert sample.name == "lindau/lindau_000000_000019_leftImg8bit.png" and sample.labels.tolist() == [26, 26, 26]
    assert dict(zip(sample.boxes[:, 0].tolist(), sample.crowd.tolist(), strict=True)) == {
        10: False,
        20: False,
        30: True,
    }
    assert sample.masks.sum((1, 2)).tolist() == [400, 400, 400]
    kinds = {s["id"]: (s["category_id"], s["iscrowd"]) for s in truth.segments}
    assert kinds == {7: (7, 0), 23: (23, 0), 26: (26, 1), 26000: (26, 0), 26001: (26, 0)}
    assert len(dataset.panoptic.categories) == 19 and len(dataset.panoptic.things) == 8
    assert set(np.unique(dataset.panoptic.semantic(dataset.ids[1]))) == {0, 7, 23, 26}


def test_a_caravan_called_a_truck_is_void_on_cityscapes(street):
    dataset = datasets.load("cityscapes", "val", root=street)
    truth = dataset.panoptic[dataset.ids[0]]
    kinds = {7: 7, 23: 23, 26000: 26, 26001: 26, 29000: 27}
    guess = Panoptic(truth.ids, [{"id": i, "category_id": k} for i, k in kinds.items()])
    assert quality(tally(truth, guess, sorted(dataset.panoptic.categories))).tolist() == [1, 1, 1]


def test_a_broken_map_of_cityscapes_is_named(street):
    path = street / "gtFine" / "val" / "lindau" / "lindau_000000_000019_gtFine_instanceIds.png"
    path.write_bytes(b"no picture")
    with pytest.raises(formats.DataError, match=r"lindau_000000_000019_gtFine_instanceIds.png is missing or damaged"):
        datasets.load("cityscapes", "val", root=street)
