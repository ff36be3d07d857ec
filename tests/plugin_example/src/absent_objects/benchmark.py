"""How often the model says yes to an object that is not in the picture."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from pydantic import Field

from mmpo.eval.benchmarks import benchmark
from mmpo.eval.protocol import Ask, Material, Part, Reply, needed
from mmpo.eval.section import Section
from mmpo.eval.statistics.tally import Metric, Tally
from mmpo.eval.yes_no import ParserName, parse
from mmpo.files.atomic import write_json


class AbsentSection(Section):
    """Settings under `eval.absent_yes`."""

    max_new_tokens: int = Field(8, ge=1, description="Longest answer.")
    parser: ParserName = Field("vlmevalkit", description="The rule that reads an answer.")


FALSE_YES = Metric("false_yes", lambda counts: counts[..., 0] / counts[..., 1], "lower")


@benchmark("absent_yes", settings=AbsentSection)
class AbsentYes:
    """One question about every image: is the first object there that it does not have?"""

    def __init__(self, material: Material | None, settings: AbsentSection) -> None:
        self.settings = settings
        truth = needed(material, "absent_yes").truth
        names = sorted({name for objects in truth.values() for name in objects})
        absent = {image: [name for name in names if name not in objects] for image, objects in truth.items()}
        self.questions = {image: f"Is there a {some[0]} in the image?" for image, some in absent.items() if some}
        self.conventions = [f"ABSENT_YES: {len(self.questions)} images, parser {settings.parser}"]

    def asks(self) -> list[Ask]:
        return [Ask(image, question, self.settings.max_new_tokens) for image, question in self.questions.items()]

    def score(self, replies: Mapping[Ask, Reply]) -> list[Part]:
        asked = self.asks()
        verdicts = [parse(replies[ask].text, self.settings.parser) for ask in asked]
        counts = np.array([[verdict.label == "yes", 1] for verdict in verdicts], dtype=np.int64)
        tally = Tally(tuple(self.questions), counts, (FALSE_YES,))
        unparsed = sum(not verdict.found for verdict in verdicts)
        return [Part(None, tally, len(asked), sum(replies[ask].truncated for ask in asked), unparsed)]

    def write(self, folder: Path, replies: Mapping[str, Mapping[Ask, Reply]]) -> None:
        for state, given in replies.items():
            write_json(folder / f"{state}.json", {ask.image: given[ask].text for ask in self.asks()})
