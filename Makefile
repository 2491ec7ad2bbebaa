# Two commands do everything, on a machine that has Python >= 3.11 and make:
#   make train    sets up .venv, then trains the default grouped-query model
#   make test     sets up .venv, then runs ruff, the type checker and the tests
# And on a machine with a GPU:
#   make gpu-test runs the tests that need one, and says which it could not
# And for an hour or more:
#   make faults   kills, damages and misleads real runs, and counts what they lose
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready

.PHONY: train test types unit gpu-test faults setup clean

# Modules are compiled when they are first imported: most never are.
setup: $(READY)

$(READY): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and f"Python >= 3.11 is needed, {sys.executable} is {sys.version.split()[0]}: make PYTHON=/path/to/python")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --no-compile --disable-pip-version-check -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

# make train ARGS="+experiment=mha trainer.max_steps=500"
ARGS ?= +experiment=gqa
train: $(READY)
	$(BIN)/python -m train $(ARGS)

# Tests start many processes: without bytecode, each would compile torch's modules for seconds.
BYTECODE := PYTHONDONTWRITEBYTECODE= PYTHONPYCACHEPREFIX="$(CURDIR)/.venv/bytecode"
COMPILED := .venv/bytecode/.compiled

# Types are checked beside the tests, some of which wait.
test: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	@$(MAKE) --no-print-directory --jobs=2 types unit

types: $(READY)
	$(BIN)/mypy

# By one process: several at once would each compile all of it. What cannot be imported is told below.
$(COMPILED): $(READY)
	@mkdir -p $(@D)
	@$(BYTECODE) $(BIN)/python -m pytest --collect-only -q -m "not gpu" >/dev/null 2>&1 && touch $@ || true

# make test JOBS=9, where there are 8 cores and 16 GB of memory: one more, as some tests wait
JOBS ?= 3
unit: $(READY) $(COMPILED)
	$(BYTECODE) $(BIN)/python -m pytest -n $(JOBS) --dist worksteal -m "not gpu" --no-skips

# make gpu-test GPU_JOBS=5, where there are 50 GiB of GPU memory: a job takes up to 9
GPU_JOBS ?= 1
gpu-test: $(READY)
	TORCHINDUCTOR_COMPILE_THREADS=1 $(BIN)/python -m pytest --on-gpu -n $(GPU_JOBS) --dist worksteal

# make faults SEED=1; docs/reliability.md says what each of them does
SEED ?= 0
FAULTS := run_folder preparing saves kills starts damage ends outside wrong_settings
faults: $(READY)
	@for name in $(FAULTS); do $(BYTECODE) $(BIN)/python tests/faults/$$name.py --seed $(SEED) || failed=1; \
	done; $(BYTECODE) $(BIN)/python tests/faults/try_hostile.py || failed=1; exit $${failed:-0}

clean:
	rm -rf .venv build dist .mypy_cache .pytest_cache .ruff_cache
