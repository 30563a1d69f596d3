"""What Windows lacks is imported nowhere on the way: every module and the first commands do without."""

import importlib
import subprocess
import sys
import traceback
import warnings
from pathlib import Path

from command import child, ended

ROOT = Path(__file__).parent.parent.parent
BLOCKED = ["fcntl", "resource", "pwd", "grp", "termios"]
WITHOUT = f"""
import sys, warnings
for name in {BLOCKED!r}:
    sys.modules[name] = None  # importing it raises ImportError
warnings.simplefilter("ignore")  # of other packages
"""


def test_every_module_is_imported_without_what_windows_lacks(tmp_path: Path) -> None:
    """Anew in a child of this process, which has what others wrote behind it."""
    files = [path for folder in ("cli", "losses", "modalities", "pipelines") for path in (ROOT / folder).rglob("*.py")]
    names = [".".join(("clx", *path.relative_to(ROOT).with_suffix("").parts)) for path in files]
    modules = sorted(name.removesuffix(".__init__") for name in names)

    def do() -> int:
        for name in [name for name in sys.modules if name.split(".")[0] == "clx"]:
            del sys.modules[name]
        sys.modules.update(dict.fromkeys(BLOCKED))  # type: ignore[arg-type]
        warnings.simplefilter("ignore")  # of other packages
        try:
            for name in modules:
                importlib.import_module(name)
        except BaseException:
            (tmp_path / "said").write_text(traceback.format_exc())
            return 1
        return 0

    assert ended(child(do)) == 0, (tmp_path / "said").read_text()


def test_commands_do_without_them(tmp_path: Path) -> None:
    (tmp_path / "runs" / "one").mkdir(parents=True)
    (tmp_path / "runs" / "one" / "state.json").write_text('{"state": "running", "steps": 3}')
    for args in (["--help"], ["runs", "list"], ["recipes"]):
        code = f"{WITHOUT}\nfrom clx.cli.main import run\nsys.argv = ['clx', *{args!r}]\nsys.exit(run())"
        done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        assert "Traceback" not in done.stderr
