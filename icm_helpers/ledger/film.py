"""A video that plays in a page: versions of one clip side by side, with what a detector finds in each frame."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from html import escape
from typing import Any

import numpy as np
from IPython.display import HTML
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from icm_helpers.codecs import ffmpeg
from icm_helpers.ledger.figures import detections


def play(versions: Mapping[str, Tensor], detector: Any, *, rate: float = 4, columns: int = 3) -> HTML:
    """Versions (T, 3, H, W) of one clip by name, played together in a loop; before that, and on paper, their middle frame is shown.

    Raises:
        ValueError: the versions differ in their number of frames.
        ImportError: imageio-ffmpeg is not installed.
    """
    lengths = {len(frames) for frames in versions.values()}
    if len(lengths) != 1:
        raise ValueError(f"versions of one clip have as many frames each, not {sorted(lengths)}")
    how = {"title": "{name}: {boxes} found", "columns": min(columns, len(versions)), "size": (3, 3.3)}
    drawn = []
    for k in range(lengths.pop()):
        drawn.append(_pixels(detections(detector, {name: frames[k] for name, frames in versions.items()}, **how)))
    film = base64.b64encode(ffmpeg.playable(np.stack(drawn), rate)).decode()
    still = io.BytesIO()
    Image.fromarray(drawn[len(drawn) // 2]).save(still, "WEBP", quality=85)
    poster = f"data:image/webp;base64,{base64.b64encode(still.getvalue()).decode()}"
    says = escape(f"What a detector finds in every frame of: {', '.join(versions)}")
    shape = f'width="{drawn[0].shape[1]}" height="{drawn[0].shape[0]}" style="max-width: 100%; height: auto"'
    return HTML(
        f'<video controls loop muted playsinline {shape} poster="{poster}" aria-label="{says}" '
        f'src="data:video/mp4;base64,{film}"><img src="{poster}" alt="{says}"></video>'
    )


def _pixels(figure: Figure) -> np.ndarray:
    """A figure on white, (H, W, 3) uint8 with even sides, which H.264 asks for; the figure is closed."""
    figure.set_facecolor("white")
    figure.canvas.draw()
    pixels = np.asarray(figure.canvas.buffer_rgba())[..., :3].copy()
    plt.close(figure)
    return pixels[: len(pixels) // 2 * 2, : pixels.shape[1] // 2 * 2]
