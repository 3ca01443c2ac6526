"""The shape of the package: what may import what, how long a file may be, and what it never needs."""

from __future__ import annotations

import ast
import functools
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parent.parent / "reasoning_jax"

# From the ground up. A file imports from lower floors and, on its own floor, from those named before it.
FLOORS = (
    ("processes", "sharding", "tokenizer", "prng", "masked", "interrupts"),
    ("attention", "model", "presets"),
    ("logprobs", "sampling", "data", "grading", "bbh_forms", "bbh_forms/*", "tasks", "prompts", "tasks/*"),
    ("state", "optim", "update", "workdir", "checkpoint", "metrics", "chains", "control_variate", "answers", "rewards",
     "preferences"),
    ("algorithms", "algorithms/*"),
    ("command_line", "rollout", "experiment", "charts", "report", "evaluate", "run", "loop", "main", "ask",
     "doctor", "tpu", "hlo", "aot", "plan"),
)  # fmt: skip
LINES = {"tasks/*": 120, "algorithms/*": 150}
MODULES = sorted(str(p.relative_to(PACKAGE).with_suffix("")) for p in PACKAGE.rglob("*.py"))


def place(module: str) -> str:
    """The name of a module in the table: "tasks/*" for tasks/addition, "tasks" for tasks/__init__."""
    folder, _, name = module.rpartition("/")
    return folder if name == "__init__" else f"{folder}/*" if folder else name


def position(module: str) -> tuple[int, int]:
    for number, floor in enumerate(FLOORS):
        if place(module) in floor:
            return number, floor.index(place(module))
    raise AssertionError(f"reasoning_jax/{module}.py has no place in FLOORS")


@functools.cache
def imports(module: str) -> tuple[str, ...]:
    """Every module that a file imports, anywhere in it: absolute dotted names, a package's members too."""
    found = []
    for node in ast.walk(ast.parse((PACKAGE / f"{module}.py").read_text())):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"reasoning_jax/{module}.py imports by a relative name"
            found += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    return tuple(found)


def own(module: str) -> set[str]:
    """The files of this package among a file's imports."""
    names = {
        name.removeprefix("reasoning_jax.").replace(".", "/") for name in imports(module) if name.startswith("reasoning_jax.")
    }
    return {f"{n}/__init__" if (PACKAGE / n).is_dir() else n for n in names if (PACKAGE / n).is_dir() or n in MODULES}


def test_the_package_is_seen():
    assert {"model", "loop", "tasks/__init__", "tasks/addition", "algorithms/star"} <= set(MODULES)
    assert {"logprobs", "model", "state"} <= own("update") and "tasks/__init__" in own("tasks/addition")
    assert place("tasks/__init__") == "tasks" and place("tasks/addition") == "tasks/*" and place("loop") == "loop"


@pytest.mark.parametrize("module", [m for m in MODULES if m != "__init__"])
def test_a_file_imports_from_below(module):
    above = sorted(other for other in own(module) if position(other) >= position(module))
    assert not above, f"reasoning_jax/{module}.py imports {', '.join(above)}"


@pytest.mark.parametrize("module", MODULES)
def test_no_file_is_too_long(module):
    lines = len((PACKAGE / f"{module}.py").read_text().splitlines())
    assert lines <= LINES.get(place(module), 300)


@pytest.mark.parametrize("module", MODULES)
def test_neither_torch_nor_tensorflow(module):
    foreign = {name.partition(".")[0] for name in imports(module)} & {"torch", "tensorflow", "keras", "transformers"}
    assert not foreign


def test_linen_stays_in_the_model_and_differentiation_in_the_update():
    for module in MODULES:
        if module != "model":
            assert not [name for name in imports(module) if name.startswith("flax.linen")], module
        names = {n.attr for n in ast.walk(ast.parse((PACKAGE / f"{module}.py").read_text())) if isinstance(n, ast.Attribute)}
        assert module == "update" or not names & {"value_and_grad", "grad", "vjp", "jvp"}, module
