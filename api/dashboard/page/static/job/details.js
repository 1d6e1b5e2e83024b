// What is known about a job, in sections: times, settings, phases, quality, files, manifest.

import { base } from "../base/api.js";
import { h } from "../base/dom.js";
import { bytes, fraction, megabytes, moment, momentAfter, NONE, number, seconds, sentence, size, words } from "../base/format.js";
import { durationOf, fact, facts, score } from "../base/parts.js";
import { deviceNamed } from "../base/state.js";
import { copyButton } from "./copies.js";

const PHASES = ["waiting_for_model", "loading", "encoding", "denoising", "decoding", "muxing"];

export function times(job) {
  return facts(
    fact("Created", moment(job.created_at)),
    fact("Started", momentAfter(job.first_started_at ?? job.started_at, job.created_at)),
    fact("Ended", momentAfter(job.finished_at, job.created_at)),
    fact("Duration", seconds(durationOf(job)), job.attempt_history?.length ? "From the start of the first attempt to the end" : undefined),
    fact("Device time", job.gpu_seconds == null ? NONE : seconds(job.gpu_seconds)),
    fact("Ran on", job.gang.map((key) => deviceNamed(key)).join(", ") || (job.node ? deviceNamed(job.node, job.device) : NONE)),
    fact("Attempt", job.attempt ? `${job.attempt}${job.failures ? ` (${job.failures} failed)` : ""}` : NONE),
    fact("Priority", job.priority),
    fact("Id", [h("code", { class: "id" }, job.id), " ", copyButton(job.id, "id")]),
    job.batch_id ? fact("Batch", h("a", { href: `#jobs?batch_id=${job.batch_id}` }, "Show its jobs")) : null,
  );
}

export function timings(job) {
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

/** How each measure is shown: its name, its scale, and what it is. */
const MEASURES = {
  luma: ["Brightness", (value) => `${number(value)} of 255`, "Average luma of the frames"],
  contrast: ["Contrast", (value) => `${number(value, 1)} of 255`, "Standard deviation of luma within a frame"],
  // From this value on, the score is not lowered by it (docs/scores.md).
  sharpness: ["Sharpness", (value) => `${number(value, 2)} (sharp from 0.05)`, "Variance of the Laplacian over that of luma: more is sharper, there is no highest value"],
  frozen_share: ["Frozen frames", fraction, "Share of frames that hardly differ from the one before"],
  flicker: ["Flicker", (value) => `${number(value, 3)} of 1`, "How much the brightness of frames differs from that of their neighbours"],
};

function measure([name, value]) {
  const [label, shown, what] = MEASURES[name] ?? [sentence(name), (one) => number(one, 3), ""];
  return fact(label, value === null ? NONE : shown(value), what);
}

export function quality(job) {
  const found = job.result?.quality;
  if (!found) return null;
  const checks = Object.entries(found.checks);
  const failed = checks.filter(([, passed]) => passed === false).map(([name]) => words(name));
  return h(
    "section",
    { class: "part" },
    h("h3", null, "Technical quality"),
    facts(
      fact("Score", `${score(found.score)} of 1`),
      fact(
        "Checks",
        failed.length ? `failed: ${failed.join(", ")}` : `all ${checks.length} passed`,
        checks.map(([name]) => words(name)).join(", "),
      ),
      Object.entries(found.measures).map(measure),
    ),
    h("p", { class: "small muted" }, "Measured on the frames: blur, frozen frames and flicker lower the score. None of it judges what they show."),
  );
}

export function settings(job) {
  const { params } = job;
  return h(
    "section",
    { class: "part" },
    h("h3", null, "Settings"),
    h("div", { class: "row between top-aligned" }, h("p", { class: "prompt" }, params.prompt), copyButton(params.prompt, "prompt")),
    params.image
      ? h("img", { class: "input-picture", src: `${base}/api/v1/jobs/${job.id}/image`, alt: "The picture that the video starts from", loading: "lazy" })
      : null,
    params.negative_prompt ? h("p", { class: "prompt muted" }, `Negative prompt: ${params.negative_prompt}`) : null,
    facts(
      fact("Model", params.model_id),
      fact("Resolution", size(params.resolution)),
      fact("Frames", `${params.frames} at ${params.fps}/s`),
      fact("Steps", number(params.steps)),
      fact(
        params.guidance_scale_2 === null ? "Guidance" : "Guidance (high / low)",
        [params.guidance_scale, params.guidance_scale_2].filter((one) => one !== null).join(" / "),
        "How closely the prompt is followed: in the first, rough part, and in the second, with the details",
      ),
      fact("Flow shift", number(params.flow_shift, 2), "Higher values spend more steps on the rough shape and motion"),
      fact("Seed", [String(params.seed), " ", copyButton(String(params.seed), "seed")]),
      fact("Quantization", params.quantization),
      fact("Speed", speedOf(job)),
      params.devices_per_job > 1 ? fact("Devices", String(params.devices_per_job)) : null,
      fact("Format", params.output_format),
      params.loras.length ? fact("LoRAs", params.loras.map((one) => `${one.name} × ${one.scale}`).join(", ")) : null,
    ),
  );
}

/** Returns the tier, and what this installation has measured of it on this type of device. */
function speedOf(job) {
  const { speed } = job.params;
  const used = job.result?.speed;
  if (speed === "exact" || !used) return speed;
  if (!used.measured) return `${speed}, not measured on this type of device`;
  return `${speed}, ${used.quality === "exact" ? "" : `${used.quality} to exact: `}SSIM ${number(used.measured.ssim_mean, 3)}, ${number(used.measured.speedup, 2)} times as fast`;
}

/** Shows the plain values of other job types' parameters and results. */
export function result(job) {
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

export function files(job) {
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

export function manifest(job) {
  return h(
    "details",
    { class: "part" },
    h("summary", null, job.result?.manifest ? "Manifest to reproduce it" : "Job as JSON"),
    h("pre", { tabindex: "0" }, JSON.stringify(job.result?.manifest ?? job, null, 2)),
  );
}
