# The commands of this repository. Each sets up .venv first, which takes minutes once and no time afterwards.
#   make demo            train the built-in model, on a CPU or a GPU, whichever is found
#   make demo DEVICE=cpu force the choice (cpu or gpu)
#   make check           every day: style, types and what needs no server, under 2 minutes
#   make test            style, types and the whole test suite
#   make test ARGS="-k reward"   arguments for pytest

PYTHON ?= python3
DEVICE ?= auto
ARGS ?=
RUN := runs/demo-$(shell date +%Y%m%d-%H%M%S)
BIN := .venv/bin

.PHONY: help setup demo check test lint pins clean

help:
	@sed -n 's/^#   //p' Makefile

setup:
	@command -v $(PYTHON) >/dev/null || { echo "set-up: $(PYTHON) is needed, 3.11 or newer. Install it:" \
	    "sudo apt-get install -y python3 python3-venv, or sudo dnf install -y python3.11" >&2; exit 2; }
	@$(PYTHON) tools/setup.py --device $(DEVICE)

demo: setup
	@echo "demo: trains the built-in model on arithmetic through a vLLM server, at most 5 minutes on 2 cores; the run is kept in $(RUN)"
	@$(BIN)/zero run tiny_arithmetic_cpu --output $(RUN)

# Two at a time, file by file, because half of a test's time is a server that starts; in the order of tests/conftest.py,
# the long ones first. Threads go to sleep early, or those of one process would spin beside the other's
# (grpo/rollout/cores.py).
PYTEST = GOMP_SPINCOUNT=1000 $(BIN)/python -m pytest -q -n 2 --dist loadfile --no-loadscope-reorder
test: lint
	$(PYTEST) --durations=15 $(ARGS)

check: lint
	$(PYTEST) -m "not server and not slow" $(ARGS)

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# The lists without addresses, from the *.in files. A CPU build of torch has to be found by pip (PIP_FIND_LINKS).
# `===` in the GPU list: `==2.13.0` would take 2.13.0+cpu as well.
COMPILE = $(BIN)/uv pip compile -q --upgrade --no-header --no-annotate --python-version 3.11 \
	--python-platform x86_64-manylinux_2_28
pins: setup
	UV_FIND_LINKS="$(PIP_FIND_LINKS)" $(COMPILE) --override requirements/overrides.txt requirements/cpu.in -o requirements/cpu.txt
	$(COMPILE) requirements/gpu.in -o requirements/gpu.txt
	sed -i 's/^torch==/torch===/' requirements/gpu.txt

# Runs stay: they are yours.
clean:
	rm -rf .venv build dist .cache .pytest_cache .ruff_cache .mypy_cache *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
