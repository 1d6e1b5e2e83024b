// Collections of the gallery: choosing one as a filter, and creating, renaming, deleting and filling them.

import { Problem, Unreachable, call, get, post, remove } from "../base/api.js";
import { attempt, choose, confirm, openModal, showMessage } from "../base/dialogs.js";
import { h, render } from "../base/dom.js";
import { plural } from "../base/format.js";
import { button, select } from "../base/parts.js";
import { changed, state } from "../base/state.js";

const NEW = "new";
const holder = document.getElementById("dialogs");

let collections = [];
let revision = 0; // rises when a select has to be made anew
let created = null; // id of the collection that was just created, until the filter shows it

export async function loadCollections() {
  try {
    collections = (await get("/api/v1/collections")).data;
    delete state.notes.collections;
  } catch (error) {
    state.notes.collections = error.message;
  }
  changed();
}

const counted = (one) => `${one.name} (${one.videos})`;

/** Returns the name of the collection with this id. */
export const nameOf = (id) => collections.find((one) => one.id === id)?.name ?? "the collection";

/** Returns the filter by collection, and what can be done to the chosen one. `goTo` changes the filters. */
export function collectionTools(chosen, version, goTo) {
  const one = collections.find(({ id }) => id === chosen);
  if (created && created === chosen) {
    revision += 1;
    created = null;
  }
  const options = [["", "any"], ...collections.map((each) => [each.id, counted(each)])];
  if (chosen && !one) options.push([chosen, state.notes.collections ? "could not be loaded" : "…"]);
  return [
    select("Collection", "collection", options, {
      key: `collection-${version}-${revision}`,
      value: chosen,
      change: (event) => goTo({ collection: event.target.value }),
    }),
    h(
      "div",
      { class: "row", key: "collections" },
      button("New collection", () => createShown(goTo), { key: "new", kind: "quiet steer" }),
      one ? button("Rename", () => rename(one), { key: "rename", kind: "quiet steer", label: `Rename collection ${one.name}` }) : null,
      one ? button("Delete collection", () => erase(one, goTo), { key: "delete", kind: "quiet danger steer" }) : null,
    ),
  ];
}

/** Returns the collections of these ids, by name. */
export const named = (ids) => collections.filter(({ id }) => ids.includes(id));

/** Returns a button that adds videos to a collection, also a new one. `add` receives its id. `isIn`: ids of those that have them. */
export function addTo(add, isIn = []) {
  const act = async () => {
    const others = collections.filter(({ id }) => !isIn.includes(id));
    const wanted = others.length ? await choose("Add to a collection", [...others.map((one) => [one.id, counted(one)]), [NEW, "New collection…"]]) : NEW;
    const id = wanted === NEW ? await create() : wanted;
    if (id) await add(id);
  };
  return button("Add to collection…", act, { key: "add", kind: "steer add-to" });
}

export const takeOut = (id, ids) => call("PATCH", `/api/v1/collections/${id}`, { body: { remove: ids } });

/** Creates a collection. Resolves to its id, or to null. */
async function create() {
  let made = null;
  await askName("New collection", "", "Create", async (name) => {
    made = await post("/api/v1/collections", { name });
    await loadCollections();
    showMessage("The collection is created", "good");
  });
  return made?.id ?? null;
}

/** Creates a collection and shows it. */
async function createShown(goTo) {
  const id = await create();
  created = id;
  if (id) goTo({ collection: id });
}

const rename = (one) =>
  askName("Rename collection", one.name, "Rename", async (name) => {
    if (name === one.name) return;
    await call("PATCH", `/api/v1/collections/${one.id}`, { body: { name } });
    await loadCollections();
    showMessage("The collection is renamed", "good");
  });

async function erase(one, goTo) {
  const text = `Its ${plural(one.videos, "video")} ${one.videos === 1 ? "is" : "are"} not deleted, but the retention policy applies again.`;
  if (!(await confirm({ title: "Delete this collection?", text, lines: [one.name], yes: "Delete the collection" }))) return;
  await attempt(async () => {
    await remove(`/api/v1/collections/${one.id}`);
    revision += 1;
    await loadCollections();
    goTo({ collection: "" });
  }, "The collection is deleted", { not: `“${one.name}” is not deleted` });
}

/** Asks for a name and sends it. What was typed stays, with the reason, until it is accepted or the dialog is closed. */
function askName(title, value, yes, send) {
  const dialog = document.createElement("dialog");
  dialog.className = "dialog small";
  dialog.setAttribute("aria-labelledby", "name-title");
  holder.append(dialog);
  let problem = null;
  let isSending = false;
  const draw = () =>
    render(
      dialog,
      h(
        "form",
        { on: { submit } },
        h("h2", { id: "name-title" }, title),
        h(
          "label",
          { class: "field" },
          h("span", null, "Name"),
          h("input", {
            name: "name",
            value,
            required: true,
            maxlength: 100,
            autofocus: true,
            autocomplete: "off",
            "aria-invalid": problem ? "true" : undefined,
            "aria-describedby": problem ? "name-problem" : undefined,
          }),
        ),
        problem ? h("p", { key: "problem", id: "name-problem", class: "field-error", role: "alert" }, problem) : null,
        h(
          "div",
          { class: "row end" },
          h("button", { type: "button", class: "button", on: { click: () => dialog.close() } }, "Cancel"),
          h("button", { class: "button primary", "aria-disabled": isSending ? "true" : undefined }, isSending ? "Sending…" : yes),
        ),
      ),
    );

  async function submit(event) {
    event.preventDefault();
    const field = event.target.elements.name;
    const name = field.value.trim();
    if (isSending) return;
    [problem, isSending] = [name ? null : "Give it a name.", Boolean(name)];
    draw();
    if (!name) return;
    try {
      await send(name);
      dialog.close();
    } catch (error) {
      if (!(error instanceof Problem || error instanceof Unreachable)) throw error;
      [problem, isSending] = [error.message, false];
      if (!dialog.isConnected) return showMessage(`${title}: ${error.message}`, "bad"); // it was closed meanwhile
      draw();
      field.focus();
    }
  }

  draw();
  openModal(dialog, { ofView: true });
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => {
      dialog.remove();
      resolve();
    });
  });
}
