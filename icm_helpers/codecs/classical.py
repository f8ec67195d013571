"""Classical anchors: codecs that everybody has, behind the same `container.encode` and `container.decode`.

Each is a small frozen class with its settings as fields, `encode(image) -> bytes` and `decode(data) -> image`. The
bytes are the format's own file, header and all, with nothing added: what a user would store is what counts as rate.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from PIL import Image, features
from torch import Tensor

from icm_helpers.codecs.container import MAX_PIXELS, BitstreamError


@dataclass(frozen=True)
class Jpeg:
    """JPEG (ITU-T T.81) by Pillow: 4:2:0, optimized Huffman tables, a JFIF file that any viewer opens.

    JPEG carries no checksum. A missing end and a broken structure raise `BitstreamError`; a flipped bit inside the
    coded data may go unnoticed and decode to another picture. Only the container's own format has a checksum.

    Args:
        quality: 1 (smallest) to 100, the scale of the Independent JPEG Group's quantisation tables.

    Raises:
        ValueError: quality out of range.

    >>> image = torch.rand(3, 5, 7)
    >>> Jpeg(90).decode(Jpeg(90).encode(image)).shape
    torch.Size([3, 5, 7])
    """

    quality: int
    name: ClassVar[str] = "jpeg"

    def __post_init__(self) -> None:
        _check_quality("JPEG", self.quality, lowest=1)

    def encode(self, image: Tensor) -> bytes:
        """The JFIF file of a picture, (3, H, W) in [0, 1], rounded to 8 bits first."""
        return _write(image, "JPEG", quality=self.quality, subsampling="4:2:0", optimize=True)

    def decode(self, data: bytes) -> Tensor:
        """The picture in a JPEG file, (3, H, W) float32 in [0, 1], on the CPU.

        Raises:
            BitstreamError: no JPEG, cut short, followed by other bytes, not in colour, or more than `MAX_PIXELS`.
        """
        if data[:2] != b"\xff\xd8" or data[-2:] != b"\xff\xd9":
            raise BitstreamError(
                "no start or no end marker of JPEG: no JPEG file, cut short, or followed by other bytes."
            )
        return _read(data, "JPEG")


@dataclass(frozen=True)
class Webp:
    """WebP (RFC 9649) by Pillow, lossy: the intra coding of VP8, 4:2:0, at the encoder's most thorough method.

    WebP carries its length and no checksum. Bytes missing or left over raise `BitstreamError`; a changed one inside the
    coded data may go unnoticed and decode to another picture.

    Args:
        quality: 0 (smallest) to 100.

    Raises:
        ValueError: quality out of range.

    >>> Webp(80).decode(Webp(80).encode(torch.rand(3, 5, 7))).shape
    torch.Size([3, 5, 7])
    """

    quality: int
    name: ClassVar[str] = "webp"

    def __post_init__(self) -> None:
        _check_quality("WebP", self.quality, lowest=0)

    def encode(self, image: Tensor) -> bytes:
        """The WebP file of a picture, (3, H, W) in [0, 1], rounded to 8 bits first.

        Raises:
            ImportError: Pillow was built without WebP.
            ValueError: a side above 16383, where the format ends.
        """
        if max(image.shape) > 16383:
            raise ValueError(
                f"a picture of {image.shape[1]} x {image.shape[2]}: WebP's sides end at 16383. Code tiles."
            )
        return _write(image, "WEBP", quality=self.quality, method=6)

    def decode(self, data: bytes) -> Tensor:
        """The picture in a WebP file, (3, H, W) float32 in [0, 1], on the CPU.

        Raises:
            BitstreamError: no WebP, cut short, followed by other bytes, not in colour, or more than `MAX_PIXELS`.
            ImportError: Pillow was built without WebP.
        """
        if data[:4] != b"RIFF" or int.from_bytes(data[4:8], "little") != len(data) - 8:
            raise BitstreamError(
                "no RIFF header with this length: no WebP file, cut short, or followed by other bytes."
            )
        return _read(data, "WEBP")


@dataclass(frozen=True)
class Avif:
    """AVIF by Pillow: the intra coding of AV1 by libaom, 4:2:0, at speed 6 and on one thread, so equal pictures give equal bytes.

    The encoder minimises squared error, as those of `ffmpeg` do here, instead of its default, an estimate of what people see.
    The file's boxes alone take about 300 bytes, which counts in a small picture. AVIF carries no checksum: bytes missing or left
    over raise `BitstreamError`; a changed one inside the coded data may go unnoticed and decode to another picture.

    Args:
        quality: 0 (smallest) to 100.

    Raises:
        ValueError: quality out of range.

    >>> Avif(80).decode(Avif(80).encode(torch.rand(3, 5, 7))).shape
    torch.Size([3, 5, 7])
    """

    quality: int
    name: ClassVar[str] = "avif"

    def __post_init__(self) -> None:
        _check_quality("AVIF", self.quality, lowest=0)

    def encode(self, image: Tensor) -> bytes:
        """The AVIF file of a picture, (3, H, W) in [0, 1], rounded to 8 bits first.

        Raises:
            ImportError: Pillow was built without AVIF.
        """
        one_thread = {"max_threads": 1, "autotiling": False}
        how = {"codec": "aom", "speed": 6, "subsampling": "4:2:0", "advanced": {"tune": "psnr"}}
        return _write(image, "AVIF", quality=self.quality, **how, **one_thread)

    def decode(self, data: bytes) -> Tensor:
        """The picture in an AVIF file of the boxes that `encode` writes, (3, H, W) float32 in [0, 1], on the CPU.

        Raises:
            BitstreamError: no AVIF, cut short, followed by other bytes, not in colour, or more than `MAX_PIXELS`.
            ImportError: Pillow was built without AVIF.
        """
        kinds, end = [], 0
        while end + 8 <= len(data):  # a file is a row of boxes, each of which begins with its length and its kind
            kinds.append(data[end + 4 : end + 8])
            end += max(8, int.from_bytes(data[end : end + 4], "big"))
        if kinds != [b"ftyp", b"meta", b"mdat"] or end != len(data):
            raise BitstreamError("not three boxes of AVIF to the last byte: no such file, cut short, or too long.")
        return _read(data, "AVIF")


@dataclass(frozen=True)
class Png:
    """PNG by Pillow, lossless for 8-bit pictures: the uncompressed end of every curve, and what losslessness costs.

    >>> image = (torch.rand(3, 5, 7) * 255).round() / 255
    >>> torch.equal(Png().decode(Png().encode(image)), image)
    True
    """

    name: ClassVar[str] = "png"

    def encode(self, image: Tensor) -> bytes:
        """The PNG file of a picture, (3, H, W) in [0, 1], rounded to 8 bits first."""
        return _write(image, "PNG", optimize=True)

    def decode(self, data: bytes) -> Tensor:
        """The picture in a PNG file, (3, H, W) float32 in [0, 1], on the CPU.

        Raises:
            BitstreamError: no PNG, damaged (each part has its checksum), followed by other bytes, or more than `MAX_PIXELS`.
        """
        if data[-12:] != b"\0\0\0\0IEND\xaeB`\x82":
            raise BitstreamError("no end of PNG at the end: no PNG file, cut short, or followed by other bytes.")
        return _read(data, "PNG")


def _check_quality(kind: str, quality: int, lowest: int) -> None:
    if quality not in range(lowest, 101):
        raise ValueError(f"{kind} quality is a whole number from {lowest} to 100, not {quality!r}.")


def _check_support(kind: str) -> None:
    if kind in ("WEBP", "AVIF") and not features.check(kind.lower()):
        raise ImportError(f"this Pillow was built without {kind}: install Pillow 11.3 or newer from its binary wheel.")


def _write(image: Tensor, kind: str, **options: object) -> bytes:
    _check_support(kind)
    pixels = (image * 255).round().to(torch.uint8).permute(1, 2, 0).cpu().numpy()  # (3, H, W) -> (H, W, 3)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind, **options)
    return file.getvalue()


def _read(data: bytes, kind: str) -> Tensor:
    _check_support(kind)
    try:
        with Image.open(io.BytesIO(data), formats=[kind]) as file:
            if file.mode != "RGB" or file.width * file.height > MAX_PIXELS:
                raise BitstreamError(f"{file.mode}, {file.height} x {file.width}: not colour, or above {MAX_PIXELS}.")
            pixels = np.array(file)  # (H, W, 3)
    except BitstreamError:
        raise
    except Exception as error:  # Pillow raises OSError, SyntaxError, struct.error and more on broken files
        raise BitstreamError(f"Pillow cannot read the {kind} file ({error}): it is damaged.") from error
    return torch.from_numpy(pixels).permute(2, 0, 1).float() / 255  # (H, W, 3) -> (3, H, W)
