"""The command line: every mistake is one line and exit code 2; settings come out as given."""

import json
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from dpo_lib import __main__ as cli
from dpo_lib._flags import read_settings, settings_parser


@dataclass(frozen=True, kw_only=True)
class Base:
    """What the stand-in for a stage extends."""

    model: str  # where the weights are
    steps: int
    lr: float = 1e-6  # at 100 %
    reference: str | None = None  # the frozen model
    resume: bool = False


@dataclass(frozen=True, kw_only=True)
class Stand(Base):
    """A stand-in for a stage's settings."""

    lr: float = 1e-5
    beta: float = field(default=0.1, metadata={"help": "strength"})
    target_kl: float | None = None

    def __post_init__(self):
        if self.beta <= 0:
            raise ValueError(f"beta must be positive, got {self.beta}")


def read(*arguments):
    return read_settings(Stand, settings_parser(Stand, "dpo stand", "A stand-in."), [*arguments])


def run(capsys, *arguments):
    """Exit code, and standard output and error."""
    code = cli.main([*map(str, arguments)])
    return code, *capsys.readouterr()


def mistake(capsys, *arguments):
    """The line that a mistake gives."""
    code, out, err = run(capsys, *arguments)
    assert (code, out, err.count("\n")) == (2, "", 1), err
    assert err.startswith("dpo: ")
    return err[len("dpo: ") : -1]


SAMPLE = ["sample", "--model", "no/such", "--prompt"]
EVALUATE = ["evaluate", "--model", "no/such", "--reference", "no/such", "--data", "no/such"]


def test_flags_are_the_fields_of_the_settings():
    given = read("--model", "tiny", "--steps", "3", "--target-kl", "6", "--resume")
    assert given == Stand(model="tiny", steps=3, target_kl=6.0, resume=True)
    assert read("--model", "m", "--steps", "3", "--no-resume") == Stand(model="m", steps=3)
    assert read("--model", "m", "--steps", "3", "--lr", "2e-4").lr == 2e-4


def test_help_has_the_comment_beside_each_field_and_the_default():
    text = " ".join(settings_parser(Stand, "dpo stand", "A stand-in.").format_help().split())
    assert "--model TEXT where the weights are (required)" in text
    assert "--beta X strength (default: 0.1)" in text
    assert "(default: 1e-05)" in text and "1e-06" not in text
    assert "--reference TEXT the frozen model" in text


def test_a_toml_file_gives_the_same_settings_and_flags_win(tmp_path):
    file = tmp_path / "s.toml"
    file.write_text('model = "tiny"\nsteps = 3\nlr = 1\nresume = true\nbeta = 0.5\n')
    assert read("--config", str(file), "--beta", "0.2") == Stand(
        model="tiny", steps=3, lr=1.0, resume=True, beta=0.2
    )
    assert read("--config", str(file), "--no-resume").resume is False


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("bete = 0.1", "unknown key bete = 0.1"),
        ("beta = '0.1'", "beta must be number, got '0.1'"),
        ("beta = true", "beta must be number, got True"),
        ("steps = 1.5", "steps must be whole number, got 1.5"),
        ("resume = 1", "resume must be true or false, got 1"),
        ("model = ['a']", "model must be text, got ['a']"),
        (
            "beta = 1 2",
            "Expected newline or end of document after a statement (at line 1, column 10)",
        ),
    ],
)
def test_K8_a_wrong_toml_file_is_named_with_key_and_value(tmp_path, line, message):
    file = tmp_path / "s.toml"
    file.write_text(line)
    with pytest.raises(ValueError, match=r"s\.toml") as refused:
        read("--config", str(file), "--model", "m", "--steps", "1")
    assert str(refused.value) == f"{file}: {message}"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--steps", "3"], "missing: --model (see dpo stand --help)"),
        (["--step", "3"], "unrecognized arguments: --step 3"),  # no guessing of what was meant
        (["--steps", "3.5"], "must be whole number, got '3.5'"),
        (["--lr", "fast"], "must be number, got 'fast'"),
        (["--model", "m", "--steps", "3", "--beta", "0"], "beta must be positive, got 0.0"),
        (["--model"], "expected one argument"),
    ],
)
def test_a_wrong_flag_is_named_with_its_value(arguments, message):
    with pytest.raises(ValueError) as refused:
        read(*arguments)
    assert message in str(refused.value)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["trian"], "unknown command 'trian', expected one of world, check, sft"),
        (["world"], "the following arguments are required: --out (see dpo world --help)"),
        (["world", "--out", "w", "--labels", "best"], "invalid choice: 'best'"),
        (["world", "--out", "w", "--pairs", "0"], "pairs must be an integer of at least 1, got 0"),
        (["check", "--data", "no/such.jsonl"], "no/such.jsonl"),
        (["doctor", "no/such.jsonl"], "No such file or directory: 'no/such.jsonl'"),
        (["doctor", __file__], "test_cli.py:1: not a training log"),
        (["dpo", "--model", "tiny"], "missing: --data, --out (see dpo dpo --help)"),
        (["dpo", "--config", "no/such.toml"], "no/such.toml"),
        (["sample", "--model", "no/such", "--prompt", "Hi"], "no/such"),
        ([*SAMPLE, "Hi", "--n", 0], "--n: must be a whole number of at least 1, got '0'"),
        ([*SAMPLE, "Hi", "--n", -1], "--n: must be a whole number of at least 1, got '-1'"),
        ([*SAMPLE, "Hi", "--seed", 2**64], f"{2**64 - 1}, got '{2**64}'"),
        ([*SAMPLE, "Hi", "--seed", 2**64], "argument --seed: must be a whole number from"),
        ([*SAMPLE, "a\udcffb"], "--prompt must be valid UTF-8, got 'a\\udcffb'"),
        ([*EVALUATE, "--prompts", 0], "--prompts: must be a whole number of at least 2, got '0'"),
        ([*EVALUATE, "--prompts", -3], "--prompts: must be a whole number of at least 2, got '-3'"),
        ([*EVALUATE, "--prompts", "all"], "a whole number of at least 2, got 'all'"),
        ([*EVALUATE, "--out", "."], "out must be a file, got ."),
        ([*EVALUATE, "--out", "/dev/null"], "out must be a file, got /dev/null"),
        ([*EVALUATE, "--out", "a.svg"], "out must not end in .svg"),
        ([*EVALUATE, "--out", "/dev/null/a.json"], "/dev/null"),
    ],
)
def test_every_mistake_is_one_line_and_exit_code_2(
    capsys, tmp_path, monkeypatch, arguments, message
):
    monkeypatch.chdir(tmp_path)
    assert message in mistake(capsys, *arguments)
    assert list(tmp_path.iterdir()) == []


def test_an_error_of_many_lines_becomes_one(capsys, monkeypatch):
    def command(name, rest):
        raise ValueError("two\n  lines")

    monkeypatch.setitem(cli.COMMANDS, "world", ("", command))
    assert mistake(capsys, "world") == "two lines"


def test_too_little_memory_is_a_line_and_a_bug_is_not(capsys, monkeypatch):
    def command(name, rest):
        raise RuntimeError(rest[0])

    for name in ("sft", "evaluate", "sample", "world"):
        monkeypatch.setitem(cli.COMMANDS, name, ("", command))
    assert "--accumulate" in mistake(capsys, "sft", "CUDA out of memory. Tried to allocate")
    on_a_cpu = "DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes"
    assert mistake(capsys, "evaluate", on_a_cpu) == "out of memory: try a smaller --batch-size"
    assert mistake(capsys, "sample", on_a_cpu) == "out of memory: try a smaller --n"
    assert mistake(capsys, "world", on_a_cpu) == "out of memory"
    with pytest.raises(RuntimeError, match="shapes"):
        cli.main(["world", "shapes"])


def test_an_interrupt_ends_in_a_line_and_130(capsys, monkeypatch):
    def command(name, rest):
        raise KeyboardInterrupt

    monkeypatch.setitem(cli.COMMANDS, "world", ("", command))
    assert run(capsys, "world") == (130, "", "dpo: interrupted\n")


def test_a_missing_package_is_named_with_how_to_install_it(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)  # as if it were not installed
    monkeypatch.delitem(sys.modules, "dpo_lib.language_model.models", raising=False)
    line = mistake(capsys, "sample", "--model", "m", "--prompt", "Hi")
    assert line == 'transformers is not installed: pip install "dpo-lib[language-model]"'


def test_help_lists_the_commands_and_imports_nothing_heavy():
    code = (
        "import sys; from dpo_lib.__main__ import main; main(['--help']);"
        "print({'transformers', 'datasets', 'accelerate', 'matplotlib'} & set(sys.modules))"
    )
    out = subprocess.check_output([sys.executable, "-c", code], text=True)
    assert out.endswith("set()\n")
    assert all(f"\n  {name} " in out for name in cli.COMMANDS)


@pytest.mark.parametrize("name", cli.STAGES)
def test_every_stage_offers_the_fixed_flags(capsys, name):
    with pytest.raises(SystemExit) as stopped:
        cli.main([name, "--help"])
    assert stopped.value.code == 0
    text = capsys.readouterr().out
    fixed = "model data out reference steps batch-size accumulate max-length seed save-every resume"
    assert all(f"--{flag}" in text for flag in [*fixed.split(), "config"])
    assert ("--beta" in text) == (name in ("dpo", "ppo"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A small world and one step of SFT on it, made by the command line."""
    folder = tmp_path_factory.mktemp("cli")
    assert cli.main(["world", "--out", str(folder / "world"), "--pairs", "20"]) == 0
    sft = ["sft", "--model", "tiny", "--data", folder / "world", "--out", folder / "sft"]
    assert cli.main([*map(str, sft), "--steps", "1", "--batch-size", "4"]) == 0
    return folder


def test_check_says_what_would_be_trained_on(capsys, folder):
    code, out, err = run(capsys, "check", "--data", folder / "world", "--model", "tiny")
    assert (code, err) == (0, "")
    kind, rows, *tokens = out.splitlines()
    assert (kind, rows) == (f"{folder}/world: preferences", "20 rows, 20 used")
    assert [line.split(":")[0] for line in tokens] == [
        f"tokens of {part}" for part in ("prompt", "chosen", "rejected")
    ]
    for name, kind in (("sft", "examples"), ("prompts", "prompts")):
        _, out, _ = run(capsys, "check", "--data", folder / f"world/{name}.jsonl")
        assert out.splitlines()[0].endswith(f": {kind}")


@pytest.mark.parametrize("broken", [{"rejected": 5}, {}], ids=["no text", "missing"])
def test_L1_a_broken_pair_is_not_taken_for_a_demonstration(capsys, tmp_path, broken):
    good = {"prompt": "One", "chosen": " two", "rejected": " three"}
    rows = [good, good | {"chosen": " four"}, {"prompt": "One", "chosen": " two"} | broken]
    file = tmp_path / "pairs.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert mistake(capsys, "check", "--data", file).startswith(f"{file}:3: ")


def test_L1_check_names_the_line_of_a_broken_row(capsys, tmp_path):
    file = tmp_path / "rows.jsonl"
    file.write_text('{"prompt": "a", "chosen": "b", "rejected": "c"}\n{"prompt": 1}\n')
    assert mistake(capsys, "check", "--data", file).startswith(f"{file}:2: ")


def test_L1_a_broken_preference_is_not_taken_for_another_kind_of_row(capsys, tmp_path):
    file = tmp_path / "rows.jsonl"
    file.write_text('{"prompt": "a", "chosen": "b", "rejected": 1}\n')
    assert mistake(capsys, "check", "--data", file).startswith(f"{file}:1: ")
    file.write_text("")
    assert mistake(capsys, "check", "--data", file) == f"{file}: has no rows"


def test_sample_is_a_function_of_the_seed(capsys, folder):
    def sample(*more):
        command = ["sample", "--model", folder / "sft/model", "--prompt", "I saw", "--n", 3]
        return run(capsys, *command, "--max-new-tokens", 5, *more)

    first = sample()
    assert first[0] == 0 and len(first[1].splitlines()) == 3
    assert sample() == first != sample("--seed", 1)
    greedy = sample("--temperature", 0)[1].splitlines()
    assert len(set(greedy)) == 1


def test_evaluate_of_the_reference_itself_has_kl_0_and_writes_json_and_svg(capsys, folder):
    model, out = folder / "sft/model", folder / "points.json"
    command = ["evaluate", "--model", model, "--reference", model, "--data", folder / "world"]
    options = ["--prompts", 4, "--samples", 2, "--max-new-tokens", 5, "--best-of", 2, "--out", out]
    code, text, _ = run(capsys, *command, *options)
    assert code == 0 and "best of 2" in text
    (point,) = json.loads(out.read_text())["policies"]
    assert (point["kl"]["mean"], point["kl"]["standard_error"]) == (0, 0)
    assert out.with_suffix(".svg").read_text().startswith("<svg")


def test_evaluate_refuses_a_policy_that_reads_other_tokens_or_another_end(capsys, folder, tmp_path):
    reference = folder / "sft/model"
    tokenizer = json.loads((reference / "tokenizer.json").read_text())
    words, settings = tokenizer["model"]["vocab"], reference / "tokenizer_config.json"
    first, second = list(words)[-2:]
    swapped = words | {first: words[second], second: words[first]}
    other = tokenizer | {"model": tokenizer["model"] | {"vocab": swapped}}
    end = json.loads(settings.read_text()) | {"eos_token": list(words)[5]}
    for name, content in (("tokenizer.json", other), ("tokenizer_config.json", end)):
        policy = shutil.copytree(reference, tmp_path / name)
        (policy / name).write_text(json.dumps(content))
        command = ["evaluate", "--model", policy, "--reference", reference, "--data", folder]
        assert mistake(capsys, *command) == f"model {policy}: its tokenizer is not the reference's"


def test_evaluate_says_what_became_of_the_prompts(capsys, folder, tmp_path):
    model, data = folder / "sft/model", tmp_path / "prompts.jsonl"
    prompts = ["I saw it", "It was a long film and I did not like the end of it", "Bad", "Good"]
    data.write_text("".join(json.dumps({"prompt": prompt}) + "\n" for prompt in prompts))
    command = ["evaluate", "--model", model, "--reference", model, "--data", data]
    options = ["--prompts", 3, "--max-length", 10, "--samples", 1, "--max-new-tokens", 2]
    code, out, err = run(capsys, *command, *options)
    assert code == 0 and out.startswith("policy")
    assert err.splitlines() == [
        "4 rows, 3 used",
        "dropped 1: beyond --prompts 3 (prompt 4)",
        "shortened 1: prompt cut from the left (prompt 2)",
    ]


def test_doctor_finds_nothing_in_a_fresh_run_and_something_in_a_sick_one(capsys, folder, tmp_path):
    code, out, _ = run(capsys, "doctor", folder / "sft")
    assert (code, out) == (0, "nothing found\n1 rows, steps 1 to 1\n")
    sick = tmp_path / "metrics.jsonl"
    sick.write_text('{"step": 1, "loss": NaN}\n')
    code, out, _ = run(capsys, "doctor", sick)
    assert code == 1 and "not finite" in out


def test_a_run_folder_is_not_trained_in_twice(capsys, folder):
    command = ["sft", "--model", "tiny", "--data", folder / "world", "--out", folder / "sft"]
    assert cli.main([*map(str, command), "--steps", "1", "--batch-size", "4"]) == 2
    assert "exists already" in capsys.readouterr().err


def test_the_installed_command_is_this_one():
    text = (Path(cli.__file__).parents[1] / "pyproject.toml").read_text()
    assert '[project.scripts]\ndpo = "dpo_lib.__main__:main"\n' in text


def test_torch_alone_is_enough_to_import_the_library():
    code = "import dpo_lib, sys; print({'transformers', 'tokenizers'} & set(sys.modules))"
    assert subprocess.check_output([sys.executable, "-c", code], text=True) == "set()\n"
