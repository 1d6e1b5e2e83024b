// Modal dialogs, confirmations and toasts. Dialogs are native `<dialog>` elements, which trap and restore the focus, and
// make everything outside of them inert. So the toasts move into the topmost one while any is open.

import { h, render } from "./dom.js";

const toasts = document.getElementById("toasts");
const holder = document.getElementById("dialogs");
const shown = new Map();
let number = 0; // of messages so far: the newest has the highest
let opened = []; // the modal dialogs, in the order in which they were opened

const MOST = 2; // toasts at once
const EDGE = 80; // pixels below the toasts, with the bar of a phone
const ANNOUNCED_MS = 60; // a live region is announced if it stands in its place before its content changes

toasts.kept = true;

/** Returns the topmost open dialog, else the page's body: what is outside of it cannot be used. */
export const topmost = () => opened.findLast((dialog) => dialog.open) ?? document.body;

/** Opens a modal dialog whose content has been drawn. `ofView`: it asks about what is shown, and ends with that. */
export function openModal(dialog, { ofView = false } = {}) {
  opened.push(dialog);
  const leave = () => dialog.close();
  if (ofView) addEventListener("hashchange", leave);
  dialog.addEventListener(
    "close",
    () => {
      opened = opened.filter((one) => one.open);
      removeEventListener("hashchange", leave);
      placeToasts();
    },
    { once: true },
  );
  dialog.showModal();
  placeToasts();
}

/** Moves the toasts to where they are seen and can be used. Returns whether they were elsewhere. */
function placeToasts() {
  const place = topmost();
  if (toasts.parentElement === place) return false;
  place.append(toasts);
  return true;
}

/**
 * Shows a message, also to screen readers, for 5 s; errors ("bad") for 10 s; with `milliseconds: Infinity` until it is
 * dismissed. `actions` [{text, act}] or [{text, href}]: buttons and links in it, each of which closes it; `dismissed` is
 * called when the user closes it. It takes the place of a message with the same `key`, or with the same text and no
 * actions. `only`: an action of it, such as Undo, cannot be reached otherwise, so newer messages do not replace it;
 * `stays`: it is shown in other views too, as news and errors are, but for those of a form. Returns a function that closes it earlier.
 */
export function showMessage(
  text,
  kind = "info",
  { key, actions = [], milliseconds = kind === "bad" ? 10_000 : 5_000, dismissed, only = actions.some(({ act }) => act), stays = only || kind === "bad" } = {},
) {
  key ??= actions.length ? Symbol(text) : text;
  const mine = { text, kind, actions, dismissed, only, stays, number: (number += 1) };
  const end = () => shown.get(key) === mine && close(key);
  shown.set(key, mine);
  makeRoom(mine);
  if (placeToasts()) setTimeout(drawToasts, ANNOUNCED_MS);
  else drawToasts();
  if (Number.isFinite(milliseconds)) setTimeout(end, milliseconds);
  return end;
}

/** Ends the oldest messages beside the newest one until few are left, errors last, and none with an action of its own. */
function makeRoom(newest) {
  const rest = [...shown].filter(([, one]) => one !== newest && !one.only);
  rest.sort(([, a], [, b]) => (a.kind === "bad") - (b.kind === "bad") || a.number - b.number);
  for (const [key] of rest.slice(0, Math.max(0, shown.size - MOST))) shown.delete(key);
}

/** Ends the confirmations of the view that is left. */
export function leaveView() {
  for (const [key, { stays }] of shown) if (!stays) shown.delete(key);
  drawToasts();
}

function close(key) {
  shown.delete(key);
  drawToasts();
}

function dismiss(key, act) {
  close(key);
  act?.();
}

// What had the focus before it went to a toast, which the buttons of the toast return to.
let cameFrom = null;
toasts.addEventListener("focusin", ({ relatedTarget }) => {
  if (relatedTarget && !toasts.contains(relatedTarget)) cameFrom = relatedTarget;
});

function drawToasts() {
  const isInside = toasts.contains(document.activeElement);
  drawAll();
  if (isInside && document.activeElement === document.body && cameFrom?.isConnected) cameFrom.focus({ preventScroll: true });
}

function drawAll() {
  render(
    toasts,
    [...shown].map(([key, { text, kind, actions, dismissed }]) =>
      h(
        "div",
        { key, class: `toast ${kind} ${actions.length > 1 ? "wide" : ""}` },
        h("span", null, text),
        h("span", { class: "spacer" }),
        actions.map(({ text: what, act, href }) => {
          const follow = () => {
            close(key);
            act?.();
          };
          return h(href ? "a" : "button", { key: what, href, type: href ? null : "button", class: "button act", on: { click: follow } }, what);
        }),
        h("button", { type: "button", class: "quiet", "aria-label": "Dismiss", on: { click: () => dismiss(key, dismissed) } }, "✕"),
      ),
    ),
  );
  liftToasts();
}

/** Keeps the toasts above a bar with buttons at the bottom of the window, wherever scrolling puts it. */
export function liftToasts() {
  if (!shown.size) return;
  const { left, height } = toasts.getBoundingClientRect();
  let lift = "";
  for (const bar of topmost() === document.body ? document.querySelectorAll(".make-bar, .selection-bar, .drop-zones") : []) {
    const { top, right, bottom } = bar.getBoundingClientRect();
    const isBelow = top < innerHeight && innerHeight - bottom < height + EDGE;
    if (isBelow && right > left) lift = `${innerHeight - top + 8}px`;
  }
  toasts.style.setProperty("bottom", lift);
}

addEventListener("scroll", liftToasts, { passive: true });

/**
 * Asks for confirmation of an action. Resolves to whether it was confirmed. `lines` are shown in two lines each, unless
 * `whole`. `kind`: of the button that confirms. `typed`: a word that has to be typed before.
 */
export function confirm({ title, text, lines = [], whole = false, yes, no = "Cancel", kind = "danger", typed }) {
  return ask(
    title,
    no,
    [
      text ? h("p", null, text) : null,
      lines.length
        ? h(
            "ul",
            { class: "spelled", tabindex: "0", "aria-label": "Details" },
            lines.map((line) => h("li", null, h("span", { class: whole ? "" : "clamp" }, line))),
          )
        : null,
      typed
        ? h(
            "label",
            { class: "field" },
            h("span", null, `Type “${typed}” to confirm`),
            h("input", { required: true, pattern: ` *${typed} *`, title: typed, autocomplete: "off", autocapitalize: "none", spellcheck: "false" }),
          )
        : null,
    ],
    h("button", { value: "yes", class: `button ${kind}` }, yes),
  ).then((answer) => answer === "yes");
}

/** Asks for one of `choices` [[value, text]]. Resolves to its value, or to "" if none was chosen. */
export function choose(title, choices) {
  const each = ([value, text], place) => h("li", { key: value }, h("button", { value, class: "button", autofocus: place === 0 }, text));
  return ask(title, "Cancel", h("ul", { class: "answers" }, choices.map(each)));
}

/** Asks in a dialog with this content, between its title and its buttons. Resolves to the value of the button that closed it. */
function ask(title, no, content, yes = null) {
  const dialog = document.createElement("dialog");
  dialog.className = "dialog small";
  dialog.setAttribute("aria-labelledby", "asked-title");
  holder.append(dialog);
  const leave = h("button", { type: "button", class: "button", autofocus: yes !== null, on: { click: () => dialog.close() } }, no);
  render(dialog, h("form", { method: "dialog" }, h("h2", { id: "asked-title" }, title), content, h("div", { class: "row end" }, leave, yes)));
  openModal(dialog, { ofView: true });
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => {
      dialog.remove();
      resolve(dialog.returnValue);
    });
  });
}

/**
 * Runs a button's action and shows an error message if it fails. Resolves to whether it succeeded. `ofForm`: the action
 * sends a form, so that its error ends with the form's view. `not`: what has not been done then, in words; `again` does it. `key`: of
 * the message that says what was done, which takes the place of the one before it.
 */
export async function attempt(action, done, { ofForm = false, not, again, key } = {}) {
  try {
    const message = (await action()) || done;
    if (message) showMessage(message, "good", { key });
    return true;
  } catch (error) {
    const actions = again ? [{ text: "Try again", act: again }] : [];
    showMessage(not ? `${not}. ${error.message}` : error.message, "bad", { actions, only: false, stays: !ofForm });
    return false;
  }
}
