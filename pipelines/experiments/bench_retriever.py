"""`clx train retriever` beside sentence-transformers: the same model, loss, rows, order and steps, in one process."""

import importlib.util
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import Tensor, nn

from clx.losses.joint import FORWARD, InfoNCE
from clx.modalities.hugging_face import hugging_face_source
from clx.modalities.pretrained import quiet
from clx.modalities.text import Text
from clx.modalities.text_encoders import HuggingFace, drop_at
from clx.pipelines.batches.columns import column_of
from clx.pipelines.batches.loader import Order, batches
from clx.pipelines.config.schema import Config
from clx.pipelines.data.manifest import Manifest
from clx.pipelines.data.splits import load_splits
from clx.pipelines.evaluation.embeddings import embed_manifest
from clx.pipelines.measures.ranking import Relevant, rank
from clx.pipelines.model.build import Run, prepare
from clx.pipelines.system.errors import BadInput
from clx.pipelines.training.rows import training_rows
from clx.pipelines.training.schedule import plan, rate_at
from clx.pipelines.training.step import Learner

Row = dict[str, Any]
NEEDED = "sentence_transformers"
WARM_UP = 2
"""First steps that are not timed."""


@dataclass
class Side:
    """What one of the two did."""

    losses: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    processor: list[float] = field(default_factory=list)
    """Processor time of each step, which another program on the machine does not change."""

    def timed(self, step: Callable[[], float]) -> None:
        """Take a step, whose loss it returns."""
        start, used = time.perf_counter(), time.process_time()
        self.losses.append(step())
        self.processor.append(time.process_time() - used)
        self.seconds.append(time.perf_counter() - start)


def bench_retriever(config: Config, steps: int, say: Callable[[str], None] = lambda line: None) -> list[Row]:
    """Train both, a step of one after a step of the other, on the same rows in the same order.

    Of sentence-transformers it is the model, the reading of texts and `MultipleNegativesRankingLoss`; its trainer needs
    further packages, so its loop is written out: AdamW, gradients clipped, the same rates. Both are without dropout,
    whose draws would differ, and without `exclude`, which the other has not.

    Returns:
        A row for each: `trainer`, `first_loss`, `last_loss`, `recall_1` and `recall_10` of the test rows (val or
        training rows where there are none), the median `step_s` and `processor_s` of a step, after the first `WARM_UP`;
        and of clx `apart`, the largest difference of the losses of a step, and `ratio`, of processor time to theirs.

    Raises:
        BadInput: where sentence-transformers is not installed, the config is no retriever, or steps are too few.
    """
    if importlib.util.find_spec(NEEDED) is None:
        raise BadInput("bench retriever compares with sentence-transformers: pip install sentence-transformers")
    if steps <= WARM_UP:
        raise BadInput(f"--steps {steps}: the first {WARM_UP} are not timed, so there have to be more")
    config = config.model_copy(
        update={
            "objective": [term.model_copy(update={"exclude": "none"}) for term in config.objective],
            "train": config.train.model_copy(update={"steps": steps, "minutes": None, "device": "cpu", "second": None}),
        }
    )
    splits = load_splits(config.data, config.train.seed)
    run = prepare(config, splits)
    asked = check(run)
    rows, _ = training_rows(run, splits["train"])
    learner = Learner(run, run.config.train, plan(run.config, len(splits["train"])).steps)
    theirs, loss, optimiser = peer(run, asked)
    for encoder in (run.model.tower(asked[0]).encoder, theirs):
        drop_at(encoder, 0.0)
    learner.model.train(), learner.objective.train(), theirs.train()
    ours, other = Side(), Side()
    order = Order(len(splits["train"]), config.train.batch_size, config.train.seed, start=0, stop=steps)
    coming = iter(batches(rows, order))
    for number in range(steps):
        seen: list[Tensor] = []

        def our_step(seen: list[Tensor] = seen) -> float:
            batch = next(coming)
            seen.append(batch.sample_id)
            return float(learner.update(batch).figures["loss"])

        ours.timed(our_step)
        texts = texts_of(run, splits["train"], asked, seen[0].tolist())

        def their_step(texts: list[list[str]] = texts, number: int = number) -> float:
            for group in optimiser.param_groups:
                group["lr"] = rate_at(number, steps, run.config.train)
            value = loss([theirs.preprocess(column) for column in texts], None)
            optimiser.zero_grad(set_to_none=True)
            value.backward()
            if run.config.train.clip is not None:
                nn.utils.clip_grad_norm_(theirs.parameters(), run.config.train.clip)
            optimiser.step()
            return float(value.item())

        other.timed(their_step)
        say(f"step {number + 1} of {steps}: loss {ours.losses[-1]:.6f}, sentence-transformers {other.losses[-1]:.6f}")
    tested = next(splits[name] for name in ("test", "val", "train") if name in splits)
    learner.model.eval(), theirs.eval()
    z = embed_manifest(run, tested).z
    columns = texts_of(run, tested, asked, list(range(len(tested))))
    encoded = [theirs.encode(column, convert_to_tensor=True, show_progress_bar=False).cpu() for column in columns]
    found = [
        row_of("clx", ours, z[asked[0]], z[asked[1]]),
        row_of("sentence-transformers", other, encoded[0], encoded[1]),
    ]
    found[0]["apart"] = max(abs(a - b) for a, b in zip(ours.losses, other.losses, strict=True))
    found[0]["ratio"] = found[0]["processor_s"] / found[1]["processor_s"]
    return found


def check(run: Run) -> list[str]:
    """The names of queries and passages. Raises `BadInput` for what the other cannot do alike."""
    asked = run.config.inputs_of(run.config.objective[0])
    loss, texts = run.objective.losses[0], [run.modalities[name] for name in asked]
    alike = (
        len(run.config.objective) == 1
        and isinstance(loss, InfoNCE)
        and not (loss.learn_temperature or loss.label_smoothing or loss.is_joint)
        and tuple(loss.directions) == FORWARD
        and not run.config.objective[0].negatives
        and len(texts) == len(run.config.modalities) == 2
        and all(isinstance(m, Text) and m.encoder.startswith("hf:") and m.views == 1 for m in texts)
        and texts[1].like == asked[0]
        and cast(Text, texts[0]).pooling == "mean"
        and cast(Text, texts[0]).head == "none"
        and run.config.data.balance is None
        and run.config.train.chunk is None
    )
    if not alike:
        raise BadInput(
            "bench retriever compares one infonce term, of its plain form, of two columns of texts through one tower "
            "hf:NAME with pooling mean and head none: begin with the recipe retriever"
        )
    return asked


def peer(run: Run, asked: list[str]) -> tuple[Any, Any, torch.optim.Optimizer]:
    """Model, loss and optimiser of the other, of the same weights."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss
    from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
    from transformers.utils import logging

    text, encoder = cast(Text, run.modalities[asked[0]]), run.model.tower(asked[0]).encoder
    assert isinstance(encoder, HuggingFace)
    source, _ = hugging_face_source(text.encoder.partition(":")[2])
    logging.disable_progress_bar()
    with quiet():
        reading = Transformer(source, max_seq_length=text.longest)
    model = SentenceTransformer(modules=[reading, Pooling(encoder.width)], device="cpu")
    settings, loss = run.config.train, run.objective.losses[0]
    assert isinstance(loss, InfoNCE)
    matrices = [p for p in model.parameters() if p.ndim >= 2]
    vectors = [p for p in model.parameters() if p.ndim < 2]
    groups = [
        {"params": matrices, "weight_decay": settings.weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    optimiser = torch.optim.AdamW(groups, lr=settings.lr, fused=True)
    return model, MultipleNegativesRankingLoss(model, scale=1 / loss.temperature), optimiser


def texts_of(run: Run, manifest: Manifest, asked: list[str], rows: list[int]) -> list[list[str]]:
    """The texts of rows as the model reads them, of queries and of passages."""
    return [
        [str(run.modalities[n].read(manifest.cell(row, str(column_of(n, run.modalities[n]))))) for row in rows]
        for n in asked
    ]


def row_of(trainer: str, side: Side, queries: Tensor, passages: Tensor) -> Row:
    """One line of the table."""
    every = torch.arange(len(queries))
    unit = [nn.functional.normalize(x.float(), dim=1) for x in (queries, passages)]
    first = rank(unit[0], unit[1], Relevant.of(every, every, len(every))).first
    return {
        "trainer": trainer,
        "first_loss": side.losses[0],
        "last_loss": side.losses[-1],
        "recall_1": float((first < 1).float().mean()),
        "recall_10": float((first < 10).float().mean()),
        "step_s": statistics.median(side.seconds[WARM_UP:]),
        "processor_s": statistics.median(side.processor[WARM_UP:]),
    }
