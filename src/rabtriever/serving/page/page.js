// The page: what is asked, what is shown, and the address that says so.

import { ApiError, attempt, call, onKeyNeeded, patiently } from "./api.js";
import { askKey, otherKey, setUpAdding } from "./dialogs.js";
import { $, button, fault, percent, plural } from "./dom.js";
import { askReranker } from "./judge.js";
import { setUpKeys } from "./keyboard.js";
import { Column, compare, summary } from "./results.js";
import { terms } from "./words.js";

const K = 10; // documents in each list, and how many of them the reranker reads
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
const columns = [...document.querySelectorAll(".column")].map((element) =>
  new Column(element, (card) => judge([card]), judgeAll));
const [bm25, encoder, retriever, rerank] = columns;

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
    info ??= await patiently("info", { signal }, say);
    const body = { query: q, k: K, ...(filter && { where: filter }) };
    const ask = (more) => patiently("v1/search", { body: { ...body, ...more }, signal }, say);
    // One after another, so that none waits for another's work. The first pays for the query's encoding, which the
    // server then has: it counts for all who need it, which BM25 does not.
    const ours = await ask({ mode: "auto" });
    const encoded = (answer, encode = ours.timings.encode) =>
      answer?.timings ? { ...answer, timings: { ...answer.timings, encode } } : answer;
    const found = { ...ours, hits: await withAdded(ours.hits, body, signal) };
    const similar = info.model.modes.includes("encoder") ? await attempt(() => ask({ mode: "encoder" }), signal) : null;
    const lexical = await attempt(() => ask({ mode: "bm25" }), signal);
    const judged = info.model.scorers.includes("reranker") ? { hits: [], unable: "The reranker reads…" } : null;
    show(q, filter, [[bm25, encoded(lexical, 0)], [encoder, encoded(similar)], [retriever, found], [rerank, judged]]);
    say(summary(ours, lexical, retriever.strangers));
    if (judged)
      attempt(() => ask({ mode: "auto", rerank: K }), signal)
        .then((answer) => show(q, filter, [[rerank, encoded(answer)]]))
        .catch((error) => signal.aborted || problem(error));
  } catch (error) {
    if (!signal.aborted) failed(error, search);
  } finally {
    clearTimeout(slow);
    if (!signal.aborted) $("#results").removeAttribute("aria-busy");
  }
}

// Fills some columns; one that the server has no answer for (null) is not there.
function show(q, filter, answers) {
  const wanted = terms(q);
  const lacking = filter ? "No document passes the filter." : "The index is empty. Add a document.";
  for (const [column, answer] of answers) {
    const tab = $(`#sides [data-side=${column.element.id}]`);
    tab.hidden = column.element.hidden = answer === null;
    column.show(answer?.hits ?? [], answer?.timings, wanted, answer?.unable ?? lacking);
    column.unable = answer?.unable;
    $("span", tab).textContent = String(answer?.hits.length ?? "");
  }
  retriever.strangers = compare(columns, bm25, q, K, filter !== "");
  $("#results").hidden = false;
  grey();
  for (const card of columns.flatMap((column) => column.cards))
    card.element.classList.toggle("new", card.hit.id === added?.id);
}

function idle() {
  for (const column of columns) column.show([], null, new Set(), "");
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

async function judge(cards, column = columns.find((one) => one.cards.includes(cards[0]))) {
  if ($("#results").hasAttribute("aria-busy")) return;
  const { signal } = running;
  problem(null);
  try {
    const said = await askReranker(asked.q, cards, column, columns, { signal, say });
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
  for (const card of columns.flatMap((column) => column.cards)) card.setThreshold(least);
  const left = retriever.cards.filter((card) => card.hit.probability >= least).length;
  const told = !least ? "off" : percent(least).replace(".0%", "%");
  $("#threshold-value").textContent = retriever.cards.length && least ? `${told}: ${left} left` : told;
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
    for (const { element } of columns) element.classList.toggle("chosen", element.id === side.dataset.side);
    for (const one of document.querySelectorAll("#sides button")) one.setAttribute("aria-pressed", String(one === side));
  });
for (const type of ["focusin", "focusout", "mouseover", "mouseout"])
  $("#results").addEventListener(type, (event) => {
    const card = event.target.closest("li[data-id]")?.card;
    for (const twin of card?.twins ?? [])
      twin.element.classList.toggle("twin", type === "focusin" || type === "mouseover");
  });
$("#open-add").addEventListener("click", openAdd);
$("#open-keys").addEventListener("click", () => $("#keys").showModal());
setUpKeys({
  "/": () => {
    query.focus();
    query.select();
  },
  r: (card) => (card ? judge([card]) : false),
  R: (card) => judgeAll(columns.find((column) => column.cards.includes(card)) ?? retriever),
  a: () => openAdd(),
  "?": () => $("#keys").showModal(),
}, query);
addEventListener("popstate", follow);
addEventListener("hashchange", follow);
follow();
if (!asked.q) idle();
learn();
