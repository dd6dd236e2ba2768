# Everything from a bare Python 3.11 or newer: each target first brings .venv to what constraints.txt pins.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: demo test test-slow check format clean

demo: $(READY) ## train, export, serve, rank, swap on generated data
	$(BIN)/qin demo

test: $(READY) ## the tests
	$(BIN)/python -m pytest -n auto --dist worksteal

test-slow: $(READY) ## the tests that take longer
	$(BIN)/python -m pytest -m slow

check: $(READY) ## format, lint, types, architecture, tests
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m pytest -n auto --dist worksteal

format: $(READY) ## rewrite the sources in house style
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

clean: ## remove the environment and caches
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
