"""The baseline of the text recipes: TF-IDF of words and a linear support vector machine.

``python -m benchmarks.tfidf`` trains and tests it on the data of the recipes' YAML files and prints a table.
It has no setting that was tuned: both estimators are scikit-learn's, with sublinear term frequencies. It
trains on all training rows, those that the recipes put aside for validation included.
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from rich.console import Console
from rich.table import Table

from recipes import resolvers
from recipes.cli.config_files import find_config
from recipes.data.sources import load_split
from recipes.text_classification.encoding import complete
from recipes.text_classification.labels import label_name

CONFIGS = ("cls.yaml", "cls_r52.yaml", "cls_20news.yaml")


def measure(config: str) -> dict[str, Any]:
    """Trains and tests the baseline on the data of a recipe.

    Args:
        config: A YAML whose ``data`` section names training and test files, one text column and the labels.

    Returns:
        ``config``, ``train`` and ``test`` rows, ``labels``, ``accuracy`` (micro), ``f1`` (macro),
        ``seconds``.
    """
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.metrics import accuracy_score, f1_score
    from sklearn.pipeline import make_pipeline
    from sklearn.svm import LinearSVC

    resolvers.register()
    data = OmegaConf.load(find_config(config)).data.init_args
    (train_texts, train_labels), (test_texts, test_labels) = (_rows(data, split) for split in ("train", "test"))
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


def _rows(data: Any, split: str) -> tuple[list[str], list[str]]:
    rows = load_split(data[split], key=f"data.{split}")
    rows = rows.filter(complete, batched=True, fn_kwargs={"columns": [data.text, data.label]})
    return rows[data.text][:], [label_name(value) for value in rows[data.label][:]]


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
