"""cheng2020-attn: real bytes and back for any size, although its latents are decoded one position after another, and a training
that the CPU survives."""

import random
import zlib

import pytest
import torch
from torch import nn
from torch.utils.data import Dataset

from icm_helpers import run, train
from icm_helpers.codecs import zoo
from icm_helpers.codecs.container import BitstreamError, decode, decode_many, encode, encode_many, pad


@pytest.fixture(scope="module")
def codec() -> nn.Module:
    torch.manual_seed(0)
    codec = zoo.load("cheng2020-attn", 1, weights=None)
    with torch.no_grad():
        # A random start's latents and scales are all but zero: make both as large as a trained codec's.
        codec.g_a[-2].weight *= 20
        codec.entropy_parameters[-1].bias[:128] += 4
    codec.update(force=True)
    return codec


def with_crc(body: bytes) -> bytes:
    return body + zlib.crc32(body).to_bytes(4, "little")


def as_read_from_a_file(height: int, width: int) -> torch.Tensor:
    """(3, H, W) as `datasets` gives pictures: rows of pixels in memory, red, green and blue side by side."""
    return torch.rand(height, width, 3).permute(2, 0, 1)


@pytest.mark.parametrize("size", [(1, 1), (1, 70), (64, 64), (65, 33)])
def test_what_is_decoded_is_within_half_a_step_of_the_latent_and_drawn_by_the_synthesis(codec, size):
    # Not forward's picture: that rounds y, coding rounds y minus a mean which depends on what was coded before.
    image, latents = torch.rand(3, *size), []
    hook = codec.g_s.register_forward_pre_hook(lambda module, inputs: latents.append(inputs[0].clone()))
    try:
        x_hat = decode(codec, encode(codec, image))
    finally:
        hook.remove()
    with torch.no_grad():
        y = codec.g_a(pad(image[None], 64))
        expected = codec.g_s(latents[0])[0, :, : size[0], : size[1]].clamp(0, 1)
    assert y.abs().max() > 3
    assert (latents[0] - y).abs().max() <= 0.5 + 1e-4
    assert x_hat.shape == image.shape
    torch.testing.assert_close(x_hat, expected, atol=1e-4, rtol=0)


def test_the_strings_are_as_long_as_the_likelihoods_say(codec):
    image = torch.rand(3, 128, 128)
    with torch.no_grad():
        bits = sum(-likelihood.log2().sum().item() for likelihood in codec(image[None])["likelihoods"].values())
    strings = sum(len(string) for (string,) in codec.compress(image[None])["strings"])
    assert 8 * strings == pytest.approx(
        bits, rel=0.03
    )  # forward predicts from y rounded otherwise; scales come from a table


def test_many_pictures_at_once_give_the_bytes_and_pictures_of_one_by_one(codec):
    images = [torch.rand(3, *size) for size in ((64, 64), (20, 65), (1, 1))]
    data = [encode(codec, image) for image in images]
    assert list(encode_many(codec, images, workers=2)) == data
    for together, alone in zip(decode_many(codec, data, workers=2), data, strict=True):
        assert torch.equal(together, decode(codec, alone))


def test_damaged_bytes_raise_bitstream_error(codec):
    data, dice = encode(codec, torch.rand(3, 40, 40)), random.Random(0)
    for _ in range(100):
        i = dice.randrange(len(data))
        for damaged in (data[:i], data[:i] + bytes([data[i] ^ 1 << dice.randrange(8)]) + data[i + 1 :]):
            with pytest.raises(BitstreamError):
                decode(codec, damaged)


def test_forged_strings_with_a_correct_checksum_do_not_crash_the_decoder(codec):
    data, dice = encode(codec, torch.rand(3, 64, 64)), random.Random(0)
    header = 26 + data[4]  # with its name, up to the first string, whose length stands last in it
    length = int.from_bytes(data[header - 4 : header], "little")
    for _ in range(5):
        forged = data[:header] + dice.randbytes(length) + data[header + length : -4]
        with pytest.raises(BitstreamError):
            decode(codec, with_crc(forged))


def test_entropy_parameters_that_differ_from_the_encoder_raise_bitstream_error(codec):
    data = encode(codec, torch.rand(3, 64, 64))
    hook = codec.entropy_parameters.register_forward_hook(lambda module, args, params: params + 0.2)
    try:
        with pytest.raises(BitstreamError, match="entropy parameters differ"):
            decode(codec, data)
    finally:
        hook.remove()


def test_the_order_of_a_picture_in_memory_changes_no_byte(codec):
    image = as_read_from_a_file(64, 64)
    assert image[None].is_contiguous(memory_format=torch.channels_last)
    assert encode(codec, image) == encode(codec, image.contiguous())


@pytest.mark.parametrize("collate", [None, run.collate])
@pytest.mark.parametrize("batch", [1, 2])
def test_training_hands_the_codec_no_picture_in_channels_last(codec, batch, collate):
    # On the CPU, the backward pass of its first 1 x 1 convolution would write beyond its memory (torch 2.13), so look before.
    class Pictures(Dataset):
        def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
            return as_read_from_a_file(64, 64), torch.ones(1, 64, 64)

    class Stride(nn.Conv2d):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            assert x.is_contiguous(), f"a picture with strides {x.stride()} would corrupt the memory"
            return super().forward(x)

    train.fit(
        Stride(3, 8, 1, stride=2),
        Pictures(),
        lambda model, pictures: {"loss": model(pictures[0]).square().mean()},
        train.Schedule(steps=1, batch=batch),
        collate=collate,
        device="cpu",
        progress=False,
    )
