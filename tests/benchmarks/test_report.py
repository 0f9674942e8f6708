"""A report of a small hand-made run."""

import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest
from click.testing import CliRunner

from benchmarks.cli import main
from benchmarks.report import tables, words
from benchmarks.rows import Row, append

pytest.importorskip("matplotlib")

MACHINE = {"cpu": "A processor", "family": "6-1-1", "flags": ["avx2"], "cores": 2, "memory": 24e9, "system": "Linux"}
EAGER = Row(
    "cpu", "sd15-512", "denoiser", "eager-fp32", "diffusers", "fp32", "cpu", "measured",
    shapes={"sample": [2, 4, 64, 64]}, rounds=3, median_seconds=8.0, min_seconds=7.5, max_seconds=9.0,
    baseline_seconds=8.0, ratio=1.0, load_seconds=9.0,
    first_seconds=8.5, peak_bytes=4_200_000_000, flops=1_690_000_000_000, weight_bytes=3_440_000_000, rate=3e11,
    bandwidth=2e10, bound_seconds=5.6, bound_fraction=0.7, error=0.0, versions={"torch": "2.13.0"}, machine=MACHINE,
    command="python -m benchmarks run cpu --out runs.jsonl", date="2026-11-26T10:00:00+00:00",
)  # fmt: skip
OURS = replace(
    EAGER, contender="diffrt-cpu", runtime="diffrt", median_seconds=6.4, min_seconds=6.1, ratio=1.25, error=3e-6
)
FASTER = replace(
    EAGER, contender="compile-bf16", runtime="torch.compile", precision="bf16", median_seconds=2.0, ratio=4.0
)
ABSENT = Row(
    "cpu", "sd15-512", "denoiser", "openvino-bf16", "OpenVINO", "bf16", "cpu", "missing", "pip install <openvino>"
)
STEP = Row(
    "schedulers", "4x64x64", "DDIMScheduler", "diffrt", "diffrt", "fp32", "cpu", "measured", rounds=20,
    median_seconds=2e-5, min_seconds=1e-5, max_seconds=3e-5, baseline_seconds=6e-5, ratio=3.0,
)  # fmt: skip


class Tables(HTMLParser):
    """The cells of a page's tables, row by row, and every address that it would fetch."""

    def __init__(self):
        super().__init__()
        self.rows, self.addresses, self._inside = [], [], False

    def handle_starttag(self, tag, attributes):
        if tag == "tr":
            self.rows.append([])
        self._inside = tag in ("td", "th")
        if self._inside:
            self.rows[-1].append("")
        self.addresses += [value for name, value in attributes if name == "src" or (name == "href" and tag == "link")]

    def handle_endtag(self, tag):
        self._inside = False

    def handle_data(self, data):
        if self._inside:
            self.rows[-1][-1] += data


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    for row in (EAGER, replace(OURS, median_seconds=99.0), ABSENT, FASTER, STEP, OURS):
        append(folder / "runs.jsonl", row)
    done = CliRunner().invoke(main, ["report", str(folder / "runs.jsonl"), "--out", str(folder)])
    assert done.exit_code == 0, done.output
    return folder


def test_the_page_reads_back(folder):
    page = Tables()
    page.feed((folder / "index.html").read_text("utf-8"))
    head, *rows = page.rows[:4]
    told = [dict(zip(head, row, strict=True)) for row in rows]
    assert [row["contender"] for row in told] == ["compile-bf16", "diffrt-cpu", "eager-fp32"]
    ours = told[1]
    assert (ours["median"], ours["speed"], ours["memory"], ours["error"]) == ("6.40 s", "1.25", "4.20 GB", "3e-06")
    assert (ours["bound"], ours["of bound"]) == ("5.60 s", "70 %")
    assert page.rows[-1][:4] == ["DDIMScheduler", "4x64x64", "20.0 µs", "60.0 µs"]


def test_the_page_fetches_nothing_and_escapes_what_it_is_told(folder):
    text = (folder / "index.html").read_text("utf-8")
    page = Tables()
    page.feed(text)
    assert page.addresses == [] and "<script" not in text and "url(" not in re.sub(r"url\(#", "", text)
    assert text.count("<svg") == 1
    assert "openvino-bf16 (missing): pip install &lt;openvino&gt;" in text


def test_markdown_has_the_same_table_and_its_plot(folder):
    text = (folder / "report.md").read_text("utf-8")
    assert re.search(r"\| diffrt-cpu \| cpu \| fp32 \| 6\.40 s \| 6\.10-9\.00 \|", text)
    (plot,) = re.findall(r"\]\((.*\.png)\)", text)
    assert (folder / plot).read_bytes().startswith(b"\x89PNG")
    assert EAGER.command in text and "torch 2.13.0" in text and "fp32 300 GFLOP/s" in text


def test_a_loss_is_said_as_plainly_as_a_win():
    lost, won = (
        tables.sections(rows)[0] for rows in ([EAGER, OURS, FASTER], [EAGER, replace(OURS, ratio=5.0), FASTER])
    )
    assert words.verdict(lost).startswith("diffrt trails, 0.31 to the best of the others")
    assert words.verdict(won).startswith("diffrt leads, 1.25 to the best of the others")
    (alone,) = tables.sections([EAGER, replace(OURS, ratio=0.8)])
    assert words.verdict(alone) == "diffrt-cpu is slower, 1.25 times the time of eager-fp32."
    (all_lost,) = tables.sections([STEP])
    assert words.verdict(all_lost) == ""


@pytest.mark.parametrize(
    ("value", "text"), [(0.0, "0.00 µs"), (2.4e-5, "24.0 µs"), (0.0183, "18.3 ms"), (7.456, "7.46 s"), (150.2, "150 s")]
)
def test_seconds(value, text):
    assert tables.seconds(value) == text
