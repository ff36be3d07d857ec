"""A real browser for the tests of pages: Debian's Chromium (`scripts/setup-browser`), driven by playwright."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

AXE = Path(__file__).resolve().parents[2] / ".browser" / "node_modules" / "axe-core" / "axe.min.js"
CHROMIUM = os.environ.get("MMPO_CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """Chromium without a window; skips where it is not there."""
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: scripts/setup-browser")
    if CHROMIUM is None:
        pytest.skip("no chromium: scripts/setup-browser installs it")
    with api.sync_playwright() as playwright:
        # without its sandbox: tests run as root in containers, and open only pages that they wrote
        opened = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-dev-shm-usage"])
        yield opened
        opened.close()


@pytest.fixture(scope="session")
def axe() -> str:
    """The script of axe-core, which finds faults of accessibility; skips where it is not there."""
    if not AXE.is_file():
        pytest.skip("no axe-core: scripts/setup-browser fetches it")
    return AXE.read_text(encoding="utf-8")


def serious_faults(page: Page, axe: str) -> list[str]:
    """What axe-core calls serious or critical on the page: rule, and the first element."""
    page.evaluate(axe)
    found: dict[str, Any] = page.evaluate("axe.run(document, {resultTypes: ['violations']})")
    return [
        f"{one['id']} ({len(one['nodes'])}): {(node := one['nodes'][0])['html'][:200]} {node.get('failureSummary')}"
        for one in found["violations"]
        if one["impact"] in ("serious", "critical")
    ]
