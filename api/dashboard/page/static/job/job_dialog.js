// The dialog with one job: its video, what can be done with it, and everything that is known about it. It is opened from
// a list, and goes to the job before and after in that list.

import { answers, Unreachable } from "../base/api.js";
import { later, wrong } from "../base/awaited.js";
import { openModal } from "../base/dialogs.js";
import { h, icon, render } from "../base/dom.js";
import * as load from "../base/load.js";
import { artifactOf, badge, button, loading, note, placeTags, titleOf } from "../base/parts.js";
import { hasEnded, mergeJobs, state } from "../base/state.js";
import { again, cancelButton, erase, stateOf } from "./actions.js";
import { copy } from "./copies.js";
import { placeActions } from "../jobs/moving.js";
import { player } from "./player.js";
import { previewOf } from "./preview.js";
import { sharedLink, shareButton } from "./sharing.js";

const holder = document.getElementById("dialogs");
const stillness = matchMedia("(prefers-reduced-motion: reduce)");

let dialog = null;
let shown = null; // id
let missing = false;
let failed = null; // why the job could not be loaded
let answered = Infinity; // how many requests had been answered then, if this one was not
let neighbours = []; // ids of the list from which it was opened
let leave = () => {};
const facts = later(() => Promise.all([import("./details.js"), import("./attempts.js"), import("./request_code.js")]).then((parts) => Object.assign({}, ...parts)));
const marks = later(() => import("../gallery/marks.js")); // the favourite and the collections

/**
 * Opens the job's dialog; when it is closed, `left` is called with the id that it showed last. `among`: ids of the list
 * from which it is opened.
 */
export async function openJob(id, left, among = []) {
  leave = left;
  if (!dialog?.open || !neighbours.includes(id)) neighbours = among;
  shown = id;
  missing = false;
  failed = null;
  marks()?.forget(id);
  if (!dialog) {
    dialog = document.createElement("dialog");
    dialog.className = "dialog job-dialog";
    dialog.setAttribute("aria-labelledby", "job-title");
    dialog.addEventListener("close", closed);
    dialog.addEventListener("keydown", keys);
    dialog.addEventListener("click", (event) => {
      if (event.target === dialog) dialog.close(); // beside it
    });
    holder.append(dialog);
  }
  drawJob();
  if (!dialog.open) openModal(dialog);
  dialog.scrollTop = 0;
  await read(id);
}

/** `isAgain`: it was not asked for, so that it is not tried once more. */
async function read(id, isAgain = false) {
  failed = null;
  answered = Infinity;
  drawJob();
  try {
    const job = await load.one(id);
    mergeJobs([job]);
    if (shown === id) missing = Boolean(job.deleted);
  } catch (error) {
    if (shown === id && !state.jobs.has(id)) failed = error.message;
    if (failed && error instanceof Unreachable && !isAgain) answered = answers.count;
  }
  drawJob();
}

export function closeJob() {
  if (dialog?.open) dialog.close();
}

/** Returns the id of the open job while it has not ended, else null. */
export function watched() {
  const job = shown && state.jobs.get(shown);
  return job && !hasEnded(job) ? shown : null;
}

function closed() {
  const last = shown;
  shown = null;
  render(dialog); // the video stops
  leave(last);
}

/** Returns the videos before and after this one in the gallery, if that is behind the dialog. */
function ofGallery() {
  return document.documentElement.dataset.view === "gallery" ? state.gallery?.neighbours(shown) : null;
}

/** Returns the id of the next job in the list, or the one before; null: there is none. */
function neighbour(step) {
  const near = ofGallery();
  if (near) return (step < 0 ? near.previous : near.next) ?? null;
  const at = neighbours.indexOf(shown);
  return (at >= 0 && neighbours[at + step]) || null;
}

function keys(event) {
  if (event.altKey || event.ctrlKey || event.metaKey || event.target.closest("video, input, select, textarea, pre")) return;
  const video = dialog.querySelector("video");
  if (event.key === " " && video && !event.target.closest("a, button, summary")) {
    event.preventDefault(); // it would scroll
    if (video.paused) video.play().catch(() => {}); // it cannot be played here
    else video.pause();
  }
  const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
  const to = step && neighbour(step);
  if (to) goOn(to);
}

/** Shows another job. The next key may come before the browser has announced the new address. */
function goOn(id) {
  shown = id;
  location.replace(`#job/${id}`);
}

export function drawJob() {
  if (!shown || !dialog) return;
  if (failed && answers.count > answered) read(shown, true); // the server is back
  const job = state.jobs.get(shown);
  const title = job ? titleOf(job) : missing ? "Job not found" : failed ? "The job could not be loaded" : "Loading…";
  render(
    dialog,
    h(
      "div",
      { class: "dialog-top" },
      h("h2", { id: "job-title", tabindex: "-1", autofocus: true }, title),
      h("div", { class: "row" }, step(-1, "back"), step(1, "forward"), close()),
    ),
    job ? body(job) : h("div", { class: "dialog-body", key: "none" }, missing ? unknown() : failed ? wrong(failed, () => read(shown)) : loading()),
  );
}

function unknown() {
  return h("p", { class: "note" }, "No job has this id. It may have been deleted. ", h("a", { href: "#jobs" }, "Show all jobs"));
}

function step(by, symbol) {
  if (neighbours.length < 2 && !ofGallery()) return null;
  const to = neighbour(by);
  const label = `${by < 0 ? "Previous" : "Next"} ${ofGallery() ? "video" : "job in the list"}`;
  return h(
    "button",
    { key: symbol, type: "button", class: "icon-button", "aria-label": label, title: label, "aria-disabled": to ? undefined : "true", on: { click: () => to && goOn(to) } },
    icon(symbol),
  );
}

function close() {
  return h("button", { key: "close", type: "button", class: "icon-button", "aria-label": "Close", on: { click: () => dialog.close() } }, "✕");
}

function body(job) {
  return h(
    "div",
    { class: "dialog-body", key: job.id },
    media(job) ?? previewOf(job),
    h("div", { class: "row wrap" }, badge(job.status), hasEnded(job) ? null : placeTags(job), job.mock ? h("span", { class: "tag" }, "placeholder: not generated by a model") : null, artifactOf(job, "video") ? marks()?.memberships(job) : null),
    job.retry_of ? h("p", { class: "small", key: "origin" }, "A new job, repeated from ", h("a", { href: `#job/${job.retry_of}` }, job.retry_of), ".") : null,
    hasEnded(job) ? null : stateOf(job),
    job.error
      ? h("p", { class: "note bad", title: `Error code: ${job.error.code}` }, job.error.message, job.error.retryable ? `${/[.!?]$/.test(job.error.message) ? "" : "."} A retry may succeed.` : "")
      : null,
    (job.fallback_applied ?? []).map((one) => note(one.message)),
    (job.result?.notes ?? []).map((text) => note(text)),
    h("div", { class: "row wrap job-actions", role: "group", "aria-label": "Actions" }, actions(job)),
    sharedLink(job),
    facts() ? below(job, facts()) : facts.failed ? null : loading(),
  );
}

function below(job, { times, attempts, settings, timings, quality, result, files, manifest }) {
  return [
    times(job),
    attempts(job),
    job.type === "generation" ? [settings(job), timings(job), quality(job)] : result(job),
    files(job),
    manifest(job),
  ];
}

function actions(job) {
  const video = artifactOf(job, "video");
  const generation = job.type === "generation";
  return [
    video ? h("a", { key: "download", class: "button primary", href: video.url, download: `${job.id}-${video.name}` }, icon("download"), "Download") : null,
    hasEnded(job) ? null : cancelButton(job),
    placeActions(job),
    again(job, "primary", ""),
    shareButton(job),
    h(
      "details",
      { key: "copies", class: "copies" },
      h("summary", { class: "button" }, "Copy"),
      h(
        "ul",
        null,
        copying("Link to this page", "the link", location.href),
        copying("Job id", "the id", job.id),
        generation ? copying("Prompt", "the prompt", job.params.prompt) : null,
        generation ? copying("Seed", "the seed", String(job.params.seed)) : null,
        generation && facts() ? copying("As curl", "the request for curl", () => facts().asCurl(job)) : null,
        generation && facts() ? copying("As Python", "the request for Python", () => facts().asPython(job)) : null,
      ),
    ),
    video ? marks()?.marks(job) : null, // they come later, so they move none of those before
    h("span", { class: "apart", key: "apart" }),
    button("Delete", () => erase(job, () => dialog.close()), { key: "delete", kind: "quiet danger steer" }),
  ];
}

function copying(text, what, value) {
  const act = () => copy(typeof value === "function" ? value() : value, what);
  return h("li", { key: text }, h("button", { type: "button", class: "button quiet", on: { click: act } }, text));
}

function media(job) {
  const isLost = job.type === "generation" && job.status === "succeeded" && !job.mock && !artifactOf(job, "video");
  return isLost ? note("No video of this job is stored.") : player(job, "", { made: play });
}

/** Plays a video that has just been shown, without sound, as its card does under the pointer. */
function play(element) {
  if (stillness.matches) return;
  element.muted = true;
  element.play().catch(() => {}); // it was left before it began, or cannot be played here
}
