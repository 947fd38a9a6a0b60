"""Log-probabilities of completions, log pi(y | x): sums over tokens, exact, fast, differentiable.

`plain_logps` is the definition, one sequence at a time, and what a model gets whose logits are more
than a multiple of its output layer. For all others the functions give the same numbers and
gradients from one forward pass in which only the positions that predict a completion token
reach the vocabulary, a chunk of them at a time: an array of positions times vocabulary never
exists, neither forward nor backward. That they are equal, values and gradients, is what
`test_a6_equals_the_plain_loop_and_its_gradients_on_ragged_rows` holds for every kind of model.
"""

from collections.abc import Callable, Iterator
from contextlib import nullcontext

import torch
from torch import Tensor
from transformers import PreTrainedModel

from dpo_lib._checks import check_positive
from dpo_lib.language_model.data.tokens import Pair, Sequences
from dpo_lib.language_model.models.devices import at_least_float32
from dpo_lib.language_model.scoring.layouts import completion_hidden
from dpo_lib.language_model.scoring.output_layer import (
    LinearHead,
    linear_head,
    positions_per_chunk,
    target_logps,
)
from dpo_lib.language_model.scoring.sequences import check_sequences, to_device


def plain_logps(
    model: PreTrainedModel, sequences: Sequences, temperature: float = 1.0
) -> list[Tensor]:
    """log pi(y_t | x, y_<t) of every completion token, the slow obvious way.

    Args:
        model: any causal language model of transformers.
        sequences: (prompt ids, completion ids), neither of them empty.
        temperature: > 0, divides the logits.

    Returns:
        one tensor for each sequence, shape (its completion's length,), nats, float32 or better.
    """
    targets = [torch.tensor(completion, device=model.device) for _, completion in sequences]
    log_policies = plain_log_policies(model, sequences, temperature)
    both = zip(log_policies, targets, strict=True)
    return [log_policy.gather(-1, target[:, None])[:, 0] for log_policy, target in both]


def plain_log_policies(
    model: PreTrainedModel, sequences: Sequences, temperature: float = 1.0
) -> Iterator[Tensor]:
    """log pi(. | x, y_<t) at every completion token, shape (completion's length, vocabulary)."""
    check_positive("temperature", temperature)
    for prompt, completion in check_sequences(model, sequences):
        ids = torch.tensor([prompt + completion], device=model.device)
        output = model(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False)
        logits = output.logits[0, len(prompt) - 1 : -1]
        yield (logits.to(at_least_float32(logits.dtype)) / temperature).log_softmax(-1)


def token_logps(
    model: PreTrainedModel, sequences: Sequences, temperature: float = 1.0
) -> list[Tensor]:
    """`plain_logps`, fast. Neighbours with the same prompt share it; see `layouts`.

    Raises:
        ValueError: in one line, for an empty prompt or completion, a sequence longer than the
            model's positions, and an id outside the vocabulary.
    """
    check_positive("temperature", temperature)
    sequences = check_sequences(model, sequences)
    head = linear_head(model)
    if head is None:
        return plain_logps(model, sequences, temperature)
    hidden = completion_hidden(model, sequences)  # (completion tokens, width)
    return _token_logps(hidden, head, sequences, temperature)


def completion_logps(model: PreTrainedModel, sequences: Sequences) -> Tensor:
    """log pi(y | x) of every completion, *summed* over its tokens, shape (sequences,), nats."""
    return torch.stack([logps.sum() for logps in token_logps(model, sequences)])


def pair_logps(model: PreTrainedModel, pairs: list[Pair]) -> Tensor:
    """log pi(y_w | x) and log pi(y_l | x) of every pair, shape (pairs, 2), nats.

    Sequences 2i and 2i + 1 are the chosen and the rejected side of pair i: neighbours with one
    prompt, which the stream stores once.
    """
    return completion_logps(model, pair_sides(pairs)).view(len(pairs), 2)


def pair_sides(pairs: list[Pair]) -> Sequences:
    """Both sequences of each pair, chosen and rejected in turn."""
    return [(pair.prompt, side) for pair in pairs for side in (pair.chosen, pair.rejected)]


def pair_logps_in_parts(
    model: PreTrainedModel, pairs: list[Pair], context: Callable = nullcontext
) -> Iterator[tuple[slice, Tensor]]:
    """`completion_logps_in_parts` of pairs: log-probabilities of the shape (pairs, 2)."""
    for part, logps in completion_logps_in_parts(model, pair_sides(pairs), context, together=2):
        yield slice(part.start // 2, part.stop // 2), logps.view(-1, 2)


def completion_logps_in_parts(
    model: PreTrainedModel, sequences: Sequences, context: Callable = nullcontext, together: int = 1
) -> Iterator[tuple[slice, Tensor]]:
    """`completion_logps`, a few sequences at a time, for a loss that is a sum over them.

    Call `backward` on what is made of a part before the next is asked for: the gradient at the
    vocabulary is then taken while the part's logits are at hand, which are computed once. The
    rest of the model has its one backward pass when the parts are exhausted.

    Args:
        context: makes the context to compute in, autocast say.
        together: neighbours that are never parted, 2 for the sides of a pair.

    Yields:
        which sequences, and their log-probabilities, shape (sequences of this part,), nats.
    """
    sequences = check_sequences(model, sequences)
    head = linear_head(model)
    if head is None:
        for start in range(0, len(sequences), together):
            part = slice(start, start + together)
            with context():
                logps = plain_logps(model, sequences[part])
            yield part, torch.stack([x.sum() for x in logps])
        return
    with context():
        hidden = completion_hidden(model, sequences)
    cut = hidden.detach().requires_grad_()  # the model ends here and the vocabulary begins
    lengths = [len(completion) for _, completion in sequences]
    sizes = [sum(lengths[n : n + together]) for n in range(0, len(lengths), together)]
    for run in _runs(sizes, positions_per_chunk(head.weight)):
        part = slice(together * run.start, together * run.stop)
        start = sum(sizes[: run.start])
        positions = cut[start : start + sum(sizes[run])]
        with context():
            logps = _token_logps(positions, head, sequences[part])
        yield part, torch.stack([x.sum() for x in logps])
    if cut.grad is not None and hidden.requires_grad:
        hidden.backward(cut.grad)


def _runs(sizes: list[int], most: int) -> Iterator[slice]:
    """Runs whose sizes sum to at most `most`; a size above it stands alone."""
    start = 0
    for stop in range(1, len(sizes) + 1):
        if stop == len(sizes) or sum(sizes[start : stop + 1]) > most:
            yield slice(start, stop)
            start = stop


def _token_logps(
    hidden: Tensor, head: LinearHead, sequences: Sequences, temperature: float = 1.0
) -> list[Tensor]:
    """From the hidden states that predict the completions' tokens to their log-probabilities."""
    targets = [token for _, completion in sequences for token in completion]
    targets = to_device(torch.tensor(targets), hidden.device)
    logps = target_logps(hidden, head.weight, head.bias, targets, temperature / head.scale)
    return list(logps.split([len(completion) for _, completion in sequences]))
