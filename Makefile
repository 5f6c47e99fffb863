# `make demo` and `make test` do all the set-up they need; PYTHON chooses the interpreter (3.11 or newer).

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# Modules are compiled when they are first imported: two thirds of the code never is.
INSTALL = $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile -c constraints.txt

# XLA's large buffers on huge pages: about a quarter off the time of a training step on CPU. Half a
# gigabyte of freed memory stays for the next step, instead of being cleared for it: a tenth more.
export GLIBC_TUNABLES ?= glibc.malloc.hugetlb=1:glibc.malloc.arena_max=1:glibc.malloc.mmap_max=0:glibc.malloc.trim_threshold=536870912
# Vectors as long as the CPU has them: another fifth off a locally connected layer with AVX-512.
export XLA_FLAGS ?= --xla_cpu_prefer_vector_width=512

.PHONY: demo test check lint format wheel docs convergence benchmark

demo: $(VENV)/ready
	$(BIN)/python -m experiments.demo --out=runs/demo

test: $(VENV)/ready
	$(BIN)/python -m pytest

check: lint
	$(BIN)/python -m pytest -m 'not slow'

lint: $(VENV)/lint-ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python

format: $(VENV)/lint-ready
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# To install without a repository, in Colab for example.
wheel: $(VENV)/ready
	$(BIN)/python -m pip wheel --quiet --no-deps --wheel-dir=dist .

# The site, in build/site. It runs the notebooks, unless LCN_EXECUTE_NOTEBOOKS=false.
docs: $(VENV)/docs-ready
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet

convergence: $(VENV)/ready
	$(BIN)/python -m experiments.convergence --out=experiments/results/convergence

benchmark: $(VENV)/ready
	$(BIN)/python -m experiments.benchmark --out=experiments/results/benchmark/cpu.json

$(VENV)/docs-ready $(VENV)/lint-ready: $(VENV)/%-ready: $(VENV)/ready
	$(INSTALL) -e '.[$*]'
	touch $@

$(VENV)/ready: setup.cfg constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo 'Python 3.11 or newer is needed: make PYTHON=python3.12 ...'; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(INSTALL) -e '.[test]'
	@$(BIN)/python -c 'from lcn_jax.layer.backends import native; print(native.describe())'
	touch $@
