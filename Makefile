# `make` lists the targets. Everything runs in .venv, which `make setup` builds and every target that needs it renews.
# Choose an interpreter with `make setup PYTHON=python3.12`; hand arguments on with ARGS, as in `make test ARGS="-k tree"`.

PYTHON ?= python3
ARGS ?=
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
PIP := $(BIN)/python -m pip --disable-pip-version-check

# protoc finds its mypy plugins on the PATH.
PROTOC := PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python -m grpc_tools.protoc -I protos
PROTOS := protos/sybil_engine/rpc/v1/*.proto
GENERATED := sybil_engine/rpc/v1

MAKEFLAGS += --no-print-directory
.DEFAULT_GOAL := help
.PHONY: help setup demo up test check protos bench compose-test venv drift

help: ## List what there is
	@awk 'BEGIN {FS = ":.*## "} /^[a-z-]+:.*## / {printf "  make %-13s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(STAMP) ## Build .venv, every version pinned; takes no time when nothing changed

demo: setup ## Start the three services and complete real Python code
	@$(BIN)/sybil demo $(ARGS)

up: setup ## Start the engine on this machine; Ctrl-C drains and stops it
	@exec $(BIN)/sybil up $(ARGS)

test: setup ## Run every test that needs neither Docker nor a GPU
	@$(BIN)/pytest --numprocesses 2 --dist loadscope --no-loadscope-reorder $(ARGS)

check: setup ## Check formatting, lint, imports, types and generated code; names all that fail
	@failed=; \
	step() { \
	    name=$$1; shift; \
	    printf '\n== %s: %s\n' "$$name" "$$*"; \
	    "$$@" || failed="$$failed  $$name\n"; \
	}; \
	step formatting $(BIN)/ruff format --check .; \
	step lint $(BIN)/ruff check .; \
	step imports $(BIN)/lint-imports; \
	step types $(BIN)/mypy; \
	step generated-code $(MAKE) drift; \
	if [ -n "$$failed" ]; then printf "\nFailed:\n$$failed"; exit 1; fi; \
	printf '\nAll checks passed.\n'

protos: setup ## Generate sybil_engine/rpc/v1 from protos/
	@$(PROTOC) --python_out=. --grpc_python_out=. --mypy_out=quiet:. --mypy_grpc_out=quiet:. $(PROTOS)

bench: setup ## Measure the engine and its peers; ARGS=--help says what there is
	@$(BIN)/sybil bench $(ARGS)

compose-test: setup ## Build the image, bring the stack up, kill the drafter, take it down (needs Docker)
	@$(BIN)/pytest --compose tests/e2e/test_compose.py $(ARGS)

# ------------------------------------------------------------------------------------------------ used by the targets

$(STAMP): pyproject.toml constraints.txt
	@$(BIN)/python -c '' 2>/dev/null || $(MAKE) venv
	@echo 'Installing into $(VENV), a few minutes the first time: torch is large.'
	@# setuptools first, and pinned like all the rest: no build environment of its own, with versions of its own
	@$(PIP) install --quiet --constraint constraints.txt setuptools
	@$(PIP) install --constraint constraints.txt --no-build-isolation --editable '.[dev]'
	@$(PIP) check
	@touch $@

venv:
	@command -v $(PYTHON) >/dev/null || { \
	    echo 'There is no $(PYTHON) here: install Python 3.11 or later, or name one with `make setup PYTHON=...`.'; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	    said=$$($(PYTHON) --version 2>&1 | head -n 1); \
	    echo "$(PYTHON) is not Python 3.11 or later (it says: $$said): name one with \`make setup PYTHON=...\`."; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
	    echo '$(PYTHON) has no venv module: install it (on Debian and Ubuntu the package is python3-venv).'; exit 1; }
	@echo "Building $(VENV) with $$($(PYTHON) --version)."
	@$(PYTHON) -m venv --clear $(VENV)

drift:
	@fresh=$$(mktemp -d) && trap 'rm -rf "$$fresh"' EXIT && \
	$(PROTOC) --python_out="$$fresh" --grpc_python_out="$$fresh" --mypy_out=quiet:"$$fresh" --mypy_grpc_out=quiet:"$$fresh" $(PROTOS) && \
	if diff -r -x __init__.py -x __pycache__ "$$fresh/$(GENERATED)" $(GENERATED); \
	then echo '$(GENERATED) is what protos/ says.'; \
	else echo '$(GENERATED) is not what protos/ says: run `make protos`.'; exit 1; fi
