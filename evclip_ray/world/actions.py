"""Actions of the small world: names, parts of the body, and the poses over time.

An action is a motion of a part of the body ("raising the left arm") or of the whole body ("jumping").
"Left" is the left side of the picture, so pictures must never be flipped. Every motion is a function of the
time from 0 to 1. Its amplitude, speed, phase and start are drawn for each video.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evclip_ray.config import ConfigError, nearest

Array = NDArray[Any]

LIMBS = ("left arm", "right arm", "left leg", "right leg")
PARTS: dict[str, tuple[int, ...]] = {
    "left arm": (0,),
    "right arm": (1,),
    "both arms": (0, 1),
    "left leg": (2,),
    "right leg": (3,),
}
"""Part of the body -> indices into `LIMBS`."""

MOTIONS = ("raising", "lowering", "bending", "waving", "crossing", "shaking", "stretching")


@dataclass(frozen=True)
class Action:
    """Class of the small world.

    Args:
        name: class name, for example "raising the left arm".
        motion: the motion alone, for example "raising".
        part: moving part of the body. None where the whole body moves.
        held_out: True if the pretraining never shows this action.
        reverse_of: action whose frames in reverse order look the same. None if there is none.
    """

    name: str
    motion: str
    part: str | None = None
    held_out: bool = False
    reverse_of: str | None = None

    @property
    def limbs(self) -> tuple[int, ...]:
        """Indices of the moving limbs, empty where the whole body moves."""
        return PARTS[self.part] if self.part else ()


@dataclass
class Pose:
    """Pose of a figure at T times. Lengths are shares of the figure's height, angles are in degrees.

    Args:
        limbs: (T, 4, 2) angles of the upper and lower part of the `LIMBS`. 0 points down, positive angles
            point away from the body.
        planted: (2,) True where the left or right leg stands. Its knee then follows from hip and foot.
        lean: (T,) angle of the upper body, positive to the right.
        sink: (T,) drop of the hips, as a share of the leg's length.
        lift: (T,) height above the floor.
        shift: (T,) distance moved to the right.
        turn: (T,) rotation about the vertical axis. 0 faces the camera, 90 faces to the right.
        torso: (T,) factor of the upper body's visible length.
        thigh: (T,) factor of the thigh's visible length.
        roll: (T,) rotation of the whole figure about its feet, positive to the right.
    """

    limbs: Array
    planted: list[bool] = field(default_factory=lambda: [True, True])
    lean: Array | float = 0.0
    sink: Array | float = 0.0
    lift: Array | float = 0.0
    shift: Array | float = 0.0
    turn: Array | float = 0.0
    torso: Array | float = 1.0
    thigh: Array | float = 1.0
    roll: Array | float = 0.0


def _rest(count: int, random: np.random.Generator) -> Pose:
    """Return a standing pose whose arms hang down."""
    limbs = np.empty((count, 4, 2))
    arms, elbows, legs = random.uniform(5, 14, 2), random.uniform(-8, 8, 2), random.uniform(1, 6, 2)
    limbs[:, :2, 0] = arms
    limbs[:, :2, 1] = arms + elbows
    limbs[:, 2:] = legs[:, None]
    return Pose(limbs)


def _rise(time: Array, start: float, end: float) -> Array:
    """Return a smooth step from 0 at `start` to 1 at `end`."""
    share = np.clip((time - start) / (end - start), 0, 1)
    return np.asarray(share * share * (3 - 2 * share))


def _wave(time: Array, cycles: tuple[float, float], random: np.random.Generator) -> Array:
    return np.asarray(np.sin(2 * np.pi * (random.uniform(*cycles) * time + random.uniform())))


# motion -> (arm, leg), each: angles of the upper and the lower part, their spread, and the swing of both.
_TARGETS: dict[str, tuple[tuple[float, ...], tuple[float, ...]]] = {
    "raising": ((166, 170, 10, 0, 0), (80, 82, 8, 0, 0)),
    "bending": ((54, -58, 9, 5, 9), (66, -38, 8, 5, 8)),
    "waving": ((98, 178, 9, 4, 36), (60, 130, 7, 4, 28)),
    "crossing": ((14, -108, 7, 3, 10), (-28, -33, 4, 3, 4)),
    "shaking": ((15, 88, 6, 6, 22), (14, 66, 5, 6, 18)),
    "stretching": ((88, 84, 8, 4, 14), (43, 43, 4, 3, 3)),
}
_CYCLES = {"bending": (0.8, 1.6), "waving": (1.6, 3.0), "crossing": (0.8, 1.6), "shaking": (3.0, 4.5)}


def _move_limbs(action: Action, time: Array | None, random: np.random.Generator) -> Pose:
    motion = "raising" if action.motion == "lowering" else action.motion
    if motion == "raising":
        start, end = random.uniform(0, 0.25), random.uniform(0.6, 0.9)
    else:
        start = random.uniform(-0.15, 0.12)
        end = start + random.uniform(0.15, 0.3)
    seen = start + (end - start) * random.uniform(0.68, 1.0)
    if time is None:
        # A still shows the action: the limb is far up, or in the middle of its swing.
        time = np.array([seen if motion == "raising" else random.uniform(end, 1.0)])
    pose = _rest(len(time), random)
    progress = _rise(time, start, end)
    cycles = _CYCLES.get(motion, (0.8, 1.6))
    swing = _wave(time, cycles, random)
    for limb in action.limbs:
        upper, lower, spread, upper_swing, lower_swing = _TARGETS[motion][limb >= 2]
        middle, bend = random.uniform(-spread, spread, 2)
        target = np.stack(
            [
                upper + middle + upper_swing * swing,
                lower + middle + 0.7 * bend + lower_swing * random.uniform(0.8, 1.2) * swing,
            ],
            axis=1,
        )
        pose.limbs[:, limb] += progress[:, None] * (target - pose.limbs[:, limb])
        if limb >= 2:
            pose.planted[limb - 2] = False
    if motion == "stretching":
        if action.part in ("left leg", "right leg"):
            # A side lunge: the hips drop until the foot of the straight leg stands on the floor.
            pose.sink = 1 - np.cos(np.radians(pose.limbs[:, action.limbs[0], 0]))
        else:
            side = {"left arm": -1, "right arm": 1, "both arms": 0}[str(action.part)]
            pose.lean = side * random.uniform(5, 11) * progress
    return pose


def _whole(time: Array | None, random: np.random.Generator, start: float, end: float) -> tuple[Array, Array]:
    """Return the times and the progress of a movement of the whole body that is visible from `start` on."""
    if time is None:
        time = np.array([start + (end - start) * random.uniform(0.68, 1.1)])
    return time, _rise(time, start, end)


def _sit(action: Action, time: Array | None, random: np.random.Generator) -> Pose:
    time, progress = _whole(time, random, random.uniform(0, 0.25), random.uniform(0.6, 0.9))
    pose = _rest(len(time), random)
    pose.thigh = 1 - random.uniform(0.6, 0.75) * progress
    # The thighs point to the camera and look short, the shins stay upright.
    pose.sink = (1 - pose.thigh) * 0.52
    pose.limbs[:, :2, 0] += random.uniform(6, 14) * progress[:, None]
    pose.limbs[:, :2, 1] -= random.uniform(30, 45) * progress[:, None]
    return pose


def _lie(action: Action, time: Array | None, random: np.random.Generator) -> Pose:
    time, progress = _whole(time, random, random.uniform(0, 0.25), random.uniform(0.6, 0.9))
    pose = _rest(len(time), random)
    roll = random.choice([-1, 1]) * random.uniform(80, 92)
    pose.roll = roll * progress
    pose.shift = -0.5 * np.sin(np.radians(pose.roll))
    return pose


def _jump(action: Action, time: Array | None, random: np.random.Generator) -> Pose:
    if time is None:
        time = np.array([random.uniform()])
    pose = _rest(len(time), random)
    height = (
        np.abs(_wave(time, (0.8, 1.6), random)) if len(time) > 1 else np.array([random.uniform(0.6, 1.0)])
    )
    pose.lift = random.uniform(0.1, 0.2) * height
    pose.planted = [False, False]
    if action.motion == "star jumping":
        pose.limbs[:, :2] = random.uniform(25, 40) + random.uniform(90, 105) * height[:, None, None]
        pose.limbs[:, 2:] = 4 + random.uniform(26, 36) * height[:, None, None]
    else:
        pose.limbs[:, :2] += random.uniform(20, 32) * height[:, None, None]
        pose.limbs[:, 2:, 0] += random.uniform(32, 42) * height[:, None]
        pose.limbs[:, 2:, 1] -= random.uniform(22, 32) * height[:, None]
    return pose


def _squat(action: Action, time: Array | None, random: np.random.Generator) -> Pose:
    if time is None:
        depth = np.array([random.uniform(0.7, 1.0)])
    else:
        depth = 0.5 - 0.5 * np.cos(2 * np.pi * (random.uniform(1.0, 1.8) * time + random.uniform(0, 0.3)))
    pose = _rest(len(depth), random)
    pose.sink = random.uniform(0.42, 0.55) * depth
    return pose


def _bow(action: Action, time: Array | None, random: np.random.Generator) -> Pose:
    start = random.uniform(-0.1, 0.15)
    time, progress = _whole(time, random, start, start + random.uniform(0.25, 0.4))
    pose = _rest(len(time), random)
    pose.torso = 1 - random.uniform(0.42, 0.55) * progress
    return pose


def _walk(action: Action, time: Array | None, random: np.random.Generator) -> Pose:
    way = 1 if action.motion == "walking to the right" else -1
    still = time is None
    times = np.array([random.uniform()]) if time is None else time
    pose = _rest(len(times), random)
    angle = 2 * np.pi * (random.uniform(1.2, 2.2) * times + random.uniform())
    if still and np.abs(np.sin(angle[0])) < 0.5:
        angle += np.pi / 2
    stride, knee, arm = random.uniform(24, 34), random.uniform(8, 22), random.uniform(18, 32)
    step = np.stack([np.sin(angle), -np.sin(angle)], axis=1)
    outward = np.array([-1, 1])
    # The rear leg bends its knee, and each arm swings against the leg of its side.
    pose.limbs[:, 2:, 0] = outward * way * stride * step
    pose.limbs[:, 2:, 1] = outward * way * (stride * step - knee * (1 - step) / 2)
    pose.limbs[:, :2, 0] = -outward * way * arm * step
    pose.limbs[:, :2, 1] = outward * way * (-arm * step + 14)
    pose.planted = [False, False]
    pose.turn = np.full(len(times), way * random.uniform(55, 80))
    pose.lean = np.full(len(times), way * random.uniform(4, 10))
    pose.shift = way * random.uniform(0.25, 0.55) * (times - 0.5)
    return pose


def _turn(action: Action, time: Array | None, random: np.random.Generator) -> Pose:
    way = random.choice([-1, 1])
    if time is None:
        pose = _rest(1, random)
        pose.turn = np.array([180 + random.uniform(-60, 60)])
        return pose
    pose = _rest(len(time), random)
    pose.turn = way * 360 * _rise(time, random.uniform(-0.1, 0.1), random.uniform(0.85, 1.1)) % 360
    return pose


def _lean(action: Action, time: Array | None, random: np.random.Generator) -> Pose:
    way = 1 if action.motion == "leaning to the right" else -1
    start = random.uniform(-0.1, 0.15)
    time, progress = _whole(time, random, start, start + random.uniform(0.25, 0.4))
    pose = _rest(len(time), random)
    pose.lean = way * random.uniform(28, 42) * progress
    return pose


_WHOLE_BODY: dict[str, Callable[[Action, Array | None, np.random.Generator], Pose]] = {
    "jumping": _jump,
    "star jumping": _jump,
    "squatting": _squat,
    "bowing": _bow,
    "walking to the left": _walk,
    "walking to the right": _walk,
    "turning around": _turn,
    "leaning to the left": _lean,
    "leaning to the right": _lean,
    "sitting down": _sit,
    "standing up": _sit,
    "lying down": _lie,
    "getting up": _lie,
}
_REVERSED = {
    **{f"lowering the {part}".replace("the both", "both"): f"raising the {part}".replace("the both", "both")
       for part in PARTS},
    "standing up": "sitting down",
    "getting up": "lying down",
}  # fmt: skip
"""Action -> action that it shows in reverse order."""

# The mirror image of each combination is seen, or both of its sides. With both one-armed stretches held out,
# the towers took "stretching the left arm" for "waving the left arm".
_HELD_OUT = (
    "bending both arms",
    "bending the left leg",
    "crossing both arms",
    "crossing the right leg",
    "shaking the right arm",
    "stretching the right arm",
    "waving the left arm",
    "waving the right leg",
)


def _all_actions() -> dict[str, Action]:
    pairs = {**_REVERSED, **{forward: backward for backward, forward in _REVERSED.items()}}
    actions = []
    for motion in MOTIONS:
        for part in PARTS:
            name = f"{motion} {part}" if part == "both arms" else f"{motion} the {part}"
            actions.append(Action(name, motion, part, name in _HELD_OUT, pairs.get(name)))
    actions += [Action(name, name, reverse_of=pairs.get(name)) for name in _WHOLE_BODY]
    return {action.name: action for action in actions}


ACTIONS: dict[str, Action] = _all_actions()
HELD_OUT: tuple[str, ...] = tuple(name for name, action in ACTIONS.items() if action.held_out)
"""Motion x part combinations that the pretraining never shows. A still tells them apart."""


def find_action(name: str) -> Action:
    """Return the action with this name.

    Raises:
        ConfigError: unknown name. The message names the nearest action.
    """
    if name not in ACTIONS:
        raise ConfigError(f"action {name!r} is unknown; {nearest(name, list(ACTIONS))}")
    return ACTIONS[name]


def same_in_a_still(action: str) -> tuple[str, ...]:
    """Return the actions that one frame cannot tell from this one, this one first."""
    reverse = find_action(action).reverse_of
    return (action, reverse) if reverse else (action,)


def pose_over_time(action: Action, time: Array | None, random: np.random.Generator) -> Pose:
    """Return the poses of an action.

    Args:
        action: the action.
        time: (T,) times from 0 to 1. None draws one time at which the action is visible.
        random: source of amplitude, speed, phase and start.
    """
    if time is not None and action.name in _REVERSED:
        time = 1 - time
    if action.part:
        return _move_limbs(action, time, random)
    return _WHOLE_BODY[action.motion](action, time, random)
