# make demo, make test; PYTHON=python3.12 make ... picks the interpreter.
PYTHON ?= python3
BIN := .venv/bin
LIBTPU := .venv/libtpu
STAMP := .venv/installed-$(shell $(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])')

.PHONY: demo test clean

demo: $(STAMP)
	$(BIN)/python -m reasoning_jax.main --config=configs/star_addition.py --workdir=runs/star_addition

# Two files at a time. The compiler of TPUs lies beside the environment, not in it: where it is found, jax looks for a TPU at
# every start.
test: $(LIBTPU)
	PYTHONPATH=$(CURDIR)/$(LIBTPU) $(BIN)/python -m pytest -q -n 2 --dist loadfile --no-loadscope-reorder tests

# Of the release that jax names; there is none but for x86-64 Linux, and the tests that compile for TPU are then skipped.
$(LIBTPU): $(STAMP)
	-$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --target $@ \
	  "$$($(BIN)/python -c 'from importlib.metadata import requires; print(*[r.partition(";")[0] for r in requires("jax") if r.startswith("libtpu")])')"

# Another interpreter, or other requirements, make the environment anew.
$(STAMP): requirements.txt
	$(PYTHON) -m venv --clear .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	touch $@

clean:
	rm -rf .venv .cache
