"""Pages from the templates of `page/`: one file that fetches nothing (its content security policy forbids it), with
everything escaped."""

import base64
import hashlib
from importlib import resources
from typing import Any

FILES = ("page.css", "page.js", "figures.js")


def render_page(template: str, **values: Any) -> str:
    """A page as text. `style` and `script` and their digests are given to the template."""
    from jinja2 import Environment, FunctionLoader, StrictUndefined
    from markupsafe import Markup

    page = resources.files("clx.pipelines.report.page")
    style, *scripts = (
        page.joinpath(name).read_text(encoding="utf-8") for name in ("page.css", "page.js", "figures.js")
    )
    script = "\n".join(scripts)
    loader = FunctionLoader(lambda name: page.joinpath(name).read_text(encoding="utf-8"))
    environment = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.policies["json.dumps_kwargs"] = {"separators": (",", ":"), "allow_nan": False}
    return environment.get_template(template).render(
        style=Markup(style),
        script=Markup(script),
        style_hash=digest(style),
        script_hash=digest(script),
        **values,
    )


def digest(text: str) -> str:
    """A source expression of a content security policy: only the script of this very text may run."""
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"
