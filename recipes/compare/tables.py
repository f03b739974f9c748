"""The tables of a comparison: on the terminal and in ``comparison.md``."""

from typing import Any

from rich.console import Console
from rich.measure import Measurement
from rich.table import Table

NOTHING = "–"
WIDEST = 1000


def columns(result: dict[str, Any]) -> list[str]:
    """The table's headings."""
    total = ["state of all processes, MB"] if _is_sharded(result) else []
    memory = ["state, elements", "state, MB", *total, "gradients, MB", "parameters, MB", "peak, MB"]
    return ["optimizer", "lr", *memory, "s/step", *result["quality"], "runs"]


def _is_sharded(result: dict[str, Any]) -> bool:
    """Whether a process held a part of an optimizer's state."""
    return any(row["total_state"] not in (None, row["optimizer_state"]) for row in result["optimizers"])


def rows(result: dict[str, Any]) -> list[list[str]]:
    """The table's rows, one for each optimizer in the order given."""
    sharded = _is_sharded(result)
    return [_row(result, row, sharded) for row in result["optimizers"]]


def _row(result: dict[str, Any], row: dict[str, Any], sharded: bool) -> list[str]:
    counted = [run for run in row["runs"] if run["finished"] and run["lr"] == row["lr"]]
    state = row["optimizer_state"]
    return [
        row["name"],
        rate(row["lr"]) if counted else NOTHING,
        f"{state['elements']:,}" if state else NOTHING,
        _megabytes(state),
        *([_megabytes(row["total_state"])] if sharded else []),
        _megabytes(row["gradient_memory"]),
        _megabytes(row["parameter_memory"]),
        NOTHING if row["peak_memory_mb"] is None else f"{row['peak_memory_mb']:,.0f}",
        NOTHING if row["seconds_per_step"] is None else f"{row['seconds_per_step']:.3g}",
        *(quality(name, row["metrics"].get(name), len(counted)) for name in result["quality"]),
        _runs(result, row, len(counted)),
    ]


def _runs(result: dict[str, Any], row: dict[str, Any], finished: int) -> str:
    wanted = len(result["seeds"])
    if finished == wanted:
        return str(finished)
    return f"{finished} of {wanted}" if finished else "failed"


def failures(result: dict[str, Any]) -> list[str]:
    """A sentence for each run that did not finish."""
    found = []
    for row in result["optimizers"]:
        found += [f"{row['name']}, timing run did not finish: {reason}" for reason in row["failed_timing"]]
        found += [
            f"{row['name']}, lr {rate(run['lr'])}, seed {run['seed']} did not finish: {run['reason']}"
            for run in row["runs"]
            if not run["finished"]
        ]
    return found


def rate(value: float | None) -> str:
    """A learning rate; ``own`` if the optimizer computes it."""
    return "own" if value is None else f"{value:g}"


def quality(name: str, values: dict[str, Any] | None, finished: int) -> str:
    """The median, and the lowest and highest value of several; how many runs have a finite one, if not all have."""
    if values is None:
        return NOTHING
    shown = number(name, values["median"])
    if values["n"] > 1:
        shown = f"{shown} ({number(name, values['min'])} to {number(name, values['max'])})"
    return shown if values["n"] == finished else f"{shown}, {values['n']} of {finished} finite"


def number(name: str, value: float | None) -> str:
    """A value of a metric."""
    return NOTHING if value is None else format(value, ".2f" if "perplexity" in name else ".4f")


def _megabytes(size: dict[str, Any] | None) -> str:
    if not size:
        return NOTHING
    value = size["megabytes"]
    return f"{value:,.2f}" if value >= 0.1 or not value else f"{value:.2g}"


def print_table(result: dict[str, Any], console: Console) -> None:
    """Prints the comparison: a row for each optimizer, or a column if rows do not fit on the screen."""
    headings, lines = columns(result), rows(result)
    title = f"{result['recipe']}: {len(lines)} optimizers"
    table = _printed(title, headings, lines)
    needed = Measurement.get(console, console.options.update(max_width=WIDEST), table).maximum
    if not console.is_terminal:
        console = Console(file=console.file, width=max(needed, console.width))
    elif needed > console.width:
        first, *others = zip(headings, *lines, strict=True)
        table = _printed(title, list(first), [list(line) for line in others], whole=False)
    console.print(table)
    for sentence in [*failures(result), *result["remarks"]]:
        console.print(f"• {sentence}", highlight=False, markup=False, soft_wrap=not console.is_terminal)


def _printed(title: str, headings: list[str], lines: list[list[str]], whole: bool = True) -> Table:
    table = Table(title=title, title_justify="left")
    for place, heading in enumerate(headings):
        table.add_column(heading, justify="right" if place else "left", no_wrap=whole, overflow="fold")
    for line in lines:
        table.add_row(*line)
    return table


def markdown(result: dict[str, Any]) -> str:
    """The content of ``comparison.md``."""
    names = ", ".join(row["name"] for row in result["optimizers"])
    parts = [
        f"# {result['recipe']}: {names}",
        f"```\n{result['command']}\n```",
        _table(columns(result), _rows_with_reasons(result)),
        "![Quality against memory and time, and loss against time](comparison.png)",
        "\n".join(f"- {_escaped(sentence)}" for sentence in result["remarks"]),
        _legend(result),
    ]
    if result["swept"]:
        parts += ["## Learning rates tried", _sweeps(result)]
    if result["pairs"]:
        parts += [
            f"## Differences in {result['main_quality']}",
            _pairs(result),
            "Student's paired t-test over the seeds that both have finished; p-values are adjusted over all pairs "
            "(Holm), intervals are not. The test assumes normally distributed differences, which so few seeds cannot "
            "verify.",
        ]
    parts += ["## Runs", _all_runs(result), "## Environment", _environment(result)]
    return "\n\n".join(parts) + "\n"


def _rows_with_reasons(result: dict[str, Any]) -> list[list[str]]:
    found = []
    for row, cells in zip(result["optimizers"], rows(result), strict=True):
        reason = next(filter(None, [*(run["reason"] for run in row["runs"]), *row["failed_timing"]]), "")
        if cells[-1] == "failed" and reason:
            cells[-1] = f"failed: {reason}"
        found.append(cells)
    return found


def _legend(result: dict[str, Any]) -> str:
    adamw = next((row["adamw_state"] for row in result["optimizers"] if row["adamw_state"]), None)
    first = "They and the peak are those of the first process. " if _is_sharded(result) else ""
    would = f" AdamW's state for this model: {adamw['elements']:,} elements, {_megabytes(adamw)} MB." if adamw else ""
    return (
        "State, gradients and parameters are counted from the tensors, after the last step; MB are MiB. "
        f"{first}Peak: {result['peak_memory_is']}, the maximum over the runs. s/step: wall time of a training step, "
        f"the median of each run, then over the runs. Quality: median over the seeds, lowest and highest in "
        f"brackets.{would}"
    )


def _sweeps(result: dict[str, Any]) -> str:
    monitor = (result["monitor"] or {}).get("name", "validation")
    lines = []
    for row in result["optimizers"]:
        for tried in row["sweep"] or []:
            remark = "chosen" if tried["chosen"] else tried["reason"]
            lines.append([row["name"], rate(tried["lr"]), number(monitor, tried["value"]), remark])
    return _table(["optimizer", "lr", monitor, ""], lines)


def _all_runs(result: dict[str, Any]) -> str:
    lines = []
    for row in result["optimizers"]:
        for run in row["runs"]:
            shown = [number(name, run["metrics"].get(name)) for name in result["quality"]]
            seconds = NOTHING if run["wall_seconds"] is None else f"{run['wall_seconds']:.0f}"
            load = NOTHING if run["other_cores"] is None else f"{run['other_cores']:.2f}"
            steps = NOTHING if run["steps"] is None else str(run["steps"])
            how = "stopped" if run["hopeless"] else "failed"
            outcome = "finished" if run["finished"] else f"{how}: {run['reason']}"
            lines.append([row["name"], rate(run["lr"]), str(run["seed"]), steps, *shown, seconds, load, outcome])
    headings = ["optimizer", "lr", "seed", "steps", *result["quality"], "total seconds", "other load, cores", "outcome"]
    return _table(headings, lines)


def _pairs(result: dict[str, Any]) -> str:
    """The paired tests, the smallest p-value first."""
    lines = [
        [
            pair["better"],
            pair["worse"],
            f"{pair['difference']:.4g}",
            f"{pair['interval'][0]:.3g} to {pair['interval'][1]:.3g}",
            str(len(pair["seeds"])),
            f"{pair['p']:.3g}",
            f"{pair['p_adjusted']:.3g}",
        ]
        for pair in sorted(result["pairs"], key=lambda pair: pair["p"])
    ]
    return _table(["better", "worse", "difference of means", "95 % interval", "seeds", "p", "p, adjusted"], lines)


def _environment(result: dict[str, Any]) -> str:
    machine, versions = result["machine"], result["versions"]
    lines = [f"- device: {_one(result['device'])}"]
    memory = f", {machine['memory_gb']} GiB" if machine["memory_gb"] else ""
    lines.append(f"- machine: {machine['processors']} CPUs{memory}, {machine['system']}")
    for known in versions if isinstance(versions, list) else [versions or {}]:
        lines.append(f"- versions: {', '.join(f'{name} {version}' for name, version in known.items() if version)}")
    if result["git_commit"]:
        lines.append(f"- commit: {_one(result['git_commit'])}")
    lines += [f"- {row['name']}: `{row['class']}`" for row in result["optimizers"]]
    return "\n".join(lines)


def _one(value: Any) -> str:
    return ", ".join(str(part) for part in value) if isinstance(value, list) else str(value)


def _table(headings: list[str], lines: list[list[str]]) -> str:
    align = [":--" if place == 0 else "--:" for place in range(len(headings))]
    return "\n".join("| " + " | ".join(map(_escaped, cells)) + " |" for cells in [headings, align, *lines])


def _escaped(text: str) -> str:
    return " ".join(text.replace("|", "\\|").split())
