"""How fast the codecs are, against a straightforward LIC-TCM and the authors' own: ratios of two things measured in turn; and where
our time goes.

Much of what the others lose is fresh memory, which the system clears page by page: the table says both, with and without.
"""

from __future__ import annotations

import copy
import time

import authors
import pytest
import torch
from plain_tcm import PlainTCM
from torch import nn
from torch.profiler import ProfilerActivity, profile

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


@pytest.fixture(scope="module", params=["plain", "authors"])
def other(request: pytest.FixtureRequest, codec: TCM) -> nn.Module:
    """The same network written down plainly, or by its authors."""
    if request.param == "authors":
        model = authors.tcm(codec)
        model.label = authors.named("LIC_TCM")
    else:
        model = PlainTCM(codec).eval()
        model.label = "plain LIC-TCM"
    return model


def picture() -> torch.Tensor:
    """Blocks and noise, (3, 256, 384): a random start codes it to about 2.6 bits per pixel."""
    blocks = torch.rand(3, 16, 24).repeat_interleave(16, 1).repeat_interleave(16, 2)
    return 0.8 * blocks + 0.2 * torch.rand(3, 256, 384)


def step(model: nn.Module, x: torch.Tensor) -> None:
    """Forward and back."""
    model.train()
    out = model(x)
    bits = sum(-p.log2().sum() for p in out["likelihoods"].values())
    (bits / 256**2 + 650 * (out["x_hat"] - x).square().mean()).backward()
    model.zero_grad()
    model.eval()


def test_a_block_through_inductor_computes_the_same(codec):
    block, x = codec.h_a[2], torch.rand(1, 128, 8, 8)
    with torch.no_grad():
        torch.testing.assert_close(torch.compile(block, fullgraph=True)(x), block(x), atol=1e-4, rtol=0)


def test_the_other_version_computes_the_same(codec, other):
    x = picture()[None]
    with torch.no_grad():
        torch.testing.assert_close(other(x)["x_hat"], codec(x)["x_hat"], atol=1e-4, rtol=0)
    assert other.compress(x)["strings"] == codec.compress(x)["strings"]


def test_forward(versus, codec, other):
    x = picture()[None]

    def forward(model: nn.Module) -> None:
        with torch.no_grad():
            model(x)

    assert versus(lambda: forward(codec), lambda: forward(other), 10, other.label) < 0.95


@pytest.mark.parametrize(("pictures", "bound"), [pytest.param(4, 0.9, id="4 crops"), pytest.param(1, 1, id="1 crop")])
def test_training_step(versus, codec, other, pictures, bound):
    x = torch.stack([picture()[:, :, :256] for _ in range(pictures)])

    assert versus(lambda: step(codec, x), lambda: step(other, x), 6, other.label) < bound


def test_compress(versus, codec, other):
    x = picture()[None]
    assert versus(lambda: codec.compress(x), lambda: other.compress(x), 8, other.label) < 0.9


def test_decompress(versus, codec, other):
    coded = codec.compress(picture()[None])
    assert versus(lambda: codec.decompress(**coded), lambda: other.decompress(**coded), 8, other.label) < 0.85


def test_code_six_pictures(versus, codec, other):
    pictures = [picture() for _ in range(6)]

    def many() -> None:
        list(container.decode_many(codec, container.encode_many(codec, pictures)))

    def one_by_one() -> None:
        for x in pictures:
            other.decompress(**other.compress(x[None]))

    assert versus(many, one_by_one, 3, other.label) < 0.95


@pytest.mark.parametrize("name", ["tcm", "mean-scale-small"])
def test_coding_many_at_once(versus, codec, name):
    model = codec if name == "tcm" else zoo.load(name)
    pictures = [picture() for _ in range(6 if name == "tcm" else 48)]

    def many() -> None:
        list(container.decode_many(model, container.encode_many(model, pictures)))

    def one_by_one() -> None:
        for x in pictures:
            container.decode(model, container.encode(model, x))

    assert versus(many, one_by_one, 3, "one by one") < 1 / 1.5


@pytest.mark.parametrize("loss", [Distill, DistillBoxes, DistillObjectness])
def test_distillation_step(versus, loss, tmp_path):
    """Once the teacher remembers the original crops: the passes of a step are one of the codec and one of the teacher, and back."""
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

    assert versus(step, parts, 30, "its parts") < 1.15


TRIED = {
    "channels last": lambda model: model.to(memory_format=torch.channels_last),
    "inductor": lambda model: torch.compile(model),
}


@pytest.mark.parametrize("change", TRIED)
def test_analysis_tried_with(versus, codec, change):
    """What could make the analysis transform, most of `compress`, faster than it is; none is in use."""
    x, changed = picture()[None], TRIED[change](copy.deepcopy(codec.g_a))
    with torch.inference_mode():
        torch.testing.assert_close(changed(x), codec.g_a(x), atol=1e-3, rtol=0)
        assert versus(lambda: changed(x), lambda: codec.g_a(x), 10, "as it is") > 0.5


KINDS = {
    "convolutions": ("conv",),
    "matrix products": ("mm", "attention"),
    "copies and layout": ("copy", "cat", "roll", "index", "gather", "fill", "zero", "clone", "reorder"),
}


WORK = {
    "forward pass": lambda codec, x, coded: torch.no_grad()(codec)(x),
    "training step": lambda codec, x, coded: step(codec, x),
    "compress": lambda codec, x, coded: codec.compress(x),
    "decompress": lambda codec, x, coded: codec.decompress(**coded),
}


@pytest.mark.parametrize("what", WORK)
def test_shares_of_time(shares, codec, what):
    x, work = picture()[None], WORK[what]
    coded = codec.compress(x)
    train.keep_freed_memory()
    work(codec, x, coded)
    start = time.perf_counter()
    with profile(activities=[ProfilerActivity.CPU]) as watched:
        work(codec, x, coded)
    seconds = time.perf_counter() - start
    spent = dict.fromkeys([*KINDS, "other arithmetic"], 0.0)
    for event in watched.key_averages():
        if event.key.startswith("aten::") or "backward" in event.key.lower():
            kind = next(
                (kind for kind, words in KINDS.items() if any(w in event.key for w in words)), "other arithmetic"
            )
            spent[kind] += event.self_cpu_time_total / 1e6
    spent["Python, and the range coder"] = seconds - sum(spent.values())
    shares.append({"what": what, "seconds": seconds} | {kind: s / seconds for kind, s in spent.items()})
    assert min(spent.values()) >= 0
