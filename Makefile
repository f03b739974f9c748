# Everything below sets up what it needs first, and does so once: a second run starts at once.
#
#   PYTHON           the Python (3.10 or later) that .venv is made with
#   VARIANT          cpu or cuda; found out if not given
#   TORCH_CPU_INDEX  where PyTorch's CPU builds are looked for, if pip's configured sources have none
#   CONFIG, ARGS     for `make fit` and `make compare`: the configuration, and further arguments of recipes.fit
#                    for `make test` and `make lock`: ARGS are pytest's and scripts/lock.py's
#   TARGET           for `make image` and `make container-fit`: offline (with weights and texts) or runtime (without)
#   OPTIMIZERS       for `make compare`: names of files in configs/optimizer/

PYTHON ?= python3
VENV ?= .venv
CONFIG ?= cls.yaml
ARGS ?=
TARGET ?= offline
OPTIMIZERS ?= adafactor adamw adamw_8bit
TORCH_CPU_INDEX ?= https://download.pytorch.org/whl/cpu

# An environment that was once set up for CUDA stays so on a machine without a GPU, such as a cluster's login node.
VARIANT ?= $(shell \
	if [ -e /proc/driver/nvidia/version ] || nvidia-smi -L >/dev/null 2>&1 || [ -e $(VENV)/.runtime-cuda ]; \
	then echo cuda; else echo cpu; fi)
ifneq ($(VARIANT),cpu)
ifneq ($(VARIANT),cuda)
$(error VARIANT=$(VARIANT) is not known: use VARIANT=cpu or VARIANT=cuda)
endif
endif

RUN := $(VENV)/bin/python
LOCKS := requirements/$(VARIANT).txt requirements/assets.txt $(if $(filter cpu,$(VARIANT)),requirements/torch-cpu.txt)
RUNTIME := $(VENV)/.runtime-$(VARIANT)
EIGHT_BIT := $(VENV)/.8bit
DEV := $(VENV)/.dev
STEP := $(VENV)/.step

.DEFAULT_GOAL := help
.PHONY: help fit compare setup test test-slow container-test image container-fit \
	lint format lock audit sbom clean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

fit: $(STEP) ## Fine-tune: CONFIG=cls.yaml and ARGS="--trainer.max_epochs 2" choose what and how
	$(RUN) -m recipes.fit --config $(CONFIG) $(ARGS)

compare: $(EIGHT_BIT) ## Run a recipe under several optimizers: CONFIG, OPTIMIZERS="adafactor adamw", ARGS="--seeds 1 2 3"
	$(RUN) -m recipes.compare --config $(CONFIG) --optimizers $(OPTIMIZERS) $(ARGS)

setup: $(DEV) ## Make .venv with all locked packages, and nothing else

test: $(DEV) ## Run the tests, but for those marked slow
	$(RUN) -m pytest -m "not slow" $(ARGS)

test-slow: $(DEV) ## Run the tests marked slow
	$(RUN) -m pytest -m slow --ignore=tests/container/test_image.py $(ARGS) || [ $$? -eq 5 ] # 5: no test is marked so

container-test: $(DEV) ## Build the image and run it sealed off, with docker, podman or the script that CONTAINER_CHECK names
	$(RUN) scripts/container.py engine
	$(RUN) -m pytest -o faulthandler_timeout=0 tests/container/test_image.py $(ARGS)

image: ## Build the image with docker or podman: TARGET=offline or runtime, VARIANT=cpu or cuda
	@TORCH_CPU_INDEX=$(TORCH_CPU_INDEX) $(PYTHON) scripts/container.py --target=$(TARGET) --variant=$(VARIANT) image $(ARGS)

container-fit: ## Fine-tune in the image, files outside of it in this folder read-only: CONFIG and ARGS as for make fit
	@TORCH_CPU_INDEX=$(TORCH_CPU_INDEX) $(PYTHON) scripts/container.py --target=$(TARGET) --variant=$(VARIANT) image
	@$(PYTHON) scripts/container.py --target=$(TARGET) --variant=$(VARIANT) fit --config $(CONFIG) $(ARGS)

lint: $(DEV) ## Check style and types
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m mypy

format: $(DEV) ## Put the code into the project's style
	$(RUN) -m ruff check --fix .
	$(RUN) -m ruff format .

lock: $(DEV) ## Rewrite the lock files after a change in pyproject.toml; ARGS=--upgrade moves every pin
	TORCH_CPU_INDEX=$(TORCH_CPU_INDEX) $(RUN) scripts/lock.py $(ARGS)

audit: $(DEV) ## Look the locked packages up in a database of known vulnerabilities
	$(RUN) scripts/audit.py $(ARGS)

sbom: $(DEV) ## List what .venv holds in sbom.cdx.json; an image has its own list in /usr/share/sbom
	$(VENV)/bin/cyclonedx-py environment --pyproject pyproject.toml --output-reproducible --output-file sbom.cdx.json $(RUN)

clean: ## Remove .venv and what tools left behind; runs/ stays
	rm -rf $(VENV) lightning_adafactor/compiled/*.so build dist *.egg-info .pytest_cache .hypothesis .ruff_cache .mypy_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# An environment whose Python has gone, as after an upgrade of the system's, is made anew.
ifneq ($(shell [ -x $(RUN) ] && echo runs),runs)
.PHONY: $(VENV)/pyvenv.cfg
endif
$(VENV)/pyvenv.cfg:
	@$(PYTHON) -c 'import sys' 2>/dev/null || { \
		echo "'$(PYTHON)' does not run: install Python 3.10 or later, or name one, as in: make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; \
		exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { \
		echo "$$($(PYTHON) --version 2>&1) is too old: name Python 3.10 or later, as in: make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; \
		exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
		echo "$$($(PYTHON) --version) lacks its venv and ensurepip modules: install them (Debian, Ubuntu: apt install python3-venv)" >&2; \
		exit 1; }
	$(PYTHON) -m venv --clear $(VENV)

# What `make fit` needs. The stamp of another variant or of an older lock is void from the moment pip starts.
$(RUNTIME): $(VENV)/pyvenv.cfg $(LOCKS) scripts/install.py
	@rm -f $(VENV)/.runtime-* $(STEP) $(EIGHT_BIT) $(DEV)
	$(RUN) scripts/install.py $(VARIANT) assets project --torch-cpu-index=$(TORCH_CPU_INDEX)
	@touch $@

# The optimizer's step for CPUs, compiled where there is a C compiler; again when its sources have changed.
$(STEP): $(RUNTIME) $(wildcard lightning_adafactor/compiled/source/*) lightning_adafactor/compiled/build.py
	$(RUN) scripts/install.py step
	@touch $@

# The 8-bit optimizers, which only a comparison with them needs.
$(EIGHT_BIT): $(STEP) requirements/8bit.txt
	$(RUN) scripts/install.py 8bit
	@touch $@

# What tests and checks need beyond that.
$(DEV): $(EIGHT_BIT) requirements/dev.txt
	$(RUN) scripts/install.py dev
	@touch $@
