"""The model: one encoder and projection head per modality. Inputs in, one embedding per name out."""

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from clx.losses.base import Embeddings, Steps
from clx.losses.primitives.autograd import at_least_float32
from clx.losses.view_criterion import relevance
from clx.modalities.base import Encoder, Input, LearnedView, Modality, StepEncoder
from clx.pipelines.config.heads import Head
from clx.pipelines.model.checkpointing import recompute
from clx.pipelines.model.chunks import encode
from clx.pipelines.model.fusion import Fused, by_modality, head, mean_of_present
from clx.pipelines.model.lora import adapt
from clx.pipelines.model.projection import projection
from clx.pipelines.model.rows_present import mean_of_rows, scatter_present
from clx.pipelines.model.widths import first_columns
from clx.pipelines.system.stages import stage


def modality_of(name: str) -> str:
    """The modality a view belongs to: `image` for `image/1`."""
    return name.partition("/")[0]


def is_further(name: str) -> bool:
    """Whether this is a modality's second view or one after it."""
    return name.partition("/")[2] not in ("", "0")


Whole = Callable[..., Sequence[Tensor]]
"""All rows of some tensors."""


class Tower(nn.Module):
    """An encoder, frozen as far as asked, and the head that projects into the shared space."""

    def __init__(self, modality: Modality, embed_dim: int, load: bool = True) -> None:
        super().__init__()
        self.chunk: int | None = None
        """The most rows that are encoded at a time."""
        self.short: Callable[[], None] | None = None
        """Told that memory ran out while rows were encoded, whose features are then zeros; else that is an error."""
        self.encoder: Encoder = modality.build_encoder(load or modality.lora is not None)
        self.pair = modality.pair is not None
        self.width = width = self.encoder.width * (4 if self.pair else 1)
        """Of what the head gets."""
        self.head = projection(modality, width, embed_dim)
        self.view: LearnedView | None = modality.build_view()
        blocks = self.encoder.blocks()
        if modality.unlocked > len(blocks):
            raise ValueError(f"unlocked = {modality.unlocked}, but the encoder has {len(blocks)} blocks")
        self.frozen = blocks[: len(blocks) - modality.unlocked] if modality.freeze else []
        if modality.lora is not None:
            self.frozen = adapt(self.encoder, modality.lora)
        if modality.checkpointing:
            recompute(self.encoder)
        self.locked = modality.freeze and not modality.unlocked
        for block in self.frozen:
            block.requires_grad_(False)
        self.train()

    def keep(self, part: Literal["encoder", "head"]) -> None:
        """Leave a part as it is from now on, whatever the modality's `freeze` says."""
        module = self.get_submodule(part)
        module.requires_grad_(False)
        self.frozen = [*self.frozen, module]
        self.locked = self.locked or part == "encoder"
        self.train(self.training)

    def train(self, mode: bool = True) -> "Tower":
        super().train(mode)
        for block in self.frozen:  # frozen batch norms and dropout stay as they are in use
            block.eval()
        if self.locked:
            self.encoder.eval()
        return self

    def forward(self, value: Input) -> Tensor:
        """`[N, embed_dim]` for the N collated rows of one modality, or for their `features`, known already."""
        return self.head(self.features(value))  # type: ignore[no-any-return]

    def features(self, value: Input, view: int = 0) -> Tensor:
        """What the head gets, `[N, width]`, of rows of this view."""
        if "features" in value:
            return value["features"]
        if "of" in value:
            each = self.features({key: part for key, part in value.items() if key != "of"}, view)
            return mean_of_rows(each, value["of"])
        learns = not self.locked or value["x"].requires_grad  # of a learned view the gradient goes through
        with torch.set_grad_enabled(torch.is_grad_enabled() and learns):
            features, *_ = encode(self.encoder, lambda part: self._of_view(view, part), value, self.chunk, self.short)
        if not self.pair:
            return features
        u, v = features.chunk(2)
        return torch.cat([u, v, (u - v).abs(), u * v], 1)

    def _of_view(self, view: int, part: Input) -> tuple[Tensor]:
        """Features of some rows; in backward they may be computed again, after other views."""
        self.encoder.at_view(view)
        return (self.encoder(**part),)

    def with_steps(self, value: Input, view: int = 0) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """As `features`, each step pooled and projected by itself `[N, T, embed_dim]`, with mask `[N, T]`, and what the
        head gets of each step `[N, T, width]`."""
        encoder = self.encoder
        assert isinstance(encoder, StepEncoder)

        def states(part: Input) -> tuple[Tensor, ...]:
            encoder.at_view(view)
            return encoder.states(**part)

        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.locked):
            features, single, mask = encode(encoder, states, value, self.chunk, self.short, trimmed=False)
        each = self.head(single[mask])
        return features, scatter_present(each, mask), mask, single

    def relevance(self, value: Input, whole: Whole = lambda *tensors: tensors) -> Tensor:
        """What the network that makes views is to lower, for series to make a view of. `whole` gives all rows of
        tensors `[N, ...]` that are of these rows, where other processes have more."""
        assert self.view is not None
        varied, kept = self.view(**value)
        with torch.no_grad():
            plain = self.features(value)
        x, v, kept, real = whole(plain, self.features(varied), kept, value["mask"])
        return relevance(x, v, kept, real, self.view.sparsity)


class Embedder(nn.Module):
    """All towers, and a head that predicts when an objective asks for predictions.

    Without `load` pretrained weights are not looked for, since others will take their place.
    """

    def __init__(
        self,
        modalities: dict[str, Modality],
        embed_dim: int,
        outputs: int = 0,
        heads: Sequence[Head] = (),
        load: bool = True,
    ) -> None:
        super().__init__()
        self.embed_dim, self.whole, self.is_narrow = embed_dim, embed_dim, False
        self.towers = nn.ModuleDict()
        self.like = {name: modality.like for name, modality in modalities.items() if modality.like is not None}
        """Whose tower a modality shares: it has none of its own."""
        for name, modality in modalities.items():
            if name in self.like:
                continue
            try:
                self.towers[name] = Tower(modality, embed_dim, load)
            except ValueError as error:
                raise ValueError(f"modalities.{name}: {error}") from None
        made = {each.name: head(each.fuse, each.inputs, embed_dim, outputs) for each in heads if outputs}
        self.heads = {each.name: frozenset(each.inputs) for each in heads if outputs}
        """The modalities that each head looks at: the inputs of the terms that train it. The first one predicts."""
        self.predictor = made.pop(heads[0].name) if made else None
        self.further_heads: Mapping[str, nn.Module] = nn.ModuleDict(made)  # type: ignore[assignment]
        self.inner: Mapping[str, Collection[str]] | None = None
        """By modality, which of its steps' "steps" and "states" losses ask for; its steps of all modalities when
        None."""
        self.turn: Callable[[Tower], None] | None = None
        """Told the tower that is to encode next, whether this batch has rows for it or not."""
        # Predictions are in the target's own units: the predictor's output is scaled by training statistics.
        self.register_buffer("target_mean", torch.zeros(outputs))
        self.register_buffer("target_scale", torch.ones(outputs))

    def tower(self, name: str) -> Tower:
        """The tower of a modality, or of a view."""
        name = modality_of(name)
        found = self.towers[self.like.get(name, name)]
        assert isinstance(found, Tower)
        return found

    def forward(
        self,
        inputs: dict[str, Input],
        present: dict[str, Tensor],
        steps: Steps | None = None,
        features: Embeddings | None = None,
    ) -> Embeddings:
        """Embeddings `[B, embed_dim]` by view name; rows where the input is absent are zero.

        `steps` is filled, where given, with the embeddings per step of encoders that have them and whose steps are
        asked for, and under "states NAME" with what the head gets of each step, without gradient, where that is;
        `features` with what the heads get, `[B, width]`.
        """
        z: Embeddings = {}
        for name, here in present.items():
            tower = self.tower(name)
            if self.turn is not None:
                self.turn(tower)
            several = "of" in inputs.get(name, {})  # the mean of several recordings has no time
            asked = ("steps",) if self.inner is None else self.inner.get(modality_of(name), ())
            stepped = steps is not None and tower.encoder.stepped and not several and "steps" in asked
            if name not in inputs:
                kind = next(self.parameters()).dtype
                z[name] = torch.zeros(len(here), self.whole, dtype=kind, device=here.device)
                if features is not None:
                    features[name] = torch.zeros(len(here), tower.width, dtype=kind, device=here.device)
                if steps is not None and stepped:
                    steps[name] = z[name][:, None], here[:, None]
                    if "states" in asked:
                        steps[f"states {name}"] = z[name].new_zeros(len(here), 1, tower.width), here[:, None]
                continue
            value = inputs[name]
            if tower.view is not None and is_further(name):
                with torch.no_grad():  # the objective would make the views as easy as can be
                    value, _ = tower.view(**value)
            with stage(f"encoding {modality_of(name)}"):
                view = int(name.partition("/")[2] or 0)
                if steps is not None and stepped:
                    entered, each, mask, states = tower.with_steps(value, view)
                    steps[name] = scatter_present(each, here), scatter_present(mask, here)
                    if "states" in asked:
                        steps[f"states {name}"] = scatter_present(states.detach(), here), steps[name][1]
                else:
                    entered = tower.features(value, view)
                z[name] = scatter_present(tower.head(entered), here)
            if features is not None:
                features[name] = scatter_present(entered, here)
        return first_columns(z, self.embed_dim) if self.is_narrow else z

    def relevance(self, inputs: dict[str, Input], whole: Callable[[str], Whole] | None = None) -> dict[str, Tensor]:
        """What the networks that make views are to lower, `[]`, by view; `whole` is by view, too."""
        varied = [name for name in inputs if self.tower(name).view is not None and is_further(name)]
        more = [[] if whole is None else [whole(name)] for name in varied]
        return {n: self.tower(n).relevance(inputs[n], *each) for n, each in zip(varied, more, strict=True)}

    def augmenters(self) -> list[nn.Parameter]:
        """Parameters of the networks that make views."""
        views = [self.tower(name).view for name in self.towers]
        return [p for view in views if view is not None for p in view.parameters()]

    @property
    def predict_from(self) -> frozenset[str]:
        """Modalities that the head looks at which predicts."""
        return next(iter(self.heads.values()), frozenset())

    def head(self, name: str) -> nn.Module:
        """The head of this name."""
        return self.further_heads[name] if name in self.further_heads else self.get_submodule("predictor")

    def predict(self, z: Embeddings, present: dict[str, Tensor], by: str | None = None) -> Tensor:
        """Predictions `[B, outputs]`, in the units of the targets, from the embeddings that the head looks at.

        By the head `by`, or the one that predicts. Of rows that have nothing it looks at they say nothing: see
        `predictable`.
        """
        by = next(iter(self.heads)) if by is None else by
        scale, shift = self.get_buffer("target_scale"), self.get_buffer("target_mean")
        head = self.head(by)
        if isinstance(head, Fused):
            found = head(*by_modality(head.names, z, present))
        else:
            found = head(self.pooled(z, present, self.heads[by]))
        return at_least_float32(found) * scale + shift

    def linear_heads(self) -> list[tuple[frozenset[str], nn.Linear]]:
        """Each linear head with the modalities whose mean embedding it is given."""
        found: list[tuple[frozenset[str], nn.Module]] = []
        for name, inputs in self.heads.items():
            head = self.head(name)
            parts = {frozenset([n]): head.alone(n) for n in head.names} if isinstance(head, Fused) else {inputs: head}
            found += parts.items()
        return [(names, part) for names, part in found if isinstance(part, nn.Linear)]

    def alone(self, name: str) -> nn.Module | None:
        """What predicts `[B, outputs]`, standardised, from embeddings of one modality: the head of this input alone,
        else the first that looks at it; None if nothing does."""
        by = next((n for n, inputs in self.heads.items() if inputs == {name}), None)
        by = by or next((n for n, inputs in self.heads.items() if name in inputs), None)
        head = None if by is None else self.head(by)
        return head.alone(name) if isinstance(head, Fused) else head

    def predictable(self, present: dict[str, Tensor], by: str | None = None) -> Tensor:
        """Which rows `[B]` have an input that the head `by` looks at, or the one that predicts."""
        looked_at = self.predict_from if by is None else self.heads[by]
        seen = [here for name, here in present.items() if modality_of(name) in looked_at]
        return torch.stack(seen).any(0) if seen else torch.zeros_like(next(iter(present.values())))

    def pooled(self, z: Embeddings, present: dict[str, Tensor], of: Collection[str]) -> Tensor:
        """The mean `[B, embed_dim]` of the embeddings that are present and of these modalities."""
        seen = [name for name in z if modality_of(name) in of]
        if not seen:
            return at_least_float32(torch.zeros_like(next(iter(z.values()))))
        return mean_of_present([z[name] for name in seen], [present[name] for name in seen])
