"""What scores a completion, a program of the user's above all: every way in which it can fail."""

import re
import shlex
import sys

import pytest
import torch
from conftest import ROOT
from small_world import small_world

from dpo_lib.__main__ import main
from dpo_lib.language_model.models import RewardModel, load_policy, load_tokenizer, named_judge
from dpo_lib.language_model.models.hashes import state_hash
from dpo_lib.language_model.models.judges import as_texts
from dpo_lib.language_model.worlds import reviews
from dpo_lib.language_model.worlds.data_set import train_tokenizer

LENGTHS = """
import json, sys
for line in sys.stdin:
    row = json.loads(line)
    print(len(row["completion"]) - len(row["prompt"]))
"""


@pytest.fixture(scope="module")
def named(tmp_path_factory):
    return small_world(tmp_path_factory.mktemp("judges"), pairs=8, reviews=8, prompts=8, test=8)


@pytest.fixture(scope="module")
def tokenizer(named):
    return load_tokenizer(named["model"])


def program(folder, text, *arguments):
    """The judge that is a Python program of this text."""
    file = folder / "a judge.py"
    file.write_text(text)
    return "command:" + shlex.join([sys.executable, str(file), *arguments])


def sequences(tokenizer, *texts):
    ids = [[tuple(tokenizer(part)["input_ids"]) for part in pair] for pair in texts]
    return [(prompt, (*completion, tokenizer.eos_token_id)) for prompt, completion in ids]


PAIRS = (("This film", " is wonderful."), ("Café — é", ' says "no"\n\ttwice'), ("A", ""))


def test_a_program_scores_the_texts_without_their_end_in_their_order(tokenizer, tmp_path):
    judge = named_judge(program(tmp_path, LENGTHS), tokenizer, "cpu")
    found = judge.score(sequences(tokenizer, *PAIRS))
    assert found.tolist() == [len(y) - len(x) for x, y in PAIRS]
    assert found.dtype == torch.float64  # as many digits as were printed
    assert as_texts(sequences(tokenizer, *PAIRS), tokenizer) == list(PAIRS)


def test_a_program_can_be_the_worlds_own_reward(tokenizer, tmp_path):
    text = f"""
import json, sys
sys.path.insert(0, {sys.path[0]!r})
from dpo_lib.language_model.worlds import reviews
for line in sys.stdin:
    row = json.loads(line)
    print(reviews.reward(row["prompt"], row["completion"]))
"""
    texts = [("In The Salt Letter", " the acting is wonderful."), ("This film", " is dull. Dull.")]
    own, true = (
        named_judge(name, tokenizer, "cpu").score(sequences(tokenizer, *texts))
        for name in (program(tmp_path, text), "true")
    )
    assert own.tolist() == pytest.approx(true.tolist())
    assert own.tolist() == pytest.approx([reviews.reward(*pair) for pair in texts])


def test_the_program_of_the_documentation_is_one(tokenizer, tmp_path):
    page = (ROOT / "docs/training.md").read_text()
    text = re.search(r"```python\n(import json, sys\n.*?)```", page, re.DOTALL)[1]
    words = [" word" * count for count in (20, 18, 25)]
    given = sequences(tokenizer, *(("A", answer) for answer in words))
    score = named_judge(program(tmp_path, text), tokenizer, "cpu").score
    assert score(given).tolist() == [0, -2, -5]


def test_arguments_are_quoted_as_for_a_shell_which_there_is_none(tokenizer, tmp_path):
    text = "import sys\nfor line in sys.stdin: print(len(sys.argv[1]))"
    judge = named_judge(program(tmp_path, text, "$HOME; rm *"), tokenizer, "cpu")
    assert judge.score(sequences(tokenizer, *PAIRS)).tolist() == [len("$HOME; rm *")] * 3


def test_a_run_is_bound_to_the_command_or_to_the_reward_models_weights(named, tokenizer, tmp_path):
    command = program(tmp_path, LENGTHS)
    assert named_judge(command, tokenizer, "cpu").name == command
    assert named_judge("true", tokenizer, "cpu").name == "true"
    model = RewardModel(load_policy(named["model"], tokenizer))
    model.save(tokenizer, tmp_path / "reward")
    judge = named_judge(str(tmp_path / "reward"), tokenizer, "cpu")
    assert judge.name == state_hash(judge.model) == state_hash(model)


BROKEN = {  # program -> what the line says after the command
    "import sys; print('oh', file=sys.stderr); sys.exit(3)": "failed with exit code 3: oh; ",
    "raise KeyError('score')": "failed with exit code 1: KeyError: 'score'; ",
    "import os; os._exit(9)": "failed with exit code 9: nothing on stderr; ",
    "print(1)": "printed 1 numbers for 3 completions; print one for each",
    "print('1\\n2\\n3\\n4')": "printed 4 numbers for 3 completions; print one for each",
    "pass": "printed 0 numbers for 3 completions; print one for each",
    "print('1\\nseven\\n3')": "line 2 of its output is 'seven'; print one finite number a line",
    "print('1\\n2\\nnan')": "line 3 of its output is 'nan'; print one finite number a line",
    "print('1e400\\n2\\n3')": "line 1 of its output is '1e400'; print one finite number a line",
    "print('loading\\n1\\n2\\n3')": "line 1 of its output is 'loading'; print one finite number",
    "print('1\\n\\n3')": "line 2 of its output is ''; print one finite number a line",
}


@pytest.mark.parametrize("text", BROKEN)
def test_a_program_that_fails_is_refused_in_one_line(tokenizer, tmp_path, text):
    judge = named_judge(program(tmp_path, text), tokenizer, "cpu")
    with pytest.raises(ValueError) as error:
        judge.score(sequences(tokenizer, *PAIRS))
    line = str(error.value)
    assert line.startswith("reward command:") and "a judge.py" in line and "\n" not in line
    assert f"': {BROKEN[text]}" in line


@pytest.mark.parametrize(
    "reward, line",
    [
        ("command:/no/such program", "/no/such program: cannot be started: No such file or dir"),
        ("command:/", "/: cannot be started: Permission denied"),
        ("command:", "reward command:: name a program behind the colon"),
        ("command:say 'hello", "reward command:say 'hello: No closing quotation; close it"),
    ],
)
def test_a_program_that_cannot_be_started_is_named(tokenizer, reward, line):
    with pytest.raises(ValueError) as error:
        named_judge(reward, tokenizer, "cpu").score(sequences(tokenizer, *PAIRS))
    assert line in str(error.value)


@pytest.mark.parametrize("command", ["online", "ppo", "samples", "evaluate"])
@pytest.mark.parametrize("fault", ["program", "tokenizer"])
def test_on_the_command_line_a_bad_judge_is_one_line_and_exit_code_2(
    named, tmp_path, capfd, command, fault
):
    if fault == "program":
        reward = program(tmp_path, "print('no number')")
        wanted = "line 1 of its output is 'no number'"
    else:
        model, other = load_policy(named["model"], load_tokenizer(named["model"])), tmp_path / "rm"
        RewardModel(model).save(train_tokenizer(300), other)
        reward, wanted = str(other), f"reward {other}: its tokenizer is not that of"
    told = ["--model", named["model"], "--data", named["data"], "--reward", reward]
    told += ["--max-new-tokens", "4", "--batch-size", "4", "--max-length", "100"]
    out = ["--out", str(tmp_path / "run")]
    told = {
        "online": ["online", *told, *out],
        "ppo": ["ppo", *told, *out],
        "samples": ["sft", *told, *out, "--samples", "2", "--eval-data", named["data"]],
        "evaluate": ["evaluate", *told, "--reference", named["model"], "--prompts", "2"],
    }[command]
    capfd.readouterr()
    assert main(told) == 2
    said = [line for line in capfd.readouterr().err.splitlines() if line.startswith("dpo: ")]
    assert len(said) == 1 and wanted in said[0]
    assert not (tmp_path / "run/model").exists()
