"""What Segment Anything's masks cost: one pass for every alpha, and next to nothing in a training."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from faster_coco_eval.core import mask as rle

from icm_helpers import masks
from icm_helpers.data import coco, datasets
from icm_helpers.data.crops import Crops
from icm_helpers.tasks import sam

ALPHAS = (0.98, 0.93, 0.48)


def test_masks_for_all_alphas(versus):
    model, (sample,) = sam.load(), datasets.load("scenes", "val", limit=1)

    def one_pass() -> list[masks.MaskSet]:
        found = masks.MaskSet.of(sample.image, sam.every_mask(model, sample.image, min(ALPHAS)))
        return [found.above(alpha) for alpha in ALPHAS]

    def a_pass_each() -> list[masks.MaskSet]:
        return [masks.MaskSet.of(sample.image, sam.every_mask(model, sample.image, alpha)) for alpha in ALPHAS]

    for ours, theirs in zip(one_pass(), a_pass_each(), strict=True):
        assert len(ours) and ours.counts == theirs.counts
    assert versus(one_pass, a_pass_each, 4, "segment-anything 1.0, a pass an alpha") < 0.4


def test_loading_crops_with_edges(versus, tmp_path):
    """On photographs, read anew for each crop, as where a data set does not fit into memory; sixty masks a picture."""
    try:
        dataset = datasets.load("coco-mini", "train", limit=16)
    except coco.DataError as error:
        pytest.skip(str(error))
    rng = np.random.default_rng(0)
    for sample in (dataset[i] for i in range(len(dataset))):
        size = sample.image.shape[1:]
        drawn = np.zeros((*size, 60), np.uint8, order="F")
        for k in range(60):
            top, left = rng.integers(0, size)
            drawn[top : top + rng.integers(10, 200), left : left + rng.integers(10, 200), k] = 1
        found = [
            {"rle": r | {"counts": r["counts"].decode()}, "predicted_iou": 0.95, "stability_score": 1}
            for r in rle.encode(drawn)
        ]
        masks.write(tmp_path, sample.image_id, masks.MaskSet.of(sample.image, found))

    def crops(region: Callable[[coco.Sample], torch.Tensor] | None) -> Callable[[], object]:
        cut = Crops(dataset, 256, 0, 64, region=region, cache=False)
        return lambda: [cut[i] for i in range(64)]

    how = {"order": "largest-first", "low": 50.0, "high": 100.0, "dilate": 0}
    on_edges = crops(lambda sample: masks.stored_edges(tmp_path, sample.image_id, 0.93, **how))
    assert versus(on_edges, crops(None), 3, "crops without edges") < 1.1
