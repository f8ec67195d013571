"""What a page's script draws over a static rate-accuracy figure: every point with its numbers, methods that a click hides.

The figure itself stays a picture: in notebooks, on paper, and where no script runs. `book/_static/interactive.js` hands to plotly
what :func:`chart` leaves beside it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from IPython.display import HTML

from icm_helpers import plots
from icm_helpers.bd import Curve
from icm_helpers.intervals import of_pictures
from icm_helpers.ledger.queries import FINETUNED
from icm_helpers.ledger.results import rounded

SYMBOLS = {
    **{"o": "circle", "s": "square", "D": "diamond", "d": "diamond-tall", "^": "triangle-up", "v": "triangle-down"},
    **{"<": "triangle-left", ">": "triangle-right", "P": "cross", "X": "x", "p": "pentagon", "*": "star"},
    **{"h": "hexagon", "H": "hexagon2", "1": "y-down-open", "2": "y-up-open", "3": "y-left-open", "4": "y-right-open"},
    **{"+": "cross-thin-open", "x": "x-thin-open", "|": "line-ns-open"},
}
"""Matplotlib's markers as plotly calls them; a circle for others."""

DASHES = {"-": "solid", "--": "dash", ":": "dot", "-.": "dashdot"}
"""Matplotlib's lines as plotly calls them."""

Panels = Sequence[tuple[str, Mapping[str, Curve], float | None]]


def chart(panels: Panels, title: str) -> HTML:
    """The panels of `plots.rate_accuracy_panels` as plotly's traces and layout, which a reader of the notebook does not see."""
    layout: dict[str, Any] = {"title": {"text": title}, "shapes": [], "annotations": []}
    traces: list[dict[str, Any]] = []
    legend: set[str] = set()
    for k, (label, curves, clean) in enumerate(panels, start=1):
        axes = {"xaxis": f"x{k}", "yaxis": f"y{k}"}
        rates = np.concatenate([curve.bpp for curve in curves.values()]) if curves else np.ones(1)
        ticks = 2.0 ** np.arange(np.floor(np.log2(rates.min())), np.ceil(np.log2(rates.max())) + 1)
        if near := plots.close_rates(rates.min(), rates.max()):  # as in the picture
            ticks = near.tick_values(rates.min(), rates.max())
        layout[f"xaxis{k}"] = {"tickvals": ticks.tolist(), "ticktext": [f"{tick:.3g}" for tick in ticks]}
        layout[f"yaxis{k}"] = {"title": {"text": label}}
        if clean is not None:
            ends = {"x0": 0, "x1": 1, "xref": f"x{k} domain", "y0": clean, "y1": clean, "yref": f"y{k}"}
            layout["shapes"].append({"type": "line", **ends, "line": {"dash": "dot", "color": plots.INK, "width": 1.3}})
            place = {"x": 0, "xref": f"x{k} domain", "xanchor": "left", "y": clean, "yref": f"y{k}"}
            told = {"text": "uncompressed", "font": {"size": 11}, "showarrow": False, "yanchor": "bottom", "xshift": 8}
            layout["annotations"].append(told | place)
        for method, curve in curves.items():
            traces += [trace | axes for trace in _traces(method, curve, label, method not in legend)]
            legend.add(method)
    data = json.dumps({"data": rounded(traces), "layout": layout}).replace("</", "<\\/")
    return HTML(f'<script type="application/json" class="rate-accuracy">{data}</script>')


def _traces(method: str, curve: Curve, label: str, first: bool) -> Iterator[dict[str, Any]]:
    """The band, the single trainings and the line of a method; `first` has the entry of the legend."""
    plain = method.removesuffix(FINETUNED)
    colour, marker, name = plots.METHODS[plain]
    name += ", fine-tuned" * (plain != method)
    bounds = [of_pictures(v, drawn) for v, drawn in zip(curve.metric, curve.metric_replicates.T, strict=True)]
    low, high = [b.low for b in bounds], [b.high for b in bounds]
    group = {"legendgroup": method, "name": name, "type": "scatter"}
    quiet = {"showlegend": False, "hoverinfo": "skip", "line": {"width": 0}, "mode": "lines"}
    around = {"x": [*curve.bpp, *curve.bpp[::-1]], "y": _known([*high, *low[::-1]])}
    yield group | quiet | around | {"fill": "toself", "fillcolor": _faint(colour)}
    several = len(curve.trainings) > 1
    for seed, one in curve.trainings.items() if several else ():
        told = [f"{name}, seed {seed}{at}" for at in _told(one, plain, label)]
        small = {"size": 5, "color": "white", "line": {"color": colour, "width": 1}}
        points = {"x": [*one.bpp], "y": _known(one.metric), "hovertext": told, "hoverinfo": "text"}
        yield group | points | {"mode": "markers", "marker": small, "showlegend": False}
    seeds = ", ".join(map(str, curve.trainings))
    trained = f", mean of seeds {seeds}" if several else f", seed {seeds}" * bool(seeds)
    spans = [f" [{b.low:.3g}, {b.high:.3g}]" for b in bounds]
    told = [f"{name}{trained}{at}{span}" for at, span in zip(_told(curve, plain, label), spans, strict=True)]
    line = {"color": colour, "dash": DASHES[plots.dash(method)]}
    looks = {"mode": "lines+markers", "line": line, "showlegend": first}
    looks["marker"] = {"symbol": SYMBOLS.get(marker, "circle"), "size": 8, "color": colour}
    yield group | looks | {"x": [*curve.bpp], "y": _known(curve.metric), "hovertext": told, "hoverinfo": "text"}


def _told(curve: Curve, method: str, label: str) -> list[str]:
    """What is said of each point after its method: what decides its rate, the rate, and the value."""
    kind = plots.setting(method)
    settings = [f"<br>{kind} {setting:g}" for setting in curve.settings] or [""] * len(curve.bpp)
    points = zip(settings, curve.bpp, curve.metric, strict=True)
    return [f"{setting}<br>{bpp:.4f} bpp<br>{label} {value:.3g}" for setting, bpp, value in points]


def _known(values: Sequence[float]) -> list[float | None]:
    """JSON has no NaN."""
    return [value if np.isfinite(value) else None for value in values]


def _faint(colour: str) -> str:
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({red}, {green}, {blue}, 0.13)"
