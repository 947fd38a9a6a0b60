"""Attention in one call, on the CPU: torch's FlexAttention uncompiled, beside the plain loop.

What the compiler makes of it on a GPU cannot be seen here; mask, blocks, layout and choice can.
"""

from functools import cache
from itertools import pairwise

import pytest
import torch
from scoring_helpers import (
    VOCABULARY,
    assert_same_gradients,
    gpt2,
    gradients,
    ids,
    llama,
    pairs_of,
    ragged,
)
from torch.nn.attention import flex_attention as torchs

from dpo_lib.language_model.scoring import flex, stream
from dpo_lib.language_model.scoring.flex import BLOCK, block_mask, dense, is_one_call, why_not
from dpo_lib.language_model.scoring.layouts import STREAMED, layout_of
from dpo_lib.language_model.scoring.logprobs import (
    completion_logps,
    pair_logps,
    plain_logps,
    token_logps,
)

torch.set_num_threads(1)
CUDA = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


@cache
def interpreted():
    return torch.compile(torchs.flex_attention, fullgraph=True, backend="eager")


@pytest.fixture
def calls(monkeypatch):
    """Every stream's attention is one call of torch's operator; lists what was asked of it.

    Torch refuses a gradient on the CPU, where its compiler has none; the operator has one.
    """
    calls = []

    def call(query, key, value, **rest):
        calls.append((query.shape, key.shape, rest))
        return interpreted()(query, key, value, **rest)

    monkeypatch.setattr(torchs, "_validate_device", lambda *tensors: None)
    monkeypatch.setattr(flex, "_compiled", lambda: call)
    monkeypatch.setattr(stream, "is_one_call", lambda *heads: True)
    return calls


def narrow(**settings):
    """Heads of 12 numbers, each layer with a scale of its own."""
    return gpt2(n_embd=48, scale_attn_by_inverse_layer_idx=True, **settings)


def shared(count, seed=0):
    """Prompts with one to four completions each."""
    generator = torch.Generator().manual_seed(seed)
    rows = []
    for group in range(count):
        lengths = torch.randint(1, 30, (5,), generator=generator).tolist()
        prompt = ids(generator, lengths[0])
        rows += [(prompt, ids(generator, n)) for n in lengths[1 : 2 + group % 4]]
    return rows


@pytest.mark.parametrize("rows", [ragged(18, seed=1), shared(6)], ids=["pairs", "shared"])
@pytest.mark.parametrize("build", [gpt2, llama, narrow])
def test_one_call_equals_the_plain_loop_and_its_gradients(build, rows, calls):
    model = build()
    weights = [torch.randn(len(y)) for _, y in rows]  # any upstream gradient
    fast, plain = token_logps(model, rows), plain_logps(model, rows)
    assert calls and layout_of(model) is STREAMED  # the padded rows would be right, too
    for got, expected in zip(fast, plain, strict=True):
        assert (got - expected).abs().max() <= 1e-5 * max(1, expected.abs().max())
    fast, plain = (
        gradients(model, sum((w * x).sum() for w, x in zip(weights, logps, strict=True)))
        for logps in (fast, plain)
    )
    assert_same_gradients(fast, plain, 1e-4)


def test_keys_of_several_query_heads_are_not_copied_and_the_mask_is_made_once(calls):
    completion_logps(llama(), ragged(4))
    probe = len(calls) - 2  # the layout is found first
    assert [(query[1], key[1]) for query, key, _ in calls[probe:]] == [(4, 2)] * 2
    first, second = (rest["block_mask"] for *_, rest in calls[probe:])
    assert first is second


@pytest.mark.parametrize("build", [gpt2, llama])
def test_what_stands_beside_a_sequence_does_not_reach_it(build, calls):
    """Neighbours of the same lengths with other tokens: the same bits."""
    model, rows = build(), shared(6)
    with torch.no_grad():
        before = completion_logps(model, rows)
        for row, (prompt, completion) in enumerate(rows):
            changed = list(rows)
            changed[row] = (prompt, tuple((token + 17) % VOCABULARY for token in completion))
            after = completion_logps(model, changed)
            assert after[row] != before[row]  # control
            others = torch.arange(len(rows)) != row
            assert torch.equal(after[others], before[others])


def sees(groups):
    """Which tokens see which, from the words: the own prompt and oneself, up to oneself."""
    places = [
        (group, piece)
        for group, (prompt, completions) in enumerate(groups)
        for piece, length in enumerate((prompt, *completions))
        for _ in range(length)
    ]
    return torch.tensor(
        [
            [
                key <= query and theirs[0] == own[0] and theirs[1] in (0, own[1])
                for key, theirs in enumerate(places)
            ]
            for query, own in enumerate(places)
        ]
    )


GROUPS = [
    [(1, [1])],
    [(3, [2, 4]), (5, [6])],
    [(128, [128, 128])],
    [(127, [1, 129]), (200, [30, 30, 30]), (1, [300]), (64, [64])],
]


@pytest.mark.parametrize("groups", GROUPS)
def test_the_mask_is_that_of_the_words_and_its_blocks_leave_nothing_out(groups):
    mask, expected = block_mask(groups, "cpu"), sees(groups)
    position = torch.arange(len(expected))
    assert torch.equal(mask.mask_mod(0, 0, position[:, None], position), expected)
    assert mask.shape == (1, 1, *expected.shape)
    blocks = mask.to_dense()[0, 0].bool()
    whole = blocks.repeat_interleave(BLOCK, 0).repeat_interleave(BLOCK, 1)
    assert not (expected & ~whole[: len(expected), : len(expected)]).any()
    assert blocks.tril().equal(blocks)  # and none after its queries
    backwards = torch.zeros_like(blocks)  # what the gradient of keys goes through
    for column, count in enumerate(mask.q_num_blocks[0, 0]):
        backwards[mask.q_indices[0, 0, column, :count].long(), column] = True
    assert torch.equal(backwards, blocks)


def test_blocks_of_other_prompts_are_skipped():
    """Sixteen pairs of 256 tokens: two blocks or one for each block, of 32."""
    blocks = block_mask([(128, [64, 64])] * 16, "cpu").kv_num_blocks[0, 0]
    assert blocks.tolist() == [1, 2] * 16


def test_other_lengths_do_not_compile_again(calls, monkeypatch):
    """The first length is compiled as it is, the second for any; with a gradient and without."""
    compiled = []

    def count(graph, inputs):
        compiled.append(graph)
        return graph

    made = torch.compile(torchs.flex_attention, fullgraph=True, backend=count)
    monkeypatch.setattr(flex, "_compiled", lambda: made)
    torch.compiler.reset()
    for number in range(6):
        groups = [(130 + 37 * number, [40, 60 + number])] * (2 + number % 3)
        mask, tokens = block_mask(groups, "cpu"), sum(p + sum(c) for p, c in groups)
        heads = [torch.randn(1, n, tokens, 16) for n in (4, 2, 2)]
        for scaling in (None, 0.25, 0.1):
            expected = dense(*heads, mask, scaling)
            torch.testing.assert_close(flex.flex(*heads, mask, scaling), expected)
    assert len(compiled) == 2


def test_more_kernels_than_dynamo_allows_by_itself_are_compiled(calls):
    torch.compiler.reset()
    mask = block_mask([(3, [2])], "cpu")
    for width in range(1, 10):
        heads = [torch.randn(1, 1, 5, width) for _ in range(3)]
        torch.testing.assert_close(flex.flex(*heads, mask, None), dense(*heads, mask))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_it_is_tried_and_its_gradients_too_before_it_is_used(dtype, calls, monkeypatch):
    shape = (torch.device("cpu"), dtype, 4, 2, 16, 16)
    assert flex._tried(*shape) == ""
    assert {query[2] for query, *_ in calls} == {318, 419}
    right = flex.flex

    def wrong_gradient(query, key, *rest):
        return right(query, key + 0.2 * (key.detach() - key), *rest)

    def wrong_value(*arguments):
        result = right(*arguments)
        return torch.cat([result[:, :, :-1], 0 * result[:, :, -1:]], dim=2)

    for wrong in (wrong_gradient, wrong_value, lambda *x: right(*x) * float("nan")):
        monkeypatch.setattr(flex, "flex", wrong)
        assert "its numbers are" in flex._tried(*shape)


def test_a_device_that_cannot_compile_it_says_so_once_and_loops(capsys, monkeypatch):
    def fails(*shape):
        raise RuntimeError("Cannot find a working triton installation.\nMore is at https://…")

    monkeypatch.setattr(flex, "_tried", fails)
    why_not.cache_clear()
    shape = (torch.device("cpu"), torch.float32, 4, 2, 16, 16)
    assert why_not(*shape) == why_not(*shape)
    assert why_not(*shape).startswith("RuntimeError: Cannot find a working triton installation. M")
    assert capsys.readouterr().err.splitlines() == [
        f"attention in a loop over prompts, not in one call: {why_not(*shape)}"
    ]
    why_not.cache_clear()


@pytest.mark.parametrize(
    ("dtype", "width", "why"),
    [(torch.float64, 64, "there is none for float64"), (torch.float32, 8, "narrower than 16")],
)
def test_what_no_kernel_is_made_for_is_known_without_trying(dtype, width, why, monkeypatch, capsys):
    monkeypatch.setattr(flex, "_tried", lambda *shape: "tried")
    assert why in why_not(torch.device("cuda"), dtype, 4, 4, width, width)
    assert capsys.readouterr().err.count("\n") == 1
    why_not.cache_clear()


def test_a_cpu_keeps_the_loop():
    assert not is_one_call(*[torch.randn(1, 2, 600, 16)] * 3)


@CUDA
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("build", [gpt2, llama])
def test_a_gpu_attends_in_one_call_and_equals_the_plain_loop(build, dtype):
    """Heads of 24 numbers: wide enough, and no power of two."""
    size = dict(n_embd=96) if build is gpt2 else dict(hidden_size=96)
    model = build(dtype=dtype, **size).cuda()
    rows = ragged(60, seed=1)
    loop = completion_logps(model, rows)
    assert why_not(torch.device("cuda", 0), dtype, 4, 4 if build is gpt2 else 2, 24, 24) == ""
    close = dict(rtol=1e-5, atol=1e-4) if dtype == torch.float32 else dict(rtol=0.05, atol=0.5)
    expected = torch.stack([x.sum() for x in plain_logps(model, rows)])
    torch.testing.assert_close(loop, expected, **close)
    got, expected = (gradients(model, x.sum()) for x in (loop, expected))
    assert_same_gradients(got, expected, 1e-3 if dtype == torch.float32 else 0.2)


@CUDA
def test_on_a_gpu_pairs_of_any_number_are_scored_alike_in_one_call_and_alone():
    model, pairs = gpt2(n_embd=96).cuda(), pairs_of(ragged(64, seed=3))
    with torch.no_grad():
        alone = torch.cat([pair_logps(model, [pair]) for pair in pairs])
        for start, stop in pairwise((0, 16, 40, 64)):
            torch.testing.assert_close(
                pair_logps(model, pairs[start:stop]), alone[start:stop], rtol=1e-5, atol=1e-4
            )
