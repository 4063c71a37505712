# The two commands: `make demo` and `make test`. Everything else serves them.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
ARGS   ?=
SEED   ?= 20261123
RUNS   ?= 50
STATES ?= 20000
# sealift.node.cometbft asks for this version; a test keeps both the same.
COMETBFT := github.com/cometbft/cometbft/cmd/cometbft@v0.38.25

# Hundreds of processes are started: each would compile all sources for itself.
export PYTHONDONTWRITEBYTECODE :=

.PHONY: help demo test lint types unit optimised processes wheel-test bench chaos demos explore cometbft cometbft-smoke lock clean

help:
	@echo "make demo            the nine steps, live (ARGS='--accounts 1000 --rate 20')"
	@echo "make test            everything CI runs"
	@echo "make bench           ratios against floors measured in the same run"
	@echo "make demos           the demo by every authority, with rotation (20 minutes)"
	@echo "make chaos           the long campaigns: kill -9 of handovers (RUNS=50), governance"
	@echo "make explore         more states of provisioning sessions (STATES=20000)"
	@echo "make cometbft        get the engine of a network: CometBFT, pinned (needs Go)"
	@echo "make cometbft-smoke  our ledger behind real CometBFT nodes"
	@echo "make lock            write the hash-checked locks anew (needs uv)"

demo: $(VENV)/run.stamp
	@$(BIN)/sealift demo $(ARGS)

test: lint types unit optimised processes wheel-test cometbft-smoke
	@echo "make test: all of it passed"

lint: $(VENV)/dev.stamp
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-cache

types: $(VENV)/dev.stamp
	$(BIN)/mypy

# Side by side on all cores; what starts processes comes after, and networks one by one.
SIDE_BY_SIDE := -n auto --dist worksteal
unit: $(VENV)/dev.stamp
	$(BIN)/python -m pytest $(SIDE_BY_SIDE) -m "not process and not wheel and not cometbft" $(ARGS)

# Under -O no assert of ours may carry a check. The variable reaches the processes that
# pytest starts, an option would not. Campaigns and explorers take long, and run once only;
# what only reads the source would find the same.
optimised: $(VENV)/dev.stamp
	PYTHONOPTIMIZE=1 $(BIN)/python -m pytest -q $(SIDE_BY_SIDE) \
	  -m "not process and not wheel and not cometbft and not campaign" \
	  --ignore tests/explorer --ignore tests/house tests

processes: $(VENV)/dev.stamp
	$(BIN)/python -m pytest $(SIDE_BY_SIDE) -m "process and not wheel and not cometbft" $(ARGS)

wheel-test: $(VENV)/dev.stamp
	$(BIN)/python -m pytest -m wheel tests/wheel

bench: $(VENV)/run.stamp
	@$(BIN)/sealift bench $(ARGS)

demos: $(VENV)/run.stamp
	@for authority in sudo stake workers signer all-of sudo-then-stake; do \
	  echo "== $$authority"; \
	  $(BIN)/sealift demo --authority $$authority --rotate $(ARGS) || exit 1; \
	done

chaos: $(VENV)/dev.stamp
	$(BIN)/sealift chaos --seed $(SEED) --runs $(RUNS) $(ARGS)
	$(BIN)/sealift chaos --seed $(SEED) --runs $(RUNS) --hot-swap $(ARGS)
	$(BIN)/python -m pytest -q -m campaign tests/ledger/test_governance_machine.py \
	  tests/stories/test_governance_machine.py --campaign-runs 50 --campaign-seed $(SEED)

explore: $(VENV)/dev.stamp
	$(BIN)/python -m pytest -s tests/explorer/test_every_session.py --timeout 0 --explorer-states $(STATES)

# The engine of a network: the one on PATH, else built from source by the Go toolchain.
cometbft: $(VENV)/run.stamp
	@$(BIN)/sealift node engine 2>/dev/null || { \
	  command -v go >/dev/null 2>&1 || { $(BIN)/sealift node engine; exit 1; }; \
	  echo "building $(COMETBFT) into .tools/bin"; \
	  CGO_ENABLED=0 GOBIN="$(CURDIR)/.tools/bin" go install $(COMETBFT) && \
	  $(BIN)/sealift node engine; }

# What a user's machine cannot offer is skipped with a line; CI requires it.
cometbft-smoke: $(VENV)/dev.stamp
	@if $(MAKE) --no-print-directory cometbft; then \
	  $(BIN)/python -m pytest -m cometbft tests/cometbft; \
	elif [ -n "$$CI" ]; then \
	  echo "cometbft-smoke: no CometBFT, and CI requires it" >&2; exit 1; \
	else \
	  echo "cometbft-smoke: skipped, there is no CometBFT"; \
	fi

$(VENV)/base.stamp:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Python 3.11 or later is needed; $(PYTHON) is $$($(PYTHON) -V). Say: make PYTHON=python3.12 demo" >&2; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || \
	  { echo "python3-venv is missing. Say: sudo apt install python3-venv" >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/run.stamp: $(VENV)/base.stamp requirements/run.txt pyproject.toml
	@$(BIN)/pip install -q --disable-pip-version-check --require-hashes -r requirements/run.txt
	@$(BIN)/pip install -q --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

$(VENV)/dev.stamp: $(VENV)/base.stamp requirements/dev.txt pyproject.toml
	@$(BIN)/pip install -q --disable-pip-version-check --require-hashes -r requirements/dev.txt
	@$(BIN)/pip install -q --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@ $(VENV)/run.stamp

# No index and no host is ever written into a lock.
LOCK := uv pip compile --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header -q
lock:
	$(LOCK) requirements/enclave.in -o requirements/enclave.txt
	$(LOCK) requirements/run.in -o requirements/run.txt
	$(LOCK) requirements/dev.in -o requirements/dev.txt

clean:
	rm -rf $(VENV) dist build .mypy_cache .pytest_cache .ruff_cache .hypothesis
