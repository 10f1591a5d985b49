"""Plans in words and as documents: what `explain` prints, and what the database keeps.

The text is for somebody who has never seen the project: what each device could give, what it got,
when it should finish, who was left out and why, and what other choices would have cost.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from deadheat.runtime.units import format_bytes, format_flops, format_seconds
from deadheat.scheduler.planner.plan import Alternative, LeftOut, Plan, Reason, Step

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
        lines = [f"{plan.order.text}, predicted {format_seconds(plan.order.makespan_s)}"]
        lines += [_instead(other) for other in plan.order.alternatives]
        parts.append("\n".join(lines))
    parts += [_step_text(step) for step in plan.steps]
    return "\n\n".join(parts)


_CUTS: Final = {
    "rows": "cut into strips of rows",
    "columns": "cut into columns of rectangles",
    "pieces": "carved together with other pieces",
    "equal": "cut equally (a baseline)",
    "peak": "cut by peak speed (a baseline)",
    "one-minus-utilization": "cut by speed times 1 - utilization (a baseline)",
}


def _step_text(step: Step) -> str:
    r = step.rectangle
    what = f"operation {step.operation}, {r.rows} x {r.columns} elements at {r}"
    how = f"{_CUTS.get(step.cut, step.cut)}; predicted {format_seconds(step.makespan_s)}"
    lines = [f"{what}, {how}"]
    reasons = step.reasons(TEXT_DEVICES)
    width = max((len(reason.device) for reason in reasons), default=0)
    lines += [_reason_text(step, entry, reason, width) for entry, reason in enumerate(reasons)]
    if len(step.used) > len(reasons):
        lines.append(f"  and {len(step.used) - len(reasons)} devices more")
    lines += _left_out_text(step, width)
    moved = int(step.bytes_in.sum() + step.bytes_out.sum())
    if moved:
        lines.append(
            f"  moves {format_bytes(moved)}; no cut into such shares moves less than "
            f"{format_bytes(step.bytes_lower_bound)}"
        )
    lines += [_instead(other) for other in step.alternatives]
    if len(step.curve) > 1:
        lines.append(_curve_text(step))
    return "\n".join(lines)


def _reason_text(step: Step, entry: int, reason: Reason, width: int) -> str:
    row_start, row_stop, column_start, column_stop = step.bounds[entry].tolist()
    moved = int(step.bytes_in[entry] + step.bytes_out[entry])
    where = f"[{row_start}:{row_stop}, {column_start}:{column_stop}]"
    speed = format_flops(reason.speed_flops)
    text = (
        f"  {reason.device:<{width}}  gets {reason.share:6.1%} {where}: {speed} when idle, "
        f"{reason.availability:.0%} of it free"
    )
    if reason.ready_s > 0:
        text += f", busy for {format_seconds(reason.ready_s)} first"
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


def _instead(other: Alternative) -> str:
    cost = "impossible (memory)" if other.makespan_s is None else format_seconds(other.makespan_s)
    return f"  instead, {other.name}: {cost}"


def _curve_text(step: Step) -> str:
    shown = [point for point in step.curve if point.devices in {1, 2, 4, 8, 16, 64, step.knee}]
    if step.curve[-1] not in shown:
        shown.append(step.curve[-1])
    points = ", ".join(f"{point.devices}: {point.speed_up:.2f}x" for point in shown)
    knee = f"the knee is at {step.knee}"
    return f"  predicted speed-up over the fastest device, by number of devices: {points}; {knee}"
