"""Runs of the study with their faults, and the checks after each call."""

import contextlib
import dataclasses
import json
import os
import random
import re
import shutil
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

from .faults import DAMAGES, FULL_DISK, KILLS, Ballast, Kill
from .processes import Command, Ended, adopt_orphans, shared_memory
from .study import TRIALS, ChaosStudy, Result

_T = TypeVar("_T")
_DISK_MB = 64
_ROUNDS = 7
"""Calls with faults before an episode is left in peace."""
_CALLS_IN_PEACE = 3
_LONGEST_CALL_SECONDS = 300.0
"""A call that takes longer hangs, unless the undisturbed study takes more than a quarter of it."""
_LONGEST_UNDISTURBED_SECONDS = 1800.0
_ROOM = (0, 20 * 1024, 100 * 1024, 400 * 1024)
_STACKS = re.compile(
    r"Traceback \(most recent call last\)|^\s*@\s+0x|\*\*\* SIG|^\[.*\] C .*Check failed", re.M
)


@dataclasses.dataclass
class Event:
    """One fault.

    Attributes:
        episode: Number of the run of the study.
        call: Number of the call within its episode that was hit, or that came after the damage.
        fault: Kind of the fault.
        detail: What exactly was hit.
        status: Exit status of that call.
        said: Lines of that call that the undisturbed study does not print.
        next_said: The same of the call after a kill.
        problems: Violated expectations of these calls.
    """

    episode: int
    call: int
    fault: str
    detail: str
    status: int = 0
    said: list[str] = dataclasses.field(default_factory=list)
    next_said: list[str] = dataclasses.field(default_factory=list)
    problems: list[str] = dataclasses.field(default_factory=list)


@dataclasses.dataclass
class Episode:
    """One run of the study from its start until it is complete."""

    number: int
    calls: int = 0
    events: list[Event] = dataclasses.field(default_factory=list)
    problems: list[str] = dataclasses.field(default_factory=list)


class Chaos:
    """The undisturbed study, and episodes with faults that must end like it.

    Args:
        work: Empty folder for everything that is written.
        seed: Seed of the faults. Their moments also depend on the speed of the machine.
    """

    def __init__(self, work: Path, seed: int) -> None:
        self.work, self.seed = work, seed
        self.tmp, self.disk = work / "tmp", work / "disk"
        self._environment = {
            "EVCLIP_RAY_CACHE": str(work / "cache"),
            "TMPDIR": str(self.tmp),
            "RAY_TMPDIR": str(self.tmp),
            "OMP_NUM_THREADS": "1",
            "CUDA_VISIBLE_DEVICES": "",
        }
        self._usual: set[str] = set()
        self._first_trial_seconds = self._trial_seconds = 0.0
        # Time of a call as a share of that of the undisturbed study.
        self._slowness = 1.0
        self._longest_seconds = _LONGEST_CALL_SECONDS
        self.has_disk = False

    @contextlib.contextmanager
    def prepared(self) -> Iterator[None]:
        """Make the folders and mount a small disk, if this user may, during the block."""
        adopt_orphans()
        for folder in (self.tmp, self.disk, self.work / "logs", self.work / "failed"):
            folder.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", f"size={_DISK_MB}m", "tmpfs", str(self.disk)]
        with contextlib.suppress(OSError):
            self.has_disk = subprocess.run(command, capture_output=True).returncode == 0
        try:
            yield
        finally:
            if self.has_disk:
                subprocess.run(["umount", "--lazy", str(self.disk)], check=True)

    def undisturbed(self) -> Result:
        """Run the study without faults, twice: the second call finds it complete.

        Raises:
            RuntimeError: It did not end as it should.
        """
        study = self._study(self.work / "undisturbed")
        command = self._call(study, "undisturbed")
        began = time.monotonic()
        command.wait(
            _LONGEST_UNDISTURBED_SECONDS, until=lambda: any(study.root.glob("trials/*/history.jsonl"))
        )
        self._first_trial_seconds = time.monotonic() - began
        ended = command.finish(_LONGEST_UNDISTURBED_SECONDS)
        self._trial_seconds = (time.monotonic() - began - self._first_trial_seconds) / TRIALS
        self._longest_seconds = max(_LONGEST_CALL_SECONDS, 4 * ended.seconds)
        again = self._call(study, "undisturbed-again").finish(self._longest_seconds)
        for one in (ended, again):
            if one.status or one.left:
                raise RuntimeError(
                    f"the undisturbed study ended with {one.status}, {one.left}:\n{one.output}"
                )
            self._usual |= set(self._lines(study, one))
        return study.result()

    def _study(self, root: Path) -> ChaosStudy:
        return ChaosStudy.create(root, cache=self.work / "cache", space=self.work / "chaos.yaml")

    def _call(self, study: ChaosStudy, name: str) -> Command:
        log = self.work / "logs" / f"{name}.log"
        return Command(study.command(), log=log, environment=self._environment)

    def episode(self, number: int, expected: Result) -> Episode:
        """Run the study once with faults until it is complete, and compare it."""
        draw = random.Random(f"{self.seed} {number}")
        episode = Episode(number)
        study = self._study((self.disk if self.has_disk else self.work) / f"study-{number}")
        before = shared_memory()
        previous: list[Event] = []
        # A second damage may hit the only copy that the first one left. It waits for a call that has repaired
        # the first one.
        is_whole = True
        is_complete = is_damaged = False
        while episode.calls < _ROUNDS:
            damages = is_whole and (is_complete or draw.random() < 0.7)
            events = self._damage(study, episode, draw) if damages else []
            is_damaged |= bool(events)
            ended, hit, kill = self._disturbed_call(study, episode, draw, is_quiet=draw.random() < 0.15)
            events += hit
            self._record(study, episode, ended, events, previous, kill)
            previous = hit
            is_whole = ended.status == 0 or (bool(hit) and "trial-" in ended.output)
            is_complete = ended.status == 0 and _missing(study) == 0
            # A run without damage so far gets one when it is complete: finished trials must survive it too.
            if is_complete and is_damaged:
                break
        # A damaged study may have all results and still need repair.
        if not is_complete:
            self._finish(study, episode, previous)
        self._check(study, episode, expected, before)
        # The small disk holds the studies of four episodes. A failed one is kept for its reader.
        if episode.problems or any(event.problems for event in episode.events):
            shutil.move(study.root, self.work / "failed" / study.root.name)
        else:
            shutil.rmtree(study.root)
        return episode

    def _damage(self, study: ChaosStudy, episode: Episode, draw: random.Random) -> list[Event]:
        damage = _in_turn(DAMAGES, episode.number + 2 * episode.calls, f"{self.seed} damage")
        detail = damage.apply(study, draw)
        if detail is None:
            return []
        event = Event(episode.number, episode.calls, damage.name, detail)
        episode.events.append(event)
        return [event]

    def _disturbed_call(
        self, study: ChaosStudy, episode: Episode, draw: random.Random, *, is_quiet: bool
    ) -> tuple[Ended, list[Event], Kill | None]:
        """Start the command, strike at a random moment, and wait for its end."""
        number = episode.calls
        episode.calls += 1
        kills: Sequence[Kill | None] = [*KILLS, None] if self.has_disk else KILLS
        kill = _in_turn(kills, episode.number + 3 * number, f"{self.seed} kill")
        usual = self._first_trial_seconds + self._trial_seconds * _missing(study)
        delay = draw.uniform(0, usual * self._slowness)
        room = draw.choice(_ROOM)
        command = self._call(study, f"{episode.number}-{number}")
        ballast = Ballast(self.disk)
        detail = None
        try:
            if not is_quiet and command.wait(delay):
                detail = ballast.fill(room) if kill is None else kill.strike(command, draw)
            ended = command.finish(self._longest_seconds)
        finally:
            ballast.remove()
        if detail is None:
            if not is_quiet:
                # The machine has become faster since the undisturbed study: strike earlier from now on.
                self._slowness = min(self._slowness, ended.seconds / usual)
            return ended, [], None
        name = FULL_DISK if kill is None else kill.name
        event = Event(episode.number, number, name, f"{detail}, after {delay:.1f} s")
        episode.events.append(event)
        return ended, [event], kill

    def _record(
        self,
        study: ChaosStudy,
        episode: Episode,
        ended: Ended,
        events: Sequence[Event],
        previous: Sequence[Event],
        kill: Kill | None,
    ) -> None:
        """Note how a call ended with the faults before and during it.

        Args:
            study: The study.
            episode: Episode of the call, to which problems without any fault belong.
            ended: How the call ended.
            events: Damage before the call, and the fault during it.
            previous: Fault during the call before.
            kill: Signal during the call.
        """
        said = self._said(study, ended)
        is_full = any(event.fault == FULL_DISK for event in events)
        allowed = kill.statuses if kill else (0, 1) if is_full else (0,)
        problems = self._problems(ended, allowed)
        if ended.status == 0 and (missing := _missing(study)):
            problems.append(f"exit status 0 with {missing} trials missing")
        for event in events or previous:
            event.problems += problems
        if not events and not previous:
            episode.problems += problems
        for event in events:
            event.status, event.said = ended.status, said
        for event in previous:
            event.next_said = said

    def _problems(self, ended: Ended, allowed: Sequence[int]) -> list[str]:
        problems = [f"left running: {name}" for name in ended.left]
        if ended.status not in allowed:
            problems.append(f"exit status {ended.status}")
        if stack := _STACKS.search(ended.output):
            problems.append(f"a stack on the terminal: {stack.group().strip()}")
        return problems

    def _finish(self, study: ChaosStudy, episode: Episode, previous: Sequence[Event]) -> None:
        """Call the command without faults until the study is complete."""
        for _ in range(_CALLS_IN_PEACE):
            command = self._call(study, f"{episode.number}-{episode.calls}")
            episode.calls += 1
            ended = command.finish(self._longest_seconds)
            self._record(study, episode, ended, [], previous, None)
            if not _missing(study):
                return
            previous = []
        episode.problems.append(
            f"{_missing(study)} trials are missing after {_CALLS_IN_PEACE} calls without faults"
        )

    def _check(self, study: ChaosStudy, episode: Episode, expected: Result, before: set[str]) -> None:
        """Compare the complete study, and look for what was left behind."""
        try:
            episode.problems += expected.differences(study.result())
        # The result of a study that did not recover may be unreadable in any way.
        except Exception as error:
            episode.problems.append(f"the study cannot be read: {type(error).__name__}: {error}")
        episode.problems += [f"left in the study: {name}" for name in study.temporary_files()]
        episode.problems += [f"left in shared memory: {name}" for name in sorted(shared_memory() - before)]
        # Ray keeps a folder with the logs of every start, below `ray` in the temporary folder.
        left = (path for path in self.tmp.rglob("*") if "ray" not in path.relative_to(self.tmp).parts[:1])
        files = sorted(str(path.relative_to(self.tmp)) for path in left if not path.is_dir())
        episode.problems += [f"left in the temporary folder: {name}" for name in files[:3]]

    def _said(self, study: ChaosStudy, ended: Ended) -> list[str]:
        lines = dict.fromkeys(self._lines(study, ended))
        return [line for line in lines if line and line not in self._usual][:20]

    def _lines(self, study: ChaosStudy, ended: Ended) -> list[str]:
        output = ended.output.replace(str(study.root), "STUDY").replace(str(self.work), "WORK")
        return [_normal(line) for line in output.splitlines()]


def _in_turn(kinds: Sequence[_T], index: int, seed: str) -> _T:
    """Return a kind at random, so that each one comes once before any comes again.

    It does not depend on earlier draws: a run of the study can be repeated alone.
    """
    order = list(kinds)
    random.Random(f"{seed} {index // len(order)}").shuffle(order)
    return order[index % len(order)]


def _missing(study: ChaosStudy) -> int:
    """Return the number of trials without the result of a complete one."""
    complete = 0
    for folder in study.trial_folders():
        # The file may be damaged or missing.
        with contextlib.suppress(OSError, ValueError):
            result: Any = json.loads((folder / "result.json").read_text())
            complete += isinstance(result, dict) and result.get("state") == "complete"
    return max(0, TRIALS - complete)


def _normal(line: str) -> str:
    """Return a line with all numbers replaced, so that equal messages are equal."""
    line = re.sub(r"0x[0-9a-f]+|\b[0-9a-f]{8,}\b", "N", line)
    return re.sub(r"\s+", " ", re.sub(r"\d+(\.\d+)?", "N", line)).strip()


def revision(folder: Path) -> str:
    """Return the git revision of a checkout."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=7"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True).stdout.strip()


def hardware() -> str:
    """Return the number of CPU cores."""
    return f"{os.cpu_count()} CPU cores"
