"""Modules that are imported at first use: what only configures or lists does not wait for torch."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module
from typing import Any


class _Later:
    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, attribute: str) -> Any:
        return getattr(import_module(self._name, __package__), attribute)


def later(*names: str) -> Iterator[Any]:
    """Modules by name, `.run` for one of this package, each imported when an attribute of it is first asked for.

    >>> (math,) = later("math")
    >>> math.floor(2.5)
    2
    """
    return map(_Later, names)
