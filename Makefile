# Everything runs in a virtual environment that the first target makes.
VENV ?= .venv
PYTHON ?= python3
BIN = $(VENV)/bin

TESTS = -m pytest --numprocesses auto --maxprocesses 4 --dist loadfile
OLDEST = $(VENV)-oldest/bin

.PHONY: install quickstart test oldest slow gpu weights cluster chaos check lint benchmarks science docs doctest

install: $(VENV)/.installed

$(VENV)/.installed: setup.py
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $@

quickstart: install
	$(BIN)/evclip-ray tune search_spaces/quickstart.yaml
	$(BIN)/evclip-ray evaluate studies/quickstart/best --split test
	$(BIN)/evclip-ray report studies/quickstart

# A file's tests stay together: they share its Ray. Each process has some 1.5 GB.
test: install
	$(BIN)/python $(TESTS)

# The tests with the lowest versions that setup.py allows, in an environment of their own. Releases without a
# wheel for this Python are skipped. Without bytecode, each process that a test starts would compile PyTorch.
# PYTHON=python3.13 selects another Python.
oldest:
	$(PYTHON) -m venv --clear $(VENV)-oldest
	$(OLDEST)/python -m pip install --quiet --upgrade pip setuptools uv
	$(OLDEST)/uv pip install --quiet --python $(OLDEST)/python --resolution lowest-direct --only-binary :all: \
		--compile-bytecode --editable '.[all,dev]'
	EVCLIP_RAY_OLDEST=1 $(OLDEST)/python $(TESTS)

slow weights cluster: install
	$(BIN)/python -m pytest -m $@

gpu: install
	$(BIN)/python -m pytest -m gpu --junitxml runs/gpu.xml

# A small study under kills and damaged files, at most 30 minutes. CHAOS="--seed 1 --minutes 10" takes options.
chaos: install
	cd benchmarks && $(abspath $(BIN))/python -m chaos $(CHAOS)

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

check: lint test

# The examples in docstrings, of the package and of the documentation's own script.
doctest: install
	$(BIN)/python -m pytest --doctest-modules evclip_ray docs/make_inventories.py

$(VENV)/.docs: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --editable '.[docs]'
	touch $@

# Needs no network once it is installed: external references are resolved by docs/inventories.
docs: $(VENV)/.docs
	$(BIN)/python -m sphinx -W --keep-going -b html docs docs/_build/html

# Resumable: run it again after a kill. 2.8 hours are expected on 2 quiet cores.
# SCIENCE="--claims a,b --dry-run" takes options.
science: install
	cd benchmarks && $(abspath $(BIN))/python -m science $(SCIENCE)

# Two of them measure what is given to them: a checkpoint, or a folder of videos.
NEED_ARGUMENTS = benchmarks/export.py benchmarks/serve.py

benchmarks: install
	for file in $(filter-out $(NEED_ARGUMENTS),$(wildcard benchmarks/*.py)); do echo "== $$file"; $(BIN)/python $$file || exit 1; done
