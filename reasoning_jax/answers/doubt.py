"""Words that deny an answer, leave it open, or take it back."""

from __future__ import annotations

import re

DENIED_OR_SEVERAL = re.compile(
    r"\b(?:not|no|nor|neither|either|both|or|but|wrong|incorrect|false|impossible|except|unless"
    r"|never|nothing|none|cannot)\b|n['’]t\b",
    re.IGNORECASE,
)
TAKEN_BACK = re.compile(
    r"\b(?:wait|actually|scratch that|correction|sorry|my mistake|on second thought|i mean|rather"
    r"|hold on|hmm|oops|nope|mistake|reconsider|however|instead|apologies|never mind|strike that"
    r"|change my mind|that is wrong|is incorrect|not right|not correct|not quite)\b"
    r"|(?<![a-z] )\bno[,:.;!]|\bedit:",
    re.IGNORECASE,
)
