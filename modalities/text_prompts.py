"""What a sample of text is."""

from typing import NamedTuple

from clx.modalities.text_tokens import TokenChanges


class Prompt(NamedTuple):
    """A text and the template around it, which has `{}` in the place of the text."""

    text: str
    template: str = "{}"
    tokens: TokenChanges | None = None
    """What becomes of its tokens."""

    def __str__(self) -> str:
        return self.template.replace("{}", self.text)
