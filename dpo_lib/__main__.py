"""The command line: `dpo COMMAND`, or `python -m dpo_lib COMMAND`.

Arguments are read before torch is imported, and commands import what they need when they run: so
help and a refusal take no time and need no extra. Everything that a user can get wrong ends in
one line on stderr and exit code 2.

One file: a command here is its flags, their help and a call, and is read beside the others.
"""

import sys
from collections.abc import Sequence
from importlib import util
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Group, Parameter
from cyclopts.validators import Number

from dpo_lib._command_line import LISTED, Config, make_app, mistake, run
from dpo_lib.language_model.settings import (
    AT_LEAST_1,
    TEMPERATURE,
    DPOSettings,
    EvaluationSettings,
    KTOSettings,
    OnlineDPOSettings,
    PairsFrom,
    PPOSettings,
    RewardSettings,
    SFTSettings,
)

NEEDED = ["accelerate", "datasets", "rich", "safetensors", "tokenizers", "transformers"]
NO_MEMORY = ("out of memory", "can't allocate memory")  # on a GPU, on a CPU
STAGES = ("sft", "reward", "dpo", "kto", "online", "ppo")
SMALLER = {
    **dict.fromkeys(STAGES, ": try a larger --accumulate or a smaller --batch-size"),
    "sample": ": try a smaller --n",
    "evaluate": ": try a smaller --batch-size",
}
COMPLETION = "Shell completion (bash, zsh, fish): dpo --install-completion"


def missing() -> list[str]:
    """Packages of the extra that are not installed."""
    return [name for name in NEEDED if util.find_spec(name) is None]


def not_installed() -> str:
    """Which they are and how to install them; "" if none is missing."""
    names = missing()
    return f"not installed: {', '.join(names)}; pip install {' '.join(names)}" if names else ""


app = make_app(
    "dpo",
    help="Train language models on preferences, and judge them.",
    help_epilogue="\n\n".join(filter(None, [not_installed().capitalize(), COMPLETION])),
    group_commands=Group("Options", sort_key=3),
)
app.register_install_completion_command()
DATA, TRAIN, JUDGE = (
    Group(title, sort_key=place) for place, title in enumerate(("Data", "Training", "Judging"))
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code: 0, 1 for a finding, 2 for a mistake, 130."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    try:
        return run(app, arguments)
    except ModuleNotFoundError as error:
        if str(error.name).split(".")[0] not in missing():
            raise
        return mistake(app, not_installed())
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and not any(text in str(error) for text in NO_MEMORY):
            raise
        return mistake(app, f"out of memory{SMALLER.get(arguments[0], '')}")


@app.command(group=DATA, sort_key=0)
def world(
    *,
    out: str,
    pairs: Annotated[int, AT_LEAST_1] = 2000,
    labels: Literal["bradley-terry", "deterministic"] = "bradley-terry",
    noise: Annotated[float, Parameter(validator=Number(gte=0, lte=0.5))] = 0.0,
    words: Annotated[tuple[int, int], LISTED, Parameter(validator=Number(gte=3))] = (26, 130),
    seed: int = 0,
) -> None:
    """Write the built-in world of film reviews: data with a known reward, and a tokenizer.

    Args:
        out: Folder to make.
        pairs: Preference pairs for training.
        labels: By chance, equation (1), or always for the larger true reward.
        noise: Probability of a turned label, at most 1/2.
        words: Median and most that a completion aims at.
        seed: Of all draws.
    """
    from dpo_lib.language_model.worlds import write_world

    made = write_world(out, pairs, labels, noise, seed, words=words)
    for file in made["files"]:
        print(Path(out) / file)


@app.command(group=DATA, sort_key=1)
def check(
    *,
    data: str,
    model: str | None = None,
    max_length: Annotated[int, Parameter(validator=Number(gte=2))] = 512,
    pairs_from: PairsFrom | None = None,
) -> None:
    """Validate a data file and say what would be trained on.

    Args:
        data: File of rows, or a folder of them.
        model: Hub name or folder: count the tokens of its tokenizer too.
        max_length: Tokens of prompt and completion together.
        pairs_from: Make pairs of rows with several scored answers, as dpo does.
    """
    from dpo_lib.language_model.data import overview
    from dpo_lib.language_model.models import load_tokenizer

    tokenizer = load_tokenizer(model, data) if model else None
    print(*overview(data, tokenizer, max_length, pairs_from), sep="\n")


@app.command(group=TRAIN, sort_key=0)
def sft(settings: SFTSettings, *, config: Config = None) -> None:
    """Fine-tune a model on the chosen completions."""
    from dpo_lib.language_model.stages import SFT

    _train(SFT, settings)


@app.command(group=TRAIN, sort_key=1)
def reward(settings: RewardSettings, *, config: Config = None) -> None:
    """Train a reward model on preferences, equation (2)."""
    from dpo_lib.language_model.stages import Reward

    _train(Reward, settings)


@app.command(group=TRAIN, sort_key=2)
def dpo(settings: DPOSettings, *, config: Config = None) -> None:
    """Train a policy on preferences, equation (7)."""
    from dpo_lib.language_model.stages import DPO

    _train(DPO, settings)


@app.command(group=TRAIN, sort_key=2)
def kto(settings: KTOSettings, *, config: Config = None) -> None:
    """Train a policy on single answers, each labelled as desirable or not."""
    from dpo_lib.language_model.stages import KTO

    _train(KTO, settings)


@app.command(group=TRAIN, sort_key=3)
def online(settings: OnlineDPOSettings, *, config: Config = None) -> None:
    """Train a policy on pairs of its own that a judge labels, round by round, equation (7)."""
    from dpo_lib.language_model.stages import OnlineDPO

    _train(OnlineDPO, settings)


@app.command(group=TRAIN, sort_key=4)
def ppo(settings: PPOSettings, *, config: Config = None) -> None:
    """Train a policy against a reward model, objective (3)."""
    from dpo_lib.language_model.stages import PPO

    _train(PPO, settings)


@app.command(group=TRAIN, sort_key=6)
def merge(*, model: str, out: str) -> None:
    """Write an adapter and its base model as one plain folder.

    Args:
        model: Folder or hub name of an adapter of a policy or of a reward model.
        out: Folder to make.
    """
    from dpo_lib.language_model.models import merge

    merge(model, out)
    print(out)


@app.command(group=TRAIN, sort_key=5)
def demo(*, out: str = "demo", seed: Annotated[int, Parameter(validator=Number(gte=0))] = 0) -> int:
    """World, SFT, DPO, evaluation and report in one go, in some minutes and without a download.

    Args:
        out: Folder to make.
        seed: Of all draws.
    """
    from dpo_lib.language_model.demo import demo

    return demo(Path(out), seed, main)


def _train(kind, settings) -> None:
    """Train one stage; say first what became of the data's rows, at last where the run is."""
    from dpo_lib.language_model.judging import leave_page
    from dpo_lib.language_model.training import train

    stage, report = kind.from_settings(settings)
    print(*report.lines(), sep="\n", file=sys.stderr)
    run = train(stage)
    if said := leave_page(run):
        print(f"dpo: {said}", file=sys.stderr)
    print(run)


@app.command(group=JUDGE, sort_key=0)
def sample(
    *,
    model: str,
    prompt: str,
    n: Annotated[int, AT_LEAST_1] = 1,
    temperature: Annotated[float, TEMPERATURE] = 1.0,
    max_new_tokens: Annotated[int, AT_LEAST_1] = 64,
    seed: Annotated[int, Parameter(validator=Number(gte=-(2**63), lte=2**64 - 1))] = 0,
) -> None:
    """Sample completions of a prompt.

    Args:
        model: Hub name or folder of a policy.
        prompt: Text to go on from.
        n: Completions.
        temperature: 0 is greedy.
        max_new_tokens: Tokens of a completion.
        seed: Of the draws.
    """
    if any("\ud800" <= letter <= "\udfff" for letter in prompt):  # a shell's stray bytes
        raise ValueError(f"--prompt must be valid UTF-8, got {prompt!r}")
    import torch

    from dpo_lib.language_model.data import tokenize_prompts
    from dpo_lib.language_model.generation import generate
    from dpo_lib.language_model.models import load_trained

    policy, tokenizer = load_trained(model)
    prompts = tokenize_prompts([prompt] * n, tokenizer, max_length=2**30)
    generator, end = torch.Generator().manual_seed(seed), tokenizer.eos_token_id
    for ids in generate(policy, prompts, max_new_tokens, temperature, generator, end):
        print(repr(tokenizer.decode(ids, skip_special_tokens=True)))


@app.command(group=JUDGE, sort_key=1)
def evaluate(given: EvaluationSettings) -> None:
    """Reward against KL with intervals, win rates, Best-of-N."""
    from dpo_lib.language_model.judging import evaluate_settings, report

    if given.out is not None:
        report.check_out(given.out)  # before hours of sampling, not after
    found = evaluate_settings(given, tell=lambda line: print(line, file=sys.stderr))
    print(*report.lines(found), sep="\n")
    if given.out is not None:
        print(*report.write(found, given.out))


@app.command(group=JUDGE, sort_key=3)
def plot(runs: list[str], /, *, out: str = "runs.svg") -> None:
    """Draw the training curves of runs, and the held-out ones where they were measured.

    Args:
        runs: Folders of runs, or logs that `dpo doctor` reads.
        out: SVG file to write.
    """
    from dpo_lib.language_model.judging import plot

    print(plot(runs, out))


@app.command(group=JUDGE, sort_key=4)
def report(runs: list[str], /, *, evaluation: str | None = None, out: str = "report.html") -> None:
    """Write what came of runs into one HTML file, which opens from disk.

    Args:
        runs: Folders of runs, or logs that `dpo doctor` reads, in the order to be shown.
        evaluation: JSON file that `dpo evaluate --out` wrote, for reward against KL.
        out: HTML file to write.
    """
    from dpo_lib.language_model.judging import write_page

    print(write_page(runs, out, evaluation))


@app.command(group=JUDGE, sort_key=2)
def doctor(file: str, /) -> int:
    """Read a training log and name the likely bugs; exit code 1 if there are any.

    Args:
        file: metrics.jsonl, TRL's trainer_state.json, or a run's folder.
    """
    from dpo_lib.language_model.judging import read_log
    from dpo_lib.language_model.judging.doctor import diagnose, lines

    log = read_log(file)
    print(*lines(log), sep="\n")
    return int(any(not finding.note for finding in diagnose(log)))


if __name__ == "__main__":
    sys.exit(main())
