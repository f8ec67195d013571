r"""A small codec with ELIC's entropy model: He et al., "ELIC: Efficient Learned Image Compression with Unevenly Grouped
Space-Channel Contextual Adaptive Coding" (CVPR 2022), https://arxiv.org/abs/2203.10886.

The latent is coded in groups of channels, small ones first, and each group in two halves, as a checkerboard is coloured: what is
coded later knows what came before, in other channels and next to it. That is cheap, since it happens at a sixteenth of the
picture's sides. The transforms are ELIC's convolutions and residual bottlenecks with few channels where maps are large.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from compressai.ans import RansDecoder, RansEncoder
from compressai.entropy_models import EntropyBottleneck
from compressai.layers import CheckerboardMaskedConv2d
from compressai.models import CompressionModel
from compressai.models.sensetime import ResidualBottleneckBlock
from compressai.models.utils import conv, deconv
from compressai.ops import quantize_ste
from torch import Tensor, nn

from icm_helpers.codecs.tcm import FastGaussianConditional

Part = Callable[[slice, Tensor, Tensor, Tensor], Tensor]  # channels, half (h, w), scales and means -> y_hat


class _Checkerboard(CheckerboardMaskedConv2d):
    """CompressAI's, but it leaves its weights alone. CompressAI's writes the masked ones back, and where threads share them, as
    `container` does, one may convolve with what another is just writing."""

    def forward(self, x: Tensor) -> Tensor:
        return self._conv_forward(x, self.weight * self.mask, self.bias)


class ELIC(CompressionModel):
    r"""ELIC's context over small transforms; answers CompressAI's `forward`, `compress`, `decompress` and `update`.

    Pictures are (N, 3, H, W) with sides that are multiples of 64; `container` continues others. In training the decoder and the
    context see rounded latents (straight-through gradient) and likelihoods noisy ones.

    Args:
        N: channels at half of the picture's sides; twice and four times as many at a quarter and an eighth.
        M: channels of the latent, at a sixteenth.
        width: channels of the hyperprior.
        groups: of the latent's channels, in the order of coding; their sum is M, else a ValueError.
        blocks: residual bottlenecks at a half, a quarter and an eighth.

    >>> codec = ELIC(N=8, M=12, width=8, groups=(4, 8)).eval()
    >>> codec(torch.rand(1, 3, 64, 128))["x_hat"].shape
    torch.Size([1, 3, 64, 128])
    """

    downsampling_factor = 64  # pixels along one side for one element of z

    def __init__(
        self,
        N: int = 32,
        M: int = 128,
        width: int = 96,
        groups: Sequence[int] = (16, 16, 32, 64),
        blocks: Sequence[int] = (1, 2, 3),
    ) -> None:
        super().__init__()
        if sum(groups) != M:
            raise ValueError(f"groups {tuple(groups)} have {sum(groups)} channels together, the latent {M}")
        self.groups = tuple(groups)
        sides = (N, 2 * N, 4 * N)

        def mixed(level: int) -> list[nn.Module]:
            return [ResidualBottleneckBlock(sides[level], sides[level]) for _ in range(blocks[level])]

        self.g_a = nn.Sequential(
            conv(3, sides[0]), *mixed(0), conv(sides[0], sides[1]), *mixed(1), conv(sides[1], sides[2]), *mixed(2),
            conv(sides[2], M),
        )  # fmt: skip
        self.g_s = nn.Sequential(
            deconv(M, sides[2]), *mixed(2), deconv(sides[2], sides[1]), *mixed(1), deconv(sides[1], sides[0]), *mixed(0),
            deconv(sides[0], 3),
        )  # fmt: skip
        self.h_a = nn.Sequential(
            conv(M, width, kernel_size=3, stride=1), nn.GELU(), conv(width, width), nn.GELU(), conv(width, width)
        )
        self.h_s = nn.Sequential(
            deconv(width, width), nn.GELU(), deconv(width, width), nn.GELU(),
            conv(width, 2 * width, kernel_size=3, stride=1),
        )  # fmt: skip
        before = [sum(groups[:i]) for i in range(len(groups))]
        self.channel_context = nn.ModuleList(
            nn.Sequential(conv(known, width, 3, 1), nn.GELU(), conv(width, width, 3, 1)) for known in before[1:]
        )
        self.spatial_context = nn.ModuleList(_Checkerboard(c, 2 * c, kernel_size=5, padding=2) for c in groups)
        self.entropy_parameters = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d((3 if known else 2) * width + 2 * c, 128, 1), nn.GELU(), nn.Conv2d(128, 128, 1), nn.GELU(),
                nn.Conv2d(128, 2 * c, 1),
            )
            for c, known in zip(groups, before, strict=True)
        )  # fmt: skip
        self.entropy_bottleneck = EntropyBottleneck(width)
        self.gaussian_conditional = FastGaussianConditional(None)

    def forward(self, x: Tensor) -> dict[str, Any]:
        """Decoded pictures `x_hat` (N, 3, H, W), not clamped, and `likelihoods` of y (N, M, H/16, W/16) and z."""
        y = self.g_a(x)
        z = self.h_a(y)
        _, z_likelihoods = self.entropy_bottleneck(z)
        medians = self._medians()

        def rounded(channels: slice, half: Tensor, scale: Tensor, mean: Tensor) -> Tensor:
            return quantize_ste(y[:, channels] - mean) + mean

        y_hat, scales, means = self._walk(quantize_ste(z - medians) + medians, rounded)
        _, y_likelihoods = self.gaussian_conditional(y, scales, means)
        return {"x_hat": self.g_s(y_hat), "likelihoods": {"y": y_likelihoods, "z": z_likelihoods}}

    @torch.no_grad()
    def compress(self, x: Tensor) -> dict[str, Any]:
        """Code pictures: `strings`, N of y and N of z, and the `shape` of z; ValueError where there are no CDF tables."""
        tables, strings = self.gaussian_conditional.tables(), ([], [])
        for picture in x.split(1):
            y = self.g_a(picture)
            z = self.h_a(y)
            strings[1].extend(self.entropy_bottleneck.compress(z))
            symbols, indexes = [], []

            def write(
                channels: slice, half: Tensor, scale: Tensor, mean: Tensor, y=y, symbols=symbols, indexes=indexes
            ):
                found = self.gaussian_conditional.quantize(y[:, channels][..., half], "symbols", mean[..., half])
                symbols.extend(found.flatten().tolist())
                indexes.extend(self.gaussian_conditional.build_indexes(scale[..., half]).flatten().tolist())
                y_hat = mean.clone()
                y_hat[..., half] += found
                return y_hat

            self._walk(self.entropy_bottleneck.quantize(z, "dequantize", self._medians()), write)
            strings[0].append(RansEncoder().encode_with_indexes(symbols, indexes, *tables))
        return {"strings": list(strings), "shape": tuple(z.shape[-2:])}

    @torch.no_grad()
    def decompress(self, strings: Sequence[Sequence[bytes]], shape: Sequence[int]) -> dict[str, Tensor]:
        """The pictures in `strings` as `x_hat` (N, 3, H, W) in [0, 1]: what `forward` gives in eval mode, clamped."""
        tables, pictures = self.gaussian_conditional.tables(), []
        for y_string, z_string in zip(*strings, strict=True):
            decoder = RansDecoder()
            decoder.set_stream(y_string)

            def read(channels: slice, half: Tensor, scale: Tensor, mean: Tensor, decoder=decoder) -> Tensor:
                indexes = self.gaussian_conditional.build_indexes(scale[..., half])
                symbols = decoder.decode_stream(indexes.flatten().tolist(), *tables)
                y_hat = mean.clone()
                y_hat[..., half] += torch.tensor(symbols, dtype=mean.dtype, device=mean.device).view(indexes.shape)
                return y_hat

            y_hat, *_ = self._walk(self.entropy_bottleneck.decompress([z_string], tuple(shape)), read)
            pictures.append(self.g_s(y_hat).clamp(0, 1))
        return {"x_hat": torch.cat(pictures)}

    def _medians(self) -> Tensor:
        return self.entropy_bottleneck._get_medians().reshape(1, -1, 1, 1)

    def _walk(self, z_hat: Tensor, part: Part) -> tuple[Tensor, Tensor, Tensor]:
        """The rounded latent (N, M, h, w) with its scales and means, group after group, each in two halves: `part` gives one, by
        the scales and means that are known by then, and only where `half` is does it count."""
        hyper, groups = self.h_s(z_hat), []
        rows, columns = (torch.arange(n, device=z_hat.device) for n in hyper.shape[-2:])
        first, start = (rows[:, None] + columns) % 2 == 0, 0  # (h, w)
        for i, c in enumerate(self.groups):
            channels, support = slice(start, start + c), hyper
            if i:
                known = torch.cat([y_hat for y_hat, *_ in groups], dim=1)
                support = torch.cat([hyper, self.channel_context[i - 1](known)], dim=1)
            near, halves = hyper.new_zeros(len(hyper), 2 * c, *hyper.shape[-2:]), []
            for half in (first, ~first):
                scale, mean = self.entropy_parameters[i](torch.cat([support, near], dim=1)).chunk(2, dim=1)
                halves.append((part(channels, half, scale, mean) * half, scale, mean))
                near = self.spatial_context[i](halves[0][0]) if half is first else near
            groups.append([torch.where(first, *both) for both in zip(*halves, strict=True)])
            start += c
        y_hat, scales, means = (torch.cat(parts, dim=1) for parts in zip(*groups, strict=True))
        return y_hat, scales, means
