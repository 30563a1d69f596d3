"""The model: one encoder and projection head per modality. Inputs in, one embedding per name out."""

from collections.abc import Callable, Collection, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from clx.losses.base import Embeddings, Steps
from clx.losses.primitives.autograd import at_least_float32
from clx.modalities.base import Input, Modality
from clx.modalities.text import Text
from clx.modalities.text_context import Context
from clx.pipelines.config.heads import Head
from clx.pipelines.model.fusion import Fused, by_modality, head, mean_of_present
from clx.pipelines.model.prompts import Prompts, learned_prompts, owners_of
from clx.pipelines.model.rows_present import scatter_present
from clx.pipelines.model.tower import Tower as Tower
from clx.pipelines.model.tower import Whole
from clx.pipelines.model.widths import first_columns
from clx.pipelines.model.words import Words
from clx.pipelines.system.phases import phase


def modality_of(name: str) -> str:
    """The modality a view belongs to: `image` for `image/1`."""
    return name.partition("/")[0]


def text_of(modalities: Mapping[str, Modality], name: str) -> Text:
    """The modality of texts of this name. Raises `ValueError`."""
    modality = modalities[name]
    if not isinstance(modality, Text):
        raise ValueError(f"words: {name} reads no texts, its kind is {modality.kind}")
    return modality


def inner(kind: str, name: str) -> str:
    """What `Embedder.forward` calls the `steps`, `states`, `layers` or `attention` of a view."""
    return name if kind == "steps" else f"{kind} {name}"


def is_further(name: str) -> bool:
    """Whether this is a modality's second view or one after it."""
    return name.partition("/")[2] not in ("", "0")


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
        classes: Sequence[str] = (),
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
        self.prompts: Mapping[str, nn.Module] = nn.ModuleDict(
            learned_prompts(modalities, self.tower, embed_dim, load, classes)
        )  # type: ignore[assignment]
        """Of columns of texts that learn some of their own."""
        self.prompt_of = owners_of(modalities)
        """Of all columns that have learned prompts the one whose they are."""
        made: dict[str, nn.Module] = {
            each.name: head(each.fuse, each.inputs, embed_dim, outputs, each.prototypes)
            if each.words is None
            else Words(each.words, text_of(modalities, each.words.of), classes, each.absolute, load)
            for each in heads
            if outputs
        }
        self.heads = {each.name: frozenset(each.inputs) for each in heads if outputs}
        """The modalities that each head looks at: the inputs of the terms that train it. The first one predicts."""
        self.predictor = made.pop(heads[0].name) if made else None
        self.further_heads: Mapping[str, nn.Module] = nn.ModuleDict(made)  # type: ignore[assignment]
        self.inner: Mapping[str, Collection[str]] | None = None
        """By modality, which of `steps`, `states`, `layers` and `attention` losses ask for; the steps of all modalities
        when None."""
        self.turn: Callable[[Tower], None] | None = None
        """Told the tower that is to encode next, whether this batch has rows for it or not."""
        # Predictions are in the target's own units: the predictor's output is scaled by training statistics.
        self.register_buffer("target_mean", torch.zeros(outputs))
        self.register_buffer("target_scale", torch.ones(outputs))

    def contexts(self, name: str) -> list[Context]:
        """The learned prompts of the texts of a modality, or of a view."""
        return self.prompts_of(name).contexts() if modality_of(name) in self.prompt_of else []

    def prompts_of(self, name: str) -> Prompts:
        """Those that are learned for a modality, or for a view, its own or shared."""
        prompts = self.prompts[self.prompt_of[modality_of(name)]]
        assert isinstance(prompts, Prompts)
        return prompts

    def reader(self, name: str) -> tuple[Tower, Prompts | None]:
        """What reads the labels' names by a modality: its tower, and its learned prompts where it has some."""
        if self.turn is not None:
            self.turn(self.tower(name))
        return self.tower(name), self.prompts_of(name) if modality_of(name) in self.prompt_of else None

    def words(self) -> list[Words]:
        """The heads that are labels' names."""
        return [head for head in map(self.head, self.heads) if isinstance(head, Words)]

    def learned(self) -> dict[str, Tensor]:
        """Scalars `[]` of the heads that are labels' names, by `words.inputs.name`; detached."""
        both = ((name, self.head(name)) for name in self.heads)
        found = {name: head.learned() for name, head in both if isinstance(head, Words)}
        return {f"words.{name}.{key}": value for name, values in found.items() for key, value in values.items()}

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
        asked for; under "states NAME" with what the head gets of each step, without gradient, and under "layers NAME"
        and "attention NAME" with what `deep_states` gives, where these are; `features` with what the heads get,
        `[B, width]`.
        """
        z: Embeddings = {}
        for name, here in present.items():
            tower = self.tower(name)
            if self.turn is not None:
                self.turn(tower)
            several = "of" in inputs.get(name, {})  # the mean of several recordings has no time
            asked = ("steps",) if self.inner is None else self.inner.get(modality_of(name), ())
            asked = asked if steps is not None and tower.encoder.stepped and not several else ()
            asked = [each for each in asked if each != "masked"]  # of another pass, over other tokens
            if name not in inputs:
                kind = next(self.parameters()).dtype
                z[name] = torch.zeros(len(here), self.whole, dtype=kind, device=here.device)
                if features is not None:
                    features[name] = torch.zeros(len(here), tower.width, dtype=kind, device=here.device)
                if steps is not None:
                    steps |= {inner(each, name): tower.without_inner(each, z[name], here) for each in asked}
                continue
            value = inputs[name]
            if tower.view is not None and is_further(name):
                with torch.no_grad():  # the objective would make the views as easy as can be
                    value, _ = tower.view(**value)
            with phase(f"encoding {modality_of(name)}"):
                view = int(name.partition("/")[2] or 0)
                if steps is not None and asked:
                    entered, found = tower.with_inner(value, asked, view, self.contexts(name))
                    for each, (rows, mask) in found.items():
                        kept = rows.detach() if each == "states" else rows
                        steps[inner(each, name)] = scatter_present(kept, here), scatter_present(mask, here)
                else:
                    entered = tower.features(value, view, self.contexts(name))
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

    def predict(
        self,
        z: Embeddings,
        present: dict[str, Tensor],
        by: str | None = None,
        labels: Tensor | None = None,
        draws: torch.Generator | None = None,
    ) -> Tensor:
        """Predictions `[B, outputs]`, in the units of the targets, from the embeddings that the head looks at.

        By the head `by`, or the one that predicts; with `labels` `[K]` only those of these, `[B, K]`. Of rows that have
        nothing it looks at they say nothing: see `predictable`. `draws` are those of `Words.rows`.
        """
        by = next(iter(self.heads)) if by is None else by
        scale, shift = self.get_buffer("target_scale"), self.get_buffer("target_mean")
        head = self.head(by)
        if isinstance(head, Words):
            found = head(self.pooled(z, present, self.heads[by]), *self.reader(head.by), labels, draws)
        elif isinstance(head, Fused):
            found = head(*by_modality(head.names, z, present))
        elif isinstance(head, nn.Linear) and labels is not None:
            found = linear(self.pooled(z, present, self.heads[by]), head.weight[labels], head.bias[labels])
        else:
            found = head(self.pooled(z, present, self.heads[by]))
        if labels is not None:  # labels have no unit
            return at_least_float32(found)
        return at_least_float32(found) * scale + shift

    def beside(self, z: Embeddings, present: dict[str, Tensor], labels: Tensor, by: str) -> Tensor | None:
        """What the head `by` is to learn besides, `[]`, of the same rows that it predicted last; None of most heads."""
        head = self.head(by)
        if not isinstance(head, Words):
            return None
        rows = self.pooled(z, present, self.heads[by])
        return head.beside(rows, labels, *self.reader(head.by))

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
        if isinstance(head, Words):
            return head.known_rows(*self.reader(head.by))
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
