"""Few-shot prompts: STaR's own files, byte for byte, and no hint where none belongs."""

from __future__ import annotations

import pytest

from reasoning_jax import prompts
from reasoning_jax.tasks import Example, commonsense_qa, gsm8k

TASKS = {"gsm": gsm8k, "commonsenseqa": commonsense_qa}
QUESTIONS = {
    gsm8k: Example(7, "How many are 40 and 2?", "42"),
    commonsense_qa: Example(7, "Where is it?\nAnswer Choices:\n(a) in\n(b) on\n(c) up\n(d) off\n(e) at", "d"),
}


@pytest.mark.parametrize("folder, number", [("gsm", 6), ("commonsenseqa", 7)])
def test_the_files_of_star_byte_for_byte(folder, number, data_dir):
    task, files = TASKS[folder], data_dir / "star_prompts" / folder
    shots = prompts.read_shots(files / "prompts.txt", task)
    assert len(shots) == number
    plain = prompts.build(task, shots[-1], shots[:-1]) + task.target(shots[-1])
    assert plain.encode() == (files / "prompts.txt").read_bytes()
    hinted = prompts.build(task, shots[-1], shots[:-1], hint=shots[-1].answer) + task.target(shots[-1])
    assert hinted.encode() == (files / "prompts_answer_key.txt").read_bytes()


def test_direct_answers_of_star(data_dir):
    files = data_dir / "star_prompts" / "commonsenseqa"
    shots = prompts.read_shots(files / "prompts.txt", commonsense_qa)
    for name, hinted in (("prompts_direct.txt", False), ("prompts_direct_answer_key.txt", True)):
        blocks = [
            commonsense_qa.prompt(shot, hint=shot.answer if hinted else None) + commonsense_qa.target(shot, direct=True)
            for shot in shots
        ]
        assert "\n\n".join(blocks) == (files / name).read_text()


def test_answers_of_the_shots(data_dir):
    files = data_dir / "star_prompts"
    shots = prompts.read_shots(files / "gsm" / "prompts.txt", gsm8k)
    assert [shot.answer for shot in shots] == ["72", "5", "42", "35", "41", "990"]
    assert shots[0].question.startswith("Natalia sold clips") and shots[0].rationale.endswith("and May.\n#### 72")
    assert len({shot.id for shot in shots}) == 6 and all(shot.id < 0 for shot in shots)  # never an example's own id
    shots = prompts.read_shots(files / "commonsenseqa" / "prompts.txt", commonsense_qa)
    assert [shot.answer for shot in shots] == list("eccabdc")


@pytest.mark.parametrize("folder", TASKS)
def test_a_hint_never_leaks(folder, data_dir):
    task = TASKS[folder]
    example = QUESTIONS[task]
    shots = prompts.read_shots(data_dir / "star_prompts" / folder / "prompts.txt", task)
    hint = f"({example.answer})" if task is gsm8k else "(CORRECT)"
    plain, hinted = prompts.build(task, example, shots), prompts.build(task, example, shots, hint=example.answer)
    assert hint not in plain and hint in hinted
    assert hinted.count("(CORRECT)") == (len(shots) + 1 if task is commonsense_qa else 0)
    if task is gsm8k:
        assert all(f"? ({shot.answer})\nA:" in hinted and f"? ({shot.answer})\nA:" not in plain for shot in shots)
    # All that the hint adds is itself, once a question: nothing of a worked solution comes with it.
    assert len(hinted) - len(plain) == sum(
        len(" (CORRECT)") if task is commonsense_qa else len(f" ({e.answer})") for e in [*shots, example]
    )
    assert plain.endswith("A:") and hinted.endswith("A:")


@pytest.mark.parametrize("task", QUESTIONS)
def test_exact_without_shots(task):
    example = QUESTIONS[task]
    assert prompts.build(task, example) == task.prompt(example) == f"Q: {example.question}\nA:"


def test_exact_with_a_shot():
    shot = Example(-1, "1 and 1?", "2", "It is <<1+1=2>>2.\n#### 2")
    example = QUESTIONS[gsm8k]
    plain = "Q: 1 and 1?\nA: It is <<1+1=2>>2.\n#### 2\n\nQ: How many are 40 and 2?\nA:"
    assert prompts.build(gsm8k, example, [shot]) == plain
    hinted = "Q: 1 and 1? (2)\nA: It is <<1+1=2>>2.\n#### 2\n\nQ: How many are 40 and 2? (42)\nA:"
    assert prompts.build(gsm8k, example, [shot], hint="42") == hinted


def test_bad_files_name_their_line(tmp_path, data_dir):
    path = tmp_path / "shots.txt"
    good = "Q: 1 and 1?\nA: It is 2.\n#### 2"
    path.write_text(f"{good}\n\nQ: 1 and 2?\nA: It is 3.")
    with pytest.raises(ValueError, match=r"shots\.txt, line 5: .*answer"):
        prompts.read_shots(path, gsm8k)
    path.write_text(f"{good}\n\n{good}\n\n1 and 2?\nA: It is 3.\n#### 3")
    with pytest.raises(ValueError, match=r"shots\.txt, line 9: .*format of the task gsm8k"):
        prompts.read_shots(path, gsm8k)
    with pytest.raises(FileNotFoundError, match=r"absent\.txt"):
        prompts.read_shots(tmp_path / "absent.txt", gsm8k)
    path.write_text(good + "\n")  # one newline at the end is usual
    assert len(prompts.read_shots(path, gsm8k)) == 1


@pytest.mark.parametrize("folder", TASKS)
def test_a_hinted_file_is_refused(folder, data_dir):
    with pytest.raises(ValueError, match=r"prompts_answer_key\.txt, line 1: .*hint"):
        prompts.read_shots(data_dir / "star_prompts" / folder / "prompts_answer_key.txt", TASKS[folder])
