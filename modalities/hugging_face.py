"""Models, tokenizers and configs of Hugging Face: from a package, a folder, the cache or the hub."""

import os
from pathlib import Path
from typing import Any

from clx.modalities.packaged import PACKAGES, packaged_file
from clx.modalities.pretrained import first_line, quiet, require_hub


def hugging_face_source(name: str) -> tuple[str, bool]:
    """What `from_pretrained` should be given, and whether it is on this machine. `minilm` is the packaged one."""
    if f"hf:{name}" in PACKAGES:
        return str(packaged_file(f"hf:{name}")), True
    path = Path(name).expanduser()
    if path.is_dir():
        return str(path), True
    if path.is_absolute() or name.startswith((".", "~")):
        raise ValueError(f"no folder {name}")
    return name, False


def hugging_face(kind: str, name: str) -> Any:
    """A `tokenizer`, `model` (with its weights) or `config` by name or folder. Raises `ValueError`."""
    try:
        import transformers
    except ImportError:
        raise ValueError("encoders hf:NAME want the transformers library: pip install '.[hf]'") from None
    from transformers.utils import logging

    source, local = hugging_face_source(name)
    loader = {"tokenizer": "AutoTokenizer", "model": "AutoModel", "config": "AutoConfig"}[kind]
    load = getattr(transformers, loader).from_pretrained
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # else it complains in forked workers
    bars = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        with quiet():
            loaded = _load(load, source, local, name)
    finally:
        if bars:
            logging.enable_progress_bar()
    if kind == "tokenizer" and loaded.pad_token is None:
        loaded.pad_token = loaded.eos_token
    return loaded


def _load(load: Any, source: str, local: bool, name: str) -> Any:
    # trust_remote_code must be said: by default transformers asks on the terminal whether to run a model's code
    try:
        return load(source, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # a folder or a cache without the model fails in many ways
        if local:
            raise ValueError(f"hf:{name} does not hold a text model: {first_line(error)}") from error
    require_hub(f"hf:{name}")
    try:
        return load(source, trust_remote_code=False)
    except Exception as error:
        raise ValueError(f"hf:{name} cannot be fetched: {first_line(error)}") from error
