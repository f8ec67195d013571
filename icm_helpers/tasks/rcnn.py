"""Faster R-CNN and Mask R-CNN, ResNet-50 with a feature pyramid, with torchvision's first COCO weights.

The files are torchvision's `fasterrcnn_resnet50_fpn_coco-258fb6c6.pth` and `maskrcnn_resnet50_fpn_coco-bf2d0c1e.pth`, for which it
states a box AP of 37.0 and 37.9, and a mask AP of 34.6, on COCO val2017.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor
from torchvision.models.detection import FasterRCNN, MaskRCNN
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor
from torchvision.models.detection.mask_rcnn import MaskRCNNPredictor
from torchvision.ops import FrozenBatchNorm2d

from icm_helpers.tasks import weights
from icm_helpers.tasks.coco import CATEGORIES
from icm_helpers.tasks.detector import Detector, Resize
from icm_helpers.tasks.teacher import RCNNTeacher

_WHAT = (
    "a Faster or Mask R-CNN for COCO with a ResNet-50 pyramid, as torchvision's "
    "fasterrcnn_resnet50_fpn_coco-258fb6c6.pth and maskrcnn_resnet50_fpn_coco-bf2d0c1e.pth do, not its v2"
)


class COCORCNN(Detector, RCNNTeacher):
    """torchvision's Faster R-CNN (Ren et al., NeurIPS 2015) or, with `masks`, Mask R-CNN (He et al., ICCV 2017) for COCO.

    `model` is torchvision's own network, differentiable in the images; its labels are COCO's category ids. It is asked with
    torchvision's settings: scores above 0.05, at most 100 boxes, of one class none overlapping by 0.5. Images are resized inside so
    that the shorter side has `min_size` pixels, or where that would make the longer one exceed `max_size`, so that it has these.
    `scale` is the magnification at which it sees COCO's usual pictures, 480 pixels high: :meth:`features` keeps it for crops.
    """

    name = "rcnn-r50"

    def __init__(
        self,
        masks: bool,
        min_size: int = 800,
        max_size: int = 1333,
        categories: Mapping[int, str] = CATEGORIES,
    ) -> None:
        super().__init__()
        self.categories = dict(categories)
        self.scale = min_size / 480
        backbone = resnet_fpn_backbone(backbone_name="resnet50", weights=None)
        network = MaskRCNN if masks else FasterRCNN
        sizes = {"min_size": min_size, "max_size": max_size}
        self.model = network(backbone, num_classes=len(self._ids()), **sizes)
        self.model.transform = Resize.of(self.model.transform)
        for module in self.model.modules():
            if isinstance(module, FrozenBatchNorm2d):
                module.eps = 0.0  # as when the weights were trained; torchvision, too, sets it for them

    @classmethod
    def from_weights(cls, path: Path | str, min_size: int = 800, max_size: int = 1333) -> COCORCNN:
        """Load a state dict, `.pth` or `.safetensors`, frozen: whether it is Faster or Mask R-CNN follows from the weights.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: it is damaged, or holds another network.
        """
        state = weights.published(path)
        with weights.fitting(path, _WHAT):
            masks, categories = any(".mask_" in name for name in state), weights.categories(path) or CATEGORIES
            with torch.device("meta"):  # shapes only; the file's tensors take their places
                model = cls(masks, min_size, max_size, categories)
            model.model.load_state_dict(state, assign=True)
        return model.float().eval().requires_grad_(False)

    @classmethod
    def adapted(cls, path: Path | str, categories: Mapping[int, str]) -> COCORCNN:
        """The network of a file, to be trained for other categories: its last layers begin at random."""
        model = cls.from_weights(path).requires_grad_()
        if any(model.categories.get(i) != name for i, name in categories.items()):
            model.categories, heads = dict(categories), model.model.roi_heads
            classes = len(categories) + 1
            heads.box_predictor = FastRCNNPredictor(heads.box_predictor.cls_score.in_features, classes)
            if heads.has_mask():
                before = heads.mask_predictor.conv5_mask
                heads.mask_predictor = MaskRCNNPredictor(before.in_channels, before.out_channels, classes)
        return model

    def save(self, path: Path | str) -> None:
        """Write the weights with their categories to a safetensors file; half precision would lose the smallest variances."""
        size = self.model.transform.min_size[0]
        weights.save(path, self.name, self.model.state_dict(), self.categories, size, half=False)

    def requires_grad_(self, requires_grad: bool = True) -> COCORCNN:
        """As torchvision trains it, the backbone's first convolution and first stage stay as they are."""
        super().requires_grad_(requires_grad)
        for name in ("conv1", "layer1"):
            self.model.backbone.body[name].requires_grad_(False)
        return self

    def forward(self, images: list[Tensor], targets: list[dict[str, Tensor]]) -> dict[str, Tensor]:
        """The training losses of a batch, as in `mask_rcnn.SmallMaskRCNN`."""
        index = {category: i for i, category in enumerate(self._ids())}
        mapped = [{**t, "labels": t["labels"].new_tensor([index[c] for c in t["labels"].tolist()])} for t in targets]
        return self.model(images, mapped)

    def _ids(self) -> list[int]:
        """What the network's classes are: of COCO's first weights the ids themselves, else the categories; 0 is background."""
        return list(range(91)) if self.categories == CATEGORIES else [0, *sorted(self.categories)]

    def _detect_one(self, image: Tensor) -> dict[str, Tensor]:
        (found,) = self.model([image])
        found["labels"] = torch.tensor(self._ids(), device=image.device)[found["labels"]]
        # The head also has outputs for the ten ids that COCO skips, which no object bears.
        known = torch.isin(found["labels"], torch.tensor(list(self.categories), device=image.device))
        found = {key: value[known] for key, value in found.items()}
        if "masks" in found:
            found["masks"] = found["masks"][:, 0] > 0.5  # (n, 1, H, W) probabilities -> (n, H, W)
        return found
