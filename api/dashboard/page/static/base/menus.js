// Menus are `<details>`: a click beside one, or Escape in it, closes it.

const OPEN = "details.menu[open], details.copies[open]";

export function listen() {
  addEventListener("click", (event) => {
    for (const menu of document.querySelectorAll(OPEN)) if (!menu.contains(event.target)) menu.open = false;
  });
  addEventListener("hashchange", () => {
    for (const menu of document.querySelectorAll(OPEN)) menu.open = false;
  });
  addEventListener("keydown", (event) => {
    const menu = event.key === "Escape" && event.target.closest?.(OPEN);
    if (!menu) return;
    event.preventDefault(); // the dialog around it stays open
    menu.open = false;
    menu.querySelector("summary").focus();
  });
}
