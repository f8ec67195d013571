"""One style for every figure: a colour and a marker for each method, safe for colour-blind readers, on light and dark pages.

Figures have a transparent ground and grey ink of middle lightness, so the same picture reads on white and on black.
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator
from scipy.interpolate import PchipInterpolator
from torch import Tensor

from icm_helpers.bd import Curve
from icm_helpers.codecs import zoo
from icm_helpers.intervals import of_pictures
from icm_helpers.ledger.queries import FINETUNED
from icm_helpers.objectives import LOSSES

INK = "#767c85"  # contrast 4 to 1 or better on white and on the dark theme


class _Methods(dict[str, tuple[str, str, str]]):
    """Looked up where losses and codecs say how they look: Okabe and Ito's shades that keep contrast on both grounds."""

    def __missing__(self, name: str) -> tuple[str, str, str]:
        kind, _, rest = name.partition("-")
        if kind in ("refined", "spent", "probed"):
            colour, marker, label = self[rest]
            return colour, marker, label.removeprefix("distillation, ") + ", latents refined" * (kind == "refined")
        if name.endswith("-truth") and name not in LOSSES:
            colour, marker, label = self[name.removesuffix("-truth")]
            return colour, marker, f"{label}, true masks"
        known = [loss for loss in LOSSES.values() if name == loss.name or name.startswith(f"{loss.name}-")]
        if known:
            loss = max(known, key=lambda loss: len(loss.name))
            label = f"{loss.label} {name.removeprefix(loss.name).removeprefix('-')}".rstrip()
            return loss.looks.get(name, (loss.colour, loss.marker, label))
        codec, _ = zoo.find(name)
        return codec.colour or INK, codec.marker or ".", codec.label or name


METHODS = _Methods()
"""Method -> colour, marker, the name a reader sees: of losses, and of the zoo's codecs."""

DASHES = {FINETUNED: "--", "-truth": ":", "-lowpass": "-.", "-roi": "--"}
"""How a method's line is drawn that is a variant of another, by the end of its name."""


def dash(method: str) -> str:
    """The style of a method's line.

    >>> dash("hevc"), dash("hevc-lowpass")
    ('-', '-.')
    """
    return next((style for end, style in DASHES.items() if method.endswith(end)), "-")


LOOKS = tuple(zip(("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9"), "osD^vP", strict=True))
"""Colours and markers of curves that have none of their own."""


def setting(method: str) -> str:
    """What decides the rate of a method's points: λ, channels (of a video's network), quality or QP."""
    name = method.removesuffix("-truth")
    if name == "sa-icm":  # the curve through its alphas, see `queries.curves`
        return "alpha"
    trained = [loss for loss in LOSSES.values() if name == loss.name or name.startswith((f"{loss.name}-", "refined-"))]
    if trained:
        return "channels" if trained[0].video else "λ"
    try:
        kind = zoo.find(name)[0].setting
    except ValueError:
        kind = None
    return {"quality": "quality", "qp": "QP"}.get(kind, "rate")


STYLE = {
    **dict.fromkeys(("figure.facecolor", "axes.facecolor", "savefig.facecolor"), "none"),
    **dict.fromkeys(("axes.edgecolor", "axes.labelcolor", "axes.titlecolor", "text.color", "grid.color"), INK),
    **dict.fromkeys(("xtick.color", "ytick.color"), INK),
    **dict.fromkeys(("axes.spines.top", "axes.spines.right", "legend.frameon"), False),
    **dict.fromkeys(("axes.grid", "savefig.transparent"), True),
    **{"savefig.bbox": "tight", "figure.dpi": 110, "font.size": 10.5, "axes.titlesize": 11},
    **{"grid.alpha": 0.25, "grid.linewidth": 0.6, "lines.linewidth": 1.8, "lines.markersize": 6},
}


def use_style() -> None:
    """Set the book's style for all figures that follow."""
    plt.rcParams.update(STYLE)


def rate_accuracy(ax: Axes, curves: Mapping[str, Curve], *, ylabel: str, clean: float | None = None) -> None:
    """Draw rate against a metric: a line and a band of 95 % intervals over pictures for each method (a key of `METHODS`).

    Variants of a method have its colour and a line of their own, :func:`dash`. Of several trainings the line is their mean, and
    small white markers are each. `clean` is the metric on uncompressed images, a dotted line.
    """
    for method, curve in curves.items():
        plain = method.removesuffix(FINETUNED)
        colour, marker, label = METHODS[plain]
        look = {"linestyle": dash(method), "marker": marker, "color": colour}
        look |= {"markerfacecolor": "none"} if plain != method or method.endswith("-truth") else {}
        bounds = map(of_pictures, curve.metric, curve.metric_replicates.T)
        low, high = zip(*((bound.low, bound.high) for bound in bounds), strict=True)
        ax.fill_between(curve.bpp, low, high, color=colour, alpha=0.15, linewidth=0)
        for one in curve.trainings.values() if len(curve.trainings) > 1 else ():
            ax.plot(one.bpp, one.metric, ".", color=colour, markerfacecolor="white", markeredgewidth=0.7, zorder=3)
        ax.plot(curve.bpp, curve.metric, label=label + ", fine-tuned" * (plain != method), **look)
    if clean is not None:
        ax.axhline(clean, color=INK, linestyle=":", linewidth=1.3)
        # At the left, where curves are far below.
        ax.annotate("uncompressed", (0.01, clean), xycoords=("axes fraction", "data"), va="bottom", fontsize=9)
    rate_axis(ax, ylabel)
    ax.legend(loc="best", fontsize=9)


def rate_accuracy_panels(panels: Sequence[tuple[str, Mapping[str, Curve], float | None]], title: str) -> Figure:
    """A figure of :func:`rate_accuracy`, one panel for each (ylabel, curves, clean), two in a row, and one legend below all."""
    rows = -(-len(panels) // 2)
    figure, axes = plt.subplots(rows, 2, figsize=(9.8, 3.7 * rows + 0.4), squeeze=False, layout="constrained")
    for ax in axes.flat[len(panels) :]:
        ax.axis("off")
    methods = {}
    for ax, (ylabel, curves, clean) in zip(axes.flat, panels, strict=False):
        rate_accuracy(ax, curves, ylabel=ylabel, clean=clean)
        ax.get_legend().remove()
        methods |= dict(zip(*reversed(ax.get_legend_handles_labels()), strict=True))
    figure.legend(methods.values(), methods.keys(), loc="outside lower center", ncols=4, fontsize=9)
    figure.suptitle(title, color=INK)
    return figure


def close_rates(low: float, high: float) -> MaxNLocator | None:
    """What labels an axis of rates that lie so close that there are few powers of two between them; else None."""
    return MaxNLocator(5) if high < 5 * low else None


def rate_axis(
    ax: Axes, ylabel: str, xlabel: str = "rate [bits per pixel, all bytes counted]", ticks: int | None = None
) -> None:
    """Label the axes, rate on the first one: a step to the right is twice the bits, wherever one stands."""
    ax.set_xscale("log", base=2)
    low, high = ax.dataLim.intervalx
    if ticks:
        ax.xaxis.set_major_locator(LogLocator(2, numticks=ticks))
    elif near := close_rates(low, high):
        ax.xaxis.set_major_locator(near)
    ax.xaxis.set_major_formatter("{x:.3g}")
    ax.set(xlabel=xlabel, ylabel=ylabel)


Points = tuple[np.ndarray, np.ndarray]


def between(ax: Axes, one: Points, other: Points, alpha: float) -> tuple[np.ndarray, list[np.ndarray]]:
    """Shade what BD-rate averages: the area between two codecs' (rate, quality), both rising, where both reach the same quality.

    Returns:
        the qualities, and at each of them the rate of either.
    """
    qualities = np.linspace(max(one[1][0], other[1][0]), min(one[1][-1], other[1][-1]), 200)
    rates = [np.exp(PchipInterpolator(quality, np.log(rate))(qualities)) for rate, quality in (one, other)]
    ax.fill_betweenx(qualities, *rates, color=INK, alpha=alpha, linewidth=0)
    return qualities, rates


def training_curve(curve: Sequence[Mapping[str, float]], title: str = "") -> Figure:
    """Loss, rate and distortion against the training step, one panel each."""
    names = [name for name in curve[0] if name != "step"]
    units = {"loss": "loss", "bpp": "rate [bits per pixel]", "distortion": "distortion\n[squared 8-bit levels]"}
    units["psnr"] = "PSNR [dB]"
    figure, axes = plt.subplots(1, len(names), figsize=(3.4 * len(names), 2.6), squeeze=False)
    steps = [point["step"] for point in curve]
    for ax, name in zip(axes[0], names, strict=True):
        ax.plot(steps, [point[name] for point in curve], color=METHODS["mse"][0])
        ax.set_xlabel("step")
        ax.set_ylabel(units.get(name, name))
        if name in ("loss", "distortion") and curve[0][name] > 10 * curve[-1][name] > 0:  # the fall would hide the rest
            ax.set_yscale("log")
            ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            ax.yaxis.set_major_formatter("{x:g}")
            ax.yaxis.set_minor_locator(NullLocator())
    figure.suptitle(title, color=INK)
    figure.tight_layout()
    return figure


def _legible(points: float, breadth: float) -> float:
    """The size of letters in a figure so many inches wide: pages show 6.2 at most, and shrink what is wider."""
    return points * max(1.2, breadth / 6.2)


def pictures(images: Sequence[Tensor], titles: Sequence[str], *, columns: int = 4, width: float = 2.6) -> Figure:
    """Images (3, H, W) or (1, H, W) in [0, 1] side by side, each `width` inches wide under its title, pixels shown sharp."""
    columns = min(columns, len(images))
    rows = -(-len(images) // columns)
    height, breadth = images[0].shape[1:]
    fontsize = _legible(7.5, width * columns)
    letters = int(width * 72 / (0.55 * fontsize))
    told = ["\n".join(textwrap.fill(line, letters) for line in title.split("\n")) for title in titles]
    above = (1 + max(title.count("\n") for title in told)) * 1.3 * fontsize / 72 + 0.15  # inches
    size = (width * columns, (width * height / breadth + above) * rows)
    figure, axes = plt.subplots(rows, columns, figsize=size, squeeze=False)
    for ax in axes.flat:
        ax.axis("off")
    for ax, image, title in zip(axes.flat, images, told, strict=False):
        pixels = image.detach().cpu().clamp(0, 1).permute(1, 2, 0).squeeze(2).numpy()  # (H, W, 3) or (H, W)
        ax.imshow(pixels, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
        ax.set_title(title, fontsize=fontsize)
    figure.tight_layout(pad=0.4)
    return figure


def with_boxes(
    ax: Axes, image: Tensor, boxes: Tensor, names: Sequence[str], scores: Sequence[float] | None = None
) -> None:
    """One image (3, H, W) with boxes (n, 4) in pixels and the names of what they hold, where they hide no other name."""
    ax.imshow(image.detach().cpu().clamp(0, 1).permute(1, 2, 0).numpy())
    ax.axis("off")
    breadth = ax.figure.get_figwidth()
    fontsize = _legible(6.5, breadth)
    # The height of a letter in pixels of the image.
    letter = fontsize / 72 * image.shape[2] / (0.97 * breadth / ax.get_gridspec().ncols)
    ground, written = {"facecolor": "#e69f00", "pad": 0.5, "edgecolor": "none"}, []
    for i, ((x0, y0, x1, y1), name) in enumerate(zip(boxes.tolist(), names, strict=True)):
        ax.add_patch(plt.Rectangle((x0, y0), x1 - x0, y1 - y0, fill=False, edgecolor="#e69f00", linewidth=1.4))
        text = name if scores is None else f"{name} {scores[i]:.2f}"
        width, height = 0.58 * letter * len(text), 1.35 * letter
        tops = (y0 - height, y0 - 2 * height, y1, y1 + height, y0, y1 - height)
        places = [
            (max(0, min(x, image.shape[2] - width)), max(0, min(y, image.shape[1] - height)))
            for x, y in product((x0, x1 - width), tops)
        ]
        hidden = [
            any(x < at + w and at < x + width and abs(y - top) < height for at, top, w in written) for x, y in places
        ]
        x, y = places[hidden.index(False) if False in hidden else 0]
        written.append((x, y, width))
        ax.text(x, y, text, fontsize=fontsize, color="black", va="top", bbox=ground)


def intervals(ax: Axes, groups: Mapping[str, Any], across: str) -> None:
    """Points with error bars: frames of `value`, `low`, `high` by name, against their column `across`."""
    for i, (name, group) in enumerate(groups.items()):
        colour = plt.get_cmap("Dark2")(i)  # detectors: not a colour of any loss
        error = [group["value"] - group["low"], group["high"] - group["value"]]
        beside = group[across] + 0.7 * i  # so that bars do not hide each other
        ax.errorbar(beside, group["value"], error, color=colour, fmt="oshv^D"[i % 6], capsize=3, label=name)
    ax.axhline(0, color=INK, linewidth=1, linestyle=":")
    ax.legend(fontsize=9, loc="upper center", bbox_to_anchor=(0.5, -0.18), ncols=3)


def difference(a: Tensor, b: Tensor) -> Tensor:
    """Where two pictures (3, H, W) differ: (1, H, W), mean over colours, five times."""
    return 5 * (a - b).abs().mean(0, keepdim=True)


def lines(ax: Axes, runs: Any, x: str, y: str) -> None:
    """A line for each `method` of a frame, through its points by rising x."""
    for method, points in runs.groupby("method", sort=False):
        colour, marker, label = METHODS[method]
        points = points.sort_values(x)
        ax.plot(points[x], points[y], color=colour, marker=marker, label=label)
    rate_axis(ax, y)
    ax.legend(fontsize=9)


def price_maps(image: Tensor, boxes: Tensor, found: Tensor, prices: Sequence[Tensor], titles: Sequence[str]) -> Figure:
    """A picture, and what codecs spend on each place of it, (1, H, W), in one grey scale; boxes (n, 4) are dashed if not found."""
    figure, axes = plt.subplots(1, 1 + len(prices), figsize=(2.7 * (1 + len(prices)), 3.1), squeeze=False)
    top = max((price.max().item() for price in prices), default=1.0)
    axes[0, 0].imshow(image.permute(1, 2, 0).numpy())
    for ax, price in zip(axes[0, 1:], prices, strict=True):
        ax.imshow(price[0].numpy(), cmap="gray", vmin=0, vmax=top)
    for ax, title in zip(axes[0], titles, strict=True):
        ax.axis("off")
        ax.set_title(title, fontsize=9.5)
        for (x0, y0, x1, y1), known in zip(boxes.tolist(), found.tolist(), strict=True):
            look = ("#e69f00", "-") if known else ("#56b4e9", "--")
            look = {"edgecolor": look[0], "linestyle": look[1], "fill": False, "linewidth": 1.5}
            ax.add_patch(plt.Rectangle((x0, y0), x1 - x0, y1 - y0, **look))
    figure.tight_layout()
    return figure


def stacked(bars: Mapping[str, tuple[Mapping[str, float], float]], xlabel: str) -> Figure:
    """A horizontal bar for each name, of parts that add up, and a vertical mark at a value of its own."""
    figure, ax = plt.subplots(figsize=(7.6, 0.9 + 0.55 * len(bars)))
    for place, (parts, mark) in enumerate(bars.values()):
        left = 0.0
        for (part, length), (colour, _) in zip(parts.items(), LOOKS, strict=False):
            ax.barh(place, length, left=left, color=colour, height=0.55, label=part if place == 0 else None)
            left += length
        ax.plot([mark] * 2, [place - 0.36, place + 0.36], color=INK, linewidth=3)
    ax.set_yticks(range(len(bars)), list(bars))
    ax.set_xlabel(xlabel)
    ax.legend(loc="lower right", fontsize=9)
    figure.tight_layout()
    return figure


def calibration(guessed: np.ndarray, true: np.ndarray, best: np.ndarray, bins: Sequence[float]) -> Figure:
    """True IoU against a predicted one (n,) in bins, with standard errors and counts; and a histogram of objects' best IoU (k,)."""
    figure, axes = plt.subplots(1, 2, figsize=(9.6, 3.6))
    colour, which = METHODS["mse"][0], np.digitize(guessed, bins)
    for k in range(1, len(bins) + 1):
        mine, at = true[which == k], guessed[which == k]
        if len(mine) > 1:
            axes[0].errorbar(at.mean(), mine.mean(), mine.std() / len(mine) ** 0.5, fmt="o", color=colour)
            beside = (5, -11) if mine.mean() < at.mean() else (-14, 5)  # off the diagonal
            axes[0].annotate(len(mine), (at.mean(), mine.mean()), beside, textcoords="offset points", fontsize=8)
    axes[0].plot([min(bins), 1], [min(bins), 1], ":", color=INK)
    axes[0].set(xlabel="predicted IoU", ylabel="true IoU")
    axes[1].hist(best, bins=np.linspace(0, 1, 21), weights=np.full(len(best), 100 / max(1, len(best))), color=colour)
    axes[1].set(xlabel="IoU of an object's best mask", ylabel="objects [%]")
    figure.tight_layout()
    return figure
