# make run    the sample site on http://127.0.0.1:5001, its data in sample.db (FASTSTATE_STORE: elsewhere)
# make test   every test, with what they need installed first
# Nothing is fetched twice: what is installed is remembered by the checksum of pyproject.toml, so a later run needs no network.

PYTHON ?= python3
HOST ?= 127.0.0.1
PORT ?= 5001
PYTEST_ARGS ?=

BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
SUM := $(shell cksum pyproject.toml | cut -d' ' -f1)
VENV := $(BIN)/python
RUN_STAMP := .venv/.installed-run-$(SUM)
DEV_STAMP := .venv/.installed-dev-$(SUM)
BENCH_STAMP := .venv/.installed-bench-$(SUM)
DATASTAR := .cache/datastar/datastar.js

# The bundle from the tests, if it was fetched, else the address that the package itself uses.
LOCAL_DATASTAR = $(if $(wildcard $(DATASTAR)),FASTSTATE_DATASTAR_URL=$(abspath $(DATASTAR)))

.DELETE_ON_ERROR:
.PHONY: help run install services test test-full lint format instructions bench bench-full clean

help:
	@sed -n 's/^# \{0,1\}//p' Makefile | head -2
	@echo "also: test-full lint format instructions bench bench-full clean"

$(VENV):
	@tests/tools/make_venv.sh $(PYTHON)

$(RUN_STAMP): | $(VENV)
	@echo "installing the package and a server into .venv"
	@$(PIP) install --quiet --editable ".[all]" "uvicorn[standard]>=0.54"
	@rm -f .venv/.installed-run-* && touch $@

$(DEV_STAMP): | $(VENV)
	@echo "installing the package and the tools for development into .venv"
	@$(PIP) install --quiet --editable ".[all,dev]"
	@rm -f .venv/.installed-dev-* .venv/.installed-run-* && touch $@ $(RUN_STAMP)

$(BENCH_STAMP): | $(VENV)
	@echo "installing the package and the tools for load tests into .venv"
	@$(PIP) install --quiet --editable ".[all,bench]"
	@rm -f .venv/.installed-bench-* && touch $@

$(DATASTAR): | $(VENV)
	@$(BIN)/python tests/tools/fetch_datastar.py

run: $(RUN_STAMP)
	@echo "The sample site: http://$(HOST):$(PORT)  (Ctrl-C ends it)"
	@FASTSTATE_DEBUG=$${FASTSTATE_DEBUG:-true} FASTSTATE_STORE=$${FASTSTATE_STORE:-sqlite+aiosqlite:///sample.db} \
	  $(LOCAL_DATASTAR) \
	  exec $(BIN)/python -m uvicorn sample_site.main:app --host $(HOST) --port $(PORT) --timeout-graceful-shutdown 10

install: $(DEV_STAMP)

services:
	@tests/tools/install_services.sh

test: $(DEV_STAMP) $(DATASTAR) services
	@$(BIN)/python -m pytest -m "not full" $(PYTEST_ARGS)

test-full: $(DEV_STAMP) $(DATASTAR) services
	@$(BIN)/python -m pytest -p tests.tools.full_report $(PYTEST_ARGS)

lint: $(DEV_STAMP)
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/pyright

format: $(DEV_STAMP)
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

# Fails when an event, a page or a delivery takes a tenth more instructions than benchmarks/results/instructions.json says.
instructions: $(DEV_STAMP) services
	@$(BIN)/python -m benchmarks.instructions

bench: $(BENCH_STAMP)
	@$(BIN)/python -m benchmarks

bench-full: $(BENCH_STAMP)
	@$(BIN)/python -m benchmarks --full

clean:
	@rm -rf .venv .cache build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis *.egg-info
	@find . -name __pycache__ -type d -not -path './.git/*' -prune -exec rm -rf {} +
