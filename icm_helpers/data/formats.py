"""VisDrone's and Cityscapes' own annotation files, read as COCO's: what is an object, what is ignored, what is void."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from faster_coco_eval.core import mask as rle
from PIL import Image
from tqdm import tqdm

from icm_helpers.data import DataError, blamed
from icm_helpers.files import folder_atomically

VERSION = 2  # of the conversions: raise it whenever one gives something else

VISDRONE = ("pedestrian", "people", "bicycle", "car", "van", "truck", "tricycle", "awning-tricycle", "bus", "motor")
"""The ten classes that VisDrone's own evaluation counts; their ids are 1 to 10. 0 is an ignored region, 11 is others."""

_THINGS = "24 person, 25 rider, 26 car, 27 truck, 28 bus, 31 train, 32 motorcycle, 33 bicycle"
_STUFF = (
    "7 road, 8 sidewalk, 11 building, 12 wall, 13 fence, 17 pole, 19 traffic light, 20 traffic sign, 21 vegetation, "
)
_STUFF += "22 terrain, 23 sky"
_numbers = (dict(pair.split(" ", 1) for pair in listed.split(", ")) for listed in (_THINGS, _STUFF))
CITYSCAPES_THINGS, CITYSCAPES_STUFF = ({int(i): name for i, name in named.items()} for named in _numbers)
"""The classes that Cityscapes evaluates, by its own ids; in their order, stuff first, they have the trainIds 0 to 18."""


def visdrone(folder: Path) -> dict[str, dict[str, Any]]:
    """VisDrone-DET as COCO's instances: `{"instances": content}` of `images/*.jpg` and `annotations/*.txt` in a folder; DataError
    where a file is missing, or a row is not eight numbers with a known class.

    As its devkit evaluates: the ten classes alone; rows of score 0 are ignored, as COCO ignores crowd; objects of which half or
    more lies in ignored regions are left out. A detection there is excused too, which COCO can say only class by class: each
    ignored region is a crowd of every class. The devkit asks for half of a detection in the regions, COCO for the IoU threshold.
    """
    images, annotations = [], []
    sources = _pictures(folder / "images", "*.jpg", "VisDrone2019-DET")
    for number, path in enumerate(tqdm(sources, desc="reading VisDrone", disable=None), start=1):
        labels = folder / "annotations" / f"{path.stem}.txt"
        if not labels.is_file():
            raise DataError(f"{path} has no annotations {labels}: fetch visdrone again")
        broken = (OSError, ValueError, Image.DecompressionBombError)
        with blamed(f"{labels} or {path.name} is damaged", "fetch visdrone again", *broken):
            with Image.open(path) as picture:
                width, height = picture.size
            rows = [_visdrone_row(line) for line in labels.read_text("utf-8-sig").splitlines() if line.strip()]
        images.append({"id": number, "file_name": path.name, "width": width, "height": height})
        ignored = np.zeros((height, width), bool)
        for *box, _, kind in rows:
            if kind == 0:
                ignored[_within(*box)] = True
        for x, y, w, h, score, kind in rows:
            inside = ignored[_within(x, y, w, h)].sum()
            if kind > len(VISDRONE) or (kind and inside >= 0.5 * w * h):
                continue
            box = {"bbox": [x, y, w, h], "area": w * h, "iscrowd": int(kind == 0 or score == 0)}
            kinds = [kind] if kind else range(1, len(VISDRONE) + 1)
            annotations += [{"image_id": number, "category_id": k, **box} for k in kinds]
    categories = [{"id": i, "name": name} for i, name in enumerate(VISDRONE, start=1)]
    return {"instances": {"images": images, "annotations": _numbered(annotations), "categories": categories}}


def _within(x: int, y: int, w: int, h: int) -> tuple[slice, slice]:
    """The rows and columns of a box that a picture has."""
    return slice(max(y, 0), max(y + h, 0)), slice(max(x, 0), max(x + w, 0))


def _visdrone_row(line: str) -> tuple[int, ...]:
    """x, y, width, height, score, class; truncation and occlusion, which follow, are not needed."""
    values = [int(v) for v in line.strip().rstrip(",").split(",")]
    if len(values) != 8 or values[4] not in (0, 1) or not 0 <= values[5] <= len(VISDRONE) + 1:
        raise ValueError(f"row {line!r} is not x,y,width,height,score,class,truncation,occlusion")
    if min(values[2:4]) < 0 or max(map(abs, values)) > 1_000_000:
        raise ValueError(f"row {line!r} has a box that no picture has")
    return tuple(values[:6])


def cityscapes(folder: Path, split: str) -> dict[str, dict[str, Any]]:
    """Cityscapes' fine annotation as COCO's instances and panoptic segments, of `leftImg8bit/` and `gtFine/` in a folder; DataError
    where a file is missing or damaged.

    As cityscapesscripts converts it: a pixel of `*_gtFine_instanceIds.png` is a class id of stuff, 1000 times that of a thing plus
    its number, or the bare id of a thing where many were drawn as one, a crowd. Classes that are not evaluated are void. The
    panoptic maps are the very files: segments have their values as ids.
    """
    pictures, maps = folder / "leftImg8bit" / split, folder / "gtFine" / split
    kinds = CITYSCAPES_STUFF | CITYSCAPES_THINGS
    images, annotations, panoptic = [], [], []
    sources = _pictures(pictures, "*/*_leftImg8bit.png", "leftImg8bit_trainvaltest.zip and gtFine_trainvaltest.zip")
    for number, path in enumerate(tqdm(sources, desc="reading Cityscapes", disable=None), start=1):
        stem = path.relative_to(pictures).as_posix().removesuffix("_leftImg8bit.png")
        labels = maps / f"{stem}_gtFine_instanceIds.png"
        broken, cure = (
            (OSError, SyntaxError, ValueError, Image.DecompressionBombError),
            "unpack gtFine_trainvaltest.zip again",
        )
        with blamed(f"{labels} is missing or damaged", cure, *broken), Image.open(labels) as stored:
            if not stored.mode.startswith("I"):
                raise ValueError(f"its pixels are {stored.mode}, not 16 bits of grey")
            ids = np.array(stored).astype(np.int32)  # (H, W)
        height, width = ids.shape
        images.append({"id": number, "file_name": f"{stem}_leftImg8bit.png", "width": width, "height": height})
        segments = []
        for value in np.unique(ids).tolist():
            kind = value if value < 1000 else value // 1000
            if kind not in kinds:
                continue
            mask = ids == value
            crowd = int(kind in CITYSCAPES_THINGS and value < 1000)
            entry = {"category_id": kind, "iscrowd": crowd, "area": int(mask.sum()), "bbox": extent(mask)}
            segments.append({"id": value, **entry})
            if kind in CITYSCAPES_THINGS:
                annotations.append({"image_id": number, "segmentation": run_lengths(mask), **entry})
        name = labels.relative_to(maps).as_posix()
        panoptic.append({"image_id": number, "file_name": name, "segments_info": segments})
    named = [{"id": i, "name": name, "isthing": int(i in CITYSCAPES_THINGS)} for i, name in sorted(kinds.items())]
    things = [c for c in named if c["isthing"]]
    return {
        "instances": {"images": images, "annotations": _numbered(annotations), "categories": things},
        "panoptic": {"images": images, "annotations": panoptic, "categories": named},
    }


def converted(name: str, sources: list[Path], read: Callable[[], dict[str, dict[str, Any]]], cache: Path) -> Path:
    """The folder in `cache` with what `read()` gives, one JSON file an entry; read again only where a source file has changed. It
    appears at once when complete, so two processes may convert at once."""
    states = (f"{path} {path.stat().st_size} {path.stat().st_mtime_ns}" for path in sorted(sources))
    digest = hashlib.sha256("\n".join([str(VERSION), *states]).encode()).hexdigest()[:12]
    folder = cache / f"{name}-{digest}"
    if not folder.is_dir():
        with folder_atomically(folder) as draft:
            for entry, content in read().items():
                (draft / f"{entry}.json").write_text(json.dumps(content))
    return folder


def extent(mask: np.ndarray) -> list[int]:
    """COCO's box of a mask (H, W): x, y, width, height."""
    columns, rows = np.flatnonzero(mask.any(0)), np.flatnonzero(mask.any(1))
    x, y = int(columns[0]), int(rows[0])
    return [x, y, int(columns[-1]) + 1 - x, int(rows[-1]) + 1 - y]


def run_lengths(mask: np.ndarray) -> dict[str, Any]:
    """COCO's compressed run lengths of a mask (H, W)."""
    packed = rle.encode(np.asfortranarray(mask, np.uint8))
    return {"size": list(mask.shape), "counts": packed["counts"].decode("ascii")}


def _pictures(folder: Path, pattern: str, archive: str) -> list[Path]:
    found = sorted(folder.glob(pattern))
    if not found:
        raise DataError(f"no pictures {pattern} in {folder}: unpack {archive} there, or correct the path")
    return found


def _numbered(annotations: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{"id": n, **a} for n, a in enumerate(annotations, start=1)]
