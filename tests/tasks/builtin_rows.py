"""One or more rows of each built-in set that has no real data at hand, with the hub's documented columns."""

from __future__ import annotations

from pathlib import Path
from typing import Any

Rows = list[dict[str, Any]]


def write(root: Path, repo: str, config: str, **splits: Rows) -> None:
    """Parquet files in the hub's layout."""
    import datasets

    folder = root / repo / config
    folder.mkdir(parents=True, exist_ok=True)
    for split, rows in splits.items():
        datasets.Dataset.from_list(rows).to_parquet(folder / f"{split}-00000-of-00001.parquet")


def inference(count: int, start: int = 0, **more: Any) -> Rows:
    return [
        {"premise": f"Premise {n}.", "hypothesis": f"Hypothesis {n}.", "label": n % 3, **more}
        for n in range(start, start + count)
    ]


def wsc(count: int, start: int = 0) -> Rows:
    return [
        {
            "text": f"Mark told Pete many lies about himself , which Pete included in his book {n} . He was honest .",
            "span1_index": 0,
            "span2_index": 16,
            "span1_text": "Mark",
            "span2_text": "He",
            "idx": n,
            "label": n % 2,
        }
        for n in range(start, start + count)
    ]


def record(count: int, start: int = 0) -> Rows:
    return [
        {
            "passage": f"Passage {n // 2} about Rome and Oslo.\n@highlight\nRome is warm\n@highlight\nOslo is cold",
            "query": f"In year {n} the warm city was @placeholder.",
            "entities": ["Rome", "Oslo", "Rome"],
            "entity_spans": {"text": ["Rome", "Oslo"], "start": [16, 25], "end": [20, 29]},
            "answers": ["Rome", "Rome"],
            "idx": {"passage": n // 2, "query": n},
        }
        for n in range(start, start + count)
    ]


def hellaswag(count: int, start: int = 0) -> Rows:
    return [
        {
            "ind": n,
            "activity_label": "Baking",
            "ctx_a": f"[header] How to bake cake {n} [step]",
            "ctx_b": "you",
            "ctx": f"[header] How to bake cake {n} [step] you",
            "endings": [f"mix {n}.", f"fly {n}.", f"sleep {n}.", f"sing {n}."],
            "source_id": f"wikihow~{n // 2}",
            "split": "train",
            "split_type": "indomain",
            "label": str(n % 4),
        }
        for n in range(start, start + count)
    ]


def winogrande(count: int, start: int = 0) -> Rows:
    return [
        {
            "sentence": f"Ann {n // 2} was {'taller' if n % 2 else 'shorter'} than Bea, so _ won.",
            "option1": f"Ann {n // 2}",
            "option2": "Bea",
            "answer": str(1 + n % 2),
        }
        for n in range(start, start + count)
    ]


def commonsense_qa(count: int, start: int = 0) -> Rows:
    texts = ["bank", "library", "mall", "shop", "park"]
    return [
        {
            "id": str(n),
            "question": f"Where does book {n} live?",
            "question_concept": "book",
            "choices": {"label": list("ABCDE"), "text": texts},
            "answerKey": "ABCDE"[n % 5],
        }
        for n in range(start, start + count)
    ]


def write_all(root: Path) -> None:
    """Every built-in set without real data: large ones with just enough rows for their hold-out of 1,000."""
    write(root, "aps/super_glue", "wsc", train=wsc(6), validation=wsc(4, 10))
    write(root, "aps/super_glue", "record", train=record(1010), validation=record(4, 2000))
    write(root, "Rowan/hellaswag", "default", train=hellaswag(1010), validation=hellaswag(4, 2000))
    write(root, "allenai/winogrande", "winogrande_xl", train=winogrande(1010), validation=winogrande(4, 2000))
    write(root, "tau/commonsense_qa", "default", train=commonsense_qa(6), validation=commonsense_qa(4, 10))
    pairs = [{"id": n, "sentence1": f"One {n}", "sentence2": f"Two {n}", "label": n % 2} for n in range(12)]
    write(
        root, "google-research-datasets/paws", "labeled_final",
        train=pairs[:6], validation=pairs[6:9], test=pairs[9:],
    )  # fmt: skip
    science = [
        {"premise": f"Premise {n}", "hypothesis": f"Hypothesis {n}", "label": ("entails", "neutral")[n % 2]}
        for n in range(12)
    ]
    write(root, "allenai/scitail", "tsv_format", train=science[:6], validation=science[6:9], test=science[9:])
    unlabelled = inference(1, 90)
    unlabelled[0]["label"] = -1
    write(
        root, "stanfordnlp/snli", "plain_text",
        train=inference(6) + unlabelled, validation=inference(3, 10), test=inference(3, 20) + unlabelled,
    )  # fmt: skip
    rounds = {
        f"{split}_r{n}": inference(3, 30 * n + 10 * i, uid=f"{split} {n}", reason="")
        for n in (1, 2, 3)
        for i, split in enumerate(("train", "dev", "test"))
    }
    write(root, "facebook/anli", "plain_text", **rounds)
    reviews = [{"text": f"Review {n}.\\nGood.", "label": n % 2} for n in range(1020)]
    write(root, "fancyzhx/yelp_polarity", "plain_text", train=reviews[:1010], test=reviews[1010:])
