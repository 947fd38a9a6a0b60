"""The paper's statements proved by sympy, each with false claims that it must refute.

There is one prompt. Where its answers are sequences there are K = 3 of them, and no step uses
that K is 3; where sums are written with `total`, K is a symbol. `PROOFS` finds the proofs by
number, in the paper's order, its slips at the end; those without a number have a name. A.6's
lines are numbered (23) to (25) in the order in which they are displayed.
"""

from dpo_lib.statements.proofs import (
    derivations,
    rankings,
    section_3,
    section_4,
    section_5,
    slips,
    theorem,
)
from dpo_lib.statements.proofs.proof import Proof, Step

__all__ = ["PROOFS", "Proof", "Step"]

PROOFS = {
    "(1)": section_3.prove_bradley_terry,
    "(2)": section_3.prove_reward_loss,
    "Normalised reward": section_3.prove_normalised_reward,
    "(3)": section_3.prove_objective,
    "PPO reward": section_3.prove_ppo_reward,
    "(4)": section_4.prove_optimal_policy,
    "Z": section_4.prove_partition,
    "(5)": section_4.prove_rearrangement,
    "(6)": section_4.prove_preference_from_policy,
    "(7)": section_4.prove_dpo_loss,
    "DPO gradient": section_4.prove_dpo_gradient,
    "DPO outline": section_4.prove_outline,
    "Definition 1": section_5.prove_definition,
    "Lemma 1": section_5.prove_lemma_1,
    "Lemma 2": section_5.prove_lemma_2,
    "Theorem 1": section_5.prove_theorem,
    "(8)": section_5.prove_projection,
    "(9)": section_5.prove_selected_member,
    "(10)": section_5.prove_actor_critic,
    "(11)": derivations.prove_single_expectation,
    "(12)": derivations.prove_any_constant,
    "Valid distribution": derivations.prove_valid_distribution,
    "(13)": derivations.prove_optimum_in_denominator,
    "(14)": derivations.prove_kl_form,
    "(15)": derivations.prove_gibbs,
    "(16)": derivations.prove_bradley_terry_restated,
    "(17)": derivations.prove_reward_restated,
    "(18)": rankings.prove_plackett_luce,
    "(19)": rankings.prove_ranking_from_policy,
    "(20)": rankings.prove_ranking_loss,
    "(21)": derivations.prove_printed_loss_of_a4,
    "(22)": derivations.prove_printed_gradient_of_a4,
    "(23)": theorem.prove_theorem_line_1,
    "(24)": theorem.prove_theorem_line_2,
    "(25)": theorem.prove_theorem_line_3,
    "Proposition 1": theorem.prove_uniqueness,
    "Slip in A.4": slips.prove_slip_of_a4,
    "Slip in 5.2": slips.prove_slip_of_section_5,
    "Slip on Table 3": slips.prove_slip_of_table_3,
}
