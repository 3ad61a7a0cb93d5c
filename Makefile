# make demo     the three stages on the images in this repository, in minutes; the report is runs/demo/report.md
# make test     the tests            make lint     the style and the types
# make torture  runs killed anywhere, resumed and compared     make fuzz      hostile files     make test-onnx
# make bench    the measurements     make clean    away with .venv and the caches (runs/ stays)
#
# Everything runs in .venv, which the first command makes. PYTHON=... names a Python to make it with, STACK=cpu or
# STACK=cu112 the requirements; left alone, they are found.

SHELL := /bin/bash
.DEFAULT_GOAL := help
.PHONY: help install demo demo-seg test test-onnx torture fuzz lint bench clean

# A candidate is run, since a name on PATH may be a shim that leads nowhere, and Debian's lack venv unless it is asked
# for. Prints "<path> <version>".
PROBE := import sys, venv, ensurepip; v = sys.version_info; sys.exit(not (3, 8) <= v[:2] <= (3, 11) or print(sys.executable, "%d.%d.%d" % v[:3]))
CANDIDATES := $(or $(PYTHON),python3.11 python3.10 python3.9 python3.8 python3 python)
FOUND := $(shell for name in $(CANDIDATES); do "$$name" -c '$(PROBE)' 2>/dev/null && break; done)
INTERPRETER := $(word 1,$(FOUND))

# MXNet's CUDA build cannot be imported without the driver's library, so that is what is looked for.
ifndef STACK
STACK := $(shell "$(INTERPRETER)" -c 'import ctypes; ctypes.CDLL("libcuda.so.1")' 2>/dev/null && echo cu112 || echo cpu)
endif
REQUIREMENTS := requirements$(if $(filter cpu,$(STACK)),,-$(STACK)).txt
INSTALLED := .venv/installed-$(word 2,$(FOUND))-$(STACK)
RUN := .venv/bin/python

help:
	@sed -n 's/^# //p' Makefile | head -4

install: $(INSTALLED)

$(INSTALLED): requirements-base.txt requirements-dev.txt $(REQUIREMENTS)
ifeq ($(INTERPRETER),)
	@echo "No Python 3.8 to 3.11 with venv was found ($(CANDIDATES)): install one (Debian: python3.11-venv), or say make PYTHON=/path/to/python" >&2; exit 1
else
	@echo "Installing $(REQUIREMENTS) into .venv for Python $(word 2,$(FOUND)); this takes a minute or two."
	@rm -rf .venv
	@"$(INTERPRETER)" -m venv .venv
	@$(RUN) -m pip install --quiet --disable-pip-version-check pip==25.0.1
	@$(RUN) -m pip install --quiet --disable-pip-version-check -r $(REQUIREMENTS) -r requirements-dev.txt
	@touch $@
endif

demo: $(INSTALLED)
	$(RUN) train_cifar.py all --recipe demo --work-dir runs/demo --resume

demo-seg: $(INSTALLED)
	$(RUN) search_seg.py all --recipe seg-demo --work-dir runs/seg-demo --resume

# One thread a worker: two workers that each take both cores are slower than one.
test: $(INSTALLED)
	OMP_NUM_THREADS=1 $(RUN) -m pytest -n 2 --dist loadfile -q

# Exported networks in onnxruntime: an environment of its own, because MXNet's ONNX needs an old protobuf.
test-onnx: $(INSTALLED) .venv-onnx/installed
	OMP_NUM_THREADS=1 $(RUN) -m pytest -q tests/test_export.py

.venv-onnx/installed: requirements-base.txt requirements.txt requirements-onnx.txt
	@rm -rf .venv-onnx
	@"$(INTERPRETER)" -m venv .venv-onnx
	@.venv-onnx/bin/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	@.venv-onnx/bin/python -m pip install --quiet --disable-pip-version-check --no-deps -r requirements-onnx.txt
	@touch $@

torture: $(INSTALLED)
	OMP_NUM_THREADS=1 $(RUN) -m tests.torture

fuzz: $(INSTALLED)
	OMP_NUM_THREADS=1 $(RUN) -m tests.fuzz

lint: $(INSTALLED)
	$(RUN) -m ruff check .
	$(RUN) -m mypy

bench: $(INSTALLED)
	$(RUN) -m benchmarks

clean:
	rm -rf .venv .venv-onnx .pytest_cache .ruff_cache .mypy_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
