"""Reward against KL, win rates and Best-of-N, each with its standard error (section 6).

A policy is judged by completions that it samples for held-out prompts. Rewards are arrays of
shape (prompts, samples): samples of one prompt are not independent draws of a prompt, so every
standard error is that of the mean over prompts.
"""

import itertools
import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

from dpo_lib._checks import check_same_shape
from dpo_lib.language_model import files
from dpo_lib.language_model.logprobs import token_logps
from dpo_lib.language_model.sampling import check, generate
from dpo_lib.language_model.trainer import derive_seed

Tokens = tuple[int, ...]
Score = Callable[[list[tuple[Tokens, Tokens]]], Tensor]  # (prompt, completion) pairs -> (n,)


@dataclass(frozen=True)
class Estimate:
    """A mean over prompts with its standard error and normal 95 % interval."""

    mean: float
    standard_error: float
    prompts: int

    @property
    def interval(self) -> tuple[float, float]:
        return (self.mean - 1.96 * self.standard_error, self.mean + 1.96 * self.standard_error)

    @property
    def record(self) -> dict:
        """What a report keeps of it, as JSON."""
        return asdict(self) | {"interval": list(self.interval)}

    def __str__(self) -> str:
        return f"{self.mean:.3f} ± {1.96 * self.standard_error:.3f}"


def estimate(values: Tensor) -> Estimate:
    """Mean of (prompts, samples) and the standard error of that mean, prompts being the draws."""
    means = values.double().mean(-1)
    if len(means) < 2:
        raise ValueError(f"a standard error needs at least 2 prompts, got {len(means)}")
    return Estimate(means.mean().item(), means.std().item() / math.sqrt(len(means)), len(means))


def difference(rewards: Tensor, other: Tensor) -> tuple[Estimate, float]:
    """Mean reward of one policy minus another's on the same prompts, and its z.

    Args:
        rewards, other: shapes (prompts, samples), each with its own number of samples. Pairing
            by prompt takes the prompts' own spread out of the standard error.
    """
    check_same_shape(rewards=rewards[:, 0], other=other[:, 0])
    paired = (rewards.double().mean(-1) - other.double().mean(-1)).unsqueeze(-1)
    found = estimate(paired)
    return found, 0.0 if found.mean == 0 else found.mean / max(found.standard_error, 1e-300)


def win_rate(rewards: Tensor, other: Tensor) -> Estimate:
    """How often a sample of one policy beats a sample of another on its prompt; a tie is 1/2.

    Args:
        rewards, other: shapes (prompts, samples). All pairs of samples are compared, so that a
            policy's samples against themselves give exactly 1/2.
    """
    check_same_shape(rewards=rewards[:, 0], other=other[:, 0])
    margin = rewards.unsqueeze(-1) - other.unsqueeze(-2)  # (prompts, samples, samples)
    return estimate(((margin.sign() + 1) / 2).flatten(1))


def best_of(rewards: Tensor, n: int, by: Tensor | None = None) -> Tensor:
    """Expected reward of the best of n draws for each prompt, from N >= n samples, unbiased.

    The sample of rank i (from the worst, 1) is the best of a random n-subset with probability
    C(i - 1, n - 1) / C(N, n).

    Args:
        rewards: shape (prompts, N).
        by: what the best is chosen by, same shape; the rewards themselves if None.

    Returns:
        shape (prompts, 1).
    """
    samples = rewards.shape[-1]
    if not 1 <= n <= samples:
        raise ValueError(f"n must lie in [1, {samples}], the number of samples, got {n}")
    by = rewards if by is None else by
    check_same_shape(rewards=rewards, by=by)
    ranked = rewards.double().gather(-1, by.argsort(-1))
    weights = [math.comb(i, n - 1) / math.comb(samples, n) for i in range(samples)]
    return (ranked * torch.tensor(weights, dtype=torch.float64)).sum(-1, keepdim=True)


def best_of_kl(n: int) -> float:
    """KL of Best-of-n from the policy it draws from, at most: log n - (n - 1) / n nats."""
    return math.log(n) - (n - 1) / n


@dataclass(frozen=True)
class Samples:
    """Completions of one policy, `samples` in a row for each prompt, and what they score."""

    sequences: list[tuple[Tokens, Tokens]]  # prompts * samples of (prompt ids, completion ids)
    rewards: Tensor  # (prompts, samples), reward units
    lengths: Tensor  # (prompts, samples), tokens with the EOS
    ended: Tensor  # (prompts, samples), 1 if the completion ended with an EOS


@torch.no_grad()
def sample(
    model,
    prompts: Sequence[Tokens],
    score: Score,
    eos: int,
    *,
    samples: int = 1,
    max_new_tokens: int = 64,
    temperature: float = 1.0,
    seed: int = 0,
    batch_size: int = 64,
) -> Samples:
    """Draw `samples` completions for each prompt and score them."""
    if samples < 1:
        raise ValueError(f"samples must be at least 1, got {samples}")
    check(model, prompts, max_new_tokens, temperature, eos)  # names a prompt by its own number
    repeated = [tuple(prompt) for prompt in prompts for _ in range(samples)]
    generator = torch.Generator().manual_seed(seed)
    completions = generate(model, repeated, max_new_tokens, temperature, generator, eos, batch_size)
    sequences = list(zip(repeated, completions, strict=True))
    scores = [score(batch).double().cpu() for batch in _batches(sequences, batch_size)]
    shape = (len(prompts), samples)
    lengths = torch.tensor([len(c) for _, c in sequences], dtype=torch.float64)
    ended = torch.tensor([c[-1:] == (eos,) for _, c in sequences], dtype=torch.float64)
    return Samples(sequences, torch.cat(scores).view(shape), lengths.view(shape), ended.view(shape))


@torch.no_grad()
def sequence_kl(
    policy, reference, drawn: Samples, temperature: float = 1.0, batch_size: int = 64
) -> tuple[Tensor, Tensor]:
    """Two unbiased estimates of KL(policy || reference) in nats for each sample.

    k1 is log pi(y) - log pi_ref(y), summed over the tokens that the policy drew; k3 sums
    pi_ref / pi - 1 - log(pi_ref / pi) over the tokens, which is never negative: a check on k1
    near the reference, but far from it a few rare samples carry its mean. The KL is that of what
    was run: drawing at this temperature, at most max_new_tokens tokens.

    Returns:
        k1 and k3, both (prompts, samples), float64.
    """
    k1, k3 = [], []
    for batch in _batches(drawn.sequences, batch_size):
        ours = token_logps(policy, batch, temperature)
        theirs = token_logps(reference, batch)
        for log_policy, log_ref in zip(ours, theirs, strict=True):
            log_ratio = log_policy.double().cpu() - log_ref.double().cpu()
            k1.append(log_ratio.sum())
            k3.append((torch.expm1(-log_ratio) + log_ratio).sum())
    return torch.stack(k1).view_as(drawn.rewards), torch.stack(k3).view_as(drawn.rewards)


def evaluate(
    policies: dict[str, object],
    reference,
    prompts: Sequence[Tokens],
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


def lines(report: dict) -> list[str]:
    """What a person reads: a table of the policies, then Best-of-N."""

    def show(record):
        return f"{record['mean']:.3f} ± {1.96 * record['standard_error']:.3f}" if record else "-"

    head = ("policy", "T", "reward", "KL, nats", "win rate", "z", "length", "ended")
    base = report["reference"]
    rows = [("reference", "1", show(base["reward"]), "0", "", "", *_ends(base))]
    for row in report["policies"]:
        columns = [show(row.get(name)) for name in ("reward", "kl", "win_rate")]
        rows.append(
            (row["name"], f"{row['temperature']:g}", *columns, f"{row['z']:.1f}", *_ends(row))
        )
    for row in report["best_of"][1:]:
        name = f"best of {row['n']}"
        rows.append((name, "1", show(row["reward"]), f"≤ {row['kl_at_most']:.3f}", "", "", "", ""))
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    return ["  ".join(map(str.ljust, row, widths)).rstrip() for row in (head, *rows)]


def draw_plot(report: dict) -> str:
    """Reward against KL as SVG markup; beside it, given several temperatures, win rates.

    The two sides of the paper's Figure 2.
    """
    from dpo_lib import plotting

    several = len({row["temperature"] for row in report["policies"]}) > 1
    fig, axes = plotting.figure(width=10 if several else 6, columns=1 + several, squeeze=False)
    _draw_rewards(axes[0, 0], report)
    if several:
        _draw_win_rates(axes[0, 1], report)
    listed = "; ".join(line for line in lines(report)[1:])
    return plotting.svg(fig, f"Reward against KL from the reference. {listed}")


def _draw_rewards(ax, report: dict) -> None:
    from dpo_lib import plotting

    ax.plot(0, report["reference"]["reward"]["mean"], "s", color=plotting.GREY, label="reference")
    best = report["best_of"][1:]
    if best:
        points = [(row["kl_at_most"], row["reward"]["mean"]) for row in best]
        label = f"Best-of-N, N up to {best[-1]['n']} (KL at most)"
        ax.plot(*zip(*points, strict=True), "^--", color=plotting.GREEN, label=label)
    for name, marker, rows in _by_policy(report):
        rows = [row for row in rows if "kl" in row]
        x, y = ([row[key]["mean"] for row in rows] for key in ("kl", "reward"))
        xerr, yerr = (_bars(rows, key) for key in ("kl", "reward"))
        ax.errorbar(x, y, yerr, xerr, fmt=marker, capsize=2, label=name)
    ax.set_xlabel("KL from the reference, nats for each completion")
    ax.set_ylabel("reward")
    ax.legend()


def _draw_win_rates(ax, report: dict) -> None:
    from dpo_lib import plotting

    ax.axhline(0.5, color=plotting.GREY, linestyle=":")
    for name, marker, rows in _by_policy(report):
        rows = sorted(rows, key=lambda row: row["temperature"])
        x, y = [row["temperature"] for row in rows], [row["win_rate"]["mean"] for row in rows]
        ax.errorbar(x, y, _bars(rows, "win_rate"), fmt=f"{marker}-", capsize=2, label=name)
    ax.set_xlabel("sampling temperature")
    ax.set_ylabel("win rate against the reference")
    ax.legend()


def _by_policy(report: dict) -> Iterator[tuple[str, str, list[dict]]]:
    """Short name, marker and rows of each policy."""
    names = dict.fromkeys(row["name"] for row in report["policies"])
    for name, marker in zip(names, itertools.cycle("oDvP"), strict=False):
        rows = [row for row in report["policies"] if row["name"] == name]
        yield name.removesuffix("/model")[-30:], marker, rows


def _bars(rows: list[dict], key: str) -> list[float]:
    return [1.96 * row[key]["standard_error"] for row in rows]


def check_out(path: str | Path) -> list[Path]:
    """The paths of a report and of its plot, in a folder that is made if it is not there.

    Raises:
        ValueError, OSError: they cannot be written there.
    """
    path = Path(path)
    if path.suffix == ".svg":
        raise ValueError(f"out must not end in .svg (the plot is written beside it), got {path}")
    path.parent.mkdir(parents=True, exist_ok=True)
    # A device is no file either: renamed onto, /dev/null would be gone.
    if path.exists() and not path.is_file():
        raise ValueError(f"out must be a file, got {path}")
    picture = path.with_suffix(".svg")
    if picture.exists() and not picture.is_file():
        raise ValueError(f"out has its plot beside it, but {picture} is no file: got {path}")
    return [path, picture]


def write(report: dict, path: str | Path) -> list[Path]:
    """Write the report as JSON to `path` and its plot beside it as .svg; return both paths.

    Whole or not at all: what was there stays until both are on the disk under other names.
    """
    paths = check_out(path)
    texts = [json.dumps(report, indent=1), _markup(report)]
    contents = [(text + "\n").encode() for text in texts]
    files.write(dict(zip(paths, contents, strict=True)))
    return paths


def _markup(report: dict) -> str:
    """The plot as a file of its own."""
    # An image file has no page around it to take its colour from; this grey reads on both themes.
    namespace = '<svg xmlns="http://www.w3.org/2000/svg" '
    markup = draw_plot(report).replace("currentColor", "#848484")
    if "xmlns=" not in markup[: markup.index(">")]:
        markup = markup.replace("<svg ", namespace, 1)
    return markup


def _summary(drawn: Samples) -> dict:
    names = ("rewards", "lengths", "ended")
    found = {name: estimate(getattr(drawn, name)).record for name in names}
    return {"reward": found["rewards"], "length": found["lengths"], "ended": found["ended"]}


def _ends(row: dict) -> tuple[str, str]:
    return f"{row['length']['mean']:.1f}", f"{row['ended']['mean']:.0%}"


def _batches(items: Sequence, size: int):
    return (items[i : i + size] for i in range(0, len(items), size))
