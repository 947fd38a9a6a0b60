"""log pi(y | x): what a model says of whole completions, exact, fast and differentiable."""

from dpo_lib._lazy import exports

__all__, __getattr__, __dir__ = exports(
    __name__,
    {
        "logprobs": [
            "completion_logps",
            "pair_logps",
            "pair_logps_in_parts",
            "plain_logps",
            "token_logps",
        ],
        "output_layer": ["target_logps"],
    },
)
