"""A model card: what a run is, on a page of Markdown, from what stands in its folder. Without torch."""

from collections.abc import Iterator, Mapping
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import MappingProxyType
from typing import Any

import yaml

from clx.modalities.packaged import PACKAGES as PACKAGED
from clx.pipelines.config import usual_tasks
from clx.pipelines.config.data_schema import Fraction, Last
from clx.pipelines.config.schema import Config
from clx.pipelines.config.secrets import without_secrets
from clx.pipelines.config.task_names import TASKS
from clx.pipelines.config.usual_tasks import HEADS
from clx.pipelines.runs import listing, state
from clx.pipelines.runs.folder import CARD, CONFIG, best, checkpoints, is_number, read_config
from clx.pipelines.runs.stages import folder_before
from clx.pipelines.system.durable_files import write_text
from clx.pipelines.system.errors import BadInput

PACKAGES = ("clx", "torch", "open-clip-torch", "transformers", "timm", "torchaudio", "tsai")
FEW = 1000
"""Rows below which intervals are wide."""
EMPTY: Mapping[str, Any] = MappingProxyType({})
SHOWN = 40
"""Figures on the card at most; `clx runs show` has all."""


def card(run: Path, name: str | None = None) -> str:
    """The card of a run folder. Paths of data are told by their last part. Raises `BadInput` for what is no run."""
    config, results = without_secrets(read_config(run)), listing.read_results(run)
    parts = [
        f"# {name or run.resolve().name}\n\n{introduced(config, run)}",
        "## Inputs\n\n" + table(["modality", "kind", "encoder", "starts from", "columns"], inputs(config)),
        "## Data\n\n" + bullets(data(config, state.read(run))),
        "## Objective\n\n" + bullets(objective(config)),
        "## Training\n\n" + bullets(training(run, config)),
        "## Figures\n\n" + figures(results),
        "## Limits\n\n" + bullets(limits(config, results)),
        "## Made by\n\n" + made_by(config),
    ]
    return "\n\n".join(parts) + "\n"


def write_card(run: Path) -> None:
    """Write the card of a run into its folder."""
    write_text(run / CARD, card(run))


def introduced(config: Config, run: Path) -> str:
    """What it is, and the commands that can do something with it."""
    kinds = list(dict.fromkeys(kind_of(name, options) for name, options in config.modalities.items()))
    names = " + ".join(term.name for term in config.objective)
    aligned = {name for one in [config, *before(config, run)] for name in compared(one)}
    words = [name for name in aligned & {*config.modalities} if reads_words(config, name)]
    commands = [*(["zeroshot"] if words else []), "embed", "search", "eval"]
    commands += ["predict"] if any(term.name in HEADS for term in config.objective) else []
    space = f"into one space of {config.embed_dim}" if aligned else f"with embeddings of {config.embed_dim}"
    opened = joined([f"`{'' if k else 'clx '}{command}`" for k, command in enumerate(commands)], "or")
    return (
        f"Encoders of {joined(kinds, 'and')}, trained by clx with `{names}` {space} dimensions. Open it with {opened}, "
        "or with `clx.use.load` from Python."
    )


def joined(parts: list[str], last: str) -> str:
    return f" {last} ".join([", ".join(parts[:-1]), parts[-1]] if len(parts) > 1 else parts)


def compared(config: Config) -> Iterator[str]:
    """The modalities that some term has learned to lie to others, or to words, as they should."""
    for term in config.objective:
        if term.name not in HEADS or term.words is not None:
            yield from config.inputs_of(term)
            yield from [] if term.words is None else [term.words.of]


def before(config: Config, run: Path) -> Iterator[Config]:
    """The configs of the stages before, as far as they are still there."""
    folder = folder_before(config, run)
    if folder is not None and (folder / CONFIG).is_file():
        with suppress(BadInput):
            earlier = read_config(folder)
            yield earlier
            yield from before(earlier, folder)


def reads_words(config: Config, name: str) -> bool:
    return usual_tasks.kind_of(name, config.modalities) == "text" and not config.modalities[name].get("pair")


def kind_of(name: str, options: dict[str, Any]) -> str:
    return str(options.get("kind") or name)


def inputs(config: Config) -> Iterator[list[str]]:
    """A line for each modality."""
    for name, options in config.modalities.items():
        column = options.get("columns") or options.get("column") or name
        frozen = ", frozen" if options.get("freeze") else ", changed by LoRA" if options.get("lora") else ""
        start = "" if options.get("like") else start_of(options) + frozen
        yield [name, kind_of(name, options), encoder_of(options), start, last_parts(column)]


def encoder_of(options: dict[str, Any]) -> str:
    """The name of a modality's encoder, of a folder its last part, or whose tower it shares."""
    if options.get("like"):
        return f"that of {options['like']}"
    family, colon, name = str(options.get("encoder", "default encoder")).partition(":")
    return family + colon + str(bare(name))


def start_of(options: dict[str, Any]) -> str:
    """The weights that an encoder's training began with; of a package's with their licence."""
    given, encoder = options.get("pretrained"), str(options.get("encoder"))
    if given is not False and encoder in PACKAGED:
        package = PACKAGED[encoder]
        return f"weights of the package {package.name} ({package.weights})"
    if given is True or (given is None and encoder.startswith("hf:")):
        return "default weights"
    return last_parts(given) if given else "nothing"


def last_parts(value: Any) -> str:
    """Names, of paths the last part; of more than six the first six and how many there are."""
    values = value if isinstance(value, list) else [value]
    shown = [Path(str(each)).name for each in values[:6]]
    return ", ".join(shown) + (f" and {len(values) - 6} more" if len(values) > 6 else "")


def data(config: Config, known: Mapping[str, Any] = EMPTY) -> Iterator[str]:
    """What it learned from; how many rows that were is `known` by the run's state."""
    yield f"training rows: {' + '.join(Path(source).name for source in config.data.sources)}"
    for split in ("val", "test"):
        value = getattr(config.data, split)
        if isinstance(value, str):
            yield f"{split} rows: {Path(value).name}"
        elif isinstance(value, Last):
            yield f"{split} rows: the last {value.last:g} of the steps of every series"
        elif value is not None:
            yield f"{split} rows: {drawn(value, split, known, config.train.seed)}"
    if isinstance(config.data.label, list):
        yield f"labels: columns {', '.join(f'`{name}`' for name in config.data.label)}"
    elif config.data.label:
        yield f"classes: column `{config.data.label}`"
    if config.data.target:
        yield f"targets: {', '.join(f'`{name}`' for name in config.data.target)}"


def drawn(part: Fraction, split: str, known: Mapping[str, Any], seed: int) -> str:
    """How many rows are drawn, and what keeps some together, so that they may be more than their share."""
    share = f"a share of {part.fraction:g} of the training rows"
    columns = [part.by] if isinstance(part.by, str) else part.by or []
    kept = " or ".join(column for column in columns if column != "row")
    rows, left = known.get(f"{split}_rows"), known.get("train_rows")
    told = f"{rows:,}, drawn by seed {seed} as {share}" if rows else f"{share}, drawn by seed {seed}"
    told += f", of which {left:,} are left" if rows and left else ""
    return told + (f"; rows that share their {kept} stay together" if kept else "")


def objective(config: Config) -> Iterator[str]:
    for term in config.objective:
        options = {key: value for key, value in term.options.items() if value is not None}
        said = "".join(f", {key} {value}" for key, value in options.items())
        about = f" of {', '.join(term.inputs)}" if term.inputs else ""
        weight = f", weight {term.weight:g}" if term.weight not in (None, 1) else ""
        against = f", with {', '.join(term.negatives)} as negatives" if term.negatives else ""
        yield f"`{term.name}`{about}{against}{said}{weight}"


def training(run: Path, config: Config) -> Iterator[str]:
    known, kept = state.read(run), checkpoints(run)
    if kept:
        chosen = best(kept)
        score = "" if chosen.score is None else f", of the lowest validation loss, {chosen.score:.4g}"
        yield f"weights of step {chosen.step:,} of {known.get('steps') or kept[-1].step:,}{score}"
    settings = config.train
    yield f"batches of {settings.batch_size:,} rows, learning rate {settings.lr:g}, seed {settings.seed}"
    if known.get("started"):
        yield f"begun {known['started'][:10]}"


def figures(results: dict[str, Any]) -> str:
    """Those with an interval, by their paths."""
    found = [line for task in TASKS if task in results for line in with_intervals(results[task], task)]
    if not found:
        return "None: the run was not evaluated."
    confidence = results.get("settings", {}).get("confidence", 0.95)
    about = f"On {results['rows']:,} {results['split']} rows of {Path(str(results['data'])).name}"
    over = "rows, or the pictures, recordings or groups that rows share"
    told = f"{about}; {confidence:.0%} intervals by bootstrap over {over}.\n\n"
    more = f"\n\n{len(found) - SHOWN} more: `clx runs show`." if len(found) > SHOWN else ""
    return told + table(["figure", "value", "interval"], found[:SHOWN]) + more


def with_intervals(value: Any, path: str) -> Iterator[list[str]]:
    """A line for each number beside which its limits stand."""
    if isinstance(value, dict):
        for key, each in value.items():
            limits = value.get(f"{key}_ci")
            if is_number(each) and isinstance(limits, list) and all(map(is_number, limits)):
                yield [f"{path}.{key}", f"{each:.3g}", f"{limits[0]:.3g} to {limits[1]:.3g}"]
            else:
                yield from with_intervals(each, f"{path}.{key}")


def limits(config: Config, results: dict[str, Any]) -> Iterator[str]:
    """What the figures do not tell, as far as the run itself shows it."""
    split, rows = results.get("split"), results.get("rows")
    if not results:
        yield "nothing was measured: how well it does is not known"
    elif split == "train":
        yield "the figures are of the rows that it was trained on, so those of new rows will be worse"
    elif split == "val":
        yield "there were no test rows: the figures are of the val rows, which chose the weights"
    if is_number(rows) and rows < FEW:
        yield f"{rows:,} rows were measured: see how wide the intervals are"
    if skipped := {name: why for name, why in results.get("skipped", {}).items()}:
        yield f"not measured: {', '.join(f'{name} ({why})' for name, why in skipped.items())}"
    if any(start_of(options) != "nothing" for options in config.modalities.values() if not options.get("like")):
        yield "some encoders start from pretrained weights, whose licences and limits hold for this model, too"
    yield "figures hold for rows like those measured; of other sources, cameras, speakers or languages nothing is known"


def made_by(config: Config) -> str:
    """The config, as a file that `clx train` takes, and what it ran on."""
    raw = config.model_dump(mode="json", exclude_defaults=True)
    shortened = yaml.safe_dump(bare(raw), sort_keys=False, allow_unicode=True).rstrip()
    found = ", ".join(f"{name} {number}" for name in PACKAGES if (number := installed(name)))
    said = "What is not said is the default of this version of clx; data are named without their folders."
    return f"`clx train config.yaml` with\n\n```yaml\n{shortened}\n```\n\n{said} The card was written with {found}."


def bare(value: Any, folders: bool = False) -> Any:
    """The value without keys that are not set and, without `folders`, with absolute paths as their last part."""
    if isinstance(value, dict):
        return {key: bare(each, folders) for key, each in value.items() if each is not None}
    if isinstance(value, list):
        return [bare(each, folders) for each in value]
    shortened = not folders and isinstance(value, str) and Path(value).is_absolute()
    return Path(value).name if shortened else value


def installed(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def table(head: list[str], rows: Any) -> str:
    """A table of Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def bullets(lines: Any) -> str:
    return "\n".join(f"- {line}" for line in lines)
