"use strict";
// Curves over whole steps, as SVG. A legend stands above its plot, never over the points; colours come from the style
// sheet. A plot can be read with the pointer, or with the arrow keys when it has the focus.

const SVG = "http://www.w3.org/2000/svg";
const PLOT = { width: 336, height: 178, left: 44, right: 8, top: 10, bottom: 150 }; // fits a phone unscaled
const MOST_POINTS = 400; // of a line; a longer one is drawn by means, with the same number of steps each

function draw(name, attributes, ...content) {
  const node = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  node.append(...content);
  return node;
}

const short = (number) => {
  if (number === 0) return "0";
  const size = Math.abs(number);
  if (size >= 1e5 || size < 1e-3) return number.toExponential(1).replace("e+", "e");
  return Number(number.toPrecision(3)).toLocaleString("en", { maximumSignificantDigits: 3 });
};
const percent = (share) => `${Number((100 * share).toPrecision(3))}%`;

// Round numbers from at most `low` to at least `high`, about `count` of them; `whole`: whole numbers.
function ticks(low, high, count, whole) {
  const raw = Math.max((high - low) / count, whole ? 1 : Number.MIN_VALUE * 1e20);
  const power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 5, 10].map((factor) => factor * power).find((one) => one >= raw * 0.999);
  const found = [];
  for (let i = Math.ceil(low / step - 1e-9); i * step <= high + step * 1e-9; i += 1) found.push(Number((i * step).toPrecision(12)));
  return found;
}

// Means of neighbours where there are more points than pixels could show.
function thinned(points) {
  if (points.length <= MOST_POINTS) return points;
  const size = Math.ceil(points.length / MOST_POINTS);
  const groups = Array.from({ length: Math.ceil(points.length / size) }, (_, i) => points.slice(i * size, (i + 1) * size));
  const mean = (group, at) => group.reduce((sum, point) => sum + point[at], 0) / group.length;
  return groups.map((group) => group[0].map((_, at) => (at === 0 ? group[Math.floor(group.length / 2)][0] : mean(group, at))));
}

// A figure. `lines`: [{name, kind, points: [[step, value] or [step, value, low, high]], dots}], `kind` a class of the
// style sheet. `options`: note, share (the axis is 0 to 100%), marks ([{step, text}]: a tick of a warning), stacked.
function plot(title, lines, options = {}) {
  const shown = lines.filter((line) => line.points.length).map((line) => ({ ...line, points: thinned(line.points) }));
  const figure = make("figure");
  figure.append(make("figcaption", "", make("b", "", title), ...(options.note ? [make("br"), options.note] : [])));
  if (!shown.length) return null;
  if (lines.length > 1) figure.append(legend(shown, options.stacked));
  const steps = shown.flatMap((line) => line.points.map((point) => point[0]));
  const axes = axesOf(steps, shown, options);
  const svg = draw("svg", { viewBox: `0 0 ${PLOT.width} ${PLOT.height}`, width: PLOT.width, role: "img",
    "aria-label": title, tabindex: 0 }, ...grid(axes, options));
  for (const line of options.stacked ? stacked(shown) : shown) svg.append(curve(line, axes));
  for (const mark of options.marks ?? []) svg.append(warningMark(mark, axes));
  figure.append(svg);
  readable(figure, svg, shown, axes, options);
  return figure;
}

function legend(lines, areas) {
  return make("p", `legend${areas ? " areas" : ""}`, ...lines.map((line) => {
    const swatch = make("b");
    swatch.setAttribute("aria-hidden", "true");
    return plain(line.name, make("span", line.kind, swatch));
  }));
}

function axesOf(steps, lines, options) {
  const [first, last] = [Math.min(...steps), Math.max(...steps)];
  const values = options.stacked ? [0, ...totals(lines)] : lines.flatMap((line) => line.points.flatMap((point) => point.slice(1)));
  let [low, high] = options.share ? [0, 1] : [Math.min(...values), Math.max(...values)];
  if (low === high) [low, high] = low === 0 ? [0, 1] : [low - Math.abs(low) / 2, high + Math.abs(high) / 2];
  if (!options.share && low > 0 && low < 0.5 * high) low = 0;
  const x = (step) => PLOT.left + (PLOT.width - PLOT.left - PLOT.right) * (last > first ? (step - first) / (last - first) : 0.5);
  const y = (value) => PLOT.bottom - (PLOT.bottom - PLOT.top) * (value - low) / (high - low);
  return { first, last, low, high, x, y };
}

function grid(axes, options) {
  const form = options.share ? percent : short;
  const across = ticks(axes.low, axes.high, 5).flatMap((value) => [
    draw("line", { class: "grid", x1: PLOT.left, x2: PLOT.width - PLOT.right, y1: axes.y(value), y2: axes.y(value) }),
    draw("text", { class: "tick", x: PLOT.left - 6, y: axes.y(value) + 4, "text-anchor": "end" }, form(value))]);
  const below = ticks(axes.first, axes.last, 5, true).map((step) =>
    draw("text", { class: "tick", x: axes.x(step), y: PLOT.bottom + 16, "text-anchor": "middle" }, step.toLocaleString("en")));
  return [...across, ...below, draw("text", { class: "tick", x: PLOT.width - PLOT.right, y: PLOT.bottom + 27,
    "text-anchor": "end" }, "step")];
}

const path = (points) => points.map(([x, y]) => `${x.toFixed(1)},${y.toFixed(1)}`).join(" ");

function curve(line, { x, y }) {
  const node = draw("g", { class: `curve ${line.kind}` });
  const banded = line.points.filter((point) => point.length > 2);
  if (banded.length) {
    const band = [...banded.map((p) => [x(p[0]), y(p[3])]), ...banded.toReversed().map((p) => [x(p[0]), y(p[2])])];
    node.append(draw("polygon", { points: path(band) }));
  }
  if (!line.area) node.append(draw("polyline", { points: path(line.points.map((p) => [x(p[0]), y(p[1])])) }));
  if (line.dots || line.points.length === 1) {
    node.append(...line.points.map((p) => draw("circle", { cx: x(p[0]), cy: y(p[1]), r: 3 })));
  }
  return node;
}

function totals(lines) {
  const sums = new Map();
  for (const line of lines) for (const [step, value] of line.points) sums.set(step, (sums.get(step) ?? 0) + value);
  return sums.values();
}

// Each line as the band between the sum of those before it and its own.
function stacked(lines) {
  const below = new Map();
  return lines.map((line) => ({ ...line, area: true, points: line.points.map(([step, value]) => {
    const from = below.get(step) ?? 0;
    below.set(step, from + value);
    return [step, from + value, from, from + value];
  }) }));
}

function warningMark({ step, text, number }, { x, first, last }) {
  const at = x(Math.min(Math.max(step, first), last));
  const title = draw("title", {});
  plain(`step ${step}: ${text}`, title);
  return draw("g", { class: "warning-mark" }, title,
    draw("line", { x1: at, x2: at, y1: PLOT.top, y2: PLOT.bottom }),
    draw("text", { x: at, y: PLOT.top - 1, "text-anchor": "middle" }, String(number)));
}

// What the curves are at a step: under the pointer, or moved with the arrow keys.
function readable(figure, svg, lines, axes, options) {
  const form = options.share ? percent : short;
  const steps = [...new Set(lines.flatMap((line) => line.points.map((point) => point[0])))].sort((a, b) => a - b);
  const said = make("p", "reading muted");
  const cursor = draw("line", { class: "cursor", y1: PLOT.top, y2: PLOT.bottom, x1: -9, x2: -9 });
  svg.append(cursor);
  let place = steps.length - 1;
  const show = (to) => {
    place = Math.min(Math.max(to, 0), steps.length - 1);
    for (const end of ["x1", "x2"]) cursor.setAttribute(end, axes.x(steps[place]));
    const values = lines.map((line) => [line, line.points.find((point) => point[0] === steps[place])]).filter(([, point]) => point);
    plain(`step ${steps[place].toLocaleString("en")}: ` + values.map(([line, point]) =>
      `${lines.length > 1 ? `${line.name} ` : ""}${form(point[1])}` +
      (point.length > 2 ? ` [${form(point[2])}, ${form(point[3])}]` : "")).join(", "), said.replaceChildren() ?? said);
  };
  svg.addEventListener("pointermove", (event) => {
    const box = svg.getBoundingClientRect();
    const at = (event.clientX - box.left) * PLOT.width / box.width;
    let nearest = 0;
    for (const [i, step] of steps.entries()) if (Math.abs(axes.x(step) - at) < Math.abs(axes.x(steps[nearest]) - at)) nearest = i;
    show(nearest);
  });
  svg.addEventListener("keydown", (event) => {
    const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!by) return;
    event.preventDefault();
    show(place + by);
  });
  show(place);
  cursor.setAttribute("x1", -9), cursor.setAttribute("x2", -9);
  figure.append(said);
}
