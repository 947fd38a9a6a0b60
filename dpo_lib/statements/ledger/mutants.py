"""Plausible wrong versions of the library's functions, one for each statement of the ledger.

Each is a bug that someone has written or could write; its docstring says which, with the number
of the misreading (S1 and so on) or of the bug of public code (D1 and so on) where it has one.
`checking.mutated` puts a mutant in the place of the function whose arguments it takes.
"""

import torch
from torch.nn.functional import logsigmoid

from dpo_lib import objective, preferences


def swapped_sides(chosen_rewards, rejected_rewards):
    """chosen and rejected exchanged (D7)"""
    return -logsigmoid(rejected_rewards - chosen_rewards)


def first_reward_only(chosen_rewards, rejected_rewards):
    """sigmoid of one reward instead of the difference (S13)"""
    return torch.sigmoid(chosen_rewards)


def reversed_kl(log_policy, log_ref):
    """KL(pi_ref || pi) instead of KL(pi || pi_ref)"""
    possible = ~log_ref.isneginf()
    return torch.where(possible, log_ref.exp() * (log_ref - log_policy), 0.0).nansum(-1)


def cross_entropy(log_policy, log_ref):
    """the cross-entropy, which forgets the entropy of pi"""
    return -(log_policy.exp() * log_ref.masked_fill(log_ref.isneginf(), 0.0)).sum(-1)


def penalty_added(log_policy, reward, log_ref, beta):
    """the KL added instead of subtracted (D4)"""
    kl = objective.kl_divergence(log_policy, log_ref)
    return objective.expected_reward(log_policy, reward) + beta * kl


def penalty_reversed(log_policy, reward, log_ref, beta):
    """the KL taken from the reference to the policy"""
    kl = reversed_kl(log_policy, log_ref)
    return objective.expected_reward(log_policy, reward) - beta * kl


def bonus_not_penalty(reward, log_policy, log_ref, beta):
    """the log-ratio added instead of subtracted (J2)"""
    return reward + objective.implicit_reward(log_policy, log_ref, beta)


def reward_over_beta(reward, log_ref, beta):
    """log Z = r / beta, because pi_ref sums to one (S1)"""
    return reward[..., 0] / beta


def uniform_partition(reward, log_ref, beta):
    """Z summed without the weights of the reference"""
    return (reward / beta).logsumexp(-1)


def reference_forgotten(reward, log_ref, beta):
    """softmax(r / beta) without the reference (S2)"""
    return (reward / beta).log_softmax(-1)


def partition_without_beta(log_policy, log_ref, beta, log_partition):
    """shifted by log Z instead of beta log Z (S11)"""
    return objective.implicit_reward(log_policy, log_ref, beta) + log_partition.unsqueeze(-1)


def policy_alone(w, l, ref_w, ref_l, beta):  # noqa: E741
    """the reference left out of the implicit reward"""
    return torch.sigmoid(beta * (w - l))


def beta_missing(policy_logps, ref_logps, beta):
    """the log-ratio without beta"""
    return policy_logps - ref_logps.masked_fill(policy_logps.isneginf(), 0.0)


def beta_twice(w, l, ref_w, ref_l, beta):  # noqa: E741
    """beta applied twice (D1)"""
    return -logsigmoid(beta * beta * (w - ref_w - l + ref_l))


def loss_swapped(w, l, ref_w, ref_l, beta):  # noqa: E741
    """y_w and y_l exchanged inside sigma, as A.4 prints"""
    return -logsigmoid(-beta * (w - ref_w - l + ref_l))


def weight_swapped(w, l, ref_w, ref_l, beta):  # noqa: E741
    """sigma(r_hat_w - r_hat_l), the weight that A.4 prints"""
    return torch.sigmoid(beta * (w - ref_w - l + ref_l))


def transposed(reward):
    """row and column exchanged: who lost instead of who won"""
    return torch.sigmoid(reward.unsqueeze(-2) - reward.unsqueeze(-1))


def mean_of_the_batch(reward):
    """the mean over all prompts subtracted, one number instead of one for each prompt"""
    return reward - reward.mean((-2, -1), keepdim=True)


def loser_first(table, wins):
    """rows of the win table read as losers"""
    margin = table.unsqueeze(-2) - table.unsqueeze(-1)
    loss = -logsigmoid(torch.where(wins > 0, margin, 0.0))
    return (wins * loss).sum((-3, -2, -1)) / wins.sum((-3, -2, -1))


def same_order(reward, other, tolerance=1e-9):
    """rewards that rank the responses alike taken for equivalent (S8)"""
    return (reward.argsort(-1) == other.argsort(-1)).all(-1)


def pointwise_scores(rewards, ranking):
    """each response scored alone, sigmoid of its own reward (S13)"""
    return logsigmoid(rewards.gather(-1, ranking)).sum(-1)


def all_pairs(rewards, ranking):
    """the preferences of all pairs of the ranking multiplied (S26)"""
    ordered = rewards.gather(-1, ranking)
    gaps = ordered.unsqueeze(-1) - ordered.unsqueeze(-2)
    return logsigmoid(gaps).triu(1).sum((-2, -1))


def clipped_reward(reward, log_ref, beta):
    """the reward clipped to [-1, 1] first"""
    weights = log_ref + reward.clamp(-1, 1) / beta
    return weights.log_softmax(-1)


def first_answer_for_partition(reward, log_ref, beta):
    """exp(r / beta) of the first response in the place of Z (S1)"""
    return log_ref + (reward - reward[..., :1]) / beta


def pair_preference(reward, log_ref, beta):
    """exp(-(7)) against the first response instead of (4), as 5.2 cites"""
    return logsigmoid(reward - reward[..., :1]).masked_fill(log_ref.isneginf(), -torch.inf)


def in_bits(policy_logps, ref_logps, beta):
    """logarithms to base 2"""
    ratio = policy_logps - ref_logps.masked_fill(policy_logps.isneginf(), 0.0)
    return beta * ratio / torch.tensor(2.0).log()


def projected_without_beta(reward, log_ref, beta):
    """log Z subtracted instead of beta log Z (S11)"""
    return reward - objective.log_partition(reward, log_ref, beta).unsqueeze(-1)


def projected_to_mean_zero(reward, log_ref, beta):
    """the member of the class with mean zero, not the one with Z = 1"""
    return reward - reward.mean(-1, keepdim=True)


def mean_for_soft_value(reward, log_ref, beta):
    """the reference's mean reward subtracted instead of its soft value"""
    return reward - (log_ref.exp() * reward).sum(-1, keepdim=True)


def projected_without_reference(reward, log_ref, beta):
    """Z summed without the weights of the reference"""
    return reward - beta * (reward / beta).logsumexp(-1, keepdim=True)


def soft_value_forgotten(reward, log_policy, log_ref, beta):
    """the soft value not subtracted: PPO's own reward"""
    return objective.kl_shaped_reward(reward, log_policy, log_ref, beta)


def ranking_without_reference(policy_logps, ref_logps, ranking, beta):
    """the reference left out of the ranking"""
    return preferences.plackett_luce_logp(beta * policy_logps, ranking)


def best_answer_only(policy_logps, ref_logps, ranking, beta):
    """the product of (20) broken off after the best response"""
    implicit = objective.implicit_reward(policy_logps, ref_logps, beta).gather(-1, ranking)
    return -implicit.log_softmax(-1)[..., 0]


def partition_subtracted(log_policy, log_ref, beta, log_partition):
    """beta log Z subtracted instead of added"""
    implicit = objective.implicit_reward(log_policy, log_ref, beta)
    return implicit - beta * log_partition.unsqueeze(-1)


def maximum_not_added_back(reward, log_ref, beta):
    """a stable sum of exponentials whose maximum is subtracted and never added back"""
    weights = log_ref + (reward - reward.amax(-1, keepdim=True)) / beta
    return weights.logsumexp(-1)


def constant_weight(w, l, ref_w, ref_l, beta):  # noqa: E741
    """the weight held at 1/2, its value at the start"""
    return torch.full_like(w, 0.5)


def weighted_unlikelihood(w, l, alpha):  # noqa: E741
    """a sigmoid put around the difference, which gives the loss a weight"""
    return -logsigmoid(w - alpha * l)
