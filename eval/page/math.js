"use strict";
// LaTeX to MathML. Nodes are made by createElementNS and textContent, so nothing that a model wrote is read as HTML.
// What is not known throws a LatexError: the caller then shows the source, which is better than a formula that is
// quietly wrong.

class LatexError extends Error {}

const MAX_DEPTH = 60; // a model can write thousands of braces
const MAX_LENGTH = 5000;

const words = (text) => text.trim().split(/\s+/);
const pairs = (text) => Object.fromEntries(words(text).map((pair) => pair.split("=")));

const LETTERS = pairs(`
  alpha=α beta=β gamma=γ delta=δ epsilon=ϵ varepsilon=ε zeta=ζ eta=η theta=θ vartheta=ϑ iota=ι kappa=κ lambda=λ mu=μ
  nu=ν xi=ξ pi=π varpi=ϖ rho=ρ varrho=ϱ sigma=σ varsigma=ς tau=τ upsilon=υ phi=ϕ varphi=φ chi=χ psi=ψ omega=ω Gamma=Γ
  Delta=Δ Theta=Θ Lambda=Λ Xi=Ξ Pi=Π Sigma=Σ Upsilon=Υ Phi=Φ Psi=Ψ Omega=Ω ell=ℓ hbar=ℏ infty=∞ partial=∂ nabla=∇
  emptyset=∅ varnothing=∅ imath=ı jmath=ȷ Re=ℜ Im=ℑ aleph=ℵ circ=∘ degree=° angle=∠ measuredangle=∡ triangle=△
  bigtriangleup=△ Diamond=◇ square=□ Box=□ blacksquare=■ top=⊤ bot=⊥ prime=′ dagger=† ddagger=‡ star=⋆ ast=∗ bullet=∙
  diamond=⋄ checkmark=✓ pounds=£ textdegree=° clubsuit=♣ diamondsuit=♢ heartsuit=♡ spadesuit=♠ forall=∀ exists=∃
  nexists=∄ neg=¬ lnot=¬ ldots=… dots=… dotsc=… cdots=⋯ dotsb=⋯ dotsm=⋯ vdots=⋮ ddots=⋱ S=§ surd=√ textdollar=$`);
const OPERATORS = pairs(`
  times=× div=÷ cdot=⋅ pm=± mp=∓ le=≤ leq=≤ leqslant=⩽ ge=≥ geq=≥ geqslant=⩾ ne=≠ neq=≠ approx=≈ equiv=≡ cong=≅ sim=∼
  simeq=≃ propto=∝ ll=≪ gg=≫ lt=< gt=> in=∈ notin=∉ ni=∋ subset=⊂ subseteq=⊆ supset=⊃ supseteq=⊇ subsetneq=⊊ cup=∪
  cap=∩ setminus=∖ backslash=∖ land=∧ wedge=∧ lor=∨ vee=∨ oplus=⊕ otimes=⊗ odot=⊙ to=→ rightarrow=→ gets=← leftarrow=←
  leftrightarrow=↔ Rightarrow=⇒ implies=⟹ Longrightarrow=⟹ impliedby=⟸ Leftarrow=⇐ iff=⟺ Leftrightarrow=⇔
  Longleftrightarrow=⟺ longrightarrow=⟶ longleftarrow=⟵ mapsto=↦ hookrightarrow=↪ uparrow=↑ downarrow=↓ updownarrow=↕
  nearrow=↗ searrow=↘ mid=∣ nmid=∤ vert=| lvert=| rvert=| Vert=‖ lVert=‖ rVert=‖ parallel=∥ perp=⊥ colon=: therefore=∴
  because=∵ langle=⟨ rangle=⟩ lfloor=⌊ rfloor=⌋ lceil=⌈ rceil=⌉ lbrace={ rbrace=} lbrack=[ rbrack=] ltimes=⋉ prec=≺
  succ=≻ models=⊨ vdash=⊢ asymp=≍ doteq=≐ triangleq=≜ bowtie=⋈ amalg=⨿ wr=≀ gtrsim=≳ lesssim=≲ trianglelefteq=⊴`);
const BIG = pairs(`
  sum=∑ prod=∏ coprod=∐ bigcup=⋃ bigcap=⋂ bigoplus=⨁ bigotimes=⨂ bigvee=⋁ bigwedge=⋀ int=∫ iint=∬ iiint=∭ oint=∮`);
const FUNCTIONS = words(`
  sin cos tan cot sec csc arcsin arccos arctan sinh cosh tanh coth log ln lg exp det gcd lcm deg dim ker hom arg mod
  lim max min sup inf limsup liminf Pr argmax argmin`);
const STACKED = words("lim max min sup inf limsup liminf Pr det gcd argmax argmin"); // limits go below
const SPACES = { ",": "0.17em", ":": "0.22em", ">": "0.22em", ";": "0.28em", "!": "-0.17em", " ": "0.25em",
  "~": "0.25em", quad: "1em", qquad: "2em", enspace: "0.5em", thinspace: "0.17em", hfill: "2em", space: "0.25em" };
const ACCENTS = pairs(`
  hat=^ widehat=^ vec=→ overrightarrow=→ overleftarrow=← overleftrightarrow=↔ tilde=~ widetilde=~
  dot=˙ ddot=¨ overbrace=⏞ mathring=˚ overarc=⌒ check=ˇ`);
const UNDER = pairs("underbrace=⏟");
const LINES = pairs("bar=overline overline=overline underline=underline"); // drawn by the style sheet: fonts lack them
const FRACTIONS = words("frac dfrac tfrac cfrac");
const BINOMIALS = words("binom dbinom tbinom");
const TEXTS = pairs(`
  text= textrm= mbox= mathrm= operatorname= textnormal= textsf= mathsf= textup= textbf=bold textit=italic mathtt=mono
  texttt=mono operatorname*= emph=italic hbox=`);
const BOLD = words("mathbf boldsymbol bm bf bold pmb");
const SCRIPT = [0x1d49c, pairs("B=ℬ E=ℰ F=ℱ H=ℋ I=ℐ L=ℒ M=ℳ R=ℛ")]; // where A stands in Unicode, and the exceptions
const STYLES = { mathcal: SCRIPT, mathscr: SCRIPT, mathfrak: [0x1d504, pairs("C=ℭ H=ℌ I=ℑ R=ℜ Z=ℨ")],
  mathbb: [0x1d538, pairs("C=ℂ H=ℍ N=ℕ P=ℙ Q=ℚ R=ℝ Z=ℤ")] };
const IGNORED = words(`
  displaystyle textstyle scriptstyle limits nolimits nonumber notag left. right. hline rm it allowbreak noindent
  centering small large Large normalsize`);
const LARGE = { stretchy: "true", minsize: "1.5em", maxsize: "1.5em" };
const BIG_FENCES = /^(big|Big|bigg|Bigg)[lrm]?$/;
const ENVIRONMENTS = { matrix: ["", ""], smallmatrix: ["", ""], pmatrix: ["(", ")"], bmatrix: ["[", "]"],
  Bmatrix: ["{", "}"], vmatrix: ["|", "|"], Vmatrix: ["‖", "‖"], cases: ["{", ""], array: ["", ""], tabular: ["", ""],
  align: ["", ""], aligned: ["", ""], split: ["", ""], alignat: ["", ""], eqnarray: ["", ""], gather: ["", ""],
  gathered: ["", ""], multline: ["", ""], equation: ["", ""], subarray: ["", ""] };
const ALIGNED = words("align aligned split alignat eqnarray"); // columns go right, left, right, left
const DIGITS = /\d+(?:(?:,|\{,\}|\\!,|,\\!)\d{3}(?!\d))*(?:\.\d+)?|\.\d+/y;

function element(name, content = "", attributes = {}) {
  const node = document.createElementNS("http://www.w3.org/1998/Math/MathML", name);
  if (typeof content === "string") node.textContent = content;
  else node.append(...content);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  return node;
}

const row = (nodes) => (nodes.length === 1 ? nodes[0] : element("mrow", nodes));
const operator = (text, attributes) => element("mo", text, attributes);
const space = (width) => element("mspace", "", { width });
const SIGNS = /^[−+±∓]$/;
const isOpening = (node) => !node || (node.localName === "mo" && !/^[)\]}|!′]$/.test(node.textContent));
const fence = (text) => operator(text, { stretchy: "true", fence: "true" });

class LatexParser {
  constructor(source) {
    if (source.length > MAX_LENGTH) throw new LatexError("too long");
    this.source = source;
    this.at = 0;
    this.depth = 0;
  }

  // -- reading ---------------------------------------------------------------------------------------------------

  peek() {
    this.match(/\s*/y);
    if (this.at >= this.source.length) return null;
    const command = this.match(/\\(?:(?:operatorname|tag|hspace)\*|[a-zA-Z]+|[^])/y, false);
    return command ?? String.fromCodePoint(this.source.codePointAt(this.at));
  }

  next() {
    const token = this.peek();
    if (token === null) throw new LatexError("ends too early");
    this.at += token.length;
    return token;
  }

  match(pattern, consume = true) {
    pattern.lastIndex = this.at;
    const found = pattern.exec(this.source);
    if (found && consume) this.at += found[0].length;
    return found && found[0];
  }

  expect(token) {
    if (this.next() !== token) throw new LatexError(`${token} is missing`);
  }

  // The text between braces as it is written, for \text and names of environments.
  raw() {
    this.expect("{");
    const start = this.at;
    for (let open = 1; open; this.at += 1) {
      if (this.at >= this.source.length) throw new LatexError("} is missing");
      if (this.source[this.at] === "\\") this.at += 1;
      else open += { "{": 1, "}": -1 }[this.source[this.at]] ?? 0;
    }
    return this.source.slice(start, this.at - 1);
  }

  // -- the grammar -----------------------------------------------------------------------------------------------

  formula() {
    const table = this.table(null);
    if (!table.length) throw new LatexError("empty");
    return table.length === 1 && table[0].length === 1 ? row(table[0][0]) : tableOf(table, true);
  }

  // Rows of cells of nodes, up to `end`.
  table(end) {
    const rows = [[this.cell(end)]];
    for (let token = this.peek(); token !== end; token = this.peek()) {
      this.next();
      if (token === "&") rows.at(-1).push(this.cell(end));
      else if (token === "\\\\" || token === "\\cr") {
        this.match(/\*?(\s*\[[-\d.]+\w+\])?/y);
        rows.push([this.cell(end)]);
      } else throw new LatexError(`${token ?? "the end"} where ${end ?? "the end"} should be`);
    }
    if (end) this.next();
    return rows.filter((cells) => cells.some((cell) => cell.length));
  }

  cell(end) {
    return this.nodes((token) => token === end || ["&", "\\\\", "\\cr"].includes(token));
  }

  // Nodes up to a token that `stops` accepts, which is left unread. \over and \choose split them in two.
  nodes(stops) {
    if (++this.depth > MAX_DEPTH) throw new LatexError("too deep");
    let nodes = [];
    for (let token = this.peek(); !stops(token); token = this.peek()) {
      if (["\\over", "\\choose", "\\atop"].includes(token)) {
        this.next();
        const line = token === "\\over" ? {} : { linethickness: "0" };
        const fraction = element("mfrac", [row(nodes), row(this.nodes(stops))], line);
        nodes = token === "\\choose" ? [fence("("), fraction, fence(")")] : [fraction];
        break;
      }
      const atom = this.scripted();
      if (SIGNS.test(atom[0]?.textContent) && isOpening(nodes.at(-1))) atom[0].setAttribute("form", "prefix"); // f(-2)
      nodes.push(...atom);
    }
    this.depth -= 1;
    return nodes;
  }

  group(end = "}") {
    const nodes = this.nodes((token) => token === end || token === null);
    this.expect(end);
    return row(nodes);
  }

  // One argument: a group, or the next symbol. Of a number it is the first digit: x^10 is x to the 1, then 0.
  argument() {
    const digit = this.peek() && this.match(/\d/y);
    if (digit) return element("mn", digit);
    if (++this.depth > MAX_DEPTH) throw new LatexError("too deep");
    const nodes = this.atom();
    this.depth -= 1;
    return row(nodes);
  }

  optional() {
    if (this.peek() !== "[") return null;
    this.next();
    return this.group("]");
  }

  // An atom with its sub- and superscripts and primes.
  scripted() {
    const first = this.peek();
    const stacked = first in { "\\underbrace": 1, "\\overbrace": 1 } || BIG_LIMITS.has(first);
    const nodes = first === "^" || first === "_" || first === "'" ? [row([])] : this.atom();
    let [sub, sup, primes] = [null, null, ""];
    for (let token = this.peek(); token !== null; token = this.peek()) {
      if (token === "\\limits" || token === "\\nolimits") this.next();
      else if (token === "'") [primes] = [primes + "′", this.next()];
      else if (token === "_" && !sub) [, sub] = [this.next(), this.argument()];
      else if (token === "^" && !sup) [, sup] = [this.next(), this.argument()];
      else if (token === "_" || token === "^") throw new LatexError("two scripts");
      else break;
    }
    if (primes) sup = sup ? row([operator(primes), sup]) : operator(primes);
    if (!sub && !sup) return nodes;
    const base = nodes.pop() ?? row([]);
    const name = stacked ? ["munder", "mover", "munderover"] : ["msub", "msup", "msubsup"];
    return [...nodes, element(name[sub && sup ? 2 : sup ? 1 : 0], [base, sub, sup].filter(Boolean))];
  }

  atom() {
    const token = this.peek();
    const number = token && this.match(DIGITS);
    if (number) return [element("mn", number.replace(/\\!|[{}]/g, ""))];
    this.next();
    if (token === "{") return [this.group()];
    if (token.length > 1 && token[0] === "\\") return this.command(token.slice(1));
    if (/\p{L}/u.test(token)) return [element("mi", token)];
    if (token === "~") return [space(SPACES["~"])];
    // A bare % is a comment in TeX, and hardly ever what a model means.
    if (/[\\}&^_$#%]/.test(token)) throw new LatexError(`${token} has no place here`);
    if (token === "|") return [operator(token, { stretchy: "false", lspace: "0", rspace: "0" })];
    if ("()[]".includes(token)) return [operator(token, { stretchy: "false" })];
    return [operator({ "-": "−", "*": "∗" }[token] ?? token)];
  }

  command(name) {
    if (Object.hasOwn(LETTERS, name)) return [element("mi", LETTERS[name], { mathvariant: "normal" })];
    if (Object.hasOwn(OPERATORS, name)) return [operator(OPERATORS[name], { stretchy: "false" })];
    if (Object.hasOwn(BIG, name)) return [operator(BIG[name], { largeop: "true", movablelimits: "true" })];
    if (Object.hasOwn(SPACES, name)) return [space(SPACES[name])];
    if (FUNCTIONS.includes(name)) return [functionName(name)];
    if (FRACTIONS.includes(name)) return [element("mfrac", [this.argument(), this.argument()], displayOf(name))];
    if (BINOMIALS.includes(name)) return [this.binomial(displayOf(name))];
    if (Object.hasOwn(LINES, name)) return [element("mrow", [this.argument()], { class: LINES[name] })];
    if (Object.hasOwn(ACCENTS, name)) return [this.accent("mover", ACCENTS[name])];
    if (Object.hasOwn(UNDER, name)) return [this.accent("munder", UNDER[name])];
    if (Object.hasOwn(TEXTS, name)) return [this.text(name)];
    if (BOLD.includes(name)) return [element("mrow", [this.argument()], { class: "bold" })];
    if (Object.hasOwn(STYLES, name)) return [styled(this.argument(), ...STYLES[name])];
    if (BIG_FENCES.test(name)) return [operator(this.delimiter(), LARGE)];
    if (IGNORED.includes(name)) return [];
    if ("{}%$#&_|".includes(name)) return [operator(name === "|" ? "‖" : name, { stretchy: "false" })];
    return this.structure(name);
  }

  structure(name) {
    switch (name) {
      case "left": return [this.fenced()];
      case "begin": return [this.environment()];
      case "sqrt": return [this.root()];
      case "boxed": case "fbox": return [element("mrow", [this.argument()], { class: "boxed" })];
      case "stackrel": case "overset": return [this.stacked("mover")];
      case "underset": return [this.stacked("munder")];
      case "xrightarrow": return [element("mover", [operator("→", { stretchy: "true" }), this.argument()])];
      case "cancel": case "bcancel": case "xcancel": return [element("mrow", [this.argument()], { class: "cancel" })];
      case "color": return this.raw() && [];
      case "textcolor": return this.raw() && [this.argument()];
      case "not": return [this.negated()];
      case "pmod": return [space("1em"), operator("("), functionName("mod"), this.argument(), operator(")")];
      case "bmod": return [functionName("mod")];
      case "phantom": case "hphantom": case "vphantom": return [element("mphantom", [this.argument()])];
      case "tag": case "tag*": return [space("2em"), element("mtext", `(${this.raw()})`)];
      case "label": return this.raw() && [];
      case "hspace": case "hspace*": return this.raw() && [space("1em")];
      case "mathop": case "mathrel": case "mathbin": case "mathord": case "mathit": case "ensuremath":
        return [this.argument()];
      default: throw new LatexError(`\\${name} is not known`);
    }
  }

  binomial(attributes) {
    const fraction = element("mfrac", [this.argument(), this.argument()], { linethickness: "0", ...attributes });
    return element("mrow", [fence("("), fraction, fence(")")]);
  }

  accent(name, text) {
    const over = operator(text, { stretchy: "true" });
    return element(name, [this.argument(), over], name === "mover" ? { accent: "true" } : { accentunder: "true" });
  }

  stacked(name) {
    const [script, base] = [this.argument(), this.argument()];
    return element(name, [base, script]);
  }

  root() {
    const [index, radicand] = [this.optional(), this.argument()];
    return index ? element("mroot", [radicand, index]) : element("msqrt", [radicand]);
  }

  negated() {
    const base = this.argument();
    base.textContent += "\u0338";
    return base;
  }

  text(name) {
    if (this.peek() !== "{") return this.argument();
    const parts = this.raw().split(/(?<!\\)\$/); // every second one is mathematics
    if (++this.depth > MAX_DEPTH) throw new LatexError("too deep");
    const nodes = parts.map((part, i) => {
      if (i % 2 === 0) return element("mtext", plainText(part), TEXTS[name] ? { class: TEXTS[name] } : {});
      const inner = new LatexParser(part);
      inner.depth = this.depth;
      return inner.formula();
    });
    this.depth -= 1;
    return row(nodes);
  }

  delimiter() {
    const token = this.next();
    if (token === ".") return "";
    if (token[0] !== "\\") return { "<": "⟨", ">": "⟩" }[token] ?? token;
    const name = token.slice(1);
    if ("{}".includes(name)) return name;
    if (name === "|") return "‖";
    if (Object.hasOwn(OPERATORS, name)) return OPERATORS[name];
    throw new LatexError(`${token} is no delimiter`);
  }

  fenced() {
    const nodes = [fence(this.delimiter())];
    for (;;) {
      nodes.push(...this.nodes((token) => ["\\right", "\\middle", null].includes(token)));
      const last = this.next() === "\\right";
      nodes.push(fence(this.delimiter()));
      if (last) return element("mrow", nodes);
    }
  }

  environment() {
    const name = this.raw();
    const kind = name.replace(/\*$/, "");
    if (!Object.hasOwn(ENVIRONMENTS, kind)) throw new LatexError(`the environment ${name} is not known`);
    if (["array", "tabular", "alignat", "subarray"].includes(kind)) this.peek() === "{" && this.raw(); // columns
    const rows = this.table("\\end");
    if (this.raw() !== name) throw new LatexError(`\\end{${name}} is missing`);
    const [open, close] = ENVIRONMENTS[kind];
    const table = tableOf(rows, ALIGNED.includes(kind), kind === "cases");
    return open || close ? element("mrow", [fence(open), table, fence(close)]) : table;
  }
}

const OVER_AND_UNDER = Object.keys(BIG).filter((name) => !name.endsWith("int")); // of an integral they stand beside
const BIG_LIMITS = new Set([...OVER_AND_UNDER, ...STACKED].map((name) => `\\${name}`));
const displayOf = (name) => ({ d: { displaystyle: "true" }, t: { displaystyle: "false" } })[name[0]] ?? {};
const plainText = (text) => text.replace(/\\([%$#&_{} ])/g, "$1").replace(/~/g, " ").replace(/^ | $/g, "\u00a0");

function functionName(name) {
  const movablelimits = String(STACKED.includes(name));
  return operator(name.replace(/^(lim|arg)(?=...)/, "$1 "), { lspace: "0.17em", rspace: "0.17em", movablelimits });
}

// Letters of an alphabet of Unicode, such as ℝ of R. A letter that it lacks stays as it is.
function styled(node, start, exceptions) {
  for (const letter of node.childElementCount ? node.children : [node]) {
    if (!/^[A-Z]$/.test(letter.textContent)) continue;
    const code = start + letter.textContent.charCodeAt(0) - 65;
    letter.textContent = exceptions[letter.textContent] ?? String.fromCodePoint(code);
  }
  return node;
}

function tableOf(rows, aligned, left = false) {
  const classes = aligned ? "aligned" : left ? "left" : "matrix";
  const body = rows.map((cells) => element("mtr", cells.map((cell) => element("mtd", cell))));
  return element("mtable", body, { class: classes, ...(aligned ? { displaystyle: "true" } : {}) });
}

// A <math> element. Raises: LatexError where the source is not understood as a whole.
function mathOf(source, display) {
  const content = new LatexParser(source).formula();
  return element("math", [content], { display: display ? "block" : "inline" });
}
