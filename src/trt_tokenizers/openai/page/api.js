// Requests to the server that the page came from.

let key = ""; // in memory only

export function setKey(value) {
  key = value;
}

/** What the server answered instead of 200, or that it did not answer (status 0). */
export class ApiError extends Error {
  constructor(status, message, param = null) {
    super(message);
    this.status = status;
    this.param = param;
  }
}

async function ask(path, body, signal) {
  const headers = key ? { authorization: `Bearer ${key}` } : {};
  const options = { headers, signal };
  if (body !== undefined) {
    options.method = "POST";
    options.body = JSON.stringify(body);
    headers["content-type"] = "application/json";
  }
  let response;
  try {
    response = await fetch(path, options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError(0, "The server does not answer.");
  }
  if (!response.ok) throw await refusal(response);
  return response;
}

async function refusal(response) {
  let text = "";
  try {
    text = await response.text();
    return fromBody(JSON.parse(text), response.status);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    return new ApiError(response.status, text || response.statusText);
  }
}

function fromBody({ error }, status) {
  return new ApiError(status, error.message, error.param);
}

/** The JSON that *path* answers: to a POST of *body*, or to a GET without one. */
export async function getJson(path, body) {
  return (await ask(path, body)).json();
}

/** The events of a streamed answer. */
export async function* events(path, body, signal) {
  const response = await ask(path, body, signal);
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    let part;
    try {
      part = await reader.read();
    } catch (error) {
      if (error.name === "AbortError") throw error;
      throw new ApiError(0, "The connection ended before the answer did.");
    }
    if (part.done) throw new ApiError(0, "The connection ended before the answer did.");
    const blocks = (rest + part.value).split("\n\n");
    rest = blocks.pop();
    for (const block of blocks) {
      if (!block.startsWith("data: ")) continue; // a comment that keeps the connection
      const data = block.slice("data: ".length);
      if (data === "[DONE]") return;
      const event = JSON.parse(data);
      if (event.error) throw fromBody(event, 200);
      yield event;
    }
  }
}
