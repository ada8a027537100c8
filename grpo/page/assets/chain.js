"use strict";
// The stages of a chain that is followed; each links to the page of its run.

const byId = (id) => document.getElementById(id);
let version = "";

function row(stage) {
  const link = plain(stage.name, make("a"));
  link.href = `stages/${encodeURIComponent(stage.name)}/`;
  const head = make("th", "", link);
  head.scope = "row";
  const cells = { kind: stage.kind, from: stage.model, state: stage.status === "waiting" ? "not yet begun" : stage.status,
    "what it did": [stage.facts, stage.now].filter(Boolean).join(" · ") };
  const node = make("tr", "", head);
  for (const [name, text] of Object.entries(cells)) {
    const cell = plain(text || "-", make("td"));
    cell.dataset.name = name;
    node.append(cell);
  }
  return node;
}

async function poll() {
  const answer = await fetch(`state?${new URLSearchParams({ seen: version })}`);
  if (!answer.ok) throw new Error(await answer.text());
  const state = await answer.json();
  if (!state.chain) return location.reload();
  byId("status").replaceChildren();
  if (state.unchanged) return;
  version = state.version;
  document.title = state.title;
  plain(state.title, byId("title").replaceChildren() ?? byId("title"));
  plain(state.facts, byId("facts").replaceChildren() ?? byId("facts"));
  byId("stages").replaceChildren(...state.stages.map(row));
}

async function follow() {
  for (;;) {
    await poll().catch((error) => plain(`no answer from zero watch (${error.message}); asking again`,
      byId("status").replaceChildren() ?? byId("status")));
    await new Promise((resolve) => setTimeout(resolve, document.hidden ? 5000 : 1000));
  }
}

follow();
