"""f-divergences in the place of the KL: what becomes of (3), (4), (5), (6), and of a loss.

D_f(pi || pi_ref) = E_ref[f(t)] with t = pi / pi_ref, f convex, f(1) = 0 and here f'(1) = 0::

    name              f(t)                                       f'(t)
    reverse_kl        t log t - t + 1                            log t
    forward_kl        -log t + t - 1                             1 - 1 / t
    js_divergence     t log t - (1 + t) log((1 + t) / 2)         log(2 t / (1 + t))
    alpha_divergence  (t^a - a t + a - 1) / (a (a - 1))          (t^(a - 1) - 1) / (a - 1)

Reverse KL is the paper's, and the limit of the last line at a = 1; forward KL, which is
KL(pi_ref || pi), is its limit at a = 0. With D_f in the place of the KL::

    (3)  E_pi[r] - beta D_f(pi || pi_ref)
    (4)  pi = pi_ref g((r - c(x)) / beta), g the inverse of f'
    (5)  r = beta f'(pi / pi_ref) + c(x)

c(x) is what makes the probabilities sum to 1. It has a formula, beta log Z(x), for the reverse KL
alone; but it is one number for all answers of a prompt, so that it cancels from (6) as Z does. A
loss that sees log-ratios by their difference is therefore right for D_f with f'(t) in the place
of log t.

Two things change. Where f'(0) is finite (a > 1), an answer whose reward is below
c(x) - beta / (a - 1) gets probability 0, and (5) holds for the others only. Where f' has a
ceiling (log 2 in js_divergence, 1 in forward_kl, 1 / (1 - a) for a < 1), so has the chosen
answer's share of a margin, which from there on grows by lowering the rejected answer.

Names, and f' as the losses use it, are TRL's. Wang et al. write 1 - a for this a.

Source: Wang et al. 2023 (arXiv 2309.16240); Go et al. 2023 (arXiv 2302.08215).
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from dpo_lib._checks import check_log_policy, checked
from dpo_lib.objective import implicit_reward, kl_divergence


@checked("log_policy log_ref", log_policy=check_log_policy, log_ref=check_log_policy)
def f_divergence(
    log_policy: Tensor,
    log_ref: Tensor,
    f_divergence_type: str,
    f_alpha_divergence_coef: float = 0.5,
) -> Tensor:
    """D_f(pi || pi_ref) for each prompt, in nats.

    Args:
        log_policy, log_ref: shape (..., prompts, responses).
        f_divergence_type: a name of the table above. Jensen-Shannon is KL(pi || m) +
            KL(pi_ref || m) with m the mean of both, twice the usual one.
        f_alpha_divergence_coef: a, for alpha_divergence only.

    Returns:
        shape (..., prompts), at least 0; +inf where the divergence is.
    """
    if f_divergence_type == "js_divergence":
        middle = torch.logaddexp(log_policy, log_ref) - math.log(2)
        return kl_divergence(log_policy, middle) + kl_divergence(log_ref, middle)
    a = _exponent(f_divergence_type, f_alpha_divergence_coef)
    if a in (0, 1):
        return kl_divergence(*((log_policy, log_ref) if a else (log_ref, log_policy)))
    never = log_policy.isneginf() & log_ref.isneginf()
    powers = (a * log_policy + (1 - a) * log_ref).masked_fill(never, -torch.inf)
    return torch.expm1(powers.logsumexp(-1)) / (a * (a - 1))


def divergence_score(
    log_ratio: Tensor, f_divergence_type: str, f_alpha_divergence_coef: float = 0.5
) -> Tensor:
    """f'(t) at t = exp(log_ratio): what a loss sees in the place of log t.

    From half of the largest exponent on, log-ratios of 44 nats in float32 and 354 in float64, the
    exponential goes on as its tangent: value and slope stay finite, and the slope does not
    vanish. (TRL has no bound in forward_kl; in alpha_divergence it has one at 80, beyond which
    the gradient is 0.)

    Args:
        log_ratio: log pi - log pi_ref, any shape, nats.

    Returns:
        the same shape; 0 where policy and reference agree.
    """
    if f_divergence_type == "js_divergence":
        return math.log(2) + F.logsigmoid(log_ratio)
    power = _exponent(f_divergence_type, f_alpha_divergence_coef) - 1
    return _expm1(power * log_ratio) / power if power else log_ratio


def scores_as_logps(
    policy_chosen_logps: Tensor, policy_rejected_logps: Tensor,
    ref_chosen_logps: Tensor, ref_rejected_logps: Tensor,
    f_divergence_type: str, f_alpha_divergence_coef: float = 0.5,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """Four log-probabilities whose log-ratios are f'(t) of the given ones: what to call a loss at.

    Returns:
        the scores of the chosen and of the rejected answer, and a reference of 0 for each.
    """
    scores = [
        divergence_score(
            implicit_reward(policy, ref, 1), f_divergence_type, f_alpha_divergence_coef
        )
        for policy, ref in (
            (policy_chosen_logps, ref_chosen_logps),
            (policy_rejected_logps, ref_rejected_logps),
        )
    ]
    return *scores, torch.zeros_like(scores[0]), torch.zeros_like(scores[1])


def _exponent(f_divergence_type: str, f_alpha_divergence_coef: float) -> float:
    """The a of a divergence; the two KLs are members of the alpha family."""
    return {"reverse_kl": 1, "forward_kl": 0}.get(f_divergence_type, f_alpha_divergence_coef)


def _expm1(x: Tensor) -> Tensor:
    """exp(x) - 1, continued by its tangent where the square of exp(x) would overflow."""
    top = math.log(torch.finfo(x.dtype).max) / 2
    return torch.expm1(x.clamp(max=top)) + math.exp(top) * (x - top).clamp(min=0)
