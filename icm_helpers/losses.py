r"""What a codec is trained for: every loss of the book has the form :math:`\mathcal L = \mathcal R + \lambda\,\mathcal D`. The rate
:math:`\mathcal R` is always the same; a paper's idea lies in :math:`\mathcal D`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from pytorch_msssim import ssim
from torch import Tensor
from torch.nn.functional import interpolate, l1_loss, mse_loss

PEAK = 255.0
"""Distortions are given on the 8-bit scale, as the codecs' own training code does: :math:`255^2\\,\\mathrm{MSE}`."""


def rate(likelihoods: dict[str, Tensor], pixels: int) -> Tensor:
    r"""Estimated rate in bits per pixel: :math:`\mathcal R = -\frac{1}{P} \sum_i \log_2 p_i` over all latents of all images.

    `likelihoods` are what a codec's forward pass gives; P is how many pixels the batch has in all, :math:`N \cdot H \cdot W`;
    ValueError unless it is positive.

    >>> rate({"y": torch.full((1, 8, 2, 2), 0.5)}, pixels=64).item()  # 32 latents of one bit each
    0.5
    """
    if pixels <= 0:
        raise ValueError(f"the rate is per pixel: pixels must be positive, not {pixels}")
    return sum(-p.log2().sum() for p in likelihoods.values()) / pixels


def masked_mse(x: Tensor, x_hat: Tensor, mask: Tensor) -> Tensor:
    r"""Mean squared error of the masked images: :math:`\mathrm{MSE}(x \odot m,\; \hat x \odot m)`.

    The mean runs over *all* pixels, as in eq. 3 of Shindo et al. (CCNC 2024) and eq. 5 of Shindo et al. (ICIP 2024): an image with
    few object pixels weighs little, and an image with none weighs nothing. Original and decoded images `x`, `x_hat` are (N, 3, H,
    W) in [0, 1]; the mask is (N, 1, H, W), 1 where the image matters, else 0. ValueError for other shapes or masks.

    >>> x = torch.rand(2, 3, 8, 8)
    >>> masked_mse(x, x, torch.ones(2, 1, 8, 8)).item()
    0.0
    """
    _same_shape(x, x_hat)
    mask = _binary(mask, x)
    return mse_loss(x_hat * mask, x * mask)


def rate_distortion(
    out: dict[str, Tensor | dict[str, Tensor]], x: Tensor, lmbda: float, mask: Tensor | None = None
) -> dict[str, Tensor]:
    r"""The training loss :math:`\mathcal R + \lambda\, 255^2\, \mathrm{MSE}(x \odot m, \hat x \odot m)`.

    Without a mask it is :math:`\mathcal L_h`, the loss of codecs for people (eq. 1 of Shindo et al., CCNC 2024); with the union of
    the object masks it is the paper's :math:`\mathcal L_p` (eq. 4). `out` is a codec's answer, `{"x_hat": (N, 3, H, W),
    "likelihoods": {...}}`. Gives the scalars `loss`, `bpp` (the rate) and `distortion` (the second term without lmbda). ValueError
    as :func:`masked_mse`, or where lmbda is not positive.
    """
    if not lmbda > 0:
        raise ValueError(f"lmbda must be positive, not {lmbda}")
    mask = torch.ones_like(x[:, :1]) if mask is None else mask
    bpp = rate(out["likelihoods"], x.shape[0] * x.shape[2] * x.shape[3])
    distortion = PEAK**2 * masked_mse(x, out["x_hat"], mask)
    return {"loss": bpp + lmbda * distortion, "bpp": bpp, "distortion": distortion}


def feature_distillation(
    feats: Mapping[str, Tensor], feats_hat: Mapping[str, Tensor], weights: Mapping[str, Tensor] | None = None
) -> Tensor:
    r"""Distance of a detector's features: :math:`\mathcal D = \frac{1}{N} \sum_i \overline{W_i \odot (F_i - \hat F_i)^2}`.

    Eq. 2 of Iino et al. without weights, eq. 3 with :func:`box_weights`, eq. 4 with :func:`objectness_weights`. The mean runs over
    all cells, channels and images of a level, the sum over the N levels: an image whose weights are small weighs little.

    Features of the original and of the decoded images are level -> (N, C, h, w); C, h, w differ between levels. Weights are level
    -> (N, 1, h, w), None for ones; no gradient flows into them. ValueError where levels or shapes differ, or features are not
    finite.

    >>> a, b = {"p2": torch.zeros(1, 8, 4, 4)}, {"p2": torch.ones(1, 8, 4, 4)}
    >>> feature_distillation(a, b).item(), feature_distillation(a, b, {"p2": torch.full((1, 1, 4, 4), 0.25)}).item()
    (1.0, 0.25)
    """
    if not feats or feats.keys() != feats_hat.keys() or (weights is not None and weights.keys() != feats.keys()):
        named = [", ".join(maps) or "none" for maps in (feats, feats_hat, weights or {})]
        raise ValueError(f"levels differ: {named[0]} of the original, {named[1]} decoded, {named[2]} of weights")
    total = torch.zeros((), device=next(iter(feats.values())).device)
    for level, f in feats.items():
        f_hat = feats_hat[level]
        if f.shape != f_hat.shape:
            raise ValueError(f"features {level} differ in shape: {tuple(f.shape)} and {tuple(f_hat.shape)}")
        error = (f - f_hat).square()
        if weights is not None:
            wanted = (f.shape[0], 1, *f.shape[2:])
            if weights[level].shape != wanted:
                raise ValueError(f"weights {level} must have shape {wanted}, not {tuple(weights[level].shape)}")
            error = error * weights[level].detach()
        distance = error.mean()
        # Looked for in the mean, where one of them would show; also in features that a weight of zero hides.
        if not distance.isfinite():
            raise ValueError(f"features {level} hold NaN or infinity: what made the images, perhaps a codec, diverged")
        total = total + distance
    return total / len(feats)


def objectness_weights(
    logits: Mapping[str, Tensor], sizes: Mapping[str, tuple[int, int]], reduction: str = "max", temperature: float = 1.0
) -> dict[str, Tensor]:
    r"""How probably there is an object: :math:`O = \max_a \sigma(l_a / T)` over the anchors a of each cell, as weights (eq. 4).

    The paper does not say how several anchors become one number: `max` asks whether any of them sees an object, `mean` how many
    do. A temperature below 1 sharpens, above 1 softens. ValueError for another reduction, a temperature that is not positive, or a
    level without logits.

    `logits` are level -> (N, A, h, w), what the region proposal network gives for A anchors a cell, `sizes` level -> (h, w) of the
    features to weight, to which others are resized (bilinear). The weights are level -> (N, 1, h, w) in [0, 1], detached.

    >>> logits = {"p2": torch.tensor([0.0, -50.0]).reshape(1, 2, 1, 1).expand(1, 2, 4, 4)}
    >>> [objectness_weights(logits, {"p2": (4, 4)}, how)["p2"].mean().item() for how in ("max", "mean")]
    [0.5, 0.25]
    """
    if reduction not in ("max", "mean"):
        raise ValueError(f"reduction must be max or mean, not {reduction!r}")
    if not temperature > 0:
        raise ValueError(f"temperature must be positive, not {temperature}")
    if missing := sizes.keys() - logits.keys():
        raise ValueError(f"no objectness for {', '.join(sorted(missing))}; known: {', '.join(logits) or 'none'}")
    weights = {}
    for level, size in sizes.items():
        probability = (logits[level].detach() / temperature).sigmoid()
        # (N, A, h, w) -> (N, 1, h, w)
        o = probability.amax(1, keepdim=True) if reduction == "max" else probability.mean(1, keepdim=True)
        weights[level] = o if o.shape[2:] == size else interpolate(o, size, mode="bilinear", align_corners=False)
    return weights


def box_weights(
    boxes: Sequence[Tensor], sizes: Mapping[str, tuple[int, int]], image_size: tuple[int, int]
) -> dict[str, Tensor]:
    """The true boxes as weights (eq. 3): level -> (N, 1, h, w), 1 in every cell that a box touches, 0 elsewhere.

    `boxes` are for each image (n, 4), x1 y1 x2 y2 in its pixels; `sizes` the (h, w) of each level's features, which cover the
    images of `image_size` (height, width).

    >>> box_weights([torch.tensor([[4.0, 0.0, 9.0, 4.0]])], {"p2": (2, 4)}, (8, 16))["p2"][0, 0]
    tensor([[0., 1., 1., 0.],
            [0., 0., 0., 0.]])
    """
    height, width = image_size
    weights = {}
    for level, (h, w) in sizes.items():
        maps = []
        for found in boxes:
            scaled = found * found.new_tensor([w / width, h / height] * 2)
            x0, y0, x1, y1 = (v[:, None] for v in scaled.unbind(-1))  # (n, 1) each
            x, y = (torch.arange(n, device=found.device) for n in (w, h))
            # Cell x covers [x, x + 1): a box touches it where the two overlap. -> (n, h, w)
            touched = ((y + 1 > y0) & (y < y1))[:, :, None] & ((x + 1 > x0) & (x < x1))[:, None, :]
            maps.append(touched.any(0)[None])
        weights[level] = torch.stack(maps).float()
    return weights


def nerv_loss(x: Tensor, x_hat: Tensor, beta: float = 0.7) -> Tensor:
    r"""The loss of NeRV: :math:`\mathcal L_n = \beta\,\lVert x - \hat x \rVert_1 + (1 - \beta)\,(1 - \mathrm{SSIM}(x, \hat x))`.

    Chen et al. (NeurIPS 2021), and eq. 4 of Shindo et al. (ICIP 2024). The norm is the mean over all values, as in NeRV's own
    code. Frames are (N, 3, H, W) in [0, 1], sides of at least 11 pixels, SSIM's window; ValueError for others, or a beta outside
    [0, 1].

    >>> x = torch.rand(2, 3, 16, 16)
    >>> nerv_loss(x, x).item()
    0.0
    """
    _same_shape(x, x_hat)
    if min(x.shape[2:]) < 11:
        raise ValueError(f"SSIM's window has 11 x 11 pixels, the frames have {tuple(x.shape[2:])}: use larger ones")
    if not 0 <= beta <= 1:
        raise ValueError(f"beta must lie in [0, 1], not {beta}")
    x_hat = x_hat.float()  # SSIM is a ratio of small differences: bfloat16 would spoil it
    return beta * l1_loss(x_hat, x) + (1 - beta) * (1 - ssim(x_hat, x, data_range=1))


def sa_nerv_loss(x: Tensor, x_hat: Tensor, mask: Tensor, beta: float = 0.7, weight: float = 1.0) -> Tensor:
    r"""The loss of SA-NeRV: :math:`\mathcal L_n(x, \hat x) + w\,\mathcal L_n(x \odot m, \hat x \odot m)`.

    Eq. 6 of Shindo et al. (ICIP 2024), where :math:`w` is 1. The second summand is that of the masked frames, literally, as means
    over *all* pixels: where SSIM's window sees no edge it compares two black pictures, which are alike, so that a thin mask weighs
    little. The mask is binary, (N, 1, H, W), in the paper the edges of Segment Anything's map. ValueError as in :func:`nerv_loss`,
    or for others.

    >>> x, x_hat = torch.rand(2, 3, 16, 16), torch.rand(2, 3, 16, 16)
    >>> (sa_nerv_loss(x, x_hat, torch.zeros(2, 1, 16, 16)) == nerv_loss(x, x_hat)).item()
    True
    """
    mask = _binary(mask, x)
    return nerv_loss(x, x_hat, beta) + weight * nerv_loss(x * mask, x_hat * mask, beta)


def _same_shape(x: Tensor, x_hat: Tensor) -> None:
    if x.shape != x_hat.shape:
        raise ValueError(f"original and decoded pictures differ in shape: {tuple(x.shape)} and {tuple(x_hat.shape)}")


def _binary(mask: Tensor, x: Tensor) -> Tensor:
    """A mask of the pictures x, as their type."""
    if mask.shape != (x.shape[0], 1, *x.shape[2:]):
        raise ValueError(f"the mask must have shape {(x.shape[0], 1, *x.shape[2:])}, not {tuple(mask.shape)}")
    if not ((mask == 0) | (mask == 1)).all():
        raise ValueError("the mask must be binary: every value 0 or 1 (threshold it first)")
    return mask.to(x.dtype)
