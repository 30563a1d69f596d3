"""Nested objects as columns: `{"product": {"title": ...}}` is the column `product.title`."""

from typing import TYPE_CHECKING

from clx.pipelines.data.hugging_face import stands_for

if TYPE_CHECKING:
    import pyarrow as pa


def flat(table: "pa.Table") -> "pa.Table":
    """The same with a column `a.b` for each field of an object that stands for nothing by itself, at any depth.

    Objects in lists, and those without fields, stay what they are.
    """
    import pyarrow as pa

    while any(_opens(field) for field in table.schema):
        columns: dict[str, pa.ChunkedArray] = {}
        for field, cells in zip(table.schema, table.columns, strict=True):
            inner = pa.table({field.name: cells}).flatten() if _opens(field) else pa.table({field.name: cells})
            if set(inner.column_names) & ({*columns, *table.column_names} - {field.name}):
                return table  # `a.b` is the name of another column
            columns |= dict(zip(inner.column_names, inner.columns, strict=True))
        table = pa.table(columns).replace_schema_metadata(table.schema.metadata)
    return table


def _opens(field: "pa.Field") -> bool:
    import pyarrow.types as types

    kind = field.type
    return bool(types.is_struct(kind) and kind.num_fields and stands_for([each.name for each in kind]) is None)
