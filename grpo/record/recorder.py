"""What a run writes while it trains, so that it can be watched, resumed and judged afterwards.

    RUN/metrics.jsonl       one line a step: {"step": 3, "reward": 0.41, ...}; a value that is not finite is null
        evaluations.jsonl   one line an evaluation: {"step": 0, "accuracy": 0.38, "low": 0.32, "high": 0.44, "n": 256}
        held_out/step-000000.json       the same, a problem: {"arithmetic/test/17": 1.0, ...}, the share that is right
        rollouts/step-000003.parquet    every completion of a step, columns as in ROLLOUT_SCHEMA
        logs/notes.jsonl    what was said, and after which step: {"step": 12, "time": "...", "text": "..."}
        logs/run.log        every stage, note and warning with its time, and the error that ended the run
        summary.json        at the end; report.html, with its parts in report/ if it is large, and learning_curve.png

The trainer gives these metrics; others are recorded as they come.

    | key                    | unit      | meaning                                                              |
    | ---------------------- | --------- | -------------------------------------------------------------------- |
    | reward, reward_std     |           | mean of the step's rewards; mean of the groups' standard deviations  |
    | accuracy               | share     | completions graded correct, of those graded; null: none was graded   |
    | length                 | tokens    | mean completion length                                               |
    | turns                  |           | replies of an episode, mean; where the task has an environment       |
    | environment_tokens     | tokens    | of an episode that are not the model's, mean                         |
    | truncated              | share     | completions cut at max_tokens                                        |
    | entropy                | nats      | mean entropy of the next-token distribution at the sampled tokens    |
    | loss, grad_norm        |           | of the optimizer batch; the norm before clipping                     |
    | learning_rate          |           | of this step                                                         |
    | kl                     | nats      | estimate (train.kl_estimator) against the reference, mean of tokens  |
    | kl_penalty             | nats      | with train.kl_place: reward: KL of a completion, mean                |
    | entropy_coef           |           | of the entropy bonus in this step                                    |
    | logprob_diff           | nats      | mean |trainer - server| log-prob before the update                   |
    | proven_noise           | nats      | of it, what the proof at the start found to be rounding              |
    | routing_diff           | share     | of the sampler's choices of experts, those that the trainer replayed |
    |                        |           | and would not have made (rollout.routing_replay)                     |
    | expert_load_max        |           | where train balances experts: load of a layer's busiest expert over  |
    |                        |           | the mean of its experts, mean of the layers                          |
    | router_loss            |           | load-balancing loss, before train.router_aux_loss_coef               |
    | kl_sampler             | nats      | k3 estimate of the trainer against the server, before the update     |
    | stale                  | share     | trained tokens that older weights sampled                            |
    | ess                    | share     | effective sample size of the off-policy weights, of the tokens       |
    | corrected              | share     | tokens whose off-policy weight was bounded or set to 0               |
    | NAME_fresh, NAME_stale |           | kl_sampler and corrected of tokens of the current and older weights  |
    | clipped                | share     | tokens whose ratio was clipped                                       |
    | tokens, trained_tokens | tokens    | sampled in the step; those that entered the loss                     |
    | tokens_per_second      | tokens/s  | tokens / seconds                                                     |
    | seconds                | s         | the whole step, without evaluations and checkpoints; the sum of the   |
    |                        |           | five below                                                           |
    | seconds_wait           | s         | waiting while groups of this step were still being sampled           |
    | seconds_reward         | s         | waiting for rewards, when all its samples were there                 |
    | seconds_train          | s         | the update; _pack, _forward, _backward and _optimizer: its parts     |
    | seconds_sync           | s         | from the update to serving its weights; seconds_paused: of these, in |
    |                        |           | which nothing could be sampled                                       |
    | seconds_rest           | s         | everything else: advantages, recording                               |
    | staleness              | steps     | age of a completion's oldest token when it was trained, mean         |
    | refilled_groups        |           | dropped for want of contrast, and replaced (rollout.refill)          |
    | zero_variance_groups   | share     | groups whose rewards are all equal, so that nothing is learned       |
    | failed, failed/CAUSE   | share     | completions asked for that were not graded; of these, never came     |
    | weight_version         |           | of the weights that the server holds after the step                  |
    | server_restarts        |           | since the run started                                                |
    | outcome/NAME           | share     | completions with this outcome of the verifier                        |
    | reward/NAME            |           | mean of one reward function, before its weight                       |
    | logged/NAME            |           | mean of what rewards logged with `log_metric`                        |
    | level, level/NAME      |           | train.curriculum.order: levels: where each subject stands            |
    | task/NAME/KEY          |           | reward, accuracy, length, truncated and zero_variance_groups of one  |
    |                        |           | of several tasks, and its share of the groups                        |
    | epoch                  |           | of `kind: sft`: passes over the examples                             |
    | heldout_loss           | nats      | of `kind: sft`: cross entropy of the held-out examples, a token      |
"""

from __future__ import annotations

import json
import math
import time
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyarrow import parquet
from rich.console import Console

from grpo.record.atomic import append_line, readable, write_atomic, writing
from grpo.record.console import RunConsole
from grpo.record.display import open_display
from grpo.record.report import terminal_curve, write_report
from grpo.record.run import read_run, run_title
from grpo.record.stored import HELD_OUT, JSON_COLUMNS, ROLLOUTS, RecordError, missing_steps, read_lines, read_rollouts
from grpo.record.trackers import Trackers

ROLLOUT_SCHEMA = pa.schema(
    [
        pa.field("step", pa.int32(), nullable=False),
        pa.field("group", pa.int32()),  # number within the step: a prompt may come twice where epochs meet
        pa.field("prompt_id", pa.string(), nullable=False),
        pa.field("prompt", pa.string()),
        pa.field("prefill", pa.string()),  # the end of `prompt` that rewards read before `completion`
        pa.field("messages", pa.string()),  # of a chat: the conversation that `prompt` renders
        pa.field("completion", pa.string()),
        pa.field("answer", pa.string()),
        pa.field("columns", pa.string()),  # the dataset's others; what JSON cannot hold is its text
        pa.field("reward", pa.float64()),  # null: could not be scored
        pa.field("rewards", pa.string()),
        pa.field("extra", pa.string()),  # what rewards logged with `log_extra`
        pa.field("outcome", pa.string()),
        pa.field("extracted", pa.string()),
        pa.field("reason", pa.string()),
        pa.field("advantage", pa.float64()),  # null: not trained on
        pa.field("dropped", pa.bool_()),  # its group had no contrast, and another one was sampled in its place
        pa.field("finish_reason", pa.string()),
        pa.field("token_ids", pa.list_(pa.int32())),
        pa.field("logprobs", pa.list_(pa.float32())),  # null: of a token that is not the model's
        pa.field("versions", pa.list_(pa.int32())),
        pa.field("trained", pa.list_(pa.bool_())),  # the tokens that the model wrote; null: all of them
        pa.field("episode", pa.string()),  # of an environment: its messages, how it ended, the environment's score
        pa.field("unmasking", pa.string()),  # of a masked diffusion model: in which pass each token was written
    ]
)


class RunRecorder:
    """Records one run in `run_dir` and shows it. Call `close` at the end, also after an error.

    Args:
        recipe: the resolved recipe as plain data; trackers get it, and it names the display.
        trackers: of "tensorboard", "wandb", "trackio".
        resume_step: the step of the checkpoint that the run goes on from. What was recorded beyond it is
            dropped, because it will be computed again; 0 starts afresh. What cannot be read of the rest is said.

    Every method raises an OSError that names the file when it cannot be written.
    """

    def __init__(
        self,
        run_dir: Path,
        recipe: Mapping[str, Any],
        total_steps: int,
        trackers: Sequence[str] = (),
        resume_step: int = 0,
        console: Console | None = None,
    ) -> None:
        self.run_dir, self.resume_step = run_dir, resume_step
        self._last_step = resume_step
        self._console = console or RunConsole()
        with writing(run_dir / "logs"):
            (run_dir / "logs").mkdir(parents=True, exist_ok=True)
        self._trackers = Trackers(trackers, run_dir, recipe, resume_step)
        unread = _forget_beyond(run_dir, resume_step)
        self._display = open_display(self._console, run_title(recipe), total_steps)
        for sentence in [*unread, *self._trackers.take_failures()]:
            self.note(sentence)

    def stage(self, message: str) -> None:
        """What is happening now, e.g. "starting the vLLM server"."""
        self.log(message)
        self._display.stage(message)

    def note(self, text: str) -> None:
        """Something to be read once: the plan, a warning in words."""
        text = readable(text)  # a terminal takes no lone surrogate, either
        self.log(text)
        said = {"step": self._last_step, "time": time.strftime("%Y-%m-%d %H:%M:%S"), "text": text}
        append_line(self.run_dir / "logs" / "notes.jsonl", json.dumps(said), sync=False)
        self._display.note(text)

    def failed(self, error: BaseException) -> None:
        """Keep in the log why the run ends, traceback included; the command says it."""
        self.log(f"failed: {type(error).__name__}: {error}\n{''.join(traceback.format_exception(error))}".rstrip())

    def step(self, step: int, metrics: Mapping[str, float]) -> None:
        """Record the metrics of a finished step; the line is on the disk when this returns."""
        finite = {key: value if math.isfinite(value) else None for key, value in metrics.items()}
        append_line(self.run_dir / "metrics.jsonl", json.dumps({"step": step, **finite}))
        self._last_step = step
        self._display.step(step, finite)
        self._track(step, finite)

    def evaluation(self, step: int, result: Mapping[str, Any]) -> dict[str, Any]:
        """Record held-out accuracy after `step`: {"accuracy", "low", "high", "n"}, whatever else it holds beside;
        with several tasks the same of each, as {"tasks": {NAME: ...}}.

        Its "problems" (problem id -> share of answers that are right) get a file of their own; returns the rest.
        """
        result = dict(result)
        if problems := result.pop("problems", None):
            write_atomic(self.run_dir / "held_out" / f"step-{step:06d}.json", json.dumps(problems))
        append_line(self.run_dir / "evaluations.jsonl", json.dumps({"step": step, **result}))
        self._display.evaluation(step, result)
        if result["n"]:  # else there is no accuracy
            self._track(step, {f"heldout/{key}": result[key] for key in HELD_OUT})
            for name, one in result.get("tasks", {}).items():
                self._track(step, {f"heldout/{name}/{key}": one[key] for key in HELD_OUT if one["n"]})
        return result

    def rollouts(self, step: int, rows: Sequence[Mapping[str, Any]]) -> None:
        """Keep every completion of a step. Keys of a row: ROLLOUT_SCHEMA's, JSON_COLUMNS as plain data."""
        if not rows:  # `datasets` refuses a whole folder for one file without rows
            return
        self._display.completions(step, rows)
        table = pa.Table.from_pylist([_with_json(row) for row in rows], ROLLOUT_SCHEMA)
        path = self.run_dir / "rollouts" / f"step-{step:06d}.parquet"
        write_atomic(
            path, lambda partial: parquet.write_table(table, partial, compression="zstd", write_page_checksum=True)
        )

    def finish(self, summary: Mapping[str, Any]) -> None:
        """Write summary.json, learning_curve.png and report.html, and draw the curve in the terminal."""
        write_atomic(self.run_dir / "summary.json", json.dumps(dict(summary), indent=2))
        self.stage("writing the report")
        report = write_report(self.run_dir)
        self.close()
        run = read_run(self.run_dir)
        if run.evaluations or any(row.get("accuracy") is not None for row in run.steps):
            self._draw(terminal_curve(run, min(self._console.width, 100)))
        self._console.print(f"report: {report}", markup=False, highlight=False, soft_wrap=True)

    def _draw(self, curve: str) -> None:
        # A terminal without these characters gets question marks rather than an error at the end of a run.
        encoding = self._console.encoding
        print(curve.encode(encoding, "replace").decode(encoding), file=self._console.file)

    def close(self) -> None:
        """Give the terminal and the trackers back. May be called twice."""
        self._display.close()
        self._trackers.close()
        self._say_failures()

    def log(self, text: str) -> None:
        """A line of logs/run.log, with the time."""
        append_line(self.run_dir / "logs" / "run.log", f"{time.strftime('%Y-%m-%d %H:%M:%S')} {text}", sync=False)

    def _track(self, step: int, values: Mapping[str, float | None]) -> None:
        self._trackers.log({key: value for key, value in values.items() if value is not None}, step)
        self._say_failures()

    def _say_failures(self) -> None:
        for sentence in self._trackers.take_failures():
            self.note(sentence)


def _with_json(row: Mapping[str, Any]) -> dict[str, Any]:
    texts = {name: readable(value) for name, value in row.items() if isinstance(value, str)}
    present = [name for name in JSON_COLUMNS if row.get(name) is not None]
    plain = {name: json.dumps(readable(row[name]), default=_text_of, ensure_ascii=False) for name in present}
    return {**row, **texts, **plain}


def _text_of(value: object) -> str:
    return readable(str(value))


def _forget_beyond(run_dir: Path, resume_step: int) -> list[str]:
    """Drop what was recorded beyond the step; returns a sentence for whatever cannot be read of the rest."""
    said: list[str] = []
    for name, numbers in (("metrics.jsonl", ()), ("evaluations.jsonl", HELD_OUT), ("logs/notes.jsonl", ())):
        path = run_dir / name
        rows = read_lines(path, numbers, said.append) if resume_step else []
        kept = [row for row in rows if row["step"] <= resume_step]
        if path.exists():
            write_atomic(path, "".join(json.dumps(row) + "\n" for row in kept))
        if name == "metrics.jsonl":
            said += missing_steps(path, kept, resume_step)
    for path in sorted((run_dir / "rollouts").glob(ROLLOUTS)):
        if int(path.stem.removeprefix("step-")) > resume_step:
            path.unlink()
            continue
        try:
            read_rollouts(path, columns=[])
        except RecordError as error:
            # Under its own name it would keep `datasets` from opening the others.
            path.rename(path.with_name(f"{path.name}.damaged"))
            said.append(f"{error}; it is kept as {path.name}.damaged")
    return said
