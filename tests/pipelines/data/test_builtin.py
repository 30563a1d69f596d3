"""Built-in data: real files in memory, no source in two splits, and the statistics each set promises."""

import io
import itertools
import wave
from collections import Counter
from functools import cache

import numpy as np
import pytest
from PIL import Image

from clx.pipelines.config.data_schema import Data
from clx.pipelines.data import builtin_digits
from clx.pipelines.data.builtin import BUILTIN, describe, is_builtin, load_builtin, write
from clx.pipelines.data.cell_files import resolve
from clx.pipelines.data.splits import load_splits
from clx.pipelines.system.errors import BadInput, Failed

load = cache(load_builtin)


@pytest.mark.parametrize("name", BUILTIN)
def test_rows_are_as_listed_and_every_row_says_its_split(name) -> None:
    if (folder := BUILTIN[name].folder) is not None and not folder.is_dir():
        pytest.skip(f"{folder} is not installed")
    splits = load(name)
    assert {split: len(manifest) for split, manifest in splits.items()} == BUILTIN[name].rows
    for split, manifest in splits.items():
        assert set(manifest.column("split")) == {split}
        assert {"label", "target", "pulse", "class"} & set(manifest.columns) or name == "seasons"
        assert manifest.where(0) == f"{name} {split} row 1"


def test_generation_is_repeatable() -> None:
    again = BUILTIN["digits"].make.__wrapped__("")
    assert again["test"].equals(load("digits")["test"].table)


def test_digits_cells_are_files() -> None:
    row = load("digits")["train"].row(0)
    image = Image.open(io.BytesIO(row["image"]))
    assert (image.size, image.mode) == ((8, 8), "L")
    with wave.open(io.BytesIO(row["audio"])) as sound:
        assert (sound.getframerate(), sound.getnchannels(), sound.getsampwidth()) == (8000, 1, 2)
        assert sound.getnframes() == 2000
    assert row["series"].dtype == np.float32
    assert isinstance(row["seg_a"], float)
    assert row["display"] in ("red", "green", "blue")


@pytest.mark.parametrize("name", ["digits", "digits-sum"])
@pytest.mark.parametrize("sense", ["image", "audio"])
def test_no_source_is_in_two_splits(name, sense) -> None:
    content = {split: set(manifest.column(sense)) for split, manifest in load(name).items()}
    for one, other in itertools.combinations(content.values(), 2):
        assert not one & other


def test_digits_split_the_scans_evenly() -> None:
    assert {split: len(set(m.column("image"))) for split, m in load("digits").items()} == builtin_digits.SOURCES
    for manifest in load("digits").values():
        shares = np.array(list(Counter(manifest.column("label")).values())) / len(manifest)
        assert len(shares) == 10
        assert abs(shares - 0.1).max() < 0.01


def test_tones_have_the_frequencies_of_q23() -> None:
    keys = {"1": (697, 1209), "5": (770, 1336), "9": (852, 1477), "0": (941, 1336)}
    for key, expected in keys.items():
        files = builtin_digits.tones(np.full(20, int(key)), np.random.default_rng(0))
        pcm = files[:, 44:].copy().view("<i2")
        power = np.abs(np.fft.rfft(pcm, axis=1)).mean(0)
        frequency = np.fft.rfftfreq(pcm.shape[1], 1 / 8000)
        bands = power[:250], power[250:]
        peaks = frequency[bands[0].argmax()], frequency[250 + bands[1].argmax()]
        np.testing.assert_allclose(peaks, expected, atol=4)
        assert np.abs(pcm.astype(int)).max() < 32767


def test_morse_keys_the_digit() -> None:
    code = {0: "-----", 1: ".----", 2: "..---", 5: ".....", 6: "-....", 9: "----."}
    for digit, expected in code.items():
        signal, offsets = builtin_digits.morse(np.array([digit] * 30), np.random.default_rng(digit))
        lengths = np.diff(offsets)
        assert len(set(lengths)) > 5
        assert lengths.min() >= 54
        assert lengths.max() <= 276
        smooth = np.convolve(signal[: offsets[1]], np.ones(5) / 5, mode="same") > 0.4
        edges = np.flatnonzero(np.diff(np.concatenate([[0], smooth, [0]])))
        on = edges[1::2] - edges[::2]
        shortest = min(on.min(), (edges[2::2] - edges[1:-1:2]).min())
        assert "".join("-" if length > 2 * shortest else "." for length in on) == expected


def test_number_words_mean_one_digit_in_every_language() -> None:
    meanings: dict[str, set[int]] = {}
    for line in builtin_digits.WORDS.values():
        assert len(line.split()) == 10
        for digit, word in enumerate(line.split()):
            meanings.setdefault(word, set()).add(digit)
    assert all(len(found) == 1 for found in meanings.values())
    shares = Counter(load("digits")["train"].column("text"))
    assert sum(shares[str(word)] for word in builtin_digits.ENGLISH) > 0.5 * len(load("digits")["train"])


def test_bayes_rate_of_the_table_sense() -> None:
    rate = builtin_digits.digits_bayes_rate()
    assert 0.93 < rate < 0.97
    rng = np.random.default_rng(1)
    truth = rng.integers(10, size=50_000)
    x = builtin_digits.readings(truth, rng)
    guess = np.nansum((x[:, None] - builtin_digits.LIT) ** 2, axis=-1).argmin(1)  # equal priors: nearest is best
    assert abs((guess == truth).mean() - rate) < 4 * np.sqrt(rate * (1 - rate) / 50_000)


def test_a_few_readings_are_missing_and_the_display_tells_nothing() -> None:
    train = load("digits")["train"]
    missing = np.mean([value is None for s in builtin_digits.SEGMENTS for value in train.column(s)])
    assert 0.015 < missing < 0.025
    table = _counts(train.column("display"), train.column("label"))
    expected = table.sum(1, keepdims=True) * table.sum(0) / table.sum()
    assert ((table - expected) ** 2 / expected).sum() < 42  # chi-square of 18 degrees, p = 0.001


def test_no_pair_of_digits_sum_tells_of_the_third_but_two_determine_it() -> None:
    digit_of = dict(zip(builtin_digits.ENGLISH.tolist(), range(10), strict=True))
    for split, manifest in load("digits-sum").items():
        files, labels = builtin_digits.scans()[split]
        scan = dict(zip(files, labels.tolist(), strict=True))
        a = [scan[file] for file in manifest.column("image")]
        total = [digit_of[word] for word in manifest.column("text")]
        b = [(s - x) % 10 for x, s in zip(a, total, strict=True)]
        heard = [_key(file) for file in manifest.column("audio")[:200]]
        assert heard == b[:200]
        for one, other in itertools.combinations((a, b, total), 2):
            assert (_counts(one, other) == len(manifest) // 100).all()
        assert manifest.column("label") == manifest.column("text")


def _counts(one: list, other: list) -> np.ndarray:
    rows, columns = sorted(set(one)), sorted(set(other))
    found = Counter(zip(one, other, strict=True))
    return np.array([[found[r, c] for c in columns] for r in rows])


def _key(file: bytes) -> int:
    pcm = np.frombuffer(file[44:], "<i2").astype(float)
    time = np.arange(len(pcm)) / 8000

    def loudest(frequencies: tuple[float, ...]) -> int:
        return int(np.argmax([abs(pcm @ np.exp(-2j * np.pi * f * time)) for f in frequencies]))

    row, column = loudest(builtin_digits.LOW), loudest(builtin_digits.HIGH)
    return 0 if row == 3 else 3 * row + column + 1


def test_series_of_several_channels_are_steps_by_channels() -> None:
    vowels = load("aeon:JapaneseVowels")["train"]
    shapes = {vowels.cell(i, "series").shape for i in range(len(vowels))}
    assert {channels for _, channels in shapes} == {12}
    assert len(shapes) > 5
    assert load("aeon:GunPoint")["test"].cell(0, "series").shape == (150,)
    assert isinstance(load("aeon:Covid3Month")["train"].cell(0, "target"), float)


def test_unknown_names_get_the_nearest() -> None:
    assert is_builtin("aeon:Nothing")
    assert not is_builtin("./digits")
    with pytest.raises(BadInput, match="did you mean 'sklearn:iris'"):
        load_builtin("sklearn:Iris")


def test_describe_lists_everything() -> None:
    assert [entry["name"] for entry in describe()] == list(BUILTIN)
    assert describe()[0]["rows"] == {"train": 5188, "val": 140, "test": 1080}


def test_what_is_written_reads_back_the_same(tmp_path) -> None:
    for name in ("aeon:PickupGestureWiimoteZ", "aeon:BasicMotions", "sklearn:iris"):
        out = tmp_path / name
        write(name, out)
        assert not list(out.glob("*.part"))
        for split, made in load_splits(Data(train=str(out)), seed=0).items():
            source = load(name)[split]
            assert len(made) == len(source)
            for i in range(0, len(made), 7):
                for column, cell in source.row(i).items():
                    found = resolve(made.cell(i, column), made) if column == "series" else made.cell(i, column)
                    if column == "series":
                        np.testing.assert_array_equal(np.load(found), cell)
                    else:
                        assert found == str(cell)


def test_write_shares_files_and_refuses_what_is_there(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("clx.pipelines.data.builtin.load_builtin", lambda name: {
        split: manifest.take(range(40)) for split, manifest in load(name).items()
    })  # fmt: skip
    manifest = write("digits-sum", tmp_path / "out")
    images = list((tmp_path / "out" / "image").iterdir())
    assert manifest.read_text().count("\n") == 121
    assert 0 < len(images) <= 120
    with pytest.raises(BadInput, match="not an empty folder"):
        write("digits-sum", tmp_path / "out")


def test_an_interrupted_write_leaves_no_manifest(tmp_path, monkeypatch) -> None:
    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "save", fail)
    with pytest.raises(Failed, match="No space left"):
        write("aeon:UnitTest", tmp_path / "out")
    assert not (tmp_path / "out" / "manifest.csv").exists()


def test_a_stated_share_of_labels_is_wrong_but_of_the_test_rows() -> None:
    for share, of in (("0.2", 0.2), ("0.4", 0.4)):
        for split, rows in load(f"mislabelled:{share}").items():
            wrong = np.array(rows.column("label")) != np.array(rows.column("truth"))
            assert wrong.sum() == (0 if split == "test" else round(of * len(rows)))
    rows = load("mislabelled:0.4")["train"]
    assert len(set(zip(rows.column("truth"), rows.column("label"), strict=True))) == 100  # any passes for any other


def test_rotated_digits_have_the_angle_that_is_told() -> None:
    """Turned back by the target, an image is like its scan again."""
    import io

    from PIL import Image

    from clx.pipelines.data.builtin_digits import scans

    rows = load_builtin("digits-rotation")["val"]
    files, _ = scans()["val"]
    angles = []
    for i in range(0, len(rows), 7):
        row = rows.row(i)
        angles.append(row["angle"])
        upright = Image.open(io.BytesIO(files[i % len(files)])).resize((16, 16), Image.Resampling.BICUBIC)
        turned = Image.open(io.BytesIO(row["image"]))
        back, wrong = (np.asarray(turned.rotate(a, Image.Resampling.BICUBIC), float) for a in (-angles[-1], angles[-1]))
        near, far = (np.abs(np.asarray(upright, float) - each).mean() for each in (back, wrong))
        assert near < 30
        assert near < far or abs(angles[-1]) < 10
    assert min(angles) < -40
    assert max(angles) > 40
