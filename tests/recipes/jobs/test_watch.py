"""`zero watch`: a run is followed as it goes on, resumed, killed; its directory is only read."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from contextlib import contextmanager
from pathlib import Path

import pytest
from selenium.webdriver.common.by import By
from typer.testing import CliRunner

from grpo.page.live import LiveRun
from grpo.record.recorder import RunRecorder
from recipes.command.main import main
from recipes.jobs.run_dir import locked
from recipes.jobs.watch import PageServer
from tests import browser, run_samples
from tests.grpo.page.test_page_browser import Page

ROOT = Path(__file__).parents[3]


@contextmanager
def watched(run_dir):
    """Its address, from a server of this process on a free port."""
    with PageServer(("127.0.0.1", 0), run_dir) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}/"
        finally:
            server.shutdown()
            thread.join()


def rows(step, groups=3, size=4):
    return run_samples.step_rows(random.Random(step), step, groups, size, prompts=9, skill=0.5)


def get(address, **headers):
    with urllib.request.urlopen(urllib.request.Request(address, headers=headers), timeout=240) as answer:
        return answer.read()


def tree(folder):
    """Every file with its content and the time of its last change."""
    return {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in folder.rglob("*") if path.is_file()}


# -- what is read ------------------------------------------------------------------------------------------------------


def test_only_what_is_new_is_sent_and_nothing_is_sent_twice(tmp_path):
    live = LiveRun(tmp_path / "run")
    assert live.state()["status"] == "waiting"
    run = run_samples.start_run(tmp_path / "run")
    run_samples.add_step(run, 1, rows(1))
    first = live.state()
    assert [row["step"] for row in first["steps"]] == [1]
    assert (first["status"], first["indexed"], first["total"]) == ("stopped", 1, 12)
    asked = {"epoch": first["epoch"], "steps": 1, "seen": first["version"]}
    assert live.state(**asked) == {"unchanged": True}
    run_samples.add_step(run, 2, rows(2))
    second = live.state(**asked)
    assert (second["from"], [row["step"] for row in second["steps"]]) == (1, [2])
    run.note("a warning")
    assert [(one["step"], one["text"]) for one in live.state(**asked)["notes"]] == [(2, "a warning")]
    with locked(tmp_path / "run" / ".lock", "it"):
        code = (
            "import sys; from pathlib import Path; from grpo.page.live import in_use; print(in_use(Path(sys.argv[1])))"
        )
        asking = [sys.executable, "-c", code, str(tmp_path / "run" / ".lock")]
        assert subprocess.run(asking, cwd=ROOT, capture_output=True, text=True, check=True).stdout == "True\n"
    assert live.state()["status"] == "stopped"


def test_a_line_that_is_still_being_written_waits(tmp_path):
    run = run_samples.start_run(tmp_path)
    run_samples.add_step(run, 1, rows(1))
    with (tmp_path / "metrics.jsonl").open("a") as file:
        live = LiveRun(tmp_path)
        file.write('{"step": 2, "rew')
        file.flush()
        state = live.state()
        assert ([row["step"] for row in state["steps"]], state["unread"]) == ([1], [])
        file.write('ard": 0.5}\nnonsense\n')
        file.flush()
        state = live.state()
    assert [row["step"] for row in state["steps"]] == [1, 2]
    assert [sentence.partition(" cannot")[0] for sentence in state["unread"]] == [f"{tmp_path / 'metrics.jsonl'}:3"]


def test_a_resumed_run_is_read_anew_from_where_it_goes_on(tmp_path):
    run = run_samples.start_run(tmp_path)
    for step in (1, 2, 3):
        run_samples.add_step(run, step, rows(step))
    run.close()
    live = LiveRun(tmp_path)
    before = live.state()
    assert before["indexed"] == 3
    resumed = RunRecorder(tmp_path, run_samples.RECIPE, 12, resume_step=1, console=run._console)
    run_samples.add_step(resumed, 2, rows(20))
    after = live.state(before["epoch"], 3, before["version"])
    assert after["epoch"] != before["epoch"]
    assert (after["from"], [row["step"] for row in after["steps"]], after["indexed"]) == (0, [1, 2], 2)


def test_a_damaged_file_is_said_and_the_rest_is_shown(tmp_path):
    run = run_samples.start_run(tmp_path)
    for step in (1, 2):
        run_samples.add_step(run, step, rows(step))
    (tmp_path / "rollouts" / "step-000001.parquet").write_bytes(b"PAR1")
    (tmp_path / "summary.json").write_text("[")
    live = LiveRun(tmp_path)
    state = live.state()
    assert state["indexed"] == 1
    assert "step-000001.parquet: not a Parquet file, or damaged" in " ".join(state["unread"])
    assert "summary.json cannot be read" in " ".join(state["unread"])
    with pytest.raises(KeyError):
        live.part("texts-000001-000")
    assert live.part("texts-000002-000")


# -- the server --------------------------------------------------------------------------------------------------------


def test_the_server_reads_a_run_and_changes_nothing_of_it(tmp_path):
    run_dir = run_samples.write_run(tmp_path / "run", steps=3)
    before = tree(tmp_path)
    with watched(run_dir) as address:
        state = json.loads(get(f"{address}state"))
        assert (state["status"], len(state["steps"]), state["indexed"]) == ("finished", 3, 3)
        for name in ("index-0-3", "texts-000002-000", "tokens-000003-000", "vocabulary"):
            assert get(f"{address}part/{name}").startswith(b"\x1f\x8b")
        assert b"Content-Security-Policy" in get(address)
        for wrong in (
            "part/texts-000009-000",
            "part/..%2f..%2frecipe.yaml",
            "part/state-1-2",
            "recipe.yaml",
            "stages/x/",
        ):
            with pytest.raises(urllib.error.HTTPError, match="404"):
                get(address + wrong)
        with pytest.raises(urllib.error.HTTPError, match="403"):
            get(address, Host="evil.example")
    assert tree(tmp_path) == before


def test_a_chain_is_its_stages(tmp_path):
    run_samples.write_run(tmp_path / "stages" / "rl", steps=2)
    (tmp_path / "chain.yaml").write_text("stages: {cold: {kind: sft}, rl: {kind: grpo, model: cold}}\n")
    with watched(tmp_path) as address:
        state = json.loads(get(f"{address}state"))
        assert [(one["name"], one["model"], one["status"]) for one in state["stages"]] == [
            ("cold", "base", "waiting"),
            ("rl", "cold", "finished"),
        ]
        assert json.loads(get(f"{address}stages/rl/state"))["title"] == "Zero: tiny on sums"
        assert json.loads(get(f"{address}stages/cold/state"))["status"] == "waiting"
        for wrong in ("stages/..%2f..%2f/", "stages/other/"):
            with pytest.raises(urllib.error.HTTPError, match="404"):
                get(address + wrong)


def test_what_is_no_run_and_a_port_that_is_taken_are_refused(tmp_path):
    (tmp_path / "file").write_text("")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "results.json").write_text("{}")
    for name, reason in (("file", "is a file; expected the directory of a run"), ("other", "is no run's directory")):
        result = CliRunner().invoke(main, ["watch", str(tmp_path / name)])
        assert (result.exit_code, reason in result.output) == (2, True)
    with watched(tmp_path / "run") as address:
        port = address.rstrip("/").rpartition(":")[2]
        result = CliRunner().invoke(main, ["watch", str(tmp_path / "run"), "--port", port])
    assert result.exit_code == 2
    assert f"port {port} of 127.0.0.1 cannot be used" in result.output
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_the_command_says_where_the_page_is_and_ends_with_the_signals_code(tmp_path):
    command = [sys.executable, "-m", "recipes.command.main", "watch", str(tmp_path / "run"), "--port", "0"]
    code = "from recipes.command.main import main; main()"
    command[1:3] = ["-c", code]
    process = subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONUNBUFFERED": "1"}
    )
    try:
        assert process.stdout.readline() == f"{tmp_path / 'run'} holds no run yet; the page waits for it\n"
        said = process.stdout.readline()
        address = said.split()[3]
        assert address.startswith("http://127.0.0.1:")
        assert json.loads(get(f"{address}state"))["status"] == "waiting"
    finally:
        process.send_signal(signal.SIGTERM)
        code = process.wait(300)
        process.stdout.close()
    assert code == 143
    assert not (tmp_path / "run").exists()


# -- the page ----------------------------------------------------------------------------------------------------------


class Live(Page):
    def ready(self):
        return self.text("#status") != ""

    def steps(self):
        return self.run("return run?.steps.length ?? 0")


@browser.MARKS[0]
@browser.MARKS[1]
def test_the_page_goes_on_with_the_run_and_when_the_server_is_started_again(driver, tmp_path):
    run_dir = tmp_path / "run"
    with watched(run_dir) as address:
        page = Live(driver, address).open()
        assert page.text("#status") == "not yet begun"
        run = run_samples.start_run(run_dir)
        run_samples.evaluate(run, 0, 0.3)
        for step in (1, 2):
            run_samples.add_step(run, step, rows(step))
            page.wait(lambda step=step: page.steps() == step)
        page.wait(lambda: page.text("#detail h3").startswith("step 2"))  # it follows the newest
        run.note("<b>a warning</b>")
        page.wait(lambda: "<b>a warning</b>" in page.text("#notes"))
        page.choose("outcome", "correct")
        page.wait(lambda: page.run("return shown.completions < index.completions"))
        run_samples.add_step(run, 3, rows(3))
        page.wait(lambda: page.run("return index.completions") == 36)
        assert page.run("return document.getElementById('outcome').value") == "correct"
        page.run("document.querySelector('.row').click()")
        page.wait(lambda: page.driver.find_elements(By.CSS_SELECTOR, ".card"))
        port = int(address.rstrip("/").rpartition(":")[2])
    page.wait(lambda: "no answer from zero watch" in page.text("#status"))
    run_samples.add_step(run, 4, rows(4))
    run.close()
    with PageServer(("127.0.0.1", port), run_dir) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        page.wait(lambda: page.steps() == 4 and page.run("return index.completions") == 48)
        shutil.rmtree(run_dir)  # whoever does that sees an empty page, and no error
        page.wait(lambda: "not yet begun" in page.text("#status"))
        assert page.run("return index.completions") == 0
        server.shutdown()
        thread.join()
    page.driver.get("about:blank")
    page.driver.get_log("browser")
