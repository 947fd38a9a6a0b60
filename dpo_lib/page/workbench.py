"""A world of the reader's own: one prompt with two to six answers, and every number of it.

While the book is built, `workbench` emits a table and a sentence that assets/workbench.js turns
into an instrument; where there is no JavaScript, and in a notebook, they stand for themselves.
"""

import html
import math
import os
from collections.abc import Sequence

import torch
from torch import Tensor

from dpo_lib._checks import check_beta, check_finite
from dpo_lib.fitting import fit_reward
from dpo_lib.losses import table_loss
from dpo_lib.objective import (
    expected_reward,
    implicit_reward,
    kl_divergence,
    log_partition,
    objective,
    optimal_log_policy,
    project,
)
from dpo_lib.page._markup import listed, markup, short, shown, shown_exp
from dpo_lib.page.plotting import figure, policy_bars, show
from dpo_lib.preferences import check_win_table, is_connected, preference_table

VIEWS = ("optimum", "preferences", "loss", "fibre")
TITLE = "The workbench: a world of your own"
_TAKES = "rewards ref beta names wins view"  # what a link on the page may set
_NOTEBOOK = (
    "Change the numbers in the cell and run it again. In the built book this is an instrument "
    "that moves while you drag."
)


def workbench(
    reward: Sequence[float],
    ref: Sequence[float],
    beta: float = 1.0,
    names: Sequence[str] | None = None,
    wins: Sequence[Sequence[float]] | None = None,
    view: str = "optimum",
) -> "Workbench":
    """One prompt with 2 to 6 answers: the optimum, implicit rewards, preferences, DPO's loss.

    Args:
        reward: r(y), a finite number for each answer, reward units.
        ref: weights of the reference, at least 0 and not all 0; they are made to sum to 1.
        beta: > 0, reward units per nat.
        names: of the answers; "answer 1" and so on if None.
        wins: how often the row's answer was preferred to the column's. If None, the view `loss`
            takes ten labels of each pair, shared as equation (1) says.
        view: "optimum", "preferences", "loss", or "fibre", which is drawn for three answers.

    Returns:
        what a notebook shows if it is a cell's last expression.

    Raises:
        ValueError: for numbers that are no such world, in one line.
    """
    return Workbench(reward, ref, beta, names, wins, view)


class Workbench:
    """A world with its numbers as HTML; see `workbench`."""

    def __init__(self, reward, ref, beta, names, wins, view):
        self.reward, self.weights = _row("reward", reward), _row("ref", ref)
        self.size = self.reward.shape[-1]
        self.beta, self.view = check_beta(beta), view
        self.names = [f"answer {k + 1}" for k in range(self.size)] if names is None else list(names)
        self._check()
        self.log_ref = (self.weights / self.weights.sum()).log()
        self.wins = self._labels() if wins is None and view == "loss" else _table(wins, self.size)
        self.log_policy = optimal_log_policy(self.reward, self.log_ref, self.beta)
        self.implicit = implicit_reward(self.log_policy, self.log_ref, self.beta)
        self.log_z = log_partition(self.reward, self.log_ref, self.beta).item()

    def _check(self) -> None:
        if marked := [name for name in self.names if set(name) & set(",;&=#%")]:
            raise ValueError(f"names must do without , ; & = # %, got {marked[0]!r}")
        if not 2 <= self.size <= 6:
            raise ValueError(f"reward needs 2 to 6 answers, got {self.size}")
        if (len(self.names), self.weights.shape[-1]) != (self.size, self.size):
            lengths = f"{self.size}, {self.weights.shape[-1]} and {len(self.names)}"
            raise ValueError(f"reward, ref and names need one length, got {lengths}")
        if (self.weights < 0).any() or self.weights.sum() == 0:
            weights = self.weights[0].tolist()
            raise ValueError(f"ref must be at least 0 and not all 0, got {weights}")
        if self.view not in VIEWS:
            raise ValueError(f"view must be one of {', '.join(VIEWS)}, got {self.view!r}")
        if self.view == "fibre" and self.size != 3:
            raise ValueError(f"view 'fibre' needs three answers, got {self.size}")

    def _labels(self) -> Tensor:
        """Ten labels of each pair, in whole numbers."""
        shared = (10 * preference_table(self.reward) + 0.5).floor()
        return shared * (1 - torch.eye(self.size, dtype=torch.float64))

    def __repr__(self) -> str:
        return f"Workbench: {self.sentence()}"

    def _repr_html_(self) -> str:
        picture = "" if os.environ.get("DPO_BOOK_BUILD") else self._picture()
        told = {name: html.escape(text, quote=True) for name, text in self._told().items()}
        data = "".join(f' data-{name}="{text}"' for name, text in told.items())
        return (
            f'<div class="dpo-workbench" role="group" aria-label="{TITLE}"{data} '
            f'data-takes="{_TAKES}">'
            f'<p class="dpo-title">{TITLE}</p>{picture}'
            f'<p class="dpo-sentence" role="status">{html.escape(self.sentence(), quote=False)}</p>'
            f"{self._answers()}{self._pairs() if self.view == 'preferences' else ''}</div>"
        )

    def _told(self) -> dict[str, str]:
        """The world as assets/workbench.js and an address read it."""
        told = {"rewards": self.reward[0], "ref": self.weights[0]}
        told = {name: listed(row) for name, row in told.items()}
        if self.wins is not None:
            told["wins"] = ";".join(map(listed, self.wins[0]))
        return told | {"beta": str(self.beta), "names": ",".join(self.names), "view": self.view}

    def _picture(self) -> str:
        fig, ax = figure()
        policies = {"reference": self.log_ref[0], "optimum (4)": self.log_policy[0]}
        policy_bars(ax, policies, self.names)
        return show(fig, _NOTEBOOK)._repr_html_()

    def _answers(self) -> str:
        columns = [self.reward, self.log_ref.exp(), self.log_policy.exp(), self.implicit]
        columns.append((self.reward - self.implicit).nan_to_num(posinf=math.nan))
        rows = zip(*(map(shown, column[0].tolist()) for column in columns), strict=True)
        head = ["reward", "reference", "optimum (4)", "implicit (5)", "shift"]
        numbers = {
            "Z": shown_exp(self.log_z),
            "log Z": shown(self.log_z),
            "β log Z": shown(self.beta * self.log_z),
            "expected reward": shown(expected_reward(self.log_policy, self.reward).item()),
            "KL to the reference": shown(kl_divergence(self.log_policy, self.log_ref).item()),
            "objective (3)": shown(self._objective()),
        }
        listed = "".join(f"<div><dt>{k}</dt><dd>{v}</dd></div>" for k, v in numbers.items())
        return markup("answer", head, self.names, rows) + f"<dl>{listed}</dl>"

    def _pairs(self) -> str:
        from_rewards = preference_table(self.reward)[0].tolist()
        rows = [[shown(value) for value in row] for row in from_rewards]
        return markup("preferred to", self.names, self.names, rows)

    def _objective(self) -> float:
        return objective(self.log_policy, self.reward, self.log_ref, self.beta).item()

    def sentence(self) -> str:
        """What the workbench shows, in words with its numbers."""
        return getattr(self, f"_{self.view}")()

    def _shares(self, log_policy: Tensor) -> str:
        pairs = zip(self.names, log_policy[0].exp().tolist(), strict=True)
        return ", ".join(f"{name} {shown(value)}" for name, value in pairs)

    def _optimum(self) -> str:
        kl = kl_divergence(self.log_policy, self.log_ref).item()
        return (
            f"At β = {short(self.beta)} the best policy gives {self._shares(self.log_policy)}: "
            f"expected reward {shown(expected_reward(self.log_policy, self.reward).item())}, KL "
            f"{shown(kl)} nats, so the objective is {shown(self._objective())} = β log Z."
        )

    def _preferences(self) -> str:
        first, second = self.names[:2]
        chance = shown(preference_table(self.reward)[0, 0, 1].item())
        said = f"By the rewards {first} is preferred to {second} with probability {chance}"
        if self.implicit[0, :2].isneginf().any():
            never = self.names[int(self.implicit[0, 0].isfinite())]
            return f"{said}; by policies there is no number: the reference never gives {never}."
        same = shown(preference_table(self.implicit[:, :2])[0, 0, 1].item())
        shift = shown(self.beta * self.log_z)
        return (
            f"{said}, by reference and best policy with {same}: β log Z = {shift} is missing from "
            "every implicit reward, and differences do not see it."
        )

    def _loss(self) -> str:
        compared = (self.wins + self.wins.mT).sum(-1) > 0
        if (never := compared & self.log_ref.isneginf()).any():
            name = self.names[int(never[0].nonzero()[0])]
            return (
                f"There is no loss: the labels compare {name}, which the reference never gives, so "
                "its implicit reward does not exist."
            )
        at = shown(table_loss(self.implicit, self.wins).item())
        said = f"On these labels the best policy's DPO loss is {at}"
        if not is_connected(self.wins):
            return f"{said}; they do not determine a policy with the smallest loss."
        fitted = fit_reward(self.wins)
        policy = optimal_log_policy(fitted, self.log_ref, self.beta)
        least = shown(table_loss(fitted, self.wins).item())
        return f"{said}; the smallest of any policy is {least}, at {self._shares(policy)}."

    def _fibre(self) -> str:
        member = project(self.reward, self.log_ref, self.beta)[0].tolist()
        its, member = (", ".join(map(shown, row)) for row in (self.reward[0].tolist(), member))
        return (
            f"The reward ({its}) is ({member}), the member of its fibre with Z = 1, plus β log Z = "
            f"{shown(self.beta * self.log_z)}. Its policy gives {self._shares(self.log_policy)}."
        )


def _row(name: str, values: Sequence[float]) -> Tensor:
    """The numbers of the answers, shape (1, answers)."""
    row = torch.as_tensor(values, dtype=torch.float64)
    if row.dim() != 1:
        raise ValueError(f"{name} must be one list of numbers, got shape {tuple(row.shape)}")
    check_finite(name, row)
    return row[None]


def _table(wins, size: int) -> Tensor | None:
    """The win table, shape (1, answers, answers)."""
    if wins is None:
        return None
    table = torch.as_tensor(wins, dtype=torch.float64)
    if table.shape != (size, size):
        raise ValueError(f"wins needs shape ({size}, {size}), got {tuple(table.shape)}")
    check_win_table(table[None])
    if table.diagonal().any():
        raise ValueError(f"no answer wins against itself, got {table.diagonal().tolist()}")
    return table[None]
