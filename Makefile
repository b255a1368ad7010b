# `make run` and `make test` each work first, alone and again: the environment is made once and
# remade only when pyproject.toml or constraints.txt change.

PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
WORKERS ?= 2

.PHONY: run test test-slow gpu lint types check bench docs clean help

help:
	@echo "make run        set up and run the first lesson"
	@echo "make test       set up and run the tests"
	@echo "make test-slow  the tests marked slow"
	@echo "make gpu        CUDA and GPU tests and benchmarks, where a GPU exists"
	@echo "make lint       ruff and mypy"
	@echo "make check      lint, then the tests: what CI runs"

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "attnlab needs Python 3.11 or newer; set PYTHON=..."; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@touch $(STAMP)

run: $(STAMP)
	@$(BIN)/attnlab run lesson

# The tests share the cores among workers, so each keeps BLAS and torch to one thread.
ONE_THREAD := OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 MKL_NUM_THREADS=1

test: $(STAMP)
	$(ONE_THREAD) $(BIN)/python -m pytest -q -n $(WORKERS) --dist worksteal -m "not slow and not gpu" --cov --cov-report=term:skip-covered

test-slow: $(STAMP)
	$(BIN)/python -m pytest -q -m slow

gpu: $(STAMP)
	@if $(BIN)/python -c 'from attnlab.hardware import reason; import sys; why = reason(); print(why or "CUDA device found"); sys.exit(bool(why))'; then \
		$(BIN)/python -m pytest -q -m gpu && $(BIN)/attnlab bench --preset gpu-long --backend cuda,torch; \
	else \
		echo "no GPU: the CUDA and GPU tests and benchmarks were not run"; \
	fi

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

check: lint test

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .coverage
