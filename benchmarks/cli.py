"""The command line of the benchmarks."""

import importlib
import shlex
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

import click
from tqdm import tqdm

from benchmarks import rows
from benchmarks.suites import SUITES


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """Measure diffrt beside diffusers and every other way to run the same model.

    \b
    Two minutes, on the model inside the package:
      python -m benchmarks run smoke --out runs.jsonl
      python -m benchmarks report runs.jsonl --out report    then open report/index.html
    Full size; the plan is printed first, and rows are written as they come:
      python -m benchmarks run cpu --out runs.jsonl
      python -m benchmarks run cpu --out runs.jsonl --only denoiser --only diffrt,compile
      python -m benchmarks run cpu --out runs.jsonl --all --only 1024 --resume

    Contenders take turns with the baseline, eager diffusers in fp32, in processes of their own, on the same weights and
    inputs. One that is not installed is named in the report and fails nothing: pip install '.[bench]' has them all.
    Close other programs first: figures are of the whole machine.
    """


def suites_help() -> str:
    return "\n".join(f"  {name:12}{suite.about}" for name, suite in SUITES.items())


@main.command(help=f"Measure SUITE and append a row for each contender to a file.\n\n\b\n{suites_help()}")
@click.argument("suite", type=click.Choice(list(SUITES)), metavar="SUITE")
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), required=True, metavar="RUNS.jsonl")
@click.option(
    "--only",
    multiple=True,
    metavar="TEXT",
    help="Only what has TEXT in suite/case/stage/contender; a comma stands for or, a second --only for and.",
)
@click.option("--rounds", type=click.IntRange(1), help="Runs of each, in place of the suite's own number.")
@click.option("--all", "everything", is_flag=True, help="Also what takes long.")
@click.option("--resume", is_flag=True, help="Leave out what the file has as measured.")
@click.option(
    "--work",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("benchmarks/work"),
    show_default=True,
    metavar="FOLDER",
    help="Keeps checkpoints and exported graphs from run to run: up to 12 GB for SD 1.5, 40 GB for XL, 34 GB for Flux.",
)
@click.option("--plan", "plan_only", is_flag=True, help="Print the plan and stop.")
def run(
    suite: str,
    out: Path,
    only: tuple[str, ...],
    rounds: int | None,
    everything: bool,
    resume: bool,
    work: Path,
    plan_only: bool,
) -> None:
    record, line = SUITES[suite], spelled(suite, out, only, rounds, everything)
    done = {row.key for row in rows.read(out) if row.status == "measured"} if resume and out.exists() else set()
    if record.entries:
        run_entries(suite, out, only, rounds, everything, work, plan_only, line, done)
        return
    click.echo(f"{suite}: {record.about}; about {record.minutes:.0f} min")
    if not plan_only:
        from benchmarks.setting import setting

        module = importlib.import_module(f"benchmarks.{suite}_suite")
        save(out, module.run(setting(suite, work, line, rated=False), only, rounds, done, everything))


def spelled(suite: str, out: Path, only: Sequence[str], rounds: int | None, everything: bool) -> str:
    """The command as another would give it: where files lie is his own affair."""
    words = ["python", "-m", "benchmarks", "run", suite, "--out", out.name]
    words += [word for each in only for word in ("--only", each)]
    words += ["--rounds", str(rounds)] if rounds else []
    return shlex.join(words + ["--all"] * everything)


def run_entries(
    suite: str,
    out: Path,
    only: Sequence[str],
    rounds: int | None,
    everything: bool,
    work: Path,
    plan_only: bool,
    line: str,
    done: Collection[tuple[str, ...]],
) -> None:
    from benchmarks.machine import versions
    from benchmarks.plan import planned, with_rounds
    from benchmarks.setting import setting
    from benchmarks.stand import Stand

    plan = with_rounds(planned(suite, SUITES[suite].entries, only, everything), rounds)
    if not plan:
        raise click.UsageError(f"nothing in {suite} has {' and '.join(only)}" + ("" if everything else "; try --all"))
    for each in plan:
        names = ", ".join(contender.name for contender in each.contenders)
        what, minutes = f"{each.entry.case.name:14}{each.entry.stage:10}", each.seconds() / 60
        click.echo(f"{what}{minutes:6.1f} min  {each.entry.baseline} and {names}")
    total = sum(each.seconds() for each in plan) / 60
    click.echo(f"about {total:.0f} min on two cores with AMX, weights and exports that are not there yet apart")
    if plan_only:
        return
    if "accelerate" not in versions():
        click.echo("without accelerate diffusers holds its weights twice while it loads: pip install accelerate")
    common = setting(suite, work, line, rated=True)
    for name, rate in common.rates.items():
        click.echo(f"{name:14}{rate / 1e9:6.0f} {'GB/s' if name == 'bandwidth' else 'GFLOP/s'} on this machine")

    def all_rows() -> Iterator[rows.Row]:
        for each in plan:
            case, stage = each.entry.case.name, each.entry.stage
            measured = {name for *key, name in done if key == [suite, case, stage]}
            yield from Stand(common, each).rows(lambda name, measured=measured: name not in measured)  # type: ignore[misc]

    save(out, all_rows(), sum(len(each.contenders) for each in plan))


def save(out: Path, made: Iterator[rows.Row], total: int | None = None) -> None:
    """Append rows as they come, and say what they are."""
    out.parent.mkdir(parents=True, exist_ok=True)
    with tqdm(total=total, unit="contender", disable=None) as bar:
        for row in made:
            rows.append(out, row)
            if row.ratio != 1.0:
                bar.update()
                tqdm.write(one_line(row))


def one_line(row: rows.Row) -> str:
    name = f"{row.case:22} {row.stage:14} {row.contender:26}"
    if row.status != "measured":
        return f"{name} {row.status}: {row.reason}"
    if row.median_seconds is None:
        return f"{name} {(row.disk_bytes or 0) / 1e6:9.1f} MB"
    ratio = f"{row.ratio:6.2f}x" if row.ratio else ""
    memory = f"{row.peak_bytes / 1e9:6.2f} GB" if row.peak_bytes else ""
    return f"{name} {row.median_seconds:10.4f} s {ratio} {memory}"


@main.command()
@click.argument("runs", type=click.Path(exists=True, dir_okay=False, path_type=Path), metavar="RUNS.jsonl")
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), required=True, metavar="FOLDER")
def report(runs: Path, out: Path) -> None:
    """Write index.html, report.md and plots from the newest row of each contender in RUNS.jsonl.

    The page is one file and opens without a network.
    """
    from benchmarks.report import write

    click.echo(write(rows.newest(rows.read(runs)), out))
