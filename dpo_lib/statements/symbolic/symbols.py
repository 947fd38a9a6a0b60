"""Symbols for the answers to one prompt: a few of them, or any number K.

`answers` gives sequences, one symbol for each answer. `answers_of_any_number` gives indexed
symbols, reward[1] to reward[K] and so on; ANSWER stands for any one of the K answers.
"""

from typing import NamedTuple

import sympy as sp
from sympy import IndexedBase, Symbol


class Answers(NamedTuple):
    """Symbols for the K answers to one prompt: rewards are real, everything else is positive."""

    reward: tuple[Symbol, ...]  # r_1, ..., r_K
    ref: tuple[Symbol, ...]  # p_1, ..., p_K: probabilities under the reference
    policy: tuple[Symbol, ...]  # q_1, ..., q_K: probabilities under the policy
    beta: Symbol


def answers(K: int = 3) -> Answers:
    """Symbols for K answers. Probabilities need not sum to one: that is what `normalised` adds."""
    return Answers(
        reward=sp.symbols(f"r_1:{K + 1}", real=True),
        ref=sp.symbols(f"p_1:{K + 1}", positive=True),
        policy=sp.symbols(f"q_1:{K + 1}", positive=True),
        beta=Symbol("beta", positive=True),
    )


K = Symbol("K", integer=True, positive=True)  # any number of answers
ANSWER = Symbol("i", integer=True, positive=True)  # any one of them


class AnyAnswers(NamedTuple):
    """Indexed symbols for K answers, K a symbol: reward[1], ..., reward[K] and so on."""

    reward: IndexedBase  # real
    ref: IndexedBase  # positive
    policy: IndexedBase  # positive
    beta: Symbol  # positive


def answers_of_any_number() -> AnyAnswers:
    """Symbols for any number of answers. Probabilities need not sum to one; see `total`."""
    return AnyAnswers(
        reward=IndexedBase("r", real=True),
        ref=IndexedBase("p", positive=True),
        policy=IndexedBase("q", positive=True),
        beta=Symbol("beta", positive=True),
    )
