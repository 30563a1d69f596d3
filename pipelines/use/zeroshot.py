"""Zero-shot classification by a trained model, from options to answers: what `clx zeroshot` calls, and a program."""

from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from clx.pipelines.model.build import Run
from clx.pipelines.model.fingerprint import fingerprint
from clx.pipelines.model.scoring import text_modality
from clx.pipelines.runs.open import open_model
from clx.pipelines.system.errors import BadInput
from clx.pipelines.use.calibrate import calibrate_on
from clx.pipelines.use.inputs import Inputs, Skipped, refuse_skipped, set_columns
from clx.pipelines.use.labels import phrasings_of, read_templates
from clx.pipelines.use.question import Question, Result, ask, classify
from clx.pipelines.use.temperature_fit import Fit, save_fits


class Classifier:
    """Classifies items of any modality by words.

        classifier = Classifier("runs/digits", ["zero", "one", "two"])
        for answer in classifier.classify(["a.png", "sounds/"]):
            print(answer)

    Args:
        model: a run folder, or an OpenCLIP model by name with `pretrained`, its tag or checkpoint file; or one that is
            open.
        labels: labels, phrasings by label, or a file of either (see `read_labels`). None where only `calibrate` is
            called, which then takes all labels in the data.
        templates: prompts with `{}` for the label, files of such, or names of sets; the run's own when empty.
        multi_label: whether each label applies or not, whatever the others do.
        threshold: with `multi_label` the least probability of a label that applies, 0 to 1; 0.5 when None.
        temperature: divides scores before the softmax or sigmoid, above 0; None for the one that was calibrated, else
            the model's own.
        modality: what all inputs are, where their names do not tell; a text modality makes phrases inputs.
        labels_as: the text modality that reads the labels; the run's first other than `modality` when None.
        columns: other columns of manifests than the model's own, by modality.
        split: of manifests only the rows of this split.
        allow_outside: whether paths in manifests may lead out of their folder.
        checkpoint: of a run: `best`, `last`, or a step.
        device: `auto`, `cpu`, `cuda`, `cuda:1` or `mps`.
        dim: how many of the embeddings' columns are looked at, the first so many; all when None. What was calibrated is
            of all of them, so the model's own temperature is then used.
        say: hears in a line what is good to know, such as which temperatures are used.

    Raises `BadInput`.
    """

    def __init__(
        self,
        model: str | Path | Run,
        labels: Path | Mapping[str, Sequence[str]] | Sequence[str] | None = None,
        *,
        templates: Sequence[str] = (),
        multi_label: bool = False,
        threshold: float | None = None,
        temperature: float | None = None,
        modality: str | None = None,
        labels_as: str | None = None,
        columns: Mapping[str, str] | None = None,
        split: str | None = None,
        allow_outside: bool = False,
        pretrained: str | None = None,
        checkpoint: str = "best",
        device: str = "auto",
        dim: int | None = None,
        say: Callable[[str], None] = lambda text: None,
    ) -> None:
        if threshold is not None and not multi_label:
            raise BadInput("--threshold goes with --multi-label")
        if temperature is not None and temperature <= 0:
            raise BadInput(f"--temperature {temperature}: must be above 0")
        self.phrasings = {} if labels is None else phrasings_of(labels)
        self.templates = read_templates(templates)
        self.multi_label, self.threshold, self.temperature, self.say = multi_label, threshold, temperature, say
        self.run = open_model(model, pretrained, checkpoint, device).narrowed(dim)
        set_columns(self.run, columns or {})
        scored = self.run.scored()
        if modality is None and len(scored) == 1:  # which reads the labels, too
            (modality,) = scored
        if labels_as is None and modality is not None:  # a question is asked among answers
            texts = [name for name, m in scored.items() if m.kind == "text" and name != modality]
            labels_as = texts[0] if texts else None
        self.inputs = Inputs(self.run, modality, text_modality(self.run, labels_as), split, allow_outside)
        assert self.run.opened is not None
        name, tag = self.run.opened
        self.folder = None if tag else Path(name)
        """Of the run; an OpenCLIP model has none."""

    @cached_property
    def question(self) -> Question:
        """The labels as rows, with the temperature that is used."""
        return ask(
            self.run,
            self.phrasings,
            self.templates,
            self.inputs.text,
            multi_label=self.multi_label,
            threshold=self.threshold,
            temperature=self.temperature,
            folder=self.folder,
            say=self.say,
        )

    def classify(
        self,
        items: Iterable[str | Mapping[str, Any]],
        *,
        top: int = 5,
        batch_size: int = 64,
        workers: int | None = None,
        strict: bool = False,
    ) -> Generator[Result | Skipped, None, None]:
        """Classify what is named, in order, while the names come.

        Args:
            items: files, folders, patterns, manifests and JSON objects; phrases where `modality` is of text. A mapping
                is one thing by several files, such as `{"image": "a.png", "audio": "a.wav"}`, or arrays (see
                `clx.use.embed`).
            top: labels in a result, at most.
            batch_size: items at a time.
            workers: threads that read and embed; one a core and at most 8 when None.
            strict: whether what cannot be used raises `BadInput` instead of being `Skipped`.
        """
        answers = classify(self.run, self.inputs.items(items), self.question, top, batch_size, workers)
        return refuse_skipped(answers, strict)

    def calibrate(self, source: str, label: str | None = None, *, workers: int | None = None) -> dict[str, Fit]:
        """Fit the temperature on labelled rows that the model was not trained on, and keep it in the run's folder.

        Args:
            source: manifest, class folder or built-in data: the rows of the split, else of val (of
                the run's own file, too), else all.
            label: column with the class; the run's, else `label`, when None.

        Gives the fit of each input alone and of all together. Later classifiers of the run use them.
        """
        if self.temperature is not None:
            raise BadInput("--calibrate fits the temperature and stops: it takes no inputs and no --temperature")
        if self.run.model.is_narrow:
            raise BadInput("--calibrate fits the temperature of whole embeddings: leave out --dim")
        fits = calibrate_on(
            self.inputs,
            source,
            self.phrasings,
            self.templates,
            label=label,
            multi_label=self.multi_label,
            workers=workers,
            say=self.say,
        )
        if self.folder is None:
            self.say("an OpenCLIP model has no folder to keep this in: give it with --temperature")
        else:
            kept, removed = save_fits(self.folder, fingerprint(self.run.model), fits)
            gone = f"; the earlier fit is removed for {', '.join(removed)}" if removed else ""
            self.say((f"kept in {kept}; --temperature overrides it" if kept else "nothing is kept") + gone)
        return fits
