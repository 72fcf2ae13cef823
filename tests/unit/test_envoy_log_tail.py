"""A log file that is appended to, rotated, truncated and torn, and its reader restarted."""

import gzip
import os
from pathlib import Path

import pytest

from bursar_sidecar.envoy import log_tail
from bursar_sidecar.envoy.log_tail import MAX_READ_BYTES, MOST_FILES, LogTail
from tests.fakes.spending import MovedClock


class Followed:
    """A file, and who follows it."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / "access.log"
        self.place = directory / "data" / "place.json"
        self.place.parent.mkdir()
        self.clock = MovedClock()
        self.tail = LogTail(self.path, self.place, self.clock)

    def write(self, text: str, path: Path | None = None) -> None:
        with (path or self.path).open("a") as opened:
            opened.write(text)

    def rotate(self, name: str = "access.log.1") -> Path:
        """As logrotate does: the writer goes on with what it has open."""
        return self.path.rename(self.path.with_name(name))

    def read(self) -> list[str]:
        """What is new, and taken."""
        lines = [line.decode() for line in self.tail.read()]
        self.tail.remember()
        return lines

    def restart(self) -> None:
        self.tail.close()
        self.tail = LogTail(self.path, self.place, self.clock)


@pytest.fixture
def followed(tmp_path: Path) -> Followed:
    return Followed(tmp_path)


def test_each_line_is_given_once(followed: Followed) -> None:
    assert followed.read() == []
    followed.write("one\ntwo\n")
    assert followed.read() == ["one", "two"]
    assert followed.read() == []
    followed.write("\nthree\n")
    assert followed.read() == ["three"]


def test_a_line_that_is_being_written_is_waited_for(followed: Followed) -> None:
    followed.write("one\ntw")
    assert followed.read() == ["one"]
    assert followed.read() == []
    assert followed.tail.behind() == 2
    followed.restart()
    followed.write("o\n")
    assert followed.read() == ["two"]
    assert followed.tail.behind() == 0


def test_a_restart_goes_on_where_it_was(followed: Followed) -> None:
    followed.write("one\n")
    assert followed.read() == ["one"]
    followed.tail.close()
    followed.write("two\n")
    followed.restart()
    assert followed.read() == ["two"]


def test_what_was_not_taken_is_given_again(followed: Followed) -> None:
    followed.write("one\n")
    assert followed.tail.read() == [b"one"]
    followed.restart()
    assert followed.read() == ["one"]


def test_a_file_that_was_moved_away_is_read_to_its_end(followed: Followed) -> None:
    followed.write("one\n")
    assert followed.read() == ["one"]
    moved = followed.rotate()
    followed.write("two\n", moved)
    assert followed.read() == ["two"]
    followed.write("four\n")
    followed.write("three\n", moved)
    assert followed.read() == ["three", "four"]
    followed.clock.skip(log_tail.ROTATED_QUIET_S)
    assert followed.read() == []
    followed.write("five\n")
    followed.write("too late\n", moved)
    assert followed.read() == ["five"]


def test_a_file_that_comes_and_goes_between_two_looks_is_read(followed: Followed) -> None:
    followed.write("one\n")
    followed.read()
    followed.rotate("access.log.2")
    followed.write("two\n")
    followed.rotate("access.log.1")
    assert followed.read() == ["two"]
    followed.write("three\n")
    assert followed.read() == ["three"]


def test_the_present_file_is_followed_however_quiet_it_is(followed: Followed) -> None:
    followed.write("one\n")
    followed.read()
    moved = followed.rotate()
    followed.write("present\n")
    followed.read()
    os.utime(followed.path, (1_000, 1_000))
    followed.write("two\n", moved)
    followed.read()
    followed.restart()
    assert followed.read() == []
    followed.clock.skip(log_tail.ROTATED_QUIET_S)
    followed.read()
    followed.write("three\n")
    assert followed.read() == ["three"]


def test_a_rotation_while_nobody_read_loses_nothing(followed: Followed) -> None:
    followed.write("one\n")
    followed.read()
    followed.tail.close()
    followed.write("two\n")
    os.utime(followed.rotate("access.log.2"), (1_000, 1_000))
    followed.write("three\n")
    os.utime(followed.rotate("access.log.1"), (2_000, 2_000))
    followed.write("four\n")
    followed.restart()
    assert followed.read() == ["two", "three", "four"]
    followed.restart()
    assert followed.read() == []


def test_files_from_before_are_not_read_again(followed: Followed) -> None:
    old = followed.path.with_name("access.log.9")
    followed.write("old\n", old)
    os.utime(old, (1_000, 1_000))
    packed = followed.path.with_name("access.log.8.gz")
    packed.write_bytes(gzip.compress(b"packed\n"))
    followed.write("one\n")
    assert followed.read() == ["one"]
    followed.restart()
    followed.write("two\n")
    assert followed.read() == ["two"]


def test_a_truncated_file_is_read_from_its_beginning(followed: Followed) -> None:
    followed.write("one\ntwo\n")
    followed.read()
    followed.path.write_text("")
    followed.write("three\n")
    assert followed.read() == ["three"]
    assert followed.tail.truncations == 1


def test_a_truncated_file_that_has_grown_past_it_is_known_too(followed: Followed) -> None:
    followed.write("one\n")
    followed.read()
    followed.path.write_text("")
    followed.write("other one\nand another\n")
    assert followed.read() == ["other one", "and another"]
    followed.tail.close()
    followed.path.write_text("")
    followed.write("yet another one, longer than those before it\n")
    followed.restart()
    assert followed.read() == ["yet another one, longer than those before it"]


def test_a_file_that_comes_later_is_found(followed: Followed) -> None:
    assert followed.read() == []
    followed.write("one\n")
    assert followed.read() == ["one"]
    followed.path.unlink()
    assert followed.read() == []
    followed.write("two\n")
    assert followed.read() == ["two"]


def test_a_line_without_an_end_is_passed_over(followed: Followed) -> None:
    followed.write("x" * (2 * MAX_READ_BYTES + 5))
    assert followed.read() == []
    assert followed.read() == []
    followed.write("\none\n")
    assert followed.read() == ["one"]
    assert followed.tail.overlong == 1


def test_much_is_read_in_pieces(followed: Followed) -> None:
    text = "x" * 99 + "\n"
    followed.write(text * (MAX_READ_BYTES // 50))
    first = followed.read()
    assert len(first) == MAX_READ_BYTES // 100
    assert len(first) + len(followed.read()) + len(followed.read()) == MAX_READ_BYTES // 50


def test_of_a_long_file_that_was_never_read_the_end_is(
    followed: Followed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log_tail, "FIRST_READ_BYTES", 10)
    followed.write("one\ntwo\nthree\nfour\n")
    assert followed.read() == ["four"]


def test_only_so_many_files_are_followed(followed: Followed) -> None:
    for n in range(2 * MOST_FILES):
        followed.write(f"{n}\n")
        assert followed.read() == [str(n)]
        followed.rotate(f"access.log.{n}")
    followed.write("last\n")
    assert followed.read() == ["last"]
    assert len(followed.tail._files) == MOST_FILES


@pytest.mark.parametrize(
    "place", ["", "{", "[]", '{"files":[{"device":"x"}]}', '{"files":[],"other":1}', "{}" * 10_000]
)
def test_a_place_that_cannot_be_read_is_none(followed: Followed, place: str) -> None:
    followed.write("one\n")
    followed.place.write_text(place)
    assert followed.read() == ["one"]
    followed.restart()
    assert followed.read() == []


def test_a_place_of_another_file_is_none(followed: Followed) -> None:
    followed.write("one\ntwo\n")
    followed.read()
    followed.tail.close()
    followed.path.unlink()
    followed.path.with_name("unrelated").write_text("")
    followed.write("another\n")
    followed.restart()
    assert followed.read() == ["another"]


def test_what_cannot_be_read_now_is_tried_again(followed: Followed) -> None:
    followed.path.mkdir()
    assert followed.read() == []
    followed.path.rmdir()
    followed.write("one\n")
    assert followed.read() == ["one"]


def test_a_place_that_cannot_be_written_stops_nothing(followed: Followed) -> None:
    followed.place.parent.rmdir()
    followed.write("one\n")
    assert followed.read() == ["one"]
    followed.write("two\n")
    assert followed.read() == ["two"]


def test_who_follows_no_more_is_given_nothing(followed: Followed) -> None:
    followed.write("one\n")
    followed.tail.close()
    assert followed.tail.read() == []
