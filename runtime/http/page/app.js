// The chat, its settings and its keys. What a model or a person wrote is only ever set as text, never as HTML.
import { ApiError, KEY_ITEM, chat, listModels } from "./api.js";
import { watch } from "./live.js";

const NEAR_END = 40; // pixels: who has scrolled further up is reading, and is left there

const element = (id) => document.getElementById(id);
const log = element("log");
const message = element("message");

let conversation = []; // messages as the API has them, without the system prompt
let running = null; // AbortController of the answer that is under way

// --- settings

const NUMBERS = ["temperature", "top_p", "max_tokens", "seed"];
const WHOLE = new Set(["max_tokens", "seed"]);

function labelOf(field) {
  return field.labels[0].textContent;
}

/** The settings that are set. Whether a value is allowed the server knows; only what JSON cannot carry ends here. */
function readSettings() {
  const settings = {};
  for (const name of NUMBERS) {
    const field = element(name);
    if (field.value === "" && !field.validity.badInput) continue;
    const value = field.valueAsNumber;
    if (!Number.isFinite(value)) throw new ApiError(`${labelOf(field)}: expected a number`, name);
    if (WHOLE.has(name) && !Number.isSafeInteger(value)) {
      throw new ApiError(`${labelOf(field)}: expected a whole number below 2^53`, name);
    }
    settings[name] = value;
  }
  return settings;
}

function showError(error) {
  element("error").textContent = error.message;
  const field = NUMBERS.includes(error.parameter) ? element(error.parameter) : null;
  if (field) {
    field.setAttribute("aria-invalid", "true");
    field.setAttribute("aria-describedby", "error");
  }
}

function clearError() {
  element("error").textContent = "";
  for (const name of NUMBERS) {
    element(name).removeAttribute("aria-invalid");
    element(name).removeAttribute("aria-describedby");
  }
}

// --- the conversation on the page

function make(tag, className, text = "") {
  const made = document.createElement(tag);
  made.className = className;
  made.textContent = text;
  return made;
}

/** One message on the page. */
class Turn {
  constructor(role, name, text = "") {
    this.root = make("article", `turn ${role}`);
    this.body = make("div", "text", text);
    this.root.append(make("h3", "", name), this.body);
    this.reasoning = null;
    log.append(this.root);
    follow(true);
  }

  add(text) {
    append(this.body, text);
  }

  addReasoning(text) {
    if (this.reasoning === null) {
      const details = make("details", "");
      this.reasoning = make("div", "text");
      details.append(make("summary", "", "Reasoning"), this.reasoning);
      this.body.before(details);
    }
    append(this.reasoning, text);
  }

  close(facts) {
    const wanted = atEnd();
    this.root.append(make("p", "facts", facts));
    follow(wanted);
  }

  get content() {
    return this.body.textContent;
  }

  get empty() {
    return this.content === "" && this.reasoning === null;
  }
}

function append(parent, text) {
  const wanted = atEnd();
  // One text node that grows: as cheap for the last token of a long answer as for the first.
  if (parent.firstChild) parent.firstChild.appendData(text);
  else parent.append(text);
  follow(wanted);
}

function atEnd() {
  return log.scrollHeight - log.scrollTop - log.clientHeight < NEAR_END;
}

function follow(wanted) {
  if (wanted) log.scrollTop = log.scrollHeight;
}

function setRunning(controller) {
  running = controller;
  const busy = controller !== null;
  log.setAttribute("aria-busy", String(busy)); // a screen reader reads the answer once, when it is whole
  element("send").disabled = busy;
  element("clear").disabled = busy;
  element("stop").disabled = !busy;
  message.focus(); // the button that had the focus may just have been disabled
}

// --- sending

async function send() {
  const text = message.value;
  if (running || text.trim() === "") return;
  clearError();
  element("state").textContent = "";
  let settings;
  try {
    settings = readSettings();
  } catch (error) {
    showError(error);
    return;
  }
  element("empty").hidden = true;
  message.value = "";
  const question = new Turn("user", "You", text);
  const answer = new Turn("assistant", element("model").value || "Model");
  const end = await receive(requestOf(text, settings), answer);
  if (answer.empty && end.failed) {
    // Nothing came: the message goes back to where it can be sent again.
    question.root.remove();
    answer.root.remove();
    if (message.value === "") message.value = text;
  } else if (answer.content !== "") {
    conversation.push({ role: "user", content: text }, { role: "assistant", content: answer.content });
  }
  element("empty").hidden = log.querySelector(".turn") !== null;
}

function requestOf(text, settings) {
  const system = element("system").value;
  const opening = system.trim() === "" ? [] : [{ role: "system", content: system }];
  const messages = [...opening, ...conversation, { role: "user", content: text }];
  return { model: element("model").value, messages, ...settings };
}

/** Show an answer as it streams; returns whether it `failed` or was stopped. */
async function receive(request, answer) {
  const controller = new AbortController();
  setRunning(controller);
  element("state").textContent = "Answering…";
  const meter = new AnswerMeter();
  let outcome = "";
  let failed = false;
  try {
    for await (const chunk of chat(request, element("key").value, controller.signal)) {
      take(chunk, answer, meter);
    }
    outcome = meter.reason === "length" ? "Answer cut at the limit of tokens" : "Answer complete";
  } catch (error) {
    failed = true;
    const stopped = controller.signal.aborted;
    outcome = stopped ? "Stopped" : "Answer broken off";
    if (!stopped) showError(error);
  }
  const facts = `${outcome}${meter.facts()}`;
  answer.close(facts);
  setRunning(null);
  element("state").textContent = facts;
  return { failed };
}

function take(chunk, answer, meter) {
  if (chunk.usage) meter.tokens = chunk.usage.completion_tokens;
  const choice = chunk.choices?.[0];
  if (!choice) return;
  const { content, reasoning_content: reasoning } = choice.delta ?? {};
  if (reasoning) answer.addReasoning(reasoning);
  if (content) answer.add(content);
  if (content || reasoning) meter.see();
  meter.reason = choice.finish_reason ?? meter.reason;
}

/** How many tokens came, and how fast between the first and the last. */
class AnswerMeter {
  constructor() {
    this.tokens = 0;
    this.reason = "";
    this.first = this.last = NaN; // milliseconds
  }

  see() {
    this.last = performance.now();
    if (Number.isNaN(this.first)) this.first = this.last;
  }

  facts() {
    if (!this.tokens) return "";
    const rate = (1000 * (this.tokens - 1)) / (this.last - this.first);
    const speed = this.tokens > 1 && Number.isFinite(rate) ? `, ${rate.toFixed(1)} tokens/s` : "";
    return `: ${this.tokens} token${this.tokens === 1 ? "" : "s"}${speed}`;
  }
}

// --- models

async function fillModels() {
  const select = element("model");
  const chosen = select.value;
  try {
    const ids = await listModels(element("key").value);
    select.replaceChildren(...ids.map((id) => new Option(id, id, false, id === chosen)));
    clearError();
  } catch (error) {
    showError(error);
  }
}

// --- keys and buttons

function clear() {
  conversation = [];
  for (const turn of log.querySelectorAll(".turn")) turn.remove();
  element("empty").hidden = false;
  element("state").textContent = "";
  clearError();
  message.focus();
}

element("composer").addEventListener("submit", (event) => {
  event.preventDefault();
  send();
});
message.addEventListener("keydown", (event) => {
  // While an input method composes a character, Enter belongs to it.
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  send();
});
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape") running?.abort();
});
element("stop").addEventListener("click", () => running?.abort());
element("clear").addEventListener("click", clear);
element("settings").addEventListener("submit", (event) => event.preventDefault());
element("key").value = sessionStorage.getItem(KEY_ITEM) ?? "";
element("key").addEventListener("change", () => {
  sessionStorage.setItem(KEY_ITEM, element("key").value);
  fillModels();
});

fillModels();
watch(() => element("key").value, fillModels);
message.focus();
