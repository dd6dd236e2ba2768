# Everything from a bare Python 3.11 or newer: each target first brings .venv to what constraints.txt pins, then compiles
# the fused kernels, by the system's C++ compiler or by one that comes as a wheel.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
KERNELS := kernels/lib/.tried
# Neither a library nor the note that none can be made here: it was taken away since.
TAKEN_AWAY := $(if $(wildcard kernels/lib/libqin_cpu.* kernels/lib/.none),,taken-away)

# Status 3 says that no compiler works.
BUILD_KERNELS = $(BIN)/python -m kernels.build || { test $$? -eq 3 \
	&& $(BIN)/python -m pip install --quiet --constraint constraints.txt ziglang 2>/dev/null \
	&& $(BIN)/python -m kernels.build; }

.PHONY: demo test test-slow check format bench bench-kernels bench-gpu bench-swaps bench-overload bench-peers chaos kernels kernels-cuda clean $(TAKEN_AWAY)

demo: $(READY) $(KERNELS) ## train, export, serve, rank, swap on generated data
	$(BIN)/qin demo

test: $(READY) $(KERNELS) ## the tests
	$(BIN)/python -m pytest -n auto --dist worksteal

test-slow: $(READY) $(KERNELS) ## the tests that take longer
	$(BIN)/python -m pytest -m slow -o faulthandler_timeout=3600

check: $(READY) $(KERNELS) ## format, lint, types, architecture, tests
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m pytest -n auto --dist worksteal

format: $(READY) ## rewrite the sources in house style
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench-kernels: $(READY) $(KERNELS) ## the ranker in every form, and the tower beside ONNX Runtime's MatMul
	$(BIN)/python -m tests.bench.kernels

bench-gpu: $(READY) $(KERNELS) ## on an NVIDIA GPU: the ranker in every form, with and without graphs, and the service on it
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[cuda]'
	$(BIN)/python -m tests.bench.gpu

chaos: $(READY) $(KERNELS) ## break Redis in every way under constant requests, and check every answer
	$(BIN)/python -m tests.chaos

bench: $(READY) $(KERNELS) ## where a request's time goes, and what load adds to it
	$(BIN)/python -m tests.bench.stages

bench-training: $(READY) ## training against the published order of computation
	$(BIN)/python -m tests.bench.training

bench-swaps: $(READY) $(KERNELS) ## a hundred swaps under load: failures, memory, latency in and between them
	$(BIN)/python -m tests.bench.swaps

bench-overload: $(READY) $(KERNELS) ## three times what the service can do
	$(BIN)/python -m tests.bench.overload

bench-peers: $(READY) $(KERNELS) ## the service beside LitServe, BentoML, MLServer and plain FastAPI, which it installs
	$(BIN)/python -m tests.bench.peers

kernels: $(READY) ## compile the fused kernels again
	$(BUILD_KERNELS)
	rm -f kernels/lib/.none
	touch $(KERNELS)

kernels-cuda: $(READY) ## compile the CUDA kernels, by the nvcc that is here or by one that comes as a wheel; needs no GPU
	$(BIN)/python -m kernels.build_cuda || { test $$? -eq 3 \
		&& $(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[cuda-build]' \
		&& $(BIN)/python -m kernels.build_cuda; }

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	QIN_BUILD_KERNELS=0 $(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

# Tried once for these sources: where it fails, a later `make` goes on without trying again. A folder is newer than what
# was removed from it.
$(KERNELS): $(wildcard kernels/*.py kernels/cpu kernels/cpu/*) $(TAKEN_AWAY) | $(READY)
	@mkdir -p $(@D)
	@rm -f $(@D)/.none
	@$(BUILD_KERNELS) || { rm -f $(@D)/libqin_cpu.*; touch $(@D)/.none; \
		echo "The fused kernels could not be compiled: everything runs without them, slower. To try again: make kernels"; }
	@touch $@

clean: ## remove the environment and caches
	rm -rf $(VENV) kernels/lib .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
