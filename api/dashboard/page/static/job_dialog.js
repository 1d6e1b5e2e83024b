// The dialog with all details of one job: video, times, quality, settings, files and manifest.

import { h, render } from "./dom.js";
import { bytes, megabytes, moment, NONE, number, seconds, sentence, words } from "./format.js";
import { actions } from "./jobs.js";
import * as load from "./load.js";
import { artifactOf, badge, durationOf, fact, facts, note, progressOf, score, titleOf } from "./parts.js";
import { hasEnded, mergeJobs, state } from "./state.js";

const holder = document.getElementById("dialogs");
const PHASES = ["waiting_for_model", "loading", "encoding", "denoising", "decoding", "muxing"];

let dialog = null;
let shown = null; // id
let missing = false;
let leave = () => {};

/** Opens the job's dialog; `left` is called when it is closed. */
export async function openJob(id, left) {
  leave = left;
  shown = id;
  missing = false;
  if (!dialog) {
    dialog = document.createElement("dialog");
    dialog.className = "dialog job-dialog";
    dialog.setAttribute("aria-labelledby", "job-title");
    dialog.addEventListener("close", closed);
    dialog.addEventListener("click", (event) => {
      if (event.target === dialog) dialog.close(); // beside it
    });
    holder.append(dialog);
  }
  drawJob();
  if (!dialog.open) dialog.showModal();
  try {
    const job = await load.one(id);
    mergeJobs([job]);
    missing = Boolean(job.deleted);
  } catch {
    missing = !state.jobs.has(id);
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
  shown = null;
  render(dialog); // the video stops
  leave();
}

export function drawJob() {
  if (!shown || !dialog) return;
  const job = state.jobs.get(shown);
  render(
    dialog,
    h(
      "div",
      { class: "dialog-top" },
      h("h2", { id: "job-title" }, job ? titleOf(job) : missing ? "Job not found" : "Loading…"),
      h(
        "button",
        {
          type: "button",
          class: "icon-button",
          "aria-label": "Close",
          autofocus: true,
          on: { click: () => dialog.close() },
        },
        "✕",
      ),
    ),
    job ? body(job) : missing ? note("It was deleted, or its retention period has ended.") : null,
  );
}

function body(job) {
  return h(
    "div",
    { class: "dialog-body", key: job.id },
    media(job),
    h(
      "div",
      { class: "row wrap" },
      badge(job.status),
      job.mock ? h("span", { class: "tag" }, "mock: a test card, no model's work") : null,
      h("span", { class: "spacer" }),
      actions(job, { gone: () => dialog.close() }),
    ),
    hasEnded(job) ? null : progressOf(job),
    job.error
      ? note(`${job.error.message} (${job.error.code}${job.error.retryable ? ", worth another try" : ""})`, "bad")
      : null,
    (job.fallback_applied ?? []).map((one) => note(one.message)),
    (job.result?.notes ?? []).map((text) => note(text)),
    times(job),
    job.type === "generation" ? [timings(job), quality(job), settings(job)] : result(job),
    files(job),
    manifest(job),
  );
}

function media(job) {
  const video = artifactOf(job, "video");
  if (!video) return null;
  const picture = artifactOf(job, "thumbnail");
  const { width, height } = job.result;
  return h("video", {
    key: video.url,
    class: "player",
    controls: true,
    preload: "metadata",
    src: video.url,
    poster: picture?.url,
    width,
    height,
    playsinline: true,
    loop: true,
    "aria-label": `Video: ${titleOf(job)}`,
  });
}

function times(job) {
  return facts(
    fact("Created", moment(job.created_at)),
    fact("Started", moment(job.started_at)),
    fact("Ended", moment(job.finished_at)),
    fact("Duration", seconds(durationOf(job))),
    fact("Ran on", [job.node, job.device].filter(Boolean).join(" / ") || NONE),
    fact("Attempt", job.attempt ? `${job.attempt}${job.failures ? ` (${job.failures} failed)` : ""}` : NONE),
    fact("Priority", job.priority),
  );
}

function timings(job) {
  const spent = job.result?.timings ?? {};
  const phases = Object.keys(spent).sort((a, b) => PHASES.indexOf(a) - PHASES.indexOf(b));
  const total = phases.reduce((sum, phase) => sum + spent[phase], 0);
  if (!total) return null;
  return h(
    "section",
    { class: "part" },
    h("h3", null, "Time by phase"),
    h(
      "div",
      { class: "stack-bar", "aria-hidden": "true" },
      phases.map((phase, index) =>
        h("span", { key: phase, class: `phase-${index + 1}`, css: { "flex-grow": String(spent[phase] / total) } }),
      ),
    ),
    h(
      "ul",
      { class: "phases" },
      phases.map((phase, index) =>
        h(
          "li",
          { key: phase },
          h("span", { class: `swatch phase-${index + 1}`, "aria-hidden": "true" }),
          `${sentence(phase)} `,
          h("b", null, seconds(spent[phase])),
        ),
      ),
      job.result.peak_vram_mb == null
        ? null
        : h("li", { key: "peak" }, "Peak memory ", h("b", null, megabytes(job.result.peak_vram_mb))),
      job.result.warm == null
        ? null
        : h("li", { key: "warm" }, job.result.warm ? "the model was already loaded" : "the model was loaded for this job"),
    ),
  );
}

function quality(job) {
  const found = job.result?.quality;
  if (!found) return null;
  const checks = Object.entries(found.checks);
  const failed = checks.filter(([, passed]) => passed === false).map(([name]) => words(name));
  return h(
    "section",
    { class: "part" },
    h("h3", null, "Technical quality"),
    facts(
      fact("Score", score(found.score), "Measured on the frames; does not judge the content"),
      fact(
        "Checks",
        failed.length ? `failed: ${failed.join(", ")}` : `all ${checks.length} passed`,
        checks.map(([name]) => words(name)).join(", "),
      ),
      Object.entries(found.measures).map(([name, value]) => fact(sentence(name), number(value, 3))),
    ),
  );
}

function settings(job) {
  const { params } = job;
  return h(
    "section",
    { class: "part" },
    h("h3", null, "Settings"),
    h("p", { class: "prompt" }, params.prompt),
    params.negative_prompt ? h("p", { class: "prompt muted" }, `Negative prompt: ${params.negative_prompt}`) : null,
    facts(
      fact("Model", params.model_id),
      fact("Image", params.image ? "yes" : "no"),
      fact("Resolution", params.resolution),
      fact("Frames", `${params.frames} at ${params.fps}/s`),
      fact("Steps", number(params.steps)),
      fact("Guidance", [params.guidance_scale, params.guidance_scale_2].filter((one) => one !== null).join(" / ")),
      fact("Flow shift", number(params.flow_shift, 2)),
      fact("Seed", String(params.seed)),
      fact("Quantization", params.quantization),
      fact("Format", params.output_format),
      params.loras.length ? fact("LoRAs", params.loras.map((one) => `${one.name} × ${one.scale}`).join(", ")) : null,
    ),
  );
}

/** Shows the plain values of other job types' parameters and results. */
function result(job) {
  const plain = Object.entries({ ...job.params, ...(job.result ?? {}) }).filter(([, value]) =>
    ["number", "string", "boolean"].includes(typeof value),
  );
  if (!plain.length) return null;
  return h(
    "section",
    { class: "part" },
    h("h3", null, "Details"),
    facts(plain.map(([name, value]) => fact(sentence(name), detail(name, value)))),
  );
}

function detail(name, value) {
  if (typeof value === "boolean") return value ? "yes" : "no";
  if (typeof value === "number")
    return name.includes("bytes") ? bytes(value) : name.includes("seconds") ? seconds(value) : number(value, 2);
  return value;
}

function files(job) {
  const made = job.result?.artifacts ?? [];
  if (!made.length || !made[0].url) return null;
  return h(
    "section",
    { class: "part" },
    h("h3", null, "Files"),
    h(
      "ul",
      { class: "files" },
      made.map((one) =>
        h(
          "li",
          { key: one.name },
          h("a", { href: one.url, download: `${job.id}-${one.name}` }, one.name),
          h("span", { class: "muted small" }, ` ${words(one.kind ?? "")} · ${bytes(one.bytes)}`),
        ),
      ),
    ),
  );
}

function manifest(job) {
  return h(
    "details",
    { class: "part" },
    h("summary", null, job.result?.manifest ? "Manifest to reproduce it" : "Job as JSON"),
    h("pre", { tabindex: "0" }, JSON.stringify(job.result?.manifest ?? job, null, 2)),
  );
}
