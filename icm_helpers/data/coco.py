"""Pictures with objects: one reader of COCO's format, into which VisDrone and Cityscapes are converted."""

from __future__ import annotations

import hashlib
import json
import logging
import math
import os
from collections import Counter
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from faster_coco_eval.core import mask as rle
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from icm_helpers import files
from icm_helpers.data import DataError, blamed, pictures
from icm_helpers.panoptic import Panoptic

_log = logging.getLogger(__name__)


@dataclass
class Sample:
    """One picture and its objects; `labels` are the annotation file's category ids, not 0..C-1."""

    image: Tensor  # (3, H, W) float32 in [0, 1]
    boxes: Tensor  # (n, 4) float32, x1 y1 x2 y2 in pixels, inside the picture
    labels: Tensor  # (n,) int64
    masks: Tensor  # (n, H, W) bool
    crowd: Tensor  # (n,) bool: a region of many objects, annotated as one
    image_id: int
    name: str  # file name, as in the annotation file

    @property
    def object_mask(self) -> Tensor:
        """Union of the masks, (1, H, W) float32 in {0, 1}; crowd regions count, since they show objects."""
        return self.masks.any(dim=0, keepdim=True).float()


def _read_image(path: Path, width: int, height: int) -> np.ndarray:
    """Pixels (H, W, 3) uint8 of a picture whose annotations were drawn on `width` x `height` pixels."""
    pixels = pictures.read(path, (width, height))
    if pixels.shape[:2] != (height, width):
        told = f"image {path} has {pixels.shape[1]} x {pixels.shape[0]} pixels, its annotations were made for {width} x {height}"
        raise DataError(f"{told}: it was resized, or the annotation file belongs to another data set")
    return pixels


_Outline = dict[str, Any] | list[list[float]]  # run lengths, or polygons


def _drawn(item: dict[str, Any]) -> _Outline:
    """The outline of an annotation; two points are no polygon, and the decoder would take four numbers for a box."""
    outline = item.get("segmentation") or []
    return outline if isinstance(outline, dict) else [polygon for polygon in outline if len(polygon) >= 6]


def _outline(item: dict[str, Any]) -> _Outline:
    """The same, or else the box of an annotation as a polygon of whole pixels."""
    x, y, w, h = item["bbox"]
    x1, y1, x2, y2 = math.floor(x), math.floor(y), math.ceil(x + w), math.ceil(y + h)
    return _drawn(item) or [[x1, y1, x2, y1, x2, y2, x1, y2]]


def _decode_mask(item: dict[str, Any], height: int, width: int) -> np.ndarray:
    """Mask (H, W) bool of one annotation: its polygons, its run lengths (list or string), or else its filled box."""
    outline = _outline(item)
    if isinstance(outline, list):
        return rle.decode(rle.merge(rle.frPyObjects(outline, height, width))).astype(bool)
    if list(outline["size"]) != [height, width]:
        raise ValueError(f"run lengths for size {outline['size']}, picture of size {[height, width]}")
    packed = isinstance(outline["counts"], str | bytes)
    return rle.decode(outline if packed else rle.frPyObjects(outline, height, width)).astype(bool)


class PanopticTruth:
    """The panoptic maps of a data set in COCO's format, by image id. The file is read when it is first needed: COCO's is large.

    `annotations` is the `panoptic_*.json` file, `maps` the folder of the PNG files that it names. Colour means COCO's id,
    R + 256 G + 65536 B; 16 bits of grey, the id itself. DataError where one is missing, and later where the file is damaged.
    """

    def __init__(self, annotations: Path, maps: Path) -> None:
        self.annotations, self.maps = Path(annotations), Path(maps)
        if not (self.annotations.is_file() and self.maps.is_dir()):
            raise DataError(f"panoptic maps need {self.annotations} and {self.maps}/: fetch them, or correct the paths")

    @property
    def categories(self) -> dict[int, str]:
        """Names by category id, things and stuff."""
        return self._content[0]

    @property
    def things(self) -> frozenset[int]:
        """The ids of the categories that can be counted."""
        return self._content[1]

    @cached_property
    def _content(self) -> tuple[dict[int, str], frozenset[int], dict[int, tuple[str, list[dict[str, Any]]]]]:
        told = f"{self.annotations} is not in COCO's panoptic format"
        with blamed(told, "fetch it again", ValueError, KeyError, TypeError):
            content = json.loads(self.annotations.read_bytes())
            names = {c["id"]: c["name"] for c in content["categories"]}
            things = frozenset(c["id"] for c in content["categories"] if c["isthing"])
            return names, things, {a["image_id"]: (a["file_name"], a["segments_info"]) for a in content["annotations"]}

    def __getitem__(self, image_id: int) -> Panoptic:
        """The map of an image; DataError where there is none, or its file is missing, damaged, or lacks a listed segment."""
        entries = self._content[2]
        if image_id not in entries:
            raise DataError(f"{self.annotations} has no panoptic map of image {image_id}: take images that have one")
        path, segments = self.maps / entries[image_id][0], entries[image_id][1]
        with (
            blamed(f"panoptic map {path} cannot be read", "fetch it again", OSError, SyntaxError),
            Image.open(path) as stored,
        ):
            pixels = np.array(stored).astype(np.int32)
        ids = pixels if pixels.ndim == 2 else pixels[..., :3] @ np.array([1, 256, 65536], np.int32)  # (H, W)
        shown = np.zeros(ids.max() + 1, bool)  # ten times as fast as sorting the pixels
        shown[ids] = True
        if absent := [s["id"] for s in segments if s["id"] >= len(shown) or not shown[s["id"]]]:
            raise DataError(f"panoptic map {path} does not show segments {absent}: fetch it again")
        return Panoptic(ids, segments)

    def semantic(self, image_id: int) -> np.ndarray:
        """The category id of each pixel of an image, (H, W) int64; 0 is void."""
        truth = self[image_id]
        kinds = np.zeros(truth.ids.max() + 1, np.int64)
        for segment in truth.segments:
            kinds[segment["id"]] = segment["category_id"]
        return kinds[truth.ids]


class CocoDataset(Dataset):
    """Pictures in a folder and the instances of a file in COCO's format; item i is a `Sample`. `limit` is for the first so many.

    Pictures come in the order of their ids; those without annotations are samples with n = 0. Boxes without area or wholly outside
    the picture are left out, boxes partly outside are clipped; `skipped` counts both, one warning tells. An annotation without a
    mask gets its filled box. DataError where a file or folder is missing, damaged, or contradicts the others.
    """

    def __init__(
        self, images: Path, annotations: Path, *, limit: int | None = None, panoptic: PanopticTruth | None = None
    ) -> None:
        if limit is not None and limit < 1:
            raise ValueError(f"limit is {limit}: ask for at least one picture, or None for all")
        self.images, self.annotations, self.panoptic = Path(images), Path(annotations), panoptic
        content = self._read_json()
        with self._blamed("is not in COCO's instances format", KeyError, TypeError, AttributeError):
            self.categories: dict[int, str] = {c["id"]: c["name"] for c in content["categories"]}
            listed = {i["id"]: i for i in sorted(content["images"], key=lambda i: i["id"])}
            if len(listed) != len(content["images"]):
                raise self._error("lists an image id twice")
            self.ids: list[int] = list(listed)[:limit]
            self._entries = {i: listed[i] for i in self.ids}
            for entry in self._entries.values():
                if not (isinstance(entry["file_name"], str) and entry["width"] > 0 and entry["height"] > 0):
                    raise self._error(f"gives image {entry['id']} no file name or no size")
            self._check_files()
            self.skipped: Counter[str] = Counter()
            self._objects = self._clean(content["annotations"], listed)

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> Sample:
        entry = self._entries[self.ids[index]]
        width, height = entry["width"], entry["height"]
        objects = self._objects[entry["id"]]
        pixels = _read_image(self.images / entry["file_name"], width, height)
        masks = np.zeros((len(objects), height, width), dtype=bool)
        boxes = np.zeros((len(objects), 4), dtype=np.float32)
        for i, item in enumerate(objects):
            x, y, w, h = item["bbox"]
            boxes[i] = x, y, x + w, y + h
            which = f"has a broken mask in annotation {item.get('id')}"
            with self._blamed(which, KeyError, TypeError, ValueError, RuntimeError):
                masks[i] = _decode_mask(item, height, width)
        image = torch.from_numpy(pixels).permute(2, 0, 1).float() / 255  # (H, W, 3) -> (3, H, W)
        labels = torch.tensor([item["category_id"] for item in objects], dtype=torch.int64)
        crowd = torch.tensor([bool(item["iscrowd"]) for item in objects], dtype=torch.bool)
        shapes = torch.from_numpy(boxes), labels, torch.from_numpy(masks), crowd
        return Sample(image, *shapes, entry["id"], entry["file_name"])

    def ground_truth(self, ids: Iterable[int] | None = None) -> dict[str, list]:
        """COCO dictionary for an evaluator: the pictures in use (or `ids` of them; KeyError for others) and their cleaned
        annotations, numbered anew from 1: evaluators match by this number, and a zero or a double spoils the AP. A box stands for
        an outline that is missing, as in the `Sample`."""
        chosen = self.ids if ids is None else list(ids)
        items = enumerate((item for i in chosen for item in self._objects[i]), start=1)
        return {
            "images": [self._entries[i] for i in chosen],
            "annotations": [{**item, "segmentation": _outline(item), "id": n} for n, item in items],
            "categories": [{"id": i, "name": name} for i, name in self.categories.items()],
        }

    @cached_property
    def identity(self) -> str:
        """A few digits that change with the annotation file, and with which pictures are in use, their files' names and sizes."""
        entries = self._entries.values()
        told = (f"{e['id']} {e['file_name']} {(self.images / e['file_name']).stat().st_size}" for e in entries)
        return hashlib.sha256("\n".join([files.fingerprint(self.annotations), *told]).encode()).hexdigest()[:12]

    @property
    def outlined(self) -> bool:
        """Whether any object in use has an outline: where none has, a mask AP would be one against boxes."""
        return any(_drawn(item) for objects in self._objects.values() for item in objects)

    def used_categories(self) -> dict[int, str]:
        """The categories that occur in the annotations of the pictures in use."""
        used = {item["category_id"] for objects in self._objects.values() for item in objects}
        return {i: self.categories[i] for i in sorted(used)}

    def _error(self, what: str) -> DataError:
        return DataError(f"annotation file {self.annotations} {what}: repair it, or fetch it again")

    def _blamed(self, what: str, *kinds: type[Exception]) -> AbstractContextManager[None]:
        return blamed(f"annotation file {self.annotations} {what}", "repair it, or fetch it again", *kinds)

    def _read_json(self) -> dict[str, Any]:
        if not self.annotations.is_file():
            raise DataError(f"annotation file {self.annotations} is missing: fetch it, or correct the path")
        if not self.images.is_dir():
            raise DataError(f"image folder {self.images} is missing: fetch the images, or correct the path")
        with self._blamed("is not JSON", ValueError):
            content = json.loads(self.annotations.read_bytes())
        absent = {"images", "annotations", "categories"} - set(content if isinstance(content, dict) else ())
        if absent:
            raise self._error(f"has no {', '.join(sorted(absent))}")
        return content

    def _check_files(self) -> None:
        """One listing a folder instead of one question a file: COCO has 118 000, perhaps on a network disk."""
        names = {entry["file_name"] for entry in self._entries.values()}
        folders = {(self.images / name).parent for name in names}
        present = {folder / name for folder in folders if folder.is_dir() for name in os.listdir(folder)}
        absent = sorted(name for name in names if self.images / name not in present)
        if absent:
            told = f"{len(absent)} of {len(names)} images are missing in {self.images}, the first is {absent[0]}"
            raise DataError(f"{told}: fetch them again, or remove them from {self.annotations}")

    def _clean(self, annotations: list[dict], listed: dict[int, dict]) -> dict[int, list[dict]]:
        """Check every annotation; return those of the pictures in use, boxes clipped, by image id."""
        objects: dict[int, list[dict]] = {i: [] for i in self.ids}
        first: dict[str, Any] = {}
        for item in annotations:
            which = f"annotation {item.get('id')}"
            for kind, known, tells in (("image", listed, "lists"), ("category", self.categories, "defines")):
                if item[f"{kind}_id"] not in known:
                    raise self._error(f"has {which} of {kind} {item[f'{kind}_id']}, but {tells} no such {kind}")
            if item["image_id"] not in objects:
                continue
            x, y, w, h = item["bbox"] if len(item["bbox"]) == 4 else [math.nan] * 4
            if not all(map(math.isfinite, (x, y, w, h))):
                raise self._error(f"has {which} whose box is not four finite numbers")
            entry = listed[item["image_id"]]
            x1, x2 = (min(max(v, 0), entry["width"]) for v in (x, x + w))
            y1, y2 = (min(max(v, 0), entry["height"]) for v in (y, y + h))
            if w <= 0 or h <= 0:
                fate = "skipped: zero area"
            elif x2 <= x1 or y2 <= y1:
                fate = "skipped: outside the image"
            else:
                fate = "clipped" if (x1, y1) != (x, y) or (x2, y2) != (x + w, y + h) else ""
                box = [x1, y1, x2 - x1, y2 - y1] if fate else [x, y, w, h]
                defaults = {"area": box[2] * box[3], "iscrowd": 0}
                objects[item["image_id"]].append({**defaults, **item, "bbox": box})
            if fate:
                self.skipped[fate] += 1
                first.setdefault(fate, which)
        if self.skipped:
            told = ", ".join(f"{n} {fate} (first: {first[fate]})" for fate, n in self.skipped.items())
            _log.warning("%s: boxes %s", self.annotations, told)
        return objects


def require_categories(dataset: CocoDataset, known: Mapping[int, str] | Iterable[int], who: str) -> None:
    """Make sure that `who` can be judged on a data set: DataError where it does not know a category that is annotated, or, where
    `known` maps ids to names, calls it otherwise: 1 is a person in COCO and something else elsewhere."""
    named = known if isinstance(known, Mapping) else dict.fromkeys(known)
    for number, name in dataset.used_categories().items():
        if number in named and (named[number] is None or named[number].casefold() == name.casefold()):
            continue
        what = f"calls this category {named[number]!r}" if number in named else "does not know this category"
        cure = "take a detector trained on these categories, or map the category ids of the annotation file"
        raise DataError(f"{dataset.annotations} annotates category {number} ({name!r}), but {who} {what}: {cure}")
