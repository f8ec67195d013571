"""What a coded picture still gives away: a small network reads the texture of objects whose shape says nothing about it.

Shindo et al. (ICIP 2024) say of SA-ICM that it "removes human facial information" and with it protects privacy. On scenes the
secret is a pattern (see :class:`icm_helpers.data.scenes.Scene`): spots on the coat of a horse, a band around a balloon.
Whoever wants to read it trains on pictures that went through the same codec, and so does the probe.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import Subset
from torchvision.transforms.functional import resized_crop
from tqdm import tqdm

from icm_helpers.data import scenes
from icm_helpers.data.coco import CocoDataset
from icm_helpers.evaluate import Detector, average_precision, coco_results, coded, resamplings

PICTURES = 1000  # decoded training pictures that a probe learns from
LEAST = 100  # pixels of an object that is worth asking about
_SIDE, _STEPS, _BATCH, _PROBES = 32, 300, 64, 3


class Objects:
    """The patterned objects of a data set as they look in some pictures: views (n, 3, 32, 32) and what is known of each.

    `image` (n,) says in which picture of the data set each is, `kind` (n,) which of `scenes.PATTERNED` it is.
    """

    def __init__(self) -> None:
        self.views: list[Tensor] = []
        self.image: list[int] = []
        self.kind: list[int] = []
        self.pattern: list[bool] = []

    def add(self, image: int, x_hat: Tensor, annotations: list[dict[str, Any]]) -> None:
        """Cut the objects of picture number `image` out of its decoded version (3, H, W)."""
        for item in annotations:
            x, y, w, h = item["bbox"]
            side = round(1.2 * max(w, h))
            top, left = round(y + h / 2 - side / 2), round(x + w / 2 - side / 2)  # may lie outside: then black
            self.views.append(resized_crop(x_hat, top, left, side, side, [_SIDE, _SIDE], antialias=True))
            self.image.append(image)
            self.kind.append(scenes.PATTERNED.index(item["category_id"]))
            self.pattern.append(item["pattern"])


def patterned(dataset: CocoDataset) -> dict[int, list[dict[str, Any]]]:
    """The annotations of objects with a known pattern and enough visible pixels, by image id; images without one are left out."""
    found: dict[int, list[dict[str, Any]]] = {}
    for item in dataset.ground_truth()["annotations"]:
        if item.get("pattern") is not None and item["area"] >= LEAST:
            found.setdefault(item["image_id"], []).append(item)
    return found


def network() -> nn.Module:
    """The probe: views (N, 3, 32, 32) -> a logit for each kind of object, (N, 2)."""
    layers: list[nn.Module] = []
    for before, after in pairwise((3, 24, 48, 64)):
        layers += [nn.Conv2d(before, after, 3, padding=1), nn.BatchNorm2d(after), nn.ReLU(), nn.MaxPool2d(2)]
    return nn.Sequential(*layers, nn.Flatten(), nn.Dropout(0.3), nn.Linear(64 * 16, len(scenes.PATTERNED)))


def learn(objects: Objects, seed: int) -> nn.Module:
    """A probe trained on objects whose patterns are known; mirrored, moved by up to 3 pixels, brighter and darker."""
    torch.manual_seed(seed)
    probe, views = network(), torch.stack(objects.views)
    kind, pattern = torch.tensor(objects.kind), torch.tensor(objects.pattern).float()
    # How common the pattern of its kind is, for each object.
    common = torch.stack([pattern[kind == k].mean() for k in range(len(scenes.PATTERNED))])[kind]
    weight = torch.where(pattern > 0, 0.5 / common.clamp(min=1e-3), 0.5 / (1 - common).clamp(min=1e-3))
    optimiser = torch.optim.AdamW(probe.parameters(), lr=2e-3, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, _STEPS)
    probe.train()
    for _ in range(_STEPS):
        chosen = torch.randint(len(views), (_BATCH,))
        x = F.pad(views[chosen], (3, 3, 3, 3), mode="replicate")
        top, left = torch.randint(0, 7, (2,)).tolist()
        x = x[..., top : top + _SIDE, left : left + _SIDE] * torch.empty(_BATCH, 1, 1, 1).uniform_(0.8, 1.2)
        x = torch.where(torch.rand(_BATCH, 1, 1, 1) < 0.5, x.flip(-1), x)
        logits = probe(x).gather(1, kind[chosen, None])[:, 0]
        loss = F.binary_cross_entropy_with_logits(logits, pattern[chosen], weight[chosen])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    return probe.eval()


@torch.no_grad()
def scores(probes: list[nn.Module], objects: Objects) -> np.ndarray:
    """How sure the probes are, in the mean, that each object has its pattern, (n,)."""
    views, kind = torch.stack(objects.views), torch.tensor(objects.kind)
    return torch.stack([p(views).gather(1, kind[:, None])[:, 0] for p in probes]).mean(0).numpy()


def auc(score: np.ndarray, truth: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Area under the ROC curve: how often an object with the pattern scores above one without it; 0.5 is a guess.

    Of scores (n,) and truth (n,) bool, with weights (..., n) of how often each object counts.

    >>> auc(np.array([0.1, 0.4, 0.35, 0.8]), np.array([False, False, True, True]), np.ones(4)).item()
    0.75
    """
    wins = np.sign(score[truth][:, None] - score[~truth][None]) / 2 + 0.5  # (with, without), a tie counts half
    having, lacking = weights[..., truth], weights[..., ~truth]
    with np.errstate(invalid="ignore"):
        return (having @ wins * lacking).sum(-1) / (having.sum(-1) * lacking.sum(-1))


def evaluate(
    codec: Any, train: CocoDataset, dataset: CocoDataset, detectors: dict[str, Detector], *, progress: bool = True
) -> tuple[dict[str, Any], dict[str, Any]]:
    """How well patterns can be read from coded pictures, and how well the same kinds of objects are detected there.

    The probes learn from the first 1000 pictures of `train`, once coded, as far as they show such objects, and are asked about
    those of `dataset`.

    Returns:
        `result`: images, bpp (all bytes), objects (with a known pattern), texture_auc (mean over the two kinds, of three probes
        together), and shape_ap, the box AP of horses and balloons by each detector; `bootstrap`: bpp, texture_auc and shape_ap,
        200 paired replicates each.

    Raises:
        ValueError: all objects of a kind have the pattern, or none has: there are too few.
    """
    known = patterned(train)
    lessons = Objects()
    shown = [i for i in range(min(PICTURES, len(train))) if train.ids[i] in known]
    told = {"disable": None if progress else True}
    for sample, _, x_hat in tqdm(coded(codec, Subset(train, shown)), desc="lessons", total=len(shown), **told):
        lessons.add(0, x_hat, known[sample.image_id])
    known, exam, sizes, pixels = patterned(dataset), Objects(), [], []
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in detectors}
    pictures = tqdm(coded(codec, dataset), desc="exam", total=len(dataset), **told)
    for i, (sample, data, x_hat) in enumerate(pictures):
        exam.add(i, x_hat, known.get(sample.image_id, []))
        sizes.append(8 * len(data))
        pixels.append(x_hat[0].numel())
        for name, detector in detectors.items():
            results = coco_results(sample.image_id, detector.detect([x_hat])[0])
            found[name] += [r for r in results if r["category_id"] in scenes.PATTERNED]
    for objects in (lessons, exam):
        if len(set(zip(objects.kind, objects.pattern, strict=True))) < 2 * len(scenes.PATTERNED):
            told = f"{len(objects.kind)} objects are too few for a probe"
            raise ValueError(f"{told}: of one kind all, or none, have the pattern. Use more")
    probes = [learn(lessons, seed) for seed in range(_PROBES)]
    score, truth, kind = scores(probes, exam), np.array(exam.pattern), np.array(exam.kind)

    def texture(weights: np.ndarray) -> np.ndarray:
        kinds = (kind == k for k in range(len(scenes.PATTERNED)))
        return np.mean([auc(score[of], truth[of], weights[..., of]) for of in kinds], axis=0)

    bits, count, samples = np.array(sizes, float), np.array(pixels, float), resamplings(dataset.ids)
    drawn = np.stack([np.bincount(s, minlength=len(dataset)) for s in samples])[:, exam.image]  # (replicates, objects)
    result: dict[str, Any] = {"images": len(dataset), "bpp": bits.sum() / count.sum(), "objects": len(truth)}
    result["texture_auc"] = texture(np.ones(len(truth))).item()
    bpp = (bits[samples].sum(1) / count[samples].sum(1)).tolist()
    bootstrap: dict[str, Any] = {"bpp": bpp, "texture_auc": texture(drawn).tolist()}
    whole = dataset.ground_truth()
    of_kinds = {"categories": "id", "annotations": "category_id"}
    kept = {part: [item for item in whole[part] if item[key] in scenes.PATTERNED] for part, key in of_kinds.items()}
    for name, results in found.items():
        summary, replicates = average_precision({**whole, **kept}, results, samples=samples)
        result.setdefault("shape_ap", {})[name] = summary["ap"]
        bootstrap.setdefault("shape_ap", {})[name] = replicates
    return result, bootstrap
