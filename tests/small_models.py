"""Small models with random weights of timm, open_clip and transformers, as if others had trained them."""

import json
from pathlib import Path
from typing import Any

import torch

from clx.modalities.base import Modality
from clx.modalities.image import Image
from clx.modalities.pretrained import quiet
from clx.modalities.text import Text
from configs import OPEN_CLIP


def write(out: Path) -> None:
    """All of them, into a folder."""
    import open_clip
    import timm
    from transformers import BertConfig, BertModel, BertTokenizer

    out.mkdir()
    torch.manual_seed(0)
    (out / "clx-lora.json").write_text(json.dumps(OPEN_CLIP))
    open_clip.add_model_config(out / "clx-lora.json")
    with quiet():
        torch.save(open_clip.create_model("clx-lora").state_dict(), out / "clip.pt")
    torch.save(timm.create_model("test_vit", num_classes=0).state_dict(), out / "vit.pth")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "one", "two", "three"]
    (out / "bert").mkdir()
    (out / "bert" / "vocab.txt").write_text("\n".join(words))
    BertTokenizer(str(out / "bert" / "vocab.txt")).save_pretrained(out / "bert")
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    BertModel(BertConfig(vocab_size=len(words), **sizes)).save_pretrained(out / "bert")


def timm_of(folder: Path, **options: Any) -> Image:
    return Image(encoder="timm:test_vit", pretrained=str(folder / "vit.pth"), size=160, **options)


def clip_image(folder: Path, **options: Any) -> Image:
    return Image(encoder="open_clip:clx-lora", pretrained=str(folder / "clip.pt"), **options)


def clip_text(folder: Path, **options: Any) -> Text:
    return Text(encoder="open_clip:clx-lora", pretrained=str(folder / "clip.pt"), **options)


def bert(folder: Path, **options: Any) -> Text:
    return Text(encoder=f"hf:{folder / 'bert'}", **options)


MODELS = [timm_of, clip_image, clip_text, bert]


def inputs(modality: Modality) -> dict[str, torch.Tensor]:
    if isinstance(modality, Text):
        return modality.collate([modality.read(text) for text in ("one two", "three", "two")])
    side = 160 if modality.encoder.startswith("timm") else 32
    return {"x": torch.randn(3, 3, side, side, generator=torch.Generator().manual_seed(1))}
