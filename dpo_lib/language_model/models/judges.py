"""What scores a completion: a reward model, the true reward of the built-in world, a program.

A program of the user's reads JSON Lines, {"prompt": ..., "completion": ...}, of text without the
EOS, and prints one number a line, in their order; larger is better. It is started once for each
batch of completions and read to its end: a program that is kept alive would have to flush every
line, or both sides wait for ever. One that is slow to load belongs behind a server of its own.
"""

import json
import math
import shlex
import subprocess
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from dpo_lib.language_model.data.tokens import Sequences
from dpo_lib.language_model.models.hashes import state_hash
from dpo_lib.language_model.models.hub import ModelError
from dpo_lib.language_model.models.policies import check_same_tokens, load_tokenizer
from dpo_lib.language_model.models.reward_model import RewardModel
from dpo_lib.language_model.worlds import reviews

Score = Callable[[Sequences], Tensor]  # rewards of whole completions, shape (rows,)
TRUE, COMMAND = "true", "command:"  # judges that are no folder


@dataclass(frozen=True)
class Judge:
    """What a user names to score completions."""

    score: Score
    name: str  # among the hashes that are fixed for a run: of a reward model, its weights'
    model: RewardModel | None = None  # if it is one


def load_judge(folder: str, tokenizer: PreTrainedTokenizerBase) -> RewardModel:
    """A frozen reward model that reads the policy's tokens."""
    check_same_tokens(f"reward {folder}", load_tokenizer(folder), tokenizer)
    return RewardModel.load(folder).requires_grad_(False).eval()


def named_judge(
    reward: str, tokenizer: PreTrainedTokenizerBase, device: torch.device | str
) -> Judge:
    """The judge of a name: "true", "command:PROGRAM ARGS", or the folder of a reward model."""
    if reward == TRUE:
        return Judge(world_score(tokenizer), reward)
    if reward.startswith(COMMAND):
        return Judge(command_score(reward.removeprefix(COMMAND), tokenizer), reward)
    model = load_judge(reward, tokenizer).to(device)
    return Judge(model.score, state_hash(model), model)


def world_score(tokenizer: PreTrainedTokenizerBase) -> Score:
    """The true reward of the built-in world, of the text without its EOS."""

    def score(sequences: Sequences) -> Tensor:
        return torch.tensor([reviews.reward(*texts) for texts in as_texts(sequences, tokenizer)])

    return score


def command_score(command: str, tokenizer: PreTrainedTokenizerBase) -> Score:
    """The numbers that a program prints of texts, float64 on the CPU; see the head of this file.

    Args:
        command: program and arguments, quoted as for a shell, which there is none.

    Raises:
        ModelError: in one line, from here if nothing is named; from the score if the program
            cannot be started, fails, or prints anything but one finite number for each text.
    """
    try:
        words = shlex.split(command)
    except ValueError as error:
        raise ModelError(f"reward {COMMAND}{command}: {error}; close it") from None
    if not words:
        raise ModelError(f"reward {COMMAND}: name a program behind the colon")

    def score(sequences: Sequences) -> Tensor:
        texts = as_texts(sequences, tokenizer)
        return torch.tensor(_run(words, texts), dtype=torch.float64)

    return score


def as_texts(sequences: Sequences, tokenizer: PreTrainedTokenizerBase) -> list[tuple[str, str]]:
    """Prompt and completion of each sequence as text, without the EOS at an end."""

    def text(ids: tuple[int, ...]) -> str:
        return tokenizer.decode(ids[:-1] if ids[-1:] == (tokenizer.eos_token_id,) else ids)

    return [(text(prompt), text(completion)) for prompt, completion in sequences]


def _run(words: list[str], texts: list[tuple[str, str]]) -> list[float]:
    """Start the program, give it the texts, read its numbers."""
    judge = f"reward {COMMAND}{shlex.join(words)}"
    rows = [json.dumps({"prompt": prompt, "completion": answer}) for prompt, answer in texts]
    try:
        done = subprocess.run(
            words,
            input="".join(f"{row}\n" for row in rows).encode(),
            capture_output=True,
            start_new_session=True,  # Ctrl-C waits for the step, and so for the program
        )
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ModelError(f"{judge}: cannot be started: {reason}") from None
    if done.returncode:
        said = done.stderr.decode(errors="replace").split("\n")
        last = next((line.strip() for line in reversed(said) if line.strip()), "nothing on stderr")
        raise ModelError(
            f"{judge}: failed with exit code {done.returncode}: {last[:200]}; mend the program (a "
            "run then goes on with --resume)"
        )
    return _numbers(judge, done.stdout.decode(errors="replace").splitlines(), len(rows))


def _numbers(judge: str, lines: list[str], wanted: int) -> list[float]:
    found = []
    for place, line in enumerate(lines, start=1):
        try:
            found.append(float(line))
        except ValueError:
            found.append(math.nan)
        if not math.isfinite(found[-1]):
            raise ModelError(
                f"{judge}: line {place} of its output is {line[:80]!r}; print one finite number a "
                "line on stdout, and all else on stderr"
            )
    if len(found) != wanted:
        raise ModelError(
            f"{judge}: printed {len(found)} numbers for {wanted} completions; print one for each"
        )
    return found
