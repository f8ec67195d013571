"""The ledger: one JSON file for each measured run, named by its recipe, never silently overwritten.

A chapter asks for recipes and gets exactly the records whose recipe it asked for; anything else is an error.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import subprocess
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from icm_helpers import files
from icm_helpers.ledger.recipe import Recipe, flat, nested

PACKAGES = (
    *("torch", "torchvision", "compressai", "faster-coco-eval", "bjontegaard", "numpy", "pillow"),
    *("opencv-python-headless", "ultralytics", "onnxruntime", "imageio-ffmpeg"),
)


class LedgerError(RuntimeError):
    """A record is missing, damaged, or belongs to another recipe; the message names it and says what to do."""


@dataclass(frozen=True)
class Record:
    """What a run gave: scalars, or dictionaries of them by detector; 200 paired bootstrap replicates of each; their origin."""

    recipe: Recipe
    result: dict[str, Any]
    bootstrap: dict[str, Any]
    provenance: dict[str, Any]


def read(recipe: Recipe) -> Record:
    """The record of a recipe; a LedgerError where there is none, or :func:`load` finds fault with it."""
    try:
        return load(recipe.path, recipe)
    except FileNotFoundError:
        raise LedgerError(
            f"the ledger has no record {recipe.path.name} in {recipe.path.parent}: measure it with "
            f"`icm grid {recipe.chapter} --only {recipe.run_id}`, or run the chapter with rerun=True{files.NO_CLONE}"
        ) from None


def load(path: Path, recipe: Recipe | None = None) -> Record:
    """The record in a file, and of a recipe if one is given; a LedgerError if it cannot be read, was edited by hand, or holds
    another recipe."""
    cure = "restore it with git, or delete it and measure again"
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise LedgerError(f"{path} is not readable JSON ({error}): {cure}") from error
    wanted = {"recipe", "result", "bootstrap", "provenance", "checksum"}
    if missing := wanted - set(content if isinstance(content, dict) else ()):
        raise LedgerError(f"{path} lacks {', '.join(sorted(missing))}: {cure}")
    try:
        found = nested(content["recipe"])
    except (ValueError, KeyError, TypeError) as error:
        raise LedgerError(f"{path} holds no recipe that this version knows ({error}): {cure}") from error
    if recipe is not None and found != recipe:
        here, there = flat(found), flat(recipe)
        differing = [k for k in sorted(here.keys() | there.keys()) if here.get(k) != there.get(k)]
        told = f"{path} holds another recipe than its name says: {', '.join(differing)} differ"
        raise LedgerError(f"{told}. It was edited by hand or renamed: {cure}")
    if content["checksum"] != (found_sum := _checksum(content)):
        told = f"checksum differs in {path} (expected {content['checksum']}, found {found_sum})"
        raise LedgerError(f"{told}: it was edited by hand: {cure}")
    return Record(found, content["result"], content["bootstrap"], content["provenance"])


def require_pictures(recipe: Recipe, ids: Sequence[int]) -> None:
    """Refuse, with a LedgerError, pictures that are not those of a recipe: another number of them, or other ids than those of the
    records that its chapter has of the same pictures."""
    wanted = recipe.pictures
    cure = "correct ICM_COCO or the folder that holds them; judge your own pictures with `icm judge --data FOLDER`"
    if len(ids) != wanted.images:
        raise LedgerError(f"{wanted.data} has {len(ids)} pictures here, the recipe asks for {wanted.images}: {cure}")
    for path in sorted(recipe.path.parent.glob("*.json")):
        try:
            record = load(path)
        except (LedgerError, FileNotFoundError):
            continue  # others' damage must not cost this run what it has measured; whoever reads them is told
        if record.recipe.pictures == wanted and "per_image" in record.result:
            if record.result["per_image"]["id"] != list(ids):
                told = f"{wanted.data} has other pictures here than {path.name} was measured on"
                raise LedgerError(f"{told}: {cure}, or delete those records and measure all again")
            return


def write(recipe: Recipe, result: dict, bootstrap: dict, *, device: str, seconds: float, ledger: bool = True) -> Record:
    """Add a record to the ledger, atomically; with `ledger=False` write nothing, and only give it.

    `seconds` are those of coding and judging, without any training of the codec, or what a stopped run had refined.

    Raises:
        LedgerError: there is one already; delete it first if it is to be measured again. Or a result is not finite, or of other
            pictures (:func:`require_pictures`).
        OSError: the disk is full, or may not be written to; nothing is left of the attempt.
    """
    content = {
        "recipe": flat(recipe),
        "result": rounded(result),
        "bootstrap": rounded(bootstrap),
        "provenance": provenance(device) | {"seconds": round(seconds, 1)},
    }
    content["checksum"] = _checksum(content)
    if not ledger:
        return Record(recipe, content["result"], content["bootstrap"], content["provenance"])
    if "per_image" in result:
        require_pictures(recipe, result["per_image"]["id"])
    if broken := [name for kind in ("result", "bootstrap") for name in _not_finite(content[kind], kind)]:
        told = f"{recipe.run_id} has {', '.join(broken[:3])} that are not finite"
        raise LedgerError(f"{told}: too few evaluation images hold what they measure")
    try:
        with files.atomically(recipe.path, replace=False, hint="measure again") as temporary:
            temporary.write_text(_inline_lists(json.dumps(content, indent=1)), encoding="utf-8")
    except FileExistsError:
        raise LedgerError(f"{recipe.path} exists already: delete it first if you want to measure it again") from None
    return read(recipe)


def load_or_run(
    recipes: Iterable[Recipe], run: Callable[[Recipe], Record] | None = None, *, rerun: bool = False
) -> list[Record]:
    """The records of `recipes`, in their order; with `rerun`, the missing ones are measured by `run` first; errors are those of
    :func:`read`."""
    records = []
    for recipe in recipes:
        if rerun and run is not None and not recipe.path.exists():
            run(recipe)
        records.append(read(recipe))
    return records


def provenance(device: str) -> dict[str, Any]:
    """Where and with what something was measured: commit, package versions, device, date."""
    packages = {}
    for name in PACKAGES:
        with suppress(PackageNotFoundError):
            packages[name] = version(name)
    today = datetime.now(timezone.utc).strftime("%Y-%m-%d")
    return {"commit": _commit(), "packages": packages, "device": device, "date": today}


def _not_finite(value: Any, name: str) -> list[str]:
    """The names of all numbers within `value` that are infinite or NaN."""
    if isinstance(value, dict):
        return [found for k, v in value.items() for found in _not_finite(v, f"{name}.{k}")]
    if isinstance(value, list):
        return [name] if any(_not_finite(v, name) for v in value) else []
    return [name] if isinstance(value, float) and not math.isfinite(value) else []


def _checksum(content: dict[str, Any]) -> str:
    """Of everything else in a record, in canonical JSON: an accident or an edit by hand changes it."""
    rest = {k: v for k, v in content.items() if k != "checksum"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()[:16]


def _commit() -> str:
    """The commit measured with, marked `-dirty` where the code has changed since: a change of prose measures nothing else;
    "unknown" where this is no clone, also where it lies in one of something else."""
    if not (files.ROOT / ".git").exists():  # git would answer for a repository around this copy
        return "unknown"
    git = ["git", "-C", str(files.ROOT)]
    try:
        found = subprocess.run([*git, "rev-parse", "--short=12", "HEAD"], capture_output=True, text=True, timeout=10)
        changed = [*git, "status", "--porcelain", "--", "icm_helpers", "constraints.txt"]
        dirty = subprocess.run(changed, capture_output=True, text=True, timeout=10).stdout
    except (OSError, subprocess.TimeoutExpired):
        return "unknown"
    return "unknown" if found.returncode else found.stdout.strip() + "-dirty" * bool(dirty)


def rounded(value: Any) -> Any:
    """Six significant digits: far below the noise, and a third of the bytes."""
    if isinstance(value, float):
        return float(f"{value:.6g}")
    if isinstance(value, dict):
        return {k: rounded(v) for k, v in value.items()}
    return [rounded(v) for v in value] if isinstance(value, list | tuple) else value


def _inline_lists(text: str) -> str:
    """Indented JSON with each list of numbers on one line, so that a record can be read and diffed."""
    return re.sub(r"\[\n[^][{}]*\]", lambda found: "[" + " ".join(found[0][1:-1].split()) + "]", text) + "\n"
