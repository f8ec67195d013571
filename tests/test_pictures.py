"""Picture files of every kind: the pixels that a viewer shows, or an error that names the file; never a silent change."""

import io
import struct

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageOps, features

from icm_helpers.data import DataError, pictures

RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, (9, 7, 3), np.uint8)
COLOUR = Image.fromarray(PIXELS)
KINDS = {
    "PNG": {},
    "JPEG": {},
    "GIF": {},
    "BMP": {},
    "TIFF": {},
    "PPM": {},
    "TGA": {},
    "JPEG2000": {},
    "WEBP": {"lossless": True},
}
KINDS = {kind: how for kind, how in KINDS.items() if kind != "JPEG2000" or features.check("jpg_2000")}


def saved(path, image, kind, **how):
    image.save(path, kind, **how)
    return path


@given(
    st.sampled_from(
        ["1", "L", "P", "RGB", "CMYK", "YCbCr", "LAB", "HSV", "LA", "PA", "RGBA", "RGBX", "I", "F", "I;16", "I;16B"]
    ),
    st.sampled_from(["PNG", "TIFF", "BMP", "GIF", "JPEG", "WEBP", "TGA"]),
    st.integers(1, 20),
    st.integers(1, 20),
    st.integers(0, 2**32 - 1),
)
def test_a_picture_of_any_mode_and_size_gives_its_pixels_or_is_refused_by_name(
    tmp_path, mode, kind, height, width, seed
):
    rng = np.random.default_rng(seed)
    whole = Image.fromarray(rng.integers(0, 256, (height, width, 4), np.uint8), "RGBA")
    path = tmp_path / "picture"
    try:
        if mode.startswith("I;16"):
            image = Image.new(mode, (width, height))
            image.putdata(rng.integers(0, 65536, height * width).tolist())
        else:
            through = (
                whole.convert("L")
                if mode in "IF"
                else whole.convert("RGB")
                if mode in ("CMYK", "LAB", "HSV", "1")
                else whole
            )
            image = through.convert(mode)
        image.save(path, kind, lossless=True)
    except (OSError, ValueError, KeyError):  # Pillow converts or writes no such picture
        return
    if Image.open(path).mode in ("I", "F"):
        with pytest.raises(DataError, match="picture has samples of mode"):
            pictures.read(path)
        return
    found = pictures.read(path)
    assert found.shape == (height, width, 3) and found.dtype == np.uint8
    with Image.open(path) as stored:
        if stored.mode.startswith("I;16"):
            expected = np.stack([np.asarray(stored) // 256] * 3, -1)
        else:
            shown = stored.convert("RGBA")
            opaque, alpha = (np.asarray(x).astype(float) for x in (shown.convert("RGB"), shown.getchannel("A")))
            expected = (opaque * alpha[..., None] + 255 * (255 - alpha[..., None])) / 255
    assert np.abs(found - expected).max() <= 1


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "L", "RGB"])
def test_what_is_transparent_is_shown_on_white_and_said(mode, tmp_path, caplog):
    hidden = {"RGBA": (0, 255, 0, 0), "LA": (90, 0), "P": 0, "L": 90, "RGB": (0, 255, 0)}[mode]
    how = {} if len(mode) == 4 or mode == "LA" else {"transparency": hidden}
    path = saved(tmp_path / "clear.png", Image.new(mode, (4, 3), hidden), "PNG", **how)
    assert (pictures.read(path) == 255).all()
    assert "clear.png is transparent: it is shown on white" in caplog.text


def test_an_opaque_alpha_channel_changes_nothing_and_is_not_told(tmp_path, caplog):
    path = saved(tmp_path / "opaque.png", Image.fromarray(np.dstack([PIXELS, np.full((9, 7), 255, np.uint8)])), "PNG")
    assert (pictures.read(path) == PIXELS).all() and not caplog.text


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF"])
def test_several_frames_or_pages_are_refused(kind, tmp_path):
    frames = [Image.new("RGB", (8, 6), colour) for colour in ("red", "green", "blue")]
    path = saved(tmp_path / "several", frames[0], kind, save_all=True, append_images=frames[1:])
    with pytest.raises(DataError, match="several has 3 frames or pages: save the one that you mean"):
        pictures.read(path)


def test_of_a_camera_s_file_with_a_preview_the_photograph_is_taken_and_said(tmp_path, caplog):
    path = saved(tmp_path / "photo.jpg", COLOUR, "MPO", save_all=True, append_images=[Image.new("RGB", (3, 2))])
    assert pictures.read(path).shape == (9, 7, 3)
    assert "photo.jpg holds 2 pictures: the first is taken" in caplog.text


def broken_exif(orientation: int) -> bytes:
    """EXIF with an orientation, and a rational number whose two numbers are not there."""
    tags = struct.pack("<HHHIHH", 2, 0x0112, 3, 1, orientation, 0) + struct.pack("<HHII", 0x011A, 5, 1, 9999)
    return b"Exif\0\0II*\0\x08\0\0\0" + tags + b"\0\0\0\0"


@pytest.mark.parametrize(
    "exif", [broken_exif(6), b"Exif\0\0", b"Exif\0\0II*\0\xff\xff\xff\xff", b"Exif\0\0rubbish" * 9]
)
def test_broken_metadata_does_not_spoil_sound_pixels(exif, tmp_path):
    path = saved(tmp_path / "photo.jpg", COLOUR, "JPEG", exif=exif)
    assert pictures.read(path).shape in ((9, 7, 3), (7, 9, 3))


def test_the_orientation_is_read_beside_broken_metadata(tmp_path):
    path = saved(tmp_path / "photo.jpg", COLOUR, "JPEG", exif=broken_exif(6))
    assert (pictures.read(path) == np.rot90(np.asarray(Image.open(path)), -1)).all()


@pytest.mark.parametrize("orientation", range(10))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP"])
def test_every_orientation_is_turned_as_pillow_turns_it(orientation, kind, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = saved(tmp_path / "photo", COLOUR, kind, exif=exif)
    with Image.open(path) as stored:
        assert (pictures.read(path) == np.asarray(ImageOps.exif_transpose(stored).convert("RGB"))).all()


@given(st.sampled_from(sorted(KINDS)), st.data())
def test_a_cut_file_is_refused_or_whole_and_a_changed_one_raises_nothing_else(tmp_path, kind, data):
    whole = io.BytesIO()
    COLOUR.save(whole, kind, **KINDS[kind])
    content, path = whole.getvalue(), tmp_path / "file"
    path.write_bytes(content)
    expected = pictures.read(path)
    at = data.draw(st.integers(0, len(content) - 1))
    path.write_bytes(content[:at])
    try:
        found = pictures.read(path)
    except DataError as error:
        assert str(path) in str(error)
    else:
        assert (found == expected).all()
    changed = bytearray(content)
    for _ in range(data.draw(st.integers(1, 4))):
        changed[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(changed)
    try:
        assert pictures.read(path).dtype == np.uint8
    except DataError as error:
        assert str(path) in str(error)


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize(
    ("size", "told"), [((8, 7), "has 8 x 7 pixels, more than 50"), ((80, 70), "decompression bomb")]
)
def test_a_picture_that_would_fill_the_memory_is_refused_by_its_header(size, told, tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 50)
    path = saved(tmp_path / "large.png", Image.new("RGB", size), "PNG")
    with pytest.raises(DataError, match=f"large.png.*{told}"):
        pictures.read(path)


def test_twelve_bits_or_white_as_zero_are_refused_rather_than_shown_dark_or_inverted(tmp_path):
    image = Image.new("I;16", (4, 3))
    for tag, value in ((262, 0), (258, 12)):
        path = saved(tmp_path / "scan.tif", image, "TIFF")
        content = bytearray(path.read_bytes())
        at = content.index(struct.pack("<H", tag))
        content[at + 8 : at + 10] = struct.pack("<H", value)
        path.write_bytes(content)
        with pytest.raises(DataError, match=r"scan\.tif"):
            pictures.read(path)


@pytest.mark.parametrize("missing", ["none.png", "."])
def test_a_missing_picture_is_named(missing, tmp_path):
    with pytest.raises(DataError, match="is missing: correct the path"):
        pictures.read(tmp_path / missing)


@pytest.mark.parametrize("kind", [".png", ".tiff", ".ppm"])
def test_colour_of_16_bits_is_said_to_be_cut_to_8(kind, tmp_path, caplog):
    path, deep = tmp_path / f"deep{kind}", PIXELS.astype(np.uint16) * 257
    cv2.imwrite(str(path), deep[..., ::-1])
    assert (pictures.read(path) == PIXELS).all() and "16 bits a sample" in caplog.text
