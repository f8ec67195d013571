"""Omnipotent features: a backbone that no task taught, and the loss that keeps its stages."""

import pytest
import torch

from icm_helpers import train
from icm_helpers.data import datasets
from icm_helpers.objectives import MSE, Objective, Omnipotent
from icm_helpers.tasks import contrastive


@pytest.fixture(scope="module")
def backbone():
    torch.manual_seed(0)
    return contrastive.Backbone().eval().requires_grad_(False)


def test_stages_halve_the_picture_from_a_quarter_on(backbone):
    shapes = {name: tuple(stage.shape) for name, stage in backbone.stages(torch.rand(2, 3, 64, 96)).items()}
    assert shapes == {"s1": (2, 16, 16, 24), "s2": (2, 32, 8, 12), "s3": (2, 48, 4, 6), "s4": (2, 48, 2, 3)}
    with pytest.raises(ValueError, match="sides multiples of 32"):
        backbone.stages(torch.rand(1, 3, 40, 64))


def test_the_loss_is_zero_for_the_picture_itself_and_its_gradient_reaches_what_is_decoded(backbone):
    loss, x = Omnipotent("any").taught_by(backbone), torch.rand(1, 3, 40, 70)  # sides that no stage divides
    clean = loss.clean(x, torch.zeros(1, 1, 40, 70))
    assert loss.distortion(x, x, clean) == 0
    x_hat = (x + 0.1 * torch.randn_like(x)).requires_grad_()
    loss.distortion(x_hat, x, clean).backward()
    assert x_hat.grad.abs().sum() > 0 and not any(p.requires_grad for p in backbone.parameters())


def test_it_refuses_a_detector_that_has_no_stages_and_to_be_asked_before_it_is_bound():
    with pytest.raises(ValueError, match="mask-rcnn-small cannot teach --loss omnipotent"):
        Omnipotent("mask-rcnn-small").taught_by(MSE())
    with pytest.raises(ValueError, match="needs a teacher"):
        Objective(Omnipotent("any"), 1.0)(lambda x: {"x_hat": x}, (torch.rand(1, 3, 32, 32), torch.zeros(1, 1, 32, 32)))


def test_two_views_of_a_picture_are_told_from_others():
    torch.manual_seed(0)
    x = torch.rand(4, 3, 1, 1).expand(4, 3, 128, 128).clone()
    first = contrastive.view(x)
    assert first.shape == (4, 3, contrastive.VIEW, contrastive.VIEW) and 0 <= first.min() <= first.max() <= 1
    assert not torch.equal(first, contrastive.view(x))
    told = contrastive.discrimination(
        lambda v: torch.nn.functional.normalize(torch.eye(8)[:4].repeat(2, 1) + 0 * v.mean()), (x,)
    )
    assert told["told_apart"] == 1 and told["loss"] < 0.1


def test_a_backbone_is_trained_saved_and_read_back(tmp_path):
    pictures = datasets.load("scenes", "train", size=128, limit=4)
    model = contrastive.trained(pictures, train.Schedule(steps=2, batch=4), device="cpu", progress=False)
    model.save(tmp_path / "backbone.safetensors")
    again = contrastive.Backbone.from_weights(tmp_path / "backbone.safetensors")
    x = torch.rand(1, 3, 64, 64)
    for name, stage in again.stages(x).items():
        torch.testing.assert_close(stage, model.eval().stages(x)[name], atol=0.02, rtol=0.02)  # half precision
