"""Image coding for machines in a few lines: code pictures, let a detector look, and say which codec needs fewer bits.

>>> from icm_helpers import average_precision, bd_rate, coco_results, decode, encode
>>> from icm_helpers import load_codec, load_data, load_detector
>>> pictures, detector = load_data("scenes", "val", limit=3), load_detector("mask-rcnn-small")
>>> def point(codec):  # bits per pixel, and the detector's AP on the decoded pictures
...     bits = pixels = 0
...     found = []
...     for sample in pictures:
...         data = encode(codec, sample.image)  # real bytes; `load_picture` reads such an image from a file
...         bits, pixels = bits + 8 * len(data), pixels + sample.image[0].numel()
...         found += coco_results(sample.image_id, detector.detect([decode(codec, data)])[0])
...     return bits / pixels, average_precision(pictures.ground_truth(), found)[0]["ap"]
>>> curves = {name: [point(load_codec(name, q)) for q in (5, 20, 60)] for name in ("jpeg", "webp")}
>>> bool(bd_rate(curves["jpeg"], curves["webp"]).value < 0)  # WebP needs fewer bits
True

Names exported here are imported when they are used: `import icm_helpers` itself needs no torch.
"""

import warnings
from importlib import import_module
from typing import Any

# Packages below import tqdm.auto, which misses ipywidgets in a notebook; our own bars are plain text and need none.
warnings.filterwarnings("ignore", message="IProgress not found")

_WHERE = {
    "average_precision": "evaluate:average_precision",
    "bd_rate": "bd:bd_rate",
    "coco_results": "evaluate:coco_results",
    "decode": "codecs.container:decode",
    "encode": "codecs.container:encode",
    "load_codec": "codecs.zoo:load",
    "load_data": "data.datasets:load",
    "load_detector": "tasks.models:load",
    "load_picture": "data.pictures:load_picture",
}
__all__ = sorted(_WHERE)


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, _, found = _WHERE[name].partition(":")
    return getattr(import_module(f"{__name__}.{module}"), found)


def __dir__() -> list[str]:
    return [*globals(), *_WHERE]
