"""What several pages show live: drawn pictures, a codec that learns before the reader's eyes, what lies in which cell."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import count

import torch
from torch import Tensor, nn
from torch.nn import functional

from icm_helpers import evaluate, losses, train
from icm_helpers.data import scenes
from icm_helpers.data.crops import Crops


def drawn(number: int, size: int) -> tuple[list[scenes.Scene], list[Tensor], int]:
    """Scenes of seeds that no training uses, their pictures (3, size, size) in [0, 1], and the index of that with most objects."""
    some = [scenes.scene(1_000_000 + i, size) for i in range(number)]
    pictures = [torch.from_numpy(s.image).permute(2, 0, 1).float() / 255 for s in some]
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
        the training curve, and by step the decoded picture and its bits per pixel, by likelihoods: at the beginning, after a sixth,
        a half, and all of the steps.
    """
    moments, step_of = {}, count()

    def look() -> tuple[Tensor, float]:
        codec.eval()
        with torch.no_grad():
            seen = codec(x)
        codec.train()
        return seen["x_hat"][0].clamp(0, 1).cpu(), losses.rate(seen["likelihoods"], x[0, 0].numel()).item()

    def objective(model: nn.Module, batch: tuple) -> dict[str, Tensor]:
        step = next(step_of)
        if step in (0, schedule.steps // 6, schedule.steps // 2):
            moments[step] = look()
        return losses.rate_distortion(model(batch[0]), batch[0], lmbda)

    curve = train.fit(codec, crops, objective, schedule, seed=seed, device=device, describe="from random weights")
    moments[schedule.steps] = look()
    codec.eval()
    return curve, moments


def told(moments: dict[int, tuple[Tensor, float]], x: Tensor) -> tuple[list[Tensor], list[str]]:
    """The pictures of :func:`watch` with their titles, the original at the front."""
    titles = [f"after {step} steps\n{bpp:.2f} bpp, {psnr(x, seen):.1f} dB" for step, (seen, bpp) in moments.items()]
    return [x, *(seen for seen, _ in moments.values())], ["original", *titles]


def mosaic(cells: Tensor, side: int, low: float = 0.0) -> Tensor:
    """A map (h, w) of a latent as a picture (1, H, W), each cell `side` pixels wide, from `low` in black to its largest in white."""
    scaled = (cells - low) / (cells.max() - low).clamp(min=1e-6)
    return functional.interpolate(scaled[None, None], scale_factor=side)[0]


def lit(x: Tensor, light: Tensor, dark: float = 0.15) -> Tensor:
    """A picture (3, H, W) under a light (1, H, W) in [0, 1]."""
    return x * (dark + (1 - dark) * light)
