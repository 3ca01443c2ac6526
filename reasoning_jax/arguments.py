"""The arguments of a command, before its config is known; nothing here waits for jax."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from absl import flags

from reasoning_jax.errors import UserError


def parse_into(
    values: flags.FlagValues, arguments: list[str], known_only: bool = False
) -> list[str]:
    """Parses into ``values`` and returns the arguments that are left.

    UserError where a flag's value does not fit.
    """
    values.set_gnu_getopt(True)  # flags may follow words
    try:
        return values(["", *arguments], known_only=known_only)[1:]
    except flags.IllegalFlagValueError as error:
        match = re.match(r"flag --([\w.]+)=(.*?): ", str(error), re.DOTALL)
        if not match or match[1] not in values:
            raise
        parser = values[match[1]].parser
        wanted = parser.syntactic_help or f"a value of type {parser.flag_type()}"
        if isinstance(parser, flags.EnumParser):
            wanted = f"one of {', '.join(parser.enum_values)}"
        raise UserError(f"--{match[1]}={match[2]}: this must be {wanted}.") from None
    except flags.Error:
        raise
    except ValueError as error:  # absl's, of a value for a --no... flag
        raise UserError(f"{error}.") from None


def with_sections(
    arguments: list[str], values: flags.FlagValues, sections: Sequence[str]
) -> list[str]:
    """The arguments, and for each flag --SECTION=NAME that is given --config.SECTION.name=NAME.

    UserError where the arguments name that section too.
    """
    named = []
    for section in sections:
        name = values[section].value
        if name is None:
            continue
        for argument in arguments:
            if re.match(rf"--?config\.{section}(\.name)?(=|$)", argument):
                raise UserError(f"--{section}={name} and {argument} both name the {section}.")
        named.append(f"--config.{section}.name={name}")
    return [*named, *arguments]


def check_used(arguments: Sequence[str], unused: Mapping[str, str]) -> None:
    """UserError for a key that is changed and would have no effect."""
    for argument in arguments:
        match = re.match(r"--?(?:no)?config\.([\w.]+)", argument)
        if match and match[1] in unused:
            raise UserError(f"--config.{match[1]} has no effect here: {unused[match[1]]}.")
