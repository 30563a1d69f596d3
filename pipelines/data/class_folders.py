"""What the folders of files say: which class a file is of, and which split."""

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from clx.pipelines.data.split_names import split_of
from clx.pipelines.system.errors import BadInput

ALIKE = 5  # folders with one file of the same name each from which on they are no classes
FEW = 0.01  # files beside class folders, of all: a picture of the whole set, say


Row = tuple[str, str | None, str | None]
"""Path, label, split."""


@dataclass
class Arranged:
    """Files with their class and split."""

    rows: list[Row]
    split_from: str | None = None
    dropped: dict[str, list[str]] = field(default_factory=dict)
    """Files that are not used, by reason."""
    notes: list[str] = field(default_factory=list)
    """What was understood that one might not expect."""


def arranged(paths: Sequence[str], name: str) -> Arranged:
    """Classes and splits of files from their folders, from the first level at which there is a choice.

    `CLASS/**/FILE` gives labels; `SPLIT/CLASS/**/FILE`, `SPLIT/FILE` and `CLASS/SPLIT/FILE` splits too, their names in
    any case and form (`split_of`); files without folders are rows without labels. Raises `BadInput`, calling the
    folder `name`, where two readings are likely.
    """
    parts = [path.split(os.sep) for path in paths]
    depth = _descended(parts)
    heads, strays = _by_folder(parts, depth)
    splits = {head: split for head in heads if (split := split_of(head)) is not None}
    others = [head for head in heads if head not in splits]
    if splits and not _is_class(splits, others, strays, heads, depth):
        return _by_split(heads, splits, strays, depth, name)
    if heads and not strays and _split_below(parts, depth):
        rows: list[Row] = [(os.sep.join(each), each[depth], split_of(each[depth + 1])) for each in parts]
        return Arranged(rows, "folder names")
    dropped = _without_strays(heads, strays, name, "the class folders")
    if not heads:
        return Arranged([(os.sep.join(each), None, None) for each in strays], notes=_one_folder(parts[0], depth))
    names = len({tuple(each[depth + 1 :]) for inside in heads.values() for each in inside})
    if len(heads) >= ALIKE and all(len(inside) == 1 for inside in heads.values()) and names == 1:
        only = [each for inside in heads.values() for each in inside]
        said = f"each folder holds one file, {only[0][-1]}: a folder is no class"
        return Arranged([(os.sep.join(each), None, None) for each in only], dropped=dropped, notes=[said])
    rows = [(os.sep.join(each), head, None) for head, inside in heads.items() for each in inside]
    return Arranged(rows, dropped=dropped)


Parts = list[str]


def _by_folder(parts: Iterable[Parts], depth: int) -> tuple[dict[str, list[Parts]], list[Parts]]:
    """Files by the folder they are in at a depth, and those that are in none there."""
    heads: dict[str, list[Parts]] = {}
    strays = []
    for each in parts:
        if len(each) > depth + 1:
            heads.setdefault(each[depth], []).append(each)
        else:
            strays.append(each)
    return heads, strays


def _descended(parts: Sequence[Parts]) -> int:
    """The first depth at which files are in several folders, in one that is a split, or in none."""
    depth = 0
    while all(len(each) > depth + 1 for each in parts):
        if len({each[depth] for each in parts}) > 1 or split_of(parts[0][depth]) is not None:
            break
        depth += 1
    return depth


def _one_folder(parts: Parts, depth: int) -> list[str]:
    return [f"all files are in {os.sep.join(parts[:depth])}: one folder is no class"] if depth else []


def _nested(inside: Iterable[Parts], depth: int) -> bool:
    return any(len(each) > depth + 2 for each in inside)


def _is_class(
    splits: Mapping[str, str],
    others: Sequence[str],
    strays: Sequence[Parts],
    heads: Mapping[str, list[Parts]],
    depth: int,
) -> bool:
    """Whether a folder called train is a class among others, as of vehicles: no other split, no folders in any."""
    flat = not any(_nested(inside, depth) for inside in heads.values())
    return bool(others) and set(splits.values()) == {"train"} and flat and not strays


def _by_split(
    heads: Mapping[str, list[Parts]], splits: Mapping[str, str], strays: list[Parts], depth: int, name: str
) -> Arranged:
    others = [head for head in heads if head not in splits]
    if (others or strays) and len(set(splits.values())) == 1:
        beside = f"the folder {others[0]!r}" if others else f"{len(strays)} files such as {strays[0][-1]!r}"
        raise BadInput(
            f"{name}: the folder {next(iter(splits))!r} is called like a split, and beside it is {beside}: move what "
            "is for training into a folder 'train', what is not data out of this folder, or give a metadata.csv with a "
            "column 'split'"
        )
    dropped: dict[str, list[str]] = {
        f"in the folder {head}, beside those of the splits": [os.sep.join(each) for each in heads[head]]
        for head in others
    }
    if strays:
        dropped["beside the folders of the splits"] = [os.sep.join(each) for each in strays]
    at = depth + 1
    inside = {head: _by_folder(heads[head], at) for head in splits}
    while all(not loose and len(folders) == 1 for folders, loose in inside.values()):
        if len({folder for folders, _ in inside.values() for folder in folders}) > 1:
            break  # one class in each, or one that a split lacks
        at += 1
        inside = {head: _by_folder(heads[head], at) for head in splits}
    known = {folder for head, split in splits.items() if split == "train" for folder in inside[head][0]}
    found = Arranged([], "folder names", dropped)
    for head, split in splits.items():
        folders, loose = inside[head]
        where = os.sep.join([*heads[head][0][:depth], head])
        dropped |= _without_strays(folders, loose, f"{name}/{where}", f"the class folders of {where}")
        unlabelled = split != "train" and known and len(folders) == 1 and not set(folders) & known
        if known and (unlabelled or not folders):
            what = f"one folder, {next(iter(folders))}, that is no class of training" if unlabelled else "no folders"
            found.notes.append(f"{where} has {what}: its {len(heads[head])} files have no label")
        for folder, files in folders.items():
            found.rows += [(os.sep.join(each), None if unlabelled else folder, split) for each in files]
        if not folders:
            found.rows += [(os.sep.join(each), None, split) for each in loose]
    return found


def _without_strays(
    heads: Mapping[str, list[Parts]], strays: list[Parts], name: str, beside: str
) -> dict[str, list[str]]:
    """Files beside folders: a few are passed over. Raises `BadInput` where they are as likely the data."""
    if not heads or not strays:
        return {}
    total = len(strays) + sum(map(len, heads.values()))
    if len(strays) > FEW * total:
        raise BadInput(
            f"{name}: {len(strays)} files, such as {strays[0][-1]!r}, lie beside {len(heads)} folders, such as "
            f"{next(iter(heads))!r}: put them into folders of their classes, or all files into one folder where there "
            "are no classes, or give a metadata.csv"
        )
    return {f"beside {beside}": [os.sep.join(each) for each in strays]}


def _split_below(parts: Sequence[Parts], depth: int) -> bool:
    """Whether the splits are folders in each class folder: `cat/train/1.png`."""
    return all(len(each) > depth + 2 and split_of(each[depth + 1]) is not None for each in parts)
