# Every target sets itself up: a .venv in the project, from pinned and hash-checked requirements, re-used the next time.
# Needs Python 3.11 or newer, git and make. A particular Python: make test PYTHON=/path/to/python3
# Arguments for a target: make test ARGS="-k distance"

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo test test-slow test-slurm test-gpu test-browser lint bench bench-gpu lock clean

PYTHON ?=
ARGS ?=
# Processes that run tests, each a file at a time, in the order of the files; 0 for none, as a debugger wants it.
JOBS ?= 2
CUDA ?= 12
BIN := .venv/bin
# --only-binary: a source archive would fetch unpinned build tools.
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-input
INSTALL_PINNED := $(INSTALL) --require-hashes --only-binary=:all: -r
INSTALL_PROJECT := $(INSTALL) --no-deps --no-build-isolation --editable .

help:  ## show the targets
	@grep -hE '^[a-z-]+:.*## ' Makefile | sed -E 's/^([a-z-]+):.*## (.*)/make \1\t\2/' | expand -t 14

demo: .venv/.run  ## measure a vascular phantom of known diameters and show where the report lies
	@$(BIN)/voxcaliper demo $(ARGS)

test: .venv/.dev  ## run the tests
	@$(BIN)/python -m pytest tests -m "not slow and not browser and not slurm" -n $(JOBS) --dist loadfile \
	    --no-loadscope-reorder $(ARGS)

test-slow: .venv/.dev  ## run the tests that take long: more kills, more full disks, larger blocks
	@$(BIN)/python -m pytest tests -m slow $(ARGS)

# Debian's slurm-wlm runs several nodes on one machine. Elsewhere, and without root, the tests say why they are skipped.
test-slurm: .venv/.dev  ## run the tests on a real SLURM of three virtual nodes on this machine
	@if ! command -v slurmctld >/dev/null && [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	    echo "installing slurm-wlm ..."; \
	    { apt-get -qq update && DEBIAN_FRONTEND=noninteractive apt-get -qq install --yes --no-install-recommends \
	        slurm-wlm >/dev/null; } || echo "slurm-wlm could not be installed" >&2; \
	fi
	@PATH="$$PATH:/usr/sbin" $(BIN)/python -m pytest tests/slurm -m "slurm and not slow" $(ARGS)

test-gpu: .venv/.gpu  ## run the tests that need an NVIDIA GPU (CUDA=13 for a driver of CUDA 13)
	@nvidia-smi --list-gpus
	@$(BIN)/python -m pytest tests -m gpu $(ARGS)

test-browser: .venv/.dev  ## look at a run in Chromium (installed where this user may, otherwise skipped)
	@if ! command -v chromium >/dev/null && [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	    (apt-get update && apt-get install -y --no-install-recommends chromium) >/dev/null \
	        || echo "Chromium could not be installed." >&2; \
	fi
	@$(BIN)/python -m pytest tests -m browser $(ARGS)

lint: .venv/.dev  ## check style, types and the direction of imports
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-logo

bench: .venv/.dev  ## time the kernels, the peers and a whole run
	@$(BIN)/python -m benchmarks $(ARGS)

bench-gpu: .venv/.gpu  ## time the CUDA kernels and a whole run on a GPU, into benchmarks/RESULTS_GPU.md
	@$(BIN)/python -m benchmarks gpu --output benchmarks/RESULTS_GPU.md $(ARGS)

clean:  ## remove .venv and the caches
	rm -rf .venv .lock build *.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The smallest set that runs the program, for the demo; .dev is a superset with the same pins.
.venv/.run: .venv/.made requirements-run.txt pyproject.toml
	@echo "installing what voxcaliper runs on (a minute or two the first time) ..."
	@$(INSTALL_PINNED) requirements-run.txt
	@$(INSTALL_PROJECT)
	@touch $@

.venv/.dev: .venv/.made requirements.txt pyproject.toml
	@echo "installing what voxcaliper and its tests need (a few minutes the first time) ..."
	@$(INSTALL_PINNED) requirements.txt
	@$(INSTALL_PROJECT)
	@touch $@ .venv/.run

# What runs on a GPU, for the CUDA version of its driver; not pinned, because no test in CI can hold the pins.
.venv/.gpu: .venv/.dev
	@if ! $(BIN)/python -c 'import cupy; cupy.zeros(1)' 2>/dev/null; then \
	    $(INSTALL) --no-build-isolation --editable '.[gpu-cuda$(CUDA)]'; \
	fi
	@touch $@

.venv/.made:
	@for python in $(if $(PYTHON),"$(PYTHON)",python3.13 python3.12 python3.11 python3); do \
	    if "$$python" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
	        echo "setting up .venv with $$("$$python" --version) ..."; \
	        "$$python" -m venv --clear .venv; \
	        touch $@; \
	        exit 0; \
	    fi; \
	done; \
	echo "voxcaliper needs Python 3.11 or newer with its venv module, and found none:" \
	    "install it, or name it with PYTHON=/path/to/python3." >&2; \
	exit 1

# Pins for the oldest Python that is supported, so that the same versions install on the newer ones. The user's pip
# settings are left out: hashes must be those of the public index. Pins stay as they are; to renew: ARGS=--upgrade
COMPILE := PIP_CONFIG_FILE=/dev/null PIP_FIND_LINKS= PIP_EXTRA_INDEX_URL= CUSTOM_COMPILE_COMMAND="make lock" \
    .lock/bin/pip-compile --quiet --generate-hashes --all-build-deps --allow-unsafe --strip-extras --no-annotate \
    --no-emit-index-url --no-emit-find-links --no-emit-trusted-host

lock:  ## renew requirements*.txt from pyproject.toml (needs python3.11; ARGS=--upgrade for new versions)
	@echo "resolving requirements (minutes) ..."
	@python3.11 -m venv --clear .lock
	@.lock/bin/python -m pip install --quiet --disable-pip-version-check pip-tools==7.6.2
	@$(COMPILE) $(ARGS) --extra bench --extra dev --output-file requirements.txt pyproject.toml
	@cp requirements.txt requirements-run.txt
	@$(COMPILE) --output-file requirements-run.txt pyproject.toml
	@rm -rf .lock
