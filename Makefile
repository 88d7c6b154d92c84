# Each target sets up .venv by itself when it is missing or older than what it is made from.
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip --quiet --disable-pip-version-check
DEMO := runs/demo
# Bytecode is kept whatever the environment says: without it each process compiles all tests anew, for four seconds.
PYTEST := PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest --numprocesses auto --maxprocesses 6 --dist loadfile --no-loadscope-reorder
LAUNCH := $(BIN)/accelerate launch --num_processes 1 --num_machines 1 --mixed_precision no --dynamo_backend no

.PHONY: demo test test-unit lint lock bench docs notebook clean
.DELETE_ON_ERROR:

# All but PyTorch comes by its checksum; tools/lock.py has the reason.
.venv/.ready: setup.cfg constraints.txt requirements.lock
	$(PYTHON) -m venv .venv
	$(PIP) install --no-deps --require-hashes --only-binary :all: -r requirements.lock
	$(PIP) install "torch==$$(sed -n 's/^torch==//p' constraints.txt)"
	$(PIP) install --no-deps --no-build-isolation -e .
	@touch $@

demo: .venv/.ready
	@$(BIN)/python tools/demo_photographs.py $(DEMO)/photographs
	@$(BIN)/python tools/build_shards.py $(DEMO)/photographs/train --out $(DEMO)/shards --validation-fraction 0
	@$(LAUNCH) -m n2s_dist.train --config configs/demo.yaml --run_dir $(DEMO) --data.shards $(DEMO)/shards
	@$(LAUNCH) -m n2s_dist.evaluate --checkpoint $(DEMO) --benchmark held-out=$(DEMO)/photographs/held-out --out $(DEMO)/evaluation --pictures
	@$(BIN)/python -m n2s_dist.report --run_dir $(DEMO) --results $(DEMO)/evaluation --out $(DEMO)

test: .venv/.ready
	@$(PYTEST)

test-unit: .venv/.ready
	@$(PYTEST) tests/unit

lint: .venv/.ready
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

bench: .venv/.ready
	@$(BIN)/python tools/bench_loader.py --json runs/bench/loader.json
	@$(BIN)/python tools/bench_step.py --json runs/bench/step.json
	@$(BIN)/python tools/bench_shards.py --json runs/bench/shards.json
	@$(BIN)/python tools/bench_scaling.py --json runs/bench/scaling.json
	@$(BIN)/python tools/bench_checkpoint.py --json runs/bench/checkpoint.json
	@$(BIN)/python tools/bench.py runs/bench

lock: .venv/.ready
	$(PIP) install -c constraints.txt uv
	@$(BIN)/python tools/lock.py

docs: .venv/.ready
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict
	@echo build/site/index.html

notebook: .venv/.ready
	@rm -rf runs/notebook
	@PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python docs/run_notebook.py $(KEEP)

clean:
	rm -rf .venv runs build/site
