"""Looks at every page of the built site in Chromium: python docs/site/look.py build/site.

Says what the console says, what is fetched from elsewhere, which links and anchors lead nowhere,
which pictures do not load, and where a page is wider than the window of a desktop or a phone.
--pictures DIR keeps screenshots of some pages, of both sizes, light and dark. Ends with 1 if it
found anything. Needs chromium and chromedriver on PATH.
"""

from __future__ import annotations

import argparse
import base64
import json
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from html.parser import HTMLParser
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urljoin, urlsplit
from urllib.request import Request, urlopen

SIZES = {"desktop": (1280, 900), "phone": (390, 844)}
SCHEMES = ("light", "dark")
SHOWN = (
    "index",
    "decoder",
    "adding-an-op",
    "benchmarks",
    "reference/attention",
    "reference/drafts",
)

# A page's own account of itself; tables and code may scroll, within themselves.
_ACCOUNT = """
const all = (what) => [...document.querySelectorAll(what)];
return {
  links: all('a[href]').map((each) => each.href),
  blank: all('.md-content img').filter((each) => each.complete && !each.naturalWidth
    && getComputedStyle(each).display !== 'none').map((each) => each.src),
  fetched: performance.getEntriesByType('resource').map((each) => each.name),
};
"""
_TOO_WIDE = """
return document.scrollingElement.scrollWidth - document.scrollingElement.clientWidth;
"""
_STILL = """
const style = document.createElement('style');
style.textContent = '* { transition: none !important; animation: none !important; }';
document.head.append(style);
"""
_FOUND = "return document.querySelectorAll('.md-search-result__item').length;"


_NAMED = ("a", "name")


class Browser:
    """A headless Chromium, driven over WebDriver."""

    def __init__(self, url: str, folder: str) -> None:
        words = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"]
        words += ["--disable-background-networking", "--disable-component-update", "--disable-sync"]
        words += ["--hide-scrollbars", f"--user-data-dir={folder}"]
        options = {"args": words, "binary": shutil.which("chromium")}
        asked = {"goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "ALL"}}
        self._url = url
        session = self._ask("POST", "/session", {"capabilities": {"alwaysMatch": asked}})
        self._url = f"{url}/session/{session['sessionId']}"

    def _ask(self, method: str, path: str, body: Any = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        request = Request(self._url + path, data, {"Content-Type": "application/json"})
        request.method = method
        with urlopen(request, timeout=60) as answer:
            return json.load(answer)["value"]

    def open(self, url: str) -> None:
        self._ask("POST", "/url", {"url": url})

    def run(self, script: str) -> Any:
        return self._ask("POST", "/execute/sync", {"script": script, "args": []})

    def console(self) -> list[str]:
        """What was logged since the last time, but for chatter."""
        entries = self._ask("POST", "/se/log", {"type": "browser"})
        return [each["message"] for each in entries if each["level"] in ("WARNING", "SEVERE")]

    def _tell(self, command: str, **params: Any) -> Any:
        return self._ask("POST", "/goog/cdp/execute", {"cmd": command, "params": params})

    def show(self, size: str, scheme: str) -> None:
        width, height = SIZES[size]
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1}
        self._tell("Emulation.setDeviceMetricsOverride", **metrics, mobile=size == "phone")
        feature = {"name": "prefers-color-scheme", "value": scheme}
        self._tell("Emulation.setEmulatedMedia", features=[feature])

    def picture(self) -> bytes:
        """The page from its top, three windows long at most."""
        width, height = self.run("return [innerWidth, document.scrollingElement.scrollHeight];")
        clip = {"x": 0, "y": 0, "width": width, "height": min(height, 2700), "scale": 1}
        shot = self._tell("Page.captureScreenshot", clip=clip, captureBeyondViewport=True)
        return base64.b64decode(shot["data"])

    def close(self) -> None:
        self._ask("DELETE", "")


@contextmanager
def browser() -> Iterator[Browser]:
    with tempfile.TemporaryDirectory() as folder, _driver() as url:
        opened = Browser(url, folder)
        try:
            yield opened
        finally:
            opened.close()


@contextmanager
def _driver() -> Iterator[str]:
    words = [shutil.which("chromedriver") or "chromedriver", "--port=0"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as driver:
        try:
            assert driver.stdout is not None
            said = next(line for line in driver.stdout if "successfully on port" in line)
            yield f"http://localhost:{said.split()[-1].rstrip('.')}"
        finally:
            driver.terminate()


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: Any) -> None:
        pass


@contextmanager
def served(site: Path) -> Iterator[str]:
    server = ThreadingHTTPServer(("localhost", 0), partial(_Quiet, directory=str(site)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://localhost:{server.server_port}/"
    finally:
        server.shutdown()


def look(site: Path, pictures: Path | None = None) -> list[str]:
    """What is wrong with the site, a line each."""
    wrong: list[str] = []
    ids: dict[str, set[str]] = {}
    links: dict[str, list[str]] = {}
    with served(site) as home, browser() as opened:
        for page in sorted(each.relative_to(site).as_posix() for each in site.rglob("*.html")):
            opened.show("desktop", "light")
            opened.open(home + page)
            account = opened.run(_ACCOUNT)
            wrong += [f"{page}: console: {said}" for said in opened.console()]
            wrong += [f"{page}: no picture {source}" for source in account["blank"]]
            strangers = [each for each in account["fetched"] if not each.startswith(home)]
            wrong += [f"{page}: fetches {each}" for each in strangers]
            ids[page], links[page] = _anchors(site / page), account["links"]
            for size in SIZES:
                opened.show(size, "light")
                wide = opened.run(_TOO_WIDE)
                wrong += [f"{page}: {wide} px wider than a {size}"] if wide > 0 else []
            if pictures is not None and page.removesuffix(".html") in SHOWN:
                _keep(opened, pictures, page.removesuffix(".html"))
        wrong += _search(opened, home)
        for page, targets in links.items():
            wrong += [f"{page}: {why}" for why in _dead(home, page, targets, ids)]
    return wrong


def _keep(opened: Browser, folder: Path, name: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    opened.run(_STILL)
    for size in SIZES:
        for scheme in SCHEMES:
            opened.show(size, scheme)
            time.sleep(0.3)  # the page's own scripts
            path = folder / f"{name.replace('/', '-')}-{size}-{scheme}.png"
            path.write_bytes(opened.picture())


def _search(opened: Browser, home: str) -> list[str]:
    """Whether a name of ours is found."""
    opened.show("desktop", "light")
    opened.open(home + "index.html?q=accept_tree_residual")
    for _ in range(50):
        if opened.run(_FOUND):
            return []
        time.sleep(0.1)
    return ["search: nothing found for accept_tree_residual"]


def _anchors(page: Path) -> set[str]:
    """Where links may lead within a page: as it was built, whatever its scripts are at."""
    found: set[str] = set()
    parser = HTMLParser()
    parser.handle_starttag = lambda tag, attributes: found.update(  # type: ignore[method-assign]
        value for name, value in attributes if value and (name == "id" or (tag, name) == _NAMED)
    )
    parser.feed(page.read_text(encoding="utf-8"))
    return found


def _dead(home: str, page: str, links: list[str], ids: dict[str, set[str]]) -> Iterator[str]:
    for link in sorted(set(links)):
        parts = urlsplit(urljoin(home + page, link))
        if not link.startswith(home):
            continue
        target, anchor = unquote(parts.path).lstrip("/") or "index.html", unquote(parts.fragment)
        if target not in ids:
            yield f"leads to no page: {target}"
        elif anchor and anchor not in ids[target]:
            yield f"leads to no anchor: {target}#{anchor}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("site", type=Path)
    parser.add_argument("--pictures", type=Path, metavar="DIR", help="of some pages")
    arguments = parser.parse_args()
    wrong = look(arguments.site, arguments.pictures)
    print("\n".join(wrong) or "No broken link, no console error, nothing too wide.")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
