"""The container: real bytes and back for any size, and no wrong picture from damaged bytes."""

import copy
import random
import threading
import time
import zlib
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor

import pytest
import torch

from icm_helpers.codecs import networks, zoo
from icm_helpers.codecs.classical import Jpeg
from icm_helpers.codecs.container import BitstreamError, decode, decode_many, encode, encode_many, pad


def decoded_from_file(weights, data):
    return decode(zoo.load("mean-scale-small", weights=weights), data).numpy()


@pytest.fixture(scope="module")
def codec():
    torch.manual_seed(0)
    codec = zoo.load("mean-scale-small", weights=None)
    codec.update(force=True)
    return codec


def with_crc(body: bytes) -> bytes:
    return body + zlib.crc32(body).to_bytes(4, "little")


@pytest.mark.parametrize("size", [(1, 1), (1, 300), (65, 63), (64, 64)])
def test_decoded_picture_equals_forward(codec, size):
    image = torch.rand(3, *size)
    x_hat = decode(codec, encode(codec, image))
    with torch.no_grad():
        expected = codec(pad(image[None], 64))["x_hat"][0, :, : size[0], : size[1]].clamp(0, 1)
    assert x_hat.shape == image.shape and not x_hat.is_inference()
    torch.testing.assert_close(x_hat, expected, atol=1e-4, rtol=0)


def test_latents_far_outside_the_tables_come_back(codec):
    loud = zoo.load("mean-scale-small", weights=None)
    loud.load_state_dict(
        {key: value * 1000 if key == "g_a.6.weight" else value for key, value in loud.state_dict().items()}
    )
    loud.update(force=True)
    image = torch.rand(3, 64, 64)
    with torch.no_grad():
        assert loud.g_a(image[None]).abs().max() > 20
        expected = loud(image[None])["x_hat"][0].clamp(0, 1)
    torch.testing.assert_close(decode(loud, encode(loud, image)), expected, atol=1e-4, rtol=0)


def test_header_is_46_bytes_and_the_rest_is_what_the_likelihoods_say(codec):
    image = torch.rand(3, 256, 256)
    data = encode(codec, image)
    with torch.no_grad():
        bits = sum(-likelihood.log2().sum().item() for likelihood in codec(image[None])["likelihoods"].values())
    assert len(data) - sum(len(s[0]) for s in codec.compress(image[None])["strings"]) == 46
    assert len(data) - 46 == pytest.approx(bits / 8, abs=24)  # each string ends with 8 bytes of state


def test_decoding_in_a_fresh_process_gives_the_same_picture(codec, tmp_path, elsewhere):
    networks.save(codec, tmp_path / "codec.safetensors")
    data = encode(codec, torch.rand(3, 50, 70))
    with ProcessPoolExecutor(1, mp_context=elsewhere) as pool:
        x_hat = pool.submit(decoded_from_file, tmp_path / "codec.safetensors", data).result()
    assert torch.equal(torch.from_numpy(x_hat), decode(codec, data))


def test_the_number_of_threads_changes_neither_bytes_nor_picture(codec):
    image, threads = torch.rand(3, 130, 200), torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one = encode(codec, image)
        torch.set_num_threads(2)
        assert encode(codec, image) == one
        two = decode(codec, one)
        torch.set_num_threads(1)
        assert torch.equal(decode(codec, one), two)
    finally:
        torch.set_num_threads(threads)


def test_two_thousand_mutations_raise_bitstream_error_fast(codec):
    data, dice = encode(codec, torch.rand(3, 33, 40)), random.Random(0)

    def flip(i):
        return data[:i] + bytes([data[i] ^ 1 << dice.randrange(8)]) + data[i + 1 :]

    def swap(i):
        j = next(j for j in dice.sample(range(len(data)), len(data)) if data[j] != data[i])
        swapped = bytearray(data)
        swapped[i], swapped[j] = data[j], data[i]
        return bytes(swapped)

    mutations = [
        flip,
        swap,
        lambda i: data[:i],
        lambda i: data[:i] + dice.randbytes(dice.randint(1, 9)) + data[i:],
        lambda i: data[:i] + data[i + dice.randint(1, 9) :],
        lambda i: dice.randbytes(i),
        lambda i: b"ICM\x01" + dice.randbytes(i),
    ]
    start = time.perf_counter()
    for n in range(2000):
        mutated = mutations[n % len(mutations)](dice.randrange(len(data)))
        assert mutated != data
        with pytest.raises(BitstreamError):
            decode(codec, mutated)
    assert time.perf_counter() - start < 5


def test_a_flipped_bit_raises_bitstream_error_with_both_checksums(codec):
    data = bytearray(encode(codec, torch.rand(3, 8, 8)))
    data[40] ^= 1
    with pytest.raises(BitstreamError, match=r"checksum differs \(expected [0-9a-f]{8}, found [0-9a-f]{8}\)"):
        decode(codec, bytes(data))


def test_trailing_bytes_raise_bitstream_error(codec):
    with pytest.raises(BitstreamError, match="checksum"):
        decode(codec, encode(codec, torch.rand(3, 8, 8)) + b"\0")


def test_other_codec_weights_or_version_raises_bitstream_error_by_name(codec):
    data = encode(codec, torch.rand(3, 8, 8))
    other = zoo.load("mean-scale-small", weights=None)
    other.update(force=True)
    with pytest.raises(BitstreamError, match=f"weights {networks.fingerprint(codec).hex()}, these are"):
        decode(other, data)
    other = zoo.load("bmshj2018-factorized", 1, weights=None)
    other.update(force=True)
    with pytest.raises(BitstreamError, match="'mean-scale-small', not 'bmshj2018-factorized-q1'"):
        decode(other, data)
    with pytest.raises(BitstreamError, match="version 2"):
        decode(codec, with_crc(data[:3] + b"\x02" + data[4:-4]))


def test_entropy_parameters_that_differ_from_the_encoder_raise_bitstream_error(codec):
    data = encode(codec, torch.rand(3, 64, 64))
    hook = codec.h_s.register_forward_hook(lambda module, args, params: params + 0.2)  # as if another processor rounded
    try:
        with pytest.raises(BitstreamError, match="entropy parameters differ"):
            decode(codec, data)
    finally:
        hook.remove()


def test_a_forged_header_asks_for_no_huge_allocation(codec):
    data = encode(codec, torch.rand(3, 8, 8))
    sides = 13 + len(codec.name)  # offset of height and width
    with pytest.raises(BitstreamError, match="65535 x 65535 pixels"):
        decode(codec, with_crc(data[:sides] + b"\xff" * 4 + data[sides + 4 : -4]))
    with pytest.raises(BitstreamError, match="a string of 4294967295 bytes"):
        decode(codec, with_crc(data[: sides + 9] + b"\xff" * 4 + data[sides + 13 : -4]))
    for size in range(len(data) - 4):
        with pytest.raises(BitstreamError):
            decode(codec, with_crc(data[:size]) if size < sides + 13 else data[:size])


def test_forged_sizes_and_strings_with_a_correct_checksum_do_not_crash_the_decoder(codec):
    data, sides, dice = encode(codec, torch.rand(3, 64, 64)), 13 + len(codec.name), random.Random(0)
    for height in (128, 700, 1024):
        with pytest.raises(BitstreamError):
            decode(codec, with_crc(data[:sides] + height.to_bytes(2, "little") + data[sides + 2 : -4]))
    for words in range(2, 30):
        with pytest.raises(BitstreamError):
            decode(codec, with_crc(data[: sides + 13] + dice.randbytes(4 * words)))


@pytest.mark.parametrize(
    "image",
    [
        torch.rand(1, 8, 8),
        torch.rand(1, 3, 8, 8),
        torch.rand(3, 0, 8),
        torch.rand(3, 8, 8).double(),
        torch.zeros(3, 8, 8, dtype=torch.uint8),
        torch.rand(3, 8, 8) + 1,
        torch.rand(3, 8, 8) - 1,
        torch.full((3, 8, 8), torch.nan),
        torch.zeros(1).expand(3, 1, 65536),
        [[0.0]],
    ],
    ids=["grey", "batch", "empty", "double", "8-bit", "bright", "dark", "nan", "wide", "list"],
)
def test_what_is_no_image_is_refused(codec, image):
    for any_codec in (codec, Jpeg(50)):
        with pytest.raises(ValueError, match=r"image|pixels"):
            encode(any_codec, image)


def test_a_codec_that_is_not_ready_is_refused(codec):
    image = torch.rand(3, 8, 8)
    with pytest.raises(ValueError, match=r"call codec.update\(force=True\)"):
        encode(zoo.load("mean-scale-small", weights=None), image)
    with pytest.raises(ValueError, match=r"call codec.eval\(\)"):
        encode(zoo.load("mean-scale-small", weights=None).train(), image)


@pytest.mark.parametrize("name", ["mbt2018", "cheng2020-anchor"])
def test_autoregressive_models_code_and_come_back(name):
    codec = zoo.load(name, 1, weights=None)
    codec.update(force=True)
    image = torch.rand(3, 64, 64)
    data = encode(codec, image)
    x_hat = decode(codec, data)
    assert x_hat.shape == image.shape and x_hat.isfinite().all()
    assert encode(codec, image) == data and torch.equal(decode(codec, data), x_hat)


def test_jpeg_bytes_are_a_jpeg_file_and_broken_ones_raise(codec):
    image = torch.linspace(0, 1, 40).expand(3, 30, 40)
    data = encode(Jpeg(95), image)
    assert data[6:10] == b"JFIF" and len(encode(Jpeg(5), image)) < len(data)
    torch.testing.assert_close(decode(Jpeg(95), data), image, atol=0.02, rtol=0)
    for broken in (data[:-1], data[: len(data) // 2], data + b"\0", b"", data[:20] + data[-2:], encode(codec, image)):
        with pytest.raises(BitstreamError):
            decode(Jpeg(95), broken)
    with pytest.raises(BitstreamError, match="no file of this format"):
        decode(codec, data)
    for quality in (0, 101, 50.5):
        with pytest.raises(ValueError, match="1 to 100"):
            Jpeg(quality)


@pytest.mark.parametrize("name", ["mean-scale-small", "jpeg"])
def test_many_at_once_are_coded_as_one_by_one_and_in_order(codec, name):
    coder = codec if name == "mean-scale-small" else Jpeg(40)
    images = [torch.rand(3, 40 + 30 * (i % 3), 90 - 20 * (i % 2)) for i in range(7)]
    data = list(encode_many(coder, iter(images), workers=3))
    assert data == [encode(coder, image) for image in images]
    for x_hat, coded in zip(decode_many(coder, iter(data), workers=3), data, strict=True):
        assert torch.equal(x_hat, decode(coder, coded)) and not x_hat.is_inference()


def test_a_picture_coded_while_another_is_leaves_the_number_of_threads_as_it_was(codec):
    image, inside, go, before = torch.rand(3, 64, 64), threading.Event(), threading.Event(), torch.get_num_threads()
    slow = copy.deepcopy(codec)

    def compress(x):
        inside.set()
        assert go.wait(30)
        return type(slow).compress(slow, x)

    slow.compress = compress
    try:
        torch.set_num_threads(2)
        with ThreadPoolExecutor(1) as pool:
            other = pool.submit(encode, slow, image)
            assert inside.wait(30)
            data, threads = encode(codec, image), torch.get_num_threads()
            go.set()
            assert other.result() == data
        assert threads == torch.get_num_threads() == 2
        assert list(encode_many(codec, [image] * 4, workers=2)) == [data] * 4
        assert ThreadPoolExecutor(1).submit(torch.get_num_threads).result() == 2
    finally:
        torch.set_num_threads(before)


def test_pictures_are_asked_for_only_a_few_ahead(codec):
    asked = []

    def images():
        for i in range(20):
            asked.append(i)
            yield torch.rand(3, 64, 64)

    first = next(encode_many(codec, images(), workers=2))
    assert len(first) > 46 and len(asked) == 3


def test_one_broken_picture_of_many_is_told_at_its_turn(codec):
    data = [encode(codec, torch.rand(3, 64, 64)) for _ in range(3)]
    decoded = decode_many(codec, [data[0], data[1][:-9], data[2]], workers=2)
    assert next(decoded).shape == (3, 64, 64)
    with pytest.raises(BitstreamError, match="checksum differs"):
        next(decoded)
    assert torch.equal(decode(codec, data[2]), next(decode_many(codec, data[2:])))
