"""From reward to policy, and why this is allowed."""

import math

import torch

from dpo_lib.objective import implicit_reward, log_partition, optimal_log_policy, project
from dpo_lib.page.questions.bank.rows import choice, number
from dpo_lib.world import three_answers

WORLD = three_answers()
PAIR = torch.tensor([[1.0, 0.0]], dtype=torch.float64), torch.tensor([[0.2, 0.8]]).double().log()


def first(beta: float) -> float:
    """What the best policy for a pair gives to the first answer."""
    return optimal_log_policy(*PAIR, beta)[0, 0].exp().item()


def read_off(beta: float) -> float:
    """Implicit reward of an answer raised from 0.1 to 0.2 minus one lowered from 0.3 to 0.15."""
    logs = torch.tensor([[0.2, 0.15], [0.1, 0.3]], dtype=torch.float64).log()
    rewards = implicit_reward(*logs, beta)
    return (rewards[0] - rewards[1]).item()


LOG_Z = log_partition(WORLD.true_reward, WORLD.log_ref, 1.0).item()

ROWS = {
    "05_optimal_policy": lambda: (
        number(
            "recall-tilt",
            "05_optimal_policy",
            "The reference gives two answers 0.2 and 0.8; their rewards are 1 and 0; β = 0.5. How "
            "often does the best policy give the first?",
            first(0.5),
            {
                "β multiplied the reward, it divides": first(2.0),
                "β was forgotten": first(1.0),
                "the reference was forgotten": 1 / (1 + math.exp(-2)),
                "this is the tilted weight; divide by Z": 0.2 * math.exp(2),
            },
            "The weights are 0.2 e² = 1.478 and 0.8; divide by their sum.",
        ),
        choice(
            "recall-why-z",
            "05_optimal_policy",
            "The derivation of (4) adds and subtracts log Z(x). Why just this number?",
            "it makes the denominator a probability distribution",
            {
                "with any other the two terms would not cancel": "what is added is taken away "
                "again, whatever it is",
                "it is exp(r/β) of the best answer": "Z(x) sums over all answers, weighted by the "
                "reference",
            },
            "Only then is what remains a KL divergence, which is never negative.",
        ),
    ),
    "06_implicit_reward": lambda: (
        choice(
            "recall-what-is-missing",
            "06_implicit_reward#the-statement",
            "You know π*, π_ref and β, and not Z(x). What can you tell of the reward?",
            "its differences between answers to one prompt",
            {
                "all of it": "β log Z(x) is missing, one number for each prompt",
                "its differences between any two answers": "answers to two prompts carry two "
                "different Z(x)",
                "nothing": "within a prompt Z(x) is the same for all answers, and cancels",
            },
            "By (5) each reward is the log-ratio plus β log Z(x).",
        ),
        number(
            "recall-read-off",
            "06_implicit_reward#see-it-small",
            "A policy has raised one answer from 0.1 to 0.2 and lowered another from 0.3 to 0.15; "
            "β = 0.5. By how much does the first's implicit reward exceed the second's?",
            read_off(0.5),
            {
                "β was forgotten": read_off(1.0),
                "β multiplies the log-ratio, it does not divide": read_off(2.0),
                "this is the first answer alone": read_off(0.5) / 2,
                "logarithms are natural here, not to base 2": 1.0,
            },
            "0.5 · (log 2 − log ½) = log 2.",
        ),
    ),
    "07_dpo_loss": lambda: (
        number(
            "recall-weight",
            "07_dpo_loss#in-code",
            "The DPO loss of a pair is 0.1 nats. Which weight has the pair in the gradient?",
            1 - math.exp(-0.1),
            {
                "this is the probability of the label that did occur": math.exp(-0.1),
                "close, but the weight is 1 − exp(−loss), not the loss": 0.1,
                "a half is the weight at the start": 0.5,
            },
            "The weight is the probability of the label that did not occur.",
        ),
        choice(
            "recall-why-stop",
            "07_dpo_loss#the-derivation",
            "Endless labels prefer the best answer in most cases. Why does DPO not push it to "
            "probability 1?",
            "from some margin on the few contrary labels push as hard as the many others",
            {
                "the KL term of the loss holds it back": "(7) has no KL term",
                "the learning rate has become too small": "it stops at any learning rate: the "
                "expected gradient is zero there",
            },
            "A pair rests where σ of its margin is the share of its labels.",
        ),
    ),
    "08_equivalent_rewards": lambda: (
        choice(
            "recall-double-both",
            "08_equivalent_rewards#the-derivation",
            "All rewards are doubled, and β too. What changes?",
            "the preferences, not the best policy",
            {
                "nothing": "(4) sees r/β, but (1) contains no β: the labels become surer",
                "the best policy, not the preferences": "it is the other way round: (4) sees r/β",
                "both": "(4) sees r/β, which has stayed the same",
            },
            "The scale is lost to the policy alone; labels fix it.",
        ),
        choice(
            "recall-who-sees",
            "08_equivalent_rewards#where-it-breaks",
            "All rewards of one prompt are raised by 5. Who can notice?",
            "whoever compares mean rewards of different prompts",
            {
                "the best policy": "the factor exp(5/β) is normalised away",
                "labellers who compare two answers": "they see the gap, which has stayed the same",
                "an exact climber on objective (3)": "the whole hill is lifted by 5, and its slope "
                "stays",
            },
            "A shift is free for each prompt, so numbers of two prompts cannot be compared.",
        ),
    ),
    "09_theorem": lambda: (
        choice(
            "recall-how-many",
            "09_theorem#the-statement",
            "How many rewards of one class can be written as β log(π/π_ref) with a policy π?",
            "exactly one",
            {
                "all of them": "a member misses its own log-ratio by β log Z(x), which is 0 for "
                "one member only",
                "one or none": "along the class Z(x) goes from 0 to infinity, so it passes 1",
            },
            "It is the member with Z(x) = 1.",
        ),
        number(
            "recall-projection",
            "09_theorem#see-it-small",
            "Rewards 2, 1, 0; reference 0.2, 0.3, 0.5; β = 1; so Z = 2.793. Which reward has the "
            "best answer in the member of this class that has Z = 1?",
            project(WORLD.true_reward, WORLD.log_ref, 1.0)[0, 0],
            {
                "subtract β log Z, not Z": 2 - math.exp(LOG_Z),
                "this is β log Z itself": LOG_Z,
                "add −β log Z, do not add β log Z": 2 + LOG_Z,
            },
            "2 − log 2.793 = 0.973.",
        ),
    ),
}
