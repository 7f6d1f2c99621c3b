// The live view: throughput, queue and KV cache, asked for while somebody can see them.
import { health, metrics } from "./api.js";

const PERIOD = 1000; // milliseconds
const POINTS = 120;
const GRAPH_HEIGHT = 40; // of the graph's own units, as its viewBox has them

const element = (id) => document.getElementById(id);

function number(value, digits = 0) {
  return Number.isFinite(value) ? value.toLocaleString("en", { maximumFractionDigits: digits }) : "–";
}

/** Tokens a second between two scrapes, from the counter: true for any number of requests, and zero when all is quiet. */
class Rate {
  constructor() {
    this.history = [];
    this.last = null;
  }

  add(tokens, now) {
    const last = this.last;
    this.last = { tokens, now };
    // A counter that went back is that of a server that started anew.
    if (last === null || tokens < last.tokens || now <= last.now) return NaN;
    const rate = (1000 * (tokens - last.tokens)) / (now - last.now);
    this.history = [...this.history, rate].slice(-POINTS);
    return rate;
  }

  reset() {
    this.last = null;
  }

  points() {
    const top = Math.max(1, ...this.history);
    const left = POINTS - this.history.length;
    return this.history.map((rate, i) => `${left + i},${(GRAPH_HEIGHT * (1 - (0.95 * rate) / top)).toFixed(1)}`).join(" ");
  }
}

const rate = new Rate();

function showHealth(document) {
  const requests = document.checks?.requests;
  const cache = document.checks?.cache;
  element("live-state").textContent = document.status === "healthy" ? "ready" : "not healthy";
  element("live-active").textContent = number(requests?.active);
  element("live-queued").textContent = number(requests?.queued);
  element("live-cache").textContent = cache ? `${number(cache.pages_used)} of ${number(cache.pages_total)} pages` : "–";
  element("live-meter").value = cache?.pages_total ? cache.pages_used / cache.pages_total : 0;
}

function showRate(samples) {
  const now = rate.add(samples.get("rocmforge_tokens_generated_total") ?? NaN, performance.now());
  element("live-rate").textContent = Number.isFinite(now) ? `${number(now, 1)} tokens/s` : "–";
  element("live-line").setAttribute("points", rate.points());
  element("live-peak").textContent = number(Math.max(0, ...rate.history), 1);
}

async function look(key) {
  try {
    showHealth(await health(key));
  } catch (error) {
    showHealth({});
    element("live-state").textContent = error.message;
    rate.reset();
    return false;
  }
  try {
    showRate(await metrics(key));
  } catch {
    rate.reset(); // a key may have the right to generate and not that to read metrics
    element("live-rate").textContent = "–";
  }
  return true;
}

/** Look every second while the page is visible; `onReturn` is called when the server answers again. */
export function watch(key, onReturn) {
  let reachable = true;
  async function turn() {
    if (!document.hidden) {
      const found = await look(key());
      if (found && !reachable) onReturn();
      reachable = found;
    } else {
      rate.reset();
    }
    setTimeout(turn, PERIOD);
  }
  turn();
}
