"""A short training to watch: its curve is that of a fixed validation batch, so that what falls is learning and not luck."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from icm_helpers import run, train
from icm_helpers.objectives import Objective

POINTS = 10  # of the curve, after the one before any step


class Watched:
    """An objective that also notes, every few calls, what the model makes of held-out batches, with the same noise each time."""

    def __init__(self, objective: Objective, held: Sequence[Any], every: int) -> None:
        self.objective, self.held, self.every = objective, held, every
        self.calls, self.curve = 0, []  # curve: {"step", name: one value for each held batch}

    def __call__(self, model: nn.Module, batch: Any) -> dict[str, torch.Tensor]:
        if self.calls % self.every == 0:
            self.note(model)
        self.calls += 1
        return self.objective(model, batch)

    def note(self, model: nn.Module) -> None:
        """Add a point to the curve."""
        device = next(model.parameters()).device
        with torch.random.fork_rng([device] if device.type == "cuda" else []), torch.no_grad():
            torch.manual_seed(0)
            terms = [self.objective(model, batch) for batch in self.held]
        self.curve.append({"step": self.calls} | {name: [float(t[name]) for t in terms] for name in terms[0]})

    def points(self) -> list[dict[str, float]]:
        """The curve with the mean over held batches at each point."""
        return [{k: v if k == "step" else float(np.mean(v)) for k, v in point.items()} for point in self.curve]


def fell(curve: Sequence[dict[str, Any]]) -> tuple[float, float]:
    """By how much the loss of held batches fell from the first point to the last: mean, and its standard error over batches."""
    change = np.subtract(curve[0]["loss"], curve[-1]["loss"])
    return float(change.mean()), float(change.std(ddof=1) / len(change) ** 0.5)


def fit(
    codec: nn.Module, crops: Any, held: Any, objective: Objective, schedule: train.Schedule, *, title: str, **how: Any
) -> tuple[nn.Module, list[dict[str, float]]]:
    """A codec, trained in place, and the points of its curve on `held` crops, which are taken in batches of two.

    The fall of the loss is printed with its standard error.

    Raises:
        RuntimeError: the training was long enough to learn (50 steps), and the loss did not fall by twice its standard error.
    """
    fabric = train.fabric(how["device"])
    pairs = [fabric.to_device(run.collate([held[i], held[i + 1]])) for i in range(0, len(held), 2)]
    watched = Watched(objective, pairs, max(1, schedule.steps // POINTS))
    train.fit(codec, crops, watched, schedule, collate=run.collate, describe=f"{title}, live", **how)
    codec.train()  # noise in place of rounding, as in the points before
    watched.note(codec)
    codec.update(force=True)
    mean, error = fell(watched.curve)
    print(f"loss of {len(held)} crops that are not trained on: down by {mean:.3f}, standard error {error:.3f}")
    if schedule.steps >= 50 and mean < 2 * error:
        told = f"the loss of held-out crops did not fall in {schedule.steps} steps ({mean:.3f}, standard error {error:.3f})"
        raise RuntimeError(f"{told}: train for more steps (`live_steps`), or at another lambda")
    return codec.to(fabric.device).eval(), watched.points()
