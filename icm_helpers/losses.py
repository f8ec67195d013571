r"""What a codec is trained for: the rate, the distortion, and the masks that say where distortion counts.

Every loss of the book has the form :math:`\mathcal L = \mathcal R + \lambda\,\mathcal D`. The rate :math:`\mathcal R` is always
the same; a paper's idea lies in :math:`\mathcal D`.
"""

from __future__ import annotations

import torch
from pytorch_msssim import ssim
from torch import Tensor
from torch.nn.functional import l1_loss, mse_loss

PEAK = 255.0
"""Distortions are given on the 8-bit scale, as the codecs' own training code does: :math:`255^2\\,\\mathrm{MSE}`."""


def rate(likelihoods: dict[str, Tensor], pixels: int) -> Tensor:
    r"""Estimated rate in bits per pixel: :math:`\mathcal R = -\frac{1}{P} \sum_i \log_2 p_i` over all latents of all images.

    Args:
        likelihoods: what a codec's forward pass gives, each entry in (0, 1], of any shape.
        pixels: how many pixels the batch has in all, :math:`N \cdot H \cdot W`.

    Raises:
        ValueError: `pixels` is not positive.

    >>> rate({"y": torch.full((1, 8, 2, 2), 0.5)}, pixels=64).item()  # 32 latents of one bit each
    0.5
    """
    if pixels <= 0:
        raise ValueError(f"the rate is per pixel: pixels must be positive, not {pixels}")
    return sum(-p.log2().sum() for p in likelihoods.values()) / pixels


def masked_mse(x: Tensor, x_hat: Tensor, mask: Tensor) -> Tensor:
    r"""Mean squared error of the masked images: :math:`\mathrm{MSE}(x \odot m,\; \hat x \odot m)`.

    The mean runs over *all* pixels, as in eq. 3 of Shindo et al. (CCNC 2024) and eq. 5 of Shindo et al. (ICIP 2024): an image
    with few object pixels weighs little, and an image with none weighs nothing (its loss is the rate alone).

    Args:
        x, x_hat: original and decoded images, (N, 3, H, W) in [0, 1].
        mask: binary, (N, 1, H, W); 1 where the image matters.

    Raises:
        ValueError: shapes differ, or the mask is not binary.

    >>> x = torch.rand(2, 3, 8, 8)
    >>> masked_mse(x, x, torch.ones(2, 1, 8, 8)).item()
    0.0
    """
    if x.shape != x_hat.shape:
        raise ValueError(f"original and decoded images differ in shape: {tuple(x.shape)} and {tuple(x_hat.shape)}")
    if mask.shape != (x.shape[0], 1, *x.shape[2:]):
        raise ValueError(f"the mask must have shape {(x.shape[0], 1, *x.shape[2:])}, not {tuple(mask.shape)}")
    if not ((mask == 0) | (mask == 1)).all():
        raise ValueError("the mask must be binary: every value 0 or 1 (threshold it first)")
    mask = mask.to(x.dtype)
    return mse_loss(x_hat * mask, x * mask)


def rate_distortion(
    out: dict[str, Tensor | dict[str, Tensor]], x: Tensor, lmbda: float, mask: Tensor | None = None
) -> dict[str, Tensor]:
    r"""The training loss :math:`\mathcal R + \lambda\, 255^2\, \mathrm{MSE}(x \odot m, \hat x \odot m)`.

    Without a mask it is :math:`\mathcal L_h`, the loss of codecs for people (eq. 1 of Shindo et al., CCNC 2024); with the union of
    the object masks it is the paper's :math:`\mathcal L_p` (eq. 4).

    Args:
        out: a codec's answer, `{"x_hat": (N, 3, H, W), "likelihoods": {...}}`.
        x: the original images, (N, 3, H, W) in [0, 1].
        lmbda: positive; the larger, the more bits and the better the picture.
        mask: binary, (N, 1, H, W), or None for the whole image.

    Returns:
        `loss`, `bpp` (the rate) and `distortion` (the second term without lmbda), scalars.

    Raises:
        ValueError: shapes differ, the mask is not binary, or lmbda is not positive.
    """
    if not lmbda > 0:
        raise ValueError(f"lmbda must be positive, not {lmbda}")
    if mask is None:
        mask = torch.ones_like(x[:, :1])
    bpp = rate(out["likelihoods"], x.shape[0] * x.shape[2] * x.shape[3])
    distortion = PEAK**2 * masked_mse(x, out["x_hat"], mask)
    return {"loss": bpp + lmbda * distortion, "bpp": bpp, "distortion": distortion}


def nerv_loss(x: Tensor, x_hat: Tensor, beta: float = 0.7) -> Tensor:
    r"""The loss of NeRV: :math:`\mathcal L_n = \beta\,\lVert x - \hat x \rVert_1 + (1 - \beta)\,(1 - \mathrm{SSIM}(x, \hat x))`.

    Chen et al. (NeurIPS 2021), and eq. 4 of Shindo et al. (ICIP 2024). The norm is the mean over all values, as in NeRV's own code,
    and the mean over frames is that over the batch.

    Args:
        x, x_hat: original and decoded frames, (N, 3, H, W) in [0, 1], sides of at least 11 pixels, SSIM's window.
        beta: weight of the first term, in [0, 1].

    Raises:
        ValueError: shapes differ, frames are too small, or beta is out of range.

    >>> x = torch.rand(2, 3, 16, 16)
    >>> nerv_loss(x, x).item()
    0.0
    """
    if x.shape != x_hat.shape:
        raise ValueError(f"original and decoded frames differ in shape: {tuple(x.shape)} and {tuple(x_hat.shape)}")
    if min(x.shape[2:]) < 11:
        raise ValueError(f"SSIM's window has 11 x 11 pixels, the frames have {tuple(x.shape[2:])}: take larger ones")
    if not 0 <= beta <= 1:
        raise ValueError(f"beta must lie in [0, 1], not {beta}")
    x_hat = x_hat.float()  # SSIM is a ratio of small differences: bfloat16 would spoil it
    return beta * l1_loss(x_hat, x) + (1 - beta) * (1 - ssim(x_hat, x, data_range=1))


def sa_nerv_loss(x: Tensor, x_hat: Tensor, mask: Tensor, beta: float = 0.7, weight: float = 1.0) -> Tensor:
    r"""The loss of SA-NeRV: :math:`\mathcal L_n(x, \hat x) + w\,\mathcal L_n(x \odot m, \hat x \odot m)`.

    Eq. 6 of Shindo et al. (ICIP 2024). The second summand is that of the masked frames, literally, as means over *all* pixels.
    Where SSIM's window sees no edge it compares two black pictures, which are alike, so that a thin mask weighs little.

    Args:
        x, x_hat, beta: as in :func:`nerv_loss`.
        mask: binary, (N, 1, H, W); in the paper, the edges of Segment Anything's map.
        weight: :math:`w`, 1 in the paper.

    Raises:
        ValueError: as in :func:`nerv_loss`, or the mask has another shape or is not binary.

    >>> x, x_hat = torch.rand(2, 3, 16, 16), torch.rand(2, 3, 16, 16)
    >>> (sa_nerv_loss(x, x_hat, torch.zeros(2, 1, 16, 16)) == nerv_loss(x, x_hat)).item()
    True
    """
    if mask.shape != (x.shape[0], 1, *x.shape[2:]):
        raise ValueError(f"the mask must have shape {(x.shape[0], 1, *x.shape[2:])}, not {tuple(mask.shape)}")
    if not ((mask == 0) | (mask == 1)).all():
        raise ValueError("the mask must be binary: every value 0 or 1 (threshold it first)")
    mask = mask.to(x.dtype)
    return nerv_loss(x, x_hat, beta) + weight * nerv_loss(x * mask, x_hat * mask, beta)
