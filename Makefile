# `make demo` and `make test` are all that a fresh machine needs (Python 3.10 or newer, with venv).

PYTHON ?= python3
BIN := .venv/bin

# make demo DATA=<folder> TRAIN=<products> PRODUCT=<product>
DEMO_ARGUMENTS = $(if $(DATA),--data $(DATA)) $(if $(TRAIN),--train $(TRAIN)) \
	$(if $(PRODUCT),--product $(PRODUCT))

.PHONY: install demo test slow-test real-parts check format clean

install: .venv/.installed

.venv/.installed: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable ".[dev]"
	touch $@

demo: install
	$(BIN)/cff-bench demo --out build/demo $(DEMO_ARGUMENTS)

test: install
	$(BIN)/pytest -m "not slow" --cov --cov-report=term:skip-covered --cov-fail-under=85

slow-test: install
	$(BIN)/pytest -m slow

real-parts: install
	$(BIN)/cff-bench real-parts --out build/real-parts

check:
	scripts/check

format: install
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf build dist .venv .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .coverage*
