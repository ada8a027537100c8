"use strict";
// One group: its prompt, its completions side by side, what each was paid; and its problem through the run.

const view = { source: false, tokens: false, time: false };
let drawing = 0; // the latest drawing; one whose texts come too late is dropped

function select(group, link) {
  shown.selected = group;
  if (link) history.replaceState(null, "", linkOf(group));
  revealPlace(shown.groups.indexOf(group));
  drawList();
  return drawDetail();
}

function step(by) {
  if (!shown.groups.length) return;
  const place = shown.groups.indexOf(shown.selected) + by;
  select(shown.groups[Math.min(Math.max(place, 0), shown.groups.length - 1)], true);
}

async function drawDetail() {
  const group = shown.selected;
  const number = (drawing += 1);
  if (group < 0) return $("detail").replaceChildren();
  let content;
  try {
    content = view.time ? await throughTime(group) : await groupDetail(group);
  } catch (error) {
    content = [plain(`This group cannot be shown: ${error.message}`, make("p", "warning"))];
  }
  if (number === drawing) $("detail").replaceChildren(heading(group), ...content);
}

function heading(group) {
  const link = plain(`step ${index.step[group]} · group ${index.number[group]} · ${brief(promptOf(group))}`, make("a"));
  link.href = linkOf(group);
  const buttons = [button(view.time ? "this group" : "through time ( t )", "time"),
    button(view.source ? "show formulas ( r )" : "show source ( r )", "source"),
    button(view.tokens ? "hide tokens ( p )" : "tokens ( p )", "tokens")];
  return make("div", "", make("h3", "", link), make("p", "buttons", ...buttons));
}

function toggle(flag) {
  view[flag] = !view[flag];
  drawDetail();
}

async function groupDetail(group) {
  const texts = await textsOf(group);
  const tokens = view.tokens ? await tokensOf(group) : null;
  const vocabulary = view.tokens ? await jsonPart("vocabulary") : null;
  const cards = texts.rows.map((row, i) => card(group, i, row, tokens?.[i], vocabulary));
  const several = new Set(index.flags.subarray(index.first[group], index.first[group] + index.size[group])).size;
  const note = several === 1 && index.flags[index.first[group]] & DROPPED
    ? [make("p", "muted", "The group had no contrast: it was dropped, and another one was sampled in its place.")] : [];
  return [...shared(texts), ...note, ...(view.tokens ? [tokenLegend()] : []),
    make("h4", "", `${texts.rows.length} completion${texts.rows.length === 1 ? "" : "s"}`), make("div", "grid", ...cards)];
}

function shared(texts) {
  const entries = [["gold answer", answer(texts.answer, view.source)]];
  const more = Object.entries(typeof texts.columns === "object" && texts.columns ? texts.columns : {});
  return [make("h4", "", "Prompt"), rendered(texts.prompt ?? "", view.source), facts(entries),
    ...(more.length ? [folded("Columns", facts(more.map(([name, value]) => [name, asText(value)])))] : [])];
}

const asText = (value) => (typeof value === "string" ? value : JSON.stringify(value));

function folded(summary, ...content) {
  return make("details", "", make("summary", "", summary), ...content);
}

function card(group, i, row, tokens, vocabulary) {
  const at = index.first[group] + i;
  const outcome = outcomeOf(at);
  const parts = Object.entries(row.rewards ?? {}).map(([name, value]) => [name, value === null ? "does not apply" : short(value)]);
  const logged = Object.entries(row.extra ?? {}).map(([name, value]) => [name, asText(value)]);
  const versions = row.versions && (row.versions[0] === row.versions[1] ? `${row.versions[0]}` : row.versions.join(" to "));
  const node = make("section", `card ${outcome}${shown.matches[at] ? "" : " other"}`,
    make("h5", "", `${i + 1} `, verdict(outcome), " ", answer(row.extracted, view.source)),
    facts([["reward", row.reward === null ? "not scored" : short(row.reward)], ...(parts.length > 1 || parts[0]?.[1] !== short(row.reward ?? 0) ? parts : []),
      ["advantage", row.advantage === null ? "not trained on" : short(row.advantage)],
      ["tokens", index.tokens[at].toLocaleString("en") + (index.flags[at] & CUT ? ", cut" : "")], ["weights", versions],
      ["reason", row.reason], ...logged]),
    tokens ? tokenText(tokens, vocabulary, row) : rendered(row.completion ?? "", view.source));
  node.tabIndex = 0;
  return node;
}

// -- tokens: how likely each was ----------------------------------------------------------------------------------------

const LIKELY = [0.9, 0.5, 0.1, 0.01]; // probabilities between which the shades change
const shadeOf = (logprob) => LIKELY.filter((bound) => Math.exp(logprob) < bound).length;
const SHOWN_TOKENS = 8000;

function tokenLegend() {
  const names = ["over 90%", "50% to 90%", "10% to 50%", "1% to 10%", "under 1%"];
  return make("p", "legend", "Probability when sampled:", ...names.map((name, i) => make("span", `token shade${i}`, name)),
    make("span", "token untrained", "not trained on"));
}

// The tokens one after the other; a character that several make is shown with the last of them.
function tokenText({ ids, logprobs, versions, trained }, vocabulary, row) {
  const decoder = new TextDecoder();
  const node = make("div", "text tokens");
  for (const [i, id] of ids.slice(0, SHOWN_TOKENS).entries()) {
    const bytes = vocabulary[id];
    const text = bytes === undefined ? `⟨${id}⟩` : decoder.decode(Uint8Array.from(bytes, (one) => one.charCodeAt(0)), { stream: true });
    const used = trained ? trained[i] : row.advantage !== null;
    const token = plain(text, make("span", `token shade${shadeOf(logprobs[i] ?? 0)}${used ? "" : " untrained"}`));
    token.title = `token ${id}, probability ${percent(Math.exp(logprobs[i] ?? NaN))}` +
      (versions ? `, weights ${versions[i]}` : "") + (used ? "" : ", not trained on");
    node.append(token);
  }
  if (ids.length > SHOWN_TOKENS) node.append(make("p", "muted", `and ${(ids.length - SHOWN_TOKENS).toLocaleString("en")} more tokens`));
  return node;
}

// -- one problem through the run ------------------------------------------------------------------------------------------

const MOST_VISITS = 200;

async function throughTime(group) {
  const visits = groupsOfPrompt(index.prompt[group]);
  const lines = visits.slice(0, MOST_VISITS).map((visit) => {
    const go = make("button", "chip", `step ${counted(index.step[visit])} `, strip(visit), ` reward ${short(meanOf(rewardsOf(visit)))}`);
    go.type = "button";
    go.setAttribute("aria-pressed", String(visit === group));
    go.addEventListener("click", () => [(view.time = false), select(visit, true)]);
    return make("li", "", go);
  });
  const [first, last] = await Promise.all([textsOf(visits[0]), textsOf(visits.at(-1))]);
  const both = visits.length > 1 ? [[visits[0], first, "before"], [visits.at(-1), last, "now"]] : [[visits[0], first, "its only visit"]];
  const sides = both.map(([visit, texts, when]) => make("div", "side",
    make("h4", "", `step ${counted(index.step[visit])}, ${when}`),
    ...texts.rows.slice(0, 4).map((row, i) => card(visit, i, row))));
  return [...shared(first), make("h4", "", `Asked ${visits.length === 1 ? "once" : `${visits.length.toLocaleString("en")} times`}`),
    make("ol", "visits", ...lines), make("div", "grid sides", ...sides)];
}
