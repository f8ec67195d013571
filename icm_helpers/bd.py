"""Comparing two codecs: curves of rate and accuracy, Bjontegaard deltas, and their intervals over bootstrap replicates."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import bjontegaard
import numpy as np

from icm_helpers import intervals
from icm_helpers.intervals import Interval


@dataclass(frozen=True)
class Curve:
    """Rate against a metric, with bootstrap replicates: `bpp`, `metric` (k,), `bpp_replicates`, `metric_replicates` (r, k).

    A curve of several trainings, or videos, is their mean; it also holds the curve of each seed, or clip.
    """

    name: str
    bpp: np.ndarray
    metric: np.ndarray
    bpp_replicates: np.ndarray
    metric_replicates: np.ndarray
    trainings: Mapping[int, Curve] = field(default_factory=dict)  # at the settings that they share
    clips: Mapping[str, Curve] = field(default_factory=dict)
    settings: tuple[float, ...] = ()  # lambda, quality, ... of each point, where records tell


OF_OUTLINES = frozenset({"mask_ap", "psnr_inside", "psnr_outside", "miou"})
"""Metrics that pictures without outlines do not have: their rate is that of the others, where some have none."""


def curve(records: Sequence[Any], metric: str, detector: str | None = None, name: str = "") -> Curve:
    """A method's curve from its records: one point a setting (lambda, quality, ...), trainings averaged, in each replicate too.

    Raises:
        ValueError: no records, or a record lacks the metric.
    """
    if not records:
        raise ValueError(f"no records for the curve {name or metric}")
    whole = _whole(name or metric, records, metric, detector)
    seeds = sorted({r.recipe.codec.seed for r in records if hasattr(r.recipe.codec, "seed")})
    runs = {seed: [r for r in records if r.recipe.seed == seed] for seed in seeds}
    shared = set.intersection(*({r.recipe.setting for r in run} for run in runs.values())) if runs else set()
    if len(runs) == 1:
        return replace(whole, trainings=dict.fromkeys(runs, whole))
    if len(shared) > 1:
        runs = {seed: [r for r in run if r.recipe.setting in shared] for seed, run in runs.items()}
    else:  # of several that share too little, the first
        runs = dict(list(runs.items())[:1])
    each = {seed: _whole(whole.name, run, metric, detector) for seed, run in runs.items()}
    return replace(whole, trainings=each)


def _whole(name: str, records: Sequence[Any], metric: str, detector: str | None) -> Curve:
    def pick(part: dict[str, Any], key: str) -> Any:
        by_detector = detector is not None and not key.startswith("bpp")
        if key not in part or (by_detector and detector not in part[key]):
            raise ValueError(
                f"a record has no {key}{f' of {detector}' if detector else ''}; it has {', '.join(sorted(part))}"
            )
        return part[key][detector] if by_detector else part[key]

    points, settings = [], sorted({r.recipe.setting for r in records})
    for setting in settings:
        same = [r for r in records if r.recipe.setting == setting]
        parts = [r.result for r in same], [r.bootstrap for r in same]
        rate = "bpp_outlined" if metric in OF_OUTLINES and "bpp_outlined" in same[0].result else "bpp"
        points.append([np.mean([pick(p, key) for p in part], axis=0) for part in parts for key in (rate, metric)])
    order = sorted(range(len(points)), key=lambda k: points[k][0])
    stacked = [np.stack(v, axis=-1) for v in zip(*(points[k] for k in order), strict=True)]
    return Curve(name, *stacked, settings=tuple(settings[k] for k in order))


def bd_rate(anchor: Curve | Sequence[tuple[float, float]], test: Curve | Sequence[tuple[float, float]]) -> Interval:
    r"""Bjontegaard delta rate of `test` against `anchor`, in per cent: negative if it needs fewer bits for the same metric.

    Uses the `bjontegaard` package with PCHIP interpolation. If a curve is not increasing (AP is noisy), only the points that rise
    above all points of lower rate count. NaN if curves do not overlap in the metric. With several trainings the value
    is that of their mean curves; `intervals.of_trainings` compares trainings of the same seed to see how much it varies.
    With videos the value is the mean over them, see `intervals.of_clips`. Plain points (rate, metric) have no interval: its ends
    are NaN. A ValueError says that they are not finite, or a rate is not above zero.

    >>> print(bd_rate([(0.1, 30), (0.2, 33), (0.4, 36)], [(0.05, 30), (0.1, 33), (0.2, 36)]))
    -50
    """
    return _compared(_bd_rate, (_plain(anchor), _plain(test)))


def _plain(points: Curve | Sequence[tuple[float, float]]) -> Curve:
    if isinstance(points, Curve):
        return points
    pairs = np.asarray(list(points), dtype=float)
    if pairs.ndim != 2 or pairs.shape[1] != 2 or not np.isfinite(pairs).all() or (pairs[:, 0] <= 0).any():
        raise ValueError(f"a curve is points (rate, metric), finite, with rates above zero, not {points!r}")
    none = np.empty((0, len(pairs)))
    return Curve("", *pairs.T, none, none)


def replicates(anchor: Curve, test: Curve, measure: Any = bd_rate) -> np.ndarray:
    """:func:`bd_rate` or :func:`bd_metric` in each of the bootstrap replicates that two curves share; NaN where it is undefined."""
    return _values({bd_rate: _bd_rate, bd_metric: _bd_metric}[measure], anchor, test)[1]


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
    """Mean difference of the metric at equal rate, over the logarithm of the rates that both curves cover; an interval as of
    :func:`bd_rate`."""
    return _compared(_bd_metric, (anchor, test))


def bd_rate_gap(first: tuple[Curve, Curve], second: tuple[Curve, Curve]) -> Interval:
    """BD-rate of one (anchor, test) pair minus that of another, in percentage points.

    The pairs are measured on different images, or on the same ones by different detectors: replicate i of one goes with that of
    the other, and so does each training.
    """
    return _compared(_bd_rate, second, first)


def bd_metric_majority(anchor: Curve, test: Curve) -> Interval:
    """The share of the videos on which :func:`bd_metric` is above zero, minus one half."""
    return intervals.of_signs(*_by_clip(_bd_metric, (anchor, test)))


def rate_change(anchor: Curve, test: Curve) -> Interval:
    """How much more bits `test` takes than `anchor`, in percent: point by point, in rising order, the geometric mean over them.

    Raises:
        ValueError: the curves have different numbers of points.
    """
    if len(anchor.bpp) != len(test.bpp):
        told = f"{anchor.name} has {len(anchor.bpp)} points, {test.name} {len(test.bpp)}"
        raise ValueError(f"{told}: measure both at the same lambdas")
    return _compared(lambda a, _, b, __: 100 * np.expm1(np.log(b / a).mean()), (anchor, test))


def _compared(measure: Any, *pairs: tuple[Curve, Curve]) -> Interval:
    """A measure of a pair of curves, or the rise of it from one pair to the next, with its interval."""
    if all(c.clips for pair in pairs for c in pair):
        return intervals.of_clips(*_by_clip(measure, *pairs))
    (value, drawn), *before = [_values(measure, *pair) for pair in reversed(pairs)]
    for value_before, drawn_before in before:
        value, drawn = value - value_before, drawn - drawn_before
    pictures = intervals.of_pictures(value, drawn)
    trained = any(c.trainings for pair in pairs for c in pair)
    return intervals.of_trainings(pictures, _by_training(measure, *pairs)) if trained else pictures


def _by_clip(measure: Any, *pairs: tuple[Curve, Curve]) -> tuple[list[float], int]:
    """The measure on each video, a mean over its trainings, and the number of all of these."""
    clips = set.intersection(*(set(c.clips) for pair in pairs for c in pair))
    found = [_by_training(measure, *(tuple(c.clips[k] for c in pair) for pair in pairs)) for k in sorted(clips)]
    return [float(np.mean(values)) for values in found], sum(map(len, found))


def _by_training(measure: Any, *pairs: tuple[Curve, Curve]) -> list[float]:
    """The measure of each training that all curves have; a curve without training matches any."""
    seeds = [set(c.trainings) for pair in pairs for c in pair if c.trainings]
    shared = sorted(set.intersection(*seeds)) if seeds else []
    found = []
    for seed in shared or [None]:
        alike = [[c.trainings.get(seed, c) for c in pair] for pair in pairs]
        values = [measure(a.bpp, a.metric, b.bpp, b.metric) for a, b in alike]
        found.append(values[-1] - sum(values[:-1]))
    return found


def _values(measure: Any, anchor: Curve, test: Curve) -> tuple[float, np.ndarray]:
    """The measure itself, and in each bootstrap replicate."""
    curves = (anchor.bpp_replicates, anchor.metric_replicates, test.bpp_replicates, test.metric_replicates)
    value = measure(anchor.bpp, anchor.metric, test.bpp, test.metric)
    drawn = zip(*curves, strict=True) if all(map(len, curves)) else ()  # of plain points there are no replicates
    return value, np.array([measure(*replicate) for replicate in drawn])


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
