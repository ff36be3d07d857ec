"""The truth of an answer about a clip, and a judge that reads captions."""

from __future__ import annotations

from mmpo.chat.video_rules import VideoRuleJudge
from tools.demo_models.video_agreement import by_caption, truth


def test_rewards_beside_the_truth() -> None:
    assert truth("The cow enters from the left.", "The cow enters from the left.") == 5
    assert truth("The cow enters from the right.", "The cow enters from the left.") == 1, "sides count"
    two = "The cow enters from the left. The pig stays."
    assert 1 < truth("The cow enters from the left.", two) < 5
    assert truth("No, the cow does not leave.", "No") == 5 and truth("Yes", "No, the cow does not leave.") == 1
    judge = VideoRuleJudge.over(["cow", "pig", "horse"], [("cow", "enters"), ("pig", "stays"), ("cow", "leaves")])
    said = "The video shows a farm with a cow and a pig. " + two
    good, bad = (by_caption(judge, text, two, said) for text in (two, f"{two} The cow leaves to the right."))
    assert good == 5 and bad == 2
    assert by_caption(judge, f"{two} The horse stays.", two, said) == 2
