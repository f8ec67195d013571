"""Where a network spends its bits: on objects that a detector finds, on those that it misses, and elsewhere."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchvision.ops import box_convert, box_iou
from tqdm import tqdm

from icm_helpers.codecs import container
from icm_helpers.data.coco import CocoDataset, Sample
from icm_helpers.evaluate import CONFIDENT, resamplings


@torch.inference_mode()
def rate_map(codec: torch.nn.Module, x: Tensor) -> Tensor:
    """Where a network spends its bits on one image (3, H, W): (1, H, W), bits per pixel, by its own likelihoods.

    The price of each cell of each latent, spread evenly over the part of the picture that it stands for. Of a picture
    that has to be padded, what the padding costs is cut off.
    """
    height, width = x.shape[1:]
    padded = container.pad(x[None].to(next(codec.parameters()).device), container.multiple(codec))  # (1, 3, H', W')
    total = torch.zeros(1, *padded.shape[2:])
    for p in codec(padded)["likelihoods"].values():
        bits = -p.log2().sum(1).cpu()  # (1, C, h, w) -> (1, h, w)
        cell = padded.shape[2] // bits.shape[1]
        total += (bits / cell**2).repeat_interleave(cell, 1).repeat_interleave(cell, 2)
    return total[:, :height, :width]


def spending(
    codec: torch.nn.Module, dataset: CocoDataset, clean: dict[str, list[dict[str, Any]]], *, progress: bool = True
) -> tuple[dict[str, Any], dict[str, Any]]:
    """What a network spends on objects that a detector finds in the uncompressed pictures, on those it misses, and elsewhere.

    An object is found where one of the detector's `clean` detections (:func:`icm_helpers.evaluate.clean_detections`, by name) has
    its category, a score of 0.3 or more and an IoU of 0.5 or more with its box. Crowd regions are neither. Where some pictures
    have outlines, others are left out: the ground beside an object has its price, too.

    Returns:
        `result`: images, bpp (by the likelihoods, as all here), and by detector how many objects are found and missed, and the
        bits per pixel inside their masks (bpp_found, bpp_missed) and outside of all (bpp_background), pooled over the images, and
        missed_to_found, the ratio of the first two; `bootstrap`: bpp and missed_to_found, 200 paired replicates each.
    """
    pixels, bits = [], []
    parts: dict[str, list] = {name: [] for name in clean}  # a row an image: bits and pixels found, missed, background
    counts = {name: np.zeros(2, int) for name in clean}
    confident = {name: _by_image(d for d in found if d["score"] >= CONFIDENT) for name, found in clean.items()}
    shown = [i for i, name in enumerate(dataset.ids) if "outlines" not in dataset.lacks(name)]
    for i in tqdm(shown, desc="pricing", disable=None if progress else True):
        sample = dataset[i]
        price = rate_map(codec, sample.image)
        pixels.append(price.numel())
        bits.append(price.sum().item())
        for name in clean:
            seen = found_objects(sample, confident[name].get(sample.image_id, []))
            chosen = seen & ~sample.crowd, ~seen & ~sample.crowd
            counts[name] += [who.sum().item() for who in chosen]
            found, missed = (sample.masks[who].any(0, keepdim=True) for who in chosen)  # (n, H, W) -> (1, H, W)
            where = found, missed & ~found, sample.object_mask == 0
            parts[name].append([v for m in where for v in (price[m].sum().item(), m.sum().item())])
    count, spent = np.asarray(pixels, float), np.asarray(bits)
    samples = resamplings([dataset.ids[i] for i in shown])
    result: dict[str, Any] = {"images": len(shown), "bpp": spent.sum() / count.sum()}
    bootstrap: dict[str, Any] = {"bpp": (spent[samples].sum(1) / count[samples].sum(1)).tolist()}
    for name, rows in parts.items():
        table = np.asarray(rows)  # (images, 6)
        densities = dict(zip(("bpp_found", "bpp_missed", "bpp_background"), _densities(table.sum(0)), strict=True))
        drawn = _densities(table[samples].sum(1))  # (replicates, images, 6) -> (3, replicates)
        values = {"found": int(counts[name][0]), "missed": int(counts[name][1]), **densities}
        for key, value in (values | {"missed_to_found": densities["bpp_missed"] / densities["bpp_found"]}).items():
            result.setdefault(key, {})[name] = value
        bootstrap.setdefault("missed_to_found", {})[name] = (drawn[1] / drawn[0]).tolist()
    return result, bootstrap


def found_objects(sample: Sample, detections: list[dict[str, Any]]) -> Tensor:
    """Which of an image's objects (n,) have a detection, a COCO result, of their category and an IoU of 0.5 or more."""
    if not detections or not len(sample.labels):
        return torch.zeros(len(sample.labels), dtype=torch.bool)
    boxes = box_convert(torch.tensor([d["bbox"] for d in detections]), "xywh", "xyxy")
    labels = torch.tensor([d["category_id"] for d in detections])
    overlap = box_iou(sample.boxes.float(), boxes.float())  # (n, detections)
    return ((overlap >= 0.5) & (sample.labels[:, None] == labels)).any(1)


def _densities(table: np.ndarray) -> np.ndarray:
    """Bits over pixels, of columns that hold them in turn; NaN where a handful of pictures has no such pixels."""
    with np.errstate(invalid="ignore"):
        return np.moveaxis(table[..., 0::2] / table[..., 1::2], -1, 0)


def _by_image(detections: Iterable[dict[str, Any]]) -> dict[int, list[dict[str, Any]]]:
    groups: dict[int, list] = {}
    for found in detections:
        groups.setdefault(found["image_id"], []).append(found)
    return groups
