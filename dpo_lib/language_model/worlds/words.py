"""The words and sentences of the built-in world of film reviews, and what each is worth."""


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
# How an opinion is put: plain, stronger, weaker, negated. {word} is a word of OPINIONS.
FORMS = {
    "how": ("{word}", "{very} {word}", "{rather} {word}", "{not} {word}"),
    "what": ("a {word}", "{truly} a {word}", "a bit of a {word}", "{not} a {word}"),
    "did": ("{word}", "{deeply} {word}", "{mildly} {word}", "{never} {word}"),
}
FORM_SHARES = (0.45, 0.25, 0.12, 0.18)
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
