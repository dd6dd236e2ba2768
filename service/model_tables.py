"""Models, promotions and trials as a terminal shows them."""

from collections.abc import Sequence

import msgspec
from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table

from contract.wire import (
    GateResult,
    ModelInfo,
    Models,
    ReplicaInfo,
    ScoreSummary,
    ShadowReport,
    TrialInfo,
    TrialReport,
)


def model(info: ModelInfo) -> RenderableType:
    """Return the versions of a model, what is done with each, and what every replica does."""
    parts: list[RenderableType] = [_versions(info)]
    if info.trial is not None and info.trial.version not in {version.version for version in info.versions}:
        parts.append(f"on trial: {info.trial.version}, which the store of this replica lacks")
    if info.problem:
        parts.append(f"[bold red]problem:[/] {escape(info.problem)}")
    if info.replicas:
        parts.append(_replicas(info.replicas))
    return Group(*parts)


def promotion(models: Models, name: str) -> RenderableType:
    """Return what the gate found, and the versions afterwards.

    Not the replicas: those that have not looked yet would be shown as they were before.
    """
    parts: list[RenderableType] = [] if models.gate is None else [_gate(models.gate)]
    after = [msgspec.structs.replace(info, replicas=[]) for info in models.models if info.name == name]
    return Group(*parts, *(model(info) for info in after), "`qin models` tells when every replica has followed")


def trial(report: TrialReport) -> RenderableType:
    """Return a trial and what its shadow saw."""
    parts: list[RenderableType] = [
        f"{escape(report.model)}: {report.active} is active, {report.trial.version} is {_how(report.trial)}"
    ]
    if report.shadow is not None:
        parts.append(_shadow(report.shadow))
    return Group(*parts, _replicas(report.replicas))


def _versions(info: ModelInfo) -> Table:
    table = _table(f"{info.name} on {info.provider}", "version", "AUC", "log loss", "precision", "")
    for version in info.versions:
        roles = [
            role
            for role, name in (("active", info.active), ("serves", info.serving), ("previous", info.previous))
            if name == version.version
        ]
        if info.trial is not None and info.trial.version == version.version:
            roles.append("shadow" if info.trial.shadow else f"canary {info.trial.canary or 0:.2%}")
        measures = _number(version.auc, 4), _number(version.log_loss, 4)
        table.add_row(version.version, *measures, version.precision, ", ".join(roles))
    return table


def _how(trial: TrialInfo) -> str:
    return "on trial in the shadow" if trial.shadow else f"on trial for {trial.canary or 0:.2%} of the users"


def _replicas(replicas: Sequence[ReplicaInfo]) -> RenderableType:
    table = _table("replicas", "serves", "replica", "state", "tries", "said")
    for replica in replicas:
        style = {"failed": "red", "loading": "yellow"}.get(replica.state, "")
        said, tries = f"{replica.age_s:.0f} s ago", "yes" if replica.trial else "-"
        table.add_row(replica.version, replica.id, replica.state, tries, said, style=style)
    problems = [f"{escape(replica.id)}: {escape(replica.problem)}" for replica in replicas if replica.problem]
    return Group(table, *problems)


def _gate(gate: GateResult) -> RenderableType:
    verdict = "passed" if gate.passed else "forced" if gate.forced else "held back"
    lines = [
        f"gate: {verdict}; AUC {_number(gate.auc, 4)} against {_number(gate.serving_auc, 4)}, "
        f"PSI {_number(gate.psi, 3)} of {gate.num_scores} scores in {gate.num_requests} recent requests"
    ]
    lines += [f"  against it: {escape(reason)}" for reason in gate.reasons]
    lines += [f"  passed over: {escape(reason)}" for reason in gate.passed_over]
    return "\n".join(lines)


def _shadow(seen: ShadowReport) -> RenderableType:
    if not seen.requests:
        return f"nothing compared yet; {seen.dropped} requests dropped, {seen.failed} failed"
    agreement = _table("agreement", "requests", "candidates", "dropped", "failed", "same first", "top 10 shared")
    agreement.add_row(
        *(str(number) for number in (seen.requests, seen.candidates, seen.dropped, seen.failed)),
        f"{seen.same_top_1:.1%}",
        f"{seen.top_10_overlap:.1%}",
    )
    difference = _table("difference of scores", "mean", "largest", "correlation")
    difference.add_row(
        _number(seen.mean_difference, 5), _number(seen.max_difference, 5), _number(seen.correlation, 4)
    )
    return Group(agreement, difference, _scores(seen))


def _scores(seen: ShadowReport) -> Table:
    names = list(seen.serving.quantiles)
    table = _table(f"scores, and times of {seen.num_timed} requests", "", "mean", *names, "ms")

    def row(name: str, summary: ScoreSummary, time_ms: float | None) -> None:
        quantiles = (_number(summary.quantiles.get(name), 4) for name in names)
        table.add_row(name, _number(summary.mean, 4), *quantiles, _number(time_ms, 2))

    row("serving", seen.serving, seen.serving_ms)
    row("on trial", seen.trial, seen.trial_ms)
    return table


def _table(title: str, first: str, *columns: str) -> Table:
    """Return a table whose first column is always whole: names are there to be copied."""
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
    table.add_column(first, no_wrap=True)
    for column in columns:
        table.add_column(column, overflow="fold")
    return table


def _number(value: float | None, num_digits: int) -> str:
    return "-" if value is None else f"{value:.{num_digits}f}"
