"""The pictures of the demo data set, by formulas; what they show is told in demo.py.

Shapes are signed distances, negative inside, of shape (20 or 1, 64, 64). Random numbers enter as Python floats: a numpy
float64 scalar would turn every array it meets into float64.
"""

import math

import numpy as np
from numpy.typing import NDArray

from raygap.data.demo.sound import SECONDS

Array = NDArray[np.floating]

FRAME_SIZE = 64
FRAME_RATE = 10
SEEN = 0.15
"""How much lighter or darker than its background, on average, a silhouette is at least."""

_FRAMES = SECONDS * FRAME_RATE
_CLOCK = np.arange(_FRAMES, dtype=np.float32)[:, None, None] / FRAME_RATE
_Y, _X = np.mgrid[:FRAME_SIZE, :FRAME_SIZE].astype(np.float32)[:, None]


def _disc(x: Array, y: Array, cx: float | Array, cy: float | Array, radius: float | Array) -> Array:
    return np.sqrt((x - cx) ** 2 + (y - cy) ** 2) - radius


def _ellipse(x: Array, y: Array, cx: float | Array, cy: float | Array, a: float, b: float) -> Array:
    # Not a true distance, but near the outline it is close enough to anti-alias with.
    return (np.sqrt(((x - cx) / a) ** 2 + ((y - cy) / b) ** 2) - 1) * min(a, b)


def _box(x: Array, y: Array, cx: float | Array, cy: float | Array, a: float | Array, b: float | Array) -> Array:
    return np.maximum(np.abs(x - cx) - a, np.abs(y - cy) - b)


def _union(*shapes: Array) -> Array:
    whole = shapes[0]
    for shape in shapes[1:]:
        whole = np.minimum(whole, shape)
    return whole


def _silhouette(label: str, x: Array, y: Array, rng: np.random.Generator) -> tuple[Array, Array]:
    """Body and markings of a class as signed distances, in units in which the object's half size is about 1."""
    phase, rate = rng.uniform(0, 2 * np.pi), rng.uniform(0.8, 1.6)
    swing = np.sin(2 * np.pi * rate * _CLOCK + phase)
    match label:
        case "bell":
            angle = 0.3 * swing
            x, y = x * np.cos(angle) + (y + 1) * np.sin(angle), (y + 1) * np.cos(angle) - x * np.sin(angle) - 1
            flare = np.maximum(np.abs(x) - (0.5 + 0.18 * (y + 0.2) + 0.35 * np.maximum(y, 0) ** 2), np.abs(y) - 0.7)
            body = _union(flare, _disc(x, y, 0, -0.6, 0.42), _box(x, y, 0, 0.7, 0.95, 0.08))
            return body, _disc(x, y, 0, 0.9, 0.18)
        case "gong" | "drum":
            radius = 0.9 + 0.06 * swing
            ring = np.abs(np.sqrt(x**2 + y**2) - 0.78 * radius) - 0.07
            return _disc(x, y, 0, 0, radius), (_union(ring, _disc(x, y, 0, 0, 0.28)) if label == "gong" else ring)
        case "clock":
            case_ = _box(x, y, 0, 0.1, 0.38, 0.95)
            pendulum = _disc(x, y, 0.22 * swing, 0.55, 0.13)
            return _union(case_, _disc(x, y, 0, -0.6, 0.45)), _union(_disc(x, y, 0, -0.6, 0.3), pendulum)
        case "ambulance" | "truck":
            body = _union(
                _box(x, y, -0.2, -0.1, 0.8, 0.5), _box(x, y, 0.75, 0.12, 0.25, 0.28),
                _disc(x, y, -0.6, 0.5, 0.22), _disc(x, y, 0.6, 0.5, 0.22),
            )  # fmt: skip
            marks = _union(_disc(x, y, -0.6, 0.5, 0.1), _disc(x, y, 0.6, 0.5, 0.1), _box(x, y, 0.8, 0.0, 0.12, 0.1))
            if label == "ambulance":
                body = _union(body, _box(x, y, 0.1, -0.68, 0.16, 0.1))
                marks = _union(marks, _box(x, y, -0.25, -0.12, 0.26, 0.07), _box(x, y, -0.25, -0.12, 0.07, 0.26))
            return body, marks
        case "helicopter":
            blade = 0.25 + 0.75 * np.abs(np.cos(2 * np.pi * 2.3 * rate * _CLOCK + phase))
            body = _union(
                _ellipse(x, y, 0.25, 0.2, 0.55, 0.4), _box(x, y, -0.5, 0.1, 0.5, 0.08),
                _box(x, y, 0.25, -0.35, blade, 0.06), _box(x, y, -0.95, -0.05, 0.07, 0.25),
                _box(x, y, 0.25, 0.72, 0.5, 0.05),
            )  # fmt: skip
            return body, _ellipse(x, y, 0.5, 0.12, 0.2, 0.16)
        case "bird":
            lift = 0.55 * np.sin(2 * np.pi * 1.7 * rate * _CLOCK + phase)
            wing = np.abs(y + lift * np.abs(x) ** 1.3 - 0.1) - 0.16 * (1.05 - np.abs(x))
            wings = np.maximum(wing, np.abs(x) - 1)
            return _union(wings, _ellipse(x, y, 0, 0.15, 0.2, 0.38)), _disc(x, y, 0, -0.1, 0.07)
    raise AssertionError(label)


def _paint(picture: Array, distance: Array, scale: float, colour: Array) -> None:
    """Blend a colour (3,) into (3, 20, 64, 64) where the distance, `scale` pixels a unit, is negative; a soft edge."""
    cover = np.clip(0.5 - distance * scale, 0, 1)
    for channel, value in zip(picture, colour, strict=True):
        channel += cover * (value - channel)


def _background(rng: np.random.Generator) -> Array:
    """(3, 20, 64, 64) in 0..1: a wavy two-colour texture, with a rectangle or an ellipse that drifts."""
    colours = rng.uniform(0, 1, (2, 3)).astype(np.float32)
    colours[1] = 0.4 * colours[0] + 0.6 * colours[1]
    waves = np.zeros((1, FRAME_SIZE, FRAME_SIZE), np.float32)
    for _ in range(3):
        fx, fy = rng.normal(0, 0.12, 2).tolist()
        waves += np.sin(fx * _X + fy * _Y + rng.uniform(0, 6))
    mix = 0.5 + 0.5 * np.tanh(waves)
    low, high = colours[:, :, None, None, None]
    picture = np.repeat(low + mix * (high - low), _FRAMES, axis=1)
    (cx, cy), (vx, vy) = rng.uniform(0, FRAME_SIZE, 2).tolist(), rng.normal(0, 4, 2).tolist()
    a, b = rng.uniform(2, 9, 2).tolist()
    shape = _box if rng.random() < 0.5 else _ellipse
    distance = shape(_X, _Y, cx + vx * _CLOCK, cy + vy * _CLOCK, a, b)
    _paint(picture, distance, 1.0, rng.uniform(0, 1, 3).astype(np.float32))
    return picture


def _add_object(picture: Array, label: str, rng: np.random.Generator) -> None:
    """Paint a class's silhouette into (3, 20, 64, 64), wandering slowly."""
    size = rng.uniform(19, 26)
    cx, cy = rng.uniform(size, FRAME_SIZE - size, 2).tolist()
    vx, vy = rng.normal(0, 2, 2).tolist()
    angle = rng.normal(0, 0.15)
    cos, sin = math.cos(angle), math.sin(angle)
    side = -1 if rng.random() < 0.5 else 1  # seen from the left or the right
    dx = (_X - cx - vx * (_CLOCK - SECONDS / 2)) * (side / size)
    dy = (_Y - cy - vy * (_CLOCK - SECONDS / 2)) / size
    x, y = dx * cos + dy * sin, dy * cos - dx * sin
    body, marks = _silhouette(label, x, y, rng)
    ground, colour = picture.mean(), rng.uniform(0, 1, 3)
    while abs(colour.mean() - ground) < SEEN:
        colour = rng.uniform(0, 1, 3)
    contrast = rng.uniform(0.35, 0.7) * (1 if colour.mean() < 0.5 else -1)
    _paint(picture, body, size, colour.astype(np.float32))
    _paint(picture, marks, size, np.clip(colour + contrast, 0, 1).astype(np.float32))


def render_picture(label: str, spoiled: bool, rng: np.random.Generator) -> NDArray[np.uint8]:
    """(20, 64, 64, 3) RGB: the class's silhouette before clutter, or one of the three kinds of spoiled picture."""
    picture = _background(rng)
    kind = rng.integers(3) if spoiled else -1  # of the spoiled ones, 0 is the background alone
    if not spoiled:
        _add_object(picture, label, rng)
    elif kind == 1:
        fx, fy, speed = rng.uniform(-0.8, 0.8), rng.uniform(-0.8, 0.8), rng.uniform(2, 8)
        stripes = 0.5 + 0.5 * np.sin(fx * _X + fy * _Y + speed * _CLOCK)
        colour = rng.uniform(0, 1, 3).astype(np.float32)
        picture += 0.8 * (stripes * colour[:, None, None, None] - picture)
    noise = rng.standard_normal(picture.shape, dtype=np.float32)
    if kind == 2:
        picture = 0.5 + 0.1 * (picture - 0.5) + 0.3 * noise
    else:
        picture += rng.uniform(0.02, 0.10) * noise
    pixels = (np.clip(picture, 0, 1) * 255).astype(np.uint8)
    return np.ascontiguousarray(np.moveaxis(pixels, 0, -1))
