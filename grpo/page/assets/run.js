"use strict";
// The page of a run: its state, its curves, what it said, and how a live page goes on.

const CURVES = [
  ["Accuracy", "held out with its 95% interval, and in training", { share: true }, "accuracy"],
  ["Training reward", "mean, and of each part before its weight", {}, "reward"],
  ["Loss", "nats", {}, "supervised"],
  ["Outcomes", "share of the step's completions", { share: true, stacked: true }, "outcomes"],
  ["Completion length", "tokens, mean", {}, ["length"]],
  ["Entropy", "nats, mean of the sampled tokens", {}, ["entropy"]],
];
const HEALTH = [
  ["Parts of a step", "seconds", { stacked: true }, "seconds"],
  ["Groups without a signal", "share", { share: true }, ["zero_variance_groups"]],
  ["Cut and failed", "share", { share: true }, ["truncated", "failed"]],
  ["Gradient norm", "before clipping", {}, ["grad_norm"]],
  ["Trainer against server", "mean |difference| of log-probs, nats", {}, ["logprob_diff"]],
  ["KL against the reference", "nats", {}, ["kl"]],
  ["Clipped and corrected", "share of tokens", { share: true }, ["clipped", "corrected"]],
  ["Staleness", "steps", {}, ["staleness"]],
  ["Throughput", "tokens a second", {}, ["tokens_per_second"]],
  ["Restarts of servers", "since the start", {}, ["server_restarts"]],
];
const PARTS = ["wait", "reward", "train", "sync", "rest"];
const POLL = 1000; // milliseconds

let run = null;

const points = (key) => run.steps.filter((row) => typeof row[key] === "number").map((row) => [row.step, row[key]]);
const line = (key, kind, name) => ({ name: name ?? inWords(key), kind, points: points(key) });
const withPrefix = (prefix) => [...new Set(run.steps.flatMap((row) => Object.keys(row)))].filter((key) => key.startsWith(prefix));

function linesOf(keys) {
  if (keys === "accuracy") {
    const held = run.evaluations.map((row) => [row.step, row.accuracy, row.low, row.high]);
    const tasks = Object.keys(run.evaluations.at(-1)?.tasks ?? {}).map((name, i) => ({ name, kind: `line${i % 6 + 2}`, dots: true,
      points: run.evaluations.flatMap((row) => (row.tasks?.[name]?.n ? [[row.step, row.tasks[name].accuracy, row.tasks[name].low, row.tasks[name].high]] : [])) }));
    return [{ name: "held out", kind: "line0", dots: true, points: held }, line("accuracy", "line1", "training"), ...tasks];
  }
  if (keys === "reward") {
    const parts = withPrefix("reward/");
    return [line("reward", "line0", "total"), ...(parts.length > 1 ? parts.map((key, i) => line(key, `line${i % 7 + 1}`, key.slice(7))) : [])];
  }
  if (keys === "supervised") return run.steps.some((row) => "reward" in row) ? [] : [line("loss", "line0"), line("heldout_loss", "line1", "held out")];
  if (keys === "outcomes") {
    const names = [...OUTCOMES, "failed"].filter((name) => run.steps.some((row) => row[`outcome/${name}`]));
    return names.map((name) => ({ name: inWords(name), kind: `outcome ${name}`,
      points: run.steps.map((row) => [row.step, row[`outcome/${name}`] ?? 0]) }));
  }
  if (keys === "seconds") return PARTS.map((part, i) => line(`seconds_${part}`, `line${i}`, part)).filter((one) => one.points.length);
  return keys.map((key, i) => line(key, `line${i}`)).filter((one) => one.points.length);
}

function drawPlots() {
  const marks = run.notes.filter((note) => note.step > 0).map((note, i) => ({ ...note, number: i + 1 }));
  for (const [id, plots] of [["curves", CURVES], ["health", HEALTH]]) {
    const zeros = [];
    const focused = document.activeElement?.closest?.("figure")?.dataset.title;
    $(id).replaceChildren(...plots.flatMap(([title, note, options, keys]) => {
      const lines = linesOf(keys);
      if (id === "health" && lines.length && lines.every((line) => line.points.every(([, value]) => value === 0))) {
        zeros.push(title.toLowerCase()); // an empty plot says no more than its name
        return [];
      }
      const figure = plot(title, lines, { ...options, note, marks: id === "curves" ? marks : [] });
      if (figure) figure.dataset.title = title;
      return figure ? [figure] : [];
    }));
    if (zeros.length) $(id).append(make("p", "muted", `0 in every step: ${zeros.join("; ")}.`));
    if (focused) [...$(id).children].find((one) => one.dataset.title === focused)?.querySelector("svg").focus();
  }
}

// Warnings stand with the step that they were said after, under the numbers that the curves carry.
function drawNotes() {
  const item = (head, note) => make("li", "", ...(head ? [make("b", "", head)] : []), plain(String(note.text), make("span", "said")));
  const before = run.notes.filter((note) => !(note.step > 0)).map((note) => item("", note));
  const after = run.notes.filter((note) => note.step > 0)
    .map((note, i) => item(`${i + 1} · step ${note.step.toLocaleString("en")} `, note));
  $("notes").replaceChildren(...(after.length ? [make("h2", "", "What the run said"), make("ul", "notes", ...after)] : []),
    ...(before.length ? [folded("Before the first step", make("ul", "notes", ...before))] : []));
}

function drawNumbers() {
  const [first, last] = [run.steps[0], run.steps.at(-1)];
  if (!first) return $("numbers").replaceChildren(make("p", "", "No step is finished."));
  const keys = [...new Set([...Object.keys(first), ...Object.keys(last)])].filter((key) => key !== "step");
  const cell = (value) => make("td", "number", typeof value === "number" ? short(value) : "-");
  const rows = keys.map((key) => make("tr", "", plain(key, make("th")), cell(first[key]), cell(last[key])));
  const head = make("tr", "", make("th", "", "metric"), make("th", "number", `step ${first.step}`), make("th", "number", `step ${last.step}`));
  $("numbers").replaceChildren(make("table", "numbers", make("thead", "", head), make("tbody", "", ...rows)));
}

function drawState() {
  const step = run.steps.at(-1)?.step ?? 0;
  const of = run.total ? ` of ${run.total.toLocaleString("en")}` : "";
  const words = { running: `running: step ${step.toLocaleString("en")}${of}`, stopped: `not running: step ${step.toLocaleString("en")}${of}`,
    finished: "finished", waiting: "not yet begun" };
  $("status").replaceChildren(make("span", `state ${run.status}`, words[run.status] ?? run.status));
  if (SOURCE === "live") {
    document.title = run.title;
    plain(run.title, $("title").replaceChildren() ?? $("title"));
    plain(run.facts, $("facts").replaceChildren() ?? $("facts"));
    $("said").replaceChildren(...run.unread.map((sentence) => plain(sentence, make("p", "warning"))));
    if (run.status === "running" && run.log.length) $("status").append(plain(` · ${run.log.at(-1)}`, make("span", "muted")));
  }
  $("browser").hidden = index.completions === 0;
  plain(run.recipe, $("recipe").replaceChildren() ?? $("recipe"));
  plain(run.log.join("\n"), $("log").replaceChildren() ?? $("log"));
  drawPlots();
  drawNotes();
  drawNumbers();
}

// -- a live page -------------------------------------------------------------------------------------------------------

// Ask for what is new; a run that was resumed has fewer steps than before, under another epoch, and is read anew.
async function poll() {
  const asked = new URLSearchParams(run ? { epoch: run.epoch, steps: run.steps.length, seen: run.version } : {});
  const answer = await fetch(`state?${asked}`);
  if (!answer.ok) throw new Error(await answer.text());
  const news = await answer.json();
  if (news.chain) return location.reload(); // what was waited for is a chain
  if (news.unchanged) return;
  if (news.from > 0) news.steps = [...run.steps, ...news.steps];
  if (run && news.epoch !== run.epoch) indexed = 0, clearIndex(), kept.clear(), (shown.selected = -1);
  run = news;
  const grown = news.indexed > indexed;
  if (grown) {
    addToIndex(await arraysPart(`index-${indexed}-${news.indexed}`));
    indexed = news.indexed;
  }
  drawState();
  if (grown) showNew();
}

let indexed = 0; // steps whose completions the index has

// New completions: the list grows, and follows the run as long as its newest group was the one looked at.
function showNew() {
  const follows = shown.selected < 0 || (shown.groups[0] === shown.selected && $("order").value === "last" && !view.time);
  const top = $("list").scrollTop;
  fillFilters();
  applyFilters();
  if (follows && shown.groups.length) select(shown.groups[0], false);
  else $("list").scrollTop = top;
}

async function follow() {
  for (;;) {
    try {
      await poll();
      document.body.classList.remove("lost");
    } catch (error) {
      document.body.classList.add("lost");
      plain(` · no answer from zero watch (${error.message}); asking again`, $("status").replaceChildren() ?? $("status"));
    }
    await new Promise((resolve) => setTimeout(resolve, document.hidden ? 5 * POLL : POLL));
  }
}

// -- start ----------------------------------------------------------------------------------------------------------------

const KEYS = { j: () => step(1), k: () => step(-1), r: () => toggle("source"), t: () => toggle("time"), p: () => toggle("tokens") };

async function start() {
  listen({ actions: KEYS, filter: applyFilters, draw: drawList, typed: 200 });
  addEventListener("hashchange", () => groupOfLink(location.hash) >= 0 && select(groupOfLink(location.hash), false));
  if (SOURCE === "live") {
    fillFilters();
    return follow();
  }
  run = await jsonPart("state");
  for (const part of await Promise.all(run.index.map(arraysPart))) addToIndex(part);
  $("text").addEventListener("focus", () => loadWords().catch(() => {})); // who searches is told of what is missing
  drawState();
  fillFilters();
  applyFilters();
  const linked = groupOfLink(location.hash);
  if (index.groups) await select(linked >= 0 ? linked : shown.groups[0], false);
  if (linked >= 0) $("detail").scrollIntoView();
}

start().catch((error) => plain(`The page cannot be shown: ${error.message}`, $("status")));
