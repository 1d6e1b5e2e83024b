// The one way to the server: JSON in, JSON out, problems as `Problem`, an unreachable server as `Away`.

export class Problem extends Error {
  /** `errors`: [{field, place, message}] of a 422; `place`: where in the body, from the field on. */
  constructor(status, detail, errors) {
    super(detail);
    this.status = status;
    this.errors = errors;
  }
}

export class Away extends Error {}

/** The public path before every address of the server's: empty at the root of its host. */
export const base = document.querySelector("meta[name=wanworks-base]").content;

const PATIENCE_MS = 20_000;

export const get = (path, query = {}) => call("GET", path + queryString(query));
export const remove = (path) => call("DELETE", path);

/** `key`: an Idempotency-Key, so that asking again after a lost answer makes nothing twice. */
export const post = (path, body, { key, patience } = {}) => call("POST", path, { body, key, patience });

export function newKey() {
  return [...crypto.getRandomValues(new Uint8Array(16))].map((one) => one.toString(16).padStart(2, "0")).join("");
}

function queryString(query) {
  const given = Object.entries(query).filter(([, value]) => value !== undefined && value !== null && value !== "");
  return given.length ? `?${new URLSearchParams(given)}` : "";
}

async function call(method, path, { body, key, patience = PATIENCE_MS } = {}) {
  const headers = { Accept: "application/json" };
  if (key) headers["Idempotency-Key"] = key;
  const form = body instanceof FormData;
  if (body !== undefined && !form) headers["Content-Type"] = "application/json";
  let response;
  let answer = null;
  try {
    response = await fetch(base + path, {
      method,
      headers,
      body: body === undefined || form ? body : JSON.stringify(body),
      cache: "no-store",
      signal: AbortSignal.timeout(patience),
    });
    const text = await response.text();
    answer = text ? parse(text) : null;
  } catch (error) {
    throw new Away("The server does not answer.", { cause: error });
  }
  if (response.ok) return answer;
  if (response.status === 401) location.assign(`${base}/login`); // the session is over, or its key was revoked
  throw new Problem(response.status, answer?.detail ?? `The server answered ${response.status}.`, fieldErrors(answer));
}

function parse(text) {
  try {
    return JSON.parse(text);
  } catch {
    return null; // a proxy's page, not the server's words
  }
}

function fieldErrors(answer) {
  return (answer?.errors ?? []).map(({ loc, msg }) => {
    const place = ["body", "query", "header"].includes(loc[0]) ? loc.slice(1) : loc;
    return { field: String(place[0] ?? ""), place, message: msg };
  });
}
