"""The ledger: every statement of the paper with its function, proof, property, mutant, chapter.

Statements stand in the paper's order, its own slips at the end. Those without a number in the
paper have a name. A.6's lines are numbered (23) to (25) in the order in which they are displayed.
`ledger.run(LEDGER)` checks everything; the ledger page of the book prints what it finds.

Source: Rafailov et al. 2023, sections 3 to 5 and appendix A.
"""

import math
from collections.abc import Callable
from itertools import permutations

import torch
from torch import Tensor
from torch.testing import assert_close

from dpo_lib import evaluation, losses, objective, preferences
from dpo_lib.statements import mutants
from dpo_lib.statements.ledger import Case, Statement
from dpo_lib.statements.proofs import PROOFS
from dpo_lib.statements.theory import THEORY

LEDGER: list[Statement] = []


def _state(
    number: str, title: str, formula: str, function: str, mutant: Callable, chapter: str,
    also: str = "",
):  # fmt: skip
    """Enter the decorated property into the ledger.

    Args:
        also: the other statements, separated by "; ", whose properties notice the mutant.
    """
    noticed_by = frozenset({number, *also.split("; ")} - {""})
    proof = (PROOFS | THEORY)[number]

    def enter(property_: Callable[[Case], None]):
        row = (number, title, formula, function, proof, property_, mutant, noticed_by, chapter)
        LEDGER.append(Statement(*row))
        return property_

    return enter


def _possible(log_ref: Tensor, value: Tensor) -> Tensor:
    """The value where the reference is positive, 0 elsewhere."""
    return torch.where(log_ref.isneginf(), 0.0, value)


def _shift(case: Case) -> Tensor:
    """f(x), another number for each prompt, not small and never 0."""
    prompts = torch.arange(case.world.prompts, dtype=torch.float64)
    return (7.0 - 3.0 * prompts).unsqueeze(-1)


def _same_preferences(reward: Tensor, other: Tensor) -> None:
    tables = map(preferences.preference_table, (reward, other))
    assert_close(*tables, atol=1e-12, rtol=0)


def _equals_implicit_reward(projected: Tensor, reward: Tensor, case: Case) -> None:
    """The projection is beta log(pi_r / pi_ref) for the optimum of `reward`."""
    log_ref, beta = case.world.log_ref, case.beta
    star = objective.optimal_log_policy(reward, log_ref, beta)
    implicit = _possible(log_ref, objective.implicit_reward(star, log_ref, beta))
    assert_close(implicit, _possible(log_ref, projected), atol=1e-11, rtol=1e-11)


def _soft_objective_is_minus_divergence(case: Case) -> None:
    """The mean of (10)'s bracket is -beta KL(pi || pi*) for pi* from (4)."""
    reward, log_ref, beta = case.arguments
    bracket = objective.soft_advantage(reward, case.log_policy, log_ref, beta)
    mean = (case.log_policy.exp() * _possible(log_ref, bracket)).sum(-1)
    star = objective.optimal_log_policy(reward, log_ref, beta)
    assert_close(mean, -beta * objective.kl_divergence(case.log_policy, star))


def _autograd(case):
    """Derivatives of the loss (7) with respect to log pi(y_w) and log pi(y_l)."""
    w, l, ref_w, ref_l = case.pairs  # noqa: E741
    w, l = w.clone().requires_grad_(), l.clone().requires_grad_()  # noqa: E741
    return torch.autograd.grad(losses.dpo_loss(w, l, ref_w, ref_l, case.beta).sum(), (w, l))


@_state(
    "(1)", "Bradley-Terry preference",
    r"p^*(y_1 \succ y_2 \mid x) = \frac{e^{r^*(x,y_1)}}{e^{r^*(x,y_1)} + e^{r^*(x,y_2)}}",
    "preferences.bradley_terry", mutants.first_reward_only, "01_preferences",
    also="Normalised reward; (6); (7); DPO outline; Lemma 1; (16)",
)  # fmt: skip
def _(case):
    """equals the softmax of two rewards; the two orders sum to one"""
    first, second = case.world.true_reward[..., 0], case.world.true_reward[..., 1]
    probability = preferences.bradley_terry(first, second)
    assert_close(probability, first.exp() / (first.exp() + second.exp()))
    assert_close(probability + preferences.bradley_terry(second, first), torch.ones_like(first))


@_state(
    "(2)", "Reward-model loss",
    r"\mathcal{L}_R = -\mathbb{E}\,[\log\sigma(r_\phi(x,y_w) - r_\phi(x,y_l))]",
    "losses.reward_loss", mutants.swapped_sides, "02_reward_model",
    also="(7); DPO gradient; DPO outline; (20); (21); (22)",
)  # fmt: skip
def _(case):
    """its expectation under (1) has gradient zero at the true reward"""
    reward = case.world.true_reward.clone().requires_grad_()
    rows, columns = torch.broadcast_tensors(reward.unsqueeze(-1), reward.unsqueeze(-2))
    weights = torch.sigmoid(rows - columns).detach()
    (weights * losses.reward_loss(rows, columns)).sum().backward()
    assert_close(reward.grad, torch.zeros_like(reward.grad), atol=1e-12, rtol=0)


@_state(
    "Normalised reward", "The mean reward of each prompt is zero",
    r"\mathbb{E}_{x,y}[r_\phi(x, y)] = 0 \text{ for all } x",
    "evaluation.centre", mutants.mean_of_the_batch, "02_reward_model",
)  # fmt: skip
def _(case):
    """every prompt averages to zero, and no preference changes"""
    reward = case.world.true_reward
    centred = evaluation.centre(reward)
    assert_close(centred.sum(-1), torch.zeros_like(reward[..., 0]), atol=1e-12, rtol=0)
    _same_preferences(centred, reward)


@_state(
    "(3)", "KL-constrained objective",
    r"\max_\pi\; \mathbb{E}_{y\sim\pi}[r(x,y)]"
    r" - \beta\,\mathrm{KL}(\pi \,\Vert\, \pi_{\mathrm{ref}})",
    "objective.objective", mutants.penalty_reversed, "03_objective",
    also="PPO reward; (4); (12); (13)",
)  # fmt: skip
def _(case):
    """equals a plain loop over the responses that occur"""
    reward, log_ref, beta = case.arguments
    tables = (table.tolist() for table in (case.log_policy, reward, log_ref))
    wanted = [
        sum(math.exp(p) * (r - beta * (p - q)) for p, r, q in zip(*row, strict=True) if p > -1e9)
        for row in zip(*tables, strict=True)
    ]
    value = objective.objective(case.log_policy, reward, log_ref, beta)
    assert_close(value, torch.tensor(wanted, dtype=torch.float64))


@_state(
    "PPO reward", "The reward that PPO is run on",
    r"r(x,y) = r_\phi(x,y) - \beta\,(\log\pi_\theta(y \mid x) - \log\pi_{\mathrm{ref}}(y \mid x))",
    "objective.kl_shaped_reward", mutants.bonus_not_penalty, "03_objective",
    also="(10); Slip in 5.2",
)  # fmt: skip
def _(case):
    """its mean under the policy is objective (3)"""
    reward, log_ref, beta = case.arguments
    shaped = objective.kl_shaped_reward(reward, case.log_policy, log_ref, beta)
    mean = (case.log_policy.exp() * _possible(log_ref, shaped)).sum(-1)
    assert_close(mean, objective.objective(case.log_policy, reward, log_ref, beta))


@_state(
    "(4)", "The optimal policy",
    r"\pi_r(y \mid x) = \tfrac{1}{Z(x)}\,\pi_{\mathrm{ref}}(y \mid x)\, e^{r(x,y)/\beta}",
    "objective.optimal_log_policy", mutants.reference_forgotten, "05_optimal_policy",
    also="(5); DPO outline; Theorem 1; (9); (10); Valid distribution; (13); (14); (17); (19); "
    "(23); (24); (25); Slip in 5.2",
)  # fmt: skip
def _(case):
    """its objective is beta log Z, and no smaller than a random policy's"""
    reward, log_ref, beta = case.arguments
    star = objective.optimal_log_policy(reward, log_ref, beta)
    best = objective.objective(star, reward, log_ref, beta)
    assert_close(best, beta * objective.log_partition(reward, log_ref, beta))
    assert (best >= objective.objective(case.log_policy, reward, log_ref, beta) - 1e-12).all()


@_state(
    "Z", "The partition function",
    r"Z(x) = \sum_y \pi_{\mathrm{ref}}(y \mid x)\, e^{r(x,y)/\beta}",
    "objective.log_partition", mutants.reward_over_beta, "05_optimal_policy",
    also="(4); (5); (9); (10); (13); (14); (17); (23); (24); (25); Slip in 5.2",
)  # fmt: skip
def _(case):
    """beta log Z lies between the mean and the largest reward; equals the plain sum"""
    reward, log_ref, beta = case.arguments
    log_z = objective.log_partition(reward, log_ref, beta)
    assert_close(log_z, (log_ref.exp() * (reward / beta).exp()).sum(-1).log())
    top = reward.masked_fill(log_ref.isneginf(), -torch.inf).amax(-1)
    assert (beta * log_z <= top + 1e-12).all()
    assert (beta * log_z >= objective.expected_reward(log_ref, reward) - 1e-12).all()


@_state(
    "(5)", "The reward in terms of its optimum",
    r"r(x,y) = \beta\log\frac{\pi_r(y \mid x)}{\pi_{\mathrm{ref}}(y \mid x)} + \beta\log Z(x)",
    "objective.reward_from_policy", mutants.partition_without_beta, "06_implicit_reward",
    also="(23)",
)  # fmt: skip
def _(case):
    """returns the reward from its own optimum, on the support"""
    reward, log_ref, beta = case.arguments
    star = objective.optimal_log_policy(reward, log_ref, beta)
    log_z = objective.log_partition(reward, log_ref, beta)
    back = objective.reward_from_policy(star, log_ref, beta, log_z)
    assert_close(_possible(log_ref, back), _possible(log_ref, reward), atol=1e-9, rtol=1e-9)


@_state(
    "(6)", "The preference in terms of the policy",
    r"p^*(y_1 \succ y_2 \mid x) = \sigma\Big(\beta\log\frac{\pi^*(y_1)}{\pi_{\mathrm{ref}}(y_1)}"
    r" - \beta\log\frac{\pi^*(y_2)}{\pi_{\mathrm{ref}}(y_2)}\Big)",
    "objective.policy_preference", mutants.policy_alone, "06_implicit_reward",
    also="(7)",
)  # fmt: skip
def _(case):
    """at a policy's implicit reward, equals (1) at that reward plus any shift f(x)"""
    w, l, ref_w, ref_l = case.pairs  # noqa: E741
    reward_w, reward_l = (case.beta * (w - ref_w) + 3.0, case.beta * (l - ref_l) + 3.0)
    assert_close(
        objective.policy_preference(w, l, ref_w, ref_l, case.beta),
        preferences.bradley_terry(reward_w, reward_l),
    )


@_state(
    "(7)", "The DPO loss",
    r"\mathcal{L}_{\mathrm{DPO}} = -\mathbb{E}\Big[\log\sigma\Big(\beta\log"
    r"\frac{\pi_\theta(y_w)}{\pi_{\mathrm{ref}}(y_w)} - \beta\log"
    r"\frac{\pi_\theta(y_l)}{\pi_{\mathrm{ref}}(y_l)}\Big)\Big]",
    "losses.dpo_loss", mutants.beta_twice, "07_dpo_loss",
    also="DPO gradient; (20); (21); (22)",
)  # fmt: skip
def _(case):
    """is minus the logarithm of preference (6), and log 2 at the reference"""
    loss = losses.dpo_loss(*case.pairs, case.beta)
    assert_close(loss, -objective.policy_preference(*case.pairs, case.beta).log())
    ref_w, ref_l = case.pairs[2:]
    start = losses.dpo_loss(ref_w, ref_l, ref_w, ref_l, case.beta)
    assert_close(start, torch.full_like(start, math.log(2)))


@_state(
    "DPO gradient", "What the DPO update does",
    r"\nabla_\theta \mathcal{L}_{\mathrm{DPO}} = -\beta\,\mathbb{E}\big[\sigma(\hat r_l - \hat r_w)"
    r"\,(\nabla\log\pi(y_w) - \nabla\log\pi(y_l))\big]",
    "losses.dpo_weight", mutants.weight_swapped, "07_dpo_loss",
    also="(22); Slip in A.4",
)  # fmt: skip
def _(case):
    """autograd's derivatives are minus and plus beta times the weight"""
    weight = losses.dpo_weight(*case.pairs, case.beta)
    by_w, by_l = _autograd(case)
    assert_close(by_w, -case.beta * weight)
    assert_close(by_l, case.beta * weight)


@_state(
    "DPO outline", "Labels from (1), loss (7), policy (4)",
    r"\arg\min_\pi \mathcal{L}_{\mathrm{DPO}}(\pi; \pi_{\mathrm{ref}}) = \pi_{r^*}",
    "losses.table_loss", mutants.loser_first, "07_dpo_loss",
)  # fmt: skip
def _(case):
    """on the labels of (1), (4) has gradient zero and the entropy of the labels as its loss"""
    reward, log_ref, beta = case.arguments
    possible = ~case.impossible
    wins = preferences.population_wins(reward)
    wins = wins * possible.unsqueeze(-1) * possible.unsqueeze(-2)
    star = objective.optimal_log_policy(reward, log_ref, beta)
    implicit = objective.implicit_reward(star, log_ref, beta).masked_fill(case.impossible, 0.0)
    loss = losses.table_loss(implicit.requires_grad_(), wins)
    (slope,) = torch.autograd.grad(loss, implicit)
    assert_close(slope, torch.zeros_like(slope), atol=1e-12, rtol=0)
    assert_close(loss.detach(), preferences.label_entropy(wins))


@_state(
    "Definition 1", "Equivalent rewards",
    r"r \sim r' \iff r(x,y) - r'(x,y) = f(x)",
    "objective.are_equivalent", mutants.same_order, "08_equivalent_rewards",
)  # fmt: skip
def _(case):
    """a shift of each prompt stays in the class; a scale and a shift of one response leave it"""
    reward = case.world.true_reward
    one_response = reward.clone()
    one_response[..., 0] += 1
    assert objective.are_equivalent(reward, reward + _shift(case)).all()
    assert objective.are_equivalent(reward + _shift(case), reward).all()
    assert not objective.are_equivalent(reward, 2 * reward).any()
    assert not objective.are_equivalent(reward, one_response).any()


@_state(
    "Lemma 1", "A class has one preference distribution",
    r"r' = r + f \implies p_{r'}(\tau \mid y_1, \dots, y_K, x) = p_r(\tau \mid y_1, \dots, y_K, x)",
    "preferences.plackett_luce_logp", mutants.pointwise_scores, "08_equivalent_rewards",
    also="(18); (19); (20)",
)  # fmt: skip
def _(case):
    """a shift leaves rankings and pairs as they were; a scale does not"""
    reward = case.world.true_reward
    logp = preferences.plackett_luce_logp(reward, case.ranking)
    assert_close(preferences.plackett_luce_logp(reward + _shift(case), case.ranking), logp)
    assert not preferences.plackett_luce_logp(2 * reward, case.ranking).allclose(logp)
    _same_preferences(reward + _shift(case), reward)


@_state(
    "Lemma 2", "A class has one optimal policy",
    r"r' = r + f \implies \pi_{r'} = \pi_r",
    "objective.optimal_log_policy", mutants.clipped_reward, "08_equivalent_rewards",
    also="(4); (5); DPO outline; Theorem 1; (9); (10); (13); (14); (17); (19); (23); (24); "
    "(25); Slip in 5.2",
)  # fmt: skip
def _(case):
    """a shift leaves the optimum within TV 1e-12; a scale moves it unless beta is scaled too"""
    reward, log_ref, beta = case.arguments
    star = objective.optimal_log_policy(reward, log_ref, beta)
    shifted = objective.optimal_log_policy(reward + _shift(case), log_ref, beta)
    both_scaled = objective.optimal_log_policy(2 * reward, log_ref, 2 * beta)
    assert (evaluation.total_variation(star, shifted) < 1e-12).all()
    assert (evaluation.total_variation(star, both_scaled) < 1e-12).all()
    # Where one response has all but 1e-12 of the probability, only the logarithms still move.
    scaled = objective.optimal_log_policy(2 * reward, log_ref, beta)
    assert (_possible(log_ref, scaled - star).abs().amax(-1) > 1e-4).all()


@_state(
    "Theorem 1", "Every class has an implicit reward",
    r"\exists\,\pi: \quad r \sim \beta\log\frac{\pi(y \mid x)}{\pi_{\mathrm{ref}}(y \mid x)}",
    "objective.implicit_reward", mutants.in_bits, "09_theorem",
    also="PPO reward; (5); (6); DPO gradient; DPO outline; (10); (17); (19); (20); (21); "
    "(22); (23); (24); (25); Slip in A.4; Slip in 5.2",
)  # fmt: skip
def _(case):
    """the implicit reward of the optimum is equivalent to the reward, on the support"""
    reward, log_ref, beta = case.arguments
    star = objective.optimal_log_policy(reward, log_ref, beta)
    implicit = objective.implicit_reward(star, log_ref, beta)
    on_support = [table.gather(-1, case.ranking) for table in (reward, implicit)]
    assert objective.are_equivalent(*on_support).all()


@_state(
    "(8)", "The projection onto the representative",
    r"f(r; \pi_{\mathrm{ref}}, \beta)(x,y) = r(x,y)"
    r" - \beta\log\sum_y \pi_{\mathrm{ref}}(y \mid x)\, e^{r(x,y)/\beta}",
    "objective.project", mutants.projected_without_beta, "09_theorem",
    also="(9); (10); (24); (25); Proposition 1; Slip in 5.2",
)  # fmt: skip
def _(case):
    """stays in the class, and f(f(r)) = f(r)"""
    reward, log_ref, beta = case.arguments
    projected = objective.project(reward, log_ref, beta)
    assert objective.are_equivalent(projected, reward).all()
    assert_close(objective.project(projected, log_ref, beta), projected, atol=1e-12, rtol=1e-12)


@_state(
    "(9)", "The member with Z = 1",
    r"\sum_y \pi_{\mathrm{ref}}(y \mid x)\, e^{r(x,y)/\beta} = 1",
    "objective.project", mutants.projected_to_mean_zero, "09_theorem",
    also="(10); (24); (25); Proposition 1; Slip in 5.2",
)  # fmt: skip
def _(case):
    """after the projection the plain sum is 1, and its terms are the optimal policy"""
    reward, log_ref, beta = case.arguments
    terms = log_ref.exp() * (objective.project(reward, log_ref, beta) / beta).exp()
    assert_close(terms.sum(-1), torch.ones_like(terms[..., 0]), atol=1e-12, rtol=0)
    assert_close(terms, objective.optimal_log_policy(reward, log_ref, beta).exp())


@_state(
    "(10)", "The objective with the soft value subtracted",
    r"\max_\pi\; \mathbb{E}_{y\sim\pi}\Big[f(r; \pi_{\mathrm{ref}}, \beta)(x,y)"
    r" - \beta\log\frac{\pi(y \mid x)}{\pi_{\mathrm{ref}}(y \mid x)}\Big]",
    "objective.soft_advantage", mutants.soft_value_forgotten, "11_actor_critic",
    also="Slip in 5.2",
)  # fmt: skip
def _(case):
    """its mean is -beta KL(pi || pi*); at the optimum it is 0 for every response"""
    _soft_objective_is_minus_divergence(case)
    reward, log_ref, beta = case.arguments
    star = objective.optimal_log_policy(reward, log_ref, beta)
    at_star = objective.soft_advantage(reward, star, log_ref, beta)
    assert_close(_possible(log_ref, at_star), torch.zeros_like(reward), atol=1e-12, rtol=0)


@_state(
    "(11)", "The objective, for any reward and all policies",
    r"\max_\pi\; \mathbb{E}_{x,\,y\sim\pi}[r(x,y)] - \beta\,\mathrm{KL}",
    "objective.objective", mutants.penalty_added, "05_optimal_policy",
    also="(3); PPO reward; (4); (12); (13)",
)  # fmt: skip
def _(case):
    """is strictly concave: halfway between two policies it is above the mean of both"""
    reward, log_ref, beta = case.arguments
    middle = torch.logaddexp(case.log_policy, log_ref) - math.log(2)
    ends = [objective.objective(end, reward, log_ref, beta) for end in (case.log_policy, log_ref)]
    assert (objective.objective(middle, reward, log_ref, beta) > sum(ends) / 2).all()


@_state(
    "(12)", "Adding and subtracting log Z",
    r"\min_\pi \mathbb{E}_{y\sim\pi}\Big[\log\frac{\pi}{\frac1Z \pi_{\mathrm{ref}}\,e^{r/\beta}}"
    r" - \log Z(x)\Big]",
    "objective.objective", mutants.penalty_reversed, "05_optimal_policy",
    also="(3); PPO reward; (4); (13)",
)  # fmt: skip
def _(case):
    """equals -J / beta for any positive number in the place of Z"""
    reward, log_ref, beta = case.arguments
    wanted = -objective.objective(case.log_policy, reward, log_ref, beta) / beta
    for log_c in (0.0, 1.7):
        denominator = log_ref + reward / beta - log_c
        ratio = _possible(log_ref, case.log_policy - denominator)
        assert_close((case.log_policy.exp() * (ratio - log_c)).sum(-1), wanted)


@_state(
    "Valid distribution", "The optimum is a distribution",
    r"\pi^*(y \mid x) = \tfrac{1}{Z(x)}\pi_{\mathrm{ref}}(y \mid x)\, e^{r(x,y)/\beta} \ge 0,"
    r"\quad \sum_y \pi^*(y \mid x) = 1",
    "objective.optimal_log_policy", mutants.first_answer_for_partition, "05_optimal_policy",
    also="(4); (5); Lemma 2; (9); (10); (13); (14); (15); (17); (23); (24); (25); Slip in 5.2",
)  # fmt: skip
def _(case):
    """sums to one, and is positive exactly where the reference is"""
    star = objective.optimal_log_policy(*case.arguments).exp()
    assert_close(star.sum(-1), torch.ones_like(star[..., 0]), atol=1e-12, rtol=0)
    assert ((star > 0) == ~case.impossible).all()


@_state(
    "(13)", "The optimum in the denominator",
    r"\min_\pi \mathbb{E}_{y\sim\pi}\Big[\log\frac{\pi(y \mid x)}{\pi^*(y \mid x)}\Big]"
    r" - \log Z(x)",
    "objective.log_partition", mutants.uniform_partition, "05_optimal_policy",
    also="(4); Z; (5); (9); (10); (14); (17); (23); (24); (25); Slip in 5.2",
)  # fmt: skip
def _(case):
    """equals -J / beta with the library's optimum and Z"""
    reward, log_ref, beta = case.arguments
    star = objective.optimal_log_policy(reward, log_ref, beta)
    ratio = _possible(log_ref, case.log_policy - star)
    line = (case.log_policy.exp() * ratio).sum(-1) - objective.log_partition(reward, log_ref, beta)
    assert_close(line, -objective.objective(case.log_policy, reward, log_ref, beta) / beta)


@_state(
    "(14)", "The objective as a distance to the optimum",
    r"\min_\pi\; \mathrm{KL}(\pi \,\Vert\, \pi^*) - \log Z(x)",
    "objective.kl_divergence", mutants.reversed_kl, "05_optimal_policy",
    also="(3); PPO reward; (4); (10); (12); (13); Slip in 5.2",
)  # fmt: skip
def _(case):
    """E[r] - beta KL(pi || ref) = beta log Z - beta KL(pi || pi*)"""
    reward, log_ref, beta = case.arguments
    star = objective.optimal_log_policy(reward, log_ref, beta)
    log_z = objective.log_partition(reward, log_ref, beta)
    left = objective.expected_reward(case.log_policy, reward) - beta * objective.kl_divergence(
        case.log_policy, log_ref
    )
    assert_close(left, beta * log_z - beta * objective.kl_divergence(case.log_policy, star))


@_state(
    "(15)", "Gibbs' inequality",
    r"\mathrm{KL}(\pi \,\Vert\, \pi^*) \ge 0,\ = 0 \iff \pi = \pi^*",
    "objective.kl_divergence", mutants.cross_entropy, "05_optimal_policy",
    also="(3); PPO reward; (4); (10); (11); (12); (13); Slip in 5.2",
)  # fmt: skip
def _(case):
    """KL is positive between different policies and zero from a policy to itself"""
    star = objective.optimal_log_policy(*case.arguments)
    assert (objective.kl_divergence(case.log_policy, star) > 0).all()
    assert (objective.kl_divergence(star, star).abs() < 1e-14).all()


@_state(
    "(16)", "Bradley-Terry, restated for the derivation of (6)",
    r"p^*(y_1 \succ y_2 \mid x) = \sigma(r^*(x,y_1) - r^*(x,y_2))",
    "preferences.preference_table", mutants.transposed, "06_implicit_reward",
    also="DPO outline",
)  # fmt: skip
def _(case):
    """the table of all pairs has odds exp(r_i - r_j)"""
    reward = case.world.true_reward
    table = preferences.preference_table(reward)
    gaps = reward.unsqueeze(-1) - reward.unsqueeze(-2)
    assert_close((table / table.transpose(-1, -2)).log(), gaps)


@_state(
    "(17)", "The true reward through its optimum",
    r"r^*(x,y) = \beta\log\frac{\pi^*(y \mid x)}{\pi_{\mathrm{ref}}(y \mid x)} + \beta\log Z(x)",
    "objective.implicit_reward", mutants.beta_missing, "06_implicit_reward",
    also="PPO reward; (5); (6); DPO gradient; DPO outline; Theorem 1; (10); (19); (20); (21); "
    "(22); (23); (24); (25); Slip in A.4; Slip in 5.2",
)  # fmt: skip
def _(case):
    """implicit rewards of the optimum differ from the true ones by beta log Z(x) alone"""
    reward, log_ref, beta = case.arguments
    implicit = objective.implicit_reward(
        objective.optimal_log_policy(reward, log_ref, beta), log_ref, beta
    )
    shift = (beta * objective.log_partition(reward, log_ref, beta)).unsqueeze(-1)
    assert_close(_possible(log_ref, implicit + shift), _possible(log_ref, reward))


@_state(
    "(18)", "Plackett-Luce ranking",
    r"p^*(\tau \mid y_1, \dots, y_K, x) = \prod_{k=1}^{K} \frac{e^{r^*(x, y_{\tau(k)})}}"
    r"{\sum_{j=k}^{K} e^{r^*(x, y_{\tau(j)})}}",
    "preferences.plackett_luce_logp", mutants.all_pairs, "10_rankings",
    also="(20)",
)  # fmt: skip
def _(case):
    """the orders of up to four responses add up to one; two responses give (1)"""
    reward, ranking = case.world.true_reward, case.ranking[..., :4]
    orders = (ranking[..., list(order)] for order in permutations(range(ranking.shape[-1])))
    whole = sum(preferences.plackett_luce_logp(reward, order).exp() for order in orders)
    assert_close(whole, torch.ones_like(whole))
    w, l = reward.gather(-1, ranking[..., :2]).unbind(-1)  # noqa: E741
    pair = preferences.plackett_luce_logp(reward, ranking[..., :2])
    assert_close(pair.exp(), torch.sigmoid(w - l))


@_state(
    "(19)", "The ranking in terms of the policy",
    r"p^*(\tau \mid y_1, \dots, y_K, x) = \prod_{k=1}^{K} \frac{\exp(\beta\log"
    r"\frac{\pi^*(y_{\tau(k)})}{\pi_{\mathrm{ref}}(y_{\tau(k)})})}{\sum_{j=k}^{K} \exp(\beta\log"
    r"\frac{\pi^*(y_{\tau(j)})}{\pi_{\mathrm{ref}}(y_{\tau(j)})})}",
    "objective.policy_ranking_logp", mutants.ranking_without_reference, "10_rankings",
    also="(20)",
)  # fmt: skip
def _(case):
    """at the optimum, equals (18) at the reward, for a ranking of all possible responses"""
    reward, log_ref, beta = case.arguments
    star = objective.optimal_log_policy(reward, log_ref, beta)
    implied = objective.policy_ranking_logp(star, log_ref, case.ranking, beta)
    assert_close(implied, preferences.plackett_luce_logp(reward, case.ranking))


@_state(
    "(20)", "The DPO loss for rankings",
    r"\mathcal{L}_{\mathrm{DPO}} = -\mathbb{E}\Big[\log\prod_{k=1}^{K} \frac{\exp(\beta\log"
    r"\frac{\pi_\theta(y_{\tau(k)})}{\pi_{\mathrm{ref}}(y_{\tau(k)})})}{\sum_{j=k}^{K}"
    r" \exp(\beta\log\frac{\pi_\theta(y_{\tau(j)})}{\pi_{\mathrm{ref}}(y_{\tau(j)})})}\Big]",
    "losses.plackett_luce_dpo_loss", mutants.best_answer_only, "10_rankings",
)  # fmt: skip
def _(case):
    """equals a plain loop over the places; log K! at the reference; (7) for two responses"""
    log_ref, beta, ranking = case.world.log_ref, case.beta, case.ranking
    implicit = beta * (case.log_policy - log_ref).gather(-1, ranking)
    places = range(ranking.shape[-1])
    loop = sum(implicit[..., k:].logsumexp(-1) - implicit[..., k] for k in places)
    assert_close(losses.plackett_luce_dpo_loss(case.log_policy, log_ref, ranking, beta), loop)
    start = losses.plackett_luce_dpo_loss(log_ref, log_ref, ranking, beta)
    assert_close(start, torch.full_like(start, math.lgamma(len(places) + 1)))
    two = losses.plackett_luce_dpo_loss(case.log_policy, log_ref, ranking[..., :2], beta)
    assert_close(two, losses.dpo_loss(*case.pairs, beta))


@_state(
    "(21)", "The gradient of (7), before simplifying",
    r"\nabla_\theta\mathcal{L}_{\mathrm{DPO}} = -\mathbb{E}\Big[\frac{\sigma'(u)}{\sigma(u)}"
    r"\nabla_\theta u\Big],\quad u = \hat r_w - \hat r_l",
    "losses.dpo_loss", mutants.loss_swapped, "07_dpo_loss",
    also="(7); DPO gradient; (20); (22)",
)  # fmt: skip
def _(case):
    """autograd agrees with sigma'(u) / sigma(u) for u = chosen minus rejected"""
    w, l, ref_w, ref_l = case.pairs  # noqa: E741
    u = case.beta * ((w - ref_w) - (l - ref_l))
    slope = torch.sigmoid(u) * (1 - torch.sigmoid(u)) / torch.sigmoid(u)
    assert_close(_autograd(case)[0], -case.beta * slope)


@_state(
    "(22)", "The gradient of (7), with the sign that A.4 misprints corrected",
    r"\nabla_\theta\mathcal{L}_{\mathrm{DPO}} = -\mathbb{E}\big[\beta\,\sigma(\hat r_l - \hat r_w)"
    r"(\nabla\log\pi(y_w) - \nabla\log\pi(y_l))\big]",
    "losses.dpo_weight", mutants.constant_weight, "07_dpo_loss",
    also="DPO gradient; Slip in A.4",
)  # fmt: skip
def _(case):
    """autograd through a softmax moves the two logits of the pair and no other"""
    logits = case.log_policy.masked_fill(case.impossible, -1e3).requires_grad_()
    logps = logits.log_softmax(-1)
    w, l = case.ranking[..., :1], case.ranking[..., 1:2]  # noqa: E741
    pair = [table.gather(-1, y)[..., 0] for table in (logps, case.world.log_ref) for y in (w, l)]
    (slope,) = torch.autograd.grad(losses.dpo_loss(*pair, case.beta).sum(), logits)
    pull = (case.beta * losses.dpo_weight(*pair, case.beta)).unsqueeze(-1)
    wanted = torch.zeros_like(slope).scatter(-1, w, -pull).scatter(-1, l, pull)
    assert_close(slope, wanted)


@_state(
    "(23)", "A.6: any reward through its optimal policy",
    r"r(x,y) = \beta\log\frac{\pi_r(y \mid x)}{\pi_{\mathrm{ref}}(y \mid x)} + \beta\log Z(x)",
    "objective.reward_from_policy", mutants.partition_subtracted, "09_theorem",
    also="(5)",
)  # fmt: skip
def _(case):
    """each member of a class comes back from the one policy and its own Z"""
    reward, log_ref, beta = case.arguments
    member = reward + _shift(case)
    star = objective.optimal_log_policy(reward, log_ref, beta)
    log_z = objective.log_partition(member, log_ref, beta)
    back = objective.reward_from_policy(star, log_ref, beta, log_z)
    assert_close(_possible(log_ref, back), _possible(log_ref, member), atol=1e-9, rtol=1e-9)


@_state(
    "(24)", "A.6: the projection is an implicit reward",
    r"r'(x,y) = f(r; \pi_{\mathrm{ref}}, \beta)(x,y)"
    r" = \beta\log\frac{\pi_r(y \mid x)}{\pi_{\mathrm{ref}}(y \mid x)}",
    "objective.project", mutants.mean_for_soft_value, "09_theorem",
    also="(9); (10); (25); Proposition 1; Slip in 5.2",
)  # fmt: skip
def _(case):
    """the projection equals beta log(pi_r / pi_ref) on the support"""
    reward, log_ref, beta = case.arguments
    _equals_implicit_reward(objective.project(reward, log_ref, beta), reward, case)


@_state(
    "(25)", "A.6: one projection for a class",
    r"f(r; \pi_{\mathrm{ref}}, \beta) = \beta\log\frac{\pi_r}{\pi_{\mathrm{ref}}}"
    r" = \beta\log\frac{\pi_{r'}}{\pi_{\mathrm{ref}}} = f(r'; \pi_{\mathrm{ref}}, \beta)",
    "objective.project", mutants.projected_without_reference, "09_theorem",
    also="(9); (10); (24); Proposition 1; Slip in 5.2",
)  # fmt: skip
def _(case):
    """two members of a class have one projection, the implicit reward of either's policy"""
    reward, log_ref, beta = case.arguments
    member = reward + _shift(case)
    projected = objective.project(reward, log_ref, beta)
    assert_close(objective.project(member, log_ref, beta), projected, atol=1e-11, rtol=1e-11)
    _equals_implicit_reward(projected, member, case)


@_state(
    "Proposition 1", "The representative is unique",
    r"\beta\log\frac{\pi'}{\pi_{\mathrm{ref}}} = \beta\log\frac{\pi}{\pi_{\mathrm{ref}}} + f(x)"
    r" \implies f = 0",
    "objective.log_partition", mutants.maximum_not_added_back, "09_theorem",
    also="(4); Z; (5); (8); (9); (10); (13); (14); (17); (23); (24); (25); Slip in 5.2",
)  # fmt: skip
def _(case):
    """the member f(x) away from the representative has log Z = f(x) / beta, so Z = 1 once only"""
    reward, log_ref, beta = case.arguments
    member = objective.project(reward, log_ref, beta) + _shift(case)
    log_z = objective.log_partition(member, log_ref, beta)
    assert_close(log_z, _shift(case)[..., 0] / beta, atol=1e-9, rtol=1e-9)


@_state(
    "Slip in A.4", "The weight is printed the wrong way round",
    r"\sigma(\hat r_w - \hat r_l) \ne \sigma(\hat r_l - \hat r_w)",
    "losses.dpo_weight", mutants.weight_swapped, "07_dpo_loss",
    also="DPO gradient; (22)",
)  # fmt: skip
def _(case):
    """the printed weight exceeds the true one by tanh(u / 2), u the margin"""
    w, l, ref_w, ref_l = case.pairs  # noqa: E741
    u = case.beta * ((w - ref_w) - (l - ref_l))
    printed = torch.sigmoid(u)
    assert_close(printed - losses.dpo_weight(*case.pairs, case.beta), torch.tanh(u / 2))


@_state(
    "Slip in 5.2", "The optimal policy comes from (4), not from (7)",
    r"\min_\pi \mathrm{KL}(\pi \,\Vert\, \pi^*), \quad \pi^* \text{ of (4)}",
    "objective.optimal_log_policy", mutants.pair_preference, "11_actor_critic",
    also="(4); (5); DPO outline; Lemma 2; Theorem 1; (9); (10); Valid distribution; (13); "
    "(14); (15); (17); (19); (23); (24); (25)",
)  # fmt: skip
def _(case):
    """(10) is -beta KL(pi || pi*) for pi* from (4)"""
    _soft_objective_is_minus_divergence(case)


@_state(
    "Slip on Table 3", "Unlikelihood is not the loss without its weight",
    r"\nabla[-\log\pi(y_w) + \alpha\log\pi(y_l)] \propto -(\nabla\log\pi(y_w)"
    r" - \nabla\log\pi(y_l)) \iff \alpha = 1",
    "losses.unlikelihood_loss", mutants.weighted_unlikelihood, "07_dpo_loss",
)  # fmt: skip
def _(case):
    """its derivatives are -1 and alpha at every margin: opposite for alpha = 1 alone"""
    w, l = (logps.clone().requires_grad_() for logps in case.pairs[:2])  # noqa: E741
    for alpha in (0.5, 1.0):
        loss = losses.unlikelihood_loss(w, l, alpha).sum()
        by_w, by_l = torch.autograd.grad(loss, (w, l))
        assert_close(by_w, torch.full_like(w, -1.0))
        assert_close(by_l, torch.full_like(l, alpha))
