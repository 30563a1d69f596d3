"""`mine`: negatives, consistent pairs, nearest cells, clusters and communities, against loops over all pairs."""

import csv
import json
import os
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
import yaml
from pyarrow import parquet

from clx.pipelines.measures.clusters import assign, centres_of
from clx.pipelines.measures.communities import communities, mutual
from clx.pipelines.system.errors import BadInput
from clx.pipelines.use.mine import mine
from clx.pipelines.use.mine_wanted import Wanted
from clx.pipelines.use.mined_sides import Model
from command import Command
from configs import small

N, D = 240, 12
LACKING = 7
"""The row that has no vector of what is asked of."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pairs with cells that come again, on both sides too, sets of labels and two splits; vectors of two models."""
    here = tmp_path_factory.mktemp("mined")
    draw = np.random.default_rng(0)
    asks = [f"a{k}" for k in draw.integers(0, 150, N)]
    answers = [f"b{k}" for k in draw.integers(0, 160, N)]
    for k in range(0, N, 20):
        answers[k] = f"a{k}"  # what another row may ask with
    tags = [("x|y", "y", "z", "", "w|z")[k] for k in draw.integers(0, 5, N)]
    splits = ["val" if k % 4 == 3 else "train" for k in range(N)]
    with (here / "pairs.csv").open("w", newline="") as file:
        lines = csv.writer(file)
        lines.writerow(["anchor", "positive", "tags", "split"])
        lines.writerows(zip(asks, answers, tags, splits, strict=True))
    for name in ("emb", "guide"):
        cells = {text: draw.normal(size=D).astype(np.float32) for text in sorted({*asks, *answers})}
        near = {text: cells[text] for text in asks}
        of = {a: cells[b] + 0.8 * near[a] for a, b in zip(asks, answers, strict=True)}
        one = np.stack([near[a] for a in asks])
        two = np.stack([cells[b] + 0.3 * of[a] for a, b in zip(asks, answers, strict=True)])
        first = {b: k for k, b in reversed(list(enumerate(answers)))}
        two = np.stack([two[first[b]] for b in answers])  # equal cells have equal vectors
        stored(here / f"{name}.parquet", {"one": one, "two": two})
    return here


def stored(path: Path, vectors: dict[str, np.ndarray]) -> None:
    """A file as `clx embed` writes them."""
    lists = {
        name: pa.FixedSizeListArray.from_arrays(
            pa.array(rows.reshape(-1)), D, mask=pa.array([name == "two" and k == LACKING for k in range(len(rows))])
        )
        for name, rows in vectors.items()
    }
    meta = {"format": 1, "run": "r", "step": 1, "weights": "", "embed_dim": D, "split": None, "data": [{"rows": N}]}
    meta |= {"modalities": {"one": "text", "two": "text"}, "columns": {"one": "anchor", "two": "positive"}}
    table = pa.table({"row": np.arange(1, N + 1), "id": [str(k) for k in range(N)], **lists})
    parquet.write_table(table.replace_schema_metadata({"clx": json.dumps(meta)}), path)


@pytest.fixture(autouse=True)
def tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several of them."""
    monkeypatch.setattr("clx.pipelines.use.mined_ranks.ASKING", 50)
    monkeypatch.setattr("clx.pipelines.use.mined_ranks.ASKED", 32)
    monkeypatch.setattr("clx.pipelines.use.mined_columns.BLOCK", 64)


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@lru_cache
def unit(path: Path, name: str) -> np.ndarray:
    rows = np.stack([np.full(D, np.nan) if r is None else r for r in parquet.read_table(path)[name].to_pylist()])
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def candidates(folder: Path, rows: list[dict[str, str]], i: int, by_tags: bool) -> dict[str, float]:
    """The cells that may be negatives of row i, by hand, with their cosines."""
    one, two = unit(folder / "emb.parquet", "one"), unit(folder / "emb.parquet", "two")
    split = [k for k in range(N) if rows[k]["split"] == rows[i]["split"]]
    asks = rows[i]["anchor"]
    known = {asks} | {rows[k]["positive"] for k in split if rows[k]["anchor"] == asks}
    known |= {rows[k]["anchor"] for k in split if rows[k]["positive"] == asks} | {rows[i]["positive"]}
    tags = set(rows[i]["tags"].split("|")) - {""}
    if by_tags:
        known |= {rows[k]["positive"] for k in split if tags & set(rows[k]["tags"].split("|")) and k != LACKING}
    found: dict[str, float] = {}
    for k in split:
        cell = rows[k]["positive"]
        if k != LACKING and cell not in known:
            found.setdefault(cell, float(one[i] @ two[k]))
    return dict(sorted(found.items(), key=lambda each: -each[1]))


def run(
    folder: Path, wanted: Wanted, name: str = "out.csv", source: str = "pairs.csv", **more: Any
) -> tuple[list[dict[str, str]], Any]:
    out, model = folder / name, Model(embeddings=folder / "emb.parquet")
    told = mine(str(folder / source), out, model, wanted, overwrite=True, **more)
    return (rows_of(out) if name.endswith(".csv") else []), told


def test_negatives_are_those_of_loops_over_all_pairs(folder: Path) -> None:
    rows = rows_of(folder / "pairs.csv")
    one, two = unit(folder / "emb.parquet", "one"), unit(folder / "emb.parquet", "two")
    plain, told = run(folder, Wanted(negatives=3))
    guarded, _ = run(folder, Wanted(negatives=2, same=("tags",), ranks=(3, 12), margin=0.1, relative=0.2))
    assert [{key: row[key] for key in rows[0]} for row in plain] == rows
    lacking = 0
    for i in range(N):
        expected = list(candidates(folder, rows, i, False))[:3]
        assert [plain[i][f"negative_{k}"] for k in (1, 2, 3)] == expected, i
        own = float(one[i] @ two[i])
        ranked = list(candidates(folder, rows, i, True).items())[2:12]
        fit = [cell for cell, score in ranked if score <= own - 0.1 and score <= own - 0.2 * abs(own)][:2]
        lacking += 2 - len(fit)
        assert [guarded[i][f"negative_{k}"] for k in (1, 2)] == fit + [""] * (2 - len(fit)), i
    assert lacking > 0
    assert told["negatives"]["empty_cells"] == told["negatives"]["rows_with_fewer"] == 0
    assert told["without_vectors"] == 1
    _, told = run(folder, Wanted(negatives=2, same=("tags",), ranks=(3, 12), margin=0.1, relative=0.2))
    assert told["negatives"]["empty_cells"] == lacking


def test_a_guide_says_what_is_none_by_its_partner_or_by_a_quantile(folder: Path) -> None:
    rows, guide = rows_of(folder / "pairs.csv"), Model(embeddings=folder / "guide.parquet")
    one, two = unit(folder / "guide.parquet", "one"), unit(folder / "guide.parquet", "two")
    place = {row["positive"]: k for k, row in reversed(list(enumerate(rows))) if k != LACKING}
    judged, _ = run(folder, Wanted(negatives=5), guide=guide)
    loose, _ = run(folder, Wanted(negatives=5, ranks=(1, 100), quantile=0.7), guide=guide)
    threshold = np.nanquantile(one @ two.T, 0.7)
    for i in range(N):
        chosen = [cell for k in range(1, 6) if (cell := judged[i][f"negative_{k}"])]
        assert all(one[i] @ two[place[cell]] <= one[i] @ two[i] + 1e-6 for cell in chosen)
        chosen = [cell for k in range(1, 6) if (cell := loose[i][f"negative_{k}"])]
        assert all(one[i] @ two[place[cell]] <= threshold + 0.03 for cell in chosen)
        assert len(chosen) == 5 or rows[i]["split"] == "val"
    ranked = list(candidates(folder, rows, 0, False))
    assert [ranked.index(judged[0][f"negative_{k}"]) for k in (1, 2, 3)] != [0, 1, 2]


def test_pairs_that_are_not_consistent_are_left_out_and_counted(folder: Path) -> None:
    rows = rows_of(folder / "pairs.csv")
    one, two = unit(folder / "emb.parquet", "one"), unit(folder / "emb.parquet", "two")
    own = [float(one[i] @ two[i]) for i in range(N)]
    nearer = [sum(s > own[i] for s in candidates(folder, rows, i, False).values()) for i in range(N)]
    kept, told = run(folder, Wanted(consistent=10, least=0.2))
    expected = [row for i, row in enumerate(rows) if i == LACKING or (nearer[i] < 10 and own[i] >= 0.2)]
    assert kept == expected
    assert 20 < len(kept) < N - 20
    assert told == {
        **{"out": str(folder / "out.csv"), "rows": N, "written": len(kept)},
        **{"without_vectors": 1, "left_out": N - len(kept)},
    }
    few, told = run(folder, Wanted(consistent=10, negatives=1), split="val")
    assert {row["split"] for row in few} == {"val"}
    assert told["rows"] == N // 4


def test_what_is_drawn_follows_from_the_seed(folder: Path) -> None:
    wanted = Wanted(negatives=2, ranks=(1, 20), draw="random", clusters=5, centres=2)
    once, told = run(folder, wanted)
    again, _ = run(folder, wanted)
    other, _ = run(folder, replace(wanted, seed=1))
    assert once == again != other
    rows = rows_of(folder / "pairs.csv")
    for i in range(N):
        ranked = list(candidates(folder, rows, i, False))
        ranks = [ranked.index(once[i][f"negative_{k}"]) for k in (1, 2)]
        assert ranks == sorted(ranks)
        assert max(ranks) < 20
    assert len({ranked for row in once for ranked in [row["cluster"]]} - {""}) == 5
    assert [row["clusters"].split("|")[0] for row in once] == [row["cluster"] for row in once]
    assert {len(row["clusters"].split("|")) for i, row in enumerate(once) if i != LACKING} == {2}
    assert once[LACKING]["cluster"] == once[LACKING]["clusters"] == ""
    assert told["clusters"]["smallest"] > 0


def test_clusters_of_a_further_stage_stand_within_those_of_the_one_before(folder: Path) -> None:
    first, _ = run(folder, Wanted(clusters=5), "first.csv")
    plain, _ = run(folder, Wanted(clusters=3, seed=1), "plain.csv")
    both, _ = run(folder, Wanted(clusters=3, seed=1, within="cluster"), "both.csv", source="first.csv")
    for one, alone, row in zip(first, plain, both, strict=True):
        assert row["cluster"] == (f"{one['cluster']}/{alone['cluster']}" if alone["cluster"] else "")
        assert {**row, "cluster": ""} == {**one, "cluster": ""}
    tagged, _ = run(folder, Wanted(clusters=3, seed=1, within="split"), "tagged.csv")
    assert tagged[0]["cluster"] == f"train/{plain[0]['cluster']}"


def test_nearest_and_communities_in_parquet(folder: Path) -> None:
    rows = rows_of(folder / "pairs.csv")
    _, told = run(folder, Wanted(nearest=2, communities=4, ranks=(2, 30), same=("tags",)), "out.parquet")
    table = parquet.read_table(folder / "out.parquet").to_pylist()
    for i in range(N):
        expected = list(candidates(folder, rows, i, False))[:2]  # also of one's own tag
        assert [table[i]["nearest_1"], table[i]["nearest_2"]] == expected
    split_of = {row["community"]: row["split"] for row in table}
    assert all(split_of[row["community"]] == row["split"] for row in table)
    sizes = np.bincount([row["community"] for row in table])
    assert sizes.tolist() == [4] * (N // 4)
    assert told["communities"]["count"] == N // 4
    assert told["communities"]["edges"] > N


def test_communities_are_denser_than_chance_and_hold_every_node_once() -> None:
    draw = np.random.default_rng(1)
    group = draw.permutation(np.repeat(np.arange(10), 6))
    lists = np.stack([draw.permutation(np.flatnonzero(group == g)) for g in group])
    lists[:3] = -1  # isolated
    starts, nodes = mutual(lists)
    assert (starts[:4] == 0).all()
    found = communities(starts, nodes, 6, lambda a, b: (group[a][:, None] == group[b][None]).astype(float))
    assert found.isolated == 3
    assert 3 <= found.left <= 18
    assert np.bincount(found.of).tolist() == [6] * 10
    whole = [k for k in range(10) if (group[:3] != k).all()]
    assert all(len(set(found.of[group == k])) == 1 for k in whole)
    assert [part.tolist() for part in mutual(np.array([[1], [2], [0]]))] == [[0, 0, 0, 0], []]
    starts, nodes = mutual(np.array([[1, -1], [0, 2], [0, 0]]))
    assert (starts.tolist(), nodes.tolist()) == ([0, 1, 2, 2], [1, 0])


def test_clusters_are_found_again() -> None:
    draw = torch.Generator().manual_seed(0)
    middles = torch.nn.functional.normalize(torch.randn(6, 16, generator=draw), dim=1)
    of = torch.arange(6).repeat(30)
    rows = torch.nn.functional.normalize(middles[of] + 0.05 * torch.randn(180, 16, generator=draw), dim=1)
    [(nearest, near)] = assign([rows], centres_of(rows, 6, draw), 2)
    assert len({(a, b) for a, b in zip(of.tolist(), nearest[:, 0].tolist(), strict=True)}) == 6
    assert bool((near[:, 0] > near[:, 1]).all())
    same = centres_of(rows[:1].repeat(5, 1), 3, draw)
    assert bool(same.isfinite().all())
    with pytest.raises(ValueError, match="7 clusters of 6 rows"):
        centres_of(middles, 7, draw)


@pytest.mark.parametrize(
    ("wanted", "more", "said"),
    [
        (Wanted(), {}, "say what to mine"),
        (Wanted(negatives=1, quantile=0.5), {}, "name it with --guide"),
        (Wanted(consistent=1, margin=0.1), {}, "--margin is about --negatives and --communities"),
        (Wanted(negatives=9, ranks=(3, 5)), {}, "--ranks 3,5: expected two ranks"),
        (Wanted(clusters=500), {}, "--clusters 500: 180 train rows have a vector of two"),
        (Wanted(clusters=2, centres=3), {}, "--centres 3: of --clusters 2"),
        (Wanted(nearest=2, within="tags"), {}, "--within is about --clusters"),
        (Wanted(clusters=2, within="gone"), {}, "no column 'gone'"),
        (Wanted(consistent=3), {"by": "two", "among": "two"}, "two is compared with itself"),
        (Wanted(negatives=1), {"by": "three"}, "--by three: "),
        (Wanted(negatives=1), {"by": "one=tags"}, "a column goes with --run"),
        (Wanted(negatives=1, same=("gone",)), {}, "no column 'gone'"),
        (Wanted(least=1.0, consistent=1), {"split": "train"}, "no row is consistent"),
        (Wanted(negatives=1), {"out": "pairs.csv"}, "is what the rows are read from"),
        (Wanted(negatives=1), {"source": "digits"}, "clx data make digits FOLDER"),
        (Wanted(negatives=1), {"out": "negatives.txt"}, "the name should end in .csv"),
    ],
)
def test_what_cannot_be_is_refused(folder: Path, wanted: Wanted, more: dict[str, Any], said: str) -> None:
    more = dict(more)
    source, out = more.pop("source", str(folder / "pairs.csv")), folder / more.pop("out", "refused.csv")
    before = sorted(os.listdir(folder))
    with pytest.raises(BadInput, match=said.replace("(", r"\(")):
        mine(source, out, Model(embeddings=folder / "emb.parquet"), wanted, overwrite=True, **more)
    assert sorted(os.listdir(folder)) == before


def test_a_run_mines_from_the_shell_and_what_it_writes_is_trained_on(clx: Command, tmp_path: Path) -> None:
    words = ("red", "green", "blue", "grey", "pink", "gold")
    things = ("car", "cat", "hat", "sun")
    pairs = [(f"a {w} {t}", f"the {t} is {w}") for w in words for t in things]
    lines = [
        "anchor,positive,split",
        *(f"{a},{b},{'val' if k % 6 == 5 else 'train'}" for k, (a, b) in enumerate(pairs)),
    ]
    (tmp_path / "pairs.csv").write_text("\n".join(lines) + "\n")
    text = {"kind": "text", "width": 32, "layers": 1}
    modalities: dict[str, Any] = {"anchor": text, "positive": {"like": "anchor"}}
    config = small({"train": "pairs.csv"}, modalities, {"name": "infonce"}, train={"batch_size": 8})
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(config))
    done = clx("train", "c.yaml", "-o", "first", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    command = ["mine", "pairs.csv", "--negatives", "2", "--ranks", "1,4", "--margin", "-0", "--seed", "3", "--json"]
    done = clx(*command, "--run", "first", "-o", "mined.csv", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    mined = rows_of(tmp_path / "mined.csv")
    assert (told["rows"], told["written"], len(mined)) == (24, 24, 24)
    assert all(row["negative_1"] != row["positive"] for row in mined)
    assert sorted(os.listdir(tmp_path)) == ["c.yaml", "first", "mined.csv", "pairs.csv"]
    modalities["wrong"] = {"like": "anchor", "column": ["negative_*"]}
    config["objective"] = {"name": "infonce", "inputs": ["anchor", "positive"], "negatives": ["wrong"]}
    (tmp_path / "d.yaml").write_text(yaml.safe_dump(config | {"data": {"train": "mined.csv"}}))
    done = clx("train", "d.yaml", "-o", "second", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    done = clx(*command, "--run", "second", "--by", "anchor=positive", "--in", "anchor", "-o", "m.csv", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    swapped = rows_of(tmp_path / "m.csv")
    anchors = {a for a, _ in pairs}
    assert all(row["negative_1"] in anchors - {row["anchor"]} for row in swapped if row["negative_1"])
    done = clx("mine", "mined.csv", "--run", "second", "--negatives", "1", "-o", "n.csv", cwd=tmp_path)
    assert (done.returncode, "has a column 'negative_1' already" in done.stderr) == (2, True)
    done = clx("mine", "pairs.csv", "--run", "second", "--negatives", "1", "--ranks", "4", "-o", "n.csv", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (2, "error: --ranks 4: expected two ranks, as 10,100\n")
