"""The section `data.replay` of a config: rows of earlier data that come again."""

from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field


def _listed(value: Any) -> Any:
    return [] if value is None else [value] if isinstance(value, str) else value


class Replay(BaseModel):
    """A share of the training rows of earlier data, drawn with `train.seed` from every class alike, that comes once an
    epoch among the rows of `train`: what was learned of them is forgotten less (rehearsal)."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False, serialize_by_alias=True
    )

    sources: Annotated[list[str], BeforeValidator(_listed), Field(alias="from")] = []
    """Their source, or several; in a stage those of all stages before it when not given."""
    share: Annotated[float, Field(gt=0, le=1)] = 0.01
    """Of their training rows, one at least."""
