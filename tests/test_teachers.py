"""Teachers: features and objectness of one grid, in one pass, differentiable in the picture and in nothing else."""

import os
import pickle
import sys
from collections import OrderedDict
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from icm_helpers.tasks import weights
from icm_helpers.tasks.detectron2 import Detectron2, _read
from icm_helpers.tasks.mask_rcnn import SmallFasterRCNN, SmallMaskRCNN
from icm_helpers.tasks.rcnn import COCORCNN
from icm_helpers.tasks.teacher import Remembered, Teacher, magnified
from icm_helpers.tasks.yolov5 import YOLOv5


class Pyramid(nn.Module):
    """As detectron2's backbone answers: five levels, of strides 4 to 64."""

    size_divisibility = 32

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1)

    def forward(self, x):
        return {f"p{i}": nn.functional.avg_pool2d(self.conv(x), 2**i, ceil_mode=True) for i in range(2, 7)}


class Head(nn.Module):
    """As detectron2's proposal head answers: logits and box deltas of each level."""

    def __init__(self) -> None:
        super().__init__()
        self.logits = nn.Conv2d(8, 3, 1)

    def forward(self, features):
        return [self.logits(f) for f in features], [f[:, :4] for f in features]


class Network(nn.Module):
    """What the adapter uses of detectron2's `GeneralizedRCNN`; every picture shows one object, of the last class, in a corner."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = Pyramid()
        self.proposal_generator = nn.Module()
        self.proposal_generator.rpn_head = Head()
        self.register_buffer("pixel_mean", torch.tensor([103.53, 116.28, 123.675]).view(3, 1, 1), False)
        self.register_buffer("pixel_std", torch.ones(3, 1, 1), False)

    def forward(self, inputs):
        self.seen = inputs
        found = SimpleNamespace(
            pred_boxes=SimpleNamespace(tensor=torch.tensor([[0.0, 0, 5, 5]])),
            scores=torch.tensor([0.9]),
            pred_classes=torch.tensor([79]),
            has=lambda name: False,
        )
        return [{"instances": found}]


MAKE = {
    "mask-rcnn-small": lambda: SmallMaskRCNN({1: "disc"}, size=256),
    "faster-rcnn-small": lambda: SmallFasterRCNN({1: "disc"}, size=256),
    "faster-rcnn-r50": lambda: COCORCNN(masks=False, min_size=480),
    "yolov5": lambda: YOLOv5(),
    "detectron2": lambda: Detectron2(Network(), min_size=480),
}


@pytest.fixture(scope="module", params=MAKE)
def teacher(request):
    torch.manual_seed(0)
    return MAKE[request.param]().eval().requires_grad_(False)


def test_it_keeps_the_protocol(teacher):
    assert isinstance(teacher, Teacher)


def test_objectness_and_features_share_their_grid_which_covers_the_whole_picture(teacher):
    features, logits = teacher.features_and_objectness(torch.rand(2, 3, 64, 96))
    assert features.keys() == logits.keys() and list(features)[-3:] == ["p3", "p4", "p5"]
    fine = features["p3"].shape[2:]
    for level, f in features.items():
        assert logits[level].shape == (2, 3, *f.shape[2:])
        ratio = 2.0 ** (int(level[1]) - 3)
        assert [n * ratio for n in f.shape[2:]] == list(fine)
    assert fine[1] / fine[0] == pytest.approx(96 / 64, abs=0.3)


def test_one_pass_gives_what_two_give(teacher):
    images = torch.rand(1, 3, 64, 64)
    features, logits = teacher.features_and_objectness(images)
    again = teacher.features(images)
    assert features.keys() == logits.keys() == again.keys() and all(
        torch.equal(v, again[k]) for k, v in features.items()
    )


def test_gradients_reach_the_picture_and_no_parameter(teacher):
    images = torch.rand(2, 3, 64, 64, requires_grad=True)
    features, logits = teacher.features_and_objectness(images)
    for output in (*features.values(), *logits.values()):
        (gradient,) = torch.autograd.grad(output.square().sum(), images, retain_graph=True)
        assert gradient.isfinite().all() and gradient.flatten(1).any(1).all()
    assert all(p.grad is None and not p.requires_grad for p in teacher.parameters())


def test_normalisation_stays_in_inference_mode(teacher):
    state, images = {k: v.clone() for k, v in teacher.state_dict().items()}, torch.rand(2, 3, 64, 64)
    alone = teacher.features(images[:1])
    teacher.features_and_objectness(images)
    together = teacher.features(images)
    assert all((alone[k] - together[k][:1]).abs().max() < 1e-5 * alone[k].abs().max() for k in alone)
    assert all(torch.equal(v, state[k]) for k, v in teacher.state_dict().items())


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (torch.rand(3, 64, 64), "takes"),
        (torch.rand(1, 3, 64, 65), "multiples of 32"),
        (torch.full((1, 3, 64, 64), torch.nan), "NaN or infinity"),
    ],
)
def test_what_no_teacher_takes_is_refused(teacher, images, message):
    with pytest.raises(ValueError, match=message):
        teacher.features(images)


def test_a_whole_scene_is_seen_as_it_is_when_objects_are_looked_for():
    model = SmallMaskRCNN.from_weights()
    seen = []
    model.model.backbone.register_forward_hook(lambda *_: seen.append(_[2]))
    image = torch.rand(3, 192, 192)
    model.detect([image])
    features = model.features(image[None])
    assert seen[0].keys() == features.keys()
    for level, f in features.items():
        torch.testing.assert_close(f, seen[0][level], atol=1e-4, rtol=1e-3)


def test_only_the_backbone_and_the_proposal_head_are_computed():
    model = SmallMaskRCNN({1: "disc"}).eval()
    model.model.roi_heads.register_forward_pre_hook(lambda *_: pytest.fail("the heads were asked"))
    assert set(model.features_and_objectness(torch.rand(1, 3, 64, 64))[1]) == {"p2", "p3", "p4", "p5"}


def test_a_crop_keeps_its_magnification_to_the_nearest_multiple():
    assert magnified(torch.rand(1, 3, 128, 192), 256 / 192).shape == (1, 3, 160, 256)
    images = torch.rand(1, 3, 64, 32)
    assert magnified(images, 1.0) is images


# --- the small Faster R-CNN ----------------------------------------------------------------------------------------------


def test_the_small_faster_rcnn_trains_saves_and_detects_without_masks(tmp_path):
    torch.manual_seed(0)
    model = SmallFasterRCNN({3: "disc", 7: "star"}, size=64).train()
    target = {"boxes": torch.tensor([[8.0, 8, 40, 40]]), "labels": torch.tensor([7])}
    parts = model([torch.rand(3, 64, 64)], [{**target, "masks": torch.ones(1, 64, 64, dtype=torch.uint8)}])
    assert set(parts) == {"loss_classifier", "loss_box_reg", "loss_objectness", "loss_rpn_box_reg"}
    model.save(tmp_path / "faster.safetensors")
    (found,) = SmallFasterRCNN.from_weights(tmp_path / "faster.safetensors").detect([torch.rand(3, 64, 64)])
    assert set(found) == {"boxes", "scores", "labels"} and set(found["labels"].tolist()) <= {3, 7}
    with pytest.raises(ValueError, match="holds faster-rcnn-small, not a mask-rcnn-small"):
        SmallMaskRCNN.from_weights(tmp_path / "faster.safetensors")


def test_the_small_faster_rcnn_is_four_times_smaller_and_knows_no_masks():
    mask, faster = (kind({1: "disc"}) for kind in (SmallMaskRCNN, SmallFasterRCNN))
    assert not [name for name in faster.state_dict() if ".mask_" in name]
    assert 4 < sum(p.numel() for p in mask.parameters()) / sum(p.numel() for p in faster.parameters()) < 5


# --- detectron2 ----------------------------------------------------------------------------------------------------------


def test_the_network_of_detectron2_sees_bgr_from_0_to_255_less_its_mean():
    seen, model = [], Detectron2(Network(), min_size=480)
    model.model.backbone.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    red = torch.zeros(1, 3, 32, 32)
    red[:, 0] = 1
    model.features(red)
    assert seen[0].shape == (1, 3, 32, 32)
    torch.testing.assert_close(seen[0][0, :, 0, 0], torch.tensor([-103.53, -116.28, 255 - 123.675]))


def test_detectron2_is_given_the_resized_picture_and_answers_in_coco_ids():
    model = Detectron2(Network(), min_size=60, max_size=100)
    (found,) = model.detect([torch.rand(3, 30, 60)])
    (given,) = model.model.seen
    assert given["image"].shape == (3, 50, 100) and (given["height"], given["width"]) == (30, 60)
    assert 1 < given["image"].max() <= 255
    assert found["labels"].tolist() == [90] and set(found) == {"boxes", "scores", "labels"}


def test_a_file_of_the_zoo_is_read_without_running_it(tmp_path):
    arrays = OrderedDict(weight=np.arange(6, dtype=np.float32).reshape(2, 3), bias=np.float32(2))
    path = tmp_path / "faster_rcnn_R_50_FPN_3x-0.pkl"
    path.write_bytes(pickle.dumps({"model": arrays, "__author__": "zoo"}, protocol=2))
    assert weights.published(path, _read)["weight"].tolist() == [[0, 1, 2], [3, 4, 5]] and _read(path)["bias"] == 2
    path.write_bytes(pickle.dumps({"model": sys.exit}))
    with pytest.raises(ValueError, match=r"asks for sys.exit\): it is damaged, or holds more than tensors"):
        weights.published(path, _read)
    path.write_bytes(b"no pickle")
    with pytest.raises(ValueError, match="Nothing in it was run; fetch it again"):
        weights.published(path, _read)


def test_a_file_that_is_missing_or_named_otherwise_is_an_error_that_says_what_to_do(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no.pkl is missing: fetch it with"):
        Detectron2.from_weights(tmp_path / "no.pkl")
    (tmp_path / "model_final.pkl").touch()
    with pytest.raises(ValueError, match="must begin with one of faster_rcnn_R_50_FPN_3x"):
        Detectron2.from_weights(tmp_path / "model_final.pkl")


@pytest.fixture(scope="module", params=["COCO-Detection/faster_rcnn", "COCO-InstanceSegmentation/mask_rcnn"])
def real(request, tmp_path_factory):
    """The real package's network with random weights, through a file like the zoo's."""
    reason = "detectron2 has no packages: environment.yml compiles it"
    zoo = pytest.importorskip("detectron2.model_zoo", reason=reason)
    from detectron2.modeling import build_model

    torch.manual_seed(0)
    config = zoo.get_config(f"{request.param}_R_50_FPN_3x.yaml")
    config.MODEL.DEVICE = "cpu"
    network = build_model(config)
    path = tmp_path_factory.mktemp("zoo") / f"{request.param.partition('/')[2]}_R_50_FPN_3x-0.pkl"
    arrays = {k: v.numpy() for k, v in network.state_dict().items()}
    path.write_bytes(pickle.dumps({"model": arrays | {"pixel_mean": np.zeros((3, 1, 1))}}, protocol=2))
    model = Detectron2.from_weights(path)
    path.unlink()
    assert all(torch.equal(v, network.state_dict()[k]) for k, v in model.model.state_dict().items())
    model.min_size, model.max_size, model.scale = 64, 96, 1.0
    return model


def test_the_real_detectron2_gives_aligned_maps_that_differentiate(real):
    images = torch.rand(1, 3, 64, 96, requires_grad=True)
    features, logits = real.features_and_objectness(images)
    for i, level in enumerate(("p2", "p3", "p4", "p5")):
        assert features[level].shape == (1, 256, 16 >> i, 24 >> i) and logits[level].shape == (1, 3, 16 >> i, 24 >> i)
    assert torch.autograd.grad(sum(f.mean() for f in logits.values()), images)[0].any()
    assert isinstance(real, Teacher) and not any(p.requires_grad for p in real.parameters()) and not real.training


def test_the_real_detectron2_prepares_pictures_as_we_do(real):
    image = torch.rand(3, 64, 96)
    theirs = real.model.preprocess_image([{"image": 255 * image.flip(0)}]).tensor
    expected = real.model.backbone(theirs)
    for level, f in real.features(image[None]).items():
        torch.testing.assert_close(f, expected[level])


def test_the_real_detectron2_detects_in_pixels_and_coco_ids(real):
    real.model.roi_heads.box_predictor.test_score_thresh = 0.0
    (found,) = real.detect([torch.rand(3, 60, 90)])
    n = len(found["scores"])
    assert n > 0 and found["boxes"].shape == (n, 4) and set(found["labels"].tolist()) <= set(real.categories)
    assert (found["boxes"] >= 0).all() and (found["boxes"] <= torch.tensor([90, 60, 90, 60])).all()
    if "masks" in found:
        assert found["masks"].shape == (n, 60, 90) and found["masks"].dtype == torch.bool


def test_a_remembering_teacher_looks_at_a_picture_once_and_says_the_same(tmp_path, monkeypatch):
    teacher, x = SmallMaskRCNN.from_weights(), torch.rand(2, 3, 64, 64)
    looks, look = [], teacher.features_and_objectness
    monkeypatch.setattr(teacher, "features_and_objectness", lambda v: looks.append(len(v)) or look(v))
    remembered = Remembered(teacher, tmp_path)
    with torch.no_grad():
        wanted = look(x)
        for _ in range(2):
            for found, right in zip(remembered.features_and_objectness(x), wanted, strict=True):
                assert list(found) == list(right) and all(torch.equal(found[k], right[k]) for k in right)
        assert all(torch.equal(v, wanted[0][k][:1]) for k, v in Remembered(teacher, tmp_path).features(x[:1]).items())
    assert looks == [2] and remembered.categories == teacher.categories
    remembered.features(x.requires_grad_())["p2"].sum().backward()  # where gradients are wanted it looks itself
    assert x.grad.any()


def test_a_damaged_memory_is_told_and_made_again_and_a_full_disk_is_an_error(tmp_path, caplog, monkeypatch):
    remembered, x = Remembered(SmallMaskRCNN.from_weights(), tmp_path), torch.rand(1, 3, 32, 32)
    with torch.no_grad():
        right = remembered.features(x)
        (path,) = tmp_path.iterdir()
        path.write_bytes(path.read_bytes()[:100])
        assert torch.equal(remembered.features(x)["p5"], right["p5"]) and "is damaged" in caplog.text
        path.unlink()
        monkeypatch.setattr(os, "replace", full)
        with pytest.raises(OSError, match=r"free space on its disk.*without --remember"):
            remembered.features(x)
    assert not list(tmp_path.iterdir())


def full(*_):
    raise OSError(28, "No space left on device")
