# `make` or `make help` lists what there is.
#
# PYTHON is the interpreter that .venv is made with (3.11 or later). Each stamp in .venv says which lock it was made from.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --quiet --disable-pip-version-check
CONFIG ?= conf/demo.toml
WORKERS ?= auto

.DEFAULT_GOAL := help
.PHONY: help run demo test coverage torture check fix lock bench conformance clean

help: ## this list
	@sed -n 's/^\([a-z]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 12

run: $(VENV)/run.stamp ## a CA to try, on this machine (CONFIG=… for another configuration)
	@exec $(BIN)/acmeca --config $(CONFIG) serve --init

demo: $(VENV)/dev.stamp ## a certificate from its order to its revocation, on real parts, in under a minute
	@$(BIN)/python tests/interop/demo.py

test: $(VENV)/dev.stamp ## every test that this machine can run (ACMECA_REQUIRE_ALL=1: a skipped one is a failure)
	$(BIN)/ruff check --quiet .
	$(BIN)/ruff format --quiet --check .
	$(BIN)/mypy
	$(BIN)/lint-imports > /dev/null
	$(BIN)/python -m pytest -n $(WORKERS)

coverage: $(VENV)/dev.stamp ## the same tests, and which lines and branches they leave out (a third slower)
	$(BIN)/python -m pytest -n $(WORKERS) --cov --cov-report=term:skip-covered

torture: $(VENV)/dev.stamp ## every failure test in full: 500 kills, 200 power cuts … (ACMECA_CRASHES=, ACMECA_POWER_CUTS=: docs/failures.md)
	ACMECA_TORTURE=1 $(BIN)/python -m pytest -n $(WORKERS) tests/torture

check: $(VENV)/dev.stamp ## the linters and types alone
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

fix: $(VENV)/dev.stamp ## what the linters can mend by themselves
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(VENV)/dev.stamp ## the figures of this machine: orders and OCSP (see benchmarks/README.md)
	$(BIN)/python benchmarks/run.py

conformance: $(VENV)/dev.stamp ## docs/conformance.md anew, from the tests of tests/rfc
	$(BIN)/python -m tests.support.conformance

# With the extras in the lock: older pips, Debian's among them, else take the newest release for an extra and refuse its hash.
lock: ## make the locks anew from pyproject.toml (needs uv)
	uv pip compile --quiet --no-strip-extras --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-annotate \
		--no-header --group build pyproject.toml --output-file requirements/run.txt
	uv pip compile --quiet --no-strip-extras --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-annotate \
		--no-header --constraint requirements/run.txt --group build --group dev pyproject.toml \
		--output-file requirements/dev.txt

clean: ## everything that was made here, but no CA: var/ stays
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache .coverage*

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "acmeca needs Python 3.11 or later: make PYTHON=/path/to/python3.11"; exit 1; }
	@$(PYTHON) -m venv $(VENV) || \
		{ rm -rf $(VENV); echo "python3-venv is missing; on Debian and Ubuntu: apt-get install python3-venv"; exit 1; }

$(VENV)/run.stamp: $(VENV)/bin/python requirements/run.txt pyproject.toml
	@echo "Installing what acmeca needs into $(VENV) …"
	@$(PIP) install --require-hashes --requirement requirements/run.txt
	@$(PIP) install --no-deps --no-build-isolation --editable .
	@touch $@

$(VENV)/dev.stamp: $(VENV)/run.stamp requirements/dev.txt
	@echo "Installing what the tests need into $(VENV) …"
	@$(PIP) install --require-hashes --requirement requirements/dev.txt
	@touch $@
