// Vercel's AI SDK with its provider for OpenAI-compatible servers.
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { generateText, stepCountIs, streamText, tool } from "ai";
import { z } from "zod";
import { ask, equal, report, version } from "./report.mjs";

const provider = createOpenAICompatible({ name: "triton", baseURL: report.openai, includeUsage: true });
const question = { model: provider("ensemble"), prompt: "What is the capital of France?", temperature: 0, maxRetries: 0 };

function withTool(asked) {
  const weather = tool({
    description: "The weather of a city",
    inputSchema: z.object({ city: z.string() }),
    execute: async (input) => (asked.push(input), "Sunny"),
  });
  return { ...question, tools: { weather }, stopWhen: stepCountIs(2) };
}

version("@ai-sdk/openai-compatible");
if (report.scripted) {
  await ask("generateText, tools", async () => {
    const asked = [];
    const { text } = await generateText(withTool(asked));
    equal(asked, [{ city: question.prompt }]);
    return text;
  });
  await ask("streamText, tools", async () => {
    const asked = [];
    const text = await streamText(withTool(asked)).text;
    equal(asked, [{ city: question.prompt }]);
    return text;
  });
} else {
  await ask("generateText", async () => (await generateText(question)).text);
  await ask("streamText", async () => {
    const result = streamText(question);
    const text = await result.text;
    equal((await result.usage).outputTokens, 7);
    return text;
  });
  await ask("completion model", async () => {
    const model = provider.completionModel("ensemble");
    const { text } = await generateText({ model, prompt: "The capital of France is", maxOutputTokens: 24, temperature: 0, maxRetries: 0 });
    return text;
  });
}
