"""One image to bytes and back, for every codec: padding, header and checksum live here, once.

    offset  size  field
    0       3     magic, b"ICM"
    3       1     format version, 1
    4       1+n   length and ASCII of the codec's name, with the quality of one that has several: mbt2018-mean-q5
    5+n     8     fingerprint of the codec's weights and CDF tables
    13+n    4     height, width: uint16 each
    17+n    4     CRC-32 of the scale indexes: which CDF table codes which symbol
    21+n    1     k, number of strings
    22+n    4k-4  lengths of all strings but the last, which takes what is left: uint32 each
    ...           the strings: CompressAI's rANS words
    -4      4     CRC-32 of everything before it

Little endian. `mean-scale-small` pays 46 bytes a picture, checksums included. A checksum finds accidents, it proves nothing about
who wrote the file. The scale indexes have one of their own because the decoder computes the entropy parameters again, in floats,
and one scale on the other side of a table's edge turns all that follows into noise. On one machine they come out the same: both
sides run one image at a time, on one CPU thread (with two, 40 % of the entropy parameters were measured to change in the last
bit), in float32, without autocast, with deterministic cuDNN. Another processor or library may round differently; where that
matters, decoding raises `BitstreamError`. Decode where you encoded, as CompressAI asks for too.
"""

from __future__ import annotations

import copy
import os
import struct
import threading
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from queue import SimpleQueue
from typing import Any

import torch
from compressai.entropy_models import EntropyBottleneck, EntropyModel, GaussianConditional
from compressai.entropy_models.entropy_models_vbr import EntropyModelVbr
from compressai.models import CompressionModel
from torch import Tensor, nn
from torch.nn import functional

from icm_helpers import files
from icm_helpers.codecs import zoo
from icm_helpers.codecs.networks import fingerprint

MAGIC, VERSION = b"ICM", 1
MAX_SYMBOL = 2.0**24  # what rANS's 32 bits hold with room to spare; beyond, its coder would not come back
WORKERS = 4  # pictures at once, where nothing else is said and there are so many processors
MAX_PIXELS = 2**26  # 8192 x 8192: what a header may make the decoder allocate


class BitstreamError(ValueError):
    """The bytes are damaged, were not written by this format, or belong to another codec, weights or processor."""


def encode(codec: Any, image: Tensor, roi: Tensor | None = None) -> bytes:
    """Code one picture, (3, H, W) float32 in [0, 1], from 1 x 1 to `MAX_PIXELS`; `8 * len(data) / (H * W)` is its bpp.

    `codec` is a network from `zoo.load`, in eval mode and with CDF tables; or an object with its own file format, such as
    `classical.Jpeg`, and methods `encode` and `decode`: nothing is added to its bytes. `roi`, (1, H, W) in {0, 1}, is for codecs
    whose encoder takes a region of interest; None: the whole picture. ValueError if it is not ready to code, or the image has
    the wrong shape, type or range, or the region the wrong shape.
    """
    return _encode(codec, image, roi)[0]


def _encode(codec: Any, image: Tensor, roi: Tensor | None = None) -> tuple[bytes, float | None]:
    """As :func:`encode`, and the bits that the likelihoods promise for the symbols; None for a codec without likelihoods."""
    check_image(image)
    regions = () if roi is None else (roi,)
    if roi is not None and roi.shape != (1, *image.shape[1:]):
        raise ValueError(
            f"a region of interest of {tuple(roi.shape)} for a picture of {tuple(image.shape[1:])}: (1, H, W)."
        )
    if not isinstance(codec, nn.Module):
        return codec.encode(image, *regions), None
    device = _check_codec(codec)
    parts = (part[None].to(device) for part in (image, *regions))
    padded = [pad(part, codec.downsampling_factor) for part in parts]  # (1, 3, H', W'), (1, 1, H', W')
    coded, indexes_crc, seen = _exactly(codec, lambda: codec.compress(*padded))
    if tuple(coded["shape"]) != _latent_shape(codec, *image.shape[1:]):
        raise ValueError(f"{codec.name} has a latent of {tuple(coded['shape'])}: not H, W / downsampling_factor.")
    strings = [batch[0] for batch in coded["strings"]]
    name = _named(codec).encode("ascii")
    head = (MAGIC, VERSION, len(name), name, _fingerprint(codec), *image.shape[1:], indexes_crc)
    layout = f"<3sBB{len(name)}s8sHHIB{len(strings) - 1}I"
    data = sealed(struct.pack(layout, *head, len(strings), *map(len, strings[:-1])) + b"".join(strings))
    return data, _promised(codec, seen)


def decode(codec: Any, data: bytes) -> Tensor:
    """The picture in `data`, (3, H, W) float32 in [0, 1], on the codec's device.

    Equals the codec's `forward` in eval mode on the padded picture, cropped and clamped; except for CompressAI's autoregressive
    models (mbt2018, cheng2020), whose `forward` rounds `y` where coding rounds `y` minus its mean.

    Raises:
        BitstreamError: any byte is missing, changed or left over; another codec or other weights wrote it; or this processor
            computes other entropy parameters than the encoder's. ValueError if the codec is not ready to decode.
    """
    if not isinstance(codec, nn.Module):
        return codec.decode(bytes(data))
    _check_codec(codec)
    height, width, expected, strings = _parse(codec, bytes(data))
    shape = _latent_shape(codec, height, width)
    # The rANS decoder checks no bounds: one that lost its way must meet zeros, not the end of its memory.
    slack = bytes(8 * shape[0] * shape[1] * codec.downsampling_factor**2)
    padded_strings = [[string + slack] for string in strings]
    try:
        decoded, indexes_crc, _ = _exactly(codec, lambda: codec.decompress(padded_strings, shape))
    except (AssertionError, IndexError, ValueError) as error:
        raise BitstreamError(f"{codec.name} cannot read the strings ({error}): they were forged.") from error
    if indexes_crc != expected:
        told = f"the entropy parameters differ from the encoder's (checksum {expected:08x}, here {indexes_crc:08x})"
        raise BitstreamError(f"{told}: another processor or library rounds differently. Decode where it was encoded.")
    # Out of inference mode: an ordinary tensor, fit for autograd.
    x_hat = decoded["x_hat"][0, :, :height, :width]
    if not bool(x_hat.isfinite().all()):
        raise BitstreamError(f"{codec.name} decodes NaN or infinity: forged strings, or a broken synthesis.")
    return x_hat.clamp(0, 1)


def encode_many(
    codec: Any, images: Iterable[Tensor], workers: int | None = None, bits: list[float | None] | None = None
) -> Iterator[bytes]:
    """:func:`encode` for many pictures, some at once: the same bytes, in the same order, but faster.

    Pictures are asked for as they are needed, a few ahead; meanwhile the codec's weights must stay as they are. Errors come when
    it is their picture's turn. `workers` are threads, each with one picture; None: one a processor, but at most four. `bits` gets
    for each picture what the likelihoods promise, which costs nothing while it is coded; None for a codec without likelihoods.
    """
    for data, promised in _many(_encode, codec, images, workers):
        if bits is not None:
            bits.append(promised)
        yield data


def decode_many(codec: Any, data: Iterable[bytes], workers: int | None = None) -> Iterator[Tensor]:
    """:func:`decode` for many pictures, like :func:`encode_many`."""
    return _many(decode, codec, data, workers)


def multiple(codec: CompressionModel) -> int:
    """What the sides of a picture are padded to multiples of: the codec's downsampling factor, or what it asks for instead."""
    return getattr(codec, "multiple", codec.downsampling_factor)


def pad(x: Tensor, multiple: int) -> Tensor:
    """Repeat the last row and column of (N, 3, H, W) until both sides are multiples of `multiple`.

    >>> pad(torch.rand(1, 3, 1, 70), 64).shape
    torch.Size([1, 3, 64, 128])
    """
    height, width = x.shape[-2:]
    return functional.pad(x, (0, -width % multiple, 0, -height % multiple), mode="replicate")


def sealed(body: bytes) -> bytes:
    """A file: the body and its CRC-32."""
    return body + struct.pack("<I", zlib.crc32(body))


def opened(data: bytes, magic: bytes, least: int) -> bytes:
    """The body of a file that :func:`sealed` made; BitstreamError unless it begins with `magic` and has `least` bytes."""
    if not data.startswith(magic):
        begins = bytes(data[: len(magic)])
        raise BitstreamError(f"starts with {begins!r} instead of {magic!r}: no file of this format, or damaged.")
    body, found = data[:-4], zlib.crc32(data[:-4])
    if len(body) < least or found != int.from_bytes(data[-4:], "little"):
        told = f"expected {data[-4:][::-1].hex()}, found {found:08x}"
        raise BitstreamError(f"checksum differs ({told}): damaged, cut short or too long.")
    return body


def _many(work: Callable[[Any, Any], Any], codec: Any, items: Iterable[Any], workers: int | None) -> Iterator[Any]:
    workers = workers or min(os.cpu_count() or 1, WORKERS)
    free: SimpleQueue[Any] = SimpleQueue()
    known = fingerprint(codec) if isinstance(codec, nn.Module) else None  # taken once
    if known:
        files.require_finite(codec.state_dict(), getattr(codec, "name", "the codec"))
    for _ in range(workers):
        replica = codec
        if known:  # the same tensors in modules of their own, because coding watches what its modules do
            replica = copy.deepcopy(codec, {id(t): t for t in [*codec.parameters(), *codec.buffers()]})
            replica.known_fingerprint = known
        free.put(replica)

    def one(item: Any) -> Any:
        mine = free.get()
        try:
            return work(mine, item)
        finally:
            free.put(mine)

    with ThreadPoolExecutor(workers, thread_name_prefix=work.__name__) as pool:
        pending: deque[Any] = deque()
        for item in items:
            pending.append(pool.submit(one, item))
            if len(pending) > workers:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()


def _named(codec: CompressionModel) -> str:
    return zoo.named(codec.name, getattr(codec, "quality", None))


def _fingerprint(codec: CompressionModel) -> bytes:
    return getattr(codec, "known_fingerprint", None) or fingerprint(codec)


def _parse(codec: CompressionModel, data: bytes) -> tuple[int, int, int, list[bytes]]:
    """Height, width, checksum of the scale indexes and strings, after every check that needs no decoding."""
    body = opened(data, MAGIC, 4)
    try:
        version, size = struct.unpack_from("<BB", body, 3)
        name, writer, height, width, indexes_crc, count = struct.unpack_from(f"<{size}s8sHHIB", body, 5)
        lengths = struct.unpack_from(f"<{max(count, 1) - 1}I", body, 22 + size)
    except struct.error as error:
        raise BitstreamError(f"the header ends early ({error}): no file of this version.") from error
    if version != VERSION:
        raise BitstreamError(f"format version {version}, here {VERSION}: decode with the code that wrote it.")
    if (wrote := name.decode("ascii", "replace")) not in (_named(codec), codec.name):  # the latter in older files
        raise BitstreamError(f"written by codec {wrote!r}, not {_named(codec)!r}: load that one.")
    if writer != (here := _fingerprint(codec)):
        told = f"written by {codec.name} with weights {writer.hex()}, these are {here.hex()}"
        raise BitstreamError(f"{told}: load the checkpoint that wrote it.")
    if not 0 < height * width <= MAX_PIXELS:
        raise BitstreamError(f"{height} x {width} pixels, not 1 to {MAX_PIXELS}: the header was forged.")
    strings, rest = [], memoryview(body)[22 + size + 4 * len(lengths) :]
    for length in (*lengths, len(rest) - sum(lengths)):
        if length < 4 or length % 4 or length > len(rest):
            raise BitstreamError(f"a string of {length} bytes where {len(rest)} are left: no whole rANS words.")
        strings.append(bytes(rest[:length]))
        rest = rest[length:]
    return height, width, indexes_crc, strings


def _latent_shape(codec: CompressionModel, height: int, width: int) -> tuple[int, int]:
    """The latent's shape for a picture padded to the sides that the codec takes."""
    whole = multiple(codec)
    return tuple(-(-side // whole) * whole // codec.downsampling_factor for side in (height, width))


def check_image(image: Tensor) -> None:
    """Raise ValueError unless it is a picture, (3, H, W) float32 in [0, 1], that can be coded."""
    if not isinstance(image, Tensor) or image.dtype != torch.float32 or image.ndim != 3 or image.shape[0] != 3:
        found = f"{image.dtype} {tuple(image.shape)}" if isinstance(image, Tensor) else type(image).__name__
        raise ValueError(f"an image is a float32 tensor (3, H, W) in [0, 1], not {found}.")
    height, width = image.shape[1:]
    if not 0 < height * width <= MAX_PIXELS or max(height, width) > 65535:
        raise ValueError(f"{height} x {width} pixels: 1 to {MAX_PIXELS} can be coded, no side above 65535. Code tiles.")
    if not bool(((image >= 0) & (image <= 1)).all()):  # false for NaN too
        raise ValueError("an image lies in [0, 1] without NaN: divide 8-bit values by 255, or clamp.")


def _check_codec(codec: CompressionModel) -> torch.device:
    if not hasattr(codec, "name"):
        raise ValueError(f"{type(codec).__name__} has no name for the header: use zoo.load, or set codec.name.")
    if codec.training:
        raise ValueError(f"{codec.name} is in training mode: call codec.eval() before coding.")
    if any(key.endswith("_quantized_cdf") and not table.numel() for key, table in codec.named_buffers()):
        raise ValueError(f"{codec.name} has no CDF tables: call codec.update(force=True) after training.")
    return next(codec.parameters()).device


@dataclass
class Seen:
    """What one entropy model was asked to code: symbols with their means, and scales, in order."""

    symbols: list[Tensor] = field(default_factory=list)
    means: list[Tensor | None] = field(default_factory=list)
    scales: list[Tensor] = field(default_factory=list)


@torch.inference_mode()
def _promised(codec: CompressionModel, seen: dict[str, Seen]) -> float | None:
    """The bits of what was coded, by the likelihoods of its entropy models; None where one of them counts otherwise."""
    bits = 0.0
    for name, it in seen.items():
        model = codec.get_submodule(name)
        how = type(model)._likelihood
        if how is EntropyBottleneck._likelihood:
            values = torch.cat([x + mean for x, mean in zip(it.symbols, it.means, strict=True)])  # (N, C, h, w)
            likelihood, *_ = model._likelihood(values.transpose(0, 1).reshape(values.shape[1], 1, -1))
        elif how is GaussianConditional._likelihood and sum(map(Tensor.numel, it.symbols)) == sum(
            map(Tensor.numel, it.scales)
        ):
            values, scales = (torch.cat([x.flatten() for x in part]) for part in (it.symbols, it.scales))
            likelihood = model._likelihood(values, scales)
        else:
            return None
        bits -= model.likelihood_lower_bound(likelihood).log2().sum().item()
    return bits


def _exactly(codec: CompressionModel, call: Callable[[], Any]) -> tuple[Any, int, dict[str, Seen]]:
    """What `call` gives with all switched off that makes two runs of one network differ, the CRC-32 of all scale indexes, and what
    each entropy model was asked to code. In a thread of its own: only a thread itself can put back its number of OpenMP threads."""
    seen: dict[str, Seen] = {}
    if not hasattr(codec, "known_fingerprint"):
        files.require_finite(codec.state_dict(), codec.name)
    crc, device = 0, next(codec.parameters()).device.type
    models = {
        name: module for name, module in codec.named_modules() if isinstance(module, EntropyModel | EntropyModelVbr)
    }

    def watched(build_indexes: Callable[[Tensor], Tensor], name: str) -> Callable[[Tensor], Tensor]:
        def build(scales: Tensor) -> Tensor:
            nonlocal crc
            if not bool(scales.isfinite().all()):
                raise ValueError(f"{codec.name} gives its {name} scales that are not finite: {_BROKEN}")
            seen.setdefault(name, Seen()).scales.append(scales)
            indexes = build_indexes(scales)
            crc = zlib.crc32(indexes.cpu().numpy().tobytes(), crc)
            return indexes

        return build

    def limited(quantize: Callable[..., Tensor], name: str) -> Callable[..., Tensor]:
        def checked(inputs: Tensor, mode: str, *rest: Any, **more: Any) -> Tensor:
            symbols = quantize(inputs, mode, *rest, **more)
            if mode == "symbols":
                given = [x for x in (inputs, *rest, *more.values()) if isinstance(x, Tensor)]
                sound = all(bool(x.isfinite().all()) for x in given)  # NaN becomes any whole number
                if not (sound and bool((symbols.double().abs() <= MAX_SYMBOL).all())):
                    told = f"{codec.name} gives its {name} latents up to {inputs.abs().max().item():.3g}"
                    raise ValueError(f"{told}, which cannot be coded: {_BROKEN}")
                it = seen.setdefault(name, Seen())
                it.symbols.append(symbols)
                it.means.append(rest[0] if rest else more.get("means"))
            return symbols

        return checked

    def work() -> Any:
        with _STEADY, torch.inference_mode(), torch.autocast(device, enabled=False):
            return call()

    try:
        for name, model in models.items():
            for how in ("quantize", "quantize_variable"):
                if hasattr(model, how):
                    setattr(model, how, limited(getattr(model, how), name))
            if hasattr(model, "build_indexes"):
                model.build_indexes = watched(model.build_indexes, name)
        with ThreadPoolExecutor(1, thread_name_prefix="exactly") as apart:
            return apart.submit(work).result(), crc, seen
    except (MemoryError, RuntimeError) as error:
        if not isinstance(error, MemoryError | torch.OutOfMemoryError) and "memory" not in str(error):
            raise
        last = (str(error).strip().splitlines() or ["no more is known"])[-1]
        told = f"{codec.name} ran out of memory ({last})"
        raise RuntimeError(f"{told}: cut the picture into tiles, or use a classical codec such as avif") from error
    finally:
        for model in models.values():
            for name in ("quantize", "quantize_variable", "build_indexes"):
                model.__dict__.pop(name, None)


_BROKEN = "weights are broken, or their training diverged; use others"


class _Steady:
    """One thread for a picture's arithmetic, and deterministic cuDNN: settings of the whole process, so the first of several
    pictures that are coded at once makes them, and the last puts back what was before. To be entered in fresh threads."""

    def __init__(self) -> None:
        self.lock, self.inside = threading.Lock(), 0

    def __enter__(self) -> None:
        with self.lock:
            if self.inside == 0:
                self.before = ExitStack()
                self.before.callback(torch.set_num_threads, torch.get_num_threads())
                flags = torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False)
                self.before.enter_context(flags)
            self.inside += 1
            torch.set_num_threads(1)  # of this thread's OpenMP, and of MKL for all

    def __exit__(self, *_: object) -> None:
        with self.lock:
            self.inside -= 1
            if self.inside == 0:
                self.before.close()


_STEADY = _Steady()
