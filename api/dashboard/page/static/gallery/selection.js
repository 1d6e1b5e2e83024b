// What can be done with the selected videos of the gallery: compare, download, make again, collect, delete.

import { base, call, newKey, post, remove } from "../base/api.js";
import { attempt, confirm } from "../base/dialogs.js";
import { h } from "../base/dom.js";
import { number, plural } from "../base/format.js";
import { button } from "../base/parts.js";
import { selectionBar } from "../base/selection_bar.js";
import { changed, mergeJobs } from "../base/state.js";
import { deletion } from "../job/actions.js";
import { addTo, loadCollections, nameOf, takeOut } from "./collections.js";
import { clearSelection, loadFirst, own, reload } from "./gallery.js";
import { focusCell } from "./grid.js";

const [LEAST_COMPARED, MOST_COMPARED] = [2, 4];
const MOST_ARCHIVED = 200;
const MOST_AGAIN = 100; // each is a request
const SHOWN = 10; // lines of a confirmation

/** The bar of the selection. Its actions use what is selected at the click, which may not have been drawn yet. */
export function selection() {
  const now = () => [...own.selected.keys()];
  const ids = now();
  const isTooMany = ids.length > MOST_COMPARED;
  const isFew = ids.length <= MOST_ARCHIVED;
  return selectionBar({
    label: "Selected videos",
    count: number(ids.length),
    clear: clearSelection,
    first: button("Compare", () => (location.hash = `compare/${now().join(",")}`), { key: "compare", disabled: ids.length < LEAST_COMPARED ? "Select another video to compare them" : isTooMany }),
    // With one video, a line of its own would only cover what is chosen next.
    hint: !isTooMany ? null : `Compare takes ${LEAST_COMPARED} to ${MOST_COMPARED} videos.`,
    more: [
      isFew
        ? h("a", { key: "zip", class: "button", href: `${base}/api/v1/gallery/archive.zip?jobs=${ids.join(",")}`, download: "videos.zip" }, "Download")
        : h("span", { key: "many", class: "small muted" }, `Download takes at most ${MOST_ARCHIVED}`),
      ids.length <= MOST_AGAIN
        ? button("Make again", () => makeAgain(now()), { key: "again", kind: "steer" })
        : h("span", { key: "too-many", class: "small muted steer" }, `Make again takes at most ${MOST_AGAIN}`),
      addTo((id) => change(() => addMany(id, now()), `${plural(ids.length, "video")} added to “${nameOf(id)}”`, `Not added to “${nameOf(id)}”`)),
      own.query.collection
        ? button("Take out", () => change(() => takeOut(own.query.collection, now()), "Taken out of the collection", "Not taken out of the collection").then(reload), { key: "out", kind: "steer" })
        : null,
    ],
    remove: button("Delete", () => erase(now()), { key: "delete", kind: "danger steer" }),
  });
}

async function addMany(id, ids) {
  await call("PATCH", `/api/v1/collections/${id}`, { body: { add: ids } });
  for (const video of own.selected.values()) video.collections = [...new Set([...video.collections, id])];
}

function change(act, done, not) {
  return attempt(async () => {
    await act();
    await loadCollections();
    clearSelection();
  }, done, { not });
}

/** Makes each video once more, with the same settings and another seed: the same seed would make the same video. */
async function makeAgain(ids) {
  const text = "Each is queued once more, with the same settings and a new seed.";
  if (ids.length > 1 && !(await confirm({ title: `Make ${plural(ids.length, "video")} again?`, text, lines: titles(), yes: "Make again", kind: "primary" }))) return;
  await attempt(async () => {
    let made = 0;
    try {
      for (const id of ids) {
        mergeJobs([await post(`/api/v1/jobs/${id}/retry?new_seed=true`, undefined, { key: newKey() })]);
        own.selected.delete(id);
        made += 1;
      }
    } catch (error) {
      throw new Error(made ? `${plural(made, "video")} queued, ${number(ids.length - made)} not: ${error.message}` : error.message, { cause: error });
    } finally {
      changed();
    }
    clearSelection();
    return `${plural(made, "new video")} with ${made === 1 ? "another seed is" : "other seeds are"} queued.`;
  }, null, { not: "Not all are made again" });
}

/** The prompts of the selected videos, as a confirmation lists them. */
function titles() {
  const lines = [...own.selected.values()].slice(0, SHOWN).map((video) => video.prompt);
  return own.selected.size > lines.length ? [...lines, `and ${number(own.selected.size - lines.length)} more`] : lines;
}

async function erase(ids) {
  const isOne = ids.length === 1;
  if (!(await confirm({ ...deletion(ids.length, "video"), lines: titles() }))) return;
  await attempt(async () => {
    if (isOne) await remove(`/api/v1/jobs/${ids[0]}`);
    else await post("/api/v1/jobs/bulk", { action: "delete", filter: { ids } }, { key: newKey(), timeout: 60_000 });
    clearSelection();
    await loadFirst();
    focusCell(0);
  }, "Deleted", { not: `The ${isOne ? "video is" : "videos are"} not deleted` });
}
