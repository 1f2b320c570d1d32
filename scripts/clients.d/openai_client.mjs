// OpenAI's library for Node.
import OpenAI from "openai";
import { ask, equal, report, version } from "./report.mjs";

const question = "What is the capital of France?";
const client = new OpenAI({ baseURL: report.openai, apiKey: "none", maxRetries: 0 });
const chat = {
  model: "ensemble",
  messages: [{ role: "user", content: question }],
  max_tokens: 100,
  temperature: 0,
};
const parameters = { type: "object", properties: { city: { type: "string" } } };

async function streamed() {
  let text = "";
  const stream = await client.chat.completions.create({ ...chat, stream: true });
  for await (const chunk of stream) text += chunk.choices[0].delta.content ?? "";
  return text;
}

async function error() {
  try {
    await client.chat.completions.create({ ...chat, temperature: -1 });
  } catch (raised) {
    equal([raised.status, raised.param], [400, "temperature"]);
    return report.expected;
  }
  return "no error";
}

async function models() {
  const ids = [];
  for await (const model of client.models.list()) ids.push(model.id);
  equal(ids, ["ensemble"]);
  return report.expected;
}

async function runTools() {
  const asked = [];
  const weather = (args) => (asked.push(JSON.parse(args)), "Sunny");
  const tools = [{ type: "function", function: { name: "weather", parameters, function: weather } }];
  const text = await client.chat.completions.runTools({ ...chat, tools }).finalContent();
  equal(asked, [{ city: question }]);
  return text;
}

async function runToolsStreamed() {
  const asked = [];
  const weather = (args) => (asked.push(JSON.parse(args)), "Sunny");
  const tools = [{ type: "function", function: { name: "weather", parameters, function: weather } }];
  const runner = client.chat.completions.runTools({ ...chat, tools, stream: true });
  const text = await runner.finalContent();
  equal(asked, [{ city: question }]);
  return text;
}

version("openai");
if (report.scripted) {
  await ask("runTools", runTools);
  await ask("runTools, stream", runToolsStreamed);
} else {
  await ask("chat", async () => (await client.chat.completions.create(chat)).choices[0].message.content);
  await ask("chat, stream", streamed);
  await ask("chat, stream helper", () => client.chat.completions.stream(chat).finalContent());
  await ask("completions", async () => {
    const request = { model: "ensemble", prompt: report.prompt, max_tokens: 12, temperature: 0 };
    return (await client.completions.create(request)).choices[0].text;
  });
  await ask("models", models);
  await ask("errors", error);
}
