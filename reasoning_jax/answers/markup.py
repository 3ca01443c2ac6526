"""An answer without its markup: LaTeX, Markdown, and Unicode's other spellings of ASCII."""

from __future__ import annotations

import re
import unicodedata

DASHES = "−–‐‑‒"
INVISIBLE = "\u200b\u200c\u200d\u2060\ufeff"
SUPERSCRIPTS = "⁰¹²³⁴⁵⁶⁷⁸⁹"
# NFKC would make "5½" of two numbers one, and of "5²" the number 52.
TRANSLATED = {
    **{ord(dash): "-" for dash in DASHES},
    **{ord(character): None for character in INVISIBLE},
    **{ord(digit): f"^{value}" for value, digit in enumerate(SUPERSCRIPTS)},
    ord("×"): "*",
    ord("⋅"): "*",
}
END_TOKENS = re.compile(r"(?:\s*(?:</s>|<\|[a-z_]{1,20}\|>|<eos>|<end_of_turn>|</answer>))+\Z")
WRAPPED = re.compile(
    r"\\boxed\s*\{(.*)\}|\$+([^$]+)\$+|\\\((.*)\\\)|\\\[(.*)\\\]"
    r"|\\(?:text|mathrm|textbf|mathbf)\s*\{([^{}]*)\}",
    re.DOTALL,
)
TEXT = re.compile(r"\\(?:boxed|text|mathrm|textbf|mathbf)\s*\{([^{}]*)\}")
INLINE = re.compile(r"(?<!\\)\$([^$]*[^$\\])\$")
MARKS = "*`"
QUOTES = "\"'“”‘’"


def clean(text: str) -> str:
    """The answer in plain characters, without markup, quotes and the full stop of a sentence.

    text: at most ``answers.MAX_CHARACTERS``, or some of this takes more than linear time.
    """
    text = END_TOKENS.sub("", _plain(text).strip())
    before = None
    while text != before:
        before = text
        text = text.strip(MARKS).strip()
        if text[:1] in QUOTES and text[-1:] in QUOTES:  # "y'" is another function than "y"
            text = text.strip(QUOTES).strip()
        wrapped = WRAPPED.fullmatch(text)
        if wrapped:
            text = next(group for group in wrapped.groups() if group is not None).strip()
    text = INLINE.sub(r" \1 ", TEXT.sub(r" \1", text))
    text = text.replace("{,}", ",").replace("\\$", "$").replace("\\%", "%")
    text = text.replace("\\left", "").replace("\\right", "")
    text = re.sub(r"(\d)\\,(?=\d{3}(?!\d))", r"\1,", text)  # thousands: "7\,200"
    # Not the second half of "\\\\ ", a matrix's next row.
    text = re.sub(r"(?<!\\)\\[ !,;:]|(?<=\S)~", " ", text)
    text = re.sub(r"\s+", " ", text.replace("**", "")).strip().rstrip(",;: ")
    return text if text.endswith("..") else text.removesuffix(".").rstrip()


def _plain(text: str) -> str:
    """The text with ASCII's characters for those that mean the same."""
    spelled = [_spelled_fraction(character) for character in text.translate(TRANSLATED)]
    return unicodedata.normalize("NFKC", "".join(spelled))


def _spelled_fraction(character: str) -> str:
    """ " 1/2" for "½"; other characters as they are."""
    name = unicodedata.name(character, "") if not character.isascii() else ""
    if not name.startswith("VULGAR FRACTION"):
        return character
    return " " + unicodedata.normalize("NFKC", character).replace("⁄", "/")
