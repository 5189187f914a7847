CONSTRAINTS ?= $(if $(shell command -v nvidia-smi 2>/dev/null),constraints/cuda.txt,constraints/cpu.txt)
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: setup test check

setup: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml constraints/cpu.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -q -c $(CONSTRAINTS) -e '.[dev]'
	touch $@

test: setup
	$(BIN)/pytest tests

check: setup
	$(BIN)/ruff format --check mllmu tests
	$(BIN)/ruff check mllmu tests
	$(BIN)/mypy
