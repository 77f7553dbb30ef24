PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
RUNTIME := $(VENV)/runtime-installed
DEVELOPMENT := $(VENV)/development-installed
COMPILE := $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header

# One more than there are cores, for many tests wait for processes; 0 runs everything in one, where a debugger can stop.
TEST_PROCESSES ?= $(shell $(PYTHON) -c 'import os; print((os.cpu_count() or 1) + 1)')

IS_OLD = $(shell $(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 || echo yes)
LACKS_VENV = $(shell $(PYTHON) -c 'import venv, ensurepip' >/dev/null 2>&1 || echo yes)
INSTALL = $(BIN)/python -m pip install --quiet --quiet --disable-pip-version-check --require-hashes
# pip writes at length about what it tried; this is the last line.
UNREACHABLE = "Not installed: see above. Without a network the package index cannot be reached"

.DEFAULT_GOAL := help
.PHONY: help run test check format format-check lint types migration benchmark torture proof proof-of-proof pins pins-check audit licences screenshots

help: ## list these commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-14s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

run: $(RUNTIME) ## install, migrate and start the service (offline with the simulator unless AT_USERNAME is set)
	@$(BIN)/flask --app app sms migrate
	@exec $(BIN)/flask --app app sms start

test: $(DEVELOPMENT) ## run the whole test suite (some of it: make test ARGS=tests/test_settings.py)
	@$(BIN)/python -m pytest --numprocesses=$(TEST_PROCESSES) --dist=loadgroup $(ARGS)

check: format-check lint types test ## format, lint, types, tests: is it fit?

format: $(DEVELOPMENT) ## put the code in form
	@$(BIN)/ruff format

format-check: $(DEVELOPMENT)
	@$(BIN)/ruff format --check

lint: $(DEVELOPMENT) ## look for mistakes
	@$(BIN)/ruff check

types: $(DEVELOPMENT) ## check the types
	@$(BIN)/mypy
	@$(BIN)/mypy gunicorn.conf.py

migration: $(RUNTIME) ## write a migration from what changed in the tables: make migration m="add a column"
	$(if $(m),,$(error Say what it does: make migration m="add a column"))
	@$(BIN)/python -m migrations "$$m"

benchmark: $(DEVELOPMENT) ## measure every promise; results also in benchmarks/results/
	@$(BIN)/python -m benchmarks

torture: $(DEVELOPMENT) ## kill processes thousands of times under load on both stores (fewer: make torture ARGS="--kills 200")
	@$(BIN)/python -m tests.crash.torture $(ARGS)

proof: $(DEVELOPMENT) ## end the process at every step of every scenario, try every order of two, and explore the model
	@$(BIN)/python -m tests.proof $(ARGS)
	@$(BIN)/python -m tests.proof.orders
	@$(BIN)/python -m tests.proof.model

proof-of-proof: $(DEVELOPMENT) ## plant faults in a copy of the source: each has to be found
	@$(BIN)/python -m tests.proof.planted $(ARGS)

audit: $(DEVELOPMENT) ## look up known vulnerabilities of what is pinned (where an advisory source can be reached)
	@$(BIN)/python .ci/audit.py

licences: $(DEVELOPMENT) ## write docs/licences.md from what is installed
	@$(BIN)/python -m tests.licences

screenshots: $(DEVELOPMENT) ## pictures of every page of a seeded demo, into screenshots/ (some: make screenshots ARGS=overview)
	@$(BIN)/python -m tests.pages.screenshots $(ARGS)

pins: $(DEVELOPMENT) ## compile requirements*.in into requirements*.txt
	@$(COMPILE) requirements.in --output-file requirements.txt
	@$(COMPILE) requirements-dev.in --output-file requirements-dev.txt

pins-check: $(DEVELOPMENT) ## fail when requirements*.txt no longer follow from requirements*.in
	@rm -rf $(VENV)/pins && mkdir $(VENV)/pins && cp requirements*.in requirements*.txt $(VENV)/pins
	@cd $(VENV)/pins && ../../$(COMPILE) requirements.in --output-file requirements.txt
	@cd $(VENV)/pins && ../../$(COMPILE) requirements-dev.in --output-file requirements-dev.txt
	@for pins in requirements.txt requirements-dev.txt; do \
		cmp -s $$pins $(VENV)/pins/$$pins || { echo "$$pins is stale: run make pins" >&2; exit 1; }; done

$(RUNTIME): requirements.txt
	$(if $(IS_OLD),$(error Python 3.11 or newer is needed: install it (Debian, Ubuntu: apt install python3.11 python3.11-venv) or name it with PYTHON=python3.11))
	$(if $(LACKS_VENV),$(error $(PYTHON) lacks venv: install it (Debian, Ubuntu: apt install python3-venv)))
	@echo "Installing (20 MB, once)…"
	@test -x $(BIN)/pip || $(PYTHON) -m venv $(VENV)
	@$(INSTALL) --requirement requirements.txt || { echo $(UNREACHABLE) >&2; exit 1; }
	@touch $@

$(DEVELOPMENT): requirements-dev.txt $(RUNTIME)
	@$(INSTALL) --requirement requirements-dev.txt || { echo $(UNREACHABLE) >&2; exit 1; }
	@touch $@
