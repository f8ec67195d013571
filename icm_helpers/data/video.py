"""Videos with objects: made scenes, DAVIS and SFU-HW-Objects, each read into a `Video`."""

from __future__ import annotations

import logging
import re
import struct
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import avg_pool2d
from torchvision.ops import masks_to_boxes

from icm_helpers.codecs.container import MAX_PIXELS
from icm_helpers.data import DataError, blamed, pictures, scenes, schema
from icm_helpers.data.coco import Sample
from icm_helpers.data.scenes import Scene
from icm_helpers.tasks.coco import CATEGORIES

_log = logging.getLogger(__name__)

FIRST_ANNOTATED = {24: 207, 30: 235, 50: 403, 60: 471}
"""By frames a second, the frame of a sequence (from 0) that the first picture of its SFU annotation file in COCO's format shows.
CompressAI-Vision's list exchanges BasketballDrill and BQMall, and BasketballPass and BQSquare: its 129 frames up to 599 lie outside
of sequences of 500 frames, and the annotation file of BasketballPass has 97 pictures, those of 403 to 499."""


@dataclass(frozen=True)
class Video:
    """Frames, and the objects of each. Item k is a `Sample`, so that what judges pictures judges frames too; a decoded video is
    `dataclasses.replace(video, frames=decoded)`."""

    name: str
    frames: Tensor  # (T, 3, H, W) float32 in [0, 1]
    boxes: list[Tensor]  # T times (n, 4) float32, x1 y1 x2 y2 in pixels, inside the frame
    labels: list[Tensor]  # T times (n,) int64, category ids
    masks: list[Tensor] | None  # T times (n, H, W) bool; None where only boxes are known
    categories: dict[int, str]  # that are annotated: other objects may be seen, and nobody marked them

    def __len__(self) -> int:
        return len(self.frames)

    def __getitem__(self, index: int) -> Sample:
        boxes, crowd = self.boxes[index], torch.zeros(len(self.boxes[index]), dtype=torch.bool)
        masks = _filled(boxes, *self.frames.shape[2:]) if self.masks is None else self.masks[index]
        frame, number = self.frames[index], self.ids[index]
        return Sample(frame, boxes, self.labels[index], masks, crowd, number, f"{self.name} {index}")

    @property
    def ids(self) -> list[int]:
        """Numbers of the frames, from 0."""
        return list(range(len(self)))

    def ground_truth(self, ids: list[int] | None = None) -> dict[str, list]:
        """COCO dictionary for an evaluator: boxes of all frames, or of `ids`."""
        height, width = self.frames.shape[2:]
        chosen, annotations = self.ids if ids is None else ids, []
        for k in chosen:
            for (x1, y1, x2, y2), label in zip(self.boxes[k].tolist(), self.labels[k].tolist(), strict=True):
                box = [x1, y1, x2 - x1, y2 - y1]
                entry = {"image_id": k, "category_id": label, "bbox": box, "area": box[2] * box[3], "iscrowd": 0}
                annotations.append({"id": len(annotations) + 1, **entry})
        return {
            "images": [{"id": k, "height": height, "width": width} for k in chosen],
            "annotations": annotations,
            "categories": [{"id": i, "name": name} for i, name in self.categories.items()],
        }


def scene(seed: int, count: int, size: int | tuple[int, int] = 192) -> Video:
    """`count` frames of the moving scene of a seed, with exact boxes and masks.

    >>> video = scene(0, 2, 32)
    >>> video.frames.shape, len(video.boxes[0]) == len(video.masks[0])
    (torch.Size([2, 3, 32, 32]), True)
    """
    pictures = list(scenes.video(seed, count, size))
    boxes, labels, masks = (
        [torch.from_numpy(of(p)) for p in pictures] for of in (Scene.boxes, Scene.labels, Scene.masks)
    )
    named = {c["id"]: c["name"] for c in scenes.CATEGORIES if c["isthing"]}
    return Video(f"scene-{seed}", _tensor([p.image for p in pictures]), boxes, labels, masks, named)


def halved(whole: Video) -> Video:
    """A video at half its height and width, rounded down: each pixel is the mean of four, a mask keeps what it has half of."""
    height, width = (side // 2 * 2 for side in whole.frames.shape[2:])
    small = [avg_pool2d(m[None, :, :height, :width].float(), 2)[0] >= 0.5 for m in whole.masks]
    return replace(whole, frames=avg_pool2d(whole.frames, 2), boxes=[box / 2 for box in whole.boxes], masks=small)


def read(path: Path | str, limit: int | None = None, height: int | None = None) -> Video:
    """A video file as players show it, with no object annotated: the first `limit` frames, each scaled to `height` rows in the
    ratio of its sides.

    What the file says of rotation, colour matrix and range is done; where it says no matrix, it is BT.709 from 720 rows on, else
    BT.601. A warning tells of frames that the file announces and that cannot be decoded, and of pixels that are not square.
    DataError where no frame can be decoded, frames differ in size, are transparent, of high dynamic range, or turned askew.
    """
    import av

    path, shown, unseen, faults = Path(path), [], 0, []
    if not path.is_file():
        raise DataError(f"video {path} is missing: correct the path")
    level = av.logging.get_level()
    av.logging.set_level(av.logging.ERROR)  # else nothing is captured
    try:
        with av.logging.Capture() as said, av.open(str(path), metadata_errors="replace") as file:
            stream = file.streams.best("video")
            stream = stream if isinstance(stream, av.VideoStream) else None  # one without a decoder is mere data
            announced, exact = _announced(file, stream)
            packets = file.demux(stream) if stream else iter(())
            while len(shown) != limit:
                try:
                    packet = next(packets)
                    unseen += packet.is_discard  # by right, such as what an edit list cuts away
                    frames = packet.decode()
                except StopIteration:
                    break
                except av.FFmpegError as error:
                    faults.append(str(error))
                    if len(faults) > 1000:  # a demuxer that does not get on
                        break
                    continue
                for frame in frames[: None if limit is None else limit - len(shown)]:
                    shown.append(_shown(frame, path, len(shown), height))
                    if shown[-1].shape != shown[0].shape:
                        sizes = " and ".join(f"{p.shape[1]} x {p.shape[0]}" for p in (shown[0], shown[-1]))
                        told = f"{path} has frames of {sizes} pixels, from frame {len(shown) - 1} on"
                        raise DataError(f"{told}: cut it there, or scale it to one size")
            ratio = stream and stream.sample_aspect_ratio
    except av.FFmpegError as error:
        faults.append(str(error))
    finally:
        av.logging.set_level(level)
    if not shown:
        told = f"{path} cannot be decoded as a video ({faults[0] if faults else 'there is none in it'})"
        raise DataError(f"{told}: it is damaged, or of a format that PyAV does not know")
    faults += [message.strip() for _, _, message in said]
    missing = announced - unseen - len(shown) if len(shown) != limit else 0
    if missing > (0 if exact else 1) or faults:
        number = f"{'' if exact else 'about '}{announced - unseen}" if announced else "no number of"
        told = f"{path} announces {number} frames, {len(shown)} were decoded"
        _log.warning("%s%s: it is cut or damaged", told, f" ({faults[0]})" if faults else "")
    if ratio not in (None, 0, 1):
        _log.warning("%s has pixels of %s, which are taken as square: scale it first if that matters", path, ratio)
    boxes, labels = [torch.zeros(0, 4)] * len(shown), [torch.zeros(0, dtype=torch.int64)] * len(shown)
    return Video(path.stem, _tensor(shown), boxes, labels, None, {})


def _announced(file: Any, stream: Any) -> tuple[int, bool]:
    """How many frames a file says it has, 0 where it says nothing; whether it counts them, or tells its duration."""
    if stream is None or stream.frames:
        return (stream.frames if stream else 0), True
    duration = stream.duration * stream.time_base if stream.duration else (file.duration or 0) / 10**6
    return int(duration * (stream.average_rate or 0)), False


def _shown(frame: Any, path: Path, number: int, height: int | None) -> np.ndarray:
    """A frame of PyAV's as players show it, (H, W, 3) uint8."""
    from av.sidedata.sidedata import Type
    from av.video.reformatter import Colorspace

    which, matrix = f"frame {number} of {path}", None
    if getattr(frame, "color_trc", None) in (16, 18):  # PQ and HLG
        raise DataError(f"{which} has a high dynamic range: convert the video to SDR first, as ffmpeg's tonemap does")
    if frame.colorspace == 2 and not frame.format.is_rgb:  # unspecified
        matrix = Colorspace.ITU709 if frame.height >= 720 else Colorspace.ITU601
    picture = frame.to_ndarray(format="rgba", src_colorspace=matrix)
    if picture[..., 3].min() < 255:
        raise DataError(f"{which} is transparent: put the video on a ground of one colour first")
    if (turned := frame.side_data.get(Type.DISPLAYMATRIX)) is not None:
        a, b, _, c, d, *_ = struct.unpack("=9i", bytes(turned))  # column x, row y is shown at a x + c y, b x + d y
        if (a, d) != (0, 0) and (b, c) != (0, 0):
            raise DataError(
                f"{which} is turned by an angle that is not a multiple of 90 degrees: turn the video itself first"
            )
        if not a:
            picture, a, d = picture.transpose(1, 0, 2), c, b
        picture = picture[:: -1 if d < 0 else 1, :: -1 if a < 0 else 1]
    picture = np.ascontiguousarray(picture[..., :3])
    if height:
        size = (max(1, round(picture.shape[1] * height / picture.shape[0])), height)
        if size[0] * size[1] > MAX_PIXELS:
            raise DataError(
                f"{which} scaled to {size[0]} x {size[1]} would have more than {MAX_PIXELS} pixels: lower the height"
            )
        picture = cv2.resize(picture, size, interpolation=cv2.INTER_AREA)
    return picture


def davis(folder: Path | str, name: str, category: str, limit: int | None = None) -> Video:
    """The first `limit` frames of a clip of DAVIS 2016 at 480p, whose one annotated object is a `category` of COCO, else
    ValueError; its box is the extent of its mask, and a frame that hides it has none. `folder` has `JPEGImages/480p/<name>/*.jpg`
    and `Annotations/480p/<name>/*.png`; DataError where they are missing, damaged, or of different numbers or sizes."""
    label = next((i for i, known in CATEGORIES.items() if known == category), None)
    if label is None:
        raise ValueError(f"COCO has no category {category!r}: use one of {', '.join(CATEGORIES.values())}")
    photographs = sorted(Path(folder, "JPEGImages", "480p", name).glob("*.jpg"))[:limit]
    drawn = sorted(Path(folder, "Annotations", "480p", name).glob("*.png"))[:limit]
    if not photographs or [path.stem for path in photographs] != [path.stem for path in drawn]:
        told = f"DAVIS clip {name!r} has {len(photographs)} pictures and {len(drawn)} masks in {folder}"
        cure = "unpack the data set there (`icm datasets fetch davis2016`), so that it has JPEGImages/480p and Annotations/480p"
        raise DataError(f"{told}, not one mask for each picture: {cure}")
    shown, outlined = [pictures.read(path) for path in photographs], [_mask(path) for path in drawn]
    for path, picture in zip([*photographs, *drawn], [*shown, *outlined], strict=True):
        if picture.shape[:2] != shown[0].shape[:2]:
            sizes = " and ".join(f"{p.shape[1]} x {p.shape[0]}" for p in (picture, shown[0]))
            raise DataError(
                f"masks and pictures of a DAVIS clip differ in size ({path}: {sizes}): unpack the data set again"
            )
    frames, masks = _tensor(shown), [torch.from_numpy(mask)[None] for mask in outlined]  # (1, H, W)
    masks = [mask[mask.any(dim=(1, 2))] for mask in masks]
    boxes = [masks_to_boxes(mask) + torch.tensor([0.0, 0, 1, 1]) for mask in masks]
    labels = [torch.full((len(mask),), label) for mask in masks]
    return Video(name, frames, boxes, labels, masks, {label: category})


def sfu(yuv: Path | str, annotations: Path | str, limit: int | None = None) -> Video:
    """The first `limit` annotated frames of a sequence of SFU-HW-Objects of 8 bits, 4:2:0, with boxes in COCO's category ids.

    `yuv` is the whole sequence; `annotations` are its boxes in COCO's format, as CompressAI-Vision has them, named
    `<Sequence>_<width>x<height>_<rate>_val.json`, which says where they begin (`FIRST_ANNOTATED`). Colours are read as BT.601 with
    limited range. Class ids 0..79 become COCO's 1..90; the names in the file's list of categories are another data set's and are
    not used, those of its annotations are checked. DataError where a file is missing, damaged, or contradicts its name or COCO.
    """
    yuv, annotations = Path(yuv), Path(annotations)
    named = re.fullmatch(r"(.+)_(\d+)x(\d+)_(\d+)_val", annotations.stem)
    if not named or int(named[4]) not in FIRST_ANNOTATED:
        told = f"{annotations} is not called <Sequence>_<width>x<height>_<frames a second>_val.json"
        rates = ", ".join(map(str, FIRST_ANNOTATED))
        raise DataError(f"{told} with one of {rates} frames a second: give the file the name that it had")
    width, height, first = int(named[2]), int(named[3]), FIRST_ANNOTATED[int(named[4])]
    numbers, content = list(CATEGORIES), schema.read(annotations, schema.Sequence)
    schema.once(annotations, "image", (image.id for image in content.images))
    shown = sorted(image.id for image in content.images)
    order = shown[:limit]
    boxes, labels = {k: [] for k in shown}, {k: [] for k in shown}
    for n, item in enumerate(content.annotations):
        label, (x, y, w, h) = numbers[item.category_id], item.bbox
        if item.image_id not in boxes:
            told = f"{annotations} has annotation {n} from 0 of image {item.image_id}, but lists no such image"
            raise DataError(f"{told}: fetch it again")
        if item.kind != CATEGORIES[label]:
            which = f"class {item.category_id} {item.kind!r}"
            raise DataError(f"{annotations} calls {which}, COCO {CATEGORIES[label]!r}")
        x1, x2, y1, y2 = max(x, 0), min(x + w, width), max(y, 0), min(y + h, height)
        if schema.solid(x1, y1, x2, y2):
            boxes[item.image_id].append([x1, y1, x2, y2])
            labels[item.image_id].append(label)
    frames = _tensor(_yuv(yuv, width, height, [first + k for k in order]))
    corners = [torch.tensor(boxes[k], dtype=torch.float32).view(-1, 4) for k in order]
    used = {i: CATEGORIES[i] for i in sorted({label for k in order for label in labels[k]})}
    return Video(named[1], frames, corners, [torch.tensor(labels[k], dtype=torch.int64) for k in order], None, used)


def _yuv(path: Path, width: int, height: int, numbers: list[int]) -> list[np.ndarray]:
    """Frames (H, W, 3) uint8 of a raw file of 8 bits, 4:2:0, by their rising numbers from 0."""
    size = width * height * 3 // 2
    if not path.is_file():
        raise DataError(f"sequence {path} is missing: `icm datasets fetch sfu-hw-objects` says where to ask")
    held, least = path.stat().st_size, numbers[-1] + 1
    if held % size or held < least * size:
        told = f"{path} has {held} bytes: that is no whole number, at least {least}, of frames of {size} bytes"
        raise DataError(f"{told} ({width} x {height}, 8 bits, 4:2:0). It is cut short, or another sequence or format")
    raw = (np.fromfile(path, np.uint8, size, offset=k * size).reshape(height * 3 // 2, width) for k in numbers)
    return [cv2.cvtColor(frame, cv2.COLOR_YUV2RGB_I420) for frame in raw]


def _mask(path: Path) -> np.ndarray:
    """What a mask does not show in black, (H, W) bool."""
    broken = (OSError, SyntaxError, ValueError, Image.DecompressionBombError)
    with blamed(f"{path} cannot be decoded", "it is damaged, fetch it again", *broken), Image.open(path) as image:
        if image.mode not in ("1", "L", "P", "RGB") and not image.mode.startswith("I"):
            raise ValueError(f"its pixels are {image.mode}, neither grey nor colours")
        pixels = np.array(image.convert("RGB") if image.mode == "P" else image)
    return pixels.reshape(*pixels.shape[:2], -1).any(axis=2)


def _tensor(pictures: list[np.ndarray]) -> Tensor:
    """Pictures (H, W, 3) uint8 as frames (T, 3, H, W) in [0, 1]."""
    return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).contiguous() / 255


def _filled(boxes: Tensor, height: int, width: int) -> Tensor:
    masks = torch.zeros(len(boxes), height, width, dtype=torch.bool)
    for mask, box in zip(masks, boxes, strict=True):
        (x1, y1), (x2, y2) = box[:2].floor().int().tolist(), box[2:].ceil().int().tolist()
        mask[y1:y2, x1:x2] = True
    return masks
