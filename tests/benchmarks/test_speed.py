"""How much faster the codecs are than a straightforward implementation: ratios of two things measured in turn in one run.

Run `make bench` on a machine that does nothing else.

Much of what a straightforward LIC-TCM loses is fresh memory, which the system clears page by page. Where a process keeps what it
freed (`train.keep_freed_memory`, which the last test here calls, and every training), its forward pass takes .78 s instead of .91,
ours .55 anyway; its training step on four pictures 5.7 s instead of 8.8, ours 4.9 anyway. So ratios also depend on what ran before
in the same process: run one test by itself to know its own.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest
import torch
from plain_tcm import PlainTCM

from icm_helpers import train
from icm_helpers.codecs import container, zoo
from icm_helpers.codecs.tcm import TCM
from icm_helpers.objectives import Distill, DistillBoxes, DistillObjectness, Objective
from icm_helpers.tasks.mask_rcnn import SmallMaskRCNN
from icm_helpers.tasks.teacher import Remembered


@pytest.fixture(scope="module")
def codec() -> TCM:
    torch.manual_seed(0)
    codec = TCM(N=64).eval()
    codec.name, codec.quality = "tcm", None
    codec.update(force=True)
    return codec


@pytest.fixture(scope="module")
def plain(codec: TCM) -> PlainTCM:
    return PlainTCM(codec).eval()


def picture() -> torch.Tensor:
    """Blocks and noise, (3, 256, 384): a random start codes it to about 2.6 bits per pixel."""
    blocks = torch.rand(3, 16, 24).repeat_interleave(16, 1).repeat_interleave(16, 2)
    return 0.8 * blocks + 0.2 * torch.rand(3, 256, 384)


def ratio(benchmark, ours: Callable[[], object], plain: Callable[[], object], rounds: int) -> float:
    """Least time of ours over least time of the straightforward way, the two in turn; also in the benchmark's table."""
    times = []

    def first() -> None:
        start = time.perf_counter()
        plain()
        times.append(time.perf_counter() - start)

    first()
    ours()
    times.clear()
    benchmark.pedantic(ours, setup=first, rounds=rounds)
    found = benchmark.stats.stats.min / min(times)
    benchmark.extra_info["of the plain time"] = round(found, 3)
    print(f"\n{benchmark.name}: {found:.2f} of the straightforward time, {min(times):.2f} s")
    return found


def test_a_block_through_inductor_computes_the_same(codec):
    block, x = codec.h_a[2], torch.rand(1, 128, 8, 8)
    with torch.no_grad():
        torch.testing.assert_close(torch.compile(block, fullgraph=True)(x), block(x), atol=1e-4, rtol=0)


def test_the_plain_version_computes_the_same(codec, plain):
    x = picture()[None]
    with torch.no_grad():
        torch.testing.assert_close(plain(x)["x_hat"], codec(x)["x_hat"], atol=1e-4, rtol=0)
    assert plain.compress(x)["strings"] == codec.compress(x)["strings"]


def test_forward(benchmark, codec, plain):
    x = picture()[None]

    def forward(model: TCM) -> None:
        with torch.no_grad():
            model(x)

    assert ratio(benchmark, lambda: forward(codec), lambda: forward(plain), 10) < 0.7


@pytest.mark.parametrize(("pictures", "bound"), [(4, 0.75), (1, 0.85)])
def test_a_training_step(benchmark, codec, plain, pictures, bound):
    x = torch.stack([picture()[:, :, :256] for _ in range(pictures)])

    def step(model: TCM) -> None:
        model.train()
        out = model(x)
        bits = sum(-p.log2().sum() for p in out["likelihoods"].values())
        (bits / 256**2 + 650 * (out["x_hat"] - x).square().mean()).backward()
        model.zero_grad()
        model.eval()

    assert ratio(benchmark, lambda: step(codec), lambda: step(plain), 6) < bound


def plainly(model: PlainTCM, pictures: list[torch.Tensor]) -> None:
    for x in pictures:
        coded = model.compress(x[None])
        model.decompress(coded["strings"], coded["shape"])


def test_compress_and_decompress(benchmark, codec, plain):
    x = picture()
    found = ratio(benchmark, lambda: codec.decompress(**codec.compress(x[None])), lambda: plainly(plain, [x]), 6)
    assert found < 0.75


def test_code_many(benchmark, codec, plain):
    pictures = [picture() for _ in range(6)]

    def many() -> None:
        list(container.decode_many(codec, container.encode_many(codec, pictures)))

    assert ratio(benchmark, many, lambda: plainly(plain, pictures), 3) < 0.75


@pytest.mark.parametrize("name", ["tcm", "mean-scale-small"])
def test_coding_many_at_once_against_one_by_one(benchmark, codec, name):
    model = codec if name == "tcm" else zoo.load(name)
    pictures = [picture() for _ in range(6 if name == "tcm" else 48)]

    def many() -> None:
        list(container.decode_many(model, container.encode_many(model, pictures)))

    def one_by_one() -> None:
        for x in pictures:
            container.decode(model, container.encode(model, x))

    assert ratio(benchmark, many, one_by_one, 3) < 1 / 1.5


@pytest.mark.parametrize("loss", [Distill, DistillBoxes, DistillObjectness])
def test_a_distillation_step_costs_little_more_than_codec_and_teacher(benchmark, loss, tmp_path):
    """Once the teacher remembers the original crops: the passes of a step are one of the codec and one of the teacher, and back."""
    train.keep_freed_memory()  # as a training does
    codec, teacher = zoo.load().train(), SmallMaskRCNN.from_weights()
    x = (
        torch.nn.functional.interpolate(picture()[None], (128, 256)).unfold(3, 128, 128)[0].movedim(2, 0)
    )  # (2, 3, 128, 128)
    boxes = {"boxes": torch.tensor([[10.0, 20, 60, 90]])}
    batch = x.contiguous(), torch.ones(2, 1, 128, 128), *([[boxes, boxes]] if loss.needs_objects else [])
    terms = Objective(loss("mask-rcnn-small").taught_by(Remembered(teacher, tmp_path)), 1.0)

    def step() -> None:
        terms(codec, batch)["loss"].backward()
        codec.zero_grad()

    def parts() -> None:
        out = codec(batch[0])
        (-sum(p.log2().sum() for p in out["likelihoods"].values()) + out["x_hat"].square().sum()).backward()
        codec.zero_grad()
        decoded = batch[0].clone().requires_grad_()
        sum(f.square().sum() for f in teacher.features(decoded).values()).backward()

    assert ratio(benchmark, step, parts, 30) < 1.15
