// Fields of the form for a new job: label, control and error message.

import { h } from "../base/dom.js";
import { number } from "../base/format.js";
import { draft } from "./draft.js";

export function field(name, label, control, more) {
  return h("div", { class: "field", key: name }, h("label", { for: `f-${name}` }, label), control, more, problem(name));
}

export function problem(name) {
  return draft.errors[name] ? h("p", { id: `e-${name}`, class: "field-error" }, draft.errors[name]) : null;
}

export const wrong = (name) =>
  draft.errors[name] ? { "aria-invalid": "true", "aria-describedby": `e-${name}` } : {};

/** Returns the number fields whose values are outside their ranges, in the order of the form: [[name, the range]]. */
export const outsideOf = (form) =>
  [...form.elements]
    // The length follows the number of frames, so that it is wrong by itself only if it was typed.
    .filter((one) => one.name && one.type === "number" && (one.name !== "seconds" || draft.isLengthTyped) && isOutside(one))
    .map((one) => [one.name, rangeOf(one)]);

const isOutside = (one) => !one.checkValidity() || (one.dataset.above !== undefined && one.value !== "" && Number(one.value) <= Number(one.min));

/** Says which values a number field takes. */
function rangeOf({ min, max, step, validity, dataset }) {
  const [least, most] = [min, max].map((limit) => number(Number(limit), 2));
  const values = dataset.above === undefined ? `${least} to ${most}` : `more than ${least}, at most ${most}`;
  return step === "1" && validity.stepMismatch ? `a whole number, ${values}` : values;
}

export const optional = (label) => [label, h("span", { class: "muted" }, " (optional)")];

const help = (text) => text && h("p", { class: "hint" }, text);

export function area(name, label, { value, rows, required, hint, more = {} }) {
  return field(
    name,
    label,
    h("textarea", { id: `f-${name}`, name, rows, value: value ?? "", required, ...more, ...wrong(name) }),
    help(hint),
  );
}

export function choice(name, label, options, value, texts = {}, hint = null) {
  return field(
    name,
    label,
    h(
      "select",
      { id: `f-${name}`, name, value, ...wrong(name) },
      options.map((one) => h("option", { key: one, value: one }, texts[one] ?? one)),
    ),
    help(hint),
  );
}

export function count(name, label, [min, max], value, placeholder, fixed = false, hint = null) {
  const range = { min, max, step: 1, inputmode: "numeric", disabled: fixed };
  return field(
    name,
    label,
    h("input", { id: `f-${name}`, name, type: "number", ...range, value, placeholder, ...wrong(name) }),
    help(hint),
  );
}

/** `above`: the least value itself is not allowed. */
export function real(name, label, value, [min, max, above = false], placeholder, fixed = false, hint = null) {
  // The decimal keyboard has no minus sign.
  const range = { min, max, "data-above": above, step: "any", inputmode: min < 0 ? undefined : "decimal", disabled: fixed };
  return field(
    name,
    label,
    h("input", { id: `f-${name}`, name, type: "number", ...range, value, placeholder, ...wrong(name) }),
    help(hint),
  );
}

export function line(name, label, value, more = {}, hint = null) {
  return field(
    name,
    label,
    h("input", { id: `f-${name}`, name, type: "text", value: value ?? "", ...more, ...wrong(name) }),
    hint && h("p", { class: "hint" }, hint),
  );
}
