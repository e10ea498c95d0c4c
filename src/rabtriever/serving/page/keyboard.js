// Keys: letters outside of text fields, arrows between the box and the documents.

import { $ } from "./dom.js";

const OFF = "rabtriever.letters"; // in localStorage, "off" if letters do nothing

// `actions`: name of a key -> what it does.
export function setUpKeys(actions, box) {
  const letters = $("#letters");
  letters.checked = localStorage.getItem(OFF) !== "off";
  letters.addEventListener("change", () => localStorage.setItem(OFF, letters.checked ? "on" : "off"));

  document.addEventListener("keydown", (event) => {
    if (event.defaultPrevented || event.ctrlKey || event.metaKey || event.altKey || $("dialog[open]")) return;
    const typing = event.target.matches("input:not([type=checkbox], [type=range]), textarea");
    const at = cardAt(event.target);
    let done = false;
    if (event.key.startsWith("Arrow")) done = (at || event.target === box) && moved(event.key, at, event.target, box);
    else if (!typing && letters.checked) {
      if (event.key === "j" || event.key === "k")
        done = moved(event.key === "j" ? "ArrowDown" : "ArrowUp", at, event.target, box);
      else if (Object.hasOwn(actions, event.key)) done = actions[event.key](at) !== false;
    }
    if (done) event.preventDefault();
  });
}

function cardAt(target) {
  return target.closest("li[data-id]")?.card ?? null;
}

function seen(column) {
  return [...column.querySelectorAll("li[data-id]")].filter((item) => item.offsetParent !== null);
}

function moved(key, at, target, box) {
  const columns = [...document.querySelectorAll(".column")].map(seen).filter((items) => items.length);
  if (!columns.length) return false;
  if (!at) {
    if (key !== "ArrowDown") return false;
    const chosen = seen($(".column.chosen"));
    (chosen[0] ?? columns[0][0]).card.focus();
    return true;
  }
  const c = columns.findIndex((items) => items.includes(at.element));
  const i = columns[c].indexOf(at.element);
  if (key === "ArrowLeft" || key === "ArrowRight") {
    const other = columns[c + (key === "ArrowLeft" ? -1 : 1)];
    const twin = at.twins.find(({ element }) => other?.includes(element));
    if (other) (twin ?? other[Math.min(i, other.length - 1)].card).focus();
    return true;
  }
  const next = columns[c][i + (key === "ArrowDown" ? 1 : -1)];
  if (next) next.card.focus();
  else if (key === "ArrowUp") {
    box.focus();
    box.scrollIntoView({ block: "nearest" });
  }
  return true;
}
