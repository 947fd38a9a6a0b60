"""Losses that are told lengths: R-DPO, `sigmoid_norm`, SimPO, ORPO, and the SFT term.

Beside what the losses of `variants` take, these are given the number of tokens of each answer.
R-DPO charges for them and keeps the sum. The others divide by them, and a margin no longer is the
difference of two rewards of (5): beta log Z(x) cancels from (6) only between answers of one
length, and the optimum is not (4) (chapter 15, "Mean instead of sum"). A mean over tokens is
smaller than their sum, so beta is to be larger: SimPO's authors have 2 to 10, where DPO has 0.1.
"""

import torch
from torch import Tensor

from dpo_lib._checks import check_lengths, check_same_shape
from dpo_lib.losses import dpo_loss, reward_loss
from dpo_lib.objective import implicit_reward


def per_token(logps: Tensor, lengths: Tensor) -> Tensor:
    """The mean over an answer's tokens of their log-probabilities, from the sum.

    Args:
        logps: summed over tokens, shape (batch,), nats.
        lengths: number of tokens with the EOS, at least 1, same shape.
    """
    check_same_shape(logps=logps, lengths=lengths)
    check_lengths("lengths", lengths)
    return logps / lengths


def nll_loss(policy_chosen_logps: Tensor, chosen_lengths: Tensor) -> Tensor:
    """The SFT term, which a loss gets `rpo_alpha` times: minus the chosen log pi per token.

    TRL 1.16 writes it as loss_type ["sigmoid", "sft"] with loss_weights [1, rpo_alpha]. Its `sft`
    is the mean over all tokens of the batch, in which a long answer has more weight; where all
    chosen answers of a batch have one length the two are equal.

    Source: Iterative RPO, Pang et al. 2024 (arXiv 2404.19733); also Liu et al. 2024 (arXiv
    2405.16436), who do not divide by the length.
    """
    return -per_token(policy_chosen_logps, chosen_lengths)


def rdpo_loss(
    policy_chosen_logps: Tensor, policy_rejected_logps: Tensor,
    ref_chosen_logps: Tensor, ref_rejected_logps: Tensor,
    chosen_lengths: Tensor, rejected_lengths: Tensor, beta: float, rdpo_alpha: float,
) -> Tensor:  # fmt: skip
    """`rdpo`: (7) with rdpo_alpha reward units for each token more that the chosen answer has.

    The sum of implicit reward and rdpo_alpha |y| is what the labels determine: if labellers add
    so much to the reward of an answer for each of its tokens, what is left for the policy is the
    reward without it.

    Args:
        rdpo_alpha: at least 0, reward units a token; 0 is (7).

    Source: R-DPO, Park et al. 2024 (arXiv 2403.19159).
    """
    check_lengths("chosen_lengths", chosen_lengths)
    check_lengths("rejected_lengths", rejected_lengths)
    check_same_shape(logps=policy_chosen_logps, lengths=chosen_lengths)
    check_same_shape(logps=policy_rejected_logps, lengths=rejected_lengths)
    chosen = implicit_reward(policy_chosen_logps, ref_chosen_logps, beta)
    rejected = implicit_reward(policy_rejected_logps, ref_rejected_logps, beta)
    return reward_loss(
        chosen.add(chosen_lengths, alpha=rdpo_alpha),
        rejected.add(rejected_lengths, alpha=rdpo_alpha),
    )


def sigmoid_norm_loss(
    policy_chosen_logps: Tensor, policy_rejected_logps: Tensor,
    ref_chosen_logps: Tensor, ref_rejected_logps: Tensor,
    chosen_lengths: Tensor, rejected_lengths: Tensor, beta: float,
) -> Tensor:  # fmt: skip
    """`sigmoid_norm`: (7) with each log-ratio divided by its answer's length.

    Source: Tulu 3, Lambert et al. 2024 (arXiv 2411.15124), there "length-normalized DPO".
    """
    return dpo_loss(
        per_token(policy_chosen_logps, chosen_lengths),
        per_token(policy_rejected_logps, rejected_lengths),
        per_token(ref_chosen_logps, chosen_lengths),
        per_token(ref_rejected_logps, rejected_lengths),
        beta,
    )


def simpo_loss(
    policy_chosen_logps: Tensor, policy_rejected_logps: Tensor,
    ref_chosen_logps: Tensor, ref_rejected_logps: Tensor,
    chosen_lengths: Tensor, rejected_lengths: Tensor, beta: float, simpo_gamma: float = 0.5,
) -> Tensor:  # fmt: skip
    """`simpo`: -log sigma(beta (mean log pi(y_w) - mean log pi(y_l)) - gamma).

    The reference plays no part. TRL's `CPOTrainer` adds to loss_type "simpo" an SFT term of weight
    cpo_alpha = 1 unless told otherwise; SimPO itself has none.

    Args:
        simpo_gamma: the margin by which the chosen answer is wanted ahead, reward units; TRL's
            0.5.

    Source: SimPO, Meng et al. 2024 (arXiv 2405.14734), equation (6).
    """
    chosen, rejected = _without_reference(
        policy_chosen_logps, policy_rejected_logps, ref_chosen_logps, ref_rejected_logps,
        chosen_lengths, rejected_lengths,
    )  # fmt: skip
    return reward_loss(beta * chosen - simpo_gamma, beta * rejected)


def orpo_loss(
    policy_chosen_logps: Tensor, policy_rejected_logps: Tensor,
    ref_chosen_logps: Tensor, ref_rejected_logps: Tensor,
    chosen_lengths: Tensor, rejected_lengths: Tensor, beta: float,
) -> Tensor:  # fmt: skip
    """`orpo`: the SFT term, and beta times -log sigma of the two answers' difference in log-odds.

    An answer's probability is here the geometric mean of its tokens' probabilities. The reference
    plays no part; beta is the paper's lambda. TRL's `ORPOTrainer` takes the SFT term over prompt
    and answer and over all tokens of the batch, the paper and this function over the answer.

    Source: ORPO, Hong et al. 2024 (arXiv 2403.07691), equations (6) and (7).
    """
    chosen, rejected = _without_reference(
        policy_chosen_logps, policy_rejected_logps, ref_chosen_logps, ref_rejected_logps,
        chosen_lengths, rejected_lengths,
    )  # fmt: skip
    return -chosen + beta * reward_loss(log_odds(chosen), log_odds(rejected))


def log_odds(logps: Tensor) -> Tensor:
    """log(P / (1 - P)) from log P.

    Probabilities nearer to 1 than a float can tell count as that near: log-odds end at 16 nats in
    float32 and at 36 in float64, and the slope 1 / (1 - P) ends with them.
    """
    near_one = logps.clamp(max=-torch.finfo(logps.dtype).eps)
    return logps - (-torch.expm1(near_one)).log()


def _without_reference(
    policy_chosen_logps: Tensor, policy_rejected_logps: Tensor,
    ref_chosen_logps: Tensor, ref_rejected_logps: Tensor,
    chosen_lengths: Tensor, rejected_lengths: Tensor,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Both answers' mean log-probability under the policy."""
    check_same_shape(
        policy_chosen_logps=policy_chosen_logps, policy_rejected_logps=policy_rejected_logps,
        ref_chosen_logps=ref_chosen_logps, ref_rejected_logps=ref_rejected_logps,
    )  # fmt: skip
    return (
        per_token(policy_chosen_logps, chosen_lengths),
        per_token(policy_rejected_logps, rejected_lengths),
    )
