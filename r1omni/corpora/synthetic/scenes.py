"""What stands behind a face and what lights it: (S, S) pixels in units of 1/64 of a frame."""

from typing import Final

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]

# Twelve backgrounds: two colours and the pattern that mixes them.
_SCENES: Final[tuple[tuple[tuple[int, int, int], tuple[int, int, int], str], ...]] = (
    ((120, 120, 124), (92, 92, 98), "plain"),
    ((250, 205, 70), (255, 235, 150), "dots"),
    ((40, 70, 150), (70, 110, 200), "rain"),
    ((170, 30, 30), (110, 12, 20), "bars"),
    ((240, 130, 30), (250, 190, 90), "check"),
    ((40, 24, 60), (76, 50, 110), "fade"),
    ((80, 130, 40), (130, 175, 70), "bars"),
    ((20, 110, 110), (60, 170, 165), "check"),
    ((225, 120, 170), (245, 175, 205), "rain"),
    ((112, 78, 48), (70, 46, 28), "dots"),
    ((18, 22, 30), (52, 62, 78), "rain"),
    ((190, 222, 240), (240, 248, 252), "fade"),
)


def scene_wall(u: Floats, v: Floats, scene: int, rng: np.random.Generator) -> Floats:
    """The background of `scene`, (3, S, S), with its own brightness and phase each time."""
    first, second, pattern = _SCENES[scene]
    mix = _pattern(pattern, u + rng.uniform(0, 16), v + rng.uniform(0, 16), v)
    low, high = np.array(first, np.float32), np.array(second, np.float32)
    colour = low[:, None, None] + mix * (high - low)[:, None, None]
    return np.asarray(colour * rng.uniform(0.85, 1.1), np.float32)


def _pattern(name: str, a: Floats, b: Floats, v: Floats) -> Floats:
    """How much of the second colour there is at each pixel, (S, S); a and b are shifted u and v."""
    if name == "dots":
        mix = (a % 12 - 6) ** 2 + (b % 12 - 6) ** 2 < 12
    elif name == "rain":
        mix = (a + 0.5 * b) % 8 < 3
    elif name == "bars":
        mix = a % 14 < 7
    elif name == "check":
        mix = (a % 20 < 10) ^ (b % 20 < 10)
    else:
        return np.asarray(v / 64 if name == "fade" else 0 * v, np.float32)
    return mix.astype(np.float32)


def studio_wall(u: Floats, v: Floats, rng: np.random.Generator) -> Floats:
    """Light grey with a soft glow, (3, S, S)."""
    glow = 228 - 0.02 * ((u - 32) ** 2 + (v - 24) ** 2) + rng.uniform(-8, 8)
    return np.asarray(glow + np.zeros((3, 1, 1)), np.float32)


def wild_light(u: Floats, v: Floats, rng: np.random.Generator) -> Floats:
    """Light from a random side with a random tint, (3, S, S)."""
    angle, depth = rng.uniform(0, 2 * np.pi), rng.uniform(0.0, 0.22)
    ramp = 1.0 + depth * (np.cos(angle) * (u - 32) + np.sin(angle) * (v - 32)) / 32
    tint = rng.uniform(0.8, 1.1) * (1.0 + rng.uniform(-0.06, 0.06, (3, 1, 1)))
    return np.asarray(ramp * tint, np.float32)


def studio_light(u: Floats, v: Floats, rng: np.random.Generator) -> Floats:
    """Even white light, (1, S, S)."""
    return np.full((1, *(u + v).shape), rng.uniform(0.94, 1.04), np.float32)
