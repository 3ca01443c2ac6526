"""Writes docs/configuration.md from the code: every key, its default, range and comment.

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

from reasoning_jax import algorithms, default, forwards, graders, ranges, systems, tasks  # noqa: E402

HEAD = """\
# Configuration

Made by `python docs/make_configuration.py` from the comments in the code.

An experiment (`configs/*.py`) calls `default.get_config(algorithm=..., task=...)` and changes what
differs. Every key can be overridden on the command line, `--config.optim.learning_rate=3e-4`; a key
that the experiment does not have is refused. `--config.algorithm.name=rejection` (or `task.name`,
`grader.name`) puts another method's keys, with their defaults, in the place of the experiment's.
A value out of its range is refused before anything runs; numbers are finite.
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


def comments_of(config: type) -> dict[str, str]:
    """The comment of each field, those of base classes too."""
    comments = {}
    for cls in config.__mro__[:-1]:
        source = textwrap.dedent(inspect.getsource(cls))
        lines = source.split("\n")
        for node in ast.parse(source).body[0].body:
            if isinstance(node, ast.AnnAssign):
                comments[node.target.id] = comment_of(lines, node.lineno)
    return comments


def table(config: type, prefix: str) -> str:
    """A line a key of a dataclass, whose names in a config begin with ``prefix``."""
    comments = comments_of(config)
    lines = ["| key | default | range | |", "|---|---|---|---|"]
    for key in ranges.keys(config):
        comment = comments[key.name].replace("|", "\\|")
        cells = [f"`{prefix}{key.name}`", f"`{key.default!r}`", range_of(key), comment]
        lines.append("".join(f"| {cell} " if cell else "| " for cell in cells) + "|")
    return "\n".join(lines)


def range_of(key: ranges.Key) -> str:
    if key.range is None:
        return ""
    return key.range.ends(key.kind).removeprefix("of ")


def about(config: type) -> str:
    """What a section's docstring says, to stand after its name; "" where it has none."""
    docstring = ast.get_docstring(ast.parse(inspect.getsource(config)).body[0])
    if docstring is None:
        return ""
    return f": {docstring[0].lower()}{docstring[1:].rstrip('.')}"


def common_sections() -> list[str]:
    """The sections that every experiment has."""
    parts = ["## Of every experiment", table(default.COMMON[""], "")]
    for name, config in default.COMMON.items():
        if name:
            parts += [f"### `{name}`{about(config)}", table(config, f"{name}.")]
        if name == "base":
            parts.append(
                "`base.algorithm` is a section of its own: a method, by default `sft` with "
                "`hinted` 0.25, and its keys."
            )
    return parts


def sections_by_name(title: str, section: str, package: ModuleType) -> list[str]:
    parts = [f"## {title}: `{section}`"]
    for name in package.names():
        config = package.get(name).Config
        has_keys = dataclasses.fields(config)
        keys = table(config, f"{section}.") if has_keys else "No keys of its own."
        parts += [f"### {name}", keys]
    return parts


def page() -> str:
    parts = [HEAD.strip(), *common_sections()]
    parts += sections_by_name("Methods", "algorithm", algorithms)
    parts += sections_by_name("Tasks", "task", tasks)
    parts += sections_by_name("Graders", "grader", graders)
    parts += sections_by_name("Forwards", "forward", forwards)
    parts += sections_by_name("Systems", "system", systems)
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
