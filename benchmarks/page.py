"""The tables of docs/performance.md, made of what is kept; the same input, the same bytes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from benchmarks import drawing
from benchmarks.keeping import Record, counted, is_measured
from benchmarks.versus import LOADS

PAGE = Path(__file__).parent.parent / "docs" / "performance.md"
BEGIN, END = "<!-- bench-full: begin -->", "<!-- bench-full: end -->"


def write(records: Sequence[Record], *, unmeasured: Sequence[str] = (), page: Path = PAGE) -> None:
    """Between the markers of the page, and beside it in `pictures`."""
    before, mark, rest = page.read_text().partition(BEGIN)
    assert mark, f"{page} has no {BEGIN}"
    _, _, after = rest.partition(END)
    made = [record for record in records if is_measured(record)]
    pictures = page.parent / "pictures"
    parts = [_stamp(made), _summary(made)] if made else ["Not measured yet."]
    for name, title in drawing.draw(made, pictures):
        parts.append(f"![{title}](pictures/{name})")
    parts += [part for part in (targets_table(made), peers_table(made)) if part]
    if information := others_table(made):
        heading = "<details><summary>Everything else that was measured</summary>"
        parts.append(f"{heading}\n\n{information}\n\n</details>")
    parts += _missing(records, unmeasured if made else ())
    body = "\n\n".join(parts)
    page.write_text(f"{before}{BEGIN}\n{body}\n{END}{after}")


def number(value: float, unit: str = "") -> str:
    """
    >>> number(0.95321), number(1234.5, "MiB"), number(0.001)
    ('0.953', '1234 MiB', '0.001')
    """
    text = f"{value:.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    return f"{text} {unit}".strip()


def _stamp(made: Sequence[Record]) -> str:
    lines = []
    for facts in {str(r["machine"]): r["machine"] for r in made}.values():
        cases = sum(r["machine"] == facts for r in made)
        lines.append(
            f"{facts['cpu']}, {facts['cores']} cores, {facts['memory_gib']:g} GiB; "
            f"{facts['blas']}, NumPy {facts['numpy']}, Python {facts['python']}, "
            f"{facts['kernel']}; {facts['date']} ({cases} cases)."
        )
    return "\n".join(lines)


def _summary(made: Sequence[Record]) -> str:
    missed, targets = counted(list(made))
    return f"**{targets - missed} of {targets} targets hold.** Medians, with the range in brackets."


def _spread(figure: Record) -> str:
    if figure["low"] is None or figure["low"] == figure["high"]:
        return ""
    return f" ({number(figure['low'])} to {number(figure['high'])})"


def targets_table(made: Sequence[Record]) -> str:
    rows = []
    for figure in (figure for record in made for figure in record["figures"]):
        if figure["target"] is None:
            continue
        sign = "at least" if figure["at_least"] else "at most"
        verdict = "holds" if figure["holds"] else "**MISSED**"
        unit = figure["unit"]
        measured = f"{number(figure['value'], unit)}{_spread(figure)}"
        target = f"{sign} {number(figure['target'], unit)}"
        rows.append(f"| {figure['case']} | {figure['name']} | {measured} | {target} | {verdict} |")
    head = "| case | figure | measured | target | |\n|---|---|---|---|---|"
    return "\n".join(["### Targets\n", head, *rows]) if rows else ""


def peers_table(made: Sequence[Record]) -> str:
    """Peers as rows, loads and sizes as columns."""
    order = list(LOADS)
    columns: set[tuple[int, int, str]] = set()
    rows: dict[str, dict[tuple[int, int, str], str]] = {}
    for record in made:
        given = record["given"]
        if record["module"] != "versus":
            continue
        column = (order.index(given["load"]), given["size"], given.get("dtype", "float64"))
        columns.add(column)
        first = record["figures"][0]
        name = first["name"].partition("'")[0]
        rows.setdefault(name, {})[column] = f"{number(first['value'])}{_spread(first)}"
    if not rows:
        return ""
    found = sorted(columns)
    heads = [
        f"{LOADS[order[load]]}, n = {size}" + ("" if kind == "float64" else f", {kind}")
        for load, size, kind in found
    ]
    lines = [f"| their time / ours | {' | '.join(heads)} |", "|---" * (len(heads) + 1) + "|"]
    for name, cells in rows.items():
        lines.append(f"| {name} | {' | '.join(cells.get(column, '') for column in found)} |")
    return "\n".join(["### Against others\n", *lines])


def others_table(made: Sequence[Record]) -> str:
    """Figures without a target, for information."""
    rows = [
        f"| {f['case']} | {f['name']} | {number(f['value'], f['unit'])}{_spread(f)} |"
        for record in made
        for f in record["figures"]
        if f["target"] is None
    ]
    return "\n".join(["| case | figure | measured |", "|---|---|---|", *rows]) if rows else ""


def _missing(records: Sequence[Record], unmeasured: Sequence[str]) -> list[str]:
    lines = [f"- `{r['name']}`: left out, {r['left_out']}" for r in records if "left_out" in r]
    lines += [f"- `{r['name']}`: failed, {r['failed']}" for r in records if "failed" in r]
    lines += [f"- `{name}`: not measured yet" for name in unmeasured]
    return ["### What is missing", "\n".join(lines)] if lines else []
