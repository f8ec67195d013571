"""Training codecs by distillation: what is compared, what it costs, and that it starts on a level with MSE."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from icm_helpers import chapters, cli, files, run
from icm_helpers.chapters.objectness_distillation import MICROSCOPE
from icm_helpers.codecs import zoo
from icm_helpers.data import datasets
from icm_helpers.data.crops import Crops
from icm_helpers.files import CHECKPOINTS
from icm_helpers.ledger.recipe import Refined
from icm_helpers.objectives import Distill, DistillBoxes, DistillObjectness, Objective, ObjectRegion
from icm_helpers.tasks import models
from icm_helpers.tasks.mask_rcnn import SmallMaskRCNN
from icm_helpers.tasks.yolov5 import YOLOv5

LOSSES = (Distill, DistillBoxes, DistillObjectness)


@pytest.fixture(scope="module")
def teacher():
    return SmallMaskRCNN.from_weights()


@pytest.fixture(scope="module")
def codec():
    return zoo.load(weights=CHECKPOINTS / "start-scenes.safetensors")


@pytest.fixture(scope="module")
def batch(tmp_path_factory):
    data = datasets.load("scenes", "val", size=192, limit=2, root=tmp_path_factory.mktemp("scenes"))
    return run.collate([Crops(data, 64, 0, 2, "none", object_prob=1, objects=True)[i] for i in range(2)])


def taught(loss, lmbda, teacher, **options) -> Objective:
    return Objective(loss("teacher@12345678", **options).taught_by(teacher), lmbda)


def counted(teacher, monkeypatch) -> list[str]:
    """The passes of a teacher's backbone from now on: `clean` without gradients, `decoded` with them."""
    passes, forward = [], teacher.model.backbone.forward

    def noted(x):
        passes.append("decoded" if torch.is_grad_enabled() else "clean")
        return forward(x)

    monkeypatch.setattr(teacher.model.backbone, "forward", noted)
    return passes


@pytest.mark.parametrize(
    ("loss", "options"), [*((loss, {}) for loss in LOSSES), (LOSSES[-1], {"objectness": "decoded"})]
)
def test_a_step_passes_the_teacher_once_with_either_picture(loss, options, teacher, codec, batch, monkeypatch):
    passes = counted(teacher, monkeypatch)
    taught(loss, 1.0, teacher, **options)(codec, batch)["loss"].backward()
    codec.zero_grad()
    assert passes == ["clean", "decoded"]


@pytest.mark.parametrize("loss", LOSSES)
def test_the_loss_is_rate_plus_lambda_times_the_distance_of_features(loss, teacher, codec, batch):
    terms = taught(loss, 3.0, teacher)(codec.eval(), batch)
    assert terms["loss"].item() == pytest.approx((terms["bpp"] + 3.0 * terms["distortion"]).item())
    assert terms["bpp"] > 0 and terms["distortion"] > 0
    perfect = taught(loss, 3.0, teacher)(lambda x: {"x_hat": x, "likelihoods": {"y": torch.ones(1)}}, batch)
    assert perfect["loss"] == 0


@pytest.mark.parametrize("loss", LOSSES)
def test_gradients_reach_the_codec_and_not_the_teacher(loss, teacher, codec, batch):
    model = zoo.load(weights=CHECKPOINTS / "start-scenes.safetensors").train()
    taught(loss, 1000.0, teacher)(model, batch)["loss"].backward()
    assert model.g_a[0].weight.grad.isfinite().all() and model.g_s[-1].weight.grad.any()
    assert all(p.grad is None for p in teacher.parameters()) and not teacher.training


def test_weights_below_one_make_the_distance_smaller(teacher, codec, batch):
    found = {loss.name: taught(loss, 1.0, teacher)(codec, batch)["distortion"].item() for loss in LOSSES}
    assert found["distill"] > max(found["distill-boxes"], found["distill-objectness"])


def test_crops_without_objects_leave_only_the_rate_under_true_boxes(teacher, codec, batch):
    x, mask, objects = batch
    none = [{key: value[:0] for key, value in found.items()} for found in objects]
    terms = taught(DistillBoxes, 1.0, teacher)(codec, (x, mask, none))
    assert terms["distortion"] == 0 and terms["loss"] == terms["bpp"] > 0


def test_levels_and_the_picture_in_which_objectness_is_seen_can_be_chosen(teacher, codec, batch):
    base = {"loss": DistillObjectness, "lmbda": 1.0, "teacher": teacher}
    options = [{}, {"levels": "p2"}, {"levels": "p2+p3+p4+p5"}, {"objectness": "decoded"}, {"reduction": "mean"}]
    found = [taught(**base, **option)(codec, batch)["distortion"].item() for option in options]
    assert found[0] == pytest.approx(found[2]) and len({round(v, 9) for v in found}) == 4
    with pytest.raises(ValueError, match="the teacher has no level p1, p9; it has p2, p3, p4, p5"):
        taught(**base, levels="p9+p1+p2")(codec, batch)
    with pytest.raises(ValueError, match="of the original or the decoded picture, not 'both'"):
        taught(**base, objectness="both")


def test_a_picture_that_the_teacher_cannot_take_is_continued(codec):
    torch.manual_seed(0)
    small = YOLOv5().eval().requires_grad_(False)
    x, found = torch.rand(1, 3, 40, 70), [{"boxes": torch.tensor([[60.0, 30, 70, 40]])}]
    feats, weights = taught(DistillBoxes, 1.0, small).loss.clean(x, torch.ones(1, 1, 40, 70), found)
    assert feats["p3"].shape[2:] == weights["p3"].shape[2:] == (8, 12)  # of 64 x 96 pixels
    assert weights["p3"][0, 0].nonzero().tolist() == [[y, x] for y in (3, 4) for x in (7, 8)]


def test_a_decoded_picture_that_is_not_finite_is_an_error(teacher, batch):
    broken = lambda x: {"x_hat": x / 0, "likelihoods": {"y": torch.ones(1)}}  # noqa: E731
    with pytest.raises(ValueError, match="perhaps a diverged codec"):
        taught(Distill, 1.0, teacher)(broken, batch)


def test_any_codec_can_be_trained_so():
    """Also the paper's, small and from a random start: one step of distillation lowers its loss on the same pictures."""
    torch.manual_seed(0)
    codec = zoo.load("cheng2020-attn", 1, weights=None).eval()
    small, x = YOLOv5().eval().requires_grad_(False), torch.rand(1, 3, 64, 64)
    objective, batch = taught(DistillObjectness, 1e3, small), (x, torch.ones(1, 1, 64, 64))
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


def test_a_loss_asks_for_a_teacher_that_can_teach_it(batch, codec):
    with pytest.raises(ValueError, match="the loss `distill` needs a teacher: bind it first"):
        Objective(Distill("yolov5n@12345678"), 1.0)(codec, batch)
    with pytest.raises(ValueError, match="yolov5n cannot teach --loss distill: use mask-rcnn-small"):
        Distill("yolov5n@12345678").taught_by(nn.Identity())


STUDIES = chapters.named("objectness_distillation").studies()
# The microscope's losses as if a codec were trained with them, since its scales follow the same rule.
LIKE_MICROSCOPE = replace(MICROSCOPE, losses=MICROSCOPE.microscope.losses, lmbdas=(0.005,), microscope=None)
TRAINED = [
    r for s in (*STUDIES, LIKE_MICROSCOPE) for r in s.recipes() if isinstance(r.loss, Distill) and r.kind == "trained"
]


def test_a_refined_picture_asks_the_teacher_for_the_original_once(monkeypatch, tmp_path):
    asked = []
    monkeypatch.setattr(Distill, "clean", lambda self, x, mask, objects: asked.append(len(objects)))
    monkeypatch.setattr(Distill, "distortion", lambda self, x_hat, x, clean: x_hat.square().mean())
    sample = datasets.load("scenes", "val", size=64, limit=1, root=tmp_path)[0]
    trained = TRAINED[0].codec
    codec = Refined(trained.codec, trained.loss, trained.lmbda, trained.training.start, steps=3, lr=0.1)
    recipe = replace(TRAINED[0], codec=codec)
    coded = run.refined_bytes(recipe, run.start(recipe), sample)
    assert asked == [1] and len(coded) > 20


@pytest.mark.parametrize("data", ["scenes", "coco-mini"])
@pytest.mark.parametrize("loss", LOSSES)
def test_a_scale_makes_the_distortion_that_of_mse_at_the_start(loss, data, request):
    if data == "coco-mini":
        request.getfixturevalue("real_data")
    recipe = next(r for r in TRAINED if r.pictures.data == data and type(r.loss) is loss)
    few = replace(recipe.codec.training, train_images=10 if data == "scenes" else 40)  # scenes take time to draw
    few = replace(recipe, codec=replace(recipe.codec, training=few))
    assert run.scale(few, crops=20) == pytest.approx(recipe.codec.scale, rel=0.4)


def test_a_scale_is_found_on_the_device_that_trains():
    recipe = next(r for r in TRAINED if r.pictures.data == "scenes")
    few = replace(recipe.codec.training, train_images=2)
    recipe = replace(recipe, codec=replace(recipe.codec, loss=ObjectRegion(), training=few))
    with pytest.raises(RuntimeError, match=r"item\(\) cannot be called on meta"):  # all else can, on that device alone
        run.scale(recipe, crops=1, device=torch.device("meta"))


def test_distillation_trains_a_codec_from_the_command_line(monkeypatch, tmp_path):
    scenes = datasets.load("scenes", "train", size=64, limit=2, root=tmp_path)
    for module in (run, files):
        monkeypatch.setattr(module, "RUNS", tmp_path / "runs")
    monkeypatch.setattr(run.datasets, "load", lambda *_, **__: scenes)
    out = tmp_path / "mine.safetensors"
    how = ["--loss", "distill-boxes", "--lmbda", "20", "--steps", "2", "--patch", "64", "--batch", "2", "--remember"]
    cli.main(["codec", *how, "--device", "cpu", "--out", str(out)])
    assert isinstance(zoo.load(weights=out), nn.Module)
    assert any((tmp_path / "runs" / "teachers" / models.fingerprinted("mask-rcnn-small")).glob("*.safetensors"))


def test_detectron2s_files_are_found_by_name(monkeypatch, tmp_path):
    monkeypatch.setattr(models, "WEIGHTS", tmp_path)
    for name in ("faster-rcnn-d2", "mask-rcnn-d2"):
        with pytest.raises(FileNotFoundError, match=r"R_50_FPN_3x-.*pkl is missing"):
            models.load(models.fingerprinted(name))
