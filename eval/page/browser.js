"use strict";
// The list of generations with its filters, and the detail of one of them.
// Whatever a model wrote reaches the page through textContent alone.

const ORDERS = { problem: "problem", shortest: "shortest first", longest: "longest first" };
const SEARCHED = ["completion", "question", "answer", "extracted", "problem_id"];
const CHOICES = ["benchmark", "outcome", "subject", "level", "truncated", "failure"];
const state = { all: [], shown: [], selected: null, source: false, sideBySide: false };

// -- data ------------------------------------------------------------------------------------------------------------

// Rows of columns, each with what the page needs of it: its place, its link, its word for the outcome.
function rowsOf(columns) {
  const fields = Object.keys(columns);
  return columns.sample.map((_, index) => {
    const row = Object.fromEntries(fields.map((field) => [field, columns[field][index]]));
    row.index = index;
    row.link = [row.benchmark, row.problem_id, row.sample].map(encodeURIComponent).join(":").replaceAll("%2F", "/");
    row.verdict = row.outcome ?? "failed";
    row.cut = row.finish_reason === "length" ? "yes" : "no";
    return row;
  });
}

const value = { truncated: (row) => row.cut, failure: (row) => row.failure ?? "none", outcome: (row) => row.verdict };
const valueOf = (row, name) => (value[name] ? value[name](row) : row[name]);
const sameProblem = (a, b) => a.benchmark === b.benchmark && a.problem_id === b.problem_id;
const samplesOf = (row) => state.all.filter((other) => sameProblem(row, other));

const verdictOf = (row) => verdict(row.verdict, row.failure ? `never came: ${row.failure}` : undefined);

// -- filters ---------------------------------------------------------------------------------------------------------

function fillFilters() {
  const collator = new Intl.Collator("en", { numeric: true });
  for (const name of CHOICES) {
    const benchmark = name === "benchmark" ? "" : $("benchmark").value; // the others offer what it has
    const rows = state.all.filter((row) => benchmark === "" || row.benchmark === benchmark);
    const counts = new Map();
    for (const row of rows) counts.set(valueOf(row, name), (counts.get(valueOf(row, name)) ?? 0) + 1);
    counts.delete(null);
    const values = [...counts.keys()].sort(collator.compare);
    fill($(name), [["", "all"], ...values.map((key) => [key, `${inWords(key)} (${counted(counts.get(key))})`])]);
    $(name).parentElement.hidden = values.length < 2; // there is nothing to choose
  }
}

function applyFilters() {
  const wanted = CHOICES.map((name) => [name, $(name).value]).filter(([, choice]) => choice !== "");
  const [shortest, longest] = [$("shortest").value, $("longest").value];
  const text = $("text").value.toLowerCase();
  state.shown = state.all.filter((row) =>
    wanted.every(([name, choice]) => valueOf(row, name) === choice) &&
    (shortest === "" || (row.tokens !== null && row.tokens >= Number(shortest))) &&
    (longest === "" || (row.tokens !== null && row.tokens <= Number(longest))) &&
    (text === "" || SEARCHED.some((field) => row[field]?.toLowerCase().includes(text))));
  const order = $("order").value;
  if (order !== "problem") {
    const sign = order === "shortest" ? 1 : -1;
    const length = (row) => row.tokens ?? sign * Infinity; // unknown comes last
    state.shown.sort((a, b) => sign * (length(a) - length(b)) || a.index - b.index);
  }
  $("count").textContent = `${counted(state.shown.length)} of ${counted(state.all.length)} generations`;
  $("list").scrollTop = 0;
  drawList();
}

// -- the list ----------------------------------------------------------------------------------------------------------

function drawList() {
  drawRows(state.shown.length, (place) => listRow(state.shown[place]), state.selected && `row-${state.selected.index}`);
}

function listRow(row) {
  const facts = [`sample ${row.sample}`];
  if (row.tokens !== null) facts.push(`${row.tokens.toLocaleString("en")} tokens`);
  if (row.cut === "yes") facts.push("cut");
  const node = make("div", "row",
    make("div", "", verdictOf(row), make("span", "muted", ` · ${facts.join(" · ")}`)),
    make("div", "", plain(`${row.problem_id} `), plain(row.question.slice(0, 120), make("span", "muted"))));
  node.id = `row-${row.index}`;
  node.addEventListener("click", () => select(row, true));
  return node;
}

// -- the detail ------------------------------------------------------------------------------------------------------

function select(row, link) {
  state.selected = row;
  if (link) history.replaceState(null, "", `#${row.link}`);
  revealPlace(state.shown.indexOf(row));
  drawList();
  drawDetail();
}

function step(by) {
  const place = state.shown.indexOf(state.selected) + by;
  if (state.shown.length) select(state.shown[Math.min(Math.max(place, 0), state.shown.length - 1)], true);
}

function drawDetail() {
  const row = state.selected;
  const link = plain(`${row.problem_id} · sample ${row.sample}`, make("a"));
  link.href = `#${row.link}`;
  const samples = samplesOf(row);
  $("detail").replaceChildren(
    make("h3", "", link), known(row),
    ...(row.question ? [make("h4", "", "Question"), rendered(row.question, state.source)] : []),
    ...(samples.length > 1 ? [make("h4", "", `All ${samples.length} samples`), strip(samples)] : []),
    make("h4", "", "Completion ", button(state.source ? "show formulas" : "show source", "source")),
    ...(state.sideBySide ? [grid(samples)] : [completion(row)]));
}

function known(row) {
  const found = row.completion === "" ? "" : row.extracted;
  return facts([["outcome", verdictOf(row)], ["gold answer", answer(row.answer, state.source)], ["extracted", answer(found || null, state.source)],
    ["tokens", row.tokens?.toLocaleString("en")],
    ["limit of tokens", row.max_tokens?.toLocaleString("en")],
    ["ended", row.cut === "yes" ? "cut at the limit of tokens" : row.finish_reason],
    ["subject", row.subject], ["level", row.level], ["benchmark", row.benchmark], ["reason", row.reason]]);
}

function completion(row) {
  return row.failure ? make("p", "muted", `Nothing came: ${row.failure}.`) : rendered(row.completion, state.source);
}

function strip(samples) {
  const chips = samples.map((row) => {
    const chip = make("button", "chip", `${row.sample} `, verdictOf(row), " ", answer(row.extracted, state.source));
    chip.type = "button";
    chip.setAttribute("aria-pressed", String(row === state.selected));
    chip.addEventListener("click", () => select(row, true));
    return chip;
  });
  return make("div", "strip", ...chips, button(state.sideBySide ? "one at a time" : "side by side", "sideBySide"));
}

function grid(samples) {
  const cards = samples.map((row) => make("section", `card ${row.verdict}`,
    make("h5", "", `${row.sample} `, verdictOf(row), " ", answer(row.extracted, state.source)), completion(row)));
  return make("div", "grid", ...cards);
}

function toggle(flag) {
  state[flag] = !state[flag];
  if (state.selected) drawDetail();
}

// -- start -----------------------------------------------------------------------------------------------------------

const KEYS = { j: () => step(1), k: () => step(-1), r: () => toggle("source"), s: () => toggle("sideBySide") };

// The generation that the address names, if it names one.
function linked() {
  return state.all.find((row) => `#${row.link}` === location.hash);
}

async function start() {
  state.all = rowsOf(await jsonPart("generations"));
  fill($("order"), Object.entries(ORDERS));
  fillFilters();
  $("benchmark").addEventListener("change", fillFilters);
  $("filters").addEventListener("reset", () => setTimeout(fillFilters));
  listen({ actions: KEYS, filter: applyFilters, draw: drawList, typed: 150 });
  addEventListener("hashchange", () => linked() && select(linked(), false));
  applyFilters();
  if (state.all.length) select(linked() ?? state.shown[0], false);
  if (linked()) $("detail").scrollIntoView();
}

start();
