"""NeRV: a video coded as a network that overfits it, and the file that holds this network.

Chen et al., "NeRV: Neural Representations for Videos", NeurIPS 2021, https://arxiv.org/abs/2110.13903.

Training `NeRV` is the encoder's search (`overfit`). `prune` makes it sparse, `encode_video` rounds and entropy codes it,
`decode_video` gives all frames, or any of them without the others. The published code writes no file and counts
weights * bits * density (`counted_bits`); here the rate is the length of this file:

    offset  size  field
    0       4     magic, b"NRV" and format version 1
    4       6     height, width, number of frames: uint16 each
    10      12    fc_hw_dim, lower_width, stem_dim, reduction: uint16 each
    22      18    expansion, pe_base: float64 each; pe_levels: uint16
    40      1+n   number of strides, and the strides
    41+n    4     length of the side information: uint32
    ...           side information, deflated: 1 if weights share a table, scales (float16), frequency tables (uint16)
    ...           weights: CompressAI's rANS words
    -4      4     CRC-32 of everything before it

Little endian. Each row of a weight (what makes one output channel) has a scale of its own, a bias has one. Biases share a
frequency table; weights share another, or each tensor has its own, whichever makes the smaller file. Pruned weights are the
symbol 0. The frames are the same in every process on one machine: each is computed alone, on one CPU thread, in float32.
"""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import accumulate
from typing import Any

import numpy as np
import torch
from compressai import ans
from compressai.entropy_models.entropy_models import pmf_to_quantized_cdf
from torch import Tensor, nn
from torch.nn import functional

from icm_helpers.codecs.container import MAX_PIXELS, BitstreamError, opened, sealed

SIZES: dict[str, dict[str, Any]] = {
    # NeRV-S of the paper, for 720 x 1280.
    "720p": {"fc_hw_dim": (9, 16, 26), "strides": (5, 2, 2, 2, 2)},
    # SFU-HW-Objects: 480 x 832 and 240 x 416 divide without a rest, by five strides of 2 and by four.
    "sfu-s": {"fc_hw_dim": (15, 26, 6), "lower_width": 48},
    "sfu": {"fc_hw_dim": (15, 26, 12)},
    # DAVIS has 480 x 854 and loses ten columns of its output.
    "davis": {"fc_hw_dim": (15, 27, 12), "strides": (2, 2, 2, 2, 2)},
    "davis-half-s": {"fc_hw_dim": (5, 9, 8), "strides": (3, 2, 2, 2, 2), "lower_width": 8, "stem_dim": 32},
    "davis-half-m": {"fc_hw_dim": (5, 9, 12), "strides": (3, 2, 2, 2, 2), "lower_width": 12, "stem_dim": 48},
    "davis-half-l": {"fc_hw_dim": (5, 9, 24), "strides": (3, 2, 2, 2, 2), "lower_width": 24, "stem_dim": 96},
    "davis-half-xl": {"fc_hw_dim": (5, 9, 40), "strides": (3, 2, 2, 2, 2), "lower_width": 40, "stem_dim": 160},
    # Scenes of 192 x 192, for minutes on a CPU.
    "scenes-xs": {"fc_hw_dim": (6, 6, 5), "strides": (2, 2, 2, 2, 2), "lower_width": 5, "stem_dim": 24},
    "scenes-s": {"fc_hw_dim": (6, 6, 8), "strides": (2, 2, 2, 2, 2), "lower_width": 8, "stem_dim": 32},
    "scenes-m": {"fc_hw_dim": (6, 6, 12), "strides": (2, 2, 2, 2, 2), "lower_width": 12, "stem_dim": 48},
    "scenes-l": {"fc_hw_dim": (6, 6, 20), "strides": (2, 2, 2, 2, 2), "lower_width": 20, "stem_dim": 64},
}
"""Settings of `NeRV` by use, for :func:`sized`. Bytes grow with the channels (the third number) and with `lower_width`."""

MAGIC = b"NRV\x01"
MAX_PARAMETERS = 2**25  # what a header may make the decoder allocate; the largest network of the paper has 2**23.6
_HEADER = struct.Struct("<4s3H6H2dHB")
_PRECISION = 16  # CompressAI's rANS works with frequencies that sum to 2 ** 16
_BIAS_BITS = 8  # a bias shifts a whole channel and is one number in hundreds


class NeRV(nn.Module):
    r"""The network of one video: frame index :math:`t \in [0, 1]` to picture; ValueError for sizes that make no network.

    :math:`\gamma(t) = (\sin b^0 \pi t, \cos b^0 \pi t, \ldots, \sin b^{l-1} \pi t, \cos b^{l-1} \pi t)` goes through two linear
    layers to a small map, and blocks of convolution, SiLU and pixel shuffle enlarge it. Parameters have the names and shapes of the
    published code (one block a stage, no normalisation, one head), whose weights load.

    Args:
        fc_hw_dim: height, width and channels of the small map.
        strides: by how much each block enlarges; the picture has :math:`H = h \prod s`, :math:`W = w \prod s`.
        lower_width: channels that no block but the first goes below.
        stem_dim: width of the hidden layer.
        expansion: the first block has `int(channels * expansion)` channels.
        reduction: each further block with a stride above 1 divides its channels by this, down to `lower_width`.
        pe_base, pe_levels: :math:`b` and :math:`l` of the encoding.

    >>> network = NeRV((2, 3, 4), strides=(2, 2), lower_width=4, stem_dim=8)
    >>> network(torch.tensor([0.0, 0.5])).shape
    torch.Size([2, 3, 8, 12])
    """

    def __init__(
        self,
        fc_hw_dim: tuple[int, int, int] = (9, 16, 26),
        strides: Sequence[int] = (5, 2, 2, 2, 2),
        lower_width: int = 96,
        stem_dim: int = 512,
        expansion: float = 1,
        reduction: int = 2,
        pe_base: float = 1.25,
        pe_levels: int = 40,
    ) -> None:
        super().__init__()
        sizes = (*fc_hw_dim, *strides, lower_width, stem_dim, expansion, reduction, pe_base, pe_levels)
        if len(fc_hw_dim) != 3 or not strides or not all(n > 0 for n in sizes) or fc_hw_dim[2] * expansion < 1:
            told = f"no network of {fc_hw_dim=}, {strides=}, {lower_width=}, {stem_dim=}, {expansion=}, {reduction=}, {pe_base=}"
            rule = "fc_hw_dim is three numbers, there is a stride at least, and every number and width is positive"
            raise ValueError(f"{told}, {pe_levels=}: {rule}.")
        self.fc_hw_dim, self.strides = tuple(fc_hw_dim), tuple(strides)
        self.lower_width, self.stem_dim, self.expansion, self.reduction = lower_width, stem_dim, expansion, reduction
        self.pe_base, self.pe_levels = pe_base, pe_levels
        height, width, channels = self.fc_hw_dim
        # On the CPU even under another default device: the values must be there when the weights are not yet.
        bases = torch.tensor([pe_base**level for level in range(pe_levels)], dtype=torch.float32, device="cpu")
        self.register_buffer("_bases", bases, persistent=False)
        first, second = nn.Linear(2 * pe_levels, stem_dim), nn.Linear(stem_dim, height * width * channels)
        self.stem = nn.Sequential(first, nn.SiLU(), second, nn.SiLU())
        self.layers = nn.ModuleList()
        for i, stride in enumerate(self.strides):
            kept = channels if stride == 1 else channels // reduction
            widened = max(kept, lower_width) if i else int(channels * expansion)
            conv = nn.Conv2d(channels, widened * stride**2, 3, padding=1)
            self.layers.append(nn.ModuleDict({"conv": nn.ModuleDict({"conv": conv})}))
            channels = widened
        self.head_layers = nn.ModuleList([*[None] * (len(self.strides) - 1), nn.Conv2d(channels, 3, 1)])

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the picture."""
        scale = math.prod(self.strides)
        return self.fc_hw_dim[0] * scale, self.fc_hw_dim[1] * scale

    def forward(self, t: Tensor) -> Tensor:
        """The pictures (B, 3, H, W) in [0, 1] at frame indices t, (B,) in [0, 1]; frame k of T has t = k / T."""
        # In float32, and multiplied in this order: at b ** 39 the last bit of a factor is seen in the sine.
        phase = t.float()[:, None] * self._bases * math.pi
        x = self.stem(torch.stack((phase.sin(), phase.cos()), dim=2).flatten(1))
        x = x.view(-1, self.fc_hw_dim[2], *self.fc_hw_dim[:2])
        # SiLU commutes with the shuffle, and so does the head, a 1 x 1 convolution, on rows of all places of a cell: the last and
        # largest shuffle then moves 3 channels instead of all.
        for stride, block in zip((1, *self.strides), self.layers, strict=False):
            x = block["conv"]["conv"](functional.pixel_shuffle(x, stride))
            x = functional.silu(x, inplace=not torch.is_grad_enabled())
        stride, (count, channels, height, width) = self.strides[-1], x.shape
        x = self.head_layers[-1](x.reshape(count, channels // stride**2, -1, width)).reshape(count, -1, height, width)
        return (functional.pixel_shuffle(x, stride).tanh() + 1) * 0.5


def fitting(height: int, width: int, channels: int) -> NeRV:
    """A network with random weights for frames of this size: its picture is larger by less than a cell of the small map, no block
    has fewer `channels` than it, and bytes grow with their square; ValueError where no file holds it.

    >>> fitting(180, 320, 12).size
    (192, 320)
    """
    strides = (2,) * max(1, round(math.log2(min(height, width) / 8)))  # a small map of about 6 to 11 rows
    scale = math.prod(strides)
    sizes = (-(-height // scale), -(-width // scale), channels), strides, channels, 4 * channels
    with torch.device("meta"):  # before any memory is taken
        require_size(NeRV(*sizes))
    return NeRV(*sizes)


def sized(name: str, height: Callable[[], int]) -> NeRV:
    """A network of `SIZES` with random weights; where that says no strides, as many of 2 as frames of this `height` ask for.

    >>> sized("sfu", lambda: 480).size, sized("sfu", lambda: 240).size
    ((480, 832), (240, 416))
    """
    settings = SIZES[name]
    if "strides" not in settings:
        settings = {**settings, "strides": (2,) * round(math.log2(height() / settings["fc_hw_dim"][0]))}
    return NeRV(**settings)


def prune(network: NeRV, density: float) -> None:
    """Set all weights of linear and convolution layers but the largest to zero, in place; `density` in (0, 1] is the part that
    stays. As published, all layers are compared together, biases and the head stay. `overfit` keeps zeros at zero."""
    if not 0 < density <= 1:
        raise ValueError(f"density is the part of the weights that stays, in (0, 1], not {density}")
    weights = [p for part in (network.stem, network.layers) for p in part.parameters() if p.ndim > 1]
    sizes = torch.cat([weight.detach().abs().flatten() for weight in weights])
    smallest = sizes.topk(max(1, round(density * len(sizes)))).values[-1]
    with torch.no_grad():
        for weight in weights:
            weight.mul_(weight.abs() >= smallest)


def counted_bits(network: NeRV, bits: int = 8) -> float:
    """The papers' way to count: parameters that are not zero times `bits`, without scales, tables and positions."""
    return float(bits * sum(int(parameter.count_nonzero()) for parameter in network.parameters()))


def encode_video(frames: Tensor, network: NeRV, *, bits: int = 8) -> bytes:
    """The file of a video, (T, 3, H, W), whose `network` was trained to it; `8 * len(data) / (T * H * W)` is its bpp.

    The frames say how many there are and where the network's picture is cropped; what they show is in the network. A weight has
    `bits`, 2 to 8: it takes one of exactly 2^bits levels from the smallest to the largest of its output channel, zero among them.
    Biases have 2^8. ValueError for another shape, more than 65535 or larger frames, weights that are not finite, or settings that
    the header cannot hold.
    """
    if not 2 <= bits <= 8:
        raise ValueError(f"bits of a weight are 2 to 8, not {bits}.")
    head = header(frames.shape, network)
    tensors = {name: value.detach().float().cpu() for name, value in sorted(network.named_parameters())}
    if wrong := [name for name, value in tensors.items() if not bool(value.isfinite().all())]:
        raise ValueError(f"{', '.join(wrong)} of the network are not finite: the training diverged, lower its rate.")
    values = list(tensors.values())
    scales, symbols = zip(*(_quantise(value, bits if value.ndim > 1 else _BIAS_BITS) for value in values), strict=True)
    coded = [_code(values, scales, symbols, pooled) for pooled in (False, True)]
    side, words = min(coded, key=lambda parts: sum(map(len, parts)))
    return sealed(head + struct.pack("<I", len(side)) + side + words)


def header(shape: Sequence[int], network: NeRV) -> bytes:
    """What the file of a video of shape (T, 3, H, W) begins with; ValueError where no file holds these frames or this network."""
    if len(shape) != 4 or shape[1] != 3 or not 0 < shape[0] < 2**16:
        raise ValueError(f"a video is a tensor (T, 3, H, W) of 1 to 65535 frames, not {tuple(shape)}.")
    count, _, height, width = shape
    if not (0 < height <= network.size[0] and 0 < width <= network.size[1]):
        raise ValueError(f"frames of {height} x {width}, but the network draws {network.size}: use another fc_hw_dim.")
    require_size(network)
    sizes = (*network.fc_hw_dim, network.lower_width, network.stem_dim, network.reduction, network.expansion)
    sizes += (network.pe_base, network.pe_levels, len(network.strides))
    try:
        head = _HEADER.pack(MAGIC, height, width, count, *sizes)
        return head + struct.pack(f"<{len(network.strides)}B", *network.strides)
    except struct.error as error:
        raise ValueError(f"the header holds sizes up to 65535 and strides up to 255 ({error}).") from error


def require_size(network: NeRV) -> None:
    """ValueError where a network, on any device, is larger than a file may make a decoder allocate."""
    parameters, pixels = sum(value.numel() for value in network.parameters()), math.prod(network.size)
    if parameters > MAX_PARAMETERS or pixels > MAX_PIXELS:
        told = f"a network of {parameters} parameters that draws {pixels} pixels: a file holds {MAX_PARAMETERS}"
        raise ValueError(f"{told} that draw {MAX_PIXELS}. Use fewer channels, or smaller frames.")


def decode_video(data: bytes, indices: Sequence[int] | None = None, *, device: str = "cpu") -> Tensor:
    """The frames in a file of `encode_video`, (T, 3, H, W) float32 in [0, 1], on the CPU; or those of `indices` alone.

    Frame k comes out the same whichever others are asked for: each is computed by itself. Another device, processor or library
    rounds differently in the last bits. BitstreamError for no such file, or any byte missing, changed or left over; IndexError for
    no such frame.
    """
    body = opened(bytes(data), MAGIC, _HEADER.size + 4)
    try:  # from here on only a forger's bytes are wrong; they must not cost more than an error
        network, count, height, width = _parse(body)
    except (struct.error, zlib.error, ValueError, IndexError, RuntimeError, OverflowError) as error:
        raise BitstreamError(f"no network can be read ({error}): the file was forged.") from error
    network.to(device)
    chosen = range(count) if indices is None else list(indices)
    if absent := [k for k in chosen if not 0 <= k < count]:
        raise IndexError(f"no frame {absent[0]} in a video of {count} frames, numbered from 0.")
    frames = torch.empty(len(chosen), 3, height, width)
    threads = torch.get_num_threads()
    cudnn = torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False)

    def draw(place: int) -> None:
        # Threads share frames, not the work on one: so the sums have one order, and no core waits for another.
        torch.set_num_threads(1)
        with torch.inference_mode(), torch.autocast(torch.device(device).type, enabled=False):
            t = torch.tensor([chosen[place] / count], device=device)
            frames[place] = network(t)[0, :, :height, :width]

    try:
        with cudnn, ThreadPoolExecutor(threads if device == "cpu" else 1) as pool:
            list(pool.map(draw, range(len(chosen))))
    finally:
        torch.set_num_threads(threads)
    if not bool(frames.isfinite().all()):
        raise BitstreamError("the network draws NaN: the file was forged.")
    return frames


_Table = tuple[int, np.ndarray]


def _table(symbols: np.ndarray) -> _Table:
    """The lowest symbol, and how often it and those after it occur in 2^16; last the escape, which CompressAI's coder asks for."""
    low = int(symbols.min())
    counts = np.bincount(symbols - low).astype(np.float64)
    pmf = torch.from_numpy(np.append(counts / counts.sum(), 0.0)).float()
    return low, np.diff(pmf_to_quantized_cdf(pmf, _PRECISION).numpy())


def _rows(value: Tensor) -> int:
    """How many scales a tensor has: one for each output channel of a weight, one for a bias."""
    return value.shape[0] if value.ndim > 1 else 1


def _tables(values: Sequence[Tensor], pooled: bool) -> list[int]:
    """The table of each tensor: 0 for all biases; for weights 1 if they are `pooled`, else 1, 2, ..."""
    weights = accumulate(value.ndim > 1 for value in values)
    return [(1 if pooled else number) if value.ndim > 1 else 0 for value, number in zip(values, weights, strict=True)]


def _code(
    values: Sequence[Tensor], scales: Sequence[np.ndarray], symbols: Sequence[np.ndarray], pooled: bool
) -> tuple[bytes, bytes]:
    """Side information and words. Small networks are smaller `pooled`: there a table costs more than it saves."""
    which = _tables(values, pooled)
    everything, table_of = np.concatenate(symbols), np.repeat(which, [len(part) for part in symbols])
    tables = [_table(everything[table_of == number]) for number in range(max(which) + 1)]
    words = ans.RansEncoder().encode_with_indexes(everything.tolist(), *_coding(table_of, tables))
    side = bytes([pooled]) + np.concatenate(scales).tobytes()
    for low, frequencies in tables:  # the escape is left out: it has what is missing in 2^16
        side += struct.pack("<hH", low, len(frequencies) - 1) + frequencies[:-1].astype("<u2").tobytes()
    return zlib.compress(side, 9), words


def _quantise(value: Tensor, bits: int) -> tuple[np.ndarray, np.ndarray]:
    r"""Scales :math:`s` of the rows, and all :math:`q - z` of :math:`w = s\,(q - z)` with :math:`q \in \{0, \ldots, 2^b - 1\}`."""
    rows = value.reshape(_rows(value), -1).numpy().astype(np.float64)
    top = 2**bits - 1
    low, high = np.minimum(rows.min(1), 0), np.maximum(rows.max(1), 0)
    scales = ((high - low) / top).astype("<f2")
    if not np.isfinite(scales).all():
        raise ValueError(f"weights from {low.min():.3g} to {high.max():.3g} are too far apart to be quantised.")
    step = np.where(scales > 0, scales, np.inf)[:, None].astype(np.float64)  # what half precision cannot hold becomes 0
    zero = np.rint(-low[:, None] / step)
    return scales, (np.rint(rows / step + zero).clip(0, top) - zero).astype(np.int32).ravel()


def _coding(table_of: np.ndarray, tables: Sequence[_Table]) -> tuple[list[int], list[list[int]], list[int], list[int]]:
    """The arguments of CompressAI's coder: the table of each symbol, and the tables."""
    cdfs = [[0, *np.cumsum(frequencies).tolist()] for _, frequencies in tables]
    return table_of.tolist(), cdfs, [len(cdf) for cdf in cdfs], [low for low, _ in tables]


def _parse(body: bytes) -> tuple[NeRV, int, int, int]:
    """The network in a file, the number of frames, and their height and width."""
    _, height, width, count, *sizes = _HEADER.unpack_from(body)
    *dims, lower_width, stem_dim, reduction, expansion, pe_base, pe_levels, stages = sizes
    *strides, length = struct.unpack_from(f"<{stages}BI", body, _HEADER.size)
    with torch.device("meta"):  # nothing is allocated before the sizes are known to be sound
        network = NeRV(tuple(dims), strides, lower_width, stem_dim, expansion, reduction, pe_base, pe_levels)
    shapes = dict(sorted(network.named_parameters()))
    parameters = sum(value.numel() for value in shapes.values())
    require_size(network)
    if not (0 < height <= network.size[0] and 0 < width <= network.size[1] and count):
        raise ValueError(f"{count} frames of {height} x {width} from {parameters} parameters that draw {network.size}")

    start = _HEADER.size + stages + 4
    rows = [_rows(value) for value in shapes.values()]
    inflate = zlib.decompressobj()
    side = inflate.decompress(body[start : start + length], 1 + 2 * sum(rows) + (1 + len(rows)) * (4 + 2 * 2**9))
    which = _tables(list(shapes.values()), pooled=side[0] == 1)
    scales = np.frombuffer(side, "<f2", sum(rows), 1).astype(np.float32)
    tables, at = [], 1 + 2 * sum(rows)
    for _ in range(max(which) + 1):
        low, entries = struct.unpack_from("<hH", side, at)
        frequencies = np.frombuffer(side, "<u2", entries, at + 4).astype(np.int64)
        frequencies = np.append(frequencies, 2**_PRECISION - frequencies.sum())
        if not entries or frequencies.min() < 1:
            raise ValueError("a frequency table without a place for every symbol")
        tables.append((low, frequencies))
        at += 4 + 2 * entries
    if at != len(side) or not inflate.eof or inflate.unused_data or not np.isfinite(scales).all():
        raise ValueError("side information that is too long, too short or not finite")
    numbers = [value.numel() for value in shapes.values()]
    # The rANS decoder checks no bounds: one that lost its way must meet zeros, not the end of its memory.
    words, coding = body[start + length :] + bytes(8 * parameters), _coding(np.repeat(which, numbers), tables)
    symbols = np.array(ans.RansDecoder().decode_with_indexes(words, *coding), np.float32)
    parts = zip(np.split(symbols, np.cumsum(numbers)[:-1]), np.split(scales, np.cumsum(rows)[:-1]), strict=True)
    weights = (torch.from_numpy(part.reshape(len(scale), -1) * scale[:, None]) for part, scale in parts)
    state = {name: weight.view(shape.shape) for (name, shape), weight in zip(shapes.items(), weights, strict=True)}
    network.load_state_dict(state, assign=True)
    return network.eval(), count, height, width
