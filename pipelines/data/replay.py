"""Rows of earlier data beside the training rows, as `data.replay` says."""

from collections.abc import Callable
from dataclasses import replace

from clx.pipelines.config.data_schema import Data, Fraction
from clx.pipelines.data.draw import draw
from clx.pipelines.data.manifest import Manifest
from clx.pipelines.data.several_sources import joined
from clx.pipelines.system.errors import BadInput


def with_replay(train: Manifest, data: Data, seed: int, load: Callable[[Data], dict[str, Manifest]]) -> Manifest:
    """The training rows, and behind them those of earlier data that come again; `load` reads the splits of data.

    Raises `BadInput` where no source is named and none is known.
    """
    assert data.replay is not None
    if not data.replay.sources:
        raise BadInput(
            "data.replay: no stage that is trained here comes before this one, whose rows could come again: name "
            "their source, -s data.replay.from=old.csv"
        )
    sources = data.replay.sources
    only = {"train": sources[0] if len(sources) == 1 else sources, "val": None, "test": None, "replay": None}
    earlier = load(Data.model_validate(data.model_dump() | only))["train"]
    share, count = data.replay.share, max(1, round(data.replay.share * len(earlier)))
    if count < len(earlier):
        _, earlier = draw(earlier, Fraction(fraction=share, by="row"), data, seed, {})
    found = joined({train.name: {"train": train}, f"data.replay.from {earlier.name}": {"train": earlier}})["train"]
    note = f"replay: {len(earlier)} rows of {earlier.name} come again, each once an epoch"
    start = train.table.num_rows
    return replace(found, split_from=train.split_from, notes=(*found.notes, note), replay_from=start)
