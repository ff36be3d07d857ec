"""The review page in a real Chromium: keys, marks, hostile texts, two tabs, a server that is gone, accessibility."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from mmpo.data.reviews import read_reviews
from tests.browser.conftest import serious_faults
from tests.faults.commands import start
from tests.review.conftest import HOSTILE, write_pairs

pytestmark = pytest.mark.slow

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[subprocess.Popen[str], str, Path]]:
    folder = write_pairs(tmp_path / "pairs", chosen=HOSTILE)
    process = start(["review", str(folder), "--reviewer", "ann"])
    assert process.stdout is not None
    address = next(found[0] for line in process.stdout if (found := re.search(r"http://\S+", line)))
    yield process, address, folder / "reviews.jsonl"
    process.kill()
    process.wait()


def test_reviewing_with_the_keyboard(
    browser: Browser, axe: str, served: tuple[subprocess.Popen[str], str, Path]
) -> None:
    process, address, file = served
    context = browser.new_context(viewport={"width": 360, "height": 800})
    page = context.new_page()
    told: list[str] = []
    asked: list[str] = []
    page.on("console", lambda message: told.append(message.text))
    page.on("pageerror", lambda error: told.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    page.goto(address)
    page.wait_for_url("**/row/0")
    assert serious_faults(page, axe) == []
    assert page.evaluate("document.documentElement.scrollWidth") <= 360

    press(page, "a", "**/row/1")
    mark(page, ".side.rejected .said", "cat")
    page.keyboard.press("m")
    assert page.locator("#marked").inner_text() == "“cat” (rejected)"
    page.keyboard.press("t")
    page.keyboard.type("dasu")  # in the note these are letters
    page.keyboard.press("Escape")
    press(page, "d", "**/row/2")
    press(page, "ArrowRight", "**/row/3")
    press(page, "ArrowLeft", "**/row/2")
    page.keyboard.press("e")
    page.keyboard.press("Control+a")
    page.keyboard.type("A dog.")
    press(page, "Control+Enter", "**/row/3")
    decisions = read_reviews(file)
    assert [one.verdict for one in decisions] == ["accept", "drop", "edit"]
    assert decisions[1].note == "dasu" and decisions[1].spans[0].text == "cat"
    assert decisions[2].chosen == "A dog."
    assert page.title() == "Review · pairs" and told == []
    origin = address.partition("/?")[0]
    assert all(url.startswith(origin) for url in asked)

    page.wait_for_timeout(300)  # till htmx has taken over the new form: before, its button sends an ordinary form
    process.kill()
    page.keyboard.press("a")
    page.get_by_text("Not kept").wait_for()
    assert len(read_reviews(file)) == 3
    context.close()


def test_two_tabs_on_one_pair(browser: Browser, served: tuple[subprocess.Popen[str], str, Path]) -> None:
    _, address, file = served
    context = browser.new_context()
    first, second = context.new_page(), context.new_page()
    for page in (first, second):
        page.goto(address)
        page.wait_for_url("**/row/0")
    press(first, "a", "**/row/1")
    second.keyboard.press("d")
    second.get_by_text("decided in another tab").wait_for()
    assert [one.verdict for one in read_reviews(file)] == ["accept"]
    press(second, "d", "**/row/1")
    assert [one.verdict for one in read_reviews(file)] == ["accept", "drop"]
    context.close()


def press(page: Page, key: str, lands: str) -> None:
    page.keyboard.press(key)
    page.wait_for_url(lands)
    page.wait_for_load_state("networkidle")


def mark(page: Page, where: str, word: str) -> None:
    """Select a word of an element, as a mouse does."""
    page.evaluate(
        """([where, word]) => {
            const walker = document.createTreeWalker(document.querySelector(where), NodeFilter.SHOW_TEXT);
            for (let node = walker.nextNode(); node; node = walker.nextNode()) {
                const at = node.data.indexOf(word);
                if (at < 0) continue;
                getSelection().setBaseAndExtent(node, at, node, at + word.length);
                return;
            }
            throw new Error("no such word");
        }""",
        [where, word],
    )
