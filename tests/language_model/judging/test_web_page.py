"""`dpo report`: one page that needs nothing else, and in which text from data is only text."""

import errno
import json
import os
import re
import shlex
from html.parser import HTMLParser
from pathlib import Path

import faults
import pytest
from test_pages import settle, violations, visit

from dpo_lib.language_model.judging import leave_page, report, runs, web_page, write_page
from dpo_lib.language_model.training.parallel.processes import Processes

HOSTILE = "<script>document.title = 'owned'</script><img src=x onerror=alert(1)>\"'&"
VOID = {"meta", "img", "br", "hr", "link", "input", "use", "path"}
ROW = {"mean": 0.5, "standard_error": 0.1}
ENDS = {"length": ROW, "ended": ROW}
EVALUATION = {
    "reference": {"reward": ROW, **ENDS},
    "policies": [
        {"name": "dpo/model", "temperature": 1.0, "z": 3.0, "reward": ROW, "kl": ROW, **ENDS}
    ],
    "best_of": [],
}


class Page(HTMLParser):
    """Elements with their attributes, text, and whether every element is closed in its turn."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.texts, self.open = [], [], []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert tag in VOID or self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)

    @property
    def text(self):
        return " ".join(" ".join(self.texts).split())

    def headings(self):
        return [tag for tag, _ in self.elements if re.fullmatch("h[1-6]", tag)]


def write_lines(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def write_run(folder, text=" it was bad.", **settings):
    folder.mkdir(parents=True)
    held_out = {"eval_loss": 0.7, "eval_objective/kl": 0.0, "eval_objective/scores": 0.25}
    better = {"eval_loss": 0.5, "eval_objective/kl": 2.5, "eval_objective/scores": 0.75}
    rows = [{"step": 0, **held_out}]
    rows += [{"step": step, "loss": 0.7 - 0.01 * step} for step in range(1, 31)]
    rows += [{"step": 20, **better, "eval_loss": 0.4}, {"step": 30, **better}]
    write_lines(folder / "metrics.jsonl", rows)
    write_lines(
        folder / "samples.jsonl",
        [
            {"step": step, "prompt": prompt, "completion": f"{text} {step}", "ended": step == 0}
            | {"reward": step / 8, "kl": step / 16}
            for step in (0, 20, 30)
            for prompt in ("This film", text)
        ],
    )
    write_lines(folder / "timing.jsonl", [{"step": 1, "seconds": 2.0, "tokens_per_second": 3e3}])
    known = {"model": "tiny", "data": "world", "steps": 30, "batch_size": 64, "lr": 1e-3}
    known |= {"eval_data": "world", "beta": 0.1, "stage": "DPO", "data (hash)": "0a1b"}
    known |= {"command": ["/env/bin/dpo", "dpo", "--data", "my world", "--out", "dpo"]}
    known |= {"machine": {"python": "3.11.7", "torch": "2.13.0"}}
    known |= {"about": {"items": 2000, "tokens": 195334, "parameters": 7, "trained": 6}}
    (folder / "settings.json").write_text(json.dumps(known | settings))
    return str(folder)


def page_of(tmp_path, *folders, **options):
    return Page(write_page(list(folders), tmp_path / "report.html", **options).read_text())


def test_the_page_says_in_this_order_what_came_out_and_what_repeats_it(tmp_path):
    page = page_of(tmp_path, write_run(tmp_path / "one"))
    said = [
        "Run one",
        "DPO from tiny on world, 2,000 items of 195,334 tokens, 6 of 7 parameters trained",
        "30 of 30 steps of 64, watched on world.",
        "held out step 0 step 30 best loss 0.7 0.5 0.4 at step 20",
        "reward 0.25 0.75 0.75 at step 20",
        "nothing found",
        "Curves",
        "Before: step 0, reward 0, KL 0 nats it was bad. 0",
        "After: step 30, reward 3.75, KL 1.875 nats, cut at the limit it was bad. 30",
        "Measured while training",
        "dpo dpo --data 'my world' --out dpo",
        "setting value default model tiny must be given",
        "lr 0.001 1e-06",
        "beta 0.1 0.1",
        "torch 2.13.0",
        "0a1b",
        "time in steps 2 s",
    ]
    places = [page.text.find(" ".join(words.split())) for words in said]
    assert -1 not in places, said[places.index(-1)]
    assert places == sorted(places)
    pictures = [attributes["aria-label"] for tag, attributes in page.elements if tag == "svg"]
    assert pictures[0].startswith("one: loss 0.69 to 0.4; held-out loss 0.7 to 0.5")
    assert pictures[1].endswith("one: reward 0.25 to 0.75 at KL 0 to 2.5.")


def test_a_sequence_has_its_runs_side_by_side_and_then_each_of_them(tmp_path):
    folders = [write_run(tmp_path / "sft", stage="SFT"), write_run(tmp_path / "dpo")]
    (tmp_path / "found.json").write_text(json.dumps(EVALUATION))
    page = page_of(tmp_path, *folders, evaluation=tmp_path / "found.json")
    assert page.text.index("Overview") < page.text.index(
        "sft SFT tiny world 30 0.7 to 0.5 0.25 to 0.75"
    )
    assert "Overview The runs, in the order given run stage" in page.text
    assert "dpo/model 1 0.500 ± 0.196 0.500 ± 0.196" in page.text
    targets = {attributes["href"] for tag, attributes in page.elements if tag == "a"}
    assert targets == {f"#{attributes['id']}" for tag, attributes in page.elements if
                       tag == "section"}  # fmt: skip
    assert page.headings()[:4] == ["h1", "h2", "h2", "h2"] and page.headings().count("h1") == 1


def test_what_is_not_there_is_said_not_to_be(tmp_path):
    (tmp_path / "one").mkdir()
    write_lines(tmp_path / "one/metrics.jsonl", [{"step": 1, "loss": 0.5}, {"step": 2, "loss": 1}])
    page = page_of(tmp_path, str(tmp_path / "one"))
    for words in (
        "A log of 2 steps, with no settings.json beside it.",
        "in training step 1 step 2 loss 0.5 1",
        "Nothing was held out",
        "too short to judge",
        "None were kept: --samples asks for them.",
        "Not measured:",
        "The command was not kept.",
    ):
        assert words in page.text
    assert "details" not in {tag for tag, _ in page.elements}


def test_trl_s_log_has_a_page_too(tmp_path):
    history = [{"step": 10, "loss": 0.6}, {"step": 10, "eval_loss": 0.65}]
    (tmp_path / "trainer_state.json").write_text(json.dumps({"log_history": history}))
    assert "held out step 10 step 10 best loss 0.65 0.65" in page_of(tmp_path, str(tmp_path)).text


def test_text_from_rows_settings_and_names_is_only_text(tmp_path):
    clean = page_of(tmp_path, write_run(tmp_path / "one"))
    settings = {"model": HOSTILE, "stage": HOSTILE, "command": ["dpo", HOSTILE]}
    settings |= {"machine": {HOSTILE: HOSTILE}, "about": {"items": HOSTILE, "device": HOSTILE}}
    settings |= {f"{HOSTILE} (hash)": HOSTILE, "steps": HOSTILE}
    name = HOSTILE.replace("/", "")
    folder = write_run(tmp_path / "hostile" / name, HOSTILE, **settings)
    (tmp_path / "found.json").write_text(json.dumps(EVALUATION).replace("dpo/model", "<script>a"))
    page = page_of(tmp_path, folder, evaluation=tmp_path / "found.json")
    assert {tag for tag, _ in page.elements} - {tag for tag, _ in clean.elements} <= {"clippath"}
    assert not any(name.startswith("on") for _, found in page.elements for name in found)
    assert page.text.count(HOSTILE) >= 10 and shlex.quote(HOSTILE) in page.text
    assert name in page.text and "<script>a" in page.text


def test_characters_that_a_page_obeys_or_cannot_hold_are_shown(tmp_path):
    text = "\x1b[31m red \x00 \u202e turned \ud800 half"
    page = page_of(tmp_path, write_run(tmp_path / "one", text))
    assert "␛[31m red ␀ \ufffd turned ? half 30" in page.text


def test_the_page_asks_no_other_machine_for_anything_and_runs_nothing(tmp_path):
    text = write_page([write_run(tmp_path / "one")], tmp_path / "report.html").read_text()
    page = Page(text)
    outside = [(n, v) for _, found in page.elements for n, v in found.items() if "//" in str(v)]
    assert {name.partition(":")[0] for name, _ in outside} <= {"xmlns"}
    assert not {"script", "link", "iframe", "img", "object"} & {tag for tag, _ in page.elements}
    [policy] = [a["content"] for _, a in page.elements if "http-equiv" in a]
    assert policy == "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
    assert "@import" not in text and not re.search(r"url\((?!#)", text)


def test_the_same_runs_give_the_same_bytes(tmp_path):
    run = write_run(tmp_path / "one")
    first, again = (write_page([run], tmp_path / f"{n}.html").read_bytes() for n in range(2))
    assert first == again


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 768, 390])
def test_the_page_reads_on_screens_of_any_width_and_breaks_no_rule(browser, tmp_path, theme, width):
    folders = [write_run(tmp_path / "one", HOSTILE), write_run(tmp_path / "two")]
    write_lines(tmp_path / "two/metrics.jsonl", [{"step": 1, "loss": float("nan")}])
    path = write_page(folders, tmp_path / "report.html")
    screen = {"viewport": {"width": width, "height": 800}, "color_scheme": theme}
    with visit(browser, path.as_uri(), **screen) as (page, complaints):
        settle(page)
        assert page.title() == "Runs one, two"
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert violations(page) == []
        assert complaints == []


def test_the_command_is_what_a_person_types(tmp_path):
    def command(*words, **machine):
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        run = write_run(folder, command=list(words), machine=machine)
        return runs.command(*runs.read_runs([run]))

    assert command("/env/bin/dpo", "sft", "--lr", "1") == "dpo sft --lr 1"
    assert command("/env/dpo_lib/__main__.py", "sft") == "dpo sft"
    assert command("my run.py", "a b") == "python 'my run.py' 'a b'"
    several = command("/env/dpo_lib/__main__.py", "dpo", processes=2)
    assert several == "accelerate launch --num_processes 2 -m dpo_lib dpo"
    assert command() == ""


def test_what_cannot_be_reported_is_refused_in_one_line(tmp_path):
    run, out = write_run(tmp_path / "one"), tmp_path / "report.html"
    twin = write_run(tmp_path / "other/one")
    (tmp_path / "empty").mkdir()
    (tmp_path / "folder.html").mkdir()
    with pytest.raises(ValueError, match=r"^out must end in \.html, got .*report\.pdf$"):
        write_page([run], tmp_path / "report.pdf")
    with pytest.raises(ValueError, match=r"^out must be a file, got .*folder\.html$"):
        write_page([run], tmp_path / "folder.html")
    with pytest.raises(ValueError, match=r"^two runs are called one: rename a folder"):
        write_page([run, twin], out)
    with pytest.raises(OSError, match=r"empty.metrics\.jsonl"):
        write_page([str(tmp_path / "empty")], out)
    with pytest.raises(ValueError, match=r"settings\.json: not an evaluation"):
        write_page([run], out, tmp_path / "one/settings.json")
    with open(tmp_path / "one/samples.jsonl", "a") as file:
        file.write('{"step": 30, "prom\n{"step": 40, "pro')  # the last line is a killed run's
    with pytest.raises(ValueError, match=r"samples\.jsonl:7: not JSON; move the file"):
        write_page([run], out)
    assert not out.exists()


def test_an_evaluation_is_read_as_it_was_written(tmp_path):
    report.write(EVALUATION, tmp_path / "found.json")
    assert report.read(tmp_path / "found.json") == EVALUATION


def test_on_a_full_disk_the_old_page_stays_and_one_line_says_what_to_do(tmp_path, monkeypatch):
    run, out = write_run(tmp_path / "one"), tmp_path / "out/report.html"
    out.parent.mkdir()
    out.write_text("old")
    monkeypatch.setattr(web_page, "render", lambda *_: "new")
    for at in range(1, 10):
        said = tmp_path / f"said-{at}"

        def work(at=at):
            faults.full_disk(at).install()
            write_page([run], out)

        if faults.in_child(work, stderr=said) == 0:
            break
        line = said.read_text()
        assert line.count("\n") == 1 and os.strerror(errno.ENOSPC) in line
        assert line.rstrip().endswith("make room there, or choose another --out")
        assert os.listdir(out.parent) == [out.name]
        assert out.read_text() in ("old", "new") and (at > 3 or out.read_text() == "old")
    assert 4 < at < 9 and out.read_text() == "new"


def test_a_run_that_is_whole_does_not_fail_by_its_page(tmp_path, monkeypatch):
    run = Path(write_run(tmp_path / "one"))
    assert leave_page(run) == "" and (run / "report.html").exists()
    (run / "report.html").unlink()
    with monkeypatch.context() as second:
        second.setattr(web_page, "processes", lambda: Processes(rank=1, count=2))
        assert leave_page(run) == "" and not (run / "report.html").exists()

    def full(_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(web_page.files, "write", full)
    said = leave_page(run)
    assert said.startswith("the run is whole, but has no report: ") and "No space left" in said
    monkeypatch.setattr(web_page, "render", lambda *_: {}["a mistake of ours"])
    assert "no report: 'a mistake of ours'" in leave_page(run)
