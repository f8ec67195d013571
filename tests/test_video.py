"""Videos with objects: what each reader gives, and what it says about files that are not whole."""

import json
import shutil
from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from icm_helpers.data import video
from icm_helpers.data.formats import DataError
from icm_helpers.evaluate import average_precision


@pytest.fixture
def clip(tmp_path):
    """A DAVIS clip of three frames of 12 x 16: the object moves right, and is hidden at last."""
    for kind in ("JPEGImages", "Annotations"):
        (tmp_path / kind / "480p" / "cow").mkdir(parents=True)
    for k in range(3):
        mask = np.zeros((12, 16), np.uint8)
        if k < 2:
            mask[2:6, 1 + k : 8 + k] = 255
        Image.fromarray(np.full((12, 16, 3), 40 * k, np.uint8)).save(tmp_path / f"JPEGImages/480p/cow/0000{k}.jpg")
        Image.fromarray(mask).save(tmp_path / f"Annotations/480p/cow/0000{k}.png")
    return tmp_path


@pytest.fixture
def sequence(tmp_path):
    """A raw sequence of 32 x 16 at 30 frames a second, grey as its frame number, and boxes for two frames."""
    yuv, boxes = tmp_path / "Walk_32x16_30Hz_8bit_P420.yuv", tmp_path / "Walk_32x16_30_val.json"
    frames = np.full((240, 24, 32), 128, np.uint8)
    frames[:, :16] = np.arange(240)[:, None, None]
    yuv.write_bytes(frames.tobytes())
    item = {
        "bbox": [-2.0, 4.0, 10.0, 20.0],
        "category_id": 17,
        "class": "horse",
        "id": 1,
        "image_id": 0.0,
        "iscrowd": 0,
    }
    content = {"images": [{"id": 1.0}, {"id": 0.0}], "annotations": [item], "categories": [{"id": 17, "name": "Horse"}]}
    boxes.write_text(json.dumps(content))
    return yuv, boxes


def test_a_davis_object_has_its_mask_and_the_box_around_it(clip):
    cow = video.davis(clip, "cow", "cow")
    assert cow.frames.shape == (3, 3, 12, 16) and cow.frames[2].max() < 0.4 < 1
    assert [box.tolist() for box in cow.boxes] == [[[1, 2, 8, 6]], [[2, 2, 9, 6]], []]
    assert [mask.sum().item() for mask in cow.masks] == [28, 28, 0]
    assert cow.categories == {21: "cow"} and [label.tolist() for label in cow.labels] == [[21], [21], []]
    assert len(video.davis(clip, "cow", "cow", limit=2)) == 2


def test_a_davis_clip_that_is_not_whole_is_named(clip):
    (clip / "Annotations/480p/cow/00001.png").unlink()
    with pytest.raises(DataError, match="'cow' has 3 pictures and 2 masks"):
        video.davis(clip, "cow", "cow")
    with pytest.raises(DataError, match="'pig' has 0 pictures"):
        video.davis(clip, "pig", "cow")
    with pytest.raises(ValueError, match="no category 'pig'"):
        video.davis(clip, "cow", "pig")


def test_sfu_frames_begin_where_the_annotations_do_and_boxes_are_clipped(sequence):
    walk = video.sfu(*sequence)
    assert walk.name == "Walk" and walk.frames.shape == (2, 3, 16, 32)
    expected = [(level - 16) / 219 for level in (235, 236)]  # luma of limited range, of frames 235 and 236
    assert walk.frames.mean(dim=(1, 2, 3)).tolist() == pytest.approx([min(level, 1) for level in expected], abs=0.01)
    assert walk.boxes[0].tolist() == [[0, 4, 8, 16]] and walk.boxes[1].shape == (0, 4)
    assert walk.categories == {19: "horse"} and walk.masks is None
    assert walk[0].masks.sum() == 8 * 12


def test_sfu_colours_survive_the_way_to_yuv_and_back(sequence):
    yuv, boxes = sequence
    colours = np.zeros((16, 32, 3), np.uint8)
    colours[:, :16], colours[:, 16:] = (200, 60, 30), (20, 90, 160)
    planes = cv2.cvtColor(colours, cv2.COLOR_RGB2YUV_I420)
    yuv.write_bytes(planes.tobytes() * 240)
    found = video.sfu(yuv, boxes, limit=1).frames[0].permute(1, 2, 0) * 255
    assert (found - torch.from_numpy(colours)).abs().max() <= 4


def test_sfu_files_that_contradict_each_other_are_refused(sequence):
    yuv, boxes = sequence
    renamed = boxes.with_name("Walk.json")
    shutil.copy(boxes, renamed)
    with pytest.raises(DataError, match="is not called"):
        video.sfu(yuv, renamed)
    boxes.write_text(boxes.read_text().replace("horse", "sheep"))
    with pytest.raises(DataError, match="calls class 17 'sheep', COCO 'horse'"):
        video.sfu(yuv, boxes)
    boxes.write_text(boxes.read_text().replace("sheep", "horse").replace('"bbox"', '"box"'))
    with pytest.raises(DataError, match="not in COCO's format"):
        video.sfu(yuv, boxes)
    yuv.write_bytes(yuv.read_bytes()[:-1])
    boxes.write_text(boxes.read_text().replace('"box"', '"bbox"'))
    with pytest.raises(DataError, match="cut short"):
        video.sfu(yuv, boxes)


def test_perfect_detections_in_a_scene_have_full_precision_and_none_have_none():
    clip = video.scene(0, 3, 96)
    truth = clip.ground_truth()
    found = [
        {"image_id": a["image_id"], "category_id": a["category_id"], "bbox": a["bbox"], "score": 1.0}
        for a in truth["annotations"]
    ]
    assert average_precision(truth, found)[0]["ap"] == pytest.approx(1.0)
    assert average_precision(truth, found[:1])[0]["ap"] < 1
    assert len(clip.ground_truth([1])["annotations"]) == len(clip.boxes[1])


def test_a_decoded_video_keeps_the_objects():
    clip = video.scene(0, 2, 64)
    decoded = replace(clip, frames=torch.zeros_like(clip.frames))
    assert decoded[1].image.max() == 0 and torch.equal(decoded[1].boxes, clip[1].boxes)


def test_real_clips_are_read(real_data):
    dog = video.davis(real_data / "davis2016", "dog", "dog", limit=2)
    assert dog.frames.shape == (2, 3, 480, 854) and len(dog.boxes[0]) == 1
    x1, y1, x2, y2 = dog.boxes[0][0].int().tolist()
    assert dog.masks[0][0, y1:y2, x1:x2].sum() == dog.masks[0].sum() > 1000


def test_real_annotations_are_read(real_data, tmp_path):
    (tmp_path / "grey.yuv").write_bytes(bytes(240 * 416 * 3 // 2) * 500)
    boxes = video.sfu(tmp_path / "grey.yuv", real_data / "sfu_hw_objects" / "BasketballPass_416x240_50_val.json")
    assert len(boxes) == 97 and sum(map(len, boxes.boxes)) == 571
    assert boxes.categories == {1: "person", 37: "sports ball", 62: "chair"}
