"""Rollouts of a real, tiny model: token ids in and out, verdicts no text can change, and order."""

from __future__ import annotations

import dataclasses
import operator

import jax
import jax.numpy as jnp
import numpy as np
import published
import pytest

from reasoning_jax import default, evaluation, graders, pretrained_tokenizer, tasks
from reasoning_jax.model import decoder, logprobs, sharding
from reasoning_jax.model.attention import CausalMask
from reasoning_jax.policy import Policy
from reasoning_jax.rollout import Rollout, Sample
from reasoning_jax.sampling import engine
from reasoning_jax.tasks import CORRECT, TRUNCATED, UNPARSED, WRONG, Example, addition
from reasoning_jax.tokenizer import Characters
from reasoning_jax.training.rows import completion_row, weighted_row

TOK = Characters(addition.ALPHABET)
N = 6
CFG = default.get_config()
TASK = tasks.get("addition")
# Its grader calls everything correct.
LENIENT = dataclasses.replace(TASK, extract=lambda text: "1", reading=lambda answer, example: "1")
# Lengths differ, so that the order in which they are sampled is not theirs.
SUMS = [(12345, 54321), (1, 2), (123, 456), (9, 9), (99999, 10000), (10, 20)]
EXAMPLES = [
    Example(id=i, question=f"{a}+{b}", answer=str(a + b), rationale=addition.scratchpad(a, b))
    for i, (a, b) in enumerate(SUMS)
]


@pytest.fixture(scope="module")
def make(tiny):
    """A rollout of the tiny model, with these fields of it or of its policy changed."""
    cfg, params = tiny
    assert cfg.vocab_size == TOK.vocab_size
    policy = Policy(params=params, model_cfg=cfg, mesh=None, batch_size=32, max_length=64)
    roll = Rollout(
        policy=policy,
        tokenizer=TOK,
        task=TASK,
        task_cfg=CFG.task,
        grader=graders.make(CFG, TASK),
        shots=(),
        temperature=1.0,
        top_k=0,
        top_p=1.0,
        max_new_tokens=N,
        key=jax.random.key(0),
    )
    own = {field.name for field in dataclasses.fields(Policy)}

    def changed(**changes):
        of_policy = {name: value for name, value in changes.items() if name in own}
        rest = {name: value for name, value in changes.items() if name not in own}
        return dataclasses.replace(roll, policy=dataclasses.replace(policy, **of_policy), **rest)

    return changed


@pytest.fixture(scope="module")
def samples(make):
    """Five samples of each example, in one batch."""
    return make()(EXAMPLES, num_samples=5)


def content(sample):
    tokens = tuple(sample.tokens)
    return (sample.example.id, sample.index, sample.hinted, tokens, sample.text, sample.verdict)


def row_of(sample):
    """What a sample trains."""
    return completion_row(sample.prompt_ids, sample.tokens)


def test_the_order_is_that_of_the_examples_and_every_index_draws_anew(samples):
    keys = [(s.example.id, s.index) for s in samples]
    assert keys == [(e.id, i) for e in EXAMPLES for i in range(5)]
    for e in EXAMPLES:
        # A lone end token may come twice.
        assert len({tuple(s.tokens) for s in samples if s.example is e}) >= 4


def test_batches_order_and_number_of_samples_do_not_matter(make, samples):
    """Batches of eight, the last of a quarter's size; other neighbours, another queue."""
    mixed = [EXAMPLES[i] for i in (4, 2, 0, 5, 1, 3)]
    drawn = make(batch_size=8)(mixed, num_samples=3)
    expected = {(s.example.id, s.index): s for s in samples}
    expected_content = [content(expected[e.id, i]) for e in mixed for i in range(3)]
    assert [content(s) for s in drawn] == expected_content
    assert [content(s) for s in make(batch_size=8)(EXAMPLES[:1])] == [content(samples[0])]
    for s in drawn:
        other = expected[s.example.id, s.index]
        np.testing.assert_allclose(s.logprobs, other.logprobs, atol=1e-5)
    assert make()([]) == []


@pytest.mark.parametrize(("tensor", "axis"), [(1, None), (2, "tensor")])
def test_sampling_on_another_mesh_gives_the_samples_of_the_training_mesh(
    make, samples, tensor, axis
):
    """Parameters split over fsdp to train, copied to each device or each of four pairs to sample.

    Log-probabilities are computed on the first mesh.
    """
    roll = make()
    mesh = sharding.make_mesh(1, 8, 1)
    with jax.set_mesh(mesh):
        specs = sharding.parameter_specs(roll.policy.params, mesh)
        params = jax.device_put(roll.policy.params, specs)
        key = jax.device_put(roll.key, jax.NamedSharding(mesh, jax.P()))
        sampling_mesh = sharding.sampling_mesh(mesh, tensor)
        other = make(params=params, key=key, mesh=mesh, sampling_mesh=sampling_mesh)
        with jax.transfer_guard("disallow"):
            copies = other.policy._params_to_decode
            with jax.set_mesh(sampling_mesh):
                other.policy._key_to_sample(key)
        query = copies["layers"]["query"].sharding
        assert query.spec == jax.P(None, None, axis, None, None)
        assert dict(query.mesh.shape) == {"data": 8 // tensor, "fsdp": 1, "tensor": tensor}
        drawn = other(EXAMPLES, num_samples=5)
        [computed] = other.policy.completion_logprobs([row_of(drawn[0])])
    assert [content(s) for s in drawn] == [content(s) for s in samples]
    for s, expected in zip(drawn, samples, strict=True):
        np.testing.assert_allclose(s.logprobs, expected.logprobs, atol=1e-5)
    np.testing.assert_allclose(computed, drawn[0].logprobs, atol=1e-5)


def test_calls_of_the_sampler_have_two_sizes_only(make, monkeypatch):
    """Every size is a program to compile: all slots and a quarter."""
    sizes = []  # (rows, of which are used)
    prefill, decode = engine.prefill, engine.decode

    def spied_prefill(params, cache, tokens, places, *rest, **fields):
        sizes.append((len(tokens), int((np.asarray(places.counts) > 0).sum())))
        return prefill(params, cache, tokens, places, *rest, **fields)

    def spied_decode(params, cache, progress, *rest, **fields):
        sizes.append((len(progress.live), int(np.asarray(progress.live).sum())))
        return decode(params, cache, progress, *rest, **fields)

    monkeypatch.setattr(engine, "prefill", spied_prefill)
    monkeypatch.setattr(engine, "decode", spied_decode)
    for count in (1, 2, 3, 8, 11):
        sizes.clear()
        make(batch_size=8)(EXAMPLES[1:2], num_samples=count)
        assert sizes[0] == (2 if count <= 2 else 8, min(count, 8))
        assert all(rows == (2 if used <= 2 else 8) for rows, used in sizes)


@pytest.mark.parametrize("shots", [(), (EXAMPLES[1],)])
@pytest.mark.parametrize("hint", [False, True])
def test_a_prompt_has_one_start_token(make, shots, hint):
    roll = make(shots=shots, max_length=128)
    e = EXAMPLES[2]
    ids = roll.prompt_ids(e, hint).tolist()
    assert ids[0] == TOK.bos_id and ids.count(TOK.bos_id) == 1 and TOK.eos_id not in ids
    text = TOK.decode(ids)
    assert text.endswith("123+456\n579\n" if hint else "123+456\n")
    assert text.count("+") == (3 if shots else 1)
    assert roll.worked_row(e)["tokens"].tolist().count(TOK.bos_id) == 1


def test_rows_hold_the_sampled_ids_and_never_the_hint(make, samples):
    """A hinted sample trains on the plain prompt.

    Ids that decode to nothing, which text would lose, are kept.
    """
    roll = make()
    drawn = roll(EXAMPLES, hint=True, num_samples=5)
    assert all(s.hinted for s in drawn)
    assert [s.tokens.tolist() for s in drawn] != [s.tokens.tolist() for s in samples]
    for s in drawn:
        row, prompt = row_of(s), roll.prompt_ids(s.example).tolist()
        assert s.prompt_ids.tolist() == prompt
        assert row["tokens"].tolist() == prompt + s.tokens.tolist()
        assert row["tokens"].dtype == np.int32
        assert row["weights"].tolist() == [0.0] * len(prompt) + [1.0] * len(s.tokens)
        assert row["weights"].dtype == np.float32
        assert TOK.decode(row["tokens"][: len(prompt)]) == f"{s.example.question}\n"
        assert len(s.logprobs) == len(s.tokens) and (s.logprobs < 0).all()
        assert s.text == TOK.decode(s.tokens)
    # Ids that text would lose are there.
    assert any({TOK.pad_id, TOK.bos_id} & set(s.tokens.tolist()) for s in drawn)


def test_cut_off_and_empty_samples_are_never_correct(make):
    """Under a grader that calls everything correct."""
    lenient = make(task=LENIENT, grader=graders.make(CFG, LENIENT))
    drawn = lenient(EXAMPLES, num_samples=20)
    cut = [s for s in drawn if s.tokens[-1] != TOK.eos_id]
    empty = [s for s in drawn if s.tokens.tolist() == [TOK.eos_id]]
    rest = [s for s in drawn if s.tokens[-1] == TOK.eos_id and len(s.tokens) > 1]
    assert cut and empty and rest and len(cut) + len(empty) + len(rest) == 120
    assert {s.verdict for s in cut} == {TRUNCATED} and {s.verdict for s in empty} == {UNPARSED}
    assert {s.verdict for s in rest} == {CORRECT} and all(len(s.tokens) == N for s in cut)
    assert [s.correct for s in drawn] == [s.verdict == CORRECT for s in drawn]
    assert [s.score for s in drawn] == [float(s.correct) for s in drawn]
    assert [s.finished for s in drawn] == [s.tokens[-1] == TOK.eos_id for s in drawn]
    assert not any(TOK.eos_id in s.tokens for s in cut)


def test_a_prompt_that_is_too_long_is_one_sentence(make):
    sentence = (
        r"^sample, example 0 \('12345\+54321'\): the prompt of 13 tokens and "
        r"config\.sampling\.max_new_tokens 6 [^\n]*"
        r"config\.sequence_length 18\.$"
    )
    roll = make(max_length=13 + N - 1)
    with pytest.raises(ValueError, match=sentence):
        roll([EXAMPLES[1], EXAMPLES[0]])
    assert make(max_length=13 + N, batch_size=8)(EXAMPLES[:1])


def test_a_question_without_tokens_is_one_sentence_with_its_place(make):
    foreign = dataclasses.replace(EXAMPLES[1], question="1+é", where="sums.jsonl, line 3")
    sentence = r"^sample, sums\.jsonl, line 3: The character 'é' is not in the alphabet"
    for hint in (False, True):
        with pytest.raises(ValueError, match=sentence):
            make()([EXAMPLES[0], foreign], hint=hint)
    with pytest.raises(ValueError, match=sentence):
        make().worked_row(foreign)


def test_worked_rows(make):
    e, roll = EXAMPLES[1], make()
    row = roll.worked_row(e)
    prompt = [1, *TOK.encode("1+2\n")]
    target = TOK.encode("<scratch>\n1+2,C:0\n,3C:0\n03\n</scratch>\n3")
    assert row["tokens"].tolist() == [*prompt, *target, TOK.eos_id]
    assert row["weights"].tolist() == [0.0] * len(prompt) + [1.0] * (len(target) + 1)
    assert roll.worked_tokens(e).tolist() == [*target, TOK.eos_id]
    direct = roll.worked_row(e, direct=True)
    assert direct["tokens"].tolist() == [*prompt, *TOK.encode("3"), TOK.eos_id]
    assert direct["weights"].sum() == 2
    hinted = roll.worked_row(e, hint=True)
    assert hinted["tokens"].tolist() == [1, *TOK.encode("1+2\n3\n"), *target, TOK.eos_id]
    assert hinted["weights"].sum() == row["weights"].sum()
    length = len(row["tokens"])
    assert make(max_length=length).worked_row(e) is not None
    short = make(max_length=length - 1)
    assert short.worked_row(e) is None and short.worked_tokens(e) is None
    assert roll.worked_tokens(dataclasses.replace(e, rationale=None)) is None


def test_a_summary_by_hand():
    def sample(digits, verdict, line, text):
        number = 10 ** (digits - 1)
        return Sample(
            example=Example(id=0, question=f"{number}+{number}", answer="2"),
            index=0,
            hinted=False,
            prompt_ids=np.zeros(2, np.int32),
            tokens=np.zeros(4, np.int32),
            logprobs=np.zeros(4, np.float32),
            finished=verdict != TRUNCATED,
            text=text,
            verdict=verdict,
            wrong_line=line,
        )

    made = [
        sample(1, CORRECT, None, "C:C:"),
        sample(1, CORRECT, 2, "C:"),
        sample(2, WRONG, 0, ""),
        sample(2, UNPARSED, 0, ""),
        sample(2, TRUNCATED, None, "C:"),
    ]
    assert evaluation.summary(made, TASK) == {
        "samples": 5,
        "correct": 0.4,
        "score": 0.0,
        "unparsed": 0.2,
        "truncated": 0.2,
        "true_lines": 0.5,
        "tokens": 4.0,
        "steps": 0.8,
        "correct_digits_1": 1.0,
        "correct_digits_2": 0.0,
    }
    assert evaluation.summary([], TASK)["correct"] == 0


def test_weighted_rows():
    prompt_ids = [TOK.bos_id, *TOK.encode("1+2\n")]
    tokens = np.array([5, 6, 7, TOK.eos_id], np.int32)
    row = weighted_row(prompt_ids, tokens, -0.25, 0.5)
    plain = completion_row(prompt_ids, tokens)
    prompt = len(plain["tokens"]) - 4
    assert row["tokens"].tolist() == plain["tokens"].tolist()
    assert row["weights"].tolist() == [0.0] * prompt + [-0.25] * 4
    assert row["weights"].dtype == np.float32
    assert row["normaliser"].tolist() == [0.0] * (prompt + 3) + [0.5]


def test_logprobs_of_samples_are_those_they_were_drawn_with(make, samples):
    """In the order asked, whatever the batch; the last, part-filled batch too."""
    policy = make(batch_size=4).policy
    picked = [s for s in samples if s.tokens[-1] == TOK.eos_id][::-1][:7]
    rows = [row_of(s) for s in picked]
    computed = policy.completion_logprobs(rows)
    assert [len(p) for p in computed] == [len(s.tokens) for s in picked]
    for p, s in zip(computed, picked, strict=True):
        np.testing.assert_allclose(p, s.logprobs, atol=1e-5)
    for p, whole, s in zip(computed, policy.logprobs(rows), picked, strict=True):
        assert len(whole) == len(s.prompt_ids) + len(p) and whole[0] == 0
        np.testing.assert_array_equal(whole[len(s.prompt_ids) :], p)
    assert policy.logprobs([]) == []


def test_score_vectors_are_derivatives_by_a_shift_of_the_hidden_states(make, samples):
    """Central differences of the log-likelihood, the shift put in by hand."""
    policy = make(batch_size=4).policy
    cfg = policy.model_cfg
    picked = list({len(s.tokens): s for s in samples}.values())[:3]
    scores = policy.score_vectors([row_of(s) for s in picked])
    assert scores.shape == (len(picked), cfg.width)
    direction = np.random.default_rng(0).normal(size=cfg.width).astype(np.float32)
    for s, score in zip(picked, scores, strict=True):
        row = row_of(s)
        n = len(row["tokens"])
        tokens = jnp.asarray(row["tokens"])[None]
        segment_ids = jnp.ones((1, n), jnp.int32)
        inputs = decoder.embed(policy.params, tokens, cfg)
        positions = jnp.arange(n)[None]
        mask = CausalMask(segment_ids)
        hidden = decoder.apply(policy.params, inputs, positions, mask, cfg=cfg)
        batch = {"tokens": tokens, "segment_ids": segment_ids}

        def total(h, hidden=hidden, batch=batch, row=row):
            shifted = hidden + h * direction
            log_p = logprobs.of_hidden(policy.params, shifted, batch, cfg)
            return float((log_p[0] * row["weights"]).sum())

        slope = (total(0.01) - total(-0.01)) / 0.02
        assert slope == pytest.approx(float(score @ direction), rel=1e-2, abs=1e-3)


def test_what_is_written_depends_on_its_prompt_alone(make):
    """Not on what is written beside it, nor on its place; and the task has no part in it."""
    roll = make(batch_size=8)
    options = {"num_samples": 3, "temperature": 1.0, "max_new_tokens": N, "purpose": "judge"}
    prompts = ["12+34", "9", "12+34,46"]
    texts = [[one.text for one in group] for group in roll.write(prompts, **options)]
    assert len({text for group in texts for text in group}) > 6
    for prompt, expected in zip(prompts, texts, strict=True):
        [alone] = roll.write([prompt], **options)
        assert [one.text for one in alone] == expected
        assert alone[0].prompt_ids.tolist() == TOK.prompt(prompt)
        assert [one.index for one in alone] == [0, 1, 2] and alone[0].verdict == ""
    backwards = roll.write(prompts[::-1], **options)
    assert [[one.text for one in group] for group in backwards] == texts[::-1]
    other = roll.write(prompts, **(options | {"purpose": "meta-judge"}))
    assert [[one.text for one in group] for group in other] != texts
    nothing, [*few] = roll.write(["1" * 61, "9"], **options)  # a prompt that leaves no room
    assert nothing == [] and [one.text for one in few] == texts[1]


def test_the_base_rollout_has_the_parameters_of_the_base_model(make):
    roll = make()
    with pytest.raises(ValueError, match="base model"):
        roll.base()
    params = jax.tree.map(operator.neg, roll.policy.params)
    assert make(base_params=lambda: params).base().policy.params is params


def test_a_published_tokenizer(make, tmp_path):
    """Its template writes the prompt, and any of its end tokens ends a completion."""
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    folder = published.write(tmp_path, special, chat_template=published.template("chatml"))
    plain = pretrained_tokenizer.Pretrained(folder)
    roll = make(tokenizer=plain, max_length=1000)
    text = addition.prompt(EXAMPLES[1], CFG.task)
    assert roll.prompt_ids(EXAMPLES[1]).tolist() == list(text.encode())
    assert roll.tokenizer.stop_ids == (256, 258)
    assert roll.worked_row(EXAMPLES[1])["tokens"][-1] == 256
    chats = make(tokenizer=pretrained_tokenizer.Pretrained(folder, chats=True), max_length=1000)
    expected = plain.chat([{"role": "user", "content": text}])
    assert chats.prompt_ids(EXAMPLES[1]).tolist() == expected
    row = chats.worked_row(EXAMPLES[1])
    assert row["tokens"][-1] == 258 and row["weights"][: len(expected)].sum() == 0
    assert row["tokens"][len(expected) : -1].tolist() == list(addition.target(EXAMPLES[1]).encode())
