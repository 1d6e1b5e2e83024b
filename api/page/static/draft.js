// The request that is being written: which model, what was filled in, the image, and what is wrong with it.

import { changed, state } from "./state.js";

const NUMBERS = new Set(["frames", "fps", "steps", "seed", "guidance_scale", "guidance_scale_2", "flow_shift"]);

export const draft = {
  model_id: null,
  filled: {}, // what the fields begin with, by name
  round: 0, // rises when the fields begin anew
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

/** What the form says, without what was left empty. */
export function said(form, entry) {
  const body = { model_id: entry.model_id };
  for (const [name, value] of new FormData(form)) {
    if (name === "image" || name === "fallback" || name === "model_id" || value === "") continue;
    body[name] = NUMBERS.has(name) ? Number(value) : value;
  }
  body.prompt ??= "";
  const fallback = new FormData(form).getAll("fallback");
  if (fallback.length) body.fallback = fallback;
  return body;
}

/** The body as it is sent: with the image, a form. */
export function withImage(body, entry) {
  if (!draft.image || entry.image === "refused") return body;
  const form = new FormData();
  for (const [name, value] of Object.entries(body)) {
    form.append(name, name === "fallback" ? JSON.stringify(value) : String(value));
  }
  form.append("image", draft.image);
  return form;
}
