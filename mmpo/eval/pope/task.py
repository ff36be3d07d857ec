"""POPE as a benchmark: built from annotated images, or asked from published question files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from mmpo.chat.templates import template_version
from mmpo.errors import UserError
from mmpo.eval.pope import build as pope_builder
from mmpo.eval.pope import judge as pope_judge
from mmpo.eval.pope import metrics as pope
from mmpo.eval.protocol import Ask, Material, NothingToAsk, Part, Reply, near_ties, needed, open_judge
from mmpo.eval.settings import EvalSettings
from mmpo.files.atomic import write_json

ENOUGH_IMAGES = 0.5
"""Below this share of images that qualify the scorecard warns."""
POPE_IMAGES = 500
"""How many images the published POPE splits have."""


class PopeBenchmark:
    """POPE's splits, each with its questions."""

    partial = True

    def __init__(self, material: Material | None, settings: EvalSettings) -> None:
        self.settings, self.evaluation = settings.pope, settings
        if self.settings.judge and settings.judge is None:
            raise UserError("eval.pope.judge is on, but eval.judge is not set", hint="set eval.judge (docs/judges.md)")
        self.root: str | None = None
        self.side_files: dict[str, object] = {}
        self.warnings: list[str] = []
        self.splits: dict[str, list[pope.PopeQuestion]]
        if self.settings.questions:
            self.root = self.settings.image_folder or settings.images
            if self.root is None:
                raise UserError(
                    "eval.pope.questions names files, but not where their images are", hint="set eval.pope.image_folder"
                )
            self.splits = {
                split: pope.of_first_images(questions, settings.limit)
                for split, questions in pope.read_splits(self.settings.questions).items()
            }
            files = ", ".join(Path(file).name for file in self.settings.questions)
            self.conventions = [f"POPE: questions of {files}; {self._asking()}"]
        else:
            self._build(needed(material, "pope", "eval.pope.questions"))

    def _build(self, material: Material) -> None:
        candidates = [pope_builder.ImageObjects(image.path, material.truth[image.path]) for image in material.images]
        positives, fitting = self._fitting(candidates)
        asked = self.settings.images or POPE_IMAGES
        draw = pope_builder.select(fitting, min(len(fitting), asked), positives=positives, seed=self.settings.seed)
        selected = pope_builder.usable(draw, positives) or fitting  # a draw may lack the kinds that are to be absent
        self._warn_of_few(len(candidates), len(fitting), len(selected), positives)
        built = pope_builder.build(
            selected,
            self.settings.splits,
            positives=positives,
            seed=self.settings.seed,
            article=self.settings.article,
        )
        self.side_files = {
            "ground_truth_objects": pope_builder.frequencies(selected),
            "co_occur": pope_builder.co_occurrence(selected),
        }
        self.splits = {split: made.questions for split, made in built.items()}
        self.conventions = [
            f"POPE: {len(selected)} of {len(candidates)} images (those with at least {positives} objects qualify), "
            f"{2 * positives} questions each and split, seed {self.settings.seed}; " + self._asking()
        ]
        fallbacks = {split: made.fallbacks for split, made in built.items() if made.fallbacks}
        if fallbacks:
            drawn = ", ".join(f"{count} {split}" for split, count in fallbacks.items())
            self.conventions.append(f"POPE: negatives drawn at random because the ranking ran out: {drawn}")

    def _fitting(self, candidates: Sequence[pope_builder.ImageObjects]) -> tuple[int, list[pope_builder.ImageObjects]]:
        """How many objects an image are asked about, as many as set or as some image allows, and the images that allow
        it. Raises NothingToAsk where none allows any.
        """
        for positives in range(self.settings.questions_per_image // 2, 0, -1):
            if fitting := pope_builder.usable(candidates, positives):
                return positives, fitting
        raise NothingToAsk(
            f"POPE: none of {len(candidates)} images has an annotated object beside kinds of objects that it lacks",
            hint="annotate more kinds of objects in more images, or name published questions in eval.pope.questions",
        )

    def _warn_of_few(self, candidates: int, fitting: int, selected: int, positives: int) -> None:
        """Say so where the questions are fewer than asked for, or rest on a small part of the images."""
        wanted = self.settings.questions_per_image
        if 2 * positives < wanted:
            self.warnings.append(
                f"POPE: {2 * positives} questions an image instead of {wanted}: no image has more objects"
            )
        too_few = self.settings.images is not None and selected < self.settings.images
        if too_few or fitting < ENOUGH_IMAGES * candidates:
            asked = f", {self.settings.images} were asked for" if too_few else ""
            self.warnings.append(
                f"POPE: only {fitting} of {candidates} images qualify (at least {positives} annotated kinds of objects "
                f"there, as many absent){asked}; it rests on {selected} images, {2 * positives * selected} questions a "
                "split"
            )

    def asks(self) -> list[Ask]:
        return list(dict.fromkeys(self._ask(question) for questions in self.splits.values() for question in questions))

    def score(self, replies: Mapping[Ask, Reply]) -> list[Part]:
        if not self.settings.judge:
            return self._scored(replies)
        with open_judge(self.evaluation, "pope") as chat:
            return self._scored(replies, partial(pope_judge.settled, chat, template=self.settings.judge_template))

    def _scored(self, replies: Mapping[Ask, Reply], settle: pope.Settle | None = None) -> list[Part]:
        results: dict[str, pope.PopeResult] = {}
        parts: list[Part] = []
        for split in self.splits:
            questions, given = self._answered(split, replies)
            if not questions:
                continue
            p_yes = [reply.p_yes for reply in given]
            texts = [reply.text for reply in given]
            result = pope.score(questions, texts, self.settings.parser, p_yes=p_yes, settle=settle)
            results[split] = result
            parts.append(
                Part(
                    split,
                    result.tally,
                    len(given),
                    truncated=sum(reply.truncated for reply in given),
                    unparsed=result.unparsed,
                    near_ties=near_ties({self._ask(q): reply for q, reply in zip(questions, given, strict=True)}),
                )
            )
        if len(results) > 1:
            total = Part(
                "all splits",
                pope.mean_over_splits(results),
                questions=sum(part.questions for part in parts),
                truncated=sum(part.truncated for part in parts),
                unparsed=sum(result.unparsed for result in results.values()),
                total=True,
                near_ties=near_ties({ask: replies[ask] for ask in self.asks() if ask in replies}),
            )
            parts.append(total)
        return parts

    def write(self, folder: Path, replies: Mapping[str, Mapping[Ask, Reply]]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in self.side_files.items():
            write_json(folder / f"{name}.json", content)
        for split in self.splits:
            for state, given in replies.items():
                questions, answers = self._answered(split, given)
                pope.write_questions(folder / f"questions_{split}.jsonl", questions)
                pope.write_answers(folder / f"answers_{split}_{state}.jsonl", questions, [a.text for a in answers])

    def _answered(
        self, split: str, replies: Mapping[Ask, Reply]
    ) -> tuple[Sequence[pope.PopeQuestion], Sequence[Reply]]:
        """The questions of a split that have a reply (all, unless an image can't be used), and the replies."""
        questions = [question for question in self.splits[split] if self._ask(question) in replies]
        return questions, [replies[self._ask(question)] for question in questions]

    def _ask(self, question: pope.PopeQuestion) -> Ask:
        text = question.text + self.settings.prompt_suffix
        return Ask(question.image, text, self.settings.max_new_tokens, self.root)

    def _asking(self) -> str:
        suffix, judge = self.settings.prompt_suffix, self.evaluation.judge
        judged = ""
        if self.settings.judge and judge is not None:
            judged = (
                f", what it can't read decided by {judge.model} with {template_version(self.settings.judge_template)}"
            )
        return (
            f"parser {self.settings.parser}{judged}; "
            + (f"question followed by {suffix!r}" if suffix else "question alone")
            + f"; greedy, at most {self.settings.max_new_tokens} tokens"
        )
