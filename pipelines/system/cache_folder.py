"""Where what can be made again is kept between commands."""

import os
from pathlib import Path


def cache_folder() -> Path | None:
    """`$CLX_CACHE`, else `clx` in the user's cache folder; None, for nowhere, when that is set empty."""
    given = os.environ.get("CLX_CACHE")
    if given is None:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "clx"
    return Path(given) if given else None
