"""`clx serve`."""

from pathlib import Path
from typing import Annotated

import typer

from clx.cli import options
from clx.cli.output import emit_json, note


def serve(
    model: options.Model,
    embeddings: Annotated[Path | None, typer.Option(help="What clx embed wrote with it, to be searched.")] = None,
    root: Annotated[Path | None, typer.Option(help="Items may name files below this folder.")] = None,
    host: Annotated[str, typer.Option(help="Where to listen; 0.0.0.0 lets every machine ask.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes any that is free.")] = 8000,
    max_mb: Annotated[float, typer.Option(min=0.001, help="Of one request.")] = 32.0,
    pretrained: options.Pretrained = None,
    checkpoint: options.Checkpoint = "best",
    device: options.Device = "auto",
    json: options.Json = False,
) -> None:
    """Answer over HTTP, JSON in and JSON out, until Ctrl-C.

    It takes POST at /embed, /classify and, with --embeddings, /search. There is no password: who reaches the port
    can ask. Examples:

    clx serve runs/digits --embeddings digits.parquet

    curl localhost:8000/classify -d '{"items": ["a dog"], "labels": ["animal", "thing"]}'

    curl localhost:8000/search -d '{"items": [{"image": {"base64": "'$(base64 -w0 a.png)'"}}], "top": 3}'
    """
    from clx.pipelines.runs.open import open_model
    from clx.pipelines.use.serve import LOOPBACK, Server, Service

    run = open_model(model, pretrained, checkpoint, device)
    with Server(Service(run, embeddings, root, note), host, port, int(max_mb * 2**20)) as server:
        place, number = server.server_address[:2]
        if host not in LOOPBACK:
            note(f"warning: whoever reaches {host}:{number} can ask; there is no password")
        note(f"{', '.join(server.service.answers)} at http://{host}:{number}; Ctrl-C ends it")
        if json:
            emit_json({"host": str(place), "port": number, **server.service.about()})
        server.serve_forever()
