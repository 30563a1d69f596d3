"""What goes wrong with a cell."""


class CellError(ValueError):
    """A cell that cannot be read. The message is the reason alone; the caller adds file and row."""
