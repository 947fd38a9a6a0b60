"""The reward model of section 3, and the linear head that it shares with PPO's value function."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import (
    MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from dpo_lib.language_model.files import write_json
from dpo_lib.language_model.models.adapters.folders import (
    CLASSIFIER,
    SHIFT,
    read_model,
    save_adapter,
)
from dpo_lib.language_model.models.adapters.layers import is_adapted
from dpo_lib.language_model.models.devices import at_least_float32
from dpo_lib.language_model.models.hub import ModelError, config_to_save, quiet, whole_folder
from dpo_lib.language_model.models.lengths import by_length, check_rope

PADDED_TOKENS = {"cpu": 2048, "gpu": 16384}  # of one forward pass of a reward model


class ValueHead(nn.Module):
    """A linear layer from hidden states to one number each, zero at the start.

    Computes in float32 or better whatever the dtype of the hidden states, autocast or not.
    """

    def __init__(self, hidden_size: int, bias: bool = True, dtype: torch.dtype = torch.float32):
        super().__init__()
        # not nn.Linear's own initialisation: it draws from the global generator
        self.linear = nn.utils.skip_init(nn.Linear, hidden_size, 1, bias=bias, dtype=dtype)
        for parameter in self.linear.parameters():
            nn.init.zeros_(parameter)

    def forward(self, hidden: Tensor) -> Tensor:
        """(..., hidden_size) -> (...)."""
        with torch.autocast(hidden.device.type, enabled=False):
            return self.linear(hidden.to(self.linear.weight.dtype)).squeeze(-1)


def hidden_size(model: PreTrainedModel) -> int:
    """The width of the last hidden states; OPT-350M projects its own down to the embeddings'."""
    return getattr(model.config, "word_embed_proj_dim", None) or model.config.hidden_size


class RewardModel(nn.Module):
    """r_phi(x, y): an SFT model's body, a linear head on the last token, minus a shift.

    As in section 3: initialised from the SFT model, "with the addition of a linear layer on top
    of the final transformer layer that produces a single scalar prediction". The head is zero at
    the start and has no bias: equation (2) cannot see one. The shift is set by `normalise`.

    Args:
        model: gives its body (the same tensors, not a copy).
    """

    def __init__(self, model: PreTrainedModel):
        super().__init__()
        self.body = model.base_model
        dtype = at_least_float32(model.dtype)
        self.head = ValueHead(hidden_size(model), bias=False, dtype=dtype)
        self.register_buffer("shift", torch.zeros((), dtype=dtype))
        self.to(model.device)

    def score(self, sequences: Sequence[tuple[Sequence[int], Sequence[int]]]) -> Tensor:
        """Rewards of (prompt ids, completion ids), read at each one's last token.

        Lengths say where a sequence ends, no token id does. Padding stands on the right, where
        a causal model cannot see it, so the mask has no zeros, and no position ids are needed.

        Returns:
            shape (n,), float32 or better, reward units.
        """
        self.check(sequences)
        rows = [[*prompt, *completion] for prompt, completion in sequences]
        if not rows:
            return self.shift.new_zeros(0)
        tokens = PADDED_TOKENS["cpu" if self.shift.device.type == "cpu" else "gpu"]
        groups = list(by_length([len(row) for row in rows], tokens))
        states = torch.cat([self._last_states([rows[i] for i in group]) for group in groups])
        order = torch.tensor([i for group in groups for i in group])
        return self.head(states[order.argsort().to(states.device)]) - self.shift

    def check(self, sequences: Sequence[tuple[Sequence[int], Sequence[int]]]) -> None:
        """Raise ModelError at the first sequence that is empty or longer than the context."""
        context = getattr(self.body.config, "max_position_embeddings", None) or float("inf")
        lengths = [len(prompt) + len(completion) for prompt, completion in sequences]
        for i, tokens in enumerate(lengths):
            if not 0 < tokens <= context:
                raise ModelError(f"sequence {i} has {tokens} tokens, allowed are 1 to {context}")
        check_rope(self.body, lengths)

    def _last_states(self, rows: list[list[int]]) -> Tensor:
        """The last hidden state of each row at its last token, shape (rows, hidden_size)."""
        ids = nn.utils.rnn.pad_sequence([torch.tensor(row) for row in rows], batch_first=True)
        ends = torch.tensor([len(row) - 1 for row in rows])
        device = self.shift.device
        ids = ids.to(device)
        mask = torch.ones_like(ids)  # without one transformers may warn of padding
        hidden = self.body(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state
        return hidden[torch.arange(len(rows), device=device), ends.to(device)]

    @torch.no_grad()
    def normalise(self, mean: float | Tensor) -> None:
        """Shift all rewards by the mean that `score` now has on a reference set: it becomes 0.

        PPO needs rewards of a known level; the loss of equation (2) does not change.
        """
        mean = torch.as_tensor(mean, dtype=self.shift.dtype, device=self.shift.device)
        if mean.numel() != 1 or not mean.isfinite().all():
            raise ModelError(f"mean must be one finite number, got {mean.tolist()}")
        self.shift += mean.reshape(())

    def save(self, tokenizer: PreTrainedTokenizerBase, directory: str | Path) -> None:
        """Save as the hub's sequence classifier with one label, whole or not at all.

        Its logit in plain `transformers` is our score plus `reward_shift` of its config.json. Of a
        body with an adapter both adapter and head are saved, in peft's format.
        """
        if is_adapted(self.body):
            with whole_folder(directory) as scratch:
                save_adapter(self.body, tokenizer, scratch, self.head.linear.weight)
                write_json(scratch / SHIFT, {"reward_shift": self.shift.item()})
            return
        config = config_to_save(self.body)
        config.num_labels, config.reward_shift = 1, self.shift.item()
        if type(config) not in MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING:
            raise ModelError(f"no reward models of type {config.model_type} in the hub's format")
        classifier = MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING[type(config)]
        with torch.device("meta"):
            model = classifier(config)
        setattr(model, model.base_model_prefix, self.body)
        model.score = self.head.linear
        with whole_folder(directory) as scratch, quiet():
            model.save_pretrained(scratch)
            tokenizer.save_pretrained(scratch)

    @classmethod
    def load(cls, name: str | Path, dtype: torch.dtype = torch.float32) -> "RewardModel":
        """Load what `save` wrote, or a hub classifier with one label and no bias; dropout off."""
        # float32 first: the head has it even if the body has not
        wide = at_least_float32(dtype)
        model = read_model(name, MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING, CLASSIFIER, wide)
        head = getattr(model, "score", None)
        if not isinstance(head, nn.Linear) or head.out_features != 1 or head.bias is not None:
            raise ModelError(f"{name}: not a reward model: its head is {head}")
        reward_model = cls(model)
        reward_model.body.to(dtype)
        reward_model.head.linear.load_state_dict(head.state_dict())
        reward_model.normalise(getattr(model.config, "reward_shift", 0.0))
        return reward_model.train()
