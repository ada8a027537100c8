"""The screenshots in docs/pages, each light and dark, wide and narrow, of runs and an evaluation that are made here.

python -m tests.grpo.page.screenshots [FOLDER]        default: docs/pages
"""

from __future__ import annotations

import io
import random
import sys
import tempfile
from pathlib import Path

from PIL import Image
from selenium.webdriver.support.ui import WebDriverWait

from eval.page.report import write_report
from grpo.page.write import write_page
from grpo.record.run import read_run
from recipes.jobs.compare_runs import pairs_of, read_members, write_comparison
from tests import browser, report_samples, run_samples

VIEWS = (("light", 1180), ("dark", 1180), ("light", 370), ("dark", 370))
SCALE, GAP = 2, 9  # pixels of the page for one of the picture; between the views
STEPS = 40


def main() -> None:
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parents[3] / "docs" / "pages"
    driver = browser.start()
    try:
        with tempfile.TemporaryDirectory() as folder:
            for name, page, height, scrolled_to in pages(Path(folder)):
                picture(driver, page, height, scrolled_to).save(target / f"{name}.png", optimize=True)
                print(target / f"{name}.png")
    finally:
        driver.quit()


def pages(folder: Path) -> list[tuple[str, Path, int, str]]:
    """Name, file, height, and what is scrolled to the top."""
    runs = [trained(folder / name, rate, skill) for name, rate, skill in
            (("grpo", 1e-6, 0.5), ("dapo", 2e-6, 0.6), ("gspo", 5e-6, 0.7))]  # fmt: skip
    run = [write_page(one, read_run(one)) for one in runs][1]
    members = read_members(runs)
    evaluation = report_samples.write_folder(folder / "evaluation", report_samples.generations())
    return [
        ("run", run, 1560, "body"),
        ("completions", run, 1280, "#browser"),
        ("compare", write_comparison(members, pairs_of(members), folder / "compare.html"), 1600, "body"),
        ("evaluation", write_report(evaluation), 1560, "body"),
    ]


def trained(folder: Path, rate: float, skill: float) -> Path:
    settings = {"steps": STEPS, "learning_rate": rate, "loss": folder.name}
    run = run_samples.start_run(folder, run_samples.RECIPE | {"train": run_samples.RECIPE["train"] | settings})
    rng = random.Random(folder.name)
    for step in range(STEPS + 1):
        if step:
            rows = run_samples.step_rows(rng, step, 6, 8, 18, 0.2 + skill * step / STEPS)
            run_samples.add_step(run, step, rows)
        if step % 10 == 0:
            run_samples.evaluate(run, step, 0.25 + 0.9 * skill * step / STEPS)
        if step == 25:
            run.note("62% of the completions are cut at rollout.max_tokens = 256 before they answer; raise it")
    run.close()
    return folder


def picture(driver: object, path: Path, height: int, scrolled_to: str) -> Image.Image:
    shots = []
    for scheme, width in VIEWS:
        page = browser.Page(driver, path)
        page.ready = lambda page=page: page.run(  # type: ignore[method-assign]
            "const status = document.getElementById('count') ?? document.querySelector('figure svg');"
            "return document.readyState === 'complete' && status !== null && !status.textContent.includes('Reading')"
        )
        page.open(width=width, height=height, scheme=scheme)
        WebDriverWait(driver, 60).until(lambda _, page=page: page.run("return document.fonts.status") == "loaded")
        page.run("document.querySelector(arguments[0]).scrollIntoView()", scrolled_to)
        shot = Image.open(io.BytesIO(page.driver.get_screenshot_as_png())).convert("RGB")
        shots.append(shot.resize((width // SCALE, height // SCALE), Image.Resampling.LANCZOS))
    whole = Image.new("RGB", (sum(one.width + GAP for one in shots) - GAP, height // SCALE), "#888")
    left = 0
    for shot in shots:
        whole.paste(shot, (left, 0))
        left += shot.width + GAP
    return whole.quantize(
        256, Image.Quantize.MAXCOVERAGE, kmeans=2, dither=Image.Dither.NONE
    )  # few colours are not grey


if __name__ == "__main__":
    main()
