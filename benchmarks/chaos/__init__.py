"""Chaos test of studies: `make chaos`, or `python -m chaos` in benchmarks/.

A small study on the debug towers runs undisturbed once. It is then run again and again. Each run is killed
and its files are damaged at random moments until the same command has completed it. The result must be that
of the undisturbed study: the same points, each finished once, and equal numbers to the last bit. No process
and no temporary file may be left.

- `processes`: one command, the processes that it started, and what it left behind.
- `study`: the study, its command, and its result for the comparison.
- `faults`: one function per kind of fault.
- `rounds`: the runs with their faults, and the checks after each call.
- `summary`: the table and its JSON file.
"""
