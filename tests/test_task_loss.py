"""The detectors' own losses on images that a codec made, and the crops that bring the objects for them."""

import json
from types import MethodType

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torchvision.ops import masks_to_boxes

from icm_helpers.data import datasets
from icm_helpers.data.coco import CocoDataset
from icm_helpers.data.crops import Crops
from icm_helpers.tasks.mask_rcnn import SmallMaskRCNN
from icm_helpers.tasks.yolov5 import YOLOv5, _assign


def batch(data, patch: int = 128, n: int = 2) -> tuple[torch.Tensor, list[dict]]:
    crops = Crops(data, patch, 0, n, "none", object_prob=1, objects=True)
    images, _, targets = zip(*(crops[i] for i in range(n)), strict=True)
    assert all(len(target["labels"]) for target in targets)
    return torch.stack(images), list(targets)


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    return batch(datasets.load("scenes", "val", size=192, limit=2, root=tmp_path_factory.mktemp("scenes")))


@pytest.fixture(scope="module")
def photographs(real_data):
    return batch(datasets.load("coco-mini", "val", limit=4, root=real_data / "coco_mini"))


@pytest.fixture(params=["mask-rcnn-small", "yolov5n"])
def judged(request):
    """A detector with its trained weights, and images with objects that it knows."""
    if request.param == "mask-rcnn-small":
        return SmallMaskRCNN.from_weights(), *request.getfixturevalue("scenes")
    weights = request.getfixturevalue("real_data") / "weights_yolov5n" / "yolov5n.safetensors"
    return YOLOv5.from_weights(weights), *request.getfixturevalue("photographs")


def seeded_loss(model, images, targets) -> torch.Tensor:
    """With the same anchors and proposals sampled each time."""
    torch.manual_seed(0)
    return model.task_loss(list(images), targets)


def test_the_true_image_has_a_lower_loss_than_noise_and_than_another_image(judged):
    model, images, targets = judged
    true = seeded_loss(model, images, targets)
    assert true < seeded_loss(model, torch.rand_like(images), targets)
    assert true < seeded_loss(model, images.flip(0), targets)


def test_a_step_against_the_gradient_lowers_the_loss(judged):
    model, images, targets = judged
    images = images.clone().requires_grad_()
    before = seeded_loss(model, images, targets)
    (gradient,) = torch.autograd.grad(before, images)
    assert gradient.isfinite().all()
    assert gradient.flatten(1).any(dim=1).all(), "no gradient reaches one of the images"
    assert seeded_loss(model, images - 0.3 * gradient / gradient.norm(), targets) < before


def test_the_detector_stays_as_it_was(judged):
    model, images, targets = judged
    state, modes = {k: v.clone() for k, v in model.state_dict().items()}, [m.training for m in model.modules()]
    seeded_loss(model, images.clone().requires_grad_(), targets).backward()
    with pytest.raises(KeyError):
        model.task_loss(list(images), [{**t, "labels": t["labels"] + 1000} for t in targets])
    with pytest.raises(ValueError, match="images hold NaN or infinity"):
        model.task_loss(list(images / 0), targets)
    assert all(torch.equal(v, state[k]) for k, v in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())
    assert [m.training for m in model.modules()] == modes
    assert any(isinstance(m, nn.BatchNorm2d) for m in model.modules())
    assert model.detect([images[0]])[0]["boxes"].shape[1] == 4


def test_images_without_objects_have_a_loss_too(judged):
    model, images, targets = judged
    none = [{key: value[:0] for key, value in target.items()} for target in targets]
    images = images.clone().requires_grad_()
    for chosen in (none, [targets[0], none[1]]):
        loss = seeded_loss(model, images, chosen)
        assert loss.isfinite() and loss > 0
        assert torch.autograd.grad(loss, images)[0].any()


def test_a_crop_is_magnified_as_a_whole_scene_is(scenes):
    model, (images, targets) = SmallMaskRCNN.from_weights(), scenes
    seen = []
    model.model.rpn.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].image_sizes))
    model.task_loss(list(images), targets)
    model.detect([torch.rand(3, 192, 192)])
    assert seen == [[(171, 171)] * 2, [(256, 256)]]  # 128 * 256 / 192 = 171
    with pytest.raises(ValueError, match="one batch takes one size"):
        model.task_loss([images[0], images[1, :, :64]], targets)


def test_a_box_is_assigned_to_fitting_anchors_in_its_cell_and_the_nearer_neighbours():
    # 4 x 3 strides: 3.2 and 3 times the first anchor, 2 and 1.5 times the second; the third is 4.3 times as high.
    anchors = torch.tensor([[1.25, 1.0], [2.0, 2.0], [13.0, 13.0]])
    # Its centre is in the upper left of cell x 2, y 0, which has a neighbour to the left and none above.
    inner = torch.tensor([[0.3, -1.1, 4.3, 1.9]])
    assert set(zip(*(v.tolist() for v in _assign(inner, anchors, 4, 4)), strict=True)) == {
        (0, 0, 0, 2),
        (0, 0, 0, 1),
        (0, 1, 0, 2),
        (0, 1, 0, 1),
    }
    # Its centre is in the lower right of cell x 3, y 2, which has a neighbour below and, of four columns, none to the right.
    corner = torch.tensor([[1.8, 1.1, 5.8, 4.1]])
    assert set(zip(*(v.tolist() for v in _assign(corner, anchors[1:2], 4, 4)), strict=True)) == {
        (0, 0, 2, 3),
        (0, 0, 3, 3),
    }
    assert len(_assign(inner, anchors[2:], 4, 4)[0]) == 0


def test_the_outputs_of_least_yolov5_loss_decode_to_the_objects(real_data, monkeypatch):
    model = YOLOv5.from_weights(real_data / "weights_yolov5n" / "yolov5n.safetensors")
    outputs = {f"p{i}": torch.zeros(1, 3, 85, 64 >> i, 64 >> i).requires_grad_() for i in (3, 4, 5)}
    monkeypatch.setattr(model, "raw", MethodType(lambda *_: outputs, model))
    boxes = torch.tensor([[5.0, 9, 30, 27], [28, 20, 64, 60]])
    target = {"boxes": boxes, "labels": torch.tensor([90, 1])}
    optimiser = torch.optim.Adam(outputs.values(), lr=0.2)
    for _ in range(150):
        optimiser.zero_grad()
        model.task_loss(torch.zeros(1, 3, 64, 64), [target]).backward()
        optimiser.step()
    model.size = 64
    (found,) = model.detect([torch.zeros(3, 64, 64)], conf=0.5)
    order = found["labels"].argsort(descending=True)
    assert found["labels"][order].tolist() == [90, 1]
    assert (found["boxes"][order] - boxes).abs().max() < 1  # pixel


# --- crops with their objects --------------------------------------------------------------------------------------------


@pytest.fixture
def two_and_a_crowd(tmp_path):
    """A dark picture with a grey and a white rectangle, of categories 3 and 7, and a crowd region that shows nothing."""
    rectangles = {(3, 0, 100): (4, 6, 12, 8), (7, 0, 220): (25, 3, 9, 20), (7, 1, 40): (5, 20, 10, 8)}
    pixels, annotations = np.full((36, 44, 3), 40, np.uint8), []
    for i, ((category, crowd, grey), (x, y, w, h)) in enumerate(rectangles.items(), start=1):
        pixels[y : y + h, x : x + w] = grey
        annotations.append({"id": i, "image_id": 1, "category_id": category, "iscrowd": crowd, "bbox": [x, y, w, h]})
    (tmp_path / "images").mkdir()
    Image.fromarray(pixels).save(tmp_path / "images" / "a.png")
    content = {
        "images": [{"id": 1, "file_name": "a.png", "width": 44, "height": 36}],
        "annotations": annotations,
        "categories": [{"id": 3, "name": "disc"}, {"id": 7, "name": "star"}],
    }
    (tmp_path / "instances.json").write_text(json.dumps(content))
    return CocoDataset(tmp_path / "images", tmp_path / "instances.json")


def test_the_objects_of_a_crop_are_where_it_shows_them(two_and_a_crowd):
    counts = set()
    for image, mask, target in Crops(two_and_a_crowd, 16, 0, 40, "none", objects=True):  # mirrored half of the time
        grey, shown = (image[0] * 255).round(), dict(zip(target["labels"].tolist(), target["masks"], strict=True))
        for category, value in ((3, 100), (7, 220)):
            true = grey == value
            if category in shown:
                assert torch.equal(shown[category].bool(), true)
                assert (mask[0] >= shown[category]).all()
            else:
                assert true.sum() < 8 or true.any(0).sum() < 2 or true.any(1).sum() < 2
        assert torch.equal(target["boxes"], masks_to_boxes(target["masks"]) + torch.tensor([0, 0, 1, 1]))
        counts.add(len(shown))
    assert counts == {0, 1, 2}


@pytest.mark.parametrize("augment", ["none", "heavy"])
@pytest.mark.parametrize("patch", [16, 60])  # within the picture, and larger than it
def test_objects_change_neither_picture_nor_mask(two_and_a_crowd, augment, patch):
    plain = Crops(two_and_a_crowd, patch, 1, 12, augment)
    rich = Crops(two_and_a_crowd, patch, 1, 12, augment, cache=False, objects=True)
    for (image, mask), (same_image, same_mask, target) in zip(plain, rich, strict=True):
        assert torch.equal(image, same_image)
        assert torch.equal(mask, same_mask)
        n = len(target["labels"])
        assert (target["boxes"].shape, target["masks"].shape) == ((n, 4), (n, patch, patch))
        assert (target["boxes"].dtype, target["labels"].dtype) == (torch.float32, torch.int64)
        assert target["masks"].dtype == torch.uint8
        assert ((target["boxes"][:, 2:] - target["boxes"][:, :2]) >= 2).all()


def test_the_objects_of_photographs_fill_the_mask_but_for_crowds_and_slivers(real_data):
    train = datasets.load("coco-mini", "train", limit=8, root=real_data / "coco_mini")
    crowded = {sample.name for sample in train if sample.crowd.any()}
    crops = Crops(train, 128, 0, 24, "none", objects=True)
    missed = shown = 0
    for i, (_, mask, target) in enumerate(crops):
        union = target["masks"].sum(0).clamp_max(1)
        assert (union <= mask[0]).all()
        if crops.source(i) not in crowded:
            missed, shown = missed + (mask[0] - union).sum(), shown + mask.sum()
    assert shown > 0
    assert missed / shown < 1e-3
