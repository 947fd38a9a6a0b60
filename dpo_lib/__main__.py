"""The command line: `dpo COMMAND`, or `python -m dpo_lib COMMAND`.

Commands import what they need when they run, so that `--help` is quick and works without the
extra. Everything that a user can get wrong ends in one line on stderr and exit code 2.
"""

import argparse
import importlib
import importlib.util
import sys
import types
from collections.abc import Callable
from pathlib import Path

from dpo_lib._flags import Parser, read_settings, settings_parser

INSTALL = 'pip install "dpo-lib[language-model]"'
NEEDED = {"accelerate", "datasets", "rich", "safetensors", "tokenizers", "tomli", "transformers"}
STAGES = {
    "sft": "fine-tune a model on the chosen completions",
    "reward": "train a reward model on preferences, equation (2)",
    "ppo": "train a policy against a reward model, objective (3)",
    "dpo": "train a policy on preferences, equation (7)",
}
MODULES = {"reward": "reward_model"}  # where the module is not called like the command
NO_MEMORY = ("out of memory", "can't allocate memory")  # on a GPU, on a CPU
SMALLER = {
    **dict.fromkeys(STAGES, ": try a larger --accumulate or a smaller --batch-size"),
    "sample": ": try a smaller --n",
    "evaluate": ": try a smaller --batch-size",
}


def main(arguments: list[str] | None = None) -> int:
    """Run one command and return its exit code: 0, 1 for a finding, 2 for a mistake, 130."""
    name, *rest = (sys.argv[1:] if arguments is None else arguments) or ["--help"]
    try:
        if name in ("-h", "--help"):
            print(_overview())
            return 0
        if name not in COMMANDS:
            known = ", ".join(COMMANDS)
            raise ValueError(f"unknown command {name!r}, expected one of {known}")
        return COMMANDS[name][1](name, rest) or 0
    except KeyboardInterrupt:
        print("dpo: interrupted", file=sys.stderr)
        return 130
    except ModuleNotFoundError as error:
        if str(error.name).split(".")[0] not in NEEDED:
            raise
        return _mistake(f"{error.name} is not installed: {INSTALL}")
    except (ValueError, OSError) as error:
        return _mistake(error)
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and not any(text in str(error) for text in NO_MEMORY):
            raise
        return _mistake(f"out of memory{SMALLER.get(name, '')}")


def _mistake(error: object) -> int:
    print("dpo:", " ".join(str(error).split()), file=sys.stderr)
    return 2


def _overview() -> str:
    width = max(map(len, COMMANDS))
    listed = [f"  {name.ljust(width)}  {text}" for name, (text, _) in COMMANDS.items()]
    missing = importlib.util.find_spec("transformers") is None
    end = [f"The language model needs an extra that is not installed: {INSTALL}"] if missing else []
    head = [
        "usage: dpo COMMAND [options]",
        "",
        *listed,
        "",
        "dpo COMMAND --help lists its options.",
    ]
    return "\n".join([*head, *end])


def _whole(least: int, most: int | None = None) -> Callable[[str], int]:
    """A flag's type: a whole number from `least` to `most`."""
    rule = f"of at least {least}" if most is None else f"from {least} to {most}"

    def parse(text: str) -> int:
        try:
            number = int(text)
        except ValueError:
            number = least - 1
        if number < least or (most is not None and number > most):
            raise argparse.ArgumentTypeError(f"must be a whole number {rule}, got {text!r}")
        return number

    return parse


# A command takes its name and the rest of the command line; it returns an exit code, None for 0.


def run_stage(name: str, arguments: list[str]) -> None:
    """Train one stage; say first what became of the data's rows, at last where the run is."""
    module = importlib.import_module(f"dpo_lib.language_model.{MODULES.get(name, name)}")
    kind, stage_class = stage_of(module)
    parser = settings_parser(kind, f"dpo {name}", f"{STAGES[name]}.")
    settings = read_settings(kind, parser, arguments)
    from dpo_lib.language_model.trainer import train

    stage, report = stage_class.from_settings(settings)
    print(*report.lines(), sep="\n", file=sys.stderr)
    print(train(stage))


def stage_of(module: types.ModuleType) -> tuple[type, type]:
    """The one settings class and the one stage class that a stage's module defines."""
    own = [value for value in vars(module).values() if isinstance(value, type)]
    own = [kind for kind in own if kind.__module__ == module.__name__]
    (settings,) = (kind for kind in own if kind.__name__.endswith("Settings"))
    (stage,) = (kind for kind in own if hasattr(kind, "from_settings"))
    return settings, stage


def world(name: str, arguments: list[str]) -> None:
    parser = Parser(
        prog="dpo world",
        description="Write the built-in world of film reviews.",
        argument_default=argparse.SUPPRESS,  # what is not given is write_world's own default
    )
    parser.add_argument("--out", required=True, metavar="DIR", help="folder to make")
    parser.add_argument("--pairs", type=int, metavar="N", help="preference pairs for training")
    parser.add_argument("--labels", choices=["bradley-terry", "deterministic"])
    parser.add_argument("--noise", type=float, metavar="P", help="probability of a turned label")
    parser.add_argument(
        "--words",
        type=int,
        nargs=2,
        metavar=("MEDIAN", "MOST"),
        help="aimed at in a completion (26 130)",
    )
    parser.add_argument("--seed", type=int, metavar="S")
    given = parser.parse_args(arguments)
    from dpo_lib.language_model.reviews import write_world

    for file in write_world(**vars(given))["files"]:
        print(Path(given.out) / file)


def check(name: str, arguments: list[str]) -> None:
    parser = Parser(prog="dpo check", description="Validate a data file and say what it holds.")
    parser.add_argument("--data", required=True, metavar="FILE", help="rows, or a folder of them")
    parser.add_argument("--model", metavar="NAME_OR_DIR", help="count this model's tokens too")
    parser.add_argument("--max-length", type=int, default=512, metavar="N", help="(default: 512)")
    given = parser.parse_args(arguments)
    from dpo_lib.language_model import data
    from dpo_lib.language_model.models import load_tokenizer

    tokenizer = load_tokenizer(given.model, given.data) if given.model else None
    kind, tokens = _kind_of_rows(given.data), []
    rows, report = getattr(data, f"read_{kind}")(given.data, tokenizer)
    if tokenizer is not None:
        tokenize = getattr(data, f"tokenize_{kind}")
        tokens = tokenize(rows, tokenizer, given.max_length, report)
    print("\n".join([f"{given.data}: {kind}", *report.lines(), *_token_lines(tokens)]))


def _kind_of_rows(path: str) -> str:
    """What a file holds by the fields of its first row; of a folder the richest that is there."""
    from dpo_lib.language_model.rows import read_rows

    files = {"preferences": "preferences", "sft": "examples", "prompts": "prompts"}
    if Path(path).is_dir():
        present = (kind for name, kind in files.items() if any(Path(path).glob(f"{name}.jsonl*")))
        return next(present, "preferences")
    _, row = next(read_rows(path, ""), ("", {}))
    if {"completion", "messages", "text"} & row.keys() and "chosen" not in row:
        return "examples"
    return (
        "prompts" if "prompt" in row and not {"chosen", "rejected"} & row.keys() else "preferences"
    )


def _token_lines(items: list) -> list[str]:
    """Smallest, median and largest number of tokens of each part, and what they sum to."""
    parts: dict[str, list[int]] = {}
    for item in items:
        named = {"prompt": item} if isinstance(item, tuple) else vars(item)
        for part, ids in named.items():
            parts.setdefault(part, []).append(len(ids))
    shown = []
    for part, lengths in parts.items():
        low, middle, high = (sorted(lengths)[k] for k in (0, len(lengths) // 2, -1))
        shown.append(f"tokens of {part}: {low} to {high}, median {middle}, {sum(lengths)} in all")
    return shown


def sample(name: str, arguments: list[str]) -> None:
    parser = Parser(prog="dpo sample", description="Sample completions of a prompt.")
    parser.add_argument("--model", required=True, metavar="DIR")
    parser.add_argument("--prompt", required=True, metavar="TEXT")
    parser.add_argument("--n", type=_whole(1), default=1, metavar="N", help="completions (1)")
    parser.add_argument("--temperature", type=float, default=1.0, metavar="T", help="0 is greedy")
    parser.add_argument("--max-new-tokens", type=int, default=64, metavar="N")
    seeds = _whole(-(2**63), 2**64 - 1)  # what a torch.Generator takes
    parser.add_argument("--seed", type=seeds, default=0, metavar="S")
    given = parser.parse_args(arguments)
    if any("\ud800" <= letter <= "\udfff" for letter in given.prompt):  # a shell's stray bytes
        raise ValueError(f"--prompt must be valid UTF-8, got {given.prompt!r}")
    import torch

    from dpo_lib.language_model.data import tokenize_prompts
    from dpo_lib.language_model.sampling import generate

    model, tokenizer = _load(given.model)
    prompts = tokenize_prompts([given.prompt] * given.n, tokenizer, max_length=2**30)
    generator = torch.Generator().manual_seed(given.seed)
    for ids in generate(
        model,
        prompts,
        given.max_new_tokens,
        given.temperature,
        generator,
        tokenizer.eos_token_id,
    ):
        print(repr(tokenizer.decode(ids, skip_special_tokens=True)))


def evaluate(name: str, arguments: list[str]) -> None:
    parser = Parser(prog="dpo evaluate", description="Reward against KL, with intervals.")
    parser.add_argument("--model", required=True, nargs="+", metavar="DIR", help="one or more")
    parser.add_argument("--reference", required=True, metavar="DIR")
    parser.add_argument(
        "--data", required=True, metavar="DIR", help="held-out prompts: a file, or a folder"
    )
    parser.add_argument("--out", metavar="FILE", help="JSON; the plot is written beside it")
    parser.add_argument(
        "--reward", default="true", metavar="DIR", help="a reward model, or true (default)"
    )
    parser.add_argument(
        "--prompts", type=_whole(2), metavar="N", help="use the first N (default: all)"
    )
    parser.add_argument("--samples", type=int, default=4, metavar="N", help="for each prompt (4)")
    parser.add_argument("--best-of", type=int, default=1, metavar="N", help="of the reference")
    parser.add_argument("--temperature", type=float, nargs="+", default=[1.0], metavar="T")
    parser.add_argument("--max-new-tokens", type=int, default=64, metavar="N", help="(64)")
    parser.add_argument("--max-length", type=int, default=512, metavar="N", help="of a prompt")
    parser.add_argument("--batch-size", type=int, default=64, metavar="N", help="(64)")
    parser.add_argument("--seed", type=int, default=0, metavar="S")
    given = parser.parse_args(arguments)
    from dpo_lib.language_model import evaluate
    from dpo_lib.language_model.data import read_prompts, tokenize_prompts
    from dpo_lib.language_model.ppo import load_judge, world_score

    if given.out is not None:
        evaluate.check_out(given.out)  # before hours of sampling, not after
    reference, tokenizer = _load(given.reference)
    policies = {folder: _load(folder, tokenizer)[0] for folder in given.model}
    if given.reward == "true":
        score = world_score(tokenizer)
    else:
        score = load_judge(given.reward, tokenizer).to(reference.device).score
    texts, rows = read_prompts(_held_out(given.data), tokenizer)
    wanted = len(texts) if given.prompts is None else given.prompts
    for number in range(wanted, len(texts)):
        rows.drop(f"beyond --prompts {wanted}", f"prompt {number + 1}")
    prompts = tokenize_prompts(texts[:wanted], tokenizer, given.max_length, rows)
    print(*rows.lines(), sep="\n", file=sys.stderr)
    report = evaluate.evaluate(
        policies,
        reference,
        prompts,
        score,
        tokenizer.eos_token_id,
        temperatures=given.temperature,
        best_of_n=given.best_of,
        seed=given.seed,
        samples=given.samples,
        max_new_tokens=given.max_new_tokens,
        batch_size=given.batch_size,
    )
    report = {"settings": vars(given)} | report
    print("\n".join(evaluate.lines(report)))
    if given.out is not None:
        print(*evaluate.write(report, given.out))


def _held_out(data: str) -> Path | str:
    """A folder's test_prompts.jsonl[.gz], if it has one, rather than its prompts.jsonl."""
    return next(iter(sorted(Path(data).glob("test_prompts.jsonl*"))), data)


def _load(folder: str, reads=None):
    """A trained policy on its device, and its tokenizer; `reads` is the one that it must have."""
    from dpo_lib.language_model.models import load_policy, load_tokenizer, pick_device

    tokenizer = load_tokenizer(folder)
    if reads is not None and (
        tokenizer.get_vocab() != reads.get_vocab() or tokenizer.eos_token_id != reads.eos_token_id
    ):
        raise ValueError(f"model {folder}: its tokenizer is not the reference's")
    return load_policy(folder, tokenizer).to(pick_device()).eval(), tokenizer


def doctor(name: str, arguments: list[str]) -> int:
    parser = Parser(prog="dpo doctor", description="Read a training log and name likely bugs.")
    parser.add_argument("file", metavar="FILE", help="metrics.jsonl, trainer_state.json, or a run")
    given = parser.parse_args(arguments)
    from dpo_lib.language_model.doctor import diagnose
    from dpo_lib.language_model.training_log import read_log

    log = read_log(given.file)
    findings = diagnose(log)
    suspects = [finding for finding in findings if not finding.note]
    notes = [finding for finding in findings if finding.note]
    first, last = (log.rows[k]["step"] for k in (0, -1))
    print(*suspects or ["nothing found"], *notes, sep="\n")
    print(f"{len(log.rows)} rows, steps {first} to {last}")
    return int(bool(suspects))


COMMANDS: dict[str, tuple[str, Callable[[str, list[str]], int | None]]] = {
    "world": ("write the built-in world: data with a known reward, and a tokenizer", world),
    "check": ("validate a data file and say what would be trained on", check),
    **{name: (text, run_stage) for name, text in STAGES.items()},
    "sample": ("sample completions of a prompt", sample),
    "evaluate": ("reward against KL, win rates, Best-of-N", evaluate),
    "doctor": ("read a training log and name the likely bugs", doctor),
}

if __name__ == "__main__":
    sys.exit(main())
