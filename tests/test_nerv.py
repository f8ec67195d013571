"""NeRV: the original's numbers, training that resumes, and a file that holds the network."""

import json
import math
import struct
import zlib
from concurrent.futures import ProcessPoolExecutor

import numpy as np
import pytest
import torch

from icm_helpers import losses
from icm_helpers.codecs import nerv
from icm_helpers.codecs.container import BitstreamError
from icm_helpers.codecs.nerv import NeRV, counted_bits, decode_video, encode_video, prune
from icm_helpers.data import scenes
from icm_helpers.overfit import overfit, quality

TINY = {"fc_hw_dim": (3, 4, 4), "strides": (2, 2), "lower_width": 4, "stem_dim": 8, "pe_levels": 6}


@pytest.fixture
def network():
    return NeRV(**TINY)  # 12 x 16


@pytest.fixture
def frames():
    return torch.rand(3, 3, 11, 15)  # cropped from the network's picture


@pytest.fixture(scope="module")
def trained():
    """A short clip of 48 x 48 and a network that has learned it a little."""
    torch.manual_seed(0)
    pictures = np.stack([scene.image for scene in scenes.video(3, 4, 48)])
    clip = torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 255
    network = NeRV((6, 6, 6), (2, 2, 2), lower_width=6, stem_dim=16)
    curve = overfit(network, clip, losses.nerv_loss, epochs=40, lr=5e-3, device="cpu", progress=False)
    return clip, network, curve


# Checked by hand against the rule: expand at the first block, then divide where the stride is above 1, never below the lower width.
@pytest.mark.parametrize(
    ("settings", "widths"),
    [
        ({}, [26, 96, 96, 96, 96]),
        ({"lower_width": 8}, [26, 13, 8, 8, 8]),
        ({"lower_width": 8, "expansion": 8}, [208, 104, 52, 26, 13]),
        ({"lower_width": 8, "expansion": 1.5, "reduction": 3, "strides": (2, 1, 2, 1, 2)}, [39, 39, 13, 13, 8]),
    ],
)
def test_widths_follow_from_expansion_reduction_and_strides(settings, widths):
    network = NeRV(**settings)
    assert [
        block.conv.conv.out_channels // s**2 for s, block in zip(network.strides, network.layers, strict=True)
    ] == widths
    assert network.head_layers[-1].in_channels == widths[-1]


@pytest.mark.parametrize("case", [0, 1])
def test_names_shapes_and_pictures_are_the_original_s(case, oracles):
    oracle = json.loads((oracles / "nerv.json").read_text())[case]
    settings = {"strides": oracle["strides"], "lower_width": oracle["lower_width"]}
    network = NeRV(tuple(map(int, oracle["fc_hw_dim"].split("_"))), **settings)
    assert sum(p.numel() for p in network.parameters()) == oracle["parameters"]
    if "state_dict" in oracle:
        assert {key: list(value.shape) for key, value in network.state_dict().items()} == oracle["state_dict"]
    for name, p in network.named_parameters():
        z = np.random.Generator(np.random.PCG64(zlib.crc32(name.encode()))).standard_normal(tuple(p.shape))
        z = z / math.sqrt(math.prod(p.shape[1:])) if p.ndim > 1 else 0.1 * z
        p.data = torch.from_numpy(z.astype(np.float32))
    embeddings = []
    network.stem.register_forward_pre_hook(lambda _, args: embeddings.append(args[0]))
    with torch.no_grad():
        picture = network(torch.tensor(oracle["t"][-1:])).flatten()  # one is enough: 720p costs 100 GMAC
    first = picture.numel() * (len(oracle["t"]) - 1)
    expected = {i - first: value for i, value in zip(oracle["index"], oracle["values"], strict=True) if i >= first}
    assert picture[list(expected)].tolist() == pytest.approx(list(expected.values()), abs=2e-6)
    assert embeddings[0][0].tolist() == pytest.approx(oracle["embedding_of_last_t"], abs=2e-6)


def test_a_picture_equals_convolution_shuffle_activation_and_head_one_after_the_other(network):
    t = torch.tensor([0.0, 0.3])
    bases = 1.25 ** torch.arange(6) * math.pi * t[:, None]
    x = network.stem(torch.stack((bases.sin(), bases.cos()), -1).flatten(1)).view(2, 4, 3, 4)
    for block in network.layers:
        x = torch.nn.functional.silu(torch.nn.functional.pixel_shuffle(block.conv.conv(x), 2))
    expected = (network.head_layers[-1](x).tanh() + 1) / 2
    torch.testing.assert_close(network(t), expected, atol=1e-6, rtol=0)


def test_impossible_sizes_are_refused():
    for wrong in ({"strides": ()}, {"strides": (2, 0)}, {"fc_hw_dim": (3, 4)}, {"expansion": 0.01}):
        with pytest.raises(ValueError, match="no network of"):
            NeRV(**{**TINY, **wrong})


def test_training_approaches_the_video(trained):
    clip, network, curve = trained
    assert curve[-1]["psnr"] > curve[0]["psnr"] + 5
    decoded = decode_video(encode_video(clip, network))
    assert quality(clip, decoded)["psnr"] == pytest.approx(curve[-1]["psnr"], abs=1.0)


def test_only_the_part_that_the_frames_cover_is_trained(network, frames):
    overfit(
        network,
        frames,
        lambda x, x_hat: x_hat.sum() * 0 + (x.shape != x_hat.shape),
        epochs=1,
        device="cpu",
        progress=False,
    )
    with pytest.raises(ValueError, match="use another fc_hw_dim"):
        overfit(network, torch.rand(3, 3, 13, 16), losses.nerv_loss, device="cpu")


def test_masks_go_with_their_frames():
    clip, masks = torch.rand(4, 3, 12, 16), torch.zeros(4, 1, 12, 16)
    clip[:, 0, 0, 0], masks[:, 0, 0, 0] = torch.tensor([0.0, 1.0, 0.0, 1.0]), torch.tensor([0.0, 1.0, 0.0, 1.0])

    def loss(x, x_hat, mask):
        assert torch.equal(x[:, 0, 0, 0], mask[:, 0, 0, 0])
        return losses.sa_nerv_loss(x, x_hat, mask)

    overfit(NeRV(**TINY), clip, loss, masks=masks, epochs=2, batch=2, device="cpu", progress=False)


def test_a_killed_training_goes_on_to_the_same_weights(frames, tmp_path):
    def run(folder, dies_at):
        torch.manual_seed(1)
        network, seen = NeRV(**TINY), []

        def loss(x, x_hat):
            seen.append(1)
            if len(seen) == dies_at:
                raise KeyboardInterrupt
            return losses.nerv_loss(x, x_hat)

        overfit(network, frames, loss, epochs=20, folder=folder, device="cpu", progress=False)
        return network.state_dict(), len(seen)

    whole, steps = run(None, None)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, steps // 2)
    resumed, rest = run(tmp_path, None)
    assert rest < steps
    assert all(torch.equal(whole[key], resumed[key]) for key in whole)


def test_pruning_keeps_the_largest_weights_and_training_keeps_the_zeros(network, frames):
    prune(network, 0.25)
    layers = [network.stem[0], network.stem[2], *(block.conv.conv for block in network.layers)]
    weights = torch.cat([layer.weight.flatten() for layer in layers])
    assert weights.count_nonzero().item() == pytest.approx(0.25 * weights.numel(), abs=1)
    before = {name: p.detach().clone() for name, p in network.named_parameters()}
    overfit(network, frames, losses.nerv_loss, epochs=2, device="cpu", progress=False)
    for name, p in network.named_parameters():
        assert torch.equal(p == 0, before[name] == 0) or name.endswith("bias")
        assert not torch.equal(p, before[name])
    with pytest.raises(ValueError, match="density"):
        prune(network, 0)


@pytest.mark.parametrize("bits", [2, 5, 8])
def test_a_weight_takes_all_levels_of_its_channel_and_no_more(bits):
    rows = torch.linspace(-1, 1, 5000)[None] * torch.tensor([[1.0], [0.01], [3.0]]) + torch.tensor(
        [[0.0], [0.02], [0.0]]
    )
    rows[0, :100] = 0
    scales, symbols = nerv._quantise(rows, bits)
    symbols = symbols.reshape(3, -1)
    levels = [len(np.unique(row)) for row in symbols]
    assert max(levels) <= 2**bits
    assert min(levels[0], levels[2]) >= 2**bits - 1  # half a level may go where zero is rounded to a level
    assert (symbols[0, :100] == 0).all()
    error = np.abs(symbols * scales[:, None].astype(float) - rows.numpy()).max(1)
    assert (error <= scales.astype(float) * 1.01).all()


def test_the_file_holds_the_rounded_network_and_any_frame_comes_alone(network, frames):
    data = encode_video(frames, network)
    decoded = decode_video(data)
    assert decoded.shape == frames.shape
    with torch.no_grad():
        drawn = network(torch.arange(3) / 3)[..., :11, :15]
    torch.testing.assert_close(decoded, drawn, atol=0.02, rtol=0)
    assert torch.equal(decode_video(data, [2, 0]), decoded[[2, 0]])
    assert encode_video(frames, network) == data
    with pytest.raises(IndexError, match="no frame 3 in a video of 3"):
        decode_video(data, [3])


def test_a_pruned_network_is_decoded_as_it_draws(network, frames):
    prune(network, 0.5)
    with torch.no_grad():
        drawn = network(torch.arange(3) / 3)[..., :11, :15]
    torch.testing.assert_close(decode_video(encode_video(frames, network)), drawn, atol=0.02, rtol=0)


def test_the_order_of_parameters_does_not_matter(network, frames):
    data, conv = encode_video(frames, network), network.layers[0].conv.conv
    weight = conv.weight
    del conv.weight
    conv.weight = weight  # now after the bias, as torch's own pruning leaves it
    assert encode_video(frames, network) == data


def test_decoding_leaves_threads_and_random_numbers_as_they_were(network, frames):
    data, threads, state = encode_video(frames, network), torch.get_num_threads(), torch.get_rng_state()
    decode_video(data)
    assert torch.get_num_threads() == threads and torch.equal(torch.get_rng_state(), state)


def decoded_on_two_threads(data):
    torch.set_num_threads(2)
    return decode_video(data).numpy()


def test_a_fresh_process_with_more_threads_decodes_the_same_bits(trained, elsewhere):
    clip, network, _ = trained
    data = encode_video(clip, network)
    with ProcessPoolExecutor(1, mp_context=elsewhere) as pool:
        decoded = pool.submit(decoded_on_two_threads, data).result()
    assert np.array_equal(decoded, decode_video(data).numpy())


def test_the_file_is_larger_than_the_papers_count_says_only_by_what_that_leaves_out(trained):
    clip, network, _ = trained
    counted = counted_bits(network, 6) / 8
    assert counted == 6 * sum(p.numel() for p in network.parameters()) / 8
    size = len(encode_video(clip, network, bits=6))
    rows = sum(p.shape[0] if p.ndim > 1 else 1 for p in network.parameters())
    assert 0.8 * counted < size < counted + 2 * rows + 2 * 2 * 2**8  # scales and two tables at most


def test_fewer_bits_and_fewer_weights_give_smaller_files(trained):
    clip, network, _ = trained
    sizes = [len(encode_video(clip, network, bits=bits)) for bits in (8, 6, 4)]
    sparse = NeRV((6, 6, 6), (2, 2, 2), lower_width=6, stem_dim=16)
    sparse.load_state_dict(network.state_dict())
    prune(sparse, 0.3)
    assert sizes[0] > sizes[1] > sizes[2]
    assert len(encode_video(clip, sparse)) < 0.7 * sizes[0]


def test_a_thousand_damaged_files_raise_bitstream_error(network, frames):
    data, rng = encode_video(frames, network), np.random.default_rng(0)
    for number in range(1000):
        place = int(rng.integers(len(data)))
        damaged = bytearray(data)
        kind = number % 4
        if kind == 0:
            damaged[place] ^= 1 << int(rng.integers(8))
        elif kind == 1:
            del damaged[place:]
        elif kind == 2:
            damaged[place:place] = rng.bytes(int(rng.integers(1, 9)))
        else:
            damaged[place] = (damaged[place] + int(rng.integers(1, 256))) % 256
        with pytest.raises(BitstreamError):
            decode_video(bytes(damaged), [0])


def test_a_forged_file_raises_bitstream_error_or_gives_a_picture(network, frames):
    body, rng, raised = encode_video(frames, network)[:-4], np.random.default_rng(0), 0
    header = nerv._HEADER.size + len(TINY["strides"]) + 4
    for number in range(300):
        forged = bytearray(body)
        place = int(rng.integers(4, header if number % 2 else len(forged)))
        forged[place] = int(rng.integers(256))
        try:
            picture = decode_video(bytes(forged) + struct.pack("<I", zlib.crc32(forged)), [0])
            assert picture.shape[:2] == (1, 3)
        except BitstreamError:
            raised += 1
    assert raised > 50


def test_what_cannot_be_coded_is_refused(network, frames):
    for wrong, match in (
        ((frames[0], {}), "a video is a tensor"),
        ((torch.rand(1, 3, 13, 16), {}), "the network draws"),
        ((frames, {"bits": 9}), "2 to 8"),
    ):
        with pytest.raises(ValueError, match=match):
            encode_video(wrong[0], network, **wrong[1])
    network.stem[0].bias.data[0] = math.nan
    with pytest.raises(ValueError, match=r"stem\.0\.bias of the network are not finite"):
        encode_video(frames, network)


def test_every_listed_size_fits_its_frames():
    wanted = {"720p": [(720, 1280)], "davis": [(480, 854)]}
    wanted |= {name: [(480, 832), (240, 416)] for name in ("sfu", "sfu-s")}
    wanted |= {f"davis-half-{size}": [(240, 427)] for size in ("s", "m", "l", "xl")}
    listed = [(name, size) for name in nerv.SIZES for size in wanted.get(name, [(192, 192)])]
    for name, (height, width) in listed:
        with torch.device("meta"):
            drawn = nerv.sized(name, lambda height=height: height).size
        assert drawn[0] == height and width <= drawn[1] < width + 32
