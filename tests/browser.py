"""Headless Chromium for the tests of pages."""

import io
import json
import shutil
from pathlib import Path

import pytest
from PIL import Image
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import Select, WebDriverWait

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
MARKS = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not (CHROMIUM and DRIVER), reason="needs Chromium and its driver: apt-get install chromium chromium-driver"
    ),
]
FLAGS = [
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync", "--hide-scrollbars"),
]
# Elements that load or run something, and attributes that would.
FOREIGN = """
const all = [...document.querySelectorAll("*")];
const attributes = all.flatMap((node) => [...node.attributes]);
return [all.filter((node) => /^(script|style|iframe|img|object|embed|link|base)$/.test(node.localName)).length,
  attributes.filter((one) => /^on|^srcdoc$/.test(one.name) || /^\\s*javascript:/.test(one.value)).length];
"""


class Page:
    """A page in the browser, from its file or its address."""

    def __init__(self, driver, path):
        self.driver = driver
        self.address = path.as_uri() if isinstance(path, Path) else path
        self.path = path

    def open(self, link="", width=1280, height=900, scheme="light"):
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        feature = {"name": "prefers-color-scheme", "value": scheme}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})
        self.driver.get("about:blank")  # another #link alone would not load the page again
        self.driver.get(self.address + link)
        self.wait(self.ready)
        return self

    def wait(self, condition):
        WebDriverWait(self.driver, 60, poll_frequency=0.05).until(lambda _: condition())

    def run(self, script, *arguments):
        return self.driver.execute_script(script, *arguments)

    def ready(self):
        """Whether the page has drawn its data."""
        raise NotImplementedError

    # -- of a page with filters and a list (grpo/page/assets/browse.js)

    def count(self):
        return self.run("return document.getElementById('count').textContent")

    def choose(self, name, value):
        Select(self.driver.find_element(By.ID, name)).select_by_value(value)

    def write(self, name, text):
        box = self.driver.find_element(By.ID, name)
        box.clear()
        box.send_keys(text, Keys.TAB)

    def press(self, keys):
        self.driver.switch_to.active_element.send_keys(keys)

    def text(self, selector="#detail"):
        return self.run("return document.querySelector(arguments[0])?.textContent ?? ''", selector)

    def requested(self):
        """The addresses asked for since the last call, and what the console says."""
        messages = [json.loads(entry["message"])["message"] for entry in self.driver.get_log("performance")]
        sent = [m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"]
        return set(sent), self.driver.get_log("browser")

    def screenshot(self, selector):
        return Image.open(io.BytesIO(self.driver.find_element(By.CSS_SELECTOR, selector).screenshot_as_png)).convert(
            "RGB"
        )


def start():
    """A browser with its logs of the console and of requests."""
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in FLAGS:
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    options.set_capability("unhandledPromptBehavior", "ignore")  # a dialog is to be seen, not closed
    return webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
