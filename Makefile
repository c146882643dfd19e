# Two commands on a bare machine: `make demo` and `make test`. Each makes .venv if it is missing
# and installs what it needs, once.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --disable-pip-version-check --quiet
SOURCES := src tests benchmarks studies examples
PRESENT = $(wildcard $(SOURCES))
# A benchmark is a file, or a folder with a __main__.py.
# Coverage has a target of its own: it times nothing and takes an hour.
BENCHMARKS = $(filter-out benchmarks.coverage,$(subst /,.,$(patsubst %/__main__,%,$(basename \
  $(wildcard benchmarks/[a-z]*.py benchmarks/[a-z]*/__main__.py)))))

.PHONY: help demo test format lint types tests benchmarks coverage constraints clean

help:
	@echo "make demo        prune a small network to half its latency (offline, about 5 minutes)"
	@echo "make test        format check, lint, types, tests: what CI runs"
	@echo "make format      format the code and mend what the linter can"
	@echo "make lint        format check and lint"
	@echo "make types       mypy"
	@echo "make tests       pytest alone; ARGS='-k graph' narrows it"
	@echo "make benchmarks  every benchmark, with the bars they must meet"
	@echo "make coverage    which networks can be cut, and how much of them (an hour; goes on if stopped)"
	@echo "make constraints write the installed versions into constraints.txt"
	@echo "make clean       remove .venv and caches"

# Exit code 4 is a budget that was not met, by a hair on a busy machine: the report says so and why.
demo: $(VENV)/demo.stamp
	$(BIN)/latprune demo || [ $$? -eq 4 ]

test: lint types tests

format: $(VENV)/dev.stamp
	$(BIN)/ruff format $(PRESENT)
	$(BIN)/ruff check --fix $(PRESENT)

lint: $(VENV)/dev.stamp
	$(BIN)/ruff format --check $(PRESENT)
	$(BIN)/ruff check $(PRESENT)

types: $(VENV)/dev.stamp
	$(BIN)/mypy $(PRESENT)

# No more workers than cores, each with one thread; four are enough.
tests: $(VENV)/dev.stamp
	$(BIN)/pytest -n logical --maxprocesses 4 $(ARGS)

benchmarks: $(VENV)/dev.stamp
	set -e; for module in $(BENCHMARKS); do $(BIN)/python -m $$module; done

# The page is written, too, where a bar is missed.
coverage: $(VENV)/dev.stamp
	-$(BIN)/python -m benchmarks.coverage
	$(BIN)/python -m benchmarks.coverage --markdown

constraints: $(VENV)/dev.stamp
	$(BIN)/python -m pip list --format=freeze --exclude latprune --exclude pip \
	  | grep -vE '^(nvidia|cuda|triton)' > constraints.txt

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	  found=$$($(PYTHON) --version 2>/dev/null || echo "not there"); \
	  echo "latprune needs Python 3.11 or newer; $(PYTHON) is $$found." \
	    "Name another: make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

# The environment of the tests holds all that the demo needs.
$(VENV)/demo.stamp: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) --constraint constraints.txt --editable '.[demo]'
	@touch $@

$(VENV)/dev.stamp: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) --constraint constraints.txt --editable '.[dev]'
	@touch $@ $(VENV)/demo.stamp
