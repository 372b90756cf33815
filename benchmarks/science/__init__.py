"""Claims about the method, measured on the small world: `make science` or `python -m science` in benchmarks/.

- `settings`: data sets of the small world, and the settings of all runs.
- `experiments`: one experiment, its key and its expected time; the experiments of each claim.
- `execute`: one experiment through the product's own training and evaluation; returns a record.
- `schedule`: many experiments in several processes, resumable.
- `results`: the records as accuracies and paired differences with intervals.
- `verdicts`: whether each claim holds, from the records alone.
- `table`: the page `docs/science/table.md` and its figures.
"""
