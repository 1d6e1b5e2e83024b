// Compares two to four videos side by side: they play, pause, seek and step together. Loaded when it is first used.

import { openModal, showMessage } from "../base/dialogs.js";
import { h, render } from "../base/dom.js";
import { number, plural, sentence } from "../base/format.js";
import * as load from "../base/load.js";
import { artifactOf, button, titleOf } from "../base/parts.js";
import { star } from "./marks.js";

const holder = document.getElementById("dialogs");
const MOST = 4;
const APART = 0.5; // of a frame; a video that is farther from the first is set to its time

let dialog = null;
let jobs = [];
let playing = false;
let time = 0; // seconds
let leave = () => {};
let isTabbed = false; // whether Tab reached the focused control, which then keeps its keys

/**
 * Opens the dialog; `left` is called when it is closed by the user. Throws if the ids are not two to four, or a job cannot
 * be loaded. Does nothing if `isWanted` is no longer true once they are.
 */
export async function openCompare(ids, left, isWanted) {
  if (ids.length < 2 || ids.length > MOST) throw new Error(`A comparison has two to four videos; this address names ${ids.length}.`);
  const loaded = await Promise.all(ids.map(load.one));
  if (!isWanted()) return;
  jobs = loaded.filter((job) => !job.deleted && artifactOf(job, "video"));
  if (jobs.length < 2) throw new Error("Fewer than two of these videos exist.");
  if (jobs.length < ids.length) showMessage(`${plural(ids.length - jobs.length, "video")} of this comparison no longer exist${ids.length - jobs.length === 1 ? "s" : ""}.`, "bad");
  leave = left;
  playing = false;
  time = 0;
  isTabbed = false;
  dialog = document.createElement("dialog");
  dialog.className = "dialog compare-dialog";
  dialog.setAttribute("aria-labelledby", "compare-title");
  dialog.addEventListener("close", closed);
  dialog.addEventListener("keydown", keydown);
  dialog.addEventListener("keyup", (event) => isForAll(event) && event.preventDefault()); // Firefox clicks a button then
  dialog.addEventListener("pointerdown", () => {
    isTabbed = false;
  });
  holder.append(dialog);
  draw();
  openModal(dialog);
  requestAnimationFrame(follow);
}

function closed({ target }) {
  target.remove();
  if (target !== dialog) return; // another one is open already
  playing = false;
  dialog = null;
  leave();
}

/** Closes the dialog, because another address is shown. */
export function closeCompare() {
  leave = () => {};
  dialog?.close();
}

/** Draws the open comparison again, if there is one: what marks its videos has changed. */
export const drawCompare = () => dialog && draw();

const videos = () => [...dialog.querySelectorAll("video")];
const fps = () => Math.max(...jobs.map((job) => job.params.fps));
const length = () => Math.max(...jobs.map((job) => job.params.frames / job.params.fps));
const frame = () => Math.min(Math.floor(time * fps() + 1e-6), Math.round(length() * fps()) - 1);

function draw() {
  const last = Math.round(length() * fps()) - 1;
  render(
    dialog,
    h(
      "div",
      { class: "dialog-top" },
      h("h2", { id: "compare-title" }, `Compare ${jobs.length} videos`),
      h("button", { type: "button", class: "icon-button", "aria-label": "Close", on: { click: () => dialog.close() } }, "✕"),
    ),
    h(
      "div",
      { class: "dialog-body" },
      h(
        "div",
        { class: "side-by-side", "data-count": jobs.length },
        jobs.map((job, index) =>
          h(
            "figure",
            { key: job.id },
            h("video", {
              src: artifactOf(job, "video").url,
              poster: artifactOf(job, "thumbnail")?.url,
              preload: "auto",
              width: job.result.width,
              height: job.result.height,
              playsinline: true,
              "aria-label": `Video ${index + 1}: ${titleOf(job)}`,
              made: (element) => {
                element.muted = true;
              },
            }),
            h(
              "figcaption",
              { class: "small" },
              h("b", null, String(index + 1)),
              h("a", { class: "clamp", href: `#job/${job.id}`, title: "Open this video, to download, share or delete it" }, titleOf(job)),
              star(job),
            ),
          ),
        ),
      ),
      differences(),
    ),
    h(
      "div",
      { class: "row wrap player-row" },
      // It has the focus at first, not the button that closes: the space bar plays.
      h("button", { key: "play", type: "button", class: "button primary", autofocus: true, on: { click: toggle } }, playing ? "Pause" : "Play"),
      button("◀ Frame", () => step(-1), { key: "back", label: "One frame back" }),
      button("Frame ▶", () => step(1), { key: "on", label: "One frame on" }),
      h("input", {
        key: "seek",
        type: "range",
        class: "grow",
        min: 0,
        max: last,
        step: 1,
        "aria-label": "Frame",
        own: (range) => {
          range.value = String(frame());
        },
        on: { input: (event) => seek(Number(event.target.value)) },
      }),
      h("span", { key: "at", class: "small muted", "data-frame": frame() }, `frame ${frame() + 1} of ${last + 1}`),
    ),
  );
}

function toggle() {
  playing = !playing;
  if (playing && time >= length() - 1 / fps()) time = 0;
  for (const video of videos()) {
    setTime(video);
    if (playing) video.play().catch(() => {});
    else video.pause();
  }
  if (!playing) seek(frame());
  draw();
}

/** Shows a frame of all videos. A time in its middle is on no boundary, so each browser shows the same frame. */
function seek(wanted) {
  playing = false;
  const last = Math.round(length() * fps()) - 1;
  time = (Math.min(last, Math.max(0, wanted)) + 0.5) / fps();
  for (const video of videos()) {
    video.pause();
    setTime(video);
  }
  draw();
}

const step = (by) => seek(frame() + by);

function setTime(video) {
  const end = Number.isFinite(video.duration) ? Math.max(0, video.duration - 0.001) : time;
  video.currentTime = Math.min(time, end);
}

/** Keeps the others at the time of the longest video while they play. */
function follow() {
  if (!dialog) return;
  requestAnimationFrame(follow);
  if (!playing) return;
  const all = videos();
  const leader = all.reduce((one, other) => ((other.duration || 0) > (one.duration || 0) ? other : one));
  time = leader.currentTime;
  for (const video of all) {
    if (video !== leader && !video.ended && Math.abs(video.currentTime - time) > APART / fps()) setTime(video);
  }
  if (leader.ended) playing = false;
  draw();
}

/** Whether a key is the space bar and plays or pauses, wherever a click has put the focus. A button reached by Tab keeps it. */
const isForAll = (event) => event.key === " " && !(isTabbed && event.target.matches("button"));

function keydown(event) {
  if (event.key === "Tab") isTabbed = true;
  if (event.altKey || event.ctrlKey || event.metaKey) return;
  if (isForAll(event)) {
    if (!event.repeat) toggle();
  } else if (event.target.matches("input") || (isTabbed && event.target.matches(".sideways"))) return;
  else if (event.key === "ArrowLeft") step(-1);
  else if (event.key === "ArrowRight") step(1);
  else return;
  event.preventDefault();
}

/** Returns a table of the settings that are not equal in all of them. */
function differences() {
  const names = Object.keys(jobs[0].params).filter((name) => new Set(jobs.map((job) => shown(job.params[name]))).size > 1);
  if (!names.length) return h("p", { class: "muted" }, "All settings are equal.");
  return h(
    "div",
    { class: "sideways", tabindex: "0", role: "region", "aria-labelledby": "h-differ" },
    h(
      "table",
      { class: "figures differences" },
      h("caption", { id: "h-differ" }, "Settings that differ"),
      h("thead", null, h("tr", null, h("td"), jobs.map((job, index) => h("th", { key: job.id, scope: "col" }, String(index + 1))))),
      h(
        "tbody",
        null,
        names.map((name) =>
          h(
            "tr",
            { key: name },
            h("th", { scope: "row" }, sentence(name)),
            jobs.map((job) => h("td", { key: job.id }, shown(job.params[name]))),
          ),
        ),
      ),
    ),
  );
}

function shown(value) {
  if (value === null || value === undefined) return "–";
  if (typeof value === "boolean") return value ? "yes" : "no";
  if (typeof value === "number") return Number.isInteger(value) ? String(value) : number(value, 3);
  if (Array.isArray(value)) return value.map((one) => (one.name ? `${one.name} × ${one.scale}` : String(one))).join(", ") || "none";
  return String(value);
}
