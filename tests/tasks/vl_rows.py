"""A few rows of each vision-and-language set of the hub, with its documented columns and feature types."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

Rows = list[dict[str, Any]]
TRUTHS = ["False", "True"]


def picture(number: int) -> bytes:
    """A small PNG of its own for each number."""
    stream = io.BytesIO()
    Image.new("RGB", (6, 4), (number % 256, number // 256, 90)).save(stream, "PNG")
    return stream.getvalue()


def write(root: Path, repo: str, images: Sequence[str] = ("image",), *, names: Any = None, **splits: Rows) -> None:
    """Parquet files in the hub's layout; the columns `images` hold numbers of pictures and become image columns."""
    import datasets

    folder = root / repo / "data"
    folder.mkdir(parents=True, exist_ok=True)
    for split, rows in splits.items():
        encoded = [{**row, **{name: {"bytes": picture(row[name]), "path": None} for name in images}} for row in rows]
        data = datasets.Dataset.from_list(encoded)
        for name in images:
            data = data.cast_column(name, datasets.Image())
        if names is not None:
            data = data.cast_column("label", datasets.ClassLabel(names=names))
        data.to_parquet(folder / f"{split}-00000-of-00001.parquet")


def people(number: int) -> list[str]:
    """Ten answers: three times one, seven times another."""
    return [f"answer {number}"] * 3 + ["Yes."] * 7


def vqa(count: int, start: int = 0) -> Rows:
    return [
        {
            "question_type": "is the",
            "multiple_choice_answer": "yes",
            "answers": [
                {"answer": answer, "answer_confidence": "yes", "answer_id": i + 1} for i, answer in enumerate(people(n))
            ],
            "image_id": n // 2,
            "answer_type": "yes/no",
            "question_id": n,
            "question": f"Is number {n} here?",
            "image": n // 2,
        }
        for n in range(start, start + count)
    ]


def plain_vqa(count: int, start: int = 0, *, image_id: str = "image_id") -> Rows:
    """As OK-VQA, VizWiz and TextVQA have it: answers as strings."""
    return [
        {"question": f"What is {n}?", "answers": people(n), image_id: f"image {n // 2}", "image": n // 2}
        for n in range(start, start + count)
    ]


def gqa(count: int, start: int = 0) -> Rows:
    return [
        {
            "question_id": f"q{n}",
            "image": n,
            "question": f"What is left of {n}?",
            "answer": "lamp",
            "fullAnswer": "It is a lamp.",
        }
        for n in range(start, start + count)
    ]


def nlvr2(split: str, count: int, start: int = 0) -> Rows:
    return [
        {
            "identifier": f"{split}-{n // 4}-{n % 2}-{n // 2 % 2}",
            "sentence": f"Set {n // 4} has statement {n // 2 % 2}.",
            "label": TRUTHS[n % 2],
            "image0": n,
            "image1": n + 3,
        }
        for n in range(start, start + count)
    ]


def snli_ve(count: int, start: int = 0) -> Rows:
    return [
        {"image": n, "filename": f"{n}.jpg", "premise": "Two men.", "hypothesis": f"Man {n} sits.", "label": n % 3}
        for n in range(start, start + count)
    ]


def coco(count: int, start: int = 0) -> Rows:
    """One caption a row, an image's not beside each other."""
    return [
        {"image": n, "filename": f"{n}.jpg", "cocoid": n, "caption": f"Caption  {which} of {n}."}
        for which in range(5)
        for n in range(start, start + count)
    ]


def flickr30k(count: int, start: int = 0) -> Rows:
    return [
        {
            "image": n,
            "caption": [f"Caption {which} of {n}." for which in range(5)],
            "sentids": [str(n)],
            "split": "train",
            "img_id": str(n),
            "filename": f"{n}.jpg",
        }
        for n in range(start, start + count)
    ]


def nocaps(count: int) -> Rows:
    return [
        {
            "image": n,
            "image_file_name": f"{n}.jpg",
            "image_id": n,
            "annotations_ids": [n],
            "annotations_captions": [f"Caption {which} of {n}." for which in range(10)],
        }
        for n in range(count)
    ]


def write_all(root: Path) -> None:
    """Every set of the hub; large ones with just enough rows for their hold-out."""
    write(root, "pingzhili/vqa_v2", train=vqa(5010), validation=vqa(4, 6000))
    write(root, "Multimodal-Fatima/OK-VQA_train", train=plain_vqa(1010, image_id="id_image"))
    write(root, "Multimodal-Fatima/OK-VQA_test", test=plain_vqa(4, 2000, image_id="id_image"))
    write(root, "ebrukilic/vizwiz_vqa_dataset", train=plain_vqa(1010), validation=plain_vqa(4, 2000))
    write(root, "lmms-lab/textvqa", train=plain_vqa(1010), validation=plain_vqa(4, 2000))
    write(root, "Mineru/GQA", train_balanced=gqa(6), val_balanced=gqa(3, 10), testdev_balanced=gqa(3, 20))
    pair = ("image0", "image1")
    write(root, "pingzhili/nlvr2", pair, train=nlvr2("train", 1012), validation=nlvr2("dev", 8, 2000))
    write(
        root, "sedrickkeh/snli-ve", names=["entailment", "neutral", "contradiction"],
        train=snli_ve(6), validation=snli_ve(3, 10), test=snli_ve(3, 20),
    )  # fmt: skip
    write(root, "jxie/coco_captions", train=coco(6), validation=coco(3, 10), test=coco(3, 20))
    write(root, "umaru97/flickr30k_train_val_test", train=flickr30k(6), val=flickr30k(3, 10), test=flickr30k(3, 20))
    write(root, "lmms-lab/NoCaps", validation=nocaps(3))
