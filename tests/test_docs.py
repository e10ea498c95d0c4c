"""The site that `make docs` builds: without a warning, complete, and the same without a network."""

import ast
import os
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from pages import PAGES, ROOT, blocks

import rabtriever
from rabtriever.cli import COMMANDS

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
LOADS = {
    "script": "src",
    "img": "src",
    "iframe": "src",
    "source": "src",
    "video": "src",
    "audio": "src",
    "link": "href",
}


class Page(HTMLParser):
    """What one page refers to: files that a browser loads by itself, links to follow, and anchors that it has."""

    def __init__(self, path):
        super().__init__()
        self.loads, self.links, self.anchors = [], [], {""}
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attributes):
        values = dict(attributes)
        self.anchors.update(value for value in (values.get("id"), values.get("name")) if value)
        if LOADS.get(tag) in values:
            self.loads.append(values[LOADS[tag]])
        elif tag == "a" and values.get("href"):
            self.links.append(values["href"])


def build(root, site):
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    environment |= {"NO_MKDOCS_2_WARNING": "1", "DISABLE_MKDOCS_2_WARNING": "true"}
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(site)]
    return subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("docs") / "site"
    done = build(ROOT, folder)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "WARNING" not in done.stdout + done.stderr
    return folder


@pytest.fixture(scope="module")
def pages(site):
    return {path: Page(path) for path in site.rglob("*.html") if path.name != "404.html"}


def test_no_page_loads_anything_from_elsewhere(site, pages):
    remote = [url for page in pages.values() for url in page.loads if urlsplit(url).netloc]
    assert remote == []
    for sheet in site.rglob("*.css"):
        text = sheet.read_text(encoding="utf-8")
        urls = re.findall(r"url\(\s*['\"]?([^'\")]+)|@import\s+['\"]([^'\"]+)", text)
        assert [url for pair in urls for url in pair if urlsplit(url).netloc] == []


def test_what_pages_load_is_there(pages):
    for path, page in pages.items():
        for url in page.loads:
            assert (path.parent / unquote(urlsplit(url).path)).exists(), f"{path.name}: {url}"


def test_links_and_anchors_resolve(pages):
    n_links = 0
    for path, page in pages.items():
        for url in page.links:
            parts = urlsplit(url)
            if parts.scheme or parts.netloc:
                assert parts.scheme in ("http", "https", "mailto"), f"{path.name}: {url}"
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            target = target / "index.html" if target.is_dir() else target
            if target.suffix == ".html":
                assert target in pages, f"{path.name}: no page {url}"
                anchors = pages[target].anchors
                assert unquote(parts.fragment) in anchors, f"{path.name}: no anchor {url}"
            else:
                assert target.is_file(), f"{path.name}: no file {url}"
            n_links += 1
    assert n_links > 1000


def test_lists_and_tables_are_rendered(pages):
    for path in pages:
        text = re.sub(r"<code.*?</code>", "", path.read_text(encoding="utf-8"), flags=re.DOTALL)
        for paragraph in re.findall(r"<p>(.*?)</p>", text, re.DOTALL):
            raw = re.search(r"(^|\n)\s*(- |\| |\d+\. |```)|\*\*|\]\(", paragraph)
            assert raw is None, f"{path.name}: {paragraph[:100]}"


def test_pages_open_from_disk_and_can_be_searched(site):
    browsers = pytest.importorskip("playwright.sync_api", reason="the site is searched in a browser")
    if CHROMIUM is None:
        pytest.skip("no chromium on this machine to open the site in")
    with browsers.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page, asked, faults = browser.new_page(), [], []
        page.on("request", lambda request: asked.append(request.url))
        page.on("pageerror", lambda fault: faults.append(fault))
        page.goto((site / "index.html").as_uri())
        page.get_by_role("textbox", name="Search").press_sequentially("Clopper-Pearson")
        page.locator(".md-search-result__link", has_text="What is promised").first.wait_for(timeout=60_000)
        browser.close()
    assert faults == []
    assert {urlsplit(url).scheme for url in asked} <= {"file", "data", "blob", "about"}


def test_every_command_has_a_section(site, pages):
    assert set(COMMANDS) <= pages[site / "cli.html"].anchors
    text = (site / "cli.html").read_text(encoding="utf-8")
    assert "--teacher-calls" in text and "--tune-encoder" in text


def test_every_public_name_has_its_docstring(site, pages):
    anchors = set().union(*(page.anchors for path, page in pages.items() if path.parent.name == "api"))
    assert {f"rabtriever.{name}" for name in rabtriever.__all__} <= anchors
    text = "".join(path.read_text(encoding="utf-8") for path in (site / "api").glob("*.html"))
    assert all(f">{word}" in text for word in ("Parameters:", "Returns:", "Raises:"))
    assert ":func:`" not in text and ":class:`" not in text


def test_the_reference_has_what_pages_import(pages):
    anchors = set().union(*(page.anchors for path, page in pages.items() if path.parent.name == "api"))
    trees = [ast.parse(block.code) for page in PAGES for block in blocks(page, "python")]
    imports = [node for tree in trees for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    names = {
        (node.module, name.name) for node in imports if node.module.startswith("rabtriever.") for name in node.names
    }
    assert {f"{module}.{name}" for module, name in names if name not in rabtriever.__all__} <= anchors


@pytest.mark.parametrize("name", ["README.md", "CHANGELOG.md"])
def test_links_of_files_beside_the_site_resolve(name, site, pages):
    for target, anchor in re.findall(r"\]\(([^):#\s]+)(?:#([^)\s]*))?\)", (ROOT / name).read_text(encoding="utf-8")):
        assert (ROOT / target).exists(), f"{name}: {target}"
        if anchor:
            assert anchor in pages[site / f"{Path(target).stem}.html"].anchors, f"{name}: {target}#{anchor}"


def test_a_figure_in_the_first_pages_is_one_of_the_results():
    results = "".join((ROOT / "docs" / name).read_text(encoding="utf-8") for name in ("results.md", "corpora.md"))
    for name in ("index.md", "start.md"):
        for figure in re.findall(r"(?<!\d)\.\d{3}", (ROOT / "docs" / name).read_text(encoding="utf-8")):
            assert figure in results, f"{name}: {figure}"


def test_sources_of_generated_pages_are_not_published(site):
    assert not list(site.rglob("*.head*")) and not (site / "generate").exists()


def test_links_that_lead_nowhere_fail_the_build(tmp_path):
    for name in ("benchmarks", "src", "models"):
        (tmp_path / name).symlink_to(ROOT / name)
    shutil.copytree(ROOT / "docs", tmp_path / "docs")
    shutil.copy(ROOT / "mkdocs.yml", tmp_path)
    faults = ("nowhere.md", "index.md#nothing", "../benchmarks/missing.json")
    with (tmp_path / "docs" / "start.md").open("a", encoding="utf-8") as page:
        page.writelines(f"\n[a link]({fault})\n" for fault in faults)
    done = build(tmp_path, tmp_path / "site")
    assert done.returncode == 1
    assert all(word in done.stdout + done.stderr for word in ("nowhere.md", "#nothing", "missing.json"))
