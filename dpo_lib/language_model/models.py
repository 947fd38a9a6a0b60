"""Models: load, copy, save and name them; the reward model and PPO's value head.

Every model here is a Hugging Face model, so any causal language model of the hub works and what
is saved loads in plain `transformers`. Weights are read from safetensors only: other formats can
run code. Dropout is off in all of them, or the same answer would get two log-probabilities.
"""

import copy
import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING,
    GPT2Config,
    GPT2LMHeadModel,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from dpo_lib.language_model._hub import (
    ModelError,
    build,
    config_to_save,
    quiet,
    read_model,
    read_tokenizer,
    whole_folder,
)

# Random weights: GPT2Config's own shape is the one of 124M parameters.
RANDOM = {"tiny": dict(n_layer=4, n_embd=128, n_head=4, n_positions=512), "gpt2-random": {}}
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
PADDED_TOKENS = {"cpu": 2048, "gpu": 16384}  # of one forward pass of a reward model
CLASSIFIER = "ForSequenceClassification"  # what the hub calls a reward model


def load_tokenizer(name: str, data: str | Path | None = None) -> PreTrainedTokenizerBase:
    """The tokenizer of a hub model or folder; for random weights, of the world beside `data`.

    Args:
        name: what `load_policy` takes.
        data: a world's folder or a file in it; "tiny" and "gpt2-random" use its `tokenizer/`.
    """
    if name in RANDOM:
        world = Path(data or "")
        folder = (world if world.is_dir() else world.parent) / "tokenizer"
        if data is None or not folder.is_dir():  # else the hub would be asked for "tokenizer"
            raise ModelError(f"model {name!r} needs data with a tokenizer/ folder beside it")
        name = folder
    tokenizer = read_tokenizer(name)
    if tokenizer.eos_token_id is None:
        raise ModelError(f"{name}: the tokenizer has no end-of-sequence token")
    return tokenizer


def check_same_tokens(
    model: str,
    own: PreTrainedTokenizerBase,
    tokenizer: PreTrainedTokenizerBase,
    end: bool = False,
) -> None:
    """Raise ModelError unless a model reads the token ids that another model's tokenizer writes.

    Args:
        model: what it is and its name, "reference runs/sft/model".
        own: its tokenizer.
        tokenizer: the other model's.
        end: compare the end-of-sequence tokens too, for both draw completions.
    """
    ours, others = own.get_vocab(), tokenizer.get_vocab()
    words = [word for word in ours.keys() | others.keys() if ours.get(word) != others.get(word)]
    if words:
        word = min(words)
        ids = [f"token {v[word]}" if word in v else "no token" for v in (ours, others)]
        difference = f"{word!r} is {ids[0]}, there {ids[1]}"
    elif end and own.eos_token_id != tokenizer.eos_token_id:
        difference = f"its end is {own.eos_token!r}, there {tokenizer.eos_token!r}"
    else:
        return
    other = tokenizer.name_or_path
    raise ModelError(
        f"{model}: its tokenizer is not that of {other}: {difference}; "
        f"choose a model trained with the tokenizer of {other}"
    )


def load_policy(
    name: str,
    tokenizer: PreTrainedTokenizerBase,
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
) -> PreTrainedModel:
    """A causal language model, on the CPU, in training mode, with dropout off.

    Args:
        name: "tiny" (4 layers, width 128, context 512) or "gpt2-random" (GPT-2's 124M shape),
            with random weights and the tokenizer's vocabulary; a folder in the hub's format; or
            the name of a hub model, the only one that needs the network.
        tokenizer: must fit the model; no token is added, a pad token is never needed.
        dtype: of the weights. Keep float32 for what is trained: a step of 1e-6 is lost in a
            bfloat16 weight of 0.02.
        seed: of random weights; the global generator is left as it was.

    Raises:
        ValueError: a ModelError: not there, not safetensors, incomplete, or too few words.
    """
    if name in RANDOM:
        eos = tokenizer.eos_token_id
        shape = dict(vocab_size=len(tokenizer), bos_token_id=eos, eos_token_id=eos)
        model = build(GPT2LMHeadModel, GPT2Config(**shape, **RANDOM[name]), seed)
    else:
        model = read_model(name, MODEL_FOR_CAUSAL_LM_MAPPING, "", dtype)
    have, need = model.get_input_embeddings().weight.shape[0], len(tokenizer)
    if need > have:
        raise ModelError(f"{name}: {have} words, but the tokenizer has {need}")
    return model.to(dtype).train()


@torch.no_grad()
def frozen_copy(model: PreTrainedModel) -> PreTrainedModel:
    """The reference: same bytes and dtype, storage of its own, no gradients, eval mode."""
    return copy.deepcopy(model).requires_grad_(False).eval()


def save_policy(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, directory: str | Path
) -> None:
    """Save in the hub's format, whole or not at all; an older model there is replaced."""
    with whole_folder(directory) as scratch, quiet():
        model.save_pretrained(scratch)
        config_to_save(model).save_pretrained(scratch)
        tokenizer.save_pretrained(scratch)


def state_hash(model: nn.Module) -> str:
    """SHA-256 of the names, shapes, dtypes and bytes of all parameters and buffers."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}\n".encode())
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        digest.update(flat.view(torch.uint8).numpy())
    return digest.hexdigest()


def pick_device() -> torch.device:
    """CUDA, else Apple's MPS, else the CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def pick_dtype(device: torch.device, name: str = "auto") -> torch.dtype:
    """The dtype to compute in (trained weights stay float32, see `load_policy`).

    "auto" is bfloat16 on a CUDA GPU that has it in hardware and float32 everywhere else.
    float16 is not offered: its range would need a loss scale.
    """
    if name == "auto":
        cuda = torch.device(device).type == "cuda"
        fast = cuda and torch.cuda.is_bf16_supported(including_emulation=False)
        return torch.bfloat16 if fast else torch.float32
    if name not in DTYPES:
        raise ModelError(f"dtype must be auto, float32 or bfloat16, got {name}")
    return DTYPES[name]


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
        dtype = torch.promote_types(model.dtype, torch.float32)
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

        Its logit in plain `transformers` is our score plus `reward_shift` of its config.json.
        """
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
        wide = torch.promote_types(dtype, torch.float32)
        model = read_model(name, MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING, CLASSIFIER, wide)
        head = getattr(model, "score", None)
        if not isinstance(head, nn.Linear) or head.out_features != 1 or head.bias is not None:
            raise ModelError(f"{name}: not a reward model: its head is {head}")
        reward_model = cls(model)
        reward_model.body.to(dtype)
        reward_model.head.linear.load_state_dict(head.state_dict())
        reward_model.normalise(getattr(model.config, "reward_shift", 0.0))
        return reward_model.train()


def check_rope(model: PreTrainedModel, lengths: Sequence[int]) -> None:
    """Refuse lengths on both sides of the one from which longrope changes a whole batch.

    What a sequence gets would depend on the longest one beside it.
    """
    parameters = getattr(model.config, "rope_parameters", None) or {}
    kinds = [kind for kind in (parameters, *parameters.values()) if isinstance(kind, dict)]
    for kind in kinds:
        limit = kind.get("original_max_position_embeddings")
        if kind.get("rope_type") == "longrope" and len({n > limit for n in lengths}) == 2:
            raise ModelError(
                f"sequences of {min(lengths)} and {max(lengths)} tokens cannot be scored together: "
                f"above {limit} tokens the positions of this model (longrope) are others"
            )


def by_length(lengths: Sequence[int], tokens: int) -> Iterator[list[int]]:
    """Positions in groups of similar length, so that little of a padded group is padding.

    Args:
        lengths: of the rows.
        tokens: what the longest row of a group times its number of rows may reach; a row that
            is longer is a group of its own.
    """
    group: list[int] = []
    for i in sorted(range(len(lengths)), key=lengths.__getitem__):
        if group and (len(group) + 1) * lengths[i] > tokens:
            yield group
            group = []
        group.append(i)
    if group:
        yield group
