"""The detectors that judge: loaded by name, trained on a data set, and trained further on what a codec decodes."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset
from tqdm import tqdm

from icm_helpers import evaluate, train
from icm_helpers.codecs.zoo import CHECKPOINTS
from icm_helpers.data import coco, datasets, formats
from icm_helpers.ledger import results
from icm_helpers.tasks import sam
from icm_helpers.tasks.detectron2 import CityscapesPanopticDeepLab, Detectron2
from icm_helpers.tasks.mask_rcnn import SmallFasterRCNN, SmallMaskRCNN
from icm_helpers.tasks.onnx import YOLOX
from icm_helpers.tasks.panoptic_deeplab import PanopticDeepLab
from icm_helpers.tasks.rcnn import COCORCNN
from icm_helpers.tasks.yolo import YOLO
from icm_helpers.tasks.yolov5 import YOLOv5

WEIGHTS = results.ROOT / "data" / "weights"  # where `python -m icm_helpers.data.datasets fetch` puts them
TRAINABLE: Mapping[str, type[SmallMaskRCNN] | type[YOLO] | type[PanopticDeepLab]] = {
    "mask-rcnn-small": SmallMaskRCNN,
    "faster-rcnn-small": SmallFasterRCNN,
    "yolov5n-scenes": YOLO,
    "panoptic-deeplab-scenes": PanopticDeepLab,
}


def _real(file: str) -> Path:
    return datasets.real_data() / file


def _yolov5n() -> Path:
    return datasets.fetched_or_real(WEIGHTS / "yolov5n.pt", "weights_yolov5n/yolov5n.safetensors")


_SOURCES: Mapping[str, tuple[Callable[[], Path], Callable[[Path], Any]]] = {
    "mask-rcnn-small": (lambda: CHECKPOINTS / "mask-rcnn-small.safetensors", SmallMaskRCNN.from_weights),
    "faster-rcnn-small": (lambda: CHECKPOINTS / "faster-rcnn-small.safetensors", SmallFasterRCNN.from_weights),
    "yolov5n-scenes": (lambda: CHECKPOINTS / "yolov5n-scenes.safetensors", YOLO.from_weights),
    "panoptic-deeplab-scenes": (
        lambda: CHECKPOINTS / "panoptic-deeplab-scenes.safetensors",
        PanopticDeepLab.from_weights,
    ),
    "yolov5n": (_yolov5n, YOLOv5.from_weights),
    "yolox-nano": (lambda: _real("weights_yolox_nano/yolox_nano.onnx"), YOLOX.from_weights),
    "faster-rcnn-r50": (lambda: WEIGHTS / "fasterrcnn_resnet50_fpn_coco-258fb6c6.pth", COCORCNN.from_weights),
    "mask-rcnn-r50": (lambda: WEIGHTS / "maskrcnn_resnet50_fpn_coco-bf2d0c1e.pth", COCORCNN.from_weights),
    "faster-rcnn-d2": (lambda: WEIGHTS / "faster_rcnn_R_50_FPN_3x-280758.pkl", Detectron2.from_weights),
    "mask-rcnn-d2": (lambda: WEIGHTS / "mask_rcnn_R_50_FPN_3x-f10217.pkl", Detectron2.from_weights),
    "panoptic-deeplab-d2": (
        lambda: WEIGHTS / "panoptic_deeplab_R_52_os16_mg124_poly_90k_bs32-bd324a.pkl",
        CityscapesPanopticDeepLab.from_weights,
    ),
}
NAMES = tuple(_SOURCES)
"""What :func:`load` knows."""
FINETUNE = train.Schedule(steps=200, batch=16, lr=3e-4, warmup=20, milestones=(0.6, 0.85), clip=5.0)
"""How a detector is trained on decoded pictures; a recipe says for how many steps."""
FINETUNE_IMAGES = 400


def load(name: str) -> evaluate.Detector:
    """A recognition model by `name` or `name@fingerprint`, frozen.

    Raises:
        ValueError: unknown name, or its weights are not the ones the fingerprint says.
        FileNotFoundError, DataError: its weights, or the folder that has them, are missing.
        ImportError: a package that it needs is not installed.
    """
    name, _, wanted = name.partition("@")
    if name not in _SOURCES:
        raise ValueError(f"no detector is called {name!r}; there is {', '.join(_SOURCES)}")
    find, read = _SOURCES[name]
    path = find()
    # Where the file is missing, its reader says what to do.
    found = results.fingerprint(path) if path.is_file() else wanted
    if wanted and found != wanted:
        raise ValueError(
            f"{path} has fingerprint {found}, the recipe asks for {wanted}: these are other weights. "
            "Restore the file, or write the new fingerprint into presets.DETECTORS and measure again"
        )
    return read(path)


def segmenter(name: str) -> str:
    """What `tasks.sam` calls a Segment Anything that is named with the fingerprint of its weights: `vit_b` for `sam-vit-b@...`.

    Raises:
        ValueError: other weights lie where its own belong. Where none lie, whoever loads them says what to do.
    """
    name, _, wanted = name.partition("@")
    model = name.removeprefix("sam-").removesuffix("-sam").replace("-", "_")
    path = sam.weights_path(model)
    if path.exists() and (found := results.fingerprint(path)) != wanted:
        raise ValueError(f"{path} has fingerprint {found}, the edges are those of {name}@{wanted}: other weights")
    return model


def untrained(name: str, dataset: coco.CocoDataset) -> nn.Module:
    """A detector of `TRAINABLE` for what a data set annotates, with random weights.

    Raises:
        DataError: it needs panoptic maps, and the data set has none.
    """
    build = TRAINABLE[name]
    if build is not PanopticDeepLab:
        return build(dataset.used_categories())
    if dataset.panoptic is None:
        raise formats.DataError(
            f"{name} learns from panoptic maps, which {dataset.annotations} does not bring: take scenes"
        )
    return build(dataset.panoptic.categories, dataset.panoptic.things)


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

    def source(self, index: int) -> str:
        """The file that item `index` shows, for messages about it."""
        return self._sample(index).name

    def _sample(self, index: int) -> coco.Sample:
        epoch, place = divmod(index, len(self.dataset))
        order = np.random.default_rng((self.seed, epoch)).permutation(len(self.dataset))
        return self.dataset[int(order[place])]


class Decoded(Dataset):
    """A data set as a codec gives it back: each picture coded to bytes and decoded once, kept with 8 bits a channel."""

    def __init__(self, dataset: coco.CocoDataset, codec: Any, *, progress: bool = True) -> None:
        self.samples, self.panoptic = [], dataset.panoptic
        coded, hidden = evaluate.coded(codec, dataset), None if progress else True
        for sample, _, x_hat in tqdm(coded, "coding training pictures", len(dataset), disable=hidden):
            self.samples.append(replace(sample, image=(x_hat * 255).round().byte()))

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> coco.Sample:
        sample = self.samples[index]
        return replace(sample, image=sample.image.float() / 255)


def collate(items: list[tuple]) -> tuple[list, ...]:
    """A batch of pictures and their objects, whose numbers differ: one list for each column."""
    return tuple(map(list, zip(*items, strict=True)))


def detection_loss(network: Callable, batch: tuple[list[Tensor], list[dict[str, Tensor]]]) -> dict[str, Tensor]:
    """What a detector is trained for: the sum of its own losses on (images, targets), and each of them."""
    parts = network(*batch)
    return {"loss": sum(parts.values()), **parts}


def finetune(
    detector: nn.Module,
    codec: Any,
    dataset: coco.CocoDataset,
    schedule: train.Schedule = FINETUNE,
    *,
    folder: Path | None = None,
    seed: int = 0,
    device: str = "auto",
    precision: str = "32-true",
    progress: bool = True,
    describe: str = "fine-tuning",
    identity: str = "",
) -> nn.Module:
    """A copy of `detector`, trained further on what `codec` decodes from a data set's pictures, with their true objects.

    Shindo et al., CCNC 2024, section IV-A: the training pictures are coded too, and the detector is trained on them.

    Args:
        detector: one of `TRAINABLE`.
        codec: anything :func:`icm_helpers.codecs.container.encode` takes.
        dataset: training pictures; all are coded first.
        schedule, folder, seed, device, precision, progress, describe, identity: as in :func:`icm_helpers.train.fit`.

    Raises:
        DataError: a category is annotated that the detector does not know.
    """
    coco.require_categories(dataset, detector.categories, "the detector")
    model = copy.deepcopy(detector).requires_grad_(True)
    decoded = Decoded(dataset, codec, progress=progress)
    pictures = Pictures(decoded, seed, schedule.steps * schedule.batch, semantic=hasattr(model, "panoptic"))
    train.fit(
        model,
        pictures,
        detection_loss,
        schedule,
        folder=folder,
        seed=seed,
        device=device,
        precision=precision,
        collate=collate,
        progress=progress,
        describe=describe,
        identity=identity,
    )
    return model.eval().requires_grad_(False)
