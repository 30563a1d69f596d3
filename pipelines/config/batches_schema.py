"""The section `train.batches` of a config: which rows meet in a batch."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from clx.pipelines.config.data_schema import Data
from clx.pipelines.config.section import Section

Column = Annotated[str, Field(min_length=1)]


class Batches(Section):
    """Which training rows meet in a batch. One of `together`, `distinct`, `classes` with `rows`, and `near`.

    Every pass over the rows draws the batches anew, from `train.seed` and the number of the pass alone. What cannot be
    in a batch of a pass, by the rule, is left out of it, other rows in each pass; how many is said at the start.
    Validation is on any rows as ever.
    """

    together: Column | None = None
    """Column whose equal cells bring rows into one batch: communities of a graph, the clusters of an earlier stage, or
    a task. A value of more rows than a batch fills batches of its own; a batch has the rows of many small values."""
    rest: Literal["mixed", "dropped"] = "mixed"
    """With `together`, what becomes of the rows of a value beyond its whole batches: those of several values share
    batches, one after the other, and at most one value is cut where a batch ends; or they are left out of the pass, so
    that a batch never has two values."""
    distinct: Column | None = None
    """Column of which no two rows of a batch have the same cell: a caption that stands in several rows, say. Rows
    without a cell meet any other."""
    classes: Annotated[int, Field(ge=2)] | None = None
    """Different classes (`data.label`) in a batch, an episode, of `rows` rows each. A class that has fewer rows has
    them again in the batch, with views of their own."""
    rows: Annotated[int, Field(ge=1)] | None = None
    """Rows of each of the `classes` of a batch."""
    near: Annotated[list[Column], Field(min_length=1)] | None = None
    """Columns of numbers, `[lat, lon]` say: a batch grows around rows drawn at random, each of which brings up to half
    a batch of its neighbours (Sample4Geo, arXiv 2303.11851). Rows at one place, or that share the content of an input,
    never meet: they would be false negatives; with `distinct` as well, nor do those of one cell in that column."""
    degrees: bool | None = None
    """Whether the two columns of `near` are latitude and longitude on a sphere; not given, two that are called so."""
    reach: Annotated[int, Field(ge=2)] | None = None
    """How many of the nearest are a row's neighbours; as many as a batch has rows when not given. Of those that a row
    brings half are the nearest, half are drawn from the others within reach."""
    then: Literal["similar"] | None = None
    """With `near`, what comes after: neighbours by the model's own embeddings of the training rows, from the first
    input of the first objective to its second."""
    refresh: Annotated[float, Field(gt=0)] | None = None
    """With `then`, epochs by coordinates in the beginning, and those after which rows are embedded anew; 1 when not
    given."""

    @model_validator(mode="after")
    def _one_rule(self) -> "Batches":
        if (self.classes is None) != (self.rows is None):
            raise ValueError("classes and rows go together: a batch has so many classes of so many rows")
        if sum(rule is not None for rule in (self.together, self.near or self.distinct, self.classes)) != 1:
            raise ValueError("give one of together (a column), distinct (a column), classes with rows, near (columns)")
        for name in ("degrees", "reach", "then"):
            if getattr(self, name) is not None and self.near is None:
                raise ValueError(f"{name} is of near")
        if self.refresh is not None and self.then is None:
            raise ValueError("refresh is of then: similar")
        if self.degrees and len(self.near or []) != 2:
            raise ValueError("degrees are of two columns, latitude and longitude")
        if self.rest != "mixed" and self.together is None:
            raise ValueError("rest is of together")
        return self

    def check_data(self, data: Data) -> None:
        """Raise `ValueError` where something else decides which rows a batch has, or there are no classes."""
        if data.shares:
            raise ValueError(
                "train.batches and the shares of data.train both say which rows a batch has: leave one out"
            )
        if data.balance is not None and data.balance.by == "sampling":
            raise ValueError(
                "train.batches and data.balance.by: sampling both say which rows a batch has: data.balance.by: weights "
                "goes with batches"
            )
        if self.classes is not None and data.label is None:
            raise ValueError("train.batches.classes are those of data.label, which is not given")

    def check_size(self, batch_size: int) -> None:
        """Raise `ValueError` where a batch of so many rows is no episode."""
        if self.classes is not None and self.rows is not None and self.classes * self.rows != batch_size:
            count = self.classes * self.rows
            raise ValueError(
                f"batches of {self.classes} classes with {self.rows} rows each have {count} rows, and batch_size is "
                f"{batch_size}: set batch_size to {count}"
            )
