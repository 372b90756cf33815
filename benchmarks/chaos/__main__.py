"""Command line of the chaos test.

Run: make chaos, or in benchmarks/: python -m chaos [--minutes 28] [--seed 0] [--out chaos.json]
"""

import argparse
import shutil
import sys
import tempfile
import time
from pathlib import Path

from evclip_ray.artifacts import write_json

from .faults import kinds
from .rounds import Chaos, Episode, hardware, revision
from .summary import as_json, as_markdown, failures, rows


def main(arguments: list[str] | None = None) -> int:
    """Run the test. Returns its exit status: 0, or 1 if an expectation was violated."""
    options = _parse(arguments)
    began = time.monotonic()
    # A short path: the sockets of Ray lie in the temporary folder, and their paths may have 107 characters.
    work = Path(tempfile.mkdtemp(prefix="chaos.", dir="/tmp"))
    chaos, episodes = Chaos(work, options.seed), list[Episode]()
    with chaos.prepared():
        expected = chaos.undisturbed()
        print(f"undisturbed study: {time.monotonic() - began:.0f} s; logs in {work / 'logs'}", flush=True)
        longest = 0.0
        number = options.first
        # No episode begins that would end too late if it took as long as the longest so far.
        while time.monotonic() - began + longest < options.minutes * 60:
            start = time.monotonic()
            episodes.append(chaos.episode(number, expected))
            longest = max(longest, time.monotonic() - start)
            print(_describe(episodes[-1], time.monotonic() - start), flush=True)
            number += 1
            if number - options.first == options.episodes:
                break
    table = rows(episodes, kinds())
    found = failures(episodes)
    seconds = round(time.monotonic() - began)
    facts = {
        "date": time.strftime("%Y-%m-%d"),
        "revision": revision(Path(__file__).parent),
        "hardware": hardware(),
        "seed": options.seed,
        "seconds": seconds,
        "small_disk": chaos.has_disk,
    }
    write_json(options.out, as_json(episodes, table, **facts))
    print(f"\n{as_markdown(table)}\n")
    print(f"{len(episodes)} runs of the study, {sum(one.calls for one in episodes)} calls, {seconds} s")
    print("\n".join(f"FAILED {line}" for line in found) or "every run ended like the undisturbed study")
    print(f"details: {options.out}")
    # The logs explain failures. Without one they are of no use.
    if not found:
        shutil.rmtree(work)
    return 1 if found else 0


def _describe(episode: Episode, seconds: float) -> str:
    faults = ", ".join(event.fault for event in episode.events) or "no fault"
    problems = [*(line for event in episode.events for line in event.problems), *episode.problems]
    head = f"run {episode.number}: {episode.calls} calls, {seconds:.0f} s, {len(problems)} problems: {faults}"
    return "\n    ".join([head, *dict.fromkeys(problems)])


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="chaos", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--minutes", type=float, default=28, help="no run of the study begins too late for this"
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of the faults")
    parser.add_argument(
        "--first", type=int, default=0, help="number of the first run; repeats one with --episodes"
    )
    parser.add_argument("--episodes", type=int, default=None, help="runs of the study at most")
    parser.add_argument("--out", type=Path, default=Path("chaos.json"), help="file of the results")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
