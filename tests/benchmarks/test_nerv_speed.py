"""How fast NeRV trains and decodes, against `plain_nerv.py`, and how much of the machine that uses. Run `make bench`."""

from __future__ import annotations

import copy
import math
import time

import pytest
import torch
from plain_nerv import PlainNeRV, plain_loss
from test_speed import ratio

from icm_helpers import losses, overfit, train
from icm_helpers.codecs import nerv

SIZES = ("720p", "sfu-d")
FRAMES = 4


def video(network: nerv.NeRV) -> torch.Tensor:
    """Blocks and noise that move, (4, 3, H, W)."""
    height, width = network.size
    blocks = torch.rand(3, height // 16, width // 16).repeat_interleave(16, 1).repeat_interleave(16, 2)
    return torch.stack([0.8 * blocks.roll(3 * k, 2) + 0.2 * torch.rand(3, height, width) for k in range(FRAMES)])


@pytest.fixture(params=SIZES)
def network(request) -> nerv.NeRV:
    torch.manual_seed(0)
    return nerv.NeRV(**nerv.SIZES[request.param])


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


def test_an_epoch_of_training(benchmark, network):
    """Ours is `overfit` with all that it does: frames kept in 8 bits, order, curve; the plain one holds floats and takes steps."""
    frames = video(network)
    ours, plain = copy.deepcopy(network), PlainNeRV(copy.deepcopy(network))
    optimiser = torch.optim.Adam(plain.parameters(), 5e-4, (0.5, 0.999))

    def plainly() -> None:
        for k in torch.randperm(FRAMES):
            loss = plain_loss(frames[k : k + 1], plain(k[None] / FRAMES))
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()

    train.keep_freed_memory()  # for both: `overfit` would do so from its first step on

    def trained() -> None:
        overfit.overfit(ours, frames, losses.nerv_loss, epochs=1, device="cpu", progress=False)

    assert ratio(benchmark, trained, plainly, 5) < 0.75


def test_decoding(benchmark, network):
    """From bytes to all frames; the plain one has its weights in memory, and draws."""
    data, plain = nerv.encode_video(video(network), network), PlainNeRV(network)

    def plainly() -> None:
        with torch.no_grad():
            for k in range(FRAMES):
                plain(torch.tensor([k / FRAMES]))

    found = ratio(benchmark, lambda: nerv.decode_video(data), plainly, 5)
    work, seconds = operations(network), benchmark.stats.stats.min / FRAMES
    benchmark.extra_info["frames a second"] = round(1 / seconds, 2)
    benchmark.extra_info["MACs a pixel"] = round(work / math.prod(network.size))
    benchmark.extra_info["of the peak"] = round(work / seconds / peak(), 3)
    print("; ".join(f"{k} {v}" for k, v in list(benchmark.extra_info.items())[1:]))
    assert found < 0.75
