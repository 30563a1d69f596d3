"""Stamps are read from where their package lies, with holes where nobody translated or spoke."""

from pathlib import Path

import pytest
from PIL import Image

from clx.pipelines.config.data_schema import Data
from clx.pipelines.data.builtin import load_builtin, write
from clx.pipelines.data.builtin_stamps import ENGLISH
from clx.pipelines.data.cell_files import resolve
from clx.pipelines.data.splits import load_splits
from clx.pipelines.system.errors import BadInput

DESCRIBED = {
    "animals/frog": "A frog.\nfr.utf8=Une grenouille.\npt_BR.utf8=Uma rã.\nde.utf8=\n",
    "animals/frog-1": "A frog.\nru.utf8=Лягушка.\n",
    "animals/cats/lion": "A lion.\n",
    "food/blank": "\nfr.utf8=Rien.\n",
}


@pytest.fixture
def stamps(tmp_path: Path) -> Path:
    """A small copy of the package's layout: 48 more words, so that every split has some."""
    words = DESCRIBED | {f"town/{k}": f"House {k}.\n" for k in range(48)}
    for place, text in words.items():
        path = tmp_path / "stamps" / place
        path.parent.mkdir(parents=True, exist_ok=True)
        path.with_name(f"{path.name}.txt").write_text(text, encoding="utf-8")
        Image.new("RGB", (2, 2)).save(path.with_name(f"{path.name}.png"))
    for name in ("frog_desc_fr.ogg", "frog_desc_da.ogg.ogg", "frog.ogg"):
        (tmp_path / "stamps/animals" / name).write_bytes(b"")
    Image.new("RGB", (2, 2)).save(tmp_path / "stamps/town/nobody.png")
    return tmp_path / "stamps"


def test_a_row_has_what_there_is_of_a_picture(stamps: Path) -> None:
    splits = load_splits(Data(train="stamps", root=str(stamps)), seed=0)
    rows = {row["image"]: row for split in splits.values() for row in map(split.row, range(len(split)))}
    assert len(rows) == 51, "neither what is not described nor what has no first line"
    frog, other, lion = (rows[f"animals/{name}.png"] for name in ("frog", "frog-1", "cats/lion"))
    assert frog | {"split": ""} == {
        "image": "animals/frog.png",
        "class": "animals",
        "subclass": "animals",
        "split": "",
        ENGLISH: "A frog.",
        "text_fr": "Une grenouille.",
        "text_pt_BR": "Uma rã.",
        "text_ru": None,
        "speech_da": "animals/frog_desc_da.ogg.ogg",
        "speech_fr": "animals/frog_desc_fr.ogg",
    }
    assert (other["text_ru"], other["text_fr"], other["speech_fr"]) == ("Лягушка.", None, None)
    assert (lion["class"], lion["subclass"]) == ("animals", "animals/cats")
    assert resolve(splits["train"].cell(0, "image"), splits["train"]).is_file()


def test_equal_words_stand_in_one_split(stamps: Path) -> None:
    splits = load_builtin("stamps", str(stamps))
    words = {split: set(rows.column(ENGLISH)) for split, rows in splits.items()}
    assert words.keys() == {"train", "val", "test"}
    assert sum(map(len, words.values())) == len(set().union(*words.values()))


def test_without_the_package_one_line_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"apt install tuxpaint-stamps-default \(GPL-2\), or -s data.root=FOLDER"):
        load_splits(Data(train="stamps", root=str(tmp_path / "none")), seed=0)
    with pytest.raises(BadInput, match="is files already"):
        write("stamps", tmp_path / "out")
    with pytest.raises(BadInput, match="digits is built in"):
        load_builtin("digits", str(tmp_path))
