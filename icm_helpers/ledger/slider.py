"""Two decoded pictures behind one slider, in plain HTML: no script from elsewhere, and side by side where there is none at all."""

from __future__ import annotations

import base64
import io
import itertools
from collections.abc import Mapping
from html import escape

from IPython.display import HTML
from PIL import Image
from torch import Tensor

from icm_helpers.data.pictures import pixels

_number = itertools.count()

# Without styles, as in a notebook that is not trusted, or on paper, the two pictures stand side by side.
_STYLE = """@media screen {{
#{id} {{ max-width: {width}px; margin: 0 auto }}
#{id} > div {{ display: grid !important; position: relative }}
#{id} figure {{ grid-area: 1 / 1; width: 100% !important; margin: 0 !important }}
#{id} figure + figure {{ clip-path: inset(0 0 0 var(--at, 50%)) }}
#{id} figcaption {{ padding: 0 .4em; text-align: left; max-width: 50%; box-sizing: border-box }}
#{id} figure + figure figcaption {{ text-align: right; margin-left: auto }}
#{id} i {{ position: absolute; top: 0; bottom: 0; left: var(--at, 50%); border-left: 2px solid #e69f00; pointer-events: none }}
#{id} input {{ width: 100%; margin: .4em 0 0 }}
}}
@media print {{ #{id} input, #{id} i {{ display: none }} }}"""


def compare(pictures: Mapping[str, Tensor], *, width: int = 480) -> HTML:
    """Two pictures (3, H, W) in [0, 1] by what stands below them, the first at the left of a line that the reader moves.

    Raises:
        ValueError: not two pictures, or of two sizes.
    """
    sizes = {tuple(picture.shape) for picture in pictures.values()}
    if len(pictures) != 2 or len(sizes) > 1:
        raise ValueError(
            f"a slider compares two pictures of one size, not {len(pictures)} of the sizes {sorted(sizes)}"
        )
    name = f"slider-{next(_number)}"
    figures = "".join(
        f'<figure style="flex: 1; margin: 0"><img src="{_address(picture)}" alt="{escape(told)}" '
        f'style="width: 100%; image-rendering: pixelated"><figcaption>{escape(told)}</figcaption></figure>'
        for told, picture in pictures.items()
    )
    moved = "this.parentNode.style.setProperty('--at', this.value + '%')"
    says = escape(" against ".join(pictures))
    bar = f'<input type="range" min="0" max="100" value="50" aria-label="{says}" oninput="{moved}">'
    style = f"<style>{_STYLE.format(id=name, width=width)}</style>"
    return HTML(f'{style}<div id="{name}"><div style="display: flex; gap: 8px">{figures}<i></i></div>{bar}</div>')


def _address(picture: Tensor) -> str:
    """A picture as a data address, without loss."""
    file = io.BytesIO()
    Image.fromarray(pixels(picture.clamp(0, 1))).save(file, "WEBP", lossless=True)
    return f"data:image/webp;base64,{base64.b64encode(file.getvalue()).decode()}"
