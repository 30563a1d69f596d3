"""What Windows lacks is imported nowhere on the way: every module and the first commands do without."""

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
BLOCKED = ["fcntl", "resource", "pwd", "grp", "termios"]
WITHOUT = f"""
import importlib, json, sys, warnings
for name in {BLOCKED!r}:
    sys.modules[name] = None  # importing it raises ImportError
warnings.simplefilter("ignore")  # of other packages
"""


def test_every_module_is_imported_without_what_windows_lacks() -> None:
    files = [path for folder in ("cli", "losses", "modalities", "pipelines") for path in (ROOT / folder).rglob("*.py")]
    names = [".".join(("clx", *path.relative_to(ROOT).with_suffix("").parts)) for path in files]
    modules = sorted(name.removesuffix(".__init__") for name in names)
    code = f"{WITHOUT}\nfor name in json.loads(sys.argv[1]):\n    importlib.import_module(name)\n"
    done = subprocess.run(
        [sys.executable, "-c", code, json.dumps(modules)], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr


def test_commands_do_without_them(tmp_path: Path) -> None:
    (tmp_path / "runs" / "one").mkdir(parents=True)
    (tmp_path / "runs" / "one" / "state.json").write_text('{"state": "running", "steps": 3}')
    for args in (["--help"], ["runs", "list"], ["recipes"]):
        code = f"{WITHOUT}\nfrom clx.cli.main import run\nsys.argv = ['clx', *{args!r}]\nsys.exit(run())"
        done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        assert "Traceback" not in done.stderr
