"""Findings by rules: mentions, negation, uncertainty, agreement of reports."""

from __future__ import annotations

import pytest

from mmpo.radiology.findings import NO_FINDING, compare_findings, names, report_findings, sentence_findings


@pytest.mark.parametrize(
    ("sentence", "found"),
    [
        ("No focal consolidation, pleural effusion, or pneumothorax.", {"Consolidation": "negative", "Pleural Effusion": "negative", "Pneumothorax": "negative"}),  # noqa: E501
        ("Small left effusion without pneumothorax.", {"Pleural Effusion": "positive", "Pneumothorax": "negative"}),
        ("No pneumothorax, but there is mild edema.", {"Pneumothorax": "negative", "Edema": "positive"}),
        ("Possible pneumonia at the left base.", {"Pneumonia": "uncertain"}),
        ("The heart is mildly enlarged.", {"Cardiomegaly": "positive"}),
        ("Heart size is normal.", {"Cardiomegaly": "negative"}),
        ("Pneumothorax has resolved.", {"Pneumothorax": "negative"}),
        ("An effusion cannot be excluded.", {"Pleural Effusion": "uncertain"}),
        ("Old rib fractures.", {"Fracture": "positive"}),
        ("Median sternotomy wires and a right PICC.", {"Support Devices": "positive"}),
        ("The trachea is midline.", {}),
    ],
)  # fmt: skip
def test_sentences(sentence: str, found: dict[str, str]) -> None:
    assert sentence_findings(sentence) == found


def test_reports_and_no_finding() -> None:
    assert names()[0] == "Enlarged Cardiomediastinum" and names()[-1] == NO_FINDING and len(names()) == 14
    assert report_findings("Lungs are clear. A PICC is in place.")[NO_FINDING] == "positive"
    assert NO_FINDING not in report_findings("Left effusion.")


def test_agreement() -> None:
    references = ["Left effusion. Mild edema.", "Lungs are clear."]
    assert compare_findings(references, references).f1 == 1
    found = compare_findings(["Left effusion.", "Possible pneumonia."], references)
    assert found.by_label["Edema"] == (0, 0, 1) and found.by_label["Pneumonia"] == (0, 1, 0)
    assert found.precision == 0.5 and found.recall == pytest.approx(1 / 3)
    ignored = compare_findings(["Left effusion.", "Possible pneumonia."], references, "ignore")
    assert ignored.by_label["Pneumonia"] == (0, 0, 0)
    assert compare_findings(["Left effusion.", "Possible pneumonia."], references, "negative").by_label[
        "No Finding"
    ] == (0, 0, 1)
