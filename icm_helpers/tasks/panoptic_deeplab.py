"""A compact Panoptic-DeepLab: Cheng et al., "Panoptic-DeepLab", CVPR 2020, at the size of the scenes that it is trained on.

One network says of every pixel what it shows, how likely it is the centre of mass of a thing, and how far away that of its own
thing is. Pixels of things then go to the centre that they point at. No boxes, no proposals, no overlap to resolve.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision.models.resnet import BasicBlock
from torchvision.ops import Conv2dNormActivation

from icm_helpers.panoptic import VOID, Panoptic
from icm_helpers.tasks.detector import require_picture
from icm_helpers.tasks.weights import Own

STRIDE = 16  # of the coarsest features
WIDTH = 64  # channels of the context


class PanopticDeepLab(Own):
    """About 0.8 million parameters: an encoder to stride 16, a little atrous pyramid, two decoders to stride 2, three heads.

    The paper's lengths and areas are those of street scenes of 1024 rows; pictures of `size` rows, never resized inside, count as
    these made smaller. Only a centre's Gaussian, of 8 pixels there, would become too narrow to learn: here it has 4.

    `categories` are all that it knows, ids from 1 on, as 0 is void; `things` the ids of those that can be counted, which are
    among the weights too.

    Raises:
        ValueError: no category, an id below 1, or a thing that is not a category.
    """

    name = "panoptic-deeplab-scenes"
    SEMANTIC, CENTRE, OFFSET = 1.0, 200.0, 0.01  # weights of the losses, as in the paper
    HARDEST = 0.2  # share of the pixels that the semantic loss counts
    SMALL, SMALL_WEIGHT = 64, 3.0  # side of a small thing, and what its pixels weigh in the semantic loss
    SIGMA = 4.0  # of a centre's Gaussian
    THRESHOLD, NMS, CENTRES = (
        0.1,
        7,
        200,
    )  # least heat of a centre, side of the window in which it is the hottest, most of them
    STUFF = 2048  # least area of stuff
    ROWS = 1024  # of the pictures to which SMALL, STUFF and the offsets' loss refer

    def __init__(self, categories: Mapping[int, str], things: Collection[int] = (), size: int = 192) -> None:
        super().__init__()
        if not categories or min(categories) < 1 or not set(things) <= set(categories):
            raise ValueError(f"categories {dict(categories)}, things {sorted(things)}: ids from 1, things among them")
        self.categories, self.size = dict(categories), size
        # The network counts classes 0..K-1; the data set has ids of its own.
        self._ids = sorted(self.categories)
        self.register_buffer("isthing", torch.tensor([i in things for i in self._ids]))
        self.stem = nn.Sequential(_conv(3, 24, 3, stride=2), _conv(24, 24, 3))
        self.layer1 = _stage(24, 48, 1)
        self.layer2 = _stage(48, 96, 2)
        self.layer3 = _stage(96, 128, 1)
        self.context = _Context(128)
        self.semantic = _Decoder((64, 32, 24), len(self._ids))
        self.instance = _Decoder((48, 24, 16), 3)  # heat of centres, offsets along y and x
        self.to(memory_format=torch.channels_last)  # a fifth faster on a CPU

    def maps(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """What the three heads say of images (N, 3, H, W) in [0, 1]: logits (N, K, H, W), heat (N, 1, H, W), and offsets to the
        centre (N, 2, H, W), y x in pixels.
        """
        height, width = images.shape[2:]
        x = functional.pad(images, (0, -width % STRIDE, 0, -height % STRIDE), mode="replicate") - 0.5
        half = self.stem(x)
        quarter = self.layer1(half)
        eighth = self.layer2(quarter)
        context = self.context(self.layer3(eighth))
        maps = (
            functional.interpolate(decoder(context, eighth, quarter, half), x.shape[2:], mode="bilinear").float()
            for decoder in (self.semantic, self.instance)
        )
        logits, found = (m[:, :, :height, :width] for m in maps)
        # Offsets are some tens of pixels: the network's own unit is ten of them.
        return logits, found[:, :1], 10 * found[:, 1:]

    def forward(self, images: list[Tensor], targets: list[dict[str, Tensor]]) -> dict[str, Tensor]:
        """The training losses of a batch: `semantic`, `centre` and `offset`, weighted.

        Cross-entropy over the hardest fifth of the pixels, small things three times; squared error of the heat, over all
        pixels; absolute error of the offsets, over the pixels of things. Targets have `semantic` (H, W) category ids, 0 void,
        and of the things `masks` (n, H, W), disjoint.

        Raises:
            ValueError: images differ in size, or a label is not among the categories.
        """
        if len({image.shape for image in images}) != 1:
            raise ValueError(f"images of shapes {[tuple(image.shape) for image in images]}: one batch takes one size")
        logits, heat, offset = self.maps(torch.stack(images))
        true = [self._targets(t["semantic"].to(heat.device), t["masks"].to(heat.device)) for t in targets]
        classes, weight, true_heat, true_offset, inside = (torch.stack(v) for v in zip(*true, strict=True))
        error = functional.cross_entropy(logits, classes, reduction="none", ignore_index=-1) * weight
        hardest = error.flatten().topk(max(1, int(self.HARDEST * error.numel())), sorted=False).values
        distance = ((offset - true_offset).abs() * inside[:, None]).sum() / inside.sum().clamp(min=1)
        return {
            "semantic": self.SEMANTIC * hardest.mean(),
            "centre": self.CENTRE * (heat[:, 0] - true_heat).square().mean(),
            "offset": self.OFFSET * self.ROWS / self.size * distance,
        }

    def _targets(self, semantic: Tensor, masks: Tensor) -> tuple[Tensor, ...]:
        """Classes (H, W), -1 void; pixel weights (H, W); heat (H, W); offsets (2, H, W); pixels of things (H, W)."""
        lookup = semantic.new_full((max(self._ids) + 1,), -2)
        lookup[VOID] = -1
        lookup[self._ids] = torch.arange(len(self._ids), device=semantic.device)
        if not 0 <= int(semantic.min()) <= int(semantic.max()) < len(lookup) or (lookup[semantic] == -2).any():
            raise ValueError(f"labels {semantic.unique().tolist()} are not all among the categories {self._ids}, or 0")
        height, width = semantic.shape
        y = torch.arange(height, device=semantic.device)[:, None].float()
        x = torch.arange(width, device=semantic.device).float()
        masks = masks.float()
        area = masks.sum((1, 2)).clamp(min=1)
        cy, cx = (masks.sum(2) @ y[:, 0]) / area, (masks.sum(1) @ x) / area  # (n,)
        distance = (y - cy[:, None, None]).square() + (x - cx[:, None, None]).square()  # (n, H, W)
        blobs = torch.exp(-distance / (2 * self.SIGMA**2))
        heat = torch.cat([blobs, blobs.new_zeros(1, height, width)]).amax(0)  # there may be no thing
        inside = masks.sum(0)
        centre = torch.einsum("nhw,nk->khw", masks, torch.stack([cy, cx], 1))  # (2, H, W)
        offset = centre - torch.stack([y.expand(height, width), x.expand(height, width)])
        small = area < (self.SMALL * self.size / self.ROWS) ** 2
        weight = 1 + (self.SMALL_WEIGHT - 1) * masks[small].sum(0)
        return lookup[semantic], weight, heat, offset * inside, inside

    @torch.no_grad()
    def panoptic(self, images: list[Tensor]) -> list[Panoptic]:
        """The panoptic map of each image (3, H, W), of any size.

        The score of a segment is its mean probability, of a thing times the heat of its centre.
        """
        self.eval()
        return [self._one(image.to(self.isthing.device)) for image in images]

    def detect(self, images: list[Tensor]) -> list[dict[str, Tensor]]:
        """Find objects: for each image `boxes` (n, 4) in pixels, `scores` (n,), `labels` (n,) ids, and `masks` (n, H, W) bool."""
        return [found.detections() for found in self.panoptic(images)]

    def _one(self, image: Tensor) -> Panoptic:
        require_picture(image)
        (logits,), ((heat,),), (offset,) = self.maps(image[None])
        classes = logits.argmax(0)  # (H, W)
        probabilities = logits.softmax(0)
        foreground = self.isthing[classes]
        ids = torch.zeros_like(classes)
        segments = []

        peak = functional.max_pool2d(heat[None], self.NMS, stride=1, padding=self.NMS // 2)[0]
        centres = ((heat == peak) & (heat > self.THRESHOLD)).nonzero()  # (n, 2) y x
        centres = centres[heat[tuple(centres.T)].argsort(descending=True)[: self.CENTRES]]
        if len(centres) and foreground.any():
            pixels = foreground.nonzero()  # (p, 2)
            aims = pixels + offset[:, foreground].T
            nearest = torch.cdist(aims, centres.float()).argmin(1)  # (p,)
            votes = torch.zeros(len(centres), len(self._ids), device=image.device)
            votes.index_put_(
                (nearest, classes[foreground]), torch.ones(len(pixels), device=image.device), accumulate=True
            )
            ids[foreground] = nearest + 1
            for i in votes.any(1).nonzero()[:, 0].tolist():
                k = int(votes[i].argmax())
                score = probabilities[k][ids == i + 1].mean() * heat[tuple(centres[i])].clamp(max=1)
                segments.append({"id": i + 1, "category_id": self._ids[k], "isthing": 1, "score": float(score)})
        least = self.STUFF * (self.size / self.ROWS) ** 2
        for k in (~self.isthing).nonzero()[:, 0].tolist():
            mask = classes == k
            if mask.sum() >= least:
                number = len(centres) + 1 + k
                ids[mask] = number
                score = float(probabilities[k][mask].mean())
                segments.append({"id": number, "category_id": self._ids[k], "isthing": 0, "score": score})
        return Panoptic(ids.int().cpu().numpy(), segments)


def _conv(inputs: int, outputs: int, kernel: int = 1, **options: int) -> nn.Sequential:
    """Convolution, batch normalisation, ReLU."""
    return Conv2dNormActivation(inputs, outputs, kernel, **options)


def _separable(inputs: int, outputs: int, dilation: int) -> nn.Sequential:
    """A convolution of each channel by itself, then one across channels."""
    return nn.Sequential(_conv(inputs, inputs, 3, groups=inputs, dilation=dilation), _conv(inputs, outputs))


def _stage(inputs: int, outputs: int, blocks: int) -> nn.Sequential:
    """Basic blocks of a ResNet, the first of stride 2."""
    shortcut = Conv2dNormActivation(inputs, outputs, 1, stride=2, activation_layer=None)
    return nn.Sequential(
        BasicBlock(inputs, outputs, 2, shortcut), *(BasicBlock(outputs, outputs) for _ in range(blocks - 1))
    )


class _Context(nn.Module):
    """Atrous spatial pyramid pooling (Chen et al., 2017): one pixel, three reaches, and the whole picture."""

    def __init__(self, inputs: int) -> None:
        super().__init__()
        reaches = (_separable(inputs, WIDTH, dilation) for dilation in (1, 2, 4))
        self.branches = nn.ModuleList([_conv(inputs, WIDTH), *reaches])
        # One value a channel has no spread to normalise.
        self.whole = nn.Sequential(nn.Conv2d(inputs, WIDTH, 1), nn.ReLU())
        self.project = _conv(5 * WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        whole = self.whole(x.mean((2, 3), keepdim=True)).expand(-1, -1, *x.shape[2:])
        return self.project(torch.cat([*(branch(x) for branch in self.branches), whole], 1))


class _Decoder(nn.Module):
    """From stride 16 to 2, a finer stage of the encoder joining at each step, and a head.

    The maps are large and narrow, so that whole convolutions are quicker than separable ones here.
    """

    def __init__(self, widths: tuple[int, int, int], outputs: int) -> None:
        super().__init__()
        self.skips, self.fuse = nn.ModuleList(), nn.ModuleList()
        before = WIDTH
        for stage, joining, width in zip((96, 48, 24), (24, 16, 8), widths, strict=True):
            self.skips.append(_conv(stage, joining))
            self.fuse.append(_conv(before + joining, width, 3))
            before = width
        self.head = nn.Conv2d(before, outputs, 1)

    def forward(self, x: Tensor, *finer: Tensor) -> Tensor:
        for skip, fuse, stage in zip(self.skips, self.fuse, finer, strict=True):
            x = fuse(torch.cat([functional.interpolate(x, stage.shape[2:], mode="bilinear"), skip(stage)], 1))
        return self.head(x)
