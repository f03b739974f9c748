# Each target first sets up what it needs. This happens once; later runs start immediately.
#
#   PYTHON           the Python (3.10 or later) that creates .venv
#   VARIANT          cpu or cuda; detected by default
#   TORCH_CPU_INDEX  index of PyTorch's CPU builds, used if pip's configured sources have none
#   CONFIG, ARGS     for `make fit` and `make compare`: the configuration, and further arguments of recipes.fit
#                    for `make test` and `make lock`: further arguments of pytest and scripts/lock.py
#   WORKERS          for `make test`: number of pytest processes; 0 runs all tests in one
#   TARGET           for `make image` and `make container-fit`: offline (with weights and texts) or runtime (without)
#   OPTIMIZERS       for `make compare`: names of files in configs/optimizer/

PYTHON ?= python3
VENV ?= .venv
CONFIG ?= cls.yaml
ARGS ?=
WORKERS ?= 2
TARGET ?= offline
OPTIMIZERS ?= adafactor adamw adamw_8bit
TORCH_CPU_INDEX ?= https://download.pytorch.org/whl/cpu

# An environment set up for CUDA keeps that variant on a machine without a GPU, such as a cluster's login node.
VARIANT ?= $(shell \
	if [ -e /proc/driver/nvidia/version ] || nvidia-smi -L >/dev/null 2>&1 || [ -e $(VENV)/.runtime-cuda ]; \
	then echo cuda; else echo cpu; fi)
ifneq ($(VARIANT),cpu)
ifneq ($(VARIANT),cuda)
$(error VARIANT=$(VARIANT) is not supported: use VARIANT=cpu or VARIANT=cuda)
endif
endif

RUN := $(VENV)/bin/python
LOCKS := requirements/$(VARIANT).txt requirements/assets.txt $(if $(filter cpu,$(VARIANT)),requirements/torch-cpu.txt)
RUNTIME := $(VENV)/.runtime-$(VARIANT)
EIGHT_BIT := $(VENV)/.8bit
OTHERS := $(VENV)/.optimizers
DEV := $(VENV)/.dev
STEP := $(VENV)/.step

.DEFAULT_GOAL := help
.PHONY: help fit compare setup test test-slow container-test image container-fit \
	lint format lock audit sbom clean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

fit: $(STEP) ## Fine-tune a recipe: CONFIG=cls.yaml, ARGS="--trainer.max_epochs 2"
	$(RUN) -m recipes.fit --config $(CONFIG) $(ARGS)

# Optimizers that need no more than torch, torchao and bitsandbytes.
USUAL := adafactor adafactor_% torch_adafactor adamw adamw_% lion_8bit muon sgd

compare: $(if $(filter-out $(USUAL),$(OPTIMIZERS)),$(OTHERS),$(EIGHT_BIT)) ## Run a recipe with several optimizers: CONFIG, OPTIMIZERS="adafactor adamw", ARGS="--seeds 1 2 3"
	$(RUN) -m recipes.compare --config $(CONFIG) --optimizers $(OPTIMIZERS) $(ARGS)

setup: $(DEV) ## Only create .venv with all locked packages

test: $(DEV) ## Run all tests except those marked slow, in WORKERS processes
	$(RUN) -m pytest -m "not slow" -n $(WORKERS) --dist worksteal $(ARGS)

test-slow: $(DEV) ## Run the tests marked slow
	$(RUN) -m pytest -m slow --ignore=tests/container/test_image.py $(ARGS) || [ $$? -eq 5 ] # 5: no test has the mark

container-test: $(DEV) ## Build the image and run it isolated, with docker, podman or the script named by CONTAINER_CHECK
	$(RUN) scripts/container.py engine
	$(RUN) -m pytest -o faulthandler_timeout=0 tests/container/test_image.py $(ARGS)

image: ## Build the image with docker or podman: TARGET=offline or runtime, VARIANT=cpu or cuda
	@TORCH_CPU_INDEX=$(TORCH_CPU_INDEX) $(PYTHON) scripts/container.py --target=$(TARGET) --variant=$(VARIANT) image $(ARGS)

container-fit: ## Fine-tune in the image, with this folder mounted read-only: CONFIG and ARGS as for make fit
	@TORCH_CPU_INDEX=$(TORCH_CPU_INDEX) $(PYTHON) scripts/container.py --target=$(TARGET) --variant=$(VARIANT) image
	@$(PYTHON) scripts/container.py --target=$(TARGET) --variant=$(VARIANT) fit --config $(CONFIG) $(ARGS)

lint: $(DEV) ## Check style and types
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m mypy

format: $(DEV) ## Format the code
	$(RUN) -m ruff check --fix .
	$(RUN) -m ruff format .

lock: $(DEV) ## Rewrite the lock files after a change in pyproject.toml; ARGS=--upgrade updates every pin
	TORCH_CPU_INDEX=$(TORCH_CPU_INDEX) $(RUN) scripts/lock.py $(ARGS)

audit: $(DEV) ## Check the locked packages for known vulnerabilities
	$(RUN) scripts/audit.py $(ARGS)

sbom: $(DEV) ## Write the SBOM of .venv to sbom.cdx.json; an image has its own in /usr/share/sbom
	$(VENV)/bin/cyclonedx-py environment --pyproject pyproject.toml --output-reproducible --output-file sbom.cdx.json $(RUN)

clean: ## Remove .venv, builds and caches; keep runs/
	rm -rf $(VENV) lightning_adafactor/compiled/*.so build dist *.egg-info .pytest_cache .hypothesis .ruff_cache .mypy_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# If the Python of the environment no longer exists, for example after a system upgrade, the environment is created again.
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

# What `make fit` needs. The stamps of another variant or an older lock are removed before pip starts.
$(RUNTIME): $(VENV)/pyvenv.cfg $(LOCKS) scripts/install.py
	@rm -f $(VENV)/.runtime-* $(STEP) $(EIGHT_BIT) $(OTHERS) $(DEV)
	$(RUN) scripts/install.py $(VARIANT) assets project --torch-cpu-index=$(TORCH_CPU_INDEX)
	@touch $@

# The optimizer's step for CPUs, compiled where there is a C compiler; again when its sources have changed.
$(STEP): $(RUNTIME) $(wildcard lightning_adafactor/compiled/source/*) lightning_adafactor/compiled/build.py
	$(RUN) scripts/install.py step
	@touch $@

# The 8-bit optimizers, needed only by comparisons that include them.
$(EIGHT_BIT): $(STEP) requirements/8bit.txt
	$(RUN) scripts/install.py 8bit
	@touch $@

# Other libraries' optimizers, needed only by comparisons that include them.
$(OTHERS): $(EIGHT_BIT) requirements/optimizers.txt
	$(RUN) scripts/install.py optimizers
	@touch $@

# What tests and linters need in addition.
$(DEV): $(OTHERS) requirements/dev.txt
	$(RUN) scripts/install.py dev
	@touch $@
