"""Vocabularies of SentencePiece models."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from sentencepiece import SentencePieceProcessor, sentencepiece_model_pb2

from reasoning_jax import chat
from reasoning_jax.chat import Piece
from reasoning_jax.errors import UserError

BPE = 2  # TrainerSpec.ModelType
UNKNOWN, CONTROL, BYTE = 2, 3, 6  # SentencePiece.Type, and GGUF's token types


def load(content: bytes, where: str) -> SentencePieceProcessor:
    """The processor of a serialised model; UserError, which begins with ``where``."""
    model = SentencePieceProcessor()
    try:
        model.LoadFromSerializedProto(content)
    except (RuntimeError, OSError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"{where} is no SentencePiece model ({reason}).") from None
    return model


def serialised(
    pieces: Sequence[str],
    scores: Sequence[float],
    types: Sequence[int],
    *,
    add_dummy_prefix: bool,
    remove_extra_whitespaces: bool,
) -> bytes:
    """A SentencePiece model of merges by score, as GGUF files hold one."""
    model = sentencepiece_model_pb2.ModelProto()
    for piece, score, kind in zip(pieces, scores, types, strict=True):
        model.pieces.add(piece=piece, score=score, type=kind)
    trainer, normalizer = model.trainer_spec, model.normalizer_spec
    trainer.model_type = BPE
    trainer.vocab_size = len(pieces)
    trainer.byte_fallback = BYTE in types
    normalizer.name = "identity"
    normalizer.add_dummy_prefix = add_dummy_prefix
    normalizer.remove_extra_whitespaces = remove_extra_whitespaces
    return model.SerializeToString()


class Pieces:
    """A SentencePiece model, and the tokens that were added to it.

    added: their texts and ids, all of them special. Text between special tokens is encoded apart.
    """

    def __init__(self, model: SentencePieceProcessor, added: Mapping[str, int]):
        self._model = model
        own = {model.id_to_piece(i): i for i in range(model.vocab_size()) if model.is_control(i)}
        self.special = {**own, **added}
        self.size = max(model.vocab_size(), 1 + max(self.special.values(), default=0))
        self._never = frozenset(self.special.values()) - {model.unk_id()}
        self._skipped = self._never | {model.unk_id()}

    def encode(self, text: str) -> list[int]:
        ids = self._model.encode(text, add_bos=False, add_eos=False)
        if self._never.isdisjoint(ids):
            return ids
        parts = chat.without_special(text, list(self.special))
        ids = [id for part in parts for id in self._model.encode(part)]
        return [id for id in ids if id not in self._never]

    def encode_pieces(self, pieces: Sequence[Piece]) -> list[int]:
        ids = []
        for piece in pieces:
            ids += [self.special[piece.text]] if piece.is_special else self.encode(piece.text)
        return ids

    def decode(self, ids: Iterable[int]) -> str:
        known = [int(i) for i in ids if 0 <= i < self._model.vocab_size()]
        return self._model.decode([i for i in known if i not in self._skipped])
