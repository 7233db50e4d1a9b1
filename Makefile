# make help           these lines, as does make alone
# make setup          .venv: torch, this package built in place, and what its tests need
# make demo           describe three clips plainly and speculatively
# make test           what `make lint` checks, and all tests
# make test-quick     the tests but the slow ones, and the quick half of `make lint`
# make suite          all tests alone
# make test-releases  the tests that touch transformers on its oldest, locked and newest release
# make sanitize       the native CPU tests under AddressSanitizer and ThreadSanitizer (g++, minutes)
# make train          train the embedded pair anew, into build/train: half an hour or more;
#                     WORLD=harder: the one of the harder clips, an hour or more
# make docs           the documentation as a site: build/site
# make docs-serve     shows it at DOCS_PORT
# make docs-look      looks at every page of it in Chromium, with screenshots into build/looked
# make format         the sources: lint, and their format (Python and C++)
# make lint           the same, and types
# make wheel          dist/: a wheel for each Python that is there, tried where nothing can compile
# make hub            build/hub: what the Kernel Hub's kernel-builder builds the ops from
# make lock           resolve the locks again after a change of pyproject.toml; UPGRADE=1 to the
#                     newest of everything, UPGRADE="transformers peft" to the newest of these
# make clean          remove what was made, but the environments
#
# Releases are those of requirements.lock. LOCK= (empty) takes the newest that pyproject.toml allows:
#   make test LOCK= VENV=.venv-newest
# torch is not in the lock: its builds differ from machine to machine. TORCH and TORCHVISION, which
# go together, name another; a file does too. On Linux pip finds one for CUDA, several GB large:
#   make setup PYTHON=python3.13 TORCH=torch-2.13.0+cpu-cp313-cp313-linux_x86_64.whl
# Other releases of transformers:
#   make test-releases RELEASES="5.20.2 newest" RELEASE_TESTS=python_tests
# SPARROW_BUILD_NATIVE=0|1|auto and SPARROW_BUILD_CUDA=0|1|auto choose what is compiled (setup.py):
# beside a CPU torch CUDA is left out, unless it is asked for by 1. So for wheels with both:
#   make wheel SPARROW_BUILD_CUDA=1

# The first that runs: a name on PATH may be a version manager's, for a Python that is not there.
there = $(foreach name,$(1),$(shell $(name) -c 'print("$(name)")' 2>/dev/null))
PYTHON ?= $(firstword $(call there,python3.11 python3.12 python3.13 python3))
WHEEL_PYTHONS ?= $(call there,python3.11 python3.12 python3.13)
VENV ?= .venv
LOCK ?= requirements.lock
TORCH ?= torch==2.13.0
TORCHVISION ?= torchvision==0.28.0
# Processes that run tests, of one torch thread each.
WORKERS ?= 2
WORLD ?= easy
RELEASES ?= oldest locked newest
RELEASE_TESTS ?= $(addprefix python_tests/, $(addprefix models/test_, transformers_contract.py \
	decoder_families.py target_requirements.py decoder_arguments.py decoder_precision.py \
	decoder_threads.py decoder_parallel.py decoder_drafts.py) decoding/test_decoder_lossless.py \
	decoding/test_decoder_batches.py decoding/test_decoder_behaviour.py \
	embedded/test_embedded_pair.py cli/test_cli_generate.py cli/test_cli_processes.py \
	cli/test_cli_targets.py cli/test_cli_train.py training/test_training_encoding.py video/test_video.py)
SPARROW_BUILD_NATIVE ?= auto
SPARROW_BUILD_CUDA ?= auto
export SPARROW_BUILD_NATIVE SPARROW_BUILD_CUDA

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet
# One stamp a choice: after another the environment is set up again.
CHOICE := $(LOCK) $(TORCH) $(TORCHVISION) $(SPARROW_BUILD_NATIVE) $(SPARROW_BUILD_CUDA)
STAMP := $(VENV)/.set-up-$(firstword $(shell echo '$(CHOICE)' | cksum))
BUILD_INPUTS := pyproject.toml setup.py CMakeLists.txt sparrow_kernels/_version.py \
	$(shell find csrc -type f)

.PHONY: setup demo test test-quick suite test-releases sanitize train lint format wheel hub lock clean \
	docs docs-serve docs-look help

# Not setup: that takes gigabytes, and is asked for by name.
.DEFAULT_GOAL := help

help:
	@sed -e '/^[^#]/,$$d' -e '/^$$/,$$d' -e 's/^# \{0,1\}//' Makefile

setup: $(STAMP)

$(STAMP): $(BUILD_INPUTS) $(LOCK)
	@echo "Setting up $(VENV): $(TORCH), this package in place, and what its tests need, in" \
		"$(if $(LOCK),the releases of $(LOCK),the newest releases)."
	@echo "The first time takes a few minutes; later only what changed is built."
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
ifneq ($(LOCK),)
	@$(PIP) --require-hashes --no-deps -r $(LOCK)
	@# After the lock, which has all it needs; what a CUDA build pins besides (triton) is its own.
	@$(PIP) "$(TORCH)"
	@# For tests. It asks for one exact torch; without its needs it cannot bring another one along.
	@$(PIP) --no-deps "$(TORCHVISION)"
	@$(PIP) --no-build-isolation --no-deps --editable .
else
	@$(PIP) --upgrade "$(TORCH)" setuptools pybind11 cmake ninja
	@$(PIP) --upgrade --upgrade-strategy eager "$(TORCH)" "$(TORCHVISION)" \
		--no-build-isolation --editable ".[dev,video]"
endif
	@# A torchvision for CUDA beside a CPU torch: every process of this environment can import it.
	@$(BIN)/python -c "import torchvision" 2>/dev/null || \
		echo "import sparrow_kernels.video_shim; sparrow_kernels.video_shim.at_import()" > \
		$$($(BIN)/python -c "import sysconfig; print(sysconfig.get_path('purelib'))")/torchvision.pth
	@$(BIN)/python -c "from sparrow_kernels.ops import native; \
		print('Native ops:', native.unavailable() or 'built')"
	@rm -f $(VENV)/.set-up-*
	@touch $@

demo: setup
	@$(BIN)/python -m bench.demo --json build/demo/demo.json

# Side by side: types take one process half a minute.
test: setup
	@$(MAKE) --no-print-directory -j2 lint suite

PYTEST := $(BIN)/python -m pytest -q -n $(WORKERS) --dist worksteal

suite: setup
	$(PYTEST)

test-quick: format
	$(PYTEST) -m "not slow"

test-releases: setup
	@$(BIN)/python python_tests/on_releases.py $(RELEASES) --tests $(RELEASE_TESTS)

sanitize: setup
	$(BIN)/python python_tests/sanitized.py address thread

train: setup
	$(BIN)/sparrow train target --world $(WORLD) --out build/train/target
	$(BIN)/sparrow train draft --target build/train/target --out build/train/draft

format: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	find csrc -name '*.h' -o -name '*.cpp' -o -name '*.cu' -o -name '*.cuh' | \
		xargs $(BIN)/clang-format --dry-run -Werror

lint: format
	$(BIN)/mypy

wheel: setup
	$(BIN)/python build_wheels.py --torch "$(TORCH)" $(WHEEL_PYTHONS)

# In an environment of its own: docstrings are read, not imported, so it needs no torch.
DOCS := .venv-docs
DOCS_PORT ?= 8000

$(DOCS)/.set-up: requirements-docs.lock
	@test -x $(DOCS)/bin/python || $(PYTHON) -m venv $(DOCS)
	@$(DOCS)/bin/python -m pip --disable-pip-version-check install --quiet --require-hashes \
		--no-deps -r requirements-docs.lock
	@touch $@

docs: $(DOCS)/.set-up
	@$(DOCS)/bin/python docs/site/stage.py build/docs
	@NO_MKDOCS_2_WARNING=1 $(DOCS)/bin/mkdocs build --quiet --strict
	@echo "build/site/index.html: make docs-serve shows it with its search"

docs-serve: docs
	$(DOCS)/bin/python -m http.server --bind localhost --directory build/site $(DOCS_PORT)

docs-look: docs
	$(DOCS)/bin/python docs/site/look.py build/site --pictures build/looked

# HUB= and REPO_ID= name another folder, and the Hub repository it is for (docs/kernel-hub.md).
hub:
	$(PYTHON) build_hub.py $(or $(HUB),build/hub) $(if $(REPO_ID),--repo-id $(REPO_ID))

# For every Python and platform at once; releases that still fit stay. The oldest are the lower
# bounds of pyproject.toml, and the newest that fit them of what is not named there.
UPGRADED = $(if $(filter 1,$(UPGRADE)),--upgrade,$(addprefix --upgrade-package=,$(UPGRADE)))
RESOLVE := $(BIN)/uv pip compile --quiet --config-file .ci/lock.toml --universal \
	--python-version 3.11 --generate-hashes --no-emit-package torch --no-emit-package torchvision \
	--no-emit-index-url --no-annotate --custom-compile-command "make lock" $(if $(UPGRADE),$(UPGRADED))

lock: setup
	$(RESOLVE) pyproject.toml --extra dev --extra video --output-file requirements.lock
	$(RESOLVE) pyproject.toml --extra video --resolution lowest-direct \
		--output-file requirements-oldest.lock
	@# The tools alone: what they describe is not installed beside them.
	$(BIN)/python -c "import tomllib; print(*tomllib.load(open('pyproject.toml', 'rb')) \
		['project']['optional-dependencies']['docs'], sep='\n')" | \
		$(RESOLVE) - --output-file requirements-docs.lock

clean:
	rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .benchmarks
	rm -rf .overlays
	rm -f sparrow_kernels/*.so $(VENV)/.set-up-*
	find . -name __pycache__ -not -path './.venv*' -prune -exec rm -rf {} +
