"""Files by URL: what comes, what is tried again, and what is said of what does not come."""

import pickle
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest

from clx.pipelines.system import remote
from clx.pipelines.system.errors import BadInput
from clx.pipelines.system.remote import Known, NotGiven, Ranges, Unreachable, Url, fetch, known_of, part, read, url_of
from file_server import FileServer, served

pytest.importorskip("aiohttp", reason="clx[remote] is not installed")


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FileServer]:
    monkeypatch.setattr(remote, "PAUSE", 0.0)
    (tmp_path / "a b#.bin").write_bytes(bytes(range(100)))
    (tmp_path / "empty").write_bytes(b"")
    with served(tmp_path) as made:
        yield made


def test_bytes_are_those_of_the_file(server: FileServer, tmp_path: Path) -> None:
    url = Url(server.url) / "a b#.bin"
    assert url.name == "a%20b%23.bin"
    assert read(url, 1000) == bytes(range(100))
    assert part(url, 10, 20) == bytes(range(10, 20))
    assert known_of(url).size == 100
    assert known_of(url) == known_of(url)
    fetch(url, str(tmp_path / "copy"), 100)
    assert (tmp_path / "copy").read_bytes() == bytes(range(100))
    with Ranges(url, 100) as file:
        file.seek(-10, 2)
        assert (file.read(4), file.tell(), file.read()) == (bytes(range(90, 94)), 94, bytes(range(94, 100)))


def test_memory_is_read_alike() -> None:
    fsspec.filesystem("memory").pipe({"/remote/a.bin": b"0123456789"})
    url = Url("memory://remote") / "a.bin"
    known = known_of(url)
    assert (read(url, 10), part(url, 2, 4), known.size) == (b"0123456789", b"23", 10)
    fsspec.filesystem("memory").pipe({"/remote/a.bin": b"9876543210"})
    assert isinstance(known, Known)
    assert known_of(url).version != known.version
    with pytest.raises(NotGiven, match="more than the 0 MB"):
        read(url, 9)
    with pytest.raises(NotGiven, match=r"memory://remote/b.bin: no such file there"):
        read(Url("memory://remote/b.bin"), 10)


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (403, r"access denied \(403\)"),
        (404, r"no such file there \(404\)"),
        (400, "the server answers 400"),
    ],
)
def test_what_the_server_refuses_is_asked_for_once(server: FileServer, fault: int, said: str) -> None:
    server.faults["a b#.bin"] = [fault]
    with pytest.raises(NotGiven, match=f"^{server.url}/a%20b%23.bin: {said}$"):
        read(Url(f"{server.url}/a%20b%23.bin?sig=SECRET"), 1000)


@pytest.mark.parametrize("fault", [500, 503, 429, "cut"])
def test_what_may_pass_is_tried_again(server: FileServer, fault: int | str, tmp_path: Path) -> None:
    url = Url(server.url) / "a b#.bin"
    server.faults["a b#.bin"] = [fault, fault]
    assert read(url, 1000) == bytes(range(100))
    server.faults["a b#.bin"] = [fault, fault]
    fetch(url, str(tmp_path / "copy"), 100)
    assert (tmp_path / "copy").read_bytes() == bytes(range(100))
    server.faults["a b#.bin"] = fault
    said = "breaks off before its end" if fault == "cut" else f"answers {fault}"
    with pytest.raises(Unreachable, match=rf"{said} \(tried 4 times\)$"):
        read(url, 1000)


def test_nobody_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "PAUSE", 0.0)
    with pytest.raises(Unreachable, match=r"^http://127.0.0.1:9/x: cannot be reached .*\(tried 4 times\)$") as error:
        read(Url("http://user:word@127.0.0.1:9/x?sig=SECRET"), 10)
    assert "SECRET" not in str(error.value)
    assert "word" not in str(error.value)
    with pytest.raises(Unreachable, match="cannot be reached"):
        known_of(Url("http://127.0.0.1:9/x"))


def test_a_server_without_ranges_and_an_empty_file(server: FileServer) -> None:
    server.ranges = False
    with pytest.raises(NotGiven, match="gives whole files only"):
        part(Url(server.url) / "a b#.bin", 0, 10)
    with pytest.raises(NotGiven, match="zero bytes"):
        read(Url(server.url) / "empty", 10)


@pytest.mark.parametrize(("scheme", "package"), [("s3", "s3fs"), ("gs", "gcsfs"), ("https", "aiohttp")])
def test_a_missing_package_is_named(scheme: str, package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, package, None)
    if scheme != "https":
        monkeypatch.setitem(fsspec.registry.target, scheme, None) if scheme in fsspec.registry else None
    with pytest.raises(BadInput, match=rf"^{scheme}://b/c: {scheme}:// needs {package}.*pip install '\.\[remote\]'$"):
        read(Url(f"{scheme}://b/c"), 10)


def test_only_some_urls_are_read() -> None:
    for text in ("file:///etc/passwd", "local://x", "ftp://x/y", "simplecache::http://x/y?k=SECRET", "github://a:b@/c"):
        if remote.scheme_of(text):
            with pytest.raises(BadInput, match="of a kind that is not read") as error:
                url_of(text)
            assert "SECRET" not in str(error.value)
    url = url_of("https://user:word@x.org:8080/a/b.csv?sig=SECRET")
    assert str(url) == "https://x.org:8080/a/b.csv"
    assert repr(url) == "Url('https://x.org:8080/a/b.csv')"
    assert (url.parent.text, url.suffix, url.secret) == ("https://user:word@x.org:8080/a", ".csv", True)
    assert pickle.loads(pickle.dumps(url)) == url
