// Requests to the server with the key of this tab, and the event stream.

const KEY = "bnp-online key";

export const key = {
  get: () => sessionStorage.getItem(KEY),
  set: (value) => sessionStorage.setItem(KEY, value),
};

/** A request that the server refused. */
export class Refusal extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }

  get wantsKey() {
    return this.status === 401 || this.status === 403;
  }
}

async function request(path, options = {}) {
  const headers = { ...options.headers };
  if (key.get()) headers.Authorization = `Bearer ${key.get()}`;
  const answer = await fetch(path, { cache: "no-store", ...options, headers });
  if (answer.ok) return answer;
  const body = await answer.json().catch(() => null);
  throw new Refusal(answer.status, body?.error?.message ?? `status ${answer.status}`);
}

export async function get(path) {
  const timeout = AbortSignal.timeout(10_000);
  return (await request(path, { signal: timeout })).json();
}

export async function post(path, body) {
  const options = { method: "POST" };
  if (body !== undefined) {
    options.body = typeof body === "string" ? body : JSON.stringify(body);
    options.headers = { "Content-Type": "application/json" };
  }
  return (await request(path, options)).json();
}

export const remove = (path) => request(path, { method: "DELETE" });

export const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

/**
 * Listen until `signal` is aborted; a stream that ends is resumed at its last event.
 * `EventSource` cannot send a key, so the stream is read here.
 * @param on {event(kind, data), state("live" | "lost"), refused(Refusal)}
 */
export async function listen(path, on, signal) {
  let last = null;
  for (let wait = 500; !signal.aborted; wait = Math.min(2 * wait, 5000)) {
    try {
      const headers = { Accept: "text/event-stream", ...(last && { "Last-Event-ID": last }) };
      const answer = await request(path, { headers, signal });
      on.state("live");
      wait = 500;
      for await (const event of read(answer.body)) {
        last = event.id ?? last;
        on.event(event.kind, event.data);
      }
    } catch (error) {
      if (signal.aborted) return;
      if (error instanceof Refusal && error.status < 500) {
        on.refused(error);
        return;
      }
    }
    on.state("lost");
    await pause(wait);
  }
}

async function* read(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    text += value;
    const blocks = text.split("\n\n");
    text = blocks.pop();
    for (const block of blocks) {
      const fields = Object.fromEntries(block.split("\n").map((line) => line.split(/: (.*)/s, 2)));
      if (fields.data !== undefined) yield { id: fields.id, kind: fields.event, data: JSON.parse(fields.data) };
    }
  }
}
