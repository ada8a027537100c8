"""The page of a run in headless Chromium: opened from its file, filtered, read and attacked."""

import pytest
from selenium.common.exceptions import NoAlertPresentException
from selenium.webdriver.common.by import By

from grpo.page import index as page_index
from grpo.page import words, write
from grpo.record.run import read_run
from grpo.record.stored import read_rollouts
from tests import browser, run_samples
from tests.browser import FOREIGN
from tests.run_samples import TEXTS

pytestmark = browser.MARKS
STEPS, GROUPS, SIZE = 6, 6, 8


class Page(browser.Page):
    def ready(self):
        return " of " in self.count() and self.run(
            "return drawing > 0 && document.querySelector('#detail h3') !== null"
        )

    def select(self, group):
        self.driver.execute_async_script("select(arguments[0], true).then(arguments[1])", group)


@pytest.fixture(scope="module", params=["inline", "beside"])
def run_dir(request, tmp_path_factory):
    """The same run as one file, and with its texts beside the page, in chunks of a few groups."""
    patch = pytest.MonkeyPatch()
    if request.param == "beside":
        patch.setattr(write, "INLINE_BYTES", 0)
        patch.setattr(write, "BLOCK", 60)
        patch.setattr(page_index, "CHUNK_BYTES", 4000)
        patch.setattr(words, "LEAST_CHUNKS", 0)
        patch.setattr(words, "BLOCK_CHUNKS", 20)
    folder = run_samples.write_run(tmp_path_factory.mktemp("page") / "run", STEPS, GROUPS, SIZE, hostile=True)
    write.write_page(folder, read_run(folder))
    patch.undo()
    return folder


@pytest.fixture(scope="module")
def rows(run_dir):
    return [row for path in sorted((run_dir / "rollouts").iterdir()) for row in read_rollouts(path)]


@pytest.fixture
def page(driver, run_dir):
    return Page(driver, run_dir / "report.html").open()


def counted(rows, wanted):
    found = [row for row in rows if wanted(row)]
    groups = {(row["step"], row["group"]) for row in found}
    every = {(row["step"], row["group"]) for row in rows}
    return f"{len(found):,} of {len(rows):,} completions, in {len(groups):,} of {len(every):,} groups"


SEARCHED = ("prompt_id", "prompt", "answer", "completion", "extracted", "reason")


@pytest.mark.parametrize(
    "text",
    [
        "so",
        "SO THEN",
        "4",
        "7 + 25$",
        "= 42 \\]</think>",
        "er",
        "\u202e",
        "é",
        "+",
        " ",
        "no such word",
        "41 is not 42",
    ],
)
def test_a_text_is_found_wherever_it_stands(page, rows, text):
    """By the words where they settle it, else in the texts: part of a word, several words, none at all."""
    assert page.run("return (run.words ?? []).length") == (2 if page.run("return SOURCE") == "beside" else 0)
    page.run("document.getElementById('text').value = arguments[0]; applyFilters()", text)
    expected = counted(rows, lambda row: any(text.lower() in (row[name] or "").lower() for name in SEARCHED))
    page.wait(lambda: page.count() == expected)


@pytest.mark.parametrize(
    ("filters", "wanted"),
    [
        ({"outcome": "correct"}, lambda row: row["outcome"] == "correct"),
        ({"outcome": "timeout"}, lambda row: row["outcome"] == "timeout"),
        ({"step-from": "2", "step-to": "3"}, lambda row: 2 <= row["step"] <= 3),
        ({"tokens-from": "120", "tokens-to": "200"}, lambda row: 120 <= len(row["token_ids"]) <= 200),
        ({"reward-from": "0.5"}, lambda row: row["reward"] is not None and row["reward"] >= 0.5),
        ({"flag": "cut"}, lambda row: row["finish_reason"] == "length"),
        ({"flag": "dropped"}, lambda row: row["dropped"]),
        ({"flag": "untrained"}, lambda row: row["advantage"] is None),
        ({"problem": "train/1"}, lambda row: "train/1" in row["prompt_id"]),
        ({"text": "Adding"}, lambda row: "adding" in row["completion"].lower()),
        ({"text": "<IMG SRC", "outcome": "wrong"}, lambda row: "<img src" in row["completion"].lower()),
        (
            {"outcome": "wrong", "step-from": "4", "reward-to": "0"},
            lambda row: row["outcome"] == "wrong" and row["step"] > 3,
        ),
    ],
)
def test_a_filter_leaves_the_completions_that_it_names(page, rows, filters, wanted):
    for name, value in filters.items():
        (page.choose if name in ("outcome", "flag") else page.write)(name, value)
    expected = counted(rows, wanted)
    assert not expected.startswith(("0 ", f"{len(rows)} "))
    page.wait(lambda: page.count() == expected)
    page.driver.find_element(By.CSS_SELECTOR, "#filters button").click()
    page.wait(lambda: page.count() == counted(rows, lambda row: True))


def test_every_group_shows_its_prompt_and_each_of_its_completions(page, rows):
    by_group = {}
    for row in rows:
        by_group.setdefault((row["step"], row["group"]), []).append(row)
    for number, members in enumerate(by_group.values()):
        if number % 5 and "<i>" not in members[0]["prompt_id"]:
            continue
        page.run("view.source = true")
        page.select(number)
        shown = page.run("return [...document.querySelectorAll('.card > .text')].map((node) => node.textContent)")
        assert len(shown) == len(members)
        for text, row in zip(shown, members, strict=True):
            visible = page.run("return plain(arguments[0]).textContent", row["completion"])
            assert (
                text == visible
                if len(visible) <= 20_000
                else text.endswith(f"show all {len(row['completion']):,} characters")
            )
        said = page.text("#detail")
        assert all(row["reason"][:30] in said for row in members if row["reason"].isprintable())


def test_a_link_opens_its_group_and_keys_move_through_the_list(page, rows):
    page.open("#step=2&group=3")
    assert page.run("return [index.step[shown.selected], index.place[shown.selected]]") == [2, 3]
    page.press("j")
    assert page.run("return [index.step[shown.selected], index.place[shown.selected]]") == [2, 4]
    page.press("kk")
    assert page.run("return [index.step[shown.selected], index.place[shown.selected]]") == [2, 2]
    page.open("#step=99&group=0")  # names nothing
    assert page.run("return shown.selected === shown.groups[0]")
    page.press("/")
    assert page.run("return document.activeElement.id") == "text"


def test_one_problem_is_shown_through_time(page, rows):
    page.open("#step=1&group=0")
    page.press("t")
    page.wait(lambda: page.text(".visits"))
    visits = sorted({row["step"] for row in rows if row["prompt_id"] == rows[0]["prompt_id"]})
    shown = page.run("return [...document.querySelectorAll('.visits button')].map((node) => node.textContent)")
    assert [int(text.split()[1]) for text in shown] == visits
    assert page.run("return [...document.querySelectorAll('.side h4')].map((node) => node.textContent)") == [
        f"step {visits[0]}, before",
        f"step {visits[-1]}, now",
    ]


def test_tokens_say_how_likely_they_were_and_what_was_not_trained(page, rows):
    place = next(i for i, row in enumerate(rows) if row["advantage"] is None)
    group, at = place // SIZE, place % SIZE
    page.select(group)
    page.press("p")
    page.wait(lambda: page.text(".card .tokens"))
    cards = page.run(
        "return [...document.querySelectorAll('.card .tokens')].map((node) => [...node.querySelectorAll('.token')]"
        ".map((token) => [token.textContent, token.title, token.className]))"
    )
    for card, row in zip(cards, rows[group * SIZE : (group + 1) * SIZE], strict=True):
        text = "".join(token[0] for token in card)
        assert text.replace("⟨0⟩", "\n") == row["completion"][:400]
        assert all(("untrained" in token[2]) == (row["advantage"] is None) for token in card)
        assert "probability 100%" in card[0][1]
    assert "untrained" in cards[at][0][2]


def test_curves_have_whole_steps_and_warnings_stand_at_their_step(page, run_dir):
    titles = page.run("return [...document.querySelectorAll('#curves figure')].map((node) => node.dataset.title)")
    assert titles == ["Accuracy", "Training reward", "Outcomes", "Completion length", "Entropy"]
    ticks = page.run(
        "return [...document.querySelectorAll('.plots .tick[text-anchor=middle]')].map((node) => node.textContent)"
    )
    assert ticks
    assert all(tick.isdecimal() for tick in ticks)
    assert page.text(".warning-mark title").startswith("step 3: train.learning_rate is high")
    assert "1 · step 3 train.learning_rate is high" in page.text("#notes")
    legends = page.run(
        "return [...document.querySelectorAll('.plots figure')].map((node) => [node.querySelector('.legend')"
        "?.getBoundingClientRect().bottom ?? 0, node.querySelector('svg').getBoundingClientRect().top])"
    )
    assert all(bottom <= top for bottom, top in legends)


def test_an_outcome_has_one_colour_everywhere(page):
    page.select(0)
    colours = page.run(
        "const of = (selector, name) => [...document.querySelectorAll(selector)].map((x) => getComputedStyle(x)[name]);"
        "return [...of('#list .mark.wrong', 'color'), ...of('.card .verdict.wrong', 'color'),"
        "...of('.curve.outcome.wrong polygon', 'fill'), ...of('.legend .outcome.wrong b', 'borderTopColor')]"
    )
    assert len(colours) > 4
    assert len(set(colours)) == 1


def test_whatever_a_model_wrote_is_text(page, rows):
    first = STEPS * GROUPS - GROUPS
    own = page.run(FOREIGN)[0]
    for number in range(len(TEXTS)):
        for view in ({"source": False}, {"source": True}, {"tokens": True}, {"time": True}):
            page.run("Object.assign(view, { source: false, tokens: false, time: false }, arguments[0])", view)
            page.select(first + number)
            with pytest.raises(NoAlertPresentException):
                page.driver.switch_to.alert.text  # noqa: B018
            assert page.run(FOREIGN) == [own, 0]
            assert page.run("return document.querySelector('#detail .warning')?.textContent ?? ''") == ""
    assert page.run("return window.pwned") is None
    assert "\u202e" not in page.text("body")


def test_nothing_is_requested_but_the_pages_own_parts_and_the_console_stays_empty(page, run_dir):
    page.requested()
    page.open()
    for key in "jjkptr":
        page.press(key)
    page.write("text", "adding")
    page.wait(lambda: "read" not in page.count())
    requested, console = page.requested()
    assert (run_dir / "report.html").as_uri() in requested
    beside = (run_dir / "report").as_uri()
    others = {url for url in requested if not url.startswith((beside, (run_dir / "report.html").as_uri()))}
    assert others <= {"about:blank"}
    assert console == []


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (400, "dark")])
def test_the_page_never_scrolls_sideways(page, width, scheme):
    page.open(width=width, scheme=scheme)
    for details in page.driver.find_elements(By.CSS_SELECTOR, "details"):
        details.click()
    for group in range(STEPS * GROUPS - GROUPS, STEPS * GROUPS - GROUPS + len(TEXTS), 3):
        for view in ({"tokens": False, "time": False}, {"tokens": True}, {"time": True}):
            page.run("Object.assign(view, arguments[0])", view)
            page.select(group)
            assert page.run("return document.documentElement.scrollWidth") <= width


def test_a_page_without_its_parts_says_what_is_missing(driver, tmp_path, monkeypatch):
    monkeypatch.setattr(write, "INLINE_BYTES", 0)
    run_dir = run_samples.write_run(tmp_path / "run", steps=2)
    write.write_page(run_dir, read_run(run_dir))
    (run_dir / "report").rename(run_dir / "elsewhere")
    page = Page(driver, run_dir / "report.html").open()
    assert "the folder report/ has to lie beside the page" in page.text("#detail")
    driver.get_log("browser")


def test_of_20_000_groups_only_those_in_sight_are_in_the_page(driver, tmp_path):
    """The same index as of a million completions, smaller; benchmarks/page.py measures the large one."""
    run = run_samples.start_run(tmp_path)
    text = run_samples.row(1, 0, "<answer>42</answer>", "correct")
    run_samples.add_step(run, 1, [text | {"group": i, "prompt_id": f"p/{i}"} for i in range(20_000)])
    run.close()
    write.write_page(tmp_path, read_run(tmp_path))
    page = Page(driver, tmp_path / "report.html").open()
    assert page.count() == "20,000 of 20,000 completions, in 20,000 of 20,000 groups"
    assert page.run("return document.querySelectorAll('.row').length") < 40
    page.run("document.getElementById('list').scrollTop = 1e9")
    page.wait(lambda: page.run("return document.querySelector('.row:last-child').id") == "group-19999")
    page.write("problem", "p/1999")
    page.wait(lambda: page.count().startswith("11 of 20,000"))
