"""The rows that a temperature is fitted on: none that the model was trained on, or it is said."""

from collections.abc import Callable

from clx.pipelines.config.data_schema import Data
from clx.pipelines.data.builtin import is_builtin
from clx.pipelines.data.leaks import leaks_of, told_at_once
from clx.pipelines.data.manifest import Manifest
from clx.pipelines.data.splits import choose, is_same, load_splits
from clx.pipelines.model.build import Run
from clx.pipelines.system.errors import BadInput


def calibration_rows(run: Run, data: Data, source: str, split: str | None, say: Callable[[str], None]) -> Manifest:
    """Of the file that the run's own data come from, and of a source with splits, the rows of `split`, else of val;
    else all of the source. `say` hears of rows that have what a training row has, by which the model looks surer."""
    seed = run.config.train.seed
    try:
        own = load_splits(data, seed) if data.train else {}
    except BadInput:  # the data of a run may be gone
        own = {}
    name = split or "val"
    elsewhere = name != "train" and isinstance(getattr(data, name, None), str)
    if is_same(source, data.train) and name in own and not elsewhere:
        manifest = own[name]
        if split is None:
            say(f"{source}: its {len(manifest)} val rows are taken, which the run was not trained on")
    else:
        try:
            ((name, manifest),) = choose(data, seed, source, name).items()
        except BadInput:
            if split is not None:
                raise
            ((name, manifest),) = choose(data, seed, source).items()
    if "train" in own and not any(map(is_builtin, data.sources)):
        called = "calibration" if name in ("all", "train") else name
        found = leaks_of({"train": own["train"], called: manifest}, run.config)
        if found:
            say(f"{told_at_once(found)}; a temperature fitted on what the model learned is too sure")
    return manifest
