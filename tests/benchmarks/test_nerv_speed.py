"""How fast NeRV trains and decodes, against `plain_nerv.py`, and how much of the machine that uses. Run `make bench`."""

from __future__ import annotations

import copy
import math
import subprocess
import sys
import time

import plain_nerv
import pytest
import torch
from plain_nerv import PlainNeRV, plain_loss
from test_speed import ratio

from icm_helpers import losses, overfit
from icm_helpers.codecs import nerv

SIZES = ("720p", "sfu")
FRAMES = 4


def video(network: nerv.NeRV) -> torch.Tensor:
    """Blocks and noise that move, (4, 3, H, W)."""
    height, width = network.size
    blocks = torch.rand(3, height // 16, width // 16).repeat_interleave(16, 1).repeat_interleave(16, 2)
    return torch.stack([0.8 * blocks.roll(3 * k, 2) + 0.2 * torch.rand(3, height, width) for k in range(FRAMES)])


@pytest.fixture(params=SIZES)
def network(request) -> nerv.NeRV:
    torch.manual_seed(0)
    return nerv.sized(request.param, lambda: 240)


def operations(network: nerv.NeRV) -> int:
    """Multiply-accumulates of a frame: each weight of a layer works once for each place that the layer puts something out at."""
    height, width, _ = network.fc_hw_dim
    total = sum(layer.weight.numel() for layer in (network.stem[0], network.stem[2]))
    for stride, block in zip(network.strides, network.layers, strict=True):
        total += block["conv"]["conv"].weight.numel() * height * width
        height, width = height * stride, width * stride
    return total + network.head_layers[-1].weight.numel() * height * width


def peak() -> float:
    """Multiply-accumulates a second of a large matrix product in float32, the best of five."""
    a, b = torch.rand(2, 2048, 2048)
    times = []
    for _ in range(5):
        start = time.perf_counter()
        a @ b
        times.append(time.perf_counter() - start)
    return 2048**3 / min(times)


def test_the_plain_version_draws_and_scores_the_same(network):
    t, x = torch.tensor([0.0, 0.5]), video(network)[:2]
    with torch.no_grad():
        drawn = network(t)
        torch.testing.assert_close(PlainNeRV(network)(t), drawn, atol=2e-3, rtol=0)
        torch.testing.assert_close(plain_loss(x, drawn), losses.nerv_loss(x, drawn), atol=1e-5, rtol=0)


def test_an_epoch_of_training(benchmark, network, request):
    """Ours is `overfit` with all that it does. The plain one trains in a process of its own: kept memory would help it too."""
    frames, ours = video(network), copy.deepcopy(network)

    def trained() -> None:
        overfit.overfit(ours, frames, losses.nerv_loss, epochs=1, device="cpu", progress=False)

    name, threads = request.node.callspec.params["network"], str(torch.get_num_threads())
    plain = subprocess.run(
        [sys.executable, plain_nerv.__file__, name, str(FRAMES), threads], capture_output=True, text=True, check=True
    )
    trained()
    benchmark.pedantic(trained, rounds=plain_nerv.ROUNDS)
    found = benchmark.stats.stats.min / float(plain.stdout)
    print(f"\n{benchmark.name}: {found:.2f} of the straightforward time, {float(plain.stdout):.2f} s an epoch")
    assert found < 0.75


def test_decoding(benchmark, network):
    """From bytes to frames, as many as a short video has; the plain one reads the file by our reader, and draws frame by frame."""
    frames = video(network).repeat(4, 1, 1, 1)
    data = nerv.encode_video(frames, network)

    def plainly() -> None:
        plain = PlainNeRV(nerv._read(data)[0])
        with torch.no_grad():
            for k in range(len(frames)):
                plain(torch.tensor([k / len(frames)]))

    found = ratio(benchmark, lambda: nerv.decode_video(data), plainly, 5)
    work, seconds = operations(network), benchmark.stats.stats.min / len(frames)
    benchmark.extra_info["frames a second"] = round(1 / seconds, 2)
    benchmark.extra_info["MACs a pixel"] = round(work / math.prod(network.size))
    benchmark.extra_info["of the peak"] = reached = round(work / seconds / peak(), 3)
    print("; ".join(f"{k} {v}" for k, v in list(benchmark.extra_info.items())[1:]))
    # Reading the file is the same work on both sides; and near the peak, as at 720p, nobody can be faster.
    assert found < 0.95 or reached > 0.8
