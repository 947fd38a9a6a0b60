"""A small table of real human choices, beside the simulated ones."""

from typing import NamedTuple

import torch
from torch import Tensor

from dpo_lib.results.stored import STORED, read


class Choices(NamedTuple):
    """Votes of people between the answers of chatbots.

    `wins[0, i, j]` counts the votes that preferred model i to model j, `ties[0, i, j]` those that
    found them equal; both float64, shape (1, models, models).
    """

    models: list[str]
    wins: Tensor
    ties: Tensor


def human_choices() -> Choices:
    """The human judgements of MT-Bench (Zheng et al. 2023), added up for each pair of models.

    3,354 votes on the answers of six models to 80 questions, CC BY 4.0; the file names its source.

    Raises:
        ResultError: if it is damaged, in one line.
    """
    found = read(STORED / "mt_bench.json")
    wins, ties = (torch.tensor([found[name]], dtype=torch.float64) for name in ("wins", "ties"))
    return Choices(found["models"], wins, ties)
