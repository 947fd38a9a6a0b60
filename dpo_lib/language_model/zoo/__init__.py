"""The bug zoo: DPO runs in which one thing is wrong, trained for real on a micro GPT-2.

`Healthy` is the library's own stage, and every bug is a subclass that changes it in one place.
`record` trains a stage and returns its log, on which `judging.doctor` is tested.
"""

from dpo_lib._lazy import exports

__all__, __getattr__, __dir__ = exports(
    __name__,
    {
        "recording": ["record"],
        "start": ["Start", "make_start"],
        "healthy": ["HEALTHY", "Healthy", "HealthyKTO", "RoundedReference"],
        "adapters": ["AdapterLeftOn", "AdapterSwitchedOff"],
        "visible": [
            "VISIBLE",
            "Ascent",
            "BetaTwice",
            "CutChosen",
            "DividedByBeta",
            "Dropout",
            "EmptyAnswer",
            "HugeLearningRate",
            "Leak",
            "ManyEpochs",
            "MeanOverTokens",
            "OtherParameters",
            "RandomLabels",
            "RepeatedSteps",
            "SharedWeights",
            "ShiftedScores",
            "SummedMicroBatches",
            "SwappedLoss",
            "SwappedMetrics",
            "TrainedReference",
            "UntrainedReference",
            "ZeroLearningRate",
        ],
        "invisible": [
            "INVISIBLE",
            "InverseBeta",
            "LongerIsChosen",
            "NoEnd",
            "OtherTemplate",
            "PromptCounted",
            "SwappedLabels",
            "TwoEnds",
            "TwoPrompts",
            "TwoStarts",
        ],
    },
)
