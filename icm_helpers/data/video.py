"""Videos with objects: made scenes, DAVIS and SFU-HW-Objects, each read into a `Video`."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import avg_pool2d
from torchvision.ops import masks_to_boxes

from icm_helpers.data import DataError, blamed, scenes, schema
from icm_helpers.data.coco import Sample
from icm_helpers.data.scenes import Scene
from icm_helpers.tasks.coco import CATEGORIES

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
    """A video file as OpenCV decodes it, with no object annotated: the first `limit` frames, each scaled to `height` rows in the
    ratio of its sides; DataError where no frame can be decoded."""
    path = Path(path)
    if not path.is_file():
        raise DataError(f"video {path} is missing: correct the path")
    capture, pictures = cv2.VideoCapture(str(path)), []
    while len(pictures) != limit and (picture := capture.read()[1]) is not None:
        if height:
            size = (max(1, round(picture.shape[1] * height / picture.shape[0])), height)
            picture = cv2.resize(picture, size, interpolation=cv2.INTER_AREA)
        pictures.append(cv2.cvtColor(picture, cv2.COLOR_BGR2RGB))
    capture.release()
    if not pictures:
        raise DataError(f"{path} cannot be decoded as a video: it is damaged, or of a format that OpenCV does not know")
    boxes, labels = [torch.zeros(0, 4)] * len(pictures), [torch.zeros(0, dtype=torch.int64)] * len(pictures)
    return Video(path.stem, _tensor(pictures), boxes, labels, None, {})


def davis(folder: Path | str, name: str, category: str, limit: int | None = None) -> Video:
    """The first `limit` frames of a clip of DAVIS 2016 at 480p, whose one annotated object is a `category` of COCO, else
    ValueError; its box is the extent of its mask, and a frame that hides it has none. `folder` has `JPEGImages/480p/<name>/*.jpg`
    and `Annotations/480p/<name>/*.png`; DataError where they are missing, damaged, or of different numbers or sizes."""
    label = next((i for i, known in CATEGORIES.items() if known == category), None)
    if label is None:
        raise ValueError(f"COCO has no category {category!r}: take one of {', '.join(CATEGORIES.values())}")
    pictures = sorted(Path(folder, "JPEGImages", "480p", name).glob("*.jpg"))[:limit]
    drawn = sorted(Path(folder, "Annotations", "480p", name).glob("*.png"))[:limit]
    if not pictures or [path.stem for path in pictures] != [path.stem for path in drawn]:
        told = f"DAVIS clip {name!r} has {len(pictures)} pictures and {len(drawn)} masks in {folder}, not one mask for each picture"
        cure = "unpack the data set there (`icm datasets fetch davis2016`), so that it has JPEGImages/480p and Annotations/480p"
        raise DataError(f"{told}: {cure}")
    frames, shapes = [_pixels(path, "RGB") for path in pictures], [_shape(path) for path in drawn]
    for path, pixels in zip([*pictures, *drawn], [*frames, *shapes], strict=True):
        if pixels.shape[:2] != frames[0].shape[:2]:
            told = f"{path} has size {pixels.shape[:2]}, {pictures[0]} {frames[0].shape[:2]}"
            raise DataError(f"{told}: unpack the data set again")
    masks = [torch.from_numpy(shape)[None] for shape in shapes]  # (1, H, W)
    masks = [mask[mask.any(dim=(1, 2))] for mask in masks]
    boxes = [masks_to_boxes(mask) + torch.tensor([0.0, 0, 1, 1]) if len(mask) else torch.zeros(0, 4) for mask in masks]
    labels = [torch.full((len(mask),), label) for mask in masks]
    return Video(name, _tensor(frames), boxes, labels, masks, {label: category})


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


def _pixels(path: Path, mode: str) -> np.ndarray:
    cure = "it is damaged, fetch it again"
    with blamed(f"{path} cannot be decoded", cure, OSError, SyntaxError, ValueError), Image.open(path) as image:
        return np.array(image.convert(mode))


def _shape(path: Path) -> np.ndarray:
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
