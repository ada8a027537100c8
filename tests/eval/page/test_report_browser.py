"""The report's page in headless Chromium: opened from its file, filtered, read and attacked."""

import itertools
import json
from pathlib import Path

import pytest
from selenium.common.exceptions import NoAlertPresentException
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import Select

from eval.page.charts import WIDTH
from eval.page.report import write_report
from eval.store import read_generations
from tests import browser, report_samples
from tests.browser import FOREIGN

pytestmark = browser.MARKS
FORMULAS = [
    json.loads(line) for line in (Path(__file__).parents[2] / "cases" / "mathematics.jsonl").open(encoding="utf-8")
]
OUTCOMES = ("correct", "wrong", "no_answer", "malformed", "timeout", "error", "failed")
SWATCHES = """
document.body.replaceChildren(...arguments[0].map((outcome) => {
  const node = document.createElement("div");
  node.style.cssText = `height: 40px; background: var(--${outcome})`;
  return node;
}));
"""


class Page(browser.Page):
    """A report in the browser."""

    def ready(self):
        return "of" in self.count()

    def clear(self):
        self.driver.find_element(By.CSS_SELECTOR, "#filters button").click()
        self.wait(lambda: self.count() == expected_count(len(self.run("return state.all")), self))

    def selected(self):
        """Place of the selected generation among the stored ones."""
        return self.run("return state.selected.index")

    def listed(self):
        """The list from its top, as far as it is drawn."""
        rows = self.run("return [...document.querySelectorAll('.row')].map((row) => row.id)")
        return [int(name.removeprefix("row-")) for name in rows]


def expected_count(shown, page):
    return f"{shown:,} of {len(page.run('return state.all')):,} generations"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = report_samples.write_folder(tmp_path_factory.mktemp("evaluation"), report_samples.generations())
    write_report(folder)
    return folder


@pytest.fixture(scope="module")
def rows(folder):
    return read_generations(folder)


@pytest.fixture
def page(driver, folder):
    return Page(driver, folder / "report.html").open()


def place(rows, **fields):
    return next(i for i, row in enumerate(rows) if all(getattr(row, name) == value for name, value in fields.items()))


# -- the list --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value", "wanted"),
    [
        ("benchmark", "roots", lambda row: row.benchmark == "roots"),
        ("outcome", "correct", lambda row: row.outcome == "correct"),
        ("outcome", "failed", lambda row: row.outcome is None),
        ("subject", "Counting & Probability", lambda row: row.subject == "Counting & Probability"),
        ("level", "3", lambda row: row.level == "3"),
        ("truncated", "yes", lambda row: row.finish_reason == "length"),
        ("failure", "timeout", lambda row: row.failure == "timeout"),
        ("failure", "none", lambda row: row.failure is None),
    ],
)
def test_a_filter_leaves_the_generations_that_it_names(page, rows, name, value, wanted):
    page.choose(name, value)
    expected = [i for i, row in enumerate(rows) if wanted(row)]
    assert 0 < len(expected) < len(rows)
    assert page.count() == expected_count(len(expected), page)
    listed = page.listed()
    assert len(listed) >= min(10, len(expected))
    assert listed == expected[: len(listed)]


def test_a_range_of_lengths_leaves_those_within_it(page, rows):
    page.write("shortest", "30")
    page.write("longest", "40")
    expected = [i for i, row in enumerate(rows) if row.tokens is not None and 30 <= row.tokens <= 40]
    assert page.count() == expected_count(len(expected), page)
    assert page.listed() == expected[: len(page.listed())]


def test_a_search_finds_text_in_completions_and_filters_add_up(page, rows):
    page.write("text", "APPROX 0.")
    expected = [i for i, row in enumerate(rows) if "approx 0." in row.completion]
    page.wait(lambda: page.count() == expected_count(len(expected), page))
    page.choose("outcome", "correct")
    both = [i for i in expected if rows[i].outcome == "correct"]
    assert 0 < len(both) < len(expected)
    assert page.count() == expected_count(len(both), page)
    page.clear()
    assert page.listed()[:5] == [0, 1, 2, 3, 4]


def test_a_search_that_finds_nothing_says_so(page):
    page.write("text", "no completion has this")
    page.wait(lambda: page.count().startswith("0 of"))
    assert page.listed() == []
    page.press("j")  # nothing to go to


def test_lengths_sort_both_ways_and_the_unknown_comes_last(page, rows):
    for order, sign in (("shortest", 1), ("longest", -1)):
        page.choose("order", order)
        expected = sorted(range(len(rows)), key=lambda i: (rows[i].tokens is None, sign * (rows[i].tokens or 0), i))
        listed = page.listed()
        assert len(listed) >= 10
        assert listed == expected[: len(listed)]
        page.run("document.getElementById('list').scrollTop = 1e9")
        page.wait(lambda last=expected[-1]: page.listed()[-1] == last)
        assert rows[page.listed()[-1]].tokens is None


def test_the_subjects_offered_are_those_of_the_benchmark(page):
    page.choose("benchmark", "roots")
    options = [option.get_attribute("value") for option in Select(page.driver.find_element(By.ID, "subject")).options]
    assert options == ["", "Algebra", "Counting & Probability"]
    page.choose("benchmark", "sums")
    assert not page.driver.find_element(By.ID, "subject").is_displayed()


# -- the detail ------------------------------------------------------------------------------------


def test_a_click_opens_the_generation_with_all_that_is_known_of_it(page, rows):
    page.choose("benchmark", "sums")
    page.driver.find_elements(By.CLASS_NAME, "row")[2].click()
    row = rows[page.selected()]
    assert page.selected() == place(rows, benchmark="sums") + 2
    assert row.problem_id in page.text("#detail h3")
    assert page.text("#detail .text") == row.question
    assert page.text("#detail > .text:last-child") == row.completion
    facts = page.text("#detail .facts")
    for said in (row.outcome.replace("_", " "), row.answer, row.reason, f"{row.tokens}", row.level):
        assert said in facts


def test_j_and_k_walk_through_the_list_and_the_address_follows(page, rows):
    page.choose("benchmark", "roots")
    page.driver.find_elements(By.CLASS_NAME, "row")[0].click()
    first = page.selected()
    for key, expected in (("j", 1), ("j", 2), ("k", 1), ("k", 0), ("k", 0)):
        page.press(key)
        assert page.selected() == first + expected
    assert page.driver.current_url.endswith("#roots:roots/0:0")
    for _ in range(30):
        page.press("j")
    # In one script: a scroll draws the list anew in the next frame, and an element found before it is stale after it.
    page.wait(
        lambda: page.run(
            """const marked = document.querySelector(".row[aria-selected=true]")?.getBoundingClientRect();
            const list = document.getElementById("list").getBoundingClientRect();
            return marked && marked.top >= list.top && marked.bottom <= list.bottom;"""
        )
    )
    assert page.run("return document.querySelector('.row[aria-selected=true]').id") == f"row-{first + 30}"


def test_a_key_in_the_search_box_is_text(page):
    page.press("/")
    page.press("jkrs")
    assert page.run("return document.getElementById('text').value") == "jkrs"
    assert page.selected() == 0


def test_a_link_opens_its_generation(page, rows):
    page.open("#roots:roots/7:2")
    assert page.selected() == place(rows, problem_id="roots/7", sample=2)
    page.run("location.hash = '#sums:sums/3:1'")
    page.wait(lambda: page.selected() == place(rows, problem_id="sums/3", sample=1))
    page.open("#%E0%A4%A")  # names nothing
    assert page.selected() == 0


def test_every_generation_has_a_link_of_its_own(page, rows):
    links = page.run("return state.all.map((row) => row.link)")
    assert len(set(links)) == len(rows)
    page.open(f"#{links[5]}")  # of the hostile ones
    assert page.selected() == 5


def test_the_samples_of_a_problem_stand_side_by_side(page, rows):
    page.open("#sums:sums/4:0")
    page.press("s")
    cards = page.driver.find_elements(By.CLASS_NAME, "card")
    samples = [row for row in rows if row.problem_id == "sums/4"]
    assert len(cards) == report_samples.SAMPLES
    for card, row in zip(cards, samples, strict=True):
        assert row.outcome.replace("_", " ") in card.text
        assert card.find_element(By.CLASS_NAME, "text").get_property("textContent") == row.completion
    assert len({card.location["y"] for card in cards}) < len(cards)  # next to each other
    page.driver.find_elements(By.CLASS_NAME, "chip")[3].click()
    assert page.selected() == place(rows, problem_id="sums/4", sample=3)


# -- mathematics -----------------------------------------------------------------------------------


def test_formulas_become_mathml_and_money_stays_money(page, rows):
    solved = place(rows, benchmark="roots", outcome="correct")
    page.open(f"#roots:{rows[solved].problem_id}:{rows[solved].sample}")
    formulas = page.driver.find_elements(By.CSS_SELECTOR, "#detail > .text:last-child math")
    assert [formula.get_attribute("display") for formula in formulas] == ["inline", "block", "inline", "inline"]
    assert formulas[1].find_elements(By.CSS_SELECTOR, "mfrac")
    assert formulas[3].find_elements(By.CSS_SELECTOR, "menclose[notation=box] mfrac")
    assert all(formula.size["height"] > 5 for formula in formulas)
    page.open("#sums:sums/0:0")
    assert not page.driver.find_elements(By.CSS_SELECTOR, "#detail > .text math")


def test_the_source_is_shown_on_demand(page, rows):
    page.open("#roots:roots/0:0")
    assert page.driver.find_elements(By.CSS_SELECTOR, "#detail math")
    page.press("r")
    assert not page.driver.find_elements(By.CSS_SELECTOR, "#detail math")
    assert page.text("#detail .text") == rows[place(rows, problem_id="roots/0")].question


def test_latex_reads_as_in_the_table_of_cases(page):
    """What is to be seen of each; null: it is left as it was written."""
    read = "return arguments[0].map((latex) => mathOf(latex, false)?.textContent ?? null)"
    texts = page.run(read, [case["latex"] for case in FORMULAS])
    wrong = [(case, text) for case, text in zip(FORMULAS, texts, strict=True) if text != case["text"]]
    assert wrong == []


def test_a_formula_that_is_not_understood_is_shown_as_it_was_written(page):
    text = r"before $\unknown{x}$ between \(\frac{1}\) and $x^2$ after \[ \left( \] end"
    shown = page.run(
        "const node = rendered(arguments[0]); return [node.textContent, node.querySelectorAll('math').length]", text
    )
    assert shown == [text.replace("$x^2$", "x2"), 1]


# -- what a model may write ------------------------------------------------------------------------


def test_whatever_a_model_wrote_is_text(page, rows):
    hostile = [i for i, row in enumerate(rows) if "hostile" in row.benchmark]
    assert len(hostile) == len(report_samples.HOSTILE)
    for i in hostile:
        for side_by_side in (False, True):
            page.run("state.sideBySide = arguments[1]; select(state.all[arguments[0]], true)", i, side_by_side)
            with pytest.raises(NoAlertPresentException):
                page.driver.switch_to.alert.text  # noqa: B018
            assert page.run(FOREIGN) == [6, 0]  # the page's own style, data and four scripts
    assert page.run("return window.pwned") is None


@pytest.mark.parametrize("name", ["script", "image", "remote", "comment", "template"])
def test_markup_reads_as_it_was_written(page, rows, name):
    i = place(rows, problem_id=f"<i>{name}</i>#%2F:&?")
    page.run("select(state.all[arguments[0]], true)", i)
    assert page.text("#detail > .text:last-child") == rows[i].completion
    assert rows[i].reason in page.text("#detail .facts")


def test_hidden_characters_are_shown_by_their_names(page, rows):
    page.run("select(state.all[arguments[0]], true)", place(rows, problem_id="<i>control</i>#%2F:&?"))
    assert page.text("#detail > .text:last-child") == "C null U+0000 escape U+001B[31m bell U+0007 end"
    page.run("select(state.all[arguments[0]], true)", place(rows, problem_id="<i>direction</i>#%2F:&?"))
    assert page.text("#detail > .text:last-child") == "C U+202Egnorw si sihtU+202C zeroU+200Bwidth"
    page.choose("benchmark", "<b>hostile</b>")
    listed = page.text("#list")
    assert "U+202Egnorw" in listed
    assert "\u202e" not in listed
    odd = "return rendered('half \\ud83d, whole \\ud83d\\ude00').textContent"
    assert page.run(odd) == "half U+D83D, whole 😀"


def test_nothing_is_requested_and_the_console_stays_empty(page):
    page.requested()
    page.open()
    for _ in range(30):
        page.press("j")
    page.press("s")
    requested, console = page.requested()
    assert requested <= {page.path.as_uri(), "about:blank"}
    assert page.path.as_uri() in requested
    assert console == []


def test_the_policy_stops_what_would_slip_through(page):
    """The second line of defence: even markup that were put into the page as HTML would run and load nothing."""
    page.run("document.body.insertAdjacentHTML('beforeend', arguments[0])", report_samples.HOSTILE["image"])
    page.run("const s = document.createElement('script'); s.textContent = 'window.pwned = 1'; document.body.append(s)")
    refused = []
    page.wait(lambda: refused.extend(page.driver.get_log("browser")) or len(refused) >= 4)
    said = "\n".join(entry["message"] for entry in refused)
    for refusal in ("Executing inline event handler", "Executing inline script", "Loading the image"):
        assert f"{refusal} violates the following Content Security Policy" in said or f"{refusal} 'file:" in said
    assert page.run("return window.pwned") is None


# -- how it looks ----------------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 400])
def test_the_page_never_scrolls_sideways(page, rows, width, scheme):
    page.open(width=width, scheme=scheme)
    for details in page.driver.find_elements(By.CSS_SELECTOR, "details"):
        details.click()
    for name in ("wide", "openings", "control"):
        page.run("select(state.all[arguments[0]], true)", place(rows, problem_id=f"<i>{name}</i>#%2F:&?"))
        assert page.run("return document.documentElement.scrollWidth") <= width
    page.open("#sums:sums/4:0", width=width, scheme=scheme)
    page.press("s")
    assert page.run("return document.documentElement.scrollWidth") <= width


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_screenshot_shows_the_intervals_where_the_numbers_say(page, folder, scheme):
    page.open(scheme=scheme)
    results = json.loads((folder / "results.json").read_text())
    picture = page.screenshot(".plots svg")
    ground = picture.getpixel((picture.width // 3, 1))
    assert (sum(ground) > 600) == (scheme == "light")
    for index, entry in enumerate(results.values()):
        y = 36 * index + 25
        bar = [x for x in range(WIDTH) if abs(picture.getpixel((x, y))[0] - picture.getpixel((x, y))[2]) > 40]
        low, high = (WIDTH * entry["accuracy"][part] for part in ("low", "high"))
        assert min(bar) == pytest.approx(low, abs=4)
        assert max(bar) == pytest.approx(high, abs=4)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_and_outcomes_stand_out_from_the_ground(page, scheme):
    page.open(scheme=scheme)
    for outcome in OUTCOMES:
        assert contrast(colour(page, f"--{outcome}"), colour(page, "--panel")) >= 4.5  # WCAG 2.2, 1.4.3
    for name in ("--ink", "--muted", "--accent"):
        assert contrast(colour(page, name), colour(page, "--panel")) >= 4.5
        assert contrast(colour(page, name), colour(page, "--ground")) >= 4.5


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("deficiency", ["none", "deuteranopia", "protanopia", "tritanopia"])
def test_colour_blind_readers_tell_outcomes_apart(page, deficiency, scheme):
    page.open(scheme=scheme)
    page.run(SWATCHES, OUTCOMES[:4])
    page.driver.execute_cdp_cmd("Emulation.setEmulatedVisionDeficiency", {"type": deficiency})
    picture = page.screenshot("body")
    page.driver.execute_cdp_cmd("Emulation.setEmulatedVisionDeficiency", {"type": "none"})
    seen = [picture.getpixel((50, picture.height * (2 * i + 1) // 8)) for i in range(4)]
    for one, other in itertools.combinations(seen, 2):
        assert sum((a - b) ** 2 for a, b in zip(one, other, strict=True)) ** 0.5 > 30, seen


def test_outcomes_are_said_in_words_and_marks_too(page):
    marks = page.run("return MARKS")
    assert set(marks) == {*OUTCOMES, "not_graded"}
    assert len(set(marks.values())) == len(marks)
    page.choose("outcome", "no_answer")
    assert page.driver.find_element(By.CSS_SELECTOR, ".row .verdict").text.split("\n") == [
        f"{marks['no_answer']}no answer"
    ]


# -- size ------------------------------------------------------------------------------------------


def test_of_20_000_generations_only_those_in_sight_are_in_the_page(driver, tmp_path):
    rng = report_samples.random.Random(1)
    rows = [row for number in range(5000) for row in report_samples.arithmetic(rng, number)]
    page = Page(driver, write_report(report_samples.write_folder(tmp_path, rows))).open()
    assert page.count() == "20,000 of 20,000 generations"
    assert len(page.listed()) < 40
    page.run("document.getElementById('list').scrollTop = 1e9")
    page.wait(lambda: page.listed()[-1] == 19_999)
    page.write("text", "sums/4999")
    page.wait(lambda: page.count() == "4 of 20,000 generations")
    page.driver.find_elements(By.CLASS_NAME, "row")[3].click()
    assert page.selected() == 19_999


def colour(page, name):
    """Red, green and blue of a colour of the style sheet."""
    value = page.run(
        "const node = document.createElement('i'); node.style.color = `var(${arguments[0]})`;"
        "document.body.append(node); return getComputedStyle(node).color",
        name,
    )
    return [int(part) for part in value.removeprefix("rgb(").removesuffix(")").split(",")]


def contrast(one, other):
    """WCAG 2.2's contrast ratio, from 1 to 21."""
    bright, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (bright + 0.05) / (dark + 0.05)


def luminance(rgb):
    linear = [c / 12.92 if (c := part / 255) <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for part in rgb]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
