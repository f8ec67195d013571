"""The ledger: one JSON file for each measured run, named by its recipe, never silently overwritten.

A chapter asks for recipes and gets exactly the records whose recipe it asked for; anything else is an error.
"""

from __future__ import annotations

import hashlib
import json
import math
import subprocess
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import asdict, dataclass, fields
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from icm_helpers import files
from icm_helpers.files import ROOT

LEDGER = ROOT / "data" / "results"
PACKAGES = (
    "torch",
    "torchvision",
    "compressai",
    "faster-coco-eval",
    "bjontegaard",
    "numpy",
    "pillow",
    "opencv-python-headless",
    "ultralytics",
    "onnxruntime",
    "imageio-ffmpeg",
)

Record = dict[str, Any]
DRAWN = ("drawing", "canny_low", "canny_high", "dilate", "shift")
"""The fields of a recipe that say how edges are drawn from masks."""
_LATER = {"teacher", "task_weight", "finetuned", "finetune_steps", "levels", "reduction", "temperature", "objectness"}
_LATER |= {"edges", "alpha", *DRAWN}
_LATER |= {"clip", "beta", "mask_weight", "density", "tune_steps", "bits"}


class LedgerError(RuntimeError):
    """A record is missing, damaged, or belongs to another recipe; the message names it and says what to do."""


@dataclass(frozen=True)
class Recipe:
    """Everything that decides the outcome of one run. Two runs with equal recipes are the same run.

    `method` is `trained` (a codec trained with a loss, and what detectors make of its pictures), `spent` (where such a codec spends
    its bits), `probed` (what textures its pictures give away), `refined` (the latents of a fixed codec optimised image by image),
    or `classical`, where `lmbda` holds the codec's own quality setting. `start` and `detectors` end in `@` and the first eight
    hexadecimal digits of the SHA-256 of the weights file, so a record made with other weights is another record.

    `teacher` is the frozen detector whose own loss takes part in the training (loss `task`), with the weight `task_weight` times
    `lmbda`, or whose features are compared (`distill`, `distill-boxes`, `distill-objectness`): those of `levels` (`all`, or names
    joined by `+`), weighted by `objectness` in the `original` or the `decoded` picture, after a `reduction` over anchors, at a
    `temperature`.

    `edges` is the Segment Anything whose masks gave the edges that distortion is counted on (loss `sa-icm`): masks surer than
    `alpha`, painted in the order `drawing`; Canny's two thresholds; widened by `dilate` pixels and moved to the
    right by `shift`.

    `clip` is one video of the data set, whose first `images` frames are coded together by HEVC, VVC, or a NeRV that is trained on
    them; there `lmbda` holds the channels of its network. Its loss is `nerv`, where L1 has the weight `beta`, or `sa-nerv`, which
    adds `mask_weight` times the same on edges, or `sa-nerv-truth`, on the edges of the true masks. After `steps` a `density` of its
    weights is kept and trained for `tune_steps` more; each is then rounded to `bits`.

    `finetuned` is a detector that is trained for `finetune_steps` on what this very codec decodes, and then judges it too.
    """

    chapter: str
    data: str
    images: int
    size: int
    codec: str
    method: str
    detectors: tuple[str, ...]
    loss: str = "none"
    lmbda: float = 0.0
    scale: float = 1.0
    seed: int = 0
    start: str = "none"
    steps: int = 0
    batch: int = 0
    patch: int = 0
    lr: float = 0.0
    augment: str = "none"
    precision: str = "32-true"
    train_images: int = 0
    teacher: str = "none"
    task_weight: float = 0.0
    finetuned: str = "none"
    finetune_steps: int = 0
    levels: str = "all"
    reduction: str = "max"
    temperature: float = 1.0
    objectness: str = "original"
    edges: str = "none"
    alpha: float = 0.0
    drawing: str = "largest-first"
    canny_low: float = 50.0
    canny_high: float = 100.0
    dilate: int = 0
    shift: int = 0
    clip: str = "none"
    beta: float = 0.7
    mask_weight: float = 1.0
    density: float = 1.0
    tune_steps: int = 0
    bits: int = 0

    @property
    def run_id(self) -> str:
        """`<codec>-<loss>-l<lmbda>-s<seed>-<hash8>`, the name of the record; the hash is of the whole recipe."""
        return self._name(asdict(self))

    @property
    def codec_id(self) -> str:
        """The name of the trained codec: as :attr:`run_id`, but hashed without what judges it: new judges need no training."""
        judging = {"chapter", "method", "detectors", "images", "finetuned", "finetune_steps"}
        return self._name({k: v for k, v in asdict(self).items() if k not in judging})

    def _name(self, content: dict[str, Any]) -> str:
        # A field that came later and keeps its default leaves older names as they were.
        content = {k: v for k, v in content.items() if k not in _LATER or v != getattr(Recipe, k)}
        hash8 = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:8]
        return f"{self.codec}-{self.loss}-l{self.lmbda:g}-s{self.seed}-{hash8}"

    @property
    def path(self) -> Path:
        """Where its record lies in the ledger."""
        return LEDGER / self.chapter / f"{self.run_id}.json"


def read(recipe: Recipe) -> Record:
    """The record of a recipe.

    Raises:
        LedgerError: there is none, it cannot be read, it was edited by hand, or it holds another recipe than its name says.
    """
    path = recipe.path
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise LedgerError(
            f"the ledger has no record {path.name} in {path.parent}: measure it with "
            f"`python -m icm_helpers grid {recipe.chapter} --only {recipe.run_id}`, or run the chapter with rerun=True"
        ) from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise LedgerError(
            f"{path} is not readable JSON ({error}): restore it with git, or delete it and measure again"
        ) from error
    missing = {"recipe", "result", "bootstrap", "provenance", "checksum"} - set(
        record if isinstance(record, dict) else ()
    )
    if missing:
        raise LedgerError(
            f"{path} lacks {', '.join(sorted(missing))}: restore it with git, or delete it and measure again"
        )
    wanted = json.loads(json.dumps(asdict(recipe)))
    found = {k: getattr(Recipe, k) for k in _LATER} | record["recipe"]
    if found != wanted:
        differing = [k for k in sorted(wanted.keys() | found.keys()) if found.get(k) != wanted.get(k)]
        raise LedgerError(
            f"{path} holds another recipe than its name says: {', '.join(differing)} differ. "
            "It was edited by hand or renamed: restore it with git, or delete it and measure again"
        )
    if record["checksum"] != _checksum(record):
        raise LedgerError(
            f"checksum differs in {path} (expected {record['checksum']}, found {_checksum(record)}): it was edited by hand: "
            "restore it with git, or delete it and measure again"
        )
    return record


def write(
    recipe: Recipe,
    result: dict[str, Any],
    bootstrap: dict[str, Any],
    *,
    device: str,
    seconds: float,
    ledger: bool = True,
) -> Record:
    """Add a record to the ledger, atomically; with `ledger=False` write nothing, and only give it.

    `seconds` are those of coding and judging, without any training of the codec.

    Raises:
        LedgerError: there is one already; delete it first if it is to be measured again. Or a result is not finite.
        OSError: the disk is full, or may not be written to; nothing is left of the attempt.
    """
    record = {
        "recipe": asdict(recipe),
        "result": rounded(result),
        "bootstrap": rounded(bootstrap),
        "provenance": provenance(device) | {"seconds": round(seconds, 1)},
    }
    record["checksum"] = _checksum(record)
    if not ledger:
        return record
    if broken := [name for kind in ("result", "bootstrap") for name in _not_finite(record[kind], kind)]:
        raise LedgerError(
            f"{recipe.run_id} has {', '.join(broken[:3])} that are not finite: too few evaluation images hold what they measure"
        )
    try:
        with files.atomically(recipe.path, replace=False, hint="measure again") as temporary:
            temporary.write_text(_inline_lists(json.dumps(record, indent=1)), encoding="utf-8")
    except FileExistsError:
        raise LedgerError(f"{recipe.path} exists already: delete it first if you want to measure it again") from None
    return read(recipe)


def load_or_run(
    recipes: Iterable[Recipe], run: Callable[[Recipe], Record] | None = None, *, rerun: bool = False
) -> list[Record]:
    """The records of `recipes`, in their order; with `rerun`, the missing ones are measured by `run` first.

    Raises:
        LedgerError: a record is missing and `rerun` is off, or a record does not fit its recipe.
    """
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
    return {
        "commit": _commit(),
        "packages": packages,
        "device": device,
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d"),
    }


_SAME = {"e1784706": "aa2ff663", "2be22ced": "edbb1b8d", "4f180cf2": "ff6f13e9"}
"""Files that hold the same tensors as others, which recipes name: two start codecs, packed since, and YOLOv5n's official file."""


def fingerprint(path: Path | str) -> str:
    """The first eight hexadecimal digits of a file's SHA-256; or, where recipes know its tensors from another file, that file's.

    Raises:
        FileNotFoundError: there is no such file.
    """
    found = hashlib.sha256(Path(path).read_bytes()).hexdigest()[:8]
    return _SAME.get(found, found)


def table(records: Iterable[Record]) -> list[dict[str, Any]]:
    """The records as flat rows: the recipe's fields that say something, and the scalars measured."""
    rows = []
    for record in records:
        row = {
            f.name: record["recipe"][f.name]
            for f in fields(Recipe)
            if f.name in ("data", "codec", "method", "loss", "lmbda", "seed")
        }
        for name, value in record["result"].items():
            if isinstance(value, dict):
                row |= {f"{name} ({key})": v for key, v in value.items()}
            elif isinstance(value, int | float):
                row[name] = value
        rows.append(row)
    return rows


def origins(records: Iterable[Record]) -> list[dict[str, str]]:
    """Rows that say of each record on which data, with what, when and at which commit it was measured."""
    return [
        {"data": record["recipe"]["data"]}
        | {k: record["provenance"][k] for k in ("device", "date", "commit")}
        | {"torch": record["provenance"]["packages"]["torch"]}
        for record in records
    ]


def _not_finite(value: Any, name: str) -> list[str]:
    """The names of all numbers within `value` that are infinite or NaN."""
    if isinstance(value, dict):
        return [found for k, v in value.items() for found in _not_finite(v, f"{name}.{k}")]
    if isinstance(value, list):
        return [name] if any(_not_finite(v, name) for v in value) else []
    return [name] if isinstance(value, float) and not math.isfinite(value) else []


def _checksum(record: Record) -> str:
    """Of everything else in a record, in canonical JSON: an accident or an edit by hand changes it."""
    content = {k: v for k, v in record.items() if k != "checksum"}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def _commit() -> str:
    """The commit measured with, marked `-dirty` where the code has changed since: a change of prose measures nothing else."""
    git = ["git", "-C", str(ROOT)]
    try:
        found = subprocess.run([*git, "rev-parse", "--short=12", "HEAD"], capture_output=True, text=True, timeout=10)
        clean = subprocess.run([*git, "diff", "--quiet", "HEAD", "--", "icm_helpers", "constraints.txt"], timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return "unknown"
    if found.returncode:
        return "unknown"
    return found.stdout.strip() + ("-dirty" if clean.returncode else "")


def rounded(value: Any) -> Any:
    """Six significant digits: far below the noise, and a third of the bytes."""
    if isinstance(value, float):
        return float(f"{value:.6g}")
    if isinstance(value, dict):
        return {k: rounded(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [rounded(v) for v in value]
    return value


def _inline_lists(text: str) -> str:
    """Indented JSON with each list of numbers on one line, so that a record can be read and diffed."""
    lines: list[str] = []
    inside = False
    for line in text.splitlines():
        stripped = line.strip()
        if inside:
            lines[-1] += (" " if not stripped.startswith("]") and not lines[-1].endswith("[") else "") + stripped
            inside = not stripped.startswith("]")
        else:
            lines.append(line)
            inside = stripped.endswith("[")
    return "\n".join(lines) + "\n"
