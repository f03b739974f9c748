"""The commands on one, two and three processes: the same metrics and predictions, each row once."""

from pathlib import Path

import pytest
import yaml

from tests.recipes.killed_fit import start_ranks


def run(folder: Path, processes: int, *words: str) -> None:
    shared = [f"--trainer.devices={processes}", f"--trainer.strategy={'ddp' if processes > 1 else 'auto'}"]
    started = start_ranks(folder, processes, *words, *shared)
    for process in started:
        process.join(120)
    output = (folder / "output.txt").read_text(encoding="utf-8")
    assert [process.exitcode for process in started] == [0] * processes, output[-3000:]


@pytest.mark.slow
def test_test_and_predict_are_the_same_on_one_two_and_three_processes(
    tiny_model: Path, wires_csv: Path, tmp_path: Path
) -> None:
    few = tmp_path / "few.csv"
    few.write_text("\n".join(wires_csv.read_text(encoding="utf-8").splitlines()[:3]) + "\n", encoding="utf-8")
    settings = {
        "trainer": {"accelerator": "cpu", "max_steps": 4, "enable_model_summary": False},
        "model": {"class_path": "recipes.TextClassifier", "init_args": {"pretrained": str(tiny_model)}},
        "data": {
            "class_path": "recipes.TextClassificationData",
            "init_args": {"train": str(wires_csv), "text": "headline", "label": "desk", "validation": 0.1, "test": 0.3},
        },
    }
    settings["data"]["init_args"] |= {"max_length": 16, "eval_batch_size": 5, "predict": str(wires_csv)}  # type: ignore
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(settings), encoding="utf-8")
    run(tmp_path, 1, "fit", "--config=c.yaml")
    checkpoint = f"--ckpt_path={tmp_path}/runs/c/version_0/checkpoints/last.ckpt"

    results = []
    for processes in (1, 2, 3):
        folder = tmp_path / str(processes)
        for words in (["test"], ["predict"], ["predict", f"--data.predict={few}"]):
            run(folder, processes, words[0], f"--config={tmp_path}/c.yaml", checkpoint, *words[1:])
        files = ("version_0/metrics.csv", "version_1/predictions.csv", "version_2/predictions.csv")
        results.append([(folder / "runs/c" / file).read_bytes() for file in files])

    assert results[0] == results[1] == results[2]
    assert len(results[0][1].splitlines()) == 121
    assert len(results[0][2].splitlines()) == 3
