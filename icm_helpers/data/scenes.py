"""Procedural landscapes with exact masks: an endless, licence-free data set for toy experiments.

A *world* (hills, a ground plane with a path, things standing on it, the light) is sampled from a seed; a pinhole camera renders it
at any time at twice the size, and the picture is averaged down. The same painter makes the labels. Lengths are metres.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cache, cached_property, partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from tqdm import tqdm

from icm_helpers.data.formats import extent, run_lengths
from icm_helpers.files import folder_atomically

VERSION = 1  # of the generator: raise it whenever a pixel changes
LABELS = 2  # of what is written beside the pixels

THINGS: tuple[str, ...] = ("tree", "house", "rock", "balloon", "horse", "car")
STUFF: tuple[str, ...] = ("sky", "hills", "ground", "path")
CATEGORIES: list[dict[str, Any]] = [
    {"id": i, "name": name, "supercategory": "thing" if name in THINGS else "stuff", "isthing": int(name in THINGS)}
    for i, name in enumerate(THINGS + STUFF, start=1)
]

PATTERNED = [1 + THINGS.index(name) for name in ("balloon", "horse")]  # categories with a `pattern`
SUPERSAMPLING = 2
CAMERA_HEIGHT = 2.6  # metres above the ground
SMALLEST_AREA = 12 / 192**2  # visible share of the picture below which a thing is not labelled
SKY, HILLS, GROUND, PATH, FIRST_THING = 1, 2, 3, 4, 5  # segment ids; thing i of a world has FIRST_THING + i
PARTS = 32  # more than any segment has


@dataclass(frozen=True)
class Scene:
    """A picture and its exact labels."""

    image: np.ndarray  # (H, W, 3) uint8, RGB
    panoptic: np.ndarray  # (H, W) int32, segment ids from 1
    # One dict a segment, stuff first: id, category_id, isthing, area (pixels), bbox [x, y, w, h]; for a horse and a balloon also
    # `pattern`, which only texture shows: whether its coat is spotted, whether a band runs around its middle; None in camouflage.
    segments: list[dict[str, Any]]
    parts: (
        np.ndarray
    )  # (H, W) int32, finer than `panoptic`: a roof, a door, a wheel; `parts // PARTS` is the segment id

    @property
    def things(self) -> list[dict[str, Any]]:
        """The segments that are things, in the order of `masks`, `boxes` and `labels`."""
        return [s for s in self.segments if s["isthing"]]

    def masks(self) -> np.ndarray:
        """Visible pixels of every thing, (n, H, W) bool; disjoint."""
        ids = np.array([s["id"] for s in self.things], np.int32)
        return self.panoptic[None] == ids[:, None, None]

    def boxes(self) -> np.ndarray:
        """Extents of the masks, (n, 4) float32: x0, y0, x1, y1 in pixels, ends exclusive."""
        xywh = np.array([s["bbox"] for s in self.things], np.float32).reshape(-1, 4)
        return np.concatenate([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]], 1)

    def labels(self) -> np.ndarray:
        """Category ids of the things, (n,) int64 in 1..6."""
        return np.array([s["category_id"] for s in self.things], np.int64)


# ---------------------------------------------------------------------------------------------------------------- world


@dataclass(frozen=True)
class Mood:
    """Colours of the light: RGB in [0, 1]. A lit surface shows `colour * (ambient + sun * lambert)`."""

    zenith: np.ndarray
    horizon: np.ndarray
    sun: np.ndarray
    ambient: np.ndarray
    clouds: float  # cover, 0 to 1
    visibility: float  # metres after which haze hides 63 % of a thing

    def lit(self, colour: np.ndarray, lambert: np.ndarray | float) -> np.ndarray:
        """`colour` (..., 3) under this light at `lambert` (...) in [0, 1]."""
        return colour * (self.ambient + self.sun * np.asarray(lambert, np.float32)[..., None])

    @property
    def shade(self) -> np.ndarray:
        """What a cast shadow leaves of the colour of the ground, (3,) in [0, 1]."""
        return self.ambient / (self.ambient + 0.78 * self.sun)

    def haze(self, distance: np.ndarray | float) -> np.ndarray:
        """How much of a thing at `distance` metres is replaced by the colour of the horizon, in [0, 0.8]."""
        return np.minimum(1 - np.exp(-np.asarray(distance, np.float32) / self.visibility), 0.8)


@dataclass(frozen=True)
class Thing:
    """One object of a world: where it stands (x right, z away, metres), how tall it is and how it moves a frame."""

    kind: str
    x: float
    z: float
    height: float
    altitude: float
    facing: int  # 1: to the right, -1: to the left
    speed: tuple[float, float]  # metres a frame, along x and upwards
    camouflage: bool  # coloured like its surroundings
    seed: tuple[int, int]  # of everything else about it, the same in every frame


@dataclass(frozen=True)
class World:
    """Everything that a seed decides; `render` turns it into pictures."""

    horizon: float  # height of the horizon line, share of the picture from the top
    light: int  # 1: the sun is to the right, -1: to the left
    mood: Mood
    offset: np.ndarray  # (8,) where the shared textures are read
    hills: tuple[tuple[float, float, np.ndarray], ...]  # (height, haze, colour) of each ridge, far to near
    ground: str  # texture
    ground_colour: np.ndarray
    patches: np.ndarray  # second colour of the ground
    path: str | None  # texture
    path_colour: np.ndarray
    path_line: tuple[float, float, float, float, float]  # x at z = 0, slope, sway, phase, half width
    things: tuple[Thing, ...]
    camera: tuple[float, float, float, float]  # a frame: metres right, metres forward, radians of pan, zoom


def _rgb(*values: float) -> np.ndarray:
    return np.array(values, np.float32)


def _hsv(hue: float, saturation: float, value: float) -> np.ndarray:
    """RGB of a hue in degrees, saturation and value in [0, 1]."""
    k = (np.array([5, 3, 1]) + hue / 60) % 6
    return (value * (1 - saturation * np.clip(np.minimum(k, 4 - k), 0, 1))).astype(np.float32)


def _drawn(r: np.random.Generator, *hsv: float | tuple[float, float]) -> np.ndarray:
    """The colour of a hue, saturation and value, each a number or a range to draw it from."""
    return _hsv(*(r.uniform(*v) if isinstance(v, tuple) else v for v in hsv))


def _sample_mood(r: np.random.Generator) -> Mood:
    kind = r.choice(["clear", "clear", "golden", "dusk", "overcast"])
    if kind == "clear":
        zenith, horizon = _drawn(r, (206, 218), (0.6, 0.75), 0.78), _drawn(r, 205, (0.12, 0.22), 0.97)
        return Mood(zenith, horizon, _rgb(0.86, 0.8, 0.68), _rgb(0.36, 0.42, 0.52), r.uniform(0.1, 0.6), 190)
    if kind == "golden":
        zenith, horizon = _drawn(r, (208, 224), 0.42, 0.74), _drawn(r, (30, 42), (0.3, 0.45), 0.99)
        return Mood(zenith, horizon, _rgb(1.0, 0.78, 0.5), _rgb(0.36, 0.36, 0.44), r.uniform(0.1, 0.5), 130)
    if kind == "dusk":
        zenith, horizon = _drawn(r, (225, 262), 0.48, 0.5), _drawn(r, (8, 26), (0.4, 0.52), 0.95)
        return Mood(zenith, horizon, _rgb(0.82, 0.62, 0.48), _rgb(0.36, 0.38, 0.48), r.uniform(0.1, 0.5), 120)
    zenith, horizon = _hsv(212, 0.16, 0.66), _hsv(208, 0.06, 0.9)
    return Mood(zenith, horizon, _rgb(0.34, 0.34, 0.32), _rgb(0.58, 0.61, 0.65), r.uniform(0.6, 0.95), 110)


def _sample_things(r: np.random.Generator, seed: int, horizon: float, aspect: float) -> tuple[Thing, ...]:
    things, places = [], []
    for i in range(int(r.integers(2, 10))):
        kind = str(r.choice(THINGS, p=[0.23, 0.15, 0.17, 0.14, 0.16, 0.15]))
        *_, tall, (low, high) = _KINDS[kind]
        height = r.uniform(*tall)
        share = low * (high / low) ** (r.random() ** 0.65)  # rather large than small
        z = height / min(share, height / CAMERA_HEIGHT * (0.94 - horizon))  # its foot stays within the picture
        # Of six places on the screen take the one farthest from what stands there already.
        candidates = r.uniform(-0.44, 0.44, 6) * aspect
        gaps = [min([abs(c - x) + 0.25 * abs(np.log(z / d)) for x, d in places], default=0.0) for c in candidates]
        place = candidates[int(np.argmax(gaps))]
        places.append((place, z))
        altitude, speed, facing = 0.0, (0.0, 0.0), 1 if r.random() < 0.5 else -1
        if kind == "balloon":
            centre = r.uniform(0.1, horizon)  # on the screen, from the top
            altitude = max(0.1, CAMERA_HEIGHT + (horizon - centre) * z - height / 2)
            speed = (r.uniform(-0.06, 0.06), r.uniform(0.0, 0.03))
        elif kind in ("horse", "car"):
            speed = (facing * (r.uniform(0.03, 0.06) if kind == "horse" else r.uniform(0.08, 0.2)), 0.0)
        camouflage = bool(r.random() < 0.22)
        things.append(Thing(kind, place * z, z, height, altitude, facing, speed, camouflage, (seed, i + 1)))
    return tuple(things)


def sample_world(seed: int, aspect: float = 1.0) -> World:
    """The world of a seed, with 2 to 9 things within a picture of `aspect` = width / height."""
    r = np.random.default_rng(seed)
    horizon, mood = r.uniform(0.3, 0.5), _sample_mood(r)
    count = int(r.integers(1, 4))
    hue, top = r.uniform(80, 150), r.uniform(0.08, 0.16)
    colours = [_hsv(hue + r.uniform(-15, 15), r.uniform(0.3, 0.5), r.uniform(0.32, 0.45)) for _ in range(count)]
    hills = tuple((top * (1 - 0.62 * i / count), 0.72 - 0.45 * ((i + 1) / count), c) for i, c in enumerate(colours))
    ground = str(r.choice(["grass", "grass", "grass", "gravel", "sand"]))
    if ground == "grass":
        base, patches = _drawn(r, (72, 105), (0.45, 0.65), (0.42, 0.56)), _hsv(55, 0.5, 0.62)
    elif ground == "gravel":
        base, patches = _drawn(r, (22, 45), (0.06, 0.2), (0.48, 0.6)), _hsv(75, 0.3, 0.45)
    else:
        base, patches = _drawn(r, (32, 42), (0.3, 0.42), (0.66, 0.76)), _hsv(28, 0.4, 0.58)
    path = str(r.choice([p for p in ("gravel", "brick", "sand") if p != ground])) if r.random() < 0.65 else None
    brick = _drawn(r, (8, 26), (0.25, 0.42), (0.52, 0.64))
    gravel, sand = _drawn(r, (25, 45), (0.06, 0.16), (0.56, 0.68)), _drawn(r, (28, 38), (0.3, 0.42), (0.6, 0.72))
    path_colour = {"brick": brick, "gravel": gravel}.get(path, sand)
    line = (r.uniform(-1.5, 1.5), r.uniform(-0.25, 0.25), r.uniform(0.6, 3.0), r.uniform(0, 6.28), r.uniform(0.7, 1.2))
    camera = (r.uniform(-0.05, 0.05), r.uniform(0.0, 0.06), r.uniform(-0.004, 0.004), r.uniform(0.0, 0.002))
    light, offset = 1 if r.random() < 0.5 else -1, r.random(8).astype(np.float32)
    hills = hills if r.random() < 0.85 else ()
    things = _sample_things(r, seed, horizon, aspect)
    return World(horizon, light, mood, offset, hills, ground, base, patches, path, path_colour, line, things, camera)


# ------------------------------------------------------------------------------------------------------------- textures


def _fractal(r: np.random.Generator, n: int, beta: float) -> np.ndarray:
    """A periodic (n, n) field of noise whose spectrum falls as frequency^-beta."""
    frequency = np.hypot(np.fft.fftfreq(n)[:, None], np.fft.rfftfreq(n)[None]) * n
    spectrum = np.fft.rfft2(r.standard_normal((n, n))) / np.maximum(frequency, 1.0) ** (beta / 2)
    spectrum[0, 0] = 0
    return np.fft.irfft2(spectrum, (n, n))


def _stamp(tile: np.ndarray, points: np.ndarray, value: float) -> None:
    """Fill a convex polygon (k, 2) of a periodic tile, in pixels."""
    n = len(tile)
    low, high = points.min(0), points.max(0)
    for shift in np.array([(dx, dy) for dx in (-n, 0, n) for dy in (-n, 0, n)]):
        if (low + shift < n).all() and (high + shift >= 0).all():
            cv2.fillConvexPoly(tile, np.round((points + shift) * 16).astype(np.int32), float(value), cv2.LINE_8, 4)


def _grass(r: np.random.Generator, n: int) -> np.ndarray:
    tile = np.full((n, n), -1.2, np.float32) + 0.5 * _fractal(r, n, 2.0).astype(np.float32)
    clump = _fractal(r, n, 2.4)
    clump /= clump.std()
    for i in range(4200):
        foot = r.uniform(0, n, 2)
        tip = foot + np.array([r.normal(0, 7), -r.uniform(9, 24)])
        across = (r.uniform(1.0, 2.2), 0.0)
        value = -1.2 + 2.4 * i / 4200 + r.normal(0, 0.45) + 0.35 * clump[int(foot[1]), int(foot[0])]
        _stamp(tile, np.array([foot - across, foot + across, tip]), value)
    return tile


def _gravel(r: np.random.Generator, n: int) -> np.ndarray:
    tile, circle = np.full((n, n), -2.2, np.float32), _circle(9)
    for _ in range(2600):
        size, shape = r.uniform(4.0, 12.0), 1 + r.normal(0, 0.12, 9)
        stone = circle * shape[:, None] * (size, size * 0.75)
        centre, value = r.uniform(0, n, 2), r.normal(0, 0.55)
        _stamp(tile, centre + stone * 1.12, -2.2)
        for shrink, gain in ((1.0, -0.5), (0.8, 0.1), (0.5, 0.55)):  # lit from above
            _stamp(tile, centre + stone * shrink - (0, size * 0.22 * (1 - shrink)), value + gain)
    return tile + 0.15 * r.standard_normal((n, n)).astype(np.float32)


def _brick(r: np.random.Generator, n: int) -> np.ndarray:
    tile, rows, columns = np.full((n, n), -2.0, np.float32), 16, 8
    h, w = n / rows, n / columns
    for row, column in np.ndindex(rows, columns):
        x, y, value = (column + 0.5 * (row % 2)) * w, row * h, r.normal(0, 0.6)
        inset, shine = _box(x + 2.5, y + 2.5, x + w - 2.5, y + h - 2.5), [[1.5, 2.0], [-0.5, 2.0], [-0.5, 0], [1.5, 0]]
        for shift, gain in (((0.0, 0.0), 0.7), ((1.5, 2.0), 0.0), (shine, 0.2)):
            _stamp(tile, inset + np.array(shift), value + gain)
    return tile + 0.25 * _standard(_fractal(r, n, 1.0))


def _leaves(r: np.random.Generator, n: int) -> np.ndarray:
    """Tree tops seen from afar: round crowns, bright above."""
    tile, circle = np.full((n, n), -1.5, np.float32), _circle(10)
    for _ in range(1500):
        size, centre, value = r.uniform(5, 15), r.uniform(0, n, 2), r.normal(0, 0.4)
        for shrink, gain in ((1.0, -1.0), (0.75, -0.1), (0.45, 0.7)):
            _stamp(tile, centre + circle * size * shrink - (0, size * (1 - shrink) * 0.8), value + gain)
    return tile


def _standard(tile: np.ndarray) -> np.ndarray:
    return ((tile - tile.mean()) / tile.std()).astype(np.float32)


_TEXTURES: dict[str, Callable[[np.random.Generator, int], np.ndarray]] = {
    **{"grass": _grass, "gravel": _gravel, "brick": _brick, "leaves": _leaves},
    **{name: partial(_fractal, beta=b) for name, b in (("sand", 1.3), ("cloud", 3.1), ("ridge", 4.0), ("patch", 2.6))},
    "stone": lambda r, n: np.roll(t := _fractal(r, n, 2.9), 3, 0) - t,  # relief: a slope
}


@cache
def _texture(name: str) -> tuple[np.ndarray, ...]:
    """A periodic texture of mean 0 and deviation 1, and its mipmaps: (512, 512), (256, 256), ... (8, 8) float32."""
    r = np.random.default_rng([VERSION, *name.encode()])
    levels = [np.clip(_standard(_TEXTURES[name](r, 512)), -2.5, 2.5)]
    while len(levels[-1]) > 8:
        levels.append(cv2.resize(levels[-1], None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA))
    # Averaging greys a texture faster than the eye expects of distance: keep some of its contrast.
    return tuple(t * min(2.0, 0.8**i / max(float(t.std()), 1e-3)) for i, t in enumerate(levels))


def _read(name: str, x: np.ndarray, y: np.ndarray, level: float) -> np.ndarray:
    """The texture at (x, y) in periods, float32 of their shape, from the mipmap nearest to `level`."""
    levels = _texture(name)
    tile = levels[int(np.clip(level, 0, len(levels) - 1))]
    n = len(tile)
    u, v = (x - np.floor(x)) * n, (y - np.floor(y)) * n
    return cv2.remap(tile, u, v, cv2.INTER_LINEAR, borderMode=cv2.BORDER_WRAP)


def _read_plane(name: str, x: np.ndarray, z: np.ndarray, level: np.ndarray) -> np.ndarray:
    """The texture on a receding plane: x (h, w) and z (h, 1) in periods, mipmap `level` (h,) blended row by row."""
    out = np.empty(x.shape, np.float32)
    z = np.broadcast_to(z, x.shape)
    level = np.clip(level, 0, len(_texture(name)) - 1)
    for low in np.unique(np.floor(level)):
        rows = np.flatnonzero(np.floor(level) == low)
        part = slice(rows[0], rows[-1] + 1)  # levels fall monotonically with the row
        blend = (level[part] - low)[:, None].astype(np.float32)
        fine, coarse = (_read(name, x[part], z[part], low + i) for i in (0, 1))
        out[part] = fine + (coarse - fine) * blend
    return out


class _Canvas:
    """The part of a frame that holds one thing, in its own units: from its foot, u where it faces, v up, its height is 1. `rgba` is
    (h, w, 4) float32; its last channel is 0 where nothing is, else the number of the `part` that was being painted."""

    def __init__(self, shape: tuple[int, int], foot: tuple[float, float], unit: float, extent: float, facing: int):
        self.foot, self.unit, self.facing = foot, unit, facing
        self.pattern: bool | None = None  # what its painter says of it: see Scene.segments
        self.x0, self.y0 = max(0, int(foot[0] - extent * unit)), max(0, int(foot[1] - 1.1 * unit))
        self.x1, self.y1 = min(shape[1], int(foot[0] + extent * unit) + 2), min(shape[0], int(foot[1] + 0.1 * unit) + 2)
        self.empty = self.x1 <= self.x0 or self.y1 <= self.y0
        self.rgba = np.zeros((max(0, self.y1 - self.y0), max(0, self.x1 - self.x0), 4), np.float32)
        self.part = 1.0

    def fixed(self, points: np.ndarray) -> np.ndarray:
        """Points (..., 2) in the thing's units as OpenCV's fixed-point pixels, 4 fractional bits."""
        points = np.asarray(points, np.float64)
        x = self.foot[0] + self.facing * self.unit * points[..., 0] - self.x0 - 0.5
        y = self.foot[1] - self.unit * points[..., 1] - self.y0 - 0.5
        return np.round(np.stack([x, y], -1) * 16).astype(np.int32)

    @cached_property
    def u(self) -> np.ndarray:
        return ((np.arange(self.x0, self.x1, dtype=np.float32) + 0.5 - self.foot[0]) * self.facing / self.unit)[None]

    @cached_property
    def v(self) -> np.ndarray:
        return ((self.foot[1] - np.arange(self.y0, self.y1, dtype=np.float32) - 0.5) / self.unit)[:, None]

    def mask(self, points: np.ndarray) -> np.ndarray:
        """Pixels of a polygon, (h, w) bool."""
        mask = np.zeros(self.rgba.shape[:2], np.uint8)
        cv2.fillPoly(mask, [self.fixed(points)], 1, cv2.LINE_8, 4)
        return mask.astype(bool)

    def fill(self, points: np.ndarray, colour: np.ndarray, part: float | None = None) -> None:
        """Paint a polygon in one colour (3,), or in the colours of a picture (h, w, 3), as this `part` from here on."""
        self.part = self.part if part is None else part
        if colour.ndim == 1:
            cv2.fillPoly(self.rgba, [self.fixed(points)], (*colour.tolist(), self.part), cv2.LINE_8, 4)
        else:
            self.paint(self.mask(points), colour)

    def paint(self, mask: np.ndarray, colour: np.ndarray) -> None:
        """Paint the pixels of a mask (h, w) in the colours of a picture (h, w, 3)."""
        self.rgba[mask, :3] = colour[mask]
        self.rgba[mask, 3] = self.part

    def leaves(self, points: np.ndarray, angles: np.ndarray, size: tuple[float, float], colours: np.ndarray) -> None:
        """Paint n leaves of `size` (length, width) at points (n, 2), turned by angles (n,), in colours (n, 3)."""
        leaf = np.array([[-0.5, 0], [-0.2, 0.45], [0.2, 0.4], [0.5, 0], [0.2, -0.4], [-0.2, -0.45]]) * size
        c, s = np.cos(angles)[:, None], np.sin(angles)[:, None]
        turned = np.stack([leaf[:, 0] * c - leaf[:, 1] * s, leaf[:, 0] * s + leaf[:, 1] * c], -1)  # (n, 6, 2)
        for polygon, colour in zip(self.fixed(points[:, None] + turned), colours.tolist(), strict=True):
            cv2.fillConvexPoly(self.rgba, polygon, (*colour, self.part), cv2.LINE_8, 4)

    def texture(self, name: str, periods: float, offset: float) -> np.ndarray:
        """A texture that sticks to the thing, `periods` of it a unit: (h, w) float32."""
        texels = 512 * periods / self.unit  # a pixel
        x = np.broadcast_to(self.u * periods + offset, self.rgba.shape[:2])
        y = np.broadcast_to(offset * 7 - self.v * periods, self.rgba.shape[:2])
        return _read(name, x, y, np.log2(max(texels, 1.0)) + 0.3)


@dataclass(frozen=True)
class _Light:
    """What a painter needs to know of the world, in the units of its canvas."""

    side: int  # of the sun, 1: where the thing faces
    mood: Mood
    time: float  # frames
    disguise: np.ndarray | None  # the colour to hide in

    def lambert(self, x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
        """Cosine between the sun and a normal (right, up, to the viewer), in [0, 1]."""
        return np.clip(0.62 * self.side * x + 0.6 * y + 0.5 * z, 0, 1)


def _points(text: str) -> np.ndarray:
    """Points (n, 2) written as "x y, x y, ..."."""
    return np.array([pair.split() for pair in text.split(",")], float)


def _spline(text: str) -> np.ndarray:
    """A closed Catmull-Rom spline through points written so: four a piece, (4 n, 2)."""
    p0, p1, p2, p3 = (np.roll(_points(text), k, 0) for k in (1, 0, -1, -2))
    t = (np.arange(4) / 4)[None, :, None]
    a, b, c = p2 - p0, 2 * p0 - 5 * p1 + 4 * p2 - p3, 3 * (p1 - p2) + p3 - p0
    return (p1[:, None] + 0.5 * (a[:, None] * t + b[:, None] * t**2 + c[:, None] * t**3)).reshape(-1, 2)


def _box(left: float, bottom: float, right: float, top: float) -> np.ndarray:
    return np.array([[left, bottom], [right, bottom], [right, top], [left, top]])


def _circle(n: int) -> np.ndarray:
    """`n` points (n, 2) of the unit circle."""
    angles = np.linspace(0, 2 * np.pi, n, endpoint=False)
    return np.stack([np.cos(angles), np.sin(angles)], 1)


def _disc(u: float, v: float, radius: float) -> np.ndarray:
    return (u, v) + radius * _circle(24)


# -------------------------------------------------------------------------------------------------------------- painters


def _tree(c: _Canvas, r: np.random.Generator, light: _Light) -> None:
    lit = light.mood.lit
    autumn, conifer, tall = r.random() < 0.22, r.random() < 0.38, r.random() < 0.3
    leaf = _drawn(r, *((18, 48), 0.72, 0.66) if autumn and not conifer else ((78, 128), 0.55, 0.46))
    if conifer:
        leaf = _drawn(r, (105, 155), 0.42, 0.36)
    if light.disguise is not None:
        leaf = light.disguise * 0.95
    bark, foot = _hsv(r.uniform(18, 32), 0.38, r.uniform(0.3, 0.45)), r.uniform(0.018, 0.026)
    trunk = foot * np.array([[-1.6, 0], [1.6, 0], [1, 0], [0.6, 0], [-0.6, 0], [-1, 0]])
    trunk[:, 1] = 0, 0, 0.08, 0.6, 0.6, 0.08
    across = np.clip(c.u / foot, -1, 1)
    tone = light.lambert(across, 0.1, np.sqrt(1 - across**2)) * (1 + 0.25 * c.texture("stone", 2.0, r.random()))
    c.fill(trunk, lit(bark, np.clip(tone, 0, 1.2)))
    c.part = 2.0
    if conifer:
        width, tiers, n = r.uniform(0.2, 0.27), int(r.integers(6, 9)), 330
        c.fill(np.array([[-width * 0.8, 0.14], [width * 0.8, 0.14], [0, 0.98]]), lit(leaf * 0.5, 0.1))
        down = np.sort(1 - np.sqrt(r.random(n)) * 0.98)[::-1]  # from the lowest twigs, painted first, to the top
        turn = r.uniform(-1.35, 1.35, n)
        reach = width * (0.1 + 0.9 * down) * (0.72 + 0.4 * np.mod(down * tiers, 1))
        points = np.stack([reach * np.sin(turn) * 0.85, 1 - 0.85 * down - 0.02], 1)
        shade = light.lambert(np.sin(turn), 0.25, np.cos(turn)) * (0.45 + 0.75 * np.mod(down * tiers, 1))
        angles = np.where(np.sin(turn) > 0, -0.75, np.pi + 0.75) + r.normal(0, 0.3, n)
        c.leaves(points, angles, (0.095, 0.034), lit(leaf * r.uniform(0.8, 1.2, (n, 1)), shade))
        return
    middle, spread, lobes = 0.66, (0.13, 0.24) if tall else (0.26, 0.16), 8
    angle = np.linspace(0, 2 * np.pi, lobes, endpoint=False) + r.uniform(-0.4, 0.4, lobes)
    place = r.uniform(0.55, 1.0, lobes)
    centres = np.stack([spread[0] * place * np.cos(angle), middle + spread[1] * place * np.sin(angle)], 1)
    centres[0] = 0, middle
    radii = r.uniform(0.09, 0.14, lobes) if tall else r.uniform(0.11, 0.165, lobes)
    radii[0] = 0.15 if tall else 0.2
    order = np.argsort(centres[:, 1])  # the lower lobes first: they lie in the shade of the upper
    for i in order:
        c.fill(_disc(*centres[i], radii[i] * 0.93), lit(leaf * 0.55, 0.12))
    for i in order:
        n = int(36 + 900 * radii[i] ** 1.5)
        turn, up = r.uniform(-np.pi, np.pi, n), r.uniform(-0.9, 1.0, n)
        side = np.sqrt(1 - up**2)
        x, z = side * np.sin(turn), np.abs(side * np.cos(turn))
        points = centres[i] + radii[i] * np.stack([x, up], 1)
        whole = (points - (0, middle)) / (spread[0] + 0.15, spread[1] + 0.15)
        shade = light.lambert(0.55 * x + 0.5 * whole[:, 0], 0.55 * up + 0.5 * whole[:, 1], 0.7 * z)
        shade = np.clip(1.25 * shade - 0.1, 0, 1.1) * r.uniform(0.7, 1.15, n)
        first = np.argsort(z + 0.6 * shade)
        colours = lit(leaf * r.uniform(0.82, 1.18, (n, 1)) * (1 + 0.12 * shade[:, None] * _rgb(1, 0.8, -0.6)), shade)
        c.leaves(points[first], r.uniform(0, np.pi, n), (0.058, 0.034), colours[first])


def _house(c: _Canvas, r: np.random.Generator, light: _Light) -> None:
    lit, brick = light.mood.lit, r.random() < 0.5
    wall = _drawn(r, (8, 24), 0.45, (0.55, 0.68)) if brick else _drawn(r, (28, 55), (0.05, 0.28), 0.88)
    tiles = _hsv(float(r.choice([8.0, 16.0, 24.0, 215.0])), r.uniform(0.25, 0.5), r.uniform(0.38, 0.55))
    if light.disguise is not None:
        wall, tiles = 0.4 * wall + 0.6 * light.disguise, 0.4 * tiles + 0.5 * light.disguise
    half, eave, depth, rise = r.uniform(0.3, 0.42), r.uniform(0.5, 0.6), r.uniform(0.4, 0.62), 0.05
    grain = c.texture("brick", 0.75 if brick else 1.3, r.random()) * (0.16 if brick else 0.04)
    grain = grain + c.texture("patch", 0.5, r.random()) * 0.05
    front, flank = float(light.lambert(-0.25, 0.0, 0.95)), float(light.lambert(0.95, 0.0, 0.25))
    shade_under_roof = 1 - 0.3 * np.clip(1 - np.abs(eave - 0.02 - c.v) / 0.06, 0, 1)
    wall_picture = wall * (1 + grain[..., None])
    side = np.array([[half, 0], [half + depth, rise], [half + depth, eave], [half, eave]])
    c.fill(side, lit(wall_picture * shade_under_roof[..., None], flank))
    c.fill(np.array([[-half, 0], [half, 0], [half, eave], [0, 0.96], [-half, eave]]), lit(wall_picture, front), 2)
    # The roof's courses run along the house; its near edge overhangs the gable.
    roof = tiles * (1 + 0.2 * c.texture("brick", 1.1, r.random())[..., None])
    over, lip = 0.05, 0.035
    slope = np.array([[half + over, eave - over], [half + depth + over, eave - 0.015], [depth, 0.98], [0, 1.0]])
    if r.random() < 0.6:
        u, top = depth * r.uniform(0.35, 0.6), 1.07
        c.fill(_box(u - 0.04, 0.8, u + 0.04, top), lit(wall * 0.8, front), 3)
        c.fill(_box(u + 0.02, 0.8, u + 0.045, top), lit(wall * 0.8, flank))
    c.fill(slope, lit(roof, float(light.lambert(0.55, 0.7, 0.3))), 4)
    fascia = lit(_rgb(0.9, 0.88, 0.84) if brick else tiles * 1.15, front)
    for end in (half + over, -half - over):
        c.fill(np.array([[0, 1.0], [end, eave - over], [end, eave - over - lip], [0, 1.0 - lip * 1.6]]), fascia)
    frame, door = lit(_rgb(0.93, 0.92, 0.88), front), lit(_hsv(r.uniform(0, 360), 0.5, 0.5), front)
    c.fill(_box(-0.07, 0, 0.07, 0.31), frame, 5)
    c.fill(_box(-0.053, 0, 0.053, 0.29), door)
    glow = np.clip((c.v - 0.2) / 0.5, 0, 1)
    panes = np.broadcast_to(_rgb(0.12, 0.17, 0.23) + glow[..., None] * light.mood.horizon * 0.5, (*c.rgba.shape[:2], 3))
    for u, v in ((-0.63 * half, 0.33), (0.63 * half, 0.33), (0.0, 0.62)):
        c.fill(_box(u - 0.065, v - 0.085, u + 0.065, v + 0.085), frame, c.part + 1)
        for left, right in ((u - 0.05, u - 0.006), (u + 0.006, u + 0.05)):
            c.fill(_box(left, v - 0.07, right, v + 0.07), panes)
    for k in (0.3, 0.7):
        u, v = half + depth * k, 0.34 + rise * k
        c.fill(_box(u - 0.05, v - 0.08, u + 0.05, v + 0.08), lit(_rgb(0.93, 0.92, 0.88), flank), c.part + 1)
        c.fill(_box(u - 0.038, v - 0.068, u + 0.038, v + 0.068), panes)


def _rock(c: _Canvas, r: np.random.Generator, light: _Light) -> None:
    width = r.uniform(0.6, 0.95)
    angles = np.linspace(0, 2 * np.pi, 13, endpoint=False) + r.uniform(-0.12, 0.12, 13)
    radii = 1 + r.normal(0, 0.075, 13)
    outline = np.stack([width * radii * np.cos(angles), 0.46 + 0.52 * radii * np.sin(angles)], 1)
    outline[:, 1] = np.clip(outline[:, 1], 0, 1.05)
    x, y = c.u / (width * 1.1), (c.v - 0.35) / 0.72
    z = np.sqrt(np.clip(1 - x**2 - y**2, 0.02, 1))
    relief = c.texture("stone", 0.33, r.random()) + 0.5 * c.texture("stone", 0.9, r.random())
    colour = _drawn(r, (18, 50), (0.04, 0.18), (0.48, 0.66))
    if light.disguise is not None:
        colour = light.disguise * r.uniform(0.9, 1.1)
    moss = np.clip(c.texture("patch", 0.4, r.random()) - 0.6, 0, 1)[..., None] * 0.5
    colour = colour * (1 - moss) + _hsv(82, 0.5, 0.42) * moss
    tone = np.clip(light.lambert(x, y, z) + 0.16 * relief, 0.02, 1.1)
    lit = light.mood.lit(colour * (1 + 0.06 * relief[..., None]), tone)
    c.fill(outline, lit * (0.65 + 0.35 * np.clip(c.v / 0.3, 0, 1))[..., None])


def _balloon(c: _Canvas, r: np.random.Generator, light: _Light) -> None:
    lit, radius, middle = light.mood.lit, 0.36, 0.64
    gores, hue = int(r.integers(4, 8)), r.uniform(0, 360)
    first = _hsv(hue, r.uniform(0.65, 0.9), r.uniform(0.75, 0.95))
    second = _hsv(hue + r.uniform(60, 200), r.uniform(0.15, 0.8), 0.95)
    if light.disguise is not None:
        first, second = light.disguise * 0.92, light.disguise * 1.05
    heights = np.array([1.0, 0.985, 0.94, 0.86, 0.76, 0.64, 0.52, 0.42, 0.33, 0.26, 0.21])
    halves = np.array([0.0, 0.1, 0.2, 0.29, 0.345, 0.36, 0.335, 0.285, 0.215, 0.145, 0.09])
    right = np.stack([halves, heights], 1)
    envelope = np.concatenate([right, right[::-1] * (-1, 1)])
    half = np.interp(c.v, heights[::-1], halves[::-1]).astype(np.float32)
    x = np.clip(c.u / np.maximum(half, 1e-3), -1, 1)
    y = (c.v - middle) / radius
    longitude = np.arcsin(x) / np.pi * 2 * gores + r.uniform(0, 2)
    stripe = (np.floor(longitude) % 2 == 0)[..., None]
    banded = r.random() < 0.35  # around the middle
    c.pattern = banded if light.disguise is None else None
    if banded:
        stripe = stripe ^ (np.abs(c.v - middle) < 0.1)[..., None]
    seam = 1 - 0.16 * (np.abs(longitude - np.round(longitude)) < 0.07)
    facing = light.lambert(x * 0.9, np.broadcast_to(y * 0.75, x.shape), np.sqrt(1 - 0.8 * x**2) * 0.8)
    tone = np.clip(facing + 0.1, 0, 1)
    c.fill(envelope, lit(np.where(stripe, first, second) * seam[..., None], tone))
    c.part = 2.0
    for u in (-0.055, 0.055):
        rope = np.array([[u * 1.5, 0.215], [u * 1.5 + 0.008, 0.215], [u + 0.006, 0.09], [u - 0.006, 0.09]])
        c.fill(rope, _rgb(0.2, 0.17, 0.14))
    wicker = 0.45 + 0.12 * np.sin(c.v * 260) + 0.5 * light.lambert(np.clip(c.u / 0.07, -1, 1), 0.0, 0.5)
    c.fill(_box(-0.062, 0, 0.062, 0.095), lit(_hsv(28, 0.55, 0.55), wicker * 0.8))
    c.fill(_box(-0.068, 0.085, 0.068, 0.1), lit(_hsv(24, 0.5, 0.35), 0.7))


# Outline of a horse without its legs, looking right: from the tail along the back to the head, and back below.
_HORSE = _spline(
    "-0.465 0.64, -0.44 0.69, -0.38 0.725, -0.29 0.735, -0.2 0.715, -0.1 0.69, 0 0.68, 0.08 0.69, 0.14 0.72, "
    "0.19 0.76, 0.235 0.82, 0.28 0.88, 0.325 0.93, 0.36 0.955, 0.372 1, 0.393 0.96, 0.415 0.935, 0.45 0.88, "
    "0.49 0.81, 0.52 0.76, 0.527 0.725, 0.505 0.7, 0.475 0.705, 0.455 0.74, 0.425 0.785, 0.39 0.805, 0.365 0.785, "
    "0.345 0.73, 0.33 0.66, 0.315 0.59, 0.29 0.53, 0.24 0.48, 0.16 0.45, 0.06 0.435, -0.04 0.437, -0.14 0.455, "
    "-0.22 0.485, -0.29 0.47, -0.37 0.47, -0.43 0.52, -0.465 0.58"
)
_MANE = _spline("0.365 0.965, 0.31 0.935, 0.25 0.87, 0.2 0.8, 0.15 0.735, 0.2 0.71, 0.25 0.77, 0.31 0.86")
_TAIL = _spline("-0.44 0.69, -0.49 0.66, -0.53 0.55, -0.535 0.42, -0.515 0.3, -0.485 0.36, -0.475 0.5, -0.45 0.6")


def _leg(hip: tuple[float, float], hind: bool, swing: float) -> np.ndarray:
    """A leg from its hip, swung by `swing` in [-1, 1]: a polygon."""
    widths = np.array([0.075 if hind else 0.055, 0.036 if hind else 0.03, 0.019, 0.019, 0.03])
    along = np.array([0.0, 0.47, 0.8, 0.9, 1.0])
    bend = np.array([0.0, -0.04, 0.0, 0.01, 0.022]) if hind else np.array([0.0, 0.01, 0.0, 0.0, 0.015])
    lift = 0.045 * max(0.0, swing)
    x = hip[0] + bend + 0.15 * swing * along - 0.06 * max(0.0, swing) * (along > 0.6)
    y = hip[1] - along * (hip[1] - lift)
    return np.concatenate([np.stack([x - widths, y], 1), np.stack([x + widths, y], 1)[::-1]])


def _horse(c: _Canvas, r: np.random.Generator, light: _Light) -> None:
    lit = light.mood.lit
    coats = [(18, 0.6, 0.45), (24, 0.62, 0.58), (32, 0.42, 0.78), (35, 0.06, 0.92), (20, 0.3, 0.22), (215, 0.06, 0.6)]
    coat = _hsv(*coats[int(r.integers(len(coats)))])
    hair = coat * (0.42 if r.random() < 0.7 else 1.25)
    if light.disguise is not None:
        coat, hair = light.disguise, light.disguise * 0.7
    phase = r.uniform(0, 2 * np.pi) + 0.35 * light.time
    swings = [np.sin(phase + k * np.pi / 2) for k in (0, 2, 3, 1)]
    hoof = lit(_rgb(0.16, 0.14, 0.13), 0.5)
    legs = [_leg((0.215, 0.53), False, swings[0]), _leg((-0.345, 0.55), True, swings[2])]
    for leg in (_leg((0.245, 0.53), False, swings[1]), _leg((-0.31, 0.55), True, swings[3])):
        c.fill(leg, lit(coat * 0.7, 0.2))
        c.fill(leg[[3, 4, 5, 6]], hoof)
    c.fill(_TAIL, lit(hair, 0.35), 2)
    c.part = 1.0
    mask = np.any([c.mask(part) for part in (_HORSE, *legs)], axis=0)
    # Inflate the silhouette: the distance to its rim is a height, whose slope gives normals.
    distance = cv2.distanceTransform(mask.astype(np.uint8), cv2.DIST_L2, 5) / (0.13 * c.unit)
    height = cv2.GaussianBlur(np.sqrt(np.clip(distance, 0, 1)), (0, 0), max(0.6, 0.022 * c.unit))
    slope = 0.12 * c.unit
    x = -cv2.Sobel(height, cv2.CV_32F, 1, 0, scale=0.125) * slope * c.facing
    y = cv2.Sobel(height, cv2.CV_32F, 0, 1, scale=0.125) * slope
    z = 1 / np.sqrt(1 + x**2 + y**2)
    tone = np.clip(1.15 * light.lambert(x * z, y * z + 0.15, z) - 0.05, 0.02, 1.1)
    picture = np.broadcast_to(coat, (*mask.shape, 3))
    spotted = r.random() < 0.3
    c.pattern = spotted if light.disguise is None else None
    if spotted and light.disguise is None:
        pinto = np.clip((c.texture("patch", 0.55, r.random()) - 0.3) * 6, 0, 1)[..., None]
        picture = picture * (1 - pinto) + _rgb(0.93, 0.91, 0.87) * pinto
    socks = np.clip((0.2 - c.v) * 12, 0, 1)[..., None] * float(r.choice([-0.45, 0.0, 0.6]))
    picture = np.clip(picture * (1 + socks + 0.05 * c.texture("patch", 1.2, r.random())[..., None]), 0, 1)
    c.paint(mask, lit(picture, tone))
    for leg in legs:
        c.fill(leg[[3, 4, 5, 6]], hoof)
    c.fill(_MANE, lit(hair, 0.5), 3)
    c.fill(_disc(0.425, 0.885, 0.009), _rgb(0.05, 0.04, 0.04), 1)


# Outline above the sills, and windows, in heights: the front is to the right, the wheels stand at -0.8 and 0.84.
_CARS = {
    "saloon": "-1.36 0.24, -1.38 0.52, -1.3 0.66, -0.95 0.7, -0.56 0.97, -0.2 1, 0.2 0.97, 0.62 0.68, 1.1 0.6, 1.32 0.5, "
    "1.38 0.3, 1.36 0.2; -0.83 0.7, -0.5 0.92, -0.12 0.94, -0.12 0.69; -0.05 0.69, -0.05 0.94, 0.16 0.92, 0.5 0.68",
    "hatchback": "-1.16 0.24, -1.2 0.55, -1.13 0.75, -0.9 0.97, -0.3 1.02, 0.2 0.98, 0.62 0.7, 1.05 0.6, 1.22 0.46, 1.26 0.28, "
    "1.24 0.2; -1 0.72, -0.84 0.92, -0.26 0.96, -0.26 0.7; -0.19 0.7, -0.19 0.96, 0.15 0.93, 0.5 0.69",
    "van": "-1.3 0.24, -1.34 0.6, -1.3 1, -1.1 1.08, 0.3 1.08, 0.62 1, 0.98 0.68, 1.26 0.58, 1.34 0.42, 1.36 0.26, 1.33 0.2; "
    "-1.15 0.68, -1.15 0.97, -0.5 0.97, -0.5 0.68; -0.4 0.68, -0.4 0.97, 0.15 0.97, 0.15 0.68; "
    "0.23 0.68, 0.23 0.97, 0.52 0.96, 0.82 0.68",
}


def _car(c: _Canvas, r: np.random.Generator, light: _Light) -> None:
    lit = light.mood.lit
    outline, *windows = _CARS[str(r.choice(list(_CARS)))].split(";")
    paint = _drawn(r, float(r.choice([0, 6, 28, 46, 150, 205, 222])), (0.55, 0.85), (0.55, 0.9))
    if r.random() < 0.3:
        paint = _hsv(210, 0.05, float(r.choice([0.25, 0.65, 0.93])))
    if light.disguise is not None:
        paint = light.disguise * 0.95
    body = _spline(outline)
    body[:, 1] = np.clip(body[:, 1], 0.2, 1.1)
    shoulder = np.clip(1 - np.abs(c.v - 0.62) / 0.05, 0, 1)  # a crease that mirrors the sky
    tone = np.clip(0.12 + 0.85 * np.clip((c.v - 0.2) / 0.7, 0, 1) - 0.25 * np.clip((0.5 - c.v) / 0.25, 0, 1), 0.05, 1)
    picture = lit(paint, tone * (0.9 + 0.12 * light.side * np.clip(c.u, -1, 1)))
    c.fill(body, picture + 0.22 * shoulder[..., None] * light.mood.horizon)
    gleam = np.clip((c.v - 0.66) / 0.3 + 0.25 * np.sin(5 * (c.u + c.v)), 0, 1)[..., None]
    glass = _rgb(0.1, 0.13, 0.17) + gleam * light.mood.horizon * 0.5
    for window in windows:
        c.fill(_points(window), glass, c.part + 1)
    wheel, c.part = c.part + 1, 1.0
    c.fill(_box(-0.095, 0.25, -0.085, 0.68), lit(paint * 0.5, 0.3))  # the door's gap
    c.fill(_box(-0.28, 0.55, -0.16, 0.575), lit(paint * 0.5, 0.3))
    rear, front = _points(outline)[:, 0].min(), _points(outline)[:, 0].max()
    c.fill(_box(front - 0.16, 0.44, front - 0.03, 0.53), _rgb(1.0, 0.97, 0.85))
    c.fill(_box(rear + 0.02, 0.47, rear + 0.11, 0.58), _rgb(0.75, 0.1, 0.08))
    c.fill(_box(-1.2, 0.19, 1.2, 0.25), _rgb(0.08, 0.08, 0.09))
    for part, u in ((wheel, -0.8), (wheel + 1, 0.84)):
        c.fill(_disc(u, 0.26, 0.29), lit(paint * 0.3, 0.1), 1)
        c.fill(_disc(u, 0.22, 0.22), _rgb(0.07, 0.07, 0.08), part)
        c.fill(_disc(u, 0.22, 0.13), lit(_rgb(0.62, 0.63, 0.66), 0.7))
        for k in range(5):
            turn = k * 2 * np.pi / 5 + light.time * 0.5
            c.fill(_disc(u + 0.075 * np.cos(turn), 0.22 + 0.075 * np.sin(turn), 0.025), _rgb(0.2, 0.2, 0.22))


# How each kind is painted, half the width it may take in units of its height, and half that of the dark patch under it; its
# height in metres, and the range of apparent heights as shares of the picture's height.
_Painter = Callable[[_Canvas, np.random.Generator, _Light], None]
_KINDS: dict[str, tuple[_Painter, float, float, tuple[float, float], tuple[float, float]]] = {
    "tree": (_tree, 0.5, 0.1, (5.0, 8.0), (0.09, 0.75)),
    "house": (_house, 1.15, 0.75, (4.0, 5.5), (0.07, 0.46)),
    "rock": (_rock, 1.3, 0.85, (0.9, 1.7), (0.02, 0.22)),
    "balloon": (_balloon, 0.42, 0.34, (8.0, 11.0), (0.05, 0.42)),
    "horse": (_horse, 0.65, 0.45, (1.7, 2.1), (0.035, 0.38)),
    "car": (_car, 1.5, 1.35, (1.4, 1.7), (0.022, 0.22)),
}


# --------------------------------------------------------------------------------------------------------------- render


@dataclass(frozen=True)
class _Camera:
    """A pinhole at (x, z) looking along z: a point at depth d and offset o appears o / d * focal + centre."""

    x: float
    z: float
    focal: float  # pixels
    centre: tuple[float, float]  # of the view, pixels: the horizon is a row

    def project(self, x: float, z: float, up: float = 0.0) -> tuple[float, float, float]:
        """(column, row, pixels a metre) of a point."""
        scale = self.focal / (z - self.z)
        return self.centre[0] + (x - self.x) * scale, self.centre[1] + (CAMERA_HEIGHT - up) * scale, scale


def _paint_sky(world: World, camera: _Camera, image: np.ndarray, time: float) -> None:
    rows = min(len(image), int(camera.centre[1]) + 4)
    elevation = np.maximum((camera.centre[1] - np.arange(rows, dtype=np.float32)) / camera.focal, 0)[:, None]
    bearing = ((np.arange(image.shape[1], dtype=np.float32) - camera.centre[0]) / camera.focal)[None]
    mood = world.mood
    rise = np.clip(elevation / 0.45, 0, 1)[..., None] ** 0.7
    sky = mood.horizon + (mood.zenith - mood.horizon) * rise
    glow = np.exp(-((bearing - 0.55 * world.light) ** 2) / 0.12 - (elevation - 0.06) ** 2 / 0.03)[..., None]
    sky = sky + glow * 0.35 * mood.sun * (mood.sun[0] - mood.sun[2] + 0.1)
    far = 1 / (elevation + 0.16)  # clouds hang on a plane above
    x = bearing * far * 0.16 + world.offset[0] + 0.0004 * time
    y = np.broadcast_to(far * 0.2 + world.offset[1], x.shape)
    density = _read("cloud", x, y, 0) + 0.22 * _read("patch", x * 3, y * 3, 0)
    toward = _read("cloud", x + 0.012 * world.light, y + 0.015, 0)
    cover = np.clip((density - 1.15 + 1.9 * mood.clouds) * 1.3, 0, 1)
    cover = (cover * cover * (3 - 2 * cover) * np.clip(elevation / 0.12, 0.12, 1) * 0.93)[..., None]
    bright = np.clip(0.62 + 0.9 * (density - toward) - 0.12 * density, 0.0, 1.0)[..., None]
    shade = 0.55 * mood.zenith + 0.45 * mood.horizon * 0.85
    top = np.minimum(0.3 * mood.horizon + 0.62 + 0.12 * mood.sun, 1.0)
    image[:rows] = sky * (1 - cover) + (shade + (top - shade) * bright) * cover


def _paint_hills(world: World, camera: _Camera, image: np.ndarray, labels: np.ndarray) -> None:
    columns = np.arange(image.shape[1], dtype=np.float32)
    wave = _texture("ridge")[0]
    for i, (height, haze, colour) in enumerate(world.hills):
        distance = 900.0 / (1 + i)
        bearing = (columns - camera.centre[0]) / camera.focal + camera.x / distance
        line = int(world.offset[2 + i] * 511)

        def profile(periods: float, row: int = line, bearing: np.ndarray = bearing) -> np.ndarray:
            return np.interp(np.mod(bearing * periods + 0.37, 1) * 512, np.arange(513), wave[row, np.arange(513) % 512])

        last = i == len(world.hills) - 1
        shape = height * (0.6 + 0.3 * profile(0.6) + 0.1 * profile(1.7))
        ridge = camera.centre[1] - camera.focal * np.maximum(shape, 0.006)
        top, bottom = max(0, int(ridge.min())), min(len(image), int(camera.centre[1]) + 4)
        if bottom <= top:
            continue
        rows = np.arange(top, bottom, dtype=np.float32)[:, None]
        mask = rows >= ridge[None]
        x = np.broadcast_to(bearing[None], mask.shape)
        y = np.broadcast_to((rows - camera.centre[1]) / camera.focal, mask.shape)
        relief = _read("leaves", x * (1.3 + 0.5 * i), y * 2.2, 1 if last else 2) * (0.2 if last else 0.1)
        slope = cv2.blur(np.gradient(shape, 1 / camera.focal).astype(np.float32)[None], (15, 1)) * world.light * 0.3
        big = _read("stone", x * 0.7 + 0.2, y * 0.9, 2) * 0.14
        tone = np.clip(0.62 + slope + relief + big, 0.05, 1.1)
        lit = world.mood.lit(colour * (1 + relief[..., None]), tone)
        lower = np.clip((rows - ridge[None]) / (0.1 * camera.focal), 0, 1)[..., None] * 0.2  # mist in the valleys
        veil = np.minimum(haze + lower, 0.9)
        hazed = lit * (1 - veil) + (world.mood.horizon * 0.75 + world.mood.zenith * 0.25) * veil
        image[top:bottom][mask] = hazed[mask]
        labels[top:bottom][mask] = HILLS


def _paint_ground(world: World, camera: _Camera, image: np.ndarray, labels: np.ndarray) -> None:
    start = max(0, int(camera.centre[1]) + 1)
    rows = np.arange(start, len(image), dtype=np.float32) + 0.5
    depth = camera.focal * CAMERA_HEIGHT / np.maximum(rows - camera.centre[1], 0.75)  # (h,)
    columns = np.arange(image.shape[1], dtype=np.float32) - camera.centre[0]
    x = columns[None] * (depth[:, None] / camera.focal) + camera.x
    z = depth[:, None] + camera.z
    footprint = depth / camera.focal * np.sqrt(depth / CAMERA_HEIGHT)  # metres a pixel
    mood, mean_tone = world.mood, 0.78

    def grain(name: str, metres: float) -> np.ndarray:
        shift = world.offset[6:8]
        return _read_plane(name, x / metres + shift[0], shift[1] - z / metres, np.log2(512 / metres * footprint) - 0.6)

    def paved(name: str, colour: np.ndarray, tone: np.ndarray) -> np.ndarray:
        contrasts = {"grass": (4.2, 0.27), "gravel": (3.6, 0.22), "sand": (6.0, 0.09), "brick": (2.6, 0.17)}
        metres, contrast = contrasts[name]
        texture = grain(name, metres) * contrast * fade
        return mood.lit(colour, tone) * (1 + texture[..., None])

    fade = np.clip(4 * camera.focal / 384 / depth**0.5, 0.35, 1)[:, None]
    broad = grain("patch", 42.0)
    blend = np.clip(0.25 + 0.28 * broad, 0, 0.7)[..., None]
    colour = world.ground_colour * (1 - blend) + world.patches * blend
    colour = paved(world.ground, colour, mean_tone + 0.1 * broad)
    label = np.full(x.shape, GROUND, np.int32)
    if world.path:
        x0, slope, sway, phase, half = world.path_line
        middle = x0 + slope * z + sway * np.sin(z / 20 + phase)
        ragged = half * (1 + (0.0 if world.path == "brick" else 0.13) * grain("patch", 3.0))
        off = np.abs(x - middle)
        path = off < ragged
        rim = 1 - 0.3 * np.clip(1 - np.abs(off - ragged) / 0.12, 0, 1)[..., None]
        way = paved(world.path, world.path_colour, mean_tone + 0.05 * broad)
        colour = np.where(path[..., None], way, colour) * rim
        label[path] = PATH
    veil = mood.haze(depth)[:, None, None]
    image[start:] = colour * (1 - veil) + mood.horizon * 0.97 * veil
    labels[start:] = label


def _cast_shadow(world: World, canvas: _Canvas, image: np.ndarray, labels: np.ndarray, veil: float) -> None:
    """Lay the silhouette of a thing on the ground, away from the sun: cool and soft. `veil` in [0, 1] is the haze."""
    lean, fall = -0.9 * world.light, 0.24  # a metre of height reaches so far aside, and towards the viewer
    unit, foot = canvas.unit, canvas.foot
    h, w = image.shape[:2]
    x0, x1 = sorted((canvas.x0, canvas.x1 + lean * unit)) if lean > 0 else (canvas.x0 + lean * unit, canvas.x1)
    x0, x1 = max(0, int(x0)), min(w, int(x1) + 1)
    y0, y1 = max(0, int(foot[1] - 0.1 * unit)), min(h, int(foot[1] + (fall + 0.06) * unit) + 3)
    if x1 <= x0 or y1 <= y0:
        return
    # Target (x, y) -> source: height above the foot a = (y - foot) / fall; source row foot - a, column x - lean * a.
    a, rise = 1 / fall, y0 - foot[1]
    matrix = [[1, -lean * a, x0 - canvas.x0 - lean * a * rise], [0, -a, foot[1] - canvas.y0 - a * rise]]
    flags, shape = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP, (canvas.rgba[..., 3] > 0).astype(np.float32)
    alpha = cv2.warpAffine(shape, np.array(matrix, np.float32), (x1 - x0, y1 - y0), flags=flags)
    alpha = cv2.GaussianBlur(alpha, (0, 0), max(0.7, 0.012 * unit))
    _darken(image[y0:y1, x0:x1], labels[y0:y1, x0:x1], alpha * 0.85 * (1 - veil), world.mood.shade)


def _darken(image: np.ndarray, labels: np.ndarray, alpha: np.ndarray, ratio: np.ndarray) -> None:
    """Take the sun from the ground: multiply by `ratio` (3,) where alpha (h, w) is 1. Things stay as they are."""
    alpha = np.where((labels == GROUND) | (labels == PATH), alpha, 0)[..., None]
    image *= 1 - alpha * (1 - ratio)


def _paint_thing(
    world: World, index: int, camera: _Camera, image: np.ndarray, labels: np.ndarray, parts: np.ndarray, time: float
) -> bool | None:
    """Paint one thing, its shadow first, over what is farther away, and give its pattern."""
    thing = world.things[index]
    z = thing.z
    if z - camera.z < 2.0:  # passed by
        return None
    r = np.random.default_rng(thing.seed)
    x, up = thing.x + thing.speed[0] * time, thing.altitude + thing.speed[1] * time
    column, row, scale = camera.project(x, z, up)
    unit = thing.height * scale
    painter, reach, footprint, *_ = _KINDS[thing.kind]
    canvas = _Canvas(image.shape[:2], (column, row), unit, reach, thing.facing)
    mood, veil = world.mood, float(world.mood.haze(z - camera.z))
    ground_row = camera.project(x, z)[1]
    if not canvas.empty:
        disguise = None
        if thing.camouflage:
            sky = 0.5 * mood.zenith + 0.5 * mood.horizon
            disguise = sky / (mood.ambient + 0.7 * mood.sun) if thing.kind == "balloon" else world.ground_colour
        painter(canvas, r, _Light(world.light * thing.facing, mood, time, disguise))
    # Darkness where it touches the ground, or for a balloon where its shadow falls.
    width = footprint * unit
    thick = max(1.5, (0.3 if thing.kind in ("balloon", "rock") else 0.18) * min(width, unit))
    shift = {"house": 0.3, "balloon": 0.0}.get(thing.kind, 0.0) * unit * thing.facing
    away = -0.9 * world.light * (up * scale) if up else 0.0
    cx, cy = column + shift + away, ground_row + 0.04 * up * scale
    x0, x1 = max(0, int(cx - width * 1.3)), min(image.shape[1], int(cx + width * 1.3) + 2)
    y0, y1 = max(0, int(cy - thick * 1.3)), min(image.shape[0], int(cy + thick * 1.3) + 2)
    if x1 > x0 and y1 > y0:
        dx = (np.arange(x0, x1, dtype=np.float32) - cx)[None] / (1.25 * width)
        dy = (np.arange(y0, y1, dtype=np.float32) - cy)[:, None] / (1.25 * thick)
        alpha = np.clip(1 - dx**2 - dy**2, 0, 1) * (0.75 * (1 - veil))
        _darken(image[y0:y1, x0:x1], labels[y0:y1, x0:x1], alpha, mood.shade if up else mood.shade * 0.85)
    if canvas.empty:
        return None
    if not up:
        _cast_shadow(world, canvas, image, labels, veil)
    mask = canvas.rgba[..., 3] > 0
    area = (slice(canvas.y0, canvas.y1), slice(canvas.x0, canvas.x1))
    image[area][mask] = canvas.rgba[mask, :3] * (1 - veil) + mood.horizon * 0.97 * veil
    labels[area][mask] = FIRST_THING + index
    parts[area][mask] = canvas.rgba[mask, 3]
    return canvas.pattern


def render(world: World, size: int | tuple[int, int] = 192, time: float = 0.0) -> Scene:
    """Photograph a world at `time` (frames) as a picture of `size`: a side, or (height, width), of 16 pixels or more, else
    ValueError."""
    height, width = (size, size) if isinstance(size, int) else size
    if min(height, width) < 16:
        raise ValueError(f"a scene of {height} x {width} pixels is too small to draw: ask for sides of at least 16")
    h, w = height * SUPERSAMPLING, width * SUPERSAMPLING
    right, forward, pan, zoom = (v * time for v in world.camera)
    focal = h * (1 + zoom)
    camera = _Camera(right, forward, focal, (w / 2 - pan * focal, world.horizon * h))
    image, labels = np.zeros((h, w, 3), np.float32), np.full((h, w), SKY, np.int32)
    parts = np.zeros((h, w), np.int32)
    _paint_sky(world, camera, image, time)
    _paint_hills(world, camera, image, labels)
    _paint_ground(world, camera, image, labels)
    stuff = labels[1::SUPERSAMPLING, 1::SUPERSAMPLING].copy()
    patterns = {}
    for i in sorted(range(len(world.things)), key=lambda i: -world.things[i].z):  # far to near
        patterns[FIRST_THING + i] = _paint_thing(world, i, camera, image, labels, parts, time)
    image = cv2.resize(np.clip(image, 0, 1), (width, height), interpolation=cv2.INTER_AREA)
    image = image * (1.16 - 0.16 * image)  # a gentle shoulder
    image = np.rint(np.clip(image, 0, 1) * 255).astype(np.uint8)
    panoptic = labels[1::SUPERSAMPLING, 1::SUPERSAMPLING].copy()
    # The pixels of things too small to count go back to the stuff behind them, which has no parts.
    areas = np.bincount(panoptic.ravel())
    small = np.flatnonzero(areas < SMALLEST_AREA * panoptic.size)
    lost = np.isin(panoptic, small[small >= FIRST_THING])
    panoptic[lost] = stuff[lost]
    shown = np.flatnonzero(np.bincount(panoptic.ravel())).tolist()
    segments = [_segment(world, i, panoptic == i, patterns) for i in shown]
    parts = np.where(panoptic >= FIRST_THING, parts[1::SUPERSAMPLING, 1::SUPERSAMPLING], 0) + PARTS * panoptic
    return Scene(image, panoptic, segments, parts)


def _segment(world: World, i: int, mask: np.ndarray, patterns: dict[int, bool | None]) -> dict[str, Any]:
    name = STUFF[i - 1] if i < FIRST_THING else world.things[i - FIRST_THING].kind
    category = CATEGORIES[(THINGS + STUFF).index(name)]
    about = {"id": i, "category_id": category["id"], "isthing": category["isthing"]}
    marked = {"pattern": patterns[i]} if category["id"] in PATTERNED else {}
    return {**about, "area": int(mask.sum()), "bbox": extent(mask), **marked}


def _aspect(size: int | tuple[int, int]) -> float:
    return 1.0 if isinstance(size, int) else size[1] / size[0]


def scene(seed: int, size: int | tuple[int, int] = 192) -> Scene:
    """The scene of a seed, `size` as in :func:`render`; the same in every process, but another processor may round differently.

    >>> s = scene(0, 64)
    >>> s.image.shape, s.panoptic.min() > 0, len(s.masks()) == len(s.boxes()) == len(s.labels())
    ((64, 64, 3), True, True)
    """
    return render(sample_world(seed, _aspect(size)), size)


def video(seed: int, frames: int, size: int | tuple[int, int] = 192) -> Iterator[Scene]:
    """`frames` pictures of the world of a seed; the camera and things move, segment ids are constant over time."""
    world = sample_world(seed, _aspect(size))
    for time in range(frames):
        yield render(world, size, float(time))


# ----------------------------------------------------------------------------------------------------------------- COCO


def _write_png(path: Path, image: np.ndarray) -> None:
    if not cv2.imwrite(str(path), image[..., ::-1]):
        raise OSError(f"cannot write {path}: is the disk full, or the folder read-only?")


def _fill_folder(folder: Path, seeds: list[int], size: int | tuple[int, int]) -> None:
    for name in ("images", "panoptic", "annotations"):
        (folder / name).mkdir()
    images, instances, panoptic = [], [], []
    quiet = True if len(seeds) <= 50 else None  # None: silent unless at a terminal
    for seed in tqdm(seeds, desc="scenes", disable=quiet):
        s = scene(seed, size)
        name = f"{seed:012d}.png"
        _write_png(folder / "images" / name, s.image)
        colours = np.stack([s.panoptic >> shift & 255 for shift in (0, 8, 16)], -1).astype(np.uint8)  # (H, W, 3)
        _write_png(folder / "panoptic" / name, colours)
        h, w = s.panoptic.shape
        images.append({"id": seed, "file_name": name, "height": h, "width": w})
        keep = ("id", "category_id", "area", "bbox")
        segments = [{k: g[k] for k in keep} | {"iscrowd": 0} for g in s.segments]
        panoptic.append({"image_id": seed, "file_name": name, "segments_info": segments})
        for g in s.things:
            found = {"image_id": seed, "segmentation": run_lengths(s.panoptic == g["id"]), "iscrowd": 0}
            rest = {k: v for k, v in g.items() if k not in ("id", "isthing")}
            instances.append({"id": len(instances) + 1, **found, **rest})
    things = [c for c in CATEGORIES if c["isthing"]]
    for name, entries, categories in (("instances", instances, things), ("panoptic", panoptic, CATEGORIES)):
        content = {"info": {"version": VERSION}, "images": images, "annotations": entries, "categories": categories}
        (folder / "annotations" / f"{name}.json").write_text(json.dumps(content))


def write_coco(folder: Path, seeds: Iterable[int], size: int | tuple[int, int] = 192) -> Path:
    """Write the scenes of `seeds` as a COCO data set, and return its folder; FileExistsError where it holds something else.

    images/{seed:012d}.png, annotations/instances.json, annotations/panoptic.json, panoptic/{seed:012d}.png. The folder appears at
    once when complete; one that holds the same request already is kept, so two processes may call at once.
    """
    folder, seeds = Path(folder), [int(s) for s in seeds]
    shape = [size, size] if isinstance(size, int) else list(size)
    request = {"version": VERSION, "labels": LABELS, "seeds": seeds, "size": shape}
    if not folder.exists():
        with folder_atomically(folder) as draft:
            _fill_folder(draft, seeds, size)
            (draft / "scenes.json").write_text(json.dumps(request))
    record = folder / "scenes.json"
    if not record.is_file() or json.loads(record.read_text()) != request:  # also where another process was quicker
        told = f"{folder} holds something other than these {len(seeds)} scenes: delete it, or name another folder"
        raise FileExistsError(told)
    return folder
