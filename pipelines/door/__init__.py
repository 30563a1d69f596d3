"""The Python door, `clx.use`: what the commands do, for a program; each function is the code that its command runs.

    from clx.use import classify, embed, load, search, train

What is heavy is imported when a function is called.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clx.pipelines.system.errors import BadInput
from clx.pipelines.system.progress import Progress, Silent

if TYPE_CHECKING:
    import numpy as np

    from clx.pipelines.model.build import Run
    from clx.pipelines.use.inputs import Skipped
    from clx.pipelines.use.question import Result
    from clx.pipelines.use.search import Neighbours

__all__ = ["BadInput", "classify", "embed", "load", "search", "train"]


def train(
    config: str | Path | Mapping[str, Any],
    out: str | Path,
    settings: Sequence[str] = (),
    *,
    resume: bool = False,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Train a run, as `clx train` does.

    Args:
        config: a recipe's name, a YAML or TOML file, or the keys of such as a mapping.
        out: the run folder.
        settings: `key.path=value`, as for `-s`.
        resume: go on with the run in `out`, of which `config` is then the folder itself.
        overwrite: replace the run in `out`.
        progress: is told each step, and lines that are good to know; nobody when None.

    Gives `steps`, `seconds`, `rows_per_s` and, unless `eval` is empty, `evaluation`. Raises `BadInput` for what does
    not fit, before anything is written.
    """
    from clx.pipelines.config.load import load_config
    from clx.pipelines.experiments.train import train as pipeline
    from clx.pipelines.runs.folder import read_config

    if resume:
        if isinstance(config, Mapping) or Path(config).resolve() != Path(out).resolve():
            raise BadInput(f"resume goes on with the run in {out} by its own config: give that folder twice")
        read = read_config(Path(out), list(settings))
    else:
        read = load_config(dict(config) if isinstance(config, Mapping) else str(config), settings)
    return pipeline(read, Path(out), progress or Silent(), resume=resume, overwrite=overwrite)


def load(model: str | Path, *, pretrained: str | None = None, checkpoint: str = "best", device: str = "auto") -> "Run":
    """A trained model, opened once for many calls: its `config`, `modalities` and, a module of torch, its `model`.

    Args:
        model: a run folder; or an OpenCLIP model by name with `pretrained`, its tag or checkpoint file.
        checkpoint: of a run: `best`, `last`, or a step.
        device: `auto`, `cpu`, `cuda`, `cuda:1` or `mps`.
    """
    from clx.pipelines.runs.open import open_model

    return open_model(model, pretrained, checkpoint, device)


def embed(
    model: "Run | str | Path", items: Iterable[str | Mapping[str, Any]], *, modality: str | None = None
) -> dict[str, "np.ndarray[Any, Any]"]:
    """Embeddings of items, not normalised, by modality: `[N, D]` in float32, NaN in rows that lack the modality.

    Args:
        model: what `load` gave, or what it takes.
        items: as of `clx search`: files, rows as JSON, sentences. A mapping is one thing by several of its modalities:
            of each a text, a path, the bytes of a file, or an array: pixels `[H, W]` or `[H, W, 3]` (uint8, or floats
            from 0 to 1), samples `[S]` at the run's `sample_rate` (floats from -1 to 1, or int16), values `[T]` or
            `[T, C]` in the units of the data; a table is a mapping of columns to values.
        modality: what all of them are, where their names do not tell.

    Rows of a data set go into a file by `clx.pipelines.use.embed.embed`, as `clx embed` does. Raises `BadInput` for an
    item that cannot be read.
    """
    from clx.pipelines.runs.open import open_model
    from clx.pipelines.use.vectors import vectors_of

    return vectors_of(open_model(model), items, modality)


def classify(
    model: "Run | str | Path",
    items: Iterable[str | Mapping[str, Any]],
    labels: Sequence[str] | Mapping[str, Sequence[str]] | Path,
    *,
    top: int = 5,
    strict: bool = True,
    **options: Any,
) -> "list[Result | Skipped]":
    """Zero-shot classification, as `clx zeroshot` does: for each item its `scores`, labels with probabilities.

    Args:
        model: what `load` gave, or what it takes.
        items: files, folders, patterns, manifests and JSON objects, and mappings as for `embed`.
        labels: words, phrasings by word, or a file of either.
        top: labels in a result, at most.
        strict: whether what cannot be used raises `BadInput` instead of being `Skipped`.
        options: further ones of `clx.pipelines.use.zeroshot.Classifier`, such as `templates` and `multi_label`.
    """
    from clx.pipelines.use.zeroshot import Classifier

    return list(Classifier(model, labels, **options).classify(items, top=top, strict=strict))


def search(
    embeddings: str | Path,
    queries: Iterable[str | Mapping[str, Any]],
    *,
    top: int = 10,
    model: "Run | str | None" = None,
    modality: str | None = None,
    strict: bool = True,
    **options: Any,
) -> "list[Neighbours | Skipped]":
    """The nearest rows of a file that `clx embed` wrote, as `clx search` finds them: for each query its `hits`, each
    with all the `rows` that it stands in.

    Args:
        embeddings: the file, or a folder of parts.
        queries: files, rows as JSON and sentences, and mappings as for `embed`.
        top: hits of a query, at most.
        model: what made the embeddings, where the file does not say, or is not to be opened anew.
        modality: what all queries are, where their names do not tell.
        strict: whether a query that cannot be read raises `BadInput` instead of being `Skipped`.
        options: further ones of `clx.pipelines.use.search.Searcher`, such as `among`, `dim` and `each_row`.
    """
    from clx.pipelines.use.search import Searcher

    return list(Searcher(embeddings, run=model, **options).search(queries, top=top, modality=modality, strict=strict))
