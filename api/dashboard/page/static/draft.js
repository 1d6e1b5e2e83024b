// The request that is being written: which model, what was filled in, the image, and what is wrong with it.

import { changed, state } from "./state.js";

const NUMBERS = new Set(["frames", "fps", "steps", "seed", "guidance_scale", "guidance_scale_2", "flow_shift"]);
const APART = new Set(["model_id", "image", "fallback", "webhook_progress"]); // said in ways of their own

export const LORAS = 8; // that one request may name

let rows = 0; // for LoRAs, that there ever were since the fields began

export const draft = {
  model_id: null,
  filled: {}, // what the fields begin with, by name
  round: 0, // rises when the fields begin anew
  loras: [], // the rows that there are for LoRAs, by number
  image: null, // a File
  imageUrl: null,
  errors: {}, // by field
  general: null, // what is wrong with no field of the form
  sending: false,
  key: null, // the Idempotency-Key; the same until something is changed, so that sent twice it is one job
};

export const chosen = () => state.catalogue.find((entry) => entry.model_id === draft.model_id) ?? state.catalogue[0];

/** The fields begin anew, with these values. */
export function begin(modelId, filled) {
  Object.assign(draft, { model_id: modelId, filled, errors: {}, general: null, key: null });
  draft.round += 1;
  draft.loras = (filled.loras ?? []).map((_, index) => index);
  rows = draft.loras.length;
  changed();
}

/** Takes the image, or none. */
export function setImage(file) {
  if (draft.imageUrl) URL.revokeObjectURL(draft.imageUrl);
  draft.image = file;
  draft.imageUrl = file ? URL.createObjectURL(file) : null;
  draft.key = null;
  delete draft.errors.image;
  changed();
}

/** One more row for a LoRA; its number. */
export function addLora() {
  draft.loras.push(rows);
  changed();
  return rows++;
}

export function dropLora(row) {
  draft.loras = draft.loras.filter((one) => one !== row);
  for (const name of ["name", "scale"]) delete draft.errors[`loras.${row}.${name}`];
  delete draft.errors.loras;
  draft.key = null;
  changed();
}

/** What the form says, without what was left empty. */
export function said(form, entry) {
  const body = { model_id: entry.model_id };
  const data = new FormData(form);
  for (const [name, value] of data) {
    if (APART.has(name) || name.startsWith("loras.") || value === "") continue;
    body[name] = NUMBERS.has(name) ? Number(value) : value;
  }
  body.prompt ??= "";
  const fallback = data.getAll("fallback");
  if (fallback.length) body.fallback = fallback;
  if (data.has("webhook_progress")) body.webhook_progress = true;
  const loras = named(data).map((row) => {
    const scale = data.get(`loras.${row}.scale`);
    return { name: data.get(`loras.${row}.name`).trim(), ...(scale === "" ? {} : { scale: Number(scale) }) };
  });
  if (loras.length) body.loras = loras;
  return body;
}

/** From the place in a body that this form says now to the name of the field that it comes from. */
export function places(form) {
  const rows = named(new FormData(form));
  return ([first, index, inner]) => (first === "loras" && inner ? `loras.${rows[index]}.${inner}` : String(first ?? ""));
}

const named = (data) => draft.loras.filter((row) => data.get(`loras.${row}.name`)?.trim());

/** The body as it is sent: with the image, a form. */
export function withImage(body, entry) {
  if (!draft.image || entry.image === "refused") return body;
  const form = new FormData();
  for (const [name, value] of Object.entries(body)) {
    form.append(name, Array.isArray(value) ? JSON.stringify(value) : String(value));
  }
  form.append("image", draft.image);
  return form;
}
