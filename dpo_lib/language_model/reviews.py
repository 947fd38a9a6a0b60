"""The built-in world: film reviews from a small grammar, whose true reward is known.

It stands in for the IMDb experiment (section 6.1): prompts are the first words of a review,
completions its rest, and the true reward is the sentiment. Prompt, length and sentiment are
drawn independently of one another, so that none of them can be guessed from another.

A review is an opening, cut somewhere into prompt and rest, and then sentences until a length is
reached that was drawn from a log-normal. Its *mood* is the share of praise among its opinions.
What a person may want to change stands in the tables at the top.
"""

import itertools
import json
import math
import os
import random
import re
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import NormalDist

import torch

from dpo_lib.language_model.files import sha256, whole
from dpo_lib.preferences import bradley_terry

EOS = "<|endoftext|>"


def _table(entries: str) -> list[str]:
    return entries.split(", ")


# What can be said about something, by value in reward units: +-1 mild, +-2 strong.
OPINIONS: dict[str, dict[int, list[str]]] = {
    "how": {
        2: _table("wonderful, superb, brilliant, magnificent, gorgeous, unforgettable"),
        1: _table("good, charming, clever, graceful, lively, tender, witty, fresh"),
        -1: _table("bad, dull, clumsy, flat, lazy, shallow, muddled, stale"),
        -2: _table("dreadful, awful, terrible, horrible, ghastly, unbearable"),
    },
    "what": {
        2: _table("masterpiece, triumph, marvel"),
        1: _table("delight, treat, gem, pleasure"),
        -1: _table("bore, mess, chore, failure"),
        -2: _table("disaster, fiasco, catastrophe"),
    },
    "did": {
        2: _table("loved, adored"),
        1: _table("enjoyed, liked, admired"),
        -1: _table("disliked, resented, endured"),
        -2: _table("hated, loathed"),
    },
}
# Not written by the grammar, but read: plain English that another model may write.
ALSO_READ = {"great": 2, "excellent": 2, "best": 2, "love": 2, "nice": 1, "enjoy": 1, "fun": 1}
ALSO_READ |= {"hate": -2, "worst": -2, "boring": -1, "poor": -1, "weak": -1, "dislike": -1}
VALUES = ALSO_READ | {
    word: value for kind in OPINIONS.values() for value, words in kind.items() for word in words
}

STRONGER, WEAKER, NEGATED = 1.5, 0.5, -0.5  # "truly good" 1.5, "a bit dull" -0.5, "not bad" 0.5
INTENSITY = dict.fromkeys(_table("truly, absolutely, really, utterly, deeply, very"), STRONGER)
INTENSITY |= dict.fromkeys(_table("somewhat, mildly, slightly, faintly, bit"), WEAKER)
NEGATIONS = _table("not, never, hardly, no, without, neither, nor, nothing, cannot, scarcely")
REACH = 4  # how many words a negation or an intensity waits for its opinion

# How an opinion is put: plain, stronger, weaker, negated. {word} is a word of OPINIONS.
FORMS = {
    "how": ("{word}", "{very} {word}", "{rather} {word}", "{not} {word}"),
    "what": ("a {word}", "{truly} a {word}", "a bit of a {word}", "{not} a {word}"),
    "did": ("{word}", "{deeply} {word}", "{mildly} {word}", "{never} {word}"),
}
FORM_SHARES = (0.45, 0.25, 0.12, 0.18)
WEAKER_FORM, NEGATED_FORM = 2, 3

FIRST = _table("Glass, Silent, Last, Paper, Winter, Salt, Crooked, Velvet, Second, Hollow, Golden")
SECOND = _table("Harbour, Orchard, Ferry, Violin, Garden, Letter, Window, Clock, River, Guest")
SLOTS = {
    "film": [f"The {first} {second}" for first in FIRST for second in SECOND],
    "person": _table(
        "a lighthouse keeper, a night porter, a schoolteacher, a clockmaker, a retired sailor, "
        "a bus driver, an opera singer, a beekeeper"
    ),
    "plot": _table(
        "inherits a hotel, finds an old map, learns to swim, adopts a stray dog, "
        "writes to a stranger, returns home, teaches a parrot to sing, buys a boat"
    ),
    "place": _table("Lisbon, Trieste, Bergen, Glasgow, a fishing village, a border town"),
    "when": _table("last night, on Sunday, in March, on a rainy afternoon, at a festival"),
    "company": _table("with my sister, with my father, with two old friends, on my own"),
    "actor": _table("Ana Duarte, Tom Hale, Ingrid Voss, Leo Marsh, Mina Okafor, Paul Renner"),
    "role": _table("the mother, the detective, the ferryman, the younger brother, the judge"),
    "aspect": _table(
        "acting, music, script, photography, story, dialogue, ending, editing, first half, "
        "second half, final scene, dinner scene, chase, costume design"
    ),
    "someone": _table("my sister, my father, our neighbour, a friend of mine, the back row"),
    "number": _table("two, three, ten, twenty"),
    "very": _table("truly, absolutely, really, utterly"),
    "rather": _table("a bit, somewhat, mildly, slightly"),
    "truly": _table("truly, really"),
    "deeply": _table("truly, really, absolutely, deeply"),
    "mildly": _table("mildly, somewhat, slightly"),
    "not": _table("not, hardly"),
    "never": _table("never, hardly"),
}

# Openings say nothing good or bad. No two share their first two words, so that a prompt of two
# words or more tells what of the opening is still to come.
OPENINGS = [
    "I saw {film} {when} {company}",
    "We watched {film} {when}",
    "My sister chose {film} for her birthday",
    "{film} follows {person} who {plot}",
    "In {film} {person} {plot}",
    "Set in {place}, {film} follows {person}",
    "This is the story of {person} who {plot}",
    "A friend gave me {film} {when}",
    "On the train I kept thinking about {film}",
    "There is a scene in {film} where {person} {plot}",
    "It was raining, so we saw {film} {company}",
    "Having read the book, I went to see {film} {when}",
    "For two hours {person} {plot} in {place}",
    "Everyone at work talked about {film}",
    "After the festival I watched {film} {company}",
    "Before {film} I knew {actor} only from television",
    "Imagine {person} who {plot} in {place}",
    "When {film} came out I lived in {place}",
    "Ten years ago I saw {film} in {place}",
    "As a child I watched {film} {company}",
]
JOINS = [". ", ". ", ": ", ", and ", "; "]  # between the opening and the first clause

CLAUSES = [
    "the {aspect} is {how}",
    "the {aspect} is {how}",
    "I found the {aspect} {how}",
    "I thought the {aspect} {how}",
    "{actor} is {how} as {role}",
    "it is {how} from the first scene to the last",
    "the {aspect} is {what}",
    "it is {what}",
    "I {did} the {aspect}",
    "we both {did} {actor} as {role}",
    "{someone} {did} it",
]
FRAGMENTS = ["{how}", "{what}", "in short, {how}", "{how}, all of it", "as for the {aspect}, {how}"]
NEUTRAL = [
    "it runs for {number} hours",
    "the second half moves to {place}",
    "a dog appears in {number} scenes",
    "the credits are in Portuguese",
    "{actor} plays {role}",
    "it rains for most of the film",
    "most of it was shot in {place}",
    "we walked home along the river",
    "the cinema was half full",
    "somebody speaks after {number} minutes",
    "it ends where it began, in {place}",
]
# Before a sentence that agrees with the last opinion, and before one that does not.
SAME = ["", "", "", "", "and ", "also, "]
OTHER = ["", "but ", "still, ", "even so, ", "then again, "]

MOODS = (0.05, 0.2, 0.5, 0.8, 0.95)  # share of praise among the opinions of a review
NEUTRAL_SHARE, FRAGMENT_SHARE, DOUBLE_SHARE = 0.15, 0.15, 0.25  # kinds of sentence
WORDS = (26, 130)  # median and most of a completion, before it is rounded up
LOG_SPREAD, FEWEST_WORDS = 0.8, 3
PROMPT_WORDS = (2, 6)
HELD_OUT = 8  # one prompt in eight is kept from training


# --- The reward ------------------------------------------------------------------------------


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


# --- The grammar -----------------------------------------------------------------------------


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


# --- The files -------------------------------------------------------------------------------


def sft_rows(n: int, rng: random.Random, words: tuple[int, int] = WORDS) -> list[dict]:
    """Reviews as prompt and completion, for fine-tuning: praise and blame alike."""
    prompts = (draw_prompt(rng) for _ in range(n))
    return [{"prompt": p.text, "completion": draw_completion(rng, p, words)} for p in prompts]


def prompt_rows(n: int, rng: random.Random, held_out: bool = False) -> list[dict]:
    """Prompts as they are drawn: a short one may come more than once."""
    return [{"prompt": draw_prompt(rng, held_out).text} for _ in range(n)]


def preference_rows(
    n: int,
    rng: random.Random,
    labels: str,
    noise: float,
    held_out: bool = False,
    words: tuple[int, int] = WORDS,
) -> list[dict]:
    """Two different completions of each prompt, as from the reference, the preferred one first.

    `score_chosen` and `score_rejected` are the true rewards. DPO must not look at them.
    """
    rows = []
    for _ in range(n):
        prompt = draw_prompt(rng, held_out)
        first = second = draw_completion(rng, prompt, words)
        while second == first:
            second = draw_completion(rng, prompt, words)
        scores = {text: reward(prompt.text, text) for text in (first, second)}
        p = preference_probability(scores[first], scores[second], labels, noise)
        chosen, rejected = (first, second) if rng.random() < p else (second, first)
        rows.append(
            {
                "prompt": prompt.text,
                "chosen": chosen,
                "rejected": rejected,
                "score_chosen": round(scores[chosen], 6),
                "score_rejected": round(scores[rejected], 6),
            }
        )
    return rows


def preference_probability(first: float, second: float, labels: str, noise: float) -> float:
    """How probably the label prefers the first of two true rewards.

    "bradley-terry" is equation (1). "deterministic" is its limit for large rewards: the larger
    one, and a fair coin for equals. The label is then turned round with probability `noise`.
    """
    if labels == "bradley-terry":
        pair = torch.tensor([first, second], dtype=torch.float64)
        p = bradley_terry(pair[0], pair[1]).item()
    else:
        p = 0.5 if first == second else float(first > second)
    return (1 - noise) * p + noise * (1 - p)


def train_tokenizer(vocabulary: int = 1024):
    """A byte-level BPE tokenizer of the world's own text; no setting of a world changes it."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[EOS],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    rows = sft_rows(2000, random.Random("tokenizer"))
    tokenizer.train_from_iterator((row["prompt"] + row["completion"] for row in rows), trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=EOS, eos_token=EOS)


def write_world(
    out: str | Path,
    pairs: int = 2000,
    labels: str = "bradley-terry",
    noise: float = 0.0,
    seed: int = 0,
    *,
    reviews: int = 8000,
    prompts: int = 2000,
    test: int = 500,
    words: tuple[int, int] = WORDS,
) -> dict:
    """Write a world into the folder `out`, whole or not at all, and return its world.json.

    sft.jsonl, preferences.jsonl and prompts.jsonl have training prompts, test_preferences.jsonl
    and test_prompts.jsonl held-out ones. The same settings give the same bytes (those of
    tokenizer/ with the same version of transformers), and a longer file begins with the shorter.

    Args:
        pairs, reviews, prompts: rows of preferences.jsonl, sft.jsonl and prompts.jsonl.
        labels: "bradley-terry", equation (1) on the true reward, or "deterministic".
        noise: probability that a label is turned round, in [0, 1/2]; test pairs have it too.
        seed: any integer.
        test: rows of each of the two held-out files.
        words: the median and the most that a completion aims at, before its opening and its
            last sentence are made whole.

    Raises:
        ValueError: for a setting out of range, or if `out` is there already and not empty.
    """
    out = Path(out)
    settings = dict(pairs=pairs, labels=labels, noise=noise, seed=seed)
    settings |= dict(reviews=reviews, prompts=prompts, test=test, words=list(words))
    _check_settings(settings)
    empty = out.is_dir() and not out.is_symlink() and not any(out.iterdir())
    if os.path.lexists(out) and not empty:
        raise ValueError(f"{out}: is there already and not an empty folder; choose another out")
    rows: dict[str, Callable[[random.Random], list[dict]]] = {
        "sft.jsonl": lambda rng: sft_rows(reviews, rng, words),
        "preferences.jsonl": lambda rng: preference_rows(pairs, rng, labels, noise, False, words),
        "test_preferences.jsonl": lambda rng: preference_rows(
            test, rng, labels, noise, True, words
        ),
        "prompts.jsonl": lambda rng: prompt_rows(prompts, rng),
        "test_prompts.jsonl": lambda rng: prompt_rows(test, rng, True),
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    with whole(out) as [folder]:
        folder.mkdir()
        for name, draw in rows.items():  # each file has a random stream of its own
            _write_lines(folder / name, draw(random.Random(f"{seed} {name}")))
        train_tokenizer().save_pretrained(folder / "tokenizer")
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        world = {
            "settings": settings,
            "reward": "dpo_lib.language_model.reviews.reward",
            "files": {path.relative_to(folder).as_posix(): sha256(path) for path in files},
        }
        (folder / "world.json").write_text(json.dumps(world, indent=2) + "\n", encoding="utf-8")
    return world


def _check_settings(settings: dict) -> None:
    for name in ("pairs", "reviews", "prompts", "test"):
        if not (isinstance(settings[name], int) and settings[name] >= 1):
            raise ValueError(f"{name} must be an integer of at least 1, got {settings[name]}")
    if settings["labels"] not in ("bradley-terry", "deterministic"):
        known = "'bradley-terry' or 'deterministic'"
        raise ValueError(f"labels must be {known}, got {settings['labels']!r}")
    median, most = settings["words"]
    if not FEWEST_WORDS <= median <= most:
        raise ValueError(
            f"words must be a median of at least {FEWEST_WORDS} and no less than that at most, "
            f"got {median} {most}"
        )
    if not 0 <= settings["noise"] <= 0.5:
        raise ValueError(f"noise must lie in [0, 1/2], got {settings['noise']}")


def _write_lines(path: Path, rows: list[dict]) -> None:
    lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    path.write_bytes("".join(lines).encode())
