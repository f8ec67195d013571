"""Several processes: two that share every batch train what one trains on the whole batch."""

import contextlib
import io
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from icm_helpers import cli, options, run, train
from icm_helpers.codecs import zoo
from icm_helpers.data import datasets
from icm_helpers.data.crops import Crops
from icm_helpers.objectives import MSE, Objective
from icm_helpers.tasks.mask_rcnn import SmallFasterRCNN


class Numbers(torch.utils.data.Dataset):
    """Random vectors; asking for one of batch `stop` is an interrupt."""

    def __init__(self, stop: int | None) -> None:
        self.stop = stop

    def __getitem__(self, index: int) -> torch.Tensor:
        if index // 4 == self.stop:
            raise KeyboardInterrupt
        return torch.randn(8, generator=torch.Generator().manual_seed(index))


def fit(folder: Path | None = None, stop: int | None = None, batch: int = 4) -> dict:
    """Train a small network that draws no noise; its loss curve and a digest of its weights."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 8))
    plan = train.Schedule(steps=20, batch=batch, lr=1e-2, warmup=2, save_every=4)

    def objective(network, x):
        return {"loss": (network(x) - x**2).square().mean()}

    curve = train.fit(model, Numbers(stop), objective, plan, folder=folder, device="cpu", progress=False)
    return {"curve": curve, "weights": digest(model)}


def fit_codec(folder: Path) -> dict:
    """Train a codec, whose quantisation noise differs between the processes, and whose quantiles see no data."""
    torch.manual_seed(0)
    model = zoo.load(weights=None)
    crops = Crops(datasets.load("scenes", "train", size=64, limit=2, root=folder), 64, 0, 12)
    plan = train.Schedule(steps=3, batch=4, warmup=1)
    curve = train.fit(model, crops, Objective(MSE(), 0.01), plan, device="cpu", progress=False)
    return {"curve": curve, "weights": digest(model)}


def digest(model: nn.Module) -> list[float]:
    return [p.double().sum().item() for p in model.parameters()]


def losses(found: dict) -> list[float]:
    return [point["loss"] for point in found["curve"]]


def main(folder: Path) -> dict:
    """What each of the two processes does, and finds."""
    torch.set_num_threads(1)
    found = {"whole": fit(), "codec": fit_codec(folder)}
    try:
        fit(folder / "resumed", stop=10)
    except KeyboardInterrupt:
        found["kept"] = torch.load(folder / "resumed" / "training.ckpt")["step"]
    found["resumed"] = fit(folder / "resumed")
    try:
        fit(batch=3)
    except ValueError as error:
        found["refused"] = str(error)
    load = datasets.load
    run.RUNS, run.datasets.load = (
        folder / "runs",
        lambda *what, **how: load(*what, **how | {"root": folder, "limit": 2}),
    )
    small = ["--train-images", "2", "--size", "64", "--patch", "64", "--steps", "2", "--batch", "2", "--device", "cpu"]
    with contextlib.redirect_stdout(io.StringIO()) as said:
        cli.main(["codec", *small, "--out", str(folder / "mine.safetensors")])
        few = ["--images", "2", "--size", "64", "--steps", "2", "--batch", "2", "--device", "cpu"]
        options.RUNS = folder / "runs"
        tuning = ["finetune", "--codec", "jpeg", "--quality", "20", "--detector", "faster-rcnn-small"]
        cli.main([*tuning, *few, "--out", str(folder / "tuned.safetensors")])
    return found | {"said": said.getvalue()}


@pytest.fixture(scope="module")
def two(tmp_path_factory, elsewhere) -> tuple[Path, list[dict]]:
    """The folder of two processes, and what each found: started by what torchrun starts them by."""
    folder = tmp_path_factory.mktemp("ddp")
    own = {"run_id": "two", "rdzv_backend": "c10d", "rdzv_endpoint": "localhost:0", "local_addr": "localhost"}
    plan = LaunchConfig(1, 1, 2, start_method=elsewhere.get_start_method(), max_restarts=0, **own)
    found = elastic_launch(plan, main)(folder)
    assert "".join(found[rank]["said"] for rank in range(2)).count("wrote ") == 2, "each process wrote"
    return folder, [found[rank] for rank in range(2)]


def test_two_processes_train_what_one_trains_on_the_whole_batch(two):
    alone = fit()
    for found in two[1]:
        assert losses(found["whole"]) == pytest.approx(losses(alone), rel=1e-5)
        assert found["whole"]["weights"] == pytest.approx(alone["weights"], rel=1e-4)


def test_a_training_of_two_processes_resumes_to_the_same_curve(two):
    first, second = two[1]
    assert first["kept"] == 8
    assert first["resumed"] == first["whole"] and second["resumed"] == second["whole"]


def test_two_processes_end_with_one_codec_and_its_quantiles(two, tmp_path):
    first, second = (found["codec"] for found in two[1])
    assert first == second
    assert losses(first) == pytest.approx(losses(fit_codec(tmp_path)), rel=0.02)  # other noise, the same batches


def test_a_batch_that_two_processes_cannot_share_is_refused(two):
    assert "2 processes cannot share a batch of 3 evenly" in two[1][0]["refused"]


def test_the_codec_command_of_two_processes_leaves_one_whole_file(two):
    folder, _ = two
    zoo.load(weights=folder / "mine.safetensors")
    assert not list((folder / "runs").rglob("*.ckpt"))


def test_the_finetune_command_of_two_processes_codes_each_picture_once_and_leaves_one_detector(two):
    folder, _ = two
    assert SmallFasterRCNN.from_weights(folder / "tuned.safetensors").categories
    assert not list((folder / "runs").rglob("*.png"))
