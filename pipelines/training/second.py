"""`train.second`: a model beside the one that trains, whose embeddings of the same rows are the `keys` of losses."""

import copy
import math
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from clx.losses.base import Embeddings, Loss, Steps
from clx.modalities.base import Input, Modality
from clx.modalities.image import Image
from clx.modalities.registry import MODALITIES
from clx.pipelines.batches.dataset import BatchDataset
from clx.pipelines.batches.loader import batches, once
from clx.pipelines.config.schema import Config
from clx.pipelines.config.schema import Second as Settings
from clx.pipelines.data.manifest import Manifest
from clx.pipelines.model.build import Run
from clx.pipelines.model.checks import try_objective
from clx.pipelines.model.inner_states import without_layers
from clx.pipelines.model.towers import Embedder, modality_of
from clx.pipelines.runs.checkpoint import load
from clx.pipelines.system.errors import BadInput
from clx.pipelines.training.averaging import tensors_of

COMPARED = 64
"""Rows, evenly spread, that two models must read alike."""


class Second:
    """A copy that follows the model, or a finished one that stays as it is. Nothing of it has a gradient."""

    def __init__(
        self,
        module: Embedder,
        names: list[str],
        settings: Settings,
        readers: Mapping[str, Modality],
        layered: Collection[str] = (),
    ) -> None:
        """`layered` are those of the `names` whose layers some loss asks for."""
        self.module, self.names, self.settings = module.requires_grad_(False), names, settings
        self.readers = readers
        """How a finished model reads each modality; the copy reads as the model does."""
        self.follows = settings.momentum is not None
        module.inner = {name: ["layers"] for name in layered}
        self.sizes = {name: m.preprocessing.size for name, m in readers.items() if isinstance(m, Image)}
        norms = [part for part in module.modules() if isinstance(part, _BatchNorm)]
        self.steady = norms if settings.norms == "running" else []
        """Batch norms of a copy that take running statistics in training, too."""
        self._train(self.follows)

    def __call__(
        self, inputs: dict[str, Input], present: dict[str, Tensor], training: bool, steps: Steps | None = None
    ) -> Embeddings:
        """Keys `[B, E]` of the views that some loss asks for them of, and into `steps`, under "key layers NAME", what
        `deep_states` gives of its layers, where some loss asks for these. A copy draws dropout, and takes the
        statistics of the batch in its norms but for `norms`, where the model does; a finished model is as in use."""
        if self.module.training != (training and self.follows):
            self._train(training and self.follows)
        here = {view: rows for view, rows in present.items() if modality_of(view) in self.names}
        shown = {view: self.fitting(modality_of(view), value) for view, value in inputs.items() if view in here}
        with torch.no_grad():
            inner: Steps = {}
            keys: Embeddings = self.module(shown, here, inner if self.module.inner else None)
        if steps is not None:
            steps |= {f"key {name}": found for name, found in inner.items()}
        return keys

    def _train(self, training: bool) -> None:
        self.module.train(training)
        for norm in self.steady:
            norm.eval()

    def fitting(self, name: str, value: Input) -> Input:
        """An input as this model wants it: images of its own size."""
        size = self.sizes.get(name)
        if size is None or value["x"].shape[-2:] == size:
            return value
        pixels = F.interpolate(value["x"].float(), size, mode="bilinear", antialias=True)
        return value | {"x": pixels.round().clamp(0, 255).to(value["x"].dtype)}

    @torch.no_grad()
    def follow(self, model: Embedder, done: float) -> None:
        """Move a copy towards the model after a step; `done` is the share of the steps that are done by then.

        Weights alone: the running statistics of its norms are of its own passes, but where these are what it normalises
        by: then they are those of the model.
        """
        if self.settings.momentum is None:
            return
        momentum = self.settings.momentum
        if self.settings.schedule == "cosine":
            momentum = 1 - (1 - momentum) * (math.cos(math.pi * done) + 1) / 2
        named = dict(model.named_parameters())
        pairs = [(ours, named[name]) for name, ours in self.module.named_parameters() if ours is not named[name]]
        torch._foreach_lerp_([ours for ours, _ in pairs], [now for _, now in pairs], 1 - momentum)
        if self.steady:
            counted = dict(model.named_buffers())
            for name, ours in self.module.named_buffers():
                if name.endswith(("running_mean", "running_var", "num_batches_tracked")):
                    ours.copy_(counted[name])

    def own(self, model: Embedder) -> dict[str, Tensor]:
        """What it does not have in common with the model, by name."""
        shared = {id(each) for each in tensors_of(model)}
        named = self.module.state_dict(keep_vars=True)
        return {name: each for name, each in named.items() if isinstance(each, Tensor) and id(each) not in shared}

    def state(self, model: Embedder) -> dict[str, Tensor]:
        """What resuming needs: of a copy its weights and buffers, on the CPU; of a finished model nothing."""
        own = self.own(model) if self.follows else {}
        return {name: each.detach().to("cpu", copy=True) for name, each in own.items()}

    @torch.no_grad()
    def take(self, model: Embedder, state: dict[str, Tensor]) -> None:
        """Take up what `state` gave. Raises `ValueError` where that was of another model."""
        own = self.own(model) if self.follows else {}
        if own.keys() != state.keys() or any(own[name].shape != saved.shape for name, saved in state.items()):
            raise ValueError("the second model is another")
        for name, saved in state.items():
            own[name].copy_(saved)

    def bytes(self, model: Embedder) -> int:
        """Of memory that it takes besides the model."""
        shared = {id(each) for each in tensors_of(model)}
        return sum(each.nbytes for each in tensors_of(self.module) if id(each) not in shared)

    def check(self, run: Run, manifest: Manifest) -> None:
        """Raise `BadInput` where a finished model reads these rows otherwise, or no loss can use its width."""
        if self.follows:
            return
        losses = [loss for loss in run.objective.losses if isinstance(loss, Loss)]
        with torch.random.fork_rng(devices=[]):  # loaders, and what is made to be tried, draw from the run's stream
            for name in self.names:
                self._compare(name, run.modalities[name], self.readers[name], manifest)
            try_objective(run.config, run.modalities, losses, run.facts.classes, self.module.embed_dim)

    def _compare(self, name: str, ours: Modality, theirs: Modality, manifest: Manifest) -> None:
        theirs = copy.copy(theirs)
        theirs.column, theirs.pair = ours.column, ours.pair
        few = manifest.take(torch.arange(0, len(manifest), max(1, len(manifest) // COMPARED)).numpy())
        read = []
        for modality in (ours, theirs):
            data = BatchDataset(few, {name: modality}, on_bad="skip")
            batch = next(batches(data, [once(len(data), len(data))[0]]))
            read.append(batch.inputs.get(name, {}))
        mine, other = read
        if name in self.sizes:  # an image is brought to the other size
            same = mine["x"].shape[1] == other["x"].shape[1] if mine and other else True
        else:
            same = mine.keys() == other.keys() and all(torch.equal(mine[key], other[key]) for key in mine)
            same &= getattr(ours, "max_length", None) == getattr(theirs, "max_length", None)
        if not same:
            raise BadInput(
                f"train.second: its model reads modalities.{name} otherwise ({theirs.encoder}) than this run does "
                f"({ours.encoder}), and both get the same batches: give modalities.{name} the encoder and the options "
                "of reading that the second model has"
            )


def second_of(run: Run, device: torch.device, before: Run | None = None) -> Second | None:
    """The second model of a run, made without a draw from the run's random streams. Raises `BadInput`.

    `before` is the run of the stage before, for a run that is only tried; else it lies in `run.before`.
    """
    settings = run.config.train.second
    if settings is None:
        return None
    terms = zip(run.config.objective, run.objective.losses, strict=True)
    asking = [(term, loss) for term, loss in terms if isinstance(loss, Loss) and loss.asks_second()]
    looked = [[*run.config.inputs_of(term), *(term.negatives or [])] for term, _ in asking]
    names = list(dict.fromkeys(name for each in looked for name in each))
    deep = {n: t.name for t, loss in asking if "key_layers" in loss.requires() for n in run.config.inputs_of(t)}
    if settings.momentum is not None:
        frozen = [each for each in run.model.parameters() if not each.requires_grad]
        module = copy.deepcopy(run.model, {id(each): each for each in frozen})
        for part in ("predictor", "further_heads"):  # they give no keys
            module._modules.pop(part, None)
        module.predictor, module.further_heads, module.heads = None, {}, {}
        check_layers(module, deep, run)
        second = Second(module, names, settings, {}, deep)
        if settings.norms == "running" and not second.steady:
            raise BadInput("train.second.norms: running, but no tower has batch norms; heads have them with head: mlp")
        return second
    with torch.random.fork_rng(devices=[]):
        if settings.stage is not None and before is not None:
            found, readers = before.model, before.modalities
        elif settings.run is not None or settings.stage is not None:
            found, readers = teacher(settings, run)
        else:
            found, readers = pretrained(settings, run.config, names)
    for name in names:
        if name not in readers or readers[name].kind != run.modalities[name].kind:
            raise BadInput(
                f"train.second: {settings.run or settings.model or 'the stage before'} has no modalities.{name} of "
                f"kind {run.modalities[name].kind}; it has {', '.join(readers)}: name inputs that it has in the term"
            )
    check_layers(found, deep, run)
    return Second(found.to(device), names, settings, readers, deep)


def check_layers(second: Embedder, asked: Mapping[str, str], run: Run) -> None:
    """Raise `BadInput` where a second model has no layers of an input, or none as wide as the embeddings; `asked` has
    by input the loss that compares both."""
    for name, loss in asked.items():
        encoder, own = second.tower(name).encoder, run.config.embed_dim
        if not encoder.layered:
            raise BadInput(without_layers(loss, f"the second model's encoder of {name}"))
        if encoder.width != own:
            raise BadInput(
                f"loss {loss!r} compares embeddings of {own} columns with layers of {encoder.width}, those of the "
                f"second model: set embed_dim: {encoder.width}, and head: none for {name} where that is its width, too"
            )


def teacher(settings: Settings, run: Run) -> tuple[Embedder, dict[str, Modality]]:
    """The model of a run folder, of its best checkpoint, or what the stage before handed on; and how it reads."""
    if settings.stage is not None and run.before is None:
        raise BadInput("train.second.stage: previous, but no stage is before this one: name a run, or leave it out")
    folder = run.before if settings.stage is not None else Path(str(settings.run))
    assert folder is not None
    try:
        of_stage = settings.stage is not None
        source = load(folder, run.config.stages[-2].checkpoint if of_stage else "best", alone=of_stage)
    except BadInput as error:
        raise BadInput(f"train.second.{'run' if settings.stage is None else 'stage'}: {error}") from None
    return source.model, source.modalities


def pretrained(settings: Settings, config: Config, names: list[str]) -> tuple[Embedder, dict[str, Modality]]:
    """A pretrained model, of its own width, for those of the modalities that it has an encoder of."""
    assert settings.model is not None
    encoder = settings.model if ":" in settings.model else f"open_clip:{settings.model}"
    made: dict[str, Modality] = {}
    for name in names:
        kind = MODALITIES[str(config.modalities[name].get("kind", name))]
        if encoder.partition(":")[0] not in {each.partition(":")[0] for each in kind.encoders() if ":" in each}:
            continue
        options: dict[str, Any] = {"encoder": encoder, "pretrained": settings.pretrained, "head": "none"}
        try:
            made[name] = kind(**options, freeze=True)
            width = made[name].build_encoder(False).width
        except ValueError as error:
            raise BadInput(f"train.second.model: {error}") from None
    if not made:
        raise BadInput(
            f"train.second.model: {settings.model} encodes none of {', '.join(names)}, the inputs of losses that need "
            "keys; clx encoders lists what there is for each kind"
        )
    try:
        return Embedder(made, width), made
    except ValueError as error:
        raise BadInput(f"train.second.model: {error}") from None
