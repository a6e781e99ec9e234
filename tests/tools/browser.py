"""A headless Chromium for tests of pages."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

_FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--hide-scrollbars",
]


class Browser:
    """Opens a page from disk and reports what happened."""

    def __init__(self, driver: Any) -> None:
        self._driver = driver
        self._address = ""

    def open(self, page: Path, width: int, *, dark: bool = False) -> None:
        """Load a page in a window of the given width in CSS pixels."""
        self._driver.execute_cdp_cmd(
            "Emulation.setDeviceMetricsOverride",
            {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False},
        )
        scheme = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        self._driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": scheme})
        self._address = page.resolve().as_uri()
        self._driver.get(self._address)
        # Fill every row and expand every long run, as for printing.
        self.run("dispatchEvent(new Event('beforeprint'))")

    def run(self, script: str) -> Any:
        """Run a script and return its result."""
        return self._driver.execute_script(script)

    def console_messages(self) -> list[str]:
        """Console messages since the last call: script errors and violations of the content security policy."""
        return [entry["message"] for entry in self._driver.get_log("browser")]

    def requested_urls(self) -> list[str]:
        """Addresses requested since the last call, except the page itself and data URIs."""
        events = [json.loads(entry["message"])["message"] for entry in self._driver.get_log("performance")]
        requests = [event["params"] for event in events if event["method"] == "Network.requestWillBeSent"]
        ours = [request["request"]["url"] for request in requests if request["documentURL"] == self._address]
        return [url for url in ours if url != self._address and not url.startswith("data:")]

    def is_within_window(self) -> bool:
        """Whether the page needs no horizontal scrolling, except inside elements with their own scroll bar."""
        return bool(self.run("return document.documentElement.scrollWidth <= innerWidth"))


def start_browser() -> Iterator[Browser]:
    """Start a browser; skip the test if Chromium is not installed."""
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed: pages are not opened")
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    driver_path = shutil.which("chromedriver")
    if not chromium or not driver_path:
        pytest.skip("no chromium and chromedriver (Debian: apt-get install chromium chromium-driver)")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        for flag in [*_FLAGS, f"--user-data-dir={profile}"]:
            options.add_argument(flag)
        driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver_path))
        try:
            yield Browser(driver)
        finally:
            driver.quit()
