"""Tabular DPO over many worlds at once, against the same loop one world at a time.

Both sides see the same labelled pairs and the same minibatches, take the same Adam steps, and
must end with the same policies. Prints a Markdown table.
"""

import time

import torch

from dpo_lib.losses import dpo_loss
from dpo_lib.policies import TabularPolicy
from dpo_lib.preferences import Preferences, sample_preferences
from dpo_lib.training import train_dpo
from dpo_lib.world import random_world

PAIRS, BATCH, STEPS, BETA, LR = 200, 32, 50, 0.5, 0.05


def together(preferences: Preferences, log_ref: torch.Tensor) -> torch.Tensor:
    """All worlds in one tensor: the library's own training."""
    generator = torch.Generator().manual_seed(1)
    policy, _ = train_dpo(preferences, log_ref, BETA, STEPS, BATCH, LR, generator)
    return policy().detach()


def one_by_one(preferences: Preferences, log_ref: torch.Tensor) -> torch.Tensor:
    """The textbook loop: one world, one model, one optimiser after the other."""
    generator = torch.Generator().manual_seed(1)
    worlds = log_ref.shape[0]
    rows = [torch.randint(PAIRS, (worlds, BATCH), generator=generator) for _ in range(STEPS)]
    policies = []
    for world in range(worlds):
        policy = TabularPolicy(log_ref[world])
        optimizer = torch.optim.Adam(policy.parameters(), lr=LR)
        for step in range(STEPS):
            row = rows[step][world]
            x = preferences.prompt[world][row]
            w, l = preferences.chosen[world][row], preferences.rejected[world][row]  # noqa: E741
            logps, ref = policy(), log_ref[world]
            loss = dpo_loss(logps[x, w], logps[x, l], ref[x, w], ref[x, l], BETA).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        policies.append(policy().detach())
    return torch.stack(policies)


def seconds(train, *arguments) -> tuple[float, torch.Tensor]:
    start = time.perf_counter()
    policies = train(*arguments)
    return time.perf_counter() - start, policies


def main() -> None:
    torch.set_num_threads(1)  # tensors this small gain nothing from more
    print(f"{STEPS} steps, {BATCH} of {PAIRS} pairs each, 4 prompts, 6 responses, float64, "
          "1 thread\n")  # fmt: skip
    print("| worlds | one by one, s | together, s | ratio |")
    print("|---:|---:|---:|---:|")
    for worlds in (1, 10, 100, 1000, 10_000):
        generator = torch.Generator().manual_seed(0)
        world = random_world(generator, prompts=4, responses=6, batch=(worlds,))
        preferences = sample_preferences(world.true_reward, PAIRS, generator)
        together(preferences, world.log_ref)  # warm up
        fast, policies = seconds(together, preferences, world.log_ref)
        if worlds > 1000:
            print(f"| {worlds:,} | – | {fast:.2f} | – |")
            continue
        slow, expected = seconds(one_by_one, preferences, world.log_ref)
        torch.testing.assert_close(policies, expected)
        print(f"| {worlds:,} | {slow:.2f} | {fast:.3f} | {slow / fast:.0f}× |")


if __name__ == "__main__":
    main()
