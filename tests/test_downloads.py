"""Data by name, against a server on this machine that cuts, lies and forgets; and the manifest itself."""

import errno
import hashlib
import importlib.util
import io
import json
import re
import shutil
import stat
import tarfile
import threading
import zipfile
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import requests

from icm_helpers.data import DataError, downloads
from icm_helpers.data.downloads import assets, check, fetch
from icm_helpers.files import ROOT

WEIGHTS = bytes(range(256)) * 400
GB = 1_000_000_000


class Server(ThreadingHTTPServer):
    """Serves `content` by path; a path in `cuts` breaks off after so many bytes, once for each number."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.content: dict[str, bytes] = {}
        self.cuts: dict[str, list[int]] = {}
        self.types: dict[str, str] = {}
        self.redirects: dict[str, str] = {}
        self.knows_ranges = True
        self.asked: list[tuple[str, str | None]] = []

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.server_port}/{path}"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self):
        path, span = self.path[1:], self.headers.get("Range")
        self.server.asked.append((path, span))
        if path in self.server.redirects:
            self.send_response(302)
            self.send_header("Location", self.server.redirects[path])
            self.end_headers()
            return
        data = self.server.content.get(path)
        start = int(span[6:-1]) if span and self.server.knows_ranges else 0
        if data is None or start >= len(data):
            self.send_error(404 if data is None else 416)
            return
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        self.send_header("ETag", hashlib.md5(path.encode() + data).hexdigest())
        self.send_header("Content-Type", self.server.types.get(path, "application/octet-stream"))
        self.send_header("Content-Length", str(len(data) - start))
        self.end_headers()
        cuts = self.server.cuts.get(path)
        self.wfile.write(data[start : start + cuts.pop(0)] if cuts else data[start:])
        self.close_connection = True

    def log_message(self, *_):
        pass


@pytest.fixture
def server():
    with Server() as running:
        threading.Thread(target=running.serve_forever, args=(0.01,), daemon=True).start()
        yield running
        running.shutdown()


@pytest.fixture
def listed(tmp_path, monkeypatch):
    """List files as the asset "thing" and make tmp_path/data the data folder."""

    def listed(*files: dict, **entry) -> Path:
        entry = {"kind": "data", "what": "a", "use": "b", "licence": "c", "page": "https://example.org", **entry}
        lines = [f"{key} = {json.dumps(value)}" for key, value in entry.items()]
        for file in files:
            layout = ", ".join(f"{json.dumps(pattern)} = {count}" for pattern, count in file.pop("layout", {}).items())
            lines += ["[[thing.files]]", *(f"{key} = {json.dumps(value)}" for key, value in file.items())]
            lines += [f"layout = {{ {layout} }}"] if layout else []
        (tmp_path / "manifest.toml").write_text("\n".join(["[thing]", *lines]))
        return tmp_path / "data" / "thing"

    monkeypatch.setattr(downloads, "MANIFEST", tmp_path / "manifest.toml")
    monkeypatch.setattr(downloads, "DATA", tmp_path / "data")
    monkeypatch.setattr(downloads, "_CHUNK", 1000)
    return listed


def sha256(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


def weights(server, *paths, **changes) -> dict:
    """A manifest's entry of w.pt, served at every path."""
    server.content |= dict.fromkeys(paths or ("w.pt",), WEIGHTS)
    urls = [server.url(path) for path in paths or ("w.pt",)]
    return {"name": "w.pt", "urls": urls, "size": len(WEIGHTS), "checksum": sha256(WEIGHTS), **changes}


def zipped(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return buffer.getvalue()


def tarred(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return buffer.getvalue()


def archive(server, data: bytes, name="pictures.zip", **changes) -> dict:
    server.content[name] = data
    entry = {"name": name, "urls": [server.url(name)], "checksum": sha256(data), "layout": {"pictures/*.png": 2}}
    return entry | changes


PICTURES = {"pictures/a.png": b"first", "pictures/b.png": b"second"}


def everything(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


# --- download ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pack", [zipped, tarred])
def test_an_archive_is_fetched_unpacked_and_not_fetched_again(server, listed, pack):
    folder = listed(archive(server, pack({**PICTURES, "__MACOSX/pictures/._a.png": b""})))
    assert fetch("thing") == folder == fetch("thing")
    assert (folder / "pictures" / "b.png").read_bytes() == b"second"
    assert everything(folder) == {*PICTURES, "pictures.zip.sha256"}
    assert len(server.asked) == 1 and check("thing") == []


def test_archives_share_a_folder_and_one_inside_another_is_unpacked_where_it_lies(server, listed):
    inner = zipped({"masks/m.png": b"mask"})
    one = archive(server, zipped({"annotations/boxes.json": b"{}"}), "one.zip", layout={"annotations/boxes.json": 1})
    two = archive(
        server,
        zipped({"annotations/masks.json": b"{}", "annotations/masks.zip": inner}),
        "two.zip",
        layout={"annotations/masks/*.png": 1},
        nested=["annotations/masks.zip"],
    )
    folder = listed(one, two)
    fetch("thing")
    assert everything(folder / "annotations") == {"boxes.json", "masks.json", "masks/m.png"}


def test_one_file_of_several_can_be_fetched_alone(server, listed):
    folder = listed(weights(server), archive(server, zipped(PICTURES)))
    assert fetch("thing/w.pt") == folder / "w.pt"
    assert everything(folder) == {"w.pt"}


def test_a_broken_connection_goes_on_and_asks_only_for_the_rest(server, listed):
    folder = listed(weights(server))
    server.cuts["w.pt"] = [30_000, 20_000]
    fetch("thing")
    assert (folder / "w.pt").read_bytes() == WEIGHTS
    assert [span for _, span in server.asked] == [None, "bytes=30000-", "bytes=50000-"]


def test_a_later_command_goes_on_too_with_another_mirror_if_need_be(server, listed):
    folder = listed(weights(server, "a/w.pt", "b/w.pt"))
    server.cuts = {"a/w.pt": [30_000, 0], "b/w.pt": [0]}
    with pytest.raises(DataError, match=r"30\.0kB of it are kept(.|\n)*a/w\.pt(.|\n)*b/w\.pt"):
        fetch("thing")
    assert not (folder / "w.pt").exists()
    del server.content["a/w.pt"]
    fetch("thing")
    assert (folder / "w.pt").read_bytes() == WEIGHTS
    assert server.asked[-1] == ("b/w.pt", "bytes=30000-")


def test_a_file_that_changed_meanwhile_is_fetched_from_its_beginning(server, listed):
    folder = listed(weights(server, checksum="unknown"))
    server.cuts["w.pt"] = [30_000, 0]
    with pytest.raises(DataError):
        fetch("thing")
    server.content["w.pt"] = WEIGHTS[::-1]
    fetch("thing")
    assert (folder / "w.pt").read_bytes() == WEIGHTS[::-1]


def test_a_server_that_knows_no_ranges_sends_it_all_again(server, listed):
    folder = listed(weights(server))
    server.knows_ranges, server.cuts["w.pt"] = False, [30_000]
    fetch("thing")
    assert (folder / "w.pt").read_bytes() == WEIGHTS


def test_a_redirect_is_followed_also_to_the_rest(server, listed):
    folder = listed(weights(server))
    server.content["store"], server.cuts["store"] = WEIGHTS, [30_000]
    server.redirects["w.pt"] = server.url("store")
    fetch("thing")
    assert (folder / "w.pt").read_bytes() == WEIGHTS
    assert server.asked[-1] == ("store", "bytes=30000-")


def test_a_redirect_away_from_encryption_is_refused(server, listed, monkeypatch):
    folder = listed(weights(server, "https", urls=["https://example.org/w.pt"]))
    monkeypatch.setattr(requests, "get", partial(lambda get, url, **how: get(server.url("https"), **how), requests.get))
    with pytest.raises(DataError, match="which is not encrypted"):
        fetch("thing")
    assert everything(folder) == set()


def test_a_truncated_download_is_detected(server, listed):
    folder = listed(weights(server, checksum="unknown"))
    server.content["w.pt"] = WEIGHTS[:-1]
    with pytest.raises(DataError, match=f"stopped after {len(WEIGHTS) - 1} of {len(WEIGHTS)} bytes"):
        fetch("thing")
    assert not (folder / "w.pt").exists()


@pytest.mark.parametrize("checksum", [sha256(b"other"), "sha256:01234567", "md5:" + "0" * 32])
def test_a_wrong_checksum_is_an_error_and_leaves_nothing(server, listed, checksum):
    folder = listed(weights(server, checksum=checksum))
    with pytest.raises(DataError, match=f"instead of {checksum.partition(':')[2]}, as the manifest says"):
        fetch("thing")
    assert not {"w.pt", ".downloads/w.pt.part"} & everything(folder)


def test_the_next_mirror_is_tried_where_one_lacks_the_file_or_has_another(server, listed):
    folder = listed(weights(server, "gone", "damaged", "page", "good"))
    del server.content["gone"]
    server.content["damaged"] = WEIGHTS[::-1]
    server.types["page"] = "text/html; charset=utf-8"
    fetch("thing")
    assert (folder / "w.pt").read_bytes() == WEIGHTS
    assert [path for path, _ in server.asked] == ["gone", "damaged", "page", "good"]


def test_where_no_checksum_is_known_the_first_download_is_recorded_and_binds_later_ones(server, listed, caplog):
    folder = listed(weights(server, checksum="unknown"))
    fetch("thing")
    assert sha256(WEIGHTS)[7:] in caplog.text and "trusted as it came" in caplog.text
    assert check("thing") == []
    (folder / "w.pt").unlink()
    server.content["w.pt"] = WEIGHTS[::-1]
    with pytest.raises(DataError, match=r"as .*w\.pt\.sha256 says"):
        fetch("thing")


# --- disk ----------------------------------------------------------------------------------------------------------------


def test_a_disk_with_too_little_room_is_an_error_before_anything_is_written(server, listed, monkeypatch):
    folder = listed(weights(server))
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(GB, GB - 1000, 1000))
    with pytest.raises(DataError, match=r"has 1\.00kB free, 102kB are needed"):
        fetch("thing")
    assert everything(folder) == set()


class FullDisk(io.FileIO):
    """A file on a disk that takes no more than 30 000 bytes of it."""

    def write(self, data):
        if self.tell() + len(data) > 30_000:
            super().write(data[: 30_000 - self.tell()])
            raise OSError(errno.ENOSPC, "No space left on device")
        return super().write(data)


def test_a_disk_that_runs_full_keeps_what_arrived(server, listed, monkeypatch):
    folder = listed(weights(server))
    with monkeypatch.context() as patched:
        patched.setattr(downloads, "open", FullDisk, raising=False)
        with pytest.raises(DataError, match="is full"):
            fetch("thing")
    fetch("thing")
    assert (folder / "w.pt").read_bytes() == WEIGHTS
    assert server.asked[-1] == ("w.pt", "bytes=30000-")


def test_an_archive_is_kept_when_there_is_no_room_to_unpack_it(server, listed, monkeypatch):
    folder = listed(archive(server, zipped({**PICTURES, "pictures/large.png": bytes(100_000)})))
    with monkeypatch.context() as patched:
        patched.setattr(downloads, "open", lambda path, mode: FullDisk(path, mode.replace("b", "")), raising=False)
        patched.setattr(downloads, "_download", lambda file, target: downloaded(server, target))
        with pytest.raises(DataError, match="is full"):
            fetch("thing")
    assert everything(folder) == {".downloads/pictures.zip"}
    fetch("thing")
    assert (folder / "pictures" / "large.png").exists() and server.asked == []


def downloaded(server, target: Path) -> Path:
    (target / ".downloads").mkdir(parents=True)
    path = target / ".downloads" / "pictures.zip"
    path.write_bytes(server.content["pictures.zip"])
    return path


# --- archives ------------------------------------------------------------------------------------------------------------


def zip_with_link() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("pictures/a.png", b"")
        link = zipfile.ZipInfo("pictures/b.png")
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(link, "../../../secret")
    return buffer.getvalue()


def tar_with(kind: bytes) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("pictures/a.png"))
        member = tarfile.TarInfo("pictures/b.png")
        member.type, member.linkname = kind, "../../../secret"
        archive.addfile(member)
    return buffer.getvalue()


@pytest.mark.parametrize(
    "data",
    [
        zipped({**PICTURES, "../evil": b""}),
        zipped({**PICTURES, "pictures/../../evil": b""}),
        zipped({**PICTURES, "/evil": b""}),
        zipped({**PICTURES, "C:evil": b""}),
        zipped({**PICTURES, "..\\evil": b""}),
        zip_with_link(),
        tarred({**PICTURES, "../evil": b""}),
        tarred({**PICTURES, "/evil": b""}),
        *map(tar_with, (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE)),
    ],
)
def test_an_archive_that_reaches_outside_its_folder_is_refused_whole(server, listed, tmp_path, data):
    listed(archive(server, data))
    with pytest.raises(DataError, match="nothing was unpacked"):
        fetch("thing")
    assert everything(tmp_path) == {"manifest.toml", "data/thing/.downloads/pictures.zip"}


def test_a_damaged_archive_is_an_error_even_where_its_checksum_is_not_known(server, listed):
    damaged = zipped(PICTURES).replace(b"second", b"third!")  # the archive's own CRC tells
    folder = listed(archive(server, damaged, checksum="unknown"))
    with pytest.raises(DataError, match="Bad CRC-32"):
        fetch("thing")
    assert everything(folder) == {".downloads/pictures.zip"}


def test_an_archive_of_something_else_is_not_unpacked_into_the_folder(server, listed):
    folder = listed(archive(server, zipped({"pictures/a.png": b"first"})))
    with pytest.raises(DataError, match=r"gives 1 files pictures/\*\.png, not 2"):
        fetch("thing")
    assert not (folder / "pictures").exists()


def test_what_the_user_has_is_neither_overwritten_nor_removed(server, listed):
    folder = listed(archive(server, zipped(PICTURES)))
    (folder / "pictures").mkdir(parents=True)
    (folder / "pictures" / "notes.txt").write_text("mine")
    (folder / "pictures" / "a.png").write_bytes(b"drawn over")
    with pytest.raises(DataError, match=r"a\.png is there and differs"):
        fetch("thing")
    assert everything(folder / "pictures") == {"notes.txt", "a.png"}
    (folder / "pictures" / "a.png").unlink()
    fetch("thing")
    assert everything(folder / "pictures") == {"notes.txt", "a.png", "b.png"}


# --- check ---------------------------------------------------------------------------------------------------------------


def test_check_finds_a_missing_and_a_damaged_file(server, listed):
    folder = listed(weights(server), archive(server, zipped(PICTURES)))
    assert len(check("thing")) == 2
    fetch("thing")
    assert check("thing") == []
    (folder / "w.pt").write_bytes(WEIGHTS[:-1] + b"\0")
    (folder / "pictures" / "a.png").write_bytes(b"fIrst")
    (folder / "pictures" / "b.png").unlink()
    file, missing, damaged = check("thing")
    assert re.search(r"w\.pt has sha256 .* instead of", file)
    assert re.search(r"1 of 2 files of pictures\.zip are missing .* first pictures/b\.png.*fetch thing", missing)
    assert re.search(r"1 of 2 files of pictures\.zip .* not as they were unpacked, first pictures/a\.png", damaged)
    for name in ("w.pt", "pictures/a.png"):
        (folder / name).unlink()
    fetch("thing")
    assert check("thing") == []


def test_what_only_registration_gives_explains_itself_and_is_then_taken_from_the_folder(server, listed):
    data = zipped(PICTURES)
    by_hand = archive(server, data, urls=[], size=len(data))
    folder = listed(by_hand, ask="register there.", page="https://example.org/register")
    with pytest.raises(DataError) as told:
        fetch("thing")
    for part in ("register there.", "https://example.org/register", str(folder), "pictures.zip", "pictures/*.png"):
        assert part in str(told.value)
    assert "0 of 2 files" in check("thing")[0]
    folder.mkdir(parents=True)
    (folder / "pictures.zip").write_bytes(data[:-1])
    with pytest.raises(DataError, match="bytes instead of"):
        fetch("thing")
    (folder / "pictures.zip").write_bytes(data)
    fetch("thing")
    assert everything(folder) == {*PICTURES, "pictures.zip", "pictures.zip.sha256"} and server.asked == []


def test_the_listing_says_what_is_here_and_a_wrong_name_which_may_be_meant(server, listed):
    listed(weights(server), kind="weights")
    assert re.search(r"thing +102kB +absent +a; b \(c\)", downloads.listing())
    fetch("thing")
    assert re.search(r"thing +102kB +present", downloads.listing())
    with pytest.raises(DataError, match=r"Did you mean 'thing'\?"):
        fetch("think")


# --- the manifest --------------------------------------------------------------------------------------------------------

FILES = {f"{asset.name}/{file.name}": (asset, file) for asset in assets().values() for file in asset.files}


@pytest.mark.parametrize("name", assets())
def test_every_entry_of_the_manifest_is_well_formed(name):
    asset = assets()[name]
    assert asset.kind in ("data", "weights") and all((asset.what, asset.use, asset.licence, asset.files))
    assert asset.page.startswith("https://")
    for file in asset.files:
        assert file.urls or asset.ask
        assert all(re.fullmatch(r"https://[\w./?&=-]+", url) for url in file.urls)
        assert re.fullmatch(r"unknown|md5:[0-9a-f]{32}|sha256:([0-9a-f]{8}|[0-9a-f]{64})", file.checksum)
        assert file.size is None or 100_000 < file.size < 30 * GB
        assert bool(file.layout) == (file.name.endswith(".zip") or file.name == "boxes")
        assert all(count > 0 for count in file.layout.values())


def test_no_two_files_of_the_manifest_meet_in_one_place():
    places = [asset.home() / file.name for asset, file in FILES.values()]
    assert len(places) == len(set(places))


def test_digits_in_file_names_are_the_checksums_first():
    for _, file in FILES.values():
        if named := re.search(r"-([0-9a-f]{8})\.pth(\.tar)?$", file.name):
            assert file.checksum.startswith(f"sha256:{named[1]}")


def test_urls_of_packages_are_those_in_the_installed_packages():
    sources = ""
    for package, path in (("compressai", "zoo/image.py"), ("torchvision", "models/detection")):
        place = Path(importlib.util.find_spec(package).origin).parent / path
        sources += "".join(p.read_text() for p in ([place] if place.is_file() else place.glob("*rcnn.py")))
    sources = sources.replace("{root_url}", re.search(r'root_url = "(.*)"', sources)[1])
    urls = [u for _, f in FILES.values() for u in f.urls if re.search(r"compressai\.s3|download\.pytorch", u)]
    assert len(urls) == 46 and all(f'"{url}"' in sources for url in urls)


def test_coco_goes_where_the_book_looks_for_it(monkeypatch, tmp_path):
    monkeypatch.setenv("ICM_COCO", str(tmp_path))
    coco = assets()["coco2017"]
    assert coco.home() == assets()["coco2017-panoptic"].home() == tmp_path
    monkeypatch.delenv("ICM_COCO")
    assert coco.home() == ROOT / "data" / "coco2017"
    layout = {pattern for file in coco.files for pattern in file.layout}
    for split in ("train", "val"):
        assert {f"{split}2017/*.jpg", f"annotations/instances_{split}2017.json"} <= layout


def test_our_copies_are_the_files_that_the_manifest_means(real_data):
    copies = [real_data / "weights_yolov5n" / "yolov5n.pt", *sorted((real_data / "kodak").glob("*.png"))]
    named = {file.name: file for asset, file in FILES.values() if asset.name in ("yolov5n", "kodak")}
    assert len(copies) > 1
    for path in copies:
        assert (path.stat().st_size, sha256(path.read_bytes())) == (named[path.name].size, named[path.name].checksum)
