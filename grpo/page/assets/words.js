"use strict";
// Which completions may hold a text, by the words that they hold (grpo/page/words.py): of one word that is known, of
// several it is what is worth reading.

const WORD = /[a-z]+|[0-9]+|[^\x00-\x7f]+/g; // of text in lower case, as in words.py
const [NOT_THERE, PERHAPS, THERE] = [0, 1, 2];

let wordParts = null; // promise of all parts, once they are wanted

const loadWords = () => (wordParts ??= Promise.all((run.words ?? []).map(async ([name, first, last]) =>
  ({ ...prepared(await arraysPart(name)), rows: rowsOfSteps(first, last) }))));

function prepared({ words, bytes, places }) {
  const begin = new Int32Array(bytes.length + 1);
  for (let i = 0; i < bytes.length; i += 1) begin[i + 1] = begin[i] + bytes[i];
  return { words: bytes.length ? words.split("\n") : [], begin, places };
}

// First row and the one after the last, of these steps.
function rowsOfSteps(first, last) {
  let [from, to] = [-1, 0];
  for (let group = 0; group < index.groups; group += 1) {
    if (index.step[group] < first || index.step[group] > last) continue;
    if (from < 0) from = index.first[group];
    to = index.first[group] + index.size[group];
  }
  return [Math.max(from, 0), to];
}

// For each completion whether `text`, in lower case, is in one of its texts.
async function heldBy(text) {
  const held = new Uint8Array(index.completions).fill(PERHAPS);
  const runs = [...text.matchAll(WORD)].map((found) =>
    [found[0], found.index === 0, found.index + found[0].length === text.length]);
  if (!runs.length) return held;
  const answer = runs[0][0] === text ? THERE : PERHAPS;
  for (const part of await loadWords()) {
    const [from, to] = part.rows;
    const counts = new Uint8Array(to - from); // how many of the runs it has
    for (const [number, run] of runs.slice(0, 255).entries()) markRows(part, run, counts, number);
    const all = Math.min(runs.length, 255);
    for (let i = 0; i < counts.length; i += 1) held[from + i] = counts[i] === all ? answer : NOT_THERE;
  }
  return held;
}

// Add one to `counts` of each completion that has all runs before, `number` of them, and this one. A run at an end of
// the text may be a part of a longer word.
function markRows({ words, begin, places }, [run, open, ends], counts, number) {
  for (let w = 0; w < words.length; w += 1) {
    const word = words[w];
    if (open ? (ends ? !word.includes(run) : !word.endsWith(run)) : ends ? !word.startsWith(run) : word !== run) continue;
    let row = 0;
    for (let at = begin[w]; at < begin[w + 1]; at += 1) {
      let step = places[at] & 127;
      for (let shift = 7; places[at] > 127; shift += 7) step |= (places[at += 1] & 127) << shift;
      row += step;
      if (counts[row] === number) counts[row] = number + 1;
    }
  }
}
