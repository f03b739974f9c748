"""The command line of comparisons: errors are sentences, before anything runs."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from recipes.cli.main import main
from tests.recipes.compare.commands import ROOT, calls, compare


@pytest.mark.parametrize(
    ("args", "sentence"),
    [
        ("--config some.yaml --optimizers adamv", "there is no optimizer of that name; did you mean 'adamw'?"),
        ("--config some.yaml --optimizers adamw adamw", "--optimizers: adamw is given twice; name each optimizer once"),
        ("--config som.yaml --optimizers adamw", "--config som.yaml: no such file in the working folder or"),
        ("--config some.yaml --optimizers my/adamw.yaml", "--optimizers my/adamw.yaml: no such file in"),
        ("--config some.yaml --optimizers some.yaml", "no class_path under model.init_args.optimizer; see"),
        ("--config some.yaml --optimizers adamw --seeds one", "--seeds one: expected integers from 0"),
        ("--config some.yaml --optimizers adamw --seeds 1 1", "--seeds: 1 is given twice; give each seed once"),
        ("--config some.yaml --optimizers adamw --sweep-lr -1", "--sweep-lr -1: expected learning rates such as 3e-4"),
        ("--config some.yaml --optimizers adamw --sweep-lr fast", "--sweep-lr fast: expected learning rates such"),
        ("--config some.yaml --optimizers adamw --seed 1", "unknown option '--seed'; did you mean --seeds?"),
        ("--config some.yaml --optimizers adamw --model.optimizer.lr 1", "lr is not supported by compare"),
        ("--config some.yaml --optimizers adamw --seed_everything 1", "use --seeds"),
        ("--config some.yaml --optimizers adamw --trainer.default_root_dir x", "use --out"),
        ("--config some.yaml --optimizers adamw --trainer.fast_dev_run 1", "add --config trainer/quick"),
        ("--config some.yaml --optimizers adamw --trainer.max_steps", "--trainer.max_steps has no value"),
        ("--config some.yaml --optimizers adamw --out some.yaml", "--out some.yaml is a file; give a folder"),
        ("--config some.yaml --optimizers adamw --widen 2", "--widen has no effect without --sweep-lr"),
        ("--config some.yaml --optimizers adamw --keep-hopeless", "--keep-hopeless has no effect without --sweep-lr"),
        ("--config some.yaml --optimizers adamw --jobs 0", "--jobs 0: expected a whole number of at least 1"),
        ("--config some.yaml --optimizers adamw --budget-steps 0", "--budget-steps 0: expected a whole number of at"),
        ("--config some.yaml --optimizers adamw --budget-seconds -3", "--budget-seconds -3: expected a number above 0"),
        ("--config some.yaml --optimizers adamw --budget-seconds 9 --timing-rounds 0", "needs timing runs, which"),
        ("--config some.yaml --optimizers adamw --budget-steps 9 --trainer.max_epochs 2", "contradicts the budget"),
        ("--config some.yaml", "--optimizers"),
        ("--optimizers adamw", "--config"),
    ],
)  # fmt: skip
def test_an_error_on_the_command_line_is_one_sentence(
    args: str, sentence: str, folder: Path, capsys: pytest.CaptureFixture
) -> None:
    assert main(["compare", *args.split()]) == 2
    said = capsys.readouterr().err
    assert sentence in said
    assert said.startswith("error: ")
    assert calls() == []


@pytest.mark.parametrize(
    ("settings", "options", "sentence"),
    [
        ("ckpt_path: some.ckpt", "", "some.yaml, line 1: ckpt_path is not supported by compare: each run starts from"),
        ("trainer: {fast_dev_run: true}", "", "some.yaml, line 1: trainer.fast_dev_run is not supported by compare"),
        ("trainer: {max_time: '00:00:01:00'}", "--budget-steps 9", "trainer.max_time contradicts the budget of steps"),
    ],
)
def test_a_setting_of_a_file_that_would_spoil_the_runs_is_refused(
    settings: str, options: str, sentence: str, folder: Path, capsys: pytest.CaptureFixture
) -> None:
    (folder / "some.yaml").write_text(f"{settings}\ndata: {{}}\n", encoding="utf-8")
    assert main(["compare", "--config", "some.yaml", "--optimizers", "adamw", *options.split()]) == 2
    assert sentence in capsys.readouterr().err
    assert calls() == []


def test_a_later_file_may_take_such_a_setting_back(folder: Path) -> None:
    (folder / "some.yaml").write_text("ckpt_path: some.ckpt\ndata: {}\n", encoding="utf-8")
    (folder / "more.yaml").write_text("ckpt_path: null\n", encoding="utf-8")
    words = ["--config", "some.yaml", "--config", "more.yaml", "--optimizers", "adamw", "--timing-rounds", "0"]
    assert main(["compare", *words]) == 0


def test_an_error_is_reported_before_torch_is_imported(folder: Path) -> None:
    program = (
        "import sys; from recipes.cli.main import main; "
        "status = main(['compare', '--config', 'some.yaml', '--optimizers', 'adamv']); "
        "sys.exit(10 * ('torch' in sys.modules) + status)"
    )
    done = subprocess.run([sys.executable, "-c", program], env={**os.environ, "PYTHONPATH": str(ROOT)}, check=False)
    assert done.returncode == 2


def test_multiples_need_a_rate_to_multiply(folder: Path, capsys: pytest.CaptureFixture) -> None:
    settings = {"model": {"init_args": {"optimizer": {"class_path": "torch.optim.SGD", "init_args": {"lr": None}}}}}
    Path("mine.yaml").write_text(yaml.safe_dump(settings), encoding="utf-8")
    assert compare("mine.yaml", "--sweep-lr") == 2
    assert "mine.yaml has no lr to multiply; give --sweep-lr absolute values" in capsys.readouterr().err


def test_a_missing_library_is_reported_at_once(folder: Path, capsys: pytest.CaptureFixture) -> None:
    settings = {"model": {"init_args": {"optimizer": {"class_path": "nowhere.Lion", "init_args": {"lr": 1.0e-4}}}}}
    Path("lion.yaml").write_text(yaml.safe_dump(settings), encoding="utf-8")
    compare("lion.yaml")
    assert "note: lion will fail: nowhere.Lion needs nowhere, which is not installed" in capsys.readouterr().err
