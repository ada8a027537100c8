"use strict";
// Which groups are listed: filters over the index at once, over the texts as their parts are read.

const ORDERS = { last: "last step first", first: "first step first", best: "highest reward first",
  worst: "lowest reward first", longest: "longest first", shortest: "shortest first", spread: "most contrast first" };
const FLAGS = { cut: "cut at the limit", ended: "not cut", trained: "trained on", untrained: "not trained on", dropped: "dropped" };
const CONTRASTS = { mixed: "with contrast", alike: "all rewards alike" };
const AT_ONCE = 4; // parts that are read at a time while texts are searched

const shown = { groups: new Int32Array(0), matches: new Uint8Array(0), completions: 0, selected: -1, search: 0 };

const numberOf = (id) => ($(id).value === "" ? null : Number($(id).value));

function fillFilters() {
  const counts = new Array(OUTCOMES.length).fill(0);
  for (const outcome of index.outcome) counts[outcome] += 1;
  const outcomes = OUTCOMES.map((name, i) => [name, `${inWords(name)} (${counted(counts[i])})`])
    .filter((_, i) => counts[i]);
  fill($("outcome"), [["", "all"], ...outcomes]);
  fill($("flag"), [["", "all"], ...Object.entries(FLAGS)]);
  fill($("contrast"), [["", "all"], ...Object.entries(CONTRASTS)]);
  fill($("order"), Object.entries(ORDERS));
}

// Whether a completion is wanted, as a function of its row: what is not asked for costs nothing.
function wantedRows() {
  const checks = [];
  const outcome = OUTCOMES.indexOf($("outcome").value);
  if (outcome >= 0) checks.push((row) => index.outcome[row] === outcome);
  const between = (array, low, high) => {
    if (low !== null) checks.push((row) => array[row] >= low);
    if (high !== null) checks.push((row) => array[row] <= high);
  };
  between(index.tokens, numberOf("tokens-from"), numberOf("tokens-to"));
  const margin = (bound, sign) => (bound === null ? null : bound + sign * 1e-6 * Math.max(1, Math.abs(bound))); // float32
  between(index.reward, margin(numberOf("reward-from"), -1), margin(numberOf("reward-to"), 1));
  const flags = index.flags;
  const asked = { cut: (row) => flags[row] & CUT, ended: (row) => !(flags[row] & CUT), dropped: (row) => flags[row] & DROPPED,
    trained: (row) => !(flags[row] & (UNTRAINED | DROPPED)), untrained: (row) => flags[row] & (UNTRAINED | DROPPED) };
  if ($("flag").value) checks.push(asked[$("flag").value]);
  if (checks.length === 0) return null;
  return (row) => checks.every((check) => check(row));
}

function wantedGroups() {
  const checks = [];
  const [from, to] = [numberOf("step-from"), numberOf("step-to")];
  if (from !== null) checks.push((group) => index.step[group] >= from);
  if (to !== null) checks.push((group) => index.step[group] <= to);
  const part = $("problem").value.toLowerCase();
  if (part) {
    const named = Uint8Array.from(index.prompts, (id) => id.toLowerCase().includes(part));
    checks.push((group) => named[index.prompt[group]]);
  }
  const contrast = $("contrast").value;
  if (contrast) checks.push((group) => (spreadOf(group) === 0) === (contrast === "alike"));
  return (group) => checks.every((check) => check(group));
}

function rewardsOf(group) {
  const end = index.first[group] + index.size[group];
  return index.reward.subarray(index.first[group], end).filter((reward) => !Number.isNaN(reward));
}

const meanOf = (array) => (array.length ? array.reduce((sum, one) => sum + one, 0) / array.length : NaN);
const spreadOf = (group) => {
  const rewards = rewardsOf(group);
  return rewards.length ? Math.max(...rewards) - Math.min(...rewards) : 0;
};

// Sets shown.groups and shown.matches; what the texts hold comes later, as it is read.
function applyFilters() {
  const [row, group] = [wantedRows(), wantedGroups()];
  const matches = new Uint8Array(index.completions);
  const groups = [];
  let completions = 0;
  for (let g = 0; g < index.groups; g += 1) {
    if (!group(g)) continue;
    const [first, end] = [index.first[g], index.first[g] + index.size[g]];
    let found = 0;
    if (!row) found = end - first, matches.fill(1, first, end);
    else for (let i = first; i < end; i += 1) if (row(i)) matches[i] = 1, found += 1;
    if (!found) continue;
    groups.push(g);
    completions += found;
  }
  Object.assign(shown, { groups: ordered(groups), matches, completions });
  shown.search += 1; // ends a search that is going on
  if ($("text").value) shown.searching = searchTexts($("text").value.toLowerCase(), shown.search);
  else say();
  $("list").scrollTop = 0;
  drawList();
}

function ordered(groups) {
  const order = $("order").value || "last";
  const found = Int32Array.from(groups);
  if (order === "first") return found;
  if (order === "last") return lastStepFirst(found);
  const longest = (g) => index.tokens.subarray(index.first[g], index.first[g] + index.size[g]).reduce((a, b) => Math.max(a, b), 0);
  const shortest = (g) => -index.tokens.subarray(index.first[g], index.first[g] + index.size[g]).reduce((a, b) => Math.min(a, b), 1e9);
  const key = { best: (g) => meanOf(rewardsOf(g)), worst: (g) => -meanOf(rewardsOf(g)), longest, shortest, spread: spreadOf }[order];
  const keys = new Float64Array(index.groups);
  for (const g of found) {
    const value = key(g);
    keys[g] = Number.isNaN(value) ? -Infinity : value; // what was not scored comes last
  }
  return found.sort((a, b) => keys[b] - keys[a] || a - b);
}

// Steps backwards, the groups of one in their order.
function lastStepFirst(groups) {
  const found = new Int32Array(groups.length);
  let [at, end] = [0, groups.length];
  while (end > 0) {
    let start = end - 1;
    while (start > 0 && index.step[groups[start - 1]] === index.step[groups[end - 1]]) start -= 1;
    found.set(groups.subarray(start, end), at);
    at += end - start;
    end = start;
  }
  return found;
}

function say(more = "") {
  $("count").textContent = `${counted(shown.completions)} of ${counted(index.completions)} completions, in ` +
    `${counted(shown.groups.length)} of ${counted(index.groups)} groups${more}`;
}

// Of the groups that the other filters leave, those in whose texts `text` is. Where the words do not settle it the texts
// are read, and groups appear as they are found.
async function searchTexts(text, search) {
  const [among, before] = [shown.groups, shown.matches];
  const found = new Set();
  Object.assign(shown, { groups: new Int32Array(0), matches: new Uint8Array(index.completions), completions: 0 });
  let [next, read, failed] = [0, 0, ""];
  say(", reading the texts …");
  const held = await heldBy(text).catch((error) => [(failed = `; ${error.message}`), new Uint8Array(index.completions).fill(PERHAPS)][1]);
  if (shown.search !== search) return;
  const runs = chunkRuns(among.filter((group) => matchHeld(group, held, before, found)));
  const one = async () => {
    while (next < runs.length && shown.search === search) {
      const run = runs[next];
      next += 1;
      try {
        const texts = await jsonPart(partName("texts", run[0]));
        if (shown.search !== search) return;
        for (const group of run) if (matchTexts(group, texts[placeInChunk(group)], text, before)) found.add(group);
      } catch (error) {
        failed = `; ${error.message}`;
      }
      read += 1;
      later(() => shown.search === search && read < runs.length && showFound(found, among, `, ${Math.round(100 * read / runs.length)}% of the texts read${failed}`));
    }
  };
  await Promise.all(Array.from({ length: AT_ONCE }, one));
  if (shown.search === search) showFound(found, among, failed);
}

// Mark what the words settle; returns whether the group's texts have to be read.
function matchHeld(group, held, before, found) {
  let open = false;
  for (let row = index.first[group]; row < index.first[group] + index.size[group]; row += 1) {
    if (!before[row] || held[row] === NOT_THERE) continue;
    if (held[row] === PERHAPS) open = true;
    else shown.matches[row] = 1, shown.completions += 1, found.add(group);
  }
  return open;
}

// Groups that follow each other and have their texts in one part.
function chunkRuns(groups) {
  const runs = new Map();
  for (const group of groups) {
    const name = partName("texts", group);
    runs.has(name) ? runs.get(name).push(group) : runs.set(name, [group]);
  }
  return [...runs.values()];
}

function matchTexts(group, texts, text, before) {
  const has = (one) => typeof one === "string" && one.toLowerCase().includes(text);
  const all = has(texts.prompt) || has(texts.answer) || has(texts.prompt_id);
  let found = 0;
  for (const [i, row] of texts.rows.entries()) {
    const at = index.first[group] + i;
    if (!before[at] || !(all || has(row.completion) || has(row.extracted) || has(row.reason))) continue;
    shown.matches[at] = 1;
    found += 1;
  }
  shown.completions += found;
  return found > 0;
}

let waiting = false;
function later(action) { // at most ten times a second, however many parts arrive
  if (waiting) return;
  waiting = true;
  setTimeout(() => [(waiting = false), action()], 100);
}

function showFound(found, among, more) {
  shown.groups = among.filter((group) => found.has(group));
  say(more);
  drawList();
}

// -- the list ----------------------------------------------------------------------------------------------------------

function drawList() {
  drawRows(shown.groups.length, (place) => listRow(shown.groups[place]), `group-${shown.selected}`);
}

function listRow(group) {
  const mean = meanOf(rewardsOf(group));
  const node = make("div", "row",
    make("div", "", make("b", "", `step ${counted(index.step[group])} `),
      plain(promptOf(group).slice(0, 120), make("span", "muted"))),
    make("div", "", strip(group), make("span", "muted", Number.isNaN(mean) ? " not scored" : ` reward ${short(mean)}`)));
  node.id = `group-${group}`;
  node.addEventListener("click", () => select(group, true));
  return node;
}

// A mark for each completion of a group, and how many of each outcome in words.
function strip(group) {
  const rows = rowsOf(group);
  const marks = rows.slice(0, 32).map((row) => make("span", `mark ${outcomeOf(row)}${shown.matches[row] ? "" : " other"}`, MARKS[outcomeOf(row)]));
  const node = make("span", "marks", ...marks, rows.length > 32 ? ` +${rows.length - 32}` : "");
  const counts = OUTCOMES.map((name) => [name, rows.filter((row) => outcomeOf(row) === name).length]).filter(([, n]) => n);
  node.setAttribute("role", "img");
  node.setAttribute("aria-label", counts.map(([name, n]) => `${n} ${inWords(name)}`).join(", "));
  return node;
}
