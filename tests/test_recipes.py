"""Recipes: reading, overriding, filling in, references, and errors that name file, line and the nearest key."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from mmpo.errors import UserError
from mmpo.recipes import complete, dump, load, read, shipped
from mmpo.recipes.source import RecipeSource, override, parse, parse_value, resolve

RUN = Path("runs/x")
INPUTS = {
    "demo.world": lambda: "world",
    "demo.model": lambda: "small-model",
    "demo.radiology_model": lambda: "small-radiology-model",
    "demo.video_model": lambda: "small-video-model",
}

TRAIN_AND_EVAL = """\
name: mine
model: some/model
train:
  pairs: pairs
  learning_rate: 2e-6
  objective:
    dpo: {beta: 0.2}
eval:
  images: photos
  annotations: ${eval.images}/instances.json
"""


def checked(text: str, *settings: str) -> Any:
    source = parse(text, "r.yaml")
    override(source, settings)
    return complete(source, run=RUN, inputs=INPUTS)


def mistake(text: str, *settings: str) -> str:
    with pytest.raises(UserError) as error:
        checked(text, *settings)
    return str(error.value)


# ---- shipped recipes


@pytest.mark.parametrize("name", shipped())
def test_every_shipped_recipe_is_correct(name: str) -> None:
    recipe = load(name, run=RUN, inputs=INPUTS)
    assert recipe.name == name
    assert recipe.description
    assert recipe.sections()


# HA-DPO's released training commands (Zhao et al. 2023): learning rate, warm-up, epochs, steps, pairs a step; rank,
# alpha and targets of the adapter; longest response in tokens, lambda.
HA_DPO = {
    "ha-dpo-minigpt4": (1e-4, 100, None, 1000, 32, 64, 16, ["q_proj", "k_proj", "v_proj"], 320, 0.5),
    "ha-dpo-instructblip": (4e-6, 0, 1, None, 32, 64, 16, ["q_proj", "k_proj", "v_proj"], 256, 0.0),
    "llava-1.5-7b": (2e-6, 0.03, 1, None, 128, 128, 256, "language_model", None, 0.0),
}


@pytest.mark.parametrize("name", HA_DPO)
def test_ha_dpo_s_published_settings(name: str) -> None:
    rate, warmup, epochs, steps, pairs, rank, alpha, targets, tokens, weight = HA_DPO[name]
    recipe = load(name, run=RUN, inputs=INPUTS)
    train = recipe.train
    assert recipe.seed == train.seed == 42
    assert (train.learning_rate, train.scheduler, train.warmup) == (rate, "cosine", warmup)
    assert train.max_steps == steps and (steps or train.epochs == epochs)
    assert train.batch_size * train.accumulation == pairs
    assert (train.lora.rank, train.lora.alpha, train.lora.targets, train.lora.dropout) == (rank, alpha, targets, 0.0)
    assert (train.max_grad_norm, train.weight_decay, train.dtype) == (1.0, 0.0, "bfloat16")
    assert train.objective["dpo"] == {"beta": 0.1}
    assert train.objective.get("auxiliary", {"weight": 0.0})["weight"] == weight
    assert (train.auxiliary is not None) == (weight > 0)
    assert tokens is None or train.max_response_tokens == tokens


def test_llava_hound_s_published_settings() -> None:
    """The script of the published DPO run and the paper's section 3: 4 pairs on 8 devices, 4 times accumulated."""
    recipe = load("video-7b", run=RUN, inputs=INPUTS)
    build, train, evaluation = recipe.build, recipe.train, recipe.eval
    assert (build.frames.num, build.frames.sampling, build.frames.max_side) == (8, "linspace_trunc", 336)
    assert (build.samples, build.temperature, build.top_p) == (6, 1.0, 0.95)
    assert (build.threshold, build.pairs_per_question, build.pick, build.min_gap) == (3, 1, "random", 0)
    assert build.judge.by == "model" and build.judge.max_words == 256
    assert train.objective == {"dpo": {"beta": 0.1}}
    assert (train.epochs, train.batch_size * train.accumulation, train.max_tokens) == (3, 128, 2048)
    assert (train.scheduler, train.warmup, train.weight_decay, train.dtype) == ("linear", 0.1, 0.0, "bfloat16")
    assert evaluation.video_qa.frames.model_dump() == {"num": 8, "sampling": "linspace_trunc", "max_side": 336}
    assert build.video_input == train.video_input == evaluation.video_input == "native"
    assert build.model == train.model == evaluation.model == "llava-hf/LLaVA-NeXT-Video-7B-hf"


def test_one_key_says_how_videos_are_shown() -> None:
    """It goes down to the sections that show any, and to no other; a section may still say otherwise."""
    text = """\
name: mine
model: m
video_input: frames
build: {builder: video_rewards, videos: v.jsonl}
train: {}
eval: {benchmarks: [video_qa]}
"""
    recipe = checked(text)
    assert recipe.build.video_input == recipe.train.video_input == recipe.eval.video_input == "frames"
    recipe = checked(text, "eval.video_input=native")
    assert recipe.train.video_input == "frames" and recipe.eval.video_input == "native"
    assert checked(text.replace("video_input: frames\n", "")).train.video_input == "auto"
    assert "video_input" in mistake(text.replace(": frames", ": both"))
    pictures = checked("name: x\nmodel: m\nvideo_input: frames\nbuild: {annotations: a.json}\ntrain: {}\n")
    assert pictures.train.video_input == "frames" and not hasattr(pictures.build, "video_input")


def test_the_demo_recipe_connects_its_sections() -> None:
    recipe = load("demo", run=RUN, inputs=INPUTS)
    assert recipe.sections() == ("build", "train", "eval")
    assert recipe.build.model == recipe.train.model == recipe.eval.model == "small-model"
    assert recipe.train.pairs == RUN / "build" / "pairs"
    assert recipe.eval.adapter == "runs/x/train/adapter"


def test_an_unknown_recipe_names_the_nearest() -> None:
    with pytest.raises(UserError, match="did you mean demo"):
        read("dmo")
    with pytest.raises(UserError, match=r"no recipe file my\.yaml"):
        read("my.yaml")


def test_a_file_is_named_after_itself(tmp_path: Path) -> None:
    file = tmp_path / "photos.yaml"
    file.write_text("train: {model: m, pairs: p}")
    assert load(str(file), run=RUN).name == "photos"


def test_a_file_that_is_no_text_is_a_user_error(tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="cannot be read"):
        read(str(tmp_path / "r.yaml"))


# ---- filling in and references


def test_sections_take_over_model_seed_and_outputs() -> None:
    recipe = checked(TRAIN_AND_EVAL + "seed: 7\n")
    assert recipe.train.model == recipe.eval.model == "some/model"
    assert recipe.train.seed == 7
    assert recipe.train.pairs == Path("pairs")
    assert recipe.eval.adapter == "runs/x/train/adapter"
    assert recipe.eval.annotations == "photos/instances.json"


def test_eval_loads_the_model_as_train_did() -> None:
    recipe = checked(TRAIN_AND_EVAL, "train.quantize=nf4", "train.trust_remote_code=true")
    assert recipe.eval is not None and (recipe.eval.quantize, recipe.eval.trust_remote_code) == ("nf4", True)
    recipe = checked(TRAIN_AND_EVAL, "train.quantize=nf4", "eval.quantize=none")
    assert recipe.eval is not None and (recipe.eval.quantize, recipe.eval.trust_remote_code) == ("none", False)


def test_a_section_keeps_what_it_says_itself() -> None:
    recipe = checked(TRAIN_AND_EVAL, "train.model=other", "eval.adapter=null")
    assert recipe.train.model == "other"
    assert recipe.eval.adapter is None


def test_a_reference_to_a_missing_section_is_an_error() -> None:
    assert "${build.pairs} refers to nothing" in mistake("train: {model: m, pairs: '${build.pairs}'}\nname: x")


def test_a_reference_keeps_the_type_and_text_is_put_together() -> None:
    source = RecipeSource("r", {"a": 3, "b": "${a}", "c": "x${a}/${b}", "d": ["${d2}"], "d2": {"e": "${a}"}})
    resolve(source, {})
    assert source.data == {"a": 3, "b": 3, "c": "x3/3", "d": [{"e": 3}], "d2": {"e": 3}}


def test_an_input_is_called_only_if_it_is_used() -> None:
    def never() -> str:
        raise AssertionError

    source = RecipeSource("r", {"a": "${used}"})
    resolve(source, {"used": lambda: "yes", "unused": never})
    assert source.data == {"a": "yes"}


def test_references_in_a_circle_are_an_error() -> None:
    source = parse("a: ${b}\nb: ${c}\nc: ${b}\n", "r.yaml")
    with pytest.raises(UserError, match=r"r\.yaml:3: the references b -> c -> b run in a circle"):
        resolve(source, {})


def test_an_unknown_reference_names_the_nearest() -> None:
    text = mistake(TRAIN_AND_EVAL.replace("${eval.images}", "${evl.images}"))
    assert "r.yaml:10: ${evl.images} refers to nothing" in text
    assert "did you mean eval.images?" in text


# ---- mistakes


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("learning_rate", "lerning_rate", "r.yaml:5: train.lerning_rate: unknown key; did you mean learning_rate?"),
        ("train:", "trian:", "r.yaml:3: trian: unknown key; did you mean train?"),
        ("2e-6", "fast", "r.yaml:5: train.learning_rate: must be a number (it is 'fast')"),
        ("2e-6", "-1", "r.yaml:5: train.learning_rate: input should be greater than 0 (it is -1)"),
        ("  pairs: pairs\n", "", "r.yaml:3: train.pairs: missing"),
        ("name: mine", "name: a b", "r.yaml:1: name: string should match pattern"),
    ],
)
def test_a_mistake_is_named_with_its_line(old: str, new: str, message: str) -> None:
    assert message in mistake(TRAIN_AND_EVAL.replace(old, new, 1))


def test_mistakes_of_a_build_name_no_inner_parts() -> None:
    build = "build:\n  annotations: a.json\n"
    text = mistake(TRAIN_AND_EVAL + build, "build.pairs_per_image=3")
    assert "r.yaml:11: build: pairs_per_image can be 1 with `variants: 1`\n" in text + "\n"
    text = mistake(TRAIN_AND_EVAL + build, "build.builder=foo")
    assert "build.builder: should be one of candidates, " in text and "(it is 'foo')" in text


def test_nested_keys_name_the_nearest_at_their_own_level() -> None:
    text = TRAIN_AND_EVAL.replace("  pairs: pairs\n", "  pairs: pairs\n  lora:\n    rnak: 4\n")
    assert "r.yaml:6: train.lora.rnak: unknown key; did you mean rank?" in mistake(text)


def test_every_mistake_gets_a_line() -> None:
    text = mistake(TRAIN_AND_EVAL.replace("learning_rate", "rate").replace("images: photos", "images: 3"))
    assert "train.rate" in text and "eval.images" in text


def test_a_key_given_twice_is_an_error() -> None:
    assert "r.yaml:11: model is given twice (first in line 2)" in mistake(TRAIN_AND_EVAL + "model: other\n")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "r.yaml: the recipe is empty"),
        ("- a\n", "r.yaml:1: a recipe is a mapping"),
        ("a: [1\nb: 2", "r.yaml:2: not valid YAML"),
        ("a: !!python/object:os.system {}\n", "r.yaml:1: not valid YAML"),
        ("a: *nowhere\n", "r.yaml:1: not valid YAML"),
        ("a: \x00", "r.yaml:1: not valid YAML"),
    ],
)
def test_text_that_is_no_recipe(text: str, message: str) -> None:
    with pytest.raises(UserError) as error:
        parse(text, "r.yaml")
    assert message in str(error.value)


# ---- overrides and scalars


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-4", 1e-4), ("1.", 1.0), ("3", 3), ("010", 10), ("0x10", 16), ("-.inf", float("-inf")),
        ("true", True), ("on", "on"), ("no", "no"), ("null", None), ("", None),
        ("2026-01-01", "2026-01-01"), ("1:30", "1:30"), ("'3'", "3"),
        ("[1, a]", [1, "a"]), ("{dpo: {beta: 1e-1}}", {"dpo": {"beta": 0.1}}),
    ],
)  # fmt: skip
def test_values_are_yaml_1_2(text: str, value: Any) -> None:
    found = parse_value(text)
    assert found == value and type(found) is type(value)
    assert parse(dump({"a": found}), "r").data == {"a": value}


def test_overrides_reach_everywhere_and_the_last_wins() -> None:
    recipe = checked(
        TRAIN_AND_EVAL, "train.objective.dpo.beta=0.5", "train.objective={dpo: {beta: 1}}", "train.lora.rank=4"
    )
    assert recipe.train.objective == {"dpo": {"beta": 1}}
    assert recipe.train.lora.rank == 4
    assert checked(
        TRAIN_AND_EVAL, "eval.benchmarks=[pope, chair]", "eval.benchmarks.0=chair", "eval.benchmarks.1=pope"
    ).eval.benchmarks == [
        "chair",
        "pope",
    ]


def test_a_mistake_in_an_override_is_named_as_such() -> None:
    assert "--set train.learning_rte=1: train.learning_rte: unknown key; did you mean learning_rate?" in mistake(
        TRAIN_AND_EVAL, "train.learning_rte=1"
    )


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("train.max_steps", "not of the form"),
        (".a=1", "not of the form"),
        ("train.pairs.a=1", "train.pairs is the value 'pairs', it has no 'a'"),
        ("model=[1", "the value is not valid YAML"),
    ],
)
def test_an_override_that_makes_no_sense(setting: str, message: str) -> None:
    assert message in mistake(TRAIN_AND_EVAL, setting)


def test_a_list_item_that_is_not_there() -> None:
    source = parse("a: [1]\n", "r.yaml")
    with pytest.raises(UserError, match="a is a list of 1, it has no '3'"):
        override(source, ["a.3=1"])


# ---- a resolved recipe reads back


def test_the_resolved_recipe_reads_back_as_itself() -> None:
    recipe = checked(TRAIN_AND_EVAL)
    again = checked(dump(recipe.model_dump(mode="json")))
    assert again == recipe


DOUBLING_TEXT = "a0: xxxxxxxxxx\n" + "".join(f"a{n}: ${{a{n - 1}}}${{a{n - 1}}}\n" for n in range(1, 40))
DOUBLING_LIST = "a0: [x]\n" + "".join(f"a{n}: ['${{a{n - 1}}}', '${{a{n - 1}}}']\n" for n in range(1, 40))
LONG_TEXT = f"a: {'x' * 20000}\nb: {'${a}' * 100}\n"
LONG_CHAIN = "".join(f"a{n}: ${{a{n + 1}}}\n" for n in range(3000)) + "a3000: 1\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (DOUBLING_TEXT, "make more than 20,000 values"),
        (DOUBLING_LIST, "make more than 20,000 values"),
        (LONG_TEXT, "make a text of 2,000,000 characters"),
        (LONG_CHAIN, "references lead to references more than 100 times"),
    ],
)
def test_references_that_multiply_are_refused(text: str, message: str) -> None:
    with pytest.raises(UserError, match=rf"r\.yaml:\d+: .*{message}"):
        resolve(parse(text, "r.yaml"), {})


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("a=[", "--set a=\\[: the value is not valid YAML"),
        ("a=" + "[" * 3000, "nested more than 100 deep"),
        ("a=&a [*a]", "inside its own anchor"),
        ("a=" + "9" * 400, "too large"),
        ("a=2001-99-99T", "not valid YAML|"),
        (".".join("a" * 3000) + "=1", "more than 100 keys inside one another"),
    ],
)
def test_hostile_settings_are_one_clear_line(setting: str, message: str) -> None:
    source = parse("a: 1", "r.yaml")
    try:
        override(source, [setting])
    except UserError as error:
        assert re.search(message, error.message) and len(error.message) < 300
    else:
        assert message.endswith("|")
