"""Numbers with at most a unit around them: "$1,000.50", "5 1/2", "3 million", "72 clips", "50%"."""

from __future__ import annotations

import re
from fractions import Fraction
from typing import NamedTuple

from reasoning_jax.answers import MAX_CHARACTERS, arithmetic, markup, units

MAX_DIGITS = 400  # of a power that is computed
MAX_DECIMALS = 30  # of a canonical form; a fraction that needs more stays a fraction
SCALES = {
    "hundred": 10**2,
    "thousand": 10**3,
    "million": 10**6,
    "billion": 10**9,
    "trillion": 10**12,
}
CURRENCY = r"(?:(?:US|A|C|NZ|HK)?\$|[€£¥₹])"
NUMBER = r"(?:(?:\d{1,3}(?:,\d{3})+|\d{1,3}(?: \d{3})+|\d+)(?:\.\d+)?|\.\d+)"
QUANTITY = re.compile(
    rf"(?P<sign>[+-]?) ?(?P<currency>{CURRENCY}?) ?(?P<sign_after_currency>-?) ?"
    rf"(?:(?P<whole>\d+) (?=\d+/\d))?"
    rf"(?P<numerator>{NUMBER})(?P<exponent>e[+-]?\d{{1,2}})?"
    rf"(?: ?/ ?(?P<denominator>-?{NUMBER}))?"
    rf"(?P<space> ?)(?P<unit>[^\d\s].*)?",
    re.IGNORECASE | re.ASCII,
)
SCIENTIFIC = re.compile(
    r"(-?\d+(?:\.\d+)?) ?(?:[*x]|\\times|\\cdot) ?10 ?\^ ?\{?([+-]?\d{1,3})\}?", re.ASCII
)
POWER = re.compile(r"(\d{1,9}) ?\^ ?\{?(\d{1,4})\}?", re.ASCII)
DOLLARS_AND_CENTS = re.compile(
    r"(?:\$ ?(\d[\d,]*)|(\d[\d,]*) dollars?) and (\d{1,2}) cents?", re.IGNORECASE | re.ASCII
)
FRACTION = re.compile(
    rf"\\[dt]?frac ?\{{ ?(-?)({NUMBER}) ?\}} ?\{{ ?(-?{NUMBER}) ?\}}(?![\d.])", re.ASCII
)
SHORT_FRACTION = re.compile(r"\\[dt]?frac ?(\d) ?(\d)(?!\d)", re.ASCII)  # \frac12
PREFIX = re.compile(r"\A(?:the )?(?:final )?answer(?: is|:) ?", re.IGNORECASE)
# After the number: "72, which is the total".
EXPLANATION = re.compile(
    r"which is (?:the|our|his|her|their) (?:final )?(?:total|answer|sum|result)"
)
# Before "=": a variable, or what is asked for.
NAME = re.compile(r"[A-Za-z]|(?:the )?(?:final )?(?:total|answer|sum|result)", re.IGNORECASE)


class Quantity(NamedTuple):
    value: Fraction
    unit: tuple[str, ...]  # "%" or words in the singular; () = none


def read_answer(text: str) -> Quantity | None:
    """The quantity of "72 clips", "x = 72", "3*4 = 12" or "72, which is the total".

    None where the text is anything else, or holds two.
    """
    if len(text) > MAX_CHARACTERS:
        return None
    clean, comma, explanation = PREFIX.sub("", markup.clean(text), count=1).partition(", ")
    if comma and not EXPLANATION.fullmatch(explanation):
        return None
    return read_equation(clean)


def read_equation(clean: str) -> Quantity | None:
    """The quantity after the last "=" of a text without markup, or its whole.

    None unless what stands before "=" is nothing, a name, or arithmetic of the same value.
    """
    left, _, right = clean.lstrip(": ").rpartition("=")
    quantity = read_clean(right.strip())
    if quantity is None or not _may_precede(left.strip(), quantity):
        return None
    return quantity


def _may_precede(left: str, quantity: Quantity) -> bool:
    """Whether what is left of "=" is nothing, a name, or arithmetic of this value."""
    if not left:
        return True
    if NAME.fullmatch(left):
        return True
    try:
        return arithmetic.value(re.sub(r"[$€£¥]", "", left)) == quantity.value
    except (ValueError, ZeroDivisionError):
        return False


def read_clean(clean: str) -> Quantity | None:
    """The quantity that is the whole of a text without markup; None where there is none, or two."""
    if clean.startswith("(") and clean.endswith(")") and "," not in clean:
        clean = clean[1:-1].strip()
    computed = _computed(clean)
    if computed is not None:
        return computed
    plain = FRACTION.sub(r" \1\2/\3", SHORT_FRACTION.sub(r" \1/\2", clean)).strip()
    match = QUANTITY.fullmatch(plain)
    if match is None or (match["sign"] and match["sign_after_currency"]):
        return None
    value = _value(match)
    if value is None:
        return None
    scale, words = _scale(match["unit"] or "")
    unit = units.read(words, currency=match["currency"], spaced=bool(match["space"]))
    if unit is None:
        return None
    negative = "-" in (match["sign"], match["sign_after_currency"])
    return Quantity(-value * scale if negative else value * scale, unit)


def _computed(clean: str) -> Quantity | None:
    """The value of "5 * 10^3", "2^10" or "5 dollars and 50 cents"; None for other texts."""
    scientific = SCIENTIFIC.fullmatch(clean)
    if scientific:
        return Quantity(Fraction(scientific[1]) * Fraction(10) ** int(scientific[2]), ())
    power = POWER.fullmatch(clean)
    if power and len(power[1]) * int(power[2]) <= MAX_DIGITS:
        return Quantity(Fraction(int(power[1]) ** int(power[2])), ())
    money = DOLLARS_AND_CENTS.fullmatch(clean)
    if money:
        dollars = (money[1] or money[2]).replace(",", "")
        return Quantity(int(dollars) + Fraction(int(money[3]), 100), ("dollar",))
    return None


def _value(match: re.Match[str]) -> Fraction | None:
    """The number of a match before its sign and scale; None where it divides by zero."""
    value = Fraction(re.sub("[, ]", "", match["numerator"]) + (match["exponent"] or ""))
    if match["denominator"]:
        denominator = Fraction(re.sub("[, ]", "", match["denominator"]))
        if not denominator:
            return None
        value /= denominator
    if match["whole"] and (value >= 1 or len(match["numerator"]) > 2):
        return None  # "5 100/3" and "1 234/2345" may be read in two ways
    return value + int(match["whole"] or 0)


def _scale(words: str) -> tuple[int, str]:
    """(1000000, "dollars") for "million dollars"."""
    scale = 1
    first, _, rest = words.partition(" ")
    while first.lower().removesuffix("s") in SCALES:
        scale *= SCALES[first.lower().removesuffix("s")]
        words = rest
        first, _, rest = words.partition(" ")
    return scale, words


def same(a: Quantity, b: Quantity) -> bool:
    """Whether two quantities are the same.

    A unit may be missing on one side; "dollar" goes with "dollar hour", and 50% with 50 and 0.5.
    """
    if a.unit == ("%",) and b.unit == ():
        return _is_percent(a.value, b.value)
    if b.unit == ("%",) and a.unit == ():
        return _is_percent(b.value, a.value)
    return a.value == b.value and (_begins(a.unit, b.unit) or _begins(b.unit, a.unit))


def _is_percent(percent: Fraction, value: Fraction) -> bool:
    """Whether a value is so many per cent: 50 or 0.5 for 50; but 0.5 is not 0.5%."""
    return value == percent / 100 or (value == percent and abs(percent) >= 1)


def _begins(short: tuple[str, ...], long: tuple[str, ...]) -> bool:
    """Whether a unit is the other, or leaves out only what may be left out."""
    rest = long[len(short) :]
    if long[: len(short)] != short:
        return False
    if not short or not rest:
        return True
    return short[0] in units.CURRENCIES.values() or rest[0] in units.LINKS


def canonical(quantity: Quantity) -> str:
    """The value as a decimal, or a fraction where that does not end, without a unit but "%"."""
    number = _decimal(quantity.value)
    return f"{number}%" if quantity.unit == ("%",) else number


def _decimal(value: Fraction) -> str:
    """The decimal expansion of a number; a fraction such as 1/3 where that does not end."""
    decimals = 0
    while 10**decimals % value.denominator and decimals < MAX_DECIMALS:
        decimals += 1
    if 10**decimals % value.denominator:
        return str(value)
    sign = "-" if value < 0 else ""
    scaled = abs(value.numerator) * (10**decimals // value.denominator)
    digits = f"{scaled:0{decimals + 1}d}"
    if not decimals:
        return f"{sign}{digits}"
    return f"{sign}{digits[:-decimals]}.{digits[-decimals:]}"
