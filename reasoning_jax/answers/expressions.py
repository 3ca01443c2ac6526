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
EXACT = sympy.Float("1e-30", DIGITS)  # how far exact expressions may differ, relative to their size
ROUNDED = sympy.Float("1e-6", DIGITS)  # the same of expressions with decimals, such as 1.4142136
NOISE = sympy.Float("1e-50", DIGITS)  # what terms that cancel may leave in place of 0
# Values of the symbols at which two expressions are compared: nothing special, all above 0.
POINTS = (sympy.Rational(7, 5), sympy.Rational(17, 11), sympy.Rational(29, 13))


def equal(text: str, gold: str) -> bool:
    """Whether two expressions of LaTeX are equal.

    Raises whatever math-verify or sympy raise, which the caller counts as not equal. There is no
    time limit here, as math-verify's own cannot stop C code.
    """
    expression, expected = (
        parse(f"${source}$", parsing_timeout=None, raise_on_error=True) for source in (text, gold)
    )
    if not expression or not expected:
        return False
    if not verify(expected, expression, timeout_seconds=None, raise_on_error=True):
        return False
    return _confirm(expression[0], expected[0])  # sympy's objects; what follows is their text


def _confirm(a: object, b: object) -> bool:
    """Whether two parsed answers that math-verify calls equal agree to EXACT, or ROUNDED."""
    a, b = _right_side(a, b), _right_side(b, a)
    # math-verify takes the right side of "2x = 72" for the answer.
    equations = (Relational, sympy.And)
    if isinstance(a, equations) != isinstance(b, equations):
        return False
    if isinstance(a, sympy.Tuple) and isinstance(b, sympy.Tuple):
        return len(a) == len(b) and all(itertools.starmap(_confirm, zip(a, b, strict=True)))
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
    return True  # texts, unions and other kinds are left to math-verify


def _right_side(a: object, other: object) -> object:
    """5 for x = 5, where the other answer is 5 alone."""
    is_assignment = isinstance(a, sympy.Eq) and isinstance(a.lhs, sympy.Symbol)
    return a.rhs if is_assignment and not isinstance(other, Relational) else a


def _elements(a: object) -> Sequence[object] | None:
    """The elements of a set or tuple; None of anything else."""
    return list(a.args) if isinstance(a, (sympy.FiniteSet, sympy.Tuple)) else None


def _each_is_among(some: Sequence[object], others: Sequence[object]) -> bool:
    """Whether each of ``some`` is confirmed equal to one of ``others``."""
    return all(any(_confirm(a, b) for b in others) for a in some)


def _same_value(a: sympy.Expr, b: sympy.Expr) -> bool:
    """Whether two expressions agree numerically, at three choices of values for their symbols."""
    if a == b:
        return not a.has(sympy.nan, sympy.zoo)
    if a.is_Rational and b.is_Rational:
        return False
    tolerance = ROUNDED if a.has(sympy.Float) or b.has(sympy.Float) else EXACT
    symbols = sorted(a.free_symbols | b.free_symbols, key=str)
    for start in range(len(POINTS)):
        values = dict(zip(symbols, itertools.cycle(POINTS[start:] + POINTS[:start]), strict=False))
        at_a, at_b = (sympy.N(x.subs(values), DIGITS) for x in (a, b))
        if not (at_a.is_number and at_b.is_number and at_a.is_finite and at_b.is_finite):
            return False
        difference = abs(at_a - at_b)
        is_noise = difference < NOISE and (at_a == 0 or at_b == 0)
        if difference > tolerance * max(abs(at_a), abs(at_b)) and not is_noise:
            return False
    return True


def _same_relation(a: Relational, b: Relational) -> bool:
    """Whether one relation is the other times a number, a positive one for an inequality."""
    if isinstance(a, (sympy.Ge, sympy.Gt)):
        a = a.reversed
    if isinstance(b, (sympy.Ge, sympy.Gt)):
        b = b.reversed
    if a.func is not b.func:
        return False
    ratio = sympy.simplify((a.lhs - a.rhs) / (b.lhs - b.rhs))
    if not ratio.is_number or not ratio.is_finite:
        return False
    return bool(ratio.is_nonzero if isinstance(a, sympy.Eq) else ratio.is_positive)
