"""The jointed figure of the small world: look, skeleton and drawing.

A figure faces the camera and consists of tapered capsules. All capsules of all frames become polygons in one
vectorised call, because Python's time per capsule would otherwise be most of the drawing time.
"""

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from evclip_ray.world.actions import Pose

Array = NDArray[Any]
Colour = tuple[float, float, float]

CLOTHES: dict[str, Colour] = {
    "red": (208, 36, 40),
    "orange": (240, 140, 30),
    "yellow": (244, 220, 50),
    "green": (40, 160, 60),
    "blue": (40, 80, 215),
    "purple": (140, 50, 170),
    "black": (28, 28, 32),
    "white": (240, 240, 240),
}
"""Colour name of shirts and trousers -> RGB."""
SKINS: dict[str, Colour] = {
    "light": (245, 205, 175),
    "tan": (215, 165, 120),
    "brown": (150, 98, 62),
    "dark": (92, 58, 40),
}
_HAIR: tuple[Colour, ...] = ((30, 24, 22), (92, 58, 30), (205, 170, 90), (150, 60, 30), (165, 165, 165))

JOINTS = (
    "hips", "neck", "head",
    "left shoulder", "right shoulder", "left elbow", "right elbow", "left hand", "right hand",
    "left hip", "right hip", "left knee", "right knee", "left foot", "right foot",
)  # fmt: skip
"""Names of the joints. "Left" is left in the picture where the figure faces the camera."""

# Fractional bits of the coordinates that OpenCV gets.
_SHIFT = 4
_ARC = np.linspace(-np.pi / 2, np.pi / 2, 8)


@dataclass(frozen=True)
class Look:
    """Body and clothes of a figure. Sizes are shares of its height.

    Args:
        shirt, trousers, skin: names of the colours.
        long_sleeves: True if the shirt covers the lower arms.
        sizes: lengths and widths of the body.
        colours: RGB of shirt, trousers, skin, hair and shoes, near the named colours.
    """

    shirt: str
    trousers: str
    skin: str
    long_sleeves: bool
    sizes: dict[str, float]
    colours: dict[str, Colour]


def draw_look(random: np.random.Generator) -> Look:
    """Draw a body and clothes. Shirt and trousers have different colours."""
    shirt, trousers = (list(CLOTHES)[index] for index in random.choice(len(CLOTHES), 2, replace=False))
    skin = list(SKINS)[random.integers(len(SKINS))]
    leg, head = random.uniform(0.43, 0.49), random.uniform(0.07, 0.088)
    width = random.uniform(0.85, 1.2)
    sizes = {
        "leg": leg,
        "head": head,
        "torso": 0.98 - 0.03 - leg - 2 * head,
        "arm": random.uniform(0.33, 0.39),
        "shoulder": 0.105 * width * random.uniform(0.92, 1.08),
        "hip": 0.055 * width * random.uniform(0.9, 1.1),
        "arm_width": 0.029 * width,
        "leg_width": 0.041 * width,
        "chest_width": 0.098 * width,
        "waist_width": 0.085 * width * random.uniform(0.9, 1.15),
        "posture": random.uniform(-2.5, 2.5),
    }

    def near(colour: Colour, spread: float) -> Colour:
        red, green, blue = np.clip(np.add(colour, random.uniform(-spread, spread, 3)), 0, 255)
        return (float(red), float(green), float(blue))

    colours = {
        "shirt": near(CLOTHES[shirt], 14),
        "trousers": near(CLOTHES[trousers], 14),
        "skin": near(SKINS[skin], 10),
        "hair": near(_HAIR[random.integers(len(_HAIR))], 10),
        "shoes": near((50, 42, 40), 25),
        "eyes": (24.0, 20.0, 20.0),
    }
    return Look(shirt, trousers, skin, bool(random.random() < 0.4), sizes, colours)


def _direction(angle: Array | float) -> Array:
    """Return unit vectors (x to the right, y up) of angles in degrees, 0 down and positive to the right."""
    radians = np.radians(angle)
    return np.stack([np.sin(radians), -np.cos(radians)], axis=-1)


def joint_positions(pose: Pose, look: Look) -> Array:
    """Return the joints (T, J, 2) in shares of the figure's height, from between the feet, with y up."""
    sizes, count = look.sizes, len(pose.limbs)
    turn = np.radians(np.broadcast_to(pose.turn, count))
    width = 0.5 + 0.5 * np.abs(np.cos(turn))
    joints = np.zeros((count, len(JOINTS), 2))
    upper_leg = lower_leg = sizes["leg"] / 2
    hips = np.stack([np.zeros(count), 0.03 + sizes["leg"] * (1 - np.broadcast_to(pose.sink, count))], axis=1)
    up = -_direction(-(np.broadcast_to(pose.lean, count) + sizes["posture"]))
    across = np.stack([up[:, 1], -up[:, 0]], axis=1)
    torso = np.broadcast_to(pose.torso, count)[:, None]
    neck = hips + up * sizes["torso"] * torso
    joints[:, 0], joints[:, 1] = hips, neck
    # A torso that bows to the camera carries the head down in front of the chest.
    joints[:, 2] = neck + up * (sizes["head"] + 0.015) * (2.4 * torso - 1.4)
    joints[:, 2, 0] += 0.02 * np.sin(turn)
    thigh = upper_leg * np.broadcast_to(pose.thigh, count)
    for side, way in enumerate((-1, 1)):
        shoulder = neck + across * (way * sizes["shoulder"] * width[:, None]) - up * 0.02
        arm = _direction(way * pose.limbs[:, side, :]) * sizes["arm"] / 2
        joints[:, 3 + side] = shoulder
        joints[:, 5 + side] = shoulder + arm[:, 0]
        joints[:, 7 + side] = shoulder + arm.sum(axis=1)
        hip = hips.copy()
        hip[:, 0] += way * sizes["hip"] * width
        angles = pose.limbs[:, 2 + side]
        if pose.planted[side]:
            foot = np.stack(
                [way * (sizes["hip"] + sizes["leg"] * np.sin(np.radians(angles[:1, 0]))), [0.03]], 1
            )
            foot = np.repeat(foot, count, axis=0)
            knee, foot = _bend_knee(hip, foot, thigh, lower_leg, way)
        else:
            leg = _direction(way * angles) * lower_leg
            knee, foot = hip + leg[:, 0], hip + leg.sum(axis=1)
        joints[:, 9 + side], joints[:, 11 + side], joints[:, 13 + side] = hip, knee, foot
    roll = np.radians(np.broadcast_to(pose.roll, count))
    cosine, sine = np.cos(roll)[:, None], np.sin(roll)[:, None]
    x, y = joints[..., 0].copy(), joints[..., 1].copy()
    joints[..., 0] = cosine * x + sine * y + np.reshape(np.broadcast_to(pose.shift, count), (-1, 1))
    joints[..., 1] = cosine * y - sine * x + np.reshape(np.broadcast_to(pose.lift, count), (-1, 1))
    joints[..., 1] += 0.1 * np.abs(sine)
    return joints


def _bend_knee(hip: Array, foot: Array, thigh: Array, shin: float, way: int) -> tuple[Array, Array]:
    """Return the knee and the foot of a standing leg. The knee points outwards (law of cosines)."""
    line = foot - hip
    distance = np.linalg.norm(line, axis=1)
    reach = np.clip(distance, np.abs(thigh - shin) + 1e-6, thigh + shin)
    unit = line / distance[:, None]
    along = (thigh**2 - shin**2 + reach**2) / (2 * reach)
    sideways = np.sqrt(np.maximum(thigh**2 - along**2, 0))
    normal = np.stack([-unit[:, 1], unit[:, 0]], axis=1) * way
    return hip + unit * along[:, None] + normal * sideways[:, None], hip + unit * reach[:, None]


@dataclass
class Figure:
    """Polygons of a figure in T frames, from back to front.

    Args:
        fills: (T, P, V, 2) polygons in fixed-point pixels.
        edges: (T, P, V, 2) the same, a little larger.
        colours: RGB of the P polygons.
        limb: (P,) index of the limb that a polygon belongs to, -1 for the rest of the body.
        joints: (T, J, 2) pixels.
    """

    fills: Array
    edges: Array
    colours: list[Colour]
    limb: list[int]
    joints: Array


def build_figure(pose: Pose, look: Look, to_pixels: Array, acting: tuple[int, ...] = ()) -> Figure:
    """Build the polygons of a figure.

    Args:
        pose: poses at T times.
        look: body and clothes.
        to_pixels: (T, 2, 3) similarity transforms from the figure's coordinates (y up) to pixels.
        acting: moving limbs. Moving legs are drawn in front of the other leg.
    """
    sizes, colours = look.sizes, look.colours
    joints = joint_positions(pose, look)
    turn = np.radians(np.broadcast_to(pose.turn, len(joints)))
    roll = np.radians(np.broadcast_to(pose.roll, len(joints)))
    up = np.stack([np.sin(roll), np.cos(roll)], axis=1)
    across = np.stack([np.cos(roll), -np.sin(roll)], axis=1)
    begins: list[Array] = []
    ends: list[Array] = []
    radii: list[tuple[float, float]] = []
    widths: list[Array] = []
    fills: list[Colour] = []
    limbs: list[int] = []

    def add(
        begin: int | Array,
        end: int | Array,
        radius: tuple[float, float],
        colour: str,
        limb: int = -1,
        width: Array | float = 1.0,
    ) -> None:
        begins.append(joints[:, begin] if isinstance(begin, int) else begin)
        ends.append(joints[:, end] if isinstance(end, int) else end)
        radii.append(radius)
        widths.append(np.broadcast_to(width, len(joints)))
        fills.append(colours[colour])
        limbs.append(limb)

    leg_width, arm_width = sizes["leg_width"], sizes["arm_width"]
    for side in sorted((0, 1), key=lambda side: side + 2 in acting):
        # Shoes point outwards, and in the walking direction where the figure turns.
        foot = joints[:, 13 + side]
        toe = (0.03 * (2 * side - 1) * np.abs(np.cos(turn)) + 0.055 * np.sin(turn))[:, None] * across
        add(foot, foot + toe - 0.008 * up, (0.026, 0.023), "shoes", side + 2)
        add(11 + side, 13 + side, (leg_width * 0.86, leg_width * 0.68), "trousers", side + 2)
        add(9 + side, 11 + side, (leg_width * 1.08, leg_width * 0.88), "trousers", side + 2)
    add(9, 10, (leg_width * 1.1, leg_width * 1.1), "trousers")
    spine = joints[:, 1] - joints[:, 0]
    add(1, joints[:, 1] + spine * 0.08, (0.03, 0.03), "skin")
    chest = (sizes["waist_width"], sizes["chest_width"])
    seen_width = 0.62 + 0.38 * np.abs(np.cos(turn))
    add(joints[:, 0] + 0.1 * spine, joints[:, 0] + 0.68 * spine, chest, "shirt", width=seen_width)
    add(joints[:, 3] - 0.02 * up, joints[:, 4] - 0.02 * up, (arm_width * 1.3, arm_width * 1.3), "shirt")
    head, size = joints[:, 2], sizes["head"]
    add(
        head + 0.2 * size * up - across * (0.3 * size * np.sin(turn))[:, None], 2, (size * 0.98, size), "hair"
    )
    # The back of the head shows hair only.
    front = (np.cos(turn) > -0.35).astype(float)
    face = head + across * (size * 0.28 * np.sin(turn))[:, None] - up * 0.1 * size
    add(face, face, (size * 0.86, size * 0.86), "skin", width=front)
    for way in (-1, 1):
        eye = head + across * (size * (0.34 * way * np.abs(np.cos(turn)) + 0.6 * np.sin(turn)))[:, None]
        add(eye - 0.015 * up, eye, (0.008, 0.008), "eyes", width=front)
    for side in (0, 1):
        sleeve = "shirt" if look.long_sleeves else "skin"
        add(5 + side, 7 + side, (arm_width * 0.92, arm_width * 0.76), sleeve, side)
        add(3 + side, 5 + side, (arm_width * 1.2, arm_width * 1.0), "shirt", side)
        add(7 + side, 7 + side, (arm_width * 1.12, arm_width * 1.12), "skin", side)
    scale = np.hypot(to_pixels[:, 0, 0], to_pixels[:, 1, 0])

    def pixels(points: Array) -> Array:
        return np.asarray(points @ to_pixels[:, :, :2].transpose(0, 2, 1) + to_pixels[:, None, :, 2])

    begin, end = pixels(np.stack(begins, axis=1)), pixels(np.stack(ends, axis=1))
    factor = np.stack(widths, axis=1)[..., None]
    # OpenCV draws a dot for a polygon without area, so hidden parts move out of the picture.
    begin, end = (np.where(factor > 0, points, -100.0) for points in (begin, end))
    radius = np.array(radii)[None] * scale[:, None, None] * factor
    edge = np.broadcast_to(np.clip(0.008 * scale, 0.35, 1.5)[:, None, None], factor.shape).copy()
    edge[:, [part for part, colour in enumerate(fills) if colour == colours["eyes"]]] = 0
    return Figure(
        capsule_polygons(begin, end, radius),
        capsule_polygons(begin, end, radius + edge),
        fills,
        limbs,
        pixels(joints).astype(np.float32),
    )


def capsule_polygons(begin: Array, end: Array, radius: Array) -> Array:
    """Return tapered capsules as fixed-point polygons.

    Args:
        begin: (T, P, 2) centres of one end.
        end: (T, P, 2) centres of the other end.
        radius: (T, P, 2) radii of the two ends.
    """
    line = end - begin
    angle = np.arctan2(line[..., 1], line[..., 0])[..., None]
    front, back = angle + _ARC, angle + np.pi + _ARC
    points = np.concatenate(
        [
            end[:, :, None] + radius[..., 1, None, None] * np.stack([np.cos(front), np.sin(front)], axis=-1),
            begin[:, :, None] + radius[..., 0, None, None] * np.stack([np.cos(back), np.sin(back)], axis=-1),
        ],
        axis=2,
    )
    # OpenCV counts from the centre of a pixel.
    return np.round((points - 0.5) * (1 << _SHIFT)).astype(np.int32)


def fill_polygons(image: Array, polygons: Array, colours: list[Any]) -> None:
    """Fill polygons (P, V, 2) from `capsule_polygons` with antialiased edges."""
    for polygon, colour in zip(polygons, colours, strict=True):
        cv2.fillConvexPoly(image, polygon, colour, cv2.LINE_AA, _SHIFT)


def draw_figure(image: Array, figure: Figure, frame: int) -> None:
    """Draw one frame of a figure. A darker edge keeps an arm visible in front of the chest."""
    for fill, edge, colour in zip(figure.fills[frame], figure.edges[frame], figure.colours, strict=True):
        cv2.fillConvexPoly(image, edge, [0.55 * value for value in colour], cv2.LINE_AA, _SHIFT)
        cv2.fillConvexPoly(image, fill, colour, cv2.LINE_AA, _SHIFT)


def draw_masks(actor: Array, limb: Array, figure: Figure, frame: int, acting: tuple[int, ...]) -> None:
    """Draw the masks of the figure and of its moving limbs. Other parts in front of a limb hide it."""
    started = False
    for edge, index in zip(figure.edges[frame], figure.limb, strict=True):
        cv2.fillConvexPoly(actor, edge, 255, cv2.LINE_AA, _SHIFT)
        if index in acting:
            started = True
            cv2.fillConvexPoly(limb, edge, 255, cv2.LINE_AA, _SHIFT)
        elif started:
            cv2.fillConvexPoly(limb, edge, 0, cv2.LINE_AA, _SHIFT)


def erase(masks: Array, polygons: Array) -> None:
    """Remove what polygons (P, V, 2) in front hide from the masks (N, S, S)."""
    for polygon in polygons:
        for mask in masks:
            cv2.fillConvexPoly(mask, polygon, 0, cv2.LINE_AA, _SHIFT)
