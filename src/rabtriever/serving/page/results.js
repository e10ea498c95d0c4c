// Lists of documents beside each other, and what each says of the others.

import { $, button, h, milliseconds, percent, plural } from "./dom.js";
import { marked, terms } from "./words.js";

const SHOWN = 400; // characters of a text before it is folded
const HEADING = 90; // characters that a title may have
const LABELS = {
  Encoder: "Probability by the encoder", Rabtriever: "Probability by Rabtriever",
  Reranked: "Probability by Rabtriever and the reranker", Reranker: "Probability by the reranker",
};

// One document in one list.
export class Card {
  constructor(hit, rank, wanted, judge, scorer) {
    this.hit = hit;
    this.twins = [];
    this.rank = rank;
    this.place = h("span", { class: "place" });
    this.teacher = h("div", { class: "teacher" }, button("Ask the reranker", () => judge(this), { class: "link" }));
    const [title, text] = split(hit.text);
    const name = `hit-${Math.random().toString(36).slice(2)}`;
    const heading = h("h3", { id: name }, ...marked(title || hit.id, title ? wanted : new Set()));
    this.element = h(
      "li",
      { tabindex: "-1", "aria-labelledby": name, "data-id": hit.id },
      h("span", { class: "rank" }, h("span", { class: "unseen" }, "Rank "), String(rank)),
      h("div", { class: "what" }, heading, folded(text, wanted)),
      h("div", { class: "gauges" }, gauge(scorer, hit.probability), this.teacher),
      h("div", { class: "marks" }, this.place, details(hit)),
    );
    this.element.card = this;
  }

  // Where other lists have it, [[list's name, its card there]], and why BM25's has not.
  setPlaces(places, why, only) {
    this.twins = places.map(([, twin]) => twin);
    this.element.classList.toggle("only", only);
    this.place.replaceChildren(...places.map(([name, twin]) => button(`${name} ${twin.rank}`, () => twin.focus(), {
      class: "link", "aria-label": `${name}, rank ${twin.rank}`,
    })), why);
  }

  setTeacher(probability) {
    const focused = this.teacher.contains(document.activeElement);
    this.teacher.replaceChildren(gauge("Reranker", probability));
    this.judged = probability;
    if (focused) this.focus();
  }

  // While it is asked; `false` afterwards.
  setAsking(asking) {
    const asked = $("button", this.teacher);
    if (!asked) return;
    asked.setAttribute("aria-disabled", String(asking));
    asked.textContent = asking ? "The reranker reads…" : "Ask the reranker";
  }

  setThreshold(least) {
    const under = this.hit.probability < least;
    this.element.classList.toggle("under", under);
    $("h3", this.element).toggleAttribute("data-under", under);
    return !under;
  }

  focus() {
    this.element.focus({ preventScroll: true });
    this.element.scrollIntoView({ block: "nearest" });
  }
}

function gauge(who, probability) {
  const fill = h("span", { class: "fill" });
  fill.style.width = `${100 * probability}%`;
  const meter = h(
    "span",
    {
      role: "meter",
      class: "meter",
      "aria-label": LABELS[who],
      "aria-valuemin": 0,
      "aria-valuemax": 1,
      "aria-valuenow": probability.toPrecision(3),
      "aria-valuetext": percent(probability),
    },
    fill,
  );
  return h("div", { class: `gauge ${who.toLowerCase()}` }, h("span", { class: "who" }, who), meter,
    h("span", { class: "value" }, percent(probability)));
}

// `Title: text`, if the part before the first ": " can be a title.
function split(content) {
  const end = content.indexOf(": ");
  const title = content.slice(0, Math.max(end, 0));
  return title && end <= HEADING && !title.includes("\n") ? [title, content.slice(end + 2)] : ["", content];
}

function folded(text, wanted) {
  if (text.length <= SHOWN * 1.2) return h("p", { class: "text" }, ...marked(text, wanted));
  const cut = text.lastIndexOf(" ", SHOWN);
  const part = h("span", {}, ...marked(`${text.slice(0, cut > 0 ? cut : SHOWN)}… `, wanted));
  const more = button("all of it", () => {
    const all = more.getAttribute("aria-expanded") === "true";
    part.replaceChildren(...marked(all ? `${text.slice(0, cut > 0 ? cut : SHOWN)}… ` : `${text} `, wanted));
    more.setAttribute("aria-expanded", String(!all));
    more.textContent = all ? "all of it" : "less";
  }, { class: "link", "aria-expanded": "false" });
  return h("p", { class: "text" }, part, more);
}

function details(hit) {
  const entries = Object.entries(hit.metadata).map(([name, value]) =>
    h("div", {}, h("dt", {}, name), h("dd", {}, typeof value === "string" ? value : JSON.stringify(value))));
  return h("dl", {}, h("div", {}, h("dt", {}, "id"), h("dd", {}, hit.id)), ...entries);
}

// One of the lists.
export class Column {
  constructor(element, judge, judgeAll) {
    this.element = element;
    this.list = $("ol", element);
    this.judge = judge;
    this.all = $("button.judge", element);
    this.all.addEventListener("click", () => (this.complete ? this.order(!this.ordered) : judgeAll(this)));
    this.cards = [];
  }

  // Cards and milliseconds of each stage; `none` is said if there are no hits.
  show(hits, timings, wanted, none) {
    this.cards = hits.map((hit, i) => new Card(hit, hit.rank ?? i + 1, wanted, this.judge, this.element.dataset.scorer));
    this.list.replaceChildren(...this.cards.map((card) => card.element));
    this.said = $(".none", this.element);
    this.said.hidden = hits.length > 0;
    this.said.textContent = none;
    this.stages = timings ? stages(timings) : [];
    this.complete = this.ordered = false;
    this.all.hidden = hits.length === 0;
    this.label(false);
    this.time();
  }

  time(reranker = null) {
    const told = reranker === null ? this.stages : [...this.stages, ["reranker", reranker]];
    const total = told.reduce((sum, [, value]) => sum + value, 0);
    const parts = told.map(([stage, value]) => `${stage} ${milliseconds(value)}`).join(", ");
    $(".timing", this.element).replaceChildren(
      ...(told.length ? [h("strong", {}, `${milliseconds(total)} ms`), told.length > 1 ? `: ${parts}` : ""] : []));
  }

  // The button over the list: asks, or, once all are judged, orders.
  label(asking) {
    this.complete = this.cards.length > 0 && this.cards.every((card) => card.judged !== undefined);
    const n = this.cards.length;
    const which = n === 1 ? "this one" : `these ${n}`;
    this.all.setAttribute("aria-disabled", String(asking));
    this.all.textContent = asking
      ? "The reranker reads…"
      : this.complete
        ? `Order by ${this.ordered ? "rank" : "the reranker"}`
        : `Ask the reranker for ${which}`;
  }

  order(byTeacher) {
    this.ordered = byTeacher;
    const key = byTeacher ? (card) => -card.judged : (card) => card.rank;
    this.list.append(...[...this.cards].sort((a, b) => key(a) - key(b)).map((card) => card.element));
    this.label(false);
  }
}

function stages({ queue, encode, scan, rerank }) {
  const all = [["waiting", queue], ["encoding", encode], ["search", scan], ["reranker", rerank]];
  return all.filter(([, value]) => value >= 0.05);
}

// Says on each card where other lists have its document; answers how many of Rabtriever's share no word.
export function compare(columns, bm25, query, asked, filtered) {
  const wanted = terms(query);
  const full = bm25.cards.length >= asked; // there may be more than these
  const maps = new Map(columns.map((column) => [column, new Map(column.cards.map((card) => [card.hit.id, card]))]));
  let strangers = 0;
  for (const column of columns)
    for (const card of column.cards) {
      const { id, text } = card.hit;
      const others = columns.filter((one) => one !== column && maps.get(one).has(id));
      const listed = bm25.unable || maps.get(bm25).has(id);
      const shares = listed || (full && [...terms(text)].some((word) => wanted.has(word)));
      if (!shares && column.element.id === "retriever") strangers += 1;
      const why = listed ? "" : shares ? `Not in BM25's first ${asked}` : "No word in common";
      card.setPlaces(others.map((one) => [one.element.dataset.name, maps.get(one).get(id)]), why, !shares);
    }
  if (!bm25.cards.length && !bm25.unable)
    bm25.said.textContent = `No document${filtered ? " that passes the filter" : ""} shares a word with the query.`;
  return strangers;
}

// What was found, in a sentence; of Rabtriever's, so many share no word with the query.
export function summary(ours, lexical, strangers) {
  const n = ours.hits.length;
  const which = !strangers ? "" : n === 1 ? ", which shares" : strangers === n ? ", all of which share"
    : `, ${strangers} of which share${strangers === 1 ? "s" : ""}`;
  return [
    plural(n, "document"), which && `${which} no word with the query`,
    lexical.unable ? "." : `; ${lexical.hits.length} by BM25.`,
    ours.truncated ? " The query is longer than the model reads; its beginning was left out." : "",
  ].join("");
}
