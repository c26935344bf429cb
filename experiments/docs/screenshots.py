"""Pictures of a run's page in light and dark, by headless Chromium. Needs chromium, chromium-driver and selenium.

    mrg-grpo view runs/seed0 && python -m experiments.docs.screenshots runs/seed0

writes docs/images/run-page-light.png and -dark.png: the group whose rewards are furthest apart.
"""

import argparse
import shutil
from pathlib import Path
from tempfile import TemporaryDirectory

from selenium import webdriver
from selenium.webdriver.chrome.service import Service

IMAGES = Path("docs/images")
SIZE = (1500, 1010)
SORT = """
const option = [...document.querySelectorAll("#browse option")].find(o => o.text === "reward spread");
const select = option.closest("select");
select.value = option.value;
select.dispatchEvent(new Event("change", {bubbles: true}));
document.querySelector('a[href="#browse"]').click();
"""
"""Shows the group whose rewards are furthest apart."""


def take(page: Path, folder: Path) -> None:
    """page: an HTML file of `mrg-grpo view`; the pictures go into folder."""
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium") or ""
    with TemporaryDirectory() as profile:
        for flag in ("--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", f"--user-data-dir={profile}"):
            options.add_argument(flag)
        driver = webdriver.Chrome(options=options, service=Service(shutil.which("chromedriver")))
        try:
            for scheme in ("light", "dark"):
                driver.execute_cdp_cmd(
                    "Emulation.setDeviceMetricsOverride",
                    {"width": SIZE[0], "height": SIZE[1], "deviceScaleFactor": 1, "mobile": False},
                )
                driver.execute_cdp_cmd(
                    "Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
                )
                driver.get(page.resolve().as_uri())
                driver.execute_script(SORT)
                driver.save_screenshot(str(folder / f"run-page-{scheme}.png"))
        finally:
            driver.quit()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("run", type=Path, help="a run's folder with page.html")
    take(parser.parse_args().run / "page.html", IMAGES)
