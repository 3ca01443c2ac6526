"""Answers: a table of equal and unequal ones, canonical forms, and processes that hang."""

from __future__ import annotations

import pathlib
import subprocess
import sys
import threading
import time

import pytest

from reasoning_jax.answers import equivalence
from reasoning_jax.answers.equivalence import CHECKER
from reasoning_jax.answers.killable import Pool

ROOT = pathlib.Path(__file__).resolve().parent.parent

# (answer, gold, are they the same?), decided without another process
NUMBERS = [
    ("72", "72", True),
    ("1,000", "1000", True),
    ("1000", "1,000", True),
    ("1,234,567.50", "1234567.5", True),
    ("$29.00", "29", True),
    ("29", "$29.00", True),
    ("-$5", "-5", True),
    ("$-5", "-5", True),
    ("\\$29", "29", True),
    ("5.0", "5", True),
    ("5.", "5", True),
    (" 5 \n", "5", True),
    ("+5", "5", True),
    (".5", "0.5", True),
    ("007", "7", True),
    ("-0", "0", True),
    ("−3", "-3", True),  # the minus sign of Unicode
    ("- 3", "-3", True),
    ("1/2", "0.5", True),
    ("2/4", "1/2", True),
    ("-3/4", "-0.75", True),
    ("1 1/2", "1.5", True),
    ("-1 1/2", "-1.5", True),
    ("\\frac{1}{2}", "0.5", True),
    ("\\dfrac{10}{4}", "2.5", True),
    ("-\\frac{1}{2}", "-0.5", True),
    ("2\\frac{1}{2}", "2.5", True),
    ("50%", "50", True),
    ("50\\%", "50 percent", True),
    ("50%", "0.5", True),
    ("0.5", "50%", True),
    ("72 clips", "72", True),
    ("5km", "5", True),
    ("29 dollars", "$29", True),
    ("$12 per hour", "12 dollars", True),
    ("30 square feet", "30", True),
    ("5 cm^2", "5", True),
    ("60 min", "60 mins", True),
    ("2.5 million", "2,500,000", True),
    ("1e3", "1000", True),
    ("\\boxed{42}", "42", True),
    ("$\\boxed{42}$", "42", True),
    ("**42**", "42", True),
    ("\\(42\\)", "42", True),
    ("42.", "42", True),
    ("1{,}000", "1000", True),
    ("10\\,000", "10000", True),
    ("5\\text{ cm}", "5", True),
    ("72", "27", False),
    ("5", "-5", False),
    ("1,000", "1", False),
    ("1.000", "1000", False),
    ("0.33", "1/3", False),
    ("0.333333333", "1/3", False),
    ("100.01", "100", False),
    ("50%", "5", False),
    ("50%", "5000", False),
    ("50%", "50 cats", False),
    ("5 million", "5", False),
    ("5 m", "5", True),
    ("5 m/s", "5", True),
    ("$5 dollars", "5 dollars", True),
    ("$5", "5 dollars per hour", True),
    ("5 cm", "5 m", False),
    ("$5 per hour", "$5 per day", False),
    ("5 am", "5 pm", False),
    ("$5", "5 cents", False),
    ("1 hour", "60 minutes", False),
    ("", "0", False),
    ("", "", False),
]
# decided by comparing words
WORDS = [
    ("Yes", "yes.", True),
    ("(C)", "(c)", True),
    ("\\text{red}", "red", True),
    ("no", "yes", False),
    ("silent", "listen", False),  # as products of letters they are equal
    ("three or more", "3", False),
    ("5 or more", "5", False),
    ("3 4", "34", False),
    ("3 4", "7", False),
    ("abcdef", "5", False),
]
# decided by math-verify
EXPRESSIONS = [
    ("x^2+2x+1", "(x+1)^2", True),
    ("\\sqrt{8}", "2\\sqrt{2}", True),
    ("2^{10}", "1024", True),
    ("1-x", "-x+1", True),
    ("(1, 2)", "(1,2)", True),
    ("\\{1,2\\}", "\\{2,1\\}", True),
    ("\\frac{\\pi}{2}", "\\pi/2", True),
    ("x=5", "5", True),
    ("12!", "479001600", True),
    ("2 pi", "2", False),
    ("10 or 12", "10", False),
    ("5!", "5", False),
    ("5x", "5", False),
    ("x", "y", False),
    ("(1,2)", "(2,1)", False),
    ("[1,2)", "(1,2)", False),
    ("10,00", "1000", False),
    ("1/0", "5", False),
    ("\\frac{", "1", False),
    ("x^2", "x^3", False),
]


def test_the_table_is_as_long_as_promised():
    assert len(NUMBERS) + len(WORDS) + len(EXPRESSIONS) >= 60


@pytest.mark.parametrize("text, gold, same", NUMBERS + WORDS)
def test_without_a_process(text, gold, same, monkeypatch):
    def fail() -> None:
        raise AssertionError("the fast path needs no process")

    monkeypatch.setattr(equivalence, "_pool", fail)
    assert equivalence.equal(text, gold) is same
    assert equivalence.equal(gold, text) is same


@pytest.mark.parametrize("text, gold, same", EXPRESSIONS)
def test_with_math_verify(text, gold, same):
    assert equivalence.equal(text, gold) is same


def test_numbers_of_every_spelling_are_one_number():
    for cents in range(-500, 500, 7):
        sign, whole, part = "-" if cents < 0 else "", abs(cents) // 100, abs(cents) % 100
        decimal = f"{sign}{whole}.{part:02d}"
        assert equivalence.equal(decimal, f"{cents}/100")
        assert equivalence.equal(decimal, f"{sign}${whole}.{part:02d}0 dollars")
        assert not equivalence.equal(decimal, f"{cents + 1}/100")


def test_a_long_answer_is_not_compared():
    assert equivalence.equal("1" * 400, "1" * 400)
    assert not equivalence.equal("1" * 401, "1" * 401)


def test_importing_starts_nothing_and_needs_no_mathematics():
    code = (
        "import subprocess, sys\n"
        "def fail(*a, **k): raise SystemExit('a process was started')\n"
        "from reasoning_jax.answers import equivalence, killable\n"
        "subprocess.Popen = killable.subprocess.Popen = fail\n"
        "assert equivalence.equal('1,000', '1000') and not equivalence.equal('no', 'yes')\n"
        "assert not {'sympy', 'math_verify', 'jax'} & set(sys.modules), sys.modules.keys()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.fixture
def checkers(tmp_path, monkeypatch):
    """A module of strange checkers that a checking process can import."""
    (tmp_path / "strange_checkers.py").write_text(
        "import os, re, sys, time\n"
        "def check(text, gold):\n"
        "    if text == 'sleep': time.sleep(600)\n"
        # Never returns, and never leaves C.
        "    if text == 'spin': re.match('(a+)+$', 'a' * 64 + 'b')\n"
        "    if text == 'die': os._exit(3)\n"
        "    if text == 'raise': raise RecursionError\n"
        "    if text == 'memory': bytearray(1 << 36)\n"
        "    if text == 'print': print('1'); sys.stdout.flush(); os.write(1, b'1\\n')\n"
        "    if text == 'pid': return int(gold) == os.getpid()\n"
        "    return text == gold\n"
        "def parallel(text, gold):\n"
        "    time.sleep(float(text))\n"
        "    return True\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    return "strange_checkers"


@pytest.mark.parametrize("hang", ["sleep", "spin"])
def test_a_hang_is_killed_and_the_pool_goes_on(hang, checkers):
    pool = Pool(f"{checkers}:check", size=1, seconds=0.5)
    try:
        assert pool.equal("a", "a")
        hung = pool._free.queue[0]
        start = time.monotonic()
        assert pool.equal(hang, hang) is False  # "not equal", although the texts are the same
        assert 0.4 < time.monotonic() - start < 5
        assert hung.poll() is not None  # the process is gone, not merely abandoned
        assert pool.equal("b", "b") and not pool.equal("b", "c")
        assert pool._free.queue[0].pid != hung.pid
        assert pool._free.qsize() == 1
    finally:
        pool.close()


def test_death_exceptions_and_prints_are_not_verdicts(checkers):
    pool = Pool(f"{checkers}:check", size=1, seconds=10)
    try:
        for text in ("die", "raise", "memory", "print"):
            assert pool.equal(text, "else") is False
            assert pool.equal("a", "a") is True
    finally:
        pool.close()


def test_one_process_serves_and_restarts_when_killed(checkers):
    pool = Pool(f"{checkers}:check", size=2, seconds=10)
    try:
        pool.equal("a", "a")
        worker = pool._free.queue[-1]
        assert pool.equal("pid", str(worker.pid)) and pool.equal("pid", str(worker.pid))
        assert list(pool._free.queue).count(None) == 1  # the second was never needed
        worker.kill()
        worker.wait()
        assert pool.equal("a", "a")
    finally:
        pool.close()
    assert worker.poll() is not None


def test_two_threads_use_two_processes(checkers):
    pool = Pool(f"{checkers}:parallel", size=2, seconds=20)
    try:
        verdicts = []
        threads = [
            threading.Thread(target=lambda: verdicts.append(pool.equal("1.0", "")))
            for _ in range(2)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert verdicts == [True, True] and None not in pool._free.queue
    finally:
        pool.close()


def test_a_hung_process_ends_by_itself_when_its_parent_is_gone(checkers):
    pool = Pool(f"{checkers}:check", size=1, seconds=0.5)
    pool.equal("a", "a")
    worker = pool._free.queue[0]
    worker.stdin.write(b'["spin", ""]\n')
    assert worker.wait(timeout=10) != 0
    pool.close()


def test_a_checker_that_cannot_start_is_an_error():
    pool = Pool("no_such_module:check", size=1, seconds=1.0)
    with pytest.raises(RuntimeError, match="no_such_module"):
        pool.equal("a", "b")
    assert pool._free.qsize() == 1


def test_a_pathological_expression_is_not_equal():
    pool = Pool(CHECKER, size=1, seconds=1.0)
    try:
        start = time.monotonic()
        assert pool.equal("9^{9^{9^{9^{9}}}}", "8^{9^{9^{9^{9}}}}+1") is False
        assert pool.equal("x+x", "2x") is True
        assert time.monotonic() - start < 30
    finally:
        pool.close()
