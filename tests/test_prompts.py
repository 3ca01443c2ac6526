"""Few-shot prompts: STaR's own files, byte for byte, and no hint where none belongs."""

from __future__ import annotations

import pytest
from ml_collections import ConfigDict

from reasoning_jax import prompts, tasks
from reasoning_jax.errors import MissingFileError, UserError
from reasoning_jax.tasks import Example

CFG = ConfigDict()
gsm8k, commonsense_qa = tasks.get("gsm8k"), tasks.get("commonsense_qa")
TASKS = {"gsm": gsm8k, "commonsenseqa": commonsense_qa}
CHOICES = "(a) in\n(b) on\n(c) up\n(d) off\n(e) at"
QUESTIONS = {
    gsm8k: Example(id=7, question="How many are 40 and 2?", answer="42"),
    commonsense_qa: Example(id=7, question=f"Where is it?\nAnswer Choices:\n{CHOICES}", answer="d"),
}


def build(task, example, shots=(), hint=None):
    return prompts.build(task, example, CFG, shots, hint)


@pytest.mark.parametrize("folder, number", [("gsm", 6), ("commonsenseqa", 7)])
def test_the_files_of_star_byte_for_byte(folder, number, data_dir):
    task, files = TASKS[folder], data_dir / "star_prompts" / folder
    shots = prompts.read_shots(files / "prompts.txt", task, CFG)
    assert len(shots) == number
    plain = build(task, shots[-1], shots[:-1]) + task.target(shots[-1])
    assert plain.encode() == (files / "prompts.txt").read_bytes()
    hinted = build(task, shots[-1], shots[:-1], hint=shots[-1].answer) + task.target(shots[-1])
    assert hinted.encode() == (files / "prompts_answer_key.txt").read_bytes()


def test_direct_answers_of_star(data_dir):
    files = data_dir / "star_prompts" / "commonsenseqa"
    shots = prompts.read_shots(files / "prompts.txt", commonsense_qa, CFG)
    for name, hinted in (("prompts_direct.txt", False), ("prompts_direct_answer_key.txt", True)):
        blocks = []
        for shot in shots:
            hint = shot.answer if hinted else None
            prompt = commonsense_qa.prompt(shot, CFG, hint=hint)
            blocks.append(prompt + commonsense_qa.target(shot, direct=True))
        assert "\n\n".join(blocks) == (files / name).read_text()


def test_answers_of_the_shots(data_dir):
    files = data_dir / "star_prompts"
    shots = prompts.read_shots(files / "gsm" / "prompts.txt", gsm8k, CFG)
    assert [shot.answer for shot in shots] == ["72", "5", "42", "35", "41", "990"]
    assert shots[0].question.startswith("Natalia sold clips")
    assert shots[0].rationale.endswith("and May.\n#### 72")
    # Never an example's own id.
    assert len({shot.id for shot in shots}) == 6 and all(shot.id < 0 for shot in shots)
    shots = prompts.read_shots(files / "commonsenseqa" / "prompts.txt", commonsense_qa, CFG)
    assert [shot.answer for shot in shots] == list("eccabdc")


@pytest.mark.parametrize("folder", TASKS)
def test_a_hint_never_leaks(folder, data_dir):
    task = TASKS[folder]
    example = QUESTIONS[task]
    shots = prompts.read_shots(data_dir / "star_prompts" / folder / "prompts.txt", task, CFG)
    hint = f"({example.answer})" if task is gsm8k else "(CORRECT)"
    plain = build(task, example, shots)
    hinted = build(task, example, shots, hint=example.answer)
    assert hint not in plain and hint in hinted
    assert hinted.count("(CORRECT)") == (len(shots) + 1 if task is commonsense_qa else 0)
    if task is gsm8k:
        for shot in shots:
            end = f"? ({shot.answer})\nA:"
            assert end in hinted and end not in plain
    # All that the hint adds is itself, once a question: nothing of a worked solution comes with it.
    hints = [
        " (CORRECT)" if task is commonsense_qa else f" ({e.answer})" for e in [*shots, example]
    ]
    assert len(hinted) - len(plain) == sum(map(len, hints))
    assert plain.endswith("A:") and hinted.endswith("A:")


@pytest.mark.parametrize("task", QUESTIONS, ids=lambda task: task.name)
def test_exact_without_shots(task):
    example = QUESTIONS[task]
    assert build(task, example) == f"Q: {example.question}\nA:"
    assert task.prompt(example, CFG) == f"Q: {example.question}\nA:"


def test_exact_with_a_shot():
    rationale = "It is <<1+1=2>>2.\n#### 2"
    shot = Example(id=-1, question="1 and 1?", answer="2", rationale=rationale)
    example = QUESTIONS[gsm8k]
    plain = "Q: 1 and 1?\nA: It is <<1+1=2>>2.\n#### 2\n\nQ: How many are 40 and 2?\nA:"
    assert build(gsm8k, example, [shot]) == plain
    hinted = plain.replace("1 and 1?", "1 and 1? (2)").replace("40 and 2?", "40 and 2? (42)")
    assert build(gsm8k, example, [shot], hint="42") == hinted


def test_bad_files_name_their_line(tmp_path, data_dir):
    path = tmp_path / "shots.txt"
    good = "Q: 1 and 1?\nA: It is 2.\n#### 2"
    path.write_text(f"{good}\n\nQ: 1 and 2?\nA: It is 3.")
    with pytest.raises(UserError, match=r"shots\.txt, line 5: .*answer"):
        prompts.read_shots(path, gsm8k, CFG)
    path.write_text(f"{good}\n\n{good}\n\n1 and 2?\nA: It is 3.\n#### 3")
    with pytest.raises(UserError, match=r"shots\.txt, line 9: .*format of the task gsm8k"):
        prompts.read_shots(path, gsm8k, CFG)
    with pytest.raises(MissingFileError, match=r"absent\.txt"):
        prompts.read_shots(tmp_path / "absent.txt", gsm8k, CFG)
    path.write_text(good + "\n")  # one newline at the end is usual
    assert len(prompts.read_shots(path, gsm8k, CFG)) == 1


@pytest.mark.parametrize("folder", TASKS)
def test_a_hinted_file_is_refused(folder, data_dir):
    with pytest.raises(UserError, match=r"prompts_answer_key\.txt, line 1: .*hint"):
        path = data_dir / "star_prompts" / folder / "prompts_answer_key.txt"
        prompts.read_shots(path, TASKS[folder], CFG)
