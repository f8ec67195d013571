"""How a claim is tested, and the verdict that follows from the measured interval, never from taste."""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any

from icm_helpers import bd, chapters, files
from icm_helpers.evaluate import THIRDS
from icm_helpers.intervals import DEFINED, Interval, holm, widened
from icm_helpers.ledger import results
from icm_helpers.ledger.chapter import Claim
from icm_helpers.ledger.queries import FINETUNED, NAMES, UNITS, curves, judges, within
from icm_helpers.ledger.results import Record
from icm_helpers.ledger.study import Study, VideoStudy
from icm_helpers.objectives import Distill

_log = logging.getLogger(__name__)

MARGINS = {"% rate": 3.0, "dB": 0.1, "": 0.01, "of the videos": 0.0}
"""By unit: nobody chooses a codec by so small a difference. Fixed on 2026-11-28, before a verdict was taken by them, but when the
records were known."""
SYMBOLS = {
    **{"reproduced": "✓", "contradicted": "✗", "no difference": "=", "not decided": "?"},
    **{"mixed": "±", "not testable": "○", "not measured": "○"},
}
"""The symbol before a word, for those who cannot tell its colour."""


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
        return earned(self.interval, self.claim.sign, self.unit)


def earned(interval: Interval, sign: int, unit: str) -> str:
    """The word of :func:`verdict` by the unit's margin; one training, of whose chance nothing is known, decides nothing."""
    word = verdict(interval, sign, MARGINS[unit])
    return "not decided" if interval.pictures_alone and word != "not testable" else word


def verdict(interval: Interval, sign: int, margin: float = 0.0) -> str:
    """The word that an interval earns, for a claim that says the value has this sign.

    `no difference`: the whole interval is nearer to zero than the margin; `reproduced`: the whole interval has the sign;
    `contradicted`: the whole interval has the other one; `not decided`: it holds zero; `not testable`: undefined, or defined in too
    few bootstrap replicates.

    >>> from icm_helpers.intervals import Interval
    >>> verdict(Interval(-17.0, -24.0, -9.0), sign=-1), verdict(Interval(-3.0, -13.0, 8.0), sign=-1)
    ('reproduced', 'not decided')
    >>> verdict(Interval(-1.0, -1.6, 0.4), sign=-1, margin=3.0)
    'no difference'
    """
    if not interval.testable:
        return "not testable"
    low, high = sorted((sign * interval.low, sign * interval.high))
    if -margin < low and high < margin:
        return "no difference"
    if low > 0:
        return "reproduced"
    return "contradicted" if high < 0 else "not decided"


def overall(verdicts: Sequence[str], universal: bool = False) -> str:
    """One word for several findings of one claim, or how many say what; one `contradicted` refutes a `universal` claim.

    >>> overall(["reproduced", "reproduced", "contradicted", "not decided"])
    'mixed (2 for, 1 against, 1 open)'
    >>> overall(["reproduced", "contradicted"], universal=True), overall(["not decided", "not testable"]), overall([])
    ('contradicted', 'not decided', 'not measured')
    """
    found = Counter(verdicts)
    if len(found) < 2 or (universal and "contradicted" in found):
        return "contradicted" if universal and "contradicted" in found else next(iter(found), "not measured")
    counts = {"for": found["reproduced"], "against": found["contradicted"], "no difference": found["no difference"]}
    if not any(counts.values()):
        return "not decided"
    counts["open"] = found.total() - sum(counts.values())
    return f"mixed ({', '.join(f'{n} {word}' for word, n in counts.items() if n)})"


def leaning(verdicts: Sequence[str]) -> str:
    """Which way the decided ones of several findings point.

    >>> leaning(["reproduced", "not decided"]), leaning(["contradicted", "reproduced"]), leaning(["not decided"])
    ('for', 'both', 'open')
    """
    sides = {"reproduced": "for", "contradicted": "against"}
    found = {sides[word] for word in verdicts if word in sides}
    return "both" if len(found) == 2 else next(iter(found), "open")


def symbol(word: str) -> str:
    """A word of :func:`verdict` or :func:`overall` with its symbol before it."""
    return f"{SYMBOLS[word.partition(' (')[0]]} {word}"


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
    """Every claim of a chapter, judged main study by main study."""
    alone = {claim.study for claim in claims}
    found = []
    for study, records in (pair for pair in measured if pair[0].role == "main"):
        asked = study.name if study.name in alone else ""
        found += findings([claim for claim in claims if claim.study == asked], study.data, records)
    return lent(found)


def before(claims: Sequence[Claim], measured: Sequence[tuple[Study | VideoStudy, list[Record]]]) -> list[Finding]:
    """What the tests of claims say as they were before they were changed; nothing where that is no longer in the ledger."""
    found = []
    for claim in (claim for claim in claims if claim.changed):
        old = [r for study, records in measured if study.name in claim.changed.studies for r in records]
        seeds = claim.changed.seeds
        for study, records in (pair for pair in measured if pair[0].role == "main"):
            whose = study.data, _teacher(records)
            mine = [r for r in old if (r.recipe.pictures.data, _teacher([r])) == whose]
            replaced = {r.recipe.method for r in mine}
            some = [r for r in records if r.recipe.method not in replaced and (not seeds or r.recipe.seed in seeds)]
            if {claim.anchor, claim.method} <= replaced:
                some = []  # and perhaps of other clips
            if mine or (seeds and len(some) < len(records)):
                found += [f for f in findings([claim], study.data, some + mine) if f not in found]
    return found


def lent(measured: Sequence[Finding]) -> list[Finding]:
    """Findings, of which those that rest on one training borrow how much trainings differ.

    From the findings of the same claim, on other data, by other models or metrics of the same unit, that rest on several trainings:
    the largest standard deviation among them, with its degrees of freedom. Where there is none, one training decides nothing.
    """
    told = []
    for finding in measured:
        alike = [f.interval for f in measured if (f.claim, f.unit) == (finding.claim, finding.unit)]
        several = [i for i in alike if i.trainings > 1 and math.isfinite(i.spread)]
        if finding.interval.trainings == 1 and several:
            most = max(several, key=lambda i: i.spread)
            finding = replace(finding, interval=widened(finding.interval, most.spread, most.trainings - 1))
        told.append(finding)
    return told


def scoreboard(only: Collection[str] = ()) -> dict[str, list[Finding]]:
    """Every claim of every chapter, or those with these ids, from the ledger; a chapter with a run that is not measured has no
    findings, and a warning names that run. A LedgerError tells of damaged records."""
    board = {}
    for chapter in map(chapters.named, chapters.NAMES):
        studies = [(s, s.recipes()) for s in chapter.studies() if s.role == "main"]
        missing = [r.path.name for _, recipes in studies for r in recipes if not r.path.exists()]
        if missing:
            told = "%s is not measured whole: %d records are missing, such as %s"
            _log.warning(told, chapter.name, len(missing), missing[0])
        measured = [] if missing else [(s, results.load_or_run(recipes)) for s, recipes in studies]
        claims = [claim for claim in chapter.claims if not only or claim.id in only]
        board[chapter.name] = of_studies(claims, measured)
    return board


def _speaks_of(claim: Claim, records: Sequence[Record], judge: str) -> bool:
    """Whether a detector is among those that a claim is about."""
    if judge.endswith(FINETUNED):
        return claim.judged in ("fine-tuned", "fine-tuned against as they are")
    return claim.judged in ("as they are", "teacher" if judge == _teacher(records) else "strangers")


def _teacher(records: Sequence[Record]) -> str | None:
    """The detector whose features the codecs were trained to keep."""
    taught = (r.recipe.loss.teacher for r in records if isinstance(r.recipe.loss, Distill))
    return next((files.unmarked(name)[0] for name in taught), None)


def _measured(claim: Claim, records: Sequence[Record], metric: str, judge: str | None) -> tuple[Interval, str] | None:
    """A claim's value and its unit; None where the records do not hold what it compares."""

    def pair(some: Sequence[Record], usual: str | None = judge) -> tuple[bd.Curve, bd.Curve] | None:
        anchors, tests = curves(some, metric, usual), curves(some, metric, judge)
        # Where each alpha has one lambda, as in preset `paper`, the curve through all of them stands for the middle one's.
        method = "sa-icm" if "sa-icm" in tests and claim.method.startswith("sa-icm-") else claim.method
        return (anchors[claim.anchor], tests[method]) if claim.anchor in anchors and method in tests else None

    if claim.measure in ("cover", "transfer"):
        if claim.measure == "cover":
            both = [pair(within(records, third)) for third in (THIRDS[0], THIRDS[-1])]
        else:
            heard = [r for r in records if judge in r.result.get(metric, {})]  # the same seeds for either
            drawn = [curves(heard, metric, by) for by in (judge, _teacher(records))]
            both = [(c[claim.anchor], c[claim.method]) for c in drawn if {claim.anchor, claim.method} <= c.keys()]
        return (bd.bd_rate_gap(*both), "% rate") if len(both) == 2 and all(both) else None
    against = claim.judged == "fine-tuned against as they are" and judge
    compared = pair(records, judge.removesuffix(FINETUNED) if against else judge)
    measures = {
        "bd_rate": (bd.bd_rate, "% rate"),
        "rate": (bd.rate_change, "% rate"),
        "majority": (bd.bd_metric_majority, "of the videos"),
        "bd_metric": (bd.bd_metric, UNITS.get(metric, "")),
    }
    measure, unit = measures[claim.measure]
    return (measure(*compared), unit) if compared else None


# --- for a reader --------------------------------------------------------------------------------------------------------


def by_claim(claims: Sequence[Claim], measured: Sequence[Finding]) -> dict[Claim, list[Finding]]:
    """Claims, in their order, each with its findings."""
    return {claim: [finding for finding in measured if finding.claim == claim] for claim in claims}


def cards(claims: Sequence[Claim], measured: Sequence[Finding], before: Sequence[Finding] = ()) -> str:
    """Claims with their verdicts, in Markdown: the quotation, the test, what was measured here on each data set, and what came out
    `before` a test was changed."""
    lines, as_first = [], by_claim(claims, before)
    for claim, mine in by_claim(claims, measured).items():
        lines += [
            f"> **Claim {claim.id}** “{claim.quote}” ({claim.where})",
            f"> *Tested as:* {claim.test}; 95 % interval excluding zero. Written down {claim.stated}.",
            f"> *Here:* **{symbol(of_claim(claim, mine))}**.",
            *(f"> - {describe(finding)}" for finding in mine),
        ]
        if claim.changed:
            lines += [">", f"> *Changed after results were seen* ({claim.changed.when}): {claim.changed.why}."]
            lines += [f"> - before: {describe(finding, pictures_alone=True)}" for finding in as_first[claim]]
        lines.append("")
    lines.append(surviving(measured))
    return "\n".join(line + ("  " if line.startswith("> *") else "") for line in lines)


def brief(claims: Sequence[Claim], measured: Sequence[Finding]) -> str:
    """Claims as a table in Markdown: the quotation, the test, and the word for all findings; then how many survive a correction."""
    lines = ["| claim | in the paper's words | tested as | here |", "| --- | --- | --- | --- |"]
    for claim, mine in by_claim(claims, measured).items():
        words, test = (text.replace("|", "\\|") for text in (f"“{claim.quote}” ({claim.where})", claim.test))
        lines.append(f"| {claim.id.partition('/')[2]} | {words} | {test} | **{symbol(of_claim(claim, mine))}** |")
    return "\n".join([*lines, "", surviving(measured)])


def of_claim(claim: Claim, mine: Sequence[Finding]) -> str:
    """The word for all findings of a claim, see :func:`overall`."""
    return overall([finding.verdict for finding in mine], claim.universal)


def surviving(measured: Sequence[Finding]) -> str:
    """A sentence on how many decided findings stand if all of them are looked at together."""
    words, corrected = ("reproduced", "contradicted"), holm(list(map(_chance, measured)))
    decided = [(f, p) for f, p in zip(measured, corrected, strict=True) if f.verdict in words]
    told = f"Reproduced or contradicted: {len(decided) or 'none'} of {len(measured)} findings"
    if not decided:
        return f"{told}."
    of, stand = (Counter((f.claim, f.data) for f in some) for some in (measured, [f for f, p in decided if p < 0.05]))
    named = [f"{n} of {of[c, data]} of claim {c.id.partition('/')[2]} on {data}" for (c, data), n in stand.items()]
    told += f"; with Holm's correction for all that were tested: {stand.total() or 'none'}"
    return f"{told} ({', '.join(named)})." if named else f"{told}."


def _chance(finding: Finding) -> float:
    """Its p; NaN where nothing was tested: one training, or curves that overlap too little."""
    return finding.interval.p if finding.interval.testable and not finding.interval.pictures_alone else math.nan


def rows(claims: Sequence[Claim], measured: Sequence[Finding]) -> list[dict[str, Any]]:
    """The rows of a table of findings, claim by claim; a claim that nothing tests has a row that says so."""
    table, corrected = [], dict(zip(map(id, measured), holm(list(map(_chance, measured))), strict=True))
    for claim, mine in by_claim(claims, measured).items():
        if not mine:
            table.append({"claim": claim.id, "data": "", "verdict": "not measured"})
        for f in mine:
            shown = {"claim": claim.id, "data": f.data, "metric": NAMES.get(f.metric, f.metric), "judge": f.judge}
            interval = {name: getattr(f.interval, name) for name in ("value", "low", "high", "defined", "trainings")}
            interval["p"] = _chance(f)
            table.append(
                {**shown, "verdict": symbol(f.verdict), **interval, "p, Holm": corrected[id(f)], "unit": f.unit}
            )
    return table


def unreproduced(claims: Sequence[Claim], measured: Sequence[Finding]) -> str:
    """Every finding that is not *reproduced*, and every claim that nothing tests, as a list in Markdown."""
    lines = []
    for claim, mine in by_claim(claims, measured).items():
        lines += [f"- {claim.id}: {describe(f)}" for f in mine if f.verdict != "reproduced"]
        lines += [] if mine else [f"- {claim.id}: not measured in this preset"]
    return "\n".join(lines) or "Every claim is reproduced by all that tested it."


def told(claims: Sequence[Claim], measured: Sequence[Finding]) -> dict[str, str]:
    """What a text may say of claims and findings, by names that it takes them by.

    `object-region/1a`: the claim's word; `object-region/1a mask-rcnn-small box_ap scenes`: the finding, `-18 % [-32, -5]`; the same
    without the data set: that of the first one; and with `size` at the end: its size alone, `18 %`.
    """
    words = {}
    for claim, mine in by_claim(claims, measured).items():
        words[claim.id] = of_claim(claim, mine)
        for f in mine:
            full, size = _told(f.interval, f.unit), _told(f.interval, f.unit).partition(" [")[0].lstrip("+-")
            for name in (f"{claim.id} {f.judge} {f.metric}", f"{claim.id} {f.judge} {f.metric} {f.data}"):
                words = {name: full, f"{name} size": size} | words
    return words


def number(finding: Finding) -> str:
    """A finding's value and interval: `-18 % [-32, -5]`."""
    return _told(finding.interval, finding.unit)


def _told(interval: Interval, unit: str) -> str:
    digits = {"% rate": ".0f", "dB": ".2f", "": ".3f", "of the videos": ".2f"}[unit]
    ends = interval.value, interval.low, interval.high  # a percentage that rounds to zero keeps its sign
    value, low, high = (format(v, "+.1f" if digits == ".0f" and 0 < abs(v) < 0.5 else "+" + digits) for v in ends)
    return f"{value} {unit.removesuffix(' rate')}".rstrip() + f" [{low}, {high}]"


def describe(finding: Finding, pictures_alone: bool = False) -> str:
    """One finding as a line of text: `scenes, mask-rcnn-small box AP: -17 % [-24, -9] of the rate, **✓ reproduced**`; of one
    training, where asked, with the word that the `pictures_alone` would give."""
    judge = "" if finding.judge == "none" else f"{finding.judge} "
    what = f"{finding.data}, {judge}{NAMES[finding.metric]}" if finding.metric in NAMES else finding.data
    if finding.verdict == "not testable":
        interval = finding.interval
        why = "the curves do not overlap in every training or clip" if interval.trainings > 1 else "there is one video"
        if interval.defined < DEFINED:
            why = f"{100 * interval.defined:.0f} % of the replicates have curves that overlap"
        return f"{what}: not testable ({why})"
    rate, word = " of the rate" * (finding.unit == "% rate"), finding.verdict
    rate += ", one training" * (finding.interval.trainings == 1)
    if finding.interval.pictures_alone:
        rate += ", over the pictures alone"
        word = verdict(finding.interval, finding.claim.sign, MARGINS[finding.unit]) if pictures_alone else word
    return f"{what}: {number(finding)}{rate}, **{symbol(word)}**"
