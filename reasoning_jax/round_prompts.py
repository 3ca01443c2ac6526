"""What stands after the prompts of a round, as the experiment's forward says."""

from __future__ import annotations

import dataclasses

from reasoning_jax.forwards import Forward, ForwardConfig
from reasoning_jax.prompt_ids import WithPromptIds
from reasoning_jax.tokenizer import Tokenizer


@dataclasses.dataclass(frozen=True, kw_only=True)
class RoundPrompts:
    """The prompts of all rounds of an experiment."""

    forward: Forward
    cfg: ForwardConfig
    words: Tokenizer
    vocab_size: int  # of the model: from there on, ids are no words'
    first_id: int  # of the forward's vectors
    seed: int

    def suffix(self, round: int) -> list[int]:
        """The ids after each prompt."""
        return self.forward.prompt_suffix(self.cfg, self.first_id, round)

    def tokenizer(self, round: int) -> Tokenizer:
        """The tokenizer of the round's prompts."""
        return self._with(self.suffix(round))

    def of_training_row(self, example_id: int, round: int) -> tuple[Tokenizer, int]:
        """The tokenizer of a worked example's prompt, and how many of its steps are left out."""
        if self.forward.training_suffix is None:
            return self.tokenizer(round), 0
        seed = [self.seed, round, example_id]
        suffix, steps = self.forward.training_suffix(self.cfg, self.first_id, round, seed)
        return self._with(suffix), steps

    def _with(self, suffix: list[int]) -> Tokenizer:
        if not suffix:
            return self.words
        return WithPromptIds(self.words, self.vocab_size, after=suffix)
