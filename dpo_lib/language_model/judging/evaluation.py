"""Policies judged by completions that they sample for held-out prompts (section 6)."""

from collections.abc import Callable, Sequence
from dataclasses import asdict

from dpo_lib.language_model.data.order import derive_seed
from dpo_lib.language_model.data.reading import held_out, read_prompts
from dpo_lib.language_model.data.tokens import tokenize_prompts
from dpo_lib.language_model.generation.samples import Samples, sample, sequence_kl
from dpo_lib.language_model.judging.statistics import (
    best_of,
    best_of_kl,
    difference,
    estimate,
    win_rate,
)
from dpo_lib.language_model.models.judges import Score, named_judge
from dpo_lib.language_model.models.policies import load_trained
from dpo_lib.language_model.settings import EvaluationSettings


def evaluate(
    policies: dict[str, object],
    reference,
    prompts: Sequence[tuple[int, ...]],
    score: Score,
    eos: int,
    *,
    temperatures: Sequence[float] = (1.0,),
    best_of_n: int = 1,
    seed: int = 0,
    **drawing,
) -> dict:
    """Reward, KL, length and win rate of each policy at each temperature, and Best-of-N.

    Every policy is compared with the reference at temperature 1, on the same prompts.

    Args:
        policies: name -> model.
        prompts: token ids, held out from training.
        best_of_n: N of Best-of-N; the reference is sampled at least that often.
        drawing: `samples`, `max_new_tokens`, `batch_size` of `sample`.

    Returns:
        a JSON-able dictionary with "reference", "policies" and "best_of".
    """

    # The policies share their random numbers, which the reference does not: against it, a win
    # rate is that of independent draws; among them, differences are sharper.
    samples = drawing.pop("samples", 1)
    often, own, others = max(samples, best_of_n), derive_seed(seed, 0), derive_seed(seed, 1)
    base = sample(reference, prompts, score, eos, samples=often, seed=own, **drawing)
    report: dict = {"reference": _summary(base), "policies": [], "best_of": []}
    for name, policy in policies.items():
        for temperature in temperatures:
            options = drawing | {"samples": samples, "temperature": temperature, "seed": others}
            drawn = sample(policy, prompts, score, eos, **options)
            row = {"name": name, "temperature": temperature} | _summary(drawn)
            if temperature > 0:  # the greedy policy has no KL to speak of: its support is one text
                k1, k3 = sequence_kl(
                    policy, reference, drawn, temperature, drawing.get("batch_size", 64)
                )
                row |= {"kl": estimate(k1).record, "kl_k3": estimate(k3).record}
            gain, z = difference(drawn.rewards, base.rewards)
            row |= {"gain": gain.record, "z": z}
            row["win_rate"] = win_rate(drawn.rewards, base.rewards).record
            report["policies"].append(row)
    for n in sorted({2**k for k in range(best_of_n.bit_length())} | {best_of_n}):
        reward = estimate(best_of(base.rewards, n)).record
        report["best_of"].append({"n": n, "kl_at_most": best_of_kl(n), "reward": reward})
    return report


def _summary(drawn: Samples) -> dict:
    names = ("rewards", "lengths", "ended")
    found = {name: estimate(getattr(drawn, name)).record for name in names}
    return {"reward": found["rewards"], "length": found["lengths"], "ended": found["ended"]}


def evaluate_settings(given: EvaluationSettings, tell: Callable[[str], None]) -> dict:
    """Load what the settings name and `evaluate` it; the report begins with them.

    Args:
        tell: called with each line on what became of the data's rows.
    """
    reference, tokenizer = load_trained(given.reference)
    policies = {folder: load_trained(folder, tokenizer)[0] for folder in given.model}
    score = named_judge(given.reward, tokenizer, reference.device).score
    texts, rows = read_prompts(held_out(given.data, "prompts"), tokenizer)
    wanted = len(texts) if given.prompts is None else given.prompts
    for number in range(wanted, len(texts)):
        rows.drop(f"beyond --prompts {wanted}", f"prompt {number + 1}")
    prompts = tokenize_prompts(texts[:wanted], tokenizer, given.max_length, rows)
    for line in rows.lines():
        tell(line)
    report = evaluate(
        policies,
        reference,
        prompts,
        score,
        tokenizer.eos_token_id,
        temperatures=given.temperature,
        best_of_n=given.best_of,
        seed=given.seed,
        samples=given.samples,
        max_new_tokens=given.max_new_tokens,
        batch_size=given.batch_size,
    )
    return {"settings": asdict(given)} | report
