"""Rollouts that ask twice, that stop at the next question, and that ask in a chat."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import jax
import numpy as np
import pytest

from reasoning_jax import default, extraction, graders
from reasoning_jax.errors import UserError
from reasoning_jax.policy import Generated, Policy
from reasoning_jax.rollout import Rollout
from reasoning_jax.samples import ANSWER_TOKENS
from reasoning_jax.tasks import CORRECT, TRUNCATED, UNPARSED, WRONG, Example
from reasoning_jax.tokenizer import Bytes

TOK = Bytes()
STEPS = "Let's think step by step."
SECOND = "\nTherefore, the answer (arabic numerals) is"
LIMIT = 24


@dataclasses.dataclass(frozen=True, kw_only=True)
class Speaking(Policy):
    """A policy that says what ``speak`` answers to a prompt's text, and then ends."""

    speak: Callable[[str], str]
    calls: list = dataclasses.field(default_factory=list)  # (prompts, limit, temperature)

    def generate(self, requests, **options):
        assert not any(TOK.eos_id in request.prompt_ids for request in requests)
        prompts = [TOK.decode(request.prompt_ids.tolist()) for request in requests]
        limit = options["max_new_tokens"]
        self.calls.append((prompts, limit, getattr(options["method"], "temperature", 0.0)))
        order = list(reversed(range(len(requests))))
        for start in range(0, len(order), self.batch_size):
            yield self._batch(order[start : start + self.batch_size], prompts, limit)

    def _batch(self, numbers, prompts, limit):
        size = self.batch_size
        tokens = np.zeros((size, limit), np.int32)
        lengths = np.zeros(size, np.int32)
        finished = np.zeros(size, bool)
        for row, n in enumerate(numbers):
            ids = [*TOK.encode(self.speak(prompts[n])), TOK.eos_id]
            finished[row] = len(ids) <= limit
            lengths[row] = min(len(ids), limit)
            tokens[row, : lengths[row]] = ids[:limit]
        return Generated(
            requests=numbers,
            tokens=tokens,
            logprobs=-np.ones((size, limit), np.float32),
            lengths=lengths,
            finished=finished,
            is_local=np.ones(size, bool),
        )


def make(speak, *, task="gsm8k", batch_size=2, max_length=512, keys=None, **fields):
    cfg = default.get_config(task=task)
    cfg.task.update(keys or {})
    settled = extraction.settle(cfg.task)
    made = extraction.make(settled)
    policy = Speaking(
        params=None,
        model_cfg=None,
        mesh=None,
        batch_size=batch_size,
        max_length=max_length,
        speak=speak,
    )
    own = {
        "policy": policy,
        "tokenizer": TOK,
        "task": made,
        "task_cfg": settled,
        "grader": graders.make(cfg, made),
        "shots": (),
        "temperature": 0.7,
        "top_k": 0,
        "top_p": 1.0,
        "max_new_tokens": LIMIT,
        "key": jax.random.key(0),
    }
    return Rollout(**own | fields)


def problem(id: int, question: str, answer: str = "42") -> Example:
    return Example(id=id, question=question, answer=answer)


ZERO_SHOT = {"prompting": "zero_shot"}
SAID = {  # question -> (rationale, what follows the second prompt)
    "right?": ("40 and 2 are 42.", " 42."),
    "wrong?": ("40 and 2 are 43.", " 43"),
    "vague?": ("Who knows.", " 42 or 43."),
    "endless?": ("and " * 20, " 42."),
    "chatty?": ("It is 42.", "\n42\nQ: And then what would it be?"),
    "cut?": ("It is.", " " + "4" * 40),
}


def speak(prompt: str) -> str:
    question, rationale_and_more = prompt.removeprefix("Q: ").split(f"\nA: {STEPS}")
    rationale, answer = SAID[question]
    return answer if rationale_and_more.endswith(SECOND) else rationale


def test_a_rationale_and_then_an_answer():
    roll = make(speak, keys=ZERO_SHOT)
    examples = [problem(i, question) for i, question in enumerate(SAID)]
    samples = roll(examples, num_samples=2)
    assert [(s.example.id, s.index) for s in samples] == [(i, j) for i in range(6) for j in (0, 1)]
    verdicts = [s.verdict for s in samples[::2]]
    assert verdicts == [CORRECT, WRONG, UNPARSED, TRUNCATED, CORRECT, UNPARSED]
    assert [s.answer for s in samples[::2]] == ["42", "43", None, None, "42", None]
    # Both texts are kept, and the model's own tokens are those of the rationale.
    right, cut = samples[0], samples[6]
    assert right.text == f"40 and 2 are 42.{SECOND} 42."
    assert right.tokens.tolist() == [*TOK.encode("40 and 2 are 42."), TOK.eos_id]
    assert right.finished and not cut.finished and SECOND not in cut.text
    assert len(cut.tokens) == LIMIT

    (first, limit, temperature), (second, second_limit, second_temperature) = roll.policy.calls
    assert (limit, second_limit) == (LIMIT, 32)
    assert temperature == pytest.approx(0.7) and second_temperature == 0
    assert len(first) == 12 and len(second) == 10  # none for what was cut off
    assert f"Q: right?\nA: {STEPS}40 and 2 are 42.{SECOND}" in second


def test_a_hint_stays_in_front_of_the_second_prompt():
    SAID["right? (42)"] = SAID["right?"]
    roll = make(speak, keys=ZERO_SHOT)
    [sample] = roll([problem(0, "right?")], hint=True)
    assert sample.verdict == CORRECT and sample.hinted
    assert roll.policy.calls[1][0] == [f"Q: right? (42)\nA: {STEPS}40 and 2 are 42.{SECOND}"]
    assert TOK.decode(sample.prompt_ids.tolist()) == f"Q: right?\nA: {STEPS}"


def test_one_sample_for_a_question_of_ones_own():
    sample = make(speak, keys=ZERO_SHOT).complete(problem(0, "right?"), 3)
    assert sample.text.endswith(" 42.") and sample.index == 3 and sample.verdict == ""


def test_the_second_prompt_needs_room():
    example = problem(0, "right?")
    needed = 1 + len(f"Q: right?\nA: {STEPS}")
    rest = LIMIT + len(SECOND) + ANSWER_TOKENS
    make(speak, keys=ZERO_SHOT, max_length=needed + rest).check_prompt(example)
    with pytest.raises(UserError, match=rf"and {rest - LIMIT} of the second prompt, exceed"):
        make(speak, keys=ZERO_SHOT, max_length=needed + rest - 1).check_prompt(example)


# ---- models that do not end ----------------------------------------------------------------------


def test_the_next_question_ends_a_completion_of_an_evaluation():
    def ramble(prompt: str) -> str:
        return " It's 42.\n#### 42\n\nQ: And what is 6 times 7 then?\nA: It is\n#### 43"

    example = problem(0, "How many?")
    [sample] = make(ramble)([example])
    assert sample.verdict == TRUNCATED and len(sample.tokens) == LIMIT
    [sample] = make(ramble, until_question=True)([example])
    assert sample.verdict == CORRECT and sample.finished
    assert sample.text == " It's 42.\n#### 42\n"
    assert TOK.decode(sample.tokens.tolist()) == sample.text
    assert len(sample.logprobs) == len(sample.tokens)
    # What is cut off before it is cut off.
    [sample] = make(lambda prompt: " It is" + " so" * 20, until_question=True)([example])
    assert sample.verdict == TRUNCATED and len(sample.tokens) == LIMIT
    # The second prompt follows such a rationale too.
    [sample] = make(
        lambda prompt: " 42." if prompt.endswith(SECOND) else " 42.\nQ: And then? And so on?",
        keys=ZERO_SHOT,
        until_question=True,
    )([example])
    assert sample.text == f" 42.{SECOND} 42." and sample.verdict == CORRECT


# ---- chats ---------------------------------------------------------------------------------------


class Chatting(Bytes):
    def chat(self, messages):
        lines = [f"[{turn['role']}] {turn['content']}" for turn in messages]
        return self.encode("\n".join([*lines, "[assistant] "]))


def test_a_chat_is_asked_in_the_template():
    shot = Example(id=-1, question="1 and 1?", answer="2", rationale="It is 2.\n#### 2")
    roll = make(
        lambda prompt: "It is\n#### 42",
        tokenizer=Chatting(),
        chat=True,
        shots=(shot,),
        batch_size=1,
    )
    example = dataclasses.replace(problem(0, "How many?"), rationale="It is 42.\n#### 42")
    [sample] = roll([example])
    assert sample.verdict == CORRECT
    how = 'Solve the problem step by step. End with "#### " and the number.'
    prompt = (
        f"[user] 1 and 1?\n\n{how}\n[assistant] It is 2.\n#### 2\n"
        f"[user] How many?\n\n{how}\n[assistant] "
    )
    assert roll.policy.calls[0][0] == [prompt]
    # A worked example begins where the model's turn does.
    row = roll.worked_row(example)
    assert TOK.decode(row["tokens"].tolist()) == f"{prompt}It is 42.\n#### 42"
