// What stands in place of data that has not arrived: that it is loading, or why it did not come, with a way to try again.

import { showMessage } from "./dialogs.js";
import { h } from "./dom.js";
import { feed, isStale, refresh } from "./feed.js";
import { clock } from "./format.js";
import { button, empty, loading, note } from "./parts.js";
import { changed, state } from "./state.js";

/** An error with a way out. */
export const wrong = (text, again) =>
  h("div", { key: `wrong ${text}`, class: "row wrap" }, note(text, "bad"), button("Try again", again));

/**
 * Says why a part of the state could not be loaded; null if nothing is wrong. `isThere`: it was loaded before. Then, while
 * the server is unreachable, the notice above all views is enough. `again` loads the part; the default loads everything.
 */
export function problem(part, what, isThere, again = refresh) {
  const why = state.notes[part];
  if (!why || (isThere && feed.link === "lost")) return null;
  const last = isThere && state.loaded.get(part) ? ` Last loaded at ${clock(state.loaded.get(part))}.` : "";
  return wrong(`The ${what} could not be loaded: ${why}${last}`, () => {
    delete state.notes[part];
    changed();
    return again();
  });
}

/** Returns the problem of a part, else that it is loading, else null: it is there. */
export const awaited = (part, what, isThere = state.loaded.has(part)) =>
  problem(part, what, isThere) ?? (isThere ? null : loading());

/** Whether a part may have changed since it was loaded: loading it again failed, or nothing arrives. */
export const isOutdated = (part) => Boolean(state.notes[part]) || feed.link === "lost" || isStale();

/** Says that there is nothing; null while the part could not be loaded, because then that may no longer be so. */
export const none = (part, ...content) => (state.notes[part] ? null : empty(...content));

/** Loads a script that is needed later. The browser's error names its file alone. */
export const script = (load) =>
  load().catch((error) => {
    throw new Error("A part of this page could not be loaded. Reloading it may help.", { cause: error });
  });

/**
 * Returns a function that gives the module of a part of a view; null until it is there. The first call loads it. `failed`:
 * why it could not be loaded.
 */
export function later(load) {
  let found = null;
  let asked = null;
  const given = () => {
    asked ??= script(load).then(
      (module) => {
        found = module;
        changed();
      },
      ({ message }) => {
        given.failed = message;
        showMessage(message, "bad");
        changed();
      },
    );
    return found;
  };
  return given;
}
