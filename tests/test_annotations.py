"""Annotation files of every kind are read as they are meant, or refused by name: found faults, their relatives, random ones."""

import json
import resource
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from faster_coco_eval.core import mask as rle
from hypothesis import event, example, given
from hypothesis import strategies as st
from PIL import Image

from icm_helpers import evaluate, masks
from icm_helpers.codecs.classical import Png
from icm_helpers.data import DataError, datasets, video
from icm_helpers.data.coco import CocoDataset, PanopticTruth, require_categories
from icm_helpers.panoptic import Panoptic
from icm_helpers.tasks import training

WIDTH, HEIGHT = 64, 48
TRIANGLE = [5, 6, 17, 6, 5, 26]
INF, NAN = float("inf"), float("nan")


def content() -> dict:
    """Three pictures and four objects; the first is a triangle of 118 pixels in a box of 240."""
    images = [{"id": i, "file_name": f"{i}.png", "width": WIDTH, "height": HEIGHT} for i in (1, 2, 3)]
    annotations = []
    for n, (image, category) in enumerate(((1, 7), (1, 3), (2, 7), (3, 3))):
        x = 5 + 10 * n
        corners = TRIANGLE if n == 0 else [x, 6, x + 12, 6, x + 12, 26, x, 26]
        box = {"bbox": [x, 6, 12, 20], "area": 240, "iscrowd": 0, "segmentation": [corners]}
        annotations.append({"id": n + 1, "image_id": image, "category_id": category, **box})
    named = [{"id": 3, "name": "car"}, {"id": 7, "name": "dog"}]
    return {"images": images, "annotations": annotations, "categories": named}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Three pictures; an annotation file lies beside their folder."""
    folder = tmp_path_factory.mktemp("coco")
    (folder / "images" / "sub").mkdir(parents=True)
    for i, name in enumerate(("1.png", "2.png", "3.png", "sub/1.png"), start=1):
        Image.new("RGB", (WIDTH, HEIGHT), (40 * i, 80, 120)).save(folder / "images" / name)
    Image.new("RGB", (WIDTH, HEIGHT)).save(folder / "outside.png")
    return folder


def opened(folder: Path, written: dict | list | str | bytes) -> CocoDataset:
    raw = written if isinstance(written, bytes) else json.dumps(written).encode()
    (folder / "a.json").write_bytes(raw)
    return CocoDataset(folder / "images", folder / "a.json")


def changed(where: str, value: object, among: str = "annotations", index: int = 0) -> dict:
    whole = content()
    whole[among][index][where] = value
    return whole


# --- ids -----------------------------------------------------------------------------------------------------------------


FOREIGN = {
    "as they are": (1, 2, 3),
    "from 0": (0, 1, 2),
    "huge": (20230101123456780, 20230101123456781, 20230101123456782),
    "of more than 64 bits": (10**30, 10**30 + 1, 10**30 + 2),
    "negative": (-3, -2, -1),
    "text": ("0b9c-a", "a/../b", "ü 1"),
    "numbers as text": ("1", "2", "10"),
    "whole floats": (1.0, 2.0, 3.0),
    "of both kinds": (5, "a", "b"),
}


@pytest.mark.parametrize("ids", FOREIGN.values(), ids=FOREIGN)
def test_image_ids_of_every_kind_tell_pictures_apart_and_are_given_back(folder, ids):
    whole, new = content(), dict(zip((1, 2, 3), ids, strict=True))
    for entry in whole["images"]:
        entry["id"] = new[entry["id"]]
    for entry in whole["annotations"]:
        entry["image_id"] = new[entry["image_id"]]
    dataset = opened(folder, whole)
    assert set(dataset.ids) == set(ids) and len(dataset.ids) == 3

    def found(swapped: bool) -> list[dict]:
        other = {ids[1]: ids[2], ids[2]: ids[1]} if swapped else {}
        one = (
            (s.image_id, {"boxes": s.boxes, "labels": s.labels, "scores": torch.ones(len(s.labels))}) for s in dataset
        )
        return [entry for i, of in one for entry in evaluate.coco_results(other.get(i, i), of)]

    truth, draws = dataset.ground_truth(dataset.ids), evaluate.resamplings(dataset.ids, 4)
    summary, replicates = evaluate.average_precision(truth, found(swapped=False), samples=draws)
    assert summary["ap"] == pytest.approx(1) and replicates == pytest.approx([1.0] * 4)
    two = {part: [e for e in of if e.get("image_id", e["id"]) != ids[0]] for part, of in truth.items()}
    two["categories"] = truth["categories"]
    wrong = [entry for entry in found(swapped=True) if entry["image_id"] != ids[0]]
    assert evaluate.average_precision(two, wrong)[0]["ap"] == 0
    result, _ = evaluate.evaluate(Png(), dataset, {}, {}, progress=False)
    assert json.loads(json.dumps(result["per_image"]["id"])) == dataset.ids
    stored = {masks.file("m", i) for i in dataset.ids}
    assert len(stored) == 3 and {path.parent for path in stored} == {Path("m")}


def test_draws_of_small_ids_stay_as_every_record_has_them():
    assert evaluate.resamplings([3, 5, 8], 1).tolist() == [[2, 1, 2]]
    assert evaluate.resamplings(range(4), 1).tolist() == [[3, 3, 0, 1]]


@pytest.mark.parametrize("own", [(3, 7), (0, 1), ("d", "c"), (-5, -1), (10**25, 10**30), (3.0, 7.0)])
def test_category_ids_of_every_kind_become_numbers_that_networks_take(folder, own):
    whole, new = content(), dict(zip((3, 7), own, strict=True))
    for entry in whole["categories"]:
        entry["id"] = new[entry["id"]]
    for entry in whole["annotations"]:
        entry["category_id"] = new[entry["category_id"]]
    dataset = opened(folder, whole)
    assert all(0 <= i < 1 << 31 for i in dataset.categories)
    assert [dataset.categories[i] for i in dataset[0].labels.tolist()] == ["dog", "car"]
    if own in ((3, 7), (0, 1), (3.0, 7.0)):
        assert list(dataset.categories) == list(own)
    require_categories(dataset, dataset.categories, "itself")


# --- every field ---------------------------------------------------------------------------------------------------------


GOOD = {  # what can be meant in only one way
    "sizes as floats": changed("width", 64.0, "images"),
    "sizes as text": changed("width", "64", "images"),
    "a crowd as false": changed("iscrowd", False),
    "a crowd as text": changed("iscrowd", "0"),
    "no crowd": changed("iscrowd", None),
    "no area": changed("area", None),
    "an area as text": changed("area", "240"),
    "no id": changed("id", None),
    "an id twice": changed("id", 2),
    "an id as text": changed("id", "a"),
    "numbers as text": changed("bbox", ["5", "6", 12.0, 2e1]),
    "a score": changed("score", "high"),
    "keypoints": changed("keypoints", [NAN, None, {}]),
    "attributes": changed("attributes", {"occluded": INF}),
    "an unused size": changed("license", NAN, "images"),
    "a supercategory": changed("supercategory", 5, "categories"),
    "isthing": changed("isthing", "yes", "categories"),
    "a folder": changed("file_name", "sub/1.png", "images"),
    "the same folder": changed("file_name", "./1.png", "images"),
    "no licences": {**content(), "licenses": None, "info": [NAN]},
    "a byte-order mark": b"\xef\xbb\xbf" + json.dumps(content()).encode(),
    "16 bits a letter": json.dumps(content()).encode("utf-16"),
    "empty polygons too": changed("segmentation", [[], TRIANGLE]),
    "two points too": changed("segmentation", [[1, 2, 3, 4], TRIANGLE]),
}


@pytest.mark.parametrize("written", GOOD.values(), ids=GOOD)
def test_what_can_be_meant_in_only_one_way_is_read(folder, written):
    sample = opened(folder, written)[0]
    assert sample.boxes[0].tolist() == [5, 6, 17, 26] and not sample.crowd.any()
    assert sample.masks[0].sum() == 118


BAD_VALUES = {
    "images": {
        "id": (None, True, 1.5, NAN, 1e30, [1], {}, 2),
        "file_name": (
            None,
            1,
            "",
            ".",
            "..",
            "../outside.png",
            "sub/../1.png",
            "..\\outside.png",
            "C:\\1.png",
            "/etc/hostname",
            "none.png",
            "1.png\0",
            "x" * 5000,
            "y" * 300 + "/1.png",
            "2.png",
            "./2.png",
            "sub",
            "\ud800",
        ),
        "width": (None, 0, -64, 63.5, "wide", True, NAN, INF, 10**30, 1e30, 65, [64], HEIGHT),
        "height": (0, 2**31, 49),
    },
    "categories": {"id": (None, True, 0.5, [3], 7, 8, "3"), "name": (None, 3, [], {})},
    "annotations": {
        "id": (True, 1.5, [1], {}, NAN),
        "image_id": (None, True, 4, -1, "1", 1.5, 1e30, NAN, [1]),
        "category_id": (None, True, 1, "7", 7.5, [7]),
        "iscrowd": (2, -1, "x", [], 0.5, NAN),
        "area": (-1, NAN, INF, 1e30, 1e300, "x", True, [240], WIDTH * HEIGHT + 100),
        "bbox": (
            None,
            [],
            [5, 6, 12],
            [5, 6, 12, 20, 1],
            [5, 6, 12, NAN],
            [5, INF, 12, 20],
            [5, 6, 12, -INF],
            [5, 6, 1e30, 20],
            [5, 6, 12, 1e400],
            [5, 6, 12, 10**400],
            [True, 6, 12, 20],
            [[5, 6], [12, 20]],
            {"x": 5},
            "5, 6, 12, 20",
            ["a", 6, 12, 20],
            [5, 6, None, 20],
            5,
        ),
        "segmentation": (
            TRIANGLE,
            [[[5, 6], [17, 6], [5, 26]]],
            [[5, 6], [17, 6], [5, 26]],
            [[{"x": 5, "y": 6}, {"x": 17, "y": 6}, {"x": 5, "y": 26}]],
            "[[5, 6, 17, 6, 5, 26]]",
            "",
            5,
            True,
            {},
            [{"size": [HEIGHT, WIDTH], "counts": [HEIGHT * WIDTH]}],
            [[5, 6, NAN, 6, 17, 26, 5, 26]],
            [[5, 6, INF, 6, 17, 26, 5, 26]],
            [[5, 6, 1e300, 6, 17, 26]],
            [[5, 6, 10**400, 6, 17, 26]],
            [[5, 6, None, 6, 17, 26]],
            [[5, 6, True, 6, 17, 26]],
            [[5, 6, 17, 6, 5]],
            [[5, 6]],
            [TRIANGLE, [5]],
            [[1e6, -1e6] * 50 + [-1e6, 1e6] * 50],
            [[1e6, 1e6, -1e6, -1e6] * 5000],
            {"size": [HEIGHT, WIDTH], "counts": []},
            {"size": [HEIGHT, WIDTH], "counts": ""},
            {"size": [HEIGHT, WIDTH], "counts": [HEIGHT * WIDTH - 1]},
            {"size": [HEIGHT, WIDTH], "counts": [HEIGHT * WIDTH + 1]},
            {"size": [HEIGHT, WIDTH], "counts": [HEIGHT * WIDTH + 5, -5]},
            {"size": [HEIGHT, WIDTH], "counts": [HEIGHT * WIDTH, 1 << 32]},
            {"size": [HEIGHT, WIDTH], "counts": [HEIGHT * WIDTH - 0.5, 0.5]},
            {"size": [WIDTH, HEIGHT], "counts": [HEIGHT * WIDTH]},
            {"size": [HEIGHT], "counts": [HEIGHT * WIDTH]},
            {"size": None, "counts": [HEIGHT * WIDTH]},
            {"size": [HEIGHT, WIDTH]},
            {"size": [HEIGHT, WIDTH], "counts": None},
            *({"size": [HEIGHT, WIDTH], "counts": text} for text in ("o", "P" * 60, "~~~~", "\0", "é", "0", "1" * 9)),
        ),
    },
}
BAD = [(part, key, value) for part, keys in BAD_VALUES.items() for key, values in keys.items() for value in values]


@pytest.mark.parametrize(("part", "key", "value"), BAD, ids=lambda v: repr(v)[:40].encode("ascii", "replace").decode())
def test_a_value_that_cannot_be_meant_is_refused_on_opening_with_file_and_place(folder, part, key, value):
    with pytest.raises(DataError, match=r"a\.json|images/sub|\.png ") as told:
        dataset = opened(folder, changed(key, value, part))
        dataset[0]  # what only the picture itself tells: its size, and whether it is a picture
        pytest.fail("it was read")
    said = str(told.value)
    assert len(said) < 20_000
    if part == "annotations":
        assert "annotations[0]" in said or "annotation 1" in said, said


@pytest.mark.parametrize("part", ["images", "annotations", "categories"])
@pytest.mark.parametrize("value", [None, {}, "x", 5, [5], [None], [[]]])
def test_lists_that_are_none_are_refused(folder, part, value):
    with pytest.raises(DataError, match=rf"a\.json is not in COCO's format .*{part}"):
        opened(folder, {**content(), part: value})
    with pytest.raises(DataError, match=rf"a\.json is not in COCO's format .*{part}"):
        opened(folder, {k: v for k, v in content().items() if k != part})


def test_a_required_key_that_is_missing_is_named(folder):
    for part, keys in (
        ("images", ("id", "file_name", "width", "height")),
        ("categories", ("id", "name")),
        ("annotations", ("image_id", "category_id", "bbox")),
    ):
        for key in keys:
            whole = content()
            del whole[part][0][key]
            with pytest.raises(DataError, match=rf"field `{key}` - at `\$\.{part}\[0\]`"):
                opened(folder, whole)


@pytest.mark.parametrize(
    "raw",
    [b"", b"{", b"[]", b"null", b"NaN", b"\xff\xfe\x00", b"\x89PNG", b"[" * 200_000, b'{"a":' * 200_000, b"{} {}"],
    ids=lambda raw: repr(raw[:8]),
)
def test_what_is_no_annotation_file_is_refused(folder, raw):
    with pytest.raises(DataError, match=r"a\.json is not in COCO's format"):
        opened(folder, raw)
    whole = json.dumps(content()).encode()
    for end in range(0, len(whole), 97):
        with pytest.raises(DataError, match=r"a\.json is not in COCO's format"):
            opened(folder, whole[:end])


def test_an_object_far_larger_than_its_picture_still_counts(folder):
    whole = changed("bbox", [-400_000, -400_000, 900_000, 900_000])
    whole["annotations"][0]["area"] = 900_000**2
    truth = opened(folder, whole).ground_truth()
    assert truth["annotations"][0]["bbox"] == [0, 0, WIDTH, HEIGHT]
    perfect = [{k: a[k] for k in ("image_id", "category_id", "bbox")} | {"score": 1.0} for a in truth["annotations"]]
    assert evaluate.average_precision(truth, perfect[1:])[0]["ap"] < 1


def test_run_lengths_of_both_kinds_and_polygons_give_one_mask(folder):
    packed = rle.merge(rle.frPyObjects([TRIANGLE], HEIGHT, WIDTH))
    pixels = np.concatenate([[0], rle.decode(packed).ravel(order="F")])
    edges = np.flatnonzero(np.diff(np.concatenate([pixels, [2]])))
    runs = np.diff(np.concatenate([[0], edges])).tolist()
    size = [HEIGHT, WIDTH]
    forms = ([TRIANGLE], {"size": size, "counts": packed["counts"].decode()}, {"size": size, "counts": runs})
    for form in (*forms, {"size": [float(v) for v in size], "counts": [float(v) for v in runs]}):
        dataset = opened(folder, changed("segmentation", form))
        assert dataset[0].masks[0].sum() == 118 and dataset.outlined
        perfect = [
            {k: a[k] for k in ("image_id", "category_id", "segmentation")}
            for a in dataset.ground_truth()["annotations"]
        ]
        drawn = [p | {"segmentation": packed, "score": 1.0} for p in perfect[:1]]
        truth = dataset.ground_truth()
        truth["annotations"] = truth["annotations"][:1]
        assert evaluate.average_precision(truth, drawn, "segm")[0]["ap"] == pytest.approx(1)


def test_a_set_of_crowds_alone_says_so_and_teaches_no_detector(folder):
    whole = content()
    for item in whole["annotations"]:
        item["iscrowd"] = 1
    crowds, nothing = opened(folder, whole), opened(folder, {**content(), "annotations": []})
    assert crowds.emptiness == "every annotation is a crowd" and nothing.emptiness == "no object is annotated"
    assert opened(folder, content()).emptiness == ""
    for dataset, why in ((crowds, "every annotation is a crowd"), (nothing, "no object is annotated")):
        with pytest.raises(DataError, match=rf"a\.json: {why}, so a detector learns nothing"):
            training.untrained("mask-rcnn-small", dataset)
    assert evaluate.average_precision(crowds.ground_truth(), [])[0] == {}


# --- other formats -------------------------------------------------------------------------------------------------------


def panoptic(folder: Path, **changes: object) -> PanopticTruth:
    """A map of two segments, 1 above 300, and void below, in colours."""
    ids = np.zeros((HEIGHT, WIDTH), np.int32)
    ids[:10], ids[10:20] = 1, 300
    (folder / "maps").mkdir(exist_ok=True)
    colours = np.stack([ids >> shift & 255 for shift in (0, 8, 16)], -1).astype(np.uint8)
    Image.fromarray(colours).save(folder / "maps" / "1.png")
    segments = [{"id": 1, "category_id": 3, "area": 640, "iscrowd": 0}, {"id": 300, "category_id": 9}]
    whole = {
        "images": content()["images"][:1],
        "annotations": [{"image_id": 1, "file_name": "1.png", "segments_info": segments}],
        "categories": [{"id": 3, "name": "car", "isthing": 1}, {"id": 9, "name": "road", "isthing": 0}],
    }
    (folder / "panoptic.json").write_text(json.dumps(whole | changes))
    return PanopticTruth(folder / "panoptic.json", folder / "maps")


def test_panoptic_maps_mean_the_same_in_colours_in_a_palette_and_in_grey(tmp_path):
    truth, path = panoptic(tmp_path), tmp_path / "maps" / "1.png"
    ids = truth[1].ids
    assert [(s["id"], s["category_id"], s["iscrowd"]) for s in truth[1].segments] == [(1, 3, 0), (300, 9, 0)]
    assert truth.categories == {3: "car", 9: "road"} and truth.things == {3}
    colours = Image.open(path).convert("RGB")
    for form in (colours.convert("P", palette=Image.Palette.ADAPTIVE), colours.convert("RGBA")):
        form.save(path)
        assert (truth[1].ids == ids).all()
    Image.fromarray(ids.astype(np.uint16)).save(path)
    assert (truth[1].ids == ids).all() and set(np.unique(truth.semantic(1))) == {0, 3, 9}


@pytest.mark.parametrize("mode", ["LA", "1", "L", "CMYK", "F"])
def test_panoptic_maps_of_other_pixels_are_named(tmp_path, mode):
    truth, path = panoptic(tmp_path), tmp_path / "maps" / "1.png"
    Image.new(mode, (WIDTH, HEIGHT)).save(path, format="TIFF")
    with pytest.raises(DataError, match=r"1\.png"):
        truth[1]
    Image.new("RGB", (WIDTH, HEIGHT + 1), (1, 0, 0)).save(path)
    with pytest.raises(DataError, match=r"1\.png .* size \(49, 64\), its image \(48, 64\)"):
        truth[1]
    Image.fromarray(np.full((HEIGHT, WIDTH), 2**31 - 1, np.int32)).save(path, format="TIFF")
    with pytest.raises(DataError, match=r"1\.png .* 24 bits"):
        truth[1]


def test_a_panoptic_map_of_another_size_than_its_picture_is_named(tmp_path):
    guess = Panoptic(np.zeros((HEIGHT, WIDTH + 1), np.int32), [])
    with pytest.raises(DataError, match=r"the map of image 1 in .*maps has size \(48, 64\), the image \(48, 65\)"):
        evaluate.panoptic_tally(panoptic(tmp_path), 1, guess)


SEGMENT = {"id": 1, "category_id": 3}
BAD_SEGMENTS = {
    "0, which is void": {"id": 0},
    "of more than 24 bits": {"id": 1 << 24},
    "none": {"id": None},
    "of no category": {"category_id": 4},
    "of the category that is void": {"category_id": 0},
    "half a crowd": {"iscrowd": 2},
}


@pytest.mark.parametrize("change", BAD_SEGMENTS.values(), ids=BAD_SEGMENTS)
def test_bad_segments_are_refused_with_file_and_image(tmp_path, change):
    entry = {"image_id": 1, "file_name": "1.png", "segments_info": [SEGMENT | change]}
    with pytest.raises(DataError, match=r"panoptic\.json .*(annotations\[0\]|image 1)"):
        panoptic(tmp_path, annotations=[entry])[1]


def test_bad_panoptic_files_are_refused(tmp_path):
    entry = {"image_id": 1, "file_name": "1.png", "segments_info": [SEGMENT]}
    car = {"id": 3, "name": "car", "isthing": 1}
    for changes, match in (
        ({"annotations": [entry, entry]}, "map of image 1 twice"),
        ({"annotations": [entry | {"segments_info": [SEGMENT, SEGMENT]}]}, "of image 1 segment 1 twice"),
        ({"annotations": [entry | {"file_name": "../maps/1.png"}]}, "is not in the folder"),
        ({"categories": [car, car]}, "category 3 twice"),
        ({"categories": [car | {"isthing": "maybe"}]}, r"categories\[0\].isthing"),
        ({"categories": [car | {"id": 0}]}, r"categories\[0\].id"),
        ({"categories": [car | {"id": "3"}, car]}, "category 3 twice"),
        ({"categories": None}, "categories"),
    ):
        with pytest.raises(DataError, match=rf"panoptic\.json .*{match}"):
            panoptic(tmp_path, **changes)[1]


@pytest.fixture(scope="module")
def sequence(tmp_path_factory) -> tuple[Path, Path]:
    """A raw sequence of 32 x 16 at 24 frames a second, each as bright as its number; frame 207 is the first one annotated."""
    folder = tmp_path_factory.mktemp("sfu")
    frames = np.full((216, 24, 32), 128, np.uint8)
    frames[:, :16] = np.arange(216)[:, None, None]
    (folder / "Walk_32x16_24Hz_8bit_P420.yuv").write_bytes(frames.tobytes())
    return folder / "Walk_32x16_24Hz_8bit_P420.yuv", folder / "Walk_32x16_24_val.json"


def walk(sequence: tuple[Path, Path], ids: tuple, **changes: object) -> video.Video:
    item = {"bbox": [2.0, 4.0, 10.0, 8.0], "category_id": 17, "class": "horse", "id": 1, "iscrowd": 0}
    items = [item | {"image_id": i} | changes for i in ids]
    sequence[1].write_text(json.dumps({"images": [{"id": i} for i in ids], "annotations": items}))
    return video.sfu(*sequence)


@pytest.mark.parametrize("ids", [(0, 1, 2), (0, 2, 3), (3, 2, 0), (1, 2), (0.0, 2.0, 3.0), ("0", "5"), (8,)])
def test_frames_of_a_sequence_are_those_that_their_ids_count(sequence, ids):
    found = walk(sequence, ids)
    shown = (found.frames.mean(dim=(1, 2, 3)) * 219 + 16).round().int().tolist()
    assert shown == sorted(207 + int(float(i)) for i in ids)
    assert all(box.tolist() == [[2, 4, 12, 12]] for box in found.boxes)


@pytest.mark.parametrize(
    ("ids", "match"),
    [
        ((0, 0), "image 0 twice"),
        ((-1, 0), r"images\[0\]"),
        ((0.5,), r"images\[0\]"),
        ((True,), r"images\[0\]"),
        ((None,), r"images\[0\]"),
        ((0, 9), "cut short"),
        ((0, 10**30), "cut short"),
        ((), "images"),
        ((1e30,), "images"),
    ],
)
def test_frames_that_a_sequence_has_not_are_named(sequence, ids, match):
    with pytest.raises(DataError, match=rf"Walk_32x16_24.*{match}"):
        walk(sequence, ids)


@pytest.mark.parametrize(
    "change",
    [
        {"bbox": [NAN, 4, 10, 8]},
        {"bbox": [1, 2, 3]},
        {"category_id": 80},
        {"category_id": -1},
        {"category_id": None},
        {"class": "cow"},
        {"class": None},
        {"image_id": 7},
        {"image_id": "a"},
        {"iscrowd": 1},
        {"bbox": [1e30, 0, 1, 1]},
    ],
    ids=repr,
)
def test_bad_annotations_of_a_sequence_are_refused(sequence, change):
    with pytest.raises(DataError, match=r"Walk_32x16_24_val\.json .*(\[0\]|annotation 0|horse)"):
        walk(sequence, (0, 1), **change)


def davis(folder: Path, size=(16, 12), mask=None, mask_size=(16, 12)) -> video.Video:
    for kind in ("JPEGImages", "Annotations"):
        (folder / kind / "480p" / "cow").mkdir(parents=True, exist_ok=True)
    for k in range(2):
        pixels = np.zeros((12, 16), np.uint8)
        pixels[2:6, 1:8] = 255
        Image.new("RGB", size if k else (16, 12)).save(folder / f"JPEGImages/480p/cow/0000{k}.jpg")
        drawn = mask if mask and k else Image.fromarray(pixels)
        drawn.resize(mask_size if k else (16, 12)).save(folder / f"Annotations/480p/cow/0000{k}.png")
    return video.davis(folder, "cow", "cow")


def test_davis_frames_and_masks_of_other_sizes_are_named(tmp_path):
    assert davis(tmp_path).masks[1].sum() == 28
    with pytest.raises(DataError, match=r"JPEGImages/480p/cow/00001\.jpg.*11.*12"):
        davis(tmp_path, size=(16, 11))
    with pytest.raises(DataError, match=r"Annotations/480p/cow/00001\.png.*15.*16"):
        davis(tmp_path, mask_size=(15, 12))


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "I;16", "LA"])
def test_davis_masks_of_other_pixels_mean_the_same_or_are_named(tmp_path, mode):
    pixels = np.zeros((12, 16), np.uint8)
    pixels[2:6, 1:8] = 1
    mask = Image.fromarray(pixels * 255 if mode in ("1", "LA") else pixels)
    if mode == "I;16":
        mask = Image.fromarray(pixels.astype(np.uint16))
    elif mode == "P":
        mask.putpalette([0, 0, 0, 0, 0, 1])
    elif mode != "L":
        mask = mask.convert(mode)
    if mode == "LA":
        with pytest.raises(DataError, match=r"00001\.png .*pixels are LA"):
            davis(tmp_path, mask=mask)
    else:
        assert davis(tmp_path, mask=mask).masks[1].sum() == 28


@pytest.fixture
def drone(tmp_path, monkeypatch):
    monkeypatch.setattr("icm_helpers.files.CACHE", tmp_path / "cache")
    folder = tmp_path / "VisDrone2019-DET-val"
    for name in ("images", "annotations"):
        (folder / name).mkdir(parents=True)
    Image.new("RGB", (WIDTH, HEIGHT)).save(folder / "images" / "1.jpg")

    def write(*rows: str) -> CocoDataset:
        (folder / "annotations" / "1.txt").write_text("\n".join(rows), encoding="utf-8")
        return datasets.load("visdrone", "val", root=tmp_path)

    return write


@pytest.mark.parametrize("outside", ["-30,-20,10,10", "-10,2,5,40", "2,-10,60,5", "64,0,9,9", "0,48,9,9", "-5,-5,5,5"])
def test_ignored_regions_outside_of_a_picture_ignore_nothing(drone, outside):
    dataset = drone("2,2,10,10,1,4,0,0", f"{outside},0,0,0,0")
    assert [a["category_id"] for a in dataset.ground_truth()["annotations"]] == [4]
    assert drone("\ufeff2,2,10,10,1,4,0,0", f"{outside},1,4,0,0")[0].boxes.tolist() == [[2, 2, 12, 12]]


@pytest.mark.parametrize(
    "row",
    [
        "2,2,-1,10,1,4,0,0",
        f"2,2,{10**400},10,1,4,0,0",
        f"-{10**9},2,9,9,1,4,0,0",
        "2,2,9,9,2,4,0,0",
        "2,2,9,9,0.5,4,0,0",
        "2,2,nan,9,1,4,0,0",
        "2,2,9,9,1,12,0,0",
        "2,2,9,9,1,-1,0,0",
        "2 2 9 9 1 4 0 0",
        "2,2,9,9,1,4,0,0,5",
        "9" * 5000,
    ],
    ids=lambda row: row[:20],
)
def test_bad_rows_of_visdrone_are_named(drone, row):
    with pytest.raises(DataError, match=r"annotations/1\.txt or 1\.jpg is damaged"):
        drone("2,2,10,10,1,4,0,0", row)


@pytest.mark.parametrize("mode", ["RGB", "L", "P", "LA", "1", "RGBA"])
def test_instance_ids_of_cityscapes_that_are_not_16_bits_of_grey_are_named(tmp_path, monkeypatch, mode):
    monkeypatch.setattr("icm_helpers.files.CACHE", tmp_path / "cache")
    for kind, suffix in (("leftImg8bit", "leftImg8bit"), ("gtFine", "gtFine_instanceIds")):
        (tmp_path / kind / "val" / "ulm").mkdir(parents=True)
        Image.new(mode, (WIDTH, HEIGHT)).save(tmp_path / kind / "val" / "ulm" / f"ulm_0_0_{suffix}.png")
    with pytest.raises(DataError, match=rf"ulm_0_0_gtFine_instanceIds\.png .*pixels are {mode}, not 16 bits"):
        datasets.load("cityscapes", "val", root=tmp_path)


# --- at random -----------------------------------------------------------------------------------------------------------

ODD = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=8),
    st.sampled_from(["nan", "../1.png", 10**400, 1e300, -0.0, 2**63, 2**31, "1", "7", 0, -1, 2, NAN]),
)
VALUES = st.recursive(
    ODD,
    lambda inner: (
        st.lists(inner, max_size=8)
        | st.dictionaries(st.sampled_from(["size", "counts", "x", "y", "id"]), inner, max_size=3)
    ),
    max_leaves=12,
)
PLACES = st.floats(-20, 80) | st.integers(-20, 80)
POINTS = st.lists(PLACES, min_size=2, max_size=12)
RUNS = st.lists(st.integers(0, HEIGHT * WIDTH), max_size=6).map(sorted)


def run_lengths(ends: list[int], packed: bool) -> dict:
    """Run lengths that end where they are told to, and at the picture's last pixel."""
    counts = np.diff([0, *ends, HEIGHT * WIDTH]).tolist()
    if packed:
        counts = rle.frPyObjects({"size": [HEIGHT, WIDTH], "counts": counts}, HEIGHT, WIDTH)["counts"].decode()
    return {"size": [HEIGHT, WIDTH], "counts": counts}


FIELDS = {  # and values that are mostly good
    ("images", "id"): st.sampled_from([1, 2, 3]),
    ("images", "file_name"): st.sampled_from(["1.png", "./2.png", "sub/1.png"]),
    ("images", "width"): st.sampled_from([WIDTH, 64.0, "64"]),
    ("images", "height"): st.sampled_from([HEIGHT, 48.0, HEIGHT + 1]),
    ("annotations", "id"): st.integers(0, 5) | st.text(max_size=3),
    ("annotations", "image_id"): st.sampled_from([1, 2, 3]),
    ("annotations", "category_id"): st.sampled_from([3, 7]),
    ("annotations", "bbox"): st.tuples(PLACES, PLACES, PLACES, PLACES).map(list),
    ("annotations", "area"): st.floats(0, 3000) | st.none(),
    ("annotations", "iscrowd"): st.sampled_from([0, 1, True, False, None, "1"]),
    ("annotations", "segmentation"): st.one_of(
        st.none(),
        st.lists(POINTS, max_size=3),
        st.lists(PLACES, min_size=6, max_size=6).map(lambda triangle: [triangle]),
        st.builds(run_lengths, RUNS, st.booleans()),
        st.fixed_dictionaries({"size": st.just([HEIGHT, WIDTH]), "counts": st.text(max_size=12)}),
    ),
    ("categories", "id"): st.sampled_from([3, 7]),
    ("categories", "name"): st.text(max_size=5),
}
IDS = st.integers() | st.integers(0, 9) | st.text(st.characters(codec="utf-8"), max_size=5)


@st.composite
def files(draw: st.DrawFn) -> dict:
    """An annotation file with other ids, some other good values, and at times a bad one, or one that is gone."""
    whole = content()
    if draw(st.booleans()):
        new = dict(zip((1, 2, 3), draw(st.lists(IDS, min_size=3, max_size=3, unique=True)), strict=True))
        kinds = dict(zip((3, 7), draw(st.lists(IDS, min_size=2, max_size=2, unique=True)), strict=True))
        for part, key, names in (
            ("images", "id", new),
            ("annotations", "image_id", new),
            ("annotations", "category_id", kinds),
            ("categories", "id", kinds),
        ):
            for entry in whole[part]:
                entry[key] = names[entry[key]]
    else:
        for part, key in draw(st.lists(st.sampled_from(list(FIELDS)[1:]), max_size=4)):
            draw(st.sampled_from(whole[part]))[key] = draw(FIELDS[part, key])
    part, key = draw(st.sampled_from(list(FIELDS)))
    entry, fate = draw(st.sampled_from(whole[part])), draw(st.integers(0, 9))
    if fate == 0:
        del entry[key]
    elif fate < 4:
        entry[key] = draw(VALUES)
    else:
        for key in ("bbox", "segmentation") if part == "annotations" else ():
            entry[key] = draw(FIELDS[part, key])
    return whole


@given(whole=files())
def test_random_annotations_are_read_right_or_refused(folder, whole):
    start, before = time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    try:
        dataset = opened(folder, whole)
        samples = [dataset[i] for i in range(len(dataset))]
    except DataError as error:
        event("refused")
        assert "a.json" in str(error) or ".png" in str(error)
    else:
        event("read")
        right(whole, dataset, samples)
        truth = dataset.ground_truth()
        perfect = [{**item, "score": 1.0} for item in truth["annotations"] if not item["iscrowd"]]
        for item in perfect:
            del item["segmentation"]
        summary, _ = evaluate.average_precision(truth, perfect, samples=evaluate.resamplings(dataset.ids, 2))
        assert summary["ap"] == pytest.approx(1) if perfect else not summary and dataset.emptiness
    assert time.process_time() - start < 5
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 500_000  # KB


def right(whole: dict, dataset: CocoDataset, samples: list) -> None:
    """What was read is what the file says, worked out once more from its plain values; polygons to within two pixels."""
    names = {category["id"]: category["name"] for category in whole["categories"]}
    assert sorted(map(repr, (s.image_id for s in samples))) == sorted(repr(i["id"]) for i in whole["images"])
    for sample in samples:
        kept = 0
        for item in (a for a in whole["annotations"] if a["image_id"] == sample.image_id):
            x, y, w, h = map(float, item["bbox"])
            box = np.float32([max(x, 0), max(y, 0), min(x + w, WIDTH), min(y + h, HEIGHT)])
            if w <= 0 or h <= 0 or not (box[:2] < box[2:]).all():
                continue
            assert sample.boxes[kept].tolist() == pytest.approx(box.tolist(), rel=1e-6, abs=1e-6)
            assert dataset.categories[sample.labels[kept].item()] == names[item["category_id"]]
            assert sample.crowd[kept] == (str(item.get("iscrowd")) in ("1", "True"))
            mask, drawn = sample.masks[kept].numpy(), item.get("segmentation")
            if isinstance(drawn, dict):
                if isinstance(drawn["counts"], list):
                    values = np.arange(len(drawn["counts"])) % 2
                    plain = np.repeat(values, drawn["counts"]).reshape(WIDTH, HEIGHT).T
                    assert (mask == plain).all()
            elif polygons := [np.float32(p).reshape(-1, 2) for p in drawn or [] if len(p) >= 6]:
                assert not (mask & ~filled(polygons, 5)).any()
                if len(polygons) == 1 and len(polygons[0]) == 3:
                    assert not (filled(polygons, -5) & ~mask).any()
            else:
                x1, y1, x2, y2 = (*np.floor(box[:2]).astype(int), *np.ceil(box[2:]).astype(int))
                assert mask[y1:y2, x1:x2].all() and mask.sum() == (x2 - x1) * (y2 - y1)
            kept += 1
        assert kept == len(sample.boxes)


def filled(polygons: list[np.ndarray], wider: int) -> np.ndarray:
    """The hulls of polygons, two pixels wider where `wider` is 5, narrower where it is -5, (H, W) bool."""
    canvas, margin = np.zeros((HEIGHT + 80, WIDTH + 80), np.uint8), 40
    for points in polygons:
        hull = np.round((cv2.convexHull(points) + margin - 0.5) * 16).astype(np.int32)
        cv2.fillConvexPoly(canvas, hull, 1, shift=4)
    change = cv2.dilate if wider > 0 else cv2.erode
    canvas = change(canvas, np.ones((abs(wider),) * 2, np.uint8))
    return canvas[margin:-margin, margin:-margin].astype(bool)


MAPS = {("images", "width"): VALUES, ("images", "id"): VALUES, ("annotations", "image_id"): VALUES}
MAPS |= {("annotations", "file_name"): VALUES, ("annotations", "segments_info"): st.lists(VALUES, max_size=3)}
MAPS |= {("categories", key): VALUES for key in ("id", "name", "isthing")}
MAPS |= {("segments_info", key): VALUES | st.integers(0, 9) for key in ("id", "category_id", "iscrowd", "area")}


@given(where=st.sampled_from(list(MAPS)), data=st.data())
def test_random_panoptic_files_are_read_right_or_refused(folder, where, data):
    panoptic(folder)
    whole, (part, key) = json.loads((folder / "panoptic.json").read_text()), where
    entries = whole["annotations"][0]["segments_info"] if part == "segments_info" else whole[part]
    data.draw(st.sampled_from(entries))[key] = data.draw(MAPS[where])
    try:
        truth = panoptic(folder, **whole)
        kinds = truth.semantic(1)
    except DataError as error:
        assert "panoptic.json" in str(error) or "/maps" in str(error)
    else:
        for segment in truth[1].segments:
            assert set(np.unique(kinds[truth[1].ids == segment["id"]])) == {segment["category_id"]}
            assert segment["category_id"] in truth.categories


@given(ids=st.lists(st.integers(-1, 9) | VALUES, max_size=3), key=st.text("abcis_", max_size=3), value=VALUES)
@example(ids=[0, 2], key="bbox", value=[1, 2, 3, 1e400])
def test_random_sequences_are_read_right_or_refused(sequence, ids, key, value):
    try:
        found = walk(sequence, tuple(ids), **{key: value})
    except DataError as error:
        assert "Walk_32x16_24" in str(error)
    else:
        assert len(found) == len(ids)


@given(row=st.lists(st.integers(-90, 90), min_size=8, max_size=8) | st.lists(st.integers() | ODD, max_size=9))
def test_random_rows_of_visdrone_are_read_right_or_refused(drone, row):
    try:
        dataset = drone("2,2,10,10,1,4,0,0", ",".join(map(repr, row)))
    except DataError as error:
        assert "1.txt" in str(error)
    else:
        *_, w, h, score, kind = row[:6] if row else (1, 1, 1, 1)
        assert kind == 0 or dataset[0].boxes[0].tolist() == [2, 2, 12, 12]
        assert score in (0, 1) and 0 <= kind <= 11 and min(w, h) >= 0
