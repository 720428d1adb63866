# Everything goes through here: people, continuous integration and the README.
# The system's Python: pyfuse3 is compiled against it.
PYTHON  ?= /usr/bin/python3
VENV    := .venv
BIN     := $(VENV)/bin
RUNNING := $(VENV)/.installed-to-run
STAMP   := $(VENV)/.installed
RUNS    ?= 300
SEED    ?= 1
PROFILE ?=
MUTATION ?=
KEEP    ?=
# What the suite needs to run, and what only its tests and benchmarks need beside that.
RUN_PACKAGES  := python3-venv python3-dev build-essential pkg-config libfuse3-dev fuse3
TEST_PACKAGES := etcd-server iproute2 prometheus redis-server redis-tools
FAST    := not slow and not fuse and not network

.PHONY: help setup demo test check format sim bench bench-compare bench-contention bench-modes bench-faults bench-scale clean

help:
	@echo "make demo [KEEP=1]     a cluster file system on this machine, from nothing to the figures"
	@echo "make test              every test, as continuous integration runs them"
	@echo "make check             formatting, lint, types, imports and the fast tests: under a minute"
	@printf "make sim RUNS= SEED= [PROFILE=] [MUTATION=]\n                       simulated clusters under faults; any seed replays\n"
	@echo "make bench             minitransactions per second on this machine"
	@echo "make bench-compare     beside Redis, etcd and a bare echo; memory"
	@echo "make bench-contention  many who want the same bytes, as a figure"
	@echo "make bench-modes       all modes side by side, as a figure"
	@echo "make bench-faults      fail-over, catch-up, checkpoints and restarts in figures"
	@echo "make bench-scale       throughput of 2 to 256 simulated memory nodes, as a figure"
	@echo "make setup             Debian packages, virtual environment and dependencies, for tests, too"
	@echo "make clean             remove the virtual environment and all caches"

setup: $(STAMP)

# Shell code that installs those of the Debian packages $(1) that are missing.
define debian_packages
missing=""; for package in $(1); do \
    dpkg-query -W -f '$${Status}' $$package 2>/dev/null | grep -q "ok installed" \
        || missing="$$missing $$package"; \
done; \
if [ -n "$$missing" ]; then \
    if [ "$$(id -u)" != 0 ]; then \
        echo "These Debian packages are missing:$$missing"; \
        echo "Run make as root, or install them: apt-get install$$missing"; exit 1; \
    fi; \
    apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends $$missing; \
fi
endef

$(RUNNING): pyproject.toml
	@$(call debian_packages,$(RUN_PACKAGES))
	@echo "Making $(VENV), with the Python packages that the suite needs to run"
	@test -x $(BIN)/pip || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable .
	@touch $@

$(STAMP): $(RUNNING)
	@$(call debian_packages,$(TEST_PACKAGES))
	@echo "Adding the Python packages that tests and benchmarks need"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev,bench]'
	@touch $@

demo: $(RUNNING)
	$(BIN)/python -m sinfoniafs.demo $(if $(KEEP),--keep)

# Tests marked fuse and network start real processes; two at a time suit two cores.
test: setup
	$(BIN)/python -m pytest -n 2 --dist loadfile

check: setup
	$(MAKE) --jobs --output-sync --no-print-directory check-format check-lint check-types check-imports check-tests

.PHONY: check-format check-lint check-types check-imports check-tests
check-format:
	@$(BIN)/ruff format --check .
check-lint:
	@$(BIN)/ruff check .
check-types:
	@$(BIN)/mypy
check-imports:
	@$(BIN)/lint-imports
check-tests:
	@$(BIN)/python -m pytest -q -n 2 -m "$(FAST)"

format: setup
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

sim: setup
	$(BIN)/python -m sinfonia.simulation --runs $(RUNS) --seed $(SEED) \
	    $(if $(PROFILE),--profile $(PROFILE)) $(if $(MUTATION),--mutation $(MUTATION))

bench: setup
	$(BIN)/sinfonia bench

bench-compare: setup
	$(BIN)/python -m bench.compare

CONTENTION_FIGURE := core/bench/figures/contention
bench-contention: setup
	$(BIN)/python -m bench.contention --json > $(CONTENTION_FIGURE).jsonl
	$(BIN)/python core/bench/plot_contention.py $(CONTENTION_FIGURE).jsonl $(CONTENTION_FIGURE).png
	$(BIN)/python -m bench.contention --lock-wait

MODES_FIGURE := core/bench/figures/modes
bench-modes: setup
	$(BIN)/sinfonia bench --compare-modes --json > $(MODES_FIGURE).jsonl
	$(BIN)/python core/bench/plot_modes.py $(MODES_FIGURE).jsonl $(MODES_FIGURE).png

bench-faults: setup
	@for script in fail_over catch_up catch_up_under_load slow_replica stalls restart; do \
	    echo $$script; $(BIN)/python core/bench/$$script.py || exit 1; \
	done

# Virtual time and recorded costs: every machine gets the same lines, and so the same figure.
FIGURE := core/bench/figures/scalability
bench-scale: setup
	@echo "Simulating for some minutes; the lines go to $(FIGURE).jsonl"
	@$(BIN)/python -m bench.scale > $(FIGURE).jsonl
	$(BIN)/python core/bench/plot_scalability.py $(FIGURE).jsonl $(FIGURE).png

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
