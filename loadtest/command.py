"""One load test from its options to its exit status."""

from redis import RedisError
from rich.console import Console

from contract.client import ClientError
from contract.mmctr import MmctrError
from loadtest import report as reports
from loadtest.bench import Bench
from loadtest.errors import LoadTestError, WrongCallError
from loadtest.options import Options
from loadtest.report import Report
from loadtest.scenarios import SCENARIOS
from loadtest.server import read_metrics

HELD, BROKEN = 0, 1


def measure(options: Options, console: Console) -> Report:
    """Run a scenario.

    Raises
    ------
    WrongCallError
        There is no such scenario, or an option makes no sense.
    LoadTestError
        The service does not rank or refused what a scenario needs, a file cannot be read, or a generator ended.
    """
    scenario = SCENARIOS.get(options.scenario)
    if scenario is None:
        raise WrongCallError(f"there is no scenario {options.scenario!r}; there are {', '.join(SCENARIOS)}")
    try:
        bench = Bench(options)
        with console.status(f"{scenario.name}: {scenario.about} ..."):
            outcome = scenario.run(bench)
    except (ClientError, MmctrError, RedisError) as error:
        raise LoadTestError(str(error)) from error
    after = read_metrics(options.url, options.key)
    return Report(
        options,
        outcome,
        bench.slo.checks(outcome.judged.summary),
        bench.tried.version,
        after.stages_since(bench.before),
        after.mean_rank_ms_since(bench.before),
    )


def run(options: Options, out: Console, progress: Console) -> int:
    """Run a scenario, print its tables and write its report; return the process's exit status."""
    report = measure(options, progress)
    for table in reports.tables(report):
        out.print(table)
    for remark in report.remarks:
        out.print(f"note: {remark}", highlight=False, markup=False)
    if options.report is not None:
        out.print(f"report in {reports.write(report, options.report)}", highlight=False, markup=False)
    return HELD if report.held else BROKEN
