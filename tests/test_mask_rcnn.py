"""The small Mask R-CNN: the same detections after saving, clear errors, losses that differentiate."""

import pytest
import torch

from icm_helpers import files
from icm_helpers.tasks.mask_rcnn import SmallMaskRCNN

CATEGORIES = {3: "disc", 7: "star"}


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A random model's file."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "random.safetensors"
    SmallMaskRCNN(CATEGORIES, size=96).save(path)
    return path


@pytest.fixture(scope="module")
def model(saved):
    return SmallMaskRCNN.from_weights(saved)


def target(n: int) -> dict[str, torch.Tensor]:
    masks = torch.zeros(n, 96, 96, dtype=torch.uint8)
    masks[:, 20:60, 30:70] = 1
    return {
        "boxes": torch.tensor([[30.0, 20, 70, 60]] * n).reshape(n, 4),
        "labels": torch.full((n,), 7),
        "masks": masks,
    }


def test_saving_and_loading_keeps_every_detection(model, tmp_path):
    model.save(tmp_path / "again.safetensors")
    again = SmallMaskRCNN.from_weights(tmp_path / "again.safetensors")
    image = torch.rand(3, 96, 96)
    (before,), (after,) = model.detect([image]), again.detect([image])
    assert again.categories == CATEGORIES and len(before["scores"]) > 0
    assert all(torch.equal(before[k], after[k]) for k in ("boxes", "scores", "labels", "masks"))


def test_detections_are_in_pixels_and_category_ids(model):
    (found,) = model.detect([torch.rand(3, 80, 120)])
    n = len(found["scores"])
    assert found["boxes"].shape == (n, 4) and (found["boxes"] <= torch.tensor([120, 80, 120, 80])).all()
    assert found["masks"].shape == (n, 80, 120) and found["masks"].dtype == torch.bool
    assert n > 0 and set(found["labels"].tolist()) <= set(CATEGORIES)


def test_losses_are_finite_and_reach_the_image():
    network = SmallMaskRCNN(CATEGORIES, size=96).train()
    images = torch.rand(2, 3, 96, 96, requires_grad=True)
    parts = network(list(images), [target(1), target(0)])  # the second picture shows no object
    assert set(parts) == {"loss_classifier", "loss_box_reg", "loss_mask", "loss_objectness", "loss_rpn_box_reg"}
    sum(parts.values()).backward()
    assert images.grad.isfinite().all() and (images.grad[0] != 0).any()


def test_a_missing_file_is_an_error_that_says_how_to_make_it(tmp_path):
    with pytest.raises(
        FileNotFoundError,
        match=r"none.safetensors is missing: train one with .*icm detector --model mask-rcnn-small --out",
    ):
        SmallMaskRCNN.from_weights(tmp_path / "none.safetensors")


def test_a_damaged_or_foreign_file_is_an_error_that_names_it(saved, tmp_path):
    (tmp_path / "cut.safetensors").write_bytes(saved.read_bytes()[:-1000])
    with pytest.raises(ValueError, match=r"cut.safetensors is not a readable safetensors file"):
        SmallMaskRCNN.from_weights(tmp_path / "cut.safetensors")
    with pytest.raises(ValueError, match=r"start-coco-mini.safetensors holds .*, not a mask-rcnn-small"):
        SmallMaskRCNN.from_weights(files.CHECKPOINTS / "start-coco-mini.safetensors")
