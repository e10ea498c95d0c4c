// Asking the reranker, for some documents of a list.

import { patiently } from "./api.js";
import { milliseconds, percent, plural } from "./dom.js";

// Shows its probability on the cards, and on those of the same documents in the other list; answers what to say.
export async function askReranker(query, cards, column, columns, { signal, say }) {
  const open = cards.filter((card) => card.judged === undefined);
  if (!open.length) return "";
  const ids = new Set(open.map((card) => card.hit.id));
  const waiting = columns.flatMap((one) => one.cards).filter((card) => ids.has(card.hit.id));
  const asking = (on) => {
    for (const card of waiting) card.setAsking(on);
    for (const one of columns) one.label(on && one === column && open.length === one.cards.length);
  };
  asking(true);
  const started = performance.now();
  try {
    const body = { model: "reranker", query, documents: open.map((card) => card.hit.text) };
    const { results } = await patiently("v1/rerank", { body, signal }, say);
    const given = new Map(results.map((one) => [open[one.index].hit.id, one.relevance_score]));
    for (const card of waiting) card.setTeacher(given.get(card.hit.id));
    const time = performance.now() - started;
    column.time(time);
    const best = open[results[0].index].hit;
    const told = `${best.text.split(": ")[0].slice(0, 60)}, ${percent(given.get(best.id))}.`;
    const read = `The reranker has read ${plural(open.length, "document")} in ${milliseconds(time)} ms`;
    return open.length > 1 ? `${read}. Most probable: ${told}` : `${read}: ${told}`;
  } finally {
    if (!signal.aborted) asking(false);
  }
}
