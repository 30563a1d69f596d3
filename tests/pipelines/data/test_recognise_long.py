"""Tables of time steps, by their columns."""

import pytest

from clx.pipelines.data.column_kinds import kinds_of
from clx.pipelines.data.manifest import Manifest
from clx.pipelines.data.recognise_long import find_long, say_who_comes_again, windows_for
from clx.pipelines.system.errors import ClxWarning
from samples import manifest


def steps(**more: list[object]) -> Manifest:
    rows = [(r, t) for r in range(4) for t in range(10)]
    columns = {"recording": [f"r{r}" for r, _ in rows], "time": [t * 0.5 for _, t in rows]}
    columns |= {"load": [(r * 7 + t * 3) % 11 / 2 for r, t in rows], "label": [str(r % 2) for r, _ in rows]}
    return manifest(**{**columns, **more})


def found(rows: Manifest, answers: list[str]) -> dict[str, object] | None:
    columns = {name: kind for name, kind in kinds_of(rows).items() if name not in answers}
    return find_long(rows, columns, answers)


def test_steps_of_recordings() -> None:
    assert found(steps(), ["label"]) == {"id": "recording", "time": "time", "channels": ["load"]}


def test_rows_are_no_steps_where_the_answer_changes_or_time_does_not_rise() -> None:
    with pytest.warns(ClxWarning, match="label changes within a recording, so each row is learned by itself"):
        assert found(steps(label=[str(i % 2) for i in range(40)]), ["label"]) is None
    assert found(steps(time=[0.5] * 40), ["label"]) is None
    assert found(steps(recording=[f"r{i}" for i in range(40)]), ["label"]) is None


def test_doubled_steps_are_told_of() -> None:
    rows = steps()
    doubled = {name: [*rows.column(name), rows.column(name)[0]] for name in rows.columns}
    with pytest.warns(ClxWarning, match="1 of 41 rows have the time of another row of their recording, so each row is"):
        assert found(manifest(**doubled), ["label"]) is None


def test_who_comes_again_is_told_of() -> None:
    who = {"patient_id": [f"p{i // 4}" for i in range(40)], "Speaker": [f"s{i}" for i in range(40)]}
    rows = manifest(**who)
    with pytest.warns(ClxWarning, match="several rows share a patient_id: --group patient_id keeps these in one split"):
        say_who_comes_again("a.csv", kinds_of(rows), {"train": rows}, drawn=True)
    say_who_comes_again("a.csv", kinds_of(rows), {"train": rows}, drawn=False)
    say_who_comes_again("a.csv", kinds_of(manifest(sex=["f", "m"] * 20)), {"train": rows}, drawn=True)
    splits = {"train": rows.take(range(30)), "val": rows.take(range(28, 40)), "test": rows.take(range(32, 40))}
    patients = {"patient_id": kinds_of(rows)["patient_id"]}
    with pytest.warns(ClxWarning, match="a.csv: 4 of 12 val rows have a patient_id of training rows") as told:
        say_who_comes_again("a.csv", patients, splits, drawn=False)
    assert len(told) == 1, "no patient of the test rows"


def test_windows_of_long_series() -> None:
    assert windows_for([100] * 10) is None
    assert windows_for([300] * 200) is None
    assert windows_for([4000]) == {"length": 512, "stride": 256}
    assert windows_for([300, 400, 500]) == {"length": 64, "stride": 32}
