"""Who runs when, what is planned, and what becomes of a contender that cannot run."""

import dataclasses

import numpy as np
import pytest
from click.testing import CliRunner

from benchmarks import bound, measures
from benchmarks import stand as stands
from benchmarks.cli import main
from benchmarks.contenders import CONTENDERS
from benchmarks.contenders.base import PIP
from benchmarks.models import MODELS
from benchmarks.plan import label, matches, planned
from benchmarks.processes import Failed, NotMeasured, Remote
from benchmarks.rows import read
from benchmarks.setting import Setting, setting
from benchmarks.suites import EMOJI, SUITES, Entry

ENTRY = Entry(EMOJI, "text", ("diffrt-cpu",), 2, 0.01)
PLAN = planned("smoke", [ENTRY])[0]


SECONDS = {"eager-fp32": 2.0, "diffrt-cpu": 0.5}
OUTPUTS = {"eager-fp32": np.float32([3, 4]), "diffrt-cpu": np.float32([3, 4.5])}


class Fake:
    """A worker whose runs are told, and written down."""

    log: list[str]

    def __init__(self, contender, job, log):
        self.name, self.load_seconds, self.facts = contender, 3.0, {}
        self.log.append(f"load {contender}")

    alive = True

    def run(self, times=1, save=None):
        self.log.append(self.name)
        if save:
            np.save(save, OUTPUTS[self.name])
        return [SECONDS[self.name]] * times

    def peak(self):
        return {"bytes": 10**9, "vram": None}

    def close(self):
        self.log.append(f"close {self.name}")


@pytest.fixture
def stand(monkeypatch, tmp_path):
    monkeypatch.setattr(Fake, "log", [], raising=False)
    monkeypatch.setattr(stands, "Remote", Fake)
    monkeypatch.setattr(stands.Stand, "counted", lambda self: None)
    rates = {"fp32": 1e9, "bandwidth": 1e9}
    common = Setting("smoke", tmp_path, "python -m benchmarks run smoke", {}, {}, rates)
    return stands.Stand(common, PLAN)


def test_the_baseline_stays_and_the_two_take_turns(stand):
    row, baseline = stand.rows(lambda name: True)
    a, b = "eager-fp32", "diffrt-cpu"
    assert Fake.log == [f"load {a}", a, f"load {b}", b, *[a, b] * 3, f"close {b}", f"close {a}"]
    assert (row.rounds, row.median_seconds, row.baseline_seconds, row.ratio) == (3, 0.5, 2.0, 4.0)
    assert (row.load_seconds, row.first_seconds, row.peak_bytes, row.interleaved) == (3.0, 0.5, 10**9, True)
    assert row.error == pytest.approx(0.5 / 5)
    assert (baseline.contender, baseline.rounds, baseline.ratio, baseline.error) == (a, 3, 1.0, 0.0)


def test_errors_are_distances_from_the_reference_where_there_is_one(stand, monkeypatch):
    monkeypatch.setitem(SECONDS, "eager-bf16", 1.0)
    monkeypatch.setitem(OUTPUTS, "eager-bf16", np.float32([0, 4]))
    entry = dataclasses.replace(stand.entry, reference="eager-fp32", baseline="eager-bf16")
    plan = dataclasses.replace(PLAN, entry=entry)
    row, baseline = stands.Stand(stand.setting, plan).rows(lambda name: True)
    assert Fake.log[:4] == ["load eager-fp32", "eager-fp32", "close eager-fp32", "load eager-bf16"]
    assert (row.error, baseline.error) == (pytest.approx(0.5 / 5), pytest.approx(3 / 5))
    assert (row.ratio, baseline.ratio) == (2.0, 1.0)


def test_a_first_run_that_compiles_does_not_make_for_fewer_rounds(stand, monkeypatch):
    run, first = Fake.run, iter([100.0])

    def compiling(self, *args, **options):
        seconds = run(self, *args, **options)
        return seconds if self.name == "eager-fp32" else [next(first, seconds[0])]

    monkeypatch.setattr(Fake, "run", compiling)
    row, _ = stand.rows(lambda name: True)
    assert (row.first_seconds, row.rounds, row.max_seconds) == (100.0, 3, 0.5)


def test_what_memory_does_not_hold_runs_apart(stand, monkeypatch):
    monkeypatch.setattr(stands.machine, "available_memory", lambda: 1)
    row, baseline = stand.rows(lambda name: True)
    a, b = "eager-fp32", "diffrt-cpu"
    assert Fake.log == [f"load {a}", a, a, f"close {a}", f"load {b}", b, b, f"close {b}"]
    assert not row.interleaved and row.ratio == 4.0 and baseline.rounds == 2


def test_one_that_is_not_installed_is_a_row(stand, monkeypatch):
    monkeypatch.setitem(PIP, "no_such_module", "no-such-package")
    absent = dataclasses.replace(stand.contenders[0], needs=("no_such_module",))
    stand.contenders = (absent,)
    row, baseline = stand.rows(lambda name: True)
    assert (row.status, row.reason) == ("missing", "pip install no-such-package")
    assert baseline.status == "measured"


@pytest.mark.parametrize(
    ("error", "status"), [(Failed("out of memory"), "failed"), (NotMeasured("no such device"), "not measured")]
)
def test_one_that_fails_is_a_row_and_the_next_one_runs(stand, monkeypatch, error, status):
    def refuse(self, contender, job, log):
        if contender == "broken":
            raise error
        Fake.__init__(self, contender, job, log)

    monkeypatch.setattr(stands, "Remote", type("Refusing", (Fake,), {"__init__": refuse}))
    stand.contenders = (dataclasses.replace(stand.contenders[0], name="broken"), *stand.contenders)
    broken, _, row, _ = stand.rows(lambda name: True)
    assert (broken.contender, broken.status, broken.reason) == ("broken", status, str(error))
    assert row.status == "measured"


def test_without_a_baseline_every_row_says_so(stand, monkeypatch):
    monkeypatch.setattr(type(stand.record), "missing", lambda self: ["diffusers"])
    assert [(row.contender, row.status, row.reason) for row in stand.rows(lambda name: True)] == [
        (name, "missing", "pip install diffusers") for name in ("eager-fp32", "diffrt-cpu")
    ]


def test_another_output_is_an_error_and_pictures_have_a_psnr():
    a = np.full((1, 8, 8, 3), 100, np.uint8)
    found = measures.compare(a, a + np.uint8(1))
    assert found["psnr"] == pytest.approx(20 * np.log10(255)) and found["error"] == pytest.approx(0.01)
    assert measures.compare(a, a) == {"error": 0.0}
    with pytest.raises(Failed, match="shape"):
        measures.compare(a, a[:, :4])
    with pytest.raises(Failed, match="NaN"):
        measures.compare(np.ones(2), np.array([1, np.nan]))


def test_entries_name_contenders_and_models_that_there_are():
    entries = [entry for suite in SUITES.values() for entry in suite.entries]
    assert {entry.case.model for entry in entries} <= set(MODELS)
    assert {entry.baseline for entry in entries} <= set(CONTENDERS)
    names = {name for entry in entries for name in entry.contenders if "*" not in name}
    assert names <= set(CONTENDERS)


def test_only():
    name = label("cpu", dataclasses.replace(ENTRY, stage="denoiser"), "compile-bf16")
    assert matches(name, ()) and matches(name, ("denoiser", "diffrt,compile"))
    assert not matches(name, ("denoiser", "diffrt,eager"))


def test_the_plan_of_nothing_is_an_error(tmp_path):
    done = CliRunner().invoke(main, ["run", "cpu", "--only", "1024", "--out", str(tmp_path / "x"), "--plan"])
    assert done.exit_code == 2 and "--all" in done.output
    done = CliRunner().invoke(main, ["run", "cpu", "--all", "--only", "1024", "--out", str(tmp_path / "x"), "--plan"])
    assert done.exit_code == 0 and "sd15-1024" in done.output and "min" in done.output


def test_a_worker_in_a_process(tmp_path):
    """diffrt's text encoder on the model inside the package."""
    log = tmp_path / "log"
    job = stands.job(ENTRY, str(tmp_path))
    remote = Remote("diffrt-cpu", job, log)
    try:
        assert all(0 < seconds < 60 for seconds in remote.run(2, tmp_path / "out.npy"))
        assert 10e6 < remote.peak()["bytes"] < 1e9
    finally:
        remote.close()
    assert np.load(tmp_path / "out.npy").shape == (2, 32, 160)
    with pytest.raises(NotMeasured, match="int8"):
        Remote("diffrt-cpu-int8", job, log)


def test_a_worker_that_dies(tmp_path, monkeypatch):
    monkeypatch.setattr("benchmarks.processes.sys.executable", "/bin/false")
    with pytest.raises(Failed, match="ended with 1"):
        Remote("diffrt-cpu", stands.job(ENTRY, str(tmp_path)), tmp_path / "log")


def test_a_whole_row(tmp_path, monkeypatch):
    """The smallest of the smoke suite, with PyTorch as the baseline; the machine's rates are not measured."""
    monkeypatch.setattr("benchmarks.setting.setting", lambda *args, rated: setting(*args, rated=False))
    monkeypatch.setattr(stands.Stand, "counted", lambda self: bound.Work(((1, 10**9, 10**6),)))
    out = tmp_path / "runs.jsonl"
    line = ["run", "smoke", "--only", "denoiser", "--only", "diffrt-cpu", "--rounds", "1"]
    done = CliRunner().invoke(main, [*line, "--work", str(tmp_path / "work"), "--out", str(out)])
    assert done.exit_code == 0, done.output
    row, baseline = read(out)
    assert (row.status, row.contender, baseline.contender) == ("measured", "diffrt-cpu", "eager-fp32")
    assert row.error < 2e-3  # its graph holds fp16
    assert row.flops == 10**9 and row.bound_seconds is None and row.shapes["sample"] == [2, 4, 16, 16]
    again = CliRunner().invoke(main, [*line, "--resume", "--work", str(tmp_path / "work"), "--out", str(out)])
    assert again.exit_code == 0 and len(read(out)) == 2
    assert row.command == "python -m benchmarks run smoke --out runs.jsonl --only denoiser --only diffrt-cpu --rounds 1"
