// All requests to the server: JSON in, JSON out. Throws `Problem` for an error response, `Unreachable` without one.

export class Problem extends Error {
  /** `errors`: [{field, place, message}] of a 422; `place`: the path in the body, beginning with the field. */
  constructor(status, detail, errors, more = {}) {
    super(detail);
    this.status = status;
    this.errors = errors;
    this.alternatives = more.alternatives ?? []; // requests that fit, where memory is missing
  }
}

export class Unreachable extends Error {}

/** The public path that prefixes every URL of the server; empty when it is served at the root of its host. */
export const base = document.querySelector("meta[name=wanworks-base]").content;

/** How many requests have been answered so far, whatever the answer was, and whether one was not since all was loaded last. */
export const answers = { count: 0, isMissing: false };

const TIMEOUT_MS = 20_000;

export const get = (path, query = {}) => call("GET", path + queryString(query));
export const remove = (path) => call("DELETE", path);
export const patch = (path, body) => call("PATCH", path, { body });

/** `key`: an Idempotency-Key, so that a repeated request has no second effect. `timeout`: milliseconds. */
export const post = (path, body, { key, timeout } = {}) => call("POST", path, { body, key, timeout });

export function newKey() {
  return [...crypto.getRandomValues(new Uint8Array(16))].map((one) => one.toString(16).padStart(2, "0")).join("");
}

function queryString(query) {
  const given = Object.entries(query).filter(([, value]) => value !== undefined && value !== null && value !== "");
  return given.length ? `?${new URLSearchParams(given)}` : "";
}

export async function call(method, path, { body, key, timeout = TIMEOUT_MS } = {}) {
  const headers = { Accept: "application/json" };
  if (key) headers["Idempotency-Key"] = key;
  const form = body instanceof FormData;
  if (body !== undefined && !form) headers["Content-Type"] = "application/json";
  let response;
  let result = null;
  try {
    response = await fetch(base + path, {
      method,
      headers,
      body: body === undefined || form ? body : JSON.stringify(body),
      cache: "no-store",
      signal: AbortSignal.timeout(timeout),
    });
    const text = await response.text();
    result = text ? parse(text) : null;
    answers.count += 1;
  } catch (error) {
    answers.isMissing = true;
    throw new Unreachable("The server does not respond.", { cause: error });
  }
  if (response.ok) return result;
  if (response.status === 401) location.assign(`${base}/login${location.hash}`); // the session has expired, or its key was revoked
  throw new Problem(
    response.status,
    result?.detail ?? `The server responded with status ${response.status}.`,
    fieldErrors(result),
    result ?? {},
  );
}

function parse(text) {
  try {
    return JSON.parse(text);
  } catch {
    return null; // not JSON: an error page of a proxy
  }
}

/** Returns the wrong fields of a response: [{field, place, message}]. */
export function fieldErrors(result) {
  return (result?.errors ?? []).map(({ loc, msg }) => {
    const place = ["body", "query", "header"].includes(loc[0]) ? loc.slice(1) : loc;
    return { field: String(place[0] ?? ""), place, message: msg };
  });
}
