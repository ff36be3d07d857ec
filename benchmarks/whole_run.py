"""The demo's whole job with peers' parts and with mmpo's: pairs from 600 pictures, 220 steps, POPE and CHAIR before and
after.

    python benchmarks/whole_run.py --out DIR [--quick] [--share 0.1] [--steps 22] [--threads N] [--json OUT]

mmpo's side is the recipe of `mmpo demo`, section by section. (Some settings differ: the benchmarks are POPE and CHAIR,
drift is not measured, and the SFT term is averaged over tokens, which TRL can do too.)
The peers' side does the same work:

* building and evaluating: each distinct question by processor and `model.generate`, one by one as lmms-eval does; the
  samples of a picture by one `generate(num_return_sequences=…)`; the adapter merged into the model. Greedy answers must
  be the same token by token, but where the two best tokens were nearly tied (these are counted). What makes pairs and
  scores of the answers is mmpo's on both sides, and its seconds count on both.
* training: TRL's DPOTrainer from the same start on the same pairs in the same order; the losses must be the same step
  by step. mmpo's side also evaluates on held-out pairs, TRL's does not.

The peers' side is slow. It gets the questions about every n-th picture (`--share`) and the first `--steps` steps, and
its seconds are scaled up to all of them; `--share 1 --steps 220` leaves nothing to scale. Both sides run in this
process, with imports done. A finished phase is kept in DIR and not measured again; a stopped one starts over.
"""

# ruff: noqa: E402  (the environment must be set before torch and transformers are imported)
from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import sys
import time
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any
from unittest import mock

warnings.filterwarnings("ignore")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TQDM_DISABLE", "1")
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from PIL import Image

from benchmarks.answering import ask_ordinarily, timed
from benchmarks.cells import open_comparison
from benchmarks.measuring import command_line
from mmpo.cli.demo_run import QUICK_SETTINGS
from mmpo.cli.demo_world import QUICK_SPLITS, SPLITS, WORLD, DemoWorld
from mmpo.data.pair import PreferencePair
from mmpo.data.reader import read_pairs
from mmpo.data.records import read_records
from mmpo.errors import in_one_line
from mmpo.files.atomic import read_json, write_json
from mmpo.files.images import load_image
from mmpo.models.families.loading import VLM, load_vlm
from mmpo.models.generation.answer import Answer, AnswerEngine
from mmpo.models.generation.asking import flat
from mmpo.pipeline import open_run, run_section
from mmpo.preflight import examine
from mmpo.recipes import Recipe, override, read
from mmpo.runs import RunFolder
from mmpo.trainers.lora import add_lora
from mmpo.trainers.preference import PreferenceTrainer

SECTIONS = ("build", "train", "eval")
SETTINGS = (
    "eval.benchmarks=[pope, chair]", "eval.drift.texts=false", "eval.drift.kl=false",
    "train.objective.sft.per=token", "train.logging_steps=1",
)  # fmt: skip
NEAR_TIE = 1e-3
"""Lead of a token over the runner-up, in logits, below which another order of sums may choose the other."""
SAME_LOSS = 1e-2
"""How far apart the losses of a step may be: rounding errors grow from step to step."""


@dataclass(frozen=True)
class Asked:
    """What mmpo's engine was asked, and its greedy answer; or how many samples of `kind` it was to draw."""

    state: str
    kind: str
    picture: str
    text: str
    options: dict[str, Any]
    token_ids: tuple[int, ...] = ()
    margin: float = 0.0


class Notes:
    """What goes on inside mmpo's sections: the engine's requests and seconds, the pairs of each training step."""

    def __init__(self, world: Path) -> None:
        self.paths = {hashlib.sha256(file.read_bytes()).hexdigest(): str(file) for file in world.rglob("*.png")}
        self.asked: list[Asked] = []
        self.steps: list[list[str]] = []
        self.engine_seconds = 0.0

    @contextmanager
    def taken(self) -> Iterator[None]:
        """Notes are taken in this block."""
        answer, sample_many, train = AnswerEngine.answer, AnswerEngine.sample_many, PreferenceTrainer.train

        def noted_answer(engine: AnswerEngine, asked: Any, **options: Any) -> Iterator[Answer]:
            groups = list(asked)
            questions = [(question.text, images) for question, images in flat(groups)]
            limit = options["max_new_tokens"]
            for made, (text, images) in zip(self._timed(answer(engine, groups, **options)), questions, strict=True):
                kind = f"answers of up to {limit} tokens"
                self._add(engine, kind, images.sources[0], text, {"max_new_tokens": limit}, made)
                yield made

        def noted_samples(engine: AnswerEngine, prompts: Any, k: int, **options: Any) -> Iterator[list[Answer]]:
            prompts, limit = list(prompts), {"max_new_tokens": options["max_new_tokens"]}
            drawing = {"num_return_sequences": k, "temperature": options["temperature"], "top_p": options["top_p"]}
            many = self._timed(sample_many(engine, prompts, k, **options))
            for made, (picture, text) in zip(many, prompts, strict=True):
                self._add(engine, "descriptions", picture, text, limit, made[0])
                if k:
                    sampling = {**limit, **drawing, "do_sample": True, "top_k": 0}
                    self._add(engine, f"{k} samples of descriptions", picture, text, sampling)
                yield made

        def noted_train(trainer: PreferenceTrainer, *args: Any, **options: Any) -> Any:
            rows = trainer.pairs.rows
            self.steps = [[rows[i].id for batch in step for i in batch] for step in trainer.schedule.steps]
            return train(trainer, *args, **options)

        with (
            mock.patch.object(AnswerEngine, "answer", noted_answer),
            mock.patch.object(AnswerEngine, "sample_many", noted_samples),
            mock.patch.object(PreferenceTrainer, "train", noted_train),
        ):
            yield

    def _timed(self, answers: Iterator[Any]) -> Iterator[Any]:
        while True:
            start = time.perf_counter()
            try:
                made = next(answers)
            except StopIteration:
                return
            finally:
                self.engine_seconds += time.perf_counter() - start
            yield made

    def _add(
        self,
        engine: AnswerEngine,
        kind: str,
        source: Any,
        text: Any,
        options: dict[str, Any],
        made: Answer | None = None,
    ) -> None:
        state = "after" if hasattr(engine.vlm.model, "peft_config") and not engine._off else "before"
        picture = self.paths[hashlib.sha256(source).hexdigest()] if isinstance(source, bytes) else str(source)
        ids, margin = ((), 0.0) if made is None else (made.token_ids, made.margin)
        self.asked.append(Asked(state, kind, picture, text, options, ids, margin))


def mmpo_section(run: RunFolder, recipe: Recipe, section: str) -> dict[str, Any]:
    """One section of the recipe, from the start."""
    shutil.rmtree(run.path / section, ignore_errors=True)
    notes = Notes(run.path / WORLD)
    with notes.taken():
        seconds, _ = timed(lambda: run_section(run, recipe, section))
    return {
        "seconds": seconds,
        "engine_seconds": notes.engine_seconds,
        "asked": [asdict(one) for one in notes.asked],
        "steps": notes.steps,
    }


def peers_asking(recipe: Recipe, ours: dict[str, Any], share: float) -> dict[str, Any]:
    """The questions of a section about every n-th picture, one by one; seconds by kind, scaled up to all pictures."""
    asked = [Asked(**one) for one in ours["asked"]]
    pictures = list(dict.fromkeys(one.picture for one in asked))
    some = set(pictures[:: max(1, round(1 / share))])
    kinds: dict[str, dict[str, float]] = defaultdict(lambda: dict.fromkeys(("all", "asked", "seconds"), 0))
    different: list[dict[str, Any]] = []
    for state in dict.fromkeys(one.state for one in asked):
        vlm = _peers_model(recipe, state)
        ask_ordinarily(vlm, Image.open(pictures[0]).convert("RGB"), "What is this?", do_sample=False, max_new_tokens=2)
        for one in (one for one in asked if one.state == state):
            found = kinds[f"{state}: {one.kind}"]
            found["all"] += 1
            if one.picture not in some:
                continue
            seconds, made = timed(lambda: _generate(vlm, one))  # noqa: B023 (called at once)
            found["asked"] += 1
            found["seconds"] += seconds
            if one.token_ids and made != [list(one.token_ids)]:
                different.append({"picture": one.picture, "text": one.text, "margin": one.margin})
    if wrong := [one for one in different if one["margin"] > NEAR_TIE]:
        raise RuntimeError(f"{len(wrong)} answers differ and are no near-ties: {wrong[0]}")
    scaled = sum(kind["seconds"] * kind["all"] / kind["asked"] for kind in kinds.values())
    own = ours["seconds"] - ours["engine_seconds"]
    return {"seconds": own + scaled, "mmpo_part": own, "kinds": dict(kinds), "near_ties": len(different)}


def _peers_model(recipe: Recipe, state: str) -> VLM:
    assert recipe.eval is not None
    if state == "before":
        return load_vlm(recipe.eval.model)
    vlm = load_vlm(recipe.eval.model, adapter=recipe.eval.adapter)
    return replace(vlm, model=vlm.model.merge_and_unload())  # type: ignore[operator]


def _generate(vlm: VLM, one: Asked) -> list[list[int]]:
    image = Image.open(one.picture).convert("RGB")
    return ask_ordinarily(vlm, image, one.text, **{"do_sample": False, **one.options})


def peers_training(recipe: Recipe, ours: dict[str, Any], steps: int, folder: Path) -> dict[str, Any]:
    """TRL's trainer on the pairs of mmpo's first `steps` steps; seconds scaled up to all of mmpo's."""
    from datasets import Dataset
    from transformers import TrainerCallback
    from trl import DPOConfig, DPOTrainer

    settings = recipe.train
    assert settings is not None
    pairs = {pair.id: pair for pair in read_pairs(settings.pairs)}
    order = ours["steps"][:steps]
    start = time.perf_counter()
    torch.manual_seed(settings.seed)
    vlm = add_lora(load_vlm(settings.model), settings.lora)
    lora = vlm.model.peft_config["default"]  # type: ignore[union-attr, index]
    first = {name: tensor.clone() for name, tensor in vlm.model.state_dict().items() if "lora_" in name}
    dpo, sft = settings.objective["dpo"], settings.objective["sft"]
    arguments = DPOConfig(
        output_dir=str(folder), report_to=[], max_length=None, bf16=False, use_cpu=True, disable_tqdm=True,
        gradient_checkpointing=settings.gradient_checkpointing, save_strategy="no", logging_steps=1,
        loss_type=["sigmoid", "sft"], loss_weights=[1.0, sft["weight"]], beta=dpo["beta"],
        per_device_train_batch_size=settings.batch_size, max_steps=len(ours["steps"]), warmup_steps=settings.warmup,
        learning_rate=settings.learning_rate, lr_scheduler_type=settings.scheduler,
        weight_decay=settings.weight_decay, max_grad_norm=settings.max_grad_norm,
    )  # fmt: skip
    ends: list[float] = []

    class Clock(TrainerCallback):  # type: ignore[misc]
        def on_step_end(self, args: Any, state: Any, control: Any, **rest: Any) -> None:
            ends.append(time.perf_counter())
            control.should_training_stop = len(ends) == steps

    class InOrder(DPOTrainer):  # type: ignore[misc]
        def _get_train_sampler(self, *args: Any) -> Any:
            return torch.utils.data.SequentialSampler(self.train_dataset)

    trainer: Any = InOrder(
        model=vlm.model.unload(),  # type: ignore[operator]
        args=arguments,
        processing_class=vlm.processor,
        train_dataset=Dataset.from_list([_trl_row(pairs[id]) for step in order for id in step]),
        peft_config=lora,
        callbacks=[Clock()],
    )
    if unknown := trainer.model.load_state_dict(first, strict=False).unexpected_keys:
        raise RuntimeError(f"TRL's adapter has other weights: {unknown[:3]}")
    trainer.train()
    losses = [row["loss"] for row in trainer.state.log_history if "loss" in row]
    # The first step of a trainer is slow; it counts as it was, once.
    step = (ends[-1] - ends[0]) / (len(ends) - 1)
    seconds = ends[0] - start + step * (len(ours["steps"]) - 1)
    return {"seconds": seconds, "step_seconds": step, "steps": len(ends), "losses": losses}


def _trl_row(pair: PreferencePair) -> dict[str, Any]:
    def text(messages: Sequence[Any]) -> str:
        return "".join(part["text"] for part in messages[0]["content"] if part["type"] == "text")

    return {
        "images": [load_image(image) for image in pair.images],
        "prompt": [{"role": "user", "content": text(pair.prompt)}],
        "chosen": [{"role": "assistant", "content": text(pair.chosen)}],
        "rejected": [{"role": "assistant", "content": text(pair.rejected)}],
    }


def largest_difference(run: RunFolder, theirs: Sequence[float]) -> float:
    """Between the losses of TRL's steps and of mmpo's."""
    rows = (row for _, row in read_records(run.path / "train/metrics.jsonl"))
    ours = [row["loss"] for row in rows if "loss" in row]
    return max(abs(a - b) for a, b in zip(ours, theirs, strict=False))


def measure(args: argparse.Namespace) -> dict[str, Any]:
    out: Path = args.out
    open_comparison(out, args, free=("json", "out"))
    run, recipe = opened(out / "run", args.quick)
    measured: dict[str, dict[str, Any]] = {}

    def phase(name: str, work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        file = out / f"{name}.json"
        if not file.exists():
            found = work()
            print(f"{name}: {found['seconds']:.1f} s", file=sys.stderr, flush=True)
            write_json(file, found)
        measured[name] = read_json(file)
        return measured[name]

    for section in SECTIONS:
        phase(f"mmpo-{section}", lambda: mmpo_section(run, recipe, section))  # noqa: B023 (called at once)
    for section in ("build", "eval"):
        phase(f"peers-{section}", lambda: peers_asking(recipe, measured[f"mmpo-{section}"], args.share))  # noqa: B023
    ours = measured["mmpo-train"]
    trl = phase("peers-train", lambda: peers_training(recipe, ours, args.steps, out / "trl"))
    apart = largest_difference(run, trl["losses"])
    if apart > SAME_LOSS:
        raise RuntimeError(f"the two trainings are not the same: their losses are up to {apart:.3g} apart")
    seconds = {side: {name: measured[f"{side}-{name}"]["seconds"] for name in SECTIONS} for side in ("peers", "mmpo")}
    total = {side: sum(times.values()) for side, times in seconds.items()}
    return {
        "torch": torch.__version__,
        "threads": args.threads,
        "quick": args.quick,
        "share": args.share,
        "seconds": seconds,
        "total": total,
        "ratio": total["peers"] / total["mmpo"],
        "asking": {name: {key: measured[f"peers-{name}"][key] for key in ("kinds", "near_ties", "mmpo_part")}
                   for name in ("build", "eval")},
        "training": {"steps": len(ours["steps"]), "trl_steps": trl["steps"], "losses_apart": apart},
    }  # fmt: skip


def opened(folder: Path, quick: bool) -> tuple[RunFolder, Recipe]:
    """The demo's recipe in its run folder, with the world drawn."""
    source, run = read("demo"), RunFolder(folder)
    override(source, [*SETTINGS, *(QUICK_SETTINGS if quick else ())])
    demo = DemoWorld(QUICK_SPLITS if quick else SPLITS)
    recipe, _ = examine(source, run=run.path, inputs=demo.names(run.path), sections=SECTIONS, finished=())
    open_run(run, recipe)
    demo.draw(run, recipe)
    return run, recipe


def table(result: dict[str, Any]) -> str:
    lines = ["| part | peers, s | mmpo, s | ratio |", "| --- | ---: | ---: | ---: |"]
    rows = {name: [result["seconds"][side][name] for side in ("peers", "mmpo")] for name in SECTIONS}
    rows["together"] = [result["total"][side] for side in ("peers", "mmpo")]
    lines += [f"| {name} | {peers:.1f} | {mmpo:.1f} | {peers / mmpo:.1f}x |" for name, (peers, mmpo) in rows.items()]
    training = result["training"]
    lines += ["", "Of the peers' side was done, and scaled up to all:"]
    for name, asking in result["asking"].items():
        lines += [
            f"- {name}, {kind}: {found['asked']} of {found['all']} in {found['seconds']:.1f} s"
            for kind, found in asking["kinds"].items()
        ]
    ties = sum(asking["near_ties"] for asking in result["asking"].values())
    lines += [
        f"- train: {training['trl_steps']} of {training['steps']} steps, losses at most {training['losses_apart']:.2g} "
        "from mmpo's",
        f"Greedy answers: all the same but {ties} near-ties. In the peers' seconds are "
        + " and ".join(f"{asking['mmpo_part']:.1f} s ({name})" for name, asking in result["asking"].items())
        + " of mmpo's own work around the model.",
    ]
    return "\n".join(lines)


def main() -> None:
    parser = command_line(__doc__, threads=torch.get_num_threads())
    parser.add_argument("--out", type=Path, required=True, help="the folder of what is measured")
    parser.add_argument("--quick", action="store_true", help="60 pictures, 10 steps: does it run?")
    parser.add_argument("--share", type=float, default=0.1, help="of the pictures, for the peers' asking")
    parser.add_argument("--steps", type=int, default=22, help="of the peers' training")
    args = parser.parse_args()
    if not 0 < args.share <= 1 or args.steps < 2:
        parser.error("--share is above 0 and at most 1, --steps at least 2")
    torch.set_num_threads(args.threads)
    result = measure(args)
    print(table(result))
    if args.json:
        write_json(args.json, result)


if __name__ == "__main__":
    in_one_line(main)
