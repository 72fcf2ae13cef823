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

  async "response plain"() {
    const { data, response } = await openai()
      .responses.create(asked.body, options)
      .withResponse();
    return {
      text: data.output_text,
      finished: data.status,
      output: data.usage.output_tokens,
      cost: response.headers.get("x-bursar-cost"),
    };
  },

  async "response stream"() {
    const stream = openai().responses.stream(asked.body, options);
    const seen = { events: [] };
    stream.on("event", (event) => seen.events.push(event.type));
    const final = await stream.finalResponse();
    return {
      ...seen,
      text: final.output_text,
      finished: final.status,
      output: final.usage.output_tokens,
    };
  },

  async "everything else"() {
    const client = openai();
    const completion = await client.completions.create(
      { model: "gpt-3.5-turbo-instruct", prompt: ["a", "b"], max_tokens: 5 },
      options,
    );
    const moderation = await client.moderations.create({ input: "x" });
    const picture = await client.images.generate({
      model: "gpt-image-1",
      prompt: "x",
      quality: "low",
      size: "1024x1024",
    });
    const speech = await client.audio.speech.create({ model: "tts-1", voice: "alloy", input: "hi" });
    const heard = await client.audio.transcriptions.create({
      model: "gpt-4o-mini-transcribe",
      file: new File([new Uint8Array(64_000)], "a.wav"),
    });
    const file = await client.files.create({
      file: new File(["{}"], "calls.jsonl"),
      purpose: "batch",
    });
    return {
      completions: completion.choices.length,
      flagged: moderation.results[0].flagged,
      pictures: picture.data.length,
      sound: (await speech.arrayBuffer()).byteLength,
      heard: heard.text,
      file: (await client.files.retrieve(file.id)).id === file.id,
      models: (await client.models.list()).data.length,
    };
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
