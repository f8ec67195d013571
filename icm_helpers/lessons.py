"""What the foundations show: drawn pictures, a codec that learns before the reader's eyes, and figures that only one page needs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import bjontegaard
import numpy as np
import pandas as pd
import torch
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.nn import functional

from icm_helpers import bd, evaluate, losses, plots, simulate, train
from icm_helpers.bd import Curve
from icm_helpers.codecs import container
from icm_helpers.data import scenes
from icm_helpers.data.crops import Crops
from icm_helpers.data.pictures import tensor
from icm_helpers.ledger import live, queries


def drawn(number: int, size: int) -> tuple[list[scenes.Scene], list[Tensor], int]:
    """Scenes of seeds that no training uses, their pictures (3, size, size) in [0, 1], and the index of that with most objects."""
    some = [scenes.scene(1_000_000 + i, size) for i in range(number)]
    pictures = [tensor(s.image) for s in some]
    return some, pictures, max(range(number), key=lambda i: len(some[i].things))


def psnr(x: Tensor, x_hat: Tensor) -> float:
    """PSNR [dB] of a decoded picture, clipped to [0, 1]."""
    return evaluate.psnr((x.cpu() - x_hat.cpu().clamp(0, 1)).square().mean().item())


def watch(
    codec: nn.Module, crops: Crops, x: Tensor, lmbda: float, schedule: train.Schedule, *, seed: int, device: str
) -> tuple[list[dict[str, float]], dict[int, tuple[Tensor, float]]]:
    """Train a codec from random weights for rate and distortion, and ask it now and then to code a picture.

    Args:
        x: the picture, (1, 3, H, W), where the codec will be.

    Returns:
        the curve on that picture, with the same noise at each point, and by step the decoded picture and its bits per pixel, by
        likelihoods: at the beginning, after a sixth, a half, and all of the steps.
    """
    moments = {}

    def look() -> tuple[Tensor, float]:
        codec.eval()
        with torch.no_grad():
            seen = codec(x)
        codec.train()
        return seen["x_hat"][0].clamp(0, 1).cpu(), losses.rate(seen["likelihoods"], x[0, 0].numel()).item()

    def objective(model: nn.Module, batch: tuple) -> dict[str, Tensor]:
        return losses.rate_distortion(model(batch[0]), batch[0], lmbda)

    watched = live.Watched(objective, [(x,)], max(1, schedule.steps // 40))

    def step(model: nn.Module, batch: tuple) -> dict[str, Tensor]:
        if watched.calls in (0, schedule.steps // 6, schedule.steps // 2):
            moments[watched.calls] = look()
        return watched(model, batch)

    train.fit(codec, crops, step, schedule, seed=seed, device=device, describe="from random weights")
    moments[schedule.steps] = look()
    watched.note(codec)
    codec.eval()
    return watched.points(), moments


def told(moments: dict[int, tuple[Tensor, float]], x: Tensor) -> tuple[list[Tensor], list[str]]:
    """The pictures of :func:`watch` with their titles, the original at the front."""
    titles = [f"after {step} steps\n{bpp:.2f} bpp, {psnr(x, seen):.1f} dB" for step, (seen, bpp) in moments.items()]
    return [x, *(seen for seen, _ in moments.values())], ["original", *titles]


def mosaic(cells: Tensor, side: int, low: float = 0.0) -> Tensor:
    """A map (h, w) of a latent as a picture (1, H, W), each cell `side` pixels wide, `low` black, its largest white."""
    scaled = (cells - low) / (cells.max() - low).clamp(min=1e-6)
    return functional.interpolate(scaled[None, None], scale_factor=side)[0]


def lit(x: Tensor, light: Tensor, dark: float = 0.15) -> Tensor:
    """A picture (3, H, W) under a light (1, H, W) in [0, 1]."""
    return x * (dark + (1 - dark) * light)


def replicates(ax: Axes, values: Mapping[str, tuple[np.ndarray, str, float]], bins: np.ndarray, xlabel: str) -> None:
    """Histograms of bootstrap replicates of a difference, (values, colour, opacity) by name; dotted where there is none."""
    for name, (drawn, colour, alpha) in values.items():
        ax.hist(drawn, bins, color=colour, alpha=alpha, label=name)
    ax.axvline(0, color=plots.INK, linestyle=":")
    ax.set(xlabel=xlabel, ylabel="replicates")
    ax.legend(fontsize=9)


def unpaired(axes: Sequence[Axes], pairs: Mapping[str, tuple[Curve, Curve]], seed: int) -> None:
    """Replicates of BD-rate, paired and with those of one curve shuffled; an axes, and (anchor, test), for each data set."""
    colour = plots.METHODS["object-region"][0]
    for ax, (anchor, test) in zip(axes, pairs.values(), strict=True):
        paired, interval = bd.replicates(anchor, test), bd.bd_rate(anchor, test)
        loose = bd.replicates(anchor, simulate.shuffled(test, np.random.default_rng(seed)))
        ends = np.r_[np.nanpercentile(loose, [1, 99]), np.nanpercentile(paired, [0, 100])]
        shown = {"unpaired": (loose, plots.INK, 0.45), "paired": (paired, colour, 0.85)}
        replicates(ax, shown, np.linspace(ends.min(), ends.max(), 60), "BD-rate [%]")
        ax.axvspan(interval.low, interval.high, color=colour, alpha=0.12)
        ax.axvline(interval.value, color=plots.INK, linewidth=2.2)


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
    axes[0].axhline(95, color=plots.INK, linestyle=":")
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
        label = f"{row.data}, {queries.NAMES[row.metric]}"
        ax.plot(row.pictures, half(row.spread), marker, color=colour, markersize=9, label=label)
    for data, group in thirds.groupby("data", sort=False):
        hollow = {"color": inks["box_ap"], "markerfacecolor": "none", "label": f"{data}, thirds"}
        ax.plot(group["pictures"], half(group["spread"]), looks[data][0], **hollow)
    for data, found in rates.items():
        ax.plot(found.index, half(found), looks[data][2], color=plots.INK, label=f"{data}, rates only")
    ax.plot(world.index, half(world), "+", color=plots.INK, label="imaginary world")
    for level in (1, 5):
        ax.axhline(level, color=plots.INK, linestyle=":")
    ax.axvline(5000, color=plots.INK, linewidth=0.8)
    how = {"xycoords": ("data", "axes fraction"), "rotation": 90, "ha": "right", "va": "top", "fontsize": 9}
    ax.annotate("COCO val", (5000, 0.97), **how)
    ax.set(xscale="log", yscale="log", xlabel="evaluation pictures")
    ax.set_ylabel("half-width of the 95 % interval [% of the rate]")
    ax.xaxis.set_major_formatter("{x:,.0f}")
    ax.yaxis.set_major_formatter("{x:g}")
    ax.legend(fontsize=8.5, loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def slopes(points: pd.DataFrame, alone: tuple[float, float]) -> Figure:
    """Rate against distortion of one picture coded at several lambdas, the index, with a tangent of slope -1/lambda at each.

    Args:
        points: `bpp` and `distortion` by lambda.
        alone: those of the encoder without any refinement.
    """
    figure, ax = plt.subplots(figsize=(6.8, 4))
    ax.plot(points["bpp"], points["distortion"], "o-", color=plots.METHODS["mse"][0])
    reach, drop = 0.12 * (points.max() - points.min())
    offset = {"textcoords": "offset points", "fontsize": 9}
    for lmbda, (r, d) in points.iterrows():
        step = min(reach, drop * lmbda)
        ends = [r - step, r + step], [d + step / lmbda, d - step / lmbda]
        ax.plot(*ends, color=plots.METHODS["object-region"][0], linewidth=2.4)
        ax.annotate(f"{lmbda:g}", (r, d), xytext=(-2, -17), ha="right", **offset)
    ax.margins(x=0.16, y=0.12)
    ax.plot(*alone, "o", color=plots.INK, markerfacecolor="none", markersize=8)
    ax.annotate("encoder alone", alone, xytext=(8, 6), **offset)
    ax.set(xlabel="rate [bits per pixel, all bytes counted]", ylabel="distortion [squared 8-bit levels]")
    return figure


def watched(model: nn.Module, x: Tensor, *modules: nn.Module) -> list[Tensor]:
    """What each module gets to see while a codec codes a picture."""
    caught = {}

    def catch(module: nn.Module, inputs: tuple) -> None:
        caught[module] = inputs[0].detach()

    hooks = [module.register_forward_pre_hook(catch) for module in modules]
    with torch.no_grad():
        model(x)
    for hook in hooks:
        hook.remove()
    return [caught[module] for module in modules]


def _crossed(views: Sequence[Tensor], titles: Sequence[str], column: int, row: int, cell: int) -> Figure:
    figure = plots.pictures(views, titles)
    for ax in figure.axes:  # the cell that is meant
        ax.plot((column + 0.5) * cell, (row + 0.5) * cell, "+", color="#e69f00", markersize=9, markeredgewidth=1.8)
    return figure


def reach(picture: Tensor, asked: Mapping[str, tuple[Callable, Tensor]], at: int, cell: int) -> Figure:
    """Where the input of functions changes their output at (at, at), logarithmic over four orders of magnitude, cells lit.

    Args:
        asked: by name, a function of a map (1, C, h, w) and the map that it gets.
        cell: pixels along a cell's side in the picture (3, H, W).
    """
    views, titles = [], []
    for name, (function, seen) in asked.items():
        seen = seen.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(function(seen)[0, :, at, at].sum(), seen)
        strength = gradient.abs().sum(1)[0]  # (h, w)
        light = (1 + (strength / strength.max()).log10() / 4).clamp(0, 1)
        views.append(lit(picture, functional.interpolate(light[None, None], scale_factor=cell)[0], 0.12))
        titles.append(f"{name}\n{(strength > 0).sum()} cells")
    return _crossed(views, titles, at, at, cell)


def looks(window: Tensor, maps: Mapping[str, Tensor], column: int, row: int, cell: int) -> Figure:
    """A window of a picture (3, H, W), and by name how much the cell at a cross looks at each of its cells, (h, w)."""
    titles = [f"{name}: {m.min():.1%} to {m.max():.1%}" for name, m in maps.items()]
    views = [window, *(mosaic(m, cell) for m in maps.values())]
    return _crossed(views, ["the window", *titles], column, row, cell)


def squares(values: Tensor, columns: Sequence[str], rows: Sequence[str], xlabel: str, ylabel: str) -> Figure:
    """A table (rows, columns) of changes in percent on coloured squares; empty where it holds NaN."""
    figure, ax = plt.subplots(figsize=(5.6, 3.4))
    ax.imshow(values, cmap="Blues", vmin=0, vmax=1.6 * values.nan_to_num().max().item())
    for i, j in (~values.isnan()).nonzero().tolist():
        ax.annotate(f"{values[i, j]:+.1f} %", (j, i), ha="center", va="center", color="black", fontsize=8.5)
    ax.set_xticks(range(len(columns)), columns)
    ax.set_yticks(range(len(rows)), rows)
    ax.set(xlabel=xlabel, ylabel=ylabel)
    ax.grid(False)
    return figure


def guesses(took: Tensor, guess: Tensor, saved: Tensor) -> Figure:
    """What rounding took from each number of a latent against what was guessed, and the squared error (H, W) that this saved."""
    blue, orange = plots.METHODS["mse"][0], plots.METHODS["object-region"][0]
    figure, axes = plt.subplots(1, 2, figsize=(9.4, 3.8), layout="tight")
    crowd = LinearSegmentedColormap.from_list("crowd", ["#a9cfe8", blue])  # from few to many, logarithmic
    axes[0].hexbin(took, guess, gridsize=60, bins="log", cmap=crowd, extent=(-0.5, 0.5, -0.5, 0.5), mincnt=1)
    axes[0].plot([-0.5, 0.5], [-0.5, 0.5], color=plots.INK, linestyle=":")
    axes[0].set(xlabel="taken by rounding [rounding intervals]", ylabel="guessed [rounding intervals]")
    far = saved.abs().quantile(0.99).item() or 1.0
    shades = LinearSegmentedColormap.from_list("saved", [orange, "white", blue])
    drawn = axes[1].imshow(saved, cmap=shades, vmin=-far, vmax=far)
    axes[1].axis("off")
    figure.colorbar(drawn, ax=axes[1], label="squared error saved [squared 8-bit levels]")
    return figure


def overlap(ax: Axes, image: Tensor, true_box: Tensor, guess: Tensor) -> None:
    """Two boxes (4,) in pixels, the true one blue, and yellow what they share, on an enlarged part of an image (3, H, W)."""
    ax.imshow(image.permute(1, 2, 0), interpolation="nearest")
    both = torch.cat([torch.maximum(guess[:2], true_box[:2]), torch.minimum(guess[2:], true_box[2:])])
    drawn = ((both, "none", (1, 0.95, 0.2, 0.45)), (true_box, "#0072b2", "none"), (guess, "#e69f00", "none"))
    for (x0, y0, x1, y1), edge, face in drawn:  # imshow puts the centre of pixel 0 at 0, its border at -0.5
        how = {"facecolor": face, "edgecolor": edge, "linewidth": 2.2}
        ax.add_patch(plt.Rectangle((x0 - 0.5, y0 - 0.5), x1 - x0, y1 - y0, **how))
    centre, reach = (true_box[:2] + true_box[2:]) / 2, 0.9 * (true_box[2:] - true_box[:2]).max()
    ax.set_xlim(centre[0] - reach, centre[0] + reach)
    ax.set_ylim(centre[1] + reach, centre[1] - reach)
    ax.axis("off")


def panoptic_map(ids: np.ndarray, kinds: Mapping[int, int]) -> tuple[Tensor, Tensor]:
    """A scene's panoptic map (H, W), `kinds` id -> category, as a picture (3, H, W), and the category of each pixel.

    A colour is a category, black lines part the segments, black areas are void.
    """
    pale, strong = plt.get_cmap("Pastel1").colors, plt.get_cmap("Dark2").colors
    palette = np.array([(0, 0, 0), *strong[:6], *pale[1:5]])  # void, six kinds of things, four of stuff
    categories = np.vectorize(lambda i: kinds.get(i, 0), otypes=[int])(ids)
    picture, edge = palette[categories], np.zeros(ids.shape, bool)
    edge[:, 1:] |= ids[:, 1:] != ids[:, :-1]
    edge[1:] |= ids[1:] != ids[:-1]
    picture[edge] = 0
    return torch.from_numpy(picture).permute(2, 0, 1), torch.from_numpy(categories)


def dots(ax: Axes, place: int, values: Sequence[float], rng: np.random.Generator) -> dict[str, float]:
    """A column of values at a place, with a bar from the 2.5th to the 97.5th percentile; their mean and these ends."""
    low, high = np.percentile(values, [2.5, 97.5])
    at = place + rng.uniform(-0.16, 0.16, len(values))
    ax.plot(at, values, ".", color=plots.METHODS["mse"][0], alpha=0.35, markersize=5)
    ax.plot([place + 0.26] * 2, [low, high], color=plots.METHODS["object-region"][0], linewidth=3)
    return {"mean AP": np.mean(values), "low": low, "high": high, "width": high - low}


def ladders(
    tables: Mapping[str, pd.DataFrame], panels: Mapping[str, Mapping[str, str]], levels: Mapping[str, float]
) -> Figure:
    """Measures against the rate, a panel for each label of an axis.

    Args:
        tables: `bpp` and the measures, by what a legend says; of one table "", it names the measures. The second is hollow.
        panels: the measures of each panel, and the method whose colour each takes.
        levels: of measures, a dotted line each.
    """
    figure, axes = plt.subplots(1, len(panels), figsize=(4.9 * len(panels), 3.6), layout="tight")
    hollow = {"linestyle": "--", "markerfacecolor": "none"}
    for ax, (ylabel, measures) in zip(axes, panels.items(), strict=True):
        for measure, like in measures.items():
            colour, marker, _ = plots.METHODS[like]
            for (name, table), how in zip(tables.items(), ({}, hollow), strict=False):
                ax.plot(table["bpp"], table[measure], color=colour, marker=marker, label=name or measure, **how)
            if measure in levels:
                ax.axhline(levels[measure], color=colour, linestyle=":", linewidth=1.2)
        plots.rate_axis(ax, ylabel)
    return figure


def better(one: pd.DataFrame, other: pd.DataFrame, measure: str, rates: np.ndarray) -> np.ndarray:
    """By how much a measure of one table is above the other's at some rates, interpolated over octaves; in both `bpp` falls."""
    a, b = (np.interp(np.log2(rates), np.log2(t["bpp"][::-1]), t[measure][::-1]) for t in (one, other))
    return a - b


def source(grey: Tensor, differences: Tensor, shares: Mapping[str, tuple[Tensor, Tensor]]) -> Figure:
    """A picture (H, W) of 0 to 255, its differences from the left as 0 to 510, and how often each value of either comes."""
    how = {"width_ratios": (1, 1, 1.3), "layout": "tight"}
    figure, axes = plt.subplots(1, 3, figsize=(10, 3.2), **how)
    for ax, values, middle in ((axes[0], grey, 128), (axes[1], differences, 255)):
        ax.imshow(values, cmap="gray", vmin=middle - 128, vmax=middle + 128, interpolation="nearest")
        ax.axis("off")
    for (name, points), like in zip(shares.items(), ("mse", "object-region"), strict=True):
        axes[2].plot(*points, color=plots.METHODS[like][0], label=name)
    axes[2].set(xlabel="value", ylabel="share of the pixels")
    axes[2].legend(fontsize=9)
    return figure


def anatomy(codec: nn.Module, picture: Tensor) -> dict[str, float]:
    """The bytes of a coded picture (3, H, W): of y and z, as promised by likelihoods and as written, of the header, and in all."""
    data = container.encode(codec, picture)
    where = 22 + len(codec.name)  # of the length of y's string, see the table in codecs/container.py
    y_bytes = int.from_bytes(data[where : where + 4], "little")
    head = where + 4 + 4  # and the checksum at the end
    padded = container.pad(picture[None].to(next(codec.parameters()).device), codec.downsampling_factor)
    with torch.no_grad():
        said = codec(padded)["likelihoods"]
    promised = {f"promised {name}": -p.log2().sum().item() / 8 for name, p in said.items()}
    return {**promised, "y": y_bytes, "z": len(data) - head - y_bytes, "header": head, "file": len(data)}


def anatomies(sizes: pd.DataFrame) -> Figure:
    """Rows of :func:`anatomy` as pairs of bars: what was promised, and what was written."""
    figure, ax = plt.subplots(figsize=(7.4, 3))
    colours = {"y": "mse", "z": "task", "header": "object-region"}
    for pale, names in ((True, ("y", "z")), (False, ("y", "z", "header"))):
        base = 0
        for name in names:
            high = sizes[f"promised {name}" if pale else name]
            how = {"alpha": 0.5} if pale else {"label": name}
            colour = plots.METHODS[colours[name]][0]
            ax.bar(sizes.index + (-0.2 if pale else 0.2), high, 0.36, base, color=colour, **how)
            base = base + high
    ax.set(xticks=sizes.index, xlabel="picture; left: promised by the likelihoods, right: written", ylabel="bytes")
    ax.legend(fontsize=9, ncols=3, loc="lower center", bbox_to_anchor=(0.5, 1))
    return figure


def beside(jpeg: Sequence[tuple[float, float]], left: tuple, right: tuple) -> Figure:
    """Points (rate, PSNR) of JPEG as a curve, and of two codecs (label, point), named on their left and on their right."""
    colour, marker, name = plots.METHODS["jpeg"]
    figure, ax = plt.subplots(figsize=(6.8, 3.8))
    ax.plot(*zip(*jpeg, strict=True), color=colour, marker=marker)
    ax.annotate(name, jpeg[-1], xytext=(-4, -16), textcoords="offset points", color=plots.INK)
    sides = (left, "mse", -10, "right"), (right, "object-region", 10, "left")
    for (label, point), like, aside, align in sides:
        colour = plots.METHODS[like][0]
        ax.plot(*point, "o", color=colour, markersize=9)
        ax.annotate(label, point, xytext=(aside, -4), textcoords="offset points", color=colour, ha=align)
    plots.rate_axis(ax, "PSNR [dB]")
    return figure


def grids(views: Mapping[str, tuple[Tensor, Sequence[int], Sequence[int]]]) -> Figure:
    """Pictures (3, H, W) under white lines both ways: at these pixels, and dashed at those."""
    figure = plots.pictures([picture for picture, *_ in views.values()], list(views), width=3.2)
    for ax, (_, solid, dashed) in zip(figure.axes, views.values(), strict=True):
        for at, style in [(b, "-") for b in solid] + [(m, "--") for m in dashed]:
            for line in (ax.axhline, ax.axvline):
                line(at - 0.5, color="white", linewidth=1.6, linestyle=style)
    return figure


def prices(rates: Mapping[str, float], notes: Sequence[str]) -> Figure:
    """Bars of bits per pixel, of z and of each slice, with a note above each."""
    figure, ax = plt.subplots(figsize=(6.4, 2.9))
    colours = [plots.METHODS["task"][0], *[plots.METHODS["mse"][0]] * (len(rates) - 1)]
    bars = ax.bar(list(rates), list(rates.values()), color=colours)
    ax.bar_label(bars, notes, color=plots.INK, fontsize=9)
    ax.set_ylabel("rate [bits per pixel]")
    ax.margins(y=0.14)
    return figure


SIDES = {"A": ("#3b8ea5", "o"), "B": ("#c2577a", "s")}
"""Two invented codecs: colour and marker."""


def codecs(ax: Axes, points: Sequence[plots.Points], title: str, *, line: bool = True, area: bool = False) -> None:
    """Draw the (rates, APs) of codecs A and B, on request with the area that BD-rate averages."""
    for (name, (colour, marker)), (rate, ap) in zip(SIDES.items(), points, strict=True):
        ax.plot(rate, ap, marker + "-" * line, color=colour, label=f"codec {name}")
    if area:
        qualities, rates = plots.between(ax, *points, alpha=0.25)
        for rate, (colour, _) in zip(rates, SIDES.values(), strict=True):
            ax.plot(rate, qualities, color=colour)
    plots.rate_axis(ax, "AP", "rate [bits per pixel]", ticks=5)
    ax.set_title(title)


def interpolated(ax: Axes, points: Sequence[plots.Points], methods: Sequence[str], title: str) -> None:
    """Curves of the `bjontegaard` package through two codecs' points by several methods, and BD-rate by each."""
    for method, style in zip(methods, ("-", "--", ":"), strict=True):
        value, *fits = bjontegaard.bd_rate(*points[0], *points[1], method, interpolators=True, min_overlap=0)
        for fit, (_, ap), (colour, _) in zip(fits, points, SIDES.values(), strict=True):
            fine = np.linspace(ap[0], ap[-1], 400)
            ax.plot(10 ** fit(fine), fine, style, color=colour)
        ax.plot([], [], style, color=plots.INK, label=f"{method}: {value:+.1f} %")
    codecs(ax, points, title, line=False)
    ax.set_ylim(0.28, 0.6)
    ax.legend(loc="upper left", fontsize=9, handles=ax.get_legend_handles_labels()[0][: len(methods)])


def precision_recall(ax: Axes, precision: np.ndarray, recall: np.ndarray, read: np.ndarray) -> None:
    """A dot after each detection, and a line through the precisions that are read at equal steps of recall."""
    ax.plot(np.linspace(0, 1, len(read)), read, color=plots.METHODS["mse"][0], label=f"read at {len(read)} places")
    colour = plots.METHODS["object-region"][0]
    ax.plot(recall, precision, "o", color=colour, markersize=4, label="after each detection")
    ax.set(xlabel="recall", ylim=(-0.03, 1.05))


def surfaces(bits: Tensor, kinds: Mapping[str, Tensor]) -> Figure:
    """Mean bits per pixel on each kind of surface (masks as `bits`), and the share of pixels that it covers."""
    found = {name: bits[at].mean().item() for name, at in kinds.items() if at.any()}
    ordered = sorted(found, key=found.get)
    figure, ax = plt.subplots(figsize=(6.4, 2.6))
    labels = [f"{name} ({kinds[name].float().mean():.0%})" for name in ordered]
    ax.barh(labels, [found[name] for name in ordered], color=plots.METHODS["mse"][0])
    ax.axvline(bits.mean(), color=plots.INK, linestyle=":")
    ax.set_xlabel("bits per pixel (dotted: of whole pictures)")
    return figure
