"""NeRV as one would write it from the paper, with the weights of ours: what `test_nerv_speed.py` compares with."""

from __future__ import annotations

import math

import torch
from pytorch_msssim import ssim
from torch import Tensor, nn
from torch.nn import functional

from icm_helpers.codecs.nerv import NeRV


class PlainNeRV(nn.Module):
    """Blocks of convolution, pixel shuffle and SiLU, then the head on the whole picture."""

    def __init__(self, network: NeRV) -> None:
        super().__init__()
        self.network = network

    def forward(self, t: Tensor) -> Tensor:
        network = self.network
        waves = []
        for level in range(network.pe_levels):
            waves += [torch.sin(network.pe_base**level * math.pi * t), torch.cos(network.pe_base**level * math.pi * t)]
        x = network.stem(torch.stack(waves, dim=1))
        height, width, channels = network.fc_hw_dim
        x = x.view(-1, channels, height, width)
        for stride, block in zip(network.strides, network.layers, strict=True):
            x = functional.silu(functional.pixel_shuffle(block["conv"]["conv"](x), stride))
        return (torch.tanh(network.head_layers[-1](x)) + 1) * 0.5

    @staticmethod
    def loss(x: Tensor, x_hat: Tensor, beta: float = 0.7) -> Tensor:
        """Eq. 4, with both terms for every frame of the batch by itself, as its mean over frames reads."""
        terms = [
            beta * functional.l1_loss(mine[None], theirs[None])
            + (1 - beta) * (1 - ssim(mine[None], theirs[None], data_range=1))
            for mine, theirs in zip(x_hat, x, strict=True)
        ]
        return sum(terms) / len(terms)
