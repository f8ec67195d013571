"""What the papers claim, how each claim is tested, and the verdict that follows from the measured interval, never from taste."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from icm_helpers import presets, results
from icm_helpers.evaluate import Curve, Interval, bd_metric, bd_rate, curve

DEFINED = 0.95  # a BD value must exist in this share of the bootstrap replicates to be judged


@dataclass(frozen=True)
class Claim:
    """One sentence of a paper and its test: `measure` is bd_rate or bd_metric, `sign` where the claim says its value lies."""

    id: str
    quote: str
    where: str
    test: str
    sign: int
    measure: str
    metrics: tuple[str, ...]


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

CLAIMS: dict[str, tuple[Claim, ...]] = {
    "object_region_mse": (
        Claim(
            id="object-region/1",
            quote=BEST,
            where="section IV-B",
            test="the first half alone: BD-rate of object-region against MSE below zero, the detector not fine-tuned",
            sign=-1,
            measure="bd_rate",
            metrics=("box_ap", "mask_ap", "agreement"),
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
    )
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

    `reproduced` where all say so, `partly` where some do; else `contradicted` where any does; else `not decided`.

    >>> overall(["reproduced", "not decided"])
    'partly'
    """
    found = set(verdicts)
    if len(found) == 1:
        return found.pop()
    if "reproduced" in found:
        return "partly"
    return "contradicted" if "contradicted" in found else "not decided"


def methods(records: Sequence[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """Records by what a figure calls the method: `mse`, `object-region`, `jpeg`, `png`, `refined-mse`, ..."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for record in records:
        recipe = record["recipe"]
        name = {"trained": recipe["loss"], "refined": f"refined-{recipe['loss']}", "classical": recipe["codec"]}[
            recipe["method"]
        ]
        groups.setdefault(name, []).append(record)
    return groups


def judges(records: Sequence[dict[str, Any]], metric: str) -> list[str | None]:
    """The detectors that a metric was measured with; [None] for a metric of the picture alone; [] where it was not measured."""
    value = records[0]["result"].get(metric)
    if value is None:
        return []
    return sorted(value) if isinstance(value, dict) else [None]


def curves(records: Sequence[dict[str, Any]], metric: str, judge: str | None = None) -> dict[str, Curve]:
    """One curve for each method with at least two points."""
    groups = methods(records)
    return {
        name: curve(group, metric, judge, name)
        for name, group in groups.items()
        if len({r["recipe"]["lmbda"] for r in group}) > 1
    }


def findings(chapter: str, data: str, records: Sequence[dict[str, Any]]) -> list[Finding]:
    """Every claim of a chapter, judged on the records of one data set: object-region against MSE, both trained."""
    found = []
    for claim in CLAIMS[chapter]:
        for metric in claim.metrics:
            for judge in judges(records, metric):
                both = curves(records, metric, judge)
                measure, unit = (bd_rate, "% rate") if claim.measure == "bd_rate" else (bd_metric, "dB")
                interval = measure(both["mse"], both["object-region"])
                found.append(Finding(claim, data, metric, judge or "none", interval, unit))
    return found


def scoreboard() -> list[Finding]:
    """Every claim of every chapter, from the ledger.

    Raises:
        LedgerError: a record is missing.
    """
    return [
        finding
        for chapter in CLAIMS
        for study in presets.studies(chapter, "book")
        for finding in findings(chapter, study.data, results.load_or_run(study.recipes()))
    ]


def cards(chapter: str, found: Sequence[Finding]) -> str:
    """A chapter's claims with their verdicts, in Markdown: the quotation, the test, and what was measured here on each data set."""
    lines = []
    for claim in CLAIMS[chapter]:
        mine = [finding for finding in found if finding.claim == claim]
        word = overall([finding.verdict for finding in mine]) if mine else "not measured"
        lines += [
            f"> **Claim {claim.id}** “{claim.quote}” ({claim.where})",
            f"> *Tested as:* {claim.test}; 95 % interval excluding zero.",
            f"> *Here:* **{word}**.",
            *(f"> - {describe(finding)}" for finding in mine),
            "",
        ]
    return "\n".join(line + ("  " if line.startswith("> *") else "") for line in lines)


def describe(finding: Finding) -> str:
    """One finding as a line of text: `scenes, mask-rcnn-small box AP: -17 % rate [-24, -9], reproduced`."""
    interval, names = finding.interval, {"box_ap": "box AP", "mask_ap": "mask AP", "agreement": "agreement"}
    what = f"{finding.data}, {finding.judge} {names[finding.metric]}" if finding.metric in names else finding.data
    if finding.verdict == "not testable":
        return f"{what}: not testable ({100 * interval.defined:.0f} % of the replicates have curves that overlap)"
    digits = ".0f" if finding.unit == "% rate" else ".2f"
    low, high = format(interval.low, "+" + digits), format(interval.high, "+" + digits)
    return f"{what}: {interval.value:+{digits}} {finding.unit} [{low}, {high}], **{finding.verdict}**"
