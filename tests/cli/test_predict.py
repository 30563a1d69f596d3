"""`clx predict`: every row in order, in the target's units, in any format, with bad rows named."""

import csv
import json
from pathlib import Path
from typing import Any

import pyarrow.parquet
import pytest

from clx.pipelines.config.schema import Config
from clx.pipelines.experiments.train import train
from clx.pipelines.model.scoring import text_modality
from clx.pipelines.system.errors import BadInput
from clx.pipelines.system.progress import Silent
from clx.pipelines.use.embed import embed
from clx.pipelines.use.embedding_tables import EmbeddingOptions
from clx.pipelines.use.predict import Predictor
from samples import png


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A regression run `price`, a class run `kind` and one without a head, on the same rows."""
    folder = tmp_path_factory.mktemp("predict")
    with (folder / "rows.csv").open("w", newline="") as file:
        lines = csv.writer(file)
        lines.writerow(["id", "size", "town", "kind", "price"])
        for i in range(120):
            size, town = i % 12 + i / 1000, "abc"[i % 3]  # so that no answer follows from a size that comes again
            lines.writerow(
                [f"00{i}", size, town, "big" if size > 5 else "small", 1000 + 100 * size + 50 * "abc".index(town)]
            )
    base = {
        "data": {"train": str(folder / "rows.csv")},
        "modalities": {"table": {"columns": ["size", "town"], "width": 32, "layers": 1, "dropout": 0.0}},
        "embed_dim": 16,
        "train": {"steps": 150, "batch_size": 60, "lr": 1e-2, "validate_every": 150},
        "eval": [],
    }
    for name, data, objective in (
        ("price", {"target": ["price"]}, {"name": "l1"}),
        ("kind", {"label": "kind"}, {"name": "cross-entropy"}),
        ("headless", {"label": "kind"}, {"name": "supcon"}),
    ):
        config = {**base, "data": base["data"] | data, "objective": objective}  # type: ignore[operator]
        config["train"] = config["train"] | ({"steps": 1} if name == "headless" else {})  # type: ignore[operator]
        train(Config.model_validate(config), folder / name, Silent())
    (folder / "new.csv").write_text("id,size,town,note\n7,3,a,x\n8,,zzz,y\n9,lots,b,z\n10,,,w\n11,11,c,\n")
    return folder


def test_predictions_are_in_the_units_of_the_target(clx: Any, runs: Path) -> None:
    done = clx("predict", runs / "price", runs / "rows.csv", "--json")
    assert done.returncode == 0
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [line["row"] for line in lines] == list(range(1, 121))
    assert [line["id"] for line in lines[:2]] == ["000", "001"]  # as the file has them
    assert sum(abs(line["predicted_price"] - line["price"]) for line in lines) / 120 < 60


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl", ".parquet"])
def test_bad_rows_are_named_and_keep_their_place(clx: Any, runs: Path, tmp_path: Path, suffix: str) -> None:
    out = tmp_path / f"out{suffix}"
    done = clx("predict", runs / "price", runs / "new.csv", "--out", out, "--batch-size", 2)
    assert done.returncode == 1
    assert "row 3, column size: 'lots' is not a number" in done.stderr
    assert "row 4" in done.stderr
    assert "every input is missing" in done.stderr
    assert not done.stdout
    if suffix == ".parquet":
        rows = pyarrow.parquet.read_table(out).to_pylist()
    elif suffix == ".jsonl":
        rows = [json.loads(line) for line in out.read_text().splitlines()]
    else:
        rows = list(csv.DictReader(out.read_text().splitlines(), delimiter="\t" if suffix == ".tsv" else ","))
    assert [row["id"] for row in rows] == ["7", "8", "9", "10", "11"]
    assert [row["note"] or None for row in rows] == ["x", "y", "z", "w", None]
    known = [row["predicted_price"] not in (None, "") for row in rows]
    assert known == [True, True, False, False, True]  # unseen categories and missing cells are borne
    assert float(rows[4]["predicted_price"]) > float(rows[0]["predicted_price"])
    assert [path.name for path in tmp_path.iterdir()] == [out.name]


def test_columns_are_repeated_as_they_are(clx: Any, runs: Path, tmp_path: Path) -> None:
    (tmp_path / "t.jsonl").write_text('{"size": 3, "town": "a", "stamp": 1700000000.5}\n')
    done = clx("predict", runs / "price", tmp_path / "t.jsonl", "--keep", "stamp", "--json")
    assert json.loads(done.stdout)["stamp"] == 1700000000.5
    table = pyarrow.table({"size": [3], "town": ["a"], "stamp": [float("nan")]})
    pyarrow.parquet.write_table(table, tmp_path / "t.parquet")
    done = clx("predict", runs / "price", tmp_path / "t.parquet", "--out", tmp_path / "o.jsonl")
    assert (done.returncode, '"stamp": null' in (tmp_path / "o.jsonl").read_text()) == (0, True)


def test_the_target_beside_a_prediction_is_read_as_in_training(tmp_path: Path) -> None:
    lines = [f"{k};{(869 + k) * 1000:,}\n".replace(",", ".") for k in range(11)] + ["11;1.249.000\n"]
    (tmp_path / "a.csv").write_text("size;price\n" + "".join(lines))
    (tmp_path / "b.csv").write_text("size;price\n3;869.500\n4;\n")
    (tmp_path / "c.csv").write_text("size;price\n3;869.500\n4;on request\n")
    config = {
        "data": {"train": str(tmp_path / "a.csv"), "target": ["price"]},
        "modalities": {"table": {"columns": ["size"], "width": 32, "layers": 1}},
        "objective": "l1",
        "embed_dim": 4,
        "train": {"steps": 1, "batch_size": 12},
        "eval": [],
    }
    train(Config.model_validate(config), tmp_path / "run", Silent())
    predictor = Predictor(tmp_path / "run")
    assert [line["price"] for line in predictor.predict(str(tmp_path / "a.csv"))][-2:] == [879000.0, 1249000.0]
    predictor.predict(str(tmp_path / "b.csv")).save(tmp_path / "b.parquet")
    beside = pyarrow.parquet.read_table(tmp_path / "b.parquet")
    assert (beside.schema.field("price").type, beside["price"].to_pylist()) == (pyarrow.float64(), [869500.0, None])
    predictor.predict(str(tmp_path / "c.csv")).save(tmp_path / "c.parquet")  # one type, whatever a cell holds
    assert pyarrow.parquet.read_table(tmp_path / "c.parquet")["price"].to_pylist() == ["869.500", "on request"]
    embed(tmp_path / "run", tmp_path / "e.parquet", str(tmp_path / "b.csv"), EmbeddingOptions(keep=["price"]))
    assert pyarrow.parquet.read_table(tmp_path / "e.parquet")["price"].to_pylist() == ["869500.0", None]


def test_strict_stops_and_leaves_nothing(clx: Any, runs: Path, tmp_path: Path) -> None:
    done = clx("predict", runs / "price", runs / "new.csv", "--out", tmp_path / "out.csv", "--strict")
    assert done.returncode == 2
    assert "row 3" in done.stderr
    assert not list(tmp_path.iterdir())


def test_the_input_is_not_replaced(clx: Any, runs: Path, tmp_path: Path) -> None:
    (tmp_path / "new.csv").write_text((runs / "new.csv").read_text())
    (tmp_path / "same.csv").hardlink_to(tmp_path / "new.csv")
    (tmp_path / "link.csv").symlink_to("new.csv")
    before = (tmp_path / "new.csv").read_text()
    for out in ("new.csv", "./same.csv", "link.csv"):
        done = clx("predict", runs / "price", "new.csv", "--out", out, "--overwrite", cwd=tmp_path)
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr == f"error: --out {out.removeprefix('./')} is what the rows are read from: " + (
            "choose another name\n"
        )
    assert (tmp_path / "new.csv").read_text() == before
    done = clx("predict", runs / "price", "--out", runs / "rows.csv", "--overwrite", cwd=tmp_path)  # the run's own rows
    assert done.returncode == 2
    assert "is what the rows are read from" in done.stderr


def test_a_file_is_replaced_only_with_overwrite(clx: Any, runs: Path, tmp_path: Path) -> None:
    (tmp_path / "out.csv").write_text("of another hour")
    done = clx("predict", runs / "price", runs / "rows.csv", "--out", "out.csv", cwd=tmp_path)
    assert done.returncode == 2
    assert "out.csv exists already: choose another name, or replace it with --overwrite" in done.stderr
    assert (tmp_path / "out.csv").read_text() == "of another hour"
    done = clx("predict", runs / "price", runs / "rows.csv", "--out", "out.csv", "--overwrite", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert len((tmp_path / "out.csv").read_text().splitlines()) == 121
    done = clx("predict", runs / "price", runs / "rows.csv", "--overwrite", cwd=tmp_path)
    assert "--overwrite is about the file of --out, which is not given" in done.stderr


def test_classes_come_with_probabilities(clx: Any, runs: Path) -> None:
    done = clx("predict", runs / "kind", runs / "rows.csv", "--keep", "kind", "--probabilities")
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert list(lines[0]) == ["row", "kind", "predicted_kind", "probability", "p_big", "p_small"]
    for line in lines:
        assert line["p_big"] + line["p_small"] == pytest.approx(1, abs=1e-4)
        assert line["probability"] == max(line["p_big"], line["p_small"])
        assert line["probability"] == line[f"p_{line['predicted_kind']}"]
    assert sum(line["predicted_kind"] == line["kind"] for line in lines) > 110


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["headless", "rows.csv"], "no head that predicts"),
        (["price", "rows.csv", "--out", "x.txt"], "should end in"),
        (["nosuch", "rows.csv", "--out", "x.txt"], "should end in"),
        (["price", "rows.csv", "--keep", "idd"], "did you mean 'id'"),
        (["price", "absent.csv"], "no such file"),
        (["price", "rows.csv", "--probabilities"], "this one predicts numbers"),
        (["price", "rows.csv", "--out", "x.csv", "--json"], "give one of the two"),
        (["price", "only_town.csv"], "no column 'size'"),
        (["price", "rows.csv", "--column", "tabel=x"], "no modality 'tabel' (did you mean 'table'?)"),
        (["price", "rows.csv", "--column", "table=x"], "table reads the columns size, town by their names"),
        (["price", "--column", "table=x"], "name it"),
        (["price", "rows.csv", "--shard", "0/2"], "name it with --out"),
        (["price", "rows.csv", "--out", "x.csv", "--shard", "2/2"], "2 shards are 0/2 to 1/2"),
        (["price", "rows.csv", "--out", "x", "--shard", "0/2"], "120 rows are 1 blocks of 8 batches of 256"),
    ],
)
def test_refusals_are_one_line(clx: Any, runs: Path, arguments: list[str], said: str) -> None:
    (runs / "only_town.csv").write_text("id,town\n1,a\n")
    done = clx("predict", *arguments, cwd=runs)
    assert done.returncode == 2
    assert said in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_shards_hold_the_rows_of_one_process(clx: Any, runs: Path, tmp_path: Path) -> None:
    args = ["predict", runs / "kind", runs / "rows.csv", "--batch-size", "5", "--probabilities", "--out"]
    assert clx(*args, tmp_path / "whole.parquet").returncode == 0
    for number in (2, 0, 1):
        done = clx(*args, tmp_path / "parts", "--shard", "env", env={"RANK": str(number), "WORLD_SIZE": "3"})
        assert done.returncode == 0, done.stderr
        assert done.stderr.startswith(f"shard {number}/3\n40 rows in ")
    parts = [pyarrow.parquet.read_table(path) for path in sorted((tmp_path / "parts").glob("part-*"))]
    assert pyarrow.concat_tables(parts).equals(pyarrow.parquet.read_table(tmp_path / "whole.parquet"))
    again = clx(*args, tmp_path / "parts", "--shard", "1/3")
    assert (again.returncode, "is whole already" in again.stderr) == (0, True)
    (tmp_path / "parts" / "part-00001-of-00003.parquet").unlink()
    for words, said in (
        (["--shard", "1/2"], "shards was 3 and is 2"),
        (["--shard", "1/3", "--keep", "id"], "predicts.keep"),
        (["--shard", "1/3", "--checkpoint", "75"], "no checkpoint"),
    ):
        refused = clx(*args, tmp_path / "parts", *words)
        assert (refused.returncode, refused.stderr.count("\n")) == (2, 1)
        assert said in refused.stderr
    assert clx(*args, tmp_path / "parts", "--shard", "1/3").returncode == 0
    searched = clx("search", tmp_path / "parts", "--row", "1")
    assert (searched.returncode, "was not written by clx embed" in searched.stderr) == (2, True)


def test_values_that_training_lacks_are_counted_at_the_end(clx: Any, runs: Path, tmp_path: Path) -> None:
    (tmp_path / "new.csv").write_text("size,town\n3,Genf\n1e6,a\n-40,b\n20,b\n4,\n,Genf\n5,Bern\n")
    done = clx("predict", runs / "price", tmp_path / "new.csv", "--batch-size", 4)
    assert done.returncode == 0, done.stderr
    said = done.stderr.splitlines()
    assert "3 cells of town hold a value that training lacks: 'Genf' (row 1), 'Bern' (row 7)" in said
    assert (
        "2 cells of size hold a number far outside the range of training, 0 to 11.119: '1e6' (row 2), '-40' (row 3)"
        in said
    )
    heard: list[str] = []
    embed(runs / "price", tmp_path / "e.parquet", str(tmp_path / "new.csv"), say=heard.append)
    assert heard == [line for line in said if " of town " in line or " of size " in line]
    same = clx("predict", runs / "price", runs / "rows.csv")
    assert "cell" not in same.stderr


def test_one_picture_is_predicted_as_a_row(tmp_path: Path) -> None:
    for k in range(8):
        (tmp_path / "pics" / "ab"[k % 2]).mkdir(parents=True, exist_ok=True)
        (tmp_path / "pics" / "ab"[k % 2] / f"{k}.png").write_bytes(png(k))
    config = {
        "data": {"train": str(tmp_path / "pics"), "label": "label"},
        "modalities": {"image": {"size": 4, "width": 32}},
        "objective": "cross-entropy",
        "embed_dim": 8,
        "train": {"steps": 1, "batch_size": 8},
        "eval": [],
    }
    train(Config.model_validate(config), tmp_path / "run", Silent())
    predictor = Predictor(tmp_path / "run")
    (line,) = predictor.predict(str(tmp_path / "pics" / "b" / "1.png"))
    assert (line["row"], line["predicted_label"] in ("a", "b")) == (1, True)
    with pytest.raises(BadInput, match="clx predict tells"):
        text_modality(predictor.run)
