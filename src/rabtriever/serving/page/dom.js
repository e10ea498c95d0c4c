// Elements, made without ever parsing text as HTML.

export const $ = (selector, within = document) => within.querySelector(selector);

// h("p", {class: "x", onclick: f}, "text", element, ...)
export function h(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value !== null && value !== false) element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.filter((child) => child !== null));
  return element;
}

export function button(text, onclick, attributes = {}) {
  return h("button", { type: "button", onclick, ...attributes }, text);
}

// A field's fault is shown beside it, or taken away if there is none.
export function fault(field, message = "") {
  $(`#${field.id}-fault`).textContent = message;
  if (message) field.setAttribute("aria-invalid", "true");
  else field.removeAttribute("aria-invalid");
}

export function percent(p) {
  const value = 100 * p;
  if (value === 0) return "0%";
  if (value < 0.1) return "<0.1%";
  if (value > 99.9) return ">99.9%";
  return `${value < 9.95 || value > 99.4 ? value.toFixed(1) : Math.round(value)}%`;
}

export function milliseconds(value) {
  return value < 9.95 ? value.toFixed(1) : String(Math.round(value));
}

export function plural(n, one, many = `${one}s`) {
  return `${n.toLocaleString("en")} ${n === 1 ? one : many}`;
}
