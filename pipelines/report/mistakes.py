"""What a run says of the rows beside what is true: confusions, the most confident mistakes, errors of numbers."""

from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from clx.pipelines.data.manifest import Manifest
from clx.pipelines.evaluation.embeddings import queries_of
from clx.pipelines.evaluation.tasks.regression import training_targets
from clx.pipelines.measures.probes import STRENGTHS
from clx.pipelines.model.scoring import (
    alone_and_together,
    class_embeddings,
    head_says,
    native_scale,
    of_classes,
    text_modality,
)
from clx.pipelines.report.snapshot import Snapshot
from clx.pipelines.system.errors import BadInput

MISTAKES = 12
VOTERS = 10


@torch.no_grad()
def answers(snapshot: Snapshot) -> list[dict[str, Any]]:
    """How rows with a class were classified: the confusion, and the most confident mistakes.

    By words where there is a text modality beside others; by the trained head; else by the votes of the nearest
    other rows.
    """
    found = []
    for how, name, rows, chances in _classified(snapshot):
        truth = snapshot.embedded.labels[rows]
        sure, said = chances.max(1)
        counts = Counter(zip(truth.tolist(), said.tolist(), strict=True))
        wrong = torch.nonzero(said != truth)[:, 0]
        where = torch.nonzero(rows)[:, 0].tolist()
        mistakes, met = [], set()
        for k in wrong[sure[wrong].argsort(descending=True, stable=True)].tolist():
            given = [n for n in name.split("+") if snapshot.embedded.present[n][where[k]]]
            things = tuple(int(snapshot.things[n][where[k]]) for n in given)
            if things in met:
                continue
            met.add(things)
            items = [snapshot.item(where[k], n) for n in given]
            mistakes.append({"items": items, "row": where[k], "said": int(said[k]), "sure": round(float(sure[k]), 4)})
            if len(mistakes) == MISTAKES:
                break
        cells = [[a, b, n] for (a, b), n in sorted(counts.items())]
        found.append(
            {"how": how, "input": name, "rows": len(truth), "wrong": len(wrong), "cells": cells, "mistakes": mistakes}
        )
    return found


def _classified(snapshot: Snapshot) -> Iterator[tuple[str, str, Tensor, Tensor]]:
    """How, the input, which rows `[N]`, and the chance of each class `[n, C]`."""
    run, known = snapshot.run, snapshot.embedded.labels >= 0
    if not known.any():
        return
    try:
        text = text_modality(run)
    except BadInput:
        text = ""
    others = [name for name in snapshot.names if name != text]
    if text and others:
        classes = class_embeddings(run, {name: [name] for name in snapshot.embedded.classes}, text=text)
        for group in alone_and_together(others):
            rows = known & torch.stack([snapshot.embedded.present[name] for name in group]).any(0)
            if rows.any():
                scores = of_classes(run, queries_of(run, snapshot.embedded, group, rows, text), text) @ classes.T
                yield "by the words of the classes", "+".join(group), rows, native_scale(run).probabilities(scores)
    elif run.model.predictor is not None and not run.config.data.target and run.forecasts is None:
        rows = known & (snapshot.embedded.labels < len(run.model.get_buffer("target_mean")))
        rows &= run.model.predictable(snapshot.embedded.present)
        names = "+".join(name for name in snapshot.names if name in run.model.predict_from)
        if rows.any():
            yield "by the trained head", names, rows, predicted(snapshot)[rows].softmax(-1)
    else:
        for name in snapshot.names:
            rows = known & snapshot.embedded.present[name]
            if int(rows.sum()) > VOTERS:
                yield f"by the {VOTERS} nearest other rows", name, rows, _votes(snapshot, name, rows)


def _votes(snapshot: Snapshot, name: str, rows: Tensor) -> Tensor:
    """Shares of the classes among the nearest other rows, `[n, C]`."""
    x, labels = snapshot.unit[name][rows], snapshot.embedded.labels[rows]
    near = (x @ x.T).fill_diagonal_(-2).topk(VOTERS, dim=1).indices
    return F.one_hot(labels[near], len(snapshot.embedded.classes)).double().mean(1)


@torch.no_grad()
def predicted(snapshot: Snapshot) -> Tensor:
    """The trained head's outputs `[N, outputs]`, on the CPU."""
    z, present = snapshot.embedded.z, snapshot.embedded.present
    return head_says(snapshot.run, {n: z[n] for n in snapshot.names}, {n: present[n] for n in snapshot.names})


def regression(snapshot: Snapshot, train: Manifest | None) -> dict[str, Any] | None:
    """Predicted against true values, the error by region of the target, and how many training rows each has; nothing
    where no row has both a target and what the head looks at."""
    known, column = snapshot.targets.isfinite(), snapshot.embedded.target[0]
    if snapshot.run.model.predictor is not None:
        known &= snapshot.run.model.predictable(snapshot.embedded.present)
    if not known.any():
        return None
    place = snapshot.run.config.data.target.index(column)
    truth = snapshot.targets[known].numpy()
    if snapshot.run.model.predictor is not None:
        how, said = "by the trained head", predicted(snapshot)[known, place].double().numpy()
    else:
        how, said = (
            "by ridge regression on the embeddings, each tenth from the nine others",
            _ridge(snapshot, known, truth),
        )
    taught = truth[:0] if train is None else training_targets(train, column)
    taught = taught[np.isfinite(taught)]
    both = np.concatenate([truth, taught])
    edges = np.linspace(both.min(), both.max(), 21)
    region = np.clip(np.searchsorted(edges, truth, side="right") - 1, 0, 19)
    error = np.abs(said - truth)
    size = np.bincount(region, minlength=20)
    mean = np.bincount(region, weights=error, minlength=20) / np.maximum(size, 1)
    rows = np.flatnonzero(known.numpy())
    worst = np.argsort(-error, kind="stable")[:MISTAKES].tolist()
    some = np.random.default_rng(0).permutation(len(truth))[:1500].tolist()
    for i in [int(rows[k]) for k in {*worst, *some}]:
        snapshot.note(i)
    return {
        "how": how,
        "mae": float(error.mean()),
        "edges": edges.tolist(),
        "error": [float(m) if n else None for m, n in zip(mean, size, strict=True)],
        "rows": size.tolist(),
        "train": np.histogram(taught, edges)[0].tolist() if len(taught) else None,
        "points": [[int(rows[k]), float(said[k])] for k in some],
        "worst": [
            {
                "items": [
                    snapshot.item(int(rows[k]), n) for n in snapshot.names if snapshot.embedded.present[n][int(rows[k])]
                ],
                "row": int(rows[k]),
                "said": float(said[k]),
            }
            for k in worst
        ],
    }


def _ridge(snapshot: Snapshot, known: Tensor, truth: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Predictions `[n]` for rows by a regressor that did not see them: 10 folds, the penalty by leave-one-out."""
    from sklearn.linear_model import RidgeCV
    from sklearn.model_selection import cross_val_predict

    x = torch.cat([snapshot.unit[name][known] for name in snapshot.names], 1).double().numpy()
    folds = min(10, len(x))
    if folds < 2:
        return np.full_like(truth, truth.mean())
    return cross_val_predict(RidgeCV(STRENGTHS), x, truth, cv=folds)  # type: ignore[no-any-return]
