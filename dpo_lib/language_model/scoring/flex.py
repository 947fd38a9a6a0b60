"""Attention over a whole stream in one compiled call: torch's FlexAttention, for CUDA.

A GPU waits while Python loops over the prompts of a batch; one kernel a layer does them all. It
skips blocks of 128 by 128 positions in which nothing is seen, and no array of tokens times tokens
exists. What keeps a GPU from it is found by trying, values and gradients, and said once.
"""

import sys
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

from dpo_lib.language_model.scoring.sequences import to_device

BLOCK = 128  # FlexAttention's own
COMPILED = (torch.float32, torch.bfloat16, torch.float16)
NARROWEST = 16  # heads; a tensor core's product takes no fewer
# A kernel is compiled for each width, number of heads, dtype, with and without gradient; dynamo
# gives up after 8.
RECOMPILE_LIMIT = 64

Groups = list[tuple[int, list[int]]]  # length of a prompt, lengths of its completions


def block_mask(groups: Groups, device: torch.device | str):
    """Which keys each token of a stream sees: those before it in its prompt and its completion.

    Args:
        groups: as they follow each other in the stream.

    Returns:
        torch's BlockMask of (tokens, tokens); its blocks hold all that is seen, and may hold more.
    """
    from torch.nn.attention.flex_attention import BlockMask

    spans, start = [], 0
    for prompt, completions in groups:
        own = start
        for length in (prompt, *completions):
            spans.append((length, start, start + prompt, own))
            own += length
        start = own
    lengths, *columns = torch.tensor(spans, dtype=torch.int32).T
    spans = to_device(torch.stack(columns).repeat_interleave(lengths, dim=1), device)
    # Of each token's group, and of its own piece; copies, because a kernel wants them aligned.
    prompt_start, prompt_end, own_start = (row.clone() for row in spans)

    def sees(batch, head, query, key):
        before = (key >= prompt_start[query]) & (key <= query)
        return before & ((key < prompt_end[query]) | (key >= own_start[query]))

    # A block of queries needs the blocks from its first token's prompt up to itself.
    first = prompt_start[::BLOCK] // BLOCK
    rows = torch.arange(len(first), dtype=torch.int32, device=device)
    needed = (first[:, None] + rows).clamp(max=len(rows) - 1)
    return BlockMask.from_kv_blocks(
        (rows - first + 1)[None, None],
        needed[None, None],
        BLOCK_SIZE=BLOCK,
        mask_mod=sees,
        seq_lengths=(start, start),
    )


def flex(query: Tensor, key: Tensor, value: Tensor, mask, scaling: float | None) -> Tensor:
    """Softmax attention under a block mask; query (1, heads, tokens, width), as its result.

    Keys and values may have fewer heads, each for as many neighbours among the queries.
    """
    device, width = query.device.type, query.shape[-1]
    if torch.is_autocast_enabled(device):  # as autocast does for torch's own attention
        dtype = torch.get_autocast_dtype(device)
        query, key, value = (x.to(dtype) for x in (query, key, value))
    # A number among the arguments would become a variable, which a kernel's scale cannot be.
    if scaling is not None and scaling != width**-0.5:
        query = query * (scaling * width**0.5)
    several = query.shape[1] != key.shape[1]
    config = torch.compiler.config
    with torch.autocast(device, enabled=False), config.patch(recompile_limit=RECOMPILE_LIMIT):
        return _compiled()(query, key, value, block_mask=mask, enable_gqa=several)


@cache
def _compiled():
    from torch.nn.attention.flex_attention import flex_attention

    # fullgraph: an error rather than the uncompiled form, which holds tokens times tokens.
    return torch.compile(flex_attention, fullgraph=True)


def is_one_call(query: Tensor, key: Tensor, value: Tensor) -> bool:
    """Whether these are attended to by `flex`: on CUDA where it works, if they are not few.

    On a CPU the loop is faster, and has a gradient. A stream of two blocks has no use for blocks;
    other kernels, for a query shorter than one block, are kept out of the matter.
    """
    if not query.is_cuda or query.shape[2] <= 2 * BLOCK:
        return False
    autocast = torch.is_autocast_enabled("cuda")
    dtype = torch.get_autocast_dtype("cuda") if autocast else query.dtype
    shape = (query.shape[1], key.shape[1], query.shape[3], value.shape[3])
    return not why_not(query.device, dtype, *shape)


@cache
def why_not(
    device: torch.device, dtype: torch.dtype, heads: int, kv_heads: int, width: int, v_width: int
) -> str:
    """What keeps a device from `flex` at these shapes, "" if nothing does; said on stderr, once."""
    if dtype not in COMPILED:
        why = f"there is none for {str(dtype).removeprefix('torch.')}"
    elif min(width, v_width) < NARROWEST:
        why = f"its heads are narrower than {NARROWEST}"
    else:
        try:
            why = _tried(device, dtype, heads, kv_heads, width, v_width)
        except Exception as error:  # no triton, no C compiler, an old card: of many kinds and lines
            why = f"{type(error).__name__}: {' '.join(str(error).split())[:160]}"
    if why:
        print(f"attention in a loop over prompts, not in one call: {why}", file=sys.stderr)
    return why


def _tried(device: torch.device, dtype: torch.dtype, *shape: int) -> str:
    """Values and gradients of `flex` beside those of a mask of tokens times tokens.

    Two lengths: after the first a kernel is compiled again, for any length.
    """
    for groups in ([(150, [90, 70]), (7, [1])], [(5, [3]), (200, [80, 1, 130])]):
        mask = block_mask(groups, device)
        tensors = [x.to(dtype) for x in _random_heads(groups, device, *shape)]
        found = _with_gradients(flex, tensors, mask)
        expected = _with_gradients(dense, [x.double() for x in tensors], mask)
        close = 1e-4 if dtype == torch.float32 else 0.05
        for one, other in zip(found, expected, strict=True):
            worst = (one - other).abs().max() / other.abs().max()
            if not worst <= close:
                return f"its numbers are {worst:.1g} off"
    return ""


def _random_heads(
    groups: Groups, device: torch.device, heads: int, kv_heads: int, width: int, v_width: int
) -> list[Tensor]:
    """Query, key and value of a stream, the same on each call."""
    tokens = sum(prompt + sum(completions) for prompt, completions in groups)
    generator = torch.Generator().manual_seed(0)
    shapes = ((heads, width), (kv_heads, width), (kv_heads, v_width))
    drawn = [torch.randn(1, n, tokens, size, generator=generator) for n, size in shapes]
    return [x.to(device) for x in drawn]


def dense(query: Tensor, key: Tensor, value: Tensor, mask, scaling: float | None = None) -> Tensor:
    """`flex` by the definition: every pair of tokens is asked whether one sees the other."""
    position = torch.arange(query.shape[2], device=query.device)
    seen = mask.mask_mod(0, 0, position[:, None], position)
    key, value = (x.repeat_interleave(query.shape[1] // x.shape[1], dim=1) for x in (key, value))
    return F.scaled_dot_product_attention(query, key, value, attn_mask=seen, scale=scaling)


@torch.enable_grad()
def _with_gradients(attend, tensors: list[Tensor], mask) -> list[Tensor]:
    """The result, and the gradients of the sum of its squares."""
    with torch.autocast(tensors[0].device.type, enabled=False):
        leaves = [x.detach().requires_grad_() for x in tensors]
        result = attend(*leaves, mask, None)
        gradients = torch.autograd.grad(result.float().square().sum(), leaves)
    return [x.detach().double() for x in (result, *gradients)]
