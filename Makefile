# Two commands for a fresh machine: `make demo` and `make test`. `make` alone says more.

VENV := .venv
PYTHON := $(VENV)/bin/python

# Nothing of the caller's Python, and no model hub: what is needed comes from the package
# index by name and version.
unexport PYTHONPATH PYTHONHOME
export PYTHONNOUSERSITE := 1
export HF_HUB_OFFLINE := 1
export TRANSFORMERS_OFFLINE := 1
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.DEFAULT_GOAL := help
.PHONY: help demo test lint clean

help:
	@echo 'make demo   the main job end to end on real recordings: two cores, a few minutes'
	@echo 'make test   ruff, pyright and all tests'
	@echo 'make lint   ruff and pyright only'
	@echo 'make clean  removes $(VENV) and what the tools leave; keeps runs/ and fetched models'
	@echo
	@echo 'Each makes its own virtual environment in $(VENV), once, from the package index; a'
	@echo 'Python of at least 3.11 is all it needs (PYTHON3=/path/to/python3 names one).'
	@echo 'make test installs torch, for parity tests, and the compiler for TPUs, which needs'
	@echo 'none. The small build of torch is used if you say'
	@echo '  PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu make test'

demo: $(VENV)/.demo
	@echo '== The demo: its files go to runs/demo'
	$(PYTHON) demo.py --workdir=runs/demo

test: lint
	@echo '== Tests, the quick ones first'
	$(PYTHON) -m pytest --durations=10

lint: $(VENV)/.test
	@echo '== Style (ruff)'
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	@echo '== Types (pyright)'
	$(VENV)/bin/pyright

clean:
	@echo '== Removing $(VENV) and caches; runs/ and the fetched models stay'
	rm -rf $(VENV) build *.egg-info .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The stamps lie inside the environment, so that they go with it.
$(VENV)/.demo: Makefile setup.py $(VENV)/.made
	@echo '== Installing acl_jax and what the demo needs into $(VENV)'
	$(PYTHON) -m pip install -e '.[demo]'
	@touch $@

$(VENV)/.test: Makefile setup.py $(VENV)/.made
	@echo '== Installing acl_jax and what the tests need, torch included, into $(VENV)'
	$(PYTHON) -m pip install -e '.[demo,dev,torch,tpu]'
	@touch $(VENV)/.demo $@

USABLE := import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))

$(VENV)/.made:
	@for python in $(or $(PYTHON3),python3 python3.13 python3.12 python3.11); do \
	  if "$$python" -c '$(USABLE)' 2>/dev/null; then \
	    echo "== Making the virtual environment $(VENV) with $$("$$python" -VV)"; \
	    "$$python" -m venv $(VENV) && touch $@; exit; \
	  fi; \
	done; \
	echo 'error: no Python >= 3.11 with the venv module was found; install one (on Debian' \
	  'also python3-venv) or name it: make PYTHON3=/path/to/python3' >&2; \
	exit 1
