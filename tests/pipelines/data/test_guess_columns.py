"""What the columns of a source are taken for."""

import pytest

from clx.pipelines.config.data_schema import Data
from clx.pipelines.data.guess_columns import infer_modalities
from clx.pipelines.data.inferred import Asked
from clx.pipelines.data.splits import load_splits
from clx.pipelines.system.errors import BadInput
from samples import manifest, png, wav


def test_columns_of_files_are_known_by_extension_and_the_rest_by_content(pairs) -> None:
    found = infer_modalities(load_splits(Data(train=str(pairs)), 0)["train"])
    assert found.modalities == {
        "image": {"column": "photo"},
        "audio": {"column": "clip"},
        "series": {"column": "curve"},
        "text": {"column": "caption"},
        "table": {"columns": ["height"]},
    }
    assert (found.label, found.target, found.split, found.unused) == ("label", [], "split", {})


def test_bytes_are_known_by_their_first_ones_and_arrays_are_series() -> None:
    found = infer_modalities(
        manifest(picture=[png(0), png(1)], sound=[wav(0), wav(1)], curve=[[1.0, 2.0], [3.0]], junk=[b"?", b"!"])
    )
    assert list(found.modalities) == ["image", "audio", "series"]
    assert found.unused == {"junk": "bytes of an unknown type"}


def test_two_columns_of_a_kind_are_two_inputs() -> None:
    found = infer_modalities(manifest(**{"sentence1": ["a b c", "d"], "sentence 2": ["e f g", "h i j"]}))
    assert found.modalities == {
        "sentence1": {"kind": "text"},
        "sentence_2": {"like": "sentence1", "column": "sentence 2"},
    }
    found = infer_modalities(manifest(**{"title": ["a b c", "d"], "summary text": ["e f g", "h i j"]}))
    assert found.modalities == {"title": {"kind": "text"}, "summary_text": {"kind": "text", "column": "summary text"}}


def test_numbers_identifiers_constants_and_targets_are_told_apart() -> None:
    n = 30
    found = infer_modalities(
        manifest(
            id=[str(i) for i in range(n)],
            code=[f"x{i}" for i in range(n)],
            width=[str(i / 2) for i in range(n)],
            colour=["red", "blue"] * (n // 2),
            unit=["cm"] * n,
            empty=[""] * n,
            score=[i / 3 for i in range(n)],
        )
    )
    assert found.modalities == {"table": {"columns": ["width", "colour"]}}
    assert found.target == ["score"]
    assert set(found.unused) == {"id", "code", "unit", "empty"}


def test_splits_by_words_and_by_yes_or_no() -> None:
    columns = {"label": ["a", "b"] * 20, "x": [i / 3 for i in range(40)]}
    words = {"phase": ["train", "test"] * 20, "split": ["train", "train", "val", "test"] * 10}
    found = infer_modalities(manifest(**words, **columns))
    assert (found.split, found.unused) == ("split", {"phase": "a second split"})
    assert infer_modalities(manifest(phase=words["phase"], **columns)).split == "phase"
    asked = infer_modalities(manifest(phase=words["phase"], **columns), Asked(label="phase"))
    assert (asked.split, asked.label) == (None, "phase")
    yes = manifest(is_test=[i % 5 == 0 for i in range(40)], **columns)
    with pytest.raises(BadInput, match="'is_test' may say by yes or no .* or --ignore is_test"):
        infer_modalities(yes)
    with pytest.raises(BadInput, match="'is_test' may say"):
        infer_modalities(manifest(is_test=["Y", "N"] * 20, **columns))
    assert infer_modalities(manifest(invalid=[1, 0] * 20, **columns)).split is None, "no word of a split"
    both = manifest(is_test=yes.column("is_test"), split=words["split"], **columns)
    assert infer_modalities(both).unused == {"is_test": "a second split"}
    assert infer_modalities(yes, Asked(ignore=["is_test"])).modalities == {"table": {"columns": ["x"]}}


def test_what_says_whether_two_texts_go_together_is_asked_about() -> None:
    texts = {name: [f"{name} of row {i}" for i in range(30)] for name in ("text_a", "text_b", "query", "passage")}
    two, roles = {k: texts[k] for k in ("text_a", "text_b")}, {k: texts[k] for k in ("query", "passage")}
    classes = {"verdict": ["supports", "refutes", "neither"] * 10}
    assert [one.given for one in infer_modalities(manifest(**two, **classes)).likely] == ["--label verdict"]
    assert infer_modalities(manifest(**roles, **classes)).likely == []
    yes = manifest(**roles, relevant=[i % 3 == 0 and 1 or 0 for i in range(30)])
    assert [one.given for one in infer_modalities(yes).likely] == ["--label relevant"]
    yes = manifest(**roles, relevant=["yes", "no"] * 15)
    assert [one.given for one in infer_modalities(yes).likely] == ["--label relevant"]
    corpus = manifest(en=texts["text_a"], de=texts["text_b"], domain=["law", "news", "film"] * 10)
    assert infer_modalities(corpus).likely == []
    assert infer_modalities(manifest(**roles, words=list(range(4, 64, 2)))).likely == []


def test_a_group_may_be_whose_steps_the_rows_are() -> None:
    rows = {"patient": [f"p{i // 10}" for i in range(60)], "t": [i % 10 for i in range(60)]}
    rows["hr"] = [60 + i * 7 % 9 / 2 for i in range(60)]
    rows["status"] = ["sick" if i // 10 % 2 else "well" for i in range(60)]
    found = infer_modalities(manifest(**rows), Asked(label="status", group="patient"))
    assert found.long == {"id": "patient", "time": "t", "channels": ["hr"]}
    assert "patient" not in found.unused


def test_labels_between_commas_are_sets_where_their_parts_come_again_and_alone() -> None:
    tags = ["cv", "nlp", "nlp, cv", "cv, nlp", "rl, cv", "nlp,rl", "rl", "cv, nlp, rl"] * 5
    assert infer_modalities(manifest(x=list(range(40)), label=tags)).several == ","
    places = ["Paris, France", "Lyon, France", "Rome, Italy", "Malta"] * 10
    assert infer_modalities(manifest(x=list(range(40)), label=places)).several is None
    sizes = [f"{colour}, {size}" for colour in "abcde" for size in "stuv"] * 2
    assert infer_modalities(manifest(x=list(range(40)), label=sizes)).several is None


@pytest.mark.parametrize(
    "name", ["hard", "hard_neg", "wrong_answer", "Incorrect Answers", "distractor", "rejected", "negative_passage_2"]
)
def test_a_column_of_wrong_answers_is_negatives_by_its_name(name) -> None:
    texts = {key: [f"{key} of row {i}" for i in range(30)] for key in ("query", "answer", name)}
    found = infer_modalities(manifest(**texts))
    assert found.shape == "negatives"
    assert [options.get("like") for options in found.modalities.values()] == [None, "query", "query"]
    notes = {"notes": [f"words of row {i}" for i in range(30)]}
    assert infer_modalities(manifest(**texts, **notes)).unused == {"notes": "not of the pair"}


def test_a_text_of_an_unknown_name_beside_a_pair_is_left_out() -> None:
    texts = {key: [f"{key} of row {i}" for i in range(30)] for key in ("prompt", "chosen", "other one")}
    found = infer_modalities(manifest(**texts))
    assert [*found.modalities] == ["prompt", "chosen"]
    assert found.unused == {"other one": "not of the pair; called 'negative' it is what this is drawn away from"}
