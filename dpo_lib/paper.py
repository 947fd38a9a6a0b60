"""The ledger: every statement of the paper with its function, proof, property, mutant, chapter.

A *property* checks the library's function on a random world against something computed another
way. A *mutant* replaces a library function by a plausible wrong one; the property must then
fail on some world, which shows that it looks at what it claims to look at. The ledger page of
the book prints what `run` finds.
"""

import contextlib
import math
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid
from torch.testing import assert_close

from dpo_lib import losses, objective, preferences
from dpo_lib.proofs import PROOFS, Proof
from dpo_lib.world import World, random_world


@dataclass(frozen=True)
class Case:
    """A random world, a beta, and a random policy on the reference's support."""

    world: World
    beta: float
    log_policy: Tensor

    @property
    def arguments(self) -> tuple[Tensor, Tensor, float]:
        return self.world.true_reward, self.world.log_ref, self.beta

    @property
    def pairs(self) -> tuple[Tensor, ...]:
        """Log-probabilities of two responses to each prompt, policy first, then reference."""
        possible = self.world.log_ref.argsort(-1, descending=True)
        w, l = possible[..., :1], possible[..., 1:2]  # noqa: E741
        tables = (self.log_policy, self.world.log_ref)
        return tuple(table.gather(-1, y)[..., 0] for table in tables for y in (w, l))


@dataclass(frozen=True)
class Statement:
    """One row of the ledger."""

    number: str
    title: str
    formula: str  # TeX
    function: str  # "module.name" in dpo_lib
    property: Callable[[Case], None]  # raises AssertionError; its docstring is the claim
    mutant: Callable  # takes the place of `function`; its docstring says what is wrong
    chapter: str  # file name in book/

    @property
    def proof(self) -> Proof:
        return PROOFS[self.number]()


@dataclass(frozen=True)
class Outcome:
    """What `run` found for one statement."""

    statement: Statement
    steps: int  # sympy steps proved
    controls: int  # sympy controls refuted
    cases: int  # random worlds on which the property held
    caught: int  # of them, worlds on which the mutant was caught


def cases(count: int, seed: int = 0) -> Iterator[Case]:
    """Random cases: 1-4 prompts, 2-8 responses, some impossible, beta from 0.05 to 20."""
    generator = torch.Generator().manual_seed(seed)
    for _ in range(count):
        prompts, responses = (int(torch.randint(a, b, (), generator=generator))
                              for a, b in ((1, 5), (2, 9)))  # fmt: skip
        impossible = int(torch.randint(0, responses - 1, (), generator=generator))
        world = random_world(generator, prompts, responses, impossible=impossible)
        log_beta = torch.empty(()).uniform_(math.log(0.05), math.log(20), generator=generator)
        noise = torch.randn(world.log_ref.shape, generator=generator, dtype=torch.float64)
        yield Case(world, log_beta.exp().item(), (world.log_ref + noise).log_softmax(-1))


@contextlib.contextmanager
def mutated(function: str, mutant: Callable) -> Iterator[None]:
    """Replace a library function everywhere in dpo_lib, and put it back at the end."""
    module, name = function.split(".")
    original = getattr(sys.modules[f"dpo_lib.{module}"], name)
    ours = [place for path, place in sys.modules.items() if path.split(".")[0] == "dpo_lib"]
    places = [(place, key) for place in ours
              for key, value in vars(place).items() if value is original]  # fmt: skip
    try:
        for place, key in places:
            setattr(place, key, mutant)
        yield
    finally:
        for place, key in places:
            setattr(place, key, original)


def holds(statement: Statement, case: Case) -> bool:
    """Whether the statement's property holds on a case; a raised error counts as failing."""
    try:
        statement.property(case)
    except (AssertionError, ValueError):
        return False
    return True


def run(count: int = 50) -> list[Outcome]:
    """Check the whole ledger: proofs, properties on `count` worlds, mutants on the same worlds.

    Raises:
        AssertionError: if a proof or a property fails, or a mutant is never caught.
    """
    drawn, outcomes = list(cases(count)), []
    for statement in LEDGER:
        proof = statement.proof
        proof.check()
        for case in drawn:
            statement.property(case)
        with mutated(statement.function, statement.mutant):
            caught = sum(not holds(statement, case) for case in drawn)
        assert caught, f"{statement.number}: its mutant passes on all {count} worlds"
        sizes = len(proof.steps), len(proof.controls)
        outcomes.append(Outcome(statement, *sizes, count, caught))
    return outcomes


def table(outcomes: list[Outcome]) -> str:
    """The ledger at a glance, a Markdown table of counts."""
    lines = [
        "| No. | Statement | steps proved | controls refuted | worlds held | mutant caught |",
        "|---|---|--:|--:|--:|--:|",
    ]
    for found in outcomes:
        row = found.statement
        counts = (found.steps, found.controls, found.cases, found.caught)
        lines.append(f"| {row.number} | {row.title} | {' | '.join(map(str, counts))} |")
    return "\n".join(lines)


def details(outcomes: list[Outcome]) -> str:
    """The ledger in words, a Markdown paragraph and list for each statement."""
    return "\n\n".join(
        f"**{row.number}.** {row.title}: `{row.function}`, "
        f"[chapter {int(row.chapter[:2])}]({row.chapter}.ipynb)\n\n"
        f"$${row.formula}$$\n\n"
        f"- *property:* {row.property.__doc__}\n"
        f"- *mutant:* {row.mutant.__doc__}"
        for row in (found.statement for found in outcomes)
    )


LEDGER: list[Statement] = []


def _state(number: str, title: str, formula: str, function: str, mutant: Callable, chapter: str):
    """Enter the decorated property into the ledger."""

    def enter(property_: Callable[[Case], None]):
        LEDGER.append(Statement(number, title, formula, function, property_, mutant, chapter))
        return property_

    return enter


def _possible(log_ref: Tensor, value: Tensor) -> Tensor:
    """The value where the reference is positive, 0 elsewhere."""
    return torch.where(log_ref.isneginf(), 0.0, value)


def _swapped_sides(chosen_rewards, rejected_rewards):
    """chosen and rejected exchanged (D7)"""
    return -logsigmoid(rejected_rewards - chosen_rewards)


def _first_reward_only(chosen_rewards, rejected_rewards):
    """sigmoid of one reward instead of the difference (S13)"""
    return torch.sigmoid(chosen_rewards)


def _reversed_kl(log_policy, log_ref):
    """KL(pi_ref || pi) instead of KL(pi || pi_ref)"""
    possible = ~log_ref.isneginf()
    return torch.where(possible, log_ref.exp() * (log_ref - log_policy), 0.0).nansum(-1)


def _cross_entropy(log_policy, log_ref):
    """the cross-entropy, which forgets the entropy of pi"""
    return -(log_policy.exp() * _possible(log_ref, log_ref)).sum(-1)


def _penalty_added(log_policy, reward, log_ref, beta):
    """the KL added instead of subtracted (D4)"""
    kl = objective.kl_divergence(log_policy, log_ref)
    return objective.expected_reward(log_policy, reward) + beta * kl


def _penalty_reversed(log_policy, reward, log_ref, beta):
    """the KL taken from the reference to the policy"""
    kl = _reversed_kl(log_policy, log_ref)
    return objective.expected_reward(log_policy, reward) - beta * kl


def _bonus_not_penalty(reward, log_policy, log_ref, beta):
    """the log-ratio added instead of subtracted (J2)"""
    return reward + objective.implicit_reward(log_policy, log_ref, beta)


def _reward_over_beta(reward, log_ref, beta):
    """log Z = r / beta, because pi_ref sums to one (S1)"""
    return reward[..., 0] / beta


def _uniform_partition(reward, log_ref, beta):
    """Z summed without the weights of the reference"""
    return (reward / beta).logsumexp(-1)


def _reference_forgotten(reward, log_ref, beta):
    """softmax(r / beta) without the reference (S2)"""
    return (reward / beta).log_softmax(-1)


def _partition_without_beta(log_policy, log_ref, beta, log_partition):
    """shifted by log Z instead of beta log Z (S11)"""
    return objective.implicit_reward(log_policy, log_ref, beta) + log_partition.unsqueeze(-1)


def _policy_alone(w, l, ref_w, ref_l, beta):  # noqa: E741
    """the reference left out of the implicit reward"""
    return torch.sigmoid(beta * (w - l))


def _beta_missing(policy_logps, ref_logps, beta):
    """the log-ratio without beta"""
    return policy_logps - ref_logps.masked_fill(policy_logps.isneginf(), 0.0)


def _beta_twice(w, l, ref_w, ref_l, beta):  # noqa: E741
    """beta applied twice (D1)"""
    return -logsigmoid(beta * beta * (w - ref_w - l + ref_l))


def _loss_swapped(w, l, ref_w, ref_l, beta):  # noqa: E741
    """y_w and y_l exchanged inside sigma, as A.4 prints"""
    return -logsigmoid(-beta * (w - ref_w - l + ref_l))


def _weight_swapped(w, l, ref_w, ref_l, beta):  # noqa: E741
    """sigma(r_hat_w - r_hat_l), the weight that A.4 prints"""
    return torch.sigmoid(beta * (w - ref_w - l + ref_l))


def _transposed(reward):
    """row and column exchanged: who lost instead of who won"""
    return torch.sigmoid(reward.unsqueeze(-2) - reward.unsqueeze(-1))


@_state(
    "(1)", "Bradley-Terry preference",
    r"p^*(y_1 \succ y_2 \mid x) = \frac{e^{r^*(x,y_1)}}{e^{r^*(x,y_1)} + e^{r^*(x,y_2)}}",
    "preferences.bradley_terry", _first_reward_only, "01_preferences",
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
    "losses.reward_loss", _swapped_sides, "02_reward_model",
)  # fmt: skip
def _(case):
    """its expectation under (1) has gradient zero at the true reward"""
    reward = case.world.true_reward.clone().requires_grad_()
    rows, columns = torch.broadcast_tensors(reward.unsqueeze(-1), reward.unsqueeze(-2))
    weights = torch.sigmoid(rows - columns).detach()
    (weights * losses.reward_loss(rows, columns)).sum().backward()
    assert_close(reward.grad, torch.zeros_like(reward.grad), atol=1e-12, rtol=0)


@_state(
    "(3)", "KL-constrained objective",
    r"\max_\pi\; \mathbb{E}_{y\sim\pi}[r(x,y)]"
    r" - \beta\,\mathrm{KL}(\pi \,\Vert\, \pi_{\mathrm{ref}})",
    "objective.objective", _penalty_reversed, "03_objective",
)  # fmt: skip
def _(case):
    """equals a plain loop over the responses that occur"""
    reward, log_ref, beta = case.arguments
    wanted = [
        sum(lp.exp() * (r - beta * (lp - lr)) for lp, r, lr in zip(*row, strict=True) if lp > -1e9)
        for row in zip(case.log_policy, reward, log_ref, strict=True)
    ]
    assert_close(objective.objective(case.log_policy, reward, log_ref, beta), torch.stack(wanted))


@_state(
    "PPO reward", "The reward that PPO is run on",
    r"r(x,y) = r_\phi(x,y) - \beta\,(\log\pi_\theta(y \mid x) - \log\pi_{\mathrm{ref}}(y \mid x))",
    "objective.kl_shaped_reward", _bonus_not_penalty, "03_objective",
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
    "objective.optimal_log_policy", _reference_forgotten, "05_optimal_policy",
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
    "objective.log_partition", _reward_over_beta, "05_optimal_policy",
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
    "objective.reward_from_policy", _partition_without_beta, "06_implicit_reward",
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
    "objective.policy_preference", _policy_alone, "06_implicit_reward",
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
    "losses.dpo_loss", _beta_twice, "07_dpo_loss",
)  # fmt: skip
def _(case):
    """is minus the logarithm of preference (6), and log 2 at the reference"""
    loss = losses.dpo_loss(*case.pairs, case.beta)
    assert_close(loss, -objective.policy_preference(*case.pairs, case.beta).log())
    ref_w, ref_l = case.pairs[2:]
    start = losses.dpo_loss(ref_w, ref_l, ref_w, ref_l, case.beta)
    assert_close(start, torch.full_like(start, math.log(2)))


def _autograd(case):
    """Derivatives of the loss (7) with respect to log pi(y_w) and log pi(y_l)."""
    w, l, ref_w, ref_l = case.pairs  # noqa: E741
    w, l = w.clone().requires_grad_(), l.clone().requires_grad_()  # noqa: E741
    return torch.autograd.grad(losses.dpo_loss(w, l, ref_w, ref_l, case.beta).sum(), (w, l))


@_state(
    "DPO gradient", "What the DPO update does",
    r"\nabla_\theta \mathcal{L}_{\mathrm{DPO}} = -\beta\,\mathbb{E}\big[\sigma(\hat r_l - \hat r_w)"
    r"\,(\nabla\log\pi(y_w) - \nabla\log\pi(y_l))\big]",
    "losses.dpo_weight", _weight_swapped, "07_dpo_loss",
)  # fmt: skip
def _(case):
    """autograd's derivatives are minus and plus beta times the weight"""
    weight = losses.dpo_weight(*case.pairs, case.beta)
    by_w, by_l = _autograd(case)
    assert_close(by_w, -case.beta * weight)
    assert_close(by_l, case.beta * weight)


@_state(
    "(11)", "The objective, for any reward and all policies",
    r"\max_\pi\; \mathbb{E}_{x,\,y\sim\pi}[r(x,y)] - \beta\,\mathrm{KL}",
    "objective.objective", _penalty_added, "05_optimal_policy",
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
    "objective.objective", _penalty_reversed, "05_optimal_policy",
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
    "(13)", "The optimum in the denominator",
    r"\min_\pi \mathbb{E}_{y\sim\pi}\Big[\log\frac{\pi(y \mid x)}{\pi^*(y \mid x)}\Big]"
    r" - \log Z(x)",
    "objective.log_partition", _uniform_partition, "05_optimal_policy",
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
    "objective.kl_divergence", _reversed_kl, "05_optimal_policy",
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
    "objective.kl_divergence", _cross_entropy, "05_optimal_policy",
)  # fmt: skip
def _(case):
    """KL is positive between different policies and zero from a policy to itself"""
    star = objective.optimal_log_policy(*case.arguments)
    assert (objective.kl_divergence(case.log_policy, star) > 0).all()
    assert (objective.kl_divergence(star, star).abs() < 1e-14).all()


@_state(
    "(16)", "Bradley-Terry, restated for the derivation of (6)",
    r"p^*(y_1 \succ y_2 \mid x) = \sigma(r^*(x,y_1) - r^*(x,y_2))",
    "preferences.preference_table", _transposed, "06_implicit_reward",
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
    "objective.implicit_reward", _beta_missing, "06_implicit_reward",
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
    "(21)", "The gradient of (7), before simplifying",
    r"\nabla_\theta\mathcal{L}_{\mathrm{DPO}} = -\mathbb{E}\Big[\frac{\sigma'(u)}{\sigma(u)}"
    r"\nabla_\theta u\Big],\quad u = \hat r_w - \hat r_l",
    "losses.dpo_loss", _loss_swapped, "07_dpo_loss",
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
    "losses.dpo_weight", _weight_swapped, "07_dpo_loss",
)  # fmt: skip
def _(case):
    """the printed weight differs from the true one by tanh(u / 2)"""
    w, l, ref_w, ref_l = case.pairs  # noqa: E741
    u = case.beta * ((w - ref_w) - (l - ref_l))
    printed = torch.sigmoid(u)
    assert_close(printed - losses.dpo_weight(*case.pairs, case.beta), torch.tanh(u / 2))
