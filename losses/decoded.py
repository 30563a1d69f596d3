"""Losses with decoders: small networks that say from an embedding what the encoder was given."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated

import torch
from annotated_types import Ge, Gt
from torch import Tensor, nn
from torch.nn import functional

from clx.losses.base import Embeddings, Loss, register
from clx.losses.primitives.draws import normal
from clx.losses.primitives.edits import off_absent_items
from clx.losses.primitives.functional import softplus, unit
from clx.losses.primitives.masks import mean_where
from clx.losses.primitives.streaming import gram
from clx.losses.token_network import TokenNetwork, lengths_of, log_losses, tokens_in
from clx.losses.unused import refuse_unused

LOG_SCALES = (-6.0, 6.0)
"""Between which the log scale of a code is held."""


def latent_terms(
    mean: Tensor, log_scale: Tensor, eps: Tensor, temperature: float, there: Tensor | None, by_width: bool = False
) -> Tensor:
    """cMIM's terms of a code z = mean + exp(log_scale) eps, -(k + (log q(z|x) + log p(z)) / 2), `[B]` in nats.

    k_i = 1/t - log( e^(1/t) + 1/(n-1) sum_{j != i} e^(cos(z_i, z_j) / t) )
    q is the diagonal normal of the code, p the standard normal.

    Args:
        mean, log_scale, eps: `[B, D]`; scales below e^-6 and above e^6 count as these.
        there: `[B]`, which rows there are, n of them; k of a single one is 0, and of all without `there`. Terms of rows
            that are not there say nothing.
        by_width: divide log q and log p by D.

    Reference:
        Livne 2024, arXiv 2411.10548; Livne 2025, arXiv 2509.21511.
    """
    log_scale = log_scale.clamp(*LOG_SCALES)
    z = mean + log_scale.exp() * eps
    constant = math.log(2 * math.pi)
    log_q = -0.5 * (eps.square() + constant).sum(1) - log_scale.sum(1)
    log_p = -0.5 * (z.square() + constant).sum(1)
    codes = -(log_q + log_p) / (2 * z.shape[1] if by_width else 2)
    if there is None:
        return codes
    others = gram(unit(z), temperature, off_absent_items(len(z), there))[0]
    return codes + softplus(others - (there.sum() - 1).clamp(min=1).log() - 1 / temperature)


@dataclass(eq=False, kw_only=True)
class Decoding(Loss):
    """A loss with a decoder for each modality, of as many hidden `layers` as asked, each `hidden` wide.

    Numbers are said by a perceptron, all at once; tokens of texts one after the other by a small transformer, which
    knows those before. Decoders belong to the loss, and are left out of what is exported. Embeddings of the width that
    `dims` asks for are filled up with zeros.
    """

    family = "decoders"
    fits = ("one modality", "several modalities")

    host_reads = 3  # one of each name that has tokens

    hidden: Annotated[int, Ge(1)] = 256
    layers: Annotated[int, Ge(0)] = 1

    def setup(self, names: Sequence[str], dim: int, classes: Sequence[str] = (), rows: int = 0) -> None:
        self.dim = dim

    def setup_decoders(self, widths: Mapping[str, int], tokens: Mapping[str, int] | None = None) -> None:
        self.names, decoders = list(widths), list[nn.Module]()
        for name, width in widths.items():
            if tokens and name in tokens:
                size = tokens[name]
                decoders.append(
                    TokenNetwork(size, width + 1, self.hidden, max(1, self.layers), size, self.dim, causal=True)
                )
                continue
            sizes = [self.dim, *[self.hidden] * self.layers]
            parts = [part for a, b in zip(sizes, sizes[1:], strict=False) for part in (nn.Linear(a, b), nn.GELU())]
            decoders.append(nn.Sequential(*parts, nn.Linear(sizes[-1], width)))
        self.decoders = nn.ModuleList(decoders)

    def decoder(self, name: str) -> nn.Module:
        """That of a view of a modality."""
        if not hasattr(self, "names"):
            raise ValueError(
                "this loss has decoders: call setup(names, dim) and setup_decoders(widths) before training"
            )
        return self.decoders[self.names.index(name.partition("/")[0])]

    def errors(self, name: str, z: Tensor, original: Tensor) -> tuple[Tensor, Tensor, bool]:
        """Of each code `[B, D]` how far what is decoded lies from the known numbers of `original` `[B, P]`, which is
        NaN elsewhere, and how many these are, `[B]` each; and whether they are tokens.

        Of numbers the sum of squared errors, of tokens that of minus the log probabilities.
        """
        decoder = self.decoder(name)
        if not isinstance(decoder, TokenNetwork):
            return (*squares(decoder(self.filled(z)), original), False)
        x, there = tokens_in(original, None)
        length = lengths_of([there])[0]
        x, there = x[:, :length], there[:, :length]
        each = log_losses(decoder(x, there, self.filled(z)), x)
        return torch.where(there, each, 0).sum(1), there.sum(1), True

    def filled(self, z: Tensor) -> Tensor:
        """Rows `[B, D]` of as many columns as there were at `setup`."""
        return functional.pad(z, (0, self.dim - z.shape[1]))


def rows_there(name: str, z: Embeddings, present: dict[str, Tensor] | None) -> tuple[Tensor, Tensor]:
    """The rows `[B, D]` of a name, zeros where there are none, and where there are, `[B]`."""
    rows = z[name]
    there = rows.new_ones(len(rows), dtype=torch.bool) if present is None else present[name]
    return torch.where(there[:, None], rows, 0), there


def mean_of_names(terms: list[Tensor], counted: list[Tensor]) -> Tensor:
    """The mean `[]` of the terms `[]` of those names that any row had; 0 if none."""
    return torch.stack(terms).sum() / torch.stack(counted).sum().clamp(min=1)


def squares(decoded: Tensor, original: Tensor) -> tuple[Tensor, Tensor]:
    """The sum of squared errors of each row over its known numbers, `[B]`, and how many these are, `[B]`.

    `original` `[B, P]` is NaN where a number is not known.
    """
    known = ~original.isnan()
    errors = torch.where(known, decoded - original.nan_to_num().to(decoded.dtype), 0)
    return errors.square().sum(1), known.sum(1)


@register("reconstruct")
@dataclass(eq=False, kw_only=True)
class Reconstruct(Decoding):
    """Squared error of the numbers that a decoder says from the embedding, averaged over all names: an auto-encoder;
    of tokens of texts the cross-entropy of each, given the embedding and the tokens before it.

    With `other_view` they are those of the row's other views: what is random in both of them is then not learned.

    Example:
        >>> _ = torch.manual_seed(0)
        >>> loss = Reconstruct(layers=0)
        >>> loss.setup(["table"], 2)
        >>> loss.setup_decoders({"table": 3})
        >>> _ = [p.data.zero_() for p in loss.parameters()]  # so that it says 0
        >>> given = {"table": torch.tensor([[1, 2, torch.nan], [0, 1, 1]])}
        >>> round(loss({"table": torch.randn(2, 2)}, originals=given).item(), 3)
        1.583
    """

    paper = (
        "Hinton and Salakhutdinov 2006, 10.1126/science.1127647; Vincent et al. 2008, 10.1145/1390156.1390294 (noise)"
    )
    formula = "mean_i mean_p (d(z_i)_p - x_ip)^2"
    cost = "time O(V B (D + P) hidden), memory O(V B (hidden + P)) for P numbers a row"
    use = "beside a contrast of views, so that what these do not share is kept; alone as a baseline"

    other_view: bool = False

    def forward(
        self,
        z: Embeddings,
        *,
        originals: Embeddings,
        present: dict[str, Tensor] | None = None,
        weights: Tensor | None = None,
    ) -> Tensor:
        terms, counted = [], []
        for name in z:
            kind = name.partition("/")[0]
            others = [other for other in z if other != name and other.partition("/")[0] == kind]
            rows, there = rows_there(name, z, present)
            for other in others if self.other_view and others else [name]:
                total, count, _ = self.errors(name, rows, originals[other])
                known = there & (count > 0)
                terms.append(mean_where(known, total / count.clamp(min=1), weights))
                counted.append(known.any())
        return mean_of_names(terms, counted)


@register("cmim")
@dataclass(eq=False, kw_only=True)
class CMIM(Decoding):
    """Contrastive mutual information machine: a code around each embedding from which a decoder says what was there,
    pushed apart from those of other rows; averaged over all names. No views are needed.

    The embedding is the mean of the code; its scale is said from the embedding by a layer of the loss. Without
    `contrast` it is MIM.

    Example:
        >>> _ = torch.manual_seed(0)
        >>> loss = CMIM(layers=0)
        >>> loss.setup(["table"], 2)
        >>> loss.setup_decoders({"table": 3})
        >>> draw = torch.Generator().manual_seed(0)
        >>> loss({"table": torch.eye(2)}, originals={"table": torch.zeros(2, 3)}, generator=draw).item() > 0
        True
    """

    paper = "Livne 2024, arXiv 2411.10548; Livne 2025, arXiv 2509.21511"
    sharpness = "1 / contrast_temperature"
    formula = (
        "mean_i [-log p(x_i|z_i) - (log q(z_i|x_i) + log p(z_i))/2 - k_i]; "
        "k_i = 1/t - log(e^(1/t) + mean_{j != i} e^(cos(z_i, z_j)/t)), p(x|z) normal around d(z), of texts d(z)"
    )
    cost = "time O(V B (B D + (D + P) hidden)), memory O(V B (D + hidden + P)) for P numbers a row"
    use = "inputs of which no views can be made; small batches, as negatives count by their mean"
    ours = (
        "the log scale of the code is a linear layer on the embedding, which is the mean; p(x|z) is normal with one "
        "`deviation`; scales above e^6 count as that; the features of the decoder's hidden layer are not given out"
    )

    contrast: bool = True
    contrast_temperature: Annotated[float, Gt(0)] = 0.1
    by_width: bool = False
    deviation: Annotated[float, Gt(0)] = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        refuse_unused(self, "contrast: false", {"contrast_temperature": self.contrast})

    def setup(self, names: Sequence[str], dim: int, classes: Sequence[str] = (), rows: int = 0) -> None:
        super().setup(names, dim, classes, rows)
        self.log_scale = nn.Linear(dim, dim)

    def forward(
        self,
        z: Embeddings,
        *,
        originals: Embeddings,
        generator: torch.Generator | None = None,
        present: dict[str, Tensor] | None = None,
        weights: Tensor | None = None,
    ) -> Tensor:
        terms, counted, tau = [], [], self.contrast_temperature
        first = next(iter(z.values()))
        eps = normal((len(first), first.shape[1]), first, generator)  # of all names, so that none depends on others
        for name in z:
            mean, there = rows_there(name, z, present)
            log_scale = self.log_scale(self.filled(mean))[:, : mean.shape[1]]
            latent = latent_terms(mean, log_scale, eps, tau, there if self.contrast else None, self.by_width)
            code = mean + log_scale.clamp(*LOG_SCALES).exp() * eps
            total, count, tokens = self.errors(name, code, originals[name])
            constant = math.log(self.deviation) + 0.5 * math.log(2 * math.pi)
            said = total if tokens else total / (2 * self.deviation**2) + count * constant
            terms.append(mean_where(there, latent + said, weights))
            counted.append(there.any())
        return mean_of_names(terms, counted)
