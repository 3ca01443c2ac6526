"""The words after a number: a unit, or something that makes another number of it."""

from __future__ import annotations

import re

CURRENCIES = {"$": "dollar", "€": "euro", "£": "pound", "¥": "yen", "₹": "rupee"}
# Short units are told apart by their case, as mW and MW are.
SHORT = {
    "dollar": "usd USD",
    "euro": "eur EUR",
    "pound": "gbp GBP lb lbs",
    "gram": "g",
    "kilogram": "kg",
    "milligram": "mg",
    "ounce": "oz",
    "meter": "m",
    "centimeter": "cm",
    "millimeter": "mm",
    "kilometer": "km",
    "foot": "ft",
    "yard": "yd",
    "mile": "mi",
    "liter": "l L",
    "milliliter": "ml mL",
    "hour": "h hr hrs",
    "minute": "min mins",
    "second": "s sec secs",
    "mph": "mph",
    "psi": "psi",
    "megabyte": "MB mb",
    "gigabyte": "GB gb",
    "watt": "W",
    "milliwatt": "mW",
    "kilowatt": "kW",
    "megawatt": "MW",
    "kilowatt hour": "kWh kwh",
    "am": "am",
    "pm": "pm",
    "fahrenheit": "°F",
    "celsius": "°C",
    "degree": "° ^\\circ",
}
ABBREVIATIONS = {short: unit for unit, listed in SHORT.items() for short in listed.split()}
IRREGULAR = {"feet": "foot", "inches": "inch", "people": "person", "children": "child"}
PER = {"per", "a", "an", "each", "every"}  # "$5 an hour" is "5 dollars per hour"
FUNCTIONS = set(
    "arccos arcsin arctan cos cosh cot csc exp gcd inf infinity infty lcm ln log max min mod pi "
    "sec sin sinh sqrt tan tanh tau".split()
)
# After one of these words the number is another ("72 squared"), one of two ("72 or"), or denied.
NOT_UNITS = FUNCTIONS - {"min", "sec"}
NOT_UNITS |= set(
    "about above actually added alternatively although and approx approximately april are "
    "around at august base basis below besides between bigger bil billion billions binary bn "
    "bps but by cancelled choose circa correct crore crores cube cubed debt december "
    "decreased deducted deficit div divided double doubled dozen dozens eight eighteen "
    "eighth eighths eighty either eleven eleventh elevenths error est estimated except "
    "exponent extra factorial factorials false february fewer fifteen fifth fifths fifty "
    "five fives fold forty four fourteen fourth fourths fraction friday from grand greater "
    "gross guess half halved halves hecto hex hexadecimal higher hmm hopefully however "
    "hundred hundreds hundredth hundredths if impossible inclusive incorrect increased "
    "instead invalid inverse inverted is ish isnt january july june kilo lakh lakhs less "
    "likely loss lower make makes march maximum maybe mil mille million millions millionth "
    "millionths minimum minus mio mistaken mln modulo monday more multiplied myriad nah nd "
    "nearly negative neither never nine nineteen ninety ninth ninths no none nope nor not "
    "november octal october off one ones onwards oops or otherwise out over owed percentage "
    "percentile perhaps plus positive possibly power ppb ppm presumably probably quadrillion "
    "quadruple quadrupled quarter quarters quintillion raised ratio rd reciprocal recurring "
    "rejected remainder repeating respectively reversed right root roughly rounded saturday "
    "score september seven seventeen seventh sevenths seventy short six sixteen sixth sixths "
    "sixty smaller squared squares st subtracted sunday ten tens tenth tenths th than then "
    "third thirds thirteen thirty thou thousand thousands thousandth thousandths three "
    "through thursday times tn to tril trillion trillions triple tripled tuesday twelfth "
    "twelfths twelve twelves twentieth twentieths twenty twice two under unknown unless "
    "unsure until up upwards versus vs wait was wednesday were whereas without wrong zero "
    "zillion".split()
)
# Inside a unit these are allowed, as in "72 bags of rice"; "72 of 100" begins with one.
LINKS = {"of", "in", "with"}
PART = re.compile(r"([A-Za-z°]+)(?:\^?([23]))?")
WORDS = re.compile(rf"{PART.pattern}(?:[ /-]{PART.pattern})*\.?")
TOTAL = re.compile(r"(?:in total|in all|altogether)")


def read(words: str, *, currency: str, spaced: bool) -> tuple[str, ...] | None:
    """The unit, each word in the singular; None where the words may be more than a unit.

    words: what follows the number; currency: the sign before the number, or ""; spaced: whether a
    space separates number and words. US$ and A$ are both "dollar", £ and lb both "pound".
    """
    sign = CURRENCIES.get(currency[-1:], "")
    is_rate = words.startswith("/")
    words = words.removeprefix("/").strip()
    if is_rate and (not words or not sign):  # "72/" is cut off; "5/kg" is not 5 kilograms
        return None
    if not words or TOTAL.fullmatch(words):
        return (sign,) if sign else ()
    if words.lower() in ("%", "percent", "per cent"):
        return None if sign else ("%",)
    if words in CURRENCIES:  # "5$"; but "$5€" is two
        return (CURRENCIES[words],) if sign in ("", CURRENCIES[words]) else None
    if words in ABBREVIATIONS and not sign:
        return tuple(ABBREVIATIONS[words].split())
    parts = [(match[1], match[2]) for match in PART.finditer(words)]
    may_be_scale = sign != "" and not is_rate  # "$5 m" may be millions; "$5/m" is not
    if not WORDS.fullmatch(words) or _makes_another_number(parts, may_be_scale, spaced):
        return None
    unit = []
    for word, power in parts:
        if word.lower() not in PER:
            unit += [f"{name}^{power}" if power else name for name in _singular(word).split()]
    if sign and unit[:1] != [sign]:  # "$5 dollars" has one currency
        unit = [sign, *unit]
    return tuple(unit)


def _makes_another_number(
    parts: list[tuple[str, str | None]], may_be_scale: bool, spaced: bool
) -> bool:
    """Whether words after a number may be more than its unit: "squared", "or", "x", "pi".

    parts: each word with its power; may_be_scale: whether one letter may stand for millions.
    """
    first = parts[0][0]
    if first.lower() in LINKS:
        return True
    for index, (word, power) in enumerate(parts):
        # "$5 a week" is a rate; "3a" and "3 a^2" are products.
        is_last = index + 1 == len(parts)
        if word.lower() in ("a", "an", "per") and (power or is_last):
            return True
        is_part_of_unit = word.lower() in LINKS or word.lower() in PER
        if not is_part_of_unit and (word.lower() in NOT_UNITS or _is_variable(word)):
            return True
    if first in ABBREVIATIONS or first.lower() in PER:
        return may_be_scale and len(first) == 1 and first.lower() not in PER
    shortest_word = 3 if spaced else 4  # "5 xy" and "5xyz" may be products
    return len(first) < shortest_word


def _is_variable(word: str) -> bool:
    return len(word) == 1 and word.lower() not in PER and word not in ABBREVIATIONS


def _singular(word: str) -> str:
    if word in ABBREVIATIONS:
        return ABBREVIATIONS[word]
    if len(word) <= 3:
        return word  # its case may tell short units apart
    lower = word.lower()
    if lower.endswith("ss"):
        return lower
    if lower in IRREGULAR:
        return IRREGULAR[lower]
    if lower.endswith(("xes", "ches", "shes", "sses")):
        return lower.removesuffix("es")
    return lower.removesuffix("s")
