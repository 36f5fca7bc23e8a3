# The two main commands are `make reproduce` and `make test`. Each sets up .venv first, unless it already matches the lock.
#
#   PYTHON=python3.12   the Python that makes .venv (3.11 or newer)
#   JOBS=4              runs at a time (default: the number of cores)
#   WORKERS=4           tests at a time (default: one more than cores, since some only wait; at most eight)
#   PROFILE=real        the study to run and report: the name of a grid in notebooks/grids (default: demo)
#   TORCH_INDEX=URL     the index from which torch and torchvision are installed. Without it they come from PyPI: on Linux
#                       the CUDA 13.0 build, which also runs on a CPU. It makes .venv 6.6 GB large, of which the CUDA
#                       libraries are 3.2 GB and Triton is 0.9 GB. The CPU build needs neither:
#                       TORCH_INDEX=https://download.pytorch.org/whl/cpu

PYTHON ?= python3
JOBS ?= $(shell nproc 2>/dev/null || getconf _NPROCESSORS_ONLN 2>/dev/null || echo 1)
WORKERS = auto
PROFILE = demo
TORCH_INDEX ?=

BIN := .venv/bin
sum = $(shell { pwd; cat $(1); } | cksum | cut -d ' ' -f 1)
# A stamp's name holds a hash of what was installed and where: .venv contains absolute paths and cannot be moved.
LOCKED := .venv/locked-$(call sum,requirements.lock)
INSTALLED := .venv/installed-$(call sum,pyproject.toml)

.PHONY: help setup reproduce study report book test lint clean
.DEFAULT_GOAL := help
.NOTPARALLEL:  # the study must end before its report; JOBS sets how many runs go on at a time

help:  ## list these targets
	@grep -E '^[a-z]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "make %-10s %s\n", $$1, $$2}'
	@echo 'settings, as in make reproduce JOBS=4: PYTHON=$(PYTHON) JOBS=$(JOBS) WORKERS=$(WORKERS) PROFILE=$(PROFILE)' \
	    'TORCH_INDEX=$(TORCH_INDEX)'

setup: $(INSTALLED)  ## create .venv with the versions of requirements.lock

$(LOCKED):
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "medpeft needs Python 3.11 or newer, and this is %s: make setup PYTHON=python3.11" % sys.version.split()[0])'
	$(PYTHON) -m venv --clear .venv
	$(if $(TORCH_INDEX),$(BIN)/python -m pip install --index-url $(TORCH_INDEX) $(shell grep -E '^(torch|torchvision)==' requirements.lock))
	$(BIN)/python -m pip install --requirement requirements.lock
	touch $@

$(INSTALLED): $(LOCKED)
	$(BIN)/python -m pip install --no-deps --no-build-isolation --editable .
	touch $@

reproduce: study report  ## set up, run the study (PROFILE), draw each figure once its runs are done

study: setup  ## run what is left of the study
	$(BIN)/medpeft run $(PROFILE) --jobs $(JOBS)

report: setup  ## draw figures and tables of the finished runs into figures/PROFILE
	$(BIN)/medpeft report $(PROFILE)

book: setup  ## build HTML pages of the learning notebooks into build/book
	$(BIN)/medpeft book html

test: setup lint  ## set up, lint and run the tests
	$(BIN)/python -m pytest --timeout 600 --numprocesses $(WORKERS) --dist worksteal

lint: setup  ## check style and layout of code and notebooks
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

clean:  ## remove .venv, caches and build leftovers; results and figures stay
	rm -rf .venv build dist .pytest_cache .ruff_cache *.egg-info
	find . -type d \( -name __pycache__ -o -name .ipynb_checkpoints \) -not -path './.git/*' -prune -exec rm -rf {} +
