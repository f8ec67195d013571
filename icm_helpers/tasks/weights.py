"""Weight files of the book's own detectors: safetensors in half precision, with what rebuilds the network in the metadata."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from icm_helpers import files


def save(path: Path | str, model: str, state: Mapping[str, Tensor], categories: Mapping[int, str], size: int) -> None:
    """Write a detector's weights atomically, floats in half precision, with its `categories` and input `size`."""
    halved = {k: v.half() if v.is_floating_point() else v for k, v in state.items()}
    named = json.dumps({str(k): v for k, v in categories.items()})
    with files.atomically(path) as temporary:
        save_file(halved, temporary, metadata={"model": model, "categories": named, "size": str(size)})


def read(path: Path | str, model: str) -> tuple[dict[str, Tensor], dict[int, str], int]:
    """Weights in single precision, categories and input size from a file that :func:`save` wrote.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is damaged, or holds another model.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing: train one with `icm detector --model {model} --out {path}`")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            state = {k: file.get_tensor(k) for k in file.keys()}  # noqa: SIM118 - not a dictionary
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path} is not a readable safetensors file ({error}): fetch or train it again") from error
    if metadata.get("model") != model:
        raise ValueError(f"{path} holds {metadata.get('model', 'something else')}, not a {model}")
    state = {k: v.float() if v.is_floating_point() else v for k, v in state.items()}
    return state, {int(k): v for k, v in json.loads(metadata["categories"]).items()}, int(metadata["size"])
