"""Time and size of the report of a study with 1,000 trials, and its speed in a browser.

Expectation: less than 30 s and 15 MB. `tests/support/made_studies.py` writes the study in the real format.
The time is that of the whole command in a new process, imports included. If Chromium is installed, the script
also measures the time until all charts are drawn and the frame time while the page scrolls.

Run: python benchmarks/report.py [--trials 1000] [--epochs 50]
"""

import argparse
import itertools
import json
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "support"))

from made_studies import write_evaluation, write_journal, write_study

SCROLL = """() => new Promise(done => {
  const times = []; let at = 0;
  const step = now => {
    times.push(now); at += 40; scrollTo(0, at);
    if (at < document.documentElement.scrollHeight) requestAnimationFrame(step); else done(times);
  };
  requestAnimationFrame(step);
})"""
DRAWN = (
    "() => [...document.querySelectorAll('[data-chart]')].every(e => e.dataset.drawn in {light: 1, dark: 1})"
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=1000)
    parser.add_argument("--epochs", type=int, default=50)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        study = write_study(
            Path(place) / "study",
            trials=chosen.trials,
            epochs=chosen.epochs,
            states=["stopped"] * (chosen.trials // 2) + ["failed"] * 3,
        )
        write_journal(study)
        classes = [f"class {number}" for number in range(101)]
        write_evaluation(study / "report" / "best-val", classes=classes, videos=1500, masks=True)
        began = time.perf_counter()
        command = "from evclip_ray.cli import main; main()"
        subprocess.run([sys.executable, "-c", command, "report", str(study)], check=True)
        page = study / "report.html"
        found = {"trials": chosen.trials, "seconds": round(time.perf_counter() - began, 1)}
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        found["cpu_seconds"] = round(used.ru_utime + used.ru_stime, 1)
        found["peak_mb"] = round(used.ru_maxrss / 1e3)
        found["megabytes"] = round(page.stat().st_size / 1e6, 2)
        browser = shutil.which("chromium") or shutil.which("google-chrome")
        print(json.dumps(found | (in_browser(page, browser) if browser else {"browser": "none"})))


def in_browser(page: Path, browser: str) -> dict[str, float]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=browser, args=["--no-sandbox"])
        tab = started.new_page(viewport={"width": 1200, "height": 900})
        began = time.perf_counter()
        tab.goto(page.as_uri())
        opened = time.perf_counter() - began
        for chart in tab.query_selector_all("[data-chart]"):
            chart.scroll_into_view_if_needed()
        tab.wait_for_function(DRAWN, timeout=120_000)
        drawn = time.perf_counter() - began
        tab.evaluate("scrollTo(0, 0)")
        times = tab.evaluate(SCROLL)
        started.close()
    gaps = sorted(b - a for a, b in itertools.pairwise(times))
    return {
        "opened_seconds": round(opened, 2),
        "all_drawn_seconds": round(drawn, 2),
        "scroll_frame_ms_median": round(gaps[len(gaps) // 2], 1),
        "scroll_frame_ms_p95": round(gaps[int(len(gaps) * 0.95)], 1),
    }


if __name__ == "__main__":
    main()
