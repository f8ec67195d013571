"""Pictures with objects: one reader of COCO's format, into which VisDrone and Cityscapes are converted."""

from __future__ import annotations

import hashlib
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
from msgspec.structs import asdict
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from icm_helpers import files
from icm_helpers.data import DataError, blamed, pictures, schema
from icm_helpers.data.schema import Id
from icm_helpers.panoptic import Panoptic

_log = logging.getLogger(__name__)


@dataclass
class Sample:
    """One picture and its objects; `labels` are the data set's category ids, not 0..C-1."""

    image: Tensor  # (3, H, W) float32 in [0, 1]
    boxes: Tensor  # (n, 4) float32, x1 y1 x2 y2 in pixels, inside the picture
    labels: Tensor  # (n,) int64
    masks: Tensor  # (n, H, W) bool
    crowd: Tensor  # (n,) bool: a region of many objects, annotated as one
    image_id: int | str
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
    def _content(self) -> tuple[dict[int, str], frozenset[int], dict[Id, schema.Map], dict[Id, tuple[int, int]]]:
        content = schema.read(self.annotations, schema.Panoptics)
        schema.once(self.annotations, "category", (kind.id for kind in content.categories))
        schema.once(self.annotations, "the map of image", (entry.image_id for entry in content.annotations))
        schema.below(self.annotations, (entry.file_name for entry in content.annotations))
        names = {kind.id: kind.name for kind in content.categories}
        for entry in content.annotations:
            schema.once(self.annotations, f"of image {entry.image_id!r} segment", (s.id for s in entry.segments_info))
            if unknown := {s.category_id for s in entry.segments_info} - set(names):
                told = f"{self.annotations} has segments of image {entry.image_id!r} of categories {unknown}"
                raise DataError(f"{told}, but defines no such categories: repair it, or fetch it again")
        things = frozenset(kind.id for kind in content.categories if kind.isthing)
        sizes = {picture.id: (picture.height, picture.width) for picture in content.images}
        return names, things, {entry.image_id: entry for entry in content.annotations}, sizes

    def __contains__(self, image_id: Id) -> bool:
        return image_id in self._content[2]

    def __getitem__(self, image_id: Id) -> Panoptic:
        """The map of an image; DataError where there is none, or its file is missing, damaged, or not what is listed."""
        _, _, entries, sizes = self._content
        if image_id not in entries:
            raise DataError(f"{self.annotations} has no panoptic map of image {image_id}: use images that have one")
        path, segments = self.maps / entries[image_id].file_name, entries[image_id].segments_info
        undecodable = (OSError, SyntaxError, ValueError, Image.DecompressionBombError)
        with blamed(f"panoptic map {path} cannot be read", "fetch it again", *undecodable), Image.open(path) as stored:
            grey = stored.mode == "L" or stored.mode.startswith("I")
            if not grey and stored.mode not in ("RGB", "RGBA", "P"):
                raise ValueError(f"its pixels are {stored.mode}, neither grey nor colours")
            pixels = np.array(stored if grey else stored.convert("RGB")).astype(np.int32)
            ids = pixels if grey else pixels @ np.array([1, 256, 65536], np.int32)  # (H, W)
            if ids.shape != sizes.get(image_id, ids.shape):
                raise ValueError(f"it has size {ids.shape}, its image {sizes[image_id]}")
            if ids.min() < 0 or ids.max() >= 1 << 24:
                raise ValueError("its ids are not numbers of 24 bits")
        shown = np.zeros(ids.max() + 1, bool)  # ten times as fast as sorting the pixels
        shown[ids] = True
        if absent := [s.id for s in segments if s.id >= len(shown) or not shown[s.id]]:
            raise DataError(f"panoptic map {path} does not show segments {absent}: fetch it again")
        return Panoptic(ids, [asdict(s) for s in segments])

    def semantic(self, image_id: Id) -> np.ndarray:
        """The category id of each pixel of an image, (H, W) int64; 0 is void."""
        truth = self[image_id]
        kinds = np.zeros(truth.ids.max() + 1, np.int64)
        for segment in truth.segments:
            kinds[segment["id"]] = segment["category_id"]
        return kinds[truth.ids]


class CocoDataset(Dataset):
    """Pictures in a folder and the instances of a file in COCO's format; item i is a `Sample`. `limit` is for the first so many.

    Pictures come in the order of their ids, which are the file's own, numbers or text. So are the ids of categories; where one is
    negative, huge or text, all are numbered from 1 in their order. Pictures without annotations are samples with n = 0. Boxes
    without area or outside the picture are left out, boxes partly outside are clipped; `skipped` counts both, one warning tells.
    An object without an outline gets its filled box. DataError where a file or folder is missing, damaged, or contradicts others.
    """

    def __init__(
        self, images: Path, annotations: Path, *, limit: int | None = None, panoptic: PanopticTruth | None = None
    ) -> None:
        if limit is not None and limit < 1:
            raise ValueError(f"limit is {limit}: ask for at least one picture, or None for all")
        self.images, self.annotations, self.panoptic = Path(images), Path(annotations), panoptic
        content = schema.read(self.annotations, schema.Instances)
        listed = {picture.id: picture for picture in sorted(content.images, key=lambda p: schema.in_order(p.id))}
        own = sorted((category.id for category in content.categories), key=schema.in_order)
        names = [picture.file_name for picture in content.images]
        schema.once(self.annotations, "image", (picture.id for picture in content.images))
        schema.once(self.annotations, "file", map(os.path.normpath, names))
        schema.once(self.annotations, "category", own)
        schema.below(self.annotations, names)
        small = all(isinstance(i, int) and 0 <= i < 1 << 31 for i in own)  # what networks and evaluators take
        numbers = {i: i if small else n for n, i in enumerate(own, start=1)}
        self.categories: dict[int, str] = {numbers[category.id]: category.name for category in content.categories}
        self.ids: list[Id] = list(listed)[:limit]
        self._entries = {i: listed[i] for i in self.ids}
        self._check_files()
        self.skipped: Counter[str] = Counter()
        self._objects = self._clean(content.annotations, listed, numbers)

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> Sample:
        return self.showing(self.images / self._entries[self.ids[index]].file_name, index)

    def showing(self, path: Path, index: int) -> Sample:
        """Item `index` with the pixels of another file of that size: as a codec gives them back, say."""
        entry = self._entries[self.ids[index]]
        width, height, objects = entry.width, entry.height, self._objects[entry.id]
        pixels = _read_image(path, width, height)
        masks = np.zeros((len(objects), height, width), dtype=bool)
        boxes = np.zeros((len(objects), 4), dtype=np.float32)
        for i, item in enumerate(objects):
            x, y, w, h = item["bbox"]
            boxes[i] = x, y, x + w, y + h
            masks[i] = schema.decoded(_outline(item), height, width)
        image = pictures.tensor(pixels)
        labels = torch.tensor([item["category_id"] for item in objects], dtype=torch.int64)
        crowd = torch.tensor([bool(item["iscrowd"]) for item in objects], dtype=torch.bool)
        shapes = torch.from_numpy(boxes), labels, torch.from_numpy(masks), crowd
        return Sample(image, *shapes, entry.id, entry.file_name)

    def ground_truth(self, ids: Iterable[Id] | None = None) -> dict[str, list]:
        """COCO dictionary for an evaluator: the pictures in use (or `ids` of them; KeyError for others) and their cleaned
        annotations, numbered anew from 1: evaluators match by this number, and a zero or a double spoils the AP. A box stands for
        an outline that is missing, as in the `Sample`."""
        chosen = self.ids if ids is None else list(ids)
        items = enumerate((item for i in chosen for item in self._objects[i]), start=1)
        return {
            "images": [asdict(self._entries[i]) for i in chosen],
            "annotations": [{**item, "segmentation": _outline(item), "id": n} for n, item in items],
            "categories": [{"id": i, "name": name} for i, name in self.categories.items()],
        }

    @cached_property
    def identity(self) -> str:
        """A few digits that change with the annotation file, and with which pictures are in use, their files' names and sizes."""
        entries = self._entries.values()
        told = (f"{e.id} {e.file_name} {(self.images / e.file_name).stat().st_size}" for e in entries)
        return hashlib.sha256("\n".join([files.fingerprint(self.annotations), *told]).encode()).hexdigest()[:12]

    @property
    def pixels(self) -> int:
        """Of all pictures in use together."""
        return sum(entry.width * entry.height for entry in self._entries.values())

    @property
    def outlined(self) -> bool:
        """Whether all objects in use have outlines, and there are any: where one has none, a mask AP would be one against boxes."""
        return {bool(item["segmentation"]) for objects in self._objects.values() for item in objects} == {True}

    def lacks(self, image_id: Id) -> tuple[str, ...]:
        """What nobody annotated in a picture, and what others of the data set have: `outlines` (some object has a box alone) and
        `map` (of things and stuff)."""
        boxed = any(not item["segmentation"] for item in self._objects[image_id])
        unmapped = self.panoptic is not None and image_id not in self.panoptic
        return ("outlines",) * (boxed and self._some_outlined) + ("map",) * unmapped

    @cached_property
    def _some_outlined(self) -> bool:
        return any(item["segmentation"] for objects in self._objects.values() for item in objects)

    @property
    def emptiness(self) -> str:
        """Why there is nothing to find in the pictures in use; an empty text where there is something."""
        crowds = [item["iscrowd"] for objects in self._objects.values() for item in objects]
        return "" if 0 in crowds else "every annotation is a crowd" if crowds else "no object is annotated"

    def used_categories(self) -> dict[int, str]:
        """The categories that occur in the annotations of the pictures in use."""
        used = {item["category_id"] for objects in self._objects.values() for item in objects}
        return {i: self.categories[i] for i in sorted(used)}

    def _error(self, what: str) -> DataError:
        return DataError(f"annotation file {self.annotations} {what}: repair it, or fetch it again")

    def _blamed(self, what: str, *kinds: type[Exception]) -> AbstractContextManager[None]:
        return blamed(f"annotation file {self.annotations} {what}", "repair it, or fetch it again", *kinds)

    def _check_files(self) -> None:
        """One listing a folder instead of one question a file: COCO has 118 000, perhaps on a network disk."""
        if not self.images.is_dir():
            raise DataError(f"image folder {self.images} is missing: fetch the images, or correct the path")
        names = {entry.file_name for entry in self._entries.values()}
        folders = {(self.images / name).parent for name in names}
        with self._blamed("names files that cannot be looked up", OSError):
            present = {folder / name for folder in folders if folder.is_dir() for name in os.listdir(folder)}
        absent = sorted(name for name in names if self.images / name not in present)
        if absent:
            told = f"{len(absent)} of {len(names)} images are missing in {self.images}, the first is {absent[0]}"
            raise DataError(f"{told}: fetch them again, or remove them from {self.annotations}")

    def _clean(
        self, annotations: list[schema.Annotation], listed: dict[Id, schema.Picture], numbers: dict[Id, int]
    ) -> dict[Id, list[dict]]:
        """Check every annotation; return those of the pictures in use, boxes clipped, by image id."""
        objects: dict[Id, list[dict]] = {i: [] for i in self.ids}
        first: dict[str, Any] = {}
        for n, item in enumerate(annotations):
            which = f"annotation {n} from 0" if item.id is None else f"annotation {item.id!r}"
            if item.image_id not in listed:
                raise self._error(f"has {which} of image {item.image_id!r}, but lists no such image")
            if item.category_id not in numbers:
                raise self._error(f"has {which} of category {item.category_id!r}, but defines no such category")
            if item.image_id not in objects:
                continue
            entry, (x, y, w, h) = listed[item.image_id], item.bbox
            x1, x2 = (min(max(v, 0), entry.width) for v in (x, x + w))
            y1, y2 = (min(max(v, 0), entry.height) for v in (y, y + h))
            with self._blamed(f"has a broken mask in {which}", ValueError, RuntimeError):
                outline = schema.outline(item, entry.height, entry.width)
            if (item.area or 0) > 1.01 * max(w * h, entry.width * entry.height):
                raise self._error(f"has {which} with area {item.area}, more than its picture has")
            if w <= 0 or h <= 0:
                fate = "skipped: zero area"
            elif x2 <= x1 or y2 <= y1:
                fate = "skipped: outside the image"
            elif not schema.solid(x1, y1, x2, y2):
                fate = "skipped: zero area"
            else:
                fate = "clipped" if (x1, y1) != (x, y) or (x2, y2) != (x + w, y + h) else ""
                box = [x1, y1, x2 - x1, y2 - y1] if fate else [x, y, w, h]
                # Evaluators leave out, without a word, what is larger than 1e10.
                area = box[2] * box[3] if item.area is None else min(item.area, entry.width * entry.height)
                known = {"image_id": item.image_id, "category_id": numbers[item.category_id], "bbox": box, "area": area}
                drawn = {"iscrowd": int(item.iscrowd or 0), "segmentation": outline}
                extra = {} if item.pattern is None else {"pattern": item.pattern}
                objects[item.image_id].append(known | drawn | extra)
            if fate:
                self.skipped[fate] += 1
                first.setdefault(fate, which)
        if self.skipped:
            told = ", ".join(f"{n} {fate} (first: {first[fate]})" for fate, n in self.skipped.items())
            _log.warning("%s: boxes %s", self.annotations, told)
        return objects


def _outline(item: dict[str, Any]) -> schema.Outline:
    """The outline of an object, or else its box as a polygon of whole pixels."""
    x, y, w, h = item["bbox"]
    x1, y1, x2, y2 = math.floor(x), math.floor(y), math.ceil(x + w), math.ceil(y + h)
    return item["segmentation"] or [[x1, y1, x2, y1, x2, y2, x1, y2]]


def require_categories(dataset: CocoDataset, known: Mapping[int, str], who: str) -> None:
    """Make sure that `who` can be judged on a data set: DataError where it does not know a category that is annotated, or calls it
    otherwise: 1 is a person in COCO and something else elsewhere."""
    for number, name in dataset.used_categories().items():
        if known.get(number, "").casefold() == name.casefold():
            continue
        what = f"calls this category {known[number]!r}" if number in known else "does not know this category"
        cure = "take a detector trained on these categories, or map the category ids of the annotation file"
        raise DataError(f"{dataset.annotations} annotates category {number} ({name!r}), but {who} {what}: {cure}")
