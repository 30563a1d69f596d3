"""Predictions of a run, from options to lines: what `clx predict` calls, and a program."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clx.pipelines.batches.batch import BadRow
from clx.pipelines.batches.columns import other_names
from clx.pipelines.data.writers import Line, writer
from clx.pipelines.model.build import Run
from clx.pipelines.runs.open import open_model
from clx.pipelines.system.errors import BadInput
from clx.pipelines.system.process_group import Group
from clx.pipelines.system.shard import Shard
from clx.pipelines.use import predict_recordings, predict_rows
from clx.pipelines.use.embed import describe, identity
from clx.pipelines.use.embedding_shards import blocks, join
from clx.pipelines.use.new_values import NewValues

if TYPE_CHECKING:
    import pyarrow as pa

USUAL = 21
"""Steps before that the score of a step is set against."""
BETA = 4.0
"""Deviations above the mean score from which a step is an anomaly."""


@dataclass
class Predictions:
    """Lines, one after the other, made while they are asked for; they can be gone through once."""

    parts: Iterator[tuple[list[Line], list[BadRow]]]
    """The lines batch by batch, with the rows among them that could not be used."""
    schema: "pa.Schema"
    """Names and types of a line's values."""
    sources: list[str]
    """The manifests that are read."""
    strict: bool = False
    say: Callable[[str], None] = lambda text: None
    count: int = 0
    """Lines so far."""
    bad: int = 0
    """Rows so far that could not be used: they have None for a prediction."""
    new: NewValues = field(default_factory=NewValues)
    """Cells so far that hold what training did not."""
    shard: Shard | None = None
    """The share of the rows that the lines are of; all when None."""
    plan: dict[str, Any] = field(default_factory=dict)
    """Which weights, data and options these are the predictions of, where they are shared out."""

    def batches(self) -> Iterator[list[Line]]:
        """The lines, batch by batch. Bad rows are said, at the end also what training lacked; with `strict` the first
        bad row raises `BadInput`."""
        for lines, unread in self.parts:
            for one in unread:
                if self.strict:
                    raise BadInput(f"{one.where}, column {one.column}: {one.reason}")
                self.say(f"no prediction for {one.where}, column {one.column}: {one.reason}")
            self.count, self.bad = self.count + len(lines), self.bad + len(unread)
            yield lines
        for line in self.new.lines():
            self.say(line)

    def __iter__(self) -> Iterator[Line]:
        for lines in self.batches():
            yield from lines

    def save(self, out: Path | str, *, overwrite: bool = False) -> None:
        """Write all lines into a .csv, .tsv, .jsonl or .parquet file, whole or not at all.

        Raises `BadInput` for another name, where `out` exists, unless with `overwrite`, and where it is what the rows
        are read from.
        """
        with writer(Path(out), self.schema, self.sources, overwrite=overwrite) as write:
            for lines in self.batches():
                write(lines)

    def save_part(self, folder: Path | str, *, overwrite: bool = False) -> tuple[Path, bool]:
        """Write the lines of a shard as its part of a folder, unless it is there, whole or not at all; its file, and
        whether it was made now. Raises `BadInput` where the folder's shards are others."""
        assert self.shard is not None
        out = join(Path(folder), self.plan, self.shard)
        made = overwrite or not out.exists()
        if made:
            self.save(out, overwrite=True)
        return out, made


class Predictor:
    """Predicts with the head that a run was trained with, and scores the steps of recordings.

        predictor = Predictor("runs/airfoil")
        for line in predictor.predict("more.csv"):
            print(line["row"], line["predicted_target"])

    Args:
        run: a run folder.
        checkpoint: `best`, `last`, or a step.
        device: `auto`, `cpu`, `cuda`, `cuda:1` or `mps`.
        batch_size: rows, or windows of a recording, at a time.
        strict: whether the first row that cannot be read raises `BadInput`.
        say: hears in a line each row that cannot be used, and what is good to know.

    Raises `BadInput`.
    """

    def __init__(
        self,
        run: str | Path | Run,
        *,
        checkpoint: str = "best",
        device: str = "auto",
        batch_size: int = 256,
        strict: bool = False,
        say: Callable[[str], None] = lambda text: None,
    ) -> None:
        self.batch_size, self.strict, self.say = batch_size, strict, say
        self.run = open_model(run, checkpoint=checkpoint, device=device, only_run=True)
        assert self.run.opened is not None
        self.folder = Path(self.run.opened[0])

    def predict(
        self,
        source: str | None = None,
        split: str | None = None,
        *,
        columns: Mapping[str, str] | None = None,
        keep: Sequence[str] = (),
        probabilities: bool = False,
        shard: Shard | None = None,
        group: Group | None = None,
    ) -> Predictions:
        """Targets in their units, or classes, a line for each row in its order; or what follows each recording.

        A run that was trained to forecast (`data.windows.horizon`) gives a line for each step that follows, in the
        units of the data (see `predict_recordings.forecasts`), any other the lines of `predict_rows.predict`.

        Args:
            source: manifest, folder or built-in data; the run's own test rows when None.
            split: only the rows of this split.
            columns: other columns of the source than the run's own, by modality.
            keep: columns to repeat beside a prediction; all but the inputs when empty.
            probabilities: of a run with classes also a column for each.
            shard: only its share of the rows, for `Predictions.save_part`.
            group: the processes that predict together, all called alike. Rank 0 has the lines; the others, which have
                none, go through them all the same.
        """
        if self.run.model.predictor is None:
            names = ", ".join(term.name for term in self.run.config.objective)
            raise BadInput(
                f"{self.folder} has no head that predicts: its objective is {names}. Train one on its towers, by l1, "
                f"mse or cross-entropy say: -s 'stages=[{{run: {self.folder}}}, {{freeze: true}}]'"
            )
        if self.run.forecasts:
            if keep or probabilities or columns or shard or group:
                raise BadInput(
                    "--column, --keep, --probabilities, --shard and several processes are for rows of a table, not for "
                    "the steps of recordings"
                )
            scorer = predict_recordings.open_scorer(self.run, block=self.batch_size)
            recordings = predict_recordings.recordings(self.run, source, split)
            parts = predict_recordings.forecasts(scorer, recordings)
            return self._predictions(parts, predict_recordings.forecast_schema(scorer), source)
        if probabilities and self.run.config.data.target:
            raise BadInput("--probabilities is for runs that predict classes; this one predicts numbers")
        manifest = predict_rows.rows_to_predict(self.run, source, split)
        if columns:
            if source is None:
                raise BadInput("--column is about the columns of other data: name it")
            manifest = manifest.called(other_names(self.run.config, self.run.modalities, columns))
        kept = predict_rows.kept_columns(self.run, manifest, keep)
        schema = predict_rows.schema_of(self.run, manifest, kept, probabilities)
        plan = {}
        if shard is not None:
            plan = {
                **identity(self.run),
                "data": [describe(manifest)],
                "predicts": {"keep": kept, "probabilities": probabilities, "columns": dict(columns or {})},
                "batch_size": self.batch_size,
            }
            work = blocks([len(manifest)], self.batch_size, shard)
            first, last = work[0][0][1], work[-1][-1][1]
            rows = range(first * self.batch_size, min(len(manifest), (last + 1) * self.batch_size))
            manifest = manifest.take(rows)
        how = (self.run, manifest, kept, probabilities, self.batch_size, new := NewValues())
        parts = predict_rows.predict(*how) if group is None else predict_rows.predict_on(group, *how)
        made = self._predictions(parts, schema, source)
        made.new = new
        made.shard, made.plan = shard, plan
        return made

    def anomalies(
        self, source: str | None = None, split: str | None = None, *, average: int = USUAL, beta: float = BETA
    ) -> Predictions:
        """How odd each step of recordings is, a line each (see `predict_recordings.anomalies`).

        Args:
            source: manifest or built-in data of recordings; the run's own test split when None.
            split: only the recordings of this split.
            average: steps before that a score is set against, at least 1.
            beta: a score is an anomaly from so many deviations above the mean of the training recordings' on, at
                least 0.

        Raises `BadInput` for a run that was not trained on windows of recordings.
        """
        check_beta(beta)
        scorer = predict_recordings.open_scorer(self.run, average, self.batch_size)
        recordings = predict_recordings.recordings(self.run, source, split)
        threshold = scorer.threshold(beta)
        self.say(f"a score above {threshold:.3g} is an anomaly: mean and {beta:g} deviations of training scores")
        parts = predict_recordings.anomalies(scorer, recordings, threshold)
        return self._predictions(parts, predict_recordings.anomaly_schema(scorer), source)

    def _predictions(
        self, parts: Iterator[tuple[list[Line], list[BadRow]]], schema: "pa.Schema", source: str | None
    ) -> Predictions:
        data = self.run.config.data
        own = [name for name in (*data.sources, data.val, data.test) if isinstance(name, str)]
        return Predictions(parts, schema, [source] if source else own, self.strict, self.say)


def check_beta(beta: float) -> None:
    """Raises `BadInput` for what is no number of deviations."""
    if not 0 <= beta < float("inf"):
        raise BadInput(f"--beta {beta:g}: so many deviations are a number from 0 on")
