# Two commands do all the set-up they need: `make demo` and `make test`.
PYTHON ?= python3.11
VENV := .venv
PY := $(VENV)/bin/python
STAMP := $(VENV)/.installed
OUT ?= runs/demo
STORY ?= experiments/stories/fox.json

.PHONY: help setup demo test lint lock clean

help:  ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/'

setup: $(STAMP)  ## virtual environment with the pinned requirements

$(STAMP): requirements.txt pyproject.toml
	@command -v $(PYTHON) >/dev/null || { echo "bvjax needs $(PYTHON): install Python 3.11 (Debian: apt install python3.11 python3.11-venv) or set PYTHON=..."; exit 2; }
	test -x $(PY) || $(PYTHON) -m venv $(VENV)
	$(PY) -m pip install --quiet --disable-pip-version-check -r requirements.txt
	$(PY) -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e . 2>/dev/null \
	  || $(PY) -m pip install --quiet --disable-pip-version-check --no-deps -e .
	touch $@

demo: setup  ## a minute of video from a story (STORY=..., OUT=...)
	$(PY) -m bvjax generate --preset mini --story $(STORY) --out $(OUT)

test: setup  ## the whole test suite on the CPU
	$(PY) -m pytest -n 2 --dist loadfile tests

lock: setup  ## pin what is installed
	(echo "# Made by 'make lock' from requirements.in (Python 3.11, CPU)."; $(PY) -m pip freeze --exclude-editable) > requirements.txt

clean:  ## remove the virtual environment and caches
	rm -rf $(VENV) .pytest_cache .hypothesis
