// The state of the form for a new video: model, the values that were entered, picture and errors.

import { changed, state } from "../base/state.js";
import * as stored from "./stored.js";
import { keep } from "./stored_pictures.js";

const NUMBERS = new Set([
  "frames",
  "fps",
  "steps",
  "seed",
  "guidance_scale",
  "guidance_scale_2",
  "flow_shift",
  "devices_per_job",
  "count",
]);
const SPECIAL = new Set(["model_id", "image", "last_image", "fit", "fallback", "webhook_progress", "seconds"]); // not sent as they are

export const MAX_LORAS = 8; // in one request
export const MOST_VIDEOS = 16; // the same

let nextRow = 0; // the number of the next LoRA row
let saving = null;

export const draft = {
  model_id: null,
  filled: {}, // what was entered, by field; other fields have the model's defaults
  settled: null, // the prompt that was sent or copied last: another one is the user's own work
  round: 0, // increases when the fields are reset
  loras: [], // numbers of the LoRA rows
  image: null, // the picture that it starts from: {file, url, text, width, height}; text: what is known of it
  last_image: null, // the one that it ends with
  pictures: 0, // how often one was set
  errors: {}, // messages by field
  carried: new Set(), // fields whose values were entered for another model
  isLengthTyped: false, // whether the length was changed last: else it follows the number of frames
  refused: null, // why it was not created, as far as no field of the form says it: {message, again: whether to try it again, answers: how many requests were answered before, if this one was not}
  failure: null, // why the job failed whose settings were copied: {message, loras: the names of those that it blames}
  sending: false,
  key: null, // the Idempotency-Key; kept until a field changes, so that sending twice creates one job
};

/** The chosen model: at first one that is available, since that is what works now. */
export const chosen = () =>
  state.catalogue.find((entry) => entry.model_id === draft.model_id) ??
  state.catalogue.find((entry) => state.models?.[entry.model_id]?.is_available) ??
  state.catalogue[0];

/** Takes up the draft of an earlier visit. */
export function restore() {
  const kept = stored.draft();
  if (kept && typeof kept.filled === "object" && state.catalogue.some((entry) => entry.model_id === kept.model_id)) {
    resetFields(kept.model_id, kept.filled);
    draft.settled = kept.settled ?? null;
  }
}

/** Resets the fields to these values. */
export function resetFields(modelId, filled) {
  Object.assign(draft, { model_id: modelId, filled: { ...filled }, errors: {}, failure: null });
  edited();
  draft.round += 1;
  draft.loras = (filled.loras ?? []).map((_, index) => index);
  nextRow = draft.loras.length;
  changed();
}

/** Notes that the form has changed: it is another request, and what was wrong with the last one is no news. */
export function edited() {
  draft.key = null;
  draft.refused = null;
}

/** Notes an entered value. Kept in the browser once typing pauses. */
export function enter(name, value) {
  draft.filled[name] = value;
  draft.carried.delete(name);
  saveSoon();
}

export function saveSoon() {
  clearTimeout(saving);
  saving = setTimeout(save, 300);
}

export function save() {
  clearTimeout(saving);
  stored.saveDraft({ model_id: draft.model_id ?? chosen()?.model_id, filled: draft.filled, settled: draft.settled });
}

addEventListener("pagehide", () => {
  if (draft.round || draft.model_id || Object.keys(draft.filled).length) save();
});

/** Returns what was entered, if this model allows it, else its default. */
export function valueOf(entry, name) {
  const given = draft.filled[name];
  const otherwise = entry.defaults[name];
  if (given === undefined || given === null || given === "" || entry.fixed.includes(name)) return otherwise;
  const within = { frames: entry.frames, steps: entry.steps }[name];
  if (within && !(Number(given) >= within[0] && Number(given) <= within[1]) && draft.carried.has(name)) return otherwise;
  const among = { resolution: entry.resolutions, fps: entry.fps.map(String), quantization: entry.quantizations, output_format: entry.output_formats }[name];
  return among && !among.includes(String(given)) ? otherwise : given;
}

/** Sets a picture, `image` or `last_image`, {file, text, width, height}; null removes it. */
export function setPicture(name, given) {
  if (draft[name]) URL.revokeObjectURL(draft[name].url);
  draft[name] = given && { ...given, url: URL.createObjectURL(given.file) };
  draft.pictures += 1;
  keep(name, given?.file ?? null);
  edited();
  delete draft.errors[name];
  changed();
}

/** Adds a LoRA row and returns its number. */
export function addLora() {
  draft.loras.push(nextRow);
  edited();
  changed();
  return nextRow++;
}

export function dropLora(row) {
  const place = draft.loras.indexOf(row);
  draft.filled.loras = draft.filled.loras?.filter((_, index) => index !== place);
  saveSoon();
  draft.loras = draft.loras.filter((one) => one !== row);
  for (const name of ["name", "scale"]) delete draft.errors[`loras.${row}.${name}`];
  delete draft.errors.loras;
  edited();
  changed();
}

/** What the form is drawn for. Until the next drawing, the fields in the document may be another model's. */
export const formOf = (entry) => `${draft.round} ${entry.model_id}`;

/** Returns the request body from the form's fields, without empty ones. */
export function requestBody(form, entry) {
  const body = { model_id: entry.model_id };
  const data = new FormData(form);
  for (const [name, value] of data) {
    if (SPECIAL.has(name) || name.startsWith("loras.") || value === "") continue;
    body[name] = NUMBERS.has(name) ? Number(value) : value;
  }
  body.prompt ??= "";
  const fallback = data.getAll("fallback");
  if (fallback.length) body.fallback = fallback;
  if (data.has("webhook_progress")) body.webhook_progress = true;
  const loras = namedRows(data).map((row) => {
    const scale = data.get(`loras.${row}.scale`);
    return { name: data.get(`loras.${row}.name`).trim(), ...(scale === "" ? {} : { scale: Number(scale) }) };
  });
  if (loras.length) body.loras = loras;
  if (picturesOf(entry).length && data.get("fit") && data.get("fit") !== "cover") body.fit = data.get("fit");
  return body;
}

/** Returns a function from a path in the request body to the name of the form field. */
export function fieldNames(form) {
  const rows = namedRows(new FormData(form));
  return ([first, index, inner]) => (first === "loras" && inner ? `loras.${rows[index]}.${inner}` : String(first ?? ""));
}

const namedRows = (data) => draft.loras.filter((row) => data.get(`loras.${row}.name`)?.trim());

/** Returns the names of the pictures that are chosen and that the model takes. */
export const picturesOf = (entry) =>
  ["image", "last_image"].filter((name) => draft[name] && (name === "image" ? entry.image !== "refused" : entry.last_image));

/** Returns the body to send: a multipart form if there is a picture. */
export function withPictures(body, entry) {
  const names = picturesOf(entry);
  if (!names.length) return body;
  const form = new FormData();
  for (const [name, value] of Object.entries(body)) {
    form.append(name, Array.isArray(value) ? JSON.stringify(value) : String(value));
  }
  for (const name of names) form.append(name, draft[name].file);
  return form;
}
