"""YOLOX through onnxruntime: the known AP, the same boxes every time, and clear errors."""

import sys
from types import SimpleNamespace

import pytest
import torch

from icm_helpers import evaluate
from icm_helpers.data.coco import require_categories
from icm_helpers.data.datasets import load
from icm_helpers.tasks.onnx import YOLOX, YOLOv7


@pytest.fixture(scope="module")
def weights(real_data):
    pytest.importorskip("onnxruntime", reason="the extra `onnx` is not installed")
    return real_data / "weights_yolox_nano" / "yolox_nano.onnx"


@pytest.fixture(scope="module")
def model(weights):
    return YOLOX.from_weights(weights)


@pytest.fixture(scope="module")
def val(real_data):
    return load("coco-mini", "val", root=real_data / "coco_mini")


def test_box_ap_on_coco_mini_is_the_known_one(model, val):
    require_categories(val, model.categories, "YOLOX-nano")
    found = evaluate.clean_detections(val, model, progress=False)
    summary, _ = evaluate.average_precision(val.ground_truth(), found)
    # SOURCES.md beside the weights says .309 and .507, with thresholds that it does not state.
    assert summary["ap"] == pytest.approx(0.316, abs=0.003)
    assert summary["ap50"] == pytest.approx(0.498, abs=0.005)


def test_a_second_session_finds_exactly_the_same(weights, model, val):
    (first,), (second,) = (m.detect([val[0].image]) for m in (model, YOLOX.from_weights(weights).to("cuda")))
    assert len(first["scores"]) > 0 and all(torch.equal(first[k], second[k]) for k in ("boxes", "scores", "labels"))


def test_boxes_follow_a_picture_that_is_placed_elsewhere_and_doubled(model, val):
    image = val[0].image
    doubled = torch.nn.functional.interpolate(image[None], scale_factor=2)[0]
    moved = torch.nn.functional.pad(image, (0, 0, 64, 0), value=114 / 255)  # 64 grey rows above
    best, twice, below = (found["boxes"][0] for found in model.detect([image, doubled, moved]))
    assert (twice / 2 - best).abs().max() < 4
    assert (below - torch.tensor([0, 64, 0, 64]) - best).abs().max() < 8


@pytest.mark.parametrize("shape", [(3, 50, 37), (3, 1, 900), (3, 416, 416), (3, 700, 20)])
def test_boxes_stay_inside_pictures_of_any_shape(model, shape):
    (found,) = model.detect([torch.rand(shape)], conf=0.0)
    assert len(found["scores"]) == 100 and (found["scores"].diff() <= 0).all()
    assert (found["boxes"] >= 0).all() and (found["boxes"] <= torch.tensor(shape)[[2, 1, 2, 1]]).all()
    assert set(found["labels"].tolist()) <= set(model.categories)


def test_a_plain_picture_has_no_objects_and_that_is_no_error(model):
    (found,) = model.detect([torch.full((3, 50, 37), 0.5)], conf=0.5)
    assert (found["boxes"].shape, found["scores"].shape, found["labels"].shape) == ((0, 4), (0,), (0,))


class Session:
    """An exported network that always gives the same."""

    def __init__(self, output: torch.Tensor):
        self.output = output.numpy()

    def get_inputs(self):
        return [SimpleNamespace(name="images")]

    def run(self, _, given):
        assert given["images"].shape == (1, 3, 64, 64) and given["images"].max() <= 1
        return [self.output]


def test_both_forms_of_yolov7_mean_the_same_box_of_a_picture():
    anchors = torch.zeros(1, 3 * (8**2 + 4**2 + 2**2), 85)
    anchors[0, 7, :5] = torch.tensor([20.0, 31.0, 20.0, 20.0, 0.9])  # 16 grey rows lie above the picture
    anchors[0, 7, 5 + 2] = 0.5
    suppressed = torch.tensor([[0.0, 10.0, 21.0, 30.0, 41.0, 2.0, 0.45]])
    for output in (anchors, suppressed):
        (found,) = YOLOv7(Session(output), 64).detect([torch.rand(3, 32, 64)])
        assert found["boxes"].tolist() == [[10, 5, 30, 25]] and found["labels"].tolist() == [3]  # COCO's cars
        assert found["scores"].item() == pytest.approx(0.45)


def test_a_missing_package_is_an_error_that_names_the_extra(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ImportError, match="extra `onnx`"):
        YOLOX.from_weights(tmp_path / "yolox.onnx")


def test_missing_damaged_and_other_networks_are_refused_by_name(weights, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no\.onnx is missing"):
        YOLOX.from_weights(tmp_path / "no.onnx")
    for name, content in {"text": b"not a network", "none": b"", "half": weights.read_bytes()[:1_000_000]}.items():
        (tmp_path / f"{name}.onnx").write_bytes(content)
        with pytest.raises(ValueError, match=rf"{name}\.onnx is not a readable ONNX file"):
            YOLOX.from_weights(tmp_path / f"{name}.onnx")
    from onnxruntime.datasets import get_example

    with pytest.raises(ValueError, match=r"sigmoid\.onnx takes .*\[3, 4, 5\].*, which is not a YOLOX"):
        YOLOX.from_weights(get_example("sigmoid.onnx"))


def test_bad_pictures_are_refused(model):
    image = torch.rand(3, 64, 64)
    image[0, 5, 5] = torch.nan
    with pytest.raises(ValueError, match="NaN or infinity"):
        model.detect([image])
    with pytest.raises(ValueError, match=r"torch\.uint8 of shape"):
        model.detect([torch.zeros(3, 64, 64, dtype=torch.uint8)])
