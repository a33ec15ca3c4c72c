# `make demo` runs the whole chain on a real model, `make test` runs the tests; both set up .venv first.
# Overridable: PYTHON (>= 3.10), TORCH (pip requirement; a CUDA build if you have the GPU), CXX, WF_ISA.
PYTHON ?= python3
TORCH ?= torch==2.13.0
VENV := .venv
BIN := $(VENV)/bin
BUILD_TOOLS := scikit-build-core pybind11 cmake ninja
NATIVE := $(shell find csrc cmake CMakeLists.txt pyproject.toml -type f 2>/dev/null)

.PHONY: help demo demo-tiny test test-cpp test-arm test-haswell test-isa fuzz lint format build bench-kernels bench-smoke bench-peers check-all gpu-check clean
.DEFAULT_GOAL := help

help:  ## list the targets
	@awk -F':.*## ' '/^[a-z-]+:.*## /{printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: build  ## the whole chain on SmolLM2-135M: distil, convert, verify, serve, compare
	$(BIN)/python -m demo

demo-tiny: build  ## the same chain on the tiny stories260K model, in three minutes; needs the test data (CONTRIBUTING.md)
	$(BIN)/python -m demo --tiny

test: build  ## the tests
	$(BIN)/python -m pytest -m "not slow and not gpu" $(ARGS)

build: $(VENV)/.built  ## .venv with everything in it and the native libraries up to date

$(VENV)/.python:
	@sh cmake/check-tools.sh "$(PYTHON)" "$(CXX)"
	$(PYTHON) -m venv $(VENV)
	touch $@

# torch first: the op library then builds against its headers, and nothing pulls a second torch.
$(VENV)/.packages: pyproject.toml | $(VENV)/.python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check "$(TORCH)" $(BUILD_TOOLS)
	touch $@

INSTALL := flock build/.lock $(BIN)/python -m pip install --quiet --disable-pip-version-check \
  --no-build-isolation --editable ".[serve,peers,dev]"
$(VENV)/.built: $(VENV)/.packages $(NATIVE)
	@mkdir -p build
	$(INSTALL)
	touch $@

JOBS ?= $(shell nproc 2>/dev/null || echo 2)
CPP_BUILD := cmake -G Ninja -S . -DWF_TESTS=ON -DWF_PYTHON=OFF -DWF_TORCH=OFF -DWF_CUDA=OFF
test-cpp: $(VENV)/.packages  ## C++ tests, plain and under address and undefined-behaviour sanitizers
	PATH="$(abspath $(BIN)):$$PATH" && $(CPP_BUILD) -B build/cpp && cmake --build build/cpp && ctest --test-dir build/cpp --output-on-failure -j$(JOBS)
	PATH="$(abspath $(BIN)):$$PATH" && $(CPP_BUILD) -B build/asan -DWF_SANITIZE=address,undefined && cmake --build build/asan && ctest --test-dir build/asan --output-on-failure -j$(JOBS)

# Needs apt-get install g++-aarch64-linux-gnu qemu-user googletest
test-arm: $(VENV)/.packages  ## C++ tests for 64-bit Arm, run in qemu
	PATH="$(abspath $(BIN)):$$PATH" && $(CPP_BUILD) -B build/arm -DCMAKE_TOOLCHAIN_FILE=cmake/aarch64-linux-gnu.cmake && cmake --build build/arm && ctest --test-dir build/arm --output-on-failure

# Needs apt-get install qemu-user. The emulated tables are no concern of this processor; switched off is
# what qemu cannot do and no program asks for.
HASWELL := Haswell-noTSX,-pcid,-x2apic,-tsc-deadline,-invpcid
test-haswell: $(VENV)/.packages  ## C++ core tests in qemu on a processor that has AVX2 and nothing newer
	PATH="$(abspath $(BIN)):$$PATH" && $(CPP_BUILD) -B build/cpp && cmake --build build/cpp --target core_tests
	WF_EXPECTED_ISA=avx2 qemu-x86_64 -cpu $(HASWELL) build/cpp/csrc/tests/core_tests --gtest_brief=1 --gtest_filter='-*_emulated*'

# Needs apt-get install clang. Inputs worth keeping stay in build/fuzz/corpus, where the next run begins;
# one that fails is left in build/fuzz. make test-cpp replays some thousand inputs with any compiler.
FUZZ_SECONDS ?= 60
FUZZ_TARGETS ?= kernels layouts gguf safetensors
fuzz: $(VENV)/.packages  ## fuzz kernels against the scalar ones, and the readers of model files; FUZZ_SECONDS each
	PATH="$(abspath $(BIN)):$$PATH" && $(CPP_BUILD) -B build/fuzz -DCMAKE_CXX_COMPILER=clang++ -DWF_FUZZ=ON && cmake --build build/fuzz --target fuzz
	@cd build/fuzz && for target in $(FUZZ_TARGETS); do echo "== $$target"; \
	  csrc/fuzz/fuzz_$${target}_replay --seeds corpus/$$target && \
	  csrc/fuzz/fuzz_$$target -max_total_time=$(FUZZ_SECONDS) -timeout=20 -rss_limit_mb=2048 -malloc_limit_mb=512 \
	    -verbosity=0 -print_final_stats=1 -artifact_prefix=$$target- corpus/$$target || exit 1; done

ISAS ?= scalar avx2
test-isa: build  ## op and engine tests and one end-to-end test with each ISA forced
	@for isa in $(ISAS); do echo "== WF_ISA=$$isa"; \
	  WF_ISA=$$isa $(BIN)/python -m pytest -q -m "not slow and not gpu" tests/ops tests/engine tests/e2e || exit 1; done

lint: $(VENV)/.built  ## ruff, mypy, import-linter, clang-format
	$(BIN)/ruff check . && $(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/clang-format --dry-run --Werror $$(git ls-files 'csrc/*.h' 'csrc/*.cpp' 'csrc/*.inl' 'csrc/*.cu' 'csrc/*.cuh' 'bench/*.cpp')

format: $(VENV)/.built  ## rewrite the sources in the project's format
	$(BIN)/ruff check --fix . && $(BIN)/ruff format .
	$(BIN)/clang-format -i $$(git ls-files 'csrc/*.h' 'csrc/*.cpp' 'csrc/*.inl' 'csrc/*.cu' 'csrc/*.cuh' 'bench/*.cpp')

bench-kernels: build  ## kernel figures: shares of this machine's ceilings, ratios to torch
	$(BIN)/python bench/ops.py --refcheck

bench-smoke: build  ## the same in half a minute, on small shapes; JSON in build/
	$(BIN)/python bench/ops.py --refcheck --smoke
	$(BIN)/python -m pytest -q tests/bench/test_kernel_smoke.py --benchmark-json build/kernel_smoke.json

bench-peers: build  ## the engine beside llama.cpp; ARGS="--llama-bench PROGRAM" adds others
	$(BIN)/python bench/peers.py $(ARGS)

check-all: lint test test-cpp test-arm test-haswell test-isa  ## everything, slow tests too
	$(BIN)/python -m pytest -m slow

gpu-check: $(VENV)/.packages  ## build with CUDA (needs nvcc), run the tests that need a CUDA device
	@mkdir -p build
	$(INSTALL) --config-settings=cmake.define.WF_CUDA=ON
	$(BIN)/python -m pytest -m gpu tests/gpu

clean:  ## remove builds, demo results and the virtual environment
	rm -rf build .demo $(VENV)
