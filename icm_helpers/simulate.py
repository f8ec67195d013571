"""How far a comparison of two codecs can be trusted: fewer pictures, and imaginary ones, of which the truth is known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import norm

from icm_helpers import bd
from icm_helpers.bd import Curve, Interval
from icm_helpers.ledger import verdicts

RATES, STRENGTH = np.array([0.1, 0.2, 0.4, 0.8]), np.array([-1.0, -0.4, 0.2, 0.8])  # of an imaginary ladder


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


def power(
    spread: float, n: int, effects: Sequence[float] = (5, 1), powers: Sequence[float] = (0.5, 0.8)
) -> dict[str, Any]:
    """A row of a table: what `n` pictures tell, and how many it :func:`needed` for more."""
    seen = {
        f"to see {effect} %, in {share:.0%}": f"{needed(spread, n, effect, share):,.0f}"
        for effect in effects
        for share in powers
    }
    far = half_width(spread * np.sqrt(n / 5000))
    return {"pictures": n, "half-width [%]": half_width(spread), **seen, "half-width at 5,000 [%], extrapolated": far}


def frozen(curve: Curve, part: str) -> Curve:
    """A curve whose `bpp` or `metric` is the measured one in every replicate."""
    still = np.tile(getattr(curve, part), (len(curve.bpp_replicates), 1))
    return replace(curve, **{f"{part}_replicates": still})


def shuffled(curve: Curve, rng: np.random.Generator) -> Curve:
    """A curve whose replicates belong to those of no other curve any more."""
    order = rng.permutation(len(curve.bpp_replicates))
    return replace(curve, bpp_replicates=curve.bpp_replicates[order], metric_replicates=curve.metric_replicates[order])


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


def evaluation(
    n: int, rng: np.random.Generator, savings: Sequence[float] = (0.0, 0.1), replicates: int = 100
) -> list[Curve]:
    """An imaginary evaluation on `n` pictures: the curve of each codec, which finds objects as the others do, from fewer bits.

    Args:
        savings: the codecs' true BD-rates against the first, negative, as shares.
    """
    mess = rng.normal(0, 0.5, n)  # a messy picture takes more bits, and its objects are harder to find
    objects = 1 + rng.poisson(3, n)
    shape = (len(savings), len(STRENGTH), n)
    bpp = RATES[:, None] * np.exp(mess + rng.normal(0, 0.1, shape)) * (1 - np.array(savings)[:, None, None])
    difficulty = rng.normal(0.5 * mess[:, None], 1, (n, objects.max()))
    exists = np.arange(objects.max()) < objects[:, None]
    seen = STRENGTH[:, None, None] + rng.normal(0, 0.4, (*shape, objects.max())) > difficulty
    found = (seen & exists).sum(-1)  # (codecs, k, n)
    draws = rng.integers(0, n, (replicates, n))
    rates, shares = bpp[..., draws].mean(-1), found[..., draws].sum(-1) / objects[draws].sum(-1)
    parts = zip(bpp.mean(-1), found.sum(-1) / objects.sum(), rates, shares, strict=True)
    return [Curve("imaginary", rate, ap, rates.T, aps.T) for rate, ap, rates, aps in parts]


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
