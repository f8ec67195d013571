"""YOLOv5 with its official weights: the same numbers from both files, the known AP, and no foreign code run."""

import os
import pickle
import zipfile

import pytest
import torch
from faster_coco_eval import COCO, COCOeval_faster
from safetensors.torch import load_file, save_file

from icm_helpers.data.coco import require_categories
from icm_helpers.data.datasets import load
from icm_helpers.tasks.yolov5 import CATEGORIES, YOLOv5


@pytest.fixture(scope="module")
def weights(real_data):
    return real_data / "weights_yolov5n"


@pytest.fixture(scope="module")
def model(weights):
    return YOLOv5.from_weights(weights / "yolov5n.safetensors")


@pytest.fixture(scope="module")
def val(real_data):
    return load("coco-mini", "val", root=real_data / "coco_mini")


def test_box_ap_on_coco_mini_is_the_known_one(model, val):
    require_categories(val, model.categories, "YOLOv5n")
    results = []
    for sample in val:
        (found,) = model.detect([sample.image])
        x1, y1, x2, y2 = found["boxes"].unbind(-1)
        boxes = torch.stack((x1, y1, x2 - x1, y2 - y1), dim=-1).tolist()
        for box, score, label in zip(boxes, found["scores"].tolist(), found["labels"].tolist(), strict=True):
            results.append({"image_id": sample.image_id, "category_id": label, "bbox": box, "score": score})
    truth = COCO(val.ground_truth())
    evaluator = COCOeval_faster(truth, truth.loadRes(results), "bbox")
    evaluator.run()
    assert evaluator.stats[0] == pytest.approx(0.309, abs=0.005)


def test_the_official_pickle_and_the_safetensors_give_identical_detections(weights, model, val):
    official = YOLOv5.from_weights(weights / "yolov5n.pt")
    images = [val[0].image, val[1].image]
    for a, b in zip(model.detect(images), official.detect(images), strict=True):
        assert all(torch.equal(a[key], b[key]) for key in ("boxes", "scores", "labels"))


def test_boxes_follow_the_image_size_and_stay_inside_it(model, val):
    sample = val[0]
    small = torch.nn.functional.interpolate(sample.image[None], scale_factor=0.5, mode="bilinear", antialias=True)[0]
    whole, half = model.detect([sample.image, small], conf=0.4)
    best = [found["boxes"][found["labels"] == whole["labels"][0]][0] for found in (whole, half)]
    assert (best[0] / 2 - best[1]).abs().max() < 4
    for found, image in ((whole, sample.image), (half, small)):
        assert (found["boxes"] >= 0).all()
        assert (found["boxes"] <= torch.tensor(image.shape)[[2, 1, 2, 1]]).all()
        assert set(found["labels"].tolist()) <= set(CATEGORIES)
        assert (found["scores"].diff() <= 0).all()


def test_a_plain_image_has_no_objects_and_that_is_no_error(model):
    (found,) = model.detect([torch.full((3, 50, 37), 0.5)], conf=0.5)
    assert (found["boxes"].shape, found["scores"].shape, found["labels"].shape) == ((0, 4), (0,), (0,))


def test_features_and_objectness_are_differentiable_in_the_image_alone(model):
    image = torch.rand(2, 3, 64, 96, requires_grad=True)
    features, objectness = model.features_and_objectness(image)
    for level, channels, stride in (("p3", 64, 8), ("p4", 128, 16), ("p5", 256, 32)):
        assert features[level].shape == (2, channels, 64 // stride, 96 // stride)
        assert objectness[level].shape == (2, 3, 64 // stride, 96 // stride)
        for output in (features[level], objectness[level]):
            (gradient,) = torch.autograd.grad(output.sum(), image, retain_graph=True)
            assert gradient.isfinite().all()
            assert gradient.any()
    assert not any(p.requires_grad for p in model.parameters())
    assert not model.training


def test_objectness_is_the_head_applied_to_the_features(model):
    image = torch.rand(1, 3, 64, 64)
    head = model.model["24"].m[0]
    expected = head(model.features(image)["p3"])[:, [4, 89, 174]]  # 85 outputs an anchor, the fifth is objectness
    torch.testing.assert_close(model.features_and_objectness(image)[1]["p3"], expected)


@pytest.mark.parametrize("width, depth, million", [(32, 1, 7.24), (48, 2, 21.2)])  # YOLOv5s and m
def test_larger_variants_are_built_from_their_weights(tmp_path, width, depth, million):
    made = YOLOv5(width, depth)
    assert sum(p.numel() for p in made.parameters()) / 1e6 == pytest.approx(million, abs=0.05)
    save_file(made.state_dict(), tmp_path / "larger.safetensors")
    read = YOLOv5.from_weights(tmp_path / "larger.safetensors")
    assert all(torch.equal(a, b) for a, b in zip(made.state_dict().values(), read.state_dict().values(), strict=True))


class Bomb:
    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return os.mkdir, (str(self.target),)


def test_a_malicious_pickle_runs_nothing(tmp_path):
    target = tmp_path / "it_ran"
    file = tmp_path / "evil.pt"
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps({"model": Bomb(target), "ema": None}, protocol=2))
    with pytest.raises(ValueError, match=r"evil\.pt is not a file of weights .* Nothing in it was run"):
        YOLOv5.from_weights(file)
    assert not target.exists()
    pickle.loads(pickle.dumps(Bomb(target)))
    assert target.exists(), "the pickle must be one that would have run"


def test_wrong_files_are_refused_by_name(tmp_path, weights):
    def refuses(name: str, match: str) -> None:
        with pytest.raises(ValueError, match=match):
            YOLOv5.from_weights(tmp_path / name)

    with pytest.raises(FileNotFoundError, match=r"no\.pt is missing"):
        YOLOv5.from_weights(tmp_path / "no.pt")
    for name in ("text.pt", "text.safetensors"):
        (tmp_path / name).write_text("not weights")
        refuses(name, rf"{name} is not a file of weights")
    content = (weights / "yolov5n.pt").read_bytes()
    (tmp_path / "half.pt").write_bytes(content[: len(content) // 2])
    refuses("half.pt", r"half\.pt is not a file of weights")
    save_file({"weight": torch.zeros(3)}, tmp_path / "other.safetensors")
    refuses("other.safetensors", "does not hold a YOLOv5")
    state = load_file(weights / "yolov5n.safetensors")
    del state["model.9.cv1.bn.weight"]
    save_file(state, tmp_path / "less.safetensors")
    refuses("less.safetensors", r"(?s)does not hold a YOLOv5 .*Missing key.* \"model\.9\.cv1\.bn\.weight\"")


def test_bad_images_are_refused(model):
    image = torch.rand(3, 64, 64)
    image[0, 5, 5] = torch.nan
    with pytest.raises(ValueError, match="NaN or infinity"):
        model.detect([image])
    with pytest.raises(ValueError, match=r"torch\.uint8 of shape"):
        model.detect([torch.zeros(3, 64, 64, dtype=torch.uint8)])
    with pytest.raises(ValueError, match="multiples of 32"):
        model.features(torch.rand(1, 3, 64, 65))
