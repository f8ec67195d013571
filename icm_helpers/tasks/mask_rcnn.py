"""Mask R-CNN with a feature pyramid, torchvision's classes: a small one trained on scenes."""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torchvision.models.detection import MaskRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.models.detection.faster_rcnn import TwoMLPHead
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.models.detection.rpn import RPNHead
from torchvision.models.resnet import BasicBlock
from torchvision.ops import Conv2dNormActivation, MultiScaleRoIAlign

DEFAULT = Path(__file__).resolve().parents[2] / "data" / "checkpoints" / "mask-rcnn-small.safetensors"


class SmallMaskRCNN(nn.Module):
    """A Mask R-CNN of about 3.5 million parameters: a half-width ResNet, a 64-channel pyramid p2..p5, light heads.

    He et al., "Mask R-CNN", ICCV 2017; the classes are torchvision's. Labels are the data set's own category ids.

    Args:
        categories: id -> name of the things it knows.
        size: the shorter side that images are resized to inside, in pixels.
    """

    def __init__(self, categories: Mapping[int, str], size: int = 256) -> None:
        super().__init__()
        self.categories = dict(categories)
        self.size = size
        width = 64
        body = _backbone((32, 64, 128, 256))
        pyramid = BackboneWithFPN(body, {f"layer{i}": f"p{i + 1}" for i in (1, 2, 3, 4)}, [32, 64, 128, 256], width)
        pyramid.fpn.extra_blocks = None  # p2..p5, as the papers use; no pooled fifth level
        anchors = AnchorGenerator(((16,), (32,), (64,), (128,)), ((0.5, 1.0, 2.0),) * 4)
        levels = ["p2", "p3", "p4", "p5"]
        self.model = MaskRCNN(
            pyramid,
            min_size=size,
            max_size=2 * size,
            rpn_anchor_generator=anchors,
            rpn_head=RPNHead(width, 3),
            rpn_pre_nms_top_n_train=800,
            rpn_pre_nms_top_n_test=500,
            rpn_post_nms_top_n_train=300,
            rpn_post_nms_top_n_test=200,
            rpn_batch_size_per_image=128,
            box_roi_pool=MultiScaleRoIAlign(levels, 7, 2),
            box_head=TwoMLPHead(width * 7 * 7, 256),
            box_predictor=_BoxPredictor(256, len(categories) + 1),
            box_batch_size_per_image=64,
            box_score_thresh=0.01,
            mask_roi_pool=MultiScaleRoIAlign(levels, 14, 2),
            mask_head=MaskRCNNHeads(width, (width, width), 1),
            mask_predictor=MaskRCNNPredictor(width, width, len(categories) + 1),
        )
        # torchvision counts classes 1..K; the data set has ids of its own.
        self._ids = sorted(self.categories)

    def forward(self, images: list[Tensor], targets: list[dict[str, Tensor]]) -> dict[str, Tensor]:
        """The training losses of a batch: RPN objectness and box, head class and box, mask.

        Args:
            images: each (3, H, W) in [0, 1].
            targets: each `boxes` (n, 4) in pixels, `labels` (n,) category ids, `masks` (n, H, W).
        """
        lookup = {category: i + 1 for i, category in enumerate(self._ids)}
        mapped = [{**t, "labels": t["labels"].new_tensor([lookup[c] for c in t["labels"].tolist()])} for t in targets]
        return self.model(images, mapped)

    @torch.no_grad()
    def detect(self, images: list[Tensor]) -> list[dict[str, Tensor]]:
        """Find objects: for each image `boxes` (n, 4) in pixels, `scores` (n,), `labels` (n,) ids, `masks` (n, H, W) bool."""
        self.eval()
        device = next(self.parameters()).device
        ids = torch.tensor([0, *self._ids], device=device)
        found = self.model([image.to(device) for image in images])
        return [{**d, "labels": ids[d["labels"]], "masks": d["masks"][:, 0] > 0.5} for d in found]

    def save(self, path: Path | str) -> None:
        """Write the weights in half precision, with the categories, to a safetensors file."""
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        weights = {k: v.half() if v.is_floating_point() else v for k, v in self.model.state_dict().items()}
        categories = json.dumps({str(k): v for k, v in self.categories.items()})
        temporary = path.with_suffix(".partial")
        save_file(
            weights, temporary, metadata={"model": "mask-rcnn-small", "categories": categories, "size": str(self.size)}
        )
        temporary.replace(path)

    @classmethod
    def from_weights(cls, path: Path | str = DEFAULT) -> SmallMaskRCNN:
        """Load a frozen model from a file that :meth:`save` wrote.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: it is not a checkpoint of this model.
        """
        path = Path(path)
        if not path.is_file():
            raise FileNotFoundError(
                f"{path} is missing: train one with `python -m icm_helpers.run detector --out {path}`"
            )
        try:
            with safe_open(path, framework="pt") as file:
                metadata = file.metadata() or {}
                weights = {k: file.get_tensor(k) for k in file.keys()}  # noqa: SIM118 - not a dictionary
        except SafetensorError as error:
            raise ValueError(f"{path} is not a readable safetensors file ({error}): fetch or train it again") from error
        if metadata.get("model") != "mask-rcnn-small":
            raise ValueError(f"{path} holds {metadata.get('model', 'something else')}, not a mask-rcnn-small")
        categories = {int(k): v for k, v in json.loads(metadata["categories"]).items()}
        model = cls(categories, int(metadata["size"]))
        try:
            model.model.load_state_dict({k: v.float() if v.is_floating_point() else v for k, v in weights.items()})
        except RuntimeError as error:
            raise ValueError(f"{path} does not fit this version of mask-rcnn-small: {str(error)[:300]}") from error
        return model.eval().requires_grad_(False)


class _BoxPredictor(nn.Module):
    """torchvision's FastRCNNPredictor, without its assertion on the input's shape."""

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self.cls_score = nn.Linear(channels, classes)
        self.bbox_pred = nn.Linear(channels, classes * 4)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.cls_score(x), self.bbox_pred(x)


def _backbone(widths: tuple[int, ...]) -> nn.Sequential:
    """Two basic blocks a stage, strides 4, 8, 16, 32; the names are ResNet's."""
    stages: dict[str, nn.Module] = {
        "stem": nn.Sequential(Conv2dNormActivation(3, 32, 3, stride=2), Conv2dNormActivation(32, 32, 3, stride=2))
    }
    channels = 32
    for i, width in enumerate(widths, start=1):
        stride = 1 if i == 1 else 2
        shortcut = None
        if stride != 1 or channels != width:
            shortcut = Conv2dNormActivation(channels, width, 1, stride=stride, activation_layer=None)
        stages[f"layer{i}"] = nn.Sequential(BasicBlock(channels, width, stride, shortcut), BasicBlock(width, width))
        channels = width
    return nn.Sequential(OrderedDict(stages))
