"""Segment Anything, by its own package: the published models, and a nano one for scenes.

Kirillov et al., "Segment Anything", ICCV 2023, https://github.com/facebookresearch/segment-anything. Networks and automatic mask
generation are the package's, unchanged; how the nano model is trained is written here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from faster_coco_eval.core import mask as coco_mask
from torch import Tensor, nn
from torch.utils.data import Dataset, Subset

from icm_helpers import masks, train
from icm_helpers.data import bsds, photos, scenes
from icm_helpers.data.coco import CocoDataset
from icm_helpers.data.formats import run_lengths
from icm_helpers.data.pictures import pixels
from icm_helpers.tasks import models, weights
from icm_helpers.tasks.detector import repeats, require_picture

LEGS = (128, 192, 256, 256, 320)  # sides of the pictures that nano SAM sees in the parts of its training
# And after it: the generator enlarges scenes of 192 pixels to it, as eight pixels, a token's side, are little to see much in.
SIZE = LEGS[-1]
UNSEEN = (
    2_000_000  # first seed of nano SAM's training scenes; those that codecs are trained and judged on start elsewhere
)
_WIDTHS = {"vit_b": 768, "vit_l": 1024, "vit_h": 1280}
POINTS = {"nano": 16, **dict.fromkeys(_WIDTHS, 32)}
STABILITY = {"nano": 0.15, **dict.fromkeys(_WIDTHS, 0.95)}
"""Points a side, and least stability score, of the automatic pass: the package's defaults, and what a small model can reach.

Its .15 was chosen from .5, .3 and .15 on eight of the codecs' training scenes, where objects' best masks had a mean IoU of .65,
.69 and .73 (at 192 pixels, before the longer training).
"""


@cache
def _package() -> Any:
    try:
        import segment_anything
    except ImportError as error:
        raise ImportError(
            f"Segment Anything needs the package segment_anything ({error}): install the extra `sam`, "
            "as in `pip install 'icm-book[sam]'`"
        ) from error
    return segment_anything


# --- models --------------------------------------------------------------------------------------------------------------


def nano(size: int = SIZE) -> nn.Module:
    """A Segment Anything of 2 million parameters with random weights, for pictures of `size` pixels a side, a multiple of 8: 320
    pixels give 40 x 40 tokens and masks of 160 x 160.

    Raises:
        ImportError: the package segment_anything is not installed.
    """
    classes = _package().modeling
    patch, width, heads = 8, 128, 4
    tokens = size // patch
    sam = classes.Sam(
        image_encoder=classes.ImageEncoderViT(
            **{"img_size": size, "patch_size": patch, "embed_dim": width, "depth": 6, "num_heads": heads},
            out_chans=width,
            norm_layer=partial(nn.LayerNorm, eps=1e-6),
        ),
        prompt_encoder=classes.PromptEncoder(
            embed_dim=width, image_embedding_size=(tokens, tokens), input_image_size=(size, size), mask_in_chans=16
        ),
        mask_decoder=classes.MaskDecoder(
            transformer_dim=width,
            transformer=classes.TwoWayTransformer(depth=2, embedding_dim=width, mlp_dim=256, num_heads=heads),
            iou_head_hidden_dim=128,
        ),
    )
    # Tokens start out knowing where they are, in the words that the points will use.
    with torch.no_grad():
        sam.image_encoder.pos_embed.copy_(0.1 * sam.prompt_encoder.get_dense_pe().permute(0, 2, 3, 1))
    return sam.eval()


def enlarged(sam: nn.Module, size: int = SIZE) -> nn.Module:
    """A nano model for pictures of another size, with the weights of `sam`: what it knows of places is interpolated."""
    larger, state, learned = nano(size), sam.state_dict(), "image_encoder.pos_embed"
    grid = state[learned].permute(0, 3, 1, 2)  # (1, C, h, w)
    state[learned] = F.interpolate(grid, size=(size // 8, size // 8), mode="bicubic").permute(0, 2, 3, 1)
    larger.load_state_dict(state)
    return larger


def present(name: str, path: Path | str | None = None) -> Path:
    """The file of a model's weights, by default where the registry says; a `FileNotFoundError` says how to come by it."""
    if name not in POINTS:
        raise ValueError(f"no Segment Anything is called {name!r}; known: {', '.join(POINTS)}")
    registered = "nano-sam" if name == "nano" else f"sam-{name.replace('_', '-')}"
    path = models.MODELS[registered].file() if path is None else Path(path)
    if name == "nano" and not path.is_file():
        raise FileNotFoundError(f"the weights {path} of nano SAM are missing: train it with `icm sam --out {path}`")
    return models.present(path, registered)


def load(name: str = "nano", path: Path | str | None = None, *, bf16: bool = False) -> nn.Module:
    """A frozen Segment Anything: `nano`, `vit_b`, `vit_l` or `vit_h`, from the file `path`, or that of the registry.

    With `bf16` the image encoder computes in bfloat16; the decoder does not: its scores are compared with thresholds as close
    to 1 as bfloat16's last bit is.

    Raises:
        ImportError: the package segment_anything is not installed.
        FileNotFoundError: there are no weights.
        ValueError: unknown name; or the file is damaged, or holds another model.
    """
    path = present(name, path)
    if name == "nano":
        state, _, size = weights.read(path, "nano-sam")
        sam = nano(size)
    else:
        state, sam = weights.published(path), _package().sam_model_registry[name]()
        with weights.fitting(path, "a Segment Anything"):
            width = state["image_encoder.patch_embed.proj.weight"].shape[0]
        if width != _WIDTHS[name]:
            other = {v: k for k, v in _WIDTHS.items()}.get(width, "another model")
            raise ValueError(f"{path} holds {other}, not {name}: use the other name, or file")
    with weights.fitting(path, f"Segment Anything's {name}"):
        sam.load_state_dict(state)
    if bf16:
        sam.image_encoder = _BF16(sam.image_encoder)
    return sam.eval().requires_grad_(False)


def save_nano(sam: nn.Module, path: Path | str) -> None:
    """Write a nano model's weights in half precision to a safetensors file."""
    weights.save(path, "nano-sam", sam.state_dict(), {}, sam.image_encoder.img_size)


class _BF16(nn.Module):
    """An image encoder that computes in bfloat16 and answers in single precision."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder, self.img_size = encoder, encoder.img_size

    def forward(self, x: Tensor) -> Tensor:
        with train.autocast(x.device.type):
            return self.encoder(x).float()


# --- every mask of a picture ---------------------------------------------------------------------------------------------


def every_mask(
    sam: nn.Module,
    image: Tensor,
    pred_iou_thresh: float = 0.48,
    *,
    points_per_side: int = POINTS["nano"],
    stability_score_thresh: float = STABILITY["nano"],
    box_nms_thresh: float = 0.7,
    points_per_batch: int | None = None,
) -> list[dict[str, Any]]:
    """One automatic pass of Segment Anything over a picture: a grid of points, three masks a point, duplicates suppressed.

    Without crops of the picture and without cleaning of small regions: greedy suppression goes from the highest predicted IoU
    down, so the masks above any higher threshold are those that a pass at that threshold gives.

    Args:
        sam: of :func:`load`, on any device.
        image: (3, H, W) in [0, 1], of any size.
        pred_iou_thresh: masks are kept whose predicted IoU is greater; the paper's alpha. In (0, 1).
        points_per_side: of the grid; see `POINTS`.
        stability_score_thresh: least IoU of the masks that logits above +1 and above -1 give; see `STABILITY`. In (0, 1].
        box_nms_thresh: of two masks whose boxes overlap by more, the one with the higher predicted IoU stays.
        points_per_batch: decoded at once; where None 64 on a GPU, and 8 on a CPU, whose caches more would leave.

    Returns:
        For each mask, the highest predicted IoU first, `rle` (COCO's compressed run lengths: `size` [H, W], `counts`),
        `predicted_iou` and `stability_score`.

    Raises:
        ValueError: a threshold is out of range, the image is not (3, H, W), or it holds values that are not finite.
    """
    if not (0 < pred_iou_thresh < 1 and 0 < stability_score_thresh <= 1 and points_per_side >= 1):
        raise ValueError(
            f"pred_iou_thresh {pred_iou_thresh}, stability_score_thresh {stability_score_thresh}, points_per_side "
            f"{points_per_side}: thresholds lie between 0 and 1, and there is at least one point"
        )
    require_picture(image)
    times = repeats(image, sam.image_encoder.img_size)
    side = 1 if image.shape[1] < image.shape[2] else 2
    image = image.repeat_interleave(times, side)
    generator = _package().SamAutomaticMaskGenerator(
        sam,
        points_per_side=points_per_side,
        points_per_batch=points_per_batch or (64 if sam.device.type == "cuda" else 8),
        pred_iou_thresh=pred_iou_thresh,
        stability_score_thresh=stability_score_thresh,
        box_nms_thresh=box_nms_thresh,
        crop_n_layers=0,
        min_mask_region_area=0,
        output_mode="uncompressed_rle",  # the package's compressed one asks for pycocotools
    )
    told = ("predicted_iou", "stability_score")
    found = generator.generate(pixels(image))
    found = [{"rle": _compressed(f["segmentation"])} | {k: f[k] for k in told} for f in found]
    for mask in found if times > 1 else ():
        drawn = coco_mask.decode(mask["rle"])  # (H, W)
        mask["rle"] = run_lengths(drawn[::times] if side == 1 else drawn[:, ::times])
    return found


def _compressed(rle: dict[str, Any]) -> dict[str, Any]:
    return {"size": list(rle["size"]), "counts": coco_mask.frPyObjects(rle, *rle["size"])["counts"].decode("ascii")}


# --- training the nano model ---------------------------------------------------------------------------------------------


class Prompts(Dataset):
    """Scenes, points on them, and the two masks that each point may mean; item i is a function of (seed, i) alone.

    Item i is (image (3, S, S) float32 in [0, 1], points (P, 2) float32, x and y in pixels, masks (P, 2, S, S) bool: the whole
    segment, thing or stuff, that holds the point, and the part of it, which where a segment has no parts is the same).
    Scenes are drawn at 192 pixels and resized as the mask generator does; half are mirrored, and their colours shift a little.

    They come from so many `scenes`, drawn as they are needed and kept (180 kB each). About 60 % of the points lie on things,
    each thing as likely as another.
    """

    def __init__(self, seed: int, length: int, scenes: int = 5000, points: int = 12, size: int = SIZE) -> None:
        self.seed, self.length, self.scenes, self.points, self.size = seed, length, scenes, points, size
        self._kept: dict[int, tuple[np.ndarray, np.ndarray]] = {}

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor, Tensor]:
        if not 0 <= index < self.length:
            raise IndexError(f"item {index} of {self.length}")
        rng = np.random.default_rng((self.seed, index))
        pixels, parts = self._lesson(rng)
        if rng.random() < 0.5:
            pixels, parts = pixels[:, ::-1], parts[:, ::-1]
        whole = parts // scenes.PARTS
        things = [i for i in np.unique(whole) if i >= scenes.FIRST_THING]
        at = np.empty(self.points, np.int64)
        for k in range(self.points):
            known = whole == rng.choice(things) if things and rng.random() < 0.6 else whole >= 0
            at[k] = rng.choice(np.flatnonzero(known))
        truth = np.stack([(of == of.ravel()[at][:, None, None]) for of in (whole, parts)], 1)  # (P, 2, H, W)
        gain = rng.normal(1, 0.05, (3, 1, 1)) * rng.normal(1, 0.08)
        image = torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1))).float() / 255
        points = np.stack([at % self.size, at // self.size], 1).astype(np.float32)
        return (image * torch.from_numpy(gain).float()).clamp(0, 1), torch.from_numpy(points), torch.from_numpy(truth)

    def _lesson(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Pixels (S, S, 3) uint8, and parts (S, S) int16, below zero where nobody knows what is there."""
        return self._scene(int(rng.integers(self.scenes)))

    def _scene(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        if index not in self._kept:
            drawn = scenes.scene(UNSEEN + index)
            resize = _package().utils.transforms.ResizeLongestSide(self.size)
            parts, side = drawn.parts.astype(np.int16), (self.size, self.size)
            parts = cv2.resize(parts, side, interpolation=cv2.INTER_NEAREST_EXACT)
            self._kept[index] = resize.apply_image(drawn.image), parts
        return self._kept[index]


class PhotoPrompts(Prompts):
    """The same of photographs, of which nobody need know the whole: `lessons` are those of :func:`photo_lessons`, and points lie
    on what is known. Each item shows a part of a photograph, at least half as wide and as high."""

    def __init__(
        self,
        seed: int,
        length: int,
        lessons: Sequence[tuple[np.ndarray, np.ndarray]],
        points: int = 12,
        size: int = SIZE,
    ) -> None:
        super().__init__(seed, length, len(lessons), points, size)
        self.lessons = lessons

    def _lesson(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        resize = _package().utils.transforms.ResizeLongestSide(self.size)
        while True:
            pixels, parts = self.lessons[int(rng.integers(self.scenes))]
            sides = [round(n * rng.uniform(0.5, 1)) for n in parts.shape]
            top, left = (int(rng.integers(n - side + 1)) for n, side in zip(parts.shape, sides, strict=True))
            inside = slice(top, top + sides[0]), slice(left, left + sides[1])
            small = resize.apply_image(np.ascontiguousarray(pixels[inside]))
            known = cv2.resize(parts[inside], small.shape[1::-1], interpolation=cv2.INTER_NEAREST_EXACT)
            if (known >= 0).any():
                break
        (height, width), whole = known.shape, (self.size, self.size)
        image = np.full((*whole, 3), (124, 116, 104), np.uint8)  # the mean colour, with which the generator pads
        image[:height, :width] = small
        drawn = np.full(whole, -1, np.int16)
        drawn[:height, :width] = known
        return image, drawn


def photo_lessons(root: Path) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Pixels (H, W, 3) uint8 and parts (H, W) int16 of COCO's training photographs, things and, where maps are known, stuff; and of
    BSDS500's regions, each person's. Of BSDS500 it is every other photograph; the first, third, ... are left to measure on.

    Raises:
        DataError: the folders coco_mini, coco_more or bsds500_test are not under `root`, or a file there is damaged.
    """
    yield from _of_coco(photos.opened(root, "train"))
    for photo in bsds.photos(root / "bsds500_test", every=2, first=1):
        yield from ((pixels(photo.image), _parts(regions)) for regions in photo.maps)


def _of_coco(dataset: CocoDataset) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Of each photograph that shows something: a map's regions, or objects, the smaller on the larger."""
    for sample in dataset:
        if sample.image_id in dataset.panoptic:
            ids = dataset.panoptic[sample.image_id].ids
            regions = np.where(ids > 0, np.unique(ids, return_inverse=True)[1].reshape(ids.shape), -1)
        else:
            regions = masks.painted(masks.largest_first(sample.masks[~sample.crowd])) - 1
        if (regions >= 0).any():
            yield pixels(sample.image), _parts(regions)


def _parts(regions: np.ndarray) -> np.ndarray:
    """Regions (H, W) from 0, as :class:`icm_helpers.data.scenes.Scene` numbers things of one part; -1 stays."""
    return np.where(regions < 0, -1, (regions + scenes.FIRST_THING) * scenes.PARTS).astype(np.int16)


class Prompted(nn.Module):
    """Segment Anything as it is trained: many points on each of several pictures, with gradients.

    The package's own forward pass takes one picture and gives no gradients; modules and arithmetic are the same.
    """

    def __init__(self, sam: nn.Module) -> None:
        super().__init__()
        self.sam = sam

    def forward(self, images: Tensor, points: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (N, P, 4, S/2, S/2) of the one mask and the three alternatives, and their predicted IoU (N, P, 4).

        Images are (N, 3, S, S) in [0, 1], points (N, P, 2), x and y in pixels.
        """
        sam, (n, p) = self.sam, points.shape[:2]
        features = sam.image_encoder((255 * images - sam.pixel_mean) / sam.pixel_std)  # (N, C, S/8, S/8)
        marks = torch.ones(n * p, 1, device=points.device)
        with torch.autocast(points.device.type, enabled=False):  # places do not survive bfloat16's eight bits
            sparse, dense = sam.prompt_encoder((points.reshape(n * p, 1, 2), marks), boxes=None, masks=None)
            place = sam.prompt_encoder.get_dense_pe().expand(n * p, -1, -1, -1)
        # The decoder repeats a single picture for all points; here each point brings its own.
        decode = sam.mask_decoder
        tokens = torch.cat([decode.iou_token.weight, decode.mask_tokens.weight])
        tokens = torch.cat([tokens.expand(n * p, -1, -1), sparse], 1)
        found, memory = decode.transformer(features.repeat_interleave(p, 0) + dense, place, tokens)
        fine = decode.output_upscaling(memory.transpose(1, 2).unflatten(2, features.shape[2:]))  # (N P, C/8, S/2, S/2)
        kernels = torch.stack([mlp(found[:, 1 + k]) for k, mlp in enumerate(decode.output_hypernetworks_mlps)], 1)
        logits = torch.einsum("nkc,nchw->nkhw", kernels, fine)
        return logits.unflatten(0, (n, p)).float(), decode.iou_prediction_head(found[:, 0]).unflatten(0, (n, p)).float()


def trained(
    steps: Sequence[int],
    batch: int,
    lr: float,
    lessons: Callable[..., Prompts],
    *,
    start: nn.Module | None = None,
    seed: int,
    folder: Path,
    name: str,
    workers: int | None = None,
    **how: Any,
) -> nn.Module:
    """A nano model trained on `lessons(seed, length, size=side)` of each side in `LEGS`, for so many steps on each; or `start`
    trained further on those of the last sides, as many as there are numbers of steps.

    `folder` is where a training that is stopped continues from, a checkpoint for each leg; `how` as in
    :func:`icm_helpers.train.fit`.
    """
    sides = LEGS[-len(steps) :]
    torch.manual_seed(seed)
    # Small pictures first, where a step costs least; then, on larger ones, steps down that follow a cosine.
    fast = train.Schedule(steps=0, batch=batch, lr=lr, warmup=300, milestones=(), save_every=200)
    fine = replace(fast, lr=0.4 * lr, warmup=50, milestones=(0.4, 0.7, 0.88), gamma=0.4, save_every=100)
    model, seen = start or nano(sides[0]), Counter()
    for leg, (size, count) in enumerate(zip(sides, steps, strict=True)):
        model = enlarged(model, size)
        items = range(seen[size], seen[size] + count * batch)  # none twice, where legs are of one size
        seen[size] = items.stop
        train.fit(
            Prompted(model),
            Subset(lessons(seed, items.stop, size=size), items),
            prompt_loss,
            replace(fine if leg or start else fast, steps=count),
            folder=folder / f"{leg}-{size}",
            seed=seed,
            workers=1 if workers is None else workers,  # which draw scenes meanwhile
            describe=f"{name}, {size} px",
            **how,
        )
        model.cpu()
    return model


def prompt_loss(network: nn.Module, batch: tuple[Tensor, Tensor, Tensor]) -> dict[str, Tensor]:
    r"""What nano SAM is trained for, on batches of :class:`Prompts`.

    A point on a door may mean the door or the house: the best of the three alternatives is fitted to the whole, and the best,
    maybe another, to the part (Kirillov et al. fit the best to the one mask that they drew), with

    .. math:: \ell(m, t) = \frac{\sum \mathrm{BCE}(m, t)}{|t| + |\sigma(m)| + 16} + \mathrm{Dice}(\sigma(m), t)

    in place of their focal loss, which leaves the edges of masks soft, and stability scores low. The mask that stands alone
    is fitted to the whole, and all alternatives a little. The predicted IoU is that with the whole or the part, whichever is
    larger.

    Returns `loss`, its terms `mask` and `iou` (mean squared error of the predicted IoU, weighted by 4); and `best`, the mean
    IoU of the best alternative with the whole.
    """
    images, points, truth = batch
    logits, scores = network(images, points)
    side = logits.shape[-1]
    soft = F.avg_pool2d(truth.flatten(0, 1).float(), truth.shape[-1] // side).unflatten(0, truth.shape[:2])
    whole, part = (_mask_loss(logits, soft[:, :, k, None]) for k in (0, 1))  # (N, P, 4) each
    distinct = (truth[:, :, 0] != truth[:, :, 1]).flatten(2).any(-1)  # (N, P)
    mask = whole[..., 1:].amin(-1) + distinct * part[..., 1:].amin(-1)
    mask = mask + 0.3 * whole[..., 0] + 0.05 * whole[..., 1:].mean(-1)
    with torch.no_grad():
        large = F.interpolate(logits.flatten(0, 1), truth.shape[-2:], mode="bilinear")
        found = (large > 0).flatten(2).float()  # (N P, 4, H W)
        given = truth.flatten(0, 1).flatten(2).float()  # (N P, 2, H W)
        overlap = given @ found.transpose(1, 2)  # (N P, 2, 4)
        union = given.sum(-1)[:, :, None] + found.sum(-1)[:, None] - overlap
        iou = (overlap / union).unflatten(0, points.shape[:2])  # (N, P, 2, 4); a truth is never empty
    error, mask = F.mse_loss(scores, iou.amax(2)), mask.mean()
    return {"loss": mask + 4 * error, "mask": mask, "iou": error, "best": iou[:, :, 0, 1:].amax(-1).mean()}


def _mask_loss(logits: Tensor, truth: Tensor) -> Tensor:
    """Cross-entropy and Dice of masks (..., h, w) against soft ones that broadcast to them."""
    truth = truth.expand_as(logits)
    probability = logits.sigmoid()
    area, guessed, both = (v.sum((-2, -1)) for v in (truth, probability, probability * truth))
    entropy = F.binary_cross_entropy_with_logits(logits, truth, reduction="none").sum((-2, -1))
    return entropy / (area + guessed.detach() + 16) + 1 - (2 * both + 1) / (area + guessed + 1)
