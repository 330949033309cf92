# Everything runs in .venv, which `make env` makes and owns.
# Another interpreter: PYTHON=python3.12 make env

PYTHON ?= python3
NEWEST ?= python3.13
NEWEST_TESTS ?= tests/dstjax/_engine tests/dstjax/program $(addprefix tests/dstjax/test_,$(addsuffix .py, \
  conformance frameworks transform sharding))
BIN := .venv/bin
JAX := $(shell sed -n 's/^jax==//p' requirements.txt)
# Fails with one line where the interpreter is not there, or too old; $(1) is what was to be made.
suitable = command -v $(PYTHON) >/dev/null && $(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
  echo "dstjax needs Python 3.11 or newer, and $(PYTHON) is not that:" \
    "name one that is, as in PYTHON=python3.12 make $(1)" >&2; exit 1; }

.DEFAULT_GOAL := help
.PHONY: help env demo test slow newest lint types bench tpu cuda colabs wheel wheel-test clean

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-10s %s\n", $$1, $$2 }' Makefile

env: .venv/.stamp  ## make .venv with the pinned dependencies and dstjax itself

# The stamp goes first and comes back last: without it the environment counts as half-made,
# and is made anew.
.venv/.stamp: requirements.txt pyproject.toml
	@$(call suitable,env)
	@[ -e $@ ] || $(PYTHON) -m venv --clear .venv
	@rm -f $@
	$(BIN)/python -m pip install --quiet -r requirements.txt
	$(BIN)/python -m pip install --quiet --no-deps -e .
	@touch $@

demo: env  ## compare five methods at three sparsities on the digits data
	$(BIN)/python -m experiments.compare --config experiments/configs/digits.py \
	  --methods dense,static,set,rigl,dst_ee --sparsities 0.95,0.98,0.99 --seeds 5 \
	  --workdir runs/demo

test: env  ## the tests, and the examples in the docstrings and the pages
	$(BIN)/python -m pytest -n 2 --dist worksteal tests
	$(BIN)/python -m pytest -n 2 --dist worksteal --optimised tests/dstjax
	JAX_COMPILATION_CACHE_DIR=$(CURDIR)/.pytest_cache/d/jax JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS=0 \
	  $(BIN)/python -m pytest -n 2 --doctest-modules --doctest-glob='*.md' dstjax README.md docs

slow: env  ## the thorough tests
	$(BIN)/python -m pytest -m slow -n 2 --dist worksteal tests
	$(BIN)/python -m pytest -m slow -n 2 --dist worksteal --optimised tests/dstjax

# NEWEST names the interpreter; where it does not run, $(PYTHON) takes its place, and the output says so.
newest:  ## engine, frameworks, programs and a training with the newest Python, jax, flax and optax
	@python=$(NEWEST); $$python -c '' 2>/dev/null || { python=$(PYTHON); $(call suitable,newest); \
	  echo "$(NEWEST) does not run here: $$($(PYTHON) --version) in its place" >&2; }; \
	$$python -m venv --clear .venv-newest
	.venv-newest/bin/python -m pip install --quiet --upgrade -e '.[test]'
	.venv-newest/bin/python -c 'import sys; from importlib.metadata import version; \
	  print("Python", sys.version.split()[0], *(f"{n} {version(n)}" for n in ("jax", "flax", "optax")), sep=", ")'
	.venv-newest/bin/python -m pytest -n 2 --dist worksteal -o cache_dir=.pytest_cache/newest \
	  $(NEWEST_TESTS)
	workdir=$$(mktemp -d) && .venv-newest/bin/python -m experiments.train --config experiments/configs/digits.py \
	  --workdir $$workdir --config.method=dst_ee --config.steps=200 && rm -r $$workdir

lint: env  ## formatting and lint
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: env  ## static types
	$(BIN)/mypy

bench: env  ## the benchmarks
	$(BIN)/python -m experiments.benchmarks

# Environments of their own, since the compilers are large: nothing else needs them.
.venv-tpu/.stamp: COMPILER := "jax[tpu]==$(JAX)"
.venv-cuda/.stamp: COMPILER := jax-cuda12-plugin==$(JAX) jax-cuda12-pjrt==$(JAX)
.venv-tpu/.stamp .venv-cuda/.stamp: requirements.txt pyproject.toml
	@$(call suitable,$(patsubst .venv-%/,%,$(@D)/))
	@[ -e $@ ] || $(PYTHON) -m venv --clear $(@D)
	@rm -f $@
	$(@D)/bin/python -m pip install --quiet -r requirements.txt $(COMPILER)
	$(@D)/bin/python -m pip install --quiet --no-deps -e .
	@touch $@

tpu: .venv-tpu/.stamp  ## compile for TPUs on a CPU, hours of it; a run goes on where the last one ended
	.venv-tpu/bin/python -m experiments.benchmarks.accelerators

cuda: .venv-cuda/.stamp  ## compile for CUDA without a GPU, likewise
	.venv-cuda/bin/python -m experiments.benchmarks.accelerators --topologies h100,h100:8

colabs: env  ## run every notebook
	$(BIN)/python -m experiments.run_colabs --jobs 1

wheel: env  ## build the wheel into dist/
	rm -rf build dist
	$(BIN)/python -m build --wheel

wheel-test: wheel  ## try the wheel in an empty folder, with what it brings itself and nothing else
	$(BIN)/python -m venv --clear build/wheel
	build/wheel/bin/python -m pip install --quiet --constraint requirements.txt dist/*.whl
	folder=$$(mktemp -d) && cd $$folder && $(CURDIR)/build/wheel/bin/python -I $(CURDIR)/.ci/wheel.py && rmdir $$folder

clean:  ## remove .venv, caches and builds (runs/ stays)
	rm -rf .venv .venv-newest .venv-tpu .venv-cuda build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
