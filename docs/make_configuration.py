"""Writes docs/configuration.md from the code: every key, its default and its comment.

    python docs/make_configuration.py [--check]

With --check it writes nothing, and ends with 1 where the page is not what it would write.
"""

from __future__ import annotations

import argparse
import ast
import dataclasses
import inspect
import sys
import textwrap
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from ml_collections import ConfigDict  # noqa: E402

from reasoning_jax import algorithms, default, graders, tasks  # noqa: E402

HEAD = """\
# Configuration

Made by `python docs/make_configuration.py` from the comments in the code.

An experiment (`configs/*.py`) calls `default.get_config(algorithm=..., task=...)` and changes what
differs. Every key can be overridden on the command line, `--config.optim.learning_rate=3e-4`; a key
that the experiment does not have is refused. `--config.algorithm.name=rejection` (or `task.name`,
`grader.name`) puts another method's keys, with their defaults, in the place of the experiment's.
"""


def comment_of(lines: list[str], number: int) -> str:
    """The comment at the end of line ``number`` (from 1), after those on the lines above it."""
    above = []
    i = number - 2
    while i >= 0 and lines[i].strip().startswith("#"):
        above.insert(0, lines[i].strip().lstrip("# "))
        i -= 1
    code, mark, own = lines[number - 1].partition("  # ")
    return " ".join([*above, own] if mark else above).strip()


def keys_of_dataclass(config: type) -> list[tuple[str, object, str]]:
    """(key, default, comment) of each field, those of base classes first."""
    comments = {}
    for cls in reversed(config.__mro__[:-1]):
        source = textwrap.dedent(inspect.getsource(cls))
        lines = source.split("\n")
        for node in ast.parse(source).body[0].body:
            if isinstance(node, ast.AnnAssign):
                comments[node.target.id] = comment_of(lines, node.lineno)
    fields = dataclasses.fields(config)
    return [(f.name, f.default, comments.get(f.name, "")) for f in fields]


def comments_of_default() -> dict[str, str]:
    """The comment of every key that default.get_config sets itself."""
    source = inspect.getsource(default)
    lines = source.split("\n")
    comments = {}
    function = next(n for n in ast.parse(source).body if isinstance(n, ast.FunctionDef))
    for node in function.body:
        if isinstance(node, ast.Assign):
            target = ast.unparse(node.targets[0])
            if target.startswith("c."):
                comments[target[2:]] = comment_of(lines, node.lineno)
    return comments


def table(rows: list[tuple[str, object, str]]) -> str:
    lines = ["| key | default | |", "|---|---|---|"]
    for key, value, comment in rows:
        lines.append(f"| `{key}` | `{value!r}` | {comment} |".replace("  |", " |"))
    return "\n".join(lines)


def common_sections() -> list[str]:
    """The sections that every experiment has, in the order of the code."""
    cfg = default.get_config()
    comments = comments_of_default()
    sections: dict[str, list[tuple[str, object, str]]] = {"": []}
    for key, comment in comments.items():
        section, _, name = key.rpartition(".")
        value = cfg[section][name] if section else cfg[name]
        if not isinstance(value, ConfigDict):
            sections[section].append((key, value, comment))
        elif section:
            sections[section].append((key, value.name, "a section: a method and its keys"))
        elif key not in ("task", "algorithm", "grader"):
            sections[key] = []
    parts = ["## Of every experiment", table(sections.pop(""))]
    for section, rows in sections.items():
        about = f": {comments[section]}" if comments[section] else ""
        parts += [f"### `{section}`{about}", table(rows)]
    return parts


def sections_by_name(title: str, section: str, package: ModuleType) -> list[str]:
    parts = [f"## {title}: `{section}`"]
    for name in package.names():
        rows = keys_of_dataclass(package.get(name).Config)
        named = [(f"{section}.{key}", value, comment) for key, value, comment in rows]
        parts += [f"### {name}", table(named) if named else "No keys of its own."]
    return parts


def page() -> str:
    parts = [HEAD.strip(), *common_sections()]
    parts += sections_by_name("Methods", "algorithm", algorithms)
    parts += sections_by_name("Tasks", "task", tasks)
    parts += sections_by_name("Graders", "grader", graders)
    return "\n\n".join(parts) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true")
    path = Path(__file__).with_name("configuration.md")
    text = page()
    if parser.parse_args().check:
        current = path.read_text() if path.exists() else ""
        if current != text:
            print(f"{path.name} is not up to date: run python docs/make_configuration.py")
        return int(current != text)
    path.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
