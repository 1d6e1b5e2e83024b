// Changes the address of the list, and applies it.

import { read, write } from "../base/list_address.js";
import { clear } from "./selection.js";
import { state } from "../base/state.js";

/** Applies the state of the address. */
export function filterBy(query) {
  const wanted = read(query);
  const now = write(state.list);
  if (write(wanted) === now) return;
  // What is selected is on this page; on another one, it would be hidden, and the bar would act on it later.
  if (write({ ...wanted, order: "", size: 25 }) !== write({ ...state.list, order: "", size: 25 })) clear();
  state.list = { ...wanted, ids: null, next: null, total: null, lookedAt: null, misfit: null };
}

/** Changes the list's address; another filter, order or size begins at the first page. */
export function show(changes) {
  location.hash = write({ ...state.list, after: [], ...changes });
}

/** Shows another page: `after` has the cursors of the pages before it. */
export function goTo(after) {
  show({ after });
  document.getElementById("h-jobs").focus({ preventScroll: true });
  scrollTo({ top: 0 });
}
