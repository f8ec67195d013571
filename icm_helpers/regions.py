"""Who tells an encoder where a picture matters: a detector that it runs first, or, as a bound, the true masks."""

from __future__ import annotations

import time
from typing import Any

import torch
from torch import Tensor

from icm_helpers.codecs import container
from icm_helpers.data.coco import Sample
from icm_helpers.evaluate import CONFIDENT
from icm_helpers.tasks import models


def boxes_mask(boxes: Tensor, height: int, width: int) -> Tensor:
    """The union of boxes (n, 4), x1 y1 x2 y2 in pixels, with every pixel that they touch, as (1, H, W) in {0, 1}.

    >>> boxes_mask(torch.tensor([[0.5, 0.0, 2.0, 1.0]]), 2, 3)
    tensor([[[1., 1., 0.],
             [0., 0., 0.]]])
    """
    x0, y0, x1, y1 = (v[:, None] for v in boxes.cpu().unbind(1))  # (n, 1) each
    x, y = torch.arange(width), torch.arange(height)
    columns, rows = (x + 1 > x0) & (x < x1), (y + 1 > y0) & (y < y1)  # (n, W), (n, H)
    return (rows[:, :, None] & columns[:, None, :]).any(0, keepdim=True).float()


class Encoder:
    """An encoder that is told where a sample matters, and counts what finding that costs; an `encode` of `evaluate.evaluate`.

    `finder` is `truth`, or a detector with its fingerprint, of which boxes of score 0.3 or more count.
    """

    def __init__(self, finder: str, device: torch.device) -> None:
        self.finder = None if finder == "truth" else models.load(finder).to(device)
        self.finding = self.coding = 0.0  # seconds

    def __call__(self, codec: Any, sample: Sample) -> bytes:
        begun = time.perf_counter()
        roi = self.region(sample)
        found = time.perf_counter()
        data = container.encode(codec, sample.image, roi)
        self.finding += found - begun
        self.coding += time.perf_counter() - found
        return data

    def region(self, sample: Sample) -> Tensor:
        """Where a sample matters, (1, H, W) in {0, 1}."""
        if self.finder is None:
            return (sample.object_mask > 0).float()
        (found,) = self.finder.detect([sample.image])
        return boxes_mask(found["boxes"][found["scores"] >= CONFIDENT], *sample.image.shape[1:])

    def told(self) -> dict[str, float]:
        """`encoder_time`: how many times as long the encoder takes as without its detector; nothing for true masks."""
        return {} if self.finder is None else {"encoder_time": 1 + self.finding / self.coding}
