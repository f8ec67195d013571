"""COCO's object categories, which detectors trained on COCO share."""

from __future__ import annotations

from torchvision.models.detection import FasterRCNN_ResNet50_FPN_Weights

# COCO's ids 1..90 have ten gaps, which torchvision's list of names marks "N/A"; no object bears them.
_NAMES = FasterRCNN_ResNet50_FPN_Weights.COCO_V1.meta["categories"]
CATEGORIES = {i: name for i, name in enumerate(_NAMES) if name not in ("__background__", "N/A")}
"""COCO's 80 category ids and their names, in the order in which networks count them as classes 0..79."""
