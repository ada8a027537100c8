"use strict";
// What both browsers have, that of a run's completions and that of an evaluation's generations: a form of filters, a
// list of which only the rows in sight are in the page, facts of what is looked at, and keys.

const ROW_HEIGHT = 56; // pixels; the style sheet has the same
const MOST_HEIGHT = 8e6; // pixels that browsers can scroll; beyond, a pixel of the bar is more than one of the list

const $ = (id) => document.getElementById(id);
const counted = (number) => number.toLocaleString("en");

function fill(select, options) {
  const before = select.value;
  select.replaceChildren(...options.map(([key, text]) => new Option(text, key)));
  if (options.some(([key]) => key === before)) select.value = before;
}

// Call once nothing has asked for it again for so long.
function whenQuiet(action, milliseconds) {
  let timer;
  return () => {
    clearTimeout(timer);
    timer = setTimeout(action, milliseconds);
  };
}

// -- the list ----------------------------------------------------------------------------------------------------------

// Draw those of `length` rows that are in sight. `rowOf` makes the one at a place, with an id; `selected` is one of them.
function drawRows(length, rowOf, selected) {
  const list = $("list");
  const whole = length * ROW_HEIGHT;
  const height = Math.min(whole, MOST_HEIGHT);
  const scale = height > list.clientHeight ? (whole - list.clientHeight) / (height - list.clientHeight) : 1;
  const top = list.scrollTop * scale;
  const first = Math.max(0, Math.floor(top / ROW_HEIGHT) - 5);
  const last = Math.min(length, Math.ceil((top + list.clientHeight) / ROW_HEIGHT) + 5);
  $("rows").style.height = `${height}px`;
  const offset = list.scrollTop - top;
  $("rows").replaceChildren(...Array.from({ length: Math.max(last - first, 0) }, (_, i) => {
    const node = rowOf(first + i);
    node.setAttribute("role", "option");
    node.setAttribute("aria-selected", String(node.id === selected));
    node.setAttribute("aria-posinset", String(first + i + 1));
    node.setAttribute("aria-setsize", String(length));
    node.style.top = `${(first + i) * ROW_HEIGHT + offset}px`;
    return node;
  }));
  list.scale = scale;
  $(selected) ? list.setAttribute("aria-activedescendant", selected) : list.removeAttribute("aria-activedescendant");
}

// Scroll so far that the row at a place is in sight; -1 is none.
function revealPlace(place) {
  const list = $("list");
  if (place < 0) return;
  const [scale, top] = [list.scale ?? 1, place * ROW_HEIGHT];
  const seen = list.scrollTop * scale;
  if (top < seen) list.scrollTop = top / scale;
  else if (top + ROW_HEIGHT > seen + list.clientHeight) list.scrollTop = (top + ROW_HEIGHT - list.clientHeight) / scale;
}

// -- what is looked at -------------------------------------------------------------------------------------------------

// Names with what is known of each: a text, or an element; what is not known is left out.
function facts(entries) {
  const list = make("dl", "facts");
  for (const [name, content] of entries) {
    if (content === null || content === undefined || content === "") continue;
    const body = typeof content === "string" ? plain(brief(content), make("dd")) : make("dd", "", content);
    list.append(make("div", name === "reason" ? "reason" : "", plain(brief(name), make("dt")), body));
  }
  return list;
}

// A button; `toggle(flag)` is of the page.
function button(label, flag) {
  const node = make("button", "toggle", label);
  node.type = "button";
  node.addEventListener("click", () => toggle(flag));
  return node;
}

// -- listening ---------------------------------------------------------------------------------------------------------

// `actions`: of a key; j and k also are the arrows in the list, / goes to the search.
function listen({ actions, filter, draw, typed }) {
  $("filters").addEventListener("change", filter);
  $("filters").addEventListener("input", whenQuiet(filter, typed));
  $("filters").addEventListener("submit", (event) => event.preventDefault());
  $("filters").addEventListener("reset", () => setTimeout(filter));
  $("list").addEventListener("scroll", draw);
  addEventListener("resize", draw);
  addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.target.closest("input, select, textarea, svg")) return;
    const arrows = event.target === $("list") ? { ArrowDown: actions.j, ArrowUp: actions.k } : {};
    const known = { ...actions, ...arrows, "/": () => $("text").focus() };
    if (!Object.hasOwn(known, event.key)) return;
    event.preventDefault();
    known[event.key]();
  });
}
