// Formats values for display. A missing value is a dash, never a zero. Pure functions.

export const NONE = "–";
const GAP = "\u00a0"; // between a number and its unit: they stay on one line
const known = (value) => value !== null && value !== undefined && !Number.isNaN(value);

export function number(value, digits = 0) {
  return known(value) ? value.toLocaleString("en", { maximumFractionDigits: digits }) : NONE;
}

export function percent(value, digits = 0) {
  return known(value) ? `${number(value, digits)}${GAP}%` : NONE;
}

/** Formats a fraction of 1 as a percentage. */
export function fraction(value, digits = 0) {
  return known(value) ? percent(value * 100, digits) : NONE;
}

/** Formats seconds: 0.4 s, 45 s, 3 min 5 s, 2 h 5 min, 3 d 4 h. */
export function seconds(value) {
  if (!known(value)) return NONE;
  if (value < 10) return `${number(value, 1)}${GAP}s`;
  const whole = Math.round(value);
  if (whole < 60) return `${whole}${GAP}s`;
  if (whole < 3600) return two(whole, 60, "min", "s");
  if (whole < 86400) return two(Math.round(whole / 60), 60, "h", "min");
  return two(Math.round(whole / 3600), 24, "d", "h");
}

function two(value, size, large, small) {
  const rest = value % size;
  return `${Math.floor(value / size)}${GAP}${large}${rest ? `${GAP}${rest}${GAP}${small}` : ""}`;
}

/** Formats bytes in decimal units. */
export function bytes(value) {
  if (!known(value)) return NONE;
  const units = ["B", "kB", "MB", "GB", "TB"];
  let unit = 0;
  while (value >= 999.5 && unit < units.length - 1) {
    value /= 1000;
    unit += 1;
  }
  return `${number(value, unit === 0 || value >= 100 ? 0 : 1)}${GAP}${units[unit]}`;
}

export const megabytes = (value) => (known(value) ? bytes(value * 1e6) : NONE);
export const gigabytes = (value) => (known(value) ? bytes(value * 1e9) : NONE);

export function ago(iso, now = Date.now()) {
  if (!iso) return NONE;
  const passed = (now - Date.parse(iso)) / 1000;
  if (passed < 5) return "just now";
  const rough = passed < 60 ? Math.ceil(passed / 5) * 5 : passed < 3600 ? Math.floor(passed / 60) * 60 : passed;
  return `${coarse(rough)}${GAP}ago`;
}

/** Formats how long something has lasted, in the largest unit only. */
export const lasting = (iso, now = Date.now()) => (iso ? coarse(Math.max(0, (now - Date.parse(iso)) / 1000)) : NONE);

/** Formats seconds in the largest unit only. */
function coarse(value) {
  if (value < 60) return `${Math.floor(value)}${GAP}s`;
  if (value < 3600) return `${Math.floor(value / 60)}${GAP}min`;
  if (value < 86400) return `${Math.floor(value / 3600)}${GAP}h`;
  return `${Math.floor(value / 86400)}${GAP}d`;
}

// Times are shown in the browser's own zone and locale; where a date is spelt out, its zone is named.
const LOCALE = undefined;
const CLOCK = new Intl.DateTimeFormat(LOCALE, { hour: "2-digit", minute: "2-digit" });
const DAY = new Intl.DateTimeFormat(LOCALE, { day: "numeric", month: "short" });
const SPELT = { day: "numeric", month: "short", year: "numeric", hour: "2-digit", minute: "2-digit", timeZoneName: "short" };
const MINUTE = new Intl.DateTimeFormat(LOCALE, SPELT);
const WHOLE = new Intl.DateTimeFormat(LOCALE, { ...SPELT, second: "2-digit" });

const PRECISE = new Intl.DateTimeFormat(LOCALE, { hour: "2-digit", minute: "2-digit", second: "2-digit" });

export const clock = (milliseconds) => CLOCK.format(milliseconds);
export const day = (milliseconds) => DAY.format(milliseconds);
export const moment = (iso) => (iso ? WHOLE.format(Date.parse(iso)) : NONE);
export const minute = (iso) => (iso ? MINUTE.format(Date.parse(iso)) : NONE);
/** Formats a time that follows another one: without its date, if both are on the same day. */
export function momentAfter(iso, before) {
  const isSameDay = iso && before && new Date(iso).toDateString() === new Date(before).toDateString();
  return isSameDay ? PRECISE.format(Date.parse(iso)) : moment(iso);
}

/** Formats the time of a line of a log: its second, with the day unless it is today. */
export function stamp(iso, now = Date.now()) {
  const then = Date.parse(iso);
  if (Number.isNaN(then)) return iso;
  const isToday = new Date(then).toDateString() === new Date(now).toDateString();
  return `${isToday ? "" : `${day(then)} `}${PRECISE.format(then)}`;
}

/** The browser's time zone by name, for example Europe/Berlin. */
export const zone = () => new Intl.DateTimeFormat().resolvedOptions().timeZone;

/** Formats a time as the clock shows it, with the day unless it is today. */
export function at(iso, now = Date.now()) {
  if (!iso) return NONE;
  const then = Date.parse(iso);
  const today = new Date(then).toDateString() === new Date(now).toDateString();
  return today ? clock(then) : `${day(then)}, ${clock(then)}`;
}

/** Formats the moments in a text of the API, which are in ISO 8601. */
export const withMoments = (text) => text.replace(/\d{4}-\d\d-\d\dT[\d:.]+Z/g, (iso) => at(iso));

const NEAR_S = 3_570; // less than an hour once it is rounded
const MINUTE_S = 59.5;
const NOW_S = 2;

/** Formats an expected time: within an hour by how long until then, else as the clock shows it. */
export function soon(iso, now = Date.now()) {
  const left = (Date.parse(iso) - now) / 1000;
  if (left < NOW_S) return "now";
  if (left >= NEAR_S) return `about ${at(iso, now)}`;
  return `in about ${left < MINUTE_S ? seconds(Math.round(left)) : `${Math.round(left / MINUTE_S)}${GAP}min`}`;
}

export function plural(count, one, many = `${one}s`) {
  return `${number(count)} ${count === 1 ? one : many}`;
}

/** Formats a size in pixels, "256x144". */
export const size = (text) => text.replace("x", "×");

/** Replaces underscores by spaces. */
export const words = (text) => (text ?? "").replaceAll("_", " ");

export function sentence(text) {
  const spaced = words(text);
  return spaced.charAt(0).toUpperCase() + spaced.slice(1);
}
