"""The run page in a real browser: headless Chromium, driven by selenium. Needs chromium and chromium-driver.

MRG_REQUIRE_BROWSER=1 (set by .ci/run) turns a missing browser from a skip into a failure.
"""

import importlib.util
import json
import os
import shutil
import time

import pytest
from fake_run import best_of_step_4, write_run

from mrg_grpo.data.phantom.reader import read_labels
from mrg_grpo.files import write_whole
from mrg_grpo.labelers.attribution import attribute
from mrg_grpo.view.cases import Pictures
from mrg_grpo.view.page import build
from mrg_grpo.view.records import read_run
from mrg_grpo.view.render import render

pytestmark = pytest.mark.slow
HOSTILE = "No effusion. <script>window.hacked = 1</script></script><!-- <img src=x onerror='window.hacked = 2'> & 𝕏"
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage",
)  # fmt: skip


class Reader:
    label = staticmethod(read_labels)


@pytest.fixture(scope="module")
def chromium(tmp_path_factory):
    missing = [name for name in ("chromium", "chromedriver") if not shutil.which(name)]
    if importlib.util.find_spec("selenium") is None:
        missing.append("the Python package selenium")
    if missing:
        words = f"the page is tested in Chromium; missing: {', '.join(missing)} (apt install chromium chromium-driver)"
        if os.environ.get("MRG_REQUIRE_BROWSER") == "1":
            pytest.fail(words)
        pytest.skip(words)
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium")
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('browser')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(shutil.which("chromedriver")))
    yield driver
    driver.quit()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("run")
    write_run(path, steps=6, studies=12, hostile=HOSTILE)
    put_page(path)
    return path


def put_page(path, stamp="1", refresh=0):
    records = read_run(path)
    page = build(records, Pictures(), lambda reports: attribute(Reader, reports), stamp=stamp, refresh=refresh)
    write_whole(path / "page.html", render(page))


@pytest.fixture(params=[1600, 400])
def page(chromium, folder, request):
    """The page at one width, as for the first time; afterwards the console must be clean."""
    chromium.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": request.param, "height": 900, "deviceScaleFactor": 1, "mobile": False},
    )
    opened = Opened(chromium, folder / "page.html")
    yield opened
    assert chromium.get_log("browser") == []
    assert chromium.execute_script("return document.documentElement.scrollWidth") <= request.param


class Opened:
    def __init__(self, driver, path):
        self.driver = driver
        driver.get(path.as_uri())
        self.run("sessionStorage.clear()")
        driver.get(path.as_uri())
        driver.get_log("browser")
        driver.get(path.as_uri())

    def run(self, script, *arguments):
        return self.driver.execute_script(script, *arguments)

    def all(self, selector):
        return self.driver.find_elements("css selector", selector)

    def one(self, selector):
        (node,) = self.all(selector)
        return node

    def text(self, selector):
        return self.run("return arguments[0].textContent", self.one(selector))

    def choose(self, name, value):
        """Open the filters where they are folded, then pick an option as a click would."""
        self.run(
            "document.querySelector('#panel-groups .controls details').open = true;"
            "const s = document.querySelector(`#panel-groups [name='${arguments[0]}']`); s.value = arguments[1];"
            "s.dispatchEvent(new Event('change', { bubbles: true })); s.dispatchEvent(new Event('input'))",
            name, value,
        )  # fmt: skip

    def press(self, *keys):
        from selenium.webdriver.common.action_chains import ActionChains
        from selenium.webdriver.common.keys import Keys

        for key in keys:
            ActionChains(self.driver).send_keys(getattr(Keys, key)).perform()

    @property
    def chosen(self):
        return self.run("return document.querySelector('#panel-groups [aria-selected=true]').dataset.key")

    @property
    def listed(self):
        return self.run("return [...document.querySelectorAll('#panel-groups .item')].map(n => n.dataset.key)")

    @property
    def focused(self):
        return self.run("const a = document.activeElement; return a.id || a.dataset.key || a.className.baseVal || ''")


def rollouts(folder):
    return [json.loads(line) for line in (folder / "rollouts.jsonl").read_text().splitlines()]


def test_it_opens_from_disk_and_shows_the_run(page):
    assert page.driver.title.endswith("mrg_grpo")
    assert page.text("#tab-groups").endswith("72") and page.text("#tab-tests").endswith("5")
    assert len(page.all("#panel-groups .card")) == 4 and len(page.all(".bar")) == 13
    assert len(page.all(".chart")) == len(page.all(".curves h3")) == 4  # a metric without a number has no curve
    heads = page.run("return [...document.querySelectorAll('h2, .curves h3')].map(n => n.textContent)")
    assert heads[:5] == ["Before and after", "Learning curves", "Reward", "Validation", "Reports"]
    assert page.all("#sides tbody tr")
    assert len(page.all("#panel-groups .card:first-child .cell")) == 13
    assert page.run("return [...document.images].every(image => image.naturalWidth > 100)")
    assert page.run("return performance.getEntriesByType('resource').every(r => r.name.startsWith('data:'))")


RANGES = (
    (1000.01, 1000.05), (0.1234, 0.1239), (0, 1), (-0.3, 0.3), (1.2e5, 1.6e5), (123_400, 123_900), (2e-6, 9e-6),
    (-1e-5, 1e-5), (1e9, 3e9), (9990, 10_010), (0.99996, 1.00003), (7.60001, 7.60002), (-2.5e6, 1e6),
)  # fmt: skip


def test_no_two_ticks_of_an_axis_are_called_the_same(page):
    signs = str.maketrans({"k": "e3", "M": "e6", "G": "e9", "−": "-"})
    for low, high in RANGES:
        found = page.run("return ticks(arguments[0], arguments[1])", low, high)
        names = [name for _, name in found]
        assert len(found) >= 2 and len(set(names)) == len(names), (low, high, names)
        step = found[1][0] - found[0][0]
        assert all(abs(float(name.translate(signs)) - tick) < step / 10 for tick, name in found), found
        assert max(map(len, names)) <= 8
    one = {"name": "a", "steps": [7], "values": [1e9], "meaning": "", "healthy": "", "otherwise": ""}
    same = one | {"steps": [7, 9], "values": [1e9, 1e9 + 1e-6]}  # constant as far as numbers go
    for curve, steps in ((one, ["7"]), (same, ["7", "9"])):
        texts = page.run("return [...chart(arguments[0], 99).querySelectorAll('text')].map(t => t.textContent)", curve)
        assert texts[-len(steps) :] == steps and len(set(texts)) == len(texts)


def test_the_step_of_the_best_adapter_is_marked(page, tmp_path):
    """In the curve of the metric that chose it alone, at its place between the steps before and after."""
    assert not page.all(".plot .chosen")
    put_page(best_of_step_4(tmp_path / "run"))
    page.driver.get((tmp_path / "run" / "page.html").as_uri())
    left, right = (dot.get_attribute("cx") for dot in page.all(".plot:has(.chosen) .dot"))  # validated at 2 and 4
    mark = page.one(".plot .chosen").get_attribute("x1")
    assert mark == right and float(left) < float(mark)
    assert "best: step 4" in page.text(".plot:has(.chosen)")


def test_a_condition_without_references_has_a_dash(page):
    page.run(
        "document.getElementById('bars').replaceChildren(); DATA.bars = [{condition: 'Fracture', before: null, "
        "after: null, stated: 0}]; drawBars(document.getElementById('bars'))"
    )
    assert page.text(".bar .values") == "––" and page.one(".bar").get_attribute("title") == (
        "Fracture: no F1, no reference states it"
    )


def test_a_report_that_holds_markup_shows_as_text(page):
    shown = page.run("return document.querySelector('#panel-groups .card .text').textContent")
    assert HOSTILE.removeprefix("No effusion. ") in shown
    for name in ("tests", "followed"):
        page.run(f"document.getElementById('tab-{name}').click()")
        assert "<script>window.hacked = 1</script>" in page.text(f"#panel-{name} .card:last-child > .text")
    assert page.run("return window.hacked === undefined && document.querySelectorAll('script').length === 3")
    assert page.run("return document.querySelectorAll('.text script, .text img').length") == 0


def test_a_picture_that_is_not_shown_says_why_in_its_place(page, tmp_path):
    """At both widths, without a scroll bar for a long path."""
    path, image = tmp_path / "run", "/elsewhere/" + "long" * 40 + ".png"
    write_run(path)
    (path / "rollouts.jsonl").write_text(
        "".join(json.dumps(record | {"images": [image]}) + "\n" for record in rollouts(path))
    )
    put_page(path)
    page.driver.get((path / "page.html").as_uri())
    assert image in page.text("#panel-groups .xrays p") and not page.all("#panel-groups .xrays img")


def test_filters_and_order(page, folder):
    records = rollouts(folder)
    edema = [f"{r['step']}/{r['study_id']}" for r in records if r["reference_labels"][4] == 1]
    page.choose("condition", "4")
    page.choose("says", "1")
    assert page.listed == edema and 0 < len(edema) < 72
    assert page.text("#panel-groups .count") == f"{len(edema)} of 72 shown" and page.chosen == edema[0]
    page.choose("where", "reports")
    some = [f"{r['step']}/{r['study_id']}" for r in records if any(s["labels"][4] == 1 for s in r["samples"])]
    assert page.listed == some[:60] != edema
    page.choose("step from", "3")
    page.choose("step to", "4")
    assert page.listed == [key for key in some if key.split("/")[0] in ("3", "4")] != []
    page.run("document.querySelector('#panel-groups .reset').click()")
    assert page.text("#panel-groups .count") == "72 of 72 shown"
    page.choose("words", records[7]["study_id"])
    assert page.listed == [f"1/{records[7]['study_id']}"]
    page.choose("words", "no such words")
    assert page.listed == [] and "Nothing fits" in page.text("#panel-groups .detail")
    page.choose("words", "")
    page.choose("order", "disagreement")
    values = page.run("return [...document.querySelectorAll('#panel-groups b.what')].map(n => Number(n.textContent))")
    assert values == sorted(values, reverse=True) and values[0] > values[-1]
    page.run("document.querySelector('#panel-groups .way').click()")
    values = page.run("return [...document.querySelectorAll('#panel-groups b.what')].map(n => Number(n.textContent))")
    assert values == sorted(values)


def test_the_keyboard_reaches_everything(page):
    seen = []
    for _ in range(60):
        page.press("TAB")
        seen.append(page.focused)
        if seen[-1] == page.chosen:
            break
    assert "theme" in seen and "tab-groups" in seen and seen[-1] == "1/train-00000"
    assert "tab-tests" not in seen  # tabs are one stop; arrows move within
    page.press("ARROW_DOWN", "ARROW_DOWN")
    assert page.focused == page.chosen == "1/train-00002"
    page.press("END")
    assert page.focused == page.chosen == "6/train-00071"
    page.press("HOME", "PAGE_DOWN", "ARROW_UP")
    assert page.chosen == "1/train-00009"
    page.run("document.getElementById('tab-groups').focus()")
    page.press("ARROW_RIGHT")
    assert page.focused == "tab-tests" and page.one("#panel-tests").is_displayed()
    assert not page.one("#panel-groups").is_displayed()
    page.run("document.querySelector('.plot').focus()")
    page.press("HOME", "ARROW_RIGHT")
    assert page.run("return document.querySelector('.readout').textContent") == "step 2: 0.2"
    page.run("document.querySelector('.hint').focus()")
    assert "weighted sum" in page.all(".tip")[0].text  # shown, and so readable


def test_dark_and_light_by_the_system_and_by_the_button(page):
    def ground():
        page.driver.execute_async_script("requestAnimationFrame(() => requestAnimationFrame(arguments[0]))")
        return page.run("return getComputedStyle(document.body).backgroundColor")

    light = ground()
    for value in ("dark", "light"):
        page.driver.execute_cdp_cmd(
            "Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": value}]}
        )
        assert (ground() == light) is (value == "light")
    page.one("#theme").click()
    assert ground() != light
    page.driver.refresh()
    assert ground() != light  # remembered


def test_the_same_study_is_reached_from_each_of_its_steps(page, folder):
    records = rollouts(folder)
    path = folder / "again.html"
    (folder / "keep.jsonl").write_text((folder / "rollouts.jsonl").read_text())
    records[30]["study_id"] = records[0]["study_id"]
    (folder / "rollouts.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    put_page(folder)
    (folder / "page.html").rename(path)
    (folder / "keep.jsonl").rename(folder / "rollouts.jsonl")
    put_page(folder)
    page.driver.get(path.as_uri())
    page.run("document.querySelectorAll('#panel-groups .again button')[1].click()")
    assert page.chosen == "3/train-00000"
    assert page.run("return document.querySelector('#panel-groups .again [aria-pressed=true]').textContent") == "step 3"


def test_a_watched_page_reloads_itself_when_newer_and_keeps_its_place(chromium, folder, tmp_path):
    path = tmp_path / "watched"
    write_run(path, steps=6, studies=12)
    put_page(path, stamp="1", refresh=1)
    page = Opened(chromium, path / "page.html")
    page.choose("condition", "4")
    page.press("TAB")
    page.run("document.querySelectorAll('#panel-groups .item')[2].click(); window.scrollTo(0, 700); window.old = 1")
    chosen, scroll = page.chosen, page.run("return window.scrollY")
    time.sleep(2.5)
    assert page.run("return window.old") == 1  # nothing newer, nothing reloaded
    put_page(path, stamp="2", refresh=1)
    deadline = time.time() + 30
    while page.run("return window.old") == 1 and time.time() < deadline:
        time.sleep(0.2)
    assert page.run("return window.old") is None
    assert page.run("return DATA.stamp") == "2" and page.chosen == chosen
    assert page.run("return document.querySelector('#panel-groups [name=condition]').value") == "4"
    assert abs(page.run("return window.scrollY") - scroll) < 5
    assert chromium.get_log("browser") == []
