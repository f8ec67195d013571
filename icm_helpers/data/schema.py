"""Annotation files in COCO's format, read strictly: what is used has its type and its range, or a DataError names the place."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, TypeVar

import msgspec
import numpy as np
from faster_coco_eval.core import mask as rle
from faster_coco_eval.mask_api_new_cpp import toUncompressedRLE
from msgspec import Meta, Struct

from icm_helpers.data import DataError, blamed

T = TypeVar("T")
Id = int | str
Number = Annotated[float, Meta(ge=-1e6, le=1e6)]  # of pixels; without bounds NaN would pass
Side = Annotated[int, Meta(ge=1, le=1_000_000)]
Box = tuple[Number, Number, Number, Number]  # x, y, width, height
Outline = dict[str, Any] | list[list[float]]  # run lengths, or polygons x1, y1, x2, y2, ...

_LONGEST = 1e6  # pixels of an outline: the decoder needs 80 bytes for each


class Picture(Struct):
    """An entry of `images`."""

    id: Id
    file_name: str
    width: Side
    height: Side


class Category(Struct):
    """An entry of `categories`."""

    id: Id
    name: str


class RunLengths(Struct):
    """A mask as run lengths, a list of them or COCO's text."""

    size: tuple[Side, Side]  # height, width
    counts: str | list[Annotated[int, Meta(ge=0)]]


class Annotation(Struct):
    """An entry of `annotations`: one object, or a crowd."""

    image_id: Id
    category_id: Id
    bbox: Box
    id: Id | None = None
    area: Annotated[float, Meta(ge=0, le=1e12)] | None = None
    iscrowd: bool | None = None
    segmentation: RunLengths | list[list[Number]] | None = None
    pattern: Any = None  # of scenes: see `Scene.segments`


class Instances(Struct):
    """A file of objects."""

    images: Annotated[list[Picture], Meta(min_length=1)]
    annotations: list[Annotation]
    categories: list[Category]


class Segment(Struct):
    """An entry of `segments_info`; `id` is the value of its pixels, and 0 is void, in maps as in categories."""

    id: Annotated[int, Meta(ge=1, lt=1 << 24)]
    category_id: int
    area: float | None = None
    iscrowd: bool = False


class Map(Struct):
    """An entry of a panoptic file's `annotations`."""

    image_id: Id
    file_name: str
    segments_info: list[Segment]


class Kind(Struct):
    """An entry of a panoptic file's `categories`."""

    id: Annotated[int, Meta(ge=1, lt=1 << 31)]
    name: str
    isthing: bool


class Panoptics(Struct):
    """A file of panoptic maps."""

    annotations: list[Map]
    categories: list[Kind]
    images: list[Picture] = []


class Frame(Struct):
    """An entry of `images` of a sequence of SFU-HW-Objects; `id` counts the frames from the first one that is annotated."""

    id: Annotated[int, Meta(ge=0)]


class Seen(Struct):
    """An entry of `annotations` of a sequence: one object in one frame."""

    image_id: int
    category_id: Annotated[int, Meta(ge=0, lt=80)]  # COCO's classes, without gaps
    bbox: Box
    kind: str = msgspec.field(name="class")
    iscrowd: Annotated[int, Meta(ge=0, le=0)] = 0


class Sequence(Struct):
    """A file of the objects of a sequence."""

    images: Annotated[list[Frame], Meta(min_length=1)]
    annotations: list[Seen]


def read(path: Path, kind: type[T]) -> T:
    """A JSON file as a `kind`; a whole number may be 3.0, and any one text. DataError where it is missing or does not fit."""
    if not path.is_file():
        raise DataError(f"annotation file {path} is missing: fetch it, or correct the path")
    cure = "repair it, or fetch it again; numbers must be finite, and a polygon a list x1, y1, x2, y2, ..."
    with blamed(f"annotation file {path} is not in COCO's format", cure, OSError, ValueError, RecursionError):
        content = path.read_bytes()
        try:
            return msgspec.json.decode(content, type=kind, strict=False)
        except msgspec.ValidationError:
            raise
        except msgspec.DecodeError:
            # Python reads what is not quite JSON: a byte-order mark, or NaN, which becomes what no field takes.
            content = json.dumps(json.loads(content, parse_constant=lambda name: {name: None})).encode()
            return msgspec.json.decode(content, type=kind, strict=False)


def once(path: Path, what: str, values: Iterable[Any]) -> None:
    """DataError where the annotation file lists one of the values twice."""
    if twice := [value for value, n in Counter(values).items() if n > 1]:
        raise DataError(f"annotation file {path} lists {what} {twice[0]!r} twice: repair it, or fetch it again")


def below(path: Path, names: Iterable[str]) -> None:
    """DataError where the annotation file names a file that would not lie in its folder."""
    for name in names:
        parts = PurePosixPath(name.replace("\\", "/")).parts
        if not parts or parts[0] == "/" or parts[0].endswith(":") or ".." in parts or "\0" in name:
            told = f"annotation file {path} has file name {name!r}, which is not in the folder"
            raise DataError(f"{told}: give its path from there")


def in_order(value: Id) -> tuple[bool, Id]:
    """The key that sorts ids: numbers first, then text."""
    return isinstance(value, str), value


def solid(x1: float, y1: float, x2: float, y2: float) -> bool:
    """Whether a box has an area, also in single precision, as networks take it."""
    return bool(np.float32(x1) < np.float32(x2) and np.float32(y1) < np.float32(y2))


def outline(item: Annotation, height: int, width: int) -> Outline | None:
    """The outline of an annotation as COCO's own tools read it, None where it has none; ValueError where it cannot be drawn."""
    drawn = item.segmentation
    if isinstance(drawn, RunLengths):
        form = {"size": [height, width], "counts": drawn.counts}
        if drawn.size != (height, width):
            raise ValueError(f"run lengths for size {list(drawn.size)}, picture of size {[height, width]}")
        packed = isinstance(drawn.counts, str)
        total = sum(toUncompressedRLE([form])[0]["counts"] if packed else drawn.counts)
        if total != height * width:
            raise ValueError(f"run lengths of {total} pixels in a picture of {height * width}")
        return form
    for polygon in drawn or []:
        if len(polygon) % 2 or len(polygon) == 2:
            raise ValueError(f"a polygon of {len(polygon)} numbers: three points or more are x1, y1, x2, y2, ...")
    # Two points are no polygon, and the decoder would take four numbers for a box.
    polygons = [polygon for polygon in drawn or [] if len(polygon) >= 6]
    longest = (len(polygon) * (max(polygon) - min(polygon)) for polygon in polygons)
    if sum(longest) > _LONGEST:
        steps = (np.abs(np.diff(np.reshape(polygon, (-1, 2)), axis=0, append=[polygon[:2]])) for polygon in polygons)
        if (length := sum(step.max(1).sum() for step in steps)) > _LONGEST:
            raise ValueError(f"an outline of {length:.0f} pixels: it lies far outside of the picture, or is none")
    return polygons or None


def decoded(outline: Outline, height: int, width: int) -> np.ndarray:
    """Mask (H, W) bool of an outline."""
    if isinstance(outline, list):
        return rle.decode(rle.merge(rle.frPyObjects(outline, height, width))).astype(bool)
    packed = isinstance(outline["counts"], str)
    return rle.decode(outline if packed else rle.frPyObjects(outline, height, width)).astype(bool)
