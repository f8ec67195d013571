"""The registry of data sets: open one by name, here, in a recipe and on the command line.

A data set is a function that opens it and an entry that names it; :func:`register` adds your own. What reads the files is
imported when one is opened, so this module loads neither torch nor OpenCV.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from icm_helpers import files
from icm_helpers.data import DataError

if TYPE_CHECKING:
    from icm_helpers.data.coco import CocoDataset
    from icm_helpers.data.video import Video

CLIPS = {"dog": "dog", "car-shadow": "car", "blackswan": "bird", "drift-chicane": "car", "libby": "dog"}
CLIPS |= {"kite-surf": "person", "motocross-jump": "motorcycle", "scooter-black": "motorcycle"}
"""Clips of DAVIS 2016, and what the annotated object of each is to COCO. The last three show a rider and what carries him as one
object, which no detector does: their boxes are larger than what is found."""


@dataclass(frozen=True)
class DataSet:
    """One data set: `open` is what :func:`load` calls, or for videos :func:`clip`, and imports what it needs when it is called."""

    name: str
    open: Callable[..., Any]
    summary: str  # one line of `icm datasets list`
    video: bool = False
    # What decides a drawn picture, by its size: this much of its generator. None where pictures have the size that they have.
    drawn: Callable[[int], dict[str, Any]] | None = None
    detector: str = "yolov5n"  # what judges it where no other is named
    own: bool = False  # somebody's own, whose categories may be numbered in any way
    segmenter: str | None = None  # the Segment Anything that was trained on it; None: its masks need one that is named


DATASETS: dict[str, DataSet] = {}


def register(data_set: DataSet) -> DataSet:
    """Make a data set known by its name; ValueError where it is taken."""
    if data_set.name in DATASETS:
        raise ValueError(f"a data set is called {data_set.name!r} already: choose another name")
    return DATASETS.setdefault(data_set.name, data_set)


def names(video: bool = False) -> list[str]:
    """The data sets of pictures, or those of videos.

    >>> names(video=True)
    ['scenes-video', 'davis', 'sfu']
    """
    return [name for name, data_set in DATASETS.items() if data_set.video == video]


def listing() -> str:
    """A table of the data sets that open by name; `downloads.listing` says what can be fetched, and what is here."""
    rows = ((d.name, "videos" if d.video else "pictures", d.summary) for d in DATASETS.values())
    return _room("downloads").table([("data set", "of", "what"), *rows])


def load(name: str, split: str, *, size: int = 192, limit: int | None = None, root: Path | None = None) -> CocoDataset:
    """Open the split "train" or "val" of a data set of pictures by name; DataError if it or its data are missing.

    `size` is the side of the pictures in pixels if they are drawn (scenes only). Only the first `limit`
    pictures are opened; without it scenes have 3000 train and 300 val pictures. `root` is a folder to use instead of the default.
    """
    if split not in ("train", "val"):
        raise DataError(f"no split {split!r}: use 'train' or 'val'")
    return _named(name, video=False).open(split, size=size, limit=limit, root=root)


def clip(name: str, clip: str, frames: int | None = None, size: int = 192) -> Video:
    """The first frames of a clip, all where `frames` is None; `size` is their side in pixels, where they are drawn.

    `clip` is the seed of a moving scene, a key of `CLIPS` (of DAVIS, at half its size), or a sequence of SFU-HW-Objects, such as
    BasketballPass_416x240_50. ValueError where there is none; DataError where a file is missing or damaged.
    """
    return _named(name, video=True).open(clip, frames, size)


def _named(name: str, video: bool) -> DataSet:
    if name not in names(video):
        *most, last = map(repr, names(video))
        raise DataError(f"no {'video data' if video else 'data'} set {name!r}: use {', '.join(most)} or {last}")
    return DATASETS[name]


def real_data() -> Path:
    """Folder of small real data: ICM_REAL_DATA, or `../shared/real` beside the repository; DataError where there is none."""
    folder = Path(os.environ.get("ICM_REAL_DATA", files.ROOT.parent / "shared" / "real"))
    if not folder.is_dir():
        cure = "set ICM_REAL_DATA to the folder that holds coco_mini and weights_yolox_nano"
        raise DataError(f"no real data at {folder}: {cure}")
    return folder


def fetched_or_real(fetched: Path, real: str) -> Path:
    """What was fetched; where it was not, the file or folder of that name in :func:`real_data`, if that is there."""
    if not fetched.exists():
        with suppress(DataError):  # no such folder
            if (given := real_data() / real).exists():
                return given
    return fetched  # where it is missing too, its reader says how to fetch it


def home(asset: str) -> Path:
    """Where `icm datasets fetch` puts what the manifest lists under a name."""
    return _room("downloads").assets()[asset].home()


def _room(name: str) -> Any:
    """A module of this room, imported when it is needed."""
    return import_module(f"icm_helpers.data.{name}")


def _drawn(size: int) -> dict[str, Any]:
    return {"size": size, "scenes": _room("scenes").VERSION}


def _scenes(split: str, *, size: int, limit: int | None, root: Path | None) -> CocoDataset:
    """Drawn on first use, then kept in `data/cache`."""
    scenes = _room("scenes")
    # Train and val seeds are a million apart and never meet.
    start, default = {"train": (0, 3000), "val": (1_000_000, 300)}[split]
    count = default if limit is None else limit
    folder = (root or files.CACHE) / f"scenes-{split}-{size}-{count}-v{scenes.VERSION}.{scenes.LABELS}"
    scenes.write_coco(folder, range(start, start + count), size)
    return _opened(folder / "images", folder / "annotations", "", folder / "panoptic", limit)


def _coco(
    name: str, default: Callable[[], Path], cure: str, split: str, *, size: int, limit: int | None, root: Path | None
) -> CocoDataset:
    folder = root or default()
    images, annotations = folder / f"{split}2017", folder / "annotations"
    if not (images.is_dir() and (annotations / f"instances_{split}2017.json").is_file()):
        told = f"{name} needs {images.name}/ and annotations/instances_{split}2017.json in {folder}"
        raise DataError(f"{told}: {cure}")
    return _opened(images, annotations, f"_{split}2017", annotations / f"panoptic_{split}2017", limit)


def _photos(split: str, *, size: int, limit: int | None, root: Path | None) -> CocoDataset:
    return _room("photos").opened(root or real_data(), split, limit)


def _photos_seen(split: str, **how: Any) -> CocoDataset:
    return _photos("train", **how)


def _photos_and_scenes(split: str, *, size: int, limit: int | None, root: Path | None) -> Any:
    """All photos, and half as many scenes; `limit` is of both together."""
    photos = _photos(split, size=size, limit=limit and -(-limit * 2 // 3), root=root)
    drawn = max(1, limit - len(photos) if limit else len(photos) // 2)
    return _room("photos").Mixture([photos, _scenes(split, size=size, limit=drawn, root=None)])


def _kodak(split: str, *, size: int, limit: int | None, root: Path | None) -> CocoDataset:
    """Both splits are the same pictures, since they are not for training; no object is annotated."""
    folder = root or fetched_or_real(home("kodak"), "kodak")
    return _room("photos").bare(folder, "kodim*.png", limit)


def _visdrone(split: str, *, size: int, limit: int | None, root: Path | None) -> CocoDataset:
    folder = (root or home("visdrone")) / f"VisDrone2019-DET-{split}"
    return _converted("visdrone", split, folder / "images", folder / "annotations", "*.txt", (folder,), limit)


def _cityscapes(split: str, *, size: int, limit: int | None, root: Path | None) -> CocoDataset:
    folder = root or home("cityscapes")
    images, labels = folder / "leftImg8bit" / split, folder / "gtFine" / split
    return _converted("cityscapes", split, images, labels, "*/*_gtFine_instanceIds.png", (folder, split), limit)


def _converted(
    name: str, split: str, images: Path, labels: Path, pattern: str, arguments: tuple, limit: int | None
) -> CocoDataset:
    """Converted to COCO's format by the function of `formats` of this name on first use, and kept in `data/cache`."""
    for needed in (images, labels):
        if not needed.is_dir():
            raise DataError(f"{name} needs {needed}: `icm datasets fetch {name}` gets it, or says how")
    formats = _room("formats")
    read = partial(getattr(formats, name), *arguments)
    made = formats.converted(f"{name}-{split}", [images, *labels.glob(pattern)], read, files.CACHE)
    return _opened(images, made, "", labels if (made / "panoptic.json").is_file() else None, limit)


def _opened(images: Path, annotations: Path, suffix: str, maps: Path | None, limit: int | None) -> CocoDataset:
    """With its panoptic maps, where there are any: of COCO they are a download of their own."""
    coco = _room("coco")
    truth = coco.PanopticTruth(annotations / f"panoptic{suffix}.json", maps) if maps and maps.is_dir() else None
    return coco.CocoDataset(images, annotations / f"instances{suffix}.json", limit=limit, panoptic=truth)


def _scene(clip: str, frames: int | None, size: int) -> Video:
    if not clip.isdecimal() or frames is None:
        raise ValueError(f"a moving scene is a seed, such as 0, and has no end: not {frames} frames of {clip!r}")
    return _room("video").scene(int(clip), frames, size)


def _davis(clip: str, frames: int | None, size: int) -> Video:
    if clip not in CLIPS:
        raise ValueError(f"no clip {clip!r} of 'davis': use one of {', '.join(CLIPS)}")
    more = "" if clip in ("dog", "car-shadow") else "_more"
    folder = fetched_or_real(home("davis2016") / "DAVIS", f"davis2016{more}")
    return _room("video").halved(_room("video").davis(folder, clip, CLIPS[clip], frames))


def _sfu(clip: str, frames: int | None, size: int) -> Video:
    """ClassD/BasketballPass_416x240_50Hz_8bit_P420.yuv, say, and beside it its boxes, called as CompressAI-Vision calls them."""
    folder = home("sfu-hw-objects") / ("ClassC" if "_832x480_" in clip else "ClassD")
    return _room("video").sfu(folder / f"{clip}Hz_8bit_P420.yuv", folder / f"{clip}_val.json", frames)


_MINI = ("coco-mini", lambda: real_data() / "coco_mini", "set ICM_REAL_DATA to the folder that holds a whole coco_mini")
_WHOLE = "`icm datasets fetch coco2017` gets it, or set ICM_COCO to the folder that has it"
_OWN = {"drawn": _drawn, "detector": "mask-rcnn-small", "segmenter": "nano-sam"}  # what was trained on scenes
for _data_set in (
    DataSet("scenes", _scenes, "landscapes that are drawn here, with exact masks, of any size and number", **_OWN),
    DataSet("coco-mini", partial(_coco, *_MINI), "180 + 127 pictures of COCO, in the folder that ICM_REAL_DATA names"),
    DataSet("photos", _photos, "343 + 716 photographs of COCO, in the folder that ICM_REAL_DATA names"),
    DataSet("photos-seen", _photos_seen, "the 343 to train on, to judge codecs on what they learned from"),
    DataSet(
        "photos-and-scenes",
        _photos_and_scenes,
        "these and half as many scenes, to train on without categories",
        drawn=_drawn,
    ),
    DataSet("kodak", _kodak, "the lossless photographs of Kodak that are there, without annotations"),
    DataSet(
        "coco2017",
        partial(_coco, "coco2017", partial(home, "coco2017"), _WHOLE),
        "COCO 2017, in the folder that ICM_COCO names",
    ),
    DataSet("visdrone", _visdrone, "VisDrone 2019-DET, read as COCO's instances", detector="yolov5m-visdrone"),
    DataSet("cityscapes", _cityscapes, "Cityscapes, read as COCO's instances and panoptic maps"),
    DataSet("scenes-video", _scene, "moving scenes, a clip for each seed, of any size", video=True, drawn=_drawn),
    DataSet("davis", _davis, f"clips of DAVIS 2016 at half size: {', '.join(CLIPS)}", video=True),
    DataSet("sfu", _sfu, "sequences of SFU-HW-Objects, such as BasketballPass_416x240_50", video=True),
):
    register(_data_set)
