# `make demo` and `make test` build .venv where it is missing or pyproject.toml or the tested versions have changed.
# PYTHON=/path/to/python chooses the interpreter; otherwise the first that works of the supported versions.

SHELL := /bin/bash
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

VENV := .venv
PY := $(VENV)/bin/python
PIP := $(PY) -m pip install --disable-pip-version-check --constraint .ci/constraints.txt
BASE := $(VENV)/.base-installed
TEST := $(VENV)/.test-installed
# a process a core, one thread each; tests of a file stay together, as they share what they train
PYTEST := OMP_NUM_THREADS=1 $(PY) -m pytest --numprocesses auto --maxprocesses 8 --dist loadfile
PYTHON ?= $(shell for name in python3.11 python3.12 python3.13 python3; do \
	$$name -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null && echo $$name && break; done)

.PHONY: help demo test test-fast lint format .venv venv-test

help:  ## this list
	@grep -E '^[a-z.-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

demo: $(BASE)  ## train and evaluate UR4RecMoE on ml-100k
	$(PY) run_recbole_llm.py --model=UR4RecMoE --dataset=ml-100k

test: $(TEST)  ## the whole test suite
	$(PYTEST)

test-fast: $(TEST)  ## the tests without the slow ones
	$(PYTEST) -m "not slow"

lint: $(TEST)  ## ruff: rules and formatting
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .

format: $(TEST)  ## let ruff mend what it can
	$(PY) -m ruff check --fix .
	$(PY) -m ruff format .

.venv: $(BASE)  ## the environment alone

venv-test: $(TEST)  ## the environment with what the tests need

$(BASE): pyproject.toml .ci/constraints.txt
	@test -n "$(PYTHON)" || { echo "error: no Python 3.11, 3.12 or 3.13 found; install one or run: make PYTHON=/path/to/python" >&2; exit 2; }
	test -x $(PY) || $(PYTHON) -m venv $(VENV)
	$(PIP) --editable .
	$(PIP) --no-deps recbole==1.2.1
	touch $@

$(TEST): $(BASE)
	$(PIP) --editable ".[test]"
	touch $@
