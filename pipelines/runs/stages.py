"""Where the stages of a run lie: each before the last is a run in the folder `stages` of the run."""

from collections.abc import Iterator
from pathlib import Path

from clx.pipelines.config.schema import Config
from clx.pipelines.config.stages import Stage

STAGES, PRETRAIN = "stages", "pretrain"
"""The folder of stages, and that of the one first stage that runs of clx had before."""


def stage_folders(out: Path) -> list[Path]:
    """Those that are there, in the order of their numbers."""
    numbered = [(int(path.name), path) for path in (out / STAGES).glob("*") if path.name.isdecimal()]
    return [path for path in [out / PRETRAIN] if path.is_dir()] + [path for _, path in sorted(numbered)]


def stage_folder(out: Path, k: int) -> Path:
    """The folder of stage `k`, counted from 0, of the run in `out`."""
    return out / PRETRAIN if k == 0 and (out / PRETRAIN).is_dir() else out / STAGES / str(k + 1)


def folder_before(config: Config, out: Path) -> Path | None:
    """The run folder of the stage before the last, or the one before this is begun; None where nothing was before."""
    if not config.stages:
        return None
    earlier = config.stages[-2].run
    return stage_folder(out, len(config.stages) - 2) if earlier is None else Path(earlier)


def stages_before(config: Config, out: Path) -> Iterator[tuple[Path, str, bool]]:
    """The run folders of all stages before the last, which checkpoint of each counts, and whether it is by itself,
    whatever its own `keep` says: a run from before may have stages of its own."""
    for k, stage in enumerate(config.stages[:-1]):
        yield Path(stage.run) if stage.run else stage_folder(out, k), stage.checkpoint, stage.run is None


def stage_config(config: Config, k: int, one: Config, out: Path) -> Config:
    """The config `one` of stage `k` as a run of its own, which begins with the stage before it."""
    if k == 0:
        return one
    earlier, own = config.stages[k - 1], config.stages[k]
    place = earlier.run or str(stage_folder(out, k - 1).absolute())
    begun = [Stage(run=place, checkpoint=earlier.checkpoint), Stage(freeze=own.freeze)]
    return one.model_copy(update={"stages": begun})
