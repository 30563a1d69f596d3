"""What a column holds, by its Arrow type."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pyarrow as pa


def is_list(kind: "pa.DataType") -> bool:
    """Whether a column of this type holds lists."""
    import pyarrow.types as types

    return bool(types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind))


def decoded(kind: "pa.DataType") -> "pa.DataType":
    """The type of what a dictionary encodes; any other type as it is."""
    import pyarrow.types as types

    return kind.value_type if types.is_dictionary(kind) else kind


def is_text(kind: "pa.DataType") -> bool:
    """Whether a column of this type holds text; of one that encodes it see `decoded`."""
    import pyarrow.types as types

    return bool(types.is_string(kind) or types.is_large_string(kind))


def is_bytes(kind: "pa.DataType") -> bool:
    """Whether a column of this type holds bytes."""
    import pyarrow.types as types

    return bool(types.is_binary(kind) or types.is_large_binary(kind))


def in_words(kind: "pa.DataType") -> str:
    """What a column of this type holds, for people."""
    import pyarrow.types as types

    if types.is_dictionary(kind):
        return in_words(kind.value_type)
    words = {
        "text": is_text(kind),
        "true or false": types.is_boolean(kind),
        "numbers": types.is_integer(kind) or types.is_floating(kind) or types.is_decimal(kind),
        "dates": types.is_temporal(kind),
        "lists": is_list(kind),
        "objects": types.is_struct(kind),
        "nothing": types.is_null(kind),
    }
    return next((word for word, so in words.items() if so), "bytes")
