"""`clx init`: recipes that load and fit their data."""

import subprocess
import sys

import pytest

from clx.pipelines.batches.columns import check_columns
from clx.pipelines.config.load import load_config
from clx.pipelines.config.objects import make_losses, make_modalities
from clx.pipelines.data.inferred import Asked
from clx.pipelines.data.splits import load_splits
from clx.pipelines.data.write_recipe import infer_config, recipe_for, write_recipe
from clx.pipelines.system.errors import BadInput
from command import inside
from samples import png


@pytest.mark.parametrize(
    "source", ["digits", "digits-sum", "aeon:GunPoint", "aeon:Covid3Month", "sklearn:iris", "sklearn:wine"]
)
def test_a_written_recipe_loads_and_fits_its_data(source, tmp_path) -> None:
    write_recipe(recipe_for(source), tmp_path / "r.yaml")
    config = load_config(str(tmp_path / "r.yaml"))
    splits = load_splits(config.data, config.train.seed)
    assert config.train.batch_size <= len(splits["train"])
    assert make_losses(config)
    modalities = make_modalities(config)
    for manifest in splits.values():
        check_columns(config, modalities, manifest)
    with pytest.raises(BadInput, match="exists already"):
        write_recipe(recipe_for(source), tmp_path / "r.yaml")
    write_recipe("x: 1\n", tmp_path / "r.yaml", overwrite=True)
    assert (tmp_path / "r.yaml").read_text() == "x: 1\n"


def test_a_recipe_for_numbers_of_a_table_has_no_noise(tmp_path) -> None:
    source = tmp_path / "t.csv"
    source.write_text("a,b,target\n" + "\n".join(f"{i}.5,{i % 7},{i / 3:.3f}" for i in range(60)))
    write_recipe(recipe_for(str(source)), tmp_path / "r.yaml")
    config = load_config(str(tmp_path / "r.yaml"))
    (options,) = config.modalities.values()
    assert (options["dropout"], options["augmentation"], options["head"]) == (0, "none", "norm")
    assert (config.data.target, config.eval, config.train.lr) == (["target"], ["regression"], 4e-3)


def test_a_key_of_series_that_is_given_leaves_the_others_as_found(tmp_path) -> None:
    source, steps = tmp_path / "t.csv", [0, 1, 2, 3, 900, 901, 902, 903]
    rows = [f"{i},{t},{60 + t * i % 7}.5,{i % 2}" for i in range(30) for t in steps]
    source.write_text("id,time,hr,sick\n" + "\n".join(rows))
    with pytest.raises(BadInput, match=r"data\.long\.holes=false"):
        infer_config(str(source), Asked(label="sick"))
    long = infer_config(str(source), Asked(label="sick"), settings=["data.long.holes=false"]).config["data"]["long"]
    assert long == {"id": "id", "time": "time", "channels": ["hr"], "holes": False}


def test_awkward_names_survive_the_recipe(tmp_path) -> None:
    source = tmp_path / "my: data, #1.csv"
    rows = "\n".join(f'"what, is: #{i} it",{i % 2},{i}.5' for i in range(60))
    source.write_text(f'"a: caption, ""quoted"" #",class,no\n{rows}\n')
    write_recipe(recipe_for(str(source)), tmp_path / "r.yaml")
    config = load_config(str(tmp_path / "r.yaml"))
    assert config.data.train == str(source)
    assert config.data.label == "class"
    assert config.modalities["text"] == {"column": 'a: caption, "quoted" #'}
    assert config.modalities["table"] == {"columns": ["no"]}


NAMES = (
    *(("satz (neu)", "satz alt"), ("a b", "a_b"), ("table", "image"), ("yes", "2019"), ("a*b", "x: #1")),
    *(("Bad (m²)", "[ab]"), ("keys", "values")),
)


@pytest.mark.parametrize("flags", [("-s", "objective=l1"), ("--label", "none"), ("--pair",)])
@pytest.mark.parametrize("names", NAMES)
def test_whatever_columns_are_called_what_init_writes_is_accepted(names, flags, tmp_path) -> None:
    rows = "\n".join(f"what is said of {i % 7},the answer is {i},{i * i % 17 / 3:.2f}" for i in range(30))
    (tmp_path / "a.csv").write_text(f"{','.join(names)},Übereinstimmung\n{rows}\n", encoding="utf-8")
    flags = ("--pair", ",".join(names)) if flags == ("--pair",) else flags
    flags = flags if "none" in flags else (*flags, "--target", "Übereinstimmung")
    done = inside("init", "a.csv", *flags, "-o", "r.yaml", cwd=tmp_path)
    assert done.code == 0, done.err
    done = inside("train", "r.yaml", "--dry-run", "--json", cwd=tmp_path)
    assert done.code == 0, done.err
    modalities = load_config(str(tmp_path / "r.yaml")).modalities
    assert {options.get("column", name) for name, options in modalities.items()} >= set(names)


def test_init_says_that_nothing_is_predicted_where_a_column_could_be(tmp_path) -> None:
    (tmp_path / "0.png").write_bytes(png(0))
    rows = "".join(f"0.png,a cat and {i} dogs,{40 + i * 7 % 31}\n" for i in range(30))
    (tmp_path / "a.csv").write_text(f"image,caption,width\n{rows}")
    for flags, said in (((), True), (("--label", "none"), False), (("--target", "width"), False)):
        done = inside("init", "a.csv", "-o", "r.yaml", "--overwrite", *flags, cwd=tmp_path)
        assert done.code == 0, done.err
        assert ("which predicts no column (--target or --label makes one the answer)" in done.err) == said


def test_one_input_is_contrasted_with_another_view_of_itself(tmp_path) -> None:
    for name in ("a/1.png", "b/2.png"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_bytes(png(0))
    assert "text: {column: label}" in recipe_for(str(tmp_path))  # class names are words to align with
    for old, new in (("a", "1"), ("b", "2")):
        (tmp_path / old).rename(tmp_path / new)
    assert "image: {}" in recipe_for(str(tmp_path))  # and numbers are classes to be learned
    assert "image: {views: 2}" in recipe_for(str(tmp_path), Asked(label="none"))


def test_nothing_to_learn_from_is_said(tmp_path) -> None:
    (tmp_path / "a.csv").write_text("id,label\n1,a\n2,b\n")
    with pytest.raises(BadInput, match="no column looks like an input; found id"):
        recipe_for(str(tmp_path / "a.csv"))


def test_a_recipe_of_a_table_is_written_without_torch(tmp_path) -> None:
    rows = "".join(f'"{i},5 kg",2024-01-{i % 28 + 1:02d},{i % 3},{i}\n' for i in range(60))
    (tmp_path / "a.csv").write_text(f"weight,day,grade,x\n{rows}")
    steps = "".join(f"{r},{t},{t * r}.5\n" for r in range(8) for t in range(20))
    (tmp_path / "long.csv").write_text(f"recording,time,acc\n{steps}")
    code = f"""
import sys
from clx.pipelines.data.inferred import Asked
from clx.pipelines.data.write_recipe import described, infer_config, recipe_of
for source, asked in (("a", Asked(target=["weight"])), ("a", Asked(label="grade")), ("long", Asked(label="none"))):
    written = infer_config({str(tmp_path)!r} + f"/{{source}}.csv", asked)
    assert recipe_of(source, written) and described(written)["columns"]
assert "torch" not in sys.modules
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
