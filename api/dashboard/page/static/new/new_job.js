// The view for a new job: the form, the estimated time, and the jobs that this page has submitted.

import { Unreachable, newKey, post, Problem } from "../base/api.js";
import { showMessage } from "../base/dialogs.js";
import { h } from "../base/dom.js";
import { chosen, draft, fieldNames, requestBody, resetFields, withImage } from "./draft.js";
import { estimatePanel } from "./estimate.js";
import { fields, fieldChanged } from "./generation_form.js";
import * as load from "../base/load.js";
import { artifactOf, badge, empty, note, progressOf, titleOf } from "../base/parts.js";
import { afterDrawing, changed, hasEnded, mergeJobs, state } from "../base/state.js";

const SHOWN = 6;

const submitted = []; // ids of the jobs that this page submitted, newest first
const announced = new Set(); // ids of those whose end was announced
let from = null; // the job whose settings were copied last

export function newJob() {
  const entry = chosen();
  if (!entry) return note("The list of models is missing. Reload the page.", "bad");
  return h(
    "div",
    { class: "make" },
    h(
      "form",
      {
        key: `form-${draft.round}`,
        class: "panel make-form",
        novalidate: true,
        "aria-label": "New video",
        on: { submit: send, input: fieldChanged },
      },
      fields(entry),
    ),
    h("div", { class: "make-side" }, estimatePanel(entry), results()),
  );
}

/** Shows a message, in any view, when a job that this page submitted has ended. */
export function announceEnds() {
  for (const job of submitted.map((id) => state.jobs.get(id))) {
    if (!job || !hasEnded(job) || announced.has(job.id)) continue;
    announced.add(job.id);
    const title = titleOf(job).slice(0, 80);
    if (job.status === "succeeded") showMessage(`Your video is ready: ${title}`, "good");
    else showMessage(`Your job ended without a video (${job.status}): ${title}`, "bad");
  }
}

/** Fills the form with the settings of a job (`#new?from=ID`) or selects a model (`#new?model=ID`). */
export async function startFrom(query) {
  const model = query.get("model");
  if (model && state.catalogue.some((entry) => entry.model_id === model) && model !== draft.model_id) {
    resetFields(model, {});
  }
  const id = query.get("from");
  const before = from;
  from = id;
  if (!id || id === before) return;
  const job = state.jobs.get(id) ?? (await load.one(id).catch(() => null));
  if (job?.type !== "generation") return;
  resetFields(job.params.model_id, { ...job.params, priority: job.priority });
  if (job.params.image) showMessage("The settings were copied. Choose the image again.");
}

async function send(event) {
  event.preventDefault();
  const form = event.target;
  const entry = chosen();
  const body = requestBody(form, entry);
  const fieldOf = fieldNames(form);
  draft.errors = {};
  draft.general = null;
  if (!body.prompt.trim()) draft.errors.prompt = "Describe the video.";
  if (entry.image === "required" && !draft.image) draft.errors.image = `${entry.model_id} needs an image to start from.`;
  if (Object.keys(draft.errors).length) return focusErrors(form);
  draft.sending = true;
  draft.key ??= newKey();
  changed();
  try {
    const job = await post("/api/v1/jobs/generation", withImage(body, entry), { key: draft.key, timeout: 60_000 });
    draft.key = null;
    mergeJobs([job]);
    if (!submitted.includes(job.id)) submitted.unshift(job.id);
    showMessage("The job is queued.", "good");
  } catch (error) {
    if (error instanceof Problem && error.errors.length) {
      for (const { place, message } of error.errors) {
        const name = fieldOf(place);
        if (form.elements[name]) draft.errors[name] = message;
        else draft.general = `${name}: ${message}`;
      }
    } else if (error instanceof Problem || error instanceof Unreachable) draft.general = error.message;
    else throw error;
  } finally {
    draft.sending = false;
    changed();
  }
  if (Object.keys(draft.errors).length) focusErrors(form);
}

function focusErrors(form) {
  afterDrawing(() => {
    form.querySelector(".advanced:has(.field-error)")?.setAttribute("open", "");
    form.querySelector("[aria-invalid]")?.focus();
  });
}

function results() {
  const jobs = submitted
    .map((id) => state.jobs.get(id))
    .filter(Boolean)
    .slice(0, SHOWN);
  return h(
    "section",
    { class: "panel", "aria-labelledby": "h-recent" },
    h("h2", { id: "h-recent" }, "Your recent jobs"),
    jobs.length ? h("ul", { class: "now" }, jobs.map(resultItem)) : empty("Jobs that you submit appear here with their progress."),
  );
}

function resultItem(job) {
  const video = artifactOf(job, "video");
  return h(
    "li",
    { key: job.id, "data-submitted": job.id },
    h(
      "div",
      { class: "row between" },
      h("a", { class: "title", href: `#job/${job.id}` }, titleOf(job)),
      badge(job.status),
    ),
    hasEnded(job) ? null : progressOf(job),
    job.error ? note(job.error.message, "bad") : null,
    (job.fallback_applied ?? []).map((one) => note(one.message)),
    video
      ? h("video", {
          key: video.url,
          class: "player small-player",
          controls: true,
          loop: true,
          preload: "metadata",
          src: video.url,
          poster: artifactOf(job, "thumbnail")?.url,
          playsinline: true,
          width: job.result.width,
          height: job.result.height,
          "aria-label": `Video: ${titleOf(job)}`,
        })
      : null,
    job.status === "succeeded"
      ? h(
          "p",
          { class: "small muted" },
          `seed ${String(job.params.seed)} · ${job.params.resolution} · `,
          h("a", { href: `#new?from=${job.id}` }, "Reuse settings"),
        )
      : null,
  );
}
