"""Backgrounds of the small world: coloured 1/f noise, a ramp, a floor and flat objects."""

import functools
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

_TILE = 128
_EXPONENTS = (0.9, 1.1, 1.3, 1.5, 1.8)
_TILES_PER_EXPONENT = 12


@functools.cache
def _noise_tiles(exponent: float) -> Array:
    """Return periodic tiles (N, S, S) of noise whose amplitude falls as 1 / frequency ** exponent.

    The tiles are drawn once per process, since the transform would take longer than the rest of a scene.
    A scene rolls, turns, crops and recolours two of them.
    """
    random = np.random.default_rng([7, int(100 * exponent)])
    frequency = np.hypot(np.fft.fftfreq(_TILE)[:, None], np.fft.rfftfreq(_TILE)[None]) * _TILE
    frequency[0, 0] = np.inf
    white = random.standard_normal((_TILES_PER_EXPONENT, 2, *frequency.shape))
    tiles = np.fft.irfft2((white[:, 0] + 1j * white[:, 1]) / frequency**exponent, s=(_TILE, _TILE))
    tiles /= tiles.std(axis=(1, 2), keepdims=True)
    return tiles.astype(np.float32)


def _noise(random: np.random.Generator, size: int) -> Array:
    """Return one field (S, S) of noise with standard deviation 1."""
    tiles = _noise_tiles(_EXPONENTS[random.integers(len(_EXPONENTS))])
    tile = tiles[random.integers(len(tiles))]
    row, column = random.integers(_TILE, size=2)
    tile = np.roll(tile, (row, column), axis=(0, 1))
    if random.random() < 0.5:
        tile = tile.T
    flip = random.integers(4)
    tile = tile[:: 1 - 2 * (flip & 1), :: 1 - (flip & 2)]
    crop = int(random.integers(_TILE // 2, _TILE + 1))
    corner = np.ascontiguousarray(tile[:crop, :crop])
    return np.asarray(cv2.resize(corner, (size, size), interpolation=cv2.INTER_LINEAR))


def draw_background(random: np.random.Generator, size: int) -> Array:
    """Draw a background.

    Args:
        random: source of all choices.
        size: side in pixels.

    Returns:
        (S, S, 3) uint8 RGB.
    """
    base = random.uniform(50, 205, 3)
    tint = random.uniform(-1, 1, 3)
    light, hue = random.uniform(10, 30), random.uniform(5, 28)
    ramp_x, ramp_y = random.uniform(-45, 45, 2)
    bright, coloured = _noise(random, size), _noise(random, size)
    line = np.linspace(-0.5, 0.5, size, dtype=np.float32)
    bright = light * bright + ramp_x * line[None] + ramp_y * line[:, None]
    image = np.empty((size, size, 3), np.float32)
    for channel in range(3):
        image[..., channel] = bright + (hue * tint[channel]) * coloured + base[channel]
    if random.random() < 0.75:
        horizon = int(size * random.uniform(0.62, 0.88))
        floor = image[horizon:]
        floor *= random.uniform(0.35, 0.75)
        floor += random.uniform(0, 70, 3).astype(np.float32)
    picture = np.clip(image, 0, 255).astype(np.uint8)
    for _ in range(random.integers(5)):
        _draw_object(picture, random)
    return picture


def _draw_object(picture: Array, random: np.random.Generator) -> None:
    """Draw one flat object: a box, a disc or a triangle."""
    size = len(picture)
    colour = random.uniform(20, 235, 3).tolist()
    x, y = (int(value) for value in random.uniform(0, size * 16, 2))
    width, height = (int(value) for value in random.uniform(0.06, 0.24, 2) * size * 16)
    kind = random.integers(3)
    if kind == 0:
        cv2.circle(picture, (x, y), width // 2, colour, -1, cv2.LINE_AA, 4)
    else:
        corners = [(x, y), (x + width, y), (x + width, y + height), (x, y + height)]
        if kind == 2:
            corners = [(x, y + height), (x + width, y + height), (x + width // 2, y)]
        cv2.fillConvexPoly(picture, np.array(corners, np.int32), colour, cv2.LINE_AA, 4)
