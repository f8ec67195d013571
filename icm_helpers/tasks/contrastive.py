r"""A small backbone that no task taught: it learns to tell pictures apart, whatever is done to them (SimCLR).

Feng et al. (ECCV 2022) learn by the same principle, instance discrimination, with a ResNet-50 on a million photographs; this one
is made of a hundred thousand weights and 3000 scenes, which one core does in minutes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from icm_helpers import train
from icm_helpers.data.coco import CocoDataset
from icm_helpers.data.crops import Crops
from icm_helpers.tasks.teacher import require_pictures
from icm_helpers.tasks.weights import Own

WIDTHS = (16, 32, 48, 48)
"""Channels of the stages, whose strides are 4, 8, 16 and 32: the first is that at which Feng et al. code their features."""
PATCH, VIEW = 128, 96
"""Sides, in pixels, of the crops that are told apart, and of the two views of each."""
TEMPERATURE = 0.2


class Block(nn.Module):
    """Two convolutions beside a shortcut, which halve both sides."""

    def __init__(self, inner: int, outer: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(inner, outer, 3, 2, 1, bias=False),
            nn.BatchNorm2d(outer),
            nn.ReLU(),
            nn.Conv2d(outer, outer, 3, 1, 1, bias=False),
            nn.BatchNorm2d(outer),
        )
        self.short = nn.Sequential(nn.Conv2d(inner, outer, 1, 2, bias=False), nn.BatchNorm2d(outer))

    def forward(self, h: Tensor) -> Tensor:
        return F.relu(self.body(h) + self.short(h))


class Backbone(Own):
    """Four residual stages behind a convolution of stride 2."""

    name = "contrastive-scenes"

    def __init__(self, categories: Mapping[int, str] | None = None, size: int = 0) -> None:
        super().__init__()
        self.categories, self.size = dict(categories or {}), size
        self.stem = nn.Sequential(nn.Conv2d(3, WIDTHS[0], 3, 2, 1, bias=False), nn.BatchNorm2d(WIDTHS[0]), nn.ReLU())
        pairs = zip((WIDTHS[0], *WIDTHS), WIDTHS, strict=False)
        self.blocks = nn.ModuleList(Block(inner, outer) for inner, outer in pairs)

    def stages(self, images: Tensor) -> dict[str, Tensor]:
        """What each stage makes of pictures (N, 3, H, W) in [0, 1], sides multiples of 32: `s1` (N, 16, H/4, W/4) to `s4`."""
        require_pictures(images)
        return self._stages(images)

    def _stages(self, images: Tensor) -> dict[str, Tensor]:
        h, found = self.stem(4 * (images - 0.5)), {}
        for k, block in enumerate(self.blocks, start=1):
            found[f"s{k}"] = h = block(h)
        return found


class Pupil(nn.Module):
    """A backbone with the head that is thrown away after training: pictures to points on a sphere, (N, 64)."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = Backbone()
        self.head = nn.Sequential(nn.Linear(WIDTHS[-1], 128), nn.ReLU(), nn.Linear(128, 64))

    def forward(self, images: Tensor) -> Tensor:
        return F.normalize(self.head(self.backbone._stages(images)["s4"].mean((2, 3))).float(), dim=1)


def view(x: Tensor) -> Tensor:
    """Another view of each picture (N, 3, P, P): 30 to 100 % of its area, perhaps mirrored, in other colours or none."""
    n = len(x)
    scale = torch.empty(n).uniform_(0.3, 1).sqrt()
    shift = (1 - scale)[:, None] * torch.empty(n, 2).uniform_(-1, 1)
    mirrored = torch.randint(2, (n,)) * 2.0 - 1
    zero = torch.zeros(n)
    rows = [torch.stack([scale * mirrored, zero, shift[:, 0]], 1), torch.stack([zero, scale, shift[:, 1]], 1)]
    grid = F.affine_grid(torch.stack(rows, 1), [n, 3, VIEW, VIEW], align_corners=False).to(x)
    seen = F.grid_sample(x, grid, align_corners=False)
    grey = seen.mean(1, keepdim=True)
    colour = torch.where(
        torch.rand(n, 1, 1, 1) < 0.2, zero.view(n, 1, 1, 1), torch.empty(n, 1, 1, 1).uniform_(0.4, 1.6)
    )
    contrast, tint = torch.empty(n, 1, 1, 1).uniform_(0.6, 1.4), torch.empty(n, 3, 1, 1).uniform_(0.7, 1.3)
    mean = grey.mean((2, 3), keepdim=True)
    return (((grey + colour.to(x) * (seen - grey)) * tint.to(x) - mean) * contrast.to(x) + mean).clamp(0, 1)


def discrimination(model: nn.Module, batch: tuple[Tensor, ...]) -> dict[str, Tensor]:
    r"""SimCLR: the mean over 2N views of :math:`-\log` of the softmax that each gives to the other of its picture; and how often
    that is the nearest (`told_apart`)."""
    x = batch[0]
    z = model(torch.cat((view(x), view(x))))  # (2N, 64)
    alike = (z @ z.T / TEMPERATURE).fill_diagonal_(-math.inf)
    other = torch.arange(len(z), device=z.device).roll(len(x))
    return {"loss": F.cross_entropy(alike, other), "told_apart": (alike.argmax(1) == other).float().mean()}


def trained(dataset: CocoDataset, schedule: train.Schedule, *, seed: int = 0, **how: Any) -> Backbone:
    """A backbone that has learned to tell a data set's crops apart; no annotation is read. `how` is told to `train.fit`."""
    torch.manual_seed(seed)
    model = Pupil()
    crops = Crops(dataset, PATCH, seed, schedule.steps * schedule.batch, "none", object_prob=0)
    curve = train.fit(model, crops, discrimination, schedule, seed=seed, describe=Backbone.name, **how)
    print(
        f"{Backbone.name}: of {2 * schedule.batch} views, {curve[-1]['told_apart']:.0%} are nearest to their other view"
    )
    return model.backbone.requires_grad_(False)
