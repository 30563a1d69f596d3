"""`clx report` as a user runs it, and its page as a browser draws it."""

import json
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@pytest.fixture
def run(digits_run: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(digits_run, tmp_path / "a run"))


def rewrite(path: Path, old: str, new: str) -> None:
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new), encoding="utf-8")


def test_one_run(clx: Callable[..., Any], run: Path) -> None:
    done = clx("report", run, "-o", "page.html", "--rows", 100, "--points", 90, "--json", cwd=run.parent)
    assert done.returncode == 0, done.stderr
    (line,) = done.stdout.splitlines()
    made = json.loads(line)
    page = run.parent / made["report"]
    assert made["bytes"] == page.stat().st_size < 1_000_000
    assert made["runs"][0]["left_out"] == []
    assert made["runs"][0]["logged"] == len((run / "metrics.jsonl").read_text().splitlines())
    again = clx("report", run, "-o", "page.html", "--rows", 0, cwd=run.parent)  # its own page may be replaced
    assert (again.returncode, again.stdout) == (0, "page.html\n")
    assert page.stat().st_size < 0.7 * made["bytes"]


def test_a_page_of_other_runs_is_replaced_only_when_asked(clx: Callable[..., Any], run: Path) -> None:
    other = shutil.copytree(run, run.parent / "b")
    page = ("-o", "page.html", "--rows", 0)
    assert clx("report", run, "b", *page, cwd=run.parent).returncode == 0
    assert clx("report", "b", run.name, *page, cwd=run.parent).returncode == 0  # the same two
    before = (run.parent / "page.html").read_bytes()
    done = clx("report", other, *page, cwd=run.parent)
    assert (done.returncode, (run.parent / "page.html").read_bytes()) == (2, before)
    assert "page.html exists and is a report of other runs" in done.stderr
    assert "or replace it with --overwrite" in done.stderr
    assert clx("report", other, *page, "--overwrite", cwd=run.parent).returncode == 0
    assert (run.parent / "page.html").read_bytes() != before


def test_moved_data_leave_curves_and_figures(clx: Callable[..., Any], run: Path, files: Path, tmp_path: Path) -> None:
    rewrite(run / "config.yaml", f"train: {files}/few.csv", f"train: {tmp_path}/gone.csv")
    done = clx("report", run, "-o", tmp_path / "page.html", "--json")
    assert done.returncode == 0, done.stderr
    (left,) = json.loads(done.stdout)["runs"][0]["left_out"]
    assert "gone.csv" in left
    page = (tmp_path / "page.html").read_text()
    assert left in page
    assert '"grad_norm"' in page
    elsewhere = clx("report", run, "-o", tmp_path / "page.html", "--data", "digits", "--rows", 50, "--json")
    assert elsewhere.returncode == 0, elsewhere.stderr
    assert json.loads(elsewhere.stdout)["runs"][0]["left_out"] == []


def test_without_a_checkpoint_or_with_half_a_line(clx: Callable[..., Any], run: Path, tmp_path: Path) -> None:
    shutil.rmtree(run / "checkpoints")
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"step": 99, "lo')
    before = (run / "metrics.jsonl").read_bytes()
    done = clx("report", run, "-o", tmp_path / "page.html", "--json")
    assert done.returncode == 0, done.stderr
    assert "no checkpoint" in json.loads(done.stdout)["runs"][0]["left_out"][0]
    assert (run / "metrics.jsonl").read_bytes() == before  # a run that goes on is only read


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["nowhere"], "nowhere is not a run folder"),
        (["RUN", "RUN"], "is given twice"),
        (["RUN", "-o", "mine.html"], "mine.html exists and is no report of clx"),
        (["RUN", "-o", "."], "is a folder"),
        (["RUN", "--data", "gone.csv"], "gone.csv"),
        (["RUN", "--split", "nosuch"], "no row has the split 'nosuch'"),
        (["RUN", "--checkpoint", "7"], "has no checkpoint '7'"),
        (["RUN", "--rows", "-1"], "Invalid value for '--rows'"),
    ],
)
def test_bad_input_is_one_line(
    clx: Callable[..., Any], digits_run: Path, tmp_path: Path, args: list[str], said: str
) -> None:
    (tmp_path / "mine.html").write_text("<p>mine</p>")
    done = clx("report", *(digits_run if arg == "RUN" else arg for arg in args), cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    assert said in done.stderr.splitlines()[-1]
    assert done.stdout == ""
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine.html"]
    assert (tmp_path / "mine.html").read_text() == "<p>mine</p>"


PROBE = """<!doctype html><iframe src="page.html" width="WIDTH" height="800"></iframe><pre id="found"></pre><script>
onload = () => setTimeout(function look() {
  const page = document.querySelector("iframe").contentWindow, inside = page.document, found = {};
  const curve = inside.querySelector("#curves svg");
  const map = inside.querySelector("canvas[aria-label='map of the embeddings']");
  const matrix = inside.querySelector("canvas[aria-label='confusion matrix']");
  if (!curve || !map || !matrix) return setTimeout(look, 500);
  found.wider = inside.documentElement.scrollWidth - inside.documentElement.clientWidth;
  found.dark = page.matchMedia("(prefers-color-scheme: dark)").matches;
  const colours = (canvas) => {
    const pixels = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
    return new Set(new Uint32Array(pixels.buffer)).size;
  };
  found.canvases = [...inside.querySelectorAll("#panels canvas")].map(colours);
  found.curves = [...inside.querySelectorAll("#curves svg")].map((each) => each.querySelectorAll("path.line").length);
  const at = (node, x, y) => {
    const box = node.getBoundingClientRect(), how = { bubbles: true, pointerType: "touch" };
    how.clientX = box.left + box.width * x; how.clientY = box.top + box.height * y;
    node.dispatchEvent(new page.PointerEvent("pointerdown", how));
    return inside.getElementById("tip").hidden ? "" : inside.getElementById("tip").textContent;
  };
  found.curve = at(curve, 0.5, 0.5);
  found.map = "";
  for (let k = 0; k < 400 && !found.map; k++) found.map = at(map, (k % 20) / 20, Math.floor(k / 20) / 20);
  found.matrix = at(matrix, 0.9, 0.9);
  let changes = 0;
  for (const select of inside.querySelectorAll("#panels select")) for (let k = 0; k < select.options.length; k++) {
    select.value = k; select.dispatchEvent(new page.Event("change")); changes++;
  }
  for (const button of inside.querySelectorAll("button")) button.click();
  found.changes = changes;
  document.getElementById("found").textContent = JSON.stringify(found);
}, 1500);
</script>"""


@pytest.mark.skipif(CHROMIUM is None, reason="needs chromium")
@pytest.mark.parametrize(("width", "dark"), [(375, True), pytest.param(1280, False, marks=pytest.mark.slow)])
def test_a_browser_draws_it(clx: Callable[..., Any], digits_run: Path, tmp_path: Path, width: int, dark: bool) -> None:
    done = clx("report", digits_run, "-o", tmp_path / "page.html", "--rows", 120, "--points", 120)
    assert done.returncode == 0, done.stderr
    (tmp_path / "probe.html").write_text(PROBE.replace("WIDTH", str(width)))
    browser = subprocess.run(
        [
            str(CHROMIUM),
            *("--headless", "--no-sandbox", "--disable-gpu", "--dump-dom", "--allow-file-access-from-files"),
            *(f"--user-data-dir={tmp_path}/profile", "--enable-logging=stderr", "--virtual-time-budget=20000"),
            f"--blink-settings=preferredColorScheme={0 if dark else 1}",
            (tmp_path / "probe.html").as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=100,
    )
    console = [line for line in browser.stderr.splitlines() if "CONSOLE" in line]
    assert console == []
    text = re.search(r'<pre id="found">(.*?)</pre>', browser.stdout, re.DOTALL)
    assert text, browser.stdout[-500:]
    assert text[1], browser.stderr[-2000:]
    found = json.loads(text[1].replace("&amp;", "&").replace("&gt;", ">").replace("&lt;", "<"))
    assert found["wider"] <= 0
    assert found["dark"] == dark
    assert len(found["canvases"]) == 3  # confusion, map, similarity
    assert all(colours > 5 for colours in found["canvases"])
    assert len(found["curves"]) >= 4
    assert all(found["curves"])
    assert found["curve"].startswith("step ")
    assert "few.csv row" in found["map"]
    assert " called " in found["matrix"]
    assert found["changes"] > 5


def test_a_leaderboard_takes_no_options_of_rows(clx: Callable[..., Any], run: Path, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    done = clx("report", "--leaderboard", run, "--split", "val", "--rows", 5, "-o", page)
    assert (done.returncode, done.stdout, page.exists()) == (2, "", False)
    assert done.stderr.startswith("error: --split, --rows with --leaderboard")
