"""The detectors that judge: found by name, checked by fingerprint, trained on whole and on decoded pictures."""

import dataclasses
import subprocess
import sys
from typing import ClassVar

import pytest
import torch

from icm_helpers import evaluate, files
from icm_helpers.codecs.classical import Jpeg, Png
from icm_helpers.data import DataError, datasets
from icm_helpers.tasks import models, training
from icm_helpers.tasks.yolo import YOLO


@pytest.fixture
def scenes(tmp_path):
    return datasets.load("scenes", "train", size=64, limit=3, root=tmp_path)


def test_pictures_mirror_image_boxes_and_masks_together(scenes):
    originals = {s.image.numpy().tobytes(): s for s in scenes}
    mirrored = []
    for image, target in (training.Pictures(scenes, seed=0, length=9)[i] for i in range(9)):
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
    _, target = training.Pictures([crowded], seed=0, length=1)[0]
    assert torch.equal(target["labels"], sample.labels[1:])
    assert len(target["boxes"]) == len(target["masks"]) == len(sample.labels) - 1


def test_decoded_pictures_are_the_codecs_and_keep_their_objects(scenes, tmp_path):
    codecs = {"lossless": Png(), "lossy": Jpeg(10)}
    lossless, lossy = (
        training.Decoded(scenes, codec, tmp_path / name, progress=False) for name, codec in codecs.items()
    )
    for sample, same, worse in zip(scenes, lossless, lossy, strict=True):
        assert torch.equal(same.image, sample.image) and torch.equal(worse.boxes, sample.boxes)
        assert 0.005 < (worse.image - sample.image).abs().mean() < 0.2


def test_fine_tuning_refuses_categories_that_the_detector_does_not_know(scenes, tmp_path):
    with pytest.raises(DataError, match="the detector calls this category 'person'"):
        training.finetune(YOLO(dict.fromkeys(scenes.categories, "person"), size=64), Jpeg(30), scenes, tmp_path)


def test_fine_tuning_learns_the_decoded_pictures_and_leaves_the_original_alone(scenes, tmp_path):
    base = YOLO(scenes.used_categories(), size=64).eval().requires_grad_(False)
    before = {k: v.clone() for k, v in base.state_dict().items()}
    plan = dataclasses.replace(training.FINETUNE, steps=15, batch=3, lr=3e-3, warmup=1)
    tuned = training.finetune(base, Jpeg(30), scenes, tmp_path / "decoded", plan, progress=False)
    assert all(torch.equal(v, before[k]) for k, v in base.state_dict().items())
    assert not tuned.training and not any(p.requires_grad for p in tuned.parameters())
    decoded = training.Pictures(training.Decoded(scenes, Jpeg(30), tmp_path / "decoded"), 0, 3)
    batch = training.collate([decoded[i] for i in range(3)])
    with torch.no_grad():
        worse, better = (training.detection_loss(m.train(), batch)["loss"] for m in (base, tuned))
    assert better < 0.7 * worse


def test_the_registry_imports_no_network():
    code = "import sys; from icm_helpers.tasks import models; print({'torch', 'cv2', 'numpy', 'pandas'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"


@pytest.mark.parametrize("name", models.MODELS)
def test_a_model_can_what_its_entry_says(name):
    kind, can = models.MODELS[name].kind(), models.MODELS[name].can
    methods = {"detect": "detect", "panoptic": "panoptic", "teach": "features_and_objectness", "task-loss": "task_loss"}
    methods |= {"stages": "stages"}
    assert all(hasattr(kind, method) == (ability in can) for ability, method in methods.items())
    assert hasattr(kind, "save") == bool({"train", "stages"} & can) and hasattr(kind, "from_weights") == (
        "segment" not in can
    )


@pytest.mark.parametrize("name", models.MODELS)
def test_a_model_is_the_file_that_its_fingerprint_says(name):
    try:
        path = models.MODELS[name].file()
    except DataError as error:
        pytest.skip(str(error))
    if not path.is_file():
        pytest.skip(f"no {path}")
    assert models.fingerprinted(name) == f"{name}@{files.fingerprint(path)}"


class Blob:
    """A detector of nobody's package, which finds everything everywhere."""

    categories: ClassVar = {1: "person"}

    @classmethod
    def from_weights(cls, path):
        assert path.read_bytes() == b"weights"
        return cls()


def test_a_model_of_ones_own_is_loaded_by_name_and_fingerprint(monkeypatch, tmp_path):
    monkeypatch.setattr(models, "MODELS", dict(models.MODELS))
    path = tmp_path / "blob.bin"
    mine = models.register(models.Model("blob", Blob, lambda: path, frozenset({"detect"})))
    assert models.fingerprinted("blob") == "blob"  # nobody has stated it, and no file says it
    path.write_bytes(b"weights")
    named = f"blob@{files.fingerprint(path)}"
    assert models.fingerprinted("blob") == named and models.names("detect")[-1] == "blob"
    assert isinstance(models.load(named), Blob) and isinstance(models.load("blob"), Blob)
    with pytest.raises(ValueError, match="a model is called 'blob' already: choose another name"):
        models.register(mine)
    with pytest.raises(ValueError, match="blob can fly: abilities are detect, "):
        dataclasses.replace(mine, can=frozenset({"fly"}))


def test_a_detector_with_other_weights_than_asked_for_is_an_error():
    with pytest.raises(
        ValueError, match=r"mask-rcnn-small.safetensors has fingerprint .*, the recipe asks for 12345678"
    ):
        models.load("mask-rcnn-small@12345678")
    with pytest.raises(ValueError, match=r"no detector is called 'mask-rcnn'; known: mask-rcnn-small, "):
        models.load("mask-rcnn")
    with pytest.raises(ValueError, match=r"no model is called 'mask-rcnn'; known: mask-rcnn-small, .*, sam-vit-h$"):
        models.fingerprinted("mask-rcnn")
    with pytest.raises(ValueError, match="no Segment Anything is called 'mask-rcnn-small'; known: nano-sam, "):
        models.segmenter("mask-rcnn-small@9fd0ed3f")
    with pytest.raises(ValueError, match="the edges are those of nano-sam@12345678: other weights"):
        models.segmenter("nano-sam@12345678")
    assert models.segmenter(models.fingerprinted("nano-sam")) == models.segmenter("nano-sam") == "nano"
    assert models.segmenter(models.fingerprinted("sam-vit-b")) == "vit_b"


@pytest.mark.parametrize(
    ("name", "file"),
    [("mask-rcnn-r50", "maskrcnn_resnet50_fpn_coco-bf2d0c1e.pth"), ("yolov5n", "yolov5n.pt")],
)
def test_a_detector_that_was_not_fetched_says_how_to_get_it(name, file, monkeypatch, tmp_path):
    monkeypatch.setattr(models, "WEIGHTS", tmp_path)
    monkeypatch.setenv("ICM_REAL_DATA", str(tmp_path / "none"))
    with pytest.raises(FileNotFoundError, match=rf"{file}.*icm datasets fetch"):
        models.load(name)


@pytest.mark.parametrize(
    ("name", "least"), [("mask-rcnn-small", 0.7), ("faster-rcnn-small", 0.7), ("yolov5n-scenes", 0.5)]
)
def test_a_shipped_detector_finds_what_scenes_show(name, least):
    dataset = datasets.load("scenes", "val", limit=20)
    found = evaluate.clean_detections(dataset, models.load(models.fingerprinted(name)), progress=False)
    assert evaluate.average_precision(dataset.ground_truth(), found)[0]["ap"] > least
