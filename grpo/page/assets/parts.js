"use strict";
// The page's data, part by part: from the page itself, from scripts that lie beside it, or from the server that is live.

const SOURCE = document.body.dataset.source; // inline, beside or live
const arriving = new Map(); // name -> what settles its promise, of parts whose script is being loaded

// Called by each script of report/.
function zeroPart(name, text) {
  arriving.get(name)?.resolve(bytesOf(text));
}

function bytesOf(text) {
  const characters = atob(text);
  const bytes = new Uint8Array(characters.length);
  for (let i = 0; i < bytes.length; i += 1) bytes[i] = characters.charCodeAt(i);
  return bytes;
}

async function bytesOfPart(name) {
  const inline = document.getElementById(`part-${name}`);
  if (inline) return bytesOf(inline.textContent);
  if (SOURCE === "live") {
    const answer = await fetch(`part/${name}`);
    if (!answer.ok) throw new Error(await answer.text());
    return new Uint8Array(await answer.arrayBuffer());
  }
  if (SOURCE === "inline") throw new Error(`the page has no part ${name}`);
  return new Promise((resolve, reject) => {
    const script = document.createElement("script");
    const settle = (done) => (value) => [arriving.delete(name), script.remove(), done(value)];
    arriving.set(name, { resolve: settle(resolve) });
    script.onerror = () => settle(reject)(
      new Error(`report/${name}.js cannot be read: the folder report/ has to lie beside the page`));
    script.src = `report/${name}.js`;
    document.head.append(script);
  });
}

async function unpacked(name) {
  const stream = new Blob([await bytesOfPart(name)]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Response(stream);
}

const kept = new Map(); // name -> promise of a part that was read lately; the oldest goes first
const KEPT = 24;

// A part of JSON. One that several ask for is read once.
function jsonPart(name) {
  if (!kept.has(name)) {
    const promise = unpacked(name).then((answer) => answer.json());
    promise.catch(() => kept.delete(name));
    kept.set(name, promise);
    if (kept.size > KEPT) kept.delete(kept.keys().next().value);
  }
  return kept.get(name);
}

const ARRAYS = { Uint8Array, Int32Array, Float32Array };

// A part of arrays (grpo/page/bundle.py): its plain data, with each array under its name.
async function arraysPart(name) {
  const buffer = await (await unpacked(name)).arrayBuffer();
  const length = new DataView(buffer).getUint32(0, true);
  const { arrays, ...plain } = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 4, length)));
  const start = Math.ceil((4 + length) / 8) * 8;
  for (const [key, type, count, offset] of arrays) plain[key] = new ARRAYS[type](buffer, start + offset, count);
  return plain;
}
