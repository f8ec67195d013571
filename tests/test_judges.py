"""The detectors that judge: found by name, checked by fingerprint, trained on whole and on decoded pictures."""

import dataclasses

import pytest
import torch

from icm_helpers import evaluate, judges, presets
from icm_helpers.codecs.classical import Jpeg, Png
from icm_helpers.data import datasets, formats
from icm_helpers.tasks.yolo import YOLO


@pytest.fixture
def scenes(tmp_path):
    return datasets.load("scenes", "train", size=64, limit=3, root=tmp_path)


def test_pictures_mirror_image_boxes_and_masks_together(scenes):
    originals = {s.image.numpy().tobytes(): s for s in scenes}
    mirrored = []
    for image, target in (judges.Pictures(scenes, seed=0, length=9)[i] for i in range(9)):
        straight = originals.get(image.numpy().tobytes())
        mirrored.append(straight is None)
        sample = straight or originals[image.flip(-1).contiguous().numpy().tobytes()]
        boxes, masks = sample.boxes.clone(), sample.masks
        if straight is None:
            boxes[:, [0, 2]] = 64 - sample.boxes[:, [2, 0]]
            masks = masks.flip(-1)
        assert torch.equal(target["boxes"], boxes) and torch.equal(target["masks"].bool(), masks)
        assert torch.equal(target["labels"], sample.labels)
    assert 0 < sum(mirrored) < 9


def test_a_crowd_region_is_no_object_to_learn(scenes):
    sample = next(s for s in scenes if len(s.labels) > 1)
    crowded = dataclasses.replace(sample, crowd=torch.arange(len(sample.labels)) == 0)
    _, target = judges.Pictures([crowded], seed=0, length=1)[0]
    assert torch.equal(target["labels"], sample.labels[1:])
    assert len(target["boxes"]) == len(target["masks"]) == len(sample.labels) - 1


def test_decoded_pictures_are_the_codecs_and_keep_their_objects(scenes):
    lossless, lossy = (judges.Decoded(scenes, codec, progress=False) for codec in (Png(), Jpeg(10)))
    for sample, same, worse in zip(scenes, lossless, lossy, strict=True):
        assert torch.equal(same.image, sample.image) and torch.equal(worse.boxes, sample.boxes)
        assert 0.005 < (worse.image - sample.image).abs().mean() < 0.2


def test_fine_tuning_refuses_categories_that_the_detector_does_not_know(scenes):
    with pytest.raises(formats.DataError, match="the detector calls this category 'person'"):
        judges.finetune(YOLO(dict.fromkeys(scenes.categories, "person"), size=64), Jpeg(30), scenes, progress=False)


def test_fine_tuning_learns_the_decoded_pictures_and_leaves_the_original_alone(scenes):
    base = YOLO(scenes.used_categories(), size=64).eval().requires_grad_(False)
    before = {k: v.clone() for k, v in base.state_dict().items()}
    plan = dataclasses.replace(judges.FINETUNE, steps=25, batch=3, lr=2e-3, warmup=1)
    tuned = judges.finetune(base, Jpeg(30), scenes, plan, progress=False)
    assert all(torch.equal(v, before[k]) for k, v in base.state_dict().items())
    assert not tuned.training and not any(p.requires_grad for p in tuned.parameters())
    batch = judges.collate(
        [judges.Pictures(judges.Decoded(scenes, Jpeg(30), progress=False), 0, 3)[i] for i in range(3)]
    )
    with torch.no_grad():
        worse, better = (judges.detection_loss(m.train(), batch)["loss"] for m in (base, tuned))
    assert better < 0.7 * worse


def test_a_detector_with_other_weights_than_asked_for_is_an_error():
    with pytest.raises(
        ValueError, match=r"mask-rcnn-small.safetensors has fingerprint .*, the recipe asks for 12345678"
    ):
        judges.load("mask-rcnn-small@12345678")
    with pytest.raises(ValueError, match=r"no detector is called 'mask-rcnn'; there is mask-rcnn-small, "):
        judges.load("mask-rcnn")


@pytest.mark.parametrize(
    ("name", "file"),
    [("mask-rcnn-r50", "maskrcnn_resnet50_fpn_coco-bf2d0c1e.pth"), ("yolov5n", "yolov5n.pt")],
)
def test_a_detector_that_was_not_fetched_says_how_to_get_it(name, file, monkeypatch, tmp_path):
    monkeypatch.setattr(judges, "WEIGHTS", tmp_path)
    monkeypatch.setenv("ICM_REAL_DATA", str(tmp_path / "none"))
    with pytest.raises(FileNotFoundError, match=rf"{file}.*icm_helpers.data.datasets fetch"):
        judges.load(name)


@pytest.mark.parametrize(
    ("name", "least"), [("mask-rcnn-small", 0.7), ("faster-rcnn-small", 0.7), ("yolov5n-scenes", 0.5)]
)
def test_a_shipped_detector_finds_what_scenes_show(name, least):
    dataset = datasets.load("scenes", "val", limit=40)
    found = evaluate.clean_detections(dataset, judges.load(presets.fingerprinted(name)), progress=False)
    assert evaluate.average_precision(dataset.ground_truth(), found)[0]["ap"] > least
