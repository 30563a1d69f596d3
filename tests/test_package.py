"""The wheel holds the program, and only under `clx`."""

import subprocess
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).parent.parent


def test_a_wheel_runs(tmp_path: Path) -> None:
    """Built from a copy of the tracked files, so that leftovers of earlier builds cannot hide a missing one."""
    source = tmp_path / "source"
    listed = subprocess.run(["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True)
    for name in listed.stdout.splitlines():
        if name.split("/")[0] != "tests" and (ROOT / name).is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes((ROOT / name).read_bytes())
    build = [sys.executable, "-m", "build", "--wheel", "--outdir", str(tmp_path), str(source)]
    subprocess.run(build, check=True, capture_output=True, timeout=300)
    [wheel] = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        tops = {name.split("/")[0] for name in archive.namelist()}
        assert tops == {"clx", wheel.name.split("-py3")[0] + ".dist-info"}
        assert "clx/pipelines/config/recipes/digits.yaml" in archive.namelist()
        archive.extractall(tmp_path / "unpacked")
    # Run from the unpacked wheel, in front of the editable install.
    code = (
        f"import sys; sys.path.insert(0, {str(tmp_path / 'unpacked')!r}); "
        "[sys.meta_path.remove(f) for f in list(sys.meta_path) if 'editable' in repr(f).lower()]; "
        "sys.argv = ['clx', 'recipes', 'digits']; import clx.cli.main as m; assert 'unpacked' in m.__file__; m.main()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("# ")
