"""Rows of earlier data that come again: which, how often, where they are told apart, and what is refused."""

from pathlib import Path

import numpy as np
import pytest
import torch

from clx.pipelines.batches.loader import once
from clx.pipelines.config.data_schema import Data
from clx.pipelines.config.load import dump, load_config
from clx.pipelines.config.options import parse
from clx.pipelines.config.schema import Config
from clx.pipelines.data.splits import load_splits
from clx.pipelines.experiments.train import train
from clx.pipelines.model.build import prepare
from clx.pipelines.runs import checkpoint
from clx.pipelines.system.errors import BadInput
from clx.pipelines.training.extras import Extras
from clx.pipelines.training.rows import training_rows
from configs import small
from trained import Heard

TABLE = {"table": {"columns": ["a", "b"], "width": 32, "layers": 1, "augmentation": "none"}}


def write(path: Path, kinds: str, rows: int, more: str = "") -> str:
    lines = [f"a,b,kind{more and ',more'}"]
    lines += [f"{i % 7},{i % 5},{kinds[i % len(kinds)]}{more and ',' + more}" for i in range(rows)]
    path.write_text("\n".join(lines) + "\n")
    return str(path)


@pytest.fixture
def files(tmp_path: Path) -> tuple[str, str]:
    return write(tmp_path / "old.csv", "pq", 40, "x"), write(tmp_path / "new.csv", "rs", 24)


def test_a_share_of_every_class_comes_again_behind_the_training_rows(files: tuple[str, str]) -> None:
    old, new = files
    data = Data.model_validate({"train": new, "label": "kind", "replay": {"from": old, "share": 0.1}})
    rows, again = (load_splits(data, 3)["train"] for _ in range(2))
    assert (len(rows), rows.replay_from) == (28, 24)
    assert rows.column("kind")[:24] == load_splits(data.model_copy(update={"replay": None}), 3)["train"].column("kind")
    assert sorted(rows.column("kind")[24:]) == ["p", "p", "q", "q"]
    assert rows.where(24).startswith(old)
    assert np.array_equal(rows.rows, again.rows)
    assert not np.array_equal(rows.rows, load_splits(data, 4)["train"].rows)
    assert f"replay: 4 rows of {old} come again, each once an epoch" in rows.notes
    whole = Data.model_validate({"train": [new, old], "replay": {"from": [old, new], "share": 1}})
    assert len(load_splits(whole, 0)["train"]) == 128, "of several sources, and all of theirs"


def test_a_term_may_be_of_the_old_rows_alone(files: tuple[str, str]) -> None:
    """Its mean is over them; all rows stand in its denominators."""
    old, new = files
    raw = small({"train": new, "label": "kind", "replay": {"from": old, "share": 0.1}}, TABLE, "supcon")
    objective = [{"name": "supcon", "rows": rows} for rows in ("replay", "new")] + [{"name": "supcon"}]
    config = Config.model_validate(raw | {"objective": objective})
    assert Config.model_validate(config.model_dump(mode="json")) == config
    splits = load_splits(config.data, 0)
    run = prepare(config, splits)
    run.objective.replay_from = splits["train"].replay_from
    (key,) = once(28, 28)
    batch = training_rows(run, splits["train"])[0][key]
    z = run.model(batch.inputs, batch.present)

    def value(k: int) -> float:
        loss = list(run.objective.losses)[k]
        extras = Extras(batch, run.model, run.objective, z, {}, torch.Generator())
        return float(loss(z, **extras(loss, z, {})).detach())  # type: ignore[arg-type]

    assert 4 * value(0) + 24 * value(1) == pytest.approx(28 * value(2), rel=1e-5)
    run.objective.eval()
    assert (value(0), value(1)) == (0, pytest.approx(value(2), rel=1e-5))


def test_in_a_stage_rows_of_all_stages_before_come_again(files: tuple[str, str], tmp_path: Path) -> None:
    old, new = files
    third = write(tmp_path / "third.csv", "tu", 30)
    again = {"train": third, "replay": {"share": 0.1}}
    nspt = {"name": "distil", "weight": 0.1}
    raw = small({"train": old, "label": "kind"}, TABLE, "supcon", train={"steps": 2, "batch_size": 8}) | {
        "stages": [
            {},
            {"data": {"train": new}},
            {
                "data": again,
                "objective": ["supcon", {"name": "supcon", "rows": "replay"}, nspt],
                "train": {"second": {"stage": "previous"}},
            },
        ]
    }
    config = parse(Config, raw, "c")
    assert config.data.replay is not None
    assert config.data.replay.sources == [old, new]
    (tmp_path / "c.yaml").write_text(dump(config))
    assert load_config(str(tmp_path / "c.yaml")) == config
    train(config, tmp_path / "run", Heard())
    run = checkpoint.load(tmp_path / "run")
    assert set(run.facts.classes) == set("pqrstu")
    first = [{"data": again}, {}]
    with pytest.raises(BadInput, match="no stage that is trained here comes before"):
        train(Config.model_validate(raw | {"stages": first}), tmp_path / "a", Heard())
    teaching = [{"train": {"second": {"stage": "previous"}}, "objective": "distil"}, {}]
    with pytest.raises(BadInput, match="no stage is before this one"):
        train(Config.model_validate(raw | {"stages": teaching}), tmp_path / "b", Heard())


@pytest.mark.parametrize(
    ("data", "term", "match"),
    [
        ({}, {"name": "supcon", "rows": "replay"}, "told apart by data.replay"),
        (
            {"replay": {"from": "o.csv"}},
            {"name": "vicreg", "rows": "replay"},
            "objective.rows: vicreg has no term a row",
        ),
        (
            {"train": [{"source": "a", "share": 1}], "replay": {"from": "o"}},
            {"name": "supcon"},
            "sources without shares",
        ),
        ({"replay": {"form": "o.csv"}}, {"name": "supcon"}, "replay.form' .did you mean 'from'"),
    ],
)
def test_what_cannot_be_is_refused(data: dict[str, object], term: dict[str, object], match: str) -> None:
    from clx.pipelines.config.objects import make_losses

    with pytest.raises(BadInput, match=match):
        make_losses(parse(Config, small({"train": "n.csv"} | data, TABLE, term), "c"))
