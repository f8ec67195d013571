r"""Panoptic maps, and how good one is: Kirillov et al., "Panoptic Segmentation", CVPR 2019.

A predicted segment and a true one of its category match where their IoU, without void pixels, is above one half. With
the matches TP of a category, its other predictions FP and its other true segments FN, all counted over a data set,

.. math::
    \mathrm{PQ} = \frac{\sum_{\mathrm{TP}} \mathrm{IoU}}{\mathrm{TP} + \frac12 \mathrm{FP} + \frac12 \mathrm{FN}}
    = \mathrm{SQ} \cdot \mathrm{RQ}, \qquad \mathrm{SQ} = \frac{\sum_{\mathrm{TP}} \mathrm{IoU}}{\mathrm{TP}}.

All three are sums over images, so :func:`tally` keeps one image's share and :func:`quality` adds up whichever images were drawn.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchvision.ops import masks_to_boxes

VOID = 0  # in a predicted map; in a true one every id that no segment bears is void


@dataclass(frozen=True)
class Panoptic:
    """A picture's panoptic map.

    Attributes:
        ids: (H, W) int32, the segment of each pixel.
        segments: one dict a segment, as in COCO's `segments_info`: `id` and `category_id`; of a true one also `iscrowd`,
            of a predicted one `isthing` and `score`.
    """

    ids: np.ndarray
    segments: list[dict[str, Any]]

    def detections(self) -> dict[str, Tensor]:
        """A prediction's things, best first: `boxes` (n, 4) x1 y1 x2 y2, ends exclusive, `scores`, `labels`, `masks` (n, H, W)."""
        things = sorted((s for s in self.segments if s["isthing"]), key=lambda s: -s["score"])
        masks = torch.from_numpy(self.ids[None] == np.array([s["id"] for s in things], np.int32)[:, None, None])
        boxes = masks_to_boxes(masks)
        return {
            "boxes": boxes + torch.tensor([0.0, 0, 1, 1]),
            "scores": torch.tensor([s["score"] for s in things], dtype=torch.float32),
            "labels": torch.tensor([s["category_id"] for s in things], dtype=torch.int64),
            "masks": masks,
        }


def tally(truth: Panoptic, guess: Panoptic, categories: Sequence[int]) -> np.ndarray:
    """One image's sum of IoU, TP, FP and FN for each of `categories`, (C, 4).

    As panopticapi counts: void pixels leave the union; a predicted segment of which more than half is void, or crowd of
    its own category, is no error; a crowd is matched by nothing and missed by nobody.

    Raises:
        ValueError: the maps differ in size, or a category is not among `categories`.

    >>> sky = [{"id": 1, "category_id": 7, "iscrowd": 0}]
    >>> tally(Panoptic(np.ones((2, 2), int), sky), Panoptic(np.array([[1, 1], [1, 0]]), sky), [7])
    array([[0.75, 1.  , 0.  , 0.  ]])
    """
    if truth.ids.shape != guess.ids.shape:
        raise ValueError(f"the true map has shape {truth.ids.shape}, the predicted one {guess.ids.shape}")
    rows = {category: i for i, category in enumerate(categories)}
    if unknown := {s["category_id"] for p in (truth, guess) for s in p.segments} - set(rows):
        raise ValueError(f"categories {sorted(unknown)} are not among {list(categories)}")
    (real, real_at), (said, said_at) = (np.unique(p.ids, return_inverse=True) for p in (truth, guess))
    pairs = real_at.reshape(-1) * len(said) + said_at.reshape(-1)
    shared = np.bincount(pairs, minlength=len(real) * len(said)).reshape(len(real), len(said))  # pixels of each pair
    info = {s["id"]: s for s in truth.segments}
    crowd = np.array([bool(info.get(i, {}).get("iscrowd")) for i in real.tolist()])
    real_row = np.array([rows[info[i]["category_id"]] if i in info else -1 for i in real.tolist()])  # -1: void
    kinds = {s["id"]: rows[s["category_id"]] for s in guess.segments}
    said_row = np.array([kinds.get(i, -1) for i in said.tolist()])

    real_area, said_area, void = shared.sum(1), shared.sum(0), shared[real_row < 0].sum(0)
    iou = shared / (real_area[:, None] + said_area - shared - void).clip(1)
    same = (real_row[:, None] == said_row) & (said_row >= 0)
    match = same & ~crowd[:, None] & (iou > 0.5)
    excused = void + np.where(same & crowd[:, None], shared, 0).sum(0)
    wrong = (said_row >= 0) & ~match.any(0) & (excused <= 0.5 * said_area)
    missed = (real_row >= 0) & ~crowd & ~match.any(1)

    counts = np.zeros((len(rows), 4))
    at, by = match.nonzero()
    np.add.at(counts[:, 0], real_row[at], iou[at, by])
    for column, found in ((1, real_row[at]), (2, said_row[wrong]), (3, real_row[missed])):
        np.add.at(counts[:, column], found, 1)
    return counts


def quality(counts: np.ndarray) -> np.ndarray:
    """PQ, SQ and RQ, (..., 3), of tallies (..., C, 4) that were summed over images: the mean over the categories that occur.

    Zero where none does.

    >>> quality(np.array([[1.6, 2, 0, 0], [0.9, 1, 1, 1], [0, 0, 0, 0]]))  # the third does not occur
    array([0.625, 0.85 , 0.75 ])
    """
    iou, hits, wrong, missed = np.moveaxis(counts, -1, 0)
    counted = hits + wrong / 2 + missed / 2
    sq, rq = iou / hits.clip(1), hits / np.where(counted > 0, counted, 1)
    occurring = (counted > 0).sum(-1).clip(1)
    return np.stack([(sq * rq).sum(-1), sq.sum(-1), rq.sum(-1)], axis=-1) / occurring[..., None]


def scores(
    tallies: np.ndarray, countable: np.ndarray, samples: np.ndarray
) -> tuple[dict[str, float], dict[str, list[float]]]:
    """PQ, SQ and RQ of a data set, PQ of its things and of its stuff, and the bootstrap replicates of all five.

    Args:
        tallies: (n, C, 4), each image's :func:`tally`.
        countable: (C,) bool, which categories are things.
        samples: indices (replicates, n) into the images. A replicate is a sum of what is kept, so it costs next to nothing.
    """
    draws = np.stack([np.bincount(sample, minlength=len(tallies)) for sample in samples])  # (replicates, n)

    def named(counts: np.ndarray) -> dict[str, Any]:  # (..., C, 4)
        pq, sq, rq = np.moveaxis(quality(counts), -1, 0)
        things, stuff = (quality(counts[..., which, :])[..., 0] for which in (countable, ~countable))
        values = {"pq": pq, "sq": sq, "rq": rq, "pq_things": things, "pq_stuff": stuff}
        return {name: value.tolist() for name, value in values.items()}

    return named(tallies.sum(0)), named(np.tensordot(draws, tallies, 1))
