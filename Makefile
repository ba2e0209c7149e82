# make fit     set up, then train the default model        ARGS="--trainer.max_epochs 2"
# make test    set up, then run the tests                  ARGS="-m 'not slow'"
# make check   set up, then lint, format and types
# Another Python (3.11 or newer): make fit PYTHON=python3.12

PYTHON ?= $(shell command -v python3.11 || echo python3)
RUN := .venv/bin/python

.PHONY: install fit test check

# The stamp is newer than pyproject.toml when there is nothing to install.
install: .venv/installed

.venv/installed: pyproject.toml
	test -x $(RUN) || $(PYTHON) -m venv .venv
	$(RUN) -m pip install --disable-pip-version-check --progress-bar off -e ".[dev]"
	touch $@

fit: install
	$(RUN) train.py fit $(ARGS)

test: install
	$(RUN) -m pytest $(ARGS)

check: install
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m mypy
