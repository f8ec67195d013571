"""Weight files: the book's own, in safetensors with what rebuilds the network in the metadata, and published ones."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from icm_helpers import files
from icm_helpers.tasks import models


def save(
    path: Path | str,
    model: str,
    state: Mapping[str, Tensor],
    categories: Mapping[int, str],
    size: int,
    *,
    half: bool = True,
) -> None:
    """Write a detector's weights atomically, floats in half precision or as they are, with its `categories` and input `size`."""
    files.require_finite(state, model)
    kept = {k: v.contiguous().half() if half and v.is_floating_point() else v.contiguous() for k, v in state.items()}
    named = json.dumps({str(k): v for k, v in categories.items()})
    with files.atomically(path) as temporary:
        save_file(kept, temporary, metadata={"model": model, "categories": named, "size": str(size)})


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
    files.require_finite(state, path)
    state = {k: v.float() if v.is_floating_point() else v for k, v in state.items()}
    return state, {int(k): v for k, v in json.loads(metadata["categories"]).items()}, int(metadata["size"])


def categories(path: Path | str) -> dict[int, str] | None:
    """The categories that :func:`save` wrote into a file; None where it wrote none."""
    with suppress(SafetensorError, OSError), safe_open(path, framework="pt") as file:
        named = (file.metadata() or {}).get("categories")
        return named and {int(k): v for k, v in json.loads(named).items()}


class Own(nn.Module):
    """A detector that is trained here, for any set of categories: how it is saved and loaded.

    Its class is called with `categories` (id -> name of what it knows) and `size`, and keeps both.
    """

    name: str  # in the registry and in files
    categories: dict[int, str]
    size: int

    def save(self, path: Path | str) -> None:
        """Write the weights in half precision, with the categories, to a safetensors file."""
        save(path, self.name, getattr(self, "model", self).state_dict(), self.categories, self.size)

    @classmethod
    def from_weights(cls, path: Path | str | None = None) -> Any:
        """Load a frozen model from a file that :meth:`save` wrote; without a path, the one that the book ships.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: it is not a checkpoint of this model.
        """
        path = files.CHECKPOINTS / f"{cls.name}.safetensors" if path is None else path
        state, categories, size = read(path, cls.name)
        model = cls(categories, size=size)
        with fitting(path, f"this version of {cls.name}"):
            getattr(model, "model", model).load_state_dict(state)
        return model.eval().requires_grad_(False)


def _tensors(path: Path) -> Any:
    # weights_only: a pickle that asks for anything but tensors is refused before it runs.
    return load_file(path) if path.suffix == ".safetensors" else torch.load(path, "cpu", weights_only=True)


def published(path: Path | str, read: Callable[[Path], Any] = _tensors) -> Any:
    """What a file of published weights holds: `.safetensors`, or a pickle from which only tensors are read, and nothing is run.

    Raises:
        FileNotFoundError: there is no such file; the message says what fetches it.
        ValueError: it is damaged, asks for more than tensors, or has NaN or infinity among its weights.
    """
    path = models.present(path)
    try:
        found = read(path)
    except Exception as error:  # a damaged pickle fails in a dozen ways
        told = str(error).partition(". ")[0][:200]  # torch goes on with the advice to run what the file holds
        raise ValueError(
            f"{path} is not a file of weights ({type(error).__name__}: {told}): it is damaged, or holds more than tensors. "
            "Nothing in it was run; fetch it again"
        ) from error
    files.require_finite(found if isinstance(found, dict) else {}, path)
    return found


@contextmanager
def fitting(path: Path | str, what: str) -> Iterator[None]:
    """Context for filling a network: a `ValueError` says that a file does not hold `what`, and where they differ."""
    try:
        yield
    except (RuntimeError, TypeError, AttributeError, LookupError) as error:
        differing = f"{type(error).__name__}: {str(error)[:300]}"
        raise ValueError(f"{path} does not hold {what} ({differing}): correct the path, or fetch it again") from error
