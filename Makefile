# make fit          set up, then train the default model        ARGS="--trainer.max_epochs 2"
# make test         set up, then run the tests                  ARGS="-m 'not slow'"
# make check        set up, then lint, format and types
# make newest       install the newest releases that pyproject.toml allows into .venv-newest, and run the tests there
# make constraints  write constraints.txt: the releases that make newest installed
# Another Python (3.11 or newer): make fit PYTHON=python3.12

PYTHON ?= $(shell command -v python3.11 || echo python3)
RUN := .venv/bin/python
NEWEST := .venv-newest/bin/python
# A process for each core, each with whole files of tests.
PARALLEL := --numprocesses auto --dist loadfile
INSTALL := -m pip install --disable-pip-version-check --progress-bar off

.PHONY: install fit test check newest constraints

# The stamp is newer than these files when there is nothing to install.
install: .venv/installed

.venv/installed: pyproject.toml constraints.txt
	test -x $(RUN) || $(PYTHON) -m venv .venv
	$(RUN) $(INSTALL) -c constraints.txt -e ".[dev]"
	touch $@

fit: install
	$(RUN) train.py fit $(ARGS)

test: install
	$(RUN) -m pytest $(PARALLEL) $(ARGS)

check: install
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m mypy

newest:
	test -x $(NEWEST) || $(PYTHON) -m venv .venv-newest
	$(NEWEST) $(INSTALL) --upgrade --upgrade-strategy eager -e ".[dev,bench]"
	$(NEWEST) -m pytest $(PARALLEL) $(ARGS)

# Not torch and what it alone needs: an installed torch within the bounds of pyproject.toml is kept, with its own.
constraints:
	(echo "# The releases that were tested together; written by make constraints"; \
	$(NEWEST) -m pip freeze --all --exclude-editable | grep -viE '^(pip|torch|setuptools|nvidia.*|cuda.*|triton)==') \
	> constraints.txt
