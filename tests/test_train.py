"""The training loop: bit-exact resuming, stopping at a bad loss, checkpoints that survive."""

import copy
import multiprocessing
import os
import signal
from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.utils.data import Dataset

from icm_helpers import train
from icm_helpers.codecs import zoo
from icm_helpers.objectives import MSE, Objective


class Noise(Dataset):
    """Crops of noise, each from its index alone."""

    def __init__(self, length: int, bad: int | None = None) -> None:
        self.length, self.bad = length, bad

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        image = torch.rand(3, 64, 64, generator=torch.Generator().manual_seed(index))
        return image * (float("nan") if index == self.bad else 1.0), torch.ones(1, 64, 64)

    def source(self, index: int) -> str:
        return f"noise{index}.png"


def fit(model: nn.Module, steps: int, folder=None, data: Noise | None = None, **changes) -> list[dict[str, float]]:
    plan = train.Schedule(steps=steps, batch=2, lr=1e-3, warmup=2, save_every=2)
    settings = {"seed": 1, "device": "cpu", "progress": False} | changes
    return train.fit(model, data or Noise(2 * steps), Objective(MSE(), 0.01), plan, folder=folder, **settings)


def codec() -> nn.Module:
    torch.manual_seed(0)
    return zoo.load(weights=None)


def equal(a: nn.Module, b: nn.Module) -> bool:
    return all(torch.equal(v, b.state_dict()[k]) for k, v in a.state_dict().items())


def test_the_loss_falls_and_the_curve_is_kept():
    curve = fit(codec(), 12)
    assert [point["step"] for point in curve] == list(range(1, 13))
    assert curve[-1]["loss"] < curve[0]["loss"]


class Stops(Noise):
    """Calls `stop` when a given item is asked for."""

    def __init__(self, length: int, at: int, stop: Callable[[], None]) -> None:
        super().__init__(length)
        self.at, self.stop = at, stop

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        if index == self.at:
            self.stop()
        return super().__getitem__(index)


def interrupt() -> None:
    raise KeyboardInterrupt


def test_a_training_stopped_at_any_step_resumes_to_the_same_bits(tmp_path):
    whole = codec()
    curve = fit(whole, 6)
    for step in range(6):
        with pytest.raises(KeyboardInterrupt):
            fit(codec(), 6, tmp_path / str(step), data=Stops(12, 2 * step, interrupt))
        resumed = codec()
        assert fit(resumed, 6, tmp_path / str(step)) == curve
        assert equal(whole, resumed)


def fit_and_be_killed(folder) -> None:
    fit(codec(), 6, folder, data=Stops(12, 7, lambda: os.kill(os.getpid(), signal.SIGKILL)))


def test_a_sigkilled_process_leaves_a_checkpoint_that_resumes_to_the_same_bits(tmp_path, elsewhere):
    whole, resumed = codec(), codec()
    fit(whole, 6)
    killed = elsewhere.Process(target=fit_and_be_killed, args=(tmp_path,))
    killed.start()
    killed.join()
    assert killed.exitcode == -signal.SIGKILL
    fit(resumed, 6, tmp_path)
    assert equal(whole, resumed)


def test_in_a_run_of_a_grid_workers_need_not_be_sent_the_data():
    noise, usual = Noise(4), multiprocessing.get_start_method()
    noise.region = lambda sample: None  # a function that draws masks, which cannot be pickled
    multiprocessing.set_start_method("spawn", force=True)  # as it is where a grid has started the process
    try:
        assert len(fit(codec(), 2, data=noise, workers=1)) == 2
    finally:
        multiprocessing.set_start_method(usual, force=True)


def test_a_nan_loss_stops_with_the_batch_named(tmp_path):
    with pytest.raises(train.NonFiniteLossError, match=r"step 3 on noise6\.png, noise7\.png"):
        fit(codec(), 6, tmp_path, data=Noise(12, bad=7))
    assert torch.load(tmp_path / "training.ckpt", weights_only=True)["step"] == 2


def test_a_loss_whose_gradient_is_infinite_stops_before_a_weight_changes():
    model, before = codec(), codec()

    def steep(forward, batch):
        return {"loss": (forward(batch[0])["x_hat"] * 0).sum().sqrt()}

    plan = train.Schedule(steps=2, batch=2, lr=1e-3, warmup=0)
    with pytest.raises(
        train.NonFiniteLossError, match=r"loss is 0\.0, the norm of its gradient nan, at step 0 on noise0"
    ):
        train.fit(model, Noise(4), steep, plan, seed=1, device="cpu", progress=False)
    assert equal(model, before)


def test_a_checkpoint_of_another_recipe_is_refused(tmp_path):
    fit(codec(), 4, tmp_path)
    with pytest.raises(ValueError, match="another recipe"):
        fit(codec(), 4, tmp_path, seed=2)


def test_a_full_disk_leaves_the_old_checkpoint(tmp_path, monkeypatch):
    path = tmp_path / "training.ckpt"
    train.save({"step": 1}, path)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        train.save({"step": 2}, path)
    assert torch.load(path, weights_only=True) == {"step": 1}
    assert list(tmp_path.iterdir()) == [path]


def test_too_little_data_is_an_error():
    with pytest.raises(ValueError, match="need 8 items"):
        train.fit(codec(), Noise(7), Objective(MSE(), 0.01), train.Schedule(steps=4, batch=2))


def test_entropy_models_compute_in_float32_under_bf16():
    model = codec()
    fit(model, 2, precision="bf16-mixed")
    model.train()
    with torch.autocast("cpu", torch.bfloat16):
        assert model(torch.rand(1, 3, 64, 64))["likelihoods"]["z"].dtype == torch.float32


def test_bfloat16_without_its_instructions_is_bfloat16(monkeypatch):
    def step(capability: str) -> list[torch.Tensor]:
        monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
        torch.manual_seed(0)
        layers = nn.Sequential(
            nn.Conv2d(3, 8, 3), nn.SiLU(), nn.ConvTranspose2d(8, 4, 3), nn.Flatten(), nn.Linear(4 * 64, 2)
        )
        with train.autocast("cpu"):
            answer = layers(torch.rand(2, 3, 8, 8))
        answer.float().square().sum().backward()
        return [answer, *(parameter.grad for parameter in layers.parameters())]

    for own, rounded in zip(step("AVX512"), step("AVX2"), strict=True):
        assert rounded.dtype == own.dtype
        torch.testing.assert_close(rounded, own, rtol=2**-6, atol=2**-7 * own.abs().max().item())


def test_a_copy_of_a_trained_codec_computes_with_its_own_weights():
    model = codec()
    fit(model, 2)
    twin = copy.deepcopy(model)
    for parameter in twin.entropy_bottleneck.parameters():
        parameter.data.mul_(2)
    x = torch.rand(1, 3, 64, 64)
    assert not torch.equal(model(x)["likelihoods"]["z"], twin(x)["likelihoods"]["z"])
