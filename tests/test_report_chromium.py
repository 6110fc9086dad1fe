"""Reports in a real browser, headless Chromium: no errors, nothing wider than a phone, and text that can be read."""

from __future__ import annotations

import contextlib
import html
import json
import os
import re
import shutil
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest

from hymt_batch.report import job_page
from tests.test_report import data_with, hostile_texts

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
OPTIONS = (
    "--headless --no-sandbox --disable-gpu --disable-background-networking --disable-component-update --disable-sync "
    "--no-first-run --enable-logging=stderr --v=0 --dump-dom"
)
WIDTHS = (1280, 390)
TIMEOUT_S = 55
DARK = "--blink-settings=preferredColorScheme=0"

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")

MEASURE = """
function parse(color) {
  const parts = color.match(/[\\d.]+/g).map(Number);
  return parts.length > 3 && parts[3] === 0 ? null : parts.slice(0, 3);
}
function luminance(rgb) {
  const [r, g, b] = rgb.map(v => (v /= 255) <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
}
function contrast(view, node) {
  const style = view.getComputedStyle(node);
  const ink = parse(node.closest("svg") ? style.fill : style.color);
  let behind = null;
  for (let at = node; at && !behind; at = at.parentElement) behind = parse(view.getComputedStyle(at).backgroundColor);
  const [a, b] = [luminance(ink), luminance(behind || [255, 255, 255])].sort((x, y) => y - x);
  return (a + 0.05) / (b + 0.05);
}
window.onload = () => {
  const found = [...document.querySelectorAll("iframe")].map(frame => {
    const page = frame.contentDocument, view = frame.contentWindow;
    const texts = [...page.body.querySelectorAll("*")].filter(
      node => !["title", "desc"].includes(node.tagName) && !node.matches(".on") &&
        [...node.childNodes].some(child => child.nodeType === 3 && child.data.trim()));
    const faint = texts.map(node => [contrast(view, node), node.tagName + "." + node.getAttribute("class")]);
    return {
      width: view.innerWidth,
      scrolls: page.documentElement.scrollWidth,
      elements: page.querySelectorAll("*").length,
      scripts: page.querySelectorAll("script, iframe, img, object, embed, form, link, base").length,
      handlers: [...page.querySelectorAll("*")].filter(
        node => [...node.attributes].some(a => a.name.startsWith("on"))).length,
      background: view.getComputedStyle(page.body).backgroundColor,
      faint: faint.filter(([ratio]) => ratio < 4.5).slice(0, 5),
      texts: texts.length,
    };
  });
  const shown = document.createElement("pre");
  shown.textContent = "RESULT" + JSON.stringify(found) + "END";
  document.body.append(shown);
};
"""


def look_at(page: bytes, folder: Path, *options: str) -> tuple[list[dict[str, Any]], list[str]]:
    """Open a page in frames of all widths, and return what each shows, and the messages of the console."""
    source = html.escape(page.decode("utf-8"), quote=True)
    frames = "".join(f'<iframe width="{width}" height="900" srcdoc="{source}"></iframe>' for width in WIDTHS)
    path = folder / "frames.html"
    start = "<!DOCTYPE html><html><head><meta charset=utf-8></head><body>"
    path.write_text(f"{start}{frames}<script>{MEASURE}</script></body></html>", encoding="utf-8")
    assert CHROMIUM is not None
    command = [CHROMIUM, *OPTIONS.split(), *options, f"--user-data-dir={folder / 'profile'}", f"file://{path}"]
    shown, errors = folder / "shown.html", folder / "errors.txt"
    with shown.open("wb") as out, errors.open("wb") as err:
        # not into a pipe, which the browser's own processes would keep open
        browser = subprocess.Popen(command, stdout=out, stderr=err, start_new_session=True)
        try:
            browser.wait(TIMEOUT_S)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(browser.pid, signal.SIGKILL)
            browser.wait()
    messages = errors.read_text(encoding="utf-8", errors="replace")
    result = re.search(r"<pre>RESULT(.*)END</pre>", shown.read_text(encoding="utf-8"), re.DOTALL)
    assert result is not None, messages[-2000:]
    console = [line for line in messages.splitlines() if "CONSOLE" in line]
    return json.loads(html.unescape(result[1])), console


@pytest.mark.parametrize("mode", ["light", "dark"])
def test_a_report_with_hostile_texts_is_shown_without_errors(mode: str, tmp_path: Path) -> None:
    page = job_page.render(data_with(hostile_texts()), "hymt-batch")
    found, console = look_at(page, tmp_path, *([DARK] if mode == "dark" else []))
    assert console == []
    assert [frame["width"] for frame in found] == list(WIDTHS)
    for frame in found:
        assert frame["scrolls"] <= frame["width"], "wider than the screen"
        assert frame["elements"] < 5000 and frame["texts"] > 100
        assert (frame["scripts"], frame["handlers"]) == (0, 0)
        assert frame["faint"] == []
        assert (frame["background"] == "rgb(255, 255, 255)") == (mode == "light")


def test_the_report_of_a_job_is_shown_without_errors_and_its_figures_are_those_of_the_manifest(tmp_path: Path) -> None:
    """A small part of `make report-size`."""
    from tests.campaigns import report_size

    figures = report_size.run(1, 2000, tmp_path)
    assert figures["passed"], figures["failures"]
    assert figures["console_messages"] == 0 < figures["elements_in_browser"]
