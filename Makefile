# make demo       from a clean checkout to two videos
# make up         the stack in the foreground, with the demo's tiny models; CATALOGUE=default for the real ones
# make setup      only the environment; every other target creates it, or skips it when nothing changed
# make check      format, lint, strict types, import contracts
# make test       the tests; test-browser: those of the page; test-slow: those that take minutes;
#                 test-fuzz: the API with 3,000 examples per operation; test-cluster: those with several hosts (as root);
#                 gpu-check: those that need a CUDA device
# make soak       random faults under load, and a checker: SOAK_JOBS, SOAK_FAULTS, SOAK_SEED, SOAK_DATABASE
# make bench      benchmarks; writes docs/measurements.md
# make docs       build the site from docs/
# make screenshots  the pictures in docs/images, from a running demo with Chromium
# make lock       pin the installed versions

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/setup-stamp
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check

# for `make up`
STACK_HOME ?= .wanworks
CATALOGUE ?= demo
DEVICES ?= auto
PORT ?= 8000
FLOWER_PORT ?= 5555

.PHONY: docs setup demo up check test test-browser test-slow test-fuzz test-cluster gpu-check soak bench screenshots lock

setup: $(STAMP)

# torch is installed first and separately: the package index decides which build fits, and no other package may choose it.
$(STAMP): pyproject.toml requirements/torch.txt requirements/runtime.txt requirements/worker.txt requirements/dev.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "wanworks needs Python 3.11 or newer; this is $$($(PYTHON) --version). Try: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	@$(PYTHON) -m venv $(VENV) \
		|| { echo "Python's venv module is needed (on Debian and Ubuntu: the package python3-venv)"; exit 1; }
	@echo "installing torch, which is large"
	@$(PIP) -r requirements/torch.txt
	@echo "installing $$(cat requirements/runtime.txt requirements/worker.txt requirements/dev.txt | grep -c ==) other packages, in some minutes"
	@$(PIP) -r requirements/dev.txt
	@$(PIP) --no-deps --no-build-isolation --editable .
	@$(BIN)/python -c 'import pathlib, sysconfig; \
		pathlib.Path(sysconfig.get_path("purelib"), "wanworks-server.pth").write_text("$(CURDIR)\n")'
	@touch $@

demo: $(STAMP)
	@$(BIN)/wanworks demo --out demo

up: $(STAMP)
	@exec $(BIN)/wanworks up --home $(STACK_HOME) --catalogue $(CATALOGUE) --devices $(DEVICES) \
		--port $(PORT) --flower-port $(FLOWER_PORT)

check: $(STAMP)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# Three test processes on two cores: many tests wait.
test: $(STAMP)
	$(BIN)/python -m pytest -m "not browser and not slow and not fuzz and not gpu and not cluster" -n 3 --no-loadscope-reorder

test-browser: $(STAMP)
	$(BIN)/python -m pytest -m "browser and not slow" -n 2 --no-loadscope-reorder tests/browser

test-slow: $(STAMP)
	$(BIN)/python -m pytest -m slow -n 2 --no-loadscope-reorder

test-fuzz: $(STAMP)
	$(BIN)/python -m pytest -m fuzz -s tests/integration/api/documentation/test_schemathesis.py

test-cluster: $(STAMP)
	$(BIN)/python -m pytest -m cluster -s tests/cluster

# A section needs no `make setup`: SECTION=stream runs on the environment's own Python and torch (PYTHON=...).
gpu-check: $(if $(SECTION),,$(STAMP))
	$(if $(SECTION),$(PYTHON),$(BIN)/python) -m tests.gpu $(SECTION)

soak: $(STAMP)
	$(BIN)/python -m tests.soak

bench: $(STAMP)
	$(BIN)/python -m tests.bench

docs: $(STAMP)
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

screenshots: $(STAMP)
	$(BIN)/python -m tests.screenshots

lock: $(STAMP)
	$(BIN)/python requirements/lock.py
