"""LIC-TCM as one writes it down first: the yardstick of `test_tcm.py`, with the same parameters and the same output.

Attention spelled out with einsum, shifted windows by rolling, masks and relative indices made anew at every forward, PyTorch's
default memory format, symbols and scale indexes collected in Python lists slice by slice.
"""

from __future__ import annotations

from typing import Any

import torch
from compressai.ans import BufferedRansEncoder, RansDecoder
from compressai.entropy_models import GaussianConditional
from compressai.ops import quantize_ste
from torch import Tensor, nn

from icm_helpers.codecs.tcm import TCM, TransformerBlock, WindowAttention


class PlainAttention(nn.Module):
    """`WindowAttention` on a whole picture (N, H, W, C), by rolling, masking, and a matrix of all scores."""

    def __init__(self, like: WindowAttention, shifted: bool) -> None:
        super().__init__()
        self.heads, self.window, self.shifted = like.heads, like.window, shifted
        self.relative_position_params = like.relative_position_params
        self.embedding_layer, self.linear = like.embedding_layer, like.linear

    def forward(self, x: Tensor) -> Tensor:
        w, half = self.window, self.window // 2
        if self.shifted:
            x = torch.roll(x, (-half, -half), (1, 2))
        n, height, width, channels = x.shape
        rows, columns = height // w, width // w
        # (N, rows w, columns w, C) -> (N, windows, w w, C)
        x = x.reshape(n, rows, w, columns, w, channels).permute(0, 1, 3, 2, 4, 5).reshape(n, -1, w * w, channels)
        qkv = self.embedding_layer(x)
        # (N, windows, w w, 3 heads d) -> 3 of (heads, N, windows, w w, d)
        q, k, v = qkv.reshape(*qkv.shape[:3], 3 * self.heads, -1).permute(3, 0, 1, 2, 4).chunk(3, dim=0)
        scores = torch.einsum("hbwpc,hbwqc->hbwpq", q, k) * (channels // self.heads) ** -0.5
        scores = scores + self.bias()[:, None, None]
        if self.shifted:
            scores = scores.masked_fill(self.mask(rows, columns).to(x.device), float("-inf"))
        out = torch.einsum("hbwij,hbwjc->hbwic", scores.softmax(dim=-1), v)
        out = self.linear(out.permute(1, 2, 3, 0, 4).reshape(n, -1, w * w, channels))
        out = (
            out.reshape(n, rows, columns, w, w, channels).permute(0, 1, 3, 2, 4, 5).reshape(n, height, width, channels)
        )
        return torch.roll(out, (half, half), (1, 2)) if self.shifted else out

    def bias(self) -> Tensor:
        at = torch.tensor([[i, j] for i in range(self.window) for j in range(self.window)])
        apart = at[:, None] - at[None, :] + self.window - 1  # (w w, w w, 2)
        return self.relative_position_params[:, apart[:, :, 0], apart[:, :, 1]]

    def mask(self, rows: int, columns: int) -> Tensor:
        w, s = self.window, self.window // 2
        mask = torch.zeros(rows, columns, w, w, w, w, dtype=torch.bool)
        mask[-1, :, :s, :, s:, :] = True
        mask[-1, :, s:, :, :s, :] = True
        mask[:, -1, :, :s, :, s:] = True
        mask[:, -1, :, s:, :, :s] = True
        return mask.reshape(1, 1, rows * columns, w * w, w * w)


class PlainBlock(nn.Module):
    """`TransformerBlock` around it."""

    def __init__(self, like: TransformerBlock) -> None:
        super().__init__()
        self.ln1, self.ln2, self.mlp = like.ln1, like.ln2, like.mlp
        self.msa = PlainAttention(like.msa, like.shifted)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.msa(self.ln1(x))
        return x + self.mlp(self.ln2(x))


class PlainTCM(TCM):
    """`TCM` without what makes it fast, sharing the parameters of the one it is made `like`."""

    def __init__(self, like: TCM) -> None:
        nn.Module.__init__(self)
        self.__dict__.update({k: v for k, v in like.__dict__.items() if not k.startswith("_")})
        for name, child in like.named_children():
            self.add_module(name, _plain(child))

    def forward(self, x: Tensor) -> dict[str, Any]:
        y = self.g_a(x)
        z = self.h_a(y)
        _, z_likelihoods = self.entropy_bottleneck(z)
        medians = self._medians(z)
        z_hat = quantize_ste(z - medians) + medians
        hyper = self.h_mean_s(z_hat), self.h_scale_s(z_hat)
        y_hat, likelihoods = [], []
        for i, slice_ in enumerate(y.chunk(self.num_slices, dim=1)):
            mean, scale, support = self._predict(i, hyper, y_hat)
            likelihoods.append(self.gaussian_conditional(slice_, scale, mean)[1])
            y_hat.append(self._corrected(i, support, quantize_ste(slice_ - mean) + mean))
        x_hat = self.g_s(torch.cat(y_hat, dim=1))
        return {"x_hat": x_hat, "likelihoods": {"y": torch.cat(likelihoods, dim=1), "z": z_likelihoods}}

    @torch.no_grad()
    def compress(self, x: Tensor) -> dict[str, Any]:
        y = self.g_a(x)
        z = self.h_a(y)
        z_strings = self.entropy_bottleneck.compress(z)
        z_hat = self.entropy_bottleneck.decompress(z_strings, z.shape[-2:])
        hyper = self.h_mean_s(z_hat), self.h_scale_s(z_hat)
        cdf, lengths, offsets = self._tables()
        symbols_list, indexes_list, y_hat = [], [], []
        for i, slice_ in enumerate(y.chunk(self.num_slices, dim=1)):
            mean, scale, support = self._predict(i, hyper, y_hat)
            symbols = self.gaussian_conditional.quantize(slice_, "symbols", mean)
            symbols_list.extend(symbols.reshape(-1).tolist())
            indexes_list.extend(self.gaussian_conditional.build_indexes(scale).reshape(-1).tolist())
            y_hat.append(self._corrected(i, support, symbols + mean))
        encoder = BufferedRansEncoder()
        encoder.encode_with_indexes(symbols_list, indexes_list, cdf, lengths, offsets)
        return {"strings": [[encoder.flush()], z_strings], "shape": z.shape[-2:]}

    @torch.no_grad()
    def decompress(self, strings: list[list[bytes]], shape: tuple[int, int]) -> dict[str, Tensor]:
        z_hat = self.entropy_bottleneck.decompress(strings[1], shape)
        hyper = self.h_mean_s(z_hat), self.h_scale_s(z_hat)
        cdf, lengths, offsets = self._tables()
        decoder = RansDecoder()
        decoder.set_stream(strings[0][0])
        y_hat: list[Tensor] = []
        for i in range(self.num_slices):
            mean, scale, support = self._predict(i, hyper, y_hat)
            indexes = self.gaussian_conditional.build_indexes(scale).reshape(-1).tolist()
            symbols = decoder.decode_stream(indexes, cdf, lengths, offsets)
            y_hat.append(self._corrected(i, support, torch.Tensor(symbols).reshape(mean.shape) + mean))
        return {"x_hat": self.g_s(torch.cat(y_hat, dim=1)).clamp(0, 1)}

    def _predict(self, i: int, hyper: tuple[Tensor, Tensor], y_hat: list[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        before = y_hat[: self.max_support_slices]
        mean_support = self.atten_mean[i](torch.cat([hyper[0], *before], dim=1))
        scale_support = self.atten_scale[i](torch.cat([hyper[1], *before], dim=1))
        return self.cc_mean_transforms[i](mean_support), self.cc_scale_transforms[i](scale_support), mean_support

    def _corrected(self, i: int, support: Tensor, y_hat: Tensor) -> Tensor:
        return y_hat + 0.5 * torch.tanh(self.lrp_transforms[i](torch.cat([support, y_hat], dim=1)))

    def _tables(self) -> tuple[list[list[int]], list[int], list[int]]:
        model = self.gaussian_conditional
        return (
            model._quantized_cdf.tolist(),
            model._cdf_length.reshape(-1).int().tolist(),
            model._offset.reshape(-1).int().tolist(),
        )


def _plain(module: nn.Module) -> nn.Module:
    """A copy of the tree of modules on the same parameters, with every transformer block spelled out."""
    if isinstance(module, TransformerBlock):
        return PlainBlock(module)
    copy = module.__new__(GaussianConditional if isinstance(module, GaussianConditional) else type(module))
    copy.__dict__.update(module.__dict__)
    copy._modules = {name: _plain(child) for name, child in module._modules.items()}
    return copy
