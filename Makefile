# NeuralBlack needs python3.11, pip and make; everything else goes into $(VENV). `make help` lists the targets.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

PYTHON ?= python3.11
VENV ?= .venv
CONSTRAINTS ?= constraints.txt
EXTRAS := timm,openvino,medical,track,optuna,bench,dev
BIN := $(VENV)/bin
# The stamp is written behind the last step of an installation, so half an installation is done again. Byte code is made
# by all processors, which pip does by one; left to the first import it is never kept where PYTHONDONTWRITEBYTECODE is set.
# What it cannot compile is for another Python (one of torch's files), and is passed over, as pip does.
STAMP := $(VENV)/.installed
# What tests and the demo start by name (python in a job, ray, neuralblack) comes from the environment.
IN_VENV := PATH="$(abspath $(BIN)):$$PATH"

.PHONY: help setup demo accuracy test lint soak screenshots system-packages constraints wheel cluster clean

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(STAMP) ## Install the package and the tested versions of all it needs into .venv (VENV=elsewhere)

$(STAMP): pyproject.toml constraints.txt
	@command -v "$(PYTHON)" > /dev/null || { echo "make: found no $(PYTHON); expected Python 3.11. Fix: install it, or name another: make $(MAKECMDGOALS) PYTHON=/path/to/python3.11" >&2; exit 2; }
	@echo "make: installing into $(VENV), some minutes the first time"
	@if "$(PYTHON)" -c 'import ensurepip' 2> /dev/null; then "$(PYTHON)" -m venv "$(VENV)"; else \
	  "$(PYTHON)" -m venv --without-pip "$(VENV)" && "$(PYTHON)" -m pip --python "$(BIN)/python" install -qq pip; \
	fi || { echo "make: could not make $(VENV). Fix: on Debian and Ubuntu, apt-get install python3.11-venv; elsewhere a Python 3.11 with venv and pip >= 22.3" >&2; exit 2; }
	@"$(BIN)/python" -m pip install -qq --no-compile -c "$(CONSTRAINTS)" -e '.[$(EXTRAS)]'
	@"$(BIN)/python" -m compileall -qq -j 0 "$(VENV)/lib" || true
	@touch "$@"

demo: $(STAMP) ## The whole way on made-up scans: prepare, search, train, evaluate, serve (KEEP=1 leaves the page up)
	@$(IN_VENV) python jobs/demo.py $(if $(filter-out 0,$(KEEP)),--keep)

accuracy: $(STAMP) ## How good a searched model is on scans, beside simpler ones: DATA=DIR (FULL=1, CHOICES=1, FOLD=k, SEED=s, OUT=DIR, RESULTS=DIR)
	@[ -n "$(DATA)" ] || { echo "make: accuracy needs DATA=DIR, the folder of the archive's .mat files. Fix: download and unpack https://doi.org/10.6084/m9.figshare.1512427, then make accuracy DATA=DIR" >&2; exit 2; }
	@$(IN_VENV) python -m benchmarks.accuracy "$(DATA)" $(if $(filter-out 0,$(FULL)),--full) $(if $(filter-out 0,$(CHOICES)),--choices) $(if $(FOLD),--fold $(FOLD)) $(if $(SEED),--seed $(SEED)) $(if $(OUT),--out "$(OUT)") $(if $(RESULTS),--results "$(RESULTS)")

test: ## Lint, then every test but the long ones (SYSTEM=1 may install Chromium for the page's tests)
	@$(MAKE) --no-print-directory -j 2 lint system-packages
	$(IN_VENV) python -m pytest -n 2 --no-loadscope-reorder

lint: $(STAMP) ## Style, types and layers
	$(IN_VENV) ruff check .
	$(IN_VENV) ruff format --check .
	$(IN_VENV) mypy
	$(IN_VENV) lint-imports

soak: $(STAMP) ## The long versions of the tests: many kills, long fuzz; the table goes into docs/benchmarks/soak.md
	$(IN_VENV) python -m benchmarks.soak

system-packages:
	@bash tests/system_packages.sh

constraints: ## Write the newest versions that fit into constraints.txt; then run the tests
	@fresh=$$(mktemp -d); trap 'rm -rf "$$fresh"' EXIT; \
	  $(MAKE) --no-print-directory setup VENV="$$fresh/venv" CONSTRAINTS=/dev/null; \
	  "$$fresh/venv/bin/python" -m pip install -qq boto3 -e '.[$(EXTRAS)]'; \
	  sed -n '/^#/p' constraints.txt > "$$fresh/list"; \
	  "$$fresh/venv/bin/python" -m pip freeze --exclude-editable | sed 's/+[^+]*$$//' >> "$$fresh/list"; \
	  cp "$$fresh/list" constraints.txt

screenshots: $(STAMP) ## Pictures of every state of the page into screenshots/; docs/page.png and page-dark.png are two of them
	@$(IN_VENV) python -m tests.e2e.page.screenshots screenshots

wheel: $(STAMP) ## This commit's package and constraints.txt into dist/, which cluster.yaml installs on every node
	@rm -rf build dist
	@"$(BIN)/python" -m pip wheel -qq --no-deps --wheel-dir dist .
	@cp constraints.txt dist/
	@rm -rf build
	@ls dist/*.whl

# Without --yes: on a cluster that runs, Ray asks before it restarts, which ends every job and the service.
cluster: $(STAMP) ## Start the AWS cluster of cluster.yaml, or bring it up to date, which restarts Ray: it asks first
	@! grep -n 'FILL-IN' cluster.yaml || { echo "make: cluster.yaml: found the lines above still to be filled in; the comments beside them say how" >&2; exit 2; }
	@$(MAKE) --no-print-directory wheel
	@"$(BIN)/python" -m pip install -qq -c constraints.txt boto3
	@$(IN_VENV) ray get-auth-token --generate > /dev/null
	@$(IN_VENV) RAY_USAGE_STATS_ENABLED=0 ray up cluster.yaml

clean: ## Remove what can be made again, except .venv
	rm -rf build dist demo screenshots .cache .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis platform/*.egg-info
	find . -name __pycache__ -not -path './.git/*' -not -path './$(VENV)/*' -prune -exec rm -rf {} +
