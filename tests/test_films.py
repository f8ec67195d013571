"""Video files: the frames that a player shows, and what is said of those that it cannot show."""

import io
import math
import struct

import av
import numpy as np
import pytest
import torch
from av.video.reformatter import Colorspace
from hypothesis import given, settings
from hypothesis import strategies as st

from icm_helpers.data import DataError, video

CORNERS = np.zeros((48, 64, 3), np.uint8)
CORNERS[:24, :32], CORNERS[:24, 32:], CORNERS[24:, :32] = (200, 50, 100), (30, 180, 60), (40, 60, 210)


def film(path, frames, codec="libx264", pixels="yuv444p", matrix=None, **more):
    """Writes frames (H, W, 3) uint8 at ten a second, without loss where the codec can."""
    with av.open(str(path), "w", options=more.pop("container", {})) as file:
        stream = file.add_stream(codec, rate=10, options={"qp": "0"} if codec == "libx264" else {})
        stream.height, stream.width, stream.pix_fmt = *frames[0].shape[:2], pixels
        for name, value in more.items():
            setattr(stream.codec_context, name, value)
        for picture in frames:
            frame = av.VideoFrame.from_ndarray(picture, "rgb24")
            if matrix is not None:
                frame = frame.reformat(format=pixels, src_colorspace=matrix, dst_colorspace=matrix)
            file.mux(stream.encode(frame))
        file.mux(stream.encode())
    return path


def turned(path, matrix):
    """The MP4 file with another matrix in its track's header."""
    content = bytearray(path.read_bytes())
    at = content.index(b"tkhd") + 4 + 4 + 20 + 8 + 8
    content[at : at + 36] = struct.pack(">9i", *matrix)
    path.write_bytes(content)
    return path


def shown(path, **how):
    frames = video.read(path, **how).frames
    return (frames * 255).round().byte().permute(0, 2, 3, 1).numpy()


ONE, ALL = 1 << 16, 1 << 30
TURNS = {
    "left alone": ((ONE, 0, 0, 0, ONE, 0, 0, 0, ALL), lambda x: x),
    "a quarter": ((0, ONE, 0, -ONE, 0, 0, 0, 0, ALL), lambda x: np.rot90(x, -1)),
    "a half": ((-ONE, 0, 0, 0, -ONE, 0, 0, 0, ALL), lambda x: np.rot90(x, 2)),
    "three quarters": ((0, -ONE, 0, ONE, 0, 0, 0, 0, ALL), lambda x: np.rot90(x, 1)),
    "mirrored": ((-ONE, 0, 0, 0, ONE, 0, 0, 0, ALL), lambda x: x[:, ::-1]),
    "upside down": ((ONE, 0, 0, 0, -ONE, 0, 0, 0, ALL), lambda x: x[::-1]),
    "transposed": ((0, ONE, 0, ONE, 0, 0, 0, 0, ALL), lambda x: x.transpose(1, 0, 2)),
}


@pytest.mark.parametrize("how", TURNS)
def test_a_film_is_turned_as_its_file_says(how, tmp_path):
    matrix, turn = TURNS[how]
    path = turned(film(tmp_path / "a.mp4", [CORNERS] * 2), matrix)
    found, expected = shown(path)[1], turn(CORNERS)
    assert found.shape == expected.shape and np.abs(found.astype(int) - expected).max() <= 4
    assert shown(path, height=24)[0].shape[0] == 24


def test_a_film_that_is_turned_askew_is_refused(tmp_path):
    c, s = (round(ONE * f(math.radians(30))) for f in (math.cos, math.sin))
    path = turned(film(tmp_path / "a.mp4", [CORNERS]), (c, s, 0, -s, c, 0, 0, 0, ALL))
    with pytest.raises(DataError, match=r"a\.mp4 is turned by an angle that is not a multiple of 90 degrees"):
        video.read(path)


@pytest.mark.parametrize("pixels", ["yuv420p", "yuv444p", "yuvj444p", "yuv420p10le", "yuv422p10le"])
@pytest.mark.parametrize(("matrix", "number"), [(Colorspace.ITU709, 1), (Colorspace.ITU601, 6)])
def test_colours_come_back_whatever_matrix_range_and_depth_a_film_has(matrix, number, pixels, tmp_path):
    plain = np.full((48, 64, 3), (200, 50, 100), np.uint8)
    path = film(tmp_path / "a.mp4", [plain], pixels=pixels, matrix=matrix, colorspace=number)
    assert np.abs(shown(path).astype(int) - plain).max() <= 4


@pytest.mark.parametrize(("height", "matrix"), [(48, Colorspace.ITU601), (720, Colorspace.ITU709)])
def test_a_film_that_names_no_matrix_is_taken_as_players_take_its_height(height, matrix, tmp_path):
    plain = np.full((height, 64, 3), (200, 50, 100), np.uint8)
    assert np.abs(shown(film(tmp_path / "a.mp4", [plain], matrix=matrix, colorspace=2)).astype(int) - plain).max() <= 4


def test_grey_and_palette_and_lossless_films_are_read(tmp_path):
    for name, codec, pixels in (("a.mkv", "ffv1", "gray"), ("b.mkv", "ffv1", "gray16le"), ("c.avi", "ffv1", "bgr0")):
        found = shown(film(tmp_path / name, [CORNERS] * 2, codec, pixels)).astype(int)
        grey = CORNERS @ [0.299, 0.587, 0.114]
        assert np.abs(found[0] - (CORNERS if pixels == "bgr0" else grey[..., None])).max() <= 4


@pytest.mark.parametrize("name", ["a.mkv", "a.avi"])
@pytest.mark.parametrize("kept", [0.5, 0.9])
def test_of_a_cut_film_is_said_how_many_frames_it_announces_and_how_many_there_are(name, kept, tmp_path, caplog):
    path = film(tmp_path / name, [np.roll(CORNERS, 3 * k, 1) for k in range(20)], "mjpeg", "yuvj444p")
    content = path.read_bytes()
    assert len(video.read(path)) == 20 and not caplog.text
    path.write_bytes(content[: int(len(content) * kept)])
    count = len(video.read(path))
    assert count < 20 and f"20 frames, {count} were decoded" in caplog.text


def test_a_film_of_which_only_the_first_frames_are_asked_for_announces_nothing(tmp_path, caplog):
    path = film(tmp_path / "a.mkv", [CORNERS] * 20)
    path.write_bytes(path.read_bytes()[:-200])
    assert len(video.read(path, 3)) == 3 and not caplog.text


def test_pixels_that_are_not_square_are_told(tmp_path, caplog):
    film(tmp_path / "a.mp4", [CORNERS], sample_aspect_ratio=2)
    video.read(tmp_path / "a.mp4")
    assert "has pixels of 2, which are taken as square" in caplog.text


@pytest.mark.parametrize("transfer", [16, 18])
def test_a_high_dynamic_range_is_refused(transfer, tmp_path):
    with pytest.raises(DataError, match="has a high dynamic range: convert"):
        video.read(film(tmp_path / "a.mp4", [CORNERS], pixels="yuv420p10le", color_trc=transfer))


def test_frames_of_two_sizes_are_refused(tmp_path):
    both = io.BytesIO()
    for k, size in enumerate(((48, 64), (24, 32))):
        both.write(film(tmp_path / f"{k}.h264", [np.zeros((*size, 3), np.uint8)] * 3).read_bytes())
    (tmp_path / "two.h264").write_bytes(both.getvalue())
    with pytest.raises(DataError, match=r"two\.h264 has frames of 64 x 48 and 32 x 24 pixels, from frame 3 on"):
        video.read(tmp_path / "two.h264")


def test_what_holds_no_film_is_refused(tmp_path):
    (tmp_path / "a.mp4").write_bytes(b"no film")
    with pytest.raises(DataError, match=r"a\.mp4 cannot be decoded as a video"):
        video.read(tmp_path / "a.mp4")
    with pytest.raises(DataError, match="is missing: correct the path"):
        video.read(tmp_path / "b.mp4")


@pytest.fixture(scope="module")
def content(tmp_path_factory):
    return film(tmp_path_factory.mktemp("films") / "a.mp4", [np.roll(CORNERS, 3 * k, 1) for k in range(5)]).read_bytes()


@settings(max_examples=settings.default.max_examples // 3)
@given(st.data())
def test_a_changed_film_gives_frames_or_an_error_that_names_it(content, tmp_path, data):
    changed, path = bytearray(content[: data.draw(st.integers(1, len(content)))]), tmp_path / "a.mp4"
    for _ in range(data.draw(st.integers(0, 4))):
        changed[data.draw(st.integers(0, len(changed) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(changed)
    try:
        assert torch.isfinite(video.read(path, 8).frames).all()
    except DataError as error:
        assert str(path) in str(error)
