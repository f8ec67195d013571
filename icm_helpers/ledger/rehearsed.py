"""Preset `rehearsal`: the studies of preset `paper` with the same codecs, networks, losses and readers, but few of everything."""

from __future__ import annotations

from dataclasses import fields, is_dataclass, replace
from functools import cache
from importlib.util import find_spec
from typing import Any

from icm_helpers import files
from icm_helpers.codecs import zoo
from icm_helpers.data import downloads
from icm_helpers.ledger.study import Study, VideoStudy
from icm_helpers.tasks import models

SMALLER = {"sam-vit-h": "sam-vit-b"}
"""Another size of the same network, for two processor cores."""
WITHOUT_DETECTRON2 = {"faster-rcnn-d2": "faster-rcnn-r50", "mask-rcnn-d2": "mask-rcnn-r50", "panoptic-deeplab-d2": None}
"""What stands for a network where its package is not installed: torchvision's of the same design, or nothing."""


def rehearsed(study: Study | VideoStudy) -> Study | VideoStudy:
    """A study of preset `paper` as it is rehearsed: measured on the spot, with the weights that lie here, whatever they are.

    Raises:
        FileNotFoundError: there are none; `make rehearsal` writes random ones.
    """
    study = _lying_here(study)
    few = {"anchors": tuple((name, settings[:2]) for name, settings in study.anchors[:1]), "ledger": False}
    if isinstance(study, VideoStudy):  # the first clip and the last are of different size
        clips = study.clips[0], study.clips[-1]
        return replace(study, clips=clips, frames=2, epochs=2, tune_epochs=1, **few)
    training = replace(study.training, start=_start(study), steps=2, batch=1, patch=128, train_images=2)
    few |= {"lmbdas": _ends(study.lmbdas), "ladders": tuple((name, _ends(rungs)) for name, rungs in study.ladders)}
    return replace(study, pictures=replace(study.pictures, images=2), training=training, **few)


def _ends(rungs: tuple[float, ...]) -> tuple[float, ...]:
    return tuple(dict.fromkeys((rungs[0], rungs[-1])))


def _lying_here(part: Any) -> Any:
    """A part of a study in which each model is named with the fingerprint of the file that lies here; None for one that cannot be."""
    if is_dataclass(part):
        return replace(part, **{f.name: _lying_here(getattr(part, f.name)) for f in fields(part)})
    if isinstance(part, tuple):
        return tuple(found for item in part if (found := _lying_here(item)) is not None or item is None)
    name = part.partition("@")[0] if isinstance(part, str) else None
    if name not in models.MODELS:
        return part
    name = SMALLER.get(name, name)
    name = name if find_spec("detectron2") else WITHOUT_DETECTRON2.get(name, name)
    return name and f"{name}@{_fingerprint(models.present(models.MODELS[name].file()))}"


def _start(study: Study) -> str:
    """What a codec starts from: where that is published, the file that lies here."""
    if not study.training.start.startswith("published"):
        return study.training.start
    codec, quality = zoo.find(study.codec)
    path = models.present(models.WEIGHTS / downloads.assets()[codec.name].files[quality - 1].name)
    return f"{path}@{_fingerprint(path)}"


_fingerprint = cache(files.fingerprint)
