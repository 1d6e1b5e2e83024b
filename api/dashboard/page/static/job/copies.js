// Copies things of a job to the clipboard.

import { showMessage, topmost } from "../base/dialogs.js";
import { button } from "../base/parts.js";

/** Copies the text and shows a message; a `quiet` one only if that fails. Resolves to whether the browser allowed it. */
export async function copy(text, what, quiet = false) {
  let copied = true;
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    copied = copyByField(text); // the clipboard needs https, or the browser refuses it
  }
  if (copied && !quiet) showMessage(`Copied: ${what}`, "good");
  if (!copied) showMessage(`The browser did not allow this page to copy ${what}.`, "bad");
  return copied;
}

function copyByField(text) {
  const field = document.createElement("textarea");
  field.value = text;
  field.className = "hidden";
  topmost().append(field);
  const focused = document.activeElement;
  field.select();
  const copied = document.execCommand("copy");
  field.remove();
  focused?.focus();
  return copied;
}

export const copyButton = (text, what, label = `Copy the ${what}`) =>
  button("Copy", () => copy(text, what), { kind: "quiet tiny", label });
