"""What mined columns and merged weights are worth: short trainings on pairs with them and without.

The settings were fixed before any of them was run, but for the number of steps, which is the same on both sides.
"""

import csv
import json
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import numpy as np

from clx.pipelines.config.options import parse
from clx.pipelines.config.schema import Config
from clx.pipelines.evaluation.evaluate import evaluate_run
from clx.pipelines.evaluation.results import Settings
from clx.pipelines.experiments.train import train
from clx.pipelines.system.errors import BadInput, nearest
from clx.pipelines.system.progress import Silent
from clx.pipelines.use.embed import embed
from clx.pipelines.use.embedding_tables import EmbeddingOptions
from clx.pipelines.use.merge import By, merge
from clx.pipelines.use.mine import mine
from clx.pipelines.use.mine_wanted import Wanted
from clx.pipelines.use.mined_sides import Model

Row = dict[str, Any]
WRONG = 0.2
"""Share of pairs whose partners are swapped."""
HARD = Wanted(negatives=2, ranks=(3, 30), relative=0.05, draw="random")
ANY = Wanted(negatives=2, ranks=(1, 1 << 20), draw="random")
SENTENCES = "one->two"
MERGED: tuple[By, ...] = ("average", "delta", "slerp")


@dataclass(frozen=True)
class Bench:
    """What the trainings have in common."""

    data: Path
    """The folder that holds `stsb_dir` and `stamps`."""
    work: Path
    encoder: str
    """Of texts; one that others trained stays as it is under a head that learns."""
    pictures: str
    """The encoder of pictures, likewise."""
    steps: int

    def text(self, column: str, head: str = "linear") -> Row:
        same = {"kind": "text", "column": column, "encoder": self.encoder, "head": head, "augmentation": "none"}
        return same | as_it_is(self.encoder)

    def picture(self, column: str) -> Row:
        same = {"kind": "image", "column": column, "encoder": self.pictures}
        return same | (as_it_is(self.pictures) or {"width": 16, "size": 32})

    def trained(self, name: str, source: Path, modalities: Row, seed: int, **more: Any) -> Path:
        """A run on the train rows of a source, the first two modalities aligned."""
        inputs = list(modalities)[:2]
        objective = {"name": "infonce", "inputs": inputs, "temperature": 0.05}
        if "wrong" in modalities:
            objective["negatives"] = ["wrong"]
        raw: Row = {
            "data": {"train": str(source), "cache": "memory"},
            **{"modalities": modalities, "embed_dim": 128, "objective": objective, "eval": []},
            "train": {"steps": self.steps, "batch_size": 64, "lr": 1e-3, "seed": seed},
        } | more
        train(parse(Config, raw, "bench mine"), self.work / name, Silent(), overwrite=True)
        return self.work / name

    def found(self, run: Path, asked: str) -> float:
        """R@1 of the test rows, such as `picture->text`."""
        said = evaluate_run(run, ["retrieval"], Settings(resamples=0), split="test", say=lambda text: None)
        return float(said["retrieval"][asked]["R@1"])

    def sentences(self) -> tuple[Path, list[Row]]:
        """Pairs of STS-B of score 4 and more: those of its training file, and as test rows those of the others."""
        rows = []
        for name in ("train", "val", "test"):
            for row in read(self.data / "stsb_dir" / f"{name}.csv"):
                if float(row["score"]) >= 4:
                    split = "train" if name == "train" else "test"
                    rows.append({"one": row["sentence1"], "two": row["sentence2"], "split": split})
        return write(self.work / "pairs.csv", rows), rows

    def two_sentences(self) -> Row:
        return {"one": self.text("one"), "two": {"like": "one", "column": "two"}}


def as_it_is(encoder: str) -> Row:
    """What keeps an encoder that others trained as it is; nothing of one that begins at random weights."""
    trained = ":" in encoder or encoder in ("efficientnet-lite0", "wordllama")
    return {"freeze": True, "augmentation": "none"} if trained else {}


def read(path: Path) -> list[Row]:
    try:
        with path.open(encoding="utf-8", newline="") as file:
            return list(csv.DictReader(file))
    except OSError as error:
        raise BadInput(f"{path}: {error.strerror}; --data names the folder") from None


def write(path: Path, rows: Sequence[Row]) -> Path:
    with path.open("w", encoding="utf-8", newline="") as file:
        lines = csv.DictWriter(file, rows[0])
        lines.writeheader()
        lines.writerows(rows)
    return path


def consistent(bench: Bench, seed: int) -> dict[str, float]:
    """Swapped pairs, found by the encoder as it is; R@1 of runs on all rows, on those kept, and without a swap."""
    _, rows = bench.sentences()
    count = sum(row["split"] == "train" for row in rows)
    swapped = np.random.default_rng(seed).permutation(count)[: round(WRONG * count)]
    partners = [rows[k]["two"] for k in swapped]
    dirty = [{**row, "swapped": 0} for row in rows]
    for k, partner in zip(swapped, [*partners[1:], *partners[:1]], strict=True):
        dirty[k] |= {"two": partner, "swapped": int(partner != rows[k]["two"])}
    source = write(bench.work / "dirty.csv", dirty)
    plain = {"one": bench.text("one", "none"), "two": {"like": "one", "column": "two"}}
    width = 384 if bench.encoder == "hf:minilm" else 128
    nothing = {"name": "infonce", "inputs": ["one", "two"], "learn_temperature": True}  # but its temperature
    one_step = {"steps": 1, "batch_size": 64, "seed": seed}
    as_it_is = bench.trained("encoder", source, plain, seed, embed_dim=width, objective=nothing, train=one_step)
    embed(as_it_is, bench.work / "dirty.parquet", str(source), EmbeddingOptions(), overwrite=True)
    found: dict[str, float] = {}
    runs = {"clean": bench.work / "pairs.csv", "all": source}
    for near in (2, 20):
        out = bench.work / f"kept{near}.csv"
        vectors = Model(embeddings=bench.work / "dirty.parquet")
        mine(str(source), out, vectors, Wanted(consistent=near), split="train", overwrite=True)
        kept = read(out)
        wrong = sum(row["swapped"] for row in dirty)
        missed = sum(row["swapped"] == "1" for row in kept)
        found[f"recall of {near}"] = (wrong - missed) / wrong
        found[f"precision of {near}"] = (wrong - missed) / max(1, count - len(kept))
        runs[f"kept by {near}"] = write(out, [*kept, *(row for row in dirty if row["split"] == "test")])
    for name, path in runs.items():
        found[f"R@1 {name}"] = bench.found(bench.trained("retriever", path, bench.two_sentences(), seed), SENTENCES)
    return found


def negatives(bench: Bench, source: Path, modalities: Row, seed: int) -> dict[str, float]:
    """R@1 of a run, and of runs with negatives that it mined, and with any others, through the tower of texts."""
    asking, text = modalities
    asked, tower = f"{asking}->{text}", modalities[text].get("like", text)
    first = bench.trained("first", source, modalities, seed)
    found = {"R@1 without": bench.found(first, asked)}
    for name, wanted in (("mined", HARD), ("any", ANY)):
        out = source.with_name("mined.csv")  # beside the files that its cells name
        mine(str(source), out, Model(str(first)), wanted, overwrite=True)
        wrong = {"wrong": {"like": tower, "column": ["negative_*"]}}
        found[f"R@1 {name}"] = bench.found(bench.trained("second", out, modalities | wrong, seed), asked)
        out.unlink()
    return found


def on_sentences(bench: Bench, seed: int) -> dict[str, float]:
    source, _ = bench.sentences()
    return negatives(bench, source, bench.two_sentences(), seed)


def on_stamps(bench: Bench, seed: int) -> dict[str, float]:
    """Pictures to English descriptions."""
    here = bench.work / "stamps"
    if not here.exists():
        try:
            shutil.copytree(bench.data / "stamps" / "image", here / "image")
        except OSError as error:
            raise BadInput(f"{bench.data / 'stamps'}: {error.strerror}; --data names the folder") from None
        keys = ("image", "text_en", "split")
        write(here / "stamps.csv", [{k: row[k] for k in keys} for row in read(bench.data / "stamps" / "stamps.csv")])
    few = {"head_dropout": 0.5}  # 552 training rows
    both = {"picture": bench.picture("image") | few, "text": bench.text("text_en") | few}
    return negatives(bench, here / "stamps.csv", both, seed)


def merged(bench: Bench, seed: int) -> dict[str, float]:
    """R@1 of a run on a third of the pairs, of two fine-tunings of it on another third each, and of these merged."""
    _, rows = bench.sentences()
    third = np.random.default_rng(seed).integers(3, size=len(rows))
    files = [
        write(
            bench.work / f"third{k}.csv",
            [row for row, of in zip(rows, third, strict=True) if of == k or row["split"] == "test"],
        )
        for k in range(3)
    ]
    both = bench.two_sentences()
    base = bench.trained("base", files[0], both, seed)
    start: Row = {"stages": [{"run": str(base)}, {}]}
    a, b = (bench.trained(name, files[k], both, seed, **start) for k, name in ((1, "a"), (2, "b")))
    found = {"R@1 base": bench.found(base, SENTENCES), "R@1 a": bench.found(a, SENTENCES)}
    found["R@1 b"] = bench.found(b, SENTENCES)
    for by in MERGED:
        out = bench.work / by
        merge([a, b], out, by, base=base if by == "delta" else None, checkpoint="last", overwrite=out.exists())
        found[f"R@1 {by}"] = bench.found(out, SENTENCES)
    return found


EXPERIMENTS: Mapping[str, Callable[[Bench, int], dict[str, float]]] = {
    "consistent": consistent,
    "stsb": on_sentences,
    "stamps": on_stamps,
    "merged": merged,
}


def table(
    names: Sequence[str],
    data: Path,
    seeds: int,
    steps: int,
    encoder: str,
    pictures: str,
    log: Path | None,
    say: Callable[[str], None],
) -> list[Row]:
    """A row for each figure of each experiment: its mean and standard deviation over the seeds.

    Args:
        names: of `EXPERIMENTS`; all when empty.
        data: the folder that the pairs lie in.
        log: a JSONL file to which a line is added for each seed; those that it has of the same settings are kept.
        say: hears of each line.

    Raises `BadInput`.
    """
    for name in names:
        if name not in EXPERIMENTS:
            raise BadInput(f"no experiment {name!r}{nearest(name, EXPERIMENTS)}")
    asked = {"encoder": encoder, "pictures": pictures, "steps": steps}
    known = {
        (line["experiment"], line["seed"]): line["figures"]
        for line in (_lines(log) if log else [])
        if {key: line[key] for key in asked} == asked
    }
    rows = []
    for name in names or EXPERIMENTS:
        found = []
        for seed in range(seeds):
            if (name, seed) not in known:
                begun = time.monotonic()
                with tempfile.TemporaryDirectory() as folder:
                    known[name, seed] = EXPERIMENTS[name](Bench(data, Path(folder), encoder, pictures, steps), seed)
                shown = ", ".join(f"{what} {value:.3f}" for what, value in known[name, seed].items())
                say(f"{name}, seed {seed}: {shown} in {time.monotonic() - begun:.0f} s")
                if log is not None:
                    with log.open("a", encoding="utf-8") as file:
                        line = {"experiment": name, "seed": seed, **asked, "figures": known[name, seed]}
                        file.write(json.dumps(line) + "\n")
            found.append(known[name, seed])
        for what in found[0]:
            values = [one[what] for one in found]
            deviation = stdev(values) if seeds > 1 else 0.0
            rows.append({"experiment": name, "figure": what, "mean": fmean(values), "deviation": deviation})
    return rows


def _lines(log: Path) -> list[Row]:
    if not log.exists():
        return []
    try:
        lines = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
        keys = ("experiment", "seed", "encoder", "pictures", "steps", "figures")
        return [{key: line[key] for key in keys} for line in lines]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BadInput(f"{log} is not a log of this command: {error}") from None
