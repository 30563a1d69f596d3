"""Help and usage errors are quick and import nothing heavy."""

import json
import resource
import subprocess
import sys
from typing import Any

import pytest

from command import CLX

HEAVY = ["torch", "numpy", "open_clip", "pyarrow", "sklearn", "tsai", "torchaudio", "PIL"]


def cpu_seconds(*command: str) -> float:
    """CPU time of one call, user and system."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, capture_output=True, check=False, timeout=60)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return (after.ru_utime - before.ru_utime) + (after.ru_stime - before.ru_stime)


@pytest.fixture(scope="module")
def drawing() -> float:
    """CPU time of importing what draws help: what a machine's speed is told by."""
    return min(cpu_seconds(sys.executable, "-c", "import typer.rich_utils") for _ in range(3))


@pytest.mark.parametrize("args", [["--help"], ["train", "--help"], ["train", "--epohcs"], ["--version"]])
def test_help_and_typos_are_cheap(args: list[str], drawing: float) -> None:
    """Less than twice the cost of importing what draws help, at the best of a few times."""
    assert any(cpu_seconds(CLX, *args) < 2 * drawing for _ in range(5))


@pytest.mark.parametrize("args", [["--help"], ["trian"], ["train", "--epohcs", "3"], ["eval", "--help"]])
def test_help_and_typos_import_nothing_heavy(args: list[str]) -> None:
    code = (
        "import sys, json; sys.argv = ['clx', *json.loads(sys.argv[1])]\n"
        "from clx.cli.main import run\n"
        "run()\n"
        f"print('\\nHEAVY', [m for m in {HEAVY} if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code, json.dumps(args)], capture_output=True, text=True, timeout=60)
    assert done.stdout.endswith("HEAVY []\n"), done.stderr


@pytest.mark.parametrize("group", [[], ["runs"], ["data"], ["bench"]])
def test_lists_of_commands_cut_no_sentence_at_80_columns(clx: Any, group: list[str]) -> None:
    _, *lines = clx(*group, "--help").stdout.split("Commands:")[1].split("Examples:")[0].splitlines()
    told = [line for line in lines if line.strip()]
    assert len(told) > 2
    assert [line for line in told if not line.endswith(".") or line.endswith("...") or len(line) > 80] == []


def test_a_closed_pipe_ends_quietly() -> None:
    piped = f"set -o pipefail; {CLX} data list | head -1"
    done = subprocess.run(["bash", "-c", piped], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0
    assert done.stderr == ""
    assert json.loads(done.stdout)["name"] == "digits"


def test_every_encoder_is_listed_with_its_size(clx: Any) -> None:
    done = clx("encoders")
    assert done.returncode == 0, done.stderr
    sizes = {row["encoder"]: row.get("parameters") for row in map(json.loads, done.stdout.splitlines())}
    assert sizes["minirocket"] == 0
    assert sizes["cnn"] > 0
