// One answer: its text, what is folded, its figures and its tokens.

import { make, say } from "./dom.js";
import { TokenList } from "./tokens.js";

const FIGURES = {
  first: "First token",
  speed: "Speed",
  prompt: "Prompt",
  answer: "Answer",
  finish: "Finish",
};
let tokensOpen = matchMedia("(min-width: 641px)").matches; // later: as the reader left it

export class Answer {
  /** *model*: its name. */
  constructor(model) {
    this.content = "";
    this.reasoning = "";
    this.calls = [];
    this.began = performance.now();
    this.firstAt = 0;
    this.tokens = 0;
    this.figures = {};
    this.text = make("div", { class: "text" });
    this.note = make("p", { class: "waiting" }, "Waiting for the first token");
    this.buttons = make("div", { class: "buttons" });
    this.body = make("div", { class: "body" }, this.note, this.text, this.buttons);
    this.list = make("dl", { class: "figures", "aria-label": "Figures" });
    this.promptTokens = new TokenList("Prompt tokens");
    this.answerTokens = new TokenList("Answer tokens");
    this.beside = make("div", { class: "beside" }, this.body, this.list);
    this.element = make(
      "article",
      { class: "turn answer", "aria-label": `Answer of ${model}`, "aria-busy": "true" },
      make("h2", {}, model),
      this.beside,
    );
  }

  /** Take one event of the stream. */
  take(chunk) {
    if (chunk.prompt_token_ids) {
      this.figure("prompt", count(chunk.prompt_token_ids.length));
      this.showTokens(this.promptTokens, chunk.prompt_token_ids);
    }
    for (const choice of chunk.choices) {
      const { content, reasoning_content: one, reasoning: other, tool_calls: calls } = choice.delta;
      const ids = choice.token_ids ?? [];
      const reasoning = one ?? other;
      if (!this.firstAt && (content || reasoning || calls || ids.length)) this.begin();
      if (reasoning) this.reason(reasoning);
      if (content) this.write(content);
      for (const part of calls ?? []) this.call(part);
      if (ids.length) {
        this.tokens += ids.length;
        this.figure("answer", count(this.tokens));
        this.showTokens(this.answerTokens, ids);
      }
      if (choice.finish_reason) this.finish = choice.finish_reason;
    }
    if (chunk.usage) {
      this.tokens = chunk.usage.completion_tokens;
      this.figure("prompt", count(chunk.usage.prompt_tokens));
      this.figure("answer", count(this.tokens));
    }
    this.measure();
  }

  begin() {
    this.firstAt = performance.now();
    this.note.remove();
    this.figure("first", seconds(this.firstAt - this.began));
  }

  measure() {
    const passed = performance.now() - this.firstAt;
    if (this.tokens < 2 || passed < 50) return;
    this.figure("speed", `${((1000 * (this.tokens - 1)) / passed).toFixed(1)} tokens/s`);
  }

  write(text) {
    this.content += text;
    this.text.append(text);
  }

  reason(text) {
    this.reasoning += text;
    if (!this.reasoningText) {
      this.reasoningText = make("div", { class: "text" });
      this.body.prepend(fold("Reasoning", "reasoning", this.reasoningText));
    }
    this.reasoningText.append(text);
  }

  call({ index, id, function: part }) {
    if (!this.calls[index]) {
      const code = make("pre", { class: "code" });
      const result = make("textarea", { rows: "2", spellcheck: "false" });
      const label = make("label", { class: "field" }, `Result of ${part.name}`, result);
      const folded = fold(`Tool call: ${part.name}`, "call", code, label);
      this.calls[index] = { id, name: part.name, arguments: "", code, result };
      this.buttons.before(folded);
    }
    const call = this.calls[index];
    call.arguments += part.arguments ?? "";
    call.code.textContent = call.arguments;
  }

  /** Show *ids* in one of the two lists; the fold appears with the first ones. */
  async showTokens(list, ids) {
    if (!this.fold) {
      this.counts = make("span", { class: "counts" });
      this.promptHead = make("h3", {}, "Prompt, as the engine gets it");
      this.fold = make(
        "details",
        { class: "inspect", open: tokensOpen, ontoggle: () => (tokensOpen = this.fold.open) },
        make("summary", {}, "Tokens ", this.counts),
        this.promptHead,
        this.promptTokens.element,
        make("h3", {}, "Answer"),
        this.answerTokens.element,
      );
      this.element.append(this.fold);
    }
    if (!this.fold.isConnected) return; // the server did not tell their bytes
    try {
      await list.add(ids);
    } catch (error) {
      if (this.fold.isConnected) this.explain(error.message);
      this.fold.remove();
    }
    const { promptTokens: prompt, answerTokens: answer } = this;
    this.counts.textContent = `${prompt.ids.length} in the prompt, ${answer.ids.length} in the answer`;
    this.promptHead.replaceChildren(
      "Prompt, as the engine gets it ",
      make("span", { class: "counts" }, prompt.begins),
    );
  }

  /** Show why there are no tokens. */
  explain(message) {
    const text = make("p", { class: "counts" }, message);
    this.element.append(make("details", { class: "inspect" }, make("summary", {}, "Tokens"), text));
  }

  figure(name, value) {
    if (!this.figures[name]) {
      this.figures[name] = make("dd", { "data-figure": name });
      const order = Object.keys(FIGURES);
      const rows = order.filter((each) => this.figures[each]).map((each) =>
        this.figures[each].parentElement ?? make("div", {}, make("dt", {}, FIGURES[each]), this.figures[each]),
      );
      this.list.replaceChildren(...rows);
    }
    if (this.figures[name].textContent !== value) this.figures[name].textContent = value;
  }

  /** The answer has ended; *finish*: why, if the stream did not say. */
  end(finish = this.finish) {
    this.finish = finish;
    this.note.remove();
    this.figure("finish", finish);
    for (const call of this.calls) call.code.textContent = pretty(call.arguments);
    this.element.setAttribute("aria-busy", "false");
    say(`The answer has ended: ${finish}, ${count(this.tokens)}.`);
  }

  /** Show an error of the server as its text. */
  fail({ status, message }) {
    this.failed = true;
    this.note.remove();
    const did = status < 500 ? "refused" : "failed";
    const title = status >= 400 ? `The server ${did}: ${status}` : "The answer failed";
    this.buttons.before(
      make("div", { class: "failure", role: "alert" }, make("strong", {}, title), make("p", {}, message)),
    );
    this.element.setAttribute("aria-busy", "false");
    say(""); // the alert speaks for itself
  }

  /** What the next request has of this answer. */
  messages() {
    const message = { role: "assistant", content: this.content };
    if (!this.calls.length) return [message];
    message.tool_calls = this.calls.map(({ id, name, arguments: text }) => ({
      id,
      type: "function",
      function: { name, arguments: text },
    }));
    const results = this.calls.map(({ id, result }) => ({
      role: "tool",
      tool_call_id: id,
      content: result.value,
    }));
    return [message, ...results];
  }
}

function fold(title, kind, ...children) {
  return make("details", { class: `fold ${kind}` }, make("summary", {}, title), ...children);
}

const count = (tokens) => `${tokens} ${tokens === 1 ? "token" : "tokens"}`;

function seconds(milliseconds) {
  return milliseconds < 1000 ? `${milliseconds.toFixed(0)} ms` : `${(milliseconds / 1000).toFixed(2)} s`;
}

function pretty(text) {
  try {
    return JSON.stringify(JSON.parse(text), null, 2);
  } catch {
    return text; // it was cut
  }
}
