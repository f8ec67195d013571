"""Detectors of the papers, fine-tuned on what a codec decodes: YOLOv5's and torchvision's R-CNNs, from pictures on disk."""

import json
import resource
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from icm_helpers import cli, evaluate
from icm_helpers.codecs.classical import Jpeg
from icm_helpers.data import datasets, miniatures
from icm_helpers.data.coco import CocoDataset
from icm_helpers.tasks import models, training
from icm_helpers.tasks.rcnn import COCORCNN
from icm_helpers.tasks.yolov5 import YOLOv5


@pytest.fixture
def photographs(real_data):
    return datasets.load("coco-mini", "train", limit=4, root=real_data / "coco_mini")


def test_a_short_fine_tuning_of_yolov5_lowers_its_loss_and_raises_its_ap_on_what_it_saw(
    real_data, photographs, tmp_path
):
    base, coded = YOLOv5.from_weights(real_data / "weights_yolov5n" / "yolov5n.safetensors"), Jpeg(4)
    base.size = 224
    plan = replace(training.FINETUNE, steps=12, batch=4, warmup=1)
    tuned = training.finetune(base, coded, photographs, tmp_path, plan, progress=False)
    decoded = training.Decoded(photographs, coded, tmp_path)
    batch = training.collate([training.Pictures(decoded, 0, 4)[i] for i in range(4)])
    with torch.no_grad():
        before, after = (training.detection_loss(model, batch) for model in (base, tuned))
    assert {*after} == {"loss", "box", "class", "objectness"} and after["loss"] < 0.9 * before["loss"]
    found = [evaluate.clean_detections(decoded, model, progress=False) for model in (base, tuned)]
    before, after = (evaluate.average_precision(photographs.ground_truth(), some)[0]["ap"] for some in found)
    assert after > before + 0.1


@pytest.fixture(scope="module")
def coco_files(tmp_path_factory):
    """A YOLOv5n and a Faster and a Mask R-CNN for COCO, with random weights."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("weights")
    made = {
        "yolov5n": YOLOv5(),
        "faster-rcnn-r50": COCORCNN(masks=False).model,
        "mask-rcnn-r50": COCORCNN(masks=True).model,
    }
    for name, network in made.items():
        save_file(network.state_dict(), folder / f"{name}.safetensors")
    yield folder
    for file in folder.iterdir():
        file.unlink()


@pytest.mark.parametrize("name", ["yolov5n", "faster-rcnn-r50", "mask-rcnn-r50"])
def test_a_detector_for_coco_is_adapted_to_other_categories_trained_saved_and_read(name, coco_files, tmp_path):
    kind, scenes = models.MODELS[name].kind(), datasets.load("scenes", "train", size=64, limit=1, root=tmp_path)
    model = kind.adapted(coco_files / f"{name}.safetensors", scenes.used_categories())
    trained = {n for n, p in model.named_parameters() if p.requires_grad}
    assert not any("body.conv1" in n or "body.layer1" in n for n in trained) and len(trained) > 50
    if name == "yolov5n":
        model.size = 64
    else:
        model.model.transform.min_size, model.model.transform.max_size = (64,), 96
    batch = training.collate([training.Pictures(scenes, 0, 1)[0]])
    parts = training.detection_loss(model.train(), batch)
    parts["loss"].backward()
    assert all(value.isfinite() for value in parts.values()) and ("loss_mask" in parts) == (name == "mask-rcnn-r50")
    assert {n for n, p in model.named_parameters() if p.grad is not None} == trained
    model.save(tmp_path / "own.safetensors")
    read = kind.from_weights(tmp_path / "own.safetensors")
    assert read.categories == scenes.used_categories()
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), read.state_dict().values(), strict=True))
    (tmp_path / "own.safetensors").unlink()


def test_a_network_that_knows_the_categories_already_goes_on_as_it_is(coco_files):
    path = coco_files / "yolov5n.safetensors"
    as_it_is, adapted = YOLOv5.from_weights(path), YOLOv5.adapted(path, {1: "person", 90: "toothbrush"})
    assert all(torch.equal(a, b) for a, b in zip(as_it_is.parameters(), adapted.parameters(), strict=True))
    assert adapted.categories == as_it_is.categories


def test_visdrones_detector_is_made_by_the_command_that_judging_without_it_names(coco_files, tmp_path, monkeypatch):
    monkeypatch.setattr(models, "WEIGHTS", tmp_path)
    monkeypatch.setattr(datasets.files, "CACHE", tmp_path)
    monkeypatch.setattr("icm_helpers.options.RUNS", tmp_path / "runs")
    monkeypatch.setenv("ICM_VISDRONE", str(miniatures.write(tmp_path, images=1, size=64, frames=1)["ICM_VISDRONE"]))
    with pytest.raises(SystemExit, match="make it with `icm detector --model yolov5m --data visdrone"):
        cli.main(["judge", "--codec", "jpeg", "--quality", "50", "--data", "visdrone", "--images", "1"])
    (coco_files / "yolov5n.safetensors").rename(tmp_path / "yolov5m.pt")
    monkeypatch.setattr(YOLOv5, "size", 64)
    monkeypatch.setattr("icm_helpers.tasks.yolov5._official", load_file)
    _, *words, _ = models.MODELS["yolov5m-visdrone"].made.split()
    fewer = ["--steps", "1", "--batch", "1", "--precision", "32-true", "--device", "cpu"]
    cli.main([*words, str(tmp_path / "yolov5m-visdrone.safetensors"), *fewer])
    cli.main(["judge", "--codec", "jpeg", "--quality", "50", "--data", "visdrone", "--images", "1"])


class Counting(Jpeg):
    def __init__(self, quality, fails=10**9):
        super().__init__(quality)
        object.__setattr__(self, "coded", [])
        object.__setattr__(self, "fails", fails)

    def encode(self, image):
        if len(self.coded) == self.fails:
            raise KeyboardInterrupt
        self.coded.append(image)
        return super().encode(image)


def test_decoding_that_was_stopped_goes_on_and_each_picture_is_coded_once(tmp_path):
    scenes, folder = datasets.load("scenes", "train", size=64, limit=12, root=tmp_path), tmp_path / "decoded"
    first, second = Counting(30, fails=9), Counting(30)
    with pytest.raises(KeyboardInterrupt):
        training.Decoded(scenes, first, folder, progress=False)
    kept = len(list(folder.glob("*.png")))
    decoded = training.Decoded(scenes, second, folder, progress=False)
    assert kept > 0 and kept + len(second.coded) == 12
    whole = training.Decoded(scenes, Jpeg(30), tmp_path / "whole", progress=False)
    assert all(torch.equal(a.image, b.image) for a, b in zip(decoded, whole, strict=True))


class Mean(torch.nn.Module):
    """A detector of one parameter."""

    def __init__(self):
        super().__init__()
        self.weight, self.categories = torch.nn.Parameter(torch.ones(())), {1: "square"}

    def forward(self, images, targets):
        return {"mean": self.weight * torch.stack([image.mean() for image in images]).mean()}


def few_and_many(folder):
    """The most memory [MB] of this process after fine-tuning on some pictures, and on four times as many."""
    peaks = []
    for count in (64, 256):
        pictures = CocoDataset(folder, folder / "objects.json", limit=count)
        plan, out = training.train.Schedule(steps=count // 8, batch=8), folder / f"{count}"
        training.finetune(Mean(), Jpeg(50), pictures, out, plan, progress=False, device="cpu")
        peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
    return peaks


def test_four_times_the_pictures_cost_no_more_memory(tmp_path, elsewhere, monkeypatch):
    monkeypatch.setenv("MALLOC_ARENA_MAX", "1")  # or what threads free is not given back, up to 130 MB by chance
    names, box = [f"{k}.png" for k in range(256)], {"bbox": [8, 8, 99, 99], "category_id": 1, "iscrowd": 0}
    for k, name in enumerate(names):
        Image.linear_gradient("L").rotate(5 * k).resize((512, 512)).convert("RGB").save(tmp_path / name)
    images = [{"id": k, "file_name": name, "width": 512, "height": 512} for k, name in enumerate(names)]
    objects = [{"id": k + 1, "image_id": k, **box} for k in range(256)]
    content = {"images": images, "annotations": objects, "categories": [{"id": 1, "name": "square"}]}
    (tmp_path / "objects.json").write_text(json.dumps(content))
    with ProcessPoolExecutor(1, elsewhere) as pool:  # where nothing else has used memory before
        few, many = pool.submit(few_and_many, tmp_path).result()
    assert many < few + 120  # MB; 192 pictures more, held with 8 bits a channel and with their masks, are 200
