"""From a data file to token ids, in the order of the modules: every row accounted for."""

from dpo_lib._lazy import exports

__all__, __getattr__, __dir__ = exports(
    __name__,
    {
        "order": ["batch_indices", "derive_seed"],
        "summary": ["overview"],
        "rows": ["DataError", "read_rows"],
        "shapes.templates": ["Rendered"],
        "reading": [
            "Example",
            "Preference",
            "Report",
            "read_examples",
            "read_preferences",
            "read_prompts",
        ],
        "tokens": [
            "Pair",
            "Sequences",
            "TokenExample",
            "data_hash",
            "tokenize_examples",
            "tokenize_preferences",
            "tokenize_prompts",
        ],
        "unpaired": ["Labelled", "TokenLabelled", "read_labelled", "tokenize_labelled"],
    },
)
