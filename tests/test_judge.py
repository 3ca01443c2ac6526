"""A language model as a grader: what is read of judgements, means, both orders, templates."""

from __future__ import annotations

import dataclasses
import itertools
from types import SimpleNamespace

import jax
import numpy as np
import pytest

import reasoning_jax as rj
from reasoning_jax import algorithms, default, experiment, graders, run_record, tasks, templates
from reasoning_jax.answers.judgements import FIRST, SECOND, TIE
from reasoning_jax.errors import UserError
from reasoning_jax.graders import judge
from reasoning_jax.graders.judge import Verdicts
from reasoning_jax.tasks import CORRECT, TRUNCATED, UNPARSED, WRONG, Example

SCORED = {
    "The answer is on topic and complete. Score: 4": 4,
    "Score: 0": 0,
    "Score:5": 5,
    "Score:  3\n": 3,
    "One point.\nScore: 1\nAnother thought.\nScore: 2": 2,  # the last one
    "Score: 3/5": 3,
    "Score: 4 points out of 5": 4,
    "Score: 2.5": 2.5,
    " + - + Score: 2": 2,
    "**Score: 5**": 5,
}
NOT_SCORED = (
    """
score: 4|Score 4|Score = 4|SCORE: 4|Points: 4|4|4/5|Score: six|Score: N|Score:|Score: <4>|Score: (4)
Score: 6|Score: -1|Score: 10|Score: 55|Score: 5.1|Score: 4 Score: 7|Score: 1e3 Score: 99
Score: *4*|Score: **4**|Score: [4]|Score: ~4|Score: about 4|Score: four|Score: IV|Score; 4|Scored: 4
The total is 4.|I would give it 4 out of 5.|Sc0re: 4|Score: $4$|Score: \\boxed{4}|Score: "4"
Skore: 4|Score:: 4|Score:.5|Score: .5|[[4]]|Rating: [[4]]|<score>4</score>|Score: +4|Score: <total>
Final: 4|Score - 4|Score: _4_|Score: ?|Score: n/a|Score: none|Grade: A|Score: =3|
""".strip("\n")
    .replace("\n", "|")
    .split("|")
)


@pytest.mark.parametrize("text", SCORED)
def test_a_score_is_read(text):
    assert judge.read_score(text, 5) == SCORED[text]


@pytest.mark.parametrize("text", NOT_SCORED)
def test_what_is_no_score(text):
    assert judge.read_score(text, 5) is None


def test_there_are_fifty_broken_ones():
    assert len(set(NOT_SCORED)) >= 50


@pytest.mark.parametrize(
    "text, verdict",
    [
        ("A is right. [[A]]", FIRST),
        ("[[B]]", SECOND),
        ("Both are good: [[C]]", TIE),
        ("[[A]] because ... so [[A]]", FIRST),
        ("[[A]] or [[B]]?", None),  # not the first of them: that favours one side
        ("[A]", None),
        ("[[a]]", None),
        ("[[AB]]", None),
        ("[[ A ]]", None),
        ("A", None),
        ("", None),
        ("[[D]]", None),
    ],
)
def test_a_verdict_is_read(text, verdict):
    assert judge.read_verdict(text) == verdict


# ---- templates -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", templates.names())
def test_the_templates_that_come_with_it(name):
    fields = judge.PAIR_FIELDS if "pair" in name else judge.SCORE_FIELDS
    fields = judge.META_FIELDS if "meta" in name else fields
    if name in ("change", "plan", "cards_plan"):
        fields = ("instruction",)
    if name in ("execute", "cards_execute"):
        fields = (*judge.PAIR_FIELDS, "plan")
    if "invent" in name:
        template, count = templates.read_numbered(name, "example", "key")
        fields = [f"example_{i}" for i in range(1, count + 1)]
        assert count == {"invent": 8, "cards_invent": 2}[name]
    else:
        template = templates.read(name, fields, "key")
    filled = template.fill(**{field: f" <{field}> " for field in fields})
    assert all(f"<{field}>" in filled for field in fields) and "{" not in filled
    assert not filled.endswith("\n")


@pytest.mark.parametrize(
    "text, message",
    [
        ("{instruction}", r"t\.txt: the field \{response\} is missing"),
        ("{instruction} {response} {rubric}", r"t\.txt: there is no field \{rubric\}; there are"),
        ("{instruction} {response} {", r"t\.txt: .*a brace that is not a field's"),
        ("{instruction} {response!r}", r"t\.txt: a field is a name in braces"),
        ("{instruction} {response} {}", r"t\.txt: there is no field \{\}"),
    ],
)
def test_a_template_that_cannot_be_filled(text, message, tmp_path):
    (tmp_path / "t.txt").write_text(text)
    with pytest.raises(UserError, match=message):
        templates.read(str(tmp_path / "t.txt"), judge.SCORE_FIELDS, "config.grader.template")


def test_an_unknown_template():
    with pytest.raises(
        UserError, match=r"config\.grader\.template: there is no file 'rubric'.*add"
    ):
        templates.read("rubric", judge.SCORE_FIELDS, "config.grader.template")


def test_braces_of_what_is_filled_in_stay():
    template = templates.read("cards_score", judge.SCORE_FIELDS, "key")
    filled = template.fill(instruction="{response}", response="{x}")
    assert filled == " [J] {response} [W] {x} [V]"


# ---- asking --------------------------------------------------------------------------------------


@dataclasses.dataclass
class Written:
    text: str
    finished: bool = True


class Judge:
    """A model whose completions ``say(prompt, index)`` gives; "..." is cut off."""

    def __init__(self, say):
        self.say = say
        self.calls = []

    def base(self):
        return Judge(lambda prompt, index: "Score: 1")

    def of_run(self, folder):
        return Judge(lambda prompt, index: f"Score: {len(folder)}")

    def write(self, prompts, *, num_samples, temperature, max_new_tokens, purpose):
        self.calls.append((list(prompts), num_samples, temperature))
        texts = [[self.say(prompt, i) for i in range(num_samples)] for prompt in prompts]
        return [[Written(t.removesuffix("..."), not t.endswith("...")) for t in g] for g in texts]


def config(**changes):
    cfg = default.get_config(algorithm="star", task="jsonl", grader="judge")
    cfg.grader.update({"template": "cards_score", **changes})
    return cfg


def test_the_mean_is_over_what_can_be_read():
    said = ["Score: 4", "Score: 9", "Score: 1..."]  # out of the scale; cut off
    model = Judge(lambda prompt, index: said[index])
    [judgements] = judge.score(model, [("ask", "answer")], config().grader, "judge")
    assert [one.score for one in judgements] == [4, None, None]
    assert judge.mean_score(judgements) == 4
    assert judge.mean_score(judgements[::-1]) == 4  # the order does not matter
    assert judge.mean_score(judgements[1:]) is None
    [(prompts, num_samples, temperature)] = model.calls
    assert prompts == [" [J] ask [W] answer [V]"] and (num_samples, temperature) == (3, 1.0)


def by_place(prompt, index):
    return "[[A]]"


def by_length(prompt, index):
    first, second = prompt.removesuffix(" [V]").partition(" [A] ")[2].split(" [B] ")
    return "[[A]]" if len(first) > len(second) else "[[B]]"


PAIRS = [("ask", "short", "longer one"), ("ask", "a long answer", "b")]


def test_both_orders():
    options = {"max_new_tokens": 8, "purpose": "compare"}
    found = judge.compare(Judge(by_place), PAIRS, "cards_pair", **options)
    assert found == [Verdicts(FIRST, SECOND)] * 2
    assert [one.agreed for one in found] == [TIE, TIE]  # a judge of places has no verdict
    found = judge.compare(Judge(by_length), PAIRS, "cards_pair", **options)
    assert [one.agreed for one in found] == [SECOND, FIRST]
    swapped = [(text, second, first) for text, first, second in PAIRS]
    found = judge.compare(Judge(by_length), swapped, "cards_pair", **options)
    assert [one.agreed for one in found] == [FIRST, SECOND]
    unread = judge.compare(Judge(lambda prompt, index: "?"), PAIRS, "cards_pair", **options)
    assert [one.agreed for one in unread] == [None, None]


# ---- grading -------------------------------------------------------------------------------------


def answered(text, finished=True):
    return SimpleNamespace(
        example=Example(id=0, question="ask", answer=""),
        text=text,
        finished=finished,
        tokens=np.arange(3),
    )


def test_a_mean_does_not_depend_on_the_order():
    """np.mean of these decimals does, and a tie would make a pair."""
    scores = (0.3, 0.1, 0.2)
    means = {
        judge.mean_score([judge.Judgement(None, score) for score in order])
        for order in itertools.permutations(scores)
    }
    assert len(means) == 1
    assert len({float(np.mean(order)) for order in itertools.permutations(scores)}) > 1


def test_grades():
    scores = {"good": "Score: 5", "fair": "Score: 2", "odd": "?"}
    model = Judge(lambda prompt, index: scores[prompt.split()[3]])
    task, cfg = tasks.get("jsonl"), config()
    samples = [answered("good"), answered("fair"), answered("odd"), answered("good", False)]
    found = graders.make(cfg, task)(samples, model)
    assert [one.verdict for one in found] == [CORRECT, WRONG, UNPARSED, TRUNCATED]
    assert [one.score for one in found] == [1.0, 0.4, 0.0, 0.0]
    assert [one.answer for one in found] == ["5", "2", None, "5"]
    cfg.grader.judge = "base"
    found = graders.make(cfg, task)(samples[:1], model)
    assert found[0].score == 0.2
    cfg.grader.update({"judge": "run", "judge_run": "abc"})
    found = graders.make(cfg, task)(samples[:1], model)
    assert found[0].score == 0.6


def test_another_run_judges_where_it_is_named():
    for changes, problem in (
        ({"judge": "run"}, r"config\.grader\.judge_run: judge=run needs a run's work directory\."),
        ({"judge_run": "abc"}, r"config\.grader\.judge_run: without judge=run it has no effect\."),
    ):
        with pytest.raises(UserError, match=problem):
            graders.make(config(**changes), tasks.get("jsonl"))


def test_a_judge_sees_the_response_and_no_thought():
    model = Judge(lambda prompt, index: "Score: 5")
    task = tasks.get("rule_cards")
    thoughtful = [answered(" <think> 9 </think> 1 2 3 4"), answered(" <think> 9")]
    found = graders.make(config(), task)(thoughtful, model)
    assert [one.verdict for one in found] == [CORRECT, UNPARSED]
    assert model.calls[0][0] == [" [J] ask [W] 1 2 3 4 [V]"]


def test_judgements_that_are_alike_are_refused():
    with pytest.raises(UserError, match=r"config\.grader\.num_judgements: at judge_temperature=0"):
        graders.make(config(judge_temperature=0.0), tasks.get("jsonl"))


@pytest.mark.slow
def test_a_run_and_its_evaluation_ask_the_base_model(tmp_path):
    """Whose judgements of one response are the same after a round of training as before."""
    cfg = rj.load_config("configs/self_rewarding_cards.py:oracle,smoke", grader="judge")
    cfg.rounds.count = 1
    cfg.grader.update(template="cards_score", judge="base", judge_tokens=26, num_judgements=1)
    cfg.grader.judge_temperature = 0.0
    [*_] = rj.train(cfg, tmp_path / "run")
    run = rj.open(tmp_path / "run")
    exp, trained, _ = run._on_all_devices
    base = run._load_base(exp)
    assert any((a != b).any() for a, b in zip(*map(jax.tree.leaves, (trained, base)), strict=True))
    examples = exp.load_eval("test")
    by_base = exp.rollout(base, "evaluate test", 1, temperature=0.0)
    by_trained = exp.rollout(trained, "evaluate test", 1, temperature=0.0)
    told = exp.rollout(
        trained, "evaluate test", 1, temperature=0.0, base_params=lambda: run._load_base(exp)
    )
    samples = told(examples)
    task, own = exp.task, cfg.grader
    expected = [judge.mean_score(one) for one in judge.score_parts(by_base, samples, task, own)]
    others = [judge.mean_score(one) for one in judge.score_parts(by_trained, samples, task, own)]
    found = [None if s.answer is None else float(s.answer) for s in samples]
    assert found == expected and expected != others
    assert run.evaluate("test")["eval/score"] == pytest.approx(np.mean([s.score for s in samples]))
    # The same by the folder of that model; one that is not there is named.
    cfg.grader.update(judge="run", judge_run=str(tmp_path / "run" / "base"))
    exp = experiment.make(cfg)
    by_folder = exp.rollout(trained, "evaluate test", 1, temperature=0.0)(examples)
    assert [sample.answer for sample in by_folder] == [sample.answer for sample in samples]
    # Which checkpoint judges is recorded with the data of a run that it judges.
    method = algorithms.get("self_rewarding")
    before = run_record.fingerprints(exp, {}, method)["config.grader.judge_run"]
    cfg.grader.judge_run = str(tmp_path / "run")
    assert before != run_record.fingerprints(exp, {}, method)["config.grader.judge_run"]
    cfg.grader.judge_run = str(tmp_path / "absent")
    with pytest.raises(UserError, match="absent: there is no checkpoint"):
        run_record.fingerprints(exp, {}, method)
