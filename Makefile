# Every target creates what it needs. PYTHON chooses the interpreter of the environment (3.11 or newer).
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

FUZZ_SECONDS ?= 120

.PHONY: demo page test rehearsal fuzz lint types docs compat serve-test deepspeed-test clean

$(VENV)/installed: setup.cfg pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[test]"
	touch $@

demo: $(VENV)/installed
	$(BIN)/python examples/demo.py

# The quantisers print on import, so that only the tests which need them see them.
$(VENV)/quantizers: $(VENV)/installed
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --no-deps --upgrade --target $@ bitsandbytes torchao

test: $(VENV)/installed $(VENV)/quantizers
	PYTHONPATH=$(VENV)/quantizers $(BIN)/python -m pytest -q -m quantized
	$(BIN)/python -m pytest -q -n auto -m "not quantized and not rehearsal"

# The page in a browser. gradio wants an older Pillow than constraints.txt has, so that its environment is its own.
$(VENV)-page/installed: setup.cfg constraints.txt
	$(PYTHON) -m venv $(VENV)-page
	$(VENV)-page/bin/python -m pip install --quiet "$$(grep '^torch==' constraints.txt)"
	$(VENV)-page/bin/python -m pip install --quiet --editable ".[demo,test]" playwright
	touch $@

page: $(VENV)-page/installed
	$(VENV)-page/bin/python -m pytest -q tests/demo

# The GPU day at the tiny shape on a CPU, which leaves no core for anything beside it.
rehearsal: $(VENV)/installed
	$(BIN)/python -m pytest -q -m rehearsal tests/benchmarks

# Mutated files, messages and configs, together as long as FUZZ_SECONDS says. One arena: malloc's others only grow.
fuzz: $(VENV)/installed
	MALLOC_ARENA_MAX=1 FUZZ_SECONDS=$(FUZZ_SECONDS) $(BIN)/python -m pytest -q -s tests/processors/test_fuzz.py

compat:
	$(PYTHON) .ci/compat.py

# vLLM in an environment of its own
serve-test:
	$(PYTHON) .ci/serve_test.py --environment $(VENV)-vllm

# DeepSpeed on two CPU processes, in an environment of its own
$(VENV)-deepspeed/installed: setup.cfg pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)-deepspeed
	$(VENV)-deepspeed/bin/python -m pip install --quiet --upgrade pip
	$(VENV)-deepspeed/bin/python -m pip install --quiet --constraint constraints.txt --editable ".[deepspeed,test]"
	touch $@

deepspeed-test: $(VENV)-deepspeed/installed
	DS_ACCELERATOR=cpu $(VENV)-deepspeed/bin/python -m pytest -q tests/training/test_distributed.py -k deepspeed

lint: $(VENV)/installed
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: $(VENV)/installed
	$(BIN)/mypy

docs: $(VENV)/installed
	$(BIN)/python docs/write_api.py

clean:
	rm -rf $(VENV) $(VENV)-page $(VENV)-deepspeed $(VENV)-vllm demo build dist *.egg-info
