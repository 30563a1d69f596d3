"""What the commands call, called from Python: options in, answers out, without a terminal."""

import shutil
from pathlib import Path

import pytest
import torch

from clx.pipelines.model.scoring import Scale
from clx.pipelines.runs.open import open_model
from clx.pipelines.system.errors import BadInput
from clx.pipelines.use import calibrate
from clx.pipelines.use.embed import embed
from clx.pipelines.use.embedding_tables import EmbeddingOptions
from clx.pipelines.use.inputs import Skipped
from clx.pipelines.use.predict import Predictor
from clx.pipelines.use.question import Result
from clx.pipelines.use.search import Neighbours, Searcher
from clx.pipelines.use.temperature_fit import Fit
from clx.pipelines.use.zeroshot import Classifier

WORDS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]


def test_a_classifier_answers_several_times_and_names_what_it_skips(digits_run: Path, files: Path) -> None:
    picture = str(files / "image" / "05400.png")
    classifier = Classifier(digits_run, WORDS, device="cpu")
    first, skipped = classifier.classify([picture, "absent.png"], top=2)
    assert isinstance(first, Result)
    assert len(first.scores) == 2
    assert skipped == Skipped("absent.png", "no such file")
    (again,) = classifier.classify([{"image": picture}], top=2)
    assert isinstance(again, Result)
    assert again.scores == first.scores
    assert first.as_json()["label"] == first.scores[0][0]
    with pytest.raises(BadInput, match="absent.png: no such file"):
        list(classifier.classify(["absent.png"], strict=True))
    with pytest.raises(BadInput, match="no audio modality"):
        list(classifier.classify([{"audio": "a.wav"}]))


def test_what_was_calibrated_is_used_by_the_next_classifier(digits_run: Path, files: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(digits_run, tmp_path / "run"))
    heard: list[str] = []
    fits = Classifier(run).calibrate(str(files))
    assert set(fits) == {"image", "table", "image+table"}
    classifier = Classifier(run, {"zero": ["zero", "none"], "one": ["one"]}, say=heard.append)
    assert classifier.question.fits["image"].temperature == fits["image"].temperature
    assert heard[0].startswith("calibrated temperatures: image")


def test_a_fit_that_makes_its_rows_less_likely_is_told_of(
    digits_run: Path, files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A few rows that are all right at a cold temperature are less likely after Platt's more careful fit."""
    plain = calibrate.fit

    def sure(scores: torch.Tensor, truth: torch.Tensor, before: Scale) -> Fit:
        return plain(scores + 10 * truth, truth, before)

    monkeypatch.setattr(calibrate, "fit", sure)
    run = shutil.copytree(digits_run, tmp_path / "run")
    heard: list[str] = []
    fits = Classifier(run, say=heard.append).calibrate(str(files))
    assert fits["image"].nll[1] > fits["image"].nll[0]
    [told] = [line for line in heard if line.startswith("warning: image:")]
    assert "140, cannot bear out how sure the model is" in told


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"threshold": 0.5}, "goes with --multi-label"),
        ({"temperature": 0.0}, "must be above 0"),
        ({"columns": {"table": "x"}}, "a table reads the columns"),
        ({"modality": "imag"}, "did you mean 'image'"),
        ({"checkpoint": "first"}, "no checkpoint 'first'"),
    ],
)
def test_options_that_do_not_fit_are_refused(digits_run: Path, options: dict[str, object], said: str) -> None:
    with pytest.raises(BadInput, match=said):
        Classifier(digits_run, WORDS, **options)  # type: ignore[arg-type]


def test_a_file_of_embeddings_is_made_and_searched(digits_run: Path, files: Path, tmp_path: Path) -> None:
    out = tmp_path / "some.parquet"
    summary = embed(digits_run, out, str(files), EmbeddingOptions(split="val", modalities=["image"]))
    assert (summary["rows"], summary["skipped"], summary["modalities"]) == (140, 0, ["image"])
    searcher = Searcher(out, device="cpu")
    row = searcher.file.about([2])[0]["row"]
    (near,) = searcher.near_rows([row], top=4)
    assert len(near.hits) == 4
    picture = str(files / near.hits[0]["id"])
    by_name, by_kind, skipped = searcher.search([picture, {"image": picture}, "absent.png"], top=1)
    assert isinstance(by_name, Neighbours)
    assert isinstance(by_kind, Neighbours)
    assert by_name.hits[0]["id"] == by_kind.hits[0]["id"] == near.hits[0]["id"]
    assert isinstance(skipped, Skipped)
    with pytest.raises(BadInput, match=f"has rows {row - 2} to {row + 137} of the data"):
        list(searcher.near_rows([row + 138]))


def test_a_predictor_needs_a_head_or_windows(digits_run: Path) -> None:
    predictor = Predictor(digits_run)
    with pytest.raises(BadInput, match="no head that predicts"):
        predictor.predict()
    with pytest.raises(BadInput, match="not trained on windows"):
        predictor.anomalies()
    with pytest.raises(BadInput, match="a number from 0 on"):
        predictor.anomalies(beta=-1)


@pytest.mark.parametrize("only_run", [False, True])
def test_a_run_called_nearly_so_is_named(digits_run: Path, only_run: bool) -> None:
    with pytest.raises(BadInput, match=r"did you mean '.*tiny'\?"):
        open_model(digits_run.with_name("tinny"), only_run=only_run)
    with pytest.raises(BadInput, match="is a run folder"):
        open_model(digits_run, "laion2b", only_run=only_run)
