// Helpers: elements, formatted numbers.

export const $ = (id) => document.getElementById(id);

/** Create an element; props that are properties are set as such, others as attributes. */
export function make(tag, props = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(props)) {
    if (name in element) element[name] = value;
    else element.setAttribute(name, value);
  }
  element.append(...children);
  return element;
}

/** Return a "?" that opens a sentence about a chart. */
export function help(title, text) {
  const summary = make("summary", { ariaLabel: `What does “${title}” mean?`, textContent: "?" });
  return make("details", { className: "help" }, summary, make("p", { textContent: text }));
}

const SVG = "http://www.w3.org/2000/svg";

export function makeSvg(tag, attributes = {}, ...children) {
  const element = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

/** Set a text only if it differs, to spare screen readers and the layout. */
export function say(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

/** Show a formatted number, with its exact value in a data element. */
export function show(element, value, text) {
  let data = element.firstElementChild;
  if (data === null || data.tagName !== "DATA") {
    data = make("data");
    element.replaceChildren(data);
  }
  const raw = value === null || value === undefined ? "" : String(value);
  if (data.value !== raw) data.value = raw;
  say(data, text);
}

const WHOLE = new Intl.NumberFormat("en");
const SHORT = new Intl.NumberFormat("en", { maximumSignificantDigits: 3 });
const LARGE = new Intl.NumberFormat("en", { notation: "compact", maximumSignificantDigits: 3 });
const DIGITS = { "-": "⁻", 0: "⁰", 1: "¹", 2: "²", 3: "³", 4: "⁴", 5: "⁵", 6: "⁶", 7: "⁷", 8: "⁸", 9: "⁹" };

export const whole = (value) => WHOLE.format(value);
/** Return a number with a noun: "1 event", "2 events". */
export const counted = (count, noun) => `${whole(count)} ${noun}${count === 1 ? "" : "s"}`;
export const percent = (value) => (value === null ? "–" : `${(100 * value).toFixed(1)}%`);

/** Format a number with three digits, very large and small ones with a power of ten. */
export function short(value) {
  if (value === null || value === undefined) return "–";
  const size = Math.abs(value);
  if (size !== 0 && (size >= 1e6 || size < 1e-3)) {
    const [digits, power] = value.toExponential(1).split("e");
    return `${digits.replace(/\.0$/, "")} × 10${[...String(Number(power))].map((c) => DIGITS[c]).join("")}`;
  }
  return SHORT.format(value);
}

export const compact = (value) => LARGE.format(value);

export function seconds(value) {
  if (value === null) return "–";
  return value < 1 ? `${short(1000 * value)} ms` : `${short(value)} s`;
}

const two = (value) => String(value).padStart(2, "0");

/** Format the day of a date in the time zone of the browser: "2026-11-29". */
export const day = (date) => `${date.getFullYear()}-${two(date.getMonth() + 1)}-${two(date.getDate())}`;

/** Format the time of day: "17:55", for steps below a minute with seconds, below a second with milliseconds. */
export function hours(date, step = 60) {
  const minutes = `${two(date.getHours())}:${two(date.getMinutes())}`;
  if (step >= 60) return minutes;
  const found = `${minutes}:${two(date.getSeconds())}`;
  return step >= 1 ? found : `${found}.${String(date.getMilliseconds()).padStart(3, "0")}`;
}

/** Format a time: "2026-11-29 17:55". */
export function clock(time) {
  const date = new Date(time);
  return `${day(date)} ${hours(date)}`;
}
