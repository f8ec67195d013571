"""Classical anchors: JPEG's successors as real files, HEVC and VVC through ffmpeg, and errors instead of wrong pictures."""

import importlib.util
import io
import os
import random
import sys
import types
import zlib

import numpy as np
import pytest
import torch
from PIL import Image, features
from torch import Tensor

from icm_helpers.codecs import ffmpeg
from icm_helpers.codecs.classical import Avif, Jpeg, Png, Webp
from icm_helpers.codecs.container import BitstreamError, decode, encode
from icm_helpers.data import scenes

SETTINGS = {Webp: (10, 60, 100), Avif: (10, 60, 100), ffmpeg.Hevc: (45, 30, 0), ffmpeg.Vvc: (52, 34, 0)}  # worst first
WITH_FFMPEG = pytest.mark.skipif(importlib.util.find_spec("imageio_ffmpeg") is None, reason="needs the extra `anchors`")
STILL = [pytest.param(codec, id=codec.name) for codec in (Webp, Avif)]
VIDEO = [pytest.param(codec, id=codec.name, marks=WITH_FFMPEG) for codec in (ffmpeg.Hevc, ffmpeg.Vvc)]


def colourful(height: int, width: int) -> Tensor:
    """Red, green, blue, yellow, cyan and magenta in the corners and between them, without edges that 4:2:0 would blur."""
    x, y = torch.linspace(0, 1, width).expand(height, -1), torch.linspace(0, 1, height)[:, None].expand(-1, width)
    return torch.stack([x, y, 1 - x * y])


def picture(scene: scenes.Scene) -> Tensor:
    return torch.from_numpy(scene.image).permute(2, 0, 1).float() / 255


def psnr(x: Tensor, x_hat: Tensor) -> float:
    return -10 * torch.log10((x - x_hat).square().mean()).item()


def with_crc(body: bytes) -> bytes:
    return body + zlib.crc32(body).to_bytes(4, "little")


@pytest.mark.parametrize("size", [(1, 1), (7, 5), (33, 50)], ids=str)
@pytest.mark.parametrize("codec", STILL + VIDEO)
def test_any_size_comes_back_and_equal_pictures_give_equal_bytes(codec, size):
    codec, image = codec(SETTINGS[codec][1]), torch.rand(3, *size)
    data = encode(codec, image)
    x_hat = decode(codec, data)
    assert x_hat.shape == image.shape and x_hat.dtype == torch.float32 and 0 <= x_hat.min() <= x_hat.max() <= 1
    assert encode(codec, image) == data and torch.equal(decode(codec, data), x_hat)


@pytest.mark.parametrize("codec", STILL + VIDEO)
def test_at_the_best_setting_no_colour_moves(codec):
    codec, image = codec(SETTINGS[codec][-1]), colourful(65, 96)
    x_hat = decode(codec, encode(codec, image))
    torch.testing.assert_close(x_hat, image, atol=0.04, rtol=0)
    torch.testing.assert_close(x_hat.mean((1, 2)), image.mean((1, 2)), atol=0.004, rtol=0)


@pytest.mark.parametrize("codec", STILL + VIDEO)
def test_a_better_setting_costs_bytes_and_brings_psnr(codec):
    image = picture(scenes.scene(1, 96))
    coded = [encode(codec(setting), image) for setting in SETTINGS[codec]]
    qualities = [psnr(image, decode(codec(SETTINGS[codec][0]), data)) for data in coded]
    assert len(coded[0]) < len(coded[1]) < len(coded[2]) and qualities[0] + 2 < qualities[1] < qualities[2] - 2


@pytest.mark.parametrize("codec", STILL + VIDEO)
def test_bytes_missing_left_over_or_of_another_format_raise(codec):
    codec, image = codec(SETTINGS[codec][1]), colourful(20, 30)
    data = encode(codec, image)
    for broken in (b"", data[:7], data[: len(data) // 2], data[:-1], data + b"\0", data + data, encode(Png(), image)):
        with pytest.raises(BitstreamError):
            decode(codec, broken)


def test_bytes_after_a_png_raise():
    with pytest.raises(BitstreamError, match="followed by other bytes"):
        decode(Png(), encode(Png(), colourful(20, 30)) + b"\0")


@pytest.mark.parametrize("codec", STILL + VIDEO)
def test_settings_out_of_range_are_refused(codec):
    for setting in (-1, 101, 30.5):
        with pytest.raises(ValueError, match="is a whole number from 0 to"):
            codec(setting)


@pytest.mark.parametrize("codec", STILL)
def test_files_are_what_any_viewer_opens(codec):
    with Image.open(io.BytesIO(encode(codec(60), colourful(20, 30)))) as file:
        assert (file.format, file.size, file.mode) == (codec.name.upper(), (30, 20), "RGB")


def test_newer_formats_need_fewer_bytes_than_jpeg_at_a_higher_psnr():
    image = picture(scenes.scene(3))
    jpeg, webp, avif = (encode(codec, image) for codec in (Jpeg(30), Webp(30), Avif(35)))
    assert len(avif) < len(webp) < len(jpeg)
    assert psnr(image, decode(Jpeg(30), jpeg)) < min(
        psnr(image, decode(Webp(30), webp)), psnr(image, decode(Avif(35), avif))
    )


@pytest.mark.parametrize("codec", STILL)
def test_a_pillow_without_the_format_is_named(codec, monkeypatch):
    codec = codec(50)
    data = encode(codec, colourful(8, 8))
    monkeypatch.setattr(features, "check", lambda feature: False)
    for call in (lambda: encode(codec, colourful(8, 8)), lambda: decode(codec, data)):
        with pytest.raises(ImportError, match=f"built without {codec.name.upper()}"):
            call()


def test_a_picture_too_wide_for_webp_is_refused():
    with pytest.raises(ValueError, match="sides end at 16383"):
        encode(Webp(50), torch.zeros(3, 1, 16384))


# ------------------------------------------------------------------------------------------------------- HEVC and VVC


@pytest.mark.parametrize("codec", VIDEO)
def test_every_flipped_bit_raises(codec):
    data, dice = encode(codec(40), colourful(20, 30)), random.Random(0)
    for i in range(len(data)):
        with pytest.raises(BitstreamError):
            decode(codec(40), data[:i] + bytes([data[i] ^ 1 << dice.randrange(8)]) + data[i + 1 :])


@pytest.mark.parametrize("codec", VIDEO)
def test_forged_headers_and_streams_raise(codec):
    data = encode(codec(40), colourful(40, 40))[:-4]
    sizes = [np.array(size, "<u2").tobytes() for size in ((64, 40, 1), (40, 40, 2), (0, 40, 1), (65535, 65535, 1))]
    for forged in (*(data[:4] + size + data[10:] for size in sizes), data[:10], data[:10] + bytes(50), data[:40]):
        with pytest.raises(BitstreamError, match="forged"):
            decode(codec(40), with_crc(forged))


@pytest.mark.parametrize("codec", VIDEO)
def test_what_follows_the_header_is_a_stream_whose_colours_ffmpeg_knows(codec):
    image = colourful(64, 96)
    stream = encode(codec(4), image)[10:-4]
    played = ffmpeg._ffmpeg(f"-f {codec.name} -i pipe:0 -f rawvideo -pix_fmt rgb24 pipe:1".split(), stream, 64 * 96)
    x_hat = torch.from_numpy(np.frombuffer(played, np.uint8).reshape(64, 96, 3).copy()).permute(2, 0, 1) / 255
    torch.testing.assert_close(x_hat, image, atol=0.05, rtol=0)


@pytest.mark.parametrize("codec", VIDEO)
def test_nothing_that_an_encoder_says_is_counted(codec):
    data = encode(codec(40), torch.full((3, 64, 64), 0.4))
    assert len(data) < 100 and b"x265" not in data and b"warning" not in data


@pytest.mark.parametrize("codec", VIDEO)
def test_inter_coding_beats_intra_coding_of_each_frame(codec):
    frames = torch.stack([picture(scene) for scene in scenes.video(1, 6, 96)])  # (T, 3, H, W)
    inter, intra = codec(28), codec(36)
    data, pictures = inter.encode_video(frames), [intra.encode(frame) for frame in frames]
    x_hat = inter.decode_video(data)
    assert x_hat.shape == frames.shape and inter.encode_video(frames) == data
    assert all(
        psnr(frames[t], x_hat[t]) == max(psnr(frame, x_hat[t]) for frame in frames) for t in range(6)
    )  # in order
    assert len(data) < sum(map(len, pictures))
    assert psnr(frames, x_hat) > psnr(frames, torch.stack([intra.decode(picture) for picture in pictures]))


@pytest.mark.parametrize("size", [(1, 1, 1), (3, 7, 5), (2, 33, 50)], ids=str)
@pytest.mark.parametrize("codec", VIDEO)
def test_a_video_of_any_size_comes_back_and_a_cut_one_raises(codec, size):
    count, height, width = size
    frames = torch.stack([colourful(height, width)] * count)
    data = codec(30).encode_video(frames)
    assert codec(30).decode_video(data).shape == frames.shape
    with pytest.raises(BitstreamError, match="checksum"):
        codec(30).decode_video(data[:-9])
    if count > 1:
        with pytest.raises(BitstreamError, match=f"{count} frames, not one picture"):
            codec(30).decode(data)


@pytest.mark.parametrize(
    "frames",
    [
        torch.rand(3, 8, 8),
        torch.rand(0, 3, 8, 8),
        torch.rand(2, 1, 8, 8),
        torch.rand(1, 3, 8, 8) + 1,
        torch.zeros(2, 3, 8, 8).double(),
        torch.full((1, 3, 8, 8), torch.nan),
        torch.zeros(1).expand(1, 3, 1, 65536),
    ],
    ids=["picture", "none", "grey", "bright", "double", "nan", "wide"],
)
def test_what_is_no_video_is_refused(frames):
    with pytest.raises(ValueError, match=r"video|image|pixels"):
        ffmpeg.Hevc(30).encode_video(frames)


@WITH_FFMPEG
def test_a_picture_of_more_bytes_than_libvvenc_may_write_is_named():
    with pytest.raises(RuntimeError, match=r"More than 8 bits a pixel\? Use a higher QP"):
        ffmpeg.Vvc(0).encode(torch.rand(3, 64, 64))


@pytest.fixture
def fake_ffmpeg(tmp_path, monkeypatch):
    """Puts a shell script in place of ffmpeg; needs no imageio-ffmpeg."""

    def install(script: str) -> None:
        path = tmp_path / "ffmpeg"
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)
        monkeypatch.setitem(sys.modules, "imageio_ffmpeg", types.SimpleNamespace(get_ffmpeg_exe=lambda: str(path)))

    return install


def test_an_ffmpeg_without_the_encoder_is_named(fake_ffmpeg):
    for complaint in ("Unknown encoder 'libvvenc'", "Unrecognized option 'qpa'."):  # the first that it stumbles over
        fake_ffmpeg(f'echo "{complaint}" >&2; exit 8')
        with pytest.raises(ImportError, match=r"lacks the codec in .*ffmpeg .*libvvenc.* install imageio-ffmpeg 0.8"):
            ffmpeg.Vvc(30).encode(colourful(8, 8))


def test_what_ffmpeg_said_is_quoted_when_it_fails(fake_ffmpeg):
    fake_ffmpeg("echo no space left >&2; exit 3")
    with pytest.raises(RuntimeError, match=r"status 3\. It said: no space left"):
        ffmpeg.Hevc(30).encode(colourful(8, 8))


def test_an_ffmpeg_that_hangs_is_stopped_and_gone(fake_ffmpeg, tmp_path, monkeypatch):
    fake_ffmpeg(f"echo $$ > {tmp_path}/pid; exec sleep 60")
    monkeypatch.setattr(ffmpeg, "TIMEOUT", 0.5)
    with pytest.raises(TimeoutError, match=r"stopped after 0.602 s: `.*libx265.*TIMEOUT"):
        ffmpeg.Hevc(30).encode(colourful(32, 32))
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)


def test_the_package_is_needed_to_code_but_not_to_import(monkeypatch):
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)
    module = importlib.reload(ffmpeg)
    with pytest.raises(ImportError, match=r"install the extra `anchors`"):
        module.Hevc(30).encode(colourful(8, 8))
