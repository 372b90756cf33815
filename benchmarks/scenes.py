"""Measure how many frames per second one core draws of the small world, with masks.

python benchmarks/scenes.py --size 96 --size 128
"""

import argparse
import time

from evclip_ray.world.actions import ACTIONS
from evclip_ray.world.domains import DOMAINS
from evclip_ray.world.scenes import draw_scene, draw_still


def main() -> None:
    """Print one row per size and domain: frames per second of videos of 8 frames, and of stills."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", type=int, action="append", help="side in pixels; default 96 and 128")
    parser.add_argument("--videos", type=int, default=100, help="videos and stills per row")
    options = parser.parse_args()
    actions = list(ACTIONS)
    # The noise tiles are drawn once per process.
    for index in range(60):
        draw_still("jumping", seed=[index])
    print(f"{'size':>4} {'domain':<12} {'video frames/s':>14} {'stills/s':>9}")
    for size in options.size or [96, 128]:
        for domain in (
            name for name, domain in DOMAINS.items() if domain.changes_pictures or name == "plain"
        ):
            rates = []
            for draw, frames in ((draw_scene, 8), (draw_still, 1)):
                # The time of the process does not count what others do on the machine.
                start = time.process_time()
                for index in range(options.videos):
                    draw(actions[index % len(actions)], seed=[index], domain=domain, size=size)
                rates.append(options.videos * frames / (time.process_time() - start))
            print(f"{size:>4} {domain:<12} {rates[0]:>14.0f} {rates[1]:>9.0f}")


if __name__ == "__main__":
    main()
