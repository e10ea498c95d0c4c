// The server: one call, its errors as sentences, and the key.

const KEY = "rabtriever.key"; // in sessionStorage
const UNREACHABLE = "The server cannot be reached. See whether rabtriever serve is running, then try again.";
const NO_KEY = "Without a key this server answers nothing. Search again to give one.";
const PATIENCE = { 429: 3, 503: 100 }; // how often a request is repeated that came too early
let ask = async () => null; // how a key is asked for: (whether one was refused) -> whether there is one now
let asking = null;

export class ApiError extends Error {
  constructor(status, message, param = null, retry = null) {
    super(message);
    Object.assign(this, { status, param, retry });
  }
}

export function onKeyNeeded(asks) {
  ask = asks;
}

export function setKey(key) {
  sessionStorage.setItem(KEY, key);
}

function headers(key, body) {
  return { ...(key && { Authorization: `Bearer ${key}` }), ...(body && { "Content-Type": "application/json" }) };
}

// An answer's JSON; null if it has none. Throws ApiError, or AbortError once the signal is aborted.
export async function call(path, { body = null, method = body ? "POST" : "GET", signal = null } = {}) {
  for (;;) {
    const key = sessionStorage.getItem(KEY);
    let response;
    let answer = null;
    try {
      const sent = { method, signal, headers: headers(key, body), body: body && JSON.stringify(body), cache: "no-store" };
      response = await fetch(new URL(path, document.baseURI), sent);
      const text = await response.text();
      if (text && response.headers.get("Content-Type")?.includes("json")) answer = JSON.parse(text);
    } catch {
      signal?.throwIfAborted();
      throw new ApiError(0, UNREACHABLE);
    }
    signal?.throwIfAborted();
    if (response.ok) return answer;
    if (response.status !== 401) throw problem(response, answer);
    if (sessionStorage.getItem(KEY) !== key) continue; // another request has got one meanwhile
    sessionStorage.removeItem(KEY);
    if (!(await askOnce(key !== null))) throw new ApiError(401, NO_KEY);
    signal?.throwIfAborted();
  }
}

export function askOnce(refused) {
  asking ??= ask(refused).finally(() => {
    asking = null;
  });
  return asking;
}

// The same, again after a while as long as the server is loading or busy; `waiting(sentence)` is told.
export async function patiently(path, options, waiting) {
  for (let tries = 0; ; tries += 1) {
    try {
      return await call(path, options);
    } catch (error) {
      if (!(tries < PATIENCE[error.status])) throw error;
      const seconds = Math.max(1, error.retry ?? 2);
      const why = error.status === 503 ? "The server is not ready yet" : "The server is busy";
      waiting(`${why}; trying again in ${seconds} s.`);
      await sleep(1000 * seconds, options.signal);
    }
  }
}

// What a search answers, or no hits and why it cannot.
export async function attempt(ask, signal) {
  try {
    return await ask();
  } catch (error) {
    signal.throwIfAborted();
    return { hits: [], timings: null, unable: error.message };
  }
}

function sleep(time, signal) {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(resolve, time);
    signal?.addEventListener("abort", () => {
      clearTimeout(timer);
      reject(signal.reason);
    });
  });
}

function problem(response, answer) {
  const retry = Number.parseInt(response.headers.get("Retry-After"), 10);
  const told = answer?.error?.message ?? answer?.message;
  return new ApiError(
    response.status,
    told ? sentence(told) : `The server answered with status ${response.status}. Try again, or look at its log.`,
    answer?.error?.param ?? null,
    Number.isNaN(retry) ? null : retry,
  );
}

function sentence(text) {
  const whole = text.charAt(0).toUpperCase() + text.slice(1);
  return /[.!?]$/.test(whole) ? whole : `${whole}.`;
}
