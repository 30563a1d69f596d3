"""`clx doctor`."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from clx.cli import options
from clx.cli.output import emit_json, emit_table, note


def doctor(
    runs: Annotated[Path, typer.Option(help="Folder that runs are written to.")] = Path("runs"),
    imports: Annotated[bool, typer.Option(help="Import the large libraries too, which takes half a minute.")] = False,
    json: options.Json = False,
) -> None:
    """Show versions, devices, memory, disk and extras, and what to do about what is wrong.

    Exit code 3 when something is broken that clx needs. Examples:

    clx doctor

    clx doctor --json | jq -r '.[] | select(.level == "broken") | .advice'
    """
    from clx.pipelines.system.doctor import examine
    from clx.pipelines.system.errors import Refused

    rows = list(examine(runs, imports))
    if json:
        emit_json(rows)
    elif sys.stdout.isatty():
        emit_table([{key: value for key, value in row.items() if key != "advice"} for row in rows])
    else:
        emit_table(rows)
    if not json:
        for row in rows:
            if row["advice"]:
                note(f"{row['level']}: {row['check']}: {row['value']}. What to do: {row['advice']}")
    broken = [row["check"] for row in rows if row["level"] == "broken"]
    if broken:
        raise Refused(f"broken: {', '.join(broken)}")
