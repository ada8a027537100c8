"use strict";
// Several runs on one page. A run has one colour and one dash in every plot.

const byId = (id) => document.getElementById(id);
const CURVES = [["Training reward", "reward"], ["Accuracy in training", "accuracy"], ["Completion length", "length", "tokens, mean"],
  ["Entropy", "entropy", "nats"], ["Loss", "loss", "nats"], ["Held-out loss", "heldout_loss", "nats"],
  ["Gradient norm", "grad_norm"], ["Seconds a step", "seconds"]];
const SHADES = 8;

function overlaid(runs, title, note, pointsOf, options) {
  const lines = runs.map((run, i) => ({ name: run.name, kind: `line${i % SHADES}`, ...pointsOf(run) }));
  return plot(title, lines, { note, ...options });
}

function held(run) {
  return { dots: true, points: run.evaluations.map((row) => [row.step, row.accuracy, row.low, row.high]) };
}

const metric = (key) => (run) => ({ points: run.steps.filter((row) => typeof row[key] === "number").map((row) => [row.step, row[key]]) });

function runRow(run, i) {
  const swatch = make("span", `legend-mark line${i % SHADES}`);
  const name = run.report ? plain(run.name, make("a")) : plain(run.name);
  if (run.report) name.href = run.report.split("/").map(encodeURIComponent).join("/");
  const head = make("th", "", swatch, name);
  head.scope = "row";
  return make("tr", "", head, named("what it did", plain(run.facts)));
}

function named(name, content) {
  const cell = make("td", "", content);
  cell.dataset.name = name;
  return cell;
}

// The interval on an axis that all pairs share, with 0 in its middle.
function intervalBar({ value, low, high }, most) {
  const x = (share) => 100 + 96 * share / most;
  const clear = low > 0 || high < 0;
  return draw("svg", { viewBox: "0 0 200 20", width: 200, role: "img", "aria-label": `${short(100 * value)} points` },
    draw("line", { class: "grid", x1: 100, x2: 100, y1: 0, y2: 20 }),
    draw("g", { class: `difference${clear ? "" : " unclear"}` },
      draw("rect", { x: x(low), y: 7, width: Math.max(x(high) - x(low), 1), height: 6, rx: 3 }),
      draw("circle", { cx: x(value), cy: 10, r: 4 })));
}

function pairRow(pair, most) {
  const head = plain(`${pair.b} − ${pair.a}`, make("th"));
  head.scope = "row";
  return make("tr", "", head, named("difference", intervalBar(pair, most)), named("points", plain(pair.text)));
}

function recipeTable(runs, differences) {
  const head = make("tr", "", make("th", "", "key"), ...runs.map((run) => plain(run.name, make("th"))));
  const rows = differences.map(([key, values]) => make("tr", "", plain(key, make("th")), ...values.map((value) => plain(value, make("td")))));
  if (!rows.length) return [make("tbody", "", make("tr", "", make("td", "", "The recipes are the same.")))];
  return [make("thead", "", head), make("tbody", "", ...rows)];
}

async function start() {
  const { runs, differences, pairs } = await jsonPart("state");
  byId("runs").replaceChildren(...runs.map(runRow));
  const figures = [overlaid(runs, "Held-out accuracy", "with 95% intervals", held, { share: true }),
    ...CURVES.map(([title, key, note]) => overlaid(runs, title, note ?? "", metric(key), { share: key === "accuracy" }))];
  byId("curves").replaceChildren(...figures.filter(Boolean));
  const most = Math.max(0.01, ...pairs.flatMap((pair) => [Math.abs(pair.low), Math.abs(pair.high)]));
  byId("pairs").replaceChildren(...pairs.map((pair) => pairRow(pair, most)));
  if (!pairs.length) byId("pairs").append(make("tr", "", make("td", "", "Fewer than two runs have an evaluation.")));
  byId("recipes").replaceChildren(...recipeTable(runs, differences));
}

start().catch((error) => plain(`The page cannot be shown: ${error.message}`, byId("status")));
