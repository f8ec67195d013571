"""The registry of data sets: open one by name."""

from __future__ import annotations

import os
from contextlib import suppress
from functools import partial
from pathlib import Path

from icm_helpers.data import formats, scenes
from icm_helpers.data.coco import CocoDataset, PanopticTruth
from icm_helpers.data.formats import DataError
from icm_helpers.files import ROOT as _ROOT


def real_data() -> Path:
    """Folder of small real data: ICM_REAL_DATA, or `../shared/real` beside the repository.

    Raises:
        DataError: there is no such folder.
    """
    folder = Path(os.environ.get("ICM_REAL_DATA", _ROOT.parent / "shared" / "real"))
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


def load(name: str, split: str, *, size: int = 192, limit: int | None = None, root: Path | None = None) -> CocoDataset:
    """Open a data set by name.

    Args:
        name: "scenes" (drawn on first use, then kept in `data/cache`), "coco-mini" (180 + 127 pictures in
            `real_data()`), "coco2017" (the full one, in the folder that ICM_COCO names, else `data/coco2017`), "visdrone" or
            "cityscapes" (in `data/visdrone` and `data/cityscapes`, as `data/manifest.toml` lays them out).
        split: "train" or "val".
        size: side of the scenes in pixels.
        limit: use, or draw, only the first so many pictures; scenes have 3000 train and 300 val pictures without it.
        root: another folder than the default.

    Raises:
        DataError: unknown name or split, or the data are not there.
    """
    if split not in ("train", "val"):
        raise DataError(f"no split {split!r}: take 'train' or 'val'")
    if name == "scenes":
        # Train and val seeds are a million apart and never meet.
        start, default = {"train": (0, 3000), "val": (1_000_000, 300)}[split]
        count = default if limit is None else limit
        folder = (root or _ROOT / "data" / "cache") / f"scenes-{split}-{size}-{count}-v{scenes.VERSION}.{scenes.LABELS}"
        scenes.write_coco(folder, range(start, start + count), size)
        truth = PanopticTruth(folder / "annotations" / "panoptic.json", folder / "panoptic")
        return CocoDataset(folder / "images", folder / "annotations" / "instances.json", limit=limit, panoptic=truth)
    if name in ("visdrone", "cityscapes"):
        return _converted(name, split, root or _ROOT / "data" / name, limit)
    if name == "coco-mini":
        folder = root or real_data() / "coco_mini"
    elif name == "coco2017":
        folder = root or Path(os.environ.get("ICM_COCO", _ROOT / "data" / "coco2017"))
    else:
        raise DataError(f"no data set {name!r}: take 'scenes', 'coco-mini', 'coco2017', 'visdrone' or 'cityscapes'")
    images, annotations = folder / f"{split}2017", folder / "annotations" / f"instances_{split}2017.json"
    if not (images.is_dir() and annotations.is_file()):
        cure = (
            "`python -m icm_helpers.data.datasets fetch coco2017` gets it, or set ICM_COCO to the folder that has it"
            if name == "coco2017"
            else "set ICM_REAL_DATA to the folder that holds a whole coco_mini"
        )
        raise DataError(f"{name} needs {images.name}/ and annotations/{annotations.name} in {folder}: {cure}")
    maps = folder / "annotations" / f"panoptic_{split}2017"
    truth = PanopticTruth(maps.with_suffix(".json"), maps) if maps.is_dir() else None  # a download of their own
    return CocoDataset(images, annotations, limit=limit, panoptic=truth)


def _converted(name: str, split: str, folder: Path, limit: int | None) -> CocoDataset:
    """VisDrone or Cityscapes, converted to COCO's format on first use and kept in `data/cache`."""
    if name == "visdrone":
        folder = folder / f"VisDrone2019-DET-{split}"
        images, labels, pattern = folder / "images", folder / "annotations", "*.txt"
        read = partial(formats.visdrone, folder)
    else:
        images, labels = folder / "leftImg8bit" / split, folder / "gtFine" / split
        pattern, read = "*/*_gtFine_instanceIds.png", partial(formats.cityscapes, folder, split)
    for needed in (images, labels):
        if not needed.is_dir():
            raise DataError(
                f"{name} needs {needed}: `python -m icm_helpers.data.datasets fetch {name}` gets it, or says how"
            )
    sources = [images, *labels.glob(pattern)]
    made = formats.converted(f"{name}-{split}", sources, read, _ROOT / "data" / "cache")
    truth = PanopticTruth(made / "panoptic.json", labels) if (made / "panoptic.json").is_file() else None
    return CocoDataset(images, made / "instances.json", limit=limit, panoptic=truth)


if __name__ == "__main__":
    from icm_helpers.data import downloads

    downloads.main()
