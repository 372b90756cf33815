"""Command line of the claims: runs what is missing and writes the page with its records.

Run: make science, or in benchmarks/: python -m science [--claims a,b] [--dry-run]
"""

import argparse
import os
import sys
from pathlib import Path

# Before torch and OpenCV are loaded: one thread for each of many processes.
os.environ.setdefault("OMP_NUM_THREADS", "1")

from .experiments import CLAIMS, SEEDS, all_experiments, preparation_seconds
from .results import Results
from .schedule import Plan, publish_records, read_records, run_all
from .table import write_page

HERE = Path(__file__).resolve().parents[2]


def main(arguments: list[str] | None = None) -> int:
    """Run the command. Returns its exit status: 0, or 1 if an experiment failed."""
    options = parse(arguments)
    records = read_records(options.out)
    plan = Plan.of(all_experiments(options.claims, options.seeds), records)
    print(describe(plan, options.jobs), flush=True)
    if options.dry_run:
        return 0
    status = 0
    if plan.missing and not options.table_only:
        outcome = run_all(
            plan,
            out=options.out,
            cache=options.cache or options.out / "cache",
            jobs=options.jobs,
            device=options.device,
            budget_minutes=options.budget_minutes,
        )
        for name, problem in outcome.errors.items():
            print(f"FAILED {name}: {problem}", file=sys.stderr)
        print(f"{outcome.done} experiments done, {outcome.left} left, {len(outcome.errors)} failed")
        status = 1 if outcome.errors else 0
    # The results file also has records of earlier weights and settings. The page leaves them out.
    named = {experiment.key for experiment in all_experiments(CLAIMS, options.seeds)}
    records = {key: record for key, record in read_records(options.out).items() if key in named}
    rows = write_page(Results(records, options.seeds), options.docs)
    publish_records(options.docs, records.values())
    for row in rows:
        if row.claim not in options.claims:
            continue
        print(
            f"({row.claim}) {row.state:12} {row.text}: {row.measured} {row.expected and f'[{row.expected}]'}"
        )
    print(f"page: {options.docs / 'table.md'}")
    return status


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """Return the options of the command line."""
    parser = argparse.ArgumentParser(
        prog="science", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=HERE / "runs" / "science", help="folder of the results")
    parser.add_argument("--cache", type=Path, default=None, help="folder of videos; by default in --out")
    parser.add_argument("--docs", type=Path, default=HERE / "docs" / "science", help="folder of the page")
    parser.add_argument("--claims", default=",".join(CLAIMS), help="letters of claims, such as a,b,c")
    parser.add_argument("--seeds", default=",".join(map(str, SEEDS)), help="seeds of the trainings")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes at once")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--budget-minutes", type=float, default=None, help="stop cleanly after this time")
    parser.add_argument("--dry-run", action="store_true", help="list what would run, with the expected time")
    parser.add_argument("--table-only", action="store_true", help="write the page from the records there are")
    options = parser.parse_args(arguments)
    options.claims = [claim.strip() for claim in options.claims.split(",")]
    unknown = sorted(set(options.claims) - set(CLAIMS))
    if unknown:
        parser.error(f"--claims: unknown {', '.join(unknown)}; there are {', '.join(CLAIMS)}")
    options.seeds = tuple(int(seed) for seed in options.seeds.split(","))
    options.out, options.docs = options.out.resolve(), options.docs.resolve()
    if options.device == "auto":
        import torch

        options.device = "cuda" if torch.cuda.is_available() else "cpu"
    return options


def describe(plan: Plan, jobs: int) -> str:
    """Return the data sets and experiments of a plan, one per line, with their expected times."""
    lines = [f"{preparation_seconds(world):6.0f} s  videos of {world.name}" for world in plan.worlds]
    lines += [f"{each.seconds:6.0f} s  {each.name}" for each in plan.missing]
    hours = plan.seconds / 3600
    total = (
        f"{len(plan.missing)} experiments: {hours:.1f} core hours, {hours / jobs:.1f} h in {jobs} processes"
    )
    return "\n".join([*lines, total])


if __name__ == "__main__":
    sys.exit(main())
