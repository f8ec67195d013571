"""How seconds and memory grow with the work: with pictures, with megapixels, with the masks of a picture.

A power of one is linear. What takes its pictures from files needs no more memory for more of them.
"""

from __future__ import annotations

import numpy as np
import torch
from faster_coco_eval.core import mask as rle
from torch.nn import functional

from icm_helpers import bd, evaluate, masks
from icm_helpers.codecs import container, zoo
from icm_helpers.data import datasets
from icm_helpers.tasks import models, sam, training

SIZES = (0.05, 0.2, 0.8, 3.2, 12.8, 50)


def picture(megapixels: float) -> torch.Tensor:
    """A scene of 3:2, enlarged: (3, H, W)."""
    height = 16 * round((megapixels * 1e6 / 1.5) ** 0.5 / 16)
    small = datasets.load("scenes", "val", limit=1)[0].image[None]
    return functional.interpolate(small, (height, 3 * height // 2), mode="bilinear")[0].clamp(0, 1)


def drawn(size: tuple[int, int], count: int) -> masks.MaskSet:
    """`count` boxes at random, each of a hundredth of the picture or less."""
    rng, found = np.random.default_rng(0), []
    for _ in range(count):
        mask = np.zeros(size, np.uint8, order="F")
        top, left = (int(rng.integers(0, side)) for side in size)
        mask[top : top + size[0] // 10, left : left + size[1] // 10] = 1
        coded = rle.encode(mask)
        found.append({"rle": coded | {"counts": coded["counts"].decode()}, "predicted_iou": 0.95, "stability_score": 1})
    return masks.MaskSet.of(torch.zeros(3, *size), found)


def test_judging_with_pictures(grows):
    judge, codec = models.load("yolov5n-scenes"), zoo.load("mean-scale-small")

    def work(count: int):
        dataset = datasets.load("scenes", "train", limit=count)
        clean = evaluate.clean_detections(dataset, judge, progress=False)
        return lambda: evaluate.evaluate(codec, dataset, {"judge": judge}, {"judge": clean}, progress=False)

    seconds, megabytes = grows("pictures", (10, 40, 160, 640), work)
    assert seconds < 1.1 and megabytes < 200


def test_average_precision_with_pictures(grows):
    """Of forty pictures, again and again under other ids."""
    dataset = datasets.load("scenes", "val", limit=40)
    truth, clean = (
        dataset.ground_truth(),
        evaluate.clean_detections(dataset, models.load("yolov5n-scenes"), progress=False),
    )
    place = {image["id"]: k for k, image in enumerate(truth["images"])}

    def many(items: list[dict], key: str, count: int) -> list[dict]:
        copies = ((round_, item) for round_ in range(-(-count // 40)) for item in items)
        numbered = [{**item, key: 40 * round_ + place[item[key]] + 1} for round_, item in copies]
        return [item for item in numbered if item[key] <= count]

    def work(count: int):
        objects = [{**item, "id": k} for k, item in enumerate(many(truth["annotations"], "image_id", count), start=1)]
        larger = {**truth, "images": many(truth["images"], "id", count), "annotations": objects}
        found, draws = many(clean, "image_id", count), evaluate.resamplings(range(count))
        return lambda: evaluate.average_precision(larger, found, "bbox", draws)

    seconds, _ = grows("pictures", (10, 40, 160, 640, 5000), work)
    assert seconds < 1.3  # sorting, and arrays that leave the caches


def test_bd_intervals_with_replicates(grows):
    bpp, accuracy = np.array([0.1, 0.2, 0.4, 0.8]), np.array([0.2, 0.3, 0.35, 0.4])

    def work(count: int):
        noise = np.random.default_rng(0).normal(scale=0.01, size=(2, count, 4))
        anchor, test = (bd.Curve("", bpp, accuracy + k * 0.02, bpp + 0 * n, accuracy + n) for k, n in enumerate(noise))
        return lambda: bd.bd_rate(anchor, test)

    seconds, _ = grows("replicates", (50, 200, 800, 3200), work)
    assert seconds < 1.1


def test_fine_tuning_with_pictures(grows, tmp_path):
    judge, codec = models.load("yolov5n-scenes"), zoo.load("jpeg", 50)

    def work(count: int):
        dataset, plan = (
            datasets.load("scenes", "train", limit=count),
            training.train.Schedule(steps=count // 8, batch=8),
        )
        how = {"progress": False, "device": "cpu"}
        return lambda: training.finetune(judge, codec, dataset, tmp_path / f"{count}", plan, **how)

    seconds, megabytes = grows("pictures", (8, 32, 128, 512), work)
    assert seconds < 1.1 and megabytes < 200


def test_coding_with_megapixels(grows):
    codec = zoo.load("mean-scale-small")

    def work(megapixels: float):
        x = picture(megapixels)
        return lambda: container.decode(codec, container.encode(codec, x))

    seconds, _ = grows("megapixels", SIZES, work)
    assert seconds < 1.3  # a first layer's output is a gigabyte and more at 50


def test_mask_making_with_megapixels(grows):
    model = sam.load()

    def work(megapixels: float):
        x = picture(megapixels)
        return lambda: sam.every_mask(model, x, 0.93)

    seconds, _ = grows("megapixels", SIZES[:-1], work)
    assert seconds < 1.1


def test_edges_with_megapixels(grows):
    def work(megapixels: float):
        found = drawn(tuple(picture(megapixels).shape[1:]), 60)
        return lambda: masks.edges(masks.segmentation_map(found))

    seconds, _ = grows("megapixels", SIZES, work)
    assert seconds < 1.1


def test_edges_with_masks(grows):
    def work(count: int):
        found = drawn((480, 640), count)
        return lambda: masks.edges(masks.segmentation_map(found))

    seconds, _ = grows("masks", (3, 10, 30, 100, 300, 1000), work)
    assert seconds < 1.1
