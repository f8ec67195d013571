"""The COCO reader and the training crops, on files written here and on COCO-mini."""

import json
import logging
import re
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from faster_coco_eval.core import mask as rle
from PIL import Image
from torchvision.ops import box_iou, masks_to_boxes

from icm_helpers.data import DataError, datasets
from icm_helpers.data.coco import CocoDataset, require_categories
from icm_helpers.data.crops import Crops
from icm_helpers.data.datasets import DataSet, load

WIDTH, HEIGHT = 40, 30
CATEGORIES = [{"id": 1, "name": "person"}, {"id": 44, "name": "bottle"}]
PICTURE = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
RECTANGLE = np.zeros((HEIGHT, WIDTH), dtype=np.uint8)
RECTANGLE[5:11, 4:14] = 1


def annotation(**changes) -> dict:
    default = {"id": 7, "image_id": 1, "category_id": 44, "bbox": [4, 5, 10, 6], "iscrowd": 0}
    return {**default, "segmentation": [[4, 5, 14, 5, 14, 11, 4, 11]], **changes}


def write(folder: Path, annotations: list[dict], image: Image.Image | None = None, name="a.png", **save) -> tuple:
    """Write one picture and its annotation file; return what CocoDataset takes."""
    (folder / "images").mkdir()
    (image or Image.fromarray(PICTURE)).save(folder / "images" / name, **save)
    images = [{"id": 1, "file_name": name, "width": WIDTH, "height": HEIGHT}]
    content = {"images": images, "annotations": annotations, "categories": CATEGORIES}
    (folder / "instances.json").write_text(json.dumps(content))
    return folder / "images", folder / "instances.json"


def test_a_sample_holds_pixels_boxes_and_category_ids(tmp_path):
    sample = CocoDataset(*write(tmp_path, [annotation()]))[0]
    assert torch.equal((sample.image * 255).round().byte().permute(1, 2, 0), torch.from_numpy(PICTURE))
    assert sample.boxes.tolist() == [[4, 5, 14, 11]]
    assert (sample.labels.tolist(), sample.crowd.tolist(), sample.image_id, sample.name) == ([44], [False], 1, "a.png")
    assert torch.equal(sample.masks, torch.from_numpy(RECTANGLE)[None].bool())


@pytest.mark.parametrize(
    "segmentation",
    [
        [[4, 5, 14, 5, 14, 11, 4, 11]],
        [[4, 5, 9, 5, 9, 11, 4, 11], [9, 5, 14, 5, 14, 11, 9, 11]],
        {"size": [HEIGHT, WIDTH], "counts": [4 * 30 + 5, *[6, 24] * 9, 6, 30 * 40 - 14 * 30 + 19]},
        {"size": [HEIGHT, WIDTH], "counts": rle.encode(np.asfortranarray(RECTANGLE))["counts"].decode()},
        None,
        [[4, 5, 14, 11]],
    ],
    ids=["polygon", "two polygons", "run lengths", "packed run lengths", "no mask", "two points"],
)
def test_every_form_of_mask_gives_the_same_rectangle(tmp_path, segmentation):
    sample = CocoDataset(*write(tmp_path, [annotation(segmentation=segmentation, iscrowd=1)]))[0]
    assert sample.crowd.tolist() == [True]
    assert torch.equal(sample.object_mask, torch.from_numpy(RECTANGLE)[None].float())


@pytest.mark.parametrize(
    "missing", [{}, {"segmentation": None}, {"segmentation": []}, {"segmentation": [[4, 5, 14, 11]]}]
)
def test_a_box_stands_for_the_outline_that_an_annotation_lacks(tmp_path, missing):
    bare = {k: v for k, v in annotation().items() if k != "segmentation"} | missing
    dataset = CocoDataset(*write(tmp_path, [bare]))
    (item,) = dataset.ground_truth()["annotations"]
    (outline,) = rle.frPyObjects(item["segmentation"], HEIGHT, WIDTH)
    assert np.array_equal(rle.decode(outline), RECTANGLE) and not dataset.outlined


def test_a_picture_without_annotations_is_a_sample_with_no_objects(tmp_path):
    sample = CocoDataset(*write(tmp_path, []))[0]
    assert (sample.boxes.shape, sample.labels.shape, sample.masks.shape) == ((0, 4), (0,), (0, HEIGHT, WIDTH))
    assert sample.object_mask.shape == (1, HEIGHT, WIDTH)
    assert not sample.object_mask.any()


def test_boxes_are_clipped_or_skipped_and_one_warning_counts_them(tmp_path, caplog):
    boxes = [[-4, 5, 10, 6], [4, 5, 0, 6], [4, 5, 3, -1], [50, 5, 10, 6], [4, 5, 10, 6]]
    with caplog.at_level(logging.WARNING):
        data = CocoDataset(*write(tmp_path, [annotation(id=i, bbox=box) for i, box in enumerate(boxes)]))
    assert data.skipped == {"clipped": 1, "skipped: zero area": 2, "skipped: outside the image": 1}
    assert len(caplog.records) == 1
    assert "2 skipped: zero area (first: annotation 1)" in caplog.text
    assert data[0].boxes.tolist() == [[0, 5, 6, 11], [4, 5, 14, 11]]
    truth = data.ground_truth()
    assert [a["bbox"] for a in truth["annotations"]] == [[0, 5, 6, 6], [4, 5, 10, 6]]
    assert [a["id"] for a in truth["annotations"]] == [1, 2]


@pytest.mark.parametrize("mode", ["L", "CMYK", "P", "RGBA", "I;16"])
def test_every_kind_of_picture_becomes_rgb(tmp_path, mode):
    grey = PICTURE[..., 0]
    if mode == "I;16":
        image = Image.fromarray(grey.astype(np.uint16) * 257)
    else:
        image = Image.fromarray(np.stack([grey] * 3, axis=-1)).convert(mode)
    name = "a.jpg" if mode == "CMYK" else "a.png"
    sample = CocoDataset(*write(tmp_path, [], image, name, **({"quality": 100} if mode == "CMYK" else {})))[0]
    assert sample.image.shape == (3, HEIGHT, WIDTH)
    tolerance = {"CMYK": 8, "P": 26}.get(mode, 0.01) / 255  # JPEG; a palette of 6 x 6 x 6 colours
    assert (sample.image - torch.from_numpy(grey) / 255).abs().mean() <= tolerance


@pytest.mark.parametrize("stored_turned", [True, False])
def test_the_annotated_size_decides_whether_exif_turns_the_picture(tmp_path, stored_turned):
    upright = Image.fromarray(PICTURE)
    exif = Image.Exif()
    exif[0x0112] = 6  # show it turned by a quarter, clockwise
    stored = upright.transpose(Image.Transpose.ROTATE_90) if stored_turned else upright
    sample = CocoDataset(*write(tmp_path, [], stored, exif=exif))[0]
    assert torch.equal((sample.image * 255).round().byte().permute(1, 2, 0), torch.from_numpy(PICTURE))


def test_each_bad_input_raises_data_error_naming_the_file(tmp_path):
    images, file = write(tmp_path, [annotation()])
    whole = json.loads(file.read_text())
    entry = whole["images"][0]

    def refuses(match: str, **changes) -> None:
        file.write_text(json.dumps({**whole, **changes}))
        with pytest.raises(DataError, match=match):
            CocoDataset(images, file)[0]

    with pytest.raises(DataError, match=r"no\.json is missing"):
        CocoDataset(images, tmp_path / "no.json")
    with pytest.raises(DataError, match=r"folder .*nowhere is missing"):
        CocoDataset(tmp_path / "nowhere", file)
    refuses("image 2, but lists no such image", annotations=[annotation(image_id=2)])
    refuses("category 5, but defines no such", annotations=[annotation(category_id=5)])
    refuses(r"length 4 - at `\$.annotations\[0\].bbox`", annotations=[annotation(bbox=[1, 2, 3])])
    refuses(r"annotations\[0\].bbox\[3\]`\).*finite", annotations=[annotation(bbox=[1, 2, 3, float("nan")])])
    refuses("not in COCO's format .*missing required field `image_id`", annotations=[{"id": 1}])
    refuses("not in COCO's format .*missing required field `file_name`", images=[{"id": 1}])
    refuses("lists image 1 twice", images=[entry, entry])
    refuses(r"1 of 2 images are missing .* b\.png", images=[entry, {**entry, "id": 2, "file_name": "b.png"}])
    refuses(r"a\.png has 40 x 30 pixels, .* 41 x 30", images=[{**entry, "width": 41}], annotations=[])
    refuses("broken mask in annotation 7", annotations=[annotation(segmentation={"size": [30, 40], "counts": [5, 2]})])
    refuses("broken mask in annotation 7", annotations=[annotation(segmentation={"size": [3, 4], "counts": [5, 7]})])
    refuses(r"annotations\[0\].segmentation\[0\]`", annotations=[annotation(segmentation=[4, 5, 14, 5, 14, 11])])
    for text, match in (("{", "format .*Expecting property name"), ("[]", "format .*Expected `object`, got `array`")):
        file.write_text(text)
        with pytest.raises(DataError, match=match):
            CocoDataset(images, file)


@pytest.mark.parametrize("name", ["a.png", "a.jpg"])
def test_a_truncated_picture_raises_data_error(tmp_path, name):
    data = CocoDataset(*write(tmp_path, [], name=name))
    picture = tmp_path / "images" / name
    picture.write_bytes(picture.read_bytes()[: picture.stat().st_size // 2])
    with pytest.raises(DataError, match=f"{name} cannot be decoded"):
        data[0]
    picture.unlink()
    with pytest.raises(DataError, match=f"{name} is missing"):
        data[0]


def test_a_detector_must_know_the_annotated_categories_under_the_same_name(tmp_path):
    data = CocoDataset(*write(tmp_path, [annotation()]))
    require_categories(data, {44: "Bottle"}, "a detector")  # category 1 is defined, but never annotated
    with pytest.raises(DataError, match=r"category 44 \('bottle'\), but YOLOv5 does not know"):
        require_categories(data, {1: "person"}, "YOLOv5")
    with pytest.raises(DataError, match="calls this category 'circle'"):
        require_categories(data, {1: "person", 44: "circle"}, "a detector")


def test_an_absent_data_set_says_where_to_get_it(tmp_path, monkeypatch):
    monkeypatch.setenv("ICM_COCO", str(tmp_path))
    with pytest.raises(
        DataError, match=r"val2017/ and annotations/instances_val2017.json in .*fetch coco2017` gets it"
    ):
        load("coco2017", "val")
    monkeypatch.setenv("ICM_REAL_DATA", str(tmp_path / "none"))
    with pytest.raises(DataError, match="set ICM_REAL_DATA"):
        load("coco-mini", "val")
    with pytest.raises(DataError, match="no data set 'imagenet'"):
        load("imagenet", "val")
    with pytest.raises(DataError, match="no split 'test'"):
        load("scenes", "test")


def test_a_data_set_of_ones_own_opens_by_name_and_is_listed(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets, "DATASETS", dict(datasets.DATASETS))
    paths = write(tmp_path, [annotation()])
    mine = DataSet("mine", lambda split, *, limit, **_: CocoDataset(*paths, limit=limit), "one bottle")
    film = DataSet("film", lambda clip, frames, size: (clip, frames, size), "a toy", video=True)
    for data_set in (mine, film):
        datasets.register(data_set)
    assert load("mine", "val", limit=1)[0].labels.tolist() == [44] and "mine" in datasets.names()
    assert datasets.clip("film", "a", 3, 64) == ("a", 3, 64) and datasets.names(video=True)[-1] == "film"
    assert all(re.search(rf"{d.name} +(pictures|videos) +", datasets.listing()) for d in datasets.DATASETS.values())
    with pytest.raises(ValueError, match="a data set is called 'mine' already"):
        datasets.register(mine)
    for wrong, open_it in (("mine", partial(datasets.clip, clip="a")), ("film", partial(load, split="val"))):
        with pytest.raises(DataError, match=f"set '{wrong}': use 'scenes"):
            open_it(wrong)


def test_the_registry_needs_neither_torch_nor_opencv():
    told = "import sys, icm_helpers.data.datasets; print(*{'torch', 'cv2', 'numpy', 'pooch'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", told], capture_output=True, text=True, check=True).stdout == "\n"


@pytest.mark.parametrize(("clip", "frames"), [("0", None), ("dog", 3)])
def test_a_moving_scene_is_a_seed_and_so_many_frames(clip, frames):
    with pytest.raises(ValueError, match="a moving scene is a seed, such as 0, and has no end"):
        datasets.clip("scenes-video", clip, frames)


def test_scenes_are_drawn_once_and_train_and_val_differ(tmp_path):
    train = load("scenes", "train", size=64, limit=2, root=tmp_path)
    drawn = {file: file.stat().st_mtime_ns for file in train.images.iterdir()}
    assert load("scenes", "train", size=64, limit=2, root=tmp_path).ids == train.ids
    assert {file: file.stat().st_mtime_ns for file in train.images.iterdir()} == drawn
    val = load("scenes", "val", size=64, limit=2, root=tmp_path)
    assert len(train) == len(val) == 2
    assert not torch.equal(train[0].image, val[0].image)
    assert not list(tmp_path.glob(".*")), "a temporary folder is left"


def test_coco_mini_is_read_whole_with_masks_that_fill_their_boxes(real_data):
    for split, pictures, objects in (("train", 180, 1485), ("val", 127, 965)):
        data = load("coco-mini", split, root=real_data / "coco_mini")
        assert len(data) == pictures
        assert len(data.ground_truth()["annotations"]) == objects
        assert not data.skipped
    limited = load("coco-mini", "val", limit=6, root=real_data / "coco_mini")
    assert limited.ids == data.ids[:6] == [image["id"] for image in limited.ground_truth()["images"]]
    for sample in limited:
        seen = masks_to_boxes(sample.masks) + torch.tensor([0, 0, 1, 1])
        assert box_iou(seen, sample.boxes).diag().mean() > 0.9


def test_a_crop_depends_on_seed_and_number_alone(tmp_path):
    data = CocoDataset(*write(tmp_path, [annotation()]))
    crops, again = Crops(data, 16, seed=3, length=50), Crops(data, 16, seed=3, length=60, cache=False)
    list(crops)  # what was drawn before does not matter
    for a, b in zip(crops[31], again[31], strict=True):
        assert torch.equal(a, b)
    assert not torch.equal(crops[31][0], crops[30][0])
    assert not torch.equal(crops[31][0], Crops(data, 16, seed=4, length=50)[31][0])


@pytest.mark.parametrize("augment", ["none", "heavy"])
@pytest.mark.parametrize("patch", [16, 100])  # within the picture, and larger than it
def test_crops_have_the_patch_size_and_a_binary_mask(tmp_path, augment, patch):
    data = CocoDataset(*write(tmp_path, [annotation()]))
    for image, mask in Crops(data, patch, 0, 20, augment):
        assert image.shape == (3, patch, patch)
        assert mask.shape == (1, patch, patch)
        assert torch.equal(image, image.clamp(0, 1))
        assert mask.unique().tolist() in ([0], [1], [0, 1])


def test_the_mask_moves_with_the_picture(tmp_path):
    bright = np.full_like(PICTURE, 40)
    bright[5:11, 4:14] = 220
    data = CocoDataset(*write(tmp_path, [annotation()], Image.fromarray(bright)))
    for image, mask in Crops(data, 16, 0, 30, "none", object_prob=1):
        assert mask.any(), "object_prob=1 must always show the object"
        assert torch.equal((image[:1] > 0.5).float(), mask)
    overlap = [((image.mean(0, True) > 0.5) == mask.bool()).float().mean() for image, mask in Crops(data, 16, 0, 30)]
    assert min(overlap) > 0.9


@pytest.mark.parametrize("augment", ["none", "heavy"])
def test_a_line_one_pixel_wide_moves_with_the_picture_and_survives_its_shrinking(tmp_path, augment):
    lined = np.full_like(PICTURE, 40)
    lined[:, ::12] = 220
    data = CocoDataset(*write(tmp_path, [annotation()], Image.fromarray(lined)))
    lines = torch.from_numpy(lined[..., 0] > 128)[None].float()
    plain = Crops(data, 16, 0, 30, augment)
    for (image, mask), (same, _) in zip(Crops(data, 16, 0, 30, augment, region=lambda _: lines), plain, strict=True):
        assert torch.equal(image, same)
        bright = image.mean(0, keepdim=True)
        assert mask.any(1).all(1).logical_not().any() and bright[mask == 1].min() > bright[mask == 0].median()
        assert mask[0].all(0).sum() >= 1


def test_bad_crop_arguments_are_refused(tmp_path):
    data = CocoDataset(*write(tmp_path, []))
    with pytest.raises(ValueError, match="'none' or 'heavy'"):
        Crops(data, 16, 0, 1, "light")
    with pytest.raises(ValueError, match="patch=0"):
        Crops(data, 0, 0, 1)
    with pytest.raises(ValueError, match="limit is 0"):
        CocoDataset(data.images, data.annotations, limit=0)


def test_real_data_comes_from_the_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("ICM_REAL_DATA", str(tmp_path))
    assert datasets.real_data() == tmp_path


def test_a_crop_names_the_picture_it_is_cut_from(tmp_path, monkeypatch):
    scenes = datasets.load("scenes", "train", size=64, limit=4, root=tmp_path)
    crops, taken = Crops(scenes, 32, 0, 8), []
    picture = crops._picture
    monkeypatch.setattr(crops, "_picture", lambda index: taken.append(index) or picture(index))
    for i in range(8):
        crops[i]
    assert [crops.source(i) for i in range(8)] == [scenes[index].name for index in taken]
    assert len(set(taken)) > 1
