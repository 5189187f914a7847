# Without an NVIDIA driver the version of PyTorch that the tests run with; CONSTRAINTS=... and PYTHON=... choose otherwise.
CONSTRAINTS ?= $(if $(shell command -v nvidia-smi 2>/dev/null),constraints/cuda.txt,constraints/cpu.txt)
PYTHON ?= python3
JOBS ?= 2
ROUNDS ?= 1000
SEED ?= 0
VENV := .venv
BIN := $(VENV)/bin
CODE := mllmu tests tools examples benchmarks docs

# PyPI's PyTorch for Linux brings gigabytes of CUDA: the CPU build comes first, from PyTorch's own index, unless pip is told another index.
CPU_INDEX ?= https://download.pytorch.org/whl/cpu
define torch_for_cpu
	@if test "$(CONSTRAINTS)" = constraints/cpu.txt -a "$$(uname)" = Linux && ! $(1) config list | grep -q index; then \
		$(1) install -q --no-deps --retries 1 -c $(2) --extra-index-url $(CPU_INDEX) torch; fi
endef

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-slow test-peer test-lowest soak check docs clean

help:  ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-8s%s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(VENV)/.installed  ## a virtual environment in .venv with everything in it

$(VENV)/.package: pyproject.toml $(CONSTRAINTS) constraints/tried.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "mllmu needs Python 3.11 or newer; name one: make setup PYTHON=python3.12" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(call torch_for_cpu,$(BIN)/pip,$(CONSTRAINTS))
	$(BIN)/pip install -q -c $(CONSTRAINTS) -e .
	touch $@

$(VENV)/.installed: $(VENV)/.package
	$(BIN)/pip install -q -c $(CONSTRAINTS) -e '.[dev]'
	touch $@

demo: $(VENV)/.package  ## unlearn on the embedded tiny model and write a report
	$(BIN)/mllmu run recipes/demo.yaml

test: setup  ## all tests but the slow ones, in JOBS processes (2), with coverage of at least 90 %
	OMP_NUM_THREADS=1 $(BIN)/pytest -n $(JOBS) --dist loadfile -m "not slow and not gpu and not weights and not peer" --cov --cov-report=term tests

test-slow: setup  ## the tests of minutes
	OMP_NUM_THREADS=1 $(BIN)/pytest -m slow tests

test-peer: setup  ## the tests beside other tools, each installed in an environment of its own
	OMP_NUM_THREADS=1 $(BIN)/pytest -m peer tests

test-lowest: setup  ## the smoke recipe with the lowest versions of libraries that pyproject.toml allows (but PyTorch's)
	rm -rf build/lowest build/lowest_run
	$(PYTHON) -m venv build/lowest
	$(BIN)/python tools/lowest_versions.py $(shell grep '^torch==' $(CONSTRAINTS)) > build/lowest.txt
	$(call torch_for_cpu,build/lowest/bin/pip,build/lowest.txt)
	build/lowest/bin/pip install -q -c build/lowest.txt -e .
	build/lowest/bin/mllmu run smoke --out build/lowest_run

soak: setup  ## damaged inputs, kills and full disks: ROUNDS (1000) per test, from SEED (0); prints the table
	OMP_NUM_THREADS=1 $(BIN)/pytest -p no:cacheprovider tests/fuzz --fuzz-rounds $(ROUNDS) --fuzz-seed $(SEED)

docs: setup  ## the site, in build/docs; warnings are errors
	$(BIN)/sphinx-build -q -W --keep-going -b html docs build/docs

check: setup docs  ## format, lint, types, required libraries, and the documentation with its links
	$(BIN)/ruff format --check $(CODE)
	$(BIN)/ruff check $(CODE)
	$(BIN)/mypy
	$(BIN)/deptry mllmu
	$(BIN)/python tools/check_links.py

clean:  ## remove caches and builds; runs and .venv stay
	rm -rf build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find mllmu tests examples benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +
