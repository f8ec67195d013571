"""A chapter in a few lines: the idea, what came out on scenes and on photographs, the caveat, the advice."""

from __future__ import annotations

import string
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence

from IPython.display import Markdown

from icm_helpers import chapters
from icm_helpers.data import datasets
from icm_helpers.ledger import verdicts
from icm_helpers.ledger.chapter import Chapter, Claim
from icm_helpers.ledger.queries import NAMES


def claims(chapter: Chapter) -> set[str]:
    """The ids of the claims that a chapter's few lines speak of."""
    text = " ".join([chapter.short.caveat, *chapter.short.advice.values()])
    names = (name for _, name, _, _ in string.Formatter().parse(text) if name)
    return {chapter.short.claim} | {name.partition(" ")[0] for name in names}


def lines(chapter: Chapter, findings: Sequence[verdicts.Finding]) -> dict[str, str]:
    """The few lines by their names, from findings of at least the :func:`claims` that they speak of."""
    short = chapter.short
    claim = next(claim for claim in chapter.claims if claim.id == short.claim)
    drawn, real = [], []
    for finding in (f for f in findings if f.claim == claim):
        (drawn if datasets.DATASETS[finding.data].drawn else real).append(finding)
    told = defaultdict(lambda: "not measured", verdicts.told(chapter.claims, findings))
    advice = short.advice.get(verdicts.leaning([f.verdict for f in drawn])) if drawn else None
    return {
        "idea": short.idea,
        "compared with": short.against,
        "on scenes": _came_out(claim, drawn),
        "on photographs": _came_out(claim, real),
        "caveat": short.caveat.format_map(told),
        "advice": advice.format_map(told) if advice else "None: it was written for another verdict.",
    }


def _came_out(claim: Claim, findings: Sequence[verdicts.Finding]) -> str:
    """The word for all of these findings, and the number of the first."""
    word = f"**{verdicts.symbol(verdicts.of_claim(claim, findings))}**"
    if not findings or findings[0].verdict == "not testable":
        return word
    first, what = findings[0], NAMES[findings[0].metric]
    return f"{word}: {'bits at equal ' * (first.unit == '% rate')}{what} {verdicts.number(first)}"


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
            rows.append(f"| {card} | {claim.test} | **{word}** | {told} |")
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
