// The panel of settings, and the fields of a request that they make.

import { byId } from "./dom.js";

const NUMBERS = ["temperature", "top_p", "top_k", "min_p", "max_tokens", "seed"];
const EXAMPLES = {
  tools: [
    {
      type: "function",
      function: {
        name: "weather",
        description: "The weather of a city",
        parameters: {
          type: "object",
          properties: { city: { type: "string" } },
          required: ["city"],
        },
      },
    },
  ],
  schema: {
    type: "object",
    properties: { city: { type: "string" }, country: { type: "string" } },
    required: ["city", "country"],
  },
};
const wide = matchMedia("(min-width: 1100px)");

/** Open or close the panel. */
export function openSettings(open, { focus = true } = {}) {
  byId("settings").hidden = !open;
  byId("toggle-settings").setAttribute("aria-expanded", `${open}`);
  document.body.classList.toggle("with-settings", open);
  keepOut();
  if (focus) byId(open ? "system" : "toggle-settings").focus();
}

export function startSettings() {
  wide.addEventListener("change", keepOut);
  openSettings(wide.matches, { focus: false });
  byId("toggle-settings").addEventListener("click", () => openSettings(byId("settings").hidden));
  byId("close-settings").addEventListener("click", () => openSettings(false));
  byId("settings-form").addEventListener("submit", (event) => event.preventDefault());
  for (const button of document.querySelectorAll("[data-example]")) {
    const name = button.dataset.example;
    button.addEventListener("click", () => {
      byId(name).value = JSON.stringify(EXAMPLES[name], null, 2);
      check(name);
    });
  }
  for (const name of Object.keys(EXAMPLES)) byId(name).addEventListener("change", () => check(name));
}

/** Whether the panel covers the conversation. */
export const covers = () => !wide.matches && !byId("settings").hidden;

/** Keep the focus out of what the panel covers. */
function keepOut() {
  for (const part of document.querySelectorAll(".bar, main")) part.inert = covers();
}

/** The JSON in the field *name*; undefined if it is empty. Throws if it is none. */
function check(name) {
  const field = byId(name);
  const error = byId(`${name}-error`);
  let value;
  error.textContent = "";
  if (field.value.trim()) {
    try {
      value = JSON.parse(field.value);
    } catch (problem) {
      error.textContent = `This is not JSON: ${problem.message}`;
    }
  }
  field.setAttribute("aria-invalid", `${Boolean(error.textContent)}`);
  return value;
}

/** The fields of a request, or null: one of them is wrong, and has the focus now. */
export function readSettings() {
  const fields = {};
  const [tools, schema] = ["tools", "schema"].map(check);
  const numbers = NUMBERS.map(byId);
  const wrong =
    numbers.find((field) => !field.validity.valid) ??
    byId("settings-form").querySelector("[aria-invalid=true]");
  if (wrong) {
    openSettings(true, { focus: false });
    wrong.focus();
    wrong.reportValidity();
    return null;
  }
  for (const field of numbers) if (field.value) fields[field.id] = Number(field.value);
  const stop = byId("stop-strings").value.split("\n").filter(Boolean);
  if (stop.length) fields.stop = stop;
  if (tools !== undefined) fields.tools = tools;
  if (schema !== undefined) {
    fields.response_format = { type: "json_schema", json_schema: { name: "answer", schema } };
  }
  return fields;
}

/** The system prompt as a message, in a list that is empty without one. */
export function systemMessage() {
  const content = byId("system").value;
  return content.trim() ? [{ role: "system", content }] : [];
}
