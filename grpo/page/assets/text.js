"use strict";
// What a model wrote, as elements of the page: through textContent alone, its hidden characters by their names, its
// mathematics by KaTeX as MathML.

const MARKS = { correct: "✓", wrong: "✗", no_answer: "∅", malformed: "≠", timeout: "◷", error: "!", failed: "…",
  not_graded: "·" };
// A dollar opens mathematics only where pandoc says so: "$5 and $10" is money. Lengths are bounded, so that a text of
// nothing but openings takes no quadratic time.
const MATH = new RegExp([
  String.raw`(?<!\\)\$\$(?<dollars>[^]{1,3000}?)\$\$`,
  String.raw`\\\[(?<bracket>[^]{1,3000}?)\\\]`,
  String.raw`\\\((?<parenthesis>[^]{1,3000}?)\\\)`,
  String.raw`(?<!\\)\$(?!\s)(?<dollar>(?:\\[^]|[^$\\\n]|\n(?!\n)){1,3000}?)(?<!\s)\$(?!\d)`,
  String.raw`(?<environment>\\begin\{(?<name>[a-z]{1,12}\*?)\}[^]{1,3000}?\\end\{\k<name>\})`,
  String.raw`(?<boxed>\\boxed\{(?:[^{}]|\{(?:[^{}]|\{[^{}]{0,200}\}){0,200}\}){0,400}\})`,
].join("|"), "g");
// What would be invisible or would reorder the text around it: control, zero-width, direction, filler and tag
// characters, and halves of pairs.
const HIDDEN = new RegExp("([\\u0000-\\u0008\\u000b-\\u001f\\u007f-\\u009f\\u00ad\\u034f\\u061c\\u115f\\u1160\\u17b4\\u17b5" +
  "\\u180e\\u200b-\\u200f\\u2028-\\u202e\\u2060-\\u206f\\u3164\\ufeff\\uffa0\\ufff9-\\ufffb\\ud800-\\udfff\\u{e0000}-\\u{e007f}])",
"u");
const TAG = /(<\/?(?:think|answer)>)/;
const LONGEST = 20000; // characters of a text that are shown at once

function make(name, classes, ...content) {
  const node = document.createElement(name);
  if (classes) node.className = classes;
  node.append(...content);
  return node;
}

const inWords = (name) => String(name).replaceAll("_", " ");

function verdict(outcome, text) {
  return make("span", `verdict ${outcome}`, make("b", "mark", MARKS[outcome]), text ?? inWords(outcome));
}

// Text with its hidden characters made visible, put into `parent`.
function plain(text, parent = make("span")) {
  for (const [index, part] of text.split(HIDDEN).entries()) {
    if (index % 2 === 0) parent.append(part);
    else {
      const code = part.codePointAt(0).toString(16).toUpperCase().padStart(4, "0");
      parent.append(make("span", "hidden-character", `U+${code}`));
    }
  }
  return parent;
}

function prose(text, parent) {
  for (const part of text.split(TAG)) {
    const at = TAG.test(part) ? parent.appendChild(make("span", "tag")) : parent;
    plain(part, at);
  }
}

// Where A and a stand in Unicode, and the letters that stand elsewhere: browsers no longer know `mathvariant`.
const VARIANTS = {
  "double-struck": [0x1d538, 0x1d552, { C: "ℂ", H: "ℍ", N: "ℕ", P: "ℙ", Q: "ℚ", R: "ℝ", Z: "ℤ" }],
  script: [0x1d49c, 0x1d4b6, { B: "ℬ", E: "ℰ", F: "ℱ", H: "ℋ", I: "ℐ", L: "ℒ", M: "ℳ", R: "ℛ", e: "ℯ", g: "ℊ", o: "ℴ" }],
  fraktur: [0x1d504, 0x1d51e, { C: "ℭ", H: "ℌ", I: "ℑ", R: "ℜ", Z: "ℨ" }],
};

function inVariant(node) {
  const [upper, lower, others] = VARIANTS[node.getAttribute("mathvariant")] ?? [];
  if (!upper) return node.textContent;
  return node.textContent.replace(/[A-Za-z]/g, (letter) => others[letter] ??
    String.fromCodePoint(letter < "a" ? upper + letter.charCodeAt(0) - 65 : lower + letter.charCodeAt(0) - 97));
}

const REFUSED = "#cc0000"; // KaTeX's colour of what it does not do, such as links

// A formula as MathML; null where KaTeX does not understand all of it, or nothing of it could be seen.
function mathOf(source, display) {
  const tries = [[source, display || /^\s*\\begin\{(align|gather|equation|alignat|multline)/.test(source)]];
  if (source.includes("&")) tries.push([String.raw`\begin{aligned}${source}\end{aligned}`, display]);
  for (const [text, displayMode] of tries) {
    const parent = make("span");
    try {
      katex.render(text, parent, { output: "mathml", displayMode, strict: "ignore", maxExpand: 300, errorColor: REFUSED });
    } catch (error) {
      continue; // a ParseError; a RangeError where braces are nested thousands deep
    }
    const node = parent.querySelector("math");
    node.querySelector("annotation")?.remove(); // the source once more, which would be text of the page
    if (node.textContent.trim() === "" || node.querySelector(`[mathcolor="${REFUSED}"]`)) continue;
    for (const letters of node.querySelectorAll("[mathvariant]")) letters.textContent = inVariant(letters);
    node.setAttribute("display", display ? "block" : "inline");
    return node;
  }
  return null;
}

// A text with its formulas, or as it was written; one that is very long ends in a button that shows the rest.
function rendered(text, source) {
  const parent = make("div", "text");
  if (text.length > LONGEST) {
    fillIn(text.slice(0, LONGEST), source, parent);
    const more = make("button", "toggle", `show all ${text.length.toLocaleString("en")} characters`);
    more.type = "button";
    more.addEventListener("click", () => plain(text, parent.replaceChildren() ?? parent));
    parent.append(" … ", more);
    return parent;
  }
  return fillIn(text, source, parent);
}

function fillIn(text, source, parent) {
  if (source) return plain(text, parent);
  let end = 0;
  for (const found of text.matchAll(MATH)) {
    const { dollars, bracket, parenthesis, dollar, environment, boxed } = found.groups;
    const block = dollars ?? bracket ?? environment;
    const node = mathOf(block ?? parenthesis ?? dollar ?? boxed, block !== undefined);
    if (!node) continue;
    const before = text.slice(end, found.index);
    prose(block === undefined ? before : before.replace(/\n$/, ""), parent); // a block breaks the line by itself
    node.setAttribute("title", found[0].slice(0, 500));
    parent.append(node);
    end = found.index + found[0].length;
    if (block !== undefined && text[end] === "\n") end += 1;
  }
  prose(text.slice(end), parent);
  return parent;
}

// What stands in a line among others, as far as a reader looks.
const BRIEF = 2000;
const brief = (text) => (text.length > BRIEF ? `${text.slice(0, BRIEF)} … (${text.length.toLocaleString("en")} characters)` : text);

// An answer, which is LaTeX without dollars, or plain text.
function answer(text, source) {
  if (text === null || text === undefined) return make("span", "muted", "none");
  const node = !source && /[\\^_]/.test(text) && text.length <= BRIEF && mathOf(text.replace(/^\$+|\$+$/g, ""), false);
  return node ? make("span", "answer", node) : plain(brief(text), make("span", "answer"));
}
