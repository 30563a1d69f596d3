"""Files that would like to run a program, or to be read from elsewhere: refused or inert, and the marker is absent."""

import ast
import gzip
import io
import os
import pickle
import shutil
import tarfile
import warnings
import zipfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image as pillow

from clx.modalities.audio import Audio
from clx.modalities.base import CellError, Modality
from clx.modalities.image import Image
from clx.modalities.series import Series
from clx.modalities.text import Text
from clx.pipelines.data import text_files
from clx.pipelines.data.cell_files import resolve
from clx.pipelines.data.splits import load_manifest
from clx.pipelines.runs import checkpoint
from clx.pipelines.runs.folder import run_name
from clx.pipelines.system.durable_files import digest, seal, unseal
from clx.pipelines.system.errors import BadInput, ClxWarning
from samples import wav

ROOT = Path(__file__).parents[2]
FORMAT_1 = Path(__file__).with_name("format-1")


class Evil:
    """Unpickled, it makes a folder."""

    def __init__(self, marker: Path) -> None:
        self.marker = str(marker)

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return os.mkdir, (self.marker,)


@pytest.fixture
def marker(tmp_path: Path) -> Path:
    return tmp_path / "marker"


def plain(marker: Path) -> bytes:
    return pickle.dumps(Evil(marker))


def archive(marker: Path) -> bytes:
    """As torch saves today."""
    file = io.BytesIO()
    torch.save({"a": Evil(marker), "state_dict": {}}, file)
    return file.getvalue()


def legacy(marker: Path) -> bytes:
    """As torch saved before 1.6."""
    file = io.BytesIO()
    torch.save(Evil(marker), file, _use_new_zipfile_serialization=False)
    return file.getvalue()


EVIL = {"pickle": plain, "torch archive": archive, "torch before 1.6": legacy}


def test_the_evil_is_evil(marker: Path) -> None:
    """What the tests below rely on: loaded without care, these files do their deed."""
    for make in EVIL.values():
        pickle.loads(make(marker)) if make is plain else torch.load(io.BytesIO(make(marker)), weights_only=False)
        marker.rmdir()


@pytest.mark.parametrize("make", EVIL.values(), ids=EVIL)
@pytest.mark.parametrize("name", ["trainer.pt", "model.safetensors", "facts.json", "config.yaml", "meta.json"])
def test_a_run_folder_with_a_pickle_in_any_place(tmp_path: Path, marker: Path, name: str, make: Any) -> None:
    """The digests are right: whoever can write the one can write the other."""
    run = Path(shutil.copytree(FORMAT_1, tmp_path / "run"))
    place = next((run / "checkpoints").iterdir())
    for path in (run / name, place / name):
        if path.exists():
            path.write_bytes(make(marker))
    if name != "meta.json":
        meta = unseal(place / "meta.json")
        meta["files"][name] = {"size": (place / name).stat().st_size, "digest": digest(place / name)}
        (place / "meta.json").write_text(seal(meta))
    refused = 0
    for read in (checkpoint.load, lambda run: checkpoint.load_trainer(checkpoint.last(run)), checkpoint.read_config):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ClxWarning)
            with suppress(BadInput):
                read(run)
                continue
        refused += 1
    assert refused
    assert not marker.exists()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("make", EVIL.values(), ids=EVIL)
@pytest.mark.parametrize(
    ("kind", "options", "file"),
    [
        (Image, {"encoder": "timm:resnet18"}, "w.pth"),
        (Image, {"encoder": "open_clip:ViT-B-32"}, "w.pt"),
        (Image, {"encoder": "timm:resnet18"}, "w.safetensors"),
        (Audio, {"encoder": "torchaudio:WAV2VEC2_BASE"}, "w.pth"),
    ],
    ids=["timm", "open_clip", "timm safetensors", "torchaudio"],
)
def test_pretrained_weights_with_a_pickle(
    tmp_path: Path, marker: Path, kind: Any, options: dict[str, Any], file: str, make: Any
) -> None:
    (tmp_path / file).write_bytes(make(marker))
    with torch.device("meta") if "open_clip" in options["encoder"] else torch.device("cpu"), pytest.raises(ValueError):
        kind(**options, pretrained=str(tmp_path / file)).build_encoder()
    assert not marker.exists()


def test_a_text_model_with_code_or_pickles(tmp_path: Path, marker: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither the code beside a model nor its pickled weights run, and nobody is asked whether they may."""
    pytest.importorskip("transformers")
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text(
        '{"model_type": "bert", "auto_map": {"AutoModel": "evil.Evil", "AutoConfig": "evil.Config", '
        '"AutoTokenizer": ["evil.T", null]}, "architectures": ["Evil"], "hidden_size": 8, "num_hidden_layers": 1, '
        '"num_attention_heads": 1, "intermediate_size": 8, "vocab_size": 9}'
    )
    (folder / "tokenizer_config.json").write_text('{"auto_map": {"AutoTokenizer": ["evil.T", null]}}')
    (folder / "evil.py").write_text(f"import os\nos.mkdir({str(marker)!r})\n")
    (folder / "vocab.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\na\nb\n")
    monkeypatch.setattr("builtins.input", lambda *said: pytest.fail("asked on the terminal"))
    for make in EVIL.values():
        (folder / "pytorch_model.bin").write_bytes(make(marker))
        with pytest.raises(ValueError):
            Text(encoder=f"hf:{folder}").build_encoder()
        assert not marker.exists()


def npy(marker: Path, kind: str) -> bytes:
    file = io.BytesIO()
    if kind == "objects":
        np.save(file, np.array([Evil(marker)], dtype=object), allow_pickle=True)
    elif kind == "structure":
        np.save(file, np.array([(1, Evil(marker))], dtype=[("a", "i4"), ("b", "O")]), allow_pickle=True)
    elif kind == "zip":
        np.savez(file, a=np.array([Evil(marker)], dtype=object))
    elif kind == "pickle":
        return plain(marker)
    else:  # more numbers than there is memory for
        file.write(b"\x93NUMPY\x01\x00\x46\x00{'descr': '<f8', 'fortran_order': False, 'shape': (1000000000000, 9)}\n")
    return file.getvalue()


@pytest.mark.parametrize("kind", ["objects", "structure", "zip", "pickle", "bomb"])
def test_arrays_of_objects(tmp_path: Path, marker: Path, kind: str) -> None:
    (tmp_path / "a.npy").write_bytes(npy(marker, kind))
    for cell in (tmp_path / "a.npy", npy(marker, kind)):
        with pytest.raises(CellError):
            Series().read(cell)
    assert not marker.exists()


def test_a_picture_that_is_a_program(tmp_path: Path, marker: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """PostScript runs in Ghostscript, if Pillow is let."""
    (tmp_path / "gs").write_text(f"#!/bin/sh\nmkdir {marker}\n")
    (tmp_path / "gs").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    content = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n(x) run\n"
    (tmp_path / "p.png").write_bytes(content)
    for cell in (tmp_path / "p.png", content):
        with pytest.raises(CellError, match="EPS is not a format"):
            Image().read(cell)
    assert not marker.exists()


@pytest.mark.parametrize(
    "name", ["../secret.png", "/etc/passwd", "inside/../../secret.png", "link.png", "folder/secret.png", "a\0b"]
)
def test_paths_that_lead_outside(tmp_path: Path, name: str) -> None:
    data = tmp_path / "data"
    data.mkdir()
    pillow.new("RGB", (8, 8)).save(tmp_path / "secret.png")
    (data / "link.png").symlink_to(tmp_path / "secret.png")
    (data / "folder").symlink_to(tmp_path)
    (data / "m.csv").write_text("image\nx.png\n")
    manifest = load_manifest(str(data / "m.csv"))
    with pytest.raises(BadInput, match="leaves|is no path"):
        resolve(name, manifest)


SPECIAL: list[tuple[type[Modality], str]] = [(Image, "x.png"), (Audio, "x.wav"), (Series, "x.npy"), (Series, "x.csv")]


@pytest.mark.parametrize(("kind", "name"), SPECIAL, ids=[name for _, name in SPECIAL])
@pytest.mark.parametrize("become", ["pipe", "device", "folder", "nothing", "empty"])
def test_a_file_that_became_something_else_is_refused_at_once(
    tmp_path: Path, kind: type[Modality], name: str, become: str
) -> None:
    path = tmp_path / name
    if become == "pipe":
        os.mkfifo(path)
    elif become == "device":
        path.symlink_to("/dev/zero")
    elif become == "folder":
        path.mkdir()
    elif become == "empty":
        path.touch()
    said = {
        "pipe": "a pipe",
        "device": "device",
        "folder": "a folder",
        "nothing": "no such file",
        "empty": "zero bytes",
    }
    with pytest.raises(CellError, match=said[become]):
        kind().read(path)


def test_lengths_of_recordings_are_asked_without_waiting(clx: Callable[..., Any], tmp_path: Path) -> None:
    """`clx init` looks at rates, `clx data check` and `fit` at lengths, all before a file is read."""
    for k in (0, 1):
        (tmp_path / f"{'ab'[k]}.wav").write_bytes(wav(k))
    os.mkfifo(tmp_path / "c.wav")
    (tmp_path / "m.csv").write_text("audio,label\na.wav,x\nb.wav,y\nc.wav,x\n")
    done = clx("init", "m.csv", "-o", "m.yaml", cwd=tmp_path, timeout=60)
    assert done.returncode == 0, done.stderr
    done = clx("data", "check", "m.csv", "--config", "m.yaml", cwd=tmp_path, timeout=60)
    assert done.returncode == 3
    assert "a pipe or device, not a file" in done.stdout + done.stderr


def test_manifests_and_labels_that_are_pipes(clx: Callable[..., Any], tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "m.csv")
    (tmp_path / "z.jsonl").symlink_to("/dev/zero")
    for source in ("m.csv", "z.jsonl"):
        done = clx("data", "check", source, cwd=tmp_path, timeout=60)
        assert (done.returncode, done.stdout) == (2, ""), done.stderr
        assert "a pipe or device" in done.stderr


def sparse(path: Path, size: int) -> None:
    with open(path, "wb") as file:
        file.truncate(size)


def test_huge_files_cost_no_memory(tmp_path: Path) -> None:
    sparse(tmp_path / "x.png", 40 << 30)
    with pytest.raises(CellError, match="MB that are read"):
        Image().read(tmp_path / "x.png")
    sparse(tmp_path / "x.csv", 40 << 30)
    with pytest.raises(CellError, match="a line of over"):
        Series().read(tmp_path / "x.csv")
    header = (
        b"\x93NUMPY\x01\x00\x76\x00"
        + b"{'descr': '<f4', 'fortran_order': False, 'shape': (1000000000, 2), }".ljust(117)
        + b"\n"
    )
    (tmp_path / "x.npy").write_bytes(header)
    os.truncate(tmp_path / "x.npy", len(header) + 8 * 10**9)
    assert Series(max_steps=50).read(tmp_path / "x.npy").shape == (50, 2)


def test_hours_of_sound_cost_seconds_of_memory(tmp_path: Path) -> None:
    """Ten hours as a sparse WAV of 3.2 GB; half a second of it is read."""
    size = 10 * 3600 * 44100 * 2
    head = b"RIFF" + (size + 36).to_bytes(4, "little") + b"WAVEfmt " + (16).to_bytes(4, "little")
    head += b"\1\0\1\0" + (44100).to_bytes(4, "little") + (88200).to_bytes(4, "little") + b"\2\0\x10\0data"
    (tmp_path / "x.wav").write_bytes(head + size.to_bytes(4, "little"))
    os.truncate(tmp_path / "x.wav", 44 + size)
    assert len(Audio(sample_rate=8000, max_seconds=0.5).read(tmp_path / "x.wav")) == 4000


@pytest.mark.parametrize("rate", [11127, 44101])
def test_odd_rates_are_resampled_without_a_table(rate: int) -> None:
    """Rates without a common factor would make torchaudio's filter gigabytes large."""
    import soundfile

    file = io.BytesIO()
    soundfile.write(file, np.sin(2 * np.pi * 440 * np.arange(rate // 4) / rate), rate, format="WAV")
    heard = Audio(sample_rate=16000).read(file.getvalue())
    assert abs(len(heard) - 4000) <= 1
    wanted = torch.sin(2 * torch.pi * 440 * torch.arange(len(heard)) / 16000)
    assert (heard - wanted)[200:-200].abs().max() < 0.02


def test_zip_files_are_not_read_whatever_they_are_called(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "bomb.zip", "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("../../x.png", b"0" * 10**6)
    for name, says in (
        ("bomb.zip", "expected a folder or a file ending in"),
        ("bomb.tar", "not a whole tar file"),
        ("bomb.csv.gz", "not UTF-8 text"),
    ):
        if name != "bomb.zip":
            shutil.copy(tmp_path / "bomb.zip", tmp_path / name)
        with pytest.raises(BadInput, match=says):
            load_manifest(str(tmp_path / name))
    for modality in (Image(), Audio(), Series()):
        with pytest.raises(CellError):
            modality.read((tmp_path / "bomb.zip").read_bytes())


@pytest.mark.parametrize("name", ["a.csv.gz", "a.jsonl.gz", "a.tar.gz"])
def test_what_unpacks_to_more_than_fits_is_refused(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_files, "LARGEST_RATIO", 1 << 40)
    monkeypatch.setattr(os, "sysconf", lambda key: 1000)  # a megabyte of memory
    text = b'{"a": 1}\n' * 10**5
    if "tar" in name:
        with tarfile.open(tmp_path / name, "w:gz") as archive:
            info = tarfile.TarInfo("1.txt")
            info.size = len(text)
            archive.addfile(info, io.BytesIO(text))
    else:
        (tmp_path / name).write_bytes(gzip.compress(text))
    with pytest.raises(BadInput, match=r"over 0.0 GB, which are read into memory"):
        load_manifest(str(tmp_path / name))


def test_members_that_are_links_or_lead_out_are_never_written(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        for name in ("../out.txt", "../out.cls", "/abs.txt", "in.txt"):
            info = tarfile.TarInfo(name)
            info.size = 1
            archive.addfile(info, io.BytesIO(b"x"))
        link = tarfile.TarInfo("link.txt")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    manifest = load_manifest(str(tmp_path / "a.tar"))
    assert manifest.column("key") == ["../out", "/abs", "in"]
    assert manifest.column("text") == ["x", "x", "x"]
    assert [path.name for path in tmp_path.iterdir()] == ["a.tar"]


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("digits", "digits"),
        ("a b/../c", "a-b-..-c"),
        ("../../etc", "etc"),
        ("x\ny\x1b[31m", "x-y-31m"),
        ("...", "run"),
        ("\u00fcber", "\u00fcber"),
        ("n" * 300, "n" * 100),
    ],
)
def test_names_of_runs_stay_in_their_folder(name: str, wanted: str) -> None:
    assert run_name(name) == wanted


REFUSED = {"cPickle", "dill", "joblib", "shelve", "marshal", "tarfile", "zipfile"}
READS_TARS = ROOT / "pipelines/data/tars.py"
"""It reads members into memory and writes none."""
CALLS = {"eval", "exec", "compile", "__import__", "os.system", "os.popen", "pickle.load", "pickle.loads"}
CALLS |= {"pickle.Unpickler", "yaml.load", "yaml.full_load", "yaml.unsafe_load", "importlib.import_module"}
REGISTRIES = ("losses/__init__.py", "modalities/registry.py", "pipelines/evaluation/tasks/__init__.py")
"""They import what lies beside them."""
NAMED = ("pipelines/training/trackers.py",)
"""It imports packages that are written there."""
SOURCES = sorted(p for folder in ("cli", "pipelines", "modalities", "losses") for p in (ROOT / folder).rglob("*.py"))


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: f"{p.parent.name}/{p.name}")
def test_no_code_of_ours_runs_the_code_of_files(path: Path) -> None:
    """And torch, numpy and transformers are told to be careful, wherever they are asked to load."""
    refused = REFUSED - {"tarfile"} if path == READS_TARS else REFUSED
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            assert not refused & {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.module not in refused | {"pickle"}
        elif isinstance(node, ast.Call):
            called, given = ast.unparse(node.func), {k.arg: ast.unparse(k.value) for k in node.keywords}
            assert not called.endswith((".extract", ".extractall"))
            assert called not in CALLS or str(path.relative_to(ROOT)) in (*REGISTRIES, *NAMED), called
            assert called != "torch.load" or given.get("weights_only") == "True"
            assert called != "np.load" or given.get("allow_pickle") == "False"
            assert given.get("trust_remote_code", "False") == "False"
