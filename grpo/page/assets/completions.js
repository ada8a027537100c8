"use strict";
// The index of all completions (grpo/page/index.py), and their texts where a group is looked at.
// Names end in what an array has an entry for: G a group, N a completion.

const OUTCOMES = ["correct", "wrong", "no_answer", "malformed", "timeout", "error", "not_graded"];
const [CUT, DROPPED, UNTRAINED] = [1, 2, 4];
const NUMBERS = { number: [Int32Array, "G"], size: [Int32Array, "G"], outcome: [Uint8Array, "N"], flags: [Uint8Array, "N"],
  reward: [Float32Array, "N"], advantage: [Float32Array, "N"], tokens: [Int32Array, "N"] };

const index = emptyIndex();

function emptyIndex() {
  const arrays = Object.fromEntries(Object.entries(NUMBERS).map(([name, [type]]) => [name, new type(0)]));
  return { ...arrays, step: new Int32Array(0), place: new Int32Array(0), chunk: new Int32Array(0),
    prompt: new Int32Array(0), first: new Int32Array(0), prompts: [], known: new Map(), groups: 0, completions: 0 };
}

function joined(type, one, other) {
  const all = new type(one.length + other.length);
  all.set(one);
  all.set(other, one.length);
  return all;
}

// Put parts of arrays after what the index has; steps come in order.
function addToIndex(part) {
  const groups = part.prompt.length;
  const own = { step: new Int32Array(groups), place: new Int32Array(groups), chunk: new Int32Array(groups) };
  let at = 0;
  for (const [step, count, chunks] of part.steps) {
    for (let i = 0; i < count; i += 1, at += 1) {
      own.step[at] = step;
      own.place[at] = i;
      own.chunk[at] = Math.floor(i * chunks / count);
    }
  }
  const numbers = part.prompts.map((id) => {
    if (!index.known.has(id)) index.known.set(id, index.prompts.push(id) - 1);
    return index.known.get(id);
  });
  own.prompt = part.prompt.map((number) => numbers[number]);
  own.first = new Int32Array(groups);
  let first = index.completions;
  for (let i = 0; i < groups; i += 1) {
    own.first[i] = first;
    first += part.size[i];
  }
  for (const [name, array] of Object.entries(own)) index[name] = joined(Int32Array, index[name], array);
  for (const [name, [type]] of Object.entries(NUMBERS)) index[name] = joined(type, index[name], part[name]);
  index.groups += groups;
  index.completions = first;
}

function clearIndex() {
  Object.assign(index, emptyIndex());
}

const rowsOf = (group) => Array.from({ length: index.size[group] }, (_, i) => index.first[group] + i);
const outcomeOf = (row) => OUTCOMES[index.outcome[row]];
const promptOf = (group) => index.prompts[index.prompt[group]];
const linkOf = (group) => `#step=${index.step[group]}&group=${index.place[group]}`;

const groupsOfPrompt = (prompt) => {
  const found = [];
  for (let group = 0; group < index.groups; group += 1) if (index.prompt[group] === prompt) found.push(group);
  return found;
};

// The group that a link names; -1 if it names none.
function groupOfLink(hash) {
  const [, step, place] = /^#step=(\d+)&group=(\d+)$/.exec(hash) ?? [];
  if (step === undefined) return -1;
  let [low, high] = [0, index.groups]; // groups stand in the order of their steps
  while (low < high) {
    const middle = (low + high) >> 1;
    if (index.step[middle] < Number(step)) low = middle + 1;
    else high = middle;
  }
  const group = low + Number(place);
  return group < index.groups && index.step[group] === Number(step) ? group : -1;
}

const partName = (kind, group) =>
  `${kind}-${String(index.step[group]).padStart(6, "0")}-${String(index.chunk[group]).padStart(3, "0")}`;

// The place of a group among those of its chunk.
function placeInChunk(group) {
  let place = 0;
  while (place < index.place[group] && index.chunk[group - place - 1] === index.chunk[group]) place += 1;
  return place;
}

const textsOf = async (group) => (await jsonPart(partName("texts", group)))[placeInChunk(group)];
const tokensOf = async (group) => (await jsonPart(partName("tokens", group)))[placeInChunk(group)];
