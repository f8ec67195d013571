"""A known answer: the SA-ICM authors' own weights, judged here, beside the table that they published with them.

https://github.com/final-0/SA-ICM-v2 publishes LIC-TCM's weights, `sa-icm_0.05.pth.tar` and so on, and their rate and AP on COCO;
https://github.com/final-0/SA-ICM an older pair with YOLOv5s that were fine-tuned on what these decode.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from icm_helpers import evaluate, train
from icm_helpers.codecs import zoo
from icm_helpers.data import datasets
from icm_helpers.intervals import of_pictures
from icm_helpers.tasks.yolov5 import YOLOv5

PUBLISHED = {0.02: (0.149, 40.3), 0.03: (0.179, 41.1), 0.04: (0.205, 41.6), 0.05: (0.227, 41.9), 0.06: (0.244, 42.2)}
"""Bits per pixel, and mAP [%] at IoU .50:.95 by YOLOv5m, at each lambda: their README, commit 00c4851."""
PICTURES = 5000  # of val2017
RATE, POINTS = 3.0, 0.5
"""Differences [% of the rate, points of mAP] that other software may make, fixed before anybody has run this. They estimate rates
from likelihoods and cut pixels to 8 bits; here files are counted, and the detector gets the picture as it was decoded."""


def answers(
    weights: Sequence[Path], lmbdas: Sequence[float], detector: Path, images: int, device: str
) -> Iterator[str]:
    """Lines of a table, one for each file of weights, trained with the lambda beside it.

    Rates are means over the pictures of each picture's own, as theirs are.

    Raises:
        ValueError: not one lambda for each file, or one that their table lacks; a file holds another network.
        FileNotFoundError, DataError: a file is missing, or COCO.
    """
    if len(weights) != len(lmbdas) or not set(lmbdas) <= set(PUBLISHED):
        known = ", ".join(map(str, PUBLISHED))
        raise ValueError(f"{len(weights)} --weights, --lmbda {lmbdas}: give one for each file, of {known}")
    place = train.fabric(device).device
    codecs, judge = [zoo.load("tcm", weights=path) for path in weights], YOLOv5.from_weights(detector).to(place)
    dataset = datasets.load("coco2017", "val", limit=images)
    yield f"{'lambda':>6} {'bpp':>7} {'theirs':>7} {'mAP [95 %]':>20} {'theirs':>7}  verdict"
    for lmbda, codec in zip(lmbdas, codecs, strict=True):
        result, bootstrap = evaluate.evaluate(codec.to(place).eval(), dataset, {"yolov5": judge}, {})
        sizes, pixels = (np.array(result["per_image"][key]) for key in ("bytes", "pixels"))
        bpp, ap = float((8 * sizes / pixels).mean()), 100 * result["box_ap"]["yolov5"]
        found = of_pictures(ap, 100 * np.array(bootstrap["box_ap"]["yolov5"]))
        told = f"{ap:.1f} [{found.low:.1f}, {found.high:.1f}]"
        rate, points = PUBLISHED[lmbda]
        ours = f"{lmbda:6} {bpp:7.3f} {rate:7.3f} {told:>20} {points:7.1f}"
        yield f"{ours}  {verdict(bpp, ap, lmbda, len(dataset))}"


def verdict(bpp: float, ap: float, lmbda: float, pictures: int) -> str:
    """What a rate [bpp] and an mAP [%] say beside the published ones.

    >>> verdict(0.228, 41.7, 0.05, 5000), verdict(0.256, 41.1, 0.05, 5000)
    ('agrees', 'differs: rate +12.8 %, mAP -0.8 points')
    """
    if pictures != PICTURES:
        return f"not comparable: {pictures} of {PICTURES} pictures"
    theirs, points = PUBLISHED[lmbda]
    change, gain = 100 * (bpp / theirs - 1), ap - points
    wrong = [f"rate {change:+.1f} %"] * (abs(change) > RATE) + [f"mAP {gain:+.1f} points"] * (abs(gain) > POINTS)
    return f"differs: {', '.join(wrong)}" if wrong else "agrees"
