r"""What codecs are trained for, :math:`\mathcal L = \mathcal R + \lambda\,\mathcal D`: one class a loss, with only its own fields.

A loss says where distortion counts (`region`), what distortion is (`distortion`), what it needs to know of a picture, and how
figures show it. To add one, derive from :class:`Loss` and decorate it with :func:`register`: training, studies and the command
line find it by its name. The mathematics is in `losses` and `masks`; torch is imported when something is computed.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from typing import TYPE_CHECKING, Any, ClassVar

from icm_helpers import files
from icm_helpers.later import later
from icm_helpers.tasks import models

if TYPE_CHECKING:
    from torch import Tensor

    from icm_helpers.data.coco import CocoDataset, Sample
    from icm_helpers.data.video import Video
    from icm_helpers.ledger.recipe import Clip, Pictures

    Region = Callable[[Sample], Tensor]
    Objects = list[dict[str, Tensor]] | None
    Levels = dict[str, Tensor]  # a teacher's maps (N, C, h, w) by level

np, torch, container, losses, masks = later("numpy", "torch", ".codecs.container", ".losses", ".masks")
coco, scenes, teaching = later(".data.coco", ".data.scenes", ".tasks.teacher")

LOSSES: dict[str, type[Loss]] = {}
"""Every loss by its name."""


def register(loss: type[Loss]) -> type[Loss]:
    """Add a loss to the book's, under its name; a ValueError if that is taken."""
    if LOSSES.setdefault(loss.name, loss) is not loss:
        raise ValueError(f"a loss is called {loss.name!r} already: give yours another name")
    return loss


def names(video: bool = False) -> tuple[str, ...]:
    """The losses of pictures, or those of videos."""
    return tuple(name for name, loss in LOSSES.items() if loss.video == video)


def named(name: str) -> type[Loss]:
    """The class of a loss; a ValueError if there is none of this name."""
    if name not in LOSSES:
        raise ValueError(f"no loss is called {name!r}; known: {', '.join(LOSSES)}")
    return LOSSES[name]


@dataclass(frozen=True)
class Loss:
    """The base of all losses: fields are what decides the loss, and stand in its recipes; class variables describe it."""

    name: ClassVar[str]
    label: ClassVar[str]  # what a reader sees
    colour: ClassVar[str] = "#767c85"
    marker: ClassVar[str] = "o"
    looks: ClassVar[dict[str, tuple[str, str, str]]] = {}  # colour, marker, label by method, where a loss gives several
    needs_objects: ClassVar[bool] = False  # of each picture, not only their masks' union
    refinable: ClassVar[bool] = False  # a picture alone brings what it asks for: latents can be refined under it
    costly: ClassVar[bool] = False  # so that only a study's first seed is trained with it
    video: ClassVar[bool] = False
    tells: ClassVar[bool] = False  # the encoder the masks, as its region of interest

    @property
    def method(self) -> str:
        """What its curves are called: the name, with a field where one loss gives several curves."""
        return self.name

    def region(self, images: CocoDataset, pictures: Pictures, device: str = "auto") -> Region | None:
        """What gives the mask of a training picture, (1, H, W) in {0, 1}; None: the union of its objects."""
        return None

    def bind(self, device: torch.device, remember: bool = False) -> Loss:
        """The loss with what it has to load; a distilling teacher may `remember` what it has seen."""
        return self

    def shown(self, x: Tensor, mask: Tensor) -> tuple[Tensor, ...]:
        """What the codec is given of a batch."""
        return (x, mask) if self.tells else (x,)

    def check(self, images: CocoDataset) -> None:
        """Refuse a data set that the bound loss cannot be trained on, before any step."""

    def clean(self, x: Tensor, mask: Tensor, objects: Objects = None) -> Any:
        """What the decoded picture is compared with and does not depend on the codec: by default the mask."""
        return mask

    def distortion(self, x_hat: Tensor, x: Tensor, clean: Any) -> Tensor:
        r""":math:`\mathcal D` of decoded pictures (N, 3, H, W), given what :meth:`clean` found."""
        raise NotImplementedError(f"the loss `{self.name}` does not say what distortion is")

    def terms(self, out: dict[str, Any], x: Tensor, clean: Any, lmbda: float, scale: float) -> dict[str, Tensor]:
        """Loss, rate and distortion of a codec's answer."""
        bpp = losses.rate(out["likelihoods"], x.shape[0] * x.shape[2] * x.shape[3])
        distortion = self.distortion(out["x_hat"], x, clean)
        return {"loss": bpp + lmbda * scale * distortion, "bpp": bpp, "distortion": distortion}


@dataclass(frozen=True)
class Objective:
    """A loss at one weight, above zero, as `train.fit` takes it: on batches of (images, masks) and, if it needs them, objects."""

    loss: Loss
    lmbda: float
    scale: float = 1.0

    def __post_init__(self) -> None:
        if not self.lmbda * self.scale > 0:
            raise ValueError(f"lmbda must be positive, not {self.lmbda * self.scale}")

    def __call__(self, model: Callable, batch: tuple) -> dict[str, Tensor]:
        clean = self.loss.clean(*batch)
        return self.terms(model(*self.loss.shown(*batch[:2])), batch[0], clean)

    def terms(self, out: dict[str, Any], x: Tensor, clean: Any) -> dict[str, Tensor]:
        """As :meth:`Loss.terms`, at this weight."""
        return self.loss.terms(out, x, clean, self.lmbda, self.scale)


# --- on pixels -----------------------------------------------------------------------------------------------------------


@register
@dataclass(frozen=True)
class MSE(Loss):
    r"""For people, eq. 1 of Shindo et al. (CCNC 2024): :math:`\mathcal R + \lambda\,255^2\,\mathrm{MSE}(x, \hat x)`."""

    name, label, colour, marker, refinable = "mse", "MSE", "#0072b2", "o", True

    def distortion(self, x_hat: Tensor, x: Tensor, clean: Tensor) -> Tensor:
        return losses.PEAK**2 * losses.masked_mse(x, x_hat, clean.new_ones(clean.shape))


@register
@dataclass(frozen=True)
class ObjectRegion(Loss):
    r"""Shindo et al. (CCNC 2024), eq. 4: the MSE of the pictures masked by the union of their objects."""

    name, label, colour, marker, refinable = "object-region", "object region", "#d55e00", "s", True

    def distortion(self, x_hat: Tensor, x: Tensor, clean: Tensor) -> Tensor:
        return losses.PEAK**2 * losses.masked_mse(x, x_hat, clean)


@register
@dataclass(frozen=True)
class Regional(Loss):
    r"""After Li et al. (ICASSP 2023): another Lagrange multiplier for the background, and the encoder sees which is which.

    :math:`\mathcal R + \lambda\,255^2\,\overline{w \odot (x - \hat x)^2}`, where w is 1 inside objects and `outside` elsewhere.

    Args:
        outside: what an error outside objects weighs, where one inside weighs 1.
    """

    name, label, colour, marker = "roi", "learned ROI", "#aa4499", "D"
    looks: ClassVar = {
        "roi-0.1": ("#aa4499", "D", "learned ROI 0.1"),
        "roi-0.01": ("#cc79a7", "d", "learned ROI 0.01"),
    }
    tells = True

    outside: float = 0.1

    @property
    def method(self) -> str:
        return f"{self.name}-{self.outside:g}"

    def distortion(self, x_hat: Tensor, x: Tensor, clean: Tensor) -> Tensor:
        return losses.PEAK**2 * ((clean + self.outside * (1 - clean)) * (x - x_hat).square()).mean()


@register
@dataclass(frozen=True)
class SAICM(ObjectRegion):
    r"""Shindo et al. (ICIP 2024), eq. 5: on the edges :math:`\mathrm{sam}_x(\alpha)` of Segment Anything's masks.

    Args:
        segmenter: a Segment Anything by name, in a recipe with the fingerprint of its weights; masks that are missing are made.
        alpha: how sure it must be of a mask.
        drawing: in which order masks are painted: largest-first, smallest-first or surest-last.
        canny_low, canny_high: thresholds of Canny's detector.
        dilate: pixels by which edges are widened on each side.
        shift: pixels by which edges are moved to the right.
        points: asked a side of a picture; 0: as many as this Segment Anything is usually asked.
    """

    name, label, colour, marker, refinable = "sa-icm", "SA-ICM", "#009e73", "X", False
    looks: ClassVar = {
        "sa-icm-0.98": ("#117733", "h", "SA-ICM .98"),
        "sa-icm-0.93": ("#009e73", "X", "SA-ICM .93"),
        "sa-icm-0.48": ("#66c2a4", "d", "SA-ICM .48"),
    }

    segmenter: str
    alpha: float
    drawing: str = "largest-first"
    canny_low: float = 50.0
    canny_high: float = 100.0
    dilate: int = 0
    shift: int = 0
    points: int = 0

    @property
    def method(self) -> str:
        return f"{self.name}-{self.alpha:g}"

    def region(self, images: CocoDataset, pictures: Pictures, device: str = "auto") -> Region:
        masks.require_stored(self.alpha)
        asked = {"size": pictures.size, "limit": len(images), "model": models.segmenter(self.segmenter)}
        folder = masks.stored(pictures.data, **asked, points=self.points or None, device=device)
        how = {"order": self.drawing, "low": self.canny_low, "high": self.canny_high, "dilate": self.dilate}
        return lambda s: masks.stored_edges(folder, s.image_id, self.alpha, shift=self.shift, **how)


@register
@dataclass(frozen=True)
class TrueEdges(ObjectRegion):
    """The edges of the data set's own annotation: an upper bound of SA-ICM, or a stand-in, and always called so.

    Args:
        of: `maps` of things and stuff; `outlines` of objects, the smaller ones on top; or `maps, else outlines`.
    """

    name, label, colour, marker, refinable = "true-edges", "edges of the annotation", "#8c6d31", "|", False

    of: str = "maps"

    def __post_init__(self) -> None:
        if self.of not in ("maps", "outlines", "maps, else outlines"):
            raise ValueError(f"edges are of 'maps', 'outlines' or 'maps, else outlines', not of {self.of!r}")

    def region(self, images: CocoDataset, pictures: Pictures, device: str = "auto") -> Region:
        from icm_helpers.data import DataError

        if images.panoptic is None and self.of != "outlines":
            raise DataError(f"{images.annotations} has no panoptic maps, from which these edges come: fetch them too")

        def drawn(sample: Sample) -> Tensor:
            if self.of == "outlines" or (self.of != "maps" and sample.image_id not in images.panoptic):
                return _edges(masks.painted(masks.largest_first(sample.masks)))
            ids = images.panoptic[sample.image_id].ids
            return _edges(np.unique(ids, return_inverse=True)[1].reshape(ids.shape))  # (H, W), from 0

        return drawn


def _edges(labels: Any) -> Tensor:
    return torch.from_numpy(masks.edges(labels))[None].float()  # (1, H, W)


# --- through a frozen detector -------------------------------------------------------------------------------------------


@cache
def _network(name: str, device: torch.device) -> Any:
    return models.load(name).to(device)


forget_teachers = _network.cache_clear


@dataclass(frozen=True)
class Taught(Loss):
    """A loss that asks a frozen detector, the teacher: its name with the fingerprint of its weights."""

    asks: ClassVar[str]  # what the teacher must be able to do
    network: ClassVar[Any] = None

    teacher: str

    def bind(self, device: torch.device, remember: bool = False) -> Loss:
        return self.taught_by(_network(self.teacher, device))

    def taught_by(self, network: Any) -> Taught:
        """The loss with its teacher at hand; a ValueError if this detector cannot teach it."""
        if not hasattr(network, self.asks):
            who = f"{self.teacher.partition('@')[0]} cannot teach --loss {self.name}"
            raise ValueError(f"{who}: use mask-rcnn-small, or on photographs yolov5n")
        bound = copy.copy(self)
        object.__setattr__(bound, "network", network)
        return bound

    def clean(self, x: Tensor, mask: Tensor, objects: Objects = None) -> Any:
        if self.network is None:
            raise ValueError(f"the loss `{self.name}` needs a teacher: bind it first")
        return objects


@register
@dataclass(frozen=True)
class Task(Taught):
    r"""Eq. 2 of Shindo et al. (CCNC 2024): :math:`\mathcal R + \lambda_1 255^2\,\mathrm{MSE} + \lambda_2 \mathcal M(\hat x)`.

    :math:`\mathcal M` is the teacher's own training loss on the decoded picture and its true objects, and
    :math:`\lambda_2` is `task_weight` times lmbda, whatever the scale of the MSE.

    Args:
        teacher: a frozen detector by name, in a recipe with the fingerprint of its weights.
        task_weight: of its loss, beside that of the MSE.
    """

    name, label, colour, marker = "task", "task loss", "#7a6ff0", "D"
    needs_objects, costly, asks = True, True, "task_loss"

    task_weight: float = 0.0

    def check(self, images: CocoDataset) -> None:
        coco.require_categories(images, self.network.categories, files.unmarked(self.teacher)[0])

    def terms(self, out: dict[str, Any], x: Tensor, clean: Any, lmbda: float, scale: float) -> dict[str, Tensor]:
        found = losses.rate_distortion(out, x, lmbda * scale)
        task = self.network.task_loss(list(out["x_hat"].float()), clean)
        return {**found, "loss": found["loss"] + lmbda * self.task_weight * task, "task": task}


@register
@dataclass(frozen=True)
class Distill(Taught):
    r"""Iino et al., eq. 2: the teacher's features stay, :math:`\mathcal D = \frac 1 N \sum_i \mathrm{MSE}(F_i, \hat F_i)`.

    Pictures that the teacher cannot take are continued to multiples of 32 pixels by their last row and column, original and decoded
    alike.

    Args:
        levels: of the pyramid: `all`, or some, such as `p2+p3`.
    """

    name, label, colour, marker = "distill", "distillation, equal weights", "#56b4e9", "v"
    refinable, asks = True, "features_and_objectness"

    levels: str = "all"

    def bind(self, device: torch.device, remember: bool = False) -> Loss:
        network = _network(self.teacher, device)
        return self.taught_by(
            teaching.Remembered(network, files.RUNS / "teachers" / self.teacher) if remember else network
        )

    def clean(self, x: Tensor, mask: Tensor, objects: Objects = None) -> tuple[Levels, Levels | None]:
        """The original pictures' features and weights, where these do not depend on the codec: one pass of the teacher."""
        super().clean(x, mask, objects)
        with torch.no_grad():
            return self._clean(_continued(x), objects)

    def _clean(self, x: Tensor, objects: Objects) -> tuple[Levels, Any]:
        return self._chosen(self.network.features(x)), None

    def distortion(self, x_hat: Tensor, x: Tensor, clean: tuple[Levels, Any]) -> Tensor:
        feats_hat, weights = self._decoded(_continued(x_hat.float()), *clean)
        return losses.feature_distillation(clean[0], self._chosen(feats_hat), weights)

    def _decoded(self, x_hat: Tensor, feats: Levels, weights: Any) -> tuple[Levels, Any]:
        return self.network.features(x_hat), weights

    def _chosen(self, feats: Levels) -> Levels:
        if self.levels == "all":
            return feats
        if missing := set(self.levels.split("+")) - feats.keys():
            raise ValueError(f"the teacher has no level {', '.join(sorted(missing))}; it has {', '.join(feats)}")
        return {level: feats[level] for level in self.levels.split("+")}


@register
@dataclass(frozen=True)
class DistillBoxes(Distill):
    """Iino et al., eq. 3: features weighted by the true boxes."""

    name, label, colour, marker, needs_objects = "distill-boxes", "distillation, true boxes", "#e69f00", "P", True

    def _clean(self, x: Tensor, objects: Objects) -> tuple[Levels, Any]:
        feats, boxes = super()._clean(x, objects)[0], [picture["boxes"].to(x.device) for picture in objects]
        return feats, losses.box_weights(boxes, _sizes(feats), tuple(x.shape[2:]))


@register
@dataclass(frozen=True)
class DistillObjectness(Distill):
    """Iino et al., eq. 4: features weighted by the teacher's objectness.

    Args:
        reduction: of objectness over the anchors of a cell: max or mean.
        temperature: of objectness; below 1 sharpens.
        objectness: seen in the `original` picture, as we read the paper, or in the `decoded` one.
    """

    name, label, colour, marker = "distill-objectness", "distillation, objectness", "#b22f5b", "*"

    reduction: str = "max"
    temperature: float = 1.0
    objectness: str = "original"

    def __post_init__(self) -> None:
        if self.objectness not in ("original", "decoded"):
            raise ValueError(f"objectness must be of the original or the decoded picture, not {self.objectness!r}")

    def _clean(self, x: Tensor, objects: Objects) -> tuple[Levels, Any]:
        if self.objectness == "decoded":
            return super()._clean(x, objects)
        feats, logits = self.network.features_and_objectness(x)
        return self._chosen(feats), self._weights(logits, self._chosen(feats))

    def _decoded(self, x_hat: Tensor, feats: Levels, weights: Any) -> tuple[Levels, Any]:
        if weights is not None:
            return super()._decoded(x_hat, feats, weights)
        feats_hat, logits = self.network.features_and_objectness(x_hat)
        return feats_hat, self._weights(logits, feats)

    def _weights(self, logits: Levels, feats: Levels) -> Levels:
        return losses.objectness_weights(logits, _sizes(feats), self.reduction, self.temperature)


def _continued(x: Tensor) -> Tensor:
    stride = teaching.STRIDE
    return container.pad(x, stride) if x.shape[2] % stride or x.shape[3] % stride else x


def _sizes(feats: Levels) -> dict[str, tuple[int, int]]:
    return {level: tuple(f.shape[2:]) for level, f in feats.items()}


@register
@dataclass(frozen=True)
class Omnipotent(Taught):
    r"""After Feng et al. (ECCV 2022): keep what no single task taught, the stages of a backbone trained without labels.

    :math:`\mathcal D = \frac 1 N \sum_i \mathrm{MSE}(F_i, \hat F_i)` over the N stages of the original and of the decoded picture.
    The paper codes such features themselves, learns them together with the codec, and fine-tunes each task's network to read
    them; here a picture is coded, the backbone is ready before and frozen, and recognition models stay as they are.
    """

    name, label, colour, marker = "omnipotent", "omnipotent features", "#6b6100", "H"
    refinable, asks = True, "stages"

    def clean(self, x: Tensor, mask: Tensor, objects: Objects = None) -> Levels:
        super().clean(x, mask, objects)
        with torch.no_grad():
            return self.network.stages(_continued(x))

    def distortion(self, x_hat: Tensor, x: Tensor, clean: Levels) -> Tensor:
        return losses.feature_distillation(clean, self.network.stages(_continued(x_hat.float())))


# --- of videos -----------------------------------------------------------------------------------------------------------


@register
@dataclass(frozen=True)
class NeRVLoss(Loss):
    r"""Eq. 4 of Shindo et al. (ICIP 2024), the distance from a video: :math:`\beta L_1 + (1 - \beta)(1 - \mathrm{SSIM})`."""

    name, label, colour, marker, video = "nerv", "NeRV", "#0072b2", "o", True

    beta: float = 0.7

    def frames_loss(self) -> Callable[..., Tensor]:
        """What `overfit` minimises: of frames, pictures and, where :meth:`frames_region` gives them, masks."""
        return partial(losses.nerv_loss, beta=self.beta)

    def frames_region(self, clip: Video, source: Clip, device: str = "auto", progress: bool = True) -> Tensor | None:
        """Where a video counts twice, (T, 1, H, W) in {0, 1}; None: nowhere."""
        return None


@register
@dataclass(frozen=True)
class SANeRVTruth(NeRVLoss):
    """SA-NeRV on the edges of the true object masks: what a perfect segmenter of objects would give."""

    name, label, colour, marker, needs_objects = "sa-nerv-truth", "SA-NeRV, true outlines", "#e69f00", "D", True

    mask_weight: float = 1.0

    def frames_loss(self) -> Callable[..., Tensor]:
        return partial(losses.sa_nerv_loss, beta=self.beta, weight=self.mask_weight)

    def frames_region(self, clip: Video, source: Clip, device: str = "auto", progress: bool = True) -> Tensor:
        # In the order of the annotation, as the true masks are drawn.
        return torch.stack([_edges(masks.painted(shapes)) for shapes in clip.masks])


@register
@dataclass(frozen=True)
class SANeRV(SANeRVTruth):
    r"""Eq. 6 of Shindo et al. (ICIP 2024): the same again on the edges :math:`\mathrm{sam}_x(\alpha)` of every frame.

    Args:
        segmenter: the name of a Segment Anything with the fingerprint of its weights.
        alpha: how sure it must be of a mask.
        points: as of `sa-icm`.
    """

    name, label, colour, marker, needs_objects = "sa-nerv", "SA-NeRV", "#d55e00", "s", False

    segmenter: str = "none"
    alpha: float = 0.0
    points: int = 0

    def frames_region(self, clip: Video, source: Clip, device: str = "auto", progress: bool = True) -> Tensor:
        name = f"masks-{source.data}-{source.clip}-{source.size}"
        made = {"data": source.data, "clip": source.clip, "size": source.size, "scenes": scenes.VERSION}
        how = {"points": self.points or None, "device": device}
        return masks.of_video(clip, self.segmenter, self.alpha, name, made, **how, progress=progress)
