"""Nothing that the library does is deprecated, and a user reads no line of transformers' own."""

import json
import logging

import pytest
import transformers
from small_world import small_world

from dpo_lib.__main__ import main

STEPS = ("--steps", "1", "--batch-size", "4")


@pytest.fixture
def told():
    """What transformers' logger says, each line as if it had not been said in this process."""
    lines, logger = [], logging.getLogger("transformers")
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: lines.append(record.getMessage())
    logging.Logger.warning_once.cache_clear()  # transformers' method
    logger.addHandler(handler)
    yield lines
    logger.removeHandler(handler)


@pytest.fixture(scope="module")
def names(tmp_path_factory):
    """Settings that name a world and a model as the hub has them: padding is the end of sequence,
    and the tokenizer knows of a longest text."""
    folder = tmp_path_factory.mktemp("world")
    names = small_world(folder, reviews=8, pairs=8, prompts=8, test=8)
    add_to(folder / "model/config.json", pad_token_id=0)
    add_to(folder / "model/tokenizer_config.json", model_max_length=8)
    return names


def add_to(path, **settings):
    path.write_text(json.dumps(json.loads(path.read_text()) | settings))


def run_everything(names, tmp_path):
    """Load, train, save, sample and measure, as the command line does."""
    model, data = names["model"], ["--data", names["data"]]
    for stage in ("sft", "reward", "dpo", "kto"):
        main([stage, "--model", model, *data, "--out", str(tmp_path / stage), *STEPS])
    reward, dpo = str(tmp_path / "reward/model"), str(tmp_path / "dpo/model")
    short = ["--max-new-tokens", "4"]
    ppo = ["--model", model, *data, "--reward", reward, "--out", str(tmp_path / "ppo")]
    main(["ppo", *ppo, *STEPS, *short])
    main(["online", *ppo[:-1], str(tmp_path / "online"), *STEPS, *short])
    main(["sample", "--model", dpo, "--prompt", "This film", *short])
    models = ["--model", dpo, "--reference", model, "--reward", reward]
    main(["evaluate", *models, *data, "--prompts", "2", *short])


def test_nothing_that_the_library_does_is_deprecated(names, tmp_path, told, monkeypatch):
    monkeypatch.setattr(transformers.logging, "set_verbosity_error", lambda: None)
    run_everything(names, tmp_path)  # the warnings module's are errors in every test
    assert not [line for line in told if "deprecat" in line or "removed in" in line]


def test_a_user_reads_no_line_of_transformers(names, tmp_path, told):
    run_everything(names, tmp_path)
    assert told == []


def test_a_notice_of_transformers_would_be_seen(told):  # control
    for _ in range(2):
        transformers.logging.get_logger("transformers.some.module").warning_once("deprecated")
    assert told == ["deprecated"]
