"""`clx doctor RUN`: every finding on why a run does not learn, with its evidence and the flag to try."""

from collections.abc import Callable, Iterator
from pathlib import Path

from clx.pipelines.experiments.doctor.from_data import data_rows
from clx.pipelines.experiments.doctor.from_log import log_rows
from clx.pipelines.experiments.doctor.from_space import space_rows
from clx.pipelines.experiments.doctor.from_steps import step_rows
from clx.pipelines.experiments.doctor.opened import Opened, open_run
from clx.pipelines.system.doctor import Row, row
from clx.pipelines.system.errors import BadInput

CHECKS: dict[str, Callable[[Opened], Iterator[Row]]] = {
    "log": log_rows,
    "data": data_rows,
    "steps": step_rows,
    "space": space_rows,
}


def examine_run(out: Path, device: str | None = None) -> Iterator[Row]:
    """Every check of the run in `out` as a row `check`, `value` (what was seen), `level` (`ok`, `note`, `problem`) and
    `advice`. It reads up to 1500 rows of each split, and takes no step. Raises `BadInput` for what is no run, and where
    its data are gone."""
    opened = open_run(out, device)
    for check in CHECKS.values():
        try:
            yield from check(opened)
        except BadInput as error:  # a row that cannot be read, say
            yield row("examination", str(error), "problem", f"clx data check --config {out}/config.yaml")
