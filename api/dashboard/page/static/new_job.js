// Asking for a video: the form, what it will cost, and what became of the latest requests beside it.

import { Away, newKey, post, Problem } from "./api.js";
import { say } from "./dialogs.js";
import { h } from "./dom.js";
import { begin, chosen, draft, places, said, withImage } from "./draft.js";
import { cost } from "./estimate.js";
import { fields, touched } from "./generation_form.js";
import * as load from "./load.js";
import { artifactOf, badge, empty, note, progressOf, titleOf } from "./parts.js";
import { afterDrawing, changed, hasEnded, learnJobs, state } from "./state.js";

const SHOWN = 6;

const asked = []; // ids of what this page asked for, newest first
const told = new Set(); // those whose end was told
let from = null; // the job whose settings were taken over last

export function newJob() {
  const entry = chosen();
  if (!entry) return note("The page came without the models on offer; load it again.", "bad");
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
        on: { submit: send, input: touched },
      },
      fields(entry),
    ),
    h("div", { class: "make-side" }, cost(entry), results()),
  );
}

/** Tells the end of what this page asked for, whatever is looked at. */
export function tellEnds() {
  for (const job of asked.map((id) => state.jobs.get(id))) {
    if (!job || !hasEnded(job) || told.has(job.id)) continue;
    told.add(job.id);
    const title = titleOf(job).slice(0, 80);
    if (job.status === "succeeded") say(`Your video is done: ${title}`, "good");
    else say(`Your video was not made (${job.status}): ${title}`, "bad");
  }
}

/** Fills the form with what a job was made with: `#new?from=ID`; or with a model: `#new?model=ID`. */
export async function startFrom(query) {
  const model = query.get("model");
  if (model && state.catalogue.some((entry) => entry.model_id === model) && model !== draft.model_id) {
    begin(model, {});
  }
  const id = query.get("from");
  const before = from;
  from = id;
  if (!id || id === before) return;
  const job = state.jobs.get(id) ?? (await load.one(id).catch(() => null));
  if (job?.type !== "generation") return;
  begin(job.params.model_id, { ...job.params, priority: job.priority });
  if (job.params.image) say("The settings are taken over; choose the image again.");
}

async function send(event) {
  event.preventDefault();
  const form = event.target;
  const entry = chosen();
  const body = said(form, entry);
  const fieldOf = places(form);
  draft.errors = {};
  draft.general = null;
  if (!body.prompt.trim()) draft.errors.prompt = "Say what the video shall show.";
  if (entry.image === "required" && !draft.image) draft.errors.image = `${entry.model_id} starts from an image.`;
  if (Object.keys(draft.errors).length) return refused(form);
  draft.sending = true;
  draft.key ??= newKey();
  changed();
  try {
    const job = await post("/api/v1/jobs/generation", withImage(body, entry), { key: draft.key, patience: 60_000 });
    draft.key = null;
    learnJobs([job]);
    if (!asked.includes(job.id)) asked.unshift(job.id);
    say("The job is queued.", "good");
  } catch (error) {
    if (error instanceof Problem && error.errors.length) {
      for (const { place, message } of error.errors) {
        const name = fieldOf(place);
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
  afterDrawing(() => {
    form.querySelector(".advanced:has(.field-error)")?.setAttribute("open", "");
    form.querySelector("[aria-invalid]")?.focus();
  });
}

function results() {
  const jobs = asked
    .map((id) => state.jobs.get(id))
    .filter(Boolean)
    .slice(0, SHOWN);
  return h(
    "section",
    { class: "panel", "aria-labelledby": "h-asked" },
    h("h2", { id: "h-asked" }, "Asked for here"),
    jobs.length ? h("ul", { class: "now" }, jobs.map(made)) : empty("What you ask for appears here while it is made."),
  );
}

function made(job) {
  const video = artifactOf(job, "video");
  return h(
    "li",
    { key: job.id, "data-asked": job.id },
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
          h("a", { href: `#new?from=${job.id}` }, "use these settings"),
        )
      : null,
  );
}
