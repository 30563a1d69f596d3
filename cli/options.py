"""Options that several commands have, declared once: an annotation each, for a parameter of a command."""

from pathlib import Path
from typing import Annotated

import typer

# What is asked, and of which model
Model = Annotated[str, typer.Argument(metavar="RUN|MODEL", help="Run folder, or OpenCLIP model name.")]
RunFolder = Annotated[Path, typer.Argument(metavar="RUN", help="Run folder.")]
Pretrained = Annotated[str | None, typer.Option(help="Tag or checkpoint file of an OpenCLIP model.")]
Checkpoint = Annotated[str, typer.Option(help="Of a run: best, last, or a step.")]

# What it is asked about
Data = Annotated[str | None, typer.Option(help="Manifest, class folder or built-in data [default: the run's own].")]
Dim = Annotated[
    int | None,
    typer.Option(min=1, help="Only the first so many columns of the embeddings, as dims trains them [default: all]."),
]
Split = Annotated[str | None, typer.Option(help="Only the train, val or test rows.")]
EvaluatedSplit = Annotated[str | None, typer.Option(help="train, val or test [default: test, else val]")]
Column = Annotated[
    list[str],
    typer.Option(metavar="MODALITY=COLUMN", help="Another column of the data than the model's own, as image=photo."),
]
AllowOutside = Annotated[bool, typer.Option(help="Accept paths that lead out of the data's folder.")]
Template = Annotated[
    list[str],
    typer.Option(
        help="Prompt with {} for the label, a file of such lines, openai-imagenet or simple-imagenet; "
        "several are averaged [default: the run's own]."
    ),
]
LabelsFile = Annotated[Path | None, typer.Option(help="Labels one a line, or JSON: a list, or {label: [phrasings]}.")]
As = Annotated[str | None, typer.Option("--as", help="Modality of the inputs, where the file name does not tell.")]
Image = Annotated[str | None, typer.Option(help="Image of the one thing that is asked about.")]
Audio = Annotated[str | None, typer.Option(help="Its sound.")]
Series = Annotated[str | None, typer.Option(help="Its time series.")]
Table = Annotated[str | None, typer.Option(help="Its table row, a JSON file with an object.")]

# What the columns of new data are
LabelColumn = Annotated[
    str | None,
    typer.Option(
        "--label",
        metavar="COLUMN",
        help="The column with the class to learn, or none; a,b,c: columns of 1 and 0, each a label.",
    ),
]
TargetColumns = Annotated[
    list[str], typer.Option("--target", metavar="COLUMN", help="A column with a number to predict; may be repeated.")
]
PairColumns = Annotated[
    str | None, typer.Option("--pair", metavar="A,B", help="Two columns that belong together, and no other inputs.")
]
GroupColumn = Annotated[
    str | None, typer.Option("--group", metavar="COLUMN", help="Rows that share its value stay in one split.")
]
IgnoredColumns = Annotated[
    list[str], typer.Option("--ignore", metavar="COLUMN", help="A column that is not used; may be repeated.")
]

# How it is done
Settings = Annotated[
    list[str],
    typer.Option("-s", "--set", metavar="KEY=VALUE", help="Override a config key, e.g. train.lr=1e-3."),
]
Shard = Annotated[
    str | None,
    typer.Option(metavar="K/N|env", help="This job's share, 0/N to N-1/N; env: what SLURM or torchrun say."),
]
Processes = Annotated[
    int | None, typer.Option(min=1, help="Share the rows out over so many processes of this machine, one for each GPU.")
]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, mps")]
BatchSize = Annotated[int, typer.Option(min=1, help="Rows at a time.")]
Workers = Annotated[
    int | None, typer.Option(min=1, help="Threads that read and embed [default: one per core, at most 8].")
]
Strict = Annotated[bool, typer.Option(help="Stop at the first input that cannot be read.")]
DryRun = Annotated[bool, typer.Option(help="Print what would be done, and stop.")]

# How it is shown
Metric = Annotated[
    list[str], typer.Option(help="Figure to show: val_loss, zeroshot.image.top1, retrieval.*.R@1; repeatable")
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON, also on a terminal.")]
