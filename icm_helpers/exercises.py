"""What the exercises ask of a solution: each check takes yours, and says what is wrong, or that it is right."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from faster_coco_eval.core import mask as rle
from torch import Tensor

from icm_helpers import bd, losses, simulate
from icm_helpers.codecs import tcm

# --- comparing two codecs ------------------------------------------------------------------------------------------------


def check_grid(yours: Callable, by_hand: Callable, one: tuple, other: tuple) -> None:
    """BD-rate by a mean over a grid; `by_hand` is the integral, `one` and `other` are (rates, qualities)."""
    cheaper = yours(*one, 0.8 * one[0], one[1], 10)
    assert abs(cheaper + 20) < 1e-9, "0.8 times the bits is -20 % at every quality"
    assert abs(yours(*one, *other, 10_000) - by_hand(*one, *other)) < 0.01
    assert yours(*one, *other, 1000) < 0 < yours(*other, *one, 1000)
    print("right: a mean over many qualities is the integral over their range")


def check_pooled(yours: Callable) -> None:
    """Points that do not rise, merged."""
    cases = (
        ((simulate.RATES, [0.3, 0.376, 0.451, 0.516]),) * 2 + ("a curve that rises stays as it is",),
        (([1, 2, 8, 16], [0.1, 0.3, 0.2, 0.4]), ([1, 4, 16], [0.1, 0.25, 0.4]), "2 and 8 bpp merge at 4 bpp, AP 0.25"),
        (([1, 2, 4], [0.3, 0.3, 0.0]), ([2], [0.2]), "a merged point may have to merge again, by its weight"),
    )
    for points, wanted, why in cases:
        found = yours(*(np.array(v, float) for v in points))
        assert len(found[0]) == len(wanted[0]) and np.allclose(found, wanted), why
    print("right: the result rises, and no point was thrown away")


def check_corrected(yours: Callable) -> None:
    """An interval for one of many comparisons."""
    values = np.random.default_rng(0).normal(-2.5, 1, 200)
    assert np.allclose(yours(values, 1), np.percentile(values, [2.5, 97.5]))
    assert np.allclose(yours(values, 5), np.percentile(values, [0.5, 99.5])), "five comparisons, a fifth of each tail"
    for m in (6, 20):
        try:
            yours(values, m)
        except ValueError:
            continue
        raise AssertionError(f"a tail of {2.5 / m:.3f} % of 200 replicates is less than one of them")
    print("right: wider with every comparison, and refused where the tails are empty")


# --- what a machine needs ------------------------------------------------------------------------------------------------


def check_mask_iou(yours: Callable, detected: Tensor, true: Tensor) -> None:
    """The overlap of masks (n, H, W)."""
    a, b = torch.zeros(2, 4, 4, dtype=torch.bool)
    assert yours(a, b) == 0, "two empty masks share nothing"
    a[:2], b[1:3] = True, True
    assert yours(a, a) == 1 and yours(a, ~a) == 0
    assert abs(yours(a, b) - 1 / 3) < 1e-6
    pairs = [(m, t) for m in detected for t in true]
    for pair in pairs:
        first, second = (rle.encode(np.asfortranarray(v.numpy().astype(np.uint8))) for v in pair)
        assert abs(yours(*pair) - rle.iou([first], [second], [0])[0, 0]) < 1e-6
    print(f"right, also on {len(pairs)} pairs of detected and true masks, against COCO's own code")


def check_doubled(yours: Callable, found: Sequence[dict[str, Tensor]], ap_of: Callable) -> None:
    """Detections that come twice; `ap_of` gives AP for such a list."""
    half, behind, last = (yours(found, factor) for factor in (0.5, 0.999, 1e-6))
    assert all(len(d["scores"]) == 2 * len(f["scores"]) for d, f in zip(half, found, strict=True))
    ap = [ap_of(v) for v in (found, behind, last)]
    assert ap[1] < ap[0], "a duplicate right behind its original should cost precision"
    assert ap[2] >= ap[0] - 1e-9, "duplicates behind everything else should cost nothing"
    print(f"right: AP {ap[0]:.3f}; doubled with factor .999 {ap[1]:.3f}, with factor 1e-6 {ap[2]:.3f}")


CHANGES = {  # of a score, of what is seen in a picture, in a category
    "as they are": lambda score, picture, category: score,
    "square root": lambda score, picture, category: score**0.5,
    "another power for each category": lambda score, picture, category: score ** (1 + category),
    "another factor for each picture": lambda score, picture, category: score / (1 + picture % 3),
}


def check_rescaled(yours: Callable, found: Any, coded: Any, measures: dict[str, Callable]) -> pd.DataFrame:
    """Scores that were changed, in pictures as they are and as coded, and what measures of both say under each of the CHANGES."""
    first = yours(found, lambda score, picture, category: category)[0]
    assert first["scores"].tolist() == first["labels"].tolist(), "`change` gets each detection's own category"
    changed = {what: (yours(found, change), yours(coded, change)) for what, change in CHANGES.items()}
    rows = {what: {name: of(*both) for name, of in measures.items()} for what, both in changed.items()}
    before, (_, root, by_category, by_picture) = measures["AP"](found, coded), (row["AP"] for row in rows.values())
    assert root == before, "an increasing function keeps the order"
    assert by_category == before, "each category has a list of its own"
    assert by_picture != before, "all pictures share one list"
    print("right: the order within a category, over all pictures, is all that AP sees")
    return pd.DataFrame(rows).T.round(4)


# --- rate and distortion -------------------------------------------------------------------------------------------------


def check_coin_entropy(yours: Callable) -> None:
    """The entropy of a biased coin."""
    assert yours(0.5) == 1, "a fair coin costs one bit"
    assert yours(1.0) == 0 == yours(0.0), "what is certain costs nothing"
    assert abs(yours(0.11) - yours(0.89)) < 1e-6, "heads and tails are only names"
    assert abs(yours(0.11) - 0.4999) < 1e-3
    print("right: one bit for a fair coin, less for every other")


def check_extra_bits(yours: Callable) -> None:
    """What a wrong scale costs."""
    n = torch.arange(-400, 401, dtype=torch.float64)
    for sigma, s in ((8.0, 8.0), (8.0, 4.0), (8.0, 16.0), (20.0, 15.0)):
        normals = (torch.distributions.Normal(0.0, v) for v in (sigma, s))
        p, q = (normal.cdf(n + 0.5) - normal.cdf(n - 0.5) for normal in normals)
        penalty = torch.special.xlogy(p, p / q.clamp(min=1e-300)).sum().item() / math.log(2)
        assert abs(yours(sigma, s) - penalty) < 0.02, f"sigma {sigma}, s {s}: {penalty:.3f}, not {yours(sigma, s):.3f}"
    print("right: as counted over the whole numbers, for four pairs of scales")


def check_find_lmbda(yours: Callable) -> None:
    """A lambda for a rate."""
    calls = []

    def rate_of(lmbda: float) -> float:
        calls.append(lmbda)
        return 0.5 + 0.1 * math.log2(lmbda / 0.001)

    found = yours(rate_of, 0.7, 0.0001, 1.0, 12)
    assert len(calls) <= 12, f"{len(calls)} calls, 12 were allowed: each of them would be a training"
    assert abs(math.log2(found / 0.004)) < 0.01, f"found {found:.5f}, right is 0.004: twelve tries can do better"
    print(f"right: {found:.4f} after {len(calls)} calls")


# --- inside LIC-TCM ------------------------------------------------------------------------------------------------------


def check_scores(yours: Callable) -> None:
    """Scores of attention in whole windows."""
    assert yours(8, 8, 8) == 64 * 64, "one window: each of 64 cells asks 64"
    assert yours(16, 8, 8) == 2 * yours(8, 8, 8), "two windows do not ask each other"
    assert yours(8, 8, 4) == 4 * 16 * 16, "four small windows: each of 16 cells asks 16"
    for height, width in ((32, 48), (128, 64)):
        *_, shapes = tcm.window_order((1, height, width), 8, False, torch.device("cpu"))
        assert yours(height, width, 8) == sum(n * (h * w) ** 2 for n, h, w in shapes)
    print("right: as many as the codec computes")


def check_cut(yours: Callable) -> None:
    """Windows of the shifted grid, cut by the border."""
    for height, width, side in ((8, 8, 8), (8, 24, 8), (32, 16, 8), (12, 4, 4)):
        *_, shapes = tcm.window_order((1, height, width), side, True, torch.device("cpu"))
        expected = {(h, w): n for n, h, w in shapes}
        found = {shape: n for shape, n in yours(height, width, side).items() if n}
        assert found == expected, f"{height} x {width} in windows of {side}: {expected}, not {found}"
    print("right: the windows that the codec makes, for four maps")


def check_centroid(yours: Callable, seed: int) -> None:
    """The guess that a Gaussian asks for."""
    n = torch.tensor([0.0, 1.0, -1.0, 2.0, 0.0, 9.0])
    scale = torch.tensor([0.5, 0.5, 0.5, 3.0, 0.11, 0.11])
    found = yours(n, scale)
    assert found[0].abs() < 1e-5 and found[4].abs() < 1e-5, "what is symmetric needs no guess"
    assert torch.isclose(found[1], -found[2]) and found[1] < 0, "a one was more likely a small one"
    assert found.isfinite().all() and found.abs().max() <= 0.5, "nine at a scale of 0.11 happens, and gives a number"
    torch.manual_seed(seed)
    for i in (1, 3):
        t = torch.randn(1_000_000) * scale[i]
        true = (t - t.round())[t.round() == n[i]].mean()
        assert abs(found[i] - true) < 0.01, f"n {n[i]:.0f}, scale {scale[i]}: {true:.3f}, not {found[i]:.3f}"
    print("right: as found among a million numbers, for two scales")


# --- object-region MSE ---------------------------------------------------------------------------------------------------


def check_bits_per_pixel(yours: Callable) -> None:
    """Bits per pixel of bytes."""
    assert yours(b"1234", 4, 4) == 2
    assert yours(b"123456", 2, 3) == 8
    print("right: bytes times eight, over the pixels of the picture")


def check_weighted_mse(yours: Callable, x: Tensor, x_hat: Tensor, mask: Tensor) -> None:
    """A background that weighs `outside`."""
    none, half, full = (yours(x, x_hat, mask, outside) for outside in (0.0, 0.5, 1.0))
    assert torch.isclose(none, losses.masked_mse(x, x_hat, mask))
    assert torch.isclose(full, torch.nn.functional.mse_loss(x_hat, x))
    assert none < half < full
    print("right: both ends agree, and half a weight lies between")


def check_widths(paired: float, unpaired: float) -> None:
    """Two widths of intervals [dB]."""
    assert 0 < paired < unpaired, "the same pictures are hard for both methods: pairing should narrow the interval"
    print(f"right: paired {paired:.2f} dB wide, unpaired {unpaired:.2f} dB")


# --- objectness distillation ---------------------------------------------------------------------------------------------


def check_mean_objectness(yours: Callable) -> None:
    """Weights from the logits of one level, by the mean."""
    logits = torch.randn(2, 3, 5, 7)
    book = losses.objectness_weights({"p2": logits}, {"p2": (5, 7)}, reduction="mean")["p2"]
    assert yours(logits).shape == (2, 1, 5, 7), "keep the dimension of the anchors, with size 1"
    assert torch.allclose(yours(logits), book), "probabilities first, then the mean"
    print("right")


@torch.no_grad()
def check_soft_weights(yours: Callable, teacher: Any, batch: tuple, x_hat: Tensor) -> None:
    """True boxes as weights, with a background that counts; `batch` holds pictures, masks, and objects."""
    feats, feats_hat = teacher.features(batch[0]), teacher.features(x_hat)
    sizes = {level: tuple(f.shape[2:]) for level, f in feats.items()}
    weights = losses.box_weights([of["boxes"] for of in batch[2]], sizes, tuple(x_hat.shape[2:]))
    loss = {v: losses.feature_distillation(feats, feats_hat, yours(weights, v)) for v in (0.0, 0.5, 1.0)}
    assert torch.isclose(loss[0.0], losses.feature_distillation(feats, feats_hat, weights))
    assert torch.isclose(loss[1.0], losses.feature_distillation(feats, feats_hat))
    assert torch.isclose(loss[0.5], (loss[0.0] + loss[1.0]) / 2)
    between = yours({"p2": torch.full((1, 1, 2, 2), 0.5)}, 0.2)["p2"]
    assert torch.allclose(between, torch.tensor(0.6)), "what lies between 0 and 1 moves along a line"
    print("right: both ends agree, and half lies in the middle")


def check_points(yours: Callable, equal: bd.Curve, boxes: bd.Curve, objectness: bd.Curve) -> None:
    """The share of replicates with a gain above 1.5 points."""
    for anchor, test in ((equal, objectness), (objectness, equal), (boxes, objectness)):
        found, interval = yours(anchor, test), bd.bd_metric(anchor, test)
        assert 0 <= found <= 1
        assert not interval.low > 0.015 or found > 0.95, "the whole interval lies above 1.5 points"
        assert not interval.high < 0.015 or found < 0.05, "the whole interval lies below 1.5 points"
    print(f"right: in {yours(equal, objectness):.0%} of the replicates")
