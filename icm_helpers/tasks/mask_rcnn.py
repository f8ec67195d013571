"""Mask R-CNN and Faster R-CNN with a feature pyramid, torchvision's classes: small ones trained on scenes."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torchvision.models.detection import FasterRCNN, MaskRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.models.detection.rpn import RPNHead
from torchvision.models.resnet import BasicBlock
from torchvision.ops import Conv2dNormActivation, MultiScaleRoIAlign

from icm_helpers.tasks.detector import Detector, Resize
from icm_helpers.tasks.teacher import RCNNTeacher
from icm_helpers.tasks.weights import Own


class SmallMaskRCNN(Own, Detector, RCNNTeacher):
    """A Mask R-CNN of four million parameters: a half-width ResNet, a 64-channel pyramid p2..p5, light heads.

    He et al., "Mask R-CNN", ICCV 2017; the classes are torchvision's. Labels are the data set's own category ids. Inside, the
    shorter side of images is resized to `size` pixels; `scale` is the magnification at which it sees the scenes that it is
    trained on, 192 pixels wide: :meth:`task_loss` and :meth:`features` keep it.
    """

    name = "mask-rcnn-small"
    masks = True
    widths = (32, 64, 128, 256)  # of the backbone's stages
    hidden = 256  # units of the box head

    def __init__(self, categories: Mapping[int, str], size: int = 256) -> None:
        super().__init__()
        self.categories = dict(categories)
        self.size, self.scale = size, size / 192
        width = 64
        body = _backbone(self.widths)
        pyramid = BackboneWithFPN(body, {f"layer{i}": f"p{i + 1}" for i in (1, 2, 3, 4)}, list(self.widths), width)
        pyramid.fpn.extra_blocks = None  # p2..p5, as the papers use; no pooled fifth level
        levels, classes = ["p2", "p3", "p4", "p5"], len(categories) + 1
        parts: dict[str, nn.Module] = {
            "rpn_head": RPNHead(width, 3),
            "box_roi_pool": MultiScaleRoIAlign(levels, 7, 2),
            "box_head": TwoMLPHead(width * 7 * 7, self.hidden),
            "box_predictor": FastRCNNPredictor(self.hidden, classes),
        }
        if self.masks:
            parts["mask_roi_pool"] = MultiScaleRoIAlign(levels, 14, 2)
            parts["mask_head"] = MaskRCNNHeads(width, (width, width), 1)
            parts["mask_predictor"] = MaskRCNNPredictor(width, width, classes)
        limits = {"rpn_pre_nms_top_n_train": 800, "rpn_pre_nms_top_n_test": 500, "rpn_post_nms_top_n_train": 300}
        limits |= {"rpn_post_nms_top_n_test": 200, "rpn_batch_size_per_image": 128, "box_batch_size_per_image": 64}
        anchors = AnchorGenerator(((16,), (32,), (64,), (128,)), ((0.5, 1.0, 2.0),) * 4)
        sizes = {"min_size": size, "max_size": 2 * size}
        kind = MaskRCNN if self.masks else FasterRCNN
        self.model = kind(pyramid, rpn_anchor_generator=anchors, box_score_thresh=0.01, **sizes, **limits, **parts)
        self.model.transform = Resize.of(self.model.transform)
        # torchvision counts classes 1..K; the data set has ids of its own.
        self._ids = sorted(self.categories)

    def forward(self, images: list[Tensor], targets: list[dict[str, Tensor]]) -> dict[str, Tensor]:
        """The training losses of a batch: RPN objectness and box, head class and box, mask.

        Images are each (3, H, W) in [0, 1]; targets `boxes` (n, 4) in pixels, `labels` (n,) category ids, `masks` (n, H, W).
        """
        lookup = {category: i + 1 for i, category in enumerate(self._ids)}
        mapped = [{**t, "labels": t["labels"].new_tensor([lookup[c] for c in t["labels"].tolist()])} for t in targets]
        return self.model(images, mapped)

    def task_loss(self, images: list[Tensor], targets: list[dict[str, Tensor]]) -> Tensor:
        r"""The frozen detector's own training loss on images, :math:`\mathcal M(\hat x)` in eq. 2 of Shindo et al. (CCNC 2024).

        The sum of what :meth:`forward` gives, each a mean over what is sampled in the batch, by torch's global generator.
        Differentiable in the images; batch normalisation keeps its statistics, and every module its mode. Crops are magnified by
        `scale`: resized to `size`, as whole scenes are, their objects would be larger than any that the detector was trained on.

        Raises:
            ValueError: images differ in size, or hold values that are not finite.
        """
        if len({image.shape for image in images}) != 1:
            raise ValueError(f"images of shapes {[tuple(image.shape) for image in images]}: one batch takes one size")
        if not all(image.isfinite().all() for image in images):
            raise ValueError("images hold NaN or infinity: what made them, perhaps a diverged codec, is broken")
        network, resize = self.model, self.model.transform
        modes, limits = {module: module.training for module in self.modules()}, (resize.min_size, resize.max_size)
        height, width = (round(side * self.scale) for side in images[0].shape[1:])
        try:
            self.eval()
            # torchvision asks these three whether losses are wanted; everything below them stays as for inference.
            network.training = network.rpn.training = network.roi_heads.training = True
            resize.min_size, resize.max_size = (min(height, width),), max(height, width)
            return sum(self(images, targets).values())
        finally:
            resize.min_size, resize.max_size = limits
            for module, mode in modes.items():
                module.training = mode

    def _detect_one(self, image: Tensor) -> dict[str, Tensor]:
        (found,) = self.model([image])
        found["labels"] = torch.tensor([0, *self._ids], device=image.device)[found["labels"]]
        if self.masks:
            found["masks"] = found["masks"][:, 0] > 0.5  # (n, 1, H, W) probabilities -> (n, H, W)
        return found


class SmallFasterRCNN(SmallMaskRCNN):
    """Ren et al., "Faster R-CNN", NeurIPS 2015, with the same pyramid: no mask branch, and in all a quarter of the parameters."""

    name = "faster-rcnn-small"
    masks = False
    widths = (16, 32, 64, 96)
    hidden = 64


def _backbone(widths: tuple[int, ...]) -> nn.Sequential:
    """Two basic blocks a stage, strides 4, 8, 16, 32; the names are ResNet's."""
    stages: dict[str, nn.Module] = {
        "stem": nn.Sequential(Conv2dNormActivation(3, 32, 3, stride=2), Conv2dNormActivation(32, 32, 3, stride=2))
    }
    channels = 32
    for i, width in enumerate(widths, start=1):
        stride, shortcut = (1 if i == 1 else 2), None
        if stride != 1 or channels != width:
            shortcut = Conv2dNormActivation(channels, width, 1, stride=stride, activation_layer=None)
        stages[f"layer{i}"] = nn.Sequential(BasicBlock(channels, width, stride, shortcut), BasicBlock(width, width))
        channels = width
    return nn.Sequential(OrderedDict(stages))
