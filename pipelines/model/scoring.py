"""Embeddings of items, their scores against classes or candidates, and what makes probabilities of scores."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from pydantic import AllowInfNan
from torch import Tensor

from clx.losses.base import Embeddings, Loss
from clx.modalities.base import CellError
from clx.modalities.text import Text
from clx.modalities.text_context import Context
from clx.pipelines.batches.cells import collate
from clx.pipelines.config.options import options_of
from clx.pipelines.model.build import Run
from clx.pipelines.model.fingerprint import fingerprint
from clx.pipelines.model.objective import looked_at
from clx.pipelines.model.rows_present import scatter_present
from clx.pipelines.system.errors import BadInput
from clx.pipelines.system.tensor_cache import cached

Kind = Literal["softmax", "sigmoid", "lift"]
Finite = AllowInfNan(False)
CLIP_START = 0.07
"""The temperature of a loss that has none: where CLIP begins."""


@dataclass(frozen=True)
class Scale:
    """How the scores of one item against all labels become probabilities.

    - `softmax`: one label applies, softmax(s / temperature).
    - `sigmoid`: each label is a question of its own, sigmoid(s / temperature + bias).
    - `lift`: the same for a model that has no bias, since it only learned differences of scores:
      sigmoid(s_j / temperature - log mean_{k != j} exp(s_k / temperature)), the label against the mean of the
      others. In theory s / temperature is log p(label | item) / p(label) up to a constant of the item (Oord et al.
      2018, arXiv 1807.03748, eq. 5), which the others estimate.
    """

    kind: Kind
    temperature: float
    bias: float = 0.0

    def probabilities(self, scores: Tensor) -> Tensor:
        """`[B, C]` from scores `[B, C]`."""
        logits = scores / self.temperature
        if self.kind == "softmax":
            return logits.softmax(-1)
        if self.kind == "sigmoid":
            return (logits + self.bias).sigmoid()
        total, best = logits.logsumexp(-1, keepdim=True), logits.argmax(-1, keepdim=True)
        others = total + torch.log1p(-(logits - total).exp())
        # all less the greatest cancels in that formula: its others are summed by themselves
        rest = logits.scatter(-1, best, -torch.inf).logsumexp(-1, keepdim=True)
        return (logits - others.scatter(-1, best, rest) + math.log(logits.shape[-1] - 1)).sigmoid()


def text_modality(run: Run, asked: str | None = None) -> str:
    """The modality that reads the labels: the one asked for, else the one that a head has them from, else the first
    that reads text. Raises `BadInput`."""
    names = [n for n, m in run.scored().items() if m.kind == "text" and not m.pair]
    reading = {term.words.of for term in run.config.objective if term.words is not None}
    names = sorted(names, key=lambda name: name not in reading)
    if not names:
        predicts = "" if run.model.predictor is None else "; what its head was trained to tell, clx predict tells"
        raise BadInput(f"zero-shot needs a text modality; this run has {', '.join(run.modalities)}{predicts}")
    if asked is not None and asked not in names:
        raise BadInput(f"labels cannot be read as {asked!r}; the run's text modalities are {', '.join(names)}")
    return asked or names[0]


@torch.no_grad()
def embed(run: Run, name: str, samples: Sequence[Any], batch_size: int = 256, prompt: Context | None = None) -> Tensor:
    """Embeddings `[N, D]` of read samples of one modality, float32 on the CPU; of texts by one learned prompt, or by
    all that they have."""
    contexts = run.model.contexts(name) if prompt is None else [prompt]
    modality, device = run.modalities[name], run.device
    found = []
    for start in range(0, len(samples), batch_size):
        value = collate(modality, samples[start : start + batch_size])
        found.append(run.model.tower(name)({k: v.to(device) for k, v in value.items()}, contexts).float().cpu())
    return torch.cat(found)[:, : run.model.embed_dim]


def class_embeddings(
    run: Run,
    phrasings: Mapping[str, Sequence[str]],
    templates: Sequence[str] = (),
    text: str | None = None,
    cache: bool = False,
) -> Tensor:
    """One unit row per class `[C, D]`: the mean of the unit embeddings of all its phrasings in all templates; with
    learned prompts one by each, side by side, `[C, P D]`. See `of_classes`.

    `templates` hold `{}` where the class goes; the run's own are used when none are given. With `cache` the rows
    are kept on disk, for the same weights, phrasings and templates.
    """
    text = text_modality(run, text)
    modality = run.modalities[text]
    assert isinstance(modality, Text)
    samples, owners = [], []
    for number, (name, phrases) in enumerate(phrasings.items()):
        for phrase in phrases:
            try:
                prompts = modality.prompts(phrase, templates)
            except CellError as error:
                raise BadInput(f"label {name!r}: {error}") from None
            samples += prompts
            owners += [number] * len(prompts)

    learned = run.model.prompts_of(text) if text in run.model.prompt_of else None
    labels = [None if learned is None else learned.number_of(name) for name in phrasings]

    def by(k: int | None = None) -> Tensor:
        """By all prompts, or by that of number `k`, which a label may have of its own."""
        parts = dict[int | None, list[int]]()
        for place, owner in enumerate(owners):
            parts.setdefault(labels[owner], []).append(place)
        rows = torch.zeros(len(samples), run.model.embed_dim)
        for label, places in parts.items():
            prompt = None if learned is None or k is None else learned.every(label)[k]
            rows[places] = F.normalize(embed(run, text, [samples[i] for i in places], prompt=prompt), dim=-1)
        sums = rows.new_zeros(len(phrasings), rows.shape[1]).index_add(0, torch.tensor(owners), rows)
        return F.normalize(sums, dim=-1)

    def make() -> Tensor:
        return by() if learned is None else torch.cat([by(k) for k in range(len(learned.every()))], 1)

    if not cache:
        return make()
    key = {
        "weights": fingerprint(run.model.tower(text)),
        **({} if learned is None else {"prompts": fingerprint(learned), "labels": labels}),
        "modality": {name: repr(value) for name, value in options_of(modality).items()},
        "texts": [[owner, str(sample)] for owner, sample in zip(owners, samples, strict=True)],
        "device": run.device.type,
        **({"dim": run.model.embed_dim} if run.model.is_narrow else {}),
        "torch": torch.__version__,
    }
    return cached(key, make)


@torch.no_grad()
def of_classes(run: Run, asked: Tensor, text: str) -> Tensor:
    """Queries `[B, D]` as rows whose dot product with those of `class_embeddings` by the modality `text` is the score:
    with learned prompts a part for each, `[B, P D]`."""
    if text not in run.model.prompt_of:
        return asked
    return run.model.prompts_of(text).asked(asked.to(run.device)).cpu()


def alone_and_together(names: list[str]) -> list[list[str]]:
    """Each modality alone, and all together when there are several."""
    return [[name] for name in names] + ([names] if len(names) > 1 else [])


@torch.no_grad()
def queries(run: Run, z: Embeddings, present: dict[str, Tensor], candidate: str) -> Tensor:
    """Rows `[B, D]` whose dot product with a unit row of the modality `candidate` is their score.

    `z` and `present` hold the modalities to ask with; the others count as absent. Asked with the candidate's own
    modality alone, a row is its unit embedding. Where the leading loss scores by products, each such term that joins
    the candidate with any that is asked scores by its own inputs, and the scores add up; those that no such term joins
    are left out, or, where it is all of them, score by their cosines.
    """
    if set(z) == {candidate}:
        return F.normalize(z[candidate].float(), dim=-1).cpu()
    leading = run.objective.leading
    if leading.fuses_by_product:
        parts = [loss.fuse(*_in_places(run, places, z, present)) for loss, places in _joined(run, list(z), candidate)]
        fused = torch.stack(parts).sum(0) if parts else Loss.fuse(leading, z, present)
        return fused.float().cpu()
    others = {name: name for name in run.scored() if name != candidate}
    return leading.fuse(*_in_places(run, others, z, present)).float().cpu()


def _in_places(
    run: Run, places: Mapping[str, str], z: Embeddings, present: dict[str, Tensor]
) -> tuple[Embeddings, dict[str, Tensor]]:
    """What `fuse` takes: by place the rows of the modality that stands there, absent where it is not asked."""
    first = next(iter(z.values()))
    nowhere = torch.zeros(len(first), dtype=torch.bool, device=first.device)
    full = {place: z.get(name, torch.zeros_like(first)) for place, name in places.items()}
    return full, {place: present.get(name, nowhere) for place, name in places.items()}


def _joined(run: Run, asked: list[str], candidate: str) -> Iterator[tuple[Loss, dict[str, str]]]:
    """Of the terms that score by products those that look at the candidate and at any of `asked`, each with the places
    of its other inputs and who stands there. A modality that a term does not look at takes the place of one that shares
    its tower and is not in question."""
    objective = run.objective
    for term, loss in zip(objective.terms, objective.losses, strict=True):
        if not (isinstance(loss, Loss) and loss.fuses_by_product and term.counts_at(1.0)):
            continue
        places = {name: name for name in looked_at(term, run.scored(), objective.only_negatives)}
        for name in [candidate, *asked]:
            alike = (p for p in places if run.model.tower(p) is run.model.tower(name) and places[p] == p)
            if name not in places and (place := next((p for p in alike if p not in [candidate, *asked]), None)):
                places[place] = name
        own = next((place for place, name in places.items() if name == candidate), None)
        if own is not None and {*places.values()} & {*asked} - {candidate}:
            yield loss, {place: name for place, name in places.items() if place != own}


def native_scale(run: Run, multi_label: bool = False) -> Scale:
    """The leading loss's own temperature and bias; for a loss that has none those of a head of labels' names, or the
    temperature of learned prompts; else 0.07 (where CLIP starts)."""
    temperature, bias = run.objective.leading.scale()
    text = next((name for name in run.modalities if name in run.model.prompt_of), None)
    words = next(iter(run.model.words()), None)
    if temperature is None and words is not None and (text is None or words.bias is not None):
        temperature = words.temperature(run.model.reader(words.by)[1]).item()
        bias = None if words.bias is None else words.bias.item()
    elif temperature is None and text is not None:
        prompts = run.model.prompts_of(text)
        temperature = prompts.temperature.item()
        if multi_label and prompts.negative is not None:
            return Scale("sigmoid", temperature)
    temperature = CLIP_START if temperature is None else temperature
    if bias is not None:
        return Scale("sigmoid", temperature, bias)
    return Scale("lift" if multi_label else "softmax", temperature)


def embed_items(run: Run, items: Sequence[dict[str, Any]]) -> tuple[Embeddings, dict[str, Tensor]]:
    """Embeddings and presence of items that may have different modalities each."""
    z: Embeddings = {}
    present: dict[str, Tensor] = {}
    for name in run.modalities:
        here = torch.tensor([name in item for item in items])
        if here.any():
            rows = embed(run, name, [item[name] for item in items if name in item])
            z[name], present[name] = scatter_present(rows, here), here
    device = run.device
    return {k: v.to(device) for k, v in z.items()}, {k: v.to(device) for k, v in present.items()}


@torch.no_grad()
def head_says(run: Run, z: Embeddings, present: dict[str, Tensor], by: str | None = None) -> Tensor:
    """What the head `by`, or the one that predicts, says of embedded rows, `[N, outputs]`, on the CPU."""
    z = {name: rows.to(run.device) for name, rows in z.items()}
    return run.model.predict(z, {name: here.to(run.device) for name, here in present.items()}, by).cpu()


def trained(run: Run, z: dict[str, Tensor], present: dict[str, Tensor], steps: int) -> Tensor:
    """What the run's own predictor says of the next `steps`, `[N, steps, C]`."""
    said = head_says(run, z, present)
    return said.view(len(said), steps, -1)
