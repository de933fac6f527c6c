# Two commands do everything: `make demo` runs the main job, `make test` the tests.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: demo test lint conformance format clean

demo: $(READY)
	$(BIN)/limprec compare --model lenet5 --data digits

test: $(READY)
	$(BIN)/python -m pytest

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# Every one of the 2^32 float32 inputs against ml_dtypes: an hour alone on the machine, resumable.
conformance: $(READY)
	$(BIN)/python -m tests.conformance

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) build src/*.egg-info

# torch first: the native kernels are built against it, without build isolation.
$(READY): pyproject.toml setup.py constraints.txt $(wildcard src/limprec/kernels/native/*.cpp src/limprec/kernels/native/*.h) src/limprec/kernels/native/spec.py src/limprec/kernels/native/steps.py src/limprec/kernels/native/stored.py
	test -d $(VENV) || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip setuptools -c constraints.txt
	$(BIN)/python -m pip install --quiet -c constraints.txt torch numpy
	$(BIN)/python -m pip install --quiet -c constraints.txt --no-build-isolation -e '.[lab,search,dev]'
	touch $@
