"""How often the model says yes to an object that is not in the picture."""

from collections.abc import Sequence

import numpy as np
from pydantic import Field

from mmpo.eval.protocol import Part, Request, Response, cut_off, require_annotations
from mmpo.eval.section import Section
from mmpo.eval.statistics.tally import Tally, share
from mmpo.eval.task import Context, QuestionTask, benchmark
from mmpo.eval.yes_no import ParserName, parse

FALSE_YES = share("false_yes", 0, 1, "lower", "questions about absent things that are answered with yes")


class AbsentSection(Section):
    """Absent objects that the model says are there."""

    max_new_tokens: int = Field(8, ge=1, description="Longest answer.")
    parser: ParserName = Field("vlmevalkit", description="The rule that reads an answer.")


@benchmark("absent_yes", settings=AbsentSection, needs="annotated images")
class AbsentYes(QuestionTask[AbsentSection, tuple[str, str]]):
    """One question about every image: is the first object there that it does not have?"""

    def __init__(self, settings: AbsentSection, context: Context) -> None:
        super().__init__(settings, context)
        truth = require_annotations(context.annotated, "absent_yes").truth
        names = sorted({name for objects in truth.values() for name in objects})
        absent = {image: [name for name in names if name not in objects] for image, objects in truth.items()}
        self.questions = [(image, f"Is there a {some[0]} in the image?") for image, some in absent.items() if some]
        self.conventions = [f"ABSENT_YES: {len(self.questions)} images, parser {settings.parser}"]

    def request(self, question: tuple[str, str]) -> Request:
        return Request(*question, self.settings.max_new_tokens)

    def id_of(self, question: tuple[str, str]) -> str:
        return question[0]

    def parts(self, given: Sequence[tuple[tuple[str, str], Response]]) -> list[Part]:
        verdicts = [parse(response.text, self.settings.parser) for _, response in given]
        counts = np.array([[verdict.label == "yes", 1] for verdict in verdicts], dtype=np.int64)
        tally = Tally(tuple(image for (image, _), _ in given), counts, (FALSE_YES,))
        return [Part(None, tally, len(given), cut_off(given), sum(not verdict.found for verdict in verdicts))]
