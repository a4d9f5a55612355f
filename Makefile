# Everything that people and CI do here. On a fresh machine `make test` or `make quickstart` is enough: only make and
# Python >= 3.11 (with its venv module) have to be there. Another interpreter: `make setup PYTHON=python3.12`.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
PYTHON ?=
BIN := .venv/bin
# A file's tests share their runs, so a file stays on one process. Two processes on two cores: torch must not start a thread per core in each of them.
TEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile

.PHONY: help setup quickstart test test-fast lint format crds requirements clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: ## make .venv with everything, pinned by hash; again and again without harm
	@PYTHON="$(PYTHON)" bash requirements/setup.sh

quickstart: setup ## base, then continual runs without and with replay, on real text: one table (under 8 minutes, 2 cores)
	$(BIN)/python benchmarks/quickstart/run.py --workdir quickstart

test: setup lint ## everything: lint, unit and integration tests (under 15 minutes on 2 cores)
	$(TEST) tests

test-fast: setup ## unit tests only (under 3 minutes)
	$(TEST) tests/unit

lint: setup ## ruff, mypy, import-linter
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: setup ## let ruff put the code in order
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

crds: setup ## write crds/ again from the models in api/
	$(BIN)/python -m rewarm_api.crd > crds/continualruns.yaml

# A package index or a folder of wheels of this machine must never be written down: no header, no find-links.
COMPILE := env -u UV_FIND_LINKS -u UV_EXTRA_INDEX_URL $(BIN)/uv pip compile -q --universal --generate-hashes \
	--python-version 3.11 --no-emit-find-links --no-emit-index-url --no-header --no-annotate
requirements: setup ## pin the exact set again after a change of dependencies (needs the package index)
	$(COMPILE) requirements/uv.in -o requirements/uv.txt
	$(COMPILE) --all-extras pyproject.toml -o requirements/all.txt

clean: ## remove what was made here (.venv, caches, quickstart, runs)
	rm -rf .venv quickstart runs build dist .pytest_cache .ruff_cache .mypy_cache .hypothesis .import_linter_cache
