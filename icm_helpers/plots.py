"""One style for every figure: a colour and a marker for each method, safe for colour-blind readers, on light and dark pages.

Figures have a transparent ground and grey ink of middle lightness, so the same picture reads on white and on black.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator
from scipy.interpolate import PchipInterpolator
from torch import Tensor

from icm_helpers import simulate
from icm_helpers.bd import Curve
from icm_helpers.codecs import zoo
from icm_helpers.ledger.queries import FINETUNED, NAMES
from icm_helpers.objectives import LOSSES

INK = "#767c85"  # contrast 4 to 1 or better on white and on the dark theme


class _Methods(dict[str, tuple[str, str, str]]):
    """Looked up where losses and codecs say how they look: Okabe and Ito's shades that keep contrast on both grounds."""

    def __missing__(self, name: str) -> tuple[str, str, str]:
        kind, _, rest = name.partition("-")
        if kind in ("refined", "spent", "probed"):
            colour, marker, label = self[rest]
            return colour, marker, label.removeprefix("distillation, ") + ", latents refined" * (kind == "refined")
        known = [loss for loss in LOSSES.values() if name == loss.name or name.startswith(f"{loss.name}-")]
        if known:
            loss = max(known, key=lambda loss: len(loss.name))
            label = f"{loss.label} {name.removeprefix(loss.name).removeprefix('-')}".rstrip()
            return loss.looks.get(name, (loss.colour, loss.marker, label))
        codec, _ = zoo.find(name)
        return codec.colour or INK, codec.marker or ".", codec.label or name


METHODS = _Methods()
"""Method -> colour, marker, the name a reader sees: of losses, and of the zoo's codecs."""

STYLE = {
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "savefig.facecolor": "none",
    "savefig.transparent": True,
    "savefig.bbox": "tight",
    "figure.dpi": 110,
    "font.size": 10.5,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "axes.titlesize": 11,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": INK,
    "grid.alpha": 0.25,
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "lines.linewidth": 1.8,
    "lines.markersize": 6,
}


def use_style() -> None:
    """Set the book's style for all figures that follow."""
    plt.rcParams.update(STYLE)


def rate_accuracy(
    ax: Axes,
    curves: Mapping[str, Curve],
    *,
    ylabel: str,
    clean: float | None = None,
    percent: float = 95.0,
) -> None:
    """Draw rate against a metric: a line and a band of `percent` intervals for each method.

    Args:
        ax: where.
        curves: method (a key of `METHODS`) -> curve; dashed where the key ends in `-finetuned`.
        ylabel: the metric, with its unit.
        clean: the metric on uncompressed images, a dotted line.
        percent: of the bootstrap replicates that the band covers.
    """
    tail = (100 - percent) / 2
    for method, curve in curves.items():
        plain = method.removesuffix(FINETUNED)
        colour, marker, label = METHODS[plain]
        tuned = {} if plain == method else {"linestyle": "--", "markerfacecolor": "none"}
        low, high = np.percentile(curve.metric_replicates, [tail, 100 - tail], axis=0)
        ax.fill_between(curve.bpp, low, high, color=colour, alpha=0.15, linewidth=0)
        ax.plot(
            curve.bpp, curve.metric, marker=marker, color=colour, label=label + ", fine-tuned" * bool(tuned), **tuned
        )
    if clean is not None:
        ax.axhline(clean, color=INK, linestyle=":", linewidth=1.3)
        ax.annotate(
            "uncompressed",
            (1, clean),
            xycoords=("axes fraction", "data"),
            ha="right",
            va="bottom",
            color=INK,
            fontsize=9,
        )
    rate_axis(ax, ylabel)
    rates = np.concatenate([curve.bpp for curve in curves.values()]) if curves else np.ones(1)
    if rates.max() < 3 * rates.min():  # there may be no power of two in it to label
        ax.xaxis.set_major_locator(MaxNLocator(5))
    ax.legend(loc="lower right", fontsize=9)


def rate_accuracy_panels(
    panels: Sequence[tuple[str, Mapping[str, Curve], float | None]], title: str, columns: int = 2
) -> Figure:
    """A figure of :func:`rate_accuracy`, one panel for each (ylabel, curves, clean), two in a row, and one legend below all."""
    rows = -(-len(panels) // columns)
    figure, axes = plt.subplots(
        rows, columns, figsize=(4.9 * columns, 3.7 * rows + 0.4), squeeze=False, layout="constrained"
    )
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


def rate_axis(
    ax: Axes, ylabel: str, xlabel: str = "rate [bits per pixel, all bytes counted]", ticks: int | None = None
) -> None:
    """Label the axes, rate on the first one: a step to the right is twice the bits, wherever one stands."""
    ax.set_xscale("log", base=2)
    if ticks:
        ax.xaxis.set_major_locator(LogLocator(2, numticks=ticks))
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


def slopes(points: pd.DataFrame, alone: tuple[float, float]) -> Figure:
    """Rate against distortion of one picture coded at several lambdas, the index, with a tangent of slope -1/lambda at each.

    Args:
        points: `bpp` and `distortion` by lambda.
        alone: those of the encoder without any refinement.
    """
    figure, ax = plt.subplots(figsize=(6.8, 4))
    ax.plot(points["bpp"], points["distortion"], "o-", color=METHODS["mse"][0])
    reach, drop = 0.12 * (points.max() - points.min())
    offset = {"textcoords": "offset points", "fontsize": 9}
    for lmbda, (r, d) in points.iterrows():
        step = min(reach, drop * lmbda)
        ends = [r - step, r + step], [d + step / lmbda, d - step / lmbda]
        ax.plot(*ends, color=METHODS["object-region"][0], linewidth=2.4)
        ax.annotate(f"{lmbda:g}", (r, d), xytext=(-2, -17), ha="right", **offset)
    ax.margins(x=0.16, y=0.12)
    ax.plot(*alone, "o", color=INK, markerfacecolor="none", markersize=8)
    ax.annotate("encoder alone", alone, xytext=(8, 6), **offset)
    ax.set(xlabel="rate [bits per pixel, all bytes counted]", ylabel="distortion [squared 8-bit levels]")
    return figure


def cross(ax: Axes, column: int, row: int, cell: int) -> None:
    """Mark a cell of so many pixels."""
    ax.plot((column + 0.5) * cell, (row + 0.5) * cell, "+", color="#e69f00", markersize=9, markeredgewidth=1.8)


def squares(values: Tensor, columns: Sequence[str], rows: Sequence[str], xlabel: str, ylabel: str) -> Figure:
    """A table (rows, columns) of changes in percent on coloured squares; empty where it holds NaN."""
    figure, ax = plt.subplots(figsize=(5.6, 3.4))
    ax.imshow(values, cmap="Blues", vmin=0, vmax=1.6 * values.nan_to_num().max().item())
    for i, j in (~values.isnan()).nonzero().tolist():
        ax.annotate(f"{values[i, j]:+.1f} %", (j, i), ha="center", va="center", color="black", fontsize=9.5)
    ax.set_xticks(range(len(columns)), columns)
    ax.set_yticks(range(len(rows)), rows)
    ax.set(xlabel=xlabel, ylabel=ylabel)
    ax.grid(False)
    return figure


def guesses(took: Tensor, guess: Tensor, saved: Tensor) -> Figure:
    """What rounding took from each number of a latent against what was guessed, and the squared error (H, W) that this saved."""
    blue, orange = METHODS["mse"][0], METHODS["object-region"][0]
    figure, axes = plt.subplots(1, 2, figsize=(9.4, 3.8), layout="tight")
    crowd = LinearSegmentedColormap.from_list("crowd", ["#a9cfe8", blue])  # from few to many, logarithmic
    axes[0].hexbin(took, guess, gridsize=60, bins="log", cmap=crowd, extent=(-0.5, 0.5, -0.5, 0.5), mincnt=1)
    axes[0].plot([-0.5, 0.5], [-0.5, 0.5], color=INK, linestyle=":")
    axes[0].set(xlabel="taken by rounding [rounding intervals]", ylabel="guessed [rounding intervals]")
    far = saved.abs().quantile(0.99).item() or 1.0
    shades = LinearSegmentedColormap.from_list("saved", [orange, "white", blue])
    drawn = axes[1].imshow(saved, cmap=shades, vmin=-far, vmax=far)
    axes[1].axis("off")
    figure.colorbar(drawn, ax=axes[1], label="squared error saved [squared 8-bit levels]")
    return figure


def replicates(ax: Axes, values: Mapping[str, tuple[np.ndarray, str, float]], bins: np.ndarray, xlabel: str) -> None:
    """Histograms of bootstrap replicates of a difference, (values, colour, opacity) by name; dotted where there is none."""
    for name, (drawn, colour, alpha) in values.items():
        ax.hist(drawn, bins, color=colour, alpha=alpha, label=name)
    ax.axvline(0, color=INK, linestyle=":")
    ax.set(xlabel=xlabel, ylabel="replicates")
    ax.legend(fontsize=9)


def coverage(found: pd.DataFrame, looks: Mapping[str, tuple[str, str]]) -> Figure:
    """How often intervals hold the truth, and how wide they are, against the pictures; bars: two standard errors.

    Args:
        found: of `simulate.coverage`.
        looks: colour and marker by how pictures are drawn.
    """
    figure, axes = plt.subplots(1, 2, figsize=(9.6, 3.6), layout="tight")
    for name, (colour, marker) in looks.items():
        group, how = found[found["drawn"] == name], {"color": colour, "marker": marker, "label": name}
        error = 200 * np.sqrt(group["share"] * (1 - group["share"]) / group["trials"])
        axes[0].errorbar(group["pictures"], 100 * group["share"], error, capsize=3, **how)
        axes[1].plot(group["pictures"], group["half-width"], **how)
    axes[0].axhline(95, color=INK, linestyle=":")
    axes[0].set_ylabel("intervals that cover the truth [%]")
    axes[1].set(ylabel="half-width [% of the rate]", yscale="log")
    axes[1].yaxis.set_major_formatter("{x:g}")
    for ax in axes:
        ax.set(xscale="log", xlabel="pictures")
        ax.set_xticks(group["pictures"], map(str, group["pictures"]))
        ax.set_xticks([], minor=True)
        ax.legend(fontsize=9)
    return figure


def half_widths(
    measured: pd.DataFrame, thirds: pd.DataFrame, rates: Mapping[str, pd.Series], world: pd.Series
) -> Figure:
    """Half-widths of BD-rate's 95 % intervals against the pictures, extended by the law of the square root.

    Args:
        measured, thirds: data, metric, pictures and spread (`simulate.spread`), on all pictures and on thirds of them.
        rates: spreads by number of pictures, when only the rates vary, of each data set.
        world: the same of `simulate.evaluation`.
    """
    half = simulate.half_width
    inks = dict(zip(measured["metric"].unique(), ("#c2577a", "#3b8ea5", "#8a7d1f"), strict=True))
    looks = dict(zip(rates, (("o", "--", "x"), ("s", "-.", "2")), strict=True))
    figure, ax = plt.subplots(figsize=(8.6, 5.2), layout="tight")
    for row in measured.itertuples():
        (marker, line, _), colour, far = looks[row.data], inks[row.metric], np.geomspace(row.pictures, 1e5, 50)
        ax.plot(far, half(row.spread * np.sqrt(row.pictures / far)), line, color=colour, linewidth=1.2)
        label = f"{row.data}, {NAMES[row.metric]}"
        ax.plot(row.pictures, half(row.spread), marker, color=colour, markersize=9, label=label)
    for data, group in thirds.groupby("data", sort=False):
        hollow = {"color": inks["box_ap"], "markerfacecolor": "none", "label": f"{data}, thirds"}
        ax.plot(group["pictures"], half(group["spread"]), looks[data][0], **hollow)
    for data, found in rates.items():
        ax.plot(found.index, half(found), looks[data][2], color=INK, label=f"{data}, rates only")
    ax.plot(world.index, half(world), "+", color=INK, label="imaginary world")
    for level in (1, 5):
        ax.axhline(level, color=INK, linestyle=":")
    ax.axvline(5000, color=INK, linewidth=0.8)
    how = {"xycoords": ("data", "axes fraction"), "rotation": 90, "ha": "right", "va": "top", "fontsize": 9}
    ax.annotate("COCO val", (5000, 0.97), **how)
    ax.set(xscale="log", yscale="log", xlabel="evaluation pictures")
    ax.set_ylabel("half-width of the 95 % interval [% of the rate]")
    ax.xaxis.set_major_formatter("{x:,.0f}")
    ax.yaxis.set_major_formatter("{x:g}")
    ax.legend(fontsize=8.5, loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def training_curve(curve: Sequence[Mapping[str, float]], title: str = "") -> Figure:
    """Loss, rate and distortion against the training step, one panel each."""
    names = [name for name in curve[0] if name != "step"]
    units = {"loss": "loss", "bpp": "rate [bits per pixel]", "distortion": "distortion [squared 8-bit levels]"}
    units["psnr"] = "PSNR [dB]"
    figure, axes = plt.subplots(1, len(names), figsize=(3.4 * len(names), 2.6), squeeze=False)
    steps = [point["step"] for point in curve]
    for ax, name in zip(axes[0], names, strict=True):
        ax.plot(steps, [point[name] for point in curve], color=METHODS["mse"][0])
        ax.set_xlabel("step")
        ax.set_ylabel(units.get(name, name))
    figure.suptitle(title, color=INK)
    figure.tight_layout()
    return figure


def pictures(images: Sequence[Tensor], titles: Sequence[str], *, columns: int = 4, width: float = 2.6) -> Figure:
    """Images (3, H, W) or (1, H, W) in [0, 1] side by side, each under its title, pixels shown sharp."""
    columns = min(columns, len(images))
    rows = -(-len(images) // columns)
    height, breadth = images[0].shape[1:]
    figure, axes = plt.subplots(
        rows, columns, figsize=(width * columns, (width * height / breadth + 0.42) * rows), squeeze=False
    )
    for ax in axes.flat:
        ax.axis("off")
    for ax, image, title in zip(axes.flat, images, titles, strict=False):
        pixels = image.detach().cpu().clamp(0, 1).permute(1, 2, 0).numpy()  # (H, W, C)
        ax.imshow(
            pixels if pixels.shape[2] == 3 else pixels[..., 0], cmap="gray", vmin=0, vmax=1, interpolation="nearest"
        )
        ax.set_title(title, fontsize=9.5)
    figure.tight_layout(pad=0.4)
    return figure


def with_boxes(
    ax: Axes, image: Tensor, boxes: Tensor, names: Sequence[str], scores: Sequence[float] | None = None
) -> None:
    """One image (3, H, W) with boxes (n, 4) in pixels and the names of what they hold."""
    ax.imshow(image.detach().cpu().clamp(0, 1).permute(1, 2, 0).numpy())
    ax.axis("off")
    for i, ((x0, y0, x1, y1), name) in enumerate(zip(boxes.tolist(), names, strict=True)):
        ax.add_patch(plt.Rectangle((x0, y0), x1 - x0, y1 - y0, fill=False, edgecolor="#e69f00", linewidth=1.4))
        text = name if scores is None else f"{name} {scores[i]:.2f}"
        ax.text(
            x0,
            max(y0 - 2, 6),
            text,
            fontsize=7,
            color="black",
            bbox={"facecolor": "#e69f00", "pad": 1, "edgecolor": "none"},
        )


def intervals(ax: Axes, groups: Mapping[str, Any], across: str) -> None:
    """Points with error bars: frames of `value`, `low`, `high` by name, against their column `across`."""
    for i, (name, group) in enumerate(groups.items()):
        colour = plt.get_cmap("cividis")((0.0, 0.35, 0.6, 0.8)[i])  # detectors: not a colour of any loss
        error = [group["value"] - group["low"], group["high"] - group["value"]]
        beside = group[across] + 0.7 * (i % 2)  # so that bars do not hide each other
        ax.errorbar(beside, group["value"], error, color=colour, fmt="oshv"[i], capsize=3, label=name)
    ax.axhline(0, color=INK, linewidth=1, linestyle=":")
    ax.legend(fontsize=9)


def difference(a: Tensor, b: Tensor) -> Tensor:
    """Where two pictures (3, H, W) differ: (1, H, W), mean over colours, five times."""
    return 5 * (a - b).abs().mean(0, keepdim=True)
