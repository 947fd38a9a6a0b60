"""What the lengths of a batch's sequences mean for the model that meets them together."""

from collections.abc import Iterator, Sequence

from transformers import PreTrainedModel

from dpo_lib.language_model.models.hub import ModelError


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
