import torch
from helpers import generator, table

from dpo_lib.policies import TabularPolicy, TabularReward, TabularValue
from dpo_lib.world import random_world

WORLD = random_world(generator(), prompts=3, responses=5, batch=(2,), impossible=2)


def test_a_policy_starts_at_the_reference_with_its_zeros():
    log_policy = TabularPolicy(WORLD.log_ref)()
    torch.testing.assert_close(log_policy, WORLD.log_ref, rtol=0, atol=1e-15)
    assert torch.equal(log_policy.isneginf(), WORLD.log_ref.isneginf())


def test_a_policy_is_a_distribution_whatever_its_logits():
    policy = TabularPolicy(WORLD.log_ref)
    with torch.no_grad():
        policy.logits.copy_(1e6 * torch.randn(policy.logits.shape, generator=generator(1)))
    total = policy().exp().sum(-1)
    torch.testing.assert_close(total, torch.ones_like(total))
    assert (policy()[WORLD.log_ref.isneginf()] == -torch.inf).all()


def test_the_gradient_of_a_log_probability_is_the_indicator_minus_the_policy():
    policy = TabularPolicy(table([0.2, 0.3, 0.5, 0.0]).log())
    policy()[0, 1].backward()
    torch.testing.assert_close(policy.logits.grad, table([-0.2, 1 - 0.3, -0.5, 0.0]))


def test_an_impossible_response_stays_impossible_and_receives_no_gradient():
    policy = TabularPolicy(WORLD.log_ref)
    weights = torch.rand(WORLD.log_ref.shape, generator=generator(2), dtype=torch.float64)
    stepper = torch.optim.Adam(policy.parameters(), lr=1.0)
    for _ in range(5):
        stepper.zero_grad()
        (policy().exp() * weights).sum().backward()
        assert policy.logits.grad.isfinite().all()
        assert (policy.logits.grad[WORLD.log_ref.isneginf()] == 0).all()
        stepper.step()
    assert (policy()[WORLD.log_ref.isneginf()] == -torch.inf).all()


def test_training_leaves_the_tables_that_it_started_from_untouched():  # E3
    log_ref, reward = WORLD.log_ref.clone(), WORLD.true_reward.clone()
    trained = TabularPolicy(log_ref), TabularReward(reward), TabularValue(log_ref)
    with torch.no_grad():
        for module in trained:
            for parameter in module.parameters():
                parameter.add_(1.0)
    assert torch.equal(log_ref, WORLD.log_ref)
    assert torch.equal(reward, WORLD.true_reward)


def test_a_reward_starts_at_its_table_and_a_value_at_zero_for_each_prompt():
    assert torch.equal(TabularReward(WORLD.true_reward)(), WORLD.true_reward)
    assert torch.equal(TabularValue(WORLD.log_ref)(), torch.zeros(2, 3, dtype=torch.float64))


def test_a_saved_policy_is_loaded_bit_for_bit_with_its_zeros():
    policy, other = TabularPolicy(WORLD.log_ref), TabularPolicy(WORLD.log_ref.flip(-1))
    other.load_state_dict(policy.state_dict())
    assert torch.equal(other(), policy())
