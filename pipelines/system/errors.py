"""What ends the work or is warned of, each in one line: what was asked, what was found and what to do."""

import difflib
import errno
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager


class BadInput(ValueError):
    """Wrong usage, config or data: one line for the user."""

    exit_code = 2


class Refused(Exception):
    """The run finished but its result is refused: one line for the user."""

    exit_code = 3


class Failed(Exception):
    """The machine refused: disk full or read-only, a worker process killed. One line for the user."""

    exit_code = 1


class ClxWarning(UserWarning):
    """Something went wrong and the work goes on all the same: one line for the user."""


class Stopped(BaseException):
    """A signal ended the work. A `BaseException`, so that no `except Exception` swallows it."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class Paused(Stopped):
    """The work came to a step at which it was told to wait, and can be resumed."""

    def __init__(self, message: str) -> None:
        super().__init__(message, 0)


NO_MEMORY = ("can't allocate memory", "out of memory", "_ALLOC_FAILED")


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that the memory of the machine or of its accelerator has run out."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    return isinstance(error, RuntimeError) and any(said in str(error) for said in NO_MEMORY)


@contextmanager
def explain_out_of_memory(message: Callable[[], str]) -> Iterator[None]:
    """Raise `Failed` where memory runs out, with a `message` that says where that was and what to do."""
    try:
        yield
    except Exception as error:
        if not out_of_memory(error):
            raise
        raise Failed(f"out of memory {message()}") from error


def nearest(name: str, options: Iterable[str]) -> str:
    """A hint such as ` (did you mean 'epochs'?)`, or the choices when nothing is near."""
    choices = sorted(options)
    near = difflib.get_close_matches(name, choices, n=1)
    if near:
        return f" (did you mean {near[0]!r}?)"
    return f" (one of: {', '.join(choices[:12])}{', ...' if len(choices) > 12 else ''})" if choices else ""
