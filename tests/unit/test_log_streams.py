"""Logging never fails for want of disk; what was lost is counted and told."""

import os
from pathlib import Path

from bursar.log_stream import LogStream


def test_lines_on_a_full_disk_are_counted_and_told(tmp_path: Path) -> None:
    full = os.open("/dev/full", os.O_WRONLY)
    log = tmp_path / "log"
    file = os.open(log, os.O_WRONLY | os.O_CREAT)
    try:
        stream = LogStream(full)
        assert stream.write("one\n") == 4
        stream.write("two\nthree\n")
        stream.flush()
        assert stream.lost_count == 3
        os.dup2(file, full)  # there is room again
        stream.write("four\n")
        stream.write("five\n")
    finally:
        os.close(full)
        os.close(file)
    told = '{"event": "log_lines_lost", "count": 3}\n'
    assert log.read_text() == f"{told}four\nfive\n"
    assert stream.lost_count == 0
