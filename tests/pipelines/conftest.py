"""Data that tests of several rooms share."""

import csv
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import small_models as made_models
from command import Command
from conftest import Once
from recordings import learn
from samples import png, wav

SENTENCES = [
    ("a cat", "a cat", 5),
    ("a cat", "the sun", 0),
    ("sun", "", 2),
    ("ü", "u and v", 1),
    ("one two", "two one", 4),
]


@pytest.fixture(scope="session")
def small_models(once: Once) -> Path:
    """Small models with random weights: of timm, open_clip and transformers."""
    import open_clip

    made = once("small_models", made_models.write)
    open_clip.add_model_config(made / "clx-lora.json")
    return made


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    """60 good rows of image, audio, series, text, table and label; every tenth is test."""
    lines = ["photo,clip,curve,caption,height,label,split"]
    for i in range(60):
        (tmp_path / f"{i}.png").write_bytes(png(i))
        (tmp_path / f"{i}.wav").write_bytes(wav(i, 4000 + 100 * i))
        np.save(tmp_path / f"{i}.npy", np.random.default_rng(i).normal(size=50 + i).astype(np.float32))
        split = "test" if i % 10 == 9 else "train"
        word = "cat" if i % 2 else "dog"
        lines.append(f"{i}.png,{i}.wav,{i}.npy,a photo of a {word} {i},{i / 7:.3f},{word},{split}")
    (tmp_path / "pairs.csv").write_text("\n".join(lines) + "\n")
    return tmp_path / "pairs.csv"


@pytest.fixture
def sentence_pairs(tmp_path: Path) -> Path:
    """40 rows of two sentences and a score; every fifth lacks its second sentence."""
    path = tmp_path / "pairs.csv"
    path.write_text("first,second,score\n" + "".join(f"{a},{b},{s}\n" for a, b, s in SENTENCES * 8))
    return path


@pytest.fixture(scope="module")
def skewed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """400 rows of x and y, nine tenths of them in the first of ten bins."""
    path = tmp_path_factory.mktemp("skewed") / "rows.csv"
    draw = np.random.default_rng(0)
    y = np.concatenate([draw.uniform(0, 1, 360), draw.uniform(1, 10, 40)])
    with path.open("w", newline="") as file:
        lines = csv.writer(file)
        lines.writerow(["x", "y"])
        lines.writerows([f"{v + draw.normal(0, 0.1):.3f}", f"{v:.3f}"] for v in y)
    return path


@pytest.fixture
def write(tmp_path: Path):
    """`write("a.csv", "a,b\\n1,2\\n")`: the path of a file of that content."""

    def made(name: str, content: str | bytes) -> str:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return str(path)

    return made


@pytest.fixture(scope="module")
def recorded(clx: Command, once: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a recording and two runs on its windows, `plain` and `ahead`: see `recordings.learn`."""
    made = once("recorded", lambda folder: learn(clx, folder))
    return Path(shutil.copytree(made, tmp_path_factory.mktemp("copy") / "recorded"))
