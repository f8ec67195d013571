"""A forest plot: every finding of a chapter as one line, so that a reader sees at once which claims hold, and how surely."""

from __future__ import annotations

import math
from collections.abc import Sequence

from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from icm_helpers import plots
from icm_helpers.ledger.queries import NAMES
from icm_helpers.ledger.verdicts import MARGINS, Finding

LOOKS = {  # verdict -> marker, colour, whether it is filled: shapes tell verdicts apart without colour
    "reproduced": ("o", "#0072b2", True),
    "contradicted": ("X", "#d55e00", True),
    "no difference": ("s", "#009e73", True),
    "not decided": ("D", plots.INK, False),
}
AXES = {  # unit -> what the axis says
    "% rate": "change of the rate [%]",
    "dB": "difference in PSNR [dB]",
    "": "difference in what is named at the left",
    "of the videos": "share of the videos, minus one half",
}


def plot(findings: Sequence[Finding]) -> Figure:
    """Each finding with its 95 % interval, a panel for each unit; the line at zero and, grey, the margin of *no difference*.

    The arrow after a finding's name points to the side that its claim names. An interval that leaves the panel ends in an
    arrowhead; of what is not testable only the name is there.
    """
    units = [unit for unit in AXES if any(f.unit == unit for f in findings)]
    ordered = sorted(findings, key=lambda f: f.claim.id)
    groups = [[f for f in ordered if f.unit == unit] for unit in units]
    height = 0.24 * len(findings) + 0.9 * max(1, len(units)) + 0.5
    ratios = {"height_ratios": [len(group) + 1 for group in groups] or [1]}
    shape = {"figsize": (7.6, height), "squeeze": False, "layout": "constrained", "gridspec_kw": ratios}
    figure, axes = plt.subplots(max(1, len(units)), 1, **shape)
    for ax, unit, group in zip(axes.flat, units, groups, strict=False):
        _panel(ax, group, unit)
    used = [verdict for verdict in LOOKS if any(f.verdict == verdict for f in findings)]
    handles = [plt.Line2D([], [], linestyle="none", label=verdict, **_look(verdict)) for verdict in used]
    long = len(findings) > 40  # then the legend and the ticks at the bottom are out of sight
    figure.legend(handles=handles, loc=f"outside {'upper' if long else 'lower'} center", ncols=4, fontsize=9)
    axes[0, 0].tick_params(axis="x", top=long, labeltop=long)
    return figure


def _look(verdict: str) -> dict:
    marker, colour, filled = LOOKS[verdict]
    return {"marker": marker, "color": colour, "markerfacecolor": colour if filled else "none", "markersize": 6}


def _name(finding: Finding) -> str:
    judge = "" if finding.judge == "none" else f" {finding.judge}"
    what = f"{finding.data}{judge}, {NAMES.get(finding.metric, finding.metric)}"
    return f"{what}   {finding.claim.id.partition('/')[2]} {'←' if finding.claim.sign < 0 else '→'}"


def _panel(ax: Axes, findings: Sequence[Finding], unit: str) -> None:
    known = [f.interval for f in findings if f.verdict in LOOKS]
    # Wide enough for every value, and for the intervals of all but the least certain ones.
    ends = sorted(max(abs(i.low), abs(i.high)) for i in known)
    usual = ends[int(0.8 * (len(ends) - 1))] if ends else 0.0
    limit = 1.15 * max([usual, 2 * MARGINS[unit], *(abs(i.value) for i in known)]) or 1.0
    ax.axvspan(-MARGINS[unit], MARGINS[unit], color=plots.INK, alpha=0.2, linewidth=0)
    ax.axvline(0, color=plots.INK, linewidth=1)
    for y, finding in enumerate(findings):
        if y and finding.claim != findings[y - 1].claim:
            ax.axhline(y - 0.5, color=plots.INK, linewidth=0.5, alpha=0.5)
        interval = finding.interval
        if finding.verdict not in LOOKS:
            ax.text(0, y, " not testable", va="center", fontsize=8)
            continue
        look = _look(finding.verdict)
        low, high = (max(-limit, min(limit, end)) for end in (interval.low, interval.high))
        ax.plot([low, high], [y, y], color=look["color"], linewidth=1.6)
        for end, whole, head in ((low, interval.low, "<"), (high, interval.high, ">")):
            if not math.isclose(end, whole):
                ax.plot(end, y, marker=head, color=look["color"], markersize=5, clip_on=False)
        ax.plot(interval.value, y, **look)
    ax.set(xlim=(-limit, limit), ylim=(len(findings) - 0.5, -0.5), xlabel=AXES[unit])
    ax.set_yticks(range(len(findings)), [_name(f) for f in findings], fontsize=8.5)
    ax.grid(visible=False, axis="y")
    ax.tick_params(axis="y", length=0, pad=9)
