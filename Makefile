# make run: an environment and the shipped model answering.  make test: lint, types, all tests.
# Stamp files inside .venv record what is installed, so a second call does nothing again.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV   := .venv
BIN    := $(VENV)/bin
# PIP_CONSTRAINT reaches pip's build environments as well: every version comes from one file.
PIP    := PIP_CONSTRAINT=$(CURDIR)/constraints.txt PIP_DISABLE_PIP_VERSION_CHECK=1 $(BIN)/pip
JOBS   ?= 2

.DEFAULT_GOAL := help
.PHONY: help venv dev run test lint types format docs bench native-check sanitize clean

help: ## List the targets
	@sed -n 's/^\([a-z-]*\):.*## /\1|/p' $(MAKEFILE_LIST) | awk -F'|' '{ printf "  make %-8s %s\n", $$1, $$2 }'

venv: $(VENV)/user.stamp ## Make .venv with everything a user needs
dev: $(VENV)/dev.stamp ## Add the developers' tools to .venv

$(BIN)/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Dougong needs Python 3.11 or newer; say make PYTHON=/path/to/python3.11")'
	$(PYTHON) -m venv $(VENV)

$(VENV)/user.stamp: $(BIN)/python pyproject.toml constraints.txt
	@echo "installing into $(VENV) (a few minutes) ..."
	$(PIP) install --quiet --editable .
	@touch $@

$(VENV)/dev.stamp: $(VENV)/user.stamp
	$(PIP) install --quiet --editable '.[dev]'
	$(PIP) install --quiet --no-deps xgrammar  # it asks for triton, which only its GPU kernels use
	@touch $@

run: venv ## The shipped model answers a prompt
	@$(BIN)/dougong generate "Write a story about a fox and a pencil." --seed 1
	@printf '%s\n' '' 'What to try next:' \
	  '  .venv/bin/dougong chat                            talk to the same model' \
	  '  .venv/bin/dougong model inspect v4-flash          what DeepSeek-V4-Flash is, beside V3.2' \
	  '  .venv/bin/dougong doctor                          what this machine can run' \
	  '  .venv/bin/dougong --help                          every command'

lint: dev ## ruff: lint and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: dev ## mypy, strict on the package
	$(BIN)/mypy

test: lint types ## Lint, types and all tests
	OMP_NUM_THREADS=1 $(BIN)/pytest -n $(JOBS)

format: dev ## Rewrite the sources in ruff's format
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

docs: dev ## Write the generated pages (docs/cli.md) again
	$(BIN)/python tools/write_cli_docs.py

bench: dev ## Measure this machine; results land in bench/results
	set -e; for script in bench/*.py; do $(BIN)/python $$script --record; done
	$(BIN)/dougong bench formats --record

NATIVE := dougong/kernels/native
native-check: ## The kernels compile for aarch64
	for file in dispatch tables path_portable; do aarch64-linux-gnu-g++ -std=c++17 -O1 -ffp-contract=off \
	  -fopenmp -Wall -Wextra -Wno-psabi -Wno-maybe-uninitialized -Werror -c $(NATIVE)/$$file.cpp \
	  -o /dev/null || exit 1; done

sanitize: dev ## The kernels' tests without a bad address, undefined behaviour or a race
	$(BIN)/python tools/sanitize_native.py memory
	$(BIN)/python tools/sanitize_native.py threads

clean: ## Remove the environment and every cache
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
