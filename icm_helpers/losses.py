r"""What a codec is trained for: the rate, the distortion, and the masks that say where distortion counts.

Every loss of the book has the form :math:`\mathcal L = \mathcal R + \lambda\,\mathcal D`. The rate :math:`\mathcal R` is always
the same; a paper's idea lies in :math:`\mathcal D`.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import mse_loss

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
