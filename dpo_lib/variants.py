"""The losses that followed DPO, under TRL's names: hinge, IPO, label smoothing, and others.

All have the signature of `dpo_lib.losses.dpo_loss`, some with one setting more, and return one
value for each pair. They are made of the implicit rewards (5) of the two answers and of their
margin z, whose sigmoid is the preference (6). Formulas are those of TRL 1.16's `DPOTrainer`;
where this one differs, the docstring says so. `LOSSES` has these and the losses of `per_token`;
`choose_loss` fills in settings, and adds what goes with several losses: an SFT term, another
divergence.

One file, and a long one: fourteen losses are compared line by line, and a third of the lines are
their signatures, which are all that of `dpo_loss` so that each can be called in its place. What
the arguments are, with shapes and units, is said once, at `implicit_rewards`.

Left out: `aot` and `aot_unpaired` sort a whole batch, so that no pair has a loss of its own and
an update depends on how its batch is split; `sft` has no rejected answer, and is here the term
`rpo_alpha`; `kto`, a loss of single answers, is in `unpaired`.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from dpo_lib._checks import check_beta, check_finite, check_same_shape
from dpo_lib._loss_names import check_alpha, check_label_smoothing, check_loss
from dpo_lib.divergences import scores_as_logps
from dpo_lib.losses import dpo_loss, reward_loss, unlikelihood_loss
from dpo_lib.objective import implicit_reward, kl_divergence
from dpo_lib.per_token import nll_loss, orpo_loss, rdpo_loss, sigmoid_norm_loss, simpo_loss


def implicit_rewards(
    policy_chosen_logps: Tensor, policy_rejected_logps: Tensor,
    ref_chosen_logps: Tensor, ref_rejected_logps: Tensor, beta: float,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """The implicit rewards (5) of the chosen and of the rejected answer.

    Args:
        policy_chosen_logps, policy_rejected_logps: log pi_theta of the whole response, summed
            over its tokens, shape (batch,), nats. Finite, unlike in `dpo_loss`: several losses
            have no limit at an impossible answer.
        ref_chosen_logps, ref_rejected_logps: the same under the reference policy.
        beta: > 0, reward units per nat. With beta = 1 the rewards are log-ratios, in nats.

    Returns:
        two tensors of shape (batch,), reward units. The losses below take the same arguments
        and return the same shape.
    """
    chosen = implicit_reward(policy_chosen_logps, ref_chosen_logps, beta)
    rejected = implicit_reward(policy_rejected_logps, ref_rejected_logps, beta)
    check_same_shape(chosen_rewards=chosen, rejected_rewards=rejected)
    check_finite("chosen_rewards", chosen)
    check_finite("rejected_rewards", rejected)
    return chosen, rejected


def hinge_loss(
    policy_chosen_logps: Tensor, policy_rejected_logps: Tensor,
    ref_chosen_logps: Tensor, ref_rejected_logps: Tensor, beta: float,
) -> Tensor:  # fmt: skip
    """`hinge`: max(0, 1 - z). A pair teaches nothing once its margin is 1.

    Source: SLiC-HF, Zhao et al. 2023 (arXiv 2305.10425), on the log-ratios of RSO, Liu et al.
    2023 (arXiv 2309.06657).
    """
    chosen, rejected = implicit_rewards(
        policy_chosen_logps, policy_rejected_logps, ref_chosen_logps, ref_rejected_logps, beta
    )
    return torch.relu(1 - (chosen - rejected))


def ipo_loss(
    policy_chosen_logps: Tensor, policy_rejected_logps: Tensor,
    ref_chosen_logps: Tensor, ref_rejected_logps: Tensor, beta: float,
) -> Tensor:  # fmt: skip
    """`ipo`: (h - 1 / (2 beta))^2, h the margin of the log-ratios. Least at h = 1 / (2 beta).

    beta is the paper's tau; the margin that is aimed at is finite, so labels that never
    contradict each other do not drive the policy away from the reference for ever.

    TRL divides each log-ratio by its completion's length, on the authors' advice (pull request
    1265 of 2024); the paper's equation has the whole response, and so has this function. At
    log-probabilities divided by their lengths it returns TRL's value.

    Source: Azar et al. 2023 (arXiv 2310.12036), equation (17).
    """
    check_beta(beta)
    chosen, rejected = implicit_rewards(
        policy_chosen_logps, policy_rejected_logps, ref_chosen_logps, ref_rejected_logps, beta=1
    )
    return (chosen - rejected - 1 / (2 * beta)).square()


def cdpo_loss(
    policy_chosen_logps: Tensor, policy_rejected_logps: Tensor,
    ref_chosen_logps: Tensor, ref_rejected_logps: Tensor, beta: float, label_smoothing: float,
) -> Tensor:  # fmt: skip
    """`cdpo`: (7) if a share of the labels is wrong, (1 - eps) L(z) + eps L(-z).

    Least where sigma(z) = 1 - eps: a preference as sure as the labels, and no surer. The
    authors' code and earlier versions of TRL call it `sigmoid` with `label_smoothing`, and
    `choose_loss` takes it under that name too; TRL 1.16 ignores the setting there in silence.

    Args:
        label_smoothing: eps in [0, 1/2), the share of labels expected to be flipped.

    Source: Mitchell 2023, "A note on DPO with noisy preferences and relationship to IPO".
    """
    eps = check_label_smoothing(label_smoothing)
    loss, flipped = _loss_and_flipped(
        policy_chosen_logps, policy_rejected_logps, ref_chosen_logps, ref_rejected_logps, beta
    )
    return (1 - eps) * loss + eps * flipped


def robust_loss(
    policy_chosen_logps: Tensor, policy_rejected_logps: Tensor,
    ref_chosen_logps: Tensor, ref_rejected_logps: Tensor, beta: float, label_smoothing: float,
) -> Tensor:  # fmt: skip
    """`robust`: ((1 - eps) L(z) - eps L(-z)) / (1 - 2 eps), the unbiased (7).

    If each label is flipped with probability eps, its mean is L(z) at the true label. The price
    is that it has no lower bound: the surer the policy, the lower, and steadily so.

    Args:
        label_smoothing: eps in [0, 1/2), the share of labels that are flipped.

    Source: rDPO, Chowdhury, Kini and Natarajan 2024 (arXiv 2403.00409).
    """
    eps = check_label_smoothing(label_smoothing)
    loss, flipped = _loss_and_flipped(
        policy_chosen_logps, policy_rejected_logps, ref_chosen_logps, ref_rejected_logps, beta
    )
    return ((1 - eps) * loss - eps * flipped) / (1 - 2 * eps)


def exo_pair_loss(
    policy_chosen_logps: Tensor, policy_rejected_logps: Tensor,
    ref_chosen_logps: Tensor, ref_rejected_logps: Tensor, beta: float, label_smoothing: float,
) -> Tensor:  # fmt: skip
    """`exo_pair`: KL of the policy's preference, sigma(z), to a label that is 1 - eps sure.

    The reverse of the divergence that `cdpo_loss` minimises; least at the same margin, where
    it is 0.

    Args:
        label_smoothing: eps in (0, 1/2); the paper recommends 0.001. At 0 the divergence to a
            certain label is infinite.

    Source: EXO, Ji et al. 2024 (arXiv 2402.00856), equation (16).
    """
    eps = check_label_smoothing(label_smoothing, positive=True)
    loss, flipped = _loss_and_flipped(
        policy_chosen_logps, policy_rejected_logps, ref_chosen_logps, ref_rejected_logps, beta
    )
    log_preference = torch.stack([-loss, -flipped], -1)  # log sigma(z), log sigma(-z)
    log_label = log_preference.new_tensor([math.log1p(-eps), math.log(eps)])
    return kl_divergence(log_preference, log_label.expand_as(log_preference))


def nca_pair_loss(
    policy_chosen_logps: Tensor, policy_rejected_logps: Tensor,
    ref_chosen_logps: Tensor, ref_rejected_logps: Tensor, beta: float,
) -> Tensor:  # fmt: skip
    """`nca_pair`: each answer against a reward of 0; the chosen one's is wanted at log 2.

    It holds the chosen answer's likelihood up, where (7) may lower both.

    Source: NCA, Chen et al. 2024 (arXiv 2402.05369).
    """
    chosen, rejected = implicit_rewards(
        policy_chosen_logps, policy_rejected_logps, ref_chosen_logps, ref_rejected_logps, beta
    )
    zero = torch.zeros_like(chosen)
    noise = (reward_loss(zero, chosen) + reward_loss(zero, rejected)) / 2
    return reward_loss(chosen, zero) + noise


def bco_pair_loss(
    policy_chosen_logps: Tensor, policy_rejected_logps: Tensor,
    ref_chosen_logps: Tensor, ref_rejected_logps: Tensor, beta: float,
) -> Tensor:  # fmt: skip
    """`bco_pair`: a classifier of single answers, chosen above reward 0 and rejected below.

    As in TRL 1.16, without the paper's running mean of the rewards in the place of 0.

    Source: BCO, Jung et al. 2024 (arXiv 2404.04656).
    """
    chosen, rejected = implicit_rewards(
        policy_chosen_logps, policy_rejected_logps, ref_chosen_logps, ref_rejected_logps, beta
    )
    zero = torch.zeros_like(chosen)
    return reward_loss(chosen, zero) + reward_loss(zero, rejected)


def sppo_hard_loss(
    policy_chosen_logps: Tensor, policy_rejected_logps: Tensor,
    ref_chosen_logps: Tensor, ref_rejected_logps: Tensor, beta: float,
) -> Tensor:  # fmt: skip
    """`sppo_hard`: log-ratios of 1 / (2 beta) for the chosen answer, minus that for the other.

    The squares of both distances, added. The paper's win probability is 1 or 0 here.

    Source: SPPO, Wu et al. 2024 (arXiv 2405.00675), equation (4.7).
    """
    check_beta(beta)
    chosen, rejected = implicit_rewards(
        policy_chosen_logps, policy_rejected_logps, ref_chosen_logps, ref_rejected_logps, beta=1
    )
    return (chosen - 1 / (2 * beta)).square() + (rejected + 1 / (2 * beta)).square()


def apo_zero_loss(
    policy_chosen_logps: Tensor, policy_rejected_logps: Tensor,
    ref_chosen_logps: Tensor, ref_rejected_logps: Tensor, beta: float,
) -> Tensor:  # fmt: skip
    """`apo_zero`: raise the chosen answer, lower the rejected; for answers better than pi_ref's.

    Source: APO, D'Oosterlinck et al. 2024 (arXiv 2408.06266), equation (7).
    """
    chosen, rejected = implicit_rewards(
        policy_chosen_logps, policy_rejected_logps, ref_chosen_logps, ref_rejected_logps, beta
    )
    return torch.sigmoid(-chosen) + torch.sigmoid(rejected)


def apo_down_loss(
    policy_chosen_logps: Tensor, policy_rejected_logps: Tensor,
    ref_chosen_logps: Tensor, ref_rejected_logps: Tensor, beta: float,
) -> Tensor:  # fmt: skip
    """`apo_down`: lower both answers, the rejected more; for answers worse than pi_ref's.

    Source: APO, D'Oosterlinck et al. 2024 (arXiv 2408.06266), equation (8).
    """
    chosen, rejected = implicit_rewards(
        policy_chosen_logps, policy_rejected_logps, ref_chosen_logps, ref_rejected_logps, beta
    )
    return torch.sigmoid(chosen) + torch.sigmoid(rejected - chosen)


def discopop_loss(
    policy_chosen_logps: Tensor, policy_rejected_logps: Tensor,
    ref_chosen_logps: Tensor, ref_rejected_logps: Tensor, beta: float, tau: float = 0.05,
) -> Tensor:  # fmt: skip
    """`discopop`: from the logistic loss (7) at negative margins to exp(-z) at positive ones.

    sigma(-z / tau) L(z) + sigma(z / tau) exp(-z), found by a language model's search. It rises
    for a moment at z = 0: it is neither convex nor monotone.

    Args:
        tau: width of the passage, in (0, 1]; the paper's 0.05.

    Source: DiscoPOP, Lu et al. 2024 (arXiv 2406.08414), equation (5).
    """
    if not 0 < tau <= 1:
        raise ValueError(f"tau must lie in (0, 1], got {tau}")
    chosen, rejected = implicit_rewards(
        policy_chosen_logps, policy_rejected_logps, ref_chosen_logps, ref_rejected_logps, beta
    )
    margin = chosen - rejected
    # In one exponent: exp(-z) alone overflows where sigma(z / tau) is 0, and inf * 0 is NaN.
    exponential = torch.exp(F.logsigmoid(margin / tau) - margin)
    return torch.sigmoid(-margin / tau) * reward_loss(chosen, rejected) + exponential


def unlikelihood_pair_loss(
    policy_chosen_logps: Tensor, policy_rejected_logps: Tensor,
    ref_chosen_logps: Tensor, ref_rejected_logps: Tensor, alpha: float,
) -> Tensor:  # fmt: skip
    """`unlikelihood`: the paper's baseline, `dpo_lib.losses.unlikelihood_loss`, per pair.

    The reference plays no part. It has no lower bound: the rejected answer's log-probability
    can fall for ever.

    Args:
        alpha: in [0, 1], weight of the rejected answer.

    Source: Rafailov et al. 2023, appendix C.3; Welleck et al. 2019 (arXiv 1908.04319).
    """
    check_alpha(alpha)
    check_same_shape(chosen=policy_chosen_logps, reference=ref_chosen_logps)
    check_same_shape(rejected=policy_rejected_logps, reference=ref_rejected_logps)
    return unlikelihood_loss(policy_chosen_logps, policy_rejected_logps, alpha)


def dpop_loss(
    policy_chosen_logps: Tensor, policy_rejected_logps: Tensor,
    ref_chosen_logps: Tensor, ref_rejected_logps: Tensor, beta: float, dpop_lambda: float = 50.0,
) -> Tensor:  # fmt: skip
    """`dpop`: (7), and a negative reward of the chosen answer counts 1 + lambda times.

    -log sigma(z - lambda max(0, -r_w)): (7) may lower both answers; here the chosen one is held
    to its probability under the reference. TRL does not have it.

    Args:
        dpop_lambda: at least 0, where it is (7); the paper's 50.

    Source: DPO-Positive, in Smaug, Pal et al. 2024 (arXiv 2402.13228).
    """
    chosen, rejected = implicit_rewards(
        policy_chosen_logps, policy_rejected_logps, ref_chosen_logps, ref_rejected_logps, beta
    )
    return reward_loss(chosen - dpop_lambda * torch.relu(-chosen), rejected)


@dataclass(frozen=True)
class Loss:
    """A loss of the family.

    name: TRL's, where it has one.
    function: takes four tensors of log-probabilities and, by name, the settings.
    settings: those it uses, of beta and `_loss_names.OWN`.
    lengths: whether it takes chosen_lengths and rejected_lengths after the log-probabilities.
    """

    name: str
    function: Callable[..., Tensor]
    settings: tuple[str, ...] = ("beta",)
    lengths: bool = False


LOSSES = {
    loss.name: loss
    for loss in (
        Loss("sigmoid", dpo_loss),
        Loss("cdpo", cdpo_loss, ("beta", "label_smoothing")),
        Loss("robust", robust_loss, ("beta", "label_smoothing")),
        Loss("hinge", hinge_loss),
        Loss("ipo", ipo_loss),
        Loss("exo_pair", exo_pair_loss, ("beta", "label_smoothing")),
        Loss("nca_pair", nca_pair_loss),
        Loss("bco_pair", bco_pair_loss),
        Loss("sppo_hard", sppo_hard_loss),
        Loss("apo_zero", apo_zero_loss),
        Loss("apo_down", apo_down_loss),
        Loss("discopop", discopop_loss),
        Loss("unlikelihood", unlikelihood_pair_loss, ("alpha",)),
        Loss("dpop", dpop_loss, ("beta", "dpop_lambda")),
        Loss("rdpo", rdpo_loss, ("beta", "rdpo_alpha"), lengths=True),
        Loss("sigmoid_norm", sigmoid_norm_loss, lengths=True),
        Loss("simpo", simpo_loss, ("beta", "simpo_gamma"), lengths=True),
        Loss("orpo", orpo_loss, lengths=True),
    )
}


def choose_loss(
    name: str, beta: float, label_smoothing: float = 0.0, alpha: float | None = None, *,
    dpop_lambda: float | None = None, rdpo_alpha: float | None = None,
    simpo_gamma: float | None = None, rpo_alpha: float | None = None,
    f_divergence_type: str = "reverse_kl", f_alpha_divergence_coef: float | None = None,
) -> Callable[..., Tensor]:  # fmt: skip
    """The loss of a name, with its settings filled in.

    Args:
        name: a key of `LOSSES`; `sigmoid` with label_smoothing is `cdpo`.
        beta: > 0; always given, because rewards are measured in it whatever the loss.
        label_smoothing: 0 says nothing, and every loss accepts it.
        alpha, dpop_lambda, rdpo_alpha, simpo_gamma: a loss's own; None says nothing.
        rpo_alpha: at least 0, weight of `per_token.nll_loss`, which is added to the loss.
        f_divergence_type: of objective (3), for losses that see two log-ratios by their
            difference; see `divergences`.
        f_alpha_divergence_coef: of alpha_divergence; TRL's 0.5 if None.

    Returns:
        a function of policy_chosen_logps, policy_rejected_logps, ref_chosen_logps and
        ref_rejected_logps, and if the loss or rpo_alpha asks for them, of chosen_lengths and
        rejected_lengths; others let these pass.

    Raises:
        ValueError: for a setting that the loss would ignore, lacks, or cannot take.
    """
    told = {
        "label_smoothing": label_smoothing, "alpha": alpha, "dpop_lambda": dpop_lambda,
        "rdpo_alpha": rdpo_alpha, "simpo_gamma": simpo_gamma, "rpo_alpha": rpo_alpha,
        "f_divergence_type": f_divergence_type, "f_alpha_divergence_coef": f_alpha_divergence_coef,
    }  # fmt: skip
    loss = LOSSES[check_loss(name, beta, **told)]
    given = {key: value for key, value in ({"beta": beta} | told).items() if value is not None}
    own, divergence = (
        {key: given[key] for key in keys if key in given}
        for keys in (loss.settings, ("f_divergence_type", "f_alpha_divergence_coef"))
    )

    def of_pairs(*tensors: Tensor) -> Tensor:
        logps, lengths = tensors[:4], tensors[4:]
        if f_divergence_type != "reverse_kl":
            logps = scores_as_logps(*logps, **divergence)
        losses = loss.function(*logps, *(lengths if loss.lengths else ()), **own)
        return losses + rpo_alpha * nll_loss(tensors[0], *lengths[:1]) if rpo_alpha else losses

    return of_pairs


def _loss_and_flipped(
    policy_chosen_logps: Tensor, policy_rejected_logps: Tensor,
    ref_chosen_logps: Tensor, ref_rejected_logps: Tensor, beta: float,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """L(z) and L(-z): what (7) costs if the label is right, and if it is flipped."""
    chosen, rejected = implicit_rewards(
        policy_chosen_logps, policy_rejected_logps, ref_chosen_logps, ref_rejected_logps, beta
    )
    return reward_loss(chosen, rejected), reward_loss(rejected, chosen)
