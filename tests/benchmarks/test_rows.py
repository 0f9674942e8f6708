"""The lines of RUNS.jsonl."""

import dataclasses
import json

import pytest

from benchmarks.rows import SCHEMA, Row, append, newest, read

ROW = Row("smoke", "emoji-128", "denoiser", "diffrt-cpu", "diffrt", "fp32", "cpu", "measured", median_seconds=0.5)


def test_a_row_reads_back(tmp_path):
    file = tmp_path / "runs.jsonl"
    row = dataclasses.replace(
        ROW, shapes={"x": [1, 4, 16, 16]}, ratio=2.0, versions={"torch": "2.13"}, parts={"a": 1.5}
    )
    append(file, row)
    append(file, ROW)
    assert read(file) == [row, ROW]


def test_the_newest_row_of_a_key_counts():
    slow, other = (dataclasses.replace(ROW, **change) for change in ({"median_seconds": 0.9}, {"stage": "vae"}))
    assert newest([slow, other, ROW]) == [ROW, other]


def test_a_line_that_was_cut_off_does_not_count(tmp_path):
    file = tmp_path / "runs.jsonl"
    file.write_text(f"{ROW.dumps()}\n{ROW.dumps()[:50]}")
    assert read(file) == [ROW]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema": SCHEMA + 1}, "measure again"),
        ({"status": "fast"}, "allowed: measured"),
        ({"status": "failed"}, "reason"),
        ({"reason": "it was slow"}, "reason"),
        ({"colour": "red"}, "colour"),
    ],
)
def test_what_is_no_row_is_named_with_its_line(tmp_path, change, message):
    file = tmp_path / "runs.jsonl"
    file.write_text(f"{ROW.dumps()}\n{json.dumps(json.loads(ROW.dumps()) | change)}\n")
    with pytest.raises(ValueError, match=f"line 2: .*{message}"):
        read(file)
