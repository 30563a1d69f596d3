"""A model that answers over HTTP."""

import base64
import json
import subprocess
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from clx import use
from clx.pipelines.system.errors import BadInput, Failed
from clx.pipelines.use.embed import embed
from clx.pipelines.use.embedding_tables import EmbeddingOptions
from clx.pipelines.use.search import Neighbours, Searcher
from clx.pipelines.use.serve import Server, Service

heard: list[str] = []


@pytest.fixture(scope="module")
def server(digits_run: Path, files: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    found = tmp_path_factory.mktemp("served") / "digits.parquet"
    embed(digits_run, found, None, EmbeddingOptions(split="test"), device="cpu")
    service = Service(use.load(digits_run, device="cpu"), found, files, heard.append)
    with Server(service, "127.0.0.1", 0, 100_000) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def ask(server: Server, path: str, asked: Any = None, **headers: str) -> Any:
    sent = asked if isinstance(asked, bytes) or asked is None else json.dumps(asked).encode()
    url = f"http://127.0.0.1:{server.server_address[1]}{path}"
    try:
        with urllib.request.urlopen(urllib.request.Request(url, sent, headers), timeout=60) as answer:
            return json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)["error"]


def test_it_says_what_it_is(server: Server) -> None:
    about = ask(server, "/")
    assert about["answers"] == ["/embed", "/classify", "/search"]
    assert about["modalities"].keys() == {"image", "text", "table"}


def test_answers_are_those_of_the_classes(server: Server, digits_run: Path, files: Path) -> None:
    picture = files / "image" / "05400.png"
    sent = {"image": {"base64": base64.b64encode(picture.read_bytes()).decode()}}
    asked = {"items": [sent, {"image": "image/05400.png"}], "labels": ["one", "seven"], "top": 2}
    first, second = ask(server, "/classify", asked)["answers"]
    (expected,) = use.classify(digits_run, [str(picture)], ["one", "seven"], top=2)
    assert first["top"] == second["top"] == expected.as_json()["top"]  # type: ignore[union-attr]

    z = ask(server, "/embed", {"items": ["seven", {"text": "one", **sent}]})["embeddings"]
    assert z["image"][0] is None
    assert np.allclose(z["text"], use.embed(digits_run, ["seven", "one"])["text"], atol=1e-5)

    searcher = server.service.searcher
    assert isinstance(searcher, Searcher)
    (near,) = ask(server, "/search", {"items": ["seven"], "top": 3})["answers"]
    (hits,) = searcher.search(["seven"], top=3)
    assert isinstance(hits, Neighbours)
    assert near == json.loads(json.dumps(hits.as_json())) | {"query": "0"}


WRONG = {
    "/embed": [
        (b"{", 400, "not JSON"),
        (b"[]", 400, "expected a JSON object"),
        ({}, 400, "items is missing"),
        ({"items": []}, 400, "a request takes 1 to 1024"),
        ({"items": [3]}, 400, "number 0 is neither a text nor an object"),
        ({"items": [{"sound": "x"}]}, 400, "number 0 has 'sound'"),
        ({"items": [{"image": {"base64": "?"}}]}, 400, "not base64"),
        ({"items": [{"image": {"base64": "aGVsbG8="}}]}, 400, "0: "),
        ({"items": [{"image": "../../etc/passwd"}]}, 400, "leads out of --root"),
        ({"items": [{"image": [1, 2]}]}, 400, "image: expected a file's bytes"),
        ({"items": [{"table": {"no": 1}}]}, 400, "table: expected an object with some of the columns"),
        ({"items": ["a"], "tops": 3}, 400, "unknown key 'tops'"),
        ({"items": ["x" * 100_000]}, 413, "a request takes 100000 (--max-mb)"),
    ],
    "/classify": [
        ({"items": ["a"]}, 400, "labels is missing"),
        ({"items": ["a"], "labels": []}, 400, "label"),
        ({"items": ["a"], "labels": [1]}, 400, "labels: expected a list of texts"),
        ({"items": ["a"], "labels": ["a", "b"], "top": 0}, 400, "top: expected 1 or more"),
        ({"items": ["a"], "labels": ["a", "b"], "top": True}, 400, "top: expected int"),
        ({"items": ["a"], "labels": ["a", "b"], "templates": ["x"]}, 400, "has no {} for the label"),
        ({"items": ["a"], "labels": ["a", "b"], "threshold": 0.5}, 400, "--multi-label"),
    ],
    "/serch": [({"items": ["a"]}, 404, "did you mean '/search'?")],
}


@pytest.mark.parametrize(("path", "asked", "code", "said"), [(p, *rest) for p, each in WRONG.items() for rest in each])
def test_what_is_wrong_is_said(server: Server, path: str, asked: Any, code: int, said: str) -> None:
    found, line = ask(server, path, asked)
    assert found == code
    assert said in line


def test_an_unreadable_item_is_told_beside_the_others(server: Server) -> None:
    bad = {"image": {"base64": "aGVsbG8="}}
    first, second = ask(server, "/classify", {"items": [bad, "one"], "labels": ["a", "b"]})["answers"]
    assert "error" in first
    assert second["by"] == "text"
    first, second = ask(server, "/search", {"items": [bad, "one"]})["answers"]
    assert "error" in first
    assert second["hits"]


def test_what_breaks_inside_is_no_path_that_is_not_there(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(asked: dict[str, Any]) -> None:
        raise KeyError("inside")

    monkeypatch.setitem(server.service.answers, "/classify", broken)
    status, line = ask(server, "/classify", {"items": ["one"], "labels": ["a", "b"]})
    assert status == 500
    assert "KeyError" in str(line)


def test_a_page_of_another_site_is_refused(server: Server) -> None:
    assert ask(server, "/", None, Host="rebound.example")[0] == 403
    assert ask(server, "/nothing")[0] == 404


def test_what_cannot_be_served_is_said(digits_run: Path, server: Server, tmp_path: Path) -> None:
    run = use.load(digits_run, device="cpu")
    with pytest.raises(BadInput, match="--root"):
        Service(run, None, tmp_path / "none")
    with pytest.raises(Failed, match="cannot listen at 127.0.0.1"):
        Server(Service(run), "127.0.0.1", server.server_address[1], 10)


def test_the_command_says_where_it_listens_and_ends_at_a_signal(commands: Path, digits_run: Path) -> None:
    call = [commands / "clx", "serve", digits_run, "--port", "0", "--json", "--device", "cpu"]
    with subprocess.Popen(call, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        about = json.loads(process.stdout.readline())
        assert about["answers"] == ["/embed", "/classify"]
        with urllib.request.urlopen(f"http://127.0.0.1:{about['port']}/", timeout=60) as answer:
            assert json.load(answer).items() <= about.items()
        process.terminate()
        _, said = process.communicate(timeout=60)
    assert process.returncode == 143
    assert said.splitlines()[-1] == "stopped by SIGTERM"
