"""Files that appear whole and at once, or not at all, and the fingerprints that tell them apart."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import platformdirs
from safetensors import SafetensorError

_HERE = Path(__file__).resolve().parent
CLONE = (_HERE.parent / "book" / "_toc.yml").is_file()
"""Whether the package lies in a clone of the repository, with its pages and the ledger, or was installed without them."""
ROOT = _HERE.parent if CLONE else platformdirs.user_cache_path("icm-book")
"""The clone; or else a folder of the user's. Its folders `data` and `runs` are written."""
SHIPPED = ROOT / "data" if CLONE else _HERE / "shipped"
"""What every installation has: the manifest and small weights."""
CHECKPOINTS = SHIPPED / "checkpoints"
RUNS = ROOT / "runs"
WEIGHTS = Path(os.environ.get("ICM_WEIGHTS", ROOT / "data" / "weights"))
"""Where `icm datasets fetch` puts published weights."""
CACHE = Path(os.environ.get("ICM_CACHE", ROOT / "data" / "cache"))
"""What is made once and may be deleted: drawn pictures, converted annotations, masks."""
NO_CLONE = "" if CLONE else " (the book's own records come with a clone of its repository)"


@contextmanager
def atomically(path: Path | str, *, replace: bool = True, hint: str = "run the same command again") -> Iterator[Path]:
    """Gives the path of a temporary file to write; after the block, flushed to disk, it takes the place of `path`.

    Until then, and where the block fails or the process is killed, `path` keeps what it held. Missing folders are made. Without
    `replace` a file that exists stays, also where another process wrote it a moment ago: a FileExistsError. An OSError says that
    the disk is full, or may not be written to, and ends with a `hint`: what to do once there is space.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp(), "a.txt")
    >>> with atomically(path) as temporary:
    ...     _ = temporary.write_text("whole")
    >>> path.read_text(), len(list(path.parent.iterdir()))
    ('whole', 1)
    """
    path = Path(path)
    temporary = path.with_name(f".{uuid.uuid4().hex}")  # no longer than any name that the file may have
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)  # safetensors makes files that nobody else may read
        # A hard link fails where the file exists; a rename would not.
        (os.replace if replace else os.link)(temporary, path)
    except (OSError, SafetensorError, RuntimeError) as error:
        # torch.save hides what the file said behind an error of its own, and safetensors has one of its own.
        reason = error.__context__ if isinstance(error, RuntimeError) else error
        if isinstance(error, FileExistsError) or not isinstance(reason, OSError | SafetensorError):
            raise
        told = f"cannot write {path} ({reason})"
        raise OSError(f"{told}: free space on its disk, or make its folder writable, and {hint}") from error
    finally:
        with suppress(OSError):
            temporary.unlink()


def claim(path: Path) -> Path:
    """The path of a file that is to be written when long work is done; an OSError says now that it will not be."""
    try:
        if path.is_dir():
            raise IsADirectoryError(None, "it is a folder")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.exists()  # a name that is too long
        probe = path.with_name(f".{uuid.uuid4().hex}")
        probe.touch()
        probe.unlink()
    except OSError as error:
        cure = "name another file, in a folder that may be written to"
        raise OSError(f"cannot write {path} ({error.strerror}): {cure}") from error
    return path


@contextmanager
def folder_atomically(folder: Path) -> Iterator[Path]:
    """Gives a new folder to fill, which is called `folder` after the block; where another process was quicker, its one stays.

    Until then, and where the block fails or the process is killed, there is no `folder`. Missing parents are made.
    """
    draft = folder.with_name(f".{uuid.uuid4().hex}")
    try:
        draft.mkdir(parents=True)
        yield draft
        os.rename(draft, folder)
    except OSError:
        if not folder.is_dir():
            raise
    finally:
        shutil.rmtree(draft, ignore_errors=True)


_SAME = {"e1784706": "aa2ff663", "2be22ced": "edbb1b8d", "4f180cf2": "ff6f13e9"}
"""Files that hold the same tensors as others, which recipes name: two start codecs, packed since, and YOLOv5n's official file."""


def fingerprint(path: Path | str) -> str:
    """The first eight hexadecimal digits of a file's SHA-256; or, where recipes know its tensors from another file, that file's."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(2**20):  # a video or a large network does not fit in memory twice
            digest.update(chunk)
    found = digest.hexdigest()[:8]
    return _SAME.get(found, found)


def unmarked(name: str) -> tuple[str, str]:
    """A name and the fingerprint behind it, or ""; a path may hold an @ of its own.

    >>> unmarked("yolov5n@ff6f13e9"), unmarked("mask-rcnn-small=a@b/judge.safetensors")
    (('yolov5n', 'ff6f13e9'), ('mask-rcnn-small=a@b/judge.safetensors', ''))
    """
    found = re.fullmatch(r"(.*)@([0-9a-f]{8})", name, re.DOTALL)
    return (found[1], found[2]) if found else (name, "")


def require_finite(tensors: Mapping[str, Any], what: Path | str) -> None:
    """ValueError where weights hold NaN or infinity; it says of `what`, and which."""
    floats = {name: value for name, value in tensors.items() if getattr(value, "is_floating_point", bool)()}
    if wrong := [name for name, value in floats.items() if not bool(value.isfinite().all())]:
        told = f"{what} has NaN or infinity in {', '.join(wrong[:4])}{' and more' * (len(wrong) > 4)}"
        raise ValueError(f"{told}: it is damaged, or its training diverged; use other weights")
