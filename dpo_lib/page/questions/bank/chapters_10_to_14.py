"""Rankings, the critic, one world for all methods, and what can fail."""

import math

from dpo_lib.evaluation import best_of_n
from dpo_lib.page.questions.bank.rows import choice, number
from dpo_lib.world import three_answers

WORLD = three_answers()

ROWS = {
    "10_rankings": lambda: (
        number(
            "recall-ranking-start",
            "10_rankings#the-derivation",
            "What is loss (20) of a ranking of four answers, before the first step?",
            math.log(math.factorial(4)),
            {
                "this is the first place alone; three choices are made": math.log(4),
                "this is the loss of three separate pairs": 3 * math.log(2),
                "this is the loss of six separate pairs": 6 * math.log(2),
                "logarithms are natural here, not to base 2": math.log2(24),
            },
            "At the reference all 4! orders are equally likely, so the loss is log 24.",
        ),
        choice(
            "recall-ranking-worth",
            "10_rankings#the-derivation",
            "Four answers are about equally good. How many random pairs is one ranking of the four "
            "worth?",
            "more than 3, less than 6",
            {
                "1": "it is one label, but one that decides several comparisons",
                "3": "three choices, but the best of four says more than the better of two",
                "6": "six pairs, but their labels depend on each other",
            },
            "It is worth 2(K − H_K) = 3.83 pairs.",
        ),
    ),
    "11_actor_critic": lambda: (
        choice(
            "recall-critic",
            "11_actor_critic#the-derivation",
            "Which number does PPO's critic learn for a prompt?",
            "the mean score of the current policy",
            {
                "β log Z(x)": "this is the value of the optimum; the critic meets it only when the "
                "policy has arrived",
                "the mean reward of the current policy": "a score is the reward minus β times the "
                "log-ratio, so the price of the KL is in it",
            },
            "It follows J(π), which lies β KL(π‖π*) below the soft value.",
        ),
        choice(
            "recall-baseline",
            "11_actor_critic#the-derivation",
            "A number that depends on the prompt alone is subtracted from every score. What "
            "changes?",
            "how much the estimated gradient scatters",
            {
                "where training ends": "on average the baseline adds nothing to the gradient",
                "the mean of the estimated gradient": "the gradient of log π has mean zero, so a "
                "constant times it has too",
                "nothing": "the mean stays, but each draw's estimate changes",
            },
            "The variance is a parabola in the baseline; the mean does not depend on it.",
        ),
    ),
    "12_one_world": lambda: (
        choice(
            "recall-above-the-frontier",
            "12_one_world#where-it-breaks",
            "A plot shows a run above the exact frontier of reward against KL. Why, most likely?",
            "its reward and KL are estimates from samples",
            {
                "its method beats PPO with the true reward": "no policy at all earns more than (4) "
                "does at the same KL",
                "it has a smaller β": "the optima of all β lie on the frontier, none above it",
            },
            "Estimates scatter along a tangent, and a tangent lies above a concave curve.",
        ),
        number(
            "recall-best-of-two",
            "12_one_world#see-it-small",
            "The reference gives best, middle and worst with 0.2, 0.3 and 0.5. How often does "
            "Best-of-2 give the best?",
            best_of_n(WORLD.log_ref, WORLD.true_reward, 2)[0, 0].exp(),
            {
                "this counts two best draws twice": 0.4,
                "this is the chance that both draws are the best": 0.04,
                "this is the chance that neither draw is the best": 0.64,
            },
            "One minus the chance that neither draw is the best: 1 − 0.8².",
        ),
    ),
    "13_when_the_theorem_fails": lambda: (
        choice(
            "recall-sure-labels",
            "13_when_the_theorem_fails#the-derivation",
            "In every pair the better answer always wins. Where does DPO with a large β end, given "
            "enough steps?",
            "on the best answer, as with any β",
            {
                "near the reference": "no finite margin satisfies a sure label; β sets the speed, "
                "not the end",
                "at the optimum (4) for this β": "that needs labels in which either answer "
                "sometimes wins",
            },
            "The loss falls for ever, at any β.",
        ),
        choice(
            "recall-no-trace",
            "13_when_the_theorem_fails#the-experiment",
            "Which of these leaves no trace in the training loss, even if the entropy of the "
            "labels is known?",
            "some answers were never compared",
            {
                "the labels never contradict each other": "then the loss goes to 0",
                "the labels go round in a circle": "then the loss stays above their entropy",
            },
            "What no label mentions is free, at the same loss.",
        ),
    ),
    "14_chosen_goes_down": lambda: (
        choice(
            "recall-chosen-falls",
            "14_chosen_goes_down#the-experiment",
            "In a log `logps/chosen` falls while the margin grows. What follows?",
            "nothing yet: read samples",
            {
                "the run is broken": "a perfect run at a small β looks the same",
                "the run is fine, since the margin grows": "a run that gives its mass to an answer "
                "nobody labelled looks the same",
            },
            "What decides is where the probability went, and the log does not say it.",
        ),
        choice(
            "recall-table",
            "14_chosen_goes_down#the-derivation",
            "A table with a free logit for each answer is trained on a single pair. Can a step "
            "lower the chosen answer?",
            "no",
            {
                "yes, if the step is large": "the chosen logit always rises by more than the "
                "normaliser does",
                "yes, if a third answer gains": "its logit does not move; answers have to share "
                "parameters for that",
            },
            "With a table, one pair raises what was chosen, at any size of step.",
        ),
    ),
}
