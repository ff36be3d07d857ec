"""MME as a benchmark: its published questions, or pairs in its form built from annotated images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from mmpo.errors import UserError
from mmpo.eval.mme import build as mme_pairs
from mmpo.eval.mme import files as mme_files
from mmpo.eval.mme import metrics as mme
from mmpo.eval.mme.settings import MmeSettings
from mmpo.eval.protocol import Grade, Part, Request, Response, cut_off, require_annotations
from mmpo.eval.task import Context, QuestionTask, benchmark


@benchmark("mme", settings=MmeSettings, needs="annotated images, or its questions")
class Mme(QuestionTask[MmeSettings, mme.MmeQuestion]):
    """MME's question pairs by subtask."""

    partial = True

    def __init__(self, settings: MmeSettings, context: Context) -> None:
        super().__init__(settings, context)
        self.root: str | None = None
        chosen = self.settings.subtasks
        if self.settings.questions is None:
            images = require_annotations(context.annotated, "mme", "eval.mme.questions").images
            built = mme_pairs.build(
                images, chosen or mme.HALLUCINATION, limit=self.settings.images, seed=self.settings.seed
            )
            self.questions = [question for questions in built.values() for question in questions]
            counts = ", ".join(f"{name} {len(questions) // 2}" for name, questions in built.items())
            source = f"pairs built from {len(images)} annotated images, seed {self.settings.seed}; images: {counts}"
        else:
            self.questions = self._published(Path(self.settings.questions), chosen)
            source = f"questions of {self.settings.questions}"
        self.conventions = [
            f"MME: {source}; parser {self.settings.parser}; question followed by {self.settings.instruction!r}; "
            f"greedy, at most {self.settings.max_new_tokens} tokens; score = 100 acc + 100 acc+, groups are sums"
        ]

    def _published(self, path: Path, chosen: Sequence[str]) -> list[mme.MmeQuestion]:
        questions = mme_files.read_questions(path)
        for subtask in chosen:
            if all(question.subtask != subtask for question in questions):
                raise UserError(f"{path} has no questions of MME's {subtask!r}")
        questions = [question for question in questions if not chosen or question.subtask in chosen]
        if self.context.limit is not None:  # so many images of each subtask
            kept: dict[str, dict[str, None]] = {}
            for question in questions:
                images = kept.setdefault(question.subtask, {})
                if len(images) < self.context.limit:
                    images.setdefault(question.image)
            questions = [question for question in questions if question.image in kept[question.subtask]]
        folder = Path(self.settings.image_folder or path)
        if self.settings.image_folder is None and mme_files.holds_rows(path):
            folder = Path(self.context.cache or ".") / "mme_images"
            mme_files.unpack_images(path, folder)
        self.root = str(folder)
        return questions

    def results(
        self, given: Sequence[tuple[mme.MmeQuestion, Response]], *, positional: bool = False
    ) -> dict[str, mme.SubtaskResult]:
        """The scored subtasks; `positional`: two neighbouring lines are a pair, whatever their images."""
        return mme.score(
            [question for question, _ in given],
            [response.text for _, response in given],
            self.settings.parser,
            p_yes=[response.p_yes for _, response in given],
            positional=positional,
        )

    def grade(self, question: mme.MmeQuestion, response: Response) -> Grade:
        read = mme.PARSERS[self.settings.parser](response.text).label
        return Grade(question.label, read, read == question.label, question.subtask)

    def parts(self, given: Sequence[tuple[mme.MmeQuestion, Response]]) -> list[Part]:
        results = self.results(given)
        parts = [self._part(name, result.tally, [name], given, results) for name, result in results.items()]
        for group, members in mme.GROUPS.items():
            tally = mme.group_tally(results, group)
            if tally is not None:
                parts.append(self._part(group, tally, members, given, results, total=True))
        return parts

    def _part(
        self,
        name: str,
        tally: mme.Tally,
        subtasks: Sequence[str],
        given: Sequence[tuple[mme.MmeQuestion, Response]],
        results: Mapping[str, mme.SubtaskResult],
        *,
        total: bool = False,
    ) -> Part:
        own = [(question, response) for question, response in given if question.subtask in subtasks]
        return Part(
            name,
            tally,
            questions=len(own),
            truncated=cut_off(own),
            unparsed=sum(results[subtask].other for subtask in subtasks),
            total=total,
            near_ties=self.near_ties(own),
        )

    def write(self, folder: Path, responses: Mapping[str, Mapping[Request, Response]]) -> None:
        for state, given in responses.items():
            answered = self.answered(given)
            mme_files.write_tool_files(
                folder / state, [q for q, _ in answered], [response.text for _, response in answered]
            )

    def request(self, question: mme.MmeQuestion) -> Request:
        image = question.image if self.root is None else mme_files.image_path(Path(self.root), question)
        text = mme.bare(question.text) + self.settings.instruction
        return Request(image, text, self.settings.max_new_tokens, self.root)
