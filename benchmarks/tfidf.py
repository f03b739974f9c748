"""The baseline of the text recipes: TF-IDF of words and a linear support vector machine.

``python -m benchmarks.tfidf`` trains and tests it on the data of the recipes' YAML files and prints a table.
No setting was tuned: both estimators are scikit-learn's, with sublinear term frequencies. It trains on all
training rows, including those that the recipes split off for validation.
"""

import argparse
import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import OmegaConf
from rich.console import Console
from rich.table import Table

from recipes import resolvers
from recipes.cli.config_files import find_config
from recipes.data.splitting import split_off
from recipes.text_classification.data import TextClassificationData
from recipes.text_classification.encoding import complete
from recipes.text_classification.labels import label_name, ordered

if TYPE_CHECKING:
    from datasets import Dataset

CONFIGS = ("cls.yaml", "cls_r52.yaml", "cls_20news.yaml", "cls_tweets.yaml", "cls_reviews.yaml")


def measure(config: str) -> dict[str, Any]:
    """Trains and tests the baseline on the data of a recipe.

    Args:
        config: A YAML whose ``data`` section names training and test files, one text column and the labels. A fraction
            for the test splits off the rows that the recipe splits off.

    Returns:
        ``config``, ``train`` and ``test`` rows, ``labels``, ``accuracy`` (micro), ``f1`` (macro),
        ``seconds``.
    """
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.metrics import accuracy_score, f1_score
    from sklearn.pipeline import make_pipeline
    from sklearn.svm import LinearSVC

    resolvers.register()
    splits = _splits(OmegaConf.load(find_config(config)).data.init_args)
    (train_texts, train_labels), (test_texts, test_labels) = ((rows["text"][:], rows["label"][:]) for rows in splits)
    start = time.perf_counter()
    model = make_pipeline(TfidfVectorizer(sublinear_tf=True), LinearSVC(random_state=0))
    model.fit(train_texts, train_labels)
    predicted = model.predict(test_texts)
    return {
        "config": Path(config).name,
        "train": len(train_texts),
        "test": len(test_texts),
        "labels": len(set(train_labels)),
        "accuracy": accuracy_score(test_labels, predicted),
        "f1": f1_score(test_labels, predicted, average="macro"),
        "seconds": time.perf_counter() - start,
    }


def _splits(settings: Any) -> "tuple[Dataset, Dataset]":
    """The training rows, with those for validation, and the test rows."""
    from datasets import ClassLabel

    data = TextClassificationData(settings.text, settings.label, train=settings.train, test=settings.test)
    train = _rows(data, "train")
    if not isinstance(data.sources["test"], float):
        return train, _rows(data, "test")
    train = train.cast_column("label", ClassLabel(names=ordered({*train["label"]})))
    return split_off(train, data.sources["test"], "data.test", seed=data.split_seed, stratify_by="label")


def _rows(data: TextClassificationData, split: str) -> "Dataset":
    """The complete rows of a split, with the columns ``text`` and ``label``, a name."""
    rows = data.read(split)
    if rows is None:
        raise SystemExit(f"data.{split} is missing: the baseline needs it")
    names = {"text": data.text, "label": data.label}
    rows = rows.filter(complete, batched=True, fn_kwargs=names)
    return rows.map(
        lambda row: {"text": row[data.text[0]], "label": label_name(row[data.label])}, remove_columns=rows.column_names
    )


def main() -> None:
    """Prints a table, or JSON with ``--json``."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.tfidf", description="TF-IDF + linear SVM baseline")
    parser.add_argument("configs", nargs="*", default=CONFIGS, help="YAML files, looked for in configs/ too")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    arguments = parser.parse_args()
    results = [measure(config) for config in arguments.configs]
    if arguments.json:
        print(json.dumps(results, indent=2))
        return
    table = Table(*results[0])
    for result in results:
        table.add_row(*(f"{value:.4f}" if isinstance(value, float) else str(value) for value in result.values()))
    Console().print(table)


if __name__ == "__main__":
    main()
