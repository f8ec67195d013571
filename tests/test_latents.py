"""The loss microscope: refined latents cost less in real bytes, and the codec stays as it was."""

from dataclasses import replace

import pytest
import torch
from compressai.models import JointAutoregressiveHierarchicalPriors

from icm_helpers import losses, run
from icm_helpers.chapters.objectness_distillation import DISTILL_SMOKE
from icm_helpers.codecs import container, zoo
from icm_helpers.codecs.classical import Jpeg
from icm_helpers.data import datasets
from icm_helpers.latents import latents, refine
from icm_helpers.ledger.recipe import Accuracy, Pictures, Recipe, Refined
from icm_helpers.objectives import MSE, SAICM, Loss, ObjectRegion, Task, TrueEdges

LMBDA = 0.01
PLAIN = MSE()


@pytest.fixture(scope="module")
def codec():
    return zoo.load(weights=run.CHECKPOINTS / "start-coco-mini.safetensors")


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    return datasets.load("scenes", "val", size=64, limit=1, root=tmp_path_factory.mktemp("scenes"))[0]


def refined_bytes(codec, scene, loss: Loss = PLAIN, steps: int = 25, precision: str = "32-true") -> bytes:
    scale = 5.0 if loss == ObjectRegion() else 1.0
    how = Refined("mean-scale-small", loss, LMBDA, "none", steps, 0.1, scale, precision)
    return run.refined_bytes(Recipe("c", Pictures("scenes", 1, 64), how, Accuracy(())), codec, scene)


def errors(codec, scene, data: bytes) -> tuple[float, float, float]:
    """Mean squared error in the whole picture, inside and outside objects."""
    error = (container.decode(codec, data) - scene.image).square().mean(dim=0, keepdim=True)  # (1, H, W)
    inside = scene.object_mask.bool()
    return error.mean().item(), error[inside].mean().item(), error[~inside].mean().item()


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_refined_latents_lower_the_loss_in_real_bytes(codec, scene, precision):
    costs = []
    for steps in (0, 25):
        data = refined_bytes(codec, scene, steps=steps, precision=precision)
        costs.append(8 * len(data) / scene.image[0].numel() + LMBDA * losses.PEAK**2 * errors(codec, scene, data)[0])
    assert costs[1] < costs[0]


def test_the_loss_falls(codec, scene):
    seen = []

    def objective(out):
        seen.append(losses.rate_distortion(out, scene.image[None], LMBDA)["loss"])
        return seen[-1]

    refine(codec, scene.image, objective)
    assert len(seen) == 20 and seen[-1] < seen[0]


def test_the_object_region_loss_moves_error_out_of_the_objects(codec, scene):
    _, inside, outside = errors(codec, scene, refined_bytes(codec, scene))
    _, object_inside, object_outside = errors(codec, scene, refined_bytes(codec, scene, ObjectRegion()))
    assert object_inside < inside
    assert object_outside > outside


@pytest.mark.parametrize("loss", [SAICM("sam", 0.9), TrueEdges(), Task("teacher")], ids=lambda loss: loss.name)
def test_a_loss_that_needs_more_than_a_picture_is_refused(loss, codec, scene):
    with pytest.raises(ValueError, match=f"latents cannot be refined under {loss.name}"):
        refined_bytes(codec, scene, loss)


def test_no_steps_give_the_bytes_of_the_encoder(codec, scene):
    assert refined_bytes(codec, scene, steps=0) == container.encode(codec, scene.image)


def test_a_stopped_run_refines_no_picture_twice_and_leaves_nothing_behind(codec, monkeypatch, tmp_path):
    recipe = next(r for r in DISTILL_SMOKE.recipes() if r.kind == "refined")
    recipe, seen = replace(recipe, pictures=replace(recipe.pictures, images=3)), []

    def stopped(codec, x, *args, **told):
        seen.append(x.mean().item())
        if len(seen) == 3:
            raise KeyboardInterrupt
        return refine(codec, x, *args, **told)

    monkeypatch.setattr(run, "RUNS", tmp_path)
    monkeypatch.setattr(run.latents, "refine", stopped)
    monkeypatch.setattr(run.results, "write", lambda recipe, result, bootstrap, **told: result)
    with pytest.raises(KeyboardInterrupt):
        run.measure(recipe, progress=False)
    kept = sorted((tmp_path / recipe.run_id).iterdir())
    assert len(kept) == 2
    continued = run.measure(recipe, progress=False)
    assert len(seen) == 4 and seen[2] == seen[3]
    assert not list(tmp_path.iterdir())
    assert continued["bpp"] == run.measure(recipe, progress=False, keep=False)["bpp"]
    assert not list(tmp_path.iterdir())


def test_refining_leaves_codec_and_random_state_as_they_were(codec, scene):
    weights, noise = {k: v.clone() for k, v in codec.state_dict().items()}, torch.get_rng_state()
    before = container.encode(codec, scene.image)
    refined = refined_bytes(codec, scene, steps=3)
    with pytest.raises(KeyError), latents(codec, torch.zeros(1), torch.zeros(1)):
        raise KeyError
    assert refined != before == container.encode(codec, scene.image)
    assert all(torch.equal(v, weights[k]) for k, v in codec.state_dict().items())
    assert torch.equal(torch.get_rng_state(), noise)


def test_an_odd_sized_image_is_refined_at_its_own_size(codec, scene):
    x, shapes = scene.image[:, :40, :50], []

    def objective(out):
        shapes.append(out["x_hat"].shape)
        return losses.rate_distortion(out, x[None], LMBDA)["loss"]

    y, z = refine(codec, x, objective, steps=1)
    assert shapes == [(1, 3, 40, 50)]
    assert y.shape[2:] == (4, 4) and z.shape[2:] == (1, 1)


def test_a_loss_that_is_not_finite_stops(codec, scene):
    with pytest.raises(FloatingPointError, match=r"the loss is nan at step 0: lower lr \(now 0.1\)"):
        refine(codec, scene.image, lambda out: out["x_hat"].mean() * float("nan"))


@pytest.mark.parametrize(
    "other", [Jpeg(50), JointAutoregressiveHierarchicalPriors(8, 8)], ids=["JPEG", "autoregressive"]
)
def test_codecs_with_other_latents_are_refused(other, scene):
    with pytest.raises(TypeError, match=f"mean-scale hyperprior, not a {type(other).__name__}"):
        refine(other, scene.image, lambda out: out["x_hat"].mean())
