"""Words for train, val and test, as folders, files and cells have them."""

import re

SPLITS = {
    **dict.fromkeys(("train", "training", "trn"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "val"),
    **dict.fromkeys(("test", "testing", "eval", "tst"), "test"),
}
SET = re.compile(r"[ _-]*(set|split|data|images|imgs|audio)?[ _-]*((19|20)\d\d)?$")
SHARD = re.compile(r"\d+|of|part|shard|[0-9a-f]{8,}")


def split_of(word: str) -> str | None:
    """train, val or test, if a word is one of their names: `Train`, `VALID`, `test_set`, `train2017`.

    >>> [split_of(word) for word in ("Training", "val2017", "test_images", "trainer", "cat")]
    ['train', 'val', 'test', None, None]
    """
    bare = word.strip().lower()
    return SPLITS.get(bare) or SPLITS.get(SET.sub("", bare))


def split_of_file(stem: str) -> str | None:
    """The split that the name of a file begins or ends with, as the shards of Hugging Face and UCR's archives do.

    >>> [split_of_file(name) for name in ("train-00000-of-00002", "GunPoint_TEST", "train_labels", "validation")]
    ['train', 'test', None, 'val']
    """
    if (whole := split_of(stem)) is not None:
        return whole
    parts = [part for part in re.split(r"[ _.-]+", stem) if not SHARD.fullmatch(part.lower())]
    if len(parts) == 1:
        return split_of(parts[0])
    return SPLITS.get(parts[-1].lower()) if parts else None
