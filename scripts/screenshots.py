"""Make the pictures of the README: the hub and a rank report, in headless Chromium.

python scripts/screenshots.py            writes docs/images/*.png
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

IMAGES = Path(__file__).parents[1] / "docs" / "images"
PAGES = {"hub": ("/", 1180, 900), "paper": ("/papers/rankme", 1180, 1500)}


def main() -> None:
    """Start a hub of its own, photograph its pages, stop it."""
    IMAGES.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as runs, _hub(Path(runs)) as address:
        for name, (path, width, height) in PAGES.items():
            _photograph(address + path, IMAGES / f"{name}.png", width, height)
        _photograph(_report(address), IMAGES / "rank-report.png", 1180, 1420)


@contextmanager
def _hub(runs: Path) -> Iterator[str]:
    command = [sys.executable, "-m", "fullrank", "serve", "--port", "0", "--runs", str(runs)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as hub:
        assert hub.stdout is not None
        found = re.search(r"http://\S+", hub.stdout.readline())
        if found is None:
            raise RuntimeError("the hub did not start")
        try:
            yield found.group()
        finally:
            hub.terminate()


def _report(address: str) -> str:
    """The address of the rank report of the bundled encoder, once it is done."""
    body = urllib.parse.urlencode({"model": "all-MiniLM-L6-v2"}).encode()
    with urllib.request.urlopen(f"{address}/analyses", body) as answer:
        page = answer.geturl()
    number = page.rsplit("/", 1)[-1]
    while True:
        with urllib.request.urlopen(f"{address}/jobs/{number}.json") as answer:
            state = json.load(answer)["state"]
        if state == "finished":
            return f"{address}/analyses/{number}"
        if state not in ("waiting", "running"):
            raise RuntimeError(f"the analysis is {state}")
        time.sleep(0.5)


def _photograph(address: str, image: Path, width: int, height: int) -> None:
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if browser is None:
        raise RuntimeError("Chromium is needed: apt-get install chromium")
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", f"--window-size={width},{height}"]
    subprocess.run([browser, *options, f"--screenshot={image}", address], check=True, capture_output=True, timeout=120)
    print(image)


if __name__ == "__main__":
    main()
