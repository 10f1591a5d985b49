"""Plans in words and as documents: what `explain` prints, and what the database keeps.

The text is for somebody who has never seen the project: what each device could give, what it got,
when it should finish, who was left out and why, and what other choices would have cost.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from deadheat.runtime.programs import Gemm, Sum
from deadheat.runtime.units import format_bytes, format_flops, format_seconds
from deadheat.scheduler.planner.plan import Alternative, LeftOut, Plan, Reason, Step
from deadheat.scheduler.planner.pool import joined

#: Lines of devices in a text; a document has more, but not without end either.
TEXT_DEVICES: Final = 40
DOCUMENT_DEVICES: Final = 1000


def plan_document(plan: Plan) -> Mapping[str, object]:
    found: dict[str, object] = {
        "makespan_s": plan.makespan_s,
        "pool_flops": plan.pool_flops,
        "bytes_lower_bound": plan.bytes_lower_bound,
        "steps": [_step_document(step) for step in plan.steps],
        "order": None,
    }
    if plan.order:
        found["order"] = {
            "text": plan.order.text,
            "makespan_s": plan.order.makespan_s,
            "alternatives": _alternatives(plan.order.alternatives),
        }
    return found


def _alternatives(found: tuple[Alternative, ...]) -> list[dict[str, Any]]:
    return [{"name": other.name, "makespan_s": other.makespan_s} for other in found]


def _step_document(step: Step) -> dict[str, object]:
    return {
        "operation": step.operation,
        "rectangle": str(step.rectangle),
        "cut": step.cut,
        "note": step.note,
        "makespan_s": step.makespan_s,
        "bytes": int(step.bytes_in.sum() + step.bytes_out.sum()),
        "bytes_lower_bound": step.bytes_lower_bound,
        "devices": [
            {name: getattr(reason, name) for name in Reason.__slots__}
            for reason in step.reasons(DOCUMENT_DEVICES)
        ],
        "devices_count": len(step.used),
        "left_out": [
            {"device": out.device, "reason": out.reason} for out in step.left_out(DOCUMENT_DEVICES)
        ],
        "left_out_count": step.left_out_count,
        "alternatives": _alternatives(step.alternatives),
        "speed_up": [
            {"devices": p.devices, "makespan_s": p.makespan_s, "speed_up": p.speed_up}
            for p in step.curve
        ],
        "knee": step.knee,
    }


def plan_text(plan: Plan) -> str:
    parts = []
    if plan.order:
        takes = f"predicted to take {format_seconds(plan.order.makespan_s)}"
        lines = [f"{plan.order.text}; {takes}", *_parts_text(plan)]
        lines += [_instead(other, plan.order.makespan_s) for other in plan.order.alternatives]
        parts.append("\n".join(lines))
    parts += [_step_text(step) for step in plan.steps]
    return "\n\n".join(parts)


def _parts_text(plan: Plan) -> list[str]:
    """What a rewritten program is made of, where that is meant for some devices only."""
    if not plan.program or not plan.groups:
        return []
    lines = []
    for number, operation in enumerate(plan.program.operations[:TEXT_DEVICES]):
        kind = operation.kind
        sign = " + " if isinstance(kind, Sum) else " @ "
        what = f"{operation.result} = {sign.join(operation.operands)}"
        if isinstance(kind, Gemm) and kind.inner:
            start, stop = kind.inner
            what += f" over {start}:{stop} of the inner dimension"
        group = plan.groups.get(number)
        who = f"by {joined(sorted(group))}" if group else "by all devices"
        lines.append(f"  {what}, {who}")
    return lines


_CUTS: Final = {
    "rows": "cut into strips of rows",
    "columns": "cut into columns of rectangles",
    "pieces": "given out together with other pieces that were left over",
    "round": "given out as far as the memories hold it now; the rest follows when they are free",
    "epoch": "an epoch, given to one device: its steps follow one another, each with all weights",
    "shared epoch": "an epoch, shared: of each batch's rows each device takes its part, and all "
    "move the weights by the sum of their gradients",
    "equal": "cut equally (a baseline)",
    "peak": "cut by peak speed (a baseline)",
    "one-minus-utilization": "cut by speed times 1 - utilization (a baseline)",
}


def _step_text(step: Step) -> str:
    r = step.rectangle
    how = _CUTS.get(step.cut, step.cut)
    if step.cut == "rows" and len(step.used) == 1:
        how = "given to one device"
        if len(step.pool) > 1:
            how += ", since strips of rows for several would not be faster"
    what = f"{r.rows} x {r.columns} elements of operation {step.operation}"
    if r.row_start or r.column_start:
        what += f" ({_where(r.row_start, r.row_stop, r.column_start, r.column_stop)})"
    lines = [f"{what}, {how}; predicted to take {format_seconds(step.makespan_s)}"]
    if step.note:
        lines.append(f"  {step.note}")
    reasons = step.reasons(TEXT_DEVICES)
    width = max((len(reason.device) for reason in reasons), default=0)
    lines += [_reason_text(step, entry, reason, width) for entry, reason in enumerate(reasons)]
    if len(step.used) > len(reasons):
        lines.append(f"  and {len(step.used) - len(reasons)} devices more")
    lines += _left_out_text(step, width)
    moved = int(step.bytes_in.sum() + step.bytes_out.sum())
    if moved:
        lines.append(
            f"  {format_bytes(moved)} travel between hosts; whatever the shape, such shares need "
            f"at least {format_bytes(step.bytes_lower_bound)}"
        )
    if len(step.pool) > 1:
        lines += [_instead(other, step.makespan_s) for other in step.alternatives]
    if len(step.curve) > 1:
        lines.append(_curve_text(step))
    return "\n".join(lines)


def _where(row_start: int, row_stop: int, column_start: int, column_stop: int) -> str:
    return f"rows {row_start}:{row_stop}, columns {column_start}:{column_stop}"


def _reason_text(step: Step, entry: int, reason: Reason, width: int) -> str:
    row_start, row_stop, column_start, column_stop = step.bounds[entry].tolist()
    moved = int(step.bytes_in[entry] + step.bytes_out[entry])
    where = f"rows {row_start}:{row_stop}"
    if column_stop - column_start < step.rectangle.columns:
        where = _where(row_start, row_stop, column_start, column_stop)
    speed = format_flops(reason.speed_flops)
    text = (
        f"  {reason.device:<{width}}  gets {reason.share:6.1%} ({where}): {speed} when idle, "
        f"{reason.availability:.0%} of it free"
    )
    if reason.ready_s > 0:
        text += f", busy with earlier work for {format_seconds(reason.ready_s)}"
    if moved:
        text += f", moves {format_bytes(moved)} in {format_seconds(reason.transfer_s)}"
    return (
        text + f", computes {format_seconds(reason.compute_s)}, "
        f"finishes at {format_seconds(reason.finish_s)}"
    )


def _left_out_text(step: Step, width: int) -> list[str]:
    outs: list[LeftOut] = step.left_out(TEXT_DEVICES)
    lines = [f"  {out.device:<{width}}  left out: {out.reason}" for out in outs]
    if step.left_out_count > len(outs):
        lines.append(f"  and {step.left_out_count - len(outs)} devices more are left out")
    return lines


def _instead(other: Alternative, chosen_s: float) -> str:
    if other.makespan_s is None:
        return f"  instead, {other.name}: impossible, it does not fit into memory"
    text = f"  instead, {other.name}: {format_seconds(other.makespan_s)}"
    times = other.makespan_s / chosen_s if chosen_s > 0 else 1.0
    return f"{text}, {times:.1f} times as long" if times >= 1.05 else f"{text}, about as long"


def _curve_text(step: Step) -> str:
    shown = [point for point in step.curve if point.devices in {1, 2, 4, 8, 16, 64, step.knee}]
    if step.curve[-1] not in shown:
        shown.append(step.curve[-1])
    points = ", ".join(f"{point.speed_up:.2f} with {point.devices}" for point in shown)
    text = f"  speed-up over the fastest device alone, as predicted: {points}"
    if step.knee < step.curve[-1].devices:
        text += f"; after {step.knee}, one more device costs more than it brings"
    return text
