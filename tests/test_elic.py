"""The small codec with ELIC's context: bytes of any size that decode to what `forward` gives, in few parameters."""

import pytest
import torch
from compressai.layers import CheckerboardMaskedConv2d

from icm_helpers import complexity
from icm_helpers.codecs import container, elic, networks, zoo


@pytest.fixture(scope="module")
def codec():
    torch.manual_seed(0)
    codec = zoo.load("elic-small", weights=None)
    complexity.awaken(codec, torch.rand(1, 3, 128, 128))
    return codec


def test_it_has_at_most_four_million_parameters(codec):
    assert sum(p.numel() for p in codec.parameters()) <= 4_000_000


@pytest.mark.parametrize("size", [(1, 1), (64, 64), (70, 131)])
def test_bytes_decode_to_what_forward_gives_and_cost_what_its_likelihoods_promise(codec, size):
    x = torch.rand(3, *size)
    data = container.encode(codec, x)
    with torch.no_grad():
        out = codec(container.pad(x[None], codec.downsampling_factor))
    assert torch.equal(container.decode(codec, data), out["x_hat"][0, :, : size[0], : size[1]].clamp(0, 1))
    promised = sum(-p.log2().sum().item() for p in out["likelihoods"].values())
    assert 8 * len(data) == pytest.approx(promised, rel=0.05, abs=8 * 64)


def test_a_batch_is_coded_picture_by_picture(codec):
    x = torch.rand(2, 3, 64, 64)
    together, alone = codec.compress(x), [codec.compress(picture) for picture in x.split(1)]
    assert together["strings"] == [[a["strings"][k][0] for a in alone] for k in (0, 1)]
    assert len(codec.decompress(together["strings"], together["shape"])["x_hat"]) == 2


def test_what_is_coded_later_changes_no_mean_of_what_is_coded_before():
    small = elic.ELIC(N=8, M=8, width=8, groups=(4, 4)).eval()
    z, y = torch.rand(1, 8, 1, 1), torch.randn(1, 8, 4, 4)
    black = (torch.arange(4)[:, None] + torch.arange(4)) % 2
    order = torch.stack([2 * (channel // 4) + black for channel in range(8)])  # (8, 4, 4): when each value is coded

    def means(y):
        return small._walk(z, lambda channels, half, scale, mean: y[:, channels])[2][0]

    for k in range(4):
        same = means(y + 3 * (order == k)) == means(y)
        assert same[order <= k].all() and (k == 3 or not same[order == k + 1].all())


def test_masked_weights_do_not_count_and_are_not_written_to():
    """CompressAI's convolution writes to them, and pictures that were coded at once came out wrong now and then."""
    small = elic.ELIC(N=8, M=8, width=8, groups=(4, 4)).eval()
    ours, usual = small.spatial_context[0], CheckerboardMaskedConv2d(4, 8, kernel_size=5, padding=2)
    usual.load_state_dict(ours.state_dict())
    before, x = (ours.weight._version, ours.weight.data_ptr()), torch.rand(1, 4, 6, 5)
    assert torch.equal(ours(x), usual(x)) and (ours.weight._version, ours.weight.data_ptr()) == before


def test_a_truncated_stream_is_an_error(codec):
    data = container.encode(codec, torch.rand(3, 64, 64))
    with pytest.raises(container.BitstreamError, match="checksum differs"):
        container.decode(codec, data[:-8])


def test_weights_are_saved_and_come_back_with_their_tables(codec, tmp_path):
    networks.save(codec, tmp_path / "mine.safetensors")
    again, x = zoo.load("elic-small", tmp_path / "mine.safetensors"), torch.rand(3, 64, 64)
    assert container.encode(again, x) == container.encode(codec, x)


def test_the_weights_that_ship_code_a_picture_well():
    ship = zoo.load("elic-small")
    x = torch.linspace(0.2, 0.8, 96).expand(3, 64, 96)  # a slope, which no random weights keep
    data = container.encode(ship, x)
    assert 8 * len(data) < 0.5 * 64 * 96
    assert (container.decode(ship, data) - x).square().mean() < 1e-3


@pytest.mark.parametrize(("bits", "size", "error"), [(16, 0.55, 2**-11), (8, 0.3, 1 / 254)])
def test_in_fewer_bits_the_file_is_smaller_and_weights_of_convolutions_are_rounded(codec, tmp_path, bits, size, error):
    networks.save(codec, tmp_path / "whole.safetensors")
    networks.save(codec, tmp_path / "small.safetensors", bits=bits)
    whole, small = ((tmp_path / f"{name}.safetensors").stat().st_size for name in ("whole", "small"))
    assert small < size * whole
    again = zoo.load("elic-small", tmp_path / "small.safetensors").state_dict()
    for key, value in codec.state_dict().items():
        if value.ndim == 4 and not key.endswith(".mask"):
            largest = value.abs().amax(dim=(1, 2, 3), keepdim=True)
            assert ((again[key] - value).abs() <= error * 1.001 * largest + 1e-7).all()
        else:
            assert torch.equal(again[key], value)


def test_other_numbers_of_bits_are_refused(codec, tmp_path):
    with pytest.raises(ValueError, match="bits 4: weights are written in 32, 16 or 8"):
        networks.save(codec, tmp_path / "never.safetensors", bits=4)


def test_groups_must_fill_the_latent():
    with pytest.raises(ValueError, match=r"groups \(4, 4\) have 8 channels together, the latent 12"):
        elic.ELIC(M=12, groups=(4, 4))
