"""Samples against transformers' own generation and against exact probabilities."""

import itertools
import math

import pytest
import torch
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MambaConfig,
    MambaForCausalLM,
    RwkvConfig,
    RwkvForCausalLM,
)

from dpo_lib.language_model.generation import sampling
from dpo_lib.language_model.generation.sampling import choose, generate
from dpo_lib.language_model.scoring.logprobs import plain_logps, token_logps

torch.set_num_threads(1)
EOS = 0
PROMPTS = [(5, 3, 8), (7,), (2, 9, 4, 4, 1, 6, 3), (3, 3), (1, 2, 3, 4, 5), (11,), (4, 12, 4, 2)]


def gpt2(vocabulary=13, dtype=torch.float64, dropout=0.0, **settings):
    """Random weights, large enough that the next token depends on all that came before."""
    config = GPT2Config(
        vocab_size=vocabulary,
        bos_token_id=EOS,
        eos_token_id=EOS,
        resid_pdrop=dropout,
        embd_pdrop=dropout,
        attn_pdrop=dropout,
        initializer_range=0.5,
        **dict(n_embd=32, n_layer=2, n_head=4, n_positions=32) | settings,
    )
    torch.manual_seed(0)
    return GPT2LMHeadModel(config).to(dtype).eval()


def llama():
    config = LlamaConfig(
        vocab_size=13,
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=32,
        initializer_range=0.5,
        bos_token_id=EOS,
        eos_token_id=EOS,
    )
    torch.manual_seed(0)
    return LlamaForCausalLM(config).double().eval()


def mamba():
    """No attention: one recurrent state, which has passed over the padding when it is cached."""
    config = MambaConfig(
        vocab_size=13, hidden_size=32, num_hidden_layers=2, bos_token_id=EOS, eos_token_id=EOS
    )
    torch.manual_seed(1)
    model = MambaForCausalLM(config).double().eval()
    for parameter in model.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.5)
    return model


def draw(model, prompts=PROMPTS, n=10, temperature=1.0, seed=0, **settings):
    generator = torch.Generator().manual_seed(seed)
    return generate(model, prompts, n, temperature, generator, **settings)


@torch.no_grad()
def probabilities(model, ids, temperature=1.0):
    """The next token's distribution, from one plain forward pass."""
    return (model(torch.tensor([ids])).logits[0, -1].double() / temperature).softmax(-1)


def by_transformers(model, prompt, n):
    ids = torch.tensor([prompt])
    out = model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=n,
        do_sample=False,
        pad_token_id=EOS,
    )
    return tuple(out[0, len(prompt) :].tolist())


@pytest.mark.parametrize("make", [gpt2, llama, mamba])
@pytest.mark.parametrize("batch_size", [1, 2, 3, 7, 8])
def test_greedy_is_that_of_transformers_for_each_prompt_alone(make, batch_size):  # F1, F2
    model = make()
    expected = [by_transformers(model, prompt, 10) for prompt in PROMPTS]
    assert draw(model, temperature=0, eos=EOS, batch_size=batch_size) == expected
    assert len(set(expected)) == len(expected)  # the prompts matter


def test_greedy_is_the_same_in_any_order_of_the_prompts():  # F1
    model = gpt2()
    expected = dict(zip(PROMPTS, draw(model, temperature=0, eos=EOS), strict=True))
    for seed in range(10):
        order = [
            PROMPTS[i] for i in torch.randperm(7, generator=torch.Generator().manual_seed(seed))
        ]
        assert draw(model, order, temperature=0, eos=EOS) == [expected[p] for p in order]


def test_positions_matter_so_that_the_padding_tests_mean_something():
    model = gpt2()
    ids = torch.tensor([PROMPTS[0]])
    moved = model(ids, position_ids=torch.arange(4, 7)[None]).logits
    assert (moved - model(ids).logits).abs().max() > 0.1


@pytest.mark.parametrize("batch_size", [1, 2, 5, 64])
def test_samples_do_not_depend_on_the_batch_size(batch_size):  # F2
    model, prompts = gpt2(), PROMPTS * 8
    expected = draw(model, prompts, eos=EOS, batch_size=7)
    assert draw(model, prompts, eos=EOS, batch_size=batch_size) == expected
    assert len(set(expected)) > 40


def test_a_prompt_keeps_its_completion_when_others_are_appended_or_changed():
    model = gpt2()
    alone = draw(model, PROMPTS[:3], eos=EOS)
    assert draw(model, PROMPTS, eos=EOS)[:3] == alone
    assert draw(model, [(9, 9), (8,) * 12, PROMPTS[2]], eos=EOS)[2] == alone[2]


def test_the_same_seed_gives_the_same_text_and_another_seed_another():
    model = gpt2()
    assert draw(model, seed=3) == draw(model, seed=3)
    assert draw(model, seed=3) != draw(model, seed=4)
    generator = torch.Generator().manual_seed(3)
    first = generate(model, PROMPTS, 10, 1.0, generator)
    assert first == draw(model, seed=3)
    assert generate(model, PROMPTS, 10, 1.0, generator) != first  # the generator has moved on


def test_the_global_generator_is_neither_read_nor_moved():
    model = gpt2()
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first = draw(model)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    assert draw(model) == first


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_first_tokens_come_as_often_as_the_model_says(temperature):
    model, n = gpt2(), 4000
    for prompt in PROMPTS[:2]:
        # Longer neighbours, so that the row is padded.
        rows = draw(model, [prompt] * n + [PROMPTS[2]], n=1, temperature=temperature)
        counts = torch.tensor([token for (token,) in rows[:n]]).bincount(minlength=13)
        p = probabilities(model, prompt, temperature)
        z = (counts - n * p) / (n * p * (1 - p)).sqrt()
        assert z[n * p > 5].abs().max() < 4
        assert counts[n * p < 0.001].sum() == 0


@pytest.mark.parametrize("temperature", [0.7, 1.0, 1.3])
def test_whole_completions_come_as_often_as_their_log_probabilities_say(temperature):  # J3, A10
    model, n, prompt = gpt2(vocabulary=3), 6000, (1, 2)
    endings = [(EOS,), *((a, EOS) for a in (1, 2)), *itertools.product((1, 2), (1, 2))]
    logps = token_logps(model, [(prompt, ending) for ending in endings], temperature)
    p = torch.stack([logp.sum() for logp in logps]).detach().double().exp()
    assert p.sum().item() == pytest.approx(1, abs=1e-6)  # what can be drawn in two tokens
    drawn = draw(model, [prompt] * n, n=2, temperature=temperature, eos=EOS)
    counts = torch.tensor([drawn.count(ending) for ending in endings])
    assert counts.sum() == n
    z = (counts - n * p) / (n * p * (1 - p)).sqrt()
    assert z.abs().max() < 4


def test_a_completion_ends_with_its_first_eos_or_at_the_limit():
    model = gpt2()
    completions = draw(model, PROMPTS * 10, n=6, eos=EOS)
    ended = [c for c in completions if c[-1] == EOS]
    assert all(EOS not in c[:-1] and 1 <= len(c) <= 6 for c in completions)
    assert all(len(c) == 6 for c in completions if c[-1] != EOS)
    assert 0 < len(ended) < len(completions) and len({len(c) for c in ended}) > 1
    # B4: stopping changes nothing before it
    for short, whole in zip(completions, draw(model, PROMPTS * 10, n=6), strict=True):
        assert whole[: len(short)] == short and len(whole) == 6


def test_an_empty_prompt_starts_from_eos():
    model = gpt2()
    assert draw(model, [()], n=6, eos=EOS) == draw(model, [(EOS,)], n=6, eos=EOS)
    assert draw(model, [], eos=EOS) == []


def test_dropout_is_off_while_it_draws_and_the_mode_is_restored():  # E1, J6
    expected = draw(gpt2())
    model = gpt2(dropout=0.5).train()
    assert draw(model) == expected
    assert model.training
    with pytest.raises(ValueError):
        draw(model, temperature=-1)
    assert model.training


def test_a_completion_may_fill_the_models_positions_and_no_more():
    model, prompt = gpt2(), (1,) * 23  # 32 positions; the last token is never fed back
    assert len(draw(model, [prompt, (2,)], n=10)[0]) == 10
    with pytest.raises(ValueError, match=r"^prompt 2 has 24 tokens.*exceed.*32 positions$"):
        draw(model, [(2,), (1,) * 24], n=10)


def test_another_batch_moves_a_float32_draw_once_in_ten_thousand_tokens_at_most():  # F2
    model, prompts = gpt2(vocabulary=200, dtype=torch.float32), PROMPTS
    together = _next_logits(model, prompts).double()
    alone = torch.cat([_next_logits(model, [prompt]) for prompt in prompts]).double()
    moved = (together.softmax(-1).cumsum(-1) - alone.softmax(-1).cumsum(-1)).abs().sum(-1)
    assert moved.max() < 1e-4  # sum over the edges between tokens: how likely a draw changes


def _next_logits(model, prompts):
    """What `choose` is given for the first token."""
    draw(model, n=1)  # the model is measured once, before the hook
    seen = []
    hook = model.register_forward_hook(lambda module, inputs, output: seen.append(output.logits))
    generate(model, prompts, 1, 0, torch.Generator())
    hook.remove()
    order = sorted(range(len(prompts)), key=lambda place: len(prompts[place]))
    logits = torch.empty_like(seen[0][:, -1])
    logits[order] = seen[0][:, -1]
    return logits


# --- choose ----------------------------------------------------------------------------------


def test_choose_inverts_the_cumulative_distribution():
    logits = torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=torch.float64).log().expand(6, 4)
    uniforms = torch.tensor([0.0, 0.09, 0.11, 0.31, 0.59, 0.61], dtype=torch.float64)
    assert choose(logits, uniforms, 1.0).tolist() == [0, 0, 1, 2, 2, 3]
    # temperature 1/2 squares and renormalises: 1, 4, 9, 16 over 30
    assert choose(logits, uniforms, 0.5).tolist() == [0, 1, 1, 2, 3, 3]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_a_token_of_probability_zero_is_never_chosen(dtype):
    logits = torch.tensor([[-math.inf, 2.0, -math.inf, -3.0]], dtype=dtype).expand(4, 4)
    uniforms = torch.tensor([0.0, 0.5, 0.999, 1 - 2**-53], dtype=torch.float64)
    assert choose(logits, uniforms, 1.0).tolist() == [1, 1, 3, 3]


@pytest.mark.parametrize("temperature", [1e-300, 1e-6, 1e6, 1e300])
def test_extreme_temperatures_have_their_limits(temperature):
    logits = torch.tensor([[1e4, 0.0, -1e4, 9.9e3]])
    uniforms = torch.tensor([0.6], dtype=torch.float64)
    assert choose(logits, uniforms, temperature).item() == (0 if temperature < 1 else 2)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("temperature", [0, 1.0])
def test_logits_that_are_not_finite_are_refused_in_one_line(bad, temperature):
    logits = torch.tensor([[0.0, 1.0], [bad, 1.0]])
    with pytest.raises(ValueError, match=r"^the model's logits must be finite, got .* in row 1$"):
        choose(logits, torch.zeros(2, dtype=torch.float64), temperature)


@pytest.mark.parametrize(
    "name, settings",
    [
        ("max_new_tokens", dict(n=0)),
        ("temperature", dict(temperature=-0.1)),
        ("temperature", dict(temperature=math.nan)),
        ("temperature", dict(temperature=math.inf)),
        ("batch_size", dict(batch_size=0)),
        ("prompt 2", dict(prompts=[(1,), ()])),
    ],
)
def test_a_setting_out_of_range_is_named_in_one_line(name, settings):
    with pytest.raises(ValueError, match=f"^{name} .*$") as error:
        draw(gpt2(), **settings)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("make, masked", [(gpt2, True), (llama, True), (mamba, False)])
def test_the_mask_is_given_beside_the_cache_where_it_must_be_and_only_there(make, masked):
    assert sampling._agrees(make(), masked)
    assert not sampling._agrees(make(), not masked)


def test_a_model_that_cannot_be_sampled_is_refused_in_one_line_that_names_it():
    config = RwkvConfig(vocab_size=13, hidden_size=8, num_hidden_layers=2)  # has no Cache
    with pytest.raises(ValueError, match=r"^RwkvForCausalLM cannot be sampled from: .*$"):
        draw(RwkvForCausalLM(config))


def test_plain_and_fast_log_probabilities_agree_on_what_was_drawn():  # J3
    model = gpt2()
    sequences = list(zip(PROMPTS, draw(model, temperature=0.7, eos=EOS), strict=True))
    plain, fast = plain_logps(model, sequences, 0.7), token_logps(model, sequences, 0.7)
    for (prompt, completion), ours, theirs in zip(sequences, plain, fast, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-6)
        ids = list(prompt)
        for token, logp in zip(completion, ours.tolist(), strict=True):
            assert probabilities(model, ids, 0.7)[token].log().item() == pytest.approx(logp)
            ids.append(token)
