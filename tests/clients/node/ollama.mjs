// Ollama's client for Node: node ollama.mjs URL
import { Ollama } from "ollama";
import { CITY, errorOf, MODEL, QUESTION, report, TEXTS, WEATHER } from "./ask.mjs";

const client = new Ollama({ host: process.argv[2] });
const tools = [{ type: "function", function: { name: "get_weather", parameters: CITY } }];
const options = { temperature: 0, num_predict: 60 };
const BRIEF = { role: "system", content: "Be brief." };

function ask(question, more = {}) {
  return { model: MODEL, messages: [BRIEF, { role: "user", content: question }], options, ...more };
}

function summary(answer, more) {
  const { done_reason, eval_count, message, prompt_eval_count } = answer;
  return { text: message.content, finish: done_reason, input: prompt_eval_count, output: eval_count, ...more };
}

async function join(stream) {
  const joined = { content: "", tool_calls: [] };
  let parts = 0;
  let last;
  for await (last of stream) {
    joined.content += last.message.content;
    joined.tool_calls.push(...(last.message.tool_calls ?? []));
    parts += last.message.content ? 1 : 0;
  }
  return [{ ...last, message: joined }, parts];
}

// Ollama's API cannot demand a call: the model is shown two.
const shown = ["Rome", "Oslo"].flatMap((city) => [
  { role: "user", content: city },
  { role: "assistant", content: "", tool_calls: [{ function: { name: "get_weather", arguments: { city } } }] },
]);
const askForTool = { model: MODEL, messages: [...shown, { role: "user", content: "Paris" }], options, tools };

function call({ message, done_reason }) {
  const { name, arguments: input } = message.tool_calls[0].function;
  return { finish: done_reason, name, input };
}

await report({
  text: async () => summary(await client.chat(ask(QUESTION))),
  stream: async () => {
    const [answer, parts] = await join(await client.chat(ask(QUESTION, { stream: true })));
    return summary(answer, { parts });
  },
  conversation: async () => {
    const first = await client.chat(ask(QUESTION));
    const { messages } = ask(QUESTION);
    const next = [...messages, first.message, { role: "user", content: "And of Spain?" }];
    return summary(await client.chat({ model: MODEL, messages: next, options }));
  },
  tool: async () => call(await client.chat(askForTool)),
  streamed_tool: async () => call((await join(await client.chat({ ...askForTool, stream: true })))[0]),
  after_tool: async () => {
    const first = await client.chat(askForTool);
    const result = { role: "tool", tool_name: "get_weather", content: "It is sunny." };
    const second = await client.chat({ ...askForTool, messages: [...askForTool.messages, first.message, result] });
    return [
      { input: first.prompt_eval_count, results: 1 },
      { input: second.prompt_eval_count, results: 0 },
    ];
  },
  object: async () => JSON.parse((await client.chat(ask(WEATHER, { format: CITY }))).message.content),
  output: async () =>
    JSON.parse((await client.generate({ model: MODEL, prompt: WEATHER, format: CITY, options })).response),
  streamed_object: async () => {
    const [answer] = await join(await client.chat(ask(WEATHER, { format: CITY, stream: true })));
    return JSON.parse(answer.message.content);
  },
  embedding: async () => {
    const { embeddings, prompt_eval_count } = await client.embed({ model: MODEL, input: TEXTS });
    return { lengths: embeddings.map((vector) => vector.length), input: prompt_eval_count };
  },
  missing: () => errorOf(() => client.chat(ask(QUESTION, { model: "other" }))),
  wrong: () => errorOf(() => client.chat(ask(QUESTION, { options: { top_p: 7 } }))),
  streamed_error: () => errorOf(() => client.chat(ask(QUESTION, { model: "other", stream: true }))),
  listed: async () => (await client.list()).models.map((model) => model.model),
  shown: async () => (await client.show({ model: MODEL })).capabilities,
  running: async () => (await client.ps()).models.length,
});
