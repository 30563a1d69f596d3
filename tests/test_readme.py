"""The README's shell blocks run, in order, in one folder, and every flag and recipe that it names exists."""

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"^```sh\n(.*?)^```", README, re.DOTALL | re.MULTILINE)
INSTALL = re.compile(r"python3 -m venv|pip install")
# Training to the end takes minutes, a few steps show that the command is right.
SHORTER = {
    "clx train digits\n": "clx train digits -s train.steps=3 -s train.batch_size=32\n",
    "clx train my.yaml ": "clx train my.yaml -s train.steps=3 ",
    "clx train digits-sum ": "clx train digits-sum -s eval=[] -s train.batch_size=32 ",
    "-s train.lr=$rate ": "-s train.lr=$rate -s eval=[] -s train.batch_size=32 ",
    "clx train forecast -s train.steps=20": "clx train forecast -s train.steps=1 -s eval=[]",
    "--horizons 24,168": "--horizons 24",
    "--task probe --task knn ": "",
    "clx report runs/digits ": "clx report --rows 150 --points 150 runs/digits ",
    "-s eval='[zeroshot]' --json": "-s eval='[]' -s train.batch_size=32 --json",
}


def test_the_story_is_told_in_order() -> None:
    headings = re.findall(r"^## (.*)$", README, re.MULTILINE)
    assert headings[:3] == ["First run", "Zero-shot in one line", "Your own CSV in three lines"]


def test_blocks_run(commands: Path, tmp_path: Path) -> None:
    pairs = ["caption,photo,split"]
    draw = np.random.default_rng(0)
    for k, colour in enumerate(["red", "green", "blue", "black"] * 10):
        pixels = np.array(Image.new("RGB", (16, 16), colour)) // 2 + draw.integers(99, size=(16, 16, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{k}.png")
        pairs.append(f"a {colour} square number {k},{k}.png,{'test' if k > 31 else 'train'}")
    (tmp_path / "pairs.csv").write_text("\n".join(pairs) + "\n")
    environment = os.environ | {"PATH": f"{commands}:{Path(sys.executable).parent}:{os.environ['PATH']}"}
    for block in BLOCKS:
        script = "\n".join(line for line in block.splitlines() if not INSTALL.search(line)) + "\n"
        for command, shorter in SHORTER.items():
            script = script.replace(command, shorter)
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", script],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert done.returncode == 0, f"{script}\n{done.stdout}\n{done.stderr}"


def flags() -> list[str]:
    """Every flag on a line that calls clx, in code blocks and in the text."""
    calls = re.findall(r"clx [^`]*", README)
    return sorted({flag for call in calls for flag in re.findall(r"(?<=\s)--[a-z][a-z-]*", call)})


@pytest.mark.parametrize("flag", flags())
def test_flags_exist(flag: str) -> None:
    source = "".join(path.read_text() for path in (ROOT / "cli").glob("*.py"))
    name = flag.removeprefix("--").replace("-", "_")
    assert f'"{flag}"' in source or re.search(rf"^    {name}: Annotated", source, re.MULTILINE)
