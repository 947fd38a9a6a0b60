"""Questions that a reader answers in the page: predictions, exercises, puzzles, recall.

Each function is the last expression of a cell and returns an object that a notebook shows. In
Colab it is words, with the answer folded; on a built page assets/questions.js reads the data
beside the words, takes the reader's answer and says what it is worth. Nothing is sent anywhere.
"""

from dpo_lib._lazy import exports

__all__, __getattr__, __dir__ = exports(
    __name__,
    {
        "question": ["Question"],
        "predictions": ["predict", "revisit"],
        "answers": ["ask"],
        "puzzles": ["arrange", "blanks"],
    },
)
