"""Part I: what RLHF optimises."""

import math

import torch

from dpo_lib.objective import objective
from dpo_lib.page.questions.bank.rows import choice, number
from dpo_lib.preferences import bradley_terry
from dpo_lib.world import three_answers

WORLD = three_answers()
ALWAYS_BEST = torch.tensor([[1.0, 0.0, 0.0]], dtype=torch.float64).log()

ROWS = {
    "00_start": lambda: (
        choice(
            "recall-large-beta",
            "00_start",
            "The price β of leaving the reference grows. Where does the best policy go?",
            "towards the reference",
            {
                "towards the best answer": "a high price keeps the policy at home",
                "towards giving all answers equally often": "what is paid for is distance from "
                "the reference, which need not give all answers equally often",
            },
            "Each nat of KL divergence from the reference costs β.",
        ),
        choice(
            "recall-sft",
            "00_start",
            "A model is fine-tuned until its cross-entropy on ten demonstrations is least: two are "
            "good, three middling, five bad. Which does it give most often?",
            "the bad one, half of the time",
            {
                "the good one: training picks it out": "it imitates the mixture that it sees; only "
                "preferences tell the good from the bad",
                "all three equally often": "the least cross-entropy is that of the demonstrations' "
                "own shares, and these differ",
            },
            "The best copy of the demonstrations has their shares, 0.2, 0.3 and 0.5.",
        ),
    ),
    "01_preferences": lambda: (
        number(
            "recall-gap",
            "01_preferences#the-statement",
            "Two answers have the rewards 3 and 1. With which probability is the first preferred, "
            "by equation (1)?",
            bradley_terry(torch.tensor(3.0), torch.tensor(1.0)),
            {
                "this is the sigmoid of one reward, not of the difference": 1 / (1 + math.exp(-3)),
                "answers are preferred in proportion to exp(r), not to r": 0.75,
                "these are the odds": math.exp(2),
            },
            "Only the difference counts: σ(2).",
        ),
        choice(
            "recall-unseen-by-labels",
            "01_preferences#the-derivation",
            "Which change of all rewards of a prompt can no label ever show?",
            "adding 100 to each",
            {
                "doubling each": "doubled gaps make the labels surer, so the scale is seen",
                "putting each through exp": "the order stays, and the gaps change; labels see gaps",
            },
            "The probability is the sigmoid of a difference, and a shift leaves differences alone.",
        ),
        number(
            "recall-odds",
            "01_preferences#see-it-small",
            "The odds of A over B are 2 to 1, those of B over C 3 to 1. By equation (1), what are "
            "the odds of A over C?",
            6.0,
            {"these are sums; odds multiply": 5.0, "that is the probability": 6 / 7},
            "Log-odds are reward gaps, and gaps add along a chain.",
            unit="to 1",
        ),
    ),
    "02_reward_model": lambda: (
        number(
            "recall-eighty",
            "02_reward_model#see-it-small",
            "Of 100 labels for one pair 80 prefer the first answer. Which reward gap does loss (2) "
            "teach, trained to the end?",
            math.log(80 / 20),
            {
                "this is the probability; the gap is its log-odds": 0.8,
                "these are the odds; the gap is their logarithm": 4.0,
                "logarithms are natural here, not to base 10": math.log10(4),
                "logarithms are natural here, not to base 2": math.log2(4),
            },
            "The fitted probability is the share of wins, 0.8, and its log-odds are log 4.",
        ),
        choice(
            "recall-no-minimum",
            "02_reward_model#the-derivation",
            "When does loss (2), for a table of rewards, have no minimum?",
            "when one answer has won all its comparisons",
            {
                "when labels contradict each other": "contradictions hold the fit back, and that "
                "is what gives it a minimum",
                "when there are fewer labels than pairs": "few labels are enough if chains of wins "
                "lead from each answer to every other",
            },
            "Raising that answer makes every label cheaper, without end.",
        ),
    ),
    "03_objective": lambda: (
        number(
            "recall-always-best",
            "03_objective#see-it-small",
            "The reference gives best, middle and worst with 0.2, 0.3 and 0.5; the rewards are 2, "
            "1 and 0; β = 1. What is objective (3) of the policy that always gives the best?",
            objective(ALWAYS_BEST, WORLD.true_reward, WORLD.log_ref, 1.0),
            {
                "this is the reward; the price of the KL is missing": 2.0,
                "the KL is paid, so it is subtracted": 2 + math.log(5),
                "logarithms are natural here, not to base 2": 2 - math.log2(5),
                "logarithms are natural here, not to base 10": 2 - math.log10(5),
            },
            "It earns 2 and pays −log 0.2 = 1.609 nats.",
        ),
        choice(
            "recall-sampled-scores",
            "03_objective#in-code",
            "You average r − β log(π/π_ref) over drawn answers and let autograd differentiate this "
            "mean. What does the result estimate?",
            "zero, whatever the reward",
            {
                "the gradient of objective (3)": "a drawn answer does not move with the policy; "
                "the score has to multiply the gradient of log π",
                "minus β times the gradient of the KL": "the derivative of the log-ratio alone has "
                "mean zero under its own policy",
            },
            "Only log π contains the parameters, and its gradient has mean zero.",
        ),
    ),
    "04_ppo": lambda: (
        choice(
            "recall-two-leashes",
            "04_ppo#see-it-small",
            "PPO runs with β = 0 and keeps its clip. Where does it end?",
            "on the answer with the largest reward",
            {
                "near the reference": "the clip ties each update to the previous policy, and the "
                "previous policy moves along",
                "at a compromise of reward and reference": "without β nothing in the objective "
                "mentions the reference",
            },
            "Small steps add up: the clip sets the pace, β the place.",
        ),
        choice(
            "recall-clip",
            "04_ppo#the-derivation",
            "An answer's advantage A is positive and its ratio has grown to 1.5; ε = 0.2. What is "
            "the slope of PPO's clipped term in the ratio?",
            "0",
            {
                "A": "the clipped product is the smaller of the two, and it is constant there",
                "1.2 A": "this is the term's value, not its slope",
            },
            "Beyond 1 + ε on the improving side nothing pushes any more.",
        ),
    ),
}
