"""Damaged and invented input at every door: refused in the house's own words or accepted; never anything else.

100 inputs a door here, 10 000 with `-m slow`. Each door is a function that raises `BadInput` or `CellError` or returns.
"""

import io
import json
import shutil
import signal
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image as pillow

from clx.modalities.audio import Audio
from clx.modalities.base import CellError
from clx.modalities.image import Image
from clx.modalities.series import Series
from clx.pipelines.config.load import load_config
from clx.pipelines.config.objects import make_losses, make_modalities
from clx.pipelines.data.splits import load_manifest, load_splits, split_by
from clx.pipelines.evaluation import results
from clx.pipelines.report import confusions, run_facts, tables
from clx.pipelines.report import curves as page_curves
from clx.pipelines.runs import checkpoint
from clx.pipelines.runs.folder import FOLDER, LAST
from clx.pipelines.runs.listing import curves, figures, headline, read_results, summary
from clx.pipelines.system.durable_files import digest, seal
from clx.pipelines.system.errors import BadInput, ClxWarning
from clx.pipelines.training.schedule import plan
from clx.pipelines.training.trainer import Trainer
from clx.pipelines.use.labels import read_labels
from clx.pipelines.use.temperature_fit import load_fits

SECONDS = 30  # of this process for one input: more is a hang
WAIT = 600  # seconds by the clock, in which nothing else may keep it
TOKENS = [
    b"\0",
    b"\xff\xff\xff\xff",
    b"\x7f\xff\xff\xff",
    b"NaN",
    b"1e999",
    b'"',
    b"\n",
    b",",
    b"{",
    b"[" * 99,
    b"&a [*a]",
]
Edit = tuple[int, float, bytes]
Door = Callable[[str, bytes], None]


class Hang(BaseException):
    """An input that takes too long."""


@contextmanager
def in_time() -> Iterator[None]:
    def late(number: int, frame: object) -> None:
        raise Hang

    assert threading.current_thread() is threading.main_thread()
    before = {number: signal.signal(number, late) for number in (signal.SIGALRM, signal.SIGPROF)}
    signal.alarm(WAIT)
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.setitimer(signal.ITIMER_PROF, 0)
        for number, handler in before.items():
            signal.signal(number, handler)


def edited(content: bytes, edits: list[Edit]) -> bytes:
    """Bits flipped, pieces cut, doubled, overwritten or put in."""
    for kind, place, new in edits:
        at = int(place * len(content))
        if kind == 0:
            content = content[:at]
        elif kind == 1 and content:
            at = min(at, len(content) - 1)
            content = content[:at] + bytes([content[at] ^ (1 << (len(new) % 8))]) + content[at + 1 :]
        elif kind == 2:
            content = content[:at] + new + content[at:]
        elif kind == 3:
            content = content[:at] + new + content[at + len(new) :]
        elif kind == 4:
            content = content[:at] + content[at : at + 40] * 3 + content[at + 40 :]
        else:
            content = content[:at] + content[at + len(new) :]
    return content


def spoiled(seeds: list[tuple[str, bytes]]) -> st.SearchStrategy[tuple[str, bytes]]:
    """One of the good inputs with up to six edits (most of them where headers are), or nothing but random bytes."""
    places = st.one_of(st.floats(0, 0.1), st.floats(0, 1))
    news = st.one_of(st.sampled_from(TOKENS), st.binary(max_size=12))
    edits = st.lists(st.tuples(st.sampled_from([1, 1, 3, 2, 4, 5, 0]), places, news), max_size=6)
    changed = st.tuples(st.sampled_from(seeds), edits).map(lambda both: (both[0][0], edited(both[0][1], both[1])))
    return st.one_of(
        changed, changed, changed, st.tuples(st.sampled_from([s[0] for s in seeds]), st.binary(max_size=200))
    )


def manifests(folder: Path) -> list[tuple[str, bytes]]:
    import pyarrow as pa
    from pyarrow import parquet

    table = pa.table(
        {"text": ["a", "b", None], "size": [1.0, 2.0, 3.0], "s": [[1, 2], [3], None], "split": ["train"] * 3}
    )
    parquet.write_table(table, folder / "t.parquet")
    jsonl = b'{"text": "a", "size": 1, "s": [1, 2], "split": "train"}\n{"text": "b", "size": null, "s": [[1], [2]]}\n'
    csv = b'text,size,split\na,1,train\n"b ""q"", x",2,val\n,,\n'
    return [
        ("m.csv", csv),
        ("m.tsv", csv.replace(b",", b"\t")),
        ("m.jsonl", jsonl),
        ("m.parquet", (folder / "t.parquet").read_bytes()),
    ]


def configs(folder: Path) -> list[tuple[str, bytes]]:
    text = b"""data: {train: x.csv, label: label, target: [a, b], val: {fraction: 0.1}}
modalities:
  image: {encoder: cnn, size: 8, views: 2}
  words: {kind: text, column: text, layers: 1, templates: ["a {}", "{}"]}
embed_dim: 16
objective: [{name: clip, temperature: 0.1, inputs: [image, words]}, {name: supcon, weight: 0.5}]
train: {steps: 3, batch_size: 4, lr: 1.0e-3, device: cpu, clip: null}
eval: [zeroshot]
"""
    toml = b'embed_dim = 8\n[data]\ntrain = "x.csv"\n[modalities.text]\nlayers = 1\n[objective]\nname = "clip"\n'
    bomb = b"a: &a [1,1]\nb: &b [*a,*a]\ndata: [*b,*b]\nwhen: 2001-12-14\n"
    return [("c.yaml", text), ("c.toml", toml), ("c.yaml", bomb)]


def given_settings(folder: Path) -> list[tuple[str, bytes]]:
    """Keys, and what follows them."""
    return [
        ("train.lr", b"=1e-3"),
        ("objective", b".temperature=0.2"),
        ("modalities", b"={image: {size: 8}}"),
        ("data", b".val.fraction=0.3"),
        ("eval", b"=[zeroshot]"),
    ]


def labels(folder: Path) -> list[tuple[str, bytes]]:
    return [
        ("l.txt", "zero\none\nzw\u00f6lf\n".encode()),
        ("l.json", b'["zero", "one"]'),
        ("l.json", b'{"cat": ["a cat", "kitty"], "dog": "a dog"}'),
    ]


def sounds(folder: Path) -> list[tuple[str, bytes]]:
    made = []
    wave = np.sin(np.arange(900) * 0.2) * 0.5
    for name, form, kind in [
        ("wav", "WAV", "PCM_16"),
        ("wav", "WAV", "FLOAT"),
        ("flac", "FLAC", None),
        ("ogg", "OGG", None),
        ("mp3", "MP3", None),
        ("aiff", "AIFF", None),
        ("au", "AU", None),
    ]:
        file = io.BytesIO()
        soundfile.write(file, np.stack([wave, wave], 1), 8000, format=form, subtype=kind)
        made.append((f"a.{name}", file.getvalue()))
    return made


def pictures(folder: Path) -> list[tuple[str, bytes]]:
    made = []
    pixels = np.random.default_rng(0).integers(0, 255, (9, 11, 3), dtype=np.uint8)
    for form in ("PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM", "TGA", "ICO", "JPEG2000"):
        file = io.BytesIO()
        pillow.fromarray(pixels).save(file, form)
        made.append((f"p.{form.lower()}", file.getvalue()))
    file = io.BytesIO()
    pillow.fromarray(pixels[..., 0]).convert("P").save(file, "PNG", transparency=3, exif=b"Exif\0\0II*\0\x08\0\0\0\0\0")
    made.append(("p.png", file.getvalue()))
    made.append(("p.eps", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(x) run\n"))
    return made


def series(folder: Path) -> list[tuple[str, bytes]]:
    made = []
    for array in (
        np.arange(12.0).reshape(6, 2),
        np.arange(9, dtype=np.int16),
        np.asfortranarray(np.ones((4, 3), "f4")),
    ):
        file = io.BytesIO()
        np.save(file, array)
        made.append(("s.npy", file.getvalue()))
    return [
        *made,
        ("s.csv", b"a,b\n1,2\n3,nan\n5,6e3\n"),
        ("s.json", b"[[1, 2], [3, null], [5, 6]]"),
        ("s.tsv", b"1\t2\n3\t4\n"),
    ]


def manifest_door(folder: Path) -> Door:
    def enter(name: str, content: bytes) -> None:
        (folder / name).write_bytes(content)
        found = load_manifest(str(folder / name))
        for i in range(min(len(found), 5)):
            found.row(i)
        if "split" in found.columns:
            split_by(found, "split")

    return enter


def config_door(folder: Path) -> Door:
    def enter(name: str, content: bytes) -> None:
        (folder / name).write_bytes(content)
        config = load_config(str(folder / name))
        make_modalities(config)
        make_losses(config)

    return enter


def setting_door(folder: Path) -> Door:
    def enter(name: str, content: bytes) -> None:
        config = load_config("digits", [f"{name}{content.decode('utf-8', 'replace')}"])
        make_modalities(config)
        make_losses(config)

    return enter


def label_door(folder: Path) -> Door:
    def enter(name: str, content: bytes) -> None:
        (folder / name).write_bytes(content)
        read_labels(folder / name)

    return enter


def cell_door(modality: Any) -> Callable[[Path], Door]:
    def make(folder: Path) -> Door:
        def enter(name: str, content: bytes) -> None:
            (folder / name).write_bytes(content)
            if name.endswith(".json"):
                modality.collate([modality.read(content.decode("utf-8", "replace"))])
                return
            with suppress(CellError):  # by path and by bytes: either may refuse
                modality.collate([modality.read(content)])
            modality.collate([modality.read(folder / name)])

        return enter

    return make


DOORS: dict[str, tuple[Callable[[Path], list[tuple[str, bytes]]], Callable[[Path], Door]]] = {
    "manifests": (manifests, manifest_door),
    "configs": (configs, config_door),
    "settings": (given_settings, setting_door),
    "label files": (labels, label_door),
    "audio": (sounds, cell_door(Audio(sample_rate=8000, max_seconds=1.0))),
    "images": (pictures, cell_door(Image(size=8))),
    "series": (series, cell_door(Series())),
}


def fuzz(seeds: list[tuple[str, bytes]], door: Door, examples: int) -> None:
    """Every input is refused properly or accepted, within `SECONDS`."""
    entered = [0]

    @settings(
        max_examples=examples, deadline=None, database=None, derandomize=True, suppress_health_check=list(HealthCheck)
    )
    @given(spoiled(seeds))
    def each(made: tuple[str, bytes]) -> None:
        entered[0] += 1
        with in_time(), suppress(BadInput, CellError), warnings.catch_warnings():
            warnings.simplefilter("error")
            warnings.simplefilter("ignore", ClxWarning)
            door(*made)

    for name, content in seeds:  # as they are, so that the edits start from something that is read
        with suppress(BadInput, CellError):
            door(name, content)
    each()
    assert entered[0] >= examples


@pytest.mark.parametrize("what", DOORS)
def test_a_hundred_spoiled_inputs(what: str, tmp_path: Path) -> None:
    seeds, door = DOORS[what]
    fuzz(seeds(tmp_path), door(tmp_path), 100)


@pytest.mark.slow
@pytest.mark.parametrize("what", DOORS)
def test_ten_thousand_spoiled_inputs(what: str, tmp_path: Path) -> None:
    seeds, door = DOORS[what]
    fuzz(seeds(tmp_path), door(tmp_path), 10_000)


EVALUATION = {
    "schema": results.SCHEMA,
    "clx": "0.1.0",
    "key": "a",
    "model": "run",
    "pretrained": None,
    "step": 2,
    "data": "rows.csv",
    "split": "test",
    "rows": 4,
    "settings": {"templates": [], "phrasings": {}},
    "zeroshot": {
        "table": {
            "top1": 0.5,
            "top1_ci": [0.1, 0.9],
            "confusion": {"classes": ["a", "b"], "counts": [[1, 1], [1, 1]]},
            "rows": 4,
        }
    },
    "regression": {"table->size": {"mae": 1.5, "groups": {"few": {"rows": 4, "mae": 1.5, "mae_ci": [1, 2]}}}},
}
FIT = {"kind": "softmax", "temperature": 0.1, "bias": 0.0, "rows": 9, "labels": 2, "nll": [1, 0.5], "ece": [0.5, 0.1]}
BAD = {"row": "rows.csv row 3", "split": "train", "column": "table", "reason": "no"}


def small_run(folder: Path) -> Path:
    """The run of the first format version, small, with every file that a run has today."""
    run = Path(shutil.copytree(Path(__file__).with_name("format-1"), folder / "run"))
    (run / "answers.json").unlink()
    (run / FOLDER).mkdir()
    times = {"started": "2026-01-01T00:00:00+00:00", "ended": "2026-01-01T01:00:00+00:00"}
    for name, content in {
        LAST: EVALUATION,
        f"{FOLDER}/test-2-b.json": EVALUATION | {"key": "b"},
        "state.json": {"state": "finished", "steps": 2, "error": None, **times},
        "bad_rows.jsonl": BAD,
        "calibration.json": {"format": 1, "weights": "w", "inputs": {"table": [FIT]}},
    }.items():
        (run / name).write_text(json.dumps(content) + "\n")
    return run


def run_files(run: Path) -> list[tuple[str, bytes]]:
    files = [path for path in sorted(run.rglob("*")) if path.is_file()]
    return [(str(path.relative_to(run)), path.read_bytes()) for path in files]


def run_door(run: Path, resealed: bool) -> Door:
    """Spoil one file of a run, read all that a run is read for, and mend it.

    With `resealed` the digests are put right, as one would who means harm, so that nothing but the readers of the
    content stand in the way.
    """
    good = dict(run_files(run))
    place = checkpoint.last(run).path
    meta = place / "meta.json"
    config = checkpoint.read_config(run)
    rows = load_splits(config.data, 0)
    rebuilt = checkpoint.rebuild(run, config, checkpoint.read_facts(run))
    trainer = Trainer(rebuilt, rows, plan(config, len(rows["train"])), run)

    def show() -> None:
        """What `clx report` makes of the files that are no checkpoint's."""
        one = run_facts.ReportedRun("run", run, config, run_facts.read_metrics(run), list(results.saved(run)))
        (
            tables.evaluation_tables([one]),
            confusions.answers(one, {}),
            page_curves.curves([one]),
            run_facts.facts(one, None),
        )

    def reseal(name: str, content: bytes) -> bytes:
        if name.endswith(".json"):
            with suppress(ValueError, RecursionError):
                parsed = json.loads(content)
                if isinstance(parsed, dict) and "digest" in parsed:
                    del parsed["digest"]
                    content = seal(parsed).encode()
        (run / name).write_bytes(content)
        if (run / name).parent == place and (run / name) != meta:
            told = json.loads(good[str(meta.relative_to(run))])
            del told["digest"]
            told["files"][Path(name).name] = {"size": len(content), "digest": digest(run / name)}
            meta.write_text(seal(told))
        return content

    def enter(name: str, content: bytes) -> None:
        (run / name).write_bytes(content)
        if resealed:
            reseal(name, content)
        restore: Callable[[], Any] = lambda: trainer.restore(checkpoint.last(run))  # noqa: E731
        readers = [lambda: checkpoint.load(run)]
        if name == "calibration.json":
            readers = [lambda: load_fits(run, "w")]
        elif name.endswith(".jsonl"):
            readers = [restore, lambda: curves(run), show]
        elif "checkpoints" not in name and name.endswith(".json") and name != "facts.json":
            readers = [lambda: headline(read_results(run)), lambda: figures(read_results(run)), show]
            readers += [lambda: summary(run)] if name == "state.json" else []
        elif name.endswith((".pt", "meta.json")):
            readers = [restore]
        try:
            for read in readers:
                with suppress(BadInput):
                    read()
        finally:
            aside = place.with_name(f"damaged-{place.name}")
            if aside.exists():
                aside.rename(place)
            for each, was in good.items():
                if not (run / each).exists() or (run / each).read_bytes() != was:
                    (run / each).write_bytes(was)

    return enter


@pytest.fixture
def streams() -> Iterator[None]:
    """The random streams, which a resumed run sets, as they were."""
    before = checkpoint.random_state()
    yield
    checkpoint.restore_random(before)


@pytest.mark.usefixtures("streams")
@pytest.mark.parametrize("resealed", [False, True], ids=["rot", "malice"])
def test_spoiled_run_folders(tmp_path: Path, resealed: bool) -> None:
    run = small_run(tmp_path)
    fuzz(run_files(run), run_door(run, resealed), 100)


@pytest.mark.slow
@pytest.mark.usefixtures("streams")
@pytest.mark.parametrize("resealed", [False, True], ids=["rot", "malice"])
def test_ten_thousand_spoiled_run_folders(tmp_path: Path, resealed: bool) -> None:
    run = small_run(tmp_path)
    fuzz(run_files(run), run_door(run, resealed), 10_000)
