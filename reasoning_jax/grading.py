"""Whether two mathematical answers are the same: numbers here, everything else by math-verify in killable processes."""

from __future__ import annotations

import functools
import json
import multiprocessing.connection
import os
import pkgutil
import queue
import re
import signal
import subprocess
import sys
from fractions import Fraction

MAX_CHARACTERS = 400  # an answer longer than this is never equal to another
SECONDS = 3.0  # for one comparison by math-verify
MEMORY = 4 << 30  # bytes of address space of a checking process
STARTUP_SECONDS = 120.0

SCALES = {"hundred": 10**2, "thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12}
CURRENCIES = {"$": "dollar", "€": "euro", "£": "pound", "¥": "yen"}
ABBREVIATED = set(
    "am cm cups eur ft gb gbp hrs hr kg km kwh lb lbs mb mg mi mins min ml mm mph oz pm psi secs sec usd yd".split()
)
LETTERS = "ghlms"  # the units of one letter; others are variables
FUNCTIONS = set(
    "arccos arcsin arctan cos cosh cot csc exp gcd inf infinity infty lcm ln log max min mod pi sec sin sinh sqrt tan "
    "tanh tau".split()
)
# After a number these are not a unit: "2 pi" and "3 or more" are not the numbers 2 and 3.
NOT_UNITS = FUNCTIONS - {"min", "sec"} | {"and", "div", "less", "minus", "modulo", "more", "not", "or", "over"}
NOT_UNITS |= {"plus", "than", "times", "to"}
NUMBER = r"(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?|\.\d+"
QUANTITY = re.compile(
    rf"(?P<sign>[+-]?)\s*(?P<currency>[$€£¥]?)\s*(?P<inner>-?)(?:(?P<whole>\d+) +(?=\d+/\d))?"
    rf"(?P<number>{NUMBER})(?P<exponent>e[+-]?\d{{1,2}})?(?:\s*/\s*(?P<below>{NUMBER}))?(?P<space>\s*)(?P<unit>[^\d\s].*)?",
    re.IGNORECASE,
)
WORDS = re.compile(r"[a-z°]+(?:\^?[23²³])?(?:[ /-]+[a-z°]+(?:\^?[23²³])?)*\.?")


def normalize(text: str) -> str:
    """The canonical form of an answer: "$1,000.50" is "1000.5", "+72 clips" "72", "50 %" "50%", and "Yes." "yes"."""
    clean = _clean(text)
    quantity = _quantity(clean)
    if quantity is None:
        return clean.casefold()
    value, unit = quantity
    below, shift = value.denominator, 0
    while 10**shift % below and shift < 30:
        shift += 1
    if 10**shift % below:
        return str(value) + "%" * (unit == "%")  # such as 1/3
    digits = f"{abs(value.numerator) * (10**shift // below):0{shift + 1}d}"
    decimal = f"{digits[:-shift]}.{digits[-shift:]}" if shift else digits
    return "-" * (value < 0) + decimal + "%" * (unit == "%")


def equal(text: str, gold: str) -> bool:
    """Whether two answers mean the same; a comparison that takes too long, or fails, says no.

    Numbers are compared exactly, here. A unit may be on one side only, but two different ones differ; "50%" equals
    "50" and "0.5". Words are compared as words. All other expressions go to math-verify in another process.
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
        return _same_quantity(*quantity_a, *quantity_b)
    # math-verify reads a word as a product of letters ("on" = "no") and "3 4" as a sum; neither is what was meant.
    if _has_words(a) or _has_words(b) or re.search(r"\d\s+\d", f"{a} ; {b}"):
        return False
    return _pool().equal(a, b)


def _clean(text: str) -> str:
    """An answer without the dress of LaTeX, Markdown and sentences."""
    text = text.strip().strip("*`").strip()
    while match := re.fullmatch(r"\\boxed\s*\{(.*)\}|\$+([^$]+)\$+|\\\((.*)\\\)|\\\[(.*)\\\]", text, re.DOTALL):
        text = next(group for group in match.groups() if group is not None).strip()
    text = re.sub(r"\\(?:text|mathrm|textbf|mathbf)\s*\{([^{}]*)\}", r" \1", text)
    text = text.replace("{,}", ",").replace("\\$", "$").replace("\\%", "%").replace("\\left", "").replace("\\right", "")
    text = re.sub(r"\\[!,;: ]|~", lambda match: " " if match.group() in ("\\ ", "~") else "", text)
    text = text.translate({ord("−"): "-", ord("–"): "-", 0xA0: " ", ord("×"): "*"})
    return re.sub(r"\s+", " ", text).strip().rstrip(".,;: ")


def _quantity(clean: str) -> tuple[Fraction, str] | None:
    """(value, unit) of a number with at most a unit around it; the unit is "", "%" or words in the singular."""
    clean = re.sub(rf"\\[dt]?frac\s*\{{\s*(-?)({NUMBER})\s*\}}\s*\{{\s*({NUMBER})\s*\}}", r" \1\2/\3", clean).strip()
    match = QUANTITY.fullmatch(clean)
    if match is None or (match["sign"] and match["inner"]):
        return None
    value = Fraction(match["number"].replace(",", "") + (match["exponent"] or ""))
    if match["below"]:
        below = Fraction(match["below"].replace(",", ""))
        if not below:
            return None
        value /= below
    value += int(match["whole"] or 0)
    words = (match["unit"] or "").lower().strip()
    first, _, rest = words.partition(" ")
    if first in SCALES:
        value, words = value * SCALES[first], rest
    unit = "%" if re.fullmatch(r"%|percent|per cent", words) else _unit(words, bool(match["space"]))
    if unit is None:
        return None
    currency = CURRENCIES.get(match["currency"], "")
    unit = f"{currency} {unit.removeprefix(currency)}".strip()  # "$5", "$5 dollars" and "$5 per hour"
    return (-value if "-" in (match["sign"], match["inner"]) else value), " ".join(unit.split())


def _unit(words: str, spaced: bool) -> str | None:
    """The singular of a unit; None where these words may be algebra."""
    if not words:
        return ""
    if words in CURRENCIES:
        return CURRENCIES[words]
    parts = re.findall(r"[a-z°]+", words)
    algebra = any(part in NOT_UNITS or (len(part) < 2 and part not in LETTERS) for part in parts)
    if algebra or not WORDS.fullmatch(words):
        return None
    if not spaced and parts[0] not in ABBREVIATED:
        return None
    singular = " ".join(part.removesuffix("s") for part in parts)
    return {"usd": "dollar", "eur": "euro", "gbp": "pound"}.get(singular, singular)


def _same_quantity(a: Fraction, unit_a: str, b: Fraction, unit_b: str) -> bool:
    if unit_a == "%" != unit_b:
        return not unit_b and b in (a, a / 100)
    if unit_b == "%" != unit_a:
        return not unit_a and a in (b, b / 100)
    words_a, words_b = unit_a.split(), unit_b.split()
    shared = min(len(words_a), len(words_b))  # "dollar" goes with "dollar per hour", "" with any
    return a == b and words_a[:shared] == words_b[:shared]


def _has_words(clean: str) -> bool:
    words = re.findall(r"(?<![\\a-zA-Z])[a-zA-Z]{3,}", clean)
    return any(word.lower() not in FUNCTIONS for word in words)


class Pool:
    """Processes that compare answers, started when needed; one that takes longer than ``seconds`` is killed.

    ``checker`` is "module:function", a function (text, gold) -> bool. Safe to use from several threads.
    """

    def __init__(self, checker: str = "reasoning_jax.grading:math_verify", size: int = 2, seconds: float = SECONDS):
        self.checker, self.seconds = checker, seconds
        # Last in, first out: a second process starts only when two threads compare at once.
        self._free: queue.LifoQueue[subprocess.Popen[bytes] | None] = queue.LifoQueue()
        for _ in range(size):
            self._free.put(None)

    def equal(self, text: str, gold: str) -> bool:
        """The checker's verdict; False where it is killed, dies or raises. RuntimeError where it cannot start."""
        worker = self._free.get()
        try:
            if worker is None or worker.poll() is not None:
                worker = self._start()
            worker.stdin.write(json.dumps([text, gold]).encode() + b"\n")
            reply = _read(worker, self.seconds)
            if not reply:
                worker = _kill(worker)
            return reply == b"1\n"
        except BrokenPipeError:
            worker = _kill(worker)
            return False
        finally:
            self._free.put(worker)

    def close(self) -> None:
        """Ends the processes; a later comparison starts new ones."""
        for _ in range(self._free.qsize()):
            worker = self._free.get()
            self._free.put(worker and _kill(worker))

    def _start(self) -> subprocess.Popen[bytes]:
        # A new interpreter, not a fork: the threads of jax do not survive one. It imports this file but not main.
        code = (
            f"import sys; sys.path[:] = {sys.path!r}; from reasoning_jax import grading; "
            f"grading._serve({self.checker!r}, {self.seconds!r})"
        )
        worker = subprocess.Popen(
            [sys.executable, "-c", code],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            bufsize=0,
        )
        if _read(worker, STARTUP_SECONDS) != b"ready\n":
            _kill(worker)
            raise RuntimeError(f"The process that compares answers ({self.checker}) did not start; is it installed?")
        return worker


def math_verify(text: str, gold: str) -> bool:
    """math-verify's verdict on two expressions, without its own time limits, which cannot stop C code."""
    from math_verify import parse, verify

    expression, expected = (parse(f"${s}$", parsing_timeout=None, raise_on_error=True) for s in (text, gold))
    return bool(expression and expected and verify(expected, expression, timeout_seconds=None, raise_on_error=True))


@functools.cache
def _pool() -> Pool:
    return Pool()


def _read(worker: subprocess.Popen[bytes], seconds: float) -> bytes:
    """The next line of a process; empty where it ended or said nothing in time."""
    return worker.stdout.readline() if multiprocessing.connection.wait([worker.stdout], seconds) else b""


def _kill(worker: subprocess.Popen[bytes]) -> None:
    with worker:  # closes the pipes and waits
        worker.kill()


def _serve(checker: str, seconds: float) -> None:
    """The main function of a checking process: one JSON pair a line in, "1" or "0" a line out."""
    replies = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what a library prints must not look like a verdict
    try:
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    except (ImportError, ValueError, OSError):  # not on this system: the time limit remains
        pass
    check = pkgutil.resolve_name(checker)
    check("1", "1")  # imports what it needs before the clock runs
    print("ready", file=replies)
    for line in sys.stdin:
        # The default action of this signal ends the process, even in C code: nobody hangs on when the parent is gone.
        signal.setitimer(signal.ITIMER_REAL, 2 * seconds)
        try:
            verdict = bool(check(*json.loads(line)))
        except Exception:
            verdict = False
        signal.setitimer(signal.ITIMER_REAL, 0)
        print(int(verdict), file=replies)
