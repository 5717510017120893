# Two commands on a fresh machine: `make demo` runs the main job, `make test` passes the tests.
# Both create .venv and install into it what they need. PYTHON names the interpreter (3.11 or newer).

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip --disable-pip-version-check install --quiet -c constraints.txt
WORK   ?= build/bench
PROGRAMS ?= 120000
FILES  ?= 40000

.PHONY: demo test test-big test-gpu test-postgres kill lint format bench fuzz clean

demo: $(VENV)/smoke
	$(BIN)/modelhub demo build/demo

# Each process starts with one half of the tests, so that what those of a module share is made once. Compiled modules
# are kept, whatever the environment says: both processes, and those that tests start, would compile them each time.
test: $(VENV)/dev lint
	PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest -n 2 --dist worksteal

test-big: $(VENV)/dev
	$(BIN)/python -m pytest -m big

test-gpu: $(VENV)/dev
	$(BIN)/python -m pytest -m gpu

# The catalog's tests on a PostgreSQL server of their own; the default suite runs them, too, where one is installed.
test-postgres: $(VENV)/dev
	@$(BIN)/python -c 'import sys; from tests.postgresql import programs; sys.exit(programs() is None)' \
	  || { [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && apt-get update -qq && apt-get install -y -qq postgresql; } \
	  || { echo "install the PostgreSQL server, 15 or newer (Debian and Ubuntu: sudo apt-get install postgresql)" >&2; exit 1; }
	$(BIN)/python -m pytest -m postgres

# Conversions, organising, syncs, hashing and migrations killed at random moments: nothing is lost or half done.
kill: $(VENV)/dev
	$(BIN)/python -m pytest -m kill

lint: $(VENV)/dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(VENV)/dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(VENV)/dev
	$(BIN)/python -m benchmarks --dir $(WORK)

# Programs run by CPython's unpicklers in a sandbox, and broken files: see fuzz/__init__.py. Reproducers: build/fuzz.
fuzz: $(VENV)/dev
	$(BIN)/python -m fuzz --programs $(PROGRAMS) --files $(FILES)

clean:
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/smoke: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(PIP) torch
	$(PIP) -e '.[smoke]'
	touch $@

$(VENV)/dev: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(PIP) torch
	$(PIP) -e '.[all]'
	$(PIP) --no-deps spandrel einops  # not torchvision, which is there for torch with CUDA only, and not needed
	$(BIN)/python -m pip --disable-pip-version-check download --quiet --no-deps --dest $(VENV)/wheels lpips==0.1.4 torchmetrics==1.9.0
	touch $@ $(VENV)/smoke
