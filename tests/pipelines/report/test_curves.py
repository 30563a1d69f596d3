"""Curves of a run, thinned."""

import math

from clx.pipelines.report import curves


def test_thinned_curves_keep_every_spike() -> None:
    values = [math.sin(k / 50) for k in range(20_000)]
    values[777], values[13_131], values[5] = 40.0, -40.0, float("nan")
    x, y = curves.thinned(list(enumerate(values)))
    assert len(x) <= curves.POINTS
    assert x == sorted(set(x))
    assert (x[0], x[-1]) == (0, 19_999)
    assert dict(zip(x, y, strict=True))[777] == 40.0
    assert dict(zip(x, y, strict=True))[13_131] == -40.0
    x, y = curves.thinned([(1, 1.0), (2, float("inf")), (3, 2.0)])
    assert (x, y) == ([1, 2, 3], [1.0, None, 2.0])
