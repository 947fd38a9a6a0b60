"""Small models whose attention is far from uniform, ragged rows for them, and their gradients."""

from types import SimpleNamespace

import torch
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

VOCABULARY = 61
NO_DROPOUT = dict(resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0)


def tolerance(model):
    """Per token. A float64 GPT-2 is one throughout; the others normalise in float32 inside."""
    return 1e-10 if model.dtype == torch.float64 and model.config.model_type == "gpt2" else 1e-5


def gpt2(dtype=torch.float32, vocabulary=VOCABULARY, **settings):
    torch.manual_seed(0)
    settings = NO_DROPOUT | dict(n_embd=32, n_layer=2, n_head=4, n_positions=64) | settings
    model = GPT2LMHeadModel(GPT2Config(vocab_size=vocabulary, **settings))
    return louder(model).to(dtype)


def llama(dtype=torch.float32, cls=LlamaForCausalLM, config=LlamaConfig, **settings):
    """Grouped-query attention, rotary positions, an output layer of its own."""
    torch.manual_seed(0)
    settings = dict(num_attention_heads=4, num_key_value_heads=2, num_hidden_layers=2) | settings
    settings = dict(hidden_size=32, intermediate_size=48, max_position_embeddings=64) | settings
    return louder(cls(config(vocab_size=VOCABULARY, **settings))).to(dtype)


def louder(model):
    """Attention of a fresh model is nearly uniform, which would hide a wrong mask."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.mul_(8)
    return model


def ids(generator, length, vocabulary=VOCABULARY):
    return tuple(torch.randint(vocabulary, (length,), generator=generator).tolist())


def ragged(count, seed=0, longest=20, vocabulary=VOCABULARY):
    """Random sequences; every third one shares its neighbour's prompt, as a pair does."""
    generator = torch.Generator().manual_seed(seed)
    rows = []
    for row in range(count):
        lengths = torch.randint(1, longest, (2,), generator=generator).tolist()
        prompt = ids(generator, lengths[0], vocabulary)
        if row % 3 == 2:
            prompt = rows[-1][0]
        rows.append((prompt, ids(generator, lengths[1], vocabulary)))
    return rows


def pairs_of(rows):
    return [
        SimpleNamespace(prompt=prompt, chosen=chosen, rejected=rejected)
        for (prompt, chosen), (_, rejected) in zip(rows, rows[::-1], strict=True)
    ]


def gradients(model, scalar):
    model.zero_grad()
    scalar.backward()
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters()}


def assert_same_gradients(got, expected, tolerance):
    assert got.keys() == expected.keys()
    for name, gradient in expected.items():
        scale = max(gradient.abs().max().item(), 1e-3)
        assert (got[name] - gradient).abs().max() <= tolerance * scale, name
