"""Telling how far a run is."""

from typing import Protocol


class Progress(Protocol):
    """Who is told how far the run is."""

    def step(self, done: int, total: int, **shown: float) -> None: ...
    def say(self, text: str) -> None: ...


class Silent:
    """Progress that nobody sees."""

    def step(self, done: int, total: int, **shown: float) -> None: ...
    def say(self, text: str) -> None: ...
