"""What `clx embed` notes of embeddings, in a Parquet file or a folder of parts: read and checked."""

import json
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from clx.pipelines.system.durable_files import check_format
from clx.pipelines.system.errors import BadInput
from clx.pipelines.use.embedding_shards import MANIFEST

FORMAT = 1
STEPS = ".steps"
"""What the column of a modality's steps is called, after its name: a list of vectors for each row."""
CONTENT = "_content"
"""The same of 64 bits that are equal where its cells are; without a point, which LanceDB takes for a part of one."""
CELL = "_cell"
"""The same of a column of the data that was kept and is called like the modality, whose vectors have that name."""


def read_meta(path: Path) -> dict[str, Any] | None:
    """The metadata of a file that `embed_rows` wrote; None for another's. Raises `BadInput` for what is no Parquet."""
    import pyarrow as pa
    from pyarrow import parquet

    try:
        raw = (parquet.read_schema(path).metadata or {}).get(b"clx")
        return None if raw is None else json.loads(raw)
    except (pa.ArrowInvalid, OSError, ValueError) as error:
        raise BadInput(f"{path} is no Parquet file of embeddings ({str(error).splitlines()[0]})") from None


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a folder of parts. Raises `BadInput` where it has none, or a damaged one."""
    path = folder / MANIFEST
    try:
        plan = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        why = "it has no " + MANIFEST if isinstance(error, FileNotFoundError) else f"{path.name}: {error}"
        raise BadInput(f"{folder} is no folder of embeddings of clx embed --shard ({why})") from None
    return dict(plan) if isinstance(plan, dict) else {}


class EmbeddingMeta(BaseModel):
    """What a reader relies on of that which `clx embed` noted."""

    model_config = ConfigDict(strict=True, extra="allow")

    format: int
    embed_dim: int = Field(ge=1)
    modalities: dict[str, str] = Field(min_length=1)
    weights: str
    run: str | None = None
    step: int | None = None
    model: str | None = None
    pretrained: str | None = None

    def names_its_model(self) -> bool:
        """Whether there is a run and a step, or a model and its weights."""
        return None not in (self.run, self.step) or None not in (self.model, self.pretrained)


def check(path: Path, meta: Any, vectors: bool) -> None:
    """Whether metadata are those of `clx embed` and columns, with `vectors` also those, are what they say.

    Raises `BadInput`.
    """
    import pyarrow as pa
    from pyarrow import parquet

    wrong = f"{path}: its metadata are not those of clx embed"
    if isinstance(meta, dict) and type(meta.get("format")) is int:
        check_format(path, meta["format"], FORMAT)
    try:
        noted = EmbeddingMeta.model_validate(meta)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise BadInput(f"{wrong} ({where}: {first['msg']})" if where else wrong) from None
    if not noted.names_its_model():
        raise BadInput(f"{wrong} (neither a run with its step nor a model with its weights)")
    schema = parquet.read_schema(path)
    if {"id", "row"} - {*schema.names}:
        raise BadInput(f"{path} lacks its columns id and row")
    for name in noted.modalities if vectors else []:
        kind = schema.field(name).type if name in schema.names else pa.null()
        if not (
            pa.types.is_fixed_size_list(kind)
            and pa.types.is_floating(kind.value_type)
            and kind.list_size == noted.embed_dim
        ):
            raise BadInput(f"{path}: column {name}: expected vectors of {noted.embed_dim} numbers, found {kind}")
