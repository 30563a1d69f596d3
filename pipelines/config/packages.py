"""Whether the packages are there that carry the weights of a config's encoders, asked before time is spent."""

from importlib.util import find_spec

from clx.modalities.packaged import PACKAGES, wanted
from clx.pipelines.config.schema import Config
from clx.pipelines.system.errors import BadInput


def check_packages(config: Config) -> None:
    """Raises `BadInput` that names all packages that are lacking."""
    encoders = [
        options.get("encoder") for options in config.modalities.values() if options.get("pretrained") is not False
    ]
    lacking = [
        name
        for name, package in PACKAGES.items()
        if name in encoders and find_spec(package.file.partition("/")[0]) is None
    ]
    if lacking:
        extras = ",".join(dict.fromkeys(PACKAGES[name].extra for name in lacking))
        raise BadInput(f"{'; '.join(map(wanted, lacking))}: pip install '.[{extras}]' in clx's folder")
