"""Whether two mathematical answers are the same: numbers here, other expressions by math-verify.

math-verify runs in processes that are killed where they take too long.
"""

from __future__ import annotations

import functools
import re
from fractions import Fraction

from reasoning_jax.killable import Pool

MAX_CHARACTERS = 400  # an answer longer than this is never equal to another
SECONDS = 3.0  # for one comparison by math-verify
CHECKER = f"{__name__}:math_verify"
MAX_DECIMALS = 30  # of a canonical form; a fraction that needs more stays a fraction

SCALES = {
    "hundred": 10**2,
    "thousand": 10**3,
    "million": 10**6,
    "billion": 10**9,
    "trillion": 10**12,
}
CURRENCIES = {"$": "dollar", "€": "euro", "£": "pound", "¥": "yen"}
CURRENCY_CODES = {"usd": "dollar", "eur": "euro", "gbp": "pound"}
ABBREVIATED = set(
    "am cm cups eur ft gb gbp hrs hr kg km kwh lb lbs mb mg mi mins min ml mm mph oz pm psi secs "
    "sec usd yd".split()
)
LETTERS = "ghlms"  # the units of one letter; others are variables
FUNCTIONS = set(
    "arccos arcsin arctan cos cosh cot csc exp gcd inf infinity infty lcm ln log max min mod pi "
    "sec sin sinh sqrt tan tanh tau".split()
)
# After a number these are not a unit: "2 pi" and "3 or more" are not the numbers 2 and 3.
NOT_UNITS = FUNCTIONS - {"min", "sec"}
NOT_UNITS |= set("and div less minus modulo more not or over plus than times to".split())
NUMBER = r"(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?|\.\d+"
QUANTITY = re.compile(
    rf"(?P<sign>[+-]?)\s*(?P<currency>[$€£¥]?)\s*(?P<inner>-?)"
    rf"(?:(?P<whole>\d+) +(?=\d+/\d))?"
    rf"(?P<number>{NUMBER})(?P<exponent>e[+-]?\d{{1,2}})?(?:\s*/\s*(?P<below>{NUMBER}))?"
    rf"(?P<space>\s*)(?P<unit>[^\d\s].*)?",
    re.IGNORECASE,
)
FRACTION = re.compile(
    rf"\\[dt]?frac\s*\{{\s*(-?)({NUMBER})\s*\}}\s*\{{\s*({NUMBER})\s*\}}",
)
WORDS = re.compile(r"[a-z°]+(?:\^?[23²³])?(?:[ /-]+[a-z°]+(?:\^?[23²³])?)*\.?")
WRAPPED = re.compile(
    r"\\boxed\s*\{(.*)\}|\$+([^$]+)\$+|\\\((.*)\\\)|\\\[(.*)\\\]",
    re.DOTALL,
)


def normalize(text: str) -> str:
    """The canonical form of an answer.

    "$1,000.50" is "1000.5", "+72 clips" is "72", "50 %" is "50%", and "Yes." is "yes".
    """
    clean = _clean(text)
    quantity = _quantity(clean)
    if quantity is None:
        return clean.casefold()
    value, unit = quantity
    return f"{_decimal(value)}%" if unit == "%" else _decimal(value)


def equal(text: str, gold: str) -> bool:
    """Whether two answers mean the same; a comparison that takes too long, or fails, says no.

    Numbers are compared exactly, here. A unit may be on one side only, but two different ones
    differ; "50%" equals "50" and "0.5". Words are compared as words. All other expressions go to
    math-verify in another process.
    """
    if max(len(text), len(gold)) > MAX_CHARACTERS:
        return False
    a, b = _clean(text), _clean(gold)
    if not a or not b:
        return False
    if a.casefold() == b.casefold():
        return True
    quantity_a, quantity_b = _quantity(a), _quantity(b)
    if quantity_a and quantity_b:
        return _same_quantity(quantity_a, quantity_b)
    # math-verify reads a word as a product of letters ("on" = "no") and "3 4" as a sum.
    if _has_words(a) or _has_words(b) or re.search(r"\d\s+\d", f"{a} ; {b}"):
        return False
    return _pool().equal(a, b)


def _clean(text: str) -> str:
    """An answer without the markup of LaTeX and Markdown and the full stop of a sentence."""
    text = text.strip().strip("*`").strip()
    wrapped = WRAPPED.fullmatch(text)
    while wrapped:
        text = next(group for group in wrapped.groups() if group is not None).strip()
        wrapped = WRAPPED.fullmatch(text)
    text = re.sub(r"\\(?:text|mathrm|textbf|mathbf)\s*\{([^{}]*)\}", r" \1", text)
    text = text.replace("{,}", ",").replace("\\$", "$").replace("\\%", "%")
    text = text.replace("\\left", "").replace("\\right", "")
    text = text.replace("\\ ", " ").replace("~", " ")
    text = re.sub(r"\\[!,;:]", "", text)
    text = text.translate({ord("−"): "-", ord("–"): "-", 0xA0: " ", ord("×"): "*"})
    return re.sub(r"\s+", " ", text).strip().rstrip(".,;: ")


def _quantity(clean: str) -> tuple[Fraction, str] | None:
    """(value, unit) of a number with at most a unit around it.

    The unit is "", "%" or words in the singular.
    """
    match = QUANTITY.fullmatch(FRACTION.sub(r" \1\2/\3", clean).strip())
    if match is None or (match["sign"] and match["inner"]):
        return None
    value = _value(match)
    if value is None:
        return None
    words = (match["unit"] or "").lower().strip()
    first, _, rest = words.partition(" ")
    if first in SCALES:
        value, words = value * SCALES[first], rest
    unit = _unit(words, spaced=bool(match["space"]))
    if unit is None:
        return None
    # "$5", "$5 dollars" and "$5 per hour" have one currency each.
    currency = CURRENCIES.get(match["currency"], "")
    unit = f"{currency} {unit.removeprefix(currency)}"
    negative = "-" in (match["sign"], match["inner"])
    return (-value if negative else value), " ".join(unit.split())


def _value(match: re.Match[str]) -> Fraction | None:
    """The number of a quantity, without its sign; None for a division by zero."""
    value = Fraction(match["number"].replace(",", "") + (match["exponent"] or ""))
    if match["below"]:
        below = Fraction(match["below"].replace(",", ""))
        if not below:
            return None
        value /= below
    return value + int(match["whole"] or 0)


def _unit(words: str, spaced: bool) -> str | None:
    """The singular of a unit; None where these words may be algebra."""
    if not words:
        return ""
    if words in ("%", "percent", "per cent"):
        return "%"
    if words in CURRENCIES:
        return CURRENCIES[words]
    parts = re.findall(r"[a-z°]+", words)
    if not WORDS.fullmatch(words) or any(_is_algebra(part) for part in parts):
        return None
    if not spaced and parts[0] not in ABBREVIATED:
        return None
    singular = " ".join(part.removesuffix("s") for part in parts)
    return CURRENCY_CODES.get(singular, singular)


def _is_algebra(word: str) -> bool:
    return word in NOT_UNITS or (len(word) == 1 and word not in LETTERS)


def _same_quantity(a: tuple[Fraction, str], b: tuple[Fraction, str]) -> bool:
    """Whether two (value, unit) are the same; a unit may be missing on one side."""
    (value_a, unit_a), (value_b, unit_b) = a, b
    if unit_a == "%" and unit_b == "":
        return value_b in (value_a, value_a / 100)
    if unit_b == "%" and unit_a == "":
        return value_a in (value_b, value_b / 100)
    words_a, words_b = unit_a.split(), unit_b.split()
    shared = min(len(words_a), len(words_b))  # "dollar" goes with "dollar per hour", "" with any
    return value_a == value_b and words_a[:shared] == words_b[:shared]


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


def _has_words(clean: str) -> bool:
    words = re.findall(r"(?<![\\a-zA-Z])[a-zA-Z]{3,}", clean)
    return any(word.lower() not in FUNCTIONS for word in words)


def math_verify(text: str, gold: str) -> bool:
    """math-verify's verdict on two expressions.

    It has no time limit of its own here, as math-verify's cannot stop C code.
    """
    from math_verify import parse, verify

    expression, expected = (
        parse(f"${source}$", parsing_timeout=None, raise_on_error=True) for source in (text, gold)
    )
    if not expression or not expected:
        return False
    return bool(verify(expected, expression, timeout_seconds=None, raise_on_error=True))


@functools.cache
def _pool() -> Pool:
    return Pool(CHECKER, size=2, seconds=SECONDS)
