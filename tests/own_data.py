"""Data in the shapes that people have it, and what clx is to make of each: a line to add a case.

    Case("name of the case", files, "command", says={...})     what its JSON says, by dotted path; values are equal
    Case("name of the case", files, "command", error="...")    one line on stderr that holds this, exit code 2, no run

`files` is {path: content}: text, bytes, a table to be written as Parquet, or one of the makers below. The command runs
in the folder of the files; `--json` is added. In `says` a value may also be a function, which is to give True.
`hears` holds words that must stand on stderr. test_own_data.py runs every case.
"""

import gzip
import io
import json
import struct
import tarfile
import wave
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any
from unicodedata import normalize

import numpy as np
import pyarrow as pa
from PIL import Image


@dataclass(frozen=True)
class Case:
    name: str
    files: Mapping[str, Any]
    command: str
    says: Mapping[str, Any] = field(default_factory=dict)
    error: str | None = None
    code: int | None = None
    """Exit code: 2 with `error`, 0 without, unless given."""
    hears: tuple[str, ...] = ()


def picture(seed: int = 0, kind: str = "PNG", size: int = 8) -> bytes:
    """An image of noise; other seeds, other pixels."""
    pixels = np.random.default_rng(seed).integers(256, size=(size, size, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind)
    return buffer.getvalue()


def sound(seed: int = 0, seconds: float = 0.1, rate: int = 8000) -> bytes:
    """A WAV file of noise."""
    values = np.random.default_rng(seed).integers(-9999, 9999, int(seconds * rate), dtype=np.int16)
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setnchannels(1), file.setsampwidth(2), file.setframerate(rate)
        file.writeframes(values.tobytes())
    return buffer.getvalue()


def array(values: Any) -> bytes:
    """A .npy file."""
    buffer = io.BytesIO()
    np.save(buffer, np.asarray(values))
    return buffer.getvalue()


def tiff(bands: int, side: int = 8) -> bytes:
    """A TIFF file of many bands, which Pillow cannot write: header, eight tags, 8-bit pixels."""
    pixels = 8 + 2 + 8 * 12 + 4
    tags = [(256, side), (257, side), (258, 8), (259, 1), (262, 1), (273, pixels), (277, bands), (279, bands * side**2)]
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    return struct.pack("<2sHIH", b"II", 42, 8, len(tags)) + entries + bytes(4) + bytes(bands * side**2)


def deep(brightest: int, kind: str = "PNG") -> bytes:
    """A picture of 16-bit greys up to `brightest`."""
    buffer = io.BytesIO()
    Image.fromarray(np.linspace(0, brightest, 64).astype(np.uint16).reshape(8, 8)).save(buffer, kind)
    return buffer.getvalue()


def layers(pages: int, mode: str = "I;16") -> bytes:
    """A TIFF file of several pages."""
    first, *others = (Image.new(mode, (8, 8), 100 * page) for page in range(pages))
    buffer = io.BytesIO()
    first.save(buffer, "TIFF", save_all=True, append_images=others)
    return buffer.getvalue()


def csv(header: str, *rows: str) -> str:
    return "\n".join((header, *rows)) + "\n"


def lines(*rows: Mapping[str, Any]) -> str:
    """A JSONL file."""
    return "".join(json.dumps(row) + "\n" for row in rows)


def pictures(*paths: str) -> dict[str, bytes]:
    """An image at each of these paths, all different."""
    return {path: picture(i) for i, path in enumerate(paths)}


def archive(**members: Any) -> bytes:
    """A tar file; `_DOT_` in a name stands for a dot, `_IN_` for a slash."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as file:
        for name, content in members.items():
            content = content.encode() if isinstance(content, str) else content
            info = tarfile.TarInfo(name.replace("_DOT_", ".").replace("_IN_", "/"))
            info.size = len(content)
            file.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def encoded(kind: str, rate: int = 8000) -> bytes:
    """Noise in one of libsndfile's formats."""
    import soundfile

    buffer = io.BytesIO()
    soundfile.write(buffer, np.random.default_rng(0).normal(0, 0.1, rate // 4), rate, format=kind)
    return buffer.getvalue()


CLASSES = ("cat/1.png", "cat/2.png", "dog/3.png", "dog/4.png")
HEIC = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic"
SVG = b"<?xml version='1.0'?>\n<svg xmlns='http://www.w3.org/2000/svg'/>"
M4A = b"\0\0\0\x18ftypM4A \0\0\0\0M4A mp42"
TRAINED = {"cat": 2, "dog": 2}


def under(*tops: str) -> dict[str, bytes]:
    """The four pictures of CLASSES below each of these folders, no two alike."""
    return pictures(*(f"{top}/{path}" for top in tops for path in CLASSES))


def leaves(reason: str, count: int, example: str) -> Callable[[Any], bool]:
    """That the files left out hold these, by part of the reason."""
    return lambda found: any(
        reason in each["reason"] and (each["count"], each["example"]) == (count, example) for each in found
    )


COCO = {
    "info": {"year": 2017},
    "images": [{"id": 70 + i, "file_name": f"{i}.png", "height": 8, "width": 8} for i in range(4)],
    "annotations": [
        *({"id": i, "image_id": 70 + i // 2, "caption": f"a {('cat', 'dog')[i // 2 % 2]} {i}"} for i in range(6)),
        *({"id": 9 + i, "image_id": 70 + i, "category_id": 1 + i % 2, "bbox": [0, 0, 4, 4]} for i in range(4)),
        {"id": 20, "image_id": 70, "category_id": 1, "bbox": [4, 4, 4, 4]},
    ],
    "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}],
}

FOLDERS = [
    *(
        Case(
            f"a folder a person, of the same tables{what}",
            {f"data/s{k}/acc.csv": "0.1,0.2\n0.2,0.1\n0.3,0.3\n" for k in range(4)}
            | {f"data/s{k}/label.csv": csv("start,end,activity", "0,1,walk", "1,2,sit") for k in range(4)}
            | files,
            "init data",
            error="data: each of 4 folders, as 's0', holds acc.csv and label.csv: parts of a recording",
        )
        for what, files in (("", {}), (", and a table of all", {"data/people.tsv": "person\tage\ns0\t30\ns1\t40\n"}))
    ),
    Case(
        "a metadata.json beside each picture, in class folders",
        {f"data/{name}/{k}/image.png": picture(9 * k + len(name)) for name in ("field", "sea") for k in range(4)}
        | {f"data/{name}/{k}/metadata.json": f'{{"lat": {k}.5}}' for name in ("field", "sea") for k in range(4)},
        "data check data",
        {"columns": lambda columns: columns[2]["use"] == "input table", "splits.train.classes": {"field": 4, "sea": 4}},
    ),
    Case(
        "a folder for each picture",
        {f"data/{k}/image.png": picture(k) for k in range(6)}
        | {f"data/{k}/metadata.json": f'{{"lat": {k}.5}}' for k in range(6)},
        "init data",
        {
            "columns": lambda columns: [at["column"] for at in columns] == ["image", "lat"],
            "notes.0": "each folder holds one file, image.png: a folder is no class",
        },
    ),
    Case(
        "numbered series in class folders, called alike in each",
        {f"data/{name}/{k}.csv": "0.1,0.2\n0.2,0.1\n0.3,0.3\n" for name in ("a", "b", "c") for k in range(2)},
        "data check data",
        {"splits.train.classes": {"a": 2, "b": 2, "c": 2}, "splits.train.inputs.series.bad": 0},
    ),
    Case(
        "class folders",
        pictures("data/cat/1.png", "data/cat/2.png", "data/dog/1.png"),
        "data check data",
        {"splits.train.rows": 3, "splits.train.classes": {"cat": 2, "dog": 1}},
    ),
    *(
        Case(
            f"splits called {', '.join(names)}",
            under(*(f"data/{name}" for name in names)),
            "data check data",
            {f"splits.{split}.classes": TRAINED for split in ("train", "val", "test")}
            | {"splits.val.from": "folder names"},
        )
        for names in (
            ("train", "val", "test"),
            ("Training", "Validation", "Testing"),
            ("TRN", "Dev", "eval"),
            ("train_set", "valid_set", "test_set"),
            ("train2017", "val2017", "test2017"),
        )
    ),
    Case(
        "split folders below images",
        under("data/images/train", "data/images/test"),
        "data check data",
        {"splits.train.classes": TRAINED, "splits.test.classes": TRAINED},
    ),
    Case(
        "split folders in class folders",
        pictures("data/cat/train/1.png", "data/dog/train/2.png", "data/cat/test/3.png", "data/dog/test/4.png"),
        "data check data",
        {"splits.train.classes": {"cat": 1, "dog": 1}, "splits.test.classes": {"cat": 1, "dog": 1}},
    ),
    Case(
        "class folders of train beside a flat test",
        under("data/train") | pictures("data/test/a.png", "data/test/b.png"),
        "data check data",
        {
            "splits.train.classes": TRAINED,
            "splits.test.rows": 2,
            "splits.test.classes": {},
            "notes": ["test has no folders: its 2 files have no label"],
        },
        code=3,  # two pictures of test are those of train
    ),
    Case(
        "class folders of train beside test/images",
        under("data/train") | {f"data/test/images/{i}.png": picture(50 + i) for i in range(3)},
        "data check data",
        {
            "splits.test.rows": 3,
            "splits.test.classes": {},
            "notes": ["test has one folder, images, that is no class of training: its 3 files have no label"],
        },
    ),
    Case(
        "what init says of a flat test folder",
        {f"data/train/{c}/{i}.png": picture(i + 40 * k) for k, c in enumerate("ab") for i in range(10)}
        | {"data/test/1.png": picture(90), "data/train/a/x.heic": HEIC},
        "init data",
        {
            "notes": ["test has no folders: its 1 files have no label"],
            "splits.test.from": "folder names",
            "left_out": leaves(".heic: HEIC is not read", 1, "train/a/x.heic"),
        },
    ),
    Case(
        "flat split folders",
        pictures("data/Training/1.png", "data/Training/2.png", "data/Testing/3.png"),
        "data check data",
        {"splits.train.rows": 2, "splits.test.rows": 1, "splits.train.classes": {}},
    ),
    Case(
        "annotations and macOS's copies beside split folders",
        under("data/train", "data/val")
        | {"data/annotations/instances.json": "{}", "data/__MACOSX/._1.png": b"x", "data/.DS_Store": b"x"},
        "data check data",
        {
            "splits.train.classes": TRAINED,
            "splits.val.classes": TRAINED,
            "left_out": lambda found: (
                leaves("in the folder annotations: .json", 1, "annotations/instances.json")(found)
                and leaves("macOS", 1, "__MACOSX")(found)
                and leaves("hidden", 1, ".DS_Store")(found)
            ),
        },
    ),
    Case(
        "pictures of another folder beside split folders",
        under("data/train", "data/val") | {"data/extra/1.png": picture(99)},
        "data check data",
        {"splits.train.rows": 4, "left_out": leaves("in the folder extra", 1, "extra/1.png")},
    ),
    Case(
        "a test folder among class folders",
        pictures("data/cat/1.png", "data/dog/2.png", "data/test/3.png"),
        "data check data",
        error="the folder 'test' is called like a split, and beside it is the folder 'cat'",
    ),
    Case(
        "a class called train",
        pictures("data/train/1.png", "data/plane/2.png", "data/plane/3.png"),
        "data check data",
        {"splits.train.classes": {"plane": 2, "train": 1}},
    ),
    *(
        Case(f"one root folder too many, {top}", under(top), "data check data", {"splits.train.classes": TRAINED})
        for top in ("data/data", "data/archive/Photos")
    ),
    Case(
        "one folder of files is no class",
        pictures("data/images/1.png", "data/images/2.png"),
        "data check data",
        {
            "splits.train.rows": 2,
            "splits.train.classes": {},
            "notes": ["all files are in images: one folder is no class"],
        },
    ),
    Case(
        "three files beside a folder with one",
        pictures("data/1.png", "data/2.png", "data/3.png", "data/more/4.png"),
        "data check data",
        error="data: 3 files, such as '1.png', lie beside 1 folders, such as 'more'",
    ),
    Case(
        "folders in class folders",
        pictures("data/cat/a/1.png", "data/cat/b/2.png", "data/dog/3.png"),
        "data check data",
        {"splits.train.classes": {"cat": 2, "dog": 1}},
    ),
    Case(
        "metadata.csv in each split, as Hugging Face has it",
        pictures("data/train/1.png", "data/train/2.png", "data/train/3.png", "data/test/1.png")
        | {
            "data/train/metadata.csv": csv("file_name,label", "1.png,cat", "2.png,dog"),
            "data/test/metadata.csv": csv("file_name,label", "1.png,dog"),
        },
        "data check data",
        {
            "splits.train.classes": {"cat": 1, "dog": 1},
            "splits.test.classes": {"dog": 1},
            "splits.test.inputs.image.bad": 0,
            "left_out": leaves(".png files", 1, "train/3.png"),
        },
    ),
    Case(
        "metadata.jsonl in each split",
        pictures("data/train/a/1.png", "data/train/2.png", "data/validation/1.png")
        | {
            "data/train/metadata.jsonl": lines(
                {"file_name": "a/1.png", "text": "a red cat on a mat"},
                {"file_name": "2.png", "text": "two dogs play there"},
            ),
            "data/validation/metadata.jsonl": lines({"file_name": "1.png", "text": "one big bird sings"}),
        },
        "data check data",
        {"splits.train.rows": 2, "splits.val.rows": 1, "splits.val.inputs.text.cells": 1},
    ),
    Case(
        "metadata.csv at the top and in a split",
        under("data/train") | {"data/metadata.csv": "file_name\nx\n", "data/train/metadata.csv": "file_name\nx\n"},
        "data check data",
        error="metadata.csv and train/metadata.csv both list files",
    ),
    Case(
        "train.csv and test.csv beside image folders, names without extension",
        {f"data/train/{i}.png": picture(i) for i in range(4)}
        | {f"data/test/{i}.png": picture(i + 9) for i in range(2)}
        | {
            "data/train.csv": csv("id,label", "0,cat", "1,dog", "2,cat", "3,dog"),
            "data/test.csv": csv("id", "0", "1"),
            "data/sample_submission.csv": csv("id,label", "0,cat", "1,cat"),
        },
        "data check data",
        {
            "splits.train.classes": TRAINED,
            "splits.test.rows": 2,
            "splits.test.inputs.image.bad": 0,
            "left_out": leaves(".csv", 1, "sample_submission.csv"),
            "notes": lambda notes: "train.csv, column id: files below train, without their extension" in notes,
        },
    ),
    Case(
        "train_labels.csv beside a folder, by itself",
        {f"data/pics/{i}.jpg": picture(i, "JPEG") for i in range(3)}
        | {"data/train_labels.csv": csv("image,label", "0.jpg,cat", "1.jpg,dog", "2.jpg,cat")},
        "data check data/train_labels.csv",
        {"splits.train.classes": {"cat": 2, "dog": 1}, "splits.train.inputs.image.bad": 0},
    ),
    Case(
        "a table whose paths are found below two folders",
        {f"data/{folder}/{i}.png": picture(i) for folder in ("images", "masks") for i in range(3)}
        | {"data/labels.csv": csv("file,label", "0.png,cat", "1.png,dog", "2.png,cat")},
        "data check data",
        error="column file: its cells name files below 'images' and below 'masks': -s data.root=FOLDER says",
    ),
    Case(
        "a table of pictures in class folders, by name alone",
        under("data/photos") | {"data/labels.csv": csv("file,age", "1.png,3", "2.png,5", "3.png,7", "4.png,9")},
        "data check data",
        {"splits.train.inputs.image.bad": 0, "notes": lambda notes: "found by name in several folders" in notes[0]},
    ),
    Case(
        "captions.txt beside Images, a table",
        {f"data/Images/{i}.jpg": picture(i, "JPEG") for i in range(3)}
        | {"data/captions.txt": csv("image,caption", *(f"{i}.jpg,a dog runs by {i}" for i in (0, 0, 1, 1, 2, 2)))},
        "data check data",
        {"splits.train.rows": 6, "splits.train.inputs.image.bad": 0},
    ),
    Case(
        "a table in meta/ of sound in audio/",
        {f"data/audio/{i}.wav": sound(i) for i in range(3)}
        | {"data/meta/esc.csv": csv("filename,category", "0.wav,dog", "1.wav,rain", "2.wav,dog")},
        "data check data",
        {"splits.train.classes": {"dog": 2, "rain": 1}, "splits.train.inputs.audio.bad": 0},
    ),
    Case(
        "the table alone, its sound beside its folder",
        {f"data/audio/{i}.wav": sound(i) for i in range(3)}
        | {"data/meta/esc.csv": csv("filename,category", "0.wav,dog", "1.wav,rain", "2.wav,dog")},
        "data check data/meta/esc.csv",
        error="'0.wav' and the others are not below data/meta, but below data/audio: -s data.root=data/audio takes",
    ),
    Case(
        "data.root",
        {f"data/audio/{i}.wav": sound(i) for i in range(3)}
        | {
            "data/meta/esc.csv": csv("filename,category", "0.wav,dog", "1.wav,rain", "2.wav,dog"),
            "c.yaml": "data: {train: data/meta/esc.csv, root: data/audio, label: category}\n"
            "modalities: {audio: {column: filename, views: 2}}\nobjective: supcon\n",
        },
        "data check --config c.yaml",
        {"splits.train.classes": {"dog": 2, "rain": 1}, "splits.train.inputs.audio.bad": 0},
    ),
    Case(
        "captions of one stem",
        pictures("data/1.png", "data/2.png", "data/3.png")
        | {"data/1.txt": "a red cat here\n", "data/2.txt": "one blue dog there\n", "data/9.txt": "of nothing\n"},
        "data check data",
        {
            "splits.train.inputs.text.cells": 2,
            "splits.train.inputs.text.missing": 1,
            "left_out": leaves(".txt files", 1, "9.txt"),
        },
    ),
    Case(
        "captions and facts of one stem in class folders",
        pictures("data/a/1.png", "data/b/2.png")
        | {
            "data/a/1.txt": "a red cat here\n",
            "data/b/2.txt": "one blue dog there\n",
            "data/a/1.json": '{"width": 3, "label": "x"}',
            "data/b/2.json": '{\n "width": 4,\n "label": "y"\n}',
        },
        "data check data",
        {"splits.train.classes": {"a": 1, "b": 1}, "splits.train.inputs.text.cells": 2, "left_out": []},
    ),
    Case(
        "YOLO's boxes are no captions",
        pictures("data/images/1.png", "data/images/2.png")
        | {f"data/images/{i}.txt": "0 0.5 0.5 0.25 0.25\n" for i in (1, 2)},
        "data check data",
        {"left_out": leaves(".txt files", 2, "images/1.txt"), "notes": lambda notes: "no captions" in notes[1]},
    ),
    Case(
        "a WebDataset tar",
        {
            "w.tar": archive(
                a_DOT_png=picture(1), a_DOT_txt="a red cat here", b_DOT_png=picture(2), b_DOT_txt="one blue dog there"
            )
        },
        "data check w.tar",
        {"splits.train.rows": 2, "splits.train.inputs.image.cells": 2, "splits.train.inputs.text.cells": 2},
    ),
    Case(
        "WebDataset shards",
        {
            f"data/{split}-{k:06}.tar": archive(
                **{f"{k}{i}_DOT_jpg": picture(10 * k + i + seed, "JPEG") for i in range(2)},
                **{f"{k}{i}_DOT_cls": str(i) for i in range(2)},
            )
            for seed, split, k in ((0, "train", 0), (0, "train", 1), (77, "test", 0))
        },
        "data check data",
        {"splits.train.classes": {"0": 2, "1": 2}, "splits.test.classes": {"0": 1, "1": 1}},
    ),
    Case(
        "a tar of class folders",
        {"w.tar": archive(cat_IN_1_DOT_png=picture(1), dog_IN_2_DOT_png=picture(2))},
        "data check w.tar",
        error="w.tar: a tar file of 2 folders, such as 'cat', without text or labels beside the files: unpack it",
    ),
    Case(
        "Parquet shards, as Hugging Face writes them",
        {
            f"data/data/{split}-0000{k}-of-00002.parquet": pa.table({"x": [1.5 + k, 2.5], "label": [f"{k}", "b"]})
            for split, k in (("train", 0), ("train", 1), ("validation", 0), ("test", 0))
        }
        | {"data/README.md": "# data"},
        "data check data",
        {
            "splits.train.rows": 4,
            "splits.val.rows": 2,
            "splits.test.rows": 2,
            "splits.train.from": "names of files and folders",
            "left_out": leaves(".md", 1, "README.md"),
        },
    ),
    Case(
        "shards without splits",
        {f"data/part-{k}.jsonl": lines({"x": k, "label": "a"}, {"x": k + 7, "label": "b"}) for k in range(3)},
        "data check data",
        {"splits.train.rows": 6, "splits.train.classes": {"a": 3, "b": 3}},
    ),
    Case(
        "train.csv and test.csv in a folder, with another table",
        {
            "data/train.csv": csv("x,label", "1,a", "2,b", "3,a"),
            "data/test.csv": csv("x", "4"),
            "data/gender_submission.csv": csv("id,label", "1,a"),
        },
        "data check data",
        {
            "splits.train.rows": 3,
            "splits.test.rows": 1,
            "notes": ["test.csv has no column 'label'"],
            "left_out": leaves(".csv", 1, "gender_submission.csv"),
        },
    ),
    Case(
        "tables of different columns",
        {"data/a.csv": csv("x,name", "1,ab"), "data/b.csv": csv("y,name", "1,ab")},
        "data check data",
        error="data: a.csv and b.csv are no pieces of one table ('x' is a column of one of them)",
    ),
    Case(
        "a bad cell of a shard is named by its own file and row",
        {
            "data/train-0.parquet": pa.table({"image": [picture(1), picture(2)], "label": ["a", "b"]}),
            "data/train-1.parquet": pa.table({"image": [picture(3), b"\x89PNG\r\n\x1a\n no"], "label": ["a", "b"]}),
        },
        "data check data",
        {"findings.0.where": "data/train-1.parquet row 2"},
        code=3,
    ),
    *(
        Case(
            f"pictures called {name}",
            {f"data/{c}/{i}{name}": picture(i + 5 * k, kind) for k, c in enumerate("ab") for i in range(2)},
            "data check data",
            {"splits.train.classes": {"a": 2, "b": 2}, "splits.train.inputs.image.bad": 0},
        )
        for name, kind in ((".jfif", "JPEG"), (".avif", "AVIF"), ("", "PNG"), (".image", "WEBP"), (".jp2", "JPEG2000"))
    ),
    *(
        Case(
            f"sound called {name or 'nothing'}",
            {f"data/{c}/1{name}": encoded(kind, (8000, 16000)[i]) for i, c in enumerate("ab")},
            "data check data",
            {"splits.train.classes": {"a": 1, "b": 1}, "splits.train.inputs.audio.bad": 0},
        )
        for name, kind in ((".au", "AU"), (".caf", "CAF"), ("", "FLAC"), (".bin", "MP3"), (".w64", "W64"))
    ),
    *(
        Case(
            f"MP3 of {rate} Hz in Parquet",
            {"a.parquet": pa.table({"sound": [encoded("MP3", rate), encoded("MP3", rate)], "label": ["a", "b"]})},
            "data check a.parquet",
            {"splits.train.inputs.audio.cells": 2, "splits.train.inputs.audio.bad": 0},
        )
        for rate in (8000, 22050, 44100)
    ),
    Case(
        "files that are not read are counted and named",
        under("data")
        | {
            "data/cat/9.heic": HEIC,
            "data/cat/8.HEIC": HEIC,
            "data/dog/9.svg": SVG,
            "data/dog/x": SVG,
            "data/cat/1.xml": "<a/>",
        },
        "data check data",
        {
            "splits.train.classes": TRAINED,
            "left_out": lambda found: (
                leaves(".heic: HEIC is not read: convert it to JPEG", 2, "cat/8.HEIC")(found)
                and leaves(".svg: SVG is a drawing", 1, "dog/9.svg")(found)
                and leaves("no extension: SVG is a drawing", 1, "dog/x")(found)
                and leaves(".xml files", 1, "cat/1.xml")(found)
            ),
        },
    ),
    Case(
        "a class of nothing but HEIC",
        under("data") | {"data/bird/1.heic": HEIC},
        "data check data",
        {"left_out": leaves("in the folder bird: .heic: HEIC is not read", 1, "bird/1.heic")},
    ),
    Case(
        "nothing but sound in MP4",
        {"data/a/1.m4a": M4A, "data/b/2.m4a": M4A},
        "data check data",
        error="it holds 2 .m4a: AAC in MP4 (m4a) is not read: convert it to WAV or FLAC",
    ),
    Case(
        "CSV, gzipped",
        {"a.csv.gz": gzip.compress(csv("x,label", "1,a", "2,b", "3,a").encode())},
        "data check a.csv.gz",
        {"splits.train.rows": 3},
    ),
    Case(
        "a gzipped CSV cut short",
        {"a.csv.gz": gzip.compress(csv("x,label", *(f"{i * 7919 % 1000},a" for i in range(999))).encode())[:500]},
        "data check a.csv.gz",
        error="a.csv.gz: not a whole gzip file",
    ),
    Case(
        "a ragged row in a gzipped CSV",
        {"a.csv.gz": gzip.compress(csv("x,label", "1,a", "2,b,c").encode())},
        "data check a.csv.gz",
        error="a.csv.gz row 2: 3 cells where the header has 2 columns: '2,b,c'",
    ),
    Case(
        "JSON lines, gzipped",
        {"a.jsonl.gz": gzip.compress(lines({"x": 1, "label": "a"}, {"x": 2, "label": "b"}).encode())},
        "data check a.jsonl.gz",
        {"splits.train.rows": 2},
    ),
    *(
        Case(
            f"a table in a .txt, {what}",
            {"a.txt": separator.join(("x", "label")) + "\n" + f"1{separator}a\n2{separator}b\n"},
            "data check a.txt",
            {"splits.train.rows": 2, "splits.train.classes": {"a": 1, "b": 1}},
        )
        for what, separator in (("commas", ","), ("tabs", "\t"))
    ),
    Case("a .txt of prose", {"a.txt": "one line\nanother\n"}, "data check a.txt", error="a.txt: text without columns"),
    Case(
        "a CSV without a header",
        {"a.csv": csv("5.1,3.5,1.4,setosa", "4.9,3.0,1.4,setosa", "7.0,3.2,4.7,versicolor")},
        "data check a.csv",
        error="a.csv: the first row should name the columns, and '5.1,3.5,1.4,setosa' looks like data",
    ),
    *(
        Case(
            f"images with COCO's annotations, {what}",
            pictures(*(f"data/images/{i}.png" for i in range(4)))
            | {"data/annotations.json": json.dumps(COCO, indent=indent)},
            f"data check {source}",
            {
                "splits.train.rows": 4,
                "splits.train.classes": {"cat": 2, "dog": 2},
                "splits.train.inputs.image.bad": 0,
                "splits.train.inputs.text.missing": 1,
                "columns.1.example": "2: a cat 0, ...",
                "notes.0": "annotations.json, column image: files below images",
            },
        )
        for what, source, indent in (
            ("by folder", "data", None),
            ("by file", "data/annotations.json", None),
            ("in many lines", "data", 1),
        )
    ),
    Case(
        "COCO's captions for each split",
        pictures(*(f"coco/{split}2017/{i}.png" for split in ("train", "val") for i in range(4)))
        | {f"coco/annotations/captions_{split}2017.json": json.dumps(COCO) for split in ("train", "val")},
        "data check coco",
        {"splits.train.rows": 4, "splits.val.rows": 4, "splits.val.inputs.image.bad": 0},
    ),
    Case(
        "an annotation of no image",
        {"a.json": json.dumps(COCO | {"annotations": [{"image_id": 9, "caption": "a cat"}]})},
        "data check a.json",
        error="a.json: annotation 1 is of image 9, which `images` lacks",
    ),
    Case(
        "one line of JSON with lists of rows in it",
        {"a.json": json.dumps({"version": 1, "data": [{"x": 1}, {"x": 2}]})},
        "data check a.json",
        error="a.json: one JSON object with the keys 'version', 'data', where one JSON object per line, or a list of "
        "objects makes rows; save the list under 'data' alone",
    ),
    Case(
        "a file of facts beside each image that names it",
        pictures(*(f"data/{i}.png" for i in range(4)))
        | {f"data/{i}.json": json.dumps({"file": f"{i}.png", "caption": f"a picture of {i}"}) for i in range(4)},
        "data check data",
        {"splits.train.rows": 4, "splits.train.inputs.text.column": "caption"},
    ),
    Case(
        "two of COCO's files for one split",
        {
            f"coco/annotations/{what}_{split}2017.json": json.dumps(COCO)
            for what in ("captions", "instances")
            for split in ("train", "val")
        }
        | pictures(*(f"coco/{split}2017/{i}.png" for split in ("train", "val") for i in range(4))),
        "data check coco",
        error="coco: annotations/captions_train2017.json and annotations/instances_train2017.json both name its files, "
        "and both are for train: name the one that is meant, or move the other away",
    ),
]
"""Folders and files: splits by name, what lies beside them, files by content."""


SPECIES = ("setosa", "versicolor", "virginica")
FLOWERS = csv(
    ",sepal,petal,species,species_id",
    *(f"{i},{i * 7 % 29 / 10},{i * 11 % 41 / 10},{SPECIES[i % 3]},{i % 3}" for i in range(60)),
)
PASSENGERS = csv(
    "PassengerId,Survived,Pclass,Name,Sex,Fare,alive",
    *(
        f'{i + 1},{i % 2},{i % 3 + 1},"Braund, Mr. Owen {i}",{("male", "female")[i // 2 % 2]},{i * 7 % 50 / 4},'
        f"{('no', 'yes')[i % 2]}"
        for i in range(60)
    ),
)
BIRDS = ("しろいクジャクのメス", "あかいとり")
ODD = {0: "NA", 1: "inf"}
TARGETED = {
    "a.csv": csv("x;y", *(f"{i * 7 % 31};{'k.A.' if i == 7 else f'{i * 5 % 91},5'}" for i in range(40))),
    "c.yaml": "data: {train: a.csv, target: y}\nmodalities: {table: {columns: [x]}}\nembed_dim: 4\nobjective: l1\n"
    "train: {steps: 3, batch_size: 40, device: cpu}\neval: []\n",
}
PRICED = csv("image,price,caption", *(f"{i}.png,{i * 1.5},a picture of {i}" for i in range(20)))


def answered(name: str) -> str:
    """A table of numbers with a column of answers of this name."""
    return csv(f"a,b,{name},c", *(f"{i * 7 % 30 / 10},{i * 3 % 17},{i * 11 % 50 + 0.5},{i % 4}" for i in range(40)))


def holds(*parts: str) -> Callable[[str], bool]:
    """A text with all of these parts."""
    return lambda text: all(part in text for part in parts)


def use_of(column: str, use: str, **more: Any) -> Callable[[list[dict[str, Any]]], bool]:
    """The list `columns` of a report says this of a column."""
    return lambda columns: (
        [{key: at[key] for key in ("use", *more)} for at in columns if at["column"] == column] == [{"use": use, **more}]
    )


TABLE_OF = """
data: {{train: a.csv, label: species}}
modalities: {{table: {{columns: {columns}, augmentation: none}}}}
objective: {{name: cross-entropy}}
train: {{steps: 2, batch_size: 16, device: cpu}}
eval: []
"""

COLUMNS = [
    Case(
        "an empty table",
        {"a.csv": "x,y\n"},
        "data check a.csv",
        error="a.csv: there is a header but no rows of data",
    ),
    Case(
        "one path without an extension leaves the column an image, and is a bad cell",
        pictures("0.png", "1.png", "2.png") | {"a.csv": csv("image,text", "0.png,a b c", "1.png,d e f", "seven,g h i")},
        "data check a.csv",
        {
            "columns": use_of("image", "input image", kind="image"),
            "errors": {"bad cell": 1},
            "findings.0.where": "a.csv row 3",
        },
        code=3,
    ),
    Case(
        "NA and inf leave a price a number to predict",
        {"a.csv": csv("x,price", *(f"{i * 7 % 5}.5,{ODD.get(i, i * 5 % 11)}" for i in range(40)))},
        "init a.csv",
        {"columns": use_of("price", "target", kind="number", missing=1), "recipe": holds("target: [price]")},
    ),
    Case(
        "NA and inf leave a column of a table numbers: one is missing, one is a bad cell with its row",
        {"a.csv": csv("x,y", *(f"{ODD.get(i, i * 5 % 11)},{i * 3 % 8}.5" for i in range(40)))},
        "data check a.csv --target y",
        {
            "columns": use_of("x", "input table", kind="number", missing=1),
            "errors": {"bad cell": 1},
            "findings.0.where": "a.csv row 2",
        },
        code=3,
    ),
    Case(
        "Japanese without spaces is text",
        pictures("0.png", "1.png") | {"a.csv": csv("image,word", *(f"{i % 2}.png,{BIRDS[i % 2]}" for i in range(40)))},
        "init a.csv",
        {"columns": use_of("word", "input text", kind="text"), "recipe": holds("text: {column: word}")},
    ),
    Case(
        "iris asks for its label",
        {"a.csv": FLOWERS},
        "init a.csv",
        error="column 'species' is probably the answer (by its name): say --label species; --label none learns without",
    ),
    Case(
        "iris with its label: neither the index nor the class's number is an input",
        {"a.csv": FLOWERS},
        "init a.csv --label species",
        {
            "recipe": holds("label: species", "{columns: [sepal, petal],", "{name: cross-entropy}"),
            "columns.0.use": "not used: an index",
            "splits.val.from": "10 % drawn of the train rows",
        },
    ),
    Case(
        "titanic asks for its label",
        {"a.csv": PASSENGERS},
        "init a.csv",
        error="say --label Survived;",
    ),
    Case(
        "titanic with its label: the label's other words are no input, nor who somebody is",
        {"a.csv": PASSENGERS},
        "init a.csv --label Survived",
        {
            "recipe": holds("{columns: [Pclass, Sex, Fare],"),
            "columns": use_of("alive", "not used: Survived follows from it with certainty", missing=0, example="no"),
        },
    ),
    *(
        Case(
            f"a table with {name} asks for its target",
            {"a.csv": answered(name)},
            "init a.csv",
            error=f"--target {name}",
        )
        for name in ("SalePrice", "MEDV", "quality")
    ),
    *(
        Case(
            f"a table with {name} predicts it",
            {"a.csv": answered(name)},
            f"init a.csv{flag}",
            {"recipe": holds(f"target: [{name}]", "columns: [a, b, c],", "{name: l1}")},
        )
        for name, flag in (("price", ""), ("SalePrice", " --target SalePrice"))
    ),
    Case(
        "a table of unknown columns asks about the last",
        {"a.csv": csv("a,b,zz", *(f"{i * 7 % 30 / 10},{i * 3 % 17},{i * 1.5}" for i in range(40)))},
        "init a.csv",
        error="column 'zz' is probably the answer (the last column): say --target zz;",
    ),
    Case(
        "a table without an answer learns from its columns",
        {"a.csv": FLOWERS},
        "init a.csv --label none",
        {"recipe": holds("columns: [sepal, petal, species]", "nt-xent")},
    ),
    Case(
        "a setting decides what numbers mean, checked",
        {"a.csv": csv("price,x,kind", *(f'"{i % 9 + 1},{i * 37 % 900 + 100}",{i % 7},{i * 5 % 3}' for i in range(60)))},
        "data check a.csv --label kind -s data.numbers.decimal=.",
        {"written.price": "numbers with decimal '.', thousands ','", "ok": True},
    ),
    Case(
        "a setting decides what numbers mean, in a recipe",
        {"a.csv": csv("price,x", *(f'"{i % 9 + 1},{i * 37 % 900 + 100}",{i % 7}' for i in range(60)))},
        "init a.csv --target price -s data.numbers.decimal=. -s train.epochs=3",
        {"recipe": holds("numbers: {decimal: .}  # by -s", "epochs: 3")},
    ),
    Case(
        "files beside the folder of their table, in a recipe",
        pictures(*(f"img/{i}.png" for i in range(20)))
        | {"meta/a.csv": csv("image,label", *(f"{i}.png,{'ab'[i % 2]}" for i in range(20)))},
        "init meta/a.csv --label label -s data.root=img",
        {"recipe": holds("root: img  # by -s", "image: {}")},
    ),
    Case(
        "a setting names a file of val rows, checked",
        {"a.csv": FLOWERS, "b.csv": FLOWERS},
        "data check a.csv --label species -s data.val=b.csv",
        {"splits.val.from": "its own file b.csv", "splits.val.inputs.table.bad": 0},
    ),
    Case(
        "a setting names other data",
        {"a.csv": FLOWERS},
        "init a.csv --label species -s data.train=b.csv",
        error="-s data.train: the data are a.csv",
    ),
    Case(
        "a group of a config that is no column",
        {
            "a.csv": FLOWERS,
            "c.yaml": "data: {train: a.csv, label: species, val: {fraction: 0.2, by: nowhere}}\n"
            "modalities: {table: {columns: [sepal, petal]}}\nobjective: cross-entropy\n",
        },
        "train c.yaml",
        error="error: data.val.by: ",
    ),
    Case(
        "pieces of a table that do not fit",
        {
            "d/train.parquet": pa.table({"n": [1, 2], "x": [1, 2]}),
            "d/test.parquet": pa.table({"n": [1.5, 2], "x": ["a", "b"]}),
        },
        "init d --label n",
        error="column 'x' holds",
    ),
    Case(
        "a setting that there is not",
        {"a.csv": FLOWERS},
        "init a.csv --label species -s data.rooot=x",
        error="unknown key 'rooot' (did you mean 'root'?)",
    ),
    Case(
        "no answer and a target are one too many",
        {"a.csv": FLOWERS},
        "init a.csv --label none --target petal",
        error="--label none and --target: one learns without an answer, the other names it; give one",
    ),
    Case(
        "a root for built-in data",
        {},
        "train digits -s data.root=. --dry-run",
        error="data.root is for the paths in a table; digits is built in",
    ),
    Case(
        "a target that is no number is named as it stands",
        TARGETED,
        "train c.yaml",
        error="a.csv row 8, column y: 'k.A.' is not a number; empty it, or -s data.on_bad_row=skip trains without such",
    ),
    Case(
        "a row whose target is no number is left out, counted",
        TARGETED,
        "train c.yaml -s data.on_bad_row=skip -o run",
        {"steps": 3},
        hears=("1 of 40 training rows is left out: run/bad_rows.jsonl",),
    ),
    *(
        Case(
            f"{what}",
            {"a.csv": csv("x,y", *(f"{i * 7 % 31},{(i * 37 % 99) ** power}.5" for i in range(99)))},
            f"init a.csv --target y{flags}",
            {"recipe": holds(f"a long tail, 9 in 10 rows {part}") if part else lambda recipe: "tail" not in recipe},
        )
        for what, power, flags, part in (
            ("a long tail of a target is said", 14, "", "in 26 % of the range of y"),
            ("no tail of even values", 1, "", ""),
            ("nor of a tail that is weighed already", 14, " -s data.balance.rule=inverse", ""),
        )
    ),
    *(
        Case(
            f"{what} texts and a pretrained encoder",
            {"a.csv": csv("text,label", *(f"a text of number {i},{'ab'[i % 2]}" for i in range(rows)))},
            "init a.csv",
            {
                "recipe": lambda recipe, few=few: (
                    ("few texts: if English, `encoder: hf:minilm, freeze: true" in recipe) == few
                )
            },
        )
        for what, rows, few in (("few", 60, True), ("many", 7000, False))
    ),
    Case(
        "what -1 says in columns of labels, as the refusal of it advises",
        {"a.csv": csv("text,rude,late", *(f"a text of number {i},{(1, 0, -1)[i % 3]},{i % 2}" for i in range(30)))},
        "init a.csv --label rude,late -s data.label_cells.-1=unknown",
        {
            "recipe": holds(
                "label: [rude, late]", "label_cells: {'-1': unknown}  # by -s", "{name: binary-cross-entropy}"
            )
        },
    ),
    Case(
        "a setting that needs the target is taken beside it",
        {"a.csv": csv("x,y", *(f"{i * 7 % 31},{i * 5 % 91}.5" for i in range(30)))},
        "init a.csv --target y -s data.balance.rule=inverse",
        {"recipe": holds("balance: {rule: inverse}  # by -s")},
    ),
    Case(
        "labels divided by semicolons",
        {"a.csv": csv("caption,tags", *(f"a text of number {i},{'abc'[i % 3]};{'de'[i % 2]}" for i in range(60)))},
        "init a.csv --label tags",
        {"recipe": holds("several: ;", "{name: binary-cross-entropy}")},
    ),
    Case(
        "variety asks for its label",
        {"a.csv": FLOWERS.replace("species,", "variety,")},
        "init a.csv",
        error="say --label variety;",
    ),
    Case(
        "pictures with texts need no answer, and ask about a price",
        pictures(*(f"{i}.png" for i in range(20))) | {"a.csv": PRICED},
        "init a.csv",
        error="say --target price;",
    ),
    Case(
        "pictures with texts",
        pictures(*(f"{i}.png" for i in range(20))) | {"a.csv": PRICED},
        "init a.csv --ignore price",
        {"recipe": holds("text: {column: caption}", "{name: clip,"), "columns.1.use": "not used: by --ignore"},
    ),
    Case(
        "a label among the columns of a table",
        {"a.csv": FLOWERS, "r.yaml": TABLE_OF.format(columns="[sepal, species]")},
        "data check --config r.yaml",
        error="modalities.table.columns: 'species' is data.label too, so the answer would be among the inputs",
    ),
    Case(
        "a label among the columns of a table, in training",
        {"a.csv": FLOWERS, "r.yaml": TABLE_OF.format(columns="[sepal, species]")},
        "train r.yaml",
        error="modalities.table.columns: 'species' is data.label too, so the answer would be among the inputs",
    ),
    Case(
        "every column of a table is what init takes for it",
        {"a.csv": FLOWERS, "r.yaml": TABLE_OF.format(columns='["*"]')},
        "data check --config r.yaml",
        {"splits.train.inputs.table.column": ["sepal", "petal"], "ok": True},
    ),
    Case(
        "a column from which the label follows is warned of by check",
        {"a.csv": FLOWERS, "r.yaml": TABLE_OF.format(columns="[sepal, species_id]")},
        "data check --config r.yaml",
        {
            "counts": {"tells the answer": 1},
            "findings.0.column": "species_id",
            "findings.0.reason": holds("species follows from it with certainty"),
        },
    ),
    Case(
        "training says what it understood, and warns of a column from which the label follows",
        {"a.csv": FLOWERS, "r.yaml": TABLE_OF.format(columns="[sepal, species_id]")},
        "train r.yaml -o run",
        {"steps": 2},
        hears=(
            "rows: 60 train (all rows)",
            "columns: species (label), sepal (input table), species_id (input table)",
            "not used: , petal",
            "column 'species_id' is among the inputs: species follows from it with certainty",
        ),
    ),
    Case(
        "a class as yes or no tells it",
        {
            "a.csv": csv(
                "x,is_setosa,species",
                *(f"{i * 7 % 29 / 10},{int(i % 3 == 0)},{SPECIES[i % 3]}" for i in range(60)),
            )
        },
        "init a.csv --label species",
        {"recipe": holds("columns: [x]"), "columns.1.use": "not used: species follows from it with certainty"},
    ),
    Case(
        "a column that is not there",
        {"a.csv": PASSENGERS},
        "init a.csv --label survived",
        error="--label survived: a.csv: no column 'survived' (did you mean 'Survived'?)",
    ),
    Case(
        "two answers by their names",
        {"a.csv": csv("x,y,label", *(f"{i * 7 % 29 / 10},{i * 11 % 41 / 10},{'ab'[i % 2]}" for i in range(30)))},
        "init a.csv",
        error="column 'label' is probably the answer (by its name): say --label label or --target y;",
    ),
    Case(
        "a group stays in one split",
        {"a.csv": csv("who,x,label", *(f"s{i // 6},{i * 7 % 29 / 10},{'ab'[i * i % 7 % 2]}" for i in range(60)))},
        "init a.csv --group who",
        {
            "recipe": holds("val: {fraction: 0.1, by: who}", "columns: [x]"),
            "columns.0.use": "group: its rows stay in one split",
        },
    ),
    Case(
        "a group where nothing is drawn",
        {
            "a.csv": csv(
                "who,x,label,split", *(f"s,{i * 7 % 29},{'ab'[i % 2]},{('train', 'val')[i % 2]}" for i in range(60))
            )
        },
        "init a.csv --group who",
        error="--group who: a.csv has val rows of its own, so none are drawn",
    ),
    Case(
        "sets of labels in one text, by --label",
        pictures(*(f"{i}.png" for i in range(20)))
        | {"a.csv": csv("image,tags", *(f"{i}.png,{'abc'[i % 3]}|{'de'[i % 2]}" for i in range(20)))},
        "init a.csv --label tags",
        {"recipe": holds("several: '|'", "{name: binary-cross-entropy}", "image: {}")},
    ),
    Case(
        "a column that is two things",
        {"a.csv": PASSENGERS},
        "data check a.csv --label Sex --ignore Sex",
        error="--ignore Sex: --label names it too; a column is one of them",
    ),
    Case(
        "two answers",
        {"a.csv": PASSENGERS},
        "init a.csv --label Survived --target Fare",
        error="--label and --target: one of them is the answer",
    ),
    Case("a pair of one", {"a.csv": PASSENGERS}, "init a.csv --pair Name", error="--pair Name: name two columns"),
    Case(
        "flags beside a config",
        {"a.csv": FLOWERS, "r.yaml": TABLE_OF.format(columns="[sepal]")},
        "data check --config r.yaml --label species",
        error="--config says what the columns are",
    ),
    Case(
        "check says what it takes columns for",
        {"a.csv": PASSENGERS},
        "data check a.csv",
        {
            "columns": use_of("Survived", "not used: likely the answer (by its name): --label Survived", kind="number"),
            "left_out": [],
            "splits.train.from": "all rows",
        },
    ),
    Case(
        "anchor, positive, negative",
        {"a.csv": csv("anchor,positive,negative", *(f"how is {i},it is {i},no {i} at all" for i in range(20)))},
        "init a.csv",
        {
            "recipe": holds(
                "anchor: {kind: text}",
                "positive: {like: anchor}",
                "negative: {like: anchor}",
                "{name: infonce, inputs: [anchor, positive], negatives: [negative]}",
            )
        },
    ),
    Case(
        "sentence1, sentence2, score",
        {"a.csv": csv("sentence1,sentence2,score", *(f"a man {i},a woman {i},{i * 7 % 50 / 10}" for i in range(20)))},
        "init a.csv",
        {
            "recipe": holds(
                "sentence1: {kind: text}",
                "sentence2: {like: sentence1}",
                "target: [score]",
                "{name: codiemb, best: 4.9}",
            )
        },
    ),
    Case(
        "question1, question2, is_duplicate",
        {
            "a.csv": csv(
                "id,qid1,qid2,question1,question2,is_duplicate",
                *(f"{i},{2 * i},{2 * i + 1},what is {i} now,what was {i} then,{i % 2}" for i in range(40)),
            )
        },
        "init a.csv",
        {
            "recipe": holds("question2: {like: question1}", "target: [is_duplicate]", "{name: cosent}"),
            "columns.0.use": "not used: an index",
        },
    ),
    Case(
        "recording, time, channels, label",
        {
            "a.csv": csv(
                "recording,time,ax,ay,label",
                *(
                    f"{r},{t},{r * t % 7 / 3},{(r + t) % 5},{('walk', 'run')[r % 2]}"
                    for r in range(6)
                    for t in range(30)
                ),
            )
        },
        "init a.csv",
        {
            "recipe": holds(
                "long: {id: recording, time: time, channels: [ax, ay]}", "label: label", "series: {}", "cross-entropy"
            ),
            "splits.train.rows": 6,
        },
    ),
    Case(
        "image, age",
        pictures(*(f"{i}.png" for i in range(20)))
        | {"a.csv": csv("image,age", *(f"{i}.png,{20 + i * 7 % 31}" for i in range(20)))},
        "init a.csv",
        {"recipe": holds("target: [age]", "image: {}", "{name: l1}")},
    ),
    Case(
        "image, price and columns of a table",
        pictures(*(f"{i}.png" for i in range(20)))
        | {
            "a.csv": csv(
                "image,price,rooms,city", *(f"{i}.png,{90 + i * 7 % 31},{i % 5},{'AB'[i % 2]}" for i in range(20))
            )
        },
        "init a.csv",
        {"recipe": holds("target: [price]", "image: {}", "table: {columns: [rooms, city]", "{name: l1}")},
    ),
    Case(
        "pictures and columns of a table ask about the last",
        pictures("0.png", "1.png")
        | {
            "a.csv": csv(
                "image,rooms,area,zz", *(f"{i % 2}.png,{i % 5},{40 + i * 7 % 31},{i * 5 % 91}.5" for i in range(60))
            )
        },
        "init a.csv",
        error="column 'zz' is probably the answer (the last column, beside image): say --target zz or --target area "
        "or --label rooms;",
    ),
    *(
        Case(
            f"pictures with {columns} have no answer",
            pictures("0.png", "1.png")
            | {
                "a.csv": csv(
                    f"image,{columns}", *(f"{i % 2}.png,{cell},{40 + i * 7 % 31}" for i, cell in enumerate(cells))
                )
            },
            "init a.csv -o r.yaml",
            {"recipe": holds("{name: clip,")},
        )
        for columns, cells in (
            ("caption,zz", [f"a cat and {i} dogs" for i in range(60)]),
            ("height,width", [30 + i * 11 % 37 for i in range(60)]),
        )
    ),
    Case(
        "an index from which rows were left out",
        {"a.csv": csv("row no,x,price", *(f"{i + (i > 20) + (i > 33)},{i * 7 % 31},{i * 5 % 90}" for i in range(60)))},
        "init a.csv",
        {"recipe": holds("columns: [x]"), "columns.0.use": "not used: an index"},
    ),
    Case(
        "class index, title, description",
        {
            "a.csv": csv(
                "Class Index,Title,Description",
                *(f"{i % 4 + 1},News of {i},Something long about {i} and so on" for i in range(40)),
            )
        },
        "init a.csv",
        {
            "recipe": holds(
                "label: Class Index", "Title: {kind: text}", "Description: {like: Title}", "{name: cross-entropy}"
            )
        },
    ),
    Case(
        "init says how long texts are",
        {"a.csv": csv("text,label", *(f"{'word ' * 60}{i},{i % 2}" for i in range(20)))},
        "init a.csv",
        {"recipe": holds("text: {}  # texts, 99 in 100 of 302 bytes at most: max_length follows from them")},
    ),
    Case(
        "folds stay whole, and classes have their names before their numbers",
        {f"audio/{k}.wav": sound(k) for k in range(60)}
        | {
            "meta/esc50.csv": csv(
                "filename,fold,target,category,take",
                *(
                    f"{k}.wav,{k // 12 + 1},{k % 3 * 7},{('dog', 'rain', 'siren')[k % 3]},{'AB'[k % 2]}"
                    for k in range(60)
                ),
            )
        },
        "init .",
        {
            "recipe": holds("val: {fraction: 0.2, by: fold}", "label: category", "text: {column: category}"),
            "columns": use_of("fold", "group: its rows stay in one split"),
        },
    ),
    Case(
        "the label of an object, and objects in lists",
        pictures(*(f"{i}.png" for i in range(8)))
        | {
            "a.jsonl": lines(
                *(
                    {
                        "image": f"{i}.png",
                        "llm": {"label": ("toy", "food")[i % 2], "confidence": i / 8},
                        "attributes": [{"name": "size", "value": i}],
                    }
                    for i in range(8)
                )
            )
        },
        "data check a.jsonl",
        {
            "splits.train.classes": {"toy": 4, "food": 4},
            "columns": use_of("attributes", "not used: lists of objects", kind="lists of objects"),
        },
    ),
    Case(
        "Excel's hint at the separator",
        {"a.csv": csv("sep=;", "a;b;answer", *(f"{k};{k * 7 % 5},5;{'ja' if k % 2 else 'nein'}" for k in range(8)))},
        "data check a.csv --label answer",
        {"splits.train.rows": 8, "columns": use_of("b", "input table", example="0,5")},
    ),
    Case(
        "classes have their names before their identifiers",
        {f"audio/fold{k % 2 + 1}/{k}.wav": sound(k) for k in range(60)}
        | {
            "metadata/urban.csv": csv(
                "slice_file_name,fold,classID,class",
                *(f"{k}.wav,{k % 2 + 1},{k % 3},{('dog', 'rain', 'siren')[k % 3]}" for k in range(60)),
            )
        },
        "init .",
        {"recipe": holds("val: {fraction: 0.5, by: fold}", "label: class ", "text: {column: class}")},
    ),
]
"""What columns are: kinds by majority, answers never among the inputs, what `clx init` makes of them."""


def config(data: str, modalities: str, objective: str = "clip") -> str:
    """A config of small towers for a few steps; `data` and `modalities` in YAML's flow style."""
    return (
        f"data: {{{data}}}\nmodalities: {{{modalities}}}\nembed_dim: 32\nobjective: {objective}\n"
        "train: {steps: 2, batch_size: 2, device: cpu}\n"
    )


def parquet_of(features: Mapping[str, Any] | None = None, **columns: pa.Array) -> pa.Table:
    """A Parquet table, with the description that Hugging Face's `datasets` would write."""
    table = pa.table(columns)
    described = {"huggingface": json.dumps({"info": {"features": features}})}
    return table.replace_schema_metadata(described) if features else table


SMALL_IMAGE, SMALL_TEXT = "size: 8, width: 4", "width: 32, layers: 1"
PAIRED = f"image: {{{SMALL_IMAGE}}}, text: {{column: captions, {SMALL_TEXT}}}"
CAPTIONS = [["a cat", "one cat"], ["a dog"], ["a bird", "one bird", "birds"]]
TAGS = [["red", "round"], ["red"], [], ["blue", "round"]]
FILES = [f"{i}.png" for i in range(4)]
FOUR = pictures(*FILES)
TAGGED = lines(*({"image": file, "tags": tags} for file, tags in zip(FILES, TAGS, strict=True)))
DIVIDED = csv("image,tags", "0.png,red|round", "1.png,red", "2.png,blue", "3.png,blue|round")
TELLS_TAGS = config("train: a.jsonl, label: tags", f"image: {{{SMALL_IMAGE}}}", "binary-cross-entropy")
EVERY_CAPTION = {
    "evaluation.retrieval.text->image.queries": 6,
    "evaluation.retrieval.text->image.candidates": 3,
    "evaluation.retrieval.image->text.queries": 3,
    "evaluation.retrieval.image->text.candidates": 6,
}
AGES = csv("image,tags", *(f"{i}.png,{'a|b' if i == 7 else 'cat' if i % 2 else 'dog'}" for i in range(20)))


LISTS = [
    Case(
        "a list of captions is several captions",
        {**FOUR, "c.yaml": config("train: a.jsonl", PAIRED)}
        | {"a.jsonl": lines(*({"image": f, "captions": c} for f, c in zip(FILES, CAPTIONS, strict=False)))},
        "train c.yaml -o run",
        EVERY_CAPTION,
    ),
    Case(
        "sentences as Hugging Face has them are captions",
        {**FOUR, "c.yaml": config("train: a.parquet", PAIRED)}
        | {
            "a.parquet": parquet_of(
                image=pa.array([{"bytes": FOUR[file], "path": file} for file in FILES[:3]]),
                captions=pa.array([[{"raw": c, "tokens": c.split(), "sentid": 7} for c in some] for some in CAPTIONS]),
                sentids=pa.array([[7] * len(some) for some in CAPTIONS]),
            )
        },
        "train c.yaml -o run",
        EVERY_CAPTION,
    ),
    Case(
        "captions in a struct of lists",
        {**FOUR, "c.yaml": config("train: a.parquet", PAIRED)}
        | {
            "a.parquet": parquet_of(
                image=pa.array(FILES[:3]),
                captions=pa.array([{"raw": some, "sentid": [1] * len(some)} for some in CAPTIONS]),
            )
        },
        "data check --config c.yaml",
        {"splits.train.inputs.text.several": 2, "splits.train.inputs.text.length.max": 8, "ok": True},
    ),
    Case(
        "captions as Python writes a list into a CSV",
        {**FOUR, "c.yaml": config("train: a.csv", PAIRED)}
        | {"a.csv": csv("image,captions", *(f'{f},"{c}"' for f, c in zip(FILES, CAPTIONS, strict=False)))},
        "train c.yaml -o run",
        EVERY_CAPTION,
    ),
    Case(
        "one cell of a column of lists is none",
        {**FOUR, "c.yaml": config("train: a.csv", PAIRED)}
        | {"a.csv": csv("image,captions", *["0.png,\"['a', 'b']\""] * 10, "1.png,\"['a cat', one\"")},
        "data check --config c.yaml",
        error="a.csv row 11, column captions: not a list like the others: \"['a cat', one\"",
    ),
    Case(
        "numbers are no captions",
        {**FOUR, "c.yaml": config("train: a.jsonl", PAIRED)}
        | {"a.jsonl": lines(*({"image": file, "captions": [1, 2]} for file in FILES))},
        "train c.yaml -o run",
        error="a.jsonl row",
    ),
    Case(
        "lists of labels are sets",
        {**FOUR, "a.jsonl": TAGGED, "c.yaml": TELLS_TAGS},
        "train c.yaml -o run",
        {
            "evaluation.multilabel.image.labels": 3,
            "evaluation.multilabel.image.rows": 4,
            "evaluation.multilabel.image.mAP": lambda mean: 0 < mean <= 1,
        },
    ),
    Case(
        "lists of labels are counted one by one",
        {**FOUR, "a.jsonl": TAGGED, "c.yaml": TELLS_TAGS},
        "data check --config c.yaml",
        {"splits.train.classes": {"red": 2, "round": 2, "blue": 1}},
    ),
    Case(
        "a list given as one label",
        {**FOUR, "a.jsonl": TAGGED, "c.yaml": TELLS_TAGS.replace("binary-", "")},
        "train c.yaml -o run",
        error="a.jsonl row 1: tags is the set ['red', 'round'], but loss 'cross-entropy' needs one label a row",
    ),
    Case(
        "single labels given as sets",
        {**FOUR, "a.csv": csv("image,tags", "0.png,a", "1.png,b"), "c.yaml": TELLS_TAGS.replace("jsonl", "csv")},
        "train c.yaml -o run",
        error="needs sets of labels, but column 'tags'",
    ),
    Case(
        "labels divided by what data.several names",
        {**FOUR, "a.csv": DIVIDED, "c.yaml": TELLS_TAGS.replace("jsonl", "csv, several: '|'")},
        "train c.yaml -o run",
        {"evaluation.multilabel.image.labels": 3, "evaluation.multilabel.image.rows": 4},
    ),
    Case(
        "labels that look divided, and nobody says so",
        {**FOUR, "a.csv": DIVIDED, "c.yaml": TELLS_TAGS.replace("jsonl", "csv").replace("binary-", "")},
        "train c.yaml -o run",
        error="a.csv row 1: tags is 'red|round', and 2 of 4 cells hold '|': -s 'data.several=\"|\"' makes them sets",
    ),
    Case(
        "the same in a check",
        {**FOUR, "a.csv": DIVIDED, "c.yaml": TELLS_TAGS.replace("jsonl", "csv").replace("binary-", "")},
        "data check --config c.yaml",
        {"errors": {"divided label": 1}},
        code=3,
    ),
    Case(
        "labels that look divided and are names",
        {**FOUR, "a.csv": DIVIDED}
        | {"c.yaml": TELLS_TAGS.replace("jsonl", "csv, several: false").replace("binary-", "")},
        "data check --config c.yaml",
        {"splits.train.classes": {"red|round": 1, "red": 1, "blue": 1, "blue|round": 1}, "ok": True},
    ),
    Case(
        "one label in twenty looks divided",
        {**pictures(*(f"{i}.png" for i in range(20))), "a.csv": AGES}
        | {"c.yaml": TELLS_TAGS.replace("jsonl", "csv").replace("binary-", "")},
        "train c.yaml -o run",
        hears=("a.csv row 8: tags is 'a|b', and 1 of 20 cells hold '|'",),
    ),
    Case(
        "numbers of classes in a list",
        {**FOUR, "c.yaml": TELLS_TAGS.replace("jsonl", "parquet")}
        | {"a.parquet": parquet_of(image=pa.array(FILES), tags=pa.array([[1, 5], [5], [], None]))},
        "data check --config c.yaml",
        {"splits.train.classes": {"5": 2, "1": 1}},
    ),
    Case(
        "names of classes in Hugging Face's description",
        {**FOUR, "c.yaml": config("train: a.parquet, label: kind", f"image: {{{SMALL_IMAGE}}}", "cross-entropy")}
        | {
            "a.parquet": parquet_of(
                {"kind": {"names": ["plane", "ship"], "_type": "ClassLabel"}},
                image=pa.array(FILES),
                kind=pa.array([1, 0, 1, -1]),
            )
        },
        "data check --config c.yaml",
        {"splits.train.classes": {"ship": 2, "plane": 1}},
    ),
    Case(
        "names of classes in lists",
        {**FOUR, "c.yaml": TELLS_TAGS.replace("jsonl", "parquet")}
        | {
            "a.parquet": parquet_of(
                {"tags": {"feature": {"names": ["red", "blue"], "_type": "ClassLabel"}, "_type": "List"}},
                image=pa.array(FILES),
                tags=pa.array([[0, 1], [1], [], [1]]),
            )
        },
        "data check --config c.yaml",
        {"splits.train.classes": {"blue": 3, "red": 1}},
    ),
    Case(
        "labels and captions as dictionaries",
        {**FOUR, "c.yaml": config("train: a.parquet, label: kind", PAIRED)}
        | {
            "a.parquet": parquet_of(
                image=pa.array(FILES).dictionary_encode(),
                captions=pa.array(["one", "two", "one", "three"]).dictionary_encode(),
                kind=pa.array(["x", "y", "x", None]).dictionary_encode(),
            )
        },
        "data check --config c.yaml",
        {"splits.train.classes": {"x": 2, "y": 1}, "splits.train.inputs.text.length.max": 5, "ok": True},
    ),
    Case(
        "several images of a row",
        {**FOUR, "c.yaml": config("train: a.jsonl", PAIRED)}
        | {"a.jsonl": lines({"image": FILES[:3], "captions": "a cat"}, {"image": FILES[3:], "captions": "a dog"})},
        "train c.yaml -o run",
        {"evaluation.retrieval.text->image.queries": 2, "evaluation.retrieval.text->image.candidates": 2},
    ),
    Case(
        "several images as Hugging Face has them",
        {"c.yaml": config("train: a.parquet", PAIRED)}
        | {
            "a.parquet": parquet_of(
                image=pa.array([[{"bytes": FOUR[f], "path": f} for f in FILES[:n]] for n in (3, 1)]),
                captions=pa.array(["a", "b"]),
            )
        },
        "data check --config c.yaml",
        {"splits.train.inputs.image.several": 1, "splits.train.inputs.image.cells": 2, "ok": True},
    ),
    Case(
        "one of several images is not there",
        {**FOUR, "c.yaml": config("train: a.jsonl", PAIRED)}
        | {"a.jsonl": lines({"image": ["0.png", "9.png"], "captions": "a"}, {"image": ["1.png"], "captions": "b"})},
        "train c.yaml -o run",
        error="a.jsonl row 1, column image: 2 of 2: 9.png: no such file",
    ),
    Case(
        "what lists are guessed to be",
        {
            "a.parquet": parquet_of(
                photos=pa.array([[{"bytes": FOUR[f], "path": f} for f in FILES]] * 4),
                sentences=pa.array([[{"raw": f"a picture of {i}"}, {"raw": f"one thing like {i}"}] for i in range(4)]),
                sentids=pa.array([[i, i + 1] for i in range(4)]),
                pulse=pa.array([[0.5, 1.5, 2.5 * i] for i in range(4)]),
                tags=pa.array([[1, 2], [2], [], [1]]),
            )
        },
        "data check a.parquet",
        {
            "splits.train.inputs.image.column": "photos",
            "splits.train.inputs.text.column": "sentences",
            "splits.train.inputs.series.column": "pulse",
            "splits.train.inputs": lambda inputs: set(inputs) == {"image", "text", "series"},
        },
    ),
    Case(
        "sets of labels beside a picture, of numbers of classes",
        {"a.parquet": parquet_of(image=pa.array(list(FOUR.values())), labels=pa.array([[1, 2], [2], [], [1]]))},
        "data check a.parquet",
        {"splits.train.classes": {"1": 2, "2": 2}, "splits.train.inputs": lambda inputs: set(inputs) == {"image"}},
    ),
    Case(
        "sound as Hugging Face has it, encoded and decoded",
        {"c.yaml": config("train: a.parquet", f"audio: {{width: 32}}, text: {{column: captions, {SMALL_TEXT}}}")}
        | {
            "a.parquet": parquet_of(
                audio=pa.array(
                    [
                        {"bytes": sound(1, 0.5), "path": None, "array": None, "sampling_rate": None},
                        {"bytes": None, "path": "b.wav", "array": [0.0, 0.5] * 2000, "sampling_rate": 16000},
                    ]
                ),
                captions=pa.array(["a", "b"]),
            )
        },
        "data check --config c.yaml",
        {"splits.train.inputs.audio.length": {"unit": "seconds", "min": 0.25, "median": 0.375, "max": 0.5}, "ok": True},
    ),
    Case(
        "objects in objects are columns",
        pictures(*(f"{i}{k}.png" for i in range(6) for k in "ab"))
        | {
            "a.jsonl": lines(
                *(
                    {
                        "product": {"title": f"a thing of {i}", "images": [f"{i}a.png", f"{i}b.png"][: 1 + i % 2]},
                        "price_cents": 100 + 7 * i,
                        "tags": {"color": ("red", "blue")[i % 3]} if i % 3 < 2 else {},
                    }
                    for i in range(6)
                )
            )
        },
        "data check a.jsonl --label tags.color",
        {
            "splits.train.inputs.image.column": "product.images",
            "splits.train.inputs.image.bad": 0,
            "splits.train.inputs.text.column": "product.title",
            "splits.train.classes": {"red": 2, "blue": 2},
            "columns": use_of("price_cents", "input table", missing=0),
        },
    ),
    Case(
        "an object with a text and more is no sentence",
        {"a.jsonl": lines(*({"review": {"text": f"it is as good as {i}", "stars": i % 5}} for i in range(20)))},
        "data check a.jsonl --label review.stars",
        {"splits.train.inputs.text.column": "review.text", "splits.train.classes.4": 4},
    ),
    Case(
        "an object whose field would have the name of another column stays one",
        {"a.parquet": pa.table({"x": [{"a": i, "b": {"c": i / 2}} for i in range(5)], "x.a": [1, 2, 3, 4, 6]})},
        "data check a.parquet --label none",
        {"columns.0.column": "x", "columns.1.column": "x.a"},
    ),
    Case(
        "a table in a folder whose lists name the files",
        pictures(*(f"data/images/{i}{k}.png" for i in range(4) for k in "ab"))
        | {"data/all.jsonl": lines(*({"photos": [f"{i}a.png", f"{i}b.png"], "title": f"it is {i}"} for i in range(4)))},
        "data check data",
        {
            "splits.train.rows": 4,
            "splits.train.inputs.image.bad": 0,
            "splits.train.inputs.image.column": "photos",
            "left_out": [],
            "notes.0": "all.jsonl, column photos: files below images",
        },
    ),
]
"""Lists and structs in cells: several captions, sets of labels, several images."""


TRIPLETS = csv(
    "anchor,positive,negative_1,negative_2",
    *(f"word {k},words {k},other {k},{'' if k % 2 else f'words {k + 1}'}" for k in range(8)),
)
"""Each row has a negative or two; every second one is the next row's positive."""
SCORED = csv("sentence1,sentence2,score", *(f"word {k},words {k},{k / 7:.2f}" for k in range(8)))
FLAGGED = csv("question1,question2,is_duplicate", *(f"word {k},words {k},{k % 2}" for k in range(8)))


def shared(table: str, first: str, others: str, objective: str, target: str = "[]") -> dict[str, str]:
    """A table, and a config whose modality `one` reads the column `first`; the `others` may share its tower."""
    config = (
        f"data: {{train: a.csv, target: {target}}}",
        f"modalities: {{one: {{kind: text, column: {first}, width: 32, layers: 1}}, {others}}}",
        f"objective: {objective}",
        "embed_dim: 8",
        "train: {steps: 2, batch_size: 8}",
        "eval: [retrieval]",
    )
    return {"a.csv": table, "c.yaml": "\n".join(config)}


WITH_NEGATIVES = "{name: infonce, inputs: [one, two], negatives: [wrong]}"


def triplets(negatives: str, objective: str = WITH_NEGATIVES) -> dict[str, str]:
    others = f"two: {{like: one, column: positive}}, wrong: {{like: one, column: {negatives}}}"
    return shared(TRIPLETS, "anchor", others, objective)


TWO_ALONE = "{name: nt-xent, inputs: [two]}"
SECOND = "two: {like: one, column: sentence2}"


def graded(*left_out: str, pairs: int = 24) -> dict[str, Any]:
    """Queries that come again, titles, pictures and a relevance from 0 to 3, without the columns `left_out`."""
    columns = ["query", "product_title", "product_image", "relevance"]
    rows = [(f"mug {i % 6}", f"a mug {i * 7 % 11}", f"{i % 4}.png", f"{i * 5 % 4}") for i in range(pairs)]
    kept = [k for k, column in enumerate(columns) if column not in left_out]
    table = csv(",".join(columns[k] for k in kept), *(",".join(row[k] for k in kept) for row in rows))
    return {"a.csv": table, **pictures("0.png", "1.png", "2.png", "3.png")}


def one_tower(parameters: Mapping[str, int]) -> bool:
    """One layer of 32 features, and a head to 8."""
    return parameters["learned"] == 25344


FRAGEN = csv("frage,antwort,note", *(f"what is {i % 9} now,it was {i} then,{i * 7 % 50 / 10}" for i in range(40)))
PAIRS = [
    Case(
        "a relevance beside pictures and texts is asked about, and is no number of a table",
        graded(),
        "init a.csv",
        error="column 'relevance' is probably the answer (by its name, beside pictures or sounds with texts): say",
    ),
    Case(
        "queries that come again are texts",
        graded(),
        "init a.csv --target relevance",
        {"columns": use_of("query", "input query", kind="text"), "recipe": holds("target: [relevance]", "name: l1")},
    ),
    Case(
        "a query, a title and their relevance are a scored pair",
        graded("product_image"),
        "init a.csv",
        {"recipe": holds("product_title: {like: query}", "objective: {name: codiemb, best: 3.0}")},
    ),
    Case(
        "a pair is not drawn together where a relevance of 0 may say otherwise",
        graded(),
        "init a.csv --pair query,product_image",
        error="column 'relevance' is probably the answer (how well the two of a pair belong together, by its name)",
    ),
    Case(
        "a pair of two kinds with its relevance",
        graded(),
        "init a.csv --pair query,product_image --target relevance",
        {"recipe": holds("query: {kind: text}", "product_image: {kind: image}", "objective: {name: cosent}")},
    ),
    *(
        Case(
            f"a number beside two texts is asked about{what}",
            {"a.csv": FRAGEN},
            f"init a.csv{flags}",
            error=f"column 'note' is a number beside two texts: say {said}",
        )
        for what, flags, said in (
            ("", "", "--target note --pair frage,antwort where it is a score of how well they go together"),
            (", as a target too", " --target note", "--pair frage,antwort where it is a score of how well they go"),
        )
    ),
    *(
        Case(
            f"a pair whose names say its roles learns without its {number}",
            {"a.csv": FRAGEN.replace("frage,antwort,note", f"{first},{second},{number}")},
            "init a.csv",
            {"recipe": holds(f"Column {number} is not used: not of the pair", "objective: {name: infonce}")},
        )
        for first, second, number in (("question", "answer", "upvotes"), ("query", "document", "rank"))
    ),
    Case(
        "texts with their length say no score",
        {"a.csv": FRAGEN.replace("note", "length")},
        "init a.csv --ignore length -o a.yaml",
        {"recipe": holds("antwort: {kind: text}", "objective: {name: clip,")},
    ),
    Case(
        "of two numbers beside a text none is taken for the answer",
        {"a.csv": csv("comment,toxicity,annotators", *(f"it is {i} so,{i * 7 % 50 / 10},{i % 23}" for i in range(40)))},
        "init a.csv",
        error="column 'annotators' is probably the answer (the last column, beside comment): say --target annotators "
        "or --target toxicity;",
    ),
    Case(
        "1.234 alone in an input where semicolons divide is refused before a recipe is written",
        {"a.csv": csv("x;z;price", *(f"{i}.{500 + i};{i};{i * 5}" for i in range(1, 40)))},
        "init a.csv --target price",
        error="a.csv row 1, column x: '1.501' may be thousands or three decimals, as semicolons divide the file",
    ),
    Case(
        "years of which some lack are no index",
        {"a.csv": csv("year,rain,crop", *(f"{1950 + i + i // 20},{i * 7 % 31},{i * 3 % 17}.5" for i in range(60)))},
        "init a.csv --target crop",
        {"recipe": holds("columns: [year, rain]")},
    ),
    Case(
        "a number beside two texts, predicted from both",
        {"a.csv": FRAGEN},
        "init a.csv --target note -s objective=l1",
        {"recipe": holds("antwort: {like: frage}", "objective: l1  # by -s")},
    ),
    Case(
        "a score with decimal commas is one of a pair like any other",
        {"a.csv": FRAGEN.replace(",", ";").replace(".", ",")},
        "init a.csv --target note --pair frage,antwort",
        {"recipe": holds("objective: {name: codiemb, best: 4.9}")},
    ),
    Case(
        "a similarity of two texts is a score by its name",
        {"a.csv": FRAGEN.replace("note", "similarity")},
        "init a.csv",
        {"recipe": holds("antwort: {like: frage}", "objective: {name: codiemb, best: 4.9}")},
    ),
    Case(
        "a price of two texts is predicted from both by its name",
        {"a.csv": FRAGEN.replace("note", "price")},
        "init a.csv",
        {"recipe": holds("antwort: {like: frage}", "objective: {name: l1}")},
    ),
    Case(
        "queries and a corpus, paired in a folder qrels",
        {
            "data/queries.jsonl": lines(*({"_id": f"q{k}", "text": f"what is {k}"} for k in range(4))),
            "data/corpus.jsonl": lines(*({"_id": f"d{k}", "title": f"on {k}", "text": f"it is {k}"} for k in range(4))),
            "data/qrels/train.tsv": csv("query-id\tcorpus-id\tscore", *(f"q{k}\td{k}\t1" for k in range(4))),
            "data/qrels/test.tsv": csv("query-id\tcorpus-id\tscore", "q0\td1\t1"),
        },
        "init data",
        error="data: qrels/test.tsv says which rows of corpus.jsonl and queries.jsonl belong together; tables are not",
    ),
    *(
        Case(
            f"queries, products and their relevance in three tables{what}",
            {
                "data/queries.tsv": csv("query_id\tquery", *(f"{k}\tred mug {k}" for k in range(5))),
                "data/products.csv": csv("product_id,title,image", *(f"B{k},a mug {k},{k}.png" for k in range(4))),
                "data/qrels.tsv": csv(
                    "query_id\tproduct_id\trelevance", *(f"{k % 5}\tB{k % 4}\t{k % 3}" for k in range(20))
                ),
                **files,
            },
            "init data",
            error="data: qrels.tsv joins the rows of products.csv by 'product_id' and of queries.tsv by 'query_id'",
        )
        for what, files in (("", {}), (", with pictures", pictures(*(f"data/{k}.png" for k in range(4)))))
    ),
    Case(
        "identifiers of words and numbers are no categories",
        {"a.tsv": csv("query_id\tproduct_id\trelevance", *(f"{i % 5}\tB0{i % 7}\t{i % 3}" for i in range(30)))},
        "init a.tsv",
        error="no column looks like an input; found query_id (an identifier), product_id (an identifier)",
    ),
    Case(
        "a column of negatives is of the anchor's tower and is not scored",
        triplets("[negative_1]"),
        "train c.yaml",
        {"evaluation.retrieval": lambda found: set(found) == {"one->two", "two->one"}},
    ),
    Case(
        "several columns of negatives by a pattern, some cells missing",
        triplets("['negative_*']"),
        "train c.yaml",
        {"evaluation.retrieval": lambda found: set(found) == {"one->two", "two->one"}},
    ),
    Case(
        "three columns of one tower have the weights of one",
        triplets("['negative_*']"),
        "train c.yaml --dry-run",
        {
            "parameters": one_tower,
            "config.modalities.wrong.column": ["negative_1", "negative_2"],
            "config.objective.0.negatives": ["wrong"],
        },
    ),
    Case(
        "cells of every column of negatives are looked at",
        triplets("['negative_*']"),
        "data check --config c.yaml",
        {"splits.train.inputs.wrong/0.cells": 8, "splits.train.inputs.wrong/1.missing": 4},
    ),
    Case(
        "a pattern of negatives that fits no column",
        triplets("['hard_*']"),
        "train c.yaml",
        error="modalities.wrong: no column 'hard_*' in ",
    ),
    Case(
        "a pattern of negatives that stands alone",
        triplets("'negative_*'"),
        "train c.yaml",
        error="(patterns stand in a list: ['negative_*'])",
    ),
    Case(
        "negatives for a loss that takes none",
        triplets("[negative_1]", "{name: cosent, inputs: [one, two], negatives: [wrong]}"),
        "train c.yaml",
        error="objective.negatives: cosent takes none; clip, dcl, dclw, debiased, energy-hinge, hcl, infonce, late",
    ),
    Case(
        "several columns that are inputs",
        triplets("['negative_*']", "{name: clip}"),
        "train c.yaml",
        error="modalities.wrong.column: several columns are for a modality that is only among the `negatives`",
    ),
    Case(
        "a key of a term misspelt",
        triplets("[negative_1]", "{name: infonce, input: [one, two]}"),
        "train c.yaml",
        error="unknown key 'input' (did you mean 'inputs'?)",
    ),
    Case(
        "encoder keys on a column that shares a tower",
        shared(SCORED, "sentence1", "two: {like: one, column: sentence2, layers: 2}", "clip"),
        "train c.yaml",
        error="modalities.two.layers: it has the tower of one, so this is set there, modalities.one.layers",
    ),
    Case(
        "pairs with a score",
        shared(SCORED, "sentence1", SECOND, "cosent", "score"),
        "train c.yaml",
        {"steps": 2, "evaluation.retrieval.one->two.candidates": 8},
    ),
    Case(
        "pairs with a flag of 0 and 1",
        shared(FLAGGED, "question1", "two: {like: one, column: question2}", "cosent", "is_duplicate"),
        "train c.yaml",
        {"steps": 2, "evaluation.retrieval.one->two.candidates": 8},
    ),
    Case(
        "a loss of scores without a column of them",
        shared(SCORED, "sentence1", SECOND, "cosent"),
        "train c.yaml",
        error="loss 'cosent' needs targets: set data.target to a column of ",
    ),
    Case(
        "a modality in no term",
        shared(SCORED, "sentence1", "two: {kind: text, column: sentence2, views: 2, augmentation: strong}", TWO_ALONE),
        "train c.yaml",
        hears=("modalities.one is in no term of the objective: it learns nothing",),
    ),
]
"""Recipes of pairs: anchors with negatives, scored pairs, and several inputs for one answer."""


def captions(images: int, each: int) -> str:
    """A table of images of two classes with several captions each."""
    rows = [f"{k}.png,a caption {n} of picture {k},{k % 2}" for k in range(images) for n in range(each)]
    return csv("image,text,label", *rows)


CLIP = "data: {train: a.csv, label: label, val: {fraction: 0.2}}\nmodalities: {image: {}, text: {}}\nobjective: clip\n"
SPOKEN = {
    "a.csv": csv(
        "text,speaker,label,split",
        *(f"this is sentence {k},s{k % 5},{k % 2},train" for k in range(60)),
        *(f"another one is {k},{'s4' if k < 2 else 't0'},{k % 2},test" for k in range(10)),
    )
}
"""Sentences of six speakers, one of them in training and among the test rows."""

SPLITS = [
    Case(
        "several captions of an image",
        {"r.yaml": CLIP, "a.csv": captions(20, 3), **pictures(*(f"{k}.png" for k in range(20)))},
        "data check --config r.yaml",
        {
            "splits.val.rows": 12,
            "splits.val.from": "20 % drawn by image, stratified by label",
            "splits.val.classes": {"0": 6, "1": 6},
            "errors": {},
        },
    ),
    Case(
        "rows one by one",
        {
            "r.yaml": CLIP.replace("0.2", "0.2, by: row"),
            "a.csv": captions(20, 3),
            **pictures(*(f"{k}.png" for k in range(20))),
        },
        "data check --config r.yaml",
        {"splits.val.from": "20 % drawn by row, stratified by label", "counts.leak": lambda n: n > 0},
        code=3,
    ),
    Case(
        "a group of rows",
        {
            "r.yaml": "data: {train: a.csv, target: y, val: {fraction: 0.25, by: site}}\n"
            "modalities: {table: {columns: [x]}}\nobjective: l1\n",
            "a.csv": csv("x,site,y", *(f"{k},s{k // 10},{k % 10}" for k in range(40))),
        },
        "data check --config r.yaml",
        {"splits.val.rows": 10, "splits.val.from": "25 % drawn by site, stratified by y"},
    ),
    Case(
        "a group that is no column",
        {"r.yaml": CLIP.replace("0.2", "0.2, by: imag"), "a.csv": captions(4, 2)},
        "data check --config r.yaml",
        error="a.csv: no column 'imag' (did you mean 'image'?)",
    ),
    Case(
        "training rows among the test rows",
        {
            "r.yaml": CLIP.replace("val: {fraction: 0.2}", "test: b.csv"),
            "a.csv": captions(4, 2),
            "b.csv": captions(1, 1),
            **pictures(*(f"{k}.png" for k in range(4))),
        },
        "train r.yaml --dry-run --batch-size 4",
        {"rows": {"train": 8, "test": 1}},
        hears=("warning: 1 of 1 test rows have the image of a training row: b.csv row 1 that of a.csv row 1",),
    ),
    Case(
        "sentences of training among the test rows",
        {
            "r.yaml": "data: {train: a.csv, label: label}\nmodalities: {text: {}}\nobjective: cross-entropy\n",
            "a.csv": csv(
                "text,split,label",
                *(f"this is sentence {k},train,{k % 2}" for k in range(20)),
                *(f"this is sentence {k},test,{k % 2}" for k in range(18, 24)),
            ),
        },
        "data check --config r.yaml",
        {
            "ok": True,
            "counts": {"shared text": 1},
            "findings.0.reason": "2 of 6 test rows have the text of a training row: a.csv row 21 that of a.csv row 19",
        },
    ),
    Case(
        "copies of an image under other names",
        {
            "r.yaml": CLIP.replace("text: {}", "text: {max_length: 32}"),
            "a.csv": captions(20, 1),
            **{f"{k}.png": picture(k // 2) for k in range(20)},
        },
        "data check --config r.yaml",
        {"splits.val.from": "20 % drawn by image, stratified by label", "errors": {}, "splits.val.rows": 4},
    ),
    Case(
        "speakers that are to stay in one split are in train and test",
        SPOKEN,
        "data check a.csv --label label --group speaker",
        {
            "ok": True,
            "counts": {"shared group": 1},
            "findings.0.reason": holds("2 of 10 test rows have the speaker of a training row: a.csv row 61 that of"),
        },
    ),
    Case(
        "where the val rows are from, beside test rows of the data's own",
        SPOKEN,
        "init a.csv --label label --group speaker",
        {
            "splits.test.from": "column 'split'",
            "splits.val.from": "10 % drawn of the train rows, by speaker",
        },
    ),
    Case(
        "one file in both columns of a pair",
        {
            "r.yaml": "data: {train: a.csv, label: label}\nmodalities: {image: {column: a, pair: b}}\n"
            "objective: cross-entropy\n",
            "a.csv": csv("a,b,split,label", "0.png,0.png,train,x", "1.png,1.png,train,y", "2.png,0.png,test,x"),
            **pictures("0.png", "1.png", "2.png"),
        },
        "data check --config r.yaml",
        {"counts": {}},
    ),
]
"""Which rows are held out, and what leaks."""


TABLE = {"r.yaml": "data: {train: a.csv, target: price}\nmodalities: {table: {columns: ['*']}}\nobjective: l1\n"}
"""A recipe for the target `price` by all other columns."""
LABELS = {
    "r.yaml": "data: {train: a.csv, val: b.parquet, label: label}\nmodalities: {table: {columns: [x]}}\n"
    "objective: cross-entropy\n"
}
"""A recipe for classes, with training and validation rows in two files."""


def labels(*cells: Any) -> pa.Table:
    return pa.table({"x": list(range(len(cells))), "label": list(cells)})


def prices(*cells: str) -> str:
    return csv("x;price", *(f"{k * 7 % 5};{cell}" for k, cell in enumerate(cells)))


NUMBERS = [
    Case(
        "classes + and -",
        {"a.csv": csv("x,class", *(f"{k * 7 % 20},{'+-'[k % 2]}" for k in range(20)))},
        "data check a.csv",
        {"columns": use_of("class", "label", kind="category", missing=0), "splits.train.classes": {"+": 10, "-": 10}},
    ),
    Case(
        "decimal commas in a target",
        TABLE | {"a.csv": prices("1,5", "2,25", "1.203,5")},
        "data check --config r.yaml",
        {
            "targets.price.train.min": 1.5,
            "targets.price.train.max": 1203.5,
            "written.price": "numbers with decimal ',', thousands '.'",
        },
    ),
    Case(
        "dollars with thousands",
        TABLE | {"a.csv": prices("$1,200", "$3,400", "NA")},
        "data check --config r.yaml",
        {"targets.price.train.max": 3400.0, "targets.price.train.missing": 1},
    ),
    Case(
        "euros",
        TABLE | {"a.csv": prices("1.200,50 EUR", "3,10 EUR")},
        "data check --config r.yaml",
        {"targets.price.train.max": 1200.5, "written.price": "numbers with decimal ',', thousands '.', in EUR"},
    ),
    Case(
        "units and percent",
        TABLE | {"a.csv": csv("share,price", "12%,3 kg", "7.5 %,4 kg", "0,5 kg")},
        "data check --config r.yaml",
        {
            "ok": True,
            "targets.price.train.mean": 4.0,
            "written.price": "numbers with decimal '.', in kg",
            "written.share": "numbers with decimal '.', in %",
        },
    ),
    Case(
        "1,234 alone",
        TABLE | {"a.csv": prices("12", "1,234")},
        "data check --config r.yaml",
        error="a.csv row 2, column price: '1,234' may be thousands or three decimals: data.numbers: {decimal: \".\"} "
        'or {decimal: ","} decides (-s \'data.numbers={decimal: "."}\')',
    ),
    Case(
        "1,234 alone in an input",
        TABLE | {"a.csv": csv("x;price", "12;1", "1,234;2")},
        "data check --config r.yaml",
        error="a.csv row 2, column x: '1,234' may be thousands or three decimals",
    ),
    Case(
        "1.234 alone where semicolons divide",
        TABLE | {"a.csv": csv("x;price", "12;101.500", "7;102.500")},
        "data check --config r.yaml",
        error="a.csv row 1, column price: '101.500' may be thousands or three decimals, as semicolons divide the file",
    ),
    *(
        Case(
            f"1.234 where {what}",
            TABLE | {"a.csv": csv(*rows)},
            f"data check --config r.yaml{flags}",
            {"targets.price.train.max": 102.5},
        )
        for what, rows, flags in (
            ("commas divide", ("x,price", "12,101.500", "7,102.500"), ""),
            ("semicolons divide, beside decimal points", ("x;price", "1.5;101.500", "7;102.500"), ""),
            ("it is decided", ("x;price", "12;101.500", "7;102.500"), " -s data.numbers.decimal=."),
        )
    ),
    Case(
        "1,234 decided",
        TABLE | {"a.csv": prices("12", "1,234")},
        "train --dry-run r.yaml --batch-size 2 -s 'data.numbers={decimal: \",\"}'",
        {"config.data.numbers.decimal": ",", "config.data.bin_width": 0.215},
    ),
    Case(
        "points and commas in one column",
        TABLE | {"a.csv": prices("1.5", "1,5")},
        "data check --config r.yaml",
        error="a.csv row 1, column price: '1.5' has a decimal point and '1,5' a decimal comma",
    ),
    Case(
        "decimal commas in channels",
        {
            "r.yaml": "data: {train: a.csv, long: {id: who, time: t, channels: [v]}}\n"
            "modalities: {series: {views: 2}}\n"
            "objective: nt-xent\n",
            "a.csv": csv("who;t;v", "a;0;1,5", "a;1;2,25", "b;0;3,5", "b;1;1_0"),
        },
        "data check --config r.yaml",
        error="a.csv row 4, column v: '1_0' is not a number",
    ),
    Case(
        "1_0 is no number",
        TABLE | {"a.csv": prices("1", "1_0", "3")},
        "data check --config r.yaml",
        {"findings.0.where": "a.csv row 2", "findings.0.reason": "'1_0' is not a number"},
        code=3,
    ),
    Case(
        "an odd cell among decimal commas",
        TABLE | {"a.csv": prices(*(f"{k},5" for k in range(20)), "1.5")},
        "data check --config r.yaml",
        {
            "counts": {"bad cell": 1},
            "findings.0.where": "a.csv row 21",
            "targets.price.train.rows": 20,
            "targets.price.train.max": 19.5,
        },
        code=3,
    ),
    Case(
        "missing is missing everywhere",
        {
            "r.yaml": "data: {train: a.csv, target: price, label: kind}\nmodalities: {table: {columns: [x, y]}}\n"
            "objective: l1\n",
            "a.csv": csv("x,y,kind,price", "1,red,a,1", "NA,n/a,N/A,?", "null,-,None,-", "3,blue,b,nan", "4,red,b,7"),
        },
        "data check --config r.yaml",
        {
            "ok": True,
            "splits.train.classes": {"a": 1, "b": 2},
            "targets.price.train.rows": 2,
            "targets.price.train.missing": 3,
        },
    ),
    Case(
        "dates in a table",
        TABLE | {"a.csv": csv("when,price", "13/02/2024,1", "05/03/2024,2", "07/09/2025,3")},
        "data check --config r.yaml",
        {"written.when": lambda said: said.startswith("dates, the day first, as year, season sin")},
    ),
    Case(
        "dates that may be either",
        TABLE | {"a.csv": csv("when,price", "01/02/2024,1", "05/03/2024,2")},
        "data check --config r.yaml",
        error="a.csv row 1, column when: '01/02/2024' may have the day or the month first, and no other cell tells: "
        "data.numbers: {day_first: true} or {day_first: false} decides (-s data.numbers.day_first=true)",
    ),
    Case(
        "years of two digits",
        TABLE | {"a.csv": csv("when,price", "13.02.24,1", "05.03.24,2")},
        "data check --config r.yaml",
        error="a.csv row 1, column when: '13.02.24' is a date with two digits for the year: write all four",
    ),
    Case(
        "labels of numbers and text are the same classes",
        LABELS | {"a.csv": csv("x,label", "1,0", "2, 1 ", "3,0.0"), "b.parquet": labels(0.0, 1.0)},
        "data check --config r.yaml",
        {"splits.train.classes": {"0": 2, "1": 1}, "splits.val.classes": {"0": 1, "1": 1}, "counts": {}},
    ),
    Case(
        "labels of truth",
        LABELS | {"a.csv": csv("x,label", "1,TRUE", "2,false"), "b.parquet": labels(True, False)},
        "data check --config r.yaml",
        {"splits.train.classes": {"True": 1, "False": 1}, "counts": {}},
    ),
    Case(
        "labels of yes and no",
        LABELS | {"a.csv": csv("x,label", "1,YES", "2,no"), "b.parquet": labels("yes", "No ")},
        "data check --config r.yaml",
        {"splits.val.classes": {"yes": 1, "no": 1}, "counts": {}},
    ),
    Case(
        "a class folder that reads as missing",
        {
            "r.yaml": "data: {train: d, label: label}\nmodalities: {image: {}}\nobjective: cross-entropy\n",
            **pictures("d/cat/1.png", "d/none/2.png"),
        },
        "train r.yaml --dry-run --batch-size 2",
        error="d, column label: the class folder 'none' reads as a missing label: rename it",
    ),
    Case(
        "letters of two cases are two classes",
        LABELS | {"a.csv": csv("x,label", "1,a", "2,A"), "b.parquet": labels("A", "a")},
        "data check --config r.yaml",
        {"splits.val.classes": {"A": 1, "a": 1}, "counts": {}},
    ),
    Case(
        "codes with leading zeros are categories, what counts is a number",
        {
            "a.csv": csv(
                "icd,month,zip,answer",
                *(
                    f"{('001', '0389', '4280', '41401', 'V5789', '9999', '2500', '486')[k % 8]},{k % 12 + 1:02d},"
                    f"{('01067', '04103', '80331', '99084')[k % 4]},{'ja' if k % 3 else 'nein'}"
                    for k in range(48)
                ),
            )
        },
        "data check a.csv --label answer",
        {
            "columns": lambda columns: [at["kind"] for at in columns] == ["category", "number", "category", "category"],
            "splits.train.inputs.table.bad": 0,
        },
    ),
    Case(
        "comments above the header and totals below the rows",
        {
            "a.csv": csv(
                "# Export, made on 3.11.2023;;",
                "# confidential",
                "case;age;place;cost;answer",
                *(f"{100 + 7 * k};{30 + k};{'AB'[k % 2]};{k}.100,50;{'ja' if k % 3 else 'nein'}" for k in range(1, 9)),
                "Summe;276;;36.804,00;",
            )
        },
        "data check a.csv --label answer",
        {
            "splits.train.rows": 8,
            "splits.train.classes": {"ja": 6, "nein": 2},
            "columns": use_of("cost", "input table", missing=0, example="1.100,50"),
        },
        hears=(
            "warning: a.csv: 2 lines above the header left out, as comments: '# Export, made on 3.11.2023;;'",
            "warning: a.csv row 9: left out, as the totals of the others: 'Summe, 276, 36.804,00'",
        ),
    ),
    Case(
        "a header that begins with #",
        {"a.csv": csv("# made today", "#size,weight,answer", *(f"{k},{k * 7 % 5},{'ab'[k % 2]}" for k in range(8)))},
        "data check a.csv --label answer",
        {"columns.0.column": "#size", "splits.train.rows": 8},
    ),
    Case(
        "rows below comments are counted from the header",
        {"a.csv": csv("# made today", "a,b", "1,2", "3,4,5")},
        "data check a.csv",
        error="a.csv row 2: 3 cells where the header has 2 columns: '3,4,5'",
    ),
    Case(
        "a last row that is one of the others",
        {
            "a.csv": csv(
                "name,a,b,answer", *(f"{n},{k},,{'xy'[k % 2]}" for k, n in enumerate(("Bo", "Ed", "Al", "Total")))
            )
        },
        "data check a.csv --label answer",
        {"splits.train.rows": 4},
    ),
    Case(
        "a bad cell of a wide table is named by its own column",
        {
            "a.csv": csv("a,b,c,answer", *(f"{k},{k * 7 % 5},{'x y' if k == 9 else k % 7},{k % 2}" for k in range(40))),
            "r.yaml": "data: {train: a.csv, label: answer}\nmodalities: {table: {columns: [a, b, c]}}\n"
            "objective: cross-entropy\ntrain: {steps: 4, batch_size: 40}\n",
        },
        "train r.yaml",
        error="a.csv row 10, column c: 'x y' is not a number",
    ),
    Case(
        "bad cells of a wide table are counted, each with its column",
        {
            "a.csv": csv(
                "a,b,c,answer", *(f"{k},{k * 7 % 5},{'x y' if k in (9, 12) else k % 7},{k % 2}" for k in range(40))
            )
        },
        "data check a.csv --label answer",
        {"findings.0.column": "c", "findings.0.reason": "'x y' is not a number"},
        code=3,
        hears=("error: a.csv: 2 bad cells",),
    ),
]
"""Text as numbers, dates and labels."""


def answers(target: str = "price", objective: str = "l1", **files: str) -> dict[str, str]:
    """A config on one number `x` that says what to learn, beside these files."""
    meaning = f"label: {target}" if objective == "cross-entropy" else f"target: {target}"
    table = "table: {columns: [x], width: 32, layers: 1, augmentation: none}"
    train = "train: {steps: 1, batch_size: 2, device: cpu}"
    config = f"data: {{train: a.csv, {meaning}}}\nmodalities: {{{table}}}\nobjective: {objective}\n{train}\n"
    return {"c.yaml": config} | {name.replace("_", "."): text for name, text in files.items()}


CONSTANT = answers(a_csv=csv("x,price", "1,3", "2,3.0", "4,", "5,3", "6,NA", "7,?"))
ONE_CLASS = answers("kind", "cross-entropy", a_csv=csv("x,kind", "1,cat", "2,cat", "4,", "5,cat"))
INFINITE = answers(a_csv=csv("x,price", "1,3", "2,inf", "4,7", "5,8"))
INFINITE_VAL = answers(a_csv=csv("x,price,split", "1,3,train", "2,4,train", "4,-inf,val", "5,8,test"))
TOO_MUCH = INFINITE | {"c.yaml": INFINITE["c.yaml"].replace("train: a.csv", "train: a.csv, on_bad_row: skip")}


def finding(what: str, where: str, column: str) -> Any:
    """Whether an error of this sort is the only one among the findings."""
    return lambda found: (
        [(f["what"], f["where"], f["column"]) for f in found if f["level"] == "error"] == [(what, where, column)]
    )


def unsaid(files: dict[str, str]) -> dict[str, str]:
    """The same with a config that does not say what to evaluate."""
    return files | {"c.yaml": files["c.yaml"].replace("\neval: [retrieval]", "")}


FIGURES = [
    Case(
        "a constant target, checked",
        CONSTANT,
        "data check --config c.yaml",
        {"ok": False, "findings": finding("constant target", "a.csv", "price")},
        code=3,
    ),
    Case(
        "a constant target, trained",
        CONSTANT,
        "train c.yaml",
        error="a.csv, column price: a target needs two different values to learn from; all rows that have one have 3",
    ),
    Case(
        "one class, checked",
        ONE_CLASS,
        "data check --config c.yaml",
        {"ok": False, "findings": finding("one class", "a.csv", "kind")},
        code=3,
    ),
    Case(
        "one class, trained",
        ONE_CLASS,
        "train c.yaml",
        error="a.csv, column kind: a label needs two classes to tell apart; all rows that have one have 'cat'",
    ),
    Case(
        "an infinite target, checked",
        INFINITE,
        "data check --config c.yaml",
        {"ok": False, "findings": finding("bad cell", "a.csv row 2", "price")},
        code=3,
    ),
    Case(
        "an infinite target, trained",
        INFINITE,
        "train c.yaml",
        error="a.csv row 2, column price: inf is no target to learn from",
    ),
    Case(
        "an infinite target among val rows, trained",
        INFINITE_VAL,
        "train c.yaml",
        error="a.csv row 3, column price: -inf is no target to learn from",
    ),
    Case(
        "an infinite target, left out",
        TOO_MUCH,
        "train c.yaml -s data.bad_row_budget=1 -o run",
        {"steps": 1, "evaluation.rows": 3, "evaluation.regression.table->price.rows": 3},
    ),
    Case(
        "a task that the data cannot have, named in the config",
        INFINITE,
        "train c.yaml -s eval=[regression,zeroshot]",
        error="eval names 'zeroshot', which needs data.label, the column with the class",
    ),
    Case(
        "a class head is evaluated where nobody says what",
        answers("kind", "cross-entropy", a_csv=csv("x,kind", *(f"{i},{'ab'[i % 2]}" for i in range(12)))),
        "train c.yaml",
        {
            "evaluation.classification.table.rows": 12,
            "evaluation.classification.table.confusion.classes": ["a", "b"],
            "evaluation": lambda found: not {"zeroshot", "retrieval", "skipped"} & {*found},
        },
    ),
    Case(
        "scores of pairs are evaluated where nobody says what",
        unsaid(shared(SCORED, "sentence1", SECOND, "cosent", "score")),
        "train c.yaml",
        {
            "evaluation.sts.one+two->score": lambda line: line["rows"] == 8 and "macro_AUC" not in line,
            "evaluation": lambda found: not {"zeroshot", "retrieval", "regression", "skipped"} & {*found},
        },
    ),
    Case(
        "flags of pairs are evaluated where nobody says what",
        unsaid(shared(FLAGGED, "question1", "two: {like: one, column: question2}", "cosent", "is_duplicate")),
        "train c.yaml",
        {"evaluation.sts.one+two->is_duplicate": lambda line: line["rows"] == 8 and 0 <= line["macro_AUC"] <= 1},
    ),
    Case(
        "inputs without a label are evaluated by what they have",
        unsaid(shared(SCORED, "sentence1", SECOND, "clip")),
        "train c.yaml",
        {"evaluation": lambda found: "retrieval" in found and not {"zeroshot", "skipped"} & {*found}},
    ),
]
"""Answers that nothing can be learned from, and figures on small data."""


def recipe(modality: str, data: str = "train: t.csv, label: label", name: str = "supcon") -> str:
    """A run of one step, as YAML."""
    settings = "embed_dim: 8\ntrain: {steps: 1, batch_size: 8}\neval: []\n"
    return f"data: {{{data}}}\nmodalities: {{{modality}}}\nobjective: {name}\n{settings}"


def texts(*lengths: int) -> str:
    """A table of texts of so many bytes, and two classes."""
    return csv("text,label", *(f"{'a b c ' * (n // 6)}{'d' * (n % 6)},{'xy'[i % 2]}" for i, n in enumerate(lengths)))


def days(*times: str, more: str = "") -> dict[str, str]:
    """A table of time steps of one series, and a run on it; `more` goes into `data.long`."""
    long = f"train: t.csv, long: {{time: t, channels: [x]{more}}}"
    return {
        "t.csv": csv("t,x", *(f"{time},{i}" for i, time in enumerate(times))),
        "r.yaml": recipe("series: {views: 2}", long, "nt-xent"),
    }


def stepped(*values: Any) -> dict[str, bytes]:
    """A table of arrays, and these."""
    names = [f"{i}.npy" for i in range(len(values))]
    table = csv("series,label", *(f"{name},{'xy'[i % 2]}" for i, name in enumerate(names)))
    return {"t.csv": table.encode(), **{name: array(v) for name, v in zip(names, values, strict=True)}}


NOISE = np.random.default_rng(0).normal(size=(400, 400))
LONG = "data check t.csv --config r.yaml"
HOURS = "every: 3600"


def worn(*left_out: str) -> dict[str, str]:
    """Steps of an accelerometer on two people, three stretches each of two activities in turn."""
    columns = ["subject", "stretch", "t", "x", "y", "z", "activity"]
    rows = [
        (
            f"s{i // 60}",
            f"{i // 20}",
            f"{i % 60 / 32}",
            f"{i * 7 % 11}.5",
            f"{i * 5 % 13}.5",
            f"{i * 3 % 7}.5",
            "ab"[i // 20 % 2],
        )
        for i in range(120)
    ]
    kept = [k for k, column in enumerate(columns) if column not in left_out]
    return {"a.csv": csv(",".join(columns[k] for k in kept), *(",".join(row[k] for k in kept) for row in rows))}


SERIES = [
    Case(
        "y beside x and z is an axis; an activity is asked about",
        worn(),
        "init a.csv",
        error="column 'activity' is probably the answer (by its name): say --label activity",
    ),
    Case(
        "of a person and the stretches of an activity, the stretches are series",
        worn(),
        "init a.csv --label activity",
        {"recipe": holds("long: {id: stretch, time: t, channels: [x, y, z]}")},
    ),
    Case(
        "an activity that changes within a person's steps",
        worn("stretch"),
        "init a.csv --label activity",
        {"columns": use_of("y", "input table")},
        hears=("activity changes within a subject, so each row is learned by itself; --group subject keeps its rows",),
    ),
    Case(
        "series that a metadata.csv names are not left out",
        {
            "d/metadata.csv": csv("file_name,activity", *(f"{k}.csv,{'ab'[k % 2]}" for k in range(4))),
            **{f"d/{k}.csv": "0.1,0.2\n0.2,0.1\n0.3,0.3\n" for k in range(5)},
        },
        "init d --label activity",
        {"columns": use_of("file_name", "input series"), "left_out": leaves(".csv files", 1, "4.csv")},
    ),
    Case(
        "long texts are read to their end",
        {"t.csv": texts(*[301] * 20)},
        "data check t.csv",
        {
            "splits.train.inputs.text.cut": 0,
            "counts": {"guess": 1},
            "findings.0.reason": "texts are read up to 301 bytes; max_length sets another length, shorter is faster",
        },
    ),
    Case(
        "one text in a hundred may be cut, and is counted",
        {"t.csv": texts(*[400] * 100, 2000)},
        "data check t.csv",
        {
            "splits.train.inputs.text.cut": 1,
            "counts.cut": 1,
            "findings.1.where": "t.csv row 101",
            "findings.1.reason": lambda said: "1 of 101 cells of text (1.0%) are longer than 400 bytes" in said,
        },
    ),
    Case(
        "very long texts are cut at 1024 bytes, which is said",
        {"t.csv": texts(*[1000] * 10, *[1500] * 10)},
        "data check t.csv",
        {
            "splits.train.inputs.text.cut": 10,
            "findings.1.reason": lambda said: "10 of 20 cells of text (50.0%) are longer than 1024 bytes" in said,
        },
    ),
    Case(
        "what max_length cuts is said before training",
        {
            "t.csv": texts(*[30] * 10, *[50] * 6),
            "r.yaml": recipe("text: {views: 2, augmentation: strong, max_length: 40}"),
        },
        "train r.yaml --out run",
        hears=("6 of 16 cells of text (37.5%) are longer than 40 bytes (max_length)", "the first is", "t.csv row 11"),
    ),
    Case(
        "what a pretrained tokenizer cuts is said before training",
        {
            "t.csv": texts(*[30] * 10, *[1600] * 6),
            "r.yaml": recipe("text: {encoder: 'hf:minilm', freeze: true, views: 2, augmentation: strong}"),
        },
        "data check t.csv --config r.yaml",
        {"splits.train.inputs.text.cut": 6, "findings.0.reason": lambda said: "256 tokens" in said},
    ),
    Case(
        "recordings are read to their end",
        {
            "t.csv": csv("audio", *["a.wav"] * 8, *["b.wav"] * 4),
            "a.wav": sound(0, 45, 1000),
            "b.wav": sound(1, 1, 1000),
        },
        "data check t.csv",
        {"splits.train.inputs.audio.cut": 0, "splits.train.inputs.audio.length.max": 45.0},
    ),
    Case(
        "what max_seconds cuts is said before training",
        {
            "t.csv": csv("audio,label", *["a.wav,x"] * 3, *["b.wav,y"] * 5),
            "a.wav": sound(0, 2, 1000),
            "b.wav": sound(1, 1, 1000),
            "r.yaml": recipe("audio: {views: 2, sample_rate: 1000, mels: 8, max_seconds: 1.5}"),
        },
        "train r.yaml --out run",
        hears=("3 of 8 cells of audio (37.5%) are longer than 1.5 seconds (max_seconds)", "t.csv row 1"),
    ),
    Case(
        "a time column in files of series is no channel",
        {
            "t.csv": csv("series", "a.csv", "b.csv"),
            "a.csv": csv("Time,x,y", *(f"{t / 10},{t % 3},{t % 5}" for t in range(12))),
            "b.csv": csv("Time,x,y", *(f"{t / 10},{t % 4},{t % 5}" for t in range(20) if t not in (7, 8))),
        },
        "data check t.csv",
        {
            "ok": True,
            "splits.train.inputs.series.length.max": 20,  # the two that are missing are gaps
            "splits.train.inputs.series.length.min": 12,
            "findings.0.what": "guess",
            "findings.0.reason": lambda said: said.startswith("the column 'time' of its files is the time of a step"),
        },
    ),
    Case(
        "dates in files of series are time, a first column without a name that counts as well",
        {
            "t.csv": csv("series", "a.csv"),
            "a.csv": "".join(f"2024-03-{d:02d} 10:00,{d % 3}\n" for d in (1, 2, 3, 4, 6, 7)),
        },
        "data check t.csv",
        {
            "splits.train.inputs.series.length.max": 7,
            "findings.0.reason": lambda said: said.startswith("the first column of its files is the time of a step"),
        },
    ),
    Case(
        "a time that goes back is named with its line",
        {
            "t.csv": csv("series", *["a.csv"] * 3, "b.csv"),
            "a.csv": csv("t,x", "0,1", "1,2", "2,4"),
            "b.csv": csv("t,x", "0,1", "2,2", "1,4"),
            "r.yaml": recipe("series: {views: 2, time: t}", "train: t.csv", "nt-xent"),
        },
        LONG,
        {"findings.0.reason": "b.csv: line 4: the time '1' is not after '2'"},
        code=3,
        error="1 bad cell",
    ),
    Case(
        "arrays of two long channels are turned, which is said",
        stepped(NOISE[:2, :200], NOISE[2:4, :200]),
        "data check t.csv",
        {
            "splits.train.inputs.series.length.max": 200,
            "findings.0.reason": "arrays [2, 200] are 200 steps of 2 channels (layout: time-first turns)",
        },
    ),
    Case(
        "arrays of one second axis and many first ones are steps",
        stepped(NOISE[:2, :200], NOISE[:3, :200]),
        "data check t.csv",
        {"splits.train.inputs.series.length.max": 3, "findings": []},
    ),
    Case(
        "arrays that may lie either way are refused with the option that decides",
        stepped(NOISE[:12, :30], NOISE[20:32, :30]),
        "data check t.csv",
        error="arrays of shape [12, 30]: 12 steps of 30 channels, or 30 steps of 12? layout: time-first or",
    ),
    Case(
        "layout decides which way round arrays lie",
        stepped(NOISE[:12, :30], NOISE[20:32, :30])
        | {"r.yaml": recipe("series: {views: 2, layout: channels-first}", "train: t.csv", "nt-xent")},
        LONG,
        {"splits.train.inputs.series.length.max": 30, "findings": []},
    ),
    Case(
        "windows of arrays that lie the other way are refused",
        stepped(NOISE[:2, :200], NOISE[2:4, :200])
        | {"r.yaml": recipe("series: {views: 2}", "train: t.csv, windows: {length: 20, stride: 20}", "nt-xent")},
        LONG,
        error="t.csv row 1, column series: 0.npy: an array [2, 200] has 2 steps, and a window 20: store it",
    ),
    Case(
        "missing days are holes, and are said",
        days("2024-02-26", "2024-02-27", "2024-02-28", "2024-03-02", "2024-03-03"),
        LONG,
        {"splits.train.inputs.series.length.max": 7},
        hears=("2 steps are missing between even times, first in t,",),
    ),
    Case(
        "every bridges missing days",
        days("2024-02-26", "2024-02-27", "2024-02-28", "2024-03-02", "2024-03-03", more=", every: 86400"),
        LONG,
        {"splits.train.inputs.series.length.max": 7, "findings": []},
    ),
    Case(
        "dates with the day first are known by one that can be nothing else",
        days("28/02/2024", "01/03/2024", "02/03/2024", more=", every: 86400"),
        LONG,
        {"splits.train.inputs.series.length.max": 4},
    ),
    Case(
        "dates that may have the day or the month first are refused with the key that decides",
        days("01/02/2024", "02/02/2024"),
        LONG,
        error="t.csv row 1, column t: '01/02/2024' may have the day or the month first, and no other cell tells: "
        "data.long.day_first=true or data.long.day_first=false decides",
    ),
    Case(
        "day_first decides",
        days("01/02/2024", "02/02/2024", more=", every: 86400, day_first: true"),
        LONG,
        {"splits.train.inputs.series.length.max": 2},
    ),
    Case(
        "dates with the month first",
        days("01/02/2024", "02/02/2024", more=", every: 86400, day_first: false"),
        LONG,
        {"splits.train.inputs.series.length.max": 32},
    ),
    Case(
        "hours before and after noon",
        days("2/28/2024 11:00 PM", "2/29/2024 12:00 AM", "2/29/2024 1:00 AM", more=f", {HOURS}"),
        LONG,
        {"splits.train.inputs.series.length.max": 3},
    ),
    Case(
        "times of different zones",
        days("2024-02-28T23:00:00+02:00", "2024-02-28T23:00:00Z", more=f", {HOURS}"),
        LONG,
        {"splits.train.inputs.series.length.max": 3},
    ),
    Case(
        "a time without a zone among others",
        days("2024-02-28T23:00:00Z", "2024-02-29T01:00:00"),
        LONG,
        error="t.csv row 2, column t: '2024-02-29T01:00:00' has no time zone, unlike those before",
    ),
    Case(
        "a zone by its name",
        days("2024-02-28 23:00 CET", "2024-02-29 01:00 CET"),
        LONG,
        error="t.csv row 1, column t: '2024-02-28 23:00 CET' names the time zone CET: an offset such as +01:00",
    ),
    Case(
        "a day that no calendar has",
        days("2024-02-29", "2024-02-30"),
        LONG,
        error="t.csv row 2, column t: '2024-02-30' is no date: day",
    ),
    Case(
        "milliseconds since 1970 stay numbers, which is said",
        days("1709161200000", "1709161201000", "1709161203000", more=", every: 1000"),
        LONG,
        {"splits.train.inputs.series.length.max": 4},
        hears=(
            "1709161200000 and the like look like dates and are taken as numbers: every = 1000 counts in their unit",
        ),
    ),
]
"""Time series, long tables, and what would be cut."""


RECIPE = "data: {train: digits}\nmodalities: {image: {}}\nobjective: nt-xent\n"

MESSAGES = [
    Case(
        "a key given twice",
        {"a.yaml": RECIPE + "data:\n  train: pairs.csv\n"},
        "train a.yaml",
        error="config a.yaml line 4: 'data' is given twice",
    ),
    Case(
        "YAML that is none",
        {"a.yaml": "data: {train: digits\nmodalities: {}\n"},
        "train a.yaml",
        error="config a.yaml line 2: ",
    ),
    Case(
        "a flag out of range is blamed, not the file",
        {"a.yaml": RECIPE},
        "train a.yaml --steps 0",
        error="error: --steps 0: train.steps = 0: should be greater than or equal to 1",
    ),
    Case(
        "an infinite learning rate",
        {"a.yaml": RECIPE},
        "train a.yaml -s train.lr=inf",
        error="error: -s train.lr=inf: train.lr = 'inf': should be a finite number",
    ),
    Case(
        "JSON, a list of objects over many lines",
        {"a.json": json.dumps([{"x": 1, "label": "a"}, {"x": 2, "label": "b"}], indent=2)},
        "data check a.json",
        {"splits.train.rows": 2, "splits.train.classes": {"a": 1, "b": 1}},
    ),
    Case(
        "JSON, objects over many lines each",
        {"a.json": "\n".join(json.dumps({"x": i, "label": c}, indent=2) for i, c in enumerate("ab"))},
        "data check a.json",
        {"splits.train.rows": 2},
    ),
    Case(
        "JSON, one object around the rows",
        {"a.json": json.dumps({"version": 1, "data": [{"x": 1}]}, indent=2)},
        "data check a.json",
        error="a.json: one JSON object with the keys 'version', 'data', where one JSON object per line, or a list of "
        "objects makes rows; save the list under 'data' alone",
    ),
    Case(
        "cells that are URLs of a kind that is not read",
        {"a.csv": csv("image,label", "ftp://x.org/1.png,a", "ftp://x.org/2.png,b")},
        "data check a.csv",
        {"findings.0.reason": lambda said: "'ftp://x.org/1.png' is a URL of a kind that is not read" in said},
        code=3,
    ),
    Case(
        "paths with backslashes",
        under("data") | {"data/a.csv": csv("image,label", "cat\\1.png,a", "cat\\2.png,b", "dog\\3.png,a")},
        "data check data/a.csv",
        {
            "splits.train.inputs.image.bad": 0,
            "notes": ["a.csv, column image: files below the folder, backslashes read as /"],
        },
    ),
    Case(
        "one path with backslashes among others",
        under("data") | {"data/a.csv": csv("image,label", "cat/1.png,a", "cat\\2.png,b", "dog/3.png,a")},
        "data check data/a.csv",
        {"findings.0.reason": lambda said: said.endswith("no such file; with / in place of backslashes it is there")},
        code=3,
    ),
    Case(
        "letter case of an extension",
        {"1.JPG": picture(1, "JPEG"), "2.jpg": picture(2, "JPEG"), "a.csv": csv("image,label", "1.jpg,a", "2.jpg,b")},
        "data check a.csv",
        {"findings.0.reason": "1.jpg: no such file; '1.JPG' is there: letter case differs"},
        code=3,
    ),
    Case(
        "decomposed names on disk, composed ones in the table",
        {normalize("NFD", f"é{i}.png"): picture(i) for i in range(3)}
        | {"a.csv": csv("image,label", *(normalize("NFC", f"é{i}.png,{i % 2}") for i in range(3)))},
        "data check a.csv",
        {"splits.train.inputs.image.bad": 0},
    ),
    Case(
        "one composed name in a table of decomposed ones",
        {normalize("NFD", f"é{i}.png"): picture(i) for i in range(2)}
        | {"a.csv": csv("image,label", normalize("NFD", "é0.png,0"), normalize("NFC", "é1.png,1"))},
        "data check a.csv",
        {"findings.0.reason": lambda said: "is there: accents are encoded in two ways" in said},
        code=3,
    ),
    *(
        Case(
            f"{what} among cells",
            {"a.jpg": picture(1, "JPEG"), "c.jpg": picture(2), "b.jpg": content}
            | {"a.csv": csv("image,label", "a.jpg,a", "b.jpg,b", "c.jpg,a")},
            "data check a.csv",
            {"findings.0.where": "a.csv row 2", "findings.0.reason": lambda said, says=says: says in said},
            code=3,
        )
        for what, content, says in (
            ("HEIC", HEIC, "HEIC is not read: convert it to JPEG or PNG"),
            ("SVG", SVG, "SVG is a drawing, not pixels"),
            ("a web page", b"<!DOCTYPE html><html>", "a web page, not the file"),
            (
                "a pointer of Git LFS",
                b"version https://git-lfs.github.com/spec/v1\n",
                "`git lfs pull` fetches the file",
            ),
        )
    ),
    *(
        Case(
            f"pixels that are no picture: {what}",
            {f"data/{name}/{k}.{extension}": content for name in ("field", "sea") for k in range(2)},
            "data check data",
            {"findings.0.column": "image", "findings.0.reason": says},
            code=3,
            hears=("error: data: 4 bad cell",),
        )
        for what, extension, content, says in (
            (
                "13 bands in TIFF",
                "tif",
                tiff(13),
                "field/0.tif: a TIFF of 13 bands: images of 1, 3 or 4 bands are read",
            ),
            ("3 layers in TIFF", "tif", layers(3), holds("field/0.tif: a TIFF of 3 pages", "one picture a file")),
            (
                "13 bands in .npy",
                "npy",
                array(np.zeros((13, 8, 8), np.uint16)),
                "field/0.npy: an array of shape [13, 8, 8]: images of 1, 3 or 4 bands, first or last, are read",
            ),
        )
    ),
    *(
        Case(
            f"pictures of 16 bits of which {brightest} is the brightest",
            {
                f"data/{name}/{k}.{kind}": content
                for name in ("field", "sea")
                for k, (kind, content) in enumerate((("png", deep(brightest)), ("tif", deep(brightest // 2, "TIFF"))))
            },
            "init data",
            {"recipe": holds(says)},
        )
        for brightest, says in ((3021, "image: {white: 4095}"), (60000, "image: {}"))
    ),
    Case(
        "pages of a scan in TIFF: the first is read",
        {f"data/{name}/{k}.tif": layers(2 + k, "L") for name in ("letter", "bill") for k in range(2)},
        "data check data",
        {"splits.train.inputs.image.bad": 0},
    ),
    Case(
        "arrays of pixels in class folders, bands first and last",
        {
            f"data/{name}/{k}.npy": array(np.full(shape, 9 * k + len(name), np.uint8))
            for name in ("field", "sea")
            for k, shape in enumerate(((3, 8, 9), (8, 9, 3), (8, 9, 1), (4, 8, 9)))
        },
        "data check data",
        {"columns": use_of("image", "input image", kind="image"), "splits.train.inputs.image.bad": 0},
    ),
    Case(
        "arrays of pixels in a table",
        {"a.csv": csv("tile,label", *(f"{k}.npy,{k % 2}" for k in range(4)))}
        | {f"{k}.npy": array(np.full((3, 8, 8), k, np.uint8)) for k in range(4)},
        "data check a.csv",
        {"columns": use_of("tile", "input image", kind="image"), "splits.train.inputs.image.bad": 0},
    ),
    Case(
        "AAC among recordings",
        {"a.wav": sound(1), "b.wav": M4A, "a.csv": csv("audio,label", "a.wav,a", "b.wav,b")},
        "data check a.csv",
        {"findings.0.reason": "b.wav: AAC in MP4 (m4a) is not read: convert it to WAV or FLAC"},
        code=3,
    ),
    Case(
        "a spreadsheet",
        {"a.xlsx": b"PK\x03\x04"},
        "data check a.xlsx",
        error="(a spreadsheet: save it as CSV or Parquet)",
    ),
    Case(
        "a CSV that Excel wrote",
        {"a.csv": csv("Größe;Alter;x", "1;2;3", "4;5;6").encode("cp1252")},
        "data check a.csv",
        error="a.csv line 1: not UTF-8 text (invalid start byte at byte 2; 0xf6 is 'ö' in cp1252, in which Excel saves "
        "plain CSV); save the file as UTF-8 (iconv -f cp1252 -t utf-8)",
    ),
    Case(
        "an object with two types in it",
        {"a.jsonl": lines({"tags": {"color": "red"}}, {"tags": {"color": None}}, {"tags": {"color": ["red", "blue"]}})},
        "data check a.jsonl",
        error="a.jsonl line 3: 'tags.color' is a list here and text in line 1; a column has one type",
    ),
    Case(
        "a file that is missing from a list of one",
        {"0.png": picture(), "a.jsonl": lines({"shots": ["0.png"], "x": "a"}, {"shots": ["1.png"], "x": "b"})},
        "data check a.jsonl",
        {"findings.0.reason": "1.png: no such file"},
        code=3,
    ),
]
"""Everything else that must be said clearly."""


CASES = [*FOLDERS, *COLUMNS, *LISTS, *PAIRS, *SPLITS, *NUMBERS, *FIGURES, *SERIES, *MESSAGES]
