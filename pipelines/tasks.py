"""The tasks of an evaluation: what each asks of an embedded manifest, and its lines by input.

A task is a function of `Asked` that returns `{input: line}` as `clx.pipelines.results` describes it, or raises `Unfit`.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from clx.pipelines import forecast as forecasts
from clx.pipelines import geometry as shape
from clx.pipelines import probes
from clx.pipelines.batch import column_of
from clx.pipelines.build import Run, windowed_series
from clx.pipelines.config import BadInput, Task, nearest
from clx.pipelines.density import check_width
from clx.pipelines.embedded import Embedded, Report, contents, nobody
from clx.pipelines.intervals import Statistic, figures, means, together
from clx.pipelines.manifest import Manifest
from clx.pipelines.metrics import (
    Relevant,
    accuracies,
    best_classes,
    confusion,
    correlation,
    discounted,
    errors,
    gains_by_label,
    gains_by_target,
    rank,
    regressed,
    retrieved,
)
from clx.pipelines.recordings import FUTURE
from clx.pipelines.results import MOST_CLASSES, Settings
from clx.pipelines.zeroshot import class_embeddings, device_of, queries, text_modality

Lines = dict[str, dict[str, Any]]


class Unfit(Exception):
    """A task that these data or this model do not allow."""


@dataclass
class Learning:
    """The rows that probe, knn, svm, fewshot and regression learn from."""

    train: Embedded
    val: Embedded | None
    """Rows that choose a penalty."""


@dataclass
class Asked:
    """One evaluation in progress: what its tasks look at."""

    run: Run
    embedded: Embedded
    learn: Callable[[], Learning]
    """Embeds the training rows at the first call. Raises `Unfit` when there are none."""
    settings: Settings
    train: Manifest | None = None
    """The training rows, where there are any."""
    val: Manifest | None = None
    """Rows that choose a penalty, where there are any."""
    on_bad: Literal["fail", "skip"] = "fail"
    report: Report = nobody
    things: dict[str, Tensor] = field(default_factory=dict)
    """Numbers of contents by modality, as far as they were asked for."""

    def contents(self, name: str) -> Tensor:
        if name not in self.things:
            self.things[name] = contents(self.run, self.embedded, name)
        return self.things[name]

    def figures(self, rows: int, statistic: Statistic) -> dict[str, Any]:
        """With intervals as the settings want them."""
        return figures(rows, statistic, self.settings.resamples, self.settings.confidence, self.settings.seed)

    @cached_property
    def text(self) -> str | None:
        """The modality that reads labels, if there is one."""
        try:
            return text_modality(self.run)
        except BadInput:
            return None

    @cached_property
    def device(self) -> torch.device:
        """Where to compute on embeddings; Apple's has no float64."""
        device = device_of(self.run)
        return device if device.type == "cuda" else torch.device("cpu")

    def ask(self, group: list[str], rows: Tensor, candidate: str) -> Tensor:
        """Queries `[n, D]` of the rows at `rows` by the modalities of `group` together."""
        device = device_of(self.run)
        z = {name: self.embedded.z[name][rows].to(device) for name in group}
        present = {name: self.embedded.present[name][rows].to(device) for name in group}
        return queries(self.run, z, present, candidate)


def groups(names: list[str]) -> list[list[str]]:
    """Each modality alone, and all together when there are several."""
    return [[name] for name in names] + ([names] if len(names) > 1 else [])


def need_label(asked: Asked) -> None:
    label, manifest = asked.run.config.data.label, asked.embedded.manifest
    if not label:
        raise Unfit("needs data.label, the column with the class")
    if label not in manifest.columns:
        raise Unfit(f"{manifest.name} has no column {label!r} with the class")


def classified(asked: Asked, order: Tensor, labels: Tensor, classes: list[str]) -> dict[str, Any]:
    """Accuracies of the best classes `[n, 5]` of each row, and the confusion matrix."""
    line = asked.figures(len(labels), accuracies(order, labels, len(classes))) | {"rows": len(labels)}
    return line | ({"confusion": confusion(order[:, 0], labels, classes)} if len(classes) <= MOST_CLASSES else {})


def zeroshot(asked: Asked) -> Lines:
    """Accuracy of each modality, and of all together, against the label's words."""
    need_label(asked)
    run, embedded, text = asked.run, asked.embedded, asked.text
    if text is None:
        raise Unfit(f"needs a text modality to read the labels; this run has {', '.join(run.modalities)}")
    phrasings = phrasings_for(embedded.classes, asked.settings.phrasings)
    classes = class_embeddings(run, phrasings, asked.settings.templates)
    found = {}
    for group in groups([name for name in embedded.z if name != text]):
        here = (torch.stack([embedded.present[name] for name in group]).any(0) & (embedded.labels >= 0)).nonzero()[:, 0]
        if len(here):
            order = best_classes(asked.ask(group, here, text), classes)
            found["+".join(group)] = classified(asked, order, embedded.labels[here], embedded.classes)
    if not found:
        raise Unfit("no row has both a label and an input to classify")
    return found


def phrasings_for(classes: list[str], given: dict[str, list[str]]) -> dict[str, list[str]]:
    """Words for each class: those given under its name, or at its place where the classes are numbers from 0.

    Without any given a class is called by its name. Raises `BadInput` for a class that is left without words.
    """
    if not given:
        return {name: [name] for name in classes}
    if not set(classes) & set(given) and all(name.isdecimal() and int(name) < len(given) for name in classes):
        listed = list(given.values())
        return {name: listed[int(name)] for name in classes}
    for name in classes:
        if name not in given:
            raise BadInput(f"the labels have no words for class {name!r} of the data{nearest(name, given)}")
    return {name: given[name] for name in classes}


def retrieval(asked: Asked) -> Lines:
    """The partners of every ordered pair of modalities, and of all others together for each."""
    names = list(asked.embedded.z)
    if len(names) < 2:
        raise Unfit(f"needs two modalities, the data have {names[0]}")
    found = {}
    for candidate in names:
        for group in groups([name for name in names if name != candidate]):
            every = [asked.embedded.present[name] for name in (*group, candidate)]
            rows = torch.stack(every).all(0).nonzero()[:, 0]
            if len(rows):
                found[f"{'+'.join(group)}->{candidate}"] = _retrieve(asked, rows, group, candidate)
    if not found:
        raise Unfit("no row has two modalities")
    return found


def _retrieve(asked: Asked, rows: Tensor, group: list[str], candidate: str) -> dict[str, Any]:
    """The figures of one direction.

    Cells of equal content are one thing: it stands among the candidates once, and every partner of an equal query
    is right. So equal queries are asked once; their figures count for each of their rows.
    """
    same = torch.stack([asked.contents(name)[rows] for name in group], 1)
    query, asks = _distinct(same)
    thing, kept = _distinct(asked.contents(candidate)[rows][:, None])
    relevant = Relevant.of(query, thing, len(asks))
    answers = F.normalize(asked.embedded.z[candidate][rows[kept]], dim=-1).to(asked.device)
    ranking = rank(asked.ask(group, rows[asks], candidate).to(asked.device), answers, relevant)
    per_row = retrieved(ranking.first[query], ranking.precision[query], ranking.auc[query])
    line = asked.figures(len(rows), per_row)
    labels, targets = asked.embedded.labels[rows], asked.embedded.targets[rows]
    aimed = ~targets.isnan().any(1) if targets.shape[1] else torch.zeros(len(rows), dtype=torch.bool)
    if aimed[kept].any():
        gains, best = gains_by_target(ranking.top, query[aimed], targets[aimed], targets[kept])
    else:
        gains, best = gains_by_label(ranking.top, query, labels, labels[kept], relevant)
    graded = "target" if aimed[kept].any() else "label" if bool((labels >= 0).any()) else "pair"
    line |= asked.figures(len(gains), means({"NDCG@10": discounted(gains, best)}))
    if (known := labels >= 0).any():
        hits = labels[kept][ranking.top[query, 0]] == labels
        line |= asked.figures(int(known.sum()), means({"label@1": hits[known]}))
    return line | {"graded_by": graded, "queries": len(rows), "candidates": len(answers)}


def _distinct(values: Tensor) -> tuple[Tensor, Tensor]:
    """The number of each line of `[n, k]` among the different ones, `[n]`, and the first line of each number."""
    _, number = torch.unique(values, dim=0, return_inverse=True)
    first = torch.full((int(number.max()) + 1,), len(number)).scatter_reduce(
        0, number, torch.arange(len(number)), "amin"
    )
    return number, first


def learnable(asked: Asked) -> Iterator[tuple[list[str], str]]:
    """Groups of modalities to learn from, with their names: each alone, and together those that no label names.

    A modality that reads the label's own column gives the answer away.
    """
    names = [n for n in asked.embedded.z if column_of(n, asked.run.modalities[n]) != asked.run.config.data.label]
    others = [name for name in names if name != asked.text]
    for group in [[name] for name in names] + ([others] if len(others) > 1 else []):
        yield group, "+".join(group)


def inputs(asked: Asked, embedded: Embedded, group: list[str], wanted: Tensor) -> tuple[Tensor, Tensor]:
    """Features `[n, W]` of the rows that have every modality of a group and are `wanted`, and these rows."""
    have = [embedded.present[name] for name in group if name in embedded.present]
    if len(have) < len(group):
        return torch.zeros(0, 1), torch.zeros(0, dtype=torch.long)
    rows = (torch.stack(have).all(0) & wanted).nonzero()[:, 0]
    source = embedded.features if asked.settings.features == "encoder" else embedded.z
    return torch.cat([source[name][rows] for name in group], 1).to(asked.device), rows


@dataclass
class Known:
    """Labelled features of one group, to learn from and to ask."""

    x: Tensor
    labels: Tensor
    val: tuple[Tensor, Tensor] | None
    queries: Tensor
    asked: Tensor
    """Labels of the queries."""
    classes: list[str]


def labelled(asked: Asked) -> Iterator[tuple[str, Known]]:
    """The labelled features of every group that has some to learn from and some to ask."""
    need_label(asked)
    learning = asked.learn()
    classes = max((learning.train.classes, asked.embedded.classes), key=len)
    for group, name in learnable(asked):
        x, learned = inputs(asked, learning.train, group, learning.train.labels >= 0)
        query, here = inputs(asked, asked.embedded, group, asked.embedded.labels >= 0)
        labels = learning.train.labels[learned]
        if len(here) and len(labels.unique()) > 1:
            val = None
            if learning.val is not None:
                kept, rows = inputs(asked, learning.val, group, learning.val.labels >= 0)
                val = (kept, learning.val.labels[rows].to(asked.device)) if len(rows) else None
            yield name, Known(x, labels.to(asked.device), val, query, asked.embedded.labels[here], classes)


def _some(found: Lines, what: str) -> Lines:
    if not found:
        raise Unfit(what)
    return found


TOO_FEW = "needs labelled rows of two classes to learn from, and rows to ask with the same inputs"


def probe(asked: Asked) -> Lines:
    """A linear classifier on frozen features."""
    found = {}
    for name, known in labelled(asked):
        fitted = probes.probe(known.x, known.labels, len(known.classes), known.val, asked.settings.seed)
        order = fitted.model(known.queries).topk(min(5, len(known.classes)), dim=1).indices.cpu()
        found[name] = classified(asked, order, known.asked, known.classes) | {
            "train_rows": len(known.x),
            "features": asked.settings.features,
            "l2": fitted.penalty,
            "path": [{"l2": l2, "val_top1": value} for l2, value in fitted.path],
        }
    return _some(found, TOO_FEW)


def knn(asked: Asked) -> Lines:
    """The vote of the nearest training rows."""
    settings, found = asked.settings, {}
    for name, known in labelled(asked):
        votes = probes.neighbours(
            known.x, known.labels, known.queries, len(known.classes), settings.k, settings.weights
        )
        # the first of equal votes, as scikit-learn decides; further places of so few votes would mean nothing
        answers = torch.from_numpy(votes.cpu().numpy().argmax(1))[:, None]
        found[name] = classified(asked, answers, known.asked, known.classes) | {
            "train_rows": len(known.x),
            "features": settings.features,
            "k": min(settings.k, len(known.x)),
            "weights": settings.weights,
        }
    return _some(found, TOO_FEW)


def svm(asked: Asked) -> Lines:
    """Support vectors with an RBF kernel, by TS2Vec's protocol."""
    found = {}
    for name, known in labelled(asked):
        answers, cost, path = probes.svm(known.x, known.labels, known.queries, asked.settings.seed)
        found[name] = classified(asked, answers[:, None], known.asked, known.classes) | {
            "train_rows": len(known.x),
            "features": asked.settings.features,
            "C": cost,
            "path": [{"C": c, "cv_top1": value} for c, value in path],
        }
    return _some(found, TOO_FEW)


def fewshot(asked: Asked) -> Lines:
    """Episodes in which each class is known by a few training rows."""
    settings, found = asked.settings, {}
    for name, known in labelled(asked):
        line: dict[str, Any] = {}
        ways = min(settings.ways, len(set(known.labels.tolist()) & set(known.asked.tolist())))
        for shots in settings.shots:
            right = probes.episodes(
                known.x,
                known.labels,
                known.queries,
                known.asked,
                ways=ways,
                shots=shots,
                count=settings.episodes,
                seed=settings.seed,
            )
            if right is not None:
                line |= asked.figures(len(right), means({f"{shots}-shot": right}))
        if line:
            about = {"ways": ways, "episodes": settings.episodes, "features": settings.features}
            found[name] = line | about | {"rows": len(known.asked), "train_rows": len(known.x)}
    return _some(found, "no two classes have enough labelled training rows and a row to ask")


def regression(asked: Asked) -> Lines:
    """Errors of the trained predictor, or of a linear regressor on frozen features where there is none."""
    run, embedded = asked.run, asked.embedded
    if not run.config.data.target:
        raise Unfit("needs data.target, the columns with the numbers")
    if not embedded.target:
        raise Unfit(f"{embedded.manifest.name} has no column {run.config.data.target[0]!r} with the numbers")
    found: Lines = {}
    for place, target in enumerate(embedded.target):
        shelves = None if asked.train is None else Shelves.of(numbers(asked.train, target), asked.settings)
        for name, rows, predictions, about in (predicted if run.model.predictor is None else headed)(asked, target):
            aims = embedded.targets[rows, place]
            line = asked.figures(len(rows), regressed(predictions, aims)) | {"rows": len(rows), **about}
            groups = {} if shelves is None else {"groups": shelves.figures(asked, predictions, aims)}
            found[f"{name}->{target}"] = line | groups
    return _some(found, "no row has both a target and an input")


Prediction = tuple[str, Tensor, Tensor, dict[str, Any]]
"""The input, the rows, their predictions in the target's units, and what made these."""


def headed(asked: Asked, target: str) -> Iterator[Prediction]:
    """What the model's own predictor says of one target."""
    run, embedded = asked.run, asked.embedded
    known = ~embedded.targets[:, embedded.target.index(target)].isnan()
    rows = (torch.stack(list(embedded.present.values())).any(0) & known).nonzero()[:, 0]
    if len(rows):
        device = device_of(run)
        with torch.no_grad():
            z = {name: value[rows].to(device) for name, value in embedded.z.items()}
            present = {name: value[rows].to(device) for name, value in embedded.present.items()}
            every = run.model.predict(z, present).cpu()
        place = run.config.data.target.index(target)
        yield "+".join(embedded.z), rows, every[:, place], {"regressor": "predictor"}


def numbers(manifest: Manifest, target: str) -> Tensor:
    """A target column, NaN for none; a manifest without it has none."""
    if target not in manifest.columns:
        return torch.zeros(0)
    return torch.tensor([float("nan") if value is None else float(value) for value in manifest.column(target)])


def predicted(asked: Asked, target: str) -> Iterator[Prediction]:
    """What linear regressors on frozen features say of one target."""
    learning = asked.learn()
    kind, train, val = asked.settings.regressor, learning.train, learning.val
    if target not in train.target:
        raise Unfit(f"{train.manifest.name}, to learn from, has no column {target!r}")

    def known(embedded: Embedded, group: list[str]) -> tuple[Tensor, Tensor, Tensor]:
        values = embedded.targets[:, embedded.target.index(target)]
        x, rows = inputs(asked, embedded, group, ~values.isnan())
        return x, values[rows].to(asked.device), rows

    for group, name in learnable(asked):
        x, y, _ = known(train, group)
        query, _, rows = known(asked.embedded, group)
        if len(rows) and len(y) > 2:
            kept = None
            if val is not None and target in val.target:
                some = known(val, group)
                kept = some[:2] if len(some[1]) else None
            fitted = probes.regressor(x, y, kind, kept, asked.settings.seed)
            path = [{"penalty": penalty, "val_mae": value} for penalty, value in fitted.path]
            about = {"train_rows": len(x), "features": asked.settings.features, "regressor": kind}
            predictions = fitted.model(query)[:, 0].cpu()
            yield name, rows, predictions, about | {"penalty": fitted.penalty, "path": path}


@dataclass
class Shelves:
    """Bins of the training targets: how many training rows have a target like a given one (Yang et al. 2021)."""

    low: float
    width: float
    counts: Tensor
    settings: Settings

    @classmethod
    def of(cls, targets: Tensor, settings: Settings) -> "Shelves":
        values = targets[~targets.isnan()].double()
        if not len(values):
            return cls(0.0, 1.0, torch.zeros(1, dtype=torch.long), settings)
        low, high = values.min().item(), values.max().item()
        width = settings.bin_width or (high - low) / 50 or 1.0
        check_width(low, high, width)
        return cls(low, width, torch.bincount(_bins(values, low, width)), settings)

    def groups(self, targets: Tensor) -> dict[str, Tensor]:
        """Which of the targets `[N]` have many, a median number and few training rows in their bin."""
        place = _bins(targets.double(), self.low, self.width)
        inside = (place >= 0) & (place < len(self.counts))
        count = torch.where(inside, self.counts[place.clamp(0, len(self.counts) - 1)], 0)
        many, few = count > self.settings.many, count < self.settings.few
        return {"many": many, "median": ~many & ~few, "few": few & ~many}

    def figures(self, asked: Asked, predictions: Tensor, targets: Tensor) -> Lines:
        found = {}
        for name, here in self.groups(targets).items():
            if here.any():
                p, y = predictions[here], targets[here]
                line = asked.figures(len(y), together(errors(p, y), correlation(p, y)) if len(y) > 2 else errors(p, y))
                found[name] = {"rows": int(here.sum()), **line}
        return found


def _bins(values: Tensor, low: float, width: float) -> Tensor:
    # A value on an edge belongs above it, also where float32 puts it a hair below.
    return ((values - low) / width + 1e-4).floor().long()


HORIZONS = (24, 48, 168)


def forecast(asked: Asked) -> Lines:
    """Errors of a ridge regression from the embedding of each window's end to the values that follow it, beside
    what the same windows give without a model, and of the predictor where one was trained to forecast."""
    name, config, settings = windowed_series(asked.run.config, asked.run.modalities), asked.run.config, asked.settings
    if name is None or config.data.windows is None:
        raise Unfit("needs data.windows on a series: a forecast is made where a window ends")
    if FUTURE not in asked.embedded.manifest.columns:
        raise Unfit("needs data.windows.horizon, how many steps behind each window to look at")
    if asked.train is None or FUTURE not in asked.train.columns:
        raise Unfit("needs training windows of earlier times than those asked: set data.test to {last: 0.2}, say")
    wanted = settings.horizons or ((config.data.windows.horizon,) if config.data.windows.horizon else HORIZONS)

    def look(manifest: Manifest) -> forecasts.Ends:
        return forecasts.ends(
            asked.run, name, manifest, max(wanted), settings.features, on_bad=asked.on_bad, report=asked.report
        )

    known, val = look(asked.train), None if asked.val is None else look(asked.val)
    query = look(asked.embedded.manifest.take(asked.embedded.rows.numpy()))
    found: Lines = {}
    for horizon in wanted:
        some = query.whole(horizon)
        split = forecasts.Split.of(known, val, horizon) if len(some) else None
        if split is not None:
            found |= _forecast(asked, name, query, some, split, horizon)
        elif settings.horizons:
            which = "train on" if len(some) else "ask"
            raise Unfit(f"horizon {horizon}: there are no windows to {which} that so many steps follow")
    return _some(found, "no window is followed by as many steps as the shortest horizon")


def _forecast(
    asked: Asked, name: str, query: forecasts.Ends, some: Tensor, split: forecasts.Split, horizon: int
) -> Lines:
    """The lines of one horizon, on the windows `some`."""
    aim, blocks = query.aim(some, horizon), forecasts.blocked(query, some, horizon)
    about = {"horizon": horizon, "rows": len(some)}

    def line(said: Tensor, more: dict[str, Any]) -> dict[str, Any]:
        count, statistic = forecasts.erred(said, aim, blocks)
        resamples = asked.settings.resamples if count > 1 else 0  # one block has no spread
        found = figures(count, statistic, resamples, asked.settings.confidence, asked.settings.seed)
        return found | about | more

    def ridge(what: Callable[[forecasts.Ends], Tensor]) -> dict[str, Any]:
        fitted = split.fit(what, horizon)
        path = [{"penalty": penalty, "val_mse": value} for penalty, value in fitted.path]
        more = {"train_rows": len(split.learn), "penalty": fitted.penalty, "path": path}
        return line(fitted.model(what(query)[some]), more)

    found = {f"{name}->{horizon}": ridge(lambda ends: ends.features) | {"features": asked.settings.features}}
    ahead = asked.run.ahead
    if ahead is not None and ahead[1] >= horizon:
        here = asked.embedded.take(query.rows[some])
        said = forecasts.trained(asked.run, here.z, here.present, ahead[1])[:, :horizon]
        found[f"trained-predictor->{horizon}"] = line(said.flatten(1), {})
    found[f"ridge-on-lags->{horizon}"] = ridge(lambda ends: ends.lags.flatten(1))
    season = split.season(horizon)
    naive = forecasts.seasonal(query.lags[some], season, horizon)
    found[f"seasonal-naive->{horizon}"] = line(naive.flatten(1), {"season": season})
    return found


def geometry(asked: Asked) -> Lines:
    """The shape of each modality's rows, over distinct contents, and of every ordered pair's."""
    embedded, found = asked.embedded, {}
    tau = getattr(asked.run.objective.leading, "tau", None)
    warmth = {} if tau is None else {"temperature": tau.item() if isinstance(tau, Tensor) else float(tau)}
    unit = {name: F.normalize(value, dim=-1) for name, value in embedded.z.items()}
    seed = asked.settings.seed
    for name, z in unit.items():
        rows = embedded.present[name].nonzero()[:, 0]
        rows = rows[_distinct(asked.contents(name)[rows][:, None])[1]] if len(rows) else rows
        if len(rows) > 1:
            some = z[rows[shape.sample(len(rows), seed)]]
            line = asked.figures(len(some), shape.uniformity(some))
            line |= {"effective_rank": shape.effective_rank(z[rows])} | shape.hubness(some, some, itself=True)
            found[name] = line | warmth | {"rows": len(rows)}
    for name in unit:
        for other in unit:
            rows = (embedded.present[name] & embedded.present[other]).nonzero()[:, 0]
            if name != other and len(rows):
                found[f"{name}->{other}"] = _between(asked, unit, rows, name, other) | warmth | {"rows": len(rows)}
    return _some(found, "no two different rows")


def _between(asked: Asked, unit: dict[str, Tensor], rows: Tensor, name: str, other: str) -> dict[str, Any]:
    x, y = unit[name][rows], unit[other][rows]
    line = asked.figures(len(rows), means({"alignment": shape.alignment(x, y)}))
    line |= asked.figures(len(rows), shape.modality_gap(x, y))
    few = rows[shape.sample(len(rows), asked.settings.seed)]
    things = few[_distinct(asked.contents(other)[few][:, None])[1]]
    return line | shape.hubness(unit[name][few], unit[other][things])


RUNS: dict[Task, Callable[[Asked], Lines]] = {
    "zeroshot": zeroshot,
    "retrieval": retrieval,
    "probe": probe,
    "knn": knn,
    "svm": svm,
    "fewshot": fewshot,
    "regression": regression,
    "forecast": forecast,
    "geometry": geometry,
}
LEARNING: tuple[Task, ...] = ("probe", "knn", "svm", "fewshot", "regression")
"""Tasks that learn from training rows, or from a part of the rows where there are none."""
