# Two commands do everything, on a machine that has Python >= 3.11 and make:
#   make train    sets up .venv, then trains the default grouped-query model
#   make test     sets up .venv, then runs ruff, the type checker and the tests
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready

.PHONY: train test setup clean

setup: $(READY)

$(READY): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and f"Python >= 3.11 is needed, {sys.executable} is {sys.version.split()[0]}: make PYTHON=/path/to/python")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

# make train ARGS="+experiment=mha trainer.max_steps=500"
ARGS ?= +experiment=gqa
train: $(READY)
	$(BIN)/python -m train $(ARGS)

test: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest

clean:
	rm -rf .venv build dist .mypy_cache .pytest_cache .ruff_cache
