"""Log-probabilities against the plain loop, transformers' own loss, and enumeration."""

import copy
import math
from functools import partial
from itertools import product
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
import transformers
from scoring_helpers import (
    NO_DROPOUT,
    VOCABULARY,
    assert_same_gradients,
    gpt2,
    gradients,
    llama,
    louder,
    pairs_of,
    ragged,
    tolerance,
)

from dpo_lib.language_model.models.reward_model import RewardModel
from dpo_lib.language_model.scoring import layouts, logprobs, output_layer, stream
from dpo_lib.language_model.scoring.layouts import padded_hidden
from dpo_lib.language_model.scoring.logprobs import (
    completion_logps,
    pair_logps,
    pair_logps_in_parts,
    plain_logps,
    token_logps,
)
from dpo_lib.language_model.scoring.output_layer import linear_head, target_logps
from dpo_lib.language_model.scoring.stream import STREAM, make_stream, stream_hidden
from dpo_lib.language_model.stages.ppo_terms import ValueModel

torch.set_num_threads(1)


def bloom(dtype=torch.float32):
    """Its attention does not go through the AttentionInterface: padded rows."""
    torch.manual_seed(0)
    config = transformers.BloomConfig(
        vocab_size=VOCABULARY, hidden_size=32, n_layer=2, n_head=4, hidden_dropout=0.0
    )
    return louder(transformers.BloomForCausalLM(config)).to(dtype)


def mistral(dtype=torch.float32):
    """A sliding window of 4 tokens, which the stream does not have: padded rows."""
    kind = dict(cls=transformers.MistralForCausalLM, config=transformers.MistralConfig)
    return llama(dtype, **kind, sliding_window=4)


MODELS = {"gpt2": gpt2, "llama": llama, "bloom": bloom, "mistral": mistral}


def set_chunks(monkeypatch, positions):
    """Take so many positions to the vocabulary at a time."""
    for module in (logprobs, output_layer):
        monkeypatch.setattr(module, "positions_per_chunk", lambda weight: positions)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", MODELS)
def test_a6_equals_the_plain_loop_and_its_gradients_on_ragged_rows(name, dtype):
    model = MODELS[name](dtype)
    rows = ragged(150, seed=1)
    weights = [torch.randn(len(y), dtype=dtype) for _, y in rows]  # any upstream gradient
    fast, plain = token_logps(model, rows), plain_logps(model, rows)
    for got, expected in zip(fast, plain, strict=True):
        assert got.shape == expected.shape and got.dtype == dtype
        assert (got - expected).abs().max() <= tolerance(model) * max(1, expected.abs().max())
    fast, plain = (
        gradients(model, sum((w * x).sum() for w, x in zip(weights, logps, strict=True)))
        for logps in (fast, plain)
    )
    assert_same_gradients(fast, plain, 10 * tolerance(model))


@pytest.mark.parametrize(
    ("name", "layout"),
    [("gpt2", "stream"), ("llama", "stream"), ("bloom", "padded"), ("mistral", "padded")],
)
def test_models_without_the_attention_interface_or_with_windows_get_padded_rows(name, layout):
    model = MODELS[name]()
    expected = {"stream": stream_hidden, "padded": padded_hidden}[layout]
    assert layouts.layout_of(model).hidden is expected


@pytest.mark.parametrize("name", ["bloom", "mistral"])
def test_a_model_without_the_stream_says_why(name):
    why = {"bloom": "padded rows (a stream changes its hidden states)",
           "mistral": "padded rows (it has a sliding_window)"}  # fmt: skip
    assert str(layouts.layout_of(MODELS[name]())) == why[name]


def test_a_programming_error_in_the_stream_is_no_reason_for_padded_rows(monkeypatch):
    monkeypatch.setattr(stream, "make_stream", lambda sequences: None)  # called with two
    with pytest.raises(TypeError, match="takes 1 positional argument but 2 were given"):
        layouts.layout_of(gpt2())


def test_a_convolution_across_the_border_is_named_and_would_be_seen_however_faint():
    """LFM2 convolves three neighbours: with random weights a stream nearly looks right."""
    config = transformers.Lfm2Config(
        vocab_size=64, hidden_size=32, intermediate_size=32, num_hidden_layers=2,
        num_attention_heads=2, num_key_value_heads=2, layer_types=["conv", "full_attention"],
    )  # fmt: skip
    torch.manual_seed(0)
    model = transformers.Lfm2ForCausalLM(config).eval()
    assert str(layouts.layout_of(model)) == "padded rows (it has layers of conv)"
    assert not layouts._leaves_alone(model, stream_hidden)
    assert layouts._leaves_alone(model, padded_hidden)


@pytest.mark.parametrize("build", [gpt2, llama])
def test_both_layouts_give_the_same_hidden_states(build):
    model, rows = build(torch.float64), ragged(60)
    torch.testing.assert_close(stream_hidden(model, rows), padded_hidden(model, rows))


@pytest.mark.parametrize("build", [gpt2, llama])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a6_pairs_that_share_their_prompt_equal_the_plain_loop(build, dtype):
    model, pairs = build(dtype=dtype), pairs_of(ragged(120, seed=2))
    sides = [(p.prompt, y) for p in pairs for y in (p.chosen, p.rejected)]
    expected = torch.stack([x.sum() for x in plain_logps(model, sides)]).view(-1, 2)
    got = pair_logps(model, pairs)
    assert (got - expected).abs().max() <= tolerance(model) * expected.abs().max()
    fast, plain = (
        gradients(model, F.softplus(-(x[:, 0] - x[:, 1])).sum()) for x in (got, expected)
    )
    assert_same_gradients(fast, plain, 10 * tolerance(model))


def test_a_pair_stores_its_prompt_once():
    stream = make_stream([((5, 6, 7), (8, 9)), ((5, 6, 7), (10,))], "cpu")
    assert stream.ids.tolist() == [[5, 6, 7, 8, 9, 10]]
    assert stream.positions.tolist() == [[0, 1, 2, 3, 4, 3]]  # the rejected side starts again
    assert stream.sources.tolist() == [2, 3, 2]  # both first tokens come from the prompt's last
    assert stream.masks[0][0].tolist() == [[True, True, True, True]]


@pytest.mark.parametrize("build", [gpt2, llama])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a11_equals_transformers_own_cross_entropy_on_500_ragged_rows(build, dtype):
    """Their mean over the tokens whose label is not -100, times the count, is minus our sum.

    Their loss takes float64 logits to float32, so that side is asked for its logits only.
    """
    model, rows = build(dtype=dtype), ragged(500, seed=3)
    with torch.no_grad():
        got = completion_logps(model, rows)
        for (prompt, completion), ours in zip(rows, got, strict=True):
            labels = torch.tensor([(-100,) * len(prompt) + completion])
            theirs = model(input_ids=torch.tensor([prompt + completion]), labels=labels)
            loss = theirs.loss
            if dtype == torch.float64:
                loss = F.cross_entropy(theirs.logits[0, :-1], labels[0, 1:])
            per_token = (ours / len(completion) + loss).abs()
            assert per_token <= tolerance(model) * max(1, loss.item())


def test_a1_no_gradient_at_positions_that_predict_prompt_tokens_or_nothing():
    """In both halves of a pair: d logp / d logits is 0 but where a completion token is scored."""
    model, prompt, chosen, rejected = gpt2(), (3, 4, 5, 6), (7, 8), (9, 10, 11)
    for sequences in ([(prompt, chosen), (prompt, rejected)], [(prompt, chosen), ((1,), rejected)]):
        stream = make_stream(sequences, "cpu")
        seen = {}

        def keep(module, inputs, output, seen=seen):
            output.last_hidden_state.retain_grad()
            seen["hidden"] = output.last_hidden_state

        token_logps(model, sequences)  # the layout is chosen before the hook is set
        hook = model.base_model.register_forward_hook(keep)
        completion_logps(model, sequences).sum().backward()
        hook.remove()
        scored = seen["hidden"].grad[0].abs().sum(-1) > 0  # as for the logits: they are linear
        expected = torch.zeros(stream.ids.shape[1], dtype=torch.bool)
        expected[stream.sources] = True
        assert scored.tolist() == expected.tolist()
        assert int(expected.sum()) == len(set(stream.sources.tolist()))


def test_a2_one_token_completions_differ_by_their_logits_at_the_last_prompt_position():
    model, prompt = gpt2(dtype=torch.float64), (3, 4, 5)
    logits = model(input_ids=torch.tensor([prompt])).logits[0, -1]
    logps = completion_logps(model, [(prompt, (7,)), (prompt, (9,))])
    assert (logps[0] - logps[1] - (logits[7] - logits[9])).abs() < 1e-12
    gradient = gradients(model, logps[0] - logps[1])["transformer.wte.weight"]
    assert gradient[7].abs().sum() > 0


@pytest.mark.parametrize("name", ["bloom", "mistral"])
def test_a3_more_padding_changes_nothing(name):
    model, (short, *_) = MODELS[name](torch.float64), ragged(1)
    alone = completion_logps(model, [short])
    for extra in range(1, 17):
        long = (tuple(range(len(short[0]) + len(short[1]))), tuple(range(extra)))
        padded = completion_logps(model, [short, long])
        assert (padded[0] - alone[0]).abs() <= 1e-6 * alone.abs()


@pytest.mark.parametrize("build", [gpt2, llama])
def test_a4_perturbing_one_side_leaves_the_other_as_it_is(build):
    model, prompt = build(), (3, 4, 5)
    pair = SimpleNamespace(prompt=prompt, chosen=(7, 8, 9, 10), rejected=(11, 12))
    before = pair_logps(model, [pair])
    for side, other in (("chosen", 1), ("rejected", 0)):
        changed = copy.copy(pair)
        setattr(changed, side, tuple((token + 17) % VOCABULARY for token in getattr(pair, side)))
        after = pair_logps(model, [changed])
        assert after[0, other] == before[0, other]  # the same bits
        assert after[0, 1 - other] != before[0, 1 - other]


@pytest.mark.parametrize("name", MODELS)
def test_f1_f2_a3_a4_order_batch_size_and_other_rows_change_nothing(name):
    """Alone, in batches of 1 to 8, in reverse order, beside other rows: the same numbers."""
    model, rows = MODELS[name](torch.float64), ragged(24, seed=4)
    with torch.no_grad():
        expected = torch.stack([completion_logps(model, [row])[0] for row in rows])
        for size in range(2, 9):
            parts = [rows[i : i + size] for i in range(0, len(rows), size)]
            got = torch.cat([completion_logps(model, part) for part in parts])
            assert (got - expected).abs().max() <= tolerance(model) * expected.abs().max()
        backwards = completion_logps(model, rows[::-1]).flip(0)
        assert (backwards - expected).abs().max() <= tolerance(model) * expected.abs().max()


@pytest.mark.parametrize("side", ["left", "right"])
def test_f1_equals_the_model_on_rows_padded_on_either_side(side):
    """With positions from the mask, as GPT-2 needs them when padding is on the left."""
    model, rows = gpt2(dtype=torch.float64), ragged(16, seed=5)
    longest = max(len(x) + len(y) for x, y in rows)
    for (prompt, completion), ours in zip(rows, token_logps(model, rows), strict=True):
        row = torch.tensor(prompt + completion)
        empty = longest - len(row)
        sides = (empty, 0) if side == "left" else (0, empty)
        mask = F.pad(torch.ones_like(row), sides)[None]
        positions = (mask.cumsum(-1) - 1).clamp(min=0)
        padded = F.pad(row, sides)[None]
        logits = model(input_ids=padded, attention_mask=mask, position_ids=positions).logits[0]
        logits = logits[sides[0] :][len(prompt) - 1 : len(row) - 1]
        theirs = logits.log_softmax(-1)[torch.arange(len(completion)), row[len(prompt) :]]
        assert (theirs - ours).abs().max() < 1e-10


@pytest.mark.parametrize("score", [token_logps, plain_logps])
def test_a5_as_many_tokens_are_scored_as_the_completion_has(score):
    rows = ragged(10)
    assert [len(logps) for logps in score(gpt2(), rows)] == [len(y) for _, y in rows]


def test_a7_an_empty_completion_is_refused_with_its_row():
    with pytest.raises(ValueError, match="sequence 1: the completion is empty"):
        token_logps(gpt2(), [((1,), (2,)), ((1,), ())])


@pytest.mark.parametrize("score", [token_logps, plain_logps, completion_logps])
@pytest.mark.parametrize(
    ("sequences", "reason"),
    [
        ([], "no sequences"),
        ([((), (1, 2))], "sequence 0: the prompt is empty"),
        ([((1,), (2,)), ((1,) * 60, (2,) * 5)], "sequence 1: 65 tokens, the model has 64"),
        ([((1,), (VOCABULARY,))], f"token id {VOCABULARY} is not in"),
        ([((-1,), (2,))], "token id -1 is not in"),
    ],
)
def test_a5_a7_what_cannot_be_scored_is_refused_in_one_line(score, sequences, reason):
    with pytest.raises(ValueError, match=reason) as refusal:
        score(gpt2(), sequences)
    assert "\n" not in str(refusal.value)


def test_a8_unscored_positions_may_hold_nan():
    """Hidden states are picked by index, not multiplied by a mask: NaN elsewhere stays there."""
    model, rows = bloom(), [((1, *prompt), completion) for prompt, completion in ragged(4)]
    clean = completion_logps(model, rows)

    def spoil(module, inputs, output):
        hidden = output.last_hidden_state.clone()
        hidden[:, 0] = math.nan  # prompts have two tokens or more: nothing is scored from here
        output.last_hidden_state = hidden
        return output

    hook = model.base_model.register_forward_hook(spoil)
    spoiled = completion_logps(model, rows)
    hook.remove()
    assert torch.equal(spoiled, clean)
    assert all(g.isfinite().all() for g in gradients(model, spoiled.sum()).values())


def test_a9_the_sum_of_a_completion_does_not_depend_on_what_is_scored_beside_it():
    model, rows = gpt2(), ragged(8, seed=6)
    together = completion_logps(model, rows)
    for row, logp in zip(rows, together, strict=True):
        torch.testing.assert_close(completion_logps(model, [row])[0], logp)


@pytest.mark.parametrize("temperature", [0.7, 1.0, 1.3])
def test_a10_the_27_completions_of_a_3_token_vocabulary_sum_to_one(temperature):
    model = gpt2(vocabulary=3, dtype=torch.float64)
    sequences = [((0, 2, 1), completion) for completion in product(range(3), repeat=3)]
    logps = torch.stack([x.sum() for x in token_logps(model, sequences, temperature)])
    assert abs(logps.exp().sum().item() - 1) < 1e-12


def test_a11_a_repeated_token_with_the_same_probability_counts_twice():
    """Without positions and attention every token has one log-probability: the sum doubles."""
    model = gpt2(dtype=torch.float64)
    with torch.no_grad():
        model.transformer.wpe.weight.zero_()
        for block in model.transformer.h:
            block.attn.c_proj.weight.zero_()
    once, twice = completion_logps(model, [((5,), (5,)), ((5,), (5, 5))])
    torch.testing.assert_close(twice, 2 * once)


def test_a12_shapes_that_would_broadcast_are_refused_in_one_line():
    hidden, weight = torch.randn(4, 8), torch.randn(9, 8)
    for targets in (torch.zeros(4, 1).long(), torch.zeros(1).long(), torch.zeros(5).long()):
        with pytest.raises(ValueError, match="shapes must be"):
            target_logps(hidden, weight, None, targets)
    model, rows = gpt2(), ragged(6)
    assert completion_logps(model, rows).shape == (6,)
    assert pair_logps(model, pairs_of(rows)).shape == (6, 2)


def test_h2_a_bf16_model_gives_float32_sums_of_float32_log_softmax():
    """Only the hidden states are 16-bit: from there the numbers are those of float64."""
    model, rows = gpt2(dtype=torch.bfloat16), ragged(12, seed=7)
    got = token_logps(model, rows)
    hidden = layouts.completion_hidden(model, rows).double()
    logps = (hidden @ model.lm_head.weight.double().T).log_softmax(-1)
    targets = torch.tensor([token for _, completion in rows for token in completion])
    exact = logps[torch.arange(len(targets)), targets]
    assert all(x.dtype == torch.float32 for x in got + plain_logps(model, rows))
    assert completion_logps(model, rows).dtype == torch.float32
    assert (torch.cat(got) - exact).abs().max() < 1e-5 * exact.abs().max()
    assert all(g.dtype == torch.bfloat16 for g in gradients(model, torch.cat(got).sum()).values())


def test_h2_under_autocast_the_gradient_belongs_to_the_value():
    model, rows = gpt2(), ragged(12, seed=8)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = completion_logps(model, rows)
    exact = completion_logps(model, rows)
    assert mixed.dtype == torch.float32
    torch.testing.assert_close(mixed, exact, rtol=0.05, atol=0.5)
    mixed, exact = (gradients(model, x.sum()) for x in (mixed, exact))
    flat = [torch.cat([g.flatten() for g in gradient.values()]) for gradient in (mixed, exact)]
    assert F.cosine_similarity(*flat, dim=0) > 0.99


@pytest.mark.parametrize("size", [1, 2])  # computed twice, kept
def test_h2_in_16_bits_the_gradient_of_a_sure_token_is_as_exact_as_any(size, monkeypatch):
    """onehot - softmax is 3e-4 here; bfloat16 cannot tell 1 - 3e-4 from 1."""
    set_chunks(monkeypatch, size)
    monkeypatch.setattr(output_layer, "_factor_dtype", lambda *_: torch.bfloat16)  # as on CUDA

    def product(left, right, out=None):
        return torch.mm(left.float(), right.float(), out=out)

    monkeypatch.setattr(output_layer, "_product", product)
    hidden, weight = 8 * torch.eye(2), 1.01 * torch.eye(2)  # 1.01 is no bfloat16 either
    arguments = [x.clone().requires_grad_() for x in (hidden, weight)]
    logps = target_logps(*arguments, None, torch.tensor([0, 1]))
    got = torch.autograd.grad(logps.sum(), arguments)
    unsure = torch.sigmoid(torch.tensor(-8 * 1.01)).item()  # 1 - pi(target)
    expected = torch.tensor([[1.0, -1.0], [-1.0, 1.0]]) * unsure
    torch.testing.assert_close(got[0], 1.01 * expected, rtol=0.05, atol=0)
    torch.testing.assert_close(got[1], 8 * expected, rtol=0.05, atol=0)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("size", [3, 7])  # 7 = 3 + 3 + 1; a single chunk is kept
def test_the_chunked_head_passes_gradcheck(bias, temperature, size, monkeypatch):
    set_chunks(monkeypatch, size)
    generator = torch.Generator().manual_seed(0)
    hidden, weight, b = (
        torch.randn(*shape, dtype=torch.float64, generator=generator, requires_grad=True)
        for shape in ((7, 4), (5, 4), (5,))
    )
    targets = torch.randint(5, (7,), generator=generator)
    arguments = (hidden, weight, b if bias else None, targets, temperature)
    expected = F.linear(*arguments[:3]).div(temperature).log_softmax(-1)[torch.arange(7), targets]
    torch.testing.assert_close(target_logps(*arguments), expected)
    assert torch.autograd.gradcheck(target_logps, arguments)


@pytest.mark.parametrize("build", [gpt2, llama])
def test_chunks_change_nothing(build, monkeypatch):
    model, rows = build(dtype=torch.float64), ragged(20)
    whole = completion_logps(model, rows)
    whole_gradients = gradients(model, whole.sum())
    set_chunks(monkeypatch, 7)
    chunked = completion_logps(model, rows)
    torch.testing.assert_close(chunked, whole)
    assert_same_gradients(gradients(model, chunked.sum()), whole_gradients, 1e-10)


@pytest.mark.parametrize("build", [gpt2, llama])
@pytest.mark.parametrize("most", [1, 40, 10_000])
def test_a_loss_taken_part_by_part_has_the_value_and_gradient_of_the_whole(
    build, most, monkeypatch
):
    model, pairs = build(dtype=torch.float64), pairs_of(ragged(20))
    whole = pair_logps(model, pairs)
    expected = gradients(model, F.logsigmoid(whole[:, 0] - whole[:, 1]).sum())
    set_chunks(monkeypatch, most)
    model.zero_grad()
    seen, parts = [], []
    for part, logps in pair_logps_in_parts(model, pairs):
        F.logsigmoid(logps[:, 0] - logps[:, 1]).sum().backward()
        seen.append(logps.detach())
        parts.append(part)
    assert [i for part in parts for i in range(part.start, part.stop)] == list(range(len(pairs)))
    assert (len(parts) == 1) == (most == 10_000)
    torch.testing.assert_close(torch.cat(seen), whole.detach())
    found = {name: p.grad for name, p in model.named_parameters()}
    assert_same_gradients(found, expected, tolerance(model))


@pytest.mark.parametrize("size", [3, 7])
def test_a_second_backward_pass_through_kept_logits_gives_the_same(size, monkeypatch):
    set_chunks(monkeypatch, size)
    hidden, weight = torch.randn(7, 4, requires_grad=True), torch.randn(5, 4, requires_grad=True)
    total = target_logps(hidden, weight, None, torch.arange(7) % 5).sum()
    first, second = (
        torch.autograd.grad(total, (hidden, weight), retain_graph=True) for _ in range(2)
    )
    assert all(map(torch.equal, first, second))


def test_no_array_of_positions_times_vocabulary_exists(monkeypatch):
    """Neither a result of any operation, forward and backward, nor kept for backward."""
    set_chunks(monkeypatch, 8)
    vocabulary = 5056
    model, rows = gpt2(vocabulary=vocabulary, n_embd=8), ragged(40)
    positions = sum(len(y) for _, y in rows)
    parameters = max(p.numel() for p in model.parameters())
    assert positions * vocabulary > 10 * parameters
    completion_logps(model, rows).sum().backward()  # probes and buffers of the optimiser's side
    largest, kept = [0], [0]

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            result = function(*args, **(kwargs or {}))
            tensors = [result] if isinstance(result, torch.Tensor) else result
            if isinstance(tensors, list | tuple):
                sizes = [t.untyped_storage().nbytes() // 4 for t in tensors if torch.is_tensor(t)]
                largest.append(max(sizes, default=0))
            return result

    def keep(tensor):
        kept.append(tensor.numel())
        return tensor

    with Watch(), torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        completion_logps(model, rows).sum().backward()
    assert max(largest) <= parameters  # the embedding and its gradient, 8 positions of logits
    assert max(kept) <= parameters


def test_a_bias_of_the_output_layer_is_scored_and_trained():
    """GPT-J has one; its attention is its own, so the rows are padded."""
    config = transformers.GPTJConfig(
        vocab_size=VOCABULARY, n_embd=32, n_layer=2, n_head=4, rotary_dim=4, **NO_DROPOUT
    )
    model = louder(transformers.GPTJForCausalLM(config)).double()
    assert model.lm_head.bias is not None
    torch.nn.init.normal_(model.lm_head.bias)
    rows = ragged(20)
    fast, plain = (torch.cat(score(model, rows)) for score in (token_logps, plain_logps))
    assert (fast - plain).abs().max() <= tolerance(model) * plain.abs().max()
    weights = torch.randn(len(fast), dtype=torch.float64)
    fast, plain = (gradients(model, weights @ logps) for logps in (fast, plain))
    assert_same_gradients(fast, plain, 10 * tolerance(model))


def gemma2(dtype=torch.float32):
    """Caps its logits, and here visibly so: they are of the order of the cap."""
    kind = dict(cls=transformers.Gemma2ForCausalLM, config=transformers.Gemma2Config)
    return llama(dtype, **kind, head_dim=8, final_logit_softcapping=5.0)


def cohere(dtype=torch.float32):
    kind = dict(cls=transformers.CohereForCausalLM, config=transformers.CohereConfig)
    return llama(dtype, **kind)


def granite(dtype=torch.float32):
    kind = dict(cls=transformers.GraniteForCausalLM, config=transformers.GraniteConfig)
    return llama(dtype, **kind, logits_scaling=8.0)


@pytest.mark.parametrize("build", [gemma2, cohere, granite])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_logits_that_are_capped_or_scaled_are_scored_and_trained(build, temperature):
    model, rows = build(torch.float64), ragged(12)
    ids = [torch.tensor([prompt + completion]) for prompt, completion in rows]
    all_logits = [model(input_ids=row, use_cache=False).logits[0] / temperature for row in ids]
    wanted = torch.cat(
        [
            logits.log_softmax(-1)[
                torch.arange(len(prompt) - 1, len(row[0]) - 1), row[0, len(prompt) :]
            ]
            for logits, row, (prompt, _) in zip(all_logits, ids, rows, strict=True)
        ]
    )
    got = torch.cat(token_logps(model, rows, temperature))
    assert (got - wanted).abs().max() <= 1e-5 * wanted.abs().max()
    weights = torch.randn(len(got), dtype=torch.float64)
    got, wanted = (gradients(model, weights @ logps) for logps in (got, wanted))
    assert_same_gradients(got, wanted, 1e-4)


@pytest.mark.parametrize(("build", "scale"), [(gemma2, None), (cohere, 0.0625), (granite, 0.125)])
def test_a_scale_is_measured_and_a_cap_is_none(build, scale):
    head = linear_head(build())
    assert (head.scale if head else None) == (None if scale is None else pytest.approx(scale, 1e-6))
    assert linear_head(llama()).scale == 1.0  # exactly: the same bits as without one


@pytest.mark.parametrize("build", [gemma2, cohere])
def test_pairs_of_a_model_with_capped_or_scaled_logits_come_in_parts_with_their_gradients(build):
    model, pairs = build(torch.float64), pairs_of(ragged(6))
    weights = torch.randn(len(pairs), 2, dtype=torch.float64)
    wanted = gradients(model, (weights * pair_logps(model, pairs)).sum())
    model.zero_grad()
    parts = []
    for part, logps in pair_logps_in_parts(model, pairs):
        (weights[part] * logps).sum().backward()
        parts += range(len(pairs))[part]
    assert parts == list(range(len(pairs)))
    got = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}
    assert_same_gradients(got, wanted, 1e-9)


def phi3(**settings):
    """Longrope: above 16 tokens the positions of a whole batch are others."""
    long = [1.0 + i for i in range(4)]
    rope = dict(rope_type="longrope", rope_theta=1e4, short_factor=[1.0] * 4, long_factor=long)
    kind = dict(cls=transformers.Phi3ForCausalLM, config=transformers.Phi3Config)
    special = dict(pad_token_id=0, bos_token_id=1, eos_token_id=2)
    rope |= dict(original_max_position_embeddings=16)
    limits = dict(original_max_position_embeddings=16, rope_parameters=rope)
    return llama(**kind, **special, **limits, **settings)


@pytest.mark.parametrize("settings", [{}, {"sliding_window": 60}])  # the stream, padded rows
def test_a9_longrope_is_refused_only_where_one_sequence_would_change_another(settings):
    model, short, long = phi3(**settings), ragged(3, longest=6), ragged(2, seed=1)
    long = [((prompt * 20)[:20], completion) for prompt, completion in long]
    for rows in (short, long):
        torch.testing.assert_close(torch.cat(token_logps(model, rows)), flat(model, rows))
    for refuse in (partial(token_logps, model), RewardModel(model).check):
        with pytest.raises(ValueError, match=r"above 16 tokens the positions of this model .*$"):
            refuse(short + long)


def flat(model, rows):
    return torch.cat(plain_logps(model, rows))


@pytest.mark.parametrize("width", [32, 16])  # of the embeddings; the larger is projected down
def test_opt_whose_decoder_is_not_called_through_its_base_model_is_scored(width):
    kind = dict(cls=transformers.OPTForCausalLM, config=transformers.OPTConfig)
    model = llama(**kind, ffn_dim=64, dropout=0.0, word_embed_proj_dim=width)
    rows = ragged(6)
    torch.testing.assert_close(torch.cat(token_logps(model, rows)), flat(model, rows))
    assert RewardModel(model).score(rows).shape == (6,)
    assert [len(values) for values in ValueModel(model)(rows)] == [len(y) for _, y in rows]


def test_a_model_of_which_only_the_output_layer_is_trained_has_its_gradient():
    model, pairs = llama(), pairs_of(ragged(4))
    model.base_model.requires_grad_(False)
    pair_logps(model, pairs).sum().backward()
    expected, model.lm_head.weight.grad = model.lm_head.weight.grad, None
    for _, logps in pair_logps_in_parts(model, pairs):
        logps.sum().backward()
    torch.testing.assert_close(model.lm_head.weight.grad, expected)


def test_a_model_in_which_rows_leak_into_each_other_is_refused():
    """Here the norm of the whole batch is added to every hidden state."""
    model = gpt2()

    def leak(module, inputs, output):
        output.last_hidden_state = output.last_hidden_state + output.last_hidden_state.norm()
        return output

    model.base_model.register_forward_hook(leak)
    with pytest.raises(ValueError, match="a batch changes"):
        token_logps(model, ragged(2))


@pytest.mark.parametrize("own", ["sdpa", "eager"])
def test_the_models_own_attention_comes_back(own, tmp_path):
    """Also after a failure; generation and the saved configuration know nothing of the stream."""
    model, prompt = gpt2(), torch.tensor([[3, 4, 5]])
    model.set_attn_implementation(own)
    options = dict(max_new_tokens=5, do_sample=False, attention_mask=torch.ones_like(prompt))
    before = model.generate(prompt, **options)
    logits = model(input_ids=prompt).logits
    completion_logps(model, ragged(4)).sum().backward()
    with pytest.raises(IndexError):
        stream_hidden(model, [((1,) * 60, (2,) * 60)])  # more than the 64 positions
    assert model.config._attn_implementation == own
    assert torch.equal(model.generate(prompt, **options), before)
    assert torch.equal(model(input_ids=prompt).logits, logits)
    model.save_pretrained(tmp_path)
    assert STREAM not in (tmp_path / "config.json").read_text()


def test_scaled_attention_of_gpt2_is_kept():
    """scale_attn_by_inverse_layer_idx divides a layer's scores by its number."""
    model = gpt2(dtype=torch.float64, scale_attn_by_inverse_layer_idx=True)
    rows = ragged(10)
    assert layouts.layout_of(model) is layouts.STREAMED
    for fast, plain in zip(token_logps(model, rows), plain_logps(model, rows), strict=True):
        torch.testing.assert_close(fast, plain)


def checkpoint_activations(model):
    new = hasattr(model, "activation_checkpointing_enable")
    (model.activation_checkpointing_enable if new else model.gradient_checkpointing_enable)()


def test_gradient_checkpointing_gives_the_same_gradients():
    """The backward pass runs blocks again, with the model's own attention: padded rows."""
    model, rows = gpt2(dtype=torch.float64).train(), ragged(12)
    expected = gradients(model, completion_logps(model, rows).sum())
    checkpoint_activations(model)
    got = gradients(model, completion_logps(model, rows).sum())
    assert_same_gradients(got, expected, 1e-10)


def test_live_attention_dropout_is_refused():
    model = gpt2(attn_pdrop=0.5).train()
    with pytest.raises(ValueError, match=r"dropout must be 0 while scoring, got 0\.5"):
        token_logps(model, ragged(2))
    assert model.training and model.transformer.h[0].training
    token_logps(model.eval(), ragged(2))


@pytest.mark.parametrize("score", [token_logps, plain_logps])
def test_the_temperature_divides_the_logits(score):
    """The probability ratio of two tokens is raised to the power 1/T (J3: same T everywhere)."""
    model, prompt = gpt2(dtype=torch.float64), (3, 4)
    rows = [(prompt, (7,)), (prompt, (9,))]
    one, half = (torch.cat(score(model, rows, temperature)) for temperature in (1.0, 0.5))
    torch.testing.assert_close(half[0] - half[1], 2 * (one[0] - one[1]))
    for wrong in (0, -1.0, math.inf, math.nan):
        with pytest.raises(ValueError, match="temperature must be positive"):
            score(model, rows, wrong)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_a_gpu_gives_the_cpus_numbers(dtype):
    cpu, rows = gpt2(dtype=dtype), ragged(30)
    gpu = copy.deepcopy(cpu).cuda()
    expected = torch.cat(token_logps(cpu, rows))
    got = torch.cat(token_logps(gpu, rows))
    close = 0.05 if dtype == torch.bfloat16 else 1e-4
    torch.testing.assert_close(got.cpu(), expected, rtol=close, atol=close)
    got.sum().backward()
    assert all(p.grad.isfinite().all() for p in gpu.parameters())
