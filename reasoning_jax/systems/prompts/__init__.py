"""The prompts of systems: a folder has a text file for each call, SYSTEM_STAGE.txt.

What stands in braces is filled in. ``words`` is for models that read instructions; ``symbols`` has
the forms of the tasks people, opinions and rule_cards, on which small models are trained.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from reasoning_jax import templates
from reasoning_jax.errors import UserError
from reasoning_jax.templates import Template

FOLDER = Path(__file__).parent
# What stands before an item of a list.
BULLET = re.compile(r"^\s*(?:\(?\d{1,3}[.):]|[-*•])\s+")


class Fields(NamedTuple):
    """What a prompt has to hold, and what it may."""

    needed: tuple[str, ...]
    optional: tuple[str, ...] = ()


def names() -> list[str]:
    """The folders of prompts that come with this package."""
    return sorted(path.parent.name for path in FOLDER.glob("*/cove_plan.txt"))


def read(chosen: str, system: str, stages: Mapping[str, Fields]) -> dict[str, Template]:
    """The template of each stage, from the folder of this name or path.

    UserError where there is no such folder or file, and naming file and field for a field that is
    missing or unknown.
    """
    key = "config.system.prompts"
    folder = FOLDER / chosen if chosen in names() else Path(os.path.expanduser(chosen))
    if not chosen or not folder.is_dir():
        known = ", ".join(names())
        raise UserError(f"{key}: there is no folder {chosen!r}; the prompts here are {known}.")
    found = {}
    for stage, fields in stages.items():
        path = folder / f"{system}_{stage}.txt"
        if not path.is_file():
            raise UserError(f"{key}: there is no file {path}, which {system} needs.")
        found[stage] = templates.read(str(path), fields.needed, key, fields.optional)
    return found


def lines(text: str) -> list[str]:
    """The lines of a text that are not empty, without bullets and numbers before them.

    A space before a line stays: where words are tokens, it belongs to the first.
    """
    stripped = [BULLET.sub("", line).rstrip() for line in text.split("\n")]
    return [line for line in stripped if line]
