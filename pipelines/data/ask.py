"""What is asked before a recipe is written, since the columns do not say it: the answer, and what a number is about."""

import shlex

from clx.pipelines.data.inferred import NONE, Inferred
from clx.pipelines.system.errors import BadInput


def ask(source: str, found: Inferred, *, objective: bool) -> None:
    """Raise `BadInput` with the flags that decide, where something is in doubt. With `objective` the user has said
    what is to be learned, which tells what a number beside two texts is."""
    if found.doubt is not None and not objective:
        raise BadInput(_two_readings(source, found, *found.doubt))
    if not found.likely:
        return
    first, *others = found.likely
    more = "".join(f" or {one.given}" for one in others[:3])
    raise BadInput(
        f"{source}: column {first.column!r} is probably the answer ({first.why}): say {first.given}{more}; "
        f"--label {NONE} learns without an answer, --ignore leaves a column out"
    )


def _two_readings(source: str, found: Inferred, first: str, second: str, number: str) -> str:
    """A score of two texts, or a number that both tell."""
    said = number in found.target
    target = "" if said else f"--target {shlex.quote(number)} "
    pair = f"--pair {shlex.quote(f'{first},{second}')}" if "," not in first + second else "-s objective=cosent"
    classes = f", or --label {shlex.quote(number)} for classes" if found.columns[number].classes else ""
    without = "" if said else f"{classes}; --ignore {shlex.quote(number)} leaves it out"
    return (
        f"{source}: column {number!r} is a number beside two texts: say {target}{pair} where it is a score of how well "
        f"they go together, or {target}-s objective=l1 where it is to be predicted from both{without}"
    )
