"""Pictures of the server's page, for docs/page, of the demo's index with the shipped model.

Usage: python benchmarks/serve/screenshots.py URL [--out docs/page]

Start `rabtriever serve` anew, so that no query is cached yet. Needs ``pip install playwright`` and a chromium.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path
from urllib.parse import urlencode

from playwright.sync_api import Browser, Page, sync_playwright

LIGHT = "The leaves on my ficus are turning yellow and dropping off, what am I doing wrong?"
PHONE_QUERY = "Should I pack an umbrella for my weekend in Oslo?"
QUERY = "My puppy keeps scratching his ears and whining, should I be worried?"
BOTH = "Whenever it rains and there is a storm outside, the street noise keeps me awake."
ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"]
DESKTOP, PHONE = {"width": 1280, "height": 900}, {"width": 390, "height": 844}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("url", help="of a server on the demo's index")
    parser.add_argument("--out", type=Path, default=Path("docs/page"))
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium") or shutil.which("google-chrome"), args=ARGUMENTS
        )

        def shot(name: str, page: Page) -> None:
            page.screenshot(path=args.out / f"{name}.png")
            page.context.close()

        shot("desktop-light", searched(browser, args.url, LIGHT))
        shot("desktop-dark", searched(browser, args.url, scheme="dark"))
        shot("phone", searched(browser, args.url, PHONE_QUERY, viewport=PHONE))

        page = searched(browser, args.url, query=BOTH)
        page.locator("#retriever .judge").click()
        page.locator("#retriever .gauge.reranker").first.wait_for()
        shot("reranked", page)

        page = opened(browser, args.url, {"q": QUERY, "where": "colour = 'red'"})
        page.locator("#where[aria-invalid]").wait_for()
        shot("error", page)
        browser.close()


def opened(browser: Browser, url: str, fragment: dict[str, str] | None = None, **options: object) -> Page:
    page = browser.new_context(viewport=options.pop("viewport", DESKTOP), **options).new_page()  # type: ignore[arg-type]
    page.goto(f"{url}#{urlencode(fragment or {})}")
    page.locator("#about:not(:empty)").wait_for()
    return page


def searched(browser: Browser, url: str, query: str = QUERY, **options: object) -> Page:
    scheme = options.pop("scheme", "light")
    page = opened(browser, url, color_scheme=scheme, **options)
    page.wait_for_timeout(1500)  # the browser's own start is over
    page.locator("#query").fill(query)
    page.keyboard.press("Enter")
    page.locator("#results:not([aria-busy]) #retriever li").first.wait_for()
    page.locator("#rerank .timing:not(:empty), #rerank[hidden]").first.wait_for(state="attached")
    page.wait_for_timeout(400)
    return page


if __name__ == "__main__":
    main()
