"""How far a comparison of two codecs can be trusted: fewer pictures, and imaginary ones, of which the truth is known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import norm

from icm_helpers import bd
from icm_helpers.bd import Curve
from icm_helpers.intervals import Interval, of_pictures
from icm_helpers.ledger import verdicts

RATES, STRENGTH = np.array([0.1, 0.2, 0.4, 0.8]), np.array([-1.0, -0.4, 0.2, 0.8])  # of an imaginary ladder
KINDS = 10  # categories of imaginary objects, so that some are rare


def spread(anchor: Curve, test: Curve) -> float:
    """Standard deviation of the log ratio of rates over those bootstrap replicates of two curves that have one."""
    values = bd.replicates(anchor, test)
    return np.log1p(values[np.isfinite(values)] / 100).std()


def half_width(spread: Any) -> Any:
    """Half of the 95 % interval of BD-rate, in percent of the rate."""
    return 100 * np.expm1(norm.ppf(0.975) * spread)


def needed(spread: float, n: int, effect: float, power: float) -> float:
    """Pictures from which a 95 % interval excludes zero with this probability, if the true saving is `effect` percent.

    Args:
        spread, n: what was measured, on how many pictures.
    """
    wide = norm.ppf(0.975) + norm.ppf(power)
    return n * (wide * spread / np.log1p(-effect / 100)) ** 2


def power(spread: float, n: int) -> dict[str, Any]:
    """A row of a table: what `n` pictures tell, and how many it takes for more."""
    seen = {
        f"to see {effect} %, in {share:.0%}": f"{needed(spread, n, effect, share):,.0f}"
        for effect in (5, 1)
        for share in (0.5, 0.8)
    }
    far = half_width(spread * np.sqrt(n / 5000))
    return {"pictures": n, "half-width [%]": half_width(spread), **seen, "half-width at 5,000 [%], extrapolated": far}


def told(data: str, spread: float, n: int) -> str:
    """The same of box AP as a sentence."""
    many, far = needed(spread, n, 1, 0.8), half_width(spread * np.sqrt(n / 5000))
    return (
        f"On {data}, {n} pictures leave ±{half_width(spread):.0f} % by box AP. To see 1 % in four evaluations of five takes about "
        f"{many / 1000:,.0f} thousand pictures, {many / n:,.0f} times as many. With as many as the validation set of COCO has, "
        f"5,000, the half-width would be about ±{far:.1f} %, if the law holds that far."
    )


def frozen(curve: Curve, part: str) -> Curve:
    """A curve whose `bpp` or `metric` is the measured one in every replicate."""
    still = np.tile(getattr(curve, part), (len(curve.bpp_replicates), 1))
    return replace(curve, **{f"{part}_replicates": still})


def shuffled(curve: Curve, rng: np.random.Generator) -> Curve:
    """A curve whose replicates belong to those of no other curve any more."""
    order = rng.permutation(len(curve.bpp_replicates))
    return replace(curve, bpp_replicates=curve.bpp_replicates[order], metric_replicates=curve.metric_replicates[order])


def sources(anchor: Curve, test: Curve, rng: np.random.Generator) -> dict[str, float]:
    """The :func:`spread` in percent, of all that varies and of parts of it."""
    pairs = {
        "both vary": (anchor, test),
        "only the rates vary": (frozen(anchor, "metric"), frozen(test, "metric")),
        "only the AP varies": (frozen(anchor, "bpp"), frozen(test, "bpp")),
        "both vary, unpaired": (anchor, shuffled(test, rng)),
    }
    return {what: 100 * spread(*pair) for what, pair in pairs.items()}


def shifts(anchor: Curve, test: Curve) -> dict[str, dict[str, float]]:
    """How far the mean of the replicates lies from what was measured: of both curves' AP, and of their BD-rate."""
    of = {f"mean AP of {c.name}": (c.metric.mean(), c.metric_replicates.mean(1)) for c in (anchor, test)}
    of["BD-rate [%]"] = bd.bd_rate(anchor, test).value, bd.replicates(anchor, test)
    return {
        what: {
            "measured": value,
            "mean of replicates": np.nanmean(values),
            "off, in standard deviations": (np.nanmean(values) - value) / np.nanstd(values),
        }
        for what, (value, values) in of.items()
    }


def fewer(records: Sequence[Any], curves: Sequence[Curve], n: int, rng: np.random.Generator) -> list[Curve]:
    """Two methods' curves with 100 replicates of rates that `n` pictures have, drawn for both; qualities stay."""
    coded = []
    for curve in curves:
        rungs: dict[Any, list[Any]] = {}
        for record in (r for r in records if r.recipe.method == curve.name):
            rungs.setdefault(record.recipe.setting, []).append(record.result["per_image"]["bytes"])
            pixels = np.array(record.result["per_image"]["pixels"])
        coded.append(np.array(sorted((np.mean(rung, 0) for rung in rungs.values()), key=np.sum)))  # (k, pictures)
    picks = rng.integers(0, len(pixels), (100, n))
    rates = [8 * sizes[:, picks].sum(2).T / pixels[picks].sum(1)[:, None] for sizes in coded]
    quality = [np.tile(curve.metric, (100, 1)) for curve in curves]
    return [
        replace(curve, bpp_replicates=rate, metric_replicates=kept)
        for curve, rate, kept in zip(curves, rates, quality, strict=True)
    ]


def by_rates(records: Sequence[Any], curves: Sequence[Curve], counts: Sequence[int], seed: int) -> pd.Series:
    """The :func:`spread` of :func:`fewer` by number of pictures."""
    return pd.Series({n: spread(*fewer(records, curves, n, np.random.default_rng((seed, n)))) for n in counts})


def by_world(counts: Sequence[int], seed: int) -> pd.Series:
    """The :func:`spread` of imaginary evaluations by number of pictures, mean of two."""
    rngs = {n: [np.random.default_rng((seed, n, t)) for t in range(2)] for n in counts}
    return pd.Series({n: np.mean([spread(*evaluation(n, rng)) for rng in rngs[n]]) for n in counts})


def exponent(spreads: pd.Series) -> float:
    """The power of the number of pictures, the index, with which something falls."""
    return np.polyfit(np.log(spreads.index), np.log(spreads), 1)[0]


def evaluation(
    n: int, rng: np.random.Generator, savings: Sequence[float] = (0.0, 0.1), replicates: int = 100
) -> list[Curve]:
    """An imaginary evaluation on `n` pictures: the curve of each codec, which finds objects as the others do, from fewer bits.

    Args:
        savings: the codecs' true BD-rates against the first, negative, as shares.
    """
    mess = rng.normal(0, 0.5, n)  # a messy picture takes more bits, and its objects are harder to find
    of = np.repeat(np.arange(n), 1 + rng.poisson(3, n))  # the picture of each object
    ghosts = rng.integers(0, n, 4 * n)  # and of what detectors take for one
    shape = (len(savings), len(STRENGTH), n)
    bpp = RATES[:, None] * np.exp(mess + rng.normal(0, 0.1, shape)) * (1 - np.array(savings)[:, None, None])
    times = np.vstack([np.ones(n, int), rng.multinomial(n, np.full(n, 1 / n), replicates)])  # how often each is drawn
    rates = bpp @ times.T / n
    strength = (
        np.r_[STRENGTH][:, None] - np.r_[0.5 * mess[of] + rng.normal(0, 1, len(of)), rng.normal(1, 1, len(ghosts))]
    )
    scores = strength + rng.normal(0, 0.4, (*shape[:2], len(of) + len(ghosts)))
    real, pictures = np.arange(scores.shape[2]) < len(of), np.r_[of, ghosts]
    kind = rng.integers(0, KINDS, len(real))
    kinds = [np.flatnonzero(kind == k) for k in range(KINDS)]
    each = [[[average_precision(times[:, pictures[k]], real[k], s[k]) for k in kinds] for s in many] for many in scores]
    aps = np.nanmean(each, axis=2)  # over the categories that a draw has
    return [
        Curve("imaginary", rate[:, 0], ap[:, 0], rate[:, 1:].T, ap[:, 1:].T)
        for rate, ap in zip(rates, aps, strict=True)
    ]


def average_precision(times: np.ndarray, real: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """AP of one category, (r,): the mean, over the objects, of the best precision at which each is found; those with a score below
    zero are not. NaN where no object is drawn.

    Args:
        times: how often each detection's picture is drawn, (r, d); real: whether it is an object, (d,); scores: (d,).
    """
    order = np.argsort(-scores)
    drawn, objects = times[:, order] * (scores[order] > 0), times[:, order] * real[order]
    found = np.cumsum(drawn * real[order], 1)
    precision = found / np.maximum(1, np.cumsum(drawn, 1))
    best = np.maximum.accumulate(precision[:, ::-1], 1)[:, ::-1]
    with np.errstate(invalid="ignore"):
        return (best * drawn * real[order]).sum(1) / objects.sum(1)


def kept(trials: int, seed: int, n: int = 127) -> pd.DataFrame:
    """How often 95 % intervals of imaginary evaluations hold the truth, in percent, and on which side they miss it.

    Returns:
        a row for each of two measures, the AP of the second rung and BD-rate (-10 % in truth), by each of two intervals.
    """
    big = [evaluation(5000, np.random.default_rng((seed, t, 1)), replicates=1)[0].metric[1] for t in range(3)]
    rows = []
    for t in range(trials):
        one, other = evaluation(n, np.random.default_rng((seed, t)))
        measured = {"AP": (np.mean(big), one.metric[1], one.metric_replicates[:, 1])}
        measured["BD-rate"] = -10.0, bd.bd_rate(one, other).value, bd.replicates(one, other)
        for what, (truth, value, drawn) in measured.items():
            found = of_pictures(value, drawn)
            ends = {"percentiles": np.nanpercentile(drawn, [2.5, 97.5]), "BCa, or both": (found.low, found.high)}
            for how, (low, high) in ends.items():
                told = {
                    "holds the truth": low < truth < high,
                    "lies above it": truth <= low,
                    "lies below it": high <= truth,
                }
                rows.append({"of": what, "interval": how} | told)
    return 100 * pd.DataFrame(rows).groupby(["of", "interval"], sort=False).mean()


def coverage(n: int, trials: int, rng: np.random.Generator, truth: float = -3.0, batches: int = 20) -> pd.DataFrame:
    """How often 95 % intervals of a difference of two codecs' sizes hold the truth, and how wide they are.

    Returns:
        a row each for `paired` and `unpaired` draws: pictures, trials, share, and mean half-width in percent of the rate.
    """
    found = []
    for _ in range(batches):
        mess = rng.lognormal(0, 0.6, (n, trials // batches))
        a = mess * rng.lognormal(0, 0.05, mess.shape)
        b = (1 + truth / 100) * mess * rng.lognormal(0, 0.05, mess.shape)
        times, other_times = rng.multinomial(n, np.full(n, 1 / n), (2, 200))  # how often each picture is drawn
        for second in (times, other_times):
            low, high = np.percentile(100 * ((second @ b) / (times @ a) - 1), [2.5, 97.5], axis=0)
            found.append([((low < truth) & (truth < high)).mean(), (high - low).mean() / 2])
    share, width = np.reshape(found, (batches, 2, 2)).mean(0).T
    return pd.DataFrame(
        {"drawn": ["paired", "unpaired"], "pictures": n, "trials": trials, "share": share, "half-width": width}
    )


def nothing(
    families: int, correlation: float, rng: np.random.Generator, comparisons: int = 20, n: int = 127
) -> np.ndarray:
    """Verdicts (families, comparisons) of paired differences whose true mean is zero; within a family they are correlated."""
    together = rng.normal(size=(n, families, 1)) * correlation**0.5
    differences = together + rng.normal(size=(n, families, comparisons)) * (1 - correlation) ** 0.5
    times = rng.multinomial(n, np.full(n, 1 / n), 200)  # the same draws for all, as for the records of a data set
    low, high = np.percentile(np.tensordot(times, differences, 1) / n, [2.5, 97.5], axis=0)
    cells = zip(differences.mean(0).ravel(), low.ravel(), high.ravel(), strict=True)
    return np.array([verdicts.verdict(Interval(*cell), sign=-1) for cell in cells]).reshape(families, comparisons)


def papers(families: int, correlation: float, seed: int) -> tuple[dict[str, float], pd.Series]:
    """What so many papers of twenty comparisons of :func:`nothing` find: a row of a table, and the words for three findings [%]."""
    rng = np.random.default_rng(seed)
    words = np.concatenate([nothing(families // 20, correlation, rng) for _ in range(20)])
    wrong = (words != "not decided").sum(1)
    row = {f"{word}, of 20": (words == word).sum(1).mean() for word in ("reproduced", "contradicted")}
    row["papers with at least one [%]"] = 100 * (wrong >= 1).mean()
    row["papers with five or more [%]"] = 100 * (wrong >= 5).mean()
    of_three = pd.Series([verdicts.overall(list(family[:3])) for family in words])
    return row, 100 * of_three.value_counts(normalize=True)
