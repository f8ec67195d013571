"""Checks of the exercises: each takes your solution, and says that it is right, or in an AssertionError why it is not."""

from __future__ import annotations

import copy
import functools
import inspect
import itertools
import math
import reprlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import torch
import torchvision
from faster_coco_eval.core import mask as rle
from torch import Tensor

from icm_helpers import bd, losses, masks, simulate
from icm_helpers.codecs import tcm


def _asked(yours: Callable) -> Callable:
    """A solution that answers, or says why not: with what it was called, and what it raised or that it returned nothing. It gets
    copies, so that one that works in place spoils nothing."""

    @functools.wraps(yours)
    def answer(*given: Any) -> Any:
        call = f"{yours.__name__}({', '.join(map(reprlib.repr, given))})"
        try:
            answered = yours(*copy.deepcopy(given))
        except Exception as error:
            raise AssertionError(f"{call} raises {type(error).__name__}: {error}") from error
        assert answered is not None, f"{call} returns nothing: is a `return` missing?"
        return answered

    return answer


def _check(check: Callable) -> Callable:
    """A check that fails in words alone, whatever a solution does."""

    @functools.wraps(check)
    def run(*given: Any) -> Any:
        try:
            return check(*(_asked(value) if inspect.isfunction(value) else value for value in given))
        except AssertionError:
            raise
        except Exception as error:
            told = f"your answer is not of the kind that the exercise asks for ({type(error).__name__}: {error})"
            raise AssertionError(told) from error

    return run


def _near(found: Any, wanted: Any, slack: float = 1e-8) -> bool:
    """Whether two numbers, of any type, are the same but for rounding, as `torch.isclose` has it."""
    return math.isclose(float(found), float(wanted), rel_tol=1e-5, abs_tol=slack)


# --- comparing two codecs ------------------------------------------------------------------------------------------------


@_check
def check_grid(yours: Callable, by_hand: Callable, one: tuple, other: tuple) -> None:
    """BD-rate by a mean over a grid; `by_hand` is the integral, `one` and `other` are (rates, qualities)."""
    cheaper = yours(*one, 0.8 * one[0], one[1], 10)
    assert abs(cheaper + 20) < 1e-9, "0.8 times the bits is -20 % at every quality"
    exact, fine = by_hand(*one, *other), yours(*one, *other, 10_000)
    assert abs(fine - exact) < 0.01, f"with 10,000 steps {fine:.3f} %, by the integral {exact:.3f} %"
    swapped = yours(*other, *one, 10_000)
    assert fine < 0 < swapped, f"the other way round it should rise above zero, not be {swapped:.3f} %"
    print("right: a mean over many qualities is the integral over their range")


@_check
def check_pooled(yours: Callable) -> None:
    """Points that do not rise, merged."""
    cases = (
        ((simulate.RATES, [0.3, 0.376, 0.451, 0.516]),) * 2 + ("a curve that rises stays as it is",),
        (([1, 2, 8, 16], [0.1, 0.3, 0.2, 0.4]), ([1, 4, 16], [0.1, 0.25, 0.4]), "2 and 8 bpp merge at 4 bpp, AP 0.25"),
        (([1, 2, 4], [0.3, 0.3, 0.0]), ([2], [0.2]), "a merged point may have to merge again, by its weight"),
    )
    for points, wanted, why in cases:
        found = yours(*(np.array(v, float) for v in points))
        told = f"{why}: {wanted} (rates, qualities), not {found}"
        assert len(found) == 2 and len(found[0]) == len(wanted[0]) and np.allclose(found, wanted), told
    print("right: the result rises, and no point was thrown away")


@_check
def check_corrected(yours: Callable) -> None:
    """An interval for one of many comparisons."""
    values = np.random.default_rng(0).normal(-2.5, 1, 200)
    assert np.allclose(yours(values, 1), np.percentile(values, [2.5, 97.5])), "one comparison: percentiles 2.5 and 97.5"
    assert np.allclose(yours(values, 5), np.percentile(values, [0.5, 99.5])), "five comparisons, a fifth of each tail"
    for m in (6, 20):
        try:
            yours(values, m)
        except AssertionError as error:
            if isinstance(error.__cause__, ValueError):
                continue
            raise
        raise AssertionError(
            f"a tail of {2.5 / m:.3f} % of 200 replicates is less than one of them: raise a ValueError, no other error"
        )
    print("right: wider with every comparison, and refused where the tails are empty")


# --- what a machine needs ------------------------------------------------------------------------------------------------


@_check
def check_mask_iou(yours: Callable, detected: Tensor, true: Tensor) -> None:
    """The overlap of masks (n, H, W)."""
    a, b = torch.zeros(2, 4, 4, dtype=torch.bool)
    assert yours(a, b) == 0, "two empty masks share nothing"
    a[:2], b[1:3] = True, True
    assert _near(yours(a, a), 1) and yours(a, ~a) == 0, "equal masks have IoU 1, masks without a common pixel 0"
    assert abs(yours(a, b) - 1 / 3) < 1e-6, "two masks of 8 pixels that share 4 cover 12: a third"
    pairs = [(m, t) for m in detected for t in true]
    for pair in pairs:
        first, second = (rle.encode(np.asfortranarray(v.numpy().astype(np.uint8))) for v in pair)
        theirs = rle.iou([first], [second], [0])[0, 0]
        assert abs(yours(*pair) - theirs) < 1e-6, f"{yours(*pair):.4f}, COCO's own code says {theirs:.4f}"
    print(f"right, also on {len(pairs)} pairs of detected and true masks, against COCO's own code")


@_check
def check_doubled(yours: Callable, found: Sequence[dict[str, Tensor]], ap_of: Callable) -> None:
    """Detections that come twice; `ap_of` gives AP for such a list."""
    half, behind, last = (yours(found, factor) for factor in (0.5, 0.999, 1e-6))
    kept = [
        d.keys() == f.keys() and all(len(d[k]) == 2 * len(f[k]) for k in f) for d, f in zip(half, found, strict=True)
    ]
    assert all(kept), f"every entry of every picture ({', '.join(found[0])}) should be twice as long"
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


@_check
def check_rescaled(yours: Callable, found: Any, coded: Any, measures: dict[str, Callable]) -> pd.DataFrame:
    """Scores that were changed, in pictures as they are and as coded, and what measures of both say under each of the CHANGES."""
    first = yours(found, lambda score, picture, category: category)[0]
    assert list(map(float, first["scores"])) == first["labels"].tolist(), "`change` gets each detection's own category"
    changed = {what: (yours(found, change), yours(coded, change)) for what, change in CHANGES.items()}
    rows = {what: {name: of(*both) for name, of in measures.items()} for what, both in changed.items()}
    before, (_, root, by_category, by_picture) = measures["AP"](found, coded), (row["AP"] for row in rows.values())
    assert root == before, "an increasing function keeps the order"
    assert by_category == before, "each category has a list of its own"
    assert by_picture != before, "all pictures share one list"
    print("right: the order within a category, over all pictures, is all that AP sees")
    return pd.DataFrame(rows).T.round(4)


# --- rate and distortion -------------------------------------------------------------------------------------------------


@_check
def check_coin_entropy(yours: Callable) -> None:
    """The entropy of a biased coin."""
    assert _near(yours(0.5), 1), f"a fair coin costs one bit, not {yours(0.5):.4f}"
    for p in (0.0, 1.0):
        assert _near(yours(p), 0, 1e-7), (
            f"what is certain costs nothing, not {yours(p):.4f} (0 times log 0 counts as 0)"
        )
    assert abs(yours(0.11) - yours(0.89)) < 1e-6, "heads and tails are only names"
    assert abs(yours(0.11) - 0.4999) < 1e-3, f"heads in 11 of 100 tosses: half a bit, not {yours(0.11):.3f}"
    print("right: one bit for a fair coin, less for every other")


@_check
def check_extra_bits(yours: Callable) -> None:
    """What a wrong scale costs."""
    n = torch.arange(-400, 401, dtype=torch.float64)
    for sigma, s in ((8.0, 8.0), (8.0, 4.0), (8.0, 16.0), (20.0, 15.0)):
        normals = (torch.distributions.Normal(0.0, v) for v in (sigma, s))
        p, q = (normal.cdf(n + 0.5) - normal.cdf(n - 0.5) for normal in normals)
        penalty = torch.special.xlogy(p, p / q.clamp(min=1e-300)).sum().item() / math.log(2)
        assert abs(yours(sigma, s) - penalty) < 0.02, f"sigma {sigma}, s {s}: {penalty:.3f}, not {yours(sigma, s):.3f}"
    print("right: as counted over the whole numbers, for four pairs of scales")


@_check
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


@_check
def check_scores(yours: Callable) -> None:
    """Scores of attention in whole windows."""
    assert yours(8, 8, 8) == 64 * 64, "one window: each of 64 cells attends to 64"
    assert yours(16, 8, 8) == 2 * yours(8, 8, 8), "two windows do not attend to each other"
    assert yours(8, 8, 4) == 4 * 16 * 16, "four small windows: each of 16 cells attends to 16"
    for height, width in ((32, 48), (128, 64)):
        *_, shapes = tcm.window_order((1, height, width), 8, False, torch.device("cpu"))
        computed = sum(n * (h * w) ** 2 for n, h, w in shapes)
        assert yours(height, width, 8) == computed, f"{height} x {width} in windows of 8: the codec computes {computed}"
    print("right: as many as the codec computes")


@_check
def check_cut(yours: Callable) -> None:
    """Windows of the shifted grid, cut by the border."""
    for height, width, side in ((8, 8, 8), (8, 24, 8), (32, 16, 8), (12, 4, 4)):
        *_, shapes = tcm.window_order((1, height, width), side, True, torch.device("cpu"))
        expected = {(h, w): n for n, h, w in shapes}
        found = {shape: n for shape, n in yours(height, width, side).items() if n}
        assert found == expected, f"{height} x {width} in windows of {side}: {expected}, not {found}"
    print("right: the windows that the codec makes, for four maps")


@_check
def check_centroid(yours: Callable, seed: int) -> None:
    """The guess that a Gaussian asks for."""
    n = torch.tensor([0.0, 1.0, -1.0, 2.0, 0.0, 9.0])
    scale = torch.tensor([0.5, 0.5, 0.5, 3.0, 0.11, 0.11])
    found = yours(n, scale)
    assert found[0].abs() < 1e-5 and found[4].abs() < 1e-5, "what is symmetric needs no guess"
    assert torch.isclose(found[1], -found[2]) and found[1] < 0, (
        "a one was more likely a small one, and -1 is its mirror"
    )
    told = f"nine at a scale of 0.11 was most likely just above 8.5: a guess near -1/2, not {found[5]:.3g}"
    assert found.isfinite().all() and found.abs().max() <= 0.5 and found[5] < -0.45, told
    torch.manual_seed(seed)
    for i in (1, 3):
        t = torch.randn(1_000_000) * scale[i]
        true = (t - t.round())[t.round() == n[i]].mean()
        assert abs(found[i] - true) < 0.01, f"n {n[i]:.0f}, scale {scale[i]}: {true:.3f}, not {found[i]:.3f}"
    print("right: as found among a million numbers, for two scales")


# --- object-region MSE ---------------------------------------------------------------------------------------------------


@_check
def check_bits_per_pixel(yours: Callable) -> None:
    """Bits per pixel of bytes."""
    assert yours(b"1234", 4, 4) == 2, "four bytes for 16 pixels are 2 bits each"
    assert yours(b"123456", 2, 3) == 8, "six bytes for 2 x 3 pixels are 8 bits each"
    print("right: bytes times eight, over the pixels of the picture")


@_check
def check_weighted_mse(yours: Callable, x: Tensor, x_hat: Tensor, mask: Tensor) -> None:
    """A background that weighs `outside`."""
    none, half, full = (yours(x, x_hat, mask, outside) for outside in (0.0, 0.5, 1.0))
    assert _near(none, losses.masked_mse(x, x_hat, mask)), "outside = 0: the paper's loss, a mean over all pixels"
    assert _near(full, torch.nn.functional.mse_loss(x_hat, x)), "outside = 1: plain MSE"
    assert _near(half, (none + full) / 2), "outside = 0.5: half-way between, as the error is squared, not the weight"
    print("right: both ends agree, and half a weight lies between")


@_check
def check_widths(yours: Callable) -> None:
    """Widths of the intervals of a difference, paired and unpaired, from replicates of two methods on the same pictures."""
    rng = np.random.default_rng(0)
    for shared in (3.0, 0.0):  # how much pictures that are hard for one method are hard for the other
        common = shared * rng.normal(size=4000)
        first, second = common + rng.normal(size=4000), common + rng.normal(size=4000)
        paired, unpaired = yours(first, second)
        right = np.subtract(*np.percentile(second - first, [97.5, 2.5]))
        assert abs(paired - right) < 1e-6, (
            f"paired: from percentile 2.5 to 97.5 of the differences, {right:.3f}, not {paired:.3f}"
        )
        apart = 2 * 1.96 * math.hypot(first.std(), second.std())  # variances add up
        told = "drawn from each method by itself, so that what they share does not cancel"
        assert abs(unpaired / apart - 1) < 0.15, f"unpaired: about {apart:.2f}, not {unpaired:.2f}: {told}"
    print("right: what is hard for both methods cancels in pairs, and only there")


# --- objectness distillation ---------------------------------------------------------------------------------------------


@_check
def check_mean_objectness(yours: Callable) -> None:
    """Weights from the logits of one level, by the mean."""
    logits = torch.randn(2, 3, 5, 7)
    book = losses.objectness_weights({"p2": logits}, {"p2": (5, 7)}, reduction="mean")["p2"]
    assert yours(logits).shape == (2, 1, 5, 7), "keep the dimension of the anchors, with size 1"
    assert torch.allclose(yours(logits), book), "probabilities first, then the mean"
    print("right")


@_check
@torch.no_grad()
def check_soft_weights(yours: Callable, teacher: Any, batch: tuple, x_hat: Tensor) -> None:
    """True boxes as weights, with a background that counts; `batch` holds pictures, masks, and objects."""
    feats, feats_hat = teacher.features(batch[0]), teacher.features(x_hat)
    sizes = {level: tuple(f.shape[2:]) for level, f in feats.items()}
    weights = losses.box_weights([of["boxes"] for of in batch[2]], sizes, tuple(x_hat.shape[2:]))
    loss = {v: losses.feature_distillation(feats, feats_hat, yours(weights, v)) for v in (0.0, 0.5, 1.0)}
    assert torch.isclose(loss[0.0], losses.feature_distillation(feats, feats_hat, weights)), "outside = 0: eq. 3"
    assert torch.isclose(loss[1.0], losses.feature_distillation(feats, feats_hat)), "outside = 1: eq. 2"
    assert torch.isclose(loss[0.5], (loss[0.0] + loss[1.0]) / 2), "outside = 0.5: half-way between the two losses"
    between = yours({"p2": torch.full((1, 1, 2, 2), 0.5)}, 0.2)["p2"]
    assert torch.allclose(between, torch.tensor(0.6)), "what lies between 0 and 1 moves along a line"
    print("right: both ends agree, and half lies in the middle")


@_check
def check_points(yours: Callable, equal: bd.Curve, boxes: bd.Curve, objectness: bd.Curve) -> None:
    """The share of replicates with a gain above 1.5 points."""
    for anchor, test in ((equal, objectness), (objectness, equal), (boxes, objectness)):
        found, interval = yours(anchor, test), bd.bd_metric(anchor, test)
        assert 0 <= found <= 1, f"a share lies between 0 and 1, not at {found}"
        assert not interval.low > 0.015 or found > 0.95, "the whole interval lies above 1.5 points"
        assert not interval.high < 0.015 or found < 0.05, "the whole interval lies below 1.5 points"
    down = bd.bd_metric(equal, objectness).value - 0.015  # a gap at the border, where the share is neither 0 nor 1
    moved = replace(objectness, metric=objectness.metric - down, metric_replicates=objectness.metric_replicates - down)
    share = np.mean(bd.replicates(equal, moved, bd.bd_metric) > 0.015)
    assert abs(yours(equal, moved) - share) < 0.05, f"moved down by {down:.3f}, {share:.0%} lie above: at equal rate?"
    print(f"right: in {yours(equal, objectness):.0%} of the replicates")


# --- SA-ICM --------------------------------------------------------------------------------------------------------------


@_check
def check_edge_share(
    edge_share: Callable, weight: Callable, found_in: Mapping[Any, masks.MaskSet], alphas: Sequence[float]
) -> None:
    """How much of a picture the loss looks at, and the weight that makes up for it."""
    for found, alpha in itertools.product(found_in.values(), alphas):
        black = torch.zeros(1, 3, *found.size)
        seen = losses.masked_mse(
            black, black + 1, masks.sam_edges(found, alpha)[None]
        ).item()  # an error of one everywhere
        share = edge_share(found, alpha)
        assert abs(share - seen) < 1e-6, f"alpha {alpha}: the loss sees {seen:.4f} of an equal error, not {share:.4f}"
        counted = weight(found, alpha) * seen
        assert not seen or abs(counted - 1) < 1e-3, (
            f"alpha {alpha}: with your weight this error counts {counted:.3f}, not 1"
        )
    empty = next(iter(found_in.values())).above(2.0)
    assert edge_share(empty, 0.93) == 0 and weight(empty, 0.93) == 1, "a picture without masks: share 0, weight 1"
    print("right: with the weight, an error that is equal everywhere counts as under plain MSE")


@_check
def check_kept(yours: Callable) -> None:
    """Which of many boxes survive when duplicates are dropped."""
    rng = np.random.default_rng(0)
    corner = rng.uniform(0, 20, (200, 2))
    boxes = np.concatenate([corner, corner + rng.uniform(10, 40, (200, 2))], 1)
    scores = rng.uniform(0.4, 1, 200)
    low = list(yours(boxes, scores, 0.48))
    theirs = torchvision.ops.nms(*map(torch.from_numpy, (boxes, scores)), 0.7)
    assert low == [i for i in theirs.tolist() if scores[i] > 0.48], (
        "torchvision's suppression keeps others, or in another order (indices of `boxes`, surest first)"
    )
    for alpha in (0.93, 0.98):
        filtered = [i for i in low if scores[i] > alpha]
        assert list(yours(boxes, scores, alpha)) == filtered, (
            f"alpha {alpha}: those of the low alpha, filtered, are others"
        )
    print("right: one pass at the lowest alpha holds all the others")


@_check
def check_shifted(yours: Callable, mask: Tensor) -> None:
    """Masks (N, 1, H, W) that were moved."""
    for pixels in (3, 8):
        moved = torch.as_tensor(yours(mask, pixels))
        assert moved.shape == mask.shape, "every mask moves, and keeps its size"
        assert torch.equal(moved[..., pixels:], mask[..., :-pixels]), "to the right, by so many pixels"
        assert torch.equal(moved[..., :pixels], mask[..., -pixels:]), "what leaves comes in on the other side"
    share = (moved * mask).sum() / mask.sum()
    print(f"right; {share:.0%} of the moved edges still lie on an edge")


# --- SA-NeRV -------------------------------------------------------------------------------------------------------------


@_check
def check_part_share(yours: Callable, data: bytes, parts: Mapping[str, int]) -> None:
    """The share that a part has of a file; `parts` are the bytes of each."""
    for part, size in parts.items():
        assert abs(yours(data, part) * len(data) - size) < 1e-6, f"{part} takes {size} of {len(data)} bytes"
    print("right: the parts make the whole")


@_check
def check_edge_l1(yours: Callable, x: Tensor, x_hat: Tensor, mask: Tensor) -> None:
    """The mean error over edge pixels alone."""
    ones = torch.ones_like(mask)
    assert _near(yours(x, x_hat, ones), (x - x_hat).abs().mean()), "a mask of ones: plain L1"
    over_all = (x * mask - x_hat * mask).abs().mean()
    assert _near(yours(x, x_hat, mask), over_all / mask.mean()), "all colours of the edge pixels, and of no others"
    print(f"right: larger by a factor of {1 / mask.mean():.0f}, as if `mask_weight` were that")


@_check
def check_chance(yours: Callable) -> None:
    """How often a coin shows heads at least so often."""
    assert abs(yours(8, 8) - 1 / 256) < 1e-12 and abs(yours(0, 8) - 1) < 1e-12, (
        "eight of eight: 1 in 256; none or more: always"
    )
    assert abs(yours(7, 8) - 9 / 256) < 1e-12, "at least that often: eight heads count too"
    print(f"right: {yours(7, 8):.3f} for seven of eight")


@_check
def check_interval(yours: Callable) -> None:
    """The bootstrap interval of a mean."""
    low, high = yours(np.repeat([0.0, 1.0], [60, 40]))
    assert low < 0.4 < high, f"[{low:.2f}, {high:.2f}] should hold the mean, 0.4"
    assert 0.175 < high - low < 0.215, f"{high - low:.3f} wide: about 0.19 for 95 % of at least a thousand replicates"
    print(f"right: a mean of .4 over a hundred values of 0 or 1 gives [{low:.2f}, {high:.2f}]")
