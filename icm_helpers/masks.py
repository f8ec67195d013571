r"""Masks of pictures on disk, and the edges that SA-ICM is trained on, :math:`\mathrm{sam}_x(\alpha)`.

Shindo et al. (ICIP 2024), section 3.1: "This mask image is obtained by inputting the segmentation map created from SAM into the
Canny edge detector", with the masks whose confidence exceeds :math:`\alpha`. What the paper leaves open is decided here: the
confidence is Segment Anything's predicted IoU; masks are painted over each other, the largest first, so that small ones stay
visible; segments that touch get greys far apart, so that Canny loses no border; and edges are one pixel wide.

One automatic pass at the lowest alpha is stored, and any higher alpha is a filter:

    icm masks make --data scenes --split train
    icm masks info data/cache/masks-scenes-train-192-nano
"""

from __future__ import annotations

import gzip
import json
import os
import sys
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import quote

import cv2
import numpy as np
import torch
from faster_coco_eval.core import mask as rle
from torch import Tensor
from tqdm import tqdm

from icm_helpers import files
from icm_helpers.data import DataError, coco, datasets

ORDERS = ("largest-first", "smallest-first", "surest-last")
LEAST = 0.48
"""The papers' lowest alpha, from which masks are stored."""
_GREYS = np.linspace(0, 255, 8)
_SUFFIX = ".json.gz"
_SCORES = ("predicted_iou", "stability_score")


# --- the masks of one picture --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class MaskSet:
    """Every mask of a picture, as COCO's compressed run lengths, with what the model thinks of it.

    >>> square = {"rle": {"size": [2, 2], "counts": "04"}, "predicted_iou": 0.9, "stability_score": 1.0}
    >>> found = MaskSet.of(torch.rand(3, 2, 2), [square])
    >>> len(found), len(found.above(0.8)), len(found.above(0.9))
    (1, 1, 0)
    """

    size: tuple[int, int]  # height and width of the picture
    counts: tuple[str, ...]  # n
    predicted_iou: np.ndarray  # (n,) float32
    stability_score: np.ndarray  # (n,) float32

    @classmethod
    def of(cls, image: Tensor, found: Sequence[Mapping[str, Any]]) -> MaskSet:
        """From a picture (3, H, W) and what was found in it: for each mask `rle`, `predicted_iou` and `stability_score`.

        Raises:
            ValueError: a mask has another size than the picture.
        """
        size = tuple(image.shape[1:])
        if wrong := [f["rle"]["size"] for f in found if tuple(f["rle"]["size"]) != size]:
            raise ValueError(f"a mask of size {wrong[0]} in a picture of size {list(size)}")
        scores = ([f[name] for f in found] for name in _SCORES)
        return cls(size, tuple(f["rle"]["counts"] for f in found), *(np.array(s, np.float32) for s in scores))

    def __len__(self) -> int:
        return len(self.counts)

    def above(self, alpha: float) -> MaskSet:
        """The masks whose predicted IoU is greater than alpha, compared in single precision, as Segment Anything does."""
        keep = np.flatnonzero(self.predicted_iou > np.float32(alpha))
        scores = self.predicted_iou[keep], self.stability_score[keep]
        return MaskSet(self.size, tuple(self.counts[i] for i in keep), *scores)

    def rles(self) -> list[dict[str, Any]]:
        """The masks as COCO's tools take them."""
        return [{"size": list(self.size), "counts": counts} for counts in self.counts]

    def decode(self) -> np.ndarray:
        """The masks, (n, H, W) bool."""
        if not self.counts:
            return np.zeros((0, *self.size), bool)
        return rle.decode(self.rles()).astype(bool).transpose(2, 0, 1)


def ious(found: MaskSet, truth: Tensor) -> np.ndarray:
    """IoU of each found mask with each true one, (n, k), of truth (k, H, W); its `max(0, initial=0)` is each true mask's best."""
    if not len(found) or not len(truth):
        return np.zeros((len(found), len(truth)))
    true = rle.encode(np.asfortranarray(truth.permute(1, 2, 0).numpy(), np.uint8))
    return np.asarray(rle.iou(found.rles(), true, [0] * len(true)))


def largest_first(shapes: Tensor) -> Tensor:
    """Masks (n, H, W) in falling order of their areas."""
    return shapes[shapes.sum(dim=(1, 2)).argsort(descending=True, stable=True)]


def painted(shapes: Tensor) -> np.ndarray:
    """Masks (n, H, W) painted over each other: labels (H, W) from 1 in their order, 0 where none is."""
    return (np.arange(1, len(shapes) + 1)[:, None, None] * shapes.numpy()).max(0, initial=0)


def segmentation_map(found: MaskSet, order: str = "largest-first") -> np.ndarray:
    """Masks painted over each other: labels (H, W) int32, 0 where no mask is, the first painted 1.

    `order` is `largest-first`, so that a small mask stays visible on a large one; `smallest-first`; or, by predicted IoU,
    `surest-last`.

    Raises:
        ValueError: unknown order.
    """
    if order not in ORDERS:
        raise ValueError(f"no drawing order is called {order!r}; known: {', '.join(ORDERS)}")
    labels = np.zeros(found.size, np.int32)
    if not len(found):
        return labels
    rles = found.rles()
    areas = rle.area(rles).astype(np.int64)
    key = {"largest-first": -areas, "smallest-first": areas, "surest-last": found.predicted_iou}[order]
    boxes = rle.toBbox(rles).astype(int)
    # One at a time: a thousand masks of a large picture are gigabytes.
    for label, i in enumerate(np.argsort(key, kind="stable"), start=1):
        left, top, width, height = boxes[i]
        box = slice(top, top + height), slice(left, left + width)
        labels[box][rle.decode(rles[i])[box] > 0] = label
    return labels


def edges(labels: np.ndarray, low: float = 50, high: float = 100, dilate: int = 0) -> np.ndarray:
    """Canny's edges of a segmentation map (H, W) of whole numbers from 0, (H, W) bool, widened by `dilate` pixels on each side.

    Segments get one of eight greys, the largest segment first, each as far as can be from those of the segments that it touches.
    The smallest step, 36, has a gradient of 144 or more in Canny's measure, above both default thresholds of hysteresis.

    >>> halves = np.repeat([[1, 2]], 4, axis=1).repeat(8, axis=0)  # (8, 8)
    >>> edges(halves).any(0)
    array([False, False, False,  True, False, False, False, False])
    """
    found = cv2.Canny(_greys(labels), low, high)
    if dilate:
        found = cv2.dilate(found, np.ones((2 * dilate + 1,) * 2, np.uint8))
    return found > 0


def _greys(labels: np.ndarray) -> np.ndarray:
    """Greys (H, W) uint8 by greedy colouring of the graph of touching segments."""
    n = int(labels.max()) + 1
    touching = np.zeros((n, n), bool)
    for here, there in ((labels[1:], labels[:-1]), (labels[:, 1:], labels[:, :-1])):
        differ = here != there
        touching[here[differ], there[differ]] = True
    touching |= touching.T
    greys = np.full(n, np.nan)
    for i in np.argsort(-np.bincount(labels.ravel(), minlength=n), kind="stable"):
        near = greys[touching[i]]
        away = np.abs(_GREYS[:, None] - near[~np.isnan(near)]).min(1, initial=255)
        greys[i] = _GREYS[away.argmax()]
    return np.rint(greys).astype(np.uint8)[labels]


def sam_edges(
    found: MaskSet,
    alpha: float,
    *,
    order: str = "largest-first",
    low: float = 50,
    high: float = 100,
    dilate: int = 0,
    shift: int = 0,
) -> Tensor:
    r""":math:`\mathrm{sam}_x(\alpha)`: the edges of the masks above alpha, (1, H, W) float32 in {0, 1}, for `losses.masked_mse`.

    `shift` moves them so many pixels to the right, and lets in on the left what leaves: a mask as thin, beside the edges. Other
    arguments as in :func:`segmentation_map` and :func:`edges`.
    """
    drawn = edges(segmentation_map(found.above(alpha), order), low, high, dilate)
    return torch.from_numpy(drawn)[None].float().roll(shift, dims=-1)


def stored_edges(folder: Path | str, image_id: int | str, alpha: float, *, shift: int = 0, **how: Any) -> Tensor:
    """:func:`sam_edges` of the masks that :func:`read` gives; drawn once, then kept beside them as gzipped PBM of about 1 kB, since
    a training cuts a picture many times, and drawing takes longer than all the rest of it.

    Raises:
        DataError: there are no masks, or their file is damaged.
        OSError: the disk is full, or may not be written to.
    """
    kept = Path(folder) / "-".join(["edges", f"{alpha:g}", *(f"{value}" for value in how.values())])
    path, drawn = kept / file(folder, image_id).name.replace(_SUFFIX, ".pbm.gz"), None
    with suppress(FileNotFoundError, EOFError, zlib.error, gzip.BadGzipFile, cv2.error):  # not drawn yet, or damaged
        drawn = cv2.imdecode(np.frombuffer(gzip.decompress(path.read_bytes()), np.uint8), cv2.IMREAD_GRAYSCALE)
    if drawn is None:
        drawn = sam_edges(read(folder, image_id), alpha, **how)[0].byte().mul(255).numpy()
        with files.atomically(path, hint="start again: what is stored is kept") as temporary:
            temporary.write_bytes(gzip.compress(cv2.imencode(".pbm", drawn)[1].tobytes(), mtime=0))
    edge = torch.from_numpy(drawn)[None].ne(0).float()
    return edge.roll(shift, dims=-1) if shift else edge


# --- the masks of many pictures, on disk ---------------------------------------------------------------------------------


def file(folder: Path | str, image_id: int | str) -> Path:
    """Where the masks of a picture lie: gzipped JSON, which any program reads, with a checksum."""
    name = f"{image_id:012d}" if isinstance(image_id, int) else quote(image_id, safe="")
    return Path(folder) / f"{name}{_SUFFIX}"


def write(folder: Path | str, image_id: int | str, found: MaskSet) -> Path:
    """Store the masks of a picture: the file appears at once when complete.

    Raises:
        OSError: the disk is full, or may not be written to.
    """
    content = {"size": list(found.size), "counts": list(found.counts)}
    for name in _SCORES:  # the shortest decimals that give the same single-precision number
        content[name] = [float(str(v)) for v in getattr(found, name)]
    path = file(folder, image_id)
    packed = gzip.compress(json.dumps(content, separators=(",", ":")).encode(), compresslevel=9, mtime=0)
    with files.atomically(path, hint="start again: what is stored is kept") as temporary:
        temporary.write_bytes(packed)
    return path


def read(folder: Path | str, image_id: int | str) -> MaskSet:
    """The masks of a picture.

    Raises:
        DataError: there are none, or their file is damaged.
    """
    return _read(file(folder, image_id))


def _read(path: Path) -> MaskSet:
    try:
        content = json.loads(gzip.decompress(path.read_bytes()))
        scores = [np.array(content[name], np.float32) for name in _SCORES]
        found = MaskSet(tuple(content["size"]), tuple(content["counts"]), *scores)
        if not len(found.size) == 2 or any(len(score) != len(found) for score in scores):
            raise ValueError("its columns differ in length")
        return found
    except FileNotFoundError:
        raise DataError(f"no masks at {path}: make them with `icm masks make`") from None
    except (OSError, EOFError, zlib.error, ValueError, KeyError, TypeError) as error:
        told = f"{path} is damaged ({type(error).__name__}: {error})"
        raise DataError(f"{told}: delete it and make the masks again, which makes those that are missing") from error


def make(
    folder: Path | str,
    dataset: coco.CocoDataset,
    segment: Callable[[Tensor], Sequence[Mapping[str, Any]]],
    recipe: Mapping[str, Any],
    *,
    part: tuple[int, int] = (1, 1),
    progress: bool = True,
) -> int:
    """Store the masks of all pictures of a data set that the folder lacks, and give the number of pictures that were segmented.

    It may be stopped at any moment, and go on later; several processes may work on one folder, best each on its own part.

    Args:
        dataset: its `ids` name the files.
        segment: image (3, H, W) in [0, 1] -> the masks, as :meth:`MaskSet.of` takes them.
        recipe: everything that decides the masks, for JSON.
        part: (k, n) for the k-th of n shares.

    Raises:
        DataError: the folder holds masks of another recipe.
        OSError: the disk is full, or may not be written to; what was stored is kept.
    """
    folder, (k, n) = Path(folder), part
    _settle(folder, dict(recipe))
    share = range(k - 1, len(dataset), n)
    present = set(os.listdir(folder))  # one listing instead of 118 000 questions
    todo = [i for i in share if file(folder, dataset.ids[i]).name not in present]
    done, there = 0, len(share) - len(todo)
    quiet = 1.0 if sys.stderr.isatty() else 30.0  # in a log file a line every half a minute is enough
    for i in tqdm(todo, "masks", total=len(share), initial=there, disable=not progress, mininterval=quiet):
        if not file(folder, dataset.ids[i]).exists():  # else another process was quicker
            image = dataset[i].image
            write(folder, dataset.ids[i], MaskSet.of(image, segment(image)))
            done += 1
    return done


def automatic(
    model: str = "nano",
    weights: Path | None = None,
    *,
    bf16: bool = False,
    alpha: float = LEAST,
    points: int | None = None,
    stability: float | None = None,
    points_per_batch: int | None = None,
    device: str = "auto",
) -> tuple[Callable[[Tensor], Sequence[Mapping[str, Any]]], dict[str, Any]]:
    """Segment Anything's automatic pass, and everything that decides its masks: what :func:`make` asks for.

    Args:
        model, weights, bf16: as in `tasks.sam.load`; the model is loaded when the first picture comes.
        alpha: lowest predicted IoU that is stored: a higher one is a filter.
        points, stability: a side, and least stability score; where None `tasks.sam.POINTS` and `STABILITY`.
        points_per_batch: as in `tasks.sam.every_mask`.

    Raises:
        FileNotFoundError, ImportError: the weights, or the package segment_anything, are missing.
    """
    from icm_helpers import train
    from icm_helpers.tasks import sam

    weights = sam.present(model, weights)
    passed = {
        "pred_iou_thresh": alpha,
        "points_per_side": sam.POINTS[model] if points is None else points,
        "stability_score_thresh": sam.STABILITY[model] if stability is None else stability,
    }

    @cache
    def loaded() -> torch.nn.Module:  # a folder that is complete asks for no model
        train.keep_freed_memory()  # a fifth of the time of nano SAM's pass on a CPU
        return sam.load(model, weights, bf16=bf16).to(train.fabric(device).device)

    def segment(image: Tensor) -> Sequence[Mapping[str, Any]]:
        return sam.every_mask(loaded(), image, points_per_batch=points_per_batch, **passed)

    return segment, {"model": model, "bf16": bf16, **passed, "weights": files.fingerprint(weights)}


def stored(
    data: str,
    *,
    split: str = "train",
    size: int = 192,
    limit: int | None = None,
    model: str = "nano",
    part: tuple[int, int] = (1, 1),
    out: Path | None = None,
    progress: bool = True,
    **how: Any,
) -> Path:
    """The folder of Segment Anything's masks of a data set by name, after making those that it lacks.

    Arguments are those of `datasets.load`, :func:`make` and, as `how`, :func:`automatic`; `out` is another folder than the one in
    data/cache.

    Raises:
        DataError: no such data set; or the folder holds masks made otherwise.
        FileNotFoundError, ValueError: Segment Anything's weights are missing, or damaged.
        ImportError: the package segment_anything is not installed.
    """
    dataset = datasets.load(data, split, size=size, limit=limit)
    segment, decided = automatic(model, **how)
    # What is not drawn is whatever lies where ICM_COCO, say, names it: of other pictures the masks would be others.
    drawn = datasets.DATASETS[data].drawn
    kind = drawn(size) if drawn else {"annotations": files.fingerprint(dataset.annotations)}
    few = [f"{how['points']}-points"] if how.get("points") else []
    name = "-".join(["masks", data, split, *([str(size)] if drawn else []), model, *few])
    folder = out or files.CACHE / name
    make(folder, dataset, segment, {"data": data, "split": split, **kind, **decided}, part=part, progress=progress)
    return folder


def of_video(
    clip: Any,
    segmenter: str,
    alpha: float,
    name: str,
    made: dict[str, Any],
    *,
    points: int | None = None,
    device: str = "auto",
    progress: bool = True,
) -> Tensor:
    """The edges of every frame of a `data.video.Video`, (T, 1, H, W), of masks above `alpha`; what data/cache lacks is made now.

    `segmenter` is named with the fingerprint of its weights, and ends the folder's name, which `name` begins; `made` says what
    video it is, so that masks of another are refused.
    """
    from icm_helpers.tasks import models

    require_stored(alpha)
    model = models.segmenter(segmenter)
    segment, passed = automatic(model, points=points, device=device)
    folder = files.CACHE / f"{name}-{model}"
    make(folder, clip, segment, made | passed, progress=progress)
    return torch.stack([sam_edges(read(folder, k), alpha) for k in clip.ids])


def require_stored(alpha: float) -> None:
    """Refuse, with a `ValueError`, an alpha below `LEAST`, from which masks are stored."""
    if alpha < LEAST:
        raise ValueError(f"alpha is {alpha:g}: masks are stored from {LEAST:g} on, take that or more")


def info(folder: Path | str, alphas: Iterable[float] = (0.98, 0.93, 0.48)) -> dict[str, Any]:
    """What a folder of masks holds: `recipe`, `pictures`, `bytes` a picture, and per alpha `masks` a picture and share of `edges`.

    Raises:
        DataError: it is no such folder, or a file is damaged.
    """
    folder = Path(folder)
    try:
        recipe = json.loads((folder / "masks.json").read_text())
    except (OSError, ValueError) as error:
        raise DataError(f"{folder} is not a folder of masks ({error}): correct the path") from error
    paths = sorted(folder.glob(f"*{_SUFFIX}"))
    sets = [_read(path) for path in paths]

    def mean(values: Iterable[float]) -> float:
        return float(np.mean([*values])) if sets else 0.0

    return {
        "recipe": recipe,
        "pictures": len(paths),
        "bytes": mean(path.stat().st_size for path in paths),
        "masks": {a: mean(len(found.above(a)) for found in sets) for a in alphas},
        "edges": {a: mean(sam_edges(found, a).mean() for found in sets) for a in alphas},
    }


def _settle(folder: Path, recipe: dict[str, Any]) -> None:
    """Write down what a folder holds, once, or make sure that it is this."""
    path = folder / "masks.json"
    with suppress(FileExistsError), files.atomically(path, replace=False) as temporary:
        temporary.write_text(json.dumps(recipe, indent=1), encoding="utf-8")
    try:
        found = dict(json.loads(path.read_bytes()))
    except (OSError, ValueError, TypeError) as error:
        raise DataError(f"{path} cannot be read ({error}): restore it, or delete {folder}") from error
    if found != recipe:
        differing = [k for k in sorted({*found, *recipe}) if found.get(k) != recipe.get(k)]
        told = "; ".join(f"{k} {found.get(k)!r} there, {recipe.get(k)!r} here" for k in differing)
        raise DataError(f"{folder} holds masks made otherwise ({told}): name another folder, or delete it")
