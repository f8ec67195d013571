"""Classical anchors: codecs that everybody has, behind the same `container.encode` and `container.decode`. The bytes are the
format's own file, header and all, with nothing added: what a user would store is what counts as rate."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from PIL import Image, features
from torch import Tensor

from icm_helpers.codecs.container import MAX_PIXELS, BitstreamError
from icm_helpers.data.pictures import pixels, tensor


@dataclass(frozen=True)
class _Format:
    """What the formats share: Pillow reads and writes them, and what a whole file has, has a name."""

    name: ClassVar[str]
    options: ClassVar[dict[str, Any]]  # of Pillow's encoder
    mark: ClassVar[str]  # what a whole file has

    def encode(self, image: Tensor) -> bytes:
        """The file of a picture, (3, H, W) in [0, 1], rounded to 8 bits first; ImportError where Pillow was built without the
        format, ValueError where a side is longer than the format allows."""
        self._check_support()
        file = io.BytesIO()
        Image.fromarray(pixels(image)).save(file, self.name.upper(), **vars(self), **self.options)
        return file.getvalue()

    def decode(self, data: bytes) -> Tensor:
        """The picture in a file of `encode`, (3, H, W) float32 in [0, 1], on the CPU; BitstreamError for no such file, or one that
        is cut short, followed by other bytes, not in colour, or of more than `MAX_PIXELS`; ImportError as in `encode`."""
        kind = self.name.upper()
        if not self._whole(data):
            raise BitstreamError(f"no {self.mark}: no {kind} file, cut short, or followed by other bytes.")
        self._check_support()
        try:
            with Image.open(io.BytesIO(data), formats=[kind]) as file:
                found = f"{file.mode}, {file.height} x {file.width}"
                sound = file.mode == "RGB" and file.width * file.height <= MAX_PIXELS
                read = np.array(file) if sound else None  # (H, W, 3)
        except Exception as error:  # Pillow raises OSError, SyntaxError, struct.error and more on broken files
            raise BitstreamError(f"Pillow cannot read the {kind} file ({error}): it is damaged.") from error
        if read is None:
            raise BitstreamError(f"{found}: not colour, or above {MAX_PIXELS}.")
        return tensor(read)

    def _whole(self, data: bytes) -> bool:
        raise NotImplementedError

    def _check_support(self) -> None:
        if self.name in ("webp", "avif") and not features.check(self.name):
            cure = "install Pillow 11.3 or newer from its binary wheel"
            raise ImportError(f"this Pillow was built without {self.name.upper()}: {cure}.")


@dataclass(frozen=True)
class _Lossy(_Format):
    quality: int
    lowest: ClassVar[int] = 0

    def __post_init__(self) -> None:
        if self.quality not in range(self.lowest, 101):
            kind = self.name.upper()
            raise ValueError(f"{kind} quality is a whole number from {self.lowest} to 100, not {self.quality!r}.")


class Jpeg(_Lossy):
    """JPEG (ITU-T T.81) by Pillow: 4:2:0, optimized Huffman tables, a JFIF file that any viewer opens.

    `quality` is 1 (smallest) to 100, the scale of the Independent JPEG Group's quantisation tables, else ValueError. JPEG carries
    no checksum: a missing end and a broken structure raise `BitstreamError`; a flipped bit inside the coded data may go unnoticed
    and decode to another picture.

    >>> import torch
    >>> image = torch.rand(3, 5, 7)
    >>> Jpeg(90).decode(Jpeg(90).encode(image)).shape
    torch.Size([3, 5, 7])
    """

    name, lowest, mark = "jpeg", 1, "start or no end marker"
    options: ClassVar = {"subsampling": "4:2:0", "optimize": True}

    def _whole(self, data: bytes) -> bool:
        return data[:2] == b"\xff\xd8" and data[-2:] == b"\xff\xd9"


class Webp(_Lossy):
    """WebP (RFC 9649) by Pillow, lossy: the intra coding of VP8, 4:2:0, at the encoder's most thorough method; `quality` is 0
    (smallest) to 100, sides end at 16383. It carries its length and no checksum: see :class:`Jpeg`."""

    name, mark = "webp", "RIFF header with this length"
    options: ClassVar = {"method": 6}

    def encode(self, image: Tensor) -> bytes:
        if max(image.shape) > 16383:
            raise ValueError(f"{image.shape[1]} x {image.shape[2]} pixels: WebP's sides end at 16383. Code tiles.")
        return super().encode(image)

    def _whole(self, data: bytes) -> bool:
        return data[:4] == b"RIFF" and int.from_bytes(data[4:8], "little") == len(data) - 8


class Avif(_Lossy):
    """AVIF by Pillow: the intra coding of AV1 by libaom, 4:2:0, at speed 6 and on one thread, so equal pictures give equal bytes;
    `quality` is 0 (smallest) to 100. The encoder minimises squared error instead of its default, an estimate of what people see.
    The file's boxes alone take about 300 bytes, which counts in a small picture. It carries no checksum: see :class:`Jpeg`."""

    name, mark = "avif", "three boxes of AVIF to the last byte"
    options: ClassVar = {"codec": "aom", "speed": 6, "subsampling": "4:2:0", "advanced": {"tune": "psnr"}}
    options |= {"max_threads": 1, "autotiling": False}

    def _whole(self, data: bytes) -> bool:
        kinds, end = [], 0
        while end + 8 <= len(data):  # a file is a row of boxes, each of which begins with its length and its kind
            kinds.append(data[end + 4 : end + 8])
            end += max(8, int.from_bytes(data[end : end + 4], "big"))
        return kinds == [b"ftyp", b"meta", b"mdat"] and end == len(data)


class Png(_Format):
    """PNG by Pillow, lossless for 8-bit pictures: the uncompressed end of every curve, and what losslessness costs.

    >>> import torch
    >>> image = (torch.rand(3, 5, 7) * 255).round() / 255
    >>> torch.equal(Png().decode(Png().encode(image)), image)
    True
    """

    name, mark = "png", "end of PNG at the end"
    options: ClassVar = {"optimize": True}

    def _whole(self, data: bytes) -> bool:
        return data[-12:] == b"\0\0\0\0IEND\xaeB`\x82"
