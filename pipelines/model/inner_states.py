"""Whose inner states (times, tokens, places, layers, attention) losses ask for, and whether they can have them."""

from collections.abc import Mapping

from clx.losses.attention import Attention
from clx.losses.base import Loss
from clx.modalities.base import Modality, StepEncoder
from clx.pipelines.batches.columns import view_names
from clx.pipelines.config.schema import Config
from clx.pipelines.model.deep_states import DEEP
from clx.pipelines.model.towers import Embedder

INNER = frozenset({"steps", "states", "masked", *DEEP})


def steps_asked(config: Config, losses: list[Loss], modalities: Mapping[str, Modality], model: Embedder) -> None:
    """Let the model give the inner states that some term asks for, and no others.

    Raises `ValueError` where a term cannot have what it compares: of one on times, views that keep their time; of the
    others, steps or layers of each of its inputs, and of one on attention two views of the same tokens.
    """
    asked: dict[str, frozenset[str]] = {}
    timed: dict[str, list[str]] = {}
    for term, loss in zip(config.objective, losses, strict=True):
        needs = loss.requires() & INNER
        if not needs:
            continue
        inputs = config.inputs_of(term)
        if "masked" in needs:
            pass  # what `with_decoders` asks of them is enough
        elif loss.compares_times:
            timed[term.name] = [name for name in inputs if not _is_timed(model, name)]
            inputs = _timed(term.name, inputs, modalities, model)
        elif needs & {*DEEP}:
            for name in inputs:
                _check_layers(term.name, name, loss, modalities[name], model)
        else:
            _check(term.name, inputs, modalities, model)
            if term.negatives:
                _check_stepped(term.name, term.negatives, modalities, model)
                inputs = [*inputs, *term.negatives]
        asked |= {name: asked.get(name, frozenset()) | needs for name in inputs}
    for said, others in timed.items():
        if both := [name for name in others if name in asked]:
            raise ValueError(f"loss {said!r} compares times, and {both[0]} has none: leave it out of the term's inputs")
    model.inner = asked


def _is_timed(model: Embedder, name: str) -> bool:
    encoder = model.tower(name).encoder
    return isinstance(encoder, StepEncoder) and encoder.timed


def _timed(loss: str, inputs: list[str], modalities: Mapping[str, Modality], model: Embedder) -> list[str]:
    seen = [name for name in inputs if _is_timed(model, name)]
    if sum(modalities[name].views for name in seen) < 2:
        raise ValueError(
            f"loss {loss!r} compares time steps of two views: set views: 2 on a series with encoder tcn or dilated"
        )
    for name in seen:
        if modalities[name].pair is not None:
            raise ValueError(f"loss {loss!r} compares time steps; modalities.{name} is a pair of columns")
        if not modalities[name].aligned:
            raise ValueError(
                f"loss {loss!r} compares time steps, but views of modalities.{name} do not keep their time: "
                "set its augmentation to {crops: 0, time_mask: 0.5}, say, or name other inputs"
            )
    return seen


def without_layers(loss: str, what: str) -> str:
    """What is said of an encoder that has no layers to give."""
    return (
        f"loss {loss!r} looks into the layers of an encoder, and {what} does not show them: transformer and hf:NAME, "
        "encoders of texts, do"
    )


def _check_layers(loss: str, name: str, asking: Loss, modality: Modality, model: Embedder) -> None:
    encoder = model.tower(name).encoder
    if not encoder.layered:
        raise ValueError(without_layers(loss, f"encoder {modality.encoder} of modalities.{name}"))
    if modality.pair is not None:
        raise ValueError(f"loss {loss!r} looks into the layers of an encoder; modalities.{name} is a pair of columns")
    if "attention" not in asking.requires():
        return
    if modality.views < 2 or not modality.aligned:
        raise ValueError(
            f"loss {loss!r} compares how tokens read each other in two views of the same tokens: set views: 2, "
            f"augmentation: none and a dropout on modalities.{name}, or name other inputs"
        )
    assert isinstance(encoder, StepEncoder)
    assert isinstance(asking, Attention)
    asking.layers_of(encoder.depth[0] - 1)
    try:
        encoder.show_attention()
    except ValueError as error:
        raise ValueError(f"loss {loss!r}, modalities.{name}: {error}") from None


def _check(loss: str, inputs: list[str], modalities: Mapping[str, Modality], model: Embedder) -> None:
    _check_stepped(loss, inputs, modalities, model)
    if sum(len(view_names(name, modalities[name])) for name in inputs) < 2:
        raise ValueError(f"loss {loss!r} compares two inputs or two views: set views: 2 on modalities.{inputs[0]}")


def _check_stepped(loss: str, inputs: list[str], modalities: Mapping[str, Modality], model: Embedder) -> None:
    for name in inputs:
        if modalities[name].pair is not None:
            raise ValueError(f"loss {loss!r} compares steps of inputs; modalities.{name} is a pair of columns")
        if len(model.contexts(name)) > 1:
            raise ValueError(
                f"loss {loss!r} compares steps of inputs; modalities.{name}.prompt.count makes several each"
            )
        if not model.tower(name).encoder.stepped:
            raise ValueError(
                f"loss {loss!r} compares steps (times, tokens, places), and encoder {modalities[name].encoder} of "
                f"modalities.{name} has none: cnn, timm:NAME and ViTs of open_clip have places, transformer, hf:NAME "
                "and CLIP's texts tokens, tcn, dilated and the mel- encoders times; or name other inputs"
            )
