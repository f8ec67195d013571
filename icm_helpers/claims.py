"""What the papers claim, how each claim is tested, and the verdict that follows from the measured interval, never from taste."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from icm_helpers import presets
from icm_helpers.bd import Curve, Interval, bd_metric, bd_metric_majority, bd_rate, bd_rate_gap, curve, rate_change
from icm_helpers.evaluate import THIRDS, resamplings
from icm_helpers.ledger import results

UNITS = {  # of a metric's mean difference
    **dict.fromkeys(("psnr", "psnr_inside", "psnr_outside"), "dB"),
    **dict.fromkeys(
        ("box_ap", "boundary_f", "missed_to_found", "texture_auc", "shape_ap", "pq", "pq_things", "pq_stuff"), ""
    ),
}
NAMES = {
    "box_ap": "box AP",
    "mask_ap": "mask AP",
    "agreement": "agreement AP",
    "missed_to_found": "missed over found",
    "texture_auc": "texture",
    "shape_ap": "AP of shapes",
    "boundary_f": "boundary F-score",
    "psnr": "PSNR",
    "psnr_inside": "PSNR inside objects",
    "psnr_outside": "PSNR outside objects",
    "pq": "PQ",
    "pq_things": "PQ of things",
    "pq_stuff": "PQ of stuff",
}
DEFINED = 0.95  # a BD value must exist in this share of the bootstrap replicates to be judged


@dataclass(frozen=True)
class Claim:
    """One sentence and its test: `method` is compared with `anchor`, and `sign` is where the claim says the value lies.

    `measure` is `bd_rate`; `bd_metric`; `rate`, how much more bits `method` takes than `anchor` at the same lambdas; `cover`,
    BD-rate on the third of the images of which objects cover least, minus BD-rate on the third of which they cover most;
    `transfer`, BD-rate by a detector minus BD-rate by the teacher; or `majority`, the share of the videos with a positive
    `bd_metric`, minus one half. `judged` says by which detectors: those used `as they are`; of these the one that is the `teacher`
    of the codecs, or the `strangers` to them; those `fine-tuned` on what the codec decodes; or `fine-tuned against as they are`,
    where only `method` has the fine-tuned one.
    """

    id: str
    quote: str
    where: str
    test: str
    sign: int
    measure: str
    metrics: tuple[str, ...]
    anchor: str = "mse"
    method: str = "object-region"
    judged: str = "as they are"


@dataclass(frozen=True)
class Finding:
    """A claim measured on one data set with one metric."""

    claim: Claim
    data: str
    metric: str
    judge: str
    interval: Interval
    unit: str

    @property
    def verdict(self) -> str:
        """What the interval says, in one word or two."""
        return verdict(self.interval, self.claim.sign)


BEST = (
    "the best coding performances are obtained when the proposed NIC model is used for the compression and the "
    "fine-tuned model is used for the image recognition"
)
CLEAN = (
    "The coded images of the proposed NIC model are clean in the object region and unclear in the non-object region."
)
DISREGARD = (
    "by employing objectness instead of GT labels, the compression model is trained to disregard objects that are "
    "difficult to detect, and it leads to bit rate reduction"
)
MOST = (
    "It can be seen that for most sequences, the detection accuracy in the SA-NeRV decoded image is higher than that in the NeRV "
    "decoded image."
)
SHAPES = "It can be seen that the decoded image loses its texture but the information of object shape is retained."
PANOPTIC = (
    "Unlike the original RL-based ICM method, SA-ICM has good image compression performance for panoptic segmentation tasks "
    "that require background information in the image."
)
BETTER = (
    "It can be seen that the proposed method has better compression performance than conventional RL-based methods in the "
    "object detection and instance segmentation tasks."
)
DIFFICULT = "The problem with the task-loss-based approach is that the NIC model is difficult to train."

CLAIMS: dict[str, tuple[Claim, ...]] = {
    "object_region_mse": (
        Claim(
            id="object-region/1a",
            quote=BEST,
            where="section IV-B",
            test="object-region against MSE, the same detector as it is: BD-rate below zero",
            sign=-1,
            measure="bd_rate",
            metrics=("box_ap", "mask_ap", "agreement"),
        ),
        Claim(
            id="object-region/1b",
            quote=BEST,
            where="section IV-B",
            test="object-region against MSE, each with the detector fine-tuned on its own coded pictures: BD-rate below zero",
            sign=-1,
            measure="bd_rate",
            metrics=("box_ap",),
            judged="fine-tuned",
        ),
        Claim(
            id="object-region/1c",
            quote=BEST,
            where="section IV-B",
            test="object-region with the fine-tuned detector against object-region with it as it is: BD-rate below zero",
            sign=-1,
            measure="bd_rate",
            metrics=("box_ap",),
            anchor="object-region",
            judged="fine-tuned against as they are",
        ),
        Claim(
            id="object-region/2a",
            quote=CLEAN,
            where="section IV-A",
            test="at equal rate, PSNR inside objects above that of MSE",
            sign=+1,
            measure="bd_metric",
            metrics=("psnr_inside",),
        ),
        Claim(
            id="object-region/2b",
            quote=CLEAN,
            where="section IV-A",
            test="at equal rate, PSNR outside objects below that of MSE",
            sign=-1,
            measure="bd_metric",
            metrics=("psnr_outside",),
        ),
        Claim(
            id="object-region/3",
            quote=DIFFICULT,
            where="section III",
            test="object-region against the task loss (eq. 2), trained for as many steps: BD-rate below zero",
            sign=-1,
            measure="bd_rate",
            metrics=("box_ap",),
            anchor="task",
        ),
        Claim(
            id="object-region/4",
            quote="The less of a picture its objects cover, the more bits object-region saves.",
            where="our own question, which the paper does not ask",
            test="BD-rate of object-region against MSE on the third of the pictures with the least object cover, minus that on the "
            "third with the most: below zero",
            sign=-1,
            measure="cover",
            metrics=("box_ap",),
        ),
    ),
    "objectness_distillation": (
        Claim(
            id="objectness/1",
            quote="it is clear that the R-D performance is improved by using the proposed method",
            where="section 4",
            test="weights of objectness against equal weights, judged by the teacher: BD-rate below zero",
            sign=-1,
            measure="bd_rate",
            metrics=("box_ap", "mask_ap", "agreement"),
            anchor="distill",
            method="distill-objectness",
            judged="teacher",
        ),
        Claim(
            id="objectness/2",
            quote="This confirms that weighting using objectness is superior to using GT labels.",
            where="section 4",
            test="weights of objectness against those of the true boxes, judged by the teacher: BD-rate below zero",
            sign=-1,
            measure="bd_rate",
            metrics=("box_ap", "mask_ap", "agreement"),
            anchor="distill-boxes",
            method="distill-objectness",
            judged="teacher",
        ),
        Claim(
            id="objectness/3",
            quote=DISREGARD,
            where="section 3",
            test="bits per pixel on objects that the teacher misses in the original pictures, over bits per pixel on those that it "
            "finds: at equal rate, under objectness below that under true boxes",
            sign=-1,
            measure="bd_metric",
            metrics=("missed_to_found",),
            anchor="spent-distill-boxes",
            method="spent-distill-objectness",
            judged="teacher",
        ),
        Claim(
            id="objectness/4",
            quote="the LIC model is vulnerable to changes in image recognition models because it learns image compression methods "
            "for a particular image recognition model",
            where="Shindo et al., ICIP 2024, section 1, of all codecs that are trained with a recognition model",
            test="BD-rate of objectness against MSE, judged by a detector that did not teach these codecs, minus that judged by "
            "the teacher: above zero",
            sign=+1,
            measure="transfer",
            metrics=("box_ap",),
            method="distill-objectness",
            judged="strangers",
        ),
    ),
    # The paper draws one curve through three alphas; where a claim needs one, we take the middle.
    "sa_icm": (
        Claim(
            id="sa-icm/1a",
            quote=BETTER,
            where="section 4.2",
            test="SA-ICM (alpha .93) against object-region MSE, by every model as it is: BD-rate below zero",
            sign=-1,
            measure="bd_rate",
            metrics=("box_ap", "mask_ap"),
            anchor="object-region",
            method="sa-icm-0.93",
        ),
        Claim(
            id="sa-icm/1b",
            quote=BETTER,
            where="section 4.2",
            test="the same, by a detector fine-tuned on what each codec decodes: BD-rate below zero",
            sign=-1,
            measure="bd_rate",
            metrics=("box_ap",),
            anchor="object-region",
            method="sa-icm-0.93",
            judged="fine-tuned",
        ),
        Claim(
            id="sa-icm/2a",
            quote="the decoded images are not suitable for semantic and panoptic segmentation tasks because this LIC model does "
            "not learn how to encode and decode the background parts in the image",
            where="section 2.1, of codecs trained on object regions",
            test="object-region MSE against MSE, by PQ: BD-rate above zero",
            sign=+1,
            measure="bd_rate",
            metrics=("pq",),
        ),
        Claim(
            id="sa-icm/2b",
            quote=PANOPTIC,
            where="section 4.2",
            test="SA-ICM (alpha .93) against object-region MSE, by PQ: BD-rate below zero",
            sign=-1,
            measure="bd_rate",
            metrics=("pq",),
            anchor="object-region",
            method="sa-icm-0.93",
        ),
        Claim(
            id="sa-icm/2c",
            quote=PANOPTIC,
            where="section 4.2",
            test="SA-ICM (alpha .93) against MSE, by PQ: BD-rate below zero",
            sign=-1,
            measure="bd_rate",
            metrics=("pq",),
            method="sa-icm-0.93",
        ),
        Claim(
            id="sa-icm/3",
            quote="the compression performance at multiple points is calculated by changing $\\alpha$ instead of $\\lambda$",
            where="section 4.2",
            test="rate at alpha .48 over the rate at alpha .98, at the same lambdas: more",
            sign=+1,
            measure="rate",
            metrics=("bpp",),
            anchor="sa-icm-0.98",
            method="sa-icm-0.48",
        ),
        Claim(
            id="sa-icm/4a",
            quote=SHAPES,
            where="section 4.1",
            test="at equal rate, what a probe reads of patterns (area under its ROC curve) from SA-ICM's pictures (alpha .93), "
            "minus what it reads from those of MSE: below zero",
            sign=-1,
            measure="bd_metric",
            metrics=("texture_auc",),
            anchor="probed-mse",
            method="probed-sa-icm-0.93",
        ),
        Claim(
            id="sa-icm/4b",
            quote=SHAPES,
            where="section 4.1",
            test="at equal rate, box AP of the same kinds of objects in SA-ICM's pictures (alpha .93), minus that in those of MSE: "
            "above zero",
            sign=+1,
            measure="bd_metric",
            metrics=("shape_ap",),
            anchor="probed-mse",
            method="probed-sa-icm-0.93",
        ),
        Claim(
            id="sa-icm/4c",
            quote="The proposed method reduces more textures than existing RL-based approaches",
            where="section 1",
            test="at equal rate, what the probe reads of patterns from SA-ICM's pictures (alpha .93), minus what it reads from "
            "those of object region: below zero",
            sign=-1,
            measure="bd_metric",
            metrics=("texture_auc",),
            anchor="probed-object-region",
            method="probed-sa-icm-0.93",
        ),
        Claim(
            id="sa-icm/5",
            quote="SA-ICM is an effective image compression method for image recognition models of various tasks, robust to "
            "changes in use cases.",
            where="section 4.2",
            test="SA-ICM (alpha .93) against MSE, by every model and every measure of it: BD-rate below zero",
            sign=-1,
            measure="bd_rate",
            metrics=("box_ap", "mask_ap", "pq"),
            method="sa-icm-0.93",
        ),
    ),
    "sa_nerv": (
        Claim(
            id="sa-nerv/1a",
            quote=MOST,
            where="section 4.4",
            test="the share of the videos on which SA-NeRV's box AP is above NeRV's at equal file size, minus one half: above 0",
            sign=+1,
            measure="majority",
            metrics=("box_ap",),
            anchor="nerv",
            method="sa-nerv",
        ),
        Claim(
            id="sa-nerv/1b",
            quote="SA-NeRV is superior to ordinary NeRV in video compression for machines.",
            where="abstract",
            test="at equal file size, SA-NeRV's box AP minus NeRV's, mean over the videos: above zero",
            sign=+1,
            measure="bd_metric",
            metrics=("box_ap",),
            anchor="nerv",
            method="sa-nerv",
        ),
        Claim(
            id="sa-nerv/2",
            quote="The decoded image of SA-NeRV has a more correct decoded object shape than the decoded image of the original "
            "NeRV.",
            where="section 4.4",
            test="at equal file size, the boundary F-score of edges on objects, SA-NeRV's minus NeRV's: above zero",
            sign=+1,
            measure="bd_metric",
            metrics=("boundary_f",),
            anchor="nerv",
            method="sa-nerv",
        ),
        Claim(
            id="sa-nerv/3",
            quote="What SA-NeRV gains on edges it pays for in PSNR.",
            where="our own question, which the paper does not ask",
            test="at equal file size, SA-NeRV's PSNR minus NeRV's: below zero",
            sign=-1,
            measure="bd_metric",
            metrics=("psnr",),
            anchor="nerv",
            method="sa-nerv",
        ),
        Claim(
            id="sa-nerv/4",
            quote="With the outlines of the true objects in the place of Segment Anything's edges, the detector finds more.",
            where="our own question: what perfect masks of the objects would bring",
            test="at equal file size, box AP under the true outlines minus NeRV's, mean over the videos: above zero",
            sign=+1,
            measure="bd_metric",
            metrics=("box_ap",),
            anchor="nerv",
            method="sa-nerv-truth",
        ),
    ),
}


def verdict(interval: Interval, sign: int) -> str:
    """The word that an interval earns, for a claim that says the value has this sign.

    `reproduced`: the whole interval has it; `contradicted`: the whole interval has the other one; `not decided`: it holds zero;
    `not testable`: undefined, or defined in too few bootstrap replicates.

    >>> verdict(Interval(-17.0, -24.0, -9.0), sign=-1), verdict(Interval(-3.0, -13.0, 8.0), sign=-1)
    ('reproduced', 'not decided')
    """
    if not all(math.isfinite(v) for v in (interval.value, interval.low, interval.high)) or interval.defined < DEFINED:
        return "not testable"
    low, high = sorted((sign * interval.low, sign * interval.high))
    if low > 0:
        return "reproduced"
    return "contradicted" if high < 0 else "not decided"


def overall(verdicts: Sequence[str]) -> str:
    """One word for several findings of one claim.

    `reproduced` where all say so, `partly` where some do; else `contradicted` where any does; else `not decided`; and
    `not measured` where there is none.

    >>> overall(["reproduced", "not decided"])
    'partly'
    """
    found = set(verdicts) or {"not measured"}
    if len(found) == 1:
        return found.pop()
    if "reproduced" in found:
        return "partly"
    return "contradicted" if "contradicted" in found else "not decided"


def methods(records: Sequence[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """Records by what a figure calls the method: `mse`, `object-region`, `jpeg`, `png`, `sa-icm-0.93`, `refined-mse`, ..."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for record in records:
        recipe = record["recipe"]
        name = recipe["codec"] if recipe["loss"] == "none" else recipe["loss"]
        if recipe["loss"] == "sa-icm":
            name = f"{name}-{recipe['alpha']:g}"
        if recipe["method"] in ("refined", "spent", "probed"):
            name = f"{recipe['method']}-{name}"
        groups.setdefault(name, []).append(record)
    return groups


def judges(records: Sequence[dict[str, Any]], metric: str, *, finetuned: bool = True) -> list[str | None]:
    """The detectors that a metric was measured with; [None] for a metric of the picture alone; [] where it was not measured.

    Args:
        finetuned: also those that were trained further on what a codec decodes.
    """
    found = [r["result"][metric] for r in records if metric in r["result"]]
    if not found or not isinstance(found[0], dict):
        return [None] * bool(found)
    return sorted(name for name in set().union(*found) if finetuned or not name.endswith(presets.FINETUNED))


def curves(
    records: Sequence[dict[str, Any]], metric: str, judge: str | None = None, names: Sequence[str] | None = None
) -> dict[str, Curve]:
    """One curve for each method that was measured so, with at least two points; of videos, one over all clips (:func:`pooled`).

    Args:
        names: of the methods that are wanted; all where None.
    """
    measured = pooled([r for r in records if judge in judges([r], metric)])
    return {
        name: curve(group, metric, judge, name)
        for name, group in methods(measured).items()
        if len({r["recipe"]["lmbda"] for r in group}) > 1 and (names is None or name in names)
    }


def panel(
    records: Sequence[dict[str, Any]], metric: str, judge: str | None = None, names: Sequence[str] | None = None
) -> tuple[str, dict[str, Curve], float | None]:
    """What `plots.rate_accuracy_panels` draws: the axis's label, the :func:`curves`, and, where a detector found it, the value of
    the uncompressed pictures."""
    unit = f" [{UNITS[metric]}]" if UNITS.get(metric) else ""
    label = f"{NAMES[metric]} of {judge}" if judge else NAMES[metric] + unit
    clean = [r["result"] for r in methods(pooled(records)).get("png", [])]
    top = clean[0].get(metric, {}).get(judge) if clean and judge else None
    return label, curves(records, metric, judge, names), top


def clips(records: Sequence[dict[str, Any]]) -> list[str]:
    """The videos that records measure; [] for pictures."""
    return sorted({r["recipe"].get("clip", "none") for r in records} - {"none"})


def pooled(records: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The records of videos as if all clips were one: what differs in nothing but its clip becomes one record of means.

    In each replicate the clips are drawn anew, the same draw for every method, and each brings its own replicate, in which its
    frames were drawn anew. Records of pictures stay as they are.

    Raises:
        ValueError: some runs were made on fewer clips than others.
    """
    names = clips(records)
    if not names:
        return list(records)
    runs: dict[str, list[dict[str, Any]]] = {}
    for record in records:
        rest = {k: v for k, v in record["recipe"].items() if k != "clip"}
        runs.setdefault(json.dumps(rest, sort_keys=True), []).append(record)
    together = []
    for run in runs.values():
        run = sorted(run, key=lambda r: r["recipe"]["clip"])
        if [r["recipe"]["clip"] for r in run] != names:
            raise ValueError(
                f"a run of {run[0]['recipe']['codec']} was made on {len(run)} clips, others on {len(names)}"
            )
        metrics = [r["bootstrap"] | {"bpp": r["result"]["bpp"]} for r in run]
        result = {k: _mean([r["result"][k] for r in run]) for k in metrics[0]}
        together.append({"recipe": run[0]["recipe"] | {"clip": "all"}, "result": result, "bootstrap": _drawn(metrics)})
    return together


def clip_draws(count: int) -> np.ndarray:
    """Which of `count` clips each replicate takes, (replicates, count): the same for every method."""
    return resamplings(range(count))


def _mean(values: list[Any]) -> Any:
    """Of numbers, or of dictionaries by detector, of which all clips have the same."""
    return (
        {k: _mean([v[k] for v in values]) for k in values[0]} if isinstance(values[0], dict) else float(np.mean(values))
    )


def _drawn(values: list[Any]) -> Any:
    """Means over the clips that each replicate draws, of lists of replicates, dictionaries of them, or numbers without."""
    if isinstance(values[0], dict):
        return {k: _drawn([v[k] for v in values]) for k in values[0]}
    draws = clip_draws(len(values))
    own = np.broadcast_to(np.asarray(values).reshape(len(values), -1), (len(values), len(draws)))  # (clips, replicates)
    return np.take_along_axis(own.T, draws, axis=1).mean(1).tolist()


def within(records: Sequence[dict[str, Any]], third: str) -> list[dict[str, Any]]:
    """The records as measured on one third of the images, `low`, `middle` or `high` object cover; [] where that is not known."""
    return [
        {"recipe": r["recipe"], **{part: r[part]["by_cover"][third] for part in ("result", "bootstrap")}}
        for r in records
        if "by_cover" in r["result"]
    ]


def findings(chapter: str, data: str, records: Sequence[dict[str, Any]]) -> list[Finding]:
    """Every claim of a chapter, judged on the records of one data set."""
    found = []
    for claim in CLAIMS[chapter]:
        for metric in claim.metrics:
            for judge in judges(records, metric):
                if not _judges(claim, records, judge or ""):
                    continue
                value = _measured(claim, records, metric, judge)
                if value is not None:
                    found.append(Finding(claim, data, metric, judge or "none", *value))
    return found


def _judges(claim: Claim, records: Sequence[dict[str, Any]], judge: str) -> bool:
    """Whether a detector is among those that a claim speaks of."""
    if judge.endswith(presets.FINETUNED):
        return claim.judged in ("fine-tuned", "fine-tuned against as they are")
    return claim.judged in ("as they are", "teacher" if judge == _teacher(records) else "strangers")


def _teacher(records: Sequence[dict[str, Any]]) -> str | None:
    """The detector whose features the codecs were trained to keep."""
    taught = (r["recipe"]["teacher"] for r in records if r["recipe"]["loss"] in presets.DISTILLED)
    return next((name.partition("@")[0] for name in taught), None)


def _measured(
    claim: Claim, records: Sequence[dict[str, Any]], metric: str, judge: str | None
) -> tuple[Interval, str] | None:
    """A claim's value and its unit; None where the records do not hold what it compares."""
    pair = {claim.anchor, claim.method}
    if claim.measure == "cover":
        thirds = [curves(within(records, third), metric, judge) for third in (THIRDS[0], THIRDS[-1])]
        if not all(pair <= third.keys() for third in thirds):
            return None
        low, high = ((third[claim.anchor], third[claim.method]) for third in thirds)
        return bd_rate_gap(low, high), "% rate"
    if claim.measure == "majority":
        names = clips(records)
        alone = [curves([r for r in records if r["recipe"]["clip"] == name], metric, judge) for name in names]
        if not alone or not all({claim.anchor, claim.method} <= drawn.keys() for drawn in alone):
            return None
        pairs = [(drawn[claim.anchor], drawn[claim.method]) for drawn in alone]
        return bd_metric_majority(pairs, clip_draws(len(names))), "of the videos"
    if claim.measure == "transfer":
        both = [r for r in records if judge in judges([r], metric)]  # the same seeds for either
        seen = [curves(both, metric, by) for by in (judge, _teacher(records))]
        if not all(pair <= found.keys() for found in seen):
            return None
        strange, taught = ((found[claim.anchor], found[claim.method]) for found in seen)
        return bd_rate_gap(strange, taught), "% rate"
    if claim.measure == "rate":
        drawn = curves(records, metric)
        return (rate_change(drawn[claim.anchor], drawn[claim.method]), "% rate") if pair <= drawn.keys() else None
    usual = (
        judge.removesuffix(presets.FINETUNED) if claim.judged == "fine-tuned against as they are" and judge else judge
    )
    anchors, tests = curves(records, metric, usual), curves(records, metric, judge)
    if claim.anchor not in anchors or claim.method not in tests:
        return None
    measure, unit = (bd_rate, "% rate") if claim.measure == "bd_rate" else (bd_metric, UNITS[metric])
    return measure(anchors[claim.anchor], tests[claim.method]), unit


def measured_alike(data: str, size: int, pictures: Sequence[int]) -> list[list[dict[str, Any]]]:
    """What the book measured of codecs on just these pictures: the records of each study that compares codecs, so no ablations.

    Args:
        data, size: as in `datasets.load`.
        pictures: their ids, in order.

    Raises:
        LedgerError: a record of the book is missing or damaged.
    """
    groups = []
    for chapter in CLAIMS:
        for study in presets.studies(chapter, "book"):
            if isinstance(study, presets.Study) and study.data == data and (study.anchors or study.beside):
                wanted = [r for r in study.recipes() if r.method in ("trained", "classical") and r.size in (0, size)]
                found = results.load_or_run(wanted)
                groups.append([r for r in found if r["result"]["per_image"]["id"] == list(pictures)])
    return groups


def rivals(mine: Curve, groups: Sequence[Sequence[dict[str, Any]]], metric: str, judge: str) -> dict[str, Interval]:
    """BD-rate [%] of a codec's curve against every method of :func:`measured_alike`, of the first group that has it."""
    drawn: dict[str, Curve] = {}
    for group in groups:
        drawn = curves(group, metric, judge) | drawn
    return {name: bd_rate(anchor, mine) for name, anchor in drawn.items()}


def scoreboard() -> list[Finding]:
    """Every claim of every chapter, from the ledger.

    Raises:
        LedgerError: a record is missing.
    """
    return [
        finding
        for chapter in CLAIMS
        for finding in of_studies(
            chapter, [(s, results.load_or_run(s.recipes())) for s in presets.studies(chapter, "book")]
        )
    ]


def of_studies(
    chapter: str, measured: Sequence[tuple[presets.Study | presets.VideoStudy, list[dict[str, Any]]]]
) -> list[Finding]:
    """Every claim of a chapter, judged study by study; of codecs that were trained again, the mean over the trainings is judged.

    Args:
        measured: studies, the chapter's first one at the front, and the records of each.
    """
    again = [r for study, found in measured if study.again for r in found]
    told = [(study.data, found) for study, found in measured if not study.again]
    return [f for k, (data, found) in enumerate(told) for f in findings(chapter, data, found + again * (k == 0))]


def by_claim(chapter: str, found: Sequence[Finding]) -> dict[Claim, list[Finding]]:
    """A chapter's claims, in their order, each with its findings."""
    return {claim: [finding for finding in found if finding.claim == claim] for claim in CLAIMS[chapter]}


def cards(chapter: str, found: Sequence[Finding]) -> str:
    """A chapter's claims with their verdicts, in Markdown: the quotation, the test, and what was measured here on each data set."""
    lines = []
    for claim, mine in by_claim(chapter, found).items():
        word = overall([finding.verdict for finding in mine])
        lines += [
            f"> **Claim {claim.id}** “{claim.quote}” ({claim.where})",
            f"> *Tested as:* {claim.test}; 95 % interval excluding zero.",
            f"> *Here:* **{word}**.",
            *(f"> - {describe(finding)}" for finding in mine),
            "",
        ]
    return "\n".join(line + ("  " if line.startswith("> *") else "") for line in lines)


def verdicts(chapter: str, found: Sequence[Finding]) -> list[dict[str, Any]]:
    """The rows of a chapter's table of findings, claim by claim; a claim that nothing tests has a row that says so."""
    rows = []
    for claim, mine in by_claim(chapter, found).items():
        if not mine:
            rows.append({"claim": claim.id, "verdict": "not measured"})
        for f in mine:
            shown = {"claim": claim.id, "data": f.data, "metric": NAMES.get(f.metric, f.metric), "judge": f.judge}
            interval = {name: getattr(f.interval, name) for name in ("value", "low", "high", "defined")}
            rows.append({**shown, "verdict": f.verdict, **interval, "unit": f.unit})
    return rows


def unreproduced(chapter: str, found: Sequence[Finding]) -> str:
    """Every finding that is not *reproduced*, and every claim that nothing tests, as a list in Markdown."""
    lines = []
    for claim, mine in by_claim(chapter, found).items():
        lines += [f"- {claim.id}: {describe(f)}" for f in mine if f.verdict != "reproduced"]
        lines += [] if mine else [f"- {claim.id}: not measured in this preset"]
    return "\n".join(lines) or "Every claim is reproduced by all that tested it."


def describe(finding: Finding) -> str:
    """One finding as a line of text: `scenes, mask-rcnn-small box AP: -17 % rate [-24, -9], reproduced`."""
    interval = finding.interval
    judge = "" if finding.judge == "none" else f"{finding.judge} "
    what = f"{finding.data}, {judge}{NAMES[finding.metric]}" if finding.metric in NAMES else finding.data
    if finding.verdict == "not testable":
        return f"{what}: not testable ({100 * interval.defined:.0f} % of the replicates have curves that overlap)"
    digits = {"% rate": ".0f", "dB": ".2f", "": ".3f", "of the videos": ".2f"}[finding.unit]
    low, high = format(interval.low, "+" + digits), format(interval.high, "+" + digits)
    value = f"{interval.value:+{digits}} {finding.unit}".rstrip()
    return f"{what}: {value} [{low}, {high}], **{finding.verdict}**"
