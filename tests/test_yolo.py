"""The YOLOv5n that ultralytics builds: the same detections after saving, clear errors, losses that differentiate."""

import subprocess
import sys

import pytest
import torch

from icm_helpers import files
from icm_helpers.tasks import yolo
from icm_helpers.tasks.yolo import YOLO

CATEGORIES = {3: "disc", 7: "star"}


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A random model's file."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "random.safetensors"
    YOLO(CATEGORIES, size=64).save(path)
    return path


@pytest.fixture(scope="module")
def model(saved):
    return YOLO.from_weights(saved)


def test_saving_and_loading_keeps_every_detection(model, tmp_path):
    model.save(tmp_path / "again.safetensors")
    again = YOLO.from_weights(tmp_path / "again.safetensors")
    image = torch.rand(3, 64, 64)
    (before,), (after,) = model.detect([image], conf=1e-6), again.detect([image], conf=1e-6)
    assert again.categories == CATEGORIES and len(before["scores"]) > 0
    assert all(torch.equal(before[k], after[k]) for k in ("boxes", "scores", "labels"))


def test_detections_are_in_pixels_best_first_and_category_ids(model):
    (found,) = model.detect([torch.rand(3, 80, 120)], conf=1e-6, max_det=20)
    n = len(found["scores"])
    assert 0 < n <= 20 and found["boxes"].shape == (n, 4)
    assert (found["boxes"] >= 0).all() and (found["boxes"] <= torch.tensor([120, 80, 120, 80])).all()
    assert (found["scores"].diff() <= 0).all() and set(found["labels"].tolist()) <= set(CATEGORIES)


def test_losses_reach_the_image_and_need_no_objects():
    network = YOLO(CATEGORIES, size=64).train()
    images = torch.rand(2, 3, 64, 64, requires_grad=True)
    there = {"boxes": torch.tensor([[20.0, 16, 52, 48]]), "labels": torch.tensor([7])}
    empty = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)}
    parts = network(list(images), [there, empty])
    assert set(parts) == {"box", "cls", "dfl"} and parts["box"] > 0
    sum(parts.values()).backward()
    assert images.grad.isfinite().all() and (images.grad[0] != 0).any()
    assert network(list(images), [empty, empty])["box"] == 0


def test_a_label_that_is_not_among_the_categories_is_an_error_that_says_why():
    target = {"boxes": torch.tensor([[20.0, 16, 52, 48]]), "labels": torch.tensor([5])}
    with pytest.raises(ValueError, match=r"labels \[5\] are not among the categories \[3, 7\]"):
        YOLO(CATEGORIES, size=64)([torch.rand(3, 64, 64)] * 2, [target, target])


def test_pictures_of_several_sizes_are_learned_from_as_they_are_looked_at():
    network = YOLO(CATEGORIES, size=64).train()
    images = [torch.rand(3, 64, 48), torch.rand(3, 40, 64)]
    targets = [{"boxes": torch.tensor([[4.0, 8, 40, 36]]), "labels": torch.tensor([7])}] * 2
    squares = [torch.nn.functional.pad(x, (0, 64 - x.shape[2], 0, 64 - x.shape[1]), value=0.5) for x in images]
    expected = network(squares, targets)
    assert all(torch.equal(part, expected[name]) for name, part in network(images, targets).items())
    large = [torch.nn.functional.interpolate(x[None], scale_factor=2.0)[0] for x in images]
    doubled = network(large, [{**t, "boxes": 2 * t["boxes"]} for t in targets])
    assert doubled["box"].item() == pytest.approx(expected["box"].item(), rel=0.2)


def test_the_package_leaves_the_rest_of_the_process_as_it_was():
    code = """
import os, cv2, numpy, torch
from PIL import Image
from icm_helpers.tasks.yolo import YOLO
state = lambda: (Image.open, torch.save, dict(os.environ), numpy.get_printoptions(), cv2.getNumThreads(), torch.get_num_threads())
before = state()
YOLO({1: "disc"})
assert state() == before
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=files.ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_without_the_package_the_error_names_the_extra(monkeypatch):
    yolo._ultralytics.cache_clear()
    monkeypatch.setitem(sys.modules, "ultralytics.nn.tasks", None)
    with pytest.raises(ImportError, match=r"install the extra `yolo`"):
        YOLO(CATEGORIES)


def test_a_foreign_file_is_an_error_that_names_it():
    with pytest.raises(ValueError, match=r"mask-rcnn-small.safetensors holds mask-rcnn-small, not a yolov5n-scenes"):
        YOLO.from_weights(files.CHECKPOINTS / "mask-rcnn-small.safetensors")
