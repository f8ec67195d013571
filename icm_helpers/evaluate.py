"""Measure a codec as its user would: real bytes, decoded pictures, what a detector still finds, and how sure that is."""

from __future__ import annotations

import warnings
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import tee
from typing import Any, Protocol

import bjontegaard
import numpy as np
import torch
from faster_coco_eval import COCO, COCOeval_faster
from faster_coco_eval.core import mask as rle
from torch import Tensor
from torchvision.ops import box_convert, box_iou
from tqdm import tqdm

from icm_helpers import panoptic
from icm_helpers.codecs import container
from icm_helpers.datasets import CocoDataset, PanopticTruth, Sample, require_categories

REPLICATES = 200
CONFIDENT = 0.3  # a clean detection of at least this score counts as what the detector saw
THIRDS = ("low", "middle", "high")  # of the images, by how much of them objects cover


class Detector(Protocol):
    """What a recognition model offers: its categories, and what it finds in images (3, H, W) in [0, 1].

    One that names every pixel also has `panoptic(images)`, which gives a list of :class:`icm_helpers.panoptic.Panoptic`, whose
    `detections` are what `detect` finds.
    """

    categories: dict[int, str]

    def detect(self, images: list[Tensor]) -> list[dict[str, Tensor]]:
        """For each image `boxes` (n, 4) xyxy in pixels, `scores`, `labels` (category ids), perhaps `masks` (n, H, W)."""
        ...


def coco_results(image_id: int, found: dict[str, Tensor]) -> list[dict[str, Any]]:
    """One image's detections as entries of a COCO results list."""
    x0, y0, x1, y1 = found["boxes"].double().cpu().unbind(1)
    boxes = torch.stack([x0, y0, x1 - x0, y1 - y0], dim=1).tolist()
    entries = [
        {"image_id": image_id, "category_id": int(label), "bbox": box, "score": float(score)}
        for box, label, score in zip(boxes, found["labels"].tolist(), found["scores"].tolist(), strict=True)
    ]
    if "masks" in found:
        for entry, mask in zip(entries, found["masks"].cpu().numpy(), strict=True):
            entry["segmentation"] = rle.encode(np.asfortranarray(mask.astype(np.uint8)))
    return entries


def resamplings(ids: Sequence[int], replicates: int = REPLICATES) -> np.ndarray:
    """Bootstrap resamplings of a data set's images: indices (replicates, n), decided by the image ids alone.

    Every record of a data set uses the same ones, so the difference of any two records has a *paired* interval.
    """
    seed = zlib.crc32(np.asarray(ids, dtype=np.int64).tobytes())
    return np.random.default_rng(seed).integers(0, len(ids), (replicates, len(ids)))


def average_precision(
    truth: dict[str, Any], results: list[dict[str, Any]], iou_type: str = "bbox", samples: np.ndarray | None = None
) -> tuple[dict[str, float], list[float]]:
    """COCO average precision, and its bootstrap replicates.

    Args:
        truth: COCO ground truth.
        results: COCO results; may be empty.
        iou_type: bbox or segm.
        samples: indices (replicates, n) into the sorted image ids; None for no replicates.

    Returns:
        `ap` (IoU .50:.95), `ap50`, `ap75`, `ap_small`, `ap_medium`, `ap_large`, each absent where there is no such object, and
        the AP of each replicate. The matching of detections to objects is done once; a replicate only accumulates it again.
    """
    coco = COCO(truth)
    names = ("ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large")
    if not results:
        asked = any(not item.get("iscrowd") for item in truth["annotations"])
        return dict.fromkeys(names[:3], 0.0) if asked else {}, [0.0] * (0 if samples is None else len(samples))
    # Copies: loadRes writes into the entries, and would give each box a mask of its own shape.
    found = coco.loadRes([dict(entry) for entry in results])
    full = COCOeval_faster(coco, found, iou_type, print_function=_silent)
    full.evaluate()
    full.accumulate()
    full.summarize()
    summary = {name: float(value) for name, value in zip(names, full.stats[:6], strict=True) if value >= 0}
    if samples is None:
        return summary, []
    once = COCOeval_faster(coco, found, iou_type, print_function=_silent, separate_eval=True)
    once.params.areaRng, once.params.areaRngLbl, once.params.maxDets = [[0, 1e10]], ["all"], [100]
    once.evaluate()
    matches, images, categories = once._evalImgs_cpp, len(once.params.imgIds), len(once.params.catIds)  # category-major
    replicates = []
    for sample in samples:
        once._evalImgs_cpp = [matches[c * images + i] for c in range(categories) for i in sample]
        once._paramsEval.imgIds = list(range(len(sample)))
        once.accumulate()
        precision = np.asarray(once.eval["precision"])
        replicates.append(float(precision[precision > -1].mean()) if (precision > -1).any() else 0.0)
    return summary, replicates


def panoptic_tally(truth: PanopticTruth, image_id: int, guess: panoptic.Panoptic) -> np.ndarray:
    """An image's :func:`icm_helpers.panoptic.tally` over the data set's categories in rising order, (C, 4)."""
    return panoptic.tally(truth[image_id], guess, sorted(truth.categories))


def panoptic_scores(
    truth: PanopticTruth, tallies: Sequence[np.ndarray], samples: np.ndarray
) -> tuple[dict[str, float], dict[str, list[float]]]:
    """PQ, SQ, RQ and PQ of things and stuff from every image's :func:`panoptic_tally`, and their bootstrap replicates."""
    countable = np.array([category in truth.things for category in sorted(truth.categories)])
    return panoptic.scores(np.stack(tallies), countable, samples)


def clean_detections(dataset: CocoDataset, detector: Detector, progress: bool = True) -> list[dict[str, Any]]:
    """What a detector finds in the uncompressed images, as COCO results: the truth of the agreement measure."""
    found = []
    for i in tqdm(range(len(dataset)), desc="clean detections", disable=None if progress else True):
        sample = dataset[i]
        found += coco_results(sample.image_id, detector.detect([sample.image])[0])
    return found


def evaluate(
    codec: Any,
    dataset: CocoDataset,
    detectors: dict[str, Detector],
    clean: dict[str, list[dict[str, Any]]],
    *,
    encode: Callable[[Any, Sample], bytes] | None = None,
    progress: bool = True,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Code every image to real bytes, decode them, run the detectors, and bootstrap over images.

    Args:
        codec: anything :func:`icm_helpers.codecs.container.encode` takes.
        dataset: the evaluation images.
        detectors: by name.
        clean: detectors' :func:`clean_detections` on this data set; a detector that is left out gets no agreement.
        encode: (codec, sample) -> bytes, where coding needs more than codec and image (refined latents, say).

    Returns:
        `result`: images, object_share (of all pixels), bpp (all bytes), bpp_likelihood (where the codec's own encoder has
        likelihoods), psnr, psnr_inside, psnr_outside (over the pooled pixels inside and outside object masks, if any; at most
        120 dB), per_image bytes and pixels, and by detector box_ap, box_ap50, box_ap_small, ..., mask_ap (where both it and the
        data set have outlines), agreement (box AP against its own clean detections of score 0.3 or more, where it has any); of
        detectors with `panoptic`, where the data set has panoptic maps, pq, sq, rq, pq_things, pq_stuff; by_cover (of 30 images
        or more): object_share, bpp and box_ap in each third of the images, from those of which objects cover least to those of
        which they cover most;
        `bootstrap`: bpp, psnr_inside, psnr_outside, and box_ap, mask_ap, agreement, pq, sq, rq, pq_things, pq_stuff by
        detector, 200 paired replicates each; by_cover with bpp and box_ap likewise, each third resampled by itself.

    Raises:
        DataError: a detector does not know an annotated category.
    """
    for name, detector in detectors.items():
        require_categories(dataset, detector.categories, name)
    sizes, pixels, bits = [], [], []
    inside, outside, area = [], [], []
    results: dict[str, list] = {name: [] for name in detectors}
    outlining: set[str] = set()
    tallies: dict[str, list] = {
        name: [] for name, d in detectors.items() if dataset.panoptic and hasattr(d, "panoptic")
    }
    for sample, data, x_hat in tqdm(
        coded(codec, dataset, encode),
        desc="coding and detecting",
        total=len(dataset),
        disable=None if progress else True,
    ):
        x, mask = sample.image, sample.object_mask
        sizes.append(len(data))
        pixels.append(x.shape[1] * x.shape[2])
        # Bytes made otherwise than by the codec's own encoder have other latents than its likelihoods speak of.
        if encode is None and (estimate := likelihood_bits(codec, x)) is not None:
            bits.append(estimate)
        error = (x - x_hat).square().mean(dim=0, keepdim=True)
        inside.append((error * mask).sum().item())
        outside.append((error * (1 - mask)).sum().item())
        area.append(mask.sum().item())
        for name, detector in detectors.items():
            if name in tallies:  # one pass serves both
                (guess,) = detector.panoptic([x_hat])
                tallies[name].append(panoptic_tally(dataset.panoptic, sample.image_id, guess))
                found = guess.detections()
            else:
                (found,) = detector.detect([x_hat])
            results[name] += coco_results(sample.image_id, found)
            outlining |= {name} if "masks" in found else set()
    size, count, inner, outer, covered = (
        np.asarray(v, dtype=np.float64) for v in (sizes, pixels, inside, outside, area)
    )
    truth = dataset.ground_truth()
    samples = resamplings(dataset.ids)  # a data set's ids are sorted, as the evaluator's are

    def pooled(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
        return numerator[samples].sum(axis=1) / denominator[samples].sum(axis=1)

    result: dict[str, Any] = {
        "images": len(dataset),
        "bpp": 8 * size.sum() / count.sum(),
        "psnr": psnr((inner + outer).sum() / count.sum()),
        "object_share": covered.sum() / count.sum(),
        "per_image": {"id": [int(i) for i in dataset.ids], "bytes": sizes, "pixels": pixels},
    }
    if bits:
        result["bpp_likelihood"] = float(np.sum(bits) / count.sum())
    bootstrap: dict[str, Any] = {"bpp": (8 * pooled(size, count)).tolist()}
    for name, error, share in (("psnr_inside", inner, covered), ("psnr_outside", outer, count - covered)):
        if share.any():
            result[name] = psnr(error.sum() / share.sum())
            bootstrap[name] = psnr(pooled(error, share)).tolist()
    for name, found in results.items():
        for task, iou_type in (("box", "bbox"), ("mask", "segm")):
            if task == "mask" and not (name in outlining and dataset.outlined):
                continue
            summary, replicates = average_precision(truth, found, iou_type, samples)
            for key, value in summary.items():
                result.setdefault(f"{task}_{key}", {})[name] = value
            if "ap" in summary:
                bootstrap.setdefault(f"{task}_ap", {})[name] = replicates
        confident = as_truth(truth, clean.get(name, []))
        if confident["annotations"]:
            summary, replicates = average_precision(confident, found, "bbox", samples)
            result.setdefault("agreement", {})[name] = summary["ap"]
            bootstrap.setdefault("agreement", {})[name] = replicates
    for name, counted in tallies.items():
        summary, replicates = panoptic_scores(dataset.panoptic, counted, samples)
        for key in summary:
            result.setdefault(key, {})[name] = summary[key]
            bootstrap.setdefault(key, {})[name] = replicates[key]
    if len(dataset) >= 30:
        result["by_cover"], bootstrap["by_cover"] = {}, {}
        # Ties keep the order of the ids, so that every record of a data set has the same thirds.
        by_share = np.argsort(covered / count, kind="stable")
        for third, members in zip(THIRDS, np.array_split(by_share, len(THIRDS)), strict=True):
            members = np.sort(members)
            ids = [dataset.ids[i] for i in members]
            mine, draws, chosen = dataset.ground_truth(ids), resamplings(ids), set(ids)
            scores = {
                name: average_precision(mine, [d for d in found if d["image_id"] in chosen], "bbox", draws)
                for name, found in results.items()
            }
            bits_drawn, pixels_drawn = (v[members][draws].sum(axis=1) for v in (8 * size, count))
            result["by_cover"][third] = {
                "images": len(ids),
                "object_share": covered[members].sum() / count[members].sum(),
                "bpp": 8 * size[members].sum() / count[members].sum(),
                "box_ap": {name: summary["ap"] for name, (summary, _) in scores.items() if "ap" in summary},
            }
            bootstrap["by_cover"][third] = {
                "bpp": (bits_drawn / pixels_drawn).tolist(),
                "box_ap": {name: replicates for name, (summary, replicates) in scores.items() if "ap" in summary},
            }
    return result, bootstrap


def coded(
    codec: Any, dataset: Sequence[Sample], encode: Callable[[Any, Sample], bytes] | None = None
) -> Iterator[tuple[Sample, bytes, Tensor]]:
    """Every sample with its bytes and the picture decoded from them; the next ones are coded while this one is looked at."""
    samples, sources = tee(dataset[i] for i in range(len(dataset)))
    if encode:
        data = (encode(codec, sample) for sample in sources)
    else:
        data = container.encode_many(codec, (sample.image for sample in sources))
    data, stored = tee(data)
    decoded = container.decode_many(codec, stored)
    return ((sample, done, x_hat.cpu()) for sample, done, x_hat in zip(samples, data, decoded, strict=True))


def as_truth(truth: dict[str, Any], detections: list[dict[str, Any]]) -> dict[str, Any]:
    """A detector's confident detections, of the categories that the truth lists, as COCO ground truth of the same images."""
    listed = {category["id"] for category in truth["categories"]}
    kept = [d for d in detections if d["score"] >= CONFIDENT and d["category_id"] in listed]
    annotations = [
        {
            **{k: d[k] for k in ("image_id", "category_id", "bbox")},
            "id": i,
            "area": d["bbox"][2] * d["bbox"][3],
            "iscrowd": 0,
        }
        for i, d in enumerate(kept, start=1)
    ]
    return {**truth, "annotations": annotations}


@torch.inference_mode()
def likelihood_bits(codec: Any, x: Tensor) -> float | None:
    """The bits that a network's likelihoods promise for one image (3, H, W); None for a codec without likelihoods."""
    if not isinstance(codec, torch.nn.Module):
        return None
    device = next(codec.parameters()).device
    padded = container.pad(x[None].to(device), codec.downsampling_factor)  # (1, 3, H', W')
    return sum(-p.log2().sum().item() for p in codec(padded)["likelihoods"].values())


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

    An object is found where a clean detection of its category has a score of 0.3 or more and an IoU of 0.5 or more with its box.
    Crowd regions are neither.

    Args:
        codec: a network, in eval mode.
        dataset: the evaluation images.
        clean: detectors' :func:`clean_detections` on this data set, by name.

    Returns:
        `result`: images, bpp (by the likelihoods, as all here), and by detector how many objects are found and missed, and the
        bits per pixel inside their masks (bpp_found, bpp_missed) and outside of all (bpp_background), pooled over the images, and
        missed_to_found, the ratio of the first two; `bootstrap`: bpp and missed_to_found, 200 paired replicates each.
    """
    pixels, bits = [], []
    parts: dict[str, list] = {name: [] for name in clean}  # a row an image: bits and pixels found, missed, background
    counts = {name: np.zeros(2, int) for name in clean}
    confident = {name: _by_image(d for d in found if d["score"] >= CONFIDENT) for name, found in clean.items()}
    for i in tqdm(range(len(dataset)), desc="pricing", disable=None if progress else True):
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
    samples = resamplings(dataset.ids)
    result: dict[str, Any] = {"images": len(dataset), "bpp": spent.sum() / count.sum()}
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


@dataclass(frozen=True)
class Curve:
    """Rate against a metric, with bootstrap replicates: `bpp`, `metric` (k,), `bpp_replicates`, `metric_replicates` (r, k)."""

    name: str
    bpp: np.ndarray
    metric: np.ndarray
    bpp_replicates: np.ndarray
    metric_replicates: np.ndarray


@dataclass(frozen=True)
class Interval:
    """A value with its 95 % interval over the replicates, and the share of replicates in which it was defined."""

    value: float
    low: float
    high: float
    defined: float = 1.0

    def __str__(self) -> str:
        told = f"{self.value:+.3g} [{self.low:+.3g}, {self.high:+.3g}]"
        return "no overlap" if np.isnan(self.value) else told


def curve(records: Sequence[dict[str, Any]], metric: str, detector: str | None = None, name: str = "") -> Curve:
    """A method's curve from its records: one point a lmbda, seeds averaged, in each replicate too.

    Raises:
        ValueError: no records, or a record lacks the metric.
    """
    if not records:
        raise ValueError(f"no records for the curve {name or metric}")

    def pick(part: dict[str, Any], key: str) -> Any:
        if key not in part or (detector is not None and key != "bpp" and detector not in part[key]):
            raise ValueError(
                f"a record has no {key}{f' of {detector}' if detector else ''}; it has {', '.join(sorted(part))}"
            )
        return part[key] if key == "bpp" or detector is None else part[key][detector]

    points = []
    for lmbda in sorted({r["recipe"]["lmbda"] for r in records}):
        same = [r for r in records if r["recipe"]["lmbda"] == lmbda]
        points.append(
            [
                np.mean([pick(r[part], key) for r in same], axis=0)
                for part in ("result", "bootstrap")
                for key in ("bpp", metric)
            ]
        )
    points.sort(key=lambda p: p[0])
    bpp, value, bpp_replicates, value_replicates = (np.stack(v, axis=-1) for v in zip(*points, strict=True))
    return Curve(name or metric, bpp, value, bpp_replicates, value_replicates)


def bd_rate(anchor: Curve, test: Curve) -> Interval:
    r"""Bjontegaard delta rate of `test` against `anchor`, in percent: negative where it needs fewer bits for the same metric.

    By the `bjontegaard` package with PCHIP interpolation. Where a curve is not increasing (AP is noisy), only the points that rise
    above all points of lower rate count. Undefined, NaN, where curves do not overlap in the metric.
    """
    return _bd(anchor, test, _bd_rate)


def bd_metric(anchor: Curve, test: Curve) -> Interval:
    """Mean difference of the metric at equal rate, over the logarithm of the rates that both curves cover."""
    return _bd(anchor, test, _bd_metric)


def bd_rate_gap(first: tuple[Curve, Curve], second: tuple[Curve, Curve]) -> Interval:
    """BD-rate of one (anchor, test) pair minus that of another, in percentage points.

    The pairs are measured on different images, or on the same ones by different detectors: replicate i of one goes with that of
    the other.
    """
    one, other = (_bd_values(*pair, _bd_rate) for pair in (first, second))
    return _interval(one[0] - other[0], one[1] - other[1])


def bd_metric_majority(pairs: Sequence[tuple[Curve, Curve]], draws: np.ndarray) -> Interval:
    """The share of (anchor, test) pairs, one a video, whose :func:`bd_metric` is above zero, minus one half.

    Args:
        draws: indices (replicates, pairs): replicate i takes these videos, each with its own replicate i.
    """
    values, replicates = zip(*(_bd_values(*pair, _bd_metric) for pair in pairs), strict=True)
    halves = np.sign(np.stack(replicates)) / 2  # (pairs, replicates); a tie counts half, an undefined one makes all so
    drawn = np.take_along_axis(halves.T, draws, axis=1).mean(1)
    return _interval(float(np.mean(np.sign(values) / 2)), drawn)


def rate_change(anchor: Curve, test: Curve) -> Interval:
    """How much more bits `test` takes than `anchor`, in percent: point by point, in rising order, the geometric mean over them.

    Raises:
        ValueError: the curves have different numbers of points.
    """
    if len(anchor.bpp) != len(test.bpp):
        raise ValueError(
            f"{anchor.name} has {len(anchor.bpp)} points, {test.name} {len(test.bpp)}: measure both at the same lambdas"
        )
    value, values = (
        100 * np.expm1(np.log(b / a).mean(-1))
        for a, b in ((anchor.bpp, test.bpp), (anchor.bpp_replicates, test.bpp_replicates))
    )
    return _interval(value, values)


def _bd(anchor: Curve, test: Curve, measure: Any) -> Interval:
    return _interval(*_bd_values(anchor, test, measure))


def _bd_values(anchor: Curve, test: Curve, measure: Any) -> tuple[float, np.ndarray]:
    """The measure itself, and in each bootstrap replicate."""
    replicates = zip(
        anchor.bpp_replicates, anchor.metric_replicates, test.bpp_replicates, test.metric_replicates, strict=True
    )
    value = measure(anchor.bpp, anchor.metric, test.bpp, test.metric)
    return value, np.array([measure(*replicate) for replicate in replicates])


def _interval(value: float, values: np.ndarray) -> Interval:
    finite = values[np.isfinite(values)]
    if not np.isfinite(value) or len(finite) == 0:
        return Interval(float("nan"), float("nan"), float("nan"), len(finite) / max(1, len(values)))
    low, high = np.percentile(finite, [2.5, 97.5])
    return Interval(float(value), float(low), float(high), len(finite) / len(values))


def _bd_rate(rate_a: np.ndarray, metric_a: np.ndarray, rate_b: np.ndarray, metric_b: np.ndarray) -> float:
    (rate_a, metric_a), (rate_b, metric_b) = _rising(rate_a, metric_a), _rising(rate_b, metric_b)
    if len(rate_a) < 2 or len(rate_b) < 2 or max(metric_a[0], metric_b[0]) >= min(metric_a[-1], metric_b[-1]):
        return float("nan")
    return float(
        bjontegaard.bd_rate(rate_a, metric_a, rate_b, metric_b, "pchip", require_matching_points=False, min_overlap=0)
    )


def _bd_metric(rate_a: np.ndarray, metric_a: np.ndarray, rate_b: np.ndarray, metric_b: np.ndarray) -> float:
    if not (np.isfinite(metric_a).all() and np.isfinite(metric_b).all()):
        return float("nan")  # a ratio to objects of which there are none
    if max(rate_a.min(), rate_b.min()) >= min(rate_a.max(), rate_b.max()):
        return float("nan")
    orders = np.argsort(rate_a), np.argsort(rate_b)
    curves = (rate_a[orders[0]], metric_a[orders[0]], rate_b[orders[1]], metric_b[orders[1]])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return float(bjontegaard.bd_psnr(*curves, "pchip", require_matching_points=False, min_overlap=0))


def _rising(rate: np.ndarray, metric: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    order = np.argsort(rate)
    rate, metric = rate[order], metric[order]
    keep = np.r_[True, metric[1:] > np.maximum.accumulate(metric)[:-1]]
    return rate[keep], metric[keep]


def psnr(mse: Any) -> Any:
    """Peak signal-to-noise ratio [dB] of mean squared errors on [0, 1], a number or an array."""
    psnr = -10 * np.log10(np.maximum(mse, 1e-12))  # 120 dB where nothing is lost: JSON knows no infinity
    return psnr if np.ndim(mse) else float(psnr)


def _silent(*_: Any) -> None:
    """faster-coco-eval logs through this."""
