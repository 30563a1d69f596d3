"""Files of labels: phrasings of each, and of that it does not apply."""

import json
from pathlib import Path

import pytest

from clx.pipelines.system.errors import BadInput
from clx.pipelines.use.labels import read_labels, read_yes_and_no


def test_phrasings_under_yes_and_no(tmp_path: Path) -> None:
    path = tmp_path / "labels.json"
    path.write_text(json.dumps({"dog": {"yes": ["a dog"], "no": "no dog"}}))
    assert read_yes_and_no(path) == ({"dog": ["a dog"]}, {"dog": ["no dog"]})
    with pytest.raises(BadInput, match="yes and no are for clx eval --task multilabel"):
        read_labels(path)
    for wrong in ({"dog": {"yes": "a dog"}}, {"dog": {"yes": "a dog", "no": "none"}, "cat": ["a cat"]}):
        path.write_text(json.dumps(wrong))
        with pytest.raises(BadInput, match="needs phrasings under yes and under no"):
            read_yes_and_no(path)
    path.write_text('["dog"]')
    assert read_yes_and_no(path) == ({"dog": ["dog"]}, {})
