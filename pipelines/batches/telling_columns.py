"""Answers among the inputs: refused where a column is the answer itself, warned of where the answer follows from it."""

from collections.abc import Callable, Mapping
from warnings import warn

from clx.losses.base import LOSSES
from clx.modalities.base import Modality
from clx.pipelines.batches.columns import column_of, refuse_answers
from clx.pipelines.batches.meetings import meetings_of
from clx.pipelines.config.schema import Config
from clx.pipelines.data.answers import SAID, telling
from clx.pipelines.data.column_kinds import kinds_of
from clx.pipelines.data.manifest import Manifest
from clx.pipelines.data.understood import in_lines, understood
from clx.pipelines.system.errors import ClxWarning

TELLS = "{answer} follows from it with certainty; leave it out if it is not known where the model is used"


def supervised_inputs(config: Config) -> set[str]:
    """Inputs of the terms that learn the answer with a head."""
    heads = [term for term in config.objective if term.name in LOSSES and LOSSES[term.name].trains_predictions]
    return {name for term in heads for name in config.inputs_of(term)}


def telling_columns(config: Config, modalities: Mapping[str, Modality], manifest: Manifest) -> list[tuple[str, str]]:
    """Columns of the inputs from which the answer follows with certainty, each with the answer.

    Those of tables, and texts that are other words for the label where a head learns it from them. Raises `BadInput`
    where one of them is the answer.
    """
    supervised = supervised_inputs(config)
    refuse_answers(config, modalities, supervised)
    tables: list[str] = []
    words: list[str] = []
    for name, modality in modalities.items():
        wanted = column_of(name, modality)
        if modality.kind == "table":
            tables += wanted
        elif modality.kind == "text" and name in supervised and isinstance(wanted, str):
            words.append(wanted)
    label = config.data.label_column
    found = [(column, target) for target in config.data.target for column in telling(manifest, target, tables)]
    if label is not None and label not in config.data.target and label in manifest.columns:
        kinds = kinds_of(manifest)
        few = [column for column in words if kinds[column].distinct <= SAID * max(2, kinds[label].distinct)]
        found += [(column, label) for column in telling(manifest, label, [*tables, *few])]
    return found


def learned_prompts(modalities: Mapping[str, Modality]) -> list[str]:
    """Which learned prompt stands before the texts of which columns, and where none does though the tower's column has
    one, a line each."""
    each = {name: getattr(modality, "learned", None) for name, modality in modalities.items()}
    prompts = {name: prompt for name, prompt in each.items() if prompt is not None}
    owners = {name: prompt.get("like", name) for name, prompt in prompts.items()}
    lines = []
    for owner in dict.fromkeys(owners.values()):
        columns = [name for name in owners if owners[name] == owner]
        count, tokens = prompts[owner].get("count", 1), prompts[owner]["tokens"]
        of = ", one prompt for all of them" if len(columns) > 1 else ""
        several = f"{count} prompts of " if count > 1 else ""
        lines.append(f"{several}{tokens} learned vectors before the texts of {', '.join(columns)}{of}")
    for name, modality in modalities.items():
        if modality.like in owners and name not in owners and not getattr(modality, "written", ""):
            lines.append(
                f"no prompt before the texts of {name}, though {modality.like} has one; "
                f"modalities.{name}.prompt: {{like: {owners[modality.like]}}} shares it"
            )
    return lines


def say_understood(
    config: Config, modalities: Mapping[str, Modality], splits: Mapping[str, Manifest], say: Callable[[str], None]
) -> None:
    """What the data were taken for, before time is spent on them, and a warning of columns that tell the answer."""
    for line in in_lines(understood(config, splits)):
        say(line)
    for line in learned_prompts(modalities):
        say(line)
    if (meetings := meetings_of(config, splits["train"])) is not None:
        say(meetings.line())
    for column, answer in telling_columns(config, modalities, splits["train"]):
        warn(f"column {column!r} is among the inputs: {TELLS.format(answer=answer)}", ClxWarning, stacklevel=2)
