"""Where a search looks: the model that made the embeddings of a file, and the vectors that are compared."""

from pathlib import Path

from clx.pipelines.model.build import Run
from clx.pipelines.model.fingerprint import fingerprint
from clx.pipelines.runs.open import open_model
from clx.pipelines.system.errors import BadInput, nearest
from clx.pipelines.use.embedding_files import EmbeddingFile
from clx.pipelines.use.inputs import check_modality


def run_of(file: EmbeddingFile, run: str | Run | None, pretrained: str | None, device: str) -> Run:
    """The model that made the embeddings, found by their metadata or given. Raises `BadInput` when it is another."""
    meta = file.meta
    if meta is None and run is None:
        raise BadInput(f"{file.path} does not say which model made it: give it with --run")
    if run is None:
        assert meta is not None
        if meta.get("run"):
            if not Path(meta["run"]).is_dir():
                raise BadInput(f"the run {meta['run']} is not there any more: say where it is with --run")
            opened = open_model(meta["run"], pretrained, str(meta["step"]), device)
        else:
            opened = open_model(meta["model"], pretrained or meta["pretrained"], "best", device)
    elif isinstance(run, Run):
        opened = run
    else:
        step = str(meta["step"]) if meta is not None and meta.get("run") else "best"
        opened = open_model(run, pretrained, step, device)
    if meta is not None and fingerprint(opened.model) != meta["weights"]:
        assert opened.opened is not None
        named = opened.opened[0]
        raise BadInput(f"{file.path} was made by other weights than those of {named}")
    return opened.narrowed(file.dim or (None if meta is None else meta["embed_dim"]))


def pick_column(file: EmbeddingFile, asked: str | None) -> str:
    """The vectors to search among: those asked for, else the first modality that is not text, else the first."""
    if file.meta is None:
        return ""
    kinds: dict[str, str] = file.meta["modalities"]
    if asked is not None and asked not in kinds:
        raise BadInput(f"--in {asked}: {file.path} has no such vectors{nearest(asked, kinds)}")
    return asked or next((name for name, kind in kinds.items() if kind != "text"), next(iter(kinds)))


def candidate_of(run: Run, column: str, asked: str | None) -> str:
    """The modality that is searched among; of a plain array the one asked for, else the run's
    first modality that is not text."""
    if column or asked:
        check_modality(run, column or str(asked))
        return column or str(asked)
    return next((name for name, m in run.modalities.items() if m.kind != "text"), next(iter(run.modalities)))
