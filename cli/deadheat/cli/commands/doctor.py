"""`deadheat doctor`: what could be wrong on this machine, in words."""

from __future__ import annotations

import click

from deadheat.cli.options import json_option, print_json, scheduler_option


@click.command()
@scheduler_option
@json_option
def doctor(scheduler: str | None, as_json: bool) -> int:
    """Look for what could be wrong on this machine. Exit code 0 only if nothing is."""
    from deadheat.cli.checks import examine

    findings = list(examine(scheduler))
    if as_json:
        print_json({"findings": [finding.as_dict() for finding in findings]})
    else:
        marks = {"ok": "ok  ", "note": "note", "bad": "BAD "}
        for finding in findings:
            click.echo(f"{marks[finding.verdict]} {finding.subject:<14} {finding.text}")
            if finding.advice:
                click.echo(f"     {'':<14} -> {finding.advice}")
    return 1 if any(finding.verdict == "bad" for finding in findings) else 0
