"""The papers, one file each: its studies by preset, its claims, its title. A new file here is a new chapter."""

from __future__ import annotations

import importlib
import pkgutil
from functools import cache

from icm_helpers.ledger.chapter import Chapter

NAMES = tuple(sorted(module.name for module in pkgutil.iter_modules(__path__)))


@cache
def named(name: str) -> Chapter:
    """A chapter by its name; a ValueError if there is none.

    >>> [study.data for study in named("object_region_mse").studies("paper")]
    ['coco2017', 'visdrone']
    """
    if name not in NAMES:
        raise ValueError(f"no chapter is called {name!r}; known: {', '.join(NAMES)}")
    return importlib.import_module(f"{__name__}.{name}").CHAPTER
