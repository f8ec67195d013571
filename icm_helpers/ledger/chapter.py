"""A paper's part of the book: its title, what it claims and how each claim is tested, and its studies by preset."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from icm_helpers.ledger.rehearsed import rehearsed
from icm_helpers.ledger.study import Study, VideoStudy


@dataclass(frozen=True)
class Change:
    """A change of a claim's test after results had been seen."""

    when: str  # date and commit
    why: str  # what was changed, and for which reason
    studies: tuple[str, ...] = ()  # names of those that hold what was tested before in place of the main study's
    seeds: tuple[int, ...] = ()  # the only ones that were judged before; with neither, nothing is left of it


@dataclass(frozen=True)
class Claim:
    """One sentence and its test: `method` is compared with `anchor`, and `sign` is where the claim says the value lies.

    `measure` is `bd_rate`; `bd_metric`; `rate`, how much more bits `method` takes than `anchor` at the same lambdas; `cover`,
    BD-rate on the third of the images of which objects cover least, minus BD-rate on the third of which they cover most;
    `transfer`, BD-rate by a detector minus BD-rate by the teacher; or `majority`, the share of the videos with a positive
    `bd_metric`, minus one half. `judged` says by which detectors: those used `as they are`; of these the one that is the `teacher`
    of the codecs, or the `strangers` to them; those `fine-tuned` on what the codec decodes; or `fine-tuned against as they are`,
    where only `method` has the fine-tuned one. One contradicted finding refutes a `universal` claim.
    """

    id: str
    quote: str
    where: str
    test: str
    sign: int
    measure: str
    metrics: tuple[str, ...]
    anchor: str
    method: str
    judged: str = "as they are"
    study: str = ""  # the name of the only one that tests it, and that tests nothing else; empty: the other main ones
    universal: bool = False
    stated: str = ""  # date and commit at which the test was written down
    changed: Change | None = None


@dataclass(frozen=True)
class Short:
    """A chapter in a few lines; names of `verdicts.told` in braces stand for what the ledger says.

    `claim` is the one that says whether the idea works, and `photographs` takes its place there, where they need another test;
    `advice` has a text for each `verdicts.leaning` of the findings of `claim` on scenes.
    """

    idea: str
    against: str
    claim: str
    caveat: str
    advice: Mapping[str, str]
    photographs: str = ""


@dataclass(frozen=True)
class Advice:
    """A question of somebody who must choose, and an answer for each `verdicts.leaning` of the findings of a claim."""

    question: str
    claim: str
    texts: Mapping[str, str]  # for, against, both, open


@dataclass(frozen=True)
class Chapter:
    """A paper's part of the book: its title, what it claims and how that is tested, its studies by preset, a summary, and gaps."""

    name: str
    title: str
    claims: tuple[Claim, ...]
    presets: dict[str, tuple[Study | VideoStudy, ...]] = field(hash=False)
    short: Short | None = field(default=None, hash=False)
    gaps: tuple[str, ...] = ()  # what preset `paper` lacks of its paper
    # Claims whose tests are written down before the runs of preset `pending`; with their records they join `claims`.
    awaiting: tuple[Claim, ...] = ()

    def studies(self, preset: str = "book") -> tuple[Study | VideoStudy, ...]:
        """The studies of a preset, of which `rehearsal` follows from `paper`; a ValueError if there is none of this name."""
        if preset == "rehearsal":
            return tuple(map(rehearsed, self.presets["paper"]))
        if preset not in self.presets:
            known = [*self.presets, "rehearsal"]
            raise ValueError(f"a preset of {self.name} is one of {', '.join(known)}, not {preset!r}")
        return self.presets[preset]
