"""The registry of data sets: open one by name, here, in a recipe and on the command line.

A data set is a function that opens it and an entry that names it; :func:`register` adds one of yours. What reads the files is
imported when one is opened, so this module loads neither torch nor OpenCV.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from icm_helpers.data import DataError
from icm_helpers.files import ROOT

if TYPE_CHECKING:
    from icm_helpers.data.coco import CocoDataset
    from icm_helpers.data.video import Video

CLIPS = {"dog": "dog", "car-shadow": "car"}
"""Clips of DAVIS 2016, and what the annotated object of each is to COCO."""


@dataclass(frozen=True)
class DataSet:
    """One data set.

    Of pictures, `open(split, *, size, limit, root)` gives a `CocoDataset`, whose arguments :func:`load` explains; of videos,
    `open(clip, frames, size)` gives a `Video`, as :func:`clip` explains. It imports what it needs when it is called.
    """

    name: str
    open: Callable[..., Any]
    summary: str  # one line of `icm datasets list`
    video: bool = False
    # What decides a drawn picture, by its size: this much of its generator. None where pictures have the size that they have.
    drawn: Callable[[int], dict[str, Any]] | None = None
    detector: str = "yolov5n"  # what judges it where no other is named
    segmenter: str | None = None  # the Segment Anything that was trained on it; None: its masks need one that is named


DATASETS: dict[str, DataSet] = {}


def register(data_set: DataSet) -> DataSet:
    """Make a data set known by its name.

    Raises:
        ValueError: the name is taken.
    """
    if data_set.name in DATASETS:
        raise ValueError(f"a data set is called {data_set.name!r} already: take another name")
    return DATASETS.setdefault(data_set.name, data_set)


def names(video: bool = False) -> list[str]:
    """The data sets of pictures, or those of videos.

    >>> names(video=True)
    ['scenes-video', 'davis', 'sfu']
    """
    return [name for name, data_set in DATASETS.items() if data_set.video == video]


def listing() -> str:
    """A table of the data sets that open by name; `downloads.listing` says what can be fetched, and what is here."""
    from icm_helpers.data import downloads

    rows = ((d.name, "videos" if d.video else "pictures", d.summary) for d in DATASETS.values())
    return downloads.table([("data set", "of", "what"), *rows])


def load(name: str, split: str, *, size: int = 192, limit: int | None = None, root: Path | None = None) -> CocoDataset:
    """Open a data set of pictures by name.

    Args:
        name: one of :func:`names`.
        split: "train" or "val".
        size: side of the pictures in pixels, where they are drawn: of scenes alone.
        limit: use, or draw, only the first so many pictures; scenes have 3000 train and 300 val pictures without it.
        root: another folder than the default.

    Raises:
        DataError: unknown name or split, or the data are not there.
    """
    if split not in ("train", "val"):
        raise DataError(f"no split {split!r}: take 'train' or 'val'")
    return _named(name, video=False).open(split, size=size, limit=limit, root=root)


def clip(name: str, clip: str, frames: int | None = None, size: int = 192) -> Video:
    """The first frames of a clip: the moving scene of a seed, a clip of DAVIS at half its size, a sequence of SFU-HW-Objects.

    Args:
        name: one of `names(video=True)`.
        clip: a seed, a key of `CLIPS`, or a name such as BasketballPass_416x240_50.
        frames: how many; None for all that there are.
        size: side of the frames in pixels, where they are drawn.

    Raises:
        ValueError: no such data set or clip.
        DataError: a file is missing or damaged.
    """
    return _named(name, video=True).open(clip, frames, size)


def _named(name: str, video: bool) -> DataSet:
    if name not in names(video):
        *most, last = map(repr, names(video))
        raise DataError(f"no {'video data' if video else 'data'} set {name!r}: take {', '.join(most)} or {last}")
    return DATASETS[name]


def real_data() -> Path:
    """Folder of small real data: ICM_REAL_DATA, or `../shared/real` beside the repository.

    Raises:
        DataError: there is no such folder.
    """
    folder = Path(os.environ.get("ICM_REAL_DATA", ROOT.parent / "shared" / "real"))
    if not folder.is_dir():
        raise DataError(
            f"no real data at {folder}: set ICM_REAL_DATA to the folder that holds coco_mini and weights_yolox_nano"
        )
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
    from icm_helpers.data import downloads

    return downloads.assets()[asset].home()


def _entry(name: str, summary: str, **more: Any) -> Callable[[Callable[..., Any]], DataSet]:
    """Registers the function below it."""
    return lambda opens: register(DataSet(name, opens, summary, **more))


# --- pictures ------------------------------------------------------------------------------------------------------------


def _drawn(size: int) -> dict[str, Any]:
    from icm_helpers.data import scenes

    return {"size": size, "scenes": scenes.VERSION}


_OWN = {"detector": "mask-rcnn-small", "segmenter": "nano-sam"}  # what was trained on scenes


@_entry("scenes", "landscapes that are drawn here, with exact masks, of any size and number", drawn=_drawn, **_OWN)
def _scenes(split: str, *, size: int, limit: int | None, root: Path | None) -> CocoDataset:
    """Drawn on first use, then kept in `data/cache`."""
    from icm_helpers.data import coco, scenes

    # Train and val seeds are a million apart and never meet.
    start, default = {"train": (0, 3000), "val": (1_000_000, 300)}[split]
    count = default if limit is None else limit
    folder = (root or ROOT / "data" / "cache") / f"scenes-{split}-{size}-{count}-v{scenes.VERSION}.{scenes.LABELS}"
    scenes.write_coco(folder, range(start, start + count), size)
    truth = coco.PanopticTruth(folder / "annotations" / "panoptic.json", folder / "panoptic")
    return coco.CocoDataset(folder / "images", folder / "annotations" / "instances.json", limit=limit, panoptic=truth)


@_entry("coco-mini", "180 + 127 pictures of COCO, in the folder that ICM_REAL_DATA names")
def _coco_mini(split: str, *, size: int, limit: int | None, root: Path | None) -> CocoDataset:
    cure = "set ICM_REAL_DATA to the folder that holds a whole coco_mini"
    return _coco("coco-mini", root or real_data() / "coco_mini", split, limit, cure)


@_entry("coco2017", "COCO 2017, or pictures of yours laid out like it, with its categories, where ICM_COCO says")
def _coco2017(split: str, *, size: int, limit: int | None, root: Path | None) -> CocoDataset:
    cure = "`icm datasets fetch coco2017` gets it, or set ICM_COCO to the folder that has it"
    return _coco("coco2017", root or home("coco2017"), split, limit, cure)


def _coco(name: str, folder: Path, split: str, limit: int | None, cure: str) -> CocoDataset:
    from icm_helpers.data import coco

    images, annotations = folder / f"{split}2017", folder / "annotations" / f"instances_{split}2017.json"
    if not (images.is_dir() and annotations.is_file()):
        raise DataError(f"{name} needs {images.name}/ and annotations/{annotations.name} in {folder}: {cure}")
    maps = folder / "annotations" / f"panoptic_{split}2017"  # a download of their own
    truth = coco.PanopticTruth(maps.with_suffix(".json"), maps) if maps.is_dir() else None
    return coco.CocoDataset(images, annotations, limit=limit, panoptic=truth)


@_entry("visdrone", "VisDrone 2019-DET, read as COCO's instances")
def _visdrone(split: str, *, size: int, limit: int | None, root: Path | None) -> CocoDataset:
    folder = (root or home("visdrone")) / f"VisDrone2019-DET-{split}"
    return _converted("visdrone", split, folder / "images", folder / "annotations", "*.txt", (folder,), limit)


@_entry("cityscapes", "Cityscapes, read as COCO's instances and panoptic maps")
def _cityscapes(split: str, *, size: int, limit: int | None, root: Path | None) -> CocoDataset:
    folder = root or home("cityscapes")
    images, labels = folder / "leftImg8bit" / split, folder / "gtFine" / split
    return _converted("cityscapes", split, images, labels, "*/*_gtFine_instanceIds.png", (folder, split), limit)


def _converted(
    name: str, split: str, images: Path, labels: Path, pattern: str, arguments: tuple, limit: int | None
) -> CocoDataset:
    """Converted to COCO's format by the function of `formats` of this name on first use, and kept in `data/cache`."""
    from icm_helpers.data import coco, formats

    for needed in (images, labels):
        if not needed.is_dir():
            raise DataError(f"{name} needs {needed}: `icm datasets fetch {name}` gets it, or says how")
    read = partial(getattr(formats, name), *arguments)
    made = formats.converted(f"{name}-{split}", [images, *labels.glob(pattern)], read, ROOT / "data" / "cache")
    truth = coco.PanopticTruth(made / "panoptic.json", labels) if (made / "panoptic.json").is_file() else None
    return coco.CocoDataset(images, made / "instances.json", limit=limit, panoptic=truth)


# --- videos --------------------------------------------------------------------------------------------------------------


@_entry("scenes-video", "moving scenes, a clip for each seed, of any size", video=True, drawn=_drawn)
def _scene(clip: str, frames: int, size: int) -> Video:
    from icm_helpers.data import video

    return video.scene(int(clip), frames, size)


@_entry("davis", f"clips of DAVIS 2016 at half size: {', '.join(CLIPS)}", video=True)
def _davis(clip: str, frames: int | None, size: int) -> Video:
    from icm_helpers.data import video

    if clip not in CLIPS:
        raise ValueError(f"no clip {clip!r} of 'davis': take {' or '.join(CLIPS)}")
    folder = fetched_or_real(home("davis2016") / "DAVIS", "davis2016")
    return video.halved(video.davis(folder, clip, CLIPS[clip], frames))


@_entry("sfu", "sequences of SFU-HW-Objects, such as BasketballPass_416x240_50", video=True)
def _sfu(clip: str, frames: int | None, size: int) -> Video:
    """ClassD/BasketballPass_416x240_50Hz_8bit_P420.yuv, say, and its boxes beside it, called as CompressAI-Vision calls them:
    ClassD/BasketballPass_416x240_50_val.json."""
    from icm_helpers.data import video

    folder = home("sfu-hw-objects") / ("ClassC" if "_832x480_" in clip else "ClassD")
    return video.sfu(folder / f"{clip}Hz_8bit_P420.yuv", folder / f"{clip}_val.json", frames)
