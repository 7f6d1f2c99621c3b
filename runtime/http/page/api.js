// The server, as the page uses it: paths are relative, so that a proxy may put the page below a prefix.

/** Under which the tab's session storage keeps the API key. */
export const KEY_ITEM = "rocmforge.key";

/** What the server, or the way to it, answered instead of what was asked. `parameter` is the setting at fault, or "". */
export class ApiError extends Error {
  constructor(message, parameter = "") {
    super(message);
    this.parameter = parameter;
  }
}

function headers(key) {
  return key ? { Authorization: `Bearer ${key}` } : {};
}

function errorOf(document, otherwise) {
  const error = document?.error;
  if (typeof error === "string") return new ApiError(error);
  return error?.message ? new ApiError(error.message, error.param ?? "") : new ApiError(otherwise);
}

async function ask(path, key, options = {}) {
  let response;
  try {
    response = await fetch(path, {
      cache: "no-store",
      // Without a key of its own the page relies on the login that the browser may have asked for.
      credentials: key ? "omit" : "same-origin",
      ...options,
      headers: { ...headers(key), ...options.headers },
    });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError("The server cannot be reached.");
  }
  if (response.ok) return response;
  const document = await response.json().catch(() => null);
  throw errorOf(document, `The server answered ${response.status} ${response.statusText}`.trim() + ".");
}

/** Ids of the models that are served. */
export async function listModels(key) {
  const document = await (await ask("v1/models", key)).json();
  return document.data.map((model) => model.id);
}

/** The OpenAPI document. */
export async function openApi(key) {
  return (await ask("openapi.json", key)).json();
}

/** The body of /health. */
export async function health(key) {
  return (await ask("health", key)).json();
}

/** The samples of /metrics that have no labels, by name. */
export async function metrics(key) {
  const text = await (await ask("metrics", key)).text();
  const samples = new Map();
  for (const line of text.split("\n")) {
    const found = /^([A-Za-z_:][\w:]*) (\S+)/.exec(line);
    if (found) samples.set(found[1], Number(found[2]));
  }
  return samples;
}

/** The events of a chat completion as they arrive, without the closing [DONE]. */
export async function* chat(body, key, signal) {
  const response = await ask("v1/chat/completions", key, {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify({ ...body, stream: true, stream_options: { include_usage: true } }),
    signal,
  });
  for await (const data of events(response.body)) {
    if (data === "[DONE]") return;
    const document = JSON.parse(data);
    if (document.error) throw errorOf(document, "The answer failed.");
    yield document;
  }
  throw new ApiError("The connection ended before the answer did.");
}

// The data of server-sent events; comments and other fields are of no use here. Written by hand because EventSource
// can only GET.
async function* events(body) {
  const reader = body.getReader();
  const decoder = new TextDecoder();
  let rest = "";
  let data = [];
  for (;;) {
    const { done, value } = await reader.read().catch((error) => {
      if (error.name === "AbortError") throw error;
      return { done: true };
    });
    if (done) return;
    const lines = (rest + decoder.decode(value, { stream: true })).split("\n");
    rest = lines.pop();
    for (const line of lines.map((line) => line.replace(/\r$/, ""))) {
      if (line.startsWith("data:")) data.push(line.slice(5).replace(/^ /, ""));
      if (line === "" && data.length) {
        yield data.join("\n");
        data = [];
      }
    }
  }
}
