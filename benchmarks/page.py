"""How long the page of a run with many completions takes: to be written, to open, and to filter, in headless Chromium.

    python -m benchmarks.page [--completions 1000000] [--json FILE]

The run is generated: steps of 1,000 completions in groups of 8, of about 300 characters each, which repeat. "opens" is
from the navigation until the list and its first group are drawn; a filter, until the counts and the list are drawn; a
search, until all that it finds is counted, once the words are loaded, which begins when the box gets the focus.
"""

from __future__ import annotations

import random
import time
from pathlib import Path
from typing import Any

from benchmarks.watching import command
from grpo.page.write import write_page
from grpo.record.run import read_run
from tests import browser, run_samples

PER_STEP, GROUP = 1000, 8
FILTERS = {
    "outcome": "document.getElementById('outcome').value = 'correct'",
    "tokens": "document.getElementById('tokens-from').value = '150'",
    "reward": "document.getElementById('reward-from').value = '0.5'",
    "steps": "document.getElementById('step-from').value = '20'",
    "order": "document.getElementById('order').value = 'spread'",
    "problem": "document.getElementById('problem').value = 'train/77'",
}
TEXTS = {
    "a common word": "adding",
    "part of words": "arr",
    "one completion": "number 123456",
    "several words": "sum is 4",
}
RESET = "document.getElementById('filters').reset()"
SEARCHED = (
    "const [text, done] = arguments; document.getElementById('text').value = text; "
    "const before = performance.now(); applyFilters(); shown.searching.then(() => { document.body.offsetHeight; "
    "done([performance.now() - before, document.getElementById('count').textContent]); });"
)
MEASURED = (
    "const before = performance.now(); applyFilters(); document.body.offsetHeight; return performance.now() - before;"
)


def measure(completions: int, folder: Path) -> dict[str, Any]:
    """Seconds of each part."""
    steps = max(completions // PER_STEP, 1)
    generated = _seconds(lambda: generate(folder, steps))
    written = _seconds(lambda: write_page(folder, read_run(folder)))
    again = _seconds(lambda: write_page(folder, read_run(folder)))
    driver = browser.start()
    try:
        page = browser.Page(driver, folder / "report.html")
        # This page is there when its rows are; a browser of its own, so its method may be another.
        page.ready = lambda: page.run(  # type: ignore[method-assign]
            "return document.readyState === 'complete' && document.querySelector('.row') !== null "
            "&& document.querySelector('#detail .card') !== null"
        )
        opens = [_seconds(page.open) for _ in range(3)]
        filters = {name: page.run(f"{RESET}; {change}; {MEASURED}") / 1000 for name, change in FILTERS.items()}
        shown = page.run("return document.getElementById('count').textContent")
        driver.set_script_timeout(600)
        driver.execute_async_script(f"{RESET}; setTimeout(arguments[0], 100)")  # which applies the filters later
        loaded = _seconds(lambda: driver.execute_async_script("loadWords().then(() => arguments[0]())"))
        searches = {name: driver.execute_async_script(SEARCHED, text) for name, text in TEXTS.items()}
    finally:
        driver.quit()
    size = sum(path.stat().st_size for path in [folder / "report.html", *(folder / "report").glob("*")])
    return {
        "completions": steps * PER_STEP,
        "generated": generated,
        "written": written,
        "written_again": again,
        "opens": opens,
        "filters": filters,
        "words_loaded": loaded,
        "searches": {name: {"seconds": spent / 1000, "found": found} for name, (spent, found) in searches.items()},
        "shown": shown,
        "megabytes": {"page": size / 1e6, "rollouts": _size(folder / "rollouts") / 1e6},
    }


def generate(folder: Path, steps: int) -> None:
    rng = random.Random(0)
    run = run_samples.start_run(folder)
    pool = run_samples.step_rows(rng, 1, PER_STEP // GROUP, GROUP, 5 * PER_STEP, 0.5)
    for step in range(1, steps + 1):
        rows = [
            row | {"step": step, "prompt_id": f"sums/train/{(step * 125 + i // GROUP) % 20_000}"}
            for i, row in enumerate(pool)
        ]
        rng.shuffle(rows)
        for i, row in enumerate(rows):  # no two texts are the same
            row["completion"] += f" number {step * PER_STEP + i}"
        rows = [
            row | {"group": i // GROUP, "prompt_id": rows[i - i % GROUP]["prompt_id"]} for i, row in enumerate(rows)
        ]
        run_samples.add_step(run, step, rows)
    run.close()


def _seconds(action: Any) -> float:
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.glob("*"))


if __name__ == "__main__":
    command(__doc__ or "", lambda asked, folder: measure(asked.completions, folder / "run"), completions=1_000_000)
