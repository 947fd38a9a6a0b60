"""The search: an index of the book's entries, for assets/searchtools.js.

Sphinx's own index knows pages and no sections, drops numbers, and puts members of the library
above chapters. What a word weighs in an entry is computed here; the page only adds.
"""

import html
import json
import re
from collections import Counter, defaultdict
from pathlib import Path

from entries import Entry, address_rows, entries_of, said_of_statements
from equations import homes
from sphinx.builders.html import StandaloneHTMLBuilder

STATEMENTS = "book/statements"  # the page whose table says what each statement says
LAST = ("book/api", "book/api_language_model")  # below all others, whatever they contain
TITLE, BOLD, PAGE = 6, 2, 1  # words of an entry's text that one of its title is worth

# What is said in several ways: a pattern, and the word that it becomes, followed by its groups.
# JavaScript gets this table with the index, so a pattern must mean the same there.
SAME = [
    (r"\b(?:eq|eqn|equation)s?\b\.? *\(?(\d{1,2})\b\)?|\((\d{1,2})\)", "eq"),
    (r"\b(lemma|theorem|proposition|definition|chapter) +(\d{1,2})\b", ""),
    (r"\b(?:ln|log) *\(?2\b\)?|\b0\.693\d*\b", "ln2"),
    (r"β", "beta"),
    (r"\blog[ -]?prob(?:s|abilit(?:y|ies))?\b|\blogps?\b", "logprob"),
    (r"\bsupervised fine-?tuning\b|\bsft\b", "sft"),
    (r"\bdirect preference optimization\b|\bdpo\b", "dpo"),
    (r"\bproximal policy optimization\b|\bppo\b", "ppo"),
    (r"\bkullback.leibler\b|\bkl[ -]divergence\b|\bkl\b", "kl"),
    (r"\bref(?:erence)? (?:model|policy)\b", "reference"),
    (r"\b(?:response|completion|generation)(s?)\b", "answer"),
    (r"\b(?:labell?er|rater)(s?)\b", "annotator"),
    (r"\b(?:decreas(?:e[sd]?|ing)|f[ae]ll(?:s|ing)?|drop(?:s|ping)|go(?:es|ing)? down)\b", "fall"),
    (r"\b(?:increas(?:e[sd]?|ing)|rises?|rising|gr[eo]w(?:s|ing)?|go(?:es|ing)? up)\b", "rise"),
    (r"\b(?:(?:eval|evaluation) loss|validation|held[ -]out)\b", "heldout"),
    (r"\b(?:intransitiv\w*|non-?transitiv\w*|cycl\w+)\b", "cycle"),
    (r"\b(?:over-?optimization|reward hacking)\b", "hacking"),
    (r"\b(?:oom|cuda memory)\b", "memory"),
    (r"\b(?:versus|vs)\b", "or"),
    (r"\b(?:what|which|why|how|when|where|who|do|does|did|can|should|i|my)\b", ""),
]


class Words:
    """A text as the words of the index; assets/searchtools.js does the same to a query."""

    def __init__(self, language):
        self.stem, self.stop = language.stem, language.stopwords

    def query(self, text: str) -> list[str]:
        """The words of a text in which what is said in several ways is said in one."""
        text = folded(text)
        for pattern, word in SAME:
            text = re.sub(
                pattern, lambda m, w=word: f" {w}{''.join(filter(None, m.groups()))} ", text
            )
        return self.split(text)

    def split(self, text: str) -> list[str]:
        found = re.findall(r"\d+(?:\.\d+)+|\w+", folded(text))
        stems = [self.stem(w) if w.isascii() else w for w in found if w not in self.stop]
        return list(filter(None, stems))  # Porter leaves nothing of a lonely s

    def count(self, text: str) -> Counter[str]:
        """Every word, and what it is the same as."""
        return Counter(self.split(text)) | Counter(self.query(text))


def folded(text: str) -> str:
    return text.lower().replace("isation", "ization")


def weights(entries: list[Entry], titles: dict[str, str], words: Words) -> dict[str, str]:
    """Word -> the entries that have it, each as steps from the one before and weight, `2k` `F`.

    Steps are in base 36, weights from A, 0, to I, 8.
    """
    texts = [words.count(entry.text) for entry in entries]
    mean = sum(text.total() for text in texts) / max(len(texts), 1) or 1
    found, last = defaultdict(str), defaultdict(int)
    for number, (entry, text) in enumerate(zip(entries, texts, strict=True)):
        short = 1 / (0.3 + 0.7 * text.total() / mean)  # a word says more of a short text
        count = Counter({word: times * short for word, times in text.items()})
        title = words.count(entry.title or entry.anchor)
        count.update({word: TITLE / (1 + title.total() / 8) for word in title})
        count.update({word: BOLD for word in words.count(entry.bold)})
        count.update({word: PAGE for word in words.count(titles[entry.page])})
        for word, times in count.items():
            found[word] += base_36(number - last[word]) + chr(65 + round(8 * times / (times + 1.5)))
            last[word] = number
    return dict(sorted(found.items()))


def base_36(number: int) -> str:
    rest, digit = divmod(number, 36)
    return (base_36(rest) if rest else "") + "0123456789abcdefghijklmnopqrstuvwxyz"[digit]


class Builder(StandaloneHTMLBuilder):
    """Sphinx's pages with our index; the words and the stemmer of its search page stay Sphinx's."""

    def init(self):
        super().init()
        self.entries: list[Entry] = []
        self.pages: dict[str, str] = {}
        self.said: dict[str, str] = {}

    def index_page(self, pagename, doctree, title):
        known = homes(self.env)
        if pagename == STATEMENTS:
            self.said = said_of_statements(doctree)
        self.pages[pagename] = html.unescape(re.sub(r"<[^>]*>", "", title))
        for entry in entries_of(pagename, doctree, known):
            entry.page = pagename
            self.entries.append(entry)

    def dump_search_index(self):
        for entry in self.entries:
            if entry.anchor in self.said:
                entry.title += f": {self.said[entry.anchor]}"
        words = Words(self.indexer.lang)
        pages = {page: number for number, page in enumerate(self.pages)}
        names = {
            " ".join(said): number
            for number, entry in enumerate(self.entries)
            for name in entry.names
            if (said := words.query(name))
        }
        index = {
            "same": SAME,
            "pages": [[self.get_target_uri(p), t, int(p in LAST)] for p, t in self.pages.items()],
            "entries": [[pages[e.page], e.anchor, e.title, e.excerpt] for e in self.entries],
            "names": names,
            "words": weights(self.entries, self.pages, words),
        }
        packed = json.dumps(index, ensure_ascii=False, separators=(",", ":"))
        Path(self.outdir, self.searchindex_filename).write_text(f"window.dpoSearch={packed};\n")


def setup(app):
    """Connect all this; the extension `dpo_book` calls it."""
    app.connect("doctree-read", address_rows)
    app.add_builder(Builder, override=True)
