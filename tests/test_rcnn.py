"""torchvision's R-CNNs for COCO, with random weights in files like theirs: read whole, frozen, and without running a pickle."""

import os
import pickle
import re

import pytest
import torch
from safetensors.torch import save_file
from torchvision.ops import FrozenBatchNorm2d

from icm_helpers.tasks.rcnn import COCORCNN

SKIPPED = 12  # one of the ten ids between 1 and 90 that COCO does not use


@pytest.fixture(scope="module")
def state():
    """Random weights that see the ids 12 and 13 in everything, each with probability 1/2."""
    torch.manual_seed(0)
    state = COCORCNN(masks=True).model.state_dict()
    state["roi_heads.box_predictor.cls_score.weight"][13] = state["roi_heads.box_predictor.cls_score.weight"][SKIPPED]
    state["roi_heads.box_predictor.cls_score.bias"][[SKIPPED, 13]] = 50
    return state


@pytest.fixture(scope="module")
def files(state, tmp_path_factory):
    """Mask R-CNN in the format and with the names of torchvision's file of 2019, Faster R-CNN as safetensors."""
    folder = tmp_path_factory.mktemp("weights")
    old = {
        re.sub(r"(conv|inner_blocks\.\d|layer_blocks\.\d)\.0(\.0)?\.(weight|bias)$", r"\1.\3", k): v
        for k, v in state.items()
    }
    old = {re.sub(r"mask_head\.(\d)\.0", lambda m: f"mask_head.mask_fcn{int(m[1]) + 1}", k): v for k, v in old.items()}
    assert {"rpn.head.conv.weight", "backbone.fpn.inner_blocks.3.bias", "roi_heads.mask_head.mask_fcn4.bias"} <= set(
        old
    )
    torch.save(old, folder / "mask.pth", _use_new_zipfile_serialization=False)
    save_file({k: v for k, v in state.items() if ".mask_" not in k}, folder / "faster.safetensors")
    yield folder
    for file in folder.iterdir():  # 340 MB, which pytest would keep
        file.unlink()


def small(path):
    model = COCORCNN.from_weights(path, min_size=64, max_size=96)
    model.model.roi_heads.detections_per_img = 10  # a mask takes longer than a box
    return model


@pytest.fixture(scope="module")
def mask(files):
    return small(files / "mask.pth")


@pytest.fixture(scope="module")
def faster(files):
    return small(files / "faster.safetensors")


def test_parameters_are_those_of_the_file_whatever_its_format(mask, faster, state):
    for model, wanted in ((mask, state), (faster, {k: v for k, v in state.items() if ".mask_" not in k})):
        found = model.model.state_dict()
        assert found.keys() == wanted.keys() and all(torch.equal(found[k], wanted[k]) for k in wanted)


def test_it_is_frozen_and_normalises_as_the_weights_were_trained(mask):
    assert not mask.training and not any(p.requires_grad for p in mask.parameters())
    norms = [module for module in mask.modules() if isinstance(module, FrozenBatchNorm2d)]
    assert len(norms) == 53 and {norm.eps for norm in norms} == {0.0}


def test_detections_are_in_pixels_and_masks_only_of_mask_rcnn(mask, faster):
    for model in (mask, faster):
        (found,) = model.detect([torch.rand(3, 60, 90)])
        n = len(found["scores"])
        assert n > 0 and found["boxes"].shape == (n, 4) and found["labels"].shape == (n,)
        assert (found["boxes"] >= 0).all() and (found["boxes"] <= torch.tensor([90, 60, 90, 60])).all()
        assert ("masks" in found) == (model is mask)
        if model is mask:
            assert found["masks"].shape == (n, 60, 90) and found["masks"].dtype == torch.bool


def test_an_id_that_coco_skips_is_never_reported(faster):
    image = torch.rand(3, 64, 64)
    raw, (found,) = faster.model([image])[0], faster.detect([image])
    known = raw["labels"] != SKIPPED
    assert 0 < known.sum() < len(known)
    assert all(torch.equal(found[key], raw[key][known]) for key in ("boxes", "scores", "labels"))
    assert set(found["labels"].tolist()) <= set(faster.categories)


def test_what_is_found_does_not_depend_on_the_other_pictures(faster):
    image = torch.rand(3, 50, 80)
    alone, among = faster.detect([image])[0], faster.detect([torch.rand(3, 90, 64), image])[1]
    assert len(alone["scores"]) > 0 and all(torch.equal(alone[key], among[key]) for key in alone)


def test_gradients_reach_the_picture(faster):
    image = torch.rand(3, 64, 64, requires_grad=True)
    features = faster.model.backbone(image[None])
    objectness, _ = faster.model.rpn.head(list(features.values()))
    for output in (features["0"], objectness[0], faster.model([image])[0]["boxes"]):
        (gradient,) = torch.autograd.grad(output.sum(), image, retain_graph=True)
        assert gradient.isfinite().all() and gradient.any()


class Bomb:
    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return os.mkdir, (str(self.target),)


def test_a_malicious_pickle_runs_nothing(tmp_path):
    target = tmp_path / "it_ran"
    torch.save({"weight": Bomb(target)}, tmp_path / "new.pth")
    torch.save({"weight": Bomb(target)}, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    (tmp_path / "plain.pth").write_bytes(pickle.dumps(Bomb(target), protocol=2))
    for name in ("new", "old", "plain"):
        with pytest.raises(ValueError, match=rf"{name}\.pth is not a file of weights .* Nothing in it was run"):
            COCORCNN.from_weights(tmp_path / f"{name}.pth")
    assert not target.exists()
    torch.load(tmp_path / "new.pth", weights_only=False)
    assert target.exists(), "the pickle must be one that would have run"


def test_missing_damaged_and_other_files_are_refused_by_name(files, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"1e\.pth is missing: fetch it with .*datasets fetch mask-rcnn-r50`"):
        COCORCNN.from_weights(tmp_path / "maskrcnn_resnet50_fpn_coco-bf2d0c1e.pth")
    for whole in ("mask.pth", "faster.safetensors"):
        with (files / whole).open("rb") as file:
            (tmp_path / whole).write_bytes(file.read(1_000_000))
        with pytest.raises(ValueError, match=rf"{whole} is not a file of weights .*: it is damaged"):
            COCORCNN.from_weights(tmp_path / whole)
    for i, other in enumerate(
        ({"weight": torch.zeros(3)}, {"model": {"weight": torch.zeros(3)}}, [1, 2], torch.zeros(3))
    ):
        torch.save(other, tmp_path / f"other{i}.pth")
        with pytest.raises(ValueError, match=rf"other{i}\.pth does not hold a Faster or Mask R-CNN for COCO"):
            COCORCNN.from_weights(tmp_path / f"other{i}.pth")


def test_bad_pictures_are_refused(faster):
    image = torch.rand(3, 64, 64)
    image[0, 5, 5] = torch.nan
    with pytest.raises(ValueError, match="NaN or infinity"):
        faster.detect([image])
    with pytest.raises(ValueError, match=r"torch\.uint8 of shape"):
        faster.detect([torch.zeros(3, 64, 64, dtype=torch.uint8)])
