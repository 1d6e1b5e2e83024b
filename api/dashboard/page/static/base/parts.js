// Elements shared by several views. Pure functions from values to elements.

import { h, icon } from "./dom.js";
import { bytes, NONE, percent, seconds, sentence, soon, withMoments, words } from "./format.js";
import { changed, noDevice, present, state } from "./state.js";

export function badge(state, text = words(state)) {
  return h("span", { class: "badge", "data-state": state }, text);
}

/** A notice in place of, or beside, some content. Null when there is no text. */
export function note(text, kind = "") {
  return text ? h("p", { class: `note ${kind}` }, text) : null;
}

export function empty(text, ...more) {
  return h("p", { class: "empty" }, text, more);
}

/** In place of content that has not arrived yet: loading is never shown as empty. */
export function loading(what = "Loading…") {
  return h(
    "div",
    { class: "waiting", role: "status", key: "loading" },
    h("p", null, what),
    h("span", { "aria-hidden": "true" }),
    h("span", { "aria-hidden": "true" }),
  );
}

/** In place of a whole view that has nothing to show, with what to do about it. */
export function nothing(symbol, text, ...more) {
  return h("div", { class: "nothing-here", key: "nothing" }, icon(symbol), h("p", null, text), more);
}

/** A labelled value; `hint` explains it in a tooltip. */
export function fact(label, value, hint) {
  return h(
    "div",
    { class: "fact" },
    h("dt", null, label),
    h("dd", { class: value === NONE ? "none" : "", title: hint }, value),
  );
}

export function facts(...rows) {
  return h("dl", { class: "facts" }, rows);
}

/** A button. `disabled` may be the reason, which is shown as its tooltip. */
export function button(text, click, { kind = "", label, disabled, key } = {}) {
  const title = typeof disabled === "string" ? disabled : null;
  return h(
    "button",
    { key, type: "button", class: `button ${kind}`, "aria-label": label, title, disabled: Boolean(disabled), on: { click } },
    text,
  );
}

export function bar(value, label) {
  return h("progress", { max: 100, value: value ?? undefined, "aria-label": label });
}

/** When a queued job is expected to start and end. */
function expected(job) {
  if (!job.estimated_start) return "";
  // It still waits: what is due by now starts with the next report of the device.
  const when = (iso) => soon(iso, present()).replace(/^now$/, "soon");
  const end = job.estimated_end ? `, ends ${when(job.estimated_end)}` : "";
  return ` · starts ${when(job.estimated_start)}${end}`;
}

/** How long a job still takes, by its last report and the time since. */
function leftOf({ progress, progressAt = present() }) {
  const left = Math.ceil(progress.eta_seconds - (present() - progressAt) / 1000);
  return left > 0 ? `${seconds(left)} left` : "longer than estimated";
}

/** Whether the model of a job is being downloaded. */
const isDownloading = ({ model_id }) =>
  [...state.jobs.values()].some((job) => job.type === "download" && job.model_id === model_id && job.status === "running");

const EXPLAINED = new Set(["memory", "backoff", "pause", "start_time", "window", "limit", "dependency"]);

/** Describes a job's progress in one line. */
export function progressText(job) {
  const { progress } = job;
  if (job.status === "queued") {
    if (progress.phase === "waiting_for_model") return isDownloading(job) ? "downloading its model first" : "waiting for its model";
    const { reason, detail, open_devices: open } = job.waiting_for ?? {};
    const isOver = reason === "pause" && state.pauses?.length === 0; // the job was read before
    if (EXPLAINED.has(reason) && !isOver) return `waiting. ${withMoments(detail)}`;
    const none = job.type === "generation" ? noDevice() : null;
    if (none) return `waiting. No device accepts jobs: ${none}.`;
    if (open === 0) return `waiting. ${detail}`;
    return job.queue_position === null || job.queue_position === 0
      ? `next in the queue${expected(job)}`
      : `${job.queue_position_approximate ? "about " : ""}${job.queue_position} ahead${expected(job)}`;
  }
  if (job.status === "paused")
    return `paused${job.paused_by === "disk_full" ? ": the disk is full" : ""} at ${percent(progress.percent)}`;
  const parts = [percent(progress.percent)];
  if (progress.eta_seconds !== null && progress.eta_seconds !== undefined) parts.push(leftOf(job));
  const unit = progress.phase === "denoising" ? "step" : "part"; // a video is decoded a few frames at a time
  const step = progress.step && progress.steps ? `${unit} ${progress.step} of ${progress.steps}` : "";
  const doing = [sentence(progress.phase ?? "").toLowerCase(), step].filter(Boolean).join(", ");
  if (doing) parts.push(doing);
  if (progress.bytes_total) parts.push(`${bytes(progress.bytes_done ?? 0)} of ${bytes(progress.bytes_total)}`);
  if (progress.bytes_per_second) parts.push(`${bytes(progress.bytes_per_second)}/s`);
  return parts.join(" · ");
}

/** A job's progress; a bar only for one that has begun, because an empty bar looks like one that hangs. */
export function progressOf(job) {
  return h(
    "div",
    { class: "progress" },
    job.status === "queued" && !job.progress.percent ? null : bar(job.progress.percent, `Progress of ${titleOf(job)}`),
    h("span", { class: "small muted", title: progressText(job) }, progressText(job)),
  );
}

const broken = new Set(); // addresses of pictures that could not be loaded

/** Shows a picture that stands for a video; an icon while it cannot be loaded. `props`: of the image. */
export const thumbnail = (url, props = {}) =>
  !url || broken.has(url) ? icon("film") : h("img", { alt: "", loading: "lazy", ...props, src: url, on: { error: () => giveUp(url) } });

function giveUp(url) {
  broken.add(url);
  changed();
}

/** Tries again to load the pictures that could not be loaded. */
export function retryPictures() {
  if (!broken.size) return;
  broken.clear();
  changed();
}

/** How many of the jobs that were submitted at once are ready. */
export function readyOf(jobs, count) {
  const [ready, failed, cancelled] = ["succeeded", "failed", "cancelled"].map((status) => jobs.filter((job) => job.status === status).length);
  return `${ready} of ${count} ready${failed ? `, ${failed} failed` : ""}${cancelled ? `, ${cancelled} cancelled` : ""}`;
}

/** What puts a job before or behind others of the queue. */
export const placeTags = (job) => [
  job.moved_to_front_at && job.status === "queued" ? h("span", { class: "tag" }, "at the front") : null,
  job.priority === "normal" ? null : h("span", { class: "tag" }, job.priority),
];

const KINDS = {
  download: "Download",
  integrity_check: "Integrity check",
  cleanup: "Cleanup",
  prepare: "Preparation",
  benchmark: "Benchmark",
  lora_fetch: "LoRA fetch",
};

/** Returns a job's title: its prompt, or what it does. */
export function titleOf(job) {
  if (job.type === "generation") return job.params.prompt;
  if (job.type === "bulk") return `${sentence(job.params.action)}: all jobs that match`;
  const kind = KINDS[job.type] ?? job.type;
  if (job.type === "cleanup") return `${kind} of node ${job.params.node}`;
  if (job.type === "lora_fetch") return `${kind} of ${job.params.name}`;
  return `${kind} of ${job.model_id ?? "all models"}`;
}

export const artifactOf = (job, kind) => job.result?.artifacts?.find?.((one) => one.kind === kind) ?? null;

/** The whole time of a job in seconds: from the start of its first attempt, so that failed ones count. */
export function durationOf(job, now = present()) {
  const start = job.first_started_at ?? job.started_at;
  if (!start) return null;
  const end = job.finished_at ? Date.parse(job.finished_at) : now;
  return Math.max(0, (end - Date.parse(start)) / 1000);
}

/** Formats a score from 0 to 1. */
export const score = (value) => (value === null || value === undefined ? NONE : value.toFixed(2));

const CUT = 24; // characters, which a select may have no room for

const titleOfChoice = (options, value) => {
  const [, text = ""] = options.find((option) => Array.isArray(option) && option[0] === value) ?? [];
  return text.length > CUT ? text : undefined;
};

export function select(label, name, options, { value = "", change, key, disabled } = {}) {
  return h(
    "label",
    { class: "field", key },
    h("span", null, label),
    h(
      "select",
      { name, value, disabled, title: titleOfChoice(options, value), on: { change } },
      options.map((option) => {
        const [of, text] = Array.isArray(option) ? option : [option, option];
        return h("option", { key: of, value: of }, text);
      }),
    ),
  );
}
