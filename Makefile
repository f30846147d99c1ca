# Every target installs what it needs into .venv first. Needs Python 3.11, git and a C++ compiler.
.PHONY: help install repro test lint style bench gpu-check docs ui serve demo prefect rehearse clean
SHELL := /bin/bash
PYTHON ?= python3.11
BIN := .venv/bin
export PATH := $(CURDIR)/$(BIN):$(PATH)
export DO_NOT_TRACK := true

help: ## List the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

install: .venv/.installed ## Install the tested versions into .venv

.venv/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt uv
	$(BIN)/uv pip install --compile-bytecode --python $(BIN)/python -c constraints.txt -e '.[dev]'
	touch $@

repro: install ## Run the whole pipeline and print Table 1
	@exec $(BIN)/r1omni repro $(TARGETS)

test: style ## Lint, then run every test; mypy is one of them, so it does not hold up the others
	$(BIN)/python -m pytest -n 3 --dist loadfile --no-loadscope-reorder

lint: style ## ruff, import-linter, mypy
	$(BIN)/mypy

style: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

bench: install ## Time the GRPO step against the textbook's and TRL's (BENCH=quick: under 10 minutes)
	$(BIN)/uv pip install --quiet --python $(BIN)/python -c constraints.txt -e '.[bench]'
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.bench $(or $(BENCH),full)

# PyPI's torch of constraints.txt is the build for CUDA 13: it needs an NVIDIA driver from 580 on, no CUDA toolkit.
gpu-check: install ## Check a CUDA device in under 10 minutes: tests, the CPU's numbers, speed (benchmarks/GPU.md)
	$(BIN)/python -m benchmarks.gpu_check

docs: install ## Build this documentation into site/, without a network; a broken link fails
	$(BIN)/uv pip install --quiet --python $(BIN)/python -c constraints.txt -e '.[docs]'
	$(BIN)/python docs/generate.py
	rm -rf site && $(BIN)/zensical build --strict
	! grep -rlE '<(script|link)[^>]*(src|href)="?https?:' site --include='*.html'
	@echo "site/index.html; with search: python -m http.server --directory site 8000 --bind 127.0.0.1"

ui: install ## Open MLflow on 127.0.0.1 and print the link to the registry
	@exec $(BIN)/r1omni ui

serve: install ## Serve the champion on 127.0.0.1 by MLflow's scoring server (MEDIA=FOLDER: where paths start)
	@exec $(BIN)/r1omni serve $(if $(MEDIA),--media-root '$(MEDIA)')

demo: install ## Open a page on 127.0.0.1 that answers a file or a recording
	# Gradio asks for older versions of these two than the pipeline's, and runs with the pipeline's.
	$(BIN)/uv pip install --quiet --python $(BIN)/python -c constraints.txt \
		--overrides <(grep -E '^(pillow|tomlkit)==' constraints.txt) -e '.[demo]'
	@exec $(BIN)/r1omni demo

BACKBONE ?= humanomni
rehearse: install ## Run the paper profile's graph on small stand-ins; BACKBONE=qwen2_5_omni: the other one's
	$(BIN)/python -m benchmarks.rehearse --backbone $(BACKBONE)

prefect: install ## Start Prefect's server and a worker for grpo-pipeline/default
	@exec $(BIN)/python -m flows.serve

clean: ## Remove what the stages wrote; data/raw, DVC's cache, MLflow's runs and Prefect's history stay
	rm -rf .state data/{synthetic,manifests,rejects,validation,sets,features,checkpoints,training,measures,judges,evidence,predictions,held_out,audit,cards,registry}
	rm -rf data/truth/* data/reports/{curves,plots,metrics.json,report.html,table1.html,table1.md}
