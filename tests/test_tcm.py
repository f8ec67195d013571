"""LIC-TCM: what the original computes, any size, any batch, the authors' files, and errors that help."""

import copy
import json
import zlib

import numpy as np
import pytest
import torch
from torchvision.io import read_image

from icm_helpers import train
from icm_helpers.codecs import networks, zoo
from icm_helpers.codecs.container import decode, encode
from icm_helpers.codecs.tcm import TCM
from icm_helpers.objectives import MSE, Objective


def formula(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """A parameter's oracle value, from its name."""
    z = np.random.Generator(np.random.PCG64(zlib.crc32(name.encode()))).standard_normal(shape)
    if name.endswith("quantiles"):
        return np.array([-10.0, 0.0, 10.0]) + 0.1 * z
    if name.startswith("entropy_bottleneck."):
        return 0.5 * z
    if name.endswith("relative_position_params"):
        return 0.1 * z
    if len(shape) > 1:
        return 0.6 * z / np.sqrt(np.prod(shape[1:]))
    return 1 + 0.1 * abs(z) if name.endswith(("weight", "beta")) else 0.1 * z


def filled(**sizes: int) -> TCM:
    model = TCM(**sizes)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(torch.from_numpy(formula(name, tuple(parameter.shape))))
    return model.eval()


def picture(seed: int, batch: int, height: int, width: int) -> torch.Tensor:
    """Blocks of 16 pixels and noise, (batch, 3, height, width) in [0, 1]: the oracle's input."""
    rng = np.random.Generator(np.random.PCG64(seed))
    blocks = np.kron(rng.random((batch, 3, height // 16, width // 16)), np.ones((1, 1, 16, 16)))
    return torch.from_numpy(0.8 * blocks + 0.2 * rng.random((batch, 3, height, width))).float()


@pytest.fixture(scope="module")
def tiny() -> TCM:
    torch.manual_seed(0)
    codec = zoo.load("tcm-tiny", weights=None)
    codec.update(force=True)
    return codec


def test_names_shapes_bits_pictures_and_bytes_are_the_original_s(oracles):
    for case in json.loads((oracles / "tcm.json").read_text()):
        model = filled(N=case["N"])
        if "state_dict" in case:
            assert {name: list(t.shape) for name, t in model.state_dict().items()} == case["state_dict"]
        assert sum(p.numel() for p in model.parameters()) == case["parameters"]
        x = picture(case["input_seed"], case["batch"], case["height"], case["width"])
        with torch.no_grad():
            out = model(x)
        for latent in ("y", "z"):
            bits = [-likelihood.log2().sum().item() for likelihood in out["likelihoods"][latent]]
            assert bits == pytest.approx(case[f"bits_{latent}"], rel=1e-3)
        values = out["x_hat"].flatten()[case["x_hat_index"]]
        torch.testing.assert_close(values, torch.tensor(case["x_hat_values"]), atol=1e-3, rtol=0)
        model.update(force=True)
        coded = model.compress(x[:1])
        assert tuple(coded["shape"]) == tuple(case["shape"])
        assert [len(strings[0]) for strings in coded["strings"]] == pytest.approx(case["string_bytes"], rel=1e-3)
        x_hat = model.decompress(**coded)["x_hat"]
        torch.testing.assert_close(x_hat, out["x_hat"][:1].clamp(0, 1), atol=1e-4, rtol=0)


@pytest.mark.parametrize(("width", "millions"), [(64, 45.181), (96, 59.134), (128, 76.568)])
def test_the_paper_s_sizes_have_the_paper_s_parameters(width, millions):
    assert round(sum(p.numel() for p in TCM(N=width).parameters()) / 1e6, 3) == millions


@pytest.mark.parametrize("size", [(1, 1), (1, 130), (127, 65), (128, 128), (130, 129)])
def test_any_size_comes_back_as_forward_says(tiny, size):
    x = torch.rand(1, 3, *size)
    with torch.no_grad():
        expected = tiny(x)["x_hat"]
    assert expected.shape == x.shape
    x_hat = tiny.decompress(**tiny.compress(x))["x_hat"][..., : size[0], : size[1]]
    torch.testing.assert_close(x_hat, expected.clamp(0, 1), atol=1e-4, rtol=0)
    torch.testing.assert_close(decode(tiny, encode(tiny, x[0])), expected[0].clamp(0, 1), atol=1e-4, rtol=0)


def test_encoder_and_decoder_see_the_hyperlatent_in_one_memory_format(tiny, monkeypatch):
    seen, hyper = [], tiny._hyper
    monkeypatch.setattr(tiny, "_hyper", lambda z_hat: [seen.append(z_hat.is_contiguous()), hyper(z_hat)][1])
    tiny.decompress(**tiny.compress(torch.rand(1, 3, 512, 512)))  # large enough for g_a to compute in channels_last
    assert seen == [True, True]


def test_a_batch_codes_and_decodes_each_picture_as_if_alone(tiny):
    x = torch.rand(3, 3, 100, 140)
    coded = tiny.compress(x)
    x_hat = tiny.decompress(**coded)["x_hat"]
    for i in range(3):
        alone = tiny.compress(x[i : i + 1])
        assert [strings[i] for strings in coded["strings"]] == [strings[0] for strings in alone["strings"]]
        assert torch.equal(tiny.decompress(**alone)["x_hat"][0], x_hat[i])


def test_convolutions_merged_without_gradients_give_the_same_and_follow_the_weights(tiny):
    x = torch.rand(1, 3, 90, 100)
    encode(tiny, x[0])  # in inference mode, on one thread: what it keeps must serve elsewhere, and in a copy
    codec = copy.deepcopy(tiny)
    optimiser = torch.optim.Adam(codec.parameters(), 1e-3, fused=True)  # whose steps PyTorch does not count as changes

    def unmerged() -> torch.Tensor:
        x_hat = codec(x)["x_hat"]
        x_hat.square().mean().backward()
        return x_hat.detach()

    def merged() -> torch.Tensor:
        with torch.no_grad():
            return codec(x)["x_hat"]

    torch.testing.assert_close(merged(), unmerged(), atol=1e-5, rtol=0)
    optimiser.step()
    torch.testing.assert_close(merged(), unmerged(), atol=1e-5, rtol=0)
    with torch.no_grad():
        codec.atten_mean[0][0].out_conv.bias += 1
        with torch.autocast("cpu", torch.bfloat16):
            codec(x)
    torch.testing.assert_close(merged(), unmerged(), atol=1e-5, rtol=0)


def test_scale_indexes_are_compressai_s(tiny):
    scales = torch.cat([torch.rand(1000) * 300, tiny.gaussian_conditional.scale_table, torch.tensor([-1.0, 0.0, 1e9])])
    slow = super(type(tiny.gaussian_conditional), tiny.gaussian_conditional).build_indexes(scales)
    assert torch.equal(tiny.gaussian_conditional.build_indexes(scales), slow)


@pytest.mark.parametrize(
    "sizes",
    [
        {"N": 32},
        {"N": 64, "config": (1, 2, 3, 2, 1, 1), "head_dim": (4, 8, 16, 32, 16, 8), "M": 96, "num_slices": 6}
        | {"max_support_slices": 2, "width": 32},
    ],
)
def test_a_state_dict_tells_what_network_it_is_of(sizes):
    model = TCM(**sizes)
    model.update()
    again = TCM.from_state_dict({f"module.{name}": value for name, value in model.state_dict().items()})
    for name in ("config", "head_dim", "N", "M", "num_slices", "max_support_slices", "width"):
        assert getattr(again, name) == getattr(model, name)
    assert networks.fingerprint(again) == networks.fingerprint(model)


def test_the_authors_files_load(tmp_path):
    """`.pth.tar` of a model in parallel, with the optimiser beside it and CompressAI's names of 2022."""
    torch.manual_seed(0)
    model = TCM(N=32, M=64, num_slices=2, width=16)
    old = {}
    for name, value in model.state_dict().items():
        for new, former in (("matrices.", "_matrix"), ("biases.", "_bias"), ("factors.", "_factor")):
            name = name.replace(f"entropy_bottleneck.{new}", f"entropy_bottleneck.{former}")
        old[f"module.{name}"] = value
    optimiser = torch.optim.Adam(model.parameters()).state_dict()
    torch.save({"epoch": 3, "state_dict": old, "loss": 1.5, "optimizer": optimiser}, tmp_path / "tcm.pth.tar")
    codec = zoo.load("tcm", tmp_path / "tcm.pth.tar")
    assert (codec.N, codec.M, codec.name, codec.training) == (32, 64, "tcm", False)
    assert all(torch.equal(p, q) for p, q in zip(codec.parameters(), model.parameters(), strict=True))
    image = torch.rand(3, 40, 50)
    assert decode(codec, encode(codec, image)).shape == image.shape
    networks.save(codec, tmp_path / "ours.safetensors")
    assert networks.fingerprint(zoo.load("tcm", tmp_path / "ours.safetensors")) == networks.fingerprint(codec)


def test_bits_from_likelihoods_are_those_of_the_strings_on_kodak(real_data, monkeypatch):
    """After a short training. The coder has 64 scales and takes the next larger one: with these the likelihoods tell the strings'
    length closely. With the scales as they are they promise less, by as much as the scales are too large: 1.2 % after 800 steps.
    In the coder's tables no symbol costs more than 16 bits; after so short a training hundreds would cost more.
    """
    photos = [read_image(str(path)).float() / 255 for path in sorted((real_data / "kodak").glob("*.png"))[:2]]
    codec = zoo.load("tcm-tiny", weights=None)
    corners = [(int(r * 384), int(c * 384)) for r, c in torch.rand(40, 2)]  # 512 x 768 and upright ones alike
    items = [(photos[i % 2][:, y : y + 128, x : x + 128], torch.ones(1, 128, 128)) for i, (y, x) in enumerate(corners)]
    plan = train.Schedule(steps=20, batch=2, lr=1e-3, warmup=2)
    train.fit(codec, items, Objective(MSE(), 0.05), plan, device="cpu", progress=False)
    codec.eval().update(force=True)

    @torch.no_grad()
    def promised() -> float:
        likelihoods = [p for photo in photos for p in codec(photo[None])["likelihoods"].values()]
        return sum(-p.clamp(min=2**-16).log2().sum().item() for p in likelihoods)

    photos = [photo[:, 100:356, 100:484] for photo in photos]  # a quarter of each
    real = 8 * sum(len(s[0]) for photo in photos for s in codec.compress(photo[None])["strings"])
    assert real == pytest.approx(promised(), rel=0.05)
    model, exact = codec.gaussian_conditional, codec.gaussian_conditional._likelihood
    coded = lambda y, scales, means: exact(y, model.scale_table[model.build_indexes(scales)], means)  # noqa: E731
    monkeypatch.setattr(model, "_likelihood", coded)
    assert real == pytest.approx(promised(), rel=0.01)


def test_bfloat16_trains_alike(tiny):
    x = torch.rand(1, 3, 128, 128)
    gradients = {}
    for how in ("plain", "bfloat16"):
        model = zoo.load("tcm-tiny", weights=None)
        model.load_state_dict(tiny.state_dict())
        model.train()
        torch.manual_seed(1)  # of the noise
        with torch.autocast("cpu", torch.bfloat16, enabled=how == "bfloat16"):
            transformed = model._run(model.g_s, model._run(model.g_a, x))
        (transformed.float() - x).square().mean().backward()
        gradients[how] = model.g_a[1].conv1_1.weight.grad
    cosine = torch.cosine_similarity(gradients["bfloat16"].flatten(), gradients["plain"].flatten(), dim=0)
    assert cosine > 0.99


def test_a_training_step_in_bfloat16_lowers_the_loss():
    model = TCM(config=(1,) * 6, N=32, M=64, num_slices=2, width=16)
    items = [(torch.full((3, 64, 64), 0.25), torch.ones(1, 64, 64))] * 24
    plan = train.Schedule(steps=12, batch=2, lr=1e-3, warmup=1)
    curve = train.fit(model, items, Objective(MSE(), 0.01), plan, device="cpu", precision="bf16-mixed", progress=False)
    assert curve[-1]["loss"] < 0.7 * curve[0]["loss"]


def test_the_transforms_compile_without_a_graph_break():
    """Each is traced in one piece, whole and shifted windows; a block is also lowered to what inductor would make code of, which
    itself, seconds of C++, is for `make bench`."""
    model = TCM(config=(2, 1, 1, 1, 1, 2), N=32, M=64, num_slices=2, width=16).eval()
    for transform, x in ((model.g_a, torch.rand(1, 3, 128, 128)), (model.g_s, torch.rand(1, 64, 8, 8))):
        assert torch._dynamo.explain(transform)(x).graph_break_count == 0
    block, x = model.h_a[2], torch.rand(1, 64, 8, 8)
    lowered = torch.compile(block, fullgraph=True, backend="aot_eager_decomp_partition")
    with torch.no_grad():
        torch.testing.assert_close(lowered(x), block(x), atol=1e-4, rtol=0)


def test_bad_pictures_are_answered_with_what_is_expected(tiny):
    for x, message in (
        (torch.rand(1, 1, 8, 8), r"\(1, 1, 8, 8\).*takes floats \(N, 3, H, W\)"),
        (torch.rand(3, 8, 8), r"takes floats \(N, 3, H, W\)"),
        (torch.zeros(1, 3, 8, 8, dtype=torch.uint8), r"torch.uint8.*takes floats"),
        (torch.rand(0, 3, 8, 8), "empty batch"),
        (torch.rand(1, 3, 8, 8) * 255, r"takes \[0, 1\] without NaN"),
        (torch.full((1, 3, 8, 8), float("nan")), r"takes \[0, 1\] without NaN"),
    ):
        for method in (tiny, tiny.compress):
            with pytest.raises(ValueError, match=message):
                method(x)


def test_weights_of_another_size_or_model_are_named(tiny, tmp_path):
    with pytest.raises(ValueError, match=r"of a TCM with N=32, here 64; .*build it by TCM.from_state_dict"):
        TCM(N=64, M=64, num_slices=4).load_state_dict(tiny.state_dict())
    torch.save(zoo.load("mean-scale-small", weights=None).state_dict(), tmp_path / "other.pt")
    with pytest.raises(ValueError, match=r"other.pt holds no tcm: no state dict of a TCM .* such as "):
        zoo.load("tcm", tmp_path / "other.pt")
    with pytest.raises(ValueError, match="no state dict of a TCM"):
        TCM.from_state_dict({})
    with pytest.raises(ValueError, match=r"N=48 is not a multiple of 32"):
        TCM(N=48)


def test_coding_needs_tables():
    codec = TCM(N=32, M=64, num_slices=2, width=16).eval()
    with pytest.raises(ValueError, match="no CDF tables: call update"):
        codec.compress(torch.rand(1, 3, 8, 8))
