"""How near are edges to those that people draw? Canny's of the picture, outlines of an annotation, and Segment Anything's.

    python -m icm_helpers.edges             # measures, in about a quarter of an hour of one core, and writes data/edges.json
    python -m icm_helpers.edges FILE        # the same, with another nano SAM, too

The other one of the committed numbers comes from `icm sam --data photos --steps 600 --start data/checkpoints/nano-sam.safetensors`.

Two kinds of truth: on BSDS500 several people drew the regions of a whole scene; on COCO people drew maps of things and stuff. Edges
of a map are drawn by the same Canny, whoever made it. A pixel is met where an edge of the others lies at most `TOLERANCE` pixels
away, without a matching one by one.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
from torch import Tensor

from icm_helpers import files, masks
from icm_helpers.data import bsds, datasets
from icm_helpers.data.coco import CocoDataset
from icm_helpers.evaluate_video import canny, f_score
from icm_helpers.ledger import results
from icm_helpers.objectives import TrueEdges

TOLERANCE = 4  # pixels: BSDS's .0075 of the diagonal of its pictures
RECORD = files.SHIPPED / "edges.json"
NAMES = {
    "people": "another person",
    "outlines": "outlines of objects",
    "sam": "nano SAM",
    "sam, all": "nano SAM, without thresholds",
    "further": "nano SAM, taught by photographs",
    "further, all": "nano SAM, taught by photographs, without thresholds",
    "canny": "Canny of the picture",
}
_ALPHA = 0.93
_NONE = 1e-6  # thresholds must be above zero

Counts = tuple[float, float, float, float]
Segments = Mapping[str, Callable[[Tensor], Any]]  # a Segment Anything's automatic pass, by its key in NAMES


def matches(found: np.ndarray, truths: Sequence[np.ndarray], tolerance: int = TOLERANCE) -> Counts:
    """What `f_score` is made of, of edges (H, W) bool and those of each person: found pixels that meet anybody's, of how many;
    and people's pixels that meet a found one, of how many.

    >>> line = np.eye(9, dtype=bool)
    >>> matches(line, [line]), matches(line, [np.roll(line, 6, axis=1)], tolerance=1)[0]
    ((9, 9, 9, 9), 0)
    """
    near = _near(found, tolerance)
    met = np.any([_near(truth, tolerance) for truth in truths], axis=0)
    recalled = sum(int((truth & near).sum()) for truth in truths)
    return int((found & met).sum()), int(found.sum()), recalled, sum(int(truth.sum()) for truth in truths)


def _near(edges: np.ndarray, tolerance: int) -> np.ndarray:
    """Where an edge is at most so many pixels away, (H, W)."""
    return cv2.distanceTransform((~edges).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE) <= tolerance


def of_people(folder: Path, every: int, segments: Segments) -> Iterator[dict[str, Counts]]:
    """Photographs of BSDS500, each of so many: what every kind of edges meets of what people drew."""
    for photo in bsds.photos(folder, every):
        truths = [masks.edges(drawn) for drawn in photo.maps]
        rest = [(truth, truths[:k] + truths[k + 1 :]) for k, truth in enumerate(truths)]
        found = {"people": np.sum([matches(*pair) for pair in rest], axis=0)}  # each against the others
        yield found | {name: matches(drawn, truths) for name, drawn in _drawn(photo.image, segments).items()}


def of_maps(root: Path, count: int, segments: Segments) -> Iterator[dict[str, Counts]]:
    """The first so many evaluation photographs of COCO-mini that have maps of things and stuff: what edges meet of theirs. Of these
    50 photographs, 48 have outlines that were cut from the maps."""
    photos = datasets.load("coco-mini", "val", root=root / "coco_mini")
    mapped = [i for i, name in enumerate(photos.ids) if not photos.lacks(name)][:count]
    truth, outlines = (TrueEdges(of=of).region(photos, None) for of in ("maps", "outlines"))
    for sample in (photos[i] for i in mapped):
        real = truth(sample)[0].bool().numpy()
        drawn = {"outlines": outlines(sample)[0].bool().numpy()} | _drawn(sample.image, segments)
        yield {name: matches(edges, [real]) for name, edges in drawn.items()}


def _drawn(image: Tensor, segments: Segments) -> dict[str, np.ndarray]:
    found = {name: masks.MaskSet.of(image, segment(image)) for name, segment in segments.items()}
    drawn = {name: masks.sam_edges(some, _ALPHA)[0].bool().numpy() for name, some in found.items()}
    return drawn | {"canny": canny(image).astype(bool)}


def best_masks(pictures: CocoDataset, count: int, segments: Segments) -> dict[str, dict[str, float]]:
    """Mean IoU of an object's best mask, over the objects in the first so many pictures that have outlines, and masks a picture."""
    outlined = [i for i, name in enumerate(pictures.ids) if "outlines" not in pictures.lacks(name)][:count]
    best: dict[str, list[float]] = {name: [] for name in segments}
    several = dict.fromkeys(segments, 0)
    for sample in (pictures[i] for i in outlined):
        for name, segment in segments.items():
            found = masks.MaskSet.of(sample.image, segment(sample.image))
            best[name] += masks.ious(found, sample.masks[~sample.crowd]).max(0, initial=0).tolist()
            several[name] += len(found)
    return {name: {"iou": float(np.mean(best[name])), "masks": several[name] / len(outlined)} for name in segments}


def scores(rows: Sequence[Mapping[str, Counts]]) -> dict[str, dict[str, float]]:
    """Precision, recall and F-score of each kind of edges, pooled over pictures, and their number."""
    told = {}
    for name in rows[0]:
        met, found, recalled, real = np.sum([row[name] for row in rows], axis=0).tolist()
        told[name] = {
            "precision": met / max(found, 1),
            "recall": recalled / real,
            "f": f_score((met, found, recalled, real)),
        }
        told[name] |= {"pictures": len(rows)}
    return told


def table(record: Path = RECORD) -> pd.DataFrame:
    """The committed numbers: rows are kinds of edges, for each truth precision, recall and F-score."""
    measured = json.loads(record.read_text(encoding="utf-8"))
    rows = [
        {"truth": f"{truth}, {told['pictures']} pictures", "edges": NAMES[name]}
        | {key: f"{told[key]:.2f}" for key in ("precision", "recall", "f")}
        for truth, kinds in measured["scores"].items()
        for name, told in kinds.items()
    ]
    return pd.DataFrame(rows).set_index(["truth", "edges"])


def best(record: Path = RECORD) -> pd.DataFrame:
    """Of the committed numbers, the mean IoU of an object's best mask, and how many masks a photograph has."""
    measured = json.loads(record.read_text(encoding="utf-8"))["best masks"]
    rows = {
        NAMES[name]: {"IoU": f"{told['iou']:.2f}", "masks": f"{told['masks']:.0f}"} for name, told in measured.items()
    }
    return pd.DataFrame(rows).T


def measure(further: Path | None = None, every: int = 10, count: int = 20) -> dict[str, Any]:
    """The record: a tenth of BSDS500's test photographs, and some of COCO-mini's; for best masks twice as many, and also what
    thresholds of predicted IoU and stability would drop."""
    root, weights = datasets.real_data(), {"sam": None} | ({"further": further} if further else {})
    models = {name: masks.automatic("nano", file, device="cpu") for name, file in weights.items()}
    segments = {name: segment for name, (segment, _) in models.items()}
    unfiltered = {
        f"{name}, all": masks.automatic("nano", file, alpha=_NONE, stability=_NONE, device="cpu")[0]
        for name, file in weights.items()
    }
    measured = {
        "people, BSDS500": scores([*of_people(root / "bsds500_test", every, segments)]),
        "maps of things and stuff, COCO": scores([*of_maps(root, count, segments)]),
    }
    told = {"tolerance": TOLERANCE, "alpha": _ALPHA, "scores": measured}
    told |= {NAMES[name]: recipe for name, (_, recipe) in models.items()}
    told["best masks"] = best_masks(datasets.load("photos", "val", root=root), 2 * count, segments | unfiltered)
    return results.rounded(told) | {"provenance": results.provenance("cpu, one thread")}


if __name__ == "__main__":
    record = measure(*map(Path, sys.argv[1:2]))
    with files.atomically(RECORD) as temporary:
        temporary.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    print(table())
