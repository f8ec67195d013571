"""Data and weights by name: what `data/manifest.toml` lists is downloaded, verified, unpacked and checked (`icm datasets`).

Nothing that is there is overwritten or removed: a file comes to its place only when it is whole, and under a name that is free.
"""

from __future__ import annotations

import difflib
import errno
import hashlib
import logging
import os
import re
import shutil
import stat
import sys
import tarfile
import textwrap
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

import pooch
import requests
from tqdm import tqdm

from icm_helpers.data import DataError, blamed
from icm_helpers.files import ROOT, SHIPPED

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

DATA = ROOT / "data"
MANIFEST = SHIPPED / "manifest.toml"
_CHUNK = 1 << 16  # bytes; what a broken connection loses at most
_log = logging.getLogger(__name__)
_bytes = partial(tqdm.format_sizeof, suffix="B")
_sha256 = partial(pooch.file_hash, alg="sha256")


@dataclass(frozen=True)
class File:
    """One file to download: an archive if it has a `layout`, else kept as it is."""

    name: str
    checksum: str  # "sha256:..." or "md5:...", whole or its first digits; or "unknown"
    urls: tuple[str, ...] = ()  # mirrors; none where it must be fetched by hand
    size: int | None = None  # bytes
    layout: Mapping[str, int] = field(default_factory=dict)  # of an archive: pattern -> files that match it, at least
    nested: tuple[str, ...] = ()  # archives in the archive, unpacked where they lie


@dataclass(frozen=True)
class Asset:
    """One entry of the manifest: a data set or the weights of a model, in one or more files."""

    name: str
    kind: str  # data | weights
    what: str
    use: str
    licence: str
    page: str
    files: tuple[File, ...]
    folder: str = ""  # below data/; its own name, or "weights", where left out
    variable: str = ""  # environment variable that names another folder; of weights ICM_WEIGHTS
    ask: str = ""  # what to do by hand where no program can, or may, fetch it

    def home(self) -> Path:
        """The folder where its files belong."""
        default = DATA / (self.folder or ("weights" if self.kind == "weights" else self.name))
        variable = self.variable or ("ICM_WEIGHTS" if self.kind == "weights" else "")
        return Path(os.environ.get(variable, default)) if variable else default


def assets() -> dict[str, Asset]:
    """Everything that the manifest lists, by name; DataError where it is missing or damaged.

    >>> assets()["yolov5n"].files[0].size
    4062133
    """
    with blamed(f"{MANIFEST} cannot be read", "restore it with git", OSError, ValueError, TypeError, KeyError):
        entries = tomllib.loads(MANIFEST.read_text(encoding="utf-8"))
        return {name: Asset(name, files=tuple(map(_file, e.pop("files"))), **e) for name, e in entries.items()}


def _file(entry: dict[str, Any]) -> File:
    return File(**{key: tuple(value) if isinstance(value, list) else value for key, value in entry.items()})


def listing() -> str:
    """A table of what the manifest lists: name, size, state on this machine, what it is, what for, and its licence."""
    rows = [("name", "size", "state", "what, what for (licence)")]
    for asset in assets().values():
        sizes = [file.size for file in asset.files if file.size is not None]
        total = _bytes(sum(sizes)) + (" + ?" if len(sizes) < len(asset.files) else "") if sizes else "?"
        there = [not _lacks(file, asset.home()) for file in asset.files]
        absent = "in part" if any(there) else "registration" if asset.ask else "absent"
        about = f"{asset.what}; {asset.use} ({asset.licence})"
        rows.append((asset.name, total, "present" if all(there) else absent, about))
    return table(rows)


def table(rows: list[tuple[str, ...]]) -> str:
    """Rows of cells in columns; the last is wrapped to the width of the terminal."""
    widths = [max(map(len, column)) + 2 for column in zip(*rows, strict=True)][:-1]
    indent = " " * sum(widths)
    wrap = textwrap.TextWrapper(shutil.get_terminal_size((120, 24)).columns, subsequent_indent=indent)
    wrap.width = max(wrap.width, len(indent) + 40)
    return "\n".join(wrap.fill("".join(map(str.ljust, cells, widths)) + last) for *cells, last in rows)


def fetch(name: str, folder: Path | str | None = None) -> Path:
    """Download what is not there yet, verify it, unpack it; return the file, or the folder where there are several.

    `name` is of an asset, or of one of its files: "coco2017" or "coco2017/val2017.zip". An interrupted download continues where it
    stopped, mirrors are tried in order, and an archive that you put into the folder yourself is used and kept.

    Raises:
        DataError: unknown name; no mirror works; wrong size or checksum; a full disk; an archive with members that would leave the
            folder; another file in the way; or files that have to be fetched by hand, and how.
    """
    asset, files = _find(name)
    target = Path(folder or asset.home())
    by_hand = []
    for file in files:
        path = target / file.name
        if file.layout and not _lacks(file, target):
            _log.info("%s: what it holds is there already", path)
        elif path.is_file():
            if problem := _differs(path, file, target):
                raise DataError(f"{path} {problem}: it is damaged, or another file. Move it away and fetch again")
            if file.layout:
                _unpack(path, file, target)
            else:
                _log.info("%s: is there already", path)
        elif not file.urls:
            by_hand.append(file)
        else:
            arrived = _download(file, target)
            if file.layout:
                _unpack(arrived, file, target)
                arrived.unlink()
                continue
            if len(file.checksum) < 64:  # not a whole SHA-256
                digest = _sha256(arrived)
                _write_record(file, target, digest, {file.name: digest})
            arrived.rename(path)
    with suppress(OSError):  # it stays where a download is unfinished
        (target / ".downloads").rmdir()
    if by_hand:
        raise DataError(_instructions(asset, by_hand, target))
    return target / files[0].name if len(files) == 1 and not files[0].layout else target


def check(name: str, folder: Path | str | None = None) -> list[str]:
    """Everything that is wrong with an asset on disk, one sentence each and what to do; DataError for an unknown name or damaged
    record.

    Looks at presence, number of files, sizes and checksums: the manifest's of a single file, and of unpacked files those that were
    recorded on unpacking. Data that came here by other means have no record; then only presence is checked.
    """
    asset, files = _find(name)
    target = Path(folder or asset.home())
    return [fault for file in files for fault in _faults(asset, file, target)]


def _find(name: str) -> tuple[Asset, tuple[File, ...]]:
    """The asset, and all its files or the one that `ASSET/FILE` names."""
    listed = assets()
    name, _, part = name.partition("/")
    if name not in listed:
        hint = "".join(f" Did you mean {close!r}?" for close in difflib.get_close_matches(name, listed, n=1))
        raise DataError(f"nothing is called {name!r}.{hint} `icm datasets list` shows what there is")
    files = tuple(file for file in listed[name].files if part in ("", file.name))
    if not files:
        raise DataError(f"{name} has no file {part!r}, but {', '.join(file.name for file in listed[name].files)}")
    return listed[name], files


def _lacks(file: File, target: Path) -> list[str]:
    """What is missing: of an archive the files that were recorded when it was unpacked, or else those of its layout."""
    if not file.layout:
        return [] if (target / file.name).is_file() else [f"{target / file.name} is missing"]
    if known := _read_record(file, target)[1]:
        absent = [name for name in known if not (target / name).is_file()]
        told = f"{len(absent)} of {len(known)} files of {file.name} are missing in {target}"
        return [f"{told}, first {absent[0]}"] if absent else []
    few = [(p, n, wanted) for p, wanted in file.layout.items() if (n := len(list(target.glob(p)))) < wanted]
    return [f"{target / p}: {n} of {wanted} files are there, from {file.name}" for p, n, wanted in few]


def _instructions(asset: Asset, files: list[File], target: Path) -> str:
    lines = [
        f"{asset.name} cannot be fetched by a program: {asset.ask}",
        f"  page    {asset.page}",
        f"  folder  {target}",
    ]
    for file in files:
        known = [_bytes(file.size)] * bool(file.size) + [file.checksum] * (file.checksum != "unknown")
        lines.append(f"  file    {file.name}" + f" ({', '.join(known)})" * bool(known))
        lines += [f"            unpacked, it gives {pattern}" for pattern in file.layout]
    again = f"Then run `icm datasets fetch {asset.name}` again, and `icm datasets check {asset.name}`."
    return "\n".join([*lines, again])


def _differs(path: Path, file: File, target: Path) -> str:
    """How a downloaded file differs from what the manifest says, or from what came the first time; empty if it does not."""
    size = path.stat().st_size
    if file.size not in (None, size):
        return f"has {size} bytes instead of {file.size}"
    record = target / f"{file.name}.sha256"
    for wanted, source in ((file.checksum, "the manifest"), (_read_record(file, target)[0], record)):
        algorithm, _, digest = wanted.partition(":")
        found = pooch.file_hash(str(path), alg=algorithm) if digest else ""
        if not found.startswith(digest):
            return f"has {algorithm} {found} instead of {digest}, as {source} says"
    return ""


def _faults(asset: Asset, file: File, target: Path) -> Iterator[str]:
    path, (_, known) = target / file.name, _read_record(file, target)
    cure = f"`icm datasets fetch {asset.name}` gets it" if file.urls else f"get it from {asset.page}"
    missing = _lacks(file, target)
    yield from (f"{what}: {cure}" for what in missing)
    if file.layout:
        here = [name for name in known if (target / name).is_file()]
        bar = tqdm(here, file.name, unit=" files", disable=None)
        if damaged := [name for name in bar if _sha256(target / name) != known[name]]:
            told = f"{len(damaged)} of {len(known)} files of {file.name} in {target} are not as they were unpacked"
            yield f"{told}, first {damaged[0]}: delete them, then {cure}"
    elif not missing and (problem := _differs(path, file, target)):
        yield f"{path} {problem}: it is damaged, or another file. Move it away, then {cure}"
    if not missing and not known and (file.layout or file.checksum == "unknown"):
        _log.info("%s: nobody states a checksum and none was recorded, so only its presence was checked", path)


def _read_record(file: File, target: Path) -> tuple[str, dict[str, str]]:
    """Checksum of the file as it was downloaded, and of each file that it gave; both empty where there is no record."""
    path = target / f"{file.name}.sha256"
    if not path.is_file():
        return "", {}
    first, *lines = path.read_text(encoding="utf-8").splitlines() or [""]
    if not re.fullmatch("# sha256:[0-9a-f]{64}", first) or not all(re.match("[0-9a-f]{64}  ", line) for line in lines):
        raise DataError(f"{path} is damaged: delete it, and the files it stands for, and fetch again")
    return first[2:], {line[66:]: line[:64] for line in lines}


def _write_record(file: File, target: Path, digest: str, contents: Mapping[str, str]) -> None:
    """Write what `sha256sum -c` reads, after a comment with the checksum of the file as it came."""
    path = target / f"{file.name}.sha256"
    if file.checksum == "unknown" and not path.is_file():
        told = f"its SHA-256 is {digest}; it is recorded in {path}, and any later download is compared with it"
        _log.warning("%s: nobody states a checksum of this file, so it is trusted as it came; %s", file.name, told)
    temporary = target / ".downloads" / path.name
    temporary.write_text("\n".join([f"# sha256:{digest}", *(f"{d}  {n}" for n, d in contents.items()), ""]), "utf-8")
    temporary.replace(path)


def _download(file: File, target: Path) -> Path:
    """The verified file in `.downloads`, from the first mirror that gives it."""
    work = target / ".downloads"
    work.mkdir(parents=True, exist_ok=True)
    arrived, part = work / file.name, work / f"{file.name}.part"
    if arrived.is_file():  # left when unpacking failed
        return arrived
    complaints = []
    for url in file.urls:
        try:
            _transfer(url, part, file)
        except requests.RequestException as error:
            complaints.append(f"{url}: {error}")
            continue
        part.with_name(f"{part.name}.etag").unlink(missing_ok=True)
        if not (problem := _differs(part, file, target)):
            return part.rename(arrived)
        part.unlink()
        complaints.append(f"{url}: what it sent {problem}")
    kept = f" {_bytes(_size(part))} of it are kept." if _size(part) else ""
    cure = f"Run the same command again later, or download it in a browser to {target / file.name}"
    raise DataError("\n  ".join([f"{file.name} could not be fetched.{kept} {cure}. What was tried:", *complaints]))


def _transfer(url: str, part: Path, file: File) -> None:
    """Fetch `url` into `part`, going on at its end; again and again as long as the connection breaks but brings more."""
    while True:
        before = _size(part)
        try:
            return _request(url, part, file)
        except requests.RequestException:
            if _size(part) <= before:
                raise


def _request(url: str, part: Path, file: File) -> None:
    have, tag = _size(part), part.with_name(f"{part.name}.etag")
    if have and have == file.size:
        return None
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={have}-"} if have else {})
    with requests.get(url, headers=headers, stream=True, timeout=30) as answer:
        identity = answer.headers.get("ETag") or answer.headers.get("Last-Modified", "")
        begun, _, total = (tag.read_text("utf-8") if tag.is_file() else "").partition("\n")
        # Another mirror has an ETag of its own: there the length will do if a checksum decides in the end.
        same = file.checksum != "unknown" or begun == identity != ""
        goes_on = same and re.fullmatch(rf"bytes {have}-\d+/{total}", answer.headers.get("Content-Range", ""))
        if have and (answer.status_code == 416 or (answer.status_code == 206 and not goes_on)):
            part.unlink()
            return _request(url, part, file)
        answer.raise_for_status()
        if url.startswith("https:") and not answer.url.startswith("https:"):
            raise requests.RequestException(f"it leads to {answer.url}, which is not encrypted")
        if answer.headers.get("Content-Type", "").startswith("text/html"):
            raise requests.RequestException("it sent a web page instead of the file")
        have = have if answer.status_code == 206 else 0  # else the whole file comes, from its beginning
        length = int(answer.headers.get("Content-Length", 0))
        _enough_room(part.parent, length or file.size or 0)
        _log.info("%s: from %s%s", file.name, url, f", after the {_bytes(have)} that are here" if have else "")
        shown = {"desc": file.name, "initial": have, "disable": None}
        with _clear_if_full(part.parent), open(part, "ab" if have else "wb") as stream:
            tag.write_text(f"{identity}\n{have + length}", "utf-8")
            with tqdm.wrapattr(stream, "write", have + length, **shown) as sink:
                for chunk in answer.iter_content(_CHUNK):
                    sink.write(chunk)
    if file.size is not None and _size(part) < file.size:
        raise requests.ConnectionError(f"the server stopped after {_size(part)} of {file.size} bytes")


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


_KEPT = "What has arrived is kept, and the same command continues from there"


def _enough_room(folder: Path, needed: int) -> None:
    if needed > (free := shutil.disk_usage(folder).free):
        told = f"the disk of {folder} has {_bytes(free)} free, {_bytes(needed)} are needed"
        raise DataError(f"{told}: make room, or name another folder with --folder. {_KEPT}")


@contextmanager
def _clear_if_full(folder: Path) -> Iterator[None]:
    """Say it in words when the disk runs full."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise DataError(f"the disk of {folder} is full ({error}): make room. {_KEPT}") from error


def _unpack(archive: Path, file: File, target: Path) -> None:
    """Unpack into a folder aside, compare with the layout, then move everything to its place and write the record."""
    aside = target / ".downloads" / f"{file.name}.unpacked"
    shutil.rmtree(aside, ignore_errors=True)  # left by an interruption
    aside.mkdir(parents=True)
    try:
        with _clear_if_full(target):
            contents = _extract(archive, aside, aside)
            for nested in file.nested:
                inner = aside / nested
                contents |= _extract(inner, inner.parent, aside)
                del contents[nested]
                inner.unlink()
        for pattern, wanted in file.layout.items():
            if (found := len(list(aside.glob(pattern)))) < wanted:
                told = f"{archive} gives {found} files {pattern}, not {wanted}"
                raise DataError(f"{told}: it is another archive than the manifest means")
        for name, digest in contents.items():
            if (place := target / name).exists() and _sha256(place) != digest:
                raise DataError(f"{place} is there and differs from the one in {archive}: move it away, fetch again")
        _merge(aside, target)
        _write_record(file, target, _sha256(archive), contents)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _extract(archive: Path, into: Path, root: Path) -> dict[str, str]:
    """Write the files of a zip or tar archive below `into`; return their paths below `root` and their SHA-256."""
    contents = {}
    broken = (zipfile.BadZipFile, tarfile.TarError, EOFError, zlib.error, FileExistsError, RuntimeError)
    with (
        blamed(f"{archive} cannot be unpacked", "it is damaged. Delete it and fetch again", *broken),
        zipfile.ZipFile(archive) if zipfile.is_zipfile(archive) else tarfile.open(archive) as opened,
    ):
        members = _members(opened, archive)
        _enough_room(into, sum(size for _, _, size in members))
        for member, name, _ in tqdm(members, f"unpacking {archive.name}", disable=None):
            path, digest = into / name, hashlib.sha256()
            path.parent.mkdir(parents=True, exist_ok=True)
            source = opened.open(member) if isinstance(opened, zipfile.ZipFile) else opened.extractfile(member)
            with source, open(path, "xb") as sink:
                while chunk := source.read(_CHUNK):
                    sink.write(chunk)
                    digest.update(chunk)
            contents[path.relative_to(root).as_posix()] = digest.hexdigest()
    return contents


def _members(opened: zipfile.ZipFile | tarfile.TarFile, archive: Path) -> list[tuple[Any, str, int]]:
    """Each regular file of an archive, with its name and size; DataError for a link, a device, or a name outside the folder."""
    if isinstance(opened, zipfile.ZipFile):
        modes = {m: stat.S_IFMT(m.external_attr >> 16) for m in opened.infolist()}
        listed = [(m, m.filename, m.file_size, m.is_dir(), mode in (0, stat.S_IFREG)) for m, mode in modes.items()]
    else:
        listed = [(m, m.name, m.size, m.isdir(), m.isreg()) for m in opened.getmembers()]
    for _, name, _, folder, regular in listed:
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts or "\\" in name or re.match("[A-Za-z]:", name):
            raise DataError(f"{archive} would write to {name!r}, outside its folder: nothing was unpacked, delete it")
        if not (folder or regular):
            raise DataError(f"{archive} holds {name!r}, a link or a device: nothing was unpacked, delete it")
    # macOS adds a folder of its own attributes to zip archives.
    return [(m, name, size) for m, name, size, folder, _ in listed if not folder and not name.startswith("__MACOSX/")]


def _merge(source: Path, target: Path) -> None:
    """Move every entry to its place; whole folders at once where the place is free. What is there already, stays."""
    for entry in source.iterdir():
        place = target / entry.name
        if not os.path.lexists(place):
            entry.rename(place)
        elif entry.is_dir():
            _merge(entry, place)
