"""Other losses, tokens, language models, and their logs."""

import math

from dpo_lib.page.questions.bank.rows import choice, number

ROWS = {
    "15_loss_atlas": lambda: (
        number(
            "recall-ipo",
            "15_loss_atlas#see-it-small",
            "Of endless labels 80% prefer A; β = 1. At which margin does IPO's loss, (z − ½)² for "
            "each label, come to rest?",
            (0.8 - 0.2) / 2,
            {
                "this is where DPO rests": math.log(4),
                "a sure label asks for ½, not for 1": 0.6,
                "this is what sure labels ask for; a fifth disagrees": 0.5,
            },
            "0.8 (z − ½)² + 0.2 (z + ½)² is least at ½ (0.8 − 0.2).",
        ),
        choice(
            "recall-hinge",
            "15_loss_atlas#the-derivation",
            "The share of labels that prefer A rises from 60% to 95%. What happens to the margin "
            "at which the hinge loss rests?",
            "it stays at 1",
            {
                "it rises from log 1.5 to log 19": "this is DPO's rest margin, the log-odds",
                "it rises in proportion to the share": "a square, as in IPO, does that",
            },
            "The hinge only asks which answer is ahead.",
        ),
    ),
    "16_tokens": lambda: (
        choice(
            "recall-mean-over-tokens",
            "16_tokens#the-derivation",
            "Log-probabilities are averaged over an answer's tokens instead of added. Where does "
            "DPO end?",
            "at another policy, which treats long and short answers differently",
            {
                "at (4), only later": "the loss then fits the log-ratio per token to the reward, "
                "another target",
                "at (4), if β is multiplied by the mean length": "this would do only if all "
                "answers had one length",
            },
            "An answer of |y| tokens is tilted with β/|y| in the place of β.",
        ),
        number(
            "recall-credit",
            "16_tokens#the-statement",
            "Before a token the soft value is 0.4, after it 0.7; β = 0.5. What is "
            "log(π*/π_ref) of this token at the optimum?",
            (0.7 - 0.4) / 0.5,
            {
                "this is the credit in reward units; divide by β": 0.3,
                "β divides the credit, it does not multiply": 0.15,
            },
            "β times the log-ratio is the rise of the soft value.",
        ),
    ),
    "17_tiny_gpt2": lambda: (
        choice(
            "recall-first-loss",
            "17_tiny_gpt2#in-code",
            "The first loss of a DPO run is 0.91. What is wrong?",
            "the reference's log-probabilities are not those of the first policy",
            {
                "β is too large": "at the start all log-ratios are 0, and the loss is log 2 for "
                "any β",
                "chosen and rejected are exchanged": "at the start this changes nothing: "
                "−log σ(0) is log 2 either way",
            },
            "Policy and reference are one model at the start, and the loss is log 2 = 0.693.",
        ),
        choice(
            "recall-flipped-file",
            "17_tiny_gpt2#where-it-breaks",
            "In a data file chosen and rejected are exchanged throughout. How does the loss look?",
            "healthy: it starts at log 2 and falls",
            {
                "it rises": "the loss measures agreement with the file, and that is learned",
                "it starts above log 2": "at the start all margins are 0, whatever the labels",
            },
            "Only samples, read or scored, tell that the model has become worse.",
        ),
    ),
    "18_gpt2": lambda: (
        number(
            "recall-bytes",
            "18_gpt2#the-derivation",
            "A model of 100 million parameters is trained with AdamW in float32. How many GB do "
            "weights, gradients and optimiser take (1 GB = 10⁹ bytes)?",
            16 * 100e6 / 1e9,
            {
                "these are the weights alone": 0.4,
                "AdamW keeps nothing here; it has two means": 0.8,
                "one of four is missing: weights, gradients, and two means": 1.2,
            },
            "4 bytes each for weight, gradient and the two running means: 16 a parameter.",
            unit="GB",
        ),
        choice(
            "recall-standard-error",
            "18_gpt2#the-derivation",
            "A model is judged on 100 prompts with 16 completions each. What is the standard error "
            "of its mean reward?",
            "the spread of the 100 means of prompts, divided by √100",
            {
                "the spread of all 1600 rewards, divided by √1600": "completions of one prompt "
                "have the prompt in common, so this is too small",
                "the spread of all 1600 rewards, divided by √100": "the noise of single "
                "completions is averaged within a prompt, so this is too large",
            },
            "The prompts are the independent draws.",
        ),
    ),
    "19_reading_logs": lambda: (
        number(
            "recall-floor",
            "19_reading_logs#the-derivation",
            "A row of a DPO log shows the mean margin 0.5. What is the least mean loss that can "
            "stand beside it?",
            math.log1p(math.exp(-0.5)),
            {
                "this is the loss at margin 0": math.log(2),
                "this is σ(0.5); the loss is its negative logarithm": 1 / (1 + math.exp(-0.5)),
                "the margin's sign is turned": math.log1p(math.exp(0.5)),
            },
            "The loss is convex, so its mean is at least −log σ of the mean margin.",
        ),
        choice(
            "recall-silent-bug",
            "19_reading_logs#where-it-breaks",
            "Which of these bugs leaves a log like any other?",
            "chosen and rejected are exchanged in the data file",
            {
                "β is applied twice": "then the loss is too high for the margin beside it",
                "the optimiser has the weights of a copy": "then nothing moves and the gradient "
                "is 0",
            },
            "The log measures agreement with the labels, and the labels are what is wrong.",
        ),
    ),
}
