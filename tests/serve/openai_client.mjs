// Scenarios of OpenAI's Node client; prints one JSON object of what it saw. Arguments: URL of the
// server, URL of one that wants the key "sesame", URL of one whose answers do not end.
import OpenAI, { APIUserAbortError, AuthenticationError, BadRequestError, NotFoundError } from "openai";

const [open, locked, endless] = process.argv.slice(2);
const client = new OpenAI({ baseURL: `${open}/v1`, apiKey: "none", maxRetries: 0 });
const messages = [{ role: "user", content: "hi" }];
const ask = { model: "tiny", messages };

async function errorOf(promise, kind) {
  try {
    await promise;
  } catch (error) {
    return { isKind: error instanceof kind, status: error.status, param: error.param, code: error.code };
  }
  return null;
}

async function streamed() {
  const seen = { text: "", reasons: [], usage: null };
  const options = { stream: true, stream_options: { include_usage: true } };
  for await (const chunk of await client.chat.completions.create({ ...ask, ...options })) {
    seen.text += chunk.choices[0]?.delta.content ?? "";
    seen.reasons.push(chunk.choices[0]?.finish_reason ?? null);
    seen.usage = chunk.usage ?? seen.usage;
  }
  return seen;
}

async function aborted() {
  const controller = new AbortController();
  const options = { signal: controller.signal };
  let count = 0;
  try {
    const talker = new OpenAI({ baseURL: `${endless}/v1`, apiKey: "none", maxRetries: 0 });
    for await (const _ of await talker.chat.completions.create({ ...ask, stream: true, n: 8 }, options)) {
      if (++count === 10) controller.abort();
    }
  } catch (error) {
    return { count, isAbort: error instanceof APIUserAbortError };
  }
  return { count, isAbort: true }; // newer clients end the loop
}

const whole = await client.chat.completions.create(ask);
const text = await client.completions.create({ model: "tiny", prompt: ["a", "b"], n: 2 });
const helper = await client.chat.completions.stream(ask).finalContent();
const models = [];
for await (const model of client.models.list()) models.push(model.id);
const key = (apiKey) => new OpenAI({ baseURL: `${locked}/v1`, apiKey, maxRetries: 0 });
console.log(
  JSON.stringify({
    whole: whole.choices[0],
    usage: whole.usage,
    requestId: whole._request_id,
    texts: text.choices.map((choice) => [choice.index, choice.text]),
    streamed: await streamed(),
    helper,
    aborted: await aborted(),
    models,
    one: (await client.models.retrieve("tiny")).meta.isa,
    wrongField: await errorOf(client.chat.completions.create({ ...ask, n: 99 }), BadRequestError),
    wrongModel: await errorOf(client.models.retrieve("huge"), NotFoundError),
    wrongKey: await errorOf(key("guess").models.list(), AuthenticationError),
    rightKey: (await key("sesame").models.list()).data.length,
  }),
);
