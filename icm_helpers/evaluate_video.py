"""What is left in a decoded video: PSNR, MS-SSIM, edges, and what detectors find frame by frame."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import cv2
import numpy as np
from torch import Tensor

from icm_helpers import overfit
from icm_helpers.data.pictures import pixels
from icm_helpers.data.video import Video
from icm_helpers.evaluate import Detector, average_precision, clean_detections, psnr, resamplings

TOLERANCE = 1  # pixels by which an edge may be off


def evaluate(clip: Video, x_hat: Tensor, detectors: dict[str, Detector]) -> tuple[dict[str, Any], dict[str, Any]]:
    """What is left in decoded frames (T, 3, H, W), and its bootstrap over the clip's frames.

    Returns:
        `result`: frames, pixels (of each), psnr, psnr_inside, psnr_outside (pooled over the pixels, those inside and outside
        of objects), ms_ssim (mean over frames; none where they are small), boundary_f (pooled, see :func:`edge_matches`), and
        by detector box_ap, box_ap50, ...; `bootstrap`: psnr, boundary_f, and box_ap and box_ap50 by detector, 200 replicates each,
        in which the frames are drawn anew, the same draw for every clip of so many frames.
    """
    truth, samples = clip.ground_truth(), resamplings(clip.ids)
    rows = []
    for k in clip.ids:
        sample = clip[k]
        error, mask = (sample.image - x_hat[k]).square().mean(0, keepdim=True), sample.object_mask  # (1, H, W) each
        parts = [error.sum(), (error * mask).sum(), mask.sum(), mask.new_tensor(float(mask.numel()))]
        rows.append([*(part.item() for part in parts), *edge_matches(sample.image, x_hat[k], mask)])
    table = np.asarray(rows)  # (T, 8)
    whole, drawn = table.sum(0), table[samples].sum(1)  # (8,) and (replicates, 8)
    total, inside, area, count = whole[:4]
    similar = overfit.quality(clip.frames, x_hat)["ms_ssim"]
    result: dict[str, Any] = {"frames": len(clip), "pixels": int(count) // len(clip), "psnr": psnr(total / count)}
    result |= {"psnr_inside": psnr(inside / area), "psnr_outside": psnr((total - inside) / (count - area))}
    result |= ({} if math.isnan(similar) else {"ms_ssim": similar}) | {"boundary_f": f_score(whole[4:])}
    bootstrap: dict[str, Any] = {"psnr": [psnr(row[0] / row[3]) for row in drawn]}
    bootstrap["boundary_f"] = [f_score(row[4:]) for row in drawn]
    seen = replace(clip, frames=x_hat)
    for name, detector in detectors.items():
        if unknown := {k: v for k, v in clip.categories.items() if detector.categories.get(k) != v}:
            raise ValueError(f"{clip.name} shows {unknown}, which {name} does not know: use another detector")
        found = clean_detections(seen, detector, progress=False)
        summary, replicates = average_precision(truth, found, samples=samples)
        for key, value in summary.items():
            result.setdefault(f"box_{key}", {})[name] = value
        bootstrap.setdefault("box_ap", {})[name] = replicates
        bootstrap.setdefault("box_ap50", {})[name] = average_precision(truth, found, samples=samples, iou=0.5)[1]
    return result, bootstrap


def edge_matches(x: Tensor, x_hat: Tensor, mask: Tensor) -> tuple[int, int, int, int]:
    """Canny's edges on and around objects, in a frame and in the decoded one: what :func:`f_score` is made of.

    Of pictures (3, H, W) in [0, 1] the edges of :func:`canny`; of the objects' mask (1, H, W) in {0, 1} also `TOLERANCE` + 1 pixels
    around it, so that their outlines lie inside. An edge pixel is met by one at most `TOLERANCE` rows and columns away.

    Returns:
        How many decoded edge pixels meet an original one, of how many; how many original ones meet a decoded one, of how many.

    >>> import torch
    >>> x = torch.zeros(3, 16, 16)
    >>> x[:, 4:12, 4:12] = 1
    >>> f_score(edge_matches(x, x, x[:1])), f_score(edge_matches(x, x.roll(3, 1), x[:1])) < 1
    (1.0, True)
    """
    near = _widened(mask[0].numpy().astype(np.uint8), TOLERANCE + 1)
    original, found = (canny(picture) & near for picture in (x, x_hat))
    met, known = found & _widened(original, TOLERANCE), original & _widened(found, TOLERANCE)
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
    return (cv2.Canny(cv2.cvtColor(pixels(picture), cv2.COLOR_RGB2GRAY), 50, 100) > 0).astype(np.uint8)


def _widened(binary: np.ndarray, by: int) -> np.ndarray:
    return cv2.dilate(binary, np.ones((2 * by + 1,) * 2, np.uint8))
