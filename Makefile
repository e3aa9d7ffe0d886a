# Commands do all the set-up they need: `make demo` and `make test`, `make test-torch` and `make test-aot` beside them.
PYTHON ?= python3.11
VENV := .venv
PY := $(VENV)/bin/python
STAMP := $(VENV)/.installed
VENV_TORCH := .venv-torch
STAMP_TORCH := $(VENV_TORCH)/.installed
VENV_AOT := .venv-aot
STAMP_AOT := $(VENV_AOT)/.installed
VENV_BEAM := .venv-beam
STAMP_BEAM := $(VENV_BEAM)/.installed
OUT ?= runs/demo
ROOT ?= runs/train_mini
STORY ?= experiments/stories/fox.json

.PHONY: help setup setup-torch setup-aot setup-beam demo test test-slow test-long test-torch test-aot test-beam test-accelerator train-mini reference performance-docs parity-docs plan-pods lint lock clean

help:  ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/'

setup: $(STAMP)  ## virtual environment with the pinned requirements

# $(call install,FOLDER,WHAT PIP INSTALLS)
define install
	@command -v $(PYTHON) >/dev/null || { echo "bvjax needs $(PYTHON): install Python 3.11 (Debian: apt install python3.11 python3.11-venv) or set PYTHON=..."; exit 2; }
	test -x $(1)/bin/python || $(PYTHON) -m venv $(1)
	$(1)/bin/python -m pip install --quiet --disable-pip-version-check $(2)
	$(1)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e . 2>/dev/null \
	  || $(1)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps -e .
	touch $@
endef

$(STAMP): requirements.txt pyproject.toml
	$(call install,$(VENV),-r requirements.txt)

setup-torch: $(STAMP_TORCH)  ## another with PyTorch, diffusers and transformers beside them (2.5 GB)

# torchvision's operators need CUDA's libraries, and where it is found without them transformers fails: it lies apart.
$(STAMP_TORCH): requirements.txt requirements-torch.txt pyproject.toml
	$(call install,$(VENV_TORCH),-r requirements-torch.txt)
	$(VENV_TORCH)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --upgrade --target $(VENV_TORCH)/vision torchvision==0.28.0 \
	  || { rm -f $@; exit 1; }

setup-aot: $(STAMP_AOT)  ## another with compilers for TPUs and NVIDIA GPUs, which need no device (4.4 GB)

# pip's resolver would bring all of CUDA (4.4 GB): the file lists what compiling needs.
$(STAMP_AOT): requirements.txt requirements-aot.txt pyproject.toml
	$(call install,$(VENV_AOT),--no-deps -r requirements-aot.txt)

setup-beam: $(STAMP_BEAM)  ## another with Apache Beam

$(STAMP_BEAM): requirements-beam.txt pyproject.toml
	$(call install,$(VENV_BEAM),-r requirements-beam.txt)

demo: setup  ## a minute of video from a story (STORY=..., OUT=...)
	$(PY) -m bvjax generate --preset mini --story $(STORY) --out $(OUT)

test: setup  ## the test suite on the CPU
	$(PY) -m pytest -n 2 --dist loadfile -m "not slow and not long" tests

test-slow: setup  ## its slow rest
	$(PY) -m pytest -n 2 --dist load -m slow tests

test-long: setup  ## whole runs of a quarter of an hour together, which CI leaves out
	$(PY) -m pytest -n 2 --dist load -m long tests

test-torch: setup-torch  ## the tests against PyTorch
	$(VENV_TORCH)/bin/python -m pytest -n 2 --dist loadfile tests/torch

test-aot: setup-aot  ## programs compiled for TPUs and GPUs: do they fit, what do they exchange
	$(VENV_AOT)/bin/python -m pytest -n 2 --dist load tests/aot

test-beam: setup-beam  ## the stages of curation on Apache Beam
	$(VENV_BEAM)/bin/python -m pytest tests/data_pipelines/curation/test_beam.py

# Not with the settings of the other tests, which are for CPUs.
test-accelerator:  ## the tests that need an accelerator, with the Python that has one (PYTHON=...)
	$(PYTHON) -m pytest -q -rs --confcutdir=tests/accelerator tests/accelerator

train-mini: setup  ## the model that ships, from nothing: about nine hours on two cores; stops and goes on (ROOT=...)
	$(PY) -m experiments.train_mini --root $(ROOT)

reference: setup  ## the reference of functions and classes, out of their docstrings (build/reference/index.html)
	$(PY) -m experiments.reference --out build/reference

performance-docs: setup-torch  ## docs/performance.md: what things cost on this CPU (twenty minutes)
	PYTHON=$(VENV_TORCH)/bin/python experiments/benchmarks/run_cpu.sh

parity-docs: setup-torch  ## docs/parity.md: what equals what, measured by these tests
	$(VENV_TORCH)/bin/python -m tests.torch.report

plan-pods: setup-aot  ## docs/training.md: do the paper's stages fit pods, compiled for them ahead of time (hours on two cores; goes on)
	JAX_PLATFORMS=cpu $(VENV_AOT)/bin/python -m experiments.plan_pods --out runs/plan_pods --docs docs/training.md

lint: setup  ## ruff (rules and format) and mypy (no more errors than .ci/type_errors allows)
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	.ci/types $(PY)

lock: setup  ## pin what pyproject.toml asks for
	$(PY) -m pip install --quiet --disable-pip-version-check -e '.[train,lvbench,curate,studio,dev]'
	(echo "# Made by 'make lock' from pyproject.toml (Python 3.11, CPU)."; $(PY) -m pip freeze --exclude-editable) > requirements.txt

clean:  ## remove the virtual environments and caches
	rm -rf $(VENV) $(VENV_TORCH) $(VENV_AOT) $(VENV_BEAM) .pytest_cache .hypothesis
