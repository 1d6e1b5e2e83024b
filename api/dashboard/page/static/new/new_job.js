// The view for a new video: the form, the bar with the estimate, and the jobs that were submitted here.

import { answers, base, get, Unreachable, newKey, post, Problem } from "../base/api.js";
import { showMessage } from "../base/dialogs.js";
import { h } from "../base/dom.js";
import { number, sentence } from "../base/format.js";
import * as load from "../base/load.js";
import { note } from "../base/parts.js";
import { afterDrawing, changed, mergeJobs, state } from "../base/state.js";
import { chosen, draft, fieldNames, formOf, requestBody, resetFields, restore, save, setPicture, withPictures } from "./draft.js";
import { estimateBar } from "./estimate.js";
import { outsideOf } from "./form_fields.js";
import { fields, fieldChanged } from "./generation_form.js";
import { listen, restorePictures, takeFrom } from "./picture.js";
import { latest, noteSubmitted, results } from "./recent.js";
import { newSeed, noteFailure, offer, setAside } from "./reusing.js";
import * as stored from "./stored.js";

const COPIED_MS = 10_000;
const LONGEST_TEXT = 5_000; // characters

let from = null; // the job whose settings were copied last
let begun = false;

export function newJob() {
  if (!begun) begin();
  const entry = chosen();
  if (!entry) return note("The list of models is missing. Reload the page.", "bad");
  return h(
    "div",
    { class: "make" },
    h(
      "div",
      { class: "make-main" },
      h(
        "form",
        {
          key: `form-${draft.round}`,
          id: "make-form",
          class: "panel make-form",
          "data-of": formOf(entry),
          novalidate: true,
          "aria-label": "New video",
          on: { submit: send, input: fieldChanged, keydown: sendByKey },
        },
        fields(entry),
      ),
      estimateBar(entry, takeAlternative, latest()),
    ),
    h("div", { class: "make-side" }, results()),
  );
}

function begin() {
  begun = true;
  restore();
  restorePictures();
  listen();
  if (stored.aside()) offer("A draft was set aside for the settings of a job.", []);
}

addEventListener("wanworks-use-lora", ({ detail: name }) => {
  if (!begun) begin();
  const kept = (draft.filled.loras ?? []).filter((one) => one.name && one.name !== name);
  resetFields(chosen().model_id, { ...draft.filled, loras: [...kept, { name }] });
  save();
});

function sendByKey(event) {
  if (event.key !== "Enter" || !(event.ctrlKey || event.metaKey)) return;
  event.preventDefault();
  if (!draft.sending) event.currentTarget.requestSubmit();
}

/** Fills the form with a request that fits, instead of the one that does not. */
function takeAlternative(request) {
  const { model_id, ...rest } = request;
  resetFields(model_id, { ...draft.filled, ...rest, prompt: draft.filled.prompt });
  save();
}

/** Fills the form with the settings of a job (`#new?from=ID`) or selects a model (`#new?model=ID`). */
export async function startFrom(query) {
  if (!begun) begin();
  const model = query.get("model");
  if (model && state.catalogue.some((entry) => entry.model_id === model) && model !== draft.model_id) {
    resetFields(model, draft.filled);
  }
  const id = query.get("from");
  const before = from;
  from = id;
  if (!id || id === before) return;
  const job = state.jobs.get(id) ?? (await load.one(id).catch(() => null));
  if (job?.type !== "generation") return showMessage("That job no longer exists; its settings could not be copied.", "bad", { stays: false });
  const { image, last_image, ...params } = job.params;
  const fallback = params.fallback?.length ? params.fallback : undefined;
  draft.model_id ??= chosen().model_id;
  setAside(params.prompt);
  for (const name of ["image", "last_image"]) setPicture(name, null);
  resetFields(params.model_id, { ...params, fallback, priority: job.priority });
  draft.settled = params.prompt;
  if (job.status === "failed" && job.error) noteFailure(job);
  save();
  offer("The settings were copied, with the seed.", [{ text: "New seed", act: newSeed }], COPIED_MS);
  if (!image) return null;
  try {
    await takeFrom(`${base}/api/v1/jobs/${id}/image`);
    if (last_image) await takeFrom(`${base}/api/v1/jobs/${id}/image?which=last_image`, "last_image");
  } catch (error) {
    showMessage(`The picture could not be copied: ${error.message} Choose it again.`, "bad", { stays: false });
  }
  return null;
}

async function send(event) {
  event.preventDefault();
  const form = event.target;
  const entry = chosen();
  if (form.dataset.of !== formOf(entry)) return afterDrawing(() => document.getElementById("make-form")?.requestSubmit());
  const body = requestBody(form, entry);
  const fieldOf = fieldNames(form);
  draft.errors = {};
  draft.refused = null;
  Object.assign(draft.errors, Object.fromEntries(outsideOf(form)));
  if (!body.prompt.trim()) draft.errors.prompt = "Describe the video.";
  // Not by the field itself, which would cut off a longer text without a word.
  for (const name of ["prompt", "negative_prompt"]) {
    const length = [...(body[name] ?? "")].length;
    if (length > LONGEST_TEXT) draft.errors[name] = `At most ${number(LONGEST_TEXT)} characters; it has ${number(length)}.`;
  }
  if (entry.image === "required" && !draft.image) draft.errors.image = `${entry.model_id} needs an image to start from.`;
  if (Object.keys(draft.errors).length) return focusErrors(form);
  draft.sending = true;
  draft.key ??= newKey();
  changed();
  try {
    const job = await post("/api/v1/jobs/generation", withPictures(body, entry), { key: draft.key, timeout: 60_000 });
    draft.key = null;
    draft.failure = null;
    mergeJobs([job]);
    stored.rememberPrompt(body.prompt);
    draft.settled = body.prompt;
    save();
    const ids = job.job_ids ?? [job.id];
    noteSubmitted(ids, job.batch_id);
    if (ids.length > 1) get("/api/v1/jobs", { batch_id: job.batch_id, limit: 16 }).then((page) => mergeJobs(page.data), () => {}); // the feed has them too
  } catch (error) {
    if (error instanceof Problem && error.errors.length) {
      for (const { place, message } of error.errors) {
        const name = fieldOf(place);
        if (form.elements[name]) draft.errors[name] = message;
        else draft.refused = { message: `Not created. ${sentence(name)}: ${message}`, again: false };
      }
    } else if (error instanceof Problem) draft.refused = { message: `Not created. ${error.message}`, again: mayPass(error.status) };
    // It may have been created: the same key makes sure that it is not created twice.
    else if (error instanceof Unreachable) draft.refused = { message: error.message, answers: answers.count, again: true };
    else throw error;
  } finally {
    draft.sending = false;
    afterDrawing(() => refocus());
  }
  if (Object.keys(draft.errors).length) focusErrors(form);
}

/** Gives the focus, which a button that is disabled while the form is sent loses, to what can be done next. */
function refocus() {
  if (document.activeElement !== document.body || document.documentElement.dataset.view !== "new") return;
  document.querySelector(".make-bar .estimate button.again, .make-go .primary")?.focus({ preventScroll: true });
}

/** Whether the same request may succeed later. */
const mayPass = (status) => status === 408 || status === 429 || status >= 500;

function focusErrors(form) {
  afterDrawing(() => {
    form.querySelector(".advanced:has(.field-error)")?.setAttribute("open", "");
    const field = form.querySelector("[aria-invalid]");
    field?.focus();
    document.getElementById(`e-${field?.name}`)?.scrollIntoView({ block: "nearest" }); // it stands below the field
  });
}
