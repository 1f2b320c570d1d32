// The conversation: what is sent, stopped and asked again.

import { ApiError, events, getJson, setKey } from "./api.js";
import { Answer } from "./answer.js";
import { byId, make, say } from "./dom.js";
import { covers, openSettings, readSettings, startSettings, systemMessage } from "./settings.js";
import { hide, place } from "./tokens.js";

const question = byId("question");
const chat = byId("chat");
let turns = []; // {text, element} of a question, or an Answer
let running = null; // the AbortController of the answer that comes
let following = false; // false: the reader has scrolled up, or nothing comes
let scrolled = 0; // where the conversation was scrolled to
let noIds = ""; // why the server sends no token ids

function messages(before) {
  const found = systemMessage();
  for (const turn of before) {
    if (!(turn instanceof Answer)) found.push({ role: "user", content: turn.text });
    else if (!turn.failed) found.push(...turn.messages());
    else if (found.at(-1).role === "user") found.pop(); // templates want an answer to each question
  }
  return found;
}

/** Ask for the answer to the turns so far, with these *fields* of the request. */
async function answer(fields) {
  const model = byId("model").value;
  const body = {
    model,
    messages: messages(turns),
    stream: true,
    stream_options: { include_usage: true },
    ...fields,
  };
  const its = new Answer(model);
  turns.push(its);
  byId("turns").append(its.element);
  running = new AbortController();
  following = true;
  show();
  say("Answering");
  try {
    await read(its, body, running.signal);
    its.end();
  } catch (error) {
    if (error.name === "AbortError") its.end("stopped");
    else if (error instanceof ApiError) refuse(its, error);
    else throw error;
  } finally {
    if (turns.includes(its)) {
      running = null;
      show();
      follow();
      following = false;
    }
  }
}

async function read(its, body, signal) {
  if (noIds) its.explain(noIds);
  try {
    const asked = noIds ? body : { ...body, return_token_ids: true };
    for await (const event of events("v1/chat/completions", asked, signal)) {
      its.take(event);
    }
  } catch (error) {
    // An ensemble or a preprocessing model of another version does not tell them.
    if (noIds || (error.param !== "return_token_ids" && error.status !== 501)) throw error;
    noIds = error.message;
    await read(its, body, signal);
  }
}

function refuse(its, error) {
  its.fail(error);
  if (error.status === 401) askForKey();
}

/** Keep the end of the last answer's text in sight; its tokens are below it. */
function follow() {
  const end = turns.at(-1)?.beside?.getBoundingClientRect().bottom ?? 0;
  const over = end + 16 - chat.getBoundingClientRect().bottom;
  if (following && over > 0) chat.scrollTop += over;
}

/** Show what can be done now. */
function show() {
  byId("welcome").hidden = turns.length > 0;
  byId("send").hidden = Boolean(running);
  byId("stop").hidden = !running;
  for (const turn of turns) turn.buttons?.replaceChildren();
  const last = turns.at(-1);
  if (running || !(last instanceof Answer)) return;
  const can = [make("button", { type: "button", class: "quiet", onclick: retry }, "Retry")];
  if (last.calls.length) {
    can.push(make("button", { type: "button", class: "quiet", onclick: goOn }, "Send the results"));
  }
  last.buttons.append(...can);
}

function send(text) {
  const fields = !running && text.trim() && readSettings();
  if (!fields) return;
  const element = make(
    "article",
    { class: "turn question", "aria-label": "Your message" },
    make("div", { class: "text" }, text),
  );
  turns.push({ text, element });
  byId("turns").append(element);
  question.value = "";
  grow();
  question.focus();
  answer(fields);
}

function retry() {
  const fields = readSettings();
  if (!fields) return;
  hide(); // the card of a token of the answer
  turns.pop().element.remove();
  question.focus();
  answer(fields);
}

/** Ask again with the results of the answer's tool calls. */
function goOn() {
  const fields = readSettings();
  if (!fields) return;
  question.focus();
  answer(fields);
}

function stop() {
  running?.abort();
  question.focus();
}

function clear() {
  running?.abort();
  running = null;
  turns = [];
  hide();
  byId("turns").replaceChildren();
  show();
  question.focus();
}

function grow() {
  question.style.height = "auto";
  question.style.height = `${question.scrollHeight}px`;
}

function askForKey() {
  byId("key-form").hidden = false;
  byId("key").focus();
}

async function loadModels() {
  try {
    const { data } = await getJson("v1/models");
    byId("model").replaceChildren(...data.map(({ id }) => make("option", { value: id }, id)));
    byId("key-form").hidden = true;
    byId("key-error").textContent = "";
  } catch (error) {
    if (error.status === 401) askForKey();
    if (byId("key").value) byId("key-error").textContent = error.message;
    else say(error.message);
  }
}

byId("composer").addEventListener("submit", (event) => {
  event.preventDefault();
  send(question.value);
});
question.addEventListener("input", grow);
question.addEventListener("keydown", (event) => {
  // Enter also ends the composition of a Korean or Japanese character.
  if (event.key !== "Enter" || event.shiftKey || event.isComposing || event.keyCode === 229) return;
  event.preventDefault();
  send(question.value);
});
document.addEventListener("keydown", (event) => {
  if (event.key !== "Escape" || event.isComposing) return;
  const wasShown = hide();
  if (running) stop();
  else if (!wasShown && covers()) openSettings(false);
});
document.addEventListener("scroll", place, true);
chat.addEventListener("scroll", () => {
  if (chat.scrollTop < scrolled) following = false;
  scrolled = chat.scrollTop;
});
new ResizeObserver(follow).observe(chat.firstElementChild);
byId("stop").addEventListener("click", stop);
byId("new").addEventListener("click", clear);
byId("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  setKey(byId("key").value);
  loadModels();
  question.focus();
});
for (const button of byId("examples").querySelectorAll("button")) {
  button.addEventListener("click", () => send(button.textContent));
}
startSettings();
loadModels();
