"""What a modality of texts has for random views: its options, and how they are made."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from annotated_types import Interval, MinLen

from clx.modalities import text_substitutes, text_views
from clx.modalities.base import Modality
from clx.modalities.draws import Draws
from clx.modalities.text_context import LearnedPrompt
from clx.modalities.text_encoders import HuggingFace
from clx.modalities.text_prompts import Prompt
from clx.modalities.text_views import PRESETS, Policy
from clx.modalities.text_words import BLANK

Rate = Annotated[float, Interval(ge=0, lt=1)]
View = Literal["none", "mild", "strong"] | dict[str, float]


@dataclass(kw_only=True)
class VariedText(Modality):
    """Texts whose views differ by words, by tokens, or by what the encoder drops."""

    augmentation: View | Annotated[list[View], MinLen(1)] = "mild"  # type: ignore[assignment]
    """A preset, or changes by name with their strengths, in this order: `{delete: 0.15, reorder: 0.2}`; a list has one
    such for each view. `mild` is no change but another of the `templates`, `strong` is `{delete: 0.15}`."""
    substitutes: Annotated[str, MinLen(1)] | None = None
    """A file of the words that `augmentation: {substitute: ..}` puts for each other, a line a group, tabs or commas
    between them. When not given, the training texts' own words of like company."""

    dropout: Rate | Annotated[list[Rate], MinLen(1)] = 0.0
    """Dropout of `transformer`, and of `hf:` models, which 0 leaves at their own; a list has a rate for each view."""
    templates: Annotated[list[str], MinLen(1)] = field(default_factory=lambda: ["{}"])
    """Sentences around the text, with `{}` where it goes."""
    prompt: str | LearnedPrompt = ""
    """What stands before every text, in every template, and is never changed by a view: `"query: "`, or so many learned
    vectors, `{tokens: 4}`. Of columns of one tower each has its own, and none where it says nothing; `{like: NAME}` are
    the learned vectors of the column NAME, one prompt for both."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_views()
        self._known: text_substitutes.Substitutes = {}
        self._notes: list[str] = []

    def _check_views(self) -> None:
        """Raise `ValueError` for views and rates that do not fit each other or the encoder."""
        for policy in self.policies:
            text_views.check(policy)
        for key in ("augmentation", "dropout"):
            given = getattr(self, key)
            if not isinstance(given, list):
                continue
            if len(given) != self.views and (self.like is None or key == "augmentation"):
                raise ValueError(f"{key} is a list of {len(given)}, one for each view, and views is {self.views}")
            if len(given) < self.views:
                raise ValueError(f"{self.views} views, and the tower that it shares has a dropout for {len(given)}")
        used = self.changes
        if self.substitutes is not None and self.like is None and "substitute" not in used:
            raise ValueError("substitutes is of augmentation {substitute: ..}, which is not among the changes")
        if self.pair is not None and "halves" in used:
            raise ValueError("augmentation halves is of single texts: of a pair each is a half already")
        if self.encoder.startswith("open_clip:") and (tokens := sorted(used & {*text_views.TOKEN_CHANGES})):
            raise ValueError(
                f"augmentation {tokens[0]} changes tokens, for encoders transformer and hf:, not open_clip:"
            )
        if self.learned is not None and (tokens := sorted(used & {*text_views.TOKEN_CHANGES})):
            raise ValueError(f"augmentation {tokens[0]} changes tokens, among which a learned prompt has its places")
        if isinstance(self.dropout, list) and self.freeze and not self.unlocked:
            raise ValueError("dropout with freeze: true: a frozen encoder drops nothing")
        if isinstance(self.dropout, list) and self.checkpointing:
            raise ValueError("checkpointing computes layers again at one rate: give one dropout, or leave it out")

    def check_encoder(self, encoder: HuggingFace) -> None:
        """Raise `ValueError` for views that a model of another library cannot have."""
        if self.views > 1 and self.augmentation == "none" and not (encoder.drops or self.noise):
            raise ValueError(f"{self.encoder} drops nothing of itself, so that views would be equal: set dropout")
        cut = sorted(self.changes & {"cutoff", "feature_cutoff"})
        if cut and not hasattr(encoder.model, "embeddings"):
            raise ValueError(
                f"augmentation {cut[0]} is of embedded tokens, and {self.encoder} has no layer `embeddings`"
            )

    @property
    def policies(self) -> list[Policy]:
        """The changes that make each view, in their order; of one that is the same for all views, one."""
        given = self.augmentation if isinstance(self.augmentation, list) else [self.augmentation]
        return [PRESETS[each] if isinstance(each, str) else each for each in given]

    @property
    def prompted(self) -> list[str]:
        """The templates with what stands before them."""
        return [self.written + template for template in self.templates]

    @property
    def learned(self) -> LearnedPrompt | None:
        """The options of a learned prompt."""
        return None if isinstance(self.prompt, str) else self.prompt

    @property
    def written(self) -> str:
        """A prompt of words."""
        return self.prompt if isinstance(self.prompt, str) else ""

    @property
    def changes(self) -> set[str]:
        """Names of the changes that some view has."""
        return {name for policy in self.policies for name, strength in policy.items() if strength}

    @property
    def drops(self) -> bool:
        rates = self.dropout if isinstance(self.dropout, list) else [self.dropout]
        own = self.encoder.startswith("hf:") and rates == [0.0]  # whether it has a rate is seen when it is built
        return (own or any(rates)) and not (self.freeze and not self.unlocked)

    @property
    def varies(self) -> bool:
        return bool(self.changes) or (len(self.templates) > 1 and self.augmentation != "none")

    @property
    def joint(self) -> bool:
        return "spans" in self.changes

    @property
    def aligned(self) -> bool:
        """Whether all views have the same tokens, of which some may be cut off."""
        kept = not self.changes - {"cutoff", "feature_cutoff"}
        return kept and (self.augmentation == "none" or len(self.templates) == 1)

    @property
    def blank(self) -> str:
        """What a masked word becomes."""
        return BLANK

    def fit_views(self, texts: Sequence[str]) -> None:
        """Which words are substitutes, and what views leave as it is. Raises `ValueError`."""
        if "substitute" in self.changes:
            given = self.substitutes
            self._known = text_substitutes.read(Path(given)) if given else text_substitutes.neighbours(texts)
        self._notes = text_views.told(texts, self.changes, self._known)

    def load_substitutes(self, known: text_substitutes.Substitutes) -> None:
        """Restore the substitutes that were found. Raises `ValueError` where they are wanted and there are none."""
        self._known = known
        if not known and "substitute" in self.changes:
            raise ValueError(f"augmentation substitute: {self.like} knows none: give its augmentation a substitute too")

    def augment(self, samples: list[Prompt], draws: Draws) -> list[Any]:
        """The first view of each text."""
        return self._view(0, samples, draws, draws)

    def vary(self, samples: Sequence[list[Any]], draws: Sequence[Draws]) -> list[list[Any]]:
        return [
            self._view(number, list(each), own, draws[0]) if each else []
            for number, (each, own) in enumerate(zip(samples, draws, strict=True))
        ]

    def _view(self, number: int, samples: list[Prompt], draws: Draws, anchor: Draws) -> list[Any]:
        """The view of this number: each text, or its two halves, in any of the templates."""
        given = self.augmentation[number] if isinstance(self.augmentation, list) else self.augmentation
        if given == "none":
            return samples
        policy = PRESETS[given] if isinstance(given, str) else given
        templates = [self.prompted[k] for k in draws.integers(len(self.templates)).tolist()]
        made = text_views.Making(policy, draws, number > 0, anchor, self.blank, self._known)
        return made.prompts([sample.text for sample in samples], templates)

    @property
    def _varies(self) -> bool:
        """Whether the encoder is called in more than one way: at several rates, or with tokens cut off."""
        cut = self.changes & {"cutoff", "feature_cutoff"}
        return bool(cut) or (isinstance(self.dropout, list) and len(self.dropout) > 1)
