"""What a program may give for a modality: samples whose scale is known, and nothing else that looks like them."""

from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from clx.modalities.audio import Audio
from clx.pipelines.model.build import Run
from clx.pipelines.system.errors import BadInput
from clx.pipelines.use.given_cells import given_cell

TONE = np.sin(np.arange(800) / 5)
RUN = cast(Run, SimpleNamespace(modalities={"sound": Audio(sample_rate=8000)}))


@pytest.mark.parametrize(
    "samples", [TONE, TONE.astype(np.float32), 1.4 * TONE, (TONE * 32767).astype(np.int16), np.zeros(0)]
)
def test_samples_of_a_known_scale_are_taken(samples: Any) -> None:
    assert given_cell(RUN, "sound", samples) is samples


@pytest.mark.parametrize(
    ("samples", "found"),
    [
        ((TONE * 127 + 127).astype(np.uint8), r"ndarray \[800\] of uint8$"),
        ((TONE * 32767).astype(np.int32), r"ndarray \[800\] of int32$"),
        (TONE > 0, r"ndarray \[800\] of bool$"),
        (TONE * 1j, r"ndarray \[800\] of complex128$"),
        (TONE * 32767, r"ndarray \[800\] of float64 with values up to 3.28e\+04$"),
    ],
)
def test_samples_of_an_unknown_scale_are_refused(samples: Any, found: str) -> None:
    said = r"^sound: expected .* at the run's rate, 8000 Hz \(floats from -1 to 1, or int16\), found "
    with pytest.raises(BadInput, match=said + found):
        given_cell(RUN, "sound", samples)
