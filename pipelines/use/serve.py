"""One model that answers over HTTP: JSON in, JSON out, by the classes that the commands use."""

import base64
import binascii
import json
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np

from clx.pipelines.model.build import Run
from clx.pipelines.system.errors import BadInput, Failed, nearest
from clx.pipelines.system.text import finite
from clx.pipelines.use.given_cells import table_columns
from clx.pipelines.use.inputs import Item, Skipped, modality_of_kind
from clx.pipelines.use.question import classify
from clx.pipelines.use.search import Searcher
from clx.pipelines.use.vectors import vectors_of
from clx.pipelines.use.zeroshot import Classifier

LOOPBACK = ("localhost", "127.0.0.1", "::1")
MOST = 1024
"""Items in a request."""


class NothingThere(LookupError):
    """A path that nothing answers at."""


class Service:
    """What a run answers, one question at a time, whoever asks.

    Args:
        run: an open model.
        embeddings: what `clx embed` wrote with it, to be searched; None where nothing is.
        root: a folder below which items may be named by their path; None where they are sent.
        say: hears in a line what is good to know.

    Items are sentences, of a run with one text modality, or mappings of modalities: to a text, a list of numbers (a
    series; of several channels a list of lists), an object (a row of a table), `{"base64": "..."}` (the bytes of a
    file), or a path below `root`.
    """

    def __init__(
        self,
        run: Run,
        embeddings: Path | None = None,
        root: Path | None = None,
        say: Callable[[str], None] = lambda text: None,
    ) -> None:
        self.run, self.root, self.say = run, None if root is None else root.resolve(), say
        if self.root is not None and not self.root.is_dir():
            raise BadInput(f"--root {root}: no such folder")
        self.searcher = None if embeddings is None else Searcher(embeddings, run=run, say=say)
        if self.searcher is not None:
            assert self.searcher.run  # by the weights of this run, or refused now
        self.classifier = lru_cache(maxsize=64)(self._classifier)
        self.turn = threading.Lock()
        self.answers: dict[str, Callable[[dict[str, Any]], Any]] = {
            "/embed": self.embed,
            "/classify": self.classify,
            **({} if self.searcher is None else {"/search": self.search}),
        }

    def about(self) -> dict[str, Any]:
        """The model, what it reads, and what may be asked."""
        assert self.run.opened is not None
        kinds = {name: modality.kind for name, modality in self.run.scored().items()}
        shown = {"model": Path(self.run.opened[0]).name, "step": self.run.step, "modalities": kinds}
        return {**shown, "embed_dim": self.run.config.embed_dim, "answers": list(self.answers)}

    def answer(self, path: str, asked: dict[str, Any]) -> Any:
        """The answer to one question. Raises `BadInput`, `NothingThere` where nothing answers at `path`."""
        if path not in self.answers:
            raise NothingThere(f"nothing at {path}{nearest(path, self.answers)}")
        with self.turn:
            return self.answers[path](asked)

    def embed(self, asked: dict[str, Any]) -> dict[str, Any]:
        """`{items}` -> `{embeddings: {modality: [[..] or null]}}`, not normalised; null where an item lacks it."""
        given = taken(asked, {"items": list})
        found = vectors_of(self.run, self.items(given["items"]))
        return {"embeddings": {name: [None if np.isnan(r[0]) else r.tolist() for r in z] for name, z in found.items()}}

    def classify(self, asked: dict[str, Any]) -> dict[str, Any]:
        """`{items, labels, top, templates, multi_label, threshold, temperature}` -> `{answers}`, as of `clx zeroshot`.

        `labels` is a list, or a mapping of labels to lists of phrasings.
        """
        kinds = {"items": list, "labels": (list, dict), "top": int, "templates": list}
        kinds |= {"multi_label": bool, "threshold": (int, float), "temperature": (int, float)}
        given = taken(asked, kinds, ("items", "labels"))
        items, top = given.pop("items"), positive(given.pop("top", 5), "top")
        classifier = self.classifier(json.dumps(given, sort_keys=True))
        answers = classify(self.run, self.items(items), classifier.question, top)
        return {"answers": [shown(answer) for answer in answers]}

    def _classifier(self, options: str) -> Classifier:
        given = json.loads(options)
        labels = given.pop("labels")
        lists = [labels] if isinstance(labels, list) else labels.values()
        if not all(isinstance(each, list) and each and all(isinstance(one, str) for one in each) for each in lists):
            raise BadInput("labels: expected a list of texts, or an object of lists of texts")
        templates = given.pop("templates", [])
        if wrong := [each for each in templates if not isinstance(each, str) or "{}" not in each]:
            raise BadInput(f"templates: {wrong[0]!r} has no {{}} for the label")
        return Classifier(self.run, labels, templates=templates, say=self.say, **given)

    def search(self, asked: dict[str, Any]) -> dict[str, Any]:
        """`{items, top}` -> `{answers}`: of each its neighbours among the embeddings, as of `clx search`."""
        assert self.searcher is not None
        given = taken(asked, {"items": list, "top": int}, ("items",))
        found = self.searcher.search(self.items(given["items"]), top=positive(given.get("top", 10), "top"))
        return {"answers": [shown(answer) for answer in found]}

    def items(self, given: list[Any]) -> Iterator[Item]:
        """Items as they were sent. Raises `BadInput`."""
        if not 1 <= len(given) <= MOST:
            raise BadInput(f"items: {len(given)}, and a request takes 1 to {MOST}")
        for number, item in enumerate(given):
            if isinstance(item, str):
                item = {modality_of_kind(self.run, "text", "sentences"): item}
            if not isinstance(item, Mapping) or not item:
                raise BadInput(f"items: number {number} is neither a text nor an object of modalities")
            for name in item:
                if name not in self.run.scored():
                    raise BadInput(f"items: number {number} has {name!r}{nearest(name, self.run.scored())}")
            yield str(number), {name: self.cell(name, value) for name, value in item.items()}

    def cell(self, name: str, value: Any) -> Any:
        """The cell of a modality that was sent. Raises `BadInput`."""
        modality = self.run.modalities[name]
        if isinstance(value, Mapping) and set(value) == {"base64"} and modality.files:
            try:
                return base64.b64decode(str(value["base64"]), validate=True)
            except (binascii.Error, ValueError):
                raise BadInput(f"{name}: what is sent is not base64") from None
        if modality.kind == "table":
            columns = table_columns(self.run, name)
            if not isinstance(value, Mapping) or not set(value) & set(columns):
                raise BadInput(f"{name}: expected an object with some of the columns {', '.join(columns)}")
            return {column: value.get(column) for column in columns}
        if modality.files and isinstance(value, str):
            return self.below_root(name, value)
        if isinstance(value, list) and modality.kind == "series":
            try:
                return np.array(value, dtype=float)
            except (TypeError, ValueError):
                raise BadInput(f"{name}: expected a list of numbers, or of lists of as many numbers each") from None
        if isinstance(value, str) and not modality.files:
            return value
        what = {"text": "a text", "series": "a list of numbers"}.get(modality.kind, 'a file\'s bytes as {"base64": ..}')
        raise BadInput(f"{name}: expected {what}")

    def below_root(self, name: str, path: str) -> Path:
        """A file that is named. Raises `BadInput` where none may be, or where it lies elsewhere."""
        if self.root is None:
            raise BadInput(f'{name}: send the bytes, {{"base64": ..}}; paths are taken below --root FOLDER alone')
        file = (self.root / path).resolve()
        if not file.is_relative_to(self.root):
            raise BadInput(f"{name}: {path} leads out of --root")
        return file


def taken(asked: dict[str, Any], kinds: Mapping[str, Any], needed: tuple[str, ...] = ("items",)) -> dict[str, Any]:
    """What is asked, with the right types. Raises `BadInput`."""
    for key, value in asked.items():
        if key not in kinds:
            raise BadInput(f"unknown key {key!r}{nearest(key, kinds)}")
        wanted = kinds[key] if isinstance(kinds[key], tuple) else (kinds[key],)
        if not isinstance(value, wanted) or (isinstance(value, bool) and bool not in wanted):
            raise BadInput(f"{key}: expected {' or '.join(each.__name__ for each in wanted)}")
    for key in needed:
        if key not in asked:
            raise BadInput(f"{key} is missing")
    return dict(asked)


def positive(value: int, name: str) -> int:
    """The number. Raises `BadInput` below 1."""
    if value < 1:
        raise BadInput(f"{name}: expected 1 or more, found {value}")
    return value


def shown(answer: Any) -> dict[str, Any]:
    """An answer, or why there is none."""
    return {"error": answer.reason} if isinstance(answer, Skipped) else answer.as_json()


class Server(ThreadingHTTPServer):
    """Listens at `host` and `port`, 0 for any that is free; `most` bytes in a request."""

    daemon_threads = True

    def __init__(self, service: Service, host: str, port: int, most: int) -> None:
        self.service, self.most = service, most
        self.loopback = host in LOOPBACK
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        try:
            super().__init__((host, port), Handler)
        except OSError as error:
            raise Failed(f"cannot listen at {host}:{port}: {error.strerror or error}") from None
        except OverflowError:
            raise BadInput(f"--port {port}: expected 0 to 65535") from None

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Whoever asked has gone: nobody is there to be told."""


class Handler(BaseHTTPRequestHandler):
    """One request."""

    server: Server
    protocol_version = "HTTP/1.1"
    timeout = 60  # seconds for a request to come

    def do_GET(self) -> None:
        self.within(lambda: self.server.service.about() if self.path == "/" else self.unknown())

    def do_POST(self) -> None:
        self.within(lambda: self.server.service.answer(self.path, self.body()))

    def unknown(self) -> Any:
        raise NothingThere(f"nothing at {self.path} by GET; POST to {', '.join(self.server.service.answers)}")

    def body(self) -> dict[str, Any]:
        """The object that was sent. Raises `BadInput`, `OverflowError` where it is too large."""
        size = self.headers.get("Content-Length", "")
        if not size.isdecimal():
            self.close_connection = True
            raise BadInput("Content-Length is missing")
        if int(size) > self.server.most:
            self.close_connection = True  # what is sent is not read
            raise OverflowError(f"{size} bytes, and a request takes {self.server.most} (--max-mb)")
        try:
            asked = json.loads(self.rfile.read(int(size)))
        except (ValueError, RecursionError) as error:
            raise BadInput(f"not JSON: {error}") from None
        if not isinstance(asked, dict):
            raise BadInput("expected a JSON object")
        return asked

    def within(self, work: Callable[[], Any]) -> None:
        """Send what `work` gives, or what is wrong, as one line."""
        try:
            name = self.headers.get("Host", "").rpartition(":")[0] or self.headers.get("Host", "")
            if self.server.loopback and name.strip("[]") not in LOOPBACK:
                self.close_connection = True  # a page of another site, whose name was made to lead here
                raise PermissionError("asked by another name than localhost")
            status, answer = HTTPStatus.OK, work()
        except BadInput as error:
            status, answer = HTTPStatus.BAD_REQUEST, {"error": str(error)}
        except OverflowError as error:
            status, answer = HTTPStatus.REQUEST_ENTITY_TOO_LARGE, {"error": str(error)}
        except NothingThere as error:
            status, answer = HTTPStatus.NOT_FOUND, {"error": str(error)}
        except PermissionError as error:
            status, answer = HTTPStatus.FORBIDDEN, {"error": str(error)}
        except Exception as error:  # one request's failure does not end the server
            line = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
            self.server.service.say(f"{self.path}: {line}")
            status, answer = HTTPStatus.INTERNAL_SERVER_ERROR, {"error": line}
        sent = json.dumps(finite(answer), ensure_ascii=False).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json; charset=utf-8")
        self.send_header("Content-Length", str(len(sent)))
        self.end_headers()
        self.wfile.write(sent)

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing for each request: stderr is for what is good to know."""
