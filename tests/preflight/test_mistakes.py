"""Mistakes are told before any work starts: all of them, each with its line, its key and a remedy, and no folder is
left behind. The same holds for `recipe check` and for the commands that run a recipe."""

from __future__ import annotations

import json
import os
import shutil
import socket
from pathlib import Path

import pytest

from mmpo.errors import UserError
from mmpo.preflight import examine
from mmpo.recipes import read
from tests.cli.conftest import Invoke

WHOLE = """\
model: {model}
build:
  annotations: {photos}/annotations.jsonl
  images: {photos}
train:
  objective:
    dpo: {{beta: 0.1}}
  max_steps: 2
  learning_rate: 1e-4
eval:
  annotations: {photos}/annotations.jsonl
  images: {photos}
  benchmarks: [pope]
  pope: {{splits: [random], questions_per_image: 2}}
"""


@pytest.fixture
def whole(here: Path, photos: Path, tiny_llava_folder: Path) -> Path:
    """A right recipe of three sections, `my.yaml`."""
    file = here / "my.yaml"
    file.write_text(WHOLE.format(model=tiny_llava_folder, photos=photos))
    return file


def refused(mmpo: Invoke, *words: object, command: str = "run") -> str:
    """What `mmpo run my.yaml …` says; it must refuse without a trace and leave no folder."""
    result = mmpo(*command.split(), "my.yaml", *words)
    assert result.exit_code == 2, result.output
    assert "Traceback" not in result.output and "please report" not in result.output
    assert not Path("runs").exists()
    return result.stderr


def test_a_right_recipe_is_told_in_a_few_lines(mmpo: Invoke, whole: Path) -> None:
    result = mmpo("recipe", "check", "my.yaml")
    assert result.exit_code == 0, result.output
    assert len(result.stdout.splitlines()) == 3
    assert "my.yaml: correct; it has build, train, eval" in result.stderr
    full = mmpo("recipe", "check", "my.yaml", "--full")
    assert "max_grad_norm: 1.0" in full.stdout


SETTINGS = [
    ("train.objective.dpo.beta=abc", "train.objective.dpo.beta: must be a number (it is 'abc')"),
    ("train.objective.dpo.beta=-1", "must be greater than 0 (it is -1)"),
    ("train.objective.dpo.beta=.nan", "must be a finite number (it is nan)"),
    ("train.objective.dpo.beta='0.1'", "must be a number (it is '0.1')"),
    ("train.objective.dpo.bta=1", "has no parameter 'bta'"),
    ("train.objective.dppo.beta=1", "unknown objective 'dppo'"),
    ("train.objective={ipo: {tau: 0}}", "train.objective.ipo.tau: must be greater than 0"),
    ("train.objective={dpo: [0.1]}", "train.objective.dpo: must be names with values"),
    ("train.objective={auxiliary: {weight: 1}}", "there is no data for it"),
    ("train.objective={nca: {}}", "reads groups of scored responses, and there are none"),
    ("train.groups={data: photos}", "groups of responses have no effect on this objective"),
    ("train.groups={data: photos, per_pair: 0}", "train.groups.per_pair: must be a number greater than 0, or once"),
    ("train.learning_rate=-1e-4", "train.learning_rate: input should be greater than 0"),
    ("train.learning_rate=.nan", "train.learning_rate: input should be a finite number"),
    ("train.learning_rate=.inf", "finite"),
    ("train.learning_rate='1e-4'", "train.learning_rate: must be a number (it is '1e-4')"),
    ("train.batch_size=true", "train.batch_size: must be a whole number (it is True)"),
    ("train.batch_size=2.5", "train.batch_size"),
    ("train.max_steps=ten", "train.max_steps: must be a whole number (it is 'ten')"),
    ("train.dtype=fp16", "train.dtype"),
    ("train.lora.targets=[q_prj]", "no linear layer is called q_prj in the language model"),
    ("train.lora.targets='[('", "not a regular expression"),
    ("train.lora.rank=0", "train.lora.rank"),
    ("train.corruption={kind: crop}", "a corruption has no effect on this objective"),
    ("train.corruption={kind: crop, parameters: {stp: 1}}", "has no parameter 'stp'"),
    ("train.token_weights={}", "token_weights have no effect"),
    ("train.eval_pairs=nowhere", "nowhere: no such folder"),
    ("train.pairs=photos", "train.pairs: photos"),
    ("train.perturbation={relevance: clip-here}", "clip-here: no such folder, and no such model in the local cache"),
    ("train.objectiv=dpo", "--set train.objectiv=dpo: train.objectiv: unknown key; did you mean objective?"),
    ("train.objectiv.dpo.beta=1", "--set train.objectiv.dpo.beta=1: train.objectiv: unknown key"),
    ("tran.max_steps=1", "--set tran.max_steps=1: tran: unknown key; did you mean train?"),
    ("learning_rate=1", "learning_rate: unknown key; it belongs into `train:`"),
    ("build.annotations=photos", "an annotation file belongs here\n  hint: files in it that fit: annotations.jsonl"),
    ("build.annotations=photos/anotations.jsonl", "file\n  hint: did you mean photos/annotations.jsonl?"),
    ("build.images=photos/0.png", "photos/0.png is a file; a folder belongs here"),
    ("build.vocabulary=words.txt", "words.txt: no such file"),
    ("build.vocabulary=photos/0.png", "build.vocabulary: "),
    ("build.images=~/photos", "~ is the shell's: write the whole path"),
    ("model=https://huggingface.co/llava-hf/llava-1.5-7b-hf", "the name is OWNER/MODEL"),
    ("train.objective={DPO: {beta: 0.1}}", "did you mean 'dpo'?"),
    ("build={builder: video_rewards, videos: photos/annotations.jsonl, frames: {sampling: linspce}}",
     "build.frames.sampling: no frame sampling is called 'linspce'"),
    ("build={builder: mia, data: photos/annotations.jsonl}", "build.data: photos/annotations.jsonl:1: neither"),
    ("build={builder: radiology, reports: photos/annotations.jsonl}", "build.reports: "),
    ("train.warmup=5.5", "warmup: below 1 it is a share of all steps"),
    ("build.model=nomodel", "nomodel: no such folder, and no such model in the local cache"),
    ("model=err/nomodel", "err/nomodel: no such folder, and no such model in the local cache"),
    ("build.templates.judge=ha_judge", "no prompt is called 'ha_judge'"),
    ("build.judge={backend: server, model: m, base_url: 'ftp://x'}", "build.judge.base_url"),
    ("build.judge={backend: server, model: m, base_url: 'http://127.0.0.1:1/v1', api_key_env: NO_KEY_HERE}",
     "the environment variable NO_KEY_HERE is not set"),
    ("build.judge={backend: local, model: nomodel}", "build.judge.model: nomodel: no such folder"),
    ("build.builder=mias", "should be one of"),
    ("eval.adapter=photos", "photos: not an adapter"),
    ("eval.adapter=nowhere", "nowhere: no such adapter folder"),
    ("eval.benchmarks=[pop]", "eval.benchmarks.0"),
    ("eval.benchmarks=[mmhal]", "eval.mmhal: mmhal needs its questions and images"),
    ("eval.benchmarks=[amber]", "eval.amber: amber needs eval.amber.data"),
    ("eval.benchmarks=[video_qa]", "eval.video_qa"),
    ("eval.pope.questions=[q.json]", "q.json: no such file"),
    ("eval.cache=photos/0.png/cache", "photos/0.png is a file"),
]  # fmt: skip


@pytest.mark.parametrize(("setting", "message"), SETTINGS, ids=[one for one, _ in SETTINGS])
def test_one_mistake(mmpo: Invoke, whole: Path, setting: str, message: str) -> None:
    said = refused(mmpo, "--set", setting)
    assert message in said
    assert f"--set {setting}: " in said or "my.yaml" in said, "it says where"
    assert said == refused(mmpo, "--set", setting, command="recipe check")


def test_the_line_of_the_file_is_named(mmpo: Invoke, whole: Path) -> None:
    whole.write_text(whole.read_text().replace("beta: 0.1", "beta: abc"))
    assert refused(mmpo).strip() == "error: my.yaml:7: train.objective.dpo.beta: must be a number (it is 'abc')"


def test_everything_is_told_at_once_in_the_order_of_the_file(mmpo: Invoke, whole: Path) -> None:
    text = (
        whole.read_text().replace("beta: 0.1", "beta: abc").replace("1e-4", "fast").replace("/annotations.jsonl", "/x")
    )
    whole.write_text(text + "  mmhal: {questions: q.json, images: nowhere}\n  judge_: 1\n")
    said = refused(mmpo, "--set", "eval.benchmarks=[pope, mmhal]", "--set", "train.num_train_epochs=3")
    lines = [line.split(": ")[1] for line in said.splitlines() if ".yaml:" in line or line.startswith("--set")]
    assert "mistakes" in said.splitlines()[0]
    for key in (
        "build.annotations", "train.objective.dpo.beta", "train.learning_rate", "eval.annotations",
        "eval.mmhal.questions", "eval.mmhal.images", "eval.judge_", "train.num_train_epochs",
    ):  # fmt: skip
        assert lines.count(key) == 1, (key, said)
    numbers = [int(line.split(":")[1]) for line in said.splitlines() if line.startswith("my.yaml:")]
    assert numbers == sorted(numbers)


OTHERS = {
    "num_train_epochs": "epochs",
    "per_device_train_batch_size": "batch_size",
    "gradient_accumulation_steps": "accumulation",
    "bf16": "dtype: bfloat16",
    "fp16": "dtype: bfloat16",
    "loss_type": "objective",
    "max_length": "max_tokens",
    "max_prompt_length": "max_tokens",
    "warmup_ratio": "warmup",
    "warmup_steps": "warmup",
    "lora_r": "lora: {rank",
    "lora_alpha": "lora: {alpha",
    "ref_model": "adapter off",
    "lr_scheduler_type": "scheduler",
    "output_dir": "--out DIR",
    "precompute_ref_log_probs": "cache_reference",
    "dataloader_num_workers": "workers",
    "beta": "dpo: {beta",
    "save_total_limit": "keep_checkpoints",
}


@pytest.mark.parametrize("key", OTHERS)
def test_another_trainer_s_key_answers_with_ours(mmpo: Invoke, whole: Path, key: str) -> None:
    whole.write_text(whole.read_text().replace("  max_steps: 2\n", f"  {key}: 1\n"))
    said = refused(mmpo)
    assert f"my.yaml:8: train.{key}: unknown key; " in said and OTHERS[key] in said


def test_a_tab_is_called_a_tab(mmpo: Invoke, here: Path) -> None:
    for text in ("model: m\ntrain:\n\tpairs: p\n", "model: m\ntrain:\n  pairs: p\n\tmax_steps: 2\n", "a:\n\t- b\n"):
        (here / "my.yaml").write_text(text)
        said = refused(mmpo)
        assert "a tab; YAML is indented with spaces" in said and "cannot start any token" not in said
        assert f"my.yaml:{text[: text.index(chr(9))].count(chr(10)) + 1}: " in said


def test_what_an_earlier_section_makes_is_not_missing(mmpo: Invoke, whole: Path) -> None:
    text = whole.read_text().replace("train:\n", "train:\n  pairs: ${build.pairs}\n")
    whole.write_text(text + "  adapter: ${run}/train/adapter\n  chair: {vocabulary: '${run}/words.json'}\n")
    assert mmpo("recipe", "check", "my.yaml").exit_code == 0


def test_half_of_what_an_earlier_section_makes_is_not_looked_at(whole: Path) -> None:
    """A run that was killed in the middle of its build goes on: the build will make the rest. Where it will not, what
    is there must be whole."""
    whole.write_text(whole.read_text().replace("train:\n", "train:\n  pairs: ${build.pairs}\n"))
    Path("runs/a/build/pairs/data").mkdir(parents=True)
    examine(read("my.yaml"), run=Path("runs/a"))
    with pytest.raises(UserError, match="no pairs"):
        examine(read("my.yaml"), run=Path("runs/a"), finished=["build"])


@pytest.mark.parametrize(
    "key", ["model", "build.annotations", "build.images", "train.pairs", "eval.adapter", "eval.chair.vocabulary"]
)
def test_a_name_too_long_for_any_disk(mmpo: Invoke, whole: Path, key: str) -> None:
    assert "too long" in refused(mmpo, "--set", f"{key}={'a' * 300}").lower()


def test_judges_that_do_not_answer_are_a_warning(mmpo: Invoke, whole: Path) -> None:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        port = server.getsockname()[1]
        setting = f"build.judge={{backend: server, model: m, base_url: 'http://127.0.0.1:{port}/v1'}}"
        silent = mmpo("recipe", "check", "my.yaml", "--set", setting)
        assert silent.exit_code == 0 and f"127.0.0.1:{port} takes no connection now" in silent.stderr
        server.listen()
        assert "warning" not in mmpo("recipe", "check", "my.yaml", "--set", setting).stderr


def test_pictures_that_are_not_there(mmpo: Invoke, whole: Path, photos: Path) -> None:
    (photos / "0.png").unlink()
    said = mmpo("recipe", "check", "my.yaml")
    assert (
        said.exit_code == 0 and "1 of 4 pictures looked at can't be opened; the first is missing: 0.png" in said.stderr
    )
    for picture in photos.glob("*.png"):
        picture.unlink()
    assert "none of the 4 pictures looked at can be opened" in refused(mmpo)


def test_links_are_followed_where_the_recipe_says_so(mmpo: Invoke, whole: Path, photos: Path, here: Path) -> None:
    store = here / "store"
    store.mkdir()
    for picture in photos.glob("*.png"):
        shutil.move(picture, store / picture.name)
        picture.symlink_to(store / picture.name)
    said = refused(mmpo)
    assert "is a link out of" in said and "allow_links: true" in said
    follow = ("--set", "build.allow_links=true", "--set", "eval.allow_links=true")
    assert mmpo("recipe", "check", "my.yaml", *follow).exit_code == 0
    (photos / "annotations.jsonl").write_text(json.dumps({"image": "../store/0.png", "objects": ["cat"]}) + "\n")
    assert "path_escape" in refused(mmpo, *follow), "a path that climbs out stays refused"


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda model: (model / "config.json").unlink(), "not a model folder (no config.json)"),
        (lambda model: (model / "config.json").write_text("{"), "not valid JSON"),
        (lambda model: (model / "model.safetensors").unlink(), "no *.safetensors file"),
        (lambda model: os.truncate(model / "model.safetensors", 5000), "cut short"),
        (lambda model: os.truncate(model / "model.safetensors", 4), "damaged or cut short"),
        (lambda model: (model / "model.safetensors").write_bytes(b"<html>not found</html>" * 9), "damaged"),
        (lambda model: (model / "model.safetensors").rename(model / "pytorch_model.bin"), "pickles"),
        (lambda model: [one.unlink() for one in model.glob("*processor*")], "no processor"),
        (lambda model: [one.unlink() for one in model.glob("tokenizer.json")], "no tokenizer"),
    ],
)  # fmt: skip
def test_a_damaged_model_folder(
    mmpo: Invoke, whole: Path, tiny_llava_folder: Path, here: Path, damage, message
) -> None:  # type: ignore[no-untyped-def]
    model = Path(shutil.copytree(tiny_llava_folder, here / "model"))
    assert mmpo("recipe", "check", "my.yaml", "--set", "model=model").exit_code == 0
    damage(model)
    said = refused(mmpo, "--set", "model=model")
    assert message in said and said.count("--set model=model: model: ") == 1, "told once, not for each section"


def test_a_finished_section_is_not_looked_at_again(mmpo: Invoke, recipe: Path, pairs: Path) -> None:
    done = mmpo("train", "small.yaml", "--out", "runs/a")
    assert done.exit_code == 0, done.output
    shutil.rmtree(pairs)
    assert mmpo("run", "small.yaml", "--out", "runs/a").exit_code == 0


def test_an_evaluation_follows_links_where_it_may(here: Path, photos: Path) -> None:
    from mmpo.errors import Quarantined
    from mmpo.eval.settings import EvalSettings
    from mmpo.files.images import load_image
    from mmpo.files.paths import follows_links

    (here / "elsewhere").mkdir()
    shutil.move(photos / "0.png", here / "elsewhere" / "0.png")
    (photos / "0.png").symlink_to(here / "elsewhere" / "0.png")

    @follows_links
    def stage(settings: EvalSettings) -> tuple[int, int]:
        return load_image("0.png", root=photos).size

    assert stage(EvalSettings(model="m", allow_links=True)) == (32, 32)
    for settings in (EvalSettings(model="m"), EvalSettings(model="m", allow_links=False)):
        with pytest.raises(Quarantined, match="allow_links: true"):
            stage(settings)
    for path in ("../elsewhere/0.png", str(here / "elsewhere" / "0.png")):
        with pytest.raises(Quarantined, match="path_escape"):
            follows_links(lambda settings, path=path: load_image(path, root=photos))(
                EvalSettings(model="m", allow_links=True)
            )
