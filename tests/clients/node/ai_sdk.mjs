// The AI SDK with one of its providers: node ai_sdk.mjs URL PROVIDER
import { createOpenAI } from "@ai-sdk/openai";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { embedMany, generateObject, generateText, Output, stepCountIs, streamObject, streamText, tool } from "ai";
import { createOllama } from "ollama-ai-provider-v2";
import { z } from "zod";
import { errorOf, MODEL, QUESTION, report, TEXTS, WEATHER } from "./ask.mjs";

globalThis.AI_SDK_LOG_WARNINGS = false;
const [url, name] = process.argv.slice(2);
const openai = createOpenAI({ baseURL: `${url}/v1`, apiKey: "none" });
const compatible = createOpenAICompatible({
  name: "rocmforge",
  baseURL: `${url}/v1`,
  apiKey: "none",
  includeUsage: true,
  supportsStructuredOutputs: true,
});
const ollama = createOllama({ baseURL: `${url}/api` });
const PROVIDERS = {
  "openai": { chat: (id) => openai(id), embedding: (id) => openai.textEmbeddingModel(id) },
  "openai-chat": { chat: (id) => openai.chat(id), embedding: (id) => openai.textEmbeddingModel(id) },
  "openai-compatible": { chat: (id) => compatible(id), embedding: (id) => compatible.textEmbeddingModel(id) },
  "ollama": { chat: (id) => ollama(id), embedding: (id) => ollama.textEmbeddingModel(id) },
};
const provider = PROVIDERS[name];
const settings = { model: provider.chat(MODEL), temperature: 0, maxOutputTokens: 60, maxRetries: 0 };
const get_weather = tool({
  description: "The weather of a city.",
  inputSchema: z.object({ city: z.string().max(20) }),
  execute: async () => "It is sunny.",
});
const city = z.object({ city: z.string().max(20) });

function summary(result, more) {
  const { finishReason, text, usage } = result;
  return { text, finish: finishReason, input: usage.inputTokens, output: usage.outputTokens, ...more };
}

async function settle(stream) {
  const [text, finishReason, usage] = await Promise.all([stream.text, stream.finishReason, stream.usage]);
  return { text, finishReason, usage };
}

// Ollama's API cannot demand a call: there the model is shown two, as it writes them.
function askForTool() {
  if (name !== "ollama") return { prompt: WEATHER, toolChoice: "required" };
  const messages = ["Rome", "Oslo"].flatMap((place) => [
    { role: "user", content: place },
    {
      role: "assistant",
      content: `<tool_call>\n{"name": "get_weather", "arguments": {"city": "${place}"}}\n</tool_call>`,
    },
  ]);
  return { messages: [...messages, { role: "user", content: "Paris" }] };
}

await report({
  text: async () => summary(await generateText({ ...settings, system: "Be brief.", prompt: QUESTION })),
  stream: async () => {
    const stream = streamText({ ...settings, system: "Be brief.", prompt: QUESTION });
    let parts = 0;
    for await (const _ of stream.textStream) parts += 1;
    return summary(await settle(stream), { parts });
  },
  conversation: async () => {
    const first = await generateText({ ...settings, prompt: QUESTION });
    const messages = [
      { role: "user", content: QUESTION },
      ...first.response.messages,
      { role: "user", content: "And of Spain?" },
    ];
    return summary(await generateText({ ...settings, messages }));
  },
  tool: async () => {
    const result = await generateText({ ...settings, ...askForTool(), tools: { get_weather } });
    return { finish: result.finishReason, name: result.toolCalls[0]?.toolName, input: result.toolCalls[0]?.input };
  },
  streamed_tool: async () => {
    const stream = streamText({ ...settings, ...askForTool(), tools: { get_weather } });
    await stream.consumeStream();
    const [call] = await stream.toolCalls;
    return { finish: await stream.finishReason, name: call?.toolName, input: call?.input };
  },
  after_tool: async () => {
    const result = await generateText({
      ...settings,
      ...askForTool(),
      tools: { get_weather },
      stopWhen: stepCountIs(2),
      prepareStep: ({ stepNumber }) => (stepNumber === 0 ? {} : { toolChoice: "auto" }),
    });
    return result.steps.map((step) => ({ input: step.usage.inputTokens, results: step.toolResults.length }));
  },
  object: async () => (await generateObject({ ...settings, schema: city, prompt: WEATHER })).object,
  output: async () =>
    (await generateText({ ...settings, output: Output.object({ schema: city }), prompt: WEATHER })).output,
  streamed_object: async () => {
    const stream = streamObject({ ...settings, schema: city, prompt: WEATHER });
    for await (const _ of stream.partialObjectStream);
    return stream.object;
  },
  embedding: async () => {
    const { embeddings, usage } = await embedMany({
      model: provider.embedding(MODEL),
      values: TEXTS,
      maxRetries: 0,
    });
    return { lengths: embeddings.map((vector) => vector.length), input: usage.tokens };
  },
  missing: () => errorOf(() => generateText({ ...settings, model: provider.chat("other"), prompt: QUESTION })),
  wrong: () => errorOf(() => generateText({ ...settings, topP: 7, prompt: QUESTION })),
  streamed_error: async () => {
    const seen = [];
    const stream = streamText({
      ...settings,
      model: provider.chat("other"),
      prompt: QUESTION,
      onError: ({ error }) => seen.push(error),
    });
    for await (const _ of stream.textStream);
    return errorOf(() => Promise.reject(seen[0]));
  },
});
