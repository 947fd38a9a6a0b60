"""A file or folder is the old one or the new one, whatever happens while it is written."""

import pytest
from faults import Faults, count_events, full_disk, in_child

from dpo_lib.language_model.files import discard, remove_leftovers, standing, whole, write

NAMES = ("a", "b")


def build(final, text):
    with whole(final) as [scratch]:
        scratch.mkdir()
        for name in NAMES:
            with open(scratch / name, "w") as file:
                file.write(text)


def content(folder):
    return [(folder / name).read_text() for name in NAMES]


@pytest.mark.parametrize("fault", [Faults, full_disk])
def test_a_folder_is_the_old_or_the_new_one_at_every_event_and_can_be_written_next(tmp_path, fault):
    (tmp_path / "count").mkdir()
    build(tmp_path / "count/x", "old")
    events, seen = count_events(lambda: build(tmp_path / "count/x", "new")), []
    for at in range(1, events + 1):
        final = tmp_path / str(at) / "x"
        final.parent.mkdir()
        build(final, "old")

        def fail(final=final, at=at):
            fault(at).install()
            build(final, "new")

        assert in_child(fail) != 0 or fault is full_disk
        a, b = content(standing(final))
        assert a == b
        seen.append(a)
        build(final, "next")
        assert content(final) == ["next", "next"]
        assert [path.name for path in final.parent.iterdir()] == ["x"]
    assert seen == sorted(seen, reverse=True) and set(seen) == {"old", "new"}


def test_a_block_that_fails_changes_nothing_and_leaves_nothing(tmp_path):
    write({tmp_path / "a": b"old"})
    with pytest.raises(KeyError), whole(tmp_path / "a", tmp_path / "b") as built:
        built[0].write_text("new")
        raise KeyError
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"a": b"old"}


def test_a_file_does_not_take_the_place_of_a_folder(tmp_path):
    build(tmp_path / "x", "mine")
    with pytest.raises(OSError):
        write({tmp_path / "x": b""})
    assert content(tmp_path / "x") == ["mine", "mine"]
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


def test_what_is_discarded_is_gone_or_a_leftover(tmp_path):
    def folder(name):
        (tmp_path / name).mkdir()
        build(tmp_path / name / "x", "old")
        return tmp_path / name

    count = folder("count")
    for at in range(1, 1 + count_events(lambda: discard(count / "x"))):
        place = folder(str(at))

        def killed(place=place, at=at):
            Faults(at).install()
            discard(place / "x")

        assert in_child(killed) == -9
        assert not (place / "x").exists() or content(place / "x") == ["old", "old"]
        remove_leftovers(place)
        assert not list(place.glob(".*"))
