"""Photographs of COCO that are small enough to carry about, as one data set: the folders coco_mini, coco_more and coco_boxes.

Training photos all have outlines. Of the evaluation photos of coco_boxes only boxes are known: `CocoDataset.lacks` says so, and
`evaluate` takes no measure of masks there. A hundred training and fifty evaluation photos also have a map of things and stuff.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from PIL import Image
from torch.utils.data import Dataset

from icm_helpers import files
from icm_helpers.data import DataError, formats
from icm_helpers.data.coco import CocoDataset, PanopticTruth, Sample

FOLDERS = {"train": ("coco_mini", "coco_more"), "val": ("coco_mini", "coco_more", "coco_boxes")}
OFFICIAL = "coco_more/annotations/coco_mini_train_official.json"
"""COCO's own outlines of those training photos of coco_mini whose outlines there were cut from maps, which do not overlap."""


def opened(root: Path, split: str, limit: int | None = None) -> CocoDataset:
    """The photos of a split under `root`, the first so many by id; a DataError where a folder or a file is missing."""
    sources = [root / name / "annotations" / f"instances_{split}2017.json" for name in FOLDERS[split]]
    sources += [root / OFFICIAL] if split == "train" else []
    if missing := [path for path in sources if not path.is_file()]:
        raise DataError(
            f"photos need {missing[0]}: set ICM_REAL_DATA to the folder that holds {', '.join(FOLDERS['val'])}"
        )
    made = formats.converted(f"photos-{split}", sources, lambda: {"instances": joined(root, split)}, files.CACHE)
    maps = root / "coco_mini" / "annotations" / f"panoptic_{split}2017"
    truth = PanopticTruth(maps.with_suffix(".json"), maps) if maps.is_dir() else None
    return CocoDataset(root, made / "instances.json", limit=limit, panoptic=truth)


def joined(root: Path, split: str) -> dict[str, list[dict[str, Any]]]:
    """The annotations of a split as one dictionary in COCO's format, whose files are named from `root`; ids stay COCO's."""
    images, annotations, categories = [], [], []
    for name in FOLDERS[split]:
        content = _read(root / name / "annotations" / f"instances_{split}2017.json")
        images += [{**image, "file_name": f"{name}/{split}2017/{image['file_name']}"} for image in content["images"]]
        annotations += content["annotations"]
        categories = categories or content["categories"]
    if split == "train":
        official = _read(root / OFFICIAL)
        better = {image["id"] for image in official["images"]}
        annotations = [item for item in annotations if item["image_id"] not in better] + official["annotations"]
    numbered = [{**item, "id": n} for n, item in enumerate(annotations, start=1)]
    return {"images": images, "annotations": numbered, "categories": categories}


def bare(folder: Path, pattern: str, limit: int | None = None) -> CocoDataset:
    """The pictures of a folder, with no object annotated; a DataError where there are none."""
    paths = sorted(folder.glob(pattern))
    if not paths:
        raise DataError(f"no pictures {pattern} in {folder}: fetch them, or correct the path")

    def listed() -> dict[str, Any]:
        sizes = [Image.open(path).size for path in paths]
        images = [
            {"id": n, "file_name": path.name, "width": width, "height": height}
            for n, (path, (width, height)) in enumerate(zip(paths, sizes, strict=True), start=1)
        ]
        return {"instances": {"images": images, "annotations": [], "categories": []}}

    made = formats.converted(f"bare-{folder.name}", paths, listed, files.CACHE)
    return CocoDataset(folder, made / "instances.json", limit=limit)


def _read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8"))


class Mixture(Dataset):
    """Pictures of several data sets, one after the other, for a training that asks for no categories, which differ between them."""

    def __init__(self, parts: Iterable[CocoDataset]) -> None:
        self.parts = tuple(parts)
        self._where = [(part, i) for part in self.parts for i in range(len(part))]

    def __len__(self) -> int:
        return len(self._where)

    def __getitem__(self, index: int) -> Sample:
        part, i = self._where[index]
        return part[i]

    @property
    def identity(self) -> str:
        """The identities of its parts."""
        return " ".join(part.identity for part in self.parts)

    def used_categories(self) -> dict[int, str]:
        """A DataError: a number means one thing in one part, and another in the next."""
        raise DataError(
            "a mixture of data sets has no common categories: train on one of them, or use a loss such as mse"
        )
