# Everything that people and CI do here. On a fresh machine `make test` or `make quickstart` is enough: only make and
# Python >= 3.11 (with its venv module) have to be there. Another interpreter: `make setup PYTHON=python3.12`.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
# Some images set it for all: then nothing keeps what Python compiled, and each process compiles torch again.
unexport PYTHONDONTWRITEBYTECODE
PYTHON ?=
BIN := .venv/bin
# A file's tests share their runs, so a file stays on one process. Two processes on two cores: torch must not start a thread per core in each of them.
TEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile

.PHONY: audit bench campaign dashboards help setup quickstart sbom science test test-fast lint format crds requirements clean
.PHONY: cluster-tools cluster-up cluster-images cluster-example cluster-down test-cluster

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: ## make .venv with everything, pinned by hash; again and again without harm
	@PYTHON="$(PYTHON)" bash requirements/setup.sh

quickstart: setup ## base, then continual runs without and with replay, on real text: one table (under 8 minutes on 2 cores with BF16)
	$(BIN)/python benchmarks/quickstart/run.py --workdir quickstart

# NAME: one finding, or several; none: all. Stopped, it goes on where it was; SIZE=2M: another model.
science: setup ## reproduce the papers' findings on real text: NAME=replay, or all of them
	$(BIN)/python benchmarks/science/run.py $(NAME) $(if $(SIZE),--size $(SIZE)) --workdir science

# NAME: one campaign, or several; none: all. COUNT: about how many faults. docs/reliability.md is written by it.
campaign: setup ## kill, cut off, fill up, preempt, poison, cluster faults: one table of what was lost (nothing): NAME=kill, or all
	$(BIN)/python benchmarks/campaigns/run.py $(NAME) $(if $(COUNT),--count $(COUNT))

# NAME: one row, or several (loader, step, ...); none: all. SIZE=full: every case; SIZE=smoke: does it work at all.
bench: setup ## speed beside what people use instead, a mark beside each bar; writes docs/speed.md (what there is time for in 20 minutes)
	$(BIN)/python benchmarks/speed/run.py $(NAME) $(if $(SIZE),--size $(SIZE)) --write

test: setup lint ## everything: lint, unit and integration tests
	$(TEST) -m "not cluster and not e2e" tests

test-fast: setup ## unit tests only
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
	cp crds/continualruns.yaml charts/rewarm/files/continualruns.yaml
	$(BIN)/python -m rewarm_api.crd_study > crds/mixturestudies.yaml
	cp crds/mixturestudies.yaml charts/rewarm/files/mixturestudies.yaml

dashboards: setup ## write charts/rewarm/dashboards/ again from dashboards/
	PYTHONPATH=dashboards $(BIN)/python -m rewarm_dashboards charts/rewarm/dashboards

# A package index or a folder of wheels of this machine must never be written down: no header, no find-links.
COMPILE := env -u UV_FIND_LINKS -u UV_EXTRA_INDEX_URL $(BIN)/uv pip compile -q --universal --generate-hashes \
	--python-version 3.11 --no-emit-find-links --no-emit-index-url --no-header --no-annotate
requirements: setup ## pin the exact set again after a change of dependencies (needs the package index)
	$(COMPILE) requirements/uv.in -o requirements/uv.txt
	$(COMPILE) --all-extras pyproject.toml -o requirements/all.txt
	$(COMPILE) -c requirements/all.txt requirements/build.in -o requirements/build.txt
	$(COMPILE) requirements/tools.in -o requirements/tools.txt
	$(COMPILE) -c requirements/all.txt --extra operator pyproject.toml -o requirements/operator.txt
	$(COMPILE) -c requirements/all.txt --extra trainer --extra benchmarks pyproject.toml -o requirements/trainer.txt

# What the images are made of, as CycloneDX, from the very files that they are installed from; licences as the packages state them.
TOOLS := build/tools/bin
$(TOOLS)/.ready: requirements/tools.txt | setup
	$(BIN)/uv venv -q --clear --python $(BIN)/python build/tools
	$(BIN)/uv pip install -q --python $(TOOLS)/python --require-hashes -r requirements/tools.txt
	@touch $@

sbom: setup $(TOOLS)/.ready ## write build/sbom/: a bill of materials of each image, and the licences of all packages
	@mkdir -p build/sbom
	for image in operator trainer; do $(TOOLS)/cyclonedx-py requirements requirements/$$image.txt --pyproject pyproject.toml \
		--output-reproducible --output-format JSON --output-file build/sbom/$$image.cdx.json; done
	$(TOOLS)/pip-licenses --python $(BIN)/python --from mixed --with-urls --order license --format markdown \
		--output-file build/sbom/licenses.md

audit: setup $(TOOLS)/.ready ## ask for known weaknesses of the pinned packages (needs the network)
	for image in operator trainer; do $(TOOLS)/pip-audit --require-hashes --disable-pip -r requirements/$$image.txt; done

# A real Kubernetes on this machine, from Go modules (5 to 8 minutes the first time) and Debian's packages; needs Go and,
# for all but its API server, root. tools/cluster/README.md. What is built is kept in $REWARM_TOOLS (~/.cache/rewarm/cluster-tools).
CLUSTER := PYTHONPATH=tools/cluster $(or $(PYTHON),$(if $(wildcard $(BIN)/python),$(BIN)/python,python3)) -m rewarm_cluster

cluster-tools: ## build or find the programs of a real cluster; seconds when they are there
	@$(CLUSTER) tools

cluster-up: ## start a cluster of one real node on this machine (about 10 s as root, without the programs)
	@$(CLUSTER) up

cluster-images: ## build both images of this tree and give them to that cluster
	@$(CLUSTER) images

cluster-example: ## an S3 server with real text, the chart and a run on two nodes, on that cluster
	@$(CLUSTER) example

cluster-down: ## take it down; leaves nothing behind
	@$(CLUSTER) down

# MINUTES: leave out, and say so, what would not end in this time.
test-cluster: setup ## integration and end-to-end tests on a real cluster, with all their set-up (as root)
	@PYTHONPATH=tools/cluster $(BIN)/python -m rewarm_cluster test $(if $(MINUTES),--minutes $(MINUTES))

clean: ## remove what was made here (.venv, caches, quickstart, science, runs)
	rm -rf .venv quickstart science speed runs build dist .pytest_cache .ruff_cache .mypy_cache .hypothesis .import_linter_cache
