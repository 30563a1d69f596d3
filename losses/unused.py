"""Settings that would change nothing."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from clx.losses.base import Loss


def refuse_unused(loss: "Loss", having: str, used: Mapping[str, bool]) -> None:
    """Raise ValueError where a field that is not used has another value than its default.

    Args:
        having: the settings that make it so, in words.
        used: by the name of the field.
    """
    for name, here in used.items():
        if not here and getattr(loss, name) != type(loss).__dataclass_fields__[name].default:
            raise ValueError(f"{name} changes nothing with {having}: leave it out")
