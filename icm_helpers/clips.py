"""Videos as runs of the ledger: a clip coded to one file, decoded, and judged frame by frame.

The file of a NeRV is the trained codec: `coded` trains the network with a recipe's loss, prunes it, trains what is left, and
encodes it. `measure` decodes that file, as it does those of HEVC and VVC: all are judged by what their bytes give.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor

from icm_helpers import evaluate, files, judges, losses, masks, overfit, train
from icm_helpers.codecs import classical, container, ffmpeg, nerv
from icm_helpers.data import datasets, scenes
from icm_helpers.data.video import Video
from icm_helpers.ledger import results
from icm_helpers.ledger.results import ROOT, Recipe, Record

CHECKPOINTS = ROOT / "data" / "checkpoints"
RUNS = ROOT / "runs"
INTER = {"hevc-inter": ffmpeg.Hevc, "vvc-inter": ffmpeg.Vvc}
LOSSES = ("nerv", "sa-nerv", "sa-nerv-truth")
STAGES = ("whole", "pruned")  # of a network's training
TOLERANCE = 1  # pixels by which an edge may be off


# --- what a recipe names -------------------------------------------------------------------------------------------------


def load(recipe: Recipe) -> Video:
    """A recipe's clip, as `datasets.clip` opens it."""
    return datasets.clip(recipe.data, recipe.clip, recipe.images, recipe.size)


def network(recipe: Recipe) -> nerv.NeRV:
    """A recipe's network as it starts."""
    torch.manual_seed(recipe.seed)
    return nerv.NeRV(**nerv.SIZES[recipe.codec.removeprefix("nerv-")])


def edges(recipe: Recipe, clip: Video, *, device: str = "auto", progress: bool = True) -> Tensor | None:
    r"""Where a recipe's loss looks twice, :math:`\mathrm{sam}_x(\alpha)` of every frame, (T, 1, H, W) in {0, 1}; None for `nerv`.

    Segment Anything's masks lie in data/cache; those that lack are made now. `sa-nerv-truth` takes the edges of the true object
    masks, drawn in the order of the annotation: what a perfect segmenter of objects would give.

    Raises:
        ValueError: unknown loss, other weights of Segment Anything than the recipe's, or an alpha below `masks.LEAST`.
        FileNotFoundError, ImportError: Segment Anything is missing.
    """
    if recipe.loss not in LOSSES:
        raise ValueError(f"no loss of a video is called {recipe.loss!r}; there is {', '.join(LOSSES)}")
    if recipe.loss == "nerv":
        return None
    canny = {"low": recipe.canny_low, "high": recipe.canny_high, "dilate": recipe.dilate}
    if recipe.loss == "sa-nerv-truth":
        numbered = [(np.arange(1, len(m) + 1)[:, None, None] * m.numpy()).max(0, initial=0) for m in clip.masks]
        return torch.stack([torch.from_numpy(masks.edges(labels, **canny))[None].float() for labels in numbered])
    masks.require_stored(recipe.alpha)
    folder = _segmented(recipe, clip, device, progress)
    found = (masks.read(folder, k) for k in clip.ids)
    return torch.stack([masks.sam_edges(f, recipe.alpha, order=recipe.drawing, **canny) for f in found])


def _segmented(recipe: Recipe, clip: Video, device: str, progress: bool) -> Path:
    made = {"data": recipe.data, "clip": recipe.clip, "size": recipe.size, "scenes": scenes.VERSION}
    name = f"masks-{recipe.data}-{recipe.clip}-{recipe.size}"
    return segmented(clip, recipe.edges, name, made, device=device, progress=progress)


def segmented(
    clip: Video, segmenter: str, name: str, made: dict[str, Any], *, device: str = "auto", progress: bool = True
) -> Path:
    """The folder of Segment Anything's masks of a video in data/cache, after making those that it lacks.

    Args:
        segmenter: the name of a Segment Anything with the fingerprint of its weights, which ends the folder's name.
        name: of the folder otherwise.
        made: what video it is, so that masks of another are refused.
    """
    model = judges.segmenter(segmenter)
    segment, passed = masks.automatic(model, device=device)
    folder = ROOT / "data" / "cache" / f"{name}-{model}"
    masks.make(folder, clip, segment, made | passed, progress=progress)
    return folder


def objective(recipe: Recipe) -> Callable[..., Tensor]:
    """What a recipe's network is trained for, as `overfit` takes it: eq. 4 of Shindo et al. (ICIP 2024), or with edges eq. 6."""
    if recipe.loss == "nerv":
        return partial(losses.nerv_loss, beta=recipe.beta)
    return partial(losses.sa_nerv_loss, beta=recipe.beta, weight=recipe.mask_weight)


# --- one run -------------------------------------------------------------------------------------------------------------


def places(recipe: Recipe) -> tuple[Path, Path]:
    """Where a trained NeRV's file may lie: shipped with the book, or finished by an earlier run here."""
    return CHECKPOINTS / f"{recipe.codec_id}.nrv", RUNS / recipe.codec_id / "codec.nrv"


def coded(
    recipe: Recipe, *, keep: bool = True, device: str = "auto", compiled: bool = False, progress: bool = True
) -> bytes:
    """The file of a recipe's clip: HEVC's or VVC's; or NeRV's, shipped, finished in runs/, or trained now (resuming where it was
    stopped).

    With `keep=False` a network that has to be trained leaves no file behind.
    """
    if recipe.method == "classical":
        clip = load(recipe)
        if recipe.codec == "png":  # no video, but what "uncompressed" costs
            return b"".join(container.encode(classical.Png(), frame) for frame in clip.frames)
        return INTER[recipe.codec](int(recipe.lmbda)).encode_video(clip.frames)
    for path in places(recipe):
        if path.exists():
            return path.read_bytes()
    clip, folder = load(recipe), RUNS / recipe.codec_id
    data = overfitted(
        network(recipe),
        clip.frames,
        objective(recipe),
        masks=edges(recipe, clip, device=device, progress=progress),
        epochs=tuple(round(steps * recipe.batch / len(clip)) for steps in (recipe.steps, recipe.tune_steps)),
        density=recipe.density,
        bits=recipe.bits,
        folder=folder if keep else None,
        batch=recipe.batch,
        lr=recipe.lr,
        seed=recipe.seed,
        device=device,
        precision=recipe.precision,
        compiled=compiled,
        progress=progress,
        name=recipe.codec_id,
    )
    if keep:
        with files.atomically(places(recipe)[1]) as temporary:
            temporary.write_bytes(data)
        forget(folder)
    return data


def overfitted(
    model: nerv.NeRV,
    frames: Tensor,
    loss: Callable[..., Tensor],
    *,
    epochs: tuple[int, int],
    density: float,
    bits: int,
    folder: Path | None,
    name: str,
    **how: Any,
) -> bytes:
    """The file of a video: a network trained to its frames, pruned, trained on, and encoded.

    Args:
        epochs: before pruning, and after it.
        density, bits: as in `nerv.prune` and `nerv.encode_video`.
        folder: where a training that is stopped goes on from; :func:`forget` clears it.
        name: what the progress bar and the checkpoints are called.
        how: as in `overfit.overfit`.
    """
    for stage, count in zip(STAGES, epochs, strict=True):
        if stage == "pruned":
            nerv.prune(model, density)
        if count:
            where, told = folder and folder / stage, f"{name}, {stage}"
            overfit.overfit(model, frames, loss, epochs=count, folder=where, describe=told, identity=told, **how)
    return nerv.encode_video(frames, model.cpu(), bits=bits)


def forget(folder: Path) -> None:
    """Delete the checkpoints of a training that is done."""
    for stage in STAGES:
        (folder / stage / "training.ckpt").unlink(missing_ok=True)


def decoded(recipe: Recipe, data: bytes) -> Tensor:
    """The frames (T, 3, H, W) in a file of :func:`coded`."""
    if recipe.method != "classical":
        return nerv.decode_video(data)
    return load(recipe).frames if recipe.codec == "png" else INTER[recipe.codec](int(recipe.lmbda)).decode_video(data)


def measure(
    recipe: Recipe, *, ledger: bool = True, device: str = "auto", compiled: bool = False, progress: bool = True
) -> Record:
    """Code a recipe's clip or load its file, judge what is decoded, and write the record (with `ledger=False`, nowhere)."""
    data = coded(recipe, keep=ledger, device=device, compiled=compiled, progress=progress)
    begun, place = time.monotonic(), train.fabric(device).device
    panel = {name.partition("@")[0]: judges.load(name).to(place) for name in recipe.detectors}
    result, bootstrap = judge(load(recipe), decoded(recipe, data), panel)
    result = {"bytes": len(data), "bpp": 8 * len(data) / (result["frames"] * result.pop("pixels")), **result}
    if recipe.method == "trained":
        result["bpp_counted"] = counted_bits(recipe) * result["bpp"] / (8 * len(data))
    where = torch.cuda.get_device_name() if place.type == "cuda" else "cpu"
    return results.write(recipe, result, bootstrap, device=where, seconds=time.monotonic() - begun, ledger=ledger)


def counted_bits(recipe: Recipe) -> float:
    """The papers' count of a recipe's file: weights that pruning leaves, times bits. What their values are does not matter."""
    model = network(recipe)
    nerv.prune(model, recipe.density)
    for parameter in model.parameters():
        if parameter.ndim == 1:
            torch.nn.init.ones_(parameter)  # biases are not pruned, and no zero once they are trained
    return nerv.counted_bits(model, recipe.bits)


# --- judging -------------------------------------------------------------------------------------------------------------


def judge(clip: Video, x_hat: Tensor, detectors: dict[str, evaluate.Detector]) -> tuple[dict[str, Any], dict[str, Any]]:
    """What is left in decoded frames (T, 3, H, W), and its bootstrap over the clip's frames.

    Returns:
        `result`: frames, pixels (of each), psnr, psnr_inside, psnr_outside (pooled over the pixels, those inside and outside
        of objects), ms_ssim (mean over frames; none where they are small), boundary_f (pooled, see :func:`edge_matches`), and
        by detector box_ap, box_ap50, ...; `bootstrap`: psnr, boundary_f, and box_ap by detector, 200 replicates each, in which the
        frames are drawn anew, the same draw for every clip of so many frames.
    """
    truth, samples = clip.ground_truth(), evaluate.resamplings(clip.ids)
    rows = []
    for k in clip.ids:
        sample = clip[k]
        error, mask = (sample.image - x_hat[k]).square().mean(0, keepdim=True), sample.object_mask  # (1, H, W) each
        parts = [error.sum(), (error * mask).sum(), mask.sum(), torch.tensor(float(mask.numel()))]
        rows.append([*(part.item() for part in parts), *edge_matches(sample.image, x_hat[k], mask)])
    table = np.asarray(rows)  # (T, 8)
    whole, drawn = table.sum(0), table[samples].sum(1)  # (8,) and (replicates, 8)
    total, inside, area, pixels = whole[:4]
    similar = overfit.quality(clip.frames, x_hat)["ms_ssim"]
    result: dict[str, Any] = {
        "frames": len(clip),
        "pixels": int(pixels) // len(clip),
        "psnr": evaluate.psnr(total / pixels),
        "psnr_inside": evaluate.psnr(inside / area),
        "psnr_outside": evaluate.psnr((total - inside) / (pixels - area)),
        **({} if math.isnan(similar) else {"ms_ssim": similar}),
        "boundary_f": f_score(whole[4:]),
    }
    bootstrap: dict[str, Any] = {
        "psnr": [evaluate.psnr(row[0] / row[3]) for row in drawn],
        "boundary_f": [f_score(row[4:]) for row in drawn],
    }
    seen = replace(clip, frames=x_hat)
    for name, detector in detectors.items():
        if unknown := {k: v for k, v in clip.categories.items() if detector.categories.get(k) != v}:
            raise ValueError(f"{clip.name} shows {unknown}, which {name} does not know: take another detector")
        found = evaluate.clean_detections(seen, detector, progress=False)
        summary, replicates = evaluate.average_precision(truth, found, samples=samples)
        for key, value in summary.items():
            result.setdefault(f"box_{key}", {})[name] = value
        bootstrap.setdefault("box_ap", {})[name] = replicates
    return result, bootstrap


def edge_matches(x: Tensor, x_hat: Tensor, mask: Tensor, tolerance: int = TOLERANCE) -> tuple[int, int, int, int]:
    """Canny's edges on and around objects, in a frame and in the decoded one: what :func:`f_score` is made of.

    Args:
        x, x_hat: (3, H, W) in [0, 1]; the edges are those of their luma, thresholds 50 and 100.
        mask: of the objects, (1, H, W) in {0, 1}; widened by `tolerance` + 1 pixels, so that their outlines lie inside.
        tolerance: an edge pixel is met by one at most so far away, in rows and in columns.

    Returns:
        How many decoded edge pixels meet an original one, how many there are; how many original ones meet a decoded one, how many
        there are.

    >>> x = torch.zeros(3, 16, 16)
    >>> x[:, 4:12, 4:12] = 1
    >>> f_score(edge_matches(x, x, x[:1])), f_score(edge_matches(x, x.roll(3, 1), x[:1])) < 1
    (1.0, True)
    """
    near = _widened(mask[0].numpy().astype(np.uint8), tolerance + 1)
    original, found = (canny(picture) & near for picture in (x, x_hat))
    met, known = found & _widened(original, tolerance), original & _widened(found, tolerance)
    return int(met.sum()), int(found.sum()), int(known.sum()), int(original.sum())


def f_score(counts: Sequence[float]) -> float:
    """Harmonic mean of precision and recall from sums of :func:`edge_matches`; 0 where no edge is met.

    >>> f_score((5, 10, 5, 5))
    0.6666666666666666
    """
    met, found, known, original = counts
    if not met or not known:
        return 0.0
    precision, recall = met / found, known / original
    return float(2 * precision * recall / (precision + recall))


def canny(picture: Tensor) -> np.ndarray:
    """Canny's edges of the luma of a picture (3, H, W) in [0, 1], thresholds 50 and 100: (H, W) uint8 in {0, 1}."""
    pixels = (picture * 255).round().byte().permute(1, 2, 0).numpy()  # (H, W, 3)
    return (cv2.Canny(cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY), 50, 100) > 0).astype(np.uint8)


def _widened(binary: np.ndarray, by: int) -> np.ndarray:
    return cv2.dilate(binary, np.ones((2 * by + 1,) * 2, np.uint8))
