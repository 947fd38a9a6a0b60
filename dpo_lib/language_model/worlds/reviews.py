"""The built-in world: film reviews from a small grammar, whose true reward is known.

It stands in for the IMDb experiment (section 6.1): prompts are the first words of a review,
completions its rest, and the true reward is the sentiment. Prompt, length and sentiment are
drawn independently of one another, so that none of them can be guessed from another.

A review is an opening, cut somewhere into prompt and rest, and then sentences until a length is
reached that was drawn from a log-normal. Its *mood* is the share of praise among its opinions.
What a person may want to change stands in the tables at the top.
"""

import itertools
import math
import random
import re
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import NormalDist

from dpo_lib.language_model.worlds.words import (
    CLAUSES,
    FORM_SHARES,
    FORMS,
    FRAGMENTS,
    INTENSITY,
    JOINS,
    NEGATED,
    NEGATIONS,
    NEUTRAL,
    OPENINGS,
    OPINIONS,
    OTHER,
    SAME,
    SLOTS,
    VALUES,
)

REACH = 4  # how many words a negation or an intensity waits for its opinion
WEAKER_FORM, NEGATED_FORM = 2, 3
MOODS = (0.05, 0.2, 0.5, 0.8, 0.95)  # share of praise among the opinions of a review
NEUTRAL_SHARE, FRAGMENT_SHARE, DOUBLE_SHARE = 0.15, 0.15, 0.25  # kinds of sentence
WORDS = (26, 130)  # median and most of a completion, before it is rounded up
LOG_SPREAD, FEWEST_WORDS = 0.8, 3
PROMPT_WORDS = (2, 6)
HELD_OUT = 8  # one prompt in eight is kept from training


def reward(prompt: str, completion: str) -> float:
    """The true reward of any text: how much praise its sentences hold on average, in [-3, 3].

    An opinion is worth its word's value, times 1.5 or 0.5 for an intensity and -0.5 for a
    negation shortly before it in its clause. A sentence is worth the mean of its opinions, each
    word counted once; a review is worth the mean of its sentences. A sentence without an opinion
    counts as 0, and so does text that cannot be read. Means, not sums: repeating a word or a
    sentence gains nothing, and a long review earns no more than a short one.
    """
    text = (prompt + completion).lower().replace("’", "'")
    sentences = [part for part in re.split(r"[.!?\n]+", text) if re.search(r"\w", part)]
    return math.fsum(map(_sentence_value, sentences)) / max(len(sentences), 1)


def _sentence_value(sentence: str) -> float:
    found: dict[str, float] = {}
    for clause in re.split(r"[,;:()]|\bbut\b|\band\b", sentence):
        for word, value in _opinions(clause):
            found.setdefault(word, value)
    return math.fsum(found.values()) / max(len(found), 1)


def _opinions(clause: str) -> Iterator[tuple[str, float]]:
    """The opinion words of a clause, each with its value in this place."""
    negated = intensity = 0  # how many more words the last negation and intensity reach
    factor = 1.0
    for word in re.findall(r"[^\W\d_]+(?:'[^\W\d_]+)?", clause):
        if word in NEGATIONS or word.endswith("n't"):
            negated = REACH + 1
        elif word in INTENSITY:
            intensity, factor = REACH + 1, INTENSITY[word]
        elif word in VALUES:
            value = VALUES[word]
            yield word, value * (factor if intensity else 1) * (NEGATED if negated else 1)
            negated = intensity = 0
        negated, intensity = max(negated - 1, 0), max(intensity - 1, 0)


@dataclass(frozen=True)
class Prompt:
    """The first words of a review."""

    text: str
    rest: str  # of its opening, slots still to be filled


def draw_prompt(rng: random.Random, held_out: bool = False) -> Prompt:
    """The first two to six words of an opening: a held-out prompt or a training prompt.

    Which prompts are held out is a property of their words, the same in every world.
    """
    while True:
        units = _pick(rng, OPENINGS).split(" ")
        filled = [_fill(rng, unit) for unit in units]
        words = list(itertools.accumulate(len(unit.split()) for unit in filled))
        low, high = PROMPT_WORDS
        cuts = [place for place, count in enumerate(words, start=1) if low <= count <= high]
        if cuts:
            cut = _pick(rng, cuts)
            text = " ".join(filled[:cut])
            if (zlib.crc32(text.encode()) % HELD_OUT == 0) == held_out:
                return Prompt(text, " ".join(units[cut:]))


def draw_completion(rng: random.Random, prompt: Prompt, words: tuple[int, int] = WORDS) -> str:
    """How the grammar goes on: a draw from pi_ref(y | x), the distribution of the SFT text.

    Mood and length are drawn here, after the prompt, so two completions of one prompt have
    nothing in common but the prompt.
    """
    mood, goal = _pick(rng, MOODS), _draw_length(rng, *words)
    text = " " + _fill(rng, prompt.rest) if prompt.rest else ""
    join = _pick(rng, JOINS)
    said, sentence = _sentence(rng, mood, whole=join == ". ")
    text += join + (_capital(sentence) if join == ". " else sentence)
    while len(text.split()) < goal - 4:  # half a sentence: as often too long as too short
        told, sentence = _sentence(rng, mood)
        if said and told:
            sentence = _pick(rng, SAME if said == told else OTHER) + sentence
        text += ". " + _capital(sentence)
        said = told or said
    return text + "."


def _sentence(rng: random.Random, mood: float, whole: bool = True) -> tuple[int, str]:
    """The sign of the last opinion (0: none) and the sentence, small first letter, no stop."""
    sign, kind = _sign(rng, mood), rng.random()
    if whole and kind < NEUTRAL_SHARE:
        return 0, _fill(rng, _pick(rng, NEUTRAL))
    if whole and kind < NEUTRAL_SHARE + FRAGMENT_SHARE:
        return sign, _fill(rng, _pick(rng, FRAGMENTS), sign)
    clause = _fill(rng, _pick(rng, CLAUSES), sign)
    if kind < 1 - DOUBLE_SHARE:
        return sign, clause
    second = _sign(rng, mood)
    joint = ", and " if second == sign else ", but "
    return second, clause + joint + _fill(rng, _pick(rng, CLAUSES), second)


def _fill(rng: random.Random, template: str, sign: int = 0) -> str:
    """The template with a draw in place of each {slot}; opinions have the given sign."""

    def draw(slot: re.Match) -> str:
        name = slot[1]
        return _opinion(rng, name, sign) if name in OPINIONS else _pick(rng, SLOTS[name])

    return re.sub(r"\{(\w+)\}", draw, template)


def _opinion(rng: random.Random, kind: str, sign: int) -> str:
    """A phrase whose value has the given sign: "truly a gem", "not bad"."""
    uniform = rng.random()
    form = sum(uniform >= share for share in itertools.accumulate(FORM_SHARES[:-1]))
    size = 1 if form == WEAKER_FORM else _pick(rng, (1, 2))  # nothing is "a bit magnificent"
    word = _pick(rng, OPINIONS[kind][-sign * size if form == NEGATED_FORM else sign * size])
    return _fill(rng, FORMS[kind][form].replace("{word}", word))


def _sign(rng: random.Random, mood: float) -> int:
    return 1 if rng.random() < mood else -1


def _draw_length(rng: random.Random, median: int, most: int) -> float:
    """Words of a completion, log-normal within limits."""
    normal = NormalDist().inv_cdf(max(rng.random(), 1e-12))
    return min(max(median * math.exp(LOG_SPREAD * normal), FEWEST_WORDS), most)


def _pick(rng: random.Random, table: Sequence):
    # random() is the one method whose numbers Python promises to keep from version to version.
    return table[int(rng.random() * len(table))]


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
