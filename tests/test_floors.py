"""The shape of the package: what may import what, sizes, and what a file never holds."""

from __future__ import annotations

import ast
import functools
import graphlib
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "reasoning_jax"

# Lowest first. A file imports from lower floors and, on its own floor, from those named before it.
# "tasks" is tasks/__init__.py; "tasks/*" is every file and folder of tasks/ that is not named:
# these do not import each other. The files of a method's own folder may.
FLOORS = [
    """errors huge_pages arguments ranges contracts json_object text_files prng discovery multihost
    interrupts
    answers answers/killable answers/generators answers/doubt answers/arithmetic answers/markup
    answers/units answers/quantities answers/statements answers/conventions answers/choices
    answers/words answers/equivalence answers/expressions answers/judgements templates
    metric_line workdir rows_file run_lock metrics progress streams chat_sandbox chat gguf_metadata
    vocabularies vocabularies/fast vocabularies/byte_level vocabularies/pieces
    vocabularies/folder vocabularies/gguf_tokens pretrained_tokenizer tokenizer prompt_ids svg
    charts""",
    """model model/config model/rotary model/parameters model/sharding model/int8 model/linear
    model/norms model/past model/block_pairs model/flash_attention model/attention model/pages
    model/paged_kernel model/paged_products model/paged_attention model/transformer model/decoder
    model/presets model/logprobs""",
    """curriculum forwards forwards/plain forwards/pause forwards/coconut/passes
    forwards/quiet_star/mixing forwards/quiet_star/columns forwards/quiet_star/scores forwards/*""",
    """sampling sampling/methods sampling/engine sampling/page_pool sampling/sequences
    sampling/scheduler""",
    """training training/rows training/packing training/losses training/data
    training/preferences training/conversations training/preference_files training/optim
    training/state training/train_step training/checkpoint_folders training/checkpoint""",
    """pretrained/stored pretrained/tables pretrained/names pretrained/families
    pretrained/hf_values pretrained/hf_config pretrained/hf_write pretrained/folder pretrained/load
    pretrained/source pretrained/gguf_config pretrained/gguf_file pretrained/llama2c
    pretrained/converted pretrained pretrained/hf_tokenizer pretrained/export pretrained/peft""",
    "tune tune/*",
    """tasks tasks/facts tasks/bbh_forms tasks/comparisons tasks/fillers tasks/stories tasks/graphs
    tasks/graphs/edge_list tasks/graphs/prosqa_text tasks/graphs/prosqa_graphs tasks/cards
    tasks/cards/writing tasks/cards/seeds tasks/*/* tasks/*
    extraction prompts""",
    """policy growing graders graders/* samples rollout ranking self_instruct
    judged contrasts verdicts""",
    "judged_checks",
    "calls systems systems/prompts systems/*",
    "algorithms algorithms/*/* algorithms/*",
    """legacy default overrides config command_line estimators evaluation named_model cpu_devices
    config_checks round_prompts experiment data_checks
    report_samples report_histories report run_record position run_state starting events thoughts
    assessment e_step m_step loop""",
    """tpu tpu/chips tpu/hlo tpu/collectives tpu/software tpu/doctor tpu/sampler tpu/programs
    tpu/compiler tpu/ceilings tpu/phases tpu/summary tpu/search tpu/planner published asking loaded
    conversation run_export api""",
    "main evaluate ask plan convert",
]
COLUMNS = 100
# 150 and 120 are the aim; the formatter's one argument a line takes more.
LINES = {"tasks": 220, "algorithms": 240}  # of a file in this folder
LINES_ELSEWHERE = 300
LONGER: dict[str, tuple[int, str]] = {  # file -> its own budget, and the reason for it
    "tasks/__init__": (240, "the contract has a line or two for each of its functions"),
}
FIELDS = 3  # more of them are given by keyword
# These files serve every method and know none.
GENERAL = """run_record run_state starting events assessment e_step m_step loop report_samples
    report_histories report charts svg plan""".split()

MODULES = sorted(str(p.relative_to(PACKAGE).with_suffix("")) for p in PACKAGE.rglob("*.py"))
METHODS = sorted({m.split("/")[1] for m in MODULES if m.startswith("algorithms/")} - {"__init__"})

# The files that mypy checks.
CONTRACTS = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["mypy"]["files"]


@functools.cache
def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(), str(path))


def tree(module: str) -> ast.Module:
    return parsed(PACKAGE / f"{module}.py")


def table_name(module: str) -> str:
    """What a module is called in FLOORS: by its own name, else by its folder's wildcard."""
    name = module.removesuffix("/__init__")
    if "/" not in name or any(name in floor.split() for floor in FLOORS):
        return name
    return "/".join([name.split("/")[0], *["*"] * name.count("/")])


def floor_of(module: str) -> tuple[int, int]:
    """The floor of a module and its number there."""
    name = table_name(module)
    for number, floor in enumerate(FLOORS):
        if name in floor.split():
            return number, floor.split().index(name)
    raise AssertionError(f"reasoning_jax/{module}.py is on no floor: name it in FLOORS")


@functools.cache
def imports(path: Path) -> tuple[str, ...]:
    """What a file imports, anywhere in it: absolute dotted names of modules or their members."""
    names = []
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0 and node.module, f"{path} imports by a relative name"
            names += [f"{node.module}.{alias.name}" for alias in node.names]
    return tuple(names)


def own_imports(module: str) -> set[str]:
    """The other files of this package that a file imports."""
    found = set()
    for name in imports(PACKAGE / f"{module}.py"):
        if name.partition(".")[0] != "reasoning_jax":
            continue
        path = name.removeprefix("reasoning_jax").lstrip(".").replace(".", "/")
        parent = path.rpartition("/")[0]
        files = (path, f"{path}/__init__", parent, f"{parent}/__init__", "__init__")
        found.add(next(file for file in files if file in MODULES))
    return found - {module}


def dotted(node: ast.expr) -> str:
    """The name that an expression ends with: "dataclass" of ``dataclasses.dataclass``."""
    if isinstance(node, ast.Attribute):
        return node.attr
    return node.id if isinstance(node, ast.Name) else ""


def fields(node: ast.ClassDef) -> list[str]:
    """The fields of a dataclass or a NamedTuple."""
    annotated = [item for item in node.body if isinstance(item, ast.AnnAssign)]
    own = [item for item in annotated if "ClassVar" not in ast.unparse(item.annotation)]
    return [item.target.id for item in own if isinstance(item.target, ast.Name)]


def classes() -> Iterator[tuple[str, ast.ClassDef]]:
    for module in MODULES:
        for node in ast.walk(tree(module)):
            if isinstance(node, ast.ClassDef):
                yield module, node


# ---- floors --------------------------------------------------------------------------------------


def test_the_package_is_seen():
    assert {"model/decoder", "loop", "tasks/__init__", "tasks/addition"} <= set(MODULES)
    assert {"star", "trice", "policy_gradient"} <= set(METHODS)
    assert {"model/logprobs", "training/state"} <= own_imports("training/train_step")
    assert "tasks/__init__" in own_imports("tasks/addition")
    assert table_name("tasks/__init__") == "tasks" and table_name("tasks/addition") == "tasks/*"
    assert table_name("loop") == "loop" and table_name("model/linear") == "model/linear"
    assert table_name("algorithms/trice/__init__") == "algorithms/*"
    assert table_name("algorithms/trice/chains") == "algorithms/*/*"


@pytest.mark.parametrize("module", [m for m in MODULES if m != "__init__"])
def test_a_file_imports_from_below(module):
    others = own_imports(module)
    if table_name(module) == "algorithms/*/*":
        folder = module.rpartition("/")[0]
        others = {other for other in others if other.rpartition("/")[0] != folder}
    above = sorted(other for other in others if floor_of(other) >= floor_of(module))
    assert not above, f"reasoning_jax/{module}.py imports {', '.join(above)}"


def test_imports_form_no_cycle():
    graph = {module: own_imports(module) for module in MODULES if module != "__init__"}
    assert list(graphlib.TopologicalSorter(graph).static_order())


def test_every_name_of_the_table_is_a_file():
    used = {table_name(module) for module in MODULES}
    unused = [name for floor in FLOORS for name in floor.split() if name not in used]
    assert not unused


@pytest.mark.parametrize("module", MODULES)
def test_what_no_file_imports(module):
    names = imports(PACKAGE / f"{module}.py")
    foreign = {"torch", "tensorflow", "keras", "transformers", "configs", "tests", "benchmarks"}
    assert not foreign & {name.partition(".")[0] for name in names}
    if not module.startswith("model/"):
        assert not [name for name in names if name.startswith("flax.linen")]


def test_differentiation_stays_in_the_train_step():
    """Of what is trained: a kernel in model/ may bring its own derivative."""
    for module in MODULES:
        names = {dotted(node) for node in ast.walk(tree(module)) if isinstance(node, ast.expr)}
        names |= {name.rpartition(".")[2] for name in imports(PACKAGE / f"{module}.py")}
        if module != "training/train_step":
            assert not names & {"value_and_grad", "grad", "vjp", "jvp"}, module
        if not module.startswith("model/"):
            assert not names & {"custom_vjp", "custom_jvp"}, module


@pytest.mark.parametrize("path", CONTRACTS)
def test_the_contracts_name_no_any(path):
    module = parsed(ROOT / path)
    names = {dotted(node) for node in ast.walk(module) if isinstance(node, ast.expr)}
    assert "Any" not in names and "typing.Any" not in imports(ROOT / path)


# ---- size ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("module", MODULES)
def test_no_file_is_too_long(module):
    budget, _ = LONGER.get(module, (LINES.get(module.split("/")[0], LINES_ELSEWHERE), ""))
    lines = len((PACKAGE / f"{module}.py").read_text().splitlines())
    assert lines <= budget, f"reasoning_jax/{module}.py has {lines} lines"


@pytest.mark.parametrize("folder", ["reasoning_jax", "configs", "tests", "benchmarks"])
def test_no_line_is_too_wide(folder):
    wide = []
    for path in sorted((ROOT / folder).rglob("*.py")):
        for number, line in enumerate(path.read_text().splitlines(), 1):
            if len(line) > COLUMNS:
                wide.append(f"{path.relative_to(ROOT)}:{number}")
    assert not wide, f"lines of more than {COLUMNS} columns: {', '.join(wide)}"


# ---- what is built by keyword --------------------------------------------------------------------


def test_dataclasses_of_many_fields_are_built_by_keyword():
    positional = []
    for module, node in classes():
        for decorator in node.decorator_list:
            call = decorator if isinstance(decorator, ast.Call) else None
            if dotted(call.func if call else decorator) != "dataclass":
                continue
            keywords = {k.arg: ast.unparse(k.value) for k in call.keywords} if call else {}
            if len(fields(node)) > FIELDS and keywords.get("kw_only") != "True":
                positional.append(f"reasoning_jax/{module}.py: {node.name}")
    assert not positional, "\n".join(positional)


def test_named_tuples_of_many_fields_are_built_by_keyword():
    tuples = set()
    for _, node in classes():
        if "NamedTuple" in {dotted(base) for base in node.bases} and len(fields(node)) > FIELDS:
            tuples.add(node.name)
    positional = []
    for path in sorted(
        p for f in (PACKAGE, ROOT / "configs", ROOT / "benchmarks") for p in f.rglob("*.py")
    ):
        for node in ast.walk(parsed(path)):
            # One starred argument is a tuple that has every field already.
            given = node.args if isinstance(node, ast.Call) else []
            plain = [argument for argument in given if not isinstance(argument, ast.Starred)]
            if plain and dotted(node.func) in tuples:
                positional.append(f"{path.relative_to(ROOT)}:{node.lineno}")
    assert not positional, "\n".join(positional)


# ---- what serves every method knows none ---------------------------------------------------------


def own_keys() -> set[str]:
    """The keys of the methods' Config classes, less names that mean something elsewhere too."""
    keys: set[str] = set()
    others: set[str] = set()
    for module, node in classes():
        if module.startswith("algorithms/") and node.name == "Config":
            keys |= set(fields(node))
        elif not module.startswith("algorithms/"):
            others |= set(fields(node))
    return keys - others


def methods_named(module: str) -> list[str]:
    """Where a file names a method, or a key of a method's config."""
    methods, keys = set(METHODS), own_keys()
    config_keys = {f"algorithm.{key}" for key in keys}
    nodes = list(ast.walk(tree(module)))
    called = {id(node.func) for node in nodes if isinstance(node, ast.Call)}
    named = [name for name in imports(PACKAGE / f"{module}.py") if name.split(".")[-1] in methods]
    for node in nodes:
        words: set[str] = set()
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            text = node.value.removeprefix("config.")
            words = {text} & (methods | config_keys)
        elif isinstance(node, ast.Attribute) and id(node) not in called:
            words = {node.attr} & (methods | keys)
        elif isinstance(node, ast.Name):
            words = {node.id} & methods
        elif isinstance(node, ast.Subscript) and dotted(node.value) == "algorithm":
            words = {ast.unparse(node)}
        named += [f"line {node.lineno}: {word}" for word in sorted(words)]
    return named


@pytest.mark.parametrize("module", [m for m in MODULES if m in GENERAL or m.startswith("tpu/")])
def test_what_serves_every_method_knows_none(module):
    named = methods_named(module)
    assert not named, "\n".join(named)
