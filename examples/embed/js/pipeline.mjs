// Runs a pipeline.onnx that `diffrt export SOURCE DEST --form single` wrote. `ort` is onnxruntime-node or -web.
import { ClipTokenizer } from "./clip_bpe.mjs";

const KIND = "text_to_image, ids, scan"; // task, --tokenizer and --loop
const FIX = "write one with: diffrt export SOURCE DEST --form single";

export class Pipeline {
  /** The bytes of pipeline.onnx, and a function that gives the text of a file beside it. */
  static async load(ort, bytes, textOf) {
    let facts, session;
    try {
      facts = metadata(bytes);
    } catch (error) {
      throw new Error(`pipeline.onnx is damaged, or no ONNX file (${error.message}): ${FIX}`);
    }
    if (!facts.generator?.startsWith("diffrt ")) throw new Error(`this ONNX file is no single graph of diffrt: ${FIX}`);
    const kind = [facts.task, facts.tokenizer, facts.loop].join(", ");
    if (kind !== KIND) throw new Error(`the file is of the kind "${kind}", this program is for "${KIND}"`);
    const [vocabulary, merges] = [await textOf("vocab.json"), await textOf("merges.txt")];
    try {
      session = await ort.InferenceSession.create(bytes, { logSeverityLevel: 3 }); // 3: errors, no hints on optimization
    } catch (error) {
      throw new Error(`pipeline.onnx is damaged, or newer than this ONNX Runtime: ${error.message}`);
    }
    return new Pipeline(ort, session, facts, vocabulary, merges);
  }

  constructor(ort, session, facts, vocabulary, merges) {
    const list = (key) => facts[key].split(",").map(Number);
    Object.assign(this, { ort, session });
    this.tokenizer = new ClipTokenizer(vocabulary, merges, Number(facts.tokens), Number(facts.pad_token));
    if (this.tokenizer.start !== Number(facts.start_token)) throw new Error("vocab.json is not this model's");
    this.steps = list("steps"); // what can be asked for
    this.evaluations = list("evaluations"); // how often the model is asked then
    this.defaults = { steps: Number(facts.default_steps), guidance: Number(facts.default_guidance) };
  }

  /** One picture, a step at a time: yields { done, of, pixels, width, height, cut }: previews, then the picture. */
  async *generate({ prompt, negative = "", seed = 0, steps = this.defaults.steps, guidance = this.defaults.guidance }) {
    if (!this.steps.includes(steps))
      throw new Error(`${steps} steps are not in this file: give one of ${this.steps.join(", ")}`);
    if (!Number.isSafeInteger(seed) || seed < 0)
      throw new Error(`the seed ${seed} is no whole number from 0 to ${Number.MAX_SAFE_INTEGER}`);
    const whole = (number, shape = []) => new this.ort.Tensor("int64", BigInt64Array.of(BigInt(number)), shape);
    const float = (numbers, shape) => new this.ort.Tensor("float32", Float32Array.from(numbers), shape);
    const [row, away] = [prompt, negative].map((text) => this.tokenizer.row(text));
    const of = this.evaluations[this.steps.indexOf(steps)];
    const before = this.session.inputMetadata.find(({ name }) => name === "slots_before");
    const count = before ? 1 : of; // a file exported without `--inputs segments` does it all at once
    const shape = before?.shape.map((axis) => (typeof axis === "number" && axis > 0 ? axis : 1));
    let slots = before && float(new Float32Array(shape.reduce((a, b) => a * b)), shape); // the sampler's state
    for (let done = 0; done < of; done += count) {
      const feeds = {
        input_ids: new this.ort.Tensor("int64", row.ids.slice(), [1, row.ids.length]), // a worker takes its inputs away
        negative_ids: new this.ort.Tensor("int64", away.ids.slice(), [1, away.ids.length]),
        seed: whole(seed, [1]),
        guidance_scale: float([guidance], []),
        num_inference_steps: whole(steps),
        ...(before && { start: whole(done), count: whole(count), slots_before: slots }),
      };
      const results = await this.session.run(feeds);
      slots = results.slots;
      const [, height, width] = results.images.dims;
      yield { done: done + count, of, pixels: results.images.data, width, height, cut: row.cut };
    }
  }
}

/** An ONNX file's metadata_props: field 14 of its outermost message, each with a key (1) and a value (2). */
export function metadata(bytes) {
  const text = new TextDecoder();
  const entries = fields(bytes)
    .filter(({ number }) => number === 14)
    .map(({ data }) => {
      const [key, value] = [1, 2].map((number) => fields(data).find((field) => field.number === number)?.data);
      return [text.decode(key), text.decode(value)];
    });
  return Object.fromEntries(entries);
}

/** The fields of a protobuf message that hold bytes. */
function fields(bytes) {
  const found = [];
  let at = 0;
  const varint = () => {
    for (let value = 0, scale = 1; at < bytes.length; scale *= 128) {
      value += (bytes[at] & 127) * scale;
      if (bytes[at++] < 128) return value;
    }
    throw new Error("cut off");
  };
  while (at < bytes.length) {
    const key = varint();
    const [number, kind] = [Math.floor(key / 8), key % 8];
    const size = kind === 2 ? varint() : { 0: 0, 1: 8, 5: 4 }[kind];
    if (kind === 0) varint();
    if (!number || size === undefined || at + size > bytes.length) throw new Error("no protobuf message");
    if (kind === 2) found.push({ number, data: bytes.subarray(at, at + size) });
    at += size;
  }
  return found;
}
