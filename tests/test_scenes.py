"""The procedural scenes: the same everywhere, and labelled exactly."""

import hashlib
import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import cv2
import numpy as np
import pytest

from icm_helpers.data.scenes import CATEGORIES, PARTS, STUFF, THINGS, Scene, scene, video, write_coco

DIGEST = """
import hashlib, sys
import cv2
from icm_helpers.data.scenes import scene
cv2.setNumThreads(int(sys.argv[1]))
s = scene(11, (96, 160))
print(hashlib.sha256(s.image.tobytes() + s.panoptic.tobytes()).hexdigest())
"""


def assert_labels_are_exact(s: Scene) -> None:
    masks, boxes = s.masks(), s.boxes()
    assert len(masks) == len(boxes) == len(s.labels()) == len(s.things)
    assert masks.sum(0).max(initial=0) <= 1, "masks overlap"
    assert s.panoptic.min() >= 1
    assert (s.parts // PARTS == s.panoptic).all() and (s.parts % PARTS > 0).any()
    assert sorted(g["id"] for g in s.segments) == np.unique(s.panoptic).tolist()
    assert sum(g["area"] for g in s.segments) == s.panoptic.size
    for mask, box, segment in zip(masks, boxes, s.things, strict=True):
        rows, columns = np.nonzero(mask)
        assert box.tolist() == [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        assert segment["area"] == mask.sum()


@pytest.mark.parametrize("size", [64, (96, 160), (160, 96), 192])
def test_masks_are_disjoint_and_boxes_are_their_extents(size):
    height, width = (size, size) if isinstance(size, int) else size
    for seed in range(4):
        s = scene(seed, size)
        assert s.image.shape == (height, width, 3)
        assert s.image.dtype == np.uint8
        assert_labels_are_exact(s)


def test_scenes_hold_every_category_and_from_one_to_nine_things():
    scenes = [scene(seed, 64) for seed in range(40)]
    assert {name for s in scenes for name in (THINGS[i - 1] for i in s.labels())} == set(THINGS)
    names = {c["id"]: c["name"] for c in CATEGORIES}
    assert {names[g["category_id"]] for s in scenes for g in s.segments if not g["isthing"]} == set(STUFF)
    assert all(1 <= len(s.things) <= 9 for s in scenes)
    assert min(g["area"] for s in scenes for g in s.things) >= 12 * 64**2 / 192**2


def test_a_fresh_process_draws_the_same_scene_with_one_thread_or_four():
    s = scene(11, (96, 160))
    here = hashlib.sha256(s.image.tobytes() + s.panoptic.tobytes()).hexdigest()
    for threads in ("1", "4"):
        run = subprocess.run([sys.executable, "-c", DIGEST, threads], capture_output=True, text=True, check=True)
        assert run.stdout.strip() == here


def test_scene_seven_is_what_it_was_when_version_1_was_released():
    s = scene(7)
    assert s.labels().tolist() == [4, 2, 6, 3, 1, 5, 5]
    digest = hashlib.sha256(np.packbits(s.masks()).tobytes()).hexdigest()
    assert digest == "62244a42f27fb6943451e3a71250602129576d350bec933067b15861284f15b5"
    thumbnail = cv2.resize(s.image, (8, 8), interpolation=cv2.INTER_AREA).mean(-1)
    golden = [
        [113, 115, 113, 113, 113, 113, 114, 114],
        [151, 141, 134, 137, 135, 114, 107, 127],
        [170, 175, 152, 162, 163, 138, 74, 108],
        [162, 162, 160, 164, 159, 162, 142, 129],
        [132, 105, 125, 94, 79, 104, 127, 139],
        [121, 106, 105, 122, 123, 131, 143, 141],
        [112, 121, 130, 138, 140, 140, 141, 142],
        [124, 139, 136, 138, 138, 138, 137, 136],
    ]
    np.testing.assert_allclose(thumbnail, golden, atol=2)


def test_a_video_starts_at_its_scene_moves_and_keeps_its_ids():
    frames = list(video(20, 6, 96))
    np.testing.assert_array_equal(frames[0].image, scene(20, 96).image)
    kinds: dict[int, int] = {}
    for s in frames:
        assert_labels_are_exact(s)
        for g in s.segments:
            assert kinds.setdefault(g["id"], g["category_id"]) == g["category_id"]
    steps = [np.abs(a.image.astype(int) - b.image).mean() for a, b in pairwise(frames)]
    assert all(0.1 < step < 25 for step in steps), steps
    before, after = (max(s.things, key=lambda g: g["area"]) for s in frames[:2])
    assert before["id"] == after["id"]


def test_coco_files_give_the_same_masks_back(tmp_path):
    from faster_coco_eval import COCO

    folder = write_coco(tmp_path / "scenes", range(3), 96)
    coco = COCO(str(folder / "annotations" / "instances.json"))
    panoptic = json.loads((folder / "annotations" / "panoptic.json").read_text())
    for seed, entry in zip(range(3), panoptic["annotations"], strict=True):
        s = scene(seed, 96)
        info = coco.loadImgs([seed])[0]
        np.testing.assert_array_equal(cv2.imread(str(folder / "images" / info["file_name"]))[..., ::-1], s.image)
        entries = coco.loadAnns(coco.getAnnIds(imgIds=[seed]))
        masks = np.array([coco.annToMask(a) for a in entries], bool)
        np.testing.assert_array_equal(masks, s.masks())
        assert [a["category_id"] for a in entries] == s.labels().tolist()
        assert [a["bbox"] for a in entries] == [g["bbox"] for g in s.things]
        colours = cv2.imread(str(folder / "panoptic" / entry["file_name"]))[..., ::-1].astype(np.int32)
        np.testing.assert_array_equal(colours @ [1, 256, 65536], s.panoptic)
        assert [g["id"] for g in entry["segments_info"]] == [g["id"] for g in s.segments]


def test_a_complete_folder_is_kept_and_another_request_is_refused(tmp_path):
    folder = write_coco(tmp_path / "scenes", range(2), 64)
    made = (folder / "scenes.json").stat().st_mtime_ns
    assert write_coco(folder, range(2), 64) == folder
    assert (folder / "scenes.json").stat().st_mtime_ns == made
    with pytest.raises(FileExistsError, match="holds something other"):
        write_coco(folder, range(3), 64)


def test_writers_of_the_same_folder_do_not_disturb_each_other(tmp_path):
    with ThreadPoolExecutor(3) as pool:
        list(pool.map(lambda _: write_coco(tmp_path / "scenes", range(3), 64), range(3)))
    assert [p.name for p in tmp_path.iterdir()] == ["scenes"]
    assert len(list((tmp_path / "scenes" / "images").iterdir())) == 3


def test_a_picture_too_small_to_draw_is_refused():
    with pytest.raises(ValueError, match="at least 16"):
        scene(0, 8)
