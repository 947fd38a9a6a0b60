import hashlib
import itertools
import json
import math
import os
import random
import re
import statistics
import subprocess
import sys
from collections import defaultdict

import pytest

from dpo_lib.language_model.data.reading import read_examples, read_preferences, read_prompts
from dpo_lib.language_model.data.tokens import tokenize_examples
from dpo_lib.language_model.worlds import data_set, reviews
from dpo_lib.language_model.worlds.data_set import preference_probability, write_world
from dpo_lib.language_model.worlds.reviews import reward
from dpo_lib.language_model.worlds.words import STRONGER, WEAKER

SMALL = dict(pairs=40, reviews=60, prompts=20, test=30)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    out = tmp_path_factory.mktemp("worlds") / "world"
    write_world(out, **SMALL)
    return out


@pytest.fixture(scope="module")
def sft():
    """4,000 reviews: prompt, completion, true reward."""
    rows = data_set.sft_rows(4000, random.Random(1))
    return [(r["prompt"], r["completion"], reward(r["prompt"], r["completion"])) for r in rows]


@pytest.fixture(scope="module")
def tokenizer():
    return data_set.train_tokenizer()


@pytest.fixture(scope="module")
def lengths(sft, tokenizer):
    """Tokens of each completion, the end among them."""
    return [len(ids) + 1 for ids in tokenizer([completion for _, completion, _ in sft]).input_ids]


def read(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def z_of_mean(values, mean):
    return (statistics.fmean(values) - mean) / (statistics.stdev(values) / math.sqrt(len(values)))


# --- The reward ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text, value",
    [
        ("The music is good.", 1.0),
        ("The music is truly good.", 1.5),
        ("The music is a bit dull.", -0.5),
        ("Not bad.", 0.5),
        ("The music isn't bad.", 0.5),
        ("The music isn’t bad.", 0.5),
        ("Hardly a masterpiece.", -1.0),
        ("Not truly wonderful.", -1.5),
        ("TRULY WONDERFUL!", 3.0),
        ("Utterly awful", -3.0),
        ("The music is good, the script is dreadful.", -0.5),  # (1 - 2) / 2
        ("The music is good. The script is dreadful.", -0.5),
        ("The music is not good and the script is clever.", 0.25),  # (-1/2 + 1) / 2
        ("The music is not good but clever.", 0.25),
        ("Good. It runs for two hours.", 0.5),  # (1 + 0) / 2
        ("It was not, as we had been told by our neighbour, dull.", -1.0),  # out of reach
        ("The truly remarkable thing about it was a good dog.", 1.0),  # likewise
        ("Without a dull moment.", 0.5),
        ("Neither good nor bad.", 0.0),  # (-1/2 + 1/2) / 2
    ],
)
def test_the_reward_agrees_with_a_value_worked_by_hand(text, value):
    assert reward("", text) == pytest.approx(value, abs=1e-12)


def fillings(template):
    """Every text that a template can become."""
    parts = re.split(r"\{(\w+)\}", template)
    parts[1::2] = [reviews.SLOTS[name] for name in parts[1::2]]
    parts[::2] = [[text] for text in parts[::2]]
    return map("".join, itertools.product(*parts))


@pytest.mark.parametrize("kind", ["how", "what", "did"])
def test_every_opinion_that_the_grammar_can_write_is_read_with_the_value_it_was_given(kind):
    factors = (1, STRONGER, WEAKER, reviews.NEGATED)
    rng = random.Random(0)
    forms = list(zip(reviews.FORMS[kind], factors, strict=True))
    templates = [text for text in reviews.CLAUSES + reviews.FRAGMENTS if f"{{{kind}}}" in text]
    for value, words in reviews.OPINIONS[kind].items():
        for word, (form, factor) in itertools.product(words, forms):
            for phrase in fillings(form.replace("{word}", word)):
                for template in templates:
                    text = reviews._fill(rng, template.replace(f"{{{kind}}}", phrase))
                    assert reward("", text) == value * factor, text


def test_openings_and_neutral_sentences_express_no_opinion():
    rng = random.Random(0)
    for template in reviews.OPENINGS + reviews.NEUTRAL:
        for _ in range(50):
            text = reviews._fill(rng, template)
            assert not list(reviews._opinions(text.lower())), text
    for name, entries in reviews.SLOTS.items():
        assert all(reward("", entry) == 0 for entry in entries), name
    # nor do they negate or strengthen the clause that may follow them
    for template in reviews.OPENINGS:
        words = set(re.findall(r"\w+", template.lower()))
        assert not words & (set(reviews.NEGATIONS) | set(reviews.INTENSITY))


def test_praise_and_blame_have_equally_many_words_of_each_strength():
    for kind in reviews.OPINIONS.values():
        assert {v: len(words) for v, words in kind.items()} == {
            -v: len(words) for v, words in kind.items()
        }


@pytest.mark.parametrize(
    "text",
    ["", " ", "...", "!?\n\n", "qwxz brr", "映画は素晴らしい", "\x00\ufffd\u2028", "12 - 7", "___"],
)
def test_text_that_cannot_be_read_is_worth_zero(text):
    assert reward("", text) == 0.0


def test_the_reward_of_any_text_lies_between_minus_three_and_three():
    rng = random.Random(0)
    words = [*reviews.VALUES, *reviews.INTENSITY, *reviews.NEGATIONS]
    words += [".", ",", "but", "and", "\n", "é", "\x00", "isn't"]
    texts = [" ".join(rng.choices(words, k=rng.randrange(1, 40))) for _ in range(3000)]
    values = [reward("", text) for text in texts]
    assert max(values) <= 3 and min(values) >= -3
    assert max(values) > 2 and min(values) < -2  # the range is used


@pytest.mark.parametrize("once", ["truly wonderful", "not bad", "The acting is good", "dull"])
def test_repeating_words_or_sentences_gains_nothing(once):
    value = reward("", once)
    assert reward("", " ".join([once] * 50)) == value
    assert reward("", ", ".join([once] * 50)) == value
    assert reward("", ". ".join([once] * 50)) == pytest.approx(value, abs=1e-12)


def test_a_run_of_intensities_counts_as_one():
    assert reward("", "truly really absolutely good") == 1.5
    assert reward("", "not never hardly good") == -0.5


def test_the_reward_reads_across_the_border_of_prompt_and_completion():
    assert reward("The acting is not", " bad.") == 0.5
    assert reward("The acting is wonder", "ful.") == 2.0


# --- The grammar -----------------------------------------------------------------------------


def test_reward_and_length_are_uncorrelated_in_sft_text(sft, lengths):
    values = [value for _, _, value in sft]
    bound = 4 / math.sqrt(len(sft))  # four standard errors of a correlation of 0
    assert abs(statistics.correlation(values, lengths)) < bound
    assert abs(statistics.correlation(values, [math.log(n) for n in lengths])) < bound
    assert abs(z_of_mean(values, 0)) < 4


def test_the_opening_tells_neither_sentiment_nor_length(sft, lengths):
    groups = defaultdict(list)
    for (prompt, _, value), n in zip(sft, lengths, strict=True):
        groups[prompt.split()[0]].append((value, math.log(n)))
    all_logs = [math.log(n) for n in lengths]
    mean, spread = statistics.fmean(all_logs), statistics.stdev(all_logs)
    for values, logs in (zip(*rows, strict=True) for rows in groups.values()):
        assert abs(z_of_mean(values, 0)) < 4
        # The shortest reviews end with the opening: a long one lengthens them by a few percent.
        assert abs(statistics.fmean(logs) - mean) < 0.08 + 4 * spread / math.sqrt(len(logs))


def test_lengths_are_nearly_log_normal_from_4_to_200_tokens(lengths):
    def skewness(values):
        mean, sd = statistics.fmean(values), statistics.pstdev(values)
        return statistics.fmean(((value - mean) / sd) ** 3 for value in values)

    assert 4 <= min(lengths) < 12 and 150 < max(lengths) <= 200
    assert 30 <= statistics.median(lengths) <= 45
    assert skewness(lengths) > 1.3
    assert abs(skewness([math.log(n) for n in lengths])) < 0.6  # bent by the shortest reviews


def test_fewer_words_make_shorter_completions():
    """The opening and the last sentence are whole, which lengthens short ones."""

    def lengths(*words):
        rows = data_set.sft_rows(2000, random.Random(5), words)
        return sorted(len(row["completion"].split()) for row in rows)

    short, usual = lengths(9, 24), lengths(26, 130)
    assert 9 <= short[1000] < 0.7 * usual[1000] and abs(usual[1000] - 26) <= 2
    assert short[-1] <= 24 + 20 and usual[-1] > 100


def test_prompts_have_2_to_8_tokens_and_completions_start_a_token_of_their_own(sft, tokenizer):
    for prompt, completion, _ in sft[:1000]:
        ids = tokenizer(prompt).input_ids
        assert 2 <= len(ids) <= 8
        assert not prompt.endswith(" ")
        # B1: tokenised apart or together, the same ids
        assert ids + tokenizer(completion).input_ids == tokenizer(prompt + completion).input_ids


def test_a_prompt_determines_what_is_left_of_its_opening():
    """Otherwise completions of one prompt would share a hidden choice."""
    rng, seen = random.Random(0), {}
    for _ in range(8_000):
        prompt = reviews.draw_prompt(rng, held_out=rng.random() < 0.5)
        assert seen.setdefault(prompt.text, prompt.rest) == prompt.rest, prompt.text
    assert len(seen) > 800


def test_completions_of_pairs_come_from_the_distribution_of_the_sft_text(sft):
    rows = data_set.preference_rows(1500, random.Random(2), "bradley-terry", 0.0)
    # One completion of each pair, so that all are independent.
    ours = [r[("chosen", "rejected")[i % 2]] for i, r in enumerate(rows)]
    ours = [
        (len(text.split()), reward(r["prompt"], text)) for text, r in zip(ours, rows, strict=True)
    ]
    theirs = [(len(text.split()), value) for _, text, value in sft]
    for column in (0, 1):
        for power in (1, 2):
            a, b = ([row[column] ** power for row in rows] for rows in (ours, theirs))
            error = math.sqrt(statistics.variance(a) / len(a) + statistics.variance(b) / len(b))
            assert abs(statistics.fmean(a) - statistics.fmean(b)) < 4 * error


def test_rewards_of_two_completions_of_a_prompt_are_uncorrelated():
    rows = data_set.preference_rows(1500, random.Random(3), "deterministic", 0.5)  # coins as labels
    scores = [(row["score_chosen"], row["score_rejected"]) for row in rows]
    assert abs(statistics.correlation(*zip(*scores, strict=True))) < 4 / math.sqrt(len(rows))


# --- Labels ----------------------------------------------------------------------------------


def test_label_probabilities_worked_by_hand():
    assert preference_probability(2.0, 1.0, "bradley-terry", 0.0) == pytest.approx(
        1 / (1 + math.exp(-1)), abs=1e-15
    )
    assert preference_probability(1.0, 2.0, "deterministic", 0.0) == 0
    assert preference_probability(1.0, 1.0, "deterministic", 0.0) == 0.5
    assert preference_probability(2.0, 1.0, "deterministic", 0.1) == 0.9
    assert preference_probability(9.0, 1.0, "bradley-terry", 0.5) == 0.5


@pytest.mark.parametrize("labels", ["bradley-terry", "deterministic"])
@pytest.mark.parametrize("noise", [0.0, 0.2])
def test_labels_prefer_the_better_text_as_often_as_they_should(labels, noise):
    rows = data_set.preference_rows(1500, random.Random(4), labels, noise)
    gaps = [r["score_chosen"] - r["score_rejected"] for r in rows]
    gaps = [gap for gap in gaps if abs(gap) > 1e-9]
    right = [1 / (1 + math.exp(-abs(gap))) if labels == "bradley-terry" else 1.0 for gap in gaps]
    right = [(1 - noise) * p + noise * (1 - p) for p in right]
    spread = math.sqrt(sum(p * (1 - p) for p in right))
    assert abs(sum(gap > 0 for gap in gaps) - sum(right)) <= 4 * spread
    for row in rows[:100]:
        assert row["score_chosen"] == pytest.approx(reward(row["prompt"], row["chosen"]), abs=1e-6)
        assert row["chosen"] != row["rejected"]


# --- The files -------------------------------------------------------------------------------


def test_the_same_seed_gives_the_same_bytes_in_another_process(world, tmp_path):
    code = (
        "import sys; from dpo_lib.language_model.worlds import write_world; "
        f"write_world(sys.argv[1], **{SMALL!r})"
    )
    environment = os.environ | {"PYTHONHASHSEED": "7", "TOKENIZERS_PARALLELISM": "true"}
    subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "again")], check=True, env=environment
    )
    files = sorted(p.relative_to(world) for p in world.rglob("*") if p.is_file())
    again = tmp_path / "again"
    assert files == sorted(p.relative_to(again) for p in again.rglob("*") if p.is_file())
    for name in files:
        assert (world / name).read_bytes() == (again / name).read_bytes(), name


def test_world_json_has_the_settings_and_the_hash_of_every_other_file(world):
    described = json.loads((world / "world.json").read_text())
    given = dict(labels="bradley-terry", noise=0.0, seed=0, words=[26, 130]) | SMALL
    assert described["settings"] == given
    files = {p.relative_to(world).as_posix(): p for p in world.rglob("*") if p.is_file()}
    del files["world.json"]
    assert described["files"] == {
        name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in files.items()
    }


@pytest.fixture
def no_tokenizer(monkeypatch):
    """Its training takes most of the time of a small world."""

    class Stub:
        def save_pretrained(self, folder):
            folder.mkdir()

    monkeypatch.setattr(data_set, "train_tokenizer", Stub)


def test_a_longer_world_begins_with_the_shorter_one_and_another_seed_gives_another(
    world, tmp_path, no_tokenizer
):
    write_world(tmp_path / "longer", **{name: 2 * n for name, n in SMALL.items()})
    write_world(tmp_path / "other", seed=1, **SMALL)
    for path in world.glob("*.jsonl"):
        text = path.read_bytes()
        assert (tmp_path / "longer" / path.name).read_bytes().startswith(text)
        assert (tmp_path / "other" / path.name).read_bytes() != text


def test_no_training_row_has_a_held_out_prompt(tmp_path, no_tokenizer):
    write_world(tmp_path / "world", pairs=300, reviews=800, prompts=800, test=400)

    def prompts(name):
        return {row["prompt"] for row in read(tmp_path / "world" / name)}

    train = prompts("sft.jsonl") | prompts("preferences.jsonl") | prompts("prompts.jsonl")
    test = prompts("test_preferences.jsonl") | prompts("test_prompts.jsonl")
    assert len(test) > 50 and not train & test  # L3


def test_every_row_is_read_and_used(world):
    counts = [
        (read_preferences(world), SMALL["pairs"]),
        (read_preferences(world / "test_preferences.jsonl"), SMALL["test"]),
        (read_examples(world), SMALL["reviews"]),
        (read_prompts(world), SMALL["prompts"]),
        (read_prompts(world / "test_prompts.jsonl"), SMALL["test"]),
    ]
    for (rows, report), n in counts:
        assert len(rows) == report.used == n
        assert not report.dropped and not report.noted


def test_the_saved_tokenizer_loads_in_transformers_and_gives_any_text_back(world, tokenizer):
    from transformers import AutoTokenizer

    loaded = AutoTokenizer.from_pretrained(world / "tokenizer")
    assert len(loaded) == len(tokenizer) == 1024
    assert loaded.eos_token == loaded.bos_token == "<|endoftext|>"
    assert loaded.convert_ids_to_tokens(loaded.eos_token_id) == "<|endoftext|>"
    for text in [
        " truly good.",
        "Ça, c’est l'œuvre!",
        "映画 🎬\u200d",
        "\t\n  two  spaces ",
        "\x00",
    ]:
        ids = loaded(text).input_ids
        assert ids == tokenizer(text).input_ids
        assert loaded.decode(ids, clean_up_tokenization_spaces=False) == text
    rows, report = read_examples(world)
    for example in tokenize_examples(rows, loaded, 512, report):
        assert example.completion.count(loaded.eos_token_id) == 1
        assert example.completion[-1] == loaded.eos_token_id
    assert report.used == SMALL["reviews"]


def test_a_failure_leaves_nothing_behind(tmp_path, monkeypatch):
    def fail():
        raise OSError("No space left on device")

    monkeypatch.setattr(data_set, "train_tokenizer", fail)
    with pytest.raises(OSError, match="No space"):
        write_world(tmp_path / "deep" / "world", **SMALL)
    assert list((tmp_path / "deep").iterdir()) == []


def test_an_empty_folder_is_filled_and_anything_else_is_left_alone(tmp_path, no_tokenizer):
    (tmp_path / "empty").mkdir()
    write_world(tmp_path / "empty", **SMALL)
    assert (tmp_path / "empty" / "world.json").is_file()
    before = (tmp_path / "empty" / "sft.jsonl").read_bytes()
    (tmp_path / "file").write_text("mine")
    for name in ("empty", "file"):
        with pytest.raises(ValueError, match=f"^.*{name}: is there already.*$"):
            write_world(tmp_path / name, **SMALL)
    assert (tmp_path / "empty" / "sft.jsonl").read_bytes() == before
    assert (tmp_path / "file").read_text() == "mine"
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize(
    "setting",
    [
        dict(pairs=0),
        dict(pairs=2.5),
        dict(reviews=-1),
        dict(prompts=0),
        dict(test=0),
        dict(labels="thurstone"),
        dict(noise=-0.1),
        dict(noise=0.51),
        dict(noise=math.nan),
        dict(words=(2, 9)),
        dict(words=(9, 8)),
    ],
)
def test_a_setting_out_of_range_is_named_in_one_line(setting, tmp_path):
    (name,) = setting
    with pytest.raises(ValueError, match=f"^{name} must .* got .*$") as error:
        write_world(tmp_path / "world", **setting)
    assert "\n" not in str(error.value)
    assert not list(tmp_path.iterdir())
