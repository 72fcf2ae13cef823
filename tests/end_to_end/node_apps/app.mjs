// One call of one official library, as an app would make it: what is asked stands in the first
// argument, as JSON, and what the app saw of the answer goes to standard output, as JSON.

import Anthropic from "@anthropic-ai/sdk";
import OpenAI from "openai";

const asked = JSON.parse(process.argv[2]);
const options = { headers: asked.headers };

function openai() {
  return new OpenAI({ apiKey: asked.key, baseURL: `${asked.address}/v1`, maxRetries: 0 });
}

function anthropic() {
  return new Anthropic({ apiKey: asked.key, baseURL: asked.address, maxRetries: 0 });
}

const calls = {
  async "chat plain"() {
    const { data, response } = await openai()
      .chat.completions.create(asked.body, options)
      .withResponse();
    return {
      text: data.choices[0].message.content,
      finished: data.choices[0].finish_reason,
      output: data.usage.completion_tokens,
      cost: response.headers.get("x-bursar-cost"),
    };
  },

  async "chat stream"() {
    const stream = await openai().chat.completions.create({ ...asked.body, stream: true }, options);
    const seen = { text: "", finished: null, output: 0, chunks: 0 };
    for await (const chunk of stream) {
      seen.chunks += 1;
      seen.text += chunk.choices[0]?.delta?.content ?? "";
      seen.finished = chunk.choices[0]?.finish_reason ?? seen.finished;
      seen.output = chunk.usage?.completion_tokens ?? seen.output;
    }
    return seen;
  },

  async "message plain"() {
    const { data, response } = await anthropic()
      .messages.create(asked.body, options)
      .withResponse();
    return {
      text: data.content.map((block) => block.text ?? "").join(""),
      finished: data.stop_reason,
      output: data.usage.output_tokens,
      cost: response.headers.get("x-bursar-cost"),
    };
  },

  async "message stream"() {
    const stream = anthropic().messages.stream(asked.body, options);
    const seen = { events: [] };
    stream.on("streamEvent", (event) => seen.events.push(event.type));
    const message = await stream.finalMessage();
    seen.text = message.content.map((block) => block.text ?? "").join("");
    seen.finished = message.stop_reason;
    seen.output = message.usage.output_tokens;
    return seen;
  },
};

let told;
try {
  told = { answer: await calls[asked.call]() };
} catch (error) {
  told = {
    error: {
      name: error.constructor.name,
      status: error.status ?? null,
      message: error.message,
      body: error.error ?? null,
    },
  };
}
console.log(JSON.stringify(told));
