"""`clx data` and `clx init` through the command."""

import json

from clx.pipelines.config.load import load_config
from samples import png


def test_commands(clx, tmp_path) -> None:
    for i in range(4):
        (tmp_path / f"{i}.png").write_bytes(png(i)[: 60 if i == 3 else None])
    (tmp_path / "pairs.csv").write_text("image,text\n" + "".join(f"{i}.png,a picture of {i}\n" for i in range(4)))
    done = clx("data", "check", "pairs.csv", cwd=tmp_path)
    assert done.returncode == 3, done.stderr
    assert done.stderr.strip() == "error: pairs.csv: 1 bad cell"
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert [(row["column"], row["use"]) for row in rows[:2]] == [("image", "input image"), ("text", "input text")]
    assert rows[2] == {"split": "train", "rows": 4, "from": "all rows"}
    assert [row.get("input") for row in rows[3:]] == ["image", "text", None]
    assert rows[-1]["where"] == "pairs.csv row 4"
    done = clx("init", "pairs.csv", "-o", "r.yaml", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert load_config(str(tmp_path / "r.yaml")).data.train == "pairs.csv"
    done = clx("data", "check", "no.csv", "--json", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: data no.csv: no such file or folder")


def test_make_and_list_commands(clx, tmp_path) -> None:
    done = clx("data", "make", "aeon:UnitTest", "out", cwd=tmp_path)
    assert (done.returncode, done.stdout.strip()) == (0, "out/manifest.csv")
    assert clx("data", "make", "aeon:UnitTest", "out", cwd=tmp_path).returncode == 2
    names = [json.loads(line)["name"] for line in clx("data", "list", cwd=tmp_path).stdout.splitlines()]
    assert {"digits", "digits-sum", "aeon:GunPoint", "sklearn:iris"} <= set(names)
