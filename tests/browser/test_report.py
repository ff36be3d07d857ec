"""A report in a real browser: nothing leaves, nothing hostile runs, filters, keys and links work."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from PIL import Image

from mmpo.data.pair import PreferencePair
from mmpo.data.shards import PairWriter
from mmpo.files.atomic import write_json
from mmpo.report.report import write_report
from tests.browser.conftest import serious_faults
from tests.report.evaluations import evaluated

pytestmark = pytest.mark.slow

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

SCRIPT = "<script>window.hurt = 1</script><img src=x onerror='window.hurt = 2'>"


def picture(colour: tuple[int, int, int] = (200, 90, 40), size: tuple[int, int] = (64, 48)) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", size, colour).save(out, "PNG")
    return out.getvalue()


def hostile_pairs(folder: Path) -> Path:
    with PairWriter(folder) as writer:
        for k in range(12):
            writer.add(
                PreferencePair.simple(
                    id=f"<b onmouseover=alert(1)>{k}/\"'&",
                    image=picture((k * 20, 90, 40)),
                    question=f"What is {SCRIPT} there? {{{{ 7 * 7 }}}}",
                    chosen=f"A dog number {k} on a mat. {SCRIPT}",
                    rejected=f"A dog number {k} on a mat with a cat. {SCRIPT} \u202e\x1b[31m",
                    scores={"margin": k / 10},
                    provenance={
                        "builder": "</style><script>window.hurt = 3</script>",
                        "kind": f"kind {k % 3} {SCRIPT}",
                        "removed": ["cat", "</script><script>window.hurt = 4</script>"],
                        "judge": f"judge {SCRIPT}",
                        "verdicts": [{"verdict": "hallucination", "reason": f"no cat {SCRIPT}", "sentence": "x"}],
                    },
                )
            )
    return folder


@dataclass
class Opened:
    page: Page
    requests: list[str]
    errors: list[str]


@pytest.fixture
def opened(browser: Browser, tmp_path: Path) -> Iterator[Opened]:
    run = tmp_path / "run <script>window.hurt = 5</script>".replace("/", "_")
    hostile_pairs(run / "build" / "pairs")
    evaluated(run / "eval", hostile=SCRIPT)
    (run / "train").mkdir()
    rows = [{"step": s, "loss": 1 / (s + 1), "logps/chosen": -s, "logps/rejected": -2 * s} for s in range(0, 50, 10)]
    (run / "train" / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (run / "recipe.yaml").write_text(f"name: {SCRIPT}\n")
    write_json(run / "train" / "train_result.json", {"steps": 50})
    made = write_report([run])
    page = browser.new_page(viewport={"width": 1200, "height": 900})
    seen = Opened(page, [], [])
    page.on("request", lambda one: seen.requests.append(one.url))
    page.on("console", lambda one: seen.errors.append(one.text) if one.type in ("error", "warning") else None)
    page.on("pageerror", lambda one: seen.errors.append(str(one)))
    page.goto(made.path.resolve().as_uri())
    yield seen
    outside = [url for url in seen.requests if not url.startswith(("file:", "data:"))]
    assert (outside, seen.errors) == ([], [])
    assert page.evaluate("window.hurt") is None
    page.close()


def test_filters_search_sort_keys_and_links(opened: Opened) -> None:
    page = opened.page
    pairs = page.locator("#pairs .card:visible")
    assert pairs.count() == 12
    assert page.locator("#pairs .card svg use").count() == 12 and page.locator("symbol").count() >= 12
    page.locator("#pairs [data-search]").fill("number 7")
    assert pairs.count() == 1
    assert page.locator("#pairs [data-count]").inner_text() == "1 shown"
    page.locator("#pairs button[type=reset]").click()
    page.wait_for_function("document.querySelector('#pairs [data-count]').textContent === '12 shown'")
    bar = page.locator("#pairs [data-bar=kind]").first
    bar.click()
    assert (pairs.count(), bar.get_attribute("aria-pressed")) == (4, "true")
    bar.click()
    page.locator("#pairs [data-sort]").select_option("margin")
    assert page.locator("#pairs .card").first.get_attribute("data-margin") == "0.0"
    page.locator("#pairs .card").first.focus()
    page.keyboard.press("j")
    assert page.evaluate("document.activeElement.dataset.margin") == "0.1"
    page.keyboard.press("ArrowLeft")
    assert page.evaluate("document.activeElement.dataset.margin") == "0.0"
    link = page.locator("#pairs .card .foot a").nth(3)
    page.goto(page.url.split("#")[0] + str(link.get_attribute("href")))
    assert page.evaluate("document.activeElement.dataset.margin") == "0.3"
    assert page.locator("#evaluation .card:visible").count() == 4
    page.locator("#evaluation [data-field=outcome]").select_option("broken")
    assert page.locator("#evaluation .card:visible").count() == 1
    page.locator(".examples .foot a").first.click()  # a card that the filter hides comes back
    assert page.evaluate("document.activeElement.dataset.outcome") == "fixed"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_serious_is_wrong_for_readers_of_all_kinds(opened: Opened, axe: str, scheme: str) -> None:
    opened.page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
    opened.page.evaluate("for (const one of document.querySelectorAll('details')) one.open = true")
    assert serious_faults(opened.page, axe) == []


def test_a_telephone_shows_everything(opened: Opened) -> None:
    opened.page.set_viewport_size({"width": 360, "height": 740})
    assert opened.page.evaluate("document.documentElement.scrollWidth") <= 360


def test_hostile_texts_are_texts(opened: Opened) -> None:
    assert opened.page.locator("script").count() == 1
    assert SCRIPT in str(opened.page.locator("#pairs .card .prompt").first.text_content())
    assert "{{ 7 * 7 }}" in str(opened.page.locator("#pairs .card .prompt").first.text_content())
    assert "\\u202e\\x1b" in str(opened.page.locator("#pairs .card .rejected").first.text_content())


@pytest.mark.slow
def test_twenty_thousand_pairs(browser: Browser, tmp_path: Path) -> None:
    with PairWriter(tmp_path / "pairs", rows_per_shard=5000) as writer:
        for k in range(20_000):
            shown = picture((k % 256, k // 256, 99), (256, 192))
            said = f"There is a dog, a cat and a red ball number {k} near the tree on the left of the house."
            writer.add(
                PreferencePair.simple(
                    id=f"pair {k}", image=shown, question="Describe it.", chosen=said, rejected=said + " And a bear.",
                    scores={"margin": (k * 7919 % 1000) / 100}, provenance={"removed": ["bear"]},
                )
            )  # fmt: skip
    made = write_report([tmp_path / "pairs"])
    assert made.size < 25_000_000
    assert made.rows is not None and sum(1 for _ in made.rows.open()) == 20_000
    page = browser.new_page()
    page.goto(made.path.resolve().as_uri(), wait_until="load")
    assert page.locator("#pairs .note", has_text="400 of 20,000 shown").count() == 1
    loaded = page.evaluate("performance.getEntriesByType('navigation')[0].loadEventEnd")
    assert 0 < loaded < 3000
