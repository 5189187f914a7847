# The CPU build of PyTorch unless there is an NVIDIA driver; CONSTRAINTS=... and PYTHON=... choose otherwise.
CONSTRAINTS ?= $(if $(shell command -v nvidia-smi 2>/dev/null),constraints/cuda.txt,constraints/cpu.txt)
PYTHON ?= python3
JOBS ?= 2
VENV := .venv
BIN := $(VENV)/bin

.DEFAULT_GOAL := help
.PHONY: help setup demo test check clean

help:  ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-8s%s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(VENV)/.installed  ## a virtual environment in .venv with everything in it

$(VENV)/.installed: pyproject.toml $(CONSTRAINTS) constraints/tried.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "mllmu needs Python 3.11 or newer; name one: make setup PYTHON=python3.12" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -q -c $(CONSTRAINTS) -e '.[dev]'
	touch $@

demo: setup  ## unlearn on the embedded tiny model and write a report
	$(BIN)/mllmu run recipes/demo.yaml

test: setup  ## all tests, in JOBS processes (2)
	OMP_NUM_THREADS=1 $(BIN)/pytest -n $(JOBS) --dist loadfile tests

check: setup  ## format, lint and types
	$(BIN)/ruff format --check mllmu tests tools examples benchmarks
	$(BIN)/ruff check mllmu tests tools examples benchmarks
	$(BIN)/mypy

clean:  ## remove caches and builds; runs and .venv stay
	rm -rf build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find mllmu tests examples benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +
