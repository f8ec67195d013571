"""Picture files: one place opens them, and refuses, with the file's name, what it cannot give as a viewer shows it."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from icm_helpers.data import DataError, blamed

_log = logging.getLogger(__name__)

_TURN = Image.Transpose
_TURNS = (_TURN.FLIP_LEFT_RIGHT, _TURN.ROTATE_180, _TURN.FLIP_TOP_BOTTOM, _TURN.TRANSPOSE)
_TURNS += (_TURN.ROTATE_270, _TURN.TRANSVERSE, _TURN.ROTATE_90)
_ORIENTATIONS = dict(enumerate(_TURNS, start=2))  # EXIF's, and how they are put right


def read(path: Path | str, size: tuple[int, int] | None = None) -> np.ndarray:
    """The pixels of a picture file, (H, W, 3) uint8, of any mode that Pillow opens with a known range, turned as its EXIF says.

    Transparency is shown on white, and 16 bits are cut to 8. `size` is the width and height on which annotations were drawn:
    annotation tools differ in whether they honour EXIF, so the picture is turned where this gives that size (for a half turn
    too, as OpenCV does), and left alone where only the stored pixels have it. DataError where the file is missing, damaged or
    too large, where it has several frames, or samples whose range it does not tell.
    """
    path = Path(path)
    if not path.is_file():
        raise DataError(f"image {path} is missing: correct the path, or fetch it again")
    # Pillow raises OSError, SyntaxError, struct.error, zlib.error and more on broken files.
    with blamed(f"image {path} cannot be decoded", "give a whole image file", Exception), Image.open(path) as stored:
        if Image.MAX_IMAGE_PIXELS and stored.width * stored.height > Image.MAX_IMAGE_PIXELS:
            told = f"image {path} has {stored.width} x {stored.height} pixels"
            raise DataError(f"{told}, more than {Image.MAX_IMAGE_PIXELS}: cut it into tiles")
        if getattr(stored, "is_animated", False):
            if stored.format != "MPO":  # a camera's JPEG with a preview or a depth map behind the photograph
                told = f"image {path} has {stored.n_frames} frames or pages"
                raise DataError(f"{told}: save the one that you mean to a file of its own, or code it as a video")
            _log.warning("%s holds %d pictures: the first is taken", path, stored.n_frames)
        if any(";16" in f"{how}" or (kind.startswith("ppm") and how[-1] > 255) for kind, _, _, how in stored.tile):
            _log.warning("%s has 16 bits a sample: it is cut to 8", path)
        stored.load()
        turn = _ORIENTATIONS.get(_orientation(stored))
        turned = stored if turn is None else stored.transpose(turn)
        return _rgb(turned if size in (None, turned.size) else stored, path, stored)


def _orientation(image: Image.Image) -> int:
    try:
        return image.getexif().get(0x0112, 1)
    except Exception:  # broken metadata raises anything; the pixels are sound
        return 1


def _rgb(image: Image.Image, path: Path, file: Image.Image) -> np.ndarray:
    if image.mode.startswith("I;16") and "transparency" not in file.info:
        tags = getattr(file, "tag_v2", {})  # of a TIFF: bits a sample, and whether 0 is black
        if (tags.get(258, (16,)), tags.get(262, 1)) == ((16,), 1):
            grey = (np.asarray(image) >> 8).astype(np.uint8)  # convert("RGB") would clip at 255
            return np.stack([grey] * 3, axis=-1)
    if image.mode[0] in "IF":
        told = f"image {path} has samples of mode {image.mode}, and does not tell what is black and what is white"
        raise DataError(f"{told}: save it with 8 bits a sample, or with 16 and 0 as black")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        if image.getextrema()[3][0] < 255:
            _log.warning("%s is transparent: it is shown on white", path)
            image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return np.array(image.convert("RGB"))


def load_picture(path: Path | str) -> Tensor:
    """Read a picture file for codecs and detectors, (3, H, W) float32 in [0, 1]; a DataError names a file that is no
    picture."""
    return tensor(read(path))


def tensor(pixels: np.ndarray) -> Tensor:
    """Pixels (H, W, 3) uint8 as a picture, (3, H, W) float32 in [0, 1]: the inverse of :func:`pixels`."""
    return torch.from_numpy(pixels).permute(2, 0, 1).float() / 255


def pixels(x: Tensor) -> np.ndarray:
    """A picture (3, H, W) in [0, 1], on any device, rounded to 8 bits: (H, W, 3) uint8.

    >>> pixels(torch.full((3, 1, 2), 0.5)).tolist()
    [[[128, 128, 128], [128, 128, 128]]]
    """
    return (x * 255).round().byte().permute(1, 2, 0).numpy(force=True)
