"""Scenes of the small world: pictures, true masks and joints of one person who acts.

A scene is a function of its seeds. `look_seed` fixes the figure's look and the background, so a group of
videos shares them. `seed` fixes the motion, the position, and everything that a domain adds. Every choice has
a random generator of its own, so that a domain changes nothing but its own part: at dial 0 it equals `plain`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from evclip_ray.config import ConfigError
from evclip_ray.world.actions import ACTIONS, Action, find_action, pose_over_time, same_in_a_still
from evclip_ray.world.backgrounds import draw_background
from evclip_ray.world.domains import check_dial, find_domain
from evclip_ray.world.figure import (
    SKINS,
    Figure,
    Look,
    build_figure,
    capsule_polygons,
    draw_figure,
    draw_look,
    draw_masks,
    erase,
    fill_polygons,
)

Array = NDArray[Any]

_MIN_SIZE, _MAX_SIZE = 32, 1024
_MAX_FRAMES = 4096
# Streams of random numbers.
_LOOK, _BACKGROUND, _MOTION, _POSITION, _CAMERA, _LIGHT, _PERSON, _DISCS, _HANDS = range(9)


@dataclass(frozen=True)
class Scene:
    """Pictures of an action with their truth.

    Args:
        frames: (T, S, S, 3) uint8 RGB.
        actor_mask: (T, S, S) uint8, 255 where the acting figure is visible.
        limb_mask: (T, S, S) uint8, 255 where the moving limbs are visible. The whole figure where it moves.
        joints: (T, J, 2) float32 pixels, in the order of `figure.JOINTS`.
        action: name of the action.
        look: body and clothes of the acting figure.
    """

    frames: NDArray[np.uint8]
    actor_mask: NDArray[np.uint8]
    limb_mask: NDArray[np.uint8]
    joints: NDArray[np.float32]
    action: str
    look: Look


_ASIDE = (0.17, 0.27)
"""Distance of the two persons of clutter from the middle, as a share of the width."""
_SMALLER = 0.12
"""Share of the height that the actor loses there, so that arms and legs stay inside at the side."""


def draw_scene(
    action: str,
    *,
    seed: Sequence[int],
    look_seed: Sequence[int] | None = None,
    domain: str = "plain",
    dial: float = 1.0,
    num_frames: int = 8,
    size: int = 96,
) -> Scene:
    """Draw the video of an action.

    Args:
        action: name of the action, a key of `ACTIONS`.
        seed: numbers from 0 that fix motion, position and what the domain adds.
        look_seed: numbers from 0 that fix the figure's look and the background. None uses `seed`.
        domain: name of the difficulty, a key of `DOMAINS`.
        dial: strength of the difficulty from 0 (as plain) to 1.
        num_frames: number of frames, spread evenly over the action.
        size: side of a frame in pixels.

    Returns:
        The scene. The same arguments give the same bytes.

    Raises:
        ConfigError: unknown action or domain, or a number out of its range.
    """
    if not 1 <= num_frames <= _MAX_FRAMES:
        raise ConfigError(f"num_frames is {num_frames}; use a number from 1 to {_MAX_FRAMES}")
    time = np.linspace(0, 1, num_frames) if num_frames > 1 else np.array([0.5])
    return _draw(action, time, seed, look_seed, domain, dial, size)


def draw_still(
    action: str,
    *,
    seed: Sequence[int],
    look_seed: Sequence[int] | None = None,
    domain: str = "plain",
    dial: float = 1.0,
    size: int = 96,
) -> Scene:
    """Draw one frame (T = 1) at a time at which the action is visible, with the arguments of `draw_scene`."""
    return _draw(action, None, seed, look_seed, domain, dial, size)


def _draw(
    name: str,
    time: Array | None,
    seed: Sequence[int],
    look_seed: Sequence[int] | None,
    domain: str,
    dial: float,
    size: int,
) -> Scene:
    action = find_action(name)
    find_domain(domain)
    strength = check_dial(dial)
    if not _MIN_SIZE <= size <= _MAX_SIZE:
        raise ConfigError(f"size is {size} pixels; use a number from {_MIN_SIZE} to {_MAX_SIZE}")
    # OpenCV's threads cost more than they save on pictures of this size.
    cv2.setNumThreads(1)
    look_seed = seed if look_seed is None else look_seed
    look = draw_look(_stream(look_seed, _LOOK))
    background = draw_background(_stream(look_seed, _BACKGROUND), size)
    pose = pose_over_time(action, time, _stream(seed, _MOTION))
    count = len(pose.limbs)
    place, x, height = _place(_stream(seed, _POSITION), size, strength if domain == "clutter" else 0.0)
    is_shaken = domain == "egocentric" and strength > 0
    camera = _camera(_stream(seed, _CAMERA), count, strength, size) if is_shaken else None
    figure = build_figure(pose, look, _through(camera, place, count), action.limbs)

    masks = np.zeros((2, count, size, size), np.uint8)
    frames = np.empty((count, size, size, 3), np.uint8)
    others = _people(seed, action, x, height, count, strength, size) if domain == "clutter" else []
    occluders = _discs(seed, time, strength, size) if domain == "clutter" else []
    if is_shaken:
        occluders = [_hands(seed, count, strength, size)]
    for frame in range(count):
        image = frames[frame]
        actor, limb = masks[:, frame]
        if camera is None:
            image[:] = background
        else:
            cv2.warpAffine(
                background, camera[frame], (size, size), dst=image, borderMode=cv2.BORDER_REFLECT_101
            )
        for person, is_in_front in others:
            if not is_in_front:
                draw_figure(image, person, frame)
        draw_figure(image, figure, frame)
        draw_masks(actor, limb, figure, frame, action.limbs)
        for person, is_in_front in others:
            if is_in_front:
                draw_figure(image, person, frame)
                erase(masks[:, frame], person.edges[frame])
        for polygons, colours in occluders:
            fill_polygons(image, polygons[frame], colours)
            erase(masks[:, frame], polygons[frame])
    if not action.limbs:
        masks[1] = masks[0]
    if camera is not None:
        _blur_by_motion(frames, camera, strength)
    if domain == "dark" and strength > 0:
        frames = _darken(frames, _stream(seed, _LIGHT), strength)
    return Scene(frames, masks[0], masks[1], figure.joints, name, look)


def _stream(seed: Sequence[int], purpose: int) -> np.random.Generator:
    """Return the random numbers of one purpose. PCG64 is fixed by its name, not by NumPy's default."""
    # The length separates the seeds (1,) and (1, 0), which SeedSequence would not tell apart.
    return np.random.Generator(np.random.PCG64([purpose, len(seed), *seed]))


def _place(random: np.random.Generator, size: int, aside: float) -> tuple[Array, float, float]:
    """Return the transform from a figure's coordinates to pixels, its position and its height as shares.

    Args:
        random: source of the draws.
        size: side of a frame in pixels.
        aside: from 0 (anywhere that keeps arms and legs inside) to 1 (smaller, at the left or at the right).
            A figure in the middle would be found without looking at it.
    """
    height = random.uniform(0.5, 0.8)
    # Arms and legs stay inside, since a limb beyond the edge would leave nothing to recognise.
    reach = 0.5 - 0.49 * height
    x = 0.5 + random.uniform(-1, 1) * reach
    down = random.uniform(-0.02, 0.12)
    side = 1 if random.random() < 0.5 else -1
    x += aside * (0.5 + side * random.uniform(*_ASIDE) - x)
    height *= 1 - _SMALLER * aside
    y = min(0.97, 0.5 + 0.55 * height + down)
    return _to_pixels(x, y, height, size), x, height


def _to_pixels(x: float, y: float, height: float, size: int) -> Array:
    return np.array([[height * size, 0, x * size], [0, -height * size, y * size]])


def _through(camera: Array | None, place: Array, count: int) -> Array:
    """Return the transforms (T, 2, 3) from a figure's coordinates to the pixels of a camera's frames."""
    if camera is None:
        return np.repeat(place[None], count, axis=0)
    return np.asarray(camera @ np.concatenate([place, [[0, 0, 1]]]))


def _walk(random: np.random.Generator, count: int, cycles: float) -> Array:
    """Return a smooth random path from -1 to 1 as the sum of two waves."""
    time = np.linspace(0, 1, count) if count > 1 else np.zeros(1)
    slow, fast = random.uniform(0.3, 1) * cycles, random.uniform(1, 2) * cycles
    start = random.uniform(0, 2 * np.pi, 2)
    slow_wave, fast_wave = (
        np.sin(2 * np.pi * cycle * time + begin) for cycle, begin in zip((slow, fast), start, strict=True)
    )
    return np.asarray(0.7 * slow_wave + 0.3 * fast_wave)


def _camera(random: np.random.Generator, count: int, dial: float, size: int) -> Array:
    """Return the transforms (T, 2, 3) of a camera that walks, zooms and rolls."""
    zoom = np.exp(dial * (random.uniform(-0.1, 0.65) + 0.35 * _walk(random, count, 1.2)))
    roll = np.radians(dial * (random.uniform(-22, 22) + 18 * _walk(random, count, 1.0)))
    shift = dial * size * (random.uniform(-0.24, 0.24, 2)[:, None] + 0.16 * np.stack(
        [_walk(random, count, 1.4), _walk(random, count, 1.4)]))  # fmt: skip
    cosine, sine = zoom * np.cos(roll), zoom * np.sin(roll)
    centre = size / 2
    camera = np.empty((count, 2, 3))
    camera[:, 0, 0], camera[:, 0, 1], camera[:, 1, 0], camera[:, 1, 1] = cosine, -sine, sine, cosine
    camera[:, 0, 2] = centre + shift[0] - cosine * centre + sine * centre
    camera[:, 1, 2] = centre + shift[1] - sine * centre - cosine * centre
    return camera


def _blur_by_motion(frames: Array, camera: Array, dial: float) -> None:
    """Blur every frame along the way of the picture's centre, in place."""
    size = frames.shape[1]
    centre = camera @ np.array([size / 2, size / 2, 1])
    way = np.gradient(centre, axis=0) if len(centre) > 1 else (centre - size / 2) * 0.5
    for frame, (x, y) in zip(frames, way, strict=True):
        length = min(int(dial * 0.6 * np.hypot(x, y)), size // 10) | 1
        if length > 1:
            kernel = np.zeros((length, length), np.float32)
            half = length // 2
            step = np.array([x, y]) / np.hypot(x, y) * half
            begin, end = (tuple(round(float(half + way * value)) for value in step) for way in (-1, 1))
            cv2.line(kernel, begin, end, 1.0)
            frame[:] = cv2.filter2D(frame, -1, kernel / kernel.sum())


def _hands(seed: Sequence[int], count: int, dial: float, size: int) -> tuple[Array, list[Any]]:
    """Return the wearer's arms, which reach into the picture from below."""
    random = _stream(seed, _HANDS)
    skin = list(SKINS.values())[random.integers(len(SKINS))]
    begin, end = np.empty((count, 2, 2)), np.empty((count, 2, 2))
    for side in (0, 1):
        x = random.uniform(0.0, 0.25) + 0.75 * side
        begin[:, side] = (x, 1.15)
        reach = dial * (random.uniform(0.05, 0.5) + 0.12 * _walk(random, count, 1.5))
        inwards = (0.5 - x) * random.uniform(0.2, 0.7) + 0.08 * dial * _walk(random, count, 1.5)
        end[:, side] = np.stack([x + inwards, 1.1 - reach], axis=1)
    radius = np.full((count, 2, 2), random.uniform(0.045, 0.065)) * size
    return capsule_polygons(begin * size, end * size, radius), [skin, skin]


def _people(
    seed: Sequence[int], action: Action, x: float, height: float, count: int, dial: float, size: int
) -> list[tuple[Figure, bool]]:
    """Return the second person, if the dial lets one in, and whether that person is in front of the actor."""
    random = _stream(seed, _PERSON)
    if random.random() >= dial:
        return []
    # Poses of arms and legs: those of the whole body are too different to be mistaken for most actions.
    others = [
        name for name, other in ACTIONS.items() if other.part and name not in same_in_a_still(action.name)
    ]
    pose = pose_over_time(ACTIONS[others[random.integers(len(others))]], None, random)
    pose.limbs = pose.limbs + np.zeros((count, 1, 1))
    pose.lean = pose.lean + 1.0 * _walk(random, count, 0.6)
    tall = float(np.clip(height * random.uniform(1.0, 1.3), 0.5, 0.85))
    # The person stands on the other side, so that the place does not reveal who acts.
    side = 1 if x < 0.5 else -1
    place = _to_pixels(
        0.5 + side * random.uniform(*_ASIDE),
        min(0.98, 0.5 + 0.55 * tall + random.uniform(-0.02, 0.12)), tall, size,
    )  # fmt: skip
    person = build_figure(pose, draw_look(random), _through(None, place, count))
    return [(person, bool(random.random() < 0.45))]


def _discs(seed: Sequence[int], time: Array | None, dial: float, size: int) -> list[tuple[Array, list[Any]]]:
    """Return moving discs in front of everything as polygons (T, N, V, 2) and their colours."""
    random = _stream(seed, _DISCS)
    number = int(np.round(dial * random.integers(4, 8)))
    if not number:
        return []
    count = 1 if time is None else len(time)
    moment = random.uniform(size=1) if time is None else time
    begin, end = random.uniform(0, 1, (2, number, 2))
    centre = begin + moment[:, None, None] * (end - begin)
    radius = np.broadcast_to(random.uniform(0.03, 0.085, number)[None, :, None] * size, (count, number, 2))
    return [
        (
            capsule_polygons(centre * size, centre * size, radius),
            random.uniform(20, 240, (number, 3)).tolist(),
        )
    ]


def _darken(frames: Array, random: np.random.Generator, dial: float) -> Array:
    """Return frames in little light.

    electrons = full * gain * cast * (frame / 255) ** gamma, plus shot noise (its root) and read noise.
    """
    gamma = 1 + dial * random.uniform(0.3, 0.7)
    gain = np.exp(dial * np.log(random.uniform(0.12, 0.26)))
    cast = 1 - dial * random.uniform(0, 0.5, 3).astype(np.float32)
    table = np.linspace(0, 1, 256, dtype=np.float32)[:, None] ** gamma * (gain * cast * 255)
    # Each channel looks up its light and its noise by the value of the pixel.
    light = np.empty(frames.shape, np.float32)
    noise = random.standard_normal(frames.shape, np.float32)
    deviation = np.sqrt((dial * 2.2) ** 2 + dial * 0.9 * table).astype(np.float32)
    for channel in range(3):
        light[..., channel] = np.take(table[:, channel].astype(np.float32), frames[..., channel])
        noise[..., channel] *= np.take(deviation[:, channel], frames[..., channel])
    return np.asarray(np.clip(light + noise + 0.5, 0, 255).astype(np.uint8))
