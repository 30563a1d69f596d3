"""Encoders of tables: one embedding per cell, then a perceptron over all of them or attention between them."""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from clx.modalities.base import Encoder

Numeric = Literal["piecewise", "periodic", "linear"]


class Cells(nn.Module):
    """Rows `[N, 2 K + C]` (numbers, missing flags, category numbers) -> embeddings `[N, K + C, d]`.

    A missing number has an embedding of its own; so has, for each categorical column, a missing and an unknown
    category, which start at zero, so that what training never showed has no effect.
    """

    starts: Tensor

    def __init__(
        self, edges: Sequence[Sequence[float]], sizes: Sequence[int], d: int, numeric: Numeric, frequency: float
    ) -> None:
        """
        Args:
            edges: for each numeric column, increasing edges of the pieces, at least two.
            sizes: for each categorical column, how many categories, missing and unknown among them.
            frequency: deviation of the first frequencies of `periodic`.
        """
        import rtdl_num_embeddings as rtdl

        super().__init__()
        self.count = len(edges)
        if edges and numeric == "piecewise":
            with torch.device("cpu"):  # the edges are looked at, which a meta device cannot
                bins = [torch.tensor(row, dtype=torch.float32) for row in edges]
                self.numbers = rtdl.PiecewiseLinearEmbeddings(bins, d, activation=False, version="B")
        elif edges and numeric == "periodic":
            self.numbers = rtdl.PeriodicEmbeddings(
                len(edges), d, frequency_init_scale=frequency, activation=True, lite=False
            )
        elif edges:
            self.numbers = rtdl.LinearEmbeddings(len(edges), d)
        if edges:
            self.missing = nn.Parameter(torch.zeros(len(edges), d))
        if sizes:
            self.categories = nn.Embedding(sum(sizes), d)
            starts = [sum(sizes[:i]) for i in range(len(sizes))]
            self.register_buffer("starts", torch.tensor(starts), persistent=False)
            with torch.no_grad():
                nn.init.normal_(self.categories.weight, std=d**-0.5)
                for start in starts:
                    self.categories.weight[start : start + 2] = 0

    def forward(self, x: Tensor) -> Tensor:
        """One embedding for each cell of each row."""
        k, cells = self.count, []
        if k:
            missing = x[:, k : 2 * k, None] > 0
            cells.append(torch.where(missing, self.missing, self.numbers(x[:, :k])))
        if x.shape[1] > 2 * k:
            cells.append(self.categories(x[:, 2 * k :].long() + self.starts))
        return torch.cat(cells, 1)


class TableMLP(Encoder):
    """The embeddings of a row side by side, through a perceptron: rows `[N, 2 K + C]` -> `[N, width]`."""

    def __init__(self, cells: Cells, inputs: int, width: int, layers: int, dropout: float) -> None:
        """`inputs`: cells of a row times the width of their embeddings."""
        super().__init__()
        self.width = width
        self.cells = cells
        self.layers = nn.ModuleList(
            nn.Sequential(nn.Linear(width if i else inputs, width), nn.ReLU(), nn.Dropout(dropout))
            for i in range(layers)
        )

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Rows `[N, 2 K + C]` -> `[N, width]`."""
        features: Tensor = self.cells(x).flatten(1)
        for layer in self.layers:
            features = layer(features)
        return features

    def blocks(self) -> list[nn.Module]:
        """The embeddings, each layer."""
        return [self.cells, *self.layers]


class FTTransformer(Encoder):
    """FT-Transformer (Gorishniy et al., 2021): attention between the cells and a token whose features are the row's.

    Rows `[N, 2 K + C]` -> `[N, width]`.
    """

    def __init__(self, cells: Cells, width: int, layers: int, dropout: float) -> None:
        from rtdl_revisiting_models import FTTransformerBackbone

        super().__init__()
        self.width = width
        self.cells = cells
        self.token = nn.Embedding(1, width)
        self.backbone = FTTransformerBackbone(
            d_out=width,
            n_blocks=layers,
            d_block=width,
            attention_n_heads=width // 16,
            attention_dropout=dropout,
            ffn_d_hidden_multiplier=4 / 3,
            ffn_dropout=dropout,
            residual_dropout=0.0,
        )

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Rows `[N, 2 K + C]` -> `[N, width]`."""
        token = self.token.weight.expand(x.shape[0], 1, -1)
        features: Tensor = self.backbone(torch.cat([token, self.cells(x)], 1))
        return features

    def blocks(self) -> list[nn.Module]:
        """The embeddings, each block of attention, the layer after them."""
        return [nn.ModuleList([self.cells, self.token]), *self.backbone.blocks, self.backbone.output]
