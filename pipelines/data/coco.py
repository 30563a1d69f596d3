"""COCO's annotations: one JSON object with the lists `images`, `annotations` and `categories`, as rows of images."""

from collections.abc import Mapping
from typing import Any

from clx.pipelines.system.errors import BadInput


def is_coco(value: Any) -> bool:
    """Whether a JSON value is what COCO's tools read: objects of images with an `id`, and annotations of these."""
    return isinstance(value, dict) and all(
        isinstance(of := value.get(key), list) and of and all(isinstance(each, dict) and needed in each for each in of)
        for key, needed in (("images", "id"), ("annotations", "image_id"))
    )


def rows_of(value: Mapping[str, Any], name: str) -> list[dict[str, Any]]:
    """A row for each image: `image`, its file; `text`, the list of its captions; `label`, the set of its categories.

    The columns are those that there are annotations for; an image without any has None there. Boxes, masks and what
    else is said of an image are not read. Raises `BadInput`, naming the entry, for one that is not COCO's.
    """
    names = {each.get("id"): each.get("name") for each in value.get("categories") or () if isinstance(each, dict)}
    captions: dict[Any, list[str]] = {}
    labels: dict[Any, list[str]] = {}
    known = {each["id"] for each in value["images"]}
    for number, each in enumerate(value["annotations"], 1):
        image, where = each["image_id"], f"{name}: annotation {number}"
        if image not in known:
            raise BadInput(f"{where} is of image {image!r}, which `images` lacks")
        if isinstance(each.get("caption"), str):
            captions.setdefault(image, []).append(each["caption"].strip())
        if (category := each.get("category_id")) is not None:
            if names.get(category) is None:
                raise BadInput(f"{where} is of category {category!r}, which `categories` lacks")
            if (label := str(names[category])) not in labels.setdefault(image, []):
                labels[image].append(label)
    rows = []
    for number, each in enumerate(value["images"], 1):
        if not isinstance(each.get("file_name"), str):
            raise BadInput(f"{name}: image {number} has no `file_name`")
        texts = {"text": captions.get(each["id"])} if captions else {}
        sets = {"label": labels.get(each["id"])} if labels else {}
        rows.append({"image": each["file_name"], **texts, **sets})
    return rows
