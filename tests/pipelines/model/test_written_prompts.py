"""Learned prompts, and their router, drawn to the words that they began with: loops, training, and what is refused."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from clx.losses.written_prompts import gate_as_written, prompts_as_written
from clx.modalities.text import Text
from clx.pipelines.config.heads import Head
from clx.pipelines.config.schema import Config
from clx.pipelines.config.words_schema import Words as By
from clx.pipelines.experiments.train import train
from clx.pipelines.model.towers import Embedder
from clx.pipelines.model.words import Words
from clx.pipelines.runs import checkpoint
from clx.pipelines.system.errors import BadInput
from clx.pipelines.system.progress import Progress
from configs import with_prompt

NAMES = ("one", "two", "three")
PROMPT = {"tokens": 4, "count": 3, "router": 2, "start": ["ab", "c d ", "efg"]}


def unit_rows(*shape: int) -> Tensor:
    return normalize(torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(2)), dim=-1)


def test_prompts_as_written_is_the_loops() -> None:
    rows = unit_rows(10, 3, 4)
    u, v = rows[:5], rows[5:]
    total = torch.zeros((), dtype=torch.float64)
    for c in range(5):
        for k in range(3):
            cosines = [u[c, k] @ v[e, k] for e in range(5)]
            total = total - torch.log(cosines[c].exp() / sum(each.exp() for each in cosines))
    torch.testing.assert_close(prompts_as_written(u, v), total / 15)


def test_gate_as_written_is_the_loops() -> None:
    near, gates = torch.tensor([[0.1, 0.5, 0.4], [0.3, -0.2, 0.0]]).double(), unit_rows(2, 3)
    total = torch.zeros((), dtype=torch.float64)
    for b, best in enumerate(([1, 2], [0, 2])):
        raised = [near[b, k] + (10 if k in best else 0) for k in range(3)]
        wanted = [each.exp() / sum(r.exp() for r in raised) for each in raised]
        total = total - sum(w * gates[b].log_softmax(0)[k] for k, w in enumerate(wanted))
    torch.testing.assert_close(gate_as_written(gates, near, 2), total / 2)


def test_the_head_adds_both_terms_by_their_weights() -> None:
    """Of rows with a label, from rows by the words alone: shorter than the prompt, and not moved with it."""
    text = Text(width=32, layers=1, freeze=True, head="none", prompt=PROMPT | {"written": 5.0, "gate": 0.5})  # type: ignore[arg-type]
    torch.manual_seed(1)
    model = Embedder({"text": text}, 32, 3, [Head(("text",), "gated", By(of="text"))], classes=NAMES).double()
    prompts, head, tower = model.prompts_of("text"), model.head("text"), model.tower("text")
    assert isinstance(head, Words)
    with torch.no_grad():
        prompts.rows.add_(0.3 * torch.randn_like(prompts.rows))
    z, labels = 3 * unit_rows(4, 32), torch.tensor([2, -1, 0, 1])
    head(z, tower, prompts)
    found = head.beside(z, labels, tower, prompts)
    assert found is not None
    assert head.beside(z, labels, tower, prompts) is None, "of each call once"
    rows = []
    for start in PROMPT["start"]:  # type: ignore[attr-defined]
        spoken = text.collate([text.read(start.replace(" ", "\0") + name) for name in NAMES])
        spoken["x"] = spoken["x"].where(spoken["x"] != 1, text.numbers_of(" ")[0])  # a text ends with no blank
        rows.append(normalize(tower.features(spoken), dim=1))
    written = torch.stack(rows, 1)
    learned = head.rows(tower, prompts).unflatten(1, (3, 32))
    q = normalize(z, dim=1)
    near = torch.stack([written[label] @ q[b] for b, label in enumerate(labels) if label >= 0])
    assert prompts.router is not None
    gates = prompts.router(q)[labels >= 0]
    expected = 5 * prompts_as_written(learned, written) + 0.5 * gate_as_written(gates, near, 2)
    torch.testing.assert_close(found, expected)
    found.backward()
    assert prompts.rows.grad is not None
    assert prompts.router.weight.grad is not None


def test_rows_as_written_are_means_over_templates_without_dropout() -> None:
    text = Text(width=32, layers=1, dropout=0.3, prompt=PROMPT | {"written": 5.0}, templates=["{}", "my {} now"])  # type: ignore[arg-type]
    torch.manual_seed(1)
    model = Embedder({"text": text}, 8, 3, [Head(("text",), "gated", By(of="text"))], classes=NAMES).double().train()
    prompts, head, tower = model.prompts_of("text"), model.head("text"), model.tower("text")
    assert isinstance(head, Words)
    found = head.rows_as_written(tower, prompts)
    assert tower.training
    tower.eval()
    for c, name in enumerate(NAMES):
        for k, context in enumerate(prompts.as_written(tower.encoder.embedding)):
            value = text.collate(text.prompts(name))
            unit = normalize(tower.head(tower.features(value, 0, [context])), dim=1)
            torch.testing.assert_close(found[c, k], normalize(unit.mean(0), dim=0))


def test_training_stays_nearer_to_the_words(tmp_path: Path, silent: Progress) -> None:
    """And the router learns which of them are near."""
    off, told = [], []
    for k, more in enumerate(({}, {"written": 50.0, "gate": 10.0})):
        raw = with_prompt(PROMPT | more, train__steps=8, train__lr=0.02)
        train(Config.model_validate(raw), tmp_path / f"{k}", silent)
        run = checkpoint.load(tmp_path / f"{k}")
        head, tower, prompts = run.model.head("image"), run.model.tower("text"), run.model.prompts_of("text")
        assert isinstance(head, Words)
        with torch.no_grad():
            learned = head.rows(tower, prompts).unflatten(1, (3, 32))
            written = head.rows_as_written(tower, prompts)
            off.append(prompts_as_written(learned, written).item())
            assert prompts.router is not None
            told.append(prompts.router.weight.norm().item())
    assert off[1] < off[0]
    assert told[0] != told[1]


REFUSED: list[tuple[dict[str, Any], dict[str, Any], str]] = [
    ({"tokens": 3, "written": 5}, {}, "prompt.written draws to words, and the prompt begins at none"),
    ({"tokens": 3, "start": ["a"], "gate": 1}, {}, "prompt.gate is of a router"),
    ({"tokens": 3, "start": ["a"], "written": 0}, {}, "prompt.written = 0: should be greater than 0"),
    (
        {"tokens": 3, "start": ["a"], "written": 5},
        {"objective": {"name": "clip"}},
        "prompt.written: no term reads labels with this prompt: set words: text in one",
    ),
    (
        PROMPT | {"gate": 1, "negative": True},
        {"objective": {"name": "asymmetric", "inputs": ["image"], "words": "text"}, "data": {"several": "|"}},
        "prompt.gate: it is by the one label of a row",
    ),
    (
        PROMPT | {"gate": 1, "negative": True},
        {"objective": {"name": "asymmetric", "inputs": ["image"], "words": "text"}, "data": {"label": ["a", "b"]}},
        "prompt.gate: it is by the one label of a row",
    ),
]


@pytest.mark.parametrize(("prompt", "more", "message"), REFUSED)
def test_what_cannot_be_is_refused(
    prompt: Any, more: dict[str, Any], message: str, tmp_path: Path, silent: Progress
) -> None:
    raw = with_prompt(prompt)
    raw |= more | {"data": raw["data"] | more.get("data", {})}
    with pytest.raises(BadInput, match=message):
        train(Config.model_validate(raw), tmp_path / "run", silent)
