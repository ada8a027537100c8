"use strict";
// The list of generations with its filters, and the detail of one of them.
// Whatever a model wrote reaches the page through textContent alone.

const ROW_HEIGHT = 56; // pixels; the style sheet has the same
const ORDERS = { problem: "problem", shortest: "shortest first", longest: "longest first" };
const SEARCHED = ["completion", "question", "answer", "extracted", "problem_id"];
const CHOICES = ["benchmark", "outcome", "subject", "level", "truncated", "failure"];
const $ = (id) => document.getElementById(id);
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

function fill(select, options, label) {
  const before = select.value;
  select.replaceChildren(...options.map(([key, text]) => new Option(text, key)));
  if (options.some(([key]) => key === before)) select.value = before;
  select.parentElement.hidden = options.length < 3 && label; // "all" and a single value: there is nothing to choose
}

function fillFilters() {
  const collator = new Intl.Collator("en", { numeric: true });
  for (const name of CHOICES) {
    const benchmark = name === "benchmark" ? "" : $("benchmark").value; // the others offer what it has
    const rows = state.all.filter((row) => benchmark === "" || row.benchmark === benchmark);
    const counts = new Map();
    for (const row of rows) counts.set(valueOf(row, name), (counts.get(valueOf(row, name)) ?? 0) + 1);
    counts.delete(null);
    const values = [...counts.keys()].sort(collator.compare);
    const options = values.map((key) => [key, `${inWords(key)} (${counts.get(key).toLocaleString("en")})`]);
    fill($(name), [["", "all"], ...options], true);
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
  const count = (number) => number.toLocaleString("en");
  $("count").textContent = `${count(state.shown.length)} of ${count(state.all.length)} generations`;
  $("list").scrollTop = 0;
  drawList();
}

// -- the list: only the rows in sight are in the page ------------------------------------------------------------------

function drawList() {
  const list = $("list");
  const first = Math.max(0, Math.floor(list.scrollTop / ROW_HEIGHT) - 5);
  const last = Math.min(state.shown.length, Math.ceil((list.scrollTop + list.clientHeight) / ROW_HEIGHT) + 5);
  $("rows").style.height = `${state.shown.length * ROW_HEIGHT}px`;
  $("rows").replaceChildren(...state.shown.slice(first, last).map((row, i) => listRow(row, first + i)));
  const selected = state.selected && document.getElementById(`row-${state.selected.index}`);
  selected ? list.setAttribute("aria-activedescendant", selected.id) : list.removeAttribute("aria-activedescendant");
}

function listRow(row, place) {
  const facts = [`sample ${row.sample}`];
  if (row.tokens !== null) facts.push(`${row.tokens.toLocaleString("en")} tokens`);
  if (row.cut === "yes") facts.push("cut");
  const node = make("div", "row",
    make("div", "", verdictOf(row), make("span", "muted", ` · ${facts.join(" · ")}`)),
    make("div", "", plain(`${row.problem_id} `), plain(row.question.slice(0, 120), make("span", "muted"))));
  node.id = `row-${row.index}`;
  node.setAttribute("role", "option");
  node.setAttribute("aria-selected", String(row === state.selected));
  node.setAttribute("aria-posinset", String(place + 1));
  node.setAttribute("aria-setsize", String(state.shown.length));
  node.style.top = `${place * ROW_HEIGHT}px`;
  node.addEventListener("click", () => select(row, true));
  return node;
}

function reveal(row) {
  const [list, place] = [$("list"), state.shown.indexOf(row)];
  if (place < 0) return;
  const top = place * ROW_HEIGHT;
  if (top < list.scrollTop) list.scrollTop = top;
  else if (top + ROW_HEIGHT > list.scrollTop + list.clientHeight) list.scrollTop = top + ROW_HEIGHT - list.clientHeight;
}

// -- the detail ------------------------------------------------------------------------------------------------------

function select(row, link) {
  state.selected = row;
  if (link) history.replaceState(null, "", `#${row.link}`);
  reveal(row);
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
    make("h3", "", link), facts(row),
    ...(row.question ? [make("h4", "", "Question"), rendered(row.question, state.source)] : []),
    ...(samples.length > 1 ? [make("h4", "", `All ${samples.length} samples`), strip(samples)] : []),
    make("h4", "", "Completion ", button(state.source ? "show formulas" : "show source", "source")),
    ...(state.sideBySide ? [grid(samples)] : [completion(row)]));
}

function facts(row) {
  const found = row.completion === "" ? "" : row.extracted;
  const entries = [["outcome", verdictOf(row)], ["gold answer", answer(row.answer, state.source)], ["extracted", answer(found || null, state.source)],
    ["tokens", row.tokens?.toLocaleString("en")],
    ["limit of tokens", row.max_tokens?.toLocaleString("en")],
    ["ended", row.cut === "yes" ? "cut at the limit of tokens" : row.finish_reason],
    ["subject", row.subject], ["level", row.level], ["benchmark", row.benchmark], ["reason", row.reason]];
  const list = make("dl", "facts");
  for (const [name, content] of entries) {
    if (content === null || content === undefined || content === "") continue;
    const body = typeof content === "string" ? plain(content, make("dd")) : make("dd", "", content);
    list.append(make("div", name, make("dt", "", name), body));
  }
  return list;
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

function button(label, flag) {
  const node = make("button", "toggle", label);
  node.type = "button";
  node.addEventListener("click", () => toggle(flag));
  return node;
}

function toggle(flag) {
  state[flag] = !state[flag];
  if (state.selected) drawDetail();
}

// -- start -----------------------------------------------------------------------------------------------------------

function onKey(event) {
  if (event.ctrlKey || event.metaKey || event.altKey || event.target.closest("input, select, textarea")) return;
  const actions = { j: () => step(1), k: () => step(-1), r: () => toggle("source"), s: () => toggle("sideBySide"),
    "/": () => $("text").focus() };
  if (event.target === $("list")) Object.assign(actions, { ArrowDown: actions.j, ArrowUp: actions.k });
  if (!Object.hasOwn(actions, event.key)) return;
  event.preventDefault();
  actions[event.key]();
}

// The generation that the address names, if it names one.
function linked() {
  return state.all.find((row) => `#${row.link}` === location.hash);
}

function later(action, milliseconds) {
  let timer;
  return () => {
    clearTimeout(timer);
    timer = setTimeout(action, milliseconds);
  };
}

async function start() {
  state.all = rowsOf(await jsonPart("generations"));
  fill($("order"), Object.entries(ORDERS), false);
  fillFilters();
  $("benchmark").addEventListener("change", fillFilters);
  $("filters").addEventListener("change", applyFilters);
  $("text").addEventListener("input", later(applyFilters, 150));
  $("filters").addEventListener("submit", (event) => event.preventDefault());
  $("filters").addEventListener("reset", () => setTimeout(() => [fillFilters(), applyFilters()]));
  $("list").addEventListener("scroll", drawList);
  addEventListener("resize", drawList);
  addEventListener("keydown", onKey);
  addEventListener("hashchange", () => linked() && select(linked(), false));
  applyFilters();
  if (state.all.length) select(linked() ?? state.shown[0], false);
  if (linked()) $("detail").scrollIntoView();
}

start();
