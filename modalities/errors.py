"""What goes wrong with a cell."""


class CellError(ValueError):
    """A cell that cannot be read. The message is the reason alone; the caller adds file and row.

    Args:
        column: the one that is at fault, where the cell is made of several.
    """

    def __init__(self, reason: str, column: str | None = None) -> None:
        super().__init__(reason if column is None else f"column {column[:30]!r}: {reason}")
        self.reason, self.column = reason, column


def at_fault(error: Exception, columns: str | list[str]) -> tuple[str, str]:
    """The column of a cell of `columns` that cannot be read, and why: the one that the error names, or all."""
    if isinstance(error, CellError) and error.column is not None:
        return error.column, error.reason
    return (columns if isinstance(columns, str) else ", ".join(columns)), str(error)
