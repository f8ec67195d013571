"""Preset `rehearsal`: the studies of preset `paper` with the same codecs, networks, losses and readers, but few of everything."""

from __future__ import annotations

from dataclasses import fields, is_dataclass, replace
from importlib.util import find_spec
from typing import Any

from icm_helpers import files
from icm_helpers.codecs import zoo
from icm_helpers.data import downloads
from icm_helpers.ledger.study import Study, VideoStudy
from icm_helpers.objectives import Loss
from icm_helpers.tasks import models

SMALLER = {"sam-vit-h": "sam-vit-b"}
"""Another size of the same network, for two processor cores."""
WITHOUT_DETECTRON2 = {"faster-rcnn-d2": "faster-rcnn-r50", "mask-rcnn-d2": "mask-rcnn-r50", "panoptic-deeplab-d2": None}
"""What replaces a network whose package is not installed: torchvision's of the same design, or nothing."""


def rehearsed(study: Study | VideoStudy) -> Study | VideoStudy:
    """A study of preset `paper` as it is rehearsed: measured on the spot. `make rehearsal` brings its data and weights."""
    study = _usable(study)
    few = {"anchors": tuple((name, settings[:2]) for name, settings in study.anchors[:1]), "ledger": False}
    if isinstance(study, VideoStudy):  # the first clip and the last are of different size
        clips, losses = (study.clips[0], study.clips[-1]), tuple(map(quicker, study.losses))
        return replace(study, clips=clips, losses=losses, frames=2, epochs=2, tune_epochs=1, **few)
    few["losses"] = tuple((quicker(loss), scale) for loss, scale in study.losses)
    training = replace(study.training, start=_start(study), steps=2, batch=1, patch=64, train_images=2)
    few |= {"lmbdas": _ends(study.lmbdas), "ladders": tuple((name, _ends(rungs)) for name, rungs in study.ladders)}
    few["measured"] = replace(study.measured, finetune_steps=1, finetune_batch=1, finetune_images=1)
    return replace(study, pictures=replace(study.pictures, images=2), training=training, **few)


def quicker(loss: Loss) -> Loss:
    """A loss on the masks of Segment Anything, which is asked only 64 points a picture."""
    return replace(loss, points=8) if hasattr(loss, "points") else loss


def _ends(rungs: tuple[float, ...]) -> tuple[float, ...]:
    return tuple(dict.fromkeys((*rungs[:1], *rungs[-1:])))


def _usable(part: Any) -> Any:
    """A part of a study with other models in place of those that cannot be used here; None for one without another."""
    if is_dataclass(part):
        return replace(part, **{f.name: _usable(getattr(part, f.name)) for f in fields(part)})
    if isinstance(part, tuple):
        return tuple(found for item in part if (found := _usable(item)) is not None or item is None)
    name = files.unmarked(part)[0] if isinstance(part, str) else None
    others = SMALLER if find_spec("detectron2") else SMALLER | WITHOUT_DETECTRON2
    return part if name not in others else others[name] and models.fingerprinted(others[name])


def _start(study: Study) -> str:
    """What a codec starts from: where that is published, the file that lies here."""
    if not study.training.start.startswith("published"):
        return study.training.start
    codec, quality = zoo.find(study.codec)
    path = models.present(models.WEIGHTS / downloads.assets()[codec.name].files[quality - 1].name)
    return f"{path}@{files.fingerprint(path)}"
