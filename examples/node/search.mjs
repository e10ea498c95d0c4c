// Ranks documents for a query in Node: node search.mjs QUERY_ONNX DOCUMENTS.jsonl "a query"
// QUERY_ONNX is a folder of `rabtriever export --to onnx`; a line of DOCUMENTS is {"id", "text", "latent"}.
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { Tokenizer } from "@huggingface/tokenizers";
import { InferenceSession, Tensor } from "onnxruntime-node";

const readJson = (path) => JSON.parse(readFileSync(path, "utf8"));

async function load(folder) {
  const settings = readJson(join(folder, "config.json"));
  const tokenizer = new Tokenizer(readJson(join(folder, "tokenizer.json")), {});
  const session = await InferenceSession.create(join(folder, "model.onnx"));
  return { settings, tokenizer, session };
}

// A query that is too long keeps its end: dialogues end with what matters.
function tokenIds({ settings, tokenizer }, query) {
  const { ids } = tokenizer.encode(settings.prompt + query);
  const surplus = ids.length - settings.max_tokens;
  if (surplus <= 0) return ids;
  return [...ids.slice(0, settings.first_tokens), ...ids.slice(settings.first_tokens + surplus)];
}

async function encodeQuery(model, query) {
  const ids = tokenIds(model, query);
  const tensor = (values) => new Tensor("int64", BigInt64Array.from(values, BigInt), [1, ids.length]);
  const inputs = { input_ids: tensor(ids), attention_mask: tensor(ids.map(() => 1)) };
  return (await model.session.run(inputs)).latent.data;
}

// Columns of a latent: products, ReLUs that are added, ReLUs that are subtracted, gain, bias.
function logOdds(a, b, { n_inner, n_positive, n_negative }) {
  const gain = n_inner + n_positive + n_negative;
  let inner = 0;
  let gained = a[gain];
  for (let j = 0; j < n_inner; j++) inner += a[j] * b[j];
  for (let j = n_inner; j < gain; j++) {
    const unit = Math.max(0, a[j] + b[j]);
    gained += j < n_inner + n_positive ? unit : -unit;
  }
  return inner + b[gain] * gained + a[gain + 1] + b[gain + 1];
}

const [folder, documents, query] = process.argv.slice(2);
const model = await load(folder);
const latent = await encodeQuery(model, query);
const hits = readFileSync(documents, "utf8")
  .trim()
  .split("\n")
  .map((line) => JSON.parse(line))
  .map(({ id, text, latent: b }) => ({ id, text, log_odds: logOdds(latent, b, model.settings.layout) }))
  .sort((a, b) => b.log_odds - a.log_odds);
for (const hit of hits.slice(0, 10)) console.log(JSON.stringify(hit));
