"""The table of human choices: that it adds up as its source says."""

import torch

from dpo_lib.results import human_choices, read
from dpo_lib.results.stored import STORED

CHOICES = human_choices()


def test_all_3354_votes_are_in_it():
    models, wins, ties = CHOICES
    assert len(models) == 6 and wins.shape == ties.shape == (1, 6, 6)
    assert wins.sum() == 2575 and ties.sum() / 2 == 779


def test_a_tie_has_no_order_and_nobody_meets_itself():
    _, wins, ties = CHOICES
    torch.testing.assert_close(ties, ties.mT)
    for table in (wins, ties):
        assert (table.diagonal(dim1=-2, dim2=-1) == 0).all()


def test_every_pair_of_models_was_judged_at_least_150_times():
    _, wins, ties = CHOICES
    votes = (wins + wins.mT + ties)[0]
    assert votes[~torch.eye(6, dtype=torch.bool)].min() == 150


def test_it_names_its_source_its_licence_and_what_was_changed():
    stored = read(STORED / "mt_bench.json")
    assert "2306.05685" in stored["source"] and "CC BY 4.0" in stored["license"]
    assert stored["changes"]
