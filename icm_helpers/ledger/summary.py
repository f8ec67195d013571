"""A chapter in a few lines: the idea, what came out on scenes and on real pictures, the caveat, the advice."""

from __future__ import annotations

import string
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence

from IPython.display import Markdown

from icm_helpers import chapters
from icm_helpers.data import datasets
from icm_helpers.ledger import verdicts
from icm_helpers.ledger.chapter import Chapter
from icm_helpers.ledger.queries import NAMES


def claims(chapter: Chapter) -> set[str]:
    """The ids of the claims that a chapter's few lines speak of."""
    text = " ".join([chapter.short.caveat, *chapter.short.advice.values()])
    names = (name for _, name, _, _ in string.Formatter().parse(text) if name)
    return {chapter.short.claim, _real(chapter)} | {name.partition(" ")[0] for name in names}


def _real(chapter: Chapter) -> str:
    """The id of the claim that says on real pictures whether the idea works."""
    return chapter.short.photographs or chapter.short.claim


def lines(chapter: Chapter, findings: Sequence[verdicts.Finding]) -> dict[str, str]:
    """The few lines by their names, from findings of at least the :func:`claims` that they speak of."""
    short = chapter.short
    drawn, real = _of(findings, short.claim, True), _of(findings, _real(chapter), False)
    told = defaultdict(lambda: "not measured", verdicts.told(chapter.claims, findings))
    advice = short.advice.get(verdicts.leaning([f.verdict for f in drawn])) if drawn else None
    return {
        "idea": short.idea,
        "compared with": short.against,
        "on scenes": _came_out(drawn),
        "on real pictures": _came_out(real),
        "caveat": short.caveat.format_map(told),
        "advice": advice.format_map(told) if advice else "None: it was written for another verdict.",
    }


def _of(findings: Sequence[verdicts.Finding], claim: str, drawn: bool) -> list[verdicts.Finding]:
    """The findings of a claim on drawn pictures, or on real ones."""
    return [f for f in findings if f.claim.id == claim and bool(datasets.DATASETS[f.data].drawn) == drawn]


def _came_out(findings: Sequence[verdicts.Finding]) -> str:
    """The word for all of these findings of one claim, and the number of the first, with its judge."""
    if not findings:
        return f"**{verdicts.symbol('not measured')}**"
    first, word = findings[0], verdicts.of_claim(findings[0].claim, findings)
    what = f"{'bits at equal ' * (first.unit == '% rate')}{NAMES[first.metric]} {verdicts.number(first)}"
    what += f" by {first.judge}" * (first.judge != "none")
    return f"**{verdicts.symbol(word)}**" + f": {what}" * (first.verdict != "not testable")


def of(chapter: Chapter, findings: Sequence[verdicts.Finding]) -> Markdown:
    """All but the idea, a row each."""
    _, against, *told = lines(chapter, findings).items()
    rows = [f"| *{name}* | {text} |" for name, text in told]
    return Markdown("\n".join([f"| | {' '.join(against)} |", "| --- | --- |", *rows]))


def scoreboard() -> Iterator[Markdown]:
    """Every claim of every chapter with its verdict, a table for each chapter."""
    for name, findings in verdicts.scoreboard().items():
        chapter = chapters.named(name)
        rows = [f'<a href="../papers/{name}.html"><b>{chapter.title}</b></a>', ""]
        rows += ["| claim | tested as | verdict | findings |", "| --- | --- | --- | --- |"]
        for claim, mine in verdicts.by_claim(chapter.claims, findings).items():
            tally = Counter((f.data, f.verdict) for f in mine)
            told = "<br>".join(f"{data}: {n} {verdict}" for (data, verdict), n in tally.items())
            word = verdicts.symbol(verdicts.of_claim(claim, mine))
            card = f'<a href="../papers/{name}_appendix.html#every-finding">{claim.id.partition("/")[2]}</a>'
            said = " *(said of all)*" if claim.universal else ""
            rows.append(f"| {card} | {claim.test}{said} | **{word}** | {told} |")
        yield Markdown("\n".join([*rows, "", verdicts.surviving(findings)]))


def board() -> Markdown:
    """Every chapter, a row each."""
    known = [chapters.named(name) for name in chapters.NAMES]
    found = verdicts.scoreboard(set().union(*map(claims, known)))
    rows = []
    for chapter in known:
        told = lines(chapter, found[chapter.name])
        told["idea"] += f" Compared with {told.pop('compared with')}."
        told = {"paper": f'<a href="papers/{chapter.name}.html">{chapter.title}</a>', **told}
        rows.append(f"| {' | '.join(told.values())} |")
    return Markdown("\n".join([f"| {' | '.join(told)} |", "| --- " * len(told) + "|", *rows]))
