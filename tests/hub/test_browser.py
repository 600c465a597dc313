"""The hub as a person sees it, in headless Chromium."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from selenium import webdriver
from selenium.common.exceptions import WebDriverException
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(
        not (shutil.which("chromium") and shutil.which("chromedriver")),
        reason="needs Chromium: apt-get install chromium chromium-driver",
    ),
]


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    runs = tmp_path_factory.mktemp("runs")
    command = [sys.executable, "-m", "fullrank", "serve", "--port", "0", "--runs", str(runs)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as hub:
        assert hub.stdout is not None
        found = re.search(r"http://\S+", hub.stdout.readline())
        assert found
        yield found.group()
        hub.terminate()


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    options = webdriver.ChromeOptions()
    profile = tmp_path_factory.mktemp("profile")
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(argument)
    options.add_argument(f"--user-data-dir={profile}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    service = webdriver.ChromeService(shutil.which("chromedriver"))
    with webdriver.Chrome(options, service) as driver:
        yield driver


def _complaints(browser: Any) -> list[str]:
    return [entry["message"] for entry in browser.get_log("browser") if entry["level"] in ("SEVERE", "WARNING")]


@pytest.mark.parametrize("width", [320, 768, 1440])
@pytest.mark.parametrize(
    "page",
    [
        *("/", "/papers/rankme", "/papers/beta-rank", "/search?q=wavelets", "/analyze", "/runs"),
        *("/adapt", "/compare-adapters", "/compress", "/compare-compressors", "/segment", "/chirps"),
    ],
)
def test_pages_fit_every_width(address: str, browser: Any, page: str, width: int) -> None:
    size = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    browser.get(address + page)
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    assert _complaints(browser) == []
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_in_light_and_dark(address: str, browser: Any, scheme: str) -> None:
    feature = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", feature)
    browser.get(f"{address}/papers/rankme")
    for selector in ("h1", ".abstract", ".facts", ".badge", ".note", "button", ".claims small"):
        assert browser.execute_script(_CONTRAST, selector) >= 4.5, selector
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})


_CONTRAST = """
function light(colour) {
  const parts = colour.match(/[\\d.]+/g).slice(0, 3).map(Number).map((part) => {
    part /= 255;
    return part <= 0.03928 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4;
  });
  return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2];
}
let below = document.querySelector(arguments[0]);
const ink = light(getComputedStyle(below).color);
while (below && /, 0\\)$|transparent/.test(getComputedStyle(below).backgroundColor)) below = below.parentElement;
const paper = light(getComputedStyle(below).backgroundColor);
return (Math.max(ink, paper) + 0.05) / (Math.min(ink, paper) + 0.05);
"""


def test_the_keyboard_reaches_everything(address: str, browser: Any) -> None:
    browser.get(address)
    browser.switch_to.active_element.send_keys(Keys.TAB)
    assert browser.switch_to.active_element.text == "Skip to the content"
    browser.switch_to.active_element.send_keys(Keys.ENTER)
    assert browser.switch_to.active_element.get_attribute("id") == "main"
    browser.get(address)
    reached = set()
    for _ in range(12):
        browser.switch_to.active_element.send_keys(Keys.TAB)
        reached.add(browser.switch_to.active_element.accessible_name)
    pages = {"Papers", "Runs", "Analyze a model", "Adapt a model", "Compress a model", "Segment an image"}
    assert pages | {"Search papers", "Search"} <= reached


def test_a_visitor_searches_and_runs_a_paper(address: str, browser: Any) -> None:
    browser.get(address)
    box = browser.find_element(By.ID, "find")
    box.send_keys("choose hyperparameters without labels", Keys.ENTER)
    WebDriverWait(browser, 120).until(lambda driver: "/search" in driver.current_url)
    browser.find_element(By.LINK_TEXT, next(link for link in _titles(browser) if link.startswith("RankMe"))).click()
    browser.find_element(By.XPATH, "//button[text()='Run this paper']").click()
    WebDriverWait(browser, 60).until(lambda driver: "/jobs/" in driver.current_url)
    seen = set()
    WebDriverWait(browser, 120, 0.1).until(
        lambda driver: seen.add(_progress(driver)) or "See what it found" in driver.page_source
    )
    assert len(seen) > 3, "the bar moves without a reload"
    browser.find_element(By.LINK_TEXT, "See what it found").click()
    assert browser.find_elements(By.CSS_SELECTOR, ".badge.reproduced, .badge.not-reproduced")
    picture = browser.find_element(By.CSS_SELECTOR, ".figure img")
    assert browser.execute_script("return arguments[0].naturalWidth", picture) > 100
    assert _complaints(browser) == []


def test_a_run_can_be_cancelled_and_a_model_analyzed(address: str, browser: Any) -> None:
    browser.get(f"{address}/papers/gradient-spectra")
    browser.find_element(By.XPATH, "//button[text()='Run this paper']").click()
    WebDriverWait(browser, 120).until(lambda driver: (_progress(driver) or 0) > 0)
    browser.find_element(By.XPATH, "//button[text()='Cancel']").click()
    WebDriverWait(browser, 120).until(lambda driver: driver.find_elements(By.CSS_SELECTOR, ".badge.cancelled"))
    assert browser.find_elements(By.XPATH, "//button[text()='Resume']")
    browser.get(f"{address}/analyze")
    browser.find_element(By.XPATH, "//button[text()='Analyze']").click()
    WebDriverWait(browser, 120).until(lambda driver: "/analyses/" in driver.current_url)
    assert "Where compression is cheapest" in browser.page_source
    assert _complaints(browser) == []


def _titles(browser: Any) -> list[str]:
    return [link.text for link in browser.find_elements(By.CSS_SELECTOR, ".entry h2 a")]


def _progress(browser: Any) -> float | None:
    return browser.execute_script("return document.querySelector('[data-progress]')?.value ?? null")


def test_progress_shows_without_scripts(address: str, browser: Any) -> None:
    browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    try:
        browser.get(f"{address}/papers/gradient-spectra")
        browser.find_element(By.XPATH, "//button[text()='Run this paper']").click()
        waiting = WebDriverWait(browser, 120, ignored_exceptions=[WebDriverException])  # the page reloads itself
        waiting.until(lambda driver: "training" in driver.find_element(By.TAG_NAME, "main").text)
        browser.find_element(By.XPATH, "//button[text()='Cancel']").click()
        WebDriverWait(browser, 120).until(lambda driver: driver.find_elements(By.CSS_SELECTOR, ".badge.cancelled"))
    finally:
        browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})
