r"""LIC-TCM: Liu, Sun, Katto, "Learned Image Compression with Mixed Transformer-CNN Architectures" (CVPR 2023).

The transforms mix convolutions (local) and attention within windows (less local), half of the channels each. The entropy model
is a hyperprior that goes through the latent in slices of channels: each slice is coded knowing those before it, and what
rounding took from it is predicted and given back. The parameters bear the official names, so the authors' checkpoints load.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import torch
from compressai import layers
from compressai.ans import RansDecoder, RansEncoder
from compressai.entropy_models import EntropyBottleneck, GaussianConditional
from compressai.models import CompressionModel
from compressai.models.utils import remap_old_keys
from compressai.ops import quantize_ste
from compressai.zoo import load_state_dict
from torch import Tensor, nn
from torch.nn import functional

from icm_helpers.codecs.container import pad


class WindowAttention(nn.Module):
    r"""Self-attention among the pixels of a window, :math:`\mathrm{softmax}(Q K^\top / \sqrt d + B)\, V`, with a learned bias for
    each relative position: Liu et al., "Swin Transformer" (ICCV 2021)."""

    def __init__(self, channels: int, head_dim: int, window: int) -> None:
        super().__init__()
        self.heads, self.window = channels // head_dim, window
        self.relative_position_params = nn.Parameter(torch.empty(self.heads, 2 * window - 1, 2 * window - 1))
        nn.init.trunc_normal_(self.relative_position_params, std=0.02)
        self.embedding_layer = nn.Linear(channels, 3 * channels)
        self.linear = nn.Linear(channels, channels)
        at = torch.arange(window)
        apart = at[:, None] - at[None, :] + window - 1  # (from, to): the distance along one axis, counted from 0
        index = apart[:, None, :, None] * (2 * window - 1) + apart[None, :, None, :]  # (row, column, row, column)
        self.register_buffer("relative_index", index, persistent=False)

    def forward(self, x: Tensor, shapes: list[tuple[int, int, int]]) -> Tensor:
        """Pixels (P, C), window after window, of which there are (count, h, w) of each of the `shapes` -> the same."""
        bias = self.relative_position_params.flatten(1)[:, self.relative_index]  # (heads, w, w, w, w)
        out = []
        parts = self.embedding_layer(x).split([count * h * w for count, h, w in shapes])
        for (count, h, w), qkv in zip(shapes, parts, strict=True):
            qkv = qkv.reshape(count, h * w, 3, self.heads, -1)  # (count h w, 3 C) -> (count, h w, 3, heads, d)
            within = bias[:, :h, :w, :h, :w].reshape(self.heads, h * w, h * w).to(qkv.dtype)
            out.append(_attend(qkv, within).reshape(-1, x.shape[1]))
        return self.linear(torch.cat(out))


def _attend(qkv: Tensor, bias: Tensor) -> Tensor:
    """Attention within windows of n pixels: (windows, n, 3, heads, d) and a bias (heads, n, n) -> (windows, n, heads, d)."""
    if qkv.is_cuda or not torch.is_grad_enabled():
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # 3 of (windows, heads, n, d)
        return functional.scaled_dot_product_attention(q, k, v, attn_mask=bias[None]).transpose(1, 2)
    # On a CPU the fused kernel has no gradient for the bias. So many windows at once that their scores stay in the caches.
    out = []
    for some in qkv.split(max(1, 2**19 // bias.numel())):
        q, k, v = some.permute(2, 0, 3, 1, 4)
        scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1)
        out.append((scores.add_(bias).softmax(dim=-1) @ v).transpose(1, 2))
    return torch.cat(out)


class TransformerBlock(nn.Module):
    """Window attention and a perceptron, each after a layer norm and around a shortcut; (N, H, W, C) -> the same, H and W
    multiples of the window. Where `shifted`, the grid of windows is moved by half of one, and those that the border cuts are
    smaller: the same numbers as with rolling and masks, without scores that a mask throws away."""

    def __init__(self, channels: int, head_dim: int, window: int, shifted: bool) -> None:
        super().__init__()
        self.ln1 = nn.LayerNorm(channels)
        self.msa = WindowAttention(channels, head_dim, window)
        self.ln2 = nn.LayerNorm(channels)
        self.mlp = nn.Sequential(nn.Linear(channels, 4 * channels), nn.GELU(), nn.Linear(4 * channels, channels))
        self.shifted = shifted

    def forward(self, x: Tensor) -> Tensor:
        size = x.shape
        # A compiler traces through a cache, and says so.
        find = window_order if torch.compiler.is_compiling() else _kept_order
        order, inverse, shapes = find(tuple(size[:3]), self.msa.window, self.shifted, x.device)
        # Every step but attention looks at one pixel at a time: the pixels stay in the windows' order throughout.
        x = _Permute.apply(x.reshape(-1, size[3]), order, inverse)  # (N, H, W, C) -> (N H W, C)
        x = x + self.msa(self.ln1(x), shapes)
        # On a CPU, what the perceptron holds of so many pixels stays in the caches.
        parts = self.ln2(x).split(len(x) if x.is_cuda else 8192)
        x = x + torch.cat([self.mlp(part) for part in parts])
        return _Permute.apply(x, inverse, order).reshape(size)


def window_order(
    size: tuple[int, int, int], window: int, shifted: bool, device: torch.device
) -> tuple[Tensor, Tensor, list[tuple[int, int, int]]]:
    """How to line up the pixels of N pictures H x W, so that those of a window stand together, and how to undo it: two indices,
    (N H W,), and for each shape of window (count, h, w) in that order."""
    index = torch.arange(math.prod(size), device=device).reshape(size)
    half = window // 2
    rows, columns = (([half, side - half] if shifted else [side]) for side in size[1:])
    parts: dict[tuple[int, int], list[Tensor]] = {}
    for strip in index.tensor_split(rows, dim=1):
        for part in strip.tensor_split(columns, dim=2):
            if part.numel():
                h, w = min(window, part.shape[1]), min(window, part.shape[2])
                # (N, rows h, columns w) -> (N rows columns, h w)
                cells = part.reshape(size[0], -1, h, part.shape[2] // w, w).transpose(2, 3)
                parts.setdefault((h, w), []).append(cells.reshape(-1, h * w))
    shapes = [(sum(map(len, cells)), h, w) for (h, w), cells in parts.items()]
    order = torch.cat([cells.flatten() for found in parts.values() for cells in found])
    return order, order.argsort(), shapes


@lru_cache(maxsize=64)
def _kept_order(*arguments: Any) -> tuple[Tensor, Tensor, list[tuple[int, int, int]]]:
    with torch.inference_mode(False):  # kept by whoever codes, they serve whoever trains
        return window_order(*arguments)


class _Permute(torch.autograd.Function):
    """Rows in another order; PyTorch's own gradient of indexing would add where moving is enough."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, order: Tensor, inverse: Tensor) -> Tensor:
        ctx.save_for_backward(order, inverse)
        return x.index_select(0, order)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        order, inverse = ctx.saved_tensors
        return _Permute.apply(gradient, inverse, order), None, None


class ConvTransBlock(nn.Module):
    """Half of the channels through convolutions, half through window attention, then mixed; (N, 2 C, H, W) -> the same."""

    def __init__(self, channels: int, head_dim: int, window: int, shifted: bool) -> None:
        super().__init__()
        self.trans_block = TransformerBlock(channels, head_dim, window, shifted)
        self.conv1_1 = layers.conv1x1(2 * channels, 2 * channels)
        self.conv1_2 = layers.conv1x1(2 * channels, 2 * channels)
        self.conv_block = layers.ResidualBlock(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        conv, trans = self.conv1_1(x).chunk(2, dim=1)
        conv = self.conv_block(conv) + conv
        # (N, C, H, W) -> (N, H, W, C) and back: free of copies in channels_last
        trans = self.trans_block(trans.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        return x + self.conv1_2(torch.cat((conv, trans), dim=1))


class SwinBlock(nn.Module):
    """Two transformer blocks, the second with shifted windows; (N, C, H, W) -> the same."""

    def __init__(self, channels: int, head_dim: int, window: int) -> None:
        super().__init__()
        self.block_1 = TransformerBlock(channels, head_dim, window, shifted=False)
        self.block_2 = TransformerBlock(channels, head_dim, window, shifted=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.block_2(self.block_1(x.permute(0, 2, 3, 1))).permute(0, 3, 1, 2)


class SWAtten(layers.AttentionBlock):
    """Attention over what a slice may know: gated by windows, in `width` channels inside; (N, C, H, W) -> the same."""

    def __init__(self, channels: int, width: int, head_dim: int = 16, window: int = 8) -> None:
        super().__init__(width)
        self.non_local_block = SwinBlock(width, head_dim, window)
        self.in_conv = layers.conv1x1(channels, width)
        self.out_conv = layers.conv1x1(width, channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.out_conv(self.gated(x))

    def gated(self, x: Tensor) -> Tensor:
        """All but the last convolution; (N, C, H, W) -> (N, width, H, W)."""
        x = self.in_conv(x)
        gate = torch.sigmoid(self.conv_b(self.non_local_block(x)))
        return torch.addcmul(x, self.conv_a(x), gate)


class Context(nn.Sequential):
    """Three convolutions from what a slice may know to what follows for it; (N, C, H, W) -> (N, C', H, W)."""

    def __init__(self, channels: int, width: int, out: int) -> None:
        inner = width * 7 // 4
        first, second = layers.conv3x3(channels, inner), layers.conv3x3(inner, width)
        super().__init__(first, nn.GELU(), second, nn.GELU(), layers.conv3x3(width, out))
        self._merged: tuple[Any, Tensor] | None = None

    def after(self, last: nn.Conv2d, gated: Tensor, *more: Tensor) -> Tensor:
        """This of (last(gated), *more), where `last` is 1 x 1; without gradients in less time.

        Two linear steps in a row are one, from the channels of `gated`, not from the three to five times as many that `last` makes.
        What `last` adds ends at the picture's border, where the second step pads with zeros: a channel of ones stands for it.
        """
        if torch.is_grad_enabled() or torch.compiler.is_compiling():
            self._merged = None  # the weights may be about to change
            return self(torch.cat((last(gated), *more), dim=1))
        x = torch.cat((gated, *more, torch.ones_like(gated[:, :1])), dim=1)
        x = functional.conv2d(x, self._with(last), self[0].bias, padding=1)
        for step in list(self)[1:]:
            x = step(x)
        return x

    def _with(self, last: nn.Conv2d) -> Tensor:
        """The first convolution's kernel with `last` in it, (inner, width + others + 1, 3, 3); kept until gradients are asked
        (PyTorch's fused optimisers, as `.data`, count as no change), weights or, for the last bit's sake, the number of threads
        change."""
        parts = (self[0].weight, last.weight, last.bias)
        state = [(part.data_ptr(), part._version) for part in parts], torch.get_num_threads()
        if self._merged is None or self._merged[0] != state:
            own, others = self[0].weight.split((last.out_channels, self[0].in_channels - last.out_channels), dim=1)
            with torch.autocast(own.device.type, enabled=False):
                through = torch.einsum("ockl,cj->ojkl", own, last.weight[:, :, 0, 0])
                bias = torch.einsum("ockl,c->okl", own, last.bias)[:, None]
            self._merged = state, torch.cat((through, others, bias), dim=1)
        return self._merged[1]


class FastGaussianConditional(GaussianConditional):
    """CompressAI's, with one search in the table of scales where it compares with each of them; the same indexes."""

    def build_indexes(self, scales: Tensor) -> Tensor:
        return torch.bucketize(self.lower_bound_scale(scales).contiguous(), self.scale_table[:-1], out_int32=True)

    def tables(self) -> tuple[list[list[int]], list[int], list[int]]:
        """CDF tables, their lengths and offsets for the rANS coder, without the rows' unused ends; a ValueError without any."""
        if not self._quantized_cdf.numel():
            raise ValueError("this codec has no CDF tables: call update(force=True) after training, and before coding")
        lengths = self._cdf_length.tolist()
        rows = [row[:n].tolist() for row, n in zip(self._quantized_cdf.cpu(), lengths, strict=True)]
        return rows, lengths, self._offset.tolist()


class TCM(CompressionModel):
    r"""LIC-TCM, of 45.2, 59.1 and 76.6 million parameters at N = 64, 96 and 128 (the paper's small, medium, large).

    Answers CompressAI's `forward`, `compress`, `decompress` and `update`. Pictures of any size from 1 x 1 are continued to
    multiples of 128 by their last row and column, and cropped again by `forward`. Each of a batch is coded by itself, so its bytes,
    and what is decoded from them, are the same in any batch. ValueError where the numbers do not go together.

    Args:
        config: blocks in the three stages of g_a, then of g_s; h_a has as many as the first, h_mean_s and h_scale_s as the fourth.
        head_dim: channels of an attention head in the same six stages; each divides N.
        N: channels of each half of a mixed block, a multiple of 32.
        M: channels of y.
        num_slices: that y is coded in; divides M.
        max_support_slices: how many of the first slices the later ones know; negative for all.
        width: channels inside the entropy model, a multiple of 16; z has one and a half times as many. The paper has one width.

    >>> codec = TCM(N=32, M=64, num_slices=2).eval()
    >>> codec(torch.rand(1, 3, 70, 100))["x_hat"].shape
    torch.Size([1, 3, 70, 100])
    """

    multiple = 128  # of both sides, in pixels: 16 in y times windows of 8
    downsampling_factor = 64  # pixels along one side for one element of z

    def __init__(
        self,
        config: Sequence[int] = (2,) * 6,
        head_dim: Sequence[int] = (8, 16, 32, 32, 16, 8),
        N: int = 128,
        M: int = 320,
        num_slices: int = 5,
        max_support_slices: int = 5,
        width: int = 128,
    ) -> None:
        super().__init__()
        if len(config) != 6 or len(head_dim) != 6:
            raise ValueError(f"config {config} and head_dim {head_dim}: six stages each, three of g_a and three of g_s")
        if N % 32 or any(N % d for d in head_dim):
            raise ValueError(f"N={N} is not a multiple of 32, the hyperprior's head, and of head_dim {tuple(head_dim)}")
        if M % num_slices or width % 16:
            raise ValueError(f"M={M} is not a multiple of num_slices={num_slices}, or width={width} none of 16")
        self.config, self.head_dim = tuple(config), tuple(head_dim)
        self.N, self.M, self.num_slices, self.width = N, M, num_slices, width
        hyper = width * 3 // 2  # channels of z
        # The last slice has num_slices - 1 before it: from there on, and below zero, every number means all of them.
        self.max_support_slices = max_support_slices if 0 <= max_support_slices < num_slices - 1 else num_slices
        down, up = layers.ResidualBlockWithStride, layers.ResidualBlockUpsample

        def stage(blocks: int, head: int) -> list[nn.Module]:
            return [ConvTransBlock(N, head, 8, shifted=i % 2 == 1) for i in range(blocks)]

        def hyper_stage(blocks: int) -> list[nn.Module]:
            return [ConvTransBlock(N, 32, 4, shifted=i % 2 == 1) for i in range(blocks)]

        def hyper_synthesis() -> nn.Sequential:
            blocks = hyper_stage(config[3])  # first: the order of making decides the random start
            return nn.Sequential(up(hyper, 2 * N), *blocks, layers.subpel_conv3x3(2 * N, M, 2))

        def stages(resize: type[nn.Module], channels: int, first: int) -> list[nn.Module]:
            sizes = zip((channels, 2 * N, 2 * N), config[first : first + 3], head_dim[first : first + 3], strict=True)
            return [part for c, blocks, head in sizes for part in (resize(c, 2 * N), *stage(blocks, head))]

        self.g_a = nn.Sequential(*stages(down, 3, 0), layers.conv3x3(2 * N, M, stride=2))
        self.g_s = nn.Sequential(*stages(up, M, 3), layers.subpel_conv3x3(2 * N, 3, 2))
        self.h_a = nn.Sequential(down(M, 2 * N), *hyper_stage(config[0]), layers.conv3x3(2 * N, hyper, stride=2))
        self.h_mean_s, self.h_scale_s = hyper_synthesis(), hyper_synthesis()
        # What slice i knows: what the hyperprior says, and the slices before it.
        out = M // num_slices
        known = [M + out * min(i, self.max_support_slices) for i in range(num_slices)]
        self.atten_mean = nn.ModuleList(nn.Sequential(SWAtten(channels, width)) for channels in known)
        self.atten_scale = nn.ModuleList(nn.Sequential(SWAtten(channels, width)) for channels in known)
        self.cc_mean_transforms = nn.ModuleList(Context(channels, width, out) for channels in known)
        self.cc_scale_transforms = nn.ModuleList(Context(channels, width, out) for channels in known)
        self.lrp_transforms = nn.ModuleList(Context(channels + out, width, out) for channels in known)
        self.entropy_bottleneck = EntropyBottleneck(hyper)
        self.gaussian_conditional = FastGaussianConditional(None)

    @classmethod
    def from_state_dict(cls, state_dict: Mapping[str, Tensor]) -> TCM:
        """The network that a state dict was saved from, official ones included; ValueError if of none."""
        state = remap_old_keys("entropy_bottleneck", load_state_dict(state_dict))
        model = cls(**arguments(state))
        model.load_state_dict(state)
        return model

    def load_state_dict(self, state_dict: Mapping[str, Tensor], strict: bool = True) -> Any:
        """Load weights as CompressAI does; ValueError if they are of a TCM of other sizes, or of another model."""
        sizes = arguments(state_dict).items() if strict else ()
        if wrong := [f"{k}={value}, here {getattr(self, k)}" for k, value in sizes if getattr(self, k) != value]:
            raise ValueError(f"the weights are of a TCM with {'; '.join(wrong)}: build it by TCM.from_state_dict")
        return super().load_state_dict(state_dict, strict)

    def forward(self, x: Tensor) -> dict[str, Any]:
        r"""Decoded pictures and the likelihoods of the latents, with noise in training and rounded otherwise.

        Of x (N, 3, H, W) in [0, 1] (else ValueError): `x_hat` (N, 3, H, W), not clamped, and `likelihoods` of `y` (N, M, h, w) and
        `z` (N, 1.5 width, h / 4, w / 4), where h and w are a sixteenth of the padded picture's sides.
        """
        _check(x)
        y = self._run(self.g_a, pad(x, self.multiple).contiguous())
        z = self.h_a(y)
        _, z_likelihoods = self.entropy_bottleneck(z)
        medians = self._medians(z)
        hyper = self._hyper(quantize_ste(z - medians) + medians)
        means, scales, y_hat = [], [], []
        for i, slice_ in enumerate(y.chunk(self.num_slices, dim=1)):
            mean, scale, support = self._predict(i, hyper, y_hat)
            y_hat.append(self._corrected(i, support, quantize_ste(slice_ - mean) + mean))
            means.append(mean)
            scales.append(scale)
        _, y_likelihoods = self.gaussian_conditional(y, torch.cat(scales, dim=1), torch.cat(means, dim=1))
        x_hat = self._run(self.g_s, torch.cat(y_hat, dim=1))[..., : x.shape[2], : x.shape[3]]
        return {"x_hat": x_hat, "likelihoods": {"y": y_likelihoods, "z": z_likelihoods}}

    @torch.no_grad()
    def compress(self, x: Tensor) -> dict[str, Any]:
        """Code pictures (N, 3, H, W) in [0, 1]: `strings`, N of y and N of z, and the `shape` of z; ValueError as in `forward`, or
        where there are no CDF tables."""
        _check(x)
        tables = self.gaussian_conditional.tables()
        y_strings, z_strings = [], []
        for picture in pad(x, self.multiple).contiguous().split(1):
            y = self._run(self.g_a, picture)
            z = self.h_a(y)
            z_strings += self.entropy_bottleneck.compress(z)
            hyper = self._hyper(self.entropy_bottleneck.quantize(z, "dequantize", self._medians(z)))
            symbols, scales, y_hat = [], [], []
            for i, slice_ in enumerate(y.chunk(self.num_slices, dim=1)):
                mean, scale, support = self._predict(i, hyper, y_hat)
                symbols.append(self.gaussian_conditional.quantize(slice_, "symbols", mean))
                scales.append(scale)
                if i + 1 < self.num_slices:  # the last one is for the decoder alone
                    y_hat.append(self._corrected(i, support, symbols[-1] + mean))
            indexes = self.gaussian_conditional.build_indexes(torch.cat(scales, dim=1))
            # One string a picture, slice after slice, each in the order of channel, row, column.
            coded = (torch.cat(symbols, dim=1).flatten().tolist(), indexes.flatten().tolist())
            y_strings.append(RansEncoder().encode_with_indexes(*coded, *tables))
        return {"strings": [y_strings, z_strings], "shape": tuple(z.shape[-2:])}

    @torch.no_grad()
    def decompress(self, strings: Sequence[Sequence[bytes]], shape: Sequence[int]) -> dict[str, Tensor]:
        """The pictures in `strings`, N of y and N of z, as `x_hat` (N, 3, H, W) in [0, 1]; what `forward` gives in eval mode,
        clamped, with the padding that only the caller can cut. ValueError as in `compress`."""
        if len(strings) != 2 or len(strings[0]) != len(strings[1]) or not strings[0]:
            raise ValueError(f"strings of {[len(s) for s in strings]} pictures: TCM has one of y and one of z for each")
        tables = self.gaussian_conditional.tables()
        pictures = []
        for y_string, z_string in zip(*strings, strict=True):
            hyper = self._hyper(self.entropy_bottleneck.decompress([z_string], tuple(shape)))
            decoder, y_hat = RansDecoder(), []
            decoder.set_stream(y_string)
            for i in range(self.num_slices):
                mean, scale, support = self._predict(i, hyper, y_hat)
                indexes = self.gaussian_conditional.build_indexes(scale)
                symbols = decoder.decode_stream(indexes.flatten().tolist(), *tables)
                symbols = torch.tensor(symbols, dtype=mean.dtype, device=mean.device).reshape(mean.shape)
                y_hat.append(self._corrected(i, support, symbols + mean))
            pictures.append(self._run(self.g_s, torch.cat(y_hat, dim=1)).clamp(0, 1))
        return {"x_hat": torch.cat(pictures)}

    def _run(self, transform: nn.Sequential, x: Tensor) -> Tensor:
        """g_a or g_s, in channels_last where maps are large: there it is faster. With gradients, pictures enter in PyTorch's
        default format: on the CPU, the backward pass of a 1 x 1 convolution with stride 2 on three channels in channels_last
        writes beyond its memory (torch 2.13)."""
        for block in transform:
            large = x.shape[2] * x.shape[3] >= 4096 and not (x.shape[1] == 3 and torch.is_grad_enabled())
            x = x.contiguous(memory_format=torch.channels_last if large else torch.contiguous_format)
            x = block(x)
        # Or the encoder's entropy models would see another format than the decoder's, and sum in another order.
        return x.contiguous()

    def _medians(self, z: Tensor) -> Tensor:
        """(channels, 1, 1) -> (1, channels, 1, 1), as the type of z."""
        return self.entropy_bottleneck._get_medians().reshape(1, -1, 1, 1).to(z.dtype)

    def _hyper(self, z_hat: Tensor) -> tuple[Tensor, Tensor]:
        """What the hyperprior says of means and of scales, each (N, M, h, w)."""
        return self.h_mean_s(z_hat), self.h_scale_s(z_hat)

    def _predict(self, i: int, hyper: tuple[Tensor, Tensor], y_hat: list[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Mean and scale of slice `i` given the slices before it, and the support of the mean, before its last convolution."""
        before, of_mean, of_scale = y_hat[: self.max_support_slices], self.atten_mean[i][0], self.atten_scale[i][0]
        support, known = (
            a.gated(torch.cat([h, *before], dim=1)) for a, h in zip((of_mean, of_scale), hyper, strict=True)
        )
        mean = self.cc_mean_transforms[i].after(of_mean.out_conv, support)
        return mean, self.cc_scale_transforms[i].after(of_scale.out_conv, known), support

    def _corrected(self, i: int, support: Tensor, y_hat: Tensor) -> Tensor:
        """Latent residual prediction: slice `i` with a guess, of at most a half, of what its rounding took."""
        guess = self.lrp_transforms[i].after(self.atten_mean[i][0].out_conv, support, y_hat)
        return y_hat + 0.5 * torch.tanh(guess)


def _check(x: Tensor) -> None:
    if x.ndim != 4 or x.shape[1] != 3 or not x.is_floating_point():
        raise ValueError(f"pictures of {x.dtype} {tuple(x.shape)}: TCM takes floats (N, 3, H, W) in [0, 1]")
    if not x.numel():
        raise ValueError(f"an empty batch of shape {tuple(x.shape)}: TCM takes one picture or more, of 1 x 1 or more")
    if not torch.compiler.is_compiling() and not bool(((x >= 0) & (x <= 1)).all()):  # false for NaN too
        low, high = x.detach().aminmax()
        raise ValueError(f"pictures in [{low:.3g}, {high:.3g}]: TCM takes [0, 1] without NaN. Divide 8 bits by 255")


def arguments(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """The constructor's arguments that a state dict, perhaps of a model in parallel, was made with; ValueError if of no TCM."""
    state = {key.removeprefix("module."): value for key, value in state.items()}

    def numbers(pattern: str) -> list[int]:
        """Those that stand in place of the group in the entries' names, in order."""
        return sorted({int(found[1]) for found in (re.match(pattern, key) for key in state) if found})

    def last(transform: str) -> int:
        return numbers(rf"{transform}[.](\d+)[.]")[-1]

    try:
        channels = state[f"g_a.{last('g_a')}.weight"].shape[0]
        width = state["g_a.0.conv1.weight"].shape[0] // 2
        config, heads = [], []
        for transform, boundary in (("g_a", "conv1"), ("g_s", "conv")):
            # A stage begins with a residual block that resizes, and goes on with mixed blocks.
            starts = numbers(rf"{transform}[.](\d+)[.]{boundary}[.]weight$")
            for start, end in zip(starts, [*starts[1:], last(transform)], strict=True):
                config.append(end - start - 1)
                table = state.get(f"{transform}.{start + 1}.trans_block.msa.relative_position_params")
                heads.append(32 if table is None else width // table.shape[0])
        slices = len(numbers(r"cc_mean_transforms[.](\d+)[.]0[.]weight$"))
        known = max(state[f"cc_mean_transforms.{i}.0.weight"].shape[1] for i in range(slices))
        support = (known - channels) // (channels // slices)
        found = {"config": tuple(config), "head_dim": tuple(heads), "N": width, "M": channels, "num_slices": slices}
        found["max_support_slices"] = support if support < slices - 1 else slices
        return {**found, "width": state["atten_mean.0.0.in_conv.weight"].shape[0]}
    except (KeyError, ValueError, IndexError, ZeroDivisionError) as error:
        some = ", ".join(list(state)[:3]) or "none"
        told = f"no state dict of a TCM ({type(error).__name__}: {error}); it has {len(state)} entries, such as {some}"
        raise ValueError(f"{told}: use LIC-TCM weights, or load this file as what it was saved from") from error
