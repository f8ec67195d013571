"""Codecs with weights: `load` builds one and fills it, `save` writes it, `fingerprint` ties a bitstream to its weights.

CDF tables are part of a checkpoint: they follow from the weights, but through floats whose last bit may differ between machines,
and one differing entry makes a bitstream unreadable. `save` computes them, `load` uses them as they are, and `fingerprint` covers
them.
"""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import compressai.zoo
import torch
from compressai.models import CompressionModel
from compressai.models.utils import remap_old_keys
from compressai.zoo import image as _image
from compressai.zoo import image_vbr as _image_vbr
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from icm_helpers import files

if TYPE_CHECKING:
    from icm_helpers.codecs.zoo import Codec

_log = logging.getLogger(__name__)
_TABLE = "_quantized_cdf"
_TABLES = (_TABLE, "_cdf_length", "_offset")
_FACTOR = ".factor"


def load(codec: Codec, quality: int | None, weights: Path | str | None, metric: str) -> CompressionModel:
    """What `zoo.load` gives for a network: see there."""
    name, shipped = codec.name, files.CHECKPOINTS / f"{codec.shipped or codec.name}.safetensors"
    if codec.sizes is None and quality is not None:
        raise ValueError(f"{name} has one size only: leave quality out (got {quality!r}).")
    if codec.sizes is not None and quality not in codec.sizes:
        raise ValueError(f"{name} needs a quality out of {', '.join(map(str, codec.sizes))} (got {quality!r}).")
    if weights is None:
        return build(codec, quality)
    if weights != "default":
        source = Path(weights)
        state = _read(source, codec, quality)
    elif name in compressai.zoo.image_models:
        state, source = _fetch(name, quality, metric)
    elif shipped.is_file():
        state, source = _read(shipped, codec, quality), shipped
    else:
        lost = (
            f"the shipped weights {shipped} are missing: restore them"
            if codec.shipped
            else f"{name} has no weights here"
        )
        own = "name a file of your own, train the codec and write it with networks.save"
        raise FileNotFoundError(f"{lost}, {own}, or, in Python, use weights=None for a random start.")
    try:
        sizes = codec.arguments(state) if codec.arguments else {}
    except ValueError as error:
        raise ValueError(f"{source} holds no {name}: {error}") from error
    model = build(codec, quality, **sizes)
    if codec.extends:
        state = {k: v for k, v in model.state_dict().items() if k.startswith(model.added)} | state
    _fill(model, state, source)
    return model


def build(codec: Codec, quality: int | None = None, **sizes: Any) -> CompressionModel:
    """A network with random weights in eval mode, of the codec's sizes or, where it has any, of those given."""
    model = codec.build(*(codec.sizes[quality] if codec.sizes else ()), **sizes)
    model.name, model.quality = codec.name, quality
    return model.eval()


def save(codec: CompressionModel, path: Path | str, metadata: Mapping[str, str] | None = None, bits: int = 32) -> None:
    """Write a codec from `zoo.load` (ValueError for another) as safetensors, atomically, with its name, quality and your
    `metadata` in the header. Its CDF tables are recomputed in place first, so that codec and file share one `fingerprint`; not
    with 16 or 8 `bits`, which make a half or a quarter of the file and round the weights of convolutions."""
    if not hasattr(codec, "name"):
        raise ValueError(f"{type(codec).__name__} has no name to write into {path}: make it with zoo.load.")
    if bits not in (32, 16, 8):
        raise ValueError(f"bits {bits}: weights are written in 32, 16 or 8")
    files.require_finite(codec.state_dict(), codec.name)  # or the tables would take forever
    update_tables(codec, force=True)
    header = dict(metadata or {}) | {"codec": codec.name, "quality": str(codec.quality)}
    state = _packed({key: value.detach().cpu().contiguous() for key, value in codec.state_dict().items()})
    state = state if bits == 32 else _rounded(state, bits)
    with files.atomically(path) as temporary:
        save_file(state, temporary, metadata=header)


def fingerprint(codec: torch.nn.Module) -> bytes:
    """Eight bytes that change with any weight or CDF table, on any device: a SHA-256 over names, types, shapes and values, cut
    short.

    >>> first, second = torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)
    >>> len(fingerprint(first)), fingerprint(first) == fingerprint(second)
    (8, False)
    """
    digest, state = hashlib.sha256(), codec.state_dict()
    for key in sorted(state):
        value = state[key].detach().cpu()
        # A masked convolution zeroes its weights only when it first runs: hash what it will compute with.
        if key.endswith(".weight") and (mask := state.get(key.removesuffix("weight") + "mask")) is not None:
            value = value * mask.cpu()
        digest.update(f"{key} {value.dtype} {tuple(value.shape)}\n".encode())
        digest.update(value.contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.digest()[:8]


def _read(path: Path, codec: Codec, quality: int | None) -> dict[str, Tensor]:
    """The state dict in a file, of a codec or of what it extends, without unpickling anything but tensors."""
    name = codec.name
    if not path.is_file():
        raise FileNotFoundError(f"no weights at {path}: name a .safetensors, .pt or .pth.tar file, or None.")
    try:
        if path.suffix == ".safetensors":
            with safe_open(path, "pt") as file:
                header = file.metadata() or {}
                state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not a dict)
            found, wanted = (
                f"({header.get('codec', name)!r}, {header.get('quality', quality)})",
                f"({name!r}, {quality})",
            )
            if found not in (wanted, f"({codec.extends!r}, {quality})"):
                raise ValueError(f"{path} was saved from load{found}, this is load{wanted}: ask for what it holds.")
            return _unpacked(state)
        try:
            state = torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:  # a damaged pickle fails in a dozen ways
            raise SafetensorError(f"{type(error).__name__}: {error}") from error
    except SafetensorError as error:
        why = "the file is damaged, or holds more than tensors, which is refused because it could run code"
        told = re.split(r"\. |\n", str(error))[0]  # torch goes on with the advice to run what the file holds
        raise ValueError(f"{path} cannot be read as weights ({told}): {why}.") from error
    state = state.get("state_dict", state) if isinstance(state, dict) else state
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise ValueError(f"{path} holds no state dict: expected names and tensors, or those under 'state_dict'.")
    return dict(state)


def _packed(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """CDF tables one row after the other, (sum of lengths,), without the zeros that fill rows up, and each entry as the step from
    the one before, which fits into 16 bits: a fourteenth of the size."""
    packed = dict(state)
    for key in [key for key in state if key.endswith(_TABLE) and state[key].ndim == 2]:
        lengths = state[key.removesuffix(_TABLE) + "_cdf_length"].tolist()
        steps = state[key].diff(dim=1, prepend=torch.zeros_like(state[key][:, :1]))
        packed[key] = torch.cat([row[:n] for row, n in zip(steps, lengths, strict=True)]).to(torch.int16)
    return packed


def _rounded(state: dict[str, Tensor], bits: int) -> dict[str, Tensor]:
    """Weights of convolutions as float16, or as integers of 8 bits that a factor for each of their first axis belongs to."""
    rounded = dict(state)
    for key in [key for key in state if state[key].ndim == 4]:
        if key.endswith(".mask"):
            rounded[key] = state[key].bool()
        elif bits == 16:
            rounded[key] = state[key].half()
        else:
            factor = state[key].abs().amax(dim=(1, 2, 3), keepdim=True).clamp_min(1e-12) / 127
            rounded |= {key: (state[key] / factor).round().to(torch.int8), key + _FACTOR: factor}
    return rounded


def _unpacked(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """What :func:`_packed` and :func:`_rounded` made small; other tables come back as they are, and so do older files' rows of 32
    bits."""
    whole = {key: value for key, value in state.items() if not key.endswith(_FACTOR)}
    whole |= {key: value * state[key + _FACTOR] for key, value in whole.items() if key + _FACTOR in state}
    for key in [key for key in state if key.endswith(_TABLE)]:
        lengths = state.get(key.removesuffix(_TABLE) + "_cdf_length")
        if state[key].ndim == 1 and state[key].numel() and lengths is not None:
            rows = state[key].split(lengths.tolist())
            if state[key].dtype == torch.int16:  # steps from 0 to 65,535, of which the larger half looks negative
                rows = [(row.int() & 0xFFFF).cumsum(0, dtype=torch.int32) for row in rows]
            whole[key] = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)  # (rows, longest)
    return whole


def _fetch(name: str, quality: int | None, metric: str) -> tuple[dict[str, Tensor], str]:
    """CompressAI's published weights and their URL; the zoo's own loader would unpickle anything and check no hash."""
    urls = (_image.model_urls | _image_vbr.model_urls).get(name, {}).get(metric, {})
    url = urls.get(quality) if isinstance(urls, dict) else urls
    if url is None:
        raise ValueError(f"CompressAI publishes no {metric!r} weights of {name}, quality {quality}: use weights=None.")
    try:
        return torch.hub.load_state_dict_from_url(url, map_location="cpu", check_hash=True, weights_only=True), url
    except Exception as error:  # no network, another hash, or a damaged file where the cache is
        cache = Path(torch.hub.get_dir(), "checkpoints", Path(url).name)
        cure = f"place the whole file at {cache}, name one of your own with weights=..."
        other = "use weights=None for a random start, or use load('mean-scale-small'), which needs no network"
        raise ConnectionError(f"cannot fetch or read {url} ({error}): {cure}, {other}.") from error


def _fill(codec: CompressionModel, state: dict[str, Tensor], source: Path | str) -> None:
    """Load `state` strictly, whichever of CompressAI's spellings its keys have, and make sure there are CDF tables."""
    expected = codec.state_dict()
    state.pop("QuantOffset", None)  # in the published variable-rate weights, in no network
    old = compressai.zoo.load_state_dict({key: value for key, value in state.items() if key not in expected})
    state = {key: value for key, value in state.items() if key in expected} | remap_old_keys("entropy_bottleneck", old)
    for key, buffer in codec.named_buffers():  # CDF tables are as long as the weights ask for
        if key in state and not buffer.numel():
            buffer.resize_(state[key].shape)
    try:
        codec.load_state_dict(state)
    except (RuntimeError, KeyError, ValueError) as error:
        expected = codec.state_dict()
        wrong = [f"{key} is missing" for key in expected if key not in state]
        wrong += [f"{key} is unknown" for key in state if key not in expected]
        both = [(key, tuple(state[key].shape), tuple(expected[key].shape)) for key in expected if key in state]
        wrong += [f"{key} is {found} instead of {wanted}" for key, found, wanted in both if found != wanted]
        told = f"{source} does not fit {codec.name} of quality {codec.quality}: {len(wrong)} entries differ"
        hint = "Was it trained as another codec or quality?"
        raise ValueError(f"{told}, first {'; '.join(wrong[:4])}. {hint}") from error
    files.require_finite(codec.state_dict(), source)
    _fit_tables(codec, source)


def _fit_tables(codec: CompressionModel, source: Path | str) -> None:
    """Make the CDF tables that a file lacks; those that it has stay, unless they are none of its weights': that is said."""
    given = {key: table.clone() for key, table in codec.named_buffers() if key.endswith(_TABLES)}
    update_tables(codec, force=True)
    made = {key: table.clone() for key, table in codec.named_buffers() if key.endswith(_TABLES)}
    whole = all(table.numel() for table in given.values())
    limits = {key: 64 if key.endswith(_TABLE) else 0 for key in given}  # of 65,536: what rounding may do
    same = {key: table.shape == made[key].shape for key, table in given.items()}
    if whole and all(same[key] and (given[key] - made[key]).abs().max() <= limits[key] for key in given):
        for key, table in codec.named_buffers():  # as they are: the bitstreams that they wrote must decode
            if key in given:
                table.resize_(given[key].shape).copy_(given[key])
    elif whole:
        _log.warning("the CDF tables in %s are not those of its weights: they were made anew", source)


def update_tables(codec: CompressionModel, force: bool) -> None:
    """`codec.update`; for a variable step of the hyperlatent, at the gain that `compress` takes by default."""
    gain = {"scale": codec.Gain[1].detach()} if getattr(codec, "vr_entbttlnck", False) else {}
    codec.update(force=force, **gain)
