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
from PIL import Image
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
        if self.quality not in range(1, 101):
            raise ValueError(f"JPEG quality is a whole number from 1 to 100, not {self.quality!r}.")

    def encode(self, image: Tensor) -> bytes:
        """The JFIF file of a picture, (3, H, W) in [0, 1], rounded to 8 bits first."""
        file = io.BytesIO()
        Image.fromarray(_pixels(image)).save(file, "JPEG", quality=self.quality, subsampling="4:2:0", optimize=True)
        return file.getvalue()

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
class Png:
    """PNG by Pillow, lossless for 8-bit pictures: the uncompressed end of every curve, and what losslessness costs.

    >>> image = (torch.rand(3, 5, 7) * 255).round() / 255
    >>> torch.equal(Png().decode(Png().encode(image)), image)
    True
    """

    name: ClassVar[str] = "png"

    def encode(self, image: Tensor) -> bytes:
        """The PNG file of a picture, (3, H, W) in [0, 1], rounded to 8 bits first."""
        file = io.BytesIO()
        Image.fromarray(_pixels(image)).save(file, "PNG", optimize=True)
        return file.getvalue()

    def decode(self, data: bytes) -> Tensor:
        """The picture in a PNG file, (3, H, W) float32 in [0, 1], on the CPU.

        Raises:
            BitstreamError: no PNG, damaged (each part has its checksum), or more than `MAX_PIXELS`.
        """
        return _read(data, "PNG")


def _pixels(image: Tensor) -> np.ndarray:
    return (image * 255).round().to(torch.uint8).permute(1, 2, 0).cpu().numpy()  # (3, H, W) -> (H, W, 3)


def _read(data: bytes, kind: str) -> Tensor:
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
