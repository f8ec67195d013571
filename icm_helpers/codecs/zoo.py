"""The registry of codecs: every one by name, what decides its rate, how figures show it, and how to `load` it.

A name is listed without importing what it stands for: neither torch nor CompressAI. Register one of your own from anywhere:

    zoo.register(zoo.Codec("jpeg2000", Jpeg2000, setting="quality", suffix="jp2"))  # a class with encode and decode
    zoo.register(zoo.Codec("mine", MyNetwork, network=True))                        # one that answers CompressAI's contract

and a command that is told `module:mine` imports the module that registers it.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from importlib import import_module
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

from icm_helpers.files import CHECKPOINTS as CHECKPOINTS


@dataclass(frozen=True)
class Codec:
    """One codec: `make` gives an object with `encode` and `decode` of pictures, as `classical.Jpeg`; or a `network`, a torch
    module with weights that answers CompressAI's `forward`, `compress`, `decompress`, `update` and `downsampling_factor`, the
    pixels along one side for one element of its smallest latent."""

    name: str  # letters, digits and hyphens
    make: Callable[..., Any] | str  # what makes it, or where that is found, as "module:attribute"
    setting: str | None = None  # the whole number that decides its rate, which `make` takes: "quality" or "qp"
    label: str = ""  # as figures show it, and so
    colour: str = ""
    marker: str = ""
    suffix: str = "icm"  # of a coded file
    magic: bytes = b""  # that its files begin with, where they say so
    video: bool = False  # whether it codes frames together, by `encode_video` and `decode_video`
    network: bool = False
    roi: bool = (
        False  # whether its encoder takes a region of interest too, (1, H, W) in {0, 1}; None: all of the picture
    )
    extends: str = ""  # another network whose weights it can start from: what is `added` to it changes nothing at first
    sizes: Mapping[int, tuple[int, ...]] | None = (
        None  # what `make` takes for each quality; None: one size, and so no quality
    )
    options: Mapping[str, Any] = field(default_factory=dict)  # what `make` takes besides
    # Where a network's file may hold any size: its state dict -> more of what `make` takes.
    arguments: Callable[[Mapping[str, Any]], dict[str, Any]] | None = None
    shipped: str = ""  # its weights in data/checkpoints, where they are called otherwise than it

    def build(self, *sizes: Any, **more: Any) -> Any:
        """What `make` makes of its `options` and of these."""
        make = resolve_name(self.make) if isinstance(self.make, str) else self.make
        return make(*sizes, **self.options, **more)


CODECS: dict[str, Codec] = {}


def register(codec: Codec) -> Codec:
    """Make a codec known by its name; ValueError where it is taken."""
    if codec.name in CODECS:
        raise ValueError(f"a codec is called {codec.name!r} already: choose another name")
    return CODECS.setdefault(codec.name, codec)


def find(name: str) -> tuple[Codec, int | None]:
    """A codec by name, and the quality that the name ends in, if it does; `module:name` imports the module first. ValueError tells
    the known names.

    >>> found, quality = find("mbt2018-mean-q5")
    >>> found.name, quality
    ('mbt2018-mean', 5)
    """
    module, _, name = name.rpartition(":")
    if module:
        import_module(module)
    if name in CODECS:
        return CODECS[name], None
    start, _, quality = name.rpartition("-q")
    if start in CODECS and quality.isdecimal():
        return CODECS[start], int(quality)
    hint = "".join(f" Did you mean {close!r}?" for close in difflib.get_close_matches(name, CODECS, n=1))
    raise ValueError(f"no codec is called {name!r}.{hint} Known: {', '.join(CODECS)}.")


def named(name: str, quality: int | None) -> str:
    """The name of a codec of one quality: `mbt2018-mean-q5`."""
    return name if quality is None else f"{name}-q{quality}"


def writer(data: bytes) -> tuple[Codec, int | None] | None:
    """The codec that wrote a file, and its quality where it has several, by the file's first 300 bytes; None where they are those
    of no registered one. ValueError for the container of a network that is not registered."""
    if not data.startswith(b"ICM\x01"):
        return next(((codec, None) for codec in CODECS.values() if codec.magic and data.startswith(codec.magic)), None)
    name = data[5 : 5 + data[4]].decode("ascii", "replace") if len(data) > 4 else ""
    try:
        return find(name) if ":" not in name else None
    except ValueError as error:
        told = f"written by codec {name!r}, which is not registered: name it, as in --codec module:{name}"
        raise ValueError(told) from error


def load(
    name: str = "mean-scale-small",
    quality: int | Path | str | None = None,
    *,
    weights: Path | str | None = "default",
    metric: str = "mse",
) -> Any:
    """Build a codec by name, ready for `container.encode` and `decode`, or with `video` for `encode_video` and `decode_video`. A
    network is in eval mode, trainable, and has `name` and `quality` set.

    Args:
        name: `mean-scale-small` (`MeanScaleHyperprior(32, 48)`, 0.44 million parameters); `elic-small`, of 3.8 million, for
            photographs; `tcm`, LIC-TCM of the size that the weights have (N = 128 without any); `tcm-tiny`, a LIC-TCM of 4.2
            million parameters for demonstrations; any image model of CompressAI's zoo, of which the variable-rate ones (-vbr) are
            coded at their default gain, `s=1`; a classical codec; or one of your own. `mbt2018-mean-q5` is `mbt2018-mean` of
            quality 5.
        quality: of a classical codec, for HEVC and VVC its QP; of a CompressAI model 1 to 8 (cheng2020: 6); else None. Or, in its
            place, a network's file of weights: `load_codec("tcm", "tcm_0.05.pth.tar")`.
        weights: of a network: "default" for the file shipped in data/checkpoints, or CompressAI's published weights; a
            `.safetensors` file written by `networks.save`; a `.pt`, `.pth` or `.pth.tar` state dict; or None for a random start
            that depends on torch's seed only, and has no CDF tables: call `codec.update(force=True)` after training, and before
            coding.
        metric: "mse" or "ms-ssim": what CompressAI's published weights were trained for.

    Raises:
        ValueError: unknown name, quality or metric, or weights that do not belong to this codec.
        FileNotFoundError, ConnectionError: the weights are missing, or could not be fetched.

    >>> from icm_helpers import load_codec
    >>> codec = load_codec("mean-scale-small", weights=None)
    >>> sum(p.numel() for p in codec.parameters())
    444875
    """
    codec, named = find(name)
    if isinstance(quality, (str, Path)):
        quality, weights = None, quality
    if named is not None and quality not in (None, named):
        raise ValueError(f"{name} is of quality {named}: leave quality out (got {quality!r}).")
    quality = named if quality is None else quality
    if codec.network:
        from icm_helpers.codecs import networks

        return networks.load(codec, quality, weights, metric)
    if weights != "default":
        raise ValueError(f"{name} has no weights: leave weights out, or name a network such as mean-scale-small.")
    if codec.setting is None and quality is not None:
        raise ValueError(f"{name} has nothing to set: leave quality out (got {quality!r}).")
    if codec.setting is not None and quality is None:
        which = "a QP such as 32, of which smaller is better" if codec.setting == "qp" else "from 1 (smallest) to 100"
        raise ValueError(f"{name} needs a quality: {which}.")
    return codec.build(*([] if codec.setting is None else [quality]))


def _network(name: str, make: str, **more: Any) -> None:
    register(Codec(name, make, network=True, **more))


# What is coded by a network with weights. Of CompressAI's, with its sizes N, or N and M, from quality 1 on; a test compares.
_WIDE, _FROM_6 = (192, 320), [(128, 192)] * 5 + [(192, 320)] * 3
_MODELS, _TCM = "compressai.models:", "icm_helpers.codecs.tcm:TCM"
_network("mean-scale-small", _MODELS + "MeanScaleHyperprior", options={"N": 32, "M": 48}, shipped="start-coco-mini")
_ROI = {"roi": True, "extends": "mean-scale-small", "shipped": "start-coco-mini"}
_network("mean-scale-roi", "icm_helpers.codecs.regional:RegionalHyperprior", options={"N": 32, "M": 48}, **_ROI)
_network("tcm", _TCM, arguments=lambda state: resolve_name("icm_helpers.codecs.tcm:arguments")(state))
_network("elic-small", "icm_helpers.codecs.elic:ELIC", shipped="start-photos")
_network("tcm-tiny", _TCM, options={"N": 32, "M": 64, "num_slices": 4, "width": 32})
for _name, _class, _sizes in (
    ("bmshj2018-factorized", "FactorizedPrior", _FROM_6),
    ("bmshj2018-factorized-relu", "FactorizedPriorReLU", _FROM_6),
    ("bmshj2018-hyperprior", "ScaleHyperprior", _FROM_6),
    ("mbt2018-mean", "MeanScaleHyperprior", [(128, 192)] * 4 + [_WIDE] * 4),
    ("mbt2018", "JointAutoregressiveHierarchicalPriors", [(192, 192)] * 4 + [_WIDE] * 4),
    ("cheng2020-anchor", "Cheng2020Anchor", [(128,)] * 3 + [(192,)] * 3),
    ("cheng2020-attn", "Cheng2020Attention", [(128,)] * 3 + [(192,)] * 3),
):
    _network(_name, _MODELS + _class, sizes=dict(enumerate(_sizes, start=1)))
# As published: a variable step of the hyperlatent too, which the autoregressive model does not have.
for _name, _class, _options in (
    ("bmshj2018-hyperprior-vbr", "ScaleHyperpriorVbr", {"vr_entbttlnck": True}),
    ("mbt2018-mean-vbr", "MeanScaleHyperpriorVbr", {"vr_entbttlnck": True}),
    ("mbt2018-vbr", "JointAutoregressiveHierarchicalPriorsVbr", {}),
):
    _network(_name, _MODELS + _class, options={"N": 192, "M": 320, **_options})

_PILLOW, _FFMPEG = "icm_helpers.codecs.classical:", "icm_helpers.codecs.ffmpeg:"
_LOWPASS = "icm_helpers.codecs.regional:low_passed"
for _codec in (
    Codec("png", _PILLOW + "Png", label="PNG", suffix="png"),
    Codec("jpeg", _PILLOW + "Jpeg", "quality", "JPEG", "#999999", "^", "jpg"),
    Codec("webp", _PILLOW + "Webp", "quality", "WebP", "#a08a5b", "v", "webp"),
    Codec("avif", _PILLOW + "Avif", "quality", "AVIF", "#7f8f3a", "P", "avif"),
    Codec("hevc", _FFMPEG + "Hevc", "qp", "HEVC intra", "#cc79a7", "<", magic=b"HEV\x01"),
    Codec("vvc", _FFMPEG + "Vvc", "qp", "VVC intra", "#8a63b0", ">", magic=b"VVC\x01"),
    Codec("hevc-roi", _FFMPEG + "RegionalHevc", "qp", "HEVC, ROI", "#cc79a7", "D", roi=True),
    *(
        Codec(f"{name}-lowpass", _LOWPASS, setting, f"{label}, low-passed", *looks, roi=True, options={"codec": name})
        for name, setting, label, *looks in (
            ("jpeg", "quality", "JPEG", "#999999", "2", "jpg"),
            ("avif", "quality", "AVIF", "#7f8f3a", "3", "avif"),
            ("hevc", "qp", "HEVC", "#cc79a7", "4", "icm"),
            ("vvc", "qp", "VVC", "#8a63b0", "1", "icm"),
        )
    ),
    Codec("hevc-inter", _FFMPEG + "Hevc", "qp", "HEVC", "#cc79a7", "<", "hevc", video=True),
    Codec("vvc-inter", _FFMPEG + "Vvc", "qp", "VVC", "#8a63b0", ">", "vvc", video=True),
    Codec(
        "nerv",
        partial(import_module, "icm_helpers.codecs.nerv"),
        label="NeRV",
        suffix="nrv",
        magic=b"NRV\x01",
        video=True,
    ),
):
    register(_codec)
