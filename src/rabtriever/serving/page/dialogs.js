// The dialogs: a new document, the key, the keys.

import { askOnce, call, setKey } from "./api.js";
import { $, button, fault } from "./dom.js";

for (const dialog of document.querySelectorAll("dialog"))
  $(".close", dialog).addEventListener("click", () => dialog.close());

// Asks for the API key: whether one was given.
export function askKey(refused) {
  const dialog = $("#key");
  const form = $("form", dialog);
  const field = $("#key-value");
  field.value = "";
  fault(field, refused ? "The server did not accept this key." : "");
  dialog.showModal();
  return new Promise((resolve) => {
    const submitted = (event) => {
      event.preventDefault();
      const key = field.value.trim();
      if (!/^[\x21-\x7e]+$/.test(key)) return fault(field, key ? "A key has only ASCII characters." : "Give a key.");
      setKey(key);
      dialog.close("given");
    };
    form.addEventListener("submit", submitted);
    dialog.returnValue = "";
    dialog.addEventListener("close", () => {
      form.removeEventListener("submit", submitted);
      field.value = "";
      resolve(dialog.returnValue === "given");
    }, { once: true });
  });
}

// What a person may do about an error that another key would not give: a button, or null.
export function otherKey(error, then) {
  if (error.status !== 403) return null;
  return button("Use another key", async () => {
    if (await askOnce(false)) then();
  });
}

// `added(document, replaced)` is called when one has been written.
export function setUpAdding(added) {
  const dialog = $("#add");
  const form = $("form", dialog);
  const [title, text, id, metadata] = ["name", "text", "id", "metadata"].map((name) => $(`#add-${name}`));
  const replace = $("#add-replace");
  const said = $(".form-fault", dialog);
  const submit = $("button[type=submit]", form);
  let ownId = false;

  title.addEventListener("input", () => {
    if (!ownId) id.value = slug(title.value);
  });
  id.addEventListener("input", () => {
    ownId = id.value !== "";
  });

  async function write() {
    said.replaceChildren();
    for (const field of [text, id, metadata]) fault(field);
    const document = { id: id.value.trim(), title: title.value.trim(), text: text.value.trim() };
    if (!document.text && !document.title) fault(text, "Give a title or a text.");
    if (!document.id) fault(id, "Give an id.");
    try {
      document.metadata = parsed(metadata.value);
    } catch (error) {
      fault(metadata, error.message);
    }
    const wrong = $("[aria-invalid]", form);
    if (wrong) return wrong.focus();
    submit.setAttribute("aria-disabled", "true");
    submit.textContent = "Adding…";
    try {
      const replaced = await send(document, replace.checked);
      form.reset();
      ownId = false;
      dialog.close();
      added(document, replaced);
    } catch (error) {
      refused(error);
    } finally {
      submit.removeAttribute("aria-disabled");
      submit.textContent = "Add";
    }
  }

  function refused(error) {
    const fields = { id, text, title: text, metadata };
    const field = error.status === 409 ? id : fields[/^documents\.0\.?(\w*)/.exec(error.param)?.[1] || "none"];
    if (field) {
      const message = error.message.replace(/^documents\.0[\w.]*: /i, "");
      fault(field, error.status === 409 ? "There is a document of this id. Choose another, or replace it." : message);
      field.focus();
    } else said.replaceChildren(...[error.message, otherKey(error, write)].filter(Boolean));
  }

  form.addEventListener("submit", (event) => {
    event.preventDefault();
    if (!submit.hasAttribute("aria-disabled")) write();
  });
  return () => dialog.showModal();
}

async function send(document, replace) {
  try {
    await call("v1/documents", { body: { documents: [document], upsert: false } });
    return false;
  } catch (error) {
    if (error.status !== 409 || !replace) throw error;
    await call("v1/documents", { body: { documents: [document], upsert: true } });
    return true;
  }
}

function parsed(text) {
  if (!text.trim()) return {};
  let value;
  try {
    value = JSON.parse(text);
  } catch {
    throw new Error('This is no JSON. Write an object, such as {"year": 2020}.');
  }
  if (value === null || typeof value !== "object" || Array.isArray(value))
    throw new Error('Write an object, such as {"year": 2020}.');
  return value;
}

function slug(text) {
  return text.toLowerCase().normalize("NFD").replace(/\p{M}/gu, "").replace(/[^\p{L}\p{N}]+/gu, "-").slice(0, 80)
    .replace(/^-|-$/g, "");
}
