// The words BM25 sees: lower case, no stop words, stemmed as the index stems them (Porter's second English stemmer).

const WORD = /[\p{L}\p{N}]+/gu;
const LONGEST = 40; // characters of a word that the index still keeps
const STOP = new Set(
  (
    "i me my myself we our ours you your yours yourself he him his himself she her hers herself it itself they " +
    "them their theirs what which who whom this that these those am is are was were be been have has had do did " +
    "should a an the and but if or as until while of at by for with about against between into through after " +
    "below to from up down in out on off over under again further then here there when where how all both each " +
    "few more most other some such no nor not own same so than too can will just don now s t"
  ).split(" "),
);
const VOWEL = "[aeiouy]";
const DOUBLE = /(bb|dd|ff|gg|mm|nn|pp|rr|tt)$/;
const SHORT = /(^[aeiouy][^aeiouy]|[^aeiouy][aeiouy][^aeiouywxY])$/;
const WHOLE = {
  skis: "ski", skies: "sky", dying: "die", lying: "lie", tying: "tie", idly: "idl", gently: "gentl", ugly: "ugli",
  early: "earli", only: "onli", singly: "singl", sky: "sky", news: "news", howe: "howe", atlas: "atlas",
  cosmos: "cosmos", bias: "bias", andes: "andes",
};
const KEPT = /^(inning|outing|canning|herring|earring|proceed|exceed|succeed)$/;
// Suffixes and what replaces them, the longest first; "*" marks those that must stand in R2.
const SECOND = [
  ["ization", "ize"], ["ational", "ate"], ["ousness", "ous"], ["iveness", "ive"], ["fulness", "ful"],
  ["tional", "tion"], ["biliti", "ble"], ["lessli", "less"], ["entli", "ent"], ["ation", "ate"], ["alism", "al"],
  ["aliti", "al"], ["fulli", "ful"], ["ousli", "ous"], ["iviti", "ive"], ["enci", "ence"], ["anci", "ance"],
  ["abli", "able"], ["izer", "ize"], ["ator", "ate"], ["alli", "al"], ["bli", "ble"],
];
const THIRD = [
  ["ational", "ate"], ["tional", "tion"], ["alize", "al"], ["icate", "ic"], ["iciti", "ic"], ["ative", "", "*"],
  ["ical", "ic"], ["ness", ""], ["ful", ""],
];
const FOURTH = /(ement|ance|ence|able|ible|ment|ant|ent|ism|ate|iti|ous|ive|ize|al|er|ic)$/;

export function stem(word) {
  if (word.length <= 2) return word;
  if (Object.hasOwn(WHOLE, word)) return WHOLE[word];
  let w = word.replace(/^y/, "Y").replace(/([aeiouy])y/g, "$1Y");
  const prefix = /^(gener|commun|arsen)/.exec(w);
  const r1 = prefix ? prefix[0].length : after(w, 0);
  const r2 = after(w, r1);
  const short = () => r1 >= w.length && SHORT.test(w);

  if (w.endsWith("sses")) w = w.slice(0, -2);
  else if (/ie[ds]$/.test(w)) w = w.slice(0, w.length > 4 ? -2 : -1);
  else if (/[^us]s$/.test(w) && new RegExp(`${VOWEL}.+s$`).test(w)) w = w.slice(0, -1);
  if (KEPT.test(w)) return w;

  const ending = /(eedly|ingly|edly|eed|ing|ed)$/.exec(w);
  if (ending && ending[0].startsWith("eed")) {
    if (ending.index >= r1) w = `${w.slice(0, ending.index)}ee`;
  } else if (ending && new RegExp(VOWEL).test(w.slice(0, ending.index))) {
    w = w.slice(0, ending.index);
    if (/(at|bl|iz)$/.test(w)) w += "e";
    else if (DOUBLE.test(w)) w = w.slice(0, -1);
    else if (short()) w += "e";
  }
  w = w.replace(/(.[^aeiouy])[yY]$/, "$1i");

  const second = SECOND.find(([suffix]) => w.endsWith(suffix));
  if (second) w = replaced(w, second, r1, r2);
  else if (/ogi$/.test(w)) w = /logi$/.test(w) && w.length - 3 >= r1 ? w.slice(0, -1) : w;
  else if (/[cdeghkmnrt]li$/.test(w) && w.length - 2 >= r1) w = w.slice(0, -2);

  const third = THIRD.find(([suffix]) => w.endsWith(suffix));
  if (third) w = replaced(w, third, r1, r2);

  const fourth = FOURTH.exec(w);
  if (fourth) w = fourth.index >= r2 ? w.slice(0, fourth.index) : w;
  else if (/[st]ion$/.test(w) && w.length - 3 >= r2) w = w.slice(0, -3);

  const last = w.length - 1;
  if (w.endsWith("e") && (last >= r2 || (last >= r1 && !SHORT.test(w.slice(0, -1))))) w = w.slice(0, -1);
  else if (w.endsWith("ll") && last >= r2) w = w.slice(0, -1);
  return w.toLowerCase();
}

// Where the region after the first non-vowel that follows a vowel begins.
function after(w, start) {
  const found = /[aeiouy][^aeiouy]/.exec(w.slice(start));
  return found ? start + found.index + 2 : w.length;
}

function replaced(w, [suffix, by, mark], r1, r2) {
  const place = w.length - suffix.length;
  return place >= (mark ? r2 : r1) ? w.slice(0, place) + by : w;
}

// A word as BM25 compares it; null if it does not look at it.
export function term(word) {
  const lower = word.toLowerCase();
  if (word.length > LONGEST) return null;
  const found = stem(lower);
  return STOP.has(found) ? null : found.normalize("NFD").replace(/\p{M}/gu, "");
}

export function terms(text) {
  return new Set((text.match(WORD) ?? []).map(term).filter(Boolean));
}

// Text as nodes, its words among `wanted` in <mark>.
export function marked(text, wanted) {
  const nodes = [];
  let done = 0;
  for (const found of text.matchAll(WORD)) {
    if (!wanted.has(term(found[0]))) continue;
    const mark = document.createElement("mark");
    mark.textContent = found[0];
    nodes.push(text.slice(done, found.index), mark);
    done = found.index + found[0].length;
  }
  return [...nodes, text.slice(done)];
}
