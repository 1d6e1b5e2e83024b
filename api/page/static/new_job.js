// Asking for a video. The form offers what the chosen model can do, says what it will cost in time from measured
// jobs, and shows what became of the latest requests beside it.

import { Away, get, newKey, post, Problem } from "./api.js";
import { say } from "./dialogs.js";
import { h } from "./dom.js";
import { bytes, gigabytes, NONE, number, plural, seconds, words } from "./format.js";
import * as load from "./load.js";
import { artifactOf, badge, empty, note, progressOf, titleOf } from "./parts.js";
import { changed, hasEnded, learnJobs, state } from "./state.js";

const PRIORITIES = ["critical", "high", "normal", "low"];
const FALLBACKS = [
  ["queue_and_wait", "wait for the model"],
  ["download_and_retry", "fetch the model first"],
  ["alternative_model", "take another model"],
  ["reduce_requirements", "make it smaller"],
  ["mock_generation", "make a test card instead"],
];
const WHOLE = new Set(["frames", "fps", "steps", "seed"]);
const REAL = new Set(["guidance_scale", "guidance_scale_2", "flow_shift"]);
const IMAGE_MB = 20;

const draft = { model_id: null, filled: {}, round: 0, image: null, imageUrl: null, errors: {}, general: null, sending: false, key: null };
const asked = []; // ids of what this page asked for, newest first
let estimate = { of: null, found: null, failed: null };

export function newJob() {
  const entry = chosen();
  if (!entry) return note("The page came without the models on offer; load it again.", "bad");
  estimateSoon();
  return h("div", { class: "make" },
    h("form", { key: `form-${draft.round}`, class: "panel make-form", novalidate: true, "aria-label": "New video", on: { submit: send, input: touched } }, fields(entry)),
    h("div", { class: "make-side" }, cost(entry), results()));
}

/** Fills the form with what a job was made with: `#new?from=ID`; or with a model: `#new?model=ID`. */
export async function startFrom(query) {
  const model = query.get("model");
  if (model && state.catalogue.some((entry) => entry.model_id === model) && model !== draft.model_id) {
    draft.model_id = model;
    draft.round += 1;
    changed();
  }
  const id = query.get("from");
  if (!id || draft.from === id) return;
  draft.from = id;
  const job = state.jobs.get(id) ?? (await load.one(id).catch(() => null));
  if (job?.type !== "generation") return;
  draft.model_id = job.params.model_id;
  draft.filled = { ...job.params, priority: job.priority };
  draft.round += 1;
  if (job.params.image) say("The settings are taken over; choose the image again.");
  changed();
}

const chosen = () => state.catalogue.find((entry) => entry.model_id === draft.model_id) ?? state.catalogue[0];

function fields(entry) {
  const given = draft.filled;
  const { defaults } = entry;
  return [
    h("div", { class: "field" },
      h("label", { for: "f-model_id" }, "Model"),
      h("select", { id: "f-model_id", name: "model_id", value: entry.model_id, "aria-describedby": "model-hint", on: { change: chooseModel } },
        state.catalogue.map((one) => h("option", { key: one.model_id, value: one.model_id }, one.model_id))),
      h("p", { id: "model-hint", class: "hint" }, hint(entry)),
      problem("model_id")),
    area("prompt", "Prompt", { value: given.prompt, required: true, rows: 4 }),
    area("negative_prompt", "Negative prompt", { value: given.negative_prompt, rows: 2, optional: true }),
    entry.image === "refused" ? null : picture(entry),
    h("div", { class: "field-grid", key: `grid-${entry.model_id}` },
      choice("resolution", "Resolution", entry.resolutions, given.resolution ?? defaults.resolution),
      count("frames", "Frames", entry.frames, given.frames ?? defaults.frames),
      choice("fps", "Frames a second", entry.fps.map(String), String(given.fps ?? defaults.fps)),
      count("steps", "Steps", entry.steps, given.steps ?? defaults.steps),
      real("guidance_scale", entry.two_experts ? "Guidance, high" : "Guidance", given.guidance_scale ?? defaults.guidance_scale),
      entry.two_experts ? real("guidance_scale_2", "Guidance, low", given.guidance_scale_2 ?? defaults.guidance_scale_2) : null,
      real("flow_shift", "Flow shift", given.flow_shift ?? defaults.flow_shift),
      count("seed", "Seed", [0, 2 ** 32 - 1], given.seed ?? "", "drawn"),
      choice("quantization", "Quantization", entry.quantizations, given.quantization ?? "none", { none: "none (native)" }),
      choice("output_format", "Format", entry.output_formats, given.output_format ?? "mp4"),
      choice("priority", "Priority", PRIORITIES, given.priority ?? "normal")),
    h("fieldset", { class: "checks" },
      h("legend", null, "If the model is not ready"),
      FALLBACKS.map(([value, text]) => h("label", { key: value, class: "check" }, h("input", { type: "checkbox", name: "fallback", value }), text)),
      problem("fallback")),
    draft.general ? h("p", { class: "note bad", role: "alert" }, draft.general) : null,
    h("div", { class: "row" }, h("button", { type: "submit", class: "button primary", disabled: draft.sending }, draft.sending ? "Sending…" : "Make the video")),
  ];
}

function hint(entry) {
  const image = { required: "Starts from your image. ", optional: "An image is optional. ", refused: "From text alone. " }[entry.image];
  const there = state.models?.[entry.model_id];
  const ready = there ? (there.is_available ? (there.is_loaded ? "Loaded and ready. " : "Ready. ") : `Its files are ${there.availability_status}. `) : "";
  return image + ready + (entry.notes ?? "");
}

function field(name, label, control, more) {
  return h("div", { class: "field", key: name }, h("label", { for: `f-${name}` }, label), control, more, problem(name));
}

function problem(name) {
  return draft.errors[name] ? h("p", { id: `e-${name}`, class: "field-error" }, draft.errors[name]) : null;
}

const wrong = (name) => (draft.errors[name] ? { "aria-invalid": "true", "aria-describedby": `e-${name}` } : {});

function area(name, label, { value, rows, optional, required }) {
  return field(name, optional ? [label, h("span", { class: "muted" }, " optional")] : label,
    h("textarea", { id: `f-${name}`, name, rows, value: value ?? "", maxlength: 5000, required, ...wrong(name) }));
}

function choice(name, label, options, value, texts = {}) {
  return field(name, label, h("select", { id: `f-${name}`, name, value, ...wrong(name) },
    options.map((one) => h("option", { key: one, value: one }, texts[one] ?? one))));
}

function count(name, label, [min, max], value, placeholder) {
  return field(name, label, h("input", { id: `f-${name}`, name, type: "number", inputmode: "numeric", min, max, step: 1, value, placeholder, ...wrong(name) }));
}

function real(name, label, value) {
  return field(name, label, h("input", { id: `f-${name}`, name, type: "number", inputmode: "decimal", min: 0, step: "any", value, ...wrong(name) }));
}

function picture(entry) {
  return h("div", { class: "field", key: "image" },
    h("label", { for: "f-image" }, "Image", entry.image === "optional" ? h("span", { class: "muted" }, " optional") : null),
    h("div", { class: "picture", on: { dragover: (event) => event.preventDefault(), drop: dropped } },
      draft.imageUrl ? h("img", { key: draft.imageUrl, src: draft.imageUrl, alt: "The chosen image" }) : null,
      h("input", { id: "f-image", name: "image", type: "file", accept: "image/png,image/jpeg,image/webp", ...wrong("image"), on: { change: (event) => choosePicture(event.target.files[0]) } }),
      draft.image
        ? h("button", { type: "button", class: "button quiet", on: { click: clearPicture } }, "Remove")
        : h("span", { class: "hint" }, `PNG, JPEG or WebP, at most ${IMAGE_MB} MB. Drop it here or choose a file.`)),
    problem("image"));
}

function dropped(event) {
  event.preventDefault();
  choosePicture(event.dataTransfer.files[0]);
}

function choosePicture(file) {
  if (!file) return;
  if (draft.imageUrl) URL.revokeObjectURL(draft.imageUrl);
  delete draft.errors.image;
  if (file.size > IMAGE_MB * 1e6) draft.errors.image = `It has ${bytes(file.size)}; at most ${IMAGE_MB} MB are taken.`;
  draft.image = file;
  draft.imageUrl = URL.createObjectURL(file);
  draft.key = null;
  changed();
}

function clearPicture() {
  if (draft.imageUrl) URL.revokeObjectURL(draft.imageUrl);
  draft.image = draft.imageUrl = draft.key = null;
  const input = document.getElementById("f-image");
  input.value = "";
  input.focus();
  changed();
}

function chooseModel(event) {
  const form = new FormData(event.target.form);
  draft.model_id = event.target.value;
  draft.filled = { prompt: form.get("prompt"), negative_prompt: form.get("negative_prompt") };
  draft.errors = {};
  changed();
}

function touched(event) {
  draft.key = null; // another request now
  if (draft.errors[event.target.name]) delete draft.errors[event.target.name];
  draft.general = null;
  changed();
}

async function send(event) {
  event.preventDefault();
  const form = event.target;
  const entry = chosen();
  const body = read(form, entry);
  draft.errors = {};
  draft.general = null;
  if (!body.prompt.trim()) draft.errors.prompt = "Say what the video shall show.";
  if (entry.image === "required" && !draft.image) draft.errors.image = `${entry.model_id} starts from an image.`;
  if (Object.keys(draft.errors).length) return refused(form);
  draft.sending = true;
  draft.key ??= newKey(); // the same until something is changed: sent twice, it is one job
  changed();
  try {
    const job = await post("/api/v1/jobs/generation", withPicture(body, entry), { key: draft.key, patience: 60_000 });
    draft.key = null;
    learnJobs([job]);
    if (!asked.includes(job.id)) asked.unshift(job.id);
    say("The job is queued.", "good");
  } catch (error) {
    if (error instanceof Problem && error.errors.length) {
      for (const { field: name, message } of error.errors) {
        if (form.elements[name]) draft.errors[name] = message;
        else draft.general = `${name}: ${message}`;
      }
    } else if (error instanceof Problem || error instanceof Away) draft.general = error.message;
    else throw error;
  } finally {
    draft.sending = false;
    changed();
  }
  if (Object.keys(draft.errors).length) refused(form);
}

function refused(form) {
  changed();
  setTimeout(() => form.querySelector("[aria-invalid]")?.focus(), 100);
}

/** What the form says, without what was left empty. */
function read(form, entry) {
  const body = { model_id: entry.model_id };
  for (const [name, value] of new FormData(form)) {
    if (name === "image" || name === "fallback" || name === "model_id" || value === "") continue;
    body[name] = WHOLE.has(name) || REAL.has(name) ? Number(value) : value;
  }
  body.prompt ??= "";
  const fallback = new FormData(form).getAll("fallback");
  if (fallback.length) body.fallback = fallback;
  return body;
}

function withPicture(body, entry) {
  if (!draft.image || entry.image === "refused") return body;
  const form = new FormData();
  for (const [name, value] of Object.entries(body)) form.append(name, name === "fallback" ? JSON.stringify(value) : String(value));
  form.append("image", draft.image);
  return form;
}

/** Asks for the estimate of what the form says, once typing has paused. */
let pause = null;
function estimateSoon() {
  const form = document.querySelector(".make-form");
  const entry = chosen();
  const said = form ? read(form, entry) : {};
  const wanted = { model_id: entry.model_id, resolution: said.resolution, frames: said.frames, steps: said.steps, quantization: said.quantization };
  const of = JSON.stringify(wanted);
  const fresh = estimate.at && Date.now() - estimate.at < 15_000;
  if (!form || (estimate.of === of && fresh) || pause) return;
  pause = setTimeout(async () => {
    pause = null;
    try {
      estimate = { of, at: Date.now(), found: await get("/api/v1/dashboard/estimate", wanted), failed: null };
    } catch (error) {
      estimate = { of, at: Date.now(), found: null, failed: error.message };
    }
    changed();
  }, 300);
}

function cost(entry) {
  const { found, failed } = estimate;
  const mine = found?.model_id === entry.model_id ? found : null;
  const work = mine?.generation_seconds;
  const loading = mine && !mine.warm ? mine.loading_seconds : 0;
  const there = state.models?.[entry.model_id];
  return h("section", { class: "panel cost", "aria-labelledby": "h-cost" },
    h("h2", { id: "h-cost" }, "What it will take"),
    h("p", { class: "cost-figure" }, work == null ? "not measured yet" : `about ${seconds(work + (loading ?? 0))}`),
    h("dl", { class: "facts" },
      line("Generation", work == null ? NONE : seconds(work)),
      line("Loading the model", mine?.warm ? "loaded already" : mine?.loading_seconds == null ? NONE : seconds(mine.loading_seconds)),
      line("Waiting before it", mine?.queue_seconds == null ? NONE : mine.queue_seconds === 0 ? "none" : `about ${seconds(mine.queue_seconds)}`),
      there && !there.is_available ? line("Download first", gigabytes(entry.download_gb)) : null),
    h("p", { class: "hint" }, failed ?? (mine?.samples ? `From the median of ${plural(mine.samples, "measured job")}, scaled to this size, length and steps.` : mine ? "No job of this model has succeeded yet under this quantization." : "Asking…")));
}

const line = (label, value) => h("div", { class: "fact", key: label }, h("dt", null, label), h("dd", { class: value === NONE ? "none" : "" }, value));

function results() {
  const jobs = asked.map((id) => state.jobs.get(id)).filter(Boolean).slice(0, 6);
  return h("section", { class: "panel", "aria-labelledby": "h-asked" },
    h("h2", { id: "h-asked" }, "Asked for here"),
    jobs.length ? h("ul", { class: "now" }, jobs.map(made)) : empty("What you ask for appears here while it is made."));
}

function made(job) {
  const video = artifactOf(job, "video");
  return h("li", { key: job.id, "data-asked": job.id },
    h("div", { class: "row between" }, h("a", { class: "title", href: `#job/${job.id}` }, titleOf(job)), badge(job.status)),
    hasEnded(job) ? null : progressOf(job),
    job.error ? note(job.error.message, "bad") : null,
    (job.fallback_applied ?? []).map((one) => note(one.message)),
    video ? h("video", { key: video.url, class: "player small-player", controls: true, loop: true, preload: "metadata", src: video.url, poster: artifactOf(job, "thumbnail")?.url, playsinline: true, width: job.result.width, height: job.result.height, "aria-label": `Video: ${titleOf(job)}` }) : null,
    job.status === "succeeded" ? h("p", { class: "small muted" }, `seed ${number(job.params.seed).replaceAll(",", "")} · ${words(job.params.resolution)} · `, h("a", { href: `#new?from=${job.id}` }, "use these settings")) : null);
}
