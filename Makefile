# `make demo` and `make test` are all a newcomer needs; both set up a virtual environment of their own in .venv.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test test-long lint docs clean

demo: .venv/installed
	$(BIN)/tagseg demo --out runs/demo

test: lint
	OMP_NUM_THREADS=1 $(BIN)/pytest -n auto --dist worksteal

test-long: .venv/tested
	OMP_NUM_THREADS=1 $(BIN)/pytest -n auto --dist worksteal --long -m long

lint: .venv/tested
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: .venv/installed
	$(BIN)/pip install --quiet "mkdocs-material>=9.5"
	$(BIN)/mkdocs build

.venv/installed: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --editable .
	touch $@

.venv/tested: .venv/installed
	$(BIN)/pip install --quiet --editable ".[dev]"
	touch $@

clean:
	rm -rf .venv runs site .mypy_cache .pytest_cache .ruff_cache
