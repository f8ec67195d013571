"""Miniatures of the papers' data sets: their file formats and folders, with a few scenes of the book in place of photographs.

    python -m icm_helpers.data.miniatures FOLDER

writes COCO 2017, VisDrone-DET, Cityscapes and SFU-HW-Objects, and prints the environment variables that name them to the readers.
Nothing here is data of theirs, and no result on it means anything: it shows that a path runs.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image

from icm_helpers.data import downloads, scenes
from icm_helpers.data.scenes import Scene
from icm_helpers.data.video import FIRST_ANNOTATED
from icm_helpers.tasks.coco import CATEGORIES

SPLITS = {"train": 0, "val": 1_000_000}  # and the seed of the first scene of each

# What a scene's things and stuff are called, by the data set's own ids.
_COCO = {"tree": 64, "house": 7, "rock": 20, "balloon": 38, "horse": 19, "car": 3}
_COCO_STUFF = {
    **{"sky": (187, "sky-other-merged"), "hills": (192, "mountain-merged")},
    **{"ground": (193, "grass-merged"), "path": (191, "pavement-merged")},
}
_VISDRONE = {"tree": 5, "house": 9, "rock": 2, "balloon": 1, "horse": 10, "car": 4}
_CITYSCAPES = {"sky": 23, "hills": 22, "ground": 7, "path": 8, "tree": 21, "house": 11}  # stuff there
_CITYSCAPES_THINGS = {"rock": 27, "balloon": 24, "horse": 25, "car": 26}


def write(folder: Path, *, images: int = 4, size: int = 128, frames: int = 2) -> dict[str, Path]:
    """All four, with `images` pictures a split of about `size` pixels a side and `frames` annotated frames a sequence: the folder
    that each environment variable of the manifest has to name."""
    shapes = {split: range(first, first + images) for split, first in SPLITS.items()}
    coco(folder / "coco2017", shapes, size)
    visdrone(folder / "visdrone", shapes, (size * 9 // 16, size))
    cityscapes(folder / "cityscapes", shapes, (size // 2, size))
    sfu(folder / "sfu-hw-objects", frames)
    kept = downloads.assets()
    return {kept[name].variable: folder / name for name in ("coco2017", "visdrone", "cityscapes", "sfu-hw-objects")}


def _named(scene: Scene) -> Iterator[tuple[str, dict[str, Any], np.ndarray]]:
    """The segments of a scene, each with its name and its mask (H, W)."""
    names = {category["id"]: category["name"] for category in scenes.CATEGORIES}
    for segment in scene.segments:
        yield names[segment["category_id"]], segment, scene.panoptic == segment["id"]


# --- COCO 2017 -----------------------------------------------------------------------------------------------------------


def coco(folder: Path, splits: Mapping[str, Iterable[int]], size: int | tuple[int, int]) -> None:
    """`{split}2017/*.jpg`, `annotations/instances_{split}2017.json` with polygons, `panoptic_{split}2017.json` and its PNG maps."""
    things = [{"id": i, "name": name} for i, name in CATEGORIES.items()]
    kinds = [{**thing, "isthing": 1} for thing in things]
    kinds += [{"id": i, "name": name, "isthing": 0} for i, name in sorted(_COCO_STUFF.values())]
    for split, seeds in splits.items():
        images, instances, maps = [], [], []
        for seed in seeds:
            scene, name = scenes.scene(seed, size), f"{seed:012d}"
            height, width = scene.panoptic.shape
            _save(folder / f"{split}2017" / f"{name}.jpg", scene.image)
            colours = np.stack([scene.panoptic >> shift & 255 for shift in (0, 8, 16)], -1).astype(np.uint8)
            _save(folder / "annotations" / f"panoptic_{split}2017" / f"{name}.png", colours)
            images.append({"id": seed, "file_name": f"{name}.jpg", "height": height, "width": width})
            segments = []
            for kind, segment, mask in _named(scene):
                category = _COCO.get(kind) or _COCO_STUFF[kind][0]
                entry = {"category_id": category, "iscrowd": 0, **{k: segment[k] for k in ("area", "bbox")}}
                segments.append({"id": segment["id"], **entry})
                if kind in _COCO and (drawn := _polygons(mask)):
                    item = {"id": len(instances) + 1, "image_id": seed, "segmentation": drawn, **entry}
                    instances.append(item)
            maps.append({"image_id": seed, "file_name": f"{name}.png", "segments_info": segments})
        for kind, entries, categories in (("instances", instances, things), ("panoptic", maps, kinds)):
            content = {"images": images, "annotations": entries, "categories": categories}
            (folder / "annotations" / f"{kind}_{split}2017.json").write_text(json.dumps(content))


def _polygons(mask: np.ndarray) -> list[list[int]]:
    found, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    return [line.flatten().tolist() for line in found if len(line) > 2]


# --- VisDrone-DET --------------------------------------------------------------------------------------------------------


def visdrone(folder: Path, splits: Mapping[str, Iterable[int]], size: tuple[int, int]) -> None:
    """`VisDrone2019-DET-{split}/images/*.jpg` and `annotations/*.txt`; an ignored region lies in the corner of every picture."""
    for split, seeds in splits.items():
        for seed in seeds:
            scene = scenes.scene(seed, size)
            rows = [(*s["bbox"], 1, _VISDRONE[kind], 0, 0) for kind, s, _ in _named(scene) if kind in _VISDRONE]
            visdrone_picture(
                folder, split, f"{seed:07d}_00000_d_0000001", scene.image, [*rows, (0, 0, 9, 9, 0, 0, 0, 0)]
            )


def visdrone_picture(folder: Path, split: str, stem: str, image: np.ndarray, rows: Sequence[Sequence[int]]) -> None:
    """One picture (H, W, 3), and its rows: x, y, width, height, score, class, truncation, occlusion."""
    place = folder / f"VisDrone2019-DET-{split}"
    _save(place / "images" / f"{stem}.jpg", image)
    (place / "annotations").mkdir(exist_ok=True)
    text = "".join(",".join(map(str, row)) + "\n" for row in rows)
    (place / "annotations" / f"{stem}.txt").write_text(text)


# --- Cityscapes ----------------------------------------------------------------------------------------------------------


def cityscapes(folder: Path, splits: Mapping[str, Iterable[int]], size: tuple[int, int]) -> None:
    """`leftImg8bit/{split}/{city}/*_leftImg8bit.png` and `gtFine/{split}/{city}/*_gtFine_instanceIds.png`."""
    for split, seeds in splits.items():
        for seed in seeds:
            scene, city = scenes.scene(seed, size), {"train": "aachen", "val": "frankfurt"}[split]
            ids = np.zeros(scene.panoptic.shape, np.uint16)
            for number, (kind, _, mask) in enumerate(_named(scene)):
                thing = _CITYSCAPES_THINGS.get(kind)
                ids[mask] = 1000 * thing + number if thing else _CITYSCAPES[kind]
            cityscapes_picture(folder, split, city, f"{city}_{seed:06d}_000019", scene.image, ids)


def cityscapes_picture(folder: Path, split: str, city: str, stem: str, image: np.ndarray, ids: np.ndarray) -> None:
    """One picture (H, W, 3) and its map (H, W) of 16 bits: a class, or 1000 times a class plus the number of an instance."""
    _save(folder / "leftImg8bit" / split / city / f"{stem}_leftImg8bit.png", image)
    _save(folder / "gtFine" / split / city / f"{stem}_gtFine_instanceIds.png", ids)


# --- SFU-HW-Objects ------------------------------------------------------------------------------------------------------


def sfu(folder: Path, frames: int) -> None:
    """Every sequence that the manifest lists, at its own size: `frames` from the first annotated one."""
    listed = (file.name for file in downloads.assets()["sfu-hw-objects"].files)
    for seed, name in enumerate(name for name in listed if name.endswith(".yuv")):
        where, stem, width, height = re.fullmatch(r"(.+)/(.+_(\d+)x(\d+)_\d+)Hz_8bit_P420\.yuv", name).groups()
        shape, pictures, objects = (int(height), int(width)), [], []
        for scene in scenes.video(seed, frames, (shape[0] // 4, shape[1] // 4)):
            pictures.append(cv2.resize(scene.image, shape[::-1], interpolation=cv2.INTER_LINEAR))
            boxes = ((_COCO[kind], [4 * v for v in s["bbox"]]) for kind, s, _ in _named(scene) if kind in _COCO)
            objects.append(list(boxes))
        sfu_sequence(folder / where, stem, pictures, objects)


def sfu_sequence(
    folder: Path, stem: str, pictures: Sequence[np.ndarray], objects: Sequence[Sequence[tuple[int, list[float]]]]
) -> tuple[Path, Path]:
    """A raw sequence whose annotated frames are these pictures (H, W, 3), and its boxes: category ids of COCO with x, y, width,
    height. `stem` is `<Sequence>_<width>x<height>_<frames a second>`. What comes before is a hole in the file: it takes no disk.
    """
    yuv, boxes = folder / f"{stem}Hz_8bit_P420.yuv", folder / f"{stem}_val.json"
    folder.mkdir(parents=True, exist_ok=True)
    with open(yuv, "wb") as file:
        file.seek(FIRST_ANNOTATED[int(stem.rpartition("_")[2])] * pictures[0].size // 2)
        for picture in pictures:
            file.write(cv2.cvtColor(picture, cv2.COLOR_RGB2YUV_I420).tobytes())
    numbers, entries = list(CATEGORIES), []
    for k, of_frame in enumerate(objects):
        for category, box in of_frame:
            kind = {"category_id": numbers.index(category), "class": CATEGORIES[category]}
            entries.append({"id": len(entries) + 1, "image_id": float(k), "bbox": box, "iscrowd": 0, **kind})
    images = [{"id": float(k), "file_name": f"{stem}_val_{k:03d}.png"} for k in range(len(pictures))]
    classes = [{"id": i, "name": name} for i, name in enumerate(CATEGORIES.values())]
    boxes.write_text(json.dumps({"images": images, "annotations": entries, "categories": classes}))
    return yuv, boxes


def _save(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, quality=95)


if __name__ == "__main__":
    for name, path in write(Path(sys.argv[1])).items():
        print(f"export {name}={path.resolve()}")
