"""Your own pictures and videos, coded to real files and back."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import cache
from itertools import chain
from pathlib import Path
from typing import Any

from PIL import Image
from torch import Tensor

from icm_helpers import evaluate, overfit, regions
from icm_helpers.codecs import container, zoo
from icm_helpers.data import pictures, video
from icm_helpers.files import atomically, claim
from icm_helpers.ledger.recipe import require_roi
from icm_helpers.options import Coding


def code(asked: Coding, paths: Sequence[Path], out: Path) -> None:
    """Code image files, `photo.jpg` to `photo.coded.<suffix>`, and decode these and coded files to `photo.decoded.png`.

    A coded file says which codec wrote it; `asked` gives that of the others, and of a network the weights.

    Raises:
        ValueError: two outputs have one name, or a file is no whole image; the message names it.
        OSError: a file is missing, or an output cannot be written. All are found before any work, where they can be.
    """
    suffix, coder = zoo.find(asked.codec)[0].suffix, cache(Coding.coder)
    finder = cache(lambda name: regions.finder(name, asked.place))
    writers = {path: _writer(path) for path in paths}
    outputs = {path: _outputs(path, out, suffix, writers[path] is not None) for path in paths}
    _require_apart(outputs, len(paths))
    lost = [path for path in paths if not path.is_file()]
    if not lost:  # else an empty folder would stay behind
        for file in chain.from_iterable(outputs.values()):
            claim(file)
    if None in writers.values():
        coder(asked)  # what is wrong with it is no picture's fault
        if asked.roi is not None:
            require_roi(asked.codec, asked.roi)
            finder(asked.roi)
    if lost:
        raise FileNotFoundError(f"{lost[0]} is missing: correct the path")
    for path, writer in writers.items():
        with _named(path):
            back = outputs[path][-1]
            if writer is not None:
                _draw(back, container.decode(coder(_decoding(asked, *writer)), path.read_bytes()).cpu())
                print(f"{path}: decoded to {back}")
                continue
            x = pictures.load_picture(path)
            region = () if asked.roi is None else (finder(asked.roi)(x),)
            coded = container.encode(coder(asked), x, *region)
            x_hat = container.decode(coder(asked), coded).cpu()
        # `coded` in the name: in the folder of the pictures, photo.jpg must not overwrite photo.jpg.
        with atomically(out / f"{path.stem}.coded.{suffix}") as temporary:
            temporary.write_bytes(coded)
        _draw(back, x_hat)
        bpp, psnr = 8 * len(coded) / (x.shape[1] * x.shape[2]), evaluate.psnr((x - x_hat).square().mean().item())
        print(f"{path}: {len(coded)} bytes, {bpp:.3f} bpp, {psnr:.2f} dB")


def _writer(path: Path) -> tuple[zoo.Codec | None, int | None] | None:
    """What wrote a coded file, and its quality; no codec where only the file's name says that it is coded, None for a picture."""
    with suppress(OSError), path.open("rb") as file, _named(path):
        try:
            if found := zoo.writer(file.read(300)):
                return found
        except ValueError:  # a codec that is not registered, unless the file is damaged
            container.opened(path.read_bytes(), b"ICM\x01", 5)
            raise
    return (None, None) if path.suffix == ".icm" else None


def _outputs(path: Path, out: Path, suffix: str, coded: bool) -> list[Path]:
    """The files that :func:`code` makes of one, the decoded picture last."""
    decoded = out / f"{path.stem.removesuffix('.coded') if coded else path.stem}.decoded.png"
    return [decoded] if coded else [out / f"{path.stem}.coded.{suffix}", decoded]


def _require_apart(outputs: Mapping[Path, Sequence[Path]], count: int) -> None:
    """ValueError where two files come of one name, or one would overwrite what is still to be read."""
    taken = {path.resolve(): path for path in outputs}
    if len(taken) < count:
        raise ValueError("a file is named twice: name each once")
    for path, file in ((path, file) for path, files in outputs.items() for file in files):
        if (other := taken.setdefault(file.resolve(), path)) is not path or file.resolve() == path.resolve():
            raise ValueError(f"{path} and {other} would both need {file}: give each a call with an --out of its own")


def _decoding(asked: Coding, codec: zoo.Codec | None, quality: int | None) -> Coding:
    """The options of what decodes a file that a codec wrote."""
    if codec is None or (codec.network and zoo.find(asked.codec)[0] is codec and quality is None):
        return asked
    if codec.video:
        raise ValueError("a video: decode it with `icm video`")
    if codec.sizes and quality is None:
        raise ValueError(f"an older file of {codec.name}: name its quality, as in --codec {codec.name} --quality 3")
    if codec.network:
        return replace(asked, codec=codec.name, quality=quality)
    return replace(asked, codec=codec.name, quality=32 if codec.setting else None, weights=None)  # any QP decodes


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """Within the block, an error names the file."""
    try:
        yield
    except (ValueError, RuntimeError) as error:
        if str(path) in str(error):
            raise
        raise type(error)(f"{path}: {error}") from error


def code_video(
    coder: Any,
    path: Path,
    out: Path,
    suffix: str,
    write: Callable[[video.Video, Path], None],
    frames: int,
    height: int | None,
) -> None:
    """Code the first frames of a video file to `film.coded.<suffix>`, and decode that into the folder `film.decoded`.

    Args:
        coder: what decodes, by `decode_video`.
        write: what codes a video to a file.
        frames, height: as in `video.read`.

    Raises:
        DataError, ValueError: the file is missing, or no video.
    """
    clip, n = video.read(path, frames + 1, height), frames  # one more tells whether it goes on
    if len(clip) > n:
        clip = replace(clip, frames=clip.frames[:n], boxes=clip.boxes[:n], labels=clip.labels[:n])
        print(f"only the first {n} frames of {path}: --frames says how many")
    decoded, coded = out / f"{clip.name}.decoded", out / f"{clip.name}.coded.{suffix}"
    for file in (coded, decoded / "00000.png"):
        claim(file)  # before any work: a wrong --out shows at once
    write(clip, coded)
    data, (count, _, rows, columns) = coded.read_bytes(), clip.frames.shape
    x_hat = coder.decode_video(data)
    _draw_all(decoded, x_hat)
    bpp, scores = 8 * len(data) / (count * rows * columns), overfit.quality(clip.frames, x_hat)
    similar = "" if math.isnan(scores["ms_ssim"]) else f", MS-SSIM {scores['ms_ssim']:.4f}"
    told = f"{len(data)} bytes, {bpp:.4f} bpp, {scores['psnr']:.2f} dB{similar}"
    print(f"{path}: {count} frames of {rows} x {columns}, {told}")


def decode_video(path: Path, out: Path) -> bool:
    """Decode a file that :func:`code_video` wrote into a folder of frames, and say whether it is one, as its first bytes tell."""
    codec, _ = _writer(path) or (None, None)
    if not (codec and codec.magic):
        return False
    decoder = zoo.load(codec.name, 32 if codec.setting else None)  # any QP decodes
    if not hasattr(decoder, "decode_video"):
        return False
    decoded = out / f"{path.name.rpartition('.coded.')[0] or path.stem}.decoded"
    claim(decoded / "00000.png")
    with _named(path):
        x_hat = decoder.decode_video(path.read_bytes())
    _draw_all(decoded, x_hat)
    print(f"{path}: {len(x_hat)} frames decoded to {decoded}")
    return True


def _draw(path: Path, x: Tensor) -> None:
    """Write a picture, (3, H, W) in [0, 1], as PNG."""
    with atomically(path) as temporary:
        Image.fromarray(pictures.pixels(x)).save(temporary, "PNG")


def _draw_all(folder: Path, frames: Tensor) -> None:
    """Write frames, (T, 3, H, W) in [0, 1], as PNG into a folder, in place of those of another run."""
    for frame in folder.glob("[0-9]*.png"):
        frame.unlink()
    for k, frame in enumerate(frames):
        _draw(folder / f"{k:05d}.png", frame)
