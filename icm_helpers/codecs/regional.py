r"""Codecs whose encoder is told where a picture matters, by a region of interest (1, H, W) in {0, 1}; the decoder is told nothing.

Of the standards, `ffmpeg.RegionalHevc` moves bits by the quantiser. Where an encoder has no such switch, `LowPassed` takes the
details away that it would spend them on. `RegionalHyperprior` is learned, after Li et al., "ROI-based deep image compression
with Swin transformers" (ICASSP 2023). Kept of that paper: a binary mask goes into several layers, and the background has a Lagrange
multiplier of its own (`objectives.Regional`). Not kept: Swin transformers, the size, and whatever its decoder may be told.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import torch
from compressai.models import MeanScaleHyperprior
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d

from icm_helpers.codecs import zoo

SIGMA = 4.0
"""Of the Gaussian that the background is low-passed with, in pixels: what repeats within 21 pixels loses half of its contrast or
more."""


@dataclass(frozen=True)
class LowPassed:
    """A codec that is given a low-passed background: what it writes is an ordinary file of that codec."""

    coder: Any

    def encode(self, image: Tensor, roi: Tensor | None = None) -> bytes:
        """The file of a picture (3, H, W), low-passed where `roi` is 0; None: nowhere."""
        return self.coder.encode(image if roi is None else low_pass(image, roi))

    def decode(self, data: bytes) -> Tensor:
        """The picture in a file, by the codec as it is."""
        return self.coder.decode(data)


def low_passed(setting: int, codec: str) -> LowPassed:
    """A classical codec at a quality or QP, behind a low-pass of the background."""
    return LowPassed(zoo.load(codec, setting))


def low_pass(image: Tensor, roi: Tensor) -> Tensor:
    """The picture (3, H, W) inside the region, (1, H, W), and outside a Gaussian of it."""
    pixels = image.permute(1, 2, 0).cpu().numpy()  # (H, W, 3)
    smooth = cv2.GaussianBlur(pixels, (0, 0), SIGMA, borderType=cv2.BORDER_REPLICATE)
    return torch.where(roi.cpu() > 0, image.cpu(), torch.from_numpy(smooth).permute(2, 0, 1)).clamp(0, 1)


class Modulation(nn.Module):
    r"""A spatial feature transform: :math:`h \odot (1 + \gamma(m)) + \beta(m)`, where the map m decides; at first :math:`h`."""

    def __init__(self, channels: int, width: int = 16) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Conv2d(1, width, 3, padding=1), nn.ReLU(), nn.Conv2d(width, 2 * channels, 3, padding=1)
        )
        nn.init.zeros_(self.net[-1].weight)
        nn.init.zeros_(self.net[-1].bias)

    def forward(self, h: Tensor, roi: Tensor) -> Tensor:
        gamma, beta = self.net(roi).chunk(2, 1)  # (N, 2C, h, w)
        return h * (1 + gamma) + beta


class RegionalAnalysis(nn.Sequential):
    """The analysis of a mean-scale hyperprior, modulated after each of its four strides by the map at that size."""

    def __init__(self, layers: nn.Sequential) -> None:
        super().__init__(*layers)
        self.modulations = nn.ModuleList(Modulation(layer.out_channels) for layer in layers if hasattr(layer, "stride"))

    def forward(self, x: Tensor) -> Tensor:
        """Pictures (N, 3, H, W), or with their maps as a fourth channel; without, all of a picture is of interest."""
        h, roi = (x[:, :3], x[:, 3:]) if x.shape[1] == 4 else (x, torch.ones_like(x[:, :1]))
        modulations = iter(self.modulations)
        *layers, _ = self.children()
        for k, layer in enumerate(layers):
            h = layer(h)
            if k % 2 or k == len(layers) - 1:  # a convolution of stride 2 and what bends it; the last stands alone
                roi = avg_pool2d(roi, 2)
                h = next(modulations)(h, roi)
        return h


class RegionalHyperprior(MeanScaleHyperprior):
    """A mean-scale hyperprior whose encoder also takes the region of interest, (N, 1, H, W); it starts as what it extends."""

    added = "g_a.modulations."  # what a file of the codec that it extends does not have

    def __init__(self, N: int, M: int, **more: Any) -> None:
        super().__init__(N, M, **more)
        self.g_a = RegionalAnalysis(self.g_a)

    def forward(self, x: Tensor, roi: Tensor | None = None) -> dict[str, Any]:
        return super().forward(_with(x, roi))

    def compress(self, x: Tensor, roi: Tensor | None = None) -> dict[str, Any]:
        return super().compress(_with(x, roi))


def _with(x: Tensor, roi: Tensor | None) -> Tensor:
    return x if roi is None else torch.cat((x, roi.to(x)), 1)
