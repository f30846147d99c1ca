"""A talking head drawn from attribute levels: signed distances on a pixel grid, no image library.

Legend: F frames, S pixels a side, 3 colours. A frame is 64 units wide whatever S is. In the face's
own coordinates x runs to its left ear and y to its chin, in units, (0, 0) between eyes and nose.
A layer's mask is a soft step of a distance in units, so edges are anti-aliased at no cost.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
import numpy.typing as npt

from r1omni.corpora.synthetic.scenes import (
    Floats,
    scene_wall,
    studio_light,
    studio_wall,
    wild_light,
)

Style = Literal["wild", "studio"]

_SKINS: Final = np.array(
    [(246, 214, 190), (232, 190, 158), (210, 162, 124), (178, 128, 92), (134, 90, 62)], np.float32
)
_HAIRS: Final = np.array(
    [(30, 24, 22), (74, 46, 28), (126, 84, 44), (196, 160, 92), (120, 118, 116), (128, 52, 28)],
    np.float32,
)
_IRISES: Final = np.array([(60, 40, 24), (52, 92, 140), (60, 110, 70), (30, 26, 24)], np.float32)
_CLOTHES: Final = np.array(
    [(60, 60, 70), (150, 40, 46), (40, 70, 130), (220, 220, 214), (50, 110, 70)], np.float32
)


@dataclass(frozen=True)
class Identity:
    """Who is seen: everything about a head that does not depend on the emotion."""

    skin: tuple[float, float, float]
    hair: tuple[float, float, float]
    iris: tuple[float, float, float]
    clothes: tuple[float, float, float]
    width: float  # of the head, relative
    height: float
    long_hair: bool
    hairline: float  # units, how far the hair comes down
    eye_gap: float  # units from the middle to a pupil
    brow: float  # thickness of the brows, units
    nose: float  # width of the nose, units


def draw_identity(rng: np.random.Generator) -> Identity:
    """A random person."""
    skin = _between(_SKINS, rng.uniform(0, len(_SKINS) - 1))
    return Identity(
        skin=skin,
        hair=_triple(_HAIRS[rng.integers(len(_HAIRS))] * rng.uniform(0.85, 1.15)),
        iris=_triple(_IRISES[rng.integers(len(_IRISES))]),
        clothes=_triple(_CLOTHES[rng.integers(len(_CLOTHES))]),
        width=float(rng.uniform(0.92, 1.08)),
        height=float(rng.uniform(0.95, 1.05)),
        long_hair=bool(rng.random() < 0.45),
        hairline=float(rng.uniform(-1.5, 1.5)),
        eye_gap=float(rng.uniform(7.6, 8.8)),
        brow=float(rng.uniform(1.0, 1.5)),
        nose=float(rng.uniform(1.6, 2.6)),
    )


def draw_face(
    levels: Mapping[str, int],
    identity: Identity,
    scene: int,
    style: Style,
    rng: np.random.Generator,
    *,
    n_frames: int,
    size: int,
) -> Floats:
    """Frames of a face that shows `levels`, (3, F, S, S) in 0…255, without pixel noise.

    The expression rises to its apex in the first fifth of the clip and holds; the head bobs, the
    eyes may blink once. `wild` has the scene's background, coloured light, a moving and slightly
    rotated camera; `studio` is frontal before light grey whatever the scene, with drawn outlines.
    """
    time = np.linspace(0.0, 1.0, n_frames, dtype=np.float32)
    rise = np.clip(0.6 + 2.0 * time, 0.0, 1.0)
    rise = (rise if style == "wild" else rise**2)[:, None, None]
    pose = {name: levels[name] * rise for name in ("brows", "eyes", "mouth")}
    pose |= {"clench": rise * (levels["jaw"] < 0), "drop": rise * (levels["jaw"] > 0)}
    pose |= {"bow": rise * (levels["head"] < 0)}
    tilt = 0.3 * float(rng.choice((-1.0, 1.0))) * rise * (levels["head"] > 0)
    lid = np.ones_like(rise)
    if rng.random() < 0.5:
        lid[rng.integers(n_frames)] = 0.1
    u, v = _pixels(size)
    x, y = _camera(u, v, time, style, rng)
    if style == "wild":
        back, light = scene_wall(u, v, scene, rng), wild_light(u, v, rng)
    else:
        back, light = studio_wall(u, v, rng), studio_light(u, v, rng)
    canvas = np.empty((3, n_frames, size, size), np.float32)
    canvas[:] = back[:, None]
    ink = 0.9 if style == "studio" else 0.0
    _body(canvas, x, y, identity)
    x, y = _turn(x, y - np.float32(14.0), tilt)  # about the neck
    y = y + np.float32(14.0) - 2.5 * pose["bow"]
    _head(canvas, x, y, identity, pose, ink)
    y = y - 5.5 * pose["bow"]
    _eyes(canvas, x, y, identity, pose, lid)
    _brows(canvas, x, y, identity, pose)
    _mouth(canvas, x, y, identity, pose)
    canvas *= light[:, None]
    if style == "studio":  # a paler, cooler film
        grey = canvas.mean(0)
        canvas *= np.float32(0.72)
        canvas += np.float32(0.28) * grey
        canvas += np.array((-6, 0, 8), np.float32)[:, None, None, None]
    return canvas


def _camera(
    u: Floats, v: Floats, time: Floats, style: Style, rng: np.random.Generator
) -> tuple[Floats, Floats]:
    """Face coordinates (F, S, S) of every pixel: position, scale, sway and roll of the camera."""
    wild = style == "wild"
    jitter = 1.5 if wild else 0.8
    cx, cy = 32 + rng.uniform(-jitter, jitter), 31 + rng.uniform(-jitter, jitter)
    scale = rng.uniform(0.96, 1.06) if wild else rng.uniform(0.98, 1.04)
    roll = rng.uniform(-0.05, 0.05) if wild else 0.0
    angle = 2 * np.pi * (time * rng.uniform(0.5, 1.5) + rng.random())
    shake = rng.normal(0, 0.35 if wild else 0.0, (2, len(time)))
    dx = (cx + 0.6 * np.sin(angle) + shake[0]).astype(np.float32)[:, None, None]
    dy = (cy + 0.8 * np.cos(angle) + shake[1]).astype(np.float32)[:, None, None]
    return _turn((u - dx) / np.float32(scale), (v - dy) / np.float32(scale), np.float32(roll))


def _turn(x: Floats, y: Floats, angle: Floats | np.float32) -> tuple[Floats, Floats]:
    """Coordinates turned clockwise by `angle`, in radians."""
    cos, sin = np.cos(angle), np.sin(angle)
    return x * cos + y * sin, y * cos - x * sin


def _body(canvas: Floats, x: Floats, y: Floats, identity: Identity) -> None:
    if identity.long_hair:
        _paint(canvas, _ellipse(x, y - 5.0, 22.0 * identity.width, 27.0), identity.hair)
    _paint(canvas, np.maximum(np.abs(x) - 7.0, 12.0 - y), _shade(identity.skin, 0.8))
    _paint(canvas, _ellipse(x, y - 44.0, 30.0, 17.0), identity.clothes)


def _head(
    canvas: Floats, x: Floats, y: Floats, identity: Identity, pose: Mapping[str, Floats], ink: float
) -> None:
    """Skull, jaw and hair; `ink` is how dark the outline is drawn."""
    wide, tall = 18.5 * identity.width, 23.5 * identity.height
    jaw = np.float32(tall) + 3.0 * pose["drop"] - 1.5 * pose["clench"] - 1.5 * pose["bow"]
    below = np.maximum(y, 0) / jaw
    squash = 1.0 - (0.16 - 0.24 * pose["clench"]) * below * below
    radius = np.where(y > 0, jaw, np.float32(tall - 1.0))
    head = _ellipse(x / squash, y, wide, 1.0, radius)
    _paint(canvas, _ellipse(x, y + 3.0, wide + 1.6, tall + 1.8), identity.hair)
    if ink:
        _paint(canvas, head - 0.9, _shade(identity.skin, 1.0 - ink))
    _paint(canvas, head, identity.skin)
    line = y + np.float32(14.0 - identity.hairline) - 4.0 * pose["bow"] - 0.012 * x * x
    _paint(canvas, np.maximum(head, line), identity.hair)
    bridge = np.abs(y - 4.0 - 4.5 * pose["bow"]) - 2.4
    nose = np.maximum(np.abs(np.abs(x) - identity.nose) - 0.5, bridge)
    _paint(canvas, nose, _shade(identity.skin, 0.78))


def _eyes(
    canvas: Floats,
    x: Floats,
    y: Floats,
    identity: Identity,
    pose: Mapping[str, Floats],
    lid: Floats,
) -> None:
    """Both eyes at once, by mirror symmetry: lashes, white, iris, pupil."""
    ax = np.abs(x) - np.float32(identity.eye_gap)
    up = y + 3.0
    wide, narrow = np.maximum(pose["eyes"], 0), np.maximum(-pose["eyes"], 0)
    half, reach = (2.4 + 3.0 * wide - 1.6 * narrow) * lid, 4.7 + 0.8 * wide
    gape = np.sqrt(np.maximum(1.0 - (ax / reach) ** 2, 0.0))
    opening = np.maximum(np.abs(up) - half * gape, np.abs(ax) - reach)
    heavy = np.maximum(_ellipse(ax, up + 1.6, 6.2, 3.4), 0.5 - narrow)
    _paint(canvas, heavy, _shade(identity.skin, 0.62))
    _paint(canvas, opening - 0.8, (38.0, 26.0, 24.0))
    _paint(canvas, opening, (246.0, 246.0, 242.0))
    iris = np.sqrt(ax * ax + up * up)
    _paint(canvas, np.maximum(iris - 2.2, opening), identity.iris)
    _paint(canvas, np.maximum(iris - 1.1, opening), (12.0, 10.0, 10.0))


def _brows(
    canvas: Floats, x: Floats, y: Floats, identity: Identity, pose: Mapping[str, Floats]
) -> None:
    """Lowered brows slope down to the nose, raised ones arch high."""
    ax = np.abs(x) - np.float32(identity.eye_gap)
    up, down = np.maximum(pose["brows"], 0), np.maximum(-pose["brows"], 0)
    height = -9.4 - 4.8 * up + 2.4 * down
    slope = -0.5 * down * ax
    arch = 0.07 * up * ax * ax
    brow = np.maximum(
        np.abs(y - height - slope - arch) - np.float32(identity.brow) - 0.25 * down,
        np.abs(ax) - 5.2,
    )
    _paint(canvas, brow, _shade(identity.hair, 0.45))
    furrow = np.maximum(np.abs(np.abs(x) - 1.6) - 0.5, np.abs(y + 8.0) - 3.0)
    _paint(canvas, np.maximum(furrow, 0.5 - down), _shade(identity.skin, 0.5))


def _mouth(
    canvas: Floats, x: Floats, y: Floats, identity: Identity, pose: Mapping[str, Floats]
) -> None:
    """Corners up or down by the mouth's level; shown teeth when clenched, a dark hole when open."""
    ax: Floats = np.abs(x)
    cheek = np.maximum(_ellipse(ax - 11.0, y - 6.5, 4.8, 3.7), 0.5 - pose["mouth"])
    _paint(canvas, cheek, _shade(identity.skin, 0.9, (30.0, -40.0, -30.0)))
    fold = np.maximum(np.abs(ax - 10.5 - 0.25 * (y - 10.0)) - 1.1, np.abs(y - 10.0) - 5.5)
    _paint(canvas, np.maximum(fold, 0.5 + pose["mouth"]), _shade(identity.skin, 0.5))
    curve = pose["mouth"] * 7.0
    half_width = 9.0 + 1.0 * np.maximum(pose["mouth"], 0) - 1.0 * pose["drop"]
    across = ax / half_width
    middle = 13.0 - 2.2 * pose["bow"] + 1.6 * pose["drop"] + curve * (0.5 - across * across)
    gape = np.sqrt(np.maximum(1.0 - across**4, 0.0))
    off, side = np.abs(y - middle), ax - half_width
    opening = 3.5 * pose["clench"] + 4.0 * pose["drop"]
    lips = np.maximum(off - (1.1 + opening) * gape - 0.1, side)
    _paint(canvas, lips, _shade(identity.skin, 0.55, (40.0, -12.0, -8.0)))
    inner = np.maximum(off - opening * gape, side + 0.8)
    _paint(canvas, np.maximum(inner, 0.5 - pose["drop"]), (46.0, 8.0, 12.0))
    teeth = np.maximum(inner, 0.5 - pose["clench"])
    _paint(canvas, teeth, (250.0, 250.0, 246.0))
    gaps = np.minimum(np.abs(np.mod(ax, 3.0) - 1.5) - 0.35, off - 0.3)
    _paint(canvas, np.maximum(teeth, gaps), (90.0, 70.0, 70.0))


def _pixels(size: int) -> tuple[Floats, Floats]:
    """Unit coordinates of the pixel centres, each (S, S)."""
    axis = (np.arange(size, dtype=np.float32) + 0.5) * np.float32(64.0 / size)
    u, v = np.meshgrid(axis, axis)
    return u, v


def _ellipse(
    x: Floats, y: Floats, wide: float | Floats, tall: float, radius: Floats | None = None
) -> Floats:
    """About the distance to an ellipse, negative inside; `radius` replaces `tall` per pixel."""
    ry = np.float32(tall) if radius is None else radius
    length = np.sqrt((x / wide) ** 2 + (y / ry) ** 2)
    return np.asarray((length - 1.0) * np.minimum(ry, wide), np.float32)


def _paint(canvas: Floats, distance: Floats, colour: tuple[float, float, float]) -> None:
    """Lay `colour` on the canvas (3, F, S, S) where `distance` (F, S, S) is negative."""
    mask = np.clip(np.float32(0.5) - distance, 0.0, 1.0)
    for plane, value in zip(canvas, colour, strict=True):
        plane += mask * (np.float32(value) - plane)


def _shade(
    colour: tuple[float, float, float],
    factor: float,
    shift: tuple[float, float, float] = (0.0, 0.0, 0.0),
) -> tuple[float, float, float]:
    """`colour` darkened by `factor`, then shifted."""
    r, g, b = (c * factor + s for c, s in zip(colour, shift, strict=True))
    return (r, g, b)


def _between(palette: Floats, position: float) -> tuple[float, float, float]:
    low = int(position)
    high = min(low + 1, len(palette) - 1)
    return _triple(palette[low] + (position - low) * (palette[high] - palette[low]))


def _triple(colour: npt.NDArray[np.floating]) -> tuple[float, float, float]:
    r, g, b = (float(c) for c in colour)
    return (r, g, b)
