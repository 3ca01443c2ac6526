"""Several calls of one model for one answer: what inference-time systems are made of.

A call's random stream is named by the rollout's key, the stage, the example, the sample's index and
the prompt: an answer does not depend on what is asked beside it, nor in which order.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from reasoning_jax import extraction, multihost, prng, prompts
from reasoning_jax.errors import UserError
from reasoning_jax.policy import Request
from reasoning_jax.progress import Progress
from reasoning_jax.rollout import Rollout
from reasoning_jax.samples import Begun, Call, Sample, Sampler
from reasoning_jax.sampling.methods import make_method
from reasoning_jax.tasks import Example
from reasoning_jax.templates import Template


@dataclasses.dataclass(eq=False, kw_only=True)
class Pending:
    """A sample that is not finished: what was asked for it so far."""

    example: Example
    index: int  # which of the example's samples
    question: str  # as the task asks it, without its frame
    prompt_ids: np.ndarray  # [P] int32: the task's own prompt, before it in a training row
    calls: list[Call] = dataclasses.field(default_factory=list)
    stats: dict[str, float] = dataclasses.field(default_factory=dict)
    draft: Sample | None = None  # where it begins with one
    is_cut: bool = False  # a prompt had no room: nothing more is asked


class Ask(NamedTuple):
    """A prompt of a stage: what fills its template."""

    pending: Pending
    values: Mapping[str, str]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Caller:
    """Asks a rollout's model in the words of a system's templates."""

    rollout: Rollout
    system: str  # its name
    templates: Mapping[str, Template]  # by stage
    instruction: str = ""  # how an answer has to end

    # ---- asking ----------------------------------------------------------------------------------

    def begin(self, examples: Sequence[Example], num_samples: int) -> list[Pending]:
        """``num_samples`` pending samples of each example; nothing is asked yet.

        UserError for a conversation, and for an example that the task itself could not ask.
        """
        begun = []
        for example in examples:
            if example.turns:
                raise UserError(
                    f"config.system.name: {self.system} asks questions, and no conversations: "
                    f"{example.where or f'example {example.id}'} has earlier turns."
                )
            ids = np.asarray(self.rollout.check_prompt(example), np.int32)
            question = prompts.question_text(self.rollout.task, example, self.rollout.task_cfg)
            for index in range(num_samples):
                begun.append(
                    Pending(example=example, index=index, question=question, prompt_ids=ids)
                )
        return begun

    def begin_with_drafts(self, examples: Sequence[Example], num_samples: int) -> list[Pending]:
        """The same, each with the sample that the rollout draws without a system."""
        begun = self.begin(examples, num_samples)
        drafts = self.rollout(examples, num_samples=num_samples)
        for pending, draft in zip(begun, drafts, strict=True):
            pending.draft = draft
            pending.stats["draft_correct"] = float(draft.correct)
            text = self.rollout.tokenizer.decode(draft.prompt_ids.tolist())
            pending.calls.append(_call("draft", text, draft))
        return begun

    def ask(self, stage: str, asked: Sequence[Ask]) -> list[Sample]:
        """A completion of each prompt of a stage, in their order.

        It is cut off, and empty, where a prompt leaves no room for it. UserError naming the file
        for a prompt that the tokenizer cannot write.
        """
        answers: dict[int, Sample] = {}
        texts = []
        begun = []
        numbers = []  # of those that are asked
        for number, (pending, values) in enumerate(asked):
            text = self.templates[stage].fill(**values)
            ids = [] if pending.is_cut else self._encode(stage, text)
            room = self.rollout.max_length - self.rollout.max_new_tokens
            if pending.is_cut or len(ids) > room:
                pending.is_cut = True
                answers[number] = _cut_off(pending)
                continue
            request = Request(_stream(pending, text), pending.index, np.asarray(ids, np.int32))
            begun.append(
                Begun(
                    request=request,
                    example=pending.example,
                    prompt_ids=pending.prompt_ids,
                    hinted=False,
                )
            )
            texts.append(text)
            numbers.append(number)
        for number, text, sample in zip(numbers, texts, self._draw(stage, begun), strict=True):
            answers[number] = sample
            asked[number].pending.calls.append(_call(stage, text, sample))
        return [answers[number] for number in range(len(asked))]

    def _encode(self, stage: str, text: str) -> list[int]:
        tokenizer = self.rollout.tokenizer
        try:
            if self.rollout.chat:
                return tokenizer.chat([{"role": "user", "content": text}])
            return tokenizer.prompt(text)
        except UserError as error:
            raise UserError(f"{self.templates[stage].path}: {error}") from None

    def _draw(self, stage: str, begun: Sequence[Begun]) -> list[Sample]:
        roll = self.rollout
        sampler = Sampler(
            policy=roll.policy,
            tokenizer=roll.tokenizer,
            key=prng.for_purpose(roll.key, f"{self.system} {stage}"),
            method=make_method(roll.temperature, roll.top_k, roll.top_p),
            max_new_tokens=roll.max_new_tokens,
            until_question=roll.until_question,
            second_prompt="",
        )
        found: dict[int, Sample] = {}
        label = f"{roll.label}, {self.system} {stage}"
        is_shown = multihost.is_process_0() and not roll.quiet and bool(begun)
        with Progress(label, len(begun), roll.round, active=is_shown) as progress:
            for batch in sampler(begun):
                found |= {drawn.number: drawn.sample for drawn in batch}
                progress.update(len(found))
        return [found[number] for number in range(len(begun))]

    # ---- the answers -----------------------------------------------------------------------------

    def finish(self, finals: Mapping[Pending, Sample]) -> list[Sample]:
        """The samples of a system: of each pending one its last sample, graded; in their order.

        A sample for which there was no room at some stage is cut off, whatever came last.
        """
        samples = []
        for pending, final in finals.items():
            sample = _cut_off(pending) if pending.is_cut else final
            samples.append(
                dataclasses.replace(
                    sample,
                    index=pending.index,
                    calls=tuple(pending.calls),
                    stats=dict(pending.stats),
                )
            )
        grades = self.rollout.grader(samples, self.rollout)
        return [
            dataclasses.replace(
                sample,
                answer=grade.answer,
                verdict=grade.verdict,
                wrong_line=grade.wrong_line,
                score=grade.score,
            )
            for sample, grade in zip(samples, grades, strict=True)
        ]


def make_caller(rollout: Rollout, system: str, templates: Mapping[str, Template]) -> Caller:
    """A caller for a rollout's task, which says how its answers end."""
    instruction = ""
    if "extraction" in rollout.task_cfg:
        instruction = extraction.instruction(rollout.task, rollout.task_cfg)
    return Caller(rollout=rollout, system=system, templates=templates, instruction=instruction)


def _stream(pending: Pending, text: str) -> int:
    """What names the random stream of a prompt, besides the sample's index."""
    return prng.text_id(f"{pending.example.id} {text}")


def _call(stage: str, prompt: str, sample: Sample) -> Call:
    return Call(stage=stage, prompt=prompt, text=sample.text, num_tokens=len(sample.tokens))


def _cut_off(pending: Pending) -> Sample:
    return Sample(
        example=pending.example,
        index=pending.index,
        hinted=False,
        prompt_ids=pending.prompt_ids,
        tokens=np.zeros(0, np.int32),
        logprobs=np.zeros(0, np.float32),
        finished=False,
        text="",
    )
