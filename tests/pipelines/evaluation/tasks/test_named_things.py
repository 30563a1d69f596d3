"""Analogies and similarities of what files call by name."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats

from clx.pipelines.evaluation.embeddings import embed_manifest
from clx.pipelines.evaluation.evaluate import evaluate_run
from clx.pipelines.evaluation.evaluated_rows import evaluated_rows
from clx.pipelines.evaluation.named_things import read_analogies, read_similarities
from clx.pipelines.evaluation.results import Settings
from clx.pipelines.evaluation.tasks.analogies import solved
from clx.pipelines.model.scoring import class_embeddings
from clx.pipelines.runs.checkpoint import load
from clx.pipelines.system.errors import BadInput


def quiet(text: str) -> None:
    pass


def write(path: Path, text: str) -> str:
    path.write_text(text, encoding="utf-8")
    return str(path)


def test_offsets_are_solved_as_by_a_loop() -> None:
    draw = torch.Generator().manual_seed(0)
    rows = torch.nn.functional.normalize(torch.randn(30, 6, generator=draw, dtype=torch.float64), dim=1)
    asked = torch.stack([torch.randperm(30, generator=draw)[:4] for _ in range(40)])
    ahead, parallel = solved(rows, asked)
    for k, (a, b, c, d) in enumerate(asked.tolist()):
        target = rows[b] - rows[a] + rows[c]
        cosine = [float(torch.cosine_similarity(target, row, dim=0)) for row in rows]
        assert ahead[k] == sum(cosine[j] > cosine[d] for j in range(30) if j not in (a, b, c))
        offsets = rows[b] - rows[a], rows[d] - rows[c]
        assert parallel[k].item() == pytest.approx(float(torch.cosine_similarity(*offsets, dim=0)))
    grid = torch.tensor([[1.0, 0, 0], [1, 1, 0], [1, 0, 0.3], [1, 1, 0.3], [-1, 0, 2]], dtype=torch.float64)
    ahead, parallel = solved(grid / grid.norm(dim=1, keepdim=True), torch.tensor([[0, 1, 2, 3], [0, 1, 2, 2]]))
    assert ahead[0] == 0
    assert parallel[0] > 0.95
    assert ahead[1] == 5, "a word of the question is never the answer"


def test_files_are_read_and_damaged_lines_named(tmp_path: Path) -> None:
    text = ": capitals\n\nParis:France::Rome:Italy\n# more\nking queen man woman\nnew york,usa,san jose,costa rica\n"
    assert read_analogies(write(tmp_path / "a.txt", text)) == [
        ("Paris", "France", "Rome", "Italy"),
        ("king", "queen", "man", "woman"),
        ("new york", "usa", "san jose", "costa rica"),
    ]
    square = write(tmp_path / "m.csv", ",a,b,c\na,1,.5,.2\nb,.7,1,\nc,.2,.1,1\n")
    pairs = read_similarities(square)
    assert pairs == {("a", "b"): pytest.approx(0.6), ("a", "c"): 0.2, ("b", "c"): 0.1}
    assert read_similarities(write(tmp_path / "l.csv", "x,y,score\nb,a,.6\na,c,.2\nb,c,.1\n")) == pairs
    for name, content, said in (
        ("one.txt", "a:b::c\n", "line 1: 'a:b::c' is no analogy"),
        ("two.csv", "a,b,1\nb,c,x\na,c,2", "line 2: 'x' is no number"),
        ("three.csv", "a,b,1\nb,a,2\n", "has 1 pairs"),
    ):
        read: Any = read_analogies if name.endswith("txt") else read_similarities
        with pytest.raises(BadInput, match=said):
            read(write(tmp_path / name, content))
    with pytest.raises(BadInput, match="No such file"):
        read_analogies(str(tmp_path / "none.txt"))


def test_words_and_classes_are_correlated_with_what_people_say(copy: Path, tmp_path: Path) -> None:
    run = load(copy)
    run.model.eval()
    embedded = embed_manifest(run, evaluated_rows(run.config.data, 0, None, None, None).rows)
    names = embedded.classes[:6]
    draw = np.random.default_rng(0)
    lines = [f"{a},{b},{draw.random():.3f}" for k, a in enumerate(names) for b in names[:k]] + ["seven,unicorn,0.5"]
    matrix = write(tmp_path / "h.csv", "\n".join(lines))
    asked = write(tmp_path / "a.txt", f"{names[0]}:{names[1]}::{names[2]}:{names[3]}\n{names[0]}:{names[1]}::up:down\n")
    result = evaluate_run(copy, [], Settings(resamples=40, matrix=matrix, analogies=asked), say=quiet)
    assert {"similarity", "analogies"} <= {*result}
    assert "zeroshot" not in result, "what a file is given for is asked alone"
    human = [float(line.rpartition(",")[2]) for line in lines[:-1]]

    def cosines(rows: torch.Tensor) -> torch.Tensor:
        return torch.stack([rows[k] @ rows[j] for k in range(6) for j in range(k)])

    z = torch.nn.functional.normalize(embedded.z["image"], dim=1)
    means = [z[embedded.labels == k].mean(0) for k in range(6)]
    image = cosines(torch.nn.functional.normalize(torch.stack(means), dim=1))
    line = result["similarity"]["image"]
    assert line["spearman"] == pytest.approx(stats.spearmanr(image, human).statistic)
    assert line["pearson"] == pytest.approx(stats.pearsonr(image, human).statistic)
    assert (line["pairs"], line["things"], line["unknown_words"]) == (15, 6, 1 if "seven" in names else 2)
    low, high = line["spearman_ci"]
    assert low < line["spearman"] < high
    words = cosines(class_embeddings(run, {name: [name] for name in names}))
    given = [*human, 0.5]
    assert result["similarity"]["text"]["pairs"] == len(given)
    others = [name for name in result["similarity"] if "+" not in name]
    (stacked,) = (line for name, line in result["similarity"].items() if "+" in name)
    assert len(others) == len(embedded.z)
    assert stacked["pairs"] == 15
    assert not torch.equal(words, image)
    told = result["analogies"]
    assert (told["text"]["questions"], told["text"]["skipped"]) == (2, 0)
    assert (told["image"]["questions"], told["image"]["skipped"], told["image"]["unknown_words"]) == (1, 1, 2)
    Path(asked).write_text(f"{names[0]}:{names[2]}::{names[1]}:{names[3]}\n")
    again = evaluate_run(copy, [], Settings(resamples=40, matrix=matrix, analogies=asked), say=quiet)
    assert again["key"] != result["key"], "another content of the file is another question"
    with pytest.raises(BadInput, match="needs --matrix FILE"):
        evaluate_run(copy, ["similarity"], Settings(resamples=0), say=quiet)
