"""The report of `launch.reproduce`, and the lines beside it from which all of it is computed.

`results.jsonl` has a line for each run, with the experiments that look at it and what each seed
came to in each evaluation. `calls.jsonl` has one for each call of the command that a run in the
report is from. What is read from there and what newer calls add make one report.
"""

import collections
import datetime
import json
import pathlib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.figure import Figure

from launch.common import run_pool, yardstick
from launch.common.yardstick import Curve
from launch.paper import claims
from launch.paper.experiments import Claim, Experiment, Run, Scale, distinct_runs
from launch.search_settings.chosen import SEARCHED, chosen
from llmprior_jax.files import replaced, write_atomically
from llmprior_jax.training import provenance, summary
from llmprior_jax.training.config import step_unit

FILE = "report.md"
_RESULTS, _CALLS = "results.jsonl", "calls.jsonl"
# The modes of evaluation, by what stands before the names of their metrics.
_MODES = {"sample": "", "greedy": "greedy_", "candidates": "candidates_"}
_METRICS = tuple(
    prefix + metric
    for prefix in _MODES.values()
    for metric in ("success_rate", "return", "unseen_success_rate")
)
_OF_A_RESULT = ("name", "evaluations")
_OF_A_CALL = (
    *("written", "command", "minutes", "commits", "devices", "python", "versions", "sizes"),
    *("runs", "finished"),
)
_ALL_DEFAULT = "No agent has other settings than the default."
Records = Sequence[Mapping[str, Any]]


class Evidence(NamedTuple):
    """What is known of runs.

    Attributes:
      records: by a run's name its evaluations: the step, and for each metric a number per seed.
      calls: of the command, in order: `runs`, the names of those that are from it, `finished`,
        how many it had, and what the report says of all these (`written`, `command`, `minutes`,
        `commits`, `devices`, `python`, `versions`, `sizes`).
    """

    records: Mapping[str, Records]
    calls: Sequence[Mapping[str, Any]]

    def add(self, records: Mapping[str, Records], call: Mapping[str, Any]) -> "Evidence":
        """This, and runs from one more call; those that were known are from the new one now.

        Args:
          records: as `read_metrics` gives them.
          call: as `describe_call` gives it; `runs` and `finished` are added.
        """
        if not records:
            return self
        calls = list(self.only(self.records.keys() - records.keys()).calls)
        calls.append({**call, "runs": list(records), "finished": len(records)})
        evaluations = {name: _evaluations(of_run) for name, of_run in records.items()}
        return Evidence({**self.records, **evaluations}, calls)

    def only(self, names: Collection[str]) -> "Evidence":
        """What is known of some of the runs."""
        calls = []
        for call in self.calls:
            left = [name for name in call["runs"] if name in names]
            calls += [{**call, "runs": left}] if left else []
        return Evidence({name: self.records[name] for name in self.records if name in names}, calls)


def describe_call(scale: Scale, workdir: pathlib.Path, finished: Collection[str]) -> dict[str, Any]:
    """What a report says of this call of the command, to which it owes some runs.

    Args:
      scale: the sizes of the experiments.
      workdir: directory of the runs.
      finished: names of the runs that the report owes to it.

    Returns:
      `written`, `command`, `minutes`, `commits`, `devices`, `python`, `versions`, `sizes`.
    """
    here = provenance.describe()
    commits = dict.fromkeys(
        line["commit"]
        for name in finished
        for line in _lines(workdir / name / provenance.FILE, ["commit"])
    )
    times = _lines(workdir / run_pool.SECONDS_FILE, ["name", "seconds"])
    return {
        "written": str(datetime.date.today()),
        "command": here["command"],
        "minutes": round(sum(each["seconds"] for each in times if each["name"] in finished) / 60),
        "commits": list(commits),
        **{name: here[name] for name in ("devices", "python", "versions")},
        "sizes": str(scale),
    }


def read(out: pathlib.Path) -> Evidence:
    """What the report in a directory is made of; nothing where there is none.

    Raises:
      ValueError: a file is damaged.
    """
    records = {line["name"]: line["evaluations"] for line in _lines(out / _RESULTS, _OF_A_RESULT)}
    calls = [
        {field: call[field] for field in _OF_A_CALL} for call in _lines(out / _CALLS, _OF_A_CALL)
    ]
    return Evidence(records, calls)


def write(out: pathlib.Path, planned: Mapping[str, Experiment], evidence: Evidence) -> int:
    """Writes the report on the experiments of which two runs or more are known.

    Args:
      out: directory of the report.
      planned: all experiments by name.
      evidence: what is known of their runs.

    Returns:
      How many experiments are in it.

    Raises:
      ValueError: there is none.
    """
    known = _with_known_runs(planned, evidence.records)
    if not known:
        raise ValueError(
            "no two runs of an experiment are finished; leave --notrain out, and see that --workdir"
            " is the directory of the runs"
        )
    evidence = evidence.only(distinct_runs(known))
    out.mkdir(parents=True, exist_ok=True)
    for file, lines in ((_RESULTS, _results(known, evidence.records)), (_CALLS, evidence.calls)):
        write_atomically(out / file, "".join(_as_line(line) for line in lines))
    sections = [
        _section(name, experiment, planned[name], evidence.records, out)
        for name, experiment in known.items()
    ]
    head = _head(evidence, known, len(distinct_runs(planned)))
    write_atomically(out / FILE, "\n\n".join([head, *sections]) + "\n")
    return len(known)


def _as_line(fields: Mapping[str, Any]) -> str:
    """JSON without spaces: most of a results file are short numbers."""
    return json.dumps(fields, separators=(",", ":")) + "\n"


def _evaluations(records: Records) -> Records:
    """What the report says of a run, as the lines have it."""

    def rounded(record: Mapping[str, Any]) -> dict[str, list[float]]:
        metrics = [name for name in _METRICS if name in record]
        return {name: [round(value, 6) for value in record[name]] for name in metrics}

    evaluations = [record for record in records if "success_rate" in record]
    return [{"step": record["step"], **rounded(record)} for record in evaluations]


def _lines(path: pathlib.Path, fields: Collection[str]) -> Iterator[dict[str, Any]]:
    """The lines of a file, none if it is not there.

    Raises:
      ValueError: a line is no JSON object, lacks one of the fields, or has evaluations of more or
        fewer seeds than others. It names the line.
    """
    if not path.exists():
        return
    for number, text in enumerate(path.read_bytes().splitlines(), start=1):
        try:
            line = json.loads(text)
            if not isinstance(line, dict):
                raise ValueError("no JSON object")
            if missing := [name for name in fields if name not in line]:
                raise ValueError(f"there is no field {missing[0]}")
            if "evaluations" in line:
                _check_evaluations(line["evaluations"])
        except (RecursionError, TypeError, ValueError) as error:
            raise ValueError(
                f"{path}, line {number} is damaged: {error}; remove the line, or write elsewhere"
            ) from error
        yield line


def _check_evaluations(evaluations: Records) -> None:
    """Raises a TypeError or a ValueError unless each has a step, and successes of all seeds."""
    if not all({"step", "success_rate"} <= set(each) for each in evaluations):
        raise ValueError("an evaluation has no step or no success_rate")
    counts = {len(each[name]) for each in evaluations for name in _METRICS if name in each}
    if len(counts) != 1:
        raise ValueError("its evaluations are not all of the same seeds")


def _results(
    experiments: Mapping[str, Experiment], records: Mapping[str, Records]
) -> Iterator[dict[str, Any]]:
    """A line for each run: the curves of all seeds, so that every number can be computed again."""
    labels: dict[str, dict[str, str]] = collections.defaultdict(dict)
    for title, experiment in experiments.items():
        for run in experiment.runs:
            labels[run.name][title] = run.label
    for name, run in distinct_runs(experiments).items():
        yield {
            "experiments": labels[name],
            "name": name,
            "agent": run.config.agents[0],
            **({} if run.amount is None else {"amount": run.amount}),
            "evaluations": records[name],
        }


def _with_known_runs(
    planned: Mapping[str, Experiment], records: Mapping[str, Records]
) -> dict[str, Experiment]:
    """The experiments with those of their runs that are known, and the claims about them."""
    known = {}
    for name, experiment in planned.items():
        runs = tuple(run for run in experiment.runs if run.name in records)
        labels = {run.label for run in runs}
        checked = tuple(
            claim for claim in experiment.claims if {claim.method, claim.baseline} <= labels
        )
        if len(runs) > 1:  # One alone has nothing beside it.
            known[name] = experiment._replace(runs=runs, claims=checked)
    return known


def _section(
    name: str,
    experiment: Experiment,
    planned: Experiment,
    records: Mapping[str, Records],
    out: pathlib.Path,
) -> str:
    """The part of the report on one experiment, as far as its runs are known; draws its figure."""
    curves = _curves(experiment, records)
    unknown = dict.fromkeys(run.label for run in planned.runs if run.name not in records)
    _draw(curves, experiment, out / f"{name}.png")
    return "\n\n".join(
        [
            f"## {experiment.title}",
            experiment.question,
            f"![{experiment.title}]({name}.png)",
            _table(experiment, records),
            *([f"**Not finished yet:** {'; '.join(unknown)}."] if unknown else []),
            *(_verdicts(claim, experiment, records) for claim in experiment.claims),
            *([f"**Tried before.** {experiment.tried}"] if experiment.tried else []),
        ]
    )


def _curves(
    experiment: Experiment, records: Mapping[str, Records], mode: str = ""
) -> dict[str, Curve]:
    """By label, success against what was given: runs are points where their amounts differ.

    Args:
      experiment: the experiment.
      records: of its runs.
      mode: of evaluation, as it stands before the metrics' names. Of runs without it is no curve.
    """
    points: dict[str, list[tuple[int, Sequence[float]]]] = collections.defaultdict(list)
    metric = mode + experiment.success
    for run in experiment.runs:
        evaluations = records[run.name]
        if metric not in evaluations[-1]:
            continue
        if run.amount is None:
            points[run.label] += [(record["step"], record[metric]) for record in evaluations]
        else:
            points[run.label].append((run.amount, evaluations[-1][metric]))
    return {
        label: Curve(*map(np.array, zip(*of_label, strict=True)))
        for label, of_label in points.items()
    }


def _draw(curves: Mapping[str, Curve], experiment: Experiment, path: pathlib.Path) -> None:
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    colors: dict[str, str] = {}
    for label, (amounts, success) in curves.items():
        # What learns with a prior and that prior alone belong together.
        color = colors.setdefault(label.removesuffix(" alone"), f"C{len(colors)}")
        means = [summary.interquartile_mean(row) for row in success]
        if len(amounts) == 1:
            axes.axhline(means[0], color=color, linestyle="--", label=label)
            continue
        low, high = np.array([summary.interval(row) for row in success]).T
        axes.plot(amounts, means, color=color, label=label)
        axes.fill_between(amounts, low, high, color=color, alpha=0.2, linewidth=0)
    axes.set(
        xlabel=experiment.scarce, ylabel="success rate, interquartile mean", ylim=(-0.02, 1.02)
    )
    given = sorted({run.amount for run in experiment.runs if run.amount is not None})
    if given:
        # Where 0 is among them, it has a place.
        axes.set(**({"xscale": "log"} if given[0] else {"xscale": "symlog", "xlim": (0, None)}))
        axes.set_xticks(given, [f"{amount:,}" for amount in given])
        axes.minorticks_off()
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small")
    with replaced(path) as temporary:
        figure.savefig(temporary, dpi=110, format="png")


def _table(experiment: Experiment, records: Mapping[str, Records]) -> str:
    """Final results of every run, as Markdown."""
    lasts = [records[run.name][-1] for run in experiment.runs]
    unseen = any("unseen_success_rate" in last for last in lasts)
    further = [mode for mode in _MODES if mode != "sample" and any(map(_has(mode), lasts))]

    def row(run: Run) -> dict[str, str]:
        modes = [mode for mode in _MODES if _has(mode)(records[run.name][-1])]
        statistics = summary.summarize(records[run.name], step_unit(run.config), modes)
        of_others = statistics.get("other_modes", {})
        of_modes = {}
        for mode in further:
            of_modes[mode] = _interval(of_others.get(mode, {}).get("success_rate"))
            of_modes[f"{mode}, seeds at {summary.SOLVED}"] = _solved(records[run.name][-1], mode)
        amount, steps = {}, {"steps to 90% success": _steps(statistics["steps_to_90"])}
        if run.amount is not None:
            amount, steps = {experiment.scarce: f"{run.amount:,}"}, {}
        of_unseen = {"unseen tasks": _interval(statistics.get("unseen_success_rate"))}
        return {
            "run": run.label,
            **amount,
            "seeds": str(run.config.num_seeds),
            "success rate": _interval(statistics["success_rate"]),
            **of_modes,
            **(of_unseen if unseen else {}),
            "return": _interval(statistics["return"]),
            **steps,
        }

    rows = [row(run) for run in experiment.runs]
    lines = [rows[0].keys(), ["---"] * len(rows[0]), *(each.values() for each in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _has(mode: str) -> Callable[[Mapping[str, Any]], bool]:
    """Says of an evaluation whether it has a mode."""
    return lambda evaluation: f"{_MODES[mode]}success_rate" in evaluation


def _solved(evaluation: Mapping[str, Any], mode: str) -> str:
    """How many seeds succeed: means do not tell where each seed does always or never."""
    if not _has(mode)(evaluation):
        return ""
    success = np.array(evaluation[f"{_MODES[mode]}success_rate"])
    return f"{np.sum(success >= summary.SOLVED)} of {len(success)}"


def _interval(statistic: Mapping[str, Any] | None) -> str:
    if statistic is None:
        return ""
    low, high = statistic["ci95"]
    return f"{statistic['iqm']:.2f} [{low:.2f}, {high:.2f}]"


def _steps(statistic: Mapping[str, Any]) -> str:
    median, low, high = (
        "never" if steps is None else f"{steps:,.0f}"
        for steps in (statistic["median"], *statistic["quartiles"])
    )
    return median if median == "never" else f"{median} [{low}, {high}]"


def _verdicts(claim: Claim, experiment: Experiment, records: Mapping[str, Records]) -> str:
    """Says of a claim, for each way of evaluation and each success to reach, what was measured."""
    claimed = (
        f"**Claim: {claim.method} needs at most {claim.at_most:g} times the {experiment.scarce} of "
        f"{claim.baseline}.**"
    )
    columns = ("evaluation", "success to reach", claim.baseline, claim.method)
    lines = [
        f"| {' | '.join(columns)} | ratio [95% interval] | the claim is |",
        f"|{'---|' * (len(columns) + 2)}",
    ]
    # Of amounts, the curve ends with the most that was given.
    num_last = yardstick.NUM_LAST if experiment.runs[0].amount is None else 1
    for mode, prefix in _MODES.items():
        curves = _curves(experiment, records, prefix)
        if {claim.baseline, claim.method} <= curves.keys():
            pair = curves[claim.baseline], curves[claim.method]
            for level in claim.levels:
                cells = _compared(claim, *pair, level, num_last)
                lines.append(f"| {' | '.join((mode, *cells))} |")
    return "\n".join([claimed, "", *lines])


def _compared(
    claim: Claim, baseline: Curve, method: Curve, level: float | None, num_last: int
) -> tuple[str, ...]:
    """The cells of a claim at one level."""
    if not claims.goal(baseline, level, num_last) > 0:
        return f"where {claim.baseline} ends: 0", "", "", "", claims.NOT_DECIDED
    found = claims.compare(baseline, method, level, num_last)
    reached = f"{found.level:.2f}" + (f", where {claim.baseline} ends" if level is None else "")
    is_bound = np.isinf(found.baseline) and np.isfinite(found.ratio)
    ratio = f"{'at most ' if is_bound else ''}{_number(found.ratio, '.2f', 'no bound')}"
    return (
        reached,
        *(_number(need, ",.0f", "never") for need in (found.baseline, found.method)),
        f"{ratio} [{_number(found.low, '.2f', '∞')}, {_number(found.high, '.2f', '∞')}]",
        found.verdict(claim.at_most),
    )


def _number(value: float, form: str, infinite: str) -> str:
    return f"{value:{form}}" if np.isfinite(value) else infinite


def _head(evidence: Evidence, known: Mapping[str, Experiment], num_planned: int) -> str:
    def entry(call: Mapping[str, Any]) -> str:
        versions = ", ".join(f"{name} {version}" for name, version in call["versions"].items())
        return "\n".join(
            [
                f"- `{call['command']}`",
                f"  - written {call['written']}; {call['finished']} runs, of which "
                f"{len(call['runs'])} are in this report; they took {call['minutes']} minutes of "
                "processes, over all calls that trained them",
                f"  - commits of the runs: {', '.join(map(str, call['commits']))}",
                f"  - devices: {', '.join(call['devices'])}; Python {call['python']}; {versions}",
                f"  - sizes: {call['sizes']}",
            ]
        )

    settings = [
        f"- {agent}: {', '.join(f'{name} {value}' for name, value in found.items())}"
        for agent in SEARCHED
        if (found := chosen(agent))
    ]
    searched = {
        experiment.title: dict.fromkeys(run.label for run in experiment.runs if run.is_searched)
        for experiment in known.values()
    }
    where = [f"- {title}: {', '.join(labels)}" for title, labels in searched.items() if labels]
    told = [
        "These runs have the settings that `launch.search_settings` chose on other seeds for their",
        "agents, all others the default or what is said of them:",
        "",
        *where,
        "",
        *(["Chosen, where not the default:", "", *settings] if settings else [_ALL_DEFAULT]),
        "",
    ]
    return "\n".join(
        [
            "# What a prior is worth",
            "",
            "Interquartile means over seeds, with 95% bootstrap intervals of whole seeds; of",
            "steps, medians and quartiles. `results.jsonl` has the curve of every seed.",
            "",
            "A claim is borne out if its whole interval is, not borne out if none of it is, and",
            "otherwise not decided. The success to reach was fixed before the runs: 0.9, and where",
            f"the baseline ends, the mean of its last {yardstick.NUM_LAST} evaluations (of fewer",
            "than ten the second half; where amounts are varied, its success with the most). What",
            "never gets there needs more than it was given, nobody knows how much; intervals say",
            "so. A baseline that ends at 0 leaves nothing to reach there.",
            "",
            *(told if where else []),
            f"{len(evidence.records)} of {num_planned} runs are finished, by these calls:",
            "",
            *map(entry, evidence.calls),
        ]
    )
