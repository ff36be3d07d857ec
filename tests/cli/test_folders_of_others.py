"""`train.pairs` given data in another project's layout names the one command that converts it; it does convert it."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import pytest

from mmpo.data.convert import convert
from mmpo.data.reader import check_pairs, count_pairs, read_pairs
from mmpo.errors import UserError
from tests.cli.conftest import Invoke
from tests.data.convert.sources import write_lines, write_parquet
from tests.data.making import build, picture

IMAGE = {"bytes": picture(1), "path": None}
ASK = [{"role": "user", "content": [{"type": "image", "text": None}, {"type": "text", "text": "What?"}]}]
SIDES = {"chosen": [{"role": "assistant", "content": [{"type": "text", "text": "A dog."}]}],
         "rejected": [{"role": "assistant", "content": [{"type": "text", "text": "A cat."}]}]}  # fmt: skip
TRL = {"images": [IMAGE], "prompt": ASK, **SIDES}


def trl_parts(folder: Path) -> Path:
    write_parquet(folder / "data" / "train-00000-of-00001.parquet", [TRL])
    return folder


def trl_one_image(folder: Path) -> Path:
    row = {"image": IMAGE, "prompt": [{"role": "user", "content": "What?"}], "chosen": [{"role": "assistant", "content":
           "A dog."}], "rejected": [{"role": "assistant", "content": "A cat."}]}  # fmt: skip
    write_parquet(folder / "data" / "train-00000-of-00001.parquet", [row])
    return folder


def trl_at_the_top(folder: Path) -> Path:
    write_parquet(folder / "train-00000-of-00001.parquet", [TRL])
    return folder


def ours_for_trl(folder: Path) -> Path:
    build(folder.parent / "built", sources=10)
    convert(folder.parent / "built", folder, out_format="trl")
    return folder


def saved(folder: Path, whole: bool = False) -> Path:
    datasets = pytest.importorskip("datasets")
    data = datasets.Dataset.from_list([TRL])
    (datasets.DatasetDict({"train": data}) if whole else data).save_to_disk(str(folder))
    return folder


def lines(folder: Path) -> Path:
    write_lines(folder / "dpo.jsonl", [{"prompt": "What?", "chosen": "A", "rejected": "B"}])
    return folder


def a_file(folder: Path) -> Path:
    return write_parquet(folder / "x.parquet", [TRL])


MAKERS: dict[str, Any] = {
    "parts": trl_parts, "one image": trl_one_image, "at the top": trl_at_the_top, "ours": ours_for_trl, "saved": saved,
    "saved, several splits": lambda folder: saved(folder, True), "lines": lines, "a file": a_file,
}  # fmt: skip


@pytest.mark.parametrize("name", MAKERS)
def test_the_command_is_named_and_works(tmp_path: Path, mmpo: Invoke, name: str) -> None:
    source = MAKERS[name](tmp_path / "their data")
    with pytest.raises(UserError, match="no pairs as mmpo writes them") as caught:
        check_pairs(source)
    command = str(caught.value.hint).removeprefix("mmpo ").partition(", then give ")[0]
    result = mmpo(*shlex.split(command))
    assert result.exit_code == 0, result.output
    out = shlex.split(command)[-1]
    check_pairs(out)
    assert count_pairs(out) >= 1


def test_a_picture_in_another_column_is_not_passed_over(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no pairs as mmpo writes them"):
        next(read_pairs(trl_one_image(tmp_path / "x")))


def test_our_own_folders_pass(tmp_path: Path) -> None:
    build(tmp_path / "pairs", sources=10)
    check_pairs(tmp_path / "pairs")
    with pytest.raises(UserError, match="no pairs of the split 'dev'"):
        check_pairs(tmp_path / "pairs", "dev")
    with pytest.raises(UserError, match="no pairs of the split 'train'"):
        check_pairs(tmp_path / "gone")


def test_training_names_it_before_it_loads_a_model(tmp_path: Path) -> None:
    from mmpo.trainers.settings import TrainSettings
    from mmpo.trainers.train import train

    settings = TrainSettings(model=str(tmp_path / "no-model"), pairs=trl_parts(tmp_path / "trl"), objective={"dpo": {}})
    with pytest.raises(UserError, match="no pairs as mmpo writes them") as caught:
        train(settings, tmp_path / "run")
    assert "mmpo convert" in str(caught.value.hint)
