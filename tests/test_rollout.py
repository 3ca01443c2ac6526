"""Rollouts of a real, tiny model: token ids in and out, verdicts that no lucky text can change, and order."""

from __future__ import annotations

import dataclasses
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scripted

from reasoning_jax import logprobs, model, rollout, sampling, sharding
from reasoning_jax.rollout import Rollout, Sample, summary
from reasoning_jax.tasks import CORRECT, TRUNCATED, UNPARSED, WRONG, Example, addition
from reasoning_jax.tokenizer import Characters

pytestmark = pytest.mark.usefixtures("quick_compile")
TOK = Characters(addition.ALPHABET)
N = 6
# Lengths differ, so that the order in which they are sampled is not theirs.
EXAMPLES = [
    Example(i, f"{a}+{b}", str(a + b), addition.scratchpad(a, b))
    for i, (a, b) in enumerate([(12345, 54321), (1, 2), (123, 456), (9, 9), (99999, 10000), (10, 20)])
]
LENIENT = types.SimpleNamespace(**vars(addition) | {"grade": lambda text, example: CORRECT, "extract": lambda text: "1"})


@pytest.fixture(scope="module")
def make(tiny):
    cfg, params = tiny
    assert cfg.vocab_size == TOK.vocab_size
    roll = Rollout(params, cfg, TOK, addition, (), sampling.Temperature(1.0), 32, N, 64, None, jax.random.key(0))
    return lambda **changes: dataclasses.replace(roll, **changes)


@pytest.fixture(scope="module")
def samples(make):
    """Five samples of each example, in one batch."""
    return make()(EXAMPLES, num_samples=5)


def content(sample):
    return sample.example.id, sample.index, sample.hinted, tuple(sample.tokens), sample.text, sample.verdict


def test_the_order_is_that_of_the_examples_and_every_index_draws_anew(samples):
    assert [(s.example.id, s.index) for s in samples] == [(e.id, i) for e in EXAMPLES for i in range(5)]
    for e in EXAMPLES:
        assert len({tuple(s.tokens) for s in samples if s.example is e}) >= 4  # a lone end token may come twice


def test_batches_order_and_number_of_samples_do_not_matter(make, samples):
    """Batches of eight, the last of a quarter's size; other neighbours, another queue."""
    mixed = [EXAMPLES[i] for i in (4, 2, 0, 5, 1, 3)]
    found = make(batch_size=8)(mixed, num_samples=3)
    expected = {(s.example.id, s.index): content(s) for s in samples}
    assert [content(s) for s in found] == [expected[e.id, i] for e in mixed for i in range(3)]
    assert [content(s) for s in make(batch_size=8)(EXAMPLES[:1])] == [content(samples[0])]
    for s in found:
        same = next(o for o in samples if (o.example.id, o.index) == (s.example.id, s.index))
        np.testing.assert_allclose(s.logprobs, same.logprobs, atol=1e-5)
    assert make()([]) == []


@pytest.mark.parametrize(("tensor", "axis"), [(1, None), (2, "tensor")])
def test_sampling_on_another_mesh_gives_the_samples_of_the_training_mesh(make, samples, tensor, axis):
    """Parameters split over fsdp to train, copied to each device or each of four pairs to sample; scores are on the first."""
    roll = make()
    mesh = sharding.make_mesh(1, 8, 1)
    with jax.set_mesh(mesh):
        params = jax.device_put(roll.params, sharding.parameter_specs(roll.params, mesh))
        key = jax.device_put(roll.key, jax.NamedSharding(mesh, jax.P()))
        other = make(params=params, key=key, mesh=mesh, sampling_mesh=sharding.sampling_mesh(mesh, tensor))
        with jax.transfer_guard("disallow"):
            copies, _ = other._copies
        assert copies["layers"]["query"].sharding.spec == jax.P(None, None, axis, None, None)
        assert dict(copies["layers"]["query"].sharding.mesh.shape) == {"data": 8 // tensor, "fsdp": 1, "tensor": tensor}
        found = other(EXAMPLES, num_samples=5)
        told = other.logprobs([found[0].example], [found[0].tokens])[0]
    assert [content(s) for s in found] == [content(s) for s in samples]
    for s, same in zip(found, samples, strict=True):
        np.testing.assert_allclose(s.logprobs, same.logprobs, atol=1e-5)
    np.testing.assert_allclose(told, found[0].logprobs, atol=1e-5)


def test_part_filled_batches_are_padded_to_two_sizes_only(make, monkeypatch):
    """Every size is a program to compile: the full batch and a quarter."""
    sizes = []

    def fake(params, prompts, lengths, *rest, max_new_tokens, **_):
        sizes.append((len(prompts), int((np.asarray(lengths) > 0).sum())))
        zeros = np.zeros((len(prompts), max_new_tokens), np.int32)
        return sampling.Samples(zeros, zeros.astype(np.float32), zeros[:, 0], zeros[:, 0] > 0)

    monkeypatch.setattr(sampling, "sample", fake)
    for count, expected in ((1, [(2, 1)]), (2, [(2, 2)]), (3, [(8, 3)]), (8, [(8, 8)]), (11, [(8, 8), (8, 3)])):
        sizes.clear()
        make(batch_size=8)(EXAMPLES[1:2], num_samples=count)
        assert sizes == expected
    sizes.clear()
    long = dataclasses.replace(EXAMPLES[0], question="1234567+7654321")  # 17 tokens: another bucket, another batch
    make(batch_size=8)([long, *EXAMPLES])
    assert sorted(sizes) == [(2, 1), (8, 6)]


@pytest.mark.parametrize("shots", [(), (EXAMPLES[1],)])
@pytest.mark.parametrize("hint", [False, True])
def test_a_prompt_has_one_start_token(make, shots, hint):
    roll = make(shots=shots, max_length=128)
    e = EXAMPLES[2]
    ids = roll.prompt_ids(e, hint)
    assert ids[0] == TOK.bos_id and ids.count(TOK.bos_id) == 1 and TOK.eos_id not in ids
    text = TOK.decode(ids)
    assert text.endswith("123+456\n579\n" if hint else "123+456\n") and text.count("+") == (3 if shots else 1)
    assert roll.worked_row(e)["tokens"].tolist().count(TOK.bos_id) == 1


def test_rows_hold_the_sampled_ids_and_never_the_hint(make, samples):
    """A hinted sample trains on the plain prompt; ids that decode to nothing, which text would lose, are kept."""
    roll = make()
    found = roll(EXAMPLES, hint=True, num_samples=5)
    assert all(s.hinted for s in found)
    assert [s.tokens.tolist() for s in found] != [s.tokens.tolist() for s in samples]
    for s in found:
        row, prompt = roll.row(s.example, s.tokens), roll.prompt_ids(s.example)
        assert row["tokens"].tolist() == prompt + s.tokens.tolist() and row["tokens"].dtype == np.int32
        assert row["weights"].tolist() == [0.0] * len(prompt) + [1.0] * len(s.tokens) and row["weights"].dtype == np.float32
        assert TOK.decode(row["tokens"][: len(prompt)]) == f"{s.example.question}\n"
        assert len(s.logprobs) == len(s.tokens) and (s.logprobs < 0).all() and s.text == TOK.decode(s.tokens)
    assert any({TOK.pad_id, TOK.bos_id} & set(s.tokens.tolist()) for s in found)  # ids that text would lose are there


def test_cut_off_and_empty_samples_are_never_correct(make):
    """Under a grader that calls everything correct."""
    found = make(task=LENIENT)(EXAMPLES, num_samples=20)
    cut = [s for s in found if s.tokens[-1] != TOK.eos_id]
    empty = [s for s in found if s.tokens.tolist() == [TOK.eos_id]]
    rest = [s for s in found if s.tokens[-1] == TOK.eos_id and len(s.tokens) > 1]
    assert cut and empty and rest and len(cut) + len(empty) + len(rest) == 120
    assert {s.verdict for s in cut} == {TRUNCATED} and {s.verdict for s in empty} == {UNPARSED}
    assert {s.verdict for s in rest} == {CORRECT} and all(len(s.tokens) == N for s in cut)
    assert [s.correct for s in found] == [s.verdict == CORRECT for s in found]
    assert not any(TOK.eos_id in s.tokens for s in cut)


def test_a_prompt_that_is_too_long_is_one_sentence(make):
    roll = make(max_length=13 + N - 1)
    with pytest.raises(ValueError, match=r"^Example 0: its prompt of 13 tokens and sampling\.max_new_tokens 6 [^\n]*"
                                         r"config\.sequence_length 18\.$"):  # fmt: skip
        roll([EXAMPLES[1], EXAMPLES[0]])
    assert make(max_length=13 + N, batch_size=8)(EXAMPLES[:1])


def test_worked_rows(make):
    e, roll = EXAMPLES[1], make()
    row = roll.worked_row(e)
    prompt, target = [1, *TOK.encode("1+2\n")], TOK.encode("<scratch>\n1+2,C:0\n,3C:0\n03\n</scratch>\n3")
    assert row["tokens"].tolist() == [*prompt, *target, TOK.eos_id]
    assert row["weights"].tolist() == [0.0] * len(prompt) + [1.0] * (len(target) + 1)
    direct = roll.worked_row(e, direct=True)
    assert direct["tokens"].tolist() == [*prompt, *TOK.encode("3"), TOK.eos_id] and direct["weights"].sum() == 2
    hinted = roll.worked_row(e, hint=True)
    assert hinted["tokens"].tolist() == [1, *TOK.encode("1+2\n3\n"), *target, TOK.eos_id]
    assert hinted["weights"].sum() == row["weights"].sum()
    length = len(row["tokens"])
    assert make(max_length=length).worked_row(e) is not None and make(max_length=length - 1).worked_row(e) is None


def test_a_summary_by_hand():
    def sample(digits, verdict, line, text):
        e = Example(0, f"{10 ** (digits - 1)}+{10 ** (digits - 1)}", "2")
        return Sample(e, 0, False, np.zeros(4, np.int32), np.zeros(4, np.float32), text, None, verdict, line)

    found = [sample(1, CORRECT, None, "C:C:"), sample(1, CORRECT, 2, "C:"), sample(2, WRONG, 0, ""),
             sample(2, UNPARSED, 0, ""), sample(2, TRUNCATED, None, "C:")]  # fmt: skip
    assert rollout.summary(found, addition) == {
        "samples": 5, "correct": 0.4, "unparsed": 0.2, "truncated": 0.2, "true_lines": 0.5, "tokens": 4.0, "steps": 0.8,
        "correct_digits_1": 1.0, "correct_digits_2": 0.0,
    }  # fmt: skip
    assert summary([], addition)["correct"] == 0


def test_weighted_rows():
    roll = scripted.rollout({})
    e, tokens = scripted.example(0, 1, 2), np.array([5, 6, 7, TOK.eos_id], np.int32)
    row, plain = roll.weighted_row(e, tokens, -0.25, 0.5), roll.row(e, tokens)
    prompt = len(plain["tokens"]) - 4
    assert row["tokens"].tolist() == plain["tokens"].tolist()
    assert row["weights"].tolist() == [0.0] * prompt + [-0.25] * 4 and row["weights"].dtype == np.float32
    assert row["share"].tolist() == [0.0] * (prompt + 3) + [0.5]


def test_logprobs_of_samples_are_those_they_were_drawn_with(make, samples):
    """In the order asked, whatever the batch; the last, part-filled batch too."""
    roll = make(batch_size=4)
    picked = [s for s in samples if s.tokens[-1] == TOK.eos_id][::-1][:7]
    found = roll.logprobs([s.example for s in picked], [s.tokens for s in picked])
    assert [len(p) for p in found] == [len(s.tokens) for s in picked]
    for p, s in zip(found, picked, strict=True):
        np.testing.assert_allclose(p, s.logprobs, atol=1e-5)


def test_scores_are_derivatives_by_a_shift_of_the_hidden_states(make, samples):
    """Central differences of the log-likelihood, the shift put in by hand."""
    roll = make(batch_size=4)
    picked = list({len(s.tokens): s for s in samples}.values())[:3]
    scores = roll.scores([s.example for s in picked], [s.tokens for s in picked])
    assert scores.shape == (len(picked), roll.model_cfg.width)
    direction = np.random.default_rng(0).normal(size=roll.model_cfg.width).astype(np.float32)
    for s, score in zip(picked, scores, strict=True):
        row = roll.row(s.example, s.tokens)
        n = len(row["tokens"])
        arrays = [jnp.asarray(x)[None] for x in (row["tokens"], np.arange(n), np.ones(n, np.int32))]
        hidden, _ = model.apply(roll.params, *arrays, cfg=roll.model_cfg)
        batch = {"tokens": arrays[0], "segment_ids": arrays[2]}

        def total(h, hidden=hidden, batch=batch, row=row):
            log_p = logprobs.of_hidden(roll.params, hidden + h * direction, batch, roll.model_cfg)
            return float((log_p[0] * row["weights"]).sum())

        assert (total(0.01) - total(-0.01)) / 0.02 == pytest.approx(float(score @ direction), rel=1e-2, abs=1e-3)
