"""Your own pictures: a folder, or a file of annotations in COCO's format, in place of a data set's name."""

from __future__ import annotations

import hashlib
import json
import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from icm_helpers import files
from icm_helpers.data import DataError, datasets

if TYPE_CHECKING:
    from icm_helpers.data.coco import CocoDataset

_log = logging.getLogger(__name__)
_OTHER = ("captions", "person_keypoints", "panoptic", "stuff", "image_info")  # COCO's files that hold no instances


def named(text: str) -> str:
    """The name of a data set: of a registered one its own; of a folder or an annotation file, which is registered now, one that
    ends in the fingerprint of its annotations.

    A folder has one annotation file, or one each for `train` and `val` (or `test`), which their paths tell. Pictures lie beside the
    file or its folder, or in `images`, or in a folder that is called as COCO calls it.

    Raises:
        DataError: it is none of these.
    """
    path = Path(text)
    if text in datasets.DATASETS:
        if path.exists():
            _log.warning("%s is the book's data set; the folder of this name here is ./%s", text, text)
        return text
    if not path.exists():
        known = ", ".join(datasets.names())
        told = f"no data set {text!r}: use {known}, or the path of"
        raise DataError(f"{told} a folder of pictures with annotations in COCO's format, or of such annotations")
    splits = _annotations(path)
    both = "".join(map(files.fingerprint, dict.fromkeys(splits.values())))
    mark = both if len(both) == 8 else hashlib.sha256(both.encode()).hexdigest()[:8]
    name = f"{path.resolve().stem}-{mark}"
    if name not in datasets.DATASETS:
        datasets.register(datasets.DataSet(name, partial(_opened, splits), f"your own pictures, {path}", own=True))
    return name


def mapped(name: str, dataset: CocoDataset, pairs: Sequence[str], judge: str, categories: Mapping[int, str]) -> str:
    """The name of a data set for judging alone, registered now: `dataset` with its categories called and numbered as a judge has
    them, by `pairs` such as `walker=person`, or where their names are the same.

    With pairs, what is left of the categories is left out, and said; without, it is an error.

    Raises:
        DataError: a name is not annotated, or the judge does not know it.
    """
    numbers = {known.casefold(): number for number, known in categories.items()}
    used, wanted = dataset.used_categories(), dict(pair.partition("=")[::2] for pair in pairs)
    for own, known in wanted.items():
        if own not in dataset.categories.values():
            raise DataError(f"--map {own}={known}: {dataset.annotations} has {', '.join(dataset.categories.values())}")
        if known.casefold() not in numbers:
            raise DataError(f"--map {own}={known}: {judge} knows {', '.join(categories.values())}")
    target = {i: numbers.get(wanted.get(own, own).casefold()) for i, own in dataset.categories.items()}
    if all(target[i] == i and categories[i] == own for i, own in used.items()):
        return name
    lost = [own for i, own in used.items() if target[i] is None]
    if lost and not pairs:
        told = f"{dataset.annotations} annotates {', '.join(lost)}, which {judge} does not know"
        raise DataError(f"{told}: say what they are there, as in --map {lost[0]}=person; the rest is then left out")
    truth = dataset.ground_truth()
    left = Counter(
        dataset.categories[a["category_id"]] for a in truth["annotations"] if target[a["category_id"]] is None
    )
    if left:
        _log.warning(
            "left out, since %s does not know them: %s", judge, ", ".join(f"{n} {own}" for own, n in left.items())
        )
    kept = [{**a, "category_id": target[a["category_id"]]} for a in truth["annotations"]]
    truth["annotations"] = [a for a in kept if a["category_id"] is not None]
    truth["categories"] = [{"id": number, "name": known} for number, known in categories.items()]
    text = json.dumps(truth)
    name = f"{name}-as-{judge.partition('=')[0]}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"
    path = files.CACHE / "mapped" / f"{name}.json"
    with files.atomically(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
    if name not in datasets.DATASETS:
        opened = partial(_opened, {"train": path, "val": path}, images=dataset.images)
        datasets.register(datasets.DataSet(name, opened, f"{dataset.annotations}, as {judge} names it"))
    return name


def _annotations(path: Path) -> dict[str, Path]:
    """The annotation file of each split."""
    if path.is_file():
        return {"train": path, "val": path}
    found = {p: p.relative_to(path).as_posix().lower() for p in sorted(path.rglob("*.json")) if p.name[0] != "."}
    listed = [p for p in found if p.name.startswith("instances")]
    listed = listed or [p for p in found if not p.name.startswith(_OTHER)]
    if len(listed) == 1:
        return dict.fromkeys(("train", "val"), listed[0])
    train = [p for p in listed if "train" in found[p]]
    val = [p for p in listed if "val" in found[p]] or [p for p in listed if "test" in found[p]]
    if len(train) == len(val) == 1:
        return {"train": train[0], "val": val[0]}
    told = f"{len(listed)} files of annotations" if listed else "no file of annotations in COCO's format (.json)"
    shown = "".join(f" ({', '.join(p.name for p in listed[:4])})" for _ in listed[:1])
    raise DataError(f"{path} has {told}{shown}: name the file that is meant")


def _opened(
    splits: Mapping[str, Path],
    split: str,
    *,
    size: int,
    limit: int | None,
    root: Path | None,
    images: Path | None = None,
) -> CocoDataset:
    from icm_helpers.data import coco

    path = splits[split]
    if split == "train" and splits["val"] == path:
        _log.warning("%s has no held-out pictures: what is trained on them is judged on the same ones", path)
    return coco.CocoDataset(images or _pictures(path), path, limit=limit)


def _pictures(annotations: Path) -> Path:
    """The folder where most of the first pictures of an annotation file lie; its own where none does, as whoever opens it says."""
    stem = annotations.stem.removeprefix("instances_")
    bases = annotations.parent, annotations.parent.parent
    folders = [folder for base in bases for folder in (base, base / "images", base / stem, base / "images" / stem)]
    try:
        first = [image["file_name"] for image in json.loads(annotations.read_bytes())["images"][:20]]
        return max(folders, key=lambda folder: sum((folder / name).is_file() for name in first))
    except (ValueError, LookupError, TypeError):  # its reader says what is wrong with it
        return annotations.parent
