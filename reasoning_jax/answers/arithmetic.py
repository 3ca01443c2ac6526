"""The exact value of written arithmetic."""

from __future__ import annotations

import ast
import operator
import re
from fractions import Fraction

MAX_CHARACTERS = 200
OPERATORS = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
}


def value(expression: str) -> Fraction:
    """The value of + - * / // and parentheses over decimals such as 1,000.5.

    ValueError for anything else and for longer texts, ZeroDivisionError for a division by zero.
    """
    if len(expression) > MAX_CHARACTERS:
        raise ValueError("too long")
    # Python's grammar has neither 007 nor 1,000.
    plain = re.sub(r"(?<![\d.])0+(?=\d)", "", expression.replace(",", "").strip())
    try:
        return _node(ast.parse(plain, mode="eval").body)
    except (SyntaxError, RecursionError, MemoryError):  # the last two of deep parentheses
        raise ValueError("no arithmetic") from None


def is_false_equation(text: str) -> bool:
    """Whether "a op b=c" is false; c may be rounded or cut to its decimals.

    What is no arithmetic is not judged.
    """
    left, _, right = text.rpartition("=")
    decimals = len(right.strip().partition(".")[2])
    try:
        error = abs(value(left) - value(right))
    except ZeroDivisionError:
        return True
    except ValueError:
        return False
    if decimals == 0:
        return error != 0
    return error >= Fraction(1, 10**decimals)


def _node(node: ast.expr) -> Fraction:
    match node:
        case ast.Constant(value=int() | float() as number):
            return Fraction(str(number))
        case ast.BinOp(op=op) if type(op) in OPERATORS:
            return OPERATORS[type(op)](_node(node.left), _node(node.right))
        case ast.UnaryOp(op=ast.UAdd()):
            return _node(node.operand)
        case ast.UnaryOp(op=ast.USub()):
            return -_node(node.operand)
    raise ValueError("no arithmetic")
