"""The sections `data.long` and `data.windows` of a config: what makes series, and what cuts them."""

from typing import Annotated

from pydantic import Field, model_validator

from clx.pipelines.config.section import Section


class Long(Section):
    """A table with one row per time step becomes one row per series, in the column `series`."""

    id: str | None = None
    """Column that says which series a row is of; all rows are one series, named like the file, when not given."""
    time: str
    """Column with the time of a row, a number or a date."""
    day_first: bool | None = None
    """Whether `01/02/2024` in `time` is 1 February; the column tells, by a `13/02/2024` say, when not given."""
    channels: Annotated[list[str], Field(min_length=1)]
    """Columns with the values; patterns such as `acc_*` too."""
    every: Annotated[float, Field(gt=0)] | None = None
    """Values at even times so far apart, on straight lines between those given; in seconds for dates."""
    stamps: bool = False
    """One more channel with the time since the step before."""
    holes: bool = True
    """Steps that are missing between even times are holes (NaN); without, what is there stands side by side. With
    `every` or `stamps` there are none."""

    @model_validator(mode="after")
    def _one(self) -> "Long":
        if self.every is not None and self.stamps:
            raise ValueError("with every all steps are equally far apart: stamps would be constant")
        return self


class Windows(Section):
    """Each series becomes rows of one length, with their `recording` and `start`; files are read piece by piece."""

    column: str = "series"
    length: Annotated[int, Field(ge=2)]
    stride: Annotated[int, Field(ge=1)]
    """Steps from the start of one window to the next."""
    horizon: Annotated[int, Field(ge=1)] | None = None
    """Steps after a window to forecast; those that the series has are in the column `future`."""
