"""Labels' names as the weights of a head: what it tells apart are these texts, as a text tower reads them."""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from clx.losses.primitives.autograd import at_least_float32
from clx.losses.primitives.functional import held_between
from clx.losses.written_prompts import gate_as_written, prompts_as_written
from clx.modalities.base import Input
from clx.modalities.text import Text
from clx.modalities.text_context import Context
from clx.pipelines.config import words_schema
from clx.pipelines.model.prompts import Prompts, own_temperature
from clx.pipelines.model.tower import Tower

SIGMOID = 0.1
"""Temperature of labels that each are a question of their own: where SigLIP begins."""
LIMITS = 0.01, 10.0
"""Of a learned temperature, as of losses."""
AT_ONCE = 256
"""Texts that are encoded at a time where no gradient is wanted."""


class Words(nn.Module):
    """A head without a weight for each label: what it predicts of a row is the cosine with each label's name by the
    column `by`, over a temperature, with a bias where each label is a question of its own.

    A column with learned prompts scores by these, at their temperature. Tower and prompts are given at each call. A
    name is read in every template of the column, and is the mean of its unit rows; in training in one that is drawn.
    """

    def __init__(
        self,
        settings: words_schema.Words,
        modality: Text,
        classes: Sequence[str],
        absolute: bool = False,
        load: bool = True,
    ) -> None:
        super().__init__()
        self.by, self.out_features, self.templates = settings.of, len(classes), len(modality.templates)
        value = modality.collate([each for name in classes for each in modality.prompts(name)])
        self.keys = list(value)
        for key, part in value.items():
            self.register_buffer(f"names_{key}", part, persistent=False)
        prompted = modality.learned is not None
        biased = absolute and not (modality.learned is not None and modality.learned.get("negative"))
        self.given = {"log_temperature": settings.temperature, "bias": settings.bias}
        """What the config says of its parameters, which another run's do not replace."""
        self.log_temperature: nn.Parameter | None = None
        if not prompted:
            usual = SIGMOID if biased else own_temperature(modality, load)
            begin = torch.tensor([math.log(settings.temperature or usual)])
            learned = biased if settings.learn_temperature is None else settings.learn_temperature
            self.log_temperature = nn.Parameter(begin, requires_grad=learned)
        start = -math.log(max(1, len(classes) - 1)) if settings.bias is None else settings.bias
        self.bias = nn.Parameter(torch.tensor([start])) if biased else None
        self.known: tuple[Any, Tensor] | None = None
        """In use, what the rows were computed from, and the rows."""
        self.encoded: tuple[Any, Tensor] | None = None
        """Of a frozen encoder, what it makes of the names, and of what state it was."""
        self.written: tuple[Any, Tensor] | None = None
        """The rows by the words that prompts began with, and what they were computed from."""
        self.now: tuple[Tensor, Tensor | None] | None = None
        """In training the rows of the last call, and of which labels, where more than its scores is made of them."""
        self.silent = False
        """Whether another process gives the gradient of the rows: all that train together have the whole of it."""
        self.split = False
        """Whether processes share the tower's weights out: where these lie then does not say whether they changed."""
        self.cut: Callable[[Tensor], Tensor] | None = None
        """Called with the rows in training, gives what stands for them: a split tower takes their gradient later."""

    @torch.no_grad()
    def begin(self, temperature: float | None, bias: float | None) -> None:
        """Take over what another run's scores are divided by, where none is given; where a bias is learned of a run
        that has one alone, and that, too."""
        if temperature is None or self.given["log_temperature"] is not None or self.log_temperature is None:
            return
        if self.bias is not None:
            if bias is None:
                return
            if self.given["bias"] is None:
                self.bias.fill_(bias)
        self.log_temperature.fill_(math.log(temperature))

    def temperature(self, prompts: Prompts | None) -> Tensor:
        """What scores are divided by, `[]`."""
        if self.log_temperature is None:
            assert prompts is not None
            return prompts.temperature
        if not self.log_temperature.requires_grad:  # a given one may be beyond the limits
            return self.log_temperature.exp().squeeze()
        return held_between(self.log_temperature, *LIMITS)

    def learned(self) -> dict[str, Tensor]:
        """Scalars `[]` that it learns beside the tower, by name; detached."""
        found = {} if self.log_temperature is None else {"temperature": (self.log_temperature, self.temperature(None))}
        found |= {} if self.bias is None else {"bias": (self.bias, self.bias.squeeze())}
        return {name: value.detach() for name, (learns, value) in found.items() if learns.requires_grad}

    def names(self, places: Tensor) -> Input:
        """Some of the names as a batch; each has a place for each template."""
        return {key: self.get_buffer(f"names_{key}")[places] for key in self.keys}

    def train(self, mode: bool = True) -> "Words":
        self.known = None
        super().train(mode)
        return self

    def rows(
        self,
        tower: Tower,
        prompts: Prompts | None,
        labels: Tensor | None = None,
        draws: torch.Generator | None = None,
    ) -> Tensor:
        """Unit rows of the labels by each of the P prompts, side by side, `[C, P D]`, P being 1 where none is learned;
        outside of training computed once for the same weights.

        Args:
            tower, prompts: those of the column.
            labels: `[C]`, which ones; all when None.
            draws: of templates and dropout, the same on all processes that train together; not looked at outside of
                training.
        """
        if torch.is_grad_enabled() or self.training:
            rows = self._rows(tower, prompts, labels, draws if self.training else None)
            if self.cut is not None and rows.requires_grad:
                rows = self.cut(rows)
            if self.silent and rows.requires_grad:
                rows.register_hook(torch.zeros_like)
            return rows
        now = [] if self.split else state_of(tower, prompts)  # `train` forgets them
        if self.known is None or self.known[0] != now:
            self.known = now, self._rows(tower, prompts)
        return self.known[1] if labels is None else self.known[1][labels]

    def _rows(
        self,
        tower: Tower,
        prompts: Prompts | None,
        labels: Tensor | None = None,
        draws: torch.Generator | None = None,
    ) -> Tensor:
        device = self.get_buffer("names_x").device
        labels = torch.arange(self.out_features, device=device) if labels is None else labels
        templates = torch.arange(self.templates)[None].expand(len(labels), -1)
        if draws is not None and self.templates > 1:
            where = draws.device
            templates = torch.randint(self.templates, (len(labels), 1), generator=draws, device=where)
        places = labels[:, None] * self.templates + templates.to(device)  # [C, t]
        with nullcontext() if draws is None else drawn_from(draws, device):
            if prompts is None and tower.locked:
                return means(tower.head(self.features_of(tower)[places.flatten()]), len(labels))
            if prompts is None or prompts.labels is None:
                return self._by(tower, prompts, prompts.every() if prompts is not None else [], places)
            # each label has vectors of its own
            parts = zip(labels.tolist(), places.split(1), strict=True)
            return torch.cat([self._by(tower, prompts, prompts.every(c), each) for c, each in parts])

    def _by(self, tower: Tower, prompts: Prompts | None, contexts: Sequence[Context], places: Tensor) -> Tensor:
        by: list[list[Context]] = [[]] if prompts is None else [[context] for context in contexts]
        parts = [places] if torch.is_grad_enabled() else list(places.split(AT_ONCE))
        every = [[self._read(tower, each, part) for each in by] for part in parts]
        return torch.cat([torch.cat(rows, 1) for rows in every])

    def _read(self, tower: Tower, contexts: Sequence[Context], places: Tensor) -> Tensor:
        value = self.names(places.flatten())
        return means(tower.head(tower.features(value, 0, contexts)), len(places))

    def features_of(self, tower: Tower) -> Tensor:
        """What a frozen encoder gives the head of every name, `[C T, width]`, T templates side by side: computed once,
        and again where its weights are others."""
        x = self.get_buffer("names_x")
        now = ([] if self.split else state_of(tower.encoder), x.device, torch.is_autocast_enabled(x.device.type))
        if self.encoded is None or self.encoded[0] != now:
            with torch.no_grad():
                places = torch.arange(len(x), device=x.device).split(AT_ONCE)
                self.encoded = now, torch.cat([tower.features(self.names(part)) for part in places])
        return self.encoded[1]

    def forward(
        self,
        z: Tensor,
        tower: Tower,
        prompts: Prompts | None,
        labels: Tensor | None = None,
        draws: torch.Generator | None = None,
    ) -> Tensor:
        """`[B, C]` of embeddings `[B, D]`; of some labels as `rows` has them."""
        rows = self.rows(tower, prompts, labels, draws)
        self.now = (rows, labels) if prompts is not None and (prompts.drawn or prompts.gate) else None
        return scores(z, rows, prompts, self.temperature(prompts), self.bias)

    def beside(self, z: Tensor, labels: Tensor, tower: Tower, prompts: Prompts | None) -> Tensor | None:
        """What learned prompts are to have besides the scores of the last call, `[]`: the terms of `prompt.written` and
        `prompt.gate`, by their weights. `labels` `[B]` are those of the rows `z` `[B, D]`, -1 where there is none."""
        now, self.now = self.now, None
        if now is None or prompts is None:
            return None
        rows, some = now
        each = rows.unflatten(1, (-1, z.shape[1]))[:, : prompts.count]
        as_written = self.rows_as_written(tower, prompts)
        found = rows.new_zeros(())
        if prompts.drawn:
            found = found + prompts.drawn * prompts_as_written(each, as_written if some is None else as_written[some])
        known = labels >= 0
        gates = prompts.gates(at_least_float32(z[known]))
        if prompts.gate and gates is not None and prompts.top is not None and len(gates):
            q = normalize(at_least_float32(z[known].detach()), dim=1)
            near = torch.einsum("bd,bkd->bk", q, as_written[labels[known]])
            found = found + prompts.gate * gate_as_written(gates, near, prompts.top)
        return found

    @torch.no_grad()
    def rows_as_written(self, tower: Tower, prompts: Prompts) -> Tensor:
        """Unit rows of the labels by the words that each prompt began with, `[C, count, D]`, computed once for the same
        weights of the tower."""
        now = state_of(tower)
        if self.written is None or self.written[0] != now:
            places = torch.arange(self.out_features * self.templates, device=self.get_buffer("names_x").device)
            training = tower.training
            tower.eval()  # no dropout: what is drawn to is the same at each step
            try:
                contexts = prompts.as_written(tower.encoder.embedding)
                rows = self._by(tower, prompts, contexts, places.unflatten(0, (-1, self.templates)))
            finally:
                tower.train(training)
            self.written = now, rows.unflatten(1, (prompts.count, -1))
        return self.written[1]

    def known_rows(self, tower: Tower, prompts: Prompts | None) -> "KnownWords":
        """This head with the rows of the names as they are now."""
        bias = None if self.bias is None else self.bias.detach()
        return KnownWords(prompts, self.rows(tower, prompts).detach(), self.temperature(prompts).detach(), bias)


class KnownWords(nn.Module):
    """What a head of labels' names predicts `[B, C]` of embeddings `[B, D]`, with the rows of the names as they are."""

    def __init__(self, prompts: Prompts | None, rows: Tensor, temperature: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        self.prompts = prompts
        for name, value in (("rows", rows), ("temperature", temperature), ("bias", bias)):
            self.register_buffer(name, value)

    def forward(self, z: Tensor) -> Tensor:
        rows, temperature = self.get_buffer("rows"), self.get_buffer("temperature")
        return scores(z, rows, self.prompts, temperature, self.bias)  # type: ignore[arg-type]


def scores(z: Tensor, rows: Tensor, prompts: Prompts | None, temperature: Tensor, bias: Tensor | None) -> Tensor:
    """`[B, C]` of embeddings `[B, D]` for labels of unit rows `[C, P D]`: q.t / temperature + bias, in float32."""
    on = torch.is_autocast_enabled(z.device.type)
    with torch.autocast(z.device.type, enabled=False) if on else nullcontext():
        q = normalize(at_least_float32(z), dim=1)
        asked = q if prompts is None else prompts.asked(q)
        found: Tensor = asked @ rows.T / temperature
        return found if bias is None else found + bias


def means(rows: Tensor, labels: int) -> Tensor:
    """Unit rows `[labels, D]`, each the mean of the unit rows of its texts, which stand side by side in `rows`."""
    unit = normalize(at_least_float32(rows), dim=1)
    return unit if len(unit) == labels else normalize(unit.unflatten(0, (labels, -1)).mean(1), dim=1)


def state_of(*parts: nn.Module | None) -> list[tuple[int, int]]:
    """Where the weights of these are, and how often they were changed in place."""
    return [(p.data_ptr(), p._version) for part in parts if part is not None for p in part.parameters()]


@contextmanager
def drawn_from(draws: torch.Generator, device: torch.device) -> Iterator[None]:
    """Dropout is drawn from these draws, and torch's own streams are as they were."""
    seed = int(torch.randint(2**62, (), generator=draws, device=draws.device))
    cuda = device.type == "cuda"
    with torch.random.fork_rng([device] if cuda else []):
        torch.default_generator.manual_seed(seed)
        if cuda:
            torch.cuda.manual_seed(seed)
        yield
