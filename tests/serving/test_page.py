import re
import shutil
from collections import Counter

import pytest
from tiny import WORDS

from rabtriever.data import Document

playwright = pytest.importorskip("playwright.sync_api", reason="the page is tested in a browser: install playwright")
expect = playwright.expect
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine to open the page in")
ARGUMENTS = """--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking
--disable-component-update --disable-sync""".split()
QUERY = "the city weather and a recipe"
CONTRAST = """scheme => {
  const numbers = text => text.match(/[\\d.]+/g).map(Number)
  const light = ([r, g, b]) => [r, g, b].map(c => (c /= 255) <= .03928 ? c / 12.92 : ((c + .055) / 1.055) ** 2.4)
    .reduce((sum, c, i) => sum + c * [.2126, .7152, .0722][i], 0)
  const ground = element => {
    for (let e = element; e; e = e.parentElement) {
      const colour = numbers(getComputedStyle(e).backgroundColor)
      if (colour.length < 4 || colour[3] > 0) return colour
    }
  }
  return [...document.querySelectorAll("body *")].filter(e => e.checkVisibility() &&
    [...e.childNodes].some(n => n.nodeType === 3 && n.data.trim())).map(e => {
      const [a, b] = [light(numbers(getComputedStyle(e).color)), light(ground(e))].sort((a, b) => b - a)
      return [(a + .05) / (b + .05), e.tagName, e.className, e.textContent.slice(0, 40)]
    })
}"""


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture
def opened(browser):
    """Opens the page; whatever it did wrong is told at the end. `faults`: statuses that the test provokes."""
    contexts, wrong = [], []

    def opened(url, fragment="", faults=(), **options):
        context = browser.new_context(**options)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(5000)
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on(
            "console",
            lambda m: m.type == "error" and not (faults and "load resource" in m.text) and wrong.append(m.text),
        )
        page.on("request", lambda request: request.url.startswith(url) or wrong.append(request.url))
        page.on("response", lambda r: r.status < 400 or r.status in faults or wrong.append(f"{r.status} {r.url}"))
        page.goto(f"{url}/{fragment}")
        return page

    yield opened
    for context in contexts:
        context.close()
    assert not wrong


def search(page, query=QUERY):
    page.locator("#query").fill(query)
    page.keyboard.press("Enter")
    expect(page.locator("#results:not([aria-busy]) #retriever li").first).to_be_visible()
    expect(page.locator("#rerank[hidden], #rerank li").first).to_be_attached()


def ids(page, side="retriever"):
    return page.locator(f"#{side} li").evaluate_all("all => all.map(one => one.dataset.id)")


def percent(text):
    return float(text.strip("<>%")) / 100


def test_a_search_shows_the_rankings_beside_each_other(opened, standing):
    page = opened(standing.url)
    expect(page.locator("#about")).to_contain_text("4 documents")
    expect(page.locator("#query")).to_be_focused()
    search(page)
    hits = standing.post("/v1/search", query=QUERY).json()["hits"]
    assert ids(page) == [hit["id"] for hit in hits]
    assert ids(page, "bm25") == [
        hit["id"] for hit in standing.post("/v1/search", query=QUERY, mode="bm25").json()["hits"]
    ]
    for item, hit in zip(page.locator("#retriever li").all(), hits, strict=True):
        title, _, text = hit["text"].rpartition(": ")
        expect(item.locator("h3")).to_have_text(title or hit["id"])
        expect(item.locator(".text")).to_have_text(text)
        meter = item.get_by_role("meter", name="Probability by Rabtriever")
        assert float(meter.get_attribute("aria-valuenow")) == pytest.approx(hit["probability"], rel=0.01)
        for name, value in hit["metadata"].items():
            expect(item.locator("dl")).to_contain_text(f"{name}{value}")
    expect(page.locator("#rerank li")).to_have_count(4)
    reranked = standing.post("/v1/search", query=QUERY, rerank=10).json()["hits"]
    assert ids(page, "rerank") == [hit["id"] for hit in reranked]
    expect(page.locator("#encoder")).to_be_hidden()  # an LLM's states alone rank nothing
    expect(page.locator("#rerank .timing")).to_contain_text(re.compile(r"reranker [\d.]+"))
    for side in ("retriever", "bm25", "rerank"):
        expect(page.locator(f"#{side} .timing")).to_contain_text(re.compile(r"^[\d.]+ ms"))
    expect(page.locator("#status")).to_have_text("4 documents, 2 of which share no word with the query; 2 by BM25.")


def test_over_an_encoder_its_own_ranking_is_shown_and_none_of_a_reranker(opened, over_encoder):
    page = opened(over_encoder.url)
    search(page)
    for side, mode in (("encoder", "encoder"), ("retriever", "exact"), ("bm25", "bm25")):
        hits = over_encoder.post("/v1/search", query=QUERY, mode=mode).json()["hits"]
        assert hits and ids(page, side) == [hit["id"] for hit in hits]
    assert ids(page, "encoder") != ids(page)
    expect(page.locator("#rerank")).to_be_hidden()
    meters = page.locator("#encoder").get_by_role("meter", name="Probability by the encoder")
    expect(meters).to_have_count(4)
    encoding = re.compile(r"encoding ([\d.]+)")
    times = [
        encoding.search(page.locator(f"#{side} .timing").inner_text()) for side in ("encoder", "retriever", "bm25")
    ]
    assert [bool(time) for time in times] == [bool(times[1])] * 2 + [False]  # one encoding serves both, BM25 needs none


def test_a_document_is_highlighted_in_all_rankings(opened, standing):
    page = opened(standing.url)
    search(page)
    expect(page.locator("#rerank li")).to_have_count(4)
    item = page.locator("#retriever li[data-id=weather]")
    item.hover()
    expect(page.locator("li.twin[data-id=weather]")).to_have_count(2)  # BM25's and the reranked one
    expect(page.locator("li.twin:not([data-id=weather])")).to_have_count(0)
    page.locator("#query").hover()
    expect(page.locator("li.twin")).to_have_count(0)


def test_words_shared_with_the_query_are_marked_as_bm25_sees_them(opened, standing):
    page = opened(standing.url)
    search(page, "He plays cities in the lamps")
    assert set(ids(page, "bm25")) == {"music", "weather", "lamp"}
    for item in page.locator("#retriever li").all():
        found = item.get_attribute("data-id") in ids(page, "bm25")
        assert bool(item.locator("mark").count()) == found
        expect(item.locator(".place")).to_contain_text("BM25" if found else "No word in common")
    expect(page.locator("#bm25 mark").filter(has_text="city")).to_have_count(1)
    place = page.locator("#bm25 li").first
    place.get_by_role("button", name="Rabtriever, rank").click()
    expect(page.locator(f"#retriever li[data-id='{place.get_attribute('data-id')}']")).to_be_focused()
    search(page, "somebody sleepy")
    expect(page.locator("#bm25 .none")).to_have_text("No document shares a word with the query.")


def test_the_reranker_is_asked_for_one_hit_and_for_all(opened, standing):
    page = opened(standing.url)
    search(page)
    hits = standing.post("/v1/search", query=QUERY).json()["hits"]
    judged = standing.post("/v1/rerank", model="reranker", query=QUERY, documents=[hit["text"] for hit in hits]).json()[
        "results"
    ]
    expected = {hits[one["index"]]["id"]: one["relevance_score"] for one in judged}
    meters = page.locator("#retriever").get_by_role("meter", name="Probability by the reranker")
    page.locator("#retriever li").nth(1).get_by_role("button", name="Ask the reranker").click()
    expect(meters).to_have_count(1)
    page.locator("#retriever .judge").click()
    expect(meters).to_have_count(4)
    told = [float(meter.get_attribute("aria-valuenow")) for meter in meters.all()]
    assert told == pytest.approx([expected[hit["id"]] for hit in hits], rel=0.01)
    page.locator("#retriever .judge").click()
    assert ids(page) == sorted(expected, key=lambda one: -expected[one])
    page.locator("#retriever .judge").click()
    assert ids(page) == [hit["id"] for hit in hits]


def test_the_threshold_greys_out_what_is_under_it(opened, standing):
    page = opened(standing.url)
    search(page)
    probabilities = [hit["probability"] for hit in standing.post("/v1/search", query=QUERY).json()["hits"]]
    slider = page.get_by_role("slider", name="Grey out below")
    slider.focus()
    for _ in range(28):
        page.keyboard.press("ArrowRight")
        least = percent(slider.get_attribute("aria-valuetext"))
        under = page.locator("#retriever li").evaluate_all("all => all.map(one => one.classList.contains('under'))")
        assert under == [probability < least for probability in probabilities]
    assert least == 0.99
    assert page.evaluate("location.hash").endswith("t=0.99")


def test_a_document_is_added_found_and_removed(opened, live):
    page = opened(live.url, faults=(409,))
    search(page)
    page.keyboard.press("Tab")
    page.keyboard.press("a")
    dialog = page.get_by_role("dialog", name="Add a document")
    dialog.get_by_label("Title").fill("A Néw lamp")
    expect(dialog.get_by_label("Id", exact=True)).to_have_value("a-new-lamp")
    dialog.get_by_label("Id", exact=True).fill("lamp")
    dialog.get_by_label("Metadata").fill("[1]")
    dialog.get_by_role("button", name="Add").click()
    expect(dialog.get_by_label("Metadata")).to_have_attribute("aria-invalid", "true")
    dialog.get_by_label("Metadata").fill('{"year": 2020}')
    dialog.get_by_role("button", name="Add").click()
    expect(dialog.get_by_label("Id", exact=True)).to_have_attribute("aria-invalid", "true")
    assert len(live.index) == 4
    dialog.get_by_label("Id", exact=True).fill("../new lamp?")
    dialog.get_by_label("Text").fill("<img src=x onerror=alert(1)>")
    dialog.get_by_role("button", name="Add").click()
    new = page.locator("#retriever li.new")
    expect(new.locator("h3")).to_have_text("A Néw lamp")
    expect(new.locator(".text")).to_have_text("<img src=x onerror=alert(1)>")
    expect(page.locator("#notice")).to_contain_text(
        f"It has rank {ids(page).index('../new lamp?') + 1} for this query."
    )
    expect(page.locator("#about")).to_contain_text("5 documents")
    [stored] = live.index.get(["../new lamp?"])
    assert stored.metadata == {"year": 2020}
    page.get_by_role("button", name="Remove it").click()
    expect(page.locator("#notice")).to_contain_text("Removed")
    expect(page.locator("#retriever li")).to_have_count(4)
    assert len(live.index) == 4


def test_a_document_beyond_the_first_ten_is_shown_with_its_rank(opened, live):
    live.index.add(Document(f"d{i}", f"{word} {WORDS[i : i + 30]}") for i, word in enumerate(WORDS.split()[:30]))
    page = opened(live.url, faults=(409,))
    ranks = [hit["id"] for hit in live.post("/v1/search", query=QUERY, k=100).json()["hits"]]
    search(page)
    assert ids(page) == ranks[:10]
    page.get_by_role("button", name="Add a document").click()
    page.get_by_label("Id", exact=True).fill(ranks[20])
    page.get_by_label("Text").fill(live.index.get([ranks[20]])[0].text)
    page.get_by_label("Replace").check()
    page.get_by_role("dialog").get_by_role("button", name="Add").click()
    expect(page.locator("#notice")).to_contain_text("It has rank 21")
    expect(page.locator("#retriever li.new .rank")).to_have_text("Rank 21")


def test_a_filter_is_used_or_its_fault_shown_beside_it(opened, standing):
    page = opened(standing.url, faults=(422,))
    page.locator("#query").fill(QUERY)
    page.locator("summary").click()
    where = page.get_by_label("Only documents for which")
    where.fill("colour = 3")
    page.keyboard.press("Enter")
    expect(where).to_have_attribute("aria-invalid", "true")
    expect(where).to_be_focused()
    expect(where).to_have_accessible_description(re.compile("'colour' is no column here"))
    expect(page.locator("#results")).to_be_hidden()
    where.fill("json_get_int(metadata, 'year') > 2001")
    page.keyboard.press("Enter")
    expect(page.locator("#retriever li")).to_have_count(2)
    assert set(ids(page)) == {"it's/bread", "lamp"}
    expect(where).not_to_have_attribute("aria-invalid", "true")
    where.fill("id = 'nobody'")
    page.keyboard.press("Enter")
    expect(page.locator("#retriever .none")).to_have_text("No document passes the filter.")


def test_a_key_is_asked_for_and_forgotten_with_the_tab(opened, live_with_keys):
    page = opened(live_with_keys.url, faults=(401, 403))
    key = page.get_by_role("dialog", name="API key")
    expect(key).to_be_visible()
    key.get_by_label("Key").fill("not-the-key-0123456789")
    page.keyboard.press("Enter")
    expect(page.locator("#key-value-fault")).to_have_text("The server did not accept this key.")
    key.get_by_label("Key").fill(live_with_keys.read_key)
    page.keyboard.press("Enter")
    expect(key).to_be_hidden()
    expect(page.locator("#about")).to_contain_text("4 documents")
    search(page)
    assert page.evaluate("[localStorage.length, document.cookie, Object.values(sessionStorage)]") == [
        0,
        "",
        [live_with_keys.read_key],
    ]
    page.get_by_role("button", name="Add a document").click()
    add = page.get_by_role("dialog", name="Add a document")
    add.get_by_label("Title").fill("New")
    add.get_by_role("button", name="Add").click()
    expect(add.get_by_role("alert")).to_contain_text("This API key may read, not write.")
    add.get_by_role("button", name="Use another key").click()
    key.get_by_label("Key").fill(live_with_keys.write_key)
    page.keyboard.press("Enter")
    expect(page.locator("#retriever li.new")).to_have_count(1)


def test_without_a_key_the_page_says_so(opened, live_with_keys):
    page = opened(live_with_keys.url, "#q=lamp", faults=(401,))
    page.get_by_role("dialog").get_by_role("button", name="Cancel").click()
    expect(page.get_by_role("alert").filter(has_text="Without a key")).to_be_visible()
    page.get_by_role("button", name="Try again").click()
    expect(page.get_by_role("dialog", name="API key")).to_be_visible()


def test_a_server_that_is_not_there_yet_is_waited_for_and_one_that_is_gone_is_named(opened, standing):
    page = opened(standing.url, faults=(503,))
    answers = ["unready", "gone"]

    def answer(route):
        what = answers.pop(0) if answers else "there"
        if what == "unready":
            route.fulfill(status=503, headers={"Retry-After": "2"}, json={"message": "loading"})
        elif what == "gone":
            route.abort()
        else:
            route.continue_()

    page.route("**/v1/search", answer)
    page.locator("#query").fill(QUERY)
    page.keyboard.press("Enter")
    expect(page.locator("#status")).to_have_text("The server is not ready yet; trying again in 2 s.")
    expect(page.locator("#problem")).to_contain_text("The server cannot be reached.")
    page.get_by_role("button", name="Try again").click()
    expect(page.locator("#retriever li")).to_have_count(4)
    expect(page.locator("#problem")).to_be_hidden()


def test_a_late_answer_never_replaces_a_newer_one(opened, standing):
    page = opened(standing.url)
    held = []

    def answer(route):
        if "slow" in route.request.post_data_json["query"]:
            held.append(route)
        else:
            route.continue_()

    page.route("**/v1/search", answer)
    page.locator("#query").fill("slow weather")
    with page.expect_event("requestfailed"):
        page.keyboard.press("Enter")
        page.wait_for_timeout(50)
        search(page, "lamp")
    shown = ids(page)
    assert held
    page.wait_for_timeout(100)
    assert ids(page) == shown and page.title() == "lamp – Rabtriever"


def test_the_address_holds_the_search_where_no_server_sees_it(opened, standing):
    asked = []
    page = opened(standing.url)
    page.on("request", lambda request: asked.append(request.url))
    search(page, "lamp & light")
    search(page, "bread")
    assert page.evaluate("location.hash") == "#q=bread"
    page.go_back()
    expect(page.locator("#query")).to_have_value("lamp & light")
    expect(page.locator("#retriever li mark").first).to_be_visible()
    page.go_back()
    expect(page.locator("#intro")).to_be_visible()
    page.get_by_role("button", name="Should I pack an umbrella").click()
    expect(page.locator("#retriever li")).to_have_count(4)
    assert not any("q=" in url.split("#")[0] for url in asked)
    shared = opened(standing.url, "#q=lamp+light&where=id+%3D+%27lamp%27&t=0.5")
    expect(shared.locator("#retriever li")).to_have_count(1)
    expect(shared.locator("#where")).to_have_value("id = 'lamp'")
    expect(shared.locator("#threshold-value")).to_contain_text("50%")


def test_everything_is_done_by_keys(opened, standing):
    page = opened(standing.url)
    search(page)
    first, second = page.locator("#retriever li").nth(0), page.locator("#retriever li").nth(1)
    page.keyboard.press("ArrowDown")
    expect(first).to_be_focused()
    page.keyboard.press("j")
    expect(second).to_be_focused()
    page.keyboard.press("r")
    expect(second.get_by_role("meter")).to_have_count(2)
    page.keyboard.press("k")
    expect(first).to_be_focused()
    page.keyboard.press("R")
    expect(page.locator("#retriever .gauge.reranker")).to_have_count(4)
    page.keyboard.press("ArrowRight")
    expect(page.locator("#rerank li:focus")).to_have_count(1)
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("ArrowLeft")
    expect(page.locator("#bm25 li:focus")).to_have_count(1)
    page.keyboard.press("?")
    expect(page.get_by_role("dialog", name="Keyboard")).to_be_visible()
    page.get_by_label("Single keys work").uncheck()
    page.keyboard.press("Escape")
    page.keyboard.press("a")
    expect(page.get_by_role("dialog")).to_have_count(0)
    page.get_by_role("button", name="Keyboard").click()
    page.get_by_label("Single keys work").check()
    page.keyboard.press("Escape")
    page.keyboard.press("/")
    expect(page.locator("#query")).to_be_focused()
    page.keyboard.press("a")
    expect(page.locator("#query")).to_have_value("a")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_is_accessible(opened, standing, scheme):
    page = opened(standing.url, color_scheme=scheme, reduced_motion="reduce")
    search(page)
    page.locator("#threshold").fill("28")
    page.locator("#retriever li").first.get_by_role("button", name="Ask the reranker").click()
    expect(page.locator("#retriever .gauge.reranker")).to_have_count(1)
    page.locator("#retriever li").first.focus()
    assert not [one for one in page.evaluate(CONTRAST) if one[0] < 4.5]
    page.evaluate("document.querySelectorAll('#results li').forEach(one => one.classList.add('twin'))")
    assert not [one for one in page.evaluate(CONTRAST) if one[0] < 4.5]
    for button in ("#open-add", "#open-keys"):
        page.locator(button).click()
        assert not [one for one in page.evaluate(CONTRAST) if one[0] < 4.5]
        controls = "button, input, textarea, summary, a, dialog, [role=meter]"
        for control in page.locator(controls).all():
            if control.is_visible():
                expect(control).to_have_accessible_name(re.compile(r"\S"))
        page.keyboard.press("Escape")
    given = Counter(page.locator("[id]").evaluate_all("all => all.map(one => one.id)"))
    assert not [one for one, times in given.items() if times > 1]
    for attribute in ("for", "aria-labelledby", "aria-describedby"):
        told = page.locator(f"[{attribute}]").evaluate_all(f"all => all.map(one => one.getAttribute('{attribute}'))")
        assert set(" ".join(told).split()) <= set(given)


def test_tab_reaches_every_control_and_shows_where_it_is(opened, standing):
    page = opened(standing.url)
    search(page)
    page.evaluate("document.activeElement.blur()")
    controls = "button, a, input, summary"
    wanted = page.locator(controls).evaluate_all("all => all.filter(one => one.checkVisibility()).length")
    page.evaluate("window.reached = new Set()")
    for _ in range(wanted + 1):
        page.keyboard.press("Tab")
        style = page.evaluate(
            """() => { const at = document.activeElement; if (at === document.body) return null; reached.add(at);
            const {outlineStyle, outlineWidth} = getComputedStyle(at); return outlineStyle + " " + outlineWidth }"""
        )
        assert style in (None, "solid 2px")
    assert page.evaluate("reached.size") == wanted


def test_a_phone_shows_one_list_at_a_time_and_never_scrolls_sideways(opened, standing):
    page = opened(standing.url, viewport={"width": 390, "height": 844})
    search(page)
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    expect(page.locator("#bm25")).to_be_hidden()
    page.get_by_role("button", name=re.compile("^BM25 2")).click()
    expect(page.locator("#bm25 li")).to_have_count(2)
    expect(page.locator("#retriever")).to_be_hidden()
    page.set_viewport_size({"width": 320, "height": 600})
    assert page.evaluate("document.documentElement.scrollWidth") == 320


def test_below_a_proxys_prefix_it_asks_below_it_too(browser, standing):
    page = browser.new_page()
    page.route(
        "http://proxy.test/some/where/**",
        lambda route: route.fulfill(
            response=route.fetch(url=route.request.url.replace("http://proxy.test/some/where", standing.url))
        ),
    )
    page.goto("http://proxy.test/some/where/#q=lamp")
    expect(page.locator("#retriever li")).to_have_count(4)
    expect(page.locator("#rerank li")).to_have_count(4)  # nothing is in flight when it is closed
    page.close()


def test_a_title_or_text_that_is_odd_is_shown_as_it_is(opened, live):
    long = "music " * 300
    live.index.add([Document("long", long), Document("web", "see https://x: y"), Document("b", "x", "T" * 200)])
    page = opened(live.url)
    search(page)
    item = page.locator("#retriever li[data-id=long]")
    assert len(item.locator(".text").inner_text()) < 500
    item.get_by_role("button", name="all of it").click()
    expect(item.locator(".text")).to_contain_text(long.strip())
    expect(page.locator("#retriever li[data-id=b] h3")).to_have_text("b")
