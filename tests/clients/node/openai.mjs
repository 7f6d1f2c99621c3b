// OpenAI's client for Node: node openai.mjs URL
import OpenAI from "openai";
import { zodResponseFormat } from "openai/helpers/zod";
import { z } from "zod";
import { CITY, errorOf, MODEL, QUESTION, report, TEXTS, WEATHER } from "./ask.mjs";

const client = new OpenAI({ baseURL: `${process.argv[2]}/v1`, apiKey: "none", maxRetries: 0 });
const tools = [{ type: "function", function: { name: "get_weather", parameters: CITY } }];

function ask(question, more = {}) {
  const messages = [
    { role: "system", content: "Be brief." },
    { role: "user", content: question },
  ];
  return { model: MODEL, messages, temperature: 0, max_tokens: 60, ...more };
}

function summary(completion, more) {
  const { finish_reason, message } = completion.choices[0];
  const { prompt_tokens, completion_tokens } = completion.usage;
  return { text: message.content, finish: finish_reason, input: prompt_tokens, output: completion_tokens, ...more };
}

function call(completion) {
  const { finish_reason, message } = completion.choices[0];
  const { name, arguments: input } = message.tool_calls[0].function;
  return { finish: finish_reason, name, input: JSON.parse(input) };
}

const forced = { tools, tool_choice: "required" };
const format = zodResponseFormat(z.object({ city: z.string().max(20) }), "city");

await report({
  text: async () => summary(await client.chat.completions.create(ask(QUESTION))),
  stream: async () => {
    let parts = 0;
    const stream = client.chat.completions.stream(ask(QUESTION, { stream_options: { include_usage: true } }));
    stream.on("content", () => (parts += 1));
    return summary(await stream.finalChatCompletion(), { parts });
  },
  conversation: async () => {
    const first = ask(QUESTION);
    const { message } = (await client.chat.completions.create(first)).choices[0];
    const messages = [...first.messages, message, { role: "user", content: "And of Spain?" }];
    return summary(await client.chat.completions.create({ ...first, messages }));
  },
  tool: async () => call(await client.chat.completions.create(ask(WEATHER, forced))),
  streamed_tool: async () => call(await client.chat.completions.stream(ask(WEATHER, forced)).finalChatCompletion()),
  after_tool: async () => {
    const asked = ask(WEATHER, forced);
    const first = await client.chat.completions.create(asked);
    const { message } = first.choices[0];
    const result = { role: "tool", tool_call_id: message.tool_calls[0].id, content: "It is sunny." };
    const next = { ...asked, messages: [...asked.messages, message, result], tool_choice: "auto" };
    const second = await client.chat.completions.create(next);
    return [
      { input: first.usage.prompt_tokens, results: 1 },
      { input: second.usage.prompt_tokens, results: 0 },
    ];
  },
  object: async () =>
    (await client.chat.completions.parse(ask(WEATHER, { response_format: format }))).choices[0].message.parsed,
  output: async () => {
    const shape = { format: { type: "json_schema", name: "city", schema: CITY, strict: true } };
    const body = { model: MODEL, input: WEATHER, text: shape, temperature: 0, max_output_tokens: 60 };
    return (await client.responses.parse(body)).output_parsed;
  },
  streamed_object: async () => {
    const stream = client.chat.completions.stream(ask(WEATHER, { response_format: format }));
    return (await stream.finalChatCompletion()).choices[0].message.parsed;
  },
  embedding: async () => {
    const { data, usage } = await client.embeddings.create({ model: MODEL, input: TEXTS });
    return { lengths: data.map((entry) => entry.embedding.length), input: usage.prompt_tokens };
  },
  missing: () => errorOf(() => client.chat.completions.create(ask(QUESTION, { model: "other" }))),
  wrong: () => errorOf(() => client.chat.completions.create(ask(QUESTION, { top_p: 7 }))),
  streamed_error: () => errorOf(() => client.chat.completions.create(ask(QUESTION, { model: "other", stream: true }))),
});
