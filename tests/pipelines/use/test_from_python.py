"""What the commands call, called from Python: options in, answers out, without a terminal."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from clx import use
from clx.pipelines.model.fingerprint import fingerprint
from clx.pipelines.model.scoring import Scale, native_scale
from clx.pipelines.runs.open import open_model
from clx.pipelines.system.errors import BadInput
from clx.pipelines.use import calibrate
from clx.pipelines.use.embed import embed
from clx.pipelines.use.embedding_tables import EmbeddingOptions
from clx.pipelines.use.inputs import Skipped
from clx.pipelines.use.predict import Predictor
from clx.pipelines.use.question import Result
from clx.pipelines.use.search import Neighbours, Searcher
from clx.pipelines.use.temperature_fit import Fit, load_fits
from clx.pipelines.use.zeroshot import Classifier
from command import Command
from configs import tiny

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


def test_a_fit_that_makes_its_rows_less_likely_is_not_kept(
    digits_run: Path, files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A few rows that are all right at a cold temperature are less likely after Platt's more careful fit."""
    plain = calibrate.fit

    def sure(scores: torch.Tensor, truth: torch.Tensor, before: Scale) -> Fit:
        return plain(scores + 10 * truth, truth, before)

    run = shutil.copytree(digits_run, tmp_path / "run")
    assert "image" in Classifier(run).calibrate(str(files))
    monkeypatch.setattr(calibrate, "fit", sure)
    heard: list[str] = []
    fits = Classifier(run, say=heard.append).calibrate(str(files))
    own = native_scale(Classifier(run).run)
    assert (fits["image"].scale, fits["image"].nll[1]) == (own, fits["image"].nll[0])
    [told] = [line for line in heard if line.startswith("the temperature stays the model's for image")]
    assert "a fit on 140 rows would make them less likely" in told
    assert heard[-1].endswith("; the earlier fit is removed for image, table")  # of both together none was kept
    kept = load_fits(Path(run), fingerprint(Classifier(run).run.model))
    assert "image" not in kept  # nor what was fitted before
    heard.clear()
    Classifier(run, say=heard.append).calibrate(str(files))
    assert heard[-1] == "nothing is kept"  # and nothing was there to be removed


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


def test_the_door_answers_as_the_commands_do(digits_run: Path, clx: Command, tmp_path: Path) -> None:
    model = use.load(digits_run, device="cpu")
    said = use.classify(model, ["seven"], ["one", "seven"], modality="text", top=2)
    done = clx("zeroshot", digits_run, "seven", "--labels", "one,seven", "--as", "text", "--json", cwd=tmp_path)
    assert [answer.as_json() for answer in said if isinstance(answer, Result)] == [json.loads(done.stdout)]

    z = use.embed(model, ["seven", "eight"])
    assert {name: rows.shape for name, rows in z.items()} == {"text": (2, model.config.embed_dim)}
    assert np.isfinite(z["text"]).all()
    assert np.allclose(use.embed(digits_run, ["eight"])["text"], z["text"][1:], atol=1e-5)
    with pytest.raises(use.BadInput, match="none.png"):
        use.embed(model, ["seven", "none.png"])

    np.save(tmp_path / "words.npy", z["text"])
    (found,) = use.search(tmp_path / "words.npy", ["eight"], top=1, model=model, among="text", modality="text")
    assert isinstance(found, Neighbours)
    assert found.hits[0]["row"] == 2


def test_the_door_takes_arrays_and_mappings(digits_run: Path, files: Path) -> None:
    model, path = use.load(digits_run, device="cpu"), files / "image" / "05400.png"
    row = {"seg_a": 1, "seg_b": 0, "display": "red"}
    given = [{"image": str(path)}, {"image": path.read_bytes()}, {"image": np.array(Image.open(path))}, path]
    z = use.embed(model, [*given, {"table": row}])  # type: ignore[list-item]
    assert all(np.allclose(z["image"][0], same, atol=1e-5) for same in z["image"][1:4])
    assert np.isfinite(z["table"][4]).all()
    for wrong, said in (
        ({"image": 3}, r"image: expected a path, the bytes of a file or pixels \[H, W\].*, found int"),
        ({"table": {"seg": 1}}, "with some of the columns seg_a"),
        (np.zeros(8), r"expected a text, a path or a mapping.*, found ndarray \[8\]"),
    ):
        with pytest.raises(use.BadInput, match=said):
            use.embed(model, [wrong])  # type: ignore[list-item]


def test_the_door_trains_what_a_mapping_says(files: Path, tmp_path: Path) -> None:
    config = tiny(data__train=str(files / "few.csv"), train={"steps": 2, "batch_size": 16}, eval=["geometry"])
    done = use.train(config, tmp_path / "run", ["train.lr=0.01"])
    assert done["steps"] == 2
    assert "geometry" in done["evaluation"]
    assert use.load(tmp_path / "run", device="cpu").config.train.lr == 0.01
    assert use.train(tmp_path / "run", tmp_path / "run", ["train.steps=3"], resume=True)["steps"] == 3
    with pytest.raises(use.BadInput, match="already exists"):
        use.train(config, tmp_path / "run")


def test_an_open_model_is_asked_in_another_column_and_stays_as_it_is(digits_run: Path) -> None:
    model = use.load(digits_run, device="cpu")
    use.classify(model, ["seven"], ["one", "seven"], modality="text", columns={"image": "other"})
    assert all(modality.column != "other" for modality in model.modalities.values())
    with pytest.raises(use.BadInput, match="has its weights and device"):
        use.classify(model, ["seven"], ["one"], checkpoint="last")
