"""POPE as a benchmark: built from annotated images, or asked from published question files."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

from mmpo.chat.judging import opened
from mmpo.chat.templates import template_version
from mmpo.errors import UserError
from mmpo.eval.pope import build as pope_builder
from mmpo.eval.pope import judge as pope_judge
from mmpo.eval.pope import metrics as pope
from mmpo.eval.pope.settings import PopeSettings
from mmpo.eval.protocol import AnnotatedSet, Grade, NothingToAsk, Part, Request, Response, cut_off, require_annotations
from mmpo.eval.task import Context, QuestionTask, benchmark
from mmpo.eval.yes_no import parse
from mmpo.files.atomic import write_json

ENOUGH_IMAGES = 0.5
"""Below this share of images that qualify the scorecard warns."""
POPE_IMAGES = 500
"""The number of images in the published POPE splits."""


@benchmark("pope", settings=PopeSettings, needs="annotated images, or its questions")
class Pope(QuestionTask[PopeSettings, tuple[str, pope.PopeQuestion]]):
    """POPE's splits, each with its questions."""

    partial = True
    corrected: Mapping[str, Sequence[pope.PopeQuestion]] = {}

    def __init__(self, settings: PopeSettings, context: Context) -> None:
        super().__init__(settings, context)
        if settings.judge and context.judge is None:
            raise UserError("eval.pope.judge is on, but eval.judge is not set", hint="set eval.judge (docs/judges.md)")
        self.root: str | None = None
        self.side_files: dict[str, object] = {}
        self.splits: dict[str, list[pope.PopeQuestion]]
        if self.settings.questions:
            self.root = self.settings.image_folder or context.images
            if self.root is None:
                raise UserError(
                    "eval.pope.questions names files, but not where their images are", hint="set eval.pope.image_folder"
                )
            self.splits = {
                split: pope.of_first_images(questions, context.limit)
                for split, questions in pope.read_splits(self.settings.questions).items()
            }
            files = ", ".join(Path(file).name for file in self.settings.questions)
            self.conventions = [f"POPE: questions of {files}; {self._asking()}"]
            self._read_corrected()
        else:
            self._build(require_annotations(context.annotated, "pope", "eval.pope.questions"))
        self.questions = [(split, question) for split, questions in self.splits.items() for question in questions]

    def _read_corrected(self) -> None:
        """RePOPE's questions of each split: those asked, without the ambiguous ones, by their words and pictures."""
        if not self.settings.corrected:
            return
        self.corrected = pope.read_splits(self.settings.corrected)
        if unknown := sorted(self.corrected.keys() - self.splits.keys()):
            raise UserError(
                f"eval.pope.corrected has the split {unknown[0]}, but `questions` have none of that name",
                hint="the names of files say their splits: random, popular or adversarial",
            )
        self.conventions.append(
            "RePOPE (arXiv 2504.15707): the same answers against its corrected labels, ambiguous questions left out; "
            "parser dash, as published"
        )

    def _build(self, annotated: AnnotatedSet) -> None:
        candidates = [pope_builder.ImageObjects(image.path, annotated.truth[image.path]) for image in annotated.images]
        positives, fitting = self._fitting(candidates)
        asked = self.settings.images or POPE_IMAGES
        draw = pope_builder.select(fitting, min(len(fitting), asked), positives=positives, seed=self.settings.seed)
        selected = pope_builder.usable(draw, positives) or fitting  # a draw may lack the kinds that are to be absent
        self._warn_of_few(len(candidates), len(fitting), len(selected), positives)
        built = pope_builder.build(
            selected, self.settings.splits, positives=positives, seed=self.settings.seed, article=self.settings.article
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
        """The number of present objects asked about in each image, as many as set or as some image allows, and the
        images that allow it. Raises NothingToAsk where none allows any.
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

    def score(self, responses: Mapping[Request, Response]) -> list[Part]:
        if not self.settings.judge:
            return super().score(responses)
        with opened(self.context.judge, self.context.cache, "pope") as chat:
            settle = partial(pope_judge.settled, chat, template=self.settings.judge_template)
            return self.parts(self.answered(responses), settle)

    def parts(
        self, given: Sequence[tuple[tuple[str, pope.PopeQuestion], Response]], settle: pope.Settle | None = None
    ) -> list[Part]:
        results: dict[str, pope.PopeResult] = {}
        parts: list[Part] = []
        for split in dict.fromkeys(split for (split, _), _ in given):
            own = [(asked, response) for asked, response in given if asked[0] == split]
            result = results[split] = pope.score(
                [question for (_, question), _ in own],
                [response.text for _, response in own],
                self.settings.parser,
                p_yes=[response.p_yes for _, response in own],
                settle=settle,
            )
            parts.append(
                Part(split, result.tally, len(own), cut_off(own), result.unparsed, near_ties=self.near_ties(own))
            )
        parts += self._against_corrected(given)
        if len(results) > 1:
            unparsed = sum(result.unparsed for result in results.values())
            tally, close = pope.mean_over_splits(results), self.near_ties(given)
            parts.append(Part("all splits", tally, len(given), cut_off(given), unparsed, total=True, near_ties=close))
        return parts

    def grade(self, question: tuple[str, pope.PopeQuestion], response: Response) -> Grade:
        split, asked = question
        read = parse(response.text, self.settings.parser)
        if self.settings.judge and not read.found:  # the judge decided, about all of a split together
            return Grade(asked.label, None, None, split)
        return Grade(asked.label, read.label, read.label == asked.label, split)

    def _against_corrected(self, given: Sequence[tuple[tuple[str, pope.PopeQuestion], Response]]) -> Iterator[Part]:
        """The same answers against RePOPE's labels."""
        for split, corrected in self.corrected.items():
            by_words = {(one.image, pope.spelled(one.text)): one for one in corrected}
            own = [
                (by_words[key], response)
                for (of, question), response in given
                if of == split and (key := (question.image, pope.spelled(question.text))) in by_words
            ]
            if own:
                result = pope.score([one for one, _ in own], [response.text for _, response in own], "dash")
                yield Part(f"{split} RePOPE", result.tally, len(own), cut_off(own), result.unparsed, view=True)

    def write(self, folder: Path, responses: Mapping[str, Mapping[Request, Response]]) -> None:
        for name, content in self.side_files.items():
            write_json(folder / f"{name}.json", content)
        for state, given in responses.items():
            answered = self.answered(given)
            for name in self.splits:
                own = [(question, response.text) for (split, question), response in answered if split == name]
                questions = [question for question, _ in own]
                pope.write_questions(folder / f"questions_{name}.jsonl", questions)
                pope.write_answers(folder / f"answers_{name}_{state}.jsonl", questions, [text for _, text in own])

    def request(self, question: tuple[str, pope.PopeQuestion]) -> Request:
        _, asked = question
        text = asked.text + self.settings.prompt_suffix
        return Request(asked.image, text, self.settings.max_new_tokens, self.root)

    def _asking(self) -> str:
        suffix, judge = self.settings.prompt_suffix, self.context.judge
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
