"""What each stage can be told: the fields are the flags of `dpo`, and the keys of its TOML files.

The text below a field is the flag's help; no colon in it, which Sphinx takes for the end of a
type. Without torch, so that a command line is read or refused before torch is there.

One file: flags that stages share are said once, and no stage may call one otherwise.
"""

import math
from dataclasses import dataclass, field, replace
from typing import Annotated, Literal, get_args, get_origin, get_type_hints

from cyclopts import Parameter
from cyclopts.validators import Number

from dpo_lib._command_line import LISTED, RUNNING, section
from dpo_lib._loss_names import TOLD, DivergenceName, LossName, check_loss

Optimizer = Literal["rmsprop", "adamw"]
Dtype = Literal["auto", "float32", "bfloat16"]
PairsFrom = Literal["all", "best_and_worst", "adjacent"]
# Figures of held-out rows whose better direction is known, by their names in the log.
LOWER_IS_BETTER = ("loss", "objective/kl", "completions/repetition")
Metric = Literal[
    "loss", "rewards/margins", "rewards/accuracies", "logps/chosen", "margin", "accuracy",
    "objective/scores", "objective/kl", "completions/ended", "completions/repetition",
]  # fmt: skip

MODEL, OPTIMISATION = section("Model and data", 1), section("Optimisation", 2)
LORA = section("LoRA", 2)
_DPO, _KTO, _PPO, SAMPLING = (section(title, 3) for title in ("DPO", "KTO", "PPO", "Sampling"))
MOVING = "moving"  # the reference that is the policy as each round begins
START = (None, "fixed", MOVING)  # what makes the start of a run its first reference
HELD_OUT = section("Held-out rows", 4)

AT_LEAST_1 = Parameter(validator=Number(gte=1))
TEMPERATURE = Parameter(validator=Number(gte=0, lt=math.inf))


class TrainingError(ValueError):
    """Why a run cannot start or go on, in one line."""


@Parameter(name="*")  # a flag is called --lr, not --settings.lr
@dataclass(frozen=True, kw_only=True)
class Settings:
    """What every stage can be told; a stage's own settings extend it."""

    model: Annotated[str, MODEL]
    """Hub name, folder in the hub's format, "tiny", "small" or "gpt2-random" (random weights)."""
    data: Annotated[str, MODEL]
    """File of rows (JSON Lines, a JSON list, CSV or parquet), or a folder of them."""
    reference: Annotated[str | None, MODEL] = None
    """The frozen model, where a stage has one; --model itself if not given."""
    max_length: Annotated[int, MODEL] = 512
    """Tokens of prompt and completion together."""
    lora: Annotated[int | None, LORA] = None
    """Train an adapter of this rank, and nothing else; needs peft."""
    lora_alpha: Annotated[float | None, LORA] = None
    """The adapter counts alpha / rank times; twice the rank if not given, as TRL's 32 for 16."""
    lora_target_modules: Annotated[str | None, LORA] = None
    """Ends of linear layers' names, q_proj,v_proj say; all-linear if not given."""
    steps: Annotated[int | None, OPTIMISATION] = None
    """Optimiser steps; once through the data if not given."""
    batch_size: Annotated[int, OPTIMISATION] = 64
    """Items of one step, over all micro-batches and processes."""
    accumulate: Annotated[int, OPTIMISATION] = 1
    """Micro-batches in which each process goes through its part of a batch."""
    lr: Annotated[float, OPTIMISATION] = 1e-6
    """Learning rate, after the warm-up."""
    optimizer: Annotated[Optimizer, OPTIMISATION] = "rmsprop"
    """RMSprop is the paper's; AdamW is without weight decay."""
    warmup_steps: Annotated[int, OPTIMISATION] = 150
    """Steps in which the learning rate grows from 0; it is constant from then on."""
    max_grad_norm: Annotated[float, OPTIMISATION] = 10.0
    """Longer gradients are shortened to this norm."""
    out: Annotated[str, RUNNING]
    """The run's folder, made here; the trained model is its model/."""
    resume: Annotated[bool, RUNNING] = False
    """Go on where a killed run in --out stopped."""
    seed: Annotated[int, RUNNING] = 0
    """Of random weights, order and draws."""
    save_every: Annotated[int, RUNNING] = 500
    """Steps between checkpoints."""
    log_every: Annotated[int, RUNNING] = 10
    """Steps between lines, where there is no terminal for a bar."""
    report_to: Annotated[str | None, RUNNING] = None
    """Trackers that get a copy of the log, through accelerate; tensorboard, or several, a,b."""
    dtype: Annotated[Dtype, RUNNING] = "auto"
    """To compute in; auto is bfloat16 on a GPU that has it, else float32."""

    def __post_init__(self):
        for name, hint in get_type_hints(type(self)).items():
            value = getattr(self, name)
            for literal in (
                part for part in (hint, *get_args(hint)) if get_origin(part) is Literal
            ):
                known = get_args(literal)
                allowed = value in known or (value is None and hint != literal)
                require(self, name, allowed, f"one of {', '.join(known)}")
        require(self, "steps", self.steps is None or self.steps >= 1, "at least 1")
        for name in ("batch_size", "accumulate", "save_every", "log_every"):
            require(self, name, getattr(self, name) >= 1, "at least 1")
        require(self, "max_length", self.max_length >= 2, "at least 2")
        for name in ("warmup_steps", "seed"):
            require(self, name, getattr(self, name) >= 0, "at least 0")
        for name in ("lr", "max_grad_norm"):
            require(self, name, 0 < getattr(self, name) < math.inf, "positive and finite")
        require(self, "lora", self.lora is None or self.lora >= 1, "at least 1")
        for name in ("lora_alpha", "lora_target_modules"):
            adapted = getattr(self, name) is None or self.lora is not None
            require(self, name, adapted, "left out without lora")
        alpha = self.lora_alpha is None or 0 < self.lora_alpha < math.inf
        require(self, "lora_alpha", alpha, "positive and finite")

    def for_items(self, items: int) -> "Settings":
        """The settings with `steps` filled in: those of one epoch, if none are given."""
        return replace(self, steps=self.steps or math.ceil(items / self.batch_size))


def require(settings: Settings, name: str, holds: bool, rule: str) -> None:
    """Raise TrainingError, with the field's name and value, unless it holds."""
    if not holds:
        raise TrainingError(f"{name} must be {rule}, got {getattr(settings, name)}")


@dataclass(frozen=True, kw_only=True)
class HeldOutSettings(Settings):
    """Settings of a stage that can be watched on rows that it is not trained on."""

    eval_data: Annotated[str | None, HELD_OUT] = None
    """Held-out rows to be measured on while training; of a folder, its test_preferences.jsonl."""
    eval_every: Annotated[int | None, HELD_OUT] = None
    """Steps between measurements on --eval-data; ten in a run if not given."""
    metric_for_best_model: Annotated[Metric | None, HELD_OUT] = None
    """Held-out figure by which the saved model is the best measured; the last if not given."""
    early_stopping_patience: Annotated[int | None, HELD_OUT] = None
    """Measurements in a row without a better one after which the run ends."""

    def __post_init__(self):
        super().__post_init__()
        for name, needed in (
            ("eval_every", "eval_data"),
            ("metric_for_best_model", "eval_data"),
            ("early_stopping_patience", "metric_for_best_model"),
        ):
            value = getattr(self, name)
            positive = isinstance(value, str | None) or value >= 1
            require(self, name, positive, "at least 1")
            watched = value is None or getattr(self, needed) is not None
            require(self, name, watched, f"left out without {needed}")


@dataclass(frozen=True, kw_only=True)
class SampledSettings(HeldOutSettings):
    """Settings of a stage that can be watched by what its policy writes."""

    samples: Annotated[int, HELD_OUT] = 0
    """Completions drawn at each measurement, of the first prompts of --eval-data; 0 draws none."""
    max_new_tokens: Annotated[int, HELD_OUT] = 64
    """Tokens of a completion."""

    def __post_init__(self):
        super().__post_init__()
        require(self, "samples", self.samples >= 0, "at least 0")
        watched = self.samples == 0 or self.eval_data is not None
        require(self, "samples", watched, "0 without eval_data")
        require(self, "max_new_tokens", self.max_new_tokens >= 1, "at least 1")
        room = self.max_length - 2  # for a prompt
        fits = self.samples == 0 or self.max_new_tokens <= room
        require(self, "max_new_tokens", fits, "at most max_length - 2")


@dataclass(frozen=True, kw_only=True)
class JudgedSettings(SampledSettings):
    """Settings of a stage that learns without a reward, and may have its samples judged by one."""

    reward: Annotated[str | None, HELD_OUT] = None
    """Judge of the samples, a reward model's folder, "true", or "command", a colon, a program."""

    def __post_init__(self):
        super().__post_init__()
        watched = self.reward is None or self.samples > 0
        require(self, "reward", watched, "left out without samples")


@dataclass(frozen=True, kw_only=True)
class SFTSettings(JudgedSettings):
    """Settings of supervised fine-tuning; nothing but a learning rate of its own."""

    lr: Annotated[float, OPTIMISATION] = 1e-5
    """Learning rate, after the warm-up."""


@dataclass(frozen=True, kw_only=True)
class PreferenceSettings(HeldOutSettings):
    """Settings of a stage that learns from pairs."""

    pairs_from: Annotated[PairsFrom | None, MODEL] = None
    """Pairs to make of several scored answers; of rankings only all pairs keep equation (1)."""


@dataclass(frozen=True, kw_only=True)
class RewardSettings(PreferenceSettings):
    """Settings of reward modelling; nothing but a learning rate of its own."""

    lr: Annotated[float, OPTIMISATION] = 1e-5
    """Learning rate, after the warm-up."""


@dataclass(frozen=True, kw_only=True)
class PairLossSettings(Settings):
    """What DPO's step can be told, wherever its pairs come from."""

    beta: Annotated[float, _DPO] = 0.1
    """Reward units per nat; larger stays closer. Per token (sigmoid_norm, simpo) 2 to 10."""
    loss: Annotated[LossName, _DPO] = "sigmoid"
    """sigmoid is equation (7); chapter 15 of the book and docs/training.md have the others."""
    label_smoothing: Annotated[float, _DPO] = 0.0
    """The share of labels that are wrong, below 1/2; for cdpo, robust and exo_pair."""
    alpha: Annotated[float | None, _DPO] = None
    """The weight of the rejected answer, 0 to 1; unlikelihood needs it."""
    dpop_lambda: Annotated[float | None, _DPO] = None
    """What dpop adds to the weight of a negative reward of the chosen answer; 50 if not given."""
    rdpo_alpha: Annotated[float | None, _DPO] = None
    """Reward units a token that the labels give to length, for rdpo to charge; it needs them."""
    simpo_gamma: Annotated[float | None, _DPO] = None
    """Reward units by which simpo wants the chosen answer ahead; 0.5 if not given."""
    rpo_alpha: Annotated[float | None, _DPO] = None
    """Weight of an SFT term, the chosen answer's loss per token; none if not given, often 1."""
    f_divergence_type: Annotated[DivergenceName, _DPO] = "reverse_kl"
    """Divergence from the reference, for losses of a margin; reverse_kl is the paper's."""
    f_alpha_divergence_coef: Annotated[float | None, _DPO] = None
    """Alpha of alpha_divergence, 0 is forward and 1 reverse KL; 0.5 if not given."""

    def __post_init__(self):
        super().__post_init__()
        check_loss(self.loss, self.beta, **self.told)

    @property
    def told(self) -> dict[str, float | str | None]:
        """What `variants.choose_loss` is told beside name and beta."""
        return {name: getattr(self, name) for name in TOLD}

    @property
    def has_sft_term(self) -> bool:
        """Whether the loss has a part that the rejected answer is not in."""
        return self.loss == "orpo" or self.rpo_alpha is not None


@dataclass(frozen=True, kw_only=True)
class DPOSettings(PairLossSettings, PreferenceSettings, JudgedSettings):
    """Settings of DPO; `reference` is a model's name or folder, by default the policy itself."""


@dataclass(frozen=True, kw_only=True)
class KTOSettings(JudgedSettings):
    """Settings of KTO; `reference` is a model's name or folder, by default the policy itself.

    The paper advises desirable_weight times the number of desirable answers to be 1 to 4/3 of
    undesirable_weight times the number of the others.
    """

    beta: Annotated[float, _KTO] = 0.1
    """Reward units per nat; larger stays closer to the reference."""
    desirable_weight: Annotated[float, _KTO] = 1.0
    """Lambda_D; times desirable answers it should be 1 to 4/3 of what the other side has."""
    undesirable_weight: Annotated[float, _KTO] = 1.0
    """Lambda_U; raise it where desirable answers are the more numerous."""

    def __post_init__(self):
        super().__post_init__()
        for name in ("beta", "desirable_weight", "undesirable_weight"):
            require(self, name, 0 < getattr(self, name) < math.inf, "positive and finite")


@dataclass(frozen=True, kw_only=True)
class DrawnSettings(SampledSettings):
    """Settings of a stage that learns from completions which its policy draws."""

    eval_data: Annotated[str | None, HELD_OUT] = None
    """Held-out prompts that --samples are drawn for; of a folder, its test_prompts.jsonl."""
    reward: Annotated[str, SAMPLING]
    """A reward model's folder, "true" (the built-in world's), or "command", a colon, a program."""
    max_new_tokens: Annotated[int, SAMPLING] = 64
    """Tokens of a completion."""
    temperature: Annotated[float, SAMPLING] = 1.0
    """Of the policy that is drawn from, and so of --samples."""

    def __post_init__(self):
        super().__post_init__()
        temperature = 0 < self.temperature < math.inf
        require(self, "temperature", temperature, "positive and finite")
        room = self.max_length - 2  # for a prompt
        require(self, "max_new_tokens", self.max_new_tokens <= room, "at most max_length - 2")
        drawn = self.eval_data is None or self.samples > 0
        require(self, "samples", drawn, "at least 1 with eval_data")


@dataclass(frozen=True, kw_only=True)
class OnlineDPOSettings(PairLossSettings, DrawnSettings):
    """Settings of DPO on pairs that the policy draws and a judge labels."""

    reference: Annotated[str, MODEL] = "fixed"
    """fixed is --model, moving the policy as each round begins; or a frozen model's folder."""
    num_generations: Annotated[int, SAMPLING] = 2
    """Completions of each prompt, of which the best and the worst are the pair."""
    refresh_every: Annotated[int, SAMPLING] = 1
    """Steps of a round, which draws all its pairs as it begins; 1 is fully online."""

    def __post_init__(self):
        super().__post_init__()
        require(self, "num_generations", self.num_generations >= 2, "at least 2")
        require(self, "refresh_every", self.refresh_every >= 1, "at least 1")
        fits = self.steps is None or self.refresh_every <= self.steps
        require(self, "refresh_every", fits, f"at most the {self.steps} steps of the run")


@dataclass(frozen=True, kw_only=True)
class PPOSettings(DrawnSettings):
    """PPO's numbers. The DPO paper gives none but target KLs of 3, 6, 9, 12 nats (section 6.1).

    Where nothing else is said the defaults are those of Ziegler et al. 2019 for GPT-2 124M
    (their code, lm-human-preferences). A batch is a minibatch.
    """

    beta: Annotated[float, _PPO] = 0.1
    """Price of the KL to the reference, reward units per nat; 0 is none."""
    target_kl: Annotated[float | None, _PPO] = None
    """Nats of a whole completion; beta is adapted until the KL is there."""
    temperature: Annotated[float, SAMPLING] = 1.0
    """Of policy and reference, drawn and scored."""
    missing_eos_penalty: Annotated[float, _PPO] = 0.0
    """Taken off the score of a completion cut at the limit, reward units."""
    epochs: Annotated[int, _PPO] = 4
    """Times that each completion is used."""
    minibatches: Annotated[int, _PPO] = 1
    """An iteration draws minibatches times batch-size completions."""
    clip_range: Annotated[float, _PPO] = 0.2
    """Epsilon of PPO (7)."""
    value_clip_range: Annotated[float | None, _PPO] = None
    """Reward units; Ziegler et al. have 0.2."""
    gamma: Annotated[float, _PPO] = 1.0
    """Discount."""
    lam: Annotated[float, _PPO] = 0.95
    """GAE's lambda."""
    value_coefficient: Annotated[float, _PPO] = 0.1
    """c1 of PPO (9); Ziegler et al. also halve the value loss."""
    entropy_coefficient: Annotated[float, _PPO] = 0.0
    """c2 of PPO (9)."""
    whiten: Annotated[bool, _PPO] = True
    """Advantages to mean 0 and variance 1 over the tokens of an iteration."""
    lr: Annotated[float, OPTIMISATION] = 1.41e-5
    """Learning rate, after the warm-up."""
    optimizer: Annotated[Optimizer, OPTIMISATION] = "adamw"
    """AdamW is without weight decay."""
    warmup_steps: Annotated[int, OPTIMISATION] = 0
    """Steps in which the learning rate grows from 0; it is constant from then on."""

    def __post_init__(self):
        super().__post_init__()
        for name in ("epochs", "minibatches"):
            require(self, name, getattr(self, name) >= 1, "at least 1")
        for name in ("clip_range", "target_kl", "value_clip_range"):
            value = getattr(self, name)
            optional = value is None and name in ("target_kl", "value_clip_range")
            require(self, name, optional or 0 < value < math.inf, "positive and finite")
        for name in ("beta", "missing_eos_penalty", "value_coefficient", "entropy_coefficient"):
            require(self, name, 0 <= getattr(self, name) < math.inf, "at least 0 and finite")
        for name in ("gamma", "lam"):
            require(self, name, 0 <= getattr(self, name) <= 1, "between 0 and 1")
        require(self, "beta", self.beta > 0 or self.target_kl is None, "positive for a target_kl")


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class EvaluationSettings:
    """What `dpo evaluate` can be told."""

    model: Annotated[list[str], MODEL, Parameter(consume_multiple=1)]
    """Folders of policies, one or more."""
    reference: Annotated[str, MODEL]
    """Folder of the policy that all are compared with."""
    data: Annotated[str, MODEL]
    """Held-out prompts in a file, or in a folder with test_prompts.jsonl."""
    reward: Annotated[str, MODEL] = "true"
    """A reward model's folder, "true" (the built-in world's), or "command", a colon, a program."""
    prompts: Annotated[int | None, MODEL, Parameter(validator=Number(gte=2))] = None
    """Use the first of them only; all if not given."""
    max_length: Annotated[int, MODEL, AT_LEAST_1] = 512
    """Tokens of a prompt."""
    samples: Annotated[int, SAMPLING, AT_LEAST_1] = 4
    """Completions of each prompt."""
    best_of: Annotated[int, SAMPLING, AT_LEAST_1] = 1
    """N of Best-of-N, drawn from the reference."""
    temperature: Annotated[
        list[float], SAMPLING, TEMPERATURE, LISTED, Parameter(consume_multiple=1)
    ] = field(default_factory=lambda: [1.0])
    """One or more; 0 is greedy."""
    max_new_tokens: Annotated[int, SAMPLING, AT_LEAST_1] = 64
    """Tokens of a completion."""
    batch_size: Annotated[int, SAMPLING, AT_LEAST_1] = 64
    """Completions at a time."""
    seed: Annotated[int, SAMPLING] = 0
    """Of the draws."""
    out: Annotated[str | None, RUNNING] = None
    """JSON file to write; the plot is written beside it as .svg."""
