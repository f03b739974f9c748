"""Replaces ``recipes.fit`` in tests of comparisons: writes a report for its command line without training.

The recipe's file defines its behavior under ``data``: ``task`` (cls or lm), ``fails`` (name of an optimizer: exit
status), ``fails_timing`` (the same of timing runs), ``waits`` (seconds), ``validates`` (false: no validation metrics),
``not_finite`` (name of an optimizer: metrics that are null), ``weights`` (``by optimizer``: the initial weights depend
on more than the seed).
"""

import json
import math
import sys
import time
from pathlib import Path
from typing import Any

import yaml

BEST_RATE = 3e-4  # on the validation metrics; the test metrics increase with the rate


def a_report(name: str, rate: float = 1e-4, seed: int = 1, task: str = "cls", **changes: Any) -> dict[str, Any]:
    """The contents of a ``report.json``, with the given keys replaced."""
    off = abs(math.log10(rate / BEST_RATE))
    metrics = {
        "cls": {"val/loss": off, "val/accuracy": 0.9 - off / 10, "val/f1": 0.8 - off / 10, "test/loss": 1.0},
        "lm": {"val/loss": off, "val/perplexity": 20 + off, "test/loss": 3.0, "test/perplexity": 22.0 + seed / 10},
    }[task]
    if task == "cls":
        metrics |= {"test/accuracy": 0.9 + rate + seed / 1000, "test/f1": 0.8 + rate * (1 + seed / 1000) + seed / 1000}
    megabytes = 0.5 if "adafactor" in name else 128.0 if "8bit" in name else 512.0
    size = {"elements": int(megabytes * 2**18), "bytes": int(megabytes * 2**20), "megabytes": megabytes}
    return {
        "recipe": "some",
        "optimizer": name,
        "optimizer_state": size,
        "adamw_state": {"elements": 2**27, "bytes": 2**29, "megabytes": 512.0},
        "parameter_memory": {"elements": 2**26, "bytes": 2**28, "megabytes": 256.0},
        "gradient_memory": {"elements": 2**26, "bytes": 2**28, "megabytes": 256.0},
        "metrics": metrics,
        "monitor": {"name": "val/f1", "mode": "max"} if task == "cls" else {"name": "val/loss", "mode": "min"},
        "steps": 20,
        "seconds_per_step": 2.0,
        "seconds": {"setup": 1.0, "train": 40.0, "test": 1.0},
        "peak_memory_mb": 1000.0 + seed,
        "versions": {"python": "3.11", "torch": "2.13"},
        "device": "Some Processor, 2 threads",
        "git_commit": "0123abc",
        "fingerprint": {"initial_weights": f"of seed {seed}"},
        "history": {
            "losses": [[step, 2 * math.exp(-step / 9), step * 2.0] for step in range(1, 21)],
            "evaluations": [
                [step, {name: value * step / 20 for name, value in metrics.items()}] for step in (5, 10, 20)
            ],
        },
        **changes,
    }


def main(args: list[str]) -> int:
    given = list(zip(args[::2], args[1::2], strict=True))
    recipe, optimizer = (
        Path(value) for option, value in (given[0], [pair for pair in given if pair[0] == "--config"][-1])
    )
    options = dict(given)
    behavior = yaml.safe_load(recipe.read_text())["data"]
    out = Path(options["--trainer.default_root_dir"]) / recipe.stem
    version = out / f"version_{len(list(out.glob('version_*')))}"
    version.mkdir(parents=True)
    with Path("calls.txt").open("a") as calls:
        rate, seed = (options[name] for name in ("--model.init_args.optimizer.init_args.lr", "--seed_everything"))
        is_timing = options.get("--trainer.limit_val_batches") == "0"
        limited = options.get("--trainer.max_epochs") == "-1" and not is_timing
        steps = f" {options['--trainer.max_steps']} steps" if limited else ""
        calls.write(f"{optimizer.stem} {'timing' if is_timing else rate} {seed}{steps}\n")
    print("epoch 1/1: 50%", flush=True)
    time.sleep(behavior.get("waits", 0))
    status = behavior.get("fails_timing" if is_timing else "fails", {}).get(optimizer.stem, 0)
    if status:
        print(
            "Traceback (most recent call last):\nValueError: not this one\nerror: a sentence that says why\nmore",
            file=sys.stderr,
        )
        return int(status)
    changes: dict[str, Any] = {}
    if behavior.get("weights") == "by optimizer":
        changes["fingerprint"] = {"initial_weights": optimizer.stem}
    target = options.get("--trainer.callbacks.target")
    for weights in ("checkpoints", "model"):
        (version / weights).mkdir()
    if target and abs(math.log10(float(rate) / BEST_RATE)) > 0.6:
        print(f"error: hopeless: val/f1 is below {target}", file=sys.stderr)
        return 1
    report = a_report(optimizer.stem, float(rate), int(seed), behavior.get("task", "cls"), **changes)
    if behavior.get("validates") is False:
        report["metrics"] = {name: value for name, value in report["metrics"].items() if name.startswith("test/")}
        report["monitor"] = {"name": None, "mode": None}
    report["metrics"] |= dict.fromkeys(behavior.get("not_finite", {}).get(optimizer.stem, []))
    (version / "report.json").write_text(json.dumps(report))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
