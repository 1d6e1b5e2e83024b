// A draft with a prompt that was not sent, set aside when the settings of a job replace it in the form. It is kept in the
// browser until it is taken back or dismissed; its pictures are kept until the page is closed.

import { showMessage } from "../base/dialogs.js";
import { draft, resetFields, save, setPicture } from "./draft.js";
import * as stored from "./stored.js";

const PICTURES = ["image", "last_image"];

let pictures = {}; // of the draft that is set aside, by field
let closeMessage = () => {};

/** Sets the form's draft aside if `prompt` would replace one that was not sent. */
export function setAside(prompt) {
  const { model_id, filled, settled } = draft;
  const written = filled.prompt?.trim();
  if (!written || filled.prompt === settled || written === prompt.trim()) return;
  stored.saveAside({ model_id, filled });
  stored.rememberPrompt(written);
  pictures = Object.fromEntries(PICTURES.map((name) => [name, draft[name]]));
}

/** Shows a message with what can be done; as long as a draft is set aside, also with the way back to it. */
export function offer(text, actions, milliseconds) {
  closeMessage();
  const isAside = stored.aside() !== null;
  closeMessage = showMessage(text, "info", {
    actions: isAside ? [...actions, { text: "Back to my draft", act: takeBack }] : actions,
    milliseconds: isAside ? Infinity : milliseconds,
    dismissed: forget,
  });
}

function forget() {
  stored.saveAside(null);
  pictures = {};
}

function takeBack() {
  const { model_id, filled } = stored.aside();
  const given = pictures;
  forget();
  resetFields(model_id, filled);
  for (const name of PICTURES) setPicture(name, given[name]?.file ?? null, given[name]?.text);
  save();
  location.hash = "new"; // the address no longer names the job
}
