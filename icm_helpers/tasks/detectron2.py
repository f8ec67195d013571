"""Detectron2's own models, the papers' judges: Faster and Mask R-CNN for COCO, Panoptic-DeepLab for Cityscapes.

https://github.com/facebookresearch/detectron2 has no packages; `environment.yml` compiles it. The files are the zoo's
`faster_rcnn_R_50_FPN_3x` (box AP 40.2) and `mask_rcnn_R_50_FPN_3x` (box AP 41.0, mask AP 37.2), and of its project
Panoptic-DeepLab `panoptic_deeplab_R_52_os16_mg124_poly_90k_bs32` (PQ 60.3, mask AP 33.2).
"""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from icm_helpers.data.formats import CITYSCAPES_STUFF, CITYSCAPES_THINGS
from icm_helpers.panoptic import Panoptic
from icm_helpers.tasks import models, weights
from icm_helpers.tasks.coco import CATEGORIES
from icm_helpers.tasks.detector import Detector, require_picture
from icm_helpers.tasks.teacher import RCNNTeacher

CONFIGS = {
    "faster_rcnn_R_50_FPN_3x": "COCO-Detection/faster_rcnn_R_50_FPN_3x.yaml",
    "mask_rcnn_R_50_FPN_3x": "COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_3x.yaml",
}
"""The zoo's configuration of a weight file, by how the file's name begins."""


def _absent(error: ImportError) -> str:
    """What is missing where detectron2, or what it imports, cannot be imported."""
    missing = (error.name or "detectron2").partition(".")[0]
    others = "" if missing == "detectron2" else " for detectron2"
    return f"this detector needs the package {missing}{others} ({error}): make the environment of environment.yml"


class Detectron2(Detector, RCNNTeacher):
    """A detector of detectron2's zoo that takes RGB in [0, 1], as all of the book's do, and is differentiable in it.

    `model` is what `detectron2.modeling.build_model` gives, asked with the zoo's settings: scores above 0.05, at most 100 boxes. It
    sees what it was trained on: BGR (or not) from 0 to 255 less its mean, pictures resized so that the shorter side has `min_size`
    pixels, or where that would make the longer one exceed `max_size`, so that it has these. Its class k is the k-th of COCO's ids
    in rising order. `scale` is the magnification at which it sees COCO's usual pictures, 480 pixels high: :meth:`features`
    keeps it for crops.
    """

    def __init__(self, model: nn.Module, min_size: int = 800, max_size: int = 1333, bgr: bool = True) -> None:
        super().__init__()
        self.categories = dict(CATEGORIES)
        self.model, self.bgr = model, bgr
        self.min_size, self.max_size, self.scale = min_size, max_size, min_size / 480

    @classmethod
    def from_weights(cls, path: Path | str) -> Detectron2:
        """Load a weight file of the zoo, frozen; its name says which network it is.

        Raises:
            ImportError: detectron2 is not installed.
            FileNotFoundError: there is no such file.
            ValueError: it is damaged, holds another network, or its name is none of the zoo's.
        """
        path = models.present(path)
        config = next((config for start, config in CONFIGS.items() if path.name.startswith(start)), None)
        if config is None:
            raise ValueError(
                f"the name of {path} must begin with one of {', '.join(CONFIGS)}: it says which network it is"
            )
        try:
            from detectron2 import model_zoo
        except ImportError as error:
            raise ImportError(f"{_absent(error)}, or use torchvision's faster-rcnn-r50 and mask-rcnn-r50") from error
        settings = model_zoo.get_config(config)
        settings.MODEL.DEVICE = "cpu"  # moved by whoever loads it, as every other detector is
        sizes = settings.INPUT.MIN_SIZE_TEST, settings.INPUT.MAX_SIZE_TEST
        network = _filled(settings, path, f"the network of {config}")
        return cls(network, *sizes, bgr=settings.INPUT.FORMAT == "BGR").float().eval().requires_grad_(False)

    def _normalised(self, x: Tensor) -> Tensor:
        return (self._channels(x) - self.model.pixel_mean) / self.model.pixel_std

    def _proposing(self) -> nn.Module:
        return self.model.proposal_generator.rpn_head

    def _detect_one(self, image: Tensor) -> dict[str, Tensor]:
        height, width = image.shape[1:]
        scale = min(self.min_size / min(height, width), self.max_size / max(height, width))
        size = [max(1, int(side * scale + 0.5)) for side in (height, width)]
        resized = interpolate(image[None], size, mode="bilinear", antialias=scale < 1)
        (found,) = self.model([{"image": self._channels(resized)[0], "height": height, "width": width}])
        found = found["instances"]
        ids = torch.tensor(sorted(self.categories), device=image.device)
        masks = {"masks": found.pred_masks} if found.has("pred_masks") else {}
        return {"boxes": found.pred_boxes.tensor, "scores": found.scores, "labels": ids[found.pred_classes], **masks}

    def _channels(self, x: Tensor) -> Tensor:
        """(N, 3, H, W) RGB in [0, 1] -> the network's order, in 0 to 255."""
        return 255 * (x.flip(1) if self.bgr else x)


class CityscapesPanopticDeepLab(nn.Module):
    """Panoptic-DeepLab (Cheng et al., CVPR 2020) with a ResNet-52, of detectron2's project, for Cityscapes' street scenes.

    `categories` maps Cityscapes' own ids to names. The network pools its context over as much of a picture as its training crops
    showed, 512 x 1024 pixels, so that sides must be multiples of these: a picture is resized to `size`, Cityscapes' own, and must
    be twice as wide as high.
    """

    def __init__(self, model: nn.Module, size: tuple[int, int] = (1024, 2048)) -> None:
        super().__init__()
        self.categories = CITYSCAPES_STUFF | CITYSCAPES_THINGS  # in the order of the classes that the network counts
        self.model, self.size = model, size

    @staticmethod
    def settings() -> Any:
        """The project's configuration of these weights, whose file detectron2 does not install; batch normalisation is that of a
        single process.

        Raises:
            ImportError: detectron2 is not installed, or panopticapi, which its project imports.
        """
        try:
            from detectron2.config import get_cfg
            from detectron2.projects.panoptic_deeplab import add_panoptic_deeplab_config
        except ImportError as error:
            raise ImportError(_absent(error)) from error
        settings = get_cfg()
        add_panoptic_deeplab_config(settings)
        res = {"DEPTH": 50, "NORM": "BN", "OUT_FEATURES": ["res2", "res3", "res5"], "RES5_DILATION": 2}
        res |= {"RES5_MULTI_GRID": [1, 2, 4], "STEM_TYPE": "deeplab", "STEM_OUT_CHANNELS": 128, "STRIDE_IN_1X1": False}
        head = {"NAME": "PanopticDeepLabSemSegHead", "IN_FEATURES": ["res2", "res3", "res5"], "NUM_CLASSES": 19}
        head |= {"PROJECT_FEATURES": ["res2", "res3"], "PROJECT_CHANNELS": [32, 64], "CONVS_DIM": 256, "NORM": "BN"}
        values = {
            "MODEL": {
                "DEVICE": "cpu",  # moved by whoever loads it, as every other detector is
                "META_ARCHITECTURE": "PanopticDeepLab",
                "PIXEL_MEAN": [123.675, 116.28, 103.53],
                "PIXEL_STD": [58.395, 57.12, 57.375],
            },
            "MODEL.BACKBONE": {"NAME": "build_resnet_deeplab_backbone", "FREEZE_AT": 0},
            "MODEL.RESNETS": res,
            "MODEL.SEM_SEG_HEAD": head,
            "MODEL.INS_EMBED_HEAD": {"NORM": "BN"},
            "DATASETS": {"TRAIN": ("cityscapes_fine_panoptic_train",)},
            "INPUT": {"FORMAT": "RGB"},
            "INPUT.CROP": {"ENABLED": True, "TYPE": "absolute", "SIZE": [512, 1024]},
        }
        listed = ((f"{node}.{key}", value) for node, some in values.items() for key, value in some.items())
        settings.merge_from_list([item for pair in listed for item in pair])
        return settings

    @classmethod
    def from_weights(cls, path: Path | str) -> CityscapesPanopticDeepLab:
        """Load the project's weight file, frozen; errors as of :meth:`Detectron2.from_weights`."""
        path = models.present(path)
        network = _filled(cls.settings(), path, "Panoptic-DeepLab with a ResNet-52")
        return cls(network).float().eval().requires_grad_(False)

    @torch.no_grad()
    def panoptic(self, images: list[Tensor]) -> list[Panoptic]:
        """The panoptic map of each image, RGB (3, H, 2 H) in [0, 1]; a `ValueError` where one has another shape, or is not finite.

        The score of a segment is its mean probability, of a thing times the heat at its centre.
        """
        self.eval()
        return [self._one(image.to(self.model.device)) for image in images]

    def detect(self, images: list[Tensor]) -> list[dict[str, Tensor]]:
        """The things among what :meth:`panoptic` finds."""
        return [found.detections() for found in self.panoptic(images)]

    def _one(self, image: Tensor) -> Panoptic:
        require_picture(image)
        if image.shape[2] != 2 * image.shape[1]:
            told = f"image of shape {tuple(image.shape)}"
            raise ValueError(f"{told}: this Panoptic-DeepLab takes (3, H, 2 H), as Cityscapes has")
        height, width = image.shape[1:]
        if image.shape[1:] != self.size:
            image = interpolate(image[None], self.size, mode="bilinear", antialias=self.size[0] < height)[0]
        (found,) = self.model([{"image": 255 * image, "height": height, "width": width}])
        labels = found["panoptic_seg"][0].cpu()  # (H, W): 1000 class + number, or -1
        probabilities = found["sem_seg"].softmax(0).cpu()
        # Of things alone, in the order of their labels; absent where there is none.
        things = iter(found["instances"].scores.tolist() if "instances" in found else [])
        known, segments = list(self.categories), []
        for label in labels.unique().tolist():
            if label < 0:
                continue
            k = label // 1000
            category, mask = known[k], labels == label
            isthing = int(category in CITYSCAPES_THINGS)
            score = next(things) if isthing else probabilities[k][mask].mean().item()
            segments.append({"id": label + 1, "category_id": category, "isthing": isthing, "score": score})
        return Panoptic((labels + 1).int().numpy(), segments)  # -1, nothing, becomes void


def _filled(settings: Any, path: Path, what: str) -> nn.Module:
    """The network of a configuration with the weights in a file."""
    from detectron2.modeling import build_model

    model, state = build_model(settings), weights.published(path, _read)
    # Files and networks may hold these or not: what the network computes by itself, and the mean and scale of pixels.
    computed = ("pixel_", "proposal_generator.anchor")
    own = {k: v for k, v in model.state_dict().items() if k.startswith(computed)}
    with weights.fitting(path, what):
        model.load_state_dict(own | {k: v for k, v in state.items() if not k.startswith(computed)})
    return model


_ALLOWED = {("_codecs", "encode"), ("collections", "OrderedDict"), ("numpy", "dtype"), ("numpy", "ndarray")}
_ALLOWED |= {(f"numpy.{core}.multiarray", name) for core in ("core", "_core") for name in ("_reconstruct", "scalar")}


class _Unpickler(pickle.Unpickler):
    """Reads arrays and plain containers; anything else that a file asks for is refused before it runs."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ALLOWED:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}")
        return super().find_class(module, name)


def _read(path: Path) -> dict[str, Tensor]:
    """The tensors in a file of the zoo, a pickle of `{"model": {name: array}}`."""
    with path.open("rb") as file:
        content = _Unpickler(file, encoding="latin1").load()
    return {name: torch.as_tensor(array) for name, array in content["model"].items()}
