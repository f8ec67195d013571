"""Pictures and videos of one's own, coded to real files and back."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image, ImageOps
from torch import Tensor

from icm_helpers import evaluate, overfit
from icm_helpers.codecs import container, zoo
from icm_helpers.data import coco, video
from icm_helpers.files import atomically


def code(codec: Any, paths: Sequence[Path], out: Path, suffix: str) -> None:
    """Code image files, `photo.jpg` to `photo.coded.<suffix>`, and decode these and what is called `.icm` to `photo.decoded.png`.

    Raises:
        ValueError: two images have one name, or a file is no whole image.
    """
    if twice := [name for name, count in Counter(path.stem for path in paths).items() if count > 1]:
        raise ValueError(f"several images are called {', '.join(twice)}: give them --out folders of their own")
    for path in paths:
        if path.suffix == ".icm":
            back = out / f"{path.stem.removesuffix('.coded')}.decoded.png"
            _draw(back, container.decode(codec, path.read_bytes()).cpu())
            print(f"{path}: decoded to {back}")
            continue
        try:
            with Image.open(path) as picture:
                pixels = coco.rgb(ImageOps.exif_transpose(picture))
        except (OSError, SyntaxError, Image.DecompressionBombError) as error:  # Pillow's errors seldom name the file
            raise ValueError(f"{path} cannot be read as an image ({error}): give a whole image file") from error
        x = torch.from_numpy(pixels).permute(2, 0, 1).float() / 255  # (H, W, 3) -> (3, H, W)
        coded = container.encode(codec, x)
        x_hat = container.decode(codec, coded).cpu()
        # `coded` in the name: in the folder of the pictures, photo.jpg must not overwrite photo.jpg.
        with atomically(out / f"{path.stem}.coded.{suffix}") as temporary:
            temporary.write_bytes(coded)
        _draw(out / f"{path.stem}.decoded.png", x_hat)
        bpp, psnr = 8 * len(coded) / (x.shape[1] * x.shape[2]), evaluate.psnr((x - x_hat).square().mean().item())
        print(f"{path}: {len(coded)} bytes, {bpp:.3f} bpp, {psnr:.2f} dB")


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
    decoded.mkdir(parents=True, exist_ok=True)  # before any work: a wrong --out shows at once
    write(clip, coded)
    data, (count, _, rows, columns) = coded.read_bytes(), clip.frames.shape
    x_hat = coder.decode_video(data)
    _draw_all(decoded, x_hat)
    bpp, scores = 8 * len(data) / (count * rows * columns), overfit.quality(clip.frames, x_hat)
    similar = "" if math.isnan(scores["ms_ssim"]) else f", MS-SSIM {scores['ms_ssim']:.4f}"
    told = f"{len(data)} bytes, {bpp:.4f} bpp, {scores['psnr']:.2f} dB{similar}"
    print(f"{path}: {count} frames of {rows} x {columns}, {told}")


def decode_video(path: Path, out: Path) -> bool:
    """Decode a file that :func:`code_video` wrote into a folder of frames, and say whether it is one by its name."""
    name, coded, suffix = path.name.rpartition(".coded.")
    written = [codec for codec in zoo.CODECS.values() if codec.video and codec.suffix == suffix]
    if not coded or not written:
        return False
    coder = zoo.load(written[0].name, 32 if written[0].setting else None)  # any QP decodes
    x_hat, decoded = coder.decode_video(path.read_bytes()), out / f"{name}.decoded"
    _draw_all(decoded, x_hat)
    print(f"{path}: {len(x_hat)} frames decoded to {decoded}")
    return True


def _draw(path: Path, x: Tensor) -> None:
    """Write a picture, (3, H, W) in [0, 1], as PNG."""
    with atomically(path) as temporary:
        Image.fromarray((x * 255).round().byte().permute(1, 2, 0).numpy()).save(temporary, "PNG")  # -> (H, W, 3)


def _draw_all(folder: Path, frames: Tensor) -> None:
    """Write frames, (T, 3, H, W) in [0, 1], as PNG into a folder, in the place of those of another run."""
    for frame in folder.glob("[0-9]*.png"):
        frame.unlink()
    for k, frame in enumerate(frames):
        _draw(folder / f"{k:05d}.png", frame)
