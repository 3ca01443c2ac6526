"""math-verify's verdict on two expressions, and a second opinion where it says that they are equal.

math-verify compares 6 decimals, or 15 digits of a difference: 2^-80 and 2^-81 are equal to it.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import sympy
from math_verify import parse, verify
from sympy.core.relational import Relational

DIGITS = 60  # of a numerical comparison
EXACT = sympy.Float("1e-30", DIGITS)  # relative error of exact expressions
ROUNDED = sympy.Float("1e-6", DIGITS)  # of expressions with decimals, such as 1.4142136
# Values of the symbols at which two expressions are compared: nothing special, all above 0.
POINTS = (sympy.Rational(7, 5), sympy.Rational(17, 11), sympy.Rational(29, 13))


def equal(text: str, gold: str) -> bool:
    """Whether two expressions of LaTeX are equal; what they cannot read may raise anything.

    There is no time limit here, as math-verify's own cannot stop C code.
    """
    expression, expected = (
        parse(f"${source}$", parsing_timeout=None, raise_on_error=True) for source in (text, gold)
    )
    if not expression or not expected:
        return False
    if not verify(expected, expression, timeout_seconds=None, raise_on_error=True):
        return False
    return _confirm(expression[0], expected[0])


def _confirm(a: object, b: object) -> bool:
    """Whether two parsed answers that math-verify calls equal are so to ``DIGITS`` digits."""
    a, b = _right_side(a, b), _right_side(b, a)
    if isinstance(a, sympy.MatrixBase) and isinstance(b, sympy.MatrixBase):
        return all(itertools.starmap(_confirm, zip(a.flat(), b.flat(), strict=True)))
    elements_a, elements_b = _elements(a), _elements(b)
    if elements_a is not None and elements_b is not None:
        return _each_is_among(elements_a, elements_b) and _each_is_among(elements_b, elements_a)
    if isinstance(a, sympy.Interval) and isinstance(b, sympy.Interval):
        return _confirm(a.start, b.start) and _confirm(a.end, b.end)
    if isinstance(a, Relational) and isinstance(b, Relational):
        return _same_relation(a, b)
    if isinstance(a, sympy.Expr) and isinstance(b, sympy.Expr):
        return _same_value(a.doit(), b.doit())
    return True


def _right_side(a: object, other: object) -> object:
    """5 for x = 5, where the other answer is 5 alone."""
    is_assignment = isinstance(a, sympy.Eq) and isinstance(a.lhs, sympy.Symbol)
    return a.rhs if is_assignment and not isinstance(other, Relational) else a


def _elements(a: object) -> Sequence[object] | None:
    return list(a.args) if isinstance(a, (sympy.FiniteSet, sympy.Tuple)) else None


def _each_is_among(some: Sequence[object], others: Sequence[object]) -> bool:
    return all(any(_confirm(a, b) for b in others) for a in some)


def _same_value(a: sympy.Expr, b: sympy.Expr) -> bool:
    if a == b:
        return True
    if a.is_Rational and b.is_Rational:
        return False
    tolerance = ROUNDED if a.has(sympy.Float) or b.has(sympy.Float) else EXACT
    symbols = sorted(a.free_symbols | b.free_symbols, key=str)
    for start in range(len(POINTS)):
        values = dict(zip(symbols, itertools.cycle(POINTS[start:] + POINTS[:start]), strict=False))
        at_a, at_b = (sympy.N(x.subs(values), DIGITS) for x in (a, b))
        if not (at_a.is_number and at_b.is_number and at_a.is_finite and at_b.is_finite):
            return False
        size = max(abs(at_a), abs(at_b))
        if abs(at_a - at_b) > tolerance * size and size > EXACT**2:
            return False
    return True


def _same_relation(a: Relational, b: Relational) -> bool:
    """Whether one relation is a multiple of the other."""
    if isinstance(a, (sympy.Ge, sympy.Gt)):
        a = a.reversed
    if isinstance(b, (sympy.Ge, sympy.Gt)):
        b = b.reversed
    ratio = sympy.simplify((a.lhs - a.rhs) / (b.lhs - b.rhs))
    return bool(ratio.is_number)
