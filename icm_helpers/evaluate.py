"""Measure a codec as its user would: real bytes, decoded pictures, what a detector still finds, and how sure that is."""

from __future__ import annotations

import json
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from faster_coco_eval import COCO, COCOeval_faster
from faster_coco_eval.core import mask as rle
from torch import Tensor
from tqdm import tqdm

from icm_helpers import panoptic, semantic
from icm_helpers.codecs import container
from icm_helpers.data import DataError
from icm_helpers.data.coco import CocoDataset, PanopticTruth, Sample, require_categories

REPLICATES = 200
CONFIDENT = 0.3  # a clean detection of at least this score counts as what the detector saw
THIRDS = ("low", "middle", "high")  # of the images, by how much of them objects cover


class Detector(Protocol):
    """What a recognition model offers: its categories, and what it finds in images (3, H, W) in [0, 1].

    One that names every pixel also has `panoptic(images)`, which gives a list of :class:`icm_helpers.panoptic.Panoptic`, whose
    `detections` are what `detect` finds; or, in place of `detect`, `semantic(images)`, which gives maps of its `classes`.
    """

    categories: dict[int, str]

    def detect(self, images: list[Tensor]) -> list[dict[str, Tensor]]:
        """For each image `boxes` (n, 4) xyxy in pixels, `scores`, `labels` (category ids), perhaps `masks` (n, H, W)."""
        ...


def coco_results(image_id: int | str, found: dict[str, Tensor]) -> list[dict[str, Any]]:
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


def resamplings(ids: Sequence[int] | Sequence[str], replicates: int = REPLICATES) -> np.ndarray:
    """Bootstrap resamplings of a data set's images: indices (replicates, n), decided by the image ids alone.

    Every record of a data set uses the same ones, so the difference of any two records has a *paired* interval.
    """
    try:
        told = np.asarray(ids, dtype=np.int64).tobytes()
    except (ValueError, OverflowError):  # text, or numbers of more bits
        told = json.dumps(list(ids)).encode()
    return np.random.default_rng(zlib.crc32(told)).integers(0, len(ids), (replicates, len(ids)))


def average_precision(
    truth: dict[str, Any],
    results: list[dict[str, Any]],
    iou_type: str = "bbox",
    samples: Sequence[np.ndarray] | np.ndarray | None = None,
    iou: float | None = None,
) -> tuple[dict[str, float], list[float]]:
    """COCO average precision of COCO results, which may be empty, and its bootstrap replicates.

    `iou_type` is bbox or segm; `samples` are indices (replicates, n) into the truth's images, None for no replicates; with `iou`
    these are of the AP at that one threshold.

    Returns:
        A dictionary of `ap` (IoU .50 to .95), `ap50`, `ap75`, `ap_small`, `ap_medium`, `ap_large`, each absent where there is no
        such object, and the AP of each replicate. The matching of detections to objects is done once; a replicate only accumulates
        it again.
    """
    # Evaluators compare ids as numbers of 53 bits, so images are numbered anew. All entries are copies: `loadRes` writes into the
    # detections, and would give each box a mask of its own shape.
    numbers = {image["id"]: n for n, image in enumerate(truth["images"], start=1)}
    images = [{**image, "id": numbers[image["id"]]} for image in truth["images"]]
    objects, results = (
        [{**item, "image_id": numbers[item["image_id"]]} for item in items] for items in (truth["annotations"], results)
    )
    coco = COCO({**truth, "images": images, "annotations": objects})
    names = ("ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large")
    if not results:
        asked = any(not item.get("iscrowd") for item in truth["annotations"])
        return dict.fromkeys(names[:3], 0.0) if asked else {}, [0.0] * (0 if samples is None else len(samples))
    found = coco.loadRes(results)
    full = COCOeval_faster(coco, found, iou_type, print_function=lambda *_: None)
    full.evaluate()
    full.accumulate()
    full.summarize()
    summary = {name: float(value) for name, value in zip(names, full.stats[:6], strict=True) if value >= 0}
    if samples is None:
        return summary, []
    once = COCOeval_faster(coco, found, iou_type, print_function=lambda *_: None, separate_eval=True)
    once.params.areaRng, once.params.areaRngLbl, once.params.maxDets = [[0, 1e10]], ["all"], [100]
    once.params.iouThrs = once.params.iouThrs if iou is None else np.array([iou])
    once.params.catIds = sorted({item["category_id"] for item in objects})  # the others have no AP
    once.evaluate()
    matches, images, categories = once._evalImgs_cpp, len(once.params.imgIds), len(once.params.catIds)  # category-major
    known: dict[bytes, float] = {}  # of four pictures there are 35 different samples
    keys = [np.sort(sample).tobytes() for sample in samples]
    for key, sample in zip(keys, samples, strict=True):
        if key in known:
            continue
        once._evalImgs_cpp = [matches[c * images + i] for c in range(categories) for i in sample]
        once._paramsEval.imgIds = list(range(len(sample)))
        once.accumulate()
        precision = np.asarray(once.eval["precision"])
        known[key] = float(precision[precision > -1].mean()) if (precision > -1).any() else 0.0
    return summary, [known[key] for key in keys]


def panoptic_tally(truth: PanopticTruth, image_id: int | str, guess: panoptic.Panoptic) -> np.ndarray:
    """An image's :func:`icm_helpers.panoptic.tally` over the data set's categories in rising order, (C, 4); DataError where the
    true map has another size."""
    real = truth[image_id]
    if real.ids.shape != guess.ids.shape:
        told = f"the map of image {image_id!r} in {truth.maps} has size {real.ids.shape}, the image {guess.ids.shape}"
        raise DataError(f"{told}: fetch the maps again")
    return panoptic.tally(real, guess, sorted(truth.categories))


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
    divided: list[dict[str, Any]] | None = None,
    progress: bool = True,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Code every image to real bytes, decode them, run the detectors, and bootstrap over images.

    Args:
        codec: anything :func:`icm_helpers.codecs.container.encode` takes.
        detectors, clean: by name, and their :func:`clean_detections` on these images; a detector without them gets no agreement.
        encode: (codec, sample) -> bytes, if coding needs more than codec and image (such as refined latents).
        divided: clean detections of one detector, which divide the objects into those that it finds and those that it misses.

    Returns:
        Two dictionaries, result and bootstrap. The first has images, object_share (of all pixels), bpp (all bytes),
        bpp_likelihood (where the codec's own encoder has likelihoods), psnr, psnr_inside, psnr_outside (over the pooled pixels
        inside and outside object masks, if any; at most 120 dB), per_image bytes and pixels, and by detector box_ap, box_ap50,
        box_ap_small, ..., mask_ap (where both it and the data set have outlines), agreement (box AP against its own clean
        detections of score 0.3 or more, where it has any); where `divided`, found_ap and missed_ap, box AP as if only the objects
        of either kind counted; miou of detectors with `semantic`; of those with `panoptic`, where the data set has panoptic maps,
        pq, sq, rq, pq_things, pq_stuff. Of 30 images or more it has by_cover, with object_share, bpp and box_ap in each third of
        the images, from those of which objects cover least to those of which they cover most. Where pictures lack
        outlines, all that asks for them is measured on the others, if any, whose rate is bpp_outlined, and AP by size, which is
        that of outlines, is left out.

        The second has bpp, psnr, psnr_inside, psnr_outside, and box_ap, mask_ap, agreement, found_ap, missed_ap, miou, pq, sq, rq,
        pq_things, pq_stuff by detector, 200 paired replicates each, and by_cover with bpp and box_ap likewise, each third
        resampled by itself.

    A DataError says which annotated category a detector does not know.
    """
    for name, detector in detectors.items():
        require_categories(dataset, detector.categories, name)
    rows, bits = [], []
    results: dict[str, list] = {n: [] for n, d in detectors.items() if hasattr(d, "detect") or hasattr(d, "panoptic")}
    outlining: set[str] = set()
    tallies: dict[str, list] = {n: [] for n, d in detectors.items() if dataset.panoptic and hasattr(d, "panoptic")}
    maps: dict[str, list] = {name: [] for name, detector in detectors.items() if hasattr(detector, "classes")}
    outlined = np.array(["outlines" not in dataset.lacks(i) for i in dataset.ids])  # (n,)
    pictures = coded(codec, dataset, encode, bits)
    hidden = None if progress else True
    for k, (sample, data, x_hat) in enumerate(tqdm(pictures, "coding and detecting", len(dataset), disable=hidden)):
        x, mask = sample.image, sample.object_mask
        if encode is None and bits[k] is None:  # the coder could not say, as with CompressAI's variable rates
            bits[k] = likelihood_bits(codec, x)
        error = (x - x_hat).square().mean(dim=0, keepdim=True)
        sums = (part.sum().item() for part in (error * mask, error * (1 - mask), mask))
        rows.append([len(data), x[0].numel(), *sums])
        for name in maps if outlined[k] else ():
            classes, (guess,) = detectors[name].classes, detectors[name].semantic([x_hat])
            real = semantic.truth(sample, classes)
            maps[name].append(semantic.tally(real, guess, max(classes.values()) + 1))
        for name, detector in ((name, detectors[name]) for name in results):
            if name in tallies:  # one pass serves both
                (guess,) = detector.panoptic([x_hat])
                tallies[name].append(panoptic_tally(dataset.panoptic, sample.image_id, guess))
                found = guess.detections()
            else:
                (found,) = detector.detect([x_hat])
            results[name] += coco_results(sample.image_id, found)
            outlining |= {name} if "masks" in found else set()
    size, count, inner, outer, covered = np.array(rows, np.float64).T.copy()
    lost, seen = inner + outer, count * outlined
    inner, outer, covered = inner * outlined, outer * outlined, covered * outlined
    truth = dataset.ground_truth()
    samples = resamplings(dataset.ids)
    told = {"id": list(dataset.ids), "bytes": [row[0] for row in rows], "pixels": [row[1] for row in rows]}
    result: dict[str, Any] = {"images": len(dataset), "bpp": 8 * size.sum() / count.sum()}
    result |= {"object_share": covered.sum() / seen.sum()} if outlined.any() else {}
    result["per_image"] = told
    if bits and None not in bits:
        result["bpp_likelihood"] = float(np.sum(bits) / count.sum())
    bootstrap: dict[str, Any] = {"bpp": (8 * _pooled(size, count, samples)).tolist()}
    some = [np.cumsum(outlined)[s[outlined[s]]] - 1 for s in samples]  # the same draws, of the outlined pictures alone
    if outlined.any() and not outlined.all():
        result["bpp_outlined"] = 8 * (size * outlined).sum() / seen.sum()
        bootstrap["bpp_outlined"] = (8 * _pooled(size * outlined, seen, samples)).tolist()
    parts = ("psnr", lost, count), ("psnr_inside", inner, covered), ("psnr_outside", outer, seen - covered)
    for name, error, share in parts:
        if share.any():
            result[name] = psnr(error.sum() / share.sum())
            bootstrap[name] = psnr(_pooled(error, share, samples)).tolist()

    def put(name: str, summary: dict[str, float], replicates: dict[str, list[float]]) -> None:
        for key, value in summary.items():
            result.setdefault(key, {})[name] = value
            if key in replicates:
                bootstrap.setdefault(key, {})[name] = replicates[key]

    whole = [i for i, known in zip(dataset.ids, outlined, strict=True) if known]
    for name, found in results.items():
        summary, replicates = average_precision(truth, found, "bbox", samples)
        sized = summary if outlined.all() else {k: v for k, v in summary.items() if k in ("ap", "ap50", "ap75")}
        put(name, {f"box_{key}": value for key, value in sized.items()}, {"box_ap": replicates})
        if name in outlining and (dataset.outlined or not outlined.all()):
            chosen = set(whole)
            shown = [d for d in found if d["image_id"] in chosen]
            summary, replicates = average_precision(dataset.ground_truth(whole), shown, "segm", some)
            put(name, {f"mask_{key}": value for key, value in summary.items()}, {"mask_ap": replicates})
        confident = as_truth(truth, clean.get(name, []))
        if confident["annotations"]:
            summary, replicates = average_precision(confident, found, "bbox", samples)
            put(name, {"agreement": summary["ap"]}, {"agreement": replicates})
    for key, part in zip(("found_ap", "missed_ap"), division(truth, divided) if divided else (), strict=False):
        for name, mine in results.items():
            summary, replicates = average_precision(part, mine, "bbox", samples)
            if "ap" in summary:
                put(name, {key: summary["ap"]}, {key: replicates})
    for name, counted in tallies.items():
        put(name, *panoptic_scores(dataset.panoptic, counted, samples))
    for name, counted in maps.items() if outlined.any() else ():
        value, replicates = semantic.mean_iou(counted, some)
        put(name, {"miou": value}, {"miou": replicates})
    if len(whole) >= 30:
        known = (v[outlined] for v in (size, count, covered))
        result["by_cover"], bootstrap["by_cover"] = _by_cover(dataset, whole, *known, results)
    return result, bootstrap


def _pooled(numerator: np.ndarray, denominator: np.ndarray, samples: np.ndarray) -> np.ndarray:
    return numerator[samples].sum(axis=1) / denominator[samples].sum(axis=1)


def _by_cover(
    dataset: CocoDataset,
    pictures: Sequence[Any],
    size: np.ndarray,
    count: np.ndarray,
    covered: np.ndarray,
    results: dict[str, list],
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Bytes `size` (n,), pixels `count` and `covered` of objects, and detections, in each third of the `pictures`, by id."""
    result, bootstrap = {}, {}
    by_share = np.argsort(covered / count, kind="stable")  # ties keep the order of the ids, in every record the same
    for third, members in zip(THIRDS, np.array_split(by_share, len(THIRDS)), strict=True):
        members = np.sort(members)
        ids = [pictures[i] for i in members]
        mine, draws, chosen = dataset.ground_truth(ids), resamplings(ids), set(ids)
        scores = {}
        for name, found in results.items():
            summary, replicates = average_precision(mine, [d for d in found if d["image_id"] in chosen], "bbox", draws)
            if "ap" in summary:
                scores[name] = summary["ap"], replicates
        spent, pixels = 8 * size[members], count[members]
        result[third] = {"images": len(ids), "object_share": covered[members].sum() / pixels.sum()}
        result[third] |= {"bpp": spent.sum() / pixels.sum(), "box_ap": {name: ap for name, (ap, _) in scores.items()}}
        drawn = {name: replicates for name, (_, replicates) in scores.items()}
        bootstrap[third] = {"bpp": _pooled(spent, pixels, draws).tolist(), "box_ap": drawn}
    return result, bootstrap


def coded(
    codec: Any,
    dataset: Sequence[Sample],
    encode: Callable[[Any, Sample], bytes] | None = None,
    bits: list[float | None] | None = None,
) -> Iterator[tuple[Sample, bytes, Tensor]]:
    """Every sample with its bytes and the picture decoded from them; the next ones are coded while this one is looked at. `bits` as
    in :func:`icm_helpers.codecs.container.encode_many`: bytes that `encode` makes may have other latents than likelihoods know."""
    samples, stored = deque(), deque()  # those that are on their way; `itertools.tee` would keep a hundred

    def sources() -> Iterator[Sample]:
        for i in range(len(dataset)):
            samples.append(dataset[i])
            yield samples[-1]

    def kept(data: Iterable[bytes]) -> Iterator[bytes]:
        for one in data:
            stored.append(one)
            yield one

    if encode:
        data = (encode(codec, sample) for sample in sources())
    else:
        data = container.encode_many(codec, (sample.image for sample in sources()), bits=bits)
    # For who looks at them meanwhile: of two threads on one processor, each waits for the other.
    threads = torch.get_num_threads()
    torch.set_num_threads(max(1, threads - container.WORKERS))
    try:
        for x_hat in container.decode_many(codec, kept(data)):
            yield samples.popleft(), stored.popleft(), x_hat.cpu()
    finally:
        torch.set_num_threads(threads)


def division(truth: dict[str, Any], detections: list[dict[str, Any]]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The ground truth as if only those objects counted that a detector finds, and as if only the others did, which are left to be
    found or not, as crowds are. Found is what a confident detection of its category overlaps by an IoU of 0.5 or more."""
    seen: dict[tuple, list] = {}
    for d in as_truth(truth, detections)["annotations"]:
        seen.setdefault((d["image_id"], d["category_id"]), []).append(d["bbox"])
    parts: tuple[list, list] = ([], [])
    for item in truth["annotations"]:
        boxes = np.array(seen.get((item["image_id"], item["category_id"]), []), float).reshape(-1, 4)
        found = bool(len(boxes)) and bool((rle.iou(np.array([item["bbox"]]), boxes, [0] * len(boxes)) >= 0.5).any())
        for part, mine in zip(parts, (found, not found), strict=True):
            part.append(item if mine or item.get("iscrowd") else {**item, "iscrowd": 1})
    return tuple({**truth, "annotations": part} for part in parts)


def as_truth(truth: dict[str, Any], detections: list[dict[str, Any]]) -> dict[str, Any]:
    """A detector's confident detections, of the categories that the truth lists, as COCO ground truth of the same images."""
    listed = {category["id"] for category in truth["categories"]}
    kept = [d for d in detections if d["score"] >= CONFIDENT and d["category_id"] in listed]
    copied = ("image_id", "category_id", "bbox")
    boxes = ({k: d[k] for k in copied} | {"area": d["bbox"][2] * d["bbox"][3], "iscrowd": 0} for d in kept)
    return {**truth, "annotations": [{"id": i, **box} for i, box in enumerate(boxes, start=1)]}


@torch.inference_mode()
def likelihood_bits(codec: Any, x: Tensor) -> float | None:
    """The bits that a network's likelihoods promise for one image (3, H, W); None for a codec without likelihoods."""
    if not isinstance(codec, torch.nn.Module):
        return None
    device = next(codec.parameters()).device
    padded = container.pad(x[None].to(device), codec.downsampling_factor)  # (1, 3, H', W')
    codec.g_s.forward = lambda _: padded  # no picture is asked for: half of the time is saved
    try:
        return sum(-p.log2().sum().item() for p in codec(padded)["likelihoods"].values())
    finally:
        del codec.g_s.forward


def psnr(mse: Any) -> Any:
    """Peak signal-to-noise ratio [dB] of mean squared errors on [0, 1], a number or an array."""
    psnr = -10 * np.log10(np.maximum(mse, 1e-12))  # 120 dB where nothing is lost: JSON has no infinity
    return psnr if np.ndim(mse) else float(psnr)
