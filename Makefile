# make demo, make test; PYTHON=python3.12 make ... picks the interpreter.
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/installed-$(shell $(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])')

.PHONY: demo test clean

demo: $(STAMP)
	$(BIN)/python -m reasoning_jax.main --config=configs/star_addition.py --workdir=runs/star_addition

test: $(STAMP)
	$(BIN)/python -m pytest -q tests

# Another interpreter, or other requirements, make the environment anew.
$(STAMP): requirements.txt
	$(PYTHON) -m venv --clear .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	touch $@

clean:
	rm -rf .venv .cache
