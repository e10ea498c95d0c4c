// The page: what is asked, what is shown, and the address that says so.

import { ApiError, call, onKeyNeeded, patiently } from "./api.js";
import { askKey, otherKey, setUpAdding } from "./dialogs.js";
import { $, button, fault, percent, plural } from "./dom.js";
import { askReranker } from "./judge.js";
import { setUpKeys } from "./keyboard.js";
import { Column, compare } from "./results.js";
import { terms } from "./words.js";

const K = 10; // documents in each list
const STOPS = [0, 0.001, 0.002, 0.005, 0.01, 0.02, 0.03, 0.05, 0.07, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.45, 0.5,
  0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95, 0.98, 0.99];
const EXAMPLES = [
  "Should I pack an umbrella for the weekend?",
  "I have only eggs and spinach left, what can I make for dinner?",
  "My puppy keeps scratching his ears, should I be worried?",
];
const query = $("#query");
const where = $("#where");
const slider = $("#threshold");
const say = (text) => ($("#status").textContent = text);
let info = null; // what the server says of itself
let asked = { q: "", where: "" }; // what is shown, or being looked for
let running = new AbortController(); // everything that belongs to it
let added = null; // the document that was added last
const meaning = new Column($("#meaning"), (card) => judge([card]), judgeAll);
const words = new Column($("#words"), (card) => judge([card]), judgeAll);

// --- searching

async function search() {
  running.abort();
  running = new AbortController();
  const { signal } = running;
  const { q, where: filter } = asked;
  problem(null);
  fault(query);
  fault(where);
  $("#filter-on").textContent = filter ? " (on)" : "";
  document.title = q ? `${q} – Rabtriever` : "Rabtriever";
  if (!q) return idle();
  $("#intro").hidden = true;
  $("#results").setAttribute("aria-busy", "true");
  const slow = setTimeout(() => say("Searching…"), 200);
  try {
    const body = { query: q, k: K, ...(filter && { where: filter }) };
    const ours = await patiently("v1/search", { body: { ...body, mode: "auto" }, signal }, say);
    const found = await withAdded(ours.hits, body, signal);
    let theirs = { hits: [] };
    let unable = "";
    try {
      theirs = await patiently("v1/search", { body: { ...body, mode: "bm25" }, signal }, say);
    } catch (error) {
      signal.throwIfAborted();
      unable = error.message;
    }
    show(q, filter, { ...ours, hits: found }, theirs, unable);
    summary(ours, theirs, unable);
  } catch (error) {
    if (!signal.aborted) failed(error, search);
  } finally {
    clearTimeout(slow);
    if (!signal.aborted) $("#results").removeAttribute("aria-busy");
  }
}

function show(q, filter, ours, theirs, unable) {
  const wanted = terms(q);
  const lacking = filter ? "No document passes the filter." : "The index is empty. Add a document.";
  meaning.show(ours.hits, ours.timings, wanted, lacking);
  words.show(theirs.hits, theirs.timings, wanted, unable);
  meaning.strangers = unable ? 0 : compare(meaning, words, q, K, filter !== "");
  for (const [column, n] of [[meaning, ours.hits.length], [words, theirs.hits.length]])
    $(`#sides [data-side=${column.element.id}] span`).textContent = String(n);
  $("#results").hidden = false;
  grey();
  for (const card of [...meaning.cards, ...words.cards])
    card.element.classList.toggle("new", card.hit.id === added?.id);
}

function summary(ours, theirs, unable) {
  const n = ours.hits.length;
  const { strangers } = meaning;
  const which = !strangers ? "" : n === 1 ? ", which shares" : strangers === n ? ", all of which share"
    : `, ${strangers} of which share${strangers === 1 ? "s" : ""}`;
  say([
    plural(n, "document"), " by meaning", which && `${which} no word with the query`,
    unable ? "." : `; ${theirs.hits.length} by words.`,
    ours.truncated ? " The query is longer than the model reads; its beginning was left out." : "",
  ].join(""));
}

function idle() {
  meaning.show([], null, new Set(), "");
  words.show([], null, new Set(), "");
  $("#results").hidden = true;
  $("#intro").hidden = false;
  say(info && !info.index.documents ? "The index is empty. Add a document." : "");
}

function failed(error, again) {
  $("#results").hidden = true;
  $("#intro").hidden = true;
  say("");
  const field = error.status === 422 && { where, query }[error.param];
  if (!field) return problem(error, again);
  if (field === where) $("#filter").open = true;
  fault(field, error.message.replace(/^where:? /i, ""));
  say(`Correct the ${field === where ? "filter" : "query"}, then search again.`);
  field.focus();
}

function problem(error, again) {
  if (!error) return $("#problem").replaceChildren();
  const known = error instanceof ApiError;
  if (!known) console.error(error);
  const act = known ? (otherKey(error, again) ?? button("Try again", again)) : "";
  $("#problem").replaceChildren(known ? error.message : "This page has failed. Load it again.", " ", act);
}

// --- the reranker

async function judge(cards, column = [meaning, words].find((one) => one.cards.includes(cards[0]))) {
  if ($("#results").hasAttribute("aria-busy")) return;
  const { signal } = running;
  problem(null);
  try {
    const said = await askReranker(asked.q, cards, column, [meaning, words], { signal, say });
    if (said) say(said);
  } catch (error) {
    if (!signal.aborted) problem(error, () => judge(cards, column));
  }
}

function judgeAll(column) {
  return judge(column.cards, column);
}

// --- the threshold

function grey() {
  const least = STOPS[slider.value];
  const left = meaning.cards.filter((card) => card.setThreshold(least)).length;
  for (const card of words.cards) card.setThreshold(least);
  const told = !least ? "off" : percent(least).replace(".0%", "%");
  $("#threshold-value").textContent = meaning.cards.length && least ? `${told}: ${left} left` : told;
  slider.setAttribute("aria-valuetext", told);
}

// --- adding and removing

const openAdd = setUpAdding((document, replaced) => {
  added = { ...document, replaced };
  submit();
  learn();
});

// The hits, and the added document with its rank behind them if it is not among them.
async function withAdded(hits, body, signal) {
  if (!added) return hits;
  added.rank = undefined;
  const place = hits.findIndex((hit) => hit.id === added.id);
  if (place >= 0) {
    added.rank = place + 1;
    return hits;
  }
  const k = info?.limits.hits ?? 1000;
  const further = (await patiently("v1/search", { body: { ...body, k, mode: "exact" }, signal }, say)).hits;
  const found = further.findIndex((hit) => hit.id === added.id);
  added.rank = found < 0 ? null : found + 1;
  if (found < 0) return hits;
  return [...hits, { ...further[found], rank: added.rank }];
}

function tell() {
  if (!added) return;
  let rank = "";
  if (!asked.q) rank = "Search for it.";
  else if (added.rank) rank = `It has rank ${added.rank} for this query.`;
  else if (added.rank === null) rank = "It is not among what is found for this query.";
  $("#notice").replaceChildren(
    `${added.replaced ? "Replaced" : "Added"} “${added.title || added.id}”. ${rank} `,
    button("Remove it", remove),
    " ",
    button("Keep it", () => {
      added = null;
      $("#notice").replaceChildren();
      for (const item of document.querySelectorAll(".new")) item.classList.remove("new");
      query.focus();
    }),
  );
}

async function remove() {
  const gone = added;
  try {
    await call(`v1/documents/${encodeURIComponent(gone.id)}`, { method: "DELETE" });
  } catch (error) {
    if (error.status !== 404) return problem(error, remove);
  }
  added = null;
  $("#notice").replaceChildren(`Removed “${gone.title || gone.id}”.`);
  query.focus();
  learn();
  search();
}

// --- the address: in its fragment, which no server sees

function address() {
  const parts = new URLSearchParams();
  if (asked.q) parts.set("q", asked.q);
  if (asked.where) parts.set("where", asked.where);
  if (STOPS[slider.value]) parts.set("t", STOPS[slider.value]);
  return `#${parts}`;
}

function submit() {
  asked = { q: query.value.trim(), where: where.value.trim() };
  if (!added) $("#notice").replaceChildren();
  if (address() !== (location.hash || "#")) history.pushState(null, "", address());
  search().then(tell);
}

function follow() {
  const parts = new URLSearchParams(location.hash.slice(1));
  const next = { q: parts.get("q")?.trim() ?? "", where: parts.get("where")?.trim() ?? "" };
  const least = Number(parts.get("t"));
  slider.value = STOPS.findLastIndex((stop) => stop <= least);
  grey();
  if (next.q === asked.q && next.where === asked.where) return;
  asked = next;
  query.value = asked.q;
  where.value = asked.where;
  if (asked.where) $("#filter").open = true;
  search().then(tell);
}

async function learn() {
  try {
    info = await patiently("info", {}, (text) => asked.q || say(text));
    const { name: model, llm } = info.model;
    const of = [plural(info.index.documents, "document"), model && `model ${model}`, llm && `on ${llm}`];
    $("#about").textContent = of.filter(Boolean).join(" · ").replace(" · on ", " on ");
    if (!asked.q) idle();
  } catch (error) {
    if (!asked.q) problem(error, learn);
  }
}

// --- all of it together

slider.max = STOPS.length - 1;
onKeyNeeded(askKey);
$("#examples").append(...EXAMPLES.map((text) => {
  const item = document.createElement("li");
  item.append(button(text, () => {
    query.value = text;
    query.focus();
    submit();
  }, { class: "link" }));
  return item;
}));
$("#search").addEventListener("submit", (event) => {
  event.preventDefault();
  submit();
});
slider.addEventListener("input", grey);
slider.addEventListener("change", () => history.replaceState(null, "", address()));
for (const side of document.querySelectorAll("#sides button"))
  side.addEventListener("click", () => {
    $("#results").dataset.side = side.dataset.side;
    for (const one of document.querySelectorAll("#sides button")) one.setAttribute("aria-pressed", String(one === side));
  });
for (const type of ["focusin", "focusout", "mouseover", "mouseout"])
  $("#results").addEventListener(type, (event) => {
    const card = event.target.closest("li[data-id]")?.card;
    card?.twin?.element.classList.toggle("twin", type === "focusin" || type === "mouseover");
  });
$("#open-add").addEventListener("click", openAdd);
$("#open-keys").addEventListener("click", () => $("#keys").showModal());
setUpKeys({
  "/": () => {
    query.focus();
    query.select();
  },
  r: (card) => (card ? judge([card]) : false),
  R: (card) => judgeAll(words.cards.includes(card) ? words : meaning),
  a: () => openAdd(),
  "?": () => $("#keys").showModal(),
}, query);
addEventListener("popstate", follow);
addEventListener("hashchange", follow);
follow();
if (!asked.q) idle();
learn();
