"""Bugs whose log is like any other: the doctor cannot find them, and other tests must.

The docstring of each says what someone did.
"""

from dataclasses import replace

from dpo_lib.language_model.scoring.logprobs import completion_logps
from dpo_lib.language_model.zoo.healthy import Healthy


class SwappedLabels(Healthy):
    """The columns chosen and rejected are exchanged in the data file."""

    def __init__(self, settings, policy, reference, tokenizer, pairs):
        super().__init__(settings, policy, reference, tokenizer, [p.swapped() for p in pairs])


class LongerIsChosen(Healthy):
    """Whoever labelled took the longer answer."""

    def __init__(self, settings, policy, reference, tokenizer, pairs):
        pairs = [p.swapped() if len(p.chosen) < len(p.rejected) else p for p in pairs]
        super().__init__(settings, policy, reference, tokenizer, pairs)


class PromptCounted(Healthy):
    """Log-probabilities count the prompt's tokens too."""

    def logps(self, model, indices):
        sides = [
            (p.prompt[:1], p.prompt[1:] + side)
            for p in (self.pairs[index] for index in indices)
            for side in (p.chosen, p.rejected)
        ]
        yield indices, completion_logps(model, sides).view(len(indices), 2)


class NoEnd(Healthy):
    """Answers end without EOS, so nothing teaches the policy to stop."""

    def __init__(self, settings, policy, reference, tokenizer, pairs):
        pairs = [replace(p, chosen=p.chosen[:-1], rejected=p.rejected[:-1]) for p in pairs]
        super().__init__(settings, policy, reference, tokenizer, pairs)


class TwoEnds(Healthy):
    """Answers end in EOS twice."""

    def __init__(self, settings, policy, reference, tokenizer, pairs):
        end = (tokenizer.eos_token_id,)
        pairs = [replace(p, chosen=p.chosen + end, rejected=p.rejected + end) for p in pairs]
        super().__init__(settings, policy, reference, tokenizer, pairs)


class TwoStarts(Healthy):
    """Prompts start with BOS twice; SFT saw none."""

    def __init__(self, settings, policy, reference, tokenizer, pairs):
        starts = (tokenizer.bos_token_id,) * 2
        pairs = [replace(p, prompt=starts + p.prompt) for p in pairs]
        super().__init__(settings, policy, reference, tokenizer, pairs)


class OtherTemplate(Healthy):
    """Prompts are rendered in a template that SFT never saw."""

    def __init__(self, settings, policy, reference, tokenizer, pairs):
        before, after = (tuple(tokenizer(text)["input_ids"]) for text in ("Q:", " A:"))
        pairs = [replace(p, prompt=before + p.prompt + after) for p in pairs]
        longest = policy.config.n_positions
        pairs = [p for p in pairs if len(p.prompt + max(p.chosen, p.rejected, key=len)) <= longest]
        super().__init__(settings, policy, reference, tokenizer, pairs)


class TwoPrompts(Healthy):
    """The longer an answer, the more of its prompt is cut away: the two follow different ones."""

    longest = 36  # tokens of prompt and answer together

    def logps(self, model, indices):
        sides = [
            (p.prompt[min(max(len(p.prompt + side) - self.longest, 0), len(p.prompt) - 1) :], side)
            for p in (self.pairs[index] for index in indices)
            for side in (p.chosen, p.rejected)
        ]
        yield indices, completion_logps(model, sides).view(len(indices), 2)


class InverseBeta(Healthy):
    """Somebody took beta for its inverse, in loss and metrics alike."""

    def __init__(self, settings, *others):
        super().__init__(replace(settings, beta=1 / settings.beta), *others)


INVISIBLE: list[type[Healthy]] = [
    SwappedLabels, LongerIsChosen, PromptCounted, NoEnd, TwoEnds, TwoStarts, OtherTemplate,
    TwoPrompts, InverseBeta,
]  # fmt: skip
