"""What a loss may ask for besides embeddings: where the value of each name comes from.

A loss declares names by the keyword-only arguments of its `forward`; `losses.extras.EXTRAS` says what each name means.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from clx.losses.base import Embeddings, Loss, Steps
from clx.modalities.base import StepEncoder
from clx.pipelines.batches.batch import Batch
from clx.pipelines.model.fusion import Gated
from clx.pipelines.model.label_sample import among, applying, choose
from clx.pipelines.model.objective import Objective
from clx.pipelines.model.towers import Embedder, modality_of
from clx.pipelines.training.mixing import Mixed

GATE_ROWS = 5
"""One in so many rows teaches the gates of a head over several inputs."""
GATES_LEARN = 0.5
"""Share of the run's steps in which they learn. Afterwards the weights of the inputs stay, and all rows teach these."""


@dataclass
class Extras:
    """The values of one batch. Called with a loss and the embeddings that its term looks at."""

    batch: Batch
    model: Embedder
    objective: Objective
    embeddings: Embeddings
    """Of all views."""
    steps: Steps
    """Embeddings per time step by view name, where some loss asks for them."""
    generator: torch.Generator
    """Seeded by the place of the batch in the run, so that a resumed run draws the same."""
    progress: float = 1.0
    """Share of the run's steps that are done."""
    features: Embeddings = field(default_factory=dict)
    """What encoders give their heads by view name, where some loss asks for it."""
    keys: Embeddings = field(default_factory=dict)
    """By the second model, of the views of `embeddings`."""
    originals: Embeddings = field(default_factory=dict)
    """What encoders were given by view name, as flat numbers, where some loss asks for it."""
    mixed: Mixed | None = None
    """Which views are mixed, and how."""
    answered: Tensor | None = None
    """Rows `[B]` whose labels and targets are given to a loss that trains the head; all when None."""

    def __call__(self, loss: Loss, z: Embeddings, negatives: Embeddings) -> dict[str, object]:
        """Values by name. A loss that trains the head has predictions from its own inputs, and of rows without any of
        them no label or target; another one has the head's predictions as they are."""
        heads = z if loss.trains_predictions else self.embeddings
        given = {name: VALUES[name](self, heads if name in ANSWERS else z) for name in loss.needs() - OF_HEADS}
        if loss.needs() & OF_HEADS:
            known = self.objective.heads
            by = known[loss].name if loss in known else next(iter(self.model.heads))
            if "predictions" in loss.needs():
                given |= self.predicted(loss, heads, by, given)
            if "head" in loss.needs():
                given["head"] = self.model.head(by)
        if loss in self.objective.rows:
            given["weights"] = self.some_rows(self.objective.rows[loss])
        if negatives:
            given |= {"negatives": negatives, "present": VALUES["present"](self, z | negatives)}
            given |= {name: VALUES[name](self, z | negatives) for name in ("keys", "steps") if name in given}
        return given

    def beside_words(self, loss: Loss, z: Embeddings) -> Tensor | None:
        """The terms of the learned prompts by which a loss was told labels, where these have some."""
        labels = self.batch.labels.where(self.known(z), -1)
        return self.model.beside(z, self.batch.present, labels, self.objective.heads[loss].name)

    def predicted(self, loss: Loss, z: Embeddings, by: str, given: Mapping[str, object]) -> dict[str, object]:
        """What the head `by` says, of all labels or of those that a term has at this step, and what the loss is then
        given of them in place of `given`."""
        sample, chosen, found = self.objective.samples.get(loss), None, dict[str, object]()
        if sample is not None and self.objective.training:
            outputs = len(self.model.get_buffer("target_mean"))
            chosen = choose(sample, applying(given, outputs), self.generator)
            found |= among(chosen, given, outputs)
        labels = None if chosen is None else chosen.labels
        return found | {"predictions": self.model.predict(z, self.batch.present, by, labels, self.generator)}

    def known(self, z: Embeddings) -> Tensor:
        """Rows `[B]` with any of these inputs: of the others there is nothing to predict from."""
        known = torch.stack([self.batch.present[name] for name in z]).any(0)
        return known if self.answered is None else known & self.answered

    def some_rows(self, which: str) -> Tensor:
        """Weights `[B]` by which only rows of earlier data count, or only the others, as much in all as every row does
        else; 0 where there are none of them. In validation no row is of earlier data."""
        rows, start = self.batch.sample_id, self.objective.replay_from
        old = (
            torch.zeros_like(rows, dtype=torch.bool) if start is None or not self.objective.training else rows >= start
        )
        counted = (old if which == "replay" else ~old).to(torch.float32)
        weights = counted * (len(counted) / counted.sum().clamp(min=1))
        return weights if self.batch.weights is None else weights * self.batch.weights

    def held_out(self) -> tuple["Extras", "Extras"]:
        """The batch for what each input predicts alone, and for the gates that weigh the inputs, each with the answers
        of other rows: an input has no answer by heart to a row of the gates.

        From `GATES_LEARN` of the run on, all rows are for the inputs.
        """
        rows = self.batch.sample_id
        held = ((rows * 2654435761) >> 16) % GATE_ROWS == 0  # spread over whatever order the rows are in
        if self.progress >= GATES_LEARN:
            held = torch.zeros_like(held)
        return replace(self, answered=~held), replace(self, answered=held)

    def sets(self, z: Embeddings) -> Tensor | None:
        """The sets of labels of a batch, NaN in rows without any of these inputs; None where labels are single."""
        sets = self.batch.label_sets
        return None if sets is None else sets.where(self.known(z)[:, None], torch.nan)

    def encoded(self) -> Embeddings:
        """By modality, what its encoder made of the first view, NaN in rows without it."""
        first = {modality_of(name): name for name in reversed(self.features)}
        here = self.batch.present
        return {n: self.features[v].detach().where(here[v][:, None], torch.nan) for n, v in first.items()}

    def attention(self, name: str) -> tuple[Tensor, Tensor]:
        """The attention weights of a view's pairs of tokens `[B, P, L, H]`, and which pairs there are."""
        encoder = self.model.tower(name).encoder
        assert isinstance(encoder, StepEncoder)
        weights, mask = self.steps[f"attention {name}"]
        return weights.unflatten(2, (-1, encoder.depth[1])), mask

    def track(self, loss: Loss, name: str, rows: Tensor) -> None:
        """Track, for the gates, the error of what one input predicts alone, if the batch has answers."""
        values = self(loss, {name: rows}, {})
        answers = [value for key, value in values.items() if key in ANSWERS and isinstance(value, Tensor)]
        known = [(value.isfinite() if value.is_floating_point() else value >= 0).any() for value in answers]
        gates = self.model.head(self.objective.heads[loss].name)
        if isinstance(gates, Gated):
            with torch.no_grad():
                gates.track(modality_of(name), loss({name: rows}, **values), torch.stack(known).all())


ANSWERS = ("labels", "label_sets", "targets")
OF_HEADS = {"predictions", "head"}
VALUES: dict[str, Callable[[Extras, Embeddings], object]] = {
    "labels": lambda extras, z: extras.batch.labels.where(extras.known(z), -1),
    "label_sets": lambda extras, z: extras.sets(z),
    "levels": lambda extras, z: extras.objective.levels,
    "features": lambda extras, z: extras.encoded(),
    "targets": lambda extras, z: extras.batch.targets.where(extras.known(z)[:, None], torch.nan),
    "stands_for": lambda extras, z: None,  # of labels that were drawn, where a term draws some
    "present": lambda extras, z: {name: extras.batch.present[name] for name in z} if extras.batch.lacks else None,
    "sample_id": lambda extras, z: extras.batch.sample_id,
    "repeats": lambda extras, z: extras.batch.repeats,
    "groups": lambda extras, z: extras.batch.groups,
    "weights": lambda extras, z: extras.batch.weights,
    "negatives": lambda extras, z: None,  # those of the term, where it has some
    "contents": lambda extras, z: extras.batch.contents,
    "keys": lambda extras, z: {name: extras.keys[name] for name in z if name in extras.keys} or None,
    "steps": lambda extras, z: {name: extras.steps[name] for name in z if name in extras.steps},
    "layers": lambda extras, z: {n: extras.steps[f"layers {n}"][0] for n in z if f"layers {n}" in extras.steps},
    "key_layers": lambda extras, z: {
        n: extras.steps[f"key layers {n}"][0].detach() for n in z if f"key layers {n}" in extras.steps
    },
    "attention": lambda extras, z: {n: extras.attention(n) for n in z if f"attention {n}" in extras.steps},
    "masked": lambda extras, z: {
        n: (extras.steps[f"masked {n}"][0], extras.steps[f"masked {n}"][1] - 1)
        for n in z
        if f"masked {n}" in extras.steps
    },
    "states": lambda extras, z: {name: extras.steps[f"states {name}"][0] for name in z if name in extras.steps},
    "originals": lambda extras, z: {name: extras.originals[name] for name in z if name in extras.originals},
    "generator": lambda extras, z: extras.generator,
    "mixed": lambda extras, z: (
        {name: extras.mixed[name] for name in z if name in extras.mixed} if extras.mixed else None
    ),
    "progress": lambda extras, z: extras.progress,
}
