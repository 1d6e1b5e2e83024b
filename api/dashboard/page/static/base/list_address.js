// The list's state in the address: filters, search, dates, order, page size and page. Pure functions.

export const NAMES = ["type", "status", "model_id", "batch_id", "search", "from", "to"];
export const TYPES = ["generation", "download", "integrity_check", "cleanup", "prepare", "benchmark", "lora_fetch", "bulk"];
export const STATES = ["queued", "running", "paused", "succeeded", "failed", "cancelled"];
export const ORDERS = ["queue", "newest", "oldest"];
export const SIZES = [10, 25, 50, 100];
const MOST_PAGES = 40; // whose cursors the address keeps

/** Reads the state from the query of an address, for example `#jobs?status=failed&size=50`. */
export function read(query) {
  const size = Number(query.get("size"));
  return {
    filters: Object.fromEntries(NAMES.map((name) => [name, query.get(name) ?? ""])),
    order: ORDERS.includes(query.get("order")) ? query.get("order") : "queue",
    size: SIZES.includes(size) ? size : 25,
    after: query.getAll("after"),
  };
}

/** Returns the address of a state; what is as usual is left out. */
export function write({ filters, order, size, after }) {
  const query = new URLSearchParams(Object.entries(filters).filter(([, value]) => value));
  if (order !== "queue") query.set("order", order);
  if (size !== 25) query.set("size", size);
  for (const one of after.slice(-MOST_PAGES)) query.append("after", one);
  return query.size ? `jobs?${query}` : "jobs";
}

/** Whether the first of two days is after the second: nothing is between them. */
export const isReversed = ({ from, to }) => Boolean(from && to && from > to);

const DAY = /^\d{4}-\d\d-\d\d$/;
const isDay = (text) => DAY.test(text) && !Number.isNaN(Date.parse(text));

/** Says why no job can match the filters of an address; null: some can. */
export function misfit(filters) {
  const { status, type, from, to } = filters;
  if (status && !STATES.includes(status)) return `There is no status “${status}”.`;
  if (type && !TYPES.includes(type)) return `There is no type of jobs “${type}”.`;
  for (const day of [from, to]) if (day && !isDay(day)) return `“${day}” is not a date.`;
  return isReversed(filters) ? "“From” is after “To”: no day is between them." : null;
}

const FIELDS = { batch_id: "batch", model_id: "model", after: "page" };

/** Says which value of the address the server does not know. */
export function refusal({ errors: [{ field = "", message = "" } = {}] = [] }, { filters, after }) {
  const value = field === "after" ? after.at(-1) : filters[field];
  return value && FIELDS[field] ? `There is no ${FIELDS[field]} “${value}”.` : `The address of this list has a mistake: ${field} ${message}`;
}

/** The order in which the server can list: a search, dates and a batch have no place in the queue. */
export function orderOf({ filters, order }) {
  return order === "queue" && ["search", "from", "to", "batch_id"].some((name) => filters[name]) ? "newest" : order;
}

/** Returns the filters as the API takes them: days of the browser's zone become moments. */
export function asked(filters) {
  const { from, to, ...rest } = filters;
  const found = Object.fromEntries(Object.entries(rest).filter(([, value]) => value));
  if (from) found.created_after = new Date(new Date(`${from}T00:00:00`).getTime() - 1).toISOString();
  if (to) found.created_before = nextDay(to).toISOString();
  return found;
}

function nextDay(day) {
  const moment = new Date(`${day}T00:00:00`);
  moment.setDate(moment.getDate() + 1);
  return moment;
}

export const isFiltered = (filters) => Object.values(filters).some(Boolean);
