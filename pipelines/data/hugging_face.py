"""What Hugging Face's `datasets` writes into Parquet: structs around files and sentences, class names in the schema."""

import io
import json
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import pyarrow as pa

SENTENCES = ("raw", "caption", "text", "sentence")
"""Fields of a struct that hold its words, as those of COCO's and Flickr30k's `sentences`: the first that there is."""
BESIDE_WORDS = ("tokens", "id", "sentid", "imgid", "image_id", "filename")
"""What such a sentence may hold besides; with other fields it is an object of several things."""


def struct_converter(
    kind: "pa.StructType", converter: Callable[["pa.DataType"], Callable[[Any], Any]]
) -> Callable[[Any], Any]:
    """What turns a scalar of a struct into a cell; `converter` does it for a field of a type.

    `{bytes, path}` is the bytes, or the path where those are null; decoded sound, `{array, sampling_rate}`, is a WAV
    file's bytes; a sentence, `{raw, tokens}`, its words. Any other struct is the dictionary that it is.
    """
    names = [kind.field(i).name for i in range(kind.num_fields)]
    field = {name: converter(kind.field(i).type) for i, name in enumerate(names)}
    what = stands_for(names)
    if what == "file":
        return lambda scalar: _file(scalar, field) if scalar.is_valid else None
    words = what or next((name for name in SENTENCES if name in names), None)  # in lists nothing else can be read
    if words is not None:
        return lambda scalar: field[words](scalar[words]) if scalar.is_valid else None
    return lambda scalar: scalar.as_py()


def stands_for(names: Sequence[str]) -> str | None:
    """What a struct with these fields is as a cell: `file`, the field that holds its words, or nothing of its own."""
    if "bytes" in names or "array" in names or names == ["path"]:
        return "file"
    words = [name for name in SENTENCES if name in names]
    return words[0] if words and {*names} <= {words[0], *BESIDE_WORDS} else None


def _file(scalar: "pa.StructScalar", field: dict[str, Callable[[Any], Any]]) -> Any:
    found = {name: convert(scalar[name]) for name, convert in field.items()}
    if found.get("bytes") is not None:
        return found["bytes"]
    if found.get("array") is not None:
        rate = found.get("sampling_rate")
        return found["array"] if rate is None else wav(np.asarray(found["array"]), int(rate))
    return found.get("path")


def wav(samples: np.ndarray[Any, Any], rate: int) -> bytes:
    """Samples `[S]`, or `[channels, S]` as `datasets` has them, as the bytes of a WAV file of 32-bit floats."""
    import soundfile

    lines = samples.T if samples.ndim == 2 and samples.shape[0] < samples.shape[1] else samples
    held = io.BytesIO()
    soundfile.write(
        held, lines.astype(lines.dtype if lines.dtype == np.int16 else np.float32), rate, "FLOAT", None, "WAV"
    )
    return held.getvalue()


def with_class_names(table: "pa.Table") -> "pa.Table":
    """The same with the names of classes in the place of their numbers, where the schema says them; -1 is none.

    Columns of lists of such numbers become lists of names.
    """
    import pyarrow as pa

    metadata = (table.schema.metadata or {}).get(b"huggingface")
    try:
        features = json.loads(metadata or b"{}")["info"]["features"]
        named = {column: names for column, feature in features.items() if (names := _names(feature))}
    except (ValueError, KeyError, TypeError, AttributeError):
        return table  # no description, or none of the shape that is known: numbers stay numbers
    for column, names in named.items():
        if column not in table.column_names:
            continue
        place, cells = table.column_names.index(column), table.column(column)
        kind = cells.type.value_type if hasattr(cells.type, "value_type") else cells.type
        if pa.types.is_integer(kind):
            kept = table.schema.metadata
            table = table.set_column(place, column, _renamed(cells, names)).replace_schema_metadata(kept)
    return table


def _names(feature: Any) -> list[str] | None:
    """The names of a ClassLabel, or of the ClassLabels in a Sequence or List."""
    if isinstance(feature, list):
        return _names(feature[0]) if feature else None
    if not isinstance(feature, dict):
        return None
    if feature.get("_type") in ("Sequence", "List", "LargeList"):
        return _names(feature.get("feature"))
    names = feature.get("names")
    return [str(name) for name in names] if feature.get("_type") == "ClassLabel" and names else None


def _renamed(cells: "pa.ChunkedArray", names: list[str]) -> "pa.ChunkedArray":
    """Numbers, or lists of numbers, as names; a number beyond the names stays itself."""
    import pyarrow as pa

    def name(number: int | None) -> str | None:
        if number is None or number < 0:
            return None
        return names[number] if number < len(names) else str(number)

    if hasattr(cells.type, "value_type"):
        found = [None if each is None else [name(n) for n in each] for each in cells.to_pylist()]
        return pa.chunked_array([pa.array(found, pa.list_(pa.string()))])
    return pa.chunked_array([pa.array([name(n) for n in cells.to_pylist()], pa.string())])
