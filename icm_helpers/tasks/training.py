"""Detectors, trained on a data set, and trained further on what a codec decodes."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import Dataset, Subset
from tqdm import tqdm

from icm_helpers import evaluate, files, train
from icm_helpers.data import DataError, coco
from icm_helpers.data.pictures import pixels
from icm_helpers.tasks import models

FINETUNE = train.Schedule(steps=200, batch=16, lr=3e-4, warmup=20, milestones=(0.6, 0.85), clip=5.0)
"""How a detector is trained on decoded pictures; a recipe says for how many steps."""
PNG = 1.5
"""Bytes that a pixel of a decoded picture takes as :class:`Decoded` keeps it: 1.49 in twelve of COCO's, coded at 0.5 bpp."""


def untrained(name: str, dataset: coco.CocoDataset) -> nn.Module:
    """A detector for what a data set annotates, with random weights or, where its weights are published, as these can begin.

    Raises:
        ValueError: no such detector can be trained.
        DataError: the data set annotates nothing, or crowds alone; it needs panoptic maps, and the data set has none.
    """
    if name not in models.names("train"):
        raise ValueError(f"{name} cannot be trained here; {', '.join(models.names('train'))} can")
    model = models.MODELS[name]
    if "panoptic" not in model.can:
        _something(dataset)
        kind, known = model.kind(), dataset.used_categories()
        return kind.adapted(model.file(), known) if hasattr(kind, "adapted") else kind(known)
    if dataset.panoptic is None:
        raise DataError(f"{name} learns from panoptic maps, which {dataset.annotations} does not have: use scenes")
    return model.kind()(dataset.panoptic.categories, dataset.panoptic.things)


def _something(dataset: coco.CocoDataset) -> None:
    if dataset.emptiness:
        raise DataError(f"{dataset.annotations}: {dataset.emptiness}, so a detector learns nothing: use other pictures")


class Pictures(Dataset):
    """A data set's whole images with their objects but for crowd regions, shuffled and mirrored, for training a detector: item i
    depends on (seed, i).

    With `semantic` the objects come with the category of every pixel.
    """

    def __init__(self, dataset: coco.CocoDataset | Decoded, seed: int, length: int, *, semantic: bool = False) -> None:
        self.dataset, self.seed, self.length, self.semantic = dataset, seed, length, semantic

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> tuple[Tensor, dict[str, Tensor]]:
        epoch, place = divmod(index, len(self.dataset))
        sample = self._sample(index)
        own = ~sample.crowd  # a region of many objects is none of them
        image, boxes, labels, masks = sample.image, sample.boxes[own], sample.labels[own], sample.masks[own]
        extra = {}
        if self.semantic:
            extra["semantic"] = torch.from_numpy(self.dataset.panoptic.semantic(sample.image_id))
        if np.random.default_rng((self.seed, epoch, place)).random() < 0.5:
            image, masks, extra = image.flip(-1), masks.flip(-1), {k: v.flip(-1) for k, v in extra.items()}
            boxes = torch.stack(
                [image.shape[2] - boxes[:, 2], boxes[:, 1], image.shape[2] - boxes[:, 0], boxes[:, 3]], dim=1
            )
        return image, {"boxes": boxes, "labels": labels, "masks": masks.to(torch.uint8), **extra}

    @property
    def identity(self) -> str:
        """The data set's identity, which distinguishes it from another."""
        return getattr(self.dataset, "identity", "")

    def source(self, index: int) -> str:
        """The file that item `index` shows, for messages about it."""
        return self._sample(index).name

    def _sample(self, index: int) -> coco.Sample:
        epoch, place = divmod(index, len(self.dataset))
        order = np.random.default_rng((self.seed, epoch)).permutation(len(self.dataset))
        return self.dataset[int(order[place])]


class Decoded(Dataset):
    """A data set as a codec gives it back: each picture is coded to bytes and decoded once, into a PNG file in a folder, and read
    from there when it is asked for.

    Files that exist are kept, so that what was stopped continues: the folder is for this codec and these pictures alone.
    Under torchrun each process codes its share, and waits for the others, unless the pictures are not `shared`.
    """

    def __init__(
        self, dataset: coco.CocoDataset, codec: Any, folder: Path, *, progress: bool = True, shared: bool = True
    ) -> None:
        self.dataset, self.folder = dataset, Path(folder)
        self.panoptic, self.identity = dataset.panoptic, getattr(dataset, "identity", "")
        share = range(train.rank(), len(dataset), train.world()) if shared else range(len(dataset))
        mine = [i for i in share if not self._file(i).is_file()]
        coded = evaluate.coded(codec, Subset(dataset, mine))
        bar = tqdm(coded, "coding training pictures", len(mine), disable=None if progress else True)
        for i, (_, _, x_hat) in zip(mine, bar, strict=True):
            with files.atomically(self._file(i)) as temporary:
                Image.fromarray(pixels(x_hat)).save(temporary, "png", compress_level=1)
        for i in range(len(dataset)):
            while not self._file(i).is_file():  # another process has it; a barrier would give up after some minutes
                time.sleep(1)

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> coco.Sample:
        return self.dataset.showing(self._file(index), index)

    def _file(self, index: int) -> Path:
        return self.folder / f"{index:06d}.png"


def collate(items: list[tuple]) -> tuple[list, ...]:
    """A batch of pictures and their objects, whose numbers differ: one list for each column."""
    return tuple(map(list, zip(*items, strict=True)))


def detection_loss(network: Callable, batch: tuple[list[Tensor], list[dict[str, Tensor]]]) -> dict[str, Tensor]:
    """What a detector is trained for: the sum of its own losses on (images, targets), and each of them."""
    parts = network(*batch)
    return {"loss": sum(parts.values()), **parts}


def _fit(model: nn.Module, pictures: Any, schedule: train.Schedule, *, seed: int = 0, **how: Any) -> nn.Module:
    items = Pictures(pictures, seed, schedule.steps * schedule.batch, semantic=hasattr(model, "panoptic"))
    train.fit(model, items, detection_loss, schedule, seed=seed, collate=collate, **how)
    return model


def trained(name: str, dataset: coco.CocoDataset, schedule: train.Schedule, *, seed: int = 0, **how: Any) -> nn.Module:
    """A detector by name, trained on a data set from a random start; `how` is told to :func:`icm_helpers.train.fit`.

    Raises:
        ValueError, DataError: as in :func:`untrained`.
    """
    torch.manual_seed(seed)
    return _fit(untrained(name, dataset), dataset, schedule, seed=seed, describe=name, **how)


def finetune(
    detector: nn.Module,
    codec: Any,
    dataset: coco.CocoDataset,
    coded: Path,
    schedule: train.Schedule = FINETUNE,
    *,
    progress: bool = True,
    describe: str = "fine-tuning",
    **how: Any,
) -> nn.Module:
    """A copy of `detector`, trained further on what `codec` decodes from a data set's pictures, with their true objects.

    Shindo et al., CCNC 2024, section IV-A: the training pictures are coded too, and the detector is trained on them. All are coded
    first, into the folder `coded` as :class:`Decoded` says; `schedule` and `how` as in :func:`icm_helpers.train.fit`.

    Raises:
        DataError: a category is annotated that the detector does not know; nothing is, or crowds alone.
    """
    coco.require_categories(dataset, detector.categories, "the detector")
    _something(dataset)
    model, pictures = copy.deepcopy(detector).requires_grad_(True), Decoded(dataset, codec, coded, progress=progress)
    _fit(model, pictures, schedule, progress=progress, describe=describe, **how)
    return model.eval().requires_grad_(False)


def stated(model: Any, dataset: coco.CocoDataset, name: str, pictures: coco.CocoDataset | Decoded | None = None) -> str:
    """A detector's AP on a data set, or on coded `pictures` of it, and its PQ where both know panoptic maps, in words."""
    pictures, told = dataset if pictures is None else pictures, {}
    found = evaluate.clean_detections(pictures, model)
    for task, iou_type in (("box", "bbox"), ("mask", "segm")):
        if task == "box" or (dataset.outlined and any("segmentation" in entry for entry in found)):
            told[task], _ = evaluate.average_precision(dataset.ground_truth(), found, iou_type)
    if dataset.panoptic and hasattr(model, "panoptic"):
        guesses = ((s.image_id, model.panoptic([s.image])[0]) for s in (pictures[i] for i in range(len(pictures))))
        tallies = [evaluate.panoptic_tally(dataset.panoptic, i, guess) for i, guess in guesses]
        told["panoptic"], _ = evaluate.panoptic_scores(dataset.panoptic, tallies, evaluate.resamplings(dataset.ids, 1))
    scores = {
        task: ", ".join(f"{k} {v:.3f}" for k, v in summary.items()) or dataset.emptiness
        for task, summary in told.items()
    }
    return "\n".join(f"{name}, {len(dataset)} images, {task}: {said}" for task, said in scores.items())
