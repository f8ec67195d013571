"""Who tells an encoder where a picture matters: a detector that it runs first, or, as a bound, the true masks."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from icm_helpers import losses
from icm_helpers.codecs import container
from icm_helpers.data.coco import Sample
from icm_helpers.evaluate import CONFIDENT
from icm_helpers.tasks import models


def finder(name: str, device: torch.device | None = None) -> Callable[[Tensor], Tensor]:
    """What gives the region of interest of a picture (3, H, W) as (1, H, W) in {0, 1}: a detector's boxes of score 0.3 or more."""
    detector = models.load(name).to(device or torch.device("cpu"))

    def region(image: Tensor) -> Tensor:
        (found,) = detector.detect([image])
        boxes, size = found["boxes"][found["scores"] >= CONFIDENT].cpu(), image.shape[1:]
        return losses.box_weights([boxes], {"picture": size}, size)["picture"][0]

    return region


class Encoder:
    """An encoder that is told where a sample matters, and counts what finding that costs; an `encode` of `evaluate.evaluate`.

    `name` is `truth`, or that of a detector with its fingerprint.
    """

    def __init__(self, name: str, device: torch.device) -> None:
        self.find = None if name == "truth" else finder(name, device)
        self.finding = self.coding = 0.0  # seconds

    def __call__(self, codec: Any, sample: Sample) -> bytes:
        begun = time.perf_counter()
        roi = (sample.object_mask > 0).float() if self.find is None else self.find(sample.image)
        found = time.perf_counter()
        data = container.encode(codec, sample.image, roi)
        self.finding += found - begun
        self.coding += time.perf_counter() - found
        return data

    def told(self) -> dict[str, float]:
        """`encoder_time`: how many times as long the encoder takes as without its detector; nothing for true masks."""
        return {} if self.find is None else {"encoder_time": 1 + self.finding / self.coding}
