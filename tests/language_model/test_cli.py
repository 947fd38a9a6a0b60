"""The command line: every mistake is one line and exit code 2; settings come out as given."""

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass, fields
from inspect import signature
from pathlib import Path
from typing import Annotated, Literal, get_args

import pytest
from cyclopts import Parameter

from dpo_lib import __main__ as cli
from dpo_lib import _command_line as command_line
from dpo_lib._loss_names import OF_A_DIFFERENCE, OWN, TOLD, LossName
from dpo_lib.language_model import models, settings
from dpo_lib.language_model.judging import evaluation, web_page
from dpo_lib.language_model.models import devices
from dpo_lib.language_model.training import learner
from dpo_lib.language_model.worlds import write_world
from dpo_lib.variants import LOSSES


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Base:
    """What the stand-in for a stage extends."""

    model: str
    """Where the weights are."""
    steps: int
    lr: float = 1e-6
    """At 100 %."""
    reference: str | None = None
    """The frozen model."""
    resume: bool = False


@dataclass(frozen=True, kw_only=True)
class Stand(Base):
    """A stand-in for a stage's settings."""

    lr: float = 1e-5
    beta: Annotated[float, command_line.section("Own", 1)] = 0.1
    """Strength."""
    target_kl: float | None = None
    loss: Literal["sigmoid", "ipo"] = "sigmoid"

    def __post_init__(self):
        if self.beta <= 0:
            raise ValueError(f"beta must be positive, got {self.beta}")


def stand(kept=None):
    """An app with one command, which keeps what it was given."""
    app = command_line.make_app("dpo")

    @app.command(name="stand")
    def command(given: Stand, *, config: command_line.Config = None) -> None:
        kept.append(given)

    return app


def read(*arguments):
    kept = []
    assert command_line.run(stand(kept), ["stand", *arguments]) == 0
    return kept[0]


def refused(capsys, *arguments):
    """The line that a mistake of the stand-in gives."""
    assert command_line.run(stand(), ["stand", *map(str, arguments)]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("dpo: ") and err.count("\n") == 1
    return err[len("dpo: ") : -1]


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
TRAINING = ["sft", "reward", "dpo", "kto", "online", "ppo", "demo"]
JUDGING = ["sample", "evaluate", "doctor", "plot", "report"]
COMMANDS = ["world", "check", *TRAINING, *JUDGING]
DPO = ["dpo", "--model", "no/such", "--data", "no/such", "--out", "run"]
EVALUATE = ["evaluate", "--model", "no/such", "--reference", "no/such", "--data", "no/such"]


def test_flags_are_the_fields_of_the_settings():
    given = read("--model", "tiny", "--steps", "3", "--target-kl", "6", "--resume")
    assert given == Stand(model="tiny", steps=3, target_kl=6.0, resume=True)
    assert read("--model", "m", "--steps", "3", "--no-resume") == Stand(model="m", steps=3)
    assert read("--model", "m", "--steps", "3", "--lr", "2e-4").lr == 2e-4


def test_of_a_flag_that_is_repeated_the_last_counts():
    assert read("--model", "m", "--steps", "3", "--lr", "1", "--lr", "2").lr == 2


def test_help_has_the_text_below_each_field_its_default_choices_and_group(capsys):
    assert command_line.run(stand(), ["stand", "--help"]) == 0
    text = capsys.readouterr().out
    own = text.index("Own")
    assert text.index("--lr") < own < text.index("--beta") < text.index("Running")
    text = " ".join(text.replace("│", " ").split())
    text = re.sub(" (STR|FLOAT) ", " ", text)  # cyclopts 5 shows the kind, 4 does not
    assert "--model Where the weights are. [required]" in text
    assert "--beta Strength. [default: 0.1]" in text
    assert "[default: 1e-05]" in text and "1e-06" not in text
    assert "--reference The frozen model." in text
    assert "[choices: sigmoid, ipo] [default: sigmoid]" in text


def test_a_toml_file_gives_the_same_settings_and_flags_win(tmp_path):
    file = tmp_path / "s.toml"
    file.write_text('model = "tiny"\nsteps = 3\nlr = 1\nresume = true\nbeta = 0.5\nloss = "ipo"\n')
    assert read("--config", str(file), "--beta", "0.2") == Stand(
        model="tiny", steps=3, lr=1.0, resume=True, beta=0.2, loss="ipo"
    )
    assert read("--config", str(file), "--no-resume").resume is False


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("bete = 0.1", "unknown key bete = 0.1; did you mean beta?"),
        ("config = 'a'", "unknown key config = 'a'"),
        ("beta = '0.1'", "beta must be a number, got '0.1'"),
        ("beta = true", "beta must be a number, got True"),
        ("steps = 1.5", "steps must be a whole number, got 1.5"),
        ("resume = 1", "resume must be true or false, got 1"),
        ("model = ['a']", "model must be text, got ['a']"),
        ("[loss]", "loss must be text, got {}"),
        (
            "beta = 1 2",
            "Expected newline or end of document after a statement (at line 1, column 10)",
        ),
    ],
)
def test_K8_a_wrong_toml_file_is_named_with_key_and_value(capsys, tmp_path, line, message):
    file = tmp_path / "s.toml"
    file.write_text(line)
    line = refused(capsys, "--config", file, "--model", "m", "--steps", "1")
    assert line == f"{file}: {message}"


def test_a_choice_of_a_toml_file_is_checked_as_a_flag_is(capsys, tmp_path):
    (tmp_path / "s.toml").write_text('loss = "ipoo"')
    line = refused(capsys, "--config", tmp_path / "s.toml")
    assert "s.toml" in line and 'Did you mean "ipo"?' in line


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "missing: --model, --steps (see dpo stand --help)"),
        (["--steps", "3"], "missing: --model (see dpo stand --help)"),
        (["--step", "3"], "Unknown option: --step. Did you mean --steps?"),  # and no guess
        (["--model", "m", "--steps", "3", "--step", "3"], "Unknown option: --step."),
        (["--steps", "3.5"], 'Invalid value for --steps: unable to convert "3.5" into int'),
        (["--steps", "none"], 'Invalid value for --steps: unable to convert "none" into int'),
        (["--lr", "fast"], 'Invalid value for --lr: unable to convert "fast" into float'),
        (["--loss", "ipoo"], '"ipoo" for --loss. Choose from: "sigmoid", "ipo". Did you mean'),
        (["--model", "m", "--steps", "3", "--beta", "0"], "beta must be positive, got 0.0"),
        (["--model"], "--model requires an argument"),
        (["--model", "m", "--steps", "3", "more"], "Unused Tokens: ['more']"),
    ],
)
def test_a_wrong_flag_is_named_with_its_value_and_what_may_be_meant(capsys, arguments, message):
    assert message in refused(capsys, *arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["dpoo"], 'Unknown command "dpoo". Did you mean "dpo"? Available commands: world, check'),
        (["world"], "missing: --out (see dpo world --help)"),
        (
            ["world", "--out", "w", "--labels", "best"],
            '"best" for --labels. Choose from',
        ),
        (["world", "--out", "w", "--pairs", "0"], '"0" for --pairs. Must be >= 1'),
        (["check", "--data", "no/such.jsonl"], "no/such.jsonl"),
        (["doctor", "no/such.jsonl"], "No such file or directory: 'no/such.jsonl'"),
        (["doctor", __file__], "test_cli.py:1: not a training log"),
        (["dpo", "--model", "tiny"], "missing: --data, --out (see dpo dpo --help)"),
        (["dpo", "--config", "no/such.toml"], "no/such.toml"),
        ([*DPO, "--loss", "simpoo"], '"simpoo" for --loss. Choose from: "sigmoid", '),
        ([*DPO, "--simpo-gamma", 1], "simpo_gamma has no effect on the loss sigmoid, only on"),
        ([*DPO, "--loss", "dpop", "--dpop-lambda", -1], "dpop_lambda must be at least 0 and fin"),
        ([*DPO, "--loss", "orpo", "--rpo-alpha", 1], "orpo has an SFT term already: leave out"),
        ([*DPO, "--f-divergence-type", "kl"], '"kl" for --f-divergence-type. Choose from'),
        (
            [*DPO, "--loss", "orpo", "--f-divergence-type", "forward_kl"],
            "f_divergence_type has a meaning for sigmoid, ",
        ),
        ([*DPO, "--f-alpha-divergence-coef", 0.5], "f_alpha_divergence_coef has no effect on re"),
        (["sample", "--model", "no/such", "--prompt", "Hi"], "no/such"),
        ([*SAMPLE, "Hi", "--n", 0], '"0" for --n. Must be >= 1.'),
        ([*SAMPLE, "Hi", "--n", -1], '"-1" for --n. Must be >= 1.'),
        ([*SAMPLE, "Hi", "--seed", 2**64], f'"{2**64}" for --seed. Must be <= {2**64 - 1}.'),
        ([*SAMPLE, "Hi", "--temperature", -1], '"-1.0" for --temperature. Must be >= 0.'),
        ([*SAMPLE, "a\udcffb"], "--prompt must be valid UTF-8, got 'a\\udcffb'"),
        ([*EVALUATE, "--prompts", 0], '"0" for --prompts. Must be >= 2.'),
        ([*EVALUATE, "--prompts", -3], '"-3" for --prompts. Must be >= 2.'),
        ([*EVALUATE, "--prompts", "all"], 'unable to convert "all" into int'),
        ([*EVALUATE, "--samples", 0], '"0" for --samples. Must be >= 1.'),
        ([*EVALUATE, "--temperature", 1, "nan"], '"[1.0, nan]" for --temperature. Must be'),
        (["check", "--data", "no/such", "--max-length", 1], '"1" for --max-length. Must be >= 2.'),
        (["world", "--out", "w", "--noise", 0.7], '"0.7" for --noise. Must be <= 0.5.'),
        (["world", "--out", "w", "--words", 2, 30], "for --words. Must be >= 3."),
        (["world", "--out", "w", "--words", 30, 20], "words must be a median of at least 3"),
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


@pytest.fixture
def fails(monkeypatch):
    """Makes every command that loads or trains a model end in an error."""

    def make(error):
        def fail(*_):
            raise error

        # Where they are looked up: what is imported while a name is patched would keep the patch.
        for module in (evaluation, models):
            monkeypatch.setattr(module, "load_trained", fail, raising=False)
        monkeypatch.setattr(cli, "_train", fail)

    return make


SFT = ["sft", "--model", "m", "--data", "d", "--out", "o"]


def test_an_error_of_many_lines_becomes_one(capsys, fails):
    fails(ValueError("two\n  lines"))
    assert mistake(capsys, *SFT) == "two lines"


def test_too_little_memory_is_a_line_and_a_bug_is_not(capsys, fails):
    fails(RuntimeError("CUDA out of memory. Tried to allocate"))
    assert "--accumulate" in mistake(capsys, *SFT)
    fails(RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8"))
    assert mistake(capsys, *EVALUATE) == "out of memory: try a smaller --batch-size"
    assert mistake(capsys, *SAMPLE, "Hi") == "out of memory: try a smaller --n"
    fails(RuntimeError("shapes"))
    with pytest.raises(RuntimeError, match="shapes"):
        cli.main(SFT)


def test_an_interrupt_ends_in_a_line_and_130(capsys, fails):
    fails(KeyboardInterrupt())
    assert run(capsys, *SFT) == (130, "", "dpo: interrupted\n")


def test_all_missing_packages_are_named_at_once_and_none_that_anyone_could_register():
    missing = 'import sys; sys.modules |= dict.fromkeys(["datasets", "transformers"]); '
    command = [sys.executable, "-c", f"{missing}from dpo_lib.__main__ import main; main()"]
    done = subprocess.run([*command, *SAMPLE, "Hi"], capture_output=True, text=True)
    line = "not installed: datasets, transformers; pip install datasets transformers"
    assert (done.stdout, done.stderr) == ("", f"dpo: {line}\n")


def test_what_is_needed_is_the_extra():
    text = (Path(cli.__file__).parents[1] / "pyproject.toml").read_text()
    extra = text.split("language-model = [")[1].split("]")[0]
    assert sorted(re.findall('"([a-z]+)[^"]*"', extra)) == cli.NEEDED


IMPORTED = """
import sys
from dpo_lib.__main__ import main
code = main(sys.argv[1:])
print(code, {"torch", "transformers", "datasets", "matplotlib", "numpy"} & set(sys.modules))
"""


@pytest.mark.parametrize(
    ("line", "code"),
    [
        ("--help", 0),
        ("", 0),
        ("--version", 0),
        ("dpo --help", 0),
        ("evaluate --help", 0),
        ("dpoo", 2),
        ("dpo --loss ipoo", 2),
        ("dpo --model m --data d --out o --loss unlikelihood", 2),
        ("dpo --model m --data d --out o --beta 0", 2),
        ("ppo --model m --data d --out o --reward true --lam 2", 2),
        ("sft --config no/such.toml", 2),
        ("world --out w --pairs 0", 2),
    ],
)
def test_help_and_refusals_import_neither_torch_nor_transformers(line, code):
    command = [sys.executable, "-c", IMPORTED, *line.split()]
    out = subprocess.run(command, capture_output=True, text=True).stdout
    assert out.endswith(f"{code} set()\n")


def test_help_lists_the_commands_and_says_how_they_are_completed(capsys):
    code, out, _ = run(capsys, "--help")
    assert code == 0 and all(f" {name} " in out for name in COMMANDS)
    assert out.rstrip().endswith("dpo --install-completion")


@pytest.mark.parametrize("name", ["", *COMMANDS])
def test_help_fits_80_columns_and_without_a_terminal_has_no_colour(name):
    command = [sys.executable, "-m", "dpo_lib", *name.split(), "--help"]
    width = {"COLUMNS": "80", "NO_COLOR": "1"}
    out = subprocess.check_output(command, text=True, env=os.environ | width)
    assert max(map(len, out.splitlines())) <= 80
    assert "\x1b" not in out


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_knows_the_commands_flags_and_choices(capsys, tmp_path, shell, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))  # where a start-up file would be changed
    file = tmp_path / "script"
    code, _, err = run(capsys, "--install-completion", "--shell", shell, "--output", file)
    assert (code, err) == (0, "")
    script = file.read_text()
    assert all(name in script for name in [*COMMANDS, "exo_pair", "bfloat16", "deterministic"])
    flag = "-l label-smoothing" if shell == "fish" else "--label-smoothing"
    assert flag in script


def test_names_that_a_command_line_knows_are_those_that_are_implemented():
    assert list(get_args(LossName)) == list(LOSSES)
    own = {name: set(loss.settings) - {"beta"} for name, loss in LOSSES.items()}
    assert {name: {setting} for name, setting in OWN.items()} == {n: s for n, s in own.items() if s}
    assert {f.name for f in fields(settings.DPOSettings)} >= TOLD.keys()
    assert set(OF_A_DIFFERENCE) <= LOSSES.keys()
    assert set(get_args(settings.Optimizer)) == learner.OPTIMIZERS.keys()
    assert set(get_args(settings.Dtype)) == {"auto", *devices.DTYPES}


def test_the_defaults_of_dpo_world_are_those_of_its_function():
    ours, theirs = (signature(f).parameters for f in (cli.world, write_world))
    assert all(theirs[name].default == flag.default for name, flag in ours.items())


@pytest.mark.parametrize("name", cli.STAGES)
def test_every_stage_offers_the_fixed_flags(capsys, name):
    assert cli.main([name, "--help"]) == 0
    text = capsys.readouterr().out
    fixed = "model data out reference steps batch-size accumulate max-length seed save-every resume"
    assert all(f"--{flag}" in text for flag in [*fixed.split(), "config"])
    assert ("--beta" in text) == (name in ("dpo", "kto", "online", "ppo"))


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
    kind, rows, *ignored, _, _, _, prompt, chosen, rejected = out.splitlines()
    assert (kind, rows) == (f"{folder}/world: preferences", "20 rows, 20 used")
    assert [line.split(":")[0] for line in (prompt, chosen, rejected)] == [
        f"tokens of {part}" for part in ("prompt", "chosen", "rejected")
    ]
    assert [line.split(" (")[0] for line in ignored] == [
        f"ignored 20: the field score_{side}" for side in ("chosen", "rejected")
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
    cases = {
        "tokenizer.json": (
            other,
            rf"'{re.escape(min(first, second))}' is token \d+, there token \d+",
        ),
        "tokenizer_config.json": (end, "its end is '.+', there '.+'"),
    }
    for name, (content, difference) in cases.items():
        policy = shutil.copytree(reference, tmp_path / name)
        (policy / name).write_text(json.dumps(content))
        command = ["evaluate", "--model", policy, "--reference", reference, "--data", folder]
        said = mistake(capsys, *command)
        assert re.search(f"^model .*{name}: its tokenizer is not that of .*: {difference};", said)
        assert said.endswith(f"; choose a model trained with the tokenizer of {reference}")


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
    short = "too short to judge: most rules wait for 8 to 20 rows\n1 rows, steps 1 to 1\n"
    assert (code, out) == (0, short)
    sick = tmp_path / "metrics.jsonl"
    sick.write_text('{"step": 1, "loss": NaN}\n')
    code, out, _ = run(capsys, "doctor", sick)
    assert code == 1 and "not finite" in out


def test_a_run_ends_with_its_report_and_several_runs_have_one_too(capsys, folder, tmp_path):
    assert "<h1>Run sft</h1>" in (folder / "sft/report.html").read_text()
    out = tmp_path / "all.html"
    assert run(capsys, "report", folder / "sft", "--out", out) == (0, f"{out}\n", "")
    said = mistake(capsys, "report", folder / "sft", "--out", tmp_path / "all.pdf")
    assert said == f"out must end in .html, got {tmp_path / 'all.pdf'}"
    assert mistake(capsys, "report", folder / "world").startswith("[Errno 2] No such file")


def test_a_run_whose_report_cannot_be_written_is_whole(capsys, folder, tmp_path, monkeypatch):
    monkeypatch.setattr(web_page, "render", lambda *_: (_ for _ in ()).throw(OSError("no room")))
    command = ["sft", "--model", "tiny", "--data", folder / "world", "--out", tmp_path / "sft"]
    code, out, err = run(capsys, *command, "--steps", 1, "--batch-size", 4)
    assert (code, out) == (0, f"{tmp_path / 'sft'}\n") and (tmp_path / "sft/model").is_dir()
    assert err.splitlines()[-1] == "dpo: the run is whole, but has no report: no room"
    assert not (tmp_path / "sft/report.html").exists()


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
