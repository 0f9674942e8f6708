// One picture from words, in Node.js: runs a pipeline.onnx that `diffrt export SOURCE DEST --form single` wrote.
//
//     npm install
//     node generate.mjs DEST/pipeline.onnx "a red apple" -o apple.png
//     node generate.mjs DEST/pipeline.onnx "a red apple" --seed 7 --steps 8 --guidance 2.5 --negative "a leaf"
import { readFileSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { parseArgs } from "node:util";
import { Pipeline } from "../js/pipeline.mjs";
import { png } from "./png.mjs";

const OPTIONS = {
  output: { type: "string", short: "o", default: "picture.png" },
  seed: { type: "string", default: "0" },
  steps: { type: "string" },
  guidance: { type: "string" },
  negative: { type: "string", default: "" },
};

function number(name, text) {
  if (text.trim() === "" || !Number.isFinite(Number(text))) throw new Error(`--${name} is ${text}: give a number`);
  return Number(text);
}

async function main() {
  const { values, positionals } = parseArgs({ options: OPTIONS, allowPositionals: true });
  const [file, prompt] = positionals;
  if (positionals.length !== 2)
    throw new Error('usage: node generate.mjs PIPELINE.onnx "a prompt" [-o FILE.png] [--seed N] ...');
  const ort = await import("onnxruntime-node").catch((error) => {
    throw new Error(`onnxruntime-node cannot be loaded: run npm install here first (${error.message.split("\n")[0]})`);
  });
  const beside = async (name) => readFileSync(join(dirname(file), name), "utf8");
  const pipeline = await Pipeline.load(ort, readFileSync(file), beside);
  const settings = { prompt, negative: values.negative, seed: number("seed", values.seed) };
  if (values.steps) settings.steps = number("steps", values.steps);
  if (values.guidance) settings.guidance = number("guidance", values.guidance);
  for await (const { done, of, pixels, width, height, cut } of pipeline.generate(settings)) {
    if (done === 1 && cut) console.error(`note: the prompt's last ${cut} tokens do not fit and are left out`);
    if (process.stderr.isTTY) process.stderr.write(`\r${done}/${of}${done === of ? "\n" : ""}`);
    if (done === of) writeFileSync(values.output, png(pixels, width, height));
  }
}

main().catch((error) => {
  console.error(`generate: ${error.message}`);
  process.exitCode = 2;
});
