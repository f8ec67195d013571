"""Comparing two codecs: curves of rate and accuracy, Bjontegaard deltas, and their intervals over bootstrap replicates."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import bjontegaard
import numpy as np


@dataclass(frozen=True)
class Curve:
    """Rate against a metric, with bootstrap replicates: `bpp`, `metric` (k,), `bpp_replicates`, `metric_replicates` (r, k)."""

    name: str
    bpp: np.ndarray
    metric: np.ndarray
    bpp_replicates: np.ndarray
    metric_replicates: np.ndarray


@dataclass(frozen=True)
class Interval:
    """A value with its 95 % interval over the replicates, and the share of replicates in which it was defined."""

    value: float
    low: float
    high: float
    defined: float = 1.0

    def __str__(self) -> str:
        told = f"{self.value:+.3g}" + ("" if np.isnan(self.low) else f" [{self.low:+.3g}, {self.high:+.3g}]")
        return "no overlap" if np.isnan(self.value) else told


def curve(records: Sequence[Any], metric: str, detector: str | None = None, name: str = "") -> Curve:
    """A method's curve from its records: one point a setting (lambda, quality, ...), seeds averaged, in each replicate too.

    Raises:
        ValueError: no records, or a record lacks the metric.
    """
    if not records:
        raise ValueError(f"no records for the curve {name or metric}")

    def pick(part: dict[str, Any], key: str) -> Any:
        by_detector = detector is not None and key != "bpp"
        if key not in part or (by_detector and detector not in part[key]):
            raise ValueError(
                f"a record has no {key}{f' of {detector}' if detector else ''}; it has {', '.join(sorted(part))}"
            )
        return part[key][detector] if by_detector else part[key]

    points = []
    for setting in sorted({r.recipe.setting for r in records}):
        same = [r for r in records if r.recipe.setting == setting]
        parts = [r.result for r in same], [r.bootstrap for r in same]
        points.append([np.mean([pick(p, key) for p in part], axis=0) for part in parts for key in ("bpp", metric)])
    points.sort(key=lambda p: p[0])
    bpp, value, bpp_replicates, value_replicates = (np.stack(v, axis=-1) for v in zip(*points, strict=True))
    return Curve(name or metric, bpp, value, bpp_replicates, value_replicates)


def bd_rate(anchor: Curve | Sequence[tuple[float, float]], test: Curve | Sequence[tuple[float, float]]) -> Interval:
    r"""Bjontegaard delta rate of `test` against `anchor`, in percent: negative where it needs fewer bits for the same metric.

    By the `bjontegaard` package with PCHIP interpolation. Where a curve is not increasing (AP is noisy), only the points that rise
    above all points of lower rate count. Undefined, NaN, where curves do not overlap in the metric. Plain points (rate, metric)
    have no interval: its ends are NaN. A ValueError says that they are not finite, or a rate is not above zero.

    >>> print(bd_rate([(0.1, 30), (0.2, 33), (0.4, 36)], [(0.05, 30), (0.1, 33), (0.2, 36)]))
    -50
    """
    return _interval(*_values(_plain(anchor), _plain(test), _bd_rate))


def _plain(points: Curve | Sequence[tuple[float, float]]) -> Curve:
    if isinstance(points, Curve):
        return points
    pairs = np.asarray(list(points), dtype=float)
    if pairs.ndim != 2 or pairs.shape[1] != 2 or not np.isfinite(pairs).all() or (pairs[:, 0] <= 0).any():
        raise ValueError(f"a curve is points (rate, metric), finite, with rates above zero, not {points!r}")
    none = np.empty((0, len(pairs)))
    return Curve("", *pairs.T, none, none)


def replicates(anchor: Curve, test: Curve) -> np.ndarray:
    """:func:`bd_rate` in each of the bootstrap replicates that two curves share; NaN where it is undefined."""
    return _values(anchor, test, _bd_rate)[1]


def interpolations(anchor: Curve, test: Curve) -> dict[str, Any]:
    """A row of a table: how many points of each curve rise, what share of all qualities they share, and BD-rate by each method
    of interpolation that has points enough."""
    one, other = (_rising(c.bpp, c.metric) for c in (anchor, test))
    counts, ends = (len(one[0]), len(other[0])), [sorted(metric[i] for _, metric in (one, other)) for i in (0, -1)]
    overlap = 100 * (ends[1][0] - ends[0][1]) / (ends[1][1] - ends[0][0])
    row = {"points that rise": f"{counts[0]}, {counts[1]}", "overlap [%]": overlap}
    for method in ("pchip", "akima", "cubic") if min(counts) >= 4 else ("pchip", "akima"):
        row[method] = bjontegaard.bd_rate(*one, *other, method, require_matching_points=False, min_overlap=0)
    return row


def bd_metric(anchor: Curve, test: Curve) -> Interval:
    """Mean difference of the metric at equal rate, over the logarithm of the rates that both curves cover."""
    return _interval(*_values(anchor, test, _bd_metric))


def bd_rate_gap(first: tuple[Curve, Curve], second: tuple[Curve, Curve]) -> Interval:
    """BD-rate of one (anchor, test) pair minus that of another, in percentage points.

    The pairs are measured on different images, or on the same ones by different detectors: replicate i of one goes with that of
    the other.
    """
    one, other = (_values(*pair, _bd_rate) for pair in (first, second))
    return _interval(one[0] - other[0], one[1] - other[1])


def bd_metric_majority(pairs: Sequence[tuple[Curve, Curve]], draws: np.ndarray) -> Interval:
    """The share of (anchor, test) pairs, one a video, whose :func:`bd_metric` is above zero, minus one half.

    Args:
        draws: indices (replicates, pairs): replicate i takes these videos, each with its own replicate i.
    """
    values, replicates = zip(*(_values(*pair, _bd_metric) for pair in pairs), strict=True)
    halves = np.sign(np.stack(replicates)) / 2  # (pairs, replicates); a tie counts half, an undefined one makes all so
    drawn = np.take_along_axis(halves.T, draws, axis=1).mean(1)
    return _interval(float(np.mean(np.sign(values) / 2)), drawn)


def rate_change(anchor: Curve, test: Curve) -> Interval:
    """How much more bits `test` takes than `anchor`, in percent: point by point, in rising order, the geometric mean over them.

    Raises:
        ValueError: the curves have different numbers of points.
    """
    if len(anchor.bpp) != len(test.bpp):
        told = f"{anchor.name} has {len(anchor.bpp)} points, {test.name} {len(test.bpp)}"
        raise ValueError(f"{told}: measure both at the same lambdas")
    pairs = (anchor.bpp, test.bpp), (anchor.bpp_replicates, test.bpp_replicates)
    return _interval(*(100 * np.expm1(np.log(b / a).mean(-1)) for a, b in pairs))


def _values(anchor: Curve, test: Curve, measure: Any) -> tuple[float, np.ndarray]:
    """The measure itself, and in each bootstrap replicate."""
    curves = (anchor.bpp_replicates, anchor.metric_replicates, test.bpp_replicates, test.metric_replicates)
    value = measure(anchor.bpp, anchor.metric, test.bpp, test.metric)
    return value, np.array([measure(*replicate) for replicate in zip(*curves, strict=True)])


def _interval(value: float, values: np.ndarray) -> Interval:
    if np.isfinite(value) and len(values) == 0:
        return Interval(float(value), float("nan"), float("nan"))
    finite = values[np.isfinite(values)]
    if not np.isfinite(value) or len(finite) == 0:
        return Interval(float("nan"), float("nan"), float("nan"), len(finite) / max(1, len(values)))
    low, high = np.percentile(finite, [2.5, 97.5])
    return Interval(float(value), float(low), float(high), len(finite) / len(values))


_HOW = {"method": "pchip", "require_matching_points": False, "min_overlap": 0}


def _bd_rate(rate_a: np.ndarray, metric_a: np.ndarray, rate_b: np.ndarray, metric_b: np.ndarray) -> float:
    (rate_a, metric_a), (rate_b, metric_b) = _rising(rate_a, metric_a), _rising(rate_b, metric_b)
    if len(rate_a) < 2 or len(rate_b) < 2 or max(metric_a[0], metric_b[0]) >= min(metric_a[-1], metric_b[-1]):
        return float("nan")
    return float(bjontegaard.bd_rate(rate_a, metric_a, rate_b, metric_b, **_HOW))


def _bd_metric(rate_a: np.ndarray, metric_a: np.ndarray, rate_b: np.ndarray, metric_b: np.ndarray) -> float:
    if not (np.isfinite(metric_a).all() and np.isfinite(metric_b).all()):
        return float("nan")  # a ratio to objects of which there are none
    if max(rate_a.min(), rate_b.min()) >= min(rate_a.max(), rate_b.max()):
        return float("nan")
    curves = (*_merged(rate_a, metric_a), *_merged(rate_b, metric_b))
    if min(map(len, curves)) < 2:
        return float("nan")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return float(bjontegaard.bd_psnr(*curves, **_HOW))


def _merged(rate: np.ndarray, metric: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """In the order of the rates, points of one rate as their mean."""
    order = np.argsort(rate)
    _, same = np.unique(np.log10(rate[order]), return_inverse=True)  # as they are interpolated
    return tuple(np.bincount(same, values[order]) / np.bincount(same) for values in (rate, metric))


def _rising(rate: np.ndarray, metric: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    order = np.argsort(rate)
    rate, metric = rate[order], metric[order]
    keep = np.r_[True, metric[1:] > np.maximum.accumulate(metric)[:-1]]
    return rate[keep], metric[keep]
