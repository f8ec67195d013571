"""Training codecs by distillation: what is compared, what it costs, and that it starts on a level with MSE."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from icm_helpers import __main__ as icm
from icm_helpers import presets, run
from icm_helpers.codecs import zoo
from icm_helpers.data import datasets
from icm_helpers.data.crops import Crops
from icm_helpers.tasks import models
from icm_helpers.tasks.mask_rcnn import SmallMaskRCNN
from icm_helpers.tasks.yolov5 import YOLOv5

LOSSES = presets.DISTILLED


@pytest.fixture(scope="module")
def teacher():
    return SmallMaskRCNN.from_weights()


@pytest.fixture(scope="module")
def codec():
    return zoo.load(weights=run.CHECKPOINTS / "start-scenes.safetensors")


@pytest.fixture(scope="module")
def batch(tmp_path_factory):
    data = datasets.load("scenes", "val", size=192, limit=2, root=tmp_path_factory.mktemp("scenes"))
    return run.collate([Crops(data, 64, 0, 2, "none", object_prob=1, objects=True)[i] for i in range(2)])


def counted(teacher, monkeypatch) -> list[str]:
    """The passes of a teacher's backbone from now on: `clean` without gradients, `decoded` with them."""
    passes, forward = [], teacher.model.backbone.forward

    def noted(x):
        passes.append("decoded" if torch.is_grad_enabled() else "clean")
        return forward(x)

    monkeypatch.setattr(teacher.model.backbone, "forward", noted)
    return passes


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("objectness", ["original", "decoded"])
def test_a_step_passes_the_teacher_once_with_either_picture(loss, objectness, teacher, codec, batch, monkeypatch):
    passes = counted(teacher, monkeypatch)
    run.objective(loss, 1.0, teacher, objectness=objectness)(codec, batch)["loss"].backward()
    codec.zero_grad()
    assert passes == ["clean", "decoded"]


@pytest.mark.parametrize("loss", LOSSES)
def test_the_loss_is_rate_plus_lambda_times_the_distance_of_features(loss, teacher, codec, batch):
    terms = run.objective(loss, 3.0, teacher)(codec.eval(), batch)
    assert terms["loss"].item() == pytest.approx((terms["bpp"] + 3.0 * terms["distortion"]).item())
    assert terms["bpp"] > 0 and terms["distortion"] > 0
    perfect = run.objective(loss, 3.0, teacher)(lambda x: {"x_hat": x, "likelihoods": {"y": torch.ones(1)}}, batch)
    assert perfect["loss"] == 0


@pytest.mark.parametrize("loss", LOSSES)
def test_gradients_reach_the_codec_and_not_the_teacher(loss, teacher, codec, batch):
    model = zoo.load(weights=run.CHECKPOINTS / "start-scenes.safetensors").train()
    run.objective(loss, 1000.0, teacher)(model, batch)["loss"].backward()
    assert model.g_a[0].weight.grad.isfinite().all() and model.g_s[-1].weight.grad.any()
    assert all(p.grad is None for p in teacher.parameters()) and not teacher.training


def test_weights_below_one_make_the_distance_smaller(teacher, codec, batch):
    found = {loss: run.objective(loss, 1.0, teacher)(codec, batch)["distortion"].item() for loss in LOSSES}
    assert found["distill"] > max(found["distill-boxes"], found["distill-objectness"])


def test_crops_without_objects_leave_only_the_rate_under_true_boxes(teacher, codec, batch):
    x, mask, objects = batch
    none = [{key: value[:0] for key, value in found.items()} for found in objects]
    terms = run.objective("distill-boxes", 1.0, teacher)(codec, (x, mask, none))
    assert terms["distortion"] == 0 and terms["loss"] == terms["bpp"] > 0


def test_levels_and_the_picture_in_which_objectness_is_seen_can_be_chosen(teacher, codec, batch):
    base = {"loss": "distill-objectness", "lmbda": 1.0, "teacher": teacher}
    options = [{}, {"levels": "p2"}, {"levels": "p2+p3+p4+p5"}, {"objectness": "decoded"}, {"reduction": "mean"}]
    found = [run.objective(**base, **option)(codec, batch)["distortion"].item() for option in options]
    assert found[0] == pytest.approx(found[2]) and len({round(v, 9) for v in found}) == 4
    with pytest.raises(ValueError, match="the teacher has no level p1, p9; it has p2, p3, p4, p5"):
        run.objective(**base, levels="p9+p1+p2")(codec, batch)
    with pytest.raises(ValueError, match="of the original or the decoded picture, not 'both'"):
        run.objective(**base, objectness="both")


def test_a_picture_that_the_teacher_cannot_take_is_continued(codec):
    torch.manual_seed(0)
    small = YOLOv5().eval().requires_grad_(False)
    x, found = torch.rand(1, 3, 40, 70), [{"boxes": torch.tensor([[60.0, 30, 70, 40]])}]
    feats, weights = run.Distillation("distill-boxes", 1.0, small).clean(x, found)
    assert feats["p3"].shape[2:] == weights["p3"].shape[2:] == (8, 12)  # of 64 x 96 pixels
    assert weights["p3"][0, 0].nonzero().tolist() == [[y, x] for y in (3, 4) for x in (7, 8)]


def test_a_decoded_picture_that_is_not_finite_is_an_error(teacher, batch):
    broken = lambda x: {"x_hat": x / 0, "likelihoods": {"y": torch.ones(1)}}  # noqa: E731
    with pytest.raises(ValueError, match="perhaps a diverged codec"):
        run.objective("distill", 1.0, teacher)(broken, batch)


def test_any_codec_can_be_trained_so():
    """Also the paper's, small and from a random start: one step of distillation lowers its loss on the same pictures."""
    torch.manual_seed(0)
    codec = zoo.load("cheng2020-attn", 1, weights=None).eval()
    small, x = YOLOv5().eval().requires_grad_(False), torch.rand(1, 3, 64, 64)
    objective, batch = run.objective("distill-objectness", 1e3, small), (x, torch.ones(1, 1, 64, 64))
    optimiser = torch.optim.Adam((p for p in codec.parameters() if p.requires_grad), lr=1e-4)
    losses = []
    for _ in range(2):
        torch.manual_seed(0)
        loss = objective(codec, batch)["loss"]
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[1] < losses[0]


TRAINED = [r for study in presets.OBJECTNESS_DISTILLATION["book"] for r in study.recipes() if r.loss in LOSSES]


def test_a_refined_picture_asks_the_teacher_for_the_original_once(monkeypatch, tmp_path):
    asked = []
    monkeypatch.setattr(run.Distillation, "clean", lambda self, x, objects: asked.append(len(objects)) or (None, None))
    monkeypatch.setattr(run.Distillation, "terms", lambda self, out, *_: {"loss": out["x_hat"].square().mean()})
    sample = datasets.load("scenes", "val", size=64, limit=1, root=tmp_path)[0]
    recipe = replace(TRAINED[0], method="refined", steps=3, lr=0.1)
    coded = run.refined_bytes(recipe, run.codec(recipe), sample)
    assert asked == [1] and len(coded) > 20


@pytest.mark.parametrize("data", ["scenes", "coco-mini"])
@pytest.mark.parametrize("loss", LOSSES)
def test_a_scale_makes_the_distortion_that_of_mse_at_the_start(loss, data, request):
    if data == "coco-mini":
        request.getfixturevalue("real_data")
    recipe = next(r for r in TRAINED if r.data == data and r.loss == loss and r.method == "trained")
    few = replace(recipe, train_images=10 if data == "scenes" else 40)  # scenes take time to draw
    assert run.scale(few, crops=20) == pytest.approx(recipe.scale, rel=0.4)


def test_distillation_trains_a_codec_from_the_command_line(monkeypatch, tmp_path):
    scenes = datasets.load("scenes", "train", size=64, limit=2, root=tmp_path)
    monkeypatch.setattr(run, "RUNS", tmp_path / "runs")
    monkeypatch.setattr(run.datasets, "load", lambda *_, **__: scenes)
    monkeypatch.setattr(run.train, "Schedule", lambda **found: train_schedule(**found, aux_steps=1))
    out = tmp_path / "mine.safetensors"
    how = ["--loss", "distill-boxes", "--lmbda", "20", "--steps", "2", "--patch", "64", "--batch", "2", "--remember"]
    icm.main(["codec", *how, "--device", "cpu", "--out", str(out)])
    assert isinstance(zoo.load(weights=out), nn.Module)
    assert any((tmp_path / "runs" / "teachers" / models.fingerprinted("mask-rcnn-small")).glob("*.safetensors"))


train_schedule = run.train.Schedule


def test_detectron2s_files_are_found_by_name(monkeypatch, tmp_path):
    monkeypatch.setattr(models, "WEIGHTS", tmp_path)
    for name in ("faster-rcnn-d2", "mask-rcnn-d2"):
        with pytest.raises(FileNotFoundError, match=r"R_50_FPN_3x-.*pkl is missing"):
            models.load(models.fingerprinted(name))
