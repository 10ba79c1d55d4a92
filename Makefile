# Everything here sets itself up: `make demo` and `make test` work on a fresh machine with Python 3.11+ and pip.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: demo test fuzz lint install clean bench-tables

install: $(STAMP)

# torch first and by exact version: any other way of asking may bring gigabytes of CUDA libraries.
$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet "$$(grep '^torch==' constraints.txt)"
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

demo: $(STAMP)
	$(BIN)/mixloom demo --run-dir runs/demo

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy -p mixloom

test: lint
	$(BIN)/python -m pytest -n 2 --dist loadfile

# Property tests with examples that no run before had; a failure prints the line that repeats it.
fuzz: $(STAMP)
	MIXLOOM_FUZZ=1 $(BIN)/python -m pytest -n 2 --dist loadfile -m hypothesis

bench-tables: $(STAMP)
	$(BIN)/python benchmarks/tables.py

clean:
	rm -rf $(VENV) runs build *.egg-info .pytest_cache .mypy_cache .ruff_cache
