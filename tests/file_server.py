"""A web server on this machine that gives the files of a folder, whole or in parts, and fails as it is told."""

import hashlib
import re
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote


class FileServer(ThreadingHTTPServer):
    """Serves `folder`. `faults[name]` is what goes wrong with a file: a status, `cut`, or a list of them, one for each
    request; `asked` counts requests that gave bytes, by name and range."""

    daemon_threads = True

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.folder = folder
        self.faults: dict[str, int | str | list[int | str]] = {}
        self.asked: Counter[str] = Counter()
        self.ranges = True
        self.etags = True
        self.signature = ""
        """What URLs have to end with."""

    def handle_error(self, request: object, client_address: object) -> None:
        """Of a client that was ended nobody needs to hear."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def fault(self, name: str) -> int | str | None:
        found = self.faults.get(name)
        if isinstance(found, list):
            return found.pop(0) if found else None
        return found


class Handler(BaseHTTPRequestHandler):
    server: FileServer
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self.answer(body=False)

    def do_GET(self) -> None:
        self.answer(body=True)

    def answer(self, body: bool) -> None:
        name = unquote(self.path.partition("?")[0]).lstrip("/")
        path = self.server.folder / name
        fault = self.server.fault(name) if body else None
        if isinstance(fault, int):
            return self.end(fault, b"")
        if not self.path.endswith(self.server.signature):
            return self.end(403, b"")
        if path.is_dir():
            links = [each.name + "/" * each.is_dir() for each in sorted(path.iterdir())]
            page = "".join(f'<a href="{link}">{link}</a>' for link in links)
            return self.end(200, page.encode() * body, {"Content-Type": "text/html"})
        if not path.is_file():
            return self.end(404, b"")
        content, status, headers = path.read_bytes(), 200, {"Content-Type": "application/octet-stream"}
        if self.server.etags:
            headers["ETag"] = f'"{hashlib.sha256(content).hexdigest()[:16]}"'
        asked = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        if asked and self.server.ranges:
            start, stop = int(asked[1]), int(asked[2]) + 1
            headers["Content-Range"] = f"bytes {start}-{min(stop, len(content)) - 1}/{len(content)}"
            content, status = content[start:stop], 206
        if body:
            self.server.asked[f"{name} {asked[1]}-{asked[2]}" if status == 206 and asked else name] += 1
        self.end(status, content, headers, cut=fault == "cut", body=body)

    def end(
        self, status: int, content: bytes, headers: dict[str, str] | None = None, cut: bool = False, body: bool = True
    ) -> None:
        self.send_response(status)
        for key, value in {**(headers or {}), "Content-Length": str(len(content))}.items():
            self.send_header(key, value)
        self.end_headers()
        if body:
            self.wfile.write(content[: len(content) // 2] if cut else content)
        if cut:
            self.close_connection = True


@contextmanager
def served(folder: Path) -> Iterator[FileServer]:
    """The server, running, of what is in a folder."""
    server = FileServer(folder)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
