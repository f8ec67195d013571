"""How a claim is tested, and the verdict that follows from the measured interval, never from taste."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from icm_helpers import bd, chapters
from icm_helpers.bd import Interval
from icm_helpers.evaluate import THIRDS
from icm_helpers.ledger import results
from icm_helpers.ledger.chapter import Claim
from icm_helpers.ledger.queries import FINETUNED, NAMES, UNITS, clip_draws, clips, curves, judges, select, within
from icm_helpers.ledger.results import Record
from icm_helpers.ledger.study import Study, VideoStudy
from icm_helpers.objectives import Distill

_log = logging.getLogger(__name__)

DEFINED = 0.95  # a BD value must exist in this share of the bootstrap replicates to be judged


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


def verdict(interval: Interval, sign: int) -> str:
    """The word that an interval earns, for a claim that says the value has this sign.

    `reproduced`: the whole interval has it; `contradicted`: the whole interval has the other one; `not decided`: it holds zero;
    `not testable`: undefined, or defined in too few bootstrap replicates.

    >>> from icm_helpers.bd import Interval
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
    words = set(verdicts) or {"not measured"}
    if len(words) == 1:
        return words.pop()
    if "reproduced" in words:
        return "partly"
    return "contradicted" if "contradicted" in words else "not decided"


def findings(claims: Sequence[Claim], data: str, records: Sequence[Record]) -> list[Finding]:
    """Every one of the claims, judged on the records of one data set."""
    measured = []
    for claim in claims:
        for metric in claim.metrics:
            for judge in judges(records, metric):
                if _speaks_of(claim, records, judge or "") and (value := _measured(claim, records, metric, judge)):
                    measured.append(Finding(claim, data, metric, judge or "none", *value))
    return measured


def of_studies(claims: Sequence[Claim], measured: Sequence[tuple[Study | VideoStudy, list[Record]]]) -> list[Finding]:
    """Every claim of a chapter, judged main study by main study, the chapter's first one at the front; of codecs that were trained
    again, the mean over the trainings."""
    again = [r for study, records in measured if study.role == "replicate" for r in records]
    main = [(study.data, records) for study, records in measured if study.role == "main"]
    return [f for k, (data, records) in enumerate(main) for f in findings(claims, data, records + again * (k == 0))]


def scoreboard() -> dict[str, list[Finding]]:
    """Every claim of every chapter, from the ledger; a chapter with a run that is not measured has no findings, and a warning
    names that run. A LedgerError tells of damaged records."""
    board = {}
    for chapter in map(chapters.named, chapters.NAMES):
        studies = [(s, s.recipes()) for s in chapter.studies() if s.role in ("main", "replicate")]
        missing = [r.path.name for _, recipes in studies for r in recipes if not r.path.exists()]
        if missing:
            _log.warning(
                "%s is not measured whole: %d records are missing, such as %s", chapter.name, len(missing), missing[0]
            )
        measured = [] if missing else [(s, results.load_or_run(recipes)) for s, recipes in studies]
        board[chapter.name] = of_studies(chapter.claims, measured)
    return board


def _speaks_of(claim: Claim, records: Sequence[Record], judge: str) -> bool:
    """Whether a detector is among those that a claim is about."""
    if judge.endswith(FINETUNED):
        return claim.judged in ("fine-tuned", "fine-tuned against as they are")
    return claim.judged in ("as they are", "teacher" if judge == _teacher(records) else "strangers")


def _teacher(records: Sequence[Record]) -> str | None:
    """The detector whose features the codecs were trained to keep."""
    taught = (r.recipe.loss.teacher for r in records if isinstance(r.recipe.loss, Distill))
    return next((name.partition("@")[0] for name in taught), None)


def _measured(claim: Claim, records: Sequence[Record], metric: str, judge: str | None) -> tuple[Interval, str] | None:
    """A claim's value and its unit; None where the records do not hold what it compares."""

    def pair(drawn: dict[str, bd.Curve]) -> tuple[bd.Curve, bd.Curve] | None:
        return (drawn[claim.anchor], drawn[claim.method]) if {claim.anchor, claim.method} <= drawn.keys() else None

    if claim.measure in ("cover", "transfer"):
        if claim.measure == "cover":
            both = [pair(curves(within(records, third), metric, judge)) for third in (THIRDS[0], THIRDS[-1])]
        else:
            heard = [r for r in records if judge in r.result.get(metric, {})]  # the same seeds for either
            both = [pair(curves(heard, metric, by)) for by in (judge, _teacher(records))]
        return (bd.bd_rate_gap(*both), "% rate") if all(both) else None
    if claim.measure == "majority":
        names = clips(records)
        pairs = [pair(curves(select(records, clip=name), metric, judge)) for name in names]
        return (bd.bd_metric_majority(pairs, clip_draws(len(names))), "of the videos") if names and all(pairs) else None
    if claim.measure == "rate":
        compared = pair(curves(records, metric))
        return (bd.rate_change(*compared), "% rate") if compared else None
    usual = judge
    if claim.judged == "fine-tuned against as they are" and judge:
        usual = judge.removesuffix(FINETUNED)
    anchors, tests = curves(records, metric, usual), curves(records, metric, judge)
    if claim.anchor not in anchors or claim.method not in tests:
        return None
    measure, unit = (bd.bd_rate, "% rate") if claim.measure == "bd_rate" else (bd.bd_metric, UNITS[metric])
    return measure(anchors[claim.anchor], tests[claim.method]), unit


# --- for a reader --------------------------------------------------------------------------------------------------------


def by_claim(claims: Sequence[Claim], measured: Sequence[Finding]) -> dict[Claim, list[Finding]]:
    """Claims, in their order, each with its findings."""
    return {claim: [finding for finding in measured if finding.claim == claim] for claim in claims}


def cards(claims: Sequence[Claim], measured: Sequence[Finding]) -> str:
    """Claims with their verdicts, in Markdown: the quotation, the test, and what was measured here on each data set."""
    lines = []
    for claim, mine in by_claim(claims, measured).items():
        word = overall([finding.verdict for finding in mine])
        lines += [
            f"> **Claim {claim.id}** “{claim.quote}” ({claim.where})",
            f"> *Tested as:* {claim.test}; 95 % interval excluding zero.",
            f"> *Here:* **{word}**.",
            *(f"> - {describe(finding)}" for finding in mine),
            "",
        ]
    return "\n".join(line + ("  " if line.startswith("> *") else "") for line in lines)


def rows(claims: Sequence[Claim], measured: Sequence[Finding]) -> list[dict[str, Any]]:
    """The rows of a table of findings, claim by claim; a claim that nothing tests has a row that says so."""
    table = []
    for claim, mine in by_claim(claims, measured).items():
        if not mine:
            table.append({"claim": claim.id, "verdict": "not measured"})
        for f in mine:
            shown = {"claim": claim.id, "data": f.data, "metric": NAMES.get(f.metric, f.metric), "judge": f.judge}
            interval = {name: getattr(f.interval, name) for name in ("value", "low", "high", "defined")}
            table.append({**shown, "verdict": f.verdict, **interval, "unit": f.unit})
    return table


def unreproduced(claims: Sequence[Claim], measured: Sequence[Finding]) -> str:
    """Every finding that is not *reproduced*, and every claim that nothing tests, as a list in Markdown."""
    lines = []
    for claim, mine in by_claim(claims, measured).items():
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
