"""KTO: a loss of single answers, each called desirable or not; no answer is compared with another.

What an answer's implicit reward (5) is compared with instead is a reference point, the same for
the whole batch: how far the policy has moved on the whole, which is measured and not trained.

Source: Ethayarajh et al. 2024 (arXiv 2402.01306); equations are numbered as TRL 1.16 cites them,
whose `KTOTrainer` has the same formulas.
"""

import torch
from torch import Tensor

from dpo_lib._checks import check_beta, check_finite, check_positive, checked
from dpo_lib.objective import implicit_reward


@checked("policy_logps ref_logps", policy_logps=check_finite, ref_logps=check_finite)
def reference_point(policy_logps: Tensor, ref_logps: Tensor) -> Tensor:
    """z_0, the estimate of KL(policy || reference) that KTO compares rewards with, below (7).

    The mean of log pi_theta(y' | x) - log pi_ref(y' | x) over a batch, cut off below at 0. Each
    y' is an answer to another prompt of the data, so the policy is asked about texts that it is
    not being trained on here. It is biased (y' are not the policy's own samples) and cheap.

    Args:
        policy_logps, ref_logps: log-probabilities of whole mismatched answers, shape (batch,),
            nats. The whole batch: a mean that is cut off cannot be put together from parts.

    Returns:
        a scalar, nats, at least 0, without a gradient.
    """
    return (policy_logps - ref_logps).mean().detach().clamp(min=0)


@checked(
    "policy_logps ref_logps labels",
    policy_logps=check_finite,
    ref_logps=check_finite,
    beta=check_beta,
    desirable_weight=check_positive,
    undesirable_weight=check_positive,
)
def kto_loss(
    policy_logps: Tensor, ref_logps: Tensor, labels: Tensor, kl: Tensor | float, beta: float,
    desirable_weight: float = 1.0, undesirable_weight: float = 1.0,
) -> Tensor:  # fmt: skip
    """The KTO loss of each answer, equation (7): lambda_y - v(x, y).

    lambda_D (1 - sigma(beta (h - z_0))) for a desirable answer and lambda_U (1 - sigma(beta
    (z_0 - h))) for another, h its log-ratio. It lies between 0 and lambda, so an answer far on
    either side of z_0 has next to no gradient, be it long since learned or hopelessly wrong.

    Args:
        policy_logps: log pi_theta of the whole answer, summed over its tokens, shape (batch,),
            nats, finite.
        ref_logps: the same under the reference policy.
        labels: true where the answer is desirable, shape (batch,), bool.
        kl: z_0, a number of at least 0, nats; no gradient passes through it.
        beta: > 0, reward units per nat.
        desirable_weight, undesirable_weight: lambda_D and lambda_U, > 0.

    Returns:
        shape (batch,); half an answer's weight where policy and reference agree and kl is 0.
    """
    if labels.dtype != torch.bool:
        raise ValueError(f"labels must be bool, got {labels.dtype}")
    kl = torch.as_tensor(kl, dtype=policy_logps.dtype).detach()
    if kl.ndim or (kl.device.type == "cpu" and not 0 <= kl < torch.inf):
        raise ValueError(f"kl must be one finite number of at least 0, got {kl.tolist()}")
    gain = implicit_reward(policy_logps, ref_logps, beta) - beta * kl
    return torch.where(
        labels, desirable_weight * torch.sigmoid(-gain), undesirable_weight * torch.sigmoid(gain)
    )
