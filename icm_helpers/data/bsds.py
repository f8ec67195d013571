"""BSDS500: photographs and the segmentations that several people drew of each whole scene.

Arbelaez et al., "Contour Detection and Hierarchical Image Segmentation", TPAMI 2011. Read from a folder with `images/NAME.jpg` and
`segments/NAME_K.png`, where pixels of person K's map bear the number of their region.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from torch import Tensor

from icm_helpers.data import DataError, blamed, pictures


@dataclass(frozen=True)
class Segmented:
    """A photograph (3, H, W) in [0, 1], and each person's map of it, (H, W) of whole numbers from 0."""

    image: Tensor
    maps: tuple[np.ndarray, ...]


def photos(folder: Path | str, every: int = 1, first: int = 0) -> Iterator[Segmented]:
    """The photographs in a folder by name, or each of so many, beginning with number `first` from 0.

    Raises:
        DataError: a photograph, or a map of it, is missing or damaged.
    """
    folder = Path(folder)
    paths = sorted(folder.glob("images/*.jpg"))[first::every]
    if not paths:
        raise DataError(f"no photographs in {folder}/images: set ICM_REAL_DATA to the folder that holds bsds500_test")
    for path in paths:
        image = pictures.load_picture(path)
        drawn = tuple(_map(file) for file in sorted(folder.glob(f"segments/{path.stem}_*.png")))
        if not drawn or any(found.shape != image.shape[1:] for found in drawn):
            sizes = {found.shape for found in drawn} or "none"
            raise DataError(f"{path} is {tuple(image.shape[1:])}, its maps are {sizes}: unpack the data set again")
        yield Segmented(image, drawn)


def _map(path: Path) -> np.ndarray:
    broken = (OSError, SyntaxError, ValueError, Image.DecompressionBombError)
    with blamed(f"{path} cannot be decoded", "it is damaged, fetch it again", *broken), Image.open(path) as stored:
        if stored.mode != "L" and not stored.mode.startswith("I"):
            raise ValueError(f"its pixels are {stored.mode}, not whole numbers")
        return np.unique(np.array(stored), return_inverse=True)[1].reshape(stored.size[::-1])
