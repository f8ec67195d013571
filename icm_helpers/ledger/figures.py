"""Figures of chapters: curves, decoded pictures, where losses pull, detections. Pages call them by `report`, which imports them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from IPython.display import display
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from torch import Tensor, nn

from icm_helpers import bit_allocation, evaluate, plots
from icm_helpers.bd import Curve
from icm_helpers.codecs import container
from icm_helpers.ledger import interactive, queries
from icm_helpers.ledger.queries import FINETUNED
from icm_helpers.objectives import Objective

if TYPE_CHECKING:
    from icm_helpers.ledger.report import Part


def panels(
    part: Part,
    metrics: Sequence[str],
    methods: Sequence[str] | None = None,
    title: str = "",
    *,
    by: Sequence[str | None] | None = None,
) -> None:
    """Rate against accuracy, a panel for each metric and each of its judges (those named, or all as they are): a picture, and what
    a page's script draws over it."""
    chosen = [(m, j) for m in metrics for j in part.judges(m) if by is None or j in by]
    drawn = [queries.panel(part.records, m, j, methods) for m, j in chosen]
    if not drawn:
        print(f"{title}: nobody judges this part by {', '.join(queries.NAMES[m] for m in metrics)}")
        return
    plots.rate_accuracy_panels(drawn, title)
    plt.show()
    display(interactive.chart(drawn, title))


def with_tuned(
    part: Part, methods: Sequence[str], metric: str = "box_ap"
) -> Iterator[tuple[str, dict[str, Curve], Any]]:
    """Panels for `plots.rate_accuracy_panels`: each detector that was fine-tuned, as it is and, dashed, after it."""
    after = queries.tuned(part.records)
    for judge in queries.judges(after, metric):
        words, drawn, clean = queries.panel(part.records, metric, judge, methods)
        dashed = {f"{k}{FINETUNED}": v for k, v in queries.curves(after, metric, judge, methods).items()}
        yield words, drawn | dashed, clean


def coded(codec: Any, picture: Tensor) -> tuple[Tensor, float]:
    """A picture (3, H, W) as it comes back from real bytes, and their bits per pixel."""
    data = container.encode(codec, picture)
    return container.decode(codec, data).cpu(), 8 * len(data) / picture[0].numel()


def psnr_parts(x: Tensor, x_hat: Tensor, mask: Tensor) -> list[float]:
    """PSNR [dB] of a picture (3, H, W) inside and outside a mask (1, H, W)."""
    error = (x - x_hat).square().mean(0, keepdim=True)
    return [evaluate.psnr(((error * m).sum() / m.sum().clamp(min=1)).item()) for m in (mask, 1 - mask)]


def pulls(codec: nn.Module, batch: tuple, objectives: Mapping[str, Objective]) -> dict[str, Tensor]:
    """Where losses pull on a decoded crop: the crop itself, and by name each distortion's gradient on it.

    Args:
        batch: of one crop.
        objectives: of a task loss the detector's own loss counts alone.

    Returns:
        title -> (3, H, W) or (1, H, W): the gradient's magnitude, mean over colours, scaled to its 99th percentile.
    """
    with torch.no_grad():
        out = codec(batch[0])
    x_hat = out["x_hat"].clamp(0, 1)
    views = {"decoded crop": x_hat[0]}
    for name, objective in objectives.items():
        v = x_hat.clone().requires_grad_()
        terms = objective(lambda _, v=v: {**out, "x_hat": v}, batch)
        terms.get("task", terms["distortion"]).backward()
        strength = v.grad.abs().mean(1)  # (1, 3, P, P) -> (1, P, P)
        views[name] = strength / strength.quantile(0.99).clamp(min=1e-12)
    return views


def detections(
    detector: Any,
    pictures: Mapping[str, Tensor],
    title: str,
    *,
    sample: Any = None,
    columns: int = 2,
    size: tuple[float, float] = (4.3, 4.5),
    fontsize: float = 9.5,
    heading: str = "",
) -> Figure:
    """What a detector finds in versions of one picture with a score of at least 0.5, boxes drawn in.

    Args:
        pictures: by name.
        title: of each, with `{name}`, `{boxes}` and, of a `sample`, `{found}` and `{objects}`: how many boxes, true objects
            that are found at IoU 0.5, and true objects.
        size: of one picture in inches.
        heading: above all.
    """
    rows = -(-len(pictures) // columns)
    figure, axes = plt.subplots(rows, columns, figsize=(size[0] * columns, size[1] * rows), squeeze=False)
    for ax in axes.flat[len(pictures) :]:
        ax.axis("off")
    for ax, (name, picture) in zip(axes.flat, pictures.items(), strict=False):
        found = {k: v.cpu() for k, v in detector.detect([picture])[0].items()}
        sure = found["scores"] >= 0.5
        names = [detector.categories[c] for c in found["labels"][sure].tolist()]
        plots.with_boxes(ax, picture, found["boxes"][sure], names, found["scores"][sure].tolist())
        told = {"name": name, "boxes": len(names)}
        if sample is not None:
            sure_ones = [d for d in evaluate.coco_results(sample.image_id, found) if d["score"] >= 0.5]
            told["found"] = int(bit_allocation.found_objects(sample, sure_ones).sum())
            told["objects"] = len(sample.labels)
        ax.set_title(title.format(**told), fontsize=fontsize)
    if heading:
        figure.suptitle(heading, color=plots.INK, fontsize=11)
    figure.tight_layout()
    return figure
