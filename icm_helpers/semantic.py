"""Semantic maps, what kind of thing each pixel shows, and the mean over kinds of intersection over union.

Everingham et al., "The Pascal Visual Object Classes (VOC) Challenge", IJCV 2010: pixels are counted over all pictures first.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from icm_helpers.data.coco import Sample

VOID = -1  # in a true map: what counts for no class


def truth(sample: Sample, classes: Mapping[int, int]) -> np.ndarray:
    """The class of each pixel, (H, W), by a picture's outlines: `classes` of category ids, and 0, background, of others.

    Of two objects that overlap, the smaller is seen; crowds, whose outlines are rough, are `VOID`.
    """
    drawn = np.zeros(sample.image.shape[1:], np.int64)
    for k in np.argsort(-sample.masks.sum(dim=(1, 2)).numpy(), kind="stable"):
        if kind := classes.get(int(sample.labels[k])):
            drawn[sample.masks[k].numpy()] = kind
    drawn[sample.masks[sample.crowd].any(dim=0).numpy()] = VOID
    return drawn


def tally(real: np.ndarray, guess: np.ndarray, classes: int) -> np.ndarray:
    """How many pixels of each class are seen as each, (classes, classes), rows what they are; `VOID` ones are left out.

    >>> tally(np.array([[0, 1]]), np.array([[1, 1]]), 2).tolist()
    [[0, 1], [0, 1]]
    """
    known = real != VOID
    return np.bincount(real[known] * classes + guess[known], minlength=classes**2).reshape(classes, classes)


def mean_iou(tallies: Sequence[np.ndarray], samples: Sequence[np.ndarray] = ()) -> tuple[float, list[float]]:
    """Mean IoU over the classes that occur, of pictures' tallies together; and with the pictures that each of `samples` draws.

    >>> mean_iou([np.array([[8, 2], [0, 10]])])[0].__round__(4)
    0.8167
    """
    each = np.stack(tallies).reshape(len(tallies), -1)
    drawn = [np.bincount(sample, minlength=len(each)) @ each for sample in samples]
    value, *replicates = (_mean_iou(counts.reshape(tallies[0].shape)) for counts in (each.sum(0), *drawn))
    return value, replicates


def _mean_iou(counts: np.ndarray) -> float:
    both = np.diag(counts)
    either = counts.sum(0) + counts.sum(1) - both
    return float((both[either > 0] / either[either > 0]).mean())
