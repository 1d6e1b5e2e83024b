# `make help` lists the targets. Those that need the environment create it, and skip that when nothing changed.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/setup-stamp
DEV_STAMP := $(VENV)/setup-dev-stamp
PIP := $(BIN)/python -m pip install --disable-pip-version-check

# for `make up`: what is not given is left to the settings, so that WANWORKS_PORT and a settings file apply
STACK_HOME ?= .wanworks
CATALOGUE ?= demo
UP_OPTIONS = $(if $(DEVICES),--devices $(DEVICES)) $(if $(PORT),--port $(PORT)) $(if $(FLOWER_PORT),--flower-port $(FLOWER_PORT))

.PHONY: help docs setup setup-dev demo up check test test-browser test-slow test-fuzz test-cluster gpu-check soak bench \
	screenshots lock

help:
	@echo 'Run it'
	@echo '  make demo         from a clean checkout to two videos in demo/'
	@echo '  make up           the stack in the foreground, on http://127.0.0.1:8000/'
	@echo '                    PORT=8001  CATALOGUE=default (the real models; else demo)'
	@echo '                    DEVICES=cuda:0,1 or cpu:2  FLOWER_PORT=5556'
	@echo '                    STACK_HOME=/data/wanworks'
	@echo '  make setup        only the environment in .venv, with what runs wanworks'
	@echo 'Change it'
	@echo '  make setup-dev    the environment with the tools of these targets'
	@echo '  make check        format, lint, types, import contracts'
	@echo '  make test         the tests'
	@echo '  make test-browser those of the page'
	@echo '  make test-slow    those that take minutes'
	@echo '  make test-fuzz    the API with 3,000 examples per operation'
	@echo '  make test-cluster several hosts, as root'
	@echo '  make gpu-check    those that need a CUDA device'
	@echo '  make soak         random faults under load, and a checker'
	@echo '                    SOAK_JOBS  SOAK_FAULTS  SOAK_SEED  SOAK_DATABASE=postgresql'
	@echo '  make bench        benchmarks; writes docs/measurements.md'
	@echo '  make docs         build the site from docs/'
	@echo '  make screenshots  the pictures in docs/images, from a running demo'
	@echo '  make lock         pin the installed versions'
	@echo 'All: PYTHON=python3.12 selects the Python of a new .venv.'

setup: $(STAMP)

setup-dev: $(DEV_STAMP)

# torch is installed first and separately: the package index decides which build fits, and no other package may choose it.
# In a terminal pip shows its downloads; the many small packages that follow are not listed.
$(STAMP): pyproject.toml requirements/torch.txt requirements/runtime.txt requirements/worker.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "wanworks needs Python 3.11 or newer; this is $$($(PYTHON) --version). Try: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	@$(PYTHON) -m venv $(VENV) \
		|| { echo "Python's venv module is needed (on Debian and Ubuntu: the package python3-venv)"; exit 1; }
	@echo "1 of 3: torch, the largest part: about 200 MB to download for CPUs, a few GB with the libraries of CUDA"
	@$(PIP) $$([ -t 1 ] || echo --quiet) -r requirements/torch.txt
	@echo "2 of 3: $$(cat requirements/runtime.txt requirements/worker.txt | grep -c ==) other packages, in one to three minutes"
	@$(PIP) --quiet -r requirements/worker.txt
	@echo "3 of 3: wanworks"
	@$(PIP) --quiet --no-deps --no-build-isolation --editable .
	@$(BIN)/python -c 'import pathlib, sysconfig; \
		pathlib.Path(sysconfig.get_path("purelib"), "wanworks-server.pth").write_text("$(CURDIR)\n")'
	@touch $@

$(DEV_STAMP): $(STAMP) requirements/dev.txt
	@echo "the tools for tests and docs: $$(grep -c == requirements/dev.txt) packages, in one to three minutes"
	@$(PIP) --quiet -r requirements/dev.txt
	@touch $@

demo: $(STAMP)
	@$(BIN)/wanworks demo --out demo

up: $(STAMP)
	@exec $(BIN)/wanworks up --home $(STACK_HOME) --catalogue $(CATALOGUE) $(UP_OPTIONS)

check: $(DEV_STAMP)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# Four test processes on two cores: many tests wait.
test: $(DEV_STAMP)
	$(BIN)/python -m pytest -m "not browser and not slow and not fuzz and not gpu and not cluster" -n 4 --no-loadscope-reorder

test-browser: $(DEV_STAMP)
	$(BIN)/python -m pytest -m "browser and not slow" -n 2 --no-loadscope-reorder tests/browser

test-slow: $(DEV_STAMP)
	$(BIN)/python -m pytest -m slow -n 2 --no-loadscope-reorder

test-fuzz: $(DEV_STAMP)
	$(BIN)/python -m pytest -m fuzz -s tests/integration/api/documentation/test_schemathesis.py

test-cluster: $(DEV_STAMP)
	$(BIN)/python -m pytest -m cluster -s tests/cluster

# A section needs no `make setup`: SECTION=stream runs on the environment's own Python and torch (PYTHON=...).
gpu-check: $(if $(SECTION),,$(DEV_STAMP))
	$(if $(SECTION),$(PYTHON),$(BIN)/python) -m tests.gpu $(SECTION)

soak: $(DEV_STAMP)
	$(BIN)/python -m tests.soak

bench: $(DEV_STAMP)
	$(BIN)/python -m tests.bench

docs: $(DEV_STAMP)
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

screenshots: $(DEV_STAMP)
	$(BIN)/python -m tests.screenshots

lock: $(DEV_STAMP)
	$(BIN)/python requirements/lock.py
