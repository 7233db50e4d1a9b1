# make setup | demo | test | train | lint | clean
#
# PYTHON, VENV, TORCH, TORCHVISION, TRANSFORMERS may be given. The oldest transformers served:
#   make test VENV=.venv-5.17 TRANSFORMERS=transformers==5.17.0
# SPARROW_BUILD_NATIVE=0|1|auto and SPARROW_BUILD_CUDA=0|1|auto choose what is compiled (setup.py).

PYTHON ?= $(firstword $(shell command -v python3.11 python3.12 python3))
VENV ?= .venv
TORCH ?= torch==2.13.0
TORCHVISION ?= torchvision==0.28.0
TRANSFORMERS ?= transformers
SPARROW_BUILD_NATIVE ?= auto
SPARROW_BUILD_CUDA ?= auto
export SPARROW_BUILD_NATIVE SPARROW_BUILD_CUDA

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet
STAMP := $(VENV)/.set-up-native-$(SPARROW_BUILD_NATIVE)-cuda-$(SPARROW_BUILD_CUDA)
BUILD_INPUTS := pyproject.toml setup.py CMakeLists.txt sparrow_kernels/_version.py \
	$(shell find csrc -type f)

.PHONY: setup demo test train lint clean

setup: $(STAMP)

$(STAMP): $(BUILD_INPUTS)
	@echo "Setting up $(VENV): $(TORCH), this package in place, and what its tests need."
	@echo "The first time takes a few minutes; later only what changed is built."
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(PIP) "$(TORCH)"
	@$(PIP) "$(TRANSFORMERS)" pillow
	@# torchvision asks for one exact torch; without its needs it cannot bring another one along.
	@$(PIP) --no-deps "$(TORCHVISION)"
	@$(PIP) "setuptools>=77" "pybind11>=2.13" "cmake>=3.25" ninja
	@$(PIP) --no-build-isolation --editable ".[dev,video]"
	@$(BIN)/python -c "from sparrow_kernels.ops import native; \
		print('Native ops:', native.unavailable() or 'built')"
	@rm -f $(VENV)/.set-up-*
	@touch $@

demo: setup
	@$(BIN)/python -m bench.demo --json build/demo/demo.json

test: setup
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -q

train: setup
	$(BIN)/sparrow train

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	find csrc -name '*.h' -o -name '*.cpp' -o -name '*.cu' -o -name '*.cuh' | \
		xargs $(BIN)/clang-format --dry-run -Werror
	$(BIN)/mypy

clean:
	rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .benchmarks
	rm -f sparrow_kernels/*.so $(VENV)/.set-up-*
	find . -name __pycache__ -not -path './.venv*' -prune -exec rm -rf {} +
