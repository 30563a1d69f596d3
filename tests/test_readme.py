"""Every README's blocks run, in order, in a folder of its own, and the commands that it shows have the flags shown."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from command import prepared

ROOT = Path(__file__).parent.parent
STORY = ROOT / "README.md"
FOLDERS = ("cli", "losses", "modalities", "pipelines", "tests")
READMES = [STORY, *sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob("README.md"))]
BLOCK = re.compile(r"^```(sh|python)\n(.*?)^```", re.DOTALL | re.MULTILINE)
INSTALL = re.compile(r"python3 -m venv|pip install|apt install")
COPY = "cp -al $DIGITS/audio $DIGITS/image $DIGITS/series"
FEW = "-s data.train=$DIGITS/few.csv"
# Training to the end takes minutes, a few steps on a few rows show that the command is right.
SHORTER = {
    "clx train digits\n": f"clx train digits {FEW} -s train.steps=3 -s train.batch_size=32\n",
    "clx train digits -s train.lr": f"clx train digits {FEW} -s train.batch_size=32 -s train.lr",
    "clx train digits --steps": f"clx train digits {FEW} --steps",
    "clx sweep digits ": f"clx sweep digits {FEW} -s train.batch_size=32 ",
    "--data digits ": "--data $DIGITS/few.csv ",
    "--batch-size 16 --out parts": "--batch-size 4 --out parts",
    'train("digits", "runs/digits", [': 'train("digits", "runs/digits", ["data.train=$DIGITS/few.csv", ',
    "clx train stamps\n": "clx train stamps -s data.root=tuxpaint -s modalities.image.encoder=cnn "
    "-s modalities.image.size=16 -s modalities.text_en.encoder=transformer -s train.steps=1 -s train.batch_size=8 "
    "-s eval=[]\n",
    "/usr/share/tuxpaint/stamps/": "tuxpaint/",
    "clx train digits --minutes 0.02": f"clx train digits {FEW} -s train.batch_size=32 --minutes 0.004",
    "-s train.steps=20 -o runs/short": "-s train.steps=2 -o runs/short",
    "train: {steps: 20, batch_size: 64}\nEND\nclx train base.yaml": "train: {steps: 2, batch_size: 64}\nEND\n"
    "clx train base.yaml",
    "train: {steps: 10, batch_size: 64}\nstages": "train: {steps: 2, batch_size: 64}\nstages",
    "NR % 50 == 0": "NR % 9 == 0",
    "clx train my.yaml ": "clx train my.yaml -s train.steps=3 ",
    "clx train digits-sum ": "clx train digits-sum -s eval=[] -s train.batch_size=32 ",
    "-s train.lr=$rate ": "-s train.lr=$rate -s eval=[] -s train.batch_size=32 ",
    "clx train forecast -s train.steps=20": "clx train forecast -s train.steps=1 -s eval=[] -s data.windows.stride=32",
    "--horizons 24,168": "--horizons 24",
    "--task probe --task knn ": "",
    "clx report runs/digits ": "clx report --rows 150 --points 150 runs/digits ",
    "-s eval='[zeroshot]' --json": "-s eval='[]' -s train.batch_size=32 --json",
    "clx train rotation -s train.steps=20 ": "clx train rotation -s train.steps=2 ",
    "data: {train: digits, label: label}\n": "data: {train: $DIGITS/few.csv, label: label}\n",
    # The same files, written once.
    "clx data make digits some  ": f"mkdir some; {COPY} some; cp $DIGITS/few.csv some/manifest.csv #",
    "clx data make digits some-digits\n": f"mkdir some-digits; {COPY} some-digits; "
    "cp $DIGITS/few.csv some-digits/manifest.csv\n",
    f"clx data make digits some-digits{' ' * 24}# built-in data as PNG": f"mkdir some-digits; {COPY} "
    "$DIGITS/manifest.csv some-digits #",
}


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def shortened(script: str) -> str:
    """Without the lines that install, and with few steps."""
    script = "".join(f"{line}\n" for line in script.splitlines() if not INSTALL.search(line))
    for command, shorter in SHORTER.items():
        script = script.replace(command, shorter)
    return script


def pairs(folder: Path) -> None:
    """The `pairs.csv` of the story: 40 coloured squares with words."""
    lines = ["caption,photo,split"]
    draw = np.random.default_rng(0)
    for k, colour in enumerate(["red", "green", "blue", "black"] * 10):
        pixels = np.array(Image.new("RGB", (16, 16), colour)) // 2 + draw.integers(99, size=(16, 16, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{k}.png")
        lines.append(f"a {colour} square number {k},{k}.png,{'test' if k > 31 else 'train'}")
    (folder / "pairs.csv").write_text("\n".join(lines) + "\n")


def stamps(folder: Path, sound: Path) -> None:
    """A stand-in for the stamps of Tux Paint, `tuxpaint`: the squares of `pairs`, with words and one sound for all."""
    fruit = folder / "tuxpaint/food/fruit"
    fruit.mkdir(parents=True)
    for k in range(40):
        stem = "pineapple" if k == 0 else f"fruit-{k}"
        shutil.copy(folder / f"{k}.png", fruit / f"{stem}.png")
        words = [f"Fruit {k}.", *(f"{language}.utf8={language} {k}." for language in ("fr", "es", "de", "ru"))]
        (fruit / f"{stem}.txt").write_text("\n".join(words) + "\n")
        for language in ("fr", "es", "ru", "ro"):
            shutil.copy(sound, fruit / f"{stem}_desc_{language}.ogg")


def test_the_story_is_told_in_order() -> None:
    headings = re.findall(r"^## (.*)$", STORY.read_text(), re.MULTILINE)
    assert headings[:3] == ["First run", "Zero-shot from the command line", "Your own CSV in three lines"]


@pytest.mark.parametrize(
    "path", [pytest.param(path, marks=pytest.mark.longest if path == STORY else ()) for path in READMES], ids=name
)
def test_blocks_run(path: Path, commands: Path, files: Path, tmp_path: Path) -> None:
    """A block of Python is a program of its own, or a session with `>>>` and what Python answers."""
    pairs(tmp_path)
    if path == STORY:
        stamps(tmp_path, next((files / "audio").iterdir()))
    environment = os.environ | {"PATH": f"{commands}:{Path(sys.executable).parent}:{os.environ['PATH']}"}
    for language, block in BLOCK.findall(path.read_text()):
        script = shortened(block).replace("$DIGITS", str(files))
        call = ["bash", "-euo", "pipefail", "-c", script]
        if language == "python":
            (tmp_path / "program.txt").write_text(script)
            call = ["python-once", "program.txt"]
        done = subprocess.run(call, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, f"{block}\n{done.stdout}\n{done.stderr}"


def test_what_is_shortened_is_shown() -> None:
    blocks = [block for path in READMES for _, block in BLOCK.findall(path.read_text())]
    assert [command for command in SHORTER if not any(command in block for block in blocks)] == []


def calls(path: Path) -> Iterator[list[str]]:
    """The words after each `clx`, to the end of its command, in shell blocks and in the text."""
    text = path.read_text()
    shell = [block for language, block in BLOCK.findall(text) if language == "sh"]
    spans = re.findall(r"`(clx [^`]+)`", re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE))
    lines = [line for block in shell for line in block.replace("\\\n", " ").splitlines()]
    for line in [*lines, *(span.replace("\n", " ") for span in spans)]:
        if not re.search(r"\bclx\b", line):  # part of a quotation over several lines, perhaps
            continue
        lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
        lexer.whitespace_split = True
        words: list[str] | None = None
        for word in lexer:
            if set(word) <= set("();<>|&"):
                if words:
                    yield words
                words = None
            elif words is not None:
                words.append(word)
            elif word == "clx":
                words = []
        if words:
            yield words


def unknown(words: list[str]) -> list[str]:
    """The words of a call that are commands or flags, and that there are not."""
    command, found = prepared(), []
    for word in words:
        flags = {"--help", *(flag for each in command.params for flag in [*each.opts, *each.secondary_opts])}
        inner = getattr(command, "commands", {})
        if re.fullmatch(r"--?[a-z][a-z-]*(=.*)?", word):
            found += [word] if word.split("=")[0] not in flags else []
        elif word in inner:
            command = inner[word]
        elif inner:
            found.append(word)
    return found


SHOWN = [(path, words) for path in [*READMES, ROOT / "METHODS.md"] for words in calls(path)]


@pytest.mark.parametrize(
    ("path", "words"), SHOWN, ids=[f"{name(path)}: {' '.join(words)[:40]}" for path, words in SHOWN]
)
def test_flags_exist(path: Path, words: list[str]) -> None:
    assert unknown(words) == []


def test_a_flag_of_another_command_is_none() -> None:
    assert unknown(["train", "digits", "--task", "knn", "-s", "train.lr=1"]) == ["--task"]
    assert unknown(["data", "check", "a.csv", "--config=c.yaml", "--jsno"]) == ["--jsno"]
    assert unknown(["--debug", "recipes", "--schema"]) == []
    assert unknown(["dta", "check"]) == ["dta", "check"]
