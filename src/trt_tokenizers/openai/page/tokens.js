// Tokens as coloured pieces, each with its id and bytes.

import { getJson } from "./api.js";
import { byId, make } from "./dom.js";

const COLOURS = 5;
const AT_ONCE = 4096; // the server tells the bytes of so many
const known = new Map(); // id -> {bytes, special}
let bosId = null;
const unknown = new Set();
let asking = null;
let shownToken = null; // whose card is shown

/** Ask for the bytes of all *ids* that are not known, many at once. */
function learn(ids) {
  for (const id of ids) if (!known.has(id)) unknown.add(id);
  asking ??= (async () => {
    try {
      while (unknown.size) {
        const tokens = [...unknown].slice(0, AT_ONCE);
        for (const id of tokens) unknown.delete(id);
        const answer = await getJson("detokenize", { tokens, return_bytes: true });
        bosId = answer.bos_id;
        for (const { id, bytes, special } of answer.tokens) {
          known.set(id, { bytes: Uint8Array.from(bytes), special });
        }
      }
    } finally {
      asking = null;
    }
  })();
  return asking;
}

const strict = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });
const encoder = new TextEncoder();
const hex = (bytes) => Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join(" ");

/** The text of the most of *bytes* that begin with whole characters. */
function longest(bytes) {
  for (let end = bytes.length; end; end--) {
    try {
      return strict.decode(bytes.subarray(0, end));
    } catch {
      // The last character is not whole.
    }
  }
  return "";
}

/** *bytes* as texts, and as bytes where they are parts of a character. */
function parts(bytes) {
  const found = [];
  let at = 0;
  while (at < bytes.length) {
    const text = longest(bytes.subarray(at));
    found.push(text ? { text } : { bytes: bytes.subarray(at, at + 1) });
    at += text ? encoder.encode(text).length : 1;
  }
  return found;
}

/** The tokens of a prompt or an answer. Arrow keys move between them. */
export class TokenList {
  constructor(label) {
    this.ids = [];
    this.drawn = 0;
    this.isPrompt = label.startsWith("Prompt");
    this.element = make("div", {
      class: "tokens",
      role: "listbox",
      "aria-label": label,
      "aria-orientation": "horizontal",
      onkeydown: (event) => this.move(event),
      onfocusin: (event) => this.show(event.target),
      onfocusout: hide,
      onpointerover: (event) => this.show(event.target),
      onpointerleave: hide,
    });
  }

  /** Add *ids*; resolves when they are drawn. */
  async add(ids) {
    this.ids.push(...ids);
    if (ids.some((id) => !known.has(id))) await learn(ids);
    this.draw();
  }

  get begins() {
    if (!this.ids.length) return "";
    return this.ids[0] === bosId ? `begins with BOS, id ${bosId}` : "begins without BOS";
  }

  draw() {
    const made = [];
    while (this.drawn < this.ids.length && known.has(this.ids[this.drawn])) {
      made.push(this.token(this.drawn));
      this.drawn += 1;
    }
    this.element.append(...made);
  }

  token(index) {
    const id = this.ids[index];
    const { bytes, special } = known.get(id);
    const isBos = this.isPrompt && index === 0 && id === bosId;
    const kind = special ? "special" : `c${index % COLOURS}`;
    const element = make("span", {
      class: `token ${kind}${isBos ? " bos" : ""}`,
      role: "option",
      tabindex: index ? "-1" : "0",
      "aria-selected": "false",
      "data-index": index,
      "data-id": id,
    });
    for (const part of parts(bytes)) element.append(...shown(part));
    if (!bytes.length) element.append(make("span", { class: "byte" }, `id ${id}`));
    element.setAttribute("aria-label", spoken(this.facts(index)));
    return element;
  }

  /** The characters of which the token is a part, as far as their other tokens are drawn. */
  characters(index) {
    const first = Math.max(0, index - 3);
    const near = this.ids.slice(first, Math.min(this.drawn, index + 4)).map((id) => known.get(id).bytes);
    const start = near.slice(0, index - first).reduce((sum, bytes) => sum + bytes.length, 0);
    const end = start + known.get(this.ids[index]).bytes.length;
    let at = 0;
    let found = "";
    for (const part of parts(Uint8Array.from(near.flatMap((bytes) => [...bytes])))) {
      for (const character of part.text ?? [""]) {
        const next = at + (encoder.encode(character).length || 1);
        if (character && at < end && next > start) found += character;
        at = next;
      }
    }
    return found;
  }

  facts(index) {
    const id = this.ids[index];
    const { bytes, special } = known.get(id);
    const found = parts(bytes);
    const whole = found.every((part) => part.text !== undefined);
    const facts = [
      ["Token", `${index + 1}`],
      ["Id", `${id}`],
    ];
    if (whole) facts.push(["Text", JSON.stringify(found.map((part) => part.text).join(""))]);
    else facts.push(["Text", `part of ${this.characters(index) || "a character"}`]);
    facts.push(["Bytes", hex(bytes) || "none"]);
    if (this.isPrompt && index === 0 && id === bosId) facts.push(["Kind", "BOS, begins the prompt"]);
    else if (special) facts.push(["Kind", "special token"]);
    return facts;
  }

  move(event) {
    const steps = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: 10, ArrowUp: -10 };
    const all = this.element.children;
    const at = [...all].indexOf(document.activeElement);
    let to = at + (steps[event.key] ?? 0);
    if (event.key === "Home") to = 0;
    if (event.key === "End") to = all.length - 1;
    to = Math.min(Math.max(to, 0), all.length - 1);
    if (at < 0 || to === at) return;
    event.preventDefault();
    all[at].tabIndex = -1;
    all[to].tabIndex = 0;
    all[to].focus();
  }

  show(target) {
    const token = target.closest(".token");
    if (!token) return;
    for (const each of this.element.querySelectorAll("[aria-selected=true]")) {
      each.setAttribute("aria-selected", "false");
    }
    token.setAttribute("aria-selected", "true");
    const card = byId("token-card");
    const facts = this.facts(Number(token.dataset.index));
    token.setAttribute("aria-label", spoken(facts));
    card.replaceChildren(
      make("dl", {}, ...facts.flatMap(([name, value]) => [make("dt", {}, name), make("dd", {}, value)])),
    );
    card.hidden = false;
    shownToken = token;
    place();
  }
}

const spoken = (facts) => facts.map((fact) => fact.join(" ")).join(", ");

function shown({ text, bytes }) {
  if (text === undefined) return [make("span", { class: "byte" }, hex(bytes))];
  return text.split(/([\n\t])/).filter(Boolean).map((piece) => {
    if (piece === "\n") return make("span", { class: "newline" }, piece);
    if (piece === "\t") return make("span", { class: "tab" }, piece);
    return piece;
  });
}

/** Put the card above its token, or below it where there is no room. */
export function place() {
  const card = byId("token-card");
  if (card.hidden) return;
  const token = shownToken.getClientRects()[0];
  if (!token) {
    hide(); // it is folded or gone
    return;
  }
  const { width, height } = card.getBoundingClientRect();
  const left = Math.min(Math.max(8, token.left), document.documentElement.clientWidth - width - 8);
  const above = token.top - height - 6;
  card.style.left = `${left}px`;
  card.style.top = `${above >= 8 ? above : token.bottom + 6}px`;
}

/** Hide the card; whether it was shown. */
export function hide() {
  const card = byId("token-card");
  const wasShown = !card.hidden;
  card.hidden = true;
  return wasShown;
}
