r"""HEVC and VVC, the anchors of the video coding standards, through the ffmpeg of the package `imageio-ffmpeg`.

`Hevc(qp)` is libx265; `Vvc(qp)` is libvvenc, decoded by ffmpeg's own decoder. Both code one picture (intra) behind
`container.encode` and `container.decode`, and a sequence (inter) by `encode_video` and `decode_video`. A file is

    offset  size  field
    0       4     magic, b"HEV\x01" or b"VVC\x01": codec and version of this format
    4       6     height, width, number of frames: uint16 each
    10      ...   the elementary stream (Annex B), without the messages and timing that decoding does not need
    -4      4     CRC-32 of everything before it

Little endian. A stream alone would be 14 bytes smaller, but cut or changed, it decodes to fewer or grey frames, and ffmpeg's HEVC
decoder says nothing. What follows byte 10, without the checksum, is a file that ffmpeg and many players open. Its parameter sets
(50 to 70 bytes for a picture, up to 250 for a sequence) count too.

Colour is YCbCr of BT.601, limited range, 4:2:0: what ffmpeg assumes of a stream that says nothing about it, as this one. It is
converted here on both sides, in floats: chroma is the mean of 2 x 2 pixels, and interpolated bilinearly on the way back. A sample
has 8 bits in HEVC (profile Main), 10 in VVC (Main 10, all that libvvenc takes). Frames are padded to multiples of 8, the smallest
block, and to sides of at least 32, and cropped after decoding. ffmpeg grants libvvenc one byte a pixel for a coded frame with its
parameter sets: smaller frames fail, and so do textures at a QP near 0. The encoders minimise squared error, which learned codecs
are trained for, not the model of human vision that is their default, and run on one thread, so the same frames give the same
bytes.
"""

from __future__ import annotations

import re
import struct
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from icm_helpers.codecs import container
from icm_helpers.codecs.container import MAX_PIXELS, BitstreamError

# Seconds that one run of ffmpeg may take, and more for every pixel: ten times what libvvenc needs on an idle core.
TIMEOUT, TIMEOUT_PER_PIXEL = 60.0, 1e-4
_HEADER = struct.Struct("<4sHHH")
OFFSET = 10  # by which a region of interest has a lower QP: its quantiser's step is a third


@dataclass(frozen=True)
class _Standard:
    """What HEVC and VVC share: the file around the stream, and the way through ffmpeg."""

    qp: int
    name: ClassVar[str]
    top: ClassVar[int]  # largest QP
    magic: ClassVar[bytes]
    bits: ClassVar[int]
    sample: ClassVar[str]  # to numpy
    pixel_format: ClassVar[str]
    encoder: ClassVar[str]  # options of ffmpeg: for all,
    intra: ClassVar[str]  # for a picture,
    inter: ClassVar[str]  # for a sequence

    def __post_init__(self) -> None:
        if self.qp not in range(self.top + 1):
            raise ValueError(f"the QP of {self.name} is a whole number from 0 to {self.top}, not {self.qp!r}.")

    def encode(self, image: Tensor) -> bytes:
        """The file of a picture, (3, H, W) in [0, 1], coded intra.

        All methods raise ImportError where imageio-ffmpeg is not installed, or its ffmpeg lacks the codec, TimeoutError where it
        takes too long; this and `encode_video` raise RuntimeError where it fails.
        """
        return self._encode(image[None], self.intra)

    def decode(self, data: bytes) -> Tensor:
        """The picture in a file of `encode`, as `decode_video` gives it; BitstreamError also for a sequence."""
        frames = self.decode_video(data)
        if len(frames) != 1:
            raise BitstreamError(f"a sequence of {len(frames)} frames, not one picture: read it with decode_video.")
        return frames[0]

    def encode_video(self, frames: Tensor) -> bytes:
        """The file of a sequence, (T, 3, H, W) float32 in [0, 1], coded inter; only its first picture is coded intra. ValueError
        for another shape, type or range, more than 65535 frames, or frames of more than `MAX_PIXELS`."""
        if frames.ndim != 4 or not 0 < len(frames) <= 65535:
            raise ValueError(f"a video is a tensor (T, 3, H, W) of 1 to 65535 frames, not {tuple(frames.shape)}.")
        for frame in frames:
            container.check_image(frame)
        return self._encode(frames, self.inter)

    def decode_video(self, data: bytes) -> Tensor:
        """The frames in a file of `encode_video` or `encode`, (T, 3, H, W) float32 in [0, 1], on the CPU; BitstreamError for
        another codec's file, or any byte missing, changed or left over."""
        body = container.opened(bytes(data), self.magic, _HEADER.size)
        _, height, width, count = _HEADER.unpack_from(body)
        if not (0 < height * width <= MAX_PIXELS and count):
            raise BitstreamError(f"{count} frames of {height} x {width}, not 1 to {MAX_PIXELS}: the header was forged.")
        rows, columns = _padded(height), _padded(width)
        options = f"-xerror -threads 1 -f {self.name} -i pipe:0 -fps_mode passthrough"
        options += f" -f rawvideo -pix_fmt {self.pixel_format} pipe:1"
        try:
            raw = _ffmpeg(options.split(), body[_HEADER.size :], pixels=count * rows * columns)
        except RuntimeError as error:
            raise BitstreamError(f"the {self.name} stream is forged, or beyond this ffmpeg: {error}") from error
        samples, wanted = np.frombuffer(raw, self.sample), count * rows * columns * 3 // 2
        if samples.size != wanted:
            raise BitstreamError(f"{samples.size} samples in the {self.name} stream, not {wanted}: it was forged.")
        frames = torch.empty(count, 3, height, width)
        for frame, planes in zip(frames, samples.reshape(count, -1), strict=True):
            frame.copy_(_rgb(torch.from_numpy(planes.astype(np.float32)), rows, columns, self.bits)[:, :height, :width])
        return frames

    def _encode(self, frames: Tensor, structure: str, rate: str = "") -> bytes:
        count, _, height, width = frames.shape
        rows, columns = _padded(height), _padded(width)
        margin = (0, columns - width, 0, rows - height)
        padded = (functional.pad(x[None].cpu(), margin, "replicate")[0] for x in frames)
        raw = b"".join(_planes(x, self.bits).numpy().astype(self.sample).tobytes() for x in padded)
        options = f"-f rawvideo -pix_fmt {self.pixel_format} -s {columns}x{rows} -i pipe:0 -fps_mode passthrough"
        options += f" -threads 1 {rate or f'-qp {self.qp}'} {self.encoder}{structure} -f {self.name}"
        with tempfile.TemporaryDirectory() as folder:  # not through stdout: libvvenc prints its warnings there
            path = Path(folder) / "stream"
            _ffmpeg([*options.split(), str(path)], raw, pixels=count * rows * columns)
            return container.sealed(_HEADER.pack(self.magic, height, width, count) + path.read_bytes())


class Hevc(_Standard):
    """HEVC (ITU-T H.265) by libx265, preset `slow`; `qp` is 0 (best) to 51. In a sequence it is that of P pictures; the encoder
    gives the intra picture less, B pictures more."""

    name, top, magic = "hevc", 51, b"HEV\x01"
    bits, sample, pixel_format = 8, "u1", "yuv420p"
    encoder = "-c:v libx265 -preset slow -tune psnr -x265-params log-level=error"
    encoder += ":pools=none:frame-threads=1:wpp=0:info=0:vui-timing-info=0"
    intra, inter = ":keyint=1:ipratio=1", ":keyint=-1"  # ipratio 1: the picture's QP is `qp`


class RegionalHevc(Hevc):
    """HEVC with a region of interest: `qp` is that of the rest of the picture, and inside it is `OFFSET` lower, by ffmpeg's filter
    `addroi`. The quantiser's step is part of every HEVC stream: no map is sent, and any decoder reads it."""

    def encode(self, image: Tensor, roi: Tensor | None = None) -> bytes:
        """Code a picture; `roi`, (1, H, W) in {0, 1}, counts in blocks of 16 x 16 pixels, all that it touches."""
        blocks = functional.max_pool2d((torch.ones_like(image[:1]) if roi is None else roi).float(), 16, ceil_mode=True)
        marked = ",".join(
            f"addroi={16 * x}:{16 * y}:{16 * w}:{16 * h}:{-OFFSET}/51" for x, y, w, h in rectangles(blocks[0] > 0)
        )
        # libx265 heeds regions only where its quantiser may vary: not at a constant QP, nor without adaptive quantisation. With as
        # good as none of that, its constant quality is that QP, for 5 bytes more.
        how = f"-crf {self.qp}" + f" -vf {marked}" * bool(marked)
        return self._encode(image[None], f"{self.intra}:aq-mode=1:aq-strength=0.0001:qcomp=1:qg-size=16", how)


def rectangles(blocks: Tensor) -> list[tuple[int, int, int, int]]:
    """The rectangles x, y, width, height of which a set of blocks (h, w) consists: runs of a row, joined to equal ones above.

    >>> rectangles(torch.tensor([[1, 1, 0], [1, 1, 0], [0, 0, 1]]))
    [(0, 0, 2, 2), (2, 2, 1, 1)]
    """
    found: dict[
        tuple[int, int], tuple[int, int]
    ] = {}  # x and width of the last row's runs -> where they begin, y, and height
    done = []
    for y, row in enumerate([*blocks.int().tolist(), [0] * blocks.shape[1]]):
        edges = np.flatnonzero(np.diff([0, *row, 0])).reshape(-1, 2).tolist()
        runs = [(start, stop - start) for start, stop in edges]
        done += [(x, top, w, h) for (x, w), (top, h) in found.items() if (x, w) not in runs]
        kept = {run: found.get(run, (y, 0)) for run in runs}
        found = {run: (top, height + 1) for run, (top, height) in kept.items()}
    return done


class Vvc(_Standard):
    """VVC (ITU-T H.266) by libvvenc, preset `fast`: on a photograph of 640 x 480, 11 % fewer bytes than `faster` at equal PSNR;
    `medium` saved another 4 % in three to four times the time. `qp` is 0 (best) to 63. In a sequence the encoder gives the intra
    picture less, and pictures high in the hierarchy more."""

    name, top, magic = "vvc", 63, b"VVC\x01"
    bits, sample, pixel_format = 10, "<u2", "yuv420p10le"
    encoder = "-c:v libvvenc -preset fast -qpa 0 -vvenc-params hrdparameterspresent=0:accessunitdelimiter=0"
    intra, inter = ":intraperiod=1:gopsize=1", ":intraperiod=-1"


def playable(frames: np.ndarray, rate: float) -> bytes:
    """An mp4 file that every browser plays, H.264, of frames (T, H, W, 3) uint8 with even sides, at `rate` frames a second."""
    count, height, width, _ = frames.shape
    options = f"-f rawvideo -pix_fmt rgb24 -s {width}x{height} -r {rate:g} -i pipe:0 -threads 1 -c:v libx264 -crf 23"
    options += " -pix_fmt yuv420p -movflags +faststart"
    with tempfile.TemporaryDirectory() as folder:  # an mp4 is not written in one go, so not through stdout
        path = Path(folder) / "film.mp4"
        _ffmpeg([*options.split(), str(path)], frames.tobytes(), pixels=count * height * width)
        return path.read_bytes()


def _planes(x: Tensor, bits: int) -> Tensor:
    """The samples of a frame (3, H, W) with even sides: Y, then Cb and Cr at half the size, (3 / 2 * H * W,)."""
    r, g, b = x
    y = 0.299 * r + 0.587 * g + 0.114 * b  # (H, W) in [0, 1]
    chroma = functional.avg_pool2d(torch.stack([(b - y) / 1.772, (r - y) / 1.402]), 2)  # (2, H/2, W/2) in [-0.5, 0.5]
    samples = torch.cat([(16 + 219 * y).flatten(), (128 + 224 * chroma).flatten()])
    return (samples * 2 ** (bits - 8)).round()


def _rgb(samples: Tensor, height: int, width: int, bits: int) -> Tensor:
    """The inverse of `_planes`, (3, H, W) in [0, 1]."""
    samples = samples / 2 ** (bits - 8)
    y = (samples[: height * width].view(height, width) - 16) / 219
    chroma = (samples[height * width :].view(1, 2, height // 2, width // 2) - 128) / 224
    cb, cr = functional.interpolate(chroma, scale_factor=2, mode="bilinear")[0]
    r, b = y + 1.402 * cr, y + 1.772 * cb
    return torch.stack([r, (y - 0.299 * r - 0.114 * b) / 0.587, b]).clamp(0, 1)


def _padded(side: int) -> int:
    return max(32, side + -side % 8)


def _ffmpeg(options: list[str], data: bytes, pixels: int) -> bytes:
    """Run ffmpeg with `data` at its stdin, and return its stdout; it never outlives this call."""
    try:
        from imageio_ffmpeg import get_ffmpeg_exe

        command = [get_ffmpeg_exe(), "-hide_banner", "-nostdin", "-loglevel", "error", *options]
    except (ImportError, RuntimeError) as error:
        cure = "install the extra `anchors`, as in `pip install 'icm-book[anchors]'`"
        raise ImportError(f"HEVC and VVC need the package imageio-ffmpeg and its ffmpeg ({error}): {cure}") from error
    call, limit = " ".join(command), TIMEOUT + TIMEOUT_PER_PIXEL * pixels
    try:
        done = subprocess.run(command, input=data, capture_output=True, timeout=limit)  # kills ffmpeg if it must
    except subprocess.TimeoutExpired as error:
        told = f"stopped after {limit:.3g} s: `{call}`. Free the processor, or raise TIMEOUT in {__name__}."
        raise TimeoutError(told) from error
    said = done.stderr.decode(errors="replace").strip()
    lacks = "Unknown (encoder|decoder|input format)|Unrecognized option|is experimental"
    if done.returncode and re.search(lacks, said):
        cure = "install imageio-ffmpeg 0.8 or newer, and unset IMAGEIO_FFMPEG_EXE if it names another one"
        raise ImportError(f"this ffmpeg lacks the codec in `{call}`: {cure}. It said: {said[-500:]}")
    if done.returncode:
        hint = "More than 8 bits a pixel? Use a higher QP. " if "Error submitting video frame" in said else ""
        told = f"ffmpeg ended with status {done.returncode}. {hint}It said: {said[-2000:]}"
        raise RuntimeError(f"{told}\nCalled `{call}`.")
    return done.stdout
